//! A client of the whole file system that does anything in any order, held against a map of keys: for tests
//! and fuzzing. The clock is paused, the store is in memory, all layers between are the real ones.
//!
//! What must hold at each step:
//! - bytes are those of one version of the key, of the same one for one inode, and as many as were asked for;
//! - with a time to live of 0 and without faults every answer is that of the map;
//! - with faults an answer may be an error (EIO, ETIMEDOUT, ESTALE) or what was once true, and never says of
//!   what was there all the time that it is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime;
use tokio::time::timeout;

use super::handles::Handle;
use super::{FileSystem, Look, Notices, Queues};
use crate::config::{MetadataTtl, PageCache, Ttl};
use crate::data::{Data, DataConfig, Numbering};
use crate::error::{FsError, StoreErrorKind};
use crate::metrics::Metrics;
use crate::object::{DirPath, Ino};
use crate::store::fake::{FakeStore, Fault};
use crate::store::limit::LimitConfig;
use crate::store::reach::Reach;
use crate::store::{ObjectStore, stack};
use crate::tree::{Found, Tree, TreeConfig};

/// The kernel's patience with one request is that of `fuse/dispatch.rs`.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of the store, so that parts and cuts are met by objects of some megabytes.
const MEMORY_BYTES: u64 = 32 << 20;

/// Sizes around those where something changes: a page, the alignment of parts, a small file, a part.
const SIZES: [usize; 8] =
    [0, 1, 4095, (128 << 10) - 1, (128 << 10) + 1, 300_000, (1 << 20) + 5, (3 << 20) + 17];

/// Bytes that make one step: what is done, and three numbers for it.
pub(crate) const STEP_BYTES: usize = 4;

/// Names of files and directories, of which some are both.
const KEYS: [&str; 14] = [
    "a",
    "a-",
    "a/b",
    "a/b/c",
    "a/b/d",
    "a0",
    "b",
    "b/x.txt",
    "b/y",
    "b/z/deep/er",
    "c d",
    "e\u{301}",
    "tree/1",
    "tree/2",
];

/// Keys that are put before the beginning, and that nobody touches.
const FIXED: [&str; 3] = ["fixed/one", "fixed/two", "pinned"];

const DIRECTORIES: [&str; 7] = ["", "a/", "a/b/", "b/", "b/z/", "tree/", "fixed/"];

/// What a run came across, so that a test can tell that it met what it is about.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Seen {
    pub(crate) n_reads: usize,
    pub(crate) n_bytes: usize,
    pub(crate) n_lookups: usize,
    pub(crate) n_listings: usize,
    pub(crate) n_errors: usize,
    pub(crate) n_stale: usize,
}

/// Runs the steps that `script` encodes, [`STEP_BYTES`] each.
///
/// # Panics
/// Where an answer is not one that the rules above allow.
pub(crate) fn run(script: &[u8], with_faults: bool) -> Seen {
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without threads");
    runtime.block_on(async {
        let mut client = Client::new(with_faults);
        for (step, bytes) in script.chunks_exact(STEP_BYTES).enumerate() {
            client.step = step;
            client.act(bytes[0], bytes[1], bytes[2], bytes[3]).await;
        }
        client.leave().await;
        client.seen
    })
}

struct OpenFile {
    handle: Handle,
    ino: Ino,
    key: String,
    size: u64,
}

struct Client {
    store: FakeStore,
    fs: Arc<FileSystem>,
    with_faults: bool,
    step: usize,
    /// What is in the bucket.
    current: BTreeMap<String, Bytes>,
    /// All that was ever in it.
    ever: BTreeMap<String, Vec<Bytes>>,
    /// What once was not in it, of keys and the directories above them.
    once_absent: BTreeSet<String>,
    /// The versions that an inode can be, by what was seen of it.
    versions: HashMap<Ino, Vec<Bytes>>,
    /// Lookups that the kernel has not given back, and the key of each file.
    looked_up: BTreeMap<u64, (u64, Option<String>)>,
    files: Vec<OpenFile>,
    seen: Seen,
}

impl Client {
    fn new(with_faults: bool) -> Self {
        let store = FakeStore::new().with_checksums();
        let mut client = Self {
            fs: over(&store),
            store,
            with_faults,
            step: 0,
            current: BTreeMap::new(),
            ever: BTreeMap::new(),
            once_absent: BTreeSet::new(),
            versions: HashMap::new(),
            looked_up: BTreeMap::new(),
            files: Vec::new(),
            seen: Seen::default(),
        };
        for (index, key) in FIXED.iter().chain(KEYS.iter().step_by(2)).enumerate() {
            client.put(key, SIZES[(index + 3) % SIZES.len()]);
        }
        KEYS.iter().for_each(|key| client.note_absences(key));
        client
    }

    fn put(&mut self, key: &str, size: usize) {
        // No two versions have a word in common at the same place, but by chance.
        let salt = self.ever.values().map(Vec::len).sum::<usize>() as u64 + 1;
        let word = |at: u64| (at + (salt << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let bytes: Bytes = (0..).flat_map(word).take(size).collect();
        self.store.put(key, bytes.clone());
        self.current.insert(key.to_owned(), bytes.clone());
        self.ever.entry(key.to_owned()).or_default().push(bytes);
    }

    /// Notes which of a key and the directories above it are not there.
    fn note_absences(&mut self, key: &str) {
        let ends = key.match_indices('/').map(|(end, _)| end).chain([key.len()]);
        for path in ends.map(|end| &key[..end]) {
            if !self.is_there(path) {
                self.once_absent.insert(path.to_owned());
            }
        }
    }

    async fn act(&mut self, what: u8, first: u8, second: u8, third: u8) {
        let key = KEYS[usize::from(first) % KEYS.len()];
        match what % 16 {
            0 | 1 => self.put(key, SIZES[usize::from(second) % SIZES.len()]),
            2 => {
                self.store.delete(key);
                self.current.remove(key);
                self.note_absences(key);
            }
            3 => {
                let ms = u64::from(second) * u64::from(second) / 4;
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
            4 => self.open_known(first).await,
            5 | 6 => {
                let names = [&KEYS[..], &FIXED].concat();
                let key = names[usize::from(first) % names.len()];
                if let Some((ino, attr_size)) = self.walk(key).await
                    && !second.is_multiple_of(4)
                {
                    self.open(key, ino, attr_size, third.is_multiple_of(8)).await;
                }
            }
            7..=11 => self.read(first, second, third).await,
            12 => {
                if !self.files.is_empty() {
                    let file = self.files.swap_remove(usize::from(first) % self.files.len());
                    self.fs.release(file.handle);
                }
            }
            13 | 14 => self.list(DIRECTORIES[usize::from(first) % DIRECTORIES.len()]).await,
            _ if self.with_faults => self.fault(first, second, third),
            _ => self.forget(first),
        }
    }

    /// What is planned for one of the next calls.
    fn fault(&mut self, first: u8, second: u8, third: u8) {
        if first >= 224 {
            // Longer than is repeated: it is seen.
            let kind =
                [StoreErrorKind::Throttled, StoreErrorKind::Unreachable][usize::from(third % 2)];
            for skip in 0..usize::from(second) {
                let fault = if third == 0 { Fault::Stall } else { Fault::Fail(kind) };
                self.store.fault(skip, fault);
            }
            return;
        }
        let at = u64::from(third) * 777;
        let fault = match first % 9 {
            0 => Fault::Fail(StoreErrorKind::Throttled),
            1 => Fault::Fail(StoreErrorKind::Unreachable),
            2 => Fault::Stall,
            3 => Fault::Slow(Duration::from_millis(at)),
            4 => Fault::SlowFail(Duration::from_millis(at), StoreErrorKind::Unreachable),
            5 => Fault::Cut(at),
            6 => Fault::StallBody(at),
            7 => Fault::PauseBody(at, Duration::from_millis(at)),
            _ => Fault::Fail(StoreErrorKind::TimedOut),
        };
        self.store.fault(usize::from(second % 4), fault);
    }

    /// Waits as the kernel does, and counts what failed.
    async fn ask<T>(
        &mut self,
        request: impl Future<Output = Result<T, FsError>>,
    ) -> Result<T, i32> {
        let answer = match timeout(PATIENCE, request).await {
            Ok(answer) => answer.map_err(|err| err.errno()),
            Err(_) => Err(libc::ETIMEDOUT),
        };
        if let Err(errno) = &answer {
            let usual = [libc::ENOENT, libc::ESTALE, libc::ENOTDIR, libc::EISDIR];
            self.seen.n_errors += usize::from(!usual.contains(errno));
            self.seen.n_stale += usize::from(*errno == libc::ESTALE);
        }
        answer
    }

    /// Looks up one name after the other; gives the inode and the size of a file.
    async fn walk(&mut self, key: &str) -> Option<(Ino, u64)> {
        let mut parent = Ino::ROOT;
        let mut path = String::new();
        let mut names = key.split('/').peekable();
        while let Some(name) = names.next() {
            path.push_str(name);
            self.seen.n_lookups += 1;
            let fs = Arc::clone(&self.fs);
            let answer = self.ask(fs.lookup(parent, OsStr::new(name))).await;
            let place = format!("step {}: lookup of {path:?}", self.step);
            let attr = match answer {
                Ok(entry) => entry.attr,
                Err(errno) => {
                    let allowed = self.with_faults && [libc::EIO, libc::ETIMEDOUT].contains(&errno);
                    assert!(allowed, "{place} failed with {errno}");
                    return None;
                }
            };
            let (was_file, was_directory) = self.was(&path);
            let Some(attr) = attr else {
                let is_there = self.is_there(&path);
                let may_be = if self.with_faults {
                    self.once_absent.contains(&path) || !is_there
                } else {
                    !is_there
                };
                assert!(may_be, "{place} says it is absent");
                return None;
            };
            let count = self.looked_up.entry(attr.ino.0).or_default();
            count.0 += 1;
            count.1 = (!attr.is_directory).then(|| path.clone());
            if attr.is_directory {
                let may_be = was_directory && (self.with_faults || self.is_directory(&path));
                assert!(may_be, "{place} says it is a directory");
                parent = attr.ino;
                path.push('/');
                names.peek()?;
                continue;
            }
            assert!(was_file, "{place} says it is a file");
            let size = |bytes: &&Bytes| bytes.len() as u64 == attr.size;
            let candidates: Vec<Bytes> = if self.with_faults {
                self.ever[&path].iter().filter(size).cloned().collect()
            } else {
                assert!(!self.is_directory(&path), "{place} says it is a file");
                self.current.get(&path).iter().copied().filter(size).cloned().collect()
            };
            assert!(!candidates.is_empty(), "{place}: a size of {} that it never had", attr.size);
            self.narrow(attr.ino, &candidates, &place);
            return names.peek().is_none().then_some((attr.ino, attr.size));
        }
        None
    }

    /// An inode is one of these versions; it stays the same one.
    fn narrow(&mut self, ino: Ino, candidates: &[Bytes], place: &str) {
        let known = self.versions.entry(ino).or_insert_with(|| candidates.to_vec());
        known.retain(|bytes| candidates.contains(bytes));
        assert!(!known.is_empty(), "{place}: the inode meant something else before");
    }

    fn is_directory(&self, path: &str) -> bool {
        let below = format!("{path}/");
        self.current.range(below.clone()..).next().is_some_and(|(key, _)| key.starts_with(&below))
    }

    fn is_there(&self, path: &str) -> bool {
        self.current.contains_key(path) || self.is_directory(path)
    }

    /// Whether `path` ever was a file, and a directory.
    fn was(&self, path: &str) -> (bool, bool) {
        let below = format!("{path}/");
        (self.ever.contains_key(path), self.ever.keys().any(|key| key.starts_with(&below)))
    }

    async fn open(&mut self, key: &str, ino: Ino, size: u64, is_direct: bool) {
        let flags = if is_direct { libc::O_RDONLY | libc::O_DIRECT } else { libc::O_RDONLY };
        let fs = Arc::clone(&self.fs);
        let answer = self.ask(fs.open(ino, flags)).await;
        let place = format!("step {}: open of {key:?}", self.step);
        match answer {
            Ok(handle) => self.files.push(OpenFile { handle, ino, key: key.to_owned(), size }),
            Err(libc::ESTALE | libc::EIO | libc::ETIMEDOUT) if self.with_faults => {}
            // It was looked up in the step before, and nothing has changed since.
            Err(errno) => panic!("{place} failed with {errno}"),
        }
    }

    /// Opens what was looked up some time ago.
    async fn open_known(&mut self, first: u8) {
        let files = self.looked_up.iter().filter_map(|(ino, (_, key))| Some((*ino, key.clone()?)));
        let files: Vec<_> = files.collect();
        let Some((ino, key)) = files.get(usize::from(first) % files.len().max(1)) else { return };
        let (ino, key) = (Ino(*ino), key.clone());
        let size = self.versions[&ino][0].len() as u64;
        let known = &self.versions[&ino];
        let changed = self.current.get(&key).is_none_or(|bytes| !known.contains(bytes));
        let fs = Arc::clone(&self.fs);
        let answer = self.ask(fs.open(ino, libc::O_RDONLY)).await;
        let place = format!("step {}: open of {key:?} as it was", self.step);
        match answer {
            Ok(handle) => {
                // In an outage what is in memory may be opened as it was.
                assert!(!changed || self.with_faults, "{place}: it has changed");
                self.files.push(OpenFile { handle, ino, key, size });
            }
            // The same bytes again, which only empty files have, are another inode, with another date.
            Err(libc::ESTALE) => {
                assert!(changed || size == 0 || self.with_faults, "{place}: it has not changed");
            }
            Err(libc::EIO | libc::ETIMEDOUT) if self.with_faults => {}
            Err(errno) => panic!("{place} failed with {errno}"),
        }
    }

    async fn read(&mut self, first: u8, second: u8, third: u8) {
        if self.files.is_empty() {
            return;
        }
        let index = usize::from(first) % self.files.len();
        let OpenFile { handle, ino, ref key, size } = self.files[index];
        let key = key.clone();
        let offset = match second % 4 {
            0 => u64::from(third) << 12,
            1 => size.saturating_sub(u64::from(third)),
            2 => size * u64::from(third) / 255,
            _ => u64::from(third) * 17_017,
        };
        let len = [1, 4096, 128 << 10, 1 << 20][usize::from(second / 4) % 4];
        self.seen.n_reads += 1;
        let fs = Arc::clone(&self.fs);
        let answer = self.ask(fs.read(handle, offset, len)).await;
        let place = format!("step {}: read of {len} at {offset} of {key:?}", self.step);
        let bytes = match answer {
            Ok(bytes) => bytes,
            Err(errno) => {
                let known = &self.versions[&ino];
                let changed = self.current.get(&key).is_none_or(|bytes| !known.contains(bytes));
                // Of versions of one size it is one, and which is not seen before a byte is read.
                let is_unclear = known.len() > 1;
                match errno {
                    libc::ESTALE => assert!(changed || is_unclear, "{place}: it has not changed"),
                    libc::EIO | libc::ETIMEDOUT if self.with_faults => {
                        fs.note_deadline(handle, offset, len, &FsError::Deadline(60));
                    }
                    _ => panic!("{place} failed with {errno}"),
                }
                return;
            }
        };
        let bytes = bytes.as_ref();
        let end = (offset + u64::from(len)).min(size);
        assert_eq!(bytes.len() as u64, end.saturating_sub(offset), "{place}: short");
        self.seen.n_bytes += bytes.len();
        let at = usize::try_from(offset).expect("objects are small");
        let of_all = &self.ever[&key];
        let fits = |whole: &&Bytes| {
            whole.len() as u64 == size && (bytes.is_empty() || whole[at..].starts_with(bytes))
        };
        let candidates: Vec<Bytes> = of_all.iter().filter(fits).cloned().collect();
        assert!(!candidates.is_empty(), "{place}: bytes that it never had");
        self.narrow(ino, &candidates, &place);
    }

    async fn list(&mut self, dir: &str) {
        self.seen.n_listings += 1;
        let mut ino = Ino::ROOT;
        if !dir.is_empty() {
            let path = dir.trim_end_matches('/');
            self.walk(path).await;
            let fs = Arc::clone(&self.fs);
            let Some(number) = number_of(&fs, path).await else { return };
            ino = number;
        }
        let fs = Arc::clone(&self.fs);
        let place = format!("step {}: listing of {dir:?}", self.step);
        let answer = self.ask(names_of(&fs, ino)).await;
        let names = match answer {
            Ok(names) => names,
            Err(errno) => {
                let usual = [libc::EIO, libc::ETIMEDOUT, libc::ENOENT, libc::ESTALE];
                let is_gone = [libc::ENOENT, libc::ESTALE].contains(&errno);
                let gone = !dir.is_empty() && !self.is_directory(dir.trim_end_matches('/'));
                assert!(self.with_faults || is_gone && gone, "{place} failed with {errno}");
                assert!(usual.contains(&errno), "{place} failed with {errno}");
                return;
            }
        };
        let told: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(told.len(), names.len(), "{place} names one twice");
        let below = |keys: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
            keys.filter_map(|key| key.strip_prefix(dir))
                .map(|rest| rest.split('/').next().unwrap_or(rest).to_owned())
                .collect()
        };
        let (now, ever) = (below(&mut self.current.keys()), below(&mut self.ever.keys()));
        if self.with_faults {
            let always =
                now.iter().filter(|name| !self.once_absent.contains(&format!("{dir}{name}")));
            for name in always {
                assert!(told.contains(name.as_str()), "{place} lacks {name:?}");
            }
            assert!(told.iter().all(|name| ever.contains(*name)), "{place}: {told:?}");
        } else {
            assert_eq!(told, now.iter().map(String::as_str).collect(), "{place}");
        }
    }

    /// The kernel gives back what it looked up.
    fn forget(&mut self, first: u8) {
        let index = usize::from(first) % self.looked_up.len().max(1);
        let Some((&ino, (n_lookups, _))) = self.looked_up.iter().nth(index) else { return };
        if self.files.iter().any(|file| file.ino.0 == ino) {
            return; // The kernel keeps the inodes of open files.
        }
        self.fs.forget(Ino(ino), *n_lookups);
        self.looked_up.remove(&ino);
        self.versions.remove(&Ino(ino));
    }

    /// Closes all, gives all back, and looks whether anything is left.
    async fn leave(&mut self) {
        for file in self.files.drain(..) {
            self.fs.release(file.handle);
        }
        while !self.looked_up.is_empty() {
            self.forget(0);
        }
        // Longer than any request lasts.
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(left_over(&self.fs), Vec::<&str>::new());
        let metrics = runtime::Handle::current().metrics();
        // What listens to the notices.
        assert!(metrics.num_alive_tasks() <= 1, "{} tasks are left", metrics.num_alive_tasks());
    }
}

/// The number of a directory, as the parent's listing tells it: looking it up again would be counted.
async fn number_of(fs: &Arc<FileSystem>, path: &str) -> Option<Ino> {
    let found = Found::Directory { path: DirPath::new(&format!("{path}/")), listable: true };
    let ino = fs.inodes.number(&found);
    fs.inodes.get(ino).is_ok().then_some(ino)
}

async fn names_of(fs: &Arc<FileSystem>, ino: Ino) -> Result<Vec<String>, FsError> {
    let (handle, _) = fs.open_directory(ino).await?;
    let (mut names, mut offset) = (Vec::new(), 0);
    let answer = loop {
        match fs.read_directory(handle, offset).await {
            Ok(entries) => {
                let Some(last) = entries.last() else { break Ok(()) };
                offset = last.next;
                names.extend(entries.iter().map(|entry| entry.name.to_string()));
            }
            Err(err) => break Err(err),
        }
    };
    fs.release_directory(handle);
    names.retain(|name| name != "." && name != "..");
    answer.map(|()| names)
}

/// The kernel takes what it is told.
async fn be_told(mut queues: Queues) {
    loop {
        tokio::select! {
            Some(pages) = queues.pages.recv() => drop(pages.told.send(true)),
            Some(queued) = queues.notices.recv() => drop(queued),
            else => return,
        }
    }
}

/// A file system over all layers down to `store`, in the present runtime.
pub(crate) fn over(store: &FakeStore) -> Arc<FileSystem> {
    let metrics = Arc::new(Metrics::default());
    let limits = LimitConfig::for_memory(MEMORY_BYTES);
    let reach = Arc::new(Reach::default());
    let bucket = Arc::new(store.clone());
    let layers = stack::wrap(bucket, Arc::clone(&metrics), limits, Arc::clone(&reach), 7);
    let (notices, queues) = Notices::new();
    tokio::spawn(be_told(queues));
    build(&layers, &metrics, &reach, notices)
}

/// What should not be there when all was given back and closed.
pub(crate) fn left_over(fs: &FileSystem) -> Vec<&'static str> {
    let left = [
        (fs.inodes.len() > 1, "inodes but that of the root"),
        (fs.n_open().0 > 0, "open files"),
        (fs.n_open().1 > 0, "open directories"),
        (fs.data.bytes() > MEMORY_BYTES, "more bytes than the budget"),
    ];
    left.into_iter().filter(|(is_left, _)| *is_left).map(|(_, what)| what).collect()
}

fn build(
    store: &Arc<dyn ObjectStore>,
    metrics: &Arc<Metrics>,
    reach: &Arc<Reach>,
    notices: Notices,
) -> Arc<FileSystem> {
    let runtime = runtime::Handle::current();
    let root = DirPath::new("");
    let config = TreeConfig {
        prefix: root.clone(),
        metadata_ttl: MetadataTtl::Fixed(Ttl::For(Duration::ZERO)),
        negative_ttl: Ttl::For(Duration::ZERO),
        entries_bytes_max: MEMORY_BYTES / 2,
        reach: Arc::clone(reach),
    };
    let tree = Tree::new(Arc::clone(store), runtime.clone(), config);
    let inodes = FileSystem::inodes(&root);
    let numbering: Numbering = {
        let inodes = Arc::clone(&inodes);
        Arc::new(move |object| inodes.number(&Found::File(Arc::new(object.clone()))))
    };
    let config = DataConfig {
        memory_max_bytes: MEMORY_BYTES,
        open_ttl: Ttl::For(Duration::ZERO),
        page_cache: PageCache::Used,
        reach: Arc::clone(reach),
    };
    let data = Data::new(Arc::clone(store), runtime, Arc::clone(metrics), numbering, config);
    let look = Look { uid: 0, gid: 0, file_mode: 0o444, dir_mode: 0o555 };
    FileSystem::new(tree, data, inodes, notices, Arc::clone(metrics), root, look)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Seen {
        fn add(&mut self, other: Self) {
            self.n_reads += other.n_reads;
            self.n_bytes += other.n_bytes;
            self.n_lookups += other.n_lookups;
            self.n_listings += other.n_listings;
            self.n_errors += other.n_errors;
            self.n_stale += other.n_stale;
        }
    }

    /// A script from a seed (splitmix64, Steele and others, 2014).
    fn script(seed: u64, n_steps: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)).to_le_bytes()
        };
        (0..n_steps.div_ceil(2)).flat_map(|_| next()).collect()
    }

    /// `S3MOUNT_MODEL_STEPS` makes the runs longer, `S3MOUNT_MODEL_SEEDS` makes more of them, and
    /// `S3MOUNT_MODEL_SEED` shows one again.
    #[expect(
        clippy::disallowed_methods,
        clippy::print_stdout,
        reason = "whoever looks for a defect sets these, and reads which seed it is"
    )]
    fn runs(with_faults: bool) -> Seen {
        let number = |name: &str| std::env::var(name).ok()?.parse().ok();
        let n_steps = number("S3MOUNT_MODEL_STEPS").unwrap_or(200);
        let seeds = match number("S3MOUNT_MODEL_SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..number("S3MOUNT_MODEL_SEEDS").unwrap_or(10),
        };
        let mut seen = Seen::default();
        for seed in seeds {
            println!("seed {seed}, {n_steps} steps, with faults: {with_faults}");
            seen.add(run(&script(seed as u64, n_steps), with_faults));
        }
        println!("{seen:?}");
        seen
    }

    #[test]
    fn whatever_a_client_does_every_answer_is_that_of_the_bucket() {
        let seen = runs(false);
        assert!(seen.n_reads > 100 && seen.n_bytes > 1 << 20 && seen.n_stale > 10, "{seen:?}");
        assert_eq!(seen.n_errors, 0);
    }

    #[test]
    fn whatever_fails_no_answer_is_wrong() {
        let mut seen = runs(true);
        // Who comes while nothing is known yet, and the store fails already.
        for seed in 0..30_u8 {
            let storm = [15, 255, 10 + seed % 50, 1 + seed % 2];
            seen.add(run(&[&storm[..], &script(u64::from(seed), 12)].concat(), true));
        }
        assert!(seen.n_reads > 100 && seen.n_bytes > 1 << 20 && seen.n_errors > 10, "{seen:?}");
    }
}
