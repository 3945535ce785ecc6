//! `s3mount umount` and `s3mount list`, whatever the process that serves does.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::mounted::{
    Mounted, bare_command, binary, command, is_mounted, send_signal, wait_until,
};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;
use crate::support::simulator::shaping::Share;

const MIB: u64 = 1 << 20;

/// A bucket, and a folder for the control sockets of its mounts.
pub(crate) struct Ground {
    pub(crate) simulator: Simulator,
    pub(crate) runtime_dir: TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let simulator = Simulator::builder().bucket("myfiles").start();
        simulator.put("myfiles", "hello.txt", "hello");
        simulator.put("myfiles", "d/inner", "inner");
        simulator.put_synthetic("myfiles", "big", 256 * MIB);
        let runtime_dir = tempfile::tempdir().expect("a directory");
        Self { simulator, runtime_dir }
    }

    fn mount(&self, options: &[&str]) -> Mounted {
        let mut program = command(&self.simulator);
        program.env("XDG_RUNTIME_DIR", self.runtime_dir.path());
        let mounted = Mounted::start(program, "myfiles", options);
        assert!(wait_until(|| mounted.log().contains(" is mounted on ")), "{}", mounted.log());
        mounted
    }

    fn program(&self, words: &[&str]) -> Command {
        let mut program = bare_command();
        program.env("XDG_RUNTIME_DIR", self.runtime_dir.path()).args(words).stdin(Stdio::null());
        program
    }

    fn umount(&self, options: &[&str], dir: &Path) -> Output {
        self.program(&["umount"]).args(options).arg(dir).output().expect("it runs")
    }

    /// What the list says of this directory.
    fn listed(&self, dir: &Path) -> Value {
        let output = self.program(&["list", "--json"]).output().expect("it runs");
        listed(&output, dir)
    }
}

pub(crate) fn listed(output: &Output, dir: &Path) -> Value {
    let rows: Vec<Value> = said(output).lines().map(object).collect();
    let here = rows.into_iter().filter(|row| row["dir"] == dir.to_str().expect("UTF-8"));
    let mut here: Vec<Value> = here.collect();
    assert!(here.len() <= 1, "{here:?}");
    here.pop().unwrap_or(Value::Null)
}

pub(crate) fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|err| panic!("{line}: {err}"))
}

/// What a command that succeeds prints.
#[track_caller]
pub(crate) fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{:?} {errors}", output.status);
    String::from_utf8(output.stdout.clone()).expect("UTF-8").trim_end().to_owned()
}

/// A command that fails does so with this exit code and one sentence that has these words.
#[track_caller]
pub(crate) fn check_failed(output: &Output, exit_code: i32, words: &[&str]) {
    let sentence = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "{sentence}");
    assert_eq!((sentence.lines().count(), output.stdout.len()), (1, 0), "{sentence}");
    for word in words {
        assert!(sentence.contains(word), "no {word:?} in {sentence}");
    }
}

/// A program that goes on until it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(program: &mut Command) -> Self {
        let child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.expect("it runs"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn python(script: &str, path: &Path) -> Running {
    Running::start(Command::new("python3").args(["-c", script]).arg(path))
}

/// Reads or lists until it is answered.
struct Waiting(Vec<Child>);

impl Waiting {
    /// By a buffered and a direct read, and a lookup, of a server that has fallen silent.
    fn start(ground: &Ground, mounted: &Mounted) -> Self {
        let open = |flags: i32| {
            let mut options = fs::OpenOptions::new();
            options.read(true).custom_flags(flags).open(mounted.join("big")).expect("a file")
        };
        let (buffered, direct) = (open(0), open(libc::O_DIRECT));
        ground.simulator.shape(|shaping| shaping.silent = Share::All);
        let dd = |file: File, skip: &str| {
            let arguments = ["bs=1M", "count=1", "of=/dev/null", "status=none", skip];
            let mut dd = Command::new("dd");
            dd.args(arguments).stdin(file).stderr(Stdio::null()).spawn().expect("dd")
        };
        let mut ls = Command::new("ls");
        let ls = ls.arg(mounted.join("d")).stderr(Stdio::null()).stdout(Stdio::null());
        let all = vec![dd(buffered, "skip=50"), dd(direct, "skip=100"), ls.spawn().expect("ls")];
        assert!(wait_until(|| all.iter().all(|it| waits(it.id()))), "all wait");
        Self(all)
    }

    fn check_fail(self) {
        for mut child in self.0 {
            assert!(!child.wait().expect("a child").success(), "an error, not an answer");
        }
    }
}

/// Whether a process waits for an answer, or for a page of a file.
pub(crate) fn waits(pid: u32) -> bool {
    let stack = fs::read_to_string(format!("/proc/{pid}/stack")).unwrap_or_default();
    ["folio_wait_bit", "fuse_direct_IO", "request_wait_answer"].iter().any(|it| stack.contains(it))
}

/// `s3mount umount DIR` takes a mount away and returns when the process that served it has ended, with
/// exit code 0. DIR may be relative, have a `/` at its end, have `..`, spaces and other letters in it, or
/// be a symbolic link to the directory.
#[test]
fn a_mount_is_unmounted_by_any_path_to_it() {
    let ground = Ground::new();
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("it's a b\u{e9}\\040");
    let (link, beside) = (place.path().join("link"), place.path().join("beside"));
    fs::create_dir(&dir).unwrap();
    fs::create_dir(&beside).unwrap();
    symlink(&dir, &link).unwrap();
    let mut slash = dir.clone().into_os_string();
    slash.push("/");
    let through = beside.join("..").join(dir.file_name().unwrap()).join(".");
    let relative = PathBuf::from("../link");
    for typed in [&dir, &PathBuf::from(slash), &through, &link, &relative] {
        let mut program = command(&ground.simulator);
        program.env("XDG_RUNTIME_DIR", ground.runtime_dir.path()).arg("myfiles").arg(&dir);
        assert!(program.status().unwrap().success());
        let mut umount = ground.program(&["umount", "--json"]);
        let done = object(&said(&umount.arg(typed).current_dir(&beside).output().unwrap()));
        assert_eq!((&done["dir"], &done["source"]), (&dir.to_str().into(), &"s3://myfiles".into()));
        assert_eq!((&done["process_ended"], &done["detached"]), (&true.into(), &false.into()));
        assert!(!is_mounted(&dir), "{}", typed.display());
        let pid = done["pid"].as_u64().unwrap();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(line.is_empty(), "the process has ended");
    }
}

/// What is no mount of s3mount is left alone, with exit code 7 and a sentence that says what it is: not
/// mounted, a mount of another kind, or a path in a mount, with the command that unmounts that. Of
/// several directories each is tried, and the exit code is that of the first failure.
#[test]
fn what_is_no_mount_of_ours_stays() {
    let ground = Ground::new();
    let mut mounted = ground.mount(&[]);
    let place = tempfile::tempdir().unwrap();
    let path = mounted.path();
    let shown = path.to_str().unwrap();
    let link = place.path().join("link");
    symlink(mounted.join("d"), &link).unwrap();
    check_failed(&ground.umount(&[], place.path()), 7, &["is not mounted", "s3mount list"]);
    check_failed(&ground.umount(&["--force"], Path::new("/no/such")), 7, &["is not mounted"]);
    check_failed(
        &ground.umount(&["--lazy"], Path::new("/proc")),
        7,
        &["another kind, proc (proc)"],
    );
    for inside in [mounted.join("d"), mounted.join("no/such"), link] {
        let words = [&*format!("lies in the mount of s3://myfiles on {shown};"), "s3mount umount "];
        check_failed(&ground.umount(&["--force"], &inside), 7, &words);
    }
    mount(&["-t", "tmpfs", "none"], &path);
    let covered = ground.umount(&["--force"], &path);
    unmount(&path);
    check_failed(&covered, 7, &["none (tmpfs), and covers a mount of s3mount; unmount it first"]);
    assert_eq!(fs::read_to_string(mounted.join("hello.txt")).unwrap(), "hello");

    let several = ground.program(&["umount", "/proc", shown, "/no/such"]).output().unwrap();
    let text = String::from_utf8_lossy(&several.stdout);
    assert_eq!(several.status.code(), Some(7));
    assert_eq!(text, format!("unmounted s3://myfiles from {shown}\n"));
    assert_eq!(String::from_utf8_lossy(&several.stderr).lines().count(), 2);
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
}

fn mount(words: &[&str], dir: &Path) {
    let status = Command::new("mount").args(words).arg(dir).status();
    assert!(status.is_ok_and(|status| status.success()), "mount {words:?}");
}

fn unmount(dir: &Path) {
    let status = Command::new("umount").arg(dir).status();
    assert!(status.is_ok_and(|status| status.success()), "umount {}", dir.display());
}

/// A mount in use stays, with exit code 7 and a sentence that names who holds it, by process id and
/// program, and by what: an open file, a working directory, a root directory, the program itself, a
/// mapping, or another mount in it.
#[test]
fn who_uses_a_mount_is_named() {
    let ground = Ground::new();
    ground.simulator.put("myfiles", "a b/c", "x");
    ground.simulator.put("myfiles", "bin/sleep", fs::read("/usr/bin/sleep").unwrap());
    let mut mounted = ground.mount(&["--file-mode", "0555"]);
    let path = mounted.path();
    let sleep = || {
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        sleep
    };
    // A mapping of Python's keeps a descriptor of its own.
    let mapped = "import mmap, os, sys, time\nf = open(sys.argv[1])\nm = mmap.mmap(f.fileno(), 0, \
                  prot=mmap.PROT_READ)\nos.closerange(3, 99)\ntime.sleep(600)";
    let root = "import os, sys, time\nos.chroot(sys.argv[1])\ntime.sleep(600)";
    let busy = |holder: Running, words: &str| {
        let expected = format!("in use by {} ({words})", holder.pid());
        // It may not have come to it yet.
        let mut output = ground.umount(&[], &path);
        assert!(
            wait_until(|| {
                output = ground.umount(&["--json"], &path);
                assert!(!output.status.success(), "unmounted before it was used");
                String::from_utf8_lossy(&output.stderr).contains(&expected)
            }),
            "no {expected:?} in {output:?}"
        );
        let object = object(&String::from_utf8_lossy(&output.stderr));
        assert_eq!(object["exit_code"], 7);
        assert!(object["message"].as_str().unwrap().contains("s3mount umount --lazy"), "{object}");
    };
    // The command has the file, too, while it lives.
    let opened = sleep().stdin(File::open(mounted.join("a b/c")).unwrap()).spawn().unwrap();
    busy(Running(opened), "sleep, open: a b/c");
    let standing = |dir: &Path| Running::start(sleep().current_dir(dir));
    busy(standing(&mounted.join("d")), "sleep, working directory");
    busy(
        Running::start(Command::new(mounted.join("bin/sleep")).arg("600")),
        "sleep, the program itself",
    );
    for (script, at, words) in [
        (mapped, mounted.join("d/inner"), "mapped: d/inner"),
        (root, path.clone(), "root directory"),
    ] {
        let holder = python(script, &at);
        let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", holder.pid()));
        let maps =
            || fs::read_to_string(format!("/proc/{}/maps", holder.pid())).unwrap_or_default();
        let root = || link("root").is_ok_and(|root| root == path);
        assert!(wait_until(
            || root() || maps().contains("d/inner") && !has_open(holder.pid(), &path)
        ));
        let output = ground.umount(&[], &path);
        check_failed(&output, 7, &[&format!("in use by {} (python", holder.pid()), words]);
    }
    let crowd: Vec<Running> = (0..7).map(|_| standing(&path)).collect();
    let output = ground.umount(&[], &path);
    check_failed(&output, 7, &["and others"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("working directory").count(), 5);
    drop(crowd);
    mount(&["-t", "tmpfs", "none"], &mounted.join("d"));
    let output = ground.umount(&[], &path);
    unmount(&mounted.join("d"));
    check_failed(&output, 7, &["none (tmpfs) is mounted in it on", "/mnt/d; unmount that first"]);
    assert!(said(&ground.umount(&[], &path)).starts_with("unmounted s3://myfiles from "));
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
}

fn has_open(pid: u32, path: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("alive").flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| link.starts_with(path))
}

/// With `--lazy` a mount in use disappears from its directory at once; those who use it read on, and the
/// process ends with the last of them.
#[test]
fn those_who_use_a_detached_mount_go_on() {
    let ground = Ground::new();
    let mut mounted = ground.mount(&[]);
    let file = File::open(mounted.join("big")).unwrap();
    let sentence = said(&ground.umount(&["--lazy"], &mounted.path()));
    let pid = mounted.pid();
    assert!(sentence.contains(&format!("its process {pid} ends when the last user")), "{sentence}");
    assert!(!is_mounted(&mounted.path()));
    assert_eq!(ground.listed(&mounted.path()), Value::Null);
    let mut bytes = [0; 1000];
    file.read_exact_at(&mut bytes, 200 * MIB).expect("its last user reads on");
    drop(file);
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
}

/// While S3 does not answer, a mount in which programs wait is listed and named as in use at once, goes
/// with `--lazy`, and with `--force` all who wait get an error and the process ends.
#[test]
fn a_mount_that_stalls_goes() {
    let ground = Ground::new();
    for manner in ["--lazy", "--force"] {
        let mut mounted = ground.mount(&[]);
        let waiting = Waiting::start(&ground, &mounted);
        assert_eq!(ground.listed(&mounted.path())["state"], "serving");
        check_failed(&ground.umount(&[], &mounted.path()), 7, &["dd, open: big)", "--lazy"]);
        let done = object(&said(&ground.umount(&[manner, "--json"], &mounted.path())));
        assert!(!is_mounted(&mounted.path()));
        let forced = manner == "--force";
        assert_eq!((&done["aborted"], &done["process_ended"]), (&forced.into(), &forced.into()));
        if forced {
            waiting.check_fail();
        } else {
            for mut child in waiting.0 {
                send_signal(child.id(), libc::SIGKILL);
                child.wait().unwrap();
            }
        }
        assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
        ground.simulator.shape(|shaping| shaping.silent = Share::None);
    }
}

/// A mount whose process is stopped goes, too: an idle one as ever, where it is said how the process
/// ends, and with `--force` one in which programs wait, with errors for them and the end of the process.
#[test]
fn a_mount_that_is_stopped_goes() {
    let ground = Ground::new();
    let mut mounted = ground.mount(&[]);
    let pid = mounted.pid();
    mounted.signal(libc::SIGSTOP);
    let row = ground.listed(&mounted.path());
    assert_eq!((&row["state"], &row["pid"]), (&"stopped".into(), &pid.into()));
    let sentence = said(&ground.umount(&[], &mounted.path()));
    assert!(sentence.contains(&format!("{pid} is stopped and ends when it goes on")), "{sentence}");
    mounted.signal(libc::SIGCONT);
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());

    let mounted = ground.mount(&[]);
    let waiting = Waiting::start(&ground, &mounted);
    mounted.signal(libc::SIGSTOP);
    check_failed(&ground.umount(&[], &mounted.path()), 7, &["dd, open: big)"]);
    let done = object(&said(&ground.umount(&["--force", "--json"], &mounted.path())));
    assert_eq!((&done["aborted"], &done["process_ended"]), (&true.into(), &true.into()));
    waiting.check_fail();
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 0, "the bare directory");
}

/// The mount of a process that was killed is listed as dead, also where its control socket is gone, and
/// goes without an option while files are open in it.
#[test]
fn a_dead_mount_goes() {
    let ground = Ground::new();
    for (options, swept) in
        [(&[][..], false), (&[], true), (&["--lazy"], true), (&["--force"], false)]
    {
        let mut mounted = ground.mount(&[]);
        let _file = File::open(mounted.join("hello.txt")).unwrap();
        mounted.signal(libc::SIGKILL);
        mounted.exit_code();
        if swept {
            let sockets = fs::read_dir(ground.runtime_dir.path().join("s3mount")).unwrap();
            sockets.for_each(|socket| fs::remove_file(socket.unwrap().path()).unwrap());
        }
        assert_eq!(ground.listed(&mounted.path())["state"], "dead");
        let sentence = said(&ground.umount(options, &mounted.path()));
        assert!(sentence.ends_with(&*mounted.path().to_string_lossy()), "{sentence}");
        assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 0, "the bare directory");
    }
}

/// Of mounts upon each other the uppermost goes, and the one below is there again. A part of a mount that
/// is mounted elsewhere (`mount --bind`) goes by itself.
#[test]
fn the_uppermost_mount_goes_first() {
    let ground = Ground::new();
    ground.simulator.put("myfiles", "over/upper", "x");
    let place = tempfile::tempdir().unwrap();
    let mount_on = |bucket: &str, dir: &Path| {
        // Over each other by the kernel's own words: s3mount refuses a directory that is mounted.
        let elsewhere = tempfile::tempdir_in(place.path()).unwrap().keep();
        let mut program = command(&ground.simulator);
        program.env("XDG_RUNTIME_DIR", ground.runtime_dir.path());
        assert!(program.arg(bucket).arg(&elsewhere).status().unwrap().success());
        mount(&["--move", elsewhere.to_str().unwrap()], dir);
    };
    let dir = place.path().join("mnt");
    fs::create_dir(&dir).unwrap();
    // Nothing is moved out of or onto a shared mount.
    mount(&["--bind", place.path().to_str().unwrap()], place.path());
    mount(&["--make-private"], place.path());
    mount_on("myfiles", &dir);
    mount_on("myfiles/over", &dir);
    assert!(dir.join("upper").exists());
    let bound = place.path().join("bound");
    fs::create_dir(&bound).unwrap();
    mount(&["--bind", dir.to_str().unwrap()], &bound);

    let sentence = said(&ground.umount(&[], &bound));
    assert!(sentence.contains("goes on, as the bucket is mounted elsewhere"), "{sentence}");
    assert!(said(&ground.umount(&[], &dir)).contains("unmounted s3://myfiles/over from "));
    assert!(dir.join("hello.txt").exists());
    assert!(said(&ground.umount(&[], &dir)).contains("unmounted s3://myfiles from "));
    assert!(!dir.join("hello.txt").exists());
    check_failed(&ground.umount(&[], &dir), 7, &["is not mounted"]);
    unmount(place.path());
}

/// A mount with `--auto-remount` is not mounted anew after `s3mount umount`, in whichever way, also where
/// its process is dead and another is about to mount: all processes end with exit code 0.
#[test]
fn a_supervised_mount_is_not_mounted_anew() {
    let ground = Ground::new();
    for options in [&[][..], &["--lazy"], &["--force"]] {
        let mut mounted = ground.mount(&["--auto-remount"]);
        let file = (!options.is_empty()).then(|| File::open(mounted.join("hello.txt")).unwrap());
        said(&ground.umount(options, &mounted.path()));
        drop(file);
        assert_eq!(mounted.exit_code(), Some(0), "{options:?} {}", mounted.log());
        assert!(!is_mounted(&mounted.path()));
        assert!(!mounted.log().contains("mounting anew"), "{}", mounted.log());
    }
    // The second process has asked for the bucket when the dead mount is unmounted.
    for options in [&[][..], &["--lazy"], &["--force"]] {
        let mut mounted = ground.mount(&["--auto-remount"]);
        let server =
            u32::try_from(ground.listed(&mounted.path())["pid"].as_u64().unwrap()).unwrap();
        let held = ground.simulator.hold(Kind::List, "");
        ground.simulator.reset_log();
        send_signal(server, libc::SIGKILL);
        assert!(wait_until(|| ground.simulator.log().len() == 1), "{}", mounted.log());
        said(&ground.umount(options, &mounted.path()));
        drop(held);
        assert_eq!(mounted.exit_code(), Some(0), "{options:?} {}", mounted.log());
        assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 0, "the bare directory");
        assert!(mounted.log().contains("was unmounted meanwhile"), "{}", mounted.log());
    }
}

/// `s3mount list` has a line for each mount: its directory, what is mounted there, the process, who
/// mounted it, and how it is. Where nothing is mounted it prints nothing, with exit code 0.
#[test]
fn mounts_are_listed() {
    let ground = Ground::new();
    let mounted = ground.mount(&[]);
    let row = ground.listed(&mounted.path());
    assert_eq!((&row["source"], &row["uid"]), (&"s3://myfiles".into(), &0.into()));
    assert_eq!((&row["state"], &row["pid"]), (&"serving".into(), &mounted.pid().into()));
    assert!(row["seconds"].is_u64(), "{row}");
    let text = said(&ground.program(&["list"]).output().unwrap());
    let path = mounted.path().display().to_string();
    let line = text.lines().find(|line| line.contains(&path)).unwrap();
    let words: Vec<&str> = line.split_whitespace().take(5).collect();
    assert_eq!(words, [&path, "s3://myfiles", &mounted.pid().to_string(), "root", "serving,"]);
    drop(mounted);
    let mut nothing = Command::new("unshare");
    nothing.args(["--mount", "--", "sh", "-c"]);
    nothing.arg("umount -a -l -t fuse.s3mount; exec \"$0\" list").arg(binary());
    let output = nothing.output().unwrap();
    assert_eq!((said(&output), output.status.code()), (String::new(), Some(0)));
}

/// A socket that a mount of the same device number left behind when it was killed is not taken for that of
/// a mount that lives: it is listed as unknown, one in use stays, and a refresh does not call it ended.
#[test]
fn a_socket_of_another_mount_says_nothing() {
    let mut ground = Ground::new();
    let mounted = ground.mount(&[]);
    let of_mount = std::mem::replace(&mut ground.runtime_dir, tempfile::tempdir().unwrap());
    let folder = ground.runtime_dir.path().join("s3mount");
    fs::create_dir(&folder).unwrap();
    let sockets = fs::read_dir(of_mount.path().join("s3mount")).unwrap();
    let name = sockets.map(|socket| socket.unwrap().file_name()).next().unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.join(name)).unwrap());
    let row = ground.listed(&mounted.path());
    assert_eq!((&row["state"], &row["pid"]), (&"unknown".into(), &mounted.pid().into()));
    let refreshed = ground.program(&["refresh"]).arg(mounted.path()).output().unwrap();
    check_failed(&refreshed, 7, &["has no control socket in"]);
    let file = File::open(mounted.join("hello.txt")).unwrap();
    check_failed(&ground.umount(&[], &mounted.path()), 7, &["open: hello.txt"]);
    drop(file);
    let done = object(&said(&ground.umount(&["--json"], &mounted.path())));
    assert_eq!((&done["pid"], &done["process_ended"]), (&mounted.pid().into(), &true.into()));
}
