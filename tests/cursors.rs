//! Several readers of one file, each with its own way through it: what they cost in requests and bytes.

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;

use crate::support::mounted::{Mounted, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;
use crate::support::simulator::log::Counts;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SIZE: u64 = 600 * MIB + 12_345;

/// What an open of a large file asks for.
const OPEN_BYTES: u64 = 128 * KIB;

/// A mounted bucket with one large file.
struct Bench {
    simulator: Simulator,
    mounted: Mounted,
}

impl Bench {
    fn new() -> Self {
        let simulator = Simulator::builder().bucket("myfiles").start();
        simulator.put_synthetic("myfiles", "big.bin", SIZE);
        let mounted = Mounted::new(&simulator, "myfiles", &["--memory", "256MiB"]);
        Self { simulator, mounted }
    }

    fn open(&self) -> File {
        File::open(self.mounted.join("big.bin")).expect("there")
    }

    /// Without the kernel's own read-ahead, so that what is asked for is what the program reads.
    fn open_direct(&self) -> File {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT);
        options.open(self.mounted.join("big.bin")).expect("there")
    }

    /// Reads `len` bytes and compares them.
    fn read(&self, file: &File, at: u64, len: u64) {
        let len = usize::try_from(len).expect("a few MiB");
        let mut buffer = Aligned::new(len);
        file.read_exact_at(buffer.bytes(), at).expect("its bytes");
        let expected = self.simulator.range_bytes("myfiles", "big.bin", at..at + len as u64);
        assert!(buffer.bytes() == expected, "at {at}");
    }

    /// The ranges of all GETs, by place.
    fn asked(&self) -> Vec<Range<u64>> {
        let range = |text: &str| {
            let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
            Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1)
        };
        let entries = self.simulator.log();
        let gets = entries.iter().filter(|entry| entry.call.kind == Kind::Get);
        let ranges = gets.filter_map(|entry| entry.call.range.as_deref().and_then(range));
        let mut asked: Vec<Range<u64>> = ranges.collect();
        assert!(!asked.is_empty());
        asked.sort_by_key(|range| (range.start, range.end));
        // A hedge.
        let (n_asked, ()) = (asked.len(), asked.dedup());
        assert!(n_asked - asked.len() <= n_asked / 20, "{n_asked} GETs, {} without", asked.len());
        asked
    }

    fn assert_no_byte_twice(&self) {
        let asked = self.asked();
        let twice = asked.windows(2).find(|pair| pair[0].end > pair[1].start);
        assert_eq!(twice, None);
    }

    /// What is asked for once nothing is on its way any more.
    fn counts(&self) -> Counts {
        let mut before = None;
        let quiet = wait_until(|| {
            let counts = self.simulator.counts_unhedged();
            let all_sent = counts.bytes_sent == counts.bytes_requested;
            all_sent && before.replace(counts) == Some(counts)
        });
        assert!(quiet, "{:?}", self.simulator.counts_unhedged());
        before.expect("counted")
    }
}

/// Memory for O_DIRECT.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + 4096];
        let from = memory.as_ptr().align_offset(4096);
        Self { memory, from, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..][..self.len]
    }
}

/// A program that reads in equal steps is asked for ahead exactly: one request for each stretch, none for
/// what lies between, and when it stops no more ahead than it has read.
#[test]
fn equal_steps_cost_what_they_read() {
    let bench = Bench::new();
    for (step, name) in [(17 * MIB, "17 MiB"), (3 * MIB, "3 MiB"), (700 * KIB, "700 KiB")] {
        let file = bench.open_direct();
        bench.simulator.reset_log();
        let places: Vec<u64> = (1..30).map(|index| index * step).collect();
        for at in &places {
            bench.read(&file, *at, 256 * KIB);
        }
        let n_read = places.len() as u64;
        let counts = bench.counts();
        // Beyond the last, at most as many as were read.
        assert!((n_read..=2 * n_read).contains(&counts.get), "{name}: {} GETs", counts.get);
        assert!(counts.bytes_requested <= 2 * n_read * 384 * KIB, "{name}: {counts:?}");
        drop(file);
    }
}

/// Equal steps to where the file ends ask for nothing else.
#[test]
fn equal_steps_through_a_whole_file_ask_for_nothing_else() {
    let bench = Bench::new();
    let file = bench.open_direct();
    bench.simulator.reset_log();
    let places: Vec<u64> =
        (0..).map(|index| (index * 17 + 1) * MIB).take_while(|at| *at < SIZE).collect();
    for at in &places {
        bench.read(&file, *at, MIB.min(SIZE - at));
    }
    let counts = bench.counts();
    let n_read = places.len() as u64;
    assert_eq!((counts.get, counts.bytes_requested), (n_read, n_read * MIB));
}

/// A program that reads backward is asked for ahead downward, each byte once.
#[test]
fn a_backward_reader_costs_what_it_reads() {
    let bench = Bench::new();
    let file = bench.open_direct();
    bench.simulator.reset_log();
    for index in (0..600).rev() {
        bench.read(&file, index * MIB, MIB);
    }
    let counts = bench.counts();
    // The first 128 KiB came with the open, and may still be there.
    assert!((600 * MIB - OPEN_BYTES..=600 * MIB).contains(&counts.bytes_requested), "{counts:?}");
    // Parts of 2 MiB, after the small ones of the beginning.
    assert!(counts.get < 320, "{} GETs: they grow with the run", counts.get);
}

/// Two threads that read two places of one file by one handle are two streams: each byte once, in large
/// ranges for both.
#[test]
fn two_threads_on_one_handle_are_two_streams() {
    let bench = Bench::new();
    let file = bench.open();
    bench.simulator.reset_log();
    let len = 200 * MIB;
    thread::scope(|scope| {
        for start in [0, 300 * MIB] {
            let (bench, file) = (&bench, &file);
            scope.spawn(move || {
                for at in (start..start + len).step_by(256 << 10) {
                    bench.read(file, at, 256 * KIB);
                }
            });
        }
    });
    let counts = bench.counts();
    let beyond = counts.bytes_requested - 2 * len;
    // Half of the memory is for what is ahead of all streams together; and each is in the middle of a part.
    assert!(beyond <= (128 + 2 * 8) * MIB, "{} MiB beyond what was read", beyond / MIB);
    assert!(counts.get < 400, "{} GETs", counts.get);
    bench.assert_no_byte_twice();
}

/// Random reads beside a stream of the same file cost their aligned 128 KiB each, and the stream goes on in
/// its large parts.
#[test]
fn random_reads_beside_a_stream_disturb_nobody() {
    let bench = Bench::new();
    let (stream, random) = (bench.open(), bench.open());
    // SAFETY: plain system call on an open descriptor.
    unsafe { libc::posix_fadvise(random.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    bench.simulator.reset_log();
    let mut place = 88_172_645_463_325_252_u64;
    let mut n_random = 0;
    for at in (0..200 * MIB).step_by(1 << 20) {
        bench.read(&stream, at, MIB);
        for _ in 0..20 {
            place = place
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let random_at = 300 * MIB + (place >> 33) % (300 * MIB) / 4096 * 4096;
            bench.read(&random, random_at, 4096);
            n_random += 1;
        }
    }
    let counts = bench.counts();
    let of_stream = counts.bytes_requested.saturating_sub(n_random * 128 * KIB);
    assert!(of_stream <= 220 * MIB, "{counts:?}");
    // Of the 2,400 units of the other half some are met twice; the stream needs no more than 150.
    assert!(counts.get <= n_random.min(2400) + 150, "{counts:?}");
}

/// A file whose very end is read first, as parquet, ORC and zip files are, comes with its last 512 KiB in
/// one request, so that the directory before the end is there when its length is known.
#[test]
fn the_end_of_a_file_comes_with_what_lies_before_it() {
    let bench = Bench::new();
    let file = bench.open();
    bench.simulator.reset_log();
    bench.read(&file, SIZE - 8, 8);
    bench.read(&file, SIZE - 400 * KIB, 399 * KIB);
    bench.read(&file, SIZE - 64 * KIB, 64 * KIB);
    let counts = bench.counts();
    assert_eq!(counts.get, 1);
    assert!(counts.bytes_requested <= 640 * KIB, "{counts:?}");
}
