//! One listing of one directory as it grows page by page: what its readers share.
//! Invariant: what it has given out never changes; pages only come after what is there. So a
//! position in it means the same entry for as long as anybody holds it.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::answer::{Answer, Source, What};
use super::block::Block;
use super::listing::Assembly;
use super::name::directory_order;
use super::weight::{Scales, Weight};
use crate::error::{FsError, StoreError, StoreErrorKind};
use crate::flight::Flights;
use crate::object::DirPath;
use crate::store::{ListPage, ListRequest};

/// A listing, complete or on its way.
pub(super) struct Snapshot {
    prefix: DirPath,
    state: Mutex<State>,
    /// By the number of the page: it is asked for once, however many readers need it.
    pub(super) flights: Flights<usize, Result<(), FsError>>,
}

struct State {
    assembly: Assembly,
    blocks: Vec<Arc<Block>>,
    /// One for each page that has come.
    pages: Vec<PageMark>,
    next: Next,
    weight: Weight,
}

/// Bytes of a listing without entries and pages: by the resident set of 100,000 small ones.
const SNAPSHOT_BYTES: usize = size_of::<Snapshot>() + 384;

/// How far a page came, and when it was asked for.
struct PageMark {
    /// Its last key or common prefix, without the directory's prefix.
    last: Box<str>,
    sent: Instant,
}

enum Next {
    First,
    After(String),
    Done,
}

/// What a page taught beside its entries, for the log.
#[derive(Default, Debug)]
pub(super) struct News {
    pub(super) shadowed: Vec<String>,
    pub(super) n_hidden: usize,
    /// The server was found to list in another order than that of keys.
    pub(super) order_lost: bool,
}

impl Snapshot {
    pub(super) fn new(prefix: &DirPath, ordered: bool, scales: &Scales) -> Self {
        let state = State {
            assembly: Assembly::new(prefix.as_str(), ordered),
            blocks: Vec::new(),
            pages: Vec::new(),
            next: Next::First,
            weight: scales.weight(SNAPSHOT_BYTES),
        };
        Self {
            prefix: prefix.clone(),
            state: Mutex::new(state),
            flights: Flights::new(Err(FsError::Abandoned)),
        }
    }

    /// The number of the next page and the request for it; `None` when the listing is complete.
    pub(super) fn next_request(&self) -> Option<(usize, ListRequest)> {
        let state = self.state.lock();
        let continuation = match &state.next {
            Next::First => None,
            Next::After(token) => Some(token.clone()),
            Next::Done => return None,
        };
        let request = ListRequest { continuation, ..ListRequest::directory(self.prefix.as_str()) };
        Some((state.pages.len(), request))
    }

    /// Takes the next page. Fails, and stays as it was, when the server would have us ask for the
    /// same page for ever.
    pub(super) fn push(&self, page: ListPage, sent: Instant) -> Result<News, StoreError> {
        let mut state = self.state.lock();
        let next = match (&page.continuation, &state.next) {
            (Some(token), Next::After(before)) if token == before => {
                let what = format!("the listing of {:?} does not go on", self.prefix.as_str());
                return Err(StoreError::new(StoreErrorKind::Other, what));
            }
            (Some(token), _) => Next::After(token.clone()),
            (None, _) => Next::Done,
        };
        let State { assembly, blocks, pages, weight, .. } = &mut *state;
        let was_ordered = assembly.is_ordered();
        // Made only where the end of an unordered listing asks.
        let given = OnceCell::new();
        let is_given = |name: &str| {
            let names = || blocks.iter().flat_map(|block| block.names()).collect::<HashSet<_>>();
            given.get_or_init(names).contains(name)
        };
        let gain = assembly.push(page, sent, is_given);
        let last: Box<str> = assembly.last().into();
        weight.add(size_of::<PageMark>() + last.len());
        pages.push(PageMark { last, sent });
        for block in Block::pack(&gain.items) {
            weight.add(block.bytes());
            blocks.push(Arc::new(block));
        }
        if matches!(next, Next::Done) {
            blocks.shrink_to_fit();
            pages.shrink_to_fit();
        }
        let order_lost = was_ordered && !assembly.is_ordered();
        state.next = next;
        Ok(News { shadowed: gain.shadowed, n_hidden: gain.n_hidden, order_lost })
    }

    /// When the first page was asked for; `None` before it has come.
    pub(super) fn sent(&self) -> Option<Instant> {
        self.state.lock().pages.first().map(|page| page.sent)
    }

    pub(super) fn n_pages(&self) -> usize {
        self.state.lock().pages.len()
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state.lock().next, Next::Done)
    }

    /// Whether it has come in the order of keys so far.
    pub(super) fn is_ordered(&self) -> bool {
        self.state.lock().assembly.is_ordered()
    }

    /// Whether the bucket has a key in this directory; `None` when it has yet to be seen.
    pub(super) fn has_keys(&self) -> Option<bool> {
        let state = self.state.lock();
        let done = matches!(state.next, Next::Done);
        if state.assembly.has_keys() { Some(true) } else { done.then_some(false) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().weight.bytes()
    }

    /// The blocks after the first `n_taken`, and whether no more will come.
    pub(super) fn blocks_after(&self, n_taken: usize) -> (Vec<Arc<Block>>, bool) {
        let state = self.state.lock();
        (state.blocks[n_taken..].to_vec(), matches!(state.next, Next::Done))
    }

    /// What it says of `name`; `None` when it does not reach so far.
    pub(super) fn says(&self, name: &str) -> Option<Answer> {
        let state = self.state.lock();
        let is_complete = matches!(state.next, Next::Done);
        let (what, sent) = match state.find(name) {
            Some(found) => found,
            None if is_complete || state.assembly.has_passed(name) => {
                (What::Absent, state.passed_at(name)?)
            }
            None => return None,
        };
        let source = Source::Listing { is_complete };
        Some(Answer { what, sent, n_pages: state.pages.len(), source })
    }

    /// When the request was sent that would have told of `name`, had it been there.
    pub(super) fn passed_at(&self, name: &str) -> Option<Instant> {
        self.state.lock().passed_at(name)
    }
}

impl State {
    fn find(&self, name: &str) -> Option<(What, Instant)> {
        let (block, index) = if self.assembly.is_ordered() {
            let before = |block: &Arc<Block>| directory_order(block.last_name(), name).is_lt();
            let block = self.blocks.get(self.blocks.partition_point(before))?;
            (block, block.search(name).ok()?)
        } else {
            // Part of it may have come out before the server's order was noticed: look at all.
            self.blocks.iter().find_map(|block| Some((block, block.scan(name)?)))?
        };
        let what = match block.row(index).version {
            Some(version) => What::File(version),
            None => What::Directory { listable: true },
        };
        Some((what, block.sent))
    }

    fn passed_at(&self, name: &str) -> Option<Instant> {
        let index = if self.assembly.is_ordered() {
            self.pages.partition_point(|page| &*page.last < name)
        } else {
            0
        };
        self.pages.get(index).or(self.pages.last()).map(|page| page.sent)
    }
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

    fn snapshot() -> Snapshot {
        Snapshot::new(&DirPath::new("p/"), true, &Scales::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_goes_round_in_circles_is_an_error() {
        let listing = snapshot();
        listing.push(page(&["p/a"], Some("t")), Instant::now()).unwrap();
        assert!(listing.push(page(&["p/a"], Some("t")), Instant::now()).is_err());
        assert!(!listing.is_complete());
        listing.push(page(&["p/b"], None), Instant::now()).unwrap();
        assert_eq!(listing.blocks_after(0).0.iter().map(|block| block.len()).sum::<usize>(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn each_name_has_the_age_of_its_own_page() {
        let listing = snapshot();
        let first = Instant::now();
        let second = first + std::time::Duration::from_secs(1);
        listing.push(page(&["p/a", "p/b"], Some("t")), first).unwrap();
        listing.push(page(&["p/b-", "p/c"], None), second).unwrap();
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
        drop(Snapshot::new(&DirPath::new("p/"), true, &scales));
        assert_eq!(scales.bytes(), 0);
    }
}
