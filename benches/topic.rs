//! Speed from a topic to violations, beside a client that only counts messages.
//!
//! The topics hold the same records, a message each (`kv`) and packed. A bare consumer of librdkafka,
//! message by message as its users write it, shows the cost of the client alone. `floodmark run` with one
//! worker reads the same topic from its beginning, joins, and judges by a limit that some pairs break.
//! The bench ends the run when it has counted all records; the cost includes its shutdown.
//! Windows retire after 5 minutes of event time, so that memory shows whether it grows with the
//! backlog.
//!
//! With a record a message, the client should be most of the work, and the rate at least 0.8 of the bare
//! consumer's. Packed records should be several times as fast per CPU second, since the client has little
//! work.
//!
//! `scripts/bench` makes the topics, and calls `cargo bench --bench topic -- RECORDS RUNS FLOODMARK LIMITS
//! URI...`: so many runs of each, of which the median counts, the program, a file of limits, and topics.

// The table is the result.
#![allow(clippy::print_stdout)]

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::table::spread;
use common::{Usage, free_address, scrape, usage};
use floodmark::kafka::Address;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

/// The cost of a process.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall: f64,
    cpu: f64,
    /// Memory after a quarter of the records; with `all_mb`, shows whether memory grows with the backlog.
    quarter_mb: f64,
    /// Memory after all records.
    all_mb: f64,
    peak_mb: f64,
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let first = arguments.next().expect("the number of records, or `consume`");
    if first == "consume" {
        let uri = arguments.next().expect("the topic");
        return consume(&uri.parse().expect("a topic"));
    }
    let records: u64 = first.parse().expect("the number of records");
    let runs: usize =
        arguments.next().and_then(|runs| runs.parse().ok()).expect("a number of runs");
    let floodmark = arguments.next().expect("the program");
    let limits = arguments.next().expect("the limits");
    println!(
        "{:<34} {:>7} {:>12} {:>7} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "topic to violations, one worker",
        "CPU s",
        "least-most",
        "M/CPU s",
        "wall s",
        "M rec/s",
        "1/4 MB",
        "all MB",
        "peak MB"
    );
    for uri in arguments {
        let topic = uri.rsplit('/').next().expect("an address has a topic").to_owned();
        // In turn, so that other load of the machine affects both.
        let mut costs = [Vec::new(), Vec::new()];
        for _ in 0..runs {
            costs[0].push(counted(&uri));
            costs[1].push(judged(&floodmark, &uri, &limits, records));
        }
        for (what, costs) in ["messages counted only", "floodmark run"].iter().zip(&costs) {
            let records = records as f64 / 1e6;
            let Cost { wall, cpu, quarter_mb, all_mb, peak_mb } = median(costs.clone());
            let (rate, per_cpu) = (records / wall, records / cpu);
            println!(
                "{:<34} {cpu:>7.2} {:>12} {per_cpu:>7.2} {wall:>8.2} {rate:>8.2} {quarter_mb:>8.0} \
                 {all_mb:>8.0} {peak_mb:>8.0}",
                format!("{topic}: {what}"),
                spread(costs.iter().map(|cost| cost.cpu)),
            );
        }
        let [counted, judged] = costs.map(median);
        println!(
            "{:<34} {:>7.2} {:>29.2}",
            format!("{topic}: of that"),
            judged.cpu / counted.cpu,
            judged.wall / counted.wall,
        );
    }
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
    costs[costs.len() / 2]
}

/// Reads and counts all messages of a topic.
fn consume(address: &Address) {
    let start = Instant::now();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &address.brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        // As in floodmark: with the default, a second, a fast reader mostly waits.
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .expect("a consumer");
    let timeout = Duration::from_secs(10);
    let metadata = consumer.fetch_metadata(Some(&address.topic), timeout).expect("metadata");
    let mut partitions = TopicPartitionList::new();
    let mut messages = 0;
    for partition in metadata.topics()[0].partitions() {
        let (first, end) = consumer
            .fetch_watermarks(&address.topic, partition.id(), timeout)
            .expect("the ends of a partition");
        messages += end - first;
        partitions
            .add_partition_offset(&address.topic, partition.id(), Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&partitions).expect("assigned");
    let three_quarters = messages - messages / 4;
    let mut quarter_mb = 0.0;
    let mut bytes = 0;
    while messages > 0 {
        if messages == three_quarters {
            quarter_mb = usage("self").resident_mb;
        }
        if let Some(message) = consumer.poll(timeout) {
            bytes += message.expect("a message").payload_len();
            messages -= 1;
        }
    }
    let Usage { cpu, peak_mb, resident_mb, .. } = usage("self");
    println!(
        "{} {cpu} {quarter_mb} {resident_mb} {peak_mb} {bytes}",
        start.elapsed().as_secs_f64()
    );
}

fn counted(uri: &str) -> Cost {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["consume", uri])
        .output()
        .expect("starting this program again");
    let text = String::from_utf8(output.stdout).expect("text");
    let numbers: Vec<f64> =
        text.split_whitespace().map(|number| number.parse().expect("a number")).collect();
    Cost {
        wall: numbers[0],
        cpu: numbers[1],
        quarter_mb: numbers[2],
        all_mb: numbers[3],
        peak_mb: numbers[4],
    }
}

/// Runs the program until it has counted all records, and through its shutdown, which judges the rest.
fn judged(floodmark: &str, uri: &str, limits: &str, records: u64) -> Cost {
    let http = free_address();
    let start = Instant::now();
    let mut child = Command::new(floodmark)
        .args(["run", "--from", uri, "--limits", limits, "--http", &http])
        .args(["--lateness", "1m", "--retention", "5m", "--log-level", "error"])
        .stdout(Stdio::null())
        .spawn()
        .expect("starting floodmark");
    let process = child.id().to_string();
    let mut quarter_mb = 0.0;
    let all = loop {
        let used = usage(&process);
        assert!(!used.ended, "floodmark has ended");
        let counted = scrape(&http, "floodmark_input_records_total").unwrap_or(0.0);
        if quarter_mb == 0.0 && counted >= records as f64 / 4.0 {
            quarter_mb = used.resident_mb;
        }
        if counted >= records as f64 {
            break used;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let _ = Command::new("kill").args(["-TERM", &process]).status();
    // A zombie still shows its CPU time.
    let used = loop {
        let used = usage(&process);
        if used.ended {
            break used;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let wall = start.elapsed().as_secs_f64();
    assert!(child.wait().expect("its end").success(), "floodmark failed");
    let Usage { resident_mb, peak_mb, .. } = all;
    Cost { wall, cpu: used.cpu, quarter_mb, all_mb: resident_mb, peak_mb }
}
