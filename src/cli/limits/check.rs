//! `floodmark limits check`: validates rows, and shows the limits in force.

use std::io::{BufWriter, Write};

use super::console::{Format, check_written, note, now};
use super::reading::Read;
use super::report::Report;
use crate::base::date;
use crate::base::error::{Exit, Outcome};
use crate::base::shown;
use crate::cli::values::LimitRows;

/// The options of `floodmark limits check`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Check {
    /// Limits: a file of JSON, a database as postgres://USER@HOST/DATABASE, or `-` for standard input
    ///
    /// A file is a JSON array of objects, or JSON objects one a line. The rows of a table have no order:
    /// they are numbered by name and date.
    #[arg(value_name = "FILE|URI", env = "FLOODMARK_LIMITS", hide_env_values = true)]
    place: String,

    /// The time to show the limits in force at, such as 2024-05-01 or 2024-05-01T12:00:00Z
    ///
    /// A time without a zone is in UTC. Default: now.
    #[arg(long, value_name = "TIME", value_parser = date::parse, allow_hyphen_values = true)]
    at: Option<i128>,

    #[command(flatten)]
    rows: LimitRows,

    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

impl Check {
    pub(super) fn run(&self) -> Outcome {
        let read = Read::of(&self.rows.of(&self.place)?)?;
        let mut out = BufWriter::new(shown::stdout());
        self.write_report(&read, self.at.unwrap_or_else(now), &mut out)
    }

    /// The command without reading and the clock.
    fn write_report(&self, read: &Read, at: i128, out: &mut dyn Write) -> Outcome {
        let table = &read.table;
        let report = Report { table, at, unknown_columns: &read.unknown_columns };
        let written = match self.format {
            Format::Table => report.write_text(out),
            Format::Json => {
                for column in &read.unknown_columns {
                    note(&format!("column \"{column}\" is no column of limits"));
                }
                report.write_json(out)
            }
        };
        check_written(written.and_then(|()| out.flush()))?;
        let refused = table.refusals().next().is_some();
        Ok(if refused { Exit::BadData } else { Exit::Done })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind, Write};
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::limits::feed::contents;
    use crate::limits::rows::Defaults;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        check: Check,
    }

    /// Exit and output of `limits check` on a text.
    fn check(options: &[&str], text: &str) -> (Exit, String) {
        let line = ["check", "limits.json", "--at", "2024-05-10"].iter().chain(options);
        let check = Cli::try_parse_from(line).unwrap().check;
        let options = check.rows.of(&check.place).unwrap();
        let mut out = Vec::new();
        let read = Read::of_bytes(text.as_bytes(), "limits.json".as_ref(), options.defaults);
        match read.and_then(|read| check.write_report(&read, check.at.unwrap(), &mut out)) {
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
    fn table_format_lists_rows_and_limits_in_force() {
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
row 5 (line 6), "max" is the same as row 3 (line 4)

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
    fn json_format_prints_one_object_a_row() {
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
    fn unreadable_or_missing_limits_fail_with_their_exit_code() {
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
    fn closed_pipe_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let check = Cli::parse_from(["check", "-"]).check;
        let read = Read::of_bytes(b"[5]", "-".as_ref(), Defaults::default()).unwrap();
        assert_eq!(check.write_report(&read, 0, &mut Closed).unwrap(), Exit::BadData);
    }

    #[test]
    fn invalid_options_are_rejected() {
        for options in [["--at", "infinity"], ["--limits-per", "flow"], ["--format", "csv"]] {
            let line = ["check", "f"].iter().chain(&options);
            assert!(Cli::try_parse_from(line).is_err(), "{options:?}");
        }
    }
}
