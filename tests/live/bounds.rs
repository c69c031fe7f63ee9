//! The memory of things that wait in a run that can't go on, which must not grow as that lasts.

use std::fs;
use std::net::SocketAddr;

use super::kit::Feed;
use super::sinks::WAITS;
use crate::common::broker::Broker;
use crate::replay::pcap::packet;
use crate::replay::run::{Live, Place, Whom};
use crate::replay::traffic::BEGIN_MS;
use crate::serving::{ask_until, server};

/// The bytes that wait for standard output before no tick begins.
const QUEUE_BYTES: f64 = (64 << 20) as f64;

/// The value of a series in a page of metrics, once it is there.
fn metric(page: &str, series: &str) -> Option<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map(|value| value.parse().expect("a number"))
}

/// Waits until a series is as it should be.
fn wait_for_metric(server: SocketAddr, series: &str, holds: impl Fn(f64) -> bool) {
    ask_until(server, "/metrics", |page| metric(&page.body, series).is_some_and(&holds));
}

/// The memory of a process that is its own, in MB.
fn resident_mb(run: &Live) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", run.id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its memory");
    let kb: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kb / 1000.0
}

/// Rows with long names, each of which every packet breaks.
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

/// Not in place, so that nobody reads half of it.
fn replace(place: &Place, name: &str, text: &str) {
    place.write("new", text);
    fs::rename(place.path("new"), place.path(name)).expect("it is moved");
}

/// The reader of standard output sleeps, so that no tick begins; whoever edits limits does not.
#[test]
fn limits_rewritten_behind_a_reader_that_sleeps_take_no_more_memory() {
    const ROWS: usize = 250;
    const WINDOWS: u64 = 40;
    let place = Place::new();
    place.write("limits.jsonl", rows(ROWS, 0));
    place.write("other.jsonl", rows(ROWS, 0));
    let topic = Broker::shared().topic("flows", 1);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --what-if other.jsonl {WAITS} --http 127.0.0.1:0"
    );
    let (mut run, mut feed) = (place.floodmark(&line).start(), Feed::to(&topic));
    let server = server(&mut run);
    for window in 0..WINDOWS {
        feed.give(0, packet(BEGIN_MS + window * 300_000, "10.0.0.1", "10.0.0.2", 1000));
    }
    feed.flush();
    let waiting = "floodmark_sink_waiting_bytes{sink=\"-\"}";
    wait_for_metric(server, waiting, |bytes| bytes >= QUEUE_BYTES);
    let rewrite = |rounds: std::ops::Range<usize>| {
        for round in rounds {
            // The last round has as many rows as were there at first.
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
    // Each round brings two edits of each row: 64 MB in all, of which the reader of limits and the run held 25 MB.
    assert!(grown_mb < 10.0, "{grown_mb:.0} MB more after 16 rewritings");
    run.signal("KILL", Whom::Parent);
    run.finish_killed();
}
