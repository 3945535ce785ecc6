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
    /// The machine goes to sleep, and nothing is waited for.
    Asleep,
    /// No answer: not resolved, refused, reset, TLS, a body that ended early.
    Unreachable,
    /// What came is not what was asked for, or not what the answer's own head or checksum says of it: it
    /// changed on its way, or the server errs. Another try tells which.
    Corrupt,
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
            Self::Throttled | Self::TimedOut | Self::Asleep | Self::Unreachable | Self::Corrupt => {
                true
            }
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

#[derive(Clone)]
struct Details {
    kind: StoreErrorKind,
    /// Which request it was, as `ListObjectsV2 "some/prefix"`: for logs, which have many.
    request: Option<String>,
    /// In our own words.
    reason: String,
    cause: Option<Cause>,
    answer: Answer,
}

impl StoreError {
    /// `reason` says what happened in words for a log or a terminal.
    pub fn new(kind: StoreErrorKind, reason: impl Into<String>) -> Self {
        Self::with_answer(kind, reason, Answer::default())
    }

    /// What was asked for, or was to be, when the machine goes to sleep.
    pub(crate) fn asleep() -> Self {
        Self::new(StoreErrorKind::Asleep, "the machine goes to sleep, and does not wait for S3")
    }

    /// As [`StoreError::new`], with what the server's answer said about itself.
    pub fn with_answer(kind: StoreErrorKind, reason: impl Into<String>, answer: Answer) -> Self {
        // Here the words of a server enter: none of them leaves with what a terminal would obey.
        let (request, reason) = (None, plain(&reason.into()));
        let Answer { status, code, request_id, region, said } = answer;
        let [code, request_id, said] = [code, request_id, said].map(|it| it.as_deref().map(plain));
        let answer = Answer { status, code, request_id, region, said };
        Self { inner: Arc::new(Details { kind, request, reason, cause: None, answer }) }
    }

    /// The same, of this request.
    #[must_use]
    pub fn of_request(self, request: impl Into<String>) -> Self {
        self.changed(|details| details.request = Some(plain(&request.into())))
    }

    /// The same, with its cause.
    #[must_use]
    pub fn with_cause(self, cause: Cause) -> Self {
        self.changed(|details| details.cause = Some(cause))
    }

    pub fn kind(&self) -> StoreErrorKind {
        self.inner.kind
    }

    /// What tells errors of one kind apart where their remedies differ.
    pub fn cause(&self) -> Option<Cause> {
        self.inner.cause
    }

    /// The HTTP status, where there was an answer.
    pub fn status(&self) -> Option<u16> {
        self.inner.answer.status
    }

    /// S3's own code, as `AccessDenied`, where the answer had one.
    pub fn code(&self) -> Option<&str> {
        self.inner.answer.code.as_deref()
    }

    pub fn request_id(&self) -> Option<&str> {
        self.inner.answer.request_id.as_deref()
    }

    /// The bucket's region, where the answer named it (`x-amz-bucket-region`).
    pub fn region(&self) -> Option<&str> {
        self.inner.answer.region.as_deref()
    }

    /// What the server said of it, for a person.
    pub fn said(&self) -> Option<&str> {
        self.inner.answer.said.as_deref()
    }

    /// What happened, in our own words, without the request that it happened to.
    pub fn reason(&self) -> &str {
        &self.inner.reason
    }

    /// Request, reason and the server's own words: [`fmt::Display`] without the facts.
    pub fn message(&self) -> String {
        let Details { request, reason, answer, .. } = &*self.inner;
        let parts = [request.as_deref(), Some(reason.as_str()), answer.said.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
    }

    fn changed(mut self, change: impl FnOnce(&mut Details)) -> Self {
        match Arc::get_mut(&mut self.inner) {
            Some(details) => change(details),
            None => {
                let mut details = (*self.inner).clone();
                change(&mut details);
                self.inner = Arc::new(details);
            }
        }
        self
    }
}

/// What a server's answer says about itself, for [`StoreError::with_answer`], which makes it harmless
/// for terminals and logs.
#[derive(Clone, Default, Debug)]
pub struct Answer {
    pub status: Option<u16>,
    pub code: Option<String>,
    pub request_id: Option<String>,
    pub region: Option<String>,
    /// The message for people.
    pub said: Option<String>,
}

/// Why there was no useful answer, where a person must do something else about it than about other
/// errors of the kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Nothing listens at the address.
    Refused,
    /// The name has no address.
    NotResolved,
    /// The network knows no way there.
    NoRoute,
    /// Closed or reset without an answer.
    Closed,
    /// The certificate is not trusted, is of another name, or has expired.
    Certificate,
    /// TLS was spoken to a server that does not speak it.
    NotTls,
    /// What came back is not HTTP: another protocol, or TLS where plain HTTP was spoken.
    NotHttp,
    /// HTTP, but nothing that S3 says.
    NotS3,
    /// The proxy refused to connect.
    Proxy,
    /// This machine's clock is off by so many seconds, ahead of the server's where positive. `None`
    /// where the answer had no date.
    Clock(Option<i64>),
    /// A setting or a file of ours cannot be used; no request was sent.
    Configuration,
}

/// The words of others as a part of one line that has more: [`plain`], without room to spare, and at
/// most 500 characters: a denial of AWS names two ARNs.
pub fn one_line(text: &str) -> String {
    const CHARS_MAX: usize = 500;
    // Of a text that is too long no more is looked at than can be shown.
    let start: String = text.chars().take(4 * CHARS_MAX).collect();
    let words = start.split_whitespace().collect::<Vec<_>>().join(" ");
    plain(&words).chars().take(CHARS_MAX).collect()
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())?;
        let Answer { status, code, request_id, .. } = &self.inner.answer;
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

/// A key has 1,024 bytes, and is named once or twice beside what happened.
const PLAIN_CHARS_MAX: usize = 4096;

/// The words of others, for one line of a log or a terminal: cut, and with every character escaped
/// that ends a line, moves the cursor, or turns the direction of the text (as in `\u{1b}`).
pub fn plain(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(PLAIN_CHARS_MAX));
    for (n, character) in text.chars().enumerate() {
        if n == PLAIN_CHARS_MAX {
            line.push_str("...");
            break;
        }
        match character {
            '\n' | '\r' | '\t' => line.push(' '),
            // Marks, embeddings, overrides and isolates (Unicode annex 9), separators of lines, and
            // what has no width.
            '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}' => line.extend(character.escape_unicode()),
            _ if character.is_control() => line.extend(character.escape_unicode()),
            _ => line.push(character),
        }
    }
    line
}

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
    /// Of this machine.
    #[error("the system has no memory for the bytes; {NO_MEMORY_ADVICE}")]
    NoMemory,
    #[error("listing is denied")]
    ListDenied,
    /// Nobody is there to hear it: never the answer to a buffered read, whose pages others may wait for.
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

/// What to do where the system has no memory, for the end of a sentence.
pub const NO_MEMORY_ADVICE: &str = "raise the limit of the process (ulimit -v or -d, LimitAS= or \
    LimitDATA=) or of the machine (vm.overcommit_memory, vm.max_map_count), or mount with a smaller --memory";

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
                // Said once, of all.
                Kind::Asleep => (libc::ETIMEDOUT, Loudness::Debug),
                Kind::Throttled
                | Kind::Unreachable
                | Kind::Corrupt
                | Kind::NotModified
                | Kind::WrongRegion
                | Kind::Other => (libc::EIO, Loudness::Warn),
            },
            Self::NotFound => (libc::ENOENT, Loudness::Debug),
            Self::Stale => (libc::ESTALE, Loudness::Info),
            Self::Deadline(_) => (libc::ETIMEDOUT, Loudness::Warn),
            Self::Abandoned | Self::NoMemory => (libc::EIO, Loudness::Warn),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_of_others_are_one_line_without_commands() {
        assert_eq!(plain("a \u{1b}[31mred\u{7}\u{9b}2J"), "a \\u{1b}[31mred\\u{7}\\u{9b}2J");
        assert_eq!(plain("one\r\ntwo\u{2028}"), "one  two\\u{2028}");
        assert_eq!(plain("txt.\u{202e}exe"), "txt.\\u{202e}exe");
        assert_eq!(plain("\u{e4} \"quoted\" \u{1f980}"), "\u{e4} \"quoted\" \u{1f980}");
        assert_eq!(plain(&"x".repeat(10_000)).len(), PLAIN_CHARS_MAX + 3);
    }

    #[test]
    fn what_a_server_said_of_itself_is_plain() {
        let answer = Answer {
            status: Some(403),
            code: Some("Access\u{1b}[2JDenied".to_owned()),
            request_id: Some("4\n2".to_owned()),
            ..Answer::default()
        };
        let err = StoreError::with_answer(StoreErrorKind::Denied, "no\u{1b}", answer);
        assert_eq!(err.to_string(), "no\\u{1b} (HTTP 403, Access\\u{1b}[2JDenied, request 4 2)");
    }

    #[test]
    fn the_words_of_others_become_one_harmless_line() {
        assert_eq!(one_line("a\r\nb\t\u{1b}[31mc\u{202e}d"), "a b \\u{1b}[31mc\\u{202e}d");
        assert_eq!(one_line(&"\u{e4}".repeat(600)).chars().count(), 500, "cut at a character");
    }

    #[test]
    fn an_error_is_shown_whole_and_has_its_parts() {
        let answer = Answer {
            status: Some(403),
            code: Some("AccessDenied".to_owned()),
            request_id: Some("1A".to_owned()),
            said: Some("Access Denied".to_owned()),
            ..Answer::default()
        };
        let err = StoreError::with_answer(StoreErrorKind::Denied, "denied", answer);
        let err = err.clone().of_request("GetObject \"a\"");
        let shown = "GetObject \"a\": denied: Access Denied (HTTP 403, AccessDenied, request 1A)";
        assert_eq!(err.to_string(), shown);
        assert_eq!((err.reason(), err.said()), ("denied", Some("Access Denied")));
    }

    proptest! {
        #[test]
        fn nothing_plain_is_a_control_character(text in any::<String>()) {
            let line = plain(&text);
            prop_assert!(!line.contains(char::is_control));
            prop_assert_eq!(plain(&line), line, "plain text stays as it is");
        }
    }
}
