//! How much CPU and memory does it take to count records?
//!
//! Ten million records of a million IPv4 pairs in 60 minutes, in twelve windows: a few pairs have most
//! of them (the logarithm of a pair's rank is uniform), and a limit that a few hundred totals break is
//! in force. Folding, counting and judging are measured on one worker, in one process for each row;
//! generating the records is not.
//!
//! The longer a tick is, the more records of a pair are folded before anything else is done with them;
//! so ticks of a window should win, and ticks of a second lose. All should be well above two million
//! records per CPU second, since whatever reads the records before will not be faster. A limit per
//! source needs a second table, and should cost less than twice as much; IPv6 is to be compared with
//! IPv4.
//!
//! `cargo bench --bench ingest -- 1000000` takes so many records instead.

// The table is the result.
#![allow(clippy::print_stdout)]

use std::cell::Cell;
use std::process::Command;
use std::rc::Rc;

use floodmark_dataflows::clock::Mark;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::orders::{Answer, Read};
use floodmark_dataflows::time::{Time, Window};
use floodmark_dataflows::types::{LimitId, Pair, Per, Scope, Version, VersionId, Volume};
use timely::dataflow::operators::Inspect;

const PAIRS: u32 = 1_000_000;
const SPAN_MS: u64 = 3_600_000;
const WINDOW_MS: u64 = 300_000;

/// What one process measures.
struct Shape {
    name: &'static str,
    tick_ms: u64,
    per_source: bool,
    v6: bool,
}

const SHAPES: [Shape; 6] = [
    Shape { name: "ticks of 1 s", tick_ms: 1000, per_source: false, v6: false },
    Shape { name: "ticks of 10 s", tick_ms: 10_000, per_source: false, v6: false },
    Shape { name: "ticks of a window", tick_ms: WINDOW_MS, per_source: false, v6: false },
    Shape { name: "ticks of 1 s, also per source", tick_ms: 1000, per_source: true, v6: false },
    Shape { name: "ticks of 1 s, IPv6", tick_ms: 1000, per_source: false, v6: true },
    Shape { name: "ticks of 1 s, folded only", tick_ms: 1000, per_source: false, v6: false },
];

/// Small, so that memory is mostly what is measured.
#[derive(Clone, Copy)]
struct Record {
    at_ms: u32,
    /// By number of its records.
    rank: u32,
    bytes: u16,
}

fn records(count: u64) -> Vec<Record> {
    let mut state = 0u64;
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let one = |n: u64| Record {
        at_ms: (n * SPAN_MS / count) as u32,
        rank: f64::from(PAIRS).powf((random() >> 11) as f64 / (1u64 << 53) as f64) as u32,
        bytes: 60 + (random() % 1440) as u16,
    };
    (0..count).map(one).collect()
}

impl Record {
    fn pair(&self, v6: bool) -> Pair {
        // Spread over the addresses, as real ones are; a source has a few destinations.
        let source = (self.rank / 4).wrapping_mul(0x9e37_79b1);
        let destination = self.rank.wrapping_mul(0x85eb_ca6b);
        if v6 {
            let net = 0x2001_0db8u128 << 96;
            let (source, destination) = (net | u128::from(source), net | u128::from(destination));
            return Pair::V6(source.into(), destination.into());
        }
        Pair::V4(source.into(), destination.into())
    }
}

/// A line of `/proc/self/status` in kilobytes.
fn status_kb(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux says how a process is");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let words = line.expect("it has this line").trim_start_matches(':');
    let number = words.split_whitespace().next().expect("it has a value");
    number.parse().expect("which is a number")
}

/// CPU seconds of this thread, the only one.
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts time");
    let nanoseconds = stat.split_whitespace().next().expect("it has a first word");
    nanoseconds.parse::<f64>().expect("which is a number") / 1e9
}

fn limits(per_source: bool) -> Vec<Version> {
    let max = |limit, per, value| Version {
        limit: LimitId(limit),
        id: VersionId(limit),
        scope: Scope { per, ..Scope::default() },
        value: Some(value),
        ..Version::default()
    };
    let mut limits = vec![max(1, Per::Pair, 2_000_000)];
    if per_source {
        limits.push(max(2, Per::Source, 4_000_000));
    }
    limits
}

/// Takes all records, and prints the row of the table.
fn measure(shape: &Shape, count: u64) {
    let records = records(count);
    // So that the peak is that of what follows.
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux resets the peak");
    let before_kb = status_kb("VmRSS");
    let folded_only = shape.name.ends_with("folded only");

    let mut config = timely::Config::thread();
    let merging = differential_dataflow::Config::default().idle_merge_effort(Some(1000));
    differential_dataflow::configure(&mut config.worker, &merging);
    let mut worker = timely::worker::Worker::new(
        config.worker,
        timely::communication::Allocator::Thread(Default::default()),
        Some(std::time::Instant::now()),
    );
    let (said, held) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (mut inputs, probe) = worker.dataflow(|scope| {
        let (inputs, outputs, probe) = graph::build(scope, Options::default());
        let to = said.clone();
        outputs.changes.inspect_batch(move |_, changes| to.set(to.get() + changes.len()));
        let to = held.clone();
        outputs.answers.inspect(move |answer| {
            if let Answer::Held { pairs, rollups, .. } = answer {
                to.set(to.get() + pairs + rollups);
            }
        });
        (inputs, probe)
    });
    for row in limits(shape.per_source) {
        inputs.edit(row, 1);
    }

    let start = cpu_secs();
    let mut combiner = Combiner::new(1);
    let mut updates = 0;
    let mut rest = &records[..];
    for tick in (1..).map(|tick| tick * shape.tick_ms) {
        let in_tick = rest.partition_point(|record| u64::from(record.at_ms) < tick);
        let (now, later) = rest.split_at(in_tick);
        rest = later;
        inputs.advance_to(tick);
        let mut last = None;
        for record in now {
            let window = Window(u64::from(record.at_ms) / WINDOW_MS * WINDOW_MS / 1000);
            if last != Some(window) {
                inputs.mark(Mark::Seen(window));
                last = Some(window);
            }
            let volume = Volume::new(record.bytes.into(), 1);
            combiner.add(window, record.pair(shape.v6), volume);
        }
        updates += combiner.len();
        let parcels = combiner.take();
        if !folded_only {
            inputs.parcels(parcels);
        }
        inputs.mark(Mark::Watermark(tick));
        if rest.is_empty() {
            inputs.read(Read::Held);
            break;
        }
        worker.step_while(|| probe.less_than(&Time::start(tick)));
    }
    let end = inputs.tick() + 1;
    inputs.advance_to(end);
    worker.step_while(|| probe.less_than(&Time::start(end)));
    let cpu = cpu_secs() - start;
    let held_kb = status_kb("VmRSS").saturating_sub(before_kb);
    let peak_kb = status_kb("VmHWM").saturating_sub(before_kb);

    println!(
        "{:<30} {:>8.2} {:>9.2} {:>9.2} {:>9} {:>7} {:>8} {:>11}",
        shape.name,
        cpu,
        count as f64 / cpu / 1e6,
        updates as f64 / 1e6,
        held.get(),
        said.get(),
        peak_kb / 1024,
        (held_kb * 1024).checked_div(held.get()).map_or(String::new(), |bytes| bytes.to_string()),
    );
}

fn main() {
    // Cargo passes `--bench`.
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    match numbers[..] {
        [count, shape] => measure(&SHAPES[shape as usize], count),
        _ => {
            let count = numbers.first().copied().unwrap_or(10_000_000);
            println!("{count} records of {PAIRS} pairs in 60 minutes, one worker");
            println!(
                "{:<30} {:>8} {:>9} {:>9} {:>9} {:>7} {:>8} {:>11}",
                "", "CPU s", "M rec/s", "M updates", "totals", "said", "peak MB", "bytes/total"
            );
            let program = std::env::current_exe().expect("this program has a path");
            for (at, shape) in SHAPES.iter().enumerate() {
                let mut run = Command::new(&program);
                let run = run.args([count.to_string(), at.to_string()]);
                let status = run.status().expect("this program starts again");
                assert!(status.success(), "{}: {status}", shape.name);
            }
        }
    }
}
