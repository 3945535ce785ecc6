//! What goes over the socket: one line with a request, then lines with answers, each an object of
//! JSON with the protocol's version. Pure.
//!
//! The last line has `result` or `error`; lines before it say that the work goes on. A client ignores
//! what it does not know in an answer; a mount refuses a request that it does not know.

use serde_json::{Value, json};

/// Raised when an old client or an old mount would misunderstand a new one.
pub(super) const VERSION: u64 = 1;

/// A path is at most a key of 1,024 bytes, and JSON makes up to six of each.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Request {
    Refresh {
        /// Names from the mount's root on, joined by `/`; empty for the root.
        path: String,
        recursive: bool,
    },
    /// Whether the mount answers, and since when it serves.
    State,
}

/// Why a request is not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) kind: RefusalKind,
    pub(super) message: String,
}

/// The kinds that a client tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RefusalKind {
    /// Another user.
    Denied,
    /// The mount speaks another version, or does not know the command.
    Version,
    /// The line makes no sense.
    Malformed,
    /// The mount is ending.
    Ended,
}

/// A line of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Not yet.
    GoesOn,
    Result(Value),
    Refused(Refusal),
}

impl Request {
    pub(super) fn to_line(&self) -> String {
        let mut message = match self {
            Self::Refresh { path, recursive } => {
                json!({ "command": "refresh", "path": path, "recursive": recursive })
            }
            Self::State => json!({ "command": "state" }),
        };
        message["version"] = VERSION.into();
        format!("{message}\n")
    }

    pub(super) fn from_line(line: &[u8]) -> Result<Self, Refusal> {
        let malformed = |what: &str| Refusal {
            kind: RefusalKind::Malformed,
            message: format!("the request {what}"),
        };
        let message: Value =
            serde_json::from_slice(line).map_err(|_| malformed("is not an object of JSON"))?;
        let version = message.get("version").and_then(Value::as_u64);
        if version != Some(VERSION) {
            return Err(Refusal {
                kind: RefusalKind::Version,
                message: format!("the mount speaks version {VERSION} of the protocol"),
            });
        }
        match message.get("command").and_then(Value::as_str) {
            Some("refresh") => {
                let path = message.get("path").and_then(Value::as_str);
                let recursive = message.get("recursive").and_then(Value::as_bool);
                let path = path.filter(|path| is_path(path));
                Ok(Self::Refresh {
                    path: path.ok_or_else(|| malformed("has no path in the mount"))?.to_owned(),
                    recursive: recursive.ok_or_else(|| malformed("has no `recursive`"))?,
                })
            }
            Some("state") => Ok(Self::State),
            _ => Err(Refusal {
                kind: RefusalKind::Version,
                message: "the mount does not know the command".to_owned(),
            }),
        }
    }
}

impl RefusalKind {
    const ALL: [Self; 4] = [Self::Denied, Self::Version, Self::Malformed, Self::Ended];

    fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Version => "version",
            Self::Malformed => "malformed",
            Self::Ended => "ended",
        }
    }
}

impl Answer {
    pub(super) fn to_line(&self) -> String {
        let mut message = match self {
            Self::GoesOn => json!({ "goes_on": true }),
            Self::Result(value) => json!({ "result": value }),
            Self::Refused(Refusal { kind, message }) => {
                json!({ "error": kind.name(), "message": message })
            }
        };
        message["version"] = VERSION.into();
        format!("{message}\n")
    }

    /// `None` for what is no answer of this version, or of any.
    pub(super) fn from_line(line: &[u8]) -> Option<Self> {
        let message: Value = serde_json::from_slice(line).ok()?;
        if let Some(name) = message.get("error").and_then(Value::as_str) {
            let kind = RefusalKind::ALL.into_iter().find(|kind| kind.name() == name)?;
            let message = message.get("message")?.as_str()?.to_owned();
            return Some(Self::Refused(Refusal { kind, message }));
        }
        if message.get("version").and_then(Value::as_u64) != Some(VERSION) {
            return None;
        }
        match message.get("result") {
            Some(result) => Some(Self::Result(result.clone())),
            None => message.get("goes_on").map(|_| Self::GoesOn),
        }
    }
}

/// Names joined by `/`, or nothing.
fn is_path(path: &str) -> bool {
    path.is_empty() || path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_crosses_the_socket_unchanged() {
        assert_eq!(Request::from_line(Request::State.to_line().as_bytes()), Ok(Request::State));
        for path in ["", "a", "a/\u{e9}\n\"b\"", &"\u{1}".repeat(1024)] {
            for recursive in [false, true] {
                let request = Request::Refresh { path: path.to_owned(), recursive };
                let line = request.to_line();
                assert!(line.ends_with('\n') && line.len() < LINE_BYTES_MAX, "{}", line.len());
                assert_eq!(line.matches('\n').count(), 1);
                assert_eq!(Request::from_line(line.as_bytes()), Ok(request));
            }
        }
    }

    #[test]
    fn an_answer_crosses_the_socket_unchanged() {
        let refused = |kind| Answer::Refused(Refusal { kind, message: "so".to_owned() });
        let results = [Answer::GoesOn, Answer::Result(json!({ "names": 3 }))];
        for answer in RefusalKind::ALL.map(refused).into_iter().chain(results) {
            assert_eq!(Answer::from_line(answer.to_line().as_bytes()), Some(answer));
        }
        for line in ["", "{}", "[]", "\u{0}", r#"{"version":2,"result":1}"#, r#"{"error":"x"}"#] {
            assert_eq!(Answer::from_line(line.as_bytes()), None, "{line}");
        }
    }

    #[track_caller]
    fn check_refused(line: &str, kind: RefusalKind) {
        assert_eq!(Request::from_line(line.as_bytes()).unwrap_err().kind, kind, "{line}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in ["", "x", "{", "\u{0}", "\"a\""] {
            check_refused(
                line,
                if line == "\"a\"" { RefusalKind::Version } else { RefusalKind::Malformed },
            );
        }
        check_refused(r#"{"version":2,"command":"refresh"}"#, RefusalKind::Version);
        check_refused(r#"{"version":1,"command":"fly"}"#, RefusalKind::Version);
        for path in ["/", "/a", "a/", "a//b", "..", "a/../b", "./a"] {
            let line =
                format!(r#"{{"version":1,"command":"refresh","path":"{path}","recursive":true}}"#);
            check_refused(&line, RefusalKind::Malformed);
        }
        check_refused(r#"{"version":1,"command":"refresh","path":"a"}"#, RefusalKind::Malformed);
    }
}
