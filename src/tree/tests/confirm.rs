//! Whether files are what they were.

use futures_util::future::join_all;

use super::*;
use crate::error::StoreErrorKind;
use crate::object::Object;
use crate::store::fake::Fault;

const TTL: Ttl = Ttl::For(Duration::from_secs(1));

impl World {
    /// `d/n0000` and so on, listed.
    async fn filled(n_objects: usize) -> (Self, Vec<Object>) {
        let world = Self::new(&[]);
        let put = |index| world.store.put(&format!("d/n{index:04}"), "x");
        let objects = (0..n_objects).map(put).collect();
        assert_eq!(world.readdir("d/").await.unwrap().len(), n_objects);
        world.calls();
        (world, objects)
    }

    async fn confirms(&self, object: &Object) -> bool {
        self.tree.confirm(object, TTL).await.is_some()
    }

    /// How many of `objects` are confirmed, one after the other.
    async fn n_confirmed(&self, objects: &[Object]) -> usize {
        let mut n_confirmed = 0;
        for object in objects {
            n_confirmed += usize::from(self.confirms(object).await);
        }
        n_confirmed
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_came_anyway_confirms_as_long_as_it_is_new_enough() {
    let (world, objects) = World::filled(3).await;
    pass(979).await;
    assert_eq!(world.n_confirmed(&objects[..1]).await, 1);
    pass(1).await;
    assert!(!world.confirms(&objects[0]).await, "1 s after the request was sent");
    assert_eq!(world.n_calls(), 0, "of one file the open asks itself, as that is cheaper");
    let sent = world.tree.confirm(&objects[0], Ttl::Forever).await.unwrap();
    assert_eq!(sent.elapsed(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_second_file_brings_a_page_for_all() {
    let (world, objects) = World::filled(1_000).await;
    for _ in 0..3 {
        pass(5_000).await;
        assert_eq!(world.n_confirmed(&objects).await, 999);
        assert_eq!(world.calls(), ["LIST d/"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_directory_costs_one_page_for_a_thousand_files_in_any_order() {
    let (world, objects) = World::filled(5_500).await;
    let mut shuffled = objects.clone();
    shuffled.sort_by_key(|object| xxhash_rust::xxh3::xxh3_64(object.key.as_bytes()));
    // In no order a page has to pay for the next one before that is asked for.
    for (order, n_alone_max) in [(&objects, 1), (&shuffled, 30)] {
        pass(1_500).await;
        let n_confirmed = world.n_confirmed(order).await;
        assert!((1..=n_alone_max).contains(&(5_500 - n_confirmed)), "{n_confirmed}");
        assert_eq!(world.n_calls(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_open_side_by_side_share_the_page() {
    let (world, objects) = World::filled(3_000).await;
    pass(5_000).await;
    assert!(!world.confirms(&objects[0]).await);
    let (confirmed, took) =
        timed(join_all(objects[1..9].iter().map(|object| world.confirms(object)))).await;
    assert!(confirmed.into_iter().all(|it| it) && took == ROUND_TRIP);
    assert_eq!(world.calls(), ["LIST d/"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_or_deleted_is_not_confirmed() {
    let (world, objects) = World::filled(10).await;
    pass(5_000).await;
    world.store.put("d/n0004", "other");
    world.store.delete("d/n0006");
    let mut confirmed = Vec::new();
    for object in &objects {
        confirmed.push(world.confirms(object).await);
    }
    assert_eq!(confirmed.iter().filter(|it| **it).count(), 7);
    assert!(!confirmed[4] && !confirmed[6]);
    assert_eq!(world.lookup("d/n0004").await, "file 5");
    assert_eq!(world.lookup("d/n0006").await, "absent");
    assert_eq!(world.calls(), ["LIST d/"], "and the names were learnt");
}

#[tokio::test(start_paused = true)]
async fn names_that_were_added_do_not_hide_the_end_of_a_page() {
    let (world, objects) = World::filled(2_000).await;
    pass(5_000).await;
    for index in 0..500 {
        world.store.put(&format!("d/n0000-{index}"), "x");
    }
    assert_eq!(world.n_confirmed(&objects).await, 1_999);
    assert_eq!(world.n_calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn where_listing_is_denied_a_page_is_tried_once_a_minute() {
    let (world, objects) = World::filled(100).await;
    world.store.deny_list();
    pass(5_000).await;
    assert_eq!(world.n_confirmed(&objects).await, 0);
    assert_eq!(world.calls(), ["LIST d/"]);
    pass(1_000).await;
    assert_eq!(world.n_confirmed(&objects).await, 0);
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_fails_or_is_late_leaves_the_question_to_the_open() {
    for fault in [Fault::Stall, Fault::Fail(StoreErrorKind::Throttled), Fault::Panic] {
        let (world, objects) = World::filled(100).await;
        pass(5_000).await;
        world.store.fault(0, fault);
        let (n_confirmed, took) = timed(world.n_confirmed(&objects[..2])).await;
        assert_eq!(n_confirmed, 0);
        assert!(took <= Duration::from_secs(2), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_confirms_does_not_shorten_what_a_long_listing_holds() {
    let (world, objects) = World::filled(5_000).await;
    pass(5_000).await;
    assert_eq!(world.n_confirmed(&objects[..100]).await, 99);
    assert_eq!(world.n_calls(), 1);
    let (answer, valid_for) = world.lookup_timed("d/n0050").await;
    assert!(answer == "file 1" && valid_for > 4_000, "{valid_for}");
    pass(3_000).await;
    assert_eq!(world.lookup("d/n0050").await, "file 1");
    world.readdir("d/").await.unwrap();
    assert_eq!(world.n_calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_told_before_a_name_was_forgotten_confirms_nothing() {
    let (world, objects) = World::filled(10).await;
    assert!(world.confirms(&objects[0]).await);
    world.tree.forget(&DirPath::new("d/n0000/"), false);
    assert!(!world.confirms(&objects[0]).await);
    assert!(world.confirms(&objects[1]).await);
    world.tree.forget(&DirPath::new("d/"), false);
    assert!(!world.confirms(&objects[1]).await);
}

#[tokio::test(start_paused = true)]
async fn files_among_very_many_do_not_each_bring_a_page() {
    let (world, objects) = World::filled(30_000).await;
    pass(5_000).await;
    let mut shuffled = objects;
    shuffled.sort_by_key(|object| xxhash_rust::xxh3::xxh3_64(object.key.as_bytes()));
    let mut n_alone = 0;
    for object in &shuffled[..500] {
        // What a page told 100 files ago is too old.
        pass(20).await;
        n_alone += usize::from(!world.confirms(object).await);
    }
    let n_pages = world.n_calls();
    assert!(n_pages + n_alone <= 500, "{n_pages} pages, {n_alone} alone");
    assert!(n_pages <= 500 / 4, "{n_pages} pages");
}
