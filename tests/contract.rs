//! One suite for every S3 server: the built program, mounted, against the simulator, against moto
//! and ministack, against the simulator with each of its quirks, and against the server that
//! `S3MOUNT_TEST_ENDPOINT` names. A check needs only an endpoint, keys, a region and a bucket.
//!
//! What a server cannot do stands in [`IMPOSSIBLE`], with the reason; a check that fails and does
//! not stand there fails the suite, and so does one that passes although it stands there.

#[path = "contract/changes.rs"]
mod changes;
#[path = "contract/checks.rs"]
mod checks;
#[path = "contract/ground.rs"]
mod ground;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ground::{Failed, Ground, Outcome};

use crate::support::servers::{Server, variable};
use crate::support::simulator::quirks::Quirk;

/// Server or quirk, check, and why it cannot be.
const IMPOSSIBLE: &[(&str, &str, &str)] = &[
    ("moto", "name: newline", "moto's routes know no newline: PUT answers 404 and stores nothing"),
    ("moto", "a wrong secret ends with 4", "moto checks no signatures outside its IAM mode"),
    ("moto", "an unknown access key ends with 4", "moto takes any access key outside its IAM mode"),
    ("moto", "a private bucket refuses anonymous requests", "moto answers unsigned requests"),
    (
        "ministack",
        "a wrong secret ends with 4",
        "ministack checks signatures of presigned URLs only",
    ),
];

/// Runs at the end, when everything has been stored.
const CLEANS_UP: &str = "everything stored is deleted";

#[test]
fn the_simulator_keeps_the_contract() {
    keeps_the_contract(Server::simulator());
}

#[test]
fn moto_keeps_the_contract() {
    match Server::moto() {
        Some(server) => keeps_the_contract(server),
        None => not_installed("moto"),
    }
}

#[test]
fn ministack_keeps_the_contract() {
    match Server::ministack() {
        Some(server) => keeps_the_contract(server),
        None => not_installed("ministack"),
    }
}

#[test]
fn the_server_that_is_given_keeps_the_contract() {
    match Server::given() {
        Some(server) => keeps_the_contract(server),
        None => say("skipped: S3MOUNT_TEST_ENDPOINT names no further server\n"),
    }
}

/// With each way to differ from S3 switched on, one at a time.
#[test]
fn the_simulator_with_a_quirk_keeps_the_contract() {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut problems = Vec::new();
        while let Some(quirk) = Quirk::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            problems.extend(run(Server::quirky(*quirk), Detail::Totals));
        }
        problems
    };
    // As many as nextest lets mount at once.
    let problems = std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.map(|worker| worker.join().expect("a worker that does not panic")).concat()
    });
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// The table names servers, quirks and checks that there are.
#[test]
fn what_is_impossible_is_about_something() {
    let names: Vec<_> = checks::all().iter().map(|check| check.name).chain([CLEANS_UP]).collect();
    let quirks = Quirk::ALL.map(|quirk| format!("{quirk:?}"));
    for (server, check, _) in IMPOSSIBLE {
        assert!(names.contains(check), "no check {check}");
        let known = ["simulator", "moto", "ministack"].contains(server);
        assert!(known || quirks.iter().any(|quirk| quirk == server), "no server {server}");
    }
    for (index, name) in names.iter().enumerate() {
        assert!(!names[..index].contains(name), "two checks are called {name}");
    }
}

fn keeps_the_contract(server: Server) {
    let problems = run(server, Detail::EachCheck);
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// How much of the table is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    EachCheck,
    /// The totals, and what did not pass.
    Totals,
}

/// Runs all checks and prints how they went. Returns what is not as the table says.
fn run(server: Server, detail: Detail) -> Vec<String> {
    let start = Instant::now();
    let checks = checks::all();
    let name = server.name.clone();
    let ground = match Ground::lay(server, &checks) {
        Ok(ground) => ground,
        Err(Failed::Because(reason)) => return vec![format!("{name}: {reason}")],
        Err(Failed::NotTried(reason)) => return vec![format!("{name}: {reason}")],
    };
    let mut report = Report {
        name: &name,
        detail,
        lines: String::new(),
        n_passed: 0,
        n_impossible: 0,
        n_not_tried: 0,
        problems: Vec::new(),
    };
    for check in &checks {
        report.add(check.name, check.run(&ground), ground.server.is_ours());
    }
    report.add(CLEANS_UP, ground.clean_up(), ground.server.is_ours());
    let mut problems = report.problems;
    let seconds = start.elapsed().as_secs_f64();
    let totals = format!(
        "{} passed, {} known to be impossible, {} not tried, {} wrong, in {seconds:.1} s",
        report.n_passed,
        report.n_impossible,
        report.n_not_tried,
        problems.len()
    );
    say(&format!("\n{name}: {totals}\n{}", report.lines));
    if !problems.is_empty() {
        problems.push(format!("--- log of s3mount on {name}\n{}", ground.logs()));
    }
    problems
}

struct Report<'a> {
    name: &'a str,
    detail: Detail,
    lines: String,
    n_passed: usize,
    n_impossible: usize,
    n_not_tried: usize,
    problems: Vec<String>,
}

impl Report<'_> {
    fn add(&mut self, check: &str, outcome: Outcome, must_be_tried: bool) {
        let known = IMPOSSIBLE.iter().find(|(name, of, _)| *name == self.name && *of == check);
        let verdict = match (outcome, known) {
            (Ok(()), None) => {
                self.n_passed += 1;
                if self.detail == Detail::Totals {
                    return;
                }
                "passed".to_owned()
            }
            (Ok(()), Some(_)) => self.wrong(check, "passes, so IMPOSSIBLE is wrong about it"),
            (Err(Failed::Because(_)), Some((_, _, reason))) => {
                self.n_impossible += 1;
                format!("known impossible ({reason})")
            }
            (Err(Failed::Because(reason)), None) => self.wrong(check, &reason),
            (Err(Failed::NotTried(reason)), _) if must_be_tried => self.wrong(check, reason),
            (Err(Failed::NotTried(reason)), _) => {
                self.n_not_tried += 1;
                format!("not tried ({reason})")
            }
        };
        self.lines.push_str(&format!("  {check:<46} | {verdict}\n"));
    }

    fn wrong(&mut self, check: &str, reason: &str) -> String {
        self.problems.push(format!("{}, {check}: {reason}", self.name));
        format!("WRONG: {reason}")
    }
}

/// Never in silence, and never where everything must be checked.
fn not_installed(server: &str) {
    assert!(variable("CI").is_none(), "{server} is not installed; scripts/test installs it");
    say(&format!("skipped: {server} is not installed\n"));
}

fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
