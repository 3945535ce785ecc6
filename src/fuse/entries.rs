//! Replies that hold entries of a directory: with attributes (READDIRPLUS) and without (READDIR).

use std::sync::Arc;
use std::time::Duration;

use fuser::{Errno, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::adapter::{GENERATION, file_attr, file_type};
use crate::fs::{DirectoryEntry, FileSystem, Handle};

/// A reply to which entries are added until it is full.
pub(super) trait EntriesReply: Send + 'static {
    /// False where it is full, and the entry was not added.
    fn add(&mut self, fs: &FileSystem, entry: &DirectoryEntry) -> bool;
    /// For how long the kernel may use what it is told of the entry.
    fn hold(fs: &FileSystem, entry: &DirectoryEntry) -> Option<Duration>;
    fn ok(self);
    fn error(self, err: Errno);
}

/// Sends `entries`, which begin at `offset`, and those after them that are in memory, as many as fit:
/// what a program gives room for in one call costs one request.
pub(super) fn fill<R: EntriesReply>(
    mut reply: R,
    fs: &Arc<FileSystem>,
    handle: Handle,
    offset: u64,
    mut entries: Vec<DirectoryEntry>,
) {
    let (mut next, mut hold) = (offset, None);
    'full: while !entries.is_empty() {
        for entry in &entries {
            if !reply.add(fs, entry) {
                break 'full;
            }
            next = entry.next;
            hold = [hold, R::hold(fs, entry)].into_iter().flatten().min();
        }
        entries = fs.read_on(handle, next);
    }
    fs.told(handle, offset, next, hold);
    reply.ok();
}

/// What the kernel neither counts nor remembers (linux/fs/fuse/readdir.c, `fuse_direntplus_link`).
fn is_dot(entry: &DirectoryEntry) -> bool {
    matches!(&*entry.name, "." | "..")
}

impl EntriesReply for ReplyDirectory {
    fn add(&mut self, fs: &FileSystem, entry: &DirectoryEntry) -> bool {
        let attr = fs.look_at(&entry.found);
        !Self::add(self, INodeNo(attr.ino.0), entry.next, file_type(&attr), &*entry.name)
    }

    /// Each will be asked for by its name.
    fn hold(_: &FileSystem, entry: &DirectoryEntry) -> Option<Duration> {
        (!is_dot(entry)).then_some(Duration::ZERO)
    }

    fn ok(self) {
        Self::ok(self);
    }

    fn error(self, err: Errno) {
        Self::error(self, err);
    }
}

impl EntriesReply for ReplyDirectoryPlus {
    /// The lookup is counted before the reply is written, and taken back when the entry did not fit.
    fn add(&mut self, fs: &FileSystem, entry: &DirectoryEntry) -> bool {
        let counted = !is_dot(entry);
        let attr = if counted { fs.remember(&entry.found) } else { fs.look_at(&entry.found) };
        let (ino, name, look) = (INodeNo(attr.ino.0), &*entry.name, file_attr(&attr));
        let valid_for = fs.valid_for(entry);
        let full = Self::add(self, ino, entry.next, name, &valid_for, &look, GENERATION);
        if full && counted {
            fs.forget(attr.ino, 1);
        }
        !full
    }

    fn hold(fs: &FileSystem, entry: &DirectoryEntry) -> Option<Duration> {
        (!is_dot(entry)).then(|| fs.valid_for(entry))
    }

    fn ok(self) {
        Self::ok(self);
    }

    fn error(self, err: Errno) {
        Self::error(self, err);
    }
}
