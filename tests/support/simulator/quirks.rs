//! What servers that are not quite S3 do otherwise, to be switched on one at a time or several
//! together. Each is served where the answer is made; here are their names and the set.

use std::sync::atomic::{AtomicU32, Ordering};

use clap::ValueEnum;

/// One way to differ from S3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, ValueEnum)]
pub(crate) enum Quirk {
    /// Listings come in the order of a tree walk: `a/1` before `a-b` (SeaweedFS).
    TreeOrder,
    /// Listings come in no order at all, though each key once, and `start-after` is ignored
    /// (directory buckets).
    NoOrder,
    /// Listings have no ETag (s3s-fs).
    #[value(name = "no-list-etag")]
    NoListETag,
    /// Listings have ETags without quotes, HEAD and GET with them (rclone serve s3).
    #[value(name = "unquoted-list-etag")]
    UnquotedListETag,
    /// If-Match and If-None-Match are ignored.
    IgnoresConditions,
    /// If-Match and If-None-Match are refused: 501 NotImplemented.
    RefusesConditions,
    /// Range is ignored: 200 with the whole body, and no Accept-Ranges.
    IgnoresRange,
    /// `encoding-type` is ignored: keys as they are, no EncodingType in the answer.
    IgnoresEncodingType,
    /// `encoding-type` is refused: 400 InvalidArgument.
    RefusesEncodingType,
    /// `start-after` is ignored.
    IgnoresStartAfter,
    /// `list-type=2` is ignored: every listing is ListObjects of version 1, with Marker and NextMarker.
    ListsV1,
    /// `list-type=2` is refused: 501 NotImplemented.
    RefusesV2,
    /// A missing key is 403, to HEAD and GET, although listing is allowed (Ceph #68577).
    ForbiddenForMissing,
    /// A GET without `x-amz-checksum-mode` is 400 InvalidRequest.
    WantsChecksumMode,
    /// A GET with `x-amz-checksum-mode` is 501 NotImplemented.
    RefusesChecksumMode,
    /// Answers are HTTP/1.0: the connection is closed after each.
    Http10,
    /// HTTP/1.1, but each connection is closed after one answer.
    ClosesConnections,
    /// Dates in listings have fractions of seconds, and Last-Modified is written as in a listing.
    FractionalDates,
    /// HEAD and GET have no Last-Modified.
    NoLastModified,
    /// HEAD of an object is 405 MethodNotAllowed.
    NoHead,
    /// Answers have no Content-Length: bodies are chunked, or end with the connection in HTTP/1.0
    /// (proxies that compress or recode).
    NoContentLength,
}

impl Quirk {
    pub(crate) const ALL: [Self; 21] = [
        Self::TreeOrder,
        Self::NoOrder,
        Self::NoListETag,
        Self::UnquotedListETag,
        Self::IgnoresConditions,
        Self::RefusesConditions,
        Self::IgnoresRange,
        Self::IgnoresEncodingType,
        Self::RefusesEncodingType,
        Self::IgnoresStartAfter,
        Self::ListsV1,
        Self::RefusesV2,
        Self::ForbiddenForMissing,
        Self::WantsChecksumMode,
        Self::RefusesChecksumMode,
        Self::Http10,
        Self::ClosesConnections,
        Self::FractionalDates,
        Self::NoLastModified,
        Self::NoHead,
        Self::NoContentLength,
    ];

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Those that are switched on.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Quirks(u32);

impl Quirks {
    pub(crate) fn has(self, quirk: Quirk) -> bool {
        self.0 & quirk.bit() != 0
    }
}

/// The set of a running server.
#[derive(Default)]
pub(crate) struct Switches(AtomicU32);

impl Switches {
    pub(crate) fn switch_on(&self, quirk: Quirk) {
        self.0.fetch_or(quirk.bit(), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Quirks {
        Quirks(self.0.load(Ordering::Relaxed))
    }
}
