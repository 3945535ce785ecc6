//! Who walks through a tree: recognized by the second of several sibling directories that had to be
//! asked for.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::sweep::{Credit, Sweep};
use crate::object::DirPath;

/// The walks that go on, each by the directory whose subdirectories were opened.
pub(super) struct Walks {
    walks: Mutex<LruCache<DirPath, Walk>>,
}

struct Walk {
    /// When a directory in it was last asked for.
    seen: Instant,
    /// The subdirectory that was asked for last.
    child: Box<str>,
    n_children: usize,
    /// Names below the subdirectories, as far as they were seen.
    n_names: usize,
    credit: Arc<Credit>,
    sweep: Option<Arc<Sweep>>,
}

/// What a walk has shown when it is recognized.
pub(super) struct Recognized {
    pub(super) credit: Arc<Credit>,
    /// Subdirectories before this one, and names below them.
    pub(super) n_children: usize,
    pub(super) n_names: usize,
}

/// Beyond, the one used longest ago is forgotten.
const WALKS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Siblings that are opened in any order are a walk when so much time lies between them at most.
const PAUSE: Duration = Duration::from_secs(10);

/// As [`PAUSE`], for one that is the next of the other: files may be read in between.
const LONG_PAUSE: Duration = Duration::from_secs(300);

impl Walks {
    pub(super) fn new() -> Self {
        Self { walks: Mutex::new(LruCache::new(WALKS_MAX)) }
    }

    /// The sweep that is to tell of the directory `path`: that of the nearest directory above it.
    pub(super) fn sweep(&self, path: &DirPath, root: &DirPath, now: Instant) -> Option<Arc<Sweep>> {
        let mut walks = self.walks.lock();
        let mut above = path.clone();
        while above != *root && !above.as_str().is_empty() {
            above = above.parent();
            let Some(walk) = walks.get_mut(&above) else { continue };
            let is_old = now.saturating_duration_since(walk.seen) > LONG_PAUSE;
            walk.sweep.take_if(|sweep| is_old || sweep.has_ended());
            if let Some(sweep) = &walk.sweep {
                walk.seen = now;
                return Some(Arc::clone(sweep));
            }
        }
        None
    }

    /// Notes that the directory `path` has to be asked for. Gives what is known of the walk where that is
    /// one: where another directory beside it was asked for before. `follows` says whether it is the
    /// next one of a sibling.
    pub(super) fn note(
        &self,
        path: &DirPath,
        root: &DirPath,
        now: Instant,
        follows: impl FnOnce(&str) -> bool,
    ) -> Option<Recognized> {
        let parent = path.parent();
        let child = &path.as_str()[parent.as_str().len()..];
        let mut walks = self.walks.lock();
        Self::each_above(&mut walks, &parent, root, |walk| walk.credit.walk(now));
        let new = || Walk {
            seen: now,
            child: child.into(),
            n_children: 0,
            n_names: 0,
            credit: Credit::new(now),
            sweep: None,
        };
        let walk = walks.get_or_insert_mut(parent, new);
        let pause = now.saturating_duration_since(walk.seen);
        if pause > LONG_PAUSE {
            *walk = new();
        }
        let is_walk = *walk.child != *child && (pause <= PAUSE || follows(&walk.child));
        walk.seen = now;
        walk.child = child.into();
        walk.credit.walk(now);
        walk.n_children += 1;
        let recognized = Recognized {
            credit: Arc::clone(&walk.credit),
            n_children: walk.n_children - 1,
            n_names: walk.n_names,
        };
        is_walk.then_some(recognized)
    }

    /// Notes the names that were told of directory `path`, for those who walk above it.
    pub(super) fn count(&self, path: &DirPath, root: &DirPath, n_names: usize) {
        if path != root {
            let mut walks = self.walks.lock();
            Self::each_above(&mut walks, path, root, |walk| walk.n_names += n_names);
        }
    }

    /// A page that tells of what is in directory `path` was used, for those who walk above it.
    pub(super) fn use_above(&self, path: &DirPath, root: &DirPath, now: Instant) {
        Self::each_above(&mut self.walks.lock(), path, root, |walk| walk.credit.walk(now));
    }

    /// From now on `sweep` tells of what is below its top.
    pub(super) fn begin(&self, sweep: &Arc<Sweep>) {
        if let Some(walk) = self.walks.lock().get_mut(&sweep.top) {
            walk.sweep = Some(Arc::clone(sweep));
        }
    }

    /// Ends all sweeps: there is no room for them.
    pub(super) fn stop(&self) {
        self.stop_where(|_| true);
    }

    /// Ends those that tell of the directory `path`, also as a name in the one above; with `recursive`
    /// also those of what is below it. Who walks there begins another one.
    pub(super) fn stop_at(&self, path: &DirPath, recursive: bool) {
        let path = path.as_str();
        self.stop_where(|top| {
            path.starts_with(top.as_str()) || recursive && top.as_str().starts_with(path)
        });
    }

    fn stop_where(&self, is_it: impl Fn(&DirPath) -> bool) {
        let mut walks = self.walks.lock();
        let those = walks.iter_mut().filter(|(top, _)| is_it(top));
        let stopped: Vec<_> = those.filter_map(|(_, walk)| walk.sweep.take()).collect();
        drop(walks);
        for sweep in stopped {
            sweep.fail();
            sweep.landed.notify_waiters();
        }
    }

    /// Each walk in a directory above `path`.
    fn each_above(
        walks: &mut LruCache<DirPath, Walk>,
        path: &DirPath,
        root: &DirPath,
        mut act: impl FnMut(&mut Walk),
    ) {
        let mut above = path.clone();
        while above != *root && !above.as_str().is_empty() {
            above = above.parent();
            if let Some(walk) = walks.peek_mut(&above) {
                act(walk);
            }
        }
    }
}
