//! Reads a table of limits as rows, all of one moment.
//!
//! Only the columns of limits leave the server, and of a text no more than a limit can need: this bounds the memory
//! of this process, whatever the table contains.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;

use futures_util::TryStreamExt;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Row, RowStream};

use super::session::{CHANNEL, begin};
use super::table_name::quoted;
use super::texts::{self, Encoding};
use super::{Error, Session, TableName};
use crate::limits::file_error::ROWS_MAX;
use crate::limits::reason::Position;
use crate::limits::rows::{COLUMNS, Cell, Defaults, RawRow, Row as Checked, mistyped_column};
use crate::limits::table::{Builder, Table};

/// Columns that every limit needs.
const REQUIRED: [&str; 3] = ["limit_name", "limit_value", "effective_date"];

/// Maximum bytes of texts in all rows.
const BYTES_MAX: usize = 256 << 20;

/// The function that a trigger calls to notify of changes; the name identifies such a trigger.
pub const NOTIFIER: &str = "floodmark_notify_limits";

/// The identity, columns and encoding of a table. A table whose shape has changed may also have other rows, even
/// without a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    oid: i64,
    /// TRUNCATE changes it.
    filenode: i64,
    /// Name and type of each column, in the order of the table; of a domain, the type below it.
    columns: Vec<(String, i64)>,
    /// Whether the table notifies of all its changes: it does not for writes to a partition by the partition's name.
    pub notifies: bool,
    /// The encoding of the database.
    encoding: String,
}

/// All rows of a table at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The rows, in no order.
    pub rows: Vec<RawRow<'static>>,
    /// The shape of the table at that moment.
    pub shape: Shape,
}

/// The trigger may be disabled, be for some kinds of statements or some columns only, or call another function of
/// this name: then the table does not notify of all changes.
const SHAPE: &str = "
    select c.oid::int8, c.relfilenode::int8,
        c.relkind = 'r' and not c.relhassubclass and coalesce((
            select bit_or(t.tgtype) & 60 = 4 + 8 + 16 + 32
            from pg_trigger t join pg_proc p on p.oid = t.tgfoid
            where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled in ('O', 'A')
                and t.tgqual is null and t.tgattr::text = ''
                and p.proname = $2 and position($3 in p.prosrc) > 0
        ), false),
        array(
            select convert_to(
                a.attname::text,
                case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end
            )
            from pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum
        ),
        array(
            select (
                with recursive below (oid, kind, base) as (
                    select oid, typtype, typbasetype from pg_type where oid = a.atttypid
                    union all
                    select t.oid, t.typtype, t.typbasetype
                    from below join pg_type t on below.kind = 'd' and t.oid = below.base
                )
                select oid from below where kind <> 'd'
            )::int8
            from pg_attribute a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum
        ),
        getdatabaseencoding()::text
    from pg_class c where c.oid = to_regclass($1)";

impl Shape {
    /// Returns the columns that are not columns of limits.
    pub fn unknown_columns(&self) -> impl Iterator<Item = &str> {
        let names = self.columns.iter().map(|(name, _)| name.as_str());
        names.filter(|name| !COLUMNS.contains(name))
    }

    /// Whether the table has a column.
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|(name, _)| name == column)
    }

    fn check(&self, table: &TableName) -> Result<(), Error> {
        for column in self.unknown_columns() {
            if let Some(intended) = mistyped_column(column) {
                let (table, column) = (table.clone(), column.to_owned());
                return Err(Error::Mistyped { table, column, intended });
            }
        }
        match REQUIRED.into_iter().find(|column| !self.has(column)) {
            Some(column) => Err(Error::NoColumn { table: table.clone(), column }),
            None => Ok(()),
        }
    }

    /// Returns the columns of limits that the table has, and the form in which each is read.
    pub(super) fn known(&self) -> Vec<(&'static str, Kind)> {
        let find = |column: &'static str| {
            let (_, oid) = self.columns.iter().find(|(name, _)| name == column)?;
            let oid = u32::try_from(*oid).unwrap_or_default();
            let is = |kind: &Type| kind.oid() == oid;
            let moment = [Type::TIMESTAMPTZ, Type::TIMESTAMP, Type::DATE].iter().any(is);
            Some((column, if moment { Kind::Moment } else { Kind::Text }))
        };
        COLUMNS.into_iter().filter_map(find).collect()
    }
}

/// The form in which a column is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A type of moments, which needs no text.
    Moment,
    /// Anything else as text: numbers have all their digits in it.
    Text,
}

impl Snapshot {
    /// Sorts the rows by name and date, so that each row has the same number each time, whatever the order
    /// of the table is.
    pub fn sort(&mut self) {
        fn by<'a>(row: &'a RawRow<'_>) -> impl Ord + use<'a> {
            (row.cell("limit_name"), row.cell("effective_date"), row.cells.as_ref().ok())
        }
        self.rows.sort_by(|one, other| by(one).cmp(&by(other)));
        for (index, row) in self.rows.iter_mut().enumerate() {
            row.position = Position::new(index + 1, None);
        }
    }
}

impl Session {
    /// Returns the shape of a table; `None` if there is no table of this name.
    pub async fn shape(&self, table: &TableName) -> Result<Option<Shape>, Error> {
        let (name, notifier, channel) = (table.sql(), NOTIFIER, CHANNEL);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&name, Type::TEXT), (&notifier, Type::TEXT), (&channel, Type::TEXT)];
        let query = self.client.query_typed_opt(SHAPE, &parameters);
        let row = self.quick_response(table, query).await?;
        Ok(row.map(|row| {
            let names: Vec<Vec<u8>> = row.get(3);
            let names = names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            let types: Vec<i64> = row.get(4);
            Shape {
                oid: row.get(0),
                filenode: row.get(1),
                notifies: row.get(2),
                columns: names.zip(types).collect(),
                encoding: row.get(5),
            }
        }))
    }

    /// Reads all rows of a table without checking them.
    pub async fn snapshot(&self, table: &TableName) -> Result<Snapshot, Error> {
        self.at_one_moment(table, async {
            let mut rows = Vec::new();
            let shape = self.read_each(table, "", |raw, _, _| rows.push(raw)).await?;
            Ok(Snapshot { rows, shape })
        })
        .await
    }

    /// Reads a table and checks each row as it arrives, so that no raw row is kept. Rows equal to one of `known` are
    /// shared with it.
    pub async fn read_table(
        &self,
        table: &TableName,
        defaults: Defaults,
        known: &[Arc<Checked>],
    ) -> Result<(Table, Shape), Error> {
        self.at_one_moment(table, async {
            let mut builder = Builder::new(defaults, known);
            let shape = self.read_each(table, "", |raw, _, _| builder.push(&raw)).await?;
            Ok((builder.finish(), shape))
        })
        .await
    }

    /// Runs `read` in a read-only transaction that sees the table at one moment.
    async fn at_one_moment<T>(
        &self,
        table: &TableName,
        read: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let execute =
            async |sql: &str| self.quick_response(table, self.client.batch_execute(sql)).await;
        execute(&begin("isolation level repeatable read, read only")).await?;
        let read = read.await;
        // The transaction also ends after an error, since the session goes on.
        let ended = execute("rollback").await;
        let read = read?;
        ended.map(|()| read)
    }

    /// Returns the shape of a table, if limits can be read from it.
    pub(super) async fn readable_shape(&self, table: &TableName) -> Result<Shape, Error> {
        let no_table =
            || Error::NoTable { database: self.database().to_owned(), table: table.clone() };
        let shape = self.shape(table).await?.ok_or_else(no_table)?;
        shape.check(table)?;
        Ok(shape)
    }

    /// Reads a table, and passes each row to `each`: its cells, the row that the server returned, and the
    /// index of the first column of `more` in that row.
    pub(super) async fn read_each(
        &self,
        table: &TableName,
        more: &str,
        mut each: impl FnMut(RawRow<'static>, &Row, usize),
    ) -> Result<Shape, Error> {
        let shape = self.readable_shape(table).await?;
        let columns = shape.known();
        let encoding = Encoding::of(&shape.encoding);
        let list: Vec<String> = columns
            .iter()
            .map(|(column, kind)| match kind {
                Kind::Moment => quoted(column),
                Kind::Text => encoding.sql(&quoted(column)),
            })
            .collect();
        let sql = format!("select {}{more} from {}", list.join(", "), table.sql());
        let no_parameters: [(i32, Type); 0] = [];
        let query = self.client.query_typed_raw(&sql, no_parameters);
        let stream = self.response(table, query).await?;
        let mut number = 0;
        let mut each = |row: Row, texts: &texts::Reader| {
            number += 1;
            each(raw_row(number, &columns, &row, texts), &row, columns.len());
        };
        if encoding == Encoding::Utf8 {
            let texts = texts::Reader::utf8();
            self.consume_rows(table, stream, |row| each(row, &texts)).await?;
            return Ok(shape);
        }
        let mut rows = Vec::new();
        self.consume_rows(table, stream, |row| rows.push(row)).await?;
        let text_columns = columns.iter().enumerate().filter(|(_, (_, kind))| *kind == Kind::Text);
        let text_columns: Vec<usize> = text_columns.map(|(at, _)| at).collect();
        let texts = self.texts_of(table, encoding, &rows, &text_columns).await?;
        rows.into_iter().for_each(|row| each(row, &texts));
        Ok(shape)
    }

    /// Passes each row of a stream to `each`, up to the bounds of a table of limits.
    async fn consume_rows(
        &self,
        table: &TableName,
        stream: RowStream,
        mut each: impl FnMut(Row),
    ) -> Result<(), Error> {
        let too_large = |most: String| Error::TooLarge { table: table.clone(), most };
        let mut stream = pin!(stream);
        let (mut rows, mut bytes) = (0, 0);
        while let Some(row) = self.response(table, stream.try_next()).await? {
            if rows == ROWS_MAX {
                return Err(too_large(format!("{ROWS_MAX} rows")));
            }
            rows += 1;
            bytes += row.raw_size_bytes();
            if bytes > BYTES_MAX {
                return Err(too_large(format!("{BYTES_MAX} bytes in its columns of limits")));
            }
            each(row);
        }
        Ok(())
    }
}

fn raw_row(
    number: usize,
    columns: &[(&'static str, Kind)],
    row: &Row,
    texts: &texts::Reader,
) -> RawRow<'static> {
    let cells = columns.iter().enumerate().map(|(at, (column, kind))| {
        let cell = match kind {
            Kind::Moment => row
                .try_get::<_, Option<Moment>>(at)
                .map_or(UNKNOWN_MOMENT, |cell| cell.map_or(Cell::Null, Moment::cell)),
            Kind::Text => texts.cell(row, at),
        };
        (Cow::Borrowed(*column), cell)
    });
    RawRow { position: Position::new(number, None), cells: Ok(cells.collect()) }
}

/// The cell for a moment whose bytes are not of the expected length.
const UNKNOWN_MOMENT: Cell<'static> =
    Cell::Other { kind: "a moment in another form", text: Cow::Borrowed("") };

/// A moment of any date or time type, in nanoseconds since 1970; one without a zone is in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    At(i128),
    Infinite { late: bool },
}

/// 2000-01-01, from which PostgreSQL counts, in seconds since 1970.
const EPOCH_SECS: i128 = 946_684_800;
const SECOND_NS: i128 = 1_000_000_000;
const DAY_SECS: i128 = 86_400;

impl Moment {
    fn cell(self) -> Cell<'static> {
        match self {
            Moment::At(nanos) => Cell::Instant(nanos),
            // As a text, an infinite moment is rejected with the reason.
            Moment::Infinite { late: true } => Cell::Text("infinity".into()),
            Moment::Infinite { late: false } => Cell::Text("-infinity".into()),
        }
    }
}

impl<'a> FromSql<'a> for Moment {
    fn from_sql(
        of: &Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let (count, infinite, unit) = if *of == Type::DATE {
            let days = i32::from_be_bytes(raw.try_into()?);
            (i128::from(days), matches!(days, i32::MAX | i32::MIN), DAY_SECS * SECOND_NS)
        } else {
            let micros = i64::from_be_bytes(raw.try_into()?);
            (i128::from(micros), matches!(micros, i64::MAX | i64::MIN), 1000)
        };
        if infinite {
            return Ok(Moment::Infinite { late: count > 0 });
        }
        Ok(Moment::At(EPOCH_SECS * SECOND_NS + count * unit))
    }

    fn accepts(of: &Type) -> bool {
        [Type::TIMESTAMPTZ, Type::TIMESTAMP, Type::DATE].contains(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::date;

    #[test]
    fn moments_of_all_types_are_exact() {
        let micros = |micros: i64| Moment::from_sql(&Type::TIMESTAMPTZ, &micros.to_be_bytes());
        let days = |days: i32| Moment::from_sql(&Type::DATE, &days.to_be_bytes());
        let at = |text: &str| Moment::At(date::parse(text).expect("a date"));
        assert_eq!(micros(0).unwrap(), at("2000-01-01"));
        assert_eq!(micros(-946_684_800_000_001).unwrap(), at("1969-12-31T23:59:59.999999Z"));
        assert_eq!(days(8887).unwrap(), at("2024-05-01"));
        assert_eq!(micros(i64::MAX).unwrap().cell(), Cell::Text("infinity".into()));
        assert_eq!(days(i32::MIN).unwrap().cell(), Cell::Text("-infinity".into()));
        assert!(Moment::from_sql(&Type::DATE, &[0; 8]).is_err());
    }
}
