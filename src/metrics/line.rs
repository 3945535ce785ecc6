//! The line to S3 as a whole: what all connections together bring in a second, and how much may be on
//! its way so that it is full and no longer than that. Whatever is asked for beyond waits in the queues of
//! the server and of the line, and whoever comes later waits behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The fastest of the last two counts as the line's speed. Long enough that somebody read without
/// pause in one of them, short enough that a line which became slower is believed soon.
const PERIOD: Duration = Duration::from_secs(5);

/// What may wait in the queues beside what the delay of the line holds. Less would leave it idle when
/// answers are uneven; a fresh read waits for so long at worst.
const QUEUE: Duration = Duration::from_millis(200);

/// First bytes that took longer say more of the server, or of the queue itself, than of the line.
const FIRST_BYTE_MAX: Duration = Duration::from_millis(200);

/// One aligned request.
const WINDOW_BYTES_MIN: u64 = 128 << 10;

/// What is known of it.
#[derive(Default, Debug)]
pub(super) struct Line {
    /// Bytes a second, at best, in the present period and in the one before that had a sample; 0 is
    /// nothing yet.
    best: AtomicU64,
    best_before: AtomicU64,
    /// Of `best`, counted from 1.
    period: AtomicU64,
    /// The complement of the shortest ever in nanoseconds, so that 0 is nothing yet.
    first_byte: AtomicU64,
}

impl Line {
    /// The mount received `bytes` during `elapsed`, which ended at `now` by the mount's clock.
    pub(super) fn brought(&self, bytes: u64, elapsed: Duration, now: Duration) {
        let nanos = elapsed.as_nanos().max(1);
        let speed = u128::from(bytes) * 1_000_000_000 / nanos;
        let speed = u64::try_from(speed).unwrap_or(u64::MAX).max(1);
        let period = now.as_secs() / PERIOD.as_secs() + 1;
        let before = self.period.load(Ordering::Relaxed);
        let is_next = period > before
            && self
                .period
                .compare_exchange(before, period, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_next {
            let last = self.best.swap(speed, Ordering::Relaxed);
            self.best_before.store(last, Ordering::Relaxed);
        } else {
            self.best.fetch_max(speed, Ordering::Relaxed);
        }
    }

    pub(super) fn first_byte_seen(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.first_byte.fetch_max(!nanos, Ordering::Relaxed);
    }

    /// Bytes a second.
    pub(super) fn speed(&self) -> Option<u64> {
        let best = self.best.load(Ordering::Relaxed);
        let speed = best.max(self.best_before.load(Ordering::Relaxed));
        (speed > 0).then_some(speed)
    }

    /// How many bytes may be on their way: what the line brings in twice its delay, and [`QUEUE`]. Twice,
    /// so that the bound can grow where it was itself what kept the line from bringing more.
    pub(super) fn window_bytes(&self) -> Option<u64> {
        let speed = self.speed()?;
        let first_byte = Duration::from_nanos(!self.first_byte.load(Ordering::Relaxed));
        let lasts = first_byte.min(FIRST_BYTE_MAX) * 2 + QUEUE;
        let bytes = u128::from(speed) * lasts.as_nanos() / 1_000_000_000;
        Some(u64::try_from(bytes).unwrap_or(u64::MAX).max(WINDOW_BYTES_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A line of 10 Mbit/s and 80 ms.
    fn slow() -> Line {
        let line = Line::default();
        line.first_byte_seen(Duration::from_millis(80));
        line.first_byte_seen(Duration::from_millis(300));
        line.brought(1_250_000, SECOND, SECOND);
        line
    }

    #[test]
    fn the_window_is_what_comes_in_twice_the_shortest_delay_and_a_fifth_of_a_second() {
        assert_eq!(Line::default().window_bytes(), None);
        assert_eq!(slow().window_bytes(), Some(450_000));
        let line = Line::default();
        line.first_byte_seen(SECOND);
        line.brought(1_000_000, SECOND, SECOND);
        assert_eq!(line.window_bytes(), Some(600_000), "a server that thinks is no long line");
        line.brought(1, SECOND, 100 * SECOND);
        line.brought(1, SECOND, 200 * SECOND);
        assert_eq!(line.window_bytes(), Some(WINDOW_BYTES_MIN));
    }

    #[test]
    fn a_slower_line_is_believed_after_two_periods_and_a_faster_one_at_once() {
        let line = slow();
        line.brought(10_000_000, SECOND, 2 * SECOND);
        assert_eq!(line.speed(), Some(10_000_000));
        line.brought(1_000, SECOND, 7 * SECOND);
        assert_eq!(line.speed(), Some(10_000_000));
        line.brought(2_000, SECOND, 11 * SECOND);
        assert_eq!(line.speed(), Some(2_000));
    }

    #[test]
    fn what_was_known_holds_while_nothing_is_read() {
        let line = slow();
        line.brought(1_000, SECOND, 10_000 * SECOND);
        assert_eq!(line.speed(), Some(1_250_000));
    }
}
