//! Changes rows of a table, all or none, while other sessions can't write.
//!
//! Rows are identified by their content as floodmark reads it, and not by the types of their columns: an
//! effective date may be a text. Written rows are read again before the commit, since a type may round
//! a value and a trigger may change it.

use std::collections::HashSet;

use tokio_postgres::types::{ToSql, Type};

use super::session::begin;
use super::table_name::quoted;
use super::{Error, Session, TableName};
use crate::base::date;
use crate::limits::draft::{Draft, OPTIONAL};
use crate::limits::rows::{COLUMNS, Defaults, RawRow, Row};
use crate::limits::table::Table;

/// Maximum rows in one statement.
const ROWS_AT_ONCE: usize = 5000;

/// A table that other sessions can't write to until this is committed or dropped with its session.
#[derive(Debug)]
pub struct LockedTable<'a> {
    session: &'a Session,
    table: TableName,
    rows: Vec<RawRow<'static>>,
    /// The location of each row: the oid of its table, which may be a partition, and its `ctid` there.
    places: Vec<(i64, String)>,
    /// The columns of limits that the table has, and the types that they are cast to.
    columns: Vec<(&'static str, String)>,
}

/// The changes to make to a table. An index identifies an existing row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows to insert.
    pub added: Vec<Draft>,
    /// Rows to change, with their new content. Columns that are not columns of limits keep their values.
    pub changed: Vec<(usize, Draft)>,
    /// Rows to delete.
    pub removed: Vec<usize>,
}

impl Plan {
    /// Whether the plan has no changes.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

const TYPES: &str = "
    select a.attname::text, format_type(a.atttypid, a.atttypmod) from pg_attribute a
    where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped
        and a.attname = any($2)";

impl Session {
    /// Locks a table against other writers, and reads it.
    pub async fn lock(&self, table: &TableName) -> Result<LockedTable<'_>, Error> {
        self.readable_shape(table).await?;
        self.find_table(table).await?;
        let run = |sql: String| async move {
            self.response(table, self.client.batch_execute(&sql)).await
        };
        run(begin("")).await?;
        // This mode blocks other writers, but no readers.
        let locking = format!("lock table {} in share row exclusive mode", table.sql());
        run(locking).await.map_err(|error| error.with_step("locking it against other writers"))?;
        let name = table.sql();
        let known = COLUMNS.as_slice();
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&name, Type::TEXT), (&known, Type::TEXT_ARRAY)];
        let types = self.response(table, self.client.query_typed(TYPES, &parameters)).await?;
        let types: Vec<(String, String)> =
            types.iter().map(|row| (row.get(0), row.get(1))).collect();
        let columns = COLUMNS.into_iter().filter_map(|column| {
            let (_, kind) = types.iter().find(|(name, _)| name == column)?;
            Some((column, kind.clone()))
        });
        let mut locked = LockedTable {
            session: self,
            table: table.clone(),
            rows: Vec::new(),
            places: Vec::new(),
            columns: columns.collect(),
        };
        locked.read().await?;
        Ok(locked)
    }
}

impl LockedTable<'_> {
    /// Returns the rows of the table, in no order.
    pub fn rows(&self) -> &[RawRow<'static>] {
        &self.rows
    }

    /// Applies a plan, and commits it if the table then has the rows as they were written.
    pub async fn commit(mut self, plan: &Plan, defaults: Defaults) -> Result<(), Error> {
        let written = || plan.added.iter().chain(plan.changed.iter().map(|(_, draft)| draft));
        for column in OPTIONAL {
            let lacks = self.columns.iter().all(|(name, _)| *name != column);
            if lacks && written().any(|draft| draft.optional(column).is_some()) {
                return Err(Error::Lacks { table: self.table.clone(), column });
            }
        }
        for removed in plan.removed.chunks(ROWS_AT_ONCE) {
            self.delete(removed).await.map_err(|error| error.with_step("deleting rows"))?;
        }
        for changed in plan.changed.chunks(ROWS_AT_ONCE) {
            self.update(changed).await.map_err(|error| error.with_step("changing rows"))?;
        }
        for added in plan.added.chunks(ROWS_AT_ONCE) {
            self.insert(added).await.map_err(|error| error.with_step("adding rows"))?;
        }
        self.read().await?;
        let table = Table::new(std::mem::take(&mut self.rows), defaults);
        let holding: HashSet<&Row> = table.rows().collect();
        let kept = |draft: &&Draft| draft.check(defaults).is_ok_and(|row| holding.contains(&row));
        if let Some(lost) = written().find(|draft| !kept(draft)) {
            let (table, name) = (self.table.clone(), lost.name.clone());
            return Err(Error::NotKept { table, name, date: date::format_ns(lost.effective) });
        }
        self.execute("commit", &[]).await.map_err(|error| error.with_step("committing"))
    }

    async fn read(&mut self) -> Result<(), Error> {
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        let each = |raw, row: &tokio_postgres::Row, at: usize| {
            rows.push(raw);
            places.push((row.get(at), row.get(at + 1)));
        };
        let more = ", tableoid::int8, ctid::text";
        self.session.read_each(&self.table, more, each).await?;
        (self.rows, self.places) = (rows, places);
        Ok(())
    }

    async fn execute(
        &self,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<(), Error> {
        let executed = self.session.client.execute_typed(sql, parameters);
        self.session.response(&self.table, executed).await.map(drop)
    }

    async fn delete(&self, rows: &[usize]) -> Result<(), Error> {
        let (tables, places) = self.places(rows.iter().copied());
        let sql = format!(
            "delete from {} as t using unnest($1, $2) as u (place_table, place) \
             where t.tableoid = u.place_table::oid and t.ctid = u.place::tid",
            self.table.sql()
        );
        self.execute(&sql, &[(&tables, Type::INT8_ARRAY), (&places, Type::TEXT_ARRAY)]).await
    }

    async fn update(&self, rows: &[(usize, Draft)]) -> Result<(), Error> {
        let cells = self.cells(rows.iter().map(|(_, draft)| draft));
        let (tables, places) = self.places(rows.iter().map(|(index, _)| *index));
        let set = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, (column, kind))| format!("{} = u.c{at}::{kind}", quoted(column)));
        let count = self.columns.len();
        let sql = format!(
            "update {} as t set {} from unnest({}, ${}, ${}) as u ({}, place_table, place) \
             where t.tableoid = u.place_table::oid and t.ctid = u.place::tid",
            self.table.sql(),
            set.collect::<Vec<_>>().join(", "),
            listed(count, "$", 1),
            count + 1,
            count + 2,
            listed(count, "c", 0),
        );
        let mut parameters = texts(&cells);
        parameters.push((&tables, Type::INT8_ARRAY));
        parameters.push((&places, Type::TEXT_ARRAY));
        self.execute(&sql, &parameters).await
    }

    async fn insert(&self, rows: &[Draft]) -> Result<(), Error> {
        let cells = self.cells(rows.iter());
        let names: Vec<String> = self.columns.iter().map(|(column, _)| quoted(column)).collect();
        let values =
            self.columns.iter().enumerate().map(|(at, (_, kind))| format!("u.c{at}::{kind}"));
        let count = self.columns.len();
        let sql = format!(
            "insert into {} ({}) select {} from unnest({}) as u ({})",
            self.table.sql(),
            names.join(", "),
            values.collect::<Vec<_>>().join(", "),
            listed(count, "$", 1),
            listed(count, "c", 0),
        );
        self.execute(&sql, &texts(&cells)).await
    }

    fn places(&self, rows: impl Iterator<Item = usize>) -> (Vec<i64>, Vec<&str>) {
        rows.map(|index| (self.places[index].0, self.places[index].1.as_str())).unzip()
    }

    /// Returns the new content of each column as texts, one for each row.
    fn cells<'d>(
        &self,
        drafts: impl Iterator<Item = &'d Draft> + Clone,
    ) -> Vec<Vec<Option<String>>> {
        let cell = |column: &str, draft: &Draft| match column {
            "limit_name" => Some(draft.name.clone()),
            "limit_value" => draft.value.as_ref().map(|value| value.text().to_owned()),
            "effective_date" => Some(date::format_ns(draft.effective).to_string()),
            optional => draft.optional(optional).map(str::to_owned),
        };
        let columns = self.columns.iter();
        columns
            .map(|(column, _)| drafts.clone().map(|draft| cell(column, draft)).collect())
            .collect()
    }
}

/// Returns numbered names, such as `c0, c1, c2`.
fn listed(count: usize, mark: &str, from: usize) -> String {
    (from..from + count).map(|at| format!("{mark}{at}")).collect::<Vec<_>>().join(", ")
}

/// Returns columns of texts as parameters.
fn texts(cells: &[Vec<Option<String>>]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    cells.iter().map(|column| (column as &(dyn ToSql + Sync), Type::TEXT_ARRAY)).collect()
}
