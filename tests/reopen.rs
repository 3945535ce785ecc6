//! Files that are read again: what a second opening costs, counted in requests, and that it shows what is
//! new.

#![expect(clippy::unwrap_used, reason = "helpers fail a test as tests do")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::mounted::{Mounted, sleep};
use crate::support::simulator::Simulator;
use crate::support::simulator::log::Counts;
use crate::support::simulator::policy::Action;
use crate::support::simulator::quirks::Quirk;

const MIB: u64 = 1 << 20;

/// The kernel does not look names up again, so that only opens ask.
const NAMES_HOLD: [&str; 2] = ["--metadata-ttl", "60s"];

/// Far longer than it takes to open all files once, also on a machine under load.
const OPEN_TTL: Duration = Duration::from_secs(6);

/// A bucket with `n_files` of 10 bytes in `d/`, and a mount of it with `options` where all have been
/// read once.
fn read_once(n_files: u64, options: &[&str]) -> (Simulator, Mounted) {
    let simulator = Simulator::builder().bucket("myfiles").start();
    read_once_from(simulator, n_files, options)
}

fn read_once_from(simulator: Simulator, n_files: u64, options: &[&str]) -> (Simulator, Mounted) {
    simulator.put_tree("myfiles", "d/", n_files, 10);
    let mounted = Mounted::new(&simulator, "myfiles", options);
    assert_eq!(fs::read_dir(mounted.join("d")).unwrap().count() as u64, n_files);
    read_all(&simulator, &mounted, &in_order(n_files), 8);
    (simulator, mounted)
}

/// Reads the files of these numbers, by `n_readers` at once, each in order.
fn read_all(simulator: &Simulator, mounted: &Mounted, numbers: &[u64], n_readers: usize) {
    std::thread::scope(|scope| {
        for reader in 0..n_readers {
            scope.spawn(move || {
                for number in numbers.iter().skip(reader).step_by(n_readers) {
                    let name = format!("d/{number:06}");
                    let read = fs::read(mounted.join(&name)).unwrap();
                    assert_eq!(read, simulator.object_bytes("myfiles", &name), "{name}");
                }
            });
        }
    });
}

/// What was counted, but for the GETs of pages that the kernel has dropped of its own accord since they were
/// read (memory reclaim, DAMON): a few of `n_files`. Those are pinned to their version, and no open is.
fn counts(simulator: &Simulator, n_files: u64) -> Counts {
    let log = simulator.log();
    let dropped: Vec<_> = log.iter().filter(|entry| entry.call.if_match.is_some()).collect();
    assert!(dropped.len() as u64 <= 1 + n_files / 10, "{} of {n_files}", dropped.len());
    let mut counts = simulator.counts();
    counts.get -= dropped.len() as u64;
    counts.bytes_requested -= dropped.iter().map(|entry| entry.bytes_requested).sum::<u64>();
    counts
}

fn in_order(n_files: u64) -> Vec<u64> {
    (0..n_files).collect()
}

fn shuffled(n_files: u64) -> Vec<u64> {
    let mut order = in_order(n_files);
    order.sort_by_key(|at| xxhash_rust::xxh3::xxh3_64(&at.to_le_bytes()));
    order
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

/// 1,000 files of a directory that are read again after `--open-ttl` cost one LIST, in any order and by
/// eight readers at once, and at most a few GETs by those who come before it.
#[test]
fn a_page_validates_the_files_of_a_directory() {
    let open_ttl = seconds(OPEN_TTL);
    let options = [&NAMES_HOLD[..], &["--open-ttl", &open_ttl]].concat();
    let (simulator, mounted) = read_once(1_000, &options);
    for (order, n_readers) in [(in_order(1_000), 1), (shuffled(1_000), 1), (in_order(1_000), 8)] {
        sleep(OPEN_TTL);
        simulator.reset_log();
        read_all(&simulator, &mounted, &order, n_readers);
        let counts = counts(&simulator, 1_000);
        assert_eq!((counts.list, counts.head, counts.bytes_requested), (1, 0, 0));
        assert!((1..=n_readers as u64).contains(&counts.get), "{n_readers}: {counts:?}");
    }
}

/// In a larger directory it is one LIST for every 990 names, in any order, and beside those a GET for the
/// first file, or for a few where they come in no order.
#[test]
fn a_large_directory_is_validated_by_the_page() {
    let open_ttl = seconds(OPEN_TTL);
    let options = [&NAMES_HOLD[..], &["--open-ttl", &open_ttl]].concat();
    let (simulator, mounted) = read_once(2_500, &options);
    for (order, n_gets_max) in [(shuffled(2_500), 30), (in_order(2_500), 1)] {
        sleep(OPEN_TTL);
        simulator.reset_log();
        read_all(&simulator, &mounted, &order, 1);
        let counts = counts(&simulator, 2_500);
        assert_eq!((counts.list, counts.head, counts.bytes_requested), (3, 0, 0));
        assert!((1..=n_gets_max).contains(&counts.get), "{counts:?}");
    }
}

/// A listing that comes anyway, as where names are looked up again or for `ls`, validates what it shows, so
/// that opens cost nothing beside it.
#[test]
fn a_listing_that_came_anyway_validates() {
    let ttl = seconds(OPEN_TTL);
    let options = ["--metadata-ttl", &ttl, "--open-ttl", &ttl];
    let (simulator, mounted) = read_once(1_000, &options);
    for lists in [false, true] {
        sleep(OPEN_TTL);
        simulator.reset_log();
        if lists {
            assert_eq!(fs::read_dir(mounted.join("d")).unwrap().count(), 1_000);
        }
        read_all(&simulator, &mounted, &shuffled(1_000), 1);
        let log = simulator.log();
        let n_pages = log.iter().filter(|entry| entry.call.subject() == "d/").count();
        assert_eq!(n_pages, 1, "listed: {lists}");
        // The name `d` itself may be looked up, too.
        let counts = counts(&simulator, 1_000);
        assert!(counts.requests() <= 2 && counts.get == 0, "{counts:?}");
    }
}

/// Of files that are validated by a page, one that was replaced is opened as what it is now, and one that was
/// deleted is gone.
#[test]
fn what_changed_is_seen_though_a_page_validates() {
    let (simulator, mounted) = read_once(20, &NAMES_HOLD);
    simulator.put("myfiles", "d/000007", "new, and longer than before");
    simulator.delete("myfiles", "d/000009");
    sleep(Duration::from_secs(1));
    simulator.reset_log();
    let (gone, rest): (Vec<u64>, Vec<u64>) = (0..20).partition(|number| *number == 9);
    read_all(&simulator, &mounted, &rest, 1);
    assert_eq!(fs::read(mounted.join("d/000007")).unwrap(), b"new, and longer than before");
    let missing = |number: &u64| {
        let err = fs::read(mounted.join(format!("d/{number:06}"))).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::ENOENT));
    };
    gone.iter().for_each(missing);
    let counts = counts(&simulator, 20);
    assert!(counts.list >= 1 && counts.requests() < 20, "{counts:?}");
    assert_eq!(counts.bytes_requested, 27, "the new bytes, once");
}

/// Where a directory may not be listed, each open after `--open-ttl` asks by a GET that transfers nothing.
#[test]
fn without_permission_to_list_each_open_asks() {
    let (simulator, mounted) = read_once(50, &NAMES_HOLD);
    simulator.deny("myfiles", Action::ListBucket, "d/");
    sleep(Duration::from_secs(1));
    simulator.reset_log();
    read_all(&simulator, &mounted, &in_order(50), 1);
    let counts = counts(&simulator, 50);
    assert_eq!((counts.get, counts.head, counts.bytes_requested), (50, 0, 0));
    assert!(counts.list <= 1, "one finds out");
}

/// On a server whose listings have no ETags each open after `--open-ttl` asks by a GET that transfers nothing,
/// as a listing cannot tell.
#[test]
fn where_listings_have_no_etags_each_open_asks() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.set_quirk(Quirk::NoListETag);
    let (simulator, mounted) = read_once_from(simulator, 50, &NAMES_HOLD);
    sleep(Duration::from_secs(1));
    simulator.reset_log();
    read_all(&simulator, &mounted, &in_order(50), 1);
    let counts = counts(&simulator, 50);
    assert_eq!((counts.list, counts.head, counts.get, counts.bytes_requested), (0, 0, 50, 0));
}

/// With `--open-ttl 0` each open asks for itself, and with `--open-ttl forever` none does.
#[test]
fn the_ends_of_the_open_time_mean_what_they_say() {
    for (open_ttl, n_gets) in [("0", 60), ("forever", 0)] {
        let options = [&NAMES_HOLD[..], &["--open-ttl", open_ttl]].concat();
        let (simulator, mounted) = read_once(20, &options);
        sleep(Duration::from_secs(1));
        simulator.reset_log();
        for order in [in_order(20), shuffled(20), in_order(20)] {
            read_all(&simulator, &mounted, &order, 1);
        }
        let counts = counts(&simulator, 20);
        assert_eq!((counts.list, counts.get, counts.bytes_requested), (0, n_gets, 0), "{open_ttl}");
        simulator.put("myfiles", "d/000003", "new");
        let read = fs::read(mounted.join("d/000003")).unwrap();
        assert_eq!(read == b"new", open_ttl == "0", "{open_ttl}");
    }
}

/// A second read of an unchanged file comes from the kernel's memory, also after `--open-ttl`, and costs one
/// GET that transfers nothing.
#[test]
fn a_second_read_does_not_reach_the_process() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "big", 40 * MIB);
    let mounted = Mounted::new(&simulator, "myfiles", &NAMES_HOLD);
    let first = fs::read(mounted.join("big")).unwrap();
    for waits in [false, true] {
        if waits {
            sleep(Duration::from_secs(1));
        }
        simulator.reset_log();
        let before = bytes_written(mounted.pid());
        assert!(fs::read(mounted.join("big")).unwrap() == first);
        assert!(bytes_written(mounted.pid()) - before < 4 * MIB);
        // In parts of 128 KiB.
        let counts = counts(&simulator, 320);
        assert!(counts.requests() <= u64::from(waits), "{counts:?}");
        assert_eq!(counts.bytes_requested, 0);
    }
}

/// What the process has written so far, answers to the kernel included (proc(5), `io`).
fn bytes_written(pid: u32) -> u64 {
    let io = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("io")).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("wchar");
    line.parse().expect("a number")
}

/// Files that are more than fit into `--memory` come from the kernel's memory when they are read again: opens
/// transfer nothing, however many files were read in between.
#[test]
fn many_files_are_read_again_without_a_transfer() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_tree("myfiles", "d/", 4_000, 32 << 10);
    let open_ttl = seconds(OPEN_TTL);
    let options = ["--memory", "64MiB", "--metadata-ttl", "forever", "--open-ttl", &open_ttl];
    let mounted = Mounted::new(&simulator, "myfiles", &options);
    assert_eq!(fs::read_dir(mounted.join("d")).unwrap().count(), 4_000);
    read_all(&simulator, &mounted, &in_order(4_000), 8);
    sleep(OPEN_TTL);
    simulator.reset_log();
    read_all(&simulator, &mounted, &in_order(4_000), 1);
    let counts = counts(&simulator, 4_000);
    assert_eq!(counts.bytes_requested, 0, "{counts:?}");
    assert!(counts.requests() <= 20, "{counts:?}");
}
