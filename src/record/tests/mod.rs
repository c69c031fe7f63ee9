//! Messages of every format, each with exactly what is to be read from it.

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

/// The format of a message, or why it has none.
type Told = Result<Option<Format>, Reason>;

fn read(decoder: &Decoder, key: Option<&[u8]>, payload: &[u8]) -> (Told, Vec<Read>) {
    let mut reads = Vec::new();
    let message = Message { key, payload: Some(payload), timestamp_ms: Some(BROKER_MS) };
    let format = decoder.decode(&message, &mut |read| reads.push(read));
    (format, reads)
}

/// Reads a message as it is, and again in each of the envelopes in which it may come.
#[track_caller]
fn check(payload: &str, format: Format, reads: &[Read]) {
    check_with(&Decoder::default(), None, payload, format, reads);
}

#[track_caller]
fn check_with(decoder: &Decoder, key: Option<&str>, payload: &str, format: Format, reads: &[Read]) {
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

/// A message that is an error as a whole, and of which nothing is handed over.
#[track_caller]
fn refused(payload: &[u8], reason: Reason) {
    let expected = (Err(reason), Vec::new());
    let shown = String::from_utf8_lossy(payload);
    assert_eq!(read(&Decoder::default(), None, payload), expected, "{shown}");
}

#[test]
fn names_are_those_of_labels() {
    for (index, format) in Format::ALL.into_iter().enumerate() {
        assert_eq!(index, format as usize);
        assert!(format.as_str().bytes().all(|b| b.is_ascii_lowercase() || b"_2".contains(&b)));
    }
    let field = "bytes";
    let reasons = [
        Reason::Empty,
        Reason::UnknownFormat,
        Reason::Ambiguous,
        Reason::NotUtf8,
        Reason::Json,
        Reason::MissingField { field },
        Reason::RepeatedField { field },
        Reason::BadAddress { field },
        Reason::MixedFamily,
        Reason::BadNumber { field },
        Reason::TooLarge,
        Reason::NoTime,
        Reason::OwnOutput { kind: "totals" },
        Reason::PackedVersion { version: 2 },
        Reason::PackedLength,
        Reason::PackedChecksum,
        Reason::TooManyRecords,
    ];
    assert_eq!(reasons.map(Reason::as_str), Reason::LABELS);
    assert_eq!(
        Reason::BadNumber { field }.to_string(),
        "the field \"bytes\" is not a whole number of zero or more"
    );
}

#[test]
fn a_pair_and_a_length() {
    let packet = |bytes| Read::Record(record(BROKER_MS, "10.0.0.1", "10.0.0.2", bytes, 1));
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
    let v6 = Read::Record(record(BROKER_MS, "2001:db8::1", "::ffff:10.0.0.2", 66, 1));
    kv("2001:db8::1 ::ffff:10.0.0.2", "66", v6);
    kv("10.0.0.1 2001:db8::1", "66", Read::Bad(Reason::MixedFamily));
    for key in ["", " ", "10.0.0.1", "10.0.0.1 10.0.0.2 10.0.0.3", "a b", "10.0.0.1,10.0.0.2"] {
        kv(key, "66", Read::Bad(Reason::BadAddress { field: "key" }));
    }
    kv("{\"payload\":7}", "66", Read::Bad(Reason::Json));
    for value in ["-66", "66.5", "-1e40"] {
        kv("10.0.0.1 10.0.0.2", value, Read::Bad(Reason::BadNumber { field: "value" }));
    }
    for value in ["1099511627777", "18446744073709551616", "99999999999999999999", "1e30"] {
        kv("10.0.0.1 10.0.0.2", value, Read::Bad(Reason::TooLarge));
    }
    let keyless = Read::Bad(Reason::MissingField { field: "key" });
    check("66", Format::Kv, &[keyless]);
    let no_text = read(&Decoder::default(), Some(b"\xff \xfe"), b"66").1;
    assert_eq!(no_text, [Read::Bad(Reason::BadAddress { field: "key" })]);
    let mut reads = Vec::new();
    let message =
        Message { key: Some(b"10.0.0.1 10.0.0.2"), payload: Some(b"66"), timestamp_ms: None };
    let _ = Decoder::default().decode(&message, &mut |read| reads.push(read));
    assert_eq!(reads, [Read::Bad(Reason::NoTime)]);
}

#[test]
fn what_is_written_is_read_back() {
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
        check(json, Format::Json, &[Read::Record(record)]);
        key.clear();
        value.clear();
        write_kv(&record, &mut key, &mut value);
        assert_eq!(String::from_utf8_lossy(&key), pair);
        let packet =
            Record { time_ms: BROKER_MS, volume: Volume::new(record.volume.bytes, 1), ..record };
        let (format, reads) = read(&Decoder::default(), Some(&key), &value);
        assert_eq!((format, reads), (Ok(Some(Format::Kv)), vec![Read::Record(packet)]));
    }
}

#[test]
fn whole_messages_that_are_nothing() {
    refused(b"", Reason::Empty);
    refused(b" \r\n\t", Reason::Empty);
    refused(b"\xef\xbb\xbf", Reason::Empty);
    refused(b"\"\"", Reason::Empty);
    refused(b"[]", Reason::Empty);
    refused(b"hello", Reason::UnknownFormat);
    refused(b"\0", Reason::UnknownFormat);
    refused(b"12\x0034", Reason::UnknownFormat);
    refused(b"true", Reason::UnknownFormat);
    refused(b"{}", Reason::UnknownFormat);
    refused(br#"{"time":1,"bytes":2}"#, Reason::UnknownFormat);
    refused(br#"{"event_type":"alert","src_ip":"10.0.0.1"}"#, Reason::UnknownFormat);
    refused(
        br#"{"payload":{"payload":"1 0.1 10.0.0.1 -> 10.0.0.2 TCP 66"}}"#,
        Reason::UnknownFormat,
    );
    refused(br#"{"payload":true}"#, Reason::UnknownFormat);
    refused(b"[[{}]]", Reason::UnknownFormat);
    refused(b"[1]", Reason::UnknownFormat);
    refused(b"\xc3\x28", Reason::NotUtf8);
    refused(b"\xff", Reason::NotUtf8);
    refused(b"\xffFM", Reason::NotUtf8);
    refused(b"{", Reason::Json);
    refused(b"[", Reason::Json);
    refused(b"\"", Reason::Json);
    refused(br#""\ud800""#, Reason::Json);
    refused(br#"{"payload":"\ud800"}"#, Reason::Json);
    refused(br#"{"a":1e}"#, Reason::Json);
    refused(br#"{"src_addr":"10.0.0.1","ip_src":"10.0.0.1"}"#, Reason::Ambiguous);
    refused(br#"{"source":"a","destination":"b","payload":"c"}"#, Reason::Ambiguous);
}

#[test]
fn message_without_a_value_is_a_tombstone_and_not_an_error() {
    let skipped = vec![Read::Skipped(Skip::Tombstone)];
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
        let told = read(&Decoder::default(), key, payload.as_bytes());
        assert_eq!(told, (Ok(None), skipped.clone()), "{payload}");
    }
    // It costs the others in its message nothing.
    let own = r#"{"source":"10.0.0.1","destination":"10.0.0.2","bytes":66,"packets":1}"#;
    let (format, reads) =
        read(&Decoder::default(), None, format!("{{\"payload\":null}}\n{own}").as_bytes());
    assert_eq!((format, reads.len()), (Ok(Some(Format::Json)), 2));
    // A value of no bytes is one that somebody wrote.
    refused(b"", Reason::Empty);
}

/// The records of one message are bounded in every format, and the rest of them is refused.
#[test]
fn message_of_too_many_records_counts_the_first_ones_and_is_refused() {
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
        let (told, reads) = read(&Decoder::default(), None, &payload);
        assert_eq!((told, reads.len()), (Ok(Some(format)), RECORDS_MAX));
    }
    for payload in [packed(records + 1), lines(records + 5)] {
        let (told, reads) = read(&Decoder::default(), None, &payload);
        assert_eq!((told, reads.len()), (Err(Reason::TooManyRecords), RECORDS_MAX));
    }
}
