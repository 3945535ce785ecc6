//! What a directory costs: counted in requests.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::mounted::{Mounted, sleep};
use crate::support::simulator::Simulator;
use crate::support::simulator::policy::Action;
use crate::support::simulator::quirks::Quirk;
use crate::support::simulator::shaping::Share;

fn ls(arguments: &[&str], path: &std::path::Path) -> String {
    let output = Command::new("ls").args(arguments).arg(path).output().expect("ls");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// `ls -l` of 2,000 objects costs two LIST requests and no other, and nothing when it is repeated
/// while the listing holds.
#[test]
fn a_long_listing_costs_its_pages_and_then_nothing() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_tree("myfiles", "files/", 2000, 1000);
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "60s"]);
    simulator.reset_log();
    assert_eq!(ls(&["-l"], &mounted.join("files")).lines().count(), 2001);
    let counts = simulator.counts();
    assert_eq!((counts.list, counts.head, counts.get), (2, 0, 0));
    simulator.reset_log();
    assert_eq!(ls(&["-l"], &mounted.join("files")).lines().count(), 2001);
    assert_eq!(simulator.counts().requests(), 0);
}

/// The LIST that proves the bucket before mounting is the first page of the root, and is not sent
/// again while it holds.
#[test]
fn the_root_is_known_from_the_start() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "a", "x");
    simulator.put("myfiles", "b/c", "x");
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "60s"]);
    ls(&["-l"], &mounted.path());
    let counts = simulator.counts();
    assert_eq!((counts.list, counts.head, counts.get), (1, 0, 0));
}

/// A listing has each entry once, whatever names lie around it and wherever its pages end.
#[test]
fn every_entry_comes_once() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let mut expected = BTreeSet::new();
    for index in 0..1500 {
        for name in [format!("n{index}"), format!("n{index}-x"), format!("n{index}.txt")] {
            simulator.put("myfiles", &format!("d/{name}"), "x");
            expected.insert(name);
        }
        simulator.put("myfiles", &format!("d/n{index}/inside"), "x");
    }
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let listed = ls(&["-f"], &mounted.join("d"));
    let names: Vec<_> = listed.lines().filter(|name| !matches!(*name, "." | "..")).collect();
    assert_eq!(names.len(), expected.len(), "none twice");
    assert_eq!(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), expected);
}

/// A mounted prefix is a root of its own: nothing outside it is asked for or can be reached.
#[test]
fn a_prefix_is_a_root() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "some/prefix/inside.txt", "in");
    simulator.put("myfiles", "some/other.txt", "out");
    simulator.deny_outside("myfiles", Action::ListBucket, "some/prefix/");
    simulator.deny_outside("myfiles", Action::GetObject, "some/prefix/");
    for bucket in ["myfiles/some/prefix", "s3://myfiles/some/prefix/"] {
        simulator.reset_log();
        let mounted = Mounted::new(&simulator, bucket, &[]);
        assert_eq!(fs::read_to_string(mounted.join("inside.txt")).unwrap(), "in");
        assert!(fs::metadata(mounted.join("../prefix/x")).is_err());
        assert!(!mounted.join("other.txt").exists());
        let outside = |subject: &str| !subject.starts_with("some/prefix/");
        let log = simulator.log();
        assert!(!log.iter().any(|entry| outside(entry.call.subject())), "{bucket}");
    }
}

/// Where listing is denied (s3:ListBucket), a file whose path is known is still read, and reading
/// the directory fails with EACCES.
#[test]
fn a_known_path_opens_without_the_right_to_list() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "open/x", "1");
    simulator.put("myfiles", "closed/known.txt", "content");
    simulator.deny("myfiles", Action::ListBucket, "closed/");
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    assert_eq!(fs::read_to_string(mounted.join("closed/known.txt")).unwrap(), "content");
    let listed = fs::read_dir(mounted.join("closed"));
    assert_eq!(listed.err().and_then(|err| err.raw_os_error()), Some(libc::EACCES));
}

/// A file whose reading is denied (s3:GetObject) fails with EACCES, the log names the permission
/// that is missing, and all other files are readable.
#[test]
fn a_denied_file_does_not_hurt_the_others() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "secret/x", "1");
    simulator.put("myfiles", "public", "2");
    simulator.deny("myfiles", Action::GetObject, "secret/");
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let denied = fs::read(mounted.join("secret/x"));
    assert_eq!(denied.err().and_then(|err| err.raw_os_error()), Some(libc::EACCES));
    assert_eq!(fs::read_to_string(mounted.join("public")).unwrap(), "2");
    assert!(mounted.log().contains("s3:GetObject"), "{}", mounted.log());
}

/// A name that was looked for in vain is found, once it is in the bucket, at the latest
/// `--negative-ttl` (1 s) later.
#[test]
fn a_new_name_appears() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "a", "x");
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    assert!(!mounted.join("new").exists());
    simulator.put("myfiles", "new", "x");
    sleep(Duration::from_secs(1));
    assert!(mounted.join("new").exists());
    let mounted = Mounted::new(&simulator, "myfiles", &["--negative-ttl", "0"]);
    assert!(!mounted.join("newer").exists());
    simulator.put("myfiles", "newer", "x");
    assert!(mounted.join("newer").exists(), "0 is at once");
}

/// What `ls` and `stat` show of a directory of up to 1,000 names was so in the bucket 2 s ago or
/// later, and with `--metadata-ttl` TIME that long ago or later.
#[test]
fn a_listing_is_current_after_its_time() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    for (options, seconds) in [(&[][..], 2), (&["--metadata-ttl", "1s"][..], 1)] {
        simulator.put("myfiles", "d/a", "x");
        simulator.delete("myfiles", "d/b");
        let mounted = Mounted::new(&simulator, "myfiles", options);
        assert_eq!(ls(&[], &mounted.join("d")), "a\n");
        assert_eq!(fs::metadata(mounted.join("d/a")).unwrap().len(), 1);
        simulator.put("myfiles", "d/a", "longer");
        simulator.put("myfiles", "d/b", "x");
        // The kernel counts in ticks and rounds up.
        sleep(Duration::from_secs(seconds) + Duration::from_millis(50));
        assert_eq!(fs::metadata(mounted.join("d/a")).unwrap().len(), 6);
        assert_eq!(ls(&[], &mounted.join("d")), "a\nb\n");
    }
}

/// A listing of several pages is used for 2 s for each page, without a request; what a walk through a
/// tree has told is one listing.
#[test]
fn a_listing_holds_for_what_it_cost() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_tree("myfiles", "files/", 2500, 10);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    assert_eq!(ls(&[], &mounted.join("files")).lines().count(), 2500);
    simulator.reset_log();
    sleep(Duration::from_secs(3));
    assert_eq!(ls(&[], &mounted.join("files")).lines().count(), 2500);
    let lists = simulator.log().iter().filter(|entry| entry.call.subject() == "files/").count();
    assert_eq!(lists, 0, "three pages hold for 6 s");
}

/// A program that is reading a directory gets each entry once, also when the bucket changes
/// meanwhile.
#[test]
fn a_reader_of_a_directory_keeps_its_place() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    for index in 0..3000 {
        simulator.put("myfiles", &format!("d/{index:04}"), "x");
    }
    let current = ["--metadata-ttl", "0", "--negative-ttl", "0"];
    let mounted = Mounted::new(&simulator, "myfiles", &current);
    let mut entries = fs::read_dir(mounted.join("d")).unwrap();
    let mut names: Vec<_> = entries.by_ref().take(10).collect();
    simulator.delete("myfiles", "d/0002");
    simulator.put("myfiles", "d/0000-new", "x");
    assert!(!mounted.join("d/0002").exists() && mounted.join("d/0000-new").exists());
    names.extend(entries);
    let names: Vec<_> = names.into_iter().map(|entry| entry.unwrap().file_name()).collect();
    let once: BTreeSet<_> = names.iter().collect();
    assert_eq!((names.len(), once.len()), (3000, 3000));
}

/// Keys whose names no directory can have (empty, `.`, `..`, more than 255 bytes) are left out, and
/// the other names beside them are shown.
#[test]
fn names_that_cannot_be_are_left_out() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let long = "n".repeat(256);
    for name in ["", "/x", "./x", "..", long.as_str(), "fine", "sub/x"] {
        simulator.put("myfiles", &format!("d/{name}"), "x");
    }
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    assert_eq!(ls(&["-A"], &mounted.join("d")), "fine\nsub\n");
}

/// What a directory shows, in its own order.
fn shown(path: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a directory");
    entries.map(|it| it.expect("an entry").file_name().into_string().expect("UTF-8")).collect()
}

/// Names as machines and people make them, those of directories with a `/`.
fn many_names(n_names: u64) -> Vec<(&'static str, Vec<String>)> {
    let hash = |n: u64| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes());
    let mixed = |n: u64| match n % 4 {
        0 => format!("n{n}"),
        1 => format!("n{}-x", n - 1),
        2 => format!("n{}.txt", n - 2),
        _ => format!("n{}/", n - 3),
    };
    vec![
        ("counters", (0..n_names).map(|n| format!("part-{n:07}.parquet")).collect()),
        ("hashes", (0..n_names).map(|n| format!("{:016x}", hash(n))).collect()),
        ("mixed", (0..n_names).map(mixed).collect()),
        ("directories", (0..n_names).map(|n| format!("id={n}/")).collect()),
    ]
}

fn put_names(simulator: &Simulator, prefix: &str, names: &[String]) -> BTreeSet<String> {
    for name in names {
        let inside = if name.ends_with('/') { "inside" } else { "" };
        simulator.put("myfiles", &format!("{prefix}{name}{inside}"), "x");
    }
    names.iter().map(|name| name.trim_end_matches('/').to_owned()).collect()
}

/// A directory of many pages is listed by up to 16 requests side by side: each name comes once and in
/// order, at the price of less than a third more requests than it has pages.
#[test]
fn a_large_directory_is_listed_side_by_side() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.shape(|shape| shape.latency_list = Duration::from_millis(30));
    for (kind, names) in many_names(25_000) {
        let expected = put_names(&simulator, &format!("{kind}/"), &names);
        let mounted = Mounted::new(&simulator, "myfiles", &[]);
        simulator.reset_log();
        let listed = shown(&mounted.join(kind));
        assert_eq!(listed.len(), expected.len(), "{kind}: each once");
        assert!(listed.is_sorted_by_key(|name| format!("{name}/")), "{kind}: in order");
        assert_eq!(BTreeSet::from_iter(listed), expected, "{kind}");
        let counts = simulator.counts();
        let n_pages = names.len() as u64 / 1000;
        assert!(counts.list <= n_pages * 4 / 3 + 1, "{kind}: {} of {n_pages}", counts.list);
        assert!((4..=16).contains(&counts.concurrent_max), "{kind}: {}", counts.concurrent_max);
        assert_eq!((counts.head, counts.get), (0, 0));
    }
}

/// Throttling in the middle of a long listing slows it down and takes nothing from it.
#[test]
fn a_throttled_listing_is_whole() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let (kind, names) = many_names(20_000).remove(1);
    let expected = put_names(&simulator, "d/", &names);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    simulator.shape(|shape| {
        shape.errors = Share::OneIn(8);
        shape.resets = Share::OneIn(12);
    });
    let listed = shown(&mounted.join("d"));
    assert_eq!((listed.len(), BTreeSet::from_iter(listed)), (expected.len(), expected), "{kind}");
    assert!(simulator.counts().faults > 0);
}

/// A long directory on a server that lists in another order than S3, or begins elsewhere than it was
/// told, shows each name once.
#[test]
fn a_large_directory_is_whole_on_any_server() {
    for quirk in [Quirk::TreeOrder, Quirk::NoOrder, Quirk::IgnoresStartAfter, Quirk::ListsV1] {
        let simulator = Simulator::builder().bucket("myfiles").start();
        simulator.set_quirk(quirk);
        let stored: Vec<_> = many_names(9_000)
            .into_iter()
            .map(|(kind, names)| (kind, put_names(&simulator, &format!("{kind}/"), &names)))
            .collect();
        let mounted = Mounted::new(&simulator, "myfiles", &[]);
        for (kind, expected) in stored {
            simulator.reset_log();
            let listed = shown(&mounted.join(kind));
            assert_eq!(listed.len(), expected.len(), "{quirk:?} {kind}: each once");
            assert_eq!(BTreeSet::from_iter(listed), expected, "{quirk:?} {kind}");
            let n_lists = simulator.counts().list;
            assert!(n_lists <= 25, "{quirk:?} {kind}: {n_lists} requests for 9 pages");
        }
    }
}

/// While others add and delete objects in a long directory, no name is shown twice, and none that they
/// leave alone is missing.
#[test]
fn a_directory_is_whole_while_others_write_in_it() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let (_, names) = many_names(9_000).remove(2);
    let stays = put_names(&simulator, "d/", &names);
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "0"]);
    let flips: Vec<String> = (0..1000).map(|n| format!("d/n{}~{n}", n * 9)).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for key in &flips {
                    simulator.put("myfiles", key, "x");
                }
                for key in &flips {
                    simulator.delete("myfiles", key);
                }
            }
        });
        for _ in 0..20 {
            let listed = shown(&mounted.join("d"));
            let unique: BTreeSet<_> = listed.iter().cloned().collect();
            assert_eq!(unique.len(), listed.len(), "no name twice");
            let missing: Vec<_> = stays.difference(&unique).take(3).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
        over.store(true, Ordering::Relaxed);
    });
}
