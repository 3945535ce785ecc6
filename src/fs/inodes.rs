//! The inodes that the kernel remembers, and what they mean.
//! Invariant: a number that the kernel remembers means one object version or one directory until
//! it forgets it.
//!
//! They may be millions, so one is no more than a place in a block of a listing, which the tree has
//! anyway, and which lives as long as one of its inodes. Only what a single answer told is kept whole.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use crate::error::FsError;
use crate::object::{DirPath, Ino, Object};
use crate::tree::{Block, Found, Listed};

/// What an inode is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    File(Arc<Object>),
    Directory {
        path: DirPath,
        /// Whether LIST is allowed below it.
        listable: bool,
    },
}

/// Bytes of an inode that is kept whole, beside its place in the table: by the resident set of 200,000
/// of them with keys of 40 bytes and usual tags (glibc, x86-64).
const WHOLE_BYTES: i64 = 215;

/// Where fewer than one in so many entries of a block are in use, they take less when kept whole.
const SPARSE_SHARE: usize = 8;

/// A place in the table, used or free: number, [`Kept`], and the table's own byte. With the free ones
/// an inode of a listing takes 35 to 50 bytes of resident set (200,000 to 460,000 of them), and its entry
/// 60 in a block of 1,000 names as `part-00000.parquet` with usual tags.
const SLOT_BYTES: usize = size_of::<(Ino, Kept)>() + 1;

/// Each a table of its own, so that growing one is no peak in memory.
const SHARDS: usize = 64;

/// All of them.
pub struct Inodes {
    root: DirPath,
    shards: [Mutex<Shard>; SHARDS],
    n_inodes: AtomicI64,
    bytes: AtomicI64,
}

type Shard = HashMap<Ino, Kept, BuildHasherDefault<AsItIs>>;

/// A number is a hash already, at least in its lower bits.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a number is an u64")
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// One inode. `nlookup` is how often its number was given to the kernel and not yet taken back: raised
/// before the reply is written, so a forget can never come too early.
enum Kept {
    Listed { block: Arc<Block>, index: u16, nlookup: u32 },
    Whole(Box<Whole>),
}

struct Whole {
    node: Node,
    nlookup: u64,
    /// When it was used last.
    used: u32,
}

impl Inodes {
    pub(super) fn new(root: DirPath) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        let inodes = Self { root, shards, n_inodes: AtomicI64::new(0), bytes: AtomicI64::new(0) };
        // The kernel never forgets the root before the unmount.
        inodes.remember(&Found::Directory { path: inodes.root.clone(), listable: true }, 0);
        inodes
    }

    /// What the number means. Fails with `Stale` for one that was never given out or is forgotten.
    pub(super) fn get(&self, ino: Ino) -> Result<Node, FsError> {
        let shard = self.shard(ino).lock();
        shard.get(&ino).and_then(Kept::node).ok_or(FsError::Stale)
    }

    /// Notes that `ino` is used at `tick`.
    pub(super) fn touch(&self, ino: Ino, tick: u32) {
        match self.shard(ino).lock().get_mut(&ino) {
            Some(Kept::Listed { block, index, .. }) => Listed::from_parts(block, *index).touch(),
            Some(Kept::Whole(whole)) => whole.used = tick,
            None => {}
        }
    }

    /// The number of `found`, for a reply that does not count as a lookup.
    pub fn number(&self, found: &Found) -> Ino {
        let mut ino = self.first_number(found);
        while self.shard(ino).lock().get(&ino).is_some_and(|kept| !self.is(ino, kept, found)) {
            ino = ino.moved();
        }
        ino
    }

    /// The number of `found`, counted as given to the kernel once more, and used at `tick`.
    pub(super) fn remember(&self, found: &Found, tick: u32) -> Ino {
        let mut ino = self.first_number(found);
        loop {
            let mut shard = self.shard(ino).lock();
            match shard.get_mut(&ino) {
                // Two of one hash: the second moves to the next free number.
                Some(kept) if !self.is(ino, kept, found) => {}
                Some(kept) => {
                    let before = kept.add(found, tick, &self.bytes);
                    drop(shard);
                    drop(before);
                    return ino;
                }
                None => {
                    let capacity = shard.capacity();
                    shard.insert(ino, Kept::new(found, 1, tick, &self.bytes));
                    self.count(1, capacity, shard.capacity());
                    return ino;
                }
            }
            drop(shard);
            ino = ino.moved();
        }
    }

    /// The kernel gives back `nlookup` of the times it was told the number. Whether that were all.
    pub(super) fn forget(&self, ino: Ino, nlookup: u64) -> bool {
        if ino == Ino::ROOT {
            return false;
        }
        let mut shard = self.shard(ino).lock();
        let Some(kept) = shard.get_mut(&ino) else { return false };
        if !kept.give_back(nlookup) {
            return false;
        }
        let gone = shard.remove(&ino);
        let capacity = shard.capacity();
        if shard.len() * 8 < capacity {
            let len = shard.len();
            shard.shrink_to(len * 2);
        }
        self.count(-1, capacity, shard.capacity());
        drop(shard);
        if let Some(Kept::Whole(_)) = &gone {
            self.bytes.fetch_sub(WHOLE_BYTES, Ordering::Relaxed);
        }
        // Thousands of names may go with it: not under the lock.
        drop(gone);
        true
    }

    /// Those whose name lies in the directory `path`; with `recursive` all below it.
    pub(super) fn below(&self, path: &DirPath, recursive: bool) -> Vec<Ino> {
        let mut below = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let found = shard.iter().filter(|(_, kept)| kept.is_below(path, recursive));
            below.extend(found.map(|(ino, _)| *ino));
        }
        below
    }

    /// How many the kernel remembers, the root included.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.n_inodes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// What they take, beside the listings that they refer to.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// A time such that at least `n_wanted` were used last then or before; where there are not so many,
    /// that of all.
    pub(super) fn used_before(&self, n_wanted: usize) -> u32 {
        let mut ages: HashMap<u32, usize> = HashMap::new();
        for shard in &self.shards {
            for kept in shard.lock().values() {
                *ages.entry(kept.used()).or_default() += 1;
            }
        }
        let mut ages: Vec<(u32, usize)> = ages.into_iter().collect();
        ages.sort_unstable();
        let mut n_older = 0;
        let enough = ages.into_iter().find(|(_, n_inodes)| {
            n_older += n_inodes;
            n_older >= n_wanted
        });
        enough.map_or(u32::MAX, |(used, _)| used)
    }

    /// Lets go of listings of which few inodes are left: these are kept whole instead. Otherwise one inode
    /// would keep a page of a thousand names.
    pub(super) fn leave_sparse(&self) {
        for shard in &self.shards {
            let mut left = Vec::new();
            for kept in shard.lock().values_mut() {
                if let Kept::Listed { block, index, nlookup } = kept
                    && block.is_left_by_most(SPARSE_SHARE)
                {
                    let (nlookup, used) = ((*nlookup).into(), block.used());
                    let node = node(Found::Listed(Listed::from_parts(block, *index)));
                    let whole = Kept::Whole(Box::new(Whole { node, nlookup, used }));
                    self.bytes.fetch_add(WHOLE_BYTES, Ordering::Relaxed);
                    left.push(std::mem::replace(kept, whole));
                }
            }
            // Thousands of names may go with them: not under the lock.
            drop(left);
        }
    }

    /// Those that were used last at `used` or before, of one part of the table; `None` when there are
    /// no more parts.
    pub(super) fn idle_in(&self, part: usize, used: u32) -> Option<Vec<Ino>> {
        let shard = self.shards.get(part)?.lock();
        let idle = shard.iter().filter(|(ino, kept)| **ino != Ino::ROOT && kept.used() <= used);
        Some(idle.map(|(ino, _)| *ino).collect())
    }

    fn shard(&self, ino: Ino) -> &Mutex<Shard> {
        // Neither the bits that choose the slot nor those that the table tags it with.
        &self.shards[(ino.0 >> 20) as usize % SHARDS]
    }

    fn first_number(&self, found: &Found) -> Ino {
        match found {
            Found::Directory { path, .. } if *path == self.root => Ino::ROOT,
            Found::Directory { path, .. } => Ino::of_directory(path.as_str()),
            Found::File(object) => object.ino(),
            Found::Listed(listed) => listed.first_number(),
        }
    }

    /// Whether both mean the same to a program that holds the number. A directory stays itself when
    /// its permission changes.
    fn is(&self, ino: Ino, kept: &Kept, found: &Found) -> bool {
        match (kept, found) {
            (Kept::Listed { block, index, .. }, found) => {
                let kept = Listed::from_parts(block, *index);
                match found {
                    Found::Listed(listed) => kept == *listed,
                    Found::File(object) => kept == **object,
                    Found::Directory { path, .. } => kept == *path,
                }
            }
            (Kept::Whole(whole), found) => match (&whole.node, found) {
                (Node::File(a), Found::File(b)) => a == b,
                (Node::File(a), Found::Listed(b)) => *b == **a,
                (Node::Directory { path: a, .. }, Found::Directory { path: b, .. }) => a == b,
                (Node::Directory { path: a, .. }, Found::Listed(b)) => *b == *a && ino != Ino::ROOT,
                _ => false,
            },
        }
    }

    fn count(&self, n_inodes: i64, capacity_before: usize, capacity: usize) {
        self.n_inodes.fetch_add(n_inodes, Ordering::Relaxed);
        let (before, now) = (table_bytes(capacity_before), table_bytes(capacity));
        self.bytes.fetch_add(now - before, Ordering::Relaxed);
    }
}

/// A table is full at seven eighths of a power of two.
fn table_bytes(capacity: usize) -> i64 {
    let n_slots = if capacity == 0 { 0 } else { (capacity * 8 / 7).next_power_of_two() };
    i64::try_from(n_slots * SLOT_BYTES).unwrap_or(i64::MAX)
}

impl Kept {
    fn new(found: &Found, nlookup: u64, tick: u32, bytes: &AtomicI64) -> Self {
        let node = match found {
            Found::Listed(listed) => match u32::try_from(nlookup) {
                Ok(nlookup) => {
                    listed.touch();
                    let (block, index) = listed.clone().into_parts();
                    return Self::Listed { block, index, nlookup };
                }
                Err(_) => node(found.clone()),
            },
            found => node(found.clone()),
        };
        bytes.fetch_add(WHOLE_BYTES, Ordering::Relaxed);
        Self::Whole(Box::new(Whole { node, nlookup, used: tick }))
    }

    /// Counts one more lookup, and takes `found` for what it means: a listing may be newer, the
    /// permission to list better known. Gives what it was, to be dropped without a lock.
    fn add(&mut self, found: &Found, tick: u32, bytes: &AtomicI64) -> Option<Self> {
        let is_listed = matches!(self, Self::Listed { .. });
        let is_better = match found {
            Found::Listed(_) | Found::Directory { listable: false, .. } => true,
            Found::File(_) | Found::Directory { listable: true, .. } => !is_listed,
        };
        let nlookup = self.nlookup() + 1;
        if !is_better
            && let Self::Listed { block, nlookup: kept, index } = self
            && let Ok(nlookup) = u32::try_from(nlookup)
        {
            *kept = nlookup;
            Listed::from_parts(block, *index).touch();
            return None;
        }
        if !is_listed {
            bytes.fetch_sub(WHOLE_BYTES, Ordering::Relaxed);
        }
        Some(std::mem::replace(self, Self::new(found, nlookup, tick, bytes)))
    }

    /// Whether nothing is left.
    fn give_back(&mut self, given: u64) -> bool {
        match self {
            Self::Listed { nlookup, .. } => {
                *nlookup = nlookup.saturating_sub(u32::try_from(given).unwrap_or(u32::MAX));
                *nlookup == 0
            }
            Self::Whole(whole) => {
                whole.nlookup = whole.nlookup.saturating_sub(given);
                whole.nlookup == 0
            }
        }
    }

    fn nlookup(&self) -> u64 {
        match self {
            Self::Listed { nlookup, .. } => (*nlookup).into(),
            Self::Whole(whole) => whole.nlookup,
        }
    }

    fn used(&self) -> u32 {
        match self {
            Self::Listed { block, .. } => block.used(),
            Self::Whole(whole) => whole.used,
        }
    }

    /// Whether its name lies in the directory `path`; with `recursive` anywhere below it.
    fn is_below(&self, path: &DirPath, recursive: bool) -> bool {
        let node = match self {
            Self::Listed { block, index, .. } => {
                let listed = Listed::from_parts(block, *index);
                let dir = listed.dir();
                return dir == path || recursive && dir.as_str().starts_with(path.as_str());
            }
            Self::Whole(whole) => &whole.node,
        };
        let whole = match node {
            Node::File(object) => &*object.key,
            Node::Directory { path, .. } => path.as_str(),
        };
        let name = whole.strip_prefix(path.as_str()).map(|rest| rest.trim_end_matches('/'));
        name.is_some_and(|name| !name.is_empty() && (recursive || !name.contains('/')))
    }

    fn node(&self) -> Option<Node> {
        match self {
            Self::Listed { block, index, .. } => {
                Some(node(Found::Listed(Listed::from_parts(block, *index))))
            }
            Self::Whole(whole) => Some(whole.node.clone()),
        }
    }
}

/// What `found` is by itself.
pub(super) fn node(found: Found) -> Node {
    match found {
        Found::File(object) => Node::File(object),
        Found::Directory { path, listable } => Node::Directory { path, listable },
        Found::Listed(listed) => match listed.object() {
            Some(object) => Node::File(Arc::new(object)),
            None => {
                let path = listed.dir().child(listed.name());
                Node::Directory { path, listable: true }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Version;

    fn file(key: &str) -> Found {
        let version = Version { etag: None, size: 1, modified: 1 };
        Found::File(Arc::new(Object { key: key.into(), version }))
    }

    #[test]
    fn a_number_is_forgotten_when_all_its_lookups_are_given_back() {
        let inodes = Inodes::new(DirPath::new(""));
        let ino = inodes.remember(&file("a"), 0);
        assert_eq!(inodes.remember(&file("a"), 0), ino);
        inodes.forget(ino, 1);
        assert!(inodes.get(ino).is_ok());
        inodes.forget(ino, 1);
        assert_eq!(inodes.get(ino).unwrap_err().errno(), libc::ESTALE);
        inodes.forget(Ino::ROOT, 1);
        assert!(inodes.get(Ino::ROOT).is_ok());
    }

    #[test]
    fn a_collision_moves_to_the_next_number() {
        let inodes = Inodes::new(DirPath::new(""));
        let taken = inodes.first_number(&file("a"));
        let other = Kept::new(&file("other"), 1, 0, &inodes.bytes);
        inodes.shard(taken).lock().insert(taken, other);
        let moved = inodes.remember(&file("a"), 0);
        assert_eq!(moved, taken.moved());
        assert_eq!(inodes.get(moved).unwrap(), node(file("a")));
        assert_eq!(inodes.number(&file("a")), moved);
    }

    #[tokio::test]
    async fn what_lies_below_a_directory_is_found() {
        let inodes = Inodes::new(DirPath::new("p/"));
        let directory = |path: &str| Found::Directory { path: DirPath::new(path), listable: true };
        let found = ["p/a/f", "p/a/d/f", "p/a", "p/ab"].map(file).into_iter();
        for found in found.chain(["p/a/", "p/a/d/", "p/b/"].map(directory)) {
            inodes.remember(&found, 0);
        }
        for dir in ["p/", "p/a/", "p/a/d/", "p/ab/"] {
            let block = Block::of_names(dir, &["listed".to_owned()]);
            inodes.remember(&Found::Listed(Listed::from_parts(&block, 0)), 0);
        }
        let names = |path: &str, recursive| {
            let below = inodes.below(&DirPath::new(path), recursive);
            let mut names: Vec<String> = below
                .into_iter()
                .map(|ino| match inodes.get(ino).unwrap() {
                    Node::File(object) => object.key.to_string(),
                    Node::Directory { path, .. } => path.as_str().to_owned(),
                })
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("p/a/", false), ["p/a/d/", "p/a/f", "p/a/listed"]);
        assert_eq!(
            names("p/a/", true),
            ["p/a/d/", "p/a/d/f", "p/a/d/listed", "p/a/f", "p/a/listed"]
        );
        assert_eq!(names("p/", false), ["p/a", "p/a/", "p/ab", "p/b/", "p/listed"]);
    }

    #[test]
    fn the_mounts_own_prefix_is_the_root() {
        let inodes = Inodes::new(DirPath::new("some/prefix/"));
        let path = DirPath::new("some/prefix/");
        assert_eq!(inodes.number(&Found::Directory { path, listable: true }), Ino::ROOT);
    }

    #[test]
    fn an_inode_of_a_listing_is_a_few_words() {
        assert_eq!(size_of::<Kept>(), 16);
        assert_eq!(SLOT_BYTES, 25);
    }

    #[tokio::test]
    async fn a_few_inodes_do_not_keep_a_page() {
        let inodes = Inodes::new(DirPath::new(""));
        let names: Vec<String> = (0..1000).map(|number| format!("{number:03}")).collect();
        let block = Block::of_names("d/", &names);
        let found = |index| Found::Listed(Listed::from_parts(&block, index));
        let all: Vec<Ino> = (0..1000).map(|index| inodes.remember(&found(index), 0)).collect();
        let bytes = inodes.bytes();
        inodes.leave_sparse();
        assert_eq!(inodes.bytes(), bytes, "they are all there");
        for ino in &all[5..] {
            inodes.forget(*ino, 1);
        }
        inodes.leave_sparse();
        assert_eq!(Arc::strong_count(&block), 1);
        for (index, ino) in all[..5].iter().enumerate() {
            let Node::File(object) = inodes.get(*ino).unwrap() else { panic!("a file") };
            assert_eq!(*object.key, *format!("d/{index:03}"));
            let index = u16::try_from(index).unwrap();
            assert_eq!(inodes.remember(&found(index), 0), *ino, "the number stays");
            inodes.forget(*ino, 2);
            assert!(inodes.get(*ino).is_err());
        }
    }

    #[test]
    fn what_all_weigh_goes_when_they_go() {
        let inodes = Inodes::new(DirPath::new(""));
        let numbers: Vec<Ino> =
            (0..10_000).map(|index| inodes.remember(&file(&index.to_string()), index)).collect();
        assert_eq!(inodes.len(), 10_001);
        assert!(inodes.bytes() > 2_000_000);
        assert_eq!(inodes.used_before(1001), 999, "the root is one, too");
        let idle: usize =
            (0..).map_while(|part| inodes.idle_in(part, 999)).map(|it| it.len()).sum();
        assert_eq!(idle, 1000);
        for ino in numbers {
            inodes.forget(ino, 1);
        }
        assert_eq!(inodes.len(), 1);
        assert!(inodes.bytes() < 20_000, "{}", inodes.bytes());
    }
}
