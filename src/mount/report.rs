//! What the start of a mount tells whoever waits for it, and the process that goes on behind a
//! command that has returned. The words of the child cross a pipe and are printed by the parent:
//! one JSON object a line, `{"ready": true}`, `{"warning": ..}` or a [`StartError`].

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::start_error::{StartError, StartErrorKind};
use super::sys::{self, Fork};
use crate::config::absolute_variables;

/// Where a start reports to. Ready once; afterwards there is only the log.
#[derive(Debug)]
pub struct Report {
    /// To the parent; `None` in the foreground, where the log is the report.
    pipe: Option<PipeWriter>,
    /// `--ready-fd`.
    ready: Option<OwnedFd>,
    /// With `--auto-remount`, in the process that serves: who passes on that it is ready, and
    /// signals to it.
    supervisor: Option<UnixStream>,
}

impl Report {
    pub(super) fn in_foreground(ready: Option<OwnedFd>) -> Self {
        Self { pipe: None, ready, supervisor: None }
    }

    /// From now on readiness is told to the supervisor, and by that to whoever waits.
    pub(super) fn answer_to(&mut self, stream: UnixStream) {
        self.ready = None;
        self.supervisor = Some(stream);
    }

    /// Where the supervisor's words come from.
    pub(super) fn supervisor(&self) -> io::Result<Option<UnixStream>> {
        self.supervisor.as_ref().map(UnixStream::try_clone).transpose()
    }

    /// Something that does not stand in the way.
    pub fn warn(&mut self, sentence: &str) {
        tracing::warn!("{sentence}");
        if let Some(pipe) = &mut self.pipe {
            // A parent that has gone is noticed when the mount is ready.
            let _ = write_line(pipe, &json!({ "warning": sentence }));
        }
    }

    /// The mount answers. Fails where nobody waits for it any more: then the start was given up.
    pub fn ready(&mut self) -> Result<(), StartError> {
        if let Some(fd) = self.ready.take()
            && let Err(err) = File::from(fd).write_all(b"READY=1\n")
        {
            self.warn(&format!("--ready-fd cannot be written to: {err}"));
        }
        if let Some(mut supervisor) = self.supervisor.as_ref() {
            if self.pipe.take().is_some() {
                leave_standard_output()?;
            }
            // One that has died is noticed by whoever listens to it.
            let _ = supervisor.write_all(&[1]);
            return Ok(());
        }
        if let Some(pipe) = &mut self.pipe {
            // The order matters: a parent that has returned must not take this process with it, and
            // its terminal must not be held open.
            sys::end_with_parent(false).map_err(|err| cannot_leave(&err))?;
            leave_standard_output()?;
            write_line(pipe, &json!({ "ready": true })).map_err(|_| {
                StartError::new(
                    StartErrorKind::Other,
                    "the command that waited for the mount has gone",
                )
            })?;
            self.pipe = None;
        }
        Ok(())
    }

    /// Whether somebody heard of the failure.
    fn failed(&mut self, err: &StartError) -> bool {
        self.pipe.as_mut().is_some_and(|pipe| write_line(pipe, &err.to_json()).is_ok())
    }
}

/// Runs `body` in a process of its own, and returns when it is ready. In that process it returns
/// when `body` does.
///
/// To be called before the first thread is started.
pub(super) fn in_background(
    ready: Option<OwnedFd>,
    json: bool,
    body: impl FnOnce(&mut Report) -> Result<u8, StartError>,
) -> Result<u8, StartError> {
    let (reader, writer) =
        io::pipe().map_err(|err| StartError::unexpected("cannot make a pipe", &err))?;
    match sys::fork().map_err(|err| StartError::unexpected("cannot go to the background", &err))? {
        Fork::Parent(child) => {
            drop((writer, ready));
            follow(reader, child, json)
        }
        Fork::Child => {
            drop(reader);
            let mut report = Report { pipe: Some(writer), ready, supervisor: None };
            let result = leave_the_terminal()
                .map_err(|err| cannot_leave(&err))
                .and_then(|()| body(&mut report));
            // Errors are the parent's to print, while it waits; later they are for the log.
            result.or_else(|err| {
                if !report.failed(&err) {
                    tracing::error!("{err}");
                }
                Ok(err.exit_code())
            })
        }
    }
}

/// Prints a warning for the person at the terminal.
pub(super) fn print_warning(sentence: &str, json: bool) {
    let mut stderr = io::stderr().lock();
    // Nothing is to be done where even the terminal fails.
    let _ = if json {
        write_line(&mut stderr, &json!({ "warning": sentence }))
    } else {
        writeln!(stderr, "s3mount: warning: {sentence}")
    };
}

/// The parent's part: passes on what the child says until it is ready or has failed.
fn follow(reader: PipeReader, child: libc::pid_t, json: bool) -> Result<u8, StartError> {
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(sentence) = message.get("warning").and_then(Value::as_str) {
            print_warning(sentence, json);
        } else if message.get("ready").is_some() {
            return Ok(0);
        } else if let Some(err) = StartError::from_json(&message) {
            // So that nothing of a failed start is left when the command returns.
            let _ = sys::wait(child);
            return Err(err);
        }
    }
    let end = sys::wait(child).map_or_else(|err| err.to_string(), |status| status.to_string());
    Err(StartError::new(
        StartErrorKind::Other,
        format!("the background process ended before the mount was ready ({end})"),
    ))
}

fn leave_the_terminal() -> io::Result<()> {
    // Until ready: whoever interrupts the command stops the start, too.
    sys::end_with_parent(true)?;
    sys::new_session()?;
    for (name, value) in absolute_variables() {
        sys::set_variable(name, &value)?;
    }
    std::env::set_current_dir("/")?;
    sys::replace_standard(open_null()?.as_fd(), 0)
}

fn leave_standard_output() -> Result<(), StartError> {
    let null = open_null().map_err(|err| cannot_leave(&err))?;
    for number in 1..=2 {
        sys::replace_standard(null.as_fd(), number).map_err(|err| cannot_leave(&err))?;
    }
    Ok(())
}

fn cannot_leave(err: &io::Error) -> StartError {
    StartError::unexpected("cannot leave the terminal", err)
}

fn open_null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

fn write_line(to: &mut impl Write, message: &Value) -> io::Result<()> {
    to.write_all(format!("{message}\n").as_bytes())
}
