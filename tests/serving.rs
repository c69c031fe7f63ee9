//! The HTTP pages of a live run: metrics, and readiness with its reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use floodmark::kafka::{Address, Outgoing};
use serde_json::Value;

use crate::common::broker::{Broker, Mock, produce, read_all};
use crate::common::now_ms;
use crate::replay::run::{Live, Place, STUCK_AFTER, SignalTarget};

/// An HTTP response.
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl HttpResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Requests a page.
pub(crate) fn get(server: SocketAddr, path: &str) -> HttpResponse {
    let mut stream = TcpStream::connect(server).expect("a server");
    stream.set_read_timeout(Some(STUCK_AFTER)).expect("a time-out");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n")
        .expect("the request is sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    HttpResponse { status, head: head.to_owned(), body: body.to_owned() }
}

/// Requests a page until the response satisfies a condition.
pub(crate) fn get_until(
    server: SocketAddr,
    path: &str,
    holds: impl Fn(&HttpResponse) -> bool,
) -> HttpResponse {
    let started = Instant::now();
    loop {
        let response = get(server, path);
        if holds(&response) {
            return response;
        }
        assert!(
            started.elapsed() < STUCK_AFTER,
            "{path} stays: {}\n{}",
            response.status,
            response.body
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Parses an exposition, asserts its format, and returns the value of each series.
fn series(text: &str) -> BTreeMap<String, f64> {
    let name = |text: &str| {
        let mut letters = text.chars();
        letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    let mut series = BTreeMap::new();
    let (mut family, mut kind, mut helped) = (String::new(), String::new(), String::new());
    let mut families = BTreeSet::new();
    assert!(text.ends_with('\n'));
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect("a text").0.to_owned();
        } else if let Some(of) = line.strip_prefix("# TYPE ") {
            let (of, is) = of.split_once(' ').expect("a kind");
            (family, kind) = (of.to_owned(), is.to_owned());
            assert!(name(&family) && families.insert(family.clone()), "{line}");
            assert!(kind == "counter" || kind == "gauge", "{line}");
            assert_eq!(helped, family, "no help before: {line}");
        } else {
            let (key, value) = line.rsplit_once(' ').expect("a value");
            let (of, labels) = key.split_once('{').unwrap_or((key, "}"));
            assert_eq!(of, family, "{line}");
            let labels = labels.strip_suffix('}').expect("the end of the labels");
            for label in labels.split(',').filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once('=').expect("a label");
                assert!(name(label), "{line}");
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                let value = value.unwrap_or_else(|| panic!("{line}"));
                // Topics and files of these tests need no escapes, and no label must be an address.
                assert!(!value.contains(['"', '\\']), "{line}");
                assert!(value.parse::<std::net::IpAddr>().is_err(), "{line}");
            }
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(kind != "counter" || value >= 0.0, "{line}");
            assert!(series.insert(key.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    series
}

pub(crate) fn scrape(server: SocketAddr) -> BTreeMap<String, f64> {
    let response = get(server, "/metrics");
    assert_eq!(response.status, 200);
    assert!(response.head.contains("content-type: text/plain; version=0.0.4"), "{}", response.head);
    assert!(response.head.contains("floodmark-as-of: "), "{}", response.head);
    series(&response.body)
}

/// Scrapes until the series satisfy a condition.
pub(crate) fn scrape_until(
    server: SocketAddr,
    what: &str,
    holds: impl Fn(&BTreeMap<String, f64>) -> bool,
) -> BTreeMap<String, f64> {
    let started = Instant::now();
    loop {
        let series = scrape(server);
        if holds(&series) {
            return series;
        }
        assert!(started.elapsed() < STUCK_AFTER, "stuck before: {what}: {series:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the kinds of the reasons.
fn reasons(ready: &Value) -> Vec<&str> {
    let reasons = ready["reasons"].as_array().expect("reasons");
    reasons.iter().map(|reason| reason["reason"].as_str().expect("a kind")).collect()
}

pub(crate) fn reason<'a>(ready: &'a Value, kind: &str) -> Option<&'a Value> {
    ready["reasons"].as_array()?.iter().find(|reason| reason["reason"] == kind)
}

/// Waits until a run serves HTTP, and returns its address from the log.
pub(crate) fn server(run: &mut Live) -> SocketAddr {
    let line = run.wait_for("serves /metrics");
    let line: Value = serde_json::from_str(&line).expect("a line of the log is JSON");
    line["address"].as_str().expect("an address").parse().expect("an address")
}

/// Sends records of one packet each, all of one time.
fn send(to: &Address, partition: i32, time_ms: u64, records: usize) {
    let record = Outgoing {
        key: Some(b"192.0.2.1 192.0.2.2"),
        payload: Some(b"100"),
        timestamp_ms: Some(time_ms as i64),
        partition: Some(partition),
        ..Outgoing::default()
    };
    produce(to, &vec![record; records]);
}

const LIMITS: &str = r#"[{"limit_name": "max", "limit_value": 1000, "effective_date": "2020-01-01"},
{"limit_name": "later", "limit_value": 1, "effective_date": "2999-01-01"},
{"limit_name": "wrong", "limit_value": -1, "effective_date": "2020-01-01"}]"#;

const OPTIONS: &str = "--limits limits.json --http 127.0.0.1:0 --tick 50ms";

fn end(run: Live) {
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

#[test]
fn run_serves_correct_metrics_and_readiness() {
    let (mock, place) = (Mock::new(), Place::new());
    let (flows, alerts) = (mock.topic("flows", 3), mock.topic("alerts", 1));
    place.write("limits.json", LIMITS);
    send(&flows, 0, now_ms(), 500);
    send(&flows, 2, now_ms(), 500);
    // One window, whenever the test runs.
    let line = format!(
        "run --from {flows} --to {alerts} --to - {OPTIONS} -w2 --idle-timeout 1s --window 87600h"
    );
    let mut run = place.floodmark(&line).start();
    let server = server(&mut run);
    let lag = |partition| {
        format!("floodmark_kafka_lag_messages{{topic=\"flows\",partition=\"{partition}\"}}")
    };
    let records = "floodmark_input_records_total{source=\"kafka:flows\",format=\"kv\"}";
    let series = scrape_until(server, "all consumed and judged", |series| {
        (0..3).all(|partition| series.get(&lag(partition)) == Some(&0.0))
            && series.get(records) == Some(&1000.0)
            && series.get("floodmark_violations{status=\"standing\"}") == Some(&1.0)
            && series.get("floodmark_sink_waiting_messages{sink=\"kafka:alerts\"}") == Some(&0.0)
            && series.contains_key("process_cpu_seconds_total")
    });
    let value = |key: &str| *series.get(key).unwrap_or_else(|| panic!("no {key}: {series:#?}"));
    assert_eq!(value("floodmark_input_messages_total{source=\"kafka:flows\"}"), 1000.0);
    assert_eq!(value("floodmark_limits{state=\"held\"}"), 2.0);
    assert_eq!(value("floodmark_limits{state=\"refused\"}"), 1.0);
    assert_eq!(value("floodmark_limits{state=\"in_force\"}"), 1.0);
    assert_eq!(value("floodmark_changes_total{event=\"raised\",reason=\"data\"}"), 1.0);
    assert_eq!(value("floodmark_changes_total{event=\"cleared\",reason=\"limit_change\"}"), 0.0);
    assert_eq!(value("floodmark_late_records_total{disposition=\"dropped\"}"), 0.0);
    assert_eq!(value("floodmark_sink_errors_total{sink=\"-\"}"), 0.0);
    assert_eq!(value("floodmark_sink_reachable{sink=\"kafka:alerts\"}"), 1.0);
    assert_eq!(value("floodmark_source_reachable"), 1.0);
    assert!(value("floodmark_windows_open") >= 1.0);
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    let now = now_ms() as f64 / 1e3;
    for (key, ago) in [
        ("floodmark_limits_last_reload_success_timestamp_seconds", 120.0),
        ("floodmark_frontier_seconds{worker=\"0\"}", 120.0),
        ("floodmark_frontier_seconds{worker=\"1\"}", 120.0),
        ("floodmark_kafka_partition_event_time_seconds{topic=\"flows\",partition=\"2\"}", 120.0),
        ("process_start_time_seconds", 120.0),
    ] {
        assert!((now - ago..=now + 2.0).contains(&value(key)), "{key} {} at {now}", value(key));
    }
    let ready = get_until(server, "/readyz", |response| response.status == 200).json();
    assert_eq!(ready["reasons"], Value::Array(Vec::new()), "{ready}");
    assert!(ready["as_of"].is_string() && ready["tick_age_seconds"].is_number(), "{ready}");
    let alive = get(server, "/healthz");
    assert_eq!((alive.status, &alive.json()["alive"]), (200, &Value::Bool(true)));
    // The run counts live totals every ten seconds; all records of a pair and window are one total.
    scrape_until(server, "the pair is counted", |series| {
        series.get("floodmark_pairs") == Some(&1.0)
    });
    let idle = "floodmark_kafka_partition_idle{topic=\"flows\",partition=\"1\"}";
    scrape_until(server, "it is idle", |series| series.get(idle) == Some(&1.0));
    end(run);
}

/// Asserts that the lag of a paused partition is exact, and that the reason names both partitions.
fn check_lag(flows: &Address) {
    let place = Place::new();
    place.write("limits.json", "[]");
    let now = now_ms();
    send(flows, 0, now - 3_600_000, 1);
    let line = format!(
        "run --from {flows} {OPTIONS} --max-skew 1m --idle-timeout 1m --group {}",
        flows.topic
    );
    let mut run = place.floodmark(&line).start();
    let server = server(&mut run);
    let of = |name, partition| {
        format!("floodmark_kafka_{name}{{topic=\"{}\",partition=\"{partition}\"}}", flows.topic)
    };
    let is = |series: &BTreeMap<String, f64>, name, partition, value| {
        series.get(&of(name, partition)) == Some(&value)
    };
    scrape_until(server, "all consumed", |series| {
        is(series, "lag_messages", 0, 0.0) && is(series, "lag_messages", 1, 0.0)
    });
    send(flows, 1, now, 1);
    scrape_until(server, "it is paused", |series| is(series, "partition_paused", 1, 1.0));
    send(flows, 1, now, 700);
    scrape_until(server, "all of it is pending", |series| is(series, "lag_messages", 1, 700.0));
    let waits = get_until(server, "/readyz", |response| response.status == 503).json();
    let waits = reason(&waits, "partition_waits").expect("a reason");
    assert_eq!((&waits["partition"], &waits["waits_for"]), (&1.into(), &0.into()), "{waits}");
    send(flows, 0, now, 1);
    scrape_until(server, "it has caught up", |series| {
        is(series, "lag_messages", 0, 0.0)
            && is(series, "lag_messages", 1, 0.0)
            && is(series, "partition_paused", 1, 0.0)
    });
    get_until(server, "/readyz", |response| response.status == 200);
    end(run);
}

#[test]
fn lag_counts_messages_that_no_tick_has_consumed() {
    check_lag(&Mock::new().topic("flows", 2));
    check_lag(&Broker::shared().topic("flows", 2));
}

#[test]
fn outage_is_named_by_readyz_until_it_ends() {
    let (mock, other, place) = (Mock::new(), Mock::new(), Place::new());
    let (flows, alerts) = (mock.topic("flows", 1), other.topic("alerts", 1));
    place.write("limits.json", LIMITS);
    send(&flows, 0, now_ms(), 20);
    // A partition is not idle during an outage.
    let line = format!("run --from {flows} --to {alerts} {OPTIONS} --idle-timeout 2s");
    let mut run = place.floodmark(&line).start();
    let server = server(&mut run);
    get_until(server, "/readyz", |response| response.status == 200);
    send(&flows, 0, now_ms(), 20);
    let lag = "floodmark_kafka_lag_messages{topic=\"flows\",partition=\"0\"}";
    let taken = "floodmark_input_messages_total{source=\"kafka:flows\"}";
    scrape_until(server, "all consumed", |series| series.get(taken) == Some(&40.0));
    mock.down();
    let down = get_until(server, "/readyz", |response| {
        response.status == 503 && reason(&response.json(), "watermark_held").is_some()
    });
    let down = down.json();
    let source = reason(&down, "source_unreachable").expect("a reason");
    assert_eq!(source["name"], "flows");
    let held = reason(&down, "watermark_held").expect("a reason");
    assert_eq!((&held["partition"], &held["state"]), (&0.into(), &"unreachable".into()), "{held}");
    // The lag is unknown during the outage.
    let series = scrape(server);
    assert!(series[lag].is_nan() && series["floodmark_source_reachable"] == 0.0, "{series:#?}");
    assert!(get(server, "/healthz").status == 200);
    mock.up();
    get_until(server, "/readyz", |response| response.status == 200);
    assert_eq!(scrape(server)[lag], 0.0);

    other.down();
    let down = get_until(server, "/readyz", |response| response.status == 503).json();
    assert_eq!(reasons(&down), ["sink_unreachable"], "{down}");
    assert_eq!(reason(&down, "sink_unreachable").expect("a reason")["name"], "kafka:alerts");
    assert_eq!(scrape(server)["floodmark_sink_errors_total{sink=\"kafka:alerts\"}"], 1.0);
    other.up();
    get_until(server, "/readyz", |response| response.status == 200);

    // Replaced by renaming, so that the run does not read half a file.
    place.write("new", "[{");
    std::fs::rename(place.path("new"), place.path("limits.json")).expect("it is moved");
    let unread = get_until(server, "/readyz", |response| response.status == 503).json();
    assert_eq!(reasons(&unread), ["limits_unreadable"], "{unread}");
    place.write("new", LIMITS);
    std::fs::rename(place.path("new"), place.path("limits.json")).expect("it is moved");
    get_until(server, "/readyz", |response| response.status == 200);
    run.signal("TERM", SignalTarget::Parent);
    run.finish()
        .expect(0)
        .assert_stderr(&["not ready: ", "ready: everything that the broker has is judged"]);
}

#[test]
fn violations_of_the_second_set_are_counted_apart() {
    let (mock, place) = (Mock::new(), Place::new());
    let (flows, alerts) = (mock.topic("flows", 1), mock.topic("alerts", 1));
    place.write("limits.json", LIMITS.replace("1000", "99999"));
    place.write("other.json", LIMITS);
    send(&flows, 0, now_ms(), 500);
    let line = format!(
        "run --from {flows} --to {alerts} {OPTIONS} --what-if other.json --idle-timeout 1s \
         --window 87600h"
    );
    let mut run = place.floodmark(&line).start();
    let server = server(&mut run);
    // The run warns that topics do not receive changes of the second set.
    run.wait_for("goes to no topic");
    let of = |series: &BTreeMap<String, f64>, name: &str, labels: &str| {
        ["", "limit_set=\"what_if\""].map(|set| {
            let both = [labels, set].into_iter().filter(|part| !part.is_empty());
            let labels = both.collect::<Vec<_>>().join(",");
            let braces = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let key = format!("floodmark_{name}{braces}");
            *series.get(&key).unwrap_or_else(|| panic!("no {key}: {series:#?}"))
        })
    };
    let series = scrape_until(server, "judged by both sets", |series| {
        series.get("floodmark_violations{status=\"standing\",limit_set=\"what_if\"}") == Some(&1.0)
    });
    assert_eq!(of(&series, "violations", "status=\"standing\""), [0.0, 1.0]);
    let raised = "event=\"raised\",reason=\"data\"";
    assert_eq!(of(&series, "changes_total", raised), [0.0, 1.0]);
    assert_eq!(of(&series, "limits", "state=\"held\""), [2.0, 2.0]);
    assert_eq!(of(&series, "limits", "state=\"refused\""), [1.0, 1.0]);
    assert_eq!(of(&series, "limits", "state=\"in_force\""), [1.0, 1.0]);
    let read = of(&series, "limits_last_reload_success_timestamp_seconds", "");
    assert!(read.iter().all(|at| (at - now_ms() as f64 / 1e3).abs() < 120.0), "{read:?}");
    get_until(server, "/readyz", |response| response.status == 200);
    place.write("new", "[{");
    std::fs::rename(place.path("new"), place.path("other.json")).expect("it is moved");
    let unread = get_until(server, "/readyz", |response| response.status == 503).json();
    let why = reason(&unread, "limits_unreadable").expect("a reason");
    assert_eq!(why["limit_set"], "what_if", "{unread}");
    assert!(why["text"].as_str().expect("a text").contains("--what-if"), "{unread}");
    place.write("new", "[]");
    std::fs::rename(place.path("new"), place.path("other.json")).expect("it is moved");
    let series = scrape_until(server, "cleared", |series| {
        series.get("floodmark_violations{status=\"standing\",limit_set=\"what_if\"}") == Some(&0.0)
    });
    assert_eq!(of(&series, "limits", "state=\"held\""), [2.0, 0.0]);
    get_until(server, "/readyz", |response| response.status == 200);
    end(run);
    assert!(read_all(&alerts).is_empty());
}

#[test]
fn process_waiting_for_the_others_is_not_ready() {
    let (mock, place) = (Mock::new(), Place::new());
    let flows = mock.topic("flows", 2);
    place.write("limits.json", "[]");
    // Both ports are bound at once, so that they differ.
    let free = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let hosts = [free(), free()].map(|port| port.local_addr().expect("an address").to_string());
    place.write("hosts", hosts.join("\n"));
    let line = format!("run --from {flows} {OPTIONS} -n2 --hostfile hosts --idle-timeout 1s -p");
    let mut first = place.floodmark(&format!("{line} 0")).start();
    let at = server(&mut first);
    let early = get(at, "/readyz");
    assert_eq!((early.status, reasons(&early.json())), (503, vec!["no_tick"]), "{}", early.body);
    assert_eq!(early.json()["as_of"], Value::Null);
    assert!(early.head.contains("floodmark-as-of: none"), "{}", early.head);
    assert_eq!(get(at, "/healthz").status, 200);
    let mut second = place.floodmark(&format!("{line} 1")).start();
    let there = server(&mut second);
    for at in [at, there] {
        get_until(at, "/readyz", |response| response.status == 200);
        assert!(scrape(at).contains_key("floodmark_tick_age_seconds"));
    }
    // Each process exports the lag of its partitions; only the first one exports global series.
    let partitions = |at| {
        let series = scrape(at);
        let lags = series.keys().filter(|key| key.starts_with("floodmark_kafka_lag_messages"));
        (lags.count(), series.contains_key("floodmark_watermark_seconds"))
    };
    assert_eq!((partitions(at), partitions(there)), ((1, true), (1, false)));
    first.signal("TERM", SignalTarget::Parent);
    first.finish().expect(0);
    second.finish().expect(0);
}

#[test]
fn each_process_serves_on_its_own_port() {
    let (mock, place) = (Mock::new(), Place::new());
    let flows = mock.topic("flows", 2);
    // These ports lie outside of the system's range of ephemeral ports.
    let port = (0..2000u16)
        .map(|step| 12_000 + (std::process::id() as u16 % 1000) * 10 + step * 2)
        .find(|port| (*port..port + 2).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()))
        .expect("two free ports");
    let line = format!("run --from {flows} -n2 --tick 50ms --http 127.0.0.1:{port}");
    let mut run = place.floodmark(&line).start();
    run.wait_for("serves /metrics");
    run.wait_for("serves /metrics");
    for process in 0..2 {
        let at = SocketAddr::from(([127, 0, 0, 1], port + process));
        assert_eq!(get(at, "/healthz").status, 200);
        get_until(at, "/readyz", |response| response.status == 200);
    }
    end(run);
}

#[test]
fn address_in_use_ends_the_run() {
    let (mock, place) = (Mock::new(), Place::new());
    let flows = mock.topic("flows", 1);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address");
    let done = place.floodmark(&format!("run --from {flows} --http {taken}")).run().expect(1);
    // The whole log is JSON, its last line included.
    let lines: Vec<Value> =
        done.stderr.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = lines.last().expect("a line of the log");
    let message = last["message"].as_str().expect("a message");
    assert!(message.contains(&format!("serving at \"{taken}\"")), "{message}");
    assert_eq!((&last["level"], &last["exit_code"]), (&"ERROR".into(), &1.into()));
    let done = place.floodmark(&format!("run --from {flows} --http nowhere")).run().expect(64);
    done.assert_stderr(&["--http HOST:PORT"]);
}
