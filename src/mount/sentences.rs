//! What the first request to the bucket failed with, in one sentence: what happened, what to do
//! about it, and, in parentheses at its end, what a server's administrator would ask for.

use super::start_error::StartErrorKind;
use crate::config::BucketConfig;
use crate::error::{Cause, StoreError, StoreErrorKind};
use crate::store::retry::RetryConfig;

/// Pure: all that it says is in the error's parts and in what was asked for.
pub(super) fn of_store(err: &StoreError, bucket: &BucketConfig) -> (StartErrorKind, String) {
    let (kind, words) = match err.cause() {
        Some(cause) => of_cause(cause, err, bucket),
        None => of_kind(err, bucket),
    };
    (kind, format!("{words}{}", facts(err)))
}

fn of_kind(err: &StoreError, bucket: &BucketConfig) -> (StartErrorKind, String) {
    use StoreErrorKind as Kind;
    let server = server(bucket);
    let (name, to_check) = (&bucket.bucket, to_check(bucket));
    match err.kind() {
        Kind::NoCredentials => (StartErrorKind::NoCredentials, err.reason().to_owned()),
        Kind::BadCredentials => (StartErrorKind::Denied, bad_credentials(err, bucket)),
        Kind::Denied => (StartErrorKind::Denied, denied(bucket)),
        Kind::NoSuchBucket | Kind::NotFound => {
            let and = if bucket.endpoint_url.is_some() { " and " } else { "" };
            let place = if bucket.endpoint_url.is_some() { endpoint_source(bucket) } else { "" };
            let sentence =
                format!("there is no bucket {name} at {server}; check its name{and}{place}");
            (StartErrorKind::NotFound, sentence)
        }
        Kind::WrongRegion => {
            let sentence = match err.region() {
                Some(region) => format!(
                    "the bucket {name} is in the region {region}, which {server} does not serve; \
                     give --region {region}"
                ),
                None => format!(
                    "the bucket {name} is in another region, and {server} does not say in which; \
                     name it with --region"
                ),
            };
            (StartErrorKind::Network, sentence)
        }
        Kind::Unreachable => {
            let reason = err.reason();
            (
                StartErrorKind::Network,
                format!("{server} is not reachable: {reason}; check {to_check}"),
            )
        }
        Kind::TimedOut => {
            let seconds = RetryConfig::start().answer_total.as_secs();
            let sentence = format!(
                "{server} did not answer within {seconds} s; check {to_check}, or try again"
            );
            (StartErrorKind::Network, sentence)
        }
        Kind::Throttled => {
            let sentence = format!(
                "{server} cannot serve requests at the moment{}; try again later",
                said(err)
            );
            (StartErrorKind::Network, sentence)
        }
        Kind::Changed
        | Kind::NotModified
        | Kind::OutOfRange
        | Kind::Archived
        | Kind::Corrupt
        | Kind::Asleep
        | Kind::Other => {
            let said = match err.said() {
                Some(said) => said,
                None => err.reason(),
            };
            let sentence = format!(
                "{server} does not list the bucket {name}: {said}; check {to_check}, and that the \
                 server knows ListObjectsV2"
            );
            (StartErrorKind::Network, sentence)
        }
    }
}

fn of_cause(cause: Cause, err: &StoreError, bucket: &BucketConfig) -> (StartErrorKind, String) {
    let server = server(bucket);
    let to_check = to_check(bucket);
    let source = endpoint_source(bucket);
    // Where TLS is expected and plain HTTP spoken, servers answer in many ways.
    let or_tls = match &bucket.endpoint_url {
        Some(url) if url.starts_with("http://") => {
            "; if it speaks TLS, write https:// instead of http://"
        }
        _ => "",
    };
    // The HTTP client does not say which of the two it meant.
    let or_proxy = match &bucket.proxy_variable {
        Some(name) => format!(" or the proxy in {name}"),
        None => String::new(),
    };
    let sentence = match cause {
        Cause::Configuration => return (StartErrorKind::Usage, err.reason().to_owned()),
        // The server refused the request, and it will until a person acts: the code of "denied".
        Cause::Clock(_) => {
            let sentence = format!(
                "{server} refuses the request because {}; set the clock, as with: timedatectl \
                 set-ntp true",
                err.reason()
            );
            return (StartErrorKind::Denied, sentence);
        }
        Cause::Refused => {
            format!("nothing listens at {server}{or_proxy} (connection refused); check {to_check}")
        }
        Cause::NotResolved => {
            format!("the host name of {server}{or_proxy} is not resolved; check {to_check}")
        }
        Cause::NoRoute => format!("there is no route to {server}{or_proxy}; check {to_check}"),
        Cause::Closed => {
            format!("{server} closed the connection without an answer; check {to_check}{or_tls}")
        }
        Cause::Certificate => {
            let reason = certificate(err.reason());
            let remedy = match &bucket.ca_bundle {
                Some(path) => format!(
                    "add its authority to {}, the file that AWS_CA_BUNDLE names",
                    path.display()
                ),
                None => "let AWS_CA_BUNDLE name a PEM file with its authority".to_owned(),
            };
            format!("the TLS certificate of {server} is not accepted{reason}; {remedy}")
        }
        Cause::NotTls => {
            format!("{server} does not speak TLS; write http:// instead of https:// in {source}")
        }
        Cause::NotHttp => {
            format!("{server} does not speak HTTP; check host and port in {source}{or_tls}")
        }
        Cause::NotS3 => {
            // What nginx and Go's server say to plain HTTP.
            let or_tls = if err.status() == Some(400) { or_tls } else { "" };
            format!(
                "{server} does not answer as an S3 server does, but with a web page or the like; \
                 check {to_check}, and whether something else answers in its place{or_tls}"
            )
        }
        Cause::Proxy => format!(
            "the proxy does not let requests through to {server}; check {}, or except the server \
             in NO_PROXY",
            bucket.proxy_variable.as_deref().unwrap_or("HTTPS_PROXY and HTTP_PROXY")
        ),
    };
    (StartErrorKind::Network, sentence)
}

/// S3's code, else the status, and the request's id.
fn facts(err: &StoreError) -> String {
    let status = || err.status().map(|status| format!("HTTP {status}"));
    let what = err.code().map(str::to_owned).or_else(status);
    let id = err.request_id().map(|id| format!("request {id}"));
    let facts: Vec<String> = what.into_iter().chain(id).collect();
    if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) }
}

fn said(err: &StoreError) -> String {
    err.said().map(|said| format!(": {}", said.trim_end_matches('.'))).unwrap_or_default()
}

/// The part in parentheses of the reason, which is for logs.
fn certificate(reason: &str) -> String {
    let inner = reason.split_once('(').and_then(|(_, rest)| rest.split_once(");"));
    inner.map(|(inner, _)| format!(": {inner}")).unwrap_or_default()
}

fn server(bucket: &BucketConfig) -> String {
    match (&bucket.endpoint_url, &bucket.region) {
        (Some(url), _) => url.clone(),
        (None, Some(region)) => format!("S3 in {region}"),
        (None, None) => "AWS S3".to_owned(),
    }
}

/// What names the server, for "check".
fn endpoint_source(bucket: &BucketConfig) -> &str {
    match &bucket.endpoint_url {
        Some(_) if bucket.endpoint_source.is_empty() => "--endpoint-url",
        Some(_) => &bucket.endpoint_source,
        None => "--region",
    }
}

fn to_check(bucket: &BucketConfig) -> String {
    let source = endpoint_source(bucket);
    match &bucket.proxy_variable {
        Some(proxy) => format!("{source}, {proxy} and the network"),
        None => format!("{source} and the network"),
    }
}

/// Where the keys were found.
fn keys_source(bucket: &BucketConfig) -> String {
    match &bucket.profile {
        Some(profile) => format!("the profile {profile}"),
        None if bucket.keys_in_environment => {
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned()
        }
        None => "the profile".to_owned(),
    }
}

fn bad_credentials(err: &StoreError, bucket: &BucketConfig) -> String {
    let (server, keys) = (server(bucket), keys_source(bucket));
    match err.code() {
        Some("SignatureDoesNotMatch") => format!(
            "{server} refuses the signature: the secret key does not belong to the access key; \
             check {keys}"
        ),
        Some("InvalidAccessKeyId" | "InvalidClientTokenId") => {
            format!("{server} does not know the access key; check {keys}")
        }
        Some("InvalidToken") => format!(
            "{server} refuses the session token; check AWS_SESSION_TOKEN, or get new credentials \
             for {keys}"
        ),
        _ => format!(
            "the credentials have expired, says {server}; get new ones, as with `aws sso login`, \
             and put them into {keys}"
        ),
    }
}

fn denied(bucket: &BucketConfig) -> String {
    let name = &bucket.bucket;
    let place = match bucket.prefix.as_str() {
        "" => String::new(),
        prefix => format!(" below {prefix}"),
    };
    if !bucket.sign_requests {
        return format!(
            "listing the bucket {name}{place} is denied: it is not public; leave --no-sign-request \
             out to use credentials"
        );
    }
    let resource =
        if name.starts_with("arn:") { name.clone() } else { format!("{}:{name}", arn(bucket)) };
    let condition = match bucket.prefix.as_str() {
        "" => String::new(),
        prefix => format!(" for s3:prefix {prefix}"),
    };
    let owner = match &bucket.expected_bucket_owner {
        Some(owner) => format!(", and the bucket must be owned by {owner}"),
        None => String::new(),
    };
    format!(
        "listing the bucket {name}{place} is denied: the credentials need s3:ListBucket on \
         {resource}{condition}{owner}, or --known-paths to open paths that are known"
    )
}

/// China and GovCloud are partitions of their own.
fn arn(bucket: &BucketConfig) -> &'static str {
    match bucket.region.as_deref() {
        Some(region) if region.starts_with("cn-") => "arn:aws-cn:s3::",
        Some(region) if region.starts_with("us-gov-") => "arn:aws-us-gov:s3::",
        _ => "arn:aws:s3::",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Answer;

    fn bucket() -> BucketConfig {
        BucketConfig {
            bucket: "myfiles".to_owned(),
            sign_requests: true,
            endpoint_url: Some("http://h:1".to_owned()),
            endpoint_source: "AWS_ENDPOINT_URL".to_owned(),
            ..BucketConfig::default()
        }
    }

    fn aws() -> BucketConfig {
        BucketConfig { endpoint_url: None, endpoint_source: String::new(), ..bucket() }
    }

    #[track_caller]
    fn check(err: &StoreError, bucket: &BucketConfig, exit_code: u8, sentence: &str) {
        let (kind, found) = of_store(err, bucket);
        assert_eq!((kind.exit_code(), found.as_str()), (exit_code, sentence));
    }

    fn answered(kind: StoreErrorKind, status: u16, code: &str) -> StoreError {
        let code = (!code.is_empty()).then(|| code.to_owned());
        let answer = Answer { status: Some(status), code, ..Answer::default() };
        StoreError::with_answer(kind, "the reason", answer).of_request("ListObjectsV2 \"\"")
    }

    #[test]
    fn the_action_is_named_with_the_arn_of_the_partition() {
        let denied = answered(StoreErrorKind::Denied, 403, "AccessDenied");
        let china = BucketConfig {
            region: Some("cn-north-1".to_owned()),
            prefix: "a/".to_owned(),
            ..aws()
        };
        let sentence = "listing the bucket myfiles below a/ is denied: the credentials need \
                        s3:ListBucket on arn:aws-cn:s3:::myfiles for s3:prefix a/, or \
                        --known-paths to open paths that are known (AccessDenied)";
        check(&denied, &china, 4, sentence);
        let public = BucketConfig { sign_requests: false, ..aws() };
        let sentence = "listing the bucket myfiles is denied: it is not public; leave \
                        --no-sign-request out to use credentials (AccessDenied)";
        check(&denied, &public, 4, sentence);
        let owned = BucketConfig { expected_bucket_owner: Some("1".to_owned()), ..aws() };
        let sentence = "listing the bucket myfiles is denied: the credentials need s3:ListBucket \
                        on arn:aws:s3:::myfiles, and the bucket must be owned by 1, or \
                        --known-paths to open paths that are known (AccessDenied)";
        check(&denied, &owned, 4, sentence);
    }

    #[test]
    fn what_cannot_be_made_to_happen_on_one_machine_has_its_sentence_too() {
        let region = BucketConfig { region: Some("eu-west-1".to_owned()), ..aws() };
        let wrong = answered(StoreErrorKind::WrongRegion, 301, "PermanentRedirect");
        let sentence = "the bucket myfiles is in another region, and S3 in eu-west-1 does not say \
                        in which; name it with --region (PermanentRedirect)";
        check(&wrong, &region, 6, sentence);
        let no_route = StoreError::new(StoreErrorKind::Unreachable, "no route to it")
            .with_cause(Cause::NoRoute);
        let proxy = BucketConfig { proxy_variable: Some("HTTPS_PROXY".to_owned()), ..aws() };
        let sentence = "there is no route to AWS S3 or the proxy in HTTPS_PROXY; check --region, \
                        HTTPS_PROXY and the network";
        check(&no_route, &proxy, 6, sentence);
        let token = answered(StoreErrorKind::BadCredentials, 400, "InvalidToken");
        let work = BucketConfig { profile: Some("work".to_owned()), ..bucket() };
        let sentence = "http://h:1 refuses the session token; check AWS_SESSION_TOKEN, or get new \
                        credentials for the profile work (InvalidToken)";
        check(&token, &work, 4, sentence);
    }
}
