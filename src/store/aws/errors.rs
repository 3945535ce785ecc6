//! What the SDK and a server said, as one of our kinds and a sentence. S3's codes are from the
//! API reference, "Error responses" and what other servers answer instead.

use std::error::Error;
use std::io;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::denial::Denied;
use crate::error::{Answer, StoreError, StoreErrorKind};
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
        let message = format!("{} {name:?}: {what}", request.name());
        StoreError::with_answer(kind, message, answer)
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
            let what = no_credentials(self.profile, &chain(reason));
            return self.failed(StoreErrorKind::NoCredentials, &what);
        }
        match err {
            SdkError::TimeoutError(_) => self.timed_out(),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => self.timed_out(),
            SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
                Some(err) if failure.is_io() || failure.is_other() && is_transport(err) => {
                    let what = format!("can not reach {}: {}", self.endpoint, transport(err));
                    self.failed(StoreErrorKind::Unreachable, &what)
                }
                Some(err) => self.broken_rule(chain(err).trim_start_matches("other: ")),
                None => self.failed(StoreErrorKind::Unreachable, "the request was not sent"),
            },
            SdkError::ServiceError(service) => self.answered(service.raw(), Some(service.err())),
            SdkError::ResponseError(response) if response.raw().status().is_success() => {
                // Cut on its way, or not from S3 at all; only another try can tell.
                let reason = err.source().map(chain).unwrap_or_default();
                let what = format!("the answer can not be read: {reason}");
                self.failed(StoreErrorKind::Unreachable, &what)
            }
            SdkError::ResponseError(response) => self.answered::<E>(response.raw(), None),
            _ => self.broken_rule(&err.source().map(chain).unwrap_or_default()),
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
        let code = err.and_then(ProvideErrorMetadata::code).filter(|_| !empty);
        let body = raw.body().bytes().unwrap_or_default();
        let region = header("x-amz-bucket-region")
            .map(str::to_owned)
            .or_else(|| tag(body, "Region"))
            .or_else(|| header("location").and_then(region_of_url));
        let kind = match header("x-amz-delete-marker") {
            // A version that is a delete marker gives 404, or 405 when it is asked for by its id.
            Some("true") => StoreErrorKind::NotFound,
            _ => classify(self.kind, status, code, region.as_deref(), self.region),
        };
        let said = err.and_then(ProvideErrorMetadata::message).filter(|_| !empty);
        let answer = Answer {
            status: Some(status),
            code: code.map(str::to_owned),
            request_id: header("x-amz-request-id").map(str::to_owned),
            region,
        };
        self.error(kind, &self.sentence(kind, code, said, &answer), answer)
    }

    fn sentence(
        &self,
        kind: StoreErrorKind,
        code: Option<&str>,
        said: Option<&str>,
        answer: &Answer,
    ) -> String {
        let own = match kind {
            StoreErrorKind::NotFound => "there is no such key".to_owned(),
            StoreErrorKind::NoSuchBucket => {
                format!("there is no bucket {:?} at {}", self.bucket, self.endpoint)
            }
            StoreErrorKind::Denied if code == Some("RequestTimeTooSkewed") => {
                "the clock of this machine is wrong by more than 15 minutes".to_owned()
            }
            StoreErrorKind::Denied => {
                format!("denied; it needs {}", self.denied().lacks(code, said))
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
            | StoreErrorKind::Unreachable
            | StoreErrorKind::NoCredentials
            | StoreErrorKind::Other => "the server gave an error".to_owned(),
        };
        match said {
            Some(said) => format!("{own}: {}", shortened(said)),
            None => own,
        }
    }
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

/// What is told when the chain found nothing; `reason` is its own.
pub(super) fn no_credentials(profile: Option<&str>, reason: &str) -> String {
    let places = match profile {
        Some(profile) => {
            format!("looked for the profile {profile:?} in ~/.aws/credentials and ~/.aws/config")
        }
        None => "looked in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile in \
                 ~/.aws/credentials and ~/.aws/config with its SSO, role and credential_process, \
                 AWS_WEB_IDENTITY_TOKEN_FILE, the container's and the instance's metadata"
            .to_owned(),
    };
    // How the SDK's error begins when a provider of ours passed its reason on.
    const NOISE: &str = "the credential provider was not enabled: ";
    let reason = shortened(reason.trim_start_matches(NOISE));
    format!(
        "no credentials were found ({places}; a public bucket needs --no-sign-request): {reason}"
    )
}

/// Messages of others are for one line of a log.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(CHARS_MAX).collect()
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

/// Whether the connection rather than the request was at fault.
fn is_transport(err: &(dyn Error + 'static)) -> bool {
    causes(err).any(|cause| {
        cause.is::<io::Error>() || cause.is::<rustls::Error>() || {
            let text = cause.to_string();
            text.contains("connection") || text.contains("message completed")
        }
    })
}

/// Why a connection failed, in words.
pub(super) fn transport(err: &(dyn Error + 'static)) -> String {
    let untrusted = causes(err).find_map(|cause| match cause.downcast_ref::<rustls::Error>() {
        Some(err @ rustls::Error::InvalidCertificate(_)) => Some(err.to_string()),
        _ => None,
    });
    if let Some(reason) = untrusted {
        return format!(
            "its TLS certificate is not accepted ({reason}); AWS_CA_BUNDLE names a file of own \
             roots"
        );
    }
    let words = chain(err);
    if let Some((_, reason)) = words.split_once("dns error") {
        return format!("its name is not resolved ({})", reason.trim_start_matches(": "));
    }
    let kind = causes(err).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            "connection reset".to_owned()
        }
        Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable) => {
            "no route to it".to_owned()
        }
        _ => words,
    }
}

/// The error and its causes in one line, without repetition.
pub(super) fn chain(err: &(dyn Error + 'static)) -> String {
    let mut words = String::new();
    for cause in causes(err) {
        let text = cause.to_string();
        if !words.contains(&text) {
            let separator = if words.is_empty() { "" } else { ": " };
            words = format!("{words}{separator}{text}");
        }
    }
    words
}

fn find<'a, T: Error + 'static>(err: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(err).find_map(|cause| cause.downcast_ref())
}

/// `err` and what lies behind it. An `io::Error` hides its payload from `source`.
fn causes<'a>(err: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(err), |&err| match err.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => err.source(),
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
    fn a_servers_message_is_cut_at_a_character() {
        assert_eq!(shortened(&"\u{e4}".repeat(400)).chars().count(), 300);
    }
}
