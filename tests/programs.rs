//! What programs rely on: `--json`, `--ready-fd`, `/dev/fd/N` and the library.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{PipeReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::mounted::{binary, command, is_mounted, wait_until};
use crate::support::simulator::Simulator;

/// Who has no rights: `nobody` on most systems.
const NOBODY: u32 = 65_534;

fn bucket() -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "dir/hello.txt", "hello");
    simulator
}

/// A program mounts with the library, reads, tells failures apart by their kind, and unmounts: the
/// example in docs/embed.rs.
#[test]
fn a_program_mounts_by_itself() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let run = |bucket: &str, dir: &Path, key: &str| {
        let program = Path::new(env!("CARGO_BIN_EXE_s3mount")).with_file_name("examples/embed");
        let output = like(&command(&simulator), program)
            .args([bucket, dir.to_str().unwrap(), key])
            .output()
            .expect("the example was built with the tests");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let dir = directory.path();
    assert_eq!(run("myfiles", dir, "dir/hello.txt"), (Some(0), "hello".into(), String::new()));
    assert!(!is_mounted(dir));
    assert_eq!(run("myfiles/dir", dir, "hello.txt").1, "hello");
    let (code, _, said) = run("absent-bucket", dir, "x");
    assert!(code == Some(5) && said.contains("create the bucket absent-bucket"), "{said}");
    let (code, _, said) = run("myfiles", &dir.join("no"), "x");
    assert!(code == Some(7) && said.contains("another directory"), "{said}");
    let (code, _, said) = run("myfiles", dir, "dir/absent");
    assert!(code == Some(1) && said.contains("No such file"), "{said}");
    assert!(!is_mounted(dir));
}

/// A mount of the library that is dropped is gone, also inside a task of somebody else's runtime.
#[test]
fn a_dropped_mount_is_gone() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_owned();
    for (name, value) in simulator.environment() {
        // SAFETY: the runner gives each test a process of its own, and no other thread of it reads
        // the environment now.
        unsafe { std::env::set_var(name, value) };
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mount = s3mount::Mount::builder("myfiles", &dir).start().unwrap();
        assert_eq!(mount.dir(), dir);
        assert!(is_mounted(&dir));
        let path = dir.join("dir/hello.txt");
        let text = tokio::task::spawn_blocking(|| fs::read_to_string(path)).await.unwrap();
        assert_eq!(text.unwrap(), "hello");
        drop(mount);
        assert!(!is_mounted(&dir));
    });
    let err = s3mount::Mount::builder("My_Bucket", &dir)
        .region("nowhere else")
        .start()
        .expect_err("no region");
    assert_eq!(err.kind(), s3mount::StartErrorKind::Usage);
    assert!(err.to_string().contains("--region"), "{err}");
}

/// `--ready-fd N` gets READY=1 when the mount answers, in the foreground and from the background
/// process, and its end when the start failed.
#[test]
fn a_supervisor_is_told_when_the_mount_answers() {
    let simulator = bucket();
    for foreground in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut program = command(&simulator);
        program.args(foreground.then_some("--foreground"));
        program.args(["--ready-fd", "20", "myfiles"]).arg(directory.path());
        give(&mut program, &[(writer.as_raw_fd(), 20)]);
        let mut child = program.stderr(Stdio::null()).spawn().unwrap();
        drop(writer);
        assert_eq!(to_the_end(reader), "READY=1\n");
        assert!(directory.path().join("dir/hello.txt").exists());
        assert!(Command::new("umount").arg(directory.path()).status().unwrap().success());
        assert!(child.wait().unwrap().success());
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let mut program = command(&simulator);
    program.args(["--ready-fd", "20", "absent-bucket"]).arg(tempfile::tempdir().unwrap().path());
    give(&mut program, &[(writer.as_raw_fd(), 20)]);
    let output = program.stderr(Stdio::piped()).spawn().unwrap();
    drop(writer);
    assert_eq!(to_the_end(reader), "");
    assert!(!output.wait_with_output().unwrap().status.success());
}

/// With `/dev/fd/N` as DIR, s3mount serves a FUSE descriptor that somebody else has mounted, as any
/// user, in a namespace that has neither `/dev/fuse` nor the mount point; the mount ends when the
/// process does.
#[test]
fn a_descriptor_is_served_without_any_right() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("mnt");
    fs::create_dir(&dir).unwrap();
    let (device, _unmount) = mount_descriptor(&dir);
    let binary = readable_copy(directory.path());

    let (ready, writer) = std::io::pipe().unwrap();
    let mut program = like(&command(&simulator), "unshare");
    program.args(["--user", "--mount", "--", "sh", "-c"]);
    // Nothing of /dev but the descriptor, and no way to mount anything.
    program.arg(
        "test ! -r /dev/fuse && exec \"$0\" --foreground --allow-other --ready-fd 21 \
         myfiles /dev/fd/20",
    );
    program.arg(&binary);
    program.uid(NOBODY).gid(NOBODY).current_dir("/");
    give(&mut program, &[(device.as_raw_fd(), 20), (writer.as_raw_fd(), 21)]);
    let log = File::create(directory.path().join("log")).unwrap();
    let mut child = Ended(program.stdin(Stdio::null()).stderr(log).spawn().unwrap());
    drop((writer, device));
    let log = || fs::read_to_string(directory.path().join("log")).unwrap();
    assert_eq!(to_the_end(ready), "READY=1\n", "{}", log());
    assert_eq!(user_of(child.0.id()), NOBODY);
    assert_eq!(fs::read_to_string(dir.join("dir/hello.txt")).unwrap(), "hello");
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert_eq!(names, ["dir"]);

    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert!(wait_until(|| fs::read_dir(&dir).is_err()), "nobody serves it any more");
}

/// A descriptor that is not one of `/dev/fuse`, or is not open, ends the start with exit code 7.
#[test]
fn a_wrong_descriptor_is_refused() {
    let simulator = bucket();
    let file = tempfile::tempfile().unwrap();
    let mut program = command(&simulator);
    program.args(["--json", "myfiles", "/dev/fd/20"]);
    give(&mut program, &[(file.as_raw_fd(), 20)]);
    let output = program.output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stderr).unwrap();
    let said: serde_json::Value = serde_json::from_str(&said).expect("one object");
    assert_eq!((&said["error"], &said["exit_code"]), (&"mount_point".into(), &7.into()));
    assert!(said["message"].as_str().unwrap().contains("not a descriptor of /dev/fuse"), "{said}");
}

/// Another program with the environment of `pattern`.
fn like(pattern: &Command, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut other = Command::new(program);
    for (name, value) in pattern.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

/// Lets the program have descriptors of ours under numbers of its own, which are free there.
fn give(program: &mut Command, numbers: &[(i32, i32)]) {
    for &(ours, theirs) in numbers {
        let copy = move || {
            // SAFETY: takes no pointers, and `ours` is open in the caller.
            match unsafe { libc::dup2(ours, theirs) } {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        // SAFETY: between fork and exec only dup2 is called, which is async-signal-safe.
        unsafe { program.pre_exec(copy) };
    }
}

fn to_the_end(mut reader: PipeReader) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    text
}

/// Mounts a new FUSE descriptor on `dir` for [`NOBODY`] to serve, and others to see. Unmounts when the
/// second value drops.
fn mount_descriptor(dir: &Path) -> (File, impl Drop + use<>) {
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let device = device.expect("/dev/fuse");
    let data = format!(
        "fd={},rootmode=40000,user_id={NOBODY},group_id={NOBODY},allow_other,default_permissions",
        device.as_raw_fd()
    );
    let text = |text: &str| CString::new(text).expect("no zeros");
    let (source, kind, data) = (text("s3"), text("fuse.s3mount"), text(&data));
    let target = text(dir.to_str().expect("UTF-8"));
    // SAFETY: strings with their terminating zeros, which outlive the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV,
            data.as_ptr().cast(),
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    (device, Unmount(dir.to_owned()))
}

/// The binary where anybody may run it.
fn readable_copy(directory: &Path) -> PathBuf {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
        .expect("the file system works");
    let copy = directory.join("s3mount");
    fs::copy(binary(), &copy).expect("the file system works");
    copy
}

fn user_of(pid: u32) -> u32 {
    std::os::unix::fs::MetadataExt::uid(
        &fs::metadata(format!("/proc/{pid}")).expect("the file system works"),
    )
}

/// A child that does not outlive its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
