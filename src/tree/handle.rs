//! Reading a directory: one reader's snapshot, and positions in it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::answer::{Answer, Source, What};
use super::block::{Block, Listed};
use super::directory::Directory;
use super::name::directory_order;
use super::snapshot::Snapshot;
use super::{Found, Tree, found};
use crate::error::FsError;
use crate::object::DirPath;

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: Arc<str>,
    pub found: Found,
    /// The position behind it.
    pub next: u64,
    /// As in [`super::Lookup`].
    pub valid_for: Duration,
}

/// What an open directory shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sight {
    /// How often it was rewound: each time it may show something else.
    pub n_rewinds: u64,
    /// The listing, by its number, where it is all that is shown; `None` where single answers stand
    /// beside it.
    pub listing: Option<u64>,
    /// How much longer that listing is shown to those who open the directory.
    pub holds_for: Duration,
}

/// An open directory. Two readers may use one: a read names its position.
pub struct DirHandle {
    tree: Arc<Tree>,
    path: DirPath,
    n_rewinds: AtomicU64,
    /// `None` after a rewind: the next read takes a new one.
    view: Mutex<Option<View>>,
}

/// A listing as one reader sees it: with what single answers told beside it when it was opened.
/// Invariant: segments are only added, so a position means one entry. It holds no entries of the listing:
/// a block may be put away as soon as it has been read.
struct View {
    /// The one that `listing` is of: where that was forgotten, there is another by now.
    directory: Arc<Directory>,
    listing: Arc<Snapshot>,
    /// Nothing was told beside it.
    is_alone: bool,
    segments: Vec<Segment>,
    n_entries: u64,
    n_blocks: usize,
    /// What single answers told, in directory order, as far as the listing has not come.
    told: VecDeque<(Box<str>, Answer)>,
    /// Names that were told and that the listing did not have where they belong; in another order
    /// than that of keys it may come to them yet.
    added: Vec<Box<str>>,
    is_complete: bool,
}

/// Entries that follow each other.
struct Segment {
    /// The position of the first.
    start: u64,
    content: Content,
}

/// A listing of so many blocks is long: some 8,000 entries.
const LONG_BLOCKS: usize = 16;

/// What is known from a position on.
struct Known {
    entries: Vec<Entry>,
    directory: Arc<Directory>,
    listing: Arc<Snapshot>,
    then: Then,
}

/// What follows what is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    /// Nothing.
    End,
    /// A page that has yet to come.
    Page,
    /// A block that was put away.
    Block(usize),
}

enum Content {
    /// Of the block at a place of the listing.
    Rows {
        slot: usize,
        first: usize,
        len: usize,
    },
    Single {
        name: Box<str>,
        answer: Answer,
    },
}

impl DirHandle {
    pub(super) fn new(tree: Arc<Tree>, directory: Arc<Directory>, listing: Arc<Snapshot>) -> Self {
        let path = directory.path.clone();
        let view = Mutex::new(Some(View::new(directory, listing)));
        Self { tree, path, n_rewinds: AtomicU64::new(0), view }
    }

    /// What it shows; between a rewind and the next read, nothing for any time.
    pub fn sight(&self) -> Sight {
        let guard = self.view.lock();
        let n_rewinds = self.n_rewinds.load(Ordering::Relaxed);
        let Some(view) = guard.as_ref() else {
            return Sight { n_rewinds, listing: None, holds_for: Duration::ZERO };
        };
        let listing = view.is_alone.then_some(view.listing.number);
        let holds_for = view.directory.left(&view.listing, &self.tree.ages, Instant::now());
        Sight { n_rewinds, listing, holds_for }
    }

    /// At most `max` entries from `position` on, in directory order; none is the end. Waits until
    /// one is known, no longer. After an error the next read asks again from where it failed.
    pub async fn read(&self, position: u64, max: usize) -> Result<Vec<Entry>, FsError> {
        loop {
            let Some(Known { entries, directory, listing, then }) = self.known(position, max)
            else {
                // It may have been forgotten, and known anew, since the handle was opened.
                let directory = self.tree.directory(&self.path);
                let listing = self.tree.open_listing(&directory).await?;
                let view = View::new(directory, listing);
                self.view.lock().get_or_insert(view);
                continue;
            };
            if !entries.is_empty() {
                return Ok(entries);
            }
            match then {
                Then::End => return Ok(Vec::new()),
                Then::Page => {
                    if let Some(page) = self.tree.next_page(&directory, &listing) {
                        page.await?;
                    }
                }
                Then::Block(slot) => self.tree.bring_back(&listing, slot).await?,
            }
        }
    }

    /// As [`DirHandle::read`], but only what is in memory: none says nothing.
    pub fn read_known(&self, position: u64, max: usize) -> Vec<Entry> {
        self.known(position, max).map_or_else(Vec::new, |known| known.entries)
    }

    /// Takes a new snapshot with the next read, as rewinddir(3) wants it.
    pub fn rewind(&self) {
        let mut view = self.view.lock();
        self.n_rewinds.fetch_add(1, Ordering::Relaxed);
        let before = view.take();
        drop(view);
        drop(before);
    }

    /// What is known from `position` on; asks for the next page when the last known one is being read.
    /// `None` after a rewind.
    fn known(&self, position: u64, max: usize) -> Option<Known> {
        let mut guard = self.view.lock();
        let view = guard.as_mut()?;
        let n_blocks = view.n_blocks;
        let away = view.take_blocks();
        if (n_blocks..view.n_blocks).contains(&LONG_BLOCKS) {
            self.tree.note_long(&view.listing);
        }
        let (entries, then) = view.entries(position, max.max(1), &self.tree);
        let then = match then {
            Then::End => away.map_or(view.then(), Then::Block),
            then => then,
        };
        let (directory, listing) = (Arc::clone(&view.directory), Arc::clone(&view.listing));
        let known = Known { entries, directory, listing, then };
        let is_last = match known.entries.last() {
            Some(entry) => view.is_in_last_block(entry.next),
            None => false,
        };
        drop(guard);
        if is_last {
            // One page of look-ahead. Nobody waits for it; should it fail, who needs it asks again.
            drop(self.tree.next_page(&known.directory, &known.listing));
        }
        Some(known)
    }
}

impl View {
    fn new(directory: Arc<Directory>, listing: Arc<Snapshot>) -> Self {
        let told: VecDeque<_> = directory.told_since(&listing).into();
        Self {
            directory,
            listing,
            is_alone: told.is_empty(),
            segments: Vec::new(),
            n_entries: 0,
            n_blocks: 0,
            told,
            added: Vec::new(),
            is_complete: false,
        }
    }

    /// Takes in what the listing has got since the last time. Gives the place of a block that was put
    /// away, where a name that was told is to be found in it first.
    fn take_blocks(&mut self) -> Option<usize> {
        if self.is_complete {
            return None;
        }
        let (n_blocks, is_complete) = self.listing.extent();
        while self.n_blocks < n_blocks {
            let slot = self.n_blocks;
            let name = self.told.front().map(|(name, _)| &**name);
            let (len, is_behind) = self.listing.extent_of(slot, name);
            let is_plain = is_behind && (self.added.is_empty() || self.listing.is_ordered());
            if is_plain {
                self.add_run(slot, 0, len);
            } else {
                let Some(block) = self.listing.look_at(slot) else { return Some(slot) };
                self.take_block(slot, &block);
            }
            self.n_blocks += 1;
        }
        if is_complete {
            while let Some((name, answer)) = self.told.pop_front() {
                self.add_told(name, answer);
            }
        }
        self.is_complete = is_complete;
        None
    }

    fn then(&self) -> Then {
        if self.is_complete { Then::End } else { Then::Page }
    }

    fn take_block(&mut self, slot: usize, block: &Block) {
        let mut next = 0;
        while let Some((name, answer)) =
            self.told.pop_front_if(|(name, _)| directory_order(name, block.last_name()).is_le())
        {
            match block.search(&name) {
                Ok(index) if answer.sent >= block.sent => {
                    self.add_rows(slot, block, next, index);
                    next = index + 1;
                    self.add_single(name, answer);
                }
                // The page is newer.
                Ok(_) => {}
                Err(index) => {
                    self.add_rows(slot, block, next, index);
                    next = index;
                    self.add_told(name, answer);
                }
            }
        }
        self.add_rows(slot, block, next, block.len());
    }

    /// A name that the listing does not have.
    fn add_told(&mut self, name: Box<str>, answer: Answer) {
        if self.listing.passed_at(&name).is_none_or(|passed| answer.sent >= passed) {
            if answer.what != What::Absent {
                self.added.push(name.clone());
            }
            self.add_single(name, answer);
        }
    }

    fn add_single(&mut self, name: Box<str>, answer: Answer) {
        if answer.what != What::Absent {
            self.add(Content::Single { name, answer }, 1);
        }
    }

    /// Rows of a block, but for names that were shown before.
    fn add_rows(&mut self, slot: usize, block: &Block, first: usize, end: usize) {
        let mut first = first;
        if !self.added.is_empty() && !self.listing.is_ordered() {
            let rows = self.added.iter().filter_map(|name| block.search(name).ok());
            let mut shown: Vec<usize> = rows.filter(|row| (first..end).contains(row)).collect();
            shown.sort_unstable();
            for row in shown {
                self.add_run(slot, first, row);
                first = row + 1;
            }
        }
        self.add_run(slot, first, end);
    }

    fn add_run(&mut self, slot: usize, first: usize, end: usize) {
        if first < end {
            let len = end - first;
            self.add(Content::Rows { slot, first, len }, len);
        }
    }

    fn add(&mut self, content: Content, len: usize) {
        self.segments.push(Segment { start: self.n_entries, content });
        self.n_entries += len as u64;
    }

    /// Whether `position` lies in, or just after, the last that has come.
    fn is_in_last_block(&self, position: u64) -> bool {
        let last = self.segments.last().map_or(0, |segment| segment.start);
        !self.is_complete && position > last
    }

    /// Entries from `position` on, and what follows those that could be had.
    fn entries(&self, position: u64, max: usize, tree: &Tree) -> (Vec<Entry>, Then) {
        let (mut entries, dir) = (Vec::new(), &self.directory);
        let (n_pages, now) = (self.listing.cost(), Instant::now());
        let source = Source::Listing { is_complete: self.is_complete };
        // The reader keeps its snapshot, but the kernel must not believe what is known to be over.
        let newer: HashMap<_, _> = dir.told_since(&self.listing).into_iter().collect();
        let marks = dir.marks();
        let left = |name: &str, answer: &Answer| {
            let is_over = newer.get(name).is_some_and(|told| told.sent > answer.sent)
                || !marks.allow(name, answer.sent);
            if is_over { Duration::ZERO } else { tree.ages.valid_for(answer, now) }
        };
        let at = self.segments.partition_point(|segment| segment.start <= position);
        for segment in &self.segments[at.saturating_sub(1)..] {
            let skip =
                usize::try_from(position.saturating_sub(segment.start)).unwrap_or(usize::MAX);
            match &segment.content {
                Content::Rows { slot, first, len } if skip < *len => {
                    let Some(block) = self.listing.block(*slot) else {
                        return (entries, Then::Block(*slot));
                    };
                    // One is as good as the others, but for what it is.
                    let what = What::Directory { listable: true };
                    let answer = Answer { what, sent: block.sent, n_pages, source };
                    for index in skip..*len {
                        if entries.len() == max {
                            break;
                        }
                        let next = segment.start + index as u64 + 1;
                        let listed = Listed::at(&block, first + index);
                        if listed.is_there() {
                            let valid_for = left(listed.name(), &answer);
                            let (name, found) = (listed.name().into(), Found::Listed(listed));
                            entries.push(Entry { name, found, next, valid_for });
                        }
                    }
                }
                Content::Single { name, answer } if skip == 0 && entries.len() < max => {
                    let valid_for = left(name, answer);
                    let (name, next) = (Arc::from(&**name), segment.start + 1);
                    let found = found(&dir.path, &name, answer.what.clone());
                    entries.extend(found.map(|found| Entry { name, found, next, valid_for }));
                }
                Content::Rows { .. } | Content::Single { .. } => {}
            }
            if entries.len() >= max {
                break;
            }
        }
        (entries, Then::End)
    }
}
