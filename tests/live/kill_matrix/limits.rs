//! Limits that are edited while runs go on and between them, in a file or in a table.

use std::fs;

use floodmark::limits::rows::COLUMNS;
use serde_json::{Value, json};

use crate::common::postgres::Database;
use crate::live::state::EACH;
use crate::replay::run::Place;
use crate::replay::traffic::{self, Random, json_lines};

const TABLE: &str = "create table traffic_limits (limit_name text, limit_value numeric, effective_date timestamptz, \
                     bound text, metric text, per text, source text, destination text, host text)";

/// The rows of limits, and those that are added later.
pub(super) struct Limits {
    rows: Vec<Value>,
    others: Vec<Value>,
    table: Option<Database>,
}

impl Limits {
    pub(super) fn new(random: &mut Random, span_ms: u64, table: Option<Database>) -> Self {
        let mut rows = traffic::limits(random, 24, span_ms);
        let others = rows.split_off(rows.len() / 2);
        rows.push(serde_json::from_str(EACH).expect("a row is JSON"));
        if let Some(table) = &table {
            table.sql(TABLE);
        }
        Limits { rows, others, table }
    }

    /// Returns the value of `--limits`.
    pub(super) fn uri(&self) -> String {
        self.table.as_ref().map_or("limits.jsonl".to_owned(), |table| table.uri("reader"))
    }

    /// Removes, adds and changes some rows.
    pub(super) fn edit(&mut self, random: &mut Random) {
        for _ in 0..=random.below(3) {
            let row = random.below(self.rows.len() as u64) as usize;
            match random.below(3) {
                0 if self.rows.len() > 5 => self.others.push(self.rows.swap_remove(row)),
                1 if !self.others.is_empty() => {
                    let other = random.below(self.others.len() as u64) as usize;
                    self.rows.push(self.others.swap_remove(other));
                }
                _ => self.rows[row]["limit_value"] = json!(random.below(4000)),
            }
        }
    }

    /// Writes all rows at once.
    pub(super) fn write(&self, place: &Place) {
        match &self.table {
            None => {
                let new = place.write("limits.new", json_lines(&self.rows));
                fs::rename(new, place.path("limits.jsonl")).expect("the file is replaced");
            }
            Some(table) => {
                table.sql(&format!("begin; delete from traffic_limits; {} commit", self.inserts()))
            }
        }
    }

    fn inserts(&self) -> String {
        let text = |value: &Value| match value {
            Value::Null => "null".to_owned(),
            Value::String(text) => format!("'{text}'"),
            number => format!("'{number}'"),
        };
        let insert = |row: &Value| {
            let values: Vec<String> = COLUMNS.iter().map(|column| text(&row[*column])).collect();
            format!("insert into traffic_limits values ({});", values.join(", "))
        };
        self.rows.iter().map(insert).collect()
    }

    /// Writes the rows to the file of limits, for a replay.
    pub(super) fn export(&self, place: &Place) {
        if self.table.is_some() {
            let file = place.floodmark(&format!("limits export {}", self.uri())).stdout(0);
            place.write("limits.jsonl", file);
        }
    }
}
