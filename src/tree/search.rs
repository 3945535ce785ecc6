//! Search paths: compilers and loaders look for a name in one directory after the other, and for the next
//! name again. What was looked into after a name was missing is remembered, and listed ahead when
//! the first of them has to be listed again. Decides and remembers; asks nothing itself.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use crate::object::DirPath;

/// The search paths that were seen.
pub(super) struct Searches {
    state: Mutex<State>,
}

struct State {
    /// The last name that was missing, and where.
    missed: Option<(DirPath, Box<str>)>,
    /// Where the same name was looked for next.
    next: LruCache<DirPath, DirPath>,
    /// What was listed ahead and not looked into since: not a second time.
    ahead: HashSet<DirPath>,
}

/// Side by side; more would keep others waiting.
const AHEAD_MAX: usize = 15;

/// Far more directories than search paths have; of others one is remembered as well, for nothing.
const DIRECTORIES_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

impl Searches {
    pub(super) fn new() -> Self {
        let next = LruCache::new(DIRECTORIES_MAX);
        Self { state: Mutex::new(State { missed: None, next, ahead: HashSet::new() }) }
    }

    /// `name` is looked for in `dir`.
    pub(super) fn look(&self, dir: &DirPath, name: &str) {
        let mut state = self.state.lock();
        state.ahead.remove(dir);
        let goes_on = |(before, missed): &(DirPath, Box<str>)| before != dir && **missed == *name;
        if let Some((before, _)) = state.missed.take_if(|missed| goes_on(missed)) {
            state.next.put(before, dir.clone());
        }
    }

    /// `name` is not in `dir`.
    pub(super) fn miss(&self, dir: &DirPath, name: &str) {
        self.state.lock().missed = Some((dir.clone(), name.into()));
    }

    /// Where a name that is missing in `dir` is likely looked for next, up to what is on its way.
    pub(super) fn after(&self, dir: &DirPath) -> Vec<DirPath> {
        let mut state = self.state.lock();
        let mut path: Vec<DirPath> = Vec::new();
        let mut here = dir.clone();
        while let Some(next) = state.next.get(&here).cloned()
            && path.len() < AHEAD_MAX
            && next != *dir
            && !path.contains(&next)
            && !state.ahead.contains(&next)
        {
            path.push(next.clone());
            here = next;
        }
        path
    }

    /// `dir` is listed ahead.
    pub(super) fn list_ahead(&self, dir: &DirPath) {
        let mut state = self.state.lock();
        if state.ahead.len() < DIRECTORIES_MAX.get() {
            state.ahead.insert(dir.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> DirPath {
        DirPath::new(&format!("{name}/"))
    }

    fn search(searches: &Searches, name: &str, dirs: &[&str]) {
        for each in dirs {
            searches.look(&dir(each), name);
            searches.miss(&dir(each), name);
        }
    }

    fn after(searches: &Searches, name: &str) -> Vec<String> {
        let after = searches.after(&dir(name));
        after.iter().map(|path| path.as_str().trim_end_matches('/').to_owned()).collect()
    }

    #[test]
    fn a_search_path_is_what_one_name_was_looked_for_in() {
        let searches = Searches::new();
        search(&searches, "x.h", &["a", "b", "c"]);
        search(&searches, "y.h", &["d"]);
        search(&searches, "y.h", &["d"]);
        assert_eq!(after(&searches, "a"), ["b", "c"]);
        assert_eq!(after(&searches, "c"), [""; 0], "another name begins anew");
        search(&searches, "z.h", &["c", "a"]);
        assert_eq!(after(&searches, "a"), ["b", "c"], "once around");
    }

    #[test]
    fn what_was_listed_ahead_for_nothing_is_not_listed_again() {
        let searches = Searches::new();
        search(&searches, "x.h", &["a", "b", "c"]);
        for each in ["b", "c"] {
            searches.list_ahead(&dir(each));
        }
        searches.look(&dir("b"), "y.h");
        assert_eq!(after(&searches, "a"), ["b"]);
        searches.look(&dir("c"), "y.h");
        assert_eq!(after(&searches, "a"), ["b", "c"]);
    }

    #[test]
    fn a_long_search_path_comes_in_parts() {
        let searches = Searches::new();
        let names: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        let dirs: Vec<&str> = names.iter().map(String::as_str).collect();
        search(&searches, "x.h", &dirs);
        assert_eq!(after(&searches, "0"), dirs[1..=AHEAD_MAX]);
    }
}
