//! Texts of a database whose encoding is not UTF-8.
//!
//! The server converts texts for its client, and fails the whole query for one text that has no form in UTF-8 or, in a
//! database of encoding SQL_ASCII, is not UTF-8. So texts of such databases leave the server as bytes, and a failure
//! to convert one that is not ASCII affects no other.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::{Error, Session, TableName};
use crate::limits::rows::{Cell, TEXT_MAX};

/// The encoding of a database in which texts are any bytes.
pub(super) const ANY_BYTES: &str = "SQL_ASCII";

/// Maximum texts in one conversion.
const TEXTS_AT_ONCE: usize = 5000;

/// The encoding in which texts leave the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As texts.
    Utf8,
    /// As bytes that may be UTF-8.
    AnyBytes,
    /// As bytes that the server converts.
    Other,
}

impl Encoding {
    pub(super) fn of(name: &str) -> Self {
        match name {
            "UTF8" => Encoding::Utf8,
            ANY_BYTES => Encoding::AnyBytes,
            _ => Encoding::Other,
        }
    }

    /// Returns the SQL of a column as a text or its bytes, cut where it is certainly too long.
    pub(super) fn sql(self, column: &str) -> String {
        match self {
            Encoding::Utf8 => format!("left({column}::text, {})", TEXT_MAX + 1),
            // In such a database, characters are bytes.
            Encoding::AnyBytes => {
                let bytes = 4 * TEXT_MAX + 1;
                format!("convert_to(left({column}::text, {bytes}), '{ANY_BYTES}')")
            }
            Encoding::Other => {
                format!("convert_to(left({column}::text, {}), getdatabaseencoding())", TEXT_MAX + 1)
            }
        }
    }
}

/// Reads the texts of rows.
pub(super) struct Reader {
    encoding: Encoding,
    /// The UTF-8 form of texts that are not ASCII; `None` for a text that has none.
    converted: HashMap<Vec<u8>, Option<String>>,
}

impl Reader {
    pub(super) fn utf8() -> Self {
        Reader { encoding: Encoding::Utf8, converted: HashMap::new() }
    }

    /// Returns the cell of a column.
    pub(super) fn cell(&self, row: &Row, at: usize) -> Cell<'static> {
        if self.encoding == Encoding::Utf8 {
            // A damaged table may contain any bytes.
            let text = row.try_get::<_, Option<String>>(at);
            return text.map_or_else(|_| broken(""), |text| text.map_or(Cell::Null, text_cell));
        }
        match row.try_get::<_, Option<&[u8]>>(at) {
            Ok(Some(bytes)) => self.bytes_cell(bytes),
            Ok(None) => Cell::Null,
            Err(_) => broken(""),
        }
    }

    fn bytes_cell(&self, bytes: &[u8]) -> Cell<'static> {
        let shown = || String::from_utf8_lossy(bytes);
        match self.converted.get(bytes) {
            Some(Some(text)) => text_cell(text.clone()),
            Some(None) => broken(&shown()),
            None => match str::from_utf8(bytes) {
                Ok(text) => text_cell(text.to_owned()),
                // The text may have been cut off within a character; it is too long whatever that character is.
                Err(_) if bytes.len() > 4 * TEXT_MAX => text_cell(shown().into_owned()),
                Err(_) => broken(&shown()),
            },
        }
    }
}

fn text_cell(text: String) -> Cell<'static> {
    Cell::Text(text.into())
}

fn broken(shown: &str) -> Cell<'static> {
    Cell::Other { kind: "a text that is not UTF-8", text: shown.to_owned().into() }
}

impl Session {
    /// Returns a reader of the texts in these columns of rows. Requires a transaction, in which a conversion that
    /// fails is rolled back.
    pub(super) async fn texts_of(
        &self,
        table: &TableName,
        encoding: Encoding,
        rows: &[Row],
        columns: &[usize],
    ) -> Result<Reader, Error> {
        let mut reader = Reader { encoding, converted: HashMap::new() };
        if encoding != Encoding::Other {
            return Ok(reader);
        }
        let cells = rows.iter().flat_map(|row| columns.iter().map(move |at| (row, *at)));
        let texts = cells.filter_map(|(row, at)| row.try_get::<_, Option<&[u8]>>(at).ok()?);
        let foreign: HashSet<&[u8]> = texts.filter(|text| !text.is_ascii()).collect();
        let foreign: Vec<&[u8]> = foreign.into_iter().collect();
        // Splits a part that can't be converted in two, down to single texts.
        let mut parts: Vec<&[&[u8]]> = foreign.chunks(TEXTS_AT_ONCE).collect();
        while let Some(part) = parts.pop() {
            match (self.convert(table, part).await?, part) {
                (Some(texts), _) => {
                    let texts = part.iter().zip(texts);
                    reader.converted.extend(texts.map(|(of, text)| (of.to_vec(), Some(text))));
                }
                (None, [only]) => drop(reader.converted.insert(only.to_vec(), None)),
                (None, _) => {
                    let (one, other) = part.split_at(part.len() / 2);
                    parts.extend([one, other]);
                }
            }
        }
        Ok(reader)
    }

    /// Converts texts to UTF-8; `None` if one of them has no form in UTF-8.
    async fn convert(
        &self,
        table: &TableName,
        texts: &[&[u8]],
    ) -> Result<Option<Vec<String>>, Error> {
        const CONVERT: &str = "select convert_from(u.bytes, getdatabaseencoding())
            from unnest($1) with ordinality as u (bytes, place) order by u.place";
        let execute =
            async |sql: &str| self.quick_response(table, self.client.batch_execute(sql)).await;
        execute("savepoint floodmark_texts").await?;
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&texts, Type::BYTEA_ARRAY)];
        let query = self.client.query_typed(CONVERT, &parameters);
        match self.response(table, query).await {
            Ok(rows) => {
                execute("release savepoint floodmark_texts").await?;
                Ok(Some(rows.iter().map(|row| row.get(0)).collect()))
            }
            Err(error) if is_unconvertible(&error) => {
                execute("rollback to savepoint floodmark_texts").await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether the error is that of a text without a form in UTF-8.
fn is_unconvertible(error: &Error) -> bool {
    let Error::Statement { state: Some(state), .. } = error else { return false };
    *state == SqlState::UNTRANSLATABLE_CHARACTER || *state == SqlState::CHARACTER_NOT_IN_REPERTOIRE
}
