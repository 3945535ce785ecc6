//! `s3mount list`: the mounts of ours, and how each of them is. All are asked at once, by their control
//! sockets; where there is none, /proc says what it can. Nothing in a mount is touched.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::client::{is_mine, owner};
use super::connection::{self, NoConnection};
use super::place;
use super::process::{Servers, is_stopped};
use super::protocol::{Answer, Request};
use crate::error::one_line;
use crate::mount::StartError;
use crate::mountinfo::Entry;

/// A mount that is well answers in some milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Prints a line for each mount: words, or an object with `json`.
pub fn list(json: bool) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|err| StartError::unexpected("cannot wait for an answer", &err))?;
    let table = place::table()?;
    let mounts: Vec<&Entry> = table.ours().collect();
    if mounts.is_empty() && !json && io::stderr().is_terminal() {
        let _ = writeln!(io::stderr(), "s3mount: nothing is mounted by s3mount");
    }
    let heard = runtime.block_on(join_all(mounts.iter().map(|mount| ask(mount))));
    let servers = Servers::look();
    let rows = mounts.iter().zip(&heard);
    let rows: Vec<Row<'_>> = rows.map(|(mount, heard)| Row::new(mount, heard, &servers)).collect();
    let text = if json {
        rows.iter().map(|row| format!("{}\n", row.to_json())).collect()
    } else {
        columns(&rows.iter().map(Row::words).collect::<Vec<_>>())
    };
    // A closed pipe is no reason to complain.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// What came over the control socket.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Heard {
    said: Said,
    /// Who listens there.
    pid: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    /// It answers, and says since when it serves; an older one only that it does not know the question.
    Answer(Option<u64>),
    Nothing,
    /// Nobody listens any more.
    Dead,
    /// There is no socket, or none for this user.
    NotAsked,
}

async fn ask(mount: &Entry) -> Heard {
    let stream = match timeout(PATIENCE, connection::open(mount, PATIENCE)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(NoConnection::Dead(_))) => return Heard { said: Said::Dead, pid: None },
        Ok(Err(NoConnection::Absent(_))) => return Heard { said: Said::NotAsked, pid: None },
        Ok(Err(NoConnection::Silent)) | Err(_) => return Heard { said: Said::Nothing, pid: None },
    };
    let pid = stream.peer_cred().ok().and_then(|peer| u32::try_from(peer.pid()?).ok());
    let answer = timeout(PATIENCE, connection::converse(stream, &Request::State, PATIENCE)).await;
    let said = match answer {
        Ok(Ok(Answer::Result(result))) => {
            Said::Answer(result.get("seconds").and_then(Value::as_u64))
        }
        Ok(Ok(_)) => Said::Answer(None),
        Ok(Err(_)) | Err(_) => Said::Nothing,
    };
    Heard { said, pid }
}

/// How a mount is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Serving,
    NotAnswering,
    Stopped,
    Dead,
    Unknown,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::NotAnswering => "not answering",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
            Self::Unknown => "unknown",
        }
    }
}

struct Row<'a> {
    mount: &'a Entry,
    state: State,
    pid: Option<u32>,
    seconds: Option<u64>,
}

impl<'a> Row<'a> {
    fn new(mount: &'a Entry, heard: &Heard, servers: &Servers) -> Self {
        // Who has the connection open serves it, whoever listens.
        let server = servers.pid(mount.device);
        let pid = server.or(heard.pid);
        let state = match heard.said {
            Said::Answer(_) => State::Serving,
            _ if pid.is_some_and(is_stopped) => State::Stopped,
            Said::Nothing => State::NotAnswering,
            Said::Dead if server.is_none() => State::Dead,
            Said::NotAsked if is_mine(mount) && servers.has_none(mount.device, false) => {
                State::Dead
            }
            // A dead socket was another mount's, where a process serves this one.
            Said::Dead | Said::NotAsked => State::Unknown,
        };
        let seconds = if let Said::Answer(seconds) = heard.said { seconds } else { None };
        Self { mount, state, pid, seconds }
    }

    fn words(&self) -> Vec<String> {
        let pid = self.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let time = self.seconds.map(|seconds| {
            format!(", for {}", humantime::format_duration(Duration::from_secs(seconds)))
        });
        vec![
            one_line(&self.mount.mount_point.to_string_lossy()),
            one_line(&self.mount.source),
            pid,
            owner(self.mount),
            format!("{}{}", self.state.words(), time.unwrap_or_default()),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "dir": self.mount.mount_point.to_string_lossy(),
            "source": self.mount.source,
            "state": self.state.words().replace(' ', "_"),
            "pid": self.pid,
            "uid": self.mount.owner,
            "seconds": self.seconds,
        })
    }
}

/// The words of each row below those of the row before.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let (last, others) = row.split_last().expect("five words");
        for (at, word) in others.iter().enumerate() {
            text += &format!("{word:<width$}  ", width = width(at));
        }
        text += &format!("{last}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_below_each_other() {
        let row = |words: [&str; 3]| words.map(str::to_owned).to_vec();
        assert_eq!(
            columns(&[row(["a", "b", "c d"]), row(["aaa", "", "e"])]),
            "a    b  c d\naaa     e\n"
        );
        assert_eq!(columns(&[]), "");
    }
}
