//! Before the machine sleeps: with a bus and a logind of our own, a mount that nobody waits for in the kernel
//! when the sleep begins, and that trusts no connection afterwards.

use std::fs;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::logind::{Bus, Logind};
use crate::support::mounted::{Mounted, command, wait_until, waits};
use crate::support::simulator::Simulator;
use crate::support::simulator::shaping::Share;

const MIB: u64 = 1 << 20;

/// All that is known is out of date at once, so that each look would be a request.
const SHORT: [&str; 6] = [
    "--metadata-ttl=0s",
    "--negative-ttl=0s",
    "--open-ttl=0s",
    "--log-level",
    "debug",
    "--memory=64MiB",
];

fn bucket() -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").start();
    for name in ["known/a", "known/b", "unknown/a", "later"] {
        simulator.put("myfiles", name, format!("content of {name}"));
    }
    simulator.put_synthetic("myfiles", "big", 200 * MIB);
    simulator
}

fn mount(simulator: &Simulator, bus: &Bus) -> Mounted {
    let mut program = command(simulator);
    program.env("DBUS_SYSTEM_BUS_ADDRESS", bus.address());
    Mounted::start(program, "myfiles", &SHORT)
}

/// `find`, and a buffered and a direct reader, which wait for a server that is silent from now on.
fn who_wait(simulator: &Simulator, mounted: &Mounted) -> Vec<Child> {
    let open = |flags: i32| {
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(flags).open(mounted.join("big")).expect("the mount answers")
    };
    let (buffered, direct) = (open(0), open(libc::O_DIRECT));
    simulator.shape(|shaping| shaping.silent = Share::All);
    simulator.reset_log();
    let dd = |file: fs::File, skip: &str| {
        let mut dd = Command::new("dd");
        dd.args(["bs=1M", "count=1", "of=/dev/null", "status=none", skip]).stdin(file);
        dd.stderr(Stdio::piped()).spawn().expect("dd")
    };
    let mut find = Command::new("find");
    find.arg(mounted.join("unknown")).stdout(Stdio::null()).stderr(Stdio::piped());
    let all = vec![find.spawn().expect("find"), dd(buffered, "skip=50"), dd(direct, "skip=100")];
    let all_wait = || all.iter().all(|child| waits(child.id()));
    assert!(wait_until(|| all_wait() && simulator.counts().list > 0), "all wait");
    all
}

/// `cat` of a file of which nothing is known.
fn cat(mounted: &Mounted, name: &str) -> (bool, String) {
    let output = Command::new("cat").arg(mounted.join(name)).output().expect("cat");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// When the machine is to sleep (logind says so), programs that wait for S3 in a listing, a buffered or a
/// direct read get their answers within two seconds or ETIMEDOUT, so that all of them can be frozen, and only
/// then the sleep is no longer held back. Until the machine is awake what has to be asked for ends with
/// ETIMEDOUT at once and without a request, while names and bytes that are known are shown as ever, whatever
/// their time.
#[test]
fn nobody_waits_when_the_machine_sleeps() {
    let simulator = bucket();
    let bus = Bus::start();
    let logind = Logind::start(&bus);
    let mounted = mount(&simulator, &bus);
    assert!(wait_until(|| logind.n_held() == 1), "{}", mounted.log());

    fs::metadata(mounted.join("known/a")).unwrap();
    assert_eq!(fs::read_dir(mounted.join("known")).unwrap().count(), 2);
    assert_eq!(fs::read(mounted.join("known/a")).unwrap(), b"content of known/a");
    let open_direct = || {
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECT).open(mounted.join("known/a"))
    };
    let known = || {
        assert!(fs::metadata(mounted.join("known/b")).unwrap().is_file());
        assert_eq!(fs::read_dir(mounted.join("known")).unwrap().count(), 2);
        let mut bytes = [0; 64];
        let n_bytes = open_direct().unwrap().read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes[..n_bytes], b"content of known/a");
    };
    known();

    let mut waiting = who_wait(&simulator, &mounted);
    let start = Instant::now();
    logind.prepare_for_sleep(true);
    assert!(wait_until(|| logind.n_held() == 0), "{}", mounted.log());
    // Said when the last answer is with the kernel, before the sleep is let begin.
    let log = mounted.log();
    assert!(log.contains("requests that waited for S3 have failed (ETIMEDOUT)"), "{log}");
    for child in waiting.drain(..) {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("timed out"), "{said}");
    }
    assert!(start.elapsed() < Duration::from_secs(12), "not by their deadlines, of 15 s at least");

    simulator.reset_log();
    known();
    for name in ["later", "unknown/a"] {
        let (is_read, said) = cat(&mounted, name);
        assert!(!is_read && said.contains("timed out"), "{said}");
    }
    assert_eq!(simulator.counts().requests(), 0, "nothing was asked");
    assert_eq!(logind.n_asked(), 1);
    let log = mounted.log();
    assert!(!log.contains(" WARN "), "{log}");
}

/// When the machine is awake again, all is read as before at once, on new connections, and the next sleep is
/// held back anew; also where the sleep was called off before it began.
#[test]
fn after_a_sleep_nothing_that_was_connected_before_is_used() {
    let simulator = bucket();
    let bus = Bus::start();
    let logind = Logind::start(&bus);
    let mounted = mount(&simulator, &bus);
    assert!(wait_until(|| logind.n_held() == 1), "{}", mounted.log());
    for (round, name) in ["known/a", "known/b"].into_iter().enumerate() {
        simulator.reset_log();
        fs::read(mounted.join(name)).unwrap();
        let before: Vec<u64> = simulator.log().iter().map(|entry| entry.connection).collect();
        logind.prepare_for_sleep(true);
        if round == 0 {
            assert!(wait_until(|| logind.n_held() == 0), "{}", mounted.log());
            simulator.reset_log();
        }
        logind.prepare_for_sleep(false);
        assert!(wait_until(|| logind.n_asked() == round + 2 && logind.n_held() == 1));
        simulator.reset_log();
        assert_eq!(fs::read(mounted.join("later")).unwrap(), b"content of later");
        let after: Vec<u64> = simulator.log().iter().map(|entry| entry.connection).collect();
        assert!(!before.is_empty() && !after.is_empty());
        assert!(after.iter().all(|it| !before.contains(it)), "{before:?}, then {after:?}");
        let lines = mounted.log().matches("S3 is connected to anew").count();
        assert_eq!(lines, round + 1, "{}", mounted.log());
    }
}

/// Without a bus, and where logind does not let the sleep be held back, a mount works, and one line of its
/// log at level debug says so; where logind or the bus goes and comes back, the next sleep is held back
/// again, and what waits is not kept short for a sleep that nobody speaks of any more.
#[test]
fn a_bus_and_a_logind_may_be_absent_refuse_go_and_come() {
    let simulator = bucket();
    let mut bus = Bus::start();
    bus.go();
    let mounted = mount(&simulator, &bus);
    let not_heard = |times: usize| {
        let line = "the sleep of this machine is not heard of";
        wait_until(|| mounted.log().matches(line).count() == times)
    };
    assert!(not_heard(1), "{}", mounted.log());
    assert_eq!(fs::read(mounted.join("known/a")).unwrap(), b"content of known/a");
    assert!(mounted.log().lines().all(|line| !line.contains(" WARN ")), "{}", mounted.log());

    bus.come();
    // The bus is there before logind is.
    let logind = Logind::refusing(&bus);
    assert!(wait_until(|| logind.n_asked() == 1), "{}", mounted.log());
    assert!(wait_until(|| mounted.log().contains("does not wait for us before it sleeps: ")));
    logind.prepare_for_sleep(true);
    assert!(wait_until(|| mounted.log().contains("this machine goes to sleep")));
    assert!(!cat(&mounted, "unknown/a").0, "although it could not be held back");
    // One that is gone takes its word with it.
    drop(logind);
    assert!(wait_until(|| cat(&mounted, "unknown/a").0), "{}", mounted.log());

    let logind = Logind::start(&bus);
    assert!(wait_until(|| logind.n_held() == 1), "{}", mounted.log());
    logind.prepare_for_sleep(true);
    assert!(wait_until(|| logind.n_held() == 0), "{}", mounted.log());
    assert!(!cat(&mounted, "later").0);
    bus.go();
    assert!(wait_until(|| cat(&mounted, "later").0), "{}", mounted.log());
    drop(logind);

    bus.come();
    let logind = Logind::start(&bus);
    assert!(wait_until(|| logind.n_held() == 1), "{}", mounted.log());
    drop(mounted);
    assert!(wait_until(|| logind.n_held() == 0), "the end of a mount holds back nothing");
}

/// Only logind is believed: what others on the bus send in its words changes nothing.
#[test]
fn a_sleep_is_believed_by_the_word_of_logind_alone() {
    let simulator = bucket();
    let bus = Bus::start();
    let logind = Logind::start(&bus);
    let mounted = mount(&simulator, &bus);
    assert!(wait_until(|| logind.n_held() == 1), "{}", mounted.log());
    logind.forge(&bus, true);
    // What is heard in order was heard when this is.
    logind.forge(&bus, false);
    assert_eq!(fs::read(mounted.join("unknown/a")).unwrap(), b"content of unknown/a");
    logind.prepare_for_sleep(true);
    assert!(wait_until(|| logind.n_held() == 0), "{}", mounted.log());
    logind.forge(&bus, false);
    assert!(!cat(&mounted, "later").0, "and nor is the machine awake by it");
    logind.prepare_for_sleep(false);
    assert!(wait_until(|| logind.n_asked() == 2));
    assert!(cat(&mounted, "later").0);
    let log = mounted.log();
    assert_eq!(log.matches("this machine goes to sleep").count(), 1, "{log}");
    assert_eq!(log.matches("S3 is connected to anew").count(), 1, "{log}");
}
