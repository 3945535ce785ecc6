//! One listing of one directory as it grows page by page: what its readers share.
//! Invariant: what it has given out never changes; pages only come after what is there. So a
//! position in it means the same entry for as long as anybody holds it, also where the page was put
//! away meanwhile (`shelf`).

mod state;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) use self::state::{IDLE_PAGES_MAX, News};
use self::state::{PageMark, State, TOKEN_BYTES};
use super::answer::{Ages, Answer, Source, What};
use super::block::{Block, Listed};
use super::gauge::Gauge;
use super::listing::{Assembly, Item, RawPage};
use super::name::directory_order;
use super::ranges::{Ask, Disorder, Facts, Place, Ranges};
use super::shelf::{Again, Search, Shelf};
use super::sweep::Mark;
use super::weight::Scales;
use crate::error::{FsError, StoreError, StoreErrorKind};
use crate::flight::Flights;
use crate::object::DirPath;
use crate::store::{ListPage, ListRequest};

/// A listing, complete or on its way.
pub(super) struct Snapshot {
    /// No other has it, of whatever directory.
    pub(super) number: u64,
    prefix: DirPath,
    /// It is of the names behind this one; empty for a whole directory.
    after: Box<str>,
    state: Mutex<State>,
    /// What is needed is waited for once, however many readers need it.
    pub(super) flights: Flights<Need, Result<(), FsError>>,
    /// Something has come, or has failed to.
    pub(super) landed: Notify,
    /// Where a listing of a whole tree told it.
    told: Option<Told>,
}

/// What a listing without delimiter told of a directory on its way through a tree.
pub(super) struct Told {
    /// The pages that told it.
    pub(super) marks: Box<[Arc<Mark>]>,
    /// Pages of all of that listing so far: what it cost.
    pub(super) n_pages: Arc<AtomicUsize>,
    /// When the oldest of them was asked for.
    sent: Instant,
    is_used: AtomicBool,
}

impl Told {
    pub(super) fn new(marks: Vec<Arc<Mark>>, n_pages: &Arc<AtomicUsize>, sent: Instant) -> Self {
        let (marks, n_pages) = (marks.into(), Arc::clone(n_pages));
        Self { marks, n_pages, sent, is_used: AtomicBool::new(false) }
    }
}

/// What is told ahead is used within half of this, or not at all.
const AWAITED_TIME: Duration = Duration::from_secs(20);

static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1);

/// What a reader waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Need {
    /// The next page, by its number.
    Page(usize),
    /// A block that was put away, by its place.
    Block(usize),
}

/// Bytes of a listing without entries and pages: by the resident set of 100,000 small ones.
const SNAPSHOT_BYTES: usize = size_of::<Snapshot>() + 384;

/// So many names tell how all are spread.
const GAUGED_MAX: usize = 5000;

/// How the server lists, as far as that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    /// In the order of keys.
    pub(super) ordered: bool,
    /// From any name on, so that parts of a listing can be asked for side by side.
    pub(super) by_ranges: bool,
}

impl Snapshot {
    #[cfg(test)]
    fn new(prefix: &DirPath, order: Order, scales: &Scales, bytes_max: u64) -> Self {
        Self::after(prefix, "", order, scales, bytes_max)
    }

    /// A listing of the names behind `after`; where that is empty, of the directory. One that takes more
    /// than `bytes_max` fails: it may have no end. `order` says whether the server lists in the order of
    /// keys, and whether by ranges.
    pub(super) fn after(
        prefix: &DirPath,
        after: &str,
        order: Order,
        scales: &Scales,
        bytes_max: u64,
    ) -> Self {
        let Order { ordered, by_ranges } = order;
        let page_names = usize::from(ListRequest::PAGE_KEYS);
        let state = State {
            assembly: Assembly::new(ordered),
            shelf: Shelf::default(),
            pages: Vec::new(),
            ranges: Ranges::after(after, !(ordered && by_ranges), page_names),
            is_complete: false,
            flat: false,
            failed: None,
            tokens: HashSet::new(),
            n_idle: 0,
            waiting_bytes: 0,
            told_bytes: 0,
            bytes_max,
            weight: scales.weight(SNAPSHOT_BYTES + after.len()),
        };
        Self {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            prefix: prefix.clone(),
            after: after.into(),
            state: Mutex::new(state),
            flights: Flights::new(Err(FsError::Abandoned)),
            landed: Notify::new(),
            told: None,
        }
    }

    /// One whose first page is asked for without delimiter, so that it also tells of what is below.
    pub(super) fn flat_first(self) -> Self {
        self.state.lock().flat = true;
        self
    }

    /// One that asks for no more than `n_max` pages side by side.
    pub(super) fn at_once(self, n_max: usize) -> Self {
        self.state.lock().ranges.limit(n_max);
        self
    }

    /// All of a directory, as a listing without delimiter came by: `items` in the order of keys. Some key
    /// is there, be it the directory's own marker.
    pub(super) fn whole(self, items: Vec<Item>, sent: Instant, told: Told) -> (Self, News) {
        let mut news = News::default();
        let mut state = self.state.lock();
        let page = RawPage::of_items(items, true, sent).shown();
        state.push(&self.prefix, page, true, &mut news);
        drop(state);
        (Self { told: Some(told), ..self }, news)
    }

    /// The first page is to be asked for with a delimiter after all.
    pub(super) fn delimit(&self) {
        self.state.lock().flat = false;
    }

    /// The requests that are to be sent now: that for the next page, and, where `may_go_ahead`, those
    /// that go on behind it. Each is to be answered by [`Snapshot::answer`] or [`Snapshot::fail`].
    pub(super) fn ask(&self, may_go_ahead: bool) -> Vec<(u64, ListRequest)> {
        let mut state = self.state.lock();
        let flat = state.flat;
        let request = |Ask { id, place }| {
            let mut request = ListRequest::directory(self.prefix.as_str());
            match place {
                Place::Beginning => request.delimited = !flat,
                Place::Token(token) => request.continuation = Some(token),
                Place::After(name) => {
                    request.start_after = Some(format!("{}{name}", self.prefix.as_str()));
                }
            }
            (id, request)
        };
        std::iter::from_fn(|| state.ranges.ask(may_go_ahead)).map(request).collect()
    }

    /// Takes a page. Fails where the listing may have no end: with a token that was given before, with
    /// [`IDLE_PAGES_MAX`] pages in a row that bring nothing new, or when it takes too much memory. So
    /// a listing that goes on has ever more names.
    pub(super) fn answer(
        &self,
        id: u64,
        page: ListPage,
        sent: Instant,
    ) -> Result<News, StoreError> {
        let token = page.continuation.clone();
        // A thousand names are taken apart without the lock.
        let page = RawPage::of(self.prefix.as_str(), page, sent);
        let goes_on = token.is_some();
        self.take(id, page, token.as_deref(), goes_on)
    }

    /// As [`Snapshot::answer`] for the first page where that came without delimiter: what it has of this
    /// directory. Where that is not all, `goes_on`.
    pub(super) fn answer_flat(
        &self,
        id: u64,
        items: Vec<Item>,
        has_keys: bool,
        goes_on: bool,
        sent: Instant,
    ) -> Result<News, StoreError> {
        self.take(id, RawPage::of_items(items, has_keys, sent), None, goes_on)
    }

    fn take(
        &self,
        id: u64,
        mut page: RawPage,
        token: Option<&str>,
        goes_on: bool,
    ) -> Result<News, StoreError> {
        let mut news = News::default();
        let mut state = self.state.lock();
        let behind = page.cut(state.ranges.until(id));
        if let Some(token) = token {
            let token = token_hash(id, token);
            state.check_endless(token).map_err(|what| {
                let what = format!("the listing of {:?} {what}", self.prefix.as_str());
                StoreError::new(StoreErrorKind::Other, what)
            })?;
            if state.tokens.insert(token) {
                state.weight.add(TOKEN_BYTES);
            }
        }
        let (first, last) = (page.first.clone(), page.last.clone());
        let facts = Facts {
            first: first.as_deref(),
            last: last.as_deref(),
            n_names: page.n_names,
            n_behind: behind.n_names,
            behind: behind.first.as_deref(),
            ascending: page.in_order,
            token,
            goes_on,
        };
        news.ranges_lost =
            !self.after.is_empty() && first.as_deref().is_some_and(|it| *it <= *self.after);
        let packed = page.pack(&self.prefix);
        let bytes = packed.bytes();
        match state.ranges.answer(id, facts, packed) {
            Ok(true) => state.weight.add(bytes),
            Ok(false) => {}
            Err(disorder) => {
                news.ranges_lost |= disorder == Disorder::Server;
                state.begin_anew(&mut news);
            }
        }
        drop(state);
        // A page at a time, so that readers come between.
        while self.state.lock().take_page(&self.prefix, &mut news) {}
        self.landed.notify_waiters();
        Ok(news)
    }

    /// A request failed; `err` is for whoever waits for the next page, if that was it.
    pub(super) fn fail(&self, id: u64, err: FsError) {
        let mut state = self.state.lock();
        if state.ranges.is_front(id) {
            state.failed = Some(err);
        }
        state.ranges.fail(id);
        drop(state);
        self.landed.notify_waiters();
    }

    /// Why the page that is needed next could not be had, told once.
    pub(super) fn failure(&self) -> Option<FsError> {
        self.state.lock().failed.take()
    }

    /// When the first page was asked for; `None` before it has come.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.state.lock().pages.first().map(|page| page.sent)
    }

    /// The number of the page that is needed next; `None` when the listing is complete.
    pub(super) fn next_index(&self) -> Option<usize> {
        let state = self.state.lock();
        (!state.is_complete).then_some(state.pages.len())
    }

    pub(super) fn n_pages(&self) -> usize {
        self.state.lock().pages.len()
    }

    /// How many pages list it again. What a listing of a whole tree told has come as one.
    pub(super) fn n_pages_again(&self) -> usize {
        let n_pages = self.n_pages();
        match &self.told {
            Some(_) => n_pages.max(self.n_names().div_ceil(usize::from(ListRequest::PAGE_KEYS))),
            None => n_pages,
        }
    }

    /// What it cost, in pages: those of the whole listing that told it, counted once.
    pub(super) fn cost(&self) -> usize {
        match &self.told {
            Some(told) => told.n_pages.load(Ordering::Relaxed).max(1),
            None => self.n_pages(),
        }
    }

    /// Notes that somebody reads it.
    pub(super) fn note_use(&self) {
        if let Some(told) = &self.told {
            told.is_used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was told ahead of somebody who is still to come by.
    pub(super) fn is_awaited(&self, now: Instant) -> bool {
        self.told.as_ref().is_some_and(|told| {
            let is_new = now.saturating_duration_since(told.sent) < AWAITED_TIME;
            is_new && !told.is_used.load(Ordering::Relaxed)
        })
    }

    /// The pages of a listing of a whole tree that told it; none where it was listed by itself.
    pub(super) fn marks(&self) -> &[Arc<Mark>] {
        self.told.as_ref().map_or(&[], |told| &told.marks)
    }

    /// Names so far.
    pub(super) fn n_names(&self) -> usize {
        let state = self.state.lock();
        (0..state.shelf.len()).map(|slot| state.shelf.extent(slot).0).sum()
    }

    /// The directories in it so far, in directory order, but for those of pages that were put away.
    pub(super) fn directories(&self) -> Vec<Box<str>> {
        let state = self.state.lock();
        let blocks = state.shelf.blocks();
        blocks.flat_map(|block| block.directories().map(Into::into)).collect()
    }

    /// The entry before `name` in directory order, and whether that is a directory; `None` where it is
    /// not known.
    pub(super) fn before(&self, name: &str) -> Option<(Box<str>, bool)> {
        let state = self.state.lock();
        let before = state.assembly.is_ordered().then(|| state.shelf.before(name))?;
        before.map(|row| (row.name.into(), row.version.is_none()))
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state.lock().is_complete
    }

    /// Whether it has come in the order of keys so far.
    pub(super) fn is_ordered(&self) -> bool {
        self.state.lock().assembly.is_ordered()
    }

    /// Whether the bucket has a key in this directory; `None` when it has yet to be seen.
    pub(super) fn has_keys(&self) -> Option<bool> {
        let state = self.state.lock();
        let done = state.is_complete;
        if state.assembly.has_keys() { Some(true) } else { done.then_some(false) }
    }

    /// How much longer it is given to new readers without being listed again.
    pub(super) fn left(&self, ages: &Ages, now: Instant) -> Duration {
        let Some(sent) = self.sent() else { return Duration::ZERO };
        let ttl = match self.has_keys() {
            Some(false) => ages.negative,
            _ => ages.metadata(self.cost()),
        };
        ttl.left(now.saturating_duration_since(sent))
    }

    /// What forgetting it would free, once nobody has its entries.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().bytes()
    }

    /// How many blocks there are, and whether no more will come.
    pub(super) fn extent(&self) -> (usize, bool) {
        let state = self.state.lock();
        (state.shelf.len(), state.is_complete)
    }

    /// How many entries the block at `slot` has, and whether `name` lies behind its last.
    pub(super) fn extent_of(&self, slot: usize, name: Option<&str>) -> (usize, bool) {
        let state = self.state.lock();
        let (len, last) = state.shelf.extent(slot);
        (len, name.is_none_or(|name| directory_order(name, last).is_gt()))
    }

    /// The block at `slot`, for a reader; `None` where it was put away.
    pub(super) fn block(&self, slot: usize) -> Option<Arc<Block>> {
        self.state.lock().shelf.read(slot)
    }

    /// As [`Snapshot::block`], without having been there as a reader.
    pub(super) fn look_at(&self, slot: usize) -> Option<Arc<Block>> {
        self.state.lock().shelf.look_at(slot)
    }

    /// Where the entry behind `name` is, by slot and index, which may be one behind the last; breaks where
    /// that cannot be said.
    pub(super) fn place_behind(&self, name: &str) -> ControlFlow<(), (usize, usize)> {
        let state = self.state.lock();
        if !state.assembly.is_ordered() {
            return ControlFlow::Break(());
        }
        state.shelf.place_behind(name).map_or(ControlFlow::Break(()), ControlFlow::Continue)
    }

    /// Puts blocks away that readers have passed, until `bytes` are freed. Gives how many were.
    pub(super) fn put_away(&self, bytes: u64) -> u64 {
        let mut state = self.state.lock();
        if !state.assembly.is_ordered() {
            return 0;
        }
        let before = state.bytes();
        let State { shelf, weight, .. } = &mut *state;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let freed = shelf.put_away(bytes, weight.tick(), weight);
        let n_bytes = before.saturating_sub(state.bytes());
        drop(state);
        // Thousands of names go with them: not under the lock.
        drop(freed);
        n_bytes
    }

    /// The request that lists a block again that was put away, and what takes its pages; `None` when
    /// it is there.
    pub(super) fn again(&self, slot: usize) -> Option<(ListRequest, Again)> {
        let state = self.state.lock();
        let (again, page) = state.shelf.again(slot)?;
        let mut request = ListRequest::directory(self.prefix.as_str());
        let before = page.checked_sub(1).and_then(|before| state.pages.get(before));
        if let Some(PageMark { last, .. }) = before
            && state.assembly.is_ordered()
        {
            request.start_after = Some(format!("{}{last}", self.prefix.as_str()));
        }
        Some((request, again))
    }

    /// Takes a page of it apart.
    pub(super) fn read_page(&self, page: ListPage, sent: Instant) -> RawPage {
        RawPage::of(self.prefix.as_str(), page, sent)
    }

    /// All pages of it have come.
    pub(super) fn put_back(&self, slot: usize, again: &Again) {
        let mut state = self.state.lock();
        let State { shelf, weight, .. } = &mut *state;
        let scales = weight.scales().clone();
        shelf.put_back(slot, again, &self.prefix, &scales, weight);
    }

    /// Which names it is of: those behind this one.
    pub(super) fn begins_after(&self) -> &str {
        &self.after
    }

    /// How far it has come: the last key or common prefix, without the slash.
    pub(super) fn end(&self) -> Box<str> {
        let state = self.state.lock();
        let last = state.pages.last().map_or(&*self.after, |page| &*page.last);
        last.strip_suffix('/').unwrap_or(last).into()
    }

    /// The name that it has `n_names` places before that of `name`, or where it begins.
    pub(super) fn name_before(&self, name: &str, n_names: usize) -> Box<str> {
        let state = self.state.lock();
        let blocks: Vec<_> = state.shelf.blocks().collect();
        let before = |block: &&Arc<Block>| directory_order(block.last_name(), name).is_lt();
        let (earlier, rest) = blocks.split_at(blocks.partition_point(before));
        let within = rest.first().map_or(0, |block| block.search(name).unwrap_or_else(|at| at));
        let near = rest.iter().take(1).flat_map(|block| block.names().take(within));
        let names = earlier.iter().flat_map(|block| block.names()).chain(near);
        // In directory order `a-` comes before `a`, and a page that begins behind it has no `a`.
        let n_all = earlier.iter().map(|block| block.len()).sum::<usize>() + within;
        let names = names.take((n_all + 1).saturating_sub(n_names)).filter(|each| *each < name);
        names.last().unwrap_or(&self.after).into()
    }

    /// How its names are spread.
    pub(super) fn gauge(&self) -> Option<Gauge> {
        let state = self.state.lock();
        let names = state.shelf.blocks().flat_map(|block| block.names());
        Gauge::new(names.take(GAUGED_MAX), usize::from(ListRequest::PAGE_KEYS))
    }

    /// What it says of `name`; `None` when it does not reach so far, or the page was put away.
    pub(super) fn says(&self, name: &str) -> Option<Answer> {
        let begins_before = self.after.is_empty()
            || *self.after < *name && directory_order(&self.after, name).is_lt();
        if !begins_before {
            return None;
        }
        let state = self.state.lock();
        let is_complete = state.is_complete;
        let (what, sent) = match state.find(name) {
            Search::Found(block, index) => {
                let what = match block.row(index)?.version {
                    Some(version) => What::File(version),
                    None => What::Directory { listable: true },
                };
                (what, block.sent)
            }
            Search::Absent if is_complete || state.assembly.has_passed(name) => {
                (What::Absent, state.passed_at(name)?)
            }
            Search::Absent | Search::Away(_) => return None,
        };
        // A piece is not what its directory's listing cost, and not complete.
        let is_whole = self.after.is_empty();
        let n_pages = if is_whole { state.pages.len() } else { 1 };
        drop(state);
        let n_pages = if self.told.is_some() { self.cost() } else { n_pages };
        let source = Source::Listing { is_complete: is_complete && is_whole };
        Some(Answer { what, sent, n_pages, source })
    }

    /// The entry `name`, where it has one.
    pub(super) fn listed(&self, name: &str) -> Option<Listed> {
        let state = self.state.lock();
        let Search::Found(block, index) = state.find(name) else { return None };
        block.touch();
        Some(Listed::at(block, index))
    }

    /// The block that would tell of `name`, had it not been put away.
    pub(super) fn away(&self, name: &str) -> Option<usize> {
        match self.state.lock().find(name) {
            Search::Away(slot) => Some(slot),
            Search::Found(..) | Search::Absent => None,
        }
    }

    /// When the request was sent that would have told of `name`, had it been there.
    pub(super) fn passed_at(&self, name: &str) -> Option<Instant> {
        self.state.lock().passed_at(name)
    }
}

/// Of one range: the pages of two may end at one key, and some servers make their tokens of that.
fn token_hash(range: u64, token: &str) -> u64 {
    xxh3_64_with_seed(token.as_bytes(), range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Object, Version};

    fn page(keys: &[&str], continuation: Option<&str>) -> ListPage {
        let version = Version { etag: None, size: 1, modified: 0 };
        let object = |key: &&str| Object { key: (*key).into(), version: version.clone() };
        let objects = keys.iter().map(object).collect();
        ListPage { objects, continuation: continuation.map(str::to_owned), ..ListPage::default() }
    }

    const ORDER: Order = Order { ordered: true, by_ranges: true };

    /// Answers the one request that there is.
    fn push(listing: &Snapshot, page: ListPage, sent: Instant) -> Result<News, StoreError> {
        let (id, _) = listing.ask(false).remove(0);
        listing.answer(id, page, sent).inspect_err(|err| {
            listing.fail(id, FsError::Store(err.clone()));
        })
    }

    fn snapshot() -> Snapshot {
        Snapshot::new(&DirPath::new("p/"), ORDER, &Scales::default(), 1 << 20)
    }

    fn n_entries(listing: &Snapshot) -> usize {
        (0..listing.extent().0).map(|slot| listing.extent_of(slot, None).0).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_goes_round_in_circles_is_an_error() {
        let listing = snapshot();
        push(&listing, page(&["p/a"], Some("t")), Instant::now()).unwrap();
        assert!(push(&listing, page(&["p/a"], Some("t")), Instant::now()).is_err());
        assert!(!listing.is_complete());
        push(&listing, page(&["p/b"], None), Instant::now()).unwrap();
        assert_eq!(n_entries(&listing), 2);
    }

    /// Pushes what `next` makes until that fails. Gives how many pages were taken.
    fn push_until_it_fails(next: impl Fn(usize) -> ListPage) -> (usize, Snapshot, StoreError) {
        let listing = snapshot();
        for index in 0.. {
            if let Err(err) = push(&listing, next(index), Instant::now()) {
                assert_eq!(listing.n_pages(), index, "it stays as it was");
                return (index, listing, err);
            }
        }
        unreachable!("it does not end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cycle_of_tokens_is_noticed_when_it_closes() {
        let token = |index: usize| format!("t{}", index % 7);
        let key = |index: usize| format!("p/{index:06}");
        let (n, ..) = push_until_it_fails(|at| page(&[&key(at)], Some(&token(at))));
        assert_eq!(n, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_without_news_come_to_an_end() {
        for keys in [&[][..], &["p/a", "p/b"], &["p/b", "p/a"]] {
            let (n, _, err) = push_until_it_fails(|at| page(keys, Some(&format!("token {at}"))));
            assert!((IDLE_PAGES_MAX..IDLE_PAGES_MAX + 5).contains(&n), "{keys:?}: {n} {err}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_without_end_is_given_up_at_its_bound_in_any_order() {
        for descending in [false, true] {
            let (n, listing, _) = push_until_it_fails(|at| {
                let at = if descending { 1_000_000 - at } else { at };
                page(&[&format!("p/{at:07}"), "p/0"], Some(&format!("token {at}")))
            });
            assert!(n < 20_000, "{n}");
            assert!(listing.bytes() > 1 << 20 && listing.bytes() < (1 << 20) + 4096);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_million_deleted_keys_between_two_are_passed_over() {
        let listing = snapshot();
        push(&listing, page(&["p/a"], Some("first")), Instant::now()).unwrap();
        for index in 1..IDLE_PAGES_MAX {
            push(&listing, page(&[], Some(&format!("token {index}"))), Instant::now()).unwrap();
        }
        push(&listing, page(&["p/b"], Some("more")), Instant::now()).unwrap();
        push(&listing, page(&[], Some("and more")), Instant::now()).unwrap();
        push(&listing, page(&["p/c"], None), Instant::now()).unwrap();
        assert_eq!(n_entries(&listing), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn each_name_has_the_age_of_its_own_page() {
        let listing = snapshot();
        let first = Instant::now();
        let second = first + std::time::Duration::from_secs(1);
        push(&listing, page(&["p/a", "p/b"], Some("t")), first).unwrap();
        push(&listing, page(&["p/b-", "p/c"], None), second).unwrap();
        let sent = |name| listing.says(name).unwrap().sent;
        assert_eq!((sent("a"), sent("b"), sent("aa")), (first, first, first));
        assert_eq!(
            (sent("b-"), sent("c"), sent("bb"), sent("d")),
            (second, second, second, second)
        );
    }

    #[test]
    fn a_dropped_listing_weighs_nothing() {
        let scales = Scales::default();
        let listing = Snapshot::new(&DirPath::new("p/"), ORDER, &scales, 1 << 20);
        for (key, token) in [("p/b", Some("1")), ("p/a", Some("2")), ("p/c", None)] {
            push(&listing, page(&[key], token), Instant::now()).unwrap();
        }
        assert!(scales.bytes() > 0);
        drop(listing);
        assert_eq!(scales.bytes(), 0);
    }
}
