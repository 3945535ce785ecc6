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

/// SIGTERM and SIGINT unmount, and the process ends with 0.
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

/// An outside umount ends the process with 0.
#[test]
fn an_outside_umount_ends_the_process() {
    let simulator = bucket();
    let mut mounted = Mounted::new(&simulator, "myfiles", &[]);
    assert!(Command::new("umount").arg(mounted.path()).status().unwrap().success());
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
}

/// A mount in use is detached when it is asked to end; its last user reads on, and the process ends
/// when that one leaves.
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

/// In the background the command returns 0 when the mount answers.
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

/// A start that fails says why in one sentence, ends with the code of its kind, and leaves nothing
/// mounted.
#[test]
fn a_failed_start_leaves_nothing() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let mount = directory.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut program = command(&simulator);
        program.args(arguments).envs(environment.iter().copied());
        let output = program.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    let (mnt, file) = (mount.to_str().unwrap(), file.to_str().unwrap());
    let absent = "/nowhere/at/all";
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a str);
    let cases: [Case<'_>; 8] = [
        (&["absent-bucket", mnt], &[], 5, "absent-bucket"),
        (&["myfiles", mnt], &[("AWS_SECRET_ACCESS_KEY", "wrong")], 4, "secret"),
        (&["myfiles", mnt], &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")], 6, "127.0.0.1:1"),
        (&["myfiles", absent], &[], 7, absent),
        (&["myfiles", file], &[], 7, "not a directory"),
        (&["myfiles", mnt, "--memory", "1"], &[], 2, "--memory"),
        (&["myfiles", mnt, "--regoin", "x"], &[], 2, "--region"),
        (&["My_Files!", mnt], &[], 2, "My_Files!"),
    ];
    for (arguments, environment, code, part) in cases {
        let (status, text) = run(arguments, environment);
        assert_eq!(status, Some(code), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
        assert!(!is_mounted(&mount), "{arguments:?}");
    }
}

/// After kill -9 the mount point is dead; the next start detaches it and mounts again.
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

/// A loop of mounts and unmounts leaves no process and no mount.
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

/// The region is found by itself from the bucket's redirect.
#[test]
fn the_region_is_found() {
    let simulator = Simulator::builder().start();
    simulator.create_bucket_in("abroad", "eu-central-1");
    simulator.put("abroad", "f", "x");
    let mounted = Mounted::new(&simulator, "abroad", &[]);
    assert_eq!(fs::read_to_string(mounted.join("f")).unwrap(), "x");
}

/// TLS with the authority of AWS_CA_BUNDLE; without it the certificate is not trusted.
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
    let directory = tempfile::tempdir().unwrap();
    let output = command(&simulator).arg("myfiles").arg(directory.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("certificate"), "{text}");
}

/// A public bucket needs no credentials with --no-sign-request.
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

/// A credentials file that others can read is warned of, by name, with what to do.
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

/// A second signal does not wait for the last user.
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
