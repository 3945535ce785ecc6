//! Servers that are not quite S3: each quirk of the simulator, seen on the wire and through a mount.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::mounted::Mounted;
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;
use crate::support::simulator::quirks::Quirk;
use crate::support::simulator::shaping::Share;

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
        Quirk::RefusesChecksumMode => {
            get("d", &["x-amz-checksum-mode: ENABLED"]).contains("<Code>NotImplemented</Code>")
                && get("d", &[]).contains("hello")
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

/// Of every object that the tests put at first.
const DATE: u64 = 1_700_000_000;
const BIG_BYTES: u64 = 20 << 20;
const MANY: u64 = 3_000;

/// Enough for several pages, parts, and names around a slash.
fn fill(sim: &Simulator) {
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(DATE);
    for (key, content) in [
        ("small.txt", "hello"),
        ("empty", ""),
        ("a-b/x", "1"),
        ("a/1", "2"),
        ("a.txt", "3"),
        ("a&<b> + %41.txt", "4"),
        ("control\u{1}", "5"),
        ("deep/er/still/leaf", "6"),
        ("deep/er/gone", "7"),
        ("later/0/file", "0"),
        ("later/1/file", "1"),
        ("later/2/file", "2"),
    ] {
        sim.put_at(BUCKET, key, content, date);
    }
    sim.put_at(BUCKET, "big", noise(BIG_BYTES, 1), date);
    sim.put_tree(BUCKET, "many/", MANY, 10);
    // Between the others of that directory in any order.
    for key in ["many/000007-x", "many/000007/y", "many/001500.d/z"] {
        sim.put_at(BUCKET, key, "8", date);
    }
}

const ROOT: [&str; 11] = [
    "a",
    "a&<b> + %41.txt",
    "a-b",
    "a.txt",
    "big",
    "control\u{1}",
    "deep",
    "empty",
    "later",
    "many",
    "small.txt",
];

/// Bytes of which no two places are alike.
fn noise(len: u64, seed: u64) -> Vec<u8> {
    let word = |at: u64| (at ^ (seed << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..len.div_ceil(8)).flat_map(word).take(usize::try_from(len).expect("small")).collect()
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> =
        entries.map(|entry| name(entry).into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn is_missing(path: &Path) {
    let err = fs::metadata(path).map(drop).expect_err("it does not exist");
    assert_eq!(err.raw_os_error(), Some(libc::ENOENT), "{}: {err}", path.display());
}

/// Everything that a bucket behind such a server must show, through the kernel; and each quirk is
/// said once, and costs no refused request once it is known.
fn check(quirks: &[Quirk]) {
    let sim = simulator(None);
    quirks.iter().for_each(|quirk| sim.set_quirk(*quirk));
    fill(&sim);
    let sim = &sim;
    let mount = Mounted::new(sim, BUCKET, &["--open-ttl", "0s", "--log-level", "info"]);
    check_names(&mount);
    check_content(&mount);
    check_changes(sim, &mount);
    check_knowledge(sim, &mount, quirks);
    let log = mount.log();
    let hidden = "the object many/000007 is hidden by the directory of the same name";
    let warned = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    let warnings: Vec<_> =
        log.lines().filter(warned).filter(|line| !line.ends_with(hidden)).collect();
    assert!(warnings.is_empty(), "{log}");
    for quirk in quirks {
        let n_said = log.lines().filter(|line| line.contains(sentence(*quirk))).count();
        match quirk {
            Quirk::IgnoresStartAfter => {}
            // Of several, one may keep another from showing.
            _ => assert!(n_said == 1 || n_said == 0 && quirks.len() > 1, "{quirk:?}: {log}"),
        }
        if n_said == 1 && !matches!(quirk, Quirk::TreeOrder | Quirk::NoOrder) {
            let named = format!(" INFO {} {}", sim.endpoint(), sentence(*quirk));
            assert!(log.contains(&named), "{quirk:?}: {log}");
        }
    }
}

/// Whether it shows by a request that is refused.
fn refuses(quirk: Quirk) -> bool {
    matches!(
        quirk,
        Quirk::RefusesConditions
            | Quirk::RefusesEncodingType
            | Quirk::RefusesV2
            | Quirk::WantsChecksumMode
            | Quirk::RefusesChecksumMode
            | Quirk::NoHead
    )
}

fn check_names(mount: &Mounted) {
    // By lookups alone, before anything below the root was listed, and while a listing goes on.
    assert_eq!(fs::read(mount.join("deep/er/still/leaf")).expect("a file"), b"6");
    is_missing(&mount.join("deep/er/none"));
    let mut many = fs::read_dir(mount.join("many")).expect("a directory");
    many.next().expect("an entry").expect("an entry");
    for name in ["000000", "000007-x", "000007", "001500", "001500.d", "002999"] {
        fs::metadata(mount.join("many").join(name)).unwrap_or_else(|err| panic!("{name}: {err}"));
    }
    is_missing(&mount.join("many/000007-"));
    is_missing(&mount.join("many/001500x"));
    let seen = 1 + many.filter(std::result::Result::is_ok).count();
    // An object and a directory of one name are one entry.
    assert_eq!(seen as u64, MANY + 2);

    assert_eq!(names(&mount.path()), ROOT);
    let many = names(&mount.join("many"));
    let mut expected: Vec<String> = (0..MANY).map(|number| format!("{number:06}")).collect();
    expected.extend(["000007-x".to_owned(), "001500.d".to_owned()]);
    expected.sort();
    assert_eq!(many, expected);
    assert_eq!(names(&mount.join("deep/er")), ["gone", "still"]);
    is_missing(&mount.join("none"));
    is_missing(&mount.join("none/none"));
    for (name, size) in [("small.txt", 5), ("empty", 0), ("big", BIG_BYTES), ("a/1", 1)] {
        let found = fs::metadata(mount.join(name)).expect("a file");
        let times = (found.mtime(), found.mtime_nsec());
        assert_eq!((found.len(), times), (size, (i64::try_from(DATE).expect("fits"), 0)), "{name}");
    }
}

fn check_content(mount: &Mounted) {
    for (name, content) in [
        ("small.txt", "hello"),
        ("empty", ""),
        ("a/1", "2"),
        ("a-b/x", "1"),
        ("a&<b> + %41.txt", "4"),
        ("control\u{1}", "5"),
        ("many/001500.d/z", "8"),
    ] {
        assert_eq!(fs::read(mount.join(name)).expect("a file"), content.as_bytes(), "{name}");
    }
    let expected = noise(BIG_BYTES, 1);
    let big = fs::File::open(mount.join("big")).expect("a file");
    for at in [15 << 20, 3 << 20, BIG_BYTES - 100, 9 << 20] {
        let mut bytes = [0; 100];
        big.read_exact_at(&mut bytes, at).expect("bytes");
        let at = usize::try_from(at).expect("small");
        assert!(bytes == expected[at..at + 100], "at {at}");
    }
    assert!(fs::read(mount.join("big")).expect("a file") == expected, "the whole");
}

fn check_changes(sim: &Simulator, mount: &Mounted) {
    // Of the same length, so that only ETag and date tell.
    sim.put(BUCKET, "small.txt", "HELLO");
    assert_eq!(fs::read(mount.join("small.txt")).expect("a file"), b"HELLO");
    let found = fs::metadata(mount.join("small.txt")).expect("a file");
    assert!(found.mtime() > 1_750_000_000, "{}", found.mtime());

    let open = fs::File::open(mount.join("big")).expect("a file");
    let mut head = [0; 10];
    open.read_exact_at(&mut head, 0).expect("bytes");
    let (old, new) = (noise(BIG_BYTES, 1), noise(BIG_BYTES, 2));
    sim.put(BUCKET, "big", new.clone());
    assert!(fs::read(mount.join("big")).expect("a file") == new, "the new one, unmixed");
    let mut bytes = [0; 4096];
    for at in [0, 5 << 20, 19 << 20] {
        match open.read_exact_at(&mut bytes, at) {
            Ok(()) => {
                let at = usize::try_from(at).expect("small");
                assert!(bytes == old[at..at + 4096], "at {at}: bytes of another version");
            }
            Err(err) => assert_eq!(err.raw_os_error(), Some(libc::ESTALE), "{err}"),
        }
    }

    sim.delete(BUCKET, "deep/er/gone");
    let err = fs::File::open(mount.join("deep/er/gone")).map(drop).expect_err("it is gone");
    assert_eq!(err.raw_os_error(), Some(libc::ENOENT), "known from a listing: {err}");
}

/// What was refused once is not asked again.
fn check_knowledge(sim: &Simulator, mount: &Mounted, quirks: &[Quirk]) {
    let refused = || {
        let is_refused = |status| matches!(status, Some(400 | 405 | 501));
        sim.log().iter().filter(|entry| is_refused(entry.status)).count()
    };
    // Several at once may have met it before any was answered.
    let n_refused = refused();
    let expected = quirks.iter().any(|quirk| refuses(*quirk));
    assert!(expected == (1..=3 * quirks.len()).contains(&n_refused), "{n_refused} refusals");
    sim.reset_log();
    // Listings, lookups in a directory that was not listed, first reads, and opens that validate.
    for number in 0..3 {
        let directory = mount.join(format!("later/{number}"));
        is_missing(&directory.join("none"));
        for _ in 0..3 {
            let read = fs::read(directory.join("file")).expect("a file");
            assert_eq!(read, number.to_string().as_bytes());
            assert_eq!(fs::read(mount.join("a.txt")).expect("a file"), b"3");
        }
        assert_eq!(names(&directory), ["file"]);
    }
    let (requests, n_refused) = (sim.log(), refused());
    assert_eq!(n_refused, 0, "of {} requests", requests.len());
    let count = |kind| requests.iter().filter(|entry| entry.call.kind == kind).count();
    assert!(count(Kind::List) >= 3, "{} listings", count(Kind::List));
    let unconditional = [Quirk::IgnoresConditions, Quirk::RefusesConditions];
    if unconditional.iter().any(|quirk| quirks.contains(quirk)) && !quirks.contains(&Quirk::NoHead)
    {
        // Opens of what is cached ask by HEAD, rather than for a body that nobody wants.
        assert_eq!(count(Kind::Get), 4, "four files, each for the first time");
    } else {
        assert!(count(Kind::Get) >= 12, "each open asks: {}", count(Kind::Get));
    }
}

/// What the log says of the server.
fn sentence(quirk: Quirk) -> &'static str {
    match quirk {
        Quirk::TreeOrder | Quirk::NoOrder => "lists in another order than S3",
        Quirk::NoListETag => "lists without ETags",
        Quirk::UnquotedListETag => "lists ETags without quotes",
        Quirk::IgnoresConditions => "ignores If-Match",
        Quirk::RefusesConditions => "refuses If-Match",
        Quirk::IgnoresRange => "ignores Range",
        Quirk::IgnoresEncodingType => "ignores encoding-type",
        Quirk::RefusesEncodingType => "refuses encoding-type",
        // Nothing that the program does today begins a listing in its middle.
        Quirk::IgnoresStartAfter => "",
        Quirk::ListsV1 | Quirk::RefusesV2 => "does not know ListObjectsV2",
        Quirk::ForbiddenForMissing => "answers 403 for a key that is missing",
        Quirk::RefusesChecksumMode => "refuses x-amz-checksum-mode",
        Quirk::WantsChecksumMode => "wants x-amz-checksum-mode",
        Quirk::Http10 | Quirk::ClosesConnections => "closes the connection after each answer",
        Quirk::FractionalDates => "writes Last-Modified in another form",
        Quirk::NoLastModified => "tells no Last-Modified",
        Quirk::NoHead => "has no HEAD of objects",
        Quirk::NoContentLength => "tells no Content-Length",
    }
}

macro_rules! quirks {
    ($($(#[$doc:meta])* $test:ident: $($quirk:ident)+;)*) => {
        $($(#[$doc])* #[test] fn $test() {
            check(&[$(Quirk::$quirk),+]);
        })*

        /// No quirk of the simulator is left out above.
        #[test]
        fn every_quirk_is_mounted() {
            let mounted = [$($(Quirk::$quirk),+),*];
            assert!(Quirk::ALL.iter().all(|quirk| mounted.contains(quirk)));
        }
    };
}

quirks! {
    tree_order_is_read_right: TreeOrder;
    no_order_is_read_right: NoOrder;
    listings_without_etags_are_read_right: NoListETag;
    unquoted_etags_are_read_right: UnquotedListETag;
    ignored_conditions_are_kept_here: IgnoresConditions;
    refused_conditions_are_kept_here: RefusesConditions;
    an_ignored_range_is_cut_out_here: IgnoresRange;
    ignored_encoding_is_read_right: IgnoresEncodingType;
    refused_encoding_is_left_out: RefusesEncodingType;
    ignored_start_after_is_read_right: IgnoresStartAfter;
    version_1_instead_of_2_is_read_right: ListsV1;
    version_1_is_used_where_2_is_refused: RefusesV2;
    a_forbidden_key_that_is_missing_is_missing: ForbiddenForMissing;
    checksum_mode_is_sent_where_it_is_wanted: WantsChecksumMode;
    checksum_mode_is_left_out_where_it_is_refused: RefusesChecksumMode;
    http_1_0_is_read_right: Http10;
    closed_connections_are_opened_again: ClosesConnections;
    dates_with_fractions_are_whole_seconds: FractionalDates;
    missing_dates_are_found_in_listings: NoLastModified;
    a_get_stands_in_for_a_head: NoHead;
    lengths_are_found_by_ranges: NoContentLength;
    five_quirks_at_once_are_read_right: NoHead ListsV1 NoListETag IgnoresConditions Http10;
    proxies_that_recode_are_read_right: NoContentLength Http10 FractionalDates RefusesEncodingType;
    poor_servers_are_read_right: IgnoresRange RefusesConditions NoLastModified RefusesV2 NoOrder;
}

/// A whole body for each range would cost a hundred times the file; a stream costs one body, and the
/// part of it that is wanted where the reader stops.
#[test]
fn a_stream_without_ranges_costs_one_body() {
    const SIZE: u64 = 64 << 20;
    let sim = simulator(Some(Quirk::IgnoresRange));
    sim.put_synthetic(BUCKET, "big", SIZE);
    let mount = Mounted::new(&sim, BUCKET, &[]);
    sim.reset_log();
    let status = Command::new("cmp")
        .args(["-n", &SIZE.to_string(), "-"])
        .arg(mount.join("big"))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .and_then(|mut cmp| {
            let mut input = cmp.stdin.take().expect("a pipe");
            input.write_all(&sim.object_bytes(BUCKET, "big"))?;
            drop(input);
            cmp.wait()
        });
    assert!(status.expect("cmp runs").success(), "the bytes differ");
    let counts = sim.counts();
    assert_eq!((counts.get, counts.bytes_sent), (1, SIZE));

    // From the middle on: what lies before is skipped, what follows is not read.
    drop(mount);
    let mount = Mounted::new(&sim, BUCKET, &[]);
    sim.reset_log();
    let big = fs::File::open(mount.join("big")).expect("a file");
    let mut bytes = vec![0; 4096];
    big.read_exact_at(&mut bytes, SIZE / 2).expect("bytes");
    assert!(bytes == sim.range_bytes(BUCKET, "big", SIZE / 2..SIZE / 2 + 4096));
    assert_eq!(sim.counts().get, 1, "the body of the open is read on");
    assert!(sim.counts().bytes_sent < SIZE, "{:?}", sim.counts());
}

/// Several readers of one file at different places, each in order: none gets another's bytes, and
/// each costs a body at most.
#[test]
fn streams_without_ranges_do_not_mix() {
    const SIZE: u64 = 32 << 20;
    const READERS: u64 = 4;
    let sim = simulator(Some(Quirk::IgnoresRange));
    sim.put_synthetic(BUCKET, "big", SIZE);
    let mount = Mounted::new(&sim, BUCKET, &[]);
    sim.reset_log();
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (sim, path) = (&sim, mount.join("big"));
            scope.spawn(move || {
                let file = fs::File::open(path).expect("a file");
                let quarter = SIZE / READERS;
                let mut bytes = vec![0; 1 << 20];
                for step in 0..quarter >> 20 {
                    let at = reader * quarter + (step << 20);
                    file.read_exact_at(&mut bytes, at).expect("bytes");
                    assert!(bytes == sim.range_bytes(BUCKET, "big", at..at + (1 << 20)), "at {at}");
                }
            });
        }
    });
    let counts = sim.counts();
    assert!(counts.get <= 4 * READERS, "{counts:?}");
}

/// A body that breaks is gone for all that wait for it; they go on in another one.
#[test]
fn a_broken_body_without_ranges_is_made_up_for() {
    const SIZE: u64 = 32 << 20;
    let sim = simulator(Some(Quirk::IgnoresRange));
    sim.put_synthetic(BUCKET, "big", SIZE);
    let mount = Mounted::new(&sim, BUCKET, &[]);
    sim.reset_log();
    sim.shape(|shaping| shaping.cuts = Share::First(3));
    assert!(fs::read(mount.join("big")).expect("a file") == sim.object_bytes(BUCKET, "big"));
    assert_eq!(sim.counts().faults, 3);
    assert!(sim.counts().get <= 12, "{:?}", sim.counts());
}

/// In the smallest budget, with a dozen requests in flight at most: ranges that wait for a body leave
/// room for the one that is read, and no stream loses its body to another.
#[test]
fn streams_of_several_files_without_ranges_go_on_side_by_side() {
    const SIZE: u64 = 16 << 20;
    const FILES: u64 = 6;
    let sim = simulator(Some(Quirk::IgnoresRange));
    for number in 0..FILES {
        sim.put_synthetic(BUCKET, &format!("{number}"), SIZE);
    }
    let mount = Mounted::new(&sim, BUCKET, &["--memory", "32MiB"]);
    sim.reset_log();
    std::thread::scope(|scope| {
        for number in 0..FILES {
            let (sim, name) = (&sim, number.to_string());
            let path = mount.join(&name);
            scope.spawn(move || {
                assert!(fs::read(path).expect("a file") == sim.object_bytes(BUCKET, &name));
            });
        }
    });
    let counts = sim.counts();
    assert!(counts.get <= 2 * FILES, "{counts:?}");
}
