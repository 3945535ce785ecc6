//! What to ask for ahead of a reader. Pure: no I/O, no clock.
//!
//! A [`Detector`] keeps several cursors for one file, so that interleaved readers each keep their
//! pace. A cursor that is hit grows: its window, the distance asked for ahead, is four times what the
//! run has read so far, up to a bound. The bound doubles when the reader catches up with the line, and
//! goes back when the doubling made the stream no faster, so it settles near bandwidth times delay:
//! beyond that, memory buys nothing and its page faults cost.

use std::ops::Range;
use std::time::Duration;

/// Parts begin and end at multiples of this, or at the end of the object.
pub(crate) const ALIGN: u64 = 128 << 10;

/// The largest part.
pub(crate) const PART_BYTES_MAX: u64 = 8 << 20;

/// Parts grow to this with the window; larger ones only come with windows for which so many GETs of
/// this size would be in flight that the number of requests is the cost. At 90 MB/s and 20 ms to the
/// first byte a GET of 4 MiB uses its connection for 70 % of its time, and a stream needs 67 MB of
/// window for each GB/s, against 113 MB with parts of 8 MiB.
const PART_BYTES_USUAL: u64 = 4 << 20;

/// GETs of one stream in flight while its parts still grow.
const PARTS_AHEAD: u64 = 8;

/// GETs of one stream in flight from which on its parts grow further.
const PARTS_AHEAD_MANY: u64 = 32;

/// A doubled window stays if the stream became faster by this factor.
const GAIN_WORTH_KEEPING: f64 = 1.15;

/// Windows read before a doubling that did not help is tried again.
const WINDOWS_BETWEEN_TRIALS: u64 = 16;

/// Readers that stream side by side through one file; the least recently used cursor goes first.
const CURSORS_MAX: usize = 8;

/// The window's bound before the reader ever had to wait: a near server needs no more.
const WINDOW_BYTES_START: u64 = 16 << 20;

/// How far a read may lie from where a cursor expects it: the kernel sends several read-aheads of a
/// stream at once, and its threads deliver them in any order.
const REORDER_BYTES_MAX: u64 = 4 << 20;

/// The cursors of one file.
#[derive(Debug)]
pub(crate) struct Detector {
    size: u64,
    cursors: Vec<Cursor>,
    tick: u64,
}

#[derive(Debug)]
struct Cursor {
    /// Where the next read is expected.
    next: u64,
    /// Bytes read in this run.
    run: u64,
    /// The end of what was asked for.
    asked: u64,
    window_max: u64,
    /// Where, and when, the speed of the present window began to be measured.
    mark_at: u64,
    mark_when: Duration,
    /// No trial before this offset.
    hold_until: u64,
    /// Bytes per second before the bound was doubled, while it is on trial.
    trial: Option<f64>,
    used: u64,
}

/// The bounds that the mount sets at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes ahead of one reader.
    pub(crate) window_max: u64,
    /// Bytes of one part.
    pub(crate) part_max: u64,
}

/// What a read means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Advice {
    /// For [`Detector::asked`] and [`Detector::stalled`].
    pub(crate) cursor: usize,
    /// The read goes on from no other.
    pub(crate) is_new: bool,
    /// How large a part to ask for where this read finds nothing; [`ALIGN`] for a random read.
    pub(crate) part_bytes: u64,
    /// What to ask for ahead; empty for a random read, and while the last advice still reaches.
    pub(crate) ahead: Range<u64>,
}

impl Detector {
    /// `size` of the object, in bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self { size, cursors: Vec::new(), tick: 0 }
    }

    /// A reader asks for `len` bytes at `offset`, at `now` by any clock.
    pub(crate) fn on_read(
        &mut self,
        offset: u64,
        len: u64,
        now: Duration,
        bounds: Bounds,
    ) -> Advice {
        self.tick += 1;
        let index = self.cursors.iter().position(|cursor| cursor.expects(offset));
        let Some(index) = index else {
            let cursor = self.start_cursor(offset, len, now);
            return Advice { cursor, is_new: true, part_bytes: ALIGN, ahead: 0..0 };
        };
        let size = self.size;
        let tick = self.tick;
        let cursor = &mut self.cursors[index];
        cursor.used = tick;
        let end = offset + len;
        cursor.run += end.saturating_sub(cursor.next.max(offset));
        cursor.next = cursor.next.max(end);
        cursor.asked = cursor.asked.max(cursor.next);

        let window = (cursor.run * 4).min(cursor.window_max).min(bounds.window_max);
        let part_bytes = part_bytes(window, bounds.part_max);
        // Aligned, so that the parts of a stream begin where the kernel's requests do.
        let from = align_up(cursor.asked).min(size);
        let wanted = (cursor.next + window).min(size);
        let parts = wanted.saturating_sub(from) / part_bytes;
        let to = if wanted == size { size } else { from + parts * part_bytes };
        Advice { cursor: index, is_new: false, part_bytes, ahead: from..to.max(from) }
    }

    /// What was asked for on the advice, which may be less than advised.
    pub(crate) fn asked(&mut self, cursor: usize, until: u64) {
        if let Some(cursor) = self.cursors.get_mut(cursor) {
            cursor.asked = cursor.asked.max(until);
        }
    }

    /// The reader of `cursor` had to wait for what was asked for ahead, at `now` by any clock: a
    /// larger window may help. One slow answer is not taken for a far server, as each change is judged
    /// by at least a window of bytes.
    pub(crate) fn stalled(&mut self, cursor: usize, now: Duration, bounds: Bounds) {
        let Some(cursor) = self.cursors.get_mut(cursor) else { return };
        let full = cursor.run * 4 >= cursor.window_max;
        if !full || cursor.next < cursor.hold_until {
            return;
        }
        if cursor.mark_at < cursor.hold_until {
            (cursor.mark_at, cursor.mark_when) = (cursor.next, now);
        }
        let read = cursor.next - cursor.mark_at;
        if read < cursor.window_max {
            return;
        }
        let speed = read as f64 / now.saturating_sub(cursor.mark_when).as_secs_f64().max(1e-6);
        let helped = cursor.trial.is_none_or(|before| speed >= before * GAIN_WORTH_KEEPING);
        (cursor.mark_at, cursor.mark_when) = (cursor.next, now);
        if !helped {
            cursor.trial = None;
            cursor.window_max = (cursor.window_max / 2).max(WINDOW_BYTES_START);
            cursor.hold_until = cursor.next + cursor.window_max * WINDOWS_BETWEEN_TRIALS;
        } else if cursor.window_max < bounds.window_max {
            cursor.trial = Some(speed);
            cursor.window_max = (cursor.window_max * 2).min(bounds.window_max);
        }
    }

    fn start_cursor(&mut self, offset: u64, len: u64, now: Duration) -> usize {
        let next = offset + len;
        let cursor = Cursor {
            next,
            run: len,
            asked: next,
            window_max: WINDOW_BYTES_START,
            mark_at: next,
            mark_when: now,
            hold_until: 0,
            trial: None,
            used: self.tick,
        };
        if self.cursors.len() < CURSORS_MAX {
            self.cursors.push(cursor);
            return self.cursors.len() - 1;
        }
        let oldest = (0..CURSORS_MAX).min_by_key(|index| self.cursors[*index].used).unwrap_or(0);
        self.cursors[oldest] = cursor;
        oldest
    }
}

impl Cursor {
    fn expects(&self, offset: u64) -> bool {
        let slack = self.run.min(REORDER_BYTES_MAX);
        self.next.saturating_sub(slack) <= offset && offset <= self.next + slack
    }
}

/// The size of the parts in a window: enough of them at once to fill the line, few enough to be cheap.
fn part_bytes(window: u64, part_max: u64) -> u64 {
    let wish = (window / PARTS_AHEAD).min(PART_BYTES_USUAL.max(window / PARTS_AHEAD_MANY));
    let wish = wish.clamp(ALIGN, PART_BYTES_MAX.min(part_max).max(ALIGN));
    // A power of two, so that the memory of one part fits the next.
    1 << wish.ilog2()
}

/// Down to the start of the alignment unit that holds `offset`.
pub(crate) fn align_down(offset: u64) -> u64 {
    offset - offset % ALIGN
}

/// Up to the end of the alignment unit that holds the byte before `offset`.
pub(crate) fn align_up(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN)
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { window_max: 128 << 20, part_max: PART_BYTES_MAX };
    const MIB: u64 = 1 << 20;
    const NOW: Duration = Duration::ZERO;

    /// Reads `count` times `len` bytes from `start` on and returns what was asked for ahead.
    fn stream(detector: &mut Detector, start: u64, len: u64, count: u64) -> Vec<Range<u64>> {
        let mut asked = Vec::new();
        for index in 0..count {
            let advice = detector.on_read(start + index * len, len, NOW, BOUNDS);
            if !advice.ahead.is_empty() {
                detector.asked(advice.cursor, advice.ahead.end);
                asked.push(advice.ahead);
            }
        }
        asked
    }

    #[test]
    fn a_stream_is_asked_for_ahead_in_growing_steps_without_holes() {
        let mut detector = Detector::new(1 << 30);
        let asked = stream(&mut detector, 0, ALIGN, 200);
        assert!(asked.len() > 3);
        assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "{asked:?}");
        assert_eq!(detector.on_read(200 * ALIGN, ALIGN, NOW, BOUNDS).part_bytes, 2 * MIB);
    }

    #[test]
    fn random_reads_ask_for_nothing_ahead() {
        let mut detector = Detector::new(1 << 30);
        for index in 0..100 {
            let offset = index * 7_919 * 4096 % (1 << 30);
            assert!(detector.on_read(offset, 4096, NOW, BOUNDS).ahead.is_empty());
        }
    }

    #[test]
    fn interleaved_streams_keep_their_windows() {
        let mut detector = Detector::new(1 << 30);
        let starts = [0, 256 * MIB, 512 * MIB];
        for step in 0..64 {
            for start in starts {
                let advice = detector.on_read(start + step * ALIGN, ALIGN, NOW, BOUNDS);
                detector.asked(advice.cursor, advice.ahead.end);
                assert!(step < 2 || advice.part_bytes > ALIGN || !advice.ahead.is_empty());
            }
        }
        assert_eq!(detector.cursors.len(), 3);
    }

    /// Streams 4 GiB by a reader that waits at each step, over a line on which a window of `w` bytes
    /// gives `speed(w)` bytes per second; returns the window's bound at the end.
    fn settle(speed: impl Fn(u64) -> f64) -> u64 {
        let mut detector = Detector::new(1 << 40);
        let mut now = Duration::ZERO;
        for step in 0..4096 {
            let window = detector.cursors.first().map_or(MIB, |cursor| cursor.window_max);
            now += Duration::from_secs_f64(MIB as f64 / speed(window));
            let advice = detector.on_read(step * MIB, MIB, now, BOUNDS);
            detector.stalled(advice.cursor, now, BOUNDS);
        }
        detector.cursors[0].window_max
    }

    #[test]
    fn the_window_settles_where_more_of_it_is_no_faster() {
        assert!(settle(|_| 1e9) <= 2 * WINDOW_BYTES_START, "a line that is full already");
        assert_eq!(settle(|window| window as f64 * 10.0), BOUNDS.window_max, "a far line");
        let settled = settle(|window| (window as f64 * 10.0).min(6e8));
        assert!((32 * MIB..=128 * MIB).contains(&settled), "{settled} at a limit of 600 MB/s");
    }

    #[test]
    fn a_reader_that_never_waits_keeps_the_first_window() {
        let mut detector = Detector::new(1 << 40);
        stream(&mut detector, 0, MIB, 64);
        assert_eq!(detector.cursors[0].window_max, WINDOW_BYTES_START);
    }

    #[test]
    fn small_bounds_are_kept() {
        let bounds = Bounds { window_max: 2 * MIB, part_max: 256 << 10 };
        let mut detector = Detector::new(1 << 30);
        for step in 0..100 {
            let advice = detector.on_read(step * ALIGN, ALIGN, NOW, bounds);
            detector.asked(advice.cursor, advice.ahead.end);
            assert!(advice.part_bytes <= 256 << 10);
            assert!(advice.ahead.end <= (step + 1) * ALIGN + 2 * MIB + ALIGN);
        }
    }

    proptest! {
        /// Nothing beyond the object is asked for, and never more than five times what was read
        /// plus the alignment: four for the window, one for what a cursor skipped within its slack.
        #[test]
        fn advice_stays_in_bounds(
            size in 1_u64..(64 * MIB),
            reads in proptest::collection::vec((0_u64..(64 * MIB), 1_u64..MIB), 1..200),
        ) {
            let mut detector = Detector::new(size);
            let (mut read, mut ahead) = (0, 0);
            for (offset, len) in reads {
                let offset = offset % size;
                let len = len.min(size - offset);
                let advice = detector.on_read(offset, len, NOW, BOUNDS);
                read += len;
                prop_assert!(advice.ahead.end <= size);
                if !advice.ahead.is_empty() {
                    ahead += advice.ahead.end - advice.ahead.start;
                    detector.asked(advice.cursor, advice.ahead.end);
                }
                prop_assert!(ahead <= 5 * read + ALIGN, "{ahead} ahead of {read}");
            }
        }
    }
}
