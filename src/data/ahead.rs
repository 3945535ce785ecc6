//! What comes before somebody asks for it by a read: small files whole, and mapped files that are loaded.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::index::PartId;
use super::open::SMALL_BYTES_MAX;
use super::part::Part;
use super::read::chunk_bytes;
use super::{Data, File, ReadBytes};
use crate::error::FsError;
use crate::object::{Ino, Object};

/// The size of what is brought for a file that is loaded: as the parts of a fast stream.
const LOAD_PART_BYTES: u64 = 2 << 20;

/// A range of a file on its way into the page cache.
pub struct Brought {
    data: Arc<Data>,
    file: Arc<File>,
    part: Arc<Part>,
    /// Of the file, within the part: what the kernel has not asked for.
    range: Range<u64>,
    /// All of it has come.
    is_ready: bool,
}

impl Brought {
    /// The bytes, and where they begin, once they have come.
    pub async fn bytes(&mut self) -> Result<(u64, ReadBytes), FsError> {
        let local = self.part.local(&self.range);
        self.part.wait_until(local.end).await?;
        if !std::mem::replace(&mut self.is_ready, true) {
            self.file.loading.lock().came(self.len());
        }
        Ok((self.range.start, ReadBytes::within(self.part.buffer(), local)))
    }

    /// The page cache has it now.
    pub fn given(self) {
        self.part.serve(self.len());
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The page cache has it, or nobody wants it.
impl Drop for Brought {
    fn drop(&mut self) {
        let id = PartId { ino: self.file.ino, start: self.part.range.start };
        let gone = self.data.index.lock().remove_unread(id, &self.part);
        self.data.let_go(gone.into_iter().collect());
        self.file.loading.lock().gone(self.len(), self.is_ready);
    }
}

impl Data {
    /// Whether the file is read as one that is loaded, so that it is worth looking whether somebody has
    /// mapped it.
    pub fn may_be_loaded(&self, file: &File) -> bool {
        file.loading.lock().is_suspect()
    }

    /// Begins to bring all of the file. False where that goes on already.
    pub fn begin_loading(&self, file: &File) -> bool {
        file.loading.lock().begin(self.started.elapsed())
    }

    /// All that may be on its way is, and none of it has come.
    pub fn loading_waits(&self, file: &File) {
        let bounds = self.bounds();
        file.loading.lock().waits(self.started.elapsed(), bounds);
    }

    pub fn end_loading(&self, file: &File) {
        file.loading.lock().end();
    }

    /// Whether there is nothing left to bring.
    pub fn is_loaded(&self, file: &File) -> bool {
        file.loading.lock().is_done()
    }

    /// Asks for the next range of a file that is loaded, with what of it is in memory. None where
    /// there is no room or no memory, where nobody asked for anything for long, and where all is here.
    pub fn bring(self: &Arc<Self>, file: &Arc<File>) -> Vec<Brought> {
        let len = LOAD_PART_BYTES.min(self.part_bytes_max());
        let brought = |part: Arc<Part>, range: Range<u64>| {
            file.loading.lock().asked_for(range.end - range.start);
            Brought { data: Arc::clone(self), file: Arc::clone(file), part, range, is_ready: false }
        };
        let mut parts = Vec::new();
        while parts.is_empty() && file.loading.lock().wants_more() {
            // Before the range is taken, which counts as given from then on.
            let Some(permit) = self.reserve_ahead(usize::try_from(len).unwrap_or(0)) else { break };
            let mut permit = Some(permit);
            let Some(range) = file.loading.lock().next(len) else { break };
            let (gaps, known) = {
                let index = self.index.lock();
                (index.gaps(file.ino, &range), index.parts_in(file.ino, &range))
            };
            for (part, is_wanted) in known {
                // Of one that somebody waits for, the kernel was given what it has asked for.
                let (start, end) = match is_wanted {
                    true => (part.range.start.max(range.start), part.range.end.min(range.end)),
                    false => (part.range.start, part.range.end),
                };
                parts.push(brought(part, start..end));
            }
            for gap in gaps {
                let Some(permit) = permit.take().or_else(|| self.reserve_ahead(chunk_bytes(&gap)))
                else {
                    break;
                };
                let Some(chunk) = self.chunk_ahead(&permit) else { return parts };
                let (part, download) = Part::new(gap, true, permit, chunk);
                {
                    let mut index = self.index.lock();
                    if index.gaps(file.ino, &part.range) != [part.range.clone(); 1] {
                        continue; // Somebody reads it right now.
                    }
                    index.insert(file.ino, &part, false);
                }
                self.start_download(file, download);
                let range = part.range.clone();
                parts.push(brought(part, range));
            }
        }
        parts
    }

    /// Asks for all of a small file, which nobody has opened yet. Nothing happens for a large one, where
    /// some of it is here, where the kernel may have it, and where there is no room.
    pub fn fetch_ahead(self: &Arc<Self>, ino: Ino, object: &Arc<Object>) {
        let range = 0..object.version.size;
        // In an outage it would only hold a place.
        if range.is_empty() || range.end > SMALL_BYTES_MAX || self.reach.is_out() {
            return;
        }
        let file = self.file(ino, object);
        if file.opened.load(Ordering::Relaxed) || self.index.lock().has_any(ino) {
            return;
        }
        let Some(permit) = self.reserve_ahead(chunk_bytes(&range)) else { return };
        let Some(chunk) = self.chunk_ahead(&permit) else { return };
        let (part, download) = Part::new(range, true, permit, chunk);
        {
            let mut index = self.index.lock();
            if index.has_any(ino) {
                return;
            }
            index.insert(ino, &part, false);
        }
        self.start_download(&file, download);
    }

    /// Lets go of what came ahead for a file that nobody will open.
    pub fn drop_ahead(&self, ino: Ino) {
        let gone = self.index.lock().evict_unread_of(ino);
        self.let_go(gone);
    }

    /// Waits for the first bytes of a file that are on their way ahead of its open: what brings them says
    /// whether the file is current.
    pub(super) async fn wait_for_ahead(&self, file: &File) {
        let part = self.index.lock().unread_first(file.ino);
        if let Some(part) = part.filter(|part| !part.has(1)) {
            // Should it fail, the open asks by itself.
            let _ = part.wait_until(1).await;
        }
    }
}
