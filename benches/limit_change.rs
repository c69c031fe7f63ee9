//! Latency of an edit of a limit, with one and with four million live totals.
//!
//! The measured time, on one worker, starts with the edit of the row, and ends when all its changes are emitted.
//! Loading is not measured. The measurements:
//!
//! - A new value on the same side of all totals, and values with 10 or 10 000 totals in between. The
//!   floor does not move. The cost should depend on the emitted changes only, and not on the live totals: well
//!   under a millisecond for the first two.
//! - The first of these among 10 000 other limits in force. It should cost the same.
//! - A limit is added or removed, so that a floor is, too, and each total is examined: with no total above the
//!   floor, with some thousands, with all. The cost should be tens of nanoseconds for each live total,
//!   plus that of the totals that it newly emits. Meanwhile no operator should run for long; the bench prints the
//!   longest activations of the traffic tables, and of other operators.
//! - The first three in the textbook form, plain `join_core`, which examines each live total. It should be
//!   slower, the more so the more totals are live. It runs fewer changes.
//!
//! `cargo bench --bench limit_change -- 1000000 4000000` holds so many totals.

// The table is the result.
#![allow(clippy::print_stdout)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use differential_dataflow::input::{Input, InputSession};
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Inputs, Options};
use floodmark_dataflows::textbook;
use floodmark_dataflows::time::{Phase, Time, Window};
use floodmark_dataflows::types::{
    LimitId, Pair, Prefix, Scope, Version, VersionId, Volume, WideVolume,
};
use ipnet::Ipv4Net;
use timely::dataflow::operators::{Inspect, probe};
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

const WINDOWS: u64 = 10;

/// The floor of the limit, where it does not move.
const FLOOR: i64 = 1 << 20;
/// The number of totals above the floor.
const ABOVE: i64 = 30_000;
/// The distance between two totals above the floor.
const GAP: i64 = 32;

/// Returns a value that this number of totals exceed.
fn value_under(totals: i64) -> Option<i64> {
    Some(FLOOR + GAP * (ABOVE - totals))
}

/// Returns total number `n`: window, pair and amount.
fn total(n: u64) -> (Window, Pair, Volume) {
    let window = Window(n % WINDOWS * 300);
    let address = (n / WINDOWS) as u32;
    let pair = Pair::V4((0x0a00_0000 | address).into(), (!address).into());
    let amount = match n as i64 {
        n if n < ABOVE => FLOOR + 1 + GAP * n,
        // The others spread over the octaves below.
        _ => {
            let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (64 << (random >> 32).rem_euclid(14) | (random & 63)) as i64
        }
    };
    (window, pair, Volume::new(amount, 1))
}

/// The scopes of many limits.
#[derive(Clone, Copy)]
enum Scopes {
    One,
    EachItsOwn,
}

/// A dataflow with live totals, and its probes.
struct LoadedDataflow<'w> {
    worker: &'w mut Worker,
    inputs: Inputs,
    plain: Option<InputSession<Time, (Window, Pair), WideVolume>>,
    probe: probe::Handle<Time>,
    emitted: Rc<RefCell<usize>>,
    longest: Longest,
    row: Option<Version>,
    rows: u32,
}

/// The longest activations, by operator.
type Longest = Rc<RefCell<HashMap<String, Duration>>>;

/// Records the longest activation of each operator. This costs time, so that it is off while time is measured.
fn watch_operators(worker: &Worker, longest: Longest) {
    let (mut names, mut began) = (HashMap::new(), HashMap::new());
    let mut log = worker.log_register().expect("logging is on");
    log.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
        for (at, event) in events.iter().flat_map(|events| events.iter()) {
            match event {
                TimelyEvent::Operates(operator) => {
                    names.insert(operator.id, operator.name.clone());
                }
                TimelyEvent::Schedule(event) if event.start_stop == StartStop::Start => {
                    began.insert(event.id, *at);
                }
                TimelyEvent::Schedule(event) => {
                    if let Some((began, name)) = began.remove(&event.id).zip(names.get(&event.id)) {
                        let mut longest = longest.borrow_mut();
                        let longest = longest.entry(name.clone()).or_default();
                        *longest = (*longest).max(*at - began);
                    }
                }
                _ => {}
            }
        }
    });
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// The computation of floodmark.
    Graph,
    /// The costs, with the operators of the dataflow watched.
    Watched,
    /// The textbook form; the graph holds no traffic then.
    Textbook,
}

/// Loads `totals` totals, and runs a measurement on them.
fn with_totals<R: Send + Sync + 'static>(
    form: Form,
    totals: u64,
    measure: impl Fn(&mut LoadedDataflow<'_>) -> R + Send + Sync + 'static,
) -> R {
    let mut config = timely::Config::thread();
    let merging = differential_dataflow::Config::default().idle_merge_effort(Some(1000));
    differential_dataflow::configure(&mut config.worker, &merging);
    let guards = timely::execute(config, move |worker| {
        let (emitted, longest) = (Rc::new(RefCell::new(0)), Longest::default());
        if form == Form::Watched {
            watch_operators(worker, longest.clone());
        }
        let (inputs, plain, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, Options::default());
            let count = emitted.clone();
            outputs.changes.inspect_batch(move |_, changes| *count.borrow_mut() += changes.len());
            let plain = (form == Form::Textbook).then(|| {
                let (plain, updates) = scope.new_collection();
                let count = emitted.clone();
                let windows = Options::default().windows;
                let in_force = textbook::in_force(outputs.versions, outputs.existing, windows);
                textbook::violations(updates, in_force)
                    .inspect(move |_| *count.borrow_mut() += 1)
                    .probe_with(&probe);
                plain
            });
            (inputs, plain, probe)
        });
        let mut dataflow =
            LoadedDataflow { worker, inputs, plain, probe, emitted, longest, row: None, rows: 0 };
        dataflow.load(totals);
        measure(&mut dataflow)
    })
    .expect("a worker starts");
    let result = guards.join().pop().expect("there is one worker");
    result.expect("the worker does not panic")
}

impl LoadedDataflow<'_> {
    fn load(&mut self, totals: u64) {
        let mut combiner = Combiner::new(1);
        for (window, pair, volume) in (0..totals).map(total) {
            match &mut self.plain {
                Some(plain) => {
                    let time = Time::new(self.inputs.tick(), Phase::Data);
                    plain.update_at((window, pair), time, WideVolume::from(volume));
                }
                None => combiner.add(window, pair, volume),
            }
        }
        for window in 0..WINDOWS {
            self.inputs.mark(SourceProgress::Seen(Window(window * 300)));
        }
        self.inputs.batches(combiner.take());
        self.tick();
        self.step_idle();
    }

    /// Ends a tick, and waits until all its changes are emitted.
    fn tick(&mut self) {
        self.inputs.mark(SourceProgress::Watermark(0));
        let next = self.inputs.tick() + 1;
        self.inputs.advance_to(next);
        if let Some(plain) = &mut self.plain {
            plain.advance_to(Time::start(next));
            plain.flush();
        }
        let probe = &self.probe;
        self.worker.step_while(|| probe.less_than(&Time::start(next)));
    }

    /// Merges traces in small steps, as a worker does between two ticks.
    fn step_idle(&mut self) {
        for _ in 0..1000 {
            self.worker.step();
        }
    }

    /// Sets the value of the limit, or removes the limit, and returns the time that took.
    fn change(&mut self, value: Option<i64>) -> Duration {
        self.rows += 1;
        let row = value.map(|value| Version {
            limit: LimitId(1),
            id: VersionId(self.rows),
            value: Some(value),
            ..Version::default()
        });
        self.step_idle();
        *self.emitted.borrow_mut() = 0;
        let start = Instant::now();
        if let Some(row) = std::mem::replace(&mut self.row, row) {
            self.inputs.edit(row, -1);
        }
        if let Some(row) = row {
            self.inputs.edit(row, 1);
        }
        self.tick();
        start.elapsed()
    }

    /// Adds further limits, which no total breaks.
    fn add_limits(&mut self, limits: u32, scopes: Scopes) {
        for limit in 0..limits {
            let source = match scopes {
                Scopes::One => Prefix::ANY,
                Scopes::EachItsOwn => {
                    let network = Ipv4Net::new((0x0a00_0000 | limit << 8).into(), 24);
                    Prefix::new(network.expect("a length of an IPv4 network").into())
                }
            };
            let version = Version {
                limit: LimitId(2 + limit),
                id: VersionId(u32::MAX - limit),
                value: Some((1 << 40) + i64::from(limit)),
                scope: Scope { source, ..Scope::default() },
                ..Version::default()
            };
            self.inputs.edit(version, 1);
        }
        self.tick();
        self.step_idle();
    }

    /// Changes the limit back and forth; the first two changes are a warm-up.
    fn toggle(&mut self, times: usize, between: [Option<i64>; 2]) -> Measured {
        for value in between {
            self.change(value);
        }
        self.count(times, between)
    }

    fn count(&mut self, times: usize, between: [Option<i64>; 2]) -> Measured {
        let mut took = Vec::new();
        for value in between.into_iter().cycle().take(times) {
            took.push(self.change(value));
        }
        took.sort_unstable();
        Measured { took, emitted: *self.emitted.borrow() }
    }
}

struct Measured {
    took: Vec<Duration>,
    /// The number of changes emitted by the last edit.
    emitted: usize,
}

impl Measured {
    fn median(&self) -> Duration {
        self.took[self.took.len() / 2]
    }

    /// Prints one row of the table. `each` is `(less, of)`: the last column is the time above `less`, divided by `of`.
    fn print(&self, what: &str, each: Option<(Duration, u64)>) {
        let us = |took: Duration| took.as_secs_f64() * 1e6;
        let p99 = self.took[(self.took.len() * 99).div_ceil(100) - 1];
        let worst = self.took[self.took.len() - 1];
        let share = each
            .map(|(less, of)| format!("{:.1}", (us(self.median()) - us(less)) * 1e3 / of as f64));
        println!(
            "{what:<44} {:>7} {:>7} {:>11.1} {:>11.1} {:>11.1} {:>8}",
            self.took.len(),
            self.emitted,
            us(self.median()),
            us(p99),
            us(worst),
            share.unwrap_or_default(),
        );
    }
}

fn main() {
    // Cargo passes `--bench`.
    let mut totals: Vec<u64> =
        std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    if totals.is_empty() {
        totals = vec![1_000_000, 4_000_000];
    }
    for (at, totals) in totals.into_iter().enumerate() {
        if at > 0 {
            println!();
        }
        println!(
            "{totals} totals held in {WINDOWS} windows; microseconds, from the edit to all said"
        );
        println!(
            "{:<44} {:>7} {:>7} {:>11} {:>11} {:>11} {:>8}",
            "limit change", "changes", "said", "median", "p99", "worst", "ns each"
        );
        measure_graph(totals);
        measure_among_limits(totals);
        measure_textbook(totals);
        println!();
        measure_longest_activations(totals);
    }
}

fn measure_graph(totals: u64) {
    with_totals(Form::Graph, totals, move |dataflow| {
        let nothing = dataflow.toggle(1000, [value_under(0), value_under(-1)]);
        nothing.print("floor stays, nothing to say", None);
        let same =
            dataflow.toggle(100, [value_under(10_000), value_under(10_000).map(|value| value - 1)]);
        same.print("floor stays, nothing to say, 10 000 stand", Some((nothing.median(), 10_000)));
        let ten = dataflow.toggle(1000, [value_under(0), value_under(10)]);
        ten.print("floor stays, 10 raised or cleared", None);
        let many = dataflow.toggle(100, [value_under(0), value_under(10_000)]);
        many.print("floor stays, 10 000 raised or cleared", Some((nothing.median(), 10_000)));
        dataflow.change(None);
        let idle = dataflow.toggle(60, [Some(1 << 40), None]);
        idle.print("floor moves, nothing put out (per total held)", Some((Duration::ZERO, totals)));
        let some = dataflow.toggle(60, [value_under(0), None]);
        let put_out = Some((idle.median(), ABOVE as u64));
        some.print("floor moves, 30 000 put out (per one of them)", put_out);
        let all = dataflow.count(2, [Some(63), None]);
        all.print("floor moves, all put out and said (per total)", Some((Duration::ZERO, totals)));
    });
}

fn measure_among_limits(totals: u64) {
    for (scopes, which) in [(Scopes::One, "one scope"), (Scopes::EachItsOwn, "10 000 scopes")] {
        let nothing = with_totals(Form::Graph, totals, move |dataflow| {
            dataflow.add_limits(10_000, scopes);
            dataflow.toggle(400, [value_under(0), value_under(-1)])
        });
        nothing.print(&format!("nothing to say, 10 000 limits of {which}"), None);
    }
}

fn measure_textbook(totals: u64) {
    with_totals(Form::Textbook, totals, |dataflow| {
        for (emitted, what) in [(-1, "nothing to say"), (10, "10 said"), (10_000, "10 000 said")] {
            let measured = dataflow.toggle(10, [value_under(0), value_under(emitted)]);
            measured.print(&format!("plain join_core, {what}"), None);
        }
    });
}

fn measure_longest_activations(totals: u64) {
    println!("longest activations while a floor moves, in milliseconds");
    for (what, value) in
        [("nothing put out", 1 << 40), ("30 000 put out", FLOOR), ("all put out and said", 63)]
    {
        let longest = with_totals(Form::Watched, totals, move |dataflow| {
            dataflow.longest.borrow_mut().clear();
            dataflow.count(if value == 63 { 2 } else { 6 }, [Some(value), None]);
            dataflow.step_idle();
            dataflow.longest.borrow().clone()
        });
        let mut longest: Vec<_> = longest.into_iter().collect();
        longest.retain(|(name, _)| name != "Dataflow");
        longest.sort_by_key(|(name, took)| (name != "Traffic", std::cmp::Reverse(*took)));
        let longest = longest
            .iter()
            .take(4)
            .map(|(name, took)| format!("{name} {:.1}", took.as_secs_f64() * 1e3));
        println!("{what:<44} {}", longest.collect::<Vec<_>>().join(", "));
    }
}
