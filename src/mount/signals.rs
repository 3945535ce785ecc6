//! The signals that end a mount.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Heard from the moment this is made: none of them ends the process by itself any more.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal was closed. In the background there is none, and nothing to read again either.
    hangup: Signal,
    hangup_ends: bool,
}

impl Signals {
    /// Needs a runtime.
    pub(super) fn listen(foreground: bool) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            hangup_ends: foreground,
        })
    }

    /// The number of the next signal that asks for the end.
    pub(super) async fn end(&mut self) -> i32 {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return libc::SIGINT,
                _ = self.terminate.recv() => return libc::SIGTERM,
                _ = self.hangup.recv() => if self.hangup_ends { return libc::SIGHUP },
            }
        }
    }
}
