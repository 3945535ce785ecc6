//! `s3mount umount` and `s3mount list` of an ordinary user, who mounts by fusermount3.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::mounted::{binary, command, send_signal, wait_until};
use crate::support::simulator::call::Kind;
use crate::umount::{Ground, Running, check_failed, listed, object, said, waits};

/// A namespace of mounts in which an ordinary user may mount by fusermount3.
struct Cell {
    ground: Ground,
    place: TempDir,
    shell: Running,
}

/// Nobody whom a test of another kind mounts for; fusermount3 wants one with a name.
const ORDINARY: &str = "daemon";

impl Cell {
    fn new(with_fusectl: bool) -> Self {
        let (ground, place) = (Ground::new(), tempfile::tempdir().expect("a directory"));
        let at = |name: &str| place.path().join(name);
        fs::copy(binary(), at("s3mount")).expect("a copy");
        for dir in ["dev", "run", "mnt", "other"] {
            fs::create_dir(at(dir)).expect("a directory");
            chown(at(dir), Some(uid()), Some(uid())).expect("root");
        }
        let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
        open(place.path()).expect("root");
        let script = "cd \"$0\" && mount -t tmpfs none dev && mknod -m 666 dev/fuse c 10 229 && \
                      mount --bind dev/fuse /dev/fuse && \
                      of=/sys/fs/fuse/connections && while mountpoint -q $of; do umount $of; done && \
                      if $1; then mount -t fusectl none $of; fi && \
                      touch ready && exec sleep 600";
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "--propagation", "private", "--", "sh", "-ec", script]);
        let shell = Running::start(shell.arg(place.path()).arg(with_fusectl.to_string()));
        assert!(wait_until(|| at("ready").exists()), "a namespace");
        Self { ground, place, shell }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The first words of a program in the namespace.
    fn inside(&self) -> Command {
        let mut inside = Command::new("nsenter");
        for (name, value) in command(&self.ground.simulator).get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside.arg(format!("--mount=/proc/{}/ns/mnt", self.shell.pid())).stdin(Stdio::null());
        inside
    }

    /// The first words of a program of the user.
    fn user(&self, program: &Path) -> Command {
        let mut user = self.inside();
        user.env("XDG_RUNTIME_DIR", self.at("run"));
        user.args(["setpriv", "--reuid", ORDINARY, "--regid", ORDINARY, "--clear-groups"]);
        user.arg(program);
        user
    }

    fn s3mount(&self, words: &[&str]) -> Output {
        self.user(&self.at("s3mount")).args(words).output().expect("it runs")
    }

    /// Mounts, and gives the process that serves.
    fn mount(&self, name: &str) -> u32 {
        let dir = self.at(name);
        let mounted = self.s3mount(&["myfiles", dir.to_str().expect("UTF-8")]);
        assert!(mounted.status.success(), "{mounted:?}");
        let row = self.listed(name);
        assert_eq!((&row["state"], &row["uid"]), (&"serving".into(), &uid().into()));
        u32::try_from(row["pid"].as_u64().expect("a number")).expect("a small one")
    }

    fn listed(&self, name: &str) -> Value {
        listed(&self.s3mount(&["list", "--json"]), &self.at(name))
    }

    fn umount(&self, options: &[&str], name: &str) -> Output {
        let dir = self.at(name);
        self.s3mount(&[&["umount"], options, &[dir.to_str().expect("UTF-8")]].concat())
    }

    /// A program of the user that holds the mount, when it does.
    fn holding(&self, name: &str, words: &str) -> Running {
        let mut holder = self.user(Path::new("sh"));
        let holder = Running::start(holder.args(["-c", words]).arg(self.at(name)));
        let inside = self.at(name);
        assert!(wait_until(|| {
            let links = fs::read_dir(format!("/proc/{}/fd", holder.pid())).into_iter().flatten();
            let links = links.flatten().filter_map(|file| fs::read_link(file.path()).ok());
            let cwd = fs::read_link(format!("/proc/{}/cwd", holder.pid()));
            links.chain(cwd).any(|link| link.starts_with(&inside))
        }));
        holder
    }
}

fn uid() -> u32 {
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let line = users.lines().find_map(|line| line.strip_prefix(&format!("{ORDINARY}:")));
    line.and_then(|line| line.split(':').nth(1)?.parse().ok()).expect("the user daemon")
}

fn has_ended(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}

/// An ordinary user unmounts what they mounted, by fusermount3: idle, stopped and dead mounts, and with
/// `--lazy` those in use; who uses it is named, and that processes of other users are not seen.
#[test]
fn an_ordinary_user_unmounts() {
    let cell = Cell::new(false);
    let pid = cell.mount("mnt");
    let holder = cell.holding("mnt", "cd \"$0/d\"; exec sleep 600");
    let holds = format!("in use by {} (sleep, working directory)", holder.pid());
    check_failed(&cell.umount(&[], "mnt"), 7, &[&holds, "other users are not seen without root"]);
    drop(holder);
    let done = object(&said(&cell.umount(&["--json"], "mnt")));
    assert_eq!((&done["pid"], &done["process_ended"]), (&pid.into(), &true.into()));
    assert!(has_ended(pid) && cell.listed("mnt").is_null());

    let pid = cell.mount("mnt");
    let holder = cell.holding("mnt", "exec 5< \"$0/hello.txt\"; exec sleep 600");
    let sentence = said(&cell.umount(&["--lazy"], "mnt"));
    assert!(sentence.contains("ends when the last user has left"), "{sentence}");
    assert!(cell.listed("mnt").is_null() && !has_ended(pid));
    drop(holder);
    assert!(wait_until(|| has_ended(pid)));

    let pid = cell.mount("mnt");
    send_signal(pid, libc::SIGSTOP);
    assert_eq!(cell.listed("mnt")["state"], "stopped");
    assert!(said(&cell.umount(&[], "mnt")).contains("is stopped"));
    send_signal(pid, libc::SIGCONT);
    assert!(wait_until(|| has_ended(pid)));

    let pid = cell.mount("mnt");
    let _holder = cell.holding("mnt", "cd \"$0\"; exec sleep 600");
    send_signal(pid, libc::SIGKILL);
    assert!(wait_until(|| has_ended(pid)));
    assert_eq!(cell.listed("mnt")["state"], "dead");
    said(&cell.umount(&[], "mnt"));
    assert!(cell.listed("mnt").is_null());
}

/// With `--force` an ordinary user's mount goes, too: who waits in it gets an error at once, and the
/// process ends, also a stopped one, whether or not the kernel's control of connections is mounted.
#[test]
fn an_ordinary_user_forces_an_unmount() {
    for with_fusectl in [true, false] {
        let cell = Cell::new(with_fusectl);
        for is_stopped in [false, true] {
            let pid = cell.mount("mnt");
            let held = cell.ground.simulator.hold(Kind::Get, "hello.txt");
            let mut reader = cell.user(Path::new("cat"));
            let reader = reader.arg(cell.at("mnt/hello.txt")).stderr(Stdio::piped());
            let reader = reader.stdout(Stdio::null()).spawn().unwrap();
            assert!(wait_until(|| waits(reader.id())));
            if is_stopped {
                send_signal(pid, libc::SIGSTOP);
            }
            let done = object(&said(&cell.umount(&["--force", "--json"], "mnt")));
            assert_eq!((&done["pid"], &done["process_ended"]), (&pid.into(), &true.into()));
            assert!(has_ended(pid) && cell.listed("mnt").is_null());
            assert!(!reader.wait_with_output().unwrap().status.success());
            drop(held);
        }
    }
}

/// `--all` unmounts all that the user has mounted, and of nobody else; what another user has mounted is
/// refused with exit code 4, and listed as unknown.
#[test]
fn all_mounts_of_a_user_are_unmounted() {
    let cell = Cell::new(false);
    let pids = [cell.mount("mnt"), cell.mount("other")];
    let root_dir = tempfile::tempdir().unwrap();
    let mut root = cell.inside();
    root.env("XDG_RUNTIME_DIR", cell.ground.runtime_dir.path()).arg(binary()).arg("myfiles");
    assert!(root.arg(root_dir.path()).status().unwrap().success());

    let output = cell.s3mount(&["umount", root_dir.path().to_str().unwrap()]);
    check_failed(&output, 4, &["was mounted by root: only that user and root may unmount it"]);
    let text = said(&cell.s3mount(&["umount", "--all"]));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(pids.into_iter().all(has_ended) && cell.listed("mnt").is_null());
    let row = listed(&cell.s3mount(&["list", "--json"]), root_dir.path());
    assert_eq!((&row["uid"], &row["state"]), (&0.into(), &"unknown".into()));
    assert_eq!(said(&cell.s3mount(&["umount", "--all"])), "");
    assert!(cell.inside().arg("umount").arg(root_dir.path()).status().unwrap().success());
}
