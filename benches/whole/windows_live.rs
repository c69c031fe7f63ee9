//! Rows about topics: many limits with many live windows, and records that lie years apart.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Usage, free_address, scrape, usage};
use crate::{Bench, windows};

/// The number of records of each topic of recent traffic.
const RECORDS: u64 = 100_000;

/// The time for which a run is observed after it has read everything.
const AFTER: Duration = Duration::from_secs(10);

/// Time-out for a run to read everything.
const LOST_AFTER: Duration = Duration::from_secs(180);

/// The figures of a run, from its start until [`AFTER`] it has read everything.
struct RunFigures {
    cpu: f64,
    peak_mb: f64,
    after_mb: f64,
    /// The longest time without a completed tick, after the first one, in milliseconds.
    longest_stall_ms: f64,
}

pub(crate) fn measure(bench: &Bench) {
    let Some(brokers) = &bench.brokers else { return };
    let limits = windows::pair_limits(bench, "100000.json", 100_000);
    let uri = |topic: &str| format!("kafka://{brokers}/{topic}");
    println!();
    println!(
        "{:<58} {:>8} {:>8} {:>8} {:>10}  program",
        "run --tick 1s, from the start of a topic", "CPU s", "peak MB", "after MB", "stood ms"
    );
    for minutes in [4, 70] {
        recent(bench, &uri(&format!("recent-{minutes}")), minutes);
        let name = format!("100 000 limits, {minutes} min of windows held");
        measure_topic(bench, &name, &uri(&format!("recent-{minutes}")), Some(&limits), RECORDS);
    }
    for (packets, years) in [(10_000, 30), (40_000, 55)] {
        let topic = uri(&format!("apart-{packets}"));
        let capture = windows::apart(bench, &format!("apart-{packets}.pcap"), packets, years);
        send(bench, &capture, &topic);
        let name = format!("packed message of {packets} records over {years} years");
        measure_topic(bench, &name, &topic, None, packets as u64);
    }
}

/// Runs all programs on a topic, and prints their rows.
fn measure_topic(bench: &Bench, name: &str, uri: &str, limits: Option<&Path>, records: u64) {
    let programs = [
        Some((&bench.floodmark, "")),
        bench.baseline.as_ref().map(|program| (program, "baseline")),
    ];
    for (program, label) in programs.into_iter().flatten() {
        match measure_run(program, uri, limits, records) {
            Some(RunFigures { cpu, peak_mb, after_mb, longest_stall_ms }) => println!(
                "{name:<58} {cpu:>8.2} {peak_mb:>8.0} {after_mb:>8.0} {longest_stall_ms:>10.0}  {label}"
            ),
            None => {
                println!("{name:<58} has ended, or did not read all in {LOST_AFTER:?}  {label}")
            }
        }
    }
}

/// Sends generated traffic of the last `minutes` minutes to a topic, a record for each packet.
fn recent(bench: &Bench, uri: &str, minutes: u64) {
    let path = bench.place(&format!("recent-{minutes}.pcap"));
    let start = Command::new("date")
        .args(["-u", "-d", &format!("-{minutes} minutes"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()
        .expect("a date");
    let start = String::from_utf8(start.stdout).expect("a date is text");
    let generated = Command::new(&bench.floodmark)
        .args(["generate", "--packets", &RECORDS.to_string(), "--pairs", "10k"])
        .args(["--span", &format!("{minutes}m"), "--start", start.trim()])
        .arg(&path)
        .stderr(Stdio::null())
        .status();
    assert!(generated.expect("starting floodmark generate").success(), "floodmark generate failed");
    send(bench, &path, uri);
}

fn send(bench: &Bench, capture: &Path, uri: &str) {
    let sent = Command::new(&bench.floodmark)
        .arg("capture")
        .arg(capture)
        .args(["--to", uri, "--format", "packed", "--aggregate", "off"])
        .args(["--create-topic", "--partitions", "1"])
        .stderr(Stdio::null())
        .status();
    assert!(sent.expect("starting floodmark capture").success(), "floodmark capture failed");
}

/// A child process; killed on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure_run(
    program: &Path,
    uri: &str,
    limits: Option<&Path>,
    records: u64,
) -> Option<RunFigures> {
    let http = free_address();
    let mut command = Command::new(program);
    command.args(["run", "--from", uri, "--http", &http, "--log-level", "error"]);
    // Records of any age must count; older builds lack the option.
    if has_option(program, "--max-behind") {
        command.args(["--max-behind", "60000d"]);
    }
    if let Some(limits) = limits {
        command.arg("--limits").arg(limits);
    }
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = Running(child.expect("starting floodmark"));
    let process = child.0.id().to_string();
    let begun = Instant::now();
    let (mut last, mut longest_stall_ms, mut read_at) =
        (None::<(f64, Instant)>, 0.0f64, None::<Instant>);
    loop {
        let used: Usage = usage(&process);
        if used.ended || begun.elapsed() > LOST_AFTER {
            return None;
        }
        let now = Instant::now();
        if let Some(frontier) = scrape(&http, "floodmark_frontier_seconds").filter(|at| *at > 0.0) {
            let (at, since) = *last.get_or_insert((frontier, now));
            longest_stall_ms = longest_stall_ms.max((now - since).as_secs_f64() * 1e3);
            if at < frontier {
                last = Some((frontier, now));
            }
        }
        let counted = scrape(&http, "floodmark_input_records_total").unwrap_or(0.0)
            + scrape(&http, "floodmark_input_errors_total").unwrap_or(0.0);
        if read_at.is_none() && counted >= records as f64 {
            read_at = Some(now);
        }
        if read_at.is_some_and(|at| now - at > AFTER) {
            let Usage { cpu, peak_mb, resident_mb, .. } = used;
            return Some(RunFigures { cpu, peak_mb, after_mb: resident_mb, longest_stall_ms });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a program has an option of `run`.
fn has_option(program: &Path, option: &str) -> bool {
    let help = Command::new(program).args(["run", "--help"]).output().expect("its help");
    String::from_utf8_lossy(&help.stdout).contains(option)
}
