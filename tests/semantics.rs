//! The contract in docs/SEMANTICS.md, held to the tests: each of its sentences is the doc comment
//! of a test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The files whose tests are the contract: what they prove is promised.
const CONTRACT: [&str; 30] = [
    "asleep.rs",
    "changes.rs",
    "client.rs",
    "control.rs",
    "credentials.rs",
    "cursors.rs",
    "direct.rs",
    "extremes.rs",
    "failures.rs",
    "faults.rs",
    "files.rs",
    "freshness.rs",
    "handles.rs",
    "hostile.rs",
    "hostile_reads.rs",
    "integrity.rs",
    "lifecycle.rs",
    "limits.rs",
    "line.rs",
    "listings.rs",
    "mapped.rs",
    "memory.rs",
    "ordinary.rs",
    "policies.rs",
    "programs.rs",
    "remount.rs",
    "reopen.rs",
    "small.rs",
    "umount.rs",
    "walks.rs",
];

/// Each bullet of docs/SEMANTICS.md is the first paragraph of a test's doc comment, and each test of
/// the contract's files stands there.
#[test]
fn every_promise_has_a_test_and_every_test_a_promise() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = bullets(&read(&root.join("docs/SEMANTICS.md")));
    assert!(promises.len() > 20, "the contract was found: {promises:?}");
    let unique: BTreeSet<_> = promises.iter().collect();
    assert_eq!(unique.len(), promises.len(), "a promise is given once");

    let mut tests = BTreeMap::new();
    for entry in fs::read_dir(root.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".rs") {
            let found = documented_tests(&read(&path));
            tests.insert(name, found);
        }
    }
    let proven: BTreeSet<_> = tests.values().flatten().map(|(_, doc)| doc.as_str()).collect();
    let mut wrong = Vec::new();
    for promise in &promises {
        if !proven.contains(promise.as_str()) {
            wrong.push(format!("no test has the doc comment of this bullet: {promise}"));
        }
    }
    for file in CONTRACT {
        assert!(!tests[file].is_empty(), "the tests of {file} were found");
        for (test, doc) in &tests[file] {
            if !unique.contains(doc) {
                wrong.push(format!("docs/SEMANTICS.md has no bullet for {file}, {test}: {doc}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn bullets_and_doc_comments_are_joined_from_their_lines() {
    let text = "# T\n\n- One\n  sentence.\n- Two.\n\nProse.\n";
    assert_eq!(bullets(text), ["One sentence.", "Two."]);
    let code = "/// One\n/// sentence.\n///\n/// More.\n#[test]\n#[cfg(x)]\nfn a() {\n}\n\n\
                /// Of no test.\nfn b() {}\n\n#[test]\nfn c() {}\n";
    let found = [("a".to_owned(), "One sentence.".to_owned()), ("c".to_owned(), String::new())];
    assert_eq!(documented_tests(code), found);
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The list entries of a Markdown text, each on one line.
fn bullets(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(start) = line.strip_prefix("- ") {
            found.push(start.trim().to_owned());
            inside = true;
        } else if inside && line.starts_with("  ") {
            let bullet = found.last_mut().expect("inside of one");
            bullet.push(' ');
            bullet.push_str(line.trim());
        } else {
            inside = false;
        }
    }
    found
}

/// The names of the tests in a file of Rust and the first paragraphs of their doc comments.
fn documented_tests(code: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut doc, mut is_test) = (Vec::new(), false);
    for line in code.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else if line.starts_with("#[") {
            is_test |= line == "#[test]";
        } else {
            if let Some(rest) = line.strip_prefix("fn ")
                && is_test
            {
                let name = rest.split('(').next().unwrap_or(rest);
                let paragraph: Vec<_> =
                    doc.iter().take_while(|text| !text.is_empty()).copied().collect();
                found.push((name.to_owned(), paragraph.join(" ")));
            }
            doc.clear();
            is_test = false;
        }
    }
    found
}
