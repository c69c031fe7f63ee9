//! Captures and texts, to files and to a topic.

use std::io::Write;

use super::{lines, records, records_of};
use crate::capture::{records as in_lines, sums};
use crate::common::broker::{Broker, read_all};
use crate::replay::pcap::{packet, pcap};
use crate::replay::run::{Place, SignalTarget};

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| line.clone() + "\n").collect()
}

#[test]
fn texts_of_any_format_become_floodmark_json() {
    let place = Place::new();
    let mut all = text(&lines(0..100));
    all += "1767225600.5 10.0.0.1 → 10.0.0.2 TCP 66 36330 → 80 [ACK]\n\n";
    all += "{\"payload\": \"1767225601.5 10.0.0.3 -> 10.0.0.4 TCP 99\"}";
    place.write("a.txt", &all);
    let done = place.floodmark("convert --from a.txt --to out.jsonl").run().expect(0);
    done.assert_stderr(&["read 102 messages, wrote 102 records", "102 lines"]);
    let written = in_lines(&place.read("out.jsonl"));
    assert_eq!(sums(&written).values().map(|sum| sum.packets).sum::<i64>(), 302);
    let mut flows = written[..100].to_vec();
    flows.sort_unstable();
    assert_eq!(flows, records_of(&lines(0..100)));
    assert_eq!((written[100].volume.bytes, written[101].volume.bytes), (66, 99));
    assert_eq!(written[101].time_ms, 1_767_225_601_500);
}

#[test]
fn texts_and_standard_input_are_read_in_argument_order() {
    let place = Place::new();
    place.write("a.txt", text(&lines(0..3)));
    let run =
        place.floodmark("convert --from a.txt - --fields writer_id").stdin(text(&lines(3..5)));
    let expected: String =
        (0..5).map(|number| format!("{{\"writer_id\":\"default_kafka/{number}\"}}\n")).collect();
    assert_eq!(run.stdout(0), expected);
}

#[test]
fn captures_are_converted_packet_by_packet_in_order_of_time() {
    let place = Place::new();
    let at = |ms: u64| packet(ms, "10.0.0.1", "10.0.0.2", 100);
    place.write("a.pcap", pcap(&[at(1_000), at(5_000)]));
    place.write("b.pcap", pcap(&[at(2_000), at(9_000)]));
    let converted = place.floodmark("convert --from a.pcap b.pcap").stdout(0);
    let captured = place.floodmark("capture a.pcap b.pcap --aggregate off --to -").stdout(0);
    assert_eq!(converted, captured);
    let kv = place.floodmark("convert --from a.pcap --format kv").stdout(0);
    assert_eq!(kv, "10.0.0.1 10.0.0.2 100\n".repeat(2));
    let chosen = place.floodmark("convert --from a.pcap --fields bytes,source").stdout(0);
    assert_eq!(chosen, "{\"bytes\":100,\"source\":\"10.0.0.1\"}\n".repeat(2));
}

#[test]
fn captures_and_texts_are_written_to_a_topic() {
    let (broker, place) = (Broker::shared(), Place::new());
    let to = broker.topic("flows", 2);
    place.write("a.pcap", pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 100)]));
    place.write("b.txt", text(&lines(0..50)));
    let line = format!("convert --from a.pcap b.txt --to {to}");
    place.floodmark(&line).run().expect(0).assert_stderr(&["read 51 messages, wrote 51 records"]);
    let written = records(&read_all(&to));
    assert_eq!(written[0].time_ms, 1_000);
    assert_eq!(written[1..], records_of(&lines(0..50)));
}

#[test]
fn damaged_capture_and_unreadable_lines_lose_only_themselves() {
    let place = Place::new();
    let mut capture = pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 100)]);
    capture.extend([0; 7]);
    place.write("a.pcap", capture);
    place.write("b.txt", format!("nothing\n{}", text(&lines(0..2))));
    let done = place.floodmark("convert --from a.pcap b.txt").run().expect(65);
    assert_eq!(in_lines(&done.stdout).len(), 3);
    done.assert_stderr(&[
        "\"a.pcap\" is damaged at byte",
        "not written: 1 (unknown_format 1)",
        "\"line\":1",
    ]);
    place.floodmark("convert --from b.txt").run().expect(0);
    // A file without any record is most likely no file of records.
    place.write("c.txt", "nothing\nat all\n");
    place.floodmark("convert --from c.txt").run().expect(65);
    place.write("empty.txt", "");
    assert_eq!(place.floodmark("convert --from empty.txt").stdout(0), "");
}

#[test]
fn pipe_is_converted_line_by_line_until_an_interrupt() {
    let place = Place::new();
    let pipe = place.fifo("pipe");
    let mut run = place.floodmark("convert --from pipe --fields writer_id --linger 0s").start();
    let mut feed = std::fs::File::options().write(true).open(&pipe).expect("opening the pipe");
    for number in 0..3 {
        feed.write_all(text(&lines(number..number + 1)).as_bytes()).expect("writing to the pipe");
        assert_eq!(run.line(), format!("{{\"writer_id\":\"default_kafka/{number}\"}}\n"));
    }
    // The pipe stays open without further input.
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(130);
}
