//! What a GET's answer must be before anybody believes it. Pure: plain values in and out.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures_util::Stream;

use super::transport::transport;
use crate::error::{StoreError, StoreErrorKind};
use crate::object::ETag;
use crate::store::{Condition, Head};

/// Where the bytes of an answer lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    /// Of the object, in bytes.
    pub(super) size: u64,
    pub(super) range: Range<u64>,
    /// The body goes on after `range`, because the server ignored the Range; the rest is dropped.
    pub(super) longer: bool,
}

/// From what was asked and the answer's Content-Range and Content-Length. Fails with what is wrong.
pub(super) fn extent(
    asked: Option<&Range<u64>>,
    content_range: Option<&str>,
    content_length: Option<i64>,
) -> Result<Extent, String> {
    let length = content_length.and_then(|length| u64::try_from(length).ok());
    match (asked, content_range) {
        (Some(asked), Some(text)) => {
            let (range, size) = parse_content_range(text)
                .ok_or_else(|| format!("Content-Range {text:?} is not understood"))?;
            let expected = asked.start..asked.end.min(size);
            if range != expected {
                return Err(format!("asked for bytes {asked:?}, got {text:?}"));
            }
            if length.is_some_and(|length| length != range.end - range.start) {
                return Err(format!("Content-Range {text:?} does not fit Content-Length"));
            }
            Ok(Extent { size, range, longer: false })
        }
        (None, Some(text)) => Err(format!("asked for the whole object, got {text:?}")),
        (asked, None) => {
            let size = length.ok_or("the answer has no Content-Length")?;
            let range = match asked {
                None => 0..size,
                Some(asked) if asked.start == 0 => 0..asked.end.min(size),
                Some(asked) => {
                    return Err(format!("asked for bytes {asked:?}, got the whole object"));
                }
            };
            Ok(Extent { size, longer: range.end < size, range })
        }
    }
}

/// `bytes 0-9/100` (RFC 9110, 14.4), as a half-open range and the whole size.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let size = size.parse().ok()?;
    (first <= last && last < size).then_some((first..last + 1, size))
}

/// Whether an answer keeps the request's condition; some servers ignore If-Match.
pub(super) fn condition_kept(condition: &Condition, head: &Head) -> Result<(), StoreErrorKind> {
    let etag = head.version.etag.as_ref();
    match condition {
        Condition::Any => Ok(()),
        Condition::Match(pin) => {
            if etag.is_none_or(|etag| etag == pin) {
                Ok(())
            } else {
                Err(StoreErrorKind::Changed)
            }
        }
        Condition::NoneMatch(known) => {
            if etag == Some(known) {
                Err(StoreErrorKind::NotModified)
            } else {
                Ok(())
            }
        }
        Condition::VersionId(id) => {
            let same = head.version_id.as_ref().is_none_or(|got| got == id);
            if same { Ok(()) } else { Err(StoreErrorKind::Changed) }
        }
    }
}

/// What goes into If-Match. A weak tag never matches there (RFC 9110, 13.1.1): then the answer's
/// own tag decides, by [`condition_kept`].
pub(super) fn if_match(pin: &ETag) -> Option<&str> {
    Some(pin.as_str()).filter(|tag| !tag.starts_with("W/"))
}

/// A body that has exactly the announced length, or fails.
pub(super) struct ExactBody {
    body: ByteStream,
    key: Arc<str>,
    total: u64,
    left: u64,
    /// What comes after the announced bytes is dropped rather than an error.
    longer: bool,
}

impl ExactBody {
    pub(super) fn new(body: ByteStream, key: Arc<str>, extent: &Extent) -> Self {
        let total = extent.range.end - extent.range.start;
        Self { body, key, total, left: total, longer: extent.longer }
    }

    fn error(&self, kind: StoreErrorKind, what: &str) -> StoreError {
        let came = self.total - self.left;
        let message =
            format!("GetObject {:?}: {what} after {came} of {} bytes", self.key, self.total);
        StoreError::new(kind, message)
    }
}

impl Stream for ExactBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let chunk = ready!(Pin::new(&mut this.body).poll_next(ctx));
        Poll::Ready(Some(match chunk {
            Some(Ok(mut chunk)) => match this.left.checked_sub(chunk.len() as u64) {
                Some(left) => {
                    this.left = left;
                    Ok(chunk)
                }
                None if this.longer => {
                    // Fits: it is less than the chunk's own length.
                    chunk.truncate(usize::try_from(this.left).unwrap_or(usize::MAX));
                    this.left = 0;
                    Ok(chunk)
                }
                None => Err(this.error(StoreErrorKind::Other, "the body goes on")),
            },
            Some(Err(err)) => {
                let what = format!("the body broke ({})", transport(&err));
                Err(this.error(StoreErrorKind::Unreachable, &what))
            }
            None => Err(this.error(StoreErrorKind::Unreachable, "the body ended")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;
    use crate::object::Version;

    #[test]
    fn a_range_must_be_the_one_that_was_asked_for_cut_at_the_end() {
        let part = |range: Range<u64>, size| Ok(Extent { size, range, longer: false });
        assert_eq!(extent(Some(&(5..10)), Some("bytes 5-9/100"), Some(5)), part(5..10, 100));
        assert_eq!(extent(Some(&(5..10)), Some("bytes 5-7/8"), Some(3)), part(5..8, 8));
        for (range, length) in [
            ("bytes 4-9/100", 6),
            ("bytes 5-10/100", 6),
            ("bytes 5-8/100", 4),
            ("bytes 5-9/100", 4),
            ("bytes 5-9/*", 5),
            ("bytes 9-5/100", 5),
            ("items 5-9/100", 5),
        ] {
            assert!(extent(Some(&(5..10)), Some(range), Some(length)).is_err(), "{range}");
        }
    }

    #[test]
    fn a_server_that_ignores_the_range_is_cut_at_the_start_and_refused_elsewhere() {
        let whole = Extent { size: 100, range: 0..10, longer: true };
        assert_eq!(extent(Some(&(0..10)), None, Some(100)), Ok(whole));
        let short = Extent { size: 4, range: 0..4, longer: false };
        assert_eq!(extent(Some(&(0..10)), None, Some(4)), Ok(short));
        assert!(extent(Some(&(1..10)), None, Some(100)).is_err());
    }

    #[test]
    fn a_whole_object_has_a_length_and_no_range() {
        let empty = Extent { size: 0, range: 0..0, longer: false };
        assert_eq!(extent(None, None, Some(0)), Ok(empty));
        assert!(extent(None, None, None).is_err());
        assert!(extent(None, Some("bytes 0-9/100"), Some(10)).is_err());
    }

    #[test]
    fn an_ignored_condition_is_noticed() {
        let (old, new) = (ETag::new("old"), ETag::new("new"));
        let version = Version { etag: Some(new.clone()), size: 1, modified: 1 };
        let head = Head { version, version_id: Some("v2".into()) };
        let kept = |condition| condition_kept(&condition, &head);
        assert_eq!(kept(Condition::Match(old.clone())), Err(StoreErrorKind::Changed));
        assert_eq!(kept(Condition::Match(new.clone())), Ok(()));
        assert_eq!(kept(Condition::NoneMatch(new)), Err(StoreErrorKind::NotModified));
        assert_eq!(kept(Condition::NoneMatch(old)), Ok(()));
        assert_eq!(kept(Condition::VersionId("v1".into())), Err(StoreErrorKind::Changed));
        assert_eq!(kept(Condition::VersionId("v2".into())), Ok(()));
    }

    #[test]
    fn a_weak_tag_is_not_sent() {
        assert_eq!(if_match(&ETag::new("W/\"a\"")), None);
        assert_eq!(if_match(&ETag::new("a")), Some("\"a\""));
    }

    async fn read(bytes: &'static [u8], total: u64, longer: bool) -> Result<Vec<u8>, StoreError> {
        let extent = Extent { size: total, range: 0..total, longer };
        let body = ExactBody::new(ByteStream::from_static(bytes), "k".into(), &extent);
        let chunks: Vec<Bytes> = body.try_collect().await?;
        Ok(chunks.concat())
    }

    #[tokio::test]
    async fn a_body_has_exactly_its_length_or_fails() {
        assert_eq!(read(b"12345", 5, false).await.unwrap(), b"12345");
        assert_eq!(read(b"12345", 3, true).await.unwrap(), b"123");
        let short = read(b"12345", 8, false).await.unwrap_err();
        assert_eq!(short.kind(), StoreErrorKind::Unreachable);
        assert!(short.message().contains("the body ended after 5 of 8 bytes"), "{short}");
        assert_eq!(read(b"12345", 3, false).await.unwrap_err().kind(), StoreErrorKind::Other);
    }
}
