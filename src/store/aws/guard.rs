//! What no answer may be, whatever it answers: looked at before the SDK reads it. A server may
//! say anything, and what it says must not fill the memory, choose a host, or pass for something
//! that was not asked.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeDeserializationInterceptorContextRef,
    BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// An error document of S3 has less than 1 KiB, an error page of a proxy some more; the SDK would
/// collect whatever comes. What is cut off is not read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// An ETag has some 40 bytes, a version id at most 1,024 (API reference, "Version ID"); both are sent
/// back, and are kept for each object.
const TAG_BYTES_MAX: usize = 1024;

/// A label of a host name (RFC 1035, 2.3.4), which is what a region becomes.
const LABEL_BYTES_MAX: usize = 63;

/// What is wrong with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(pub(super) &'static str);

/// Looks at the head of every answer, and cuts the body of an error.
#[derive(Debug)]
pub(super) struct Guard;

impl Intercept for Guard {
    fn name(&self) -> &'static str {
        "Guard"
    }

    fn read_before_transmit(
        &self,
        ctx: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = ctx.request().headers();
        bag.interceptor_state().store_put(Asked {
            range: headers.contains_key("range"),
            condition: headers.contains_key("if-match") || headers.contains_key("if-none-match"),
            if_none_match: headers.contains_key("if-none-match"),
        });
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        ctx: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let asked = bag.load::<Asked>().copied().unwrap_or_default();
        let answer = ctx.response();
        let headers = answer.headers();
        check_status(answer.status().as_u16(), &asked, headers.contains_key("content-range"))?;
        for name in ["etag", "x-amz-version-id"] {
            if headers.get(name).is_some_and(|tag| !tag.is_empty() && !is_usable_tag(tag)) {
                return Err(Broken("its ETag or version id is none that can be sent back").into());
            }
        }
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        ctx: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = ctx.response_mut();
        if !answer.status().is_success() {
            let body = std::mem::replace(answer.body_mut(), SdkBody::empty());
            *answer.body_mut() = SdkBody::from_body_1_x(Cut { body, left: ERROR_BYTES_MAX });
        }
        Ok(())
    }
}

/// What a request said, as far as it decides which answers there are.
#[derive(Clone, Copy, Default, Debug)]
struct Asked {
    range: bool,
    /// If-Match or If-None-Match.
    condition: bool,
    if_none_match: bool,
}

impl Storable for Asked {
    type Storer = StoreReplace<Self>;
}

/// Whether the status is one that answers the request. A part has its place in Content-Range, and
/// nothing else has: several parts (multipart/byteranges) come without.
fn check_status(status: u16, asked: &Asked, content_range: bool) -> Result<(), Broken> {
    match status {
        200 if content_range => Err(Broken("it is said to be whole, but has a Content-Range")),
        206 if !asked.range => Err(Broken("it is a part, and the whole was asked for")),
        206 if !content_range => Err(Broken("it is a part without a Content-Range")),
        200 | 206 => Ok(()),
        201..=299 => Err(Broken("its status is none that a read has")),
        304 if !asked.if_none_match => Err(Broken("304 without having been asked")),
        412 if !asked.condition => Err(Broken("412 without having been asked")),
        416 if !asked.range => Err(Broken("416 without having been asked")),
        _ => Ok(()),
    }
}

/// Whether an ETag or a version id can go into a header of ours.
pub(super) fn is_usable_tag(tag: &str) -> bool {
    tag.len() <= TAG_BYTES_MAX && tag.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The region that an answer names, where it can be one: it becomes part of the host name that the
/// next request goes to. Stricter than `--region`: one label.
pub(super) fn region_name(text: &str) -> Option<String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let fits = (1..=LABEL_BYTES_MAX).contains(&text.len()) && text.bytes().all(good);
    (fits && !text.starts_with('-')).then(|| text.to_owned())
}

/// The first bytes of a body. It ends where they end.
struct Cut {
    body: SdkBody,
    left: usize,
}

impl Body for Cut {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(ctx));
        Poll::Ready(frame.map(|frame| {
            Ok(frame?.map_data(|mut bytes| {
                bytes.truncate(this.left);
                this.left -= bytes.len();
                bytes
            }))
        }))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_must_answer_what_was_asked() {
        let none = Asked::default();
        let range = Asked { range: true, ..none };
        let if_match = Asked { condition: true, ..none };
        let if_none_match = Asked { if_none_match: true, ..if_match };
        for (status, asked, content_range, good) in [
            (200, none, false, true),
            (200, range, false, true),
            (200, range, true, false),
            (206, range, true, true),
            (206, range, false, false),
            (206, none, true, false),
            (204, none, false, false),
            (299, none, false, false),
            (304, if_none_match, false, true),
            (304, if_match, false, false),
            (412, if_match, false, true),
            (412, none, false, false),
            (416, range, true, true),
            (416, none, true, false),
            (404, none, false, true),
            (301, none, false, true),
        ] {
            let checked = check_status(status, &asked, content_range);
            assert_eq!(checked.is_ok(), good, "{status} {asked:?} {content_range}");
        }
    }

    #[test]
    fn a_region_is_one_label_of_a_host_name() {
        for good in ["us-east-1", "garage", "eu_1", "a"] {
            assert_eq!(region_name(good).as_deref(), Some(good));
        }
        let long = "a".repeat(64);
        for bad in ["", "a.b", "evil.example/", "a\nb", "../x", "a@b", "a:1", "-a", "\u{e4}", &long]
        {
            assert_eq!(region_name(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn an_error_is_read_so_far_and_no_further() {
        let body = SdkBody::from(vec![b'x'; 1000]);
        let cut = SdkBody::from_body_1_x(Cut { body, left: 100 });
        let read = aws_sdk_s3::primitives::ByteStream::new(cut).collect().await.unwrap();
        assert_eq!(read.into_bytes().len(), 100);
    }

    proptest! {
        #[test]
        fn what_is_a_region_cannot_leave_its_label(text in "\\PC{0,70}") {
            if let Some(region) = region_name(&text) {
                prop_assert!(region == text && !text.contains(['.', '/', ':', '@', '?', '#', '\\']));
            }
        }
    }
}
