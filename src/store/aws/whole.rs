//! Ranges from a server that ignores Range and always sends the whole body. A [`Line`] is one such
//! body, which is read forward once and serves the ranges that wait for it in the order of their
//! bytes: a stream of parts, asked for at once, costs one body and not one from the start for each.
//!
//! A range waits inside its own body, so that the head of its answer is there at once and the
//! deadlines above go on as they are: one that sees no byte for too long is dropped and asked for
//! again, and finds the line where it has come to meanwhile. Every range that waits holds a place
//! among the requests in flight, and so does the one that is read; nobody waits for a place while it
//! has the turn, so that the turn always goes on. A body that nobody reads is kept for
//! [`PARKED_FOR`], beside that limit, and at most [`PARKED_MAX`] of them.
//!
//! Lock order: the lines < the state of one line. None is held across an await.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::{Buf, Bytes};
use futures_util::{FutureExt, Stream};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

use super::answer::condition_kept;
use super::transport::transport;
use crate::error::{StoreError, StoreErrorKind};
use crate::store::{Condition, GetAnswer, GetRequest, Head};

/// How long a body is kept for the range that follows. A reader that thinks longer pays anew; the
/// server and its connection are not held up for one that is gone.
const PARKED_FOR: Duration = Duration::from_secs(5);

/// Bodies that are kept and that nobody reads, in one mount: so many files can be streamed side by
/// side, as each body is parked between two ranges. Their connections' buffers lie beside the budget.
const PARKED_MAX: usize = 8;

/// Ranges no further apart are of one stream: the largest part, which another may have overtaken.
const STREAM_GAP_MAX: u64 = 8 << 20;

/// A body that has served one range after another is not taken from its stream, to be read far ahead
/// for somebody else, before nobody has asked for it for so long.
const STREAM_IDLE: Duration = Duration::from_secs(1);

/// A range that begins so far after all that a busy line has to serve opens a body of its own: it
/// would wait for as long as the stream before it lasts. Eight of the largest parts, in any order,
/// still follow each other.
const AHEAD_BYTES_MAX: u64 = 64 << 20;

/// Nobody waits for a place that lies farther behind all open bodies: a line of 2.5 Gbit/s brings so much in
/// the 50 s that a read is resumed for, and what is beyond would be transferred for nothing.
const SKIPPED_BYTES_MAX: u64 = 16 << 30;

/// Parts that are asked for at once come in any order: before bytes are skipped, those that they
/// are for have this long to come.
const PATIENCE: Duration = Duration::from_millis(20);

/// A body that brought nothing for so long when its reader gave up is not given to the next.
const STALLED_AFTER: Duration = Duration::from_secs(5);

/// Keys whose next body is being asked for; beyond, those that nobody waits for are forgotten.
const OPENINGS_KEPT: usize = 64;

/// The lines of one mount.
#[derive(Default)]
pub(super) struct Wholes {
    lines: Mutex<Vec<Arc<Line>>>,
    openings: Mutex<HashMap<Arc<str>, Weak<tokio::sync::Mutex<()>>>>,
}

impl Wholes {
    /// An answer from a body that is open already. `None` where there is none to wait for.
    pub(super) fn join(&self, request: &GetRequest) -> Option<GetAnswer> {
        let asked = request.range.as_ref()?;
        let may_join = match request.condition {
            Condition::Match(_) | Condition::VersionId(_) => true,
            // A pin without an ETag; where the first bytes are asked for, the current version is
            // meant, which only the server knows.
            Condition::Any => asked.start > 0,
            Condition::NoneMatch(_) => false,
        };
        if !may_join {
            return None;
        }
        let mut lines = self.lines.lock();
        lines.retain(|line| !line.is_lost());
        let fits = |line: &&Arc<Line>| {
            line.key == request.key && condition_kept(&request.condition, &line.head).is_ok()
        };
        let gap = |line: &Arc<Line>| Some((line.gap(asked.start)?, Arc::clone(line)));
        let mut fitting: Vec<_> = lines.iter().filter(fits).filter_map(gap).collect();
        drop(lines);
        fitting.sort_by_key(|(gap, _)| *gap);
        fitting.into_iter().find_map(|(_, line)| line.serve(asked))
    }

    /// Whether a range lies too far behind the beginning of a body.
    pub(super) fn is_out_of_reach(request: &GetRequest) -> bool {
        request.range.as_ref().is_some_and(|range| range.start > SKIPPED_BYTES_MAX)
    }

    /// A whole body has come. Gives the answer to `request`, and keeps the body for others.
    pub(super) fn begin(
        self: &Arc<Self>,
        request: &GetRequest,
        head: Head,
        body: ByteStream,
    ) -> Option<GetAnswer> {
        let asked = request.range.as_ref()?;
        let line = Arc::new(Line {
            key: Arc::clone(&request.key),
            head,
            owner: Arc::downgrade(self),
            state: Mutex::new(State {
                place: Place::Parked { open: Open::new(body), since: Instant::now() },
                position: 0,
                waiting: BTreeMap::new(),
                n_waited: 0,
                is_stream: false,
                is_watched: false,
            }),
        });
        let answer = line.serve(asked)?;
        self.lines.lock().push(line);
        Some(answer)
    }

    /// Of those that find no line of a key, one asks for a body and the others for what it got.
    pub(super) fn opening(&self, key: &Arc<str>) -> Arc<tokio::sync::Mutex<()>> {
        let mut openings = self.openings.lock();
        if let Some(opening) = openings.get(key).and_then(Weak::upgrade) {
            return opening;
        }
        if openings.len() >= OPENINGS_KEPT {
            openings.retain(|_, opening| opening.strong_count() > 0);
        }
        let opening = Arc::new(tokio::sync::Mutex::new(()));
        openings.insert(Arc::clone(key), Arc::downgrade(&opening));
        opening
    }

    /// Lets go of parked bodies above the bound, first of those that are cheapest to have again:
    /// that costs what lies before their place.
    fn trim(&self) {
        let mut lines = self.lines.lock();
        lines.retain(|line| !line.is_lost());
        let parked = |line: &Arc<Line>| {
            let (since, position) = line.parked()?;
            Some((position, since, Arc::clone(line)))
        };
        let mut parked: Vec<_> = lines.iter().filter_map(parked).collect();
        drop(lines);
        parked.sort_by_key(|(position, since, _)| (*position, *since));
        let n_over = parked.len().saturating_sub(PARKED_MAX);
        for (_, since, line) in &parked[..n_over] {
            line.let_go(*since);
        }
    }
}

/// One body of one version of one object.
struct Line {
    key: Arc<str>,
    head: Head,
    owner: Weak<Wholes>,
    state: Mutex<State>,
}

struct State {
    place: Place,
    /// The first byte that can still be asked for: where the body stands, or the end of the range
    /// that is being read from it.
    position: u64,
    /// By first byte, and by number where two ask for the same. Invariant: empty while the body is
    /// parked or lost.
    waiting: BTreeMap<(u64, u64), Waiting>,
    n_waited: u64,
    /// The last range was of a stream, as far as one can see.
    is_stream: bool,
    /// A task lets the body go when it has been parked for too long.
    is_watched: bool,
}

enum Place {
    Parked {
        open: Open,
        since: Instant,
    },
    /// Somebody has the turn.
    Out,
    /// Broken, at its end, or let go: nobody can be served any more.
    Lost,
}

struct Waiting {
    end: u64,
    turn: oneshot::Sender<Turn>,
}

/// The body itself.
struct Open {
    body: ByteStream,
    /// Read from it, and not of the range that was served.
    left_over: Bytes,
    /// Of the first byte that comes next.
    position: u64,
}

impl Open {
    fn new(body: ByteStream) -> Self {
        Self { body, left_over: Bytes::new(), position: 0 }
    }

    /// The next bytes, at `position`.
    fn poll_chunk(&mut self, ctx: &mut Context<'_>) -> Poll<Result<Bytes, String>> {
        if !self.left_over.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut self.left_over)));
        }
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_next(ctx)) {
            Some(Ok(chunk)) => Ok(chunk),
            Some(Err(err)) => Err(format!("the body broke ({})", transport(&err))),
            None => Err("the body ended".to_owned()),
        })
    }
}

impl Line {
    /// How many bytes lie between the line's end and `start`; `None` where it should not or can not
    /// serve a range that begins there.
    fn gap(&self, start: u64) -> Option<u64> {
        let state = self.state.lock();
        if start < state.position {
            return None;
        }
        match state.place {
            Place::Parked { .. } if start - state.position > SKIPPED_BYTES_MAX => None,
            Place::Parked { since, .. } => {
                let gap = start - state.position;
                let is_free = !state.is_stream || since.elapsed() >= STREAM_IDLE;
                (is_free || gap <= AHEAD_BYTES_MAX).then_some(gap)
            }
            Place::Out => {
                let last = state.waiting.values().map(|waiting| waiting.end).max();
                let gap = start.saturating_sub(last.unwrap_or(0).max(state.position));
                (gap <= AHEAD_BYTES_MAX).then_some(gap)
            }
            Place::Lost => None,
        }
    }

    /// The bytes of `asked`, once it is their turn; `None` where the body is beyond them.
    fn serve(self: &Arc<Self>, asked: &Range<u64>) -> Option<GetAnswer> {
        let range = asked.start..asked.end.min(self.head.version.size);
        if range.is_empty() {
            return None;
        }
        let stage = self.enter(&range)?;
        let body = LineBody {
            line: Arc::clone(self),
            at: range.start,
            end: range.end,
            stage,
            patience: None,
            silent_since: None,
        };
        Some(GetAnswer { head: self.head.clone(), range, body: Box::pin(body), checksum: None })
    }

    fn enter(self: &Arc<Self>, range: &Range<u64>) -> Option<Stage> {
        let mut state = self.state.lock();
        if range.start < state.position {
            return None;
        }
        match std::mem::replace(&mut state.place, Place::Out) {
            Place::Parked { open, .. } => {
                state.take(&open, range);
                Some(Stage::Reading(Turn { line: Arc::clone(self), open: Some(open) }))
            }
            Place::Out => Some(Stage::Waiting(state.wait(range.clone()))),
            Place::Lost => {
                state.place = Place::Lost;
                None
            }
        }
    }

    /// Whether somebody waits for bytes from `skipped`, which the body would skip.
    fn is_wanted_within(&self, skipped: Range<u64>) -> bool {
        let state = self.state.lock();
        let mut within = state.waiting.range((skipped.start, 0)..(skipped.end, 0));
        within.any(|(_, waiting)| !waiting.turn.is_closed())
    }

    /// A turn is over: the next one begins, or the body is parked.
    fn pass_on(self: &Arc<Self>, open: Open) {
        if open.position >= self.head.version.size {
            self.lose();
            return;
        }
        let mut state = self.state.lock();
        state.position = open.position;
        // Whom the body has passed asks anew.
        let later = state.waiting.split_off(&(open.position, 0));
        let passed = std::mem::replace(&mut state.waiting, later);
        let next = loop {
            let Some(((start, _), waiting)) = state.waiting.pop_first() else { break None };
            if !waiting.turn.is_closed() {
                break Some((start, waiting));
            }
        };
        let Some((start, Waiting { end, turn })) = next else {
            self.park(state, open);
            drop(passed);
            return;
        };
        state.take(&open, &(start..end));
        drop(state);
        drop(passed);
        // One that has given up since gives the turn back, by the turn's own drop.
        drop(turn.send(Turn { line: Arc::clone(self), open: Some(open) }));
    }

    fn park(self: &Arc<Self>, mut state: parking_lot::MutexGuard<'_, State>, open: Open) {
        let runtime = tokio::runtime::Handle::try_current();
        let Ok(runtime) = runtime else {
            // The program ends.
            state.place = Place::Lost;
            drop(state);
            return;
        };
        state.place = Place::Parked { open, since: Instant::now() };
        if !std::mem::replace(&mut state.is_watched, true) {
            let line = Arc::downgrade(self);
            runtime.spawn(async move {
                while let Some(until) = line.upgrade().and_then(|line| line.watch()) {
                    tokio::time::sleep_until(until).await;
                }
            });
        }
        drop(state);
        if let Some(owner) = self.owner.upgrade() {
            owner.trim();
        }
    }

    /// Lets go of the body if it has been parked for too long. Gives the time to look again.
    fn watch(&self) -> Option<Instant> {
        let since = match &self.state.lock().place {
            Place::Parked { since, .. } => *since,
            Place::Out => Instant::now(),
            Place::Lost => return None,
        };
        if since.elapsed() >= PARKED_FOR {
            self.let_go(since);
            return self.parked().map(|(since, _)| since + PARKED_FOR);
        }
        Some(since + PARKED_FOR)
    }

    /// Since when the body is parked, and where.
    fn parked(&self) -> Option<(Instant, u64)> {
        let state = self.state.lock();
        match &state.place {
            Place::Parked { since, .. } => Some((*since, state.position)),
            Place::Out | Place::Lost => None,
        }
    }

    /// Drops the body if it still lies where it was parked.
    fn let_go(&self, parked: Instant) {
        let mut state = self.state.lock();
        if matches!(&state.place, Place::Parked { since, .. } if *since == parked) {
            let place = std::mem::replace(&mut state.place, Place::Lost);
            drop(state);
            drop(place);
        }
    }

    fn is_lost(&self) -> bool {
        matches!(self.state.lock().place, Place::Lost)
    }

    /// The body is gone: those that wait for it ask anew.
    fn lose(&self) {
        let mut state = self.state.lock();
        state.place = Place::Lost;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }
}

impl State {
    /// `range` has the turn.
    fn take(&mut self, open: &Open, range: &Range<u64>) {
        let gap = range.start.saturating_sub(open.position);
        self.is_stream = open.position > 0 && gap <= STREAM_GAP_MAX;
        self.position = after(open, range);
    }

    fn wait(&mut self, range: Range<u64>) -> oneshot::Receiver<Turn> {
        let (turn, receiver) = oneshot::channel();
        self.n_waited += 1;
        self.waiting.insert((range.start, self.n_waited), Waiting { end: range.end, turn });
        receiver
    }
}

/// The first byte that can be asked for while `range` has the turn. Bytes that the body skips can
/// be had until it has passed them.
fn after(open: &Open, range: &Range<u64>) -> u64 {
    if open.position < range.start { open.position } else { range.end }
}

/// The right to read the body. Dropped, it goes to the next.
struct Turn {
    line: Arc<Line>,
    /// `None` once it was found to be broken.
    open: Option<Open>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.line.pass_on(open);
        }
    }
}

/// One range of a line.
struct LineBody {
    line: Arc<Line>,
    /// The next byte that the reader gets.
    at: u64,
    end: u64,
    stage: Stage,
    /// Before bytes are skipped.
    patience: Option<Pin<Box<Sleep>>>,
    /// When the body was first asked for the bytes that it still has not brought.
    silent_since: Option<Instant>,
}

enum Stage {
    Waiting(oneshot::Receiver<Turn>),
    Reading(Turn),
    Over,
}

impl LineBody {
    fn poll_turn(&mut self, ctx: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        let Stage::Waiting(turn) = &mut self.stage else { return Poll::Ready(Ok(())) };
        Poll::Ready(match ready!(turn.poll_unpin(ctx)) {
            Ok(turn) => {
                self.stage = Stage::Reading(turn);
                Ok(())
            }
            Err(_) => Err(self.failure("the body that it waited for is gone")),
        })
    }

    /// Ready where the body stands at the reader's byte, or may be read up to it.
    fn poll_way(&mut self, ctx: &mut Context<'_>) -> Poll<()> {
        let Stage::Reading(Turn { open: Some(open), .. }) = &self.stage else {
            return Poll::Ready(());
        };
        if open.position >= self.at {
            return Poll::Ready(());
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        let waited = patience.as_mut().poll(ctx);
        if self.line.is_wanted_within(open.position..self.at) {
            // Theirs come first, and then ours.
            let turn = self.line.state.lock().wait(self.at..self.end);
            let before = std::mem::replace(&mut self.stage, Stage::Waiting(turn));
            drop(before);
            ctx.waker().wake_by_ref();
            return Poll::Pending;
        }
        waited
    }

    /// The next bytes of the range; `None` where those that came lie before it.
    fn poll_bytes(&mut self, ctx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StoreError>> {
        let Stage::Reading(Turn { open: Some(open), .. }) = &mut self.stage else {
            return Poll::Ready(Err(self.failure("the body is gone")));
        };
        let Poll::Ready(chunk) = open.poll_chunk(ctx) else {
            self.silent_since.get_or_insert_with(Instant::now);
            return Poll::Pending;
        };
        self.silent_since = None;
        let mut chunk = match chunk {
            Ok(chunk) => chunk,
            Err(what) => return Poll::Ready(Err(self.failure(&what))),
        };
        let skipped = (self.at - open.position).min(chunk.len() as u64);
        if skipped > 0 {
            chunk.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
            open.position += skipped;
            self.line.state.lock().position = after(open, &(self.at..self.end));
        }
        if chunk.is_empty() {
            return Poll::Ready(Ok(None));
        }
        let left = self.end - self.at;
        if chunk.len() as u64 > left {
            open.left_over = chunk.split_off(usize::try_from(left).unwrap_or(usize::MAX));
        }
        open.position += chunk.len() as u64;
        self.at += chunk.len() as u64;
        if self.at == self.end {
            self.stage = Stage::Over;
        }
        Poll::Ready(Ok(Some(chunk)))
    }

    /// Ends the range, and the line if it had the turn.
    fn failure(&mut self, what: &str) -> StoreError {
        self.give_up();
        let message = format!("GetObject {:?}: {what} at byte {}", self.line.key, self.at);
        StoreError::new(StoreErrorKind::Unreachable, message)
    }

    fn give_up(&mut self) {
        if let Stage::Reading(turn) = &mut self.stage {
            let open = turn.open.take();
            self.line.lose();
            drop(open);
        }
        self.stage = Stage::Over;
    }
}

impl Stream for LineBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if matches!(this.stage, Stage::Over) {
                return Poll::Ready(None);
            }
            if let Err(err) = ready!(this.poll_turn(ctx)) {
                return Poll::Ready(Some(Err(err)));
            }
            ready!(this.poll_way(ctx));
            match ready!(this.poll_bytes(ctx)) {
                Ok(None) => {}
                Ok(Some(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Err(err) => return Poll::Ready(Some(Err(err))),
            }
        }
    }
}

impl Drop for LineBody {
    fn drop(&mut self) {
        if self.silent_since.is_some_and(|since| since.elapsed() >= STALLED_AFTER) {
            self.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use aws_sdk_s3::primitives::SdkBody;
    use futures_util::{StreamExt, TryStreamExt, stream};
    use tokio::time::advance;

    use super::*;
    use crate::object::{ETag, Version};
    use crate::store::Priority;

    const SIZE: u64 = 1_000;
    const CHUNK: usize = 30;

    fn content() -> Vec<u8> {
        (0..SIZE).map(|place| u8::try_from(place % 251).unwrap()).collect()
    }

    /// A body in chunks that are no divisors of anything, and how many of them were taken. Hangs
    /// after `hang_after` chunks.
    fn body(hang_after: usize) -> (ByteStream, Arc<AtomicUsize>) {
        let n_taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&n_taken);
        let chunks: Vec<Bytes> = content().chunks(CHUNK).map(Bytes::copy_from_slice).collect();
        let chunks =
            stream::iter(chunks).take(hang_after).chain(stream::pending()).map(move |chunk| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(hyper::body::Frame::data(chunk))
            });
        let body = http_body_util::StreamBody::new(chunks);
        (ByteStream::new(SdkBody::from_body_1_x(body)), n_taken)
    }

    fn request(range: Range<u64>, condition: Condition) -> GetRequest {
        GetRequest { key: "k".into(), range: Some(range), condition, priority: Priority::Demand }
    }

    fn pinned(range: Range<u64>) -> GetRequest {
        request(range, Condition::Match(ETag::new("e")))
    }

    fn head() -> Head {
        let version = Version { etag: Some(ETag::new("e")), size: SIZE, modified: 1 };
        Head { version, version_id: None }
    }

    /// A line, the answer that began it, and how many chunks of its body were taken.
    fn begin(range: Range<u64>) -> (Arc<Wholes>, GetAnswer, Arc<AtomicUsize>) {
        let wholes = Arc::new(Wholes::default());
        let (body, n_taken) = body(usize::MAX);
        let answer = wholes.begin(&pinned(range), head(), body).unwrap();
        (wholes, answer, n_taken)
    }

    async fn bytes(answer: GetAnswer) -> Vec<u8> {
        let expected = answer.range.clone();
        let bytes = answer.body.try_collect::<Vec<Bytes>>().await.unwrap().concat();
        assert_eq!(bytes.len() as u64, expected.end - expected.start);
        bytes
    }

    fn expected(range: Range<usize>) -> Vec<u8> {
        content()[range].to_vec()
    }

    #[tokio::test(start_paused = true)]
    async fn a_range_is_cut_out_and_the_rest_is_not_read() {
        let (_wholes, answer, n_taken) = begin(100..250);
        assert_eq!(bytes(answer).await, expected(100..250));
        assert_eq!(n_taken.load(Ordering::Relaxed), 250_usize.div_ceil(CHUNK));
    }

    #[tokio::test(start_paused = true)]
    async fn parts_that_are_asked_for_at_once_share_one_body_in_any_order() {
        let (wholes, first, n_taken) = begin(0..100);
        let later: Vec<_> = [700..1_200, 100..200, 400..700, 200..400]
            .into_iter()
            .map(|range| wholes.join(&pinned(range)).unwrap())
            .collect();
        // The last to be polled has the first turn.
        let later = later.into_iter().map(|answer| async move {
            let range = answer.range.clone();
            (range.start, bytes(answer).await)
        });
        let (mut parts, start) = tokio::join!(futures_util::future::join_all(later), bytes(first));
        parts.push((0, start));
        parts.sort();
        let whole: Vec<u8> = parts.into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(whole, content());
        assert_eq!(n_taken.load(Ordering::Relaxed), content().chunks(CHUNK).count());
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_be_skipped_is_given_to_one_that_comes_a_little_later() {
        let (wholes, first, _) = begin(0..100);
        bytes(first).await;
        let far = wholes.join(&pinned(500..600)).unwrap();
        let far = tokio::spawn(bytes(far));
        tokio::task::yield_now().await;
        let near = wholes.join(&pinned(100..300)).expect("nothing is skipped yet");
        assert_eq!(bytes(near).await, expected(100..300));
        assert_eq!(far.await.unwrap(), expected(500..600));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_body_has_passed_needs_another() {
        let (wholes, first, _) = begin(0..500);
        bytes(first).await;
        assert!(wholes.join(&pinned(499..600)).is_none());
        let (body, _) = body(usize::MAX);
        let answer = wholes.begin(&pinned(10..20), head(), body).unwrap();
        assert_eq!(bytes(answer).await, expected(10..20));
        // Each goes on where it is nearest.
        assert_eq!(bytes(wholes.join(&pinned(20..30)).unwrap()).await, expected(20..30));
        assert_eq!(bytes(wholes.join(&pinned(500..510)).unwrap()).await, expected(500..510));
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_same_version_is_joined_and_the_current_one_is_asked_of_the_server() {
        let (wholes, _first, _) = begin(0..10);
        let joins = |range, condition| wholes.join(&request(range, condition)).is_some();
        assert!(joins(10..20, Condition::Match(ETag::new("e"))));
        assert!(!joins(30..40, Condition::Match(ETag::new("other"))));
        assert!(!joins(30..40, Condition::NoneMatch(ETag::new("other"))));
        assert!(!joins(0..10, Condition::Any));
        assert!(joins(30..40, Condition::Any), "a version without an ETag has no other pin");
        let other = GetRequest { key: "other".into(), ..pinned(50..60) };
        assert!(wholes.join(&other).is_none());
        assert!(wholes.join(&pinned(SIZE..SIZE + 1)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_gives_up_hands_the_body_on() {
        let (wholes, mut first, n_taken) = begin(0..400);
        first.body.next().await.unwrap().unwrap();
        let (gone, next) =
            (wholes.join(&pinned(400..500)).unwrap(), wholes.join(&pinned(500..600)).unwrap());
        drop(gone);
        drop(first);
        assert_eq!(bytes(next).await, expected(500..600));
        assert_eq!(n_taken.load(Ordering::Relaxed), 600 / CHUNK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_body_is_told_to_all_that_wait_for_it() {
        let wholes = Arc::new(Wholes::default());
        let body = ByteStream::from_static(b"0123456789");
        let first = wholes.begin(&pinned(0..100), head(), body).unwrap();
        let second = wholes.join(&pinned(100..200)).unwrap();
        for (answer, n_chunks) in [(first, 1), (second, 0)] {
            let chunks: Vec<_> = answer.body.collect().await;
            assert_eq!(chunks.len(), n_chunks + 1);
            let err = chunks.into_iter().next_back().unwrap().unwrap_err();
            assert_eq!(err.kind(), StoreErrorKind::Unreachable);
        }
        assert!(wholes.join(&pinned(100..200)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_hangs_is_not_handed_on_and_one_that_is_slow_is() {
        for (silence, joins) in [(4, true), (6, false)] {
            let wholes = Arc::new(Wholes::default());
            let (body, _) = body(1);
            let mut first = wholes.begin(&pinned(0..100), head(), body).unwrap();
            first.body.next().await.unwrap().unwrap();
            let next = tokio::time::timeout(Duration::from_secs(silence), first.body.next()).await;
            assert!(next.is_err());
            drop(first);
            assert_eq!(wholes.join(&pinned(100..200)).is_some(), joins, "after {silence} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_parked_body_is_let_go_after_a_while_and_few_are_parked() {
        let (wholes, first, _) = begin(0..10);
        bytes(first).await;
        // Its watcher begins to count.
        tokio::task::yield_now().await;
        advance(PARKED_FOR - Duration::from_secs(1)).await;
        bytes(wholes.join(&pinned(10..20)).unwrap()).await;
        advance(PARKED_FOR - Duration::from_secs(1)).await;
        assert_eq!(wholes.n_parked(), 1, "it was used meanwhile");
        tokio::time::sleep(PARKED_FOR).await;
        assert_eq!(wholes.n_parked(), 0);

        for place in 0..12 {
            let (body, _) = body(usize::MAX);
            let range = place * 10..place * 10 + 10;
            let answer = wholes.begin(&pinned(range), head(), body).unwrap();
            bytes(answer).await;
        }
        assert_eq!(wholes.n_parked(), PARKED_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_random_read_takes_no_body_from_a_stream_but_one_from_random_reads() {
        const FAR: u64 = AHEAD_BYTES_MAX + 600;
        let version = Version { size: 2 * FAR, ..head().version };
        let head = || Head { version: version.clone(), version_id: None };
        for is_stream in [true, false] {
            let wholes = Arc::new(Wholes::default());
            let (body, _) = body(usize::MAX);
            bytes(wholes.begin(&pinned(0..100), head(), body).unwrap()).await;
            let far = || wholes.join(&pinned(FAR..FAR + 1)).is_some();
            if is_stream {
                bytes(wholes.join(&pinned(100..200)).unwrap()).await;
                assert!(!far(), "the stream goes on");
                advance(STREAM_IDLE).await;
            }
            assert!(far());
        }
    }

    impl Wholes {
        fn n_parked(&self) -> usize {
            self.lines.lock().iter().filter(|line| line.parked().is_some()).count()
        }
    }
}
