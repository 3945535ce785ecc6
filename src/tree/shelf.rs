//! The blocks of one listing. Under memory pressure those that readers have passed are put away: what
//! stays is how many entries there were, the first name and the last, and four bytes of each name, so
//! that the page can be listed again and every entry finds its old place. Pure: no I/O, no clock.
//! Invariant: a place on the shelf means one entry for as long as the listing lives. What is not there
//! any more when its page is listed again leaves its place empty; what is new between is left out.

use std::sync::Arc;

use tokio::time::Instant;

use super::block::{Block, Print, Unpacked, print};
use super::listing::{Assembly, Item, RawPage};
use super::name::directory_order;
use super::weight::{Scales, Weight};
use crate::object::DirPath;

/// Blocks in order, some of them put away.
#[derive(Default)]
pub(super) struct Shelf {
    slots: Vec<Slot>,
    /// Of the blocks that are here.
    bytes: usize,
    /// How many slots some reader has come to: what is behind it may be put away.
    n_read: usize,
    /// So many slots were in directory order when some were put away last.
    n_ordered: usize,
}

struct Slot {
    /// The number of the page that told of it; `None` where a part came with a page before.
    page: Option<u32>,
    content: Content,
}

enum Content {
    Here(Arc<Block>),
    Away(Box<Away>),
}

/// What is known of a block that was put away.
struct Away {
    first: Box<str>,
    last: Box<str>,
    prints: Box<[Print]>,
}

/// A smaller block is not put away: it would free nothing.
const ROWS_MIN: usize = 64;

/// A reader may stand in what was used so shortly ago, or be about to read what was listed again for it.
const IDLE_TICKS: u32 = 4;

/// What a name is to the shelf.
pub(super) enum Search<'a> {
    Found(&'a Arc<Block>, usize),
    /// The block that would have it was put away.
    Away(usize),
    Absent,
}

impl Away {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + 4 * size_of::<usize>()
            + self.first.len()
            + self.last.len()
            + size_of_val(&*self.prints)
    }
}

impl Slot {
    fn first_name(&self) -> &str {
        match &self.content {
            Content::Here(block) => block.first_name(),
            Content::Away(away) => &away.first,
        }
    }

    fn last_name(&self) -> &str {
        match &self.content {
            Content::Here(block) => block.last_name(),
            Content::Away(away) => &away.last,
        }
    }

    /// Whether only the shelf has it, so that to put it away frees its memory.
    fn frees(&self) -> Option<&Arc<Block>> {
        match &self.content {
            Content::Here(block) => {
                let is_alone = Arc::strong_count(block) == 1;
                (is_alone && self.page.is_some() && block.len() >= ROWS_MIN).then_some(block)
            }
            Content::Away(_) => None,
        }
    }
}

impl Shelf {
    /// Adds a block that the page with the number `page` told of; `None` where a part of it came with
    /// a page before.
    pub(super) fn push(&mut self, block: Arc<Block>, page: Option<usize>) {
        self.bytes += block.bytes();
        let page = page.and_then(|page| u32::try_from(page).ok());
        self.slots.push(Slot { page, content: Content::Here(block) });
    }

    pub(super) fn shrink_to_fit(&mut self) {
        self.slots.shrink_to_fit();
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Of the blocks that are here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Those that are here.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &Arc<Block>> {
        self.slots.iter().filter_map(|slot| match &slot.content {
            Content::Here(block) => Some(block),
            Content::Away(_) => None,
        })
    }

    /// The block at `slot`, for a reader who has come there; `None` when it was put away.
    pub(super) fn read(&mut self, slot: usize) -> Option<Arc<Block>> {
        self.n_read = self.n_read.max(slot + 1);
        self.look_at(slot).inspect(|block| block.touch())
    }

    /// The block at `slot`, where it is here.
    pub(super) fn look_at(&self, slot: usize) -> Option<Arc<Block>> {
        match &self.slots[slot].content {
            Content::Here(block) => Some(Arc::clone(block)),
            Content::Away(_) => None,
        }
    }

    /// How many entries it has, and the name of the last.
    pub(super) fn extent(&self, slot: usize) -> (usize, &str) {
        let slot = &self.slots[slot];
        let len = match &slot.content {
            Content::Here(block) => block.len(),
            Content::Away(away) => away.prints.len(),
        };
        (len, slot.last_name())
    }

    /// Where `name` is. All blocks are in directory order.
    pub(super) fn search(&self, name: &str) -> Search<'_> {
        let before = |slot: &Slot| directory_order(slot.last_name(), name).is_lt();
        let at = self.slots.partition_point(before);
        match self.slots.get(at).map(|slot| (slot, &slot.content)) {
            Some((_, Content::Here(block))) => match block.search(name) {
                Ok(index) => Search::Found(block, index),
                Err(_) => Search::Absent,
            },
            Some((slot, Content::Away(_))) if directory_order(slot.first_name(), name).is_le() => {
                Search::Away(at)
            }
            _ => Search::Absent,
        }
    }

    /// The slot and the index of what comes behind the place of `name`, which may be one behind the last of
    /// its block; `None` where that was put away.
    pub(super) fn place_behind(&self, name: &str) -> Option<(usize, usize)> {
        let before = |slot: &Slot| directory_order(slot.last_name(), name).is_lt();
        let at = self.slots.partition_point(before);
        match self.slots.get(at).map(|slot| &slot.content) {
            None => Some((at, 0)),
            Some(Content::Here(block)) => {
                Some((at, block.search(name).map_or_else(|index| index, |index| index + 1)))
            }
            Some(Content::Away(_)) => None,
        }
    }

    /// The entry before the place of `name`; `None` where there is none, or it was put away.
    pub(super) fn before(&self, name: &str) -> Option<Unpacked<'_>> {
        let before = |slot: &Slot| directory_order(slot.last_name(), name).is_lt();
        let at = self.slots.partition_point(before);
        let last = |block: &'_ Arc<Block>, n_rows: usize| {
            (0..n_rows).rev().find(|row| block.row(*row).is_some())
        };
        if let Some(Slot { content: Content::Here(block), .. }) = self.slots.get(at)
            && let Ok(index) | Err(index) = block.search(name)
            && let Some(row) = last(block, index)
        {
            return block.row(row);
        }
        match &self.slots.get(at.checked_sub(1)?)?.content {
            Content::Here(block) => block.row(last(block, block.len())?),
            Content::Away(_) => None,
        }
    }

    /// Where `name` is, in whatever order they are: looks at all.
    pub(super) fn scan(&self, name: &str) -> Search<'_> {
        let found = self.blocks().find_map(|block| Some((block, block.scan(name)?)));
        match found {
            Some((block, index)) => Search::Found(block, index),
            None => self.scan_away(name).map_or(Search::Absent, Search::Away),
        }
    }

    /// Whether a name that comes again is in a block that was put away.
    pub(super) fn has_put_away(&self, name: &str) -> bool {
        self.scan_away(name).is_some()
    }

    /// The block that was put away and, by four bytes of a hash, has `name`.
    fn scan_away(&self, name: &str) -> Option<usize> {
        let ordered = &self.slots[..self.n_ordered];
        let before = |slot: &Slot| directory_order(slot.last_name(), name).is_lt();
        let at = ordered.partition_point(before);
        let Content::Away(away) = &ordered.get(at)?.content else { return None };
        let is_within = directory_order(&away.first, name).is_le();
        (is_within && away.prints.contains(&print(name))).then_some(at)
    }

    /// Puts away what readers have passed of blocks in directory order, that used longest ago first, until `bytes` are freed or
    /// nothing is left that was not used just before `tick`. Gives what it freed, to be dropped
    /// without locks.
    pub(super) fn put_away(
        &mut self,
        bytes: usize,
        tick: u32,
        weight: &mut Weight,
    ) -> Vec<Arc<Block>> {
        let passed = self.n_read.saturating_sub(1);
        let mut idle: Vec<(u32, usize)> = self.slots[..passed]
            .iter()
            .enumerate()
            .filter_map(|(at, slot)| Some((slot.frees()?.used(), at)))
            .filter(|(used, _)| used.saturating_add(IDLE_TICKS) <= tick)
            .collect();
        idle.sort_unstable();
        self.n_ordered = self.slots.len();
        let (mut freed, mut n_bytes) = (Vec::new(), 0);
        for (_, at) in idle {
            if n_bytes >= bytes {
                break;
            }
            let slot = &mut self.slots[at];
            let Content::Here(block) = &slot.content else { continue };
            let away = Away {
                first: block.first_name().into(),
                last: block.last_name().into(),
                prints: block.prints(),
            };
            weight.add(away.bytes());
            n_bytes += block.bytes();
            let content = std::mem::replace(&mut slot.content, Content::Away(Box::new(away)));
            freed.extend(match content {
                Content::Here(block) => Some(block),
                Content::Away(_) => None,
            });
        }
        self.bytes -= n_bytes;
        freed
    }

    /// What is to be listed again for the block at `slot`, and the number of the page that had it;
    /// `None` when it is there.
    pub(super) fn again(&self, slot: usize) -> Option<(Again, usize)> {
        let Slot { page: Some(page), content: Content::Away(away) } = &self.slots[slot] else {
            return None;
        };
        let mut places: Vec<(Print, u32)> = away.prints.iter().copied().zip(0..).collect();
        places.sort_unstable();
        let again = Again {
            first: away.first.clone(),
            last: away.last.clone(),
            n_places: away.prints.len(),
            places,
            next: 0,
            found: Vec::new(),
            assembly: Assembly::new(true),
            sent: None,
        };
        Some((again, *page as usize))
    }

    /// Puts it back, unless somebody else has.
    pub(super) fn put_back(
        &mut self,
        at: usize,
        again: &Again,
        dir: &DirPath,
        scales: &Scales,
        weight: &mut Weight,
    ) {
        let slot = &mut self.slots[at];
        if let Content::Away(away) = &slot.content {
            weight.remove(away.bytes());
            let block = again.block(dir).weighed(scales);
            self.bytes += block.bytes();
            slot.content = Content::Here(block);
        }
    }
}

/// A block that is listed again.
pub(super) struct Again {
    first: Box<str>,
    last: Box<str>,
    n_places: usize,
    /// In the order of the prints.
    places: Vec<(Print, u32)>,
    /// The first place that the next name may have.
    next: u32,
    /// With their places, which ascend.
    found: Vec<(u32, Item)>,
    assembly: Assembly,
    /// Of the first page.
    sent: Option<Instant>,
}

impl Again {
    /// Takes a page of the listing from where the block's page began. Whether that was all of it.
    pub(super) fn push(&mut self, page: RawPage, is_last: bool) -> bool {
        self.sent.get_or_insert(page.sent);
        let is_given = |_: &str| false;
        let gain = self.assembly.push(page, is_last, is_given);
        for item in gain.items {
            let is_within = directory_order(&self.first, &item.name).is_le()
                && directory_order(&item.name, &self.last).is_le();
            if is_within && let Some(place) = self.place(&item.name) {
                self.next = place + 1;
                self.found.push((place, item));
            }
        }
        // A directory of the last name would have come by now.
        is_last || (self.assembly.is_ordered() && self.assembly.is_behind(&self.last))
    }

    /// The place that `name` had, behind those before it.
    fn place(&self, name: &str) -> Option<u32> {
        let sought = (print(name), self.next);
        let found = self.places.get(self.places.partition_point(|place| *place < sought))?;
        (found.0 == sought.0).then_some(found.1)
    }

    fn block(&self, dir: &DirPath) -> Block {
        let mut found = self.found.iter().peekable();
        let last = self.n_places - 1;
        let places = (0..self.n_places).map(|place| {
            let is_here = |(at, _): &&(u32, Item)| *at as usize == place;
            match found.next_if(is_here) {
                Some((_, item)) => Ok(item),
                None if place == 0 => Err(&*self.first),
                None if place == last => Err(&*self.last),
                None => Err(""),
            }
        });
        // Without a page nothing was found, and the next reader lists it again.
        Block::with_places(dir, places, self.sent.unwrap_or_else(Instant::now))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::object::{Object, Version};
    use crate::store::ListPage;

    const DIR: &str = "p/";

    fn version(size: u64) -> Version {
        Version { etag: None, size, modified: 0 }
    }

    fn block(names: &[String], scales: &Scales) -> Arc<Block> {
        let sent = Instant::now();
        let item = |name: &String| {
            let version = (!is_directory(name)).then(|| version(1));
            Item { name: name.clone(), version, sent }
        };
        let items: Vec<Item> = names.iter().map(item).collect();
        Block::pack(&DirPath::new(DIR), &items, None).remove(0).weighed(scales)
    }

    /// Some are directories.
    fn is_directory(name: &str) -> bool {
        name.starts_with('c')
    }

    /// What S3 shows of a name.
    fn key(name: &str) -> String {
        format!("{name}{}", if is_directory(name) { "/" } else { "" })
    }

    fn page(keys: &[String], is_last: bool) -> RawPage {
        let mut page = ListPage::default();
        for key in keys {
            let key = format!("{DIR}{key}");
            if key.ends_with('/') {
                page.prefixes.push(key);
            } else {
                page.objects.push(Object { key: key.into(), version: version(2) });
            }
        }
        page.continuation = (!is_last).then(|| "more".to_owned());
        RawPage::of(DIR, page, Instant::now())
    }

    fn sorted(names: BTreeSet<String>) -> Vec<String> {
        names
            .into_iter()
            .map(|name| (format!("{name}/"), name))
            .collect::<BTreeMap<_, _>>()
            .into_values()
            .collect()
    }

    /// Puts a block of `before` away, and lists it again when the bucket has `now`: gives the names
    /// by place.
    fn again(
        before: BTreeSet<String>,
        now: &BTreeSet<String>,
        page_names: usize,
    ) -> Vec<Option<String>> {
        let scales = Scales::default();
        let mut weight = scales.weight(0);
        let mut shelf = Shelf::default();
        let names = sorted(before);
        let n_names = names.len();
        shelf.push(block(&names, &scales), Some(0));
        shelf.push(block(&["~".to_owned()], &scales), Some(1));
        shelf.push(block(&vec!["~~".to_owned(); ROWS_MIN], &scales), Some(1));
        for slot in 0..3 {
            shelf.read(slot);
        }
        let bytes = scales.bytes();
        assert!(shelf.put_away(1, scales.tick(), &mut weight).is_empty(), "all were just used");
        let later = scales.tick() + IDLE_TICKS;
        assert_eq!(shelf.put_away(1, later, &mut weight).len(), 1);
        assert!(n_names < 200 || scales.bytes() < bytes);
        assert!(matches!(shelf.search(&names[n_names / 2]), Search::Away(0)));
        let (mut listing, _) = shelf.again(0).unwrap();
        let mut now: Vec<String> = now.iter().map(|name| key(name)).collect();
        now.sort();
        let mut pages = now.chunks(page_names).peekable();
        while let Some(keys) = pages.next() {
            if listing.push(page(keys, pages.peek().is_none()), pages.peek().is_none()) {
                break;
            }
        }
        shelf.put_back(0, &listing, &DirPath::new(DIR), &scales, &mut weight);
        let block = shelf.read(0).unwrap();
        assert_eq!(block.len(), n_names);
        let name = |place| block.row(place).map(|row| row.name.to_owned());
        (0..n_names).map(name).collect()
    }

    proptest! {
        #[test]
        fn what_stayed_has_its_old_place_and_what_is_new_has_none(
            stayed in prop::collection::btree_set("[abc.-]{1,6}", ROWS_MIN..150),
            gone in prop::collection::btree_set("[abc.-]{1,6}", 0..50),
            new in prop::collection::btree_set("[abc.-]{1,6}", 0..50),
            page_names in 1_usize..200,
        ) {
            let presentable = |name: &&String| super::super::name::is_presentable(name);
            let stayed: BTreeSet<String> = stayed.iter().filter(presentable).cloned().collect();
            let gone: BTreeSet<String> =
                gone.iter().filter(presentable).filter(|name| !stayed.contains(*name)).cloned().collect();
            let new: BTreeSet<String> = new
                .iter()
                .filter(|name| !stayed.contains(*name) && !gone.contains(*name))
                .cloned()
                .collect();
            prop_assume!(stayed.len() >= ROWS_MIN);
            let before: BTreeSet<String> = stayed.union(&gone).cloned().collect();
            let now: BTreeSet<String> = stayed.union(&new).cloned().collect();
            let expected: Vec<Option<String>> = sorted(before.clone())
                .into_iter()
                .map(|name| stayed.contains(&name).then_some(name))
                .collect();
            prop_assert_eq!(again(before, &now, page_names), expected);
        }
    }
}
