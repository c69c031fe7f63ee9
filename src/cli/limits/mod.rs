//! `floodmark limits`: work on limits themselves.

mod explain;
mod report;
mod view;

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};

use self::report::Report;
use crate::cli::values::LimitDefaults;
use crate::error::{Exit, Failure, Outcome};
use crate::limits::catalog::{Catalog, LimitSet, in_force};
use crate::limits::feed::contents;
use crate::limits::quote::Quoted;
use crate::limits::{date, json};

/// What `floodmark limits` is asked to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Show which rows of a file hold, which are refused and why, and what is in force
    ///
    /// Ends with 0 if no row is refused, 65 if one is, 66 if the file is missing and 78 if it can't be
    /// parsed.
    Check(Check),
    /// Show which limits apply to a pair, how far each is from being broken, and why none applies
    ///
    /// From captures, which are counted to their end as `floodmark replay` does, or from a run that
    /// serves (--http). Ends with 0 also when none applies, 65 if a capture is damaged, 66 if a file is
    /// missing, 69 if the run can't be reached and 78 if the limits can't be parsed.
    Explain(Box<explain::Explain>),
}

/// The options of `floodmark limits check`.
#[derive(Clone, Debug, clap::Args)]
struct Check {
    /// A file of limits: a JSON array of objects, or JSON objects one a line; `-` is standard input
    file: PathBuf,

    /// The moment to say for what is in force, like 2024-05-01 or 2024-05-01T12:00:00Z
    ///
    /// A moment without a zone is in UTC. Default: now.
    #[arg(long, value_name = "TIME", value_parser = date::parse, allow_hyphen_values = true)]
    at: Option<i128>,

    #[command(flatten)]
    defaults: LimitDefaults,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned columns, for people
    Table,
    /// One JSON object a row
    Json,
}

/// Runs `floodmark limits`.
pub fn run(args: &Args) -> Outcome {
    match &args.command {
        Command::Check(check) => {
            let bytes = contents(&check.file)?;
            check_bytes(check, &bytes, check.at.unwrap_or_else(now), &mut io::stdout().lock())
        }
        Command::Explain(explain) => explain::run(explain),
    }
}

fn reading(file: &Path) -> String {
    format!("reading limits from {}", Quoted(&file.to_string_lossy()))
}

/// The clock, in nanoseconds since 1970, to the second: more digits would only be noise to read.
fn now() -> i128 {
    // A clock before 1970 is set wrong; 1970 is as good an answer as any then.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i128::from(since.as_secs()) * 1_000_000_000
}

/// All of `limits check` but files and the clock.
fn check_bytes(check: &Check, bytes: &[u8], at: i128, out: &mut dyn Write) -> Outcome {
    let table = json::read(bytes, check.defaults.defaults())
        .with_context(|| reading(&check.file))
        .map_err(|error| Failure::new(Exit::BadConfig, error))?;
    let mut catalog = Catalog::new();
    let versions = catalog.versions(LimitSet::Live, table.rows());
    let report = Report { table: &table, catalog: &catalog, at, limits: in_force(&versions, at) };
    let text = match check.format {
        Format::Table => report.text(),
        Format::Json => report.json().context("writing rows as JSON")?,
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Who closed the pipe has read enough; the exit code is for somebody else.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            return Err(anyhow::Error::new(error).context("writing to standard output").into());
        }
        _ => {}
    }
    let refused = table.refusals().next().is_some();
    Ok(if refused { Exit::BadData } else { Exit::Done })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// Exit and output of `limits check` on a text.
    fn check(options: &[&str], text: &str) -> (Exit, String) {
        let line = ["limits", "check", "limits.json", "--at", "2024-05-10"].iter().chain(options);
        let Command::Check(check) = Cli::try_parse_from(line).unwrap().args.command else {
            panic!("another command");
        };
        let mut out = Vec::new();
        match check_bytes(&check, text.as_bytes(), check.at.unwrap(), &mut out) {
            Ok(exit) => (exit, String::from_utf8(out).unwrap()),
            Err(failure) => (failure.exit, format!("{:#}", failure.error)),
        }
    }

    const FILE: &str = r#"[
  {"limit_name":"max","limit_value":1000000,"effective_date":"2024-05-01"},
  {"limit_name":"max","limit_value":2e6,"effective_date":"2024-06-01"},
  {"limit_name":"max","limit_value":1,"effective_date":"2023-01-01"},
  {"limit_name":"max","limit_value":null,"effective_date":"2025-01-01"},
  {"limit_name":"max","limit_value":1.0,"effective_date":"2023-01-01T00:00:00Z"},
  {"limit_name":"web","limit_value":5,"effective_date":"2024-05-01","sorce":"10.0.0.1"},
  7,
  {"limit_name":"min\n1","limit_value":"10.5","effective_date":"2024-05-02","per":"host",
   "host":"10.0.0.0/8","metric":"packets"}
]"#;

    #[test]
    fn a_table_for_people() {
        let (exit, out) = check(&[], FILE);
        assert_eq!(exit, Exit::BadData);
        let expected = r#"rows that hold
row  line  limit_name  bound  limit_value  metric   per   source  destination  host        effective_date        state
1    2     max         max    1000000      bytes    pair  any     any          any         2024-05-01T00:00:00Z  now
2    3     max         max    2e6          bytes    pair  any     any          any         2024-06-01T00:00:00Z  next
3    4     max         max    1            bytes    pair  any     any          any         2023-01-01T00:00:00Z  past
4    5     max         max    null         bytes    pair  any     any          any         2025-01-01T00:00:00Z  later
8    9     min\n1      max    10.5         packets  host  any     any          10.0.0.0/8  2024-05-02T00:00:00Z  now

rows given more than once, which count once
row 5 (line 6), "max" says the same as row 3 (line 4)

rows that are refused
row 6 (line 7), "web": unknown key "sorce"; did you mean "source"?
row 7 (line 8): the row is a number: "7"; write an object with the columns as keys

in force at 2024-05-10T00:00:00Z
limit_name  now                                            since                 next                        from
max         max 1000000 bytes per pair                     2024-05-01T00:00:00Z  max 2e6 bytes per pair      2024-06-01T00:00:00Z
min\n1      max 10.5 packets per host, host 10.0.0.0/8     2024-05-02T00:00:00Z  -                           -

8 rows: 5 held, 1 duplicate, 2 refused; 2 limits in force at 2024-05-10T00:00:00Z
"#;
        let squeezed = |text: &str| {
            text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(squeezed(&out), squeezed(expected), "{out}");
    }

    #[test]
    fn one_json_object_a_row() {
        let (exit, out) = check(&["--format", "json", "--limits-per", "total"], FILE);
        assert_eq!(exit, Exit::BadData);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 8);
        assert_eq!(
            lines[1],
            r#"{"row":2,"line":3,"status":"holds","limit_name":"max","limit_value":2e6,"effective_date":"2024-06-01T00:00:00Z","bound":"max","metric":"bytes","per":"total","source":"any","destination":"any","host":"any","at":"2024-05-10T00:00:00Z","state":"next"}"#
        );
        assert!(lines[3].contains(r#""limit_value":null"#));
        assert_eq!(
            lines[4],
            r#"{"row":5,"line":6,"status":"duplicate","limit_name":"max","same_as":3}"#
        );
        assert_eq!(
            lines[5],
            r#"{"row":6,"line":7,"status":"refused","limit_name":"web","reason":"unknown key \"sorce\"; did you mean \"source\"?"}"#
        );
    }

    #[test]
    fn ends() {
        let good = r#"{"limit_name":"max","limit_value":1,"effective_date":"2024-05-01"}"#;
        assert_eq!(check(&[], good).0, Exit::Done);
        let nothing =
            "0 rows: 0 held, 0 duplicate, 0 refused; 0 limits in force at 2024-05-10T00:00:00Z\n";
        assert_eq!(check(&[], ""), (Exit::Done, nothing.to_owned()));
        assert_eq!(check(&["--format", "json"], "[]"), (Exit::Done, String::new()));
        let cut = "reading limits from \"limits.json\": line 1, column 2: \
                   EOF while parsing an object; a file of limits is a JSON array of objects, \
                   or JSON objects one a line";
        assert_eq!(check(&[], "{ "), (Exit::BadConfig, cut.to_owned()));
        let missing = contents(Path::new("no/such/file")).unwrap_err();
        assert_eq!(missing.exit, Exit::NoInput);
        assert!(missing.error.to_string().starts_with("reading limits from \"no/such/file\""));
    }

    #[test]
    fn a_closed_pipe_is_a_quiet_end() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let Command::Check(check) = Cli::parse_from(["limits", "check", "-"]).args.command else {
            panic!("another command");
        };
        assert_eq!(check_bytes(&check, b"[5]", 0, &mut Closed).unwrap(), Exit::BadData);
    }

    #[test]
    fn options_are_checked() {
        for options in [["--at", "infinity"], ["--limits-per", "flow"], ["--format", "csv"]] {
            let line = ["limits", "check", "f"].iter().chain(&options);
            assert!(Cli::try_parse_from(line).is_err(), "{options:?}");
        }
    }
}
