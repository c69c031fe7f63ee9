//! Thousands of limits over many windows, windows far apart, many violations, many workers.
//!
//! Each row is a process of `floodmark replay`. With a baseline, that build runs the same row in turn, and the ratios
//! are those of the medians. A process may map 8 GiB; the row of a failed process shows its failure.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use floodmark::capture::{EventTime, Packet};
use floodmark::generate::Workload;
use floodmark_dataflows::types::Pair;

use crate::common::child::{self, Cost};
use crate::common::table::{medians, spread};
use crate::{Bench, windows_live, workload};

/// 2026-01-01T00:00:00Z, in milliseconds.
const START_MS: u64 = 1_767_225_600_000;
const DAY_MS: u64 = 86_400_000;
const YEAR_MS: u64 = DAY_MS * 1461 / 4;

/// The memory that a process may map.
const ADDRESS_SPACE: u64 = 8 << 30;

/// A replay by both programs, and its costs.
struct Row {
    name: &'static str,
    capture: PathBuf,
    limits: Option<PathBuf>,
    words: &'static str,
    /// Whether the row runs only once, since it takes long.
    once: bool,
    /// Whether the baseline runs the row, too.
    beside: bool,
    /// Whether changes are written to a file, and violations counted.
    counted: bool,
    own: Side,
    baseline: Side,
    violations: u64,
}

/// The runs of one program.
#[derive(Default)]
struct Side {
    costs: Vec<Cost>,
    /// The failure of the last run, if it failed.
    failed: Option<String>,
}

impl Side {
    fn run(&mut self, command: &mut Command) {
        match child::attempt(command) {
            (status, cost) if status.success() => self.costs.push(cost),
            (status, cost) => {
                self.failed = Some(format!("failed at {:.0} MB: {status}", cost.peak_mb));
            }
        }
    }

    /// Returns the medians; NaN if a run failed.
    fn median(&self) -> Cost {
        match self.failed.is_some() || self.costs.is_empty() {
            true => Cost { wall: f64::NAN, cpu: f64::NAN, peak_mb: f64::NAN },
            false => medians(&self.costs),
        }
    }
}

fn row(name: &'static str, capture: &Path, limits: Option<&Path>, words: &'static str) -> Row {
    Row {
        name,
        capture: capture.to_owned(),
        limits: limits.map(Path::to_owned),
        words,
        once: false,
        beside: true,
        counted: true,
        own: Side::default(),
        baseline: Side::default(),
        violations: 0,
    }
}

impl Row {
    fn once(self) -> Self {
        Row { once: true, ..self }
    }

    fn alone(self) -> Self {
        Row { beside: false, ..self }
    }

    fn uncounted(self) -> Self {
        Row { counted: false, ..self }
    }

    fn command(&self, program: &Path) -> Command {
        let has_prlimit = Command::new("prlimit").arg("--version").output().is_ok();
        // The limit protects the machine.
        let mut command = match has_prlimit {
            true => {
                let mut prlimit = Command::new("prlimit");
                prlimit.arg(format!("--as={ADDRESS_SPACE}")).arg(program);
                prlimit
            }
            false => Command::new(program),
        };
        command.arg("replay").arg(&self.capture).args(self.words.split_whitespace());
        if let Some(limits) = &self.limits {
            command.arg("--limits").arg(limits);
        }
        command.stdin(Stdio::null());
        command
    }

    fn run(&mut self, bench: &Bench) {
        let out = bench.place("out");
        let stdout = || match self.counted {
            true => File::create(&out).expect("a file for the output").into(),
            false => Stdio::null(),
        };
        let messages = || File::create(bench.place("messages")).expect("a file for messages");
        if self.own.failed.is_none() {
            self.own.run(self.command(&bench.floodmark).stdout(stdout()).stderr(messages()));
            if self.counted {
                self.violations = standing(&out);
            }
        }
        let baseline =
            bench.baseline.as_ref().filter(|_| self.beside && self.baseline.failed.is_none());
        if let Some(program) = baseline {
            self.baseline.run(self.command(program).stdout(stdout()).stderr(messages()));
        }
    }

    fn line(&self) -> String {
        let Cost { cpu, peak_mb, .. } = self.own.median();
        let violations = if self.counted { self.violations.to_string() } else { String::new() };
        let line = match &self.own.failed {
            Some(failed) => format!("{:<58} {failed:<41}", self.name),
            None => {
                let spread = spread(self.own.costs.iter().map(|cost| cost.cpu));
                format!("{:<58} {cpu:>7.2} {spread:>13} {peak_mb:>8.0} {violations:>10}", self.name)
            }
        };
        match &self.baseline {
            Side { failed: Some(failed), .. } => format!("{line} {failed}"),
            Side { costs, .. } if costs.is_empty() => line,
            baseline => {
                let baseline = baseline.median();
                format!(
                    "{line} {:>8.2} {:>8.0} {:>7.3} {:>7.3}",
                    baseline.cpu,
                    baseline.peak_mb,
                    cpu / baseline.cpu,
                    peak_mb / baseline.peak_mb
                )
            }
        }
    }
}

/// Counts the violations that stand at the end of a file of changes. Reads line by line, since the peak memory of a
/// child is at least that of this process.
fn standing(changes: &Path) -> u64 {
    let file = BufReader::new(File::open(changes).expect("the changes"));
    let settled = |line: &String| {
        line.contains("\"settled\":true") && !line.starts_with("{\"event\":\"cleared\"")
    };
    file.lines().map(|line| line.expect("the changes are text")).filter(settled).count() as u64
}

pub(crate) fn measure(bench: &Bench) {
    let (standard, _) = workload::capture(bench);
    let mb = workload::one_limit(bench);
    let kb_100 = limit(bench, "100kb.json", 100_000);
    let byte = limit(bench, "byte.json", 1);
    let (day, disjoint) = (day(bench), pair_limits(bench, "5000.json", 5000));
    let (years, century) =
        (apart(bench, "years.pcap", 10_000, 30), apart(bench, "century.pcap", 40_000, 130));
    let descending = descending(bench);
    let minutes = half_hour(bench);
    let (million, packet) =
        (million(bench, bench.packets, "million.pcap"), million(bench, 1, "packet.pcap"));
    let millions = pair_limits(bench, "million.json", 1_000_000);
    let raised = distinct(bench);
    let mut rows = vec![
        row("24 h, 300 000 packets, 5 000 limits, -w 1", &day, Some(&disjoint), "-w 1"),
        row("24 h, 300 000 packets, 5 000 limits, -w 2", &day, Some(&disjoint), "-w 2"),
        row("24 h, 300 000 packets, no limits, -w 1", &day, None, "-w 1"),
        row("24 h, 300 000 packets, no limits, -w 2", &day, None, "-w 2"),
        row("10 000 packets over 30 years, one limit", &years, Some(&mb), ""),
        row("40 000 packets over 130 years, no limit", &century, None, ""),
        row(
            "1 000 packets a day apart, descending",
            &descending,
            None,
            "--lateness 1m --retention 15m",
        ),
        row("3 M packets of 300 000 pairs in 30 min, 1 MB", &minutes, Some(&mb), ""),
        row("3 M packets of 300 000 pairs in 30 min, 100 kB", &minutes, Some(&kb_100), ""),
        row("10 M packets (standard), 1 MB, -w 1", &standard, Some(&mb), "-w 1"),
        row("10 M packets (standard), 100 kB, -w 1", &standard, Some(&kb_100), "-w 1"),
        row("10 M packets (standard), 1 MB, -w 4", &standard, Some(&mb), "-w 4"),
        row("5 M violations raised at one tick", &raised, Some(&byte), "--tick 5m")
            .once()
            .uncounted(),
        row("1 M pairs, 12 windows, one limit, -w 1", &million, Some(&mb), "-w 1").once().alone(),
        row("1 M pairs, 12 windows, a limit each, -w 1", &million, Some(&millions), "-w 1")
            .once()
            .alone(),
        row("1 M pairs, 12 windows, a limit each, -w 2", &million, Some(&millions), "-w 2")
            .once()
            .alone(),
        row("one packet, 1 M limits, -w 1", &packet, Some(&millions), "-w 1").once().alone(),
        row("one packet, 1 M limits, -w 2", &packet, Some(&millions), "-w 2").once().alone(),
    ];
    for turn in 0..bench.runs {
        rows.iter_mut().filter(|row| turn == 0 || !row.once).for_each(|row| row.run(bench));
    }
    let head = format!(
        "{:<58} {:>7} {:>13} {:>8} {:>10}",
        "replay --tick 1s unless it says otherwise", "CPU s", "least-most", "peak MB", "violations"
    );
    match bench.baseline {
        Some(_) => {
            println!("{head} {:>8} {:>8} {:>7} {:>7}", "baseline", "peak MB", "CPU x", "MB x")
        }
        None => println!("{head}"),
    }
    rows.iter().for_each(|row| println!("{}", row.line()));
    let at = |name: &str| {
        let row = rows.iter().find(|row| row.name.starts_with(name));
        row.expect("a row of this name").own.median()
    };
    println!();
    let twice = at("24 h, 300 000 packets, 5 000 limits, -w 2").cpu
        / at("24 h, 300 000 packets, 5 000 limits, -w 1").cpu;
    println!("24 h, 5 000 limits: -w 2 takes {twice:.2} times the CPU of -w 1");
    for workload in ["3 M packets of 300 000 pairs in 30 min, ", "10 M packets (standard), "] {
        let [kb_100, mb] = ["100 kB", "1 MB"].map(|limit| at(&format!("{workload}{limit}")).cpu);
        println!("{workload}100 kB: {:.2} times the CPU of 1 MB", kb_100 / mb);
    }
    let four = at("10 M packets (standard), 1 MB, -w 4").cpu
        / at("10 M packets (standard), 1 MB, -w 1").cpu;
    println!("10 M packets (standard): -w 4 takes {four:.2} times the CPU of -w 1");
    let [one, each] = ["one limit", "a limit each"]
        .map(|limits| at(&format!("1 M pairs, 12 windows, {limits}, -w 1")).cpu);
    let reading = at("one packet, 1 M limits, -w 1");
    println!(
        "1 M limits: {:.2} times the speed of one limit, without reading the rows ({:.2} CPU s)",
        one / (each - reading.cpu),
        reading.cpu
    );
    let further = at("one packet, 1 M limits, -w 2").peak_mb - reading.peak_mb;
    println!("1 M limits: {further:.0} bytes a limit for a second worker");
    windows_live::measure(bench);
}

fn limit(bench: &Bench, name: &str, value: u64) -> PathBuf {
    let path = bench.place(name);
    let row = format!(
        "{{\"limit_name\":\"max\",\"limit_value\":{value},\"effective_date\":\"1970-01-01\"}}"
    );
    fs::write(&path, row).expect("writing limits");
    path
}

/// Writes a limit that nothing breaks for each of the first `count` pairs of [`pair`].
pub(crate) fn pair_limits(bench: &Bench, name: &str, count: u32) -> PathBuf {
    let path = bench.place(name);
    let mut file = BufWriter::new(File::create(&path).expect("a file of limits"));
    for number in 0..count {
        let pair = pair(number);
        writeln!(
            file,
            "{{\"limit_name\":\"pair-{number}\",\"limit_value\":1000000,\"effective_date\":\"2000-01-01\",\
             \"source\":\"{}\",\"destination\":\"{}\"}}",
            pair.source(),
            pair.destination()
        )
        .expect("writing limits");
    }
    file.flush().expect("writing limits");
    path
}

fn pair(number: u32) -> Pair {
    let source = Ipv4Addr::from_bits(0x0a00_0000 + number);
    Pair::V4(source, Ipv4Addr::from_bits(0xac10_0000 + number))
}

fn packet(ms: u64, pair: Pair) -> Packet {
    // A medium length, which varies so that the sums of pairs differ.
    Packet { time: EventTime { ms, nanos: 0 }, pair, bytes: 100 + ms % 1400 }
}

/// Returns a generator of pseudo-random numbers (SplitMix64).
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |bound| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Writes 300 000 packets of 5 000 pairs in a day.
fn day(bench: &Bench) -> PathBuf {
    let mut random = random(1);
    let packets = 300_000;
    workload::write_once(bench, "day.pcap", || {
        (0..packets)
            .map(move |at| packet(START_MS + at * DAY_MS / packets, pair(random(5000) as u32)))
    })
}

/// Writes packets at random seconds, in order of time, over `years` years from 1970 on.
pub(crate) fn apart(bench: &Bench, name: &str, packets: usize, years: u64) -> PathBuf {
    let mut random = random(2);
    workload::write_once(bench, name, || {
        let mut times: Vec<u64> = (0..packets).map(|_| random(years * YEAR_MS / 1000)).collect();
        times.sort_unstable();
        times.into_iter().map(|second| packet(second * 1000, pair(second as u32 % 100)))
    })
}

fn descending(bench: &Bench) -> PathBuf {
    workload::write_once(bench, "descending.pcap", || {
        (0..1000).map(|days| packet(START_MS - days * DAY_MS, pair(7)))
    })
}

/// Writes 3 M packets of 300 000 pairs, a few of which have most of the traffic, in half an hour.
fn half_hour(bench: &Bench) -> PathBuf {
    let workload = Workload {
        packets: 3_000_000,
        pairs: 300_000,
        start_micros: START_MS * 1000,
        span_micros: 1_800_000_000,
        seed: 1,
        ipv6: 0.25,
    };
    let packets = || workload.packets().expect("the workload exists");
    workload::write_once(bench, "half-hour.pcap", packets)
}

/// Writes packets of a million pairs, those of [`pair_limits`], in an hour.
fn million(bench: &Bench, packets: u64, name: &str) -> PathBuf {
    let mut random = random(3);
    workload::write_once(bench, name, || {
        (0..packets).map(move |at| {
            packet(START_MS + at * 3_600_000 / packets, pair(random(1_000_000) as u32))
        })
    })
}

/// Writes 5 M packets of as many pairs, all in one window.
fn distinct(bench: &Bench) -> PathBuf {
    workload::write_once(bench, "distinct.pcap", || {
        (0..5_000_000).map(|number| packet(START_MS + u64::from(number) / 50_000, pair(number)))
    })
}
