//! What is known of one directory: its listings, what single answers said of names in it, and what
//! to ask when that is not enough (`plan`). Decides and remembers; asks nothing itself.

mod confirm;
mod plan;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::answer::{Ages, Answer, Source, What};
use super::block::Listed;
use super::forget::{Generation, Marks};
use super::name::directory_order;
use super::pieces::Pieces;
use super::snapshot::Snapshot;
use super::weight::{Scales, Weight};
use crate::error::StoreError;
use crate::object::DirPath;

pub(super) use self::plan::Plan;

/// One directory.
pub(super) struct Directory {
    pub(super) path: DirPath,
    state: Mutex<State>,
    /// The first name that was looked up in one of its subdirectories was answered, or would have
    /// been, by that one's first page.
    lists_children: AtomicBool,
}

struct State {
    /// The newest listing; it may be on its way.
    newest: Option<Arc<Snapshot>>,
    /// The one before, while the newest is not complete: it answers for what that has not reached.
    older: Option<Arc<Snapshot>>,
    pieces: Pieces,
    /// What single answers said, newer than the listing or beside it. At most [`TOLD_MAX`].
    told: LruCache<Box<str>, Told>,
    /// Lookups that had to ask since the directory was last listed.
    n_asked: u32,
    /// The last name that a single answer found was a directory.
    finds_directories: bool,
    /// LIST was denied, and when that was asked.
    denied: Option<(Instant, StoreError)>,
    marks: Marks,
    weight: Weight,
}

/// What a single answer said of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Answer(Answer),
    /// The directory of that name turned out empty, so it does not exist. Says nothing of an object.
    NoDirectory {
        sent: Instant,
    },
}

impl Told {
    fn sent(&self) -> Instant {
        match self {
            Self::Answer(answer) => answer.sent,
            Self::NoDirectory { sent } => *sent,
        }
    }

    fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answer(answer) => Some(answer),
            Self::NoDirectory { .. } => None,
        }
    }
}

/// Names that single answers told of; beyond, the one used longest ago is forgotten, and what the
/// last listing said holds again.
const TOLD_MAX: usize = 4096;

/// Bytes of one in the table, beside the name: list links, hash slot, the tag's own allocation.
/// This and the next by the resident set of 200,000 of them (glibc, x86-64, `lru` 0.19).
const TOLD_BYTES: usize = size_of::<Told>() + 170;

/// Bytes of a directory without any listing, in the tree's table, beside its path.
const DIRECTORY_BYTES: usize = size_of::<Directory>() + 420;

/// A larger directory is never listed behind: it is 60 s old, at `auto`, before it may be.
pub(super) const REFRESH_PAGES_MAX: usize = 30;

/// How long a denied LIST is not tried again.
const DENIED_FOR: Duration = Duration::from_secs(60);

/// Whether what is known answers a lookup.
#[derive(Debug)]
pub(super) enum Known {
    Answer(Answer),
    /// Its time is over, but it answers on while the directory is listed again behind.
    AnswerAndRefresh(Answer),
    No,
}

/// How to open a directory.
pub(super) enum Opening {
    /// This listing is good.
    Known(Arc<Snapshot>),
    /// This one is good enough while the directory is listed again behind.
    KnownAndRefresh(Arc<Snapshot>),
    /// This one has just begun.
    Begun(Arc<Snapshot>),
    /// LIST was denied, less than a minute ago.
    Denied,
}

impl Directory {
    pub(super) fn new(path: &DirPath, marks: Marks, scales: &Scales) -> Self {
        let state = State {
            newest: None,
            older: None,
            pieces: Pieces::new(),
            told: LruCache::unbounded(),
            n_asked: 0,
            finds_directories: false,
            denied: None,
            marks,
            weight: scales.weight(DIRECTORY_BYTES + path.as_str().len()),
        };
        let lists_children = AtomicBool::new(false);
        Self { path: path.clone(), state: Mutex::new(state), lists_children }
    }

    /// Whether `name` is known.
    pub(super) fn known(&self, name: &str, ages: &Ages, now: Instant) -> Known {
        let mut state = self.state.lock();
        let Some(answer) = state.best(name) else { return Known::No };
        let answer = state.lasting(name, answer, ages, now);
        let from_listing = matches!(answer.source, Source::Listing { .. });
        if !ages.left(&answer, now).is_zero() {
            if from_listing {
                state.pieces.answered();
            }
            return Known::Answer(answer);
        }
        let present = answer.what != What::Absent;
        if from_listing && present && ages.answers_on(answer.n_pages, answer.sent, now) {
            return Known::AnswerAndRefresh(answer);
        }
        Known::No
    }

    /// Forgets a piece that could not be had.
    pub(super) fn drop_piece(&self, listing: &Arc<Snapshot>) {
        let dropped = self.state.lock().pieces.remove(listing);
        drop(dropped);
    }

    /// Whether the first lookup in a subdirectory should list it.
    pub(super) fn lists_children(&self) -> bool {
        self.lists_children.load(Ordering::Relaxed)
    }

    /// Says what the first lookup in a subdirectory found best.
    pub(super) fn learn_of_child(&self, lists: bool) {
        self.lists_children.store(lists, Ordering::Relaxed);
    }

    /// The last that was heard of `name`, however long ago: for when nothing can be asked. An
    /// absence counts only from a complete listing.
    pub(super) fn last_known(&self, name: &str) -> Option<Answer> {
        let complete = Source::Listing { is_complete: true };
        let answer = self.state.lock().best(name)?;
        (answer.what != What::Absent || answer.source == complete).then_some(answer)
    }

    /// What its listings said of its existence, however long ago.
    pub(super) fn last_own_answer(&self) -> Option<Answer> {
        let state = self.state.lock();
        let known = [&state.newest, &state.older].into_iter().flatten();
        let told = known.chain(state.pieces.listings()).filter(|it| it.has_keys().is_some());
        let last = told.max_by_key(|listing| listing.sent())?;
        let what = What::Directory { listable: true };
        let answer = Answer { what, sent: last.sent()?, n_pages: 1, source: Source::Single };
        (last.has_keys() == Some(true)).then_some(answer)
    }

    /// What listings of it say of its existence: what there is of each counts as one answer.
    pub(super) fn own_answer(&self, ages: &Ages, now: Instant) -> Option<Answer> {
        let state = self.state.lock();
        let answer = |listing: &Arc<Snapshot>, n_pages| {
            let what = What::Directory { listable: true };
            let answer = Answer { what, sent: listing.sent()?, n_pages, source: Source::Single };
            (listing.has_keys() == Some(true)).then_some(answer)
        };
        let newest = state.newest.as_ref();
        // That it has no keys is newer than what pieces have shown.
        let is_gone = newest.is_some_and(|newest| newest.has_keys() == Some(false));
        let pieces = state.pieces.listings().filter_map(|listing| answer(listing, 1));
        let known = newest.and_then(|newest| answer(newest, newest.cost())).into_iter();
        let best = known.chain(pieces).max_by_key(|answer| ages.left(answer, now))?;
        (!is_gone && !ages.left(&best, now).is_zero()).then_some(best)
    }

    /// Whether one page lists it again, for more than this one time.
    pub(super) fn is_small(&self, ages: &Ages) -> bool {
        let state = self.state.lock();
        let is_page = |newest: &Arc<Snapshot>| newest.is_complete() && newest.n_pages_again() == 1;
        !ages.metadata(1).left(Duration::ZERO).is_zero()
            && state.newest.as_ref().is_some_and(is_page)
    }

    /// Whether half of the time is over for what its listing says of names that are not there.
    pub(super) fn forgets_absences(&self, ages: &Ages, now: Instant) -> bool {
        let state = self.state.lock();
        let sent = state.newest.as_ref().and_then(|newest| newest.sent());
        let left = |sent| ages.negative.left(now.saturating_duration_since(sent));
        let whole = left(now);
        !whole.is_zero() && sent.is_some_and(|sent| left(sent) <= whole / 2)
    }

    /// The listing for a new reader.
    pub(super) fn open(
        &self,
        begin: impl FnOnce() -> Snapshot,
        ages: &Ages,
        now: Instant,
    ) -> Opening {
        let mut state = self.state.lock();
        let fresh = state.newest.as_ref().filter(|newest| !state.left(newest, ages, now).is_zero());
        if let Some(fresh) = fresh
            && fresh.is_complete()
        {
            return Opening::Known(Arc::clone(fresh));
        }
        for old in [&state.newest, &state.older].into_iter().flatten() {
            if let Some(sent) = old.sent()
                && old.is_complete()
                && state.is_current(sent)
                && ages.answers_on(old.cost(), sent, now)
            {
                return Opening::KnownAndRefresh(Arc::clone(old));
            }
        }
        if let Some(fresh) = fresh {
            return Opening::Known(Arc::clone(fresh));
        }
        match &state.denied {
            Some(_) if state.is_denied(now) => Opening::Denied,
            _ => Opening::Begun(state.begin(begin)),
        }
    }

    /// Whether a new reader would have to wait for a request that nobody has sent.
    pub(super) fn must_be_asked(&self, ages: &Ages, now: Instant) -> bool {
        let state = self.state.lock();
        let answers = |listing: &Arc<Snapshot>| {
            let is_old = listing.sent().is_none_or(|sent| {
                let answers_on = ages.answers_on(listing.cost(), sent, now);
                !(listing.is_complete() && state.is_current(sent) && answers_on)
            });
            !is_old || !state.left(listing, ages, now).is_zero()
        };
        let is_on_its_way = state.newest.as_ref().is_some_and(|newest| newest.n_pages() == 0);
        let mut known = [&state.newest, &state.older].into_iter().flatten();
        !(is_on_its_way || known.any(answers) || state.is_denied(now))
    }

    /// The newest listing, as far as it has come.
    pub(super) fn listing(&self) -> Option<Arc<Snapshot>> {
        let state = self.state.lock();
        state.newest.as_ref().filter(|newest| newest.n_pages() > 0).map(Arc::clone)
    }

    /// Takes a listing that somebody else's requests brought, whole. False where a newer one is there, or
    /// what it shows was forgotten since.
    pub(super) fn adopt(&self, listing: &Arc<Snapshot>) -> bool {
        let mut state = self.state.lock();
        if !listing.sent().is_some_and(|sent| state.is_current(sent)) {
            return false;
        }
        let is_newer = |known: &Arc<Snapshot>| known.sent() >= listing.sent();
        let (newest, older) = (state.newest.take(), state.older.take());
        let (newest, older) = match newest {
            Some(newest) if is_newer(&newest) && newest.is_complete() => (Some(newest), older),
            Some(newest) if is_newer(&newest) => (Some(newest), Some(Arc::clone(listing))),
            _ => (Some(Arc::clone(listing)), None),
        };
        let adopted = newest.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, listing));
        let before = std::mem::replace(&mut state.newest, newest);
        state.older = older;
        drop(state);
        drop(before);
        adopted
    }

    /// A new listing, or the one whose first page is on its way.
    pub(super) fn begin(&self, begin: impl FnOnce() -> Snapshot) -> Arc<Snapshot> {
        self.state.lock().begin(begin)
    }

    /// The listing that is to take the place of one whose time is over, and how many pages of it
    /// are worth asking for: as many as there were, where those were not all.
    pub(super) fn begin_refresh(
        &self,
        begin: impl FnOnce() -> Snapshot,
        ages: &Ages,
        now: Instant,
    ) -> (Arc<Snapshot>, usize) {
        let mut state = self.state.lock();
        let begun = match &state.newest {
            Some(newest) if !state.left(newest, ages, now).is_zero() => Arc::clone(newest),
            _ => state.begin(begin),
        };
        let n_pages = match &state.older {
            Some(older) if older.is_complete() => REFRESH_PAGES_MAX,
            Some(older) => older.n_pages(),
            None => 1,
        };
        (begun, n_pages)
    }

    /// How much longer `listing` is given to new readers.
    pub(super) fn left(&self, listing: &Snapshot, ages: &Ages, now: Instant) -> Duration {
        self.state.lock().left(listing, ages, now)
    }

    /// What holds of `name` now that a listing gave `answer`: that, unless a newer answer came.
    pub(super) fn newest_of(&self, name: &str, answer: Answer) -> Answer {
        let best = self.state.lock().best(name);
        best.filter(|best| best.sent > answer.sent).unwrap_or(answer)
    }

    /// For when nothing can be asked: the last complete listing, however old.
    pub(super) fn last_complete(&self) -> Option<Arc<Snapshot>> {
        let state = self.state.lock();
        let mut known = [&state.newest, &state.older].into_iter().flatten();
        known.find(|listing| listing.is_complete()).map(Arc::clone)
    }

    /// Writes down that LIST of it is denied.
    pub(super) fn deny(&self, sent: Instant, err: StoreError) {
        self.state.lock().denied = Some((sent, err));
    }

    /// What the last LIST of it was denied with.
    pub(super) fn denial(&self) -> Option<StoreError> {
        self.state.lock().denied.as_ref().map(|(_, err)| err.clone())
    }

    /// A page of `listing` has come: forgets what it has made obsolete.
    pub(super) fn settle(&self, listing: &Arc<Snapshot>) {
        let mut state = self.state.lock();
        state.denied = None;
        if !state.newest.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, listing))
            || !listing.is_complete()
        {
            return;
        }
        state.n_asked = 0;
        let Some(sent) = listing.sent() else { return };
        let pieces = state.pieces.obsolete(Some(sent));
        let obsolete: Vec<Box<str>> = state
            .told
            .iter()
            .filter(|(_, told)| told.sent() < sent)
            .map(|(name, _)| name.clone())
            .collect();
        for name in obsolete {
            state.forget(&name);
        }
        let older = state.older.take();
        drop(state);
        // Thousands of names may go with them: not under the lock.
        drop((older, pieces));
    }

    /// A single request was answered. Gives what holds of the name then, which may be newer.
    pub(super) fn tell(&self, name: &str, answer: Answer) -> Answer {
        let mut state = self.state.lock();
        if answer.what != What::Absent {
            state.finds_directories = is_directory(&answer);
        }
        match state.best(name) {
            Some(best) if best.sent > answer.sent => best,
            _ => {
                state.put(name, Told::Answer(answer.clone()));
                answer
            }
        }
    }

    /// A GET or HEAD for the bytes of `name` told what is current. It does not speak of a directory
    /// of that name, which goes on hiding the object.
    pub(super) fn learn(&self, name: &str, answer: Answer, ages: &Ages, now: Instant) {
        let mut state = self.state.lock();
        if let Some(best) = state.best(name) {
            // A listing of many pages holds longer than one answer that says the same.
            let holds_longer =
                best.what == answer.what && ages.left(&best, now) >= ages.left(&answer, now);
            if is_directory(&best) || best.sent > answer.sent || holds_longer {
                return;
            }
        }
        state.put(name, Told::Answer(answer));
    }

    /// The directory `name` in this one was found to be gone, by a LIST that was sent at `sent`. An object
    /// of that name may be there, which no listing has shown beside the directory: who wants to know asks.
    pub(super) fn lose_directory(&self, name: &str, sent: Instant) {
        let mut state = self.state.lock();
        let best = state.best(name);
        if best.is_some_and(|best| is_directory(&best) && best.sent <= sent) {
            let generation = state.marks.generation();
            state.marks.mark(name, sent, generation);
            state.put(name, Told::NoDirectory { sent });
        }
    }

    /// What single answers said that `listing` may not know, in directory order.
    pub(super) fn told_since(&self, listing: &Snapshot) -> Vec<(Box<str>, Answer)> {
        let Some(sent) = listing.sent() else { return Vec::new() };
        let state = self.state.lock();
        let told = state.told.iter().filter_map(|(name, told)| Some((name, told.answer()?)));
        let newer = told.filter(|(_, answer)| answer.sent >= sent);
        let mut told: Vec<_> = newer.map(|(name, told)| (name.clone(), told.clone())).collect();
        drop(state);
        told.sort_by(|(a, _), (b, _)| directory_order(a, b));
        told
    }

    /// The entry of a listing that `answer` comes from.
    pub(super) fn listed(&self, name: &str, answer: &Answer) -> Option<Listed> {
        if !matches!(answer.source, Source::Listing { .. }) {
            return None;
        }
        let state = self.state.lock();
        let known = [&state.newest, &state.older].into_iter().flatten();
        known.filter_map(|listing| listing.listed(name)).find(|listed| listed.is(answer))
    }

    /// The block of the newest listing that would tell of `name`, had it not been put away. What it tells
    /// when it is listed again is as new as that, however old the listing; but a name that was forgotten
    /// may be new, and has no place in it.
    pub(super) fn away(&self, name: &str) -> Option<(Arc<Snapshot>, usize)> {
        let state = self.state.lock();
        let newest = state.newest.as_ref()?;
        if !state.marks.allow(name, newest.sent()?) {
            return None;
        }
        Some((Arc::clone(newest), newest.away(name)?))
    }

    /// Forgets all; nobody will ask it again but who reads on. Gives how many names were known.
    pub(super) fn forget_all(&self, at: Instant, generation: Generation) -> usize {
        let mut state = self.state.lock();
        state.marks.mark_all(at, generation);
        let listings = [&state.newest, &state.older].into_iter().flatten();
        let n_listed =
            listings.chain(state.pieces.listings()).map(|listing| listing.n_names()).max();
        n_listed.unwrap_or(0).max(state.told.len())
    }

    /// Forgets `name`, and gives whether anything was known of it.
    pub(super) fn forget_name(&self, name: &str, at: Instant, generation: Generation) -> bool {
        let mut state = self.state.lock();
        let was_known = state.best(name).is_some();
        state.marks.mark(name, at, generation);
        // A listing whose first page was asked for before is not the one to wait for.
        if state.newest.as_ref().is_some_and(|newest| newest.n_pages() == 0) {
            state.newest = state.older.take();
        }
        was_known
    }

    /// Names that were forgotten and that keep its listing from being shown, where to ask for each costs
    /// less than to list it again.
    pub(super) fn forgotten_names(&self) -> Vec<Box<str>> {
        let state = self.state.lock();
        let listing = state.newest.as_ref().filter(|newest| newest.is_complete());
        let names = listing.and_then(|listing| {
            let names = state.marks.names_since(listing.sent()?, |name| state.told_at(name))?;
            (names.len() < listing.n_pages_again()).then_some(names)
        });
        names.unwrap_or_default()
    }

    /// What it was told to forget.
    pub(super) fn marks(&self) -> Marks {
        self.state.lock().marks.clone()
    }

    /// When the first page of its newest listing was asked for.
    pub(super) fn listed_at(&self) -> Option<Instant> {
        self.state.lock().newest.as_ref()?.sent()
    }

    /// Whether somebody reads a listing of it, so that to forget it would free nothing.
    pub(super) fn is_read(&self) -> bool {
        let state = self.state.lock();
        let mut known = [&state.newest, &state.older].into_iter().flatten();
        known.any(|listing| Arc::strong_count(listing) > 1)
    }

    /// Whether what is known of it was told ahead of somebody who is still to come by.
    pub(super) fn is_awaited(&self, now: Instant) -> bool {
        self.state.lock().newest.as_ref().is_some_and(|listing| listing.is_awaited(now))
    }

    /// What forgetting it would free.
    pub(super) fn bytes(&self) -> u64 {
        let state = self.state.lock();
        let known = [&state.newest, &state.older].into_iter().flatten();
        let listings = known.map(|listing| listing.bytes()).sum::<u64>();
        state.weight.bytes() + listings + state.pieces.bytes()
    }
}

impl State {
    /// The newest that is known of `name`.
    fn best(&mut self, name: &str) -> Option<Answer> {
        // What is newest was forgotten last.
        self.heard(name).filter(|answer| self.marks.allow(name, answer.sent))
    }

    /// The newest that was ever said of `name`.
    fn heard(&mut self, name: &str) -> Option<Answer> {
        let told = self.told.get(name);
        let gone = match told {
            Some(Told::NoDirectory { sent }) => Some(*sent),
            _ => None,
        };
        let told = told.and_then(Told::answer).cloned();
        let is_there = |answer: &Answer| {
            !(is_directory(answer) && gone.is_some_and(|gone| gone >= answer.sent))
        };
        let listed =
            |listing: &Option<Arc<Snapshot>>| listing.as_ref()?.says(name).filter(is_there);
        // Of two of one age the last is taken: what was said of this very name.
        let known = [listed(&self.older), listed(&self.newest)].into_iter().flatten();
        let pieces = self.pieces.say(name).filter(is_there);
        known.chain(pieces).chain(told).max_by_key(|answer| answer.sent)
    }

    fn is_denied(&self, now: Instant) -> bool {
        let age = |(sent, _): &(Instant, StoreError)| now.saturating_duration_since(*sent);
        self.denied.as_ref().is_some_and(|denied| age(denied) < DENIED_FOR)
    }

    /// How much longer `listing` is given to new readers.
    fn left(&self, listing: &Snapshot, ages: &Ages, now: Instant) -> Duration {
        match listing.sent() {
            Some(sent) if self.is_current(sent) => listing.left(ages, now),
            _ => Duration::ZERO,
        }
    }

    /// Whether a listing that was asked for at `sent` shows nothing that was forgotten since.
    fn is_current(&self, sent: Instant) -> bool {
        let names = self.marks.names_since(sent, |name| self.told_at(name));
        names.is_some_and(|names| names.is_empty())
    }

    /// When a single request was sent that told what `name` is.
    fn told_at(&self, name: &str) -> Option<Instant> {
        Some(self.told.peek(name)?.answer()?.sent)
    }

    fn begin(&mut self, begin: impl FnOnce() -> Snapshot) -> Arc<Snapshot> {
        if let Some(newest) = &self.newest
            && newest.n_pages() == 0
        {
            return Arc::clone(newest);
        }
        self.pieces.begin();
        let begun = Arc::new(begin());
        let before = self.newest.replace(Arc::clone(&begun));
        // A complete listing is worth more than a newer one that somebody left half-way.
        if before.as_ref().is_some_and(|before| before.is_complete()) || self.older.is_none() {
            self.older = before;
        }
        begun
    }

    fn put(&mut self, name: &str, told: Told) {
        let is_older = self.told.get(name).is_some_and(|before| before.sent() > told.sent());
        if is_older || !self.marks.allow(name, told.sent()) {
            return;
        }
        if self.told.put(name.into(), told).is_none() {
            self.weight.add(TOLD_BYTES + name.len());
        }
        if self.told.len() > TOLD_MAX
            && let Some((name, _)) = self.told.pop_lru()
        {
            self.weight.remove(TOLD_BYTES + name.len());
        }
    }

    fn forget(&mut self, name: &str) {
        if self.told.pop(name).is_some() {
            self.weight.remove(TOLD_BYTES + name.len());
        }
    }
}

fn is_directory(answer: &Answer) -> bool {
    matches!(answer.what, What::Directory { .. })
}
