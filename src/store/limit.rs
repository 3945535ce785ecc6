//! How many requests one mount has in flight, how much it asks of the line, and who goes first when it may
//! have no more.

mod gate;
mod rate;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use tokio::time::{Sleep, sleep_until, timeout};

use self::gate::{Asked, Class, Gate, Permit};
use self::rate::Rate;
use super::{Body, GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore, Priority};
use crate::error::{StoreError, StoreErrorKind};
use crate::metrics::Metrics;
use crate::store::throttle::Throttle;

/// The bounds of a [`LimitedStore`].
#[derive(Clone, Debug)]
pub struct LimitConfig {
    /// Requests in flight, of all kinds.
    pub requests_max: usize,
    /// How many of them LIST and HEAD alone may use: a name is looked up even while every
    /// connection for data carries a long body.
    pub metadata_reserve: usize,
    /// How long LIST and HEAD wait for their turn. With the 15 s of the retries below it stays
    /// under the 20 s that a lookup has.
    pub metadata_wait_max: Duration,
    /// How long a GET waits; a read has 60 s.
    pub data_wait_max: Duration,
    /// What the mount takes from the server in a second.
    pub bytes_per_second_max: Option<u64>,
}

/// 64 connections of 85 MB/s are more than a 25 Gbit/s line carries.
const REQUESTS_MAX: u64 = 64;

/// Below this there would be no room for metadata beside data.
const REQUESTS_MIN: u64 = 12;

/// A connection's own buffers, up to 0.8 MiB of them, come on top of the budget: so many bytes of
/// budget for each connection keep that overhead small against it.
const BUDGET_BYTES_PER_REQUEST: u64 = 5 << 20;

impl LimitConfig {
    /// For a mount with this budget.
    pub fn for_memory(memory_max_bytes: u64) -> Self {
        let requests =
            (memory_max_bytes / BUDGET_BYTES_PER_REQUEST).clamp(REQUESTS_MIN, REQUESTS_MAX);
        let requests_max = usize::try_from(requests).expect("at most 64");
        Self {
            requests_max,
            metadata_reserve: requests_max / 8,
            metadata_wait_max: Duration::from_secs(4),
            data_wait_max: Duration::from_secs(30),
            bytes_per_second_max: None,
        }
    }

    /// With the bounds that somebody asked for: so many requests in place of what the budget gives, and
    /// so many bytes in a second.
    #[must_use]
    pub fn bounded(self, requests_max: Option<usize>, bytes_per_second_max: Option<u64>) -> Self {
        let requests_max = requests_max.unwrap_or(self.requests_max);
        let metadata_reserve = (requests_max / 8).max(1);
        Self { requests_max, metadata_reserve, bytes_per_second_max, ..self }
    }
}

/// A store that sends at most so many requests at once. A request keeps its place over its retries
/// (so that a server that throttles is not asked by others meanwhile), and a GET until its body has
/// ended or is dropped.
pub struct LimitedStore {
    inner: Arc<dyn ObjectStore>,
    gate: Arc<Gate>,
    rate: Option<Arc<Rate>>,
    config: LimitConfig,
}

impl LimitedStore {
    /// `metrics` are those that `inner` tells the speed of the line to, `throttle` what it tells refusals to.
    ///
    /// # Panics
    /// When the reserve leaves nothing for data.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        config: LimitConfig,
        metrics: Arc<Metrics>,
        throttle: Arc<Throttle>,
    ) -> Self {
        let (places, reserve) = (config.requests_max, config.metadata_reserve);
        let gate = Arc::new(Gate::new(places, reserve, metrics, throttle));
        let rate = config.bytes_per_second_max.map(|most| Arc::new(Rate::new(most)));
        Self { inner, gate, rate, config }
    }

    async fn enter_for_metadata(&self) -> Result<Permit, StoreError> {
        let asked = Asked { class: Class::Metadata, key: "".into(), bytes: Some(0) };
        self.enter(asked, self.config.metadata_wait_max).await
    }

    async fn enter_for(&self, request: &GetRequest) -> Result<Permit, StoreError> {
        let class = match request.priority {
            Priority::Open | Priority::Demand => Class::Demand,
            Priority::Ahead => Class::Ahead,
        };
        let bytes = request.range.as_ref().map(|range| range.end - range.start);
        let asked = Asked { class, key: Arc::clone(&request.key), bytes };
        self.enter(asked, self.config.data_wait_max).await
    }

    /// Waits for its turn. Fails with `TimedOut`.
    async fn enter(&self, asked: Asked, wait_max: Duration) -> Result<Permit, StoreError> {
        timeout(wait_max, Gate::enter(&self.gate, asked)).await.map_err(|_| {
            let message = format!(
                "waited {} s for its turn, behind as many requests as may be in flight",
                wait_max.as_secs()
            );
            StoreError::new(StoreErrorKind::TimedOut, message)
        })
    }
}

/// About what one entry of a listing takes in XML, beside its key.
const ENTRY_BYTES: u64 = 300;

/// About what a page took on the line.
fn page_bytes(page: &ListPage) -> u64 {
    let keys = page.objects.iter().map(|object| object.key.len());
    let names = keys.chain(page.prefixes.iter().map(String::len));
    names.map(|name| name as u64 + ENTRY_BYTES).sum()
}

impl ObjectStore for LimitedStore {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        async move {
            let _permit = self.enter_for_metadata().await?;
            self.inner.head(key).await
        }
        .boxed()
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        async move {
            let _permit = self.enter_for_metadata().await?;
            let page = self.inner.list(request).await?;
            if let Some(rate) = &self.rate {
                // Nobody waits for it: it goes first, and data makes up for it.
                rate.came(page_bytes(&page));
            }
            Ok(page)
        }
        .boxed()
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move {
            let mut permit = self.enter_for(&request).await?;
            let was_whole = request.range.is_none();
            let answer = self.inner.get(request).await?;
            permit.is(answer.range.end - answer.range.start, was_whole);
            let body = LimitedBody {
                body: answer.body,
                permit: Some(permit),
                rate: self.rate.clone(),
                held: None,
            };
            Ok(GetAnswer { body: Box::pin(body), ..answer })
        }
        .boxed()
    }
}

struct LimitedBody {
    body: Body,
    /// Given back at the body's end, also when its reader keeps the stream.
    permit: Option<Permit>,
    rate: Option<Arc<Rate>>,
    /// Has come, and is not due yet. Meanwhile the body below is not asked for more, so that the server
    /// does not send more, and those who watch for bodies that stand still see none.
    held: Option<(Bytes, Pin<Box<Sleep>>)>,
}

impl Stream for LimitedBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.held.is_none() {
            let item = ready!(this.body.as_mut().poll_next(ctx));
            let Some(Ok(chunk)) = item else {
                this.permit = None;
                return Poll::Ready(item);
            };
            let Some(rate) = &this.rate else {
                this.hand_on(&chunk);
                return Poll::Ready(Some(Ok(chunk)));
            };
            let due = rate.came(chunk.len() as u64);
            this.held = Some((chunk, Box::pin(sleep_until(due))));
        }
        if let Some((_, due)) = &mut this.held {
            ready!(due.as_mut().poll(ctx));
        }
        let chunk = this.held.take().map(|(chunk, _)| chunk);
        if let Some(chunk) = &chunk {
            this.hand_on(chunk);
        }
        Poll::Ready(chunk.map(Ok))
    }
}

impl LimitedBody {
    fn hand_on(&mut self, chunk: &Bytes) {
        if let Some(permit) = &mut self.permit {
            permit.came(chunk.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::time::{Instant, advance, sleep};

    use super::*;
    use crate::store::Condition;
    use crate::store::fake::{Call, FakeStore, Fault};

    fn setup(requests_max: usize, metadata_reserve: usize) -> (FakeStore, Arc<LimitedStore>) {
        let fake = FakeStore::new();
        fake.put("a", vec![1; 10]);
        let config =
            LimitConfig { requests_max, metadata_reserve, ..LimitConfig::for_memory(u64::MAX) };
        let metrics = Arc::new(Metrics::default());
        let store = LimitedStore::new(Arc::new(fake.clone()), config, metrics, Arc::default());
        (fake, Arc::new(store))
    }

    fn get() -> GetRequest {
        GetRequest {
            key: "a".into(),
            range: None,
            condition: Condition::Any,
            priority: Priority::Demand,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_get_holds_its_place_until_its_body_is_dropped() {
        let (_fake, store) = setup(1, 0);
        let first = store.get(get()).await.unwrap();
        let second = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.get(get()).await.map(drop) })
        };
        advance(Duration::from_secs(20)).await;
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_has_ended_leaves_although_its_stream_is_kept() {
        let (_fake, store) = setup(1, 0);
        let mut first = store.get(get()).await.unwrap();
        while first.body.next().await.is_some() {}
        store.head("a").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn metadata_goes_before_data_that_waited_longer() {
        let (fake, store) = setup(1, 0);
        let first = store.get(get()).await.unwrap();
        let waiting_get = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.get(get()).await.map(drop) })
        };
        sleep(Duration::from_millis(1)).await;
        let waiting_head = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.head("a").await.map(drop) })
        };
        sleep(Duration::from_millis(1)).await;
        fake.take_calls();
        drop(first);
        waiting_head.await.unwrap().unwrap();
        waiting_get.await.unwrap().unwrap();
        assert_eq!(fake.take_calls(), [Call::Head("a".to_owned()), Call::Get(get())]);
    }

    #[tokio::test(start_paused = true)]
    async fn data_leaves_the_reserve_to_metadata() {
        let (_fake, store) = setup(3, 1);
        let _two = (store.get(get()).await.unwrap(), store.get(get()).await.unwrap());
        let third = tokio::time::timeout(Duration::from_secs(1), store.get(get())).await;
        assert!(third.is_err(), "no place for a third GET");
        store.head("a").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gives_up_waiting_loses_no_place() {
        let (_fake, store) = setup(1, 0);
        let first = store.get(get()).await.unwrap();
        let given_up = tokio::time::timeout(Duration::from_secs(1), store.get(get())).await;
        assert!(given_up.is_err());
        drop(first);
        store.get(get()).await.unwrap();
        store.head("a").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_by_its_own_deadline() {
        let (fake, store) = setup(1, 0);
        fake.fault(0, Fault::StallBody(5));
        let _first = store.get(get()).await.unwrap();
        let start = Instant::now();
        let err = store.head("a").await.unwrap_err();
        assert_eq!(err.kind(), StoreErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 4);
    }

    /// A store that may receive 1 MB in a second, of an object of 3 MB.
    fn narrow() -> (FakeStore, LimitedStore) {
        let fake = FakeStore::new();
        fake.put("a", vec![1; 3_000_000]);
        let limits = LimitConfig::for_memory(u64::MAX).bounded(None, Some(1_000_000));
        let inner = Arc::new(fake.clone());
        let store = LimitedStore::new(inner, limits, Arc::default(), Arc::default());
        (fake, store)
    }

    async fn read_all(store: &LimitedStore) {
        let mut body = store.get(get()).await.unwrap().body;
        while let Some(chunk) = body.next().await {
            chunk.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_together_bring_no_more_than_is_allowed() {
        let (_fake, store) = narrow();
        let start = Instant::now();
        tokio::join!(read_all(&store), read_all(&store));
        let took = start.elapsed().as_secs_f64();
        assert!((5.9..6.1).contains(&took), "6 MB at 1 MB/s: {took}");
    }

    #[tokio::test(start_paused = true)]
    async fn names_do_not_wait_for_the_bound_and_data_makes_up_for_them() {
        let (fake, store) = narrow();
        (0..1000).for_each(|n| drop(fake.put(&format!("b/{n:04}{}", "x".repeat(695)), "")));
        let start = Instant::now();
        let (listed, ()) = tokio::join!(
            async {
                sleep(Duration::from_secs(1)).await;
                let asked = Instant::now();
                store.list(ListRequest::directory("b/")).await.unwrap();
                asked.elapsed()
            },
            read_all(&store),
        );
        assert_eq!(listed, Duration::from_millis(20), "the latency");
        let took = start.elapsed().as_secs_f64();
        assert!((3.9..4.1).contains(&took), "3 MB, and a page of 1,000 times 1,000 bytes: {took}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_takes_the_place_of_what_the_memory_gives() {
        let limits = LimitConfig::for_memory(u64::MAX);
        assert_eq!((limits.requests_max, limits.metadata_reserve), (64, 8));
        let limits = limits.bounded(Some(2), None);
        assert_eq!((limits.requests_max, limits.metadata_reserve), (2, 1));
        let (fake, _) = setup(1, 0);
        let store = LimitedStore::new(Arc::new(fake), limits, Arc::default(), Arc::default());
        let _first = store.get(get()).await.unwrap();
        assert!(timeout(Duration::from_secs(1), store.get(get())).await.is_err());
        store.head("a").await.unwrap();
    }
}
