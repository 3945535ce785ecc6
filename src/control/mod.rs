//! The control socket of a mount, and the commands that talk to it: a client says one thing in a line
//! of JSON, and the mount answers in one.
//!
//! Reading order: `protocol` (what goes over the socket; pure), `folder` (where sockets are, and who
//! may get at them), `server` (bounds, and who is heard), `commands` (what a mount does), `place` (where a
//! path leads), `connection` (a client's), `client` (which mount a path is in, and asking it), `process`
//! (who serves a mount), `holders` (who uses it), and the commands `refresh`, `umount` and `list`.
//!
//! Invariants: a client is root or the user who mounted. Nothing secret goes over the socket. Every
//! connection, line and wait has a bound, so that no client holds up the mount or another client for
//! long. No client touches a mount, which may hang. `server` and what is below knows the file system and not what mounts it; `client` and above
//! belong to another process and know the mount table alone.

mod client;
mod commands;
mod connection;
mod folder;
mod holders;
mod list;
mod place;
mod process;
mod protocol;
mod refresh;
mod server;
mod umount;

pub(crate) use self::commands::Commands;
pub use self::list::list;
pub use self::refresh::refresh;
pub(crate) use self::server::{Control, NoControl};
pub use self::umount::{Umount, umount};

/// Understands a line as the mount does, and as the command does, for fuzzing.
///
/// # Panics
/// Where what is understood would be said otherwise.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_line(line: &[u8]) {
    if let Ok(request) = protocol::Request::from_line(line) {
        assert_eq!(protocol::Request::from_line(request.to_line().as_bytes()), Ok(request));
    }
    if let Some(answer) = protocol::Answer::from_line(line) {
        // Fractions are not read back exactly, and no mount sends any.
        let again = protocol::Answer::from_line(answer.to_line().as_bytes());
        let again = again.expect("an answer is understood again");
        assert_eq!(std::mem::discriminant(&again), std::mem::discriminant(&answer));
    }
}
