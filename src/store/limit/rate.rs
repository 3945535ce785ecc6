//! `--max-bandwidth`: when bytes that have come may be handed on, so that no more come in a second.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Timers fire up to a millisecond late, and without catching up that would be lost with each chunk.
const CATCH_UP: Duration = Duration::from_millis(20);

/// A bound on bytes per second, which all bodies share.
pub(super) struct Rate {
    bytes_per_second: u64,
    /// When all that has come was due.
    free_at: Mutex<Instant>,
}

impl Rate {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// So many bytes have come; says when they are due. What is not waited for, as metadata, is made up
    /// for by what comes next.
    pub(super) fn came(&self, bytes: u64) -> Instant {
        let takes = Duration::from_nanos(
            bytes.saturating_mul(1_000_000_000) / self.bytes_per_second.max(1),
        );
        let mut free_at = self.free_at.lock();
        let now = Instant::now();
        *free_at = (*free_at).max(now.checked_sub(CATCH_UP).unwrap_or(now)) + takes;
        *free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_are_due_one_after_the_other_and_idle_time_is_lost() {
        let rate = Rate::new(1_000_000);
        tokio::time::advance(Duration::from_secs(60)).await;
        let now = Instant::now();
        assert_eq!(rate.came(20_000), now, "the first are due already");
        assert_eq!(rate.came(500_000) - now, Duration::from_millis(500));
        assert_eq!(rate.came(500_000) - now, Duration::from_secs(1));
    }
}
