//! Objects that change in the bucket while they are read: old bytes, new bytes or ESTALE, never a
//! mixture.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::mounted::{Mounted, sleep};
use crate::support::simulator::Simulator;
use crate::support::simulator::policy::Action;

const MIB: usize = 1 << 20;

fn mounted(options: &[&str]) -> (Simulator, Mounted) {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "f", vec![b'a'; 40 * MIB]);
    let mounted = Mounted::new(&simulator, "myfiles", options);
    (simulator, mounted)
}

/// A file that is opened is the object's current version, or the one that was current at most
/// `--open-ttl` (1 s) ago.
#[test]
fn a_replaced_object_is_the_new_one_at_the_next_open() {
    let by_default = mounted(&[]);
    let at_once = || mounted(&["--open-ttl", "0"]);
    let mounts = [by_default, at_once(), at_once(), at_once(), at_once()];
    let sizes = [40 * MIB, 40 * MIB, 100, 0, 41 * MIB];
    for (index, ((simulator, mounted), len)) in mounts.into_iter().zip(sizes).enumerate() {
        let new = b'b' + u8::try_from(index).unwrap();
        let before = fs::read(mounted.join("f")).unwrap();
        assert!(before.iter().all(|byte| *byte == b'a') && before.len() == 40 * MIB);
        simulator.put("myfiles", "f", vec![new; len]);
        if index == 0 {
            sleep(Duration::from_secs(1));
        }
        let after = fs::read(mounted.join("f")).unwrap();
        assert!(after.iter().all(|byte| *byte == new), "{}", char::from(new));
        assert_eq!(after.len(), len);
        assert_eq!(fs::metadata(mounted.join("f")).unwrap().len(), len as u64);
    }
}

/// An open file gives the bytes of the version that was opened, or ESTALE where they can no longer
/// be had, and never bytes of another version.
#[test]
fn an_open_file_never_mixes_versions() {
    let (simulator, mounted) = mounted(&[]);
    let file = fs::File::open(mounted.join("f")).unwrap();
    let mut chunk = vec![0; MIB];
    file.read_exact_at(&mut chunk, 0).unwrap();
    simulator.put("myfiles", "f", vec![b'b'; 40 * MIB]);
    let mut stale = 0;
    for at in (0..40).rev() {
        match file.read_exact_at(&mut chunk, (at * MIB) as u64) {
            Ok(()) => assert!(chunk.iter().all(|byte| *byte == b'a'), "mixed at {at}"),
            Err(err) => {
                assert_eq!(err.raw_os_error(), Some(libc::ESTALE));
                stale += 1;
            }
        }
    }
    assert!(stale > 0, "what was not cached cannot be had");
    assert!(fs::read(mounted.join("f")).unwrap().iter().all(|byte| *byte == b'b'));
}

/// In a bucket with versioning, a reader whose file is replaced goes on with the old bytes.
#[test]
fn a_versioned_bucket_keeps_the_old_bytes() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.set_versioned("myfiles", true);
    simulator.put("myfiles", "f", vec![b'a'; 40 * MIB]);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let file = fs::File::open(mounted.join("f")).unwrap();
    simulator.put("myfiles", "f", vec![b'b'; 40 * MIB]);
    let mut whole = vec![0; 40 * MIB];
    file.read_exact_at(&mut whole, 0).unwrap();
    assert!(whole.iter().all(|byte| *byte == b'a'));
}

/// An object that is replaced while it is being transferred arrives whole, as the version whose
/// transfer began.
#[test]
fn a_body_on_its_way_stays_whole() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "f", vec![b'a'; MIB]);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    simulator.during_get("f", 100_000, |world| {
        world.put("myfiles", "f", vec![b'b'; MIB]);
    });
    assert!(fs::read(mounted.join("f")).unwrap().iter().all(|byte| *byte == b'a'));
}

/// An open that finds the object deleted fails with ENOENT, and the name is gone from then on.
#[test]
fn a_deleted_object_is_gone_at_the_next_open() {
    let (simulator, mounted) = mounted(&["--metadata-ttl", "60s"]);
    fs::metadata(mounted.join("f")).unwrap();
    simulator.delete("myfiles", "f");
    let gone = fs::read(mounted.join("f"));
    assert_eq!(gone.err().and_then(|err| err.raw_os_error()), Some(libc::ENOENT));
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 0);
}

/// An object that is uploaded again with the same bytes is read on by those who have it open.
#[test]
fn the_same_bytes_uploaded_again_are_no_change_for_a_reader() {
    let (simulator, mounted) = mounted(&[]);
    let file = fs::File::open(mounted.join("f")).unwrap();
    simulator.put("myfiles", "f", vec![b'a'; 40 * MIB]);
    let mut whole = vec![0; 40 * MIB];
    file.read_exact_at(&mut whole, 0).unwrap();
    assert!(whole.iter().all(|byte| *byte == b'a'));
}

/// An object that changes between a `stat` and the open is opened as the new version, without a
/// further request.
#[test]
fn a_change_between_lookup_and_open_is_noticed() {
    let (simulator, mounted) = mounted(&["--metadata-ttl", "60s"]);
    assert_eq!(fs::metadata(mounted.join("f")).unwrap().len(), 40 * MIB as u64);
    simulator.put("myfiles", "f", "short");
    simulator.reset_log();
    assert_eq!(fs::read(mounted.join("f")).unwrap(), b"short");
    let counts = simulator.counts();
    assert_eq!((counts.list, counts.head, counts.get), (0, 0, 1), "one GET told it all");
}

/// A file's inode number stands for its version: it changes when the object changes, and is the
/// same in every mount of the bucket.
#[test]
fn an_inode_is_a_version() {
    let (simulator, first) = mounted(&["--metadata-ttl", "0"]);
    let ino = |mounted: &Mounted| fs::metadata(mounted.join("f")).unwrap().ino();
    let before = ino(&first);
    let second = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "0"]);
    assert_eq!(ino(&second), before);
    simulator.put("myfiles", "f", "new");
    assert_ne!(ino(&first), before);
    assert_eq!(ino(&first), ino(&second));
}

/// In a bucket with versioning, a reader whose file is replaced and who may not read old versions
/// (s3:GetObjectVersion) gets ESTALE.
#[test]
fn old_versions_may_be_denied() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.set_versioned("myfiles", true);
    simulator.put("myfiles", "f", vec![b'a'; 40 * MIB]);
    simulator.deny("myfiles", Action::GetObjectVersion, "");
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let file = fs::File::open(mounted.join("f")).unwrap();
    simulator.put("myfiles", "f", vec![b'b'; 40 * MIB]);
    let read = file.read_at(&mut [0; 4096], 30 << 20);
    assert_eq!(read.err().and_then(|err| err.raw_os_error()), Some(libc::ESTALE));
}

/// An open file shows the size and the date of the version that was opened, also after the object
/// has changed.
#[test]
fn an_open_file_keeps_its_attributes() {
    let (simulator, mounted) = mounted(&["--metadata-ttl", "0"]);
    let file = fs::File::open(mounted.join("f")).unwrap();
    let look = || {
        let found = file.metadata().unwrap();
        (found.len(), found.mtime(), found.ino())
    };
    let before = look();
    simulator.put("myfiles", "f", "short");
    assert_eq!(fs::metadata(mounted.join("f")).unwrap().len(), 5);
    assert_eq!(look(), before);
}

/// A program that has mapped a file gets SIGBUS where read(2) would get ESTALE.
#[test]
fn a_mapped_reader_of_a_replaced_object_gets_sigbus() {
    let (simulator, mounted) = mounted(&[]);
    let script = "import mmap, sys
f = open(sys.argv[1], 'rb')
m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
assert m[0] == 97
print('mapped', flush=True)
sys.stdin.readline()
m[30 << 20]";
    let mut reader = Command::new("python3")
        .args(["-c", script])
        .arg(mounted.join("f"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(reader.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "mapped\n");
    simulator.put("myfiles", "f", vec![b'b'; 40 * MIB]);
    reader.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert_eq!(reader.wait().unwrap().signal(), Some(libc::SIGBUS));
}
