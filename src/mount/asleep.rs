//! Before the machine sleeps, nobody may wait for S3: logind says when (PrepareForSleep), and holds the sleep
//! back for as long as we keep the descriptor of an inhibitor ("delay"). A program that waits for an answer of
//! ours cannot be frozen, and the kernel gives up on a sleep after 20 s of trying.
//!
//! Absent here: how waiting ends, which is [`Quiet`]'s. Without a bus, without logind, or where it refuses, a
//! mount is as it would be without this module.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use zbus::message::{Message, Type};
use zbus::{Connection, MatchRule, MessageStream, OwnedVariant};

use crate::awake::{Quiet, ran_for, slept_so_far};
use crate::error::one_line;
use crate::store::reach::Reach;

const LOGIND: &str = "org.freedesktop.login1";
const LOGIND_PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";

/// Shown by `systemd-inhibit --list`.
const WHY: &str = "Programs that wait for S3 are answered first";

/// How long those who wait get, and after how long the machine may sleep even if somebody still waits.
const GRACE: Duration = Duration::from_secs(2);
const BOUND: Duration = Duration::from_secs(3);

/// How long logind waits for us unless it is configured otherwise (logind.conf(5), InhibitDelayMaxSec).
const DELAY_MAX: Duration = Duration::from_secs(5);

/// That we are asleep is believed for as long beyond what logind waits: it may have been restarted meanwhile, or
/// the kernel may have refused.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// So soon it is seen by the clock that the machine has slept: logind says it only after the hooks of others
/// have run.
const CLOCK_EVERY: Duration = Duration::from_millis(100);

/// Two clocks that are read one after the other differ by less.
const SLEPT_MIN: Duration = Duration::from_secs(1);

/// What asks the bus may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Before it is tried again to reach the bus; twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Listens to logind for as long as it lives.
#[derive(Debug)]
pub(super) struct Asleep {
    listening: JoinHandle<()>,
}

impl Asleep {
    /// `bus` is the address of the system's bus. Needs a runtime.
    pub(super) fn listen(bus: &str, reach: Arc<Reach>) -> Self {
        Self { listening: tokio::spawn(keep_listening(bus.to_owned(), reach)) }
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn keep_listening(bus: String, reach: Arc<Reach>) {
    let (mut pause, mut said) = (PAUSE_FIRST, String::new());
    loop {
        let began = Instant::now();
        let lost = match timeout(ANSWER_MAX, Logind::find(&bus)).await {
            Ok(Ok(logind)) => logind.attend(&reach).await,
            Ok(Err(err)) => Lost(one_line(&err.to_string())),
            Err(_) => Lost("it does not answer".to_owned()),
        };
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_FIRST;
        }
        if said != lost.0 {
            tracing::debug!("the sleep of this machine is not heard of from {bus}: {}", lost.0);
            said = lost.0;
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The bus is gone, and with it the word of logind. In words, for the log.
struct Lost(String);

/// What the bus says.
#[derive(Debug)]
enum News {
    /// The machine is to sleep, or is awake again.
    Sleep(bool),
    /// Another has become logind; `None` where there is none.
    Owner(Option<String>),
}

/// logind, on a connection with the bus.
struct Logind {
    bus: Connection,
    sleeps: MessageStream,
    owners: MessageStream,
    /// Its own name on the bus. Anybody may send what looks like its signals, but not by this name.
    owner: Option<String>,
    /// While it is open, the machine does not sleep for some seconds.
    inhibitor: Option<OwnedFd>,
}

impl Logind {
    async fn find(address: &str) -> zbus::Result<Self> {
        let bus = zbus::connection::Builder::address(address).method_timeout(ANSWER_MAX);
        let bus = bus.build().await?;
        // Whatever happens from here on is heard.
        let owners = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(BUS)
            .path(BUS_PATH)
            .interface(BUS)
            .member("NameOwnerChanged")
            .arg(0, LOGIND);
        let owners = MessageStream::for_match_rule(owners.build()?, &bus, None).await?;
        let sleeps = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(LOGIND)
            .path(LOGIND_PATH)
            .interface(MANAGER)
            .member("PrepareForSleep");
        let sleeps = MessageStream::for_match_rule(sleeps.build()?, &bus, None).await?;
        let mut logind = Self { bus, sleeps, owners, owner: None, inhibitor: None };
        // It is started by being asked, where it is installed.
        logind.hold_back().await;
        logind.owner = logind.ask_for_owner().await;
        Ok(logind)
    }

    /// Does as logind says until the bus is gone.
    async fn attend(mut self, reach: &Arc<Reach>) -> Lost {
        loop {
            let done = match self.news().await {
                Ok(News::Sleep(true)) => self.let_sleep(reach).await,
                Ok(News::Sleep(false)) => {
                    if self.inhibitor.is_none() {
                        self.hold_back().await;
                    }
                    Ok(())
                }
                Ok(News::Owner(owner)) => {
                    self.meet(owner).await;
                    Ok(())
                }
                Err(lost) => Err(lost),
            };
            if let Err(lost) = done {
                return lost;
            }
        }
    }

    /// From the word that the machine is to sleep to its being awake again.
    async fn let_sleep(&mut self, reach: &Arc<Reach>) -> Result<(), Lost> {
        let inhibitor = self.inhibitor.take();
        let delay_max = self.delay_max().await;
        let night = Night::begin(reach, GRACE.min(delay_max * 2 / 5));
        let quiet = Arc::clone(reach.quiet());
        let passed = async move {
            settle(&quiet, BOUND.min(delay_max * 3 / 5)).await;
            drop(inhibitor);
            slept_or(BELIEVED_FOR + delay_max).await;
        };
        let woken = tokio::select! {
            () = passed => Ok(None),
            woken = self.woken() => woken.map(Some),
        };
        drop(night);
        match woken? {
            Some(News::Owner(owner)) => self.meet(owner).await,
            Some(News::Sleep(_)) | None => self.hold_back().await,
        }
        Ok(())
    }

    /// Ready when the machine is awake by the word of logind, or when that is another.
    async fn woken(&mut self) -> Result<News, Lost> {
        loop {
            match self.news().await? {
                News::Sleep(true) => {}
                news => return Ok(news),
            }
        }
    }

    async fn news(&mut self) -> Result<News, Lost> {
        loop {
            let (message, from) = tokio::select! {
                message = self.sleeps.next() => (message, self.owner.as_deref()),
                message = self.owners.next() => (message, Some(BUS)),
            };
            let message = match message {
                Some(Ok(message)) => message,
                Some(Err(err)) => return Err(Lost(one_line(&err.to_string()))),
                None => return Err(Lost("the bus has closed the connection".to_owned())),
            };
            if let Some(news) = read(&message, from) {
                return Ok(news);
            }
        }
    }

    /// Another is logind.
    async fn meet(&mut self, owner: Option<String>) {
        if self.owner != owner {
            // What the one before has given is no good any more.
            self.inhibitor = None;
            self.owner = owner;
            if self.owner.is_some() {
                self.hold_back().await;
            }
        }
    }

    /// Takes an inhibitor. Where that is refused, the machine sleeps without waiting for us.
    async fn hold_back(&mut self) {
        let asked = ("sleep", "s3mount", WHY, "delay");
        let answer =
            self.bus.call_method(Some(LOGIND), LOGIND_PATH, Some(MANAGER), "Inhibit", &asked);
        // The body's own descriptor goes with the message.
        let inhibitor =
            answer.await.and_then(|answer| answer.body().deserialize::<zbus::OwnedFd>());
        match inhibitor {
            Ok(inhibitor) => {
                tracing::debug!("this machine does not sleep before those are answered who wait");
                self.inhibitor = Some(inhibitor.into());
            }
            Err(err) => {
                let err = one_line(&err.to_string());
                tracing::debug!("this machine does not wait for us before it sleeps: {err}");
                self.inhibitor = None;
            }
        }
    }

    async fn ask_for_owner(&self) -> Option<String> {
        let asked = self.bus.call_method(Some(BUS), BUS_PATH, Some(BUS), "GetNameOwner", &LOGIND);
        asked.await.ok()?.body().deserialize().ok()
    }

    /// How long logind waits for those who hold back the sleep. Asked for each time, as its configuration may
    /// have been read again; the answer comes at once.
    async fn delay_max(&self) -> Duration {
        let asked = (MANAGER, "InhibitDelayMaxUSec");
        let properties = Some("org.freedesktop.DBus.Properties");
        let answer = self.bus.call_method(Some(LOGIND), LOGIND_PATH, properties, "Get", &asked);
        let micros = async {
            let answer = timeout(GRACE / 10, answer).await.ok()?.ok()?;
            u64::try_from(answer.body().deserialize::<OwnedVariant>().ok()?).ok()
        };
        micros.await.map_or(DELAY_MAX, Duration::from_micros).min(DELAY_MAX)
    }
}

/// The signal, if it comes from whom it has to.
fn read(message: &Message, from: Option<&str>) -> Option<News> {
    let header = message.header();
    if from.is_none() || header.sender().map(|sender| sender.as_str()) != from {
        return None;
    }
    match header.member()?.as_str() {
        "PrepareForSleep" => message.body().deserialize().ok().map(News::Sleep),
        "NameOwnerChanged" => {
            let (_, _, owner): (String, String, String) = message.body().deserialize().ok()?;
            Some(News::Owner(Some(owner).filter(|owner| !owner.is_empty())))
        }
        _ => None,
    }
}

/// Ready when nobody waits any more, or after `bound`.
async fn settle(quiet: &Quiet, bound: Duration) {
    match timeout(bound, quiet.settled()).await {
        Ok(0) => tracing::debug!("this machine goes to sleep, and nobody waits for S3"),
        Ok(n_ended) => tracing::info!(
            "this machine goes to sleep: {n_ended} requests that waited for S3 have failed (ETIMEDOUT)"
        ),
        Err(_) => tracing::warn!(
            "this machine goes to sleep although somebody waits for S3: the kernel may refuse"
        ),
    }
}

/// Ready when the clock says that the machine has slept, or after `time` in which it did not.
async fn slept_or(time: Duration) {
    let before = slept_so_far();
    let slept = async {
        while slept_so_far().saturating_sub(before) < SLEPT_MIN {
            sleep(CLOCK_EVERY).await;
        }
    };
    tokio::select! {
        () = slept => {}
        () = ran_for(time) => tracing::debug!("nobody has said that this machine is awake"),
    }
}

/// The quiet, which ends with this value, also where nobody says so.
struct Night<'a>(&'a Reach);

impl<'a> Night<'a> {
    fn begin(reach: &'a Reach, grace: Duration) -> Self {
        reach.quiet().begin(grace);
        Self(reach)
    }
}

impl Drop for Night<'_> {
    fn drop(&mut self) {
        // First, so that who asks at once does so on a connection of today.
        self.0.woke();
        self.0.quiet().end();
    }
}
