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

/// What the first word asks for, wherever among the options it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Asked {
    Mount,
    Help,
    /// Of the command of this name.
    HelpOn(Name),
    /// The command of this name, which is the word at this place.
    Command(Name, usize),
}

/// A command that there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name {
    Refresh,
    Umount,
    List,
}

/// As the words of these are paths, the rule of two words does not hold for them: it would mount where a
/// mount was to be asked.
const AVAILABLE: [(&str, Name); 3] =
    [("refresh", Name::Refresh), ("umount", Name::Umount), ("list", Name::List)];

/// Refuses a command line whose first word is reserved for a later command. Two words whose second has
/// a `/` are a mount then.
pub(super) fn check(command: &Command, typed: &[OsString]) -> Result<Asked, clap::Error> {
    let words = positional(command, typed);
    let word = |index: usize| words.get(index).and_then(|(_, word)| word.to_str());
    let available =
        |word: &str| AVAILABLE.iter().find(|(name, _)| *name == word).map(|(_, command)| *command);
    let Some(first) = word(0) else { return Ok(Asked::Mount) };
    if let Some(command) = available(first) {
        return Ok(Asked::Command(command, words[0].0));
    }
    let is_mount = words.len() == 2 && words[1].1.as_bytes().contains(&b'/');
    if is_mount || !RESERVED.contains(&first) {
        return Ok(Asked::Mount);
    }
    if first == "help" {
        return Ok(word(1).and_then(available).map_or(Asked::Help, Asked::HelpOn));
    }
    let word = first;
    Err(super::wrong(format!(
        "`{word}` is a command of s3mount that is not available yet; to mount a bucket of this \
         name, write s3://{word} and a directory with a `/`"
    )))
}

/// The words that are neither options nor their values, with their places. An option that is not known counts as one
/// without a value: it is refused by the parser proper.
fn positional<'a>(command: &Command, typed: &'a [OsString]) -> Vec<(usize, &'a OsString)> {
    let takes_value = |matches: &dyn Fn(&clap::Arg) -> bool| {
        command.get_arguments().any(|arg| matches(arg) && arg.get_action().takes_values())
    };
    let mut words = Vec::new();
    let mut rest = typed.iter().enumerate().skip(1);
    while let Some((place, word)) = rest.next() {
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
                words.push((place, word));
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

    fn look(line: &str) -> Result<Asked, clap::Error> {
        let typed: Vec<OsString> =
            std::iter::once("s3mount").chain(line.split(' ')).map(Into::into).collect();
        check(&Args::command(), &typed)
    }

    fn asked(line: &str) -> Asked {
        look(line).expect(line)
    }

    fn refusal(line: &str) -> Option<String> {
        let err = look(line).err()?;
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
            "--region eu-west-1 top",
            "--region=eu-west-1 -f top",
            "-o ro top",
            "-fo ro top",
            "-oro top",
            "-- top",
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
        assert_eq!((asked("help"), asked("help status")), (Asked::Help, Asked::Help));
        assert_eq!(asked("help refresh"), Asked::HelpOn(Name::Refresh));
    }

    #[test]
    fn a_command_is_one_also_where_a_path_follows() {
        for (line, place) in [
            ("refresh /mnt/s3", 1),
            ("refresh s3", 1),
            ("refresh", 1),
            ("--json refresh -r /mnt/s3", 2),
            ("-- refresh /mnt/s3", 2),
        ] {
            assert_eq!(asked(line), Asked::Command(Name::Refresh, place), "{line}");
        }
        assert_eq!(asked("umount /mnt/s3"), Asked::Command(Name::Umount, 1));
        assert_eq!(asked("list /mnt/s3"), Asked::Command(Name::List, 1));
        assert_eq!(asked("s3://refresh /mnt/s3"), Asked::Mount);
        assert_eq!(asked("myfiles refresh"), Asked::Mount, "a directory may have any name");
    }
}
