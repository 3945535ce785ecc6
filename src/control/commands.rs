//! What a mount does for a client.

use std::sync::Weak;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::protocol::{Refusal, RefusalKind, Request};
use crate::fs::FileSystem;
use crate::tree::Forgotten;

/// What the commands need of the mount.
pub(crate) struct Commands {
    /// Weak: the session alone keeps it.
    fs: Weak<FileSystem>,
    /// `s3://bucket/prefix`, for people.
    source: String,
    began: Instant,
}

impl Commands {
    pub(crate) fn new(fs: Weak<FileSystem>, source: &str) -> Self {
        Self { fs, source: source.to_owned(), began: Instant::now() }
    }

    pub(super) async fn run(&self, request: Request) -> Result<Value, Refusal> {
        let Some(fs) = self.fs.upgrade() else {
            let message = "the mount is ending".to_owned();
            return Err(Refusal { kind: RefusalKind::Ended, message });
        };
        match request {
            Request::Refresh { path, recursive } => {
                let Forgotten { n_directories, n_names } = fs.refresh(&path, recursive).await;
                let slash = if path.is_empty() { "" } else { "/" };
                let source = format!("{}{slash}{path}", self.source);
                tracing::info!("{source} is asked for anew");
                Ok(json!({ "source": source, "directories": n_directories, "names": n_names }))
            }
            Request::State => Ok(json!({ "seconds": self.began.elapsed().as_secs() })),
        }
    }
}
