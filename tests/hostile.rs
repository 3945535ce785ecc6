//! A server, or whoever sits between, that answers anything: an error, bounded in memory and time;
//! never a loop, a part of a listing shown as the whole, a name outside the mount, or control
//! characters in a log. Each test prints a row for each answer: `--no-capture` shows them.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::hostile::{
    Answer, BUCKET, Hostile, OBJECT_HEADERS, Piece, Request, contents, more, page,
};
use crate::support::mounted::{Mounted, command_with};

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
        let server = Hostile::start(objects, script);
        let options = ["--memory", MEMORY, "--metadata-ttl", "0s", "--open-ttl", "0s"];
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
        "entries", "prefixes", "element", "attribute", "text", "key", "comment", "instruction",
        "cdata", "depth", "closing", "blank", "chunks",
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
        "many", "bomb", "doctype", "utf16", "latin", "nul", "invalid", "deep", "truncated-maybe",
        "no-key", "negative", "huge", "long-key",
    ];
    let stage = Stage::new(&cases, move |request| {
        let declared = |encoding: &str| {
            format!("<?xml version=\"1.0\" encoding=\"{encoding}\"?>{}", page(&[], &[], ""))
        };
        let xml: Vec<u8> = match case_of(request)? {
            "many" => format!("<ListBucketResult>{many}</ListBucketResult>").into(),
            "bomb" => bomb.into(),
            "doctype" => format!("<!DOCTYPE x SYSTEM 'file:///etc/passwd'>{}", page(&[], &[], ""))
                .into(),
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
            "negative" => page(&[], &[], "<Contents><Key>negative/f</Key><Size>-1</Size></Contents>")
                .into(),
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
            format!("HTTP/1.1 200 OK\r\n{more}Connection: close\r\nContent-Length: {length}\r\n\r\n")
        };
        let cut = &xml[..xml.len() / 2];
        // Closed after it, whatever the head says.
        let closed = |text: String| Some(Answer::raw(text).then(std::iter::once(Piece::Close)));
        match case_of(request)? {
            "cut" => closed(format!("{OPEN_END}{cut}")),
            "short" => closed(head(xml.len() / 2, "") + &xml),
            "long" => closed(head(xml.len() * 2, "") + &xml),
            "gzip" => closed(head(20, "Content-Encoding: gzip\r\n") + "\u{1f}\u{b}gzipgzipgzipgzip"),
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
