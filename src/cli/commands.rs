//! The commands that talk to a mount, as they are typed.

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

/// Understands the words of `s3mount refresh` without the program's name and the command's.
pub(super) fn refresh(words: Vec<OsString>) -> Result<RefreshArgs, clap::Error> {
    let words = std::iter::once(OsString::from("s3mount refresh")).chain(words);
    let matches = RefreshArgs::command().try_get_matches_from(words);
    matches
        .and_then(|mut matches| RefreshArgs::from_arg_matches_mut(&mut matches))
        .map_err(|err| sentences::plain(err, &Form::REFRESH))
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
    fn help_is_that_of_the_command() {
        for line in ["refresh --help", "help refresh"] {
            let text = understood(line).expect_err(line);
            assert!(text.starts_with("0 ") && text.contains("--recursive"), "{text}");
            assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        }
    }
}
