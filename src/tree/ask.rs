//! The requests: pages of a listing, and what to ask for one name whose directory is not known.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::answer::{Answer, Source, What};
use super::directory::{Directory, Opening, Plan, REFRESH_PAGES_MAX};
use super::forget::Generation;
use super::listing::shows_order;
use super::snapshot::{IDLE_PAGES_MAX, Need, Snapshot};
use super::{Tree, is_outage};
use crate::error::{FsError, StoreError, StoreErrorKind};
use crate::flight::Wait;
use crate::object::DirPath;
use crate::store::{Head, ListPage, ListRequest};

/// What one LIST of exactly a name said of it.
enum Listed {
    Is(What),
    /// A page full of keys lies between the name and the directory of that name.
    Unclear,
}

/// Two answers that lie further apart may both say no of a name that was there all the time: a file when one
/// was asked for, a directory at the other. One LIST tells of both.
const OF_ONE_MOMENT: Duration = Duration::from_secs(1);

/// How to ask for one name alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Singly {
    /// [`Plan::ListName`].
    Name,
    /// [`Plan::ListBelow`].
    Below,
    /// [`Plan::Probe`].
    Probe,
}

/// A page that was asked for. Dropped without an answer, it is asked for again.
struct Asked {
    /// `None` once there was an answer.
    listing: Option<Arc<Snapshot>>,
    id: u64,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(listing) = &self.listing {
            listing.fail(self.id, FsError::Abandoned);
        }
    }
}

impl Tree {
    /// Answers a lookup for which memory was not enough.
    pub(super) async fn ask(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        name: &str,
    ) -> Result<Answer, FsError> {
        // What is forgotten from now on is for those who ask later.
        let marks = directory.marks();
        let key = (directory.path.clone(), marks.generation(), Box::from(name));
        if let Some(asked) = self.names.joined(&key) {
            return asked.await;
        }
        self.be_in(&directory.path);
        self.list_ahead(&directory.path);
        let by_ranges = self.order().by_ranges;
        let begin = |after: &str| self.begin_after(directory, after);
        let mut plan = directory.plan(name, &self.ages, Instant::now(), by_ranges, &begin);
        let parent = match plan {
            Plan::First if directory.path != self.root => {
                self.known_directory(&directory.path.parent())
            }
            _ => None,
        };
        if parent.as_ref().is_some_and(|parent| parent.lists_children()) {
            plan = Plan::Page(directory.begin(|| begin("")), 0);
        }
        let mut told = None;
        let mut n_pages = 0;
        while let Plan::Page(listing, index) = &plan {
            n_pages += 1;
            match self.bring(directory, listing, *index).await {
                Ok(()) | Err(FsError::ListDenied) => {}
                Err(err)
                    if (*index == 0 && listing.begins_after().is_empty()) || is_outage(&err) =>
                {
                    return Err(err);
                }
                Err(err) => {
                    debug!("list {:?} around {name:?}: {err}", directory.path.as_str());
                    directory.drop_piece(listing);
                    break;
                }
            }
            let answer = listing.says(name).filter(|answer| marks.allow(name, answer.sent));
            told = answer.map(|answer| directory.newest_of(name, answer));
            if told.is_some() {
                break;
            }
            plan = directory.plan_on(name, n_pages, &self.ages, Instant::now(), by_ranges, &begin);
        }
        let was_listed = told.is_some();
        let answer = match told {
            Some(answer) => answer,
            None => {
                let plan = self.without_old_listing(directory, name, &plan);
                self.ask_singly(directory, key, plan).await?
            }
        };
        if let Some(parent) = parent {
            let leads_on = matches!(answer.what, What::Directory { .. });
            parent.learn_of_child(!leads_on && (was_listed || matches!(plan, Plan::First)));
        }
        Ok(answer)
    }

    /// How to ask for `name` alone. A probe would take what is known of the directory `name` for an answer:
    /// not where the name was forgotten since, and what is below it was not.
    fn without_old_listing(&self, directory: &Directory, name: &str, plan: &Plan) -> Singly {
        let is_old = || {
            let child = self.known_directory(&directory.path.child(name))?;
            Some(!directory.marks().allow(name, child.listed_at()?))
        };
        match plan {
            Plan::ListBelow => Singly::Below,
            Plan::Probe | Plan::First if is_old() != Some(true) => Singly::Probe,
            _ => Singly::Name,
        }
    }

    /// Asks for the names that were forgotten in a long listing, so that it can be shown on. What
    /// fails is left to the listing.
    pub(super) async fn ask_for_forgotten(self: &Arc<Self>, directory: &Arc<Directory>) {
        for name in directory.forgotten_names() {
            let plan = self.without_old_listing(directory, &name, &directory.plan_alone(&name));
            let generation = directory.marks().generation();
            let key = (directory.path.clone(), generation, name.clone());
            if let Err(err) = self.ask_singly(directory, key, plan).await {
                debug!("{}{name}, which was forgotten: {err}", directory.path.as_str());
                return;
            }
        }
    }

    /// The answer to a question about one name alone, which it shares with all who ask the same.
    async fn ask_singly(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        key: (DirPath, Generation, Box<str>),
        plan: Singly,
    ) -> Result<Answer, FsError> {
        let (tree, about, name) = (Arc::clone(self), Arc::clone(directory), key.2.clone());
        let work = async move {
            let sent = Instant::now();
            let what = match plan {
                Singly::Below if tree.has_directory(&about, &name).await? => {
                    What::Directory { listable: true }
                }
                Singly::Below | Singly::Name => tree.list_name_else_probe(&about, &name).await?,
                Singly::Probe => tree.probe(&about, &name).await?,
            };
            let answer = Answer { what, sent, n_pages: 1, source: Source::Single };
            let answer = about.tell(&name, answer);
            tree.trim();
            Ok(answer)
        };
        self.names.join(&self.runtime, &key, work).await
    }

    /// Waits for the page `index` of `listing`.
    async fn bring(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        listing: &Arc<Snapshot>,
        index: usize,
    ) -> Result<(), FsError> {
        if index == 0 {
            return self.has_keys(directory, listing).await.map(drop);
        }
        if listing.next_index() != Some(index) {
            return Ok(());
        }
        match self.page(directory, listing, false) {
            Some(page) => page.await,
            None => Ok(()),
        }
    }

    /// Lists those directories again in which names that are missing in `dir` were looked for next: also
    /// those whose time is over soon, so that they all come to be listed at one time.
    fn list_ahead(self: &Arc<Self>, dir: &DirPath) {
        let now = Instant::now();
        let known = |path: DirPath| self.known_directory(&path);
        for next in self.searches.after(dir).into_iter().filter_map(known) {
            if next.is_small(&self.ages) && next.forgets_absences(&self.ages, now) {
                self.searches.list_ahead(&next.path);
                let listing = next.begin(|| self.begin(&next));
                // Nobody waits for it.
                drop(self.next_page(&next, &listing));
            }
        }
    }

    /// Lists `directory` again while old answers go on.
    pub(super) fn refresh(self: &Arc<Self>, directory: &Arc<Directory>) {
        let (tree, about) = (Arc::clone(self), Arc::clone(directory));
        let work = async move {
            let now = Instant::now();
            let (listing, n_pages) = about.begin_refresh(|| tree.begin(&about), &tree.ages, now);
            while listing.n_pages() < n_pages {
                let Some(page) = tree.next_page(&about, &listing) else { break };
                if let Err(err) = page.await {
                    debug!("list {:?} again: {err}", about.path.as_str());
                    if is_outage(&err) {
                        tree.warn_of_outage(&err);
                    }
                    break;
                }
            }
            Ok(())
        };
        // Nobody waits for it.
        let key = (directory.path.clone(), directory.marks().generation());
        drop(self.refreshes.join(&self.runtime, &key, work));
    }

    /// Asks for pages until it is seen whether the directory has keys: one, but for servers that
    /// give empty pages.
    pub(super) async fn has_keys(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        listing: &Arc<Snapshot>,
    ) -> Result<bool, FsError> {
        loop {
            if let Some(has_keys) = listing.has_keys() {
                return Ok(has_keys);
            }
            if let Some(page) = self.next_page(directory, listing) {
                page.await?;
            }
        }
    }

    /// The flight of the listing's next page; `None` when it is complete.
    pub(super) fn next_page(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        listing: &Arc<Snapshot>,
    ) -> Option<Wait<Result<(), FsError>>> {
        self.page(directory, listing, true)
    }

    /// As [`Tree::next_page`]; `is_read` says that those behind it will be asked for, too.
    fn page(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        listing: &Arc<Snapshot>,
        is_read: bool,
    ) -> Option<Wait<Result<(), FsError>>> {
        let index = listing.next_index()?;
        let (tree, about, pages) = (Arc::clone(self), Arc::clone(directory), Arc::clone(listing));
        let work = async move { tree.bring_page(&about, &pages, index, is_read).await };
        Some(listing.flights.join(&self.runtime, &Need::Page(index), work))
    }

    /// Waits until the page `index` is there, and keeps requests on their way meanwhile: for it, and
    /// where the listing is long for what comes behind it. So nothing is asked for a listing that
    /// nobody reads on.
    async fn bring_page(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        listing: &Arc<Snapshot>,
        index: usize,
        is_read: bool,
    ) -> Result<(), FsError> {
        // Of a time when nobody waited.
        drop(listing.failure());
        loop {
            let mut landed = pin!(listing.landed.notified());
            // From here on nothing is missed.
            landed.as_mut().enable();
            if listing.next_index() != Some(index) {
                return Ok(());
            }
            if let Some(err) = listing.failure() {
                return Err(err);
            }
            let may_go_ahead = is_read && self.held() < self.bytes_max;
            for (id, request) in listing.ask(may_go_ahead) {
                let asked = Asked { listing: Some(Arc::clone(listing)), id };
                let (tree, about) = (Arc::clone(self), Arc::clone(directory));
                self.runtime.spawn(async move { tree.send(&about, asked, request).await });
            }
            landed.await;
        }
    }

    /// Lists the page again whose block at `slot` was put away.
    pub(super) async fn bring_back(
        self: &Arc<Self>,
        listing: &Arc<Snapshot>,
        slot: usize,
    ) -> Result<(), FsError> {
        let (tree, about) = (Arc::clone(self), Arc::clone(listing));
        let work = async move {
            let Some((mut request, mut again)) = about.again(slot) else { return Ok(()) };
            if !tree.lists_by_ranges.load(Ordering::Relaxed) {
                request.start_after = None;
            }
            for _ in 0..IDLE_PAGES_MAX {
                let sent = Instant::now();
                let page = tree.store.list(request.clone()).await?;
                let next = page.continuation.clone();
                let is_last = next.is_none();
                if again.push(about.read_page(page, sent), is_last) {
                    about.put_back(slot, &again);
                    tree.trim();
                    return Ok(());
                }
                request.continuation = next;
            }
            let what = format!("the listing of {:?} does not come to where it was", request.prefix);
            Err(FsError::Store(StoreError::new(StoreErrorKind::Other, what)))
        };
        listing.flights.join(&self.runtime, &Need::Block(slot), work).await
    }

    async fn send(&self, directory: &Directory, mut asked: Asked, request: ListRequest) {
        let sent = Instant::now();
        let Some(listing) = asked.listing.as_ref().map(Arc::clone) else { return };
        let answer = if request.delimited {
            let page = self.store.list(request).await;
            page.and_then(|page| listing.answer(asked.id, page, sent)).map_err(FsError::Store)
        } else {
            self.list_flat_first(directory, &listing, asked.id, request, sent).await
        };
        asked.listing = None;
        match answer {
            Ok(news) => self.note(directory, &listing, &news),
            Err(FsError::Store(err))
                if err.kind() == StoreErrorKind::Denied && listing.n_pages() == 0 =>
            {
                directory.deny(sent, err);
                listing.fail(asked.id, FsError::ListDenied);
            }
            Err(err) => listing.fail(asked.id, err),
        }
    }

    /// HEAD of the name and LIST of the directory of that name, at once. That LIST is a full page
    /// and is kept: the next component of a path, or opendir, is already answered.
    async fn probe(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        name: &str,
    ) -> Result<What, FsError> {
        let sent = Instant::now();
        let head = self.spawn_head(directory.path.key(name));
        let is_directory = match self.probe_directory(directory, name, self.may_list_flat()).await {
            Ok(is_directory) => Some(is_directory),
            Err(FsError::ListDenied) => None,
            Err(err) => return Err(err),
        };
        if is_directory == Some(true) {
            // The directory wins whatever the HEAD says, so nobody waits for it.
            let (tree, dir, name) = (Arc::clone(self), directory.path.clone(), name.to_owned());
            self.runtime.spawn(async move {
                if let Ok(Ok(_)) = head.await {
                    tree.warn_of_shadow(dir.as_str(), &name);
                }
            });
            return Ok(What::Directory { listable: true });
        }
        let head = match head.await {
            Ok(head) => head,
            Err(_) => return Err(FsError::Abandoned),
        };
        match (head.map_err(|err| (err.kind(), err)), is_directory) {
            (Ok(head), _) => Ok(What::File(head.version)),
            (Err((StoreErrorKind::NotFound, _)), Some(_)) if sent.elapsed() < OF_ONE_MOMENT => {
                Ok(What::Absent)
            }
            (Err((StoreErrorKind::NotFound, _)), Some(_)) => {
                match self.list_name(directory, name).await {
                    Ok(Listed::Is(what)) => Ok(what),
                    Err(err) if err.kind().is_transient() => Err(err.into()),
                    // As good as it gets: too many keys between, or a prefix that may not be listed.
                    Ok(Listed::Unclear) | Err(_) => Ok(What::Absent),
                }
            }
            // LIST is denied as well: nothing speaks against a directory.
            (Err((StoreErrorKind::NotFound | StoreErrorKind::Denied, _)), None) => {
                if let Some(what) = self.by_listing(directory, name).await? {
                    return Ok(what);
                }
                self.warn_of_guess(&self.directory(&directory.path.child(name)));
                Ok(What::Directory { listable: false })
            }
            // Some servers deny the HEAD of a missing key, and LIST of `name/` does not cover it.
            (Err((StoreErrorKind::Denied, err)), Some(_)) => {
                match self.list_name(directory, name).await {
                    Ok(Listed::Is(what)) => Ok(what),
                    Ok(Listed::Unclear) => Err(err.into()),
                    Err(err) => Err(err.into()),
                }
            }
            (Err((_, err)), _) => Err(err.into()),
        }
    }

    /// What the listing of its directory says of a name of which nothing may be asked by itself: a
    /// policy may allow the listing of some directories only, each by its exact prefix.
    async fn by_listing(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        name: &str,
    ) -> Result<Option<What>, FsError> {
        let opening = directory.open(|| self.begin(directory), &self.ages, Instant::now());
        let listing = match opening {
            Opening::Known(listing)
            | Opening::KnownAndRefresh(listing)
            | Opening::Begun(listing) => listing,
            Opening::Denied => return Ok(None),
        };
        for _ in 0..=REFRESH_PAGES_MAX {
            if let Some(answer) = listing.says(name) {
                return Ok(Some(directory.newest_of(name, answer).what));
            }
            let Some(page) = self.next_page(directory, &listing) else { break };
            match page.await {
                Ok(()) => {}
                Err(FsError::ListDenied) => break,
                Err(err) => return Err(err),
            }
        }
        Ok(None)
    }

    fn spawn_head(&self, key: String) -> tokio::task::JoinHandle<Result<Head, StoreError>> {
        let store = Arc::clone(&self.store);
        self.runtime.spawn(async move { store.head(&key).await })
    }

    /// Whether `name` is a directory, from the first page of its own listing; `flat` has that tell of what
    /// is below, too.
    async fn probe_directory(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        name: &str,
        flat: bool,
    ) -> Result<bool, FsError> {
        let child = self.directory(&directory.path.child(name));
        // What is below may be needed next, and costs nothing.
        let begin = || match flat {
            true => self.begin(&child).flat_first(),
            false => self.begin(&child),
        };
        // What was listed before the name was forgotten is no answer, though what is below it may be known
        // on. Who asked before may have it.
        let marks = directory.marks();
        let is_old =
            |listing: &Snapshot| listing.sent().is_some_and(|sent| !marks.allow(name, sent));
        let has_keys = loop {
            let listing = match child.open(begin, &self.ages, Instant::now()) {
                Opening::Known(listing) | Opening::KnownAndRefresh(listing) if is_old(&listing) => {
                    child.begin(begin)
                }
                Opening::Known(listing)
                | Opening::KnownAndRefresh(listing)
                | Opening::Begun(listing) => listing,
                Opening::Denied => return Err(FsError::ListDenied),
            };
            let has_keys = self.has_keys(&child, &listing).await?;
            if !is_old(&listing) {
                break has_keys;
            }
        };
        if !has_keys {
            // The name is a file or nothing: no directory to remember.
            self.directories.lock().pop(&child.path);
        }
        Ok(has_keys)
    }

    /// Whether the directory `name`, which was forgotten, is still there: by the page that its reader wants
    /// next. No where it may not be listed.
    async fn has_directory(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        name: &str,
    ) -> Result<bool, FsError> {
        match self.probe_directory(directory, name, false).await {
            Err(FsError::ListDenied) => Ok(false),
            answer => answer,
        }
    }

    async fn list_name_else_probe(
        self: &Arc<Self>,
        directory: &Arc<Directory>,
        name: &str,
    ) -> Result<What, FsError> {
        match self.list_name(directory, name).await {
            Ok(Listed::Is(what)) => Ok(what),
            Err(err) if err.kind().is_transient() => Err(err.into()),
            // Denied for this prefix, or a server whose prefixes must end in `/`.
            Ok(Listed::Unclear) | Err(_) => self.probe(directory, name).await,
        }
    }

    /// One LIST of exactly that name.
    async fn list_name(&self, directory: &Directory, name: &str) -> Result<Listed, StoreError> {
        let key = directory.path.key(name);
        let page = self.store.list(ListRequest::directory(&key)).await?;
        let ordered = self.lists_in_order.load(Ordering::Relaxed);
        Ok(read_name(&key, &page, ordered))
    }
}

/// What a delimited page with the prefix `key` says of the name that `key` ends in.
fn read_name(key: &str, page: &ListPage, ordered: bool) -> Listed {
    let directory = format!("{key}/");
    if page.prefixes.contains(&directory) {
        return Listed::Is(What::Directory { listable: true });
    }
    let keys = page.objects.iter().map(|object| &*object.key);
    let last = keys.chain(page.prefixes.iter().map(String::as_str)).max();
    let passed = ordered && shows_order(page) && last.is_some_and(|last| last > directory.as_str());
    if page.continuation.is_some() && !passed {
        return Listed::Unclear;
    }
    let object = page.objects.iter().find(|object| &*object.key == key);
    Listed::Is(object.map_or(What::Absent, |object| What::File(object.version.clone())))
}
