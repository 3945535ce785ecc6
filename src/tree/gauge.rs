//! How far a name lies from others, in pages of a listing: which page to ask for when a name lies
//! beyond those that are known. Pure, and only ever an estimate: a wrong one costs a request.

use super::spread::{Alphabet, Spread};

/// What a stretch of names tells of how the names of its directory are spread.
pub(super) struct Gauge {
    alphabet: Alphabet,
    first: Box<str>,
    last: Box<str>,
    n_names: u128,
    page_names: u128,
}

/// Of the names seen, one in so many goes into the alphabet, which completes what it sees.
const SAMPLE_SHARE: usize = 16;

impl Gauge {
    /// From names in the order of keys, of a directory that gives `page_names` a page. `None` where
    /// there are too few to tell anything.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>, page_names: usize) -> Option<Self> {
        let mut alphabet = Alphabet::default();
        let (mut first, mut last, mut n_names) = (None, "", 0);
        for name in names {
            if n_names % SAMPLE_SHARE == 0 {
                alphabet.add(name);
            }
            first.get_or_insert(name);
            (last, n_names) = (name, n_names + 1);
        }
        alphabet.add(last);
        let first = first.filter(|first| *first < last)?;
        Some(Self {
            alphabet,
            first: first.into(),
            last: last.into(),
            n_names: n_names as u128,
            page_names: page_names as u128,
        })
    }

    /// How many half pages of names lie between the two.
    pub(super) fn half_pages(&self, from: &str, to: &str) -> u128 {
        let spread = self.spread();
        spread.value(to).saturating_sub(spread.value(from)) / self.half_page(&spread)
    }

    /// A name before `name`, by about half a page, and not before `after`, which it may be. Of a page
    /// that begins there `name` is in the middle, so that it also tells of those just before.
    pub(super) fn before(&self, name: &str, after: &str) -> String {
        let spread = self.spread();
        let half_page = self.half_page(&spread);
        let wanted = spread.value(name).saturating_sub(half_page);
        if wanted <= spread.value(after) {
            return after.to_owned();
        }
        let near = spread.name_near(wanted, half_page / 4, after, Some(name));
        near.unwrap_or_else(|| just_before(name).max(after.to_owned()))
    }

    fn spread(&self) -> Spread<'_> {
        Spread::new(&self.alphabet, &self.first, &self.last)
    }

    fn half_page(&self, spread: &Spread<'_>) -> u128 {
        let seen = spread.value(&self.last).saturating_sub(spread.value(&self.first));
        // A value may be multiplied by a page: `Spread` leaves room for that.
        (seen * self.page_names / self.n_names / 2).max(1)
    }
}

/// A name before `name` with hardly one between the two.
pub(super) fn just_before(name: &str) -> String {
    let mut before = name.to_owned();
    match before.pop() {
        // No slash, which would be a name in another directory.
        Some('0') => before.push_str(".~"),
        Some(last @ '!'..='~') => before.extend([char::from(last as u8 - 1), '~']),
        _ => {}
    }
    before
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gauge(names: &[String]) -> Gauge {
        Gauge::new(names.iter().map(String::as_str), 1000).unwrap()
    }

    fn counters() -> Vec<String> {
        (0..1000).map(|n| format!("n{n:06}.csv")).collect()
    }

    fn hashes(n_names: u64) -> Vec<String> {
        let hash = |n: u64| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes());
        let mut names: Vec<_> = (0..n_names).map(|n| format!("{:016x}", hash(n))).collect();
        names.sort();
        names
    }

    #[test]
    fn the_next_page_is_one_page_away() {
        let half_pages = |to: &str| gauge(&counters()).half_pages("n000999.csv", to);
        assert_eq!(half_pages("n000999.csv"), 0);
        assert!(half_pages("n001400.csv") < 1, "{}", half_pages("n001400.csv"));
        assert!((1..=2).contains(&half_pages("n001999.csv")));
        assert!((17..=20).contains(&half_pages("n010400.csv")));
        let names = hashes(10_000);
        let gauge = gauge(&names[..1000]);
        for page in 1..10 {
            let n = gauge.half_pages(&names[999], &names[page * 1000 + 999]);
            assert!(n.abs_diff(page as u128 * 2) <= 2, "{n} for {page} pages");
        }
    }

    #[test]
    fn a_page_that_begins_half_a_page_before_a_name_has_it() {
        let names = hashes(50_000);
        let gauge = gauge(&names[..1000]);
        for at in (2_000..49_000).step_by(1000) {
            let start = gauge.before(&names[at], &names[999]);
            let from = names.partition_point(|name| *name <= start);
            assert!((300..700).contains(&(at - from)), "{at}: {from}");
        }
        assert_eq!(gauge.before(&names[1200], &names[999]), names[999], "no further than is known");
    }

    #[test]
    fn of_one_name_nothing_can_be_told() {
        assert!(Gauge::new([].into_iter(), 1000).is_none());
        assert!(Gauge::new(["a", "a"].into_iter(), 1000).is_none());
        assert!(Gauge::new(["a", "b"].into_iter(), 1000).is_some());
    }

    proptest! {
        #[test]
        fn a_page_never_begins_behind_the_name_nor_before_what_is_known(
            names in prop::collection::btree_set("[a-d0-3.-]{1,6}", 3..20),
            after in "[a-dé0-3.-]{1,6}",
            name in "[a-dé0-3. -]{1,6}",
        ) {
            prop_assume!(after < name);
            let gauge = Gauge::new(names.iter().map(String::as_str), 1000).unwrap();
            let start = gauge.before(&name, &after);
            prop_assert!(after <= start && start < name, "{after:?} {start:?} {name:?}");
            prop_assert!(!start.contains('/'));
        }
    }
}
