//! What lookups learn of a directory by pages: pieces of its listing, and whether one more page is
//! worth its request. Decides and remembers; asks nothing itself.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::answer::Answer;
use super::snapshot::Snapshot;
use crate::store::ListRequest;

/// The pieces of one directory, beside its listing.
pub(super) struct Pieces {
    /// Oldest first, at most [`PIECES_MAX`].
    known: VecDeque<Piece>,
    /// Pages of the directory's own listing that lookups have paid for.
    n_paid: usize,
    credit: Credit,
}

/// Part of a listing: from some name on.
struct Piece {
    listing: Arc<Snapshot>,
    /// So many of its pages are paid for.
    n_paid: usize,
}

/// Whether pages have to pay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trust {
    Given,
    Earned,
}

/// Which page probably has a name.
pub(super) enum Next {
    /// That with this index of this listing, which is known or begins now.
    Page(Arc<Snapshot>, usize),
    /// The first one of the directory, again.
    FirstPage,
}

/// What pages may cost, in eighths of one. A page is 250 KB and a millisecond of parsing where the
/// answer to one name is 500 bytes, so names that lie anywhere in a huge directory must not each bring
/// one: pages are paid for by the lookups that pages answered, and a few are given on trust.
/// Invariant: a directory of which lookups ask for `n` names has brought at most its first page,
/// `TRUST` pages, one for each lookup that was answered from memory, and `n / 8`. Beside that one name
/// that alone is asked for again and again brings a page each time.
struct Credit(u32);

/// Far more than a directory has that is not huge; each is a page of names in memory.
const PIECES_MAX: usize = 16;

/// A directory that is waited in is listed up to here, so that one page tells of the name's place.
pub(super) const POLL_PAGES_MAX: usize = 8;

/// Names before the one that is asked for, on a page that is asked for around it.
const HALF_PAGE: usize = ListRequest::PAGE_KEYS as usize / 2;

/// A name that is no further than this behind what is known is on the next page, or nearly; and it is
/// better to go on there than to leave a gap.
const GO_ON_HALF_PAGES: u128 = 2;

impl Pieces {
    pub(super) fn new() -> Self {
        Self { known: VecDeque::new(), n_paid: 0, credit: Credit(Credit::TRUST * Credit::PAGE) }
    }

    /// The directory is listed anew; its first page costs no more than one name would.
    pub(super) fn begin(&mut self) {
        self.n_paid = 1;
    }

    /// A lookup was answered by what a page told.
    pub(super) fn answered(&mut self) {
        self.credit.earn(Credit::PAGE);
    }

    /// A lookup is to be answered by a request of its own.
    pub(super) fn asked_singly(&mut self) {
        self.credit.earn(1);
    }

    /// What pieces say of `name`.
    pub(super) fn say(&self, name: &str) -> impl Iterator<Item = Answer> {
        self.known.iter().filter_map(move |piece| piece.listing.says(name))
    }

    /// The page that probably has `name`, where it is worth its request. `newest` is the directory's
    /// listing, and has a page; `may_begin` is false where the server lists from no other place than the
    /// beginning. A page that is on its way already costs nothing.
    pub(super) fn next(
        &mut self,
        name: &str,
        newest: &Arc<Snapshot>,
        trust: Trust,
        may_begin: bool,
        begin: &dyn Fn(&str) -> Snapshot,
    ) -> Option<Next> {
        let gauge = newest.gauge()?;
        let listings = self.known.iter().map(|piece| &piece.listing).chain([newest]);
        let short = listings
            .filter(|listing| listing.begins_after() < name && !listing.is_complete())
            .filter(|listing| listing.says(name).is_none());
        let nearest = short.map(|listing| (listing.end(), listing)).max_by(|a, b| a.0.cmp(&b.0));
        let goes_on = match &nearest {
            Some(_) if trust == Trust::Given && is_short(newest, name) => Some(newest),
            Some((end, listing)) if gauge.half_pages(end, name) <= GO_ON_HALF_PAGES => {
                Some(*listing)
            }
            // Most that are longer than a page are not much longer.
            Some(_) if trust == Trust::Earned && newest.n_pages() == 1 && !newest.is_complete() => {
                Some(newest)
            }
            _ => None,
        };
        if let Some(listing) = goes_on {
            let (listing, index) = (Arc::clone(listing), listing.n_pages());
            let may_ask = trust == Trust::Given || self.pay(&listing, index);
            return may_ask.then_some(Next::Page(listing, index));
        }
        let covers = |listing: &&Arc<Snapshot>| listing.says(name).is_some();
        let listings = self.known.iter().map(|piece| &piece.listing).chain([newest]);
        let start: String = match listings.rev().find(covers) {
            Some(old) => old.name_before(name, HALF_PAGE).into(),
            None => gauge.before(name, &nearest.map_or_else(Box::default, |(end, _)| end)),
        };
        if !may_begin || trust == Trust::Earned && !self.credit.pay(Credit::PAGE) {
            return None;
        }
        if start.is_empty() {
            return Some(Next::FirstPage);
        }
        let listing = Arc::new(begin(&start));
        self.put(&listing);
        Some(Next::Page(listing, 0))
    }

    /// Takes in one that has just begun, whose page is worth its request for other reasons. Gives those
    /// beyond the bound.
    pub(super) fn add(&mut self, listing: &Arc<Snapshot>) -> Vec<Arc<Snapshot>> {
        self.put(listing);
        self.obsolete(None)
    }

    fn put(&mut self, listing: &Arc<Snapshot>) {
        // One name over and over has one piece.
        let start = listing.begins_after();
        self.known
            .retain(|piece| piece.listing.begins_after() != start || piece.listing.n_pages() == 0);
        self.known.push_back(Piece { listing: Arc::clone(listing), n_paid: 1 });
    }

    /// Takes out those that can tell nothing newer than a listing that was asked for at `sent`, and
    /// those beyond the bound.
    pub(super) fn obsolete(&mut self, sent: Option<Instant>) -> Vec<Arc<Snapshot>> {
        let mut obsolete = Vec::new();
        let n_beyond = self.known.len().saturating_sub(PIECES_MAX);
        obsolete.extend(self.known.drain(..n_beyond).map(|piece| piece.listing));
        if let Some(sent) = sent {
            self.known.retain(|Piece { listing, .. }| {
                let is_older = listing.sent().is_some_and(|first| first < sent);
                if is_older {
                    obsolete.push(Arc::clone(listing));
                }
                !is_older
            });
        }
        obsolete
    }

    /// Takes out one that could not be had.
    pub(super) fn remove(&mut self, listing: &Arc<Snapshot>) -> Option<Arc<Snapshot>> {
        let at = self.known.iter().position(|piece| Arc::ptr_eq(&piece.listing, listing))?;
        self.known.remove(at).map(|piece| piece.listing)
    }

    pub(super) fn listings(&self) -> impl Iterator<Item = &Arc<Snapshot>> {
        self.known.iter().map(|piece| &piece.listing)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.known.iter().map(|piece| piece.listing.bytes()).sum()
    }

    /// Whether the page `index` of `listing` is paid for, now if not before.
    fn pay(&mut self, listing: &Arc<Snapshot>, index: usize) -> bool {
        let is_it = |piece: &&mut Piece| Arc::ptr_eq(&piece.listing, listing);
        let n_paid = match self.known.iter_mut().find(is_it) {
            Some(piece) => &mut piece.n_paid,
            None => &mut self.n_paid,
        };
        let is_paid = *n_paid > index || self.credit.pay(Credit::PAGE);
        if is_paid {
            *n_paid = (*n_paid).max(index + 1);
        }
        is_paid
    }
}

/// Whether a listing has not come to `name`, and is not long.
fn is_short(listing: &Snapshot, name: &str) -> bool {
    !listing.is_complete() && listing.n_pages() < POLL_PAGES_MAX && listing.says(name).is_none()
}

impl Credit {
    const PAGE: u32 = 8;
    /// Pages that are given on trust.
    const TRUST: u32 = 2;
    /// What is earned beyond is lost: what was asked for long ago says little of now.
    const MAX: u32 = 4 * Self::PAGE;

    fn earn(&mut self, eighths: u32) {
        self.0 = (self.0 + eighths).min(Self::MAX);
    }

    fn pay(&mut self, eighths: u32) -> bool {
        let rest = self.0.checked_sub(eighths);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }
}
