//! A page of ListObjectsV2 as the SDK gives it, decoded and checked.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use percent_encoding::percent_decode_str;

use crate::object::{ETag, Object, Version};
use crate::store::{ListPage, ListRequest};

/// The page that answers `request`. Fails with what is wrong with it. Keys that lie outside the
/// prefix, or are not UTF-8, are left out; that is said once, through `warned`.
pub(super) fn page(
    request: &ListRequest,
    output: &ListObjectsV2Output,
    warned: &AtomicBool,
) -> Result<ListPage, &'static str> {
    let continuation = continuation(request, output)?;
    let encoded = output.encoding_type() == Some(&EncodingType::Url);
    let mut page = ListPage {
        objects: Vec::with_capacity(output.contents().len()),
        prefixes: Vec::with_capacity(output.common_prefixes().len()),
        continuation,
    };
    let mut n_strange = 0_usize;
    for object in output.contents() {
        let Some(key) = inside(&request.prefix, object.key(), encoded) else {
            n_strange += 1;
            continue;
        };
        let version = Version {
            etag: object.e_tag().map(ETag::new),
            size: object.size().and_then(|size| size.try_into().ok()).unwrap_or(0),
            modified: object.last_modified().map_or(0, aws_sdk_s3::primitives::DateTime::secs),
        };
        page.objects.push(Object { key: key.into(), version });
    }
    for prefix in output.common_prefixes() {
        match inside(&request.prefix, prefix.prefix(), encoded) {
            // The delimiter that we ask for; anything else would not be a directory.
            Some(prefix) if prefix.ends_with('/') => page.prefixes.push(prefix.into_owned()),
            _ => n_strange += 1,
        }
    }
    if n_strange > 0 && !warned.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "the listing of {:?} has {n_strange} keys that are not UTF-8 or not below it: left out",
            request.prefix
        );
    }
    Ok(page)
}

/// The key or prefix as it is in the bucket; `None` where it is not one below `prefix`.
fn inside<'a>(prefix: &str, text: Option<&'a str>, encoded: bool) -> Option<Cow<'a, str>> {
    decoded(text?, encoded).filter(|name| name.starts_with(prefix))
}

/// The token of the next page. A listing must come to an end: a token is there exactly when there
/// is more, and never the same again.
fn continuation(
    request: &ListRequest,
    output: &ListObjectsV2Output,
) -> Result<Option<String>, &'static str> {
    // Not decoded: encoding-type covers keys, prefixes, delimiter and start-after only (API
    // reference, ListObjectsV2).
    let token = output.next_continuation_token().filter(|token| !token.is_empty());
    match (output.is_truncated().unwrap_or(token.is_some()), token) {
        (false, _) => Ok(None),
        (true, None) => Err("the listing goes on, but the page has no continuation token"),
        (true, Some(token)) if request.continuation.as_deref() == Some(token) => {
            Err("the listing does not advance: the same continuation token again")
        }
        (true, Some(token)) => Ok(Some(token.to_owned())),
    }
}

/// `text` as it is in the bucket; `None` where that is not UTF-8. S3 writes a space as `+` and a
/// plus as `%2B`.
fn decoded(text: &str, encoded: bool) -> Option<Cow<'_, str>> {
    if !encoded || !text.contains(['+', '%']) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let bytes: Vec<u8> = percent_decode_str(&spaced).collect();
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::DateTime;
    use aws_sdk_s3::types::{CommonPrefix, Object as Listed};

    use super::*;

    fn list(keys: &[&str], prefixes: &[&str], encoded: bool) -> ListObjectsV2Output {
        let mut output = ListObjectsV2Output::builder();
        for key in keys {
            let modified = DateTime::from_secs_f64(1_700_000_000.75);
            let object = Listed::builder().key(*key).size(5).e_tag("abc").last_modified(modified);
            output = output.contents(object.build());
        }
        for prefix in prefixes {
            output = output.common_prefixes(CommonPrefix::builder().prefix(*prefix).build());
        }
        if encoded { output.encoding_type(EncodingType::Url).build() } else { output.build() }
    }

    fn keys(page: &ListPage) -> Vec<&str> {
        page.objects.iter().map(|object| &*object.key).collect()
    }

    fn check(request: &ListRequest, output: &ListObjectsV2Output) -> ListPage {
        page(request, output, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn plus_percent_space_and_unicode_are_decoded_where_the_answer_is_encoded() {
        let output =
            list(&["a+b", "a%2Bb", "a%20b", "%C3%A4%F0%9F%A6%80", "100%25"], &["d+1/"], true);
        let page = check(&ListRequest::directory(""), &output);
        assert_eq!(keys(&page), ["a b", "a+b", "a b", "\u{e4}\u{1f980}", "100%"]);
        assert_eq!(page.prefixes, ["d 1/"]);
    }

    #[test]
    fn nothing_is_decoded_where_the_answer_does_not_say_so() {
        let output = list(&["a+b", "a%2Bb"], &["d+1/"], false);
        let page = check(&ListRequest::directory(""), &output);
        assert_eq!(keys(&page), ["a+b", "a%2Bb"]);
        assert_eq!(page.prefixes, ["d+1/"]);
    }

    #[test]
    fn a_version_has_quotes_and_whole_seconds() {
        let page = check(&ListRequest::directory(""), &list(&["a"], &[], true));
        let version =
            Version { etag: Some(ETag::new("\"abc\"")), size: 5, modified: 1_700_000_000 };
        assert_eq!(page.objects[0].version, version);
    }

    #[test]
    fn keys_outside_the_prefix_or_not_utf8_are_left_out_with_one_warning() {
        let output = list(&["p/a", "q", "p/%FF"], &["p/d/", "x/", "p/no-slash"], true);
        let warned = AtomicBool::new(false);
        let page = page(&ListRequest::directory("p/"), &output, &warned).unwrap();
        assert_eq!(keys(&page), ["p/a"]);
        assert_eq!(page.prefixes, ["p/d/"]);
        assert!(warned.into_inner());
    }

    #[test]
    fn a_listing_must_advance() {
        let truncated = |token: Option<&str>| {
            ListObjectsV2Output::builder()
                .is_truncated(true)
                .set_next_continuation_token(token.map(str::to_owned))
                .build()
        };
        let warned = AtomicBool::new(false);
        let first = ListRequest::directory("");
        let second = ListRequest { continuation: Some("t+1".to_owned()), ..first.clone() };
        assert!(page(&first, &truncated(None), &warned).is_err());
        assert!(page(&second, &truncated(Some("t+1")), &warned).is_err());
        let next = page(&second, &truncated(Some("t%2B2")), &warned).unwrap().continuation;
        assert_eq!(next.as_deref(), Some("t%2B2"), "a token is not decoded");
    }

    #[test]
    fn the_last_page_has_no_token_whatever_it_carries() {
        let output =
            ListObjectsV2Output::builder().is_truncated(false).next_continuation_token("t");
        assert_eq!(check(&ListRequest::directory(""), &output.build()).continuation, None);
    }
}
