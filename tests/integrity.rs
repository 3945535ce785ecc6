//! Bytes that changed on their way, or where they are kept: nobody sees them.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

use aws_smithy_checksums::ChecksumAlgorithm as Algorithm;

use crate::support::mounted::Mounted;
use crate::support::simulator::Simulator;
use crate::support::simulator::checksum::Checksum;
use crate::support::simulator::quirks::Quirk;

const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];

/// A file that comes whole is compared with the checksum that S3 keeps of it, whichever that is: bytes
/// that do not fit are shown to nobody, and asked for again.
#[test]
fn bytes_that_changed_on_their_way_are_asked_for_again() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let mut keys = Vec::new();
    for algorithm in ALGORITHMS {
        for size in [1, 700_000] {
            let key = format!("{}-{size}", algorithm.as_str());
            simulator.put_synthetic("myfiles", &key, size);
            simulator.set_checksum("myfiles", &key, Checksum::Whole(algorithm));
            simulator.corrupt(&key, 2);
            keys.push(key);
        }
    }
    // Nothing comes ahead, so that each file is asked for by its open.
    let mounted = Mounted::new(&simulator, "myfiles", &["--open-ttl", "0"]);
    for key in keys {
        simulator.reset_log();
        let read = fs::read(mounted.join(&key)).unwrap();
        assert!(read == simulator.object_bytes("myfiles", &key), "{key}");
        assert_eq!(simulator.counts().get, 3, "{key}");
        let log = mounted.log();
        let said = log.lines().filter(|line| line.contains(&format!("{key:?}")));
        assert_eq!(said.count(), 2, "{key}: {log}");
    }
}

/// A file whose bytes never fit their checksum can not be read (EIO), and the log names it; other files
/// are read meanwhile.
#[test]
fn a_file_that_is_broken_where_it_is_kept_is_an_error() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "d/fine", "fine");
    for algorithm in ALGORITHMS {
        let key = format!("d/{}", algorithm.as_str());
        simulator.put_synthetic("myfiles", &key, 70_000);
        simulator.set_checksum("myfiles", &key, Checksum::Wrong(algorithm));
    }
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    for algorithm in ALGORITHMS {
        let key = format!("d/{}", algorithm.as_str());
        let file = fs::File::open(mounted.join(&key)).unwrap();
        for offset in [0, 40_000, 69_999] {
            let read: io::Result<usize> = file.read_at(&mut [0; 100], offset);
            assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO), "{key} {offset}");
        }
        let log = mounted.log();
        let told = |line: &str| line.contains(&format!("WARN read {key}: "));
        assert!(log.lines().any(told), "{log}");
        assert_eq!(fs::read(mounted.join("d/fine")).unwrap(), b"fine");
    }
}

/// What has no checksum of its whole, as many objects that were uploaded in parts, is read as it comes, and
/// so is every file on a server that has no checksums.
#[test]
fn what_has_no_checksum_is_read() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let composite = |algorithm| Checksum::Composite(algorithm, 3);
    let checksums = [Checksum::None].into_iter().chain(ALGORITHMS.map(composite));
    let keys: Vec<String> = (0..)
        .zip(checksums)
        .map(|(n, checksum)| {
            let key = format!("f{n}");
            simulator.put_synthetic("myfiles", &key, 70_000);
            simulator.set_checksum("myfiles", &key, checksum);
            key
        })
        .collect();
    for refuses in [false, true] {
        if refuses {
            simulator.set_quirk(Quirk::RefusesChecksumMode);
        }
        let mounted = Mounted::new(&simulator, "myfiles", &[]);
        simulator.reset_log();
        for key in &keys {
            let read = fs::read(mounted.join(key)).unwrap();
            assert!(read == simulator.object_bytes("myfiles", key), "{key}");
        }
        // The first one that is refused is sent again.
        assert_eq!(simulator.counts().get, keys.len() as u64 + u64::from(refuses));
    }
}

/// Programs never see some bytes of a file that then turns out to be broken: its first byte is shown when
/// its last has come and all fit.
#[test]
fn no_byte_is_shown_before_all_fit() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "f", 900_000);
    simulator.set_checksum("myfiles", "f", Checksum::Wrong(Algorithm::Crc64Nvme));
    // Slow enough for a reader to be there long before the end.
    simulator.shape(|shaping| shaping.bandwidth_per_connection = Some(4_000_000));
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let file = fs::File::open(mounted.join("f")).unwrap();
    for offset in [0, 1, 4096] {
        assert_eq!(file.read_at(&mut [0; 1], offset).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    simulator.set_checksum("myfiles", "f", Checksum::Whole(Algorithm::Crc64Nvme));
    assert!(fs::read(mounted.join("f")).unwrap() == simulator.object_bytes("myfiles", "f"));
}
