//! The commands: one module each, from checked arguments to an exit code.

use clap::{Parser, Subcommand};

use crate::error::Outcome;

pub mod capture;
pub mod convert;
pub mod demo;
pub mod generate;
pub mod grid;
pub mod judging;
pub mod limits;
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
#[command(name = "floodmark", version, propagate_version = true)]
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
