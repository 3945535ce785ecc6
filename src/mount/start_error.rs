//! Why a mount did not come about: one sentence for a person and one exit code for a script.

use std::io;

use serde_json::{Value, json};

use crate::config::{BucketConfig, UsageError};
use crate::error::{StoreError, StoreErrorKind};

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
        use StoreErrorKind as Kind;
        let name = &bucket.bucket;
        let server = server(bucket);
        let (kind, sentence) = match err.kind() {
            Kind::NoCredentials => (StartErrorKind::NoCredentials, no_credentials(bucket)),
            Kind::BadCredentials => (
                StartErrorKind::Denied,
                format!(
                    "{server} does not accept the credentials ({err}): the access key is unknown \
                     or expired, or the secret key does not belong to it; check {}",
                    credentials_source(bucket)
                ),
            ),
            Kind::Denied => (StartErrorKind::Denied, denied(err, bucket)),
            Kind::NoSuchBucket | Kind::NotFound => (
                StartErrorKind::NotFound,
                format!("there is no bucket {name} at {server}; check its name{}", hint(bucket)),
            ),
            Kind::WrongRegion => {
                let region = err.region().unwrap_or("REGION");
                let sentence = format!(
                    "the bucket {name} is in another region than {server}; give --region {region}"
                );
                (StartErrorKind::Network, sentence)
            }
            Kind::Unreachable => (
                StartErrorKind::Network,
                format!(
                    "{server} is not reachable: {err}; check the network{}",
                    match bucket.endpoint_url {
                        Some(_) => " and --endpoint-url",
                        None => ", --region and the proxy",
                    }
                ),
            ),
            Kind::TimedOut => (
                StartErrorKind::Network,
                format!("{server} did not answer in time: {err}; check the network or try again"),
            ),
            Kind::Throttled => (
                StartErrorKind::Network,
                format!("{server} has no capacity at the moment: {err}; try again"),
            ),
            Kind::Changed | Kind::NotModified | Kind::OutOfRange | Kind::Archived | Kind::Other => {
                (
                    StartErrorKind::Network,
                    format!("{server} answered the listing of {name} with an error: {err}"),
                )
            }
        };
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

fn server(bucket: &BucketConfig) -> String {
    match (&bucket.endpoint_url, &bucket.region) {
        (Some(url), _) => url.clone(),
        (None, Some(region)) => format!("S3 in {region}"),
        (None, None) => "S3".to_owned(),
    }
}

fn hint(bucket: &BucketConfig) -> &'static str {
    if bucket.endpoint_url.is_some() { " and --endpoint-url" } else { "" }
}

fn credentials_source(bucket: &BucketConfig) -> String {
    match &bucket.profile {
        Some(profile) => format!("the profile {profile}"),
        None => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile".to_owned(),
    }
}

fn no_credentials(bucket: &BucketConfig) -> String {
    let profile = bucket.profile.as_deref().unwrap_or("default (or AWS_PROFILE)");
    format!(
        "no AWS credentials were found; looked in the environment (AWS_ACCESS_KEY_ID), in profile \
         {profile} of ~/.aws/credentials and ~/.aws/config, in the web identity token, and in the \
         container's and the instance's metadata; for a public bucket give --no-sign-request"
    )
}

fn denied(err: &StoreError, bucket: &BucketConfig) -> String {
    let name = &bucket.bucket;
    let resource =
        if name.starts_with("arn:") { name.clone() } else { format!("arn:aws:s3:::{name}") };
    let place = match bucket.prefix.as_str() {
        "" => String::new(),
        prefix => format!(" for the prefix {prefix}"),
    };
    let further = match (&bucket.expected_bucket_owner, bucket.sign_requests) {
        (Some(owner), _) => format!("; or the bucket is not owned by {owner}"),
        (None, false) => "; the bucket is not public: leave --no-sign-request out".to_owned(),
        (None, true) => String::new(),
    };
    format!(
        "listing the bucket {name} is denied ({err}): the credentials need s3:ListBucket on \
         {resource}{place}, or --known-paths to open paths that are known{further}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: StoreErrorKind, bucket: BucketConfig, exit_code: u8, parts: &[&str]) {
        let bucket = BucketConfig { bucket: "myfiles".to_owned(), ..bucket };
        let err = StartError::from_store(&StoreError::new(kind, "said the server"), &bucket);
        assert_eq!(err.exit_code(), exit_code, "{err}");
        for part in parts {
            assert!(err.to_string().contains(part), "no {part:?} in {err}");
        }
    }

    fn bucket() -> BucketConfig {
        BucketConfig { sign_requests: true, ..BucketConfig::default() }
    }

    #[test]
    fn each_failure_has_its_code_and_says_what_to_do() {
        use StoreErrorKind as Kind;
        let local = || BucketConfig { endpoint_url: Some("http://h:1".to_owned()), ..bucket() };
        let profile = || BucketConfig { profile: Some("work".to_owned()), ..bucket() };
        check(Kind::NoCredentials, profile(), 3, &["work", "~/.aws", "--no-sign-request"]);
        check(Kind::BadCredentials, profile(), 4, &["work", "said the server"]);
        check(Kind::Denied, bucket(), 4, &["s3:ListBucket", "arn:aws:s3:::myfiles"]);
        let public = BucketConfig { sign_requests: false, ..bucket() };
        check(Kind::Denied, public, 4, &["not public", "--no-sign-request"]);
        check(Kind::NoSuchBucket, local(), 5, &["no bucket myfiles", "http://h:1"]);
        let region = BucketConfig { region: Some("eu-west-1".to_owned()), ..bucket() };
        check(Kind::WrongRegion, region, 6, &["S3 in eu-west-1", "--region"]);
        check(Kind::Unreachable, local(), 6, &["http://h:1 is not reachable", "--endpoint-url"]);
        check(Kind::TimedOut, bucket(), 6, &["in time"]);
        check(Kind::Throttled, bucket(), 6, &["capacity"]);
        check(Kind::Other, bucket(), 6, &["said the server"]);
    }

    #[test]
    fn an_error_crosses_the_pipe_unchanged() {
        for kind in StartErrorKind::NAMED.into_iter().chain([StartErrorKind::Interrupted(15)]) {
            let err = StartError::new(kind, "two\nlines");
            assert_eq!(StartError::from_json(&err.to_json()), Some(err));
        }
        assert_eq!(StartError::from_json(&json!({ "error": "fuse" })), None);
    }
}
