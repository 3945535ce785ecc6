//! Parse, run, exit code.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use s3mount::cli::{self, Args};
use s3mount::config::{Config, Environment};
use s3mount::{StartError, StartErrorKind, log, mount};

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let typed: Vec<OsString> = std::env::args_os().collect();
    let json = cli::wants_json(&typed);
    let result = match cli::parse(&typed) {
        Ok(args) => start(args),
        Err(err) if err.exit_code() == 0 || !json => {
            // A closed pipe is no reason to complain.
            let _ = err.print();
            return ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2));
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
        StartError::new(StartErrorKind::Other, format!("no log can be written: {err}"))
    })?;
    mount::run(&config)
}
