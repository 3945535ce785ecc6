//! A page of a listing, decoded and checked. Pure.
//!
//! A token of version 1 is a key, its marker. For the layers above it is as opaque as those of
//! version 2, and it says itself what it is: one listing goes on in the version it began in.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use memchr::memchr2;
use percent_encoding::percent_decode_str;

use super::document::{Document, Listed, ListedTag};
use super::quirks::{Known, Quirk};
use crate::object::{Object, Version};
use crate::store::{ListPage, ListRequest};

/// What a token of version 1 begins with; no server's own begins so.
const MARKER: &str = "marker\0";

/// Where a listing goes on.
pub(super) enum Start<'a> {
    /// At its beginning.
    First,
    Token(&'a str),
    Marker(&'a str),
}

impl<'a> Start<'a> {
    pub(super) fn of(request: &'a ListRequest) -> Self {
        match request.continuation.as_deref() {
            None => Self::First,
            Some(token) => token.strip_prefix(MARKER).map_or(Self::Token(token), Self::Marker),
        }
    }
}

/// How the server differs from S3, as far as its answer to a request that was sent as for `known`
/// shows it.
pub(super) fn differences(
    request: &ListRequest,
    known: Known,
    document: &Document<'_>,
) -> Vec<Quirk> {
    let tags = || document.objects.iter().map(|listed| &listed.tag);
    let is_empty = document.objects.is_empty() && document.prefixes.is_empty();
    let newer = match Start::of(request) {
        Start::First => !known.has(Quirk::NoV2),
        Start::Token(_) => true,
        Start::Marker(_) => false,
    };
    let ignores_v2 = newer && document.marker.is_some() && document.continuation.is_none();
    let after = request.start_after.as_deref().filter(|_| request.continuation.is_none());
    let ignores_start = |after: &str| {
        let keys = document.objects.iter().filter_map(|listed| listed.key.as_deref());
        let prefixes = document.prefixes.iter().map(|prefix| &**prefix);
        let decoded = |name| decoded(name, document.encoded);
        keys.chain(prefixes).filter_map(decoded).any(|name| *name <= *after)
    };
    let asked_after = newer && !ignores_v2 && !known.no_start_after();
    let found = [
        (
            Quirk::ListsNoETags,
            !document.objects.is_empty() && tags().all(|tag| *tag == ListedTag::None),
        ),
        (Quirk::UnquotedETags, tags().any(|tag| matches!(tag, ListedTag::Bare(_)))),
        (
            Quirk::IgnoresEncodingType,
            !known.has(Quirk::RefusesEncodingType) && !document.encoded && !is_empty,
        ),
        (Quirk::NoV2, ignores_v2),
        (Quirk::IgnoresStartAfter, asked_after && after.is_some_and(ignores_start)),
    ];
    found.into_iter().filter(|(_, found)| *found).map(|(quirk, _)| quirk).collect()
}

/// S3's own bound. A key below a prefix that was asked for has the prefix and more.
const KEY_BYTES_MAX: usize = 1024;

/// The page that answers `request`. Fails with what is wrong with it: a page with a key outside the
/// prefix answers another question, and nobody knows what of the right answer it lacks. Keys that are
/// not UTF-8 are left out; that is said once, through `warned`.
pub(super) fn page(
    request: &ListRequest,
    document: Document<'_>,
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
    for Listed { key, tag, size, modified } in objects {
        let key = key.as_deref().ok_or("the listing has an entry without a key")?;
        let Some(key) = decoded(key, encoded) else {
            n_strange += 1;
            continue;
        };
        check_inside(&request.prefix, &key)?;
        let etag = match tag {
            ListedTag::Quoted(etag) | ListedTag::Bare(etag) => Some(etag),
            ListedTag::None | ListedTag::Unusable => None,
        };
        let version = Version { etag, size, modified };
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
    // Some servers ignore start-after, and all do where they go by tokens instead.
    if let Some(after) = &request.start_after {
        page.objects.retain(|object| *object.key > **after);
        page.prefixes.retain(|prefix| prefix > after);
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
    document: &Document<'_>,
) -> Result<Option<String>, &'static str> {
    // Not decoded: encoding-type covers keys, prefixes, delimiter and start-after only (API
    // reference, ListObjectsV2).
    let token = document.continuation.as_deref().filter(|token| !token.is_empty());
    let marker = match (token, &document.marker) {
        (None, Some(_)) if document.is_truncated == Some(true) => Some(next_marker(document)?),
        _ => None,
    };
    let token = marker.as_deref().or(token);
    match (document.is_truncated.unwrap_or(token.is_some()), token) {
        (false, _) => Ok(None),
        (true, None) => Err("the listing goes on, but the page has no continuation token"),
        (true, Some(token)) if request.continuation.as_deref() == Some(token) => {
            Err("the listing does not advance: the same continuation token again")
        }
        (true, Some(token)) => Ok(Some(token.to_owned())),
    }
}

/// Where version 1 goes on: where the page says so, else after its last item (API reference,
/// ListObjects, NextMarker).
fn next_marker(document: &Document<'_>) -> Result<String, &'static str> {
    let last = || {
        let key = document.objects.last().and_then(|listed| listed.key.as_deref());
        let prefix = document.prefixes.last().map(|prefix| &**prefix);
        key.max(prefix)
    };
    let next = document.next_marker.as_deref().filter(|next| !next.is_empty()).or_else(last);
    let next = next.and_then(|next| decoded(next, document.encoded));
    let next = next.ok_or("the listing goes on, but the page does not say where")?;
    Ok(format!("{MARKER}{next}"))
}

/// `text` as it is in the bucket; `None` where that is not UTF-8. S3 writes a space as `+` and a
/// plus as `%2B`.
fn decoded(text: &str, encoded: bool) -> Option<Cow<'_, str>> {
    if !encoded || memchr2(b'+', b'%', text.as_bytes()).is_none() {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let bytes: Vec<u8> = percent_decode_str(&spaced).collect();
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::object::ETag;

    fn list<'a>(keys: &[&'a str], prefixes: &[&'a str], encoded: bool) -> Document<'a> {
        let listed = |key: &&'a str| Listed {
            key: Some((*key).into()),
            tag: ListedTag::read("abc"),
            size: 5,
            modified: 1_700_000_000,
        };
        Document {
            encoded,
            objects: keys.iter().map(listed).collect(),
            prefixes: prefixes.iter().map(|prefix| (*prefix).into()).collect(),
            ..Document::default()
        }
    }

    fn keys(page: &ListPage) -> Vec<&str> {
        page.objects.iter().map(|object| &*object.key).collect()
    }

    fn check(request: &ListRequest, document: Document<'_>) -> ListPage {
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
            document.objects[0].tag = ListedTag::read(tag);
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
        let truncated = |token: Option<&'static str>| Document {
            is_truncated: Some(true),
            continuation: token.map(Into::into),
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
    fn version_1_goes_on_after_its_marker_else_after_its_last_item() {
        let next = |next: Option<&str>, keys: &[&str], prefixes: &[&str]| {
            let document = Document {
                is_truncated: Some(true),
                marker: Some("".into()),
                next_marker: next.map(Into::into),
                ..list(keys, prefixes, true)
            };
            let request = ListRequest {
                continuation: check(&ListRequest::directory(""), document).continuation,
                ..ListRequest::directory("")
            };
            match Start::of(&request) {
                Start::Marker(marker) => marker.to_owned(),
                Start::First | Start::Token(_) => panic!("{request:?}"),
            }
        };
        assert_eq!(next(Some("a+b%2B"), &["z"], &[]), "a b+", "it is encoded as keys are");
        assert_eq!(next(None, &["a", "c+d"], &["b/"]), "c d");
        assert_eq!(next(None, &["a"], &["b/"]), "b/");
        let lost =
            Document { is_truncated: Some(true), marker: Some("".into()), ..list(&[], &[], true) };
        let warned = AtomicBool::new(false);
        assert!(page(&ListRequest::directory(""), lost, &warned).is_err());
    }

    #[test]
    fn what_lies_before_the_start_is_left_out_whatever_the_server_does() {
        let request =
            ListRequest { start_after: Some("b".to_owned()), ..ListRequest::directory("") };
        let document = || list(&["a", "b", "b%2B", "c"], &["a/", "d/"], true);
        let found = check(&request, document());
        assert_eq!((keys(&found), found.prefixes.clone()), (vec!["b+", "c"], vec!["d/".into()]));
        let known = Known::default();
        assert_eq!(
            differences(&request, known, &document()),
            [Quirk::UnquotedETags, Quirk::IgnoresStartAfter]
        );
        let known = known.with(Quirk::IgnoresStartAfter);
        assert_eq!(differences(&request, known, &document()), [Quirk::UnquotedETags]);
    }

    #[test]
    fn a_page_shows_how_its_server_differs() {
        let found = |document: &Document<'_>| {
            differences(&ListRequest::directory(""), Known::default(), document)
        };
        let s3 = |etag: Option<&str>| {
            let mut document = list(&["a"], &["b/"], true);
            document.objects[0].tag = etag.map(ListedTag::read).unwrap_or_default();
            document
        };
        assert_eq!(found(&s3(Some("\"e\""))), []);
        assert_eq!(found(&s3(None)), [Quirk::ListsNoETags]);
        assert_eq!(found(&s3(Some("e"))), [Quirk::UnquotedETags]);
        assert_eq!(found(&Document::default()), [], "nothing to see");
        let plain = Document { encoded: false, ..s3(Some("\"e\"")) };
        assert_eq!(found(&plain), [Quirk::IgnoresEncodingType]);
        let older = Document { marker: Some("".into()), ..s3(Some("\"e\"")) };
        assert_eq!(found(&older), [Quirk::NoV2]);
    }

    #[test]
    fn the_last_page_has_no_token_whatever_it_carries() {
        let last = Document {
            is_truncated: Some(false),
            continuation: Some("t".into()),
            ..Document::default()
        };
        assert_eq!(check(&ListRequest::directory(""), last).continuation, None);
    }
}
