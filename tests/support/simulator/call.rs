//! One request as the simulator sees it: what is asked of which bucket and key, read once from the
//! head of the HTTP request, before anything has been verified.
//!
//! Invariant: nothing here looks at the state of the server; a `Call` only says what was asked.

use std::borrow::Cow;

use http::{HeaderMap, Method, Request, Uri, header};
use percent_encoding::percent_decode_str;

use super::policy::Action;

/// What the log counts apart and shaping can choose by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A page of a listing, `ListObjectsV2` or the older `ListObjects`.
    List,
    /// HEAD of an object.
    Head,
    /// GET of an object.
    Get,
    /// PUT of an object or of a part of one.
    Put,
    /// DELETE of an object.
    Delete,
    /// Everything else: buckets, and the frame of multipart uploads.
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    /// Empty in `ListBuckets`.
    pub(crate) bucket: String,
    /// Empty in calls on a bucket.
    pub(crate) key: String,
    /// Decoded, in the order sent. Invariant: without the parameters of a presigned address.
    pub(crate) query: Vec<(String, String)>,
    pub(crate) range: Option<String>,
    pub(crate) if_match: Option<String>,
    pub(crate) if_none_match: Option<String>,
    /// The region that the signature was made for; none in an unsigned request.
    pub(crate) signed_region: Option<String>,
    pub(crate) access_key: Option<String>,
    /// Of temporary credentials, and only if the signature covers it.
    pub(crate) session_token: Option<String>,
    pub(crate) expected_owner: Option<String>,
    pub(crate) accepts_payment: bool,
    /// Whether a checksum is asked for with the body.
    pub(crate) wants_checksum: bool,
}

/// Query parameters that turn a GET into something else than reading an object or a listing.
const SUBRESOURCES: [&str; 22] = [
    "accelerate",
    "acl",
    "attributes",
    "cors",
    "encryption",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "requestPayment",
    "retention",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versioning",
    "versions",
];

impl Call {
    pub(crate) fn parse<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let (bucket, key) = bucket_and_key(headers, request.uri());
        let (presigned, query): (Vec<_>, Vec<_>) = pairs(request.uri().query().unwrap_or_default())
            .partition(|(name, _)| name.starts_with("X-Amz-"));
        let credential = presigned
            .iter()
            .find(|(name, _)| name == "X-Amz-Credential")
            .map(|(_, value)| &**value);
        Self {
            kind: kind(request.method(), &bucket, &key, &query),
            method: request.method().clone(),
            bucket,
            key,
            query,
            range: text(headers, header::RANGE.as_str()),
            if_match: text(headers, header::IF_MATCH.as_str()),
            if_none_match: text(headers, header::IF_NONE_MATCH.as_str()),
            signed_region: scope(headers, credential, 2),
            access_key: scope(headers, credential, 0),
            session_token: session_token(headers),
            expected_owner: text(headers, "x-amz-expected-bucket-owner"),
            accepts_payment: text(headers, "x-amz-request-payer").is_some(),
            wants_checksum: text(headers, "x-amz-checksum-mode").is_some(),
        }
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn prefix(&self) -> &str {
        self.parameter("prefix").unwrap_or_default()
    }

    pub(crate) fn delimiter(&self) -> Option<&str> {
        self.parameter("delimiter").filter(|delimiter| !delimiter.is_empty())
    }

    pub(crate) fn version_id(&self) -> Option<&str> {
        self.parameter("versionId")
    }

    /// The key, or in a listing the prefix: what policies, hooks and the log go by.
    pub(crate) fn subject(&self) -> &str {
        if self.kind == Kind::List { self.prefix() } else { &self.key }
    }

    /// What the sender must be allowed to do.
    pub(crate) fn action(&self) -> Action {
        match self.kind {
            Kind::List => Action::ListBucket,
            Kind::Head | Kind::Get if self.version_id().is_some() => Action::GetObjectVersion,
            Kind::Head | Kind::Get => Action::GetObject,
            Kind::Put => Action::PutObject,
            Kind::Delete => Action::DeleteObject,
            Kind::Other if self.bucket.is_empty() => Action::ListAllMyBuckets,
            Kind::Other if !self.key.is_empty() => Action::PutObject,
            Kind::Other if self.method == Method::HEAD => Action::ListBucket,
            Kind::Other if self.method == Method::PUT => Action::CreateBucket,
            Kind::Other if self.method == Method::POST => Action::DeleteObject,
            Kind::Other if self.method == Method::DELETE => Action::DeleteObject,
            Kind::Other => Action::GetBucketLocation,
        }
    }
}

/// The bucket that a host name carries: `myfiles` of `myfiles.localhost:9000`.
pub(crate) fn bucket_of_host(host: &str) -> Option<&str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    name.strip_suffix(".localhost")
}

fn bucket_and_key(headers: &HeaderMap, uri: &Uri) -> (String, String) {
    let path = percent_decode_str(uri.path()).decode_utf8_lossy();
    let path = path.strip_prefix('/').unwrap_or(&path);
    let host = text(headers, header::HOST.as_str()).unwrap_or_default();
    match bucket_of_host(&host) {
        Some(bucket) => (bucket.to_owned(), path.to_owned()),
        None => {
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            (bucket.to_owned(), key.to_owned())
        }
    }
}

fn kind(method: &Method, bucket: &str, key: &str, query: &[(String, String)]) -> Kind {
    let plain = !query.iter().any(|(name, _)| SUBRESOURCES.contains(&name.as_str()));
    match (method.as_str(), key.is_empty()) {
        _ if bucket.is_empty() => Kind::Other,
        ("GET", true) if plain => Kind::List,
        ("GET", false) if plain => Kind::Get,
        ("HEAD", false) => Kind::Head,
        ("PUT", false) => Kind::Put,
        ("DELETE", false) if plain => Kind::Delete,
        _ => Kind::Other,
    }
}

/// The parameters of a query, decoded as forms are: a plus is a space.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> String {
    let spaced: Cow<'_, str> =
        if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// The value of a header, if it is there and is text.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// A part of the scope of the signature, which is `ACCESS_KEY/DATE/REGION/s3/aws4_request`.
fn scope(headers: &HeaderMap, presigned: Option<&str>, part: usize) -> Option<String> {
    let authorization = text(headers, header::AUTHORIZATION.as_str());
    let scope = match &authorization {
        Some(value) => value.split_once("Credential=")?.1.split(',').next()?,
        None => presigned?,
    };
    scope.split('/').nth(part).map(str::to_owned)
}

fn session_token(headers: &HeaderMap) -> Option<String> {
    const NAME: &str = "x-amz-security-token";
    let authorization = text(headers, header::AUTHORIZATION.as_str())?;
    let (_, signed) = authorization.split_once("SignedHeaders=")?;
    let signed = signed.split(',').next()?.split(';').any(|name| name == NAME);
    text(headers, NAME).filter(|_| signed)
}
