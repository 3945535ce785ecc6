//! The bytes: parts of object versions in memory, on their way, and asked for ahead.
//!
//! A read looks for its parts, asks for the gaps, and waits only until its own bytes have arrived.
//! Absent here: names, directories, FUSE; a version is known by its inode number and its ETag.
//! Invariants: every GET for data is pinned by If-Match, as soon as an ETag is known, but the
//! one of an open, which asks what is current; each is a task of its own, so a reader that
//! gives up cancels nobody's bytes; nothing waits but on a part, on the budget, or on an open.

mod ahead;
pub(crate) mod budget;
pub(crate) mod buffer;
mod download;
mod file;
mod idle;
mod index;
mod loading;
mod open;
mod part;
mod prefetch;
mod read;
mod remembered;
mod scarce;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::Instant;

pub use self::ahead::Brought;
use self::budget::Budget;
pub use self::file::File;
use self::idle::Idle;
use self::index::Index;
use self::open::Openings;
pub use self::open::{Opened, Recency, Replacement};
use self::part::Part;
pub use self::read::ReadBytes;
use self::scarce::Scarcity;
use crate::config::{PageCache, Ttl};
use crate::metrics::Metrics;
use crate::object::{Ino, Object};
use crate::store::ObjectStore;
use crate::store::reach::Reach;

/// The bytes of a mount.
pub struct Data {
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    metrics: Arc<Metrics>,
    open_ttl: Ttl,
    page_cache: PageCache,
    /// The clock of the cursors.
    started: Instant,
    budget: Budget,
    index: Mutex<Index>,
    reach: Arc<Reach>,
    openings: Openings,
    idle: Idle,
    scarcity: Scarcity,
    numbering: Numbering,
    /// A GET by version id was denied once: it needs `s3:GetObjectVersion`.
    old_versions_denied: AtomicBool,
}

/// Gives each object version its inode number, collisions moved; asked when an open finds a version
/// that no listing told.
pub type Numbering = Arc<dyn Fn(&Object) -> Ino + Send + Sync>;

/// What the mount decides for its bytes.
#[derive(Clone)]
pub struct DataConfig {
    /// The budget, metadata included.
    pub memory_max_bytes: u64,
    /// How long the content of a cached file is believed when it is opened.
    pub open_ttl: Ttl,
    pub page_cache: PageCache,
    /// Whether S3 answers: where it does not, files open as they were.
    pub reach: Arc<Reach>,
}

/// What is remembered of files whose bytes have gone: one in so many bytes of the budget, in which it counts.
const REMEMBERED_SHARE: u64 = 16;

impl Data {
    /// Tasks run on `runtime`.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        runtime: Handle,
        metrics: Arc<Metrics>,
        numbering: Numbering,
        config: DataConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            runtime,
            metrics,
            open_ttl: config.open_ttl,
            page_cache: config.page_cache,
            reach: config.reach,
            started: Instant::now(),
            budget: Budget::new(config.memory_max_bytes),
            index: Mutex::new(Index::new(config.memory_max_bytes / REMEMBERED_SHARE)),
            openings: open::openings(),
            idle: Idle::default(),
            scarcity: Scarcity::default(),
            numbering,
            old_versions_denied: AtomicBool::new(false),
        })
    }

    /// The file of this version; all who ask for the same number share it while one holds it.
    pub fn file(&self, ino: Ino, object: &Arc<Object>) -> Arc<File> {
        let (file, gone) = {
            let mut index = self.index.lock();
            index.file(ino, object, || File::new(ino, Arc::clone(object)))
        };
        self.let_go(gone);
        file
    }

    /// How long the content of a cached file is believed when it is opened.
    pub fn open_ttl(&self) -> Ttl {
        self.open_ttl
    }

    /// Whether the kernel keeps bytes of files.
    pub fn page_cache(&self) -> PageCache {
        self.page_cache
    }

    /// A handle of the file was opened.
    pub fn hold(&self, file: &File) {
        file.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// A handle was closed. With the last one, what came ahead is let go.
    pub fn release(&self, file: &File) {
        if file.handles.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        file.detector.lock().forget();
        let gone = self.index.lock().evict_unread_of(file.ino);
        self.let_go(gone);
    }

    /// The kernel has forgotten the number, which may mean another file from now on.
    pub fn forget(&self, ino: Ino) {
        self.index.lock().forget(ino);
    }

    /// States what names and inodes hold: it counts in the same budget.
    pub fn set_metadata_bytes(self: &Arc<Self>, bytes: u64) {
        self.stir();
        self.make_headroom(bytes);
        let remembered = self.index.lock().remembered_bytes();
        self.budget.set_metadata(bytes + remembered);
        self.relieve();
    }

    /// Bytes of parts, held or on their way.
    pub fn bytes(&self) -> u64 {
        self.budget.used()
    }

    /// Ends the downloads of parts that were taken out of the index. Not under a lock: the last
    /// reference to a part frees its memory.
    fn let_go(&self, parts: Vec<Arc<Part>>) {
        for part in &parts {
            if !part.is_complete() {
                part.cancel();
            }
            if part.streamed {
                self.metrics.let_go_unread(part.unserved());
            }
        }
        drop(parts);
    }

    /// Makes room for demand that waits: first what was read already, then what nobody has read
    /// yet, newest first.
    fn relieve(&self) {
        if !self.budget.is_waited_for() {
            return;
        }
        let read = {
            let mut index = self.index.lock();
            index.evict(self.budget.missing())
        };
        self.let_go(read);
        let missing = self.budget.missing();
        if missing > 0 {
            let unread = {
                let mut index = self.index.lock();
                index.evict_unread(missing)
            };
            self.let_go(unread);
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
#[expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "objects of tests are small, and a test may fail"
)]
mod tests;
