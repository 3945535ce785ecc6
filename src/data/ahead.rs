//! Small files that come whole before somebody opens them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::open::SMALL_BYTES_MAX;
use super::part::Part;
use super::read::chunk_bytes;
use super::{Data, File};
use crate::object::{Ino, Object};

impl Data {
    /// Asks for all of a small file, which nobody has opened yet. Nothing happens for a large one, where
    /// some of it is here, where the kernel may have it, and where there is no room.
    pub fn fetch_ahead(self: &Arc<Self>, ino: Ino, object: &Arc<Object>) {
        let range = 0..object.version.size;
        if range.is_empty() || range.end > SMALL_BYTES_MAX {
            return;
        }
        let file = self.file(ino, object);
        if file.opened.load(Ordering::Relaxed) || self.index.lock().has_any(ino) {
            return;
        }
        let Some(permit) = self.reserve_ahead(chunk_bytes(&range)) else { return };
        let (part, download) = Part::new(range, true, permit);
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
