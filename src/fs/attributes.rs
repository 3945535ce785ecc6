//! The attributes of files and directories: a function of the version and of the mount's options.

use super::inodes::Node;
use crate::object::{Ino, Version};
use crate::tree::Found;

/// A moderate block: Python and others size their buffers by it, and a stream of such reads is
/// merged by the kernel's read-ahead anyway.
const PREFERRED_READ_BYTES: u32 = 128 << 10;

/// 14 March 2006, the day S3 opened: the date of every directory, with or without a marker
/// object, and of a file whose server tells none; fixed so that two mounts give the same tar.
const UNDATED_MODIFIED: i64 = 1_142_294_400;

/// Execute without read: what a directory shows that may be passed through but not listed.
const PASS_THROUGH_MODE: u16 = 0o111;

/// What `stat` shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attr {
    pub ino: Ino,
    pub is_directory: bool,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Of 512 bytes, rounded up, so that `du` is right.
    pub blocks: u64,
    /// Seconds since 1970.
    pub modified: i64,
    /// Permission bits.
    pub mode: u16,
    /// 1 also for directories, so that `find` makes no assumption about their number.
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub block_bytes: u32,
}

/// How all entries of the mount look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub uid: u32,
    pub gid: u32,
    pub file_mode: u16,
    pub dir_mode: u16,
}

/// What attributes are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    File { size: u64, modified: i64 },
    Directory { listable: bool },
}

impl Kind {
    pub(super) fn of(found: &Found) -> Self {
        match found {
            Found::Listed(listed) if listed.is_directory() => Self::Directory { listable: true },
            Found::Listed(listed) => {
                Self::File { size: listed.size(), modified: listed.modified() }
            }
            Found::File(object) => Self::of_version(&object.version),
            Found::Directory { listable, .. } => Self::Directory { listable: *listable },
        }
    }

    pub(super) fn of_node(node: &Node) -> Self {
        match node {
            Node::File(object) => Self::of_version(&object.version),
            Node::Directory { listable, .. } => Self::Directory { listable: *listable },
        }
    }

    fn of_version(version: &Version) -> Self {
        Self::File { size: version.size, modified: version.modified }
    }
}

impl Look {
    /// The attributes of `ino`. For one inode number they never change, but for the mode of a
    /// directory that turns out not to be listable.
    pub(super) fn attr(&self, ino: Ino, kind: &Kind) -> Attr {
        let (is_directory, size, modified, mode) = match *kind {
            Kind::File { size, modified: Version::UNDATED } => {
                (false, size, UNDATED_MODIFIED, self.file_mode)
            }
            Kind::File { size, modified } => (false, size, modified, self.file_mode),
            Kind::Directory { listable: true } => (true, 0, UNDATED_MODIFIED, self.dir_mode),
            Kind::Directory { listable: false } => {
                (true, 0, UNDATED_MODIFIED, self.dir_mode & PASS_THROUGH_MODE)
            }
        };
        Attr {
            ino,
            is_directory,
            size,
            blocks: size.div_ceil(512),
            modified,
            mode,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            block_bytes: PREFERRED_READ_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Look = Look { uid: 7, gid: 8, file_mode: 0o444, dir_mode: 0o555 };

    #[test]
    fn a_file_shows_its_size_and_date_and_whole_blocks() {
        let attr = LOOK.attr(Ino(5), &Kind::File { size: 1025, modified: 99 });
        assert_eq!((attr.size, attr.blocks, attr.modified, attr.mode), (1025, 3, 99, 0o444));
    }

    #[test]
    fn a_file_without_a_date_has_that_of_directories() {
        let kind = Kind::File { size: 1, modified: Version::UNDATED };
        assert_eq!(LOOK.attr(Ino(5), &kind).modified, UNDATED_MODIFIED);
    }

    #[test]
    fn a_directory_that_may_not_be_listed_can_only_be_passed_through() {
        let attr = |listable| LOOK.attr(Ino(5), &Kind::Directory { listable });
        assert_eq!(attr(true).mode, 0o555);
        assert_eq!(attr(false).mode, 0o111);
        assert_eq!((attr(true).modified, attr(true).nlink), (UNDATED_MODIFIED, 1));
    }
}
