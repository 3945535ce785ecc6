//! How far ahead of one reader is worth asking: a bound that is earned.
//!
//! It doubles when the reader catches up with the line, for as long as that makes the reader nearly twice as
//! fast, and goes back when it made it no faster, so it settles near bandwidth times delay: beyond that,
//! memory buys nothing and its page faults cost. A reader that waits while much of what lies beyond has come does not wait for
//! the line as a whole, and a larger window would not help it.

use std::time::Duration;

use super::Bounds;

/// A doubled window stays if the reader became faster by this factor.
const GAIN_WORTH_KEEPING: f64 = 1.2;

/// It is doubled again if the reader became faster by this factor: by less, what bounds it now is something
/// else.
const GAIN_WORTH_MORE: f64 = 1.6;

/// With more than one byte in so many there already, the line is not what a reader waits for.
const READY_SHARE: u64 = 4;

/// Windows read before a doubling that did not help is tried again.
const WINDOWS_BETWEEN_TRIALS: u64 = 8;

/// A speed is measured over so many windows: one is a single round trip of all its parts.
const WINDOWS_MEASURED: u64 = 2;

/// The bound before the reader ever had to wait: a near server needs no more.
pub(super) const WINDOW_BYTES_START: u64 = 16 << 20;

/// The bound of one reader. Positions are counts of the bytes it has read.
#[derive(Debug)]
pub(crate) struct Window {
    bytes_max: u64,
    /// It is never less.
    bytes_min: u64,
    /// Where, and when, the speed of the present bound began to be measured.
    mark_at: u64,
    mark_when: Duration,
    /// Nothing is measured before this position.
    hold_until: u64,
    /// Bytes per second before the bound was doubled, while it is on trial.
    trial: Option<f64>,
}

impl Window {
    /// Of a reader that begins at position 0 at `now`; at least `bytes_min`, with which it begins.
    pub(crate) fn new(bytes_min: u64, now: Duration) -> Self {
        Self {
            bytes_max: bytes_min,
            bytes_min,
            mark_at: 0,
            mark_when: now,
            hold_until: 0,
            trial: None,
        }
    }

    /// The most to ask for ahead, in bytes.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The reader waited at position `at` though all of the bound had been asked for, `ready` bytes of
    /// which had come. One slow answer is not taken for a far server, as each change is judged by at
    /// least two windows of bytes, which begin a window after it: until then it has not come into effect.
    pub(crate) fn stalled(&mut self, at: u64, now: Duration, ready: u64, bounds: Bounds) {
        if at < self.hold_until || ready > self.bytes_max / READY_SHARE {
            return;
        }
        if self.mark_at < self.hold_until {
            (self.mark_at, self.mark_when) = (at, now);
        }
        let read = at - self.mark_at;
        if read < self.bytes_max * WINDOWS_MEASURED {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a speed needs no 53 bits")]
        let speed = read as f64 / now.saturating_sub(self.mark_when).as_secs_f64().max(1e-6);
        let gain = self.trial.map(|before| speed / before);
        if gain.is_none_or(|gain| gain >= GAIN_WORTH_MORE) && self.bytes_max < bounds.window_max {
            self.trial = Some(speed);
            self.bytes_max = (self.bytes_max * 2).min(bounds.window_max);
            self.hold_until = at + self.bytes_max;
            return;
        }
        if gain.is_some_and(|gain| gain < GAIN_WORTH_KEEPING) {
            self.bytes_max = (self.bytes_max / 2).max(self.bytes_min);
        }
        self.trial = None;
        self.hold_until = at + self.bytes_max * WINDOWS_BETWEEN_TRIALS;
    }
}
