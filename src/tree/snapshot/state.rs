//! What of a listing has come so far, in order, and what waits for pages before it.

use std::cell::OnceCell;
use std::collections::HashSet;

use tokio::time::Instant;

use super::super::block::Block;
use super::super::listing::{Assembly, Gain, PackedPage, RawPage};
use super::super::ranges::Ranges;
use super::super::shelf::{Search, Shelf};
use super::super::weight::Weight;
use crate::error::FsError;
use crate::object::DirPath;

/// What a listing takes while it is put away as it is read is little: it may have so many times the
/// entries that one may have whose memory cannot be freed.
const TOLD_SHARE: u64 = 4;

/// Pages in a row that bring nothing new before a listing is given up. Servers may give empty ones
/// while they pass over deleted keys, 1,000 at a time: so many are a million in one place.
pub(in crate::tree) const IDLE_PAGES_MAX: usize = 1000;

/// One hash in its set, free slots included.
pub(super) const TOKEN_BYTES: usize = 16;

/// What of a listing has come, and what is asked for.
pub(super) struct State {
    pub(super) assembly: Assembly,
    pub(super) shelf: Shelf,
    /// One for each page that has come.
    pub(super) pages: Vec<PageMark>,
    /// What is asked for, and what has come and waits for pages before it.
    pub(super) ranges: Ranges<PackedPage>,
    pub(super) is_complete: bool,
    /// The first page is asked for without delimiter.
    pub(super) flat: bool,
    /// The page that is needed next could not be had.
    pub(super) failed: Option<FsError>,
    /// Hashes of the tokens that led to a page, each with its range. A server that gives one again goes round in circles.
    pub(super) tokens: HashSet<u64>,
    /// Pages since the last one that brought news.
    pub(super) n_idle: usize,
    /// What waits in the assembly, as far as `weight` has it.
    pub(super) waiting_bytes: usize,
    pub(super) weight: Weight,
    /// Of all entries that have come, those that were put away included.
    pub(super) told_bytes: u64,
    /// See [`super::Snapshot::after`].
    pub(super) bytes_max: u64,
}

/// How far a page came, and when it was asked for.
pub(super) struct PageMark {
    /// Its last key or common prefix, without the directory's prefix.
    pub(super) last: Box<str>,
    pub(super) sent: Instant,
}

/// What a page taught beside its entries, for the log.
#[derive(Default, Debug)]
pub(in crate::tree) struct News {
    pub(in crate::tree) shadowed: Vec<String>,
    pub(in crate::tree) n_hidden: usize,
    /// The server was found to list in another order than that of keys.
    pub(in crate::tree) order_lost: bool,
    /// The server was found not to list from any key on.
    pub(in crate::tree) ranges_lost: bool,
}

impl State {
    /// Takes in the next page, if it is there.
    pub(super) fn take_page(&mut self, dir: &DirPath, news: &mut News) -> bool {
        let Some((page, is_last)) = self.ranges.take() else { return false };
        self.weight.remove(page.bytes());
        self.push(dir, page.unpack(), is_last, news);
        true
    }

    pub(super) fn push(&mut self, dir: &DirPath, page: RawPage, is_last: bool, news: &mut News) {
        let Self { assembly, shelf, pages, tokens, waiting_bytes, told_bytes, weight, .. } = self;
        let (was_ordered, sent) = (assembly.is_ordered(), page.sent);
        // Made only where the end of an unordered listing asks.
        let given = OnceCell::new();
        let is_given = |name: &str| {
            let names = || shelf.blocks().flat_map(|block| block.names()).collect::<HashSet<_>>();
            given.get_or_init(names).contains(name) || shelf.has_put_away(name)
        };
        let gain = assembly.push(page, is_last, is_given);
        let last: Box<str> = assembly.last().into();
        weight.add(size_of::<PageMark>() + last.len());
        pages.push(PageMark { last, sent });
        let scales = weight.scales().clone();
        // What was held back came with a page before.
        let before = pages.len().checked_sub(2).map(|before| &*pages[before].last);
        for block in Block::pack(dir, &gain.items, before) {
            let is_of_page = before.is_none_or(|last| block.comes_after(last));
            let page = is_of_page.then_some(pages.len() - 1);
            *told_bytes += block.bytes() as u64;
            shelf.push(block.weighed(&scales), page);
        }
        let waiting = assembly.bytes();
        weight.remove(std::mem::replace(waiting_bytes, waiting));
        weight.add(waiting);
        if is_last {
            shelf.shrink_to_fit();
            pages.shrink_to_fit();
            weight.remove(TOKEN_BYTES * tokens.len());
            *tokens = HashSet::new();
            self.is_complete = true;
        }
        if was_ordered && !self.assembly.is_ordered() {
            news.order_lost = true;
            self.ranges.go_on_singly();
        }
        self.n_idle = if gain.is_news { 0 } else { self.n_idle + 1 };
        news.shadowed.extend(gain.shadowed);
        news.n_hidden += gain.n_hidden;
    }

    /// Key ranges do not fit together: what has come in order stays, and all comes again.
    pub(super) fn begin_anew(&mut self, news: &mut News) {
        let mut gain = Gain::default();
        self.assembly.give_up_order(&mut gain);
        news.shadowed.extend(gain.shadowed);
        for page in self.ranges.begin_anew() {
            self.weight.remove(page.bytes());
        }
        self.weight.remove(TOKEN_BYTES * self.tokens.len());
        self.tokens = HashSet::new();
    }

    /// Fails with what is wrong where a page that leads on by `token` must not be followed.
    pub(super) fn check_endless(&self, token: u64) -> Result<(), String> {
        if self.tokens.contains(&token) {
            return Err("goes round in circles: the server gave a token again".to_owned());
        }
        if self.n_idle >= IDLE_PAGES_MAX {
            return Err(format!("does not advance: {IDLE_PAGES_MAX} pages brought nothing new"));
        }
        if self.bytes() > self.bytes_max || self.told_bytes > TOLD_SHARE * self.bytes_max {
            let mib = self.bytes().max(self.told_bytes) >> 20;
            return Err(format!("takes more than {mib} MiB; raise --memory if it is right"));
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.weight.bytes() + self.shelf.bytes() as u64
    }

    pub(super) fn find(&self, name: &str) -> Search<'_> {
        // Part of it may have come out before the server's order was noticed: look at all then.
        if self.assembly.is_ordered() { self.shelf.search(name) } else { self.shelf.scan(name) }
    }

    pub(super) fn passed_at(&self, name: &str) -> Option<Instant> {
        let index = if self.assembly.is_ordered() {
            self.pages.partition_point(|page| &*page.last < name)
        } else {
            0
        };
        self.pages.get(index).or(self.pages.last()).map(|page| page.sent)
    }
}
