//! Arbitrary bytes: every message gets a result in bounded time, and a fault in one part leaves the others
//! alone.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// One message of every format, as the other tests have them.
fn samples() -> Vec<Vec<u8>> {
    let mut packer = Packer::new();
    packer.push(&record(1, "10.0.0.1", "10.0.0.2", 66, 1)).expect("a volume");
    packer.push(&record(2, "2001:db8::1", "2001:db8::2", 1500, 2)).expect("a volume");
    let mut samples = vec![packer.take().expect("records").payload, b"1500".to_vec()];
    let texts = [
        r#"{"time":"2023-11-14T22:13:20.123Z","source":"10.0.0.1","destination":"10.0.0.2","bytes":1500,"packets":3}"#,
        r#"{"event_type":"purge","ip_src":"10.0.0.1","ip_dst":"10.0.0.2","sampling_rate":10,"timestamp_end":"2018-03-26 05:40:36.992000","packets":2,"bytes":193}"#,
        r#"{"sampling_rate":0,"time_flow_end_ns":1767324720123456789,"bytes":143,"packets":1,"src_addr":"::1","dst_addr":"::2"}"#,
        r#"{"TimeReceived":1720000000,"SamplingRate":1000,"SrcAddr":"::ffff:10.0.0.1","DstAddr":"::ffff:10.0.0.2","Bytes":6765,"Packets":4}"#,
        r#"[{"last":"2024-01-02T03:04:06.789","in_packets":12,"in_bytes":3456,"src4_addr":"10.0.0.1","dst4_addr":"10.0.0.2"}]"#,
        "  12 2025-08-06 11:32:10.79 10.0.0.1 → 10.0.0.2 TCP 66 36330 → 80\n13 0.1 ::1 -> ::2 TCP 9",
        r#"[{"_source":{"layers":{"frame":{"frame.time_epoch":"1.5","frame.len":"80"},"ip":{"ip.src":"10.0.0.1","ip.dst":"10.0.0.2","ip.len":"66"}}}}]"#,
        r#"{"timestamp":"1754479930790","layers":{"ipv6":[{"ipv6_ipv6_src":["::1","::3"],"ipv6_ipv6_dst":"::2","ipv6_ipv6_plen":"26"}]}}"#,
        r#"{"schema":{"type":"string"},"payload":"{\"source\":\"10.0.0.1\",\"destination\":\"10.0.0.2\",\"bytes\":1,\"packets\":1}"}"#,
        r#""1 0.1 10.0.0.1 \u2192 10.0.0.2 TCP 66""#,
    ];
    samples.extend(texts.iter().map(|text| text.as_bytes().to_vec()));
    samples
}

/// Reads a message, with and without chosen fields, and checks the invariants of the result.
fn check_any(payload: &[u8]) -> Vec<Observation> {
    let (format, reads) = read(&Decoder::default(), Some(b"10.0.0.1 10.0.0.2"), payload);
    let mut packer = Packer::new();
    for read in &reads {
        if let Some(record) = read.record() {
            packer.push(&record).expect("what was read can be packed");
        }
    }
    assert!(format.is_err() || !reads.is_empty() || payload.starts_with(b"\xffFMR"));
    let fields: Fields = "bytes,ip_src,source,_source".parse().expect("fields");
    let message = Message {
        key: Some(b"10.0.0.1 10.0.0.2"),
        payload: Some(payload),
        timestamp_ms: Some(BROKER_MS),
    };
    let mut again = 0;
    let projected = fields.project(&Decoder::default(), &message, &mut |read, object| {
        // None of the fields may be left.
        again += usize::from(read.record().is_some() || lacks_chosen_fields(&read));
        assert!(object.is_empty() || serde_json::from_slice::<serde_json::Value>(object).is_ok());
    });
    // The number of parts that broken JSON falls into may differ, but no record may be lost.
    let records = reads.iter().filter(|read| read.record().is_some()).count();
    assert_eq!((projected.ok(), again), (format.ok(), records));
    reads
}

/// Whether a record has none of the chosen fields.
fn lacks_chosen_fields(read: &Observation) -> bool {
    matches!(read, Observation::Bad(RecordError::MissingField { field }) if field.starts_with("any of"))
}

#[test]
fn sample_of_every_format_is_read_as_records() {
    for sample in samples() {
        let reads = check_any(&sample);
        let sound = reads.iter().all(|read| matches!(read, Observation::Record(_)));
        assert!(sound && !reads.is_empty(), "{}: {reads:?}", String::from_utf8_lossy(&sample));
    }
}

#[test]
fn message_cut_at_any_byte_is_read_or_rejected() {
    for sample in samples() {
        for end in 0..sample.len() {
            check_any(&sample[..end]);
            check_any(&sample[end..]);
        }
    }
}

/// The time for a message of a megabyte is bounded for any content.
#[test]
fn message_of_a_mebibyte_is_read_in_bounded_time() {
    const SIZE: usize = 1 << 20;
    let own = r#"{"source":"10.0.0.1","destination":"10.0.0.2","bytes":66,"packets":1}"#;
    let digits = "9".repeat(SIZE);
    let fill = |unit: &str| unit.repeat(SIZE / unit.len());
    let deep = |open: &str| format!("{}{own}", fill(open));
    for (name, payload) in [
        ("arrays", deep("[")),
        ("objects", deep("{\"a\":")),
        ("arrays on lines", fill("[\n")),
        ("objects on lines", fill("{\n")),
        ("halves on lines", fill("{\"a\":[\n")),
        ("payloads", deep("{\"payload\":")),
        ("quotes", fill("\"")),
        ("escapes", format!("\"{}\"", fill("\\u0022"))),
        ("lines", fill("\n")),
        ("empty objects", fill("{}")),
        ("empty objects on lines", fill("{}\n")),
        ("numbers in an array", format!("[{}0]", fill("0,"))),
        ("trailing digits", format!("{own}\n{digits}")),
        ("a long number", digits.clone()),
        ("a long amount", own.replace("66", &digits)),
        ("a long fraction", own.replace("66", &format!("66.{digits}"))),
        ("a long exponent", own.replace("66", &format!("66e{digits}"))),
        ("a long negative exponent", own.replace("66", &format!("66e-{digits}"))),
        ("a long address", own.replace("10.0.0.1", &digits)),
        ("a long time", own.replace("\"source\"", &format!("\"time\":{digits},\"source\""))),
        ("arrows", fill("→ ")),
        ("arrows on lines", fill("a → b\n")),
        ("zeros", "\0".repeat(SIZE)),
        ("deep layers", format!("{{\"layers\":{{\"ip\":{}}}}}", deep("["))),
    ] {
        let begin = Instant::now();
        check_any(payload.as_bytes());
        // Takes a few milliseconds; quadratic work would take minutes.
        assert!(begin.elapsed() < Duration::from_secs(20), "{name}");
    }
    check_any(&vec![0xff; SIZE]);
}

#[test]
fn deeply_nested_value_does_not_affect_other_values() {
    let own = r#"{"source":"10.0.0.1","destination":"10.0.0.2","bytes":66,"packets":1}"#;
    let good = Observation::Record(record(BROKER_MS, "10.0.0.1", "10.0.0.2", 66, 1));
    let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    // A value that no format needs may be nested to any depth.
    let tagged = own.replace("{\"source", &format!("{{\"tags\":{},\"source", deep(10_000)));
    assert_eq!(check_any(tagged.as_bytes()), [good]);
    let next = format!("{}\n{own}", deep(10_000));
    assert_eq!(check_any(next.as_bytes()), [Observation::Bad(RecordError::UnknownFormat), good]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_rejected(payload: Vec<u8>) {
        check_any(&payload);
    }

    #[test]
    fn any_text_is_read_or_rejected(payload in "[\\[\\]{}\":,0-9e.→>\\-\n a]{0,60}") {
        check_any(payload.as_bytes());
    }

    /// A failure prints its seed, which is stored in `proptest-regressions`.
    #[test]
    fn mutated_message_is_read_or_rejected(
        sample in prop::sample::select(samples()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..8),
    ) {
        let mut payload = sample;
        for (index, byte, kind) in changes {
            if payload.is_empty() {
                break;
            }
            let at = index.index(payload.len());
            match kind {
                0 => payload[at] = byte,
                1 => payload.insert(at, byte),
                2 => drop(payload.remove(at)),
                _ => payload.extend_from_within(at..),
            }
        }
        check_any(&payload);
    }
}
