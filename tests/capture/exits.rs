//! Exit codes and messages of a capture.

use crate::replay::pcap::{packet, pcap};
use crate::replay::run::Place;

fn place() -> Place {
    let place = Place::new();
    place.write("a.pcap", pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 1200)]));
    place
}

#[test]
fn invalid_arguments_exit_with_code_64() {
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
        ("a.pcap --to redis://localhost", &["unknown scheme \"redis://\""]),
        ("a.pcap --to kafka://", &["kafka://"]),
        ("a.pcap --to kafka://localhost:9092", &["names no topic"]),
        ("a.pcap --to kafka://u:p@localhost/t", &["must not contain a user or a password"]),
        ("a.pcap --to - --format packed", &["--format packed", "json"]),
        ("a.pcap --to out --format packed", &["--format packed", "json"]),
        ("a.pcap --to - --format xml", &["xml"]),
        ("a.pcap --to - --aggregate 7s", &["7000 ms does not divide", "300 s"]),
        ("a.pcap --to - --aggregate 10m", &["does not divide --window of 300 s"]),
        ("a.pcap --to - --aggregate 1s --window 1m --format kv", &["--format kv"]),
        ("a.pcap --to - --aggregate 0s", &["is zero"]),
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
        let done =
            place.floodmark(&format!("capture {words}")).run().expect(64).assert_stderr(parts);
        assert_eq!(done.stdout, "", "{words}");
    }
    assert!(!place.path("out").exists());
}

#[test]
fn missing_input_is_reported_before_output_is_created() {
    let place = place();
    let done = place.floodmark("capture a.pcap b.pcap --to out").run().expect(66);
    done.assert_stderr(&["b.pcap"]);
    let done = place
        .floodmark("capture --interface no-such-one --to out --log-format text")
        .run()
        .expect(66);
    done.assert_stderr(&["there is no interface \"no-such-one\"", "\"lo\""]);
    assert!(!place.path("out").exists());
}

#[test]
fn capture_without_privilege_names_the_remedy() {
    let place = place();
    let run = place.floodmark("capture --interface lo --to - --log-format text");
    // Only root has the privilege, which is dropped here.
    let run = match super::wire::is_root() {
        true => run.under("setpriv --bounding-set=-net_raw,-net_admin"),
        false => run,
    };
    let done = run.run().expect(77);
    done.assert_stderr(&[
        "no right to capture on \"lo\"",
        "sudo setcap cap_net_raw,cap_net_admin=eip /",
    ]);
}

#[test]
fn packets_before_damage_are_sent_and_damage_is_reported() {
    let place = place();
    let whole = pcap(&[packet(1_000, "10.0.0.1", "10.0.0.2", 1200); 3]);
    place.write("b.pcap", &whole[..whole.len() - 1]);
    for variant in ["b.pcap a.pcap", "a.pcap b.pcap --aggregate off"] {
        let done = place.floodmark(&format!("capture {variant} --to -")).run().expect(65);
        let packets: i64 =
            super::records(&done.stdout).iter().map(|record| record.volume.packets).sum();
        assert_eq!(packets, 3);
        done.assert_stderr(&["b.pcap", "counted 3 of 3 frames"]);
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
fn closed_stdout_ends_silently_and_full_disk_fails() {
    let place = place();
    let many: Vec<_> =
        (0..5000).map(|at| packet(at * 1000, "10.0.0.1", "10.0.0.2", 1200)).collect();
    place.write("b.pcap", pcap(&many));
    let done = place.floodmark("capture b.pcap --to -").stdout_closed().run().expect(0);
    assert_eq!(done.stderr, "");
    let done = place.floodmark("capture b.pcap --to -").stdout_to("/dev/full").run();
    done.expect(1).assert_stderr(&["writing to standard output"]);
    let done = place.floodmark("capture b.pcap --to no/such/folder").run();
    done.expect(1).assert_stderr(&["no/such/folder"]);
}

#[test]
fn unreachable_broker_exits_with_code_69() {
    let place = place();
    // A port that was free a moment ago.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    drop(taken);
    let line = format!("capture a.pcap --to kafka://127.0.0.1:{port}/floodmark-flows-v1");
    place.floodmark(&line).run().expect(69).assert_stderr(&[&format!("127.0.0.1:{port}")]);
}

#[test]
fn unsupported_link_type_is_reported_with_number_and_count() {
    let place = place();
    let mut capture = pcap(&[
        packet(1_000, "10.0.0.1", "10.0.0.2", 1200),
        packet(2_000, "10.0.0.1", "10.0.0.2", 1200),
    ]);
    capture[20..24].copy_from_slice(&147u32.to_le_bytes());
    place.write("b.pcap", capture);
    let text = "2 of a link type that is not supported (2 of 147 USER0)";
    let done = place.floodmark("capture a.pcap b.pcap --to - --log-format text").run().expect(0);
    done.assert_stderr(&["counted 1 of 3 frames", text]);
    place.write("limits.json", "[]");
    let done = place.floodmark("replay a.pcap b.pcap --limits limits.json").run().expect(0);
    done.assert_stderr(&["counted 1 of 3 frames", text]);
}

#[test]
fn repeated_interface_option_is_warned_about_once() {
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
    let text = "interface 0 has if_tsresol twice; the first one is used";
    let done = done.assert_stderr(&["\"twice.pcapng\"", text]);
    assert_eq!(done.stderr.matches("if_tsresol").count(), 1, "{}", done.stderr);
}
