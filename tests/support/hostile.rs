//! A server that answers whatever a test likes: S3 as far as listings and reads go, for a few small
//! objects, until the test's own function takes a request over.
//!
//! It looks at no signature. A thread for each connection writes the pieces of an answer one after
//! the other, so that one may be endless or come drop by drop; it ends when the client goes away or
//! the value is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::mounted::sleep;

/// The bucket of every such server.
pub(crate) const BUCKET: &str = "hostile";

/// A client that neither reads nor goes away for so long has lost interest.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// One request, read from its head.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Decoded, with its first slash.
    pub(crate) path: String,
    /// Decoded.
    pub(crate) query: BTreeMap<String, String>,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    /// The key of an object; empty for the bucket itself.
    pub(crate) fn key(&self) -> &str {
        let path = self.path.trim_start_matches('/');
        path.split_once('/').map_or("", |(_, key)| key)
    }

    /// The prefix, where it asks for a listing.
    pub(crate) fn listed(&self) -> Option<&str> {
        let listing = self.method == "GET" && self.key().is_empty();
        listing.then(|| self.query.get("prefix").map_or("", String::as_str))
    }

    /// The key, where it asks for the bytes of an object.
    pub(crate) fn got(&self) -> Option<&str> {
        (self.method == "GET" && !self.key().is_empty()).then(|| self.key())
    }

    /// `bytes=FIRST-LAST`, half-open.
    pub(crate) fn range(&self) -> Option<Range<u64>> {
        let (first, last) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1)
    }
}

/// What is written, as it is: nothing is added and nothing checked.
pub(crate) struct Answer(Box<dyn Iterator<Item = Piece> + Send>);

/// A part of an answer.
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    Pause(Duration),
    /// The connection ends here.
    Close,
}

impl Answer {
    /// Head and body in one.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Box::new(std::iter::once(Piece::Bytes(bytes.into()))))
    }

    /// A whole answer with the right length. Each of `headers` ends its line.
    pub(crate) fn new(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes =
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        bytes.extend_from_slice(body);
        Self::raw(bytes)
    }

    /// A page of a listing.
    pub(crate) fn xml(body: impl AsRef<[u8]>) -> Self {
        Self::new("200 OK", "Content-Type: application/xml\r\n", body)
    }

    /// Followed by `bytes`, which belong to no answer.
    pub(crate) fn append(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(std::iter::once(Piece::Bytes(bytes.into())))
    }

    /// Followed by `chunk` for ever.
    pub(crate) fn endless(self, chunk: impl Into<Vec<u8>>) -> Self {
        let chunk: Vec<u8> = chunk.into();
        let again = std::iter::repeat_with(move || Piece::Bytes(chunk.clone()));
        Self(Box::new(self.0.chain(again)))
    }

    /// Followed by what `next` makes.
    pub(crate) fn then(self, next: impl Iterator<Item = Piece> + Send + 'static) -> Self {
        Self(Box::new(self.0.chain(next)))
    }

    /// Followed by one byte of `bytes`, again and again from their start, for each `pause`.
    pub(crate) fn drip(self, bytes: &'static [u8], pause: Duration) -> Self {
        let drops = bytes.iter().cycle();
        self.then(drops.flat_map(move |byte| [Piece::Pause(pause), Piece::Bytes(vec![*byte])]))
    }
}

/// A page with these keys and common prefixes.
pub(crate) fn page(keys: &[&str], prefixes: &[&str], rest: &str) -> String {
    let mut xml = String::from("<ListBucketResult>");
    for key in keys {
        xml.push_str(&contents(key, 1));
    }
    for prefix in prefixes {
        let _ = write!(xml, "<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>");
    }
    xml + rest + "</ListBucketResult>"
}

/// What says that a listing goes on.
pub(crate) fn more(token: &str) -> String {
    format!(
        "<IsTruncated>true</IsTruncated>\
         <NextContinuationToken>{token}</NextContinuationToken>"
    )
}

/// One entry of a page.
pub(crate) fn contents(key: &str, size: usize) -> String {
    format!(
        "<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>\
         <ETag>&quot;e&quot;</ETag><Size>{size}</Size></Contents>"
    )
}

/// Content of this length.
pub(crate) fn filled(length: u64) -> Vec<u8> {
    vec![b'x'; usize::try_from(length).expect("it is in memory")]
}

/// What a GET of an honest server says beside the length.
pub(crate) const OBJECT_HEADERS: &str =
    "ETag: \"e\"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n";

type Script = dyn Fn(&Request) -> Option<Answer> + Send + Sync;

struct Shared {
    objects: BTreeMap<String, Vec<u8>>,
    script: Box<Script>,
    requests: Mutex<Vec<Request>>,
    bytes_sent: AtomicU64,
    connections: AtomicU64,
    stopped: AtomicBool,
}

/// The server.
pub(crate) struct Hostile {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Hostile {
    /// Serves `objects` (key and content, each of ETag `"e"`), but for what `script` answers.
    pub(crate) fn start(
        objects: &[(&str, &[u8])],
        script: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let owned = |(key, bytes): &(&str, &[u8])| ((*key).to_owned(), bytes.to_vec());
        let shared = Arc::new(Shared {
            objects: objects.iter().map(owned).collect(),
            script: Box::new(script),
            requests: Mutex::default(),
            bytes_sent: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                serving.connections.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&serving);
                // How the connection ends is the client's affair.
                std::thread::spawn(move || drop(shared.serve(&stream)));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the client is told about it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "AKIAHOSTILE".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "hostile-secret".to_owned()),
        ]
    }

    /// All requests so far, each when its head had come.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no panic").clone()
    }

    pub(crate) fn bytes_sent(&self) -> u64 {
        self.shared.bytes_sent.load(Ordering::Relaxed)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// One connection, request by request.
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader)? {
            self.requests.lock().expect("no panic").push(request.clone());
            let answer = (self.script)(&request).unwrap_or_else(|| self.honest(&request));
            for piece in answer.0 {
                if self.stopped.load(Ordering::Relaxed) {
                    return Ok(());
                }
                match piece {
                    Piece::Bytes(bytes) => {
                        (&mut &*stream).write_all(&bytes)?;
                        self.bytes_sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                    Piece::Pause(pause) => sleep(pause),
                    Piece::Close => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// What S3 would answer.
    fn honest(&self, request: &Request) -> Answer {
        if let Some(prefix) = request.listed() {
            return self.list(prefix, request.query.contains_key("delimiter"));
        }
        let Some(bytes) = self.objects.get(request.key()) else {
            let error = "<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>";
            return Answer::new(
                "404 Not Found",
                "",
                if request.method == "HEAD" { "" } else { error },
            );
        };
        if request.method == "HEAD" {
            let head = format!(
                "HTTP/1.1 200 OK\r\n{OBJECT_HEADERS}Content-Length: {}\r\n\r\n",
                bytes.len()
            );
            return Answer::raw(head);
        }
        let whole = bytes.len() as u64;
        match request.range() {
            None => Answer::new("200 OK", OBJECT_HEADERS, bytes),
            Some(range) => {
                let (start, end) = (range.start, range.end.min(whole));
                let headers =
                    format!("{OBJECT_HEADERS}Content-Range: bytes {start}-{}/{whole}\r\n", end - 1);
                let at = |offset| usize::try_from(offset).expect("it is in memory");
                Answer::new("206 Partial Content", &headers, &bytes[at(start)..at(end)])
            }
        }
    }

    fn list(&self, prefix: &str, delimited: bool) -> Answer {
        let mut xml = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
        let mut prefixes = BTreeSet::new();
        for (key, bytes) in &self.objects {
            let Some(rest) = key.strip_prefix(prefix) else { continue };
            match rest.find('/').filter(|_| delimited) {
                Some(slash) => drop(prefixes.insert(&key[..prefix.len() + slash + 1])),
                None => xml.push_str(&contents(key, bytes.len())),
            }
        }
        for prefix in prefixes {
            let _ = write!(xml, "<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>");
        }
        Answer::xml(xml + "</ListBucketResult>")
    }
}

/// The head of the next request; `None` at the end of the connection. None of ours has a body.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.take(64 << 10).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    };
    let mut request = Request {
        method: method.to_owned(),
        path: decode(path),
        query: query.split('&').filter(|text| !text.is_empty()).map(pair).collect(),
        headers: BTreeMap::new(),
    };
    loop {
        let mut line = String::new();
        reader.take(64 << 10).read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => return Ok(Some(request)),
        }
    }
}
