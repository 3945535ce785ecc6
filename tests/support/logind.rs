//! A bus of our own (dbus-daemon), and on it what a mount asks of logind. A descriptor that logind gives is one
//! end of a pipe; when all who have it have closed it, the other end says so.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::runtime::{Builder, Runtime};
use zbus::message::Type;
use zbus::{Connection, MessageStream, Variant};

use super::mounted::wait_until;

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";

/// A bus on which everybody may do anything.
pub(crate) struct Bus {
    /// `None` while it is gone.
    daemon: Option<Child>,
    directory: TempDir,
}

impl Bus {
    pub(crate) fn start() -> Self {
        let mut bus = Self { daemon: None, directory: tempfile::tempdir().expect("a directory") };
        bus.come();
        bus
    }

    /// As for DBUS_SYSTEM_BUS_ADDRESS.
    pub(crate) fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    pub(crate) fn come(&mut self) {
        let config = self.directory.path().join("bus.conf");
        let text = format!(
            "<!DOCTYPE busconfig PUBLIC '-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN' \
             'http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd'>\
             <busconfig><listen>{}</listen><auth>EXTERNAL</auth><policy context='default'>\
             <allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/>\
             <allow own='*'/><allow user='*'/></policy></busconfig>",
            self.address()
        );
        fs::write(&config, text).expect("a file");
        let daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("dbus-daemon, of the package dbus");
        self.daemon = Some(daemon);
        assert!(wait_until(|| self.socket().exists()), "the bus listens");
    }

    pub(crate) fn go(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("it runs");
            daemon.wait().expect("a child");
            let _ = fs::remove_file(self.socket());
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.go();
    }
}

/// Who has the name of logind on a bus, as long as this value lives.
pub(crate) struct Logind {
    runtime: Runtime,
    bus: Connection,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    refuses: bool,
    n_asked: AtomicUsize,
    n_held: AtomicUsize,
    /// Who has asked last, by its name on the bus.
    client: Mutex<String>,
}

impl Logind {
    pub(crate) fn start(bus: &Bus) -> Self {
        Self::with(bus, Seen::default())
    }

    /// One that lets nobody hold back the sleep.
    pub(crate) fn refusing(bus: &Bus) -> Self {
        Self::with(bus, Seen { refuses: true, ..Seen::default() })
    }

    fn with(bus: &Bus, seen: Seen) -> Self {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a thread");
        let seen = Arc::new(seen);
        let bus = runtime.block_on(async {
            let bus = connect(&bus.address()).await;
            let messages = MessageStream::from(&bus);
            tokio::spawn(serve(bus.clone(), messages, Arc::clone(&seen)));
            bus.request_name(NAME).await.expect("the name is free");
            bus
        });
        Self { runtime, bus, seen }
    }

    /// How often it was asked to hold back the sleep.
    pub(crate) fn n_asked(&self) -> usize {
        self.seen.n_asked.load(Ordering::SeqCst)
    }

    /// How many hold it back.
    pub(crate) fn n_held(&self) -> usize {
        self.seen.n_held.load(Ordering::SeqCst)
    }

    /// Says that the machine is to sleep, or is awake.
    pub(crate) fn prepare_for_sleep(&self, begins: bool) {
        self.runtime.block_on(send(&self.bus, None, begins));
    }

    /// As [`Logind::prepare_for_sleep`], by somebody else, to who has asked last. It has arrived when this returns,
    /// before all that is sent later.
    pub(crate) fn forge(&self, bus: &Bus, begins: bool) {
        let client = self.seen.client.lock().clone();
        self.runtime.block_on(async {
            let stranger = connect(&bus.address()).await;
            send(&stranger, Some(&client), begins).await;
            let (bus, path) = ("org.freedesktop.DBus", "/org/freedesktop/DBus");
            let answer = stranger.call_method(Some(bus), path, Some(bus), "GetId", &()).await;
            answer.expect("the bus answers");
        });
    }
}

async fn connect(address: &str) -> Connection {
    // The socket is there a moment before the bus listens.
    for _ in 0..100 {
        let bus = zbus::connection::Builder::address(address).build();
        match tokio::time::timeout(Duration::from_secs(10), bus).await.expect("an answer") {
            Ok(bus) => return bus,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("no bus at {address}");
}

async fn send(bus: &Connection, to: Option<&str>, begins: bool) {
    bus.emit_signal(to, PATH, MANAGER, "PrepareForSleep", &begins).await.expect("sent");
}

async fn serve(bus: Connection, mut messages: MessageStream, seen: Arc<Seen>) {
    while let Some(Ok(message)) = messages.next().await {
        if message.message_type() != Type::MethodCall {
            continue;
        }
        let header = message.header();
        let member = header.member().map(ToString::to_string).unwrap_or_default();
        let sent = match member.as_str() {
            "Inhibit" => {
                let (what, who, _, how): (String, String, String, String) =
                    message.body().deserialize().expect("four words");
                assert_eq!((&*what, &*who, &*how), ("sleep", "s3mount", "delay"));
                *seen.client.lock() = header.sender().expect("by the bus").to_string();
                seen.n_asked.fetch_add(1, Ordering::SeqCst);
                if seen.refuses {
                    let name = "org.freedesktop.DBus.Error.AccessDenied";
                    bus.reply_error(&header, name, &"Access denied as the tests want it").await
                } else {
                    let theirs = zbus::OwnedFd::from(inhibitor(&seen));
                    bus.reply(&header, &theirs).await
                }
            }
            // InhibitDelayMaxUSec.
            "Get" => bus.reply(&header, &Variant::from(5_000_000_u64)).await,
            other => panic!("{other} is not asked of logind"),
        };
        // Who has asked may have gone.
        drop(sent);
    }
}

/// What a client holds, counted until it is closed.
fn inhibitor(seen: &Arc<Seen>) -> OwnedFd {
    let (ours, theirs) = std::io::pipe().expect("a pipe");
    let mut ours = pipe::Receiver::from_owned_fd(ours.into()).expect("a pipe");
    seen.n_held.fetch_add(1, Ordering::SeqCst);
    let seen = Arc::clone(seen);
    tokio::spawn(async move {
        let _ = ours.read(&mut [0]).await;
        seen.n_held.fetch_sub(1, Ordering::SeqCst);
    });
    theirs.into()
}
