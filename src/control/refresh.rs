//! `s3mount refresh PATH`.

use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use super::client::Target;
use super::protocol::Request;
use crate::error::one_line;
use crate::mount::{StartError, StartErrorKind};

/// Has the mount that `path` is in ask S3 anew about it, and with `recursive` about all below. Prints
/// what was forgotten: a sentence, or an object with `json`.
pub fn refresh(path: &Path, recursive: bool, json: bool) -> Result<(), StartError> {
    let target = Target::find(path)?;
    let request = Request::Refresh { path: target.path.clone(), recursive };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|err| StartError::unexpected("cannot wait for an answer", &err))?;
    let result = runtime.block_on(target.ask(&request))?;
    let text = if json { result.to_string() } else { sentence(&result)? };
    // A closed pipe is no reason to complain.
    let _ = writeln!(io::stdout(), "{text}");
    Ok(())
}

fn sentence(result: &Value) -> Result<String, StartError> {
    let number = |name: &str| result.get(name).and_then(Value::as_u64);
    let source = result.get("source").and_then(Value::as_str).map(one_line);
    let (Some(source), Some(directories), Some(names)) =
        (source, number("directories"), number("names"))
    else {
        let sentence = "the mount answered without saying what it forgot; mount again with this \
                        version of s3mount";
        return Err(StartError::new(StartErrorKind::Other, sentence));
    };
    Ok(match (directories, names) {
        (0, 0) => format!("nothing was remembered of {source}; the next look asks S3"),
        (0, 1) => format!("forgot {source}; the next look asks S3"),
        (directories, names) => {
            let (directories, names) =
                (counted(directories, "directory", "directories"), counted(names, "name", "names"));
            format!("forgot {directories} and {names} of {source}; the next look asks S3")
        }
    })
}

/// `1 name`, `1,204 names`.
fn counted(number: u64, one: &str, many: &str) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    format!("{shown} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_forgotten_is_one_sentence() {
        let said = |directories: u64, names: u64| {
            let source = "s3://b/p";
            sentence(&json!({ "source": source, "directories": directories, "names": names }))
        };
        for (directories, names, expected) in [
            (0, 0, "nothing was remembered of s3://b/p"),
            (0, 1, "forgot s3://b/p;"),
            (1, 1, "forgot 1 directory and 1 name of s3://b/p"),
            (3, 1_204, "forgot 3 directories and 1,204 names of s3://b/p"),
            (1_000, 1_234_567, "forgot 1,000 directories and 1,234,567 names of s3://b/p"),
            (2, 0, "forgot 2 directories and 0 names of s3://b/p"),
        ] {
            let sentence = said(directories, names).unwrap();
            assert!(sentence.starts_with(expected), "{sentence}");
        }
        assert!(sentence(&json!({ "source": "x" })).is_err());
    }
}
