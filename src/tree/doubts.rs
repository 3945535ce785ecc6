//! Files that are opened again some time after their content was known to be current: in which directories
//! that happens to one after the other, and whether a page that tells of all of them is worth its
//! request. Decides and remembers; asks nothing itself.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::Ttl;
use crate::object::DirPath;

/// Where files are opened again.
pub(super) struct Doubts {
    directories: Mutex<LruCache<DirPath, Doubt>>,
}

struct Doubt {
    /// The file that was opened last, and when.
    name: Box<str>,
    at: Instant,
    credit: u32,
}

/// What pages may cost, in parts of one. A page answers as one request what else one request for each
/// file would, but it is 250 KB where such a request is 500 bytes.
/// Invariant: in a directory where `n` opens were in doubt, and `m` of them were answered without a
/// request, at most `1 + m / 4 + n / 64` pages were asked for.
const PAGE: u32 = 64;

/// Four files must have been answered by a page for the next one.
const SPARED: u32 = PAGE / 4;

/// Where pages do not pay, as for a few files among millions, one is tried again from time to time.
const ALONE: u32 = 1;

/// What is earned beyond is lost: what was opened long ago says little of now.
const CREDIT_MAX: u32 = 4 * PAGE;

/// Far more directories than files are read in at one time; of others the first open asks alone, once more.
const DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

impl Doubts {
    pub(super) fn new() -> Self {
        Self { directories: Mutex::new(LruCache::new(DIRECTORIES_MAX)) }
    }

    /// The open of `name` in `dir` was in doubt, and what is known has answered it.
    pub(super) fn spare(&self, dir: &DirPath, name: &str, now: Instant) {
        let mut directories = self.directories.lock();
        let doubt = directories.get_or_insert_mut(dir.clone(), || Doubt::new(name, now));
        doubt.earn(SPARED);
        doubt.note(name, now);
    }

    /// The open of `name` in `dir` is in doubt: whether a page is worth its request. It is where another file
    /// was opened there so short a time ago that what told of that one would still count.
    pub(super) fn is_worth_a_page(
        &self,
        dir: &DirPath,
        name: &str,
        ttl: Ttl,
        now: Instant,
    ) -> bool {
        let mut directories = self.directories.lock();
        let Some(doubt) = directories.get_mut(dir) else {
            directories.put(dir.clone(), Doubt::new(name, now));
            return false;
        };
        let age = now.saturating_duration_since(doubt.at);
        let is_second = *doubt.name != *name && !ttl.left(age).is_zero();
        doubt.note(name, now);
        match doubt.credit.checked_sub(PAGE) {
            Some(rest) if is_second => {
                doubt.credit = rest;
                true
            }
            _ => {
                doubt.earn(ALONE);
                false
            }
        }
    }
}

impl Doubt {
    fn new(name: &str, now: Instant) -> Self {
        Self { name: name.into(), at: now, credit: PAGE }
    }

    fn note(&mut self, name: &str, now: Instant) {
        self.at = now;
        if *self.name != *name {
            self.name = name.into();
        }
    }

    fn earn(&mut self, credit: u32) {
        self.credit = (self.credit + credit).min(CREDIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TTL: Ttl = Ttl::For(Duration::from_secs(1));

    struct World {
        doubts: Doubts,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { doubts: Doubts::new(), start: Instant::now() }
        }

        fn asks(&self, dir: &str, name: &str, ms: u64) -> bool {
            let now = self.start + Duration::from_millis(ms);
            self.doubts.is_worth_a_page(&DirPath::new(dir), name, TTL, now)
        }

        fn spare(&self, dir: &str, n: usize, ms: u64) {
            let now = self.start + Duration::from_millis(ms);
            (0..n).for_each(|_| self.doubts.spare(&DirPath::new(dir), "x", now));
        }
    }

    #[test]
    fn the_second_file_within_the_time_is_worth_a_page() {
        let world = World::new();
        assert!(!world.asks("d/", "a", 0));
        assert!(!world.asks("e/", "b", 1), "another directory");
        assert!(!world.asks("d/", "a", 2), "the same file");
        assert!(world.asks("d/", "b", 1_001));
    }

    #[test]
    fn a_page_would_not_tell_of_the_next_file_where_they_are_opened_slowly() {
        let world = World::new();
        for second in 0..100 {
            assert!(!world.asks("d/", &second.to_string(), second * 1_000));
        }
    }

    #[test]
    fn four_files_pay_for_the_next_page() {
        let world = World::new();
        world.asks("d/", "a", 0);
        assert!(world.asks("d/", "b", 0));
        world.spare("d/", 3, 0);
        assert!(!world.asks("d/", "c", 0));
        world.spare("d/", 1, 0);
        assert!(world.asks("d/", "d", 0));
        world.spare("d/", 1_000, 0);
        let n_pages = (0..100).filter(|n| world.asks("d/", &n.to_string(), 0)).count();
        assert_eq!(n_pages, 5, "no more than a few are saved up");
    }

    #[test]
    fn pages_that_tell_of_nothing_else_are_seldom_asked_for() {
        let world = World::new();
        let n_pages = (0..1_000).filter(|n| world.asks("d/", &n.to_string(), *n)).count();
        assert_eq!(n_pages, 1 + 1_000 / 65);
    }
}
