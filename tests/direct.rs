//! Reads beside the page cache: with `--direct-io`, and by programs that open with O_DIRECT.

#![expect(clippy::unwrap_used, reason = "helpers fail a test as tests do")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use xxhash_rust::xxh3::xxh3_64;

use crate::support::mounted::{Mounted, send_signal, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;

const MIB: u64 = 1 << 20;

/// With every time for ever nothing but an open with O_DIRECT has a reason to ask.
const FOREVER: [&str; 6] =
    ["--metadata-ttl", "forever", "--negative-ttl", "forever", "--open-ttl", "forever"];

fn open_direct(path: &Path) -> File {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap()
}

/// With `--direct-io` the kernel keeps no bytes of files: what fits into `--memory` is read again without a
/// request, and what does not is asked for again.
#[test]
fn the_kernel_keeps_nothing() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "fits", 8 * MIB);
    simulator.put_synthetic("myfiles", "large", 96 * MIB);
    let options = [&FOREVER[..], &["--memory", "64MiB"]].concat();
    for direct in [true, false] {
        let mode: &[&str] = if direct { &["--direct-io"] } else { &[] };
        let mounted = Mounted::new(&simulator, "myfiles", &[&options[..], mode].concat());
        let asked = |name: &str| {
            simulator.reset_log();
            let read = fs::read(mounted.join(name)).unwrap();
            assert!(read == simulator.object_bytes("myfiles", name), "{name}");
            simulator.counts().bytes_requested
        };
        assert_eq!((asked("fits"), asked("fits")), (8 * MIB, 0));
        assert_eq!(asked("large"), 96 * MIB, "each byte once");
        let again = asked("large");
        assert_eq!(again == 0, !direct, "{again} bytes: the kernel has its pages, or has none");
        assert!(!direct || (MIB..=96 * MIB).contains(&again), "{again}");
    }
}

/// An open with O_DIRECT asks whether the file is still the object, whatever `--open-ttl` says: by one
/// request that transfers nothing when it is.
#[test]
fn an_open_with_o_direct_asks() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "f", 20 * MIB);
    let mounted = Mounted::new(&simulator, "myfiles", &FOREVER);
    let path = mounted.join("f");
    fs::read(&path).unwrap();
    simulator.reset_log();
    fs::read(&path).unwrap();
    assert_eq!(simulator.counts().requests(), 0, "others are told what is known");
    drop(open_direct(&path));
    let counts = simulator.counts();
    assert_eq!((counts.requests(), counts.get, counts.bytes_requested), (1, 1, 0), "{counts:?}");

    simulator.put_synthetic("myfiles", "f", 3 * MIB + 17);
    assert_eq!(fs::metadata(&path).unwrap().len(), 20 * MIB);
    let file = open_direct(&path);
    assert_eq!(file.metadata().unwrap().len(), 3 * MIB + 17);
    let mut read = vec![0; 4 << 20];
    let len = file.read_at(&mut read, 0).unwrap();
    assert!(read[..len] == simulator.object_bytes("myfiles", "f"), "{len}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 3 * MIB + 17, "and all know it");

    simulator.delete("myfiles", "f");
    let gone = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
    assert_eq!(gone.unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

/// Reads with O_DIRECT or `--direct-io` are right at any offset, of any length, at and beyond the end, and
/// beside buffered readers of the same file.
#[test]
fn direct_reads_of_any_shape_give_the_objects_bytes() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let size = 12 * MIB + 345;
    simulator.put_synthetic("myfiles", "f", size);
    simulator.put("myfiles", "empty", "");
    let whole = simulator.object_bytes("myfiles", "f");
    for mode in [&[][..], &["--direct-io"]] {
        let mounted = Mounted::new(&simulator, "myfiles", mode);
        let (direct, plain) =
            (open_direct(&mounted.join("f")), File::open(mounted.join("f")).unwrap());
        std::thread::scope(|scope| {
            for reader in 0..4_u64 {
                let (direct, plain, whole) = (&direct, &plain, &whole);
                scope.spawn(move || {
                    for n in 0..60_u64 {
                        let dice = xxh3_64(&(reader * 1000 + n).to_le_bytes());
                        let file = if dice & 1 == 0 { direct } else { plain };
                        // To beyond the end, of 1 byte to 4 MiB.
                        let offset = (dice >> 8) % (size + 5000);
                        let len = 1 + (dice >> 40) % (1 << (dice % 23));
                        let mut read = vec![0; usize::try_from(len).unwrap()];
                        let got = file.read_at(&mut read, offset).unwrap();
                        let end = (offset + len).min(size);
                        let at = |place: u64| usize::try_from(place).unwrap();
                        assert!(
                            read[..got] == whole[at(offset.min(end))..at(end)],
                            "{offset}+{len}: {got}"
                        );
                    }
                });
            }
        });
        assert_eq!(open_direct(&mounted.join("empty")).read_at(&mut [0; 9], 0).unwrap(), 0);
    }
}

/// A stream that is read with O_DIRECT is asked for ahead as any other, whatever its block size: each byte
/// once, in large ranges.
#[test]
fn a_direct_stream_is_a_stream() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    for mode in [&[][..], &["--direct-io"]] {
        for block in ["4k", "1M", "16M"] {
            let key = format!("f{block}");
            simulator.put_synthetic("myfiles", &key, 64 * MIB + 5);
            let mounted = Mounted::new(&simulator, "myfiles", mode);
            simulator.reset_log();
            let read = format!(
                "dd if={} bs={block} iflag=direct status=none | sha256sum",
                mounted.join(&key).display()
            );
            let output = Command::new("sh").args(["-c", &read]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let hash = simulator.sha256("myfiles", &key);
            assert_eq!(text.split(' ').next(), Some(hash.as_str()), "{block}");
            let counts = simulator.counts_unhedged();
            assert_eq!(counts.bytes_requested, 64 * MIB + 5, "{block} {mode:?}");
            assert!(counts.get <= 96, "{block} {mode:?}: {counts:?}");
        }
    }
}

/// With `--direct-io` files are mapped and programs are run as without it.
#[test]
fn files_are_mapped_also_without_a_page_cache() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "f", 5 * MIB + 7);
    simulator.put("myfiles", "run", fs::read("/bin/true").unwrap());
    let options = ["--direct-io", "--file-mode", "0555"];
    let mounted = Mounted::new(&simulator, "myfiles", &options);
    let run = mounted.join("run");
    assert_eq!(fs::metadata(&run).unwrap().permissions().mode() & 0o777, 0o555);
    assert!(Command::new(&run).status().unwrap().success());
    let hash = simulator.sha256("myfiles", "f");
    let has_shared = !mounted.log().contains("no shared mappings");
    for flags in ["MAP_PRIVATE", "MAP_SHARED"] {
        let script = format!(
            "import hashlib, mmap, sys
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, flags=mmap.{flags}, prot=mmap.PROT_READ)
print(hashlib.sha256(m).hexdigest())"
        );
        let output =
            Command::new("python3").args(["-c", &script]).arg(mounted.join("f")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if has_shared || flags == "MAP_PRIVATE" {
            assert_eq!(text.trim(), hash, "{flags}");
        }
    }
}

/// A program that waits in a direct read of a silent server can be killed without waiting for the
/// deadline.
#[test]
fn a_killed_direct_reader_is_gone_before_the_answer() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "f", 64 * MIB);
    for mode in [&[][..], &["--direct-io"]] {
        let mounted = Mounted::new(&simulator, "myfiles", mode);
        let file = open_direct(&mounted.join("f"));
        let held = simulator.hold(Kind::Get, "f");
        simulator.reset_log();
        let mut child = Command::new("dd")
            .args(["bs=1M", "skip=30", "count=1"])
            .stdin(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let n_asked = || simulator.log().iter().filter(|entry| entry.call.key == "f").count();
        assert!(wait_until(|| n_asked() > 0), "it waits");
        send_signal(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        assert_eq!(n_asked(), 1, "the request was tried again before");
        drop(held);
    }
}
