//! A server, or whoever sits between, that answers a read with anything, sends elsewhere, or writes
//! commands for a terminal: an error, or the bytes that were asked for.

use std::fmt::Display;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::support::hostile::{
    Answer, BUCKET, Hostile, OBJECT_HEADERS, Piece, Request, contents, filled,
};
use crate::support::mounted::{Mounted, command_with};
use crate::support::stage::{OPEN_END, Stage, case_of, names, words};

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
    Answer::new("206 Partial Content", &headers, filled(end - start))
}

/// An answer to a read that is not the one that was asked for is EIO: another status, a length that
/// does not fit, an ETag that could not be sent back.
#[test]
fn a_whole_object_is_what_its_answer_says_or_an_error() {
    let cases = words(
        "shorter no-content part range-in-200 unasked-304 \
         unasked-412 less more etag-weak etag-empty etag-1MB etag-300KB etag-2KB etag-controls \
         length-negative \
         length-huge length-twice year-99999 year-negative two-bodies endless endless-chunks",
    );
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
            "less" => Some(Answer::new("200 OK", OBJECT_HEADERS, "fo")),
            "more" => Some(Answer::new("200 OK", OBJECT_HEADERS, "four and more")),
            "etag-weak" => etag("W/\"e\""),
            "etag-empty" => etag(""),
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
    // A date that cannot be read is none: the ETag decides.
    let honest = ["two-bodies", "etag-empty", "year-99999"];
    for case in honest {
        assert_eq!(stage.gives(&format!("GET: {case}"), || read(case)), b"four");
    }
    let fails = |case: &str| {
        // Each says that the object is another than that of the listing, which says so again.
        let other_version = ["year-negative", "less", "more", "etag-weak"].contains(&case);
        let errno = if other_version { libc::ESTALE } else { libc::EIO };
        stage.fails(&format!("GET: {case}"), errno, || read(case));
    };
    // Broken on the way, as it may be, and asked for again.
    let slow = words(
        "shorter length-negative length-huge length-twice etag-1MB etag-controls \
         year-negative",
    );
    std::thread::scope(|scope| {
        for &case in &slow {
            scope.spawn(move || fails(case));
        }
    });
    for case in cases.iter().filter(|case| !slow.contains(case) && !honest.contains(case)) {
        fails(case);
    }
}

/// An answer to a lookup that does not say what the object is, is EIO and never a missing file.
#[test]
fn the_head_of_an_object_is_what_its_answer_says_or_an_error() {
    let cases = words("204 206 etag-2KB");
    let stage = Stage::new(&cases, |request| {
        let case = request.key().strip_suffix("/looked-up").filter(|_| request.method == "HEAD")?;
        let head = |status: &str, more: &str| {
            Some(Answer::raw(format!("HTTP/1.1 {status}\r\n{OBJECT_HEADERS}{more}\r\n")))
        };
        match case {
            "204" => head("204 No Content", ""),
            "206" => {
                head("206 Partial Content", "Content-Range: bytes 0-0/1\r\nContent-Length: 1\r\n")
            }
            "etag-2KB" => {
                let tag = "e".repeat(2 << 10);
                Some(Answer::raw(format!(
                    "HTTP/1.1 200 OK\r\nETag: {tag}\r\nContent-Length: 1\r\n\r\n"
                )))
            }
            _ => None,
        }
    });
    for case in cases {
        let looked_up = || fs::metadata(stage.mounted.join(case).join("looked-up"));
        stage.fails(&format!("HEAD: {case}"), libc::EIO, looked_up);
    }
}

/// A part of an object is the one that was asked for, of the version that was opened, or an error.
#[test]
fn a_part_is_the_one_that_was_asked_for_or_an_error() {
    const SIZE: u64 = 3 << 20;
    let cases = words(
        "start end size-huge size-overflow last-overflow size-unknown backwards no-range multipart \
         endless longer whole late-start late-etag late-size late-multipart late-whole \
         late-304 growing",
    );
    let keys: Vec<String> = cases.iter().map(|case| format!("get/{case}")).collect();
    let content = filled(SIZE);
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
            Some(Answer::new("206 Partial Content", &headers, filled(length)))
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
            "last-overflow" => with(&format!("bytes {start}-{0}/{0}", u64::MAX), length),
            "size-unknown" => with(&format!("bytes {start}-{}/*", end - 1), length),
            "backwards" => with(&format!("bytes {end}-{start}/{SIZE}"), length),
            "no-range" => Some(Answer::new("206 Partial Content", OBJECT_HEADERS, filled(length))),
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
            "whole" if !late => Some(Answer::new("200 OK", OBJECT_HEADERS, filled(SIZE))),
            "late-start" if late => with(&format!("bytes {}-{end}/{SIZE}", start + 1), length),
            "late-etag" if late => Some(part(&range, SIZE, "\"other\"")),
            "late-size" if late => Some(part(&range, SIZE + 1, "\"e\"")),
            "late-multipart" if late => multipart(),
            "late-whole" if late => Some(Answer::new("200 OK", OBJECT_HEADERS, filled(SIZE))),
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
        "last-overflow",
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
    // At last, as it says that the server has no ranges: the bytes are in there.
    let mut bytes = [0; 100];
    stage.gives("range: late-whole", || {
        fs::File::open(path("late-whole"))?.read_exact_at(&mut bytes, 2 << 20)
    });
    assert_eq!(bytes, [b'x'; 100]);
}

/// A part that comes wrong once is asked for again, and no reader notices.
#[test]
fn a_part_that_comes_wrong_once_is_asked_for_again() {
    const SIZE: u64 = 3 << 20;
    let cases = words("start end size no-range multipart longer shorter status");
    let keys: Vec<String> = cases.iter().map(|case| format!("get/{case}")).collect();
    let content = filled(SIZE);
    let mut objects: Vec<(&str, &[u8])> =
        keys.iter().map(|key| (key.as_str(), content.as_slice())).collect();
    objects.push(("good/f", b"good"));
    let wrong = std::sync::Mutex::new(std::collections::BTreeSet::new());
    let stage = Stage::with(&objects, move |request| {
        let (case, range) = (got_case(request)?, request.range()?);
        let Range { start, end } = range;
        if start == 0 || !wrong.lock().expect("no panic").insert(case.to_owned()) {
            return None;
        }
        let with = |content_range: &str, length: u64| {
            let headers = format!("{OBJECT_HEADERS}Content-Range: {content_range}\r\n");
            Some(Answer::new("206 Partial Content", &headers, filled(length)))
        };
        let length = end - start;
        let head = |length: u64| {
            format!(
                "HTTP/1.1 206 Partial Content\r\n{OBJECT_HEADERS}Content-Range: bytes {start}-{}/{SIZE}\r\n\
                 Content-Length: {length}\r\n\r\n",
                end - 1
            )
        };
        match case {
            "start" => with(&format!("bytes {}-{end}/{SIZE}", start + 1), length),
            "end" => with(&format!("bytes {start}-{}/{SIZE}", end - 2), length - 1),
            "size" => with(&format!("bytes {start}-{}/*", end - 1), length),
            "no-range" => Some(Answer::new("206 Partial Content", OBJECT_HEADERS, filled(length))),
            "multipart" => {
                let headers =
                    format!("{OBJECT_HEADERS}Content-Type: multipart/byteranges; boundary=b\r\n");
                Some(Answer::new("206 Partial Content", &headers, "--b\r\n\r\nxx\r\n--b--"))
            }
            "longer" => with(&format!("bytes {start}-{}/{SIZE}", end - 1), length + 1),
            "shorter" => Some(Answer::raw(head(length) + "xx").then(std::iter::once(Piece::Close))),
            "status" => {
                Some(Answer::raw(format!("HTTP/1.1 204 No Content\r\n{OBJECT_HEADERS}\r\n")))
            }
            _ => None,
        }
    });
    for case in cases {
        let mut bytes = [0; 100];
        stage.gives(&format!("once: {case}"), || {
            fs::File::open(stage.mounted.join("get").join(case))?.read_exact_at(&mut bytes, 2 << 20)
        });
        assert_eq!(bytes, [b'x'; 100], "{case}");
        let asked = stage.server.requests();
        let n_parts = asked
            .iter()
            .filter(|request| got_case(request) == Some(case))
            .filter(|request| request.range().is_some_and(|range| range.start > 0))
            .count();
        assert!(n_parts >= 2, "{case}: it did come wrong");
    }
}

/// A redirect is never followed, and a region that the server names is used only where it can be the
/// name of one.
#[test]
fn nobody_is_sent_elsewhere() {
    let elsewhere = Hostile::start(&[], |_| None);
    let other = elsewhere.endpoint();
    let cases = words(
        "301 302 303 307 308 region-slash region-dots region-1MB region-up region-element \
         location-region object-307",
    );
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
            // Its listing is honest, its content is not.
            "object-307" if request.got().is_some() => redirect("307 Moved", &location, ""),
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
        let read = || match case {
            "object-307" => fs::read(stage.mounted.join("object-307/f")).map(drop),
            _ => names(&stage.mounted.join(case)).map(drop),
        };
        stage.fails(&format!("redirect: {case}"), libc::EIO, read);
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

/// Names are shown as they are in the bucket, control characters and all, but no log holds such a
/// character, at any level.
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
        // Of those a document of XML can hold.
        let words = "&#27;]0;title \u{9b}31m \u{202e}\u{2066}&#10;2026-01-01T00:00:00Z ERROR x";
        let body = format!(
            "<Error><Code>Access{words}</Code><Message>{words}</Message>\
             <RequestId>{words}</RequestId></Error>"
        );
        Some(Answer::new("403 Forbidden", "x-amz-request-id: a\u{9b}b\r\n", body))
    });
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let options = ["--log-level", "trace", "--log-file", log.to_str().unwrap()];
    let mut program = command_with(server.environment());
    program.env("AWS_SESSION_TOKEN", "hostile-token");
    let mounted = Mounted::start(program, BUCKET, &options);
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
        // But for `f`, nothing is there when a listing of exactly that name is asked for.
        let expected = if name == "f" { libc::EACCES } else { libc::ENOENT };
        let err = fs::read(mounted.join("d").join(name)).unwrap_err();
        assert_eq!(err.raw_os_error(), Some(expected), "{name:?}: {err}");
    }
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("\\u{9b}31m \\u{202e}\\u{2066}"), "the server's words are there: {text}");
    assert!(text.contains("\\u{1b}[2Jescape"), "and the keys");
    assert_plain(&text);
    assert_plain(&mounted.log());
    let forged =
        text.lines().find(|line| !line.starts_with("20") || line.starts_with("2026-01-01"));
    assert_eq!(forged, None, "each line is one of ours");
    for secret in ["hostile-secret", "hostile-token"] {
        assert!(!text.contains(secret), "nor is {secret} in it");
    }
}

/// The sentence of a start that fails is one line without control characters, whatever the server
/// said.
#[test]
fn a_failed_start_says_it_plainly() {
    // Of those a document of XML can hold.
    let words = "&#27;]0;title\u{9b}31m\u{202e}&#10;forged: line";
    let answer = move |case: &str| match case {
        "denied" => {
            let body = format!("<Error><Code>A{words}</Code><Message>{words}</Message></Error>");
            Answer::new("403 Forbidden", "", body)
        }
        "odd" => {
            let body = format!("<Error><Code>Odd</Code><Message>{words}</Message></Error>");
            Answer::new("400 Bad Request", "", body)
        }
        "endless-error" => {
            Answer::raw("HTTP/1.1 403 Forbidden\r\n\r\n<Error><Code>X</Code><Message>")
                .endless("m".repeat(64 << 10))
        }
        _ => Answer::raw(format!("{OPEN_END}<ListBucketResult>")).endless("m".repeat(64 << 10)),
    };
    for (case, code) in [("denied", 4), ("odd", 6), ("endless-error", 4), ("endless-page", 6)] {
        let server = Hostile::start(&[], move |_| Some(answer(case)));
        let directory = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let output =
            command_with(server.environment()).arg(BUCKET).arg(directory.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{case}: {said}");
        assert_plain(&said);
        assert!(case != "odd" || said.contains("\\u{9b}31m\\u{202e} forged"), "{said}");
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
