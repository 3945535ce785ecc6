//! Memory that nobody needs while nothing is asked for goes back to the system. One timer, which runs only
//! after something was asked for: a mount that nobody uses wakes up for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Data;

/// A program that reads on after a pause finds its memory still there; freshly mapped it costs a page fault
/// for each 4 KiB.
const QUIET: Duration = Duration::from_secs(10);

/// When something was last asked for, and whether somebody waits for it to stay the last.
#[derive(Default)]
pub(super) struct Idle {
    /// Milliseconds since the mount's start.
    last: AtomicU64,
    /// Invariant: set as long as the task of [`Data::stir`] has not begun its last look at `last`.
    is_watched: AtomicBool,
}

impl Data {
    /// Something is asked for, so that memory is in use from now on.
    pub(super) fn stir(self: &Arc<Self>) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle.last.store(now, Ordering::Relaxed);
        if self.idle.is_watched.load(Ordering::Relaxed)
            || self.idle.is_watched.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let data = Arc::downgrade(self);
        self.runtime.spawn(async move {
            while let Some(until) = data.upgrade().and_then(|data| data.look_around()) {
                sleep_until(until).await;
            }
        });
    }

    /// Gives memory back when all has been quiet for long enough; else tells when to look again.
    fn look_around(&self) -> Option<Instant> {
        let quiet_at = || {
            let last = Duration::from_millis(self.idle.last.load(Ordering::Relaxed));
            self.started + last + QUIET
        };
        if Instant::now() < quiet_at() {
            return Some(quiet_at());
        }
        self.idle.is_watched.store(false, Ordering::Release);
        // Whoever came before that may have found it watched.
        if Instant::now() < quiet_at() && !self.idle.is_watched.swap(true, Ordering::AcqRel) {
            return Some(quiet_at());
        }
        let pool = self.budget.take_pool();
        self.runtime.spawn_blocking(move || {
            let begun = Instant::now();
            drop(pool);
            trim();
            tracing::debug!("idle memory was given back in {:.1?}", begun.elapsed());
        });
        None
    }
}

/// What the allocator keeps of what was freed goes back to the system. glibc does so by itself only at the
/// end of its heaps; others do in time.
fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    // SAFETY: may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
