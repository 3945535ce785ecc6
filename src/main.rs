//! Parse, run, exit code.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use s3mount::cli::{self, Args, ListArgs, RefreshArgs, Typed, UmountArgs};
use s3mount::config::{Config, Environment};
use s3mount::control::Umount;
use s3mount::{StartError, StartErrorKind, control, log, mount};

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let typed: Vec<OsString> = std::env::args_os().collect();
    let json = cli::wants_json(&typed);
    let result = match cli::understand(&typed) {
        Ok(Typed::Mount(args)) => start(*args),
        Ok(Typed::Refresh(RefreshArgs { path, recursive, json })) => {
            control::refresh(&path, recursive, json).map(|()| 0)
        }
        Ok(Typed::Umount(UmountArgs { dirs, lazy, force, all, json })) => {
            control::umount(&Umount { all, dirs, lazy, force, json })
        }
        Ok(Typed::List(ListArgs { json })) => control::list(json).map(|()| 0),
        // What was asked for: help or the version.
        Err(err) if err.exit_code() == 0 => {
            // A closed pipe is no reason to complain.
            let _ = err.print();
            return ExitCode::SUCCESS;
        }
        Err(err) => {
            let text = err.render().to_string();
            Err(StartError::new(
                StartErrorKind::Usage,
                text.trim_start_matches("error: ").trim_end(),
            ))
        }
    };
    ExitCode::from(result.unwrap_or_else(|err| {
        let text = if json { err.to_json().to_string() } else { format!("s3mount: {err}") };
        let _ = writeln!(std::io::stderr(), "{text}");
        err.exit_code()
    }))
}

fn start(args: Args) -> Result<u8, StartError> {
    let config = Config::new(args, &Environment::read())?;
    log::start(&config.log).map_err(|err| {
        let sentence = format!("the log cannot be written: {err}; name a file that can be opened");
        StartError::new(StartErrorKind::Usage, sentence)
    })?;
    mount::run(&config)
}
