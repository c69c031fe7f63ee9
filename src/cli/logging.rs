//! The options about logs.

use clap::ValueEnum;

use crate::base::logging::{self, Level, Logs};

/// The options of a command that logs.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(id = "logging")]
pub struct Args {
    /// The least severe level of messages to log
    #[arg(long, value_enum, env = "FLOODMARK_LOG_LEVEL", default_value_t = LogLevel::Info)]
    log_level: LogLevel,

    /// The format of the log; auto is text on a terminal, and JSON otherwise
    #[arg(long, value_enum, env = "FLOODMARK_LOG_FORMAT", default_value_t = LogFormat::Auto)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Auto,
    Text,
    Json,
}

impl Args {
    /// Starts the log on standard error.
    pub fn start(&self) {
        let level = match self.log_level {
            LogLevel::Error => Level::Error,
            LogLevel::Warn => Level::Warn,
            LogLevel::Info => Level::Info,
            LogLevel::Debug => Level::Debug,
            LogLevel::Trace => Level::Trace,
        };
        let format = match self.log_format {
            LogFormat::Auto => None,
            LogFormat::Text => Some(Logs::Text),
            LogFormat::Json => Some(Logs::Json),
        };
        logging::start(level, format);
    }
}
