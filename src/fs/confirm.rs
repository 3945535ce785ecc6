//! Whether the names say that a file is what it was, so that its open need not ask.

use super::FileSystem;
use crate::data::File;

impl FileSystem {
    /// Whether a listing, or an answer about this very name, told lately that `file` is the current
    /// version; where many files of its directory are opened again, a page is asked for all of them.
    /// False says nothing: then the open asks by itself, which is conclusive.
    pub(super) async fn is_told_current(&self, file: &File) -> bool {
        let Some(ttl) = self.data.in_doubt(file) else { return false };
        match self.tree.confirm(&file.object, ttl).await {
            Some(sent) => file.confirm(sent),
            None => false,
        }
    }
}
