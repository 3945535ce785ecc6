//! What the kernel keeps of directories (FOPEN_CACHE_DIR): it fills pages of the directory's inode with
//! what it is told from the beginning to the end, and answers later reads from them without asking.
//! Pure: says what a handle may do; asks and tells nothing.
//!
//! The kernel's rules (linux/fs/fuse/readdir.c): every handle with the flag fills the pages and reads
//! from them, whatever it was opened on; an open without FOPEN_KEEP_CACHE drops them; entries are put
//! behind each other by their offsets alone, and a reader finds its place in them by its offset. So two
//! handles on different listings would make one directory of two.
//!
//! Invariants: at most one handle of a directory has the flag at a time. The pages are used again only by
//! one on the very listing that filled them, while what was told of each entry holds: from the pages come
//! names without attributes, and a name whose time is over costs a request of its own.

use std::num::NonZeroUsize;

use lru::LruCache;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::handles::Handle;
use crate::object::Ino;
use crate::sync::Mutex;
use crate::tree::Sight;

/// How an open directory goes with what the kernel keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// It leaves the pages alone, and those that there are go.
    Apart,
    /// Those that there are go, and it fills them anew.
    Fills,
    /// The pages are what it shows.
    Uses,
}

/// Of all directories.
pub(super) struct Kept {
    table: Mutex<LruCache<Ino, Pages>>,
}

/// Of one directory.
struct Pages {
    /// Handles of it, of whatever kind.
    n_open: usize,
    /// The one that has the flag.
    holder: Option<Handle>,
    /// What the pages are of, by its number.
    listing: Option<u64>,
    /// The kernel was told all entries before this offset.
    told_to: u64,
    is_whole: bool,
    /// Until then what was told of each entry holds.
    entries_until: Instant,
    /// Until then the listing is shown to those who open the directory or rewind.
    listing_until: Instant,
    /// Has the kernel drop the pages in time, should the holder stay.
    expiry: Option<AbortHandle>,
}

impl Kept {
    /// Directories in the table; of others the kernel keeps nothing that is used again.
    const DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

    pub(super) fn new() -> Self {
        Self { table: Mutex::new(LruCache::unbounded()) }
    }

    /// A handle of `ino` is opened on `sight`.
    pub(super) fn open(&self, ino: Ino, handle: Handle, sight: Sight, now: Instant) -> Keeping {
        let mut table = self.table.lock();
        let pages = table.get_or_insert_mut(ino, || Pages::none(now));
        pages.n_open += 1;
        let keeping = if pages.n_open > 1 || sight.listing.is_none() || sight.holds_for.is_zero() {
            pages.is_whole = false;
            Keeping::Apart
        } else {
            pages.holder = Some(handle);
            let holds = pages.is_whole && pages.entries_until > now;
            if holds && pages.listing == sight.listing {
                Keeping::Uses
            } else {
                pages.begin(sight, now);
                Keeping::Fills
            }
        };
        if table.len() > Self::DIRECTORIES_MAX.get() {
            let oldest = table.peek_lru().is_some_and(|(_, pages)| pages.n_open == 0);
            let gone = if oldest { table.pop_lru() } else { None };
            drop(table);
            drop(gone);
        }
        keeping
    }

    /// The holder was rewound, and shows `sight` from now on. The offsets that it tells are others than
    /// before where that may be something else, so what there is in the pages is not mixed with it.
    pub(super) fn rewound(&self, ino: Ino, handle: Handle, sight: Sight, now: Instant) {
        if let Some(pages) = self.table.lock().peek_mut(&ino).filter(|it| it.is_held_by(handle)) {
            pages.begin(Sight { listing: None, ..sight }, now);
        }
    }

    /// The holder is told the entries from offset `from` to `next`, none at the end, and what it is told
    /// holds until `until`. Gives until when the kernel may have the pages, when they become whole.
    pub(super) fn told(
        &self,
        ino: Ino,
        handle: Handle,
        told: std::ops::Range<u64>,
        until: Option<Instant>,
    ) -> Option<Instant> {
        let mut table = self.table.lock();
        let pages = table.peek_mut(&ino).filter(|pages| pages.is_held_by(handle))?;
        if told.start > pages.told_to {
            return None;
        }
        if let Some(until) = until {
            pages.entries_until = pages.entries_until.min(until);
        }
        pages.told_to = pages.told_to.max(told.end);
        let becomes_whole = told.is_empty() && told.start == pages.told_to && !pages.is_whole;
        pages.is_whole |= becomes_whole;
        becomes_whole.then_some(pages.listing_until)
    }

    /// `expiry` will have the kernel drop the pages, unless the holder is closed before.
    pub(super) fn expires(&self, ino: Ino, handle: Handle, expiry: AbortHandle) {
        let mut table = self.table.lock();
        let before = match table.peek_mut(&ino).filter(|pages| pages.is_held_by(handle)) {
            Some(pages) => pages.expiry.replace(expiry),
            None => Some(expiry),
        };
        drop(table);
        if let Some(before) = before {
            before.abort();
        }
    }

    /// What is shown of these directories was forgotten: nobody uses the pages again, and who is filling
    /// them has them dropped when they are whole.
    pub(super) fn forget(&self, directories: &[Ino]) {
        let now = Instant::now();
        let mut table = self.table.lock();
        for ino in directories {
            let Some(pages) = table.peek_mut(ino) else { continue };
            if pages.n_open == 0 {
                table.pop(ino);
                continue;
            }
            pages.listing = None;
            pages.is_whole = false;
            (pages.entries_until, pages.listing_until) = (now, now);
        }
    }

    /// A handle is closed.
    pub(super) fn close(&self, ino: Ino, handle: Handle) {
        let mut table = self.table.lock();
        let Some(pages) = table.peek_mut(&ino) else { return };
        pages.n_open = pages.n_open.saturating_sub(1);
        let mut expiry = None;
        if pages.is_held_by(handle) {
            pages.holder = None;
            expiry = pages.expiry.take();
        }
        let is_of_use = pages.n_open > 0 || (pages.is_whole && pages.listing.is_some());
        let gone = if is_of_use { None } else { table.pop(&ino) };
        drop(table);
        drop(gone);
        if let Some(expiry) = expiry {
            expiry.abort();
        }
    }
}

impl Pages {
    fn none(now: Instant) -> Self {
        Self {
            n_open: 0,
            holder: None,
            listing: None,
            told_to: 0,
            is_whole: false,
            entries_until: now,
            listing_until: now,
            expiry: None,
        }
    }

    fn begin(&mut self, sight: Sight, now: Instant) {
        self.listing = sight.listing;
        self.told_to = 0;
        self.is_whole = false;
        self.listing_until = now + sight.holds_for;
        self.entries_until = self.listing_until;
    }

    fn is_held_by(&self, handle: Handle) -> bool {
        self.holder == Some(handle)
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::time::Duration;

    use super::*;

    const INO: Ino = Ino(7);
    const SECOND: Duration = Duration::from_secs(1);

    fn sight(listing: u64) -> Sight {
        Sight { n_rewinds: 0, listing: Some(listing), holds_for: 10 * SECOND }
    }

    /// Opens, is told all of 5 entries that hold for `entries_hold`, and closes.
    fn read(kept: &Kept, handle: u64, listing: u64, entries_hold: Duration) -> Keeping {
        let (handle, now) = (Handle(handle), Instant::now());
        let keeping = kept.open(INO, handle, sight(listing), now);
        kept.told(INO, handle, 0..7, Some(now + entries_hold));
        kept.told(INO, handle, 7..7, None);
        kept.close(INO, handle);
        keeping
    }

    #[tokio::test(start_paused = true)]
    async fn pages_serve_the_listing_that_filled_them_while_its_entries_hold() {
        let kept = Kept::new();
        assert_eq!(read(&kept, 1, 1, 2 * SECOND), Keeping::Fills);
        assert_eq!(read(&kept, 2, 1, 2 * SECOND), Keeping::Uses);
        assert_eq!(read(&kept, 3, 2, 2 * SECOND), Keeping::Fills, "another listing");
        assert_eq!(read(&kept, 4, 2, 2 * SECOND), Keeping::Uses);
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(read(&kept, 5, 2, 20 * SECOND), Keeping::Fills, "the entries' time is over");
        tokio::time::advance(9 * SECOND).await;
        assert_eq!(read(&kept, 6, 2, 20 * SECOND), Keeping::Uses);
        tokio::time::advance(SECOND).await;
        assert_eq!(read(&kept, 7, 2, 20 * SECOND), Keeping::Fills, "the listing's time is over");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_forgotten_is_not_used() {
        let (kept, now) = (Kept::new(), Instant::now());
        read(&kept, 1, 1, 10 * SECOND);
        kept.forget(&[INO, Ino(8)]);
        assert_eq!(read(&kept, 2, 1, 10 * SECOND), Keeping::Fills);
        assert_eq!(read(&kept, 3, 1, 10 * SECOND), Keeping::Uses);
        // In the middle of a reading, and after it.
        for n_told in [1, 3] {
            kept.open(INO, Handle(4), sight(2), now);
            for told in [0..3, 3..7, 7..7].into_iter().take(n_told) {
                kept.told(INO, Handle(4), told, None);
            }
            kept.forget(&[INO]);
            kept.told(INO, Handle(4), 3..7, None);
            let due = kept.told(INO, Handle(4), 7..7, None);
            assert_eq!(due, Some(now), "the kernel is to drop them at once");
            kept.close(INO, Handle(4));
            assert_eq!(kept.open(INO, Handle(5), sight(2), now), Keeping::Fills);
            kept.close(INO, Handle(5));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_told_to_the_end_is_not_used() {
        let (kept, now) = (Kept::new(), Instant::now());
        // A gap between two reads, and then no end.
        for told in [&[0..3, 4..7, 7..7][..], &[0..3, 3..7], &[3..7, 7..7], &[0..3, 3..3, 3..7]] {
            assert_eq!(kept.open(INO, Handle(1), sight(1), now), Keeping::Fills);
            for told in told {
                kept.told(INO, Handle(1), told.clone(), None);
            }
            kept.close(INO, Handle(1));
            let whole = *told == [0..3, 3..3, 3..7];
            let next = kept.open(INO, Handle(2), sight(1), now);
            assert_eq!(next, if whole { Keeping::Uses } else { Keeping::Fills }, "{told:?}");
            kept.rewound(INO, Handle(2), sight(1), now);
            kept.close(INO, Handle(2));
        }
        // Told a second time where the room was too small for what had come.
        kept.open(INO, Handle(3), sight(1), now);
        for told in [0..5, 2..7, 7..7] {
            kept.told(INO, Handle(3), told, None);
        }
        kept.close(INO, Handle(3));
        assert_eq!(kept.open(INO, Handle(4), sight(1), now), Keeping::Uses);
    }

    #[tokio::test(start_paused = true)]
    async fn one_handle_at_a_time_has_the_pages() {
        let (kept, now) = (Kept::new(), Instant::now());
        read(&kept, 1, 1, SECOND);
        assert_eq!(kept.open(INO, Handle(2), sight(1), now), Keeping::Uses);
        assert_eq!(kept.open(INO, Handle(3), sight(1), now), Keeping::Apart);
        assert_eq!(kept.told(INO, Handle(3), 0..7, None), None);
        assert_eq!(kept.told(INO, Handle(3), 7..7, None), None);
        kept.close(INO, Handle(2));
        assert_eq!(kept.open(INO, Handle(4), sight(1), now), Keeping::Apart);
        kept.close(INO, Handle(3));
        kept.close(INO, Handle(4));
        assert_eq!(read(&kept, 5, 1, SECOND), Keeping::Fills, "each open has dropped them");
        let beside = Sight { listing: None, ..sight(1) };
        assert_eq!(kept.open(INO, Handle(6), beside, now), Keeping::Apart);
        kept.close(INO, Handle(6));
        let over = Sight { holds_for: Duration::ZERO, ..sight(1) };
        assert_eq!(kept.open(INO, Handle(7), over, now), Keeping::Apart);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_stays_is_told_until_when() {
        let (kept, now) = (Kept::new(), Instant::now());
        kept.open(INO, Handle(1), sight(1), now);
        kept.told(INO, Handle(1), 0..7, None);
        assert_eq!(kept.told(INO, Handle(1), 7..7, None), Some(now + 10 * SECOND));
        assert_eq!(kept.told(INO, Handle(1), 7..7, None), None, "once");
        let later = now + 30 * SECOND;
        kept.rewound(INO, Handle(1), sight(2), later);
        kept.told(INO, Handle(1), 0..7, None);
        assert_eq!(kept.told(INO, Handle(1), 7..7, None), Some(later + 10 * SECOND));
        kept.close(INO, Handle(1));
        assert_eq!(kept.open(INO, Handle(2), sight(2), later), Keeping::Fills);
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded() {
        let (kept, now) = (Kept::new(), Instant::now());
        for number in 0..20_000 {
            let (ino, handle) = (Ino(100 + number), Handle(number));
            kept.open(ino, handle, sight(number), now);
            kept.told(ino, handle, 0..0, None);
            kept.close(ino, handle);
        }
        assert_eq!(kept.table.lock().len(), Kept::DIRECTORIES_MAX.get());
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod shuttle_models {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    const INO: Ino = Ino(7);

    /// Entries of the directory, in whatever listing.
    const N_ENTRIES: u64 = 3;

    /// What the kernel has of the directory, by the rules of linux/fs/fuse/readdir.c: entries are put behind
    /// each other, and serve when the end has come.
    #[derive(Default)]
    struct Kernel {
        /// Of which listing each is.
        entries: Vec<u64>,
        is_whole: bool,
    }

    impl Kernel {
        fn drop_pages(&mut self) {
            *self = Self::default();
        }

        fn put(&mut self, offset: u64, listing: u64) {
            if !self.is_whole && offset == self.entries.len() as u64 {
                self.entries.push(listing);
            }
        }

        fn end(&mut self, offset: u64) {
            self.is_whole |= offset == self.entries.len() as u64;
        }
    }

    /// Opens the directory, which is `listing` at that time, reads it to its end and closes it. Everything
    /// that the kernel does is a step of its own.
    fn read(kept: &Kept, kernel: &Mutex<Kernel>, handle: Handle, listing: u64) {
        let now = Instant::now();
        let holds_for = Duration::from_secs(1000);
        let sight = Sight { n_rewinds: 0, listing: Some(listing), holds_for };
        let keeping = kept.open(INO, handle, sight, now);
        if keeping != Keeping::Uses {
            kernel.lock().drop_pages();
        }
        let fills = keeping != Keeping::Apart;
        for offset in 0..N_ENTRIES {
            {
                let kernel = kernel.lock();
                if fills && kernel.is_whole {
                    let entry = kernel.entries.get(offset as usize);
                    assert_eq!(entry, Some(&listing), "of one listing alone");
                    continue;
                }
            }
            kept.told(INO, handle, offset..offset + 1, None);
            if fills {
                kernel.lock().put(offset, listing);
            }
        }
        kept.told(INO, handle, N_ENTRIES..N_ENTRIES, None);
        if fills {
            kernel.lock().end(N_ENTRIES);
        }
        kept.close(INO, handle);
    }

    /// Readers of one directory come and go while it changes: each sees one listing, the one that it was
    /// opened on, whatever the kernel has kept of it from others.
    #[test]
    fn shuttle_kept() {
        shuttle::check_random(
            || {
                let (kept, kernel) =
                    (Arc::new(Kept::new()), Arc::new(Mutex::new(Kernel::default())));
                let readers: Vec<_> = [[1, 1], [2, 1], [2, 2]]
                    .into_iter()
                    .enumerate()
                    .map(|(number, listings)| {
                        let (kept, kernel) = (Arc::clone(&kept), Arc::clone(&kernel));
                        shuttle::thread::spawn(move || {
                            for (turn, listing) in listings.into_iter().enumerate() {
                                read(&kept, &kernel, Handle((number * 10 + turn) as u64), listing);
                            }
                        })
                    })
                    .collect();
                for reader in readers {
                    reader.join().expect("no reader panics");
                }
            },
            5_000,
        );
    }
}
