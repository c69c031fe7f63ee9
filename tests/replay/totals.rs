//! `--totals`: each pair of each window once, in order.

use super::fold::assert_same;
use super::oracle::Oracle;
use super::pcap::{packet, pcap};
use super::run::Place;
use super::traffic::{self, Random};

const HEADER: &str = "window_start,source,destination,bytes,packets\n";

fn minutes() -> Oracle {
    Oracle { window_ms: 60_000, max_gap_ms: 0, sources: vec![], destinations: vec![] }
}

#[test]
fn rows_are_sorted_by_time_then_as_text() {
    let place = Place::new();
    place.write(
        "a.pcap",
        pcap(&[
            packet(61_000, "10.0.0.9", "10.0.0.1", 20),
            packet(1_000, "2.0.0.1", "10.0.0.1", 20),
            packet(1_000, "10.0.0.1", "9.0.0.1", 20),
            packet(2_000, "10.0.0.1", "10.0.0.1", 30),
            packet(2_000, "10.0.0.1", "10.0.0.1", 40),
            packet(3_000, "2001:DB8:0:0::1", "::ffff:10.0.0.1", 40),
        ]),
    );
    let run = place.floodmark("replay a.pcap --window 1m --totals totals.csv");
    assert_eq!(run.stdout(0), "");
    assert_eq!(
        place.read("totals.csv"),
        format!(
            "{HEADER}\
             1970-01-01T00:00:00Z,10.0.0.1,10.0.0.1,70,2\n\
             1970-01-01T00:00:00Z,10.0.0.1,9.0.0.1,20,1\n\
             1970-01-01T00:00:00Z,2.0.0.1,10.0.0.1,20,1\n\
             1970-01-01T00:00:00Z,2001:db8::1,::ffff:10.0.0.1,40,1\n\
             1970-01-01T00:01:00Z,10.0.0.9,10.0.0.1,20,1\n"
        )
    );
}

#[test]
fn totals_are_complete_when_windows_retire() {
    for seed in [401, 402] {
        let random = &mut Random::new(seed);
        let mut packets = traffic::packets(random, 2000, 60 * 60_000);
        // In order of time, so that no packet is late.
        packets.sort_by_key(|packet| packet.ms);
        let place = Place::new();
        place.write("a.pcap", pcap(&packets));
        place.write(
            "limits.jsonl",
            "{\"limit_name\":\"min\",\"limit_value\":9,\"effective_date\":\"1970-01-01\",\"per\":\"total\"}\n",
        );
        let expected = minutes().totals(&packets);
        for horizon in
            ["", "--lateness 0s", "--lateness 0s --retention 0s", "--lateness 90s --retention 5m"]
        {
            for variant in ["-w1", "-w3 --tick 7s", "-n2"] {
                // With --max-gap, silent windows exist, and must have no rows.
                let line = format!(
                    "replay a.pcap --window 1m --totals totals.csv --limits limits.jsonl --max-gap 24h \
                     {horizon} {variant}"
                );
                let done = place.floodmark(&line).run().expect(0);
                assert_same(&place.read("totals.csv"), &expected, || {
                    format!(
                        "seed {seed}: totals of the program, and of loops\n$ {}",
                        done.command_line()
                    )
                });
            }
        }
    }
}

#[test]
fn late_packets_count_until_their_window_settles() {
    let place = Place::new();
    place.write(
        "a.pcap",
        pcap(&[
            packet(1_000, "10.0.0.1", "10.0.0.2", 100),
            packet(70_000, "10.0.0.1", "10.0.0.2", 200),
            // Late, but counted: its window settles at 90 s.
            packet(2_000, "10.0.0.1", "10.0.0.2", 300),
            packet(95_000, "10.0.0.1", "10.0.0.2", 400),
            packet(96_000, "10.0.0.1", "10.0.0.2", 20),
            // Too late: at the tick before, the window had settled.
            packet(3_000, "10.0.0.1", "10.0.0.2", 500),
            packet(4_000, "10.0.0.9", "10.0.0.2", 600),
        ]),
    );
    let line = "replay a.pcap --window 1m --lateness 30s --totals totals.csv";
    for more in ["", "--retention 0s", "--retention 1h -w2"] {
        let done = place.floodmark(&format!("{line} {more}")).run().expect(0);
        let done = done.assert_stderr(&["2 records came after their window had settled"]);
        assert_eq!(
            place.read("totals.csv"),
            format!(
                "{HEADER}1970-01-01T00:00:00Z,10.0.0.1,10.0.0.2,400,2\n\
                 1970-01-01T00:01:00Z,10.0.0.1,10.0.0.2,620,3\n"
            ),
            "{}",
            done.command_line()
        );
    }
}

#[test]
fn totals_on_standard_output_need_changes_elsewhere() {
    let place = Place::new();
    place.write("a.pcap", pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 100)]));
    let rows = format!("{HEADER}1970-01-01T00:00:00Z,10.0.0.1,10.0.0.2,100,1\n");
    assert_eq!(place.floodmark("replay a.pcap --totals - --changes c.jsonl").stdout(0), rows);
    assert_eq!(place.read("c.jsonl"), "");
    for more in ["", "--changes -"] {
        let run = place.floodmark(&format!("replay a.pcap --totals - {more}")).run();
        assert_eq!(run.expect(64).assert_stderr(&["--changes"]).stdout, "");
    }
}

#[test]
fn filters_exclude_packets_that_do_not_match() {
    let place = Place::new();
    place.write(
        "a.pcap",
        pcap(&[
            packet(1_000, "10.0.0.1", "10.0.1.1", 100),
            packet(1_000, "10.0.1.1", "10.0.0.1", 200),
            packet(1_000, "2001:db8::1", "2001:db8::2", 300),
            packet(1_000, "::ffff:10.0.0.1", "2001:db8::2", 400),
        ]),
    );
    let bytes = |options: &str| -> Vec<String> {
        let line = format!("replay a.pcap --totals - --changes c {options}");
        let rows = place.floodmark(&line).stdout(0);
        let bytes = |row: &str| row.split(',').nth(3).expect("five columns").to_owned();
        rows.lines().skip(1).map(bytes).collect()
    };
    assert_eq!(bytes("--source 10.0.0.0/24"), ["100"]);
    assert_eq!(bytes("--source 0.0.0.0/0"), ["100", "200"]);
    assert_eq!(bytes("--source 10.0.0.0/24 --source 2001:db8::7/120"), ["100", "300"]);
    assert_eq!(bytes("--source 0.0.0.0/0 --destination 10.0.0.1"), ["200"]);
    assert_eq!(bytes("--source 10.0.0.1 --destination 2001:db8::/32"), [""; 0]);
}

#[test]
fn empty_capture_writes_only_a_header() {
    let place = Place::new();
    place.write("a.pcap", pcap(&[]));
    for variant in ["", "-w2", "-n2", "--lateness 1s --retention 1s"] {
        let line = format!("replay a.pcap --totals totals.csv --top 3 {variant}");
        assert_eq!(place.floodmark(&line).run().expect(0).stdout, "");
        assert_eq!(place.read("totals.csv"), HEADER);
    }
}
