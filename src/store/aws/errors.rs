//! What the SDK and a server said, as one of our kinds and a sentence. S3's codes are from the
//! API reference, "Error responses" and what other servers answer instead.

use std::error::Error;
use std::time::SystemTime;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

use super::denial::Denied;
use super::guard::{Broken, region_name};
use super::transport::{chain, find, is_transport, transport, transport_cause};
use crate::error::{Answer, Cause, StoreError, StoreErrorKind, one_line};
use crate::metrics::RequestKind;

/// One request, as far as its errors name it.
pub(super) struct Operation<'a> {
    pub(super) kind: RequestKind,
    /// The key, or the prefix of a listing.
    pub(super) name: &'a str,
    /// Whether an old version is asked for, which needs a permission of its own.
    pub(super) versioned: bool,
    /// The region that the request was signed for.
    pub(super) region: &'a str,
    /// The endpoint in words, for "can not reach".
    pub(super) endpoint: &'a str,
    pub(super) bucket: &'a str,
    /// `--profile`.
    pub(super) profile: Option<&'a str>,
}

impl Operation<'_> {
    /// The IAM action that allows it.
    fn action(&self) -> &'static str {
        match self.kind {
            RequestKind::List => "s3:ListBucket",
            RequestKind::Head | RequestKind::Get if self.versioned => "s3:GetObjectVersion",
            RequestKind::Head | RequestKind::Get => "s3:GetObject",
        }
    }

    fn denied(&self) -> Denied<'_> {
        let key = (self.kind != RequestKind::List).then_some(self.name);
        Denied { action: self.action(), bucket: self.bucket, key, region: self.region }
    }

    fn error(&self, kind: StoreErrorKind, what: &str, answer: Answer) -> StoreError {
        let Self { kind: request, name, .. } = self;
        let request = format!("{} {name:?}", request.name());
        StoreError::with_answer(kind, what, answer).of_request(request)
    }

    /// An answer that is not what S3 gives.
    pub(super) fn broken_rule(&self, what: &str) -> StoreError {
        self.error(StoreErrorKind::Other, what, Answer::default())
    }

    /// An error that has no answer of its own.
    pub(super) fn failed(&self, kind: StoreErrorKind, what: &str) -> StoreError {
        self.error(kind, what, Answer::default())
    }

    pub(super) fn sdk_error<E>(&self, err: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let Some(reason) = find::<aws_credential_types::provider::error::CredentialsError>(err) {
            let reason = one_line(&chain(reason));
            let what = match self.profile {
                Some(profile) => format!("the profile {profile} gave no credentials: {reason}"),
                None => format!("no credentials were found: {reason}"),
            };
            return self.failed(StoreErrorKind::NoCredentials, &what);
        }
        if let Some(Broken(what)) = find::<Broken>(err) {
            return if self.kind == RequestKind::Get {
                self.failed(StoreErrorKind::Corrupt, what)
            } else {
                self.broken_rule(what)
            };
        }
        match err {
            SdkError::TimeoutError(_) => self.timed_out(),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => self.timed_out(),
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(err) => self.not_sent(err, failure.is_io() || failure.is_other()),
                None => self.failed(StoreErrorKind::Unreachable, "the request was not sent"),
            },
            SdkError::ServiceError(service) => self.answered(service.raw(), Some(service.err())),
            SdkError::ResponseError(response) if response.raw().status().is_success() => {
                let reason = err.source().map(chain).unwrap_or_default();
                let body = response.raw().body().bytes().unwrap_or_default();
                self.unreadable(is_foreign(body), &reason)
            }
            SdkError::ResponseError(response) => self.answered::<E>(response.raw(), None),
            _ => self.broken_rule(&err.source().map(chain).unwrap_or_default()),
        }
    }

    /// A 200 whose body is not what S3 gives: cut on its way, or not from S3 at all; only another
    /// try can tell.
    pub(super) fn unreadable(&self, foreign: bool, reason: &str) -> StoreError {
        let what = format!("the answer can not be read: {}", one_line(reason));
        let err = self.failed(StoreErrorKind::Unreachable, &what);
        if foreign { err.with_cause(Cause::NotS3) } else { err }
    }

    /// No answer came, or none that is HTTP. `of_connection`: the HTTP client takes it for a fault of
    /// the connection rather than of the request.
    fn not_sent(
        &self,
        err: &(dyn Error + Send + Sync + 'static),
        of_connection: bool,
    ) -> StoreError {
        let cause = transport_cause(err);
        // A head that cannot be parsed is no matter of the connection; but what comes before it was
        // asked for may be the last word of a connection that had been idle, as a 408.
        let passing = is_transport(err) || cause.is_some_and(|cause| cause != Cause::NotHttp);
        let err = if of_connection && passing {
            let what = format!("can not reach {}: {}", self.endpoint, transport(err));
            self.failed(StoreErrorKind::Unreachable, &what)
        } else {
            // The next try would end in the same way.
            self.broken_rule(&transport(err))
        };
        match cause {
            Some(cause) => err.with_cause(cause),
            None => err,
        }
    }

    fn timed_out(&self) -> StoreError {
        let what = format!("no answer from {} in time", self.endpoint);
        self.failed(StoreErrorKind::TimedOut, &what)
    }

    /// The error that a server gave by status, code and headers.
    fn answered<E: ProvideErrorMetadata>(&self, raw: &HttpResponse, err: Option<&E>) -> StoreError {
        let header = |name| raw.headers().get(name);
        let status = raw.status().as_u16();
        // The SDK writes this code itself for a 404 without a body.
        let empty = raw.body().bytes().is_none_or(<[u8]>::is_empty);
        let code = err.and_then(ProvideErrorMetadata::code).filter(|_| !empty).map(one_line);
        let code = code.as_deref();
        let body = raw.body().bytes().unwrap_or_default();
        let region = header("x-amz-bucket-region")
            .and_then(region_name)
            .or_else(|| tag(body, "Region").as_deref().and_then(region_name))
            .or_else(|| {
                header("location").and_then(region_of_url).as_deref().and_then(region_name)
            });
        let foreign =
            code.is_none() && (is_foreign(body) || is_redirect(status) && region.is_none());
        let kind = match header("x-amz-delete-marker") {
            // A version that is a delete marker gives 404, or 405 when it is asked for by its id.
            Some("true") => StoreErrorKind::NotFound,
            _ => match classify(self.kind, status, code, region.as_deref(), self.region) {
                // Whoever says that is not S3, and knows of no bucket.
                StoreErrorKind::NoSuchBucket | StoreErrorKind::WrongRegion if foreign => {
                    StoreErrorKind::Other
                }
                kind => kind,
            },
        };
        let said = err.and_then(ProvideErrorMetadata::message).filter(|_| !empty && !foreign);
        let cause = match code {
            Some("RequestTimeTooSkewed") => {
                Some(Cause::Clock(header("date").and_then(clock_ahead)))
            }
            _ if status == 407 => Some(Cause::Proxy),
            _ if foreign && kind != StoreErrorKind::Throttled => Some(Cause::NotS3),
            _ => None,
        };
        let answer = Answer {
            status: Some(status),
            code: code.map(str::to_owned),
            request_id: header("x-amz-request-id").map(one_line).filter(|id| !id.is_empty()),
            region,
            said: said.map(one_line).filter(|said| !said.is_empty()),
        };
        let err = self.error(kind, &self.reason(kind, code, cause, &answer), answer);
        match cause {
            Some(cause) => err.with_cause(cause),
            None => err,
        }
    }

    fn reason(
        &self,
        kind: StoreErrorKind,
        code: Option<&str>,
        cause: Option<Cause>,
        answer: &Answer,
    ) -> String {
        match cause {
            Some(Cause::Clock(ahead)) => return clock_reason(ahead),
            Some(Cause::Proxy) => return "the proxy wants credentials of its own".to_owned(),
            Some(Cause::NotS3) => return format!("{} does not answer as S3 does", self.endpoint),
            _ => {}
        }
        match kind {
            StoreErrorKind::NotFound => "there is no such key".to_owned(),
            StoreErrorKind::NoSuchBucket => {
                format!("there is no bucket {:?} at {}", self.bucket, self.endpoint)
            }
            StoreErrorKind::Denied => {
                format!("denied; it needs {}", self.denied().lacks(code, answer.said.as_deref()))
            }
            StoreErrorKind::Changed => "the object has changed".to_owned(),
            StoreErrorKind::NotModified => "the object has not changed".to_owned(),
            StoreErrorKind::OutOfRange => "the object has no byte in the range".to_owned(),
            StoreErrorKind::Archived => {
                "the object is archived and must be restored before it can be read".to_owned()
            }
            StoreErrorKind::Throttled => format!("{} can not serve it now", self.endpoint),
            StoreErrorKind::BadCredentials => bad_credentials(code).to_owned(),
            StoreErrorKind::WrongRegion => match &answer.region {
                Some(region) => format!("the bucket is in the region {region}"),
                None => "the bucket is in another region; name it with --region".to_owned(),
            },
            StoreErrorKind::TimedOut
            | StoreErrorKind::Asleep
            | StoreErrorKind::Unreachable
            | StoreErrorKind::Corrupt
            | StoreErrorKind::NoCredentials
            | StoreErrorKind::Other => "the server gave an error".to_owned(),
        }
    }
}

/// Whether a body is from something that is not S3, whose every error is a document of XML with a
/// code: a web page, the words of a gateway.
pub(super) fn is_foreign(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let is_xml = body.starts_with(b"<?xml")
        || body.starts_with(b"<Error")
        || body.starts_with(b"<ListBucketResult");
    !body.is_empty() && !is_xml
}

fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// By how many seconds this machine's clock is ahead of a `Date` header.
fn clock_ahead(date: &str) -> Option<i64> {
    let theirs = DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?.secs();
    let ours = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(i64::try_from(ours).ok()? - theirs)
}

/// In whole minutes, as nobody sets a clock by this. Also for a start that failed by it.
pub(crate) fn clock_reason(ahead: Option<i64>) -> String {
    let Some(ahead) = ahead else {
        return "the clock of this machine is wrong by more than the server allows".to_owned();
    };
    let seconds = ahead.unsigned_abs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let mut parts = Vec::new();
    for (number, unit) in [(days, "d"), (hours, "h"), (minutes, "min")] {
        if number > 0 {
            parts.push(format!("{number} {unit}"));
        }
    }
    if parts.is_empty() {
        parts.push(format!("{seconds} s"));
    }
    let side = if ahead < 0 { "behind" } else { "ahead of" };
    format!("the clock of this machine is {} {side} the server's", parts.join(" "))
}

/// The kind of an answer that is an error. Pure; `region` is what the answer names as the bucket's,
/// `signed_for` where the request went.
fn classify(
    request: RequestKind,
    status: u16,
    code: Option<&str>,
    region: Option<&str>,
    signed_for: &str,
) -> StoreErrorKind {
    use StoreErrorKind as Kind;
    let elsewhere = region.is_some_and(|region| region != signed_for);
    match (status, code) {
        (_, Some("NoSuchBucket" | "NoSuchAccessPoint")) => Kind::NoSuchBucket,
        (_, Some("InvalidObjectState")) => Kind::Archived,
        (
            _,
            Some(
                "ExpiredToken"
                | "ExpiredTokenException"
                | "InvalidAccessKeyId"
                | "InvalidToken"
                | "InvalidClientTokenId"
                | "SignatureDoesNotMatch"
                | "TokenRefreshRequired",
            ),
        ) => Kind::BadCredentials,
        (
            _,
            Some(
                "SlowDown"
                | "RequestTimeout"
                | "ServiceUnavailable"
                | "InternalError"
                | "RequestLimitExceeded"
                | "Throttling"
                | "ThrottlingException"
                | "TooManyRequests"
                | "BandwidthLimitExceeded",
            ),
        ) => Kind::Throttled,
        (
            _,
            Some("PermanentRedirect" | "TemporaryRedirect" | "IllegalLocationConstraintException"),
        )
        | (301 | 302 | 307 | 308, _) => Kind::WrongRegion,
        (400, Some("AuthorizationHeaderMalformed")) if elsewhere => Kind::WrongRegion,
        // A HEAD has no code to say it with.
        (400, None) if elsewhere => Kind::WrongRegion,
        (304, _) => Kind::NotModified,
        (412, _) => Kind::Changed,
        (416, _) => Kind::OutOfRange,
        (401 | 403, _) => Kind::Denied,
        // Only the bucket itself can be missing from a listing.
        (404, None) if request == RequestKind::List => Kind::NoSuchBucket,
        (404, _) => Kind::NotFound,
        (501 | 505, _) => Kind::Other,
        (408 | 429 | 500.., _) => Kind::Throttled,
        _ => Kind::Other,
    }
}

fn bad_credentials(code: Option<&str>) -> &'static str {
    match code {
        Some("InvalidAccessKeyId" | "InvalidClientTokenId") => "the access key is not known",
        Some("SignatureDoesNotMatch") => "the secret key does not belong to the access key",
        Some("InvalidToken") => "the session token is not one of the access key",
        _ => "the credentials have expired",
    }
}

/// The text of the first `<name>` element of an error document.
fn tag(xml: &[u8], name: &str) -> Option<String> {
    let xml = std::str::from_utf8(xml).ok()?;
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once('<')?;
    (!text.is_empty()).then(|| text.trim().to_owned())
}

/// The region in the Location of a temporary redirect: a new bucket's own region, until the names
/// are known everywhere (S3 user guide, "Making requests", "Request redirection").
fn region_of_url(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split(['/', ':', '?']).next()?;
    let labels: Vec<&str> = host.split('.').collect();
    labels.iter().enumerate().find_map(|(place, label)| {
        let region = match label.strip_prefix("s3-") {
            Some(region) => region,
            None if *label == "s3" => {
                *labels.get(place + 1).filter(|next| **next != "amazonaws")?
            }
            None => return None,
        };
        Some(region.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreErrorKind as Kind;

    #[test]
    fn each_answer_has_its_kind() {
        let (head, list, get) = (RequestKind::Head, RequestKind::List, RequestKind::Get);
        for (request, status, code, kind) in [
            (get, 304, None, Kind::NotModified),
            (get, 412, Some("PreconditionFailed"), Kind::Changed),
            (get, 416, Some("InvalidRange"), Kind::OutOfRange),
            (get, 403, Some("InvalidObjectState"), Kind::Archived),
            (get, 404, Some("NoSuchKey"), Kind::NotFound),
            (get, 404, Some("NoSuchVersion"), Kind::NotFound),
            (get, 405, Some("MethodNotAllowed"), Kind::Other),
            (head, 404, None, Kind::NotFound),
            (head, 403, None, Kind::Denied),
            (head, 400, None, Kind::Other),
            (list, 404, Some("NoSuchBucket"), Kind::NoSuchBucket),
            (list, 404, None, Kind::NoSuchBucket),
            (list, 401, None, Kind::Denied),
            (list, 403, Some("AccessDenied"), Kind::Denied),
            (list, 403, Some("InvalidAccessKeyId"), Kind::BadCredentials),
            (list, 403, Some("SignatureDoesNotMatch"), Kind::BadCredentials),
            (list, 400, Some("ExpiredToken"), Kind::BadCredentials),
            (list, 400, Some("InvalidToken"), Kind::BadCredentials),
            (get, 400, Some("RequestTimeout"), Kind::Throttled),
            (get, 503, Some("SlowDown"), Kind::Throttled),
            (get, 503, None, Kind::Throttled),
            (get, 429, None, Kind::Throttled),
            (get, 500, Some("InternalError"), Kind::Throttled),
            (get, 502, None, Kind::Throttled),
            (get, 501, Some("NotImplemented"), Kind::Other),
            (list, 301, Some("PermanentRedirect"), Kind::WrongRegion),
            (head, 301, None, Kind::WrongRegion),
            (get, 307, Some("TemporaryRedirect"), Kind::WrongRegion),
            (list, 400, Some("IllegalLocationConstraintException"), Kind::WrongRegion),
            (list, 400, Some("InvalidArgument"), Kind::Other),
        ] {
            let found = classify(request, status, code, None, "us-east-1");
            assert_eq!(found, kind, "{request:?} {status} {code:?}");
        }
    }

    #[test]
    fn a_region_matters_only_where_it_is_another() {
        let list = |status, code, region| {
            classify(RequestKind::List, status, Some(code), Some(region), "us-east-1")
        };
        let malformed = "AuthorizationHeaderMalformed";
        assert_eq!(list(400, malformed, "eu-west-1"), Kind::WrongRegion);
        assert_eq!(list(400, malformed, "us-east-1"), Kind::Other);
        assert_eq!(list(403, "AccessDenied", "eu-west-1"), Kind::Denied, "S3 always names it");
        let head = classify(RequestKind::Head, 400, None, Some("eu-west-1"), "us-east-1");
        assert_eq!(head, Kind::WrongRegion);
    }

    #[test]
    fn a_redirects_location_names_the_region() {
        for (url, region) in [
            ("https://b.s3.eu-west-3.amazonaws.com/?list-type=2", Some("eu-west-3")),
            ("https://b.s3-us-west-2.amazonaws.com/k", Some("us-west-2")),
            ("https://s3.ap-south-1.amazonaws.com:443/b/", Some("ap-south-1")),
            ("https://b.s3.amazonaws.com/", None),
            ("http://localhost:9000/b", None),
        ] {
            assert_eq!(region_of_url(url).as_deref(), region, "{url}");
        }
    }

    #[test]
    fn an_error_document_names_the_region() {
        let xml =
            b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-north-1</Region></Error>";
        assert_eq!(tag(xml, "Region").as_deref(), Some("eu-north-1"));
        assert_eq!(tag(b"<Error/>", "Region"), None);
    }

    #[test]
    fn a_clock_is_told_in_whole_minutes() {
        for (ahead, words) in [
            (Some(3601), "1 h ahead of the server's"),
            (Some(-86_400 - 2 * 3600 - 61), "1 d 2 h 1 min behind the server's"),
            (Some(12), "12 s ahead of"),
            (None, "wrong by more"),
        ] {
            let reason = clock_reason(ahead);
            assert!(reason.contains(words), "{reason}");
        }
        assert!(clock_ahead("Sun, 06 Nov 1994 08:49:37 GMT").is_some_and(|ahead| ahead > 0));
        assert_eq!(clock_ahead("yesterday"), None);
    }

    #[test]
    fn what_is_not_s3_is_told_by_its_body() {
        assert!(is_foreign(b"<!DOCTYPE html><html>") && is_foreign(b"upstream connect error"));
        let document = b"\n<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>";
        assert!(!is_foreign(document) && !is_foreign(b"<Error/>") && !is_foreign(b""));
    }
}
