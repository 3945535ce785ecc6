//! Whether a mapped file is being loaded: read in large pieces, in any order, so that all of it will be
//! wanted. Then all of it is brought, from where somebody waited last, and given to the page cache before
//! anybody touches it. Pure.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::prefetch::{ALIGN, Bounds, Window};

/// Smaller files are read before it would help.
const FILE_BYTES_MIN: u64 = 16 << 20;

/// Pieces are so large on average: a fault that is alone brings the kernel's read-ahead, at most 512 KiB.
const PIECE_BYTES_MIN: u64 = 1 << 20;

/// So many pieces show that somebody goes on so.
const PIECES_MIN: u64 = 3;

/// Of a file that begins as one that is made to be mapped, one piece beside its head shows as much.
const PIECES_MIN_OF_MODEL: u64 = 2;

/// One part of the file in so many has been read before all of it is expected to be.
const SEEN_SHARE: u64 = 64;

/// What is given while no request comes: whoever reads does so from what was given, or has stopped.
const QUIET_BYTES_MAX: u64 = 64 << 20;

/// The kernel's read-ahead around a fault that is alone.
const FAULT_BYTES_MAX: u64 = 512 << 10;

/// Times of what was asked for beyond that in each piece that may be given, beside [`QUIET_BYTES_MAX`]: the
/// more is given, the less has to be asked for, but who loads still waits at some pieces, and asks on there.
const GIVEN_SHARE: u64 = 64;

/// On its way at once until it is known what the line takes: nobody loads a file slowly.
const WINDOW_BYTES_START: u64 = 32 << 20;

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
    /// While it is on: what may be on its way at once.
    window: Option<Window>,
    /// What is on its way to the page cache.
    flying: u64,
    /// What of that has come and could not be given yet.
    ready: u64,
    /// What has come since the load began.
    came: u64,
    /// It begins as one that is made to be mapped.
    is_model: bool,
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

    /// The file begins with these bytes.
    pub(crate) fn on_head(&mut self, bytes: &[u8]) {
        self.is_model = is_model(bytes, self.size);
    }

    /// Whether it is read as one that is loaded, so that it should be looked into who reads it.
    pub(crate) fn is_suspect(&mut self) -> bool {
        let (n_pieces_min, asked_min) = match self.is_model {
            true => (PIECES_MIN_OF_MODEL, 0),
            false => (PIECES_MIN, self.size / SEEN_SHARE),
        };
        let is_so = self.window.is_none()
            && self.size >= FILE_BYTES_MIN
            && self.n_pieces >= n_pieces_min
            && self.asked / self.n_pieces >= PIECE_BYTES_MIN
            && self.asked >= asked_min
            && self.asked >= self.looked_at * 2
            && self.given.len() < RANGES_MAX
            && self.gap().is_some();
        if is_so {
            self.looked_at = self.asked;
        }
        is_so
    }

    /// From now on it is loaded. False where that goes on already.
    pub(crate) fn begin(&mut self, now: Duration) -> bool {
        let is_new = self.window.is_none();
        if is_new {
            self.came = 0;
            self.window = Some(Window::new(WINDOW_BYTES_START, now));
        }
        is_new
    }

    pub(crate) fn is_on(&self) -> bool {
        self.window.is_some()
    }

    pub(crate) fn end(&mut self) {
        self.window = None;
    }

    /// A part is on its way.
    pub(crate) fn asked_for(&mut self, bytes: u64) {
        self.flying += bytes;
    }

    /// All of a part has come.
    pub(crate) fn came(&mut self, bytes: u64) {
        self.came += bytes;
        self.ready += bytes;
    }

    /// A part was given, or nobody wants it.
    pub(crate) fn gone(&mut self, bytes: u64, is_ready: bool) {
        self.flying -= bytes;
        self.ready -= if is_ready { bytes } else { 0 };
    }

    /// The load waits for parts that are on their way.
    pub(crate) fn waits(&mut self, now: Duration, bounds: Bounds) {
        if let Some(window) = &mut self.window
            && self.flying >= window.bytes_max()
        {
            window.stalled(self.came, now, self.ready, bounds);
        }
    }

    /// Whether more is to be brought now, if anything is left.
    pub(crate) fn wants_more(&self) -> bool {
        let window = self.window.as_ref().map_or(0, Window::bytes_max);
        self.flying < window
            && self.quiet < QUIET_BYTES_MAX
            && self.brought
                < QUIET_BYTES_MAX
                    + self.asked.saturating_sub(self.n_pieces * FAULT_BYTES_MAX) * GIVEN_SHARE
            && self.given.len() < RANGES_MAX
    }

    /// The next range to bring, at most `len` bytes; it counts as given. `None` where all is, or where
    /// no more is to be brought now.
    pub(crate) fn next(&mut self, len: u64) -> Option<Range<u64>> {
        if !self.wants_more() {
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
        if self.window.is_none() {
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

/// Whether a file of `size` bytes that begins with `head` holds a model, which programs load by mapping it:
/// safetensors (the length of a JSON object, and that), GGUF, or a zip as torch writes it.
fn is_model(head: &[u8], size: u64) -> bool {
    let Some((first, rest)) = head.split_first_chunk::<8>() else { return false };
    let is_safetensors = rest.first() == Some(&b'{') && u64::from_le_bytes(*first) < size;
    is_safetensors || first.starts_with(b"GGUF") || first.starts_with(b"PK\x03\x04")
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
    fn the_first_large_piece_of_a_model_is_a_load_and_sparse_faults_are_none() {
        let heads: [&[u8]; 3] =
            [b"\x10\x27\0\0\0\0\0\0{\"a\"", b"GGUF\x03\0\0\0\0", b"PK\x03\x04\0\0\0\0"];
        for head in heads {
            let mut loading = Loading::new(1 << 30);
            read(&mut loading, 0..MIB / 2);
            loading.on_head(head);
            read(&mut loading, 40 * MIB..41 * MIB);
            assert!(!loading.is_suspect());
            read(&mut loading, 41 * MIB + ALIGN..42 * MIB);
            assert!(!loading.is_suspect(), "a third piece");
            let mut loading = Loading::new(1 << 30);
            loading.on_head(head);
            read(&mut loading, 0..MIB / 2);
            read(&mut loading, 40 * MIB..42 * MIB);
            assert!(loading.is_suspect());
            let mut loading = Loading::new(1 << 30);
            loading.on_head(head);
            for fault in 0..100 {
                loading.on_read(&(fault * 10 * MIB..fault * 10 * MIB + MIB / 2), true);
                assert!(!loading.is_suspect());
            }
        }
        for other in
            [&b"\x10\x27"[..], b"\x10\x27\0\0\0\0\0\0<xml", b"\xff\xff\xff\xff\xff\xff\xff\xff{"]
        {
            assert!(!is_model(other, 1 << 30));
        }
    }

    #[test]
    fn what_nobody_has_read_is_brought_from_where_somebody_waited() {
        let mut loading = Loading::new(256 * MIB);
        for piece in [20, 4, 12] {
            read(&mut loading, piece * 4 * MIB..(piece + 1) * 4 * MIB);
        }
        assert!(loading.is_suspect() && loading.begin(Duration::ZERO));
        let brought: Vec<_> = std::iter::from_fn(|| loading.next(4 * MIB)).collect();
        assert_eq!(brought.len(), 16, "64 MiB while nobody asks");
        assert_eq!(brought[0], 52 * MIB..56 * MIB);
        assert!(brought.iter().all(|range| range.start != 80 * MIB), "that was read");
        read(&mut loading, 200 * MIB..204 * MIB);
        assert_eq!(loading.next(4 * MIB), Some(204 * MIB..208 * MIB));
        read(&mut loading, 252 * MIB..256 * MIB);
        assert_eq!(loading.next(4 * MIB), Some(0..4 * MIB), "and then from the beginning");
    }

    #[test]
    fn who_reads_on_at_its_pieces_gets_more_than_who_faults_here_and_there() {
        let begun = || {
            let mut loading = Loading::new(1 << 40);
            for piece in [5000, 1000, 3000] {
                read(&mut loading, piece * 2 * MIB..(piece + 1) * 2 * MIB);
            }
            assert!(loading.begin(Duration::ZERO));
            loading
        };
        let brought = |mut loading: Loading, piece: u64| {
            let mut bytes = 0;
            for place in 0..100 {
                read(&mut loading, (place + 1) << 32..((place + 1) << 32) + piece);
                while let Some(range) = loading.next(2 * MIB) {
                    bytes += range.end - range.start;
                }
            }
            bytes
        };
        assert!(brought(begun(), MIB / 2) <= QUIET_BYTES_MAX + 6 * MIB * GIVEN_SHARE);
        assert_eq!(brought(begun(), 4 * MIB), 100 * QUIET_BYTES_MAX);
    }

    #[test]
    fn no_more_is_on_its_way_than_the_line_takes() {
        let mut loading = Loading::new(1 << 30);
        read(&mut loading, 0..64 * MIB);
        assert!(loading.begin(Duration::ZERO) && loading.is_on());
        let ask = |loading: &mut Loading| {
            while let Some(range) = loading.next(2 * MIB) {
                loading.asked_for(range.end - range.start);
            }
        };
        ask(&mut loading);
        assert_eq!(loading.flying, WINDOW_BYTES_START);
        loading.gone(2 * MIB, false);
        ask(&mut loading);
        assert_eq!(loading.flying, WINDOW_BYTES_START);
        // A far server: all comes at the same time, twice as much of it as there is time.
        let bounds = Bounds { window_max: 1 << 30, part_max: 2 * MIB, demand_max: MIB };
        for turn in 1..4 {
            let (now, bytes) = (Duration::from_millis(turn * 50), loading.flying);
            loading.waits(now, bounds);
            loading.came(bytes);
            loading.waits(now, bounds);
            loading.gone(bytes, true);
            loading.on_read(&(900 * MIB..900 * MIB + ALIGN), false);
            ask(&mut loading);
        }
        let most = 2 * WINDOW_BYTES_START;
        assert!((most..most + 2 * MIB).contains(&loading.flying), "{}", loading.flying);
        loading.end();
        assert!(!loading.is_on() && loading.next(MIB).is_none());
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
            loading.begin(Duration::ZERO);
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
