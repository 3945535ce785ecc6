//! Who opens files one after the other, in which order, and which ones he will open next. Pure: decides,
//! asks nothing.
//!
//! A visit is recognized when each of several opens in a row is of a file that comes next, by name or by
//! inode number ([`VisitOrder`]). From then on the next files come ahead of it, whole: never more of
//! them than a fifth of what was opened in this way, in files and in bytes, so that a visit that
//! ends has cost no more than that for nothing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::object::{DirPath, Ino};
use crate::tree::{Listed, VisitOrder};

/// Side by side; the one that went on longest ago is forgotten.
const VISITS_MAX: usize = 16;

/// One part of what was opened in order may be ahead, in files and in bytes.
const AHEAD_SHARE: usize = 5;

/// What is ahead of one visit, whatever it has opened.
const FILES_AHEAD_MAX: usize = 64;
const BYTES_AHEAD_MAX: u64 = 16 << 20;

/// Files that are looked at beyond those ahead: how far a visit may jump. Several processes that share a
/// list open a little out of order.
const LOOK: usize = 8;

/// How far the second file of a visit may be from the first.
const LOOK_FIRST: usize = 2;

/// Files that were jumped over and may still come.
const PASSED_MAX: usize = 32;

/// What is ahead of a visit that does not go on for so long is let go.
const IDLE: Duration = Duration::from_secs(10);

/// All visits of a mount.
#[derive(Default)]
pub(super) struct Visits(Vec<Visit>);

/// A file that somebody opens.
pub(super) struct Opening<'a> {
    pub(super) ino: Ino,
    pub(super) bytes: u64,
    pub(super) dir: &'a DirPath,
    pub(super) name: &'a str,
    pub(super) now: Instant,
    /// How long what came ahead is believed when it is opened.
    pub(super) holds_for: Duration,
}

/// What is to be done.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) fetch: Vec<Listed>,
    /// Came ahead, and will not be opened.
    pub(super) drop: Vec<Ino>,
}

/// Somebody who opens one file after the other.
struct Visit {
    /// Each order that all of it was in; more than one only in the beginning.
    paths: Vec<Path>,
    n_files: usize,
    bytes: u64,
    seen: Instant,
    /// Between two opens.
    pace: Duration,
}

/// What is expected, in one order.
struct Path {
    order: VisitOrder,
    next: VecDeque<Next>,
    passed: VecDeque<Next>,
}

struct Next {
    ino: Ino,
    file: Listed,
    /// It was asked for.
    is_ahead: bool,
}

impl Visits {
    /// Somebody opens a file. `files_after` gives those behind one, as [`crate::tree::Tree::files_after`].
    pub(super) fn open(
        &mut self,
        opening: &Opening<'_>,
        files_after: impl Fn(&DirPath, &str, Ino, VisitOrder, usize) -> Vec<Listed>,
    ) -> Plan {
        let mut plan = Plan::default();
        let now = opening.now;
        for at in (0..self.0.len()).rev() {
            if now.saturating_duration_since(self.0[at].seen) > IDLE {
                self.0.remove(at).leave(&mut plan.drop);
            }
        }
        let mut visit = match self.0.iter().position(|visit| visit.expects(opening.ino)) {
            Some(at) => {
                let mut visit = self.0.remove(at);
                visit.go_on(opening, &mut plan.drop);
                visit
            }
            None => Visit::new(opening, &files_after),
        };
        visit.look_ahead(opening, &files_after, &mut plan.fetch);
        if visit.paths.iter().all(|path| path.next.is_empty() && path.passed.is_empty()) {
            return plan; // Nothing is known of what comes next.
        }
        self.0.insert(0, visit);
        if self.0.len() > VISITS_MAX
            && let Some(oldest) = self.0.pop()
        {
            oldest.leave(&mut plan.drop);
        }
        plan
    }
}

impl Visit {
    fn new(
        opening: &Opening<'_>,
        files_after: impl Fn(&DirPath, &str, Ino, VisitOrder, usize) -> Vec<Listed>,
    ) -> Self {
        let path = |order| {
            let files = files_after(opening.dir, opening.name, opening.ino, order, LOOK_FIRST);
            Path {
                order,
                next: files.into_iter().map(Next::new).collect(),
                passed: VecDeque::new(),
            }
        };
        Self {
            paths: [VisitOrder::Name, VisitOrder::Number].map(path).into(),
            n_files: 1,
            bytes: opening.bytes,
            seen: opening.now,
            pace: Duration::ZERO,
        }
    }

    fn expects(&self, ino: Ino) -> bool {
        self.paths.iter().any(|path| path.expects(ino))
    }

    /// The file that is opened was expected.
    fn go_on(&mut self, opening: &Opening<'_>, left: &mut Vec<Ino>) {
        self.paths.retain_mut(|path| path.go_on(opening.ino, left));
        self.n_files += 1;
        self.bytes += opening.bytes;
        let pause = opening.now.saturating_duration_since(self.seen);
        self.pace = if self.n_files == 2 { pause } else { (self.pace * 3 + pause) / 4 };
        self.seen = opening.now;
    }

    /// Finds out what comes next, as far as that is worth it, and what of it is to be asked for.
    fn look_ahead(
        &mut self,
        opening: &Opening<'_>,
        files_after: impl Fn(&DirPath, &str, Ino, VisitOrder, usize) -> Vec<Listed>,
        fetch: &mut Vec<Listed>,
    ) {
        // Half of the time that it is believed is left for the answer to come, and for a pause.
        let n_soon = (opening.holds_for / 2).as_nanos() / self.pace.as_nanos().max(1);
        let n_soon = usize::try_from(n_soon).unwrap_or(usize::MAX);
        let n_max = (self.n_files / AHEAD_SHARE).min(n_soon).min(FILES_AHEAD_MAX);
        let bytes_max = (self.bytes / AHEAD_SHARE as u64).min(BYTES_AHEAD_MAX);
        let is_known = self.paths.len() == 1 || self.n_files > AHEAD_SHARE;
        if self.n_files == 1 {
            return;
        }
        for path in &mut self.paths {
            path.look(opening, n_max + LOOK, &files_after);
        }
        let Some(path) = self.paths.first_mut().filter(|_| is_known) else { return };
        let is_ahead = |next: &&Next| next.is_ahead;
        let mut n_ahead = path.next.iter().filter(is_ahead).count();
        let mut bytes: u64 = path.next.iter().filter(is_ahead).map(|next| next.file.size()).sum();
        for next in path.next.iter_mut().filter(|next| !next.is_ahead) {
            bytes += next.file.size();
            n_ahead += 1;
            if n_ahead > n_max || bytes > bytes_max {
                break;
            }
            next.is_ahead = true;
            fetch.push(next.file.clone());
        }
    }

    fn leave(self, left: &mut Vec<Ino>) {
        for path in self.paths {
            let ahead = path.next.iter().chain(&path.passed).filter(|next| next.is_ahead);
            left.extend(ahead.map(|next| next.ino));
        }
    }
}

impl Path {
    fn expects(&self, ino: Ino) -> bool {
        let is_it = |next: &Next| next.ino == ino;
        self.next.iter().take(LOOK).any(is_it) || self.passed.iter().any(is_it)
    }

    /// False where that file was not expected.
    fn go_on(&mut self, ino: Ino, left: &mut Vec<Ino>) -> bool {
        if let Some(at) = self.passed.iter().position(|next| next.ino == ino) {
            self.passed.remove(at);
            return true;
        }
        let Some(at) = self.next.iter().take(LOOK).position(|next| next.ino == ino) else {
            return false;
        };
        self.passed.extend(self.next.drain(..at));
        self.next.pop_front();
        while self.passed.len() > PASSED_MAX {
            left.extend(self.passed.pop_front().filter(|next| next.is_ahead).map(|next| next.ino));
        }
        true
    }

    /// Makes sure that `n_files` are known, as far as there are so many.
    fn look(
        &mut self,
        opening: &Opening<'_>,
        n_files: usize,
        files_after: impl Fn(&DirPath, &str, Ino, VisitOrder, usize) -> Vec<Listed>,
    ) {
        let Some(n_more) = n_files.checked_sub(self.next.len()).filter(|n_more| *n_more > 0) else {
            return;
        };
        let files = match self.next.back() {
            Some(Next { file, ino, .. }) => {
                files_after(file.dir(), file.name(), *ino, self.order, n_more)
            }
            None => files_after(opening.dir, opening.name, opening.ino, self.order, n_more),
        };
        self.next.extend(files.into_iter().map(Next::new));
    }
}

impl Next {
    fn new(file: Listed) -> Self {
        Self { ino: file.first_number(), file, is_ahead: false }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tree::Block;

    const HOLDS: Duration = Duration::from_secs(1);

    /// One directory of files of one byte each.
    struct World {
        dir: DirPath,
        files: Vec<Listed>,
        visits: Visits,
        now: Instant,
        fetched: BTreeSet<String>,
        dropped: usize,
    }

    impl World {
        fn new(n_files: usize) -> Self {
            let names: Vec<String> = (0..n_files).map(|number| format!("{number:04}")).collect();
            let block = Block::of_names("d/", &names);
            let file = |index| Listed::from_parts(&block, u16::try_from(index).expect("few"));
            Self {
                dir: DirPath::new("d/"),
                files: (0..n_files).map(file).collect(),
                visits: Visits::default(),
                now: Instant::now(),
                fetched: BTreeSet::new(),
                dropped: 0,
            }
        }

        fn by_number(&self) -> Vec<usize> {
            let mut all: Vec<usize> = (0..self.files.len()).collect();
            all.sort_by_key(|index| self.files[*index].first_number());
            all
        }

        /// Opens the file after a pause. Gives how many were asked for upon it.
        fn open(&mut self, index: usize, pause: Duration) -> usize {
            self.now += pause;
            let file = self.files[index].clone();
            let (ino, name) = (file.first_number(), file.name());
            let (dir, now) = (&self.dir, self.now);
            let opening = Opening { ino, bytes: 1, dir, name, now, holds_for: HOLDS };
            let files = &self.files;
            let after = |_: &DirPath, name: &str, ino: Ino, order, n_max| {
                let mut rest: Vec<Listed> = match order {
                    VisitOrder::Name => {
                        files.iter().filter(|file| file.name() > name).cloned().collect()
                    }
                    VisitOrder::Number => {
                        let behind = |file: &&Listed| file.first_number() > ino;
                        files.iter().filter(behind).cloned().collect()
                    }
                };
                if order == VisitOrder::Number {
                    rest.sort_by_key(Listed::first_number);
                }
                rest.truncate(n_max);
                rest
            };
            let plan = self.visits.open(&opening, after);
            for file in &plan.fetch {
                assert!(
                    self.fetched.insert(file.name().to_owned()),
                    "{file:?} was asked for twice"
                );
            }
            self.dropped += plan.drop.len();
            plan.fetch.len()
        }
    }

    const SOON: Duration = Duration::from_millis(1);

    #[test]
    fn what_comes_ahead_is_a_fifth_of_what_was_opened_in_order() {
        for by_number in [false, true] {
            let mut world = World::new(400);
            let order = if by_number { world.by_number() } else { (0..400).collect() };
            for (at, index) in order.into_iter().enumerate() {
                world.open(index, SOON);
                let opened = at + 1;
                let n_ahead = world.fetched.len().saturating_sub(opened);
                assert!(
                    n_ahead <= (opened / AHEAD_SHARE).min(FILES_AHEAD_MAX),
                    "{n_ahead} at {at}"
                );
            }
            assert!(world.fetched.len() > 380, "{}", world.fetched.len());
        }
    }

    #[test]
    fn processes_that_share_a_list_are_one_visit() {
        let mut world = World::new(1000);
        // Eight at a time, in any order among them.
        for eight in 0..125 {
            for at in [3, 0, 1, 6, 2, 5, 4, 7] {
                world.open(eight * 8 + at, SOON);
            }
        }
        assert!(world.fetched.len() > 950, "{}", world.fetched.len());
        assert_eq!(world.dropped, 0);
    }

    #[test]
    fn visits_side_by_side_each_have_their_own() {
        let mut world = World::new(1000);
        for step in 0..100 {
            for begin in [0, 200, 400, 600, 800] {
                world.open(begin + step, SOON);
            }
        }
        assert!(world.fetched.len() > 450, "{}", world.fetched.len());
    }

    #[test]
    fn a_slow_reader_has_nothing_grow_old() {
        let mut world = World::new(1000);
        let n_fetched: usize = (0..100).map(|index| world.open(index, HOLDS)).sum();
        assert_eq!(n_fetched, 0, "it would be asked again at its open");
        let mut world = World::new(1000);
        (0..100).for_each(|index| _ = world.open(index, HOLDS / 8));
        assert_eq!(world.fetched.len(), 95 + 4, "four are opened within half of the time");
    }

    #[test]
    fn opens_in_no_order_ask_for_nothing() {
        let mut world = World::new(997);
        let n_fetched: usize = (0..200).map(|step| world.open(step * 331 % 997, SOON)).sum();
        assert_eq!(n_fetched, 0);
        assert_eq!(world.visits.0.len(), VISITS_MAX);
    }

    #[test]
    fn what_was_ahead_of_one_who_left_is_let_go() {
        let mut world = World::new(500);
        (0..100).for_each(|index| _ = world.open(index, SOON));
        let n_ahead = world.fetched.len() - 95;
        assert!(n_ahead >= 15, "{n_ahead}");
        world.open(400, IDLE + SOON);
        assert_eq!(world.dropped, n_ahead);
    }
}
