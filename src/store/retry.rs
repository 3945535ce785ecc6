//! The one owner of time: which requests are sent again, when, and until when. The SDK's own
//! retries and stall protection are off; every request and every body ends by a deadline
//! that stands here, in tokio's time, so that tests pause it.

mod resume;
mod usual;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use self::usual::Usual;
use super::reach::Reach;
use super::throttle::Throttle;
use super::{GetAnswer, GetRequest, Head, ListPage, ListRequest, ObjectStore, Priority};
use crate::awake::overslept;
use crate::error::{StoreError, StoreErrorKind};
use crate::metrics::{Metrics, RequestKind};

/// How long a request may take, and how often it is sent.
#[derive(Clone, Debug)]
pub struct RetryConfig {
    /// From the first sending to the answer: a whole HEAD or LIST, the head of the GET of an open. All
    /// tries and the pauses between them.
    pub answer_total: Duration,
    /// The same for other GETs: a server that is away for a while is waited for.
    pub read_total: Duration,
    /// The first try alone. Each further one may take twice as long, so that a connection which
    /// died unseen costs little and a server that is merely slow is still waited for.
    pub first_try: Duration,
    /// The pause before the second try; each further one is twice as long.
    pub pause_first: Duration,
    pub pause_max: Duration,
    /// Tries that end without any answer (refused, not resolved, reset) before giving up.
    pub unreachable_tries_max: u32,
    /// Tries that bring something else than was asked for: what erred once is right the next time, and a
    /// server that always does is not waited for.
    pub corrupt_tries_max: u32,
    /// A body that brings no byte for this long, or fewer than `body_bytes_min` while it is waited
    /// for so long, is given up and resumed.
    pub body_stall: Duration,
    /// A body that comes drop by drop would hold its connection for ever.
    pub body_bytes_min: u64,
    /// Resumptions in a row that brought no more than that.
    pub idle_resumes_max: u32,
    /// Resumptions of one body after which less than `progress_bytes_min` had come.
    pub resumes_max: u32,
    /// A server that closes every connection after so many bytes or more is read on for as long as it brings
    /// them: a part of 8 MiB is then 128 requests at most.
    pub progress_bytes_min: u64,
}

impl RetryConfig {
    /// While the program starts and somebody waits at the terminal: an endpoint that is not there
    /// is told within a second, one that does not answer within 8.
    pub fn start() -> Self {
        let total = Duration::from_secs(8);
        let (answer_total, read_total) = (total, total);
        Self { answer_total, read_total, unreachable_tries_max: 3, ..Self::serve() }
    }

    /// While the mount serves. 15 s is less than what the requests above wait (a lookup 20 s), so
    /// that in ordinary trouble the reason is told and not a deadline.
    pub fn serve() -> Self {
        Self {
            answer_total: Duration::from_secs(15),
            // A read has 60 s; where a body stalled before, 10 of them are over.
            read_total: Duration::from_secs(45),
            first_try: Duration::from_secs(5),
            pause_first: Duration::from_millis(50),
            pause_max: Duration::from_secs(2),
            unreachable_tries_max: u32::MAX,
            corrupt_tries_max: 3,
            body_stall: Duration::from_secs(10),
            // 100 bytes a second: what a line that is shared by all connections of a mount still
            // brings to each when no reader can be served in time any more.
            body_bytes_min: 1 << 10,
            idle_resumes_max: 4,
            resumes_max: 64,
            progress_bytes_min: 64 << 10,
        }
    }
}

/// A store that sends transient failures again, and resumes a body at the byte where it broke.
pub struct RetryStore {
    /// Shared with bodies once there are any.
    engine: Arc<Engine>,
}

impl RetryStore {
    /// Requests follow `start` until the first one has got an answer, and `serve` from then on.
    /// `seed` is for the jitter: mounts that start together must not try again together.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        start: RetryConfig,
        serve: RetryConfig,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Self {
        let engine = Engine {
            first: Arc::clone(&inner),
            inner,
            start,
            serve,
            answered: AtomicBool::new(false),
            metrics,
            reach: Arc::default(),
            throttle: Arc::default(),
            usual: Usual::default(),
            jitter: Mutex::new(Jitter::new(seed)),
        };
        Self { engine: Arc::new(engine) }
    }

    /// The same, where `first` sends the first try of each GET. What fails once is in the hands of this
    /// store alone, so that trouble is not met with two kinds of further requests.
    #[must_use]
    pub fn with_first(self, first: Arc<dyn ObjectStore>) -> Self {
        self.changed(|engine| engine.first = first)
    }

    /// The same, telling `reach` and `throttle` what becomes of the requests, and heeding them.
    #[must_use]
    pub fn telling(self, reach: Arc<Reach>, throttle: Arc<Throttle>) -> Self {
        self.changed(|engine| (engine.reach, engine.throttle) = (reach, throttle))
    }

    fn changed(mut self, change: impl FnOnce(&mut Engine)) -> Self {
        change(Arc::get_mut(&mut self.engine).expect("no request was sent"));
        self
    }
}

impl ObjectStore for RetryStore {
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>> {
        let engine = &self.engine;
        async move {
            let total = engine.config().answer_total;
            engine.attempt(RequestKind::Head, key, total, |_| engine.inner.head(key)).await
        }
        .boxed()
    }

    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>> {
        let engine = &self.engine;
        async move {
            let send = |_| engine.inner.list(request.clone());
            let total = engine.config().answer_total;
            engine.attempt(RequestKind::List, &request.prefix, total, send).await
        }
        .boxed()
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>> {
        async move {
            let engine = &self.engine;
            let send = |n_failed| match n_failed {
                0 => engine.first.get(request.clone()),
                _ => engine.inner.get(request.clone()),
            };
            let total = engine.total(request.priority);
            let answer = engine.attempt(RequestKind::Get, &request.key, total, send).await?;
            Ok(resume::resuming(Arc::clone(engine), &request, answer))
        }
        .boxed()
    }
}

/// What tries and bodies share.
struct Engine {
    /// For the first try of a GET.
    first: Arc<dyn ObjectStore>,
    inner: Arc<dyn ObjectStore>,
    start: RetryConfig,
    serve: RetryConfig,
    /// The server has answered anything at all, so that it is there.
    answered: AtomicBool,
    metrics: Arc<Metrics>,
    reach: Arc<Reach>,
    throttle: Arc<Throttle>,
    usual: Usual,
    jitter: Mutex<Jitter>,
}

impl Engine {
    fn config(&self) -> &RetryConfig {
        if self.answered.load(Ordering::Relaxed) { &self.serve } else { &self.start }
    }

    /// For the rest of a body that broke.
    async fn get_again(&self, request: &GetRequest) -> Result<GetAnswer, StoreError> {
        let send = |_| self.inner.get(request.clone());
        let total = self.total(request.priority);
        self.attempt(RequestKind::Get, &request.key, total, send).await
    }

    /// How long a GET may take.
    fn total(&self, priority: Priority) -> Duration {
        match priority {
            Priority::Open => self.config().answer_total,
            // A reader may come to wait for what was asked for ahead of it.
            Priority::Demand | Priority::Ahead => self.config().read_total,
        }
    }

    /// Sends until there is an answer, an error that will not pass, or no time left. Gives the error of
    /// the last try that had its time, which says more than that time is over. `send` is told how many
    /// tries have failed.
    async fn attempt<'a, T>(
        &self,
        kind: RequestKind,
        name: &str,
        total: Duration,
        send: impl Fn(u32) -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let config = self.config();
        let mut deadline = Instant::now() + total;
        let _trying = self.reach.trying();
        let (mut n_failed, mut n_unreachable, mut n_corrupt) = (0_u32, 0, 0);
        let mut patience = config.first_try;
        let mut told: Option<StoreError> = None;
        loop {
            if timeout_at(deadline, self.throttle.turn()).await.is_err() {
                return Err(told.unwrap_or_else(|| no_answer(kind, name, total)));
            }
            let begun = Instant::now();
            let until = deadline.min(begun + patience);
            let answer = tokio::select! {
                biased;
                answer = timeout_at(until, send(n_failed)) => answer,
                () = self.silent(kind, begun) => Ok(Err(no_answer(kind, name, begun.elapsed()))),
                () = self.reach.slept() => Ok(Err(slept(kind, name))),
            };
            let err = match answer {
                Ok(Ok(answer)) => {
                    self.usual.took(kind, begun.elapsed());
                    self.answered.store(true, Ordering::Relaxed);
                    let is_back = self.reach.answered();
                    self.served(is_back);
                    return Ok(answer);
                }
                Ok(Err(err)) if !err.kind().is_transient() => {
                    self.answered.store(true, Ordering::Relaxed);
                    let is_back = self.reach.failed_by_answer(&err);
                    self.served(is_back);
                    return Err(err);
                }
                Ok(Err(err)) => err,
                Err(_) => {
                    let err = no_answer(kind, name, until - begun);
                    // Cut short by the deadline, this try tells nothing of the server.
                    if until == deadline && until < begun + config.first_try {
                        return Err(told.unwrap_or(err));
                    }
                    err
                }
            };
            self.reach.failed(begun, &err);
            if is_refusal(&err) {
                self.throttle.refused(begun);
            }
            told = Some(err.clone());
            deadline += overslept(until);
            n_failed += 1;
            n_unreachable += u32::from(err.kind() == StoreErrorKind::Unreachable);
            n_corrupt += u32::from(err.kind() == StoreErrorKind::Corrupt);
            // In an outage a short try finds out sooner that it is over.
            patience = match self.reach.is_out() {
                true => config.first_try,
                false => patience.saturating_mul(2),
            };
            let pause = self.pause(n_failed);
            let enough = n_unreachable >= config.unreachable_tries_max
                || n_corrupt >= config.corrupt_tries_max;
            if enough || Instant::now() + pause >= deadline {
                return Err(err);
            }
            tracing::debug!("{err}; try {} in {pause:.0?}", n_failed + 1);
            self.metrics.retried();
            self.rest(pause).await;
        }
    }

    /// Ready when nothing at all has been answered since `begun`, for longer than is usual: then it is the
    /// connections, and another try has new ones.
    async fn silent(&self, kind: RequestKind, begun: Instant) {
        if let Some(silence) = self.usual.silence(kind) {
            sleep_until(begun + silence).await;
            if self.reach.is_silent_since(begun) {
                return;
            }
        }
        std::future::pending().await
    }

    /// A request was not refused; `is_back` where that is the first after an outage.
    fn served(&self, is_back: bool) {
        if is_back {
            self.throttle.forget();
        }
        self.throttle.served();
    }

    /// Waits before the next try; in an outage no longer than until somebody has got an answer.
    async fn rest(&self, pause: Duration) {
        if !self.reach.is_out() {
            return sleep(pause).await;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = self.reach.back() => {}
        }
    }

    /// Before the next try, after `n_failed` in a row: capped exponential, the upper half jittered.
    fn pause(&self, n_failed: u32) -> Duration {
        let config = self.config();
        let doublings = n_failed.saturating_sub(1).min(16);
        let whole = config.pause_first.saturating_mul(1 << doublings).min(config.pause_max);
        whole / 2 + (whole / 2).mul_f64(self.jitter.lock().next())
    }
}

fn no_answer(kind: RequestKind, name: &str, waited: Duration) -> StoreError {
    let message = format!("{} {name:?}: no answer within {:.0?}", kind.name(), waited);
    StoreError::new(StoreErrorKind::TimedOut, message)
}

fn slept(kind: RequestKind, name: &str) -> StoreError {
    let message = format!("{} {name:?}: this machine slept meanwhile", kind.name());
    StoreError::new(StoreErrorKind::TimedOut, message)
}

/// Whether the server says that it is asked too much, rather than that it has failed.
fn is_refusal(err: &StoreError) -> bool {
    let refuses = |status| matches!(status, 429 | 503);
    err.kind() == StoreErrorKind::Throttled && err.status().is_none_or(refuses)
}

/// Numbers that need only differ between mounts: xorshift64*, from the mount's own seed.
struct Jitter(u64);

impl Jitter {
    fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Self(seed.max(1))
    }

    /// From 0 to below 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
        #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
        let fraction = bits as f64 / (1_u64 << 24) as f64;
        fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Condition;
    use crate::store::fake::{FakeStore, Fault};

    fn setup() -> (FakeStore, RetryStore) {
        let fake = FakeStore::new();
        fake.put("a", "hello");
        let metrics = Arc::new(Metrics::default());
        let (start, serve) = (RetryConfig::start(), RetryConfig::serve());
        let store = RetryStore::new(Arc::new(fake.clone()), start, serve, metrics, 7);
        (fake, store)
    }

    /// As [`setup`], after the first answer.
    async fn serving() -> (FakeStore, RetryStore) {
        let (fake, store) = setup();
        store.head("a").await.unwrap();
        fake.take_calls();
        (fake, store)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_wrong_is_asked_for_again_at_once_and_not_for_long() {
        let (fake, store) = serving().await;
        let request = || GetRequest {
            key: "a".into(),
            range: Some(0..3),
            condition: Condition::Any,
            priority: Priority::Demand,
        };
        (0..2).for_each(|n| fake.fault(n, Fault::Fail(StoreErrorKind::Corrupt)));
        store.get(request()).await.unwrap();
        assert_eq!(fake.take_calls().len(), 3);
        (0..9).for_each(|n| fake.fault(n, Fault::Fail(StoreErrorKind::Corrupt)));
        let start = Instant::now();
        let err = store.get(request()).await.map(drop).unwrap_err();
        assert_eq!((err.kind(), fake.take_calls().len()), (StoreErrorKind::Corrupt, 3));
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_the_deadline_cuts_short_does_not_hide_what_the_server_said() {
        let fake = FakeStore::new().with_latency(Duration::from_secs(3));
        fail_always(&fake, StoreErrorKind::Throttled);
        let metrics = Arc::new(Metrics::default());
        let (start, serve) = (RetryConfig::start(), RetryConfig::serve());
        let store = RetryStore::new(Arc::new(fake.clone()), start, serve, metrics, 7);
        let err = store.head("a").await.unwrap_err();
        assert_eq!((err.kind(), fake.take_calls().len()), (StoreErrorKind::Throttled, 3), "{err}");
    }

    fn fail_always(fake: &FakeStore, kind: StoreErrorKind) {
        (0..1000).for_each(|_| fake.fault(0, Fault::Fail(kind)));
    }

    #[tokio::test(start_paused = true)]
    async fn throttles_and_resets_are_invisible() {
        let (fake, store) = serving().await;
        for kind in
            [StoreErrorKind::Throttled, StoreErrorKind::Unreachable, StoreErrorKind::TimedOut]
        {
            fake.fault(0, Fault::Fail(kind));
            store.head("a").await.unwrap();
            fake.fault(0, Fault::Fail(kind));
            store.list(ListRequest::directory("")).await.unwrap();
            fake.fault(0, Fault::Fail(kind));
            let request = GetRequest {
                key: "a".into(),
                range: None,
                condition: Condition::Any,
                priority: Priority::Demand,
            };
            store.get(request).await.unwrap();
        }
        assert_eq!(fake.take_calls().len(), 18, "each is sent twice");
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_pass_is_not_sent_again() {
        for kind in [
            StoreErrorKind::NotFound,
            StoreErrorKind::Denied,
            StoreErrorKind::Changed,
            StoreErrorKind::BadCredentials,
            StoreErrorKind::Other,
        ] {
            let (fake, store) = serving().await;
            fake.fault(0, Fault::Fail(kind));
            assert_eq!(store.head("a").await.unwrap_err().kind(), kind);
            assert_eq!(fake.take_calls().len(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_that_lasts_is_given_up_within_15_s_with_the_servers_own_error() {
        let (fake, store) = serving().await;
        fail_always(&fake, StoreErrorKind::Throttled);
        let start = Instant::now();
        let err = store.head("a").await.unwrap_err();
        assert_eq!(err.kind(), StoreErrorKind::Throttled);
        assert!((12..=15).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        let n_calls = fake.take_calls().len();
        assert!((10..=20).contains(&n_calls), "{n_calls} tries");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_for_a_server_that_is_gone_for_longer_than_a_name_may() {
        let (fake, store) = serving().await;
        let get = |priority| {
            let condition = Condition::Any;
            store.get(GetRequest { key: "a".into(), range: None, condition, priority })
        };
        for (priority, seconds) in [(Priority::Open, 15), (Priority::Demand, 45)] {
            fail_always(&fake, StoreErrorKind::Unreachable);
            let start = Instant::now();
            let err = get(priority).await.map(drop).unwrap_err();
            assert_eq!(err.kind(), StoreErrorKind::Unreachable);
            let took = start.elapsed().as_secs();
            assert!((seconds - 3..=seconds).contains(&took), "{took} of {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_next_try_in_an_outage_goes_on_when_another_is_answered() {
        let fake = FakeStore::new();
        fake.put("a", "hello");
        let (start, serve) = (RetryConfig::start(), RetryConfig::serve());
        let slow = Duration::from_secs(600);
        let serve =
            RetryConfig { pause_first: slow, pause_max: slow, read_total: 3 * slow, ..serve };
        let reach: Arc<Reach> = Arc::default();
        let store = RetryStore::new(Arc::new(fake.clone()), start, serve, Arc::default(), 7)
            .telling(Arc::clone(&reach), Arc::default());
        store.head("a").await.unwrap();
        let out = StoreError::new(StoreErrorKind::TimedOut, "silent");
        reach.failed(Instant::now(), &out);
        sleep(Duration::from_secs(11)).await;
        reach.failed(Instant::now(), &out);
        assert!(reach.is_out());
        fake.fault(0, Fault::Fail(StoreErrorKind::Unreachable));
        let (condition, priority) = (Condition::Any, Priority::Demand);
        let request = GetRequest { key: "a".into(), range: None, condition, priority };
        let begun = Instant::now();
        let (read, ()) = tokio::join!(store.get(request), async {
            sleep(Duration::from_secs(5)).await;
            store.head("a").await.unwrap();
        });
        read.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_is_silent_for_longer_than_is_usual_another_try_is_made() {
        let (fake, store) = serving().await;
        for _ in 0..10 {
            store.head("a").await.unwrap();
        }
        fake.fault(0, Fault::Stall);
        let start = Instant::now();
        store.head("a").await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 2);
        // While others are answered it is the server that is slow, and it is waited for.
        fake.fault(0, Fault::Slow(Duration::from_secs(4)));
        let start = Instant::now();
        let others = async {
            for _ in 0..4 {
                sleep(Duration::from_secs(1)).await;
                store.list(ListRequest::directory("")).await.unwrap();
            }
        };
        let (slow, ()) = tokio::join!(store.head("a"), others);
        slow.unwrap();
        assert_eq!(start.elapsed().as_secs(), 4);
        let calls = fake.take_calls();
        assert_eq!(calls.len(), 10 + 2 + 1 + 4, "{calls:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_without_an_answer_is_repeated_on_a_new_one() {
        let (fake, store) = serving().await;
        fake.fault(0, Fault::Stall);
        let start = Instant::now();
        store.head("a").await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 5, "the first try has 5 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_costs_15_s_and_two_tries() {
        let (fake, store) = serving().await;
        (0..3).for_each(|_| fake.fault(0, Fault::Stall));
        let start = Instant::now();
        let err = store.list(ListRequest::directory("")).await.unwrap_err();
        assert_eq!(err.kind(), StoreErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 15);
        assert_eq!(fake.take_calls().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_start_an_endpoint_that_is_not_there_is_told_within_a_second() {
        let (fake, store) = setup();
        fail_always(&fake, StoreErrorKind::Unreachable);
        let start = Instant::now();
        let err = store.list(ListRequest::directory("")).await.unwrap_err();
        assert_eq!(err.kind(), StoreErrorKind::Unreachable);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn any_answer_ends_the_start_also_a_refusal() {
        let (fake, store) = setup();
        fake.fault(0, Fault::Fail(StoreErrorKind::Denied));
        store.head("a").await.unwrap_err();
        (0..5).for_each(|_| fake.fault(0, Fault::Fail(StoreErrorKind::Unreachable)));
        store.head("a").await.unwrap();
    }

    #[test]
    fn pauses_grow_stay_below_their_cap_and_differ_by_seed() {
        let pauses = |seed| {
            let fake: Arc<dyn ObjectStore> = Arc::new(FakeStore::new());
            let (start, serve) = (RetryConfig::start(), RetryConfig::serve());
            let store = RetryStore::new(fake, start, serve, Arc::default(), seed);
            (1..40).map(|n| store.engine.pause(n)).collect::<Vec<_>>()
        };
        let (one, two) = (pauses(1), pauses(2));
        assert_ne!(one, two);
        assert!(one[0] >= Duration::from_millis(25) && one[0] <= Duration::from_millis(50));
        assert!(one[3] > one[0]);
        assert!(one.iter().all(|pause| *pause <= Duration::from_secs(2)));
    }
}
