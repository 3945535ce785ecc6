//! The listing of a tree without delimiter, by key ranges side by side, ahead of somebody who walks
//! through it. Decides and puts together; asks nothing itself.
//!
//! What it may ask for is bounded by what was used of it: [`Credit`].

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ranges::{Ask, Facts, Place, Progress, Ranges};
use super::unfold::{Piece, Unfold};
use super::weight::{Scales, Weight};
use crate::object::DirPath;
use crate::store::{ListPage, ListRequest};

/// One listing of all that is below a directory.
pub(super) struct Sweep {
    pub(super) top: DirPath,
    state: Mutex<State>,
    /// A page has come, or failed to.
    pub(super) landed: Notify,
    pub(super) credit: Arc<Credit>,
    /// Pages so far: what all that it tells has cost.
    pub(super) n_pages: Arc<AtomicUsize>,
    /// Pages that may be here and on their way without having been used.
    window: usize,
}

struct State {
    ranges: Ranges<()>,
    /// By the number of the range that goes on with it, in the order of keys.
    parts: Vec<(u64, Unfold<Mark>)>,
    ended: bool,
    /// What the parts hold.
    weight: Weight,
}

/// A page of a sweep, for what was told by it.
#[derive(Default, Debug)]
pub(super) struct Mark {
    used: AtomicBool,
    sweep: Weak<Sweep>,
}

/// What a walk has cost, and what was used of that, in pages.
#[derive(Debug, Default)]
pub(super) struct Credit {
    spent: AtomicUsize,
    used: AtomicUsize,
}

/// Where a listing stands that goes by a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// Before it, or in it.
    Before(Step),
    /// Behind it.
    Passed,
    /// It does not go on for now: nothing that it told was of use.
    Stalled,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// The range that comes by, and its pages so far.
    pub(super) range: u64,
    pub(super) n_pages: usize,
    /// Some of the directory has come, but not all.
    pub(super) inside: bool,
    /// The next page is on its way.
    asked: bool,
}

/// Pages that a walk may cost for nothing.
const SPARE_PAGES: usize = 4;

/// As many more where somebody waits: he would ask for a page himself.
const SPARE_PAGES_FOR_A_WALKER: usize = 4;

/// Pages of one range before the next begins: each seam costs half a page.
const REACH_PAGES: u32 = 4;

/// An item that waits in a part, with its name and tag.
const ITEM_BYTES: usize = 160;

impl Credit {
    /// Whether one more page may be asked for: never more than twice what was used, and `spare`, nor
    /// more than `window` ahead.
    fn may_spend(&self, spare: usize, window: usize) -> bool {
        let (spent, used) = (self.spent.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed));
        spent < 2 * used + spare && spent.saturating_sub(used) < window + spare
    }

    /// A page was asked for by the walker itself.
    pub(super) fn walk(&self) {
        self.spent.fetch_add(1, Ordering::Relaxed);
        self.used.fetch_add(1, Ordering::Relaxed);
    }
}

impl Mark {
    /// The page was of use. Gives its sweep where this is new.
    pub(super) fn note_use(&self) -> Option<Arc<Sweep>> {
        let sweep = (!self.used.swap(true, Ordering::Relaxed)).then(|| self.sweep.upgrade());
        let sweep = sweep.flatten()?;
        sweep.credit.used.fetch_add(1, Ordering::Relaxed);
        Some(sweep)
    }
}

impl Sweep {
    /// Of all below `top` behind `start`, which is without its prefix; with a range behind each of
    /// `seams`.
    pub(super) fn new(
        top: &DirPath,
        start: &str,
        seams: &[String],
        credit: Arc<Credit>,
        window: usize,
        scales: &Scales,
    ) -> Arc<Self> {
        let page_names = usize::from(ListRequest::PAGE_KEYS);
        let state = State {
            ranges: Ranges::near(start, seams, REACH_PAGES, page_names),
            parts: Vec::new(),
            ended: false,
            weight: scales.weight(size_of::<Self>()),
        };
        Arc::new(Self {
            top: top.clone(),
            state: Mutex::new(state),
            landed: Notify::new(),
            credit,
            n_pages: Arc::default(),
            window,
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// The requests that are worth sending now, each for [`Sweep::answer`] or [`Sweep::fail`].
    pub(super) fn ask(&self) -> Vec<(u64, ListRequest)> {
        let mut state = self.state.lock();
        let mut asks = Vec::new();
        while !state.ended && self.credit.may_spend(SPARE_PAGES, self.window) {
            let Some(ask) = state.ranges.ask(true) else { break };
            asks.push(self.request(ask));
        }
        state.meet();
        asks
    }

    /// How far it has come towards the directory `path`, which is without the prefix.
    pub(super) fn reach(&self, path: &str) -> Reach {
        let state = self.state.lock();
        let Some(Progress { id, after, asked, done, n_pages }) = state.ranges.progress(path) else {
            return Reach::Passed;
        };
        let inside = after.starts_with(path);
        let spare = SPARE_PAGES + SPARE_PAGES_FOR_A_WALKER;
        if state.ended || done || (after > path && !inside) {
            Reach::Passed
        } else if asked || self.credit.may_spend(spare, self.window) {
            Reach::Before(Step { range: id, n_pages, inside, asked })
        } else {
            Reach::Stalled
        }
    }

    /// The request that brings the directory `path`, all of which lies behind `start`; `None` where it
    /// is on its way.
    pub(super) fn want(&self, path: &str, start: &str, step: Step) -> Option<(u64, ListRequest)> {
        if step.asked {
            return None;
        }
        let mut state = self.state.lock();
        let after = state.ranges.progress(path)?.after;
        let after = if after < start { start.to_owned() } else { after.to_owned() };
        let ask = state.ranges.go_on_at(&after);
        state.meet();
        ask.map(|ask| self.request(ask))
    }

    /// Takes a page, and gives the directories that are whole by that. Fails where the server does
    /// not list in one order: the sweep has ended then.
    pub(super) fn answer(
        self: &Arc<Self>,
        id: u64,
        page: &ListPage,
        sent: Instant,
    ) -> Result<Vec<Piece<Mark>>, ()> {
        let top = self.top.as_str();
        let rest = |key: &str| key.strip_prefix(top).map(|rest| key.len() - rest.len());
        // The marker of the directory at the top is no name.
        let objects = page.objects.iter().filter(|object| object.key.len() > top.len());
        let keys: Vec<(&str, _)> = objects
            .filter_map(|object| Some((&object.key[rest(&object.key)?..], &object.version)))
            .collect();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let until = state.ranges.until(id);
        let end = until.map_or(keys.len(), |until| keys.partition_point(|(key, _)| *key <= until));
        let (own, behind) = keys.split_at(end);
        let facts = Facts {
            first: own.first().map(|(key, _)| *key),
            last: own.last().map(|(key, _)| *key),
            n_names: own.len(),
            n_behind: behind.len(),
            behind: behind.first().map(|(key, _)| *key),
            ascending: keys.is_sorted_by(|(a, _), (b, _)| a < b) && page.prefixes.is_empty(),
            token: page.continuation.as_deref(),
            goes_on: page.continuation.is_some(),
        };
        let taken = state.ranges.answer(id, facts, ());
        if taken.is_err() || state.ended {
            state.give_up();
            return if taken.is_err() { Err(()) } else { Ok(Vec::new()) };
        }
        self.n_pages.fetch_add(1, Ordering::Relaxed);
        let mark = Arc::new(Mark { sweep: Arc::downgrade(self), ..Mark::default() });
        let mut out = Vec::new();
        if let Some((_, part)) = state.parts.iter_mut().find(|(part, _)| *part == id) {
            for (key, version) in own {
                part.push(key, (*version).clone(), sent, &mark, &mut out);
            }
        }
        state.join(&mut out);
        Ok(out)
    }

    /// The request could not be had, so that nobody should wait for what follows.
    pub(super) fn fail(&self) {
        self.state.lock().give_up();
    }

    fn request(&self, ask: Ask) -> (u64, ListRequest) {
        self.credit.spent.fetch_add(1, Ordering::Relaxed);
        let mut request = ListRequest::directory(self.top.as_str());
        request.delimited = false;
        match ask.place {
            Place::Beginning => {}
            Place::Token(token) => request.continuation = Some(token),
            Place::After(name) => request.start_after = Some(self.top.key(&name)),
        }
        (ask.id, request)
    }
}

impl State {
    /// Begins a part for each range that is new.
    fn meet(&mut self) {
        for (id, began) in self.ranges.each() {
            if self.parts.iter().all(|(part, _)| *part != id) {
                let at = self.parts.partition_point(|(_, part)| part.start() < began);
                self.parts.insert(at, (id, Unfold::new(began)));
            }
        }
    }

    /// Puts together what has come side by side.
    fn join(&mut self, out: &mut Vec<Piece<Mark>>) {
        let mut at = 0;
        while at < self.parts.len() {
            if !self.ranges.is_done(self.parts[at].0) {
                at += 1;
            } else if at + 1 < self.parts.len() {
                let (_, mine) = self.parts.remove(at);
                let (id, next) = self.parts.remove(at);
                self.parts.insert(at, (id, mine.join(next, out)));
            } else {
                self.parts[at].1.end(out);
                break;
            }
        }
        while self.ranges.take().is_some() {}
        self.ended = self.parts.len() == 1 && self.ranges.is_done(self.parts[0].0);
        let n_items: usize = self.parts.iter().map(|(_, part)| part.n_items()).sum();
        self.weight.remove(usize::MAX);
        self.weight.add(size_of::<Sweep>() + n_items * ITEM_BYTES);
    }

    fn give_up(&mut self) {
        self.ended = true;
        self.parts = Vec::new();
        self.weight.remove(usize::MAX);
    }
}
