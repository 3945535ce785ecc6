//! Programs that read all the time while keys are replaced: the means of `credentials.rs`, and its
//! long run.

#![expect(clippy::unwrap_used, reason = "helpers fail a test as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::mounted::{Mounted, command, sleep};
use crate::support::simulator::Simulator;
use crate::support::simulator::issuer::{SSO, STS, Session};

const MIB: u64 = 1 << 20;

/// Ten minutes with tokens that end every 30 s:
/// `cargo nextest run --run-ignored only -E 'test(ten_minutes)' --no-capture`.
#[test]
#[ignore = "it takes ten minutes"]
fn tokens_that_expire_every_30_s_for_ten_minutes() {
    read_while_tokens_expire(Duration::from_secs(600), Duration::from_secs(30));
}

/// A home directory with the files of the AWS tools, and a mount that has nothing else.
pub(crate) struct Home {
    directory: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join(".aws/sso/cache")).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn write_credentials(&self, text: &str) {
        self.write(".aws/credentials", text);
    }

    /// What `aws sso login` leaves behind.
    pub(crate) fn write_sso_token(&self, token: &str, expires: &str) {
        let sum = Command::new("sh").args(["-c", "printf corp | sha1sum"]).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let name = format!(".aws/sso/cache/{}.json", sum.split(' ').next().unwrap());
        let text = format!(
            r#"{{"accessToken":"{token}","expiresAt":"{expires}","region":"us-east-1",
                "startUrl":"https://corp.awsapps.com/start"}}"#
        );
        self.write(&name, &text);
    }

    pub(crate) fn command(&self, simulator: &Simulator) -> Command {
        let mut command = command(simulator);
        for name in [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_CONFIG_FILE",
            "AWS_SHARED_CREDENTIALS_FILE",
        ] {
            command.env_remove(name);
        }
        command
            .env("HOME", self.directory.path())
            .env("AWS_ENDPOINT_URL_STS", format!("{}{STS}", simulator.endpoint()))
            .env("AWS_ENDPOINT_URL_SSO", format!("{}{SSO}", simulator.endpoint()));
        command
    }

    pub(crate) fn mount(&self, simulator: &Simulator, options: &[&str]) -> Mounted {
        Mounted::start(self.command(simulator), "myfiles", options)
    }
}

pub(crate) fn profile(session: &Session) -> String {
    format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\naws_session_token = {}\n",
        session.access_key, session.secret_key, session.token
    )
}

pub(crate) fn keys(access_key: &str, secret_key: &str) -> String {
    format!("[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n")
}

/// Nothing is believed for longer than it takes to answer, so that everything asks S3.
pub(crate) const ASK_ALWAYS: [&str; 6] =
    ["--metadata-ttl", "0", "--negative-ttl", "0", "--open-ttl", "0"];

pub(crate) fn bucket() -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "large", 4096 * MIB);
    simulator.put_tree("myfiles", "d/f", 50, 3000);
    simulator
}

pub(crate) fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|err| err.raw_os_error())
}

/// Programs that read all the time, and what went wrong for them.
pub(crate) struct Readers {
    stop: Arc<AtomicBool>,
    n_done: Arc<AtomicU64>,
    longest_ms: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Readers {
    pub(crate) fn start(simulator: &Simulator, mounted: &Mounted) -> Self {
        type Work = Box<dyn FnMut(u64) -> Result<(), String> + Send>;
        let root = mounted.path();
        let wrong = |err: std::io::Error| err.to_string();
        let (large, expected) = {
            let file = fs::File::open(root.join("large")).unwrap();
            let places: Vec<u64> = (0..64).map(|n| n * 61 * MIB + 4096).collect();
            let bytes: BTreeMap<u64, Vec<u8>> = places
                .iter()
                .map(|at| (*at, simulator.range_bytes("myfiles", "large", *at..at + 4096)))
                .collect();
            (file, bytes)
        };
        let random = move |n: u64| {
            let (at, bytes) = expected.iter().nth((n * 37 % 64) as usize).unwrap();
            let mut read = vec![0; 4096];
            // Not from the page cache: S3 is to be asked.
            // SAFETY: the descriptor is open.
            unsafe {
                use std::os::fd::AsRawFd;
                libc::posix_fadvise(large.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
            }
            large.read_exact_at(&mut read, *at).map_err(wrong)?;
            if read == *bytes { Ok(()) } else { Err("other bytes".to_owned()) }
        };
        let path = root.clone();
        let stream = move |n: u64| {
            let file = fs::File::open(path.join("large")).map_err(wrong)?;
            let mut block = vec![0; 1 << 20];
            for index in 0..24 {
                file.read_exact_at(&mut block, n % 64 * 60 * MIB + index * MIB).map_err(wrong)?;
            }
            Ok(())
        };
        let path = root.clone();
        let small = move |n: u64| {
            let read = fs::read(path.join(format!("d/f{:06}", n % 50))).map_err(wrong)?;
            if read.len() == 3000 { Ok(()) } else { Err(format!("{} bytes", read.len())) }
        };
        let path = root.clone();
        let missing = move |n: u64| match errno(fs::metadata(path.join(format!("x{n}/y")))) {
            Some(libc::ENOENT) => Ok(()),
            other => Err(format!("a missing name: {other:?}")),
        };
        let list = move |_| {
            let entries = fs::read_dir(root.join("d")).map_err(wrong)?;
            let n_entries = entries.collect::<Result<Vec<_>, _>>().map_err(wrong)?.len();
            if n_entries == 50 { Ok(()) } else { Err(format!("{n_entries} entries")) }
        };
        let work: [(&str, Work); 5] = [
            ("random", Box::new(random)),
            ("stream", Box::new(stream)),
            ("small", Box::new(small)),
            ("missing", Box::new(missing)),
            ("list", Box::new(list)),
        ];
        let stop = Arc::new(AtomicBool::new(false));
        let (n_done, longest_ms) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let start = |(name, mut work): (&'static str, Work)| {
            let (stop, n_done) = (Arc::clone(&stop), Arc::clone(&n_done));
            let longest_ms = Arc::clone(&longest_ms);
            std::thread::spawn(move || {
                let mut errors = Vec::new();
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let begun = Instant::now();
                    errors.extend(work(n).err().map(|err| format!("{name}: {err}")));
                    let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
                    longest_ms.fetch_max(took, Ordering::Relaxed);
                    n_done.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(5));
                }
                errors
            })
        };
        let threads = work.into_iter().map(start).collect();
        Self { stop, n_done, longest_ms, threads }
    }

    /// How much they did, and every error that one of them got.
    pub(crate) fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let errors = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (self.n_done.load(Ordering::Relaxed), errors)
    }
}

/// Each way in which a file of keys is replaced, one after another.
pub(crate) fn replace(home: &Home, text: &str, step: u64) {
    let path = home.path(".aws/credentials");
    let half = text.len() * 2 / 3;
    match step % 4 {
        // At once, by a new file.
        0 => {
            home.write(".aws/new", text);
            fs::rename(home.path(".aws/new"), path).unwrap();
        }
        // In place, at once.
        1 => home.write_credentials(text),
        // In place, and for a while it is cut in the middle of the token.
        2 => {
            let mut file = fs::File::create(path).unwrap();
            file.write_all(&text.as_bytes()[..half]).unwrap();
            sleep(Duration::from_millis(100));
            file.write_all(&text.as_bytes()[half..]).unwrap();
        }
        // In place, and for a while it is empty; then it is missing.
        _ => {
            fs::File::create(&path).unwrap();
            sleep(Duration::from_millis(100));
            fs::remove_file(&path).unwrap();
            sleep(Duration::from_millis(100));
            home.write_credentials(text);
        }
    }
}

/// Reads for `total` with tokens of which each is good for `life`. The file is replaced a moment
/// before or after the end of the old token, in each of the ways.
pub(crate) fn read_while_tokens_expire(total: Duration, life: Duration) {
    let simulator = bucket();
    let home = Home::new();
    simulator.issuer.set_life(life);
    home.write_credentials(&profile(&simulator.issuer.issue(&simulator)));
    let mut ends = Instant::now() + life;
    let mounted = home.mount(&simulator, &ASK_ALWAYS);
    simulator.reset_log();
    let readers = Readers::start(&simulator, &mounted);
    let begun = Instant::now();
    let mut n_rotations = 0;
    while begun.elapsed() < total {
        // A moment before the end of the old one, at it, or a moment after.
        let at = match n_rotations % 3 {
            0 => ends - Duration::from_millis(200),
            1 => ends,
            _ => ends + Duration::from_millis(300),
        };
        sleep(at.saturating_duration_since(Instant::now()));
        let session = simulator.issuer.issue(&simulator);
        ends = Instant::now() + life;
        replace(&home, &profile(&session), n_rotations);
        n_rotations += 1;
    }
    let longest_ms = Arc::clone(&readers.longest_ms);
    let (n_done, errors) = readers.end();
    let (counts, log) = (simulator.counts(), mounted.log());
    let n_rebuilds =
        log.matches("reading it again").count() + log.matches("loading them again").count();
    // Missing names are 404.
    let refused = simulator.log().iter().filter(|entry| entry.status == Some(400)).count();
    let summary = format!(
        "{n_rotations} rotations, {n_done} reads, {} requests, {refused} refused, {n_rebuilds} \
         rebuilds, the longest read {} ms, {} errors",
        counts.requests(),
        longest_ms.load(Ordering::Relaxed),
        errors.len()
    );
    assert!(errors.is_empty(), "{summary}: {:?}", &errors[..errors.len().min(20)]);
    assert!(n_rotations > 2 && refused > 0, "tokens did expire under the readers: {summary}");
    assert!(n_rebuilds as u64 <= 2 * n_rotations + 2, "{summary}");
    let _ = writeln!(std::io::stderr(), "{summary}");
}
