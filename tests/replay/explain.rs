//! `floodmark limits explain` of captures, as a command: its amounts equal those of `replay --totals`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use super::pcap::{packet, pcap};
use super::run::Place;
use super::traffic::BEGIN_MS;
use crate::common::data;

/// Returns a limit of each kind, with values that some totals break and others do not.
fn limits() -> String {
    let mut limits = String::new();
    for per in ["pair", "source", "destination", "host", "total"] {
        for (bound, metric, value) in [("max", "bytes", 9000), ("min", "packets", 40)] {
            for (name, narrow) in [("", ""), ("-narrow", ",\"destination\":\"172.16.0.128/25\"")] {
                limits += &format!(
                    "{{\"limit_name\":\"{bound}-{per}{name}\",\"limit_value\":{value},\
                     \"effective_date\":\"2020-01-01\",\"per\":\"{per}\",\"bound\":\"{bound}\",\
                     \"metric\":\"{metric}\"{narrow}}}\n"
                );
            }
        }
    }
    limits
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_else(|| panic!("no text in \"{field}\" of {of}"))
}

/// Returns the bytes and packets that a limit counts for its entity, of rows of totals.
fn sum(totals: &[Vec<&str>], limit: &Value) -> (i64, i64) {
    let entity = &limit["entity"];
    let is = |field: &str, address: &str| entity[field].as_str().is_none_or(|of| of == address);
    let counts = |source: &str, destination: &str| {
        let host = entity["host"].as_str().is_none_or(|host| host == source || host == destination);
        let narrow = text(limit, "destination") != "any";
        // The addresses of this capture in 172.16.0.128/25.
        let inside = ["172.16.0.211", "172.16.0.224"].contains(&destination);
        host && is("source", source) && is("destination", destination) && (!narrow || inside)
    };
    totals.iter().filter(|row| counts(row[1], row[2])).fold((0, 0), |(bytes, packets), row| {
        let number = |text: &str| text.parse::<i64>().expect("a number");
        (bytes + number(row[3]), packets + number(row[4]))
    })
}

#[test]
fn explained_amounts_equal_the_totals() {
    let place = Place::new();
    place.write("limits.jsonl", limits());
    let capture = data().join("captures/kerberos-tso.pcapng");
    let capture = capture.display();
    let csv = place.floodmark(&format!("replay {capture} --totals - --changes none")).stdout(0);
    let rows: Vec<Vec<&str>> = csv.lines().skip(1).map(|row| row.split(',').collect()).collect();
    let windows: BTreeSet<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(windows.len(), 3);
    let (mut broken, mut kept, mut silent) = (0, 0, 0);
    for window in windows {
        let totals: Vec<Vec<&str>> = rows.iter().filter(|row| row[0] == window).cloned().collect();
        for pair in
            ["172.16.0.100 172.16.0.211", "172.16.0.5 172.16.0.211", "10.0.0.1 172.16.0.224"]
        {
            let line = format!(
                "limits explain {pair} --capture {capture} --limits limits.jsonl --at {window} \
                 --format json"
            );
            let printed: Value =
                serde_json::from_str(&place.floodmark(&line).stdout(0)).expect("JSON");
            assert_eq!(
                (text(&printed, "window_start"), text(&printed, "window_state")),
                (window, "settled")
            );
            let limits = printed["limits"].as_array().expect("limits");
            // Four of the 20 limits judge both hosts.
            assert_eq!(limits.len(), 24, "{printed}");
            for limit in limits {
                let (bytes, packets) = sum(&totals, limit);
                let max = text(limit, "bound") == "max";
                let amount = if max { bytes } else { packets };
                let over = if max { amount - 9000 } else { 40 - amount };
                assert_eq!(
                    (&limit["amount"], &limit["headroom"]),
                    (&amount.into(), &(-over).into())
                );
                let judged = max || packets != 0 || text(limit, "per") == "total";
                assert_eq!(limit["violated"], over > 0 && judged, "{limit}");
                assert_eq!(limit.get("not_judged").is_none(), judged, "{limit}");
                match limit["violated"] == true {
                    _ if !judged => silent += 1,
                    true => broken += 1,
                    false => kept += 1,
                }
            }
        }
    }
    assert!(broken > 20 && kept > 20 && silent > 20, "{broken} {kept} {silent}");
}

const MAX: &str = r#"{"limit_name":"max","limit_value":100,"effective_date":"2024-01-01"}
{"limit_name":"later","limit_value":1e30,"effective_date":"2024-05-01T12:03:00Z","per":"source"}
{"limit_name":"other","limit_value":1,"effective_date":"2024-01-01","source":"10.9.0.0/16"}
"#;

/// Returns a directory with limits and a capture of two windows.
fn place() -> Place {
    let place = Place::new();
    place.write("limits.jsonl", MAX);
    let packets = [
        packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 90),
        packet(BEGIN_MS + 400_000, "10.0.0.1", "10.0.0.2", 60),
        packet(BEGIN_MS + 500_000, "10.0.0.1", "10.0.0.2", 61),
    ];
    place.write("made.pcap", pcap(&packets));
    place
}

#[test]
fn explanation_is_printed_as_a_table() {
    let place = place();
    let line = "limits explain 10.0.0.1 10.0.0.2 --capture made.pcap --all";
    let done = place.floodmark(line).env("FLOODMARK_LIMITS", "limits.jsonl").run().expect(0);
    assert_eq!(
        done.stdout,
        "10.0.0.1 > 10.0.0.2, window 2024-05-01T12:05:00Z to 2024-05-01T12:10:00Z, which is settled, \
         as of 2024-05-01T12:10:01.001Z\n\n\
         limit_name  who                  limit_value     amount  headroom                        \
         state   scope  effective_date\n\
         later       source 10.0.0.1      max 1e30 bytes  121     999999999999999999999999999879  \
         kept    -      2024-05-01T12:03:00Z\n\
         max         10.0.0.1 > 10.0.0.2  max 100 bytes   121     -21                             \
         broken  -      2024-01-01T00:00:00Z\n\n\
         limit_name  why it does not apply\n\
         other       10.0.0.1 is not in source 10.9.0.0/16\n"
    );
    assert_eq!(done.stderr, "floodmark: counted 3 of 3 frames, 211 bytes\n");
    // Several captures are one input, here in one wide window, and arguments may be in any order.
    let line = "limits explain --window 1h --capture made.pcap 10.0.0.1 --capture made.pcap 10.0.0.2 \
                --limits limits.jsonl";
    assert!(place.floodmark(line).stdout(0).contains("max 100 bytes   422     -322"));
    let line = "limits explain 10.0.0.2 2.2.2.2 --capture made.pcap --limits none.jsonl";
    place.write("none.jsonl", MAX.lines().last().expect("a line"));
    assert!(place.floodmark(line).stdout(0).ends_with(
        "\n\nno limit applies: the only limit does not apply: \"other\": 10.0.0.2 is not in source \
         10.9.0.0/16\n"
    ));
}

#[test]
fn explain_failures_have_distinct_exit_codes() {
    let place = place();
    let explain = |line: &str| place.floodmark(&format!("limits explain {line}"));
    let usual = "10.0.0.1 10.0.0.2 --limits limits.jsonl";
    for (line, code, part) in [
        ("10.0.0.1 10.0.0.2".to_owned(), 64, "<--capture <FILE>|--from <URL>>"),
        ("10.0.0.1 10.0.0.2 --capture made.pcap".to_owned(), 64, "give --limits FILE"),
        (format!("{usual} --from http://127.0.0.1:1"), 64, "cannot be used with"),
        (format!("{usual} --capture made.pcap --at 1969-01-01"), 64, "before 1970"),
        ("10.0.0.1 ::1 --capture made.pcap".to_owned(), 64, "different families"),
        ("10.0.0.1 10.0.0.0/8 --capture made.pcap".to_owned(), 64, "is not an address"),
        ("::1 ::2 --from https://127.0.0.1".to_owned(), 64, "give http://HOST:PORT"),
        (format!("{usual} --capture missing.pcap"), 66, "missing.pcap"),
        ("::1 ::2 --capture made.pcap --limits no.jsonl".to_owned(), 66, "no.jsonl"),
        ("::1 ::2 --capture made.pcap --limits made.pcap".to_owned(), 78, "reading limits"),
    ] {
        explain(&line).run().expect(code).assert_stderr(&[part]);
    }
    let empty = data().join("malformed/ip4-trunc.pcap");
    let line = format!("{usual} --capture {}", empty.display());
    explain(&line)
        .run()
        .expect(64)
        .assert_stderr(&["no record is in any window", "give --at TIME"]);
    explain(&format!("{line} --at 2024-05-02")).run().expect(0);
    // The packets before the damage are counted.
    let mut bytes = std::fs::read(place.path("made.pcap")).expect("the capture");
    bytes.truncate(bytes.len() - 5);
    place.write("cut.pcap", bytes);
    let done = explain(&format!("{usual} --capture cut.pcap")).run().expect(65);
    assert!(done.stdout.contains("max 100 bytes   60 "), "{}", done.stdout);
    let line = format!("{usual} --capture made.pcap");
    explain(&line).stdout_closed().run().expect(0);
    explain(&line)
        .env("FLOODMARK_WINDOW", "soon")
        .run()
        .expect(64)
        .assert_stderr(&["FLOODMARK_WINDOW: not"]);
}

/// Runs an explain query to a server that sends this response, and returns the output of the command, which must
/// exit with `code`.
fn explain_from(response: &'static str, code: i32) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 4096];
        let read = stream.read(&mut request).expect("a request");
        write!(stream, "{response}").expect("the response is sent");
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    let place = Place::new();
    // Variables for options of other sources are ignored.
    let line = format!(
        "limits explain 2001:db8::1 2001:db8::2 --from http://{address}/of/it/ --all \
         --at 2024-05-01T02:00:00+02:00"
    );
    let run = place.floodmark(&line).env("FLOODMARK_WINDOW", "x").env("FLOODMARK_LIMITS", "y");
    let done = run.run().expect(code);
    let request = server.join().expect("the request");
    let path = "/of/it/api/v1/explain?source=2001:db8::1&destination=2001:db8::2\
                &at=2024-05-01T00:00:00Z&all=true";
    assert!(request.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{request}");
    done.stdout + &done.stderr
}

#[test]
fn http_response_decides_message_and_exit_code() {
    let http = |response: &'static str, code, part: &str| {
        let printed = explain_from(response, code);
        assert!(printed.contains(part), "{printed}");
    };
    http(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"limits\":[],\"why_none\":\"so\\u001b[31m\"}",
        0,
        "no limit applies: so [31m\n",
    );
    http("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"limits\":7}", 1, "no run of floodmark");
    http("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello", 1, "no run of floodmark");
    http("SSH-2.0\r\n\r\n", 1, "querying \"http://127.0.0.1:");
    http("HTTP/1.1 404 No\r\nconnection: close\r\n\r\n<html>", 1, "is it a run of floodmark");
    http("HTTP/1.1 503 No\r\nconnection: close\r\n\r\n{\"error\":\"later\"}", 69, "503: later");
    http("HTTP/1.1 421 No\r\nconnection: close\r\n\r\n{\"error\":\"not me\"}", 1, "421: not me");
    http("HTTP/1.1 400 No\r\nconnection: close\r\n\r\n{\"error\":\"wrong\"}", 64, "400: wrong");
}
