//! What credentials with fewer rights can do, and what is said of the rest. The policies are those
//! in README.md, evaluated by the simulator; nothing here writes one of its own without need.

#![expect(clippy::unwrap_used, reason = "helpers fail a test as tests do")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::mounted::{command, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;
use crate::support::simulator::iam::Document;

const KMS_KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const MIB: u64 = 1 << 20;

/// What a policy is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Ability {
    Mount,
    List,
    /// A file of known path is read, and a name that is missing beside it is ENOENT.
    Read,
    /// A file of known path is read, and nothing is said of missing names.
    ReadKnown,
    ReadEncrypted,
    /// A reader of a file that is replaced goes on.
    ReadReplaced,
}

use Ability::{List, Mount, Read, ReadEncrypted, ReadKnown, ReadReplaced};

/// A policy of README.md: where it stands, how to mount with it, and what it is for.
struct Case {
    /// How the paragraph above it begins.
    above: &'static str,
    arguments: &'static [&'static str],
    abilities: &'static [Ability],
    /// What cannot be done any more when an action is taken away.
    without: &'static [(&'static str, &'static [Ability])],
}

const CASES: [Case; 5] = [
    Case {
        above: "A whole bucket",
        arguments: &["myfiles"],
        abilities: &[Mount, List, Read],
        without: &[("s3:ListBucket", &[Mount, List, Read]), ("s3:GetObject", &[Read])],
    },
    Case {
        above: "One prefix of it",
        arguments: &["myfiles/some/prefix"],
        abilities: &[Mount, List, Read],
        without: &[("s3:ListBucket", &[Mount, List, Read]), ("s3:GetObject", &[Read])],
    },
    Case {
        above: "Paths that are known",
        arguments: &["--known-paths", "myfiles"],
        abilities: &[Mount, ReadKnown],
        without: &[("s3:GetObject", &[ReadKnown])],
    },
    Case {
        above: "Objects that are encrypted",
        arguments: &["myfiles"],
        abilities: &[Mount, List, Read, ReadEncrypted],
        without: &[
            ("s3:ListBucket", &[Mount, List, Read, ReadEncrypted]),
            ("s3:GetObject", &[Read, ReadEncrypted]),
            ("kms:Decrypt", &[ReadEncrypted]),
        ],
    },
    Case {
        above: "A bucket with versions",
        arguments: &["myfiles"],
        abilities: &[Mount, List, Read, ReadReplaced],
        without: &[
            ("s3:ListBucket", &[Mount, List, Read, ReadReplaced]),
            ("s3:GetObject", &[Read, ReadReplaced]),
            ("s3:GetObjectVersion", &[ReadReplaced]),
        ],
    },
];

/// The policies in README.md are enough for what is said of each, and without any of its actions
/// something of that does not work.
#[test]
fn the_policies_of_the_readme_are_enough_and_least() {
    let found = policies();
    assert_eq!(found.len(), CASES.len(), "each policy of README.md is tried");
    for case in CASES {
        let (_, policy) = found
            .iter()
            .find(|(above, _)| above.starts_with(case.above))
            .unwrap_or_else(|| panic!("README.md has no policy below {:?}", case.above));
        let works = |policy: &Value| abilities(policy, case.arguments, case.abilities);
        let all: BTreeSet<_> = case.abilities.iter().copied().collect();
        assert_eq!(works(policy), all, "{}", case.above);
        let actions = actions(policy);
        let named: BTreeSet<_> = case.without.iter().map(|(action, _)| *action).collect();
        assert_eq!(actions.iter().map(String::as_str).collect::<BTreeSet<_>>(), named);
        for (action, broken) in case.without {
            let left = all.iter().filter(|ability| !broken.contains(ability)).copied().collect();
            assert_eq!(works(&without(policy, action)), left, "{} without {action}", case.above);
        }
    }
}

/// With a policy that allows listing below the mounted prefix only, nothing outside it is asked
/// for, whatever is looked for inside, and everything inside works.
#[test]
fn nothing_outside_the_prefix_is_asked_for() {
    let whole = json!({ "StringLike": { "s3:prefix": "some/prefix/*" } });
    let conditions = [
        whole.clone(),
        json!({ "StringLike": { "s3:prefix": ["some/prefix/", "some/prefix/*"] } }),
        json!({ "StringLike": whole["StringLike"], "StringEquals": { "s3:delimiter": "/" } }),
        json!({ "StringLike": whole["StringLike"], "Null": { "s3:delimiter": "false" } }),
    ];
    for condition in conditions {
        let (_, mut policy) = policies().into_iter().nth(1).unwrap();
        policy["Statement"][0]["Condition"] = condition.clone();
        let simulator = bucket(&policy);
        simulator.reset_log();
        for prefix in ["myfiles/some/prefix", "myfiles/some/prefix/"] {
            let mounted = Background::start(&simulator, &[prefix]).unwrap();
            let script = "ls -laR . && find . -type f | sort && cat d/known sub/x/y && \
                          stat -c %s known && ! stat missing && ! stat d/missing/further && \
                          ! cat ../some/prefix/known && stat .. ../.. && ls -d d/../sub && \
                          ! ls nothing/ && tar cf - . | wc -c && du -s .";
            let run = Command::new("sh")
                .args(["-ec", script])
                .current_dir(mounted.path())
                .output()
                .unwrap();
            assert!(run.status.success(), "{condition}: {run:?} {}", mounted.log());
        }
        let log = simulator.log();
        assert!(log.len() > 10);
        for entry in log {
            let subject = entry.call.subject();
            assert!(subject.starts_with("some/prefix/"), "{condition}: {:?}", entry.call);
            // HEAD of a missing name may not say so: S3 asks for the right to list everything. And a
            // listing without delimiter is tried.
            let is_tried = entry.call.kind == Kind::List && entry.call.delimiter().is_none();
            let allowed = entry.status != Some(403) || entry.call.kind == Kind::Head || is_tried;
            assert!(allowed, "{condition}: {:?}", entry.call);
        }
    }
}

/// Where a policy denies listings without delimiter, that is noticed once, and each directory is listed by
/// itself.
#[test]
fn without_the_right_to_list_a_tree_each_directory_is_listed() {
    let (_, mut policy) = policies().into_iter().next().expect("a policy");
    policy["Statement"][0]["Condition"] = json!({ "StringEquals": { "s3:delimiter": "/" } });
    let simulator = bucket(&policy);
    let mut expected = BTreeSet::new();
    for dir in 0..30 {
        simulator.put("myfiles", &format!("d{dir}/sub/file"), "x");
        expected.insert(format!("./d{dir}/sub/file"));
    }
    let mounted = Background::start(&simulator, &["myfiles"]).expect("a mount");
    simulator.reset_log();
    let output =
        Command::new("find").args([".", "-name", "file"]).current_dir(mounted.path()).output();
    let text = String::from_utf8(output.expect("find").stdout).expect("UTF-8");
    assert_eq!(text.lines().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    let denied = simulator.log().iter().filter(|entry| entry.status == Some(403)).count();
    assert!((1..=4).contains(&denied), "on their way when the first was denied: {denied}");
    assert!(mounted.join("d1/sub/file").exists());
}

/// With a policy that allows the listing of some directories only, a name that is missing in one of
/// them is ENOENT.
#[test]
fn a_listed_directory_tells_missing_names() {
    let (_, mut policy) = policies().into_iter().next().unwrap();
    policy["Statement"][0]["Condition"] = json!({ "StringEquals": {
        "s3:prefix": ["", "some/", "some/prefix/"], "s3:delimiter": "/",
    } });
    let simulator = bucket(&policy);
    let mounted = Background::start(&simulator, &["myfiles"]).unwrap();
    let mode =
        |name| fs::metadata(mounted.join(name)).map(|found| found.permissions().mode() & 0o777);
    assert_eq!(errno(mode("some/prefix/missing")), Some(libc::ENOENT), "before any listing");
    assert_eq!(mode("some/prefix/known").unwrap(), 0o444);
    assert_eq!(mode("some/prefix").unwrap(), 0o555);
    assert_eq!(fs::read_to_string(mounted.join("some/prefix/sub/x/y")).unwrap(), "deep");
    assert_eq!(fs::read_dir(mounted.join("some/prefix")).unwrap().count(), 3);
    assert_eq!(errno(fs::read_dir(mounted.join("some/prefix/sub"))), Some(libc::EACCES));
}

/// With s3:GetObject alone and `--known-paths`, a file is read by its path through directories of
/// mode 0111, `ls` is EACCES, and the log says once which action is missing on which resource.
#[test]
fn known_paths_open_without_the_right_to_list() {
    let (_, policy) = policies().into_iter().nth(2).unwrap();
    let simulator = bucket(&policy);
    let mounted = Background::start(&simulator, &["--known-paths", "myfiles"]).unwrap();
    assert_eq!(fs::read_to_string(mounted.join("some/prefix/sub/x/y")).unwrap(), "deep");
    assert_eq!(fs::read_to_string(mounted.join("some/prefix/known")).unwrap(), "content");
    for name in ["some", "some/prefix", "missing", "some/missing"] {
        let mode = fs::metadata(mounted.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o111, "{name}");
        assert_eq!(errno(fs::read_dir(mounted.join(name))), Some(libc::EACCES), "{name}");
        assert_eq!(errno(fs::read_dir(mounted.join(name))), Some(libc::EACCES), "{name}");
    }
    assert_eq!(errno(fs::read_dir(mounted.path())), Some(libc::EACCES));
    assert_eq!(errno(fs::read_dir(mounted.path())), Some(libc::EACCES));
    let log = mounted.log();
    let missing = "s3:ListBucket on arn:aws:s3:::myfiles";
    let said = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(said("is shown as a directory of mode 0111"), 1, "{log}");
    assert_eq!(said("\"some/missing/\" may not be listed"), 1, "{log}");
    let unnamed = |line: &&str| line.contains("WARN") && !line.contains(missing);
    assert_eq!(log.lines().skip(1).find(unnamed), None, "{log}");

    let (code, said) = Background::start(&simulator, &["myfiles"]).map(drop).unwrap_err();
    assert_eq!(code, Some(4), "without the option: {said}");
    assert!(said.contains(missing) && said.contains("--known-paths"), "{said}");
}

/// With s3:ListBucket alone, `ls -l` works and reading is EACCES, and the log names s3:GetObject and
/// the object's ARN, once for each file and minute.
#[test]
fn names_are_shown_without_the_right_to_read() {
    let (_, policy) = policies().into_iter().next().unwrap();
    let simulator = bucket(&without(&policy, "s3:GetObject"));
    let mounted = Background::start(&simulator, &["myfiles"]).unwrap();
    let listed = Command::new("ls").args(["-lR"]).arg(mounted.path()).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    assert_eq!(fs::metadata(mounted.join("some/prefix/known")).unwrap().len(), 7);
    for _ in 0..3 {
        for name in ["known", "d/known"] {
            let path = mounted.join("some/prefix").join(name);
            assert_eq!(errno(fs::read(path)), Some(libc::EACCES), "{name}");
        }
    }
    let log = mounted.log();
    for name in ["known", "d/known"] {
        let arn = format!("s3:GetObject on arn:aws:s3:::myfiles/some/prefix/{name}:");
        assert_eq!(log.matches(&arn).count(), 1, "{log}");
    }
}

/// A denial of the key of KMS is told from one of the object: the log names kms:Decrypt and the
/// key, the file's attributes are shown, and other files are read.
#[test]
fn a_denied_key_of_kms_is_named() {
    let (_, policy) = policies().into_iter().next().unwrap();
    let simulator = bucket(&policy);
    let mounted = Background::start(&simulator, &["myfiles"]).unwrap();
    assert_eq!(fs::metadata(mounted.join("encrypted")).unwrap().len(), 6);
    assert_eq!(errno(fs::read(mounted.join("encrypted"))), Some(libc::EACCES));
    assert_eq!(fs::read_to_string(mounted.join("some/prefix/known")).unwrap(), "content");
    let log = mounted.log();
    assert_eq!(log.matches(&format!("it needs kms:Decrypt on {KMS_KEY}:")).count(), 1, "{log}");
    assert!(!log.contains("needs s3:GetObject"), "{log}");
}

/// The right to read old versions is asked for once: after a denial, readers of replaced files get
/// ESTALE without a further request.
#[test]
fn a_denied_old_version_is_remembered() {
    let (_, policy) = policies().into_iter().next().unwrap();
    let simulator = bucket(&policy);
    simulator.put_synthetic("myfiles", "other", 64 * MIB);
    let mounted = Background::start(&simulator, &["myfiles"]).unwrap();
    let versioned =
        || simulator.log().iter().filter(|entry| entry.call.version_id().is_some()).count();
    for (name, n_asked) in [("large", 1), ("other", 1)] {
        let open = fs::File::open(mounted.join(name)).unwrap();
        open.read_exact_at(&mut [0; 100], 0).unwrap();
        simulator.put_synthetic("myfiles", name, 64 * MIB);
        let read = open.read_exact_at(&mut [0; 100], 50 * MIB);
        assert_eq!(errno(read), Some(libc::ESTALE), "{}", mounted.log());
        assert_eq!(versioned(), n_asked, "{name}");
    }
}

/// What of `wanted` works with this policy.
fn abilities(policy: &Value, arguments: &[&str], wanted: &[Ability]) -> BTreeSet<Ability> {
    let simulator = bucket(policy);
    let Ok(mounted) = Background::start(&simulator, arguments) else { return BTreeSet::new() };
    // The same files, whether the bucket is mounted or the prefix.
    let base = match arguments.last() {
        Some(&"myfiles") => mounted.join("some/prefix"),
        _ => mounted.path(),
    };
    let reads = |name: &str, content: &str| {
        fs::read_to_string(base.join(name)).is_ok_and(|text| text == content)
    };
    let works = |ability: &Ability| match ability {
        Mount => true,
        List => {
            let listed = Command::new("ls").arg("-lR").arg(&base).output().unwrap();
            let text = String::from_utf8_lossy(&listed.stdout);
            listed.status.success() && text.contains("known") && text.contains(" y")
        }
        Read => {
            reads("known", "content")
                && errno(fs::metadata(base.join("missing"))) == Some(libc::ENOENT)
        }
        ReadKnown => reads("known", "content") && reads("sub/x/y", "deep"),
        ReadEncrypted => fs::read(mounted.join("encrypted")).is_ok_and(|text| text == b"secret"),
        ReadReplaced => {
            let read = || -> std::io::Result<bool> {
                let open = fs::File::open(mounted.join("large"))?;
                let mut text = vec![0; 100];
                open.read_exact_at(&mut text, 0)?;
                let expected = simulator.range_bytes("myfiles", "large", 50 * MIB..50 * MIB + 100);
                simulator.put_synthetic("myfiles", "large", 64 * MIB);
                open.read_exact_at(&mut text, 50 * MIB)?;
                Ok(text == expected)
            };
            read().unwrap_or(false)
        }
    };
    wanted.iter().filter(|ability| works(ability)).copied().collect()
}

/// A bucket with something in every place, and a policy for the only key.
fn bucket(policy: &Value) -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.set_versioned("myfiles", true);
    for (key, text) in [
        ("outside", "x"),
        ("some/other/x", "x"),
        ("some/prefix/known", "content"),
        ("some/prefix/d/known", "content"),
        ("some/prefix/sub/x/y", "deep"),
        ("some/prefixed", "x"),
        ("encrypted", "secret"),
    ] {
        simulator.put("myfiles", key, text);
    }
    simulator.encrypt("myfiles", "encrypted", KMS_KEY);
    simulator.put_synthetic("myfiles", "large", 64 * MIB);
    let document = Document::of(policy).unwrap_or_else(|err| panic!("{err}: {policy}"));
    simulator.attach_policy(simulator.access_key(), document);
    simulator
}

/// The policies in README.md with the line above each, in their order.
fn policies() -> Vec<(String, Value)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(path).unwrap();
    let mut found = Vec::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("```json\n") {
        let (block, after) = after.split_once("```").expect("the block ends");
        let above = before.trim_end().rsplit("\n\n").next().unwrap_or_default();
        found.push((above.to_owned(), serde_json::from_str(block).expect("JSON")));
        rest = after;
    }
    found
}

fn actions(policy: &Value) -> Vec<String> {
    let statements = policy["Statement"].as_array().unwrap().iter();
    let of_one = |statement: &Value| match &statement["Action"] {
        Value::Array(actions) => actions.clone(),
        one => vec![one.clone()],
    };
    let text = |action: Value| action.as_str().unwrap().to_owned();
    statements.flat_map(of_one).map(text).collect()
}

/// The policy without one action; a statement that has no other goes with it.
fn without(policy: &Value, action: &str) -> Value {
    let mut policy = policy.clone();
    policy["Statement"].as_array_mut().unwrap().retain_mut(
        |statement| match &mut statement["Action"] {
            Value::Array(actions) => {
                actions.retain(|one| one != action);
                !actions.is_empty()
            }
            one => one != action,
        },
    );
    policy
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|err| err.raw_os_error())
}

/// A mount whose start may fail.
struct Background {
    directory: TempDir,
}

impl Background {
    /// Fails with the exit code and what was said.
    fn start(simulator: &Simulator, arguments: &[&str]) -> Result<Self, (Option<i32>, String)> {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        let background = Self { directory };
        let mut program = command(simulator);
        program.arg("--log-file").arg(background.log_path()).args(["--log-level", "info"]);
        let output = program.args(arguments).arg(background.path()).output().unwrap();
        match output.status.success() {
            true => Ok(background),
            false => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                Err((output.status.code(), said))
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let umount = || {
            let output = Command::new("umount").arg(self.path()).output().unwrap();
            // Not mounted: the start has failed.
            output.status.success()
                || String::from_utf8_lossy(&output.stderr).contains("not mounted")
        };
        assert!(wait_until(umount) || std::thread::panicking(), "{}", self.log());
    }
}
