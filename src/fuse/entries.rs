//! Replies that hold entries of a directory: with attributes (READDIRPLUS) and without (READDIR).

use fuser::{Errno, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::adapter::{GENERATION, file_attr, file_type};
use crate::fs::{DirectoryEntry, FileSystem, Handle};

/// A reply to which entries are added until it is full.
pub(super) trait EntriesReply: Send + 'static {
    /// False where it is full, and the entry was not added.
    fn add(&mut self, fs: &FileSystem, entry: &DirectoryEntry) -> bool;
    fn ok(self);
    fn error(self, err: Errno);
}

/// Sends `entries` and those after them that are in memory, as many as fit: what a program gives room
/// for in one call costs one request.
pub(super) fn fill<R: EntriesReply>(
    mut reply: R,
    fs: &FileSystem,
    handle: Handle,
    mut entries: Vec<DirectoryEntry>,
) {
    while let Some(last) = entries.last() {
        let next = last.next;
        if !entries.iter().all(|entry| reply.add(fs, entry)) {
            break;
        }
        entries = fs.read_on(handle, next);
    }
    reply.ok();
}

impl EntriesReply for ReplyDirectory {
    fn add(&mut self, fs: &FileSystem, entry: &DirectoryEntry) -> bool {
        let attr = fs.look_at(&entry.found);
        !Self::add(self, INodeNo(attr.ino.0), entry.next, file_type(&attr), &*entry.name)
    }

    fn ok(self) {
        Self::ok(self);
    }

    fn error(self, err: Errno) {
        Self::error(self, err);
    }
}

impl EntriesReply for ReplyDirectoryPlus {
    /// The lookup is counted before the reply is written, and taken back when the entry did not fit;
    /// `.` and `..` are not counted (linux/fs/fuse/readdir.c, `fuse_direntplus_link`).
    fn add(&mut self, fs: &FileSystem, entry: &DirectoryEntry) -> bool {
        let counted = !matches!(&*entry.name, "." | "..");
        let attr = if counted { fs.remember(&entry.found) } else { fs.look_at(&entry.found) };
        let (ino, name, look) = (INodeNo(attr.ino.0), &*entry.name, file_attr(&attr));
        let full = Self::add(self, ino, entry.next, name, &entry.valid_for, &look, GENERATION);
        if full && counted {
            fs.forget(attr.ino, 1);
        }
        !full
    }

    fn ok(self) {
        Self::ok(self);
    }

    fn error(self, err: Errno) {
        Self::error(self, err);
    }
}
