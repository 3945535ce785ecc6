//! What to ask for ahead of a reader. Pure: no I/O, no clock.
//!
//! A [`Detector`] keeps several cursors for one file, so that interleaved readers each keep their
//! pace. A cursor that is hit grows: parts double up to 8 MiB, and the window, the distance asked
//! for ahead, is four times what the run has read so far. Its bound rises only when the reader
//! catches up with the line, so it settles at bandwidth times delay.

use std::ops::Range;

/// Parts begin and end at multiples of this, or at the end of the object.
pub(crate) const ALIGN: u64 = 128 << 10;

/// The largest part: at 90 MB/s per connection a GET of 8 MiB lasts 93 ms, of which a first byte
/// after 20 ms is a fifth.
pub(crate) const PART_BYTES_MAX: u64 = 8 << 20;

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
    /// Where the window's bound last rose.
    grown_at: u64,
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

    /// A reader asks for `len` bytes at `offset`.
    pub(crate) fn on_read(&mut self, offset: u64, len: u64, bounds: Bounds) -> Advice {
        self.tick += 1;
        let index = self.cursors.iter().position(|cursor| cursor.expects(offset));
        let Some(index) = index else {
            let cursor = self.start_cursor(offset, len);
            return Advice { cursor, part_bytes: ALIGN, ahead: 0..0 };
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
        let part_bytes = part_bytes(window / 4, bounds.part_max);
        // Aligned, so that the parts of a stream begin where the kernel's requests do.
        let from = align_up(cursor.asked).min(size);
        let wanted = (cursor.next + window).min(size);
        let parts = wanted.saturating_sub(from) / part_bytes;
        let to = if wanted == size { size } else { from + parts * part_bytes };
        Advice { cursor: index, part_bytes, ahead: from..to.max(from) }
    }

    /// What was asked for on the advice, which may be less than advised.
    pub(crate) fn asked(&mut self, cursor: usize, until: u64) {
        if let Some(cursor) = self.cursors.get_mut(cursor) {
            cursor.asked = cursor.asked.max(until);
        }
    }

    /// The reader of `cursor` had to wait for what was asked for ahead: the window may grow, once
    /// for each half window read, so that one slow answer is not taken for a far server.
    pub(crate) fn stalled(&mut self, cursor: usize, bounds: Bounds) {
        let Some(cursor) = self.cursors.get_mut(cursor) else { return };
        let full = cursor.run * 4 >= cursor.window_max;
        if full && cursor.next >= cursor.grown_at + cursor.window_max / 2 {
            cursor.window_max = (cursor.window_max * 2).min(bounds.window_max.max(ALIGN));
            cursor.grown_at = cursor.next;
        }
    }

    fn start_cursor(&mut self, offset: u64, len: u64) -> usize {
        let next = offset + len;
        let cursor = Cursor {
            next,
            run: len,
            asked: next,
            window_max: WINDOW_BYTES_START,
            grown_at: next,
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

fn part_bytes(wish: u64, part_max: u64) -> u64 {
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

    /// Reads `count` times `len` bytes from `start` on and returns what was asked for ahead.
    fn stream(detector: &mut Detector, start: u64, len: u64, count: u64) -> Vec<Range<u64>> {
        let mut asked = Vec::new();
        for index in 0..count {
            let advice = detector.on_read(start + index * len, len, BOUNDS);
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
        assert_eq!(detector.on_read(200 * ALIGN, ALIGN, BOUNDS).part_bytes, 4 * MIB);
    }

    #[test]
    fn random_reads_ask_for_nothing_ahead() {
        let mut detector = Detector::new(1 << 30);
        for index in 0..100 {
            let offset = index * 7_919 * 4096 % (1 << 30);
            assert!(detector.on_read(offset, 4096, BOUNDS).ahead.is_empty());
        }
    }

    #[test]
    fn interleaved_streams_keep_their_windows() {
        let mut detector = Detector::new(1 << 30);
        let starts = [0, 256 * MIB, 512 * MIB];
        for step in 0..64 {
            for start in starts {
                let advice = detector.on_read(start + step * ALIGN, ALIGN, BOUNDS);
                detector.asked(advice.cursor, advice.ahead.end);
                assert!(step < 2 || advice.part_bytes > ALIGN || !advice.ahead.is_empty());
            }
        }
        assert_eq!(detector.cursors.len(), 3);
    }

    #[test]
    fn the_window_grows_only_while_the_reader_waits() {
        let mut detector = Detector::new(1 << 40);
        stream(&mut detector, 0, MIB, 64);
        assert_eq!(detector.cursors[0].window_max, WINDOW_BYTES_START);
        for step in 64..400 {
            let advice = detector.on_read(step * MIB, MIB, BOUNDS);
            detector.stalled(advice.cursor, BOUNDS);
        }
        assert_eq!(detector.cursors[0].window_max, BOUNDS.window_max);
    }

    #[test]
    fn small_bounds_are_kept() {
        let bounds = Bounds { window_max: 2 * MIB, part_max: 256 << 10 };
        let mut detector = Detector::new(1 << 30);
        for step in 0..100 {
            let advice = detector.on_read(step * ALIGN, ALIGN, bounds);
            detector.asked(advice.cursor, advice.ahead.end);
            assert!(advice.part_bytes <= 256 << 10);
            assert!(advice.ahead.end <= (step + 1) * ALIGN + 2 * MIB + ALIGN);
        }
    }

    proptest! {
        /// Nothing beyond the object is asked for, nothing twice by one cursor, and never more than
        /// four times what was read plus the alignment.
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
                let advice = detector.on_read(offset, len, BOUNDS);
                read += len;
                prop_assert!(advice.ahead.end <= size);
                if !advice.ahead.is_empty() {
                    ahead += advice.ahead.end - advice.ahead.start;
                    detector.asked(advice.cursor, advice.ahead.end);
                }
                prop_assert!(ahead <= 4 * read + ALIGN, "{ahead} ahead of {read}");
            }
        }
    }
}
