//! Standard output, FIFOs and files that block, fail, or lose their reader.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::kit::{AlertTopic, TopicFeed};
use super::sinks::WAITS;
use crate::common::broker::{Broker, read_all};
use crate::replay::pcap::{packet, pcap};
use crate::replay::run::{Live, Place, STUCK_AFTER, SignalTarget};
use crate::replay::traffic::BEGIN_MS;
use crate::serving::{get, get_until, server};

const ANY: &str = "{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}\n";

/// A number of changes that exceeds the capacity of a pipe.
const MANY: u64 = 400;

/// Starts a run over a topic of one partition, with a limit that every packet breaks.
fn started(place: &Place, options: &str) -> (Live, TopicFeed) {
    started_under(place, "", options)
}

fn started_under(place: &Place, under: &str, options: &str) -> (Live, TopicFeed) {
    place.write("limits.jsonl", ANY);
    let topic = Broker::shared().topic("flows", 1);
    let line = format!("run --from {topic} --limits limits.jsonl {WAITS} {options}");
    let run = place.floodmark(&line);
    let run = if under.is_empty() { run } else { run.under(under) };
    (run.start(), TopicFeed::to(&topic))
}

/// Sends `count` packets, each of which breaks the limit.
fn send(feed: &mut TopicFeed, from: u64, count: u64) {
    for number in from..from + count {
        let host = format!("10.0.{}.{}", number / 250, number % 250);
        feed.send(0, packet(BEGIN_MS + number, &host, "10.1.0.1", 100));
    }
    feed.flush();
}

/// Waits until a topic has `count` changes.
fn wait_for_alerts(alerts: &mut AlertTopic, count: u64) {
    let last = format!("10.0.{}.{}", (count - 1) / 250, (count - 1) % 250);
    alerts.wait_until(|change| change["entity"]["source"] == last.as_str());
}

/// Returns the texts of all messages of a topic.
fn lines_of(alerts: &AlertTopic) -> Vec<String> {
    read_all(&alerts.address).iter().map(|message| message.text().to_owned()).collect()
}

/// Waits until the content of a file satisfies a condition.
pub(super) fn wait_for_file(place: &Place, name: &str, holds: impl Fn(&str) -> bool) {
    let began = Instant::now();
    loop {
        // The file may not exist yet.
        let content = fs::read_to_string(place.path(name)).unwrap_or_default();
        if holds(&content) {
            return;
        }
        assert!(began.elapsed() < STUCK_AFTER, "{content}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns kind and name of each reason why a run is not ready.
fn reasons(ready: &serde_json::Value) -> Vec<(String, String)> {
    let reasons = ready["reasons"].as_array().expect("reasons").iter();
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    reasons.map(|reason| (word(&reason["reason"]), word(&reason["name"]))).collect()
}

#[test]
fn unread_stdout_is_reported_and_the_topic_gets_every_change() {
    let place = Place::new();
    let mut alerts = AlertTopic::new(Broker::shared());
    let options = format!("--http 127.0.0.1:0 --to - --to {}", alerts.address);
    let (mut run, mut feed) = started(&place, &options);
    let server = server(&mut run);
    send(&mut feed, 0, MANY);
    wait_for_alerts(&mut alerts, MANY);
    let blocked = [("sink_blocked".to_owned(), "-".to_owned())];
    get_until(server, "/readyz", |response| reasons(&response.json()) == blocked);
    run.wait_for("sink \\\"-\\\" is blocked");
    // The run still judges and delivers.
    send(&mut feed, MANY, 1);
    wait_for_alerts(&mut alerts, MANY + 1);
    let metrics = get(server, "/metrics").body;
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).trim().parse().expect("a number")
    };
    assert!(value("floodmark_sink_waiting_bytes{sink=\"-\"}") > 0.0);
    assert!(value("floodmark_sink_blocked_seconds{sink=\"-\"}") >= 5.0);
    assert_eq!(value("floodmark_sink_detached{sink=\"-\"}"), 0.0);
    assert_eq!(value("floodmark_sink_unwritten_lines_total{sink=\"-\"}"), 0.0);
    assert!(!metrics.lines().any(|line| line.ends_with(" NaN")), "{metrics}");
    // The reader comes back, and has missed no change.
    let lines: Vec<String> = (0..MANY + 1).map(|_| run.line().trim_end().to_owned()).collect();
    assert_eq!(lines, lines_of(&alerts));
    get_until(server, "/readyz", |response| response.status == 200);
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

#[test]
fn stdout_unread_for_long_is_detached_and_the_topic_gets_every_change() {
    let place = Place::new();
    let mut alerts = AlertTopic::new(Broker::shared());
    let options = format!("--http 127.0.0.1:0 --detach-after 1s --to - --to {}", alerts.address);
    let (mut run, mut feed) = started(&place, &options);
    let server = server(&mut run);
    send(&mut feed, 0, MANY);
    let line = run.wait_for("is detached");
    assert!(line.contains("\"level\":\"ERROR\"") && line.contains("unwritten_lines"), "{line}");
    send(&mut feed, MANY, 10);
    wait_for_alerts(&mut alerts, MANY + 10);
    let ready = get_until(server, "/readyz", |response| response.status == 200).json();
    assert_eq!(ready["detached_sinks"], serde_json::json!(["-"]));
    run.signal("TERM", SignalTarget::Parent);
    let done = run.finish().expect(0);
    // The pipe has accepted a number of whole lines; the others were counted.
    let written: Vec<&str> = done.stdout.lines().collect();
    let all = lines_of(&alerts);
    assert!(done.stdout.ends_with('\n') && written.len() < all.len());
    assert_eq!(written, all[..written.len()]);
}

#[test]
fn fifo_without_reader_does_not_block_the_start_of_a_run() {
    let place = Place::new();
    let fifo = place.fifo("alerts.fifo");
    let (mut run, mut feed) = started(&place, "--http 127.0.0.1:0 --to alerts.fifo");
    let server = server(&mut run);
    send(&mut feed, 0, 1);
    let no_reader = |ready: &str| ready.contains("no_reader") && !ready.contains("no_tick");
    let ready = get_until(server, "/readyz", |response| no_reader(&response.body)).json();
    let name = ("sink_blocked".to_owned(), "file:alerts.fifo".to_owned());
    assert!(reasons(&ready).contains(&name), "{ready}");
    run.wait_for("has waited for a reader of its FIFO");
    // The run waits for its only sink, and continues with each new reader.
    for number in 0..2 {
        send(&mut feed, number + 1, 1);
        let mut line = String::new();
        BufReader::new(File::open(&fifo).expect("the reader")).read_line(&mut line).expect("read");
        assert!(line.starts_with("{\"event\":\"raised\"") && line.ends_with("}\n"), "{line}");
    }
    run.signal("KILL", SignalTarget::Parent);
    run.finish_killed();
}

#[test]
fn closed_stdout_is_detached_and_the_topic_gets_every_change() {
    let place = Place::new();
    let mut alerts = AlertTopic::new(Broker::shared());
    let (mut run, mut feed) = started(&place, &format!("--to - --to {}", alerts.address));
    send(&mut feed, 0, 1);
    run.line();
    run.close_stdout();
    // The run notices the closed pipe before it has more to write.
    let line = run.wait_for("is detached");
    assert!(line.contains("its reader has gone away"), "{line}");
    send(&mut feed, 1, 3);
    wait_for_alerts(&mut alerts, 4);
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

#[test]
fn second_sigterm_ends_a_run_whose_stdout_is_blocked() {
    let place = Place::new();
    let (mut run, mut feed) = started(&place, "--http 127.0.0.1:0");
    let server = server(&mut run);
    send(&mut feed, 0, MANY);
    get_until(server, "/readyz", |response| response.body.contains("\"sink_blocked\""));
    run.signal("TERM", SignalTarget::Parent);
    let line = run.wait_for("a second SIGTERM");
    assert!(line.contains("sink \\\"-\\\""), "{line}");
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(130);
}

/// A limit of the file size stands in for a full disk, which would need root. `prlimit` lifts the limit while the program
/// runs.
#[test]
fn full_file_keeps_whole_lines_and_the_topic_gets_every_change() {
    let place = Place::new();
    let before = "{\"event\":\"rai";
    place.write("alerts.jsonl", before);
    let mut alerts = AlertTopic::new(Broker::shared());
    let options = format!("--http 127.0.0.1:0 --to alerts.jsonl --to {}", alerts.address);
    let (mut run, mut feed) = started_under(&place, "prlimit --fsize=5000:unlimited", &options);
    let server = server(&mut run);
    send(&mut feed, 0, MANY);
    wait_for_alerts(&mut alerts, MANY);
    let line = run.wait_for("can't be written");
    assert!(line.contains("File too large") && line.contains("file:alerts.jsonl"), "{line}");
    let failed = [("sink_failed".to_owned(), "file:alerts.jsonl".to_owned())];
    get_until(server, "/readyz", |response| reasons(&response.json()) == failed);
    let all = lines_of(&alerts);
    // The partial line of an earlier run is terminated, and no other line is cut.
    let full = place.read("alerts.jsonl");
    let lines: Vec<&str> = full.lines().collect();
    assert!(full.ends_with('\n') && full.len() <= 5000 && lines.len() > 2, "{full}");
    assert_eq!(lines[0], before);
    assert_eq!(lines[1..], all[..lines.len() - 1]);
    let lift = format!("--fsize=unlimited --pid {}", run.id());
    let lifted = Command::new("prlimit").args(lift.split(' ')).status().expect("running prlimit");
    assert!(lifted.success());
    let expected = format!("{before}\n{}\n", all.join("\n"));
    wait_for_file(&place, "alerts.jsonl", |content| content == expected);
    get_until(server, "/readyz", |response| response.status == 200);
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

#[test]
fn file_beyond_the_size_limit_is_an_error_of_every_command() {
    let place = Place::new();
    let packets: Vec<_> =
        (0..200).map(|number| packet(BEGIN_MS + number, "10.0.0.1", "10.0.0.2", 100)).collect();
    place.write("a.pcap", pcap(&packets));
    place.write("limits.jsonl", ANY);
    place.write("out.jsonl", ANY);
    for line in [
        "replay a.pcap --limits limits.jsonl --changes out",
        "replay a.pcap --totals out",
        "generate out --packets 1000",
        "capture a.pcap --to out --aggregate off",
        "convert --from a.pcap --to out",
        "limits set any 5 --limits out.jsonl",
    ] {
        let done = place.floodmark(line).under("prlimit --fsize=50").run().expect(1);
        done.assert_stderr(&["File too large", "out"]);
    }
}

/// The process that collects the log may be blocked.
#[test]
fn unread_log_does_not_block_the_run() {
    let place = Place::new();
    let fifo = place.fifo("log.fifo");
    // Open for reading and writing, so that opening does not block, and full.
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let options = File::options().read(true).write(true).custom_flags(flags).open(&fifo);
    let mut log = options.expect("the FIFO");
    let full = loop {
        if let Err(error) = log.write(&[b'x'; 512]) {
            break error.kind();
        }
    };
    assert_eq!(full, ErrorKind::WouldBlock);
    // Each read of the limits logs the rejected rows.
    let wrong = "{\"limit_name\":\"wrong\",\"limit_value\":-1,\"effective_date\":\"1970-01-01\"}\n";
    let script = place.write("log.sh", "exec \"$@\" 2> log.fifo\n");
    let (mut run, mut feed) = started_under(&place, &format!("sh {}", script.display()), "");
    for number in 0..5 {
        send(&mut feed, number, 1);
        run.line();
        place.write("limits.jsonl", ANY.to_owned() + &wrong.repeat(number as usize));
    }
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}
