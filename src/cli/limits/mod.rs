//! `floodmark limits`: work on limits themselves.
//!
//! Each command has a file of its own; `reading` reads limits from wherever they are, `report` says in
//! words what rows say, `file` puts a file in the place of another.

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
    /// Show which rows of a file or table hold, which are refused and why, and what is in force
    ///
    /// Ends with 0 if no row is refused, 65 if one is, 66 if the file or table is missing, 69 if the
    /// database can't be reached and 78 if limits can't be read from what is there.
    Check(check::Check),
    /// Show which version of each limit is in force, and which come
    ///
    /// Rows that are refused are named on standard error.
    List(list::List),
    /// Show which limits apply to a pair, how far each is from being broken, and why none applies
    ///
    /// From captures, which are counted to their end as `floodmark replay` does, or from a run that
    /// serves (--http). Ends with 0 also when none applies, 65 if a capture is damaged, 66 if a file is
    /// missing, 69 if the run can't be reached and 78 if the limits can't be parsed.
    Explain(Box<explain::Explain>),
    /// Show how two sets of limits differ, by name and effective date
    ///
    /// Ends with 0, or with 1 if they differ and --exit-code is given.
    Diff(diff::Diff),
    /// Make the table of limits in a database, and the trigger by which it tells of changes
    ///
    /// Safe to run twice: what is there stays as it is.
    Init(init::Init),
    /// Give a limit a version: in a table, or in a file
    ///
    /// A version of the same name and date is replaced. Columns that are not given are those of the
    /// version in force at that date.
    Set(set::Set),
    /// Delete a version of a limit, as if it had never been
    ///
    /// To end a limit and leave what it has said, set it to null.
    Delete(set::Delete),
    /// Write the rows of a file into a table
    ///
    /// All of them, or, if one is refused, none.
    Import(transfer::Import),
    /// Write limits as a JSON array, a row a line
    ///
    /// Ends with 65 if a row is refused and left out.
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
