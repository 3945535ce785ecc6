//! GET and HEAD of objects, and listings: the calls that are fast and that must be exact.
//!
//! They run as a route of s3s, after it has verified the signature, and write their own headers:
//! through the typed interface s3s would decide what a strange Range means.

use std::ops::Range;
use std::sync::Arc;

use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED,
};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use s3s::route::S3Route;
use s3s::{Body, S3Request, S3Response, S3Result, s3_error};

use super::access::{denied, no_such_bucket, region_header};
use super::bucket::{Bucket, Object};
use super::call::{Call, Kind};
use super::content::ContentBody;
use super::listing::Listing;
use super::quirks::{Quirk, Quirks};
use super::{World, dates};

pub(crate) struct Reads(pub(crate) Arc<World>);

#[async_trait::async_trait]
impl S3Route for Reads {
    fn is_match(&self, _: &Method, _: &Uri, _: &HeaderMap, extensions: &mut Extensions) -> bool {
        let call = extensions.get::<Arc<Call>>().expect("set by the server");
        matches!(call.kind, Kind::List | Kind::Head | Kind::Get)
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        let call = request.extensions.get::<Arc<Call>>().expect("set by the server");
        self.0.authorize(call, request.credentials.is_some())
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let call = request.extensions.get::<Arc<Call>>().expect("set by the server");
        let quirks = self.0.quirks();
        let buckets = self.0.buckets.read();
        let bucket = buckets.get(&call.bucket).ok_or_else(no_such_bucket)?;
        if call.kind == Kind::List {
            return list(bucket, call, quirks);
        }
        refuse(call, quirks)?;
        let object = self.find(bucket, call, quirks)?.clone();
        let versioned = bucket.versioned;
        // The body must not be sent under the lock.
        drop(buckets);
        if let Some(kms_key) = object.kms_key.as_deref().filter(|_| call.kind == Kind::Get) {
            self.0.check_decryption(call, kms_key)?;
        }
        let is_corrupt = call.kind == Kind::Get && self.0.corrupts(&call.key);
        read(&object, versioned, call, quirks, is_corrupt)
    }
}

impl Reads {
    fn find<'a>(&self, bucket: &'a Bucket, call: &Call, quirks: Quirks) -> S3Result<&'a Object> {
        let found = match call.version_id() {
            Some(id) => bucket.get_version(&call.key, id),
            None => bucket.get(&call.key),
        };
        if let Some(object) = found {
            return Ok(object);
        }
        if !bucket.policy.tells_missing_keys(&call.key)
            || !self.0.tells_missing_keys(call)
            || quirks.has(Quirk::ForbiddenForMissing)
        {
            return Err(denied());
        }
        if call.version_id().is_some() {
            return Err(s3_error!(NoSuchVersion, "The specified version does not exist."));
        }
        let mut err = s3_error!(NoSuchKey, "The specified key does not exist.");
        if bucket.has_marker(&call.key) {
            let marker =
                (HeaderName::from_static("x-amz-delete-marker"), HeaderValue::from_static("true"));
            err.set_headers(HeaderMap::from_iter([marker]));
        }
        Err(err)
    }
}

fn list(bucket: &Bucket, call: &Call, quirks: Quirks) -> S3Result<S3Response<Body>> {
    let listing = Listing::parse(call, quirks)?.with_page_entries(bucket.page_entries_max);
    let xml = listing.xml(&bucket.objects);
    let mut headers = region_header(bucket);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Ok(S3Response::with_headers(Body::from(xml), headers))
}

/// What a server with such quirks answers with an error, whatever the object.
fn refuse(call: &Call, quirks: Quirks) -> S3Result<()> {
    if call.kind == Kind::Head && quirks.has(Quirk::NoHead) {
        return Err(s3_error!(MethodNotAllowed, "The specified method is not allowed"));
    }
    let conditional = call.if_match.is_some() || call.if_none_match.is_some();
    if conditional && quirks.has(Quirk::RefusesConditions) {
        return Err(s3_error!(
            NotImplemented,
            "A header you provided implies functionality that is not implemented"
        ));
    }
    let is_get = call.kind == Kind::Get;
    if is_get && call.wants_checksum && quirks.has(Quirk::RefusesChecksumMode) {
        return Err(s3_error!(NotImplemented, "x-amz-checksum-mode is not implemented"));
    }
    if is_get && !call.wants_checksum && quirks.has(Quirk::WantsChecksumMode) {
        return Err(s3_error!(InvalidRequest, "Missing required header: x-amz-checksum-mode"));
    }
    Ok(())
}

fn read(
    object: &Object,
    versioned: bool,
    call: &Call,
    quirks: Quirks,
    is_corrupt: bool,
) -> S3Result<S3Response<Body>> {
    let mut headers = object_headers(object, versioned, quirks);
    let etag = object.etag.to_string();
    let is_unmet = |tags: &Option<String>, met: bool| {
        !quirks.has(Quirk::IgnoresConditions)
            && tags.as_ref().is_some_and(|tags| matches(tags, &etag) != met)
    };
    if is_unmet(&call.if_match, true) {
        return Err(s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold"
        ));
    }
    if is_unmet(&call.if_none_match, false) {
        headers.remove(CONTENT_TYPE);
        let response = S3Response::with_headers(Body::empty(), headers);
        return Ok(S3Response { status: Some(StatusCode::NOT_MODIFIED), ..response });
    }
    if object.archived && call.kind == Kind::Get {
        return Err(s3_error!(
            InvalidObjectState,
            "The operation is not valid for the object's storage class"
        ));
    }
    let size = object.size();
    let range = call.range.as_deref().filter(|_| !quirks.has(Quirk::IgnoresRange));
    let (status, range) = match range.map_or(Asked::Whole, |range| resolve(range, size)) {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(part) => {
            let value = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            headers.insert(CONTENT_RANGE, ascii(&value));
            (StatusCode::PARTIAL_CONTENT, part)
        }
        Asked::Beyond => {
            let mut err = s3_error!(InvalidRange, "The requested range is not satisfiable");
            let value = ascii(&format!("bytes */{size}"));
            err.set_headers(HeaderMap::from_iter([(CONTENT_RANGE, value)]));
            return Err(err);
        }
    };
    headers.insert(CONTENT_LENGTH, ascii(&(range.end - range.start).to_string()));
    if call.wants_checksum && status == StatusCode::OK {
        headers.extend(object.checksum.headers(&object.content));
    }
    let body = match call.kind {
        Kind::Head => Body::empty(),
        _ if is_corrupt => Body::http_body(ContentBody::new(object.content.flipped(&range), range)),
        _ => Body::http_body(ContentBody::new(object.content.clone(), range)),
    };
    let response = S3Response::with_headers(body, headers);
    Ok(S3Response { status: Some(status), ..response })
}

fn object_headers(object: &Object, versioned: bool, quirks: Quirks) -> HeaderMap {
    let mut headers = object.headers.as_deref().cloned().unwrap_or_default();
    headers.entry(CONTENT_TYPE).or_insert_with(|| HeaderValue::from_static("binary/octet-stream"));
    if !quirks.has(Quirk::IgnoresRange) {
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    headers.insert(ETAG, ascii(&format!("\"{}\"", object.etag)));
    if !quirks.has(Quirk::NoLastModified) {
        let fractional = quirks.has(Quirk::FractionalDates);
        let date = if fractional { dates::fractional } else { dates::http };
        headers.insert(LAST_MODIFIED, ascii(&date(object.last_modified())));
    }
    if versioned {
        headers.insert("x-amz-version-id", ascii(&object.version_id()));
    }
    if object.archived {
        headers.insert("x-amz-storage-class", ascii(object.storage_class()));
    }
    headers
}

/// `tags` is the value of If-Match or If-None-Match; S3 takes tags with and without quotes.
pub(crate) fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*" || tag.trim_matches('"') == etag
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Beyond,
}

/// A Range that cannot be understood, or of several parts, is ignored as S3 ignores it.
fn resolve(range: &str, size: u64) -> Asked {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Asked::Whole;
    };
    let part = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..size,
        (Err(_), Ok(suffix)) if first.trim().is_empty() => size.saturating_sub(suffix)..size,
        _ => return Asked::Whole,
    };
    if part.start < part.end { Asked::Part(part) } else { Asked::Beyond }
}

fn ascii(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("made of ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Range is answered in part, refused, or ignored, as S3 does.
    #[test]
    fn ranges_resolve_as_on_s3() {
        let cases = [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=3-", Asked::Part(3..10)),
            ("bytes=-4", Asked::Part(6..10)),
            ("bytes=-40", Asked::Part(0..10)),
            ("bytes=8-99", Asked::Part(8..10)),
            ("bytes=10-", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=5-4", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("lines=0-1", Asked::Whole),
        ];
        for (range, asked) in cases {
            assert_eq!(resolve(range, 10), asked, "{range}");
        }
        assert_eq!(resolve("bytes=0-", 0), Asked::Beyond);
    }
}
