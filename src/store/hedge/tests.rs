use std::sync::LazyLock;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use parking_lot::Mutex;

use super::*;
use crate::store::fake::{Call, FakeStore, Fault};
use crate::store::limit::LimitConfig;
use crate::store::{Condition, stack};

const SIZE: usize = 200_000;
/// Of the fake.
const LATENCY: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_secs(1);
/// What a hedged answer takes: the least that is late, and an answer.
const HEDGED: Duration = Duration::from_millis(70);

struct World {
    fake: FakeStore,
    metrics: Arc<Metrics>,
    store: Arc<dyn ObjectStore>,
}

static CONTENT: LazyLock<Bytes> =
    LazyLock::new(|| (0..SIZE).map(|n| u8::try_from(n % 251).unwrap()).collect());

fn request(priority: Priority) -> GetRequest {
    GetRequest { key: "a".into(), range: None, condition: Condition::Any, priority }
}

async fn read(store: &dyn ObjectStore, request: GetRequest) -> Result<Vec<u8>, StoreError> {
    let chunks: Vec<Bytes> = store.get(request).await?.body.try_collect().await?;
    Ok(chunks.concat())
}

impl World {
    /// The wrappers of a mount around a bucket.
    fn new() -> Self {
        let (fake, metrics) = (FakeStore::new(), Arc::new(Metrics::default()));
        fake.put("a", CONTENT.clone());
        let bucket = Arc::new(fake.clone());
        let limits = LimitConfig::for_memory(u64::MAX);
        let store = stack::wrap(bucket, Arc::clone(&metrics), limits, Arc::default(), 7);
        Self { fake, metrics, store }
    }

    /// After so many reads that went well.
    async fn after(n_reads: usize) -> Self {
        let world = Self::new();
        for _ in 0..n_reads {
            assert_eq!(world.timed(Priority::Demand).await, LATENCY);
        }
        world.fake.take_calls();
        world
    }

    async fn read(&self) -> Result<Vec<u8>, StoreError> {
        read(&*self.store, request(Priority::Demand)).await
    }

    /// How long one read takes, which brings the right bytes.
    async fn timed(&self, priority: Priority) -> Duration {
        let start = Instant::now();
        assert!(read(&*self.store, request(priority)).await.unwrap() == *CONTENT);
        start.elapsed()
    }

    fn n_gets(&self) -> usize {
        self.fake.take_calls().len()
    }

    /// Nothing is left behind.
    fn check_quiet(&self) {
        assert_eq!((self.metrics.n_in_flight(), self.metrics.bytes_owed()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_answer_in_50_is_hidden() {
    let world = World::new();
    for n in 1..=500 {
        let is_slow = n % 50 == 0;
        if is_slow {
            world.fake.fault(0, Fault::Slow(SLOW));
        }
        let took = world.timed(Priority::Demand).await;
        assert_eq!(took, if is_slow { HEDGED } else { LATENCY }, "read {n}");
    }
    assert_eq!(world.n_gets(), 510);
    assert_eq!((world.metrics.n_hedges(), world.metrics.n_hedges_won()), (10, 10));
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn no_more_than_5_percent_are_extra_when_all_answers_become_slow() {
    let world = World::after(100).await;
    for n in 1..=400 {
        world.fake.fault(0, Fault::Slow(SLOW));
        // A hedge meets one, too.
        world.fake.fault(0, Fault::Slow(SLOW));
        world.timed(Priority::Demand).await;
        assert!(world.metrics.n_hedges() * 20 <= 100 + n, "{} of {n}", world.metrics.n_hedges());
    }
    assert!(world.metrics.n_hedges() >= 4, "what was saved is spent");
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn many_that_are_late_at_once_are_hedged_no_more_often_than_was_saved() {
    let world = World::after(1000).await;
    (0..1000).for_each(|_| world.fake.fault(0, Fault::Slow(SLOW)));
    future::join_all((0..50).map(|_| world.timed(Priority::Demand))).await;
    assert_eq!(world.metrics.n_hedges(), 4);
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn what_becomes_usual_is_no_longer_late() {
    let world = World::after(300).await;
    (0..13).for_each(|_| world.fake.fault(0, Fault::Slow(SLOW)));
    while world.timed(Priority::Demand).await != LATENCY {}
    for _ in 0..300 {
        world.fake.fault(0, Fault::Slow(SLOW));
        world.timed(Priority::Demand).await;
    }
    let n_hedges = world.metrics.n_hedges();
    assert!(n_hedges < 20, "{n_hedges} of 613, which the allowance alone would let be 30");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_before_enough_is_known() {
    let world = World::after(30).await;
    world.fake.fault(0, Fault::Slow(SLOW));
    assert_eq!(world.timed(Priority::Demand).await, SLOW + LATENCY);
    assert_eq!(world.metrics.n_hedges(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_answers_is_dropped_when_the_other_has() {
    let world = World::after(50).await;
    world.fake.fault(0, Fault::Stall);
    let answer = world.store.get(request(Priority::Demand)).await.unwrap();
    assert_eq!((world.n_gets(), world.metrics.n_in_flight()), (2, 1));
    drop(answer);
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn a_slow_hedge_loses_to_the_first_request() {
    let world = World::after(50).await;
    world.fake.fault(0, Fault::Slow(Duration::from_millis(100)));
    world.fake.fault(0, Fault::Stall);
    assert_eq!(world.timed(Priority::Demand).await, Duration::from_millis(120));
    assert_eq!((world.metrics.n_hedges(), world.metrics.n_hedges_won()), (1, 0));
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_gives_up_drops_both() {
    let world = World::after(50).await;
    world.fake.fault(0, Fault::Stall);
    world.fake.fault(0, Fault::Stall);
    let given_up = tokio::time::timeout(SLOW, world.store.get(request(Priority::Demand))).await;
    assert!(given_up.is_err());
    assert_eq!(world.n_gets(), 2);
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_ahead_leaves_one_hedge_to_those_who_wait() {
    let world = World::after(60).await;
    for call in [0, 2, 4] {
        world.fake.fault(call, Fault::Slow(SLOW));
    }
    // Three are saved.
    assert!(world.timed(Priority::Ahead).await < SLOW / 2);
    assert!(world.timed(Priority::Ahead).await < SLOW / 2);
    assert_eq!(world.timed(Priority::Ahead).await, SLOW + LATENCY);
    assert_eq!(world.n_gets(), 5);
    world.fake.fault(0, Fault::Slow(SLOW));
    assert!(world.timed(Priority::Demand).await < SLOW / 2);
    assert_eq!(world.n_gets(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_has_failed_once_is_retried_and_not_hedged() {
    let world = World::after(50).await;
    world.fake.fault(0, Fault::Fail(StoreErrorKind::Unreachable));
    world.fake.fault(0, Fault::Slow(SLOW));
    assert!(world.timed(Priority::Demand).await > SLOW);
    assert_eq!(world.n_gets(), 2);
    assert_eq!((world.metrics.n_hedges(), world.metrics.n_retries()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_final_error_is_an_answer() {
    for kind in [StoreErrorKind::NotFound, StoreErrorKind::Changed, StoreErrorKind::NotModified] {
        let world = World::after(50).await;
        world.fake.fault(0, Fault::Slow(SLOW));
        world.fake.fault(0, Fault::Fail(kind));
        let start = Instant::now();
        assert_eq!(world.read().await.unwrap_err().kind(), kind);
        assert_eq!(start.elapsed(), HEDGED);
        world.check_quiet();
    }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_fails_leaves_the_first_request_alone() {
    let world = World::after(50).await;
    world.fake.fault(0, Fault::Slow(SLOW));
    world.fake.fault(0, Fault::Fail(StoreErrorKind::Unreachable));
    assert_eq!(world.timed(Priority::Demand).await, SLOW + LATENCY);
    assert_eq!((world.n_gets(), world.metrics.n_retries()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_first_request_that_fails_leaves_the_hedge_alone() {
    let world = World::after(50).await;
    let late = Duration::from_millis(40);
    world.fake.fault(0, Fault::SlowFail(late, StoreErrorKind::Unreachable));
    assert_eq!(world.timed(Priority::Demand).await, HEDGED);
    assert_eq!((world.n_gets(), world.metrics.n_retries()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn when_both_fail_it_is_retried() {
    let world = World::after(50).await;
    let late = Duration::from_millis(40);
    world.fake.fault(0, Fault::SlowFail(late, StoreErrorKind::Unreachable));
    world.fake.fault(0, Fault::Fail(StoreErrorKind::Throttled));
    world.timed(Priority::Demand).await;
    assert_eq!((world.n_gets(), world.metrics.n_retries()), (3, 1));
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_throttles_is_not_hedged_against_for_a_while() {
    let world = World::after(100).await;
    world.fake.fault(0, Fault::Fail(StoreErrorKind::Throttled));
    world.timed(Priority::Demand).await;
    world.fake.fault(0, Fault::Slow(SLOW));
    assert_eq!(world.timed(Priority::Demand).await, SLOW + LATENCY);
    assert_eq!(world.metrics.n_hedges(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_goes_on_from_another_connection_pinned_to_its_version() {
    let world = World::after(50).await;
    let etag = world.store.head("a").await.unwrap().version.etag.unwrap();
    world.fake.take_calls();
    world.fake.fault(0, Fault::StallBody(100_001));
    let took = world.timed(Priority::Demand).await;
    assert_eq!(took, LATENCY + SILENCE.least + LATENCY);
    let rest = GetRequest {
        range: Some(100_001..SIZE as u64),
        condition: Condition::Match(etag),
        ..request(Priority::Demand)
    };
    assert_eq!(world.fake.take_calls(), [Call::Get(request(Priority::Demand)), Call::Get(rest)]);
    let metrics = &world.metrics;
    assert_eq!((metrics.n_hedges(), metrics.n_hedges_won(), metrics.n_resumes()), (1, 1, 0));
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_goes_on_by_itself_is_not_joined_with_the_other() {
    let world = World::after(50).await;
    let pause = SILENCE.least + Duration::from_millis(10);
    world.fake.fault(0, Fault::PauseBody(100_001, pause));
    assert_eq!(world.timed(Priority::Demand).await, LATENCY + pause);
    assert_eq!((world.metrics.n_hedges(), world.metrics.n_hedges_won()), (1, 0));
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn a_stalled_body_is_never_continued_from_another_version() {
    let world = World::after(50).await;
    let pause = Duration::from_secs(2);
    for is_lost in [false, true] {
        world.fake.put("a", CONTENT.clone());
        let fault =
            if is_lost { Fault::StallBody(70_000) } else { Fault::PauseBody(70_000, pause) };
        world.fake.fault(0, fault);
        let mut body = world.store.get(request(Priority::Demand)).await.unwrap().body;
        body.try_next().await.unwrap();
        world.fake.put("a", vec![9; SIZE]);
        let rest = body.try_collect::<Vec<_>>().await;
        // The old connection may still bring the rest; the other one said 412.
        if is_lost {
            assert_eq!(rest.unwrap_err().kind(), StoreErrorKind::Changed);
        } else {
            assert!(rest.unwrap().concat() == CONTENT[65_536..]);
        }
    }
    assert_eq!((world.metrics.n_hedges(), world.metrics.n_hedges_won()), (2, 0));
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_after_it_stalled_leaves_the_other_alone() {
    let world = World::after(50).await;
    let pause = SILENCE.least + Duration::from_millis(10);
    world.fake.fault(0, Fault::LateCut(100_001, pause));
    assert_eq!(world.timed(Priority::Demand).await, LATENCY + SILENCE.least + LATENCY);
    let metrics = &world.metrics;
    assert_eq!((metrics.n_hedges(), metrics.n_hedges_won(), metrics.n_resumes()), (1, 1, 0));
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn a_stalled_body_whose_hedge_fails_is_resumed_as_any_other() {
    let world = World::after(50).await;
    world.fake.fault(0, Fault::StallBody(70_000));
    world.fake.fault(0, Fault::Fail(StoreErrorKind::Unreachable));
    let start = Instant::now();
    assert!(world.read().await.unwrap() == *CONTENT);
    // Neither goes on, so that the deadline for bodies does: 10 s without a byte.
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!((world.metrics.n_hedges(), world.metrics.n_resumes()), (1, 1));
    world.check_quiet();
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_a_full_line_explains_is_not_hedged() {
    let world = World::after(100).await;
    // Somebody's long body, which comes all the while.
    world.fake.fault(0, Fault::Drip(Duration::from_millis(1)));
    let mut other = world.store.get(request(Priority::Ahead)).await.unwrap().body;
    let others_reader = tokio::spawn(async move { while other.next().await.is_some() {} });
    world.fake.fault(0, Fault::Slow(SLOW));
    assert_eq!(world.timed(Priority::Demand).await, SLOW + LATENCY);
    assert_eq!(world.metrics.n_hedges(), 0);
    others_reader.abort();
    assert!(others_reader.await.unwrap_err().is_cancelled());
    world.fake.fault(0, Fault::Slow(SLOW));
    assert_eq!(world.timed(Priority::Demand).await, HEDGED);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_became_full_meanwhile_is_not_hedged_on() {
    let world = World::after(100).await;
    world.fake.fault(0, Fault::Slow(SLOW));
    world.fake.fault(0, Fault::Drip(Duration::from_millis(1)));
    let others = async {
        // Sent second.
        sleep(Duration::from_millis(1)).await;
        let mut other = world.store.get(request(Priority::Ahead)).await.unwrap().body;
        while other.next().await.is_some() {}
    };
    let took = tokio::select! {
        biased;
        took = world.timed(Priority::Demand) => took,
        () = others => unreachable!("200 s"),
    };
    assert_eq!((took, world.metrics.n_hedges()), (SLOW + LATENCY, 0));
}

/// A bucket behind one line of 10 Mbit/s and 80 ms, which brings what is asked for in order.
struct FarLine {
    bucket: FakeStore,
    free_at: Arc<Mutex<Instant>>,
}

impl FarLine {
    const BYTES_PER_SECOND: f64 = 1_250_000.0;

    /// Waits for the line to bring so many bytes after all that it has promised already.
    fn bring(free_at: &Mutex<Instant>, n_bytes: usize) -> impl Future<Output = ()> + use<> {
        let takes = Duration::from_secs_f64(
            f64::from(u32::try_from(n_bytes).unwrap()) / Self::BYTES_PER_SECOND,
        );
        let mut free_at = free_at.lock();
        *free_at = (*free_at).max(Instant::now()) + takes;
        tokio::time::sleep_until(*free_at)
    }
}

impl ObjectStore for FarLine {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        self.bucket.head(key)
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        self.bucket.list(request)
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move {
            let answer = self.bucket.get(request).await?;
            Self::bring(&self.free_at, 500).await;
            let free_at = Arc::clone(&self.free_at);
            let body = answer.body.then(move |chunk| {
                let coming = Self::bring(&free_at, chunk.as_ref().map_or(0, Bytes::len));
                async move {
                    coming.await;
                    chunk
                }
            });
            Ok(GetAnswer { body: body.boxed(), ..answer })
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn beside_a_stream_on_a_slow_line_nothing_is_hedged() {
    let bucket = FakeStore::new().with_latency(Duration::from_millis(80));
    bucket.put("a", vec![1; 16 << 20]);
    let line = FarLine { bucket, free_at: Arc::new(Mutex::new(Instant::now())) };
    let metrics = Arc::new(Metrics::default());
    let limits = LimitConfig::for_memory(u64::MAX);
    let store = stack::wrap(Arc::new(line), Arc::clone(&metrics), limits, Arc::default(), 7);
    let part = |start: u64, bytes: u64, priority| {
        let range = Some(start..start + bytes);
        read(&*store, GetRequest { range, ..request(priority) })
    };
    // Reads on a quiet line teach that answers are fast, and save for four more.
    for _ in 0..100 {
        part(0, 128 << 10, Priority::Demand).await.unwrap();
    }
    let stream = stream::iter(0..40)
        .map(|n| part((n % 16) << 20, 1 << 20, Priority::Ahead))
        .buffered(8)
        .try_for_each(|_| future::ok(()));
    let mut slowest = Duration::ZERO;
    let reads = async {
        for _ in 0..20 {
            let start = Instant::now();
            let bytes = store.get(GetRequest { range: Some(0..4096), ..request(Priority::Demand) });
            let answer = bytes.await.unwrap();
            slowest = slowest.max(start.elapsed());
            answer.body.try_collect::<Vec<_>>().await.unwrap();
        }
    };
    let (streamed, ()) = tokio::join!(stream, reads);
    streamed.unwrap();
    assert!(slowest > Duration::from_millis(300), "the line does delay them: {slowest:?}");
    assert_eq!(metrics.n_hedges(), 0);
}
