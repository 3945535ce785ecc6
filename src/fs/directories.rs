//! Reading directories: handles, offsets, and what the kernel keeps of them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{FileSystem, Handle, Keeping, Node};
use crate::error::FsError;
use crate::object::{DirPath, Ino};
use crate::tree::{self, DirHandle, Found};

/// How many entries one step of a directory read takes from the tree. What does not fit into the reply
/// any more was made for nothing, and one of the usual 32 KiB holds 180 with attributes or 700 without.
const ENTRIES_PER_STEP: usize = 64;

/// `.` and `..` stand before the entries.
const DOT_ENTRIES: u64 = 2;

/// An offset is a position, and above that the generation of the handle. (A directory of more entries
/// than 32 bits can count is beyond any listing's bound.)
const POSITION_BITS: u32 = 32;

/// An open directory.
pub(super) struct OpenDirectory {
    ino: Ino,
    path: DirPath,
    entries: DirHandle,
    keeping: Keeping,
    reading: Mutex<Reading>,
}

/// How far the reading of one handle has come.
struct Reading {
    /// Whether anything was read: offset 0 then means a new snapshot.
    started: bool,
    n_rewinds: u64,
    listing: Option<u64>,
    /// How often a rewind has changed what is shown; 0 where the kernel keeps nothing of it.
    generation: u64,
}

/// One entry of a directory, for readdir and readdirplus.
pub struct DirectoryEntry {
    pub name: Arc<str>,
    /// The offset of the entry after this one.
    pub next: u64,
    pub valid_for: Duration,
    pub found: Found,
    /// See [`super::refresh::Forgettings`].
    pub(super) count: u64,
}

impl FileSystem {
    /// Opens a directory. Its first page may still be on its way.
    pub async fn open_directory(&self, ino: Ino) -> Result<(Handle, Keeping), FsError> {
        let Node::Directory { path, .. } = self.inodes.get(ino)? else {
            return Err(FsError::NotADirectory);
        };
        let count = self.forgettings.count();
        let entries = self.tree.open_dir(&path).await?;
        let handle = self.directories.reserve();
        let sight = entries.sight();
        let mut keeping = self.kept.open(ino, handle, sight, Instant::now());
        if self.forgettings.count() != count {
            // What it shows may have been forgotten meanwhile.
            self.kept.forget(&[ino]);
            if keeping == Keeping::Uses {
                keeping = Keeping::Fills;
            }
        }
        // What is read from the kernel's pages is read, too.
        let started = keeping == Keeping::Uses;
        let (n_rewinds, listing) = (sight.n_rewinds, sight.listing);
        let reading = Reading { started, n_rewinds, listing, generation: 0 }.into();
        let open = OpenDirectory { ino, path, entries, keeping, reading };
        self.directories.put(handle, open);
        Ok((handle, keeping))
    }

    /// Some entries from `offset` on; none at the end. Waits until one is known. Offset 0 after a first
    /// read takes a new snapshot, as rewinddir(3) wants it.
    pub async fn read_directory(
        &self,
        handle: Handle,
        offset: u64,
    ) -> Result<Vec<DirectoryEntry>, FsError> {
        let count = self.forgettings.count();
        let open = self.directories.get(handle)?;
        if offset == 0 && std::mem::replace(&mut open.reading.lock().started, true) {
            open.entries.rewind();
        }
        let position = open.position(offset);
        let found = open.entries.read(position.saturating_sub(DOT_ENTRIES), ENTRIES_PER_STEP);
        let found = found.await?;
        self.note_rewind(handle, &open);
        if self.forgettings.count() != count {
            self.kept.forget(&[open.ino]);
        }
        self.account();
        let mut entries = Vec::new();
        for (at, name, path) in [(0, ".", open.path.clone()), (1, "..", self.parent(&open.path))] {
            if position <= at {
                let found = Found::Directory { path, listable: true };
                let (name, next, valid_for) = (name.into(), open.offset(at + 1), Duration::ZERO);
                entries.push(DirectoryEntry { name, next, valid_for, found, count });
            }
        }
        entries.extend(found.into_iter().map(|entry| open.entry(entry, count)));
        Ok(entries)
    }

    /// Some more entries, from `offset` on, as far as they are in memory: none says nothing.
    pub fn read_on(&self, handle: Handle, offset: u64) -> Vec<DirectoryEntry> {
        let count = self.forgettings.count();
        let Ok(open) = self.directories.get(handle) else { return Vec::new() };
        let position = open.position(offset).saturating_sub(DOT_ENTRIES);
        let found = open.entries.read_known(position, ENTRIES_PER_STEP);
        found.into_iter().map(|entry| open.entry(entry, count)).collect()
    }

    /// A reply tells the entries from `offset` to `next`, none where they are the same: then it is the
    /// end. `hold` is for how long that holds, of the entry with the least. To be called before the
    /// reply is written.
    pub fn told(self: &Arc<Self>, handle: Handle, offset: u64, next: u64, hold: Option<Duration>) {
        let Ok(open) = self.directories.get(handle) else { return };
        if open.keeping == Keeping::Apart {
            return;
        }
        let (told, now) = (open.position(offset)..open.position(next), Instant::now());
        let until = hold.map(|hold| now + hold);
        if let Some(until) = self.kept.told(open.ino, handle, told, until) {
            // The kernel answers a rewind from its pages, and nobody tells it when their time is over.
            let (ino, notices) = (open.ino, self.notices.clone());
            let expiry = tokio::spawn(async move {
                tokio::time::sleep_until(until).await;
                notices.drop_pages(ino).await;
            });
            self.kept.expires(open.ino, handle, expiry.abort_handle());
        }
    }

    /// Closes a directory.
    pub fn release_directory(&self, handle: Handle) {
        let open = self.directories.remove(handle);
        if let Some(open) = &open {
            self.kept.close(open.ino, handle);
        }
        drop(open);
        self.account();
    }

    /// After a read: whether another listing is shown than before.
    fn note_rewind(&self, handle: Handle, open: &OpenDirectory) {
        if open.keeping == Keeping::Apart {
            return;
        }
        let sight = open.entries.sight();
        let mut reading = open.reading.lock();
        if sight.n_rewinds == reading.n_rewinds {
            return;
        }
        let is_same = sight.listing.is_some() && sight.listing == reading.listing;
        reading.n_rewinds = sight.n_rewinds;
        reading.listing = sight.listing;
        if !is_same {
            reading.generation += 1;
            drop(reading);
            self.kept.rewound(open.ino, handle, sight, Instant::now());
        }
    }
}

impl OpenDirectory {
    fn position(&self, offset: u64) -> u64 {
        let generation = self.reading.lock().generation;
        match offset >> POSITION_BITS {
            // Told before the last rewind, or by nobody.
            other if other != generation => offset,
            _ => offset & ((1 << POSITION_BITS) - 1),
        }
    }

    fn offset(&self, position: u64) -> u64 {
        self.reading.lock().generation << POSITION_BITS | position
    }

    fn entry(&self, entry: tree::Entry, count: u64) -> DirectoryEntry {
        let tree::Entry { name, found, next, valid_for } = entry;
        DirectoryEntry { name, next: self.offset(next + DOT_ENTRIES), valid_for, found, count }
    }
}
