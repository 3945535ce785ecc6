//! Credentials that follow their files. The SDK's default chain reads `~/.aws/...` once and keeps
//! what it found; this provider keeps the credentials itself, looks at the files now and
//! then, and builds the chain anew when one of them changed or when S3 refused what it gave.
//! Invariant: nothing here prints a key or a token.

mod files;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_types::error::ErrorMetadata;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

pub use self::files::{CredentialFiles, readable_by_others, readable_warning};
use self::files::{Seen, look};

/// Builds the chain; called again for each rebuild.
pub type BuildChain = Box<dyn Fn() -> BoxFuture<'static, SharedCredentialsProvider> + Send + Sync>;

/// The credentials of one mount; clones share them.
#[derive(Clone)]
pub struct ReloadingCredentials {
    shared: Arc<Shared>,
}

/// How often the files are looked at, at most. A look is one stat(2) for each.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same while credentials are missing, refused or just being written.
const LOOK_IN_HURRY: Duration = Duration::from_millis(250);
/// How often the chain is built anew, at most: each time may cost a call of STS or of a
/// credential_process.
const REBUILD_EVERY: Duration = Duration::from_secs(5);
/// The same where a file has changed, which says that it is worth it.
const REBUILD_CHANGED_EVERY: Duration = Duration::from_secs(1);
/// Credentials are renewed this long before they end; instance metadata gives new ones 5 minutes
/// before, the CLI's cache none at all.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// And at most this part of their life before: those of 30 s would always be near their end.
const RENEW_BEFORE_SHARE: u32 = 4;
/// With credentials near their end that are not renewed, because that fails or because the same are
/// given again, attempts are made so many times before the end, within these bounds.
const RENEWAL_ATTEMPTS: u32 = 6;
const RENEWAL_PAUSE_MIN: Duration = Duration::from_secs(1);
const RENEWAL_PAUSE_MAX: Duration = Duration::from_secs(10);

/// A credential_process may ask its user something; one that hangs must not hold up all others for
/// ever.
const LOAD_MAX: Duration = Duration::from_secs(60);

/// From the first refusal of credentials that S3 had accepted, requests wait this long for others:
/// whoever rotates keys does it in several steps, and S3 takes some seconds to know new ones. Longer
/// than the chain is left alone, shorter than the 15 s that an answer may take, so that the reason
/// is told and not a deadline.
const GRACE: Duration = Duration::from_secs(10);
/// Within that time, a request is repeated this often even with the credentials that were refused.
const REPEAT_EVERY: Duration = Duration::from_secs(1);

/// A request that is refused for this long while others are answered is at fault itself: some servers
/// compute another signature than we do for a strange key.
const REPEAT_BESIDE_OTHERS: Duration = Duration::from_secs(3);

/// A warning that goes on is repeated after this time.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

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
    /// Raised by a load that gave other credentials than the one before.
    generation: u64,
    /// The chain must be built anew before the next load.
    stale: bool,
    looked: Option<Instant>,
    rebuilt: Option<Instant>,
    /// When the chain was asked last, and whether that failed.
    asked: Option<Instant>,
    failed: bool,
    /// How long before their end the credentials are renewed.
    renew_before: Duration,
    /// What the files looked like when the chain was built.
    seen: Vec<Seen>,
    /// Files that look otherwise now. They are read when they look so twice: whoever writes a
    /// file in place leaves it empty or cut for a moment, in which the chain would find nothing, or
    /// the credentials of somebody else further down.
    changed: Option<Vec<Seen>>,
    /// The generation that S3 accepted last, and when.
    accepted: Option<(u64, Instant)>,
    /// Since when S3 has refused every request; `None` while the credentials are good.
    refused: Option<Instant>,
    warned: Option<Instant>,
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
        // A task of its own: a request that is given up does not stop the load for the others, and
        // a slow credential_process is not started again by each try.
        let load = || Arc::clone(&self.shared).load(n_loads);
        match standing {
            Standing::Good(credentials) => Ok(credentials),
            Standing::Ending(credentials) => {
                if self.shared.flight.try_lock().is_ok() {
                    tokio::spawn(load());
                }
                Ok(credentials)
            }
            Standing::Failed(reason) => Err(CredentialsError::not_loaded(reason)),
            Standing::Absent => {
                let outcome = tokio::spawn(load()).await;
                let outcome =
                    outcome.unwrap_or_else(|_| Err("the load of credentials failed".to_owned()));
                outcome.map_err(CredentialsError::not_loaded)
            }
        }
    }

    /// Which credentials a request that begins now is signed with; for
    /// [`ReloadingCredentials::renew`] and [`ReloadingCredentials::accepted`].
    pub fn generation(&self) -> u64 {
        self.shared.state.lock().generation
    }

    /// S3 answered a request with the credentials of `generation`.
    pub fn accepted(&self, generation: u64) {
        let mut state = self.shared.state.lock();
        if state.generation != generation {
            return;
        }
        state.accepted = Some((generation, Instant::now()));
        if state.refused.take().is_some() {
            tracing::info!("S3 accepts the credentials");
        }
    }

    /// Whether a 403 that does not say why may be meant for the credentials of `generation` rather
    /// than for what was asked with them.
    pub fn is_doubtful(&self, generation: u64) -> bool {
        let state = self.shared.state.lock();
        state.generation != generation
            || state.refused.is_some()
            || state.accepted.is_none_or(|(accepted, _)| accepted != generation)
    }

    /// S3 refused the credentials of `generation`, or there were none. True when one more try may
    /// help: there are others now, or these had been accepted before and some time has passed.
    /// Waits for that, within [`GRACE`]; false at once where it is over. `since` is when the request
    /// was refused first.
    pub async fn renew(&self, generation: u64, since: Instant) -> bool {
        let begun = Instant::now();
        loop {
            self.look().await;
            let step = self.shared.state.lock().after_refusal(generation, since, begun);
            match step {
                AfterRefusal::Repeat => return true,
                AfterRefusal::GiveUp => return false,
                // Its outcome is looked at above.
                AfterRefusal::Load => drop(self.load().await),
                AfterRefusal::Wait => sleep(LOOK_IN_HURRY).await,
            }
        }
    }

    /// As if the chain had been built long ago, for tests in real time.
    #[cfg(test)]
    pub(crate) fn pretend_old(&self) {
        self.shared.state.lock().rebuilt = None;
    }

    /// Notices changed files. They are looked at by a thread that may block: a home directory on
    /// NFS may be slow.
    async fn look(&self) {
        if self.shared.files.is_empty() {
            return;
        }
        let last = {
            let mut state = self.shared.state.lock();
            let due = state.looked.is_none_or(|looked| looked.elapsed() >= state.look_every());
            if state.outcome.is_none() || !due {
                return;
            }
            state.looked = Some(Instant::now());
            state.changed.as_ref().unwrap_or(&state.seen).clone()
        };
        let shared = Arc::clone(&self.shared);
        let looking = tokio::task::spawn_blocking(move || look(&shared.files, &last));
        if let Ok(seen) = looking.await {
            self.shared.state.lock().notice(seen);
        }
    }
}

/// What the last load is worth now.
enum Standing {
    Good(Credentials),
    /// Good for this request; others are to be fetched meanwhile.
    Ending(Credentials),
    /// None, over, or refused.
    Absent,
    /// There were none a moment ago, for this reason.
    Failed(String),
}

/// What to do with a request whose credentials were refused.
enum AfterRefusal {
    Repeat,
    Load,
    Wait,
    GiveUp,
}

impl State {
    fn standing(&self) -> Standing {
        let credentials = match &self.outcome {
            None => return Standing::Absent,
            Some(Err(reason)) if !self.stale && !self.may_rebuild() => {
                return Standing::Failed(reason.clone());
            }
            Some(Err(_)) => return Standing::Absent,
            Some(Ok(credentials)) => credentials,
        };
        let left = time_left(credentials);
        let over = left.is_some_and(|left| left.is_zero());
        if self.stale {
            // Those that work are not kept waiting by those that follow.
            return match self.refused.is_some() || over {
                true => Standing::Absent,
                false => Standing::Ending(credentials.clone()),
            };
        }
        // Where the chain gives some that are over, S3 is left to say so.
        let pause = if over { REBUILD_EVERY } else { self.renewal_pause() };
        let may_ask = self.asked.is_none_or(|asked| asked.elapsed() >= pause);
        match left {
            Some(_) if over && may_ask => Standing::Absent,
            Some(left) if left < self.renew_before && may_ask => {
                Standing::Ending(credentials.clone())
            }
            _ => Standing::Good(credentials.clone()),
        }
    }

    fn after_refusal(&mut self, generation: u64, since: Instant, begun: Instant) -> AfterRefusal {
        if self.generation != generation && matches!(self.outcome, Some(Ok(_))) {
            return AfterRefusal::Repeat;
        }
        let others_are_answered = self.accepted.is_some_and(|(_, at)| at > since);
        if others_are_answered && since.elapsed() >= REPEAT_BESIDE_OTHERS {
            return AfterRefusal::GiveUp;
        }
        let refused = *self.refused.get_or_insert_with(Instant::now);
        if self.stale || self.may_rebuild() && self.changed.is_none() {
            if !self.stale {
                tracing::info!("S3 refused the credentials: loading them again");
            }
            self.stale = true;
            AfterRefusal::Load
        } else if self.accepted.is_none() || refused.elapsed() >= GRACE {
            AfterRefusal::GiveUp
        } else if begun.elapsed() >= REPEAT_EVERY {
            AfterRefusal::Repeat
        } else {
            AfterRefusal::Wait
        }
    }

    /// The files look like this.
    fn notice(&mut self, seen: Vec<Seen>) {
        if seen == self.seen {
            // The newer dates spare the next look the reading.
            self.seen = seen;
            self.changed = None;
        } else if self.changed.as_ref() != Some(&seen) || !self.may_rebuild_changed() {
            self.changed = Some(seen);
        } else if !self.stale {
            tracing::info!("a file with credentials has changed: reading it again");
            self.stale = true;
        }
    }

    fn look_every(&self) -> Duration {
        let hurry = self.failed || self.refused.is_some() || self.changed.is_some();
        if hurry { LOOK_IN_HURRY } else { LOOK_EVERY }
    }

    fn may_rebuild(&self) -> bool {
        self.rebuilt.is_none_or(|rebuilt| rebuilt.elapsed() >= REBUILD_EVERY)
    }

    fn may_rebuild_changed(&self) -> bool {
        self.rebuilt.is_none_or(|rebuilt| rebuilt.elapsed() >= REBUILD_CHANGED_EVERY)
    }

    fn renewal_pause(&self) -> Duration {
        (self.renew_before / RENEWAL_ATTEMPTS).clamp(RENEWAL_PAUSE_MIN, RENEWAL_PAUSE_MAX)
    }

    /// Takes what was loaded; what could not be renewed is used on while it lasts.
    fn settle(&mut self, loaded: Result<Credentials, String>) -> Result<Credentials, String> {
        self.n_loads += 1;
        self.stale = false;
        self.failed = loaded.is_err();
        self.asked = Some(Instant::now());
        let old = self.outcome.take().and_then(Result::ok);
        let outcome = match (loaded, old) {
            (Ok(new), old) => {
                self.warned = None;
                if old.is_none_or(|old| !are_same(&old, &new)) {
                    self.generation += 1;
                    let life = time_left(&new).unwrap_or_default();
                    self.renew_before = RENEW_BEFORE.min(life / RENEW_BEFORE_SHARE);
                }
                Ok(new)
            }
            (Err(reason), Some(old)) if time_left(&old).is_none_or(|left| !left.is_zero()) => {
                self.warn_of_old(&reason);
                Ok(old)
            }
            (Err(reason), old) => {
                self.generation += u64::from(old.is_some());
                Err(reason)
            }
        };
        self.outcome = Some(outcome.clone());
        outcome
    }

    fn warn_of_old(&mut self, reason: &str) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL) {
            self.warned = Some(Instant::now());
            tracing::warn!("credentials could not be renewed, the old ones are used on: {reason}");
        }
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
        self.state.lock().settle(loaded)
    }

    /// The files as they are before the chain reads them, so that a change meanwhile is noticed.
    fn note_rebuild(&self) {
        let seen = look(&self.files, &[]);
        let mut state = self.state.lock();
        state.seen = seen;
        state.changed = None;
        state.rebuilt = Some(Instant::now());
        state.looked = state.rebuilt;
        state.stale = false;
    }
}

/// Whether both sign alike; when they end does not matter.
fn are_same(one: &Credentials, other: &Credentials) -> bool {
    one.access_key_id() == other.access_key_id()
        && one.secret_access_key() == other.secret_access_key()
        && one.session_token() == other.session_token()
}

/// Until the credentials end; `None` for those that do not.
fn time_left(credentials: &Credentials) -> Option<Duration> {
    let expiry = credentials.expiry()?;
    Some(expiry.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO))
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
