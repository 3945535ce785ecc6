//! What a walk through a tree costs: counted in requests.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::support::mounted::{Mounted, sleep};
use crate::support::simulator::Simulator;

/// `n_top` directories, ten in each, and so many objects in each of those.
fn bushes(n_top: usize, n_objects: usize) -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").start();
    for top in 0..n_top {
        for sub in 0..10 {
            simulator.put_tree("myfiles", &format!("d{top:02}/s{sub}/"), n_objects as u64, 10);
        }
    }
    simulator
}

/// What `script` prints in the mount, line by line.
fn run(mounted: &Mounted, script: &str) -> Vec<String> {
    let output = Command::new("sh").args(["-ec", script]).current_dir(mounted.path()).output();
    let output = output.expect("sh");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
}

/// A program that walks through a tree costs about as many requests as the tree has pages of 1,000
/// keys, in whatever order it goes.
#[test]
fn a_walk_costs_about_the_pages_of_the_tree() {
    let simulator = bushes(40, 16);
    // Where an answer takes no time at all, it is chance whether the walker or what runs ahead of it asks first.
    simulator.shape(|shape| shape.latency_list = Duration::from_millis(20));
    // 6,400 objects are 7 pages. GNU programs, by depth; and one that goes by breadth.
    for (script, lines) in [
        ("find . -type f", 6_400),
        ("ls -R | grep -c '^./d.*/s.*:$'", 1),
        ("du -a . | grep -v '/s.$' | grep /s", 6_400),
        ("rm -rf \"$TMPDIR/copy\"; rsync -rnv . \"$TMPDIR/copy\" | grep '/s./.'", 6_400),
    ] {
        let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "60s"]);
        let folder = tempfile::tempdir().expect("a folder");
        let script = format!("TMPDIR={}; {script}", folder.path().display());
        simulator.reset_log();
        let all = run(&mounted, &script);
        assert_eq!(all.len(), lines, "{script}");
        let counts = simulator.counts();
        assert!(counts.list <= 16 && counts.requests() == counts.list, "{script}: {counts:?}");
        simulator.reset_log();
        assert_eq!(run(&mounted, &script), all);
        assert_eq!(simulator.counts().requests(), 0, "{script}, again");
    }
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "60s"]);
    simulator.reset_log();
    let mut waiting = vec![mounted.path().to_owned()];
    let mut n_files = 0;
    while !waiting.is_empty() {
        let entries = waiting.iter().flat_map(|dir| fs::read_dir(dir).expect("a directory"));
        let entries: Vec<_> = entries.map(|entry| entry.expect("an entry")).collect();
        let is_directory = |entry: &&fs::DirEntry| entry.file_type().expect("a type").is_dir();
        waiting = entries.iter().filter(is_directory).map(fs::DirEntry::path).collect();
        n_files += entries.len() - waiting.len();
    }
    assert_eq!(n_files, 6_400);
    assert!(simulator.counts().requests() <= 16, "by breadth: {:?}", simulator.counts());
}

/// A tree of more names than there is memory for is listed about once by a program that opens the
/// subdirectories of one in the order of their inode numbers.
#[test]
fn a_walk_in_the_order_of_inode_numbers_is_one_in_the_order_of_names() {
    // From 10,000 entries on, du goes by inode numbers.
    const DIRECTORIES: u64 = 10_500;
    const FILES: u64 = 30;
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_forest("myfiles", "tree/", DIRECTORIES, FILES, 10);
    let mounted =
        Mounted::new(&simulator, "myfiles", &["--memory", "32MiB", "--metadata-ttl", "10m"]);
    simulator.reset_log();
    let n_inodes = (FILES + 1) * DIRECTORIES + 1;
    assert_eq!(run(&mounted, "du -s --inodes tree"), [format!("{n_inodes}\ttree")]);
    let counts = simulator.counts();
    let n_pages = DIRECTORIES * FILES / 1000;
    assert!(counts.list <= n_pages * 5 / 4 && counts.requests() == counts.list, "{counts:?}");
}

/// What a walk leaves out is not listed for it, and when it stops, so do the requests.
#[test]
fn a_walk_does_not_pay_for_what_it_leaves_out() {
    let simulator = bushes(20, 10);
    for part in 0..50 {
        simulator.put_tree("myfiles", &format!("d07/large/{part}/"), 1_000, 10);
    }
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    simulator.reset_log();
    let found = run(&mounted, "find . -name large -prune -o -type f -print");
    assert_eq!(found.len(), 2_000);
    sleep(Duration::from_secs(1));
    let counts = simulator.counts();
    assert!(counts.requests() <= 24, "3 pages beside 50: {counts:?}");
}

/// A path of several unknown directories is found by one listing where little lies below it.
#[test]
fn a_deep_path_is_found_at_once() {
    let simulator = bushes(3, 3);
    simulator.put("myfiles", "deep/a/b/c/d/e/leaf.txt", "content");
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "60s"]);
    simulator.reset_log();
    assert_eq!(run(&mounted, "cat deep/a/b/c/d/e/leaf.txt"), ["content"]);
    let counts = simulator.counts();
    assert_eq!((counts.list, counts.head, counts.get), (1, 1, 1));
    assert_eq!(run(&mounted, "find deep/a -type f"), ["deep/a/b/c/d/e/leaf.txt"]);
    assert_eq!(simulator.counts().requests(), 3, "what was told on the way is known");
}
