//! What asks for the end of a mount: signals, and a supervisor that passes them on.

use std::io;
use std::os::unix::net::UnixStream as StdStream;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Heard from the moment this is made: none of them ends the process by itself any more.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal was closed. In the background there is none, and nothing to read again either.
    hangup: Signal,
    hangup_ends: bool,
    /// `None` without a supervisor, and after its end.
    supervisor: Option<UnixStream>,
    /// How often the end was asked for, directly and by way of the supervisor. What is sent to a
    /// terminal's or a service's processes all together comes both ways, and is one wish: what counts
    /// is the larger number.
    direct: u32,
    passed_on: u32,
}

impl Signals {
    /// Needs a runtime. The supervisor's messages are the numbers of signals, one byte each.
    pub(super) fn listen(foreground: bool, supervisor: Option<StdStream>) -> io::Result<Self> {
        let supervisor = supervisor.map(|stream| {
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        });
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            hangup_ends: foreground,
            supervisor: supervisor.transpose()?,
            direct: 0,
            passed_on: 0,
        })
    }

    /// The number of the next signal that asks for the end.
    pub(super) async fn end(&mut self) -> i32 {
        loop {
            let before = self.direct.max(self.passed_on);
            let signal = tokio::select! {
                _ = self.interrupt.recv() => { self.direct += 1; libc::SIGINT }
                _ = self.terminate.recv() => { self.direct += 1; libc::SIGTERM }
                _ = self.hangup.recv() => {
                    if !self.hangup_ends { continue; }
                    self.direct += 1;
                    libc::SIGHUP
                }
                signal = passed_on(&mut self.supervisor) => { self.passed_on += 1; signal }
            };
            if self.direct.max(self.passed_on) > before {
                return signal;
            }
        }
    }
}

/// A signal that the supervisor passes on. Its own death asks for the end, too: a mount that nobody
/// mounts anew any more would stand in the way of whoever starts another.
async fn passed_on(supervisor: &mut Option<UnixStream>) -> i32 {
    let Some(stream) = supervisor else { return std::future::pending().await };
    match stream.read_u8().await {
        Ok(signal) => i32::from(signal),
        Err(_) => {
            *supervisor = None;
            tracing::warn!("the process that mounts anew has died; unmounting");
            libc::SIGTERM
        }
    }
}
