//! The namespace: what the bucket holds. Takes directory paths and names, gives what they mean and
//! for how long that holds; knows nothing of inode numbers, handles of the kernel, or file bytes.
//!
//! Reading order: `name` and `listing` (which names there are, and their order), `block` and
//! `snapshot` (a listing in memory), `answer` (how long it holds), `directory` (what is known of one
//! directory, and what to ask next), `gauge` and `pieces` (which page to ask for a name), `search`
//! (where a name is looked for next), `ask` (the requests), `handle` (reading a directory), `doubts` and
//! `confirm` (whether many files are what they were), `forget` (what is known no longer counts), `outlast` (what
//! holds while S3 cannot be asked).
//!
//! Invariants: what is in memory is answered at the first poll and wakes nobody. Every request runs
//! as a task of its own ([`crate::flight`]); it writes down what it learnt before it wakes its waiters, and
//! they take the answer from the flight, so that a time to live of 0 still answers them.
//! Lock order: tree directories < lately forgotten; tree directories < state of one directory < state
//! of one snapshot. None is held across an await.

mod ahead;
mod answer;
mod ask;
mod block;
mod confirm;
mod directory;
mod doubts;
mod forget;
mod gauge;
mod handle;
mod listing;
mod name;
mod next;
mod outlast;
mod pieces;
mod ranges;
mod said;
mod search;
mod shelf;
mod snapshot;
mod spread;
mod sweep;
#[cfg(test)]
mod tests;
mod unfold;
mod walk;
mod weight;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub use self::block::{Block, Listed};
pub use self::forget::Forgotten;
pub use self::handle::{DirHandle, Entry, Sight};
pub use self::name::{NAME_BYTES_MAX, is_presentable};
pub use self::next::VisitOrder;

use self::answer::{Ages, Answer, Source, What};
use self::directory::{Directory, Known, Opening};
use self::doubts::Doubts;
use self::forget::{Generation, Lately};
use self::name::KEY_BYTES_MAX;
use self::next::Sorted;
use self::outlast::is_outage;
use self::ranges::ASKED_MAX;
use self::said::{Said, Topic};
use self::search::Searches;
use self::snapshot::{News, Order, Snapshot};
use self::walk::Walks;
use self::weight::Scales;
use crate::config::{MetadataTtl, Ttl};
use crate::error::FsError;
use crate::flight::Flights;
use crate::object::{DirPath, Object, Version};
use crate::store::reach::Reach;
use crate::store::{ListPage, ObjectStore};

/// What the tree shows, and how long it believes it.
#[derive(Clone)]
pub struct TreeConfig {
    /// The mount's root. It exists, also when it is empty.
    pub prefix: DirPath,
    pub metadata_ttl: MetadataTtl,
    pub negative_ttl: Ttl,
    /// What is known of directories is bounded by this; beyond, those used longest ago are
    /// forgotten and asked for again. What open handles read is kept, and may go beyond.
    pub entries_bytes_max: u64,
    /// Whether S3 answers: where it does not, old answers are served.
    pub reach: Arc<Reach>,
}

/// What a name means. A directory has no date, also where a marker object has one: its parent's
/// listing does not tell it, and a date that comes and goes with what happens to be known would give
/// two archives of one bucket that differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// An entry of a listing, be it a file or a directory.
    Listed(Listed),
    File(Arc<Object>),
    Directory {
        path: DirPath,
        /// False where LIST is denied and the name is not an object that can be read: it may be a
        /// directory, whose names can be looked up but not listed (mode 0111).
        listable: bool,
    },
}

/// The answer to a lookup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lookup {
    /// `None`: there is no such name, which is certain.
    pub found: Option<Found>,
    /// What is left of the answer's time to live, counted from when its request was sent.
    pub valid_for: Duration,
}

/// The names of one mount.
pub struct Tree {
    store: Arc<dyn ObjectStore>,
    reach: Arc<Reach>,
    runtime: Handle,
    root: DirPath,
    ages: Ages,
    bytes_max: u64,
    scales: Scales,
    /// Bytes of inodes.
    beside: AtomicU64,
    /// Those used longest ago are forgotten when `scales` show more than `bytes_max`.
    directories: Mutex<LruCache<DirPath, Arc<Directory>>>,
    /// The directory that was opened last, or in which a name was asked for last.
    current: Mutex<Option<DirPath>>,
    searches: Searches,
    doubts: Doubts,
    /// Questions about one name.
    names: Flights<(DirPath, Generation, Box<str>), Result<Answer, FsError>>,
    /// Directories that are listed again behind.
    refreshes: Flights<(DirPath, Generation), Result<(), FsError>>,
    lately: Lately,
    /// Listings that are read and long, also those that newer ones have replaced.
    long: Mutex<Vec<Weak<Snapshot>>>,
    /// Cleared for good when the server is found to list in another order than that of keys.
    lists_in_order: AtomicBool,
    /// Cleared for good when the server is found not to list from any key on.
    lists_by_ranges: AtomicBool,
    /// Cleared for good when a listing without delimiter is found to be denied, or in no order.
    lists_flat: AtomicBool,
    /// Set by the first page that comes: where none does, LIST may be denied in any form.
    lists_at_all: AtomicBool,
    walks: Walks,
    sorted: Sorted,
    said: Said,
}

/// One listing that is read may take so many times what all names together should: a directory of
/// 5 million usual names at the smallest default `--memory`. A longer one may have no end.
const LISTING_SHARE: u64 = 8;

/// A page that is received and parsed, for the bound on those on their way.
const PAGE_ON_WAY_BYTES: u64 = 512 << 10;

/// What is on its way for one listing: one in so many bytes of what all names may take.
const ON_WAY_SHARE: u64 = 4;

/// Where there is too much, so large a part of what all may hold is freed beyond.
const TRIM_SHARE: u64 = 32;

impl Tree {
    pub fn new(store: Arc<dyn ObjectStore>, runtime: Handle, config: TreeConfig) -> Arc<Self> {
        let TreeConfig { prefix, metadata_ttl, negative_ttl, entries_bytes_max, reach } = config;
        Arc::new(Self {
            store,
            reach,
            runtime,
            root: prefix,
            ages: Ages { metadata: metadata_ttl, negative: negative_ttl },
            bytes_max: entries_bytes_max,
            scales: Scales::default(),
            beside: AtomicU64::new(0),
            directories: Mutex::new(LruCache::unbounded()),
            current: Mutex::new(None),
            searches: Searches::new(),
            doubts: Doubts::new(),
            names: Flights::new(Err(FsError::Abandoned)),
            refreshes: Flights::new(Err(FsError::Abandoned)),
            lately: Lately::default(),
            long: Mutex::new(Vec::new()),
            lists_in_order: AtomicBool::new(true),
            lists_by_ranges: AtomicBool::new(true),
            lists_flat: AtomicBool::new(true),
            lists_at_all: AtomicBool::new(false),
            walks: Walks::new(),
            sorted: Sorted::new(),
            said: Said::new(),
        })
    }

    /// The LIST that proved bucket and credentials before mounting is the root's first page.
    pub fn seed(&self, page: ListPage, sent: Instant) {
        let directory = self.directory(&self.root);
        let listing = directory.begin(|| self.begin(&directory));
        let Some((id, _)) = listing.ask(false).pop() else { return };
        match listing.answer(id, page, sent) {
            Ok(news) => self.note(&directory, &listing, &news),
            Err(err) => {
                debug!("the first page is asked for again: {err}");
                listing.fail(id, FsError::Store(err));
            }
        }
    }

    /// What `name` in `dir` means. An error says nothing of it.
    pub async fn lookup(self: &Arc<Self>, dir: &DirPath, name: &str) -> Result<Lookup, FsError> {
        if !is_presentable(name) || dir.as_str().len() + name.len() > KEY_BYTES_MAX {
            return Ok(Lookup { found: None, valid_for: Duration::ZERO });
        }
        let directory = self.directory(dir);
        self.searches.look(dir, name);
        let answer = match directory.known(name, &self.ages, Instant::now()) {
            Known::Answer(answer) => answer,
            known => self.ask_or_outlast(&directory, name, known).await?,
        };
        let valid_for = self.ages.valid_for(&answer, Instant::now());
        if answer.what == What::Absent {
            self.searches.miss(dir, name);
        }
        let found = match directory.listed(name, &answer) {
            Some(listed) => Some(Found::Listed(listed)),
            None => found(dir, name, answer.what),
        };
        Ok(Lookup { found, valid_for })
    }

    /// A reader of `dir`. Fails with `ListDenied` where LIST is denied, and with `NotFound` when
    /// the bucket has no key in it, unless it is the root.
    pub async fn open_dir(self: &Arc<Self>, dir: &DirPath) -> Result<DirHandle, FsError> {
        let directory = self.directory(dir);
        self.be_in(dir);
        let listing = self.open_listing(&directory).await?;
        Ok(DirHandle::new(Arc::clone(self), directory, listing))
    }

    /// An answer to a HEAD or GET that was sent at `sent` told the current version of `key`, or that
    /// it is gone. What was told by an older request gives way at once, in lookups and in listings
    /// that are opened from now on.
    pub fn learn(&self, key: &str, version: Option<Version>, sent: Instant) {
        let (dir, name) = key.split_at(key.rfind('/').map_or(0, |slash| slash + 1));
        if !key.starts_with(self.root.as_str()) || !is_presentable(name) {
            return;
        }
        let what = version.map_or(What::Absent, What::File);
        let answer = Answer { what, sent, n_pages: 1, source: Source::Single };
        let directory = self.directory(&DirPath::new(dir));
        directory.learn(name, answer, &self.ages, Instant::now());
        self.trim();
    }

    /// Bytes of all that is known, what open handles read and what inodes refer to included.
    pub fn bytes(&self) -> u64 {
        self.scales.bytes()
    }

    /// What names and inodes may hold together.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// States what inodes hold beside the listings that they refer to: names make room for them.
    pub fn set_beside(&self, bytes: u64) {
        self.beside.store(bytes, Ordering::Relaxed);
    }

    /// The time that things are stamped with when they are used.
    pub fn tick(&self) -> u32 {
        self.scales.tick()
    }

    /// The listing for a new reader, which exists; where S3 cannot be asked, the last one that is complete.
    async fn open_listing(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
    ) -> Result<Arc<Snapshot>, FsError> {
        self.outlast(self.ask_for_listing(directory), || directory.last_complete()).await
    }

    async fn ask_for_listing(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
    ) -> Result<Arc<Snapshot>, FsError> {
        self.ask_for_forgotten(directory).await;
        if directory.must_be_asked(&self.ages, Instant::now()) {
            self.walk_to(directory).await;
        }
        let opening = directory.open(|| self.begin(directory), &self.ages, Instant::now());
        let listing = match opening {
            Opening::Known(listing) | Opening::Begun(listing) => listing,
            Opening::KnownAndRefresh(listing) => {
                if !self.walk_behind(directory, &listing) {
                    self.refresh(directory);
                }
                listing
            }
            Opening::Denied => {
                self.warn_of_denial(directory);
                return Err(FsError::ListDenied);
            }
        };
        match self.has_keys(directory, &listing).await {
            Ok(has_keys) if has_keys || directory.path == self.root => {
                self.note_use(directory, &listing);
                Ok(listing)
            }
            Ok(_) => {
                self.lose(directory, &listing);
                Err(FsError::NotFound)
            }
            Err(FsError::ListDenied) => {
                self.warn_of_denial(directory);
                Err(FsError::ListDenied)
            }
            Err(err) => Err(err),
        }
    }

    /// Once for each directory that somebody wants to read.
    fn warn_of_denial(&self, directory: &Directory) {
        let path = directory.path.as_str();
        if self.said.is_new(Topic::ListDenied, path) {
            let err = denial(directory);
            warn!("the names in {path:?} may not be listed, known ones still open: {err}");
        }
    }

    /// Once for the whole mount: where nothing may be listed it is so for every missing name.
    fn warn_of_guess(&self, directory: &Directory) {
        if self.said.is_new(Topic::Guessed, "") {
            let (path, err) = (directory.path.as_str(), denial(directory));
            warn!(
                "whether {path:?} exists can not be told, so it is shown as a directory of mode \
                 0111, as is every such name: {err}"
            );
        }
    }

    /// The directory's own listing proves that it exists, whatever the age of its parent's, unless the
    /// name was forgotten since.
    fn listed_by_itself(&self, parent: &Directory, name: &str) -> Option<Answer> {
        let child = self.known_directory(&parent.path.child(name))?;
        let answer = child.own_answer(&self.ages, Instant::now())?;
        parent.marks().allow(name, answer.sent).then_some(answer)
    }

    /// Whether `name` is on the way to the directory that is in use, as that one's listing shows. Where
    /// its time is over it is listed again, rather than each directory above it: who looks into it
    /// every second pays for it alone, however deep it is.
    async fn shown_from_below(self: &Arc<Self>, parent: &Directory, name: &str) -> Option<Answer> {
        let current = self.current.lock().clone()?;
        if !current.as_str().starts_with(parent.path.child(name).as_str()) {
            return None;
        }
        let directory = self.known_directory(&current)?;
        let counts = |sent| parent.marks().allow(name, sent);
        let shown = || {
            let answer = directory.own_answer(&self.ages, Instant::now())?;
            counts(answer.sent).then_some(answer)
        };
        if let Some(answer) = shown() {
            return Some(answer);
        }
        // Of a name that was forgotten since, the next look goes to what it is itself.
        if !directory.is_small(&self.ages) || !directory.listed_at().is_some_and(counts) {
            return None;
        }
        let listing = directory.begin(|| self.begin(&directory));
        self.has_keys(&directory, &listing).await.ok()?;
        shown()
    }

    /// Notes which directory is in use.
    fn be_in(&self, path: &DirPath) {
        let mut current = self.current.lock();
        if current.as_ref() != Some(path) {
            *current = Some(path.clone());
        }
    }

    /// Forgets a directory that was found without keys; its parent hears of it.
    fn lose(&self, directory: &Directory, listing: &Snapshot) {
        if directory.path == self.root {
            return;
        }
        self.directories.lock().pop(&directory.path);
        let parent = directory.path.parent();
        let name = directory.path.as_str()[parent.as_str().len()..].trim_end_matches('/');
        if let (Some(parent), Some(sent)) = (self.known_directory(&parent), listing.sent()) {
            parent.lose_directory(name, sent);
        }
    }

    fn directory(&self, path: &DirPath) -> Arc<Directory> {
        let mut directories = self.directories.lock();
        let new = || Arc::new(Directory::new(path, self.lately.marks(path), &self.scales));
        Arc::clone(directories.get_or_insert(path.clone(), new))
    }

    fn known_directory(&self, path: &DirPath) -> Option<Arc<Directory>> {
        self.directories.lock().get(path).map(Arc::clone)
    }

    fn begin(&self, directory: &Directory) -> Snapshot {
        self.begin_after(directory, "")
    }

    /// A listing of the names behind `after`.
    fn begin_after(&self, directory: &Directory, after: &str) -> Snapshot {
        let bytes_max = self.bytes_max.saturating_mul(LISTING_SHARE);
        let listing =
            Snapshot::after(&directory.path, after, self.order(), &self.scales, bytes_max);
        listing.at_once(self.pages_at_once())
    }

    /// How many pages one listing may have on their way: little of what all names may take.
    fn pages_at_once(&self) -> usize {
        let pages = self.bytes_max / ON_WAY_SHARE / PAGE_ON_WAY_BYTES;
        usize::try_from(pages).unwrap_or(usize::MAX).clamp(1, ASKED_MAX)
    }

    fn order(&self) -> Order {
        let ordered = self.lists_in_order.load(Ordering::Relaxed);
        Order { ordered, by_ranges: ordered && self.lists_by_ranges.load(Ordering::Relaxed) }
    }

    /// A page has come: what it obsoletes, what the log should hear, and the bound.
    fn note(&self, directory: &Directory, listing: &Arc<Snapshot>, news: &News) {
        self.hear(directory, listing, news);
        self.trim();
    }

    /// [`Tree::note`] without the bound.
    fn hear(&self, directory: &Directory, listing: &Arc<Snapshot>, news: &News) {
        self.lists_at_all.store(true, Ordering::Relaxed);
        directory.settle(listing);
        let path = directory.path.as_str();
        for name in &news.shadowed {
            self.warn_of_shadow(path, name);
        }
        if news.n_hidden > 0 && self.said.is_new(Topic::Hidden, path) {
            debug!("{} names in {path:?} cannot be shown", news.n_hidden);
        }
        if news.ranges_lost && self.lists_by_ranges.swap(false, Ordering::Relaxed) {
            info!("the server does not list from any key on: directories are listed page by page");
        }
        if news.order_lost && self.lists_in_order.swap(false, Ordering::Relaxed) {
            info!(
                "the server lists in another order than S3: directories are read to the end first"
            );
        }
    }

    fn warn_of_shadow(&self, dir: &str, name: &str) {
        if self.said.is_new(Topic::Shadowed, &format!("{dir}{name}")) {
            warn!("the object {dir}{name} is hidden by the directory of the same name");
        }
    }

    /// Forgets until the rest fits.
    fn trim(&self) {
        let held = self.held();
        if held > self.bytes_max {
            // A little more, so that not every page has to do so.
            let mut over = held - self.bytes_max + self.bytes_max / TRIM_SHARE;
            self.free(&mut over);
            if over > 0 {
                // What is ahead of walkers can be had again.
                self.walks.stop();
                self.forget_idle(&mut over, |_| true);
            }
        }
    }

    /// Forgets until no more than `down_to` bytes are held, inodes included, or as much as would be
    /// without them has been forgotten: a listing whose inodes the kernel remembers is freed with the
    /// last of them. What is ahead of walkers stays: it has its own bound.
    pub fn let_go(&self, down_to: u64) {
        self.free(&mut self.held().saturating_sub(down_to));
    }

    /// Names and inodes together.
    fn held(&self) -> u64 {
        self.bytes() + self.beside.load(Ordering::Relaxed)
    }

    /// Forgets the directories used longest ago until `over` bytes are free; leaves there what is still
    /// to be freed. Those that are read stay: of them goes what their readers have passed.
    fn free(&self, over: &mut u64) {
        let now = Instant::now();
        self.forget_idle(over, |directory| !directory.is_awaited(now));
        let may_ask_again = self.lists_in_order.load(Ordering::Relaxed)
            && self.lists_by_ranges.load(Ordering::Relaxed);
        if *over == 0 || !may_ask_again {
            return;
        }
        let long: Vec<_> = self.long.lock().iter().filter_map(Weak::upgrade).collect();
        for listing in long {
            *over = over.saturating_sub(listing.put_away(*over));
        }
    }

    fn forget_idle(&self, over: &mut u64, may_go: impl Fn(&Directory) -> bool) {
        let mut directories = self.directories.lock();
        let mut paths = Vec::new();
        // The one used last is being used right now.
        let n_others = directories.len().saturating_sub(1);
        for (path, directory) in directories.iter().rev().take(n_others) {
            if *over == 0 {
                break;
            }
            // One that somebody has open is told what is forgotten.
            let is_open = Arc::strong_count(directory) > 1;
            if !is_open && !directory.is_read() && may_go(directory) {
                *over = over.saturating_sub(directory.bytes());
                paths.push(path.clone());
            }
        }
        let forgotten: Vec<_> = paths.iter().filter_map(|path| directories.pop(path)).collect();
        drop(directories);
        // Thousands of names may go with them: not under the lock.
        drop(forgotten);
    }

    /// A reader has come far in this listing: it is worth putting away what it has passed.
    fn note_long(&self, listing: &Arc<Snapshot>) {
        let mut long = self.long.lock();
        long.retain(|known| known.strong_count() > 0);
        if !long.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(listing))) {
            long.push(Arc::downgrade(listing));
        }
    }
}

/// What the LIST of a directory was denied with, in words.
fn denial(directory: &Directory) -> String {
    directory.denial().map_or_else(String::new, |err| err.to_string())
}

impl Found {
    /// The same by itself, without the listing that told of it.
    #[must_use]
    pub fn alone(self) -> Self {
        let Self::Listed(listed) = &self else { return self };
        match (listed.object(), listed.path()) {
            (Some(object), _) => Self::File(Arc::new(object)),
            (None, Some(path)) => Self::Directory { path, listable: true },
            (None, None) => self,
        }
    }
}

fn found(dir: &DirPath, name: &str, what: What) -> Option<Found> {
    match what {
        What::File(version) => {
            Some(Found::File(Arc::new(Object { key: dir.key(name).into(), version })))
        }
        What::Directory { listable } => Some(Found::Directory { path: dir.child(name), listable }),
        What::Absent => None,
    }
}
