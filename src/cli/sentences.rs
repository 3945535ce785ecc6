//! What clap found wrong, in one sentence like all others: clap's own text has four lines, of which
//! the first is for programmers.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// Leaves `--help` and `--version`, which clap calls errors, as they are.
pub(super) fn plain(err: Error) -> Error {
    if err.exit_code() == 0 { err } else { super::wrong(sentence(&err)) }
}

/// The long option, without its dashes, that looks most like `long`: clap's own answer to it.
pub(super) fn nearest_option(command: &Command, long: &str) -> Option<String> {
    let words = ["s3mount".to_owned(), format!("--{long}")];
    let err = command.clone().try_get_matches_from(words).err()?;
    let near = err.get(ContextKind::SuggestedArg).map(words_of)?;
    near.strip_prefix("--").map(str::to_owned)
}

fn sentence(err: &Error) -> String {
    let about = |kind| err.get(kind).map(words_of).filter(|words| !words.is_empty());
    let option = about(ContextKind::InvalidArg).unwrap_or_default();
    let see = "see s3mount --help";
    match err.kind() {
        ErrorKind::UnknownArgument if option.starts_with('-') => {
            match about(ContextKind::SuggestedArg) {
                Some(near) => format!("there is no option {option}; did you mean {near}?"),
                None => format!("there is no option {option}; {see}"),
            }
        }
        ErrorKind::UnknownArgument => format!(
            "'{option}' is one word too many: after the options come BUCKET[/PREFIX] and DIR, and \
             no command before them; {see}"
        ),
        ErrorKind::MissingRequiredArgument => {
            let missing = option.replace(['<', '>'], "");
            let (is, what) = match missing.as_str() {
                "DIR" => ("is", "DIR is the directory to mount on, and must exist"),
                _ => ("are", "BUCKET is the one to mount, and DIR the directory to mount it on"),
            };
            let missing = missing.replace(", ", " and ");
            format!("{missing} {is} missing; write s3mount [OPTIONS] BUCKET[/PREFIX] DIR: {what}")
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
