//! A client's connection to the control socket of a mount.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::folder::{Folder, socket_name};
use super::protocol::{Answer, Request};
use crate::config::{effective_user, runtime_dir};
use crate::mountinfo::Entry;

/// A mount that lives says so every 2 s.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(10);

/// All answers together; far more than there is to say.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// It takes none: it is stopped, or has no time.
    Silent,
    /// The process that had the socket is gone; it was in one of these places. Another mount of the same
    /// number may have left it.
    Dead(Vec<PathBuf>),
    /// There is no socket in these places, or none that this user may use.
    Absent(Vec<PathBuf>),
}

/// Connects to the mount, within `patience` for each place where its socket may be.
pub(super) async fn open(mount: &Entry, patience: Duration) -> Result<UnixStream, NoConnection> {
    let (uid, _) = effective_user();
    let owner = mount.owner.unwrap_or(uid);
    // Whom the socket may belong to: who mounted, root, or whoever asks.
    let owners = [owner, 0, uid];
    let name = socket_name(mount.device);
    let places = Folder::candidates(runtime_dir().as_deref(), owner);
    let mut is_dead = false;
    for path in &places {
        let found = Folder::of_client(path, &owners);
        let connected = match &found {
            Ok(folder) => timeout_of(patience, UnixStream::connect(folder.join(&name))).await,
            Err(err) => Err(err.kind().into()),
        };
        match connected {
            Ok(stream) => {
                let peer = stream.peer_cred().map(|peer| peer.uid());
                if peer.is_ok_and(|peer| owners.contains(&peer)) {
                    return Ok(stream);
                }
            }
            // The second where as many wait as the kernel lets wait.
            Err(err)
                if [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock].contains(&err.kind()) =>
            {
                return Err(NoConnection::Silent);
            }
            Err(err) => is_dead |= err.kind() == io::ErrorKind::ConnectionRefused,
        }
    }
    Err(if is_dead { NoConnection::Dead(places) } else { NoConnection::Absent(places) })
}

/// Says one thing and hears the answer; `TimedOut` after a silence of `patience`.
pub(super) async fn converse(
    mut stream: UnixStream,
    request: &Request,
    patience: Duration,
) -> io::Result<Answer> {
    timeout_of(patience, stream.write_all(request.to_line().as_bytes())).await?;
    let mut reader = BufReader::new(stream.take(ANSWER_BYTES_MAX));
    loop {
        let mut line = Vec::new();
        if timeout_of(patience, reader.read_until(b'\n', &mut line)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match Answer::from_line(&line) {
            Some(Answer::GoesOn) => {}
            Some(answer) => return Ok(answer),
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

async fn timeout_of<T>(
    patience: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout(patience, work).await?
}
