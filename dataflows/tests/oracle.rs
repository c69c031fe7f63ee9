//! Both implementations against the reference, at every tick of random histories.
//!
//! Held against each other: the violations that stand, of the textbook form as they are, of the graph as they
//! were published last; the changes of each tick; the totals that are held, that are emitted when a window
//! settles or retires, and that are dropped as too late; the ranking of each window that settles. Records are dealt
//! to all workers; how often the frontier moves is up to the seed.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use differential_dataflow::input::Input;
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::reads::{Chunk, EmitTotals, Read, RequestId};
use floodmark_dataflows::reference::{Reference, TickInput, TickOutput};
use floodmark_dataflows::reports::Late;
use floodmark_dataflows::spans::Existing;
use floodmark_dataflows::textbook;
use floodmark_dataflows::time::{Phase, Time, Window};
use floodmark_dataflows::top::Ranked;
use floodmark_dataflows::types::{
    Change, Entity, Event, LimitId, Pair, Violation, Volume, WideVolume,
};
use timely::dataflow::operators::Inspect;

use crate::histories::rng::Rng;
use crate::histories::{History, Size, history};
use crate::workers;

/// An output of a worker.
enum Seen {
    Violation(Violation, isize),
    Textbook(Violation, isize),
    Change(Change),
    Chunk(Chunk),
    Top(Ranked),
    Late(Late),
    Window(Existing, isize),
}

/// The outputs of one tick, in the form of the reference.
#[derive(Debug, Default, PartialEq)]
struct TickResults {
    violations: BTreeSet<Violation>,
    textbook: BTreeSet<Violation>,
    changes: BTreeSet<Change>,
    held: BTreeMap<(Window, Pair), Volume>,
    /// The totals of windows that settle or retire.
    emitted_totals: BTreeMap<(Window, Pair), Volume>,
    /// The windows held that are partial.
    partial: BTreeSet<Window>,
    top: Vec<Ranked>,
    late_packets: i64,
}

type Published = BTreeMap<(Window, LimitId, Entity), Violation>;

impl TickResults {
    /// `published` are the violations as they were published last; the tick changes them.
    fn of(output: TickOutput, published: &mut Published, emit_totals: EmitTotals) -> Self {
        for Change { event, violation, .. } in &output.changes {
            let id = (violation.window, violation.limit, violation.entity);
            match event {
                Event::Raised | Event::Updated => published.insert(id, *violation),
                Event::Cleared => published.remove(&id),
            };
        }
        published.retain(|(window, ..), _| output.windows.contains_key(window));
        let partial = output.partial;
        let ranked = |(window, rank, entity, volume)| Ranked {
            window,
            rank: rank as u64,
            entity,
            volume,
            partial: partial.contains(&window),
        };
        TickResults {
            textbook: output.violations,
            violations: published.values().copied().collect(),
            changes: output.changes,
            held: output.held,
            emitted_totals: match emit_totals {
                EmitTotals::OnSettle => output.settled,
                EmitTotals::OnRetire => output.retired,
            },
            top: output.top.into_iter().map(ranked).collect(),
            late_packets: output.late_dropped,
            partial,
        }
    }
}

/// The moment at which a history emits totals.
fn emit_totals(seed: u64) -> EmitTotals {
    match seed % 3 {
        0 => EmitTotals::OnSettle,
        _ => EmitTotals::OnRetire,
    }
}

/// The bound on waiting changes, so small that changes of many ticks wait.
fn changes_ahead(seed: u64) -> Option<usize> {
    [None, Some(1), Some(2), Some(5)][(seed % 4) as usize]
}

/// Runs a history through the graph and the textbook form, and returns all outputs.
fn run(history: Arc<History>, workers: usize, seed: u64) -> Vec<(Time, Seen)> {
    let (send, receive) = mpsc::channel();
    let send = Arc::new(std::sync::Mutex::new(send));
    let guards = workers::execute(workers, format!("seed {seed}"), move |worker| {
        let send = send.lock().expect("no worker panics with the lock").clone();
        let options = Options {
            windows: history.windows,
            updates: history.updates,
            top: history.top,
            emit_totals: Some(emit_totals(seed)),
            changes_ahead: changes_ahead(seed),
            ..Options::default()
        };
        let (mut inputs, mut plain, probe, unconsumed) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, options);
            let (plain, updates) = scope.new_collection();
            let tap = |send: &mpsc::Sender<(Time, Seen)>| send.clone();
            let (s1, s2, s3, s4, s5, s6, s7) = (
                tap(&send),
                tap(&send),
                tap(&send),
                tap(&send),
                tap(&send),
                tap(&send),
                tap(&send),
            );
            let send_seen = |send: &mpsc::Sender<_>, time, seen| {
                send.send((time, seen)).expect("the test waits for all");
            };
            outputs.violations.inspect(move |(violation, time, diff)| {
                send_seen(&s1, *time, Seen::Violation(*violation, *diff));
            });
            let in_force =
                textbook::in_force(outputs.versions, outputs.existing.clone(), history.windows);
            textbook::violations(updates, in_force).inspect(move |(violation, time, diff)| {
                send_seen(&s2, *time, Seen::Textbook(*violation, *diff));
            });
            let unconsumed = Rc::new(Cell::new(0));
            let published_changes = unconsumed.clone();
            outputs.changes.inspect(move |(change, time)| {
                published_changes.set(published_changes.get() + 1);
                send_seen(&s3, *time, Seen::Change(*change));
            });
            outputs
                .responses
                .inspect(move |(one, time)| send_seen(&s4, *time, Seen::Chunk(one.chunk.clone())));
            outputs.existing.inspect(move |(existing, time, diff)| {
                send_seen(&s7, *time, Seen::Window(*existing, *diff));
            });
            outputs.top.inspect(move |(ranked, time)| send_seen(&s5, *time, Seen::Top(*ranked)));
            outputs.late.inspect(move |(late, time)| send_seen(&s6, *time, Seen::Late(*late)));
            (inputs, plain, probe, unconsumed)
        });
        let rng = &mut Rng::new(seed);
        let burst = rng.between(1, 4);
        // Rounds of a single tick, of a few, and of whole histories.
        let round = rng.pick(&[1, 1, 2, 5, 1000]);
        if let Some(rollup) = history.top.and_then(|top| top.rollup())
            && worker.index() == 0
        {
            inputs.view(rollup, 1);
        }
        let mut watermark = 0;
        let mut combiner = Combiner::new(worker.peers());
        for (tick, number) in history.ticks.iter().zip(1..) {
            if tick.tick > 0 {
                inputs.begin_tick(tick.tick);
                plain.advance_to(Time::start(tick.tick));
            }
            if worker.index() == 0 {
                for (version, diff) in &tick.edits {
                    inputs.edit(*version, *diff);
                }
                inputs.mark(SourceProgress::Watermark(tick.watermark));
                if let Some(begun) = tick.begun {
                    inputs.mark(SourceProgress::Begun(begun));
                }
                inputs.read(
                    RequestId(number),
                    Read::Rows { from: Window(0), until: Window(u64::MAX) },
                );
            }
            let mine = |at: usize| at % worker.peers() == worker.index();
            for (_, window) in tick.seen.iter().enumerate().filter(|(at, _)| mine(*at)) {
                inputs.mark(SourceProgress::Seen(*window));
            }
            for (partition, first) in &tick.truncated {
                if mine(*partition as usize) {
                    inputs.mark(SourceProgress::Truncated { partition: *partition, first: *first });
                }
            }
            for (at, (window, pair, volume)) in tick.records.iter().enumerate() {
                if mine(at) {
                    combiner.add(*window, *pair, *volume);
                    if !history.windows.bounds(watermark).settled(*window) {
                        let time = Time::new(tick.tick, Phase::Data);
                        plain.update_at((*window, *pair), time, WideVolume::from(*volume));
                    }
                }
            }
            inputs.batches(combiner.take());
            watermark = watermark.max(tick.watermark);
            if rng.below(round) == 0 {
                inputs.end_round();
            }
            if number % burst == 0 {
                worker.step();
            }
        }
        let last = history.ticks.last().map_or(0, |tick| tick.tick);
        inputs.advance_to(last + 1);
        plain.advance_to(Time::start(last + 1));
        plain.flush();
        while probe.less_than(&Time::start(last + 1)) {
            worker.step();
            let some = rng.below(unconsumed.get() as u64 + 1) as usize;
            unconsumed.set(unconsumed.get() - some);
            inputs.consumed(some);
        }
    })
    .expect("workers start");
    for result in guards.join() {
        result.expect("no worker panics");
    }
    receive.try_iter().collect()
}

/// The outputs by tick, with the violations and windows at the end of each.
fn results(history: &History, seen: Vec<(Time, Seen)>) -> Vec<TickResults> {
    let mut by_tick = BTreeMap::<u64, Vec<(Time, Seen)>>::new();
    for (time, seen) in seen {
        by_tick.entry(time.tick).or_default().push((time, seen));
    }
    let mut violations = BTreeMap::<Violation, isize>::new();
    let mut textbook = BTreeMap::<Violation, isize>::new();
    let mut windows = BTreeMap::<Existing, isize>::new();
    let mut all = Vec::new();
    for TickInput { tick, .. } in &history.ticks {
        let mut result = TickResults::default();
        let mut last_place = None;
        for (time, seen) in by_tick.remove(tick).into_iter().flatten() {
            match seen {
                Seen::Violation(violation, diff) => {
                    *violations.entry(violation).or_default() += diff
                }
                Seen::Textbook(violation, diff) => *textbook.entry(violation).or_default() += diff,
                Seen::Change(change) => {
                    let Violation { window, limit, entity, .. } = change.violation;
                    let place = Some((window, limit, entity));
                    assert!(last_place < place, "out of order: {change:?}");
                    last_place = place;
                    assert!(result.changes.insert(change), "published twice: {change:?}");
                }
                Seen::Chunk(Chunk::Rows { window, rows }) => {
                    let to = match time.phase {
                        Phase::Read => &mut result.held,
                        _ => &mut result.emitted_totals,
                    };
                    for (pair, volume) in rows {
                        assert_eq!(to.insert((window, pair), volume), None, "{pair:?} twice");
                    }
                }
                Seen::Chunk(other) => panic!("nobody requested {other:?}"),
                Seen::Window(existing, diff) => *windows.entry(existing).or_default() += diff,
                Seen::Top(ranked) => result.top.push(ranked),
                Seen::Late(Late { dropped_volume: Volume { packets, .. }, .. }) => {
                    result.late_packets = result.late_packets.saturating_add(packets);
                }
            }
        }
        for standing in [&mut violations, &mut textbook] {
            standing.retain(|_, count| *count != 0);
            assert!(standing.values().all(|count| *count == 1), "a violation twice: {standing:?}");
        }
        windows.retain(|_, count| *count != 0);
        let partial = windows.keys().filter(|existing| !existing.whole);
        result.partial =
            partial.flat_map(|existing| history.windows.each(existing.windows)).collect();
        result.violations = violations.keys().copied().collect();
        result.textbook = textbook.keys().copied().collect();
        result.top.sort();
        all.push(result);
    }
    assert!(by_tick.is_empty(), "outputs at ticks that the history lacks: {:?}", by_tick.keys());
    all
}

fn difference<T: Ord + std::fmt::Debug>(
    name: &str,
    ours: &BTreeSet<T>,
    right: &BTreeSet<T>,
) -> String {
    let only = |a: &BTreeSet<T>, b: &BTreeSet<T>| -> String {
        a.difference(b).map(|one| format!("    {one:?}\n")).collect()
    };
    match ours == right {
        true => String::new(),
        false => {
            format!("  {name}: only ours\n{}  only right\n{}", only(ours, right), only(right, ours))
        }
    }
}

/// Holds a history against the reference.
fn check(seed: u64, size: Size, workers: usize) {
    let history = Arc::new(history(seed, size));
    let ours = results(&history, run(history.clone(), workers, seed));
    let mut reference = Reference::new(history.windows, history.updates, history.top);
    let mut published = Published::new();
    for (input, ours) in history.ticks.iter().zip(ours) {
        let mut right =
            TickResults::of(reference.tick(input.clone()), &mut published, emit_totals(seed));
        right.top.sort();
        if ours != right {
            let sets = [
                difference("violations", &ours.violations, &right.violations),
                difference("textbook", &ours.textbook, &right.textbook),
                difference("changes", &ours.changes, &right.changes),
            ];
            panic!(
                "seed {seed}, {workers} workers, tick {}: {:?} {:?}\n{}\n  held {:?}\n  right {:?}\n  \
                 emitted {:?}\n  right {:?}\n  partial {:?}\n  right {:?}\n  top {:?}\n  right {:?}\n  late {} right {}",
                input.tick,
                history.windows,
                history.updates,
                sets.concat(),
                ours.held,
                right.held,
                ours.emitted_totals,
                right.emitted_totals,
                ours.partial,
                right.partial,
                ours.top,
                right.top,
                ours.late_packets,
                right.late_packets,
            );
        }
    }
}

/// The seeds of a kind of history; `FLOODMARK_HISTORIES` multiplies their number.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let times = std::env::var("FLOODMARK_HISTORIES").ok().and_then(|times| times.parse().ok());
    0..count * times.unwrap_or(1)
}

#[test]
fn one_worker_agrees_with_the_reference() {
    seeds(200).for_each(|seed| check(seed, Size::SMALL, 1));
}

#[test]
fn two_workers_agree_with_the_reference() {
    seeds(100).for_each(|seed| check(1_000_000 + seed, Size::SMALL, 2));
}

#[test]
fn four_workers_agree_with_the_reference() {
    seeds(50).for_each(|seed| check(2_000_000 + seed, Size::SMALL, 4));
}

#[test]
fn windows_far_apart_agree_with_the_reference() {
    seeds(30).for_each(|seed| check(4_000_000 + seed, Size::FAR, 1 + seed as usize % 2));
}

#[test]
fn many_limits_agree_with_the_reference() {
    seeds(10).for_each(|seed| check(5_000_000 + seed, Size::CROWDED, 1 + seed as usize % 3));
}

/// A monitored scope that is removed retracts its totals, and so does a total above a roof that rises.
#[test]
fn totals_that_grow_slowly_under_limits_that_move_agree_with_the_reference() {
    seeds(300).for_each(|seed| check(6_000_000 + seed, Size::GROWING, 1 + seed as usize % 2));
}

#[test]
fn long_histories_agree_with_the_reference() {
    seeds(10).for_each(|seed| check(3_000_000 + seed, Size::LARGE, 1 + seed as usize % 3));
}
