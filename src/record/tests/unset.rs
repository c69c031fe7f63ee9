//! Fields that writers omit or fill with a placeholder: unset times, unknown numbers of packets, unions of Avro.

use super::*;

/// A flow of each tool, with `…` in the place of its numbers of bytes and packets, and the bytes of 2557 after
/// sampling.
const FLOWS: [(&str, Format, &str, i64); 6] = [
    (
        r#"{"event_type":"purge","ip_src":"192.0.2.1","ip_dst":"192.0.2.2","sampling_rate":10,"timestamp_end":"1714548388.123000",…}"#,
        Format::Pmacct,
        "bytes packets",
        25_570,
    ),
    (
        r#"{"type":"NETFLOW_V9","time_flow_end_ns":1714548388123000000,"sampling_rate":10,"src_addr":"192.0.2.1","dst_addr":"192.0.2.2",…}"#,
        Format::Goflow2,
        "bytes packets",
        25_570,
    ),
    (
        r#"{"TimeFlowEndMs":1714548388123,"SamplingRate":10,"SrcAddr":"192.0.2.1","DstAddr":"192.0.2.2",…}"#,
        Format::Goflow2,
        "Bytes Packets",
        25_570,
    ),
    (
        r#"{"TimeReceived":1714548388.123,"SamplingRate":10,"SrcAddr":"::ffff:192.0.2.1","DstAddr":"::ffff:192.0.2.2",…}"#,
        Format::Akvorado,
        "Bytes Packets",
        25_570,
    ),
    (
        r#"{"type":"EVENT","first":"2024-05-01T07:25:25.994","last":"2024-05-01T07:26:28.123","src4_addr":"192.0.2.1","dst4_addr":"192.0.2.2","event":"UPDATE",…}"#,
        Format::Nfdump,
        "in_bytes in_packets",
        2_557,
    ),
    (
        r#"{"time":1714548388123,"source":"192.0.2.1","destination":"192.0.2.2",…}"#,
        Format::Json,
        "bytes packets",
        2_557,
    ),
];

/// Returns a flow with these JSON values, or without the field.
fn flow(flow: &str, names: &str, bytes: Option<&str>, packets: Option<&str>) -> String {
    let members: Vec<String> = names
        .split(' ')
        .zip([bytes, packets])
        .filter_map(|(name, value)| Some(format!("\"{name}\":{}", value?)))
        .collect();
    flow.replace('…', &members.join(",")).replace(",}", "}")
}

fn at(ms: u64, bytes: i64, packets: i64) -> Record {
    record(ms, "192.0.2.1", "192.0.2.2", bytes, packets)
}

#[test]
fn flow_with_bytes_and_without_packets_is_one_packet() {
    for (text, format, names, bytes) in FLOWS {
        for packets in [None, Some("0"), Some("\"0\""), Some("0.0"), Some("null"), Some("\"\"")] {
            let text = flow(text, names, Some("2557"), packets);
            // Bytes are multiplied by the rate of sampling; the one packet is a lower bound.
            let expected = at(1_714_548_388_123, bytes, 1);
            check(&text, format, &[Observation::WithoutPackets(expected)]);
        }
    }
}

#[test]
fn flow_of_no_bytes_and_no_packets_is_skipped() {
    for (text, format, names, _) in FLOWS {
        for packets in [None, Some("0"), Some("null"), Some("\"-\"")] {
            let text = flow(text, names, Some("0"), packets);
            check(&text, format, &[Observation::Skipped(Skip::NoTraffic)]);
        }
    }
}

#[test]
fn flow_without_bytes_is_rejected() {
    for (text, format, names, _) in FLOWS {
        let field = if names.starts_with("in_") { "in_bytes" } else { &names[..5] };
        for (bytes, packets) in [(None, Some("3")), (Some("null"), Some("3")), (None, None)] {
            let text = flow(text, names, bytes, packets);
            let (found, reads) = read(&Decoder::default(), None, text.as_bytes());
            assert_eq!(found, Ok(Some(format)));
            let [Observation::Bad(RecordError::MissingField { field: named })] = reads[..] else {
                panic!("{text}: {reads:?}");
            };
            assert_eq!(named, field);
        }
        // Packets with 0 bytes are a record.
        check(
            &flow(text, names, Some("0"), Some("3")),
            format,
            &[Observation::Record(at(
                1_714_548_388_123,
                0,
                if names.starts_with("in_") || format == Format::Json { 3 } else { 30 },
            ))],
        );
    }
}

/// The name of a time field, an unset value, and a set one.
type Named = (&'static str, &'static str, &'static str);

/// The time fields of a flow, in the order of reading.
const TIMES: [(&str, Format, &[Named]); 5] = [
    (
        r#"{"ip_src":"192.0.2.1","ip_dst":"192.0.2.2","packets":1,"bytes":712,…}"#,
        Format::Pmacct,
        &[
            ("timestamp_end", "\"0000-00-00 00:00:00.000000\"", "\"2024-07-12 10:44:01.000000\""),
            ("timestamp_max", "\"0000-00-00T00:00:00.000000Z\"", "\"2024-07-12T10:44:01Z\""),
            ("timestamp_arrival", "\"0000-00-00T00:00:00.000000+00:00\"", "1720781041"),
            ("timestamp_start", "\"0.000000\"", "\"1720781041.000000\""),
            ("timestamp_min", "\"1970-01-01 02:00:00\"", "\"2024-07-12 12:44:01+02\""),
            ("stamp_inserted", "\"0000-00-00 00:00:00\"", "\"2024-07-12 12:44:01 +0200\""),
        ],
    ),
    (
        r#"{"src_addr":"192.0.2.1","dst_addr":"192.0.2.2","packets":1,"bytes":712,…}"#,
        Format::Goflow2,
        &[
            ("time_flow_end_ns", "0", "1720781041000000000"),
            ("time_received_ns", "11651379494838206464", "\"1720781041000000000\""),
            ("time_flow_start_ns", "\"0001-01-01T00:00:00Z\"", "\"2024-07-12T10:44:01Z\""),
        ],
    ),
    (
        r#"{"SrcAddr":"192.0.2.1","DstAddr":"192.0.2.2","SamplerAddress":"192.0.2.9","Packets":1,"Bytes":712,…}"#,
        Format::Goflow2,
        &[
            ("TimeFlowEndMs", "0", "1720781041000"),
            ("TimeFlowEnd", "0", "1720781041"),
            ("TimeReceived", "4294967295", "1720781041"),
            ("TimeFlowStartMs", "null", "1720781041000"),
            ("TimeFlowStart", "\"N/A\"", "1720781041"),
        ],
    ),
    (
        r#"{"SrcAddr":"::ffff:192.0.2.1","DstAddr":"::ffff:192.0.2.2","Packets":1,"Bytes":712,…}"#,
        Format::Akvorado,
        &[("TimeReceived", "0", "1720781041")],
    ),
    (
        r#"{"src4_addr":"192.0.2.1","dst4_addr":"192.0.2.2","in_packets":1,"in_bytes":712,…}"#,
        Format::Nfdump,
        &[
            ("last", "\"1970-01-01T00:00:00.000\"", "\"2024-07-12T10:44:01.000\""),
            ("received", "\"1970-01-01T01:00:00.000\"", "\"2024-07-12T10:44:01.000\""),
            ("first", "\"\"", "\"2024-07-12T10:44:01.000\""),
        ],
    ),
];

#[test]
fn unset_time_is_replaced_by_the_next_one() {
    for (text, format, times) in TIMES {
        // The first `set` times are unset; if all are, the time of the message counts.
        for set in 0..=times.len() {
            let members = times.iter().enumerate().map(|(at, (name, unset, time))| {
                format!("\"{name}\":{}", if at < set { unset } else { time })
            });
            let text = text.replace('…', &members.collect::<Vec<_>>().join(","));
            let ms = if set == times.len() { BROKER_MS } else { 1_720_781_041_000 };
            check(&text, format, &[Observation::Record(at(ms, 712, 1))]);
        }
    }
}

#[test]
fn invalid_time_is_rejected_with_field_and_value() {
    for (text, format, times) in TIMES {
        let (first, ..) = times[0];
        let text = text.replace('…', &format!("\"{first}\":\"12:44 \\u001b[31m\\u202e\""));
        let (found, reads) = read(&Decoder::default(), None, text.as_bytes());
        assert_eq!(found, Ok(Some(format)));
        let [Observation::Bad(reason)] = reads[..] else { panic!("{reads:?}") };
        assert_eq!(
            reason.to_string(),
            format!(
                r#"the time "12:44 \u{{1b}}[31m\u{{202e}}" of the field "{first}" is neither a number nor a date and time"#
            )
        );
        assert_eq!(reason.as_str(), "bad_time");
    }
}

#[test]
fn avro_json_record_is_read_as_without_unions() {
    let union = |name: &str, value: &str| format!("{{\"{name}\":{value}}}");
    let members = |wrap: &dyn Fn(&str, &str) -> String| {
        format!(
            r#"{{"event_type":{},"ip_src":{},"ip_dst":{},"sampling_rate":{},"timestamp_start":{},"timestamp_end":{},"timestamp_arrival":{},"packets":{},"bytes":{},"label":{}}}"#,
            wrap("string", "\"purge\""),
            wrap("string", "\"192.0.2.1\""),
            wrap("string", "\"192.0.2.2\""),
            wrap("long", "10"),
            wrap("string", "\"2024-07-12 10:44:00.142331\""),
            wrap("null", "null"),
            wrap("string", "\"2024-07-12T12:44:01+0200\""),
            wrap("long", "2"),
            wrap("double", "71.0"),
            wrap("map", "{\"string\":\"x\"}"),
        )
    };
    let expected = [Observation::Record(at(1_720_781_041_000, 710, 20))];
    check(&members(&|_, value| value.to_owned()), Format::Pmacct, &expected);
    check(&members(&union), Format::Pmacct, &expected);
    // Named and logical types, and a union within one.
    let logical = |name: &str, value: &str| union(&format!("{name}.logical"), value);
    check(&members(&logical), Format::Pmacct, &expected);
    check(&members(&|name, value| union(name, &union(name, value))), Format::Pmacct, &expected);
    let mark = r#"{"event_type":{"string":"purge_init"},"writer_id":{"string":"default_kafka/1"}}"#;
    check(mark, Format::Pmacct, &[Observation::Skipped(Skip::Purge)]);
    // An object that is no union is no number.
    for value in ["{}", "{\"long\":2,\"int\":2}", "{\"count\":2}", "{\"long\":[2]}"] {
        let text = members(&union).replace("{\"long\":2}", value);
        check(
            &text,
            Format::Pmacct,
            &[Observation::Bad(RecordError::BadNumber { field: "packets" })],
        );
    }
    let other = r#"{"src_addr":{"string":"192.0.2.1"},"dst_addr":{"bytes":"192.0.2.2"},"bytes":{"int":7},"packets":{"null":null},"time_flow_end_ns":{"long":1720781041000000000}}"#;
    check(other, Format::Goflow2, &[Observation::WithoutPackets(at(1_720_781_041_000, 7, 1))]);
}
