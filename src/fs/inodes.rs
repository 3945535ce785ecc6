//! The inodes that the kernel remembers, and what they mean.
//! Invariant: a number that the kernel remembers means one object version or one directory until
//! it forgets it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::FsError;
use crate::object::{DirPath, Ino, Object};

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

impl Node {
    /// Whether both mean the same to a program that holds the number. A directory stays itself when
    /// its permission changes.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(a), Self::File(b)) => a == b,
            (Self::Directory { path: a, .. }, Self::Directory { path: b, .. }) => a == b,
            _ => false,
        }
    }

    fn first_number(&self) -> Ino {
        match self {
            Self::File(object) => object.ino(),
            Self::Directory { path, .. } => Ino::of_directory(path.as_str()),
        }
    }
}

/// A remembered inode costs about this much: table entry, version, key.
pub(super) const INODE_BYTES: u64 = 200;

/// All of them.
pub struct Inodes {
    root: DirPath,
    table: Mutex<HashMap<Ino, Remembered>>,
}

struct Remembered {
    node: Node,
    /// How often its number was given to the kernel and not yet taken back. Raised before the
    /// reply is written, so a forget can never come too early.
    nlookup: u64,
}

impl Inodes {
    pub(super) fn new(root: DirPath) -> Self {
        let node = Node::Directory { path: root.clone(), listable: true };
        // The kernel never forgets the root before the unmount.
        let table = HashMap::from([(Ino::ROOT, Remembered { node, nlookup: 1 })]);
        Self { root, table: Mutex::new(table) }
    }

    /// What the number means. Fails with `Stale` for one that was never given out or is forgotten.
    pub(super) fn get(&self, ino: Ino) -> Result<Node, FsError> {
        let table = self.table.lock();
        table.get(&ino).map(|found| found.node.clone()).ok_or(FsError::Stale)
    }

    /// The number of `node`, for a reply that does not count as a lookup.
    pub fn number(&self, node: &Node) -> Ino {
        self.number_in(&self.table.lock(), node)
    }

    /// The number of `node`, counted as given to the kernel once more.
    pub(super) fn remember(&self, node: &Node) -> Ino {
        let mut table = self.table.lock();
        let ino = self.number_in(&table, node);
        let found =
            table.entry(ino).or_insert_with(|| Remembered { node: node.clone(), nlookup: 0 });
        found.nlookup += 1;
        // The permission to list may be known better by now.
        found.node = node.clone();
        ino
    }

    /// The kernel gives back `nlookup` of the times it was told the number.
    pub(super) fn forget(&self, ino: Ino, nlookup: u64) {
        if ino == Ino::ROOT {
            return;
        }
        let gone = {
            let mut table = self.table.lock();
            let Some(found) = table.get_mut(&ino) else { return };
            found.nlookup = found.nlookup.saturating_sub(nlookup);
            if found.nlookup == 0 { table.remove(&ino) } else { None }
        };
        drop(gone);
    }

    /// How many the kernel remembers, the root included.
    pub(super) fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Two nodes of one hash: the second moves to the next free number.
    fn number_in(&self, table: &HashMap<Ino, Remembered>, node: &Node) -> Ino {
        if matches!(node, Node::Directory { path, .. } if *path == self.root) {
            return Ino::ROOT;
        }
        let mut ino = node.first_number();
        while table.get(&ino).is_some_and(|found| !found.node.is(node)) {
            ino = ino.moved();
        }
        ino
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Version;

    fn file(key: &str) -> Node {
        let version = Version { etag: None, size: 1, modified: 1 };
        Node::File(Arc::new(Object { key: key.into(), version }))
    }

    #[test]
    fn a_number_is_forgotten_when_all_its_lookups_are_given_back() {
        let inodes = Inodes::new(DirPath::new(""));
        let ino = inodes.remember(&file("a"));
        assert_eq!(inodes.remember(&file("a")), ino);
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
        let taken = file("a").first_number();
        let other = Remembered { node: file("other"), nlookup: 1 };
        inodes.table.lock().insert(taken, other);
        let moved = inodes.remember(&file("a"));
        assert_eq!(moved, taken.moved());
        assert_eq!(inodes.get(moved).unwrap(), file("a"));
        assert_eq!(inodes.number(&file("a")), moved);
    }

    #[test]
    fn the_mounts_own_prefix_is_the_root() {
        let inodes = Inodes::new(DirPath::new("some/prefix/"));
        let path = DirPath::new("some/prefix/");
        let node = Node::Directory { path, listable: true };
        assert_eq!(inodes.number(&node), Ino::ROOT);
    }
}
