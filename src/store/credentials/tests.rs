use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_config::provider_config::ProviderConfig;
use aws_smithy_runtime_api::client::http::http_client_fn;
use futures_util::FutureExt;
use tokio::time::advance;

use super::*;

/// A chain that gives what a file holds as the key id, as the profile provider would: once.
fn setup(file: &Path) -> (ReloadingCredentials, Arc<AtomicU64>) {
    let builds = Arc::new(AtomicU64::new(0));
    let (counter, path) = (Arc::clone(&builds), file.to_owned());
    let build: BuildChain = Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let provider = if text.is_empty() {
            SharedCredentialsProvider::new(Nothing)
        } else {
            SharedCredentialsProvider::new(Credentials::new(text, "secret", None, None, "test"))
        };
        async move { provider }.boxed()
    });
    (ReloadingCredentials::new(build, vec![file.to_owned()]), builds)
}

#[derive(Debug)]
struct Nothing;

impl ProvideCredentials for Nothing {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("nothing there")))
    }
}

fn file_with(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

async fn key(credentials: &ReloadingCredentials) -> String {
    credentials.load().await.unwrap().access_key_id().to_owned()
}

/// Until a change is noticed, seen to be settled, and read behind.
async fn settle(credentials: &ReloadingCredentials) {
    for _ in 0..40 {
        advance(LOOK_IN_HURRY).await;
        let _ = credentials.load().await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_read_again_after_a_few_seconds() {
    let file = file_with("one");
    let (credentials, builds) = setup(file.path());
    assert_eq!(key(&credentials).await, "one");
    std::fs::write(file.path(), "second").unwrap();
    assert_eq!(key(&credentials).await, "one", "the files are not looked at each time");
    settle(&credentials).await;
    assert_eq!(key(&credentials).await, "second");
    settle(&credentials).await;
    assert_eq!(key(&credentials).await, "second");
    assert_eq!(builds.load(Ordering::Relaxed), 2, "an unchanged file builds nothing");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_being_written_is_not_read() {
    let file = file_with("one");
    let (credentials, builds) = setup(file.path());
    key(&credentials).await;
    for length in 0..30 {
        std::fs::write(file.path(), "x".repeat(length)).unwrap();
        advance(LOOK_IN_HURRY).await;
        assert_eq!(key(&credentials).await, "one");
        tokio::task::yield_now().await;
    }
    assert_eq!(builds.load(Ordering::Relaxed), 1);
    settle(&credentials).await;
    assert_eq!(key(&credentials).await, "x".repeat(29));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_only_touched_builds_nothing() {
    let file = file_with("one");
    let (credentials, builds) = setup(file.path());
    key(&credentials).await;
    file.as_file().set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
    settle(&credentials).await;
    assert_eq!(builds.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn the_sdks_own_profile_provider_follows_its_file() {
    let text =
        |id: &str| format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = SECRET\n");
    let file = file_with(&text("ONE"));
    let path = file.path().to_owned();
    let build: BuildChain = Box::new(move || {
        #[expect(deprecated, reason = "the name of the type that does it is not exported")]
        let files = aws_config::profile::profile_file::ProfileFiles::builder()
            .with_file(aws_config::profile::profile_file::ProfileFileKind::Credentials, &path)
            .build();
        let no_network = http_client_fn(|_, _| unreachable!("a file is all it takes"));
        let provider = ProviderConfig::without_region().with_http_client(no_network);
        let profile = aws_config::profile::ProfileFileCredentialsProvider::builder()
            .configure(&provider)
            .profile_name("default")
            .profile_files(files)
            .build();
        async move { SharedCredentialsProvider::new(profile) }.boxed()
    });
    let credentials = ReloadingCredentials::new(build, vec![file.path().to_owned()]);
    assert_eq!(key(&credentials).await, "ONE");
    std::fs::write(file.path(), text("SECOND")).unwrap();
    settle(&credentials).await;
    assert_eq!(key(&credentials).await, "SECOND");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_replaced_is_noticed_by_its_inode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials");
    std::fs::write(&path, "one").unwrap();
    let (credentials, _) = setup(&path);
    assert_eq!(key(&credentials).await, "one");
    let old = std::fs::metadata(&path).unwrap().modified().unwrap();
    let other = dir.path().join("other");
    std::fs::write(&other, "two").unwrap();
    std::fs::File::options().write(true).open(&other).unwrap().set_modified(old).unwrap();
    std::fs::rename(&other, &path).unwrap();
    settle(&credentials).await;
    assert_eq!(key(&credentials).await, "two");
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_built_anew_once_for_all_who_were_refused() {
    let file = file_with("one");
    let (credentials, builds) = setup(file.path());
    key(&credentials).await;
    let generation = credentials.generation();
    credentials.accepted(generation);
    std::fs::write(file.path(), "two").unwrap();
    advance(Duration::from_secs(6)).await;
    let renewals = (0..10).map(|_| credentials.renew(generation, Instant::now()));
    let renewed = futures_util::future::join_all(renewals).await;
    assert!(renewed.iter().all(|renewed| *renewed));
    assert_eq!(builds.load(Ordering::Relaxed), 2);
    assert_eq!(key(&credentials).await, "two");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_lost_its_credentials_does_not_take_away_those_that_work() {
    let file = file_with("one");
    let (credentials, _) = setup(file.path());
    key(&credentials).await;
    std::fs::write(file.path(), "").unwrap();
    settle(&credentials).await;
    assert_eq!(key(&credentials).await, "one");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_appear_later_are_found() {
    let file = file_with("");
    let (credentials, _) = setup(file.path());
    let err = credentials.load().await.unwrap_err();
    assert!(sentence(&err).contains("nothing there"), "{}", sentence(&err));
    std::fs::write(file.path(), "late").unwrap();
    assert!(credentials.load().await.is_err(), "the chain is not asked for each request");
    settle(&credentials).await;
    assert_eq!(key(&credentials).await, "late");
}

#[tokio::test(start_paused = true)]
async fn credentials_near_their_end_are_renewed_and_used_on_while_that_fails() {
    let n_asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&n_asked);
    let build: BuildChain = Box::new(move || {
        let first = counter.fetch_add(1, Ordering::Relaxed) == 0;
        let soon = SystemTime::now() + Duration::from_secs(30);
        let old = Credentials::new("old", "secret", None, Some(soon), "test");
        let provider = match first {
            true => SharedCredentialsProvider::new(OnceThenNothing(Mutex::new(Some(old)))),
            false => SharedCredentialsProvider::new(Nothing),
        };
        async move { provider }.boxed()
    });
    let credentials = ReloadingCredentials::new(build, Vec::new());
    key(&credentials).await;
    credentials.shared.state.lock().renew_before = Duration::from_secs(60);
    advance(Duration::from_secs(10)).await;
    for _ in 0..5 {
        assert_eq!(key(&credentials).await, "old");
        // Lets the renewal behind run.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let n_loads = credentials.shared.state.lock().n_loads;
    assert_eq!(n_loads, 2, "loaded, then one failed renewal and a pause");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_always_near_their_end_do_not_ask_the_chain_each_time() {
    let end = SystemTime::now() + Duration::from_secs(30);
    let n_asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&n_asked);
    let build: BuildChain = Box::new(move || {
        let provider = SharedCredentialsProvider::new(Counted(Arc::clone(&counter), end));
        async move { provider }.boxed()
    });
    let credentials = ReloadingCredentials::new(build, Vec::new());
    for _ in 0..1000 {
        key(&credentials).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(n_asked.load(Ordering::Relaxed), 1, "30 s is most of a life of 30 s");
    credentials.shared.state.lock().renew_before = Duration::from_secs(60);
    advance(Duration::from_secs(60)).await;
    for _ in 0..1000 {
        key(&credentials).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(n_asked.load(Ordering::Relaxed), 2, "the same again: a pause before the next");
}

/// Gives the same each time, as a credential_process with a cache does.
#[derive(Debug)]
struct Counted(Arc<AtomicU64>, SystemTime);

impl ProvideCredentials for Counted {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.0.fetch_add(1, Ordering::Relaxed);
        let same = Credentials::new("same", "secret", None, Some(self.1), "test");
        future::ProvideCredentials::ready(Ok(same))
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_waits_for_others_once_credentials_were_accepted() {
    let file = file_with("one");
    let (credentials, _) = setup(file.path());
    key(&credentials).await;
    let generation = credentials.generation();
    assert!(!credentials.renew(generation, Instant::now()).await, "at the start they are wrong");
    credentials.accepted(generation);
    let writer = async {
        sleep(Duration::from_secs(3)).await;
        std::fs::write(file.path(), "two").unwrap();
    };
    let reader = async {
        let since = Instant::now();
        while credentials.generation() == generation {
            assert!(credentials.renew(generation, since).await);
        }
        since.elapsed()
    };
    let (waited, ()) = tokio::join!(reader, writer);
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(key(&credentials).await, "two");
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_gone_for_good_are_given_up_once_for_all() {
    let file = file_with("one");
    let (credentials, builds) = setup(file.path());
    key(&credentials).await;
    let generation = credentials.generation();
    credentials.accepted(generation);
    let begun = Instant::now();
    while credentials.renew(generation, begun).await {}
    assert!((GRACE..GRACE + REPEAT_EVERY).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let n_builds = builds.load(Ordering::Relaxed);
    let later = Instant::now();
    assert!(!credentials.renew(generation, later).await);
    assert_eq!(later.elapsed(), Duration::ZERO, "nobody waits again");
    assert!(builds.load(Ordering::Relaxed) <= n_builds + 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_refused_beside_others_that_are_not_is_given_up() {
    let file = file_with("one");
    let (credentials, _) = setup(file.path());
    key(&credentials).await;
    let (generation, begun) = (credentials.generation(), Instant::now());
    credentials.accepted(generation);
    while credentials.renew(generation, begun).await {
        credentials.accepted(generation);
    }
    assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
}

#[derive(Debug)]
struct OnceThenNothing(Mutex<Option<Credentials>>);

impl ProvideCredentials for OnceThenNothing {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let once = self.0.lock().take();
        future::ProvideCredentials::ready(once.ok_or(CredentialsError::not_loaded("gone")))
    }
}

#[test]
fn files_that_others_can_read_are_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (open, private) = (dir.path().join("open"), dir.path().join("private"));
    for (path, mode) in [(&open, 0o640), (&private, 0o600)] {
        std::fs::write(path, "").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let found = readable_by_others(&[open.clone(), private, dir.path().join("missing")]);
    assert_eq!(found, std::slice::from_ref(&open));
    let warning = readable_warning(&open);
    assert!(warning.contains(&format!("chmod 600 {}", open.display())), "{warning}");
}

#[test]
fn the_files_are_found_as_the_sdk_finds_them() {
    let from = |pairs: &[(&str, &str)]| {
        CredentialFiles::from_variables(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, text)| text.into())
        })
    };
    assert_eq!(
        from(&[("HOME", "/h")]).all(),
        [PathBuf::from("/h/.aws/config"), PathBuf::from("/h/.aws/credentials")]
    );
    let moved =
        from(&[("HOME", "/h"), ("AWS_CONFIG_FILE", "/c"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")]);
    assert_eq!(moved.config_file, Some("/c".into()));
    assert_eq!(moved.web_identity_token_file, Some("/t".into()));
}

#[test]
fn debug_output_has_no_secret() {
    let (credentials, _) = setup(Path::new("/nonexistent"));
    assert_eq!(format!("{credentials:?}"), "ReloadingCredentials");
}
