//! A line that stays usable while it is full: what a mount has on its way, and who goes first.

use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::hostile::{Answer, BUCKET, Hostile, OBJECT_HEADERS, filled};
use crate::support::mounted::{Mounted, command, command_with, sleep, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;
use crate::support::simulator::shaping::Shaping;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// 10 Mbit/s for all connections together, and 80 ms to the first byte.
fn slow_line() -> Shaping {
    let latency = Duration::from_millis(80);
    let line = Some(1_250_000);
    Shaping { latency_get: latency, latency_list: latency, line, ..Shaping::default() }
}

fn shaped(shaping: Shaping) -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").shaping(shaping).start();
    simulator.put_synthetic("myfiles", "big", 1 << 30);
    simulator.put_synthetic("myfiles", "other", 1 << 30);
    simulator.put_tree("myfiles", "d/", 50, 1000);
    simulator
}

/// Reads from the start, and compares.
fn stream(simulator: &Simulator, file: &mut File, bytes: u64) {
    let mut block = vec![0; 256 << 10];
    let mut at = 0;
    while at < bytes {
        let block = &mut block[..usize::try_from((bytes - at).min(256 * KIB)).expect("small")];
        file.read_exact(block).expect("its bytes");
        let end = at + block.len() as u64;
        assert!(simulator.range_bytes("myfiles", "big", at..end) == block, "at {at}");
        at = end;
    }
}

/// A program that reads a file from its start asks for no more than the line brings in a fraction of a
/// second, so that a listing and a read of another file do not wait behind it: on a line of 10 Mbit/s and
/// 80 ms no more than 1 MiB is on its way at any time, and nothing is asked for twice because it is slow.
#[test]
fn a_stream_leaves_room_on_a_slow_line() {
    let simulator = shaped(slow_line());
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "0"]);
    let mut big = File::open(mounted.join("big")).unwrap();
    let other = File::open(mounted.join("other")).unwrap();
    let is_over = AtomicBool::new(false);
    let n_small = thread::scope(|scope| {
        let small = scope.spawn(|| {
            let mut n_small = 0;
            while !is_over.load(Ordering::Relaxed) {
                // Each in a part of its own.
                let at = (n_small * 7 + 3) % 1000 * MIB;
                let mut got = [0; 4096];
                other.read_exact_at(&mut got, at).unwrap();
                assert!(simulator.range_bytes("myfiles", "other", at..at + 4096) == got);
                assert_eq!(fs::read_dir(mounted.join("d")).unwrap().count(), 50);
                n_small += 1;
                sleep(Duration::from_millis(300));
            }
            n_small
        });
        stream(&simulator, &mut big, 8 * MIB);
        is_over.store(true, Ordering::Relaxed);
        small.join().unwrap()
    });
    assert!(n_small >= 3, "others were served meanwhile: {n_small}");
    let counts = simulator.counts();
    assert!(counts.owed_max <= MIB, "{} KiB on their way", counts.owed_max / KIB);
    let mut ranges: Vec<_> = simulator
        .log()
        .into_iter()
        .filter(|entry| entry.call.kind == Kind::Get)
        .map(|entry| (entry.call.key.clone(), entry.call.range.clone()))
        .collect();
    let n_gets = ranges.len();
    ranges.sort();
    ranges.dedup();
    assert_eq!(n_gets, ranges.len(), "each range once: {ranges:?}");
}

/// Where the line allows it more is on its way: from a far server that brings 90 MB/s on each connection, and
/// also from one whose connections are slow and do not share a line.
#[test]
fn a_wide_line_is_filled() {
    let far = Shaping::far();
    let slow_connections = Shaping { bandwidth_per_connection: Some(400_000), ..Shaping::far() };
    for (shaping, bytes) in [(far, 64 * MIB), (slow_connections, 8 * MIB)] {
        let simulator = shaped(shaping);
        let mounted = Mounted::new(&simulator, "myfiles", &[]);
        let mut big = File::open(mounted.join("big")).unwrap();
        stream(&simulator, &mut big, bytes);
        let counts = simulator.counts();
        assert!(counts.owed_max > 2 * MIB, "{} KiB on their way", counts.owed_max / KIB);
    }
}

/// `--max-bandwidth` bounds what is received in a second; what it holds back is neither taken for an answer
/// that is late, nor for one that has stopped, and names do not wait for it.
#[test]
fn the_bandwidth_is_bounded() {
    let simulator = shaped(Shaping::default());
    let options = ["--max-bandwidth", "256KiB", "--metadata-ttl", "0"];
    let mounted = Mounted::new(&simulator, "myfiles", &options);
    let mut big = File::open(mounted.join("big")).unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        let reader = scope.spawn(|| stream(&simulator, &mut big, MIB));
        while !reader.is_finished() {
            assert_eq!(fs::read_dir(mounted.join("d")).unwrap().count(), 50);
            sleep(Duration::from_secs(1));
        }
        reader.join().unwrap();
    });
    // Less 20 ms of the bound, the last of it could not have come earlier.
    assert!(start.elapsed() > Duration::from_millis(3900), "{:?}", start.elapsed());
    let of_big = |entry: &_| matches!(entry, (Kind::Get, Some(_)));
    let log = simulator.log();
    let asked = log.iter().map(|entry| (entry.call.kind, entry.call.range.as_deref()));
    let mut ranges: Vec<_> = asked.filter(of_big).collect();
    let n_gets = ranges.len();
    ranges.sort_by_key(|(_, range)| *range);
    ranges.dedup();
    assert_eq!(n_gets, ranges.len(), "each range once: {ranges:?}");
}

/// `--max-requests` bounds the requests in flight, and with 2 of them, one for names and one for bytes, all
/// is read.
#[test]
fn the_requests_are_bounded() {
    let simulator = shaped(Shaping::far());
    let mounted = Mounted::new(&simulator, "myfiles", &["--max-requests", "2"]);
    simulator.reset_log();
    thread::scope(|scope| {
        let (simulator, mounted) = (&simulator, &mounted);
        scope.spawn(|| {
            let mut big = File::open(mounted.join("big")).unwrap();
            stream(simulator, &mut big, 32 * MIB);
        });
        for reader in 0..4 {
            scope.spawn(move || {
                for n in (0..50).skip(reader).step_by(4) {
                    let key = format!("d/{n:06}");
                    let bytes = fs::read(mounted.join(&key)).unwrap();
                    assert!(bytes == simulator.object_bytes("myfiles", &key), "{key}");
                }
            });
        }
    });
    assert_eq!(simulator.counts().concurrent_max, 2);
}

/// A value of `--max-bandwidth` or `--max-requests` that cannot work is refused with exit code 2 and one
/// sentence that names the option, the value and what is allowed.
#[test]
fn bounds_that_cannot_work_are_refused() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let directory = tempfile::tempdir().unwrap();
    for (option, value, allowed) in [
        ("--max-bandwidth", "1KiB", "64KiB"),
        ("--max-bandwidth", "10mbit", "20MiB"),
        ("--max-requests", "1", "2 to 64"),
        ("--max-requests", "many", "2 to 64"),
    ] {
        let mut program = command(&simulator);
        program.args([option, value, "myfiles"]).arg(directory.path()).stdin(Stdio::null());
        let output = program.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        for part in [option, value, allowed] {
            assert!(text.contains(part), "{option} {value}: no {part} in {text}");
        }
    }
    assert_eq!(simulator.counts().requests(), 0);
}

/// A server that sends the bytes of a file one by one, a second apart, is asked again a few times, and then the
/// read ends with ETIMEDOUT, within 60 s; a program that reads it is gone at once when it is killed, and other
/// files are read meanwhile.
#[test]
fn nobody_waits_for_bytes_that_drip() {
    let content = filled(4 * MIB);
    let objects = [("large", content.as_slice()), ("good", b"good".as_slice())];
    let server = Hostile::start(&objects, |request| {
        let range = request.range().filter(|range| range.start > 0)?;
        (request.got() == Some("large")).then(|| {
            let Range { start, end } = range;
            let (last, length) = (end - 1, end - start);
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\n{OBJECT_HEADERS}\
                 Content-Range: bytes {start}-{last}/{}\r\nContent-Length: {length}\r\n\r\n",
                4 * MIB
            );
            Answer::raw(head).drip(b"x", Duration::from_secs(1))
        })
    });
    let mounted = Mounted::start(command_with(server.environment()), BUCKET, &[]);
    let large = File::open(mounted.join("large")).unwrap();
    let mut reader = Command::new("tail")
        .args(["-c", "1000000"])
        .arg(mounted.join("large"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    thread::scope(|scope| {
        let read = scope.spawn(|| large.read_at(&mut [0; 4096], 2 * MIB));
        sleep(Duration::from_secs(3));
        assert_eq!(fs::read(mounted.join("good")).unwrap(), b"good");
        assert!(reader.try_wait().unwrap().is_none(), "it waits");
        reader.kill().unwrap();
        assert!(wait_until(|| reader.try_wait().unwrap().is_some()), "it is gone");
        let errno = read.join().unwrap().err().and_then(|err| err.raw_os_error());
        assert_eq!(errno, Some(libc::ETIMEDOUT), "{}", mounted.log());
    });
    assert!(start.elapsed() < Duration::from_secs(61), "{:?}", start.elapsed());
}
