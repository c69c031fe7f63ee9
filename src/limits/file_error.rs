//! The reasons why a file is not read as limits.

use std::io;

/// The most bytes of a file of limits.
pub(super) const BYTES_MAX: u64 = 256 << 20;

/// The most rows of limits, in a file or in a table.
pub const ROWS_MAX: usize = 1_000_000;

/// The reason why a text is no file of limits.
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
    /// The file is not JSON, or ends in the midst of it.
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
    /// The file has more rows than there are ever limits: it is something else.
    #[error("it has {rows} rows, and more than {ROWS_MAX} can't be limits")]
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
    /// The file has more than the allowed bytes.
    #[error("it has more than {BYTES_MAX} bytes: so many can't be limits")]
    TooLarge,
    /// The content of the file is not limits.
    #[error(transparent)]
    NotLimits(#[from] FileError),
}
