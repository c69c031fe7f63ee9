//! The position of a row in its source, and the reasons why a row is rejected.

use std::fmt::{self, Display};
use std::num::NonZeroU32;

use super::value::ValueError;
use crate::base::date::{DateError, Stamp};
use crate::base::network::PrefixError;
use crate::base::quote::Quoted;

/// The position of a row in the file or table that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    row: u32,
    line: Option<NonZeroU32>,
}

impl Position {
    /// Returns the position of a row of this number, and of the line on which it begins, both from 1; a table has no
    /// lines.
    pub fn new(row: usize, line: Option<usize>) -> Self {
        // No file of limits has so many bytes, and no table so many rows.
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Position { row: small(row), line: line.and_then(|line| NonZeroU32::new(small(line))) }
    }

    /// Returns the row's number, from 1.
    pub fn row(self) -> usize {
        self.row as usize
    }

    /// Returns the line of the file on which the row begins, from 1; a table has no lines.
    pub fn line(self) -> Option<usize> {
        self.line.map(|line| line.get() as usize)
    }
}

impl Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}", self.row)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

/// The reason why a row is rejected, with one variant for each remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The row is valid JSON, but no object.
    #[error("the row is {kind}: {}; write an object with the columns as keys", Quoted(.text))]
    NotAnObject {
        /// The kind of JSON value that the row is, such as `an array`.
        kind: &'static str,
        /// The text of the row.
        text: String,
    },
    /// The row has a key that is not a column: a mistyped `sorce` must not widen a limit.
    #[error("unknown key {}; {}", Quoted(.key), DidYouMean(*.suggestion))]
    UnknownKey {
        /// The key.
        key: String,
        /// The column that was probably intended.
        suggestion: Option<&'static str>,
    },
    /// The row has a key more than once.
    #[error("key {} is given more than once; keep one", Quoted(.key))]
    RepeatedKey {
        /// The key.
        key: String,
    },
    /// The row lacks a column that has no default.
    #[error("no {column}; give {wanted}")]
    Missing {
        /// The column.
        column: &'static str,
        /// The values that the column accepts.
        wanted: &'static str,
    },
    /// A value is of a type that its column does not accept.
    #[error("{column} is {kind}: {}; give {wanted}", Quoted(.text))]
    WrongType {
        /// The column.
        column: String,
        /// The type of the value, such as `a boolean`.
        kind: &'static str,
        /// The value given.
        text: String,
        /// The values that the column accepts.
        wanted: &'static str,
    },
    /// A text or number is longer than a column may be.
    #[error("{column} has more than {} characters; shorten it", super::rows::TEXT_MAX)]
    TooLong {
        /// The column.
        column: &'static str,
    },
    /// A column that accepts only certain words has another word.
    #[error("{column} {} is not known; give {}", Quoted(.text), Words(.words))]
    UnknownWord {
        /// The column.
        column: &'static str,
        /// The word given.
        text: String,
        /// The words that the column accepts.
        words: Vec<&'static str>,
    },
    /// `limit_value` is not a number from 0 up.
    #[error("limit_value {0}")]
    Value(ValueError),
    /// `effective_date` is not a moment.
    #[error("effective_date {0}")]
    Date(DateError),
    /// A scope column is not a network.
    #[error("{column} {error}")]
    Prefix {
        /// The column.
        column: &'static str,
        /// The reason why the text is no network.
        error: PrefixError,
    },
    /// `host` is given, but the limit does not judge hosts.
    #[error(
        "host \"{host}\" goes only with per \"host\", and per is \"{per}\"; \
         set per to \"host\", or use source and destination"
    )]
    HostWithoutPerHost {
        /// The network given.
        host: String,
        /// The row's `per`: the kind of entity that the limit judges.
        per: &'static str,
    },
    /// No pair has addresses of two families.
    #[error(
        "source \"{source_prefix}\" and destination \"{destination}\" are of different families, \
         which no pair matches; give two IPv4 or two IPv6 networks"
    )]
    Families {
        /// The network of the sources.
        source_prefix: String,
        /// The network of the destinations.
        destination: String,
    },
    /// Another row of the same name and date has other content, and neither takes precedence.
    #[error(
        "{other} has the same limit_name and effective_date \"{effective}\" but other content, \
         so none of them holds; keep one"
    )]
    Conflict {
        /// The first such row.
        other: Position,
        /// The effective date of both rows.
        effective: Stamp,
    },
}

/// The hint behind an unknown key.
struct DidYouMean(Option<&'static str>);

impl Display for DidYouMean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(column) => write!(f, "did you mean \"{column}\"?"),
            None => write!(f, "the keys are {}", super::rows::COLUMNS.join(", ")),
        }
    }
}

/// The words that a column accepts.
struct Words<'a>(&'a [&'static str]);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" or "))
    }
}
