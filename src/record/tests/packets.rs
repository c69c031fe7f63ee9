//! Packets as tshark writes them. tshark's output for two captures is compared with the captures; the other
//! messages have the shapes of tshark 4.0 and of its manual, cut down to the fields that matter.

use super::*;
use crate::capture::Reader;

/// Reads the records of a capture.
fn captured(name: &str, packets: usize) -> Vec<Record> {
    let path = format!("{}/tests/data/captures/{name}.pcap", env!("CARGO_MANIFEST_DIR"));
    let mut reader = Reader::open(path.as_ref()).expect("a capture");
    let packets = std::iter::from_fn(|| reader.next().expect("a whole capture")).take(packets);
    let record = |packet: crate::capture::Packet| Record {
        time_ms: packet.time.ms,
        pair: packet.pair,
        volume: Volume::new(packet.bytes as i64, 1),
    };
    packets.map(record).collect()
}

/// Reads the records, and the number of skips, of a file of tshark.
fn written(name: &str, format: Format) -> (Vec<Record>, usize) {
    let path = format!("{}/tests/data/tshark/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("a file of tshark");
    let (found, reads) = read(&Decoder::default(), None, text.as_bytes());
    assert_eq!(found, Ok(Some(format)));
    check(&text, format, &reads);
    let mut records = Vec::new();
    let mut skipped = 0;
    for read in reads {
        match read {
            Observation::Record(record) => records.push(record),
            Observation::Skipped(_) => skipped += 1,
            other => panic!("{name}: {other:?}"),
        }
    }
    (records, skipped)
}

#[test]
fn tshark_output_has_the_records_of_its_capture() {
    let mixed = captured("sll2-mixed", usize::MAX);
    assert_eq!(mixed.len(), 4);
    // Two frames of ARP and, with -T ek, six index lines.
    assert_eq!(written("sll2-mixed.json", Format::TsharkJson), (mixed.clone(), 2));
    assert_eq!(written("sll2-mixed.ek", Format::TsharkEk), (mixed.clone(), 8));
    // A text line has the length of the frame: here 20 bytes of Linux cooked header are before IP.
    let frames = mixed
        .iter()
        .map(|record| Record { volume: Volume::new(record.volume.bytes + 20, 1), ..*record });
    assert_eq!(written("sll2-mixed.text", Format::TsharkText), (frames.collect(), 2));
    let tunnel = captured("gre-within-gre", 2);
    assert_eq!(written("gre-within-gre.json", Format::TsharkJson), (tunnel.clone(), 0));
    assert_eq!(written("gre-within-gre.ek", Format::TsharkEk), (tunnel, 2));
}

#[test]
fn text_line_is_read_in_every_layout_of_columns() {
    let at =
        |time_ms, bytes| Observation::Record(record(time_ms, "10.0.0.1", "10.0.0.2", bytes, 1));
    let epoch = 1_754_479_930_790;
    for (line, time_ms) in [
        (
            "   12   0.001565   10.0.0.1 → 10.0.0.2    TCP 66 36330 → 80 [ACK] Seq=79 Win=65536",
            BROKER_MS,
        ),
        ("12 0.001565 10.0.0.1 -> 10.0.0.2 TCP 66 36330 > 80 [ACK]", BROKER_MS),
        ("  12 99999999.999999 10.0.0.1 → 10.0.0.2 TCP 66 36330 → 80", BROKER_MS),
        ("  12  -0.000041 10.0.0.1 → 10.0.0.2 TCP 66 36330 → 80", BROKER_MS),
        ("12 1754479930.790043 10.0.0.1 → 10.0.0.2 HTTP/JSON 66 HTTP/1.1 200 OK", epoch),
        ("1754479930.790043 10.0.0.1 → 10.0.0.2 HTTP 66 GET /get HTTP/1.1", epoch),
        ("   12 2025-08-06 11:32:10.790043 10.0.0.1 → 10.0.0.2 DNS 66 Standard query", epoch),
        ("2025-08-06 11:32:10.790043Z 10.0.0.1 → 10.0.0.2 DNS 66 Standard query", epoch),
        ("   12 11:32:10.790043 10.0.0.1 → 10.0.0.2 DNS 66 Standard query", BROKER_MS),
        ("   12 2025/218 11:32:10.790043 10.0.0.1 → 10.0.0.2 DNS 66 Standard query", BROKER_MS),
        ("12 10.0.0.1 → 10.0.0.2 DNS 66", BROKER_MS),
        ("10.0.0.1 → 10.0.0.2 Some Protocol 66 1 2 3", BROKER_MS),
    ] {
        check(line, Format::TsharkText, &[at(time_ms, 66)]);
    }
    let v6 = Observation::Record(record(BROKER_MS, "2001:db8::1", "ff02::1:ff00:1", 86, 1));
    check(
        "    2   0.1 2001:db8::1 → ff02::1:ff00:1 ICMPv6 86 Neighbor Solicitation for 2001:db8:1::1",
        Format::TsharkText,
        &[v6],
    );
    let address = |field| Observation::Bad(RecordError::BadAddress { field });
    for (line, read) in [
        (
            "3 0.1 aa:00:04:00:0a:04 → ff:ff:ff:ff:ff:ff ARP 60 Who has 10.0.0.1?",
            Observation::Skipped(Skip::NotIp),
        ),
        (
            "3 0.1 Vendor_00:0a:04 → Broadcast    ARP 60 Who has 10.0.0.1?",
            Observation::Skipped(Skip::NotIp),
        ),
        (
            "3 0.1 aa:00:04:00:0a:04 →              ARP 48 Who has 10.0.0.1?",
            Observation::Skipped(Skip::NotIp),
        ),
        ("3 0.1 client.example → 10.0.0.2 TCP 66 1 → 2", address("source")),
        ("3 0.1 10.0.0.1 → server.example TCP 66 1 → 2", address("destination")),
        ("3 0.1 10.0.0.1 → 2001:db8::1 TCP 66 1 → 2", Observation::Bad(RecordError::MixedFamily)),
        (
            "3 0.1 10.0.0.1 → 10.0.0.2 TCP",
            Observation::Bad(RecordError::MissingField { field: "length" }),
        ),
        ("3 0.1 10.0.0.1 → 10.0.0.2 TCP 99999999999999", Observation::Bad(RecordError::TooLarge)),
        (
            "3 0.1 10.0.0.1 → 10.0.0.2 TCP 99999999999999999999",
            Observation::Bad(RecordError::TooLarge),
        ),
        (
            "2025-08-06 11:99:10 10.0.0.1 → 10.0.0.2 TCP 66",
            Observation::Bad(RecordError::bad_time(
                "time",
                "2025-08-06 11:99:10",
                TimeFault::Unreadable,
            )),
        ),
    ] {
        check(line, Format::TsharkText, &[read]);
    }
    for line in ["12 packets captured", "→", "a →", "→ b", "1 0.1 10.0.0.1 = 10.0.0.2 TCP 66"]
    {
        check_rejected(line.as_bytes(), RecordError::UnknownFormat);
    }
    let several = "Capturing on 'eth0'\r\n1 0.1 10.0.0.1 → 10.0.0.2 TCP 66 1 → 2\r\n\r\n\
                   2 0.1 10.0.0.1 → 10.0.0.2 TCP 67 1 → 2\r\n2 packets captured\r\n";
    let unknown = Observation::Bad(RecordError::UnknownFormat);
    let reads = [unknown, at(BROKER_MS, 66), at(BROKER_MS, 67), unknown];
    check(several, Format::TsharkText, &reads);
}

/// One packet as `-T json` and as `-T ek`.
fn packets(frame: &str, layers: &str, json: &str, ek: &str) -> [(Format, String); 2] {
    let name = |form: &str| layers.replace("LAYER", form);
    [
        (
            Format::TsharkJson,
            format!(
                r#"[{{"_index":"packets-2025-08-06","_type":"doc","_score":null,"_source":{{"layers":{{"frame":{{{}}},"eth":{{"eth.type":"0x0800"}},{}}}}}}}]"#,
                frame.replace("frame_frame_", "frame."),
                name(json),
            ),
        ),
        (
            Format::TsharkEk,
            format!(
                r#"{{"timestamp":"1754479930790","layers":{{"frame":{{{frame}}},"eth":{{"eth_eth_type":"0x0800"}},{}}}}}"#,
                name(ek),
            ),
        ),
    ]
}

const FRAME: &str = r#""frame_frame_time_epoch":"1754479930.790043000","frame_frame_len":"80","frame_frame_protocols":"eth:ethertype:ip:tcp""#;
const FRAME_MS: u64 = 1_754_479_930_790;

/// An IPv4 layer in the names of one form.
fn v4(form: &str, fields: &str) -> String {
    format!(r#""ip":{{"{form}version":"4","{form}src":"10.0.0.1","{form}dst":"10.0.0.2"{fields}}}"#)
}

fn v6(form: &str, fields: &str) -> String {
    format!(r#""ipv6":{{"{form}src":"2001:db8::1","{form}dst":"2001:db8::2"{fields}}}"#)
}

#[track_caller]
fn check_packet(frame: &str, json: &str, ek: &str, read: Observation) {
    for (format, packet) in packets(frame, "LAYER", json, ek) {
        check(&packet, format, &[read]);
    }
}

#[test]
fn bytes_are_the_length_of_the_ip_header_or_of_the_frame() {
    let four = |bytes| Observation::Record(record(FRAME_MS, "10.0.0.1", "10.0.0.2", bytes, 1));
    let six = |bytes| Observation::Record(record(FRAME_MS, "2001:db8::1", "2001:db8::2", bytes, 1));
    for (length, read) in [
        (Some("66"), four(66)),
        (Some("0"), four(80)),
        (None, four(80)),
        (Some("19"), Observation::Bad(RecordError::BadNumber { field: "ip.len" })),
        (Some("many"), Observation::Bad(RecordError::BadNumber { field: "ip.len" })),
    ] {
        let field =
            |name: &str| length.map_or(String::new(), |length| format!(r#","{name}":"{length}""#));
        check_packet(FRAME, &v4("ip.", &field("ip.len")), &v4("ip_ip_", &field("ip_ip_len")), read);
    }
    for (length, read) in [("26", six(66)), ("0", six(80))] {
        let field = |name: &str| format!(r#","{name}":"{length}""#);
        check_packet(
            FRAME,
            &v6("ipv6.", &field("ipv6.plen")),
            &v6("ipv6_ipv6_", &field("ipv6_ipv6_plen")),
            read,
        );
    }
    let missing = Observation::Bad(RecordError::MissingField { field: "frame.len" });
    check_packet("", &v4("ip.", ""), &v4("ip_ip_", ""), missing);
}

#[test]
fn outermost_ip_header_is_read() {
    let four = Observation::Record(record(FRAME_MS, "10.0.0.1", "10.0.0.2", 66, 1));
    let inner = r#""ip":{"ip.src":"192.0.2.1","ip.dst":"192.0.2.2","ip.len":"40"}"#;
    let outer = v4("ip.", r#","ip.len":"66""#);
    let layers = [
        // As another member of the same name, as an array, and as another protocol.
        format!("{outer},\"gre\":{{}},{inner}"),
        format!("\"ip\":[{},{}]", &outer[5..], &inner[5..]),
        format!("{outer},{}", v6("ipv6.", r#","ipv6.plen":"9""#)),
        // An ICMP error quotes a header within its own layer.
        format!("{outer},\"icmp\":{{{inner}}}"),
    ];
    for layers in layers {
        let [(format, packet), _] = packets(FRAME, "LAYER", &layers, "");
        check(&packet, format, &[four]);
    }
    let six = Observation::Record(record(FRAME_MS, "2001:db8::1", "2001:db8::2", 66, 1));
    let layers = format!("{},{inner}", v6("ipv6.", r#","ipv6.plen":"26""#));
    let [(format, packet), _] = packets(FRAME, "LAYER", &layers, "");
    check(&packet, format, &[six]);
    // As arrays of values, which -T ek has instead of repeated layers.
    let arrays = r#""ip":{"ip_ip_src":["10.0.0.1","192.0.2.1"],"ip_ip_dst":["10.0.0.2","192.0.2.2"],"ip_ip_len":["66","40"]}"#;
    let [_, (format, packet)] = packets(FRAME, "LAYER", "", arrays);
    check(&packet, format, &[four]);
    let [(format, packet), _] = packets(FRAME, "LAYER", r#""arp":{"arp.opcode":"1"}"#, "");
    check(&packet, format, &[Observation::Skipped(Skip::NotIp)]);
}

#[test]
fn packet_of_chosen_fields_is_read() {
    let both = |fields: &str| {
        let ek = fields.replace("frame.", "frame_").replace("ipv6.", "ipv6_").replace("ip.", "ip_");
        [
            (Format::TsharkJson, format!(r#"{{"_source":{{"layers":{{{fields}}}}}}}"#)),
            (Format::TsharkEk, format!(r#"{{"layers":{{{ek}}}}}"#)),
        ]
    };
    let addresses = r#""ip.dst":["10.0.0.2","192.0.2.2"],"ip.src":["10.0.0.1","192.0.2.1"],"ip.len":["66","40"]"#;
    let tunnel = format!(
        r#"{addresses},"ipv6.src":["2001:db8::1"],"ipv6.dst":["2001:db8::2"],"ipv6.plen":["26"]"#
    );
    let four = Observation::Record(record(BROKER_MS, "10.0.0.1", "10.0.0.2", 66, 1));
    let six = Observation::Record(record(BROKER_MS, "2001:db8::1", "2001:db8::2", 66, 1));
    let timed = Observation::Record(record(FRAME_MS, "10.0.0.1", "10.0.0.2", 66, 1));
    let protocols =
        |order: &str| format!(r#"{tunnel},"frame.protocols":["eth:ethertype:{order}:tcp"]"#);
    for (fields, read) in [
        (addresses.to_owned(), four),
        (format!(r#"{addresses},"frame.time_epoch":["1754479930.790043000"]"#), timed),
        (format!(r#"{addresses},"frame.time_epoch":["2025-08-06T11:32:10.790043000Z"]"#), timed),
        (tunnel.clone(), Observation::Bad(RecordError::Ambiguous)),
        (protocols("vlan:ip:ipv6"), four),
        (protocols("vlan:ipv6:ip"), six),
        (
            r#""ip.src":["10.0.0.1"],"ip.len":["66"]"#.to_owned(),
            Observation::Bad(RecordError::MissingField { field: "ip.dst" }),
        ),
        (r#""ip.src":[],"frame.len":["66"]"#.to_owned(), Observation::Skipped(Skip::NotIp)),
        (String::new(), Observation::Skipped(Skip::NotIp)),
    ] {
        for (format, packet) in both(&fields) {
            check(&packet, format, &[read]);
        }
    }
}

#[test]
fn index_line_and_incomplete_packet_are_skipped_or_rejected() {
    let layers = v4("ip_ip_", r#","ip_ip_len":"66""#);
    let at = |time_ms| Observation::Record(record(time_ms, "10.0.0.1", "10.0.0.2", 66, 1));
    let index = r#"{"index":{"_index":"packets-2025-08-06","_type":"doc"}}"#;
    check(index, Format::TsharkEk, &[Observation::Skipped(Skip::Index)]);
    // Without a time of the frame, that of the line is used, which may be on the first day of 1970.
    for (timestamp, time_ms) in [
        (r#""timestamp":"1754479930790","#, FRAME_MS),
        (r#""timestamp":"2025-08-06T11:32:10.790Z","#, FRAME_MS),
        (r#""timestamp":0,"#, 0),
        ("", BROKER_MS),
    ] {
        let line = format!("{{{timestamp}\"layers\":{{{layers}}}}}");
        check(&line, Format::TsharkEk, &[at(time_ms)]);
        check(
            &format!("{index}\n{line}\n"),
            Format::TsharkEk,
            &[Observation::Skipped(Skip::Index), at(time_ms)],
        );
    }
    let bad = |payload: &str, format, reason| check(payload, format, &[Observation::Bad(reason)]);
    let time = format!("{{\"timestamp\":\"now\",\"layers\":{{{layers}}}}}");
    let reason = RecordError::bad_time("timestamp", "\"now\"", TimeFault::Unreadable);
    bad(&time, Format::TsharkEk, reason);
    bad("{\"timestamp\":1,\"layers\":7}", Format::TsharkEk, RecordError::UnknownFormat);
    bad("{\"layers\":{\"ip\":7}}", Format::TsharkEk, RecordError::UnknownFormat);
    bad("{\"_source\":{}}", Format::TsharkJson, RecordError::MissingField { field: "layers" });
    bad("{\"_source\":[]}", Format::TsharkJson, RecordError::UnknownFormat);
    bad(
        "{\"_source\":{\"layers\":{\"ip\":{}}}}",
        Format::TsharkJson,
        RecordError::MissingField { field: "ip.src" },
    );
    bad(
        "{\"layers\":{},\"layers\":{}}",
        Format::TsharkEk,
        RecordError::RepeatedField { field: "layers" },
    );
    // A field that no record needs has bytes that are not UTF-8.
    let line = format!(
        "{{\"timestamp\":\"1754479930790\",\"layers\":{{\"dns\":{{\"x\":\"?\"}},{layers}}}}}"
    );
    let mut bytes = line.into_bytes();
    let at_mark = bytes.iter().position(|byte| *byte == b'?').expect("a mark");
    bytes[at_mark] = 0xfe;
    assert_eq!(
        read(&Decoder::default(), None, &bytes),
        (Ok(Some(Format::TsharkEk)), vec![at(FRAME_MS)])
    );
}
