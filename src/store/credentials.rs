//! Credentials that follow their files. The SDK's default chain reads `~/.aws/…` once and keeps
//! what it found; this provider keeps the credentials itself, looks at the files now and
//! then, and builds the chain anew when one of them changed or when S3 refused what it gave.
//! Invariant: nothing here prints a key or a token.

use std::ffi::OsString;
use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_types::error::ErrorMetadata;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

/// The files that the default chain reads. Filled by `config.rs`, the reader of the environment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CredentialFiles {
    /// `AWS_CONFIG_FILE`, else `~/.aws/config`.
    pub config_file: Option<PathBuf>,
    /// `AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`.
    pub web_identity_token_file: Option<PathBuf>,
}

impl CredentialFiles {
    /// From the variables that the AWS SDKs read; `variable` is `std::env::var_os` but in tests.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| variable(name).filter(|text| !text.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let below_home = |rest| home.as_ref().map(|home: &PathBuf| home.join(rest));
        Self {
            config_file: path("AWS_CONFIG_FILE").or_else(|| below_home(".aws/config")),
            credentials_file: path("AWS_SHARED_CREDENTIALS_FILE")
                .or_else(|| below_home(".aws/credentials")),
            web_identity_token_file: path("AWS_WEB_IDENTITY_TOKEN_FILE"),
        }
    }

    /// The file that exists to hold keys, to be checked by [`readable_by_others`]. Not the config
    /// file, which is readable on many machines and seldom has keys, nor the token that a cluster
    /// mounts.
    pub fn key_files(&self) -> Vec<PathBuf> {
        self.credentials_file.iter().cloned().collect()
    }

    /// All files, whether they exist or not.
    pub fn all(&self) -> Vec<PathBuf> {
        [&self.config_file, &self.credentials_file, &self.web_identity_token_file]
            .into_iter()
            .filter_map(Clone::clone)
            .collect()
    }
}

/// Those of `paths` that group or others may read, write or execute. For the warning at startup,
/// [`readable_warning`]. A missing file is not readable.
pub fn readable_by_others(paths: &[PathBuf]) -> Vec<PathBuf> {
    let open = |path: &&PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o077 != 0)
    };
    paths.iter().filter(open).cloned().collect()
}

/// What to tell the user of a file from [`readable_by_others`].
pub fn readable_warning(path: &Path) -> String {
    let path = path.display();
    format!("other users of this machine can read {path}, which may hold keys: chmod 600 {path}")
}

/// Builds the chain; called again for each rebuild.
pub type BuildChain = Box<dyn Fn() -> BoxFuture<'static, SharedCredentialsProvider> + Send + Sync>;

/// The credentials of one mount; clones share them.
#[derive(Clone)]
pub struct ReloadingCredentials {
    shared: Arc<Shared>,
}

/// How often the files are looked at, at most. A look is one stat(2) for each.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often the chain is built anew, at most: each time may cost a call of STS or of a
/// credential_process.
const REBUILD_EVERY: Duration = Duration::from_secs(5);
/// Credentials are renewed this long before they end; instance metadata gives new ones 5 minutes
/// before, the CLI's cache none at all.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// With temporary credentials that can not be renewed, the old ones are used on, and the next
/// attempt is made after this time.
const FAILED_RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// A credential_process may ask its user something; one that hangs must not hold up all others for
/// ever.
const LOAD_MAX: Duration = Duration::from_secs(60);

struct Shared {
    build: BuildChain,
    files: Vec<PathBuf>,
    state: Mutex<State>,
    /// Held by the one task that loads. Lock order: flight < state.
    flight: tokio::sync::Mutex<Option<SharedCredentialsProvider>>,
}

#[derive(Default)]
struct State {
    /// Of the last load.
    outcome: Option<Result<Credentials, String>>,
    /// Loads so far. Whoever waited while it grew takes that load's outcome.
    n_loads: u64,
    /// The chain must be built anew before the next load.
    stale: bool,
    looked: Option<Instant>,
    rebuilt: Option<Instant>,
    failed: Option<Instant>,
    /// What the files looked like when the chain was built.
    seen: Vec<Option<Stamp>>,
}

/// What tells that a file was changed or replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stamp {
    modified: Option<SystemTime>,
    inode: u64,
    bytes: u64,
}

impl From<Metadata> for Stamp {
    fn from(file: Metadata) -> Self {
        Self { modified: file.modified().ok(), inode: file.ino(), bytes: file.len() }
    }
}

impl ReloadingCredentials {
    /// Nothing is loaded before the first request. `files` are watched.
    pub fn new(build: BuildChain, files: Vec<PathBuf>) -> Self {
        let shared = Shared { build, files, state: Mutex::default(), flight: Default::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The credentials to sign with now. Fails with the chain's reason where there are none.
    pub async fn load(&self) -> Result<Credentials, CredentialsError> {
        self.look().await;
        let (standing, n_loads) = {
            let state = self.shared.state.lock();
            (state.standing(), state.n_loads)
        };
        if let Standing::Good(credentials) = standing {
            return Ok(credentials);
        }
        // A task of its own: a request that is given up does not stop the load for the others, and
        // a slow credential_process is not started again by each try.
        let shared = Arc::clone(&self.shared);
        let busy = shared.flight.try_lock().is_err();
        let load = async move { shared.load(n_loads).await };
        if let Standing::Ending(credentials) = standing {
            if !busy {
                tokio::spawn(load);
            }
            return Ok(credentials);
        }
        let outcome = tokio::spawn(load).await;
        let outcome = outcome.unwrap_or_else(|_| Err("the load of credentials failed".to_owned()));
        outcome.map_err(CredentialsError::not_loaded)
    }

    /// Which load the credentials come from; for [`ReloadingCredentials::renew`].
    pub fn generation(&self) -> u64 {
        self.shared.state.lock().n_loads
    }

    /// S3 refused the credentials of `generation`. True when there are others now, so that one more
    /// try may help; false when they were renewed less than 5 s ago or nothing could be loaded.
    pub async fn renew(&self, generation: u64) -> bool {
        {
            let mut state = self.shared.state.lock();
            if state.n_loads != generation {
                return matches!(state.outcome, Some(Ok(_)));
            }
            if !state.may_rebuild() {
                return false;
            }
            tracing::info!("S3 refused the credentials: loading them again");
            state.stale = true;
        }
        self.load().await.is_ok()
    }

    /// As if the chain had been built long ago, for tests in real time.
    #[cfg(test)]
    pub(crate) fn pretend_old(&self) {
        self.shared.state.lock().rebuilt = None;
    }

    /// Notices changed files. The stat(2) calls run on a thread that may block: a home directory
    /// on NFS may be slow.
    async fn look(&self) {
        if self.shared.files.is_empty() {
            return;
        }
        {
            let mut state = self.shared.state.lock();
            let due = state.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
            if state.outcome.is_none() || !due {
                return;
            }
            state.looked = Some(Instant::now());
        }
        let shared = Arc::clone(&self.shared);
        let Ok(seen) = tokio::task::spawn_blocking(move || stamps(&shared.files)).await else {
            return;
        };
        let mut state = self.shared.state.lock();
        if seen == state.seen {
            return;
        }
        if state.may_rebuild() {
            tracing::info!("a file with credentials has changed: reading it again");
            state.stale = true;
        } else {
            // Look again as soon as a rebuild is allowed.
            state.looked = None;
        }
    }
}

/// What the last load is worth now.
enum Standing {
    Good(Credentials),
    /// Good for this request; others are to be fetched meanwhile.
    Ending(Credentials),
    /// None, over, or from files that have changed since.
    Absent,
}

impl State {
    fn standing(&self) -> Standing {
        let Some(Ok(credentials)) = &self.outcome else { return Standing::Absent };
        let left = time_left(credentials);
        if self.stale || left.is_some_and(|left| left.is_zero()) {
            return Standing::Absent;
        }
        let may_renew = self.failed.is_none_or(|at| at.elapsed() >= FAILED_RENEWAL_PAUSE);
        if may_renew && left.is_some_and(|left| left < RENEW_BEFORE) {
            Standing::Ending(credentials.clone())
        } else {
            Standing::Good(credentials.clone())
        }
    }

    fn may_rebuild(&self) -> bool {
        self.rebuilt.is_none_or(|rebuilt| rebuilt.elapsed() >= REBUILD_EVERY)
    }
}

impl Shared {
    /// Loads, unless another task has done so since `n_loads` was read.
    async fn load(self: Arc<Self>, n_loads: u64) -> Result<Credentials, String> {
        let mut chain = self.flight.lock().await;
        let rebuild = {
            let state = self.state.lock();
            if state.n_loads != n_loads
                && let Some(outcome) = &state.outcome
            {
                return outcome.clone();
            }
            state.stale
        };
        if rebuild {
            *chain = None;
        }
        let built = match &*chain {
            Some(built) => built.clone(),
            None => {
                self.note_rebuild();
                chain.insert((self.build)().await).clone()
            }
        };
        let loaded = match timeout(LOAD_MAX, built.provide_credentials()).await {
            Ok(loaded) => loaded.map_err(|err| sentence(&err)),
            Err(_) => Err(format!("none came within {} s", LOAD_MAX.as_secs())),
        };
        if loaded.is_err() {
            // The profile provider remembers what it read: the next load starts from the files.
            *chain = None;
        }
        self.settle(loaded)
    }

    /// The files as they are before the chain reads them, so that a change meanwhile is noticed.
    fn note_rebuild(&self) {
        let seen = stamps(&self.files);
        let mut state = self.state.lock();
        state.seen = seen;
        state.rebuilt = Some(Instant::now());
        state.looked = state.rebuilt;
        state.stale = false;
    }

    /// Takes what was loaded; what could not be renewed is used on while it lasts.
    fn settle(&self, loaded: Result<Credentials, String>) -> Result<Credentials, String> {
        let mut state = self.state.lock();
        state.n_loads += 1;
        state.stale = false;
        state.failed = loaded.is_err().then(Instant::now);
        let outcome = match (loaded, state.outcome.take()) {
            (Err(reason), Some(Ok(old))) if time_left(&old).is_none_or(|left| !left.is_zero()) => {
                tracing::warn!(
                    "credentials could not be renewed, the old ones are used on: {reason}"
                );
                Ok(old)
            }
            (loaded, _) => loaded,
        };
        state.outcome = Some(outcome.clone());
        outcome
    }
}

/// Until the credentials end; `None` for those that do not.
fn time_left(credentials: &Credentials) -> Option<Duration> {
    let expiry = credentials.expiry()?;
    Some(expiry.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO))
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    files.iter().map(|path| std::fs::metadata(path).ok().map(Stamp::from)).collect()
}

/// The error and its causes as one sentence; where a service of AWS answered, what that said.
fn sentence(err: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(err), |cause| cause.source());
    let said = causes.filter_map(|cause| cause.downcast_ref::<ErrorMetadata>()).next();
    if let Some((code, message)) = said.and_then(|said| Some((said.code()?, said.message()?))) {
        return format!("{code}: {message}");
    }
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl ProvideCredentials for ReloadingCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

impl fmt::Debug for ReloadingCredentials {
    /// The SDK wants it; it says nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadingCredentials")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
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

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_again_after_a_few_seconds() {
        let file = file_with("one");
        let (credentials, builds) = setup(file.path());
        assert_eq!(key(&credentials).await, "one");
        std::fs::write(file.path(), "second").unwrap();
        assert_eq!(key(&credentials).await, "one", "the files are not looked at each time");
        advance(Duration::from_secs(6)).await;
        assert_eq!(key(&credentials).await, "second");
        advance(Duration::from_secs(60)).await;
        assert_eq!(key(&credentials).await, "second");
        assert_eq!(builds.load(Ordering::Relaxed), 2, "an unchanged file builds nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn the_sdks_own_profile_provider_follows_its_file() {
        let text = |id: &str| {
            format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = SECRET\n")
        };
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
        advance(Duration::from_secs(6)).await;
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
        advance(Duration::from_secs(6)).await;
        assert_eq!(key(&credentials).await, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_are_built_anew_once_for_all_who_were_refused() {
        let file = file_with("one");
        let (credentials, builds) = setup(file.path());
        key(&credentials).await;
        advance(Duration::from_secs(6)).await;
        let generation = credentials.generation();
        let renewals = (0..10).map(|_| credentials.renew(generation));
        let renewed = futures_util::future::join_all(renewals).await;
        assert!(renewed.iter().all(|renewed| *renewed));
        assert_eq!(builds.load(Ordering::Relaxed), 2);
        assert!(!credentials.renew(credentials.generation()).await, "at most once in 5 s");
        assert_eq!(builds.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_lost_its_credentials_does_not_take_away_those_that_work() {
        let file = file_with("one");
        let (credentials, _) = setup(file.path());
        key(&credentials).await;
        std::fs::write(file.path(), "").unwrap();
        advance(Duration::from_secs(6)).await;
        assert_eq!(key(&credentials).await, "one");
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_appear_later_are_found() {
        let file = file_with("");
        let (credentials, _) = setup(file.path());
        let err = credentials.load().await.unwrap_err();
        assert!(sentence(&err).contains("nothing there"), "{}", sentence(&err));
        std::fs::write(file.path(), "late").unwrap();
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
        for _ in 0..5 {
            assert_eq!(key(&credentials).await, "old");
            // Lets the renewal behind run.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(credentials.generation(), 2, "loaded, then one failed renewal and a pause");
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
        let moved = from(&[
            ("HOME", "/h"),
            ("AWS_CONFIG_FILE", "/c"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"),
        ]);
        assert_eq!(moved.config_file, Some("/c".into()));
        assert_eq!(moved.web_identity_token_file, Some("/t".into()));
    }

    #[test]
    fn debug_output_has_no_secret() {
        let (credentials, _) = setup(Path::new("/nonexistent"));
        assert_eq!(format!("{credentials:?}"), "ReloadingCredentials");
    }
}
