//! The totals of one window as a Parquet file: window, source, destination, bytes, packets.
//!
//! Rows are sorted by source and destination. A group of rows is small enough for one tick to take it.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Pair, Volume};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::column::writer::ColumnWriterImpl;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

/// Rows of a group.
pub const GROUP_ROWS: usize = 1 << 16;

const SCHEMA: &str = "message totals {
    required int64 window (TIMESTAMP(MILLIS, true));
    required binary source (STRING);
    required binary destination (STRING);
    required int64 bytes;
    required int64 packets;
}";

/// Returns the content of the file of a window's totals.
pub fn write(window: Window, mut rows: Vec<(Pair, Volume)>) -> anyhow::Result<Vec<u8>> {
    rows.sort_unstable_by_key(|(pair, _)| *pair);
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let plain = |column: &str| ColumnPath::from(column);
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_dictionary_enabled(true)
        .set_column_dictionary_enabled(plain("bytes"), false)
        .set_column_dictionary_enabled(plain("packets"), false)
        .set_column_encoding(plain("bytes"), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(plain("packets"), Encoding::DELTA_BINARY_PACKED)
        .set_created_by("floodmark".to_owned())
        .build();
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
    let start = i64::try_from(window.0.saturating_mul(1000)).unwrap_or(i64::MAX);
    for rows in rows.chunks(GROUP_ROWS) {
        let mut group = file.next_row_group()?;
        column::<Int64Type>(&mut group, &vec![start; rows.len()])?;
        column::<ByteArrayType>(&mut group, &addresses(rows, Pair::source))?;
        column::<ByteArrayType>(&mut group, &addresses(rows, Pair::destination))?;
        let numbers = |number: fn(&Volume) -> i64| -> Vec<i64> {
            rows.iter().map(|(_, volume)| number(volume)).collect()
        };
        column::<Int64Type>(&mut group, &numbers(|volume| volume.bytes))?;
        column::<Int64Type>(&mut group, &numbers(|volume| volume.packets))?;
        group.close()?;
    }
    Ok(file.into_inner()?)
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
) -> anyhow::Result<()>
where
    for<'a> ColumnWriterImpl<'a, T>: Sized,
{
    let mut column = group.next_column()?.context("the schema has another column")?;
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()?;
    Ok(())
}

/// The texts of addresses, in one buffer.
fn addresses(rows: &[(Pair, Volume)], address: impl Fn(&Pair) -> IpAddr) -> Vec<ByteArray> {
    use std::fmt::Write as _;

    let (mut text, mut ends) = (String::with_capacity(rows.len() * 16), Vec::new());
    for (pair, _) in rows {
        write!(text, "{}", address(pair)).expect("memory takes everything");
        ends.push(text.len());
    }
    let buffer = ByteArray::from(text.into_bytes());
    let starts = [0].into_iter().chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| buffer.slice(start, end - start)).collect()
}

/// Reads the file of a window's totals, group by group.
pub struct Groups {
    file: SerializedFileReader<Content>,
    next: usize,
}

/// The content of a file.
type Content = bytes::Bytes;

impl Groups {
    /// Opens a file with this content.
    pub fn open(content: Vec<u8>) -> anyhow::Result<Self> {
        let content = Content::from(content);
        Ok(Groups { file: SerializedFileReader::new(content)?, next: 0 })
    }

    /// Returns the rows of the next group; `None` if all were read.
    pub fn next_group(&mut self) -> anyhow::Result<Option<Vec<(Pair, Volume)>>> {
        if self.next >= self.file.num_row_groups() {
            return Ok(None);
        }
        let group = self.file.get_row_group(self.next)?;
        self.next += 1;
        let count = usize::try_from(group.metadata().num_rows())?;
        let sources = values::<ByteArrayType>(&*group, 1, count)?;
        let destinations = values::<ByteArrayType>(&*group, 2, count)?;
        let bytes = values::<Int64Type>(&*group, 3, count)?;
        let packets = values::<Int64Type>(&*group, 4, count)?;
        let address = |text: &ByteArray| -> anyhow::Result<IpAddr> {
            let text = text.as_utf8()?;
            text.parse().with_context(|| format!("\"{text}\" is no address"))
        };
        let mut rows = Vec::with_capacity(count);
        for row in 0..count {
            let pair = match (address(&sources[row])?, address(&destinations[row])?) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => Pair::V4(source, destination),
                (IpAddr::V6(source), IpAddr::V6(destination)) => Pair::V6(source, destination),
                (source, destination) => bail!("{source} and {destination} are of two families"),
            };
            rows.push((pair, Volume::new(bytes[row], packets[row])));
        }
        Ok(Some(rows))
    }
}

fn values<T: DataType>(
    group: &dyn RowGroupReader,
    column: usize,
    count: usize,
) -> anyhow::Result<Vec<T::T>> {
    let reader = group.get_column_reader(column)?;
    let mut reader = parquet::column::reader::get_typed_column_reader::<T>(reader);
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let (_, read, _) = reader.read_records(count - values.len(), None, None, &mut values)?;
        if read == 0 {
            bail!("column {column} has {} of {count} values", values.len());
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read_as_they_were_written() {
        let v4 = (0..150_000u32).map(|number| {
            let pair = Pair::V4((number.wrapping_mul(2_654_435_761)).into(), number.into());
            (pair, Volume::new(i64::from(number) * 1_000_003, i64::from(number % 7) - 1))
        });
        let ends = Volume::new(i64::MAX, i64::MIN);
        let v6 = (Pair::V6(u128::MAX.into(), 0.into()), ends);
        let mapped = (Pair::V6([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1].into(), 1.into()), ends);
        let mut rows: Vec<_> = v4.chain([v6, mapped]).collect();
        let content = write(Window(300), rows.clone()).expect("memory takes everything");
        let size = content.len() as f64 / rows.len() as f64;
        assert!(size <= 20.0, "{size} bytes a total");
        let mut groups = Groups::open(content).expect("it was written just now");
        let mut read = Vec::new();
        while let Some(group) = groups.next_group().expect("it was written just now") {
            assert!(group.len() <= GROUP_ROWS);
            read.extend(group);
        }
        rows.sort();
        assert!(read == rows);
    }

    #[test]
    fn damaged_file_is_an_error() {
        let rows = vec![(Pair::V4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()), Volume::new(1, 1))];
        let content = write(Window(0), rows).expect("memory takes everything");
        for damaged in [Vec::new(), content[..content.len() / 2].to_vec(), vec![b'x'; 100]] {
            assert!(Groups::open(damaged).is_err());
        }
    }
}
