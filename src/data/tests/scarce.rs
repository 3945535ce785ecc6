//! A system that has less memory than the budget.

use super::*;
use crate::data::buffer::system;

const PART: usize = 128 << 10;

async fn error(data: &Arc<Data>, file: &Arc<File>, offset: u64) -> FsError {
    data.read(file, offset, 4096, true).await.err().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_finds_no_memory_gets_an_error_and_reads_when_there_is_some() {
    let (store, data, file, bytes) = one_file(4 * MIB, 64 * MIB);
    system::has(PART as i64 - 1);
    let errors = join_all((0..8).map(|n| error(&data, &file, n % 3 * MIB))).await;
    assert!(errors.iter().all(|err| matches!(err, FsError::NoMemory)), "{errors:?}");
    assert_eq!(errors[0].errno(), libc::EIO);
    assert_eq!(gets(&store), [], "nothing is asked for that there is no place for");
    assert_eq!(data.budget.used(), 0);
    assert!(!data.budget.is_waited_for());
    system::has(PART as i64);
    assert_eq!(read(&data, &file, MIB, 4096).await, &bytes[MIB as usize..][..4096]);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_already_gives_its_memory_to_a_reader_who_finds_none() {
    let (store, data, file, bytes) = one_file(40 * MIB, 64 * MIB);
    let places = [30, 3, 17, 24, 9, 36, 12, 21].map(|n| n * MIB);
    for at in places {
        read(&data, &file, at, 4096).await;
    }
    system::has(0);
    let at = 6 * MIB;
    assert_eq!(read(&data, &file, at, 4096).await, &bytes[at as usize..][..4096]);
    assert_eq!(data.budget.used(), 8 * PART as u64, "one for one");
    // Of a size that none of them has, and of whose parts the last one has to go, too.
    assert_eq!(read(&data, &file, 0, 1 << 20).await, &bytes[..1 << 20]);
    assert_eq!(data.budget.used(), 8 * PART as u64);
    store.take_calls();
    read(&data, &file, 0, 4096).await;
    assert_eq!(gets(&store), []);
}

#[tokio::test(start_paused = true)]
async fn what_came_ahead_gives_its_memory_to_a_reader_who_finds_none() {
    let (_store, data, file, bytes) = one_file(64 * MIB, 64 * MIB);
    for n in 0..8 {
        read(&data, &file, n * PART as u64, PART as u32).await;
    }
    advance(Duration::from_secs(1)).await;
    assert!(data.index.lock().unread_bytes() >= MIB);
    drop(data.budget.take_pool());
    system::has(0);
    let at = 40 * MIB;
    assert_eq!(read(&data, &file, at, 4096).await, &bytes[at as usize..][..4096]);
}

/// Also where a part of the size that the stream has come to is too large.
#[tokio::test(start_paused = true)]
async fn a_stream_needs_no_more_memory_than_for_one_read() {
    let (_store, data, file, bytes) = one_file(16 * MIB, 64 * MIB);
    let read_on = async |from: u64, to: u64| {
        let mut at = from;
        while at < to {
            let got = read(&data, &file, at, PART as u32).await;
            assert!(got == bytes[at as usize..][..PART], "at {at}");
            at += PART as u64;
        }
    };
    read_on(0, 4 * MIB).await;
    let gone = data.index.lock().evict_unread(64 * MIB);
    data.let_go(gone);
    tokio::task::yield_now().await;
    drop(data.budget.take_pool());
    system::has(PART as i64 - data.budget.used() as i64);
    read_on(4 * MIB, 16 * MIB).await;
    assert!(data.budget.used() <= PART as u64);
}

#[tokio::test(start_paused = true)]
async fn readers_wait_for_the_memory_of_others() {
    let (_store, data, file, bytes) = one_file(16 * MIB, 64 * MIB);
    system::has(2 * PART as i64);
    let places = [9, 2, 14, 5, 11, 0, 7, 3].map(|n| n * MIB);
    let all = join_all(places.map(|at| read(&data, &file, at, 4096))).await;
    for (at, got) in places.into_iter().zip(all) {
        assert_eq!(got, &bytes[at as usize..][..4096]);
    }
}

#[tokio::test(start_paused = true)]
async fn readers_who_wait_for_memory_that_does_not_come_back_get_an_error() {
    let (_store, data, file, bytes) = one_file(4 * MIB + 100_000, 64 * MIB);
    let on_its_way = read(&data, &file, MIB, 4096);
    let late = async {
        // Neither does its memory fit them, nor does the system give it anew.
        system::has(-(PART as i64));
        join_all((0..4).map(|_| error(&data, &file, 4 * MIB))).await
    };
    let (got, errors) = tokio::join!(on_its_way, late);
    assert_eq!(got, &bytes[1 << 20..][..4096]);
    assert!(errors.iter().all(|err| matches!(err, FsError::NoMemory)), "{errors:?}");
    assert!(!data.budget.is_waited_for());
    assert_eq!(data.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_file_opens_without_memory_for_its_bytes() {
    let (_store, data, file, bytes) = one_file(100_000, 64 * MIB);
    system::has(0);
    assert!(matches!(data.open(&file, Recency::OpenTtl).await, Ok(Opened::Current)));
    assert!(matches!(error(&data, &file, 0).await, FsError::NoMemory));
    system::has(MIB as i64);
    assert_eq!(read(&data, &file, 0, 4096).await, &bytes[..4096]);
}

#[tokio::test(start_paused = true)]
async fn a_mapped_file_is_loaded_on_when_there_is_memory_again() {
    let (_store, data, file, _) = one_file(32 * MIB, 64 * MIB);
    assert!(data.begin_loading(&file));
    system::has(0);
    assert!(data.bring(&file).is_empty());
    assert!(!data.is_loaded(&file));
    system::has(64 * MIB as i64);
    assert!(!data.bring(&file).is_empty());
}
