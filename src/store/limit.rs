//! How many requests one mount has in flight, and who goes first when it may have no more.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Body, GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore, Priority};
use crate::error::{StoreError, StoreErrorKind};

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
        }
    }
}

/// A store that sends at most so many requests at once. A request keeps its place over its retries
/// (so that a server that throttles is not asked by others meanwhile), and a GET until its body has
/// ended or is dropped.
pub struct LimitedStore {
    inner: Arc<dyn ObjectStore>,
    gate: Arc<Gate>,
    config: LimitConfig,
}

impl LimitedStore {
    /// # Panics
    /// When the reserve leaves nothing for data.
    pub fn new(inner: Arc<dyn ObjectStore>, config: LimitConfig) -> Self {
        assert!(config.metadata_reserve < config.requests_max, "data needs a place, too");
        let gate = Gate {
            requests_max: config.requests_max,
            data_max: config.requests_max - config.metadata_reserve,
            state: Mutex::default(),
        };
        Self { inner, gate: Arc::new(gate), config }
    }

    /// Waits for a place. Fails with `TimedOut`.
    async fn enter(&self, class: Class) -> Result<Permit, StoreError> {
        let wait_max = match class {
            Class::Metadata => self.config.metadata_wait_max,
            Class::Demand | Class::Ahead => self.config.data_wait_max,
        };
        timeout(wait_max, Gate::enter(&self.gate, class)).await.map_err(|_| {
            let message = format!(
                "waited {} s for one of {} requests in flight to end",
                wait_max.as_secs(),
                self.config.requests_max
            );
            StoreError::new(StoreErrorKind::TimedOut, message)
        })
    }
}

impl ObjectStore for LimitedStore {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        async move {
            let _permit = self.enter(Class::Metadata).await?;
            self.inner.head(key).await
        }
        .boxed()
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        async move {
            let _permit = self.enter(Class::Metadata).await?;
            self.inner.list(request).await
        }
        .boxed()
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move {
            let class = match request.priority {
                Priority::Demand => Class::Demand,
                Priority::Ahead => Class::Ahead,
            };
            let permit = self.enter(class).await?;
            let answer = self.inner.get(request).await?;
            let body = LimitedBody { body: answer.body, permit: Some(permit) };
            Ok(GetAnswer { body: Box::pin(body), ..answer })
        }
        .boxed()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Metadata,
    Demand,
    Ahead,
}

struct Gate {
    requests_max: usize,
    data_max: usize,
    state: Mutex<GateState>,
}

/// Invariant: whoever could enter has entered; so a queue is empty, or its class has no place.
#[derive(Default)]
struct GateState {
    n_metadata: usize,
    n_data: usize,
    waiting_metadata: VecDeque<oneshot::Sender<Permit>>,
    waiting_demand: VecDeque<oneshot::Sender<Permit>>,
    waiting_ahead: VecDeque<oneshot::Sender<Permit>>,
}

impl Gate {
    async fn enter(gate: &Arc<Self>, class: Class) -> Permit {
        let turn = {
            let mut state = gate.state.lock();
            // Those who wait already go first, also before a newcomer that finds a place.
            if gate.has_place(&state, class) && state.queue(class).is_empty() {
                return gate.admit(&mut state, class);
            }
            let (sender, turn) = oneshot::channel();
            state.queue(class).push_back(sender);
            turn
        };
        turn.await.expect("a waiting request is answered before its sender is dropped")
    }

    fn has_place(&self, state: &GateState, class: Class) -> bool {
        let free = state.n_metadata + state.n_data < self.requests_max;
        match class {
            Class::Metadata => free,
            Class::Demand | Class::Ahead => free && state.n_data < self.data_max,
        }
    }

    fn admit(self: &Arc<Self>, state: &mut GateState, class: Class) -> Permit {
        *state.count(class) += 1;
        Permit { gate: Arc::clone(self), class }
    }

    /// Gives a place back and lets in who may have it now: metadata, demand,
    /// ahead.
    fn leave(self: &Arc<Self>, class: Class) {
        let mut admitted = Vec::new();
        {
            let mut state = self.state.lock();
            *state.count(class) -= 1;
            for class in [Class::Metadata, Class::Demand, Class::Ahead] {
                while self.has_place(&state, class) {
                    let Some(turn) = state.queue(class).pop_front() else { break };
                    if !turn.is_closed() {
                        admitted.push((turn, self.admit(&mut state, class)));
                    }
                }
            }
        }
        for (turn, permit) in admitted {
            // One that has given up since hands its permit back here, by the permit's own drop.
            drop(turn.send(permit));
        }
    }
}

impl GateState {
    fn count(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Metadata => &mut self.n_metadata,
            Class::Demand | Class::Ahead => &mut self.n_data,
        }
    }

    fn queue(&mut self, class: Class) -> &mut VecDeque<oneshot::Sender<Permit>> {
        match class {
            Class::Metadata => &mut self.waiting_metadata,
            Class::Demand => &mut self.waiting_demand,
            Class::Ahead => &mut self.waiting_ahead,
        }
    }
}

/// A place among the requests in flight.
struct Permit {
    gate: Arc<Gate>,
    class: Class,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave(self.class);
    }
}

struct LimitedBody {
    body: Body,
    /// Given back at the body's end, also when its reader keeps the stream.
    permit: Option<Permit>,
}

impl Stream for LimitedBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let item = this.body.as_mut().poll_next(ctx);
        if matches!(item, Poll::Ready(None | Some(Err(_)))) {
            this.permit = None;
        }
        item
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
        (fake.clone(), Arc::new(LimitedStore::new(Arc::new(fake), config)))
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
}
