//! The log of a long-running program: text for a terminal, JSON for a collector.

mod stderr;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::debug_fn;

use crate::base::shown::{self, LogLine};

/// The least important messages to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Errors alone.
    Error,
    /// Warnings, too.
    Warn,
    /// The course of the program, too.
    Info,
    /// Details that help to find a fault, too.
    Debug,
    /// Everything.
    Trace,
}

/// Minimum interval between two log lines of one kind, for messages that come in thousands.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);

/// Selects the messages to log among many: of each kind at most one every 10 s.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    last_logged: BTreeMap<&'static str, Instant>,
}

impl Sampler {
    /// Whether to log one of this kind now.
    pub fn allows(&mut self, kind: &'static str) -> bool {
        let recent = |logged: &Instant| logged.elapsed() < SAMPLE_INTERVAL;
        if self.last_logged.get(kind).is_some_and(recent) {
            return false;
        }
        self.last_logged.insert(kind, Instant::now());
        true
    }
}

/// The format of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logs {
    /// Lines for people.
    Text,
    /// An object a line.
    Json,
}

static STARTED: OnceLock<Logs> = OnceLock::new();

/// Returns the format of this program's log; `None` if the program has no log, and writes messages for people.
pub fn started() -> Option<Logs> {
    STARTED.get().copied()
}

/// Writes a line to standard error without formatting it: through the writer of the log, if there is one.
/// Escapes characters that act on a terminal, and hides passwords.
pub fn print(line: &str) {
    let line = shown::line(line) + "\n";
    // A failure to write to standard error has nowhere to be reported.
    let _ = match started() {
        Some(_) => stderr::ToStderr.write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

/// Waits briefly until the log is written, since the process exits.
pub fn flush() {
    stderr::flush();
}

/// Returns the number of log lines dropped because nobody read them.
pub fn dropped_lines() -> u64 {
    stderr::dropped_lines()
}

/// Starts the log on standard error. Without a format: text to a terminal, and JSON otherwise.
pub fn start(level: Level, format: Option<Logs>) {
    let level = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_max_level(level);
    let stderr = stderr::ToStderr::start();
    let text = format.map_or(terminal, |format| format == Logs::Text);
    // A second command in one process, as in tests, keeps the log of the first one.
    let started = match text {
        // The colours are control sequences, so fields from outside are escaped before they are added.
        true => {
            let field = debug_fn(|out, field, value| {
                let value = shown::line(format_args!("{value:?}"));
                match field.name() {
                    "message" => write!(out, "{value}"),
                    name => write!(out, "{name}={value}"),
                }
            });
            let log = log.with_writer(stderr).with_ansi(terminal);
            log.fmt_fields(field.delimited(" ")).try_init()
        }
        false => {
            let writer = move || LogLine(stderr);
            log.with_writer(writer).json().flatten_event(true).try_init()
        }
    };
    if started.is_ok() {
        let _ = STARTED.set(if text { Logs::Text } else { Logs::Json });
    }
}
