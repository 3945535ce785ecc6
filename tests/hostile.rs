//! A server, or whoever sits between, that answers a listing with anything, or any request with a head
//! that is none: an error, bounded in memory and time; never a loop, a part of a listing shown as the
//! whole, or a name outside the mount.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::hostile::{Answer, OBJECT_HEADERS, Piece, Request, contents, more, page};
use crate::support::mounted::{sleep, wait_until};
use crate::support::stage::{MIB, OPEN_END, RESIDENT_MAX, Stage, case_of, names, row, words};

/// A page of a listing that has no end is EIO after 8 MiB.
#[test]
fn a_page_is_bounded_in_bytes_and_entries() {
    let endless = |start: &str, again: &str| {
        let again = again.repeat((64 << 10) / again.len());
        Some(Answer::raw(format!("{OPEN_END}<ListBucketResult>{start}")).endless(again))
    };
    let cases = words(
        "entries prefixes element attribute text key comment instruction cdata depth \
         closing blank chunks",
    );
    let stage = Stage::new(&cases, move |request| match case_of(request)? {
        "entries" => endless("", &contents("entries/a", 1)),
        "prefixes" => endless("", "<CommonPrefixes><Prefix>prefixes/a/</Prefix></CommonPrefixes>"),
        "element" => endless("<", "a"),
        "attribute" => endless("<a b=\"", "c"),
        "text" => endless("", "text"),
        "key" => endless("<Contents><Key>key/", "a"),
        "comment" => endless("<!-- ", "a"),
        "instruction" => endless("<?a ", "a"),
        "cdata" => endless("<Contents><Key><![CDATA[", "a"),
        "depth" => endless("", "<a>"),
        "closing" => endless("</ListBucketResult>", "</a>"),
        "blank" => endless("</ListBucketResult>", "    "),
        "chunks" => {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            Some(Answer::raw(head).endless("5;x=yyyyyyyyyyy\r\n<a>b<\r\n".repeat(1000)))
        }
        _ => None,
    });
    for case in &cases {
        let before = stage.server.bytes_sent();
        stage.fails(&format!("10 GB page: {case}"), libc::EIO, || names(&stage.mounted.join(case)));
        let sent = (stage.server.bytes_sent() - before) / MIB;
        // What the sockets hold and what the reader takes, in one try or a few.
        assert!(sent < 300, "{case}: {sent} MiB were taken");
    }
    stage.mounted.reset_peak_resident();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for case in &cases {
            let stage = &stage;
            scope.spawn(move || assert!(names(&stage.mounted.join(case)).is_err(), "{case}"));
        }
    });
    let peak = stage.mounted.peak_resident_bytes();
    row("10 GB pages: all of these at once", Some(libc::EIO), peak, start.elapsed().as_secs_f64());
    assert!(peak < RESIDENT_MAX, "{} MiB", peak / MIB);
}

/// A page that S3 could not have written is EIO: more entries than were asked for, a document type,
/// another encoding than UTF-8, a size that no file has.
#[test]
fn a_page_that_is_not_plain_xml_is_an_error() {
    let many: String = (0..5000).map(|index| contents(&format!("many/{index}"), 1)).collect();
    let bomb = "<?xml version=\"1.0\"?><!DOCTYPE l [<!ENTITY a \"aaaaaaaaaa\">\
                <!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;\">]>\
                <ListBucketResult><Contents><Key>&c;</Key></Contents></ListBucketResult>";
    let utf16: Vec<u8> = format!("\u{feff}{}", page(&["utf16/f"], &[], ""))
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let cases = words(
        "many bomb doctype utf16 latin invalid deep truncated-maybe no-key negative \
         huge long-key",
    );
    let stage = Stage::new(&cases, move |request| {
        let declared = |encoding: &str| {
            format!("<?xml version=\"1.0\" encoding=\"{encoding}\"?>{}", page(&[], &[], ""))
        };
        let xml: Vec<u8> = match case_of(request)? {
            "many" => format!("<ListBucketResult>{many}</ListBucketResult>").into(),
            "bomb" => bomb.into(),
            "doctype" => {
                format!("<!DOCTYPE x SYSTEM 'file:///etc/passwd'>{}", page(&[], &[], "")).into()
            }
            "utf16" => utf16.clone(),
            "latin" => declared("ISO-8859-7").into(),
            "invalid" => {
                let mut xml = page(&["invalid/X"], &[], "").into_bytes();
                let at = xml.iter().position(|byte| *byte == b'X').expect("it is there");
                xml[at] = 0xff;
                xml
            }
            "deep" => {
                let (open, close) = ("<a>".repeat(100_000), "</a>".repeat(100_000));
                page(&[], &[], &(open + &close)).into()
            }
            "truncated-maybe" => {
                page(&["truncated-maybe/f"], &[], "<IsTruncated>maybe</IsTruncated>").into()
            }
            "no-key" => page(&[], &[], "<Contents><Size>1</Size></Contents>").into(),
            "negative" => {
                page(&[], &[], "<Contents><Key>negative/f</Key><Size>-1</Size></Contents>").into()
            }
            "huge" => {
                let size = u64::MAX;
                let entry = format!("<Contents><Key>huge/f</Key><Size>{size}</Size></Contents>");
                page(&[], &[], &entry).into()
            }
            "long-key" => page(&[&format!("long-key/{}", "k".repeat(9000))], &[], "").into(),
            _ => return None,
        };
        Some(Answer::xml(xml))
    });
    for case in cases {
        stage.fails(&format!("page: {case}"), libc::EIO, || names(&stage.mounted.join(case)));
    }
}

/// A page that breaks off is asked for again, for 15 s, and then EIO, never a shorter directory.
#[test]
fn a_page_that_is_not_whole_is_never_shown() {
    let xml = page(&["cut/a", "cut/b"], &[], "");
    let cases = words("cut short long gzip html");
    let stage = Stage::new(&cases, move |request| {
        let head = |length: usize, more: &str| {
            format!(
                "HTTP/1.1 200 OK\r\n{more}Connection: close\r\nContent-Length: {length}\r\n\r\n"
            )
        };
        let cut = &xml[..xml.len() / 2];
        // Closed after it, whatever the head says.
        let closed = |text: String| Some(Answer::raw(text).then(std::iter::once(Piece::Close)));
        match case_of(request)? {
            "cut" => closed(format!("{OPEN_END}{cut}")),
            "short" => closed(head(xml.len() / 2, "") + &xml),
            "long" => closed(head(xml.len() * 2, "") + &xml),
            "gzip" => {
                closed(head(20, "Content-Encoding: gzip\r\n") + "\u{1f}\u{b}gzipgzipgzipgzip")
            }
            "html" => Some(Answer::xml("<html><body>Please log in</body></html>")),
            _ => None,
        }
    });
    // At the same time: each waits for the whole time that a request has.
    std::thread::scope(|scope| {
        for case in cases {
            let stage = &stage;
            scope.spawn(move || {
                let listed = || names(&stage.mounted.join(case));
                stage.fails(&format!("page that is not whole: {case}"), libc::EIO, listed);
            });
        }
    });
}

/// A token for each page, so that none comes again.
fn numbered(request: &Request) -> u64 {
    let token = request.query.get("continuation-token");
    token.and_then(|token| token.strip_prefix('t')?.parse().ok()).unwrap_or(0)
}

/// A listing that gives a token again, or nothing new on 1,000 pages, or a key that was not asked
/// for, is EIO, never a loop and never a part shown as the whole.
#[test]
fn a_listing_comes_to_an_end() {
    let cases = words(
        "same-token cycle no-token same-keys empty backward own-first outside other \
         markers",
    );
    let stage = Stage::new(&cases, |request| {
        let case = case_of(request)?;
        let at = numbered(request);
        let next = more(&format!("t{}", at + 1));
        let key = |name: &str| format!("{case}/{name}");
        let xml = match case {
            "same-token" => page(&[&key(&format!("{at:09}"))], &[], &more("t1")),
            "cycle" => page(&[&key("a")], &[], &more(&format!("t{}", (at + 1) % 4 + 1))),
            "no-token" => page(&[&key("a")], &[], "<IsTruncated>true</IsTruncated>"),
            "same-keys" => page(&[&key("a"), &key("b")], &[&key("c/")], &next),
            "empty" => page(&[], &[], &next),
            // Two keys for ever, the further one first.
            "backward" => page(&[&key(if at.is_multiple_of(2) { "b" } else { "a" })], &[], &next),
            // A server without a delimiter, which tells of one directory for ever.
            "own-first" => page(&[], &[&key("d/")], &next),
            "outside" => page(&[&key("a"), "good/x"], &[], ""),
            "other" => page(&["good/x"], &["good/d/"], ""),
            "markers" => page(&[&key("")], &[], &next),
            _ => return None,
        };
        Some(Answer::xml(xml))
    });
    for case in cases {
        let before = stage.server.requests().len();
        stage.fails(&format!("listing: {case}"), libc::EIO, || names(&stage.mounted.join(case)));
        let n_requests = stage.server.requests().len() - before;
        assert!(n_requests < 1100, "{case}: {n_requests} requests");
    }
    for case in ["outside", "other"] {
        let err = fs::metadata(stage.mounted.join(case).join("x")).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(libc::EIO), "{case}: not absent either");
    }
}

/// A listing of ever new names is what a huge directory looks like: it is given up when its names have taken
/// sixteen times `--memory`, or four times where they cannot be let go of.
#[test]
fn a_listing_without_end_is_given_up() {
    let cases = words("forward backwards");
    let objects: [(&str, &[u8]); 3] =
        [("forward/f", b"x"), ("backwards/f", b"x"), ("good/f", b"good")];
    let stage = Stage::with_memory("32MiB", &objects, |request| {
        let case = case_of(request)?;
        if !matches!(case, "forward" | "backwards") {
            return None;
        }
        let at = numbered(request);
        // Names and tags as long as they may be, so that it does not take all day.
        let key = |index: u64| {
            let number = if case == "forward" { index } else { u64::MAX - index };
            let (fill, tag) = ("n".repeat(200), "e".repeat(1000));
            format!(
                "<Contents><Key>{case}/{number:020}{fill}</Key><ETag>&quot;{tag}&quot;</ETag>\
                 <Size>1</Size></Contents>"
            )
        };
        let keys: String = (at * 1000..(at + 1) * 1000).map(key).collect();
        let next = more(&format!("t{}", at + 1));
        Some(Answer::xml(format!("<ListBucketResult>{next}{keys}</ListBucketResult>")))
    });
    for case in cases {
        stage.mounted.reset_peak_resident();
        let start = Instant::now();
        let got = names(&stage.mounted.join(case)).err().and_then(|err| err.raw_os_error());
        let peak = stage.mounted.peak_resident_bytes();
        row(&format!("endless listing: {case}"), got, peak, start.elapsed().as_secs_f64());
        // Its memory is spent, or, where nothing can be shown before the end, its time.
        assert!(matches!(got, Some(libc::EIO | libc::ETIMEDOUT)), "{case}: {got:?}");
        // The bound is four times `--memory` for one listing whose names must be kept.
        assert!(peak < (4 * 32 + 32 + 64) * MIB, "{case}: {} MiB", peak / MIB);
        assert_eq!(fs::read(stage.mounted.join("good/f")).unwrap(), b"good");
    }
}

/// A server may list in any order, on pages that overlap and with empty ones between: each name is
/// shown once.
#[test]
fn an_honest_server_without_order_is_read_to_its_end() {
    let cases = words("any last contradiction");
    let stage = Stage::new(&cases, |request| {
        let case = case_of(request)?;
        let at = numbered(request);
        let key = |name: &str| format!("{case}/{name}");
        let more = more(&format!("t{}", at + 1));
        let xml = match (case, at) {
            ("any", 0) => page(&[&key("m"), &key("b")], &[&key("z/")], &more),
            ("any", 1 | 3 | 4) => page(&[], &[], &more),
            ("any", 2) => page(&[&key("b"), &key("a")], &[&key("z/"), &key("c/")], &more),
            ("any", 5) => page(&[&key("a"), &key("zz"), &key("")], &[], ""),
            ("last", 0) => page(&[&key("a")], &[], &more),
            ("last", _) => page(&[], &[], "<IsTruncated>false</IsTruncated>"),
            // It is over when it says so, whatever else it carries.
            ("contradiction", _) => page(
                &[&key("a")],
                &[],
                "<IsTruncated>false</IsTruncated>\
                 <NextContinuationToken>t1</NextContinuationToken>",
            ),
            _ => return None,
        };
        Some(Answer::xml(xml))
    });
    for (case, expected) in
        [("any", &["a", "b", "c", "m", "z", "zz"][..]), ("last", &["a"]), ("contradiction", &["a"])]
    {
        let listed = || names(&stage.mounted.join(case));
        assert_eq!(stage.gives(&format!("honest listing: {case}"), listed), expected);
    }
}

/// An answer whose head is too large, or none, is an error.
#[test]
fn the_head_of_an_answer_is_bounded() {
    let cases = words("header headers status chunked-trailer controls bad-name interim");
    let stage = Stage::new(&cases, |request| {
        let ok = "HTTP/1.1 200 OK\r\n";
        let endless = |start: &str, again: &str| {
            let again = again.repeat((64 << 10) / again.len());
            Some(Answer::raw(start).endless(again))
        };
        let empty = page(&[], &[], "");
        match case_of(request)? {
            "header" => endless(&format!("{ok}X-A: "), "a"),
            "headers" => {
                let headers: String = (0..100_000).map(|n| format!("X-{n}: a\r\n")).collect();
                Some(Answer::new("200 OK", &headers, empty))
            }
            "status" => endless("HTTP/1.1 200 ", "a"),
            "interim" => endless("", "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"),
            "chunked-trailer" => endless(
                &format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\n<a\r\n0\r\n"),
                "X-Trailer: a\r\n",
            ),
            "controls" => Some(Answer::new("200 OK", "X-A: \u{1b}[2J\u{0}\r\n", empty)),
            "bad-name" => Some(Answer::new("200 OK", "X\u{7f} A: b\r\n", empty)),
            _ => None,
        }
    });
    std::thread::scope(|scope| {
        for case in cases {
            let stage = &stage;
            scope.spawn(move || {
                let listed = || names(&stage.mounted.join(case));
                // Each interim answer is one; the last never comes.
                let errno = if case == "interim" { libc::ETIMEDOUT } else { libc::EIO };
                stage.fails(&format!("head: {case}"), errno, listed);
            });
        }
    });
    let is_quiet = || {
        let sent = stage.server.bytes_sent();
        sleep(Duration::from_millis(300));
        stage.server.bytes_sent() == sent
    };
    assert!(wait_until(is_quiet), "nobody listens on to what was given up");
}

/// An answer that comes byte by byte ends as one that does not come: with ETIMEDOUT.
#[test]
fn nothing_drips_for_ever() {
    let cases = words("head page error");
    let second = Duration::from_secs(1);
    let inside = ["head/f", "page/f", "error/f", "body"];
    let mut objects: Vec<(&str, &[u8])> =
        inside.iter().map(|key| (*key, [b'x'; 1000].as_slice())).collect();
    objects.push(("good/f", b"good"));
    let stage = Stage::with(&objects, move |request| match (case_of(request), request.got()) {
        (Some("head"), _) => Some(Answer::raw("HTTP/1.1 200 OK\r\nX-A: ").drip(b"a", second)),
        (Some("page"), _) => Some(Answer::raw(OPEN_END).drip(b"<ListBucketResult>", second)),
        (Some("error"), _) => {
            Some(Answer::raw("HTTP/1.1 403 Forbidden\r\n\r\n<Error>").drip(b"a", second))
        }
        (_, Some("body")) => {
            let length = request.range().map_or(1000, |range| range.end - range.start);
            let (status, range) = match request.range() {
                None => ("200 OK", String::new()),
                Some(range) => (
                    "206 Partial Content",
                    format!("Content-Range: bytes {}-{}/1000\r\n", range.start, range.end - 1),
                ),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\n{OBJECT_HEADERS}{range}Content-Length: {length}\r\n\r\n"
            );
            Some(Answer::raw(head).drip(b"x", second))
        }
        _ => None,
    });
    std::thread::scope(|scope| {
        for case in cases {
            let stage = &stage;
            scope.spawn(move || {
                let listed = || names(&stage.mounted.join(case));
                stage.fails(&format!("drip: {case}"), libc::ETIMEDOUT, listed);
            });
        }
        scope.spawn(|| {
            let start = Instant::now();
            let read = fs::read(stage.mounted.join("body"));
            let (errno, seconds) = (read.err().and_then(|err| err.raw_os_error()), start.elapsed());
            row("drip: body", errno, stage.mounted.peak_resident_bytes(), seconds.as_secs_f64());
            assert_eq!(errno, Some(libc::ETIMEDOUT));
            assert!(seconds < Duration::from_secs(61), "{seconds:?}");
        });
    });
    let of_body = |request: &Request| request.got() == Some("body");
    let n_asked = stage.server.requests().into_iter().filter(of_body).count();
    assert!(n_asked <= 6, "{n_asked} requests for the body");
}
