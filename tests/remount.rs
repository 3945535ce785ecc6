//! A process that dies while programs use its mount, and `--auto-remount`, which replaces it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::mounted::{
    Mounted, command, is_mounted, send_signal, sleep, wait_until, waits,
};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;
use crate::support::simulator::shaping::Share;

const MIB: u64 = 1 << 20;

fn bucket() -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "hello.txt", "hello");
    simulator.put("myfiles", "d/inner", "inner");
    simulator.put_synthetic("myfiles", "big", 256 * MIB);
    simulator.put_synthetic("myfiles", "unread", 2 * MIB);
    simulator
}

/// The living child of a process: of a supervisor, the process that serves.
fn child_of(parent: u32) -> Option<u32> {
    let pids = fs::read_dir("/proc").expect("proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything: `1 (a b) S 0 ..`.
        let rest = status.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let mut fields = rest.split(' ');
        let state = fields.next();
        state.is_some_and(|state| state != "Z") && fields.next() == Some(&parent.to_string())
    })
}

/// The process that serves; another than `before`.
fn server_of(mounted: &Mounted, before: u32) -> u32 {
    let mut found = None;
    let is_new = |pid: &u32| *pid != before;
    assert!(
        wait_until(|| {
            found = child_of(mounted.pid()).filter(is_new);
            found.is_some()
        }),
        "no process serves: {}",
        mounted.log()
    );
    found.unwrap_or_default()
}

fn reads_hello(directory: &Path) -> bool {
    fs::read_to_string(directory.join("hello.txt")).is_ok_and(|text| text == "hello")
}

fn errno(result: io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|err| err.raw_os_error())
}

/// Programs of all kinds that read for ever, until the first error.
struct Readers {
    threads: Vec<JoinHandle<(&'static str, i32)>>,
    /// Ends those who go by names, where no error did.
    enough: Arc<AtomicBool>,
    /// Reads a mapping: it has no errno, but a signal.
    mapped: Child,
    /// Open since before the death, with a page of it in the kernel's memory.
    open: File,
}

impl Readers {
    fn start(directory: &Path, simulator: &Simulator) -> Self {
        let mut threads = Vec::new();
        let enough = Arc::new(AtomicBool::new(false));
        for (name, flags) in [("stream", 0), ("stream", 0), ("direct", libc::O_DIRECT)] {
            let open =
                fs::OpenOptions::new().read(true).custom_flags(flags).open(directory.join("big"));
            let (file, expected) =
                (open.expect("a file"), simulator.range_bytes("myfiles", "big", 0..MIB));
            threads.push(thread::spawn(move || (name, read_until_it_fails(&file, &expected))));
        }
        for name in ["open", "open"] {
            let (path, enough) = (directory.join("hello.txt"), Arc::clone(&enough));
            threads.push(thread::spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    match fs::read_to_string(&path) {
                        Ok(text) => assert_eq!(text, "hello"),
                        Err(err) => return (name, err.raw_os_error().unwrap_or(0)),
                    }
                }
                (name, 0)
            }));
        }
        let (root, stop) = (directory.to_owned(), Arc::clone(&enough));
        threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let names = fs::read_dir(&root).and_then(|entries| {
                    entries.map(|entry| entry?.metadata()).collect::<io::Result<Vec<_>>>()
                });
                match names {
                    Ok(names) => assert_eq!(names.len(), 4),
                    Err(err) => return ("names", err.raw_os_error().unwrap_or(0)),
                }
            }
            ("names", 0)
        }));
        let script = "import mmap, sys\nwith open(sys.argv[1]) as f:\n  m = mmap.mmap(f.fileno(), 0, \
                      prot=mmap.PROT_READ)\nm[0]\nprint(\"mapped\", flush=True)\nat = 0\nwhile True:\n  m[at]\n  at = (at + 69632) % len(m)";
        let mut mapped = Command::new("python3")
            .args(["-c", script])
            .arg(directory.join("big"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(mapped.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "mapped\n");
        let open = File::open(directory.join("hello.txt")).expect("a file");
        open.read_exact_at(&mut [0; 5], 0).expect("bytes");
        Self { threads, enough, mapped, open }
    }

    /// What each saw, when all have ended. Those who go by names may have seen nothing, where the mount
    /// is replaced.
    fn check_ended(mut self, is_replaced: bool) {
        self.enough.store(is_replaced, Ordering::Relaxed);
        for thread in self.threads {
            let (name, errno) = thread.join().expect("no panic");
            let unseen = is_replaced && ["open", "names"].contains(&name) && errno == 0;
            let known = [libc::ENOTCONN, libc::ECONNABORTED];
            assert!(
                unseen || known.contains(&errno),
                "{name}: {}",
                io::Error::from_raw_os_error(errno)
            );
        }
        assert_eq!(self.mapped.wait().expect("a child").signal(), Some(libc::SIGBUS));
        let mut bytes = [0; 5];
        self.open.read_exact_at(&mut bytes, 0).expect("what the kernel has");
        assert_eq!(&bytes, b"hello");
        assert_eq!(errno(self.open.sync_all()), Some(libc::ENOTCONN), "the old descriptor is dead");
    }
}

fn read_until_it_fails(file: &File, expected: &[u8]) -> i32 {
    // O_DIRECT wants an aligned buffer.
    let mut room = vec![0_u8; expected.len() + 4096];
    let start = room.as_ptr().align_offset(4096);
    let buffer = &mut room[start..start + expected.len()];
    let size = file.metadata().map(|found| found.len()).unwrap_or(MIB);
    for at in (0..size / MIB).cycle() {
        match file.read_at(buffer, at * MIB) {
            Ok(n) if at == 0 => assert!(buffer[..n] == expected[..n], "wrong bytes"),
            Ok(_) => {}
            Err(err) => return err.raw_os_error().unwrap_or(0),
        }
    }
    0
}

/// Programs that read a mount whose process is killed get an error at once, ECONNABORTED or ENOTCONN,
/// and SIGBUS where the file is mapped; what the kernel has of an open file stays readable. Mounting
/// again works while such programs still have files open or stand in a directory of the dead mount.
#[test]
fn readers_of_a_killed_mount_get_errors_and_do_not_stand_in_the_way() {
    let simulator = bucket();
    let mut mounted = Mounted::new(&simulator, "myfiles", &[]);
    let mut standing = stand_in(&mounted.join("d"));
    let readers = Readers::start(&mounted.path(), &simulator);
    let still_open = File::open(mounted.join("unread")).unwrap();
    mounted.signal(libc::SIGKILL);
    mounted.exit_code();
    readers.check_ended(false);
    assert_eq!(errno(fs::read_dir(mounted.path())), Some(libc::ENOTCONN), "not an empty directory");
    let again = command(&simulator).arg("myfiles").arg(mounted.path()).status().unwrap();
    assert!(again.success());
    assert!(reads_hello(&mounted.path()));
    assert_eq!(errno(still_open.read_at(&mut [0; 10], MIB)), Some(libc::ENOTCONN));
    let inside = format!("/proc/{}/cwd/inner", standing.id());
    assert_eq!(errno(fs::read(inside)), Some(libc::ENOTCONN));
    standing.kill().unwrap();
    standing.wait().unwrap();
    assert!(Command::new("umount").arg(mounted.path()).status().unwrap().success());
}

fn stand_in(directory: &Path) -> Child {
    Command::new("sleep")
        .arg("600")
        .current_dir(directory)
        .stdin(Stdio::null())
        .spawn()
        .expect("sleep")
}

/// With `--auto-remount` a mount whose process was killed works again by itself, under the options and
/// in the place of before; descriptors from before give ENOTCONN.
#[test]
fn a_killed_process_is_replaced() {
    let simulator = bucket();
    let options = ["--auto-remount", "--file-mode", "0400"];
    let mut mounted = Mounted::new(&simulator, "myfiles", &options);
    let server = server_of(&mounted, 0);
    let readers = Readers::start(&mounted.path(), &simulator);
    let still_open = File::open(mounted.join("unread")).unwrap();
    send_signal(server, libc::SIGKILL);
    let server = server_of(&mounted, server);
    assert!(wait_until(|| reads_hello(&mounted.path())), "{}", mounted.log());
    readers.check_ended(true);
    assert_eq!(server_of(&mounted, 0), server);
    let mode = fs::metadata(mounted.join("hello.txt")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&mode) & 0o777, 0o400);
    assert_eq!(errno(still_open.read_at(&mut [0; 10], MIB)), Some(libc::ENOTCONN));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = format!(" {} ", mounted.path().display());
    assert_eq!(mounts.matches(&here).count(), 1, "not one upon the other");
    drop(still_open);
    mounted.signal(libc::SIGTERM);
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
    let log = mounted.log();
    assert!(log.contains("died by signal: 9 (SIGKILL); mounting anew in 0 s"), "{log}");
    assert!(log.contains("is mounted anew"), "{log}");
}

/// Nobody who lists the directory of a mount that is replaced sees it empty: there is an error, and then
/// there are the names (as root, from Linux 6.5 on; else it is empty for a moment).
#[test]
fn a_replaced_mount_is_never_empty() {
    let simulator = bucket();
    let mut mounted = Mounted::new(&simulator, "myfiles", &["--auto-remount"]);
    let (path, done) = (mounted.path(), AtomicBool::new(false));
    let n_seen = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut n_errors = 0;
            while !done.load(Ordering::Relaxed) {
                match fs::read_dir(&path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
                    Ok(names) => assert!(!names.is_empty(), "an empty listing"),
                    Err(_) => n_errors += 1,
                }
            }
            n_errors
        });
        let mut server = 0;
        for _ in 0..3 {
            server = server_of(&mounted, server);
            assert!(wait_until(|| reads_hello(&path)), "{}", mounted.log());
            send_signal(server, libc::SIGKILL);
        }
        server_of(&mounted, server);
        assert!(wait_until(|| reads_hello(&path)), "{}", mounted.log());
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert!(n_seen > 0, "it watched while the mount was dead");
    mounted.signal(libc::SIGTERM);
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
}

/// A process that aborts is replaced, too; in the background as in the foreground, and by the refresh
/// socket one talks to the one that serves now.
#[test]
fn a_process_in_the_background_is_replaced() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let log = tempfile::NamedTempFile::new().unwrap();
    let runtime_dir = tempfile::tempdir().unwrap();
    let program = || {
        let mut program = command(&simulator);
        program.env("XDG_RUNTIME_DIR", runtime_dir.path());
        program
    };
    let mut starting = program();
    starting.arg("--auto-remount").arg("--log-file").arg(log.path()).arg("myfiles").arg(path);
    // Would wait for whoever has its end of the pipe open.
    let output = starting.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = processes_naming(path);
    let server = *all.iter().find(|pid| child_of(**pid).is_none()).unwrap();
    assert_eq!(all.len(), 2, "one that serves, one above it");
    send_signal(server, libc::SIGABRT);
    assert!(wait_until(|| reads_hello(path)), "{}", fs::read_to_string(log.path()).unwrap());
    assert!(!processes_naming(path).contains(&server));
    let refreshed = program().arg("refresh").arg(path).output().unwrap();
    let text = String::from_utf8_lossy(&refreshed.stdout).into_owned();
    assert!(text.contains("s3://myfiles"), "{text} {refreshed:?}");
    assert!(Command::new("umount").arg(path).status().unwrap().success());
    assert!(wait_until(|| processes_naming(path).is_empty()), "nobody mounts it anew");
    assert!(!is_mounted(path));
}

/// Processes whose command line has the path.
fn processes_naming(path: &Path) -> Vec<u32> {
    let path = path.to_str().expect("UTF-8");
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(path)
    })
    .collect()
}

/// A mount that died five times within ten minutes is not mounted anew: the log says so, the exit code
/// is that of the last death, and the directory gives ENOTCONN, not an empty listing.
#[test]
fn a_crash_loop_comes_to_an_end() {
    let simulator = bucket();
    let mut mounted = Mounted::new(&simulator, "myfiles", &["--auto-remount"]);
    let mut server = 0;
    for n in 1..=5 {
        assert!(wait_until(|| reads_hello(&mounted.path())), "{n}: {}", mounted.log());
        server = server_of(&mounted, server);
        send_signal(server, libc::SIGKILL);
        assert!(wait_until(|| !Path::new(&format!("/proc/{server}/fd/0")).exists()));
    }
    assert_eq!(mounted.exit_code(), Some(137), "{}", mounted.log());
    let log = mounted.log();
    assert!(log.contains("5 processes that served it died within 10 minutes"), "{log}");
    assert_eq!(log.matches("; mounting anew in ").count(), 4, "{log}");
    assert_eq!(errno(fs::read_dir(mounted.path())), Some(libc::ENOTCONN));
}

/// A supervised mount that has said that it is ready: the kernel answers a moment before that, and a signal
/// then is one during the start.
fn ready(simulator: &Simulator) -> Mounted {
    let mounted = Mounted::new(simulator, "myfiles", &["--auto-remount"]);
    assert!(wait_until(|| mounted.log().contains(" is mounted on ")), "{}", mounted.log());
    mounted
}

/// With `--auto-remount` SIGTERM and SIGINT to the process unmount, with exit code 0; a mount in use is
/// detached and ends with its last user, also where the signal goes to all processes of a service at
/// once; a second signal does not wait.
#[test]
fn a_supervised_mount_ends_when_asked() {
    let simulator = bucket();
    for both in [false, true] {
        let mut mounted = ready(&simulator);
        let server = server_of(&mounted, 0);
        let file = File::open(mounted.join("big")).unwrap();
        let ask = |mounted: &Mounted| {
            mounted.signal(libc::SIGTERM);
            if both {
                send_signal(server, libc::SIGTERM);
            }
        };
        ask(&mounted);
        assert!(wait_until(|| !is_mounted(&mounted.path())), "{}", mounted.log());
        let mut bytes = [0; 1000];
        file.read_exact_at(&mut bytes, 200 * MIB).expect("its last user reads on");
        let at = 200 * MIB;
        assert!(simulator.range_bytes("myfiles", "big", at..at + 1000) == bytes);
        if both {
            drop(file);
            assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
        } else {
            ask(&mounted);
            assert_eq!(mounted.exit_code(), Some(143), "{}", mounted.log());
        }
    }
    let mut mounted = ready(&simulator);
    mounted.signal(libc::SIGINT);
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
    assert!(!is_mounted(&mounted.path()));
}

/// Where the process above the one that serves is killed, the mount is unmounted: nothing is left that
/// would stand in the way of the next start.
#[test]
fn nothing_serves_unsupervised() {
    let simulator = bucket();
    let mut mounted = Mounted::new(&simulator, "myfiles", &["--auto-remount"]);
    let server = server_of(&mounted, 0);
    mounted.signal(libc::SIGKILL);
    mounted.exit_code();
    assert!(wait_until(|| !Path::new(&format!("/proc/{server}")).exists()), "{}", mounted.log());
    assert!(!is_mounted(&mounted.path()));
    assert!(fs::read_dir(mounted.path()).is_ok(), "nor is a dead mount");
}

/// While what the mount needs is refused or not reachable after a death, its directory gives ENOTCONN
/// and never an empty listing, and the mount comes back when it is to be had again; asking for the end
/// meanwhile leaves the empty directory of before.
#[test]
fn a_remount_that_fails_is_tried_again() {
    let simulator = bucket();
    let mut mounted = Mounted::new(&simulator, "myfiles", &["--auto-remount"]);
    let server = server_of(&mounted, 0);
    simulator.remove_credentials(simulator.access_key());
    send_signal(server, libc::SIGKILL);
    let refused = |mounted: &Mounted| mounted.log().matches("could not be mounted anew").count();
    let watching = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while watching.load(Ordering::Relaxed) {
                let err = errno(fs::read_dir(mounted.path()));
                assert!(err.is_some_and(|err| err != libc::ENOENT), "an empty directory");
                sleep(Duration::from_millis(1));
            }
        });
        let tried = wait_until(|| refused(&mounted) >= 2);
        watching.store(false, Ordering::Relaxed);
        assert!(tried, "{}", mounted.log());
    });
    simulator.add_credentials(simulator.access_key(), simulator.secret_key());
    assert!(wait_until(|| reads_hello(&mounted.path())), "{}", mounted.log());

    simulator.remove_credentials(simulator.access_key());
    let before = refused(&mounted);
    send_signal(server_of(&mounted, server), libc::SIGKILL);
    assert!(wait_until(|| refused(&mounted) > before), "{}", mounted.log());
    mounted.signal(libc::SIGTERM);
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
    assert_eq!(fs::read_dir(mounted.path()).unwrap().count(), 0);
}

/// A mount that somebody took away from its directory is not mounted anew when its process dies before
/// the last user has left.
#[test]
fn an_unmounted_mount_is_not_mounted_anew() {
    let simulator = bucket();
    let mut mounted = Mounted::new(&simulator, "myfiles", &["--auto-remount"]);
    let server = server_of(&mounted, 0);
    let still_open = File::open(mounted.join("unread")).unwrap();
    assert!(Command::new("umount").arg("-l").arg(mounted.path()).status().unwrap().success());
    send_signal(server, libc::SIGKILL);
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
    assert!(!is_mounted(&mounted.path()));
    assert!(mounted.log().contains("it is not mounted anew"), "{}", mounted.log());
    assert_eq!(errno(still_open.read_at(&mut [0; 10], MIB)), Some(libc::ENOTCONN));
}

/// A start with `--auto-remount` that fails is not repeated: one sentence, and the exit code of its
/// kind; nor is a mount that somebody unmounts.
#[test]
fn a_first_start_that_fails_is_not_repeated() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    for options in [&["--auto-remount"][..], &["--auto-remount", "--foreground"]] {
        simulator.reset_log();
        let mut program = command(&simulator);
        let output = program.args(options).arg("absent").arg(directory.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{text}");
        assert_eq!(text.matches("absent").count(), 1, "one sentence: {text}");
        assert_eq!(simulator.counts().list, 1);
    }
    let mut mounted = Mounted::new(&simulator, "myfiles", &["--auto-remount"]);
    assert!(Command::new("umount").arg(mounted.path()).status().unwrap().success());
    assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
    let mut program = command(&simulator);
    let output = program.args(["--auto-remount", "myfiles", "/dev/fd/7"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// While nothing answers, a mount can be ended: `umount -l` and SIGTERM take it away from its directory
/// at once, and whoever waits in a buffered, a direct or a mapped read can be killed without waiting for
/// the deadline; with the last of them the process ends.
#[test]
fn a_mount_that_stalls_can_be_ended() {
    let simulator = bucket();
    for by_signal in [false, true] {
        let mut mounted = Mounted::new(&simulator, "myfiles", &[]);
        let readers: Vec<Child> = {
            let file = |flags: i32| {
                let mut options = fs::OpenOptions::new();
                options.read(true).custom_flags(flags).open(mounted.join("big")).unwrap()
            };
            let (buffered, direct, mapped) = (file(0), file(libc::O_DIRECT), file(0));
            simulator.shape(|shaping| shaping.silent = Share::All);
            simulator.reset_log();
            let dd = |file: File, skip: &str| {
                let arguments = ["bs=1M", "count=1", "of=/dev/null", "status=none", skip];
                Command::new("dd").args(arguments).stdin(file).spawn().unwrap()
            };
            let script = "import mmap\nmmap.mmap(0, 0, prot=mmap.PROT_READ)[150 << 20]";
            vec![
                dd(buffered, "skip=50"),
                dd(direct, "skip=100"),
                Command::new("python3").args(["-c", script]).stdin(mapped).spawn().unwrap(),
                Command::new("ls").arg("-l").arg(mounted.join("d")).spawn().unwrap(),
            ]
        };
        let all_wait = || readers.iter().all(|reader| waits(reader.id()));
        // The listing is what `ls` waits for in the end.
        assert!(wait_until(|| all_wait() && simulator.counts().list > 0), "all wait");
        if by_signal {
            mounted.signal(libc::SIGTERM);
        } else {
            let unmounted = Command::new("umount").arg("-l").arg(mounted.path()).status();
            assert!(unmounted.unwrap().success());
        }
        assert!(wait_until(|| !is_mounted(&mounted.path())), "{}", mounted.log());
        let start = Instant::now();
        for mut reader in readers {
            send_signal(reader.id(), libc::SIGKILL);
            assert_eq!(reader.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "not after its deadline, of 20 s at least"
        );
        assert_eq!(mounted.exit_code(), Some(0), "{}", mounted.log());
        simulator.shape(|shaping| shaping.silent = Share::None);
    }
}

/// Where the process was stopped, or frozen with its container, for longer than a deadline, programs that
/// waited meanwhile get the answers that have come, and no error.
#[test]
fn a_thawed_process_answers_those_who_waited() {
    let simulator = bucket();
    simulator.put("myfiles", "e/x", "x");
    let mounted = Mounted::new(&simulator, "myfiles", &[]);
    fs::read_dir(mounted.path()).unwrap();
    let (list, get) = (simulator.hold(Kind::List, "d/"), simulator.hold(Kind::Get, "hello.txt"));
    let run = |program: &str, name: &str| {
        let mut command = Command::new(program);
        command.arg(mounted.join(name)).stdout(Stdio::piped()).spawn().unwrap()
    };
    let (lister, reader) = (run("ls", "d"), run("cat", "hello.txt"));
    assert!(wait_until(|| waits(lister.id()) && waits(reader.id())));
    mounted.signal(libc::SIGSTOP);
    // Longer than the 20 s of a directory and an open.
    sleep(Duration::from_secs(25));
    drop((list, get));
    mounted.signal(libc::SIGCONT);
    let said = |child: Child| {
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(said(lister), (true, "inner\n".to_owned()), "{}", mounted.log());
    assert_eq!(said(reader), (true, "hello".to_owned()), "{}", mounted.log());
}

/// A start with `--auto-remount` that is given up, or whose process is killed before the mount answers,
/// ends with one sentence and leaves no process and no mount.
#[test]
fn a_start_that_is_cut_short_leaves_nothing() {
    let simulator = bucket();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for kills_server in [false, true] {
        let held = simulator.hold(Kind::List, "");
        simulator.reset_log();
        let mut program = command(&simulator);
        program.args(["--auto-remount", "myfiles"]).arg(path).stderr(Stdio::piped());
        let starting = program.spawn().unwrap();
        let mut server = 0;
        assert!(wait_until(|| {
            let asked = simulator.log().len() == 1;
            server = child_of(starting.id()).and_then(child_of).unwrap_or(0);
            asked && server != 0
        }));
        let killed = if kills_server { server } else { starting.id() };
        send_signal(killed, if kills_server { libc::SIGKILL } else { libc::SIGINT });
        let output = starting.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if kills_server {
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(
                text.contains("ended before the mount was ready (signal: 9 (SIGKILL))"),
                "{text}"
            );
            assert_eq!(text.lines().count(), 1, "{text}");
        }
        assert!(wait_until(|| processes_naming(path).is_empty()));
        assert!(!is_mounted(path));
        drop(held);
    }
}
