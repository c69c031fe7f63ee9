//! How a capture ends, and what it says then.

use crate::replay::pcap::{packet, pcap};
use crate::replay::run::Place;

fn place() -> Place {
    let place = Place::new();
    place.write("a.pcap", pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 1200)]));
    place
}

#[test]
fn usage_errors() {
    let place = place();
    let cases: [(&str, &[&str]); 29] = [
        ("", &["--to", "FILE"]),
        ("a.pcap", &["--to"]),
        ("--to -", &["FILE", "--interface", "--list"]),
        ("a.pcap --interface lo --to -", &["--interface"]),
        ("a.pcap --filter ip --to -", &["--interface"]),
        ("a.pcap --promiscuous --to -", &["--interface"]),
        ("a.pcap --duration 1s --to -", &["--interface"]),
        ("--interface lo --speed 2x --to -", &["--speed"]),
        ("a.pcap --speed 2 --to -", &["\"2\" is not a speed"]),
        ("a.pcap --speed 0x --to -", &["\"0x\" is not a speed"]),
        ("a.pcap --to redis://localhost", &["\"redis://\" is not known"]),
        ("a.pcap --to kafka://", &["kafka://"]),
        ("a.pcap --to kafka://localhost:9092", &["names no topic"]),
        ("a.pcap --to kafka://u:p@localhost/t", &["no user and no password"]),
        ("a.pcap --to - --format packed", &["--format packed", "json"]),
        ("a.pcap --to out --format packed", &["--format packed", "json"]),
        ("a.pcap --to - --format xml", &["xml"]),
        ("a.pcap --to - --aggregate 7s", &["7000 ms does not divide", "300 s"]),
        ("a.pcap --to - --aggregate 10m", &["does not divide --window of 300 s"]),
        ("a.pcap --to - --aggregate 1s --window 1m --format kv", &["--format kv"]),
        ("a.pcap --to - --aggregate 0s", &["no time at all"]),
        ("a.pcap --to - --aggregate on", &["not a duration: \"on\""]),
        ("a.pcap --to - --window 1500ms", &["whole number of seconds"]),
        ("a.pcap --to - --queue much", &["\"much\" is not a size"]),
        ("--interface lo --to - --snaplen 10", &["\"10\" is not between 64"]),
        ("--interface lo --to - --buffer 1GiBB", &["\"1GiBB\" is not a size"]),
        ("--interface lo --to - --buffer 4GiB", &["\"4GiB\" is not between"]),
        ("a.pcap --to - --create-topic", &["--create-topic needs --to kafka://"]),
        ("a.pcap --to - --partitions 4", &["--create-topic"]),
    ];
    for (words, parts) in cases {
        let done = place.floodmark(&format!("capture {words}")).run().expect(64).says(parts);
        assert_eq!(done.stdout, "", "{words}");
    }
    assert!(!place.path("out").exists());
}

#[test]
fn what_is_missing_is_missed_before_anything_begins() {
    let place = place();
    let done = place.floodmark("capture a.pcap b.pcap --to out").run().expect(66);
    done.says(&["b.pcap"]);
    let done = place
        .floodmark("capture --interface no-such-one --to out --log-format text")
        .run()
        .expect(66);
    done.says(&["there is no interface \"no-such-one\"", "\"lo\""]);
    assert!(!place.path("out").exists());
}

#[test]
fn without_the_right_to_capture_it_says_what_helps() {
    let place = place();
    let run = place.floodmark("capture --interface lo --to - --log-format text");
    // A user who is not root has no such right to begin with.
    let run = match super::wire::root() {
        true => run.under("setpriv --bounding-set=-net_raw,-net_admin"),
        false => run,
    };
    let done = run.run().expect(77);
    done.says(&["no right to capture on \"lo\"", "sudo setcap cap_net_raw,cap_net_admin=eip /"]);
}

#[test]
fn damage_is_said_and_what_precedes_it_is_sent() {
    let place = place();
    let whole = pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 1200); 3]);
    place.write("b.pcap", &whole[..whole.len() - 1]);
    for way in ["b.pcap a.pcap", "a.pcap b.pcap --aggregate off"] {
        let done = place.floodmark(&format!("capture {way} --to -")).run().expect(65);
        let packets: i64 =
            super::records(&done.stdout).iter().map(|record| record.volume.packets).sum();
        assert_eq!(packets, 3);
        done.says(&["b.pcap", "counted 3 of 3 frames"]);
    }
}

#[test]
fn interfaces_are_listed_on_standard_output() {
    let done = Place::new().floodmark("capture --list").run().expect(0);
    let mut lines = done.stdout.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("NAME ")), "{}", done.stdout);
    assert!(lines.any(|line| line.starts_with("lo ")), "{}", done.stdout);
    assert_eq!(done.stderr, "");
    Place::new().floodmark("capture --list").stdout_closed().run().expect(0);
}

#[test]
fn a_reader_who_goes_away_is_a_quiet_end_and_a_full_disk_a_failure() {
    let place = place();
    let many: Vec<_> =
        (0..5000).map(|at| packet(at * 1000, "10.0.0.1", "10.0.0.2", 1200)).collect();
    place.write("b.pcap", pcap(&many));
    let done = place.floodmark("capture b.pcap --to -").stdout_closed().run().expect(0);
    assert_eq!(done.stderr, "");
    let done = place.floodmark("capture b.pcap --to -").stdout_to("/dev/full").run();
    done.expect(1).says(&["writing to standard output"]);
    let done = place.floodmark("capture b.pcap --to no/such/folder").run();
    done.expect(1).says(&["no/such/folder"]);
}

#[test]
fn brokers_that_are_not_there_are_unavailable() {
    let place = place();
    // A port that was free a moment ago.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    drop(taken);
    let line = format!("capture a.pcap --to kafka://127.0.0.1:{port}/floodmark-flows-v1");
    place.floodmark(&line).run().expect(69).says(&[&format!("127.0.0.1:{port}")]);
}

#[test]
fn unread_link_type_is_named_with_its_number_and_count() {
    let place = place();
    let mut capture = pcap(&[
        packet(1_000, "10.0.0.1", "10.0.0.2", 1200),
        packet(2_000, "10.0.0.1", "10.0.0.2", 1200),
    ]);
    capture[20..24].copy_from_slice(&147u32.to_le_bytes());
    place.write("b.pcap", capture);
    let text = "2 of a link type that is not supported (2 of 147 USER0)";
    let done = place.floodmark("capture a.pcap b.pcap --to - --log-format text").run().expect(0);
    done.says(&["counted 1 of 3 frames", text]);
    place.write("limits.json", "[]");
    let done = place.floodmark("replay a.pcap b.pcap --limits limits.json").run().expect(0);
    done.says(&["counted 1 of 3 frames", text]);
}

#[test]
fn interface_option_that_is_there_twice_is_warned_of_once() {
    let place = place();
    let block = |kind: u32, body: &[u8]| {
        let length = (body.len() as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &length, body, &length].concat()
    };
    let section = [&[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..], &[0xff; 8]].concat();
    let resolution = [9, 0, 1, 0, 6, 0, 0, 0, 9, 0, 1, 0, 3, 0, 0, 0];
    let interface = block(1, &[&[1, 0, 0, 0, 0, 0, 0, 0][..], &resolution].concat());
    let capture = [block(0x0a0d_0d0a, &section), interface.clone(), interface].concat();
    place.write("twice.pcapng", capture);
    place.write("limits.json", "[]");
    let done = place.floodmark("replay twice.pcapng --limits limits.json").run().expect(0);
    let text = "interface 0 has if_tsresol twice; the first one holds";
    let done = done.says(&["\"twice.pcapng\"", text]);
    assert_eq!(done.stderr.matches("if_tsresol").count(), 1, "{}", done.stderr);
}
