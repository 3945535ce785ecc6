//! The body of an answer on its way out: paced to a bandwidth, broken off or stopped where shaping
//! says so, and counted.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::World;
use super::hooks::Due;
use super::log::Flight;
use super::shaping::{Fate, Outcome};

/// How far a connection may be behind its schedule and catch up: timers fire up to 1 ms late, and
/// without catching up that would be lost each time.
const CATCH_UP: Duration = Duration::from_millis(20);
/// A paced body goes out in portions of so much time.
const PORTIONS_PER_SECOND: u64 = 200;
const PORTION_MIN: u64 = 4 << 10;

/// A shaped line carries the answers of all connections in turn, in packets of so much: at 10 Mbit/s one
/// lasts 3 ms, so that a short answer is soon through beside many long ones.
const PACKET: u64 = 4 << 10;
/// What the head of an answer takes on the line.
const HEAD: u64 = 500;

/// When the next byte may go out: one per connection, for all its bodies, and one for the line.
pub(crate) struct Pace(Mutex<Instant>);

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Pace {
    /// A new body: what the connection did not use while idle is lost.
    fn begin(&self) {
        let mut free_at = self.0.lock();
        *free_at = (*free_at).max(Instant::now());
    }

    /// Takes the time that so many bytes need and returns when the next may follow.
    fn spend(&self, bytes: u64, bandwidth: u64) -> Instant {
        let mut free_at = self.0.lock();
        let oldest = Instant::now() - CATCH_UP;
        let nanos = bytes.saturating_mul(1_000_000_000) / bandwidth.max(1);
        *free_at = (*free_at).max(oldest) + Duration::from_nanos(nanos);
        *free_at
    }

    /// Of a line: waits until it has carried the head of an answer, behind all that it was given earlier.
    pub(crate) async fn carry_head(&self, bandwidth: u64) {
        self.begin();
        let arrives = self.spend(HEAD, bandwidth);
        tokio::time::sleep_until(arrives).await;
    }
}

/// The error that makes hyper close the connection in the middle of a body.
#[derive(Debug)]
pub(crate) struct CutShort;

impl fmt::Display for CutShort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the simulator was told to cut this body")
    }
}

impl std::error::Error for CutShort {}

pub(crate) struct ShapedBody {
    inner: s3s::Body,
    /// Taken from `inner`, not sent yet.
    held: Bytes,
    sent: u64,
    ending: Ending,
    pacing: Option<(Arc<Pace>, u64)>,
    line: Option<u64>,
    /// What is on the line now, and arrives when `sleep` is over.
    carried: Bytes,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Sorted by place, the next one last.
    due: Vec<Due>,
    world: Arc<World>,
    flight: Flight,
    /// Whether the head of the answer says how long it is.
    with_length: bool,
}

#[derive(Clone, Copy)]
enum Ending {
    Whole,
    /// At this byte.
    Cut(u64),
    /// At this byte; for so long, or for ever.
    Stall(u64, Option<Duration>),
    /// Everything before the cut is on its way.
    Close,
}

impl ShapedBody {
    pub(crate) fn new(
        inner: s3s::Body,
        fate: Fate,
        pace: &Arc<Pace>,
        mut due: Vec<Due>,
        world: Arc<World>,
        flight: Flight,
    ) -> Self {
        due.sort_by_key(|due| std::cmp::Reverse(due.after_bytes));
        let length = inner.size_hint().exact().unwrap_or_default();
        let ending = match fate.outcome {
            Outcome::Cut(fraction) => Ending::Cut(inside(length, fraction)),
            Outcome::CutAfter(place) if place < length => Ending::Cut(place),
            Outcome::Stall(fraction) => Ending::Stall(inside(length, fraction), fate.stall_for),
            _ => Ending::Whole,
        };
        let pacing = fate.bandwidth.map(|bandwidth| (Arc::clone(pace), bandwidth));
        if let Some((pace, _)) = &pacing {
            pace.begin();
        }
        Self {
            inner,
            held: Bytes::new(),
            sent: 0,
            ending,
            pacing,
            line: fate.line,
            carried: Bytes::new(),
            sleep: None,
            due,
            world,
            flight,
            with_length: true,
        }
    }

    /// The same, and hyper does not know how long it is.
    pub(crate) fn without_length(mut self) -> Self {
        self.with_length = false;
        self
    }

    /// How many bytes may go out before something else must happen.
    fn portion(&self) -> u64 {
        let mut portion = self.held.len() as u64;
        if let Some((_, bandwidth)) = self.pacing {
            portion = portion.min((bandwidth / PORTIONS_PER_SECOND).max(PORTION_MIN));
        }
        if self.line.is_some() {
            portion = portion.min(PACKET);
        }
        if let Ending::Cut(place) | Ending::Stall(place, _) = self.ending {
            portion = portion.min(place - self.sent);
        }
        if let Some(due) = self.due.last() {
            portion = portion.min(due.after_bytes - self.sent);
        }
        portion
    }

    /// Sends what has gone its way, if that is anything.
    fn arrive(&mut self) -> Option<Bytes> {
        let arrived = std::mem::take(&mut self.carried);
        if arrived.is_empty() {
            return None;
        }
        let portion = arrived.len() as u64;
        self.sent += portion;
        self.flight.sent(portion);
        if let Some((pace, bandwidth)) = &self.pacing {
            let free_at = pace.spend(portion, *bandwidth);
            self.sleep = Some(Box::pin(tokio::time::sleep_until(free_at)));
        }
        Some(arrived)
    }

    fn run_due(&mut self) {
        while let Some(due) = self.due.pop_if(|due| due.after_bytes <= self.sent) {
            (due.action)(&self.world);
        }
    }
}

impl Body for ShapedBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let this = &mut *self;
        if let Some(sleep) = &mut this.sleep {
            ready!(sleep.as_mut().poll(ctx));
            this.sleep = None;
        }
        if let Some(arrived) = this.arrive() {
            return Poll::Ready(Some(Ok(Frame::data(arrived))));
        }
        this.run_due();
        match this.ending {
            // Once more through the loop of hyper, which flushes while a body is pending.
            Ending::Cut(place) if this.sent == place => {
                this.ending = Ending::Close;
                ctx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Ending::Close => return Poll::Ready(Some(Err(CutShort))),
            // Nobody wakes this body; it goes when the client closes the connection.
            Ending::Stall(place, None) if this.sent == place => return Poll::Pending,
            Ending::Stall(place, Some(time)) if this.sent == place => {
                this.ending = Ending::Whole;
                let mut sleep = Box::pin(tokio::time::sleep(time));
                if sleep.as_mut().poll(ctx).is_pending() {
                    this.sleep = Some(sleep);
                    return Poll::Pending;
                }
            }
            _ => (),
        }
        while this.held.is_empty() {
            match ready!(Pin::new(&mut this.inner).poll_frame(ctx)) {
                Some(Ok(frame)) => this.held = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Poll::Ready(Some(Err(CutShort))),
                None => return Poll::Ready(None),
            }
        }
        let portion = this.portion();
        this.carried = this.held.split_to(usize::try_from(portion).expect("64-bit machine"));
        if let Some(bandwidth) = this.line {
            let arrives = this.world.line.spend(portion, bandwidth);
            this.sleep = Some(Box::pin(tokio::time::sleep_until(arrives)));
            ready!(this.sleep.as_mut().expect("just set").as_mut().poll(ctx));
            this.sleep = None;
        }
        let arrived = this.arrive().expect("a portion is not empty");
        Poll::Ready(Some(Ok(Frame::data(arrived))))
    }

    fn is_end_stream(&self) -> bool {
        self.with_length
            && self.held.is_empty()
            && self.carried.is_empty()
            && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.with_length { self.inner.size_hint() } else { SizeHint::default() }
    }
}

/// A place after the first and before the last byte, if there is one.
fn inside(length: u64, fraction: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "where exactly a body breaks off does not matter"
    )]
    let place = (length as f64 * fraction) as u64;
    place.clamp(1.min(length), length.saturating_sub(1).max(1.min(length)))
}
