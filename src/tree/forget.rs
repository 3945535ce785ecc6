//! Forgetting what is known, so that the next question about it asks S3.
//!
//! A directory that is forgotten leaves the tree's table, and who comes later gets a new one: requests
//! that are on their way, and handles that read on, stay with the old. A name that is forgotten alone
//! leaves a mark in its directory. Either way no answer counts whose request was sent before, also
//! where it arrives after, and also where a listing of a tree brings it: those that go by there end.
//!
//! Invariant: a question that is asked after [`Tree::forget`] has returned joins none that was asked
//! before (see [`Generation`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Tree;
use super::directory::Directory;
use crate::object::DirPath;

/// What was known, and is so no longer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Forgotten {
    pub n_directories: usize,
    /// Names in those directories, or the one that was forgotten alone.
    pub n_names: usize,
}

/// How often something had been forgotten when a directory was last told to forget: a part of what
/// makes a question the same as another.
pub(super) type Generation = u64;

/// What one directory was told to forget.
#[derive(Clone, Default, Debug)]
pub(super) struct Marks {
    /// Nothing counts that was asked before.
    since: Option<Instant>,
    /// Names of which nothing counts that was asked before. At most [`NAMES_MAX`].
    names: Vec<(Box<str>, Instant)>,
    generation: Generation,
}

/// Names with a mark of their own in one directory; beyond, all of it is forgotten.
const NAMES_MAX: usize = 256;

impl Marks {
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether an answer about `name` counts that was asked at `sent`.
    pub(super) fn allow(&self, name: &str, sent: Instant) -> bool {
        let mark = self.names.iter().find(|(marked, _)| &**marked == name);
        self.since.is_none_or(|since| since <= sent) && mark.is_none_or(|(_, at)| *at <= sent)
    }

    /// Whether `name` was forgotten alone.
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.names.iter().any(|(marked, _)| &**marked == name)
    }

    /// The names that were forgotten since a listing was asked for at `sent`, but for those of which
    /// something was `told` since; `None` where all were.
    pub(super) fn names_since(
        &self,
        sent: Instant,
        told: impl Fn(&str) -> Option<Instant>,
    ) -> Option<Vec<Box<str>>> {
        if self.since.is_some_and(|since| since > sent) {
            return None;
        }
        let is_old = |name: &str, at: Instant| {
            at > sent && told(name).is_none_or(|told_sent| at > told_sent)
        };
        let names = self.names.iter().filter(|(name, at)| is_old(name, *at));
        Some(names.map(|(name, _)| name.clone()).collect())
    }

    pub(super) fn mark(&mut self, name: &str, at: Instant, generation: Generation) {
        self.generation = generation;
        self.names.retain(|(marked, _)| &**marked != name);
        if self.names.len() < NAMES_MAX {
            self.names.push((name.into(), at));
        } else {
            self.mark_all(at, generation);
        }
    }

    pub(super) fn mark_all(&mut self, at: Instant, generation: Generation) {
        *self = Self { since: Some(at), names: Vec::new(), generation };
    }
}

/// What was forgotten lately: for directories that nobody knew then, and about which answers may be
/// on their way.
#[derive(Default)]
pub(super) struct Lately {
    things: Mutex<VecDeque<Thing>>,
    n_forgotten: AtomicU64,
}

struct Thing {
    /// As a directory: the name itself is this without its `/`.
    path: DirPath,
    recursive: bool,
    at: Instant,
}

impl Lately {
    /// No request takes as long.
    const IN_FLIGHT_MAX: Duration = Duration::from_secs(180);
    /// Beyond, everything counts as forgotten: that costs late answers, and is never wrong.
    const THINGS_MAX: usize = 256;

    /// The marks for a directory that was not known.
    pub(super) fn marks(&self, path: &DirPath) -> Marks {
        let mut marks =
            Marks { generation: self.n_forgotten.load(Ordering::Acquire), ..Marks::default() };
        let things = self.things.lock();
        for thing in things.iter().filter(|thing| thing.at.elapsed() < Self::IN_FLIGHT_MAX) {
            let below = thing.recursive && path.as_str().starts_with(thing.path.as_str());
            if below || *path == thing.path {
                marks.mark_all(thing.at, marks.generation);
            } else if let Some((parent, name)) = split(&thing.path)
                && *path == parent
            {
                marks.mark(name, thing.at, marks.generation);
            }
        }
        marks
    }

    fn note(&self, thing: Thing, root: &DirPath) -> Generation {
        let mut things = self.things.lock();
        while things.front().is_some_and(|old| old.at.elapsed() >= Self::IN_FLIGHT_MAX) {
            things.pop_front();
        }
        if things.len() == Self::THINGS_MAX {
            things.clear();
            things.push_back(Thing { path: root.clone(), recursive: true, at: thing.at });
        } else {
            things.push_back(thing);
        }
        self.n_forgotten.fetch_add(1, Ordering::AcqRel) + 1
    }
}

impl Tree {
    /// Forgets what is known of `path`: as a name in its directory, and as a directory the names in
    /// it; with `recursive` all that is below. Who reads a directory goes on with the listing that
    /// was begun. Asks nothing.
    pub fn forget(&self, path: &DirPath, recursive: bool) -> Forgotten {
        let at = Instant::now();
        let generation = self.lately.note(Thing { path: path.clone(), recursive, at }, &self.root);
        let gone = self.take_out(path, recursive);
        self.walks.stop_at(path, recursive);
        let mut forgotten = Forgotten { n_directories: gone.len(), n_names: 0 };
        for directory in &gone {
            forgotten.n_names += directory.forget_all(at, generation);
        }
        if *path != self.root
            && let Some((parent, name)) = split(path)
            && let Some(parent) = self.known_directory(&parent)
        {
            let was_known = parent.forget_name(name, at, generation);
            // A directory is counted as such.
            forgotten.n_names += usize::from(was_known && gone.is_empty());
        }
        forgotten
    }

    fn take_out(&self, path: &DirPath, recursive: bool) -> Vec<Arc<Directory>> {
        let mut directories = self.directories.lock();
        if !recursive {
            return directories.pop(path).into_iter().collect();
        }
        let known = directories.iter().map(|(known, _)| known);
        let below = known.filter(|known| known.as_str().starts_with(path.as_str()));
        let below: Vec<DirPath> = below.cloned().collect();
        below.iter().filter_map(|path| directories.pop(path)).collect()
    }
}

/// The directory that `path` is in, and its name there; `None` for the root of the bucket.
fn split(path: &DirPath) -> Option<(DirPath, &str)> {
    let whole = path.as_str().strip_suffix('/')?;
    let (parent, name) = whole.split_at(whole.rfind('/').map_or(0, |slash| slash + 1));
    Some((DirPath::new(parent), name))
}
