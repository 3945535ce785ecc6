//! A server and a network that fail: right bytes or an error, bounded, and the mount lives on.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::mounted::{Mounted, send_signal, sleep, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::{Call, Kind};
use crate::support::simulator::shaping::Share;

const MIB: u64 = 1 << 20;

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Transfers that are cut, requests that are throttled and connections that are reset are repeated,
/// and no reader notices.
#[test]
fn a_reader_sees_nothing_of_cuts_throttling_and_resets() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    for index in 0..20_u64 {
        simulator.put_synthetic("myfiles", &format!("f{index}"), index * index * 60_000 + 1);
    }
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    simulator.shape(|shaping| {
        shaping.cuts = Share::Fraction(0.05);
        shaping.errors = Share::Fraction(0.05);
        shaping.resets = Share::Fraction(0.02);
    });
    for index in 0..20 {
        let name = format!("f{index}");
        let output = Command::new("sha256sum").arg(mounted.join(&name)).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.split(' ').next(), Some(simulator.sha256("myfiles", &name).as_str()));
    }
    assert!(simulator.counts().faults > 0, "the faults did happen");
}

/// A read whose answer is late against those before it is asked for once more on another connection, and
/// the first answer is taken; at most one request in twenty is sent for that.
#[test]
fn a_slow_answer_is_not_waited_for() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "big", 1 << 30);
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let file = fs::File::open(mounted.join("big")).unwrap();
    let mut block: u64 = 0;
    let mut read = |count: u64| {
        for _ in 0..count {
            // Each of the 8,192 blocks of 128 KiB once, in no order, so that each is a request.
            block = (block * 1549 + 6111) % (8 << 10);
            let at = block * (128 << 10);
            let mut got = [0; 4096];
            file.read_exact_at(&mut got, at).unwrap();
            assert!(simulator.range_bytes("myfiles", "big", at..at + 4096) == got);
        }
    };
    // What is usual.
    read(100);
    // Less than the 5 s after which a try is given up: what is sent twice is not a retry.
    simulator.shape(|shaping| {
        shaping.slow = Share::OneIn(50);
        shaping.slow_by = Duration::from_secs(4);
    });
    simulator.reset_log();
    read(200);
    let mut asked: HashMap<_, Vec<u64>> = HashMap::new();
    for entry in simulator.log() {
        assert_eq!(entry.call.kind, Kind::Get);
        asked.entry(entry.call.range.clone()).or_default().push(entry.connection);
    }
    assert_eq!(asked.len(), 200);
    let twice: Vec<_> = asked.values().filter(|connections| connections.len() > 1).collect();
    // Four answers are slow; that of another is late where this machine is busy.
    assert!((1..=15).contains(&twice.len()), "{} of 200 were sent twice", twice.len());
    assert!(twice.iter().all(|connections| connections[..] != [connections[0]; 2]), "{twice:?}");
    assert_eq!(simulator.counts().get, 200 + twice.len() as u64);
}

/// A program that waits in a lookup, an open or a listing of a silent server can be killed without
/// waiting for the deadline.
#[test]
fn a_killed_opener_is_gone_before_the_answer() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "d/f", 100);
    simulator.put("myfiles", "e/y", "x");
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    fs::metadata(mounted.join("d/f")).unwrap();
    let cases = [(Kind::Get, "d/f", "cat", "d/f"), (Kind::List, "e/", "stat", "e/x")];
    for (kind, subject, program, name) in cases {
        let held = simulator.hold(kind, subject);
        simulator.reset_log();
        let asked = || {
            let log = simulator.log();
            let same = |call: &Call| call.kind == kind && call.subject() == subject;
            log.iter().filter(|entry| same(&entry.call)).count()
        };
        let mut child = Command::new(program)
            .arg(mounted.join(name))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        assert!(wait_until(|| asked() == 1), "it waits");
        send_signal(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        // Gone although no answer has come: not even the deadline of one try has passed.
        assert_eq!(asked(), 1, "the request was tried again before");
        drop(held);
    }
    assert_eq!(fs::read(mounted.join("d/f")).unwrap().len(), 100);
}

/// A program that waits in a buffered read for a silent server can be killed, and other files are
/// read meanwhile.
#[test]
fn a_killed_reader_is_gone_and_the_mount_lives_on() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "stalled", 64 * MIB);
    simulator.put("myfiles", "fine", "fine");
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let open = fs::File::open(mounted.join("stalled")).unwrap();
    simulator.shape(|shaping| {
        shaping.silent = Share::All;
        shaping.scope.kinds = vec![Kind::Get];
        shaping.scope.prefix = "stalled".to_owned();
    });
    let mut reader = Command::new("dd")
        .args(["of=/dev/null", "bs=1M", "skip=30", "status=none"])
        .stdin(Stdio::from(open))
        .spawn()
        .unwrap();
    assert!(wait_until(|| simulator.counts().get > 1), "the reader waits for the server");
    send_signal(reader.id(), libc::SIGKILL);
    let start = Instant::now();
    reader.wait().unwrap();
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "not after its deadline");
    assert_eq!(fs::read_to_string(mounted.join("fine")).unwrap(), "fine");
}

/// A defect of s3mount that makes a request panic costs that request one EIO, and the next one is
/// answered rightly.
#[test]
#[cfg(feature = "failpoints")]
fn a_panic_costs_one_error() {
    use std::os::unix::fs::OpenOptionsExt;

    use crate::support::mounted::command;
    for point in ["handler", "download", "budget"] {
        let simulator = Simulator::builder().bucket("myfiles").start();
        simulator.put_synthetic("myfiles", "f", 40 * MIB);
        let failpoints = format!("{point}=1*panic->off");
        let mut program = command(&simulator);
        program.env("FAILPOINTS", failpoints);
        let mounted = Mounted::start(program, "myfiles", &[]);
        let direct = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(mounted.join("f"))
            .unwrap();
        // Direct I/O wants an aligned buffer: a mapping is one.
        let read = |at| read_directly(&direct, at);
        let err = read(20 * MIB).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::EIO), "{point}");
        let expected = simulator.range_bytes("myfiles", "f", 20 * MIB..20 * MIB + 4096);
        assert!(read(20 * MIB).unwrap() == expected, "{point}");
        let mut buffered = [0; 100];
        fs::File::open(mounted.join("f")).unwrap().read_exact_at(&mut buffered, 5).unwrap();
    }
}

/// 4 KiB at `at` with O_DIRECT.
#[cfg(feature = "failpoints")]
fn read_directly(file: &fs::File, at: u64) -> std::io::Result<Vec<u8>> {
    let mut memory = vec![0_u8; 3 * 4096];
    let start = memory.as_ptr().align_offset(4096);
    file.read_exact_at(&mut memory[start..start + 4096], at)?;
    Ok(memory[start..start + 4096].to_vec())
}

/// What is not known yet is an error, EIO or ETIMEDOUT, while the server cannot answer, and never
/// an empty directory or a missing file; when it answers again, so does the mount.
#[test]
fn an_unreachable_server_is_no_empty_directory() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "d/f", "x");
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "60s"]);
    simulator.shape(|shaping| shaping.errors = Share::All);
    let path = mounted.path();
    let looked = std::thread::spawn(move || fs::metadata(path.join("d/f")).map(drop));
    let listed =
        fs::read_dir(mounted.join("d")).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    for result in [listed.map(drop), looked.join().unwrap()] {
        let errno = result.err().and_then(|err| err.raw_os_error());
        assert!(matches!(errno, Some(libc::EIO | libc::ETIMEDOUT)), "{errno:?}");
    }
    simulator.shape(|shaping| shaping.errors = Share::None);
    assert_eq!(fs::read_to_string(mounted.join("d/f")).unwrap(), "x", "it recovers by itself");
}

/// How often the log says that an outage began, and that it is over.
fn outages(mounted: &Mounted) -> (usize, usize) {
    let log = mounted.log();
    (log.matches("S3 cannot be reached").count(), log.matches("S3 answers again").count())
}

/// While S3 cannot be reached, what is known of names, sizes and listings is shown, and files that were read
/// are opened and read from memory, beyond their time and at once but for the first; the log says in one
/// line that it began, and in another that it is over.
#[test]
fn what_is_known_goes_on_in_an_outage() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let n_files = 50;
    let name = |number: u64| format!("d/f{number:02}");
    (0..n_files).for_each(|number| drop(simulator.put("myfiles", &name(number), name(number))));
    // The kernel may drop its pages at any time, and does where others empty its caches.
    let options = ["--metadata-ttl", "1s", "--direct-io"];
    let mounted = Mounted::new(&simulator, "myfiles", &options);
    let look = || {
        assert_eq!(fs::read_dir(mounted.join("d")).unwrap().count() as u64, n_files);
        for number in 0..n_files {
            let path = mounted.join(name(number));
            assert_eq!(fs::metadata(&path).unwrap().len(), 5);
            assert_eq!(fs::read_to_string(&path).unwrap(), name(number));
        }
        let missing = fs::metadata(mounted.join("d/missing")).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT), "the whole listing says so");
    };
    look();
    for trouble in ["resets", "errors", "silence"] {
        sleep(Duration::from_secs(2));
        let before = outages(&mounted);
        simulator.shape(|shaping| match trouble {
            "resets" => shaping.resets = Share::All,
            "errors" => shaping.errors = Share::All,
            _ => shaping.silent = Share::All,
        });
        look();
        simulator.reset_log();
        let start = Instant::now();
        (0..5).for_each(|_| look());
        // 50 names, files and opens five times: had each of them to wait, or to ask, this would be minutes.
        assert!(start.elapsed() < Duration::from_secs(20), "{trouble}: {:?}", start.elapsed());
        assert!(simulator.log().len() < 100, "{trouble}: {} requests", simulator.log().len());
        assert_eq!(outages(&mounted), (before.0 + 1, before.1), "{trouble}");
        simulator.shape(|shaping| {
            (shaping.resets, shaping.errors, shaping.silent) =
                (Share::None, Share::None, Share::None);
        });
        simulator.put("myfiles", &format!("new-after-{trouble}"), "new");
        let is_shown = || fs::metadata(mounted.join(format!("new-after-{trouble}"))).is_ok();
        assert!(wait_until(is_shown), "{trouble}: it is asked again");
        assert!(wait_until(|| outages(&mounted) == (before.0 + 1, before.1 + 1)), "{trouble}");
    }
}

/// With `--offline-grace 0` nothing is served beyond its time: what has to be asked is an error while S3
/// cannot be reached, EIO or ETIMEDOUT; with a longer time it is an error when that is over.
#[test]
fn what_is_known_goes_on_for_as_long_as_it_is_told_to() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "d/f", "12345");
    let mount = |grace: &str| {
        let options = ["--metadata-ttl", "1s", "--offline-grace", grace];
        let mounted = Mounted::new(&simulator, "myfiles", &options);
        assert_eq!(fs::read(mounted.join("d/f")).unwrap(), b"12345");
        mounted
    };
    let (none, some) = (mount("0"), mount("20s"));
    simulator.shape(|shaping| shaping.errors = Share::All);
    sleep(Duration::from_secs(2));
    let failed = |mounted: &Mounted| {
        let path = mounted.join("d/f");
        let looked = fs::metadata(path).err().and_then(|err| err.raw_os_error());
        assert!(matches!(looked, None | Some(libc::EIO | libc::ETIMEDOUT)), "{looked:?}");
        looked.is_some()
    };
    let path = some.join("d/f");
    let served = std::thread::spawn(move || fs::metadata(path).map(|found| found.len()).ok());
    assert!(failed(&none));
    assert_eq!(served.join().unwrap(), Some(5));
    assert!(wait_until(|| failed(&some)), "the time is over");
    simulator.shape(|shaping| shaping.errors = Share::None);
    for mounted in [&none, &some] {
        assert_eq!(fs::read(mounted.join("d/f")).unwrap(), b"12345");
    }
}

/// A program that reads waits for a server that is gone for half a minute, on whose port nothing listens
/// meanwhile, and gets the right bytes; the mount works on without being mounted again.
#[test]
fn a_reader_waits_for_a_server_that_comes_back() {
    const SIZE: u64 = 40 * MIB;
    let start = |port| {
        let simulator = Simulator::builder().bucket("myfiles").port(port).start();
        simulator.put_synthetic("myfiles", "stream", SIZE);
        simulator.put_synthetic("myfiles", "random", SIZE);
        simulator
    };
    let simulator = start(0);
    let sums: Vec<_> =
        ["stream", "random"].iter().map(|name| simulator.sha256("myfiles", name)).collect();
    let port: u16 = simulator.endpoint().rsplit(':').next().unwrap().parse().unwrap();
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    let [mut stream, random] =
        ["stream", "random"].map(|name| fs::File::open(mounted.join(name)).unwrap());
    let mut bytes = vec![0; 4096];
    stream.read_exact(&mut bytes).unwrap();
    random.read_exact_at(&mut [0; 4096], 9 * MIB).unwrap();
    drop(simulator);
    let streaming = std::thread::spawn(move || {
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let reading = std::thread::spawn(move || {
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        for index in (0..SIZE / (128 << 10)).rev() {
            let at = usize::try_from(index * (128 << 10)).unwrap();
            random.read_exact_at(&mut bytes[at..at + (128 << 10)], at as u64).unwrap();
        }
        bytes
    });
    sleep(Duration::from_secs(30));
    assert!(!streaming.is_finished() && !reading.is_finished(), "they wait");
    let _simulator = start(port);
    let read = [streaming.join().unwrap(), reading.join().unwrap()];
    assert_eq!(read.each_ref().map(|bytes| sha256(bytes)).to_vec(), sums);
    assert_eq!(outages(&mounted), (1, 1), "{}", mounted.log());
    assert_eq!(fs::metadata(mounted.join("stream")).unwrap().len(), SIZE);
}

/// A server that refuses requests for being too many (503 SlowDown) is asked for fewer, so that it refuses at
/// most one in four; who reads waits, and gets the right bytes.
#[test]
fn a_server_that_refuses_requests_is_asked_for_fewer() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    let n_files = 800_u64;
    let name = |number: u64| format!("d/{number:03}");
    (0..n_files).for_each(|number| drop(simulator.put("myfiles", &name(number), name(number))));
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    assert_eq!(fs::read_dir(mounted.join("d")).unwrap().count() as u64, n_files);
    simulator.shape(|shaping| shaping.requests_per_second = Some(50));
    simulator.reset_log();
    let readers: Vec<_> = (0..32)
        .map(|reader| {
            let mounted = mounted.path();
            std::thread::spawn(move || {
                for step in 0..n_files / 32 {
                    // Each file once, in no order that could be asked for ahead.
                    let file = name((reader * (n_files / 32) + step) * 377 % n_files);
                    assert_eq!(fs::read_to_string(mounted.join(&file)).unwrap(), file);
                }
            })
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let counts = simulator.counts();
    let asked = counts.get + counts.list;
    let (refused, served) = (counts.faults, asked - counts.faults);
    assert!(refused > 0 && refused * 4 < asked, "{refused} refused of {asked}");
    // What nobody waits for, and what is asked for twice, does not come on top.
    assert!((n_files..n_files + n_files / 20).contains(&served), "{served} served");
}

/// When the server is silent, a lookup, an open and reading a directory end with ETIMEDOUT after
/// 20 s at the latest, and reading a file after 60 s.
#[test]
fn nothing_waits_for_ever() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "closed", "x");
    simulator.put("myfiles", "d/f", "x");
    simulator.put_synthetic("myfiles", "open", 64 * MIB);
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "60s"]);
    let open = fs::File::open(mounted.join("open")).unwrap();
    simulator.shape(|shaping| shaping.silent = Share::All);
    type Work = Box<dyn FnOnce() -> std::io::Result<()> + Send>;
    let path = |name: &str| mounted.join(name);
    let (lookup, file, directory) = (path("d/absent"), path("closed"), path("d"));
    let work: [(u64, Work); 4] = [
        (20, Box::new(move || fs::metadata(lookup).map(drop))),
        (20, Box::new(move || fs::File::open(file).map(drop))),
        (20, Box::new(move || fs::read_dir(directory).map(drop))),
        (60, Box::new(move || open.read_at(&mut [0; 100], 40 * MIB).map(drop))),
    ];
    let start = |(limit, work): (u64, Work)| {
        std::thread::spawn(move || {
            let start = Instant::now();
            let errno = work().err().and_then(|err| err.raw_os_error());
            assert_eq!(errno, Some(libc::ETIMEDOUT), "within {limit} s");
            assert!(start.elapsed().as_secs() <= limit, "{:?}", start.elapsed());
        })
    };
    let threads: Vec<_> = work.into_iter().map(start).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// An object in an archive class that was not restored is refused with EACCES when it is opened.
#[test]
fn an_archived_object_is_refused() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "f", "x");
    simulator.archive("myfiles", "f");
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    assert_eq!(fs::metadata(mounted.join("f")).unwrap().len(), 1);
    let opened = fs::File::open(mounted.join("f"));
    assert_eq!(opened.err().and_then(|err| err.raw_os_error()), Some(libc::EACCES));
    assert!(mounted.log().contains("restored"), "{}", mounted.log());
}
