//! Messages of every format, each with the exact observations to be read.

mod flows;
mod hostile;
mod packets;
mod projections;
mod unset;

use floodmark_dataflows::types::{Pair, Volume};

use super::*;

/// The timestamp of every message here: 2023-11-14T22:13:20.500Z.
const BROKER_MS: u64 = 1_700_000_000_500;

fn record(time_ms: u64, source: &str, destination: &str, bytes: i64, packets: i64) -> Record {
    let address = |text: &str| text.parse().expect("an address");
    let pair = Pair::new(address(source), address(destination)).expect("one family");
    Record { time_ms, pair, volume: Volume::new(bytes, packets) }
}

/// The format of a message, or its error.
type FormatResult = Result<Option<Format>, RecordError>;

fn read(decoder: &Decoder, key: Option<&[u8]>, payload: &[u8]) -> (FormatResult, Vec<Observation>) {
    let mut reads = Vec::new();
    let message = Message { key, payload: Some(payload), timestamp_ms: Some(BROKER_MS) };
    let format = decoder.decode(&message, &mut |read| reads.push(read));
    (format, reads)
}

/// Reads a message as it is, and in each kind of envelope.
#[track_caller]
fn check(payload: &str, format: Format, reads: &[Observation]) {
    check_with(&Decoder::default(), None, payload, format, reads);
}

#[track_caller]
fn check_with(
    decoder: &Decoder,
    key: Option<&str>,
    payload: &str,
    format: Format,
    reads: &[Observation],
) {
    let expected = (Ok(Some(format)), reads.to_vec());
    let key = key.map(str::as_bytes);
    assert_eq!(read(decoder, key, payload.as_bytes()), expected, "{payload}");
    let quoted = serde_json::to_string(payload).expect("a text");
    let schema = r#"{"type":"string","optional":false}"#;
    for envelope in [
        quoted.clone(),
        format!(r#"{{"payload":{quoted}}}"#),
        format!(r#" {{ "schema": {schema}, "payload": {quoted} }} "#),
    ] {
        assert_eq!(read(decoder, key, envelope.as_bytes()), expected, "{envelope}");
    }
    if serde_json::from_str::<serde_json::Value>(payload).is_ok() {
        let envelope = format!(r#"{{"schema":{schema},"payload":{payload}}}"#);
        assert_eq!(read(decoder, key, envelope.as_bytes()), expected, "{envelope}");
    }
}

/// Checks that a message is an error as a whole, without any observation.
#[track_caller]
fn check_rejected(payload: &[u8], reason: RecordError) {
    let expected = (Err(reason), Vec::new());
    let shown = String::from_utf8_lossy(payload);
    assert_eq!(read(&Decoder::default(), None, payload), expected, "{shown}");
}

#[test]
fn names_of_formats_and_errors_match_their_labels() {
    for (index, format) in Format::ALL.into_iter().enumerate() {
        assert_eq!(index, format as usize);
        assert!(format.as_str().bytes().all(|b| b.is_ascii_lowercase() || b"_2".contains(&b)));
    }
    let field = "bytes";
    let reasons = [
        RecordError::Empty,
        RecordError::UnknownFormat,
        RecordError::Ambiguous,
        RecordError::NotUtf8,
        RecordError::Json,
        RecordError::MissingField { field },
        RecordError::RepeatedField { field },
        RecordError::BadAddress { field },
        RecordError::MixedFamily,
        RecordError::BadNumber { field },
        RecordError::TooLarge,
        RecordError::NoTime,
        RecordError::OwnOutput { kind: "totals" },
        RecordError::PackedVersion { version: 2 },
        RecordError::PackedLength,
        RecordError::PackedChecksum,
        RecordError::TooManyRecords,
    ];
    assert_eq!(reasons.map(RecordError::as_str), RecordError::LABELS);
    assert_eq!(
        RecordError::BadNumber { field }.to_string(),
        "the field \"bytes\" is not a whole number of zero or more"
    );
}

#[test]
fn kv_message_is_read_as_one_packet_or_rejected() {
    let packet = |bytes| Observation::Record(record(BROKER_MS, "10.0.0.1", "10.0.0.2", bytes, 1));
    let kv = |key: &str, value: &str, expected| {
        check_with(&Decoder::default(), Some(key), value, Format::Kv, &[expected]);
    };
    kv("10.0.0.1 10.0.0.2", "1500", packet(1500));
    kv("10.0.0.1 10.0.0.2", "0", packet(0));
    kv(" 10.0.0.1 \t 10.0.0.2\n", " 0066\n", packet(66));
    kv("10.0.0.1 10.0.0.2", "66.0", packet(66));
    kv("10.0.0.1 10.0.0.2", "1099511627776", packet(1 << 40));
    kv("\"10.0.0.1 10.0.0.2\"", "66", packet(66));
    kv(r#"{"schema":{"type":"string"},"payload":"10.0.0.1 10.0.0.2"}"#, "66", packet(66));
    let v6 = Observation::Record(record(BROKER_MS, "2001:db8::1", "::ffff:10.0.0.2", 66, 1));
    kv("2001:db8::1 ::ffff:10.0.0.2", "66", v6);
    kv("10.0.0.1 2001:db8::1", "66", Observation::Bad(RecordError::MixedFamily));
    for key in ["", " ", "10.0.0.1", "10.0.0.1 10.0.0.2 10.0.0.3", "a b", "10.0.0.1,10.0.0.2"] {
        kv(key, "66", Observation::Bad(RecordError::BadAddress { field: "key" }));
    }
    kv("{\"payload\":7}", "66", Observation::Bad(RecordError::Json));
    for value in ["-66", "66.5", "-1e40"] {
        kv("10.0.0.1 10.0.0.2", value, Observation::Bad(RecordError::BadNumber { field: "value" }));
    }
    for value in ["1099511627777", "18446744073709551616", "99999999999999999999", "1e30"] {
        kv("10.0.0.1 10.0.0.2", value, Observation::Bad(RecordError::TooLarge));
    }
    let keyless = Observation::Bad(RecordError::MissingField { field: "key" });
    check("66", Format::Kv, &[keyless]);
    let no_text = read(&Decoder::default(), Some(b"\xff \xfe"), b"66").1;
    assert_eq!(no_text, [Observation::Bad(RecordError::BadAddress { field: "key" })]);
    let mut reads = Vec::new();
    let message =
        Message { key: Some(b"10.0.0.1 10.0.0.2"), payload: Some(b"66"), timestamp_ms: None };
    let _ = Decoder::default().decode(&message, &mut |read| reads.push(read));
    assert_eq!(reads, [Observation::Bad(RecordError::NoTime)]);
}

#[test]
fn written_record_is_read_back() {
    for (record, json) in [
        (
            record(1_700_000_000_123, "10.0.0.1", "10.0.0.2", 1500, 3),
            r#"{"time":"2023-11-14T22:13:20.123Z","source":"10.0.0.1","destination":"10.0.0.2","bytes":1500,"packets":3}"#,
        ),
        (
            record(0, "2001:db8::1", "::ffff:10.0.0.2", 0, 1),
            r#"{"time":"1970-01-01T00:00:00Z","source":"2001:db8::1","destination":"::ffff:10.0.0.2","bytes":0,"packets":1}"#,
        ),
        (
            record(253_402_300_799_999, "::", "::1", 1 << 40, 1 << 40),
            r#"{"time":"9999-12-31T23:59:59.999Z","source":"::","destination":"::1","bytes":1099511627776,"packets":1099511627776}"#,
        ),
        (
            record(253_402_300_800_001, "::", "::1", 1, 1),
            r#"{"time":253402300800001,"source":"::","destination":"::1","bytes":1,"packets":1}"#,
        ),
        (
            record(u64::MAX, "::", "::1", 1, 1),
            r#"{"time":18446744073709551615,"source":"::","destination":"::1","bytes":1,"packets":1}"#,
        ),
    ] {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        write_json(&record, &mut key, &mut value);
        assert_eq!(String::from_utf8_lossy(&value), json);
        let pair = format!("{} {}", record.pair.source(), record.pair.destination());
        assert_eq!(String::from_utf8_lossy(&key), pair);
        check(json, Format::Json, &[Observation::Record(record)]);
        key.clear();
        value.clear();
        write_kv(&record, &mut key, &mut value);
        assert_eq!(String::from_utf8_lossy(&key), pair);
        let packet =
            Record { time_ms: BROKER_MS, volume: Volume::new(record.volume.bytes, 1), ..record };
        let (format, reads) = read(&Decoder::default(), Some(&key), &value);
        assert_eq!((format, reads), (Ok(Some(Format::Kv)), vec![Observation::Record(packet)]));
    }
}

#[test]
fn message_without_a_record_is_rejected_with_its_reason() {
    check_rejected(b"", RecordError::Empty);
    check_rejected(b" \r\n\t", RecordError::Empty);
    check_rejected(b"\xef\xbb\xbf", RecordError::Empty);
    check_rejected(b"\"\"", RecordError::Empty);
    check_rejected(b"[]", RecordError::Empty);
    check_rejected(b"hello", RecordError::UnknownFormat);
    check_rejected(b"\0", RecordError::UnknownFormat);
    check_rejected(b"12\x0034", RecordError::UnknownFormat);
    check_rejected(b"true", RecordError::UnknownFormat);
    check_rejected(b"{}", RecordError::UnknownFormat);
    check_rejected(br#"{"time":1,"bytes":2}"#, RecordError::UnknownFormat);
    check_rejected(br#"{"event_type":"alert","src_ip":"10.0.0.1"}"#, RecordError::UnknownFormat);
    check_rejected(
        br#"{"payload":{"payload":"1 0.1 10.0.0.1 -> 10.0.0.2 TCP 66"}}"#,
        RecordError::UnknownFormat,
    );
    check_rejected(br#"{"payload":true}"#, RecordError::UnknownFormat);
    check_rejected(b"[[{}]]", RecordError::UnknownFormat);
    check_rejected(b"[1]", RecordError::UnknownFormat);
    check_rejected(b"\xc3\x28", RecordError::NotUtf8);
    check_rejected(b"\xff", RecordError::NotUtf8);
    check_rejected(b"\xffFM", RecordError::NotUtf8);
    check_rejected(b"{", RecordError::Json);
    check_rejected(b"[", RecordError::Json);
    check_rejected(b"\"", RecordError::Json);
    check_rejected(br#""\ud800""#, RecordError::Json);
    check_rejected(br#"{"payload":"\ud800"}"#, RecordError::Json);
    check_rejected(br#"{"a":1e}"#, RecordError::Json);
    check_rejected(br#"{"src_addr":"10.0.0.1","ip_src":"10.0.0.1"}"#, RecordError::Ambiguous);
    check_rejected(br#"{"source":"a","destination":"b","payload":"c"}"#, RecordError::Ambiguous);
}

#[test]
fn message_without_a_value_is_skipped_as_a_tombstone() {
    let skipped = vec![Observation::Skipped(Skip::Tombstone)];
    let mut reads = Vec::new();
    let key = Some(&b"10.0.0.1 10.0.0.2"[..]);
    let message = Message { key, payload: None, timestamp_ms: Some(BROKER_MS) };
    let format = Decoder::default().decode(&message, &mut |read| reads.push(read));
    assert_eq!((format, &reads), (Ok(None), &skipped));
    // Kafka Connect, and programs that write JSON, write tombstones like this.
    for payload in [
        r#"{"payload":null}"#,
        r#"{"schema":null,"payload":null}"#,
        r#"{"schema":{"type":"struct","optional":true},"payload":null}"#,
        r#"{"payload":"null"}"#,
        "null",
        " null\n",
    ] {
        let format = read(&Decoder::default(), key, payload.as_bytes());
        assert_eq!(format, (Ok(None), skipped.clone()), "{payload}");
    }
    // A tombstone does not affect the other values of its message.
    let own = r#"{"source":"10.0.0.1","destination":"10.0.0.2","bytes":66,"packets":1}"#;
    let (format, reads) =
        read(&Decoder::default(), None, format!("{{\"payload\":null}}\n{own}").as_bytes());
    assert_eq!((format, reads.len()), (Ok(Some(Format::Json)), 2));
    // An empty value is no tombstone.
    check_rejected(b"", RecordError::Empty);
}

/// The number of records of one message is bounded in every format, and the rest is rejected.
#[test]
fn message_of_too_many_records_yields_the_first_ones_and_an_error() {
    let records = RECORDS_MAX as u32;
    let packed = |count: u32| {
        let mut packer = Packer::new();
        for number in 0..count {
            let pair = Pair::V4(number.into(), number.into());
            let record = Record { time_ms: 1, pair, volume: Volume::new(1, 1) };
            packer.push(&record).expect("a volume that a record may have");
        }
        packer.take().expect("records").payload
    };
    let object = r#"{"time":1,"source":"::1","destination":"::2","bytes":1}"#;
    let lines = |count: u32| vec![object; count as usize].join("\n").into_bytes();
    for (payload, format) in [(packed(records), Format::Packed), (lines(records), Format::Json)] {
        let (found, reads) = read(&Decoder::default(), None, &payload);
        assert_eq!((found, reads.len()), (Ok(Some(format)), RECORDS_MAX));
    }
    for payload in [packed(records + 1), lines(records + 5)] {
        let (found, reads) = read(&Decoder::default(), None, &payload);
        assert_eq!((found, reads.len()), (Err(RecordError::TooManyRecords), RECORDS_MAX));
    }
}
