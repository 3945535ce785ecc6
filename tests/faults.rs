//! A server and a network that fail: right bytes or an error, bounded, and the mount lives on.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::mounted::{Mounted, send_signal, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;
use crate::support::simulator::shaping::Share;

const MIB: u64 = 1 << 20;

/// Cut bodies, throttled requests and reset connections stay invisible to a reader.
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

/// A reader killed while the server stalls is gone, and others read on.
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

/// A panic in a handler, in a download and between reservation and GET each costs one EIO, and the
/// next read is right.
#[test]
#[cfg(feature = "failpoints")]
fn a_panic_costs_one_error() {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};

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
    use std::os::unix::fs::FileExt;
    let mut memory = vec![0_u8; 3 * 4096];
    let start = memory.as_ptr().align_offset(4096);
    file.read_exact_at(&mut memory[start..start + 4096], at)?;
    Ok(memory[start..start + 4096].to_vec())
}

/// A server that is gone is an error, not an empty directory or a missing file.
#[test]
fn an_unreachable_server_is_no_empty_directory() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "d/f", "x");
    let mounted = Mounted::new(&simulator, "myfiles", &["--metadata-ttl", "0"]);
    simulator.shape(|shaping| shaping.errors = Share::All);
    let listed =
        fs::read_dir(mounted.join("d")).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let errno = listed.err().and_then(|err| err.raw_os_error());
    assert!(matches!(errno, Some(libc::EIO | libc::ETIMEDOUT)), "{errno:?}");
    simulator.shape(|shaping| shaping.errors = Share::None);
    assert_eq!(fs::read_to_string(mounted.join("d/f")).unwrap(), "x", "it recovers by itself");
}
