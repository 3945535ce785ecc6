//! Forgetting: the next question asks S3, and nobody joins one that was asked before.

use super::*;
use crate::object::Version;
use crate::tree::Forgotten;

/// Nothing is ever asked again by itself.
fn for_ever(keys: &[&str]) -> World {
    let forever = MetadataTtl::Fixed(Ttl::Forever);
    World::with(keys, forever, Duration::from_secs(1 << 30))
}

impl World {
    fn forget(&self, path: &str) -> Forgotten {
        self.tree.forget(&DirPath::new(path), false)
    }

    fn forget_below(&self, path: &str) -> Forgotten {
        self.tree.forget(&DirPath::new(path), true)
    }
}

fn forgotten(n_directories: usize, n_names: usize) -> Forgotten {
    Forgotten { n_directories, n_names }
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_directory_is_listed_again_and_nothing_else() {
    let world = for_ever(&["a/1", "a/b/1", "c/1"]);
    for dir in ["", "a/", "a/b/", "c/"] {
        world.readdir(dir).await.unwrap();
    }
    world.store.put("a/2", "x");
    world.store.put("a/b/2", "x");
    world.store.delete("a/1");
    assert_eq!(world.readdir("a/").await.unwrap(), ["1", "b/"], "as it was");
    world.calls();
    pass(1).await;
    assert_eq!(world.forget("a/"), forgotten(1, 2));
    assert_eq!(world.n_calls(), 0);
    assert_eq!(world.lookup("a").await, "dir");
    assert_eq!(world.calls(), ["LIST a/"], "the page that is wanted next says whether it exists");
    assert_eq!(world.readdir("a/").await.unwrap(), ["2", "b/"]);
    assert_eq!(world.lookup("a/1").await, "absent");
    assert_eq!(world.readdir("").await.unwrap(), ["a/", "c/"]);
    assert_eq!(world.readdir("a/b/").await.unwrap(), ["1"], "below nothing was forgotten");
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn with_recursive_all_below_is_asked_again() {
    let world = for_ever(&["a/1", "a/b/1", "a/b/c/1", "ab/1"]);
    for dir in ["a/", "a/b/", "a/b/c/", "ab/"] {
        world.readdir(dir).await.unwrap();
    }
    world.store.put("a/b/c/2", "x");
    world.calls();
    pass(1).await;
    assert_eq!(world.forget_below("a/"), forgotten(3, 5));
    assert_eq!(world.readdir("a/b/c/").await.unwrap(), ["1", "2"]);
    assert_eq!(world.calls(), ["LIST a/b/c/"]);
    assert_eq!(world.readdir("ab/").await.unwrap(), ["1"]);
    assert_eq!(world.n_calls(), 0, "a name that only begins so is another");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_name_is_asked_again_alone() {
    let world = for_ever(&[]);
    world.fill("d/", 2_000);
    world.readdir("d/").await.unwrap();
    world.calls();
    pass(1).await;
    world.store.put("d/n0007", "longer");
    world.store.delete("d/n0008");
    assert_eq!(world.lookup("d/n0007").await, "file 1");
    assert_eq!(world.forget("d/n0007/"), forgotten(0, 1));
    assert_eq!(world.forget("d/n0008/"), forgotten(0, 1));
    assert_eq!(world.lookup("d/n0006").await, "file 1");
    assert_eq!(world.n_calls(), 0);
    assert_eq!(world.lookup("d/n0007").await, "file 6");
    assert_eq!(world.lookup("d/n0008").await, "absent");
    assert_eq!(world.calls(), ["LIST d/n0007", "LIST d/n0008"]);
    let names = world.readdir("d/").await.unwrap();
    assert_eq!((names.len(), names.contains(&"n0008".to_owned())), (1_999, false));
    assert_eq!(world.n_calls(), 0, "and the listing holds on, with what was told since");
}

#[tokio::test(start_paused = true)]
async fn a_listing_with_a_name_that_was_forgotten_is_not_shown() {
    let world = for_ever(&["d/a"]);
    world.readdir("d/").await.unwrap();
    world.store.put("d/b", "x");
    pass(1).await;
    assert_eq!(world.forget("d/b/"), forgotten(0, 1), "its absence was known");
    assert_eq!(world.forget("d/b/"), forgotten(0, 0), "that is known no more");
    world.calls();
    assert_eq!(world.readdir("d/").await.unwrap(), ["a", "b"]);
    assert_eq!(world.calls(), ["LIST d/"]);
}

#[tokio::test(start_paused = true)]
async fn names_that_were_forgotten_in_a_long_listing_are_asked_for_rather_than_all() {
    let world = for_ever(&["d/sub/x"]);
    world.fill("d/", 2_500);
    world.readdir("d/").await.unwrap();
    world.calls();
    for (path, expected) in [("d/n0100x/", "LIST d/n0100x"), ("d/sub/", "LIST d/sub/")] {
        world.store.put(path.trim_end_matches('/'), "x");
        pass(1).await;
        world.forget(path);
        let names = world.readdir("d/").await.unwrap();
        assert_eq!((names.len(), world.calls()), (2_502, vec![expected.to_owned()]));
    }
    pass(1).await;
    for name in ["a", "b", "c"] {
        world.forget(&format!("d/{name}/"));
    }
    assert_eq!(world.readdir("d/").await.unwrap().len(), 2_502);
    assert_eq!(world.calls(), ["LIST d/", "LIST d/ +", "LIST d/ +"], "as dear as all of it");
}

#[tokio::test(start_paused = true)]
async fn a_vanished_directory_is_gone_once_it_is_forgotten() {
    let world = for_ever(&["a/1", "b/1", "b/c/1"]);
    for dir in ["", "a/", "b/", "b/c/"] {
        world.readdir(dir).await.unwrap();
    }
    for key in ["a/1", "b/c/1"] {
        world.store.delete(key);
    }
    pass(1).await;
    world.calls();
    world.forget("a/");
    assert_eq!(world.lookup("a").await, "absent");
    assert_eq!(world.calls(), ["LIST a/", "LIST a"]);
    assert_eq!(world.readdir("").await.unwrap(), ["b/"]);
    // A name in a directory that was forgotten, and whose own listing was not.
    world.forget("b/");
    assert_eq!(world.lookup("b/c").await, "absent");
    assert_eq!(world.calls(), ["LIST b/c"]);
}

#[tokio::test(start_paused = true)]
async fn who_asks_after_it_waits_for_no_request_of_before() {
    let world = for_ever(&["d/a", "e/a"]);
    // A listing, a lookup of a name, and a listing that a lookup waits for.
    let (listing, tree) = (Arc::clone(&world.tree), Arc::clone(&world.tree));
    let early_listing =
        tokio::spawn(async move { listing.open_dir(&DirPath::new("d/")).await.map(drop) });
    let early_lookup = tokio::spawn(async move { tree.lookup(&DirPath::new("e/"), "a").await });
    pass(10).await;
    assert_eq!(world.calls(), ["LIST d/", "HEAD e/a", "LIST e/a/"]);
    for path in ["d/", "e/a/"] {
        world.forget(path);
    }
    let both = async { tokio::join!(world.readdir("d/"), world.lookup("e/a")) };
    let ((names, answer), took) = timed(both).await;
    assert_eq!((names.unwrap(), answer.as_str()), (vec!["a".to_owned()], "file 3"));
    assert_eq!(took, ROUND_TRIP, "the early ones are answered after half of it");
    assert_eq!(world.calls(), ["LIST d/", "LIST e/"], "each asked for itself");
    early_listing.await.unwrap().unwrap();
    early_lookup.await.unwrap().unwrap();
    assert_eq!(world.lookup("e/a").await, "file 3");
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_listing_on_its_way_shows_no_name_that_was_forgotten_since() {
    let world = for_ever(&["d/a"]);
    let tree = Arc::clone(&world.tree);
    let early = tokio::spawn(async move { tree.open_dir(&DirPath::new("d/")).await.map(drop) });
    pass(10).await;
    world.forget("d/a/");
    assert_eq!(world.readdir("d/").await.unwrap(), ["a"]);
    assert_eq!(world.calls(), ["LIST d/", "LIST d/"]);
    early.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_older_request_learnt_does_not_count_when_it_comes_late() {
    let version = || Some(Version { etag: None, size: 99, modified: 0 });
    let world = for_ever(&["d/a", "d/b", "d/c"]);
    world.readdir("d/").await.unwrap();
    let sent = Instant::now();
    pass(1).await;
    world.forget("d/");
    world.forget("unknown/a/");
    world.tree.learn("d/a", version(), sent);
    world.tree.learn("unknown/a", version(), sent);
    assert_eq!(world.lookup("d/a").await, "file 3");
    assert_eq!(world.lookup("unknown/a").await, "absent");
    world.tree.learn("d/a", version(), Instant::now());
    assert_eq!(world.lookup("d/a").await, "file 99", "but a newer one does");
}

#[tokio::test(start_paused = true)]
async fn a_reader_goes_on_with_its_listing_which_the_kernel_may_not_keep() {
    let world = for_ever(&[]);
    world.fill("d/", 2_500);
    let handle = world.open("d/").await.unwrap();
    let before = handle.read(0, 10).await.unwrap();
    assert!(before.iter().all(|entry| entry.valid_for > Duration::from_secs(3600)));
    world.store.put("d/n0500x", "x");
    pass(1).await;
    world.forget("d/");
    assert_eq!(names(&handle, 1_000).await.unwrap().len(), 2_500);
    let entries = handle.read(1_900, 600).await.unwrap();
    let (old, new): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.valid_for.is_zero());
    assert_eq!(
        (old.len(), old.last().unwrap().name.as_ref()),
        (100, "n1999"),
        "page 2 was on its way"
    );
    assert!(new.iter().all(|entry| entry.valid_for > Duration::from_secs(3600)), "page 3 is new");
    handle.rewind();
    assert_eq!(names(&handle, 1_000).await.unwrap().len(), 2_501);
}

#[tokio::test(start_paused = true)]
async fn more_names_than_are_remembered_forget_the_directory() {
    let world = for_ever(&["d/a"]);
    world.readdir("d/").await.unwrap();
    pass(1).await;
    for index in 0..300 {
        world.forget(&format!("d/n{index}/"));
    }
    world.store.put("d/a", "longer");
    assert_eq!(world.lookup("d/a").await, "file 6", "which was not forgotten by its name");
}

#[tokio::test(start_paused = true)]
async fn what_was_listed_ahead_before_it_does_not_count() {
    let world = for_ever(&[]);
    for dir in 0..40 {
        world.fill(&format!("t/d{dir:02}/"), 10);
    }
    for dir in ["t/", "t/d00/"] {
        world.readdir(dir).await.unwrap();
    }
    world.calls();
    // The second sibling shows that somebody walks: all of it is on its way.
    let tree = Arc::clone(&world.tree);
    let walker =
        tokio::spawn(async move { tree.open_dir(&DirPath::new("t/d01/")).await.map(drop) });
    pass(10).await;
    assert_eq!(world.calls(), ["LIST t/"]);
    world.forget("t/d20/");
    let (names, took) = timed(world.readdir("t/d20/")).await;
    assert_eq!(
        (names.unwrap().len(), took),
        (10, ROUND_TRIP),
        "nobody waits for what was asked before"
    );
    assert!(world.n_calls() > 0);
    walker.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_page_of_before_tells_of_directories_below_does_not_count() {
    let world = for_ever(&["p/t/a/1", "p/t/b/1", "x/1"]);
    world.readdir("x/").await.unwrap();
    world.calls();
    let tree = Arc::clone(&world.tree);
    let early = tokio::spawn(async move { tree.lookup(&DirPath::new("p/"), "t").await });
    pass(10).await;
    assert_eq!(world.calls(), ["HEAD p/t", "LIST p/t/"]);
    world.forget("p/t/a/");
    early.await.unwrap().unwrap();
    assert_eq!(world.readdir("p/t/b/").await.unwrap(), ["1"]);
    assert_eq!(world.n_calls(), 0, "that page has told of it");
    assert_eq!(world.forget("p/t/a/"), forgotten(1, 0), "nothing was taken from it");
    assert_eq!(world.readdir("p/t/a/").await.unwrap(), ["1"]);
    assert_eq!(world.calls(), ["LIST p/t/a/"]);
}

#[tokio::test(start_paused = true)]
async fn a_walk_goes_on_after_it() {
    let world = for_ever(&[]);
    for dir in 0..40 {
        world.fill(&format!("t/d{dir:02}/"), 10);
    }
    world.readdir("t/").await.unwrap();
    for dir in 0..40 {
        if dir == 20 {
            world.store.put("t/d30/new", "x");
            pass(1).await;
            world.forget_below("t/");
            assert_eq!(world.readdir("t/").await.unwrap().len(), 40);
            world.calls();
        }
        let n_names = world.readdir(&format!("t/d{dir:02}/")).await.unwrap().len();
        assert_eq!(n_names, if dir == 30 { 11 } else { 10 }, "{dir}");
    }
    let n_calls = world.n_calls();
    assert!(n_calls <= 4, "{n_calls}: it is listed ahead again");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_lookups_brought_does_not_answer_after_it() {
    let world = for_ever(&[]);
    world.fill("d/", 9_000);
    // From the second on they bring pages, here and there.
    for name in ["n0001", "n0002", "n5000", "n5001", "n5002"] {
        assert_eq!(world.lookup(&format!("d/{name}")).await, "file 1");
    }
    world.calls();
    for name in ["n0003", "n5003"] {
        assert_eq!(world.lookup(&format!("d/{name}")).await, "file 1");
    }
    assert_eq!(world.n_calls(), 0, "they are known");
    for name in ["n0003", "n5003", "n5003x"] {
        world.store.put(&format!("d/{name}"), "longer");
        pass(1).await;
        world.forget(&format!("d/{name}/"));
        assert_eq!(world.lookup(&format!("d/{name}")).await, "file 6");
        assert_eq!(world.n_calls(), 1, "{name}");
    }
    world.store.put("d/n5002", "longer");
    pass(1).await;
    world.forget("d/");
    assert_eq!(world.lookup("d/n5002").await, "file 6");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_on_its_way_does_not_answer_after_it() {
    // The name alone, and so many that all is forgotten.
    for n_others in [0, 300] {
        let world = for_ever(&[]);
        world.fill("d/", 9_000);
        for name in ["n0001", "n0002"] {
            world.lookup(&format!("d/{name}")).await;
        }
        world.calls();
        let tree = Arc::clone(&world.tree);
        let early = tokio::spawn(async move { tree.lookup(&DirPath::new("d/"), "n1500").await });
        pass(10).await;
        assert_eq!(world.n_calls(), 1);
        world.forget("d/n1500/");
        for index in 0..n_others {
            world.forget(&format!("d/x{index}/"));
        }
        let (answer, took) = timed(world.lookup("d/n1500")).await;
        assert_eq!((answer.as_str(), world.n_calls()), ("file 1", 1));
        assert!(took >= ROUND_TRIP, "{took:?}");
        early.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_name_in_a_page_that_was_put_away_is_asked_for() {
    let world = for_ever(&[]);
    world.fill("d/", 9_999);
    let handle = world.open("d/").await.unwrap();
    assert_eq!(names(&handle, 1_000).await.unwrap().len(), 9_999);
    let bytes = world.tree.bytes();
    for _ in 0..8 {
        // What was read just before stays.
        pass(10_000).await;
        world.tree.let_go(0);
    }
    assert!(world.tree.bytes() < bytes / 2, "{} of {bytes}", world.tree.bytes());
    world.calls();
    for name in ["n1000", "n1000x"] {
        world.store.put(&format!("d/{name}"), "longer");
        pass(1).await;
        world.forget(&format!("d/{name}/"));
        assert_eq!(world.lookup(&format!("d/{name}")).await, "file 6");
        assert_eq!(world.calls(), [format!("LIST d/{name}")]);
    }
    assert_eq!(names(&handle, 1_000).await.unwrap().len(), 9_999, "who reads it goes on");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_listing_holds_for_nobody_who_has_it_open() {
    let world = for_ever(&["d/a"]);
    let handle = world.open("d/").await.unwrap();
    // The second time another directory has taken the place of the one that was opened.
    for _ in 0..2 {
        let before = handle.read(0, 9).await.unwrap();
        assert!(!before[0].valid_for.is_zero() && !handle.sight().holds_for.is_zero());
        pass(1).await;
        world.forget("d/");
        assert!(handle.sight().holds_for.is_zero(), "the kernel is not to use its pages again");
        assert!(handle.read(0, 9).await.unwrap()[0].valid_for.is_zero());
        let listing = handle.sight().listing;
        handle.rewind();
        handle.read(0, 9).await.unwrap();
        assert_ne!(handle.sight().listing, listing);
    }
}
