//! The memory of a blocked run, which must not grow while the run is blocked.

use std::fs;
use std::net::SocketAddr;

use super::kit::TopicFeed;
use super::sinks::WAITS;
use crate::common::broker::Broker;
use crate::replay::pcap::packet;
use crate::replay::run::{Live, Place, SignalTarget};
use crate::replay::traffic::BEGIN_MS;
use crate::serving::{get_until, server};

/// The bytes queued for standard output at which no further tick begins.
const QUEUE_BYTES: f64 = (64 << 20) as f64;

/// Returns the value of a series in a page of metrics.
fn metric(page: &str, series: &str) -> Option<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map(|value| value.parse().expect("a number"))
}

/// Waits until the value of a series satisfies a condition.
fn wait_for_metric(server: SocketAddr, series: &str, holds: impl Fn(f64) -> bool) {
    get_until(server, "/metrics", |page| metric(&page.body, series).is_some_and(&holds));
}

/// Returns the anonymous resident memory of a process, in MB.
fn resident_mb(run: &Live) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", run.id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory");
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kb / 1000.0
}

/// Returns rows with long names; every packet breaks each of them.
fn rows(count: usize, value: usize) -> String {
    let row = |number: usize| {
        let name = format!("{number:a>4000}");
        format!(
            "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"1970-01-01\",\
             \"per\":\"total\"}}\n"
        )
    };
    (0..count).map(row).collect()
}

/// Replaces a file by renaming, so that no reader sees half of it.
fn replace(place: &Place, name: &str, text: &str) {
    place.write("new", text);
    fs::rename(place.path("new"), place.path(name)).expect("it is moved");
}

/// Nobody reads standard output, so that no tick begins, while limits are edited.
#[test]
fn limits_rewritten_while_stdout_is_blocked_take_bounded_memory() {
    const ROWS: usize = 250;
    const WINDOWS: u64 = 40;
    let place = Place::new();
    place.write("limits.jsonl", rows(ROWS, 0));
    place.write("other.jsonl", rows(ROWS, 0));
    let topic = Broker::shared().topic("flows", 1);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --what-if other.jsonl {WAITS} --http 127.0.0.1:0"
    );
    let (mut run, mut feed) = (place.floodmark(&line).start(), TopicFeed::to(&topic));
    let server = server(&mut run);
    for window in 0..WINDOWS {
        feed.send(0, packet(BEGIN_MS + window * 300_000, "10.0.0.1", "10.0.0.2", 1000));
    }
    feed.flush();
    let waiting = "floodmark_sink_waiting_bytes{sink=\"-\"}";
    wait_for_metric(server, waiting, |bytes| bytes >= QUEUE_BYTES);
    let rewrite = |rounds: std::ops::Range<usize>| {
        for round in rounds {
            // The last round has as many rows as the first one.
            let count = ROWS + round % 2;
            for (name, set) in [("limits.jsonl", ""), ("other.jsonl", ",limit_set=\"what_if\"")] {
                replace(&place, name, &rows(count, round));
                let held = format!("floodmark_limits{{state=\"held\"{set}}}");
                wait_for_metric(server, &held, |rows| rows == count as f64);
            }
        }
    };
    rewrite(1..5);
    let begin_mb = resident_mb(&run);
    rewrite(5..21);
    let grown_mb = resident_mb(&run) - begin_mb;
    wait_for_metric(server, waiting, |bytes| bytes >= QUEUE_BYTES);
    // Each round edits each row twice, 64 MB in all. Without a bound, 25 MB of them stayed in memory.
    assert!(grown_mb < 10.0, "{grown_mb:.0} MB more after 16 rewritings");
    run.signal("KILL", SignalTarget::Parent);
    run.finish_killed();
}
