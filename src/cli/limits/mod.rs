//! `floodmark limits`: work on limits themselves.
//!
//! Each command has a file of its own; `reading` reads limits from files and tables, `report` formats rows as
//! text, `file` replaces a file as a whole.

mod check;
mod console;
mod diff;
mod explain;
mod file;
mod init;
mod list;
mod reading;
mod report;
mod set;
mod transfer;
mod view;

use clap::Subcommand;

use crate::base::error::Outcome;

/// The arguments of `floodmark limits`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Show the rows of a file or table that hold, the refused ones with reasons, and the limits in force
    ///
    /// Exits with 0 if no row is refused, 65 if one is, 66 if the file or table is missing, 69 if the
    /// database can't be reached and 78 if the file or table can't be read as limits.
    Check(check::Check),
    /// Show the version of each limit that is in force, and its future versions
    ///
    /// Refused rows are reported on standard error.
    List(list::List),
    /// Show the limits that apply to a pair and how far each is from being broken, or why none applies
    ///
    /// Counts captures to their end, as `floodmark replay` does, or queries a run that serves --http. Exits
    /// with 0 also when no limit applies, 65 if a capture is damaged, 66 if a file is missing, 69 if the run
    /// can't be reached and 78 if the limits can't be parsed.
    Explain(Box<explain::Explain>),
    /// Show the differences between two sets of limits, by name and effective date
    ///
    /// Exits with 0, or with 1 if they differ and --exit-code is given.
    Diff(diff::Diff),
    /// Create the table of limits in a database, and the trigger that notifies runs of changes
    ///
    /// Safe to run twice: an existing table, its columns and its rows stay as they are.
    Init(init::Init),
    /// Add or replace a version of a limit, in a table or in a file
    ///
    /// Replaces a version of the same name and date. Columns without an option are those of the version in
    /// force at that date.
    Set(set::Set),
    /// Delete a version of a limit, as if it had never existed
    ///
    /// To end a limit and keep its past violations, set it to null instead.
    Delete(set::Delete),
    /// Write the rows of a file into a table
    ///
    /// If a row is refused, none is written.
    Import(transfer::Import),
    /// Write limits as a JSON array, a row a line
    ///
    /// Leaves refused rows out, and exits with 65 if there are any.
    Export(transfer::Export),
}

/// Runs `floodmark limits`.
pub fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Check(check) => check.run(),
        Command::List(list) => list.run(),
        Command::Diff(diff) => diff.run(),
        Command::Explain(explain) => explain::run(explain),
        Command::Init(init) => init.run(),
        Command::Set(set) => set.run(),
        Command::Delete(delete) => delete.run(),
        Command::Import(import) => import.run(),
        Command::Export(export) => export.run(),
    }
}
