//! Many small files: what comes ahead of who opens them one after the other, counted in requests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::mounted::{Mounted, sleep};
use crate::support::simulator::Simulator;

const SIZE: u64 = 64 << 10;

/// 20 ms to the first byte, so that what comes ahead is seen to come side by side.
fn far() -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.shape(|shaping| shaping.latency_get = Duration::from_millis(20));
    simulator
}

fn run(mounted: &Mounted, script: &str) -> Vec<u8> {
    let output = Command::new("sh").args(["-ec", script]).current_dir(mounted.path()).output();
    let output = output.expect("sh");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The files of `dir`, as readdir gives them.
fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
}

fn read_all(files: &[PathBuf]) {
    for file in files {
        assert_eq!(fs::read(file).expect("a file").len() as u64, SIZE, "{file:?}");
    }
}

/// Small files that are opened one after the other, as the directory shows them, come ahead of their
/// reader, several at once, by one GET for each.
#[test]
fn files_that_are_read_in_order_come_ahead_of_their_reader() {
    let simulator = far();
    simulator.put_tree("myfiles", "d/", 300, SIZE);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    simulator.reset_log();
    let expected: Vec<u8> = (0..300)
        .flat_map(|number| simulator.object_bytes("myfiles", &format!("d/{number:06}")))
        .collect();
    assert!(run(&mounted, "cat d/*") == expected);
    let counts = simulator.counts_unhedged();
    assert_eq!((counts.get, counts.bytes_requested), (300, 300 * SIZE), "{counts:?}");
    assert!(counts.concurrent_max >= 5, "{counts:?}");
}

/// Programs that walk through a tree find its small files ahead of them: also where they go by inode
/// number.
#[test]
fn the_files_of_a_tree_come_ahead_of_who_walks_through_it() {
    let simulator = far();
    for dir in 0..30 {
        simulator.put_tree("myfiles", &format!("t/d{dir:02}/"), 10, SIZE);
        simulator.put_tree("myfiles", &format!("t/d{dir:02}/sub/"), 3, SIZE);
    }
    for script in ["grep -r zzzz t || true", "tar cf - t | wc -c", "cp -r t \"$OUT\""] {
        let mounted = Mounted::new(&simulator, "myfiles", &[]);
        let folder = tempfile::tempdir().expect("a folder");
        simulator.reset_log();
        run(&mounted, &format!("OUT={}/t; {script}", folder.path().display()));
        let counts = simulator.counts_unhedged();
        assert_eq!((counts.get, counts.bytes_requested), (390, 390 * SIZE), "{script}: {counts:?}");
        assert!(counts.concurrent_max >= 5, "{script}: {counts:?}");
    }
}

/// What came ahead for nothing, when a reader stops, is no more than a fifth of what he has read.
#[test]
fn a_reader_who_stops_has_cost_a_fifth_more_at_most() {
    let simulator = far();
    simulator.put_tree("myfiles", "d/", 300, SIZE);
    for n_read in [4, 30, 100] {
        let mounted = Mounted::new(&simulator, "myfiles", &[]);
        simulator.reset_log();
        read_all(&files(&mounted.join("d"))[..n_read]);
        sleep(Duration::from_millis(300));
        let (n_get, n_read) = (simulator.counts_unhedged().get, n_read as u64);
        assert!((n_read..=n_read + n_read / 5).contains(&n_get), "{n_get} of {n_read}");
    }
}

/// Files that are opened in no order cost one GET each, and nothing more.
#[test]
fn files_that_are_read_in_no_order_cost_one_get_each() {
    let simulator = far();
    simulator.put_tree("myfiles", "d/", 1000, SIZE);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let mut files = files(&mounted.join("d"));
    // Neighbors are far from each other, by name and by number.
    files.sort_by_key(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        name.chars().rev().collect::<String>()
    });
    simulator.reset_log();
    read_all(&files[..200]);
    sleep(Duration::from_millis(300));
    let counts = simulator.counts_unhedged();
    assert_eq!((counts.get, counts.bytes_requested), (200, 200 * SIZE), "{counts:?}");
}

/// A file that was replaced or deleted after it came ahead is seen so when it is opened.
#[test]
fn what_came_ahead_is_not_shown_when_it_has_changed() {
    let simulator = far();
    simulator.put_tree("myfiles", "d/", 100, SIZE);
    let options = ["--open-ttl", "100ms"];
    let mounted = Mounted::new(&simulator, "myfiles", &options);
    let files = files(&mounted.join("d"));
    read_all(&files[..60]);
    // Longer than it is believed.
    sleep(Duration::from_millis(300));
    simulator.put("myfiles", "d/000060", "new");
    simulator.delete("myfiles", "d/000061");
    assert_eq!(fs::read(&files[60]).expect("a file"), b"new");
    assert_eq!(fs::read(&files[61]).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    read_all(&files[62..]);
}
