//! A server, or whoever sits between, that answers anything: an error, bounded in memory and time;
//! never a loop, a part of a listing shown as the whole, a name outside the mount, or control
//! characters in a log. Each test prints a row for each answer: `--no-capture` shows them.

use std::fmt::Display;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::hostile::{
    Answer, BUCKET, Hostile, OBJECT_HEADERS, Piece, Request, contents, more, page,
};
use crate::support::mounted::{Mounted, command_with, sleep};

const MIB: u64 = 1 << 20;

/// `--memory`, and what the process may take beside it.
const MEMORY: &str = "64MiB";
const RESIDENT_MAX: u64 = (64 + 64) * MIB;

/// Each try of a request, pauses and all, ends in 15 s; a lookup, an open, a read of a directory in
/// 20 s.
const SECONDS_MAX: u64 = 21;

/// Some answers end only with the client.
const OPEN_END: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

/// A hostile server with the binary mounted on it.
struct Stage {
    server: Hostile,
    mounted: Mounted,
}

impl Stage {
    /// Every directory of `cases` is there, and `good/f`.
    fn new(
        cases: &[&str],
        script: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let inside: Vec<String> = cases.iter().map(|case| format!("{case}/f")).collect();
        let mut objects: Vec<(&str, &[u8])> =
            inside.iter().map(|key| (key.as_str(), b"x".as_slice())).collect();
        objects.push(("good/f", b"good"));
        Self::with(&objects, script)
    }

    fn with(
        objects: &[(&str, &[u8])],
        script: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::with_memory(MEMORY, objects, script)
    }

    fn with_memory(
        memory: &str,
        objects: &[(&str, &[u8])],
        script: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let server = Hostile::start(objects, script);
        let options = ["--memory", memory, "--metadata-ttl", "0s", "--open-ttl", "0s"];
        let mounted = Mounted::start(command_with(server.environment()), BUCKET, &options);
        Self { server, mounted }
    }

    /// Runs `work`, which must fail with `errno` in bounded memory and time; then the mount answers
    /// other questions rightly.
    #[track_caller]
    fn fails<T>(&self, case: &str, errno: i32, work: impl FnOnce() -> io::Result<T>) {
        self.mounted.reset_peak_resident();
        let start = Instant::now();
        let got = work().err().and_then(|err| err.raw_os_error());
        self.row(case, got, start);
        assert_eq!(got, Some(errno), "{case}: {}", self.mounted.log());
    }

    /// As [`Stage::fails`] for what is no error.
    #[track_caller]
    fn gives<T>(&self, case: &str, work: impl FnOnce() -> io::Result<T>) -> T {
        self.mounted.reset_peak_resident();
        let start = Instant::now();
        let got = work();
        self.row(case, got.as_ref().err().and_then(io::Error::raw_os_error), start);
        got.unwrap_or_else(|err| panic!("{case}: {err}: {}", self.mounted.log()))
    }

    #[track_caller]
    fn row(&self, case: &str, errno: Option<i32>, start: Instant) {
        let (seconds, peak) = (start.elapsed().as_secs_f64(), self.mounted.peak_resident_bytes());
        row(case, errno, peak, seconds);
        assert!(peak < RESIDENT_MAX, "{case}: {} MiB", peak / MIB);
        assert!(seconds < SECONDS_MAX as f64, "{case}: {seconds} s");
        assert_eq!(names(&self.mounted.join("good")).unwrap(), ["f"], "after {case}");
        assert_eq!(fs::read(self.mounted.join("good/f")).unwrap(), b"good", "after {case}");
    }
}

#[expect(clippy::print_stdout, reason = "the table of answers")]
fn row(case: &str, errno: Option<i32>, peak: u64, seconds: f64) {
    let errno = errno.map_or("-".to_owned(), |errno| match errno {
        libc::EIO => "EIO".to_owned(),
        libc::ESTALE => "ESTALE".to_owned(),
        libc::ETIMEDOUT => "ETIMEDOUT".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        libc::ENOENT => "ENOENT".to_owned(),
        other => other.to_string(),
    });
    println!("| {case:42} | {errno:9} | {:4} MiB | {seconds:5.1} s |", peak / MIB);
}

/// Sorted.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path)?;
    let name = |entry: io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().into_string().expect("keys are UTF-8"))
    };
    let mut names = entries.map(name).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The case that a listing is about: the first component of its prefix.
fn case_of(request: &Request) -> Option<&str> {
    request.listed()?.strip_suffix('/')
}

/// Pages without end, or of a size that no honest page has.
#[test]
fn a_page_is_bounded_in_bytes_and_entries() {
    let endless = |start: &str, again: &str| {
        let again = again.repeat((64 << 10) / again.len());
        Some(Answer::raw(format!("{OPEN_END}<ListBucketResult>{start}")).endless(again))
    };
    let cases = [
        "entries",
        "prefixes",
        "element",
        "attribute",
        "text",
        "key",
        "comment",
        "instruction",
        "cdata",
        "depth",
        "closing",
        "blank",
        "chunks",
    ];
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
    for case in cases {
        let before = stage.server.bytes_sent();
        stage.fails(&format!("10 GB page: {case}"), libc::EIO, || names(&stage.mounted.join(case)));
        let sent = (stage.server.bytes_sent() - before) / MIB;
        // What the sockets hold and what the reader takes, in one try or a few.
        assert!(sent < 300, "{case}: {sent} MiB were taken");
    }
}

/// Pages whose XML is none that S3 writes.
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
    let cases = [
        "many",
        "bomb",
        "doctype",
        "utf16",
        "latin",
        "nul",
        "invalid",
        "deep",
        "truncated-maybe",
        "no-key",
        "negative",
        "huge",
        "long-key",
    ];
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
            "nul" => page(&["nul/a&#0;b"], &[], "").into(),
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

/// Pages that break off, and lengths that lie: asked again for 15 s, as after any broken answer.
#[test]
fn a_page_that_is_not_whole_is_never_shown() {
    let xml = page(&["cut/a", "cut/b"], &[], "");
    let cases = ["cut", "short", "long", "gzip", "html"];
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

/// Listings that never end, or that say of the same page that it goes on.
#[test]
fn a_listing_comes_to_an_end() {
    let cases = [
        "same-token",
        "cycle",
        "no-token",
        "same-keys",
        "empty",
        "backward",
        "own-first",
        "outside",
        "other",
        "markers",
    ];
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
            "backward" => page(&[&key(if at % 2 == 0 { "b" } else { "a" })], &[], &next),
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

/// A listing of ever new keys is what a huge directory looks like; it ends where memory does.
#[test]
fn a_listing_without_end_is_given_up() {
    let cases = ["forward", "backwards"];
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
        // The bound is four times `--memory` for one listing that is being read.
        assert!(peak < (4 * 32 + 32 + 64) * MIB, "{case}: {} MiB", peak / MIB);
        assert_eq!(fs::read(stage.mounted.join("good/f")).unwrap(), b"good");
    }
}

/// An honest server may list in any order, on pages that overlap, with empty ones between: each key
/// is shown once.
#[test]
fn an_honest_server_without_order_is_read_to_its_end() {
    let cases = ["any", "last", "contradiction"];
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

/// Heads that are larger than any, or none.
#[test]
fn the_head_of_an_answer_is_bounded() {
    let fast = ["header", "headers", "status", "chunked-trailer", "controls", "bad-name"];
    let slow = ["interim"];
    let cases: Vec<&str> = fast.into_iter().chain(slow).collect();
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
    let sent = stage.server.bytes_sent();
    sleep(Duration::from_millis(500));
    assert!(stage.server.bytes_sent() - sent < MIB, "nobody listens to what was given up");
}

/// Whether a GET of `get/NAME` is for the case `name`.
fn got_case(request: &Request) -> Option<&str> {
    request.got()?.strip_prefix("get/")
}

/// `bytes` as a part of an object of `size` bytes.
fn part(range: &Range<u64>, size: impl Display, etag: &str) -> Answer {
    let Range { start, end } = *range;
    let headers = format!(
        "ETag: {etag}\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\
         Content-Range: bytes {start}-{}/{size}\r\n",
        end - 1
    );
    Answer::new("206 Partial Content", &headers, vec![b'x'; (end - start) as usize])
}

/// Answers to a GET of a whole small object, which has no Range.
#[test]
fn a_whole_object_is_what_its_answer_says_or_an_error() {
    let cases = [
        "endless",
        "endless-chunks",
        "shorter",
        "no-content",
        "part",
        "range-in-200",
        "unasked-304",
        "unasked-412",
        "etag-1MB",
        "etag-300KB",
        "etag-2KB",
        "etag-controls",
        "length-negative",
        "length-huge",
        "length-twice",
        "year-99999",
        "year-negative",
        "two-bodies",
    ];
    let keys: Vec<String> = cases.iter().map(|case| format!("get/{case}")).collect();
    let mut objects: Vec<(&str, &[u8])> =
        keys.iter().map(|key| (key.as_str(), b"four".as_slice())).collect();
    objects.push(("good/f", b"good"));
    let stage = Stage::with(&objects, |request| {
        let etag = |tag: &str| {
            let headers =
                format!("ETag: {tag}\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n");
            Some(Answer::new("200 OK", &headers, "four"))
        };
        let dated = |date: &str| {
            let headers = format!("ETag: \"e\"\r\nLast-Modified: {date}\r\n");
            Some(Answer::new("200 OK", &headers, "four"))
        };
        let length = |length: &str| {
            let head = format!("HTTP/1.1 200 OK\r\n{OBJECT_HEADERS}Content-Length: {length}\r\n");
            Some(Answer::raw(head + "\r\nfour").then(std::iter::once(Piece::Close)))
        };
        match got_case(request)? {
            "endless" => {
                let head = format!("HTTP/1.1 200 OK\r\n{OBJECT_HEADERS}\r\n");
                Some(Answer::raw(head).endless("x".repeat(64 << 10)))
            }
            "endless-chunks" => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\n{OBJECT_HEADERS}Transfer-Encoding: chunked\r\n\r\n"
                );
                Some(Answer::raw(head).endless("4\r\nfour\r\n".repeat(1000)))
            }
            "shorter" => {
                let head = format!("HTTP/1.1 200 OK\r\n{OBJECT_HEADERS}Content-Length: 4\r\n\r\n");
                Some(Answer::raw(head + "fo").then(std::iter::once(Piece::Close)))
            }
            "no-content" => {
                Some(Answer::raw(format!("HTTP/1.1 204 No Content\r\n{OBJECT_HEADERS}\r\n")))
            }
            "part" => Some(part(&(0..4), 4, "\"e\"")),
            "range-in-200" => {
                let headers = format!("{OBJECT_HEADERS}Content-Range: bytes 0-3/4\r\n");
                Some(Answer::new("200 OK", &headers, "four"))
            }
            "unasked-304" => {
                Some(Answer::raw(format!("HTTP/1.1 304 Not Modified\r\n{OBJECT_HEADERS}\r\n")))
            }
            "unasked-412" => Some(Answer::new("412 Precondition Failed", "", "")),
            "etag-1MB" => etag(&"e".repeat(1 << 20)),
            "etag-300KB" => etag(&"e".repeat(300 << 10)),
            "etag-2KB" => etag(&"e".repeat(2 << 10)),
            "etag-controls" => etag("\"\u{1b}[2J\""),
            "length-negative" => length("-4"),
            "length-huge" => length("18446744073709551615"),
            "length-twice" => length("4\r\nContent-Length: 5"),
            "year-99999" => dated("Fri, 31 Dec 99999 23:59:59 GMT"),
            "year-negative" => dated("Fri, 31 Dec -001 23:59:59 GMT"),
            // What follows the body must not be taken for the answer to the next request.
            "two-bodies" => {
                let smuggled =
                    format!("HTTP/1.1 200 OK\r\n{OBJECT_HEADERS}Content-Length: 4\r\n\r\nevil");
                Some(Answer::new("200 OK", OBJECT_HEADERS, "four").append(smuggled))
            }
            _ => None,
        }
    });
    let read = |case: &str| fs::read(stage.mounted.join("get").join(case));
    assert_eq!(stage.gives("GET: two-bodies", || read("two-bodies")), b"four");
    let fails = |case: &str| {
        // A date that can be read, and is another one than that of the listing.
        let errno = if case == "year-negative" { libc::ESTALE } else { libc::EIO };
        stage.fails(&format!("GET: {case}"), errno, || read(case));
    };
    // Broken on the way, as it may be, and asked for again.
    let slow = [
        "shorter",
        "length-negative",
        "length-huge",
        "length-twice",
        "etag-1MB",
        "etag-controls",
        "year-99999",
        "year-negative",
    ];
    std::thread::scope(|scope| {
        for case in slow {
            scope.spawn(move || fails(case));
        }
    });
    for case in cases.iter().filter(|case| !slow.contains(case) && **case != "two-bodies") {
        fails(case);
    }
}

/// Answers to a GET of a range.
#[test]
fn a_part_is_the_one_that_was_asked_for_or_an_error() {
    const SIZE: u64 = 3 << 20;
    let cases = [
        "start",
        "end",
        "size-huge",
        "size-overflow",
        "size-unknown",
        "backwards",
        "no-range",
        "multipart",
        "endless",
        "longer",
        "whole",
        "late-start",
        "late-etag",
        "late-size",
        "late-multipart",
        "late-whole",
        "late-304",
        "growing",
    ];
    let keys: Vec<String> = cases.iter().map(|case| format!("get/{case}")).collect();
    let content = vec![b'x'; SIZE as usize];
    let mut objects: Vec<(&str, &[u8])> =
        keys.iter().map(|key| (key.as_str(), content.as_slice())).collect();
    objects.push(("good/f", b"good"));
    let n_answers = AtomicU64::new(0);
    let stage = Stage::with(&objects, move |request| {
        let (case, range) = (got_case(request)?, request.range()?);
        let Range { start, end } = range;
        let length = end - start;
        let with = |content_range: &str, length: u64| {
            let headers = format!("{OBJECT_HEADERS}Content-Range: {content_range}\r\n");
            Some(Answer::new("206 Partial Content", &headers, vec![b'x'; length as usize]))
        };
        let multipart = || {
            let headers =
                format!("{OBJECT_HEADERS}Content-Type: multipart/byteranges; boundary=b\r\n");
            Some(Answer::new("206 Partial Content", &headers, "--b\r\n\r\nxx\r\n--b--"))
        };
        let late = start > 0;
        match case {
            "start" => with(&format!("bytes {}-{end}/{SIZE}", start + 1), length),
            "end" => with(&format!("bytes {start}-{}/{SIZE}", end - 2), length - 1),
            "size-huge" => with(&format!("bytes {start}-{}/{}", end - 1, u64::MAX), length),
            "size-overflow" => {
                with(&format!("bytes {start}-{}/99999999999999999999999", end - 1), length)
            }
            "size-unknown" => with(&format!("bytes {start}-{}/*", end - 1), length),
            "backwards" => with(&format!("bytes {end}-{start}/{SIZE}"), length),
            "no-range" => Some(Answer::new(
                "206 Partial Content",
                OBJECT_HEADERS,
                vec![b'x'; length as usize],
            )),
            "multipart" => multipart(),
            "endless" => {
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\n{OBJECT_HEADERS}\
                     Content-Range: bytes {start}-{}/{SIZE}\r\n\r\n",
                    end - 1
                );
                Some(Answer::raw(head).endless("x".repeat(100_000)))
            }
            "longer" => with(&format!("bytes {start}-{}/{SIZE}", end - 1), length + 1),
            // Legal, and read no further than was asked.
            "whole" if !late => {
                Some(Answer::new("200 OK", OBJECT_HEADERS, vec![b'x'; SIZE as usize]))
            }
            "late-start" if late => with(&format!("bytes {}-{end}/{SIZE}", start + 1), length),
            "late-etag" if late => Some(part(&range, SIZE, "\"other\"")),
            "late-size" if late => Some(part(&range, SIZE + 1, "\"e\"")),
            "late-multipart" if late => multipart(),
            "late-whole" if late => {
                Some(Answer::new("200 OK", OBJECT_HEADERS, vec![b'x'; SIZE as usize]))
            }
            "late-304" if late => Some(Answer::raw("HTTP/1.1 304 Not Modified\r\n\r\n")),
            // Another object each time.
            "growing" => {
                let n = n_answers.fetch_add(1, Ordering::Relaxed);
                Some(part(&range, SIZE + n, &format!("\"{n}\"")))
            }
            _ => None,
        }
    });
    let path = |case: &str| stage.mounted.join("get").join(case);
    for case in [
        "start",
        "end",
        "size-huge",
        "size-overflow",
        "size-unknown",
        "backwards",
        "no-range",
        "multipart",
        "longer",
    ] {
        stage.fails(&format!("range: {case}"), libc::EIO, || fs::File::open(path(case)));
    }
    for (case, errno) in [
        ("late-start", libc::EIO),
        ("late-etag", libc::ESTALE),
        ("late-size", libc::ESTALE),
        ("late-multipart", libc::EIO),
        ("late-whole", libc::EIO),
        ("late-304", libc::EIO),
    ] {
        let read = || fs::File::open(path(case))?.read_exact_at(&mut [0; 100], 2 << 20);
        stage.fails(&format!("range: {case}"), errno, read);
    }
    stage.fails("range: growing", libc::ESTALE, || {
        fs::File::open(path("growing"))?.read_exact_at(&mut [0; 100], 2 << 20)
    });
    for case in ["endless", "whole"] {
        let mut bytes = [0; 100];
        stage.gives(&format!("range: {case}"), || {
            fs::File::open(path(case))?.read_exact_at(&mut bytes, 5)
        });
        assert_eq!(bytes, [b'x'; 100], "{case}: what was asked for did come");
    }
}

/// Redirects are never followed, and a region is never more than a label of a host name.
#[test]
fn nobody_is_sent_elsewhere() {
    let elsewhere = Hostile::start(&[], |_| None);
    let other = elsewhere.endpoint();
    let cases = [
        "301",
        "302",
        "303",
        "307",
        "308",
        "region-slash",
        "region-dots",
        "region-1MB",
        "region-up",
        "region-element",
        "location-region",
    ];
    let stage = Stage::new(&cases, move |request| {
        let case = case_of(request).or_else(|| request.key().strip_suffix("/f"))?;
        let redirect = |status: &str, headers: &str, region: &str| {
            let body = format!(
                "<Error><Code>PermanentRedirect</Code><Region>{region}</Region>\
                                <Endpoint>{other}</Endpoint></Error>"
            );
            Some(Answer::new(status, headers, body))
        };
        let location = format!("Location: {other}/stolen\r\n");
        match case {
            "301" | "302" | "303" | "307" | "308" => {
                redirect(&format!("{case} Moved"), &location, "")
            }
            "region-slash" => redirect("301 Moved", "x-amz-bucket-region: evil.example/\r\n", ""),
            "region-dots" => redirect("301 Moved", "x-amz-bucket-region: s3.evil.example\r\n", ""),
            "region-up" => redirect("301 Moved", "x-amz-bucket-region: ../../x\r\n", ""),
            "region-1MB" => {
                let region = "r".repeat(300 << 10);
                redirect("301 Moved", &format!("x-amz-bucket-region: {region}\r\n"), "")
            }
            "region-element" => redirect("301 Moved", "", "evil.example/?"),
            "location-region" => {
                redirect("307 Moved", "Location: http://s3-evil@evil.example/\r\n", "")
            }
            _ => None,
        }
    });
    for case in cases {
        stage.fails(&format!("redirect: {case}"), libc::EIO, || names(&stage.mounted.join(case)));
    }
    assert_eq!(elsewhere.connections(), 0, "nobody came, with or without credentials");
    for request in stage.server.requests() {
        let authorization = request.headers.get("authorization").expect("it is signed");
        assert!(authorization.contains("/us-east-1/s3/aws4_request"), "{authorization}");
    }
}

/// What a terminal would obey: the start of a command, 8 bits and 7, the bell, the other direction.
const COMMANDS: [char; 5] = ['\u{1b}', '\u{9b}', '\u{7}', '\u{202e}', '\u{2066}'];

#[track_caller]
fn assert_plain(text: &str) {
    let command = text
        .char_indices()
        .find(|(_, it)| COMMANDS.contains(it) || (it.is_control() && *it != '\n'));
    if let Some((at, _)) = command {
        let near: String =
            text[..at].chars().rev().take(200).collect::<Vec<_>>().iter().rev().collect();
        panic!("a command after {near:?}");
    }
}

/// Keys and the words of errors go into no log as they are, at any level.
#[test]
fn a_log_holds_no_command_for_a_terminal() {
    // As S3 writes them with `encoding-type=url`.
    let keys = [
        "%1B%5B2Jescape",
        "c1%C2%9Bx",
        "bell%07",
        "new%0A2026-01-01T00:00:00Z ERROR line",
        "%E2%80%AEbidi",
        "nul%00",
        ".",
        "..",
        "a%5Cb",
        "%E2%81%A6isolate",
        "f",
    ];
    let long = "x".repeat(1020);
    let server = Hostile::start(&[("d/f", b"x")], move |request| {
        if request.listed() == Some("d/") {
            let entries: String = keys.iter().map(|key| contents(&format!("d/{key}"), 1)).collect();
            let prefixes: String = ["%1B%5B2Jescape", "..", "", ".", "f%1B"]
                .iter()
                .map(|name| format!("<CommonPrefixes><Prefix>d/{name}/</Prefix></CommonPrefixes>"))
                .collect();
            return Some(Answer::xml(format!(
                "<ListBucketResult><EncodingType>url</EncodingType>{entries}{}{prefixes}\
                 </ListBucketResult>",
                contents(&format!("d/{long}"), 1)
            )));
        }
        request.got()?;
        let words = "\u{1b}]0;title\u{7} \u{9b}31m \u{202e}\u{2066}\n2026-01-01T00:00:00Z ERROR x";
        let body = format!(
            "<Error><Code>Access{words}</Code><Message>{words}</Message>\
             <RequestId>{words}</RequestId></Error>"
        );
        Some(Answer::new("403 Forbidden", "x-amz-request-id: a\u{9b}b\r\n", body))
    });
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let options = ["--log-level", "trace", "--log-file", log.to_str().unwrap()];
    let mounted = Mounted::start(command_with(server.environment()), BUCKET, &options);
    let mut shown = names(&mounted.join("d")).unwrap();
    shown.retain(|name| !name.is_ascii() || name.contains(char::is_control));
    let expected = [
        "\u{1b}[2Jescape",
        "bell\u{7}",
        "c1\u{9b}x",
        "f\u{1b}",
        "new\n2026-01-01T00:00:00Z ERROR line",
        "\u{202e}bidi",
        "\u{2066}isolate",
    ];
    assert_eq!(shown, expected, "names are shown as they are: who prints them escapes them");
    let all = names(&mounted.join("d")).unwrap();
    assert_eq!(all.len(), expected.len() + 2, "and `f` and `a\\b`: {all:?}");
    for name in &all {
        // Of the directories nothing is there when they are looked into.
        let expected = if name.contains('\u{1b}') { libc::ENOENT } else { libc::EACCES };
        let err = fs::read(mounted.join("d").join(name)).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(expected), "{name:?}: {err}");
    }
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("Access\\u{1b}]0;title\\u{7}"), "the server's words are there: {text}");
    assert!(text.contains("\\u{1b}[2Jescape"), "and the keys");
    assert_plain(&text);
    assert_plain(&mounted.log());
    let forged =
        text.lines().find(|line| !line.starts_with("20") || line.starts_with("2026-01-01"));
    assert_eq!(forged, None, "each line is one of ours");
    assert!(!text.contains("hostile-secret"), "nor is the secret key in it");
}

/// Nor is the sentence of a start that fails.
#[test]
fn a_failed_start_says_it_plainly() {
    let words = "\u{1b}]0;title\u{7}\u{9b}31m\u{202e}\nforged: line";
    let answers: [(&str, Box<dyn Fn() -> Answer + Send + Sync>); 4] = [
        (
            "403 Forbidden",
            Box::new(move || {
                let body =
                    format!("<Error><Code>A{words}</Code><Message>{words}</Message></Error>");
                Answer::new("403 Forbidden", "", body)
            }),
        ),
        (
            "400 Bad Request",
            Box::new(move || {
                let body = format!("<Error><Code>Odd</Code><Message>{words}</Message></Error>");
                Answer::new("400 Bad Request", "", body)
            }),
        ),
        (
            "endless error",
            Box::new(|| {
                Answer::raw("HTTP/1.1 403 Forbidden\r\n\r\n<Error><Code>X</Code><Message>")
                    .endless("m".repeat(64 << 10))
            }),
        ),
        (
            "endless page",
            Box::new(|| {
                Answer::raw(format!("{OPEN_END}<ListBucketResult>")).endless("m".repeat(64 << 10))
            }),
        ),
    ];
    for (case, make) in answers {
        let server = Hostile::start(&[], move |_| Some(make()));
        let directory = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let output =
            command_with(server.environment()).arg(BUCKET).arg(directory.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let code = if case.contains("page") || case.starts_with("400") { 6 } else { 4 };
        assert_eq!(output.status.code(), Some(code), "{case}: {said}");
        assert_plain(&said);
        assert_eq!(said.lines().count(), 1, "{case}: {said}");
        assert!(said.len() < 2000, "{case}: {} bytes", said.len());
        let seconds = start.elapsed().as_secs_f64();
        start_row(case, code, seconds);
        assert!(seconds < 10.0, "{case}");
    }
}

#[expect(clippy::print_stdout, reason = "the table of answers")]
fn start_row(case: &str, code: i32, seconds: f64) {
    println!("| start: {case:35} | exit {code}    |          | {seconds:5.1} s |");
}

/// Answers that come byte by byte end by the deadlines of requests and bodies.
#[test]
fn nothing_drips_for_ever() {
    let cases = ["head", "page", "error"];
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
