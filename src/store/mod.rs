//! The one seam between the file system and S3: [`ObjectStore`], and its wrappers, which are stores
//! themselves. Invariant: bucket, endpoint and the AWS SDK are known to `aws.rs` alone, but
//! for the types of credentials, which `credentials.rs` keeps;
//! errors are kinds; every request and every body ends by a deadline that the wrappers set.

pub mod aws;
pub mod credentials;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), expect(dead_code, reason = "some of it is for tests alone"))]
pub(crate) mod fake;
pub mod hedge;
pub mod limit;
pub mod meter;
mod quiet;
pub mod reach;
mod rest;
pub mod retry;
pub mod stack;
pub mod throttle;

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;

use crate::error::StoreError;
use crate::object::{ETag, Object, Version};

/// A bucket, read-only. What tests replace.
pub trait ObjectStore: Send + Sync + 'static {
    /// The current version of `key`. Fails with `NotFound`, or `Denied`, which may mean missing.
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Head, StoreError>>;

    /// One page of a listing.
    fn list(&self, request: ListRequest) -> BoxFuture<'_, Result<ListPage, StoreError>>;

    /// Bytes of one object. The answer's head has come when the future is ready; the body follows.
    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<GetAnswer, StoreError>>;
}

/// What the head of a HEAD or GET answer says of an object. A GET's may lack the date
/// ([`Version::is_dated`]); then a HEAD tells it, as far as anything does. A HEAD lacks the ETag where
/// listings do, so that both tell one version; then a GET tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// `size` is that of the whole object, also in the answer to a ranged GET.
    pub version: Version,
    /// `x-amz-version-id`, from versioned buckets.
    pub version_id: Option<Arc<str>>,
}

/// ListObjectsV2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListRequest {
    pub prefix: String,
    /// Whether keys below the next `/` are rolled up into common prefixes.
    pub delimited: bool,
    /// Only keys after this one; not sent when there is a continuation token.
    pub start_after: Option<String>,
    /// From the page before.
    pub continuation: Option<String>,
    /// Keys and common prefixes together, at most 1,000 (S3's own bound).
    pub keys_max: u16,
}

impl ListRequest {
    /// S3 never gives more on one page.
    pub const PAGE_KEYS: u16 = 1000;

    /// The first page of one directory.
    pub fn directory(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            delimited: true,
            start_after: None,
            continuation: None,
            keys_max: Self::PAGE_KEYS,
        }
    }
}

/// One page, decoded: keys are as they are in the bucket, in the server's order.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct ListPage {
    pub objects: Vec<Object>,
    /// Whole prefixes, each ending in the delimiter.
    pub prefixes: Vec<String>,
    /// `Some` exactly when the listing is truncated.
    pub continuation: Option<String>,
}

/// GetObject.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GetRequest {
    pub key: Arc<str>,
    /// `None` asks for the whole object and sends no Range (an empty object has no valid range).
    pub range: Option<Range<u64>>,
    pub condition: Condition,
    pub priority: Priority,
}

/// Who waits for a GET: on the line the order is metadata, demand, ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// An open, which has less time than a reader.
    Open,
    /// A reader.
    Demand,
    /// Nobody yet.
    Ahead,
}

/// Which version a GET accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Whatever is current.
    Any,
    /// This version, else `Changed`.
    Match(ETag),
    /// Any but this version, else `NotModified`.
    NoneMatch(ETag),
    /// The old version with this id.
    VersionId(Arc<str>),
}

/// The answer to a GET.
pub struct GetAnswer {
    pub head: Head,
    /// The bytes that the body holds, from Content-Range or Content-Length: what was asked for, cut
    /// at the object's end.
    pub range: Range<u64>,
    /// Exactly `range.end - range.start` bytes, or an error.
    pub body: Body,
    /// Of all these bytes, where one came with them: whoever takes them compares, and nobody sees any
    /// of them before that.
    pub checksum: Option<Box<dyn Checksum>>,
}

/// What bytes are compared with as they come in.
pub trait Checksum: Send {
    /// The next bytes.
    fn update(&mut self, bytes: &[u8]);

    /// After the last of them. Fails with `Corrupt`.
    fn finish(self: Box<Self>) -> Result<(), StoreError>;
}

/// A body as it comes in.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>;
