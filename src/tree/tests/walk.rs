//! Walks through a tree: what they cost, and that they see what is there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::error::StoreErrorKind;
use crate::store::fake::Fault;

/// What each directory has, by all keys.
type Shown = BTreeMap<String, Vec<String>>;

fn expected(keys: &[String]) -> Shown {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for key in keys {
        let mut at = 0;
        while let Some(slash) = key[at..].find('/') {
            let end = at + slash + 1;
            all.entry(key[..at].to_owned()).or_default().insert(key[at..end].to_owned());
            at = end;
        }
        all.entry(key[..at].to_owned()).or_default().insert(key[at..].to_owned());
    }
    all.into_iter().map(|(dir, names)| (dir, names.into_iter().collect())).collect()
}

/// Which directory of those that wait comes next.
#[derive(Clone, Copy, Debug)]
enum Way {
    DepthFirst,
    BreadthFirst,
    /// Those of one directory in an order that has nothing to do with their names.
    Scattered,
}

impl World {
    /// Walks through all that is below `top` and that `enters` lets it enter.
    async fn walk(&self, top: &str, way: Way, enters: impl Fn(&str) -> bool) -> Shown {
        let mut all = Shown::new();
        let mut waiting = VecDeque::from([top.to_owned()]);
        while let Some(dir) = waiting.pop_front() {
            let names = self.readdir(&dir).await.unwrap();
            let mut below: Vec<String> = names
                .iter()
                .filter(|name| name.ends_with('/'))
                .map(|name| format!("{dir}{name}"))
                .filter(|path| enters(path))
                .collect();
            if matches!(way, Way::Scattered) {
                below.sort_by_key(|path| xxhash_rust::xxh3::xxh3_64(path.as_bytes()));
            }
            if matches!(way, Way::BreadthFirst) {
                waiting.extend(below);
            } else {
                below.into_iter().rev().for_each(|path| waiting.push_front(path));
            }
            let mut names = names;
            names.sort();
            all.insert(dir, names);
        }
        all
    }

    fn put_all(&self, keys: &[String]) {
        for key in keys {
            self.store.put(key, "x");
        }
    }
}

/// `n_top` directories of ten each, with 15 or so objects in each of those.
fn bushes(n_top: usize) -> Vec<String> {
    let of = |top: usize| {
        (0..10).flat_map(move |sub| {
            (0..14 + (top + sub) % 3).map(move |n| format!("d{top:03}/s{sub}/f{n:04}"))
        })
    };
    (0..n_top).flat_map(of).collect()
}

#[tokio::test(start_paused = true)]
async fn a_tree_is_listed_ahead_of_any_walker_for_little_more_than_its_pages() {
    for (way, most) in [(Way::DepthFirst, 25), (Way::BreadthFirst, 25), (Way::Scattered, 40)] {
        let world = World::new(&[]);
        let keys = bushes(107);
        world.put_all(&keys);
        let (all, time) = timed(world.walk("", way, |_| true)).await;
        assert_eq!(all, expected(&keys), "{way:?}");
        let (n_calls, n_rounds) = (world.n_calls(), time.as_millis() / ROUND_TRIP.as_millis());
        assert!(n_calls <= most && n_rounds <= 20, "{way:?}: {n_calls} calls, {n_rounds} rounds");
        // All of it is known as long as what it has cost.
        pass(20_000).await;
        assert_eq!(world.walk("", way, |_| true).await, all);
        assert_eq!(world.n_calls(), 0, "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_a_directory_while_it_is_told_pays_for_no_second_listing() {
    let mut costs = Vec::new();
    for is_told_meanwhile in [false, true] {
        let world = World::new(&[]);
        let keys = bushes(107);
        world.put_all(&keys);
        world.walk("", Way::DepthFirst, |path| path < "d020/").await;
        if is_told_meanwhile {
            // It had to be asked for when its walker looked, and is known by the time that he waits.
            let directory = world.tree.directory(&DirPath::new("d019/"));
            world.tree.walk_to(&directory).await;
        }
        let all = world.walk("", Way::DepthFirst, |_| true).await;
        assert_eq!(all, expected(&keys));
        costs.push(world.n_calls());
    }
    assert_eq!(costs[0], costs[1]);
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_has_become_old_is_listed_ahead_again() {
    let world = World::new(&[]);
    world.put_all(&bushes(30));
    world.walk("", Way::DepthFirst, |_| true).await;
    let first = world.n_calls();
    pass(30_000).await;
    // Its time is over, and the old answers go on for a minute while all is listed behind.
    world.put_all(&["d020/s3/new".to_owned()]);
    world.walk("", Way::DepthFirst, |_| true).await;
    pass(1_000).await;
    let again = world.n_calls();
    assert!(again <= first + 4, "{first}, then {again}");
    assert!(world.readdir("d020/s3/").await.unwrap().contains(&"new".to_owned()));
    assert_eq!(world.n_calls(), 0);
    pass(120_000).await;
    world.put_all(&["d020/s3/newer".to_owned()]);
    assert!(world.walk("", Way::DepthFirst, |_| true).await["d020/s3/"].contains(&"newer".into()));
    let third = world.n_calls();
    assert!(third <= first + 4, "{first}, then {third}");
}

#[tokio::test(start_paused = true)]
async fn what_a_walker_skips_is_not_listed_to_its_end() {
    let world = World::new(&[]);
    let mut keys = bushes(20);
    for large in ["d003/", "d011/s0/"] {
        keys.extend((0..60_000).map(|n| format!("{large}large/{}/{n}", n / 100)));
    }
    world.put_all(&keys);
    let all = world.walk("", Way::DepthFirst, |path| !path.ends_with("/large/")).await;
    assert_eq!(all.len(), 1 + 20 * 11);
    pass(60_000).await;
    let n_calls = world.n_calls();
    assert!(n_calls <= 40, "of 3 pages beside 120: {n_calls}");
}

#[tokio::test(start_paused = true)]
async fn it_stops_when_the_walker_stops() {
    let world = World::new(&[]);
    world.put_all(&bushes(600));
    for dir in ["", "d000/", "d000/s0/", "d000/s1/", "d000/s2/", "d001/"] {
        world.readdir(dir).await.unwrap();
    }
    pass(60_000).await;
    let n_calls = world.n_calls();
    assert!(n_calls <= 18, "of 90 pages: {n_calls}");
}

#[tokio::test(start_paused = true)]
async fn two_directories_that_were_looked_at_cost_a_few_pages_more() {
    let world = World::new(&[]);
    world.put_all(&bushes(600));
    world.readdir("d007/").await.unwrap();
    pass(15_000).await;
    world.readdir("d300/").await.unwrap();
    assert_eq!(world.n_calls(), 2, "a while after, it is no walk");
    world.readdir("d009/").await.unwrap();
    pass(60_000).await;
    let n_calls = world.n_calls();
    assert!(n_calls <= 8, "{n_calls}");
}

#[tokio::test(start_paused = true)]
async fn a_walker_who_goes_no_deeper_does_not_pay_for_what_is_below() {
    let world = World::new(&[]);
    let mut keys = Vec::new();
    for top in 0..40 {
        keys.extend((0..5_000).map(|n| format!("d{top:02}/s{}/{n:04}", n / 100)));
    }
    world.put_all(&keys);
    let all = world.walk("", Way::DepthFirst, |path| path.matches('/').count() == 1).await;
    assert_eq!(all.len(), 41);
    let n_calls = world.n_calls();
    assert!(n_calls <= 2 * 41 + 10, "of 200 pages: {n_calls}");
}

#[tokio::test(start_paused = true)]
async fn a_large_directory_in_a_tree_is_listed_by_itself() {
    let world = World::new(&[]);
    let mut keys = bushes(30);
    keys.extend((0..45_000).map(|n| format!("d010/s3/large{n:05}")));
    world.put_all(&keys);
    assert_eq!(world.walk("", Way::DepthFirst, |_| true).await, expected(&keys));
    let n_calls = world.n_calls();
    assert!(n_calls <= 2 * 50 + 10, "of 50 pages: {n_calls}");
}

#[tokio::test(start_paused = true)]
async fn without_order_or_permission_each_directory_is_listed_by_itself() {
    let tree_order = World::new(&[]);
    tree_order.store.list_in_tree_order();
    let denied = World::new(&[]);
    denied.store.deny_flat_list();
    let no_time = World::with(&[], MetadataTtl::Fixed(Ttl::For(Duration::ZERO)), Duration::ZERO);
    for (world, most) in [(tree_order, 231), (denied, 223), (no_time, 221)] {
        let mut keys = bushes(20);
        keys.push("d000-/x".to_owned());
        world.put_all(&keys);
        assert_eq!(world.walk("", Way::DepthFirst, |_| true).await, expected(&keys));
        let n_calls = world.n_calls();
        assert!((222..=most + 1).contains(&n_calls), "{n_calls} for 222 directories");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_page_ahead_costs_the_walker_nothing_but_a_request() {
    for skip in 0..20 {
        let world = World::new(&[]);
        let keys = bushes(40);
        world.put_all(&keys);
        for dir in ["", "d000/", "d000/s0/"] {
            world.readdir(dir).await.unwrap();
        }
        world.calls();
        // What a walker asks for himself does not fail here.
        world.store.fault_flat(skip, Fault::Fail(StoreErrorKind::Throttled));
        assert_eq!(world.walk("", Way::DepthFirst, |_| true).await, expected(&keys), "{skip}");
        let n_calls = world.n_calls();
        assert!(n_calls <= 40, "{skip}: {n_calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn many_walkers_at_once_see_all_and_share_what_it_costs() {
    let world = World::new(&[]);
    let keys = bushes(107);
    world.put_all(&keys);
    let tops = world.readdir("").await.unwrap();
    let world = &world;
    let walks = tops.chunks(8).map(|tops| async move {
        let mut all = Shown::new();
        for top in tops {
            all.extend(world.walk(top, Way::DepthFirst, |_| true).await);
        }
        all
    });
    let parts = futures_util::future::join_all(walks).await;
    let mut all: Shown = parts.into_iter().flatten().collect();
    all.insert(String::new(), tops.clone());
    assert_eq!(all, expected(&keys));
    let n_calls = world.n_calls();
    assert!(n_calls <= 60, "of 9 pages: {n_calls}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn any_walker_sees_any_tree_as_it_is(
        keys in prop::collection::btree_set("[ab]{1,2}([/-][ab-]{1,2}){0,4}", 0..150),
        page_keys in 2_u16..12,
        way in prop::sample::select(vec![Way::DepthFirst, Way::BreadthFirst, Way::Scattered]),
        skipped in prop::sample::select(vec!["", "a/", "b/a/", "aa/"]),
        faults in prop::collection::vec(0_usize..30, 0..3),
    ) {
        // No object has the name of a directory.
        let is_directory = |key: &String| keys.range(format!("{key}/")..format!("{key}0")).next().is_some();
        let keys: Vec<String> = keys.iter().filter(|key| !is_directory(key)).cloned().collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let world = World::new(&[]);
            world.put_all(&keys);
            world.store.set_page_keys(page_keys);
            for skip in faults {
                world.store.fault_flat(skip, Fault::Fail(StoreErrorKind::Throttled));
            }
            let mut expected = expected(&keys);
            expected.entry(String::new()).or_default();
            expected.retain(|dir, _| skipped.is_empty() || !dir.starts_with(skipped));
            for _ in 0..2 {
                let all = world.walk("", way, |path| path != skipped).await;
                prop_assert_eq!(&all, &expected);
                pass(50_000).await;
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_walker_is_not_left_behind_by_what_holds_for_a_minute() {
    let world = World::new(&[]);
    let keys = bushes(107);
    world.put_all(&keys);
    for dir in expected(&keys).keys() {
        assert!(!world.readdir(dir).await.unwrap().is_empty());
        pass(400).await;
    }
    let n_calls = world.n_calls();
    assert!(n_calls <= 2 * 25 + 25, "eight minutes for 17 pages: {n_calls}");
}
