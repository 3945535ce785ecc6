//! The commands that are about a mount that there is, as they are typed.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser};

use super::sentences::{self, Form};

/// Broken by hand, to fit into 80 columns.
const AFTER_REFRESH: &str = "\
For a directory, the names in it are forgotten; for a file, and for a name that
does not exist (yet), what is known of that name. Open files and listings that
are being read go on. The command itself sends no request.

Only root and the user who mounted may. Exit codes: 0 forgotten, 2 usage, 4 the
mount is another user's, 7 PATH is not in a mount of s3mount that can be asked,
1 anything else.

Examples:
  s3mount refresh /mnt/s3/incoming
  s3mount refresh --recursive /mnt/s3";

/// Forgets what a mount knows of PATH, so that the next look asks S3.
#[derive(Parser, Clone, PartialEq, Eq, Debug)]
#[command(
    name = "s3mount refresh",
    override_usage = REFRESH_USAGE,
    after_help = AFTER_REFRESH,
    max_term_width = 100,
    args_override_self = true
)]
pub struct RefreshArgs {
    /// A directory, a file or a missing name in a mount, or the directory it is mounted on.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// Forget everything below it, too.
    #[arg(long, short)]
    pub recursive: bool,

    /// Print what was forgotten as a JSON object, and a failure, too: error, message, exit_code.
    #[arg(long)]
    pub json: bool,
}

pub(super) const REFRESH_USAGE: &str = "s3mount refresh [--recursive] [--json] PATH";

/// Broken by hand, to fit into 80 columns.
const AFTER_UMOUNT: &str = "\
It works also where S3 does not answer, and where the process that serves the
mount is stopped or was killed: the mount itself is not touched. A mount with
--auto-remount is not mounted anew. It returns when the process has ended, or
after 10 s, and says so. Only root and the user who mounted may; without root it
needs fusermount3.

Exit codes: 0 unmounted, 2 usage, 4 the mount is another user's, 7 DIR is in use
or no mount of s3mount, 8 refused by the kernel or fusermount3, 1 anything else;
of several, that of the first failure.

Examples:
  s3mount umount /mnt/s3
  s3mount umount --lazy /mnt/s3
  s3mount umount --all --force";

/// Unmounts what s3mount has mounted. What is in use stays, and its users are named.
#[derive(Parser, Clone, PartialEq, Eq, Debug)]
#[command(
    name = "s3mount umount",
    override_usage = UMOUNT_USAGE,
    after_help = AFTER_UMOUNT,
    max_term_width = 100,
    args_override_self = true
)]
pub struct UmountArgs {
    /// Directories that buckets are mounted on.
    #[arg(value_name = "DIR", required_unless_present = "all", conflicts_with = "all")]
    pub dirs: Vec<PathBuf>,

    /// Also what is in use: it disappears at once, those who use it go on, and the process ends with
    /// the last of them.
    #[arg(long, short)]
    pub lazy: bool,

    /// Also what is in use: those who use it get errors, those who wait in it at once, and the
    /// process ends.
    #[arg(long, short)]
    pub force: bool,

    /// All that s3mount has mounted and this user may unmount, the innermost first.
    #[arg(long, short)]
    pub all: bool,

    /// Print a JSON object for each mount: dir, source, detached, aborted, pid, process_ended; and
    /// one for each failure: error, message, exit_code.
    #[arg(long)]
    pub json: bool,
}

pub(super) const UMOUNT_USAGE: &str = "s3mount umount [--lazy] [--force] [--json] DIR... | --all";

/// Broken by hand, to fit into 80 columns.
const AFTER_LIST: &str = "\
A line has the directory, what is mounted, the process that serves it, who
mounted it, and how it is: serving and since when, not answering, stopped, dead
(end it with: s3mount umount DIR), or unknown, where this user may not ask. No
mount is touched, so one that hangs does not hinder the list.

Exit codes: 0 listed, also where nothing is mounted, 2 usage, 1 anything else.";

/// Lists what s3mount has mounted, and how each mount is.
#[derive(Parser, Clone, PartialEq, Eq, Debug)]
#[command(
    name = "s3mount list",
    override_usage = LIST_USAGE,
    after_help = AFTER_LIST,
    max_term_width = 100,
    args_override_self = true
)]
pub struct ListArgs {
    /// Print a JSON object for each mount: dir, source, state, pid, uid, seconds.
    #[arg(long)]
    pub json: bool,
}

pub(super) const LIST_USAGE: &str = "s3mount list [--json]";

/// Understands the words of a command without the program's name and its own.
pub(super) fn parse<A: CommandFactory + FromArgMatches>(
    words: impl IntoIterator<Item = OsString>,
    form: &Form,
) -> Result<A, clap::Error> {
    let command = A::command();
    let words = std::iter::once(OsString::from(command.get_name())).chain(words);
    let matches = command.try_get_matches_from(words);
    matches
        .and_then(|mut matches| A::from_arg_matches_mut(&mut matches))
        .map_err(|err| sentences::plain(err, form))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Typed, understand};

    fn understood(line: &str) -> Result<RefreshArgs, String> {
        let typed: Vec<OsString> =
            std::iter::once("s3mount").chain(line.split(' ')).map(Into::into).collect();
        match understand(&typed) {
            Ok(Typed::Refresh(args)) => Ok(args),
            Ok(other) => panic!("{other:?}"),
            Err(err) => Err(format!("{} {}", err.exit_code(), err.render())),
        }
    }

    #[test]
    fn options_stand_anywhere() {
        let expected = RefreshArgs { path: "/m/a".into(), recursive: true, json: true };
        for line in [
            "refresh /m/a --recursive --json",
            "refresh --json -r /m/a",
            "--json refresh -r -r -- /m/a",
        ] {
            assert_eq!(understood(line).as_ref(), Ok(&expected), "{line}");
        }
        assert!(!understood("refresh a").unwrap().recursive);
        assert_eq!(understood("refresh -- refresh").unwrap().path, PathBuf::from("refresh"));
    }

    #[test]
    fn each_mistake_is_one_sentence() {
        for (line, part) in [
            ("refresh", "PATH is missing; write s3mount refresh"),
            ("refresh /m/a /m/b", "'/m/b' is one word too many"),
            ("refresh /m/a --recursiv", "did you mean --recursive?"),
            ("refresh /m/a --region x", "no option --region; see s3mount refresh --help"),
            ("--region x refresh /m/a", "no option --region"),
        ] {
            let text = understood(line).expect_err(line);
            assert!(text.starts_with("2 ") && text.contains(part), "{line}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn options_of_an_unmount_have_letters() {
        let typed = |line: &str| -> Vec<OsString> {
            std::iter::once("s3mount").chain(line.split(' ')).map(Into::into).collect()
        };
        let dirs = |dirs: &[&str]| dirs.iter().map(PathBuf::from).collect();
        let plain = UmountArgs { dirs: vec![], lazy: false, force: false, all: false, json: false };
        for (line, expected) in [
            ("umount /m /n", UmountArgs { dirs: dirs(&["/m", "/n"]), ..plain.clone() }),
            ("umount -l /m", UmountArgs { dirs: dirs(&["/m"]), lazy: true, ..plain.clone() }),
            ("-f umount s3", UmountArgs { dirs: dirs(&["s3"]), force: true, ..plain.clone() }),
            ("umount -lfa", UmountArgs { lazy: true, force: true, all: true, ..plain.clone() }),
        ] {
            let understood = understand(&typed(line));
            assert!(
                matches!(&understood, Ok(Typed::Umount(args)) if *args == expected),
                "{line}: {understood:?}"
            );
        }
        assert!(matches!(
            understand(&typed("list --json")),
            Ok(Typed::List(ListArgs { json: true }))
        ));
        for (line, part) in [
            ("umount", "DIR is missing; write s3mount umount"),
            ("umount --all /m", "exclude each other"),
            ("umount --lasy /m", "did you mean --lazy?"),
            ("list /m/a", "'/m/a' is one word too many"),
        ] {
            let text = understood(line).expect_err(line);
            assert!(text.starts_with("2 ") && text.contains(part), "{line}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn help_is_that_of_the_command() {
        for (line, part) in [
            ("refresh --help", "--recursive"),
            ("help refresh", "--recursive"),
            ("umount --help", "--lazy"),
            ("help umount", "--lazy"),
            ("help list", "not answering"),
        ] {
            let text = understood(line).expect_err(line);
            assert!(text.starts_with("0 ") && text.contains(part), "{text}");
            assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        }
    }
}
