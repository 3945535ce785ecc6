//! Servers that are not quite S3: each quirk of the simulator, seen on the wire and through a mount.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use crate::support::simulator::Simulator;
use crate::support::simulator::quirks::Quirk;

const BUCKET: &str = "myfiles";

/// A simulator with the quirk, or with none.
fn simulator(quirk: Option<Quirk>) -> Simulator {
    let sim = Simulator::builder().bucket(BUCKET).start();
    quirk.into_iter().for_each(|quirk| sim.set_quirk(quirk));
    sim
}

/// The answer to one unsigned request as it comes over the wire, HTTP version and all.
fn raw(sim: &Simulator, request: &str, headers: &[&str]) -> String {
    let address = sim.endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("the simulator listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a TCP socket");
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    // The second request tells whether the connection was kept.
    let head = format!("{request} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    let last = format!("GET /_sim/counts HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(format!("{head}{last}").as_bytes()).expect("the simulator reads");
    let mut answer = Vec::new();
    // A connection that the server closes with our second request unread is reset.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Each quirk does on the wire what its comment says, and the server without quirks does not.
#[test]
fn the_simulator_differs_from_s3_as_it_was_told() {
    for quirk in Quirk::ALL {
        let with = simulator(Some(quirk));
        let without = simulator(None);
        for sim in [&with, &without] {
            sim.set_anonymous(BUCKET, true);
            for key in ["a-b", "a/1", "a/2", "c\u{1}", "d", "e", "f"] {
                let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
                sim.put_at(BUCKET, key, "hello", date);
            }
        }
        assert!(shows(&with, quirk), "{quirk:?} is not there");
        assert!(!shows(&without, quirk), "{quirk:?} without having been asked for");
    }
}

/// Whether the server has the quirk, by what is specific to it.
fn shows(sim: &Simulator, quirk: Quirk) -> bool {
    let list = |query: &str| raw(sim, &format!("GET /{BUCKET}?list-type=2{query}"), &[]);
    let get = |key: &str, headers: &[&str]| raw(sim, &format!("GET /{BUCKET}/{key}"), headers);
    let head = |key: &str| raw(sim, &format!("HEAD /{BUCKET}/{key}"), &[]);
    let all = list("");
    let place = |key: &str| all.find(&format!("<Key>{key}</Key>")).unwrap_or_default();
    match quirk {
        Quirk::TreeOrder => place("a/1") < place("a-b"),
        Quirk::NoOrder => {
            let order = ["a-b", "a/1", "a/2", "d", "e", "f"].map(place);
            let ignores = list("&start-after=e").contains("<Key>a-b</Key>");
            !order.is_sorted() && place("a-b") > 0 && ignores
        }
        Quirk::NoListETag => !all.contains("ETag"),
        Quirk::UnquotedListETag => all.contains("<ETag>5d41402abc4b2a76b9719d911017c592</ETag>"),
        Quirk::IgnoresConditions => {
            get("d", &["If-Match: \"no\""]).starts_with("HTTP/1.1 200 ")
                && get("d", &["If-None-Match: *"]).starts_with("HTTP/1.1 200 ")
        }
        Quirk::RefusesConditions => {
            get("d", &["If-Match: *"]).contains("501 Not Implemented")
                && get("d", &["If-None-Match: \"no\""]).contains("<Code>NotImplemented</Code>")
        }
        Quirk::IgnoresRange => {
            let answer = get("d", &["Range: bytes=1-2"]);
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("\r\n\r\nhello")
        }
        Quirk::IgnoresEncodingType => {
            let answer = list("&encoding-type=url");
            answer.contains("c&#x1;") && !answer.contains("EncodingType")
        }
        Quirk::RefusesEncodingType => list("&encoding-type=url").contains("InvalidArgument"),
        Quirk::IgnoresStartAfter => list("&start-after=e").contains("<Key>a-b</Key>"),
        Quirk::ListsV1 => all.contains("<Marker>") && !all.contains("KeyCount"),
        Quirk::RefusesV2 => {
            let older = raw(sim, &format!("GET /{BUCKET}?marker=e"), &[]);
            all.contains("501 Not Implemented") && older.contains("<Key>f</Key>")
        }
        Quirk::ForbiddenForMissing => {
            get("none", &[]).contains("403 Forbidden") && head("none").contains("403 Forbidden")
        }
        Quirk::WantsChecksumMode => {
            get("d", &[]).contains("<Code>InvalidRequest</Code>")
                && get("d", &["x-amz-checksum-mode: ENABLED"]).contains("hello")
        }
        Quirk::Http10 => all.starts_with("HTTP/1.0 200 ") && !all.contains("concurrent_max"),
        Quirk::ClosesConnections => {
            all.starts_with("HTTP/1.1 200 ") && !all.contains("concurrent_max")
        }
        Quirk::FractionalDates => {
            let date = "2023-11-14T22:13:20.789Z";
            all.contains(date) && head("d").contains(date) && get("d", &[]).contains(date)
        }
        Quirk::NoLastModified => {
            let dated = |answer: String| answer.to_lowercase().contains("last-modified");
            !dated(head("d")) && !dated(get("d", &[]))
        }
        Quirk::NoHead => head("d").starts_with("HTTP/1.1 405 "),
        Quirk::NoContentLength => {
            let answer = get("d", &[]);
            let (head, _) = answer.split_once("\r\n\r\n").expect("a head");
            head.contains("transfer-encoding: chunked") && !head.contains("content-length")
        }
    }
}
