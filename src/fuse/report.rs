//! An error is logged where it is answered, once, with operation and key; the same denial once a
//! minute.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::{FsError, Loudness, StoreErrorKind};

/// One warning for a key and operation in this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Keys remembered for that; a denial of more keys than this within a minute is said again.
const KEYS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Writes errors to the log.
pub(super) struct Report {
    warned: Mutex<LruCache<(&'static str, String), Instant>>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { warned: Mutex::new(LruCache::new(KEYS_MAX)) }
    }

    /// Notes that `operation` on `key` was answered with `err`. Returns the errno.
    pub(super) fn error(&self, operation: &'static str, key: &str, err: &FsError) -> i32 {
        let (errno, loudness) = err.verdict();
        // Credentials and memory are everybody's: whoever hears that they are gone hears it of all keys.
        let is_due = || match err {
            _ if is_of_credentials(err) => self.is_due("credentials", ""),
            FsError::NoMemory => self.is_due("memory", ""),
            _ => self.is_due(operation, key),
        };
        let key = key.escape_debug();
        match loudness {
            Loudness::Silent => {}
            Loudness::Debug => tracing::debug!("{operation} {key}: {err}"),
            Loudness::Info => tracing::info!("{operation} {key}: {err}"),
            Loudness::Warn if is_due() => {
                tracing::warn!("{operation} {key}: {err}{}", advice(err));
            }
            Loudness::Warn => tracing::debug!("{operation} {key}: {err}"),
        }
        errno
    }

    fn is_due(&self, operation: &'static str, key: &str) -> bool {
        let now = Instant::now();
        let mut warned = self.warned.lock();
        let entry = (operation, key.to_owned());
        let due = warned.get(&entry).is_none_or(|last| now - *last >= WARNING_INTERVAL);
        if due {
            warned.put(entry, now);
        }
        due
    }
}

/// What is to be done about it, where the error does not say so itself.
fn advice(err: &FsError) -> &'static str {
    if is_of_credentials(err) {
        "; new ones in a file, from a login or for a role are taken up by themselves, those in the \
         environment need a new mount"
    } else {
        ""
    }
}

fn is_of_credentials(err: &FsError) -> bool {
    use StoreErrorKind::{BadCredentials, NoCredentials};
    matches!(err, FsError::Store(err) if matches!(err.kind(), BadCredentials | NoCredentials))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_warning_comes_once_a_minute() {
        let report = Report::new();
        assert!(report.is_due("read", "a"));
        assert!(!report.is_due("read", "a"));
        assert!(report.is_due("read", "b"));
        tokio::time::advance(WARNING_INTERVAL).await;
        assert!(report.is_due("read", "a"));
    }
}
