//! Does a live run keep up with a steady load, and how soon does a change of limits reach the alerts?
//!
//! A made-up workload passes at the speed at which it would have been captured: `RATE` records a second,
//! a message each, over four partitions. `floodmark run` with one worker judges it. Every two seconds the
//! file of limits is replaced: a limit on all traffic is raised and lowered in turn, so that each time a
//! violation comes or goes; measured is from the rename until the change is read from the topic of
//! alerts. Once a second the age of the tick and the lag are asked for, as an operator would.
//!
//! The age of the tick should stay under 2 seconds all along, nothing be lost, memory be flat, and the
//! median of changes be under 50 ms.
//!
//! `scripts/bench --steady SECONDS` calls `cargo bench --bench steady -- FLOODMARK BROKER RATE SECONDS`.

// The table is the result.
#![allow(clippy::print_stdout)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Usage, free_address, scrape, usage};
use floodmark::kafka::topics::{self, Plan};
use floodmark::kafka::{Address, ClientOptions};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

const PAIRS: &str = "100k";
const BETWEEN_CHANGES: Duration = Duration::from_secs(2);
/// A change that has not come after this will not come.
const LOST_AFTER: Duration = Duration::from_secs(30);

struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [floodmark, broker, rate, seconds] = &arguments[..] else {
        panic!("give the program, a broker, records a second, and seconds")
    };
    let (rate, seconds): (u64, u64) =
        (rate.parse().expect("a rate"), seconds.parse().expect("seconds"));
    let place = tempfile::tempdir().expect("a directory");
    let run_id = std::process::id();
    let topic = |name: &str| format!("kafka://{broker}/bench-{name}-{run_id}");
    let (flows, alerts) = (topic("flows"), topic("alerts"));
    let options = ClientOptions::default();
    let make = |uri: &str, plan: &Plan| {
        let address: Address = uri.parse().expect("a topic");
        topics::create(&address, &options, plan).expect("a new topic");
        address
    };
    make(&flows, &Plan::recording(4));
    let alerts_address = make(&alerts, &Plan::state(1));

    let limits = place.path().join("limits.json");
    write_limits(&limits, 0, false);
    let http = free_address();
    let mut children = Children(Vec::new());
    let run = Command::new(floodmark)
        .args(["run", "--from", &flows, "--to", &alerts, "--http", &http])
        .arg("--limits")
        .arg(&limits)
        .args(["--log-level", "warn"])
        .spawn()
        .expect("starting floodmark run");
    let process = run.id().to_string();
    children.0.push(run);
    until("the run to be ready", || scrape(&http, "floodmark_tick_age_seconds").is_some());
    children.0.extend(send(floodmark, &flows, rate, seconds));

    let consumer = tail(&alerts_address);
    let begun = Instant::now();
    let mut seen = Seen::default();
    let mut turn = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        turn += 1;
        seen.look(&http, &process);
        // Traffic must be there for the limit to be broken.
        if scrape(&http, "floodmark_input_records_total").unwrap_or(0.0) > rate as f64 {
            let broken = seen.latencies_ms.len().is_multiple_of(2);
            write_limits(&limits, turn, broken);
            seen.latencies_ms.push(until_said(&consumer, broken));
        }
        let next = begun + BETWEEN_CHANGES * turn;
        while Instant::now() < next {
            seen.look(&http, &process);
            std::thread::sleep(Duration::from_millis(250));
        }
    }
    for child in children.0.iter_mut().skip(1) {
        assert!(child.wait().expect("its end").success(), "the load was not sent");
    }
    let sent = (rate * seconds) as f64;
    until("all records to be counted", || {
        scrape(&http, "floodmark_input_records_total").is_some_and(|counted| counted >= sent)
    });
    let counted = scrape(&http, "floodmark_input_records_total").unwrap_or_default();
    let dropped = scrape(&http, "floodmark_late_records_total{disposition=\"dropped\"}");
    seen.print(rate, seconds, usage(&process));
    println!("records sent {sent}, counted {counted}, too late {}", dropped.unwrap_or_default());
}

/// What was seen on the way.
#[derive(Default)]
struct Seen {
    ages: Vec<f64>,
    lags: Vec<f64>,
    resident_mb: Vec<f64>,
    latencies_ms: Vec<f64>,
}

impl Seen {
    fn look(&mut self, http: &str, process: &str) {
        self.ages.extend(scrape(http, "floodmark_tick_age_seconds"));
        self.lags.extend(scrape(http, "floodmark_kafka_lag_messages"));
        let used = usage(process);
        assert!(!used.ended, "floodmark has ended");
        self.resident_mb.push(used.resident_mb);
    }

    fn print(&mut self, rate: u64, seconds: u64, used: Usage) {
        let third = self.resident_mb.len() / 3;
        let (early, late) = (self.resident_mb[third], self.resident_mb[self.resident_mb.len() - 1]);
        println!("steady load: {rate} records/s for {seconds} s, one worker");
        let Usage { cpu, peak_mb, .. } = used;
        println!("CPU {:.1} % of a core", 100.0 * cpu / seconds as f64);
        println!(
            "memory after a third {early:.0} MB, at the end {late:.0} MB, at most {peak_mb:.0} MB"
        );
        for (what, values, unit) in [
            ("age of the tick", &mut self.ages, "s"),
            ("lag", &mut self.lags, "messages"),
            ("limit to alert", &mut self.latencies_ms, "ms"),
        ] {
            values.sort_by(f64::total_cmp);
            let at = |share: f64| values[((values.len() - 1) as f64 * share) as usize];
            println!(
                "{what:<16} median {:>9.2} {unit}, 99 % {:>9.2}, worst {:>9.2} (of {})",
                at(0.5),
                at(0.99),
                at(1.0),
                values.len()
            );
        }
    }
}

/// A made-up workload, at its own speed, from now on.
fn send(floodmark: &str, flows: &str, rate: u64, seconds: u64) -> [Child; 2] {
    let now = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().expect("a date");
    let now = String::from_utf8(now.stdout).expect("a date is text");
    let mut generator = Command::new(floodmark)
        .args(["generate", "--packets", &(rate * seconds).to_string(), "--pairs", PAIRS])
        .args(["--span", &format!("{seconds}s"), "--start", now.trim(), "-"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting floodmark generate");
    let sender = Command::new(floodmark)
        .args(["capture", "-", "--speed", "1x", "--aggregate", "off", "--format", "kv"])
        .args(["--to", flows])
        .stdin(generator.stdout.take().expect("it is piped"))
        .stderr(Stdio::null())
        .spawn()
        .expect("starting floodmark capture");
    [generator, sender]
}

/// Replaces the limits as careful people do.
fn write_limits(path: &Path, turn: u32, broken: bool) {
    let value = if broken { "1" } else { "1e30" };
    let rows = format!(
        "{{\"limit_name\":\"max\",\"limit_value\":100000000,\"effective_date\":\"2000-01-01\"}}\n\
         {{\"limit_name\":\"probe\",\"limit_value\":{value},\"effective_date\":\"2000-01-01\",\
         \"per\":\"total\"}}\n{{\"limit_name\":\"turn-{turn}\",\"limit_value\":1e30,\
         \"effective_date\":\"2000-01-01\"}}\n"
    );
    let next = path.with_extension("next");
    fs::write(&next, rows).expect("writing limits");
    fs::rename(&next, path).expect("putting limits in place");
}

/// Waits until the alerts say so, in milliseconds.
fn until_said(consumer: &BaseConsumer, broken: bool) -> f64 {
    let begun = Instant::now();
    let event = if broken { "\"event\":\"raised\"" } else { "\"event\":\"cleared\"" };
    while begun.elapsed() < LOST_AFTER {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("a message");
        let text = str::from_utf8(message.payload().unwrap_or_default()).expect("text");
        if text.contains("\"probe\"") && text.contains(event) {
            return begun.elapsed().as_secs_f64() * 1e3;
        }
    }
    panic!("no {event} in {LOST_AFTER:?}");
}

fn tail(address: &Address) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &address.brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(&address.topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&partitions).expect("assigned");
    consumer
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < LOST_AFTER, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
