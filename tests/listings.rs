//! What a directory costs: counted in requests.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::support::mounted::{Mounted, sleep};
use crate::support::simulator::Simulator;
use crate::support::simulator::policy::Action;

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

/// A listing of several pages is used for 2 s for each page, without a request.
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
