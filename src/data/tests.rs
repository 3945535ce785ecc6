//! The bytes on the fake store, with a paused clock.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use proptest::prelude::*;
use tokio::time::advance;

use super::*;
use crate::error::{FsError, StoreErrorKind};
use crate::store::fake::{Call, FakeStore, Fault};
use crate::store::{Condition, GetRequest};

mod scarce;

const MIB: u64 = 1 << 20;

fn data(store: &FakeStore, memory_max_bytes: u64) -> Arc<Data> {
    let config = DataConfig {
        memory_max_bytes,
        open_ttl: Ttl::For(Duration::from_secs(1)),
        page_cache: PageCache::Used,
        reach: Arc::default(),
    };
    let numbering: Numbering = Arc::new(Object::ino);
    let store: Arc<dyn ObjectStore> = Arc::new(store.clone());
    Data::new(store, Handle::current(), Arc::default(), numbering, config)
}

/// Bytes in which every position can be told from its neighbors.
fn content(len: u64) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A store with one object of `len` bytes, and its file.
fn one_file(len: u64, memory: u64) -> (FakeStore, Arc<Data>, Arc<File>, Vec<u8>) {
    let store = FakeStore::new();
    let bytes = content(len);
    let object = Arc::new(store.put("key", bytes.clone()));
    let data = data(&store, memory);
    let file = data.file(object.ino(), &object);
    (store, data, file, bytes)
}

async fn read(data: &Arc<Data>, file: &Arc<File>, offset: u64, len: u32) -> Vec<u8> {
    data.read(file, offset, len, true).await.unwrap().as_ref().to_vec()
}

fn gets(store: &FakeStore) -> Vec<GetRequest> {
    let get = |call| match call {
        Call::Get(get) => Some(get),
        Call::Head(_) | Call::List(_) => None,
    };
    store.take_calls().into_iter().filter_map(get).collect()
}

#[tokio::test(start_paused = true)]
async fn a_random_read_asks_for_its_aligned_range_and_no_more() {
    let (store, data, file, bytes) = one_file(10 * MIB, 64 * MIB);
    let at = 5 * MIB + 1000;
    assert_eq!(read(&data, &file, at, 4096).await, &bytes[at as usize..][..4096]);
    let calls = gets(&store);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].range, Some(5 * MIB..5 * MIB + (128 << 10)));
    assert_eq!(calls[0].condition, Condition::Match(file.pin().unwrap().clone()));
    assert_eq!(read(&data, &file, at + 50_000, 100).await, &bytes[at as usize + 50_000..][..100]);
    assert_eq!(gets(&store), [], "known bytes are not asked for again");
}

#[tokio::test(start_paused = true)]
async fn a_hit_is_ready_at_the_first_poll() {
    let (_store, data, file, _) = one_file(MIB, 64 * MIB);
    read(&data, &file, 0, 4096).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(data.read(&file, 4096, 4096, true).now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_right_and_never_asks_twice_for_a_byte() {
    let (store, data, file, bytes) = one_file(40 * MIB + 12_345, 64 * MIB);
    let mut at = 0;
    while at < file.size() {
        let got = read(&data, &file, at, 1 << 20).await;
        assert!(got == bytes[at as usize..][..got.len()], "at {at}");
        at += got.len() as u64;
    }
    let calls = gets(&store);
    let asked: u64 =
        calls.iter().map(|get| get.range.clone().unwrap()).map(|r| r.end - r.start).sum();
    assert_eq!(asked, file.size());
    assert!(calls.len() < 30, "{} GETs", calls.len());
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_has_passed_is_let_go() {
    let (_store, data, file, _) = one_file(40 * MIB, 256 * MIB);
    for at in 0..40 {
        read(&data, &file, at * MIB, 1 << 20).await;
    }
    assert!(data.bytes() < 6 * MIB, "{} bytes held", data.bytes());
}

#[tokio::test(start_paused = true)]
async fn readers_of_the_same_bytes_share_one_get_and_one_who_leaves_does_not_cancel_it() {
    let (store, data, file, bytes) = one_file(4 * MIB, 64 * MIB);
    assert!(data.read(&file, MIB, 4096, true).now_or_never().is_none(), "asks, and gives up");
    let all = join_all((0..8).map(|_| read(&data, &file, MIB, 4096))).await;
    assert!(all.iter().all(|got| got == &bytes[MIB as usize..][..4096]));
    assert_eq!(gets(&store).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_download_costs_one_error() {
    let (store, data, file, bytes) = one_file(4 * MIB, 64 * MIB);
    store.fault(0, Fault::Panic);
    let err = data.read(&file, MIB, 4096, true).await.err().unwrap();
    assert_eq!(err.errno(), libc::EIO);
    assert_eq!(read(&data, &file, MIB, 4096).await, &bytes[MIB as usize..][..4096]);
    drop(store);
}

#[tokio::test(start_paused = true)]
async fn a_cut_body_gives_the_bytes_that_came_and_an_error_for_the_rest() {
    let (store, data, file, bytes) = one_file(4 * MIB, 64 * MIB);
    store.fault(0, Fault::Cut(70_000));
    let (front, back) =
        tokio::join!(data.read(&file, 0, 4096, true), data.read(&file, 100_000, 4096, true));
    assert_eq!(front.unwrap().as_ref(), &bytes[..4096]);
    assert_eq!(back.err().unwrap().errno(), libc::EIO);
    assert_eq!(read(&data, &file, 100_000, 4096).await, &bytes[100_000..][..4096]);
    assert_eq!(data.index.lock().unread_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_changed_object_is_stale_and_never_mixed() {
    let (store, data, file, bytes) = one_file(4 * MIB, 64 * MIB);
    assert_eq!(read(&data, &file, 0, 4096).await, &bytes[..4096]);
    store.put("key", vec![0; 4 << 20]);
    let err = data.read(&file, 2 * MIB, 4096, true).await.err().unwrap();
    assert_eq!(err.errno(), libc::ESTALE);
    assert_eq!(read(&data, &file, 50_000, 4096).await, &bytes[50_000..][..4096], "from memory");
}

#[tokio::test(start_paused = true)]
async fn a_versioned_bucket_goes_on_with_the_old_bytes() {
    let store = FakeStore::new().versioned();
    let bytes = content(4 * MIB);
    let object = Arc::new(store.put("key", bytes.clone()));
    let data = data(&store, 64 * MIB);
    let file = data.file(object.ino(), &object);
    read(&data, &file, 0, 4096).await;
    store.put("key", vec![0; 4 << 20]);
    assert_eq!(read(&data, &file, 2 * MIB, 4096).await, &bytes[2 << 20..][..4096]);
    store.take_calls();
    store.fault(1, Fault::Fail(StoreErrorKind::Denied));
    for _ in 0..2 {
        let err = data.read(&file, 3 * MIB, 4096, true).await.err().unwrap();
        assert_eq!(err.errno(), libc::ESTALE);
    }
    assert_eq!(gets(&store).len(), 2, "what is lost is not asked for again");
}

#[tokio::test(start_paused = true)]
async fn the_same_bytes_uploaded_again_are_read_on() {
    let (store, data, file, bytes) = one_file(4 * MIB, 64 * MIB);
    read(&data, &file, 0, 4096).await;
    store.put("key", bytes.clone());
    assert_eq!(read(&data, &file, 2 * MIB, 4096).await, &bytes[2 << 20..][..4096]);
}

#[tokio::test(start_paused = true)]
async fn memory_is_given_back_when_nothing_was_asked_for_for_long_and_no_timer_runs_on() {
    let (_store, data, file, bytes) = one_file(4 * MIB, 64 * MIB);
    let read_on = || async {
        for at in 0..32 {
            let got = read(&data, &file, at * MIB / 8, 128 << 10).await;
            assert!(got == bytes[(at * MIB / 8) as usize..][..128 << 10]);
        }
        data.index.lock().evict(64 * MIB);
    };
    read_on().await;
    assert!(data.budget.pooled() > 0);
    for _ in 0..3 {
        advance(Duration::from_secs(9)).await;
        read_on().await;
        assert!(data.budget.pooled() > 0, "while it is used it is kept");
    }
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    assert_eq!(data.budget.pooled(), 0);
    let tasks = Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks, 0, "nobody waits for anything");
    read_on().await;
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    assert_eq!(data.budget.pooled(), 0, "and again");
}

#[tokio::test(start_paused = true)]
async fn a_cold_open_brings_a_small_file_in_one_request() {
    let (store, data, file, bytes) = one_file(70_000, 64 * MIB);
    assert!(matches!(data.open(&file, Recency::OpenTtl).await, Ok(Opened::Current)));
    assert_eq!(read(&data, &file, 0, 1 << 20).await, bytes);
    let calls = gets(&store);
    assert_eq!(calls.len(), 1);
    assert_eq!((&calls[0].range, &calls[0].condition), (&None, &Condition::Any));
}

/// A file of a store whose answers carry checksums.
fn checked_file(len: u64) -> (FakeStore, Arc<Data>, Arc<File>, Vec<u8>) {
    let (store, bytes) = (FakeStore::new().with_checksums(), content(len));
    let object = Arc::new(store.put("key", bytes.clone()));
    let data = data(&store, 64 * MIB);
    let file = data.file(object.ino(), &object);
    (store, data, file, bytes)
}

#[tokio::test(start_paused = true)]
async fn bytes_that_do_not_fit_their_checksum_are_seen_by_nobody_and_asked_for_again() {
    // By the open, and by the read of a file that was opened before.
    for opened in [false, true] {
        let (store, data, file, bytes) = checked_file(300_000);
        if opened {
            data.open(&file, Recency::OpenTtl).await.unwrap();
            read(&data, &file, 0, 1 << 20).await;
            data.index.lock().evict(MIB);
        }
        store.take_calls();
        store.fault(0, Fault::Flip(7));
        store.fault(1, Fault::Flip(299_999));
        if !opened {
            data.open(&file, Recency::OpenTtl).await.unwrap();
        }
        let all = tokio::spawn({
            let (data, file) = (Arc::clone(&data), Arc::clone(&file));
            async move { read(&data, &file, 0, 1 << 20).await }
        });
        tokio::task::yield_now().await;
        let reads = (0..3).map(|at| read(&data, &file, at * 100_000, 100_000));
        assert!(join_all(reads).await.concat() == bytes);
        assert!(all.await.unwrap() == bytes);
        assert_eq!(gets(&store).len(), 3, "opened: {opened}");
        assert_eq!(data.metrics.n_errors(StoreErrorKind::Corrupt), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_fits_its_checksum_is_an_error() {
    let (store, data, file, bytes) = checked_file(300_000);
    (0..6).for_each(|n| store.fault(n, Fault::Flip(150_000)));
    data.open(&file, Recency::OpenTtl).await.unwrap();
    // Not by a part either, which could not be told from a broken one.
    for offset in [0, 250_000] {
        let err = data.read(&file, offset, 10, true).await.map(drop).unwrap_err();
        assert_eq!(err.verdict().0, libc::EIO);
        let calls = gets(&store);
        assert!(calls.len() == 3 && calls.iter().all(|call| call.range.is_none()), "{calls:?}");
    }
    assert_eq!((data.bytes(), data.index.lock().has_any(file.ino)), (0, false), "nothing is kept");
    assert!(read(&data, &file, 0, 1 << 20).await == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_checksum_is_of_all_bytes_whichever_answer_brings_them() {
    let (store, data, file, bytes) = checked_file(300_000);
    let retrying = crate::store::stack::wrap(
        Arc::new(store.clone()),
        Arc::default(),
        crate::store::limit::LimitConfig::for_memory(64 * MIB),
        Arc::default(),
        7,
    );
    let config = DataConfig {
        memory_max_bytes: 64 * MIB,
        open_ttl: Ttl::Forever,
        page_cache: PageCache::Used,
        reach: Arc::default(),
    };
    drop(data);
    let data =
        Data::new(retrying, Handle::current(), Arc::default(), Arc::new(Object::ino), config);
    store.fault(0, Fault::Cut(100_000));
    // Of the rest, which has no checksum of its own.
    store.fault(1, Fault::Flip(5));
    data.open(&file, Recency::OpenTtl).await.unwrap();
    assert!(read(&data, &file, 0, 1 << 20).await == bytes);
    let calls = gets(&store);
    let ranges: Vec<_> = calls.iter().map(|call| call.range.clone()).collect();
    assert_eq!(ranges, [None, Some(100_000..300_000), None]);
}

#[tokio::test(start_paused = true)]
async fn of_an_object_that_turned_out_larger_no_more_is_read_for_its_checksum() {
    let (store, data, file, _) = checked_file(300_000);
    let grown = content(5 * MIB);
    let object = Arc::new(store.put("key", grown.clone()));
    let Ok(Opened::Changed(found)) = data.open(&file, Recency::OpenTtl).await else {
        panic!("must be changed")
    };
    let file = data.file(object.ino(), &found.object);
    assert!(read(&data, &file, 0, 4096).await == grown[..4096]);
    assert!(read(&data, &file, MIB - 4096, 4096).await == grown[MIB as usize - 4096..][..4096]);
    assert_eq!(gets(&store).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_warm_open_asks_nothing_within_its_time_and_validates_after_it() {
    let (store, data, file, bytes) = one_file(70_000, 64 * MIB);
    data.open(&file, Recency::OpenTtl).await.unwrap();
    read(&data, &file, 0, 1 << 20).await;
    advance(Duration::from_millis(900)).await;
    store.take_calls();
    assert!(data.open(&file, Recency::OpenTtl).now_or_never().is_some(), "known");
    advance(Duration::from_millis(200)).await;
    assert!(matches!(data.open(&file, Recency::OpenTtl).await, Ok(Opened::Current)));
    let calls = gets(&store);
    assert_eq!(calls.len(), 1);
    assert!(matches!(calls[0].condition, Condition::NoneMatch(_)));
    assert_eq!(read(&data, &file, 0, 1 << 20).await, bytes);
    assert_eq!(gets(&store), []);
}

#[tokio::test(start_paused = true)]
async fn an_open_that_must_know_does_not_take_an_answer_that_was_on_its_way() {
    let (store, data, file, bytes) = one_file(70_000, 64 * MIB);
    for recency in [Recency::OpenTtl, Recency::Now] {
        advance(Duration::from_secs(2)).await;
        let first = tokio::spawn({
            let (data, file) = (Arc::clone(&data), Arc::clone(&file));
            async move { data.open(&file, recency).await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let others = join_all((0..3).map(|_| data.open(&file, recency))).await;
        assert!(others.iter().all(|opened| matches!(opened, Ok(Opened::Current))));
        first.await.unwrap().unwrap();
        assert_eq!(gets(&store).len(), if recency == Recency::Now { 2 } else { 1 });
        assert_eq!(read(&data, &file, 0, 1 << 20).await, bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_bytes_have_gone_is_validated_as_long_as_the_kernel_may_have_them() {
    // When the kernel forgets it: never, before its bytes have gone, or after that.
    for forgets in [None, Some(false), Some(true)] {
        let (store, data, file, bytes) = one_file(70_000, 64 * MIB);
        data.open(&file, Recency::OpenTtl).await.unwrap();
        read(&data, &file, 0, 1 << 20).await;
        let (ino, object) = (file.ino, Arc::clone(&file.object));
        drop(file);
        for has_gone in [false, true] {
            if has_gone {
                data.index.lock().evict(MIB);
                assert_eq!(data.index.lock().files(), 0);
            }
            if forgets == Some(has_gone) {
                data.forget(ino);
            }
        }
        advance(Duration::from_secs(2)).await;
        store.take_calls();
        let file = data.file(ino, &object);
        assert!(matches!(data.open(&file, Recency::OpenTtl).await, Ok(Opened::Current)));
        let calls = gets(&store);
        let validates = matches!(calls[0].condition, Condition::NoneMatch(_));
        assert_eq!((calls.len(), validates), (1, forgets.is_none()), "{forgets:?}");
        assert_eq!(read(&data, &file, 0, 1 << 20).await, bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_was_told_confirms_but_not_what_was_doubted() {
    let (store, data, file, _) = one_file(70_000, 64 * MIB);
    assert_eq!(data.in_doubt(&file), None, "its bytes are needed anyway");
    assert!(!file.confirm(Instant::now()), "nor was it ever validated");
    data.open(&file, Recency::OpenTtl).await.unwrap();
    assert_eq!(data.in_doubt(&file), None, "known");
    advance(Duration::from_secs(2)).await;
    assert_eq!(data.in_doubt(&file), Some(Ttl::For(Duration::from_secs(1))));
    assert!(file.confirm(Instant::now()));
    store.take_calls();
    assert!(data.open(&file, Recency::OpenTtl).now_or_never().is_some(), "confirmed");
    file.doubt();
    assert_eq!(data.in_doubt(&file), None);
    assert!(!file.confirm(Instant::now()));
    data.open(&file, Recency::OpenTtl).await.unwrap();
    assert_eq!(gets(&store).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_changed_object_is_noticed_at_open_and_its_bytes_go_to_its_own_inode() {
    for warm in [false, true] {
        let (store, data, file, _) = one_file(70_000, 64 * MIB);
        if warm {
            data.open(&file, Recency::OpenTtl).await.unwrap();
            advance(Duration::from_secs(2)).await;
        }
        let new = content(99);
        let object = store.put("key", new.clone());
        store.take_calls();
        let Ok(Opened::Changed(found)) = data.open(&file, Recency::OpenTtl).await else {
            panic!("must be changed")
        };
        assert_eq!(*found.object, object);
        let replaced = data.file(object.ino(), &found.object);
        assert!(matches!(data.open(&replaced, Recency::OpenTtl).await, Ok(Opened::Current)));
        assert_eq!(read(&data, &replaced, 0, 4096).await, new);
        assert_eq!(gets(&store).len(), 1, "one request told it all");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_shrank_grew_or_went_is_noticed_at_open() {
    for (new, requests) in [(Some(0), 2), (Some(50_000), 1), (Some(30 * MIB), 1), (None, 1)] {
        let (store, data, file, _) = one_file(5 * MIB, 64 * MIB);
        match new {
            Some(len) => drop(store.put("key", content(len))),
            None => store.delete("key"),
        }
        let opened = data.open(&file, Recency::OpenTtl).await;
        match new {
            Some(len) => {
                let Ok(Opened::Changed(found)) = opened else { panic!("must be changed") };
                assert_eq!(found.object.version.size, len);
                let replaced = data.file(found.object.ino(), &found.object);
                assert_eq!(read(&data, &replaced, 0, 4096).await, content(len.min(4096)));
            }
            None => assert_eq!(opened.err().unwrap().errno(), libc::ENOENT),
        }
        assert_eq!(store.take_calls().len(), requests, "{new:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_readers_in_the_least_memory_are_all_served_within_the_budget() {
    let (_store, data, file, bytes) = one_file(200 * MIB, 32 * MIB);
    let most = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let readers = (0..100_u64).map(|number| {
        let (data, file, bytes, most) = (&data, &file, &bytes, &most);
        async move {
            let at = number * 2 * MIB;
            let got = read(data, file, at, 1 << 20).await;
            most.fetch_max(data.bytes(), std::sync::atomic::Ordering::Relaxed);
            assert!(got == bytes[at as usize..][..1 << 20]);
        }
    });
    join_all(readers).await;
    assert!(most.load(std::sync::atomic::Ordering::Relaxed) <= 32 * MIB);
}

#[tokio::test(start_paused = true)]
async fn demand_that_waits_cancels_what_nobody_has_read_yet() {
    let (_store, data, file, _) = one_file(200 * MIB, 32 * MIB);
    for at in 0..8 {
        read(&data, &file, at * MIB, 1 << 20).await;
    }
    assert!(data.index.lock().unread_bytes() > 8 * MIB);
    let others = (40..68_u64).map(|number| read(&data, &file, number * 2 * MIB, 1 << 20));
    tokio::time::timeout(Duration::from_secs(30), join_all(others)).await.expect("none hangs");
}

#[tokio::test(start_paused = true)]
async fn closing_lets_go_of_what_came_ahead() {
    let (_store, data, file, _) = one_file(200 * MIB, 128 * MIB);
    for at in 0..8 {
        read(&data, &file, at * MIB, 1 << 20).await;
    }
    assert!(data.index.lock().unread_bytes() > 0);
    data.hold(&file);
    data.release(&file);
    assert_eq!(data.index.lock().unread_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_came_ahead_of_a_reader_that_pauses_is_let_go() {
    let (store, data, file, bytes) = one_file(300 * MIB, 128 * MIB);
    for step in 0..8 {
        read(&data, &file, step * 17 * MIB, 1 << 20).await;
    }
    assert!(data.index.lock().unread_bytes() > 4 * MIB);
    advance(Duration::from_secs(61)).await;
    assert_eq!(read(&data, &file, 299 * MIB, 100).await, &bytes[299 << 20..][..100]);
    assert_eq!(data.index.lock().unread_bytes(), 0);
    drop(store);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_opened_again_is_asked_for_ahead_again() {
    let (store, data, file, _) = one_file(300 * MIB, 128 * MIB);
    for _ in 0..2 {
        data.hold(&file);
        store.take_calls();
        for step in 100..108 {
            read(&data, &file, step * MIB, 1 << 20).await;
        }
        assert!(data.index.lock().unread_bytes() > 4 * MIB);
        data.release(&file);
        assert_eq!(data.index.lock().unread_bytes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_answered_at_once_for_one_second() {
    let (store, data, file, bytes) = one_file(4 * MIB, 64 * MIB);
    file.note_failure(0..4096, &FsError::Deadline(60));
    // Another reader of the file fails meanwhile.
    file.note_failure(2 << 20..3 << 20, &FsError::Deadline(60));
    let again = data.read(&file, 0, 100, true).now_or_never();
    assert_eq!(again.unwrap().err().unwrap().errno(), libc::ETIMEDOUT);
    assert_eq!(read(&data, &file, MIB, 4096).await, &bytes[MIB as usize..][..4096]);
    advance(Duration::from_secs(2)).await;
    assert_eq!(read(&data, &file, 0, 4096).await, &bytes[..4096]);
    drop(store);
}

#[tokio::test(start_paused = true)]
async fn files_that_nobody_needs_are_forgotten() {
    let store = FakeStore::new();
    let data = data(&store, 64 * MIB);
    for index in 0..5000 {
        let object = Arc::new(store.put(&format!("f{index}"), "x"));
        let file = data.file(object.ino(), &object);
        data.hold(&file);
        data.release(&file);
    }
    assert!(data.index.lock().files() <= 1100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever readers do, with faults in between, each gets the right bytes or an error, and the
    /// budget is kept.
    #[test]
    fn any_reads_are_right(
        len in 1_u64..(6 * MIB),
        faults in proptest::collection::vec((0_usize..12, 0_u64..200_000), 0..4),
        reads in proptest::collection::vec((any::<u64>(), 1_u32..(2 << 20), any::<bool>()), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (store, data, file, bytes) = one_file(len, 32 * MIB);
            for (skip, at) in &faults {
                store.fault(*skip, Fault::Cut(*at));
            }
            let mut errors = 0;
            let mut next = 0;
            for chunk in reads.chunks(4) {
                let mut group = Vec::new();
                for (place, size, sequential) in chunk {
                    let at = if *sequential { next } else { place % len };
                    next = at + u64::from(*size);
                    let (data, file) = (Arc::clone(&data), Arc::clone(&file));
                    group.push(async move { (at, *size, data.read(&file, at, *size, true).await) });
                }
                for (at, size, outcome) in join_all(group).await {
                    match outcome {
                        Ok(got) => {
                            let start = at.min(len) as usize;
                            let end = (at + u64::from(size)).min(len) as usize;
                            assert!(got.as_ref() == &bytes[start..end]);
                        }
                        Err(_) => errors += 1,
                    }
                }
                assert!(data.bytes() <= 32 * MIB);
            }
            // A cut body may hold up to four reads of a group.
            assert!(errors <= faults.len() * 4);
        });
    }
}
