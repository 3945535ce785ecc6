//! Time in which this process ran, and what the sleep of the machine makes of it.
//!
//! A process that was stopped, or frozen with its container, hears only afterwards of answers that came
//! meanwhile: by the clock alone, all that waited would fail at that moment. (The clock itself stands still
//! while the machine sleeps.) And a program that waits in the kernel cannot be frozen: a machine that is to
//! sleep would wait for its answer, and in the end not sleep. So before that, and until it is over, those who
//! wait have little time: [`Quiet`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// No machine is so busy that a timer comes so late.
const LATE: Duration = Duration::from_secs(3);

/// Into how many pieces a deadline is cut: one of them is what is left, at least, to those who waited
/// when the process was frozen.
const STEPS: u32 = 4;

/// Nobody has waited for so long: the programs are not between two requests, as one that copies is all the
/// time.
const STILL: Duration = Duration::from_millis(200);

/// What failed is asked for again by the kernel (a buffered read) or by a program (the next name) at once. That is
/// answered at once, too, and is not to be under way when the machine stands still.
const AGAIN: Duration = Duration::from_millis(50);

/// Why somebody does not wait any longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TimeIsUp {
    /// The process ran for as long as was asked for.
    Ran,
    /// The machine goes to sleep.
    Sleep,
}

/// Ready when the process ran for so long, or when the machine goes to sleep and those who wait have waited
/// enough.
pub(crate) async fn awake_for(time: Duration, quiet: &Quiet) -> TimeIsUp {
    tokio::select! {
        biased;
        () = quiet.over() => {
            quiet.n_ended.fetch_add(1, Ordering::Relaxed);
            TimeIsUp::Sleep
        }
        () = ran_for(time) => TimeIsUp::Ran,
    }
}

/// Ready when the process ran for so long.
pub(crate) async fn ran_for(time: Duration) {
    let step = time / STEPS;
    for _ in 0..STEPS {
        loop {
            let until = Instant::now() + step;
            sleep(step).await;
            if overslept(until).is_zero() {
                break;
            }
        }
    }
}

/// For how long the process did not run, if a timer for `until` has just come.
pub(crate) fn overslept(until: Instant) -> Duration {
    let late = Instant::now().saturating_duration_since(until);
    if late < LATE { Duration::ZERO } else { late }
}

/// How long this machine has slept since it was started: the one clock counts that, the other does not.
pub(crate) fn slept_so_far() -> Duration {
    let (boot, awake) = (clock(libc::CLOCK_BOOTTIME), clock(libc::CLOCK_MONOTONIC));
    boot.saturating_sub(awake)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call may write to; nothing else is touched.
    let failed = unsafe { libc::clock_gettime(id, &raw mut time) } != 0;
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    if failed { Duration::ZERO } else { Duration::new(seconds, nanos) }
}

/// Whether the machine is about to sleep, of one mount. What is known is answered as ever; what has to be
/// asked for is waited for until a moment that is the same for all, and from then on not at all.
pub(crate) struct Quiet {
    /// When waiting ends; `None` while the machine stays awake.
    until: watch::Sender<Option<Instant>>,
    n_waiting: AtomicUsize,
    /// For whom there was no more time since it began.
    n_ended: AtomicUsize,
    /// When one of them last left, in milliseconds since `started`.
    left: AtomicU64,
    /// The last one has left.
    empty: Notify,
    started: Instant,
}

impl Default for Quiet {
    fn default() -> Self {
        Self {
            until: watch::Sender::new(None),
            n_waiting: AtomicUsize::new(0),
            n_ended: AtomicUsize::new(0),
            left: AtomicU64::new(0),
            empty: Notify::new(),
            // Before the first request, and so that nobody seems to have just left.
            started: Instant::now(),
        }
    }
}

impl Quiet {
    /// The machine is to sleep: who waits, or begins to, gets `time` from now on.
    pub(crate) fn begin(&self, time: Duration) {
        self.n_ended.store(0, Ordering::Relaxed);
        self.until.send_replace(Some(Instant::now() + time));
    }

    /// The machine is awake, and stays so.
    pub(crate) fn end(&self) {
        self.until.send_replace(None);
    }

    /// Whether it has begun, so that nothing is to be asked that nobody waits for.
    pub(crate) fn has_begun(&self) -> bool {
        self.until.borrow().is_some()
    }

    /// Ready when it has begun.
    pub(crate) async fn begun(&self) {
        // The sender is ours, so that it is there.
        let _ = self.until.subscribe().wait_for(Option::is_some).await;
    }

    /// Ready when nothing is waited for any more.
    pub(crate) async fn over(&self) {
        let mut told = self.until.subscribe();
        loop {
            let until = *told.borrow_and_update();
            match until {
                Some(until) if until <= Instant::now() => return,
                Some(until) => tokio::select! {
                    () = sleep_until(until) => return,
                    _ = told.changed() => {}
                },
                None => {
                    let _ = told.changed().await;
                }
            }
        }
    }

    /// Somebody waits, until this is dropped.
    pub(crate) fn waiting(self: &Arc<Self>) -> Waiting {
        self.n_waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(Arc::clone(self))
    }

    /// Ready when nobody waits, and nobody will until [`Quiet::end`]: as soon as nobody did for a moment, else
    /// when the time that [`Quiet::begin`] gave is over and all have left. Gives for how many it was over.
    pub(crate) async fn settled(&self) -> usize {
        tokio::select! {
            () = self.over() => {}
            () = self.still() => {}
        }
        let over = |until: &mut Option<Instant>| *until = until.map(|_| Instant::now());
        self.until.send_modify(over);
        // Who is not counted yet sees that it is over.
        self.nobody().await;
        let n_ended = self.n_ended.load(Ordering::Relaxed);
        if n_ended > 0 {
            sleep(AGAIN).await;
            self.nobody().await;
        }
        n_ended
    }

    /// Ready when nobody has waited for a moment.
    async fn still(&self) {
        loop {
            self.nobody().await;
            let left = self.started + Duration::from_millis(self.left.load(Ordering::Relaxed));
            let still = left.elapsed();
            if still >= STILL {
                return;
            }
            sleep(STILL - still).await;
        }
    }

    async fn nobody(&self) {
        loop {
            let mut empty = std::pin::pin!(self.empty.notified());
            // From here on nothing is missed.
            empty.as_mut().enable();
            if self.n_waiting.load(Ordering::SeqCst) == 0 {
                return;
            }
            empty.await;
        }
    }
}

/// See [`Quiet::waiting`].
pub(crate) struct Waiting(Arc<Quiet>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let Quiet { n_waiting, left, empty, started, .. } = &*self.0;
        let now = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        left.store(now, Ordering::Relaxed);
        if n_waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
            empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const TIME: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_process_was_frozen_does_not_count() {
        let waiting = tokio::spawn(ran_for(MINUTE));
        for _ in 0..=STEPS {
            sleep(MINUTE / 6).await;
            tokio::time::advance(MINUTE * 60).await;
        }
        sleep(MINUTE / STEPS).await;
        assert!(!waiting.is_finished());
        tokio::time::timeout(MINUTE, waiting).await.expect("it comes to an end").unwrap();
        let start = Instant::now();
        ran_for(MINUTE).await;
        assert_eq!(start.elapsed(), MINUTE);
    }

    /// How long somebody waits who begins to so long after the machine was told to sleep.
    async fn patience(quiet: &Quiet, after: Duration) -> (Duration, TimeIsUp) {
        quiet.begin(TIME);
        sleep(after).await;
        let start = Instant::now();
        let why = awake_for(MINUTE, quiet).await;
        quiet.end();
        (start.elapsed(), why)
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_has_what_is_left_of_one_time_for_all() {
        let quiet = Quiet::default();
        let second = Duration::from_secs(1);
        assert_eq!(patience(&quiet, Duration::ZERO).await, (TIME, TimeIsUp::Sleep));
        assert_eq!(patience(&quiet, second).await, (TIME - second, TimeIsUp::Sleep));
        assert_eq!(patience(&quiet, MINUTE).await, (Duration::ZERO, TimeIsUp::Sleep));
        let start = Instant::now();
        assert_eq!(awake_for(MINUTE, &quiet).await, TimeIsUp::Ran);
        assert_eq!(start.elapsed(), MINUTE, "as ever, afterwards");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waited_before_has_no_more_and_as_ever_where_the_machine_stays_awake() {
        let quiet = Arc::new(Quiet::default());
        let begin = || {
            let quiet = Arc::clone(&quiet);
            tokio::spawn(async move {
                let start = Instant::now();
                (awake_for(MINUTE, &quiet).await, start.elapsed())
            })
        };
        let waiting = begin();
        sleep(Duration::from_secs(5)).await;
        quiet.begin(TIME);
        assert_eq!(waiting.await.unwrap(), (TimeIsUp::Sleep, Duration::from_secs(7)));
        quiet.end();
        let waiting = begin();
        sleep(Duration::from_secs(5)).await;
        quiet.begin(TIME);
        sleep(TIME / 2).await;
        quiet.end();
        assert_eq!(waiting.await.unwrap(), (TimeIsUp::Ran, MINUTE));
    }

    #[tokio::test(start_paused = true)]
    async fn it_settles_when_nobody_has_waited_for_a_moment_or_when_all_have_left() {
        let quiet = Arc::new(Quiet::default());
        sleep(MINUTE).await;
        quiet.begin(TIME);
        assert_eq!(quiet.settled().now_or_never(), Some(0), "nobody waits, and nobody did");
        assert!(quiet.over().now_or_never().is_some(), "nobody is waited for from then on");
        quiet.end();

        let start = Instant::now();
        let waiting = quiet.waiting();
        quiet.begin(TIME);
        let settled = tokio::spawn({
            let quiet = Arc::clone(&quiet);
            async move { quiet.settled().await }
        });
        sleep(TIME / 4).await;
        drop(waiting);
        assert_eq!(settled.await.unwrap(), 0);
        assert_eq!(start.elapsed(), TIME / 4 + STILL);
        quiet.end();

        let start = Instant::now();
        let waiting = quiet.waiting();
        quiet.begin(TIME);
        let settled = tokio::spawn({
            let quiet = Arc::clone(&quiet);
            async move { quiet.settled().await }
        });
        assert_eq!(awake_for(MINUTE, &quiet).await, TimeIsUp::Sleep);
        sleep(STILL).await;
        assert!(!settled.is_finished(), "its answer is being written");
        drop(waiting);
        assert_eq!(settled.await.unwrap(), 1);
        assert_eq!(start.elapsed(), TIME + STILL + AGAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_asks_again_and_again_is_between_two_requests() {
        let quiet = Arc::new(Quiet::default());
        let reader = tokio::spawn({
            let quiet = Arc::clone(&quiet);
            async move {
                loop {
                    let waiting = quiet.waiting();
                    sleep(STILL / 10).await;
                    drop(waiting);
                    sleep(STILL / 10).await;
                }
            }
        });
        sleep(STILL).await;
        let start = Instant::now();
        quiet.begin(TIME);
        quiet.settled().await;
        assert!(start.elapsed() >= TIME, "{:?}", start.elapsed());
        reader.abort();
    }
}
