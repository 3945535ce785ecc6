//! Servers that are not quite S3, by canned answers: what is asked, how often, and what is believed.

use super::server::{CUT, Seen, Server, answer};
use super::*;
use crate::store::aws::quirks::Quirk;

fn ranged(range: std::ops::Range<u64>, condition: Condition) -> GetRequest {
    GetRequest { range: Some(range), condition, ..whole("k") }
}

fn lines(server: &Server) -> Vec<String> {
    server.seen().into_iter().map(|seen| seen.line).collect()
}

#[tokio::test]
async fn what_is_refused_is_left_out_from_then_on() {
    let server = Server::start(|seen| {
        if seen.header("x-amz-checksum-mode") != "ENABLED" {
            return refusal(400, "", "InvalidRequest", "");
        }
        match seen.header("if-match") {
            "" => answer(206, &format!("{ETAG}content-range: bytes 2-4/10\r\n"), "cde"),
            _ => refusal(501, "", "NotImplemented", ""),
        }
    })
    .await;
    let store = store(&server).await;
    let pinned = || ranged(2..5, Condition::Match(ETag::new("e")));
    assert_eq!(bytes(store.get(pinned()).await.unwrap()).await.unwrap(), b"cde");
    assert_eq!(server.seen().len(), 4, "as S3 wants it, without either, without both");
    assert_eq!(bytes(store.get(pinned()).await.unwrap()).await.unwrap(), b"cde");
    assert_eq!(server.seen().len(), 5, "and then as it was understood");
    let other = ranged(2..5, Condition::Match(ETag::new("other")));
    let err = store.get(other).await.map(drop).unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Changed, "kept here: {err}");
}

#[tokio::test]
async fn the_question_for_a_checksum_is_left_out_where_it_is_refused() {
    let server = Server::start(|seen| match seen.header("x-amz-checksum-mode") {
        "" => answer(200, ETAG, "abc"),
        _ => refusal(501, "", "NotImplemented", ""),
    })
    .await;
    let store = store(&server).await;
    for n_seen in [2, 3] {
        assert_eq!(bytes(store.get(whole("k")).await.unwrap()).await.unwrap(), b"abc");
        assert_eq!(server.seen().len(), n_seen);
    }
}

#[tokio::test]
async fn a_refusal_of_what_was_understood_before_is_not_looked_into() {
    let server = Server::start(|seen| match &*seen.line {
        line if line.contains("/refused") => refusal(400, "", "InvalidRequest", ""),
        line if line.starts_with("HEAD") => answer(200, ETAG, ""),
        line if line.contains("list-type=2") => listing(""),
        _ => answer(206, &format!("{ETAG}content-range: bytes 2-4/10\r\n"), "cde"),
    })
    .await;
    let store = store(&server).await;
    let pinned = |key: &str| GetRequest {
        key: key.into(),
        ..ranged(2..5, Condition::Match(ETag::new("e")))
    };
    let refused = || async {
        let err = store.get(pinned("refused")).await.map(drop).unwrap_err();
        (err.kind(), err.status())
    };
    let as_said = (StoreErrorKind::Other, Some(400));
    assert_eq!(refused().await, as_said);
    assert_eq!(server.seen().len(), 4, "each suspicion alone, and both");
    assert_eq!(store.quirks.known(), Default::default(), "nothing was proven");
    store.get(pinned("k")).await.unwrap();
    assert_eq!(refused().await, as_said);
    assert_eq!(server.seen().len(), 6, "the server knows conditions, and wants no checksum");
}

#[tokio::test]
async fn an_error_that_is_no_refusal_is_passed_on_at_once() {
    for (status, code) in [(400, "KeyTooLongError"), (404, "NoSuchBucket"), (503, "SlowDown")] {
        let server = Server::start(move |_| refusal(status, "", code, "")).await;
        store(&server).await.list(ListRequest::directory("")).await.unwrap_err();
        assert_eq!(server.seen().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn start_after_is_left_out_where_it_is_refused_and_kept_here() {
    let server = Server::start(|seen| {
        if seen.line.contains("start-after") {
            return refusal(400, "", "InvalidArgument", "");
        }
        let key = |key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
        listing(&format!("{}{}{}", key("a"), key("b"), key("c")))
    })
    .await;
    let store = store(&server).await;
    let request = ListRequest { start_after: Some("a".to_owned()), ..ListRequest::directory("") };
    for n_seen in [2, 3] {
        let page = store.list(request.clone()).await.unwrap();
        let keys: Vec<_> = page.objects.iter().map(|object| &*object.key).collect();
        assert_eq!(keys, ["b", "c"]);
        assert!(!store.quirks.has(Quirk::NoV2));
        assert_eq!(server.seen().len(), n_seen, "{:?}", lines(&server));
    }
}

#[tokio::test]
async fn a_listing_goes_on_in_the_version_it_began_in() {
    let page = |seen: &Seen| {
        let old = !seen.line.contains("list-type=2");
        let (key, more) =
            if seen.line.contains("marker=a%2Bb") { ("c", "false") } else { ("a+b", "true") };
        let body = format!(
            "<ListBucketResult><Marker></Marker><IsTruncated>{more}</IsTruncated>\
             <Contents><Key>{key}</Key><Size>1</Size></Contents></ListBucketResult>"
        );
        if old { answer(200, "", &body) } else { refusal(501, "", "NotImplemented", "") }
    };
    let server = Server::start(page).await;
    let store = store(&server).await;
    let first = store.list(ListRequest::directory("")).await.unwrap();
    let second =
        ListRequest { continuation: first.continuation.clone(), ..ListRequest::directory("") };
    let second = store.list(second).await.unwrap();
    assert_eq!((&*first.objects[0].key, &*second.objects[0].key), ("a+b", "c"), "not decoded");
    assert_eq!(second.continuation, None);
    assert_eq!(lines(&server).len(), 3, "{:?}", lines(&server));
}

/// A body in one chunk, and no length.
fn chunked(headers: &str, body: &str) -> Option<Vec<u8>> {
    let chunk = match body.len() {
        0 => String::new(),
        len => format!("{len:x}\r\n{body}\r\n"),
    };
    let head = format!("HTTP/1.1 200 X\r\n{headers}transfer-encoding: chunked\r\n\r\n");
    Some(format!("{head}{chunk}0\r\n\r\n").into_bytes())
}

#[tokio::test]
async fn without_a_length_the_size_comes_from_a_range_and_a_cut_is_noticed() {
    let server = Server::start(|seen| {
        let is_empty = seen.line.contains("/empty");
        match (seen.header("range"), is_empty) {
            ("", true) => chunked(ETAG, ""),
            ("", false) => chunked(ETAG, "abc"),
            (_, true) => refusal(416, "", "InvalidRange", ""),
            (range, false) => {
                assert_eq!(range, "bytes=0-");
                // What HTTP/1.0 makes of a connection that broke: the body ends too early.
                let body = if seen.line.contains("/cut") { "ab" } else { "abc" };
                let head = "HTTP/1.0 206 X\r\ncontent-range: bytes 0-2/3\r\n";
                Some([format!("{head}{ETAG}\r\n{body}").as_bytes(), CUT].concat())
            }
        }
    })
    .await;
    let store = store(&server).await;
    assert_eq!(bytes(store.get(whole("k")).await.unwrap()).await.unwrap(), b"abc");
    assert_eq!(server.seen().len(), 2);
    assert_eq!(bytes(store.get(whole("k")).await.unwrap()).await.unwrap(), b"abc");
    assert_eq!(server.seen().len(), 3, "by a range from the start");
    let empty = store.get(whole("empty")).await.unwrap();
    assert_eq!(
        (empty.head.version.size, empty.head.version.etag.clone()),
        (0, Some(ETag::new("e")))
    );
    assert_eq!(bytes(empty).await.unwrap(), b"");
    let err = bytes(store.get(whole("cut")).await.unwrap()).await.unwrap_err();
    assert_eq!(err.kind(), StoreErrorKind::Unreachable, "{err}");
}

#[tokio::test]
async fn a_server_that_tells_no_length_and_knows_no_range_is_an_error() {
    let server = Server::start(|_| chunked(ETAG, "abc")).await;
    let err = store(&server).await.get(whole("k")).await.map(drop).unwrap_err();
    assert!(err.message().ends_with("the answer has no Content-Length"), "{err}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_403_means_missing_only_where_a_listing_says_so() {
    let there = "<Contents><Key>there</Key><Size>1</Size></Contents>";
    let server = Server::start(move |seen| match seen.line.contains("list-type=2") {
        true if seen.line.contains("prefix=unlisted") => refusal(403, "", "AccessDenied", ""),
        true if seen.line.contains("prefix=there") => listing(there),
        true => listing(""),
        false => refusal(403, "", "AccessDenied", ""),
    })
    .await;
    let store = store(&server).await;
    for (key, kind) in [
        ("there", StoreErrorKind::Denied),
        ("unlisted", StoreErrorKind::Denied),
        ("gone", StoreErrorKind::NotFound),
    ] {
        let err = store.get(whole(key)).await.map(drop).unwrap_err();
        assert_eq!(err.kind(), kind, "{key}: {err}");
        assert_eq!(store.head(key).await.unwrap_err().kind(), kind, "{key}");
    }
}

#[tokio::test]
async fn a_403_is_not_looked_into_where_missing_is_404() {
    let server = Server::start(|seen| match seen.line.contains("/missing") {
        true => refusal(404, "", "NoSuchKey", ""),
        false => refusal(403, "", "AccessDenied", ""),
    })
    .await;
    let store = store(&server).await;
    store.get(whole("missing")).await.map(drop).unwrap_err();
    store.get(whole("denied")).await.map(drop).unwrap_err();
    assert_eq!(server.seen().len(), 2);
}
