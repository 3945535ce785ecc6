//! What the log was told already, so that it hears it once, or once a minute.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The things that are said rarely.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Topic {
    /// An object that a directory of its name hides.
    Shadowed,
    /// Names that cannot be shown.
    Hidden,
    /// A directory whose LIST is denied.
    ListDenied,
    /// Names that are shown as directories because nothing may be asked about them.
    Guessed,
    /// Old answers go on, since S3 is not reachable.
    Outage,
}

/// What was said, and when.
pub(super) struct Said {
    when: Mutex<LruCache<(Topic, String), Instant>>,
}

impl Said {
    /// Full: the thing said longest ago may be said again.
    const THINGS_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
    const MINUTE: Duration = Duration::from_secs(60);

    pub(super) fn new() -> Self {
        Self { when: Mutex::new(LruCache::new(Self::THINGS_MAX)) }
    }

    /// Whether this is the first time.
    pub(super) fn is_new(&self, topic: Topic, about: &str) -> bool {
        self.when.lock().put((topic, about.to_owned()), Instant::now()).is_none()
    }

    /// Whether a minute has passed since the last time that this was true.
    pub(super) fn is_due(&self, topic: Topic) -> bool {
        let (key, now) = ((topic, String::new()), Instant::now());
        let mut when = self.when.lock();
        let due = when.get(&key).is_none_or(|last| now.duration_since(*last) >= Self::MINUTE);
        if due {
            when.put(key, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn once_is_once_and_due_is_every_minute() {
        let said = Said::new();
        assert!(said.is_new(Topic::Shadowed, "a"));
        assert!(!said.is_new(Topic::Shadowed, "a"));
        assert!(said.is_new(Topic::Shadowed, "b"));
        assert!(said.is_due(Topic::Outage));
        assert!(!said.is_due(Topic::Outage));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(said.is_due(Topic::Outage));
    }
}
