//! The address of limits in one option: a file or a database.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::postgres;

/// A file of limits, or a database with a table of limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A path; `-` is standard input.
    File(PathBuf),
    /// A PostgreSQL database.
    Postgres(Box<postgres::Address>),
}

/// The reason why a text is not the address of limits.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The text is a URI whose scheme is not supported.
    #[error(
        "cannot read limits from \"{scheme}://\": give a file, or a database as \
         postgres://USER@HOST:PORT/DATABASE"
    )]
    Scheme {
        /// The text before `://`.
        scheme: String,
    },
    /// The text is the URI of a database, but not a valid one.
    #[error(transparent)]
    Postgres(#[from] postgres::AddressError),
}

impl Address {
    /// Returns the address of a file.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Address::File(path.as_ref().to_owned())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.split_once("://") {
            Some(("postgres" | "postgresql", _)) => Ok(Address::Postgres(Box::new(text.parse()?))),
            Some((scheme, _)) if scheme.bytes().all(is_of_scheme) => {
                Err(AddressError::Scheme { scheme: scheme.to_owned() })
            }
            _ => Ok(Address::file(text)),
        }
    }
}

/// Whether a byte may occur in a scheme.
fn is_of_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::File(path) => write!(f, "{}", path.display()),
            Address::Postgres(database) => database.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_a_file_a_database_or_an_error_by_its_scheme() {
        for path in ["limits.json", "-", "/a b/c:d", "dir://x.json/../y", "C:\\limits.json"] {
            let parsed = path.parse::<Address>();
            if path.starts_with("dir") {
                assert!(matches!(parsed, Err(AddressError::Scheme { .. })), "{path}");
            } else {
                assert_eq!(parsed.expect(path), Address::file(path));
            }
        }
        for uri in ["postgres://localhost/x", "postgresql://localhost/x"] {
            assert!(matches!(uri.parse(), Ok(Address::Postgres(_))), "{uri}");
        }
        let error = "postgresql+psycopg2://me:hunter2@h/d".parse::<Address>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let error = "mysql://localhost/x".parse::<Address>().unwrap_err().to_string();
        assert!(error.starts_with("cannot read limits from \"mysql://\""), "{error}");
    }
}
