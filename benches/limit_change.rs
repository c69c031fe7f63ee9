//! How long does a change of a limit take, with one and with four million totals held?
//!
//! On one worker, from the edit of the row until everything that is said about it has been said.
//! Loading is not measured. The shapes:
//!
//! - A new value on the same side of all totals, and values that 10 or 10 000 totals lie between. The
//!   floor stays where it is. The cost should be that of what is said, whatever is held: well under a
//!   millisecond for the first two.
//! - The first of these among 10 000 other limits in force. It should cost the same.
//! - A limit comes or goes, so that a floor does, and each total is looked at: with nothing above the
//!   floor, with some thousands, with everything. It should be tens of nanoseconds for each total held,
//!   and what it newly puts out on top. Meanwhile no operator should be away for long; the longest
//!   activation of the traffic tables, and of any other operator, is shown.
//! - The first three in the textbook form, plain `join_core`, which looks at each total held. It should
//!   lose, by more the more is held. It is given fewer changes.
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
/// So many totals lie above it, each `GAP` from the next.
const ABOVE: i64 = 30_000;
const GAP: i64 = 32;

/// A value that so many totals are over.
fn value_under(totals: i64) -> Option<i64> {
    Some(FLOOR + GAP * (ABOVE - totals))
}

/// The total number `n`: window, pair and amount.
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

/// What many limits look at.
#[derive(Clone, Copy)]
enum Scopes {
    One,
    EachItsOwn,
}

/// What runs, and what has happened in it.
struct Running<'w> {
    worker: &'w mut Worker,
    inputs: Inputs,
    plain: Option<InputSession<Time, (Window, Pair), WideVolume>>,
    probe: probe::Handle<Time>,
    said: Rc<RefCell<usize>>,
    longest: Longest,
    row: Option<Version>,
    rows: u32,
}

/// The longest activations, by operator.
type Longest = Rc<RefCell<HashMap<String, Duration>>>;

/// Notes how long operators are away. That costs time, so it is not done where time is measured.
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
    /// The computation.
    Graph,
    /// The same with its operators watched.
    Watched,
    /// The textbook form; the graph holds no traffic then.
    Textbook,
}

/// Holds so many totals and measures on them.
fn with_totals<R: Send + Sync + 'static>(
    form: Form,
    totals: u64,
    measure: impl Fn(&mut Running<'_>) -> R + Send + Sync + 'static,
) -> R {
    let mut config = timely::Config::thread();
    let merging = differential_dataflow::Config::default().idle_merge_effort(Some(1000));
    differential_dataflow::configure(&mut config.worker, &merging);
    let guards = timely::execute(config, move |worker| {
        let (said, longest) = (Rc::new(RefCell::new(0)), Longest::default());
        if form == Form::Watched {
            watch_operators(worker, longest.clone());
        }
        let (inputs, plain, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, Options::default());
            let count = said.clone();
            outputs.changes.inspect_batch(move |_, changes| *count.borrow_mut() += changes.len());
            let plain = (form == Form::Textbook).then(|| {
                let (plain, updates) = scope.new_collection();
                let count = said.clone();
                let windows = Options::default().windows;
                let in_force = textbook::in_force(outputs.versions, outputs.existing, windows);
                textbook::violations(updates, in_force)
                    .inspect(move |_| *count.borrow_mut() += 1)
                    .probe_with(&probe);
                plain
            });
            (inputs, plain, probe)
        });
        let mut running =
            Running { worker, inputs, plain, probe, said, longest, row: None, rows: 0 };
        running.load(totals);
        measure(&mut running)
    })
    .expect("a worker starts");
    let result = guards.join().pop().expect("there is one worker");
    result.expect("the worker does not panic")
}

impl Running<'_> {
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
        self.rest();
    }

    /// Ends a tick and waits until all of it has been said.
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

    /// What a worker does between two ticks: it merges what came, in small steps.
    fn rest(&mut self) {
        for _ in 0..1000 {
            self.worker.step();
        }
    }

    /// Gives the limit a value or takes it away, and tells how long that took.
    fn change(&mut self, value: Option<i64>) -> Duration {
        self.rows += 1;
        let row = value.map(|value| Version {
            limit: LimitId(1),
            id: VersionId(self.rows),
            value: Some(value),
            ..Version::default()
        });
        self.rest();
        *self.said.borrow_mut() = 0;
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

    /// Holds the totals to more limits, which no total breaks.
    fn hold_to(&mut self, limits: u32, scopes: Scopes) {
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
        self.rest();
    }

    /// Changes the limit to and fro; the first two changes do not count.
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
        Measured { took, said: *self.said.borrow() }
    }
}

struct Measured {
    took: Vec<Duration>,
    /// By the last change.
    said: usize,
}

impl Measured {
    fn median(&self) -> Duration {
        self.took[self.took.len() / 2]
    }

    /// One row of the table. `each`: what the time is shared among that is not counted for `less`.
    fn print(&self, what: &str, each: Option<(Duration, u64)>) {
        let us = |took: Duration| took.as_secs_f64() * 1e6;
        let p99 = self.took[(self.took.len() * 99).div_ceil(100) - 1];
        let worst = self.took[self.took.len() - 1];
        let share = each
            .map(|(less, of)| format!("{:.1}", (us(self.median()) - us(less)) * 1e3 / of as f64));
        println!(
            "{what:<44} {:>7} {:>7} {:>11.1} {:>11.1} {:>11.1} {:>8}",
            self.took.len(),
            self.said,
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
        of_the_graph(totals);
        among_others(totals);
        of_the_textbook(totals);
        println!();
        longest_steps(totals);
    }
}

fn of_the_graph(totals: u64) {
    with_totals(Form::Graph, totals, move |running| {
        let nothing = running.toggle(1000, [value_under(0), value_under(-1)]);
        nothing.print("floor stays, nothing to say", None);
        let same =
            running.toggle(100, [value_under(10_000), value_under(10_000).map(|value| value - 1)]);
        same.print("floor stays, nothing to say, 10 000 stand", Some((nothing.median(), 10_000)));
        let ten = running.toggle(1000, [value_under(0), value_under(10)]);
        ten.print("floor stays, 10 raised or cleared", None);
        let many = running.toggle(100, [value_under(0), value_under(10_000)]);
        many.print("floor stays, 10 000 raised or cleared", Some((nothing.median(), 10_000)));
        running.change(None);
        let idle = running.toggle(60, [Some(1 << 40), None]);
        idle.print("floor moves, nothing put out (per total held)", Some((Duration::ZERO, totals)));
        let some = running.toggle(60, [value_under(0), None]);
        let put_out = Some((idle.median(), ABOVE as u64));
        some.print("floor moves, 30 000 put out (per one of them)", put_out);
        let all = running.count(2, [Some(63), None]);
        all.print("floor moves, all put out and said (per total)", Some((Duration::ZERO, totals)));
    });
}

fn among_others(totals: u64) {
    for (scopes, which) in [(Scopes::One, "one scope"), (Scopes::EachItsOwn, "10 000 scopes")] {
        let nothing = with_totals(Form::Graph, totals, move |running| {
            running.hold_to(10_000, scopes);
            running.toggle(400, [value_under(0), value_under(-1)])
        });
        nothing.print(&format!("nothing to say, 10 000 limits of {which}"), None);
    }
}

fn of_the_textbook(totals: u64) {
    with_totals(Form::Textbook, totals, |running| {
        for (said, what) in [(-1, "nothing to say"), (10, "10 said"), (10_000, "10 000 said")] {
            let measured = running.toggle(10, [value_under(0), value_under(said)]);
            measured.print(&format!("plain join_core, {what}"), None);
        }
    });
}

fn longest_steps(totals: u64) {
    println!("longest activations while a floor moves, in milliseconds");
    for (what, value) in
        [("nothing put out", 1 << 40), ("30 000 put out", FLOOR), ("all put out and said", 63)]
    {
        let longest = with_totals(Form::Watched, totals, move |running| {
            running.longest.borrow_mut().clear();
            running.count(if value == 63 { 2 } else { 6 }, [Some(value), None]);
            running.rest();
            running.longest.borrow().clone()
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
