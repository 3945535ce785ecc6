//! Runs one case of the table with the real binary, as text and as JSON, and looks at what is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::cases::{Case, Place, World};
use crate::support::mounted::{command, wait_until};

/// What docs/CONFIGURATION.md promises where credentials are no question of another server.
const BOUND: Duration = Duration::from_secs(15);

/// A line of the table.
pub(super) struct Row {
    pub(super) failure: &'static str,
    pub(super) command: String,
    pub(super) sentence: String,
    pub(super) code: String,
    pub(super) seconds: f64,
    pub(super) wrong: Vec<String>,
}

/// The forms of one command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Foreground,
}

pub(super) fn run(world: &World, case: &Case) -> Row {
    let mut row = Row {
        failure: case.failure,
        command: shown(case),
        sentence: String::new(),
        code: String::new(),
        seconds: 0.0,
        wrong: Vec::new(),
    };
    if let Some(reason) = world.lacks(case) {
        row.sentence = format!("skipped: {reason}");
        return row;
    }
    // In the foreground a mount would stay.
    let forms = [Form::Text, Form::Json, Form::Foreground];
    let forms = &forms[..if case.code == 0 { 2 } else { 3 }];
    let runs: Vec<_> = std::thread::scope(|scope| {
        let start = |form: &Form| {
            let form = *form;
            scope.spawn(move || run_once(world, case, form))
        };
        let threads: Vec<_> = forms.iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a run")).collect()
    });
    for (form, run) in forms.iter().zip(&runs) {
        let wrong = run.wrong.iter().cloned().chain(judge(case, *form, run));
        row.wrong.extend(wrong.map(|what| format!("{}: {what}", case.failure)));
    }
    let Run { output, seconds, .. } = &runs[0];
    row.sentence = text(output).trim_start_matches(prefix(case)).to_owned();
    row.code = output.status.code().map_or("none".to_owned(), |code| code.to_string());
    row.seconds = *seconds;
    row
}

/// As it is typed, with `DIR` for the mount point.
fn shown(case: &Case) -> String {
    let mut words = Vec::new();
    if !case.environment.is_empty() {
        words.push("env".to_owned());
    }
    words.extend(case.environment.iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => format!("-u {name}"),
    }));
    words.push("s3mount".to_owned());
    words.extend(case.arguments.iter().map(|word| word.replace("MNT", "DIR")));
    words.join(" ")
}

fn prefix(case: &Case) -> &'static str {
    if case.code == 0 { "s3mount: warning: " } else { "s3mount: " }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
}

/// What is wrong with what it said.
fn judge(case: &Case, form: Form, run: &Run) -> Vec<String> {
    let mut wrong = Vec::new();
    let (text, code) = (text(&run.output), run.output.status.code());
    if code != Some(case.code) {
        wrong.push(format!("ended with {code:?}: {text}"));
    }
    if run.seconds > BOUND.as_secs_f64() {
        wrong.push(format!("took {:.1} s", run.seconds));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        wrong.push(format!("control characters: {text:?}"));
    }
    let last = text.lines().last().unwrap_or_default();
    if form == Form::Json && !case.says.is_empty() {
        let object: Value = serde_json::from_str(last).unwrap_or_default();
        let (message, code) = match case.code {
            0 => (&object["warning"], &Value::Null),
            _ => (&object["message"], &object["exit_code"]),
        };
        let said = matches(&case.says, message.as_str().unwrap_or_default());
        let right_code = code.as_i64().is_none_or(|code| code == i64::from(case.code));
        if !said || !right_code || object["error"].as_str() != kind_name(case.code) {
            wrong.push(format!("as JSON: {text}"));
        }
    } else {
        let sentence = last.strip_prefix(prefix(case)).unwrap_or_default();
        // In the foreground the log goes before it.
        let alone = form == Form::Foreground || text.lines().count() <= 1;
        if !matches(&case.says, sentence) || !alone {
            wrong.push(format!("\n  said     {text}\n  expected {}", case.says));
        }
    }
    wrong
}

/// The names that go with the exit codes in the object.
fn kind_name(code: i32) -> Option<&'static str> {
    let names =
        ["usage", "no_credentials", "denied", "not_found", "network", "mount_point", "fuse"];
    usize::try_from(code - 2).ok().and_then(|at| names.get(at).copied())
}

struct Run {
    output: Output,
    seconds: f64,
    /// What it left behind.
    wrong: Vec<String>,
}

fn run_once(world: &World, case: &Case, form: Form) -> Run {
    let mut wrong = Vec::new();
    let place = Place::new();
    (case.prepare)(world, &place);
    let before = files_below(place.path());
    let mut program = wrapped(world, case, &place);
    program.args(case.arguments.iter().map(|word| place.fill(word)));
    match form {
        Form::Text => {}
        Form::Json => drop(program.arg("--json")),
        Form::Foreground => drop(program.arg("--foreground")),
    }
    let started = Instant::now();
    let output = program.stdin(Stdio::null()).output().expect("the program starts");
    let seconds = started.elapsed().as_secs_f64();

    let path = place.path().to_str().expect("UTF-8").to_owned();
    if case.code == 0 {
        if let Some(Err(what)) = case.mounted.map(|check| check(&place.mount())) {
            wrong.push(what);
        }
        unmount(&place.mount());
    }
    (case.clean)(&place);
    if !wait_until(|| processes_naming(&path).is_empty()) {
        wrong.push("a process is left".to_owned());
    }
    if is_mount_point(&place.mount()) {
        wrong.push("a mount is left".to_owned());
    }
    let after = files_below(place.path());
    if after != before {
        wrong.push(format!("files are left: {after:?}, not {before:?}"));
    }
    Run { output, seconds, wrong }
}

/// The binary with this case's environment, as this case's user.
fn wrapped(world: &World, case: &Case, place: &Place) -> Command {
    let inner = command(&world.simulator);
    let mut program = match case.wrapper {
        None => Command::new(inner.get_program()),
        Some(script) => {
            let mut shell = Command::new("unshare");
            shell.args(["--mount", "--propagation", "private", "sh", "-euc"]);
            shell.arg(format!("{script}\nexec $RUN \"$0\" \"$@\"")).arg(&world.public_binary);
            // Until a script says otherwise.
            shell.env("RUN", "").env("PLACE", place.path()).env("TOOLS", world.tools.path());
            shell
        }
    };
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => program.env(name, value),
            None => program.env_remove(name),
        };
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        program.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    program.env("HOME", place.path()).env("TMPDIR", place.path()).current_dir(place.path());
    for (name, value) in &case.environment {
        match value {
            Some(value) => program.env(name, place.fill(value)),
            None => program.env_remove(name),
        };
    }
    program
}

impl Place {
    pub(super) fn new() -> Self {
        let directory: TempDir = tempfile::tempdir().expect("a directory");
        let place = Self { directory };
        place.open_to_all();
        fs::create_dir(place.mount()).expect("a mount point");
        place
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn mount(&self) -> PathBuf {
        self.path().join("mnt")
    }

    /// Words of a case, with the names of this place in them.
    fn fill(&self, word: &str) -> String {
        let (mount, home) = (self.mount(), self.path());
        word.replace("MNT", mount.to_str().expect("UTF-8"))
            .replace("HOME", home.to_str().expect("UTF-8"))
    }
}

/// Whether `text` is `pattern` with something for each `*`; `MNT` and `HOME` stand for paths.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let pattern = pattern.replace("MNT", "/*/mnt").replace("HOME", "/*");
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        // A star is at least one character.
        let skip = rest.chars().next().map_or(0, char::len_utf8);
        let Some(at) = rest[skip..].find(part) else { return false };
        rest = &rest[skip + at + part.len()..];
    }
    rest.len() > last.len() && rest.ends_with(last)
}

/// Again and again while it is busy: a program that another case starts has, from its fork to its
/// exec, a copy of every descriptor of this process.
pub(super) fn unmount(mount: &Path) {
    let umount = || Command::new("umount").arg(mount).stderr(Stdio::null()).status();
    wait_until(|| !is_mount_point(mount) || umount().is_ok_and(|status| status.success()));
}

/// By the kernel's table: a dead mount cannot be asked.
fn is_mount_point(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("proc");
    table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(path))
}

/// Processes whose command line has `text`.
pub(super) fn processes_naming(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

fn files_below(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && !is_mount_point(&entry.path()) {
                waiting.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}

#[test]
fn a_pattern_has_something_for_each_star() {
    assert!(matches("a", "a") && matches("a*", "ab") && matches("a*c (*)", "abc (x)"));
    assert!(matches("*", "x") && matches("no MNT.", "no /tmp/x/mnt."));
    for (pattern, text) in [("a", "ab"), ("a*", "a"), ("a*c", "abd"), ("a*(*)", "ab()")] {
        assert!(!matches(pattern, text), "{pattern} {text}");
    }
}
