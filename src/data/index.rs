//! Which parts there are, and which may go. Plain bookkeeping under one lock of [`super::Data`]:
//! calls nothing, waits for nothing; what leaves is returned, to be dropped after the unlock.
//!
//! Invariants: parts of one version never overlap; a part is in exactly one [`Place`].

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;

use super::file::File;
use super::part::Part;
use super::remembered::Remembered;
use crate::object::{Ino, Object};

/// All parts of the mount.
pub(crate) struct Index {
    files: HashMap<Ino, Entry>,
    /// Complete parts that were asked for by readers, by last use.
    cached: LruCache<PartId, ()>,
    /// Parts that came ahead of a reader, by age.
    unread: BTreeMap<u64, PartId>,
    unread_bytes: u64,
    /// Files that have unread parts and others.
    streams: u64,
    next_number: u64,
    /// Of files that are not kept here any more.
    remembered: Remembered,
    /// How many entries there may be before those that nobody needs are looked for.
    sweep_at: usize,
}

/// Entries that are kept without looking whether somebody needs them: of files that were closed after
/// their parts had gone.
const IDLE_ENTRIES_MAX: usize = 1024;

#[derive(Default)]
struct Entry {
    /// All handles of one version share it, and it lives as long as there are parts.
    file: Option<Arc<File>>,
    parts: BTreeMap<u64, Slot>,
    /// How many of its parts are unread, but for one that is all of it.
    unread: usize,
}

impl Entry {
    /// Whether `part` is one of several: not so a small file that came ahead, whole.
    fn streams(&self, part: &Part) -> bool {
        self.file.as_ref().is_none_or(|file| part.len() < file.size())
    }

    fn is_idle(&self) -> bool {
        self.parts.is_empty() && self.file.as_ref().is_none_or(|file| Arc::strong_count(file) == 1)
    }
}

struct Slot {
    part: Arc<Part>,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On its way to a reader.
    Wanted,
    /// Ahead of its reader, on its way or complete; the key in `unread`.
    Unread(u64),
    /// In `cached`.
    Cached,
}

/// The name of a part.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PartId {
    pub(crate) ino: Ino,
    pub(crate) start: u64,
}

impl Index {
    /// What it remembers of files that are not kept takes at most `remembered_bytes_max`.
    pub(crate) fn new(remembered_bytes_max: u64) -> Self {
        Self {
            remembered: Remembered::new(remembered_bytes_max),
            files: HashMap::new(),
            // Bounded by the budget, in bytes rather than in entries.
            cached: LruCache::unbounded(),
            unread: BTreeMap::new(),
            unread_bytes: 0,
            streams: 0,
            next_number: 0,
            sweep_at: IDLE_ENTRIES_MAX,
        }
    }

    /// The file of this number, or the one that `make` makes. Parts that another version of the same
    /// hash left under the number are returned: nobody holds that one any more, else the number would
    /// have been moved.
    pub(crate) fn file(
        &mut self,
        ino: Ino,
        object: &Object,
        make: impl FnOnce() -> Arc<File>,
    ) -> (Arc<File>, Vec<Arc<Part>>) {
        self.sweep();
        let entry = self.files.entry(ino).or_default();
        if entry.file.as_ref().is_none_or(|file| *file.object == *object) {
            let remembered = &mut self.remembered;
            let file = entry.file.get_or_insert_with(|| remembered.restore(make()));
            return (Arc::clone(file), Vec::new());
        }
        let starts: Vec<u64> = entry.parts.keys().copied().collect();
        let gone =
            starts.into_iter().filter_map(|start| self.take(PartId { ino, start })).collect();
        self.remembered.forget(ino);
        let file = make();
        self.files.entry(ino).or_default().file = Some(Arc::clone(&file));
        (file, gone)
    }

    /// Whether any byte of the file is here or on its way.
    pub(crate) fn has_any(&self, ino: Ino) -> bool {
        self.files.get(&ino).is_some_and(|entry| !entry.parts.is_empty())
    }

    /// The file's first part, where that came ahead and was not read yet.
    pub(crate) fn unread_first(&self, ino: Ino) -> Option<Arc<Part>> {
        let slot = self.files.get(&ino)?.parts.get(&0)?;
        matches!(slot.place, Place::Unread(_)).then(|| Arc::clone(&slot.part))
    }

    /// The parts in `range`, in order, and whether a reader waits for some of each.
    pub(crate) fn parts_in(&self, ino: Ino, range: &Range<u64>) -> Vec<(Arc<Part>, bool)> {
        let Some(entry) = self.files.get(&ino) else { return Vec::new() };
        let is_wanted = |part: &Part| {
            let slot = entry.parts.get(&part.range.start);
            slot.is_none_or(|slot| slot.place == Place::Wanted)
        };
        self.overlapping(ino, range).map(|part| (Arc::clone(part), is_wanted(part))).collect()
    }

    /// The pieces of `range` that no part covers, in order.
    pub(crate) fn gaps(&self, ino: Ino, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for part in self.overlapping(ino, range) {
            if at < part.range.start {
                gaps.push(at..part.range.start);
            }
            at = at.max(part.range.end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// The parts that cover `range`, in order, now wanted by a reader; `None` if there is a gap.
    pub(crate) fn take_cover(&mut self, ino: Ino, range: &Range<u64>) -> Option<Vec<Arc<Part>>> {
        if !self.gaps(ino, range).is_empty() {
            return None;
        }
        let parts: Vec<_> = self.overlapping(ino, range).map(Arc::clone).collect();
        for part in &parts {
            self.touch(PartId { ino, start: part.range.start });
        }
        Some(parts)
    }

    /// Adds a part that fills a gap.
    ///
    /// # Panics
    /// When it overlaps another one.
    pub(crate) fn insert(&mut self, ino: Ino, part: &Arc<Part>, wanted: bool) {
        assert!(self.overlapping(ino, &part.range).next().is_none(), "parts never overlap");
        let id = PartId { ino, start: part.range.start };
        let place = if wanted { Place::Wanted } else { Place::Unread(self.next_number) };
        let entry = self.files.entry(ino).or_default();
        if let Place::Unread(number) = place {
            if entry.streams(part) {
                entry.unread += 1;
                self.streams += u64::from(entry.unread == 1);
            }
            self.unread.insert(number, id);
            self.unread_bytes += part.len();
            self.next_number += 1;
        }
        entry.parts.insert(id.start, Slot { part: Arc::clone(part), place });
    }

    /// A wanted part has arrived whole: from now on it may be evicted.
    pub(crate) fn complete(&mut self, id: PartId, part: &Arc<Part>) {
        let slot = self.files.get_mut(&id.ino).and_then(|entry| entry.parts.get_mut(&id.start));
        if let Some(slot) = slot
            && Arc::ptr_eq(&slot.part, part)
            && slot.place == Place::Wanted
        {
            slot.place = Place::Cached;
            self.cached.put(id, ());
        }
    }

    /// Takes the part out, if it is still this one.
    pub(crate) fn remove(&mut self, id: PartId, part: &Arc<Part>) -> Option<Arc<Part>> {
        let slot = self.files.get(&id.ino)?.parts.get(&id.start)?;
        if Arc::ptr_eq(&slot.part, part) { self.take(id) } else { None }
    }

    /// As [`Index::remove`], unless a reader has asked for it.
    pub(crate) fn remove_unread(&mut self, id: PartId, part: &Arc<Part>) -> Option<Arc<Part>> {
        let slot = self.files.get(&id.ino)?.parts.get(&id.start)?;
        matches!(slot.place, Place::Unread(_)).then_some(())?;
        self.remove(id, part)
    }

    /// Bytes of the file that came ahead, whole parts only, and were not asked for yet.
    pub(crate) fn unread_complete(&self, ino: Ino) -> u64 {
        let Some(entry) = self.files.get(&ino) else { return 0 };
        let is_ready =
            |slot: &&Slot| matches!(slot.place, Place::Unread(_)) && slot.part.is_complete();
        entry.parts.values().filter(is_ready).map(|slot| slot.part.len()).sum()
    }

    /// Takes complete parts out, least recently used first, until `bytes` are found or none is
    /// left.
    pub(crate) fn evict(&mut self, bytes: u64) -> Vec<Arc<Part>> {
        let (mut gone, mut freed) = (Vec::new(), 0);
        while freed < bytes
            && let Some((id, ())) = self.cached.pop_lru()
        {
            if let Some(part) = self.take(id) {
                freed += part.len();
                gone.push(part);
            }
        }
        gone
    }

    /// Takes unread parts out, newest first: their readers are the furthest away.
    pub(crate) fn evict_unread(&mut self, bytes: u64) -> Vec<Arc<Part>> {
        let (mut gone, mut freed) = (Vec::new(), 0);
        while freed < bytes
            && let Some((_, id)) = self.unread.last_key_value()
        {
            let Some(part) = self.take(*id) else { break };
            freed += part.len();
            gone.push(part);
        }
        gone
    }

    /// Takes out what came ahead for a file that nobody reads any more.
    pub(crate) fn evict_unread_of(&mut self, ino: Ino) -> Vec<Arc<Part>> {
        self.evict_unread_in(ino, &(0..u64::MAX))
    }

    /// Takes out what came ahead within `range` of the file.
    pub(crate) fn evict_unread_in(&mut self, ino: Ino, range: &Range<u64>) -> Vec<Arc<Part>> {
        let Some(entry) = self.files.get(&ino) else { return Vec::new() };
        let unread = |(start, slot): (&u64, &Slot)| match slot.place {
            Place::Unread(_) if slot.part.range.end <= range.end => {
                Some(PartId { ino, start: *start })
            }
            Place::Unread(_) | Place::Wanted | Place::Cached => None,
        };
        let ids: Vec<PartId> = entry.parts.range(range.clone()).filter_map(unread).collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }

    /// Drops the entry of a file that has neither parts nor users.
    fn tidy(&mut self, ino: Ino) {
        if self.files.get(&ino).is_some_and(Entry::is_idle)
            && let Some(Entry { file: Some(file), .. }) = self.files.remove(&ino)
        {
            self.remembered.note(&file);
        }
    }

    /// Drops all entries that have neither parts nor users, once there are twice as many as were
    /// needed the last time: a small share of the work that made them.
    fn sweep(&mut self) {
        if self.files.len() >= self.sweep_at {
            let remembered = &mut self.remembered;
            self.files.retain(|_, entry| {
                let is_idle = entry.is_idle();
                if let (true, Some(file)) = (is_idle, &entry.file) {
                    remembered.note(file);
                }
                !is_idle
            });
            self.sweep_at = self.files.len() * 2 + IDLE_ENTRIES_MAX;
        }
    }

    /// The kernel has forgotten the number, and with it the pages that it had.
    pub(crate) fn forget(&mut self, ino: Ino) {
        if let Some(Entry { file: Some(file), .. }) = self.files.get(&ino) {
            file.forget_pages();
        }
        self.tidy(ino);
        self.remembered.forget(ino);
    }

    /// What is remembered of files that are not kept takes so many bytes.
    pub(crate) fn remembered_bytes(&self) -> u64 {
        self.remembered.bytes()
    }

    /// Bytes that came ahead and were not read yet.
    pub(crate) fn unread_bytes(&self) -> u64 {
        self.unread_bytes
    }

    /// How many files have unread parts: those that are being streamed.
    pub(crate) fn streams(&self) -> u64 {
        self.streams
    }

    /// How many files are known here.
    #[cfg(test)]
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    fn touch(&mut self, id: PartId) {
        let Some(entry) = self.files.get_mut(&id.ino) else { return };
        let streams = entry.parts.get(&id.start).is_some_and(|slot| entry.streams(&slot.part));
        let Some(slot) = entry.parts.get_mut(&id.start) else { return };
        match slot.place {
            Place::Wanted => {}
            Place::Cached => {
                self.cached.get(&id);
            }
            Place::Unread(number) => {
                if streams {
                    entry.unread -= 1;
                    self.streams -= u64::from(entry.unread == 0);
                }
                self.unread.remove(&number);
                self.unread_bytes -= slot.part.len();
                slot.place = Place::Wanted;
                if slot.part.is_complete() {
                    slot.place = Place::Cached;
                    self.cached.put(id, ());
                }
            }
        }
    }

    fn take(&mut self, id: PartId) -> Option<Arc<Part>> {
        let entry = self.files.get_mut(&id.ino)?;
        let slot = entry.parts.remove(&id.start)?;
        match slot.place {
            Place::Wanted => {}
            Place::Cached => {
                self.cached.pop(&id);
            }
            Place::Unread(number) => {
                if entry.streams(&slot.part) {
                    entry.unread -= 1;
                    self.streams -= u64::from(entry.unread == 0);
                }
                self.unread.remove(&number);
                self.unread_bytes -= slot.part.len();
            }
        }
        self.tidy(id.ino);
        Some(slot.part)
    }

    fn overlapping(&self, ino: Ino, range: &Range<u64>) -> impl Iterator<Item = &Arc<Part>> {
        let parts = self.files.get(&ino).map(|entry| &entry.parts);
        // The part before may reach into the range; parts do not overlap, so only that one.
        let first = parts.and_then(|parts| parts.range(..=range.start).next_back());
        let from = first.map_or(range.start, |(start, _)| *start);
        let (start, end) = (range.start, range.end);
        parts
            .into_iter()
            .flat_map(move |parts| parts.range(from..end.max(from)))
            .map(|(_, slot)| &slot.part)
            .filter(move |part| part.range.end > start && part.range.start < end)
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::data::budget::Budget;

    const INO: Ino = Ino(7);

    fn part(budget: &Budget, range: Range<u64>) -> Arc<Part> {
        let size = usize::try_from(range.end - range.start).expect("small");
        let permit = budget.try_reserve(&[size]).and_then(|mut all| all.pop()).expect("room");
        let chunk = permit.take_chunk(0).expect("memory");
        let (part, mut download) = Part::new(range, false, permit, chunk);
        download.append(&vec![0; size]);
        download.finish(Ok(()));
        part
    }

    #[test]
    fn gaps_are_what_no_part_covers() {
        let (budget, mut index) = (Budget::new(1000), Index::new(1000));
        index.insert(INO, &part(&budget, 10..20), true);
        index.insert(INO, &part(&budget, 30..40), true);
        assert_eq!(index.gaps(INO, &(0..50)), [0..10, 20..30, 40..50]);
        assert_eq!(index.gaps(INO, &(15..35)), [20..30; 1]);
        assert_eq!(index.gaps(INO, &(12..18)), []);
        assert_eq!(index.gaps(INO, &(20..30)), [20..30; 1]);
        assert!(index.take_cover(INO, &(15..35)).is_none());
        assert_eq!(index.take_cover(INO, &(15..20)).unwrap().len(), 1);
    }

    #[test]
    #[should_panic(expected = "parts never overlap")]
    fn an_overlap_is_refused() {
        let (budget, mut index) = (Budget::new(1000), Index::new(1000));
        index.insert(INO, &part(&budget, 10..20), true);
        index.insert(INO, &part(&budget, 19..21), true);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_unread_newest_first() {
        let (budget, mut index) = (Budget::new(1000), Index::new(1000));
        for start in [0, 10, 20] {
            let part = part(&budget, start..start + 10);
            index.insert(INO, &part, true);
            index.complete(PartId { ino: INO, start }, &part);
        }
        for start in [100, 110] {
            index.insert(INO, &part(&budget, start..start + 10), false);
        }
        index.take_cover(INO, &(0..10)).unwrap();
        let starts = |parts: Vec<Arc<Part>>| -> Vec<u64> {
            parts.iter().map(|part| part.range.start).collect()
        };
        assert_eq!(starts(index.evict(15)), [10, 20]);
        assert_eq!((index.unread_bytes(), index.streams()), (20, 1));
        assert_eq!(starts(index.evict_unread(1)), [110]);
        index.take_cover(INO, &(100..110)).unwrap();
        assert_eq!((index.unread_bytes(), index.streams()), (0, 0));
        assert_eq!(starts(index.evict(100)), [0, 100]);
        assert_eq!((budget.used(), index.files()), (0, 0));
    }
}
