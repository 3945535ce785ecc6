//! The socket of a mount that serves: who is heard, and how much and for how long.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::commands::Commands;
use super::folder::{Folder, NoFolder, socket_name};
use super::protocol::{Answer, LINE_BYTES_MAX, Refusal, RefusalKind, Request};
use crate::config::effective_user;
use crate::mountinfo::DeviceNumber;

/// Beyond, clients wait until one is done.
const CONNECTIONS_MAX: usize = 32;

/// For a client to say what it wants, and to take an answer: it has the words at hand. Those who
/// only hold connections hold up others for this long.
const LINE_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that waits hears as often that the mount lives; see the client's own patience.
const GOES_ON_EVERY: Duration = Duration::from_secs(2);

/// Without descriptors or memory there is no connection for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Other mounts hold the folder for some system calls.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A dead socket answers at once.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// Dead sockets that one start takes away at most.
const SWEEP_MAX: usize = 64;

/// The socket, which is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    serving: JoinHandle<()>,
    _socket: Socket,
}

/// Why a mount has no socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NoControl {
    /// The machine has no place for it, as in many containers.
    Usual(String),
    /// Something is wrong that somebody should look at.
    Wrong(String),
}

impl Control {
    /// Makes the socket of the mount `device` and serves it. `runtime_dir` is XDG_RUNTIME_DIR.
    pub(crate) async fn start(
        runtime_dir: Option<&Path>,
        device: DeviceNumber,
        commands: Commands,
    ) -> Result<Self, NoControl> {
        let (uid, _) = effective_user();
        let folder = Folder::of_server(runtime_dir, uid).map_err(|err| match err {
            NoFolder::Absent(what) => NoControl::Usual(what),
            NoFolder::Unsafe(what) => NoControl::Wrong(what),
        })?;
        let shown = folder.path().display().to_string();
        let (listener, socket) = Socket::bind(folder, device)
            .await
            .map_err(|err| NoControl::Wrong(format!("in {shown} no socket can be made: {err}")))?;
        let commands = Arc::new(commands);
        let serving = tokio::spawn(serve(listener, uid, commands));
        Ok(Self { serving, _socket: socket })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The file.
#[derive(Debug)]
struct Socket {
    folder: Folder,
    path: PathBuf,
    /// So that no other file of its name is taken for it.
    ino: u64,
}

impl Socket {
    /// While our mount lives, its number is nobody else's: what has the name is of a mount that died.
    async fn bind(folder: Folder, device: DeviceNumber) -> io::Result<(UnixListener, Self)> {
        let locked = lock(&folder).await;
        sweep(&folder).await;
        let path = folder.join(&socket_name(device));
        let bound = bind(&path);
        if locked {
            let _ = folder.dir().unlock();
        }
        let (listener, ino) = bound?;
        Ok((listener, Self { folder, path, ino }))
    }
}

impl Drop for Socket {
    /// The number may be another mount's by now, and the name its socket's: under the lock one looks
    /// first. Where the lock is not to be had, the next start takes the file away.
    fn drop(&mut self) {
        if self.folder.dir().try_lock().is_err() {
            return;
        }
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.ino) {
            let _ = fs::remove_file(&self.path);
        }
        let _ = self.folder.dir().unlock();
    }
}

fn bind(path: &Path) -> io::Result<(UnixListener, u64)> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let listener = StdListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let ino = fs::symlink_metadata(path)?.ino();
    listener.set_nonblocking(true)?;
    Ok((UnixListener::from_std(listener)?, ino))
}

/// False where somebody keeps it: then it is done without, rather than not at all.
async fn lock(folder: &Folder) -> bool {
    for _ in 0..LOCK_TRIES {
        if folder.dir().try_lock().is_ok() {
            return true;
        }
        sleep(LOCK_PAUSE).await;
    }
    false
}

/// Takes away sockets whose process was killed.
async fn sweep(folder: &Folder) {
    for name in folder.sockets().unwrap_or_default().into_iter().take(SWEEP_MAX) {
        let path = folder.join(&name);
        let refused = |err: io::Error| err.kind() == io::ErrorKind::ConnectionRefused;
        if let Ok(Err(err)) = timeout(PROBE_TIMEOUT, UnixStream::connect(&path)).await
            && refused(err)
        {
            let _ = fs::remove_file(&path);
        }
    }
}

async fn serve(listener: UnixListener, uid: u32, commands: Arc<Commands>) {
    let mut clients = JoinSet::new();
    loop {
        while clients.len() >= CONNECTIONS_MAX {
            clients.join_next().await;
        }
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let commands = Arc::clone(&commands);
                clients.spawn(async move { attend(stream, uid, &commands).await });
            }
            Err(err) => {
                tracing::debug!("the control socket: {err}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, one request. A client that goes away needs no answer.
async fn attend(mut stream: UnixStream, uid: u32, commands: &Commands) {
    let answer = match hear(&mut stream, uid).await {
        Ok(Some(request)) => {
            tracing::debug!("the control socket: {request:?}");
            let mut work = std::pin::pin!(commands.run(request));
            loop {
                match timeout(GOES_ON_EVERY, &mut work).await {
                    Ok(Ok(result)) => break Answer::Result(result),
                    Ok(Err(refusal)) => break Answer::Refused(refusal),
                    Err(_) if say(&mut stream, &Answer::GoesOn).await.is_err() => return,
                    Err(_) => {}
                }
            }
        }
        Ok(None) => return,
        Err(refusal) => {
            tracing::debug!("the control socket refuses: {}", refusal.message);
            Answer::Refused(refusal)
        }
    };
    let _ = say(&mut stream, &answer).await;
}

/// `None` for a client that left. One that may not ask is heard out, too: else it would not get the
/// answer (unix(7): what is unread at the close resets the connection).
async fn hear(stream: &mut UnixStream, uid: u32) -> Result<Option<Request>, Refusal> {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    let malformed = |what: &str| Refusal {
        kind: RefusalKind::Malformed,
        message: format!("the request {what}"),
    };
    let mut line = Vec::new();
    let bounded = stream.take(LINE_BYTES_MAX as u64);
    let mut reader = BufReader::new(bounded);
    match timeout(LINE_TIMEOUT, reader.read_until(b'\n', &mut line)).await {
        _ if !peer.is_ok_and(|peer| peer == 0 || peer == uid) => {
            let message = format!("the mount belongs to the user {uid}: only that and root may");
            Err(Refusal { kind: RefusalKind::Denied, message })
        }
        Err(_) => Err(malformed("did not come in time")),
        Ok(Err(_) | Ok(0)) => Ok(None),
        Ok(Ok(_)) if line.ends_with(b"\n") => Request::from_line(&line).map(Some),
        Ok(Ok(_)) if line.len() >= LINE_BYTES_MAX => Err(malformed("is too long")),
        Ok(Ok(_)) => Err(malformed("is not finished")),
    }
}

async fn say(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    timeout(LINE_TIMEOUT, stream.write_all(answer.to_line().as_bytes())).await?
}
