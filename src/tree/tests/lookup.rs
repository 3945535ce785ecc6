//! Looking up a name.

use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt;

use super::*;
use crate::error::StoreErrorKind;
use crate::object::Version;
use crate::store::fake::Fault;
use crate::store::{ListRequest, ObjectStore};

#[tokio::test(start_paused = true)]
async fn a_name_in_an_unknown_directory_costs_one_head_and_one_list_at_once() {
    let world = World::new(&["d/file"]);
    let (answer, took) = timed(world.lookup("d/file")).await;
    assert_eq!((answer.as_str(), took), ("file 6", ROUND_TRIP));
    assert_eq!(world.calls(), ["HEAD d/file", "LIST d/file/"]);
    let world = World::new(&["d/file"]);
    assert_eq!(world.lookup("d/none").await, "absent");
    assert_eq!(world.calls(), ["HEAD d/none", "LIST d/none/"]);
}

#[tokio::test(start_paused = true)]
async fn the_list_that_finds_a_directory_answers_what_is_in_it() {
    let world = World::new(&["a/b/c/file"]);
    assert_eq!(world.lookup("a").await, "dir");
    assert_eq!(world.lookup("a/b").await, "dir");
    assert_eq!(world.calls(), ["HEAD a", "LIST a/"]);
    assert_eq!(world.readdir("a/").await.unwrap(), ["b/"]);
    assert_eq!(world.lookup("a/none").await, "absent");
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_directory_is_found_whatever_the_head_says() {
    for fault in [Fault::Stall, Fault::Fail(StoreErrorKind::Throttled), Fault::Panic] {
        let world = World::new(&["a", "a/b"]);
        world.store.fault(0, fault);
        assert_eq!(world.lookup("a").await, "dir");
        assert_eq!(world.calls(), ["HEAD a", "LIST a/"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_present_name_holds_for_two_seconds_from_when_its_request_was_sent() {
    let world = World::new(&["f"]);
    assert_eq!(world.lookup_timed("f").await, ("file 1".to_owned(), 1_980));
    pass(1_979).await;
    assert_eq!(world.lookup_timed("f").await, ("file 1".to_owned(), 1));
    assert_eq!(world.n_calls(), 2);
    pass(1).await;
    assert_eq!(world.lookup("f").await, "file 1");
    assert_eq!(world.calls(), ["LIST "], "no more than for exactly that name");
}

#[tokio::test(start_paused = true)]
async fn an_absent_name_holds_for_a_second_and_for_the_kernel_100_ms_less() {
    let world = World::new(&["f"]);
    assert_eq!(world.lookup_timed("x").await, ("absent".to_owned(), 880));
    pass(950).await;
    assert_eq!(world.lookup_timed("x").await, ("absent".to_owned(), 0), "never negative");
    assert_eq!(world.n_calls(), 2);
    world.store.put("x", "new");
    pass(30).await;
    assert_eq!(world.lookup("x").await, "file 3");
    assert_eq!(world.calls(), ["LIST "]);
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_one_page_is_listed_again_and_answers_every_name() {
    let world = World::new(&["d/1", "d/2"]);
    world.readdir("d/").await.unwrap();
    assert_eq!(world.lookup("d/none").await, "absent");
    assert_eq!(world.calls(), ["LIST d/"]);
    pass(1_000).await;
    assert_eq!(world.lookup("d/none").await, "absent");
    assert_eq!(world.calls(), ["LIST d/"]);
    pass(1_990).await;
    world.store.put("d/2", "longer than before");
    assert_eq!(world.lookup("d/1").await, "file 3");
    assert_eq!(world.lookup("d/2").await, "file 18");
    assert_eq!(world.calls(), ["LIST d/"]);
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_more_pages_is_listed_again_behind_for_a_minute_at_most() {
    let world = World::new(&[]);
    world.fill("d/", 3_000);
    world.readdir("d/").await.unwrap();
    assert_eq!(world.n_calls(), 3);
    world.store.put("d/n0007", "longer");
    pass(5_800).await;
    assert_eq!(world.lookup("d/n0007").await, "file 1", "6 s are not over");
    pass(200).await;
    let ((answer, valid_for), took) = timed(world.lookup_timed("d/n0007")).await;
    assert_eq!((answer.as_str(), valid_for, took), ("file 1", 0, Duration::ZERO));
    pass(100).await;
    assert_eq!(world.lookup("d/n0007").await, "file 6");
    assert_eq!(world.calls(), ["LIST d/", "LIST d/ +", "LIST d/ +"]);
    world.store.put("d/n0007", "longer still");
    pass(60_000).await;
    assert_eq!(world.lookup("d/n0007").await, "file 12");
    assert_eq!(world.calls(), ["LIST d/n0007"]);
}

#[tokio::test(start_paused = true)]
async fn an_absence_in_a_directory_of_more_pages_is_one_list_of_that_name() {
    let world = World::new(&[]);
    world.fill("d/", 3_000);
    world.readdir("d/").await.unwrap();
    assert_eq!(world.lookup("d/x").await, "absent");
    assert_eq!(world.n_calls(), 3);
    world.store.put("d/x/below", "");
    pass(1_000).await;
    assert_eq!(world.lookup("d/x").await, "dir");
    assert_eq!(world.calls(), ["LIST d/x"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_a_name_with_a_page_of_keys_between_is_not_believed() {
    let world = World::new(&["f"]);
    world.fill("f-", 1_000);
    world.readdir("").await.unwrap();
    pass(60_000).await;
    world.calls();
    assert_eq!(world.lookup("f").await, "file 1");
    assert_eq!(world.calls(), ["LIST f", "HEAD f", "LIST f/"]);
}

#[tokio::test(start_paused = true)]
async fn a_given_time_to_live_is_kept_to_the_letter() {
    let ttl = MetadataTtl::Fixed(Ttl::For(Duration::from_secs(5)));
    let world = World::with(&[], ttl, Duration::from_secs(1));
    world.fill("d/", 3_000);
    world.readdir("d/").await.unwrap();
    pass(4_900).await;
    assert_eq!(world.lookup("d/n0000").await, "file 1");
    assert_eq!(world.n_calls(), 3);
    world.store.put("d/n0000", "new");
    pass(100).await;
    assert_eq!(world.lookup("d/n0000").await, "file 3");
    assert_eq!(world.calls(), ["LIST d/n0000"]);

    let world = World::with(&["f"], MetadataTtl::Fixed(Ttl::Forever), Duration::from_secs(1));
    world.lookup("f").await;
    pass(1_000_000).await;
    assert_eq!(world.lookup("f").await, "file 1");
    assert_eq!(world.n_calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn lookups_of_one_name_at_one_time_share_one_question() {
    let world = World::new(&["f"]);
    let (a, b) = tokio::join!(world.lookup("f"), world.lookup("f"));
    assert_eq!((a.as_str(), b.as_str()), ("file 1", "file 1"));
    assert_eq!(world.n_calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn lookups_of_many_stale_names_at_one_time_share_one_page() {
    let world = World::new(&["d/1", "d/2", "d/3"]);
    world.readdir("d/").await.unwrap();
    pass(2_000).await;
    world.calls();
    let (a, b, c) = tokio::join!(world.lookup("d/1"), world.lookup("d/2"), world.readdir("d/"));
    assert_eq!((a.as_str(), b.as_str(), c.unwrap().len()), ("file 3", "file 3", 3));
    assert_eq!(world.calls(), ["LIST d/"]);
}

#[tokio::test(start_paused = true)]
async fn names_that_were_asked_for_are_remembered_up_to_a_bound() {
    let world = World::new(&[]);
    let bytes = |world: &World| world.tree.bytes();
    for index in 0..4_096 {
        world.tree.learn(&format!("d/n{index:04}"), version(1), Instant::now());
    }
    let full = bytes(&world);
    for index in 4_096..9_000 {
        world.tree.learn(&format!("d/n{index:04}"), version(1), Instant::now());
    }
    assert_eq!(bytes(&world), full);
    assert_eq!(world.lookup("d/n8999").await, "file 1");
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_cancels_nothing() {
    let world = World::new(&["f"]);
    assert!(world.lookup("f").now_or_never().is_none());
    pass(30).await;
    assert_eq!(world.lookup("f").now_or_never().unwrap(), "file 1");
    assert_eq!(world.n_calls(), 2);
}

struct Wakes(AtomicU32);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_memory_is_answered_at_the_first_poll_and_wakes_nobody() {
    let world = World::new(&["d/f", "d/g"]);
    world.readdir("d/").await.unwrap();
    // As on a FUSE thread: no runtime is entered there.
    let World { tree, .. } = &world;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let wakes = Arc::new(Wakes(AtomicU32::new(0)));
            let waker = Waker::from(Arc::clone(&wakes));
            let mut ctx = Context::from_waker(&waker);
            let (dir, elsewhere) = (DirPath::new("d/"), DirPath::new("e/"));
            for name in ["f", "none"] {
                let mut lookup = std::pin::pin!(tree.lookup(&dir, name));
                assert!(matches!(lookup.as_mut().poll(&mut ctx), Poll::Ready(Ok(_))));
            }
            let mut open = std::pin::pin!(tree.open_dir(&dir));
            let Poll::Ready(Ok(handle)) = open.as_mut().poll(&mut ctx) else { panic!("pending") };
            for position in 0..3 {
                let mut read = std::pin::pin!(handle.read(position, 1));
                let Poll::Ready(Ok(entries)) = read.as_mut().poll(&mut ctx) else {
                    panic!("pending")
                };
                assert_eq!(entries.is_empty(), position == 2);
            }
            // What must be asked can be begun here, too.
            let mut lookup = std::pin::pin!(tree.lookup(&elsewhere, "f"));
            assert!(lookup.as_mut().poll(&mut ctx).is_pending());
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        });
    });
    assert_eq!(world.calls(), ["LIST d/"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_one_error_and_the_next_call_works() {
    // The HEAD, the LIST, and the LIST of a page.
    for (path, skip) in [("f", 0), ("f", 1)] {
        let world = World::new(&["f"]);
        world.store.fault(skip, Fault::Panic);
        let (a, b) = tokio::join!(world.lookup(path), world.lookup(path));
        assert_eq!((a.as_str(), b.as_str()), ("error Abandoned", "error Abandoned"));
        assert_eq!(world.lookup(path).await, "file 1");
    }
    let world = World::new(&["d/f"]);
    world.store.fault(0, Fault::Panic);
    assert!(matches!(world.readdir("d/").await, Err(FsError::Abandoned)));
    assert_eq!(world.readdir("d/").await.unwrap(), ["f"]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_never_an_absence() {
    for kind in [StoreErrorKind::Throttled, StoreErrorKind::Other, StoreErrorKind::TimedOut] {
        for skip in [0, 1] {
            let world = World::new(&["f"]);
            world.store.fault(skip, Fault::Fail(kind));
            assert_eq!(world.lookup("f").await, format!("error {kind:?}"));
            assert_eq!(world.lookup("f").await, "file 1");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_s3_is_unreachable_the_last_known_answer_goes_on() {
    let world = World::new(&["d/f", "g", "e/x"]);
    assert_eq!(world.readdir("d/").await.unwrap(), ["f"]);
    world.lookup("g").await;
    world.lookup("e/none").await;
    pass(1_000_000).await;
    for _ in 0..20 {
        world.store.fault(0, Fault::Fail(StoreErrorKind::Unreachable));
    }
    assert_eq!(world.lookup_timed("d/f").await, ("file 3".to_owned(), 0));
    assert_eq!(world.lookup("d/x").await, "absent", "a complete listing said so");
    assert_eq!(world.readdir("d/").await.unwrap(), ["f"]);
    assert_eq!(world.lookup("g").await, "file 1");
    assert_eq!(world.lookup("e/none").await, "error Unreachable", "one answer is not enough");
    assert_eq!(world.lookup("never/seen").await, "error Unreachable");
}

#[tokio::test(start_paused = true)]
async fn a_denied_head_beside_a_list_that_works_is_decided_by_a_list_of_the_name() {
    let world = World::new(&["f"]);
    world.store.deny_head();
    assert_eq!(world.lookup("none").await, "absent");
    assert_eq!(world.calls(), ["HEAD none", "LIST none/", "LIST none"]);
    assert_eq!(world.lookup("f").await, "file 1");
}

#[tokio::test(start_paused = true)]
async fn where_list_is_denied_a_key_that_can_be_read_is_a_file_and_all_else_a_directory() {
    let world = World::new(&["d/f"]);
    world.store.deny_list();
    assert_eq!(world.lookup("d").await, "dir unlistable");
    assert_eq!(world.lookup("d/f").await, "file 3");
    let calls = world.calls();
    let expected = ["HEAD d", "LIST d/", "LIST ", "HEAD d/f", "LIST d/f/"];
    assert_eq!(calls, expected, "the listing around it is tried once a minute");
    assert!(matches!(world.open("d/").await, Err(FsError::ListDenied)));
    pass(2_000).await;
    assert_eq!(world.lookup("d/f").await, "file 3");
    assert_eq!(world.calls(), ["HEAD d/f"], "LIST is known to be denied for a minute");
    world.store.allow_list();
    pass(58_000).await;
    assert_eq!(world.readdir("d/").await.unwrap(), ["f"]);
    assert_eq!(world.lookup("d").await, "dir");
}

#[tokio::test(start_paused = true)]
async fn where_head_and_list_are_denied_a_name_is_a_directory_that_cannot_be_listed() {
    let world = World::new(&["d/f"]);
    world.store.deny_list();
    world.store.deny_head();
    assert_eq!(world.lookup("d").await, "dir unlistable");
    assert!(matches!(world.open("").await, Err(FsError::ListDenied)), "the root, too");
}

#[tokio::test(start_paused = true)]
async fn a_directory_hides_the_object_of_its_name() {
    let world = World::new(&["a", "a-", "a/x"]);
    assert_eq!(world.lookup("a").await, "dir");
    assert_eq!(world.readdir("").await.unwrap(), ["a-", "a/"]);
    assert_eq!(world.lookup("a").await, "dir");
}

fn version(size: u64) -> Option<Version> {
    Some(Version { etag: None, size, modified: 1 })
}

#[tokio::test(start_paused = true)]
async fn what_a_get_told_is_seen_at_once_by_lookup_and_by_a_new_reader() {
    let world = World::new(&["d/a", "d/b", "d/c/x"]);
    world.readdir("d/").await.unwrap();
    let sent = Instant::now();
    world.tree.learn("d/a", version(77), sent);
    world.tree.learn("d/b", None, sent);
    world.tree.learn("d/new", version(5), sent);
    world.tree.learn("d/c", version(5), sent);
    assert_eq!(world.lookup("d/a").await, "file 77");
    assert_eq!(world.lookup("d/b").await, "absent");
    assert_eq!(world.lookup("d/new").await, "file 5");
    assert_eq!(world.lookup("d/c").await, "dir", "an object does not unseat a directory");
    assert_eq!(world.readdir("d/").await.unwrap(), ["a", "c/", "new"]);
    let first = world.open("d/").await.unwrap().read(0, 1).await.unwrap().remove(0);
    assert_eq!(shape(&first.found), "file 77");
    assert_eq!(world.calls(), ["LIST d/"]);
    pass(2_000).await;
    assert_eq!(world.readdir("d/").await.unwrap(), ["a", "b", "c/"], "a newer listing");
}

#[tokio::test(start_paused = true)]
async fn an_older_answer_does_not_override_a_newer_one() {
    let world = World::new(&["a"]);
    let before = Instant::now();
    pass(1).await;
    world.readdir("").await.unwrap();
    world.tree.learn("a", None, before);
    assert_eq!(world.lookup("a").await, "file 1");
    let (one, two) = (Instant::now(), Instant::now() + Duration::from_millis(1));
    world.tree.learn("a", version(2), two);
    world.tree.learn("a", version(9), one);
    assert_eq!(world.lookup("a").await, "file 2");
}

#[tokio::test(start_paused = true)]
async fn what_agrees_with_a_long_listing_does_not_shorten_its_time() {
    let world = World::new(&[]);
    world.fill("", 5_000);
    world.readdir("").await.unwrap();
    let Ok(lookup) = world.tree.lookup(&DirPath::new(""), "n0000").await else { panic!() };
    let Some(Found::File(object)) = lookup.found.map(Found::alone) else { panic!("a file") };
    world.tree.learn("n0000", Some(object.version.clone()), Instant::now());
    assert_eq!(world.lookup_timed("n0000").await.1, lookup.valid_for.as_millis());
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_are_absent_without_a_request() {
    let world = World::new(&["a//b", "./c"]);
    for name in ["", ".", "..", "a\0", &"x".repeat(256)] {
        let lookup = world.tree.lookup(&DirPath::new(""), name).await.unwrap();
        assert_eq!(lookup.found, None, "{name:?}");
    }
    let deep = DirPath::new(&"d/".repeat(500));
    assert_eq!(world.tree.lookup(&deep, &"x".repeat(25)).await.unwrap().found, None);
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_list_of_the_mount_is_the_roots_first_page() {
    let world = World::new(&["a", "b/c"]);
    let sent = Instant::now();
    let page = world.store.list(ListRequest::directory("")).await.unwrap();
    world.tree.seed(page, sent);
    world.calls();
    assert_eq!(world.lookup_timed("a").await, ("file 1".to_owned(), 1_980));
    assert_eq!(world.readdir("").await.unwrap(), ["a", "b/"]);
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_directory_proves_itself_by_its_own_listing() {
    let world = World::new(&[]);
    world.fill("d/", 3_000);
    world.lookup("d").await;
    world.readdir("d/").await.unwrap();
    world.calls();
    pass(4_000).await;
    assert_eq!(world.lookup_timed("d").await, ("dir".to_owned(), 1_940));
    assert_eq!(world.n_calls(), 0, "its three pages hold for 6 s");
}

/// HEAD is answered while there is only the directory, LIST when there is only the file.
#[tokio::test(start_paused = true)]
async fn what_changed_between_two_answers_is_not_absent() {
    let world = World::new(&["d/f"]);
    world.store.fault(1, Fault::Slow(Duration::from_secs(3)));
    let change = async {
        pass(1_000).await;
        world.store.put("d", "");
        world.store.delete("d/f");
    };
    let (answer, ()) = tokio::join!(world.lookup("d"), change);
    assert_eq!(answer, "file 0");
    assert_eq!(world.calls(), ["HEAD d", "LIST d/", "LIST d"]);
    let world = World::new(&[]);
    assert_eq!(world.lookup("d").await, "absent");
    assert_eq!(world.calls(), ["HEAD d", "LIST d/"]);
}
