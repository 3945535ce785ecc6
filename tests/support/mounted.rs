//! The built binary, mounted through the kernel on an empty directory, and unmounted by Drop.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::simulator::Simulator;

/// What is waited for ends in this time, or the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A mount that lives as long as this value.
pub(crate) struct Mounted {
    child: Child,
    directory: TempDir,
}

impl Mounted {
    /// Mounts `bucket` of the simulator with further `options`.
    pub(crate) fn new(simulator: &Simulator, bucket: &str, options: &[&str]) -> Self {
        Self::start(command(simulator), bucket, options)
    }

    /// As [`Mounted::new`], by a command that was prepared.
    pub(crate) fn start(program: Command, bucket: &str, options: &[&str]) -> Self {
        Self::try_start(program, bucket, options).unwrap_or_else(|ended| {
            panic!("s3mount ended: {}", ended.log);
        })
    }

    /// As [`Mounted::start`], where a start that ends is an answer.
    pub(crate) fn try_start(
        mut program: Command,
        bucket: &str,
        options: &[&str],
    ) -> Result<Self, Ended> {
        let directory = tempfile::tempdir().expect("a mount point");
        let log = fs::File::create(log_path(directory.path())).expect("a log file");
        let child = program
            .arg("--foreground")
            .args(options)
            .arg(bucket)
            .arg(mount_point(directory.path()))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let mut mounted = Self { child, directory };
        let mut ended = None;
        let ready = wait_until(|| {
            ended = mounted.child.try_wait().expect("a child");
            ended.is_some() || is_mounted(&mount_point(mounted.directory.path()))
        });
        if let Some(status) = ended {
            return Err(Ended { code: status.code(), log: mounted.log() });
        }
        assert!(ready, "not mounted: {}", mounted.log());
        Ok(mounted)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        mount_point(self.directory.path())
    }

    /// `name` in it.
    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its terminal so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log_path(self.directory.path())).unwrap_or_default()
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: libc::c_int) {
        send_signal(self.child.id(), signal);
    }

    /// The exit code, when the process ends by itself in time.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until(|| {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// Forgets the largest resident set so far (proc(5), `clear_refs`).
    pub(crate) fn reset_peak_resident(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("alive");
    }

    /// The largest resident set so far, in bytes.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// The resident set, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// What the process has of its address space, in bytes.
    pub(crate) fn address_bytes(&self) -> u64 {
        self.status_bytes("VmSize:")
    }

    /// Whether the process has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("alive");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect(field);
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// How often its threads have slept and gone on.
    pub(crate) fn n_wakeups(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("alive");
        let of_thread = |thread: fs::DirEntry| -> u64 {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let field = "voluntary_ctxt_switches:";
            let count = status.lines().find_map(|line| line.strip_prefix(field));
            count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
        };
        threads.flatten().map(of_thread).sum()
    }
}

/// A start that did not come to a mount.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(libc::SIGTERM);
            if self.exit_code().is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        let _ = Command::new("umount").arg("-l").arg(self.path()).stderr(Stdio::null()).status();
        if std::thread::panicking() {
            let log = self.log();
            let _ = writeln!(std::io::stderr(), "--- log of s3mount\n{log}");
        }
    }
}

/// The binary, with the simulator as S3 and nothing of this user's own configuration.
pub(crate) fn command(simulator: &Simulator) -> Command {
    command_with(simulator.environment())
}

/// The binary, with `environment` and nothing of this user's own configuration.
pub(crate) fn command_with<const N: usize>(environment: [(&'static str, String); N]) -> Command {
    let mut command = bare_command();
    command.envs(environment);
    command
}

/// The binary that is tested: that of this build, or the one that `S3MOUNT_TEST_BINARY` names, as that
/// of a release.
pub(crate) fn binary() -> PathBuf {
    let named = std::env::var_os("S3MOUNT_TEST_BINARY").filter(|name| !name.is_empty());
    named.map_or_else(|| env!("CARGO_BIN_EXE_s3mount").into(), PathBuf::from)
}

/// The binary, with nothing of this user's own configuration.
pub(crate) fn bare_command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// Whether `path` is the root of another file system than its parent.
pub(crate) fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    match (device(path), device(path.parent().expect("a parent"))) {
        (Ok(inside), Ok(outside)) => inside != outside,
        _ => false,
    }
}

/// Looks again and again until `test` holds; false when it never did.
pub(crate) fn wait_until(mut test: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if test() {
            return true;
        }
        sleep(Duration::from_millis(10));
    }
    false
}

#[expect(clippy::disallowed_methods, reason = "tests of a process have no clock but the wall's")]
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Whether a process waits for an answer, or for a page of a file.
pub(crate) fn waits(pid: u32) -> bool {
    let stack = fs::read_to_string(format!("/proc/{pid}/stack")).unwrap_or_default();
    ["folio_wait_bit", "fuse_direct_IO", "request_wait_answer"].iter().any(|it| stack.contains(it))
}

/// kill(2).
pub(crate) fn send_signal(pid: u32, signal: libc::c_int) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -{signal} {pid}");
}

fn mount_point(directory: &Path) -> PathBuf {
    let path = directory.join("mnt");
    let _ = fs::create_dir(&path);
    path
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("log")
}
