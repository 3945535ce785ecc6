//! The life of a mount: start, end, and what is left behind: nothing.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::mounted::{Mounted, command, is_mounted, send_signal, wait_until};
use crate::support::simulator::Simulator;

fn bucket() -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "hello.txt", "hello");
    simulator
}

/// SIGTERM and SIGINT unmount, and the process ends with exit code 0.
#[test]
fn a_signal_unmounts() {
    let simulator = bucket();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut mounted = Mounted::new(&simulator, "myfiles", &[]);
        assert_eq!(fs::read_to_string(mounted.join("hello.txt")).unwrap(), "hello");
        mounted.signal(signal);
        assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
        assert!(!is_mounted(&mounted.path()));
    }
}

/// `umount` by anybody else ends the process with exit code 0.
#[test]
fn an_outside_umount_ends_the_process() {
    let simulator = bucket();
    let mut mounted = Mounted::new(&simulator, "myfiles", &[]);
    assert!(Command::new("umount").arg(mounted.path()).status().unwrap().success());
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
}

/// A mount in use that is asked to end disappears from its directory at once; its last user reads
/// on, and the process ends when that one leaves.
#[test]
fn a_busy_mount_is_detached_and_ends_with_its_last_user() {
    let simulator = bucket();
    simulator.put_synthetic("myfiles", "big", 20 << 20);
    let mut mounted = Mounted::new(&simulator, "myfiles", &[]);
    let file = fs::File::open(mounted.join("big")).unwrap();
    mounted.signal(libc::SIGTERM);
    assert!(wait_until(|| !is_mounted(&mounted.path())), "gone from the tree at once");
    let mut last = vec![0; 1000];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, 19 << 20).unwrap();
    assert_eq!(last, simulator.range_bytes("myfiles", "big", 19 << 20..(19 << 20) + 1000));
    drop(file);
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
}

/// Without `--foreground` the command returns when the mount answers, with exit code 0.
#[test]
fn the_command_returns_when_the_mount_answers() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let output = command(&simulator).arg("myfiles").arg(directory.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(directory.path().join("hello.txt")).unwrap(), "hello");
    assert!(Command::new("umount").arg(directory.path()).status().unwrap().success());
    let path = directory.path().to_str().unwrap().to_owned();
    assert!(wait_until(|| processes_naming(&path).is_empty()), "no process is left");
}

/// A mount whose process was killed is replaced by the next start on its directory.
#[test]
fn a_dead_mount_is_mounted_again() {
    let simulator = bucket();
    let mut first = Mounted::new(&simulator, "myfiles", &[]);
    let path = first.path();
    first.signal(libc::SIGKILL);
    first.exit_code();
    assert!(fs::read(path.join("hello.txt")).is_err(), "dead");
    let status = command(&simulator).arg("myfiles").arg(&path).status().unwrap();
    assert!(status.success());
    assert_eq!(fs::read_to_string(path.join("hello.txt")).unwrap(), "hello");
    assert!(Command::new("umount").arg(&path).status().unwrap().success());
    let path = path.to_str().unwrap().to_owned();
    assert!(wait_until(|| processes_naming(&path).is_empty()));
}

/// Mounting and unmounting leave no process and no mount behind.
#[test]
fn mounts_and_unmounts_leave_nothing() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap().to_owned();
    for _ in 0..10 {
        let output = command(&simulator).args(["myfiles", &path]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read_to_string(directory.path().join("hello.txt")).unwrap(), "hello");
        assert!(Command::new("umount").arg(&path).status().unwrap().success());
    }
    assert!(wait_until(|| processes_naming(&path).is_empty()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&path));
}

/// The bucket's region is found by itself.
#[test]
fn the_region_is_found() {
    let simulator = Simulator::builder().start();
    simulator.create_bucket_in("abroad", "eu-central-1");
    simulator.put("abroad", "f", "x");
    let mounted = Mounted::new(&simulator, "abroad", &[]);
    assert_eq!(fs::read_to_string(mounted.join("f")).unwrap(), "x");
}

/// TLS trusts the authorities in the file that AWS_CA_BUNDLE names.
#[test]
fn tls_trusts_the_bundle_that_is_named() {
    let simulator = Simulator::builder().bucket("myfiles").tls().start();
    simulator.put("myfiles", "f", "x");
    let bundle = tempfile::NamedTempFile::new().unwrap();
    fs::write(bundle.path(), simulator.ca_pem()).unwrap();
    let mut program = command(&simulator);
    program.env("AWS_CA_BUNDLE", bundle.path());
    let mounted = Mounted::start(program, "myfiles", &[]);
    assert_eq!(fs::read_to_string(mounted.join("f")).unwrap(), "x");
}

/// A public bucket needs no credentials with `--no-sign-request`.
#[test]
fn a_public_bucket_needs_no_credentials() {
    let simulator = Simulator::builder().bucket("public").start();
    simulator.set_anonymous("public", true);
    simulator.put("public", "f", "x");
    let mut program = command(&simulator);
    program.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let mounted = Mounted::start(program, "public", &["--no-sign-request"]);
    assert_eq!(fs::read_to_string(mounted.join("f")).unwrap(), "x");
}

/// A credentials file that other users can read is warned of at the start, with the command that
/// closes it.
#[test]
fn an_open_credentials_file_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credentials");
    let (access, secret) = (simulator.access_key(), simulator.secret_key());
    let text = format!("[work]\naws_access_key_id={access}\naws_secret_access_key={secret}\n");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let mut program = command(&simulator);
    program.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    program.env("AWS_SHARED_CREDENTIALS_FILE", &path);
    let mounted = Mounted::start(program, "myfiles", &["--profile", "work"]);
    assert_eq!(fs::read_to_string(mounted.join("hello.txt")).unwrap(), "hello");
    let log = mounted.log();
    assert!(log.contains(&format!("chmod 600 {}", path.display())), "{log}");
}

/// Processes whose command line has `text`.
fn processes_naming(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

/// A second signal does not wait for the last user: the process ends with exit code 128 plus the
/// signal's number.
#[test]
fn a_second_signal_ends_at_once() {
    let simulator = bucket();
    let mut mounted = Mounted::new(&simulator, "myfiles", &[]);
    let file = fs::File::open(mounted.join("hello.txt")).unwrap();
    mounted.signal(libc::SIGTERM);
    assert!(wait_until(|| !is_mounted(&mounted.path())));
    send_signal(mounted.pid(), libc::SIGTERM);
    assert_eq!(mounted.exit_code(), Some(143), "{}", mounted.log());
    drop(file);
}

/// Of two starts on one directory at the same time one mounts and the other ends with exit code 7,
/// and so does every later start while it is mounted.
#[test]
fn a_directory_is_mounted_once() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let start = || {
        let mut program = command(&simulator);
        program.arg("myfiles").arg(directory.path()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (mut one, mut other) = (start(), start());
    let mut codes = [one.wait().unwrap().code(), other.wait().unwrap().code()];
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(7)]);
    assert_eq!(start().wait().unwrap().code(), Some(7));
    assert!(Command::new("umount").arg(directory.path()).status().unwrap().success());
    assert!(!is_mounted(directory.path()), "one mount, not two upon each other");
}

/// Credentials that change in their file are used without a new mount.
#[test]
fn changed_credentials_are_used() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("credentials");
    let write = |access: &str, secret: &str| {
        let text =
            format!("[default]\naws_access_key_id={access}\naws_secret_access_key={secret}\n");
        fs::write(&path, text).unwrap();
    };
    write(simulator.access_key(), simulator.secret_key());
    let mut program = command(&simulator);
    program.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    program.env("AWS_SHARED_CREDENTIALS_FILE", &path);
    let mounted = Mounted::start(program, "myfiles", &["--open-ttl", "0"]);
    assert_eq!(fs::read_to_string(mounted.join("hello.txt")).unwrap(), "hello");
    simulator.remove_credentials(simulator.access_key());
    write("AKIANEW", "new-secret");
    simulator.add_credentials("AKIANEW", "new-secret");
    assert!(
        wait_until(|| fs::read_to_string(mounted.join("hello.txt")).is_ok()),
        "{}",
        mounted.log()
    );
}
