//! The reasons why a file is not read as limits.

use std::io;

/// Maximum bytes of a file of limits.
pub(super) const BYTES_MAX: u64 = 256 << 20;

/// Maximum rows of limits, in a file or in a table.
pub const ROWS_MAX: usize = 1_000_000;

/// The reason why the content of a file is not limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The file is not UTF-8 text.
    #[error("line {line}, column {column}: not UTF-8; save the file as UTF-8")]
    NotUtf8 {
        /// The line of the first byte that can't be read, from 1.
        line: usize,
        /// Its column in bytes, from 1.
        column: usize,
    },
    /// The file is not JSON, or its JSON is incomplete.
    #[error(
        "line {line}, column {column}: {problem}; \
         a file of limits is a JSON array of objects, or JSON objects one a line"
    )]
    NotJson {
        /// The line on which reading failed, from 1.
        line: usize,
        /// The column in bytes, from 1.
        column: usize,
        /// The fault: an unexpected or missing part.
        problem: String,
    },
    /// The file has more rows than limits ever have.
    #[error("the file has {rows} rows, more than the maximum of {ROWS_MAX} for limits")]
    TooMany {
        /// The number of rows.
        rows: usize,
    },
}

/// The reason why a file can't be read as limits.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system fails.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file has more bytes than limits ever have.
    #[error("the file has more than {BYTES_MAX} bytes, the maximum for limits")]
    TooLarge,
    /// The content of the file is not limits.
    #[error(transparent)]
    NotLimits(#[from] FileError),
}
