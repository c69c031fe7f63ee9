//! Strays: packets with a time far ahead of the next packet of their capture.

use super::fold::{assert_same, changes, text};
use super::pcap::{Packet, packet, pcap, pcapng};
use super::pipes::PipeFeed;
use super::run::Place;
use super::traffic::{BEGIN_MS, date};
use crate::common::{gzip, zstd};

const DAY_MS: u64 = 86_400_000;

/// 2045-01-01T00:00:00Z.
const FAR_MS: u64 = 2_366_841_600_000;

const LIMITS: &str = r#"
{"limit_name":"max","limit_value":1000,"effective_date":"1970-01-01"}
{"limit_name":"min-all","limit_value":1,"effective_date":"1970-01-01","per":"total"}
"#;

/// With these options, a counted packet from 2045 would make all packets after it late.
const STRICT: &str = "--limits limits.jsonl --window 1m --lateness 10s --retention 1m --updates tick --top 2 \
                      --totals totals.csv";

/// Returns twelve packets in three minutes.
fn sound() -> Vec<Packet> {
    (0..12).map(|at| packet(BEGIN_MS + at * 15_000, "10.0.0.1", "10.0.0.2", 400)).collect()
}

fn stray(ms: u64) -> Packet {
    packet(ms, "10.0.0.7", "10.0.0.8", 50_000)
}

/// Returns the sound packets with strays inserted at these positions.
fn with(strays: &[(usize, u64)]) -> Vec<Packet> {
    let mut packets = sound();
    for (at, ms) in strays {
        packets.insert(*at, stray(*ms));
    }
    packets
}

fn place() -> Place {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    place.write("sound.pcap", pcap(&sound()));
    place
}

/// Replays these files, and returns changes and totals.
fn replay(place: &Place, files: &str, message: &[&str]) -> (String, String) {
    let done =
        place.floodmark(&format!("replay {files} {STRICT}")).run().expect(0).assert_stderr(message);
    (done.stdout, place.read("totals.csv"))
}

#[test]
fn stray_before_the_end_is_dropped_named_and_counted() {
    let place = place();
    let expected = replay(&place, "sound.pcap", &["counted 12 of 12 frames"]);
    assert!(expected.0.contains("\"as_of\":\"2024-05-01T12:00:30Z\""), "{}", expected.0);
    for at in [0, 1, 5, 11] {
        let packets = with(&[(at, FAR_MS)]);
        place.write("a", pcap(&packets));
        place.write("b", pcapng(&packets));
        place.write("c", gzip(&pcap(&packets)));
        place.write("d", zstd(&pcapng(&packets)));
        for files in ["a", "b -w2", "c", "d -n2", "- -w2"] {
            let name = format!("frame {} is dropped as a stray", at + 1);
            let parts = [
                &*name,
                "its time 2045-01-01T00:00:00Z is more than 24h ahead of that of the next packet, 2024-05-01T12:0",
                "--max-ahead",
                "counted 12 of 13 frames",
                "not counted: 1 that are strays",
            ];
            let line = format!("replay {files} {STRICT}");
            let run = place.floodmark(&line).stdin(pcap(&packets));
            let done = run.run().expect(0).assert_stderr(&parts);
            assert_same(&expected.0, &done.stdout, || format!("{line}, stray at {at}"));
            assert_same(&expected.1, &place.read("totals.csv"), || format!("{line}, at {at}"));
        }
    }
}

#[test]
fn packet_far_ahead_at_the_end_is_counted() {
    let place = place();
    place.write("a.pcap", pcap(&with(&[(12, FAR_MS)])));
    let (changes, totals) = replay(&place, "a.pcap", &["counted 13 of 13 frames"]);
    assert!(changes.contains("raised") && totals.contains("2045-01-01T00:00:00Z,10.0.0.7"));
    place.write("one.pcap", pcap(&[stray(FAR_MS)]));
    replay(&place, "one.pcap", &["counted 1 of 1 frames"]);
    // A damaged capture ends with the last packet that is sound.
    let mut cut = pcap(&with(&[(12, FAR_MS), (13, BEGIN_MS + 181_000)]));
    cut.pop();
    place.write("cut.pcap", cut);
    let done = place.floodmark(&format!("replay cut.pcap {STRICT}")).run().expect(65);
    done.assert_stderr(&["packet 14", "counted 13 of 13 frames"]);
}

#[test]
fn first_of_two_strays_is_counted_only_if_the_second_confirms_it() {
    let place = place();
    for (strays, counted) in [
        // The second stray has the same time: it confirms the first, and nothing confirms the second.
        ([(5, FAR_MS), (6, FAR_MS)], 13),
        ([(5, FAR_MS + 2 * DAY_MS), (6, FAR_MS)], 12),
        ([(0, FAR_MS + 2 * DAY_MS), (1, FAR_MS)], 12),
        ([(2, FAR_MS), (9, FAR_MS)], 12),
    ] {
        place.write("a.pcap", pcap(&with(&strays)));
        replay(&place, "a.pcap", &[&format!("counted {counted} of 14 frames")]);
    }
}

#[test]
fn strays_are_detected_in_each_capture_by_itself() {
    let place = place();
    let odd: Vec<Packet> = sound().into_iter().skip(1).step_by(2).collect();
    let even: Vec<Packet> = sound().into_iter().step_by(2).collect();
    place.write("odd.pcap", pcap(&odd));
    place.write("even.pcap", pcap(&even));
    let expected = replay(&place, "sound.pcap", &[]);
    let strayed = |packets: &[Packet], at: usize| {
        let mut packets = packets.to_vec();
        packets.insert(at, stray(FAR_MS));
        pcap(&packets)
    };
    for (at_odd, at_even) in [(0, 0), (0, 3), (5, 5)] {
        place.write("odd-stray.pcap", strayed(&odd, at_odd));
        place.write("even-stray.pcap", strayed(&even, at_even));
        for (files, count) in
            [("odd-stray.pcap even.pcap", 1), ("even-stray.pcap odd-stray.pcap -w2", 2)]
        {
            let message = format!("not counted: {count} that are strays");
            assert!(replay(&place, files, &[&message]) == expected, "{files}: {at_odd}, {at_even}");
        }
    }
    // A packet of another capture does not confirm a stray.
    place.write("far.pcap", pcap(&[stray(FAR_MS + 1000)]));
    place.write("a.pcap", strayed(&sound(), 4));
    replay(
        &place,
        "a.pcap far.pcap",
        &["counted 13 of 14 frames", "\"a.pcap\": frame 5 is dropped"],
    );
}

#[test]
fn jump_confirmed_by_the_next_packet_is_counted() {
    let place = place();
    let packets: Vec<Packet> =
        [0, 15_000, FAR_MS - BEGIN_MS, FAR_MS - BEGIN_MS + 1, FAR_MS - BEGIN_MS + 15_000, 30_000]
            .map(|after| packet(BEGIN_MS + after, "10.0.0.1", "10.0.0.2", 400))
            .to_vec();
    place.write("a.pcap", pcap(&packets));
    let line = "replay a.pcap --limits limits.jsonl";
    place.floodmark(line).run().expect(0).assert_stderr(&["counted 6 of 6 frames, 2400 bytes\n"]);
}

#[test]
fn packets_days_apart_are_counted_if_ascending_or_within_max_ahead() {
    let place = place();
    let days = |step: u64| -> Vec<Packet> {
        (0..200)
            .map(|at| packet(BEGIN_MS + at * step * DAY_MS, "10.0.0.1", "10.0.0.2", 400))
            .collect()
    };
    let reversed = |step| days(step).into_iter().rev().collect::<Vec<_>>();
    place.write("up.pcap", pcap(&days(3)));
    place.write("down.pcap", pcap(&reversed(1)));
    place.write("far-down.pcap", pcap(&reversed(3)));
    for (words, message) in [
        ("up.pcap", "counted 200 of 200 frames"),
        ("down.pcap", "counted 200 of 200 frames"),
        ("down.pcap --max-gap 1h", "counted 1 of 200 frames"),
        ("far-down.pcap", "counted 1 of 200 frames"),
        ("far-down.pcap --max-ahead 3d", "counted 200 of 200 frames"),
        ("far-down.pcap --max-ahead 1h --max-gap 3d", "counted 1 of 200 frames"),
        ("far-down.pcap --max-gap 3d", "counted 200 of 200 frames"),
    ] {
        let line = format!("replay {words} --window 1h --tick 1h");
        place.floodmark(&line).run().expect(0).assert_stderr(&[message]);
    }
    // The first strays are named, and all are counted.
    let done = place.floodmark("replay far-down.pcap").run().expect(0);
    let done =
        done.assert_stderr(&["further strays are counted, and not named", "199 that are strays"]);
    assert_eq!(done.stderr.matches("is dropped as a stray").count(), 20, "{}", done.stderr);
    assert_eq!(done.stderr.lines().count(), 22, "{}", done.stderr);
}

#[test]
fn max_ahead_bounds_disorder_and_0_forbids_it() {
    let place = place();
    let mut packets = sound();
    packets.swap(5, 6);
    place.write("a.pcap", pcap(&packets));
    place
        .floodmark("replay a.pcap --max-ahead 15s")
        .run()
        .expect(0)
        .assert_stderr(&["counted 12 of 12"]);
    place
        .floodmark("replay a.pcap --max-ahead 14s")
        .run()
        .expect(0)
        .assert_stderr(&["counted 11 of 12"]);
    place
        .floodmark("replay a.pcap --max-ahead 0s")
        .run()
        .expect(0)
        .assert_stderr(&["counted 11 of 12"]);
    let done = place.floodmark("replay a.pcap --max-ahead far").run().expect(64);
    done.assert_stderr(&["--max-ahead", "not a duration: \"far\""]);
    // With several processes, only the first one reads.
    place
        .floodmark("replay a.pcap --max-ahead 14s -n2")
        .run()
        .expect(0)
        .assert_stderr(&["counted 11 of 12"]);
}

#[test]
fn stray_in_a_pipe_is_dropped_when_the_next_packet_arrives() {
    for variant in ["-w1", "-n2"] {
        let place = place();
        let pipe = place.fifo("pipe");
        let mut run = place
            .floodmark(&format!("replay pipe --limits limits.jsonl --window 1m {variant}"))
            .start();
        let mut feed = PipeFeed::open(&pipe);
        feed.packet(stray(FAR_MS));
        feed.packet(packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 1200));
        feed.packet(packet(BEGIN_MS + 1000, "10.0.0.1", "10.0.0.2", 20));
        let change = changes(&run.line()).remove(0);
        assert_eq!(text(&change, "as_of"), date(BEGIN_MS), "{variant}");
        run.wait_for("frame 1 is dropped as a stray");
        drop(feed);
        run.finish().expect(0).assert_stderr(&["counted 2 of 3 frames"]);
    }
}

#[test]
fn jump_in_a_pipe_is_accepted_after_a_second_without_a_next_packet() {
    for compressed in [false, true] {
        let place = place();
        let pipe = place.fifo("pipe");
        let mut run = place.floodmark("replay pipe --limits limits.jsonl --window 1m").start();
        let packets =
            [0, 1, 3 * DAY_MS].map(|after| packet(BEGIN_MS + after, "10.0.0.1", "10.0.0.2", 1200));
        // The third packet begins a tick, and no packet follows for a while.
        let mut feed = if compressed {
            let mut bytes = gzip(&pcap(&packets[..2]));
            bytes.extend(member(&packets[2].record()));
            PipeFeed::open_with(&pipe, &bytes)
        } else {
            PipeFeed::open_with(&pipe, &pcap(&packets))
        };
        let change = changes(&run.line()).remove(0);
        assert_eq!(text(&change, "as_of"), date(BEGIN_MS), "compressed: {compressed}");
        // The packet that follows later is late.
        let late = packet(BEGIN_MS + 2, "10.0.0.3", "10.0.0.4", 1200).record();
        feed.write(&if compressed { member(&late) } else { late });
        drop(feed);
        let done = run.finish().expect(0).assert_stderr(&["counted 4 of 4 frames"]);
        assert!(done.stdout.contains(&format!("\"as_of\":\"{}\"", date(BEGIN_MS + 3 * DAY_MS))));
    }
}

/// Compresses the continuation of a stream as another gzip member.
fn member(bytes: &[u8]) -> Vec<u8> {
    gzip(bytes)
}

#[test]
fn stray_is_dropped_by_explain_and_does_not_select_the_window() {
    let place = place();
    place.write("a.pcap", pcap(&with(&[(4, FAR_MS)])));
    let line =
        "limits explain 10.0.0.1 10.0.0.2 --capture a.pcap --limits limits.jsonl --window 1m";
    let done = place
        .floodmark(line)
        .run()
        .expect(0)
        .assert_stderr(&["is dropped as a stray", "counted 12 of 13"]);
    assert!(done.stdout.contains("window 2024-05-01T12:02:00Z"), "{}", done.stdout);
    let done = place.floodmark(&format!("{line} --max-ahead 30y")).run().expect(64);
    done.assert_stderr(&["--max-ahead"]);
    let line = format!("{line} --max-ahead 9000d");
    let done = place.floodmark(&line).run().expect(0).assert_stderr(&["counted 13 of 13"]);
    assert!(done.stdout.contains("window 2045-01-01T00:00:00Z"), "{}", done.stdout);
    let line = "limits explain 10.0.0.1 10.0.0.2 --from http://127.0.0.1:1 --max-ahead 1d";
    place.floodmark(line).run().expect(64).assert_stderr(&["cannot be used with"]);
}

#[test]
fn stray_is_dropped_by_test_unless_max_ahead_allows_it() {
    let place = place();
    place.write("a.pcap", pcap(&with(&[(0, FAR_MS)])));
    place.write(
        "a.scenario",
        "clock replay\ncapture a.pcap\nwindow 1m\nlimit big 40000\n\n\
         case a stray moves nothing\nat 0s\n  expect nothing\nend\n  expect nothing\n\n\
         case it is believed where that is asked for\nmax-ahead 9000d\nbegin 2024-05-01T12:00:00Z\n\
         end\n  expect raised big 10.0.0.7 > 10.0.0.8  50000 bytes\n  \
         expect updated big 10.0.0.7 > 10.0.0.8  settled=true\n",
    );
    let done = place.floodmark("test a.scenario").run().expect(0);
    assert!(done.stdout.contains("2 cases played"), "{}", done.stdout);
}

#[test]
fn stray_is_dropped_by_capture_with_speed_or_max_ahead_and_sent_otherwise() {
    let place = place();
    place.write("a.pcap", pcap(&with(&[(0, FAR_MS), (6, FAR_MS)])));
    for (words, strays) in [
        ("--speed 1000x", 0),
        ("--max-ahead 24h", 0),
        ("", 2),
        ("--speed max --max-ahead 9000d", 2),
    ] {
        let line = format!("capture a.pcap --to - --format json {words} --aggregate off");
        let done = place.floodmark(&line).run().expect(0);
        let done = match strays {
            0 => done.assert_stderr(&["frame 1 is dropped as a stray", "2 that are strays"]),
            _ => done,
        };
        assert_eq!(done.stdout.matches("10.0.0.7").count(), strays, "{line}: {}", done.stdout);
        assert_eq!(done.stdout.matches("10.0.0.1\"").count(), 12, "{line}: {}", done.stdout);
    }
    let line = "capture --interface lo --to - --max-ahead 1d";
    place.floodmark(line).run().expect(64).assert_stderr(&["--max-ahead is for captures"]);
    // A conversion keeps strays.
    assert!(place.floodmark("convert --from a.pcap").stdout(0).contains("10.0.0.7"));
}
