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
    /// The body is the whole object and not `range` of it, because the server ignored the Range.
    pub(super) whole: bool,
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
            Ok(Extent { size, range, whole: false })
        }
        (None, Some(text)) => Err(format!("asked for the whole object, got {text:?}")),
        (asked, None) => {
            let size = length.ok_or("the answer has no Content-Length")?;
            let range = match asked {
                None => 0..size,
                Some(asked) if asked.start < size => asked.start..asked.end.min(size),
                // It has shrunk, or is empty.
                Some(_) => 0..0,
            };
            Ok(Extent { size, whole: range != (0..size), range })
        }
    }
}

/// `bytes 0-9/100` (RFC 9110, 14.4), as a half-open range and the whole size.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let size = size.parse().ok()?;
    // No file of Linux is larger than an `off_t` can tell.
    (first <= last && last < size && size <= i64::MAX as u64).then(|| (first..last + 1, size))
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
pub(super) fn if_match(pin: &ETag) -> Option<String> {
    (!pin.is_weak()).then(|| pin.to_string())
}

/// A body that has exactly the announced length, or fails.
pub(super) struct ExactBody {
    body: ByteStream,
    key: Arc<str>,
    total: u64,
    left: u64,
}

impl ExactBody {
    pub(super) fn new(body: ByteStream, key: Arc<str>, extent: &Extent) -> Self {
        let total = extent.range.end - extent.range.start;
        Self { body, key, total, left: total }
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
            Some(Ok(chunk)) => match this.left.checked_sub(chunk.len() as u64) {
                Some(left) => {
                    this.left = left;
                    Ok(chunk)
                }
                None => Err(this.error(StoreErrorKind::Corrupt, "the body goes on")),
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
    use proptest::prelude::*;

    use super::*;
    use crate::object::Version;

    #[test]
    fn a_range_must_be_the_one_that_was_asked_for_cut_at_the_end() {
        let part = |range: Range<u64>, size| Ok(Extent { size, range, whole: false });
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
            ("bytes 5-9/18446744073709551615", 5),
            ("bytes 5-9/99999999999999999999", 5),
            ("bytes 5-18446744073709551615/18446744073709551615", 5),
            ("bytes 5-9/100, bytes 20-29/100", 5),
            ("bytes -5/100", 5),
            ("", 5),
        ] {
            assert!(extent(Some(&(5..10)), Some(range), Some(length)).is_err(), "{range}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_head_says_no_extent_is_longer_than_asked_or_beyond_the_object(
            text in prop_oneof![
                "bytes [0-9]{1,20}-[0-9]{1,20}/[0-9*]{1,20}", "[ -~]{0,40}",
                (any::<u64>(), any::<u64>(), any::<u64>())
                    .prop_map(|(first, last, size)| format!("bytes {first}-{last}/{size}")),
            ],
            length in any::<Option<i64>>(), start in 0_u64..200, asked_bytes in 1_u64..200,
            has_range in any::<bool>(), has_content_range in any::<bool>(),
        ) {
            let asked = has_range.then(|| start..start + asked_bytes);
            let content_range = has_content_range.then_some(text.as_str());
            if let Ok(extent) = extent(asked.as_ref(), content_range, length) {
                let Extent { size, range, .. } = extent;
                prop_assert!(size <= i64::MAX as u64 && range.end <= size);
                match asked {
                    Some(asked) => {
                        prop_assert_eq!((range.start, range.end), (asked.start, asked.end.min(size)));
                    }
                    None => prop_assert_eq!(range, 0..size),
                }
            }
        }
    }

    #[test]
    fn the_whole_object_may_come_for_a_range_of_it() {
        let whole = |range: Range<u64>| Ok(Extent { size: 100, range, whole: true });
        assert_eq!(extent(Some(&(0..10)), None, Some(100)), whole(0..10));
        assert_eq!(extent(Some(&(50..120)), None, Some(100)), whole(50..100));
        assert_eq!(extent(Some(&(100..120)), None, Some(100)), whole(0..0), "it has shrunk");
        let same = Extent { size: 4, range: 0..4, whole: false };
        assert_eq!(extent(Some(&(0..10)), None, Some(4)), Ok(same));
        assert!(extent(Some(&(0..10)), None, None).is_err());
    }

    #[test]
    fn a_whole_object_has_a_length_and_no_range() {
        let empty = Extent { size: 0, range: 0..0, whole: false };
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
        assert_eq!(if_match(&ETag::new("a")).as_deref(), Some("\"a\""));
    }

    async fn read(bytes: &'static [u8], total: u64) -> Result<Vec<u8>, StoreError> {
        let extent = Extent { size: total, range: 0..total, whole: false };
        let body = ExactBody::new(ByteStream::from_static(bytes), "k".into(), &extent);
        let chunks: Vec<Bytes> = body.try_collect().await?;
        Ok(chunks.concat())
    }

    #[tokio::test]
    async fn a_body_has_exactly_its_length_or_fails() {
        assert_eq!(read(b"12345", 5).await.unwrap(), b"12345");
        let short = read(b"12345", 8).await.unwrap_err();
        assert_eq!(short.kind(), StoreErrorKind::Unreachable);
        assert!(short.message().contains("the body ended after 5 of 8 bytes"), "{short}");
        assert_eq!(read(b"12345", 3).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    }
}
