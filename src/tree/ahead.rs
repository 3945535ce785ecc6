//! What is asked for before somebody needs it, without delimiter: a tree ahead of its walker, and what
//! lies below a name that was looked up.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;
use tracing::{debug, info};

use super::Tree;
use super::directory::Directory;
use super::snapshot::{News, Snapshot, Told};
use super::sweep::{Bounds, Mark, REACH_PAGES, Reach, Step, Sweep};
use super::unfold::{Piece, Unfold};
use super::walk::Recognized;
use crate::error::{FsError, StoreError, StoreErrorKind};
use crate::object::DirPath;
use crate::store::{ListPage, ListRequest};

/// Pages that a sweep may have ahead of its walker, whatever the memory.
const AHEAD_PAGES_MAX: usize = 64;

/// A page of names in memory, for the bound on those ahead.
const PAGE_BYTES: u64 = 128 << 10;

/// What may be ahead of walkers: one in so many bytes of what all names may take.
const AHEAD_SHARE: u64 = 4;

/// Pages that one who waits for a directory sees come before he asks for it by himself.
const STEPS_MAX: usize = 3;

/// Ranges that a sweep begins with.
const FIRST_RANGES_MAX: usize = 8;

/// Directories that are told before what is too much is forgotten.
const TOLD_AT_ONCE: usize = 256;

/// A request of a sweep. Dropped without an answer, the sweep has ended.
struct Asked(Option<Arc<Sweep>>);

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(sweep) = &self.0 {
            sweep.fail();
            sweep.landed.notify_waiters();
        }
    }
}

impl Tree {
    /// Whether listings without delimiter are of use: they are put together by the order of keys.
    pub(super) fn may_list_flat(&self) -> bool {
        self.lists_flat.load(Ordering::Relaxed)
            && self.lists_at_all.load(Ordering::Relaxed)
            && self.lists_in_order.load(Ordering::Relaxed)
            && self.lists_by_ranges.load(Ordering::Relaxed)
            && self.ages.hold_for_a_while()
    }

    /// Before a directory is asked for: waits for the sweep of somebody's walk, where that is about to
    /// tell of it, and begins one where this shows that somebody walks.
    pub(super) async fn walk_to(self: &Arc<Self>, directory: &Arc<Directory>) {
        let is_told = || !directory.must_be_asked(&self.ages, Instant::now());
        let Some(sweep) = self.sweep_for(directory, is_told) else { return };
        let (path, start) = self.place_in(&sweep, &directory.path);
        let mut steps: Vec<Step> = Vec::new();
        loop {
            let mut landed = pin!(sweep.landed.notified());
            // From here on nothing is missed.
            landed.as_mut().enable();
            if is_told() {
                return;
            }
            self.go_ahead(&sweep);
            let Reach::Before(step) = sweep.reach(&path) else { return };
            if let Some((id, request)) = sweep.want(&path, &start, step) {
                self.spawn_sweep(&sweep, id, request);
            }
            let place = |step: &Step| (step.range, step.n_pages);
            if steps.last().is_none_or(|last| place(last) != place(&step)) {
                steps.push(step);
            }
            // One that does not end on the second page is long.
            let n_inside = steps.iter().filter(|step| step.inside).count();
            if steps.len() > STEPS_MAX || n_inside > 1 {
                return;
            }
            landed.await;
        }
    }

    /// As [`Tree::walk_to`] for one that is to be listed again behind while `old` answers. True where a
    /// sweep does that.
    pub(super) fn walk_behind(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        old: &Arc<Snapshot>,
    ) -> bool {
        let is_told = || directory.listing().is_some_and(|newest| !Arc::ptr_eq(&newest, old));
        let Some(sweep) = self.sweep_for(directory, is_told) else { return false };
        let path = &directory.path.as_str()[sweep.top.as_str().len()..];
        let comes_by = matches!(sweep.reach(path), Reach::Before(_));
        if comes_by {
            sweep.go_by(path);
            self.go_ahead(&sweep);
        }
        comes_by
    }

    /// Somebody reads what `listing` told.
    pub(super) fn note_use(self: &Arc<Self>, directory: &Directory, listing: &Snapshot) {
        let now = Instant::now();
        listing.note_use();
        for mark in listing.marks() {
            if mark.note_use(now)
                && let Some(sweep) = mark.sweep()
            {
                self.walks.use_above(&sweep.top, &self.root, now);
                self.go_ahead(&sweep);
            }
        }
        if listing.marks().is_empty() && listing.is_complete() && self.may_list_flat() {
            self.walks.count(&directory.path, &self.root, listing.n_names());
        }
    }

    /// The sweep that is to tell of `directory`, which somebody wants and which had to be asked for a
    /// moment ago. `is_told` says that it is known by now.
    fn sweep_for(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        is_told: impl FnOnce() -> bool,
    ) -> Option<Arc<Sweep>> {
        if !self.may_list_flat() || directory.path == self.root {
            return None;
        }
        let (path, now) = (&directory.path, Instant::now());
        if let Some(sweep) = self.walks.sweep(path, &self.root, now) {
            match sweep.reach(&path.as_str()[sweep.top.as_str().len()..]) {
                Reach::Before(_) => return Some(sweep),
                Reach::Passed => {}
                Reach::Stalled if sweep.top == path.parent() => {
                    sweep.credit.walk(now);
                    return None;
                }
                Reach::Stalled => {}
            }
        }
        // What has passed by meanwhile, or has come to its end, told of it: it needs no other one.
        if is_told() {
            return None;
        }
        let parent = self.known_directory(&path.parent());
        let name = name_of(path);
        let follows = |before: &str| {
            let before = before.trim_end_matches('/');
            let listing = parent.as_ref().and_then(|parent| parent.listing());
            let directories = listing.map(|listing| listing.directories()).unwrap_or_default();
            let at = directories.iter().position(|each| **each == *before);
            at.is_some_and(|at| directories.get(at + 1).is_some_and(|next| **next == *name))
        };
        let recognized = self.walks.note(path, &self.root, now, follows)?;
        let sweep = self.begin_sweep(path, recognized);
        self.walks.begin(&sweep);
        debug!("somebody walks through {:?}: it is listed ahead", sweep.top.as_str());
        Some(sweep)
    }

    /// A sweep of all that is beside and behind the directory `path`.
    fn begin_sweep(&self, path: &DirPath, walk: Recognized) -> Arc<Sweep> {
        let top = path.parent();
        let page_names = usize::from(ListRequest::PAGE_KEYS);
        let listing = self.known_directory(&top).and_then(|directory| directory.listing());
        let is_short = listing.as_ref().is_none_or(|listing| listing.n_pages() <= 1);
        // What was walked is listed again where that costs nothing, so that it holds as long as the rest.
        let from_start = is_short && walk.n_names <= page_names / 2;
        let start = if from_start { String::new() } else { self.start_of(path, &top) };
        let directories = listing.map(|listing| listing.directories()).unwrap_or_default();
        let name = name_of(path);
        let n_before = match from_start {
            true => 0,
            false => directories.iter().take_while(|each| ***each != *name).count(),
        };
        let rest = &directories[n_before..];
        let n_names = rest.len() * walk.n_names / walk.n_children.max(1);
        let window = usize::try_from(self.bytes_max / AHEAD_SHARE / PAGE_BYTES)
            .unwrap_or(usize::MAX)
            .clamp(1, AHEAD_PAGES_MAX);
        let n_soon = walk.credit.n_soon(Instant::now()).min(window);
        let n_ranges = n_names.div_ceil(page_names).min(n_soon) / REACH_PAGES as usize;
        let n_per_range = (rest.len() * page_names * REACH_PAGES as usize).div_ceil(n_names.max(1));
        // Behind all that is in a directory: `0` comes after `/`.
        let seams = (1..n_ranges.clamp(1, FIRST_RANGES_MAX)).filter_map(|index| {
            let at = (n_per_range * index).checked_sub(1)?;
            rest.get(at).map(|before| format!("{before}0"))
        });
        let seams: Vec<String> = seams.collect();
        let bounds = Bounds { window, at_once: self.pages_at_once() };
        Sweep::new(&top, &start, &seams, walk.credit, bounds, &self.scales)
    }

    /// `path`, and the last possible key before all that is in it, both without the prefix of `sweep`.
    fn place_in(&self, sweep: &Sweep, path: &DirPath) -> (String, String) {
        let below = path.as_str()[sweep.top.as_str().len()..].to_owned();
        (below, self.start_of(path, &sweep.top))
    }

    /// The last possible key before all that is in `path`, without `top`: of what its parent has before
    /// it, as names like `a-b` lie between `a` and `a/`.
    fn start_of(&self, path: &DirPath, top: &DirPath) -> String {
        let parent = path.parent();
        let name = name_of(path);
        let above = &parent.as_str()[top.as_str().len()..];
        let listing = self.known_directory(&parent).and_then(|parent| parent.listing());
        match listing.and_then(|listing| listing.before(name)) {
            Some((before, true)) => format!("{above}{before}0"),
            Some((before, false)) => format!("{above}{before}/"),
            None => format!("{above}{name}"),
        }
    }

    /// Asks for what is worth it now.
    fn go_ahead(self: &Arc<Self>, sweep: &Arc<Sweep>) {
        if self.scales.bytes() > self.bytes_max {
            return;
        }
        for (id, request) in sweep.ask(Instant::now()) {
            self.spawn_sweep(sweep, id, request);
        }
    }

    fn spawn_sweep(self: &Arc<Self>, sweep: &Arc<Sweep>, id: u64, request: ListRequest) {
        let (tree, sweep) = (Arc::clone(self), Arc::clone(sweep));
        let mut asked = Asked(Some(Arc::clone(&sweep)));
        self.runtime.spawn(async move {
            let sent = Instant::now();
            let answer = tree.store.list(request).await;
            match answer.map(|page| sweep.answer(id, &page, sent)) {
                Ok(Ok(pieces)) => {
                    let n_names = pieces.iter().map(|piece| piece.items.len()).sum();
                    tree.walks.count(&sweep.top, &tree.root, n_names);
                    tree.tell(&sweep.top, pieces, sent, &sweep.credit.n_pages);
                    sweep.told();
                }
                Ok(Err(())) => {
                    tree.give_up_flat("the server lists a tree in another order than that of keys");
                }
                Err(err) => {
                    if err.kind() == StoreErrorKind::Denied {
                        tree.give_up_flat("listings without delimiter are denied");
                    }
                    debug!("list what is below {:?}: {err}", sweep.top.as_str());
                    sweep.fail();
                }
            }
            drop(asked.0.take());
            sweep.landed.notify_waiters();
            tree.go_ahead(&sweep);
        });
    }

    fn give_up_flat(&self, why: &str) {
        if self.lists_flat.swap(false, Ordering::Relaxed) {
            info!("{why}: each directory is listed by itself");
        }
    }

    /// Writes down directories that were told, whole, by one listing.
    fn tell(
        &self,
        top: &DirPath,
        pieces: Vec<Piece<Mark>>,
        sent: Instant,
        n_pages: &Arc<AtomicUsize>,
    ) {
        for (index, piece) in pieces.into_iter().enumerate() {
            let Piece { path, items, marks, .. } = piece;
            let directory = self.directory(&DirPath::new(&top.key(&path)));
            // The oldest page that told of it.
            let sent = items.iter().map(|item| item.sent).min().unwrap_or(sent);
            let told = Told::new(marks, n_pages, sent);
            let (listing, news) = self.begin(&directory).whole(items, sent, told);
            let listing = Arc::new(listing);
            if directory.adopt(&listing) {
                self.hear(&directory, &listing, &news);
            }
            if index % TOLD_AT_ONCE == TOLD_AT_ONCE - 1 {
                self.trim();
            }
        }
        self.trim();
    }

    /// The first page of a listing, where that is asked for without delimiter: what it tells of
    /// directories below is written down, too.
    pub(super) async fn list_flat_first(
        &self,
        directory: &Directory,
        listing: &Arc<Snapshot>,
        id: u64,
        request: ListRequest,
        sent: Instant,
    ) -> Result<News, FsError> {
        match self.store.list(request.clone()).await {
            Ok(page) => {
                if let Some(news) = self.take_flat(directory, listing, id, &page, sent) {
                    return news.map_err(FsError::Store);
                }
                self.give_up_flat("the server lists a tree in another order than that of keys");
            }
            Err(err) if err.kind() == StoreErrorKind::Denied => {}
            Err(err) => return Err(FsError::Store(err)),
        }
        listing.delimit();
        let request = ListRequest { delimited: true, ..request };
        let sent = Instant::now();
        let page = self.store.list(request).await?;
        self.give_up_flat("listings without delimiter are denied");
        Ok(listing.answer(id, page, sent)?)
    }

    /// Takes the first page of a listing without delimiter. `None` where it is in no order that it could
    /// be put together by.
    fn take_flat(
        &self,
        directory: &Directory,
        listing: &Snapshot,
        id: u64,
        page: &ListPage,
        sent: Instant,
    ) -> Option<Result<News, StoreError>> {
        let prefix = directory.path.as_str();
        let goes_on = page.continuation.is_some();
        let mut keys: Vec<_> = page.objects.iter().collect();
        if !keys.is_sorted_by(|a, b| a.key < b.key) {
            if goes_on {
                return None;
            }
            keys.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            keys.dedup_by(|a, b| a.key == b.key);
        }
        let mark = Mark::single();
        let mut unfold = Unfold::new("");
        let mut pieces = Vec::new();
        for object in &keys {
            let rest = object.key.strip_prefix(prefix)?;
            unfold.push(rest, object.version.clone(), sent, &mark, &mut pieces);
        }
        let top = if goes_on {
            unfold.into_top()
        } else {
            unfold.end(&mut pieces);
            pieces.pop()
        };
        let items = top.map_or_else(Vec::new, |top| top.items);
        let has_keys = !keys.is_empty();
        let news = listing.answer_flat(id, items, has_keys, goes_on, sent);
        if news.is_ok() {
            self.tell(&directory.path, pieces, sent, &Arc::new(AtomicUsize::new(1)));
        }
        Some(news)
    }
}

/// The last component of a directory's path, without its `/`.
fn name_of(path: &DirPath) -> &str {
    let trimmed = path.as_str().trim_end_matches('/');
    &trimmed[trimmed.rfind('/').map_or(0, |slash| slash + 1)..]
}
