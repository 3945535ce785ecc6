//! Objects that are very large, empty, or not what they were; and servers that end every body early.

#![expect(clippy::unwrap_used, reason = "helpers fail a test as tests do")]

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::mounted::Mounted;
use crate::support::simulator::Simulator;
use crate::support::simulator::content::content;
use crate::support::simulator::quirks::Quirk;

const MIB: u64 = 1 << 20;

/// S3's own bound for an object.
const LARGEST: u64 = 5 << 40;

/// An object of 5 TB shows its size, and is read at any place: around 4 GiB, at random, by `tail -c`, from
/// its end, with O_DIRECT and through a mapping, for little more than the bytes that are read.
#[test]
fn an_object_of_5_tb_is_read_at_any_place() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "large", LARGEST);
    for mode in [&[][..], &["--direct-io"]] {
        let mounted = Mounted::new(&simulator, "myfiles", mode);
        let path = mounted.join("large");
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.len(), found.blocks()), (LARGEST, LARGEST / 512));
        let direct =
            fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        let plain = File::open(&path).unwrap();
        simulator.reset_log();
        let places = [
            0,
            (1 << 31) - 50,
            (1 << 32) - 50,
            (1 << 32) + 1,
            (1 << 40) - 50,
            (3 << 40) + 12_345,
            LARGEST / 3,
            LARGEST - MIB,
            LARGEST - 100,
        ];
        for place in places {
            for file in [&plain, &direct] {
                let mut read = [0; 100];
                file.read_exact_at(&mut read, place).unwrap();
                assert!(read[..] == content("large", LARGEST, place..place + 100), "{place}");
            }
        }
        assert_eq!(plain.read_at(&mut [0; 100], LARGEST - 7).unwrap(), 7);
        for beyond in [LARGEST, LARGEST + 1, 1 << 62] {
            assert_eq!(direct.read_at(&mut [0; 100], beyond).unwrap(), 0);
            assert_eq!(plain.read_at(&mut [0; 100], beyond).unwrap(), 0);
        }
        let mut file = File::open(&path).unwrap();
        assert_eq!(file.seek(SeekFrom::End(-5)).unwrap(), LARGEST - 5);
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, content("large", LARGEST, LARGEST - 5..LARGEST));
        let tail = Command::new("tail").args(["-c", "3000"]).arg(&path).output().unwrap();
        assert!(tail.stdout == content("large", LARGEST, LARGEST - 3000..LARGEST));
        touch_sparsely(&path);
        let counts = simulator.counts();
        assert_eq!(counts.client_errors, 0, "{counts:?}");
        assert!(counts.bytes_requested < 64 * MIB, "{counts:?}");
    }
}

/// Pages of a mapping of all of it, far from each other.
fn touch_sparsely(path: &Path) {
    let places = [0, (1 << 32) - 1, 1 << 32, (1 << 41) + 7, LARGEST - 1];
    let script = "import mmap, sys
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
print(' '.join(str(m[int(at)]) for at in sys.argv[2:]))";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .args(places.map(|place: u64| place.to_string()))
        .output()
        .unwrap();
    let expected = places.map(|at| content("large", LARGEST, at..at + 1)[0].to_string());
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected.join(" "));
}

/// A file is read to its end although the server closes each connection after some bytes of a body, and no
/// byte comes twice.
#[test]
fn bodies_that_always_end_early_are_read_to_their_end() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "large", 24 * MIB + 3);
    simulator.put_synthetic("myfiles", "small", 900_000);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    for after in [64 << 10, 1_000_003] {
        simulator.shape(|shaping| shaping.cut_after = Some(after));
        for name in ["small", "large"] {
            let path = mounted.join(name);
            simulator.reset_log();
            let direct =
                fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
            let size = direct.metadata().unwrap().len();
            let mut read = Vec::new();
            (&direct).read_to_end(&mut read).unwrap();
            assert!(read == simulator.object_bytes("myfiles", name), "{name} {after}");
            assert!(simulator.counts().bytes_sent <= size, "{name}: {:?}", simulator.counts());
        }
        // Another inode, of which nothing is here.
        simulator.put_synthetic("myfiles", "large", 24 * MIB + 3);
        simulator.put_synthetic("myfiles", "small", 900_000);
    }
}

/// An empty object is an empty file, to whoever reads, maps or copies it, and no error is asked of the
/// server for it.
#[test]
fn an_empty_object_is_an_empty_file() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "empty", "");
    simulator.put("myfiles", "emptied", "text");
    for mode in [&[][..], &["--direct-io"]] {
        let mounted = Mounted::new(&simulator, "myfiles", mode);
        fs::read(mounted.join("emptied")).unwrap();
        simulator.put("myfiles", "emptied", "");
        simulator.reset_log();
        for name in ["empty", "emptied"] {
            let path = mounted.join(name);
            let direct =
                fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
            assert_eq!(direct.read_at(&mut [0; 10], 0).unwrap(), 0, "{name}");
            assert_eq!(fs::read(&path).unwrap(), b"");
            let cat = Command::new("cat").arg(&path).output().unwrap();
            assert!(cat.status.success() && cat.stdout.is_empty());
        }
        assert_eq!(simulator.counts().client_errors, 0, "{:?}", simulator.counts());
        simulator.put("myfiles", "emptied", "text");
    }
}

/// An object that is replaced by a shorter one, or deleted, while programs have it open or mapped, gives
/// them the old bytes as far as they are here, and ESTALE or SIGBUS beyond, never bytes of the new one or
/// zeros.
#[test]
fn a_file_that_shrinks_or_goes_under_its_readers_is_an_error() {
    let size = 40 * MIB;
    for mode in [&[][..], &["--direct-io"]] {
        for deleted in [false, true] {
            let simulator = Simulator::builder().bucket("myfiles").start();
            simulator.put_synthetic("myfiles", "f", size);
            let old = |at: u64| content("f", size, at..at + 4096);
            let mounted = Mounted::new(&simulator, "myfiles", mode);
            let path = mounted.join("f");
            let plain = File::open(&path).unwrap();
            let direct =
                fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
            let mut mapped = Command::new("python3")
                .args([
                    "-c",
                    "import mmap, sys
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
print(m[0], flush=True)
sys.stdin.readline()
print(m[25 << 20], flush=True)",
                ])
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut first = [0; 1];
            mapped.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
            let mut read = [0; 4096];
            plain.read_exact_at(&mut read, 0).unwrap();
            if deleted {
                simulator.delete("myfiles", "f");
            } else {
                simulator.put_synthetic("myfiles", "f", 5000);
            }
            for file in [&plain, &direct] {
                for place in [0, 20 * MIB, size - 4096] {
                    match file.read_at(&mut read, place) {
                        Ok(len) => assert!(len == 4096 && read[..] == old(place), "{place}"),
                        Err(err) => {
                            assert_eq!(err.raw_os_error(), Some(libc::ESTALE), "{place}");
                            assert!(place > 0, "what was read is here");
                        }
                    }
                }
                let end = file.read_at(&mut read, size - 4096);
                assert_eq!(end.unwrap_err().raw_os_error(), Some(libc::ESTALE));
                assert_eq!(file.metadata().unwrap().len(), size);
            }
            drop(mapped.stdin.take());
            let ended = mapped.wait().unwrap();
            assert_eq!(ended.signal(), Some(libc::SIGBUS), "{mode:?} {deleted}: {ended:?}");
        }
    }
}

/// Where the server ignores Range, a place that lies too far into a large object to be reached is an error
/// at once, which the log explains, and what lies before it is read.
#[test]
fn what_cannot_be_reached_without_ranges_is_an_error_at_once() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "large", LARGEST);
    simulator.set_quirk(Quirk::IgnoresRange);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let file = File::open(mounted.join("large")).unwrap();
    for place in [3 << 40, LARGEST - 100] {
        let err = file.read_at(&mut [0; 100], place).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::EIO), "{place}");
    }
    assert!(mounted.log().contains("the server ignores Range, and what lies"), "{}", mounted.log());
    let counts = simulator.counts();
    assert!(counts.bytes_sent < 64 * MIB, "{counts:?}");
    let mut read = [0; 100];
    file.read_exact_at(&mut read, 5 * MIB).unwrap();
    assert!(read[..] == content("large", LARGEST, 5 * MIB..5 * MIB + 100));
}
