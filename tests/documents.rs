//! Documents that say what the program says.

use std::collections::BTreeMap;
use std::process::Command;

use crate::support::mounted::binary;

#[expect(dead_code, reason = "its main is the example's")]
#[path = "../docs/man.rs"]
mod man;

const CONFIGURATION: &str = include_str!("../docs/CONFIGURATION.md");

/// docs/CONFIGURATION.md has each option of `--help`, no other, with its default.
#[test]
fn the_options_are_documented() {
    let documented = documented_options(CONFIGURATION);
    let mut offered = offered_options(&help(&["--help"]));
    for command in ["refresh", "umount", "list"] {
        for (option, default) in offered_options(&help(&[command, "--help"])) {
            offered.entry(option).or_insert(default);
        }
    }
    offered.retain(|option, _| option != "--help" && option != "--version");
    assert!(offered.len() > 20, "{offered:?}");
    let names = |options: &BTreeMap<String, String>| options.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&documented), names(&offered));
    for (option, default) in &offered {
        // What clap knows as a value stands as it is; what is explained is explained in both.
        if !default.contains(' ') && !default.is_empty() {
            assert!(documented[option].contains(default), "{option}: {}", documented[option]);
        }
    }
}

/// docs/s3mount.1 is what docs/man.rs makes of the options today.
#[test]
fn the_manual_page_is_current() {
    let current = man::page().unwrap();
    let kept = include_bytes!("../docs/s3mount.1");
    assert!(kept[..] == current[..], "run: cargo run --example man > docs/s3mount.1");
}

fn help(words: &[&str]) -> String {
    let output = Command::new(binary()).args(words).output();
    String::from_utf8(output.expect("the binary starts").stdout).expect("text")
}

/// Long options of the page, with what it says of the default.
fn offered_options(help: &str) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    let mut name = None;
    for line in help.lines() {
        let trimmed = line.trim_start();
        let long = trimmed.split([' ', ',']).find(|word| word.starts_with("--"));
        if let Some(long) = long.filter(|_| trimmed.starts_with('-')) {
            options.insert(long.to_owned(), String::new());
            name = Some(long.to_owned());
        } else if let (Some((_, rest)), Some(name)) = (trimmed.split_once("[default: "), &name) {
            // An explanation goes on in the next line.
            if let Some((default, _)) = rest.split_once(']') {
                options.insert(name.clone(), default.to_owned());
            }
        }
    }
    options
}

/// Long options in the first cells of the tables, with their second cells.
fn documented_options(text: &str) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `-")) {
        let cells: Vec<&str> = row.split('|').collect();
        let words = cells[1].split(['`', ' ', ',']).filter(|word| word.starts_with("--"));
        options.extend(words.map(|word| (word.to_owned(), cells[2].to_owned())));
    }
    options
}
