use std::io::Write as _;
use std::sync::LazyLock;

use ::parquet::basic::{Compression, Encoding};
use ::parquet::data_type::{
    ByteArrayType, DoubleType, FixedLenByteArrayType, Int32Type, Int64Type, Int96Type,
};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::*;

const SCHEMA: &str = "message flows {
    required int64 ms (TIMESTAMP(MILLIS, true));
    optional int64 local (TIMESTAMP(MICROS, false));
    required int96 old;
    required binary text (STRING);
    required binary plain;
    required fixed_len_byte_array(16) six;
    required int32 u32 (INTEGER(32, false));
    optional int64 number;
    required double float;
    required fixed_len_byte_array(9) big (DECIMAL(20, 0));
    required int32 cents (DECIMAL(9, 2));
    optional group in { optional int64 ner; }
    repeated int64 many;
    required boolean truth;
}";

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    levels: Option<&[i16]>,
) {
    let mut column = group.next_column().expect("memory takes everything").expect("a column");
    column.typed::<T>().write_batch(values, levels, None).expect("memory takes everything");
    column.close().expect("memory takes everything");
}

/// Returns a file of groups of three rows.
fn file(groups: usize, compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_column_dictionary_enabled("plain".into(), false)
        .set_column_encoding("plain".into(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
        .set_column_dictionary_enabled("number".into(), false)
        .set_column_encoding("number".into(), Encoding::DELTA_BINARY_PACKED);
    let properties = Arc::new(properties.build());
    let mut file = SerializedFileWriter::new(Vec::new(), schema, properties).expect("a file");
    for _ in 0..groups {
        let mut group = file.next_row_group().expect("a group");
        column::<Int64Type>(&mut group, &[1000, 2000, 3000], None);
        column::<Int64Type>(&mut group, &[5, 6], Some(&[1, 0, 1]));
        let mut old = Int96::new();
        old.set_data(7, 1, 2_440_589);
        column::<Int96Type>(&mut group, &[old, old, old], None);
        let texts = ["10.0.0.1", " x ", ""].map(ByteArray::from);
        column::<ByteArrayType>(&mut group, &texts, None);
        let plain =
            [&[10, 0, 0, 1][..], b"7", &[0xff]].map(|bytes| ByteArray::from(bytes.to_vec()));
        column::<ByteArrayType>(&mut group, &plain, None);
        let six = [[1; 16], [2; 16], [3; 16]]
            .map(|bytes| FixedLenByteArray::from(ByteArray::from(bytes.to_vec())));
        column::<FixedLenByteArrayType>(&mut group, &six, None);
        column::<Int32Type>(&mut group, &[-1, 0, 1], None);
        column::<Int64Type>(&mut group, &[-1], Some(&[0, 1, 0]));
        column::<DoubleType>(&mut group, &[1.5, f64::NAN, 2.0], None);
        let big = [&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0xff; 9], &[0; 9]]
            .map(|bytes| FixedLenByteArray::from(ByteArray::from(bytes.to_vec())));
        column::<FixedLenByteArrayType>(&mut group, &big, None);
        column::<Int32Type>(&mut group, &[100, 150, -200], None);
        column::<Int64Type>(&mut group, &[9], Some(&[2, 1, 0]));
        let mut many = group.next_column().expect("memory").expect("a column");
        many.typed::<Int64Type>()
            .write_batch(&[1, 2, 3, 4], Some(&[1, 1, 1, 1]), Some(&[0, 1, 0, 0]))
            .expect("memory takes everything");
        many.close().expect("memory takes everything");
        column::<::parquet::data_type::BoolType>(&mut group, &[true, false, true], None);
        group.close().expect("memory takes everything");
    }
    file.into_inner().expect("memory takes everything")
}

fn open(content: &[u8]) -> Result<ParquetFile> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content).expect("a temporary file");
    ParquetFile::open(FileAt::of_file(file)?)
}

/// The rows that can be read, and the rows that are lost.
type Read = (Vec<String>, Vec<(u64, u64)>);

fn read(content: &[u8], columns: &[usize]) -> Result<Read> {
    let rows = open(content)?.rows(columns);
    let mut rows = rows.map_err(|error| ParquetError::General(error.to_string()))?;
    let (mut found, mut lost) = (Vec::new(), Vec::new());
    loop {
        let more = rows.read(|number, row| {
            let cells: Vec<_> = (0..columns.len()).map(|at| row.cell(at)).collect();
            found.push(format!("{number} {cells:?}"));
        });
        match more {
            Ok(true) => {}
            Ok(false) => return Ok((found, lost)),
            Err(damage) => lost.push(damage.rows),
        }
    }
}

#[test]
fn values_of_each_type_are_read() {
    let content = file(1, Compression::UNCOMPRESSED);
    let names = open(&content).expect("a file").column_names();
    let expected = "ms local old text plain six u32 number float big cents in.ner  ";
    assert_eq!(names.join(" "), expected);
    let unsupported =
        |name| open(&content).expect("a file").unsupported(name).map(|error| error.to_string());
    assert!(unsupported("many").expect("a list").contains("of the type list"));
    assert_eq!(unsupported("ms"), None);
    for (column, expected) in [
        ("ms", "Moment(1000000000) Moment(2000000000) Moment(3000000000)"),
        ("local", "LocalMoment(5000) Null LocalMoment(6000)"),
        ("text", r#"Text("10.0.0.1") Text("x") Text("")"#),
        ("plain", "Bytes([10, 0, 0, 1]) Bytes([55]) Bytes([255])"),
        ("u32", "Integer(4294967295) Integer(0) Integer(1)"),
        ("number", "Null Integer(-1) Null"),
        ("float", "Float(1.5) Float(NaN) Float(2.0)"),
        ("big", "Integer(18446744073709551615) Integer(-1) Integer(0)"),
        ("cents", "Integer(1) Float(1.5) Integer(-2)"),
        ("in.ner", "Integer(9) Null Null"),
    ] {
        let at = names.iter().position(|name| name == column).expect("a column");
        let (rows, lost) = read(&content, &[at]).expect("a file");
        let expected: Vec<_> = (1..)
            .zip(expected.split(' ').collect::<Vec<_>>().join(" ").split(") "))
            .map(|(row, cell): (u64, &str)| (row, cell.to_owned()))
            .collect();
        let shown: Vec<_> = rows
            .iter()
            .map(|row| row.split_once(" [").expect("a row").1.trim_end_matches(']').to_owned())
            .collect();
        assert_eq!(
            shown.join(" "),
            expected.iter().map(|(_, cell)| cell.clone()).collect::<Vec<_>>().join(") "),
            "{column}"
        );
        assert!(lost.is_empty());
    }
    let day_and_low = (86_400i128 * 1_000_000_000) + (1i128 << 32) + 7;
    let at = names.iter().position(|name| name == "old").expect("a column");
    let (rows, _) = read(&content, &[at]).expect("a file");
    assert_eq!(rows[0], format!("1 [Moment({day_and_low})]"));
    let error = read(&content, &[13]).expect_err("no type of a field").to_string();
    assert!(error.contains("\"truth\" of the type BOOLEAN"), "{error}");
}

#[test]
fn compressed_files_are_read() {
    let columns = [0, 3, 7];
    let plain = read(&file(2, Compression::UNCOMPRESSED), &columns).expect("a file");
    assert_eq!(plain.0.len(), 6);
    let zstd = Compression::ZSTD(Default::default());
    let gzip = Compression::GZIP(Default::default());
    for compression in [Compression::SNAPPY, gzip, Compression::LZ4_RAW, zstd] {
        let read = read(&file(2, compression), &columns).expect("a file");
        assert_eq!(read, plain, "{compression:?}");
    }
}

/// Returns the rows that can be read of a file with some bits changed.
fn read_damaged(content: &[u8], changes: &[(prop::sample::Index, u8)]) -> Vec<String> {
    let mut damaged = content.to_vec();
    for (at, bit) in changes {
        damaged[at.index(content.len())] ^= 1 << bit;
    }
    read(&damaged, &COLUMNS).map(|(rows, _)| rows).unwrap_or_default()
}

const COLUMNS: [usize; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn damaged_file_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..4),
        is_compressed: bool,
    ) {
        static FILES: LazyLock<[Vec<u8>; 2]> =
            LazyLock::new(|| [file(2, Compression::UNCOMPRESSED), file(2, Compression::SNAPPY)]);
        read_damaged(&FILES[usize::from(is_compressed)], &changes);
    }
}

/// Rows of several batches and pages; one group has none.
#[test]
fn rows_of_long_groups_are_read_in_their_order() {
    let schema = "message rows { required int64 number; optional int64 other; }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties =
        WriterProperties::builder().set_data_page_row_count_limit(700).set_write_batch_size(100);
    let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build()))
        .expect("a file");
    let mut expected = Vec::new();
    for count in [2 * BATCH + 5, 0, 1, BATCH] {
        let mut group = file.next_row_group().expect("a group");
        let first = expected.len() as i64;
        let numbers: Vec<i64> = (first..).take(count).collect();
        let has = |number: &&i64| *number % 3 != 0;
        let others: Vec<i64> = numbers.iter().filter(has).map(|number| -number).collect();
        let levels: Vec<i16> = numbers.iter().map(|number| i16::from(has(&number))).collect();
        column::<Int64Type>(&mut group, &numbers, None);
        column::<Int64Type>(&mut group, &others, Some(&levels));
        group.close().expect("memory takes everything");
        expected.extend(numbers.iter().map(|number| {
            let other = if has(&number) { Cell::Integer((-number).into()) } else { Cell::Null };
            format!("{} {:?}", number + 1, [Cell::Integer((*number).into()), other])
        }));
    }
    let content = file.into_inner().expect("memory takes everything");
    assert_eq!(read(&content, &[0, 1]).expect("a file"), (expected, Vec::new()));
}

/// A group ends at its damage, and the next one is read.
#[test]
fn damaged_group_loses_its_own_rows() {
    let content = file(3, Compression::UNCOMPRESSED);
    let (rows, _) = read(&content, &[3]).expect("a file");
    // The second of three texts like it, behind its length.
    let text =
        content.windows(12).enumerate().filter(|(_, bytes)| *bytes == b"\x08\0\0\x0010.0.0.1");
    let (at, _) = text.map(|(at, _)| (at, ())).nth(1).expect("a text in each group");
    let mut damaged = content.clone();
    damaged[at] = 0xff;
    let (read, lost) = read(&damaged, &[3]).expect("the metadata is whole");
    assert_eq!(lost, [(4, 6)]);
    assert_eq!(read, [&rows[..3], &rows[6..]].concat());
    for length in 0..content.len() {
        assert!(open(&content[..length]).is_err(), "{length}");
    }
}
