//! Reading directories.

use super::*;
use crate::error::StoreErrorKind;
use crate::store::fake::Fault;
use crate::tree::Entry;

#[tokio::test(start_paused = true)]
async fn ls_of_2000_objects_is_two_lists_and_again_none() {
    let world = World::new(&[]);
    world.fill("d/", 2_000);
    for n_requests in [2, 0] {
        let names = world.readdir("d/").await.unwrap();
        assert_eq!(names.len(), 2_000);
        for name in &names {
            assert_eq!(world.lookup(&format!("d/{name}")).await, "file 1");
        }
        assert_eq!(world.n_calls(), n_requests);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_entries_come_after_one_round_trip_and_one_page_is_read_ahead() {
    let world = World::new(&[]);
    world.fill("d/", 5_000);
    let (handle, took) = timed(world.open("d/")).await;
    let handle = handle.unwrap();
    assert_eq!((took, world.n_calls()), (ROUND_TRIP, 1), "nothing is read ahead before a read");
    let (entries, took) = timed(handle.read(0, 100)).await;
    assert_eq!((entries.unwrap().len(), took), (100, Duration::ZERO));
    pass(1_000).await;
    assert_eq!(world.calls(), ["LIST d/ +"], "one page ahead, no more");
    let (entries, took) = timed(handle.read(990, 100)).await;
    assert_eq!((entries.unwrap().len(), took), (100, Duration::ZERO));
    pass(1_000).await;
    assert_eq!(world.calls(), ["LIST d/ +"]);
    handle.read(100, 100).await.unwrap();
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn every_page_size_gives_the_same_order() {
    let keys = ["a", "a-x", "a.txt", "a/1", "a0", "b", "b!", "b!!", "é/", "é/x"];
    for page_keys in 1..12 {
        let world = World::new(&keys);
        world.store.set_page_keys(page_keys);
        for max in [1, 3, 100] {
            let handle = world.open("").await.unwrap();
            let expected = ["a-x", "a.txt", "a/", "a0", "b!!", "b!", "b", "é/"];
            assert_eq!(names(&handle, max).await.unwrap(), expected, "pages of {page_keys}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_on_a_later_page_reaches_the_reader_who_goes_on_from_there() {
    let world = World::new(&[]);
    world.fill("d/", 7_000);
    world.store.fault(2, Fault::Fail(StoreErrorKind::Throttled));
    let handle = world.open("d/").await.unwrap();
    let mut n_read = 0;
    let err = loop {
        match handle.read(n_read, 1_000).await {
            Ok(entries) => n_read += entries.len() as u64,
            Err(err) => break err,
        }
    };
    assert_eq!((error(&err).as_str(), n_read), ("error Throttled", 1_999), "one is held back");
    assert_eq!(handle.read(n_read, 9_000).await.unwrap().len(), 1_000);
    pass(1).await;
    assert_eq!(world.n_calls(), 5, "pages 1, 2, 3, 3 again, and 4 ahead");
    assert_eq!(names(&handle, 1_000).await.unwrap().len(), 7_000);
}

#[tokio::test(start_paused = true)]
async fn a_running_reader_keeps_its_snapshot() {
    let world = World::new(&["a", "b", "c"]);
    let handle = world.open("").await.unwrap();
    assert_eq!(&*handle.read(0, 1).await.unwrap()[0].name, "a");
    world.tree.learn("a", None, Instant::now());
    world.store.delete("b");
    pass(10_000).await;
    assert_eq!(world.readdir("").await.unwrap(), ["a", "c"]);
    assert_eq!(&*handle.read(1, 1).await.unwrap()[0].name, "b");
    assert_eq!(names(&handle, 10).await.unwrap(), ["a", "b", "c"]);
    handle.rewind();
    assert_eq!(names(&handle, 10).await.unwrap(), ["a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn readers_of_one_directory_share_its_pages() {
    let world = World::new(&[]);
    world.fill("d/", 3_000);
    let (a, b) = tokio::join!(world.readdir("d/"), world.readdir("d/"));
    assert_eq!((a.unwrap().len(), b.unwrap().len()), (3_000, 3_000));
    assert_eq!(world.n_calls(), 3);
    let handle = world.open("d/").await.unwrap();
    let (a, b) = tokio::join!(names(&handle, 10), names(&handle, 1_000));
    assert_eq!(a.unwrap(), b.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_begin_anywhere() {
    let world = World::new(&[]);
    world.fill("d/", 3_000);
    let handle = world.open("d/").await.unwrap();
    assert_eq!(&*handle.read(2_500, 1).await.unwrap()[0].name, "n2500");
    assert_eq!(&*handle.read(7, 1).await.unwrap()[0].name, "n0007");
    assert!(handle.read(3_000, 1).await.unwrap().is_empty());
    assert!(handle.read(u64::MAX, 1).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_directory_without_keys_does_not_exist_but_for_the_root() {
    let world = World::new(&[]);
    assert!(matches!(world.open("d/").await, Err(FsError::NotFound)));
    assert_eq!(world.readdir("").await.unwrap(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_marker_makes_a_directory_and_is_no_entry_in_it() {
    let world = World::new(&["d/", "e//x", "f/./x"]);
    assert_eq!(world.lookup("d").await, "dir");
    for dir in ["d/", "e/", "f/"] {
        assert_eq!(world.readdir(dir).await.unwrap(), Vec::<String>::new(), "{dir}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_gone_is_not_found_and_its_parent_knows_at_once() {
    let world = World::new(&["d/f", "e"]);
    assert_eq!(world.readdir("").await.unwrap(), ["d/", "e"]);
    world.store.delete("d/f");
    assert!(matches!(world.open("d/").await, Err(FsError::NotFound)));
    assert_eq!(world.readdir("").await.unwrap(), ["e"]);
    assert_eq!(world.lookup("d").await, "absent");
}

/// While there was a directory of that name, no listing showed the object.
#[tokio::test(start_paused = true)]
async fn an_object_that_a_vanished_directory_hid_is_shown() {
    let world = World::new(&["d", "d/f", "e"]);
    assert_eq!(world.readdir("").await.unwrap(), ["d/", "e"]);
    world.store.delete("d/f");
    assert!(matches!(world.open("d/").await, Err(FsError::NotFound)));
    assert_eq!(world.readdir("").await.unwrap(), ["d", "e"]);
    assert_eq!(world.lookup("d").await, "file 1");
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_vanished_from_a_long_listing_costs_one_request() {
    let world = World::new(&["p/d", "p/d/f"]);
    world.fill("p/", 3_000);
    assert_eq!(world.readdir("p/").await.unwrap()[0], "d/");
    world.store.delete("p/d/f");
    assert!(matches!(world.open("p/d/").await, Err(FsError::NotFound)));
    world.calls();
    let names = world.readdir("p/").await.unwrap();
    assert_eq!((names.len(), names[0].as_str()), (3_001, "d"));
    assert_eq!(world.lookup("p/d").await, "file 3");
    assert_eq!(world.calls(), ["LIST p/d"]);
}

/// A file has taken the place of a directory, of which somebody still has the inode.
#[tokio::test(start_paused = true)]
async fn a_directory_that_is_gone_takes_no_file_with_it() {
    let five_seconds = MetadataTtl::Fixed(Ttl::For(Duration::from_secs(5)));
    let world = World::with(&["p/d/f"], five_seconds, Duration::from_secs(1));
    world.fill("p/", 3_000);
    assert_eq!(world.readdir("p/").await.unwrap()[0], "d/");
    world.store.delete("p/d/f");
    world.store.put("p/d", "");
    pass(6_000).await;
    assert_eq!(world.lookup("p/d").await, "file 0");
    assert!(matches!(world.open("p/d/").await, Err(FsError::NotFound)));
    (0..8).for_each(|_| world.store.fault(0, Fault::Fail(StoreErrorKind::Unreachable)));
    assert_eq!(world.lookup("p/d").await, "file 0");
    assert_eq!(world.readdir("p/").await.unwrap()[0], "d");
}

#[tokio::test(start_paused = true)]
async fn a_name_found_by_lookup_is_in_the_next_listing() {
    let world = World::new(&[]);
    world.fill("d/", 3_000);
    world.readdir("d/").await.unwrap();
    world.store.put("d/new", "");
    pass(1_000).await;
    assert_eq!(world.lookup("d/new").await, "file 0");
    world.calls();
    let names = world.readdir("d/").await.unwrap();
    assert_eq!((names.len(), names.last().unwrap().as_str()), (3_001, "new"));
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn another_order_is_noticed_and_later_directories_are_sorted() {
    let world = World::new(&["a/1", "a-b", "b", "c/1", "c-d"]);
    world.store.list_in_tree_order();
    world.store.set_page_keys(1);
    let mut first = world.readdir("").await.unwrap();
    first.sort();
    assert_eq!(first, ["a-b", "a/", "b", "c-d", "c/"], "each once");
    for path in ["a-b", "a", "b", "c", "c-d"] {
        assert_ne!(world.lookup(path).await, "absent", "{path}");
    }
    pass(60_000).await;
    assert_eq!(world.readdir("").await.unwrap(), ["a-b", "a/", "b", "c-d", "c/"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_lookup_told_is_not_doubled_by_another_order() {
    let world = World::new(&["a/1", "a-b", "b", "c/1", "c-d"]);
    world.store.list_in_tree_order();
    world.store.set_page_keys(1);
    let first = world.open("").await.unwrap();
    first.read(0, 1).await.unwrap();
    // Told between two pages, before the order shows, and the listing has yet to come to it.
    assert_ne!(world.lookup("c-d").await, "absent");
    assert_ne!(world.lookup("a-b").await, "absent");
    let second = world.open("").await.unwrap();
    for handle in [&first, &second] {
        let mut names = names(handle, 1).await.unwrap();
        names.sort();
        assert_eq!(names, ["a-b", "a/", "b", "c-d", "c/"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_complete_listing_answers_readers_while_it_is_listed_again() {
    let world = World::new(&[]);
    world.fill("d/", 3_000);
    world.readdir("d/").await.unwrap();
    world.store.put("d/new", "");
    pass(10_000).await;
    world.calls();
    let (names, took) = timed(world.readdir("d/")).await;
    assert_eq!((names.unwrap().len(), took), (3_000, Duration::ZERO));
    pass(100).await;
    assert_eq!(world.readdir("d/").await.unwrap().len(), 3_001);
    assert_eq!(world.n_calls(), 4);
    pass(60_000).await;
    let (handle, took) = timed(world.open("d/")).await;
    assert_eq!((handle.is_ok(), took), (true, ROUND_TRIP), "after a minute it is listed in line");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_bounded_and_asked_for_again() {
    let config = TreeConfig {
        prefix: DirPath::new(""),
        metadata_ttl: MetadataTtl::Fixed(Ttl::Forever),
        negative_ttl: Ttl::Forever,
        entries_bytes_max: 400_000,
        reach: Arc::default(),
    };
    let world = World::with_config(&[], config);
    for dir in 0..20 {
        world.fill(&format!("{dir}/"), 1_000);
    }
    let held = world.open("0/").await.unwrap();
    for dir in 1..20 {
        world.readdir(&format!("{dir}/")).await.unwrap();
        assert!(world.tree.bytes() <= 400_000 + 100_000, "{}", world.tree.bytes());
    }
    world.calls();
    assert_eq!(names(&held, 100).await.unwrap().len(), 1_000);
    world.readdir("0/").await.unwrap();
    world.readdir("19/").await.unwrap();
    assert_eq!(world.n_calls(), 0, "what is read, and what was used last, is still known");
    world.readdir("1/").await.unwrap();
    assert!(world.n_calls() > 0, "it was forgotten");
    let mut world = world;
    drop(held);
    world.tree = Tree::new(
        Arc::new(world.store.clone()),
        Handle::current(),
        TreeConfig {
            prefix: DirPath::new(""),
            metadata_ttl: MetadataTtl::Auto,
            negative_ttl: Ttl::Forever,
            entries_bytes_max: 0,
            reach: Arc::default(),
        },
    );
    assert_eq!(world.readdir("1/").await.unwrap().len(), 1_000, "nothing fits, all works");
}

#[tokio::test(start_paused = true)]
async fn an_entry_carries_what_is_left_of_its_time() {
    let world = World::new(&["a", "b"]);
    let handle = world.open("").await.unwrap();
    pass(500).await;
    let entries = handle.read(0, 9).await.unwrap();
    let left: Vec<u128> = entries.iter().map(|entry| entry.valid_for.as_millis()).collect();
    assert_eq!(left, [1_480, 1_480]);
}

#[tokio::test(start_paused = true)]
async fn the_kernel_does_not_believe_an_old_snapshot_where_more_is_known() {
    let hour = Duration::from_secs(3_600);
    let world = World::with(&["d/a", "d/b"], MetadataTtl::Fixed(Ttl::For(hour)), hour);
    let handle = world.open("d/").await.unwrap();
    pass(1).await;
    world.tree.learn("d/a", None, Instant::now());
    let entries = handle.read(0, 9).await.unwrap();
    let times: Vec<_> =
        entries.iter().map(|entry| (&*entry.name, !entry.valid_for.is_zero())).collect();
    assert_eq!(times, [("a", false), ("b", true)], "the reader's own snapshot has it");
}

/// Objects beside directories whose names they begin with, so that names are held back over the ends
/// of pages.
fn mixed_keys() -> Vec<String> {
    let names = (0..4_000).flat_map(|index| {
        let mut names = vec![format!("d/n{index:04}"), format!("d/n{index:04}-x")];
        if index % 3 == 0 {
            names.push(format!("d/m{index:04}/inside"));
        }
        names
    });
    names.collect()
}

#[tokio::test(start_paused = true)]
async fn pages_that_were_passed_are_dropped_and_listed_again_in_their_old_places() {
    let keys = mixed_keys();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let config = TreeConfig {
        prefix: DirPath::new(""),
        metadata_ttl: MetadataTtl::Fixed(Ttl::Forever),
        negative_ttl: Ttl::Forever,
        entries_bytes_max: 100 << 10,
        reach: Arc::default(),
    };
    let world = World::with_config(&keys, config);
    world.store.set_page_keys(250);
    let handle = world.open("d/").await.unwrap();
    let mut before: Vec<(u64, String)> = Vec::new();
    // An entry that somebody holds keeps its page.
    let name = |entry: Entry| (entry.next, entry.name.to_string());
    loop {
        let position = before.last().map_or(0, |(next, _)| *next);
        let entries = handle.read(position, 100).await.unwrap();
        // What was just used is not dropped.
        pass(100).await;
        match entries.is_empty() {
            true => break,
            false => before.extend(entries.into_iter().map(name)),
        }
    }
    assert_eq!(before.len(), 2 * 4_000 + 4_000_usize.div_ceil(3));
    assert!(world.tree.bytes() < 200 << 10, "{} bytes", world.tree.bytes());
    world.store.take_calls();

    world.store.delete("d/n0100");
    world.store.put("d/n0100-y", "new");
    world.store.put("d/n0099", "changed");
    for at in (0..before.len()).step_by(777).rev() {
        let mut after: Vec<(u64, String)> = Vec::new();
        while after.len() < 500 && before[at].0 + (after.len() as u64) < before.len() as u64 {
            let position = after.last().map_or(before[at].0, |(next, _)| *next);
            let entries = handle.read(position, 100).await.unwrap();
            if entries.is_empty() {
                break;
            }
            after.extend(entries.into_iter().map(name));
        }
        let stayed = |(_, name): &&(u64, String)| name != "n0100";
        let expected: Vec<_> = before[at + 1..].iter().filter(stayed).take(after.len()).collect();
        assert_eq!(after.iter().filter(stayed).collect::<Vec<_>>(), expected, "from {at}");
        pass(300).await;
    }
    let n_calls = world.n_calls();
    assert!((20..100).contains(&n_calls), "{n_calls} pages came again");
    assert_eq!(world.lookup("d/n0099").await, "file 7", "a page that came again is newer");
}
