//! The control socket and `s3mount refresh`, with times to live that never end.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::directory::Stream;
use crate::support::mounted::{Mounted, bare_command, binary, command, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;

/// Nothing is ever asked again by itself.
const FOREVER: [&str; 6] =
    ["--metadata-ttl", "forever", "--negative-ttl", "forever", "--open-ttl", "forever"];

/// Who has no rights: `nobody` on most systems.
const NOBODY: u32 = 65_534;

/// A mount with a folder of its own for its socket.
struct Ground {
    mounted: Mounted,
    simulator: Simulator,
    runtime_dir: TempDir,
}

impl Ground {
    fn new(keys: &[&str]) -> Self {
        Self::of("myfiles", keys)
    }

    /// Mounts `place`, a bucket and a prefix.
    fn of(place: &str, keys: &[&str]) -> Self {
        let simulator = Simulator::builder().bucket("myfiles").start();
        for key in keys {
            simulator.put("myfiles", key, (*key).to_owned());
        }
        let runtime_dir = tempfile::tempdir().expect("a directory");
        let mounted = Mounted::start(program(&simulator, runtime_dir.path()), place, &FOREVER);
        let ground = Self { mounted, simulator, runtime_dir };
        assert!(wait_until(|| ground.sockets().len() == 1), "a socket");
        ground
    }

    fn put(&self, key: &str, text: &str) {
        self.simulator.put("myfiles", key, text.to_owned());
    }

    fn delete(&self, key: &str) {
        assert!(self.simulator.delete("myfiles", key), "{key}");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.mounted.join(path)).unwrap_or_else(|err| format!("{err}"))
    }

    fn exists(&self, path: &str) -> bool {
        self.mounted.join(path).symlink_metadata().is_ok()
    }

    /// `ls -l` of it, names only.
    fn ls(&self, path: &str) -> Vec<String> {
        let output =
            Command::new("ls").arg("-l").arg(self.mounted.join(path)).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let last = |line: &str| line.rsplit(' ').next().expect("a word").to_owned();
        text.lines().skip(1).map(last).collect()
    }

    fn refresh(&self, arguments: &[&str], path: &str) -> String {
        said(&self.refreshing(arguments, &self.mounted.join(path)))
    }

    fn refreshing(&self, arguments: &[&str], path: &Path) -> Output {
        let mut client = client(self.runtime_dir.path());
        client.arg("refresh").args(arguments).arg(path).output().expect("it runs")
    }

    /// Requests since the last time: (LIST, HEAD, GET).
    fn requests(&self) -> (u64, u64, u64) {
        let counts = self.simulator.counts();
        self.simulator.reset_log();
        (counts.list, counts.head, counts.get)
    }

    fn folder(&self) -> PathBuf {
        self.runtime_dir.path().join("s3mount")
    }

    fn sockets(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten();
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.sockets()[0]).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
        stream
    }
}

fn program(simulator: &Simulator, runtime_dir: &Path) -> Command {
    let mut program = command(simulator);
    program.env("XDG_RUNTIME_DIR", runtime_dir);
    program
}

fn client(runtime_dir: &Path) -> Command {
    let mut client = bare_command();
    client.env("XDG_RUNTIME_DIR", runtime_dir);
    client
}

/// What a command that succeeds prints.
#[track_caller]
fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{:?} {errors}", output.status);
    String::from_utf8(output.stdout.clone()).expect("UTF-8").trim_end().to_owned()
}

/// A command that fails does so with this exit code and one sentence that has these words.
#[track_caller]
fn check_failed(output: &Output, exit_code: i32, words: &[&str]) {
    let sentence = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit_code), "{sentence}");
    assert_eq!((sentence.lines().count(), output.stdout.len()), (1, 0), "{sentence}");
    for word in words {
        assert!(sentence.contains(word), "no {word:?} in {sentence}");
    }
}

/// When `s3mount refresh DIR` has returned, what is new in the bucket shows in DIR at once, what was
/// deleted is gone, and what was replaced is read anew, also where all times are `forever`. It sends no
/// request itself, and the next `ls -l DIR` one LIST.
#[test]
fn a_refreshed_directory_is_as_the_bucket_is() {
    let ground = Ground::new(&["d/gone", "d/old", "d/same", "d/sub/x"]);
    assert_eq!(ground.ls("d"), ["gone", "old", "same", "sub"]);
    assert_eq!((ground.read("d/old"), ground.exists("d/new")), ("d/old".into(), false));
    ground.put("d/new", "new");
    ground.put("d/old", "replaced");
    ground.delete("d/gone");
    ground.requests();
    assert_eq!(ground.ls("d"), ["gone", "old", "same", "sub"], "as long as nobody says so");
    assert_eq!((ground.read("d/old"), ground.exists("d/new")), ("d/old".into(), false));
    assert_eq!(ground.requests(), (0, 0, 0));

    let sentence = ground.refresh(&[], "d");
    let expected = "forgot 1 directory and 4 names of s3://myfiles/d; the next look asks S3";
    assert_eq!((sentence.as_str(), ground.requests()), (expected, (0, 0, 0)));
    assert_eq!(ground.ls("d"), ["new", "old", "same", "sub"]);
    assert_eq!(ground.requests(), (1, 0, 0));
    assert_eq!((ground.read("d/old"), ground.read("d/new")), ("replaced".into(), "new".into()));
    assert!(!ground.exists("d/gone"));
    assert_eq!(ground.requests().0, 0, "all of it was on that page");
}

/// A file that was replaced, a name that was looked for in vain, and a directory that is gone are seen as
/// they are after `s3mount refresh` of that path alone, and no other name beside them is asked for again.
#[test]
fn a_refreshed_name_is_as_the_bucket_is() {
    let ground = Ground::new(&["d/file", "d/other", "d/sub/x"]);
    ground.simulator.put_tree("myfiles", "d/many/", 1500, 10);
    for path in ["d", "d/sub", "d/many"] {
        ground.ls(path);
    }
    assert_eq!((ground.read("d/file"), ground.exists("d/_SUCCESS")), ("d/file".into(), false));
    ground.put("d/file", "replaced");
    ground.put("d/_SUCCESS", "");
    ground.delete("d/sub/x");
    ground.requests();
    assert!(ground.refresh(&[], "d/file").starts_with("forgot s3://myfiles/d/file;"));
    assert_eq!(ground.read("d/file"), "replaced");
    assert_eq!(ground.requests(), (1, 0, 1), "the page of its directory, and the bytes");

    ground.put("d/file2", "");
    assert!(!ground.exists("d/file2"));
    ground.refresh(&[], "d/file2");
    assert!(ground.exists("d/file2"));
    assert!(ground.refresh(&[], "d/sub").starts_with("forgot 1 directory and 1 name of"));
    assert!(!ground.exists("d/sub"));
    assert!(ground.exists("d/other"));
    ground.requests();

    ground.put("d/many/1", "");
    ground.delete("d/many/000007");
    ground.refresh(&[], "d/many/1");
    ground.refresh(&[], "d/many/000007");
    assert_eq!((ground.exists("d/many/1"), ground.exists("d/many/000007")), (true, false));
    assert_eq!(ground.requests(), (2, 0, 0), "each by itself, where a listing is long");
    let names = ground.ls("d/many");
    assert_eq!((names.len(), names.contains(&"1".to_owned())), (1500, true));
    assert_eq!(ground.requests(), (0, 0, 0));
}

/// With `--recursive` everything below is looked at anew; without it nothing below is asked for that
/// was known.
#[test]
fn what_lies_below_is_refreshed_only_if_told() {
    let ground = Ground::new(&["a/1", "a/b/1", "a/b/c/1", "z/1"]);
    let find = || {
        let output = Command::new("find").arg(ground.mounted.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    assert_eq!((find(), ground.exists("a/b/c/none")), (9, false));
    for key in ["a/2", "a/b/2", "a/b/c/2", "a/b/c/none", "z/2"] {
        ground.put(key, "x");
    }
    ground.delete("a/b/c/1");
    ground.requests();
    ground.refresh(&[], "a");
    assert!(ground.exists("a/2") && !ground.exists("a/b/2") && !ground.exists("a/b/c/2"));
    assert_eq!(ground.requests(), (1, 0, 0), "what is in it");
    let sentence = ground.refresh(&["--recursive"], "a");
    assert_eq!(
        sentence,
        "forgot 3 directories and 6 names of s3://myfiles/a; the next look asks S3"
    );
    assert_eq!(ground.requests(), (0, 0, 0));
    assert!(ground.exists("a/b/c/none") && ground.exists("a/b/c/2") && !ground.exists("a/b/c/1"));
    assert!(!ground.exists("z/2"), "beside it nothing");
    let result: Value = serde_json::from_str(&ground.refresh(&["-r", "--json"], "")).unwrap();
    assert_eq!((&result["source"], &result["directories"]), (&"s3://myfiles".into(), &5.into()));
    assert_eq!((find(), ground.exists("z/2")), (13, true));
}

/// Who has a refreshed directory open, and rewinds it, finds what is there then, and who opens it
/// reads nothing of before from the kernel's memory.
#[test]
fn a_refreshed_directory_is_not_read_from_the_kernels_memory() {
    let ground = Ground::new(&["d/0"]);
    let path = ground.mounted.join("d");
    let sorted = |stream: &mut Stream| {
        let mut names = stream.rest().unwrap();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    };
    let expected = |n: usize| (0..=n).map(|at| at.to_string()).collect::<Vec<_>>();
    // By a new stream each time, by the second of which the kernel's pages are used.
    for at in 1..4 {
        for _ in 0..2 {
            assert_eq!(sorted(&mut Stream::open(&path).unwrap()), expected(at - 1));
        }
        ground.put(&format!("d/{at}"), "");
        ground.refresh(&[], "d");
        assert_eq!(sorted(&mut Stream::open(&path).unwrap()), expected(at));
    }
    // By one that stays open: at its end, at its beginning, and with others beside it.
    let mut stream = Stream::open(&path).unwrap();
    for at in 4..7 {
        ground.requests();
        ground.put(&format!("d/{at}"), "");
        ground.refresh(&[], "d");
        stream.rewind();
        assert_eq!(sorted(&mut stream), expected(at));
        assert_eq!(ground.requests(), (1, 0, 0));
        stream.rewind();
        if at == 5 {
            assert_eq!(sorted(&mut Stream::open(&path).unwrap()), expected(at));
        }
    }
}

/// A refresh disturbs nobody: open files read on, a program that is reading a directory gets each entry
/// once, and who stands in a directory stays in it.
#[test]
fn a_refresh_disturbs_nobody() {
    let ground = Ground::new(&["d/file", "d/sub/x"]);
    ground.simulator.put_tree("myfiles", "d/sub/", 3000, 10);
    let mut file = fs::File::open(ground.mounted.join("d/file")).unwrap();
    let mut entries = fs::read_dir(ground.mounted.join("d/sub")).unwrap();
    let first = entries.next().unwrap().unwrap().file_name();
    let script = "echo in; read line; pwd -P; /bin/pwd; ls | wc -l; read line";
    let mut shell = Command::new("sh")
        .args(["-c", script])
        .current_dir(ground.mounted.join("d/sub"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = std::io::BufReader::new(shell.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(line(), "in");
    // On the page that is there.
    ground.put("d/sub/!", "");
    ground.refresh(&["-r"], "");
    assert_eq!(ground.ls("d/sub").len(), 3002, "the name is looked up, and is what it was");
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(b"\n").unwrap();
    let inside = ground.mounted.join("d/sub").to_str().unwrap().to_owned();
    assert_eq!((line(), line(), line()), (inside.clone(), inside, "3002".to_owned()));
    drop(stdin);
    shell.wait().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "d/file");
    let names: std::collections::BTreeSet<_> =
        entries.map(|entry| entry.unwrap().file_name()).chain([first]).collect();
    assert_eq!(names.len(), 3001);
}

/// A request that is on its way during a refresh does not bring back what was forgotten.
#[test]
fn a_late_answer_does_not_count() {
    let ground = Ground::new(&["d/x", "e/x"]);
    let held = ground.simulator.hold(Kind::List, "d/");
    std::thread::scope(|scope| {
        let early = scope.spawn(|| ground.ls("d"));
        assert!(wait_until(|| ground.simulator.counts().list == 2), "it is on its way");
        ground.put("d/y", "");
        ground.refresh(&[], "d");
        assert_eq!(ground.ls("d"), ["x", "y"], "without waiting for the first");
        assert_eq!(ground.requests().0, 3);
        ground.delete("d/y");
        drop(held);
        assert_eq!(early.join().unwrap(), ["x"], "to whom asked before, the late answer");
    });
    assert_eq!(ground.ls("d"), ["x", "y"], "and to everybody else the one that was asked for last");
    assert_eq!(ground.requests(), (0, 0, 0));

    // A lookup that has its answer, and waits for another: the kernel hears of it only afterwards.
    let held = ground.simulator.hold(Kind::List, "e/x/");
    let size = || fs::metadata(ground.mounted.join("e/x")).unwrap().len();
    std::thread::scope(|scope| {
        let early = scope.spawn(size);
        let has_answer = |status| ground.simulator.log().iter().any(|it| it.status == status);
        assert!(wait_until(|| has_answer(Some(200))), "{:?}", ground.simulator.log());
        ground.put("e/x", "replaced");
        ground.refresh(&["-r"], "");
        drop(held);
        assert_eq!(early.join().unwrap(), 3);
    });
    assert_eq!(size(), 8, "it was told to the one who had asked, and not to be kept");
}

/// PATH may lead through symbolic links and bind mounts, and may be relative.
#[test]
fn a_path_is_found_however_it_is_written() {
    let ground = Ground::of("myfiles/p", &["p/a/b/c"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let (link, bound) = (elsewhere.path().join("link"), elsewhere.path().join("bound"));
    symlink(ground.mounted.join("a"), &link).unwrap();
    fs::create_dir(&bound).unwrap();
    let mount = |arguments: &[&str], paths: &[&Path]| {
        assert!(
            Command::new(arguments[0])
                .args(&arguments[1..])
                .args(paths)
                .status()
                .unwrap()
                .success()
        );
    };
    mount(&["mount", "--bind"], &[&ground.mounted.join("a/b"), &bound]);
    let through = |path: &Path| {
        let output = ground.refreshing(&["--json"], path);
        let result: Value = serde_json::from_str(&said(&output)).unwrap();
        result["source"].as_str().unwrap().to_owned()
    };
    let sources = [&link.join("b/.."), &link.join("./b/../b/"), &bound.join("c"), &bound];
    let sources = sources.map(|path| through(path));
    mount(&["umount"], &[&bound]);
    let expected = ["p/a", "p/a/b", "p/a/b/c", "p/a/b"].map(|path| format!("s3://myfiles/{path}"));
    assert_eq!(sources, expected);
    let mut relative = client(ground.runtime_dir.path());
    relative.current_dir(ground.mounted.join("a")).args(["refresh", "b/none"]);
    let sentence = said(&relative.output().unwrap());
    assert!(
        sentence.starts_with("nothing was remembered of s3://myfiles/p/a/b/none;"),
        "{sentence}"
    );
}

/// Only root and the user who mounted can refresh; others are refused with exit code 4.
#[test]
fn another_user_is_refused() {
    let ground = Ground::new(&["d/x"]);
    let copy = tempfile::tempdir().unwrap();
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copied = copy.path().join("s3mount");
    fs::copy(binary(), &copied).unwrap();
    let words = ["was mounted by root", "only that user and root"];
    let path = ground.mounted.join("d");
    let mut stranger = Command::new(&copied);
    stranger.env("XDG_RUNTIME_DIR", ground.runtime_dir.path()).arg("refresh").arg(&path);
    stranger.uid(NOBODY).gid(NOBODY).current_dir("/");
    check_failed(&stranger.output().unwrap(), 4, &words);
    // One whom no permission keeps from the socket.
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "65534", "--clear-groups"]);
    stranger.args(["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]);
    stranger.env("XDG_RUNTIME_DIR", ground.runtime_dir.path());
    check_failed(&stranger.arg(&copied).arg("refresh").arg(&path).output().unwrap(), 4, &words);
    assert!(ground.refresh(&[], "d").contains("s3://myfiles/d"));
}

/// The control socket has mode 0600, in a folder of mode 0700 that belongs to the mounting user; it is
/// gone when the mount is.
#[test]
fn the_socket_is_private_and_goes_with_the_mount() {
    let mut ground = Ground::new(&["x"]);
    let sockets = ground.sockets();
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&sockets[0]), mode(&ground.folder())), (0o600, 0o700));
    let device = fs::metadata(ground.mounted.path()).unwrap().dev();
    let name = format!("{}:{}.sock", libc::major(device), libc::minor(device));
    assert_eq!(sockets, [ground.folder().join(name)]);
    ground.mounted.signal(libc::SIGTERM);
    assert_eq!(ground.mounted.exit_code(), Some(0));
    assert_eq!(ground.sockets(), Vec::<PathBuf>::new());
}

/// The socket of a mount that was killed is replaced by the next mount, and until then a refresh says
/// that the mount has ended.
#[test]
fn a_dead_socket_is_replaced() {
    let mut ground = Ground::new(&["x"]);
    ground.mounted.signal(libc::SIGKILL);
    ground.mounted.exit_code();
    let dead = ground.sockets();
    assert_eq!(dead.len(), 1);
    let path = ground.mounted.path();
    check_failed(&ground.refreshing(&[], &path), 7, &["s3://myfiles", "has ended", "mount again"]);
    let mut program = program(&ground.simulator, ground.runtime_dir.path());
    assert!(program.arg("myfiles").arg(&path).status().unwrap().success());
    assert_eq!(ground.sockets().len(), 1, "the dead one is gone");
    assert!(ground.refresh(&[], "x").contains("s3://myfiles/x"));
    assert!(Command::new("umount").arg(&path).status().unwrap().success());
    assert!(wait_until(|| ground.sockets().is_empty()));
}

/// A folder for sockets that is a link, or belongs to another user, is not used: the start warns of it,
/// and the mount serves without a socket, which a refresh says.
#[test]
fn a_folder_of_somebody_else_is_not_used() {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put("myfiles", "x", "x");
    for is_link in [true, false] {
        let (runtime_dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = runtime_dir.path().join("s3mount");
        fs::set_permissions(other.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if is_link {
            symlink(other.path(), &folder).unwrap();
        } else {
            fs::create_dir(&folder).unwrap();
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let mut program = program(&simulator, runtime_dir.path());
        let output = program.arg("myfiles").arg(dir.path()).output().unwrap();
        let warning = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && warning.contains("no control socket"), "{warning}");
        let reason = if is_link { "a link" } else { "belongs to the user 65534" };
        assert!(warning.contains(reason) && warning.lines().count() == 1, "{warning}");
        assert_eq!(fs::read_to_string(dir.path().join("x")).unwrap(), "x");
        let output = client(runtime_dir.path()).arg("refresh").arg(dir.path()).output().unwrap();
        assert!(Command::new("umount").arg(dir.path()).status().unwrap().success());
        check_failed(&output, 7, &["s3://myfiles", "has no control socket"]);
        assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0, "nothing was left there");
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o755, "nor was it changed");
    }
}

/// Whatever is sent to the control socket, however much of it and on however many connections, the mount
/// refuses it in one line or closes, and goes on.
#[test]
fn a_hostile_client_gets_nothing_and_hinders_nobody() {
    let ground = Ground::new(&["d/x"]);
    let answer = |bytes: &[u8]| {
        let mut stream = ground.connect();
        // It may be closed before all of it is written.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    let many_paths =
        format!(r#"{{"version":1,"command":"refresh","path":"{}"}}"#, "a/".repeat(9_000));
    for bytes in [
        b"\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"\xff\xfe\x00\n".to_vec(),
        b"{\"version\":1}\n".to_vec(),
        b"{\"version\":99,\"command\":\"refresh\"}\n".to_vec(),
        br#"{"version":1,"command":"refresh","path":"../..","recursive":true}"#.to_vec(),
        vec![b'['; 1 << 20],
        [vec![b'['; 10_000], b"\n".to_vec()].concat(),
        many_paths.into_bytes(),
    ] {
        let answer = answer(&bytes);
        let error = serde_json::from_str::<Value>(&answer).ok().map(|it| it["error"].is_string());
        assert!(answer.is_empty() || error == Some(true), "{answer}");
        assert!(answer.lines().count() <= 1, "{answer}");
    }
    // Connections that say nothing, or begin and do not go on.
    let idle: Vec<UnixStream> = (0..100)
        .map(|index| {
            let mut stream = ground.connect();
            if index % 2 == 0 {
                stream.write_all(b"{\"version\":").unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(ground.read("d/x"), "d/x");
    assert!(ground.refresh(&[], "d").contains("s3://myfiles/d"), "it comes to its turn");
    drop(idle);
    assert!(ground.refresh(&[], "d").contains("s3://myfiles/d"));
}

/// A refresh that cannot be had says in one sentence why, ends with the exit code of its kind, and does
/// not wait for a mount that hangs.
#[test]
fn a_refresh_that_cannot_be_had_says_why() {
    let ground = Ground::new(&["d/x"]);
    let outside = tempfile::tempdir().unwrap();
    check_failed(&ground.refreshing(&[], outside.path()), 7, &["is not in a mount of s3mount"]);
    let output = ground.refreshing(&["--json"], Path::new("/no/such/path"));
    let object: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&object["error"], &object["exit_code"]), (&"mount_point".into(), &7.into()));
    assert_eq!(output.status.code(), Some(7));
    let nowhere =
        client(outside.path()).arg("refresh").arg(ground.mounted.path()).output().unwrap();
    check_failed(&nowhere, 7, &["s3://myfiles", "has no control socket"]);
    ground.mounted.signal(libc::SIGSTOP);
    let hanging = ground.refreshing(&[], &ground.mounted.join("d/x"));
    ground.mounted.signal(libc::SIGCONT);
    check_failed(&hanging, 1, &["gave no answer for 10 s"]);
}
