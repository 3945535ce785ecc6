//! Large directories under a small budget: the process's own memory, and that names stay right.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::mounted::{Mounted, command, sleep, wait_until};
use crate::support::simulator::Simulator;

const MIB: u64 = 1 << 20;

/// `--memory` of 32 MiB, of which half is for names, and what the process has beside it: 20 MiB from the
/// start. With all names and inodes it would be 59 MiB.
const BOUND: u64 = 48 * MIB;

/// A process that stands in a directory.
struct Standing(Child);

impl Standing {
    fn new(directory: &Path) -> Self {
        let mut command = Command::new("sleep");
        let command = command.arg("600").current_dir(directory).stdin(Stdio::null());
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sleep"))
    }

    fn directory(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/cwd", self.0.id())).expect("alive")
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An open directory, as C has it.
struct Reader(*mut libc::DIR);

impl Reader {
    fn new(directory: &Path) -> Self {
        let path = CString::new(directory.as_os_str().as_bytes()).expect("no NUL");
        // SAFETY: the path ends in NUL.
        let opened = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!opened.is_null());
        Self(opened)
    }

    /// The next name but `.` and `..`, and the position behind it.
    fn next(&mut self) -> Option<(String, i64)> {
        loop {
            // SAFETY: opened, and used by one thread.
            let entry = unsafe { libc::readdir(self.0) };
            if entry.is_null() {
                return None;
            }
            // SAFETY: an entry is good until the next call, and its name ends in NUL.
            let name = unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) };
            let name = name.to_str().expect("UTF-8").to_owned();
            if !matches!(&*name, "." | "..") {
                // SAFETY: opened.
                return Some((name, unsafe { libc::telldir(self.0) }));
            }
        }
    }

    fn seek(&mut self, position: i64) {
        // SAFETY: opened, and the position is one that telldir gave.
        unsafe { libc::seekdir(self.0, position) };
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // SAFETY: opened, and not used again.
        unsafe { libc::closedir(self.0) };
    }
}

/// A tree of more names and inodes than there is memory for is walked to its end, with each name once;
/// whoever stands in a directory of it keeps that, and an open file stays open.
#[test]
fn a_large_tree_is_walked_within_the_budget() {
    const DIRECTORIES: u64 = 1500;
    const FILES: u64 = 300;
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_forest("myfiles", "", DIRECTORIES, FILES, 1000);
    simulator.put("myfiles", "open/file", "text");
    let mounted =
        Mounted::new(&simulator, "myfiles", &["--memory", "32MiB", "--metadata-ttl", "10m"]);
    let first = mounted.join("d00000");
    let standing = Standing::new(&first);
    let mut open = File::open(mounted.join("open/file")).unwrap();
    mounted.reset_peak_resident();
    let mut n_directories = 0;
    for directory in fs::read_dir(mounted.path()).unwrap() {
        let directory = directory.unwrap().path();
        if directory.ends_with("open") {
            continue;
        }
        n_directories += 1;
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().len(), 1000);
            assert!(names.insert(entry.file_name()), "{entry:?} came twice");
        }
        assert_eq!(names.len() as u64, FILES, "{directory:?}");
    }
    assert_eq!(n_directories, DIRECTORIES);
    let peak = mounted.peak_resident_bytes();
    assert!(peak < BOUND, "{} MiB", peak / MIB);
    assert_eq!(standing.directory(), first);
    assert_eq!(fs::read_dir(&first).unwrap().count() as u64, FILES);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
}

/// One directory of more names than there is memory for is read to its end; a reader who comes back to
/// a page that was dropped finds each name that stayed once, whatever came and went meanwhile.
#[test]
fn one_large_directory_is_read_within_the_budget_and_read_again() {
    const FILES: u64 = 400_000;
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_tree("myfiles", "d/", FILES, 1000);
    let mounted =
        Mounted::new(&simulator, "myfiles", &["--memory", "32MiB", "--metadata-ttl", "10m"]);
    mounted.reset_peak_resident();
    // The kernel keeps a directory for one handle at a time, and would answer this one from that.
    let mut other = Reader::new(&mounted.join("d"));
    assert!(other.next().is_some());
    let mut reader = Reader::new(&mounted.join("d"));
    let (mut names, mut positions) = (Vec::new(), Vec::new());
    while let Some((name, position)) = reader.next() {
        names.push(name);
        positions.push(position);
    }
    let peak = mounted.peak_resident_bytes();
    assert!(peak < BOUND, "{} MiB", peak / MIB);
    let expected: Vec<String> = (0..FILES).map(|number| format!("{number:06}")).collect();
    assert!(names == expected, "{} of {FILES} names", names.len());

    simulator.reset_log();
    for number in (0..10_000).step_by(7) {
        simulator.delete("myfiles", &format!("d/{number:06}"));
        simulator.put("myfiles", &format!("d/{:06}-new", number + 1), "new");
    }
    // What came or went may be seen or not; whatever else there was is seen once.
    let stayed = |name: &&String| match name.parse::<usize>() {
        Ok(number) => number >= 10_000 || !number.is_multiple_of(7),
        Err(_) => false,
    };
    for at in [0, 998, 999, 1000, 1001, 5000] {
        reader.seek(positions[at]);
        let read: Vec<String> =
            std::iter::from_fn(|| reader.next()).map(|it| it.0).take(3000).collect();
        let read: Vec<&String> = read.iter().filter(stayed).collect();
        let expected = expected[at + 1..].iter().filter(stayed).take(read.len());
        assert!(read.len() > 2000 && read == expected.collect::<Vec<_>>(), "from {at}");
    }
    assert!(simulator.counts().list > 0, "the pages had been dropped");
    assert!(simulator.counts().list < 30, "and were listed again one by one");
}

/// Memory that a stream needed goes back to the system when nothing is read for ten seconds; a mount that
/// nobody uses wakes up for nothing.
#[test]
fn an_idle_mount_holds_and_does_little() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "stream", 256 * MIB);
    // Whoever mounts knocks at the sockets of all mounts, to find those that are dead.
    let sockets = tempfile::tempdir().unwrap();
    let mut program = command(&simulator);
    program.env("XDG_RUNTIME_DIR", sockets.path());
    let mounted = Mounted::start(program, "myfiles", &["--memory", "256MiB"]);
    let before = mounted.resident_bytes();
    let mut read = File::open(mounted.join("stream")).unwrap();
    let n_bytes = std::io::copy(&mut read, &mut std::io::sink()).unwrap();
    assert_eq!(n_bytes, 256 * MIB);
    drop(read);
    let after = mounted.resident_bytes();
    assert!(after > before + 16 * MIB, "{} to {} MiB", before / MIB, after / MIB);
    let is_back = wait_until(|| mounted.resident_bytes() < before.midpoint(after));
    assert!(is_back, "{} MiB of {}", mounted.resident_bytes() / MIB, after / MIB);

    // Connections are closed some time later.
    let is_quiet = wait_until(|| {
        let n_wakeups = mounted.n_wakeups();
        sleep(Duration::from_secs(3));
        mounted.n_wakeups() - n_wakeups <= 1
    });
    assert!(is_quiet, "it wakes up again and again");
}
