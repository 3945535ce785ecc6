//! Mapped files that are loaded come into the page cache ahead of the faults.
//!
//! Every fault of a mapping is a small request, and who touches the pieces of a file in another order than
//! theirs waits for each. So where a file that somebody has mapped is read in large pieces
//! (`data/loading.rs`), all of it is brought in order, and given to the page cache.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{FileSystem, Handle, Notices};
use crate::data::{Brought, File};

/// How soon it is seen that somebody reads on.
const PAUSE: Duration = Duration::from_millis(20);

/// After so many pauses in a row nobody reads any more; the next reads begin it anew.
const PAUSES_MAX: usize = 250;

impl FileSystem {
    /// Whether the file of this handle is read as one that is loaded, so that it is worth looking
    /// whether somebody has mapped it.
    pub fn may_be_loaded(&self, handle: Handle) -> bool {
        self.files
            .get(handle)
            .is_ok_and(|open| open.buffered && self.data.may_be_loaded(&open.file))
    }

    /// Brings the file of this handle, which somebody has mapped, into the page cache, for as long as
    /// it is open and read.
    pub async fn load(&self, handle: Handle) {
        let Ok(open) = self.files.get(handle) else { return };
        let file = Arc::clone(&open.file);
        drop(open);
        if !self.data.begin_loading(&file) {
            return;
        }
        tracing::debug!(
            "{:?} is mapped and read in large pieces: all of it is loaded",
            file.object.key
        );
        let (mut parts, mut n_pauses) = (JoinSet::new(), 0);
        while self.files.get(handle).is_ok() && n_pauses < PAUSES_MAX {
            loop {
                let more = self.data.bring(&file);
                if more.is_empty() {
                    break;
                }
                for part in more {
                    parts.spawn(give(self.notices.clone(), Arc::clone(&file), part));
                }
            }
            let given = match parts.try_join_next() {
                None if !parts.is_empty() => {
                    self.data.loading_waits(&file);
                    parts.join_next().await
                }
                given => given,
            };
            match given {
                Some(Ok(true)) => n_pauses = 0,
                Some(_) => break,
                None if self.data.is_loaded(&file) => break,
                None => {
                    n_pauses += 1;
                    sleep(PAUSE).await;
                }
            }
        }
        self.data.end_loading(&file);
    }
}

/// Gives a part to the page cache as soon as it has come, whatever is before it: the memory is free again.
/// False where no more is to be brought.
async fn give(notices: Notices, file: Arc<File>, mut part: Brought) -> bool {
    let Ok((offset, bytes)) = part.bytes().await else { return false };
    let took = notices.store(file.ino, offset, bytes).await;
    if took {
        part.given();
    }
    took
}
