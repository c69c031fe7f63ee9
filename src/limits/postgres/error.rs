//! The errors of reading and writing a table of limits.

use tokio_postgres::error::SqlState;

use super::TableName;
use crate::base::date::Stamp;
use crate::base::error::{Exit, Failure};

/// The reason why a table can't be read, or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server responds, or the connection is lost.
    #[error("cannot reach the database \"{database}\": {why}")]
    Unreachable {
        /// The database.
        database: String,
        /// The message of the library or the server.
        why: String,
    },
    /// The server rejects this user, password, certificate or database.
    #[error("cannot log in to the database \"{database}\": {why}")]
    Refused {
        /// The database.
        database: String,
        /// The message of the server, or of the library about it.
        why: String,
    },
    /// The settings for TLS can't be used, or the server is not trusted by them.
    #[error("cannot set up TLS with the database \"{database}\": {why}")]
    Tls {
        /// The database.
        database: String,
        /// The fault of the settings or of the server.
        why: String,
    },
    /// There is no such table.
    #[error(
        "the database \"{database}\" has no table {table} that this user can see; create it with \
         `floodmark limits init`, or name another one with --limits-table"
    )]
    NoTable {
        /// The database.
        database: String,
        /// The table.
        table: TableName,
    },
    /// The table lacks a column that limits need.
    #[error("table {table} has no column {column}, which limits need")]
    NoColumn {
        /// The table.
        table: TableName,
        /// The column.
        column: &'static str,
    },
    /// The table has a column whose name may be mistyped: if the column were ignored, limits would be wider than
    /// intended.
    #[error(
        "table {table} has a column \"{column}\", which looks like \"{intended}\": rename it, or read a \
         view without it"
    )]
    Mistyped {
        /// The table.
        table: TableName,
        /// The column of the table.
        column: String,
        /// The column that may be intended.
        intended: &'static str,
    },
    /// The table lacks an optional column that a row to write has.
    #[error(
        "table {table} has no column {column}, which this limit needs: \
         `floodmark limits init --add-columns` adds it"
    )]
    Lacks {
        /// The table.
        table: TableName,
        /// The column.
        column: &'static str,
    },
    /// The object is not a table: it neither notifies of changes nor accepts rows.
    #[error(
        "{table} is {kind}, which floodmark can only read, once a second: write to the table behind it, and \
         run `floodmark limits init` on that table to be notified of its changes"
    )]
    NotATable {
        /// The name of the object.
        table: TableName,
        /// The kind of the object, such as `a view`.
        kind: &'static str,
    },
    /// The table does not have a row as it was written, and no change was committed.
    #[error(
        "table {table} does not keep \"{name}\" of {date} as it is: a type of its columns or a trigger \
         changes it; nothing was written"
    )]
    NotKept {
        /// The table.
        table: TableName,
        /// The limit's name.
        name: String,
        /// The effective date that was written.
        date: Stamp,
    },
    /// The table has more rows or bytes than limits ever need.
    #[error("table {table} has more than {most}, the maximum for limits")]
    TooLarge {
        /// The table.
        table: TableName,
        /// The bound, with its unit.
        most: String,
    },
    /// The server rejects a statement.
    #[error("table {table}: {why}")]
    Statement {
        /// The table.
        table: TableName,
        /// The message of the server.
        why: String,
        /// The code of the server's error.
        state: Option<SqlState>,
    },
    /// The server has not responded in time.
    #[error("table {table}: no answer within {seconds} s")]
    Timeout {
        /// The table.
        table: TableName,
        /// The time limit that has passed.
        seconds: u64,
    },
}

impl Error {
    /// All values of [`Error::label`].
    pub const LABELS: [&str; 10] = [
        "unreachable",
        "refused",
        "tls",
        "no_table",
        "columns",
        "not_a_table",
        "not_kept",
        "too_large",
        "timeout",
        "statement",
    ];

    /// Returns the kind of error, as the label of a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Error::Unreachable { .. } => "unreachable",
            Error::Refused { .. } => "refused",
            Error::Tls { .. } => "tls",
            Error::NoTable { .. } => "no_table",
            Error::NoColumn { .. } | Error::Mistyped { .. } | Error::Lacks { .. } => "columns",
            Error::NotATable { .. } => "not_a_table",
            Error::NotKept { .. } => "not_kept",
            Error::TooLarge { .. } => "too_large",
            Error::Timeout { .. } => "timeout",
            Error::Statement { .. } if self.is_timeout() => "timeout",
            Error::Statement { .. } => "statement",
        }
    }

    /// Whether the connection can't be used any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Timeout { .. })
    }

    fn is_timeout(&self) -> bool {
        let Error::Statement { state: Some(state), .. } = self else { return false };
        *state == SqlState::LOCK_NOT_AVAILABLE || *state == SqlState::QUERY_CANCELED
    }

    /// Whether the user lacks a right.
    pub fn is_denied(&self) -> bool {
        let Error::Statement { state: Some(state), .. } = self else { return false };
        *state == SqlState::INSUFFICIENT_PRIVILEGE
    }

    /// Puts the attempted step before the message of an [`Error::Statement`]; returns any other error unchanged.
    pub(super) fn with_step(self, step: &str) -> Self {
        match self {
            Error::Statement { table, why, state } => {
                Error::Statement { table, why: format!("{step}: {why}"), state }
            }
            other => other,
        }
    }

    /// Returns the failure of a command in this step.
    pub fn in_step(self, step: &'static str) -> Failure {
        let failure = Failure::from(self);
        Failure { error: failure.error.context(step), ..failure }
    }

    /// Returns the exit code of a command that can't continue without the table.
    fn exit(&self) -> Exit {
        match self {
            Error::Unreachable { .. } | Error::Timeout { .. } => Exit::Unavailable,
            Error::Statement { .. } if self.is_timeout() => Exit::Unavailable,
            Error::NoTable { .. } => Exit::NoInput,
            Error::Refused { .. }
            | Error::Tls { .. }
            | Error::NoColumn { .. }
            | Error::Mistyped { .. }
            | Error::Lacks { .. }
            | Error::NotATable { .. }
            | Error::NotKept { .. }
            | Error::TooLarge { .. }
            | Error::Statement { .. } => Exit::BadConfig,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(error.exit(), anyhow::Error::new(error))
    }
}

/// Returns the message of the server, or of a pool in front of it, with detail and hint. Of an error of the
/// library, returns the chain of causes.
pub(super) fn text(error: &tokio_postgres::Error) -> String {
    let Some(db_error) = error.as_db_error() else {
        // Each error in the chain leaves the reason to the next one.
        let chain = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
        let parts: Vec<String> = chain.map(ToString::to_string).collect();
        return parts.join(": ");
    };
    let mut text = db_error.message().to_owned();
    for more in [db_error.detail(), db_error.hint()].into_iter().flatten() {
        text += &format!(" ({})", more.trim_end_matches('.'));
    }
    text
}

/// Whether a code is of class 08, which a pool returns if it can't reach its server, or stops waiting for it.
fn is_connection_fault(code: &SqlState) -> bool {
    code.code().starts_with("08")
}

/// Whether a pool rejects the user, the database or a parameter. Only the message shows it: a pool has one code for
/// this and for a server that it can't reach.
fn is_configuration(why: &str) -> bool {
    const WORDS: [&str; 5] = [
        "unsupported startup parameter",
        "no such ",
        "config error",
        "authentication",
        "auth failed",
    ];
    WORDS.iter().any(|words| why.contains(words))
}

/// Returns the error for a failed attempt to connect.
pub(super) fn connection_error(database: String, error: &tokio_postgres::Error) -> Error {
    let why = text(error);
    let busy = [
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
    ];
    let chain = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    let mut causes = chain.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    let tls = causes.any(|io| io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()));
    match error.code() {
        Some(code)
            if busy.contains(code) || is_connection_fault(code) && !is_configuration(&why) =>
        {
            Error::Unreachable { database, why }
        }
        Some(_) => Error::Refused { database, why },
        None if tls || why.contains("TLS") => Error::Tls { database, why },
        None if why.contains("authentication") || why.contains("password") => {
            Error::Refused { database, why: why + " (give one in PGPASSWORD or ~/.pgpass)" }
        }
        None => Error::Unreachable { database, why },
    }
}

/// Returns the error for a statement that failed.
pub(super) fn statement_error(
    database: &str,
    table: &TableName,
    error: &tokio_postgres::Error,
) -> Error {
    let why = text(error);
    match error.code() {
        // The message of pgbouncer, whose code for it is that of a lost connection.
        Some(code) if why.contains("statement pooling") => {
            let why = why + "; use a pool in transaction or session mode, or the server itself";
            Error::Statement { table: table.clone(), why, state: Some(code.clone()) }
        }
        Some(code)
            if *code == SqlState::ADMIN_SHUTDOWN
                || *code == SqlState::CRASH_SHUTDOWN
                || is_connection_fault(code) =>
        {
            Error::Unreachable { database: database.to_owned(), why }
        }
        Some(code) => Error::Statement { table: table.clone(), why, state: Some(code.clone()) },
        None => Error::Unreachable { database: database.to_owned(), why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::date::format_ms;

    fn one_of_each() -> Vec<Error> {
        let text = String::new;
        let table = TableName::default;
        let statement = |state| Error::Statement { table: table(), why: text(), state };
        vec![
            Error::Unreachable { database: text(), why: text() },
            Error::Refused { database: text(), why: text() },
            Error::Tls { database: text(), why: text() },
            Error::NoTable { database: text(), table: table() },
            Error::NoColumn { table: table(), column: "per" },
            Error::Mistyped { table: table(), column: text(), intended: "per" },
            Error::Lacks { table: table(), column: "per" },
            Error::NotATable { table: table(), kind: "a view" },
            Error::NotKept { table: table(), name: text(), date: format_ms(0) },
            Error::TooLarge { table: table(), most: text() },
            Error::Timeout { table: table(), seconds: 1 },
            statement(None),
            statement(Some(SqlState::QUERY_CANCELED)),
        ]
    }

    #[test]
    fn label_of_each_error_has_a_series_and_is_documented() {
        let page = include_str!("../../../docs/operating.md");
        let row = page.lines().find(|line| line.starts_with("| `floodmark_limits_errors_total"));
        let row = row.expect("the page has the metric");
        let mut labels: Vec<&str> = one_of_each().iter().map(Error::label).collect();
        for label in &labels {
            assert!(row.contains(&format!("`{label}`")), "docs/operating.md: {label}");
        }
        // No label without an error, and no error without a label.
        labels.sort_unstable();
        labels.dedup();
        let mut declared = Error::LABELS;
        declared.sort_unstable();
        assert_eq!(labels, declared);
    }
}
