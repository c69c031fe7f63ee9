//! Flow records, as each tool writes them. Shapes and field names are from the documents and sources of
//! the tools: pmacct (CONFIG-KEYS, `plugin_cmn_json.c`), goflow2 (`docs/protocols.md`), akvorado
//! (`common/schema/definition.go`), nfdump (`src/output/output_json.c` and `output_ndjson.c`, and
//! `bin/output_json.c` of 1.6). The values are made up.

use jiff::tz::TimeZone;

use super::*;

const PMACCT: &str = r#"{"event_type": "purge", "as_src": 64496, "as_dst": 64511, "peer_ip_src": "192.0.2.1", "iface_in": 654, "ip_src": "198.51.100.7", "net_src": "198.51.100.0", "ip_dst": "203.0.113.9", "mask_src": 24, "port_src": 5242, "port_dst": 54764, "tcp_flags": "0", "ip_proto": "udp", "tos": 0, "sampling_rate": 1000, "timestamp_start": "2018-03-26 05:39:58.592000", "timestamp_end": "2018-03-26 05:40:36.992000", "timestamp_arrival": "2018-03-26 05:40:59.288540", "stamp_inserted": "2018-03-26 05:39:00", "stamp_updated": "2018-03-26 05:41:01", "packets": 2, "bytes": 193, "writer_id": "default_kafka/24194"}"#;

const GOFLOW2: &str = r#"{"type":"IPFIX","time_received_ns":1767324720787460121,"sequence_num":65361,"sampling_rate":0,"sampler_address":"192.0.2.1","time_flow_start_ns":1767324719000000000,"time_flow_end_ns":1767324720123456789,"bytes":143,"packets":1,"src_addr":"2001:db8:89::2","dst_addr":"2001:db8:88::30","etype":"IPv6","proto":"UDP","src_port":53,"dst_port":55743,"in_if":11,"next_hop":"::","src_net":"::/0","as_path":[],"mpls_label":[],"layer_stack":["IPv6"]}"#;

const GOFLOW2_V1: &str = r#"{"Type":"SFLOW_5","TimeReceived":1621820000,"SequenceNum":2999,"SamplingRate":256,"SamplerAddress":"192.0.2.1","TimeFlowStart":1621820000,"TimeFlowEnd":1621820001,"Bytes":1500,"Packets":1,"SrcAddr":"198.51.100.7","DstAddr":"203.0.113.9","Etype":2048,"Proto":6,"SrcPort":443,"DstPort":50001}"#;

const AKVORADO: &str = r#"{"TimeReceived":1720000000,"SamplingRate":1000,"ExporterAddress":"::ffff:192.0.2.142","InIf":434,"OutIf":677,"SrcAddr":"::ffff:198.51.100.7","DstAddr":"::ffff:203.0.113.9","EType":2048,"Proto":6,"Bytes":6765,"Packets":4,"SrcPort":8534,"DstPort":80}"#;

const NFDUMP: &str = r#"{
	"type" : "FLOW",
	"sampled" : 1,
	"export_sysid" : 1,
	"first" : "2024-01-02T03:04:05.006",
	"last" : "2024-01-02T03:04:06.789",
	"received" : "2024-01-02T03:04:07.001",
	"in_packets" : 12,
	"in_bytes" : 3456,
	"proto" : 6,
	"tcp_flags" : "...AP.SF",
	"src_port" : 49152,
	"dst_port" : 443,
	"src4_addr" : "198.51.100.7",
	"dst4_addr" : "203.0.113.9",
	"src_geo" : "..",
	"label" : "<none>"
}"#;

const NFDUMP_V1: &str = r#"{
	"type" : "FLOW",
	"sampled" : 0,
	"t_first" : "2024-01-02T03:04:05.6",
	"t_last" : "2024-01-02T03:04:06.7",
	"proto" : 58,
	"src6_addr" : "2001:db8::1",
	"dst6_addr" : "2001:db8::2",
	"in_packets" : 1,
	"in_bytes" : 104
}"#;

/// Replaces the first occurrence of a text in a message.
#[track_caller]
fn replaced(message: &str, from: &str, to: &str) -> String {
    assert!(message.contains(from), "{from} in {message}");
    message.replacen(from, to, 1)
}

#[track_caller]
fn check_bad(payload: &str, format: Format, reason: RecordError) {
    check(payload, format, &[Observation::Bad(reason)]);
}

const fn missing(field: &'static str) -> RecordError {
    RecordError::MissingField { field }
}

#[test]
fn pmacct_record_is_read_with_its_first_present_time() {
    let at = |time_ms| {
        Observation::Record(record(time_ms, "198.51.100.7", "203.0.113.9", 193_000, 2_000))
    };
    let end = 1_522_042_836_992;
    check(PMACCT, Format::Pmacct, &[at(end)]);
    for time in ["1522042836.992", "\"1522042836.992000\"", "\"2018-03-26T07:40:36.992000+02:00\""]
    {
        let other = replaced(PMACCT, r#""2018-03-26 05:40:36.992000""#, time);
        check(&other, Format::Pmacct, &[at(end)]);
    }
    // Without an end the arrival, then the start, then the interval, then the message.
    let arrival = replaced(PMACCT, "2018-03-26 05:40:36.992000", "1970-01-01 01:00:00.000000");
    check(&arrival, Format::Pmacct, &[at(1_522_042_859_288)]);
    let arrival = replaced(PMACCT, r#""2018-03-26 05:40:36.992000""#, "\"0.000000\"");
    check(&arrival, Format::Pmacct, &[at(1_522_042_859_288)]);
    let start = replaced(&arrival, r#""2018-03-26 05:40:59.288540""#, "null");
    check(&start, Format::Pmacct, &[at(1_522_042_798_592)]);
    let interval = replaced(&start, r#""2018-03-26 05:39:58.592000""#, "\"\"");
    check(&interval, Format::Pmacct, &[at(1_522_042_740_000)]);
    let none = replaced(&interval, "stamp_inserted", "stamp_no_more");
    check(&none, Format::Pmacct, &[at(BROKER_MS)]);
    let marks = concat!(
        r#"{"event_type": "purge_init", "writer_id": "default_kafka/1"}"#,
        "\n",
        r#"{"event_type": "purge_close", "writer_id": "default_kafka/1", "purged_entries": 1, "total_entries": 1, "duration": 0}"#,
    );
    check(marks, Format::Pmacct, &[Observation::Skipped(Skip::Purge); 2]);
}

#[test]
fn invalid_pmacct_record_is_rejected_by_field() {
    let format = Format::Pmacct;
    check_bad(
        r#"{"event_type":"purge","as_src":1,"packets":1,"bytes":1}"#,
        format,
        missing("ip_src"),
    );
    check_bad(&replaced(PMACCT, "ip_dst", "no_dst"), format, missing("ip_dst"));
    check_bad(&replaced(PMACCT, "\"bytes\"", "\"octets\""), format, missing("bytes"));
    let destination = |text: &str| replaced(PMACCT, "203.0.113.9", text);
    check_bad(&destination("2001:db8::1"), format, RecordError::MixedFamily);
    for text in ["203.0.113", "203.0.113.9/32", "server", "203.0.113.09", "", " 203.0.113.9"] {
        check_bad(&destination(text), format, RecordError::BadAddress { field: "ip_dst" });
    }
    check_bad(
        &replaced(PMACCT, "\"203.0.113.9\"", "3405803785"),
        format,
        RecordError::BadAddress { field: "ip_dst" },
    );
    let bytes = |text: &str| replaced(PMACCT, "193,", text);
    for text in ["-193,", "193.5,", "\"many\",", "[193],", "{},", "true,"] {
        check_bad(&bytes(text), format, RecordError::BadNumber { field: "bytes" });
    }
    for text in ["null,", "\"\",", "\"-\",", "\"N/A\","] {
        check_bad(&bytes(text), format, missing("bytes"));
    }
    // The product of bytes and sampling rate is too large.
    check_bad(&bytes("1099511628,"), format, RecordError::TooLarge);
    check_bad(&bytes("18446744073709551615,"), format, RecordError::TooLarge);
    check_bad(&bytes("1e400,"), format, RecordError::TooLarge);
    for text in ["-2", "0.5", "\"few\""] {
        let packets = replaced(PMACCT, r#""packets": 2"#, &format!("\"packets\": {text}"));
        check_bad(&packets, format, RecordError::BadNumber { field: "packets" });
    }
    check_bad(
        &replaced(PMACCT, "1000", "-1000"),
        format,
        RecordError::BadNumber { field: "sampling_rate" },
    );
    for (time, fault) in [
        ("2018-03-26 05:40", TimeFault::Unreadable),
        ("yesterday", TimeFault::Unreadable),
        ("2018-02-30 05:40:36", TimeFault::Unreadable),
        ("1960-01-01 00:00:00", TimeFault::OutOfRange),
    ] {
        let reason = RecordError::bad_time("timestamp_end", time, fault);
        check_bad(&replaced(PMACCT, "2018-03-26 05:40:36.992000", time), format, reason);
    }
    let repeated = replaced(PMACCT, r#""tos": 0"#, r#""bytes": 7"#);
    check_bad(&repeated, format, RecordError::RepeatedField { field: "bytes" });
}

#[test]
fn number_in_quotes_is_read_as_a_number() {
    let expected =
        [Observation::Record(record(1_522_042_836_992, "198.51.100.7", "203.0.113.9", 500, 5))];
    for (bytes, packets, rate) in [
        ("500", "5", "1"),
        ("\"500\"", "\"5\"", "\"1\""),
        ("5e2", "5.0", "0"),
        ("\"5.0E+2\"", "50e-1", "null"),
        ("100", "1", "5"),
        ("\"0100\"", "\"1\"", "5"),
        ("500", "5", "\"\""),
    ] {
        let message = replaced(PMACCT, "193,", &format!("{bytes},"));
        let message = replaced(&message, r#""packets": 2"#, &format!(r#""packets": {packets}"#));
        let message = replaced(&message, "1000", rate);
        check(&message, Format::Pmacct, &expected);
    }
}

#[test]
fn time_without_a_zone_is_read_in_the_zone_of_the_option() {
    let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
    let decoder = Decoder::new(Options { input_timezone: berlin });
    let end = 1_522_042_836_992 - 7_200_000;
    let expected =
        [Observation::Record(record(end, "198.51.100.7", "203.0.113.9", 193_000, 2_000))];
    check_with(&decoder, None, PMACCT, Format::Pmacct, &expected);
    // 0 in local time is an unset time, too.
    let zero = replaced(PMACCT, "2018-03-26 05:40:36.992000", "1970-01-01 01:00:00");
    let arrival = 1_522_042_859_288 - 7_200_000;
    let expected =
        [Observation::Record(record(arrival, "198.51.100.7", "203.0.113.9", 193_000, 2_000))];
    check_with(&decoder, None, &zero, Format::Pmacct, &expected);
}

#[test]
fn goflow2_record_is_read_with_its_first_present_time() {
    let flow = |time_ms, rate: i64| {
        Observation::Record(record(time_ms, "2001:db8:89::2", "2001:db8:88::30", 143 * rate, rate))
    };
    check(GOFLOW2, Format::Goflow2, &[flow(1_767_324_720_123, 1)]);
    let sampled = replaced(GOFLOW2, r#""sampling_rate":0"#, r#""sampling_rate":100"#);
    check(&sampled, Format::Goflow2, &[flow(1_767_324_720_123, 100)]);
    let no_end = replaced(GOFLOW2, "1767324720123456789", "0");
    check(&no_end, Format::Goflow2, &[flow(1_767_324_720_787, 1)]);
    let text = replaced(&no_end, "1767324720787460121", "\"2026-01-02T03:32:00.787460121Z\"");
    check(&text, Format::Goflow2, &[flow(1_767_324_720_787, 1)]);
    let seconds = replaced(&no_end, "\"time_flow_end_ns\":0", "\"time_flow_end\":1767324720");
    check(&seconds, Format::Goflow2, &[flow(1_767_324_720_000, 1)]);
    let v1 = record(1_621_820_001_000, "198.51.100.7", "203.0.113.9", 1500 * 256, 256);
    check(GOFLOW2_V1, Format::Goflow2, &[Observation::Record(v1)]);
    // A flow without IP.
    for none in ["\"\"", "\"<nil>\"", "null"] {
        let arp = replaced(GOFLOW2, "\"2001:db8:89::2\"", none);
        let arp = replaced(&arp, "\"2001:db8:88::30\"", none);
        check(&arp, Format::Goflow2, &[Observation::Skipped(Skip::NotIp)]);
    }
    let half = replaced(GOFLOW2, "\"2001:db8:89::2\"", "\"\"");
    check_bad(&half, Format::Goflow2, RecordError::BadAddress { field: "src_addr" });
    check_bad(&replaced(GOFLOW2, "dst_addr", "no_addr"), Format::Goflow2, missing("dst_addr"));
    // 64 bits of nanoseconds from a writer with a negative clock.
    let negative = replaced(GOFLOW2, "1767324720123456789", "-1767324720123456789");
    let fault = TimeFault::OutOfRange;
    let reason = RecordError::bad_time("time_flow_end_ns", "-1767324720123456789", fault);
    check_bad(&negative, Format::Goflow2, reason);
}

#[test]
fn akvorado_record_is_read_with_mapped_addresses_as_ipv4() {
    let v4 = record(1_720_000_000_000, "198.51.100.7", "203.0.113.9", 6_765_000, 4_000);
    check(AKVORADO, Format::Akvorado, &[Observation::Record(v4)]);
    let plain = AKVORADO.replace("::ffff:", "");
    check(&plain, Format::Akvorado, &[Observation::Record(v4)]);
    let text = replaced(AKVORADO, "1720000000", "\"2024-07-03 09:46:40\"");
    check(&text, Format::Akvorado, &[Observation::Record(v4)]);
    let v6 = AKVORADO.replace("::ffff:198.51.100.7", "2001:db8::1");
    check_bad(&v6, Format::Akvorado, RecordError::MixedFamily);
    let v6 = v6.replace("::ffff:203.0.113.9", "2001:db8::2");
    let expected = record(1_720_000_000_000, "2001:db8::1", "2001:db8::2", 6_765_000, 4_000);
    check(&v6, Format::Akvorado, &[Observation::Record(expected)]);
    check_bad(&replaced(AKVORADO, "\"Bytes\"", "\"bytes\""), Format::Akvorado, missing("Bytes"));
}

#[test]
fn nfdump_record_is_read_with_its_first_present_time() {
    let flow =
        |time_ms| Observation::Record(record(time_ms, "198.51.100.7", "203.0.113.9", 3456, 12));
    check(NFDUMP, Format::Nfdump, &[flow(1_704_164_646_789)]);
    let arrival = replaced(NFDUMP, "2024-01-02T03:04:06.789", "1970-01-01T00:00:00.000");
    check(&arrival, Format::Nfdump, &[flow(1_704_164_647_001)]);
    let v1 = Observation::Record(record(1_704_164_646_700, "2001:db8::1", "2001:db8::2", 104, 1));
    check(NFDUMP_V1, Format::Nfdump, &[v1]);
    // A file as nfdump writes it.
    let file = format!("[\n{NFDUMP},\n{NFDUMP_V1}\n]\n");
    check(&file, Format::Nfdump, &[flow(1_704_164_646_789), v1]);
    check_bad(&replaced(NFDUMP, "dst4_addr", "dst6_addr"), Format::Nfdump, missing("dst4_addr"));
}

#[test]
fn json_record_is_read_with_its_time_as_written() {
    let own = |time: &str| {
        format!(r#"{{{time}"source":"10.0.0.1","destination":"10.0.0.2","bytes":66,"packets":1}}"#)
    };
    let at = |time_ms| [Observation::Record(record(time_ms, "10.0.0.1", "10.0.0.2", 66, 1))];
    // Floodmark's own format has no unset times: a time at the start of 1970 is a time.
    for (time, time_ms) in [
        (r#""time":"1970-01-01T00:00:00.001Z","#, 1),
        (r#""time":1,"#, 1),
        (r#""time":"2023-11-14T23:13:20.123+01:00","#, 1_700_000_000_123),
        ("", BROKER_MS),
    ] {
        check(&own(time), Format::Json, &at(time_ms));
    }
    for (time, fault) in [
        ("-1", TimeFault::OutOfRange),
        ("\"1969-12-31T23:59:59.999Z\"", TimeFault::OutOfRange),
        ("\"\\u0000\"", TimeFault::Unreadable),
        ("18446744073709551616", TimeFault::OutOfRange),
        ("{}", TimeFault::Unreadable),
    ] {
        let reason = RecordError::bad_time("time", time, fault);
        check_bad(&own(&format!("\"time\":{time},")), Format::Json, reason);
    }
    check_bad(
        r#"{"source":"10.0.0.1","bytes":1,"packets":1}"#,
        Format::Json,
        missing("destination"),
    );
    check_bad(
        r#"{"destination":"10.0.0.1","bytes":1,"packets":1}"#,
        Format::Json,
        missing("source"),
    );
    // Escaped characters in names and values are equal to unescaped ones.
    let escaped = own("").replace("source", "sour\\u0063e").replace("10.0.0.1", "\\u00310.0.0.1");
    check(&escaped, Format::Json, &at(BROKER_MS));
}

#[test]
fn values_of_one_message_are_read_one_by_one() {
    let own = r#"{"source":"10.0.0.1","destination":"10.0.0.2","bytes":66,"packets":1}"#;
    let good = Observation::Record(record(BROKER_MS, "10.0.0.1", "10.0.0.2", 66, 1));
    let unknown = Observation::Bad(RecordError::UnknownFormat);
    let broken = Observation::Bad(RecordError::Json);
    for between in ["", "\n", "\r\n\r\n", " "] {
        check(&[own, own, own].join(between), Format::Json, &[good; 3]);
    }
    check(
        &format!("[{own},{{}},7,\"x\",[{own}],null,{own}]"),
        Format::Json,
        &[good, unknown, unknown, unknown, unknown, unknown, good],
    );
    check(&format!("{{}}\n{own}"), Format::Json, &[unknown, good]);
    check(&format!("{own}\n7"), Format::Json, &[good, unknown]);
    // A broken line does not affect the next one.
    let half = &own[..30];
    check(&format!("{half}\n{own}\n{half}\n\n{own}"), Format::Json, &[broken, good, broken, good]);
    check(&format!("{own} garbage\n{own}"), Format::Json, &[good, broken, good]);
    check(&format!("[{own},\n{half}\n{own}"), Format::Json, &[good, broken, good]);
    check(&format!("{own}\n{half}"), Format::Json, &[good, broken]);
    check(&format!("{own}\n→"), Format::Json, &[good, broken]);
    // Records of several tools in one message.
    let all = [own, PMACCT, GOFLOW2].join("\n");
    let (format, reads) = read(&Decoder::default(), None, all.as_bytes());
    assert_eq!(format, Ok(Some(Format::Json)));
    assert!(reads.len() == 3 && reads.iter().all(|read| matches!(read, Observation::Record(_))));
    // No value has a known format: the last error is that of the message.
    let (format, reads) = read(&Decoder::default(), None, b"{}\n{\n[1]\n}");
    assert_eq!(format, Err(RecordError::Json));
    assert_eq!(reads, [unknown, broken, unknown]);
}

#[test]
fn output_of_floodmark_is_rejected_by_name() {
    const TOTALS: &str = "totals of windows (--publish)";
    const CHANGES: &str = "changes of violations (--to)";
    let total = r#"{"window_start":"2026-01-01T00:00:00Z","window_end":"2026-01-01T00:05:00Z","source":"10.0.0.1","destination":"10.0.0.2","bytes":1500,"packets":3,"as_of":"2026-01-01T00:15:00Z"}"#;
    let change = r#"{"event":"raised","reason":"data","id":"472df33971ce147b9b73c1ad6baed8a6","limit_name":"max","limit_value":1000000,"effective_date":"2026-01-01T00:00:00Z","bound":"max","metric":"bytes","per":"pair","entity":{"source":"10.0.0.92","destination":"172.16.0.157"},"window_start":"2026-01-01T00:00:00Z","window_end":"2026-01-01T00:05:00Z","bytes":1003502,"packets":1563,"amount":1003502,"settled":false,"as_of":"2026-01-01T00:00:47Z"}"#;
    let ranked = r#"{"top":1,"window_start":"2026-01-01T00:00:00Z","entity":{"source":"10.0.0.1"},"bytes":1,"packets":1}"#;
    for (payload, kind) in [(total, TOTALS), (change, CHANGES), (ranked, "rankings (--top)")] {
        let schema = r#"{"type":"string","optional":false}"#;
        let enveloped = format!(r#"{{"schema":{schema},"payload":{payload}}}"#);
        for payload in [payload.to_owned(), enveloped, format!("[{payload}]")] {
            check_rejected(payload.as_bytes(), RecordError::OwnOutput { kind });
        }
    }
    // Among several lines, the records are read.
    let own = r#"{"time":1000,"source":"10.0.0.1","destination":"10.0.0.2","bytes":5,"packets":1}"#;
    let expected = [
        Observation::Bad(RecordError::OwnOutput { kind: TOTALS }),
        Observation::Record(record(1000, "10.0.0.1", "10.0.0.2", 5, 1)),
    ];
    let lines = format!("{total}\n{own}");
    assert_eq!(read(&Decoder::default(), None, lines.as_bytes()).1, expected);
    // Other tools may use one of the names: only all marks together make an output of floodmark.
    for more in [
        r#""window_start":"2026-01-01T00:00:00Z""#,
        r#""window_start":1,"window_end":2"#,
        r#""top":1"#,
        r#""as_of":"2026-01-01T00:00:00Z","window_end":2"#,
    ] {
        let payload = own.replace(r#""time":1000"#, more);
        check(
            &payload,
            Format::Json,
            &[Observation::Record(record(BROKER_MS, "10.0.0.1", "10.0.0.2", 5, 1))],
        );
    }
    let timed = total.replace(r#"{"#, r#"{"time":1000,"#);
    check(
        &timed,
        Format::Json,
        &[Observation::Record(record(1000, "10.0.0.1", "10.0.0.2", 1500, 3))],
    );
}
