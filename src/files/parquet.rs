//! Rows of Parquet files, some thousand at a time. A group of rows that is damaged ends there, and the others are read.

use std::sync::Arc;

use ::parquet::basic::{Compression, ConvertedType, LogicalType, TimeUnit, Type};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::{ByteArray, DataType, FixedLenByteArray, Int96};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::reader::{ChunkReader as _, FileReader, Length as _, SerializedFileReader};
use ::parquet::schema::types::ColumnDescriptor;

use super::file_at::FileAt;
use super::pages::CheckedPages;
use crate::base::panics;
use crate::record::{Cell, Cells};

/// The bytes with which a Parquet file begins.
pub(super) const MAGIC: [u8; 4] = *b"PAR1";

/// Rows that are read at once.
const BATCH: usize = 1024;

/// A Parquet file.
pub struct ParquetFile {
    reader: SerializedFileReader<FileAt>,
    length: u64,
}

/// A column that holds nothing that can be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "has a column \"{name}\" of the type {kind}, which is neither a number, a time, a text nor an address"
)]
pub struct UnsupportedColumn {
    name: String,
    kind: String,
}

impl UnsupportedColumn {
    fn of(column: &ColumnDescriptor) -> Self {
        let kind = match column.logical_type_ref() {
            _ if column.max_rep_level() > 0 => "list".to_owned(),
            Some(logical) => format!("{logical:?}"),
            None => column.physical_type().to_string(),
        };
        UnsupportedColumn { name: column.path().parts().join("."), kind }
    }
}

/// Whether pages in this compression can be read.
fn is_supported(codec: Compression) -> bool {
    !matches!(codec, Compression::BROTLI(_) | Compression::LZO)
}

impl ParquetFile {
    /// Opens a file.
    ///
    /// # Errors
    /// It can't be read, or is damaged, or is compressed in a way that is not supported.
    pub(super) fn open(file: FileAt) -> Result<Self> {
        let length = file.len();
        if file.get_bytes(0, MAGIC.len())? != MAGIC[..] {
            let what = "Parquet that is compressed as a whole is not read: decompress it first";
            return Err(ParquetError::General(what.to_owned()));
        }
        let reader = guarded(|| SerializedFileReader::new(file))?;
        let groups = reader.metadata().row_groups().iter();
        let mut codecs =
            groups.flat_map(|group| group.columns()).map(|column| column.compression());
        if let Some(codec) = codecs.find(|codec| !is_supported(*codec)) {
            return Err(ParquetError::General(format!(
                "it is compressed by {codec}, which is not supported"
            )));
        }
        Ok(ParquetFile { reader, length })
    }

    fn columns(&self) -> &[Arc<ColumnDescriptor>] {
        self.reader.metadata().file_metadata().schema_descr().columns()
    }

    /// Returns the names of the columns, with dots in those within others; no name for one that can't be read.
    pub fn column_names(&self) -> Vec<String> {
        let name = |column: &Arc<ColumnDescriptor>| match Kind::of(column) {
            Some(_) => column.path().parts().join("."),
            None => String::new(),
        };
        self.columns().iter().map(name).collect()
    }

    /// Returns the fault of a column with this name that can't be read.
    pub fn unsupported(&self, name: &str) -> Option<UnsupportedColumn> {
        let mut columns = self.columns().iter();
        let column = columns.find(|column| column.path().parts().join(".") == name)?;
        Kind::of(column).is_none().then(|| UnsupportedColumn::of(column))
    }

    /// Begins to read some columns.
    ///
    /// # Errors
    /// One is of a type that no field of a record has.
    pub fn rows(self, columns: &[usize]) -> std::result::Result<ParquetRows, UnsupportedColumn> {
        let kind = |at: &usize| {
            let column = &self.columns()[*at];
            Kind::of(column).ok_or_else(|| UnsupportedColumn::of(column))
        };
        let kinds = columns.iter().map(kind).collect::<std::result::Result<_, _>>()?;
        Ok(ParquetRows {
            file: self,
            columns: columns.to_vec(),
            kinds,
            next_group: 0,
            group: None,
            row: 0,
        })
    }
}

/// Calls the crate, which panics on some files that are damaged.
fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    panics::catch(call).unwrap_or_else(|panic| Err(ParquetError::General(panic)))
}

/// The meaning of the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// No row has a value: programs do not know the type of such a column.
    Null,
    /// Texts.
    Text,
    /// Texts or addresses: nothing tells.
    Bytes,
    /// Addresses of so many bytes.
    Address,
    Number,
    Unsigned,
    /// Whole numbers, and the power of ten by which they are divided.
    Decimal(u32),
    /// Times, by the nanoseconds of their unit.
    Moment {
        unit: i64,
        is_local: bool,
    },
}

impl Kind {
    fn of(column: &ColumnDescriptor) -> Option<Kind> {
        let physical = column.physical_type();
        let logical = column.logical_type_ref();
        if column.max_rep_level() > 0 {
            return None;
        }
        Some(match (physical, logical, column.converted_type()) {
            (_, Some(LogicalType::Unknown), _) => Kind::Null,
            (Type::BOOLEAN, ..) => return None,
            (Type::INT96, ..) => Kind::Moment { unit: 1, is_local: false },
            (Type::INT64, Some(LogicalType::Timestamp(time)), _) => Kind::Moment {
                unit: match time.unit {
                    TimeUnit::MILLIS => 1_000_000,
                    TimeUnit::MICROS => 1000,
                    TimeUnit::NANOS => 1,
                },
                is_local: !time.is_adjusted_to_u_t_c,
            },
            (Type::INT64, None, ConvertedType::TIMESTAMP_MILLIS) => {
                Kind::Moment { unit: 1_000_000, is_local: false }
            }
            (Type::INT64, None, ConvertedType::TIMESTAMP_MICROS) => {
                Kind::Moment { unit: 1000, is_local: false }
            }
            (Type::FLOAT | Type::DOUBLE, ..) => Kind::Number,
            (_, Some(LogicalType::Decimal(decimal)), _) => {
                Kind::Decimal(u32::try_from(decimal.scale).ok().filter(|scale| *scale <= 18)?)
            }
            (_, None, ConvertedType::DECIMAL) => {
                Kind::Decimal(u32::try_from(column.type_scale()).ok().filter(|scale| *scale <= 18)?)
            }
            (Type::INT32 | Type::INT64, Some(LogicalType::Integer(integer)), _) => {
                if integer.is_signed { Kind::Number } else { Kind::Unsigned }
            }
            (
                Type::INT32 | Type::INT64,
                None,
                ConvertedType::UINT_8
                | ConvertedType::UINT_16
                | ConvertedType::UINT_32
                | ConvertedType::UINT_64,
            ) => Kind::Unsigned,
            (
                Type::INT32 | Type::INT64,
                None,
                ConvertedType::NONE
                | ConvertedType::INT_8
                | ConvertedType::INT_16
                | ConvertedType::INT_32
                | ConvertedType::INT_64,
            ) => Kind::Number,
            (
                Type::BYTE_ARRAY,
                Some(LogicalType::String | LogicalType::Enum | LogicalType::Json),
                _,
            )
            | (
                Type::BYTE_ARRAY,
                None,
                ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON,
            ) => Kind::Text,
            (Type::BYTE_ARRAY, None, ConvertedType::NONE) => Kind::Bytes,
            (Type::FIXED_LEN_BYTE_ARRAY, None | Some(LogicalType::Uuid), ConvertedType::NONE)
                if matches!(column.type_length(), 4 | 16) =>
            {
                Kind::Address
            }
            _ => return None,
        })
    }
}

/// The values of a column that were read.
enum Values {
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int96(Vec<Int96>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
    Fixed(Vec<FixedLenByteArray>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Values::Int32(values) => values.len(),
            Values::Int64(values) => values.len(),
            Values::Int96(values) => values.len(),
            Values::Float(values) => values.len(),
            Values::Double(values) => values.len(),
            Values::Bytes(values) => values.len(),
            Values::Fixed(values) => values.len(),
        }
    }
}

/// A column of a group of rows.
struct Column {
    kind: Kind,
    reader: ColumnReader,
    values: Values,
    /// For each row whether there is a value: by comparison with the greatest level. Empty if each row has one.
    levels: Vec<i16>,
    greatest_level: i16,
    /// The places of the values of rows, if some rows have none.
    places: Vec<u32>,
}

/// The place of a value that is not there.
const NO_PLACE: u32 = u32::MAX;

impl Column {
    fn new(reader: ColumnReader, kind: Kind, column: &ColumnDescriptor) -> Result<Self> {
        let values = match reader {
            ColumnReader::Int32ColumnReader(_) => Values::Int32(Vec::new()),
            ColumnReader::Int64ColumnReader(_) => Values::Int64(Vec::new()),
            ColumnReader::Int96ColumnReader(_) => Values::Int96(Vec::new()),
            ColumnReader::FloatColumnReader(_) => Values::Float(Vec::new()),
            ColumnReader::DoubleColumnReader(_) => Values::Double(Vec::new()),
            ColumnReader::ByteArrayColumnReader(_) => Values::Bytes(Vec::new()),
            ColumnReader::FixedLenByteArrayColumnReader(_) => Values::Fixed(Vec::new()),
            ColumnReader::BoolColumnReader(_) => {
                return Err(ParquetError::General("a column of truth values".to_owned()));
            }
        };
        let greatest_level = column.max_def_level();
        let (levels, places) = (Vec::new(), Vec::new());
        Ok(Column { kind, reader, values, levels, greatest_level, places })
    }

    /// Reads the values of the next rows.
    fn read(&mut self, rows: usize) -> Result<()> {
        self.read_values(rows)?;
        self.places.clear();
        let greatest = self.greatest_level;
        let has_nulls = self.levels.iter().any(|level| *level != greatest);
        let mut count = 0;
        if has_nulls {
            self.places.extend(self.levels.iter().map(|level| {
                let place = if *level == greatest { count } else { NO_PLACE };
                count += u32::from(*level == greatest);
                place
            }));
        }
        let expected = if has_nulls { count as usize } else { rows };
        let has_levels = greatest == 0 || self.levels.len() == rows;
        match has_levels && self.values.len() == expected {
            true => Ok(()),
            false => {
                let what = "a column has other values than rows";
                Err(ParquetError::General(what.to_owned()))
            }
        }
    }

    fn read_values(&mut self, rows: usize) -> Result<()> {
        let levels = (self.greatest_level > 0).then_some(&mut self.levels);
        match (&mut self.reader, &mut self.values) {
            (ColumnReader::Int32ColumnReader(reader), Values::Int32(values)) => {
                read(reader, rows, levels, values)
            }
            (ColumnReader::Int64ColumnReader(reader), Values::Int64(values)) => {
                read(reader, rows, levels, values)
            }
            (ColumnReader::Int96ColumnReader(reader), Values::Int96(values)) => {
                read(reader, rows, levels, values)
            }
            (ColumnReader::FloatColumnReader(reader), Values::Float(values)) => {
                read(reader, rows, levels, values)
            }
            (ColumnReader::DoubleColumnReader(reader), Values::Double(values)) => {
                read(reader, rows, levels, values)
            }
            (ColumnReader::ByteArrayColumnReader(reader), Values::Bytes(values)) => {
                read(reader, rows, levels, values)
            }
            (ColumnReader::FixedLenByteArrayColumnReader(reader), Values::Fixed(values)) => {
                read(reader, rows, levels, values)
            }
            _ => unreachable!("values are of the type of their reader"),
        }
    }

    /// Returns the value of a row.
    #[inline]
    fn cell(&self, row: usize) -> Cell<'_> {
        let at = match self.places.get(row) {
            None => row,
            Some(&NO_PLACE) => return Cell::Null,
            Some(place) => *place as usize,
        };
        match (&self.values, self.kind) {
            (_, Kind::Null) => Cell::Null,
            (Values::Int32(values), Kind::Unsigned) => Cell::Integer((values[at] as u32).into()),
            (Values::Int32(values), kind) => number(values[at].into(), kind),
            (Values::Int64(values), Kind::Unsigned) => Cell::Integer((values[at] as u64).into()),
            (Values::Int64(values), kind) => number(values[at], kind),
            (Values::Int96(values), _) => Cell::Moment(moment(&values[at])),
            (Values::Float(values), _) => Cell::Float(values[at].into()),
            (Values::Double(values), _) => Cell::Float(values[at]),
            (Values::Bytes(values), Kind::Decimal(scale)) => big_decimal(values[at].data(), scale),
            (Values::Fixed(values), Kind::Decimal(scale)) => big_decimal(values[at].data(), scale),
            (Values::Bytes(values), Kind::Text) => match str::from_utf8(values[at].data()) {
                Ok(text) => Cell::Text(text.trim_ascii()),
                Err(_) => Cell::Bytes(values[at].data()),
            },
            (Values::Bytes(values), _) => Cell::Bytes(values[at].data()),
            (Values::Fixed(values), _) => Cell::Binary(values[at].data()),
        }
    }
}

fn number(value: i64, kind: Kind) -> Cell<'static> {
    match kind {
        Kind::Moment { unit, is_local } => {
            let nanos = i128::from(value) * i128::from(unit);
            if is_local { Cell::LocalMoment(nanos) } else { Cell::Moment(nanos) }
        }
        Kind::Decimal(scale) => decimal(value.into(), scale),
        _ => Cell::Integer(value.into()),
    }
}

fn decimal(value: i128, scale: u32) -> Cell<'static> {
    let divisor = 10i128.pow(scale);
    match value % divisor {
        0 => Cell::Integer(value / divisor),
        _ => Cell::Float(value as f64 / divisor as f64),
    }
}

/// Reads a decimal number of many digits: two's complement, the most significant byte first.
fn big_decimal(bytes: &[u8], scale: u32) -> Cell<'_> {
    let sign = if bytes.first().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
    let mut whole = [sign; 16];
    match whole.len().checked_sub(bytes.len()) {
        Some(start) => {
            whole[start..].copy_from_slice(bytes);
            decimal(i128::from_be_bytes(whole), scale)
        }
        None => Cell::Bytes(bytes),
    }
}

/// Returns the nanoseconds since 1970 of the old form of times: nanoseconds of a day, and the Julian day.
fn moment(time: &Int96) -> i128 {
    const JULIAN_DAY_OF_1970: i128 = 2_440_588;
    const DAY: i128 = 86_400_000_000_000;
    let [low, high, day] = *time.data() else { return i128::MAX };
    let nanos = i128::from(u64::from(high) << 32 | u64::from(low));
    (i128::from(day) - JULIAN_DAY_OF_1970) * DAY + nanos
}

/// Reads the values of so many rows, in the place of those before.
fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    mut levels: Option<&mut Vec<i16>>,
    values: &mut Vec<T::T>,
) -> Result<()> {
    values.clear();
    if let Some(levels) = &mut levels {
        levels.clear();
    }
    let mut read = 0;
    while read < rows {
        let (more, ..) = reader.read_records(rows - read, levels.as_deref_mut(), None, values)?;
        if more == 0 {
            return Err(ParquetError::General("a column has fewer values than rows".to_owned()));
        }
        read += more;
    }
    Ok(())
}

/// A group of rows that is read.
struct Group {
    columns: Vec<Column>,
    /// Rows that were not read yet.
    left: u64,
}

/// A row.
pub struct ParquetRow<'a> {
    columns: &'a [Column],
    row: usize,
}

impl Cells for ParquetRow<'_> {
    #[inline]
    fn cell(&self, number: usize) -> Cell<'_> {
        self.columns[number].cell(self.row)
    }
}

/// The rows of a file.
pub struct ParquetRows {
    file: ParquetFile,
    columns: Vec<usize>,
    kinds: Vec<Kind>,
    next_group: usize,
    group: Option<Group>,
    /// The rows that were passed.
    row: u64,
}

/// A group of rows that can't be read to its end.
#[derive(Debug)]
pub struct DamagedGroup {
    /// The number of the group, from 1 on.
    pub group: usize,
    /// The first and the last of the rows that are lost, from 1 on.
    pub rows: (u64, u64),
    /// The error.
    pub error: ParquetError,
    /// Whether the file can be read: others of its groups may be whole.
    pub is_readable: bool,
}

impl ParquetRows {
    /// Reads the next rows, and calls `each` with the number of each row, from 1 on, and with its values. `false`: all rows
    /// were read.
    ///
    /// # Errors
    /// The rest of a group is damaged; the next call reads the next group.
    pub fn read(
        &mut self,
        mut each: impl FnMut(u64, &ParquetRow<'_>),
    ) -> std::result::Result<bool, DamagedGroup> {
        if self.group.is_none() {
            let Some(left) = self.next_rows() else { return Ok(false) };
            self.next_group += 1;
            match guarded(|| self.open_group()) {
                Ok(columns) => self.group = Some(Group { columns, left }),
                Err(error) => return Err(self.give_up(left, error)),
            }
        }
        let group = self.group.as_mut().expect("it was opened just now");
        let rows = group.left.min(BATCH as u64);
        let mut columns = group.columns.iter_mut();
        let read = guarded(|| columns.try_for_each(|column| column.read(rows as usize)));
        if let Err(error) = read {
            let left = group.left;
            return Err(self.give_up(left, error));
        }
        for row in 0..rows as usize {
            self.row += 1;
            each(self.row, &ParquetRow { columns: &group.columns, row });
        }
        group.left -= rows;
        if group.left == 0 {
            self.group = None;
        }
        Ok(true)
    }

    /// Returns the number of rows of the next group; `None` if there is none.
    fn next_rows(&self) -> Option<u64> {
        let metadata = self.file.reader.metadata();
        let group = metadata.row_groups().get(self.next_group)?;
        Some(u64::try_from(group.num_rows()).unwrap_or(0))
    }

    fn open_group(&self) -> Result<Vec<Column>> {
        let group = self.file.reader.get_row_group(self.next_group - 1)?;
        let columns = self.columns.iter().zip(&self.kinds);
        let open = |(at, kind): (&usize, &Kind)| {
            let column = &self.file.columns()[*at];
            let pages = CheckedPages::new(group.get_column_page_reader(*at)?, column);
            Column::new(get_column_reader(column.clone(), Box::new(pages)), *kind, column)
        };
        columns.map(open).collect()
    }

    fn give_up(&mut self, left: u64, error: ParquetError) -> DamagedGroup {
        self.group = None;
        let end = self.row.saturating_add(left);
        let rows = (self.row.saturating_add(1).min(end), end);
        self.row = end;
        let is_readable = match &error {
            ParquetError::External(cause) => !cause.is::<std::io::Error>(),
            _ => true,
        };
        DamagedGroup { group: self.next_group, rows, error, is_readable }
    }

    /// Returns the share of the bytes of the file that were read, by rows, for a progress bar.
    pub fn raw_offset(&self) -> u64 {
        let rows = self.file.reader.metadata().file_metadata().num_rows().max(1);
        (self.file.length as f64 * (self.row as f64 / rows as f64).min(1.0)) as u64
    }
}

#[cfg(test)]
#[path = "parquet_tests.rs"]
mod tests;
