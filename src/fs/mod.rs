//! The file system, without FUSE: takes and returns plain values, so that tests need no mount.
//! Invariant: nothing here names a `fuser` or `aws_*` type, and nothing waits but on tree and data.
//! Absent here: requests to S3 (the layers below make them), errno and log (the adapter above).

mod absences;
mod attributes;
mod confirm;
mod directories;
mod handles;
mod inodes;
mod kept;
mod loading;
#[cfg(all(any(test, fuzzing), not(feature = "shuttle")))]
pub(crate) mod model;
mod names;
mod notices;
mod pressure;
mod refresh;
mod visits;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use self::absences::Absences;
use self::attributes::Kind;
pub use self::attributes::{Attr, Look};
pub use self::directories::DirectoryEntry;
use self::directories::OpenDirectory;
pub use self::handles::Handle;
use self::handles::Handles;
pub use self::inodes::{Inodes, Node};
pub use self::kept::Keeping;
use self::kept::Kept;
pub use self::notices::{Notice, Notices, Pages, Place, Queued, Queues};
use self::pressure::Pressure;
use self::refresh::Forgettings;
use self::visits::{Opening, Visits};
use crate::config::{FOREVER, PageCache};
use crate::data::{Data, File, Opened, ReadBytes, Recency};
use crate::error::{FsError, StoreErrorKind};
use crate::metrics::Metrics;
use crate::object::{DirPath, Ino, Object};
use crate::tree::{Found, Tree};

/// A mounted bucket.
pub struct FileSystem {
    tree: Arc<Tree>,
    data: Arc<Data>,
    inodes: Arc<Inodes>,
    files: Handles<OpenFile>,
    directories: Handles<OpenDirectory>,
    kept: Kept,
    notices: Notices,
    absences: Absences,
    forgettings: Forgettings,
    visits: Mutex<Visits>,
    pressure: Pressure,
    metrics: Arc<Metrics>,
    root: DirPath,
    look: Look,
}

struct OpenFile {
    file: Arc<File>,
    /// The page cache keeps what is read; not so with O_DIRECT or `--direct-io`.
    buffered: bool,
}

/// The answer to a lookup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// `None`: no such name.
    pub attr: Option<Attr>,
    /// How long the kernel may believe it.
    pub valid_for: Duration,
}

/// What `statfs` shows.
pub struct Statistics {
    pub blocks: u64,
    pub block_bytes: u32,
    pub files: u64,
    pub name_bytes_max: u32,
}

impl FileSystem {
    pub fn new(
        tree: Arc<Tree>,
        data: Arc<Data>,
        inodes: Arc<Inodes>,
        notices: Notices,
        metrics: Arc<Metrics>,
        root: DirPath,
        look: Look,
    ) -> Arc<Self> {
        let (files, directories) = (Handles::new(), Handles::new());
        let pressure = Pressure::default();
        Arc::new(Self {
            tree,
            data,
            inodes,
            files,
            directories,
            kept: Kept::new(),
            notices,
            absences: Absences::default(),
            forgettings: Forgettings::default(),
            visits: Mutex::default(),
            pressure,
            metrics,
            root,
            look,
        })
    }

    /// Where the kernel is told what it did not ask for.
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// The table of inodes for a mount of `root`.
    pub fn inodes(root: &DirPath) -> Arc<Inodes> {
        Arc::new(Inodes::new(root.clone()))
    }

    /// What `name` is in the directory `parent`; a found one counts as one lookup of its inode.
    pub async fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry, FsError> {
        let count = self.forgettings.count();
        let Node::Directory { path, .. } = self.inodes.get(parent)? else {
            return Err(FsError::NotADirectory);
        };
        let name = names::parse(name)?;
        let answer = self.tree.lookup(&path, name).await?;
        self.account();
        let attr = answer.found.map(|found| self.remember(&found));
        let mut valid_for = answer.valid_for;
        if attr.is_none() && !valid_for.is_zero() && !self.absences.note(parent, name, valid_for) {
            valid_for = Duration::ZERO;
        }
        Ok(Entry { attr, valid_for: self.forgettings.limit(count, valid_for) })
    }

    /// The kernel gives back `nlookup` lookups of `ino`.
    pub fn forget(&self, ino: Ino, nlookup: u64) {
        if self.inodes.forget(ino, nlookup) {
            // Names in it went before it.
            drop(self.absences.take(ino));
            self.data.forget(ino);
        }
    }

    /// The attributes of `ino` and how long they hold: for ever, as a changed object has another
    /// inode. For a directory, too, which has nothing that could change.
    pub fn attributes(&self, ino: Ino) -> Result<(Attr, Duration), FsError> {
        let node = self.inodes.get(ino)?;
        Ok((self.look.attr(ino, &Kind::of_node(&node)), FOREVER))
    }

    /// Opens a file. Fails with `Stale` when the bucket has another version by now; the kernel
    /// then looks the name up again, finds it, and opens that one.
    pub async fn open(&self, ino: Ino, flags: i32) -> Result<Handle, FsError> {
        let object = match self.inodes.get(ino)? {
            Node::File(object) => object,
            Node::Directory { .. } => return Err(FsError::IsADirectory),
        };
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(FsError::ReadOnly);
        }
        self.inodes.touch(ino, self.tree.tick());
        self.visit(ino, &object);
        let file = self.data.file(ino, &object);
        // Who wants no cache between itself and the file wants to know what the file is.
        let is_direct = flags & libc::O_DIRECT != 0;
        let recency = if is_direct { Recency::Now } else { Recency::OpenTtl };
        let is_current = !is_direct && self.is_told_current(&file).await;
        let sent = Instant::now();
        let opened =
            if is_current { Ok(Opened::Current) } else { self.data.open(&file, recency).await };
        match opened {
            Ok(Opened::Current) => {
                let buffered = !is_direct && self.data.page_cache() == PageCache::Used;
                self.data.hold(&file);
                Ok(self.files.insert(OpenFile { file, buffered }))
            }
            Ok(Opened::Changed(found)) => {
                // Before the answer, so that the kernel's next lookup finds the new version.
                let version = found.object.version.clone();
                self.tree.learn(&object.key, Some(version), found.sent);
                Err(FsError::Stale)
            }
            Err(err) => {
                let gone =
                    matches!(&err, FsError::Store(err) if err.kind() == StoreErrorKind::NotFound);
                if gone {
                    self.tree.learn(&object.key, None, sent);
                    // Upon ENOENT the kernel would go on to believe in the name for as long as it was
                    // told; now it looks it up again, and finds what was just learnt.
                    return Err(FsError::Stale);
                }
                Err(err)
            }
        }
    }

    /// Notes that a file is opened, and asks for those that will be opened next.
    fn visit(&self, ino: Ino, object: &Object) {
        let (dir, name) = object.place();
        let holds_for = self.data.open_ttl().left(Duration::ZERO);
        let bytes = object.version.size;
        let opening = Opening { ino, bytes, dir: &dir, name, now: Instant::now(), holds_for };
        let plan = self.visits.lock().open(&opening, |dir, name, ino, order, n_max| {
            self.tree.files_after(dir, name, ino, order, n_max)
        });
        for ino in plan.drop {
            self.data.drop_ahead(ino);
        }
        for listed in plan.fetch {
            if let Some(object) = listed.object() {
                let ino = self.inodes.number(&Found::Listed(listed));
                self.data.fetch_ahead(ino, &Arc::new(object));
            }
        }
    }

    /// `len` bytes at `offset`, fewer only at the end of the file.
    pub async fn read(&self, handle: Handle, offset: u64, len: u32) -> Result<ReadBytes, FsError> {
        crate::failpoint!("handler");
        let open = self.files.get(handle)?;
        self.data.read(&open.file, offset, len, open.buffered).await
    }

    /// Notes that a read was ended by its deadline: the kernel's own repeat is answered at once.
    pub fn note_deadline(&self, handle: Handle, offset: u64, len: u32, err: &FsError) {
        if let Ok(open) = self.files.get(handle) {
            open.file.note_failure(offset..offset.saturating_add(u64::from(len)), err);
        }
    }

    /// Closes a file.
    pub fn release(&self, handle: Handle) {
        let Some(open) = self.files.remove(handle) else { return };
        self.data.release(&open.file);
    }

    /// How many files and directories are open.
    pub fn n_open(&self) -> (usize, usize) {
        (self.files.len(), self.directories.len())
    }

    /// The attributes of an entry, for readdirplus, counted as one lookup: before the reply is
    /// written. One that did not fit is given back by [`FileSystem::forget`].
    pub fn remember(&self, found: &Found) -> Attr {
        let ino = self.inodes.remember(found, self.tree.tick());
        self.look.attr(ino, &Kind::of(found))
    }

    /// The attributes of an entry for readdir, and of `.` and `..`, which the kernel does not count.
    pub fn look_at(&self, found: &Found) -> Attr {
        self.look.attr(self.inodes.number(found), &Kind::of(found))
    }

    /// The key of `ino`, or the prefix of a directory, for the log.
    pub fn name_of(&self, ino: Ino) -> String {
        match self.inodes.get(ino) {
            Ok(Node::File(object)) => object.key.to_string(),
            Ok(Node::Directory { path, .. }) => format!("{}/", path.as_str().trim_end_matches('/')),
            Err(_) => format!("inode {ino}"),
        }
    }

    /// The next inodes that the kernel is asked to let go, at most `n_max`: those used longest ago, while
    /// there is too little memory for all. None when that is over.
    pub fn idle_inodes(&self, n_max: usize) -> Vec<Ino> {
        let max = self.tree.bytes_max();
        let mut excess = 0;
        if let Some(low) = self.pressure.begin(max) {
            self.tree.let_go(low);
            excess = self.held().saturating_sub(low);
        }
        let idle = self.pressure.next(&self.inodes, excess, n_max);
        self.metrics.asked_back(idle.len() as u64);
        idle
    }

    /// Where the file `ino` is by its name, unless it is open.
    pub fn place_of(&self, ino: Ino) -> Option<Place> {
        let Ok(node @ Node::File(_)) = self.inodes.get(ino) else { return None };
        if self.files.any(|open| open.file.ino == ino) {
            return None;
        }
        self.place(&node)
    }

    /// A bucket has no size and is never full: never zero either, as installers and file managers
    /// refuse to work with that.
    pub fn statistics(&self) -> Statistics {
        Statistics { blocks: 1 << 38, block_bytes: 4096, files: 1 << 40, name_bytes_max: 255 }
    }

    /// The directory above; the root of the mount is its own.
    fn parent(&self, path: &DirPath) -> DirPath {
        if *path == self.root { path.clone() } else { path.parent() }
    }

    /// Bytes of names and inodes.
    fn held(&self) -> u64 {
        self.tree.bytes() + self.inodes.bytes()
    }

    /// States what names and inodes hold; they count in the byte budget. When it is much, the kernel
    /// is asked to let go of some.
    fn account(&self) {
        let (held, max) = (self.held(), self.tree.bytes_max());
        self.tree.set_beside(self.inodes.bytes());
        let absences = self.absences.len() as u64 * absences::ABSENCE_BYTES;
        self.data.set_metadata_bytes(held + absences);
        self.metrics.names_held(held, max);
        if self.pressure.rises(held, max) && !self.notices.try_relieve() {
            self.pressure.put_off();
        }
    }
}
