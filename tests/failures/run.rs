//! Runs one case of the table with the real binary, as text and as JSON, and looks at what is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::cases::{Case, Place, World};
use crate::support::mounted::{command, is_mounted, wait_until};

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

pub(super) fn run(world: &World, case: &Case) -> Row {
    let mut wrong = Vec::new();
    let (output, seconds) = run_once(world, case, false, &mut wrong);
    let (as_json, _) = run_once(world, case, true, &mut wrong);
    let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    let json = String::from_utf8_lossy(&as_json.stderr).trim_end().to_owned();
    let mut fail = |what: String| wrong.push(format!("{}: {what}", case.failure));

    let code = output.status.code();
    if code != Some(case.code) || as_json.status.code() != code {
        fail(format!("ended with {code:?} and {:?}: {text}", as_json.status.code()));
    }
    let prefix = if case.code == 0 { "s3mount: warning: " } else { "s3mount: " };
    let sentence = text.strip_prefix(prefix).unwrap_or_default().to_owned();
    if !matches(&case.says, &sentence) {
        fail(format!("\n  said     {text}\n  expected {}", case.says));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') || text.lines().count() > 1 {
        fail(format!("not one line of text: {text:?}"));
    }
    // The last line is the failure; warnings may go before it.
    let object: Value =
        json.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let (message, exit_code) = match case.code {
        0 => (object["warning"].as_str(), None),
        _ => (object["message"].as_str(), object["exit_code"].as_i64()),
    };
    let name = object["error"].as_str();
    if case.says.is_empty() {
        if !json.is_empty() {
            fail(format!("said {json}"));
        }
    } else if !matches(&case.says, message.unwrap_or_default())
        || exit_code.is_some_and(|exit_code| exit_code != i64::from(case.code))
        || name != kind_name(case.code)
    {
        fail(format!("as JSON: {json}"));
    }
    if seconds > BOUND.as_secs_f64() {
        fail(format!("took {seconds:.1} s"));
    }
    let shown = case.arguments.iter().map(|word| word.replace("MNT", "DIR"));
    let variables = case.environment.iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => format!("-u {name}"),
    });
    let variables =
        (!case.environment.is_empty()).then(|| "env".to_owned()).into_iter().chain(variables);
    Row {
        failure: case.failure,
        command: variables.chain(["s3mount".to_owned()]).chain(shown).collect::<Vec<_>>().join(" "),
        sentence,
        code: code.map_or("none".to_owned(), |code| code.to_string()),
        seconds,
        wrong,
    }
}

/// The names that go with the exit codes in the object.
fn kind_name(code: i32) -> Option<&'static str> {
    let names =
        ["usage", "no_credentials", "denied", "not_found", "network", "mount_point", "fuse"];
    usize::try_from(code - 2).ok().and_then(|at| names.get(at).copied())
}

fn run_once(world: &World, case: &Case, json: bool, wrong: &mut Vec<String>) -> (Output, f64) {
    let place = Place::new();
    (case.prepare)(world, &place);
    let before = files_below(place.path());
    let mut program = wrapped(world, case, &place);
    program.args(case.arguments.iter().map(|word| place.fill(word)));
    program.args(json.then_some("--json")).stdin(Stdio::null());
    let started = Instant::now();
    let output = program.output().expect("the program starts");
    let seconds = started.elapsed().as_secs_f64();
    let mut fail = |what: String| wrong.push(format!("{}: {what}", case.failure));

    let path = place.path().to_str().unwrap().to_owned();
    if case.code == 0 {
        if let Some(mounted) = case.mounted
            && let Err(what) = mounted(&place.mount())
        {
            fail(what);
        }
        let _ = Command::new("umount").arg(place.mount()).stderr(Stdio::null()).status();
    }
    (case.clean)(&place);
    if !wait_until(|| processes_naming(&path).is_empty()) {
        fail("a process is left".to_owned());
    }
    if is_mounted(&place.mount()) {
        fail("a mount is left".to_owned());
    }
    let after = files_below(place.path());
    if after != before {
        fail(format!("files are left: {after:?}, not {before:?}"));
    }
    (output, seconds)
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
        word.replace("MNT", mount.to_str().unwrap()).replace("HOME", home.to_str().unwrap())
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
            if is_dir && !is_mounted(&entry.path()) {
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
