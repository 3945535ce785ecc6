//! Mapped files that are loaded, as models are: counted in requests.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use crate::support::mounted::{Mounted, sleep, wait_until};
use crate::support::simulator::Simulator;

const MIB: usize = 1 << 20;

/// A file in memory, read-only.
struct Mapping {
    start: *const u8,
    len: usize,
}

impl Mapping {
    fn new(path: &Path) -> Self {
        let file = File::open(path).expect("a file");
        let len = usize::try_from(file.metadata().expect("attributes").len()).expect("small");
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, 0) };
        assert!(start != libc::MAP_FAILED);
        Self { start: start.cast(), len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: it is mapped until it is dropped, and nobody writes to the file.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// How many pages of it are in memory.
    fn n_resident(&self) -> usize {
        let mut pages = vec![0_u8; self.len.div_ceil(4096)];
        // SAFETY: the mapping is there, and there is a byte for each of its pages.
        let done =
            unsafe { libc::mincore(self.start.cast_mut().cast(), self.len, pages.as_mut_ptr()) };
        assert_eq!(done, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this very length, and nobody else unmaps it.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.len) };
    }
}

/// A mapped file that is read in large pieces, in any order, comes into memory ahead of who reads it, and
/// each byte is asked for once.
#[test]
fn a_mapped_file_that_is_read_in_large_pieces_comes_ahead() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let len = 64 * MIB as u64;
    simulator.put_synthetic("myfiles", "model.safetensors", len);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let mapping = Mapping::new(&mounted.join("model.safetensors"));
    simulator.reset_log();
    // Pieces of 2 MiB, of which only a quarter is touched.
    for piece in [28, 11, 21, 3, 17, 30, 8, 23] {
        let range = piece * 2 * MIB..(piece + 1) * 2 * MIB;
        let expected = simulator.range_bytes(
            "myfiles",
            "model.safetensors",
            range.start as u64..range.end as u64,
        );
        assert!(mapping.bytes()[range] == expected, "piece {piece}");
    }
    // A few pages the kernel may have dropped again by itself (memory reclaim, DAMON).
    let n_enough = mapping.len / 4096 / 50 * 49;
    assert!(wait_until(|| mapping.n_resident() >= n_enough), "{}", mapping.n_resident());
    assert!(
        simulator.counts_unhedged().bytes_requested <= len * 21 / 20,
        "{:?}",
        simulator.counts_unhedged()
    );
    simulator.reset_log();
    let all = simulator.range_bytes("myfiles", "model.safetensors", 0..len);
    assert!(mapping.bytes() == all);
    // Those come again, and nothing else.
    let counts = simulator.counts_unhedged();
    assert!(counts.bytes_requested <= len / 8, "{counts:?}");
}

/// A mapped file of which single pages are touched is not loaded, nor is one that is read without being
/// mapped.
#[test]
fn sparse_faults_and_plain_reads_bring_no_more_than_they_ask_for() {
    use std::os::unix::fs::FileExt;
    let simulator = Simulator::builder().bucket("myfiles").start();
    let len = 256 * MIB as u64;
    simulator.put_synthetic("myfiles", "large", len);
    simulator.put_synthetic("myfiles", "read", len);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let mapping = Mapping::new(&mounted.join("large"));
    simulator.reset_log();
    let sum: u64 = (0..40).map(|touch| u64::from(mapping.bytes()[touch * 37 % 64 * 4 * MIB])).sum();
    assert!(sum < 40 * 256);
    sleep(Duration::from_millis(300));
    // The kernel reads around a fault, as it is told by the mount: 512 KiB.
    let counts = simulator.counts_unhedged();
    assert!(counts.bytes_requested <= 41 * MIB as u64, "{counts:?}");
    drop(mapping);

    let file = File::open(mounted.join("read")).expect("a file");
    simulator.reset_log();
    let mut piece = vec![0; 2 * MIB];
    for at in [40, 11, 29, 3, 17, 35, 8] {
        file.read_exact_at(&mut piece, at * 2 * MIB as u64).expect("bytes");
    }
    sleep(Duration::from_millis(300));
    let counts = simulator.counts_unhedged();
    assert!(counts.bytes_requested <= 100 * MIB as u64, "{counts:?}");
}
