//! Tables as parts of a recorded input: CSV, and Parquet.

use super::gather::Gather;
use super::intake::{Intake, RecordRules, TableRules};
use super::part::{Advance, Progress};
use crate::base::error::Failure;
use crate::base::quote::Quoted;
use crate::files::{CsvForm, DamagedGroup, Fields, ParquetFile, ParquetRows, Row, Rows, Texts};
use crate::record::{Cell, Cells, Layout, LayoutError, Message};

/// Rows between two reports of progress.
const PROGRESS_ROWS: u64 = 8192;

/// Most losses of a table that are named.
const LOSSES_NAMED: u64 = 20;

/// The fault of a table as a whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("{0}")]
    Other(String),
}

/// The form and the columns of CSV, by its header.
pub(super) struct Header {
    form: CsvForm,
    columns: usize,
    layout: Layout,
}

impl Header {
    /// Reads the first line of a text; `None` if it is no header of a table. `is_csv`: the name of the file says so.
    pub(super) fn of(
        line: &[u8],
        rules: &RecordRules,
        is_csv: bool,
    ) -> Option<Result<Self, TableError>> {
        // The form with the most columns is the likeliest, if none has all fields.
        let mut likeliest: Option<(usize, LayoutError)> = None;
        for form in rules.tables.csv.candidates() {
            let Some(names) = form.split(line) else { continue };
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            match Layout::of(&names, &rules.tables.columns) {
                Ok(layout) => return Some(Ok(Header { form, columns: names.len(), layout })),
                Err(error) => {
                    if likeliest.as_ref().is_none_or(|(columns, _)| *columns < names.len()) {
                        likeliest = Some((names.len(), error));
                    }
                }
            }
        }
        // The user means a table, and a header has a column for each field that a record must have.
        const COLUMNS_MIN: usize = 4;
        let is_meant = |columns: usize| !rules.tables.columns.is_empty() && columns >= COLUMNS_MIN;
        let (columns, error) = likeliest?;
        let is_table = (is_csv || is_meant(columns)) && !is_message(line, rules);
        is_table.then(|| Err(error.into()))
    }

    /// Begins to read the rows behind the header.
    pub(super) fn open(self, texts: Texts, rules: &TableRules) -> CsvTable {
        let Header { form, columns, layout } = self;
        let rows = texts.into_rows(form, columns);
        CsvTable { rows, columns, layout, rules: rules.clone(), has_header: true }
    }
}

/// Whether a line is a message with a record, in a format that has no header.
fn is_message(line: &[u8], rules: &RecordRules) -> bool {
    let message = Message { key: None, payload: Some(line), timestamp_ms: None };
    let mut has_record = false;
    let decoded = rules.decoder.decode(&message, &mut |read| has_record |= read.record().is_some());
    decoded.is_ok() && has_record
}

/// The rows of CSV.
pub(super) struct CsvTable {
    rows: Rows,
    columns: usize,
    layout: Layout,
    rules: TableRules,
    /// Whether the header comes next.
    has_header: bool,
}

/// A row of CSV.
struct CsvRow<'a> {
    fields: Fields<'a>,
    columns: &'a [usize],
}

impl Cells for CsvRow<'_> {
    fn cell(&self, number: usize) -> Cell<'_> {
        let field = self.fields.get(self.columns[number]).unwrap_or_default();
        // Bytes that are no text are no value of any kind.
        Cell::Text(str::from_utf8(field).unwrap_or("\u{fffd}"))
    }
}

impl Table for CsvTable {
    fn take(&mut self, intake: &mut Intake, gather: &mut Gather) -> Result<bool, Lost> {
        let Self { rows, columns, layout, rules, has_header } = self;
        let row = match rows.next_row() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(false),
            Err(fault) => {
                let (offset, line) = (rows.offset(), rows.current_line());
                let text = format!("can't be read beyond byte {offset}, line {line}: {fault}");
                return Err(Lost { text, goes_on: false });
            }
        };
        if std::mem::take(has_header) {
            return Ok(true);
        }
        match row {
            Row::Fields(fields) => {
                let row = CsvRow { fields, columns: layout.columns() };
                intake.take_row(layout.read(&row, &rules.zone), rows.line(), gather);
            }
            Row::WrongCount(count) => {
                let why = format!("the row has {count} fields, and the header {columns}");
                intake.refuse("row", &why, rows.line());
            }
            Row::OpenQuote => intake.refuse("row", "a quote is not closed", rows.line()),
            Row::TooLong => {
                let why = "the row is longer than 512 KiB, or has more than 4,096 fields";
                intake.refuse("too_long", why, rows.line());
            }
        }
        Ok(true)
    }

    fn done(&self) -> u64 {
        self.rows.raw_offset()
    }
}

/// The rows of a Parquet file.
pub(super) struct ParquetTable {
    rows: ParquetRows,
    layout: Layout,
    rules: TableRules,
}

impl ParquetTable {
    /// Begins to read a file.
    pub(super) fn open(file: ParquetFile, rules: &TableRules) -> Result<Self, TableError> {
        let names = file.column_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let layout = Layout::of(&names, &rules.columns).map_err(|error| match &error {
            LayoutError::NoSuchColumn { name, .. } => match file.unsupported(name) {
                Some(unsupported) => TableError::Other(unsupported.to_string()),
                None => error.into(),
            },
            _ => error.into(),
        })?;
        let rows =
            file.rows(layout.columns()).map_err(|error| TableError::Other(error.to_string()))?;
        Ok(ParquetTable { rows, layout, rules: rules.clone() })
    }
}

impl Table for ParquetTable {
    fn take(&mut self, intake: &mut Intake, gather: &mut Gather) -> Result<bool, Lost> {
        let Self { rows, layout, rules } = self;
        let read = rows.read(|number, row| {
            intake.take_row(layout.read(row, &rules.zone), number, gather);
        });
        read.map_err(|damage| {
            let DamagedGroup { group, rows: (first, last), error, is_readable } = damage;
            let what = if is_readable { "is damaged" } else { "can't be read" };
            Lost {
                text: format!(
                    "{what}: rows {first} to {last} are lost (row group {group}: {error})"
                ),
                goes_on: is_readable,
            }
        })
    }

    fn done(&self) -> u64 {
        self.rows.raw_offset()
    }
}

/// Rows that can't be read.
pub(super) struct Lost {
    /// The rows, and the reason.
    text: String,
    /// Whether other rows may follow.
    goes_on: bool,
}

/// A table.
pub(super) trait Table: Send {
    /// Takes the next rows; `false` at the end.
    ///
    /// # Errors
    /// Rows are lost.
    fn take(&mut self, intake: &mut Intake, gather: &mut Gather) -> Result<bool, Lost>;

    /// Returns the bytes of the file that were read.
    fn done(&self) -> u64;
}

/// The rows of a table, of which what is lost is reported.
pub(super) struct TableRows<T> {
    name: String,
    table: T,
    progress: Progress,
    /// The rows about which progress was reported.
    reported: u64,
    /// Losses of rows.
    losses: u64,
}

impl<T> TableRows<T> {
    pub(super) fn new(name: String, table: T, progress: Progress) -> Self {
        TableRows { name, table, progress, reported: 0, losses: 0 }
    }
}

impl<T: Table> Advance for TableRows<T> {
    fn advance(&mut self, intake: &mut Intake, gather: &mut Gather) -> Result<bool, Failure> {
        let has_more = self.table.take(intake, gather).unwrap_or_else(|lost| {
            self.losses += 1;
            let (name, messages) = (Quoted(&self.name), self.progress.messages());
            match self.losses {
                ..=LOSSES_NAMED => messages.info(format!("{name} {}", lost.text)),
                more if more == LOSSES_NAMED + 1 => {
                    messages.info(format!("{name}: further rows are lost, and not named"));
                }
                _ => {}
            }
            lost.goes_on
        });
        let rows = intake.tally().messages;
        if !has_more || rows - self.reported >= PROGRESS_ROWS {
            self.reported = rows;
            self.progress.report(self.table.done(), intake.tally().records, intake.reached());
        }
        Ok(has_more)
    }

    fn is_damaged(&self) -> bool {
        self.losses > 0
    }
}
