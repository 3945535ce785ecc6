//! What looking costs, and how soon it shows what is new: counted in requests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::mounted::{Mounted, sleep};
use crate::support::simulator::Simulator;
use crate::support::simulator::shaping::Share;

const SECOND: Duration = Duration::from_secs(1);

/// The kernel counts in ticks and rounds up.
const TICKS: Duration = Duration::from_millis(50);

/// A bucket with `n_objects` in `d/`, and a mount of it with `options`.
fn mounted(n_objects: u64, options: &[&str]) -> (Simulator, Mounted) {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_tree("myfiles", "d/", n_objects, 10);
    simulator.put("myfiles", "other", "x");
    let mounted = Mounted::new(&simulator, "myfiles", options);
    simulator.reset_log();
    (simulator, mounted)
}

fn exists(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => false,
        Err(err) => panic!("{}: {err}", path.display()),
    }
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a directory");
    entries.map(|it| it.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

/// Numbers below `n` in an order that jumps about.
fn shuffled(n: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..n).collect();
    order.sort_by_key(|at| xxhash_rust::xxh3::xxh3_64(&at.to_le_bytes()));
    order
}

/// 500 names that are there, or 200 that are not, looked up in a directory of 2,000 that was never
/// listed, cost four requests at most, in any order, and by eight programs at once.
#[test]
fn many_lookups_in_a_directory_list_it() {
    let known = |at: &u64| format!("d/{at:06}");
    let absent = |at: &u64| format!("d/{at:06}x");
    let order = shuffled(2_000);
    let cases: [(&str, Vec<String>, bool); 5] = [
        ("the first", (0..500).map(|at| known(&at)).collect(), true),
        ("the last", (1_500..2_000).map(|at| known(&at)).collect(), true),
        ("any", order.iter().take(500).map(known).collect(), true),
        ("absent at the end", (1_800..2_000).map(|at| absent(&at)).collect(), false),
        ("absent anywhere", order.iter().take(200).map(absent).collect(), false),
    ];
    // The times are not the matter: a machine under load must not outlive them.
    let options = ["--metadata-ttl", "60s", "--negative-ttl", "60s"];
    for n_programs in [1, 8] {
        for (case, names, there) in &cases {
            let (simulator, mounted) = mounted(2_000, &options);
            let paths: Vec<PathBuf> = names.iter().map(|name| mounted.join(name)).collect();
            std::thread::scope(|scope| {
                for paths in paths.chunks(paths.len().div_ceil(n_programs)) {
                    scope.spawn(move || {
                        for path in paths {
                            assert_eq!(exists(path), *there, "{}", path.display());
                        }
                    });
                }
            });
            let counts = simulator.counts();
            assert!(counts.requests() <= 4, "{case}, {n_programs} at once: {counts:?}");
        }
    }
}

/// A huge directory is not listed because names in it are looked up: three names bring at most three
/// pages of it, a hundred names anywhere at most 25, and 3,000 names in order one for 1,000.
#[test]
fn a_huge_directory_is_not_listed_for_a_few_names() {
    let (simulator, mounted) = mounted(100_000, &["--metadata-ttl", "60s"]);
    let order = shuffled(100_000);
    for (n_names, n_pages_max) in [(3, 3), (100, 25)] {
        for at in &order[..n_names] {
            assert!(exists(&mounted.join(format!("d/{at:06}"))));
        }
        let log = simulator.log();
        let n_pages = log.iter().filter(|entry| entry.call.subject() == "d/").count();
        assert!(n_pages <= n_pages_max, "{n_pages} pages for {n_names} names");
        assert!(log.len() <= n_names * 5 / 4 + 3, "{} requests for {n_names} names", log.len());
    }
    simulator.reset_log();
    for at in 50_000..53_000 {
        assert!(exists(&mounted.join(format!("d/{at:06}"))));
    }
    assert!(simulator.counts().requests() <= 8, "{:?}", simulator.counts());
}

/// A program that looks once a second for a name that is not there yet finds it at the first look that
/// comes a second after the object, and costs one request for each look, whatever else is in the
/// directory, and also where there is no directory yet.
#[test]
fn a_name_that_is_waited_for_comes_in_time_at_one_request_a_look() {
    let wait = |n_objects: u64, is_listed: bool| {
        let (simulator, mounted) = mounted(n_objects, &[]);
        if is_listed {
            names(&mounted.join("d"));
        }
        let path = mounted.join("d/_SUCCESS");
        // What it takes to know the directory, if it was never listed.
        for _ in 0..3 {
            assert!(!exists(&path));
            sleep(SECOND);
        }
        simulator.reset_log();
        for _ in 0..9 {
            assert!(!exists(&path));
            sleep(SECOND);
        }
        let counts = simulator.counts();
        let case = format!("{n_objects} objects, listed: {is_listed}");
        assert!(counts.requests() <= 9 + 1, "{case}: {counts:?}");
        assert!(!exists(&path));
        simulator.put("myfiles", "d/_SUCCESS", "");
        sleep(SECOND);
        assert!(exists(&path), "{case}");
    };
    std::thread::scope(|scope| {
        for n_objects in [0, 1, 900, 5_000] {
            scope.spawn(move || wait(n_objects, false));
            if n_objects > 0 {
                scope.spawn(move || wait(n_objects, true));
            }
        }
    });
}

/// `ls` once a second of a directory of up to 1,000 names costs one LIST every two seconds, however
/// deep it is, and shows a new object within two.
#[test]
fn a_directory_that_is_watched_costs_half_a_list_a_second() {
    let (simulator, mounted) = mounted(900, &[]);
    simulator.put_tree("myfiles", "d/a/b/", 900, 10);
    let directory = mounted.join("d/a/b");
    names(&directory);
    simulator.reset_log();
    let start = Instant::now();
    for _ in 0..8 {
        assert_eq!(names(&directory).len(), 900);
        sleep(SECOND);
    }
    let seconds = start.elapsed().as_secs();
    let counts = simulator.counts();
    assert_eq!(counts.requests(), counts.list);
    assert!(counts.list <= seconds / 2 + 1, "{counts:?} in {seconds} s");
    names(&directory);
    simulator.put("myfiles", "d/a/b/new", "x");
    sleep(2 * SECOND + TICKS);
    assert!(names(&directory).iter().any(|name| name == "new"));
}

/// Names that are not there cost nothing while the listing of their directory holds, and then one LIST
/// for all of them each `--negative-ttl` (1 s), and one for each 1,000 names around them in a larger one.
#[test]
fn a_storm_of_absent_names_costs_one_list_a_second() {
    for (n_objects, n_each) in [(900, 1), (2_500, 4)] {
        let storm = |mounted: &Mounted| {
            for at in 0..5_000 {
                assert!(!exists(&mounted.join(format!("d/{at:06}x"))));
            }
        };
        let (simulator, long) = mounted(n_objects, &["--negative-ttl", "60s"]);
        names(&long.join("d"));
        simulator.reset_log();
        storm(&long);
        assert_eq!(simulator.counts().requests(), 0, "of {n_objects}");
        drop(long);

        let mounted = Mounted::new(&simulator, "myfiles", &[]);
        names(&mounted.join("d"));
        simulator.reset_log();
        let start = Instant::now();
        for _ in 0..4 {
            storm(&mounted);
            sleep(SECOND);
        }
        let seconds = start.elapsed().as_secs() + 1;
        let counts = simulator.counts();
        assert!(counts.requests() <= seconds * n_each, "{counts:?} in {seconds} s");
    }
}

/// With `forever` nothing is asked for twice, and what is known stays; with 0 every look asks, and
/// costs one request for each name in its path.
#[test]
fn the_ends_of_the_scale() {
    let forever = ["--metadata-ttl", "forever", "--negative-ttl", "forever"];
    let (simulator, old) = mounted(2_500, &forever);
    let look = |mounted: &Mounted| {
        let list = names(&mounted.join("d")).len();
        (list, exists(&mounted.join("d/000007")), exists(&mounted.join("d/new")))
    };
    assert_eq!(look(&old), (2_500, true, false));
    simulator.put("myfiles", "d/new", "x");
    simulator.delete("myfiles", "d/000007");
    simulator.reset_log();
    sleep(3 * SECOND);
    assert_eq!(look(&old), (2_500, true, false));
    assert_eq!(simulator.counts().requests(), 0);
    drop(old);

    let never = ["--metadata-ttl", "0", "--negative-ttl", "0"];
    let current = Mounted::new(&simulator, "myfiles", &never);
    assert_eq!(look(&current), (2_500, false, true));
    for at in 0..20 {
        let (path, key) = (current.join(format!("d/x{at}")), format!("d/x{at}"));
        assert!(!exists(&path));
        simulator.put("myfiles", &key, "x");
        simulator.reset_log();
        assert!(exists(&path));
        assert!(simulator.counts().requests() <= 2, "{:?}", simulator.counts());
        simulator.delete("myfiles", &key);
        assert!(!exists(&path));
    }
}

/// An answer's time counts from when it was asked for, and the kernel is told what is left of it,
/// whether it hears of a name by a lookup, by a listing, or long after.
#[test]
fn the_kernel_believes_nothing_longer_than_its_time() {
    let options = ["--metadata-ttl", "3s", "--negative-ttl", "3s"];
    let (simulator, mounted) = mounted(5, &options);
    for by_listing in [true, false] {
        let file = mounted.join("d/000003");
        let size = || fs::metadata(&file).map(|found| found.len()).unwrap_or(0);
        let start = Instant::now();
        if by_listing {
            // Names with their attributes, which the kernel keeps.
            Command::new("ls").arg("-l").arg(mounted.join("d")).output().expect("ls");
        } else {
            size();
        }
        sleep(2 * SECOND);
        // The kernel hears of these a second before their time is over.
        let (before, absent) = (size(), !exists(&mounted.join("d/new")));
        assert!(before > 0 && absent);
        simulator.put("myfiles", "d/000003", vec![0; 1_000 + usize::from(by_listing)]);
        simulator.put("myfiles", "d/new", "x");
        sleep((3 * SECOND + TICKS).saturating_sub(start.elapsed()));
        assert_eq!(size(), 1_000 + u64::from(by_listing), "by listing: {by_listing}");
        assert!(exists(&mounted.join("d/new")), "by listing: {by_listing}");
        simulator.delete("myfiles", "d/new");
        sleep(3 * SECOND + TICKS);
    }
}

/// A file that has vanished is ENOENT when it is opened, whatever the times are, and its name is gone
/// also for those who go on reading the directory.
#[test]
fn a_vanished_file_is_gone_at_once() {
    let (simulator, mounted) = mounted(300, &["--metadata-ttl", "forever"]);
    let mut entries = fs::read_dir(mounted.join("d")).unwrap();
    entries.next();
    assert!(exists(&mounted.join("d/000200")));
    simulator.delete("myfiles", "d/000200");
    let gone = fs::File::open(mounted.join("d/000200"));
    assert_eq!(gone.err().map(|err| err.kind()), Some(std::io::ErrorKind::NotFound));
    assert_eq!(entries.count(), 299);
    assert!(!exists(&mounted.join("d/000200")));
}

/// Throttling slows lookups down and makes no name appear or vanish.
#[test]
fn throttled_lookups_are_right() {
    let (simulator, mounted) = mounted(5_000, &[]);
    simulator.shape(|shape| shape.errors = Share::OneIn(4));
    for at in shuffled(5_000).iter().take(300) {
        assert!(exists(&mounted.join(format!("d/{at:06}"))));
        assert!(!exists(&mounted.join(format!("d/{at:06}x"))));
    }
    assert!(simulator.counts().faults > 0);
}
