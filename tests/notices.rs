//! What this kernel makes of the notices, on a file system that counts what it is asked.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyData, ReplyEntry, ReplyOpen, Request, Session,
};
use parking_lot::Mutex;
use s3mount::fs::{Notices, Place};
use s3mount::fuse::notify::{self, Asking, Relief};
use s3mount::object::Ino;
use tempfile::TempDir;

use crate::support::mounted::wait_until;

const FOREVER: Duration = Duration::from_secs(1 << 30);

/// The root has one directory and files named by their inode numbers.
const DIRECTORY: u64 = 2;
const FILES: Range<u64> = 100..1100;

/// The one that a test holds open.
const OPEN: u64 = 100;

#[derive(Default)]
struct Counts {
    lookups: AtomicUsize,
    reads: AtomicUsize,
    forgotten: Mutex<BTreeSet<u64>>,
}

struct Numbers(Arc<Counts>);

impl Filesystem for Numbers {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.0.lookups.fetch_add(1, Ordering::Relaxed);
        match name.to_str().and_then(|name| name.parse().ok()) {
            Some(ino) => reply.entry(&FOREVER, &attr(ino), Generation(0)),
            None => reply.entry(&FOREVER, &attr(0), Generation(0)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, _: u64) {
        self.0.forgotten.lock().insert(ino.0);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: fuser::ReplyAttr) {
        reply.attr(&FOREVER, &attr(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        reply.data(if offset == 0 { b"text" } else { b"" });
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: fuser::ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}

fn attr(ino: u64) -> FileAttr {
    let is_directory = ino == 1 || ino == DIRECTORY;
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(ino),
        size: 4,
        blocks: 1,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if is_directory { FileType::Directory } else { FileType::RegularFile },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Gives all numbers once.
struct All(Mutex<Vec<Ino>>);

impl Relief for All {
    fn next(&self, n_max: usize) -> Vec<Ino> {
        let mut left = self.0.lock();
        let at = left.len().saturating_sub(n_max);
        left.split_off(at)
    }

    fn place_of(&self, ino: Ino) -> Option<Place> {
        let idle = FILES.contains(&ino.0) && ino.0 != OPEN;
        idle.then(|| Place { parent: Ino::ROOT, name: ino.0.to_string().into() })
    }
}

struct Ground {
    directory: TempDir,
    counts: Arc<Counts>,
    notices: Notices,
    session: Option<BackgroundSession>,
    runtime: tokio::runtime::Runtime,
}

impl Ground {
    fn new(asking: Asking) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let counts = Arc::new(Counts::default());
        let numbers = Numbers(Arc::clone(&counts));
        let session =
            Session::new(numbers, directory.path(), &fuser::Config::default()).expect("root");
        let device = session.as_fd().try_clone_to_owned().expect("a descriptor");
        let (notices, queue) = Notices::new();
        let all = [DIRECTORY].into_iter().chain(FILES).map(Ino).collect();
        notify::start(device, queue, Arc::new(All(Mutex::new(all))), asking).expect("a thread");
        let session = Some(session.spawn().expect("a thread"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Self { directory, counts, notices, session, runtime }
    }

    fn join(&self, ino: u64) -> PathBuf {
        self.directory.path().join(ino.to_string())
    }

    fn expire(&self, name: &str) {
        let place = Place { parent: Ino::ROOT, name: name.into() };
        self.runtime.block_on(self.notices.expire(vec![place]));
    }

    /// How many lookups `stat` of the name costs.
    fn n_lookups(&self, name: &str) -> usize {
        let before = self.counts.lookups.load(Ordering::Relaxed);
        let _ = fs::metadata(self.directory.path().join(name));
        self.counts.lookups.load(Ordering::Relaxed) - before
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(self.session.take().map(BackgroundSession::umount_and_join));
    }
}

/// A process that stands in a directory.
struct Standing(Child);

impl Standing {
    fn new(directory: &Path) -> Self {
        let mut command = Command::new("sleep");
        let command = command.arg("600").current_dir(directory).stdin(Stdio::null());
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sleep"))
    }

    fn stands_in(&self, directory: &Path) -> bool {
        fs::read_link(format!("/proc/{}/cwd", self.0.id())).expect("alive") == directory
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check_letting_go(asking: Asking) {
    let ground = Ground::new(asking);
    for ino in FILES {
        fs::metadata(ground.join(ino)).expect("a file");
    }
    let standing = Standing::new(&ground.join(DIRECTORY));
    let open = File::open(ground.join(OPEN)).expect("a file");
    assert!(ground.notices.try_relieve());
    let expected: BTreeSet<u64> = FILES.filter(|ino| *ino != OPEN).collect();
    assert!(wait_until(|| *ground.counts.forgotten.lock() == expected));
    assert!(standing.stands_in(&ground.join(DIRECTORY)));
    assert_eq!(ground.n_lookups(&OPEN.to_string()), 0, "an open file keeps its name");
    assert_eq!(ground.n_lookups("500"), 1, "others are looked up again");
    drop(open);
}

#[test]
fn the_kernel_lets_go_of_inodes_that_nobody_uses_and_keeps_the_others() {
    check_letting_go(Asking::ByNumber);
}

#[test]
fn a_kernel_that_knows_names_only_lets_go_of_files() {
    check_letting_go(Asking::ByName);
}

#[test]
fn a_name_that_expired_is_asked_for_again_and_disturbs_nobody() {
    let ground = Ground::new(Asking::ByNumber);
    let standing = Standing::new(&ground.join(DIRECTORY));
    let directory = DIRECTORY.to_string();
    for name in [&*directory, "500", "absent"] {
        ground.n_lookups(name);
        assert_eq!(ground.n_lookups(name), 0, "{name} holds for ever");
        ground.expire(name);
        assert_eq!(ground.n_lookups(name), 1, "{name}");
    }
    assert!(standing.stands_in(&ground.join(DIRECTORY)));
    ground.expire("never heard of");
}

#[test]
fn pages_that_were_dropped_are_read_again() {
    let ground = Ground::new(Asking::ByNumber);
    let read = || {
        let before = ground.counts.reads.load(Ordering::Relaxed);
        assert_eq!(fs::read_to_string(ground.join(500)).unwrap(), "text");
        ground.counts.reads.load(Ordering::Relaxed) > before
    };
    assert!(read() && !read());
    ground.runtime.block_on(ground.notices.drop_pages(Ino(500)));
    assert!(read());
}
