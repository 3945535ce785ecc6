//! Where the log goes: the terminal, a file, or the system's log.

use std::ffi::CString;
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{FormatFields, Writer, debug_fn};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogTarget};
use crate::error::plain;
use crate::mount::sys;

/// The libraries that have their say at level trace: those that handle bytes without knowing what
/// they mean. Not the AWS SDK, which writes whole requests and answers there, with the tokens that
/// STS and SSO give out and with signatures. A library that is not named here is not heard, so that a
/// new one cannot tell secrets.
const TRACED: [(&str, LevelFilter); 4] = [
    ("fuser", LevelFilter::TRACE),
    ("hyper", LevelFilter::TRACE),
    ("hyper_util", LevelFilter::TRACE),
    ("rustls", LevelFilter::DEBUG),
];

/// Starts logging for the whole process. Fails where the log file cannot be opened.
pub fn start(config: &LogConfig) -> io::Result<()> {
    // What the libraries say is for those who trace; of ours everything is filtered by level alone.
    let targets = Targets::new().with_target("s3mount", config.level);
    let targets = match config.level {
        LevelFilter::TRACE => targets.with_targets(TRACED),
        _ => targets,
    };
    let registry = tracing_subscriber::registry().with(targets);
    match &config.target {
        LogTarget::Terminal => {
            let is_terminal = io::stderr().is_terminal();
            let layer = fmt::layer().with_target(false).with_ansi(is_terminal);
            let layer = layer.fmt_fields(plain_fields());
            registry.with(layer.with_writer(io::stderr)).init();
        }
        LogTarget::File(path) => {
            let file = open(path)?;
            let layer = fmt::layer().with_target(false).with_ansi(false);
            let layer = layer.fmt_fields(plain_fields());
            registry.with(layer.with_writer(Arc::new(file))).init();
        }
        LogTarget::System => {
            // The system's log has its own times and levels.
            let layer = fmt::layer().with_target(false).with_ansi(false);
            let layer = layer.without_time().with_level(false).fmt_fields(plain_fields());
            registry.with(layer.with_writer(SystemLog)).init();
        }
    }
    log_panics(config.target == LogTarget::Terminal);
    Ok(())
}

/// One event is one line, and no word of a server or key of a bucket commands the terminal that shows
/// it. Here and not at each event, so that none is forgotten, the libraries' own included.
fn plain_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    let write = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let text = plain(&format!("{value:?}"));
        match field.name() {
            "message" => write!(writer, "{text}"),
            name => write!(writer, "{name}={text}"),
        }
    };
    debug_fn(write).delimited(" ")
}

/// Keys of objects may be in it: it is for its owner and group.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    file.map_err(|err| io::Error::new(err.kind(), format!("--log-file {}: {err}", path.display())))
}

/// A panic costs one request, and must not pass unseen in a process without a terminal.
fn log_panics(log_is_terminal: bool) {
    let print = Mutex::new(std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        tracing::error!("panic: {panic}");
        if !log_is_terminal && let Ok(print) = print.lock() {
            print(panic);
        }
    }));
}

/// One event, one line of syslog(3).
#[derive(Clone, Copy, Debug)]
struct SystemLog;

struct SystemLogLine {
    severity: i32,
}

impl<'a> MakeWriter<'a> for SystemLog {
    type Writer = SystemLogLine;

    fn make_writer(&'a self) -> SystemLogLine {
        SystemLogLine { severity: libc::LOG_INFO }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> SystemLogLine {
        let severity = match *metadata.level() {
            Level::ERROR => libc::LOG_ERR,
            Level::WARN => libc::LOG_WARNING,
            Level::INFO => libc::LOG_INFO,
            Level::DEBUG | Level::TRACE => libc::LOG_DEBUG,
        };
        SystemLogLine { severity }
    }
}

impl Write for SystemLogLine {
    /// The formatter hands over a whole event at once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // A key may hold a zero byte; nothing after it would be logged.
        let line: Vec<u8> = event.trim_ascii_end().iter().map(|b| (*b).max(1)).collect();
        if let Ok(line) = CString::new(line) {
            sys::system_log(self.severity, &line);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
