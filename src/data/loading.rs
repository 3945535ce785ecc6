//! Whether a mapped file is being loaded: read in large pieces, in any order, so that all of it will be
//! wanted. Then all of it is brought, from where somebody waited last, and given to the page cache before
//! anybody touches it. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use super::prefetch::ALIGN;

/// Smaller files are read before it would help.
const FILE_BYTES_MIN: u64 = 16 << 20;

/// Pieces are so large on average: a fault that is alone brings the kernel's read-ahead, at most 512 KiB.
const PIECE_BYTES_MIN: u64 = 1 << 20;

/// So many pieces show that somebody goes on so.
const PIECES_MIN: u64 = 3;

/// One part of the file in so many has been read before all of it is expected to be.
const SEEN_SHARE: u64 = 64;

/// What is given while no request comes: whoever reads does so from what was given, or has stopped.
const QUIET_BYTES_MAX: u64 = 64 << 20;

/// Times of what was asked for, beside [`QUIET_BYTES_MAX`], that may be given.
const GIVEN_SHARE: u64 = 8;

/// Pieces of the file that are remembered as given; beyond, it is read as before.
const RANGES_MAX: usize = 4096;

/// What is known of how one file is read.
#[derive(Debug, Default)]
pub(crate) struct Loading {
    size: u64,
    /// What the kernel was given, and what is on its way: end by start, none touching another.
    given: BTreeMap<u64, u64>,
    n_pieces: u64,
    /// Bytes that the kernel has asked for.
    asked: u64,
    /// The end of what it asked for last: whoever touched that goes on there.
    near: u64,
    /// Bytes that it was given without having asked.
    brought: u64,
    /// Those since it asked for anything.
    quiet: u64,
    is_on: bool,
    /// It was looked into whether somebody has mapped it, when so much had been asked for.
    looked_at: u64,
}

impl Loading {
    pub(crate) fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    /// The kernel asks for a range, by a piece that is new or goes on.
    pub(crate) fn on_read(&mut self, range: &Range<u64>, is_new_piece: bool) {
        self.n_pieces += u64::from(is_new_piece);
        self.asked += range.end - range.start;
        self.quiet = 0;
        self.near = range.end;
        self.note_given(range);
    }

    /// Whether it is read as one that is loaded, so that it should be looked into who reads it.
    pub(crate) fn is_suspect(&mut self) -> bool {
        let is_so = !self.is_on
            && self.size >= FILE_BYTES_MIN
            && self.n_pieces >= PIECES_MIN
            && self.asked / self.n_pieces >= PIECE_BYTES_MIN
            && self.asked >= self.size / SEEN_SHARE
            && self.asked >= self.looked_at * 2
            && self.given.len() < RANGES_MAX
            && self.gap().is_some();
        if is_so {
            self.looked_at = self.asked;
        }
        is_so
    }

    /// From now on it is loaded. False where that goes on already.
    pub(crate) fn begin(&mut self) -> bool {
        !std::mem::replace(&mut self.is_on, true)
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(crate) fn end(&mut self) {
        self.is_on = false;
    }

    /// The next range to bring, at most `len` bytes; it counts as given. `None` where all is, or where
    /// no more is to be brought now.
    pub(crate) fn next(&mut self, len: u64) -> Option<Range<u64>> {
        let most = QUIET_BYTES_MAX + self.asked.saturating_mul(GIVEN_SHARE);
        if self.quiet >= QUIET_BYTES_MAX || self.brought >= most || self.given.len() >= RANGES_MAX {
            return None;
        }
        let gap = self.gap_from(self.near).or_else(|| self.gap())?;
        let end = (gap.start - gap.start % ALIGN + len.max(ALIGN)).min(gap.end);
        let range = gap.start..end;
        self.brought += range.end - range.start;
        self.quiet += range.end - range.start;
        self.note_given(&range);
        Some(range)
    }

    /// The first piece of `range` that the kernel was not given, while the file is loaded, and all of
    /// it otherwise. `None` where it was given all.
    pub(crate) fn not_given(&self, range: &Range<u64>) -> Option<Range<u64>> {
        if !self.is_on {
            return Some(range.clone());
        }
        let mut start = range.start;
        if let Some((_, end)) = self.given.range(..=start).next_back() {
            start = start.max(*end);
        }
        let next = self.given.range(start..).next().map_or(range.end, |(next, _)| *next);
        (start < range.end).then(|| start..range.end.min(next))
    }

    /// Whether nothing is left to bring.
    pub(crate) fn is_done(&self) -> bool {
        self.gap().is_none()
    }

    /// The first piece that was not given.
    fn gap(&self) -> Option<Range<u64>> {
        self.gap_from(0)
    }

    /// The first piece from `at` on that was not given.
    fn gap_from(&self, at: u64) -> Option<Range<u64>> {
        let start = match self.given.range(..=at).next_back() {
            Some((_, &end)) => at.max(end),
            None => at,
        };
        let next = self.given.range(start..).next();
        let end = next.map_or(self.size, |(next, _)| *next);
        (start < end).then_some(start..end)
    }

    fn note_given(&mut self, range: &Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&before, &until)) = self.given.range(..=end).next_back()
            && until >= start
        {
            self.given.remove(&before);
            (start, end) = (start.min(before), end.max(until));
        }
        self.given.insert(start, end);
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Reads a piece by requests of 128 KiB.
    fn read(loading: &mut Loading, range: Range<u64>) {
        let mut at = range.start;
        while at < range.end {
            let end = (at + ALIGN).min(range.end);
            loading.on_read(&(at..end), at == range.start);
            at = end;
        }
    }

    #[test]
    fn large_pieces_in_any_order_are_a_load_and_sparse_faults_are_none() {
        let mut loading = Loading::new(1 << 30);
        for piece in [40, 7, 90] {
            assert!(!loading.is_suspect());
            read(&mut loading, piece * 8 * MIB..(piece + 1) * 8 * MIB);
        }
        assert!(loading.is_suspect() && !loading.is_suspect(), "it is looked into once");
        let mut loading = Loading::new(1 << 30);
        for fault in 0..100 {
            loading.on_read(&(fault * 10 * MIB..fault * 10 * MIB + MIB / 2), true);
            assert!(!loading.is_suspect());
        }
    }

    #[test]
    fn what_nobody_has_read_is_brought_from_where_somebody_waited() {
        let mut loading = Loading::new(256 * MIB);
        for piece in [20, 4, 12] {
            read(&mut loading, piece * 4 * MIB..(piece + 1) * 4 * MIB);
        }
        assert!(loading.is_suspect() && loading.begin());
        let brought: Vec<_> = std::iter::from_fn(|| loading.next(4 * MIB)).collect();
        assert_eq!(brought.len(), 16, "64 MiB while nobody asks");
        assert_eq!(brought[0], 52 * MIB..56 * MIB);
        assert!(brought.iter().all(|range| range.start != 80 * MIB), "that was read");
        read(&mut loading, 200 * MIB..204 * MIB);
        assert_eq!(loading.next(4 * MIB), Some(204 * MIB..208 * MIB));
        read(&mut loading, 252 * MIB..256 * MIB);
        assert_eq!(loading.next(4 * MIB), Some(0..4 * MIB), "and then from the beginning");
    }

    proptest! {
        #[test]
        fn all_of_the_file_is_read_or_brought_once(
            size in 16 * MIB..40 * MIB,
            pieces in prop::collection::vec((0_u64..40 * MIB, 1_u64..4 * MIB), 1..20),
        ) {
            let mut loading = Loading::new(size);
            for (start, len) in pieces {
                let start = start % size;
                read(&mut loading, start..(start + len).min(size));
            }
            let before = loading.given.clone();
            let mut at = loading.near;
            let mut wrapped = false;
            while let Some(range) = loading.next(MIB) {
                if range.start < at && !wrapped {
                    (at, wrapped) = (0, true);
                }
                prop_assert!(range.start >= at && range.end <= size);
                let is_apart = before.iter().all(|(start, end)| range.end <= *start || *end <= range.start);
                prop_assert!(is_apart, "{range:?} was given");
                at = range.end;
            }
            prop_assert!(loading.is_done());
            prop_assert_eq!(loading.given, BTreeMap::from([(0, size)]));
        }
    }
}
