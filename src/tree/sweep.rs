//! The listing of a tree without delimiter, by key ranges side by side, ahead of somebody who walks
//! through it. Decides and puts together; asks nothing itself.
//!
//! What it may ask for is bounded by what was used of it: [`Credit`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

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
    /// See [`Bounds::window`].
    window: usize,
}

/// How far ahead a sweep may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Pages that may be here and on their way without having been used.
    pub(super) window: usize,
    /// Pages on their way.
    pub(super) at_once: usize,
}

struct State {
    ranges: Ranges<()>,
    /// By the number of the range that goes on with it, in the order of keys.
    parts: Vec<(u64, Unfold<Mark>)>,
    /// The greatest number of a range that had a part.
    met: u64,
    ended: bool,
    /// Pages that were asked for and have not been used.
    n_unused: usize,
    /// Pages that have come and whose directories are not known yet.
    n_telling: usize,
    /// Somebody went by here with old answers, which are to be told anew.
    wanted: String,
    /// What the parts hold.
    weight: Weight,
}

/// A page of a sweep, for what was told by it.
#[derive(Debug)]
pub(super) struct Mark {
    /// When it was last of use.
    used: Mutex<Option<Instant>>,
    sweep: Weak<Sweep>,
    credit: Option<Arc<Credit>>,
}

/// What a walk has cost, what was used of that, and how fast, in pages.
#[derive(Debug)]
pub(super) struct Credit {
    account: Mutex<Account>,
    /// Pages of all its sweeps: what everything that they tell has cost.
    pub(super) n_pages: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Account {
    spent: usize,
    used: usize,
    /// Since when the pace is measured, and what was used by then.
    since: Instant,
    used_then: usize,
    /// How long the walker has needed for a page.
    pace: Duration,
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

/// What is told ahead should be used within this time, while it holds.
const HOLD_TIME: Duration = Duration::from_secs(10);

/// A pace is that of at least so long.
const PACE_TIME: Duration = Duration::from_millis(200);

/// Pages of one range before the next begins: each seam costs half a page.
pub(super) const REACH_PAGES: u32 = 4;

/// An item that waits in a part, with its name and tag.
const ITEM_BYTES: usize = 160;

impl Credit {
    pub(super) fn new(now: Instant) -> Arc<Self> {
        let account = Account { spent: 0, used: 0, since: now, used_then: 0, pace: Duration::ZERO };
        Arc::new(Self { account: Mutex::new(account), n_pages: Arc::default() })
    }

    /// A page was asked for by the walker himself.
    pub(super) fn walk(&self, now: Instant) {
        self.account.lock().spent += 1;
        self.note_use(now);
    }

    fn note_use(&self, now: Instant) {
        let mut account = self.account.lock();
        account.used += 1;
        let time = now.saturating_duration_since(account.since);
        if time >= PACE_TIME {
            account.pace = account.pace_at(now);
            (account.since, account.used_then) = (now, account.used);
        }
    }

    /// Whether one more page may be asked for: never more than twice what was used, and `spare`.
    fn may_spend(&self, spare: usize) -> bool {
        let account = self.account.lock();
        account.spent < 2 * account.used + spare
    }

    /// How many pages the walker needs within [`HOLD_TIME`].
    pub(super) fn n_soon(&self, now: Instant) -> usize {
        let pace = self.account.lock().pace_at(now);
        let pages = HOLD_TIME.as_nanos() / pace.as_nanos().max(1);
        usize::try_from(pages).unwrap_or(usize::MAX).max(1)
    }
}

impl Account {
    fn pace_at(&self, now: Instant) -> Duration {
        let time = now.saturating_duration_since(self.since);
        if time < PACE_TIME {
            return self.pace;
        }
        let n_used = u32::try_from(self.used - self.used_then).unwrap_or(u32::MAX);
        // Several pages may be used up in a moment, and the next one be walked through for long.
        (self.pace * 3 + time / n_used.max(1)) / 4
    }
}

impl Mark {
    /// Of a page that nobody walks by.
    pub(super) fn single() -> Arc<Self> {
        Arc::new(Self { used: Mutex::default(), sweep: Weak::new(), credit: None })
    }

    /// The page was of use. False where it was a moment ago.
    pub(super) fn note_use(&self, now: Instant) -> bool {
        let before = self.used.lock().replace(now);
        let is_new = before.is_none_or(|before| now.saturating_duration_since(before) > HOLD_TIME);
        if is_new && let Some(credit) = &self.credit {
            credit.note_use(now);
        }
        if before.is_none()
            && let Some(sweep) = self.sweep.upgrade()
        {
            sweep.state.lock().n_unused -= 1;
        }
        is_new
    }

    /// The sweep whose page it was, while that goes on.
    pub(super) fn sweep(&self) -> Option<Arc<Sweep>> {
        self.sweep.upgrade()
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
        bounds: Bounds,
        scales: &Scales,
    ) -> Arc<Self> {
        let page_names = usize::from(ListRequest::PAGE_KEYS);
        let mut ranges = Ranges::near(start, seams, REACH_PAGES, page_names);
        ranges.limit(bounds.at_once);
        let state = State {
            ranges,
            parts: Vec::new(),
            met: 0,
            ended: false,
            n_unused: 0,
            n_telling: 0,
            wanted: String::new(),
            weight: scales.weight(size_of::<Self>()),
        };
        Arc::new(Self {
            top: top.clone(),
            state: Mutex::new(state),
            landed: Notify::new(),
            credit,
            window: bounds.window,
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        let state = self.state.lock();
        state.ended && state.n_telling == 0
    }

    /// The requests that are worth sending now, each for [`Sweep::answer`] or [`Sweep::fail`].
    pub(super) fn ask(&self, now: Instant) -> Vec<(u64, ListRequest)> {
        let n_ahead = self.credit.n_soon(now).min(self.window);
        let mut state = self.state.lock();
        let mut asks = Vec::new();
        while !state.ended && self.credit.may_spend(SPARE_PAGES) {
            let may_go_ahead = state.n_unused < n_ahead;
            if !may_go_ahead && !state.is_behind_wanted() {
                break;
            }
            let Some(ask) = state.ranges.ask(may_go_ahead) else { break };
            asks.push(self.request(&mut state, ask));
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
        if state.n_telling > 0 {
            return Reach::Before(Step { range: id, n_pages, inside: false, asked: true });
        }
        let inside = after.starts_with(path);
        let spare = SPARE_PAGES + SPARE_PAGES_FOR_A_WALKER;
        if state.ended || done || (after > path && !inside) {
            Reach::Passed
        } else if asked || self.credit.may_spend(spare) {
            Reach::Before(Step { range: id, n_pages, inside, asked })
        } else {
            Reach::Stalled
        }
    }

    /// It is to come by the directory `path`, although nobody will wait for it there.
    pub(super) fn go_by(&self, path: &str) {
        let mut state = self.state.lock();
        if path > state.wanted.as_str() {
            path.clone_into(&mut state.wanted);
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
        ask.map(|ask| self.request(&mut state, ask))
    }

    /// Takes a page, and gives the directories that are whole by that; [`Sweep::told`] is to follow. Fails where the server does
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
            state.n_telling += usize::from(taken.is_ok());
            return if taken.is_err() { Err(()) } else { Ok(Vec::new()) };
        }
        self.credit.n_pages.fetch_add(1, Ordering::Relaxed);
        let (sweep, credit) = (Arc::downgrade(self), Some(Arc::clone(&self.credit)));
        let mark = Arc::new(Mark { used: Mutex::default(), sweep, credit });
        let mut out = Vec::new();
        if let Some((_, part)) = state.parts.iter_mut().find(|(part, _)| *part == id) {
            for (key, version) in own {
                part.push(key, (*version).clone(), sent, &mark, &mut out);
            }
        }
        state.join(&mut out);
        state.n_telling += 1;
        Ok(out)
    }

    /// What [`Sweep::answer`] gave is known.
    pub(super) fn told(&self) {
        self.state.lock().n_telling -= 1;
    }

    /// The request could not be had, so that nobody should wait for what follows.
    pub(super) fn fail(&self) {
        self.state.lock().give_up();
    }

    fn request(&self, state: &mut State, ask: Ask) -> (u64, ListRequest) {
        self.credit.account.lock().spent += 1;
        state.n_unused += 1;
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
    fn is_behind_wanted(&self) -> bool {
        self.ranges.progress("").is_some_and(|front| *front.after < *self.wanted)
    }

    /// Begins a part for each range that is new.
    fn meet(&mut self) {
        let mut met = self.met;
        for (id, began) in self.ranges.each().filter(|(id, _)| *id > self.met) {
            met = met.max(id);
            let at = self.parts.partition_point(|(_, part)| part.start() < began);
            self.parts.insert(at, (id, Unfold::new(began)));
        }
        self.met = met;
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
