//! Hedging: what is late against the mount's own recent times is asked for once more, on another
//! connection, and the first answer is taken. An answer whose head is late is asked for anew; a body
//! that stands still is asked for from there on (`stall`).
//!
//! Invariant: at any time, no more than one in twenty GETs was sent by this module. Nothing here sets
//! a deadline: the retries above do, for both requests together.

mod allowance;
mod recent;
mod stall;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use self::allowance::Allowance;
use self::recent::{Lateness, Recent};
use super::{GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore, Priority};
use crate::error::{StoreError, StoreErrorKind};
use crate::metrics::Metrics;
use crate::store::throttle::Throttle;

/// Of the head of an answer. Half as long again as the 95th percentile is beyond its noise, and to
/// wait for twice as long would cost more than a new request usually takes. Below 50 ms it is as
/// likely that this machine or a near server had no time as that an answer got lost.
const FIRST_BYTE: Lateness = Lateness { least: Duration::from_millis(50), times: 1.5 };

/// Of the longest silence within a body. TCP sends a lost packet again after 200 ms and a round trip,
/// and another connection would not be faster.
const SILENCE: Lateness = Lateness { least: Duration::from_millis(300), times: 3.0 };

/// A store that asks again for what is late.
pub struct HedgedStore {
    engine: Arc<Engine>,
}

impl HedgedStore {
    /// `metrics` are those that `inner` counts its bytes in. While `throttle` is on, nothing is sent twice.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        metrics: Arc<Metrics>,
        throttle: Arc<Throttle>,
    ) -> Self {
        let engine = Engine {
            inner,
            metrics,
            throttle,
            allowance: Allowance::default(),
            first_bytes: Recent::new(FIRST_BYTE),
            silences: Recent::new(SILENCE),
        };
        Self { engine: Arc::new(engine) }
    }
}

impl ObjectStore for HedgedStore {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        self.engine.inner.head(key)
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        self.engine.inner.list(request)
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move {
            self.engine.allowance.earn();
            let answer = self.engine.first_of_two(&request).await?;
            Ok(stall::watched(Arc::clone(&self.engine), &request, answer))
        }
        .boxed()
    }
}

/// What requests and bodies share.
struct Engine {
    inner: Arc<dyn ObjectStore>,
    metrics: Arc<Metrics>,
    throttle: Arc<Throttle>,
    allowance: Allowance,
    /// From sending a GET to its answer's head.
    first_bytes: Recent,
    /// The longest of each body.
    silences: Recent,
}

impl Engine {
    /// Sends once, and learns from how long it took.
    async fn send(&self, request: &GetRequest) -> Result<GetAnswer, StoreError> {
        let wait = Wait::begin(&self.first_bytes);
        let result = self.inner.get(request.clone()).await;
        match &result {
            Err(err) if err.kind().is_transient() => {
                // One that asks to be asked less.
                if err.kind() == StoreErrorKind::Throttled {
                    self.allowance.lose();
                }
            }
            // 404, 412 and 304 are answers, too.
            _ => wait.end(),
        }
        result
    }

    /// Sends, and sends again when the answer is late. The first answer is taken and the other request
    /// dropped; a failure that may pass is none while the other request may still answer.
    async fn first_of_two(&self, request: &GetRequest) -> Result<GetAnswer, StoreError> {
        let line = Line::now(&self.metrics, 0);
        let mut first = pin!(self.send(request));
        tokio::select! {
            biased;
            result = &mut first => return result,
            () = self.late(&self.first_bytes, request.priority, &line) => {}
        }
        tracing::debug!("get {:?}: no answer yet; asked again", request.key);
        let mut second = pin!(self.send(request));
        let result = tokio::select! {
            biased;
            result = &mut first => match result {
                Err(err) if err.kind().is_transient() => match second.await {
                    Err(other) if other.kind().is_transient() => return Err(err),
                    result => result,
                },
                result => return result,
            },
            result = &mut second => match result {
                Err(err) if err.kind().is_transient() => return first.await,
                result => result,
            },
        };
        self.metrics.hedge_won();
        result
    }

    /// Ready when what was begun just now is so late that it shall be asked for again, and that is
    /// paid for; else never.
    async fn late(&self, recent: &Recent, priority: Priority, line: &Line) {
        let Some(late) = recent.late() else { return std::future::pending().await };
        sleep(late).await;
        loop {
            // What has come while this process itself got no time is taken first.
            tokio::task::yield_now().await;
            let is_welcome = !line.is_full(&self.metrics) && !self.throttle.is_on();
            if is_welcome && self.allowance.spend(priority) {
                self.metrics.hedged();
                return;
            }
            sleep(late / 2).await;
        }
    }
}

/// One wait, which is noted however it ends.
struct Wait<'a> {
    recent: &'a Recent,
    since: Instant,
    ended: bool,
}

impl<'a> Wait<'a> {
    fn begin(recent: &'a Recent) -> Self {
        Self { recent, since: Instant::now(), ended: false }
    }

    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        if self.ended { self.recent.ended(took) } else { self.recent.given_up(took) }
    }
}

/// The line as it was when a wait began.
struct Line {
    /// Asked for by others, and not come.
    owed: u64,
    received: u64,
}

impl Line {
    /// `own` bytes of what is owed are those that are waited for.
    fn now(metrics: &Metrics, own: u64) -> Self {
        Self { owed: metrics.bytes_owed().saturating_sub(own), received: metrics.bytes_received() }
    }

    /// Whether the wait may be the line's doing: bytes have come meanwhile, and fewer than were asked for
    /// earlier, or than are on their way now, with this. To ask again would only make it fuller. A line
    /// on which nothing came is not full, and one that brought as much as that had room for this, too.
    fn is_full(&self, metrics: &Metrics) -> bool {
        let came = metrics.bytes_received() - self.received;
        came > 0 && came < self.owed.max(metrics.bytes_owed())
    }
}

#[cfg(test)]
mod tests;
