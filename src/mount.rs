//! The life of a mount, from the checked words to the exit code. Builds the object graph; with
//! `fuse/` the only user of fuser.
//!
//! The order is what keeps it sound: the mount point is looked at; the process goes to the
//! background, before any thread; the bucket is proven by its first listing; only then something is
//! mounted; and the command returns when the mount has answered. From mount(2) on a guard unmounts,
//! whatever fails.

mod asleep;
mod attach;
mod deaths;
mod live;
mod point;
mod report;
mod sentences;
mod session;
mod signals;
mod start_error;
mod supervisor;
pub(crate) mod sys;

use std::io;
use std::path::PathBuf;

pub(crate) use attach::{By, Manner, take_away};
pub(crate) use live::apart;
use live::{Ended, start_runtime};
pub use live::{Mount, UnmountError};
use point::Target;
pub(crate) use point::turn;
pub use report::Report;
use signals::Signals;
use start_error::signal_exit_code;
pub use start_error::{StartError, StartErrorKind};

use crate::config::Config;

/// Descriptors are for connections, a few hundred at most. More than this would only be passed on to
/// programs that are started (fusermount3, a credential_process), of which some close all that there
/// may be one by one.
const OPEN_FILES_ENOUGH: u64 = 65_536;

/// Mounts in this process. Warnings are sentences for the user, about what does not stand in the way.
/// No signal is listened to. Not to be called by a task.
pub fn start(config: &Config, warn: &mut (dyn FnMut(&str) + Send)) -> Result<Mount, StartError> {
    let target = point::check(&config.mount.dir, warn)?;
    Mount::start(start_runtime(config)?, config, target, warn, std::future::pending())
}

/// The command: mounts, and returns the exit code: in the foreground after the end of the mount, else
/// when it answers. To be called before the first thread is started.
pub fn run(config: &Config) -> Result<u8, StartError> {
    sys::tame_allocator();
    if let Err(err) = sys::raise_open_files(OPEN_FILES_ENOUGH) {
        tracing::debug!("the limit of open files stays as it is: {err}");
    }
    let json = config.mount.json;
    let ready = config.mount.ready_fd.map(sys::take_inherited).transpose();
    let ready = ready.map_err(|err| StartError::unexpected("--ready-fd", &err))?;
    let target = point::check(&config.mount.dir, &mut |sentence| {
        report::print_warning(sentence, json);
    })?;
    let body = if config.mount.auto_remount { keep } else { serve };
    if config.mount.foreground {
        return body(config, target, &mut Report::in_foreground(ready));
    }

    // A dead mount that was there before the start is better than an empty directory.
    let dir: Option<PathBuf> = match &target {
        Target::Dead(_) | Target::Died(_) => None,
        target => target.dir().map(Into::into),
    };
    let result = report::in_background(ready, json, |report| body(config, target, report));
    if result.is_err()
        && let Some(dir) = dir
    {
        // A background process that was killed outright could not clean up after itself.
        point::take_dead_mount_of_ours_away(&dir);
    }
    result
}

/// As [`serve`], and anew when the process that serves dies.
fn keep(config: &Config, target: Target, report: &mut Report) -> Result<u8, StartError> {
    supervisor::keep(config, target, report, serve)
}

/// Mounts and serves until unmounted or told to end by a signal.
fn serve(config: &Config, target: Target, report: &mut Report) -> Result<u8, StartError> {
    let runtime = start_runtime(config)?;
    let listening = report.supervisor().and_then(|supervisor| {
        let _context = runtime.enter();
        Signals::listen(config.mount.foreground, supervisor)
    });
    let mut signals =
        listening.map_err(|err| StartError::unexpected("cannot listen to signals", &err))?;
    let mut mount = {
        let given_up = async {
            let signal = signals.end().await;
            let sentence = format!("stopped by signal {signal} before the mount was ready");
            StartError::new(StartErrorKind::Interrupted(signal), sentence)
        };
        Mount::start(runtime, config, target, &mut |sentence| report.warn(sentence), given_up)?
    };
    report.ready()?;
    tracing::info!("{} is mounted on {}", config.mount.source, config.mount.dir.display());
    Ok(until_the_end(&mut mount, &mut signals))
}

/// Serves until the session ends, which a first signal asks for and a second one does not wait for.
fn until_the_end(mount: &mut Mount, signals: &mut Signals) -> u8 {
    loop {
        match mount.wait_unless(signals.end()) {
            Ended::Session(result) => return ended(mount, result),
            Ended::Otherwise(signal) if !mount.is_ours() => {
                tracing::info!(
                    "ended by signal {signal}; whoever mounted the descriptor unmounts it"
                );
                return 0;
            }
            Ended::Otherwise(_) => {}
        }
        let unmounting = mount.unmounting();
        let next = async {
            let failed = async {
                match unmounting.await {
                    Ok(()) => std::future::pending().await,
                    Err(err) => err,
                }
            };
            tokio::select! {
                signal = signals.end() => Ok(signal),
                err = failed => Err(err),
            }
        };
        match mount.wait_unless(next) {
            Ended::Session(result) => return ended(mount, result),
            Ended::Otherwise(Ok(signal)) => {
                tracing::warn!(
                    "ended by a second signal; whoever still uses the mount gets errors"
                );
                return signal_exit_code(signal); // The mount detaches what is left when it drops.
            }
            // The next signal is a first one again.
            Ended::Otherwise(Err(err)) => tracing::error!("{err}"),
        }
    }
}

fn ended(mount: &Mount, result: io::Result<()>) -> u8 {
    match result {
        Ok(()) => {
            tracing::info!("unmounted; {}", mount.metrics().summary());
            0
        }
        Err(err) => {
            tracing::error!("the session with the kernel failed: {err}");
            1
        }
    }
}
