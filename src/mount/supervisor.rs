//! `--auto-remount`: a small process above the one that serves, which starts another when that one
//! dies. It has one thread, no runtime, nothing of the SDK, and no descriptor of /dev/fuse.
//! Invariant: a mount that somebody unmounted, or asked to end, is not mounted anew.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::deaths::{DEATHS_MAX, Deaths, WITHIN, doubled};
use super::point::{self, Target};
use super::report::Report;
use super::start_error::{StartError, StartErrorKind, signal_exit_code};
use super::sys::{self, Fork, HeldSignals};
use crate::config::Config;

/// Those that ask for the end: they are passed on to the process that serves.
const ENDING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Serves on `target` by child processes, one after the other, until the mount ends. In each child it
/// returns what `serve` does.
pub(super) fn keep(
    config: &Config,
    target: Target,
    report: &mut Report,
    serve: impl FnOnce(&Config, Target, &mut Report) -> Result<u8, StartError>,
) -> Result<u8, StartError> {
    let Some(dir) = target.dir().map(Path::to_owned) else {
        return serve(config, target, report); // Refused before: nobody could mount it anew.
    };
    let signals = HeldSignals::hold(&[ENDING.as_slice(), &[libc::SIGCHLD]].concat())
        .map_err(|err| StartError::unexpected("cannot hold signals", &err))?;
    let mut keeper = Keeper {
        name: format!("{} on {}", config.mount.source, dir.display()),
        hangup_ends: config.mount.foreground,
        signals,
        has_served: false,
        asked: false,
    };
    let (mut target, mut deaths, mut n_failed) = (target, Deaths::default(), 0);
    loop {
        let (ours, theirs) = UnixStream::pair()
            .map_err(|err| StartError::unexpected("cannot make a socket", &err))?;
        let forked = sys::fork();
        match forked.map_err(|err| StartError::unexpected("cannot start a process", &err))? {
            Fork::Child => {
                drop(ours);
                keeper
                    .signals
                    .release()
                    .map_err(|err| StartError::unexpected("cannot hear signals", &err))?;
                report.answer_to(theirs);
                return serve(config, target, report);
            }
            // With the other end, or its end would not be seen; and with the claim on the directory.
            Fork::Parent(child) => {
                drop((theirs, target));
                let ended = keeper.follow(child, &ours, report)?;
                match keeper.what_next(&ended, &dir, &mut deaths, &mut n_failed)? {
                    Next::Start => target = Target::Died(dir.clone()),
                    Next::End(code) => return Ok(code),
                }
            }
        }
    }
}

struct Keeper {
    /// The bucket and the directory, for the log.
    name: String,
    hangup_ends: bool,
    signals: HeldSignals,
    /// The mount has answered once: what was typed is right.
    has_served: bool,
    /// Somebody asked for the end.
    asked: bool,
}

/// How the process that served ended.
struct Served {
    status: ExitStatus,
    /// Its mount answered.
    was_ready: bool,
}

enum Next {
    Start,
    End(u8),
}

impl Keeper {
    /// Passes on what is asked of the child, and to whoever waits that it is ready, until it ends.
    fn follow(
        &mut self,
        child: libc::pid_t,
        stream: &UnixStream,
        report: &mut Report,
    ) -> Result<Served, StartError> {
        let failed = |err| StartError::unexpected("cannot follow the process that serves", &err);
        stream.set_nonblocking(true).map_err(failed)?;
        let (mut was_ready, mut given_up) = (false, None);
        // It says one thing.
        let mut listening = true;
        loop {
            let heard = if listening { hear(stream) } else { Heard::Nothing };
            listening &= matches!(heard, Heard::Nothing);
            if matches!(heard, Heard::Ready) {
                was_ready = true;
                if self.has_served {
                    tracing::warn!("{} is mounted anew", self.name);
                } else if let Err(err) = report.ready() {
                    given_up = Some(err);
                    self.pass_on(stream, libc::SIGTERM);
                }
                self.has_served = true;
            }
            while let Some(signal) = self.signals.next() {
                if ENDING.contains(&signal) {
                    self.pass_on(stream, signal);
                }
            }
            if let Some(status) = sys::try_wait(child).map_err(failed)? {
                // What it wrote is still there after its end.
                let was_ready = was_ready || listening && matches!(hear(stream), Heard::Ready);
                self.has_served |= was_ready;
                return given_up.map_or(Ok(Served { status, was_ready }), Err);
            }
            let mut fds: Vec<BorrowedFd<'_>> = vec![self.signals.as_fd()];
            fds.extend(listening.then(|| stream.as_fd()));
            sys::wait_readable(&fds, None).map_err(failed)?;
        }
    }

    fn pass_on(&mut self, mut stream: &UnixStream, signal: i32) {
        if signal == libc::SIGHUP && !self.hangup_ends {
            return;
        }
        self.asked = true;
        // A child that has died needs no word.
        let _ = stream.write_all(&[u8::try_from(signal).unwrap_or(0)]);
    }

    fn what_next(
        &mut self,
        served: &Served,
        dir: &Path,
        deaths: &mut Deaths,
        n_failed: &mut usize,
    ) -> Result<Next, StartError> {
        let Served { status, was_ready } = served;
        let code = match (status.code(), status.signal()) {
            (Some(code), _) => u8::try_from(code).unwrap_or(1),
            (None, signal) => signal_exit_code(signal.unwrap_or(0)),
        };
        let killed_on_purpose = status.signal().is_some_and(|signal| ENDING.contains(&signal));
        if self.asked || killed_on_purpose {
            point::take_dead_mount_of_ours_away(dir);
            // A later start that is cut short is no failure: the mount had served, and ends as asked.
            let cut_short = self.has_served && !was_ready;
            return Ok(Next::End(if cut_short { 0 } else { code }));
        }
        if self.has_served && !was_ready && !point::is_dead(dir) {
            // What the start before it was to replace.
            return Ok(self.unmounted_meanwhile(dir));
        }
        let pause = if status.signal().is_some() {
            if !self.has_served {
                point::take_dead_mount_of_ours_away(dir);
                let sentence =
                    format!("the process that serves ended before the mount was ready ({status})");
                return Err(StartError::new(StartErrorKind::Other, sentence));
            }
            *n_failed = 0;
            let Some(pause) = deaths.add(Instant::now()) else {
                // The dead mount stays: an error is better than an empty directory.
                tracing::error!(
                    "{} is not mounted anew: {DEATHS_MAX} processes that served it died within {} \
                     minutes, the last of them by {status}; find out what kills them (dmesg, \
                     coredumpctl), then mount it again",
                    self.name,
                    WITHIN.as_secs() / 60,
                );
                return Ok(Next::End(code));
            };
            tracing::error!(
                "the process that served {} died by {status}; mounting anew in {} s",
                self.name,
                pause.as_secs()
            );
            pause
        } else if self.has_served && !was_ready && may_come_right(code) {
            let pause = doubled(*n_failed);
            *n_failed += 1;
            tracing::warn!(
                "{} could not be mounted anew (exit code {code}); trying again in {} s",
                self.name,
                pause.as_secs()
            );
            pause
        } else {
            return Ok(Next::End(code));
        };
        self.wait(pause);
        if self.asked {
            point::take_dead_mount_of_ours_away(dir);
            return Ok(Next::End(0));
        }
        if !point::is_dead(dir) {
            return Ok(self.unmounted_meanwhile(dir));
        }
        Ok(Next::Start)
    }

    fn unmounted_meanwhile(&self, dir: &Path) -> Next {
        tracing::warn!("{}: {}", self.name, point::unmounted_meanwhile(dir));
        Next::End(0)
    }

    /// Waits for the time, or until the end is asked for.
    fn wait(&mut self, pause: Duration) {
        let end = Instant::now() + pause;
        loop {
            while let Some(signal) = self.signals.next() {
                let ends = ENDING.contains(&signal) && (signal != libc::SIGHUP || self.hangup_ends);
                self.asked |= ends;
            }
            let left = end.saturating_duration_since(Instant::now());
            if self.asked
                || left.is_zero()
                || sys::wait_readable(&[self.signals.as_fd()], Some(left)).is_err()
            {
                return;
            }
        }
    }
}

/// Whether the start that ended so was refused for a reason that may pass, as what was typed has
/// worked before: a server or a service that gives credentials is not reachable, or a session is over.
fn may_come_right(code: u8) -> bool {
    [StartErrorKind::Network, StartErrorKind::NoCredentials, StartErrorKind::Denied]
        .iter()
        .any(|kind| kind.exit_code() == code)
}

/// What the process that serves says.
enum Heard {
    Nothing,
    Ready,
    Closed,
}

fn hear(mut stream: &UnixStream) -> Heard {
    match stream.read(&mut [0]) {
        Ok(0) => Heard::Closed,
        Ok(_) => Heard::Ready,
        Err(_) => Heard::Nothing,
    }
}
