//! One listing by several requests side by side: which key ranges to ask for, and in which order their
//! pages are taken. Pure: decides, asks nothing, holds pages without looking into them.
//!
//! A listing begins as one range, whose pages are asked for one after another. Once it is long, ranges
//! are split at names that probably lie in their middle, and the last one, whose end nobody knows, at
//! names twice as far as anything seen. A split is a LIST from the middle on, so it is a page like any
//! other, unless there is nothing where it was sent: so many may be wasted, and no more.
//!
//! Names here are without the prefix that is listed; a common prefix has its `/`.

use std::collections::VecDeque;

use super::spread::{Alphabet, Spread};

/// Side by side; beyond, S3 gives no more and answers to others wait.
pub(super) const ASKED_MAX: usize = 16;

/// A listing is long when it has so many pages and goes on: shorter ones are done sooner than the
/// first split is answered.
const PAGES_BEFORE_SPLIT: usize = 4;

/// Of the pages so far, what may be lost on splits, on their way or wasted: one in so many.
const WASTE_SHARE: usize = 4;

/// A range with fewer pages than this to come is not split: the seam alone costs half a page.
const PAGES_TO_SPLIT: u128 = 3;

/// Ranges that one who jumps about may leave unfinished.
const RANGES_MAX: usize = 256;

/// A listing by ranges. `P` is a page, as it is to be kept until those before it have come.
pub(super) struct Ranges<P> {
    /// In order; each begins where the one before ends. The first one's pages are taken at once.
    ranges: VecDeque<Range<P>>,
    /// Where it all begins; empty for the whole listing.
    after: Box<str>,
    alphabet: Alphabet,
    first_name: Option<Box<str>>,
    next_id: u64,
    /// Of the range that the listing began as.
    first_id: u64,
    n_pages: usize,
    /// Names that came twice or not at all, in names; an empty page counts as a full one.
    n_names_wasted: usize,
    /// The server does not do what ranges need: one page after another.
    single: bool,
    /// A request failed that was not for the next page: none of its kind before one of those succeeds.
    held_back: bool,
    /// Names on a full page.
    page_names: usize,
    /// Side by side, at most.
    asked_max: usize,
    /// How many pages a range is split off ahead of where one stands, at most.
    reach_pages: u128,
}

/// Names after `after` (of the last page, or where it was split), up to `until`.
struct Range<P> {
    id: u64,
    /// Where it was split, or the empty name.
    began: Box<str>,
    after: Box<str>,
    token: Option<String>,
    /// The last name that is its own; `None`: to the end of the listing.
    until: Option<Box<str>>,
    asked: bool,
    done: bool,
    /// The first name that came.
    first: Option<Box<str>>,
    /// The first name that came and lies behind `until`: the next range's first.
    behind: Option<Box<str>>,
    n_names: usize,
    n_pages: usize,
    /// Its first name, as far as that is known.
    start: Box<str>,
    pages: VecDeque<P>,
}

/// A range that is worth splitting.
struct Long {
    /// An estimate of those to come.
    n_pages: u128,
    at: usize,
    /// Where it stands, and how far to go for twice as far as its next seam, as [`Spread::value`] has it.
    here: u128,
    ahead: u128,
}

/// How far a range has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Progress<'a> {
    pub(super) id: u64,
    /// The last name that came, or the one behind which it begins.
    pub(super) after: &'a str,
    pub(super) asked: bool,
    pub(super) done: bool,
    pub(super) n_pages: usize,
}

/// One request of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ask {
    /// For [`Ranges::answer`].
    pub(super) id: u64,
    pub(super) place: Place,
}

/// Where a page begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Beginning,
    /// The name, without the prefix, that the page comes after.
    After(String),
    Token(String),
}

/// What a page has, before it is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// Names that are in the range, in order.
    pub(super) first: Option<&'a str>,
    pub(super) last: Option<&'a str>,
    pub(super) n_names: usize,
    /// Those that [`Ranges::until`] cut off: how many, and the first.
    pub(super) n_behind: usize,
    pub(super) behind: Option<&'a str>,
    /// The page's names came in the order of keys.
    pub(super) ascending: bool,
    pub(super) token: Option<&'a str>,
    /// More follows: by the token, else after the last name.
    pub(super) goes_on: bool,
}

/// Why the listing has to begin anew, one page after another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Disorder {
    /// The server lists in another order, or does not begin where it was told to.
    Server,
    /// Two ranges do not fit together: the server has an order of its own, or somebody wrote just there.
    Seam,
}

impl<P> Ranges<P> {
    #[cfg(test)]
    fn new(single: bool, page_names: usize) -> Self {
        Self::after("", single, page_names)
    }

    /// Of the names behind `after`. `single` asks for one page after another.
    pub(super) fn after(after: &str, single: bool, page_names: usize) -> Self {
        let mut ranges = Self {
            after: after.into(),
            ranges: VecDeque::new(),
            alphabet: Alphabet::default(),
            first_name: None,
            next_id: 0,
            first_id: 0,
            n_pages: 0,
            n_names_wasted: 0,
            single,
            held_back: false,
            page_names,
            asked_max: ASKED_MAX,
            reach_pages: u128::MAX,
        };
        drop(ranges.restart());
        ranges
    }

    /// A listing of which somebody may not want all: it begins behind `after` (the empty name is the
    /// beginning), with a range behind each of `seams` beside the first, and is split no more than
    /// `reach_pages` ahead.
    pub(super) fn near(after: &str, seams: &[String], reach_pages: u32, page_names: usize) -> Self {
        let mut ranges = Self::after(after, false, page_names);
        ranges.reach_pages = reach_pages.into();
        let mut starts = vec![after];
        starts.extend(seams.iter().map(String::as_str).filter(|seam| *seam > after));
        starts.dedup();
        let untils = starts.iter().skip(1).copied().map(Some).chain([None]);
        let of = |(start, until): (&&str, Option<&str>)| {
            ranges.next_id += 1;
            Range::new(ranges.next_id, start, until.map(Into::into))
        };
        ranges.ranges = starts.iter().zip(untils).map(of).collect();
        ranges
    }

    /// No more than `n_max` requests side by side.
    pub(super) fn limit(&mut self, n_max: usize) {
        self.asked_max = n_max.min(ASKED_MAX);
    }

    /// Each range that is still there: its number, and the name behind which it began.
    pub(super) fn each(&self) -> impl Iterator<Item = (u64, &str)> {
        self.ranges.iter().map(|range| (range.id, &*range.began))
    }

    /// Whether the range has come to its end.
    pub(super) fn is_done(&self, id: u64) -> bool {
        self.ranges.iter().find(|range| range.id == id).is_none_or(|range| range.done)
    }

    /// How far the range has come in which `name` lies. `None` where all ranges have an end before it.
    pub(super) fn progress(&self, name: &str) -> Option<Progress<'_>> {
        let reaches = |range: &&Range<P>| range.until.as_deref().is_none_or(|until| name <= until);
        let range = self.ranges.iter().find(reaches)?;
        let Range { id, after, asked, done, n_pages, .. } = range;
        Some(Progress { id: *id, after, asked: *asked, done: *done, n_pages: *n_pages })
    }

    /// Goes on behind `after`, beside what is on its way: for somebody who waits for what follows it.
    pub(super) fn go_on_at(&mut self, after: &str) -> Option<Ask> {
        let inside = |range: &Range<P>| {
            *range.after <= *after && range.until.as_deref().is_none_or(|until| after < until)
        };
        let at = self.ranges.iter().position(|range| !range.done && inside(range))?;
        let range = &mut self.ranges[at];
        if !range.asked && *range.after == *after {
            return Some(range.ask());
        }
        (self.ranges.len() < RANGES_MAX).then(|| self.split_at(at, after))
    }

    /// From the beginning, and without ranges from now on. Gives back what has come and was not taken.
    pub(super) fn begin_anew(&mut self) -> Vec<P> {
        self.single = true;
        let before = self.restart();
        before.into_iter().flat_map(|range| range.pages).collect()
    }

    /// Without ranges from now on; to be called while there is only one.
    pub(super) fn go_on_singly(&mut self) {
        self.single = true;
    }

    /// The next request that is worth sending now; `may_go_ahead` allows more than the one page that
    /// is to be taken next.
    pub(super) fn ask(&mut self, may_go_ahead: bool) -> Option<Ask> {
        let front = self.ranges.front_mut()?;
        if !front.asked && !front.done {
            return Some(front.ask());
        }
        let n_asked = self.ranges.iter().filter(|range| range.asked).count();
        if !may_go_ahead || self.single || self.held_back || n_asked >= self.asked_max {
            return None;
        }
        if let Some(range) = self.ranges.iter_mut().find(|range| !range.asked && !range.done) {
            return Some(range.ask());
        }
        self.split()
    }

    /// Where the range of a request ends: what a page has behind this belongs to the next.
    pub(super) fn until(&self, id: u64) -> Option<&str> {
        self.ranges.iter().find(|range| range.id == id)?.until.as_deref()
    }

    /// Takes a page, without what lies behind [`Ranges::until`]. False for one of a range that is no
    /// more: it is dropped.
    pub(super) fn answer(&mut self, id: u64, facts: Facts<'_>, page: P) -> Result<bool, Disorder> {
        let Some(at) = self.ranges.iter().position(|range| range.id == id) else {
            return Ok(false);
        };
        let was_split = self.next_id > self.first_id;
        let range = &mut self.ranges[at];
        let begins_late = facts.first.is_none_or(|first| *first > *range.after);
        // A name may be given twice, at the end of one page and the beginning of the next.
        let repeats = range.n_names > 0 && facts.first == Some(&range.after);
        // Where the server knows no beginning but the first, the page is one of those before, cut.
        let is_nowhere = range.token.is_none()
            && !range.after.is_empty()
            && facts.token.is_some()
            && facts.n_names + facts.n_behind == 0;
        if !self.single && (is_nowhere || !(facts.ascending && (begins_late || repeats))) {
            if was_split {
                return Err(Disorder::Server);
            }
            self.single = true;
        }
        let single = self.single;
        self.held_back &= at > 0;
        range.asked = false;
        range.token = facts.token.map(str::to_owned);
        range.done = !facts.goes_on || facts.n_behind > 0;
        range.n_names += facts.n_names;
        range.n_pages += 1;
        if let Some(last) = facts.last {
            range.after = last.into();
        }
        if range.first.is_none() {
            range.first = facts.first.or(facts.behind).map(Into::into);
            if let Some(first) = facts.first {
                range.start = first.into();
            }
        }
        range.behind = facts.behind.map(Into::into);
        range.pages.push_back(page);
        self.n_pages += 1;
        self.n_names_wasted += facts.n_behind;
        if facts.n_names == 0 {
            self.n_names_wasted += self.page_names.saturating_sub(facts.n_behind);
        }
        if !single {
            for name in [facts.first, facts.last].into_iter().flatten() {
                self.alphabet.add(name);
            }
            if let Some(first) = facts.first
                && self.first_name.as_deref().is_none_or(|before| first < before)
            {
                self.first_name = Some(first.into());
            }
        }
        let seams_fit = self.seam_fits(at) && at.checked_sub(1).is_none_or(|at| self.seam_fits(at));
        if seams_fit { Ok(true) } else { Err(Disorder::Seam) }
    }

    /// The request failed: its place is asked for again when it is needed.
    pub(super) fn fail(&mut self, id: u64) {
        if let Some(range) = self.ranges.iter_mut().find(|range| range.id == id) {
            range.asked = false;
            self.held_back = true;
        }
    }

    /// Whether the request's range is the one whose pages are taken next.
    pub(super) fn is_front(&self, id: u64) -> bool {
        self.ranges.front().is_some_and(|front| front.id == id)
    }

    /// The next page in order, and whether it is the last of all.
    pub(super) fn take(&mut self) -> Option<(P, bool)> {
        loop {
            let is_last_range = self.ranges.len() == 1;
            let front = self.ranges.front_mut()?;
            if let Some(page) = front.pages.pop_front() {
                let ends = front.done && front.pages.is_empty();
                return Some((page, ends && is_last_range));
            }
            if !front.done || is_last_range {
                return None;
            }
            self.ranges.pop_front();
        }
    }

    fn restart(&mut self) -> VecDeque<Range<P>> {
        let id = self.new_id();
        self.first_id = id;
        let first = Range::new(id, &self.after, None);
        std::mem::replace(&mut self.ranges, VecDeque::from([first]))
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// What the page behind a seam began with is what the page before it ended in, for any server that
    /// lists in one order. Should it be an object that has gone or come meanwhile, the listing begins
    /// anew for nothing.
    fn seam_fits(&self, at: usize) -> bool {
        let (Some(range), Some(next)) = (self.ranges.get(at), self.ranges.get(at + 1)) else {
            return true;
        };
        match (&range.behind, &next.first) {
            (Some(behind), Some(first)) => behind == first,
            (Some(_), None) => !next.done,
            (None, _) => true,
        }
    }

    /// Splits a range where that is worth a request.
    fn split(&mut self) -> Option<Ask> {
        if self.n_pages < PAGES_BEFORE_SPLIT {
            return None;
        }
        let n_tried =
            self.ranges.iter().filter(|range| range.asked && range.first.is_none()).count();
        let n_wasted = self.n_names_wasted / self.page_names + n_tried;
        if n_wasted >= (self.n_pages.saturating_sub(n_wasted) / WASTE_SHARE).max(1) {
            return None;
        }
        let (at, name) = self.middle()?;
        Some(self.split_at(at, &name))
    }

    fn split_at(&mut self, at: usize, name: &str) -> Ask {
        let id = self.new_id();
        let before = &mut self.ranges[at];
        let mut range = Range::new(id, name, before.until.replace(name.into()));
        let ask = range.ask();
        self.ranges.insert(at + 1, range);
        ask
    }

    /// The range to split and the name to split it at: the one with most pages to come, in its middle.
    /// Of one of which somebody may not want all, the first that is longer than its reach, at its end:
    /// also one of which nothing has come yet, as it is probably like the one before it.
    fn middle(&self) -> Option<(usize, String)> {
        let first_name = self.first_name.as_deref()?;
        let farthest = self.ranges.back().map(|range| &*range.after).filter(|it| !it.is_empty())?;
        let spread = Spread::new(&self.alphabet, first_name, farthest);
        let is_near = self.reach_pages != u128::MAX;
        let mut page_before = None;
        let mut long: Vec<Long> = Vec::new();
        for (at, range) in self.ranges.iter().enumerate() {
            let here = spread.value(&range.after);
            if range.first.is_some() {
                let behind = (here - spread.value(&range.start)).max(1);
                let n_names = range.n_names.max(1) as u128;
                page_before = Some((behind * self.page_names as u128 / n_names).max(1));
            } else if !is_near {
                continue;
            }
            let Some(page) = page_before.filter(|_| !range.done) else { continue };
            let end = match &range.until {
                Some(until) => spread.value(until),
                // Twice as far as anything that was seen.
                None => {
                    let reach = here.saturating_sub(spread.value(first_name)).max(1);
                    here.saturating_add(reach.saturating_mul(2)).min(spread.end())
                }
            };
            let ahead = end.saturating_sub(here);
            let n_pages = ahead / page;
            if n_pages > self.reach_pages {
                long.push(Long { n_pages, at, here, ahead: page * 2 * self.reach_pages });
            } else if n_pages >= PAGES_TO_SPLIT && !is_near {
                long.push(Long { n_pages, at, here, ahead });
            }
        }
        if !is_near {
            long.sort_unstable_by_key(|it| std::cmp::Reverse(it.n_pages));
        }
        long.into_iter().find_map(|Long { at, here, ahead, .. }| {
            let (range, value) = (&self.ranges[at], here + ahead / 2);
            let name = spread.name_near(value, ahead / 8, &range.after, range.until.as_deref())?;
            Some((at, name))
        })
    }
}

impl<P> Range<P> {
    fn new(id: u64, after: &str, until: Option<Box<str>>) -> Self {
        Self {
            id,
            began: after.into(),
            after: after.into(),
            token: None,
            until,
            asked: false,
            done: false,
            first: None,
            behind: None,
            n_names: 0,
            n_pages: 0,
            start: after.into(),
            pages: VecDeque::new(),
        }
    }

    fn ask(&mut self) -> Ask {
        self.asked = true;
        let place = match &self.token {
            Some(token) => Place::Token(token.clone()),
            None if self.after.is_empty() => Place::Beginning,
            None => Place::After(self.after.clone().into()),
        };
        Ask { id: self.id, place }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A server, and what became of the questions.
    struct Run {
        names: Vec<String>,
        n_requests: usize,
        /// Questions in a row of which none was the answer to another.
        n_rounds: usize,
        begun_anew: bool,
        /// Names at which a range was split.
        splits: Vec<String>,
        taken: Vec<String>,
    }

    /// Lists `names` by pages; answers of one round come in the order that `shuffle` gives.
    fn run(names: BTreeSet<String>, page_names: usize, shuffle: impl FnMut(usize) -> usize) -> Run {
        let run = run_in(str::to_owned, names, page_names, shuffle);
        assert!(!run.begun_anew, "nothing is wrong in S3's order");
        run
    }

    /// As [`run`], on a server that lists in the order of what `order` makes of names. A listing that has
    /// begun anew gives no name that it gave before.
    fn run_in(
        order: impl Fn(&str) -> String,
        names: BTreeSet<String>,
        page_names: usize,
        mut shuffle: impl FnMut(usize) -> usize,
    ) -> Run {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort_by_key(|name| order(name));
        let mut run = Run {
            names,
            n_requests: 0,
            n_rounds: 0,
            begun_anew: false,
            splits: Vec::new(),
            taken: Vec::new(),
        };
        let mut ranges: Ranges<Vec<String>> = Ranges::new(false, page_names);
        let mut asked: Vec<Ask> = Vec::new();
        // What was given when the listing began anew.
        let mut given: Option<BTreeSet<String>> = None;
        loop {
            asked.extend(std::iter::from_fn(|| ranges.ask(true)));
            assert!(asked.len() <= ASKED_MAX + usize::from(given.is_some()) && !asked.is_empty());
            run.n_rounds += 1;
            for _ in 0..asked.len() {
                let ask = asked.swap_remove(shuffle(asked.len()));
                run.n_requests += 1;
                let from = match &ask.place {
                    Place::Beginning => 0,
                    Place::After(name) => {
                        run.splits.push(name.clone());
                        let name = order(name);
                        run.names.partition_point(|each| order(each) <= name)
                    }
                    Place::Token(token) => token.parse().unwrap(),
                };
                let end = (from + page_names).min(run.names.len());
                let token = (end < run.names.len()).then(|| end.to_string());
                let mut page = run.names[from..end].to_vec();
                let ascending = page.is_sorted();
                page.sort();
                let until = ranges.until(ask.id).map(str::to_owned);
                let cut =
                    until.map_or(page.len(), |until| page.partition_point(|each| *each <= until));
                let (own, behind) = page.split_at(cut);
                let facts = Facts {
                    first: own.first().map(String::as_str),
                    last: own.last().map(String::as_str),
                    n_names: own.len(),
                    n_behind: behind.len(),
                    behind: behind.first().map(String::as_str),
                    ascending,
                    token: token.as_deref(),
                    goes_on: token.is_some(),
                };
                if ranges.answer(ask.id, facts, own.to_vec()).is_err() {
                    assert!(given.is_none(), "one page after another cannot fail");
                    given = Some(run.taken.iter().cloned().collect());
                    drop(ranges.begin_anew());
                    run.begun_anew = true;
                }
            }
            while let Some((mut page, is_last)) = ranges.take() {
                page.retain(|name| given.as_ref().is_none_or(|given| !given.contains(name)));
                run.taken.extend(page);
                if is_last {
                    assert!(ranges.ask(true).is_none());
                    return run;
                }
            }
        }
    }

    fn in_turn(_: usize) -> usize {
        0
    }

    #[track_caller]
    fn check(names: BTreeSet<String>, n_requests_max: usize, n_rounds_max: usize) {
        let n_pages = names.len().div_ceil(1000);
        let run = run(names, 1000, in_turn);
        assert!(run.taken == run.names);
        let facts =
            format!("{n_pages} pages, {} requests, {} rounds", run.n_requests, run.n_rounds);
        assert!(run.n_requests <= n_requests_max && run.n_rounds <= n_rounds_max, "{facts}");
    }

    fn hash(number: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes())
    }

    #[test]
    fn counters() {
        check((0..100_000).map(|n| format!("file-{n:06}.csv")).collect(), 130, 16);
        check((0..100_000).map(|n| format!("{n:09}")).collect(), 130, 16);
        check((0..100_000).map(|n| n.to_string()).collect(), 130, 16);
    }

    #[test]
    fn uuids() {
        let uuid = |n| {
            let (a, b) = (hash(n), hash(n + 1_000_000));
            format!("{:08x}-{:04x}-4{:03x}-{:016x}", a >> 32, a & 0xffff, (a >> 16) & 0xfff, b)
        };
        check((0..100_000).map(uuid).collect(), 130, 16);
        check((0..20_000).map(uuid).collect(), 28, 12);
    }

    #[test]
    fn dates() {
        let date = |n: u64| {
            let (day, hour, minute) = (n / 1440, n / 60 % 24, n % 60);
            format!("2026-{:02}-{:02}T{hour:02}:{minute:02}Z.log", day / 28 + 1, day % 28 + 1)
        };
        check((0..100_000).map(date).collect(), 130, 26);
    }

    #[test]
    fn words_and_prefixes() {
        let word = |n: u64| {
            let letters = b"etaoinshrdlucmfwypvbgkjqxz";
            let mut h = hash(n);
            let mut word = String::new();
            for _ in 0..9 {
                let a = (h % 26) as usize;
                h /= 26;
                let b = (h % 26) as usize;
                word.push(char::from(letters[a.min(b)]));
                h = hash(h);
            }
            if n.is_multiple_of(3) { word + "/" } else { word }
        };
        check((0..50_000).map(word).collect(), 70, 20);
    }

    #[test]
    fn few_names_cost_their_pages() {
        for n in [0, 1, 999, 1000, 1001, 2000, 3000] {
            let names: BTreeSet<String> = (0..n).map(|n| format!("{n:06}")).collect();
            let n_pages = names.len().div_ceil(1000).max(1);
            assert_eq!(run(names, 1000, in_turn).n_requests, n_pages, "{n}");
        }
    }

    #[test]
    fn a_server_that_begins_elsewhere_is_noticed() {
        let mut ranges: Ranges<()> = Ranges::new(false, 2);
        let page = |first, last, token| Facts {
            first: Some(first),
            last: Some(last),
            n_names: 2,
            n_behind: 0,
            behind: None,
            ascending: true,
            token,
            goes_on: token.is_some(),
        };
        for (first, last) in [("000", "001"), ("002", "003"), ("004", "005"), ("006", "007")] {
            let ask = ranges.ask(true).unwrap();
            ranges.answer(ask.id, page(first, last, Some("t")), ()).unwrap();
        }
        let asks: Vec<Ask> = std::iter::from_fn(|| ranges.ask(true)).collect();
        let split = asks.iter().find(|ask| matches!(ask.place, Place::After(_))).expect("a split");
        assert_eq!(
            ranges.answer(split.id, page("000", "001", Some("t")), ()),
            Err(Disorder::Server)
        );
        assert_eq!(ranges.begin_anew().len(), 4);
        assert_eq!(ranges.answer(split.id, page("008", "009", None), ()), Ok(false), "too late");
        assert_eq!(ranges.ask(true).map(|ask| ask.place), Some(Place::Beginning));
        assert_eq!(ranges.ask(true), None, "one after another");
    }

    #[test]
    fn a_seam_that_does_not_fit_is_noticed_whichever_side_comes_first() {
        for seam_first in [false, true] {
            let mut ranges: Ranges<()> = Ranges::new(false, 2);
            let page = |first, last, behind: bool, token| Facts {
                first: Some(first),
                last: Some(last),
                n_names: 2,
                n_behind: usize::from(behind),
                behind: behind.then_some("zz"),
                ascending: true,
                token,
                goes_on: token.is_some(),
            };
            for (first, last) in [("000", "001"), ("002", "003"), ("004", "005"), ("006", "007")] {
                let ask = ranges.ask(true).expect("a request");
                ranges.answer(ask.id, page(first, last, false, Some("t")), ()).expect("in order");
            }
            let asks: Vec<Ask> = std::iter::from_fn(|| ranges.ask(true)).collect();
            let [front, split] = &asks[..] else { panic!("{asks:?}") };
            let Place::After(seam) = &split.place else { panic!("{split:?}") };
            let (first, last) = (format!("{seam}5"), format!("{seam}6"));
            let before = (front.id, page("008", "009", true, Some("t")));
            let behind = (split.id, page(&first, &last, false, None));
            let (one, other) = if seam_first { (behind, before) } else { (before, behind) };
            assert_eq!(ranges.answer(one.0, one.1, ()), Ok(true));
            assert_eq!(ranges.answer(other.0, other.1, ()), Err(Disorder::Seam));
        }
    }

    /// As a walk of a tree comes by: `a/` before `a-`.
    fn in_tree_order(name: &str) -> String {
        name.replace('/', "\0")
    }

    fn without_case(name: &str) -> String {
        format!("{}\0{name}", name.to_lowercase())
    }

    fn from_the_end(name: &str) -> String {
        name.chars().rev().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn every_name_is_taken_once_in_order(
            names in prop::collection::btree_set("[a-c0-2é.-]{1,6}/?", 0..400),
            page_names in 1_usize..20,
            turns in prop::collection::vec(any::<prop::sample::Index>(), 16),
        ) {
            let mut n = 0;
            let run = run(names, page_names, |len| {
                n += 1;
                turns[n % turns.len()].index(len)
            });
            prop_assert_eq!(&run.taken, &run.names);
            let n_pages = run.names.len().div_ceil(page_names).max(1);
            prop_assert!(run.n_requests <= n_pages * 2 + 2, "{} of {n_pages}", run.n_requests);
        }

        #[test]
        fn a_server_with_an_order_of_its_own_is_noticed_before_a_name_is_lost(
            names in prop::collection::btree_set("[a-cA-C0-2.-]{1,4}/?", 0..300),
            order in prop::sample::select(vec![in_tree_order, without_case, from_the_end]),
            page_names in 1_usize..12,
            turns in prop::collection::vec(any::<prop::sample::Index>(), 16),
        ) {
            let mut n = 0;
            let mut run = run_in(order, names, page_names, |len| {
                n += 1;
                turns[n % turns.len()].index(len)
            });
            run.taken.sort();
            run.names.sort();
            prop_assert_eq!(&run.taken, &run.names);
        }

        #[test]
        fn a_name_that_a_seam_would_hide_is_noticed(
            names in prop::collection::btree_set("[a-c]{1,2}[0-9]{1,3}", 20..80),
            page_names in 1_usize..8,
            which in any::<prop::sample::Index>(),
            hidden in any::<prop::sample::Index>(),
        ) {
            let splits = run(names.clone(), page_names, in_turn).splits;
            prop_assume!(!splits.is_empty());
            let split = &splits[which.index(splits.len())];
            let behind: Vec<_> = names.iter().filter(|name| *name > split).cloned().collect();
            prop_assume!(!behind.is_empty());
            // The server has it just before the split, where the range behind does not look.
            let hidden = &behind[hidden.index(behind.len())];
            let order = |name: &str| match name == hidden {
                true => format!("{split}\0"),
                false => format!("{name}\u{1}"),
            };
            let mut run = run_in(order, names, page_names, in_turn);
            run.taken.sort();
            run.names.sort();
            prop_assert_eq!(&run.taken, &run.names);
        }
    }
}
