//! The commands: one module each, from checked arguments to an exit code.

use std::ffi::OsString;
use std::io::Write;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::BUILD;
use crate::base::error::Outcome;
use crate::base::shown;

pub mod capture;
pub mod cluster;
pub mod convert;
pub mod demo;
mod formats;
pub mod generate;
pub mod grid;
pub mod http;
pub mod judging;
pub mod kafka;
pub mod limits;
pub mod logging;
pub mod replay;
pub mod run;
pub mod sending;
pub mod source;
pub mod test;
pub mod values;

/// Hold network traffic to limits
///
/// floodmark sums the bytes and packets of every source and destination in windows of 5 minutes, joins
/// them with limits that may change at any time, and says which limits are broken.
#[derive(Debug, Parser)]
#[command(name = "floodmark", version, long_version = BUILD, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Judge captures by limits, on their own clock
    Replay(Box<replay::Args>),
    /// Judge a topic by limits, as records come and as limits change
    Run(Box<run::Args>),
    /// Send the traffic of an interface, or of captures, to a topic of Kafka
    Capture(Box<capture::Args>),
    /// Write the records of a topic, of captures or of files in another format, elsewhere
    Convert(Box<convert::Args>),
    /// Check limits, and ask which of them apply to whom
    Limits(Box<limits::Args>),
    /// Play cases of limits and traffic, and compare what is said with what they expect
    Test(test::Args),
    Generate(generate::Args),
    /// See it all at work, in this process: a capture through a broker to alerts, and a limit that changes
    Demo(demo::Args),
}

/// The whole command line. No help shows what is in the environment: it may be secret.
pub fn command() -> clap::Command {
    hide_environment(Cli::command())
}

fn hide_environment(command: clap::Command) -> clap::Command {
    let names: Vec<String> =
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.mut_args(|argument| argument.hide_env_values(true));
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, hide_environment))
}

/// Reads a command line.
///
/// # Errors
/// It is wrong, or asks for help. The error shows no password, and nothing that acts on a terminal.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(words);
    matches
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
        .map_err(|error| fit_to_show(error.format(&mut command)))
}

/// The error, with the words of the command line in it made fit to be shown.
fn fit_to_show(mut error: clap::Error) -> clap::Error {
    let is_kafka_option = error.context().any(|(kind, value)| {
        kind == ContextKind::InvalidArg && value.to_string().contains("--kafka-option")
    });
    let fit = |kind: ContextKind, text: &str| {
        let text = match kind {
            // With a name that is mistyped, it may be a secret as well.
            ContextKind::InvalidValue if is_kafka_option => match text.split_once('=') {
                Some((name, _)) => format!("{name}=***"),
                None => "***".to_owned(),
            },
            _ => shown::without_password(text).into_owned(),
        };
        shown::escaped(&text).into_owned()
    };
    let words: Vec<(ContextKind, ContextValue)> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, ContextValue::String(fit(kind, text)))),
            ContextValue::Strings(texts) => {
                let texts = texts.iter().map(|text| fit(kind, text)).collect();
                Some((kind, ContextValue::Strings(texts)))
            }
            ContextValue::StyledStrs(texts) => {
                let texts = texts.iter().map(|text| fit(kind, &text.to_string()).into()).collect();
                Some((kind, ContextValue::StyledStrs(texts)))
            }
            _ => None,
        })
        .collect();
    for (kind, value) in words {
        error.insert(kind, value);
    }
    error
}

/// Prints why a command line is wrong, or the help that it asks for.
pub fn print(error: &clap::Error) {
    let plain = error.render().to_string();
    // The causes that are told in it are texts of their own.
    let fit = shown::without_passwords(&plain);
    let fit = shown::escaped_lines(&fit);
    // Nobody can be told that nobody can be told.
    drop(match fit == plain {
        true => error.print(),
        false => write!(std::io::stderr(), "{fit}"),
    });
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;

/// Runs a command.
pub fn run(cli: &Cli) -> Outcome {
    match &cli.command {
        Command::Replay(args) => replay::run(args),
        Command::Run(args) => run::run(args),
        Command::Capture(args) => capture::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Limits(args) => limits::run(args),
        Command::Test(args) => test::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Demo(args) => demo::run(args),
    }
}
