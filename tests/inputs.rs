//! Inputs as other programs write them: with missing or unset fields, JSON over many lines, and messages without a
//! value.

use floodmark::kafka::Outgoing;
use serde_json::Value;

use crate::common::broker::{Broker, Mock, produce, read_all};
use crate::common::{data, now_ms};
use crate::replay::run::{Place, SignalTarget};
use crate::serving::{scrape_until, server};

/// Parses lines of JSON.
fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn pmacct_flow_without_end_time_is_dated_by_arrival_or_start() {
    let place = Place::new();
    let flow = |times: &str| {
        format!(
            "{{\"event_type\":\"purge\",\"ip_src\":\"192.0.2.1\",\"ip_dst\":\"192.0.2.2\",{times},\"packets\":1,\"bytes\":712}}\n"
        )
    };
    place.write(
        "flows.jsonl",
        [
            flow(
                "\"timestamp_start\":\"2024-07-12 10:44:00.142331\",\"timestamp_end\":\"0000-00-00 00:00:00.000000\",\"timestamp_arrival\":\"2024-07-12 10:44:01.000000\"",
            ),
            flow(
                "\"timestamp_start\":\"2024-07-12T10:44:00.142331Z\",\"timestamp_end\":\"0000-00-00T00:00:00.000000Z\"",
            ),
            flow(
                "\"timestamp_start\":\"2024-07-12 12:44:00.142331+0200\",\"timestamp_end\":\"0000-00-00T00:00:00.000000+00:00\"",
            ),
            flow("\"timestamp_end\":\"12:44\""),
        ]
        .concat(),
    );
    let done = place.floodmark("convert --from flows.jsonl").run().expect(0);
    let times: Vec<String> = objects(&done.stdout)
        .iter()
        .map(|flow| flow["time"].as_str().unwrap().to_owned())
        .collect();
    let start = "2024-07-12T10:44:00.142Z";
    assert_eq!(times, ["2024-07-12T10:44:01Z", start, start]);
    done.assert_stderr(&[
        "not written: 1 (bad_time 1)",
        "the time \"12:44\" of the field \"timestamp_end\" is neither a number nor a date and time",
    ]);
}

#[test]
fn flow_without_packets_is_written_as_one_packet_and_counted() {
    let place = Place::new();
    let flow = |amounts: &str| {
        format!(
            "{{\"src_addr\":\"192.0.2.1\",\"dst_addr\":\"192.0.2.2\",\"time_flow_end_ns\":1714548388123000000,\"sampling_rate\":10,{amounts}}}\n"
        )
    };
    let all = ["\"bytes\":2557,\"packets\":0", "\"bytes\":2557", "\"bytes\":0,\"packets\":0"];
    place.write("flows.jsonl", all.map(flow).concat());
    let done = place.floodmark("convert --from flows.jsonl").run().expect(0);
    let flows = objects(&done.stdout);
    assert_eq!(flows.len(), 2);
    assert!(flows.iter().all(|flow| flow["bytes"] == 25_570 && flow["packets"] == 1), "{flows:?}");
    done.assert_stderr(&[
        "wrote 2 records; 2 records state no packets and count as 1 packet each; skipped: 1 (no_traffic 1)",
    ]);
}

#[test]
fn json_array_over_many_lines_is_read_as_records() {
    let place = Place::new();
    let tshark = data().join("tshark/sll2-mixed.json");
    let line = format!("convert --from {}", tshark.display());
    let done = place.floodmark(&line).run().expect(0);
    assert_eq!(objects(&done.stdout).len(), 4);
    done.assert_stderr(&["read 6 messages, wrote 4 records", "skipped: 2 (not_ip 2)"]);
    let nfdump = |last: &str| {
        format!(
            "{{\n\t\"type\" : \"FLOW\",\n\t\"first\" : \"2024-01-02T03:04:05.006\",\n\t\"last\" : \"{last}\",\n\t\"in_packets\" : 12,\n\t\"in_bytes\" : 3456,\n\t\"src4_addr\" : \"198.51.100.7\",\n\t\"dst4_addr\" : \"203.0.113.9\"\n}}"
        )
    };
    let flows = ["2024-01-02T03:04:06.789", "1970-01-01T00:00:00.000"].map(nfdump);
    place.write("nfdump.json", format!("[\n{}\n]\n", flows.join(",\n")));
    let done = place.floodmark("convert --from nfdump.json --fields last,in_bytes").run().expect(0);
    let expected = ["2024-01-02T03:04:06.789", "1970-01-01T00:00:00.000"]
        .map(|last| format!("{{\"last\":\"{last}\",\"in_bytes\":3456}}\n"))
        .concat();
    assert_eq!(done.stdout, expected);
    // Of a truncated file, the complete objects are read.
    let text = place.read("nfdump.json");
    place.write("cut.json.gz", crate::common::gzip(&text.as_bytes()[..text.len() - 40]));
    let done = place.floodmark("convert --from cut.json.gz").run().expect(0);
    assert_eq!(objects(&done.stdout).len(), 1);
    done.assert_stderr(&["not written: 1 (json 1)", "\"line\":11"]);
}

/// All reasons for not counting a record or message.
const ERRORS: [&str; 19] = [
    "ambiguous",
    "bad_address",
    "bad_number",
    "bad_time",
    "empty",
    "future",
    "json",
    "missing_field",
    "mixed_family",
    "not_utf8",
    "own_output",
    "packed_checksum",
    "packed_length",
    "packed_version",
    "past",
    "repeated_field",
    "too_large",
    "too_many_records",
    "unknown_format",
];

#[test]
fn tombstone_and_flow_without_packets_are_counted_apart_from_errors() {
    let (mock, place) = (Mock::new(), Place::new());
    let (flows, dead) = (mock.topic("flows", 1), mock.topic("dead", 1));
    place.write("limits.json", "[]");
    let now = now_ms() as i64;
    let flow = |amounts: &str| {
        format!(
            "{{\"source\":\"192.0.2.1\",\"destination\":\"192.0.2.2\",\"time\":{now},{amounts}}}"
        )
    };
    let flow = [
        flow("\"bytes\":7,\"packets\":1"),
        flow("\"bytes\":7,\"packets\":0"),
        flow("\"bytes\":0,\"packets\":0"),
        "{\"schema\":null,\"payload\":null}".to_owned(),
    ];
    let message = |payload| Outgoing {
        key: Some(&b"192.0.2.1 192.0.2.2"[..]),
        payload,
        timestamp_ms: Some(now),
        ..Outgoing::default()
    };
    let mut messages: Vec<Outgoing<'_>> =
        flow.iter().map(|text| message(Some(text.as_bytes()))).collect();
    messages.push(message(None));
    produce(&flows, &messages);
    let line = format!(
        "run --from {flows} --limits limits.json --dead-letter {dead} --http 127.0.0.1:0 --tick 50ms"
    );
    let mut run = place.floodmark(&line).start();
    let server = server(&mut run);
    let of = |name: &str, label: &str| {
        format!("floodmark_input_{name}_total{{source=\"kafka:flows\"{label}}}")
    };
    let series = scrape_until(server, "all consumed", |series| {
        series.get(&of("messages", "")) == Some(&5.0)
    });
    let value = |name, label| series.get(&of(name, label)).copied();
    assert_eq!(value("records", ",format=\"json\""), Some(2.0));
    assert_eq!(value("records_without_packets", ""), Some(1.0));
    assert_eq!(value("skipped", ",reason=\"tombstone\""), Some(2.0));
    assert_eq!(value("skipped", ",reason=\"no_traffic\""), Some(1.0));
    assert_eq!(value("skipped", ",reason=\"purge\""), Some(0.0));
    // The shipped alerting rule sums these series: all exist from the start, and are 0.
    let errors: Vec<(&str, f64)> = series
        .iter()
        .filter(|(key, _)| key.starts_with("floodmark_input_errors_total{"))
        .map(|(key, value)| (key.rsplit('"').nth(1).expect("an error is named"), *value))
        .collect();
    let expected = ERRORS.map(|error| (error, 0.0));
    assert_eq!(errors, expected);
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
    assert!(read_all(&dead).is_empty());
}

#[test]
fn tombstones_of_a_compacted_topic_are_skipped_by_a_conversion() {
    let (broker, place) = (Broker::shared(), Place::new());
    let from = broker.topic("compacted", 1);
    let message = |payload| Outgoing {
        key: Some(&b"192.0.2.1 192.0.2.2"[..]),
        payload,
        timestamp_ms: Some(1_767_225_600_000),
        ..Outgoing::default()
    };
    produce(&from, &[message(Some(&b"66"[..])), message(None), message(Some(&b""[..]))]);
    let line = format!("convert --from {from} --until-end");
    let done = place.floodmark(&line).run().expect(0);
    assert_eq!(objects(&done.stdout).len(), 1);
    // An empty value is no tombstone.
    done.assert_stderr(&["skipped: 1 (tombstone 1); not written: 1 (empty 1)"]);
}
