//! The table of limits, and the trigger that notifies of its changes, as SQL.
//!
//! The constraints reject rows that floodmark would reject, before they are in the table; floodmark still checks every
//! row that it reads.

use std::fmt::{self, Display};

use tokio_postgres::types::{ToSql, Type};

use super::session::{CHANNEL, begin};
use super::snapshot::NOTIFIER;
use super::table_name::quoted;
use super::{Error, Session, TableName};

/// The name of the trigger.
const TRIGGER: &str = "floodmark_notify";

/// The number of the advisory lock that makes concurrent calls of [`Session::init`] wait for each other.
const LOCK: i64 = 0x666c_6f6f_646d_6b31;

/// A column of the table.
struct Column {
    name: &'static str,
    kind: &'static str,
    optional: bool,
    /// The constraints of the column: name and condition.
    constraints: &'static [(&'static str, &'static str)],
}

/// Returns an optional text column.
const fn text(name: &'static str, constraints: &'static [(&'static str, &'static str)]) -> Column {
    Column { name, kind: "text", optional: true, constraints }
}

/// The columns in their order in the table: a constraint may refer to earlier columns.
const COLUMNS: [Column; 9] = [
    Column {
        name: "limit_name",
        kind: "text not null",
        optional: false,
        constraints: &[
            ("limit_name_not_empty", "limit_name <> ''"),
            ("limit_name_4096_characters_at_most", "char_length(limit_name) <= 4096"),
        ],
    },
    Column {
        name: "limit_value",
        kind: "numeric",
        optional: false,
        // NaN counts as more than infinity.
        constraints: &[
            ("limit_value_0_or_more", "limit_value >= 0 and limit_value < 'infinity'"),
            ("limit_value_4096_digits_at_most", "char_length(limit_value::text) <= 4096"),
        ],
    },
    Column {
        name: "effective_date",
        kind: "timestamptz not null",
        optional: false,
        constraints: &[(
            "effective_date_in_years_1_to_9999",
            "effective_date >= '0001-01-01 00:00:00+00' and effective_date < '10000-01-01 00:00:00+00'",
        )],
    },
    text("bound", &[("bound_known", "bound in ('max', 'min')")]),
    text("metric", &[("metric_known", "metric in ('bytes', 'packets')")]),
    text("per", &[("per_known", "per in ('pair', 'source', 'destination', 'host', 'total')")]),
    // The cast rejects a text that is no network, with a message of its own.
    text(
        "source",
        &[("source_network", "family(nullif(nullif(source, ''), 'any')::inet) in (4, 6)")],
    ),
    text(
        "destination",
        &[
            (
                "destination_network",
                "family(nullif(nullif(destination, ''), 'any')::inet) in (4, 6)",
            ),
            (
                "source_and_destination_of_one_family",
                "family(nullif(nullif(source::text, ''), 'any')::inet) \
                 = family(nullif(nullif(destination, ''), 'any')::inet)",
            ),
        ],
    ),
    text(
        "host",
        &[
            ("host_network", "family(nullif(nullif(host, ''), 'any')::inet) in (4, 6)"),
            (
                "host_only_with_per_host",
                "coalesce(host, '') in ('', 'any') or coalesce(per::text, 'pair') = 'host'",
            ),
        ],
    ),
];

impl Column {
    fn sql(&self) -> String {
        let constraints = self.constraints.iter();
        let constraints = constraints
            .map(|(name, holds)| format!("\n        constraint {} check ({holds})", quoted(name)));
        format!("{} {}{}", quoted(self.name), self.kind, constraints.collect::<String>())
    }
}

/// Returns the SQL that creates the table; `unless` is empty or `if not exists `.
fn table_sql(table: &str, unless: &str) -> String {
    let columns: String = COLUMNS.iter().map(|column| format!("    {},\n", column.sql())).collect();
    format!(
        "create table {unless}{table} (\n{columns}    primary key (\"limit_name\", \"effective_date\")\n)"
    )
}

fn column_sql(table: &str, column: &Column, unless: &str) -> String {
    format!("alter table {table} add column {unless}{}", column.sql())
}

/// Returns the body of the notifying function, exactly as the server keeps it.
fn notifier_body() -> String {
    format!(
        "\nbegin\n    perform pg_catalog.pg_notify('{CHANNEL}', tg_table_schema || '.' || tg_table_name);\n    \
         return null;\nend\n"
    )
}

fn notifier_sql(notifier: &str) -> String {
    let body = notifier_body();
    format!(
        "create or replace function {notifier}() returns trigger language plpgsql as $${body}$$"
    )
}

fn trigger_sql(table: &str, notifier: &str) -> [String; 2] {
    let name = quoted(TRIGGER);
    [
        format!("drop trigger if exists {name} on {table}"),
        format!(
            "create trigger {name} after insert or update or delete or truncate on {table}\n    \
             for each statement execute function {notifier}()"
        ),
    ]
}

/// Returns the SQL of [`Session::init`] as a script for the owner of the table. The script is safe to run twice.
pub fn script(table: &TableName, add_columns: bool) -> String {
    let name = table.sql();
    let schema = table.schema().map(|schema| quoted(schema) + ".").unwrap_or_default();
    let notifier = schema + &quoted(NOTIFIER);
    let mut statements = vec!["begin".to_owned(), table_sql(&name, "if not exists ")];
    if add_columns {
        let optional = COLUMNS.iter().filter(|column| column.optional);
        statements.extend(optional.map(|column| column_sql(&name, column, "if not exists ")));
    }
    statements.push(notifier_sql(&notifier));
    statements.extend(trigger_sql(&name, &notifier));
    statements.push("commit".to_owned());
    let statements: String = statements.iter().map(|sql| format!("{sql};\n")).collect();
    format!("{statements}-- for users that only read: grant select on {name} to ...;\n")
}

/// A part of the schema that a table of limits needs, and its state after [`Session::init`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The part of the schema.
    pub part: SchemaPart,
    /// The state of the part.
    pub state: PartState,
}

/// A part of the schema that a table of limits needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaPart {
    /// The table itself, with its schema.
    Table(TableName),
    /// An optional column.
    Column(&'static str),
    /// The trigger that notifies of changes, and its function.
    Trigger,
}

/// The state of a part of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartState {
    /// The part was missing, and has been created.
    Created,
    /// The part existed before.
    Existing,
    /// The part is missing, and was not requested.
    Missing,
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            SchemaPart::Table(table) => write!(f, "table {table}")?,
            SchemaPart::Column(column) => write!(f, "column {column}")?,
            SchemaPart::Trigger => write!(f, "trigger {TRIGGER}, which notifies of changes")?,
        }
        f.write_str(match self.state {
            PartState::Created => ": created",
            PartState::Existing => ": already exists",
            PartState::Missing => ": missing, optional; --add-columns adds it",
        })
    }
}

const FIND_TABLE: &str = "
    select n.nspname::text, c.relname::text, c.relkind::text
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1)";

/// Counts the enabled triggers that call our function after each kind of statement.
const HAS_TRIGGER: &str = "
    select count(*) from pg_trigger t join pg_proc p on p.oid = t.tgfoid
    where t.tgrelid = to_regclass($1) and not t.tgisinternal and t.tgenabled in ('O', 'A')
        and t.tgtype = 4 + 8 + 16 + 32 and p.proname = $2 and p.prosrc = $3";

/// Counts the functions of the schema with our name and the expected body.
const HAS_NOTIFIER: &str = "
    select count(*) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = $1 and p.proname = $2 and p.pronargs = 0 and p.prosrc = $3";

impl Session {
    /// Creates the parts that are missing: the table, its optional columns if `add_columns`, and the trigger
    /// that notifies of changes. Creates all of them, or none. Existing columns and constraints stay as they are.
    pub async fn init(&self, table: &TableName, add_columns: bool) -> Result<Vec<Step>, Error> {
        self.run(table, "beginning", &begin("")).await?;
        let locking = format!("select pg_advisory_xact_lock({LOCK})");
        self.run(table, "waiting for another `floodmark limits init`", &locking).await?;
        let steps = self.create_missing(table, add_columns).await?;
        self.run(table, "committing", "commit").await?;
        Ok(steps)
    }

    async fn run(&self, table: &TableName, step: &str, sql: &str) -> Result<(), Error> {
        let result = self.response(table, self.client.batch_execute(sql)).await;
        result.map_err(|error| error.with_step(step))
    }

    /// Returns the table of a name, with its schema; `None` if there is none.
    ///
    /// # Errors
    /// The name is that of an object that is not a table, such as a view.
    pub(super) async fn find_table(&self, table: &TableName) -> Result<Option<TableName>, Error> {
        let name = table.sql();
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&name, Type::TEXT)];
        let query = self.client.query_typed_opt(FIND_TABLE, &parameters);
        let Some(row) = self.response(table, query).await? else {
            return Ok(None);
        };
        let table = TableName::new(Some(row.get(0)), row.get(1));
        let kind: String = row.get(2);
        let kind = match kind.as_str() {
            "r" | "p" => return Ok(Some(table)),
            "v" => "a view",
            "m" => "a materialized view",
            "f" => "a foreign table",
            _ => "no table",
        };
        Err(Error::NotATable { table, kind })
    }

    async fn create_missing(
        &self,
        table: &TableName,
        add_columns: bool,
    ) -> Result<Vec<Step>, Error> {
        let mut steps = Vec::new();
        let mut state = PartState::Existing;
        let table = match self.find_table(table).await? {
            Some(table) => table,
            None => {
                state = PartState::Created;
                self.run(table, "creating the table", &table_sql(&table.sql(), "")).await?;
                let none = || Error::NoTable {
                    database: self.database().to_owned(),
                    table: table.clone(),
                };
                self.find_table(table).await?.ok_or_else(none)?
            }
        };
        let shape = self.readable_shape(&table).await?;
        steps.push(Step { part: SchemaPart::Table(table.clone()), state });
        for column in COLUMNS.iter().filter(|column| !shape.has(column.name)) {
            if add_columns {
                let step = format!("adding column {}", column.name);
                self.run(&table, &step, &column_sql(&table.sql(), column, "")).await?;
            }
            let state = if add_columns { PartState::Created } else { PartState::Missing };
            steps.push(Step { part: SchemaPart::Column(column.name), state });
        }
        steps.push(Step { part: SchemaPart::Trigger, state: self.create_trigger(&table).await? });
        Ok(steps)
    }

    async fn create_trigger(&self, table: &TableName) -> Result<PartState, Error> {
        let (name, body) = (table.sql(), notifier_body());
        let schema = table.schema().unwrap_or_default();
        let count = async |sql: &str, of: &str| {
            let parameters: [(&(dyn ToSql + Sync), Type); 3] =
                [(&of, Type::TEXT), (&NOTIFIER, Type::TEXT), (&body, Type::TEXT)];
            let row = self.response(table, self.client.query_typed_one(sql, &parameters)).await?;
            Ok(row.get::<_, i64>(0))
        };
        if count(HAS_TRIGGER, &name).await? > 0 {
            return Ok(PartState::Existing);
        }
        let notifier = format!("{}.{}", quoted(schema), quoted(NOTIFIER));
        // The function may belong to another user, who has created it for another table.
        if count(HAS_NOTIFIER, schema).await? == 0 {
            let step = format!("creating the function {NOTIFIER}");
            self.run(table, &step, &notifier_sql(&notifier)).await?;
        }
        for sql in trigger_sql(&name, &notifier) {
            self.run(table, &format!("creating the trigger {TRIGGER}"), &sql).await?;
        }
        Ok(PartState::Created)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{draft, rows};

    #[test]
    fn table_has_the_columns_and_words_of_limits() {
        assert_eq!(COLUMNS.each_ref().map(|column| column.name), rows::COLUMNS);
        let optional = COLUMNS.iter().filter(|column| column.optional).map(|column| column.name);
        assert_eq!(optional.collect::<Vec<_>>(), draft::OPTIONAL);
        let bounded = COLUMNS[..2].iter().map(Column::sql);
        assert!(bounded.into_iter().all(|sql| sql.contains(&format!("<= {}", rows::TEXT_MAX))));
        let words = |words: Vec<&str>| format!("('{}')", words.join("', '"));
        for (column, known) in [
            ("bound", words(rows::BOUNDS.map(|(word, _)| word).to_vec())),
            ("metric", words(rows::METRICS.map(|(word, _)| word).to_vec())),
            ("per", words(rows::PERS.map(|(word, _)| word).to_vec())),
        ] {
            let column = COLUMNS.iter().find(|candidate| candidate.name == column).unwrap();
            assert!(column.sql().contains(&known), "{known}");
        }
    }

    #[test]
    fn names_in_a_script_are_quoted() {
        let table: TableName = "\"Net\".\"a\"\";drop\"".parse().unwrap();
        let script = script(&table, true);
        assert!(!script.contains(" a\"") && script.contains("\"Net\".\"a\"\";drop\""), "{script}");
        assert!(script.contains("function \"Net\".\"floodmark_notify_limits\"()"), "{script}");
    }
}
