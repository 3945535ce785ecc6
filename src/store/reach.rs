//! Whether S3 answers, as the requests of the mount show. One place says that it does not, in one line of
//! the log, and that it does again; who has an old answer asks here whether to wait for a new one.
//! Also which connections are still trusted: none of before a silence, or before this machine slept.
//!
//! Invariant: it is out only while no request has been answered since it was found so. Nothing here sends:
//! while it is out, one question at a time goes on to be asked, and its answer ends that.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::awake::{Quiet, slept_so_far};
use crate::config::Ttl;
use crate::error::{Cause, StoreError, StoreErrorKind};

/// Where connections are refused, reset or not made for so long, S3 is out: a server that is started anew
/// takes less.
const REFUSED_FOR: Duration = Duration::from_secs(3);

/// So often they are, at least: one connection that breaks while another request takes long says nothing.
const REFUSALS_MIN: u32 = 3;

/// Where nothing is answered for so long, or nothing but that it can not be served now. Twice what the
/// first try of a request has, so that a server that is slow once is not taken for gone.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// So lately a try failed that another would fail, too.
const FAILED_LATELY: Duration = Duration::from_secs(1);

/// How long the question that finds out whether S3 is back is waited for: longer than an answer takes where
/// it is, also a far one, and short enough for who has an old one.
const PROBE_FOR: Duration = Duration::from_millis(500);

/// While something is waited for, so often it is looked whether this machine slept.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// Clocks that are read one after the other differ by less.
const SLEPT_MIN: Duration = Duration::from_secs(1);

/// What is known of the way to S3.
pub struct Reach {
    /// How long old answers are served in an outage.
    grace: Ttl,
    started: Instant,
    /// How long this machine has slept since it was started.
    asleep: Box<dyn Fn() -> Duration + Send + Sync>,
    /// That, in milliseconds, when it was last looked at.
    slept: AtomicU64,
    /// When an answer last came, in milliseconds since `started`.
    answered: AtomicU64,
    /// Tries have failed since; always where it is out.
    is_troubled: AtomicBool,
    /// Requests that are sent, or will be again.
    n_trying: AtomicUsize,
    /// Connections that were made before this are not used, in milliseconds.
    distrusted: AtomicU64,
    /// Whether the machine is about to sleep: nothing new is to be learnt then.
    quiet: Arc<Quiet>,
    trouble: Mutex<Trouble>,
    /// The trouble has begun, become an outage, or ended.
    changed: Notify,
}

/// What has failed since the last answer.
#[derive(Default)]
struct Trouble {
    /// When the first try was sent that failed, and the last one did.
    span: Option<(Instant, Instant)>,
    n_refusals: u32,
    /// Why, for the log.
    reason: String,
    /// When it is taken to have begun.
    out_since: Option<Instant>,
}

impl Default for Reach {
    fn default() -> Self {
        Self::new(Ttl::Forever)
    }
}

impl Reach {
    /// `grace` is how long old answers are served in an outage.
    pub fn new(grace: Ttl) -> Self {
        Self::with_clock(grace, slept_so_far)
    }

    fn with_clock(grace: Ttl, asleep: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let slept = AtomicU64::new(millis(asleep()));
        Self {
            grace,
            started: Instant::now(),
            asleep: Box::new(asleep),
            slept,
            answered: AtomicU64::new(0),
            is_troubled: AtomicBool::new(false),
            n_trying: AtomicUsize::new(0),
            distrusted: AtomicU64::new(0),
            quiet: Arc::default(),
            trouble: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Whether the machine is about to sleep.
    pub(crate) fn quiet(&self) -> &Arc<Quiet> {
        &self.quiet
    }

    /// The machine is awake again, or stays so: nothing that was connected before is used any more.
    pub(crate) fn woke(&self) {
        let asleep = millis((self.asleep)());
        let slept = asleep.saturating_sub(self.slept.swap(asleep, Ordering::Relaxed));
        let slept = Duration::from_millis(slept);
        if slept >= SLEPT_MIN {
            return self.slept_for(slept);
        }
        // It did not sleep after all, or somebody has looked at the clock before.
        tracing::info!("this machine stays awake: S3 is connected to anew");
        self.distrust(Instant::now());
    }

    /// A request begins to be tried. Until it ends, nobody else need ask in order to learn whether S3 is back.
    pub(super) fn trying(self: &Arc<Self>) -> Trying {
        self.n_trying.fetch_add(1, Ordering::Relaxed);
        self.look_at_clock();
        Trying(Arc::clone(self))
    }

    /// S3 has said something, be it a piece of a body. True where that ends an outage.
    pub(super) fn answered(&self) -> bool {
        self.answered.store(millis(self.started.elapsed()), Ordering::Relaxed);
        if !self.is_troubled.load(Ordering::Acquire) {
            return false;
        }
        let trouble = {
            let mut trouble = self.trouble.lock();
            self.is_troubled.store(false, Ordering::Release);
            std::mem::take(&mut *trouble)
        };
        if let Some(since) = trouble.out_since {
            // What was connected before may be dead, and nobody knows.
            self.distrust(Instant::now());
            // A warning, too: who has read that it began wants to read that it is over.
            tracing::warn!("S3 answers again, after {:.0?}", whole_seconds(since.elapsed()));
        }
        self.changed.notify_waiters();
        trouble.out_since.is_some()
    }

    /// As [`Reach::answered`], where `err` is what S3 said.
    pub(super) fn failed_by_answer(&self, err: &StoreError) -> bool {
        is_word_of_s3(err) && self.answered()
    }

    /// A try that was sent at `sent` failed in a way that may pass.
    pub(super) fn failed(&self, sent: Instant, err: &StoreError) {
        match err.kind() {
            StoreErrorKind::Corrupt => return,
            StoreErrorKind::TimedOut => self.distrust(sent),
            _ => {}
        }
        let now = Instant::now();
        let answered = self.started + Duration::from_millis(self.answered.load(Ordering::Relaxed));
        {
            let mut trouble = self.trouble.lock();
            let since = trouble.span.map_or(now, |(since, _)| since).min(sent.max(answered));
            trouble.span = Some((since, now));
            trouble.n_refusals += u32::from(err.kind() == StoreErrorKind::Unreachable);
            trouble.reason = err.message();
            self.is_troubled.store(true, Ordering::Release);
        }
        self.changed.notify_waiters();
        self.look(now);
    }

    /// Whether nothing has been answered since.
    pub(super) fn is_silent_since(&self, instant: Instant) -> bool {
        let answered = self.answered.load(Ordering::Relaxed);
        answered <= millis(instant.saturating_duration_since(self.started))
    }

    /// Whether S3 is out.
    pub fn is_out(&self) -> bool {
        self.is_troubled.load(Ordering::Acquire) && self.trouble.lock().out_since.is_some()
    }

    /// Whether an old answer may be served where a new one could not be had.
    pub fn serves_on(&self) -> bool {
        let out_since = self.trouble.lock().out_since;
        let age = out_since.map_or(Duration::ZERO, |since| since.elapsed());
        !self.grace.left(age).is_zero()
    }

    /// Whether who has an old answer shall serve it without asking: S3 is out, and another question is on
    /// its way, or one has just failed; or the machine is about to sleep.
    pub fn serves_at_once(&self) -> bool {
        if self.quiet.has_begun() {
            return self.serves_on();
        }
        if !self.is_out() || !self.serves_on() {
            return false;
        }
        let failed = self.trouble.lock().span.map(|(_, last)| last.elapsed());
        self.n_trying.load(Ordering::Relaxed) > 0 || failed.is_some_and(|age| age < FAILED_LATELY)
    }

    /// What `ask` comes to; `None` as soon as S3 is out, for those who have an old answer. What it has
    /// begun as tasks goes on, and is how it is found out that S3 is back.
    pub async fn unless_out<T>(&self, ask: impl Future<Output = T>) -> Option<T> {
        if self.serves_at_once() {
            return None;
        }
        let was_out = self.is_out();
        tokio::select! {
            biased;
            answer = ask => Some(answer),
            () = self.out_for(was_out) => None,
            () = self.quiet.begun(), if self.serves_on() => None,
        }
    }

    /// Ready when S3 is out and old answers are served.
    async fn out_for(&self, was_out: bool) {
        if was_out {
            sleep(PROBE_FOR).await;
        }
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.look(Instant::now()) {
                Look::Out if self.serves_on() => return,
                Look::Troubled(until) => tokio::select! {
                    () = sleep_until(until) => {}
                    () = changed => {}
                },
                Look::Out | Look::Fine => changed.await,
            }
        }
    }

    /// Ready when S3 answers after an outage; at once where there is none.
    pub(super) async fn back(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if !self.is_out() {
                return;
            }
            changed.await;
        }
    }

    /// How it is, which may have become an outage by the time that has passed.
    fn look(&self, now: Instant) -> Look {
        if !self.is_troubled.load(Ordering::Acquire) {
            return Look::Fine;
        }
        let (since, reason) = {
            let mut trouble = self.trouble.lock();
            let Some((since, _)) = trouble.span else { return Look::Fine };
            if trouble.out_since.is_some() {
                return Look::Out;
            }
            let refused = trouble.n_refusals >= REFUSALS_MIN;
            let until = since + if refused { REFUSED_FOR } else { SILENT_FOR };
            if now < until {
                return Look::Troubled(until);
            }
            trouble.out_since = Some(since);
            (since, trouble.reason.clone())
        };
        let served = match self.grace {
            Ttl::For(Duration::ZERO) => {
                "nothing is served beyond its time (--offline-grace 0)".to_owned()
            }
            Ttl::For(grace) => format!(
                "what is known and cached is served for up to {} (--offline-grace)",
                humantime::format_duration(grace)
            ),
            Ttl::Forever => "what is known and cached is served until it can".to_owned(),
        };
        let age = whole_seconds(now.saturating_duration_since(since));
        tracing::warn!("S3 cannot be reached for {age:.0?}, {served}: {reason}");
        self.changed.notify_waiters();
        Look::Out
    }

    /// Connections that were made before `instant` are not used any more.
    fn distrust(&self, instant: Instant) {
        let before = millis(instant.saturating_duration_since(self.started));
        self.distrusted.fetch_max(before, Ordering::Relaxed);
    }

    /// Whether a connection that was made at `made` may still be used.
    pub(super) fn trusts(&self, made: Instant) -> bool {
        let made = millis(made.saturating_duration_since(self.started));
        made >= self.distrusted.load(Ordering::Relaxed)
    }

    /// Looks whether this machine slept since it was last looked. tokio's clock stands still meanwhile, so
    /// that idle connections do not seem to be; S3 has closed them.
    fn look_at_clock(&self) {
        let asleep = millis((self.asleep)());
        let before = self.slept.load(Ordering::Relaxed);
        let slept = Duration::from_millis(asleep.saturating_sub(before));
        // Of two who look at once, one says it.
        let exchange = |new| {
            let order = Ordering::Relaxed;
            self.slept.compare_exchange(before, new, order, order).is_ok()
        };
        if slept >= SLEPT_MIN && exchange(asleep) {
            self.slept_for(slept);
        }
    }

    fn slept_for(&self, slept: Duration) {
        let slept = whole_seconds(slept);
        tracing::info!("this machine slept for {slept:.0?}: S3 is connected to anew");
        self.distrust(Instant::now());
    }

    /// Ready when this machine has slept since, so that nothing is to be expected of what was sent before.
    pub(super) async fn slept(&self) {
        let before = self.slept.load(Ordering::Relaxed);
        loop {
            sleep(CLOCK_EVERY).await;
            self.look_at_clock();
            // Whoever looked first.
            let slept = self.slept.load(Ordering::Relaxed) - before;
            if Duration::from_millis(slept) >= SLEPT_MIN {
                return;
            }
        }
    }
}

enum Look {
    Fine,
    /// It is out if nothing is answered until then.
    Troubled(Instant),
    Out,
}

/// A request that is being tried; see [`Reach::trying`].
pub(super) struct Trying(Arc<Reach>);

impl Drop for Trying {
    fn drop(&mut self) {
        self.0.n_trying.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether S3, and nothing before it, said what `err` says: not a proxy, not a captive portal, and not the
/// lack of credentials, which is found before anything is sent.
fn is_word_of_s3(err: &StoreError) -> bool {
    let is_of_s3 = err.cause().is_none_or(|cause| matches!(cause, Cause::Clock(_)));
    is_of_s3
        && match err.kind() {
            StoreErrorKind::NoCredentials => false,
            StoreErrorKind::BadCredentials => err.status().is_some(),
            kind => !kind.is_transient(),
        }
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs((time + Duration::from_millis(500)).as_secs())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    const GRACE: Duration = Duration::from_secs(3600);

    fn reach() -> Arc<Reach> {
        Arc::new(Reach::with_clock(Ttl::For(GRACE), || Duration::ZERO))
    }

    fn error(kind: StoreErrorKind) -> StoreError {
        StoreError::new(kind, "planned")
    }

    /// Fails tries of no length, one a second, for so many seconds.
    async fn fail_for(reach: &Reach, kind: StoreErrorKind, seconds: u64) {
        for _ in 0..seconds {
            reach.failed(Instant::now(), &error(kind));
            advance(Duration::from_secs(1)).await;
        }
        reach.failed(Instant::now(), &error(kind));
    }

    async fn never() {
        std::future::pending::<()>().await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_out_after_3_s_of_refusals_or_10_s_without_an_answer() {
        for (kind, seconds) in [
            (StoreErrorKind::Unreachable, 3),
            (StoreErrorKind::TimedOut, 10),
            (StoreErrorKind::Throttled, 10),
        ] {
            let reach = reach();
            fail_for(&reach, kind, seconds - 1).await;
            assert!(!reach.is_out(), "{kind:?}");
            advance(Duration::from_secs(1)).await;
            reach.failed(Instant::now(), &error(kind));
            assert!(reach.is_out(), "{kind:?}");
            reach.answered();
            assert!(!reach.is_out());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_between_failures_shows_that_it_is_there() {
        let reach = reach();
        for _ in 0..20 {
            fail_for(&reach, StoreErrorKind::TimedOut, 5).await;
            reach.answered();
        }
        assert!(!reach.is_out());
        // What was sent before the last answer says nothing of the time before that.
        let sent = Instant::now();
        advance(Duration::from_secs(9)).await;
        reach.answered();
        advance(Duration::from_secs(9)).await;
        reach.failed(sent, &error(StoreErrorKind::TimedOut));
        assert!(!reach.is_out());
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_is_an_answer_and_a_portal_is_none() {
        let reach = reach();
        fail_for(&reach, StoreErrorKind::Unreachable, 3).await;
        reach.failed_by_answer(&error(StoreErrorKind::Other).with_cause(Cause::NotS3));
        reach.failed_by_answer(&error(StoreErrorKind::NoCredentials));
        reach.failed_by_answer(&error(StoreErrorKind::BadCredentials));
        assert!(reach.is_out());
        reach.failed_by_answer(&error(StoreErrorKind::Denied));
        assert!(!reach.is_out());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_with_an_old_answer_is_let_go_when_it_is_out() {
        let reach = reach();
        let waiting = {
            let reach = Arc::clone(&reach);
            tokio::spawn(async move { reach.unless_out(never()).await })
        };
        advance(Duration::from_secs(60)).await;
        assert!(!waiting.is_finished(), "nothing has failed");
        let start = Instant::now();
        reach.failed(start, &error(StoreErrorKind::TimedOut));
        assert_eq!(waiting.await.unwrap(), None);
        assert_eq!(start.elapsed(), SILENT_FOR, "without a further failure");
    }

    #[tokio::test(start_paused = true)]
    async fn in_an_outage_one_asks_and_all_others_are_served_at_once() {
        let reach = reach();
        fail_for(&reach, StoreErrorKind::Unreachable, 3).await;
        assert_eq!(reach.unless_out(never()).now_or_never(), Some(None), "it has just failed");
        advance(Duration::from_secs(60)).await;
        let start = Instant::now();
        let _trying = reach.trying();
        assert_eq!(reach.unless_out(never()).now_or_never(), Some(None), "another one asks");
        drop(_trying);
        assert_eq!(reach.unless_out(async { 7 }).await, Some(7), "this one may");
        assert_eq!(reach.unless_out(never()).await, None);
        assert_eq!(start.elapsed(), PROBE_FOR);
    }

    #[tokio::test(start_paused = true)]
    async fn old_answers_end_with_the_grace() {
        let reach = reach();
        assert!(reach.serves_on(), "of one request that failed");
        fail_for(&reach, StoreErrorKind::Unreachable, GRACE.as_secs() - 1).await;
        assert!(reach.serves_on() && reach.serves_at_once());
        advance(Duration::from_secs(1)).await;
        assert!(!reach.serves_on() && !reach.serves_at_once());
        let none = Arc::new(Reach::with_clock(Ttl::For(Duration::ZERO), || Duration::ZERO));
        fail_for(&none, StoreErrorKind::Unreachable, 5).await;
        assert!(none.is_out() && !none.serves_on() && !none.serves_at_once());
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_before_a_silence_an_outage_or_a_sleep_are_not_trusted() {
        let asleep = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&asleep);
        let reach = Reach::with_clock(Ttl::Forever, move || {
            Duration::from_secs(clock.load(Ordering::Relaxed))
        });
        let reach = Arc::new(reach);
        let second = Duration::from_secs(1);
        advance(second).await;
        let made = Instant::now();
        assert!(reach.trusts(made));
        advance(second).await;
        reach.failed(Instant::now(), &error(StoreErrorKind::Unreachable));
        assert!(reach.trusts(made), "that one was closed");
        reach.failed(Instant::now(), &error(StoreErrorKind::TimedOut));
        assert!(!reach.trusts(made) && reach.trusts(Instant::now()));

        let made = Instant::now();
        fail_for(&reach, StoreErrorKind::Unreachable, 3).await;
        assert!(reach.trusts(made));
        reach.answered();
        assert!(!reach.trusts(made) && reach.trusts(Instant::now()));

        let made = Instant::now();
        advance(second).await;
        drop(reach.trying());
        assert!(reach.trusts(made));
        let slept = {
            let reach = Arc::clone(&reach);
            tokio::spawn(async move { reach.slept().await })
        };
        advance(60 * second).await;
        assert!(!slept.is_finished());
        asleep.store(3600, Ordering::Relaxed);
        let _trying = reach.trying();
        assert!(!reach.trusts(made));
        slept.await.unwrap();
        assert!(reach.slept().now_or_never().is_none(), "that is over");
    }
}
