//! The error kinds of the store and of the file system, and the one errno table.
//! Invariant: an error is a kind plus the words for the log; nobody decides by the words.

use std::fmt;
use std::sync::Arc;

/// What went wrong with a request to S3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreErrorKind {
    /// 404: no such key (or, with [`StoreErrorKind::NoSuchBucket`], not even the bucket).
    NotFound,
    /// 404 NoSuchBucket.
    NoSuchBucket,
    /// 401 or 403.
    Denied,
    /// 412: the object is no longer the version that the request was pinned to.
    Changed,
    /// 304: If-None-Match found the version that is known. An answer rather than a failure.
    NotModified,
    /// 416: the object has no byte in the range, so it is not the version that was expected.
    OutOfRange,
    /// The object is in an archive class and must be restored first (InvalidObjectState).
    Archived,
    /// 503 SlowDown, 429, or a 5xx: worth another try later.
    Throttled,
    /// A deadline of ours passed.
    TimedOut,
    /// No answer: not resolved, refused, reset, TLS, a body that ended early.
    Unreachable,
    /// No credentials were found anywhere.
    NoCredentials,
    /// The credentials have expired or are not known: worth one try with fresh ones.
    BadCredentials,
    /// The bucket is in another region; see [`StoreError::region`].
    WrongRegion,
    /// Anything else, by S3's own code.
    Other,
}

impl StoreErrorKind {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Throttled | Self::TimedOut | Self::Unreachable => true,
            Self::NotFound
            | Self::NoSuchBucket
            | Self::Denied
            | Self::Changed
            | Self::NotModified
            | Self::OutOfRange
            | Self::Archived
            | Self::NoCredentials
            | Self::BadCredentials
            | Self::WrongRegion
            | Self::Other => false,
        }
    }
}

/// A failed request to S3. Cheap to clone: all waiters of one flight get the same error.
#[derive(Clone)]
pub struct StoreError {
    inner: Arc<Details>,
}

struct Details {
    kind: StoreErrorKind,
    message: String,
    status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    region: Option<String>,
}

impl StoreError {
    /// `message` says what happened in words for a log or a terminal.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self::with_answer(kind, message, Answer::default())
    }

    /// As [`StoreError::new`], with what the server's answer said about itself.
    pub fn with_answer(kind: StoreErrorKind, message: impl Into<String>, answer: Answer) -> Self {
        let Answer { status, code, request_id, region } = answer;
        let message = message.into();
        Self { inner: Arc::new(Details { kind, message, status, code, request_id, region }) }
    }

    pub fn kind(&self) -> StoreErrorKind {
        self.inner.kind
    }

    /// The HTTP status, where there was an answer.
    pub fn status(&self) -> Option<u16> {
        self.inner.status
    }

    /// S3's own code, as `AccessDenied`, where the answer had one.
    pub fn code(&self) -> Option<&str> {
        self.inner.code.as_deref()
    }

    pub fn request_id(&self) -> Option<&str> {
        self.inner.request_id.as_deref()
    }

    /// The bucket's region, where the answer named it (`x-amz-bucket-region`).
    pub fn region(&self) -> Option<&str> {
        self.inner.region.as_deref()
    }

    pub fn message(&self) -> &str {
        &self.inner.message
    }
}

/// What a server's answer says about itself, for [`StoreError::with_answer`].
#[derive(Clone, Default, Debug)]
pub struct Answer {
    pub status: Option<u16>,
    pub code: Option<String>,
    pub request_id: Option<String>,
    pub region: Option<String>,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { message, status, code, request_id, .. } = &*self.inner;
        f.write_str(message)?;
        let facts = [
            status.map(|status| format!("HTTP {status}")),
            code.clone(),
            request_id.as_ref().map(|id| format!("request {id}")),
        ];
        let facts: Vec<String> = facts.into_iter().flatten().collect();
        if facts.is_empty() { Ok(()) } else { write!(f, " ({})", facts.join(", ")) }
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.inner.kind)
    }
}

impl std::error::Error for StoreError {}

/// Why a file system request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FsError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no such entry")]
    NotFound,
    #[error("the object changed in the bucket while it was open")]
    Stale,
    #[error("no answer within {0} s")]
    Deadline(u64),
    #[error("the request was given up by the task that served it")]
    Abandoned,
    #[error("listing is denied")]
    ListDenied,
    /// Nobody is there to hear it: never the answer to a read, whose pages others may wait for.
    #[error("the program that asked was killed")]
    Killed,
    #[error("no such handle")]
    BadHandle,
    #[error("not a directory")]
    NotADirectory,
    #[error("is a directory")]
    IsADirectory,
    #[error("name too long")]
    NameTooLong,
    #[error("no such attribute")]
    NoAttribute,
    #[error("read-only file system")]
    ReadOnly,
}

/// How loud an error is in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loudness {
    Silent,
    Debug,
    Info,
    Warn,
}

impl FsError {
    /// The errno for the kernel and the level for the log: the one table of both.
    pub fn verdict(&self) -> (i32, Loudness) {
        use StoreErrorKind as Kind;
        match self {
            Self::Store(err) => match err.kind() {
                Kind::NotFound => (libc::ENOENT, Loudness::Debug),
                Kind::Denied
                | Kind::NoSuchBucket
                | Kind::Archived
                | Kind::NoCredentials
                | Kind::BadCredentials => (libc::EACCES, Loudness::Warn),
                Kind::Changed | Kind::OutOfRange => (libc::ESTALE, Loudness::Info),
                Kind::TimedOut => (libc::ETIMEDOUT, Loudness::Warn),
                Kind::Throttled
                | Kind::Unreachable
                | Kind::NotModified
                | Kind::WrongRegion
                | Kind::Other => (libc::EIO, Loudness::Warn),
            },
            Self::NotFound => (libc::ENOENT, Loudness::Debug),
            Self::Stale => (libc::ESTALE, Loudness::Info),
            Self::Deadline(_) => (libc::ETIMEDOUT, Loudness::Warn),
            Self::Abandoned => (libc::EIO, Loudness::Warn),
            // Said once by the tree, which knows what was answered.
            Self::ListDenied => (libc::EACCES, Loudness::Debug),
            Self::Killed => (libc::EINTR, Loudness::Debug),
            Self::BadHandle => (libc::EBADF, Loudness::Debug),
            Self::NotADirectory => (libc::ENOTDIR, Loudness::Debug),
            Self::IsADirectory => (libc::EISDIR, Loudness::Debug),
            Self::NameTooLong => (libc::ENAMETOOLONG, Loudness::Debug),
            Self::NoAttribute => (libc::ENODATA, Loudness::Silent),
            Self::ReadOnly => (libc::EROFS, Loudness::Silent),
        }
    }

    /// The errno that the kernel gets.
    pub fn errno(&self) -> i32 {
        self.verdict().0
    }
}
