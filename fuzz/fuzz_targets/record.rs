//! Any bytes at all, read as a message of a topic. What is read as a record can be packed, and comes
//! back as it was. Fields that are chosen from it are JSON, and cost no record.
#![no_main]

use floodmark::record::{Decoder, Fields, Format, Message, Packer, Observation, RecordError, Record};
use libfuzzer_sys::fuzz_target;

/// The offset of the checksum of a packed message, which no mutation would hit.
const CHECKSUM: std::ops::Range<usize> = 40..44;

fn message<'a>(payload: &'a [u8]) -> Message<'a> {
    Message { key: Some(b"10.0.0.1 10.0.0.2"), payload: Some(payload), timestamp_ms: Some(1_700_000_000_000) }
}

fn records(payload: &[u8]) -> (Result<Option<Format>, RecordError>, Vec<Record>) {
    let mut records = Vec::new();
    let format = Decoder::default().decode(&message(payload), &mut |read| match read {
        Observation::Record(record) | Observation::WithoutPackets(record) => records.push(record),
        Observation::Bad(reason) => drop(reason.to_string()),
        Observation::Skipped(_) => {}
    });
    (format, records)
}

/// The records of a packed message with these, those of IPv4 first.
fn repacked(records: &[Record]) -> Vec<Record> {
    let mut packer = Packer::new();
    let mut again = Vec::new();
    for record in records {
        packer.push(record).expect("what was read can be packed");
    }
    if let Some(packed) = packer.take() {
        let (format, read) = self::records(&packed.payload);
        assert_eq!(format, Ok(Some(Format::Packed)));
        assert_eq!(packed.greatest_ms, read.iter().map(|record| record.time_ms).max().unwrap_or(0));
        again = read;
    }
    again
}

fn check(payload: &[u8]) {
    let (format, mut first) = records(payload);
    let mut again = repacked(&first);
    first.sort();
    again.sort();
    assert_eq!(first, again);
    let fields: Fields = "bytes,ip_src,source,_source".parse().expect("fields");
    let mut count = 0;
    let projected = fields.project(&Decoder::default(), &message(payload), &mut |read, object| {
        if read.record().is_some() {
            count += 1;
            serde_json_is_sound(object);
        }
    });
    assert_eq!(projected.is_ok(), format.is_ok());
    assert!(count <= first.len());
}

/// An object of fields is one that the decoder would take for JSON.
fn serde_json_is_sound(object: &[u8]) {
    let read = Decoder::default().decode(&message(object), &mut |_| {});
    assert!(!matches!(read, Err(RecordError::Json | RecordError::NotUtf8 | RecordError::Empty)));
}

fuzz_target!(|data: &[u8]| {
    check(data);
    if data.starts_with(b"\xffFMR") && data.len() >= CHECKSUM.end {
        let mut sealed = data.to_vec();
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&data[..CHECKSUM.start]);
        hasher.update(&data[CHECKSUM.end..]);
        sealed[CHECKSUM].copy_from_slice(&hasher.finalize().to_le_bytes());
        check(&sealed);
    }
});
