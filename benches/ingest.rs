//! CPU and memory for counting records.
//!
//! Ten million records of a million IPv4 pairs in 60 minutes, in twelve windows: a few pairs have most
//! of them (the logarithm of a pair's rank is uniform), and a limit that a few hundred totals break is
//! in force. The bench measures folding, counting and judging, but not the generation of records. Each run is
//! a process of its own, those of a table in turn; the tables show medians.
//!
//! `computation`: the longer a tick, the more records of a pair are folded before further work;
//! so ticks of a window should be fastest, and ticks of a second slowest. All should be well above
//! two million records per CPU second, so that the readers of records are the bottleneck. A
//! limit per source needs a second table, and should cost less than twice as much; compare IPv6
//! with IPv4. Two workers have half of the records each. No reader runs beside them, so that wall-clock
//! seconds show the gain of a second worker.
//!
//! `overlap`: each pair lies in each of many scopes. A *match* is a total beyond the emit bound of one of its
//! scopes. Scopes without matches should cost nothing, and others in proportion to their matches: CPU to the
//! changes of matches, memory to their number. A further limit that all of its few totals break must not make
//! the others cost more.
//!
//! `cargo bench --bench ingest -- [--quick] [--records N] computation overlap`.

// The tables are the result.
#![allow(clippy::print_stdout)]

#[path = "common/mod.rs"]
mod common;

use std::cell::Cell;
use std::collections::HashMap;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use common::table::{median, spread};
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::{Combiner, UpdateBatch};
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::reads::{Chunk, Read, RequestId, Response};
use floodmark_dataflows::time::{Time, Window};
use floodmark_dataflows::types::{
    LimitId, Metric, Pair, Per, Prefix, Scope, Version, VersionId, Volume,
};
use ipnet::Ipv4Net;
use timely::dataflow::operators::Inspect;
use timely::worker::Worker;

const PAIRS: u32 = 1_000_000;
const SPAN_MS: u64 = 3_600_000;
const WINDOW_MS: u64 = 300_000;
/// The number of ticks in flight, as in a replay.
const TICKS_AHEAD: u64 = 4;

/// The measurement of one process.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    tick_ms: u64,
    workers: usize,
    addresses: Spread,
    limits: Limits,
    /// Whether records are folded only, and not judged.
    folded_only: bool,
}

/// The distribution of the addresses of pairs.
#[derive(Clone, Copy, PartialEq)]
enum Spread {
    V4,
    V6,
    /// 1024 sources and 1024 destinations, each in a /22.
    Narrow,
}

#[derive(Clone, Copy)]
enum Limits {
    /// One limit per pair.
    One,
    /// One limit per pair, and one per source.
    AlsoPerSource,
    /// One limit per pair in each of `scopes` scopes, all of which contain each pair.
    Overlapping { scopes: usize, matches: bool },
    /// The same without matches, and a further limit on a few pairs, which all of them break.
    AndOneLow { scopes: usize },
}

const PLAIN: Shape = Shape {
    name: "ticks of 1 s",
    tick_ms: 1000,
    workers: 1,
    addresses: Spread::V4,
    limits: Limits::One,
    folded_only: false,
};

const COMPUTATION: [Shape; 8] = [
    PLAIN,
    Shape { name: "ticks of 10 s", tick_ms: 10_000, ..PLAIN },
    Shape { name: "ticks of a window", tick_ms: WINDOW_MS, ..PLAIN },
    Shape { name: "ticks of 1 s, two workers", workers: 2, ..PLAIN },
    Shape { name: "ticks of 10 s, two workers", tick_ms: 10_000, workers: 2, ..PLAIN },
    Shape { name: "ticks of 1 s, also per source", limits: Limits::AlsoPerSource, ..PLAIN },
    Shape { name: "ticks of 1 s, IPv6", addresses: Spread::V6, ..PLAIN },
    Shape { name: "ticks of 1 s, folded only", folded_only: true, ..PLAIN },
];

const fn overlap(name: &'static str, limits: Limits) -> Shape {
    Shape { name, tick_ms: 60_000, addresses: Spread::Narrow, limits, ..PLAIN }
}

const OVERLAP: [Shape; 8] = [
    overlap("1 scope, no match", Limits::Overlapping { scopes: 1, matches: false }),
    overlap("100 scopes, no match", Limits::Overlapping { scopes: 100, matches: false }),
    overlap("1000 scopes, no match", Limits::Overlapping { scopes: 1000, matches: false }),
    overlap("1000 scopes, no match, and a low one", Limits::AndOneLow { scopes: 1000 }),
    overlap("1 scope", Limits::Overlapping { scopes: 1, matches: true }),
    overlap("10 scopes", Limits::Overlapping { scopes: 10, matches: true }),
    overlap("100 scopes", Limits::Overlapping { scopes: 100, matches: true }),
    overlap("1000 scopes", Limits::Overlapping { scopes: 1000, matches: true }),
];

/// A record; small, so that the measured memory is mostly that of the computation.
#[derive(Clone, Copy)]
struct Record {
    at_ms: u32,
    /// The rank of the pair by its number of records.
    rank: u32,
    bytes: u16,
}

fn records(count: u64) -> impl Iterator<Item = Record> {
    let mut state = 0u64;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (0..count).map(move |n| Record {
        at_ms: (n * SPAN_MS / count) as u32,
        rank: f64::from(PAIRS).powf((random() >> 11) as f64 / (1u64 << 53) as f64) as u32,
        bytes: 60 + (random() % 1440) as u16,
    })
}

impl Record {
    fn window(&self) -> Window {
        Window(u64::from(self.at_ms) / WINDOW_MS * WINDOW_MS / 1000)
    }

    fn volume(&self) -> Volume {
        Volume::new(self.bytes.into(), 1)
    }

    fn pair(&self, addresses: Spread) -> Pair {
        // Spreads the addresses as in real traffic; a source has four destinations.
        let source = (self.rank / 4).wrapping_mul(0x9e37_79b1);
        let destination = self.rank.wrapping_mul(0x85eb_ca6b);
        match addresses {
            Spread::V4 => Pair::V4(source.into(), destination.into()),
            Spread::V6 => {
                let net = 0x2001_0db8u128 << 96;
                Pair::V6((net | u128::from(source)).into(), (net | u128::from(destination)).into())
            }
            Spread::Narrow => {
                // An odd factor, so different ranks are different pairs.
                let number = destination & 0xf_ffff;
                let (source, destination) = (number >> 10, number & 0x3ff);
                Pair::V4((0x0a00_0000 | source).into(), (0xac10_0000 | destination).into())
            }
        }
    }
}

/// Returns the value of a line of `/proc/self/status`, in kilobytes.
fn status_kb(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the status of this process");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let words = line.expect("the line").trim_start_matches(':');
    let number = words.split_whitespace().next().expect("a value");
    number.parse().expect("a number")
}

/// Returns the CPU seconds of this thread.
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")
        .expect("the CPU time of this thread");
    let nanoseconds = stat.split_whitespace().next().expect("a word");
    nanoseconds.parse::<f64>().expect("a number") / 1e9
}

/// Returns the value of limits that some totals break; the emit bound is the next power of two below.
fn value(metric: Metric, count: u64) -> i64 {
    let bytes = 2_000_000 * count as i64 / 10_000_000;
    match metric {
        Metric::Bytes => bytes,
        Metric::Packets => bytes / 780,
    }
}

impl Limits {
    fn versions(self, count: u64) -> Vec<Version> {
        let max = |limit, scope, value| Version {
            limit: LimitId(limit),
            id: VersionId(limit),
            scope,
            value: Some(value),
            ..Version::default()
        };
        let per = |per| Scope { per, ..Scope::default() };
        match self {
            Limits::One => vec![max(1, per(Per::Pair), value(Metric::Bytes, count))],
            Limits::AlsoPerSource => vec![
                max(1, per(Per::Pair), value(Metric::Bytes, count)),
                max(2, per(Per::Source), 2 * value(Metric::Bytes, count)),
            ],
            Limits::Overlapping { scopes, matches } => nested()
                .take(scopes)
                .zip(1..)
                .map(|(scope, limit)| {
                    max(limit, scope, if matches { value(scope.metric, count) } else { 1 << 50 })
                })
                .collect(),
            Limits::AndOneLow { scopes } => {
                let mut all = Limits::Overlapping { scopes, matches: false }.versions(count);
                let source = network(0x0a00_0000, 32);
                all.push(max(u32::MAX, Scope { source, ..Scope::default() }, 0));
                all
            }
        }
    }
}

fn network(address: u32, length: u8) -> Prefix {
    Prefix::new(Ipv4Net::new(address.into(), length).expect("a length of a network").into())
}

/// Returns over a thousand scopes that contain each narrow pair.
fn nested() -> impl Iterator<Item = Scope> {
    let lengths = || 0..=22u8;
    let scopes = lengths().flat_map(move |s| lengths().map(move |d| (s, d)));
    scopes.flat_map(|(s, d)| {
        let (source, destination) = (network(0x0a00_0000, s), network(0xac10_0000, d));
        [Metric::Bytes, Metric::Packets].map(|metric| Scope {
            metric,
            source,
            destination,
            ..Scope::default()
        })
    })
}

/// The cost of a run, and its counts.
#[derive(Clone, Copy, Default)]
struct Figures {
    cpu: f64,
    wall: f64,
    updates: f64,
    held: f64,
    emitted: f64,
    peak_mb: f64,
    /// Memory at the end.
    end_mb: f64,
}

impl Figures {
    fn fields(&mut self) -> [&mut f64; 7] {
        let Figures { cpu, wall, updates, held, emitted, peak_mb, end_mb } = self;
        [cpu, wall, updates, held, emitted, peak_mb, end_mb]
    }
}

/// Counts all records, and prints the figures.
fn measure(shape: Shape, count: u64) {
    let workers = shape.workers;
    let mut shares = vec![Vec::with_capacity(count.div_ceil(workers as u64) as usize); workers];
    for (at, record) in records(count).enumerate() {
        shares[at % workers].push(record);
    }
    let shares = Arc::new(shares);
    // Resets the peak, to exclude the generation of records.
    std::fs::write("/proc/self/clear_refs", "5").expect("resetting the peak");
    let before_kb = status_kb("VmRSS");

    let mut config = match workers {
        1 => timely::Config::thread(),
        _ => timely::Config::process(workers),
    };
    let merging = differential_dataflow::Config::default().idle_merge_effort(Some(1000));
    differential_dataflow::configure(&mut config.worker, &merging);
    let barrier = Arc::new(Barrier::new(workers));
    let guards = timely::execute(config, move |worker| {
        let share = &shares[worker.index()];
        let figures = run_worker(worker, shape, count, share, &barrier);
        barrier.wait();
        let mb = |name| status_kb(name).saturating_sub(before_kb) as f64 * 1024.0 / 1e6;
        let (peak_mb, end_mb) = (mb("VmHWM"), mb("VmRSS"));
        barrier.wait();
        Figures { peak_mb, end_mb, ..figures }
    })
    .expect("workers start");
    let mut all = Figures::default();
    for figures in guards.join() {
        let figures = figures.expect("a worker does not panic");
        all = Figures {
            cpu: all.cpu + figures.cpu,
            wall: all.wall.max(figures.wall),
            updates: all.updates + figures.updates,
            held: all.held + figures.held,
            emitted: all.emitted + figures.emitted,
            ..figures
        };
    }
    println!("{}", all.fields().map(|field| field.to_string()).join(" "));
}

/// Runs one worker with its share of the records.
fn run_worker(
    worker: &mut Worker,
    shape: Shape,
    count: u64,
    mut rest: &[Record],
    barrier: &Barrier,
) -> Figures {
    let (emitted, held) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let (mut inputs, probe) = worker.dataflow(|scope| {
        let (inputs, outputs, probe) = graph::build(scope, Options::default());
        let to = emitted.clone();
        outputs.changes.inspect_batch(move |_, changes| to.set(to.get() + changes.len()));
        let to = held.clone();
        outputs.responses.inspect(move |(Response { chunk, .. }, _)| {
            if let Chunk::Held { pairs, rollups, .. } = chunk {
                to.set(to.get() + pairs + rollups);
            }
        });
        (inputs, probe)
    });
    let first = worker.index() == 0;
    if first {
        for row in shape.limits.versions(count) {
            inputs.edit(row, 1);
        }
    }
    barrier.wait();
    let (start, begun) = (cpu_secs(), Instant::now());
    let mut combiner = Combiner::new(shape.workers);
    let mut updates = 0;
    for tick in (1..=SPAN_MS / shape.tick_ms).map(|tick| tick * shape.tick_ms) {
        let in_tick = rest.partition_point(|record| u64::from(record.at_ms) < tick);
        let (now, later) = rest.split_at(in_tick);
        rest = later;
        inputs.advance_to(tick);
        let mut last = None;
        for record in now {
            let window = record.window();
            if last != Some(window) {
                inputs.mark(SourceProgress::Seen(window));
                last = Some(window);
            }
            combiner.add(window, record.pair(shape.addresses), record.volume());
        }
        let update_batches = combiner.take();
        updates += update_batches.iter().map(UpdateBatch::len).sum::<usize>();
        if !shape.folded_only {
            inputs.batches(update_batches);
        }
        if first {
            inputs.mark(SourceProgress::Watermark(tick));
        }
        worker.step();
        let awaited = tick.saturating_sub((TICKS_AHEAD - 1) * shape.tick_ms);
        worker.step_while(|| probe.less_than(&Time::start(awaited)));
    }
    if first {
        inputs.read(RequestId(1), Read::Held);
    }
    let end = inputs.tick() + 1;
    inputs.advance_to(end);
    worker.step_while(|| probe.less_than(&Time::start(end)));
    Figures {
        cpu: cpu_secs() - start,
        wall: begun.elapsed().as_secs_f64(),
        updates: updates as f64,
        held: held.get() as f64,
        emitted: emitted.get() as f64,
        ..Figures::default()
    }
}

/// Returns, for each metric, the number of totals beyond the emit bound at the end, and the number of their changes.
fn matches(count: u64, tick_ms: u64) -> HashMap<Metric, (u64, u64)> {
    let metrics = [Metric::Bytes, Metric::Packets];
    let cuts = metrics.map(|metric| 1i64 << value(metric, count).ilog2());
    let mut totals = HashMap::<(Window, u32), Volume>::new();
    let mut changes = [0; 2];
    let mut tick = HashMap::<(Window, u32), Volume>::new();
    let mut end_ms = tick_ms;
    let sum = |sum: &mut Volume, volume| *sum = sum.checked_add(volume).expect("small sums");
    let mut settle = |tick: &mut HashMap<(Window, u32), Volume>| {
        for (key, volume) in tick.drain() {
            let total = totals.entry(key).or_default();
            sum(total, volume);
            for ((metric, cut), changes) in metrics.iter().zip(cuts).zip(&mut changes) {
                *changes += u64::from(total.amount(*metric) > cut);
            }
        }
    };
    for record in records(count) {
        while u64::from(record.at_ms) >= end_ms {
            settle(&mut tick);
            end_ms += tick_ms;
        }
        sum(tick.entry((record.window(), record.rank)).or_default(), record.volume());
    }
    settle(&mut tick);
    let beyond = |(metric, cut): (&Metric, i64)| {
        totals.values().filter(|total| total.amount(*metric) > cut).count() as u64
    };
    let live: Vec<u64> = metrics.iter().zip(cuts).map(beyond).collect();
    metrics.into_iter().zip(live.into_iter().zip(changes)).collect()
}

/// Runs all shapes in turn, each in a process of its own.
fn in_turn(table: &str, shapes: &[Shape], count: u64, runs: usize) -> Vec<Vec<Figures>> {
    let program = std::env::current_exe().expect("this program has a path");
    let mut all = vec![Vec::new(); shapes.len()];
    for _ in 0..runs {
        for (at, shape) in shapes.iter().enumerate() {
            let output = Command::new(&program)
                .args([table, "--shape", &at.to_string(), "--records", &count.to_string()])
                .output()
                .expect("this program starts again");
            assert!(output.status.success(), "{}: {output:?}", shape.name);
            let text = String::from_utf8(output.stdout).expect("text");
            let mut figures = Figures::default();
            for (field, word) in figures.fields().into_iter().zip(text.split_whitespace()) {
                *field = word.parse().expect("a number");
            }
            all[at].push(figures);
        }
    }
    all
}

/// Returns the median of each figure.
fn medians(runs: &[Figures]) -> Figures {
    let mut middle = Figures::default();
    for at in 0..middle.fields().len() {
        *middle.fields()[at] = median(runs.iter().map(|run| *{ *run }.fields()[at]));
    }
    middle
}

fn computation(count: u64, runs: usize) {
    println!("{count} records of {PAIRS} pairs in 60 minutes, one worker unless it says otherwise");
    println!(
        "{:<30} {:>7} {:>12} {:>7} {:>7} {:>9} {:>9} {:>6} {:>8} {:>11}",
        "",
        "CPU s",
        "least-most",
        "M/CPU s",
        "wall s",
        "M updates",
        "totals",
        "said",
        "peak MB",
        "bytes/total"
    );
    for (shape, runs) in COMPUTATION.iter().zip(in_turn("computation", &COMPUTATION, count, runs)) {
        let Figures { cpu, wall, updates, held, emitted, peak_mb, end_mb } = medians(&runs);
        let per_total = match held {
            0.0 => String::new(),
            _ => format!("{:.0}", end_mb * 1e6 / held),
        };
        println!(
            "{:<30} {cpu:>7.2} {:>12} {:>7.2} {wall:>7.2} {:>9.2} {held:>9} {emitted:>6} {peak_mb:>8.0} \
             {per_total:>11}",
            shape.name,
            spread(runs.iter().map(|run| run.cpu)),
            count as f64 / cpu / 1e6,
            updates / 1e6,
        );
    }
}

fn overlapping(count: u64, runs: usize) {
    // With fewer records, the cost of matches dominates.
    let count = count / 5;
    println!("{count} records, ticks of a minute, each pair in every scope but the low one");
    println!(
        "{:<38} {:>7} {:>12} {:>8} {:>9} {:>10} {:>9} {:>8} {:>12}",
        "",
        "CPU s",
        "least-most",
        "matches",
        "changes",
        "ns/change",
        "said",
        "peak MB",
        "bytes/match"
    );
    let matches = matches(count, OVERLAP[0].tick_ms);
    let mut base = None;
    for (shape, runs) in OVERLAP.iter().zip(in_turn("overlap", &OVERLAP, count, runs)) {
        let Figures { cpu, emitted, peak_mb, .. } = medians(&runs);
        let base: Figures = *base.get_or_insert_with(|| medians(&runs));
        let (mut live, mut changes) = (0, 0);
        if let Limits::Overlapping { scopes, matches: true } = shape.limits {
            for scope in nested().take(scopes) {
                let (these, changed) = matches[&scope.metric];
                (live, changes) = (live + these, changes + changed);
            }
        }
        let each = |more: f64, of: u64| match of {
            // Too few for a significant difference.
            0..100_000 => String::new(),
            _ => format!("{:.0}", more / of as f64),
        };
        println!(
            "{:<38} {cpu:>7.2} {:>12} {live:>8} {changes:>9} {:>10} {emitted:>9} {peak_mb:>8.0} {:>12}",
            shape.name,
            spread(runs.iter().map(|run| run.cpu)),
            each((cpu - base.cpu) * 1e9, changes),
            each((peak_mb - base.peak_mb) * 1e6, live),
        );
    }
}

fn main() {
    let (mut count, mut runs, mut shape, mut tables) = (10_000_000, 5, None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number");
        match &*argument {
            // Cargo passes this argument.
            "--bench" => {}
            "--quick" => runs = 3,
            "--records" => count = number(),
            "--shape" => shape = Some(number() as usize),
            _ => tables.push(argument),
        }
    }
    for (at, table) in tables.iter().enumerate() {
        if at > 0 {
            println!();
        }
        match (&**table, shape) {
            ("computation", None) => computation(count, runs),
            ("computation", Some(shape)) => measure(COMPUTATION[shape], count),
            ("overlap", None) => overlapping(count, runs),
            ("overlap", Some(shape)) => measure(OVERLAP[shape], count),
            _ => panic!("no table \"{table}\""),
        }
    }
}
