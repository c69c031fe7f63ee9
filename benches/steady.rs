//! A live run under a steady load: whether it keeps up, and the latency from an edit of limits to the alerts.
//!
//! A generated workload arrives at its own speed: `RATE` records a second,
//! a message each, over four partitions. `floodmark run` with one worker judges it. Every two seconds the bench
//! replaces the file of limits: it raises and lowers a limit on all traffic in turn, so that each edit raises or
//! clears a violation. The latency is that from the rename until the change is read from the topic of
//! alerts. In between, the bench scrapes the age of the tick and the lag.
//!
//! The age of the tick should stay under 2 seconds, no record be lost, memory be flat, and the
//! median latency be under 50 ms.
//!
//! `scripts/bench --steady SECONDS` calls `cargo bench --bench steady -- FLOODMARK BROKER RATE SECONDS`.

// The table is the result.
#![allow(clippy::print_stdout)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::live::{Children, Load, create_topic, spread, tail, wait_for_change, wait_until};
use common::{Usage, free_address, scrape, usage};
use floodmark::kafka::topics::Plan;

const PAIRS: &str = "100k";
const BETWEEN_CHANGES: Duration = Duration::from_secs(2);

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
    create_topic(&flows, &Plan::recording(4));
    let alerts_address = create_topic(&alerts, &Plan::state(1));

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
    wait_until("the run to be ready", || scrape(&http, "floodmark_tick_age_seconds").is_some());
    let load = Load { packets: rate * seconds, pairs: PAIRS, seconds, ..Load::default() };
    children.0.extend(load.send(floodmark, &flows));

    let consumer = tail(&alerts_address);
    let begun = Instant::now();
    let mut samples = Samples::default();
    let mut turn = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        turn += 1;
        samples.add(&http, &process);
        // The limit can be broken only once traffic is counted.
        if scrape(&http, "floodmark_input_records_total").unwrap_or(0.0) > rate as f64 {
            let broken = samples.latencies_ms.len().is_multiple_of(2);
            write_limits(&limits, turn, broken);
            samples.latencies_ms.push(wait_for_change(&consumer, broken));
        }
        let next = begun + BETWEEN_CHANGES * turn;
        while Instant::now() < next {
            samples.add(&http, &process);
            std::thread::sleep(Duration::from_millis(250));
        }
    }
    for child in children.0.iter_mut().skip(1) {
        assert!(child.wait().expect("its end").success(), "the load was not sent");
    }
    let sent = (rate * seconds) as f64;
    wait_until("all records to be counted", || {
        scrape(&http, "floodmark_input_records_total").is_some_and(|counted| counted >= sent)
    });
    let counted = scrape(&http, "floodmark_input_records_total").unwrap_or_default();
    let dropped = scrape(&http, "floodmark_late_records_total{disposition=\"dropped\"}");
    samples.print(rate, seconds, usage(&process));
    println!("records sent {sent}, counted {counted}, too late {}", dropped.unwrap_or_default());
}

/// Samples taken during the run.
#[derive(Default)]
struct Samples {
    ages: Vec<f64>,
    lags: Vec<f64>,
    resident_mb: Vec<f64>,
    latencies_ms: Vec<f64>,
}

impl Samples {
    fn add(&mut self, http: &str, process: &str) {
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
            let [median, most, worst] = spread(values);
            println!(
                "{what:<16} median {median:>9.2} {unit}, 99 % {most:>9.2}, worst {worst:>9.2} (of {})",
                values.len()
            );
        }
    }
}

/// Replaces the file of limits by renaming.
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
