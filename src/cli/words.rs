//! The words that are commands and not buckets. They are kept free from the start, so that a
//! command of a later version never changes what an old script means.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Command;

const RESERVED: &[&str] = &[
    "umount",
    "list",
    "status",
    "top",
    "why",
    "doctor",
    "bench",
    "exec",
    "watch",
    "snapshot",
    "upgrade",
    "warm",
    "pin",
    "unpin",
    "evict",
    "cached",
    "cache",
    "refresh",
    "restore",
    "config",
    "log-level",
    "help",
];

/// Refuses a command line whose first word is reserved, wherever among the options it stands. Two
/// words whose second has a `/` are a mount whatever the first.
pub(super) fn check(command: &Command, typed: &[OsString]) -> Result<(), clap::Error> {
    let words = positional(command, typed);
    let Some(word) = words.first().and_then(|word| word.to_str()) else { return Ok(()) };
    let is_mount = words.len() == 2 && words[1].as_bytes().contains(&b'/');
    if is_mount || !RESERVED.contains(&word) {
        return Ok(());
    }
    if word == "help" {
        return command.clone().try_get_matches_from(["s3mount", "--help"]).map(drop);
    }
    Err(super::wrong(format!(
        "`{word}` is a command of s3mount that is not available yet; to mount a bucket of this \
         name, write s3://{word} and a directory with a `/`"
    )))
}

/// The words that are neither options nor their values. An option that is not known counts as one
/// without a value: it is refused by the parser proper.
fn positional<'a>(command: &Command, typed: &'a [OsString]) -> Vec<&'a OsString> {
    let takes_value = |matches: &dyn Fn(&clap::Arg) -> bool| {
        command.get_arguments().any(|arg| matches(arg) && arg.get_action().takes_values())
    };
    let mut words = Vec::new();
    let mut rest = typed.iter().skip(1);
    while let Some(word) = rest.next() {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            words.extend(rest);
            break;
        }
        let value_follows = match bytes {
            [b'-', b'-', long @ ..] => {
                takes_value(&|arg| arg.get_long().is_some_and(|name| name.as_bytes() == long))
            }
            // `-fo OPTIONS`: the last letter decides; `-oOPTIONS` has its value with it.
            [b'-', letters @ ..] if !letters.is_empty() => {
                let with_value = letters.iter().position(|letter| {
                    takes_value(&|arg| arg.get_short() == Some(char::from(*letter)))
                });
                with_value.is_some_and(|at| at + 1 == letters.len())
            }
            _ => {
                words.push(word);
                false
            }
        };
        if value_follows {
            rest.next();
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Args;

    fn refusal(line: &str) -> Option<String> {
        let typed: Vec<OsString> =
            std::iter::once("s3mount").chain(line.split(' ')).map(Into::into).collect();
        let err = check(&Args::command(), &typed).err()?;
        Some(format!("{} {}", err.exit_code(), err.render()))
    }

    #[test]
    fn a_reserved_word_is_no_bucket() {
        for line in [
            "status",
            "status s3",
            "status --watch",
            "warm myfiles/data /mnt/s3",
            "exec myfiles ls /tmp",
            "--region eu-west-1 list",
            "--region=eu-west-1 -f list",
            "-o ro list",
            "-fo ro list",
            "-oro list",
            "-- list",
        ] {
            let text = refusal(line).expect(line);
            assert!(text.starts_with("2 error: `"), "{line}: {text}");
            assert!(text.contains("not available yet") && text.lines().count() == 1, "{text}");
        }
    }

    #[test]
    fn two_words_whose_second_has_a_slash_are_a_mount() {
        for line in ["status /mnt/s3", "status ./s3", "--region list top /mnt", "-f s3://status x"]
        {
            assert_eq!(refusal(line), None, "{line}");
        }
        assert_eq!(refusal("--region list myfiles mnt"), None, "the value of an option is no word");
        assert_eq!(refusal("myfiles status"), None, "a directory may have any name");
    }

    #[test]
    fn help_is_help() {
        assert!(refusal("help").expect("refused").starts_with("0 "));
        assert!(refusal("help status").expect("refused").starts_with("0 "));
    }
}
