//! The options that decide how recorded texts and tables are read.

use std::fmt;

use anyhow::anyhow;
use jiff::tz::TimeZone;

use super::values;
use crate::base::error::{Exit, Failure};
use crate::cluster::Settings;
use crate::files::CsvForm;
use crate::record::{self, Column, Decoder};
use crate::source::recorded::{RecordRules, TableRules};

/// The options.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Records {
    /// The time zone of times in records that state no zone
    #[arg(
        long,
        value_name = "ZONE",
        env = "FLOODMARK_INPUT_TIMEZONE",
        default_value = "UTC",
        value_parser = values::zone
    )]
    input_timezone: TimeZone,

    /// The columns of tables (CSV, Parquet) that hold the fields of a record, if they have unusual names
    ///
    /// FIELD is time, source, destination, bytes, packets or sampling. A field that is named several times has the
    /// first value that is there. UNIT of a time that is a number: s, ms, us or ns; without it its size tells.
    #[arg(long, value_name = "FIELD=COLUMN[:UNIT],…", value_delimiter = ',')]
    columns: Vec<Column>,

    /// The character between the fields of CSV: one of ASCII, or tab
    ///
    /// Default: the comma, semicolon, tab or vertical bar that the header has.
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<u8>,

    /// The character around fields of CSV: one of ASCII, or none
    #[arg(long, value_name = "CHARACTER|none", default_value = "\"")]
    quote: Quote,
}

impl Records {
    /// Adds the options.
    pub(super) fn add_settings(&self, settings: Settings) -> Settings {
        let Records { input_timezone, columns, delimiter, quote } = self;
        let columns: Vec<String> = columns.iter().map(Column::to_string).collect();
        settings
            .with("--input-timezone", values::shown_zone(input_timezone))
            .with_optional("--columns", (!columns.is_empty()).then(|| columns.join(",")))
            .with_optional("--delimiter", delimiter.map(char::from))
            .with("--quote", quote)
    }

    /// Checks that the options go together.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self.delimiter {
            Some(delimiter) if self.quote.0 == Some(delimiter) => {
                let error = anyhow!("--delimiter and --quote are the same character");
                Err(Failure::new(Exit::Usage, error))
            }
            _ => Ok(()),
        }
    }

    /// Returns the rules for records.
    pub(super) fn rules(&self, max_ahead_ms: u64) -> RecordRules {
        let Records { input_timezone: zone, columns, delimiter, quote } = self;
        RecordRules {
            decoder: Decoder::new(record::Options { input_timezone: zone.clone() }),
            tables: TableRules {
                columns: columns.clone(),
                csv: CsvForm { delimiter: *delimiter, quote: quote.0 },
                zone: zone.clone(),
            },
            max_ahead_ms,
        }
    }
}

/// The character around fields; `None`: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Quote(Option<u8>);

impl std::str::FromStr for Quote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Quote(None)),
            _ => character(text).map(|character| Quote(Some(character))),
        }
    }
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(character) => write!(f, "{}", char::from(character)),
            None => f.write_str("none"),
        }
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text {
        "tab" | "\\t" => Ok(b'\t'),
        _ => character(text),
    }
}

fn character(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [character] if character.is_ascii() && !matches!(character, b'\n' | b'\r' | 0) => {
            Ok(*character)
        }
        _ => Err(format!("\"{text}\" is not one character of ASCII")),
    }
}
