//! The name of a table, in the syntax of SQL.

use std::fmt::{self, Display};
use std::str::FromStr;

/// A table, with its schema if one was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    schema: Option<String>,
    table: String,
}

/// The reason why a text is not the name of a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not the name of a table; write TABLE or SCHEMA.TABLE, as SQL does")]
pub struct TableNameError {
    text: String,
}

impl Default for TableName {
    fn default() -> Self {
        TableName { schema: None, table: "traffic_limits".into() }
    }
}

impl TableName {
    /// Returns a name as the server stores it.
    pub(super) fn new(schema: Option<String>, table: String) -> Self {
        TableName { schema, table }
    }

    /// Returns the schema, if one was given.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// Returns the name without the schema.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Returns the quoted name, for statements.
    pub fn sql(&self) -> String {
        let schema = self.schema.iter().map(|schema| quoted(schema) + ".");
        schema.chain([quoted(&self.table)]).collect()
    }
}

/// Returns a name in quotes, for statements.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns the first name of a text and the rest of the text. As in SQL, a name without quotes becomes lower case.
fn name(text: &str) -> Option<(String, &str)> {
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (part, after) = rest.split_once('"')?;
            name.push_str(part);
            let Some(more) = after.strip_prefix('"') else {
                return Some((name, after)).filter(|(name, _)| !name.is_empty());
            };
            name.push('"');
            rest = more;
        }
    }
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    let end = text.find(|c| !plain(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let begins = name.chars().next()?;
    (begins.is_alphabetic() || begins == '_').then(|| (name.to_lowercase(), rest))
}

impl FromStr for TableName {
    type Err = TableNameError;

    fn from_str(text: &str) -> Result<Self, TableNameError> {
        let parse = || {
            let (first, rest) = name(text).filter(|_| !text.contains('\0'))?;
            let Some(rest) = rest.strip_prefix('.') else {
                return rest.is_empty().then_some(TableName { schema: None, table: first });
            };
            let (table, rest) = name(rest)?;
            rest.is_empty().then_some(TableName { schema: Some(first), table })
        };
        parse().ok_or_else(|| TableNameError { text: text.to_owned() })
    }
}

impl Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &str| match name.parse::<TableName>() {
            Ok(plain) if plain.schema.is_none() && plain.table == name => name.to_owned(),
            _ => quoted(name),
        };
        if let Some(schema) = &self.schema {
            write!(f, "{}.", name(schema))?;
        }
        f.write_str(&name(&self.table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_sql_reads_them() {
        for (text, sql, shown) in [
            ("traffic_limits", "\"traffic_limits\"", "traffic_limits"),
            ("Net.Limits", "\"net\".\"limits\"", "net.limits"),
            ("\"Net\".\"a.b\"", "\"Net\".\"a.b\"", "\"Net\".\"a.b\""),
            ("\"say \"\"x\"\"; drop\"", "\"say \"\"x\"\"; drop\"", "\"say \"\"x\"\"; drop\""),
            ("größe$1", "\"größe$1\"", "größe$1"),
        ] {
            let name: TableName = text.parse().expect(text);
            assert_eq!(name.sql(), sql);
            assert_eq!(name.to_string(), shown);
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for text in
            ["", ".", "a.", ".a", "a.b.c", "a b", "1a", "\"", "\"\"", "a;b", "a\"b", "\"a\"b"]
        {
            assert!(text.parse::<TableName>().is_err(), "{text}");
        }
    }
}
