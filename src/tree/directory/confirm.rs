//! Whether a file is what it was: what is known of that, and which page tells it of many at once.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Directory, State};
use crate::error::FsError;
use crate::flight::Wait;
use crate::object::Version;
use crate::store::ListRequest;
use crate::tree::answer::{Ages, Answer, What};
use crate::tree::gauge::just_before;
use crate::tree::snapshot::{Need, Snapshot};

/// Names that a page tells of, but for a few at its end that later keys may say more of. Pages that are asked
/// for to confirm begin at multiples of it, so that files in any order need as few as files in order.
const PAGE_NAMES: usize = ListRequest::PAGE_KEYS as usize - 10;

impl Directory {
    /// When the request was sent that told last of `name`, where it told exactly this `version`.
    pub(in crate::tree) fn confirms(&self, name: &str, version: &Version) -> Option<Instant> {
        let answer = self.state.lock().best(name)?;
        matches!(&answer.what, What::File(told) if told == version).then_some(answer.sent)
    }

    /// A page on its way that tells of `name`, as far as that can be known before it has come.
    pub(in crate::tree) fn page_on_its_way(&self, name: &str) -> Option<Wait<Result<(), FsError>>> {
        let state = self.state.lock();
        let tile = state.basis().and_then(|basis| tile(basis, name));
        let tells = |listing: &&Arc<Snapshot>| {
            let start = listing.begins_after();
            listing.n_pages() == 0 && start < name && tile.as_ref().is_none_or(|it| **it == *start)
        };
        let mut listings = state.pieces.listings().chain(&state.newest).filter(tells);
        listings.find_map(|listing| listing.flights.joined(&Need::Page(0)))
    }

    /// The listing whose first page tells of `name` and of its neighbors; `None` where no page may be had, or
    /// not from there. `may_begin` is false where the server lists from no other place than the beginning;
    /// `begin` makes the listing of what is behind a name.
    pub(in crate::tree) fn begin_page_of(
        &self,
        name: &str,
        ages: &Ages,
        now: Instant,
        may_begin: bool,
        begin: &dyn Fn(&str) -> Snapshot,
    ) -> Option<Arc<Snapshot>> {
        let mut state = self.state.lock();
        if state.is_denied(now) {
            return None;
        }
        let basis = state.basis().map(Arc::clone);
        let is_page = |basis: &Arc<Snapshot>| basis.is_complete() && basis.n_pages_again() == 1;
        // A listing that has cost more than this page goes on for longer, so the page comes beside it.
        let holds =
            |basis: &Arc<Snapshot>| basis.cost() > 1 && !state.left(basis, ages, now).is_zero();
        let start: Box<str> = match &basis {
            None => return Some(state.begin(|| begin(""))),
            Some(basis) if is_page(basis) && !holds(basis) => {
                return Some(state.begin(|| begin("")));
            }
            Some(basis) if is_page(basis) => "".into(),
            Some(basis) => {
                let has_come = |start: &str| {
                    let mut pieces = state.pieces.listings();
                    pieces.any(|piece| {
                        piece.begins_after() == start
                            && piece.n_pages() > 0
                            && piece.says(name).is_none()
                    })
                };
                // Where names were added, the page of a tile does not come to its end.
                let tile = tile(basis, name).filter(|start| !has_come(start));
                tile.unwrap_or_else(|| just_before(name).into())
            }
        };
        if !start.is_empty() && !may_begin {
            return None;
        }
        let listing = Arc::new(begin(&start));
        let before = state.pieces.add(&listing);
        drop(state);
        // Thousands of names may go with them: not under the lock.
        drop(before);
        Some(listing)
    }
}

impl State {
    /// What says how many names there are, and where they lie.
    fn basis(&self) -> Option<&Arc<Snapshot>> {
        let known = [&self.older, &self.newest].into_iter().flatten();
        known.filter(|listing| listing.n_pages() > 0).max_by_key(|listing| listing.is_complete())
    }

    /// `newest` is the newest that was told of `name`. Where an older listing says the same and holds for
    /// longer, as it has cost more, that.
    pub(super) fn lasting(&self, name: &str, newest: Answer, ages: &Ages, now: Instant) -> Answer {
        if !matches!(newest.what, What::File(_)) {
            return newest;
        }
        let known = [&self.older, &self.newest].into_iter().flatten();
        let told = known.filter_map(|listing| listing.says(name));
        let same =
            told.filter(|answer| answer.what == newest.what && self.marks.allow(name, answer.sent));
        let longest = same.max_by_key(|answer| ages.left(answer, now));
        longest.filter(|it| ages.left(it, now) > ages.left(&newest, now)).unwrap_or(newest)
    }
}

/// The name behind which the page of `listing` begins that has `name`, with pages of [`PAGE_NAMES`] from its
/// beginning on. `None` where the listing does not tell.
fn tile(listing: &Snapshot, name: &str) -> Option<Box<str>> {
    let (n_blocks, _) = listing.extent();
    let mut index = 0;
    let mut slots = 0..n_blocks;
    let within = slots.find_map(|slot| {
        let (len, is_behind) = listing.extent_of(slot, Some(name));
        if is_behind {
            index += len;
            return None;
        }
        Some(listing.look_at(slot)?.search(name).ok())
    });
    index += within??;
    let Some(mut before) = (index / PAGE_NAMES * PAGE_NAMES).checked_sub(1) else {
        return Some("".into());
    };
    for slot in 0..n_blocks {
        let (len, _) = listing.extent_of(slot, None);
        if before < len {
            let block = listing.look_at(slot)?;
            // In directory order `a-` comes before `a`, and a page that begins behind it has no `a`.
            return block.names().nth(before).filter(|start| *start < name).map(Into::into);
        }
        before -= len;
    }
    None
}
