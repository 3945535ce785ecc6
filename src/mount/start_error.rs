//! Why a mount did not come about: one sentence for a person and one exit code for a script.

use std::io;

use serde_json::{Value, json};

use super::sentences;
use crate::config::{BucketConfig, UsageError};
use crate::error::StoreError;

/// The kinds of failure that a program can tell apart: by value, by exit code, or by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// What was asked for makes no sense, whatever the world is like.
    Usage,
    /// No credentials were found anywhere.
    NoCredentials,
    /// The credentials are refused, or lack a permission.
    Denied,
    /// There is no such bucket.
    NotFound,
    /// The server is not reachable, does not answer in time, or is not S3.
    Network,
    /// The directory cannot be mounted on.
    MountPoint,
    /// The kernel or fusermount3 refused the mount.
    Fuse,
    /// Stopped by this signal before the mount was ready.
    Interrupted(i32),
    Other,
}

impl StartErrorKind {
    /// All that have one name and one exit code.
    const NAMED: [Self; 8] = [
        Self::Other,
        Self::Usage,
        Self::NoCredentials,
        Self::Denied,
        Self::NotFound,
        Self::Network,
        Self::MountPoint,
        Self::Fuse,
    ];

    /// Stable: scripts rely on it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Other => 1,
            Self::Usage => 2,
            Self::NoCredentials => 3,
            Self::Denied => 4,
            Self::NotFound => 5,
            Self::Network => 6,
            Self::MountPoint => 7,
            Self::Fuse => 8,
            Self::Interrupted(signal) => signal_exit_code(signal),
        }
    }

    /// The word in the JSON object.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NoCredentials => "no_credentials",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Network => "network",
            Self::MountPoint => "mount_point",
            Self::Fuse => "fuse",
            Self::Interrupted(_) => "interrupted",
            Self::Other => "other",
        }
    }

    fn from_name(name: &str, exit_code: u64) -> Option<Self> {
        if name == Self::Interrupted(0).name() {
            return Some(Self::Interrupted(i32::try_from(exit_code).ok()? - 128));
        }
        Self::NAMED.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a shell calls the end by a signal.
pub(super) fn signal_exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

/// A start that failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct StartError {
    kind: StartErrorKind,
    sentence: String,
}

impl StartError {
    pub fn new(kind: StartErrorKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into() }
    }

    /// A call of the system that should not fail.
    pub(crate) fn unexpected(what: &str, err: &io::Error) -> Self {
        Self::new(StartErrorKind::Other, format!("{what}: {err}"))
    }

    /// What the first request to the bucket failed with.
    pub fn from_store(err: &StoreError, bucket: &BucketConfig) -> Self {
        let (kind, sentence) = sentences::of_store(err, bucket);
        Self::new(kind, sentence)
    }

    pub fn kind(&self) -> StartErrorKind {
        self.kind
    }

    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }

    /// `{"error": kind, "message": sentence, "exit_code": n}`.
    pub fn to_json(&self) -> Value {
        let (name, exit_code) = (self.kind.name(), self.exit_code());
        json!({ "error": name, "message": self.sentence, "exit_code": exit_code })
    }

    /// Back from [`StartError::to_json`], on the other end of the pipe.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let name = value.get("error")?.as_str()?;
        Some(Self {
            kind: StartErrorKind::from_name(name, value.get("exit_code")?.as_u64()?)?,
            sentence: value.get("message")?.as_str()?.to_owned(),
        })
    }
}

impl From<UsageError> for StartError {
    fn from(UsageError(sentence): UsageError) -> Self {
        Self::new(StartErrorKind::Usage, sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_the_pipe_unchanged() {
        for kind in StartErrorKind::NAMED.into_iter().chain([StartErrorKind::Interrupted(15)]) {
            let err = StartError::new(kind, "two\nlines");
            assert_eq!(StartError::from_json(&err.to_json()), Some(err));
        }
        assert_eq!(StartError::from_json(&json!({ "error": "fuse" })), None);
    }
}
