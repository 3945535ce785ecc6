//! A page of ListObjectsV2, decoded and checked. Pure.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use percent_encoding::percent_decode_str;

use super::document::Document;
use super::guard::is_usable_tag;
use crate::object::{ETag, Object, Version};
use crate::store::{ListPage, ListRequest};

/// S3's own bound. A key below a prefix that was asked for has the prefix and more.
const KEY_BYTES_MAX: usize = 1024;

/// The page that answers `request`. Fails with what is wrong with it: a page with a key outside the
/// prefix answers another question, and nobody knows what of the right answer it lacks. Keys that are
/// not UTF-8 are left out; that is said once, through `warned`.
pub(super) fn page(
    request: &ListRequest,
    document: Document,
    warned: &AtomicBool,
) -> Result<ListPage, &'static str> {
    let continuation = continuation(request, &document)?;
    let Document { encoded, objects, prefixes, .. } = document;
    let mut page = ListPage {
        objects: Vec::with_capacity(objects.len()),
        prefixes: Vec::with_capacity(prefixes.len()),
        continuation,
    };
    let mut n_strange = 0_usize;
    for listed in &objects {
        let key = listed.key.as_deref().ok_or("the listing has an entry without a key")?;
        let Some(key) = decoded(key, encoded) else {
            n_strange += 1;
            continue;
        };
        check_inside(&request.prefix, &key)?;
        // One that could not be sent back is left out; the first GET then tells what it is.
        let etag = listed.etag.as_deref().filter(|tag| !tag.is_empty() && is_usable_tag(tag));
        let etag = etag.map(ETag::new);
        let version = Version { etag, size: listed.size, modified: listed.modified };
        page.objects.push(Object { key: key.into(), version });
    }
    for prefix in &prefixes {
        let Some(prefix) = decoded(prefix, encoded) else {
            n_strange += 1;
            continue;
        };
        check_inside(&request.prefix, &prefix)?;
        if !prefix.ends_with('/') {
            return Err("the listing has a common prefix that does not end in the delimiter");
        }
        page.prefixes.push(prefix.into_owned());
    }
    if n_strange > 0 && !warned.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "the listing of {:?} has {n_strange} keys that are not UTF-8: left out",
            request.prefix
        );
    }
    Ok(page)
}

fn check_inside(prefix: &str, name: &str) -> Result<(), &'static str> {
    if !name.starts_with(prefix) {
        return Err("the listing has keys that do not begin with what was asked for");
    }
    if name.len() > KEY_BYTES_MAX {
        return Err("the listing has a key that is longer than keys can be");
    }
    Ok(())
}

/// The token of the next page. A listing must come to an end: a token is there exactly when there
/// is more, and never the same again.
fn continuation(
    request: &ListRequest,
    document: &Document,
) -> Result<Option<String>, &'static str> {
    // Not decoded: encoding-type covers keys, prefixes, delimiter and start-after only (API
    // reference, ListObjectsV2).
    let token = document.continuation.as_deref().filter(|token| !token.is_empty());
    match (document.is_truncated.unwrap_or(token.is_some()), token) {
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
    use proptest::prelude::*;

    use super::super::document::Listed;
    use super::*;

    fn list(keys: &[&str], prefixes: &[&str], encoded: bool) -> Document {
        let listed = |key: &&str| Listed {
            key: Some((*key).to_owned()),
            etag: Some("abc".to_owned()),
            size: 5,
            modified: 1_700_000_000,
        };
        Document {
            encoded,
            objects: keys.iter().map(listed).collect(),
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
            ..Document::default()
        }
    }

    fn keys(page: &ListPage) -> Vec<&str> {
        page.objects.iter().map(|object| &*object.key).collect()
    }

    fn check(request: &ListRequest, document: Document) -> ListPage {
        page(request, document, &AtomicBool::new(false)).unwrap()
    }

    #[test]
    fn plus_percent_space_and_unicode_are_decoded_where_the_answer_is_encoded() {
        let output =
            list(&["a+b", "a%2Bb", "a%20b", "%C3%A4%F0%9F%A6%80", "100%25"], &["d+1/"], true);
        let page = check(&ListRequest::directory(""), output);
        assert_eq!(keys(&page), ["a b", "a+b", "a b", "\u{e4}\u{1f980}", "100%"]);
        assert_eq!(page.prefixes, ["d 1/"]);
    }

    #[test]
    fn nothing_is_decoded_where_the_answer_does_not_say_so() {
        let output = list(&["a+b", "a%2Bb"], &["d+1/"], false);
        let page = check(&ListRequest::directory(""), output);
        assert_eq!(keys(&page), ["a+b", "a%2Bb"]);
        assert_eq!(page.prefixes, ["d+1/"]);
    }

    #[test]
    fn an_etag_without_quotes_gets_them() {
        let page = check(&ListRequest::directory(""), list(&["a"], &[], true));
        let version =
            Version { etag: Some(ETag::new("\"abc\"")), size: 5, modified: 1_700_000_000 };
        assert_eq!(page.objects[0].version, version);
    }

    #[test]
    fn keys_that_are_not_utf8_are_left_out_with_one_warning() {
        let output = list(&["p/a", "p/%FF"], &["p/d/", "p/%FE/"], true);
        let warned = AtomicBool::new(false);
        let page = page(&ListRequest::directory("p/"), output, &warned).unwrap();
        assert_eq!(keys(&page), ["p/a"]);
        assert_eq!(page.prefixes, ["p/d/"]);
        assert!(warned.into_inner());
    }

    #[test]
    fn a_page_with_anything_outside_the_prefix_is_none() {
        let long = format!("p/{}", "x".repeat(1024));
        for (keys, prefixes) in [
            (vec!["p/a", "q"], vec![]),
            (vec!["p/a", ""], vec![]),
            (vec!["p/a", "P/a"], vec![]),
            (vec!["p/a", &long], vec![]),
            (vec!["p/a"], vec!["x/"]),
            (vec!["p/a"], vec!["p/no-slash"]),
        ] {
            let output = list(&keys, &prefixes, true);
            let page = page(&ListRequest::directory("p/"), output, &AtomicBool::new(false));
            assert!(page.is_err(), "{keys:?} {prefixes:?}");
        }
    }

    #[test]
    fn an_etag_that_cannot_be_sent_back_is_left_out() {
        let long = "e".repeat(2000);
        for tag in ["a\nb", "a\u{1b}b", "\u{e4}", &long] {
            let mut document = list(&["a"], &[], true);
            document.objects[0].etag = Some(tag.to_owned());
            let page = check(&ListRequest::directory(""), document);
            assert_eq!(page.objects[0].version.etag, None, "{tag:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_page_holds_its_keys_lie_below_the_prefix(
            keys in prop::collection::vec("(p/)?[a./%0-9A-F+]{0,6}", 0..4),
            prefixes in prop::collection::vec("(p/)?[a./%0-9A-F+]{0,6}/?", 0..4),
            encoded in any::<bool>(),
        ) {
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            let prefixes: Vec<_> = prefixes.iter().map(String::as_str).collect();
            let document = list(&keys, &prefixes, encoded);
            let request = ListRequest::directory("p/");
            if let Ok(page) = page(&request, document, &AtomicBool::new(false)) {
                prop_assert!(page.objects.iter().all(|object| object.key.starts_with("p/")));
                let whole = |prefix: &String| prefix.starts_with("p/") && prefix.ends_with('/');
                prop_assert!(page.prefixes.iter().all(whole));
            }
        }
    }

    #[test]
    fn a_listing_must_advance() {
        let truncated = |token: Option<&str>| Document {
            is_truncated: Some(true),
            continuation: token.map(str::to_owned),
            ..Document::default()
        };
        let warned = AtomicBool::new(false);
        let first = ListRequest::directory("");
        let second = ListRequest { continuation: Some("t+1".to_owned()), ..first.clone() };
        assert!(page(&first, truncated(None), &warned).is_err());
        assert!(page(&second, truncated(Some("t+1")), &warned).is_err());
        let next = page(&second, truncated(Some("t%2B2")), &warned).unwrap().continuation;
        assert_eq!(next.as_deref(), Some("t%2B2"), "a token is not decoded");
    }

    #[test]
    fn the_last_page_has_no_token_whatever_it_carries() {
        let last = Document {
            is_truncated: Some(false),
            continuation: Some("t".to_owned()),
            ..Document::default()
        };
        assert_eq!(check(&ListRequest::directory(""), last).continuation, None);
    }
}
