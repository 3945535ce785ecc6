//! Many lookups in one directory, and in many: how they turn into listings, and in which bounds.

use futures_util::FutureExt;
use futures_util::future::join_all;
use proptest::prelude::*;

use super::*;
use crate::store::fake::Fault;

/// Numbers below `n` in an order that jumps about.
fn shuffled(n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|at| xxhash_rust::xxh3::xxh3_64(&at.to_le_bytes()));
    order
}

#[tokio::test(start_paused = true)]
async fn the_second_lookup_in_an_unknown_directory_lists_it() {
    let world = World::new(&["d/1", "d/2", "d/3"]);
    world.lookup("d/1").await;
    assert_eq!(world.n_calls(), 2);
    assert_eq!(world.lookup("d/2").await, "file 3");
    assert_eq!(world.calls(), ["LIST d/"]);
    assert_eq!(world.lookup("d/3").await, "file 3");
    assert_eq!(world.lookup("d/4").await, "absent");
    assert_eq!(world.n_calls(), 0);
}

/// `while [ ! -e DIR/NAME ]; do sleep 1; done`, as the kernel asks: for the directory when its time is
/// over, then for the name.
async fn poll(world: &World, dir: &str, name: &str, n_checks: usize) -> usize {
    let mut directory = (String::new(), 0);
    world.calls();
    for at in 0..n_checks {
        if directory.1 <= 1_000 * u128::from(at > 0) {
            directory = world.lookup_timed(dir).await;
        } else {
            directory.1 -= 1_000;
        }
        if directory.0 == "dir" {
            assert_eq!(world.lookup(&format!("{dir}/{name}")).await, "absent");
        }
        pass(1_000).await;
    }
    world.n_calls()
}

#[tokio::test(start_paused = true)]
async fn one_name_that_is_waited_for_is_one_request_a_second_and_that_shows_its_directory() {
    for name in ["_SUCCESS", "zzz"] {
        for n_objects in [0, 1, 900, 5_000] {
            let world = World::new(&["p/other"]);
            world.fill("p/d/", n_objects);
            world.readdir("p/").await.unwrap();
            let n_first = poll(&world, "p/d", name, 3).await;
            assert!(n_first <= 3 + 7, "{name} in {n_objects}: {n_first}");
            let n_calls = poll(&world, "p/d", name, 60).await;
            assert!(n_calls <= 61, "{name} in {n_objects}: {n_calls}");
            if n_objects > 0 {
                pass(60_000).await;
                world.readdir("p/d/").await.unwrap();
                let n_calls = poll(&world, "p/d", name, 60).await;
                assert!(n_calls <= 61, "{name} in {n_objects}, listed: {n_calls}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_in_use_shows_those_above_it_and_no_others() {
    let world = World::new(&["a/b/c/file", "a/b/x/file", "a/f"]);
    for path in ["a", "a/b", "a/b/c"] {
        world.lookup(path).await;
    }
    for _ in 0..10 {
        world.readdir("a/b/c/").await.unwrap();
        pass(2_000).await;
        world.calls();
        for path in ["a", "a/b", "a/b/c"] {
            assert_eq!(world.lookup(path).await, "dir");
        }
        assert_eq!(world.readdir("a/b/c/").await.unwrap(), ["file"]);
        assert_eq!(world.calls(), ["LIST a/b/c/"]);
    }
    world.store.delete("a/b/c/file");
    pass(2_000).await;
    assert_eq!(world.lookup("a").await, "dir");
    assert_eq!(world.lookup("a/b").await, "dir");
    assert_eq!(world.lookup("a/b/c").await, "absent");
    assert_eq!(world.lookup("a/f").await, "file 3");
}

#[tokio::test(start_paused = true)]
async fn known_siblings_of_a_directory_of_two_pages_cost_four_requests_in_any_order() {
    let orders = [
        (0..500).collect(),
        (1_500..2_000).rev().collect(),
        (750..1_250).collect(),
        shuffled(2_000),
    ];
    for (case, order) in orders.into_iter().enumerate() {
        let world = World::new(&[]);
        world.fill("d/", 2_000);
        for at in order.iter().take(500) {
            assert_eq!(world.lookup(&format!("d/n{at:04}")).await, "file 1", "case {case}");
        }
        let calls = world.calls();
        assert!(calls.len() <= 4, "case {case}: {calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn absent_names_in_a_directory_of_two_pages_cost_four_requests_wherever_they_would_be() {
    for stem in ["n", "a", "z", "n1500-"] {
        let world = World::new(&[]);
        world.fill("d/", 2_000);
        for at in shuffled(2_000).iter().take(200) {
            assert_eq!(world.lookup(&format!("d/{stem}{at:04}x")).await, "absent");
        }
        let calls = world.calls();
        assert!(calls.len() <= 4, "{stem}: {calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn lookups_at_one_time_list_their_directory_together() {
    for (n_objects, n_calls) in [(500, 3), (2_000, 4)] {
        let world = World::new(&[]);
        world.fill("d/", n_objects);
        let order = shuffled(n_objects);
        let paths: Vec<_> = order.iter().take(16).map(|at| format!("d/n{at:04}")).collect();
        let answers = join_all(paths.iter().map(|path| world.lookup(path))).await;
        assert_eq!(answers, vec!["file 1"; 16]);
        let calls = world.calls();
        assert_eq!(calls.len(), n_calls, "of {n_objects}: {calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn lookups_in_two_directories_do_not_wait_for_each_other() {
    let world = World::new(&["d/1", "d/2", "e/1", "e/2"]);
    for path in ["d/1", "e/1"] {
        world.lookup(path).await;
    }
    world.store.fault(0, Fault::Stall);
    let mut stalled = std::pin::pin!(world.lookup("d/2"));
    assert!(stalled.as_mut().now_or_never().is_none());
    pass(1).await;
    let (answer, took) = timed(world.lookup("e/2")).await;
    assert_eq!((answer.as_str(), took), ("file 3", ROUND_TRIP));
}

#[tokio::test(start_paused = true)]
async fn names_anywhere_in_a_huge_directory_are_asked_for_singly_after_three_pages() {
    let world = World::new(&[]);
    for index in 0..300_000 {
        world.store.put(&format!("d/{index:07}"), "x");
    }
    let order = shuffled(300_000);
    let mut n_pages = Vec::new();
    for n_lookups in [3, 100] {
        for at in order.iter().take(n_lookups) {
            assert_eq!(world.lookup(&format!("d/{at:07}")).await, "file 1");
        }
        let calls = world.calls();
        n_pages.push(
            calls.iter().filter(|call| *call == "LIST d/" || call.starts_with("LIST d/ ")).count(),
        );
        assert!(calls.len() <= n_lookups * 5 / 4 + 3, "{n_lookups}: {}", calls.len());
        pass(2_000).await;
    }
    assert_eq!(n_pages[0], 3, "the first, and two on trust");
    assert!(n_pages[1] <= 100 / 8 + 8, "{n_pages:?}");
}

#[tokio::test(start_paused = true)]
async fn names_in_order_in_a_huge_directory_bring_a_page_for_a_thousand() {
    let world = World::new(&[]);
    for index in 0..300_000 {
        world.store.put(&format!("d/{index:07}"), "x");
    }
    for at in 200_000..205_000 {
        assert_eq!(world.lookup(&format!("d/{at:07}")).await, "file 1");
    }
    let calls = world.calls();
    assert!(calls.len() <= 12, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_absent_names_costs_one_listing_a_second() {
    for (n_objects, n_calls) in [(900, 1), (2_000, 3)] {
        let world = World::new(&[]);
        world.fill("d/", n_objects);
        world.readdir("d/").await.unwrap();
        for _ in 0..5 {
            pass(1_000).await;
            world.calls();
            for at in 0..5_000 {
                assert_eq!(world.lookup(&format!("d/n{at:04}x")).await, "absent");
            }
            let calls = world.calls();
            assert!(calls.len() <= n_calls, "of {n_objects}: {calls:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stale_names_of_a_long_listing_are_asked_for_by_the_page() {
    let world = World::new(&[]);
    world.fill("d/", 5_000);
    world.readdir("d/").await.unwrap();
    pass(60_000).await;
    world.calls();
    for at in 3_000..3_400 {
        assert_eq!(world.lookup(&format!("d/n{at:04}")).await, "file 1");
    }
    assert_eq!(world.calls(), ["LIST d/n3000", "LIST d/ after"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_names_in_many_directories_list_each_once() {
    let hour = Duration::from_secs(3_600);
    let world = World::with(&[], MetadataTtl::Fixed(Ttl::For(hour)), hour);
    for dir in 0..50 {
        world.fill(&format!("p/d{dir:02}/"), 20);
    }
    world.readdir("p/").await.unwrap();
    world.calls();
    for name in ["n0003", "none", "n0007", "n0003x"] {
        for dir in 0..50 {
            let expected = if name.len() == 5 { "file 1" } else { "absent" };
            assert_eq!(world.lookup(&format!("p/d{dir:02}/{name}")).await, expected);
        }
    }
    let calls = world.calls();
    assert_eq!(calls.len(), 50 + 2, "the first is probed: {:?}", &calls[..5]);
}

#[tokio::test(start_paused = true)]
async fn a_search_path_is_listed_again_side_by_side() {
    let slow = FakeStore::new().with_latency(Duration::from_millis(60));
    let config = TreeConfig {
        prefix: DirPath::new(""),
        metadata_ttl: MetadataTtl::Auto,
        negative_ttl: Ttl::For(Duration::from_secs(1)),
        entries_bytes_max: 64 << 20,
        reach: Arc::default(),
    };
    let tree = Tree::new(Arc::new(slow.clone()), Handle::current(), config);
    let world = World { store: slow, tree };
    for dir in 0..30 {
        world.fill(&format!("p/d{dir:02}/"), 20);
    }
    world.readdir("p/").await.unwrap();
    let mut took = Vec::new();
    for name in 0..40 {
        let start = Instant::now();
        for dir in 0..30 {
            assert_eq!(world.lookup(&format!("p/d{dir:02}/x{name}.h")).await, "absent");
        }
        took.push(start.elapsed().as_millis());
        pass(100).await;
    }
    assert!(took[4..].iter().all(|ms| *ms <= 3 * 60), "{took:?}");
    let calls = world.calls();
    assert!(calls.len() <= 32 + 30 * 6, "{}", calls.len());
    // Who looks no further pays for those behind once.
    for name in 0..20 {
        pass(1_000).await;
        world.lookup(&format!("p/d00/y{name}.h")).await;
    }
    assert!(world.n_calls() <= 20 + 15);
}

#[tokio::test(start_paused = true)]
async fn paths_that_lead_on_are_probed_at_each_level() {
    let world = World::new(&[]);
    for user in 0..20 {
        world.store.put(&format!("u/{user:02}/profile/x.json"), "{}");
    }
    world.readdir("u/").await.unwrap();
    world.calls();
    for user in 0..20 {
        for path in ["profile", "profile/x.json"] {
            assert_ne!(world.lookup(&format!("u/{user:02}/{path}")).await, "absent");
        }
    }
    assert_eq!(world.n_calls(), 40, "one round trip for two levels");
}

#[tokio::test(start_paused = true)]
async fn what_a_page_told_does_not_outlive_its_time() {
    let world = World::new(&[]);
    for index in 0..9_000 {
        world.store.put(&format!("d/{index:07}"), "x");
    }
    for at in 7_000..7_100 {
        world.lookup(&format!("d/{at:07}")).await;
    }
    world.calls();
    world.store.put("d/0007050", "longer");
    world.store.put("d/0007050x", "new");
    assert_eq!(world.lookup("d/0007050").await, "file 1");
    assert_eq!(world.lookup("d/0007050x").await, "absent");
    assert_eq!(world.n_calls(), 0);
    pass(1_000).await;
    assert_eq!(world.lookup("d/0007050x").await, "file 3");
    pass(1_000).await;
    assert_eq!(world.lookup("d/0007050").await, "file 6");
}

#[tokio::test(start_paused = true)]
async fn a_page_around_a_name_that_fails_gives_way_to_the_name_alone() {
    let world = World::new(&[]);
    for index in 0..9_000 {
        world.store.put(&format!("d/{index:07}"), "x");
    }
    for at in [0, 1] {
        world.lookup(&format!("d/{at:07}")).await;
    }
    world.calls();
    for (name, page) in [("0001500", "LIST d/ +"), ("0007000", "LIST d/ after")] {
        world.store.fault(0, Fault::Fail(crate::error::StoreErrorKind::Other));
        assert_eq!(world.lookup(&format!("d/{name}")).await, "file 1");
        assert_eq!(world.calls(), [page, &format!("LIST d/{name}")]);
        world.lookup("d/0001500").await;
        world.lookup("d/0001501").await;
        world.calls();
    }
}

#[tokio::test(start_paused = true)]
async fn pieces_of_a_directory_are_bounded_and_weighed() {
    let world = World::new(&[]);
    for index in 0..200_000 {
        world.store.put(&format!("d/{index:07}"), "x");
    }
    let mut bytes = Vec::new();
    for at in (0..200_000).step_by(5_000) {
        for next in 0..20 {
            world.lookup(&format!("d/{:07}", at + next)).await;
        }
        bytes.push(world.tree.bytes());
    }
    let (few, full, late) = (bytes[7], bytes[20], bytes[39]);
    assert!(full > few + few / 2 && late < full + full / 8, "{few} {full} {late}");
}

/// Lookups of random names in a directory of random keys, on pages of any size.
async fn run(keys: Vec<String>, names: Vec<String>, page_keys: u16) {
    let world = World::new(&[]);
    world.store.set_page_keys(page_keys);
    for key in &keys {
        world.store.put(&format!("d/{key}"), "x");
    }
    for name in names {
        let below = format!("{name}/");
        let expected = match () {
            () if keys.iter().any(|key| key.starts_with(&below)) => "dir",
            () if keys.contains(&name) => "file 1",
            () => "absent",
        };
        assert_eq!(world.lookup(&format!("d/{name}")).await, expected, "{name}");
        pass(40).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn whatever_pages_lookups_bring_every_answer_is_right(
        keys in prop::collection::btree_set("[a-c0-2]([-./]?[a-c0-2]){0,4}", 1..300),
        others in prop::collection::vec("[a-c0-2]([-.]?[a-c0-2]){0,4}", 1..60),
        picks in prop::collection::vec(0_usize..300, 1..60),
        page_keys in 17_u16..60,
    ) {
        let keys: Vec<String> = keys.into_iter().collect();
        let known = picks.iter().map(|at| keys[at % keys.len()].split('/').next().unwrap().to_owned());
        let names: Vec<String> = known.zip(others.into_iter().cycle()).flat_map(|(a, b)| [a, b]).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let run = runtime.spawn(run(keys, names, page_keys));
        runtime.block_on(run).map_err(|err| TestCaseError::fail(err.to_string()))?;
    }
}
