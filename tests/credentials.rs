//! Credentials that change while a bucket is mounted: no reader notices while there are valid ones,
//! and none of them is ever in the log.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::mounted::{Mounted, command, sleep, wait_until};
use crate::support::simulator::Simulator;
use crate::support::simulator::call::Kind;
use crate::support::simulator::issuer::{SSO, STS, Session};

const MIB: u64 = 1 << 20;

/// A home directory with the files of the AWS tools, and a mount that has nothing else.
struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join(".aws/sso/cache")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn write_credentials(&self, text: &str) {
        self.write(".aws/credentials", text);
    }

    /// What `aws sso login` leaves behind.
    fn write_sso_token(&self, token: &str, expires: &str) {
        let sum = Command::new("sh").args(["-c", "printf corp | sha1sum"]).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let name = format!(".aws/sso/cache/{}.json", sum.split(' ').next().unwrap());
        let text = format!(
            r#"{{"accessToken":"{token}","expiresAt":"{expires}","region":"us-east-1",
                "startUrl":"https://corp.awsapps.com/start"}}"#
        );
        self.write(&name, &text);
    }

    fn command(&self, simulator: &Simulator) -> Command {
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

    fn mount(&self, simulator: &Simulator, options: &[&str]) -> Mounted {
        Mounted::start(self.command(simulator), "myfiles", options)
    }
}

fn profile(session: &Session) -> String {
    format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\naws_session_token = {}\n",
        session.access_key, session.secret_key, session.token
    )
}

fn keys(access_key: &str, secret_key: &str) -> String {
    format!("[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n")
}

/// Nothing is believed for longer than it takes to answer, so that everything asks S3.
const ASK_ALWAYS: [&str; 6] = ["--metadata-ttl", "0", "--negative-ttl", "0", "--open-ttl", "0"];

fn bucket() -> Simulator {
    let simulator = Simulator::builder().bucket("myfiles").start();
    simulator.put_synthetic("myfiles", "large", 4096 * MIB);
    simulator.put_tree("myfiles", "d/f", 50, 3000);
    simulator
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|err| err.raw_os_error())
}

/// Programs that read all the time, and what went wrong for them.
struct Readers {
    stop: Arc<AtomicBool>,
    n_done: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Readers {
    fn start(simulator: &Simulator, mounted: &Mounted) -> Self {
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
            let mut block = vec![0; MIB as usize];
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
        let (stop, n_done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let start = |(name, mut work): (&'static str, Work)| {
            let (stop, n_done) = (Arc::clone(&stop), Arc::clone(&n_done));
            std::thread::spawn(move || {
                let mut errors = Vec::new();
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    errors.extend(work(n).err().map(|err| format!("{name}: {err}")));
                    n_done.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(5));
                }
                errors
            })
        };
        let threads = work.into_iter().map(start).collect();
        Self { stop, n_done, threads }
    }

    /// How much they did, and every error that one of them got.
    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let errors = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (self.n_done.load(Ordering::Relaxed), errors)
    }
}

/// Each way in which a file of keys is replaced, one after another.
fn replace(home: &Home, text: &str, step: u64) {
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
fn read_while_tokens_expire(total: Duration, life: Duration) {
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
        let early = [200, 0, -300_i64][n_rotations as usize % 3];
        let at = match u64::try_from(early) {
            Ok(early) => ends - Duration::from_millis(early),
            Err(_) => ends + Duration::from_millis(early.unsigned_abs()),
        };
        sleep(at.saturating_duration_since(Instant::now()));
        let session = simulator.issuer.issue(&simulator);
        ends = Instant::now() + life;
        replace(&home, &profile(&session), n_rotations);
        n_rotations += 1;
    }
    let (n_done, errors) = readers.end();
    let (counts, log) = (simulator.counts(), mounted.log());
    let n_rebuilds =
        log.matches("reading it again").count() + log.matches("loading them again").count();
    // Missing names are 404.
    let refused = simulator.log().iter().filter(|entry| entry.status == Some(400)).count();
    let summary = format!(
        "{n_rotations} rotations, {n_done} reads, {} requests, {refused} refused, {n_rebuilds} \
         rebuilds, {} errors",
        counts.requests(),
        errors.len()
    );
    assert!(errors.is_empty(), "{summary}: {:?}", &errors[..errors.len().min(20)]);
    assert!(n_rotations > 2 && refused > 0, "tokens did expire under the readers: {summary}");
    assert!(n_rebuilds as u64 <= 2 * n_rotations + 2, "{summary}");
    let _ = writeln!(std::io::stderr(), "{summary}");
}

/// While a credentials file has a new session token whenever the old one expires, no reader gets an
/// error, however the file is written.
#[test]
fn tokens_that_expire_are_replaced_under_the_readers() {
    read_while_tokens_expire(Duration::from_secs(10), Duration::from_millis(2500));
}

/// The same for ten minutes.
#[test]
#[ignore = "it takes ten minutes"]
fn tokens_that_expire_every_30_s_for_ten_minutes() {
    read_while_tokens_expire(Duration::from_secs(600), Duration::from_secs(30));
}

/// When an access key is replaced in its file and then deleted, no reader gets an error.
#[test]
fn access_keys_are_replaced_under_the_readers() {
    let simulator = bucket();
    let home = Home::new();
    home.write_credentials(&keys(simulator.access_key(), simulator.secret_key()));
    let mounted = home.mount(&simulator, &ASK_ALWAYS);
    let readers = Readers::start(&simulator, &mounted);
    let mut old = simulator.access_key().to_owned();
    for step in 0..4 {
        let new = format!("AKIA{step}");
        // S3 knows a new key a moment after the file has it, or a moment before.
        if step % 2 == 0 {
            simulator.add_credentials(&new, "another-secret");
        }
        replace(&home, &keys(&new, "another-secret"), step);
        sleep(Duration::from_millis(500));
        simulator.add_credentials(&new, "another-secret");
        simulator.remove_credentials(&old);
        old = new;
        sleep(Duration::from_millis(1500));
    }
    let (n_done, errors) = readers.end();
    assert!(n_done > 50 && errors.is_empty(), "{n_done} {:?}", &errors[..errors.len().min(20)]);
}

/// When a web identity token is replaced on disk, the next credentials are got with the new one,
/// ahead of the end of the old ones.
#[test]
fn a_web_identity_token_is_read_again() {
    let simulator = bucket();
    let home = Home::new();
    home.write("token", "first-token");
    simulator.issuer.honor(&["first-token"]);
    simulator.issuer.set_life(Duration::from_secs(4));
    let mut program = home.command(&simulator);
    program
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", home.path("token"))
        .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/reader");
    let mounted = Mounted::start(program, "myfiles", &ASK_ALWAYS);
    let readers = Readers::start(&simulator, &mounted);
    sleep(Duration::from_secs(6));
    simulator.issuer.honor(&["first-token", "second-token"]);
    home.write("token", "second-token");
    sleep(Duration::from_secs(5));
    simulator.issuer.honor(&["second-token"]);
    sleep(Duration::from_secs(5));
    let (n_done, errors) = readers.end();
    assert!(n_done > 50 && errors.is_empty(), "{n_done} {:?}", &errors[..errors.len().min(20)]);
    let asked = simulator.issuer.asked();
    assert!(asked.iter().all(|asked| asked.granted), "{asked:?}");
    assert!(asked.iter().any(|asked| asked.token == "second-token"), "{asked:?}");
    // 16 s of lives of 4 s, each renewed a quarter before its end: not once per request.
    assert!((3..=10).contains(&asked.len()), "{asked:?}");
    let refused = simulator.log().iter().filter(|entry| entry.status == Some(400)).count();
    assert_eq!(refused, 0, "no token was used to its end");
}

/// A profile that is switched from keys to SSO, to a role, or to a `credential_process` is followed
/// without a new mount.
#[test]
fn a_switched_profile_is_followed() {
    let simulator = bucket();
    let home = Home::new();
    home.write_credentials(&keys(simulator.access_key(), simulator.secret_key()));
    let mounted = home.mount(&simulator, &ASK_ALWAYS);
    let readers = Readers::start(&simulator, &mounted);
    let uses = |key: &str| {
        let log = simulator.log();
        log.last().is_some_and(|entry| entry.call.access_key.as_deref() == Some(key))
    };
    assert!(wait_until(|| uses(simulator.access_key())));

    simulator.issuer.honor(&["sso-token"]);
    home.write_sso_token("sso-token", "2099-01-01T00:00:00Z");
    home.write(
        ".aws/config",
        "[default]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = reader\n\
         [sso-session corp]\nsso_region = us-east-1\n\
         sso_start_url = https://corp.awsapps.com/start\n",
    );
    fs::remove_file(home.path(".aws/credentials")).unwrap();
    assert!(wait_until(|| uses("ASIASIMULATOR0000001")), "SSO: {}", mounted.log());

    home.write_credentials(
        &keys(simulator.access_key(), simulator.secret_key()).replace("default", "base"),
    );
    let role =
        "[default]\nrole_arn = arn:aws:iam::111122223333:role/reader\nsource_profile = base\n";
    home.write(".aws/config", role);
    assert!(wait_until(|| uses("ASIASIMULATOR0000002")), "a role: {}", mounted.log());

    let session = simulator.issuer.issue(&simulator);
    let json = format!(
        r#"{{"Version":1,"AccessKeyId":"{}","SecretAccessKey":"{}","SessionToken":"{}"}}"#,
        session.access_key, session.secret_key, session.token
    );
    home.write("process.json", &json);
    let process = format!("cat {}", home.path("process.json").display());
    home.write(".aws/config", &format!("[default]\ncredential_process = {process}\n"));
    assert!(wait_until(|| uses(&session.access_key)), "a process: {}", mounted.log());

    let (n_done, errors) = readers.end();
    assert!(n_done > 20 && errors.is_empty(), "{n_done} {:?}", &errors[..errors.len().min(20)]);
    let calls: Vec<_> = simulator.issuer.asked().into_iter().map(|asked| asked.call).collect();
    assert_eq!(calls, ["GetRoleCredentials", "AssumeRole"]);
}

/// When there are no valid credentials any more, what has to ask S3 fails with EACCES, what is
/// known is shown on and read on, the log says so once a minute, and when there are valid ones again
/// everything works again by itself.
#[test]
fn credentials_that_are_gone_come_back() {
    let simulator = bucket();
    simulator.put("myfiles", "known/file", "content");
    let home = Home::new();
    home.write_credentials(&keys(simulator.access_key(), simulator.secret_key()));
    let mounted = home.mount(&simulator, &["--metadata-ttl", "60s"]);
    let open = fs::File::open(mounted.join("known/file")).unwrap();
    open.read_exact_at(&mut [0; 7], 0).unwrap();
    assert_eq!(fs::read_dir(mounted.join("known")).unwrap().count(), 1);

    simulator.remove_credentials(simulator.access_key());
    for n in 0..20 {
        assert_eq!(errno(fs::read(mounted.join(format!("d/f{n:06}")))), Some(libc::EACCES), "{n}");
        assert_eq!(errno(fs::read_dir(mounted.join(format!("d{n}")))), Some(libc::EACCES));
        assert_eq!(fs::metadata(mounted.join("known/file")).unwrap().len(), 7);
    }
    assert_eq!(fs::read_dir(mounted.join("known")).unwrap().count(), 1);
    let mut text = [0; 7];
    open.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"content");
    let log = mounted.log();
    let said: Vec<_> = log.lines().filter(|line| line.contains("the access key is not")).collect();
    assert_eq!(said.len(), 1, "once: {log}");
    assert!(said[0].contains("WARN") && said[0].contains("by themselves"), "{}", said[0]);

    simulator.add_credentials("AKIANEW", "new-secret");
    home.write_credentials(&keys("AKIANEW", "new-secret"));
    let back = || fs::read(mounted.join("d/f000001")).is_ok();
    assert!(wait_until(back), "{}", mounted.log());
    assert_eq!(fs::read_dir(mounted.join("d")).unwrap().count(), 50);
    assert!(mounted.log().contains("S3 accepts the credentials"), "{}", mounted.log());
}

/// After an SSO session has ended, `aws sso login` is enough for the mount to work again.
#[test]
fn a_new_login_is_noticed() {
    let simulator = bucket();
    let home = Home::new();
    simulator.issuer.honor(&["sso-token"]);
    simulator.issuer.set_life(Duration::from_secs(3));
    home.write_sso_token("sso-token", "2099-01-01T00:00:00Z");
    home.write(
        ".aws/config",
        "[default]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = reader\n\
         [sso-session corp]\nsso_region = us-east-1\n\
         sso_start_url = https://corp.awsapps.com/start\n",
    );
    let mounted = home.mount(&simulator, &ASK_ALWAYS);
    assert_eq!(fs::read(mounted.join("d/f000001")).unwrap().len(), 3000);
    simulator.issuer.honor(&[]);
    home.write_sso_token("sso-token", "2020-01-01T00:00:00Z");
    sleep(Duration::from_secs(3));
    assert_eq!(errno(fs::read(mounted.join("d/f000002"))), Some(libc::EACCES));
    simulator.issuer.honor(&["new-token"]);
    home.write_sso_token("new-token", "2099-01-01T00:00:00Z");
    let back = || fs::read(mounted.join("d/f000003")).is_ok();
    assert!(wait_until(back), "{}", mounted.log());
}

/// A start without credentials ends with exit code 3 and names the places looked in, and one with
/// an expired token with exit code 4, and says that it has expired.
#[test]
fn a_start_tells_missing_from_expired() {
    let simulator = bucket();
    let home = Home::new();
    let start = || {
        let mount_point = tempfile::tempdir().unwrap();
        let mut program = home.command(&simulator);
        let output = program.arg("myfiles").arg(mount_point.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = start();
    assert_eq!(code, Some(3), "{text}");
    for place in ["AWS_ACCESS_KEY_ID", "~/.aws/credentials", "~/.aws/config"] {
        assert!(text.contains(place), "{text}");
    }
    let session = simulator.issuer.issue(&simulator);
    simulator.expire_credentials(&session.access_key);
    home.write_credentials(&profile(&session));
    let (code, text) = start();
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("expired"), "{text}");
}

/// No secret key, session token or signature is ever in the log, also at level trace.
#[test]
fn the_log_has_no_secret() {
    let simulator = bucket();
    let home = Home::new();
    simulator.issuer.set_life(Duration::from_secs(3));
    home.write("token", "web-identity-token-that-is-secret");
    simulator.issuer.honor(&["web-identity-token-that-is-secret", "sso-token-that-is-secret"]);
    let mut program = home.command(&simulator);
    program
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", home.path("token"))
        .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/reader");
    let options = ["--log-level", "trace"];
    let mounted = Mounted::start(program, "myfiles", &[&ASK_ALWAYS[..], &options].concat());
    let read = |n: u64| fs::read(mounted.join(format!("d/f{n:06}"))).is_ok();
    assert!(read(0));
    sleep(Duration::from_secs(3));
    assert!(read(1));
    // From here on the profile counts: first keys with a token, then SSO, then a process.
    let session = simulator.issuer.issue(&simulator);
    home.write_credentials(&profile(&session));
    let uses_profile = || {
        read(2)
            && simulator.log().last().unwrap().call.access_key.as_ref() == Some(&session.access_key)
    };
    assert!(wait_until(uses_profile));
    fs::remove_file(home.path(".aws/credentials")).unwrap();
    home.write_sso_token("sso-token-that-is-secret", "2099-01-01T00:00:00Z");
    home.write(
        ".aws/config",
        "[default]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = reader\n\
         [sso-session corp]\nsso_region = us-east-1\n\
         sso_start_url = https://corp.awsapps.com/start\n",
    );
    let asked_sso = || {
        read(3) && simulator.issuer.asked().iter().any(|asked| asked.call == "GetRoleCredentials")
    };
    assert!(wait_until(asked_sso), "{}", mounted.log());
    let process = r#"echo {"Version":1,"SecretAccessKey":"secret-of-a-broken-process"} && exit 1"#;
    home.write(".aws/config", &format!("[default]\ncredential_process = {process}\n"));
    sleep(Duration::from_secs(4));
    read(4);
    assert!(simulator.counts().get > 2 && simulator.counts().list > 2);

    let log = mounted.log();
    assert!(log.contains("TRACE") && log.lines().count() > 100, "{log}");
    // Everything that was issued has one of these in it, whatever its number.
    for secret in [
        "session/secret+",
        "abcdefghijklmnopqrstu",
        "session/token+with",
        "web-identity-token-that-is-secret",
        "sso-token-that-is-secret",
        "secret-of-a-broken-process",
        "Signature=",
    ] {
        for form in [secret.to_owned(), percent_encoded(secret)] {
            let place = log.lines().find(|line| line.contains(&form));
            assert!(place.is_none(), "{secret}: {place:?}");
        }
    }
    for session in
        (1..20).map(|n| format!("IQoJb3JpZ2luX2VjE+{n:07}/session/token+with/a+length//8=="))
    {
        let encoded = base64(&session);
        assert!(!log.contains(&encoded), "{encoded}");
    }
}

fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn base64(text: &str) -> String {
    use aws_smithy_types::base64;
    base64::encode(text).trim_end_matches('=').to_owned()
}

/// What a HEAD is refused with has no body to say why; a wrong secret is not taken for a missing
/// right, nor for a missing file.
#[test]
fn a_head_that_is_refused_for_its_key_is_repeated() {
    let simulator = bucket();
    let home = Home::new();
    home.write_credentials(&keys(simulator.access_key(), simulator.secret_key()));
    let mounted = home.mount(&simulator, &ASK_ALWAYS);
    // The key is replaced between two requests for one name: HEAD is refused, LIST is not.
    let new = home.path(".aws/credentials");
    let old = simulator.access_key().to_owned();
    simulator.before(Kind::Head, "d/absent", move |world| {
        world.add_credentials("AKIANEW", "new-secret");
        world.remove_credentials(&old);
        fs::write(&new, keys("AKIANEW", "new-secret")).unwrap();
    });
    assert_eq!(errno(fs::metadata(mounted.join("d/absent"))), Some(libc::ENOENT));
    assert_eq!(fs::read(mounted.join("d/f000001")).unwrap().len(), 3000);
}
