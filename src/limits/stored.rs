//! Rows of limits in stored form, from which exactly the same rows are read again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::rows::{BOUNDS, METRICS, PERS, Row, word};
use super::value::Value;
use crate::base::network;

use floodmark_dataflows::types::Scope;

/// A row of limits, with the values of all columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRow {
    limit_name: String,
    limit_value: Option<String>,
    /// The effective date, in nanoseconds since 1970.
    effective_ns: i128,
    bound: String,
    metric: String,
    per: String,
    source: String,
    destination: String,
    host: String,
}

impl StoredRow {
    /// Returns the stored form of a row.
    pub fn of(row: &Row) -> Self {
        let Row { name, effective, bound, scope, value } = row;
        StoredRow {
            limit_name: name.as_str().to_owned(),
            limit_value: value.as_ref().map(|value| value.text().to_owned()),
            effective_ns: *effective,
            bound: word(&BOUNDS, bound).to_owned(),
            metric: word(&METRICS, &scope.metric).to_owned(),
            per: word(&PERS, &scope.per).to_owned(),
            source: network::text(scope.source),
            destination: network::text(scope.destination),
            host: network::text(scope.host),
        }
    }

    /// Returns the row; `None` if a column has a value that no version of this program has written.
    pub fn row(&self) -> Option<Arc<Row>> {
        fn find<T: Copy>(words: &[(&'static str, T)], text: &str) -> Option<T> {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        }
        let value = self.limit_value.as_deref().map(Value::parse).transpose().ok()?;
        let scope = Scope {
            per: find(&PERS, &self.per)?,
            metric: find(&METRICS, &self.metric)?,
            source: network::parse(&self.source).ok()?,
            destination: network::parse(&self.destination).ok()?,
            host: network::parse(&self.host).ok()?,
        };
        Some(Arc::new(Row {
            name: self.limit_name.as_str().into(),
            effective: self.effective_ns,
            bound: find(&BOUNDS, &self.bound)?,
            scope,
            value,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::json;
    use crate::limits::rows::Defaults;

    #[test]
    fn stored_rows_are_read_as_they_were() {
        let text = r#"
            {"limit_name":"a","limit_value":"1.50","effective_date":"2026-01-01T00:00:00.000000001Z"}
            {"limit_name":"min b \"c\"","limit_value":null,"effective_date":"1969-12-31","bound":"min"}
            {"limit_name":"h","limit_value":1e12,"effective_date":"2026-01-01","per":"host","host":"10.0.0.0/8"}
            {"limit_name":"s","limit_value":0,"effective_date":"2026-01-01","per":"source","metric":"packets",
             "source":"2001:db8::/32","destination":"2001:db8::1"}"#
            .replace("\n             ", " ");
        let rows = json::read(text.as_bytes(), Defaults::default()).expect("JSON").into_held();
        assert_eq!(rows.len(), 4);
        for row in rows {
            let stored = serde_json::to_string(&StoredRow::of(&row)).expect("it is an object");
            let read: StoredRow = serde_json::from_str(&stored).expect("it was written just now");
            let read = read.row().expect("all words are known");
            assert!(read == row && read.is_written_as(&row), "{stored}");
        }
    }
}
