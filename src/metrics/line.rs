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
const QUEUE: Duration = Duration::from_millis(100);

/// First bytes that took longer say more of the server, or of the queue itself, than of the line.
const FIRST_BYTE_MAX: Duration = Duration::from_millis(200);

/// One aligned request: the least part.
const PART_BYTES: u64 = 128 << 10;

/// Parts of a stream are so much larger, 4 MiB, unless the line takes longer for one than this.
const PARTS_IN_LARGE: u32 = 32;
const LARGE_MAX: Duration = Duration::from_millis(125);

/// A connection on which a part takes longer brings nothing to speak of.
const PART_MAX: Duration = Duration::from_secs(2);

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
    /// The same of what a part takes on one connection, from its first byte on.
    part: AtomicU64,
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
        note_shortest(&self.first_byte, elapsed);
    }

    /// One connection brought `bytes` of a body in `elapsed`.
    pub(super) fn body_seen(&self, bytes: u64, elapsed: Duration) {
        let nanos = elapsed.as_nanos() * u128::from(PART_BYTES) / u128::from(bytes.max(1));
        let part = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        note_shortest(&self.part, part);
    }

    /// Bytes a second.
    pub(super) fn speed(&self) -> Option<u64> {
        let best = self.best.load(Ordering::Relaxed);
        let speed = best.max(self.best_before.load(Ordering::Relaxed));
        (speed > 0).then_some(speed)
    }

    /// How many bytes may be on their way: what the line brings in twice its delay, in the time of a part,
    /// and in [`QUEUE`]. Twice, and the time of a part, so that the bound can grow where it was itself what kept
    /// the line from bringing more: a slow connection is no slow line, as others may be just as fast
    /// beside it.
    pub(super) fn window_bytes(&self) -> Option<u64> {
        let speed = self.speed()?;
        let first_byte = shortest(&self.first_byte).min(FIRST_BYTE_MAX);
        let least = shortest(&self.part).min(PART_MAX);
        let part = (least * PARTS_IN_LARGE).min(LARGE_MAX).max(least);
        let lasts = first_byte * 2 + part + QUEUE;
        let bytes = u128::from(speed) * lasts.as_nanos() / 1_000_000_000;
        Some(u64::try_from(bytes).unwrap_or(u64::MAX).max(PART_BYTES))
    }
}

fn note_shortest(complement: &AtomicU64, time: Duration) {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    complement.fetch_max(!nanos, Ordering::Relaxed);
}

/// Very long where nothing was noted yet.
fn shortest(complement: &AtomicU64) -> Duration {
    Duration::from_nanos(!complement.load(Ordering::Relaxed))
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
        line.body_seen(125_000, Duration::from_millis(100));
        line.body_seen(125_000, Duration::from_millis(300));
        line.brought(1_250_000, SECOND, SECOND);
        line
    }

    #[test]
    fn the_window_is_what_comes_in_twice_the_shortest_delay_the_time_of_a_part_and_100_ms() {
        assert_eq!(Line::default().window_bytes(), None);
        assert_eq!(slow().window_bytes(), Some(481_250));
        let line = Line::default();
        line.first_byte_seen(SECOND);
        line.body_seen(PART_BYTES, 10 * SECOND);
        line.brought(1_000_000, SECOND, SECOND);
        assert_eq!(line.window_bytes(), Some(2_500_000), "a server that thinks is no long line");
        line.brought(1, SECOND, 100 * SECOND);
        line.brought(1, SECOND, 200 * SECOND);
        assert_eq!(line.window_bytes(), Some(PART_BYTES));
    }

    #[test]
    fn slow_connections_beside_each_other_are_each_let_in() {
        let line = Line::default();
        line.first_byte_seen(Duration::from_millis(20));
        // 0.1 MB/s each.
        line.body_seen(100_000, SECOND);
        let mut n_parts = 1;
        for round in 1..20 {
            line.brought(n_parts * 100_000, SECOND, round * SECOND);
            let window = line.window_bytes().unwrap();
            assert!(window > n_parts * PART_BYTES, "round {round}: {window}");
            n_parts = window.div_ceil(PART_BYTES);
        }
        assert!(n_parts > 10, "{n_parts}");
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
