//! Objects that change in the bucket while they are read: old bytes, new bytes or ESTALE, never a
//! mixture.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::support::mounted::Mounted;
use crate::support::simulator::Simulator;

const MIB: usize = 1 << 20;

fn mounted(options: &[&str]) -> (Simulator, Mounted) {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "f", vec![b'a'; 40 * MIB]);
    let mounted = Mounted::new(&simulator, "myfiles", options);
    (simulator, mounted)
}

/// An object that is replaced between two opens is the new one at once, with one request for the
/// second open and its first bytes.
#[test]
fn a_replaced_object_is_the_new_one_at_the_next_open() {
    for (new, len) in [(b'b', 40 * MIB), (b'c', 100), (b'd', 0), (b'e', 41 * MIB)] {
        let (simulator, mounted) = mounted(&["--open-ttl", "0"]);
        let before = fs::read(mounted.join("f")).unwrap();
        assert!(before.iter().all(|byte| *byte == b'a') && before.len() == 40 * MIB);
        simulator.put("myfiles", "f", vec![new; len]);
        let after = fs::read(mounted.join("f")).unwrap();
        assert!(after.iter().all(|byte| *byte == new), "{}", char::from(new));
        assert_eq!(after.len(), len);
        assert_eq!(fs::metadata(mounted.join("f")).unwrap().len(), len as u64);
    }
}

/// A reader whose object is replaced gets its old bytes or ESTALE, and never the new ones.
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

/// In a versioned bucket a reader goes on with the old bytes.
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

/// An object replaced while the body of its GET is on the way: that body is the old one to its end.
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

/// A deleted object is ENOENT at the next open, and its name is gone from then on.
#[test]
fn a_deleted_object_is_gone_at_the_next_open() {
    let (simulator, mounted) = mounted(&["--metadata-ttl", "60s"]);
    fs::metadata(mounted.join("f")).unwrap();
    simulator.delete("myfiles", "f");
    let gone = fs::read(mounted.join("f"));
    assert_eq!(gone.err().and_then(|err| err.raw_os_error()), Some(libc::ENOENT));
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 0);
}

/// The same bytes uploaded again are read on by who has the file open.
#[test]
fn the_same_bytes_uploaded_again_are_no_change_for_a_reader() {
    let (simulator, mounted) = mounted(&[]);
    let file = fs::File::open(mounted.join("f")).unwrap();
    simulator.put("myfiles", "f", vec![b'a'; 40 * MIB]);
    let mut whole = vec![0; 40 * MIB];
    file.read_exact_at(&mut whole, 0).unwrap();
    assert!(whole.iter().all(|byte| *byte == b'a'));
}

/// An object that changes between the lookup and the open is opened as the new one.
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

/// A file's inode number is that of its version: another after a change, the same after a remount.
#[test]
fn an_inode_is_a_version() {
    use std::os::unix::fs::MetadataExt;
    let (simulator, first) = mounted(&["--metadata-ttl", "0"]);
    let ino = |mounted: &Mounted| fs::metadata(mounted.join("f")).unwrap().ino();
    let before = ino(&first);
    let second = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "0"]);
    assert_eq!(ino(&second), before);
    simulator.put("myfiles", "f", "new");
    assert_ne!(ino(&first), before);
    assert_eq!(ino(&first), ino(&second));
}
