//! What a directory costs: counted in requests.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::support::mounted::Mounted;
use crate::support::simulator::Simulator;
use crate::support::simulator::policy::Action;

fn ls(arguments: &[&str], path: &std::path::Path) -> String {
    let output = Command::new("ls").args(arguments).arg(path).output().expect("ls");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// `ls -l` of 2,000 objects costs two LIST and no HEAD, and nothing when it is repeated within the
/// time to live.
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

/// The listing that proves the bucket before mounting is the root's first page.
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

/// Each entry comes once, whatever its name sorts between, and also across pages.
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

/// A prefix is mounted as a root of its own, and nothing outside it is asked for.
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

/// Without the right to list, a known path is still read; the directory itself is EACCES.
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

/// A file that may not be read is EACCES, and the rest works.
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

/// A name that appears in the bucket is found after the negative time to live at the latest.
#[test]
fn a_new_name_appears() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "a", "x");
    let mounted = Mounted::new(&simulator, "myfiles", &["--negative-ttl", "0"]);
    assert!(!mounted.join("new").exists());
    simulator.put("myfiles", "new", "x");
    assert!(mounted.join("new").exists());
}
