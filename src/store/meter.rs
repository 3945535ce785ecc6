//! Counts and times every request that really goes out: below the retries, so that each try counts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use tokio::time::Instant;

use super::{Body, GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore};
use crate::error::StoreError;
use crate::metrics::{Metrics, RequestKind};

/// A store that writes what it sees into [`Metrics`].
pub struct MeteredStore {
    inner: Arc<dyn ObjectStore>,
    metrics: Arc<Metrics>,
    /// The clock of the line's speed.
    started: Instant,
}

impl MeteredStore {
    pub fn new(inner: Arc<dyn ObjectStore>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics, started: Instant::now() }
    }

    async fn metered<T>(
        &self,
        kind: RequestKind,
        call: BoxFuture<'_, Result<T, StoreError>>,
    ) -> Result<(T, InFlight), StoreError> {
        let flight = InFlight::begin(&self.metrics, kind);
        let result = call.await;
        match result {
            Ok(answer) => Ok((answer, flight)),
            Err(err) => {
                self.metrics.failed(err.kind());
                Err(err)
            }
        }
    }
}

impl ObjectStore for MeteredStore {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        async move {
            let (head, _flight) = self.metered(RequestKind::Head, self.inner.head(key)).await?;
            Ok(head)
        }
        .boxed()
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        async move {
            let (page, _flight) = self.metered(RequestKind::List, self.inner.list(request)).await?;
            Ok(page)
        }
        .boxed()
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move {
            let line = LineSample::begin(&self.metrics, self.started);
            let asked = request.range.as_ref().map_or(0, |range| range.end - range.start);
            let mut owed = Owed::new(&self.metrics, asked);
            let (answer, flight) = self.metered(RequestKind::Get, self.inner.get(request)).await?;
            self.metrics.first_byte_seen(line.since.elapsed());
            owed.is(answer.range.end - answer.range.start);
            let body = MeteredBody {
                body: answer.body,
                flight,
                owed,
                line,
                sample: Sample { bytes: 0, since: Instant::now() },
            };
            Ok(GetAnswer { body: Box::pin(body), ..answer })
        }
        .boxed()
    }
}

/// A request on the wire; its drop ends the count, also when the future is given up.
struct InFlight(Arc<Metrics>);

impl InFlight {
    fn begin(metrics: &Arc<Metrics>, kind: RequestKind) -> Self {
        metrics.request_sent(kind);
        Self(Arc::clone(metrics))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.request_over();
    }
}

/// What one GET still has to bring; its drop gives up the rest. Of one without Range, nothing is known
/// before the head of its answer.
struct Owed {
    metrics: Arc<Metrics>,
    bytes: u64,
}

impl Owed {
    fn new(metrics: &Arc<Metrics>, bytes: u64) -> Self {
        metrics.owed(bytes);
        Self { metrics: Arc::clone(metrics), bytes }
    }

    fn is(&mut self, bytes: u64) {
        self.metrics.owed(bytes);
        self.metrics.not_owed(self.bytes);
        self.bytes = bytes;
    }

    fn came(&mut self, bytes: u64) {
        // A body that is longer than announced is refused above.
        let bytes = bytes.min(self.bytes);
        self.metrics.not_owed(bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.metrics.not_owed(self.bytes);
    }
}

/// Bytes since a moment. The reader is assumed to take what has come: the data layer copies each
/// chunk at once into its part.
struct Sample {
    bytes: u64,
    since: Instant,
}

impl Sample {
    /// A long body teaches while it lasts: on a slow line its end would come too late to plan by.
    const LONG: Duration = Duration::from_secs(1);
    /// Less than this says more about latency and TCP's slow start than about speed.
    const BYTES_MIN: u64 = 256 * 1024;
}

/// What the mount received, by all connections, since one GET was sent: its first byte is waited for
/// within, so that no burst of what had come already is taken for the speed of the line.
struct LineSample {
    started: Instant,
    since: Instant,
    received_before: u64,
}

impl LineSample {
    /// Less says nothing: the line was not asked for more.
    const BYTES_MIN: u64 = 64 * 1024;

    fn begin(metrics: &Metrics, started: Instant) -> Self {
        Self { started, since: Instant::now(), received_before: metrics.bytes_received() }
    }

    /// `own` is what its own body brought of it.
    fn end(&mut self, metrics: &Metrics, own: &Sample) {
        if own.bytes >= Self::BYTES_MIN {
            metrics.body_seen(own.bytes, own.since.elapsed());
        }
        let (now, bytes) = (Instant::now(), metrics.bytes_received() - self.received_before);
        if bytes >= Self::BYTES_MIN {
            metrics.line_brought(bytes, now - self.since, now - self.started);
        }
        *self = Self::begin(metrics, self.started);
    }
}

struct MeteredBody {
    body: Body,
    flight: InFlight,
    owed: Owed,
    line: LineSample,
    sample: Sample,
}

impl MeteredBody {
    fn metrics(&self) -> &Metrics {
        &self.flight.0
    }

    fn learn(&mut self) {
        let now = Instant::now();
        self.metrics().speed_seen(self.sample.bytes, now - self.sample.since);
        self.sample = Sample { bytes: 0, since: now };
    }
}

impl Stream for MeteredBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let item = ready!(this.body.as_mut().poll_next(ctx));
        match &item {
            Some(Ok(chunk)) => {
                this.metrics().received(chunk.len() as u64);
                this.owed.came(chunk.len() as u64);
                this.sample.bytes += chunk.len() as u64;
                let is_long = this.sample.since.elapsed() >= Sample::LONG;
                if is_long || this.owed.bytes == 0 {
                    this.line.end(&this.flight.0, &this.sample);
                }
                if is_long {
                    this.learn();
                }
            }
            Some(Err(err)) => this.metrics().failed(err.kind()),
            None => {}
        }
        Poll::Ready(item)
    }
}

impl Drop for MeteredBody {
    fn drop(&mut self) {
        if self.sample.bytes >= Sample::BYTES_MIN {
            self.learn();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::error::StoreErrorKind;
    use crate::store::Condition;
    use crate::store::Priority;
    use crate::store::fake::{FakeStore, Fault};

    fn setup() -> (FakeStore, MeteredStore, Arc<Metrics>) {
        let (fake, metrics) = (FakeStore::new(), Arc::new(Metrics::default()));
        let store = MeteredStore::new(Arc::new(fake.clone()), Arc::clone(&metrics));
        (fake, store, metrics)
    }

    fn whole(key: &str) -> GetRequest {
        GetRequest {
            key: key.into(),
            range: None,
            condition: Condition::Any,
            priority: Priority::Demand,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_get_is_in_flight_until_its_body_is_dropped() {
        let (fake, store, metrics) = setup();
        fake.put("a", vec![7; 300_000]);
        let mut answer = store.get(whole("a")).await.unwrap();
        assert_eq!((metrics.n_in_flight(), metrics.bytes_owed()), (1, 300_000));
        answer.body.next().await.unwrap().unwrap();
        assert_eq!(metrics.bytes_owed() + metrics.bytes_received(), 300_000);
        while answer.body.next().await.is_some() {}
        drop(answer);
        assert_eq!(metrics.n_in_flight(), 0);
        assert_eq!(metrics.bytes_received(), 300_000);
        assert_eq!(metrics.n_requests(RequestKind::Get), 1);
        assert_eq!(metrics.pace().first_byte, Duration::from_millis(20), "the fake's latency");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_or_refused_is_not_owed() {
        let (fake, store, metrics) = setup();
        fake.put("a", vec![7; 300_000]);
        let request = || GetRequest { range: Some(100_000..900_000), ..whole("a") };
        let mut answer = store.get(request()).await.unwrap();
        answer.body.next().await.unwrap().unwrap();
        assert!(metrics.bytes_owed() < 200_000, "the object ends earlier");
        drop(answer);
        assert_eq!(metrics.bytes_owed(), 0);
        fake.fault(0, Fault::Stall);
        let stalled = tokio::time::timeout(Duration::from_secs(1), store.get(request()));
        let (stalled, owed) = tokio::join!(stalled, async {
            tokio::task::yield_now().await;
            metrics.bytes_owed()
        });
        assert!(stalled.is_err());
        assert_eq!((owed, metrics.bytes_owed()), (800_000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_are_counted_by_kind_also_in_a_body() {
        let (fake, store, metrics) = setup();
        fake.put("a", vec![7; 300_000]);
        store.head("none").await.unwrap_err();
        fake.fault(0, Fault::Cut(100));
        let answer = store.get(whole("a")).await.unwrap();
        let _: Vec<_> = answer.body.collect().await;
        assert_eq!(metrics.n_errors(StoreErrorKind::NotFound), 1);
        assert_eq!(metrics.n_errors(StoreErrorKind::Unreachable), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_given_up_is_no_longer_in_flight() {
        let (fake, store, metrics) = setup();
        fake.fault(0, Fault::Stall);
        let stalled = tokio::time::timeout(Duration::from_secs(1), store.head("a")).await;
        assert!(stalled.is_err());
        assert_eq!(metrics.n_in_flight(), 0);
    }
}
