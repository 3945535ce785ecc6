//! Pages in, ordered entries out. Pure: no I/O, no clock (the stamp of a page is a plain value).
//!
//! S3 lists in the order of keys, where `a-x` and `a.txt` lie between the object `a` and the
//! directory `a/`. Entries come out in [`directory_order`], so a file is held back until the listing
//! has passed the place where a directory of its name would stand.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tokio::time::Instant;

use super::block::{Block, Unpacked};
use super::name::{directory_order, is_presentable};
use crate::object::{DirPath, ETag, Version};
use crate::store::ListPage;

/// One name of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Item {
    pub(super) name: String,
    /// `None` is a directory.
    pub(super) version: Option<Version>,
    /// When the request was sent whose page had it.
    pub(super) sent: Instant,
}

/// What a page gave.
#[derive(Default, Debug)]
pub(super) struct Gain {
    /// In directory order, after all that came out before.
    pub(super) items: Vec<Item>,
    /// Objects that a directory of the same name hides.
    pub(super) shadowed: Vec<String>,
    /// Names that cannot be shown.
    pub(super) n_hidden: usize,
    /// The page brought a key further than all before, or, of a server with another order, a new
    /// name. An honest listing does, but for empty pages.
    pub(super) is_news: bool,
}

/// The listing of one directory while its pages come in.
pub(super) struct Assembly {
    /// Files before whose place in directory order the listing stands. Invariant: each is a prefix
    /// of the next and of `last`, so there are at most as many as a name has bytes, and the last of
    /// them comes first in directory order.
    held: Vec<Item>,
    /// The last key or common prefix so far, without `prefix`.
    last: String,
    /// The greatest key or common prefix so far, whole, without `prefix`.
    furthest: String,
    /// The directory that came out last; some servers repeat one at a page boundary.
    last_directory: Option<String>,
    /// All that has come since the server was found to list in another order, or everything where
    /// that was known from the start. Sorted when the listing ends.
    unordered: Option<Unordered>,
    /// Keys and common prefixes that came in the order of keys, one after another.
    n_in_order: usize,
    has_keys: bool,
}

/// So many items in the order of keys are no accident on a server that has no order: a listing is
/// not believed to have passed a name before.
const IN_ORDER_MIN: usize = 16;

/// Whether one page alone shows that its server lists in the order of keys.
pub(super) fn shows_order(page: &ListPage) -> bool {
    page.objects.len() + page.prefixes.len() >= IN_ORDER_MIN
        && page.objects.is_sorted_by(|a, b| a.key < b.key)
        && page.prefixes.is_sorted()
}

/// Entries in no order, each name once, the directory before the object.
#[derive(Default)]
struct Unordered {
    items: HashMap<String, (Option<Version>, Instant)>,
    bytes: usize,
}

/// What an entry takes beside its name and tag: the key, the slot and its share of free ones.
const UNORDERED_BYTES: usize = 2 * size_of::<(String, (Option<Version>, Instant))>();

impl Unordered {
    /// Whether the name is new.
    fn add(&mut self, item: Item, gain: &mut Gain) -> bool {
        let Item { name, version, sent } = item;
        match self.items.entry(name) {
            Entry::Vacant(slot) => {
                let tag = version.as_ref().and_then(|version| version.etag.as_ref());
                let tag_bytes = tag.map_or(0, ETag::heap_bytes);
                self.bytes += UNORDERED_BYTES + slot.key().len() + tag_bytes;
                slot.insert((version, sent));
                true
            }
            Entry::Occupied(mut slot) => {
                if slot.get().0.is_some() != version.is_some() {
                    gain.shadowed.push(slot.key().clone());
                    slot.insert((None, sent));
                }
                false
            }
        }
    }

    fn sorted(self) -> Vec<Item> {
        let item = |(name, (version, sent))| Item { name, version, sent };
        let mut items: Vec<Item> = self.items.into_iter().map(item).collect();
        items.sort_by(|a, b| directory_order(&a.name, &b.name));
        items
    }
}

impl Assembly {
    /// `ordered` is false where the server is known to list in another order than that of keys.
    pub(super) fn new(ordered: bool) -> Self {
        Self {
            held: Vec::new(),
            last: String::new(),
            furthest: String::new(),
            last_directory: None,
            unordered: (!ordered).then(Unordered::default),
            n_in_order: 0,
            has_keys: false,
        }
    }

    /// Whether any key was seen, a marker or a name that cannot be shown included.
    pub(super) fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Whether the server has listed in the order of keys so far.
    pub(super) fn is_ordered(&self) -> bool {
        self.unordered.is_none()
    }

    /// The last key or common prefix so far, without the directory's prefix.
    pub(super) fn last(&self) -> &str {
        &self.last
    }

    /// What waits for the end of an unordered listing.
    pub(super) fn bytes(&self) -> usize {
        self.unordered.as_ref().map_or(0, |unordered| unordered.bytes)
    }

    /// Whether everything about `name` has been seen: an object and a directory of that name would
    /// have come by now. The conditions beside the order are for servers whose other order shows only
    /// later: one that is none by then, and the one of a tree walk.
    pub(super) fn has_passed(&self, name: &str) -> bool {
        let stem = self.last.strip_suffix('/').unwrap_or(&self.last);
        self.is_ordered()
            && self.n_in_order >= IN_ORDER_MIN
            && raw_order((name, true), split(&self.last)).is_le()
            && name < stem
    }

    /// Whether the last page came to what lies behind an object and a directory of this name.
    pub(super) fn is_behind(&self, name: &str) -> bool {
        raw_order((name, true), split(&self.last)).is_le()
    }

    /// Takes the next page; `is_last` ends the listing. `is_given` says whether a name came out before;
    /// only the end of an unordered listing asks.
    pub(super) fn push(
        &mut self,
        page: RawPage,
        is_last: bool,
        is_given: impl Fn(&str) -> bool,
    ) -> Gain {
        let mut gain = Gain { n_hidden: page.n_hidden, ..Gain::default() };
        for item in self.read(page, &mut gain) {
            if let Some(unordered) = &mut self.unordered {
                gain.is_news |= unordered.add(item, &mut gain);
            } else {
                self.place(item, &mut gain);
            }
        }
        if is_last {
            // Taken, not drained: small directories are many, and room for four items is 400 bytes.
            gain.items.extend(std::mem::take(&mut self.held).into_iter().rev());
            self.last_directory = None;
            if let Some(unordered) = self.unordered.take() {
                let items = unordered.sorted().into_iter();
                gain.items.extend(items.filter(|item| !is_given(&item.name)));
                self.unordered = Some(Unordered::default());
            }
        }
        gain
    }

    /// All that comes from now on may be in any order, and may have come before.
    pub(super) fn give_up_order(&mut self, gain: &mut Gain) {
        if self.is_ordered() {
            let mut unordered = Unordered::default();
            for held in std::mem::take(&mut self.held) {
                unordered.add(held, gain);
            }
            self.unordered = Some(unordered);
        }
    }

    /// The page's items. Notices a server with another order, upon which what is held joins the
    /// unordered rest.
    fn read(&mut self, page: RawPage, gain: &mut Gain) -> Vec<Item> {
        let RawPage { items, in_order, has_keys, first, last, .. } = page;
        self.has_keys |= has_keys;
        let follows =
            first.as_deref().is_none_or(|first| raw_order(split(&self.last), split(first)).is_le());
        if let Some(last) = last {
            gain.is_news = last > self.furthest;
            if gain.is_news {
                self.furthest.clone_from(&last);
            }
            self.last = last;
        }
        self.n_in_order += items.len();
        if !(in_order && follows) {
            self.give_up_order(gain);
        }
        items
    }

    fn place(&mut self, item: Item, gain: &mut Gain) {
        self.release_before(&item, gain);
        if item.version.is_some() {
            // A key that a server gives twice, at the end of one page and the start of the next.
            if self.held.last().is_none_or(|held| held.name != item.name) {
                self.held.push(item);
            }
            return;
        }
        if self.held.last().is_some_and(|held| held.name == item.name) {
            self.held.pop();
            gain.shadowed.push(item.name.clone());
        }
        if self.last_directory.as_ref() != Some(&item.name) {
            self.last_directory = Some(item.name.clone());
            gain.items.push(item);
        }
    }

    /// Lets go of the held files whose place lies before `next`.
    fn release_before(&mut self, next: &Item, gain: &mut Gain) {
        while let Some(held) =
            self.held.pop_if(|held| raw_order((&held.name, true), raw(next)).is_lt())
        {
            gain.items.push(held);
        }
    }
}

/// A page, taken apart: what it has of one directory, in the order of keys.
pub(super) struct RawPage {
    items: Vec<Item>,
    /// Names that were left out, as they cannot be shown.
    n_hidden: usize,
    /// It came in the order of keys.
    pub(super) in_order: bool,
    /// It has a key, be it the directory's own marker or one that cannot be shown.
    has_keys: bool,
    /// The first and the last key or common prefix, without the directory's prefix, whatever it is.
    pub(super) first: Option<String>,
    pub(super) last: Option<String>,
    /// Keys and common prefixes.
    pub(super) n_names: usize,
    pub(super) sent: Instant,
}

/// What a page has behind the end of its range.
#[derive(Default)]
pub(super) struct Behind {
    pub(super) n_names: usize,
    pub(super) first: Option<String>,
}

impl RawPage {
    pub(super) fn of(prefix: &str, page: ListPage, sent: Instant) -> Self {
        let mut items = Vec::with_capacity(page.objects.len() + page.prefixes.len());
        let (mut in_order, mut has_keys) = (true, false);
        let mut add = |key: &str, version: Option<Version>, before: &mut String| {
            let Some(rest) = key.strip_prefix(prefix) else { return };
            in_order &= before.as_str() <= rest;
            before.clear();
            before.push_str(rest);
            has_keys = true;
            if rest.is_empty() {
                return; // The directory's own marker.
            }
            // A server that ignores the delimiter gives keys below: they mean the directory.
            let (name, version) = match rest.split_once('/') {
                Some((name, _)) => (name, None),
                None => (rest, version),
            };
            items.push(Item { name: name.to_owned(), version, sent });
        };
        let mut before = String::new();
        for object in page.objects {
            add(&object.key, Some(object.version), &mut before);
        }
        before.clear();
        for prefix in &page.prefixes {
            add(prefix, None, &mut before);
        }
        items.sort_by(|a, b| raw_order(raw(a), raw(b)));
        let (first, last) = (items.first().map(whole), items.last().map(whole));
        let n_names = items.len();
        Self { items, n_hidden: 0, in_order, has_keys, first, last, n_names, sent }
    }

    /// What a listing without delimiter told of one directory: `items` in the order of keys, and
    /// whether it has a key at all.
    pub(super) fn of_items(items: Vec<Item>, has_keys: bool, sent: Instant) -> Self {
        let (first, last) = (items.first().map(whole), items.last().map(whole));
        let n_names = items.len();
        Self { items, n_hidden: 0, in_order: true, has_keys, first, last, n_names, sent }
    }

    /// Takes away what lies behind `until`.
    pub(super) fn cut(&mut self, until: Option<&str>) -> Behind {
        let mut behind = Behind::default();
        if let Some(until) = until {
            let at =
                self.items.partition_point(|item| raw_order(raw(item), (until, false)).is_le());
            behind.n_names = self.items.len() - at;
            behind.first = self.items.get(at).map(whole);
            self.items.truncate(at);
            self.n_names = at;
            self.first = self.first.take().filter(|_| at > 0);
            self.last = self.items.last().map(whole);
        }
        behind
    }

    /// Small, for a page that has to wait.
    pub(super) fn pack(self, dir: &DirPath) -> PackedPage {
        let page = self.shown();
        let blocks = Block::pack(dir, &page.items, None);
        PackedPage { blocks, page: Self { items: Vec::new(), ..page } }
    }

    /// Without the names that cannot be shown.
    pub(super) fn shown(mut self) -> Self {
        self.items.retain(|item| is_presentable(&item.name));
        self.n_hidden = self.n_names - self.items.len();
        self
    }
}

/// A [`RawPage`] that waits for those before it.
pub(super) struct PackedPage {
    blocks: Vec<Block>,
    page: RawPage,
}

impl PackedPage {
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.blocks.iter().map(Block::bytes).sum::<usize>()
    }

    pub(super) fn unpack(self) -> RawPage {
        let sent = self.page.sent;
        let rows = self.blocks.iter().flat_map(Block::rows);
        let item =
            |row: Unpacked<'_>| Item { name: row.name.to_owned(), version: row.version, sent };
        let items = rows.map(item).collect();
        RawPage { items, ..self.page }
    }
}

fn whole(item: &Item) -> String {
    let slash = if item.version.is_none() { "/" } else { "" };
    format!("{}{slash}", item.name)
}

/// A name and whether a `/` follows: a key or common prefix without the directory's prefix.
type Raw<'a> = (&'a str, bool);

fn raw(item: &Item) -> Raw<'_> {
    (&item.name, item.version.is_none())
}

fn split(rest: &str) -> Raw<'_> {
    rest.strip_suffix('/').map_or((rest, false), |name| (name, true))
}

/// Whether the key or common prefix of `name` comes after `last`.
pub(super) fn comes_after(name: &str, is_directory: bool, last: &str) -> bool {
    raw_order((name, is_directory), split(last)).is_gt()
}

/// S3's order: that of the bytes of keys.
fn raw_order(a: Raw<'_>, b: Raw<'_>) -> Ordering {
    if a.0 == b.0 {
        return a.1.cmp(&b.1);
    }
    let tail = |slash: bool| if slash { "/" } else { "" };
    a.0.bytes().chain(tail(a.1).bytes()).cmp(b.0.bytes().chain(tail(b.1).bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::object::Object;

    fn version(size: u64) -> Version {
        Version { etag: None, size, modified: 0 }
    }

    /// What a server shows of `p/`: keys and common prefixes in its order.
    fn rolled(keys: &[String]) -> Vec<String> {
        let mut all: Vec<String> = keys
            .iter()
            .map(|key| key.find('/').map_or_else(|| key.clone(), |at| key[..=at].to_owned()))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    fn pages(entries: &[String], page_keys: usize) -> Vec<ListPage> {
        let mut pages: Vec<ListPage> = entries
            .chunks(page_keys)
            .map(|chunk| {
                let mut page =
                    ListPage { continuation: Some("more".into()), ..ListPage::default() };
                for entry in chunk {
                    let key = format!("p/{entry}");
                    if entry.ends_with('/') {
                        page.prefixes.push(key);
                    } else {
                        let version = version(entry.len() as u64);
                        page.objects.push(Object { key: key.into(), version });
                    }
                }
                page
            })
            .collect();
        match pages.last_mut() {
            Some(last) => last.continuation = None,
            None => pages.push(ListPage::default()),
        }
        pages
    }

    /// Enough of them to show an order, and they come before letters.
    fn in_order() -> Vec<String> {
        (0..=IN_ORDER_MIN).map(|number| format!("0{number:02}")).collect()
    }

    fn push_given(
        assembly: &mut Assembly,
        page: ListPage,
        is_given: impl Fn(&str) -> bool,
    ) -> Gain {
        let is_last = page.continuation.is_none();
        let page = RawPage::of("p/", page, Instant::now());
        assembly.push(page.pack(&DirPath::new("p/")).unpack(), is_last, is_given)
    }

    fn push(assembly: &mut Assembly, page: ListPage) -> Gain {
        push_given(assembly, page, |_| false)
    }

    fn run(entries: &[String], page_keys: usize, ordered: bool) -> (Vec<String>, Vec<String>) {
        let mut assembly = Assembly::new(ordered);
        let (mut shown, mut shadowed) = (Vec::new(), Vec::new());
        for page in pages(entries, page_keys) {
            let is_given =
                |name: &str| shown.iter().any(|given: &String| given.trim_end_matches('/') == name);
            let gain = push_given(&mut assembly, page, is_given);
            shadowed.extend(gain.shadowed);
            shown.extend(gain.items.into_iter().map(|item| {
                let slash = if item.version.is_none() { "/" } else { "" };
                format!("{}{slash}", item.name)
            }));
        }
        (shown, shadowed)
    }

    fn check(entries: &[&str], page_keys: usize, expected: &[&str]) {
        let entries: Vec<String> = entries.iter().map(|&entry| entry.to_owned()).collect();
        assert_eq!(run(&entries, page_keys, true).0, expected, "pages of {page_keys}");
    }

    #[test]
    fn a_directory_hides_a_file_of_its_name_even_on_another_page() {
        check(&["a", "a-", "a.txt", "a/"], 1, &["a-", "a.txt", "a/"]);
        let entries = ["a", "a-", "a/"].map(str::to_owned);
        assert_eq!(run(&entries, 1, true).1, ["a"]);
    }

    #[test]
    fn a_file_stands_where_a_directory_of_its_name_would() {
        check(
            &["a", "a-", "a--", "a-x", "a.txt", "a0"],
            2,
            &["a--", "a-", "a-x", "a.txt", "a", "a0"],
        );
    }

    #[test]
    fn a_first_page_reaches_the_reader_except_for_what_is_a_prefix_of_its_last_key() {
        let mut assembly = Assembly::new(true);
        push(&mut assembly, pages(&in_order(), IN_ORDER_MIN).remove(0));
        let entries = ["a", "b", "b-1", "b-2", "c"].map(str::to_owned);
        let first = pages(&entries, 4).remove(0);
        let names: Vec<String> =
            push(&mut assembly, first).items.into_iter().map(|item| item.name).collect();
        assert_eq!(names[names.len() - 2..], ["a", "b-1"], "b and b-2 may still be directories");
        assert!(assembly.has_passed("a") && assembly.has_passed("aa"));
        assert!(!assembly.has_passed("b") && !assembly.has_passed("b-2"));
    }

    #[test]
    fn names_that_cannot_be_shown_are_counted_and_shown_as_nothing() {
        let mut assembly = Assembly::new(true);
        let entries = [".", "/", "ok", "x\0y"].map(str::to_owned);
        let gain = push(&mut assembly, pages(&entries, 9).remove(0));
        assert_eq!((gain.items.len(), gain.n_hidden), (1, 3));
        assert!(assembly.has_keys());
    }

    #[test]
    fn the_marker_is_no_entry_but_a_key() {
        let mut assembly = Assembly::new(true);
        let gain = push(&mut assembly, pages(&[String::new()], 9).remove(0));
        assert!(gain.items.is_empty() && gain.n_hidden == 0 && assembly.has_keys());
    }

    #[test]
    fn a_common_prefix_that_a_server_repeats_on_the_next_page_is_shown_once() {
        check(&["a/", "a/", "b", "b"], 1, &["a/", "b"]);
    }

    #[test]
    fn what_another_order_may_still_bring_is_not_passed_before_that_order_is_noticed() {
        let mut assembly = Assembly::new(true);
        let first = || pages(&["a/", "a-b"].map(str::to_owned), 1).remove(0);
        push(&mut assembly, first());
        assert!(!assembly.has_passed("0"), "one item shows no order at all");
        let mut assembly = Assembly::new(true);
        push(&mut assembly, pages(&in_order(), 1 + IN_ORDER_MIN).remove(0));
        assert!(assembly.has_passed("0"), "so many do");
        push(&mut assembly, first());
        assert!(assembly.is_ordered() && !assembly.has_passed("a-b") && assembly.has_passed("0"));
    }

    #[test]
    fn one_page_shows_an_order_if_it_is_long_enough() {
        let page = |n_entries| pages(&in_order()[..n_entries], 100).remove(0);
        assert!(shows_order(&page(IN_ORDER_MIN)) && !shows_order(&page(IN_ORDER_MIN - 1)));
        let mut page = page(IN_ORDER_MIN);
        page.objects.swap(3, 4);
        assert!(!shows_order(&page));
    }

    #[test]
    fn tree_order_is_noticed_and_each_name_comes_once() {
        let entries = ["a/", "a-b", "b"].map(str::to_owned);
        let (mut shown, _) = run(&entries, 1, true);
        shown.sort();
        assert_eq!(shown, ["a-b", "a/", "b"]);
        assert_eq!(run(&entries, 1, false).0, ["a-b", "a/", "b"], "known from the start: in order");
    }

    fn expected(keys: &[String]) -> Vec<String> {
        let mut model = BTreeMap::new();
        for entry in rolled(keys) {
            let name = entry.trim_end_matches('/');
            if is_presentable(name) {
                // `a/` comes after `a` and takes its place.
                model.insert(format!("{name}/"), entry.clone());
            }
        }
        model.into_values().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_page_size_gives_the_same_entries_in_order_each_once(
            keys in prop::collection::vec("[ab./0é-]{1,6}", 0..40), page_keys in 1_usize..12,
        ) {
            prop_assert_eq!(run(&rolled(&keys), page_keys, true).0, expected(&keys));
        }

        #[test]
        fn any_order_gives_each_entry_once(
            keys in prop::collection::vec("[ab./0é-]{1,6}", 0..40),
            page_keys in 1_usize..12,
            known in any::<bool>(),
        ) {
            let mut entries = rolled(&keys);
            entries.reverse();
            let (mut shown, _) = run(&entries, page_keys, !known || entries.len() < 2);
            let mut names: Vec<_> = expected(&keys);
            if !known {
                // What came out before the order was noticed keeps its place.
                shown.sort();
                names.sort();
            }
            prop_assert_eq!(shown, names);
        }

        #[test]
        fn whatever_pages_come_each_name_comes_once(
            pages_of in prop::collection::vec(
                prop::collection::vec("[ab]{1,2}[./]?", 0..6), 1..8,
            ),
            known in any::<bool>(),
        ) {
            let mut assembly = Assembly::new(known);
            let (mut shown, mut expected) = (Vec::<String>::new(), BTreeSet::new());
            let n_pages = pages_of.len();
            for (index, entries) in pages_of.into_iter().enumerate() {
                expected.extend(entries.iter().map(|entry| entry.trim_end_matches('/').to_owned()));
                let mut page = pages(&entries, entries.len().max(1)).remove(0);
                page.continuation = (index + 1 < n_pages).then(|| index.to_string());
                let given = shown.clone();
                let gain =
                    push_given(&mut assembly, page, |name| given.iter().any(|it| it == name));
                shown.extend(gain.items.into_iter().map(|item| item.name));
            }
            let unique: BTreeSet<_> = shown.iter().cloned().collect();
            prop_assert_eq!(unique.len(), shown.len(), "{:?}", shown);
            prop_assert_eq!(unique, expected);
        }

        #[test]
        fn what_has_been_passed_is_known(
            keys in prop::collection::vec("[ab./0é-]{1,6}", 1..100), page_keys in 1_usize..40,
            name in "[ab.0é-]{1,4}",
        ) {
            let all = expected(&keys);
            let mut assembly = Assembly::new(true);
            let mut shown = Vec::new();
            for page in pages(&rolled(&keys), page_keys) {
                shown.extend(push(&mut assembly, page).items.into_iter().map(|i| i.name));
                let exists = all.iter().any(|entry| entry.trim_end_matches('/') == name);
                if assembly.has_passed(&name) && is_presentable(&name) {
                    prop_assert_eq!(exists, shown.contains(&name));
                }
            }
        }
    }
}
