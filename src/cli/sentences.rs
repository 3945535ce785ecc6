//! What clap found wrong, in one sentence like all others: clap's own text has four lines, of which
//! the first is for programmers.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// What a command line consists of, for who got it wrong.
pub(super) struct Form {
    /// Its words in order.
    usage: &'static str,
    /// What prints its help.
    help: &'static str,
    /// Where a word is too many.
    too_many: &'static str,
    /// Each word of it, and what it is.
    words: &'static [(&'static str, &'static str)],
    /// Where all are missing.
    all_words: &'static str,
}

impl Form {
    pub(super) const MOUNT: Self = Self {
        usage: "s3mount [OPTIONS] BUCKET[/PREFIX] DIR",
        help: "s3mount --help",
        too_many: "after the options come BUCKET[/PREFIX] and DIR, and no command before them",
        words: &[("DIR", "DIR is the directory to mount on, and must exist")],
        all_words: "BUCKET is the one to mount, and DIR the directory to mount it on",
    };

    pub(super) const REFRESH: Self = Self {
        usage: super::commands::REFRESH_USAGE,
        help: "s3mount refresh --help",
        too_many: "one PATH is refreshed at a time",
        words: &[("PATH", "PATH is what to forget, somewhere in a mount")],
        all_words: "",
    };

    pub(super) const UMOUNT: Self = Self {
        usage: super::commands::UMOUNT_USAGE,
        help: "s3mount umount --help",
        too_many: "DIRs are unmounted",
        words: &[("DIR", "DIR is the directory that a bucket is mounted on")],
        all_words: "",
    };

    pub(super) const LIST: Self = Self {
        usage: super::commands::LIST_USAGE,
        help: "s3mount list --help",
        too_many: "a list is of all mounts; a bucket that is called list is written s3://list",
        words: &[],
        all_words: "",
    };
}

/// Leaves `--help` and `--version`, which clap calls errors, as they are.
pub(super) fn plain(err: Error, form: &Form) -> Error {
    if err.exit_code() == 0 { err } else { super::wrong(sentence(&err, form)) }
}

/// The long option, without its dashes, that looks most like `long`: clap's own answer to it.
pub(super) fn nearest_option(command: &Command, long: &str) -> Option<String> {
    let words = ["s3mount".to_owned(), format!("--{long}")];
    let err = command.clone().try_get_matches_from(words).err()?;
    let near = err.get(ContextKind::SuggestedArg).map(words_of)?;
    near.strip_prefix("--").map(str::to_owned)
}

fn sentence(err: &Error, form: &Form) -> String {
    let about = |kind| err.get(kind).map(words_of).filter(|words| !words.is_empty());
    let option = about(ContextKind::InvalidArg).unwrap_or_default();
    let see = format!("see {}", form.help);
    match err.kind() {
        ErrorKind::UnknownArgument if option.starts_with('-') => {
            match about(ContextKind::SuggestedArg) {
                Some(near) => format!("there is no option {option}; did you mean {near}?"),
                None => format!("there is no option {option}; {see}"),
            }
        }
        ErrorKind::UnknownArgument => {
            format!("'{option}' is one word too many: {}; {see}", form.too_many)
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = option.replace(['<', '>'], "").replace("...", "");
            let (is, what) = match form.words.iter().find(|(word, _)| *word == missing) {
                Some((_, what)) => ("is", *what),
                None => ("are", form.all_words),
            };
            let missing = missing.replace(", ", " and ");
            format!("{missing} {is} missing; write {}: {what}", form.usage)
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            match about(ContextKind::InvalidValue) {
                Some(value) => {
                    let reason = std::error::Error::source(err).map(ToString::to_string);
                    let reason = reason.unwrap_or_else(|| "it is not allowed".to_owned());
                    format!("invalid value '{value}' for '{option}': {reason}")
                }
                None => format!("the option {option} needs a value; {see}"),
            }
        }
        ErrorKind::TooManyValues => match about(ContextKind::InvalidValue) {
            Some(value) => format!("the option {option} takes no value, but got '{value}'; {see}"),
            None => format!("the option {option} takes no value; {see}"),
        },
        ErrorKind::ArgumentConflict => format!(
            "the options {option} and {} exclude each other; leave one of them out",
            about(ContextKind::PriorArg).unwrap_or_else(|| "another".to_owned())
        ),
        ErrorKind::InvalidUtf8 => {
            format!("an option or the bucket is not written in UTF-8; {see}")
        }
        _ => {
            let text = err.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            format!("{}; {see}", first.trim_start_matches("error: "))
        }
    }
}

fn words_of(value: &ContextValue) -> String {
    match value {
        ContextValue::String(text) => text.clone(),
        ContextValue::Strings(texts) => texts.join(", "),
        other => other.to_string(),
    }
}
