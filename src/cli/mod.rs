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
mod records;
pub mod replay;
pub mod run;
mod run_lines;
mod run_outputs;
mod run_state;
mod run_topics;
pub mod sending;
pub mod source;
pub mod state;
pub mod test;
pub mod values;

/// Hold network traffic to limits
///
/// floodmark sums the bytes and packets of every source and destination in windows of 5 minutes, joins
/// the sums with limits that may change at any time, and reports violations of the limits.
#[derive(Debug, Parser)]
#[command(name = "floodmark", version, long_version = BUILD, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check recorded traffic against limits, by its own time: captures, texts with records, topics
    Replay(Box<replay::Args>),
    /// Check a Kafka topic against limits, as records arrive and as limits change
    Run(Box<run::Args>),
    /// Send the traffic of a network interface, or of captures, to a Kafka topic
    Capture(Box<capture::Args>),
    /// Convert the records of a topic, of captures or of files to another format or place
    Convert(Box<convert::Args>),
    /// Check, list, explain, compare and edit limits
    Limits(Box<limits::Args>),
    State(state::Args),
    /// Run test cases of limits and traffic, and compare the changes with the expected ones
    Test(test::Args),
    Generate(generate::Args),
    /// Run the whole pipeline in this process: a capture, a broker, alerts, and a limit that changes
    Demo(demo::Args),
}

/// The whole command line. No help shows values of the environment: they may be secret.
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
/// The command line is wrong, or asks for help. The error shows no password, and no character that acts on a
/// terminal.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(words);
    matches
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
        .map_err(|error| fit_to_show(error.format(&mut command)))
}

/// Hides passwords and escapes unsafe characters in the words of the command line that an error quotes.
fn fit_to_show(mut error: clap::Error) -> clap::Error {
    let is_kafka_option = error.context().any(|(kind, value)| {
        kind == ContextKind::InvalidArg && value.to_string().contains("--kafka-option")
    });
    let fit = |kind: ContextKind, text: &str| {
        let text = match kind {
            // The value may be secret also if the name of the option is mistyped.
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

/// Prints the error of a command line, or the requested help.
pub fn print(error: &clap::Error) {
    let plain = error.render().to_string();
    // Its causes are texts of their own, which `fit_to_show` does not reach.
    let fit = shown::without_passwords(&plain);
    let fit = shown::escaped_lines(&fit);
    // A failure to print has nowhere to be reported.
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
        Command::State(args) => state::run(args),
        Command::Test(args) => test::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Demo(args) => demo::run(args),
    }
}
