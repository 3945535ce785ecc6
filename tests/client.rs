//! A client that does anything in any order, through the kernel and the real binary: several threads make
//! random system calls on a mount and on its twin, the same tree on a file system of the kernel's own, and
//! compare what each call gives.
//!
//! `S3MOUNT_CLIENT_SEED` makes other choices, `S3MOUNT_CLIENT_STEPS` makes each thread take more steps than the
//! few of every day:
//! `S3MOUNT_CLIENT_SEED=$RANDOM S3MOUNT_CLIENT_STEPS=100000 cargo nextest run -E 'test(/^client::/)'`.

mod asking;
mod calls;
mod ground;
mod moving;
mod reading;
mod steps;
mod writing;

use std::fs;
use std::io::Write;
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::calls::{
    Child, Ended, Shared, be_interruptible, become_nobody, interrupt, open, path, thread_id,
};
use self::ground::{BUCKET, Dice, Ground, HUGE, HUGE_BYTES};
use self::moving::{History, TTL, Watcher};
use self::steps::{Client, Seen};
use crate::support::mounted::{Mounted, sleep, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::shaping::Share;

const N_CLIENTS: u64 = 3;

/// Unless told otherwise: a run of every day fails for what was changed, not for its luck.
const SEED: u64 = 1;

/// Of each thread, unless told otherwise.
const STEPS: u64 = 300;

/// A program that was killed is gone long before any deadline of an answer, which is 20 s or more.
const KILLED_MAX: Duration = Duration::from_secs(10);

/// Its own, and of connections that may be used again.
const DESCRIPTORS_MAX: usize = 100;

/// In the log, where the process ends while programs have something open.
const STILL_OPEN: &str = "still open at the end";

/// What a run is beside the clients.
#[derive(Clone, Copy, Default)]
struct Plan {
    /// Objects are put, overwritten and deleted.
    changes: bool,
    /// The server fails.
    faults: bool,
    /// Programs are killed in the middle of a read.
    kills: bool,
    options: &'static [&'static str],
}

/// Each call on a mount gives what it gives on a read-only file system of the kernel's own with the same files:
/// the same bytes, the same names, the same errno, whatever its arguments, and no signal interrupts it.
#[test]
fn a_mount_is_a_read_only_file_system_to_any_call() {
    let seen = run(Plan { options: &["--allow-other"], ..Plan::default() });
    assert!(seen.bus_errors.into_inner() > 0, "behind the end of a mapped file");
}

/// While objects change, what an open file shows is one version of its object or ESTALE, and a name is as old
/// as its time to live at most; what does not change stays right.
#[test]
fn a_mount_of_what_changes_shows_one_version_to_any_call() {
    let options =
        &["--allow-other", "--metadata-ttl", TTL, "--negative-ttl", TTL, "--open-ttl", "0"];
    let seen = run(Plan { changes: true, options, ..Plan::default() });
    assert!(seen.moved.into_inner() > 100);
}

/// While the server throttles, resets and cuts, and programs are killed in the middle of a read, no error
/// reaches those that live, under the least memory; one that is killed is gone at once.
#[test]
fn a_mount_of_a_failing_server_gives_no_error_to_any_call() {
    let options = &["--allow-other", "--memory", "32MiB", "--metadata-ttl", TTL];
    let seen = run(Plan { faults: true, kills: true, options, ..Plan::default() });
    assert!(seen.killed.into_inner() > 0);
}

/// A mount that `umount -f` aborts while files are open says in the log how many were.
#[test]
fn what_is_open_at_an_abort_is_counted() {
    let simulator = Simulator::builder().bucket(BUCKET).start();
    simulator.put(BUCKET, "d/f", "x");
    let mut mounted = Mounted::new(&simulator, BUCKET, &[]);
    let open = ["d/f", "d/f", "d"].map(|name| fs::File::open(mounted.join(name)).unwrap());
    // It says that the mount is busy, and takes the connection away all the same.
    let _ = Command::new("umount").arg("-f").arg(mounted.path()).output().unwrap();
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
    let wanted = format!("{STILL_OPEN}: files 2, directories 1");
    assert!(mounted.log().contains(&wanted), "{}", mounted.log());
    drop(open);
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var_os(name)?;
    Some(value.to_str().and_then(|text| text.parse().ok()).expect("a number"))
}

/// Until all steps are done, and looks what is left then.
fn run(plan: Plan) -> Seen {
    let seed = number("S3MOUNT_CLIENT_SEED").unwrap_or(SEED);
    let n_steps = number("S3MOUNT_CLIENT_STEPS").unwrap_or(STEPS);
    say(&format!("S3MOUNT_CLIENT_SEED={seed} S3MOUNT_CLIENT_STEPS={n_steps}"));
    be_interruptible();
    let ground = Ground::new();
    let history = plan.changes.then(|| History::new(&ground, seed));
    let mounted = Mounted::new(&ground.simulator, BUCKET, plan.options);
    if plan.faults {
        ground.simulator.shape(|shaping| {
            shaping.errors = Share::Fraction(0.05);
            shaping.resets = Share::Fraction(0.02);
            shaping.cuts = Share::Fraction(0.05);
            shaping.seed = seed;
        });
    }
    let (seen, done) = (Seen::default(), AtomicBool::new(false));
    let threads = Mutex::new(Vec::new());
    let start = Instant::now();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..N_CLIENTS)
            .map(|thread| {
                let (ground, mounted, seen) = (&ground, &mounted, &seen);
                let (threads, history) = (&threads, history.as_ref());
                scope.spawn(move || {
                    threads.lock().expect("no panic").push(thread_id());
                    be_client(ground, mounted, history, seen, (seed, thread), n_steps);
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                threads.lock().expect("no panic").iter().copied().for_each(interrupt);
                sleep(Duration::from_micros(700));
            }
        });
        if let Some(history) = &history {
            scope.spawn(|| history.go_on(&ground, seed, &done));
        }
        let killer = plan.kills.then(|| scope.spawn(|| kill_readers(&mounted, &seen, seed, &done)));
        let ended: Vec<_> = clients.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        let all = ended.into_iter().chain(killer.map(thread::ScopedJoinHandle::join));
        // With its own message.
        all.for_each(|ended| ended.unwrap_or_else(|panic| resume_unwind(panic)));
    });
    say(&format!("{seen:?} in {:?}", start.elapsed()));
    say(&format!("{:?}", ground.simulator.counts()));
    assert!(!plan.faults || ground.simulator.counts().faults > 0, "the faults did happen");
    leave(mounted, &ground);
    for count in [&seen.calls, &seen.errors, &seen.bytes, &seen.listed] {
        assert!(count.load(Ordering::Relaxed) > 100, "{seen:?}");
    }
    seen
}

/// One thread, the last of them without any rights.
fn be_client(
    ground: &Ground,
    mounted: &Mounted,
    history: Option<&History>,
    seen: &Seen,
    (seed, thread): (u64, u64),
    n_steps: u64,
) {
    let mount = mounted.path();
    let mut client = Client::new(ground, mounted, &mount, seen, (seed, thread));
    let mut watcher = history.map(|history| Watcher::new(history, &mount, seen, (seed, thread)));
    if thread == N_CLIENTS - 1 && watcher.is_none() {
        become_nobody();
    }
    for step in 0..n_steps {
        let place = || format!("seed {seed}, thread {thread}, step {step}");
        client.step(place());
        if let Some(watcher) = &mut watcher {
            watcher.step(place());
        }
    }
}

/// Children that read what no memory holds, each killed after a while.
fn kill_readers(mounted: &Mounted, seen: &Seen, seed: u64, done: &AtomicBool) {
    let mut dice = Dice::new(seed, 3000);
    let huge = path(mounted.join(HUGE).as_os_str().as_encoded_bytes());
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let flags = dice.pick(&[0, libc::O_DIRECT]);
        let file = open(libc::AT_FDCWD, &huge, flags, 0).expect("a file");
        let (mut random, room) = (dice.roll(), Shared::new(1 << 20));
        let child = Child::new(|| {
            use std::os::fd::AsRawFd;
            loop {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let offset = (random >> 8) % HUGE_BYTES;
                if room.pread(file.as_raw_fd(), offset.cast_signed()) < 0 {
                    return 1;
                }
            }
        });
        sleep(Duration::from_millis(dice.below(60) as u64));
        child.kill();
        let start = Instant::now();
        let ended = child.end(KILLED_MAX);
        longest = longest.max(start.elapsed());
        assert_eq!(ended, Ended::Signal(libc::SIGKILL), "seed {seed}: a reader that was killed");
        seen.killed.fetch_add(1, Ordering::Relaxed);
    }
    say(&format!("a killed reader was gone after {longest:?} at most"));
}

/// The process lives, asks for nothing any more, lets itself be unmounted, has held nothing and has complained
/// of nothing.
fn leave(mut mounted: Mounted, ground: &Ground) {
    let is_idle = || {
        let before = ground.simulator.counts();
        sleep(Duration::from_millis(500));
        before == ground.simulator.counts()
    };
    assert!(wait_until(is_idle), "nobody reads, and it asks on and on");
    let n_descriptors =
        fs::read_dir(format!("/proc/{}/fd", mounted.pid())).expect("it lives").count();
    assert!(n_descriptors < DESCRIPTORS_MAX, "{n_descriptors} descriptors");
    // Not lazily: what is open would be EBUSY.
    let path = mounted.path();
    let unmount = || Command::new("umount").arg(&path).output().expect("it runs");
    assert!(wait_until(|| unmount().status.success()), "{:?}", unmount());
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
    let log = mounted.log();
    let strange = ["panic", "defect", "WARN", "ERROR", STILL_OPEN];
    let strange: Vec<_> =
        log.lines().filter(|line| strange.iter().any(|word| line.contains(word))).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    assert!(log.contains("unmounted; "), "{log}");
}

/// For whoever looks for the seed, and for the numbers of a long run.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
