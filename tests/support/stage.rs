//! A hostile server with the built binary mounted on it: what each answer must come to, and the row
//! of the table that tells it (`--no-capture` shows them).

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::hostile::{Answer, BUCKET, Hostile, Request};
use super::mounted::{Mounted, command_with};

pub(crate) const MIB: u64 = 1 << 20;

/// `--memory`, and what the process may take beside it.
const MEMORY: &str = "64MiB";
pub(crate) const RESIDENT_MAX: u64 = (64 + 64) * MIB;

/// Each try of a request, pauses and all, ends in 15 s; a lookup, an open, a read of a directory in
/// 20 s.
const SECONDS_MAX: u64 = 21;

/// Some answers end only with the client.
pub(crate) const OPEN_END: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

/// A hostile server with the binary mounted on it.
pub(crate) struct Stage {
    pub(crate) server: Hostile,
    pub(crate) mounted: Mounted,
}

impl Stage {
    /// Every directory of `cases` is there, and `good/f`.
    pub(crate) fn new(
        cases: &[&str],
        script: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let inside: Vec<String> = cases.iter().map(|case| format!("{case}/f")).collect();
        let mut objects: Vec<(&str, &[u8])> =
            inside.iter().map(|key| (key.as_str(), b"x".as_slice())).collect();
        objects.push(("good/f", b"good"));
        Self::with(&objects, script)
    }

    pub(crate) fn with(
        objects: &[(&str, &[u8])],
        script: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::with_memory(MEMORY, objects, script)
    }

    pub(crate) fn with_memory(
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
    pub(crate) fn fails<T>(&self, case: &str, errno: i32, work: impl FnOnce() -> io::Result<T>) {
        self.mounted.reset_peak_resident();
        let start = Instant::now();
        let got = work().err().and_then(|err| err.raw_os_error());
        self.row(case, got, start);
        assert_eq!(got, Some(errno), "{case}: {}", self.mounted.log());
    }

    /// As [`Stage::fails`] for what is no error.
    #[track_caller]
    pub(crate) fn gives<T>(&self, case: &str, work: impl FnOnce() -> io::Result<T>) -> T {
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
pub(crate) fn row(case: &str, errno: Option<i32>, peak: u64, seconds: f64) {
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
pub(crate) fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(path)?;
    let name = |entry: io::Result<fs::DirEntry>| {
        Ok(entry?.file_name().into_string().expect("keys are UTF-8"))
    };
    let mut names = entries.map(name).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The case that a listing is about: the first component of its prefix.
pub(crate) fn case_of(request: &Request) -> Option<&str> {
    request.listed()?.strip_suffix('/')
}

/// The names of cases.
pub(crate) fn words(text: &'static str) -> Vec<&'static str> {
    text.split_whitespace().collect()
}
