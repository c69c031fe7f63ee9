//! A computation that continues an earlier one from its saved state, at random ticks of random histories.
//!
//! Saved are the state of the clock at one tick, the rows of limits, and the totals of each window, which may be of a
//! later tick each: the records up to that tick are left out for the window when the ticks since are repeated.
//! Everything that the earlier computation emits up to the last of these ticks, and the continued one from then on, is that of
//! the reference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Inputs, Options};
use floodmark_dataflows::reads::{Chunk, EmitTotals, Read, RequestId};
use floodmark_dataflows::reference::{Reference, TickInput, TickOutput};
use floodmark_dataflows::time::{Time, Window, Windows};
use floodmark_dataflows::top::Ranked;
use floodmark_dataflows::types::{Bound, Change, Pair, Per, Scope, Updates, Version, Volume};
use timely::dataflow::operators::Inspect;

use crate::histories::rng::Rng;
use crate::histories::{History, Size, changing_history, history};
use crate::workers;

/// An output of a worker.
enum Emitted {
    Change(Change),
    Total(Window, Pair, Volume),
    Top(Ranked),
    Dropped(i64),
    Part(Window, Vec<(Pair, Volume)>),
    Clock(Vec<SourceProgress>),
}

/// The outputs of one tick.
#[derive(Debug, Default, PartialEq)]
struct TickResults {
    changes: BTreeSet<Change>,
    totals: BTreeMap<(Window, Pair), Volume>,
    top: Vec<Ranked>,
    late_packets: i64,
}

impl TickResults {
    fn of(output: TickOutput) -> Self {
        let TickOutput { changes, retired, top, partial, late_dropped, .. } = output;
        let ranked = |(window, rank, entity, volume)| Ranked {
            window,
            rank: rank as u64,
            entity,
            volume,
            partial: partial.contains(&window),
        };
        let mut top: Vec<_> = top.into_iter().map(ranked).collect();
        top.sort();
        TickResults { changes, totals: retired, top, late_packets: late_dropped }
    }

    fn collect(emitted: Vec<(Time, Emitted)>) -> BTreeMap<u64, Self> {
        let mut ticks = BTreeMap::<u64, TickResults>::new();
        for (Time { tick, .. }, emitted) in emitted {
            let tick = ticks.entry(tick).or_default();
            match emitted {
                Emitted::Change(change) => assert!(tick.changes.insert(change), "{change:?} twice"),
                Emitted::Total(window, pair, volume) => {
                    assert_eq!(tick.totals.insert((window, pair), volume), None);
                }
                Emitted::Top(ranked) => tick.top.push(ranked),
                Emitted::Dropped(packets) => {
                    tick.late_packets = tick.late_packets.saturating_add(packets);
                }
                Emitted::Part(..) | Emitted::Clock(_) => {}
            }
        }
        ticks.values_mut().for_each(|tick| tick.top.sort());
        ticks
    }
}

/// The state of a computation.
#[derive(Default)]
struct Saved {
    /// The tick of the clock and of the rows.
    tick: u64,
    clock: Vec<SourceProgress>,
    rows: BTreeMap<Version, isize>,
    /// The tick up to which records are in the totals of a window.
    counted: BTreeMap<Window, u64>,
    totals: Vec<(Window, Pair, Volume)>,
}

/// The part of a history that a computation gets.
#[derive(Clone)]
struct Run {
    history: Arc<History>,
    /// The state that it begins with.
    saved: Option<Arc<Saved>>,
    /// The ticks, as indexes.
    first: usize,
    until: usize,
    /// The index of the tick at which the clock is saved, and that of each window whose totals are.
    saves: Option<(usize, BTreeMap<Window, usize>)>,
}

impl Run {
    /// Runs the computation, and returns all its outputs.
    fn run(self, workers: usize, seed: u64) -> Vec<(Time, Emitted)> {
        let (send, receive) = mpsc::channel();
        let send = Mutex::new(send);
        let guards = workers::execute(workers, format!("seed {seed}"), move |worker| {
            let send = send.lock().expect("no worker panics with the lock").clone();
            let options = Options {
                windows: self.history.windows,
                updates: self.history.updates,
                top: self.history.top,
                emit_totals: Some(EmitTotals::OnRetire),
                ..Options::default()
            };
            let (index, peers) = (worker.index(), worker.peers());
            let (mut inputs, probe) = worker.dataflow(|scope| {
                let (inputs, outputs, probe) = graph::build(scope, options);
                let tap = || {
                    let send = send.clone();
                    move |time: &Time, emitted| send.send((*time, emitted)).expect("the test waits")
                };
                let (changes, tops, lates, responses, clocks) = (tap(), tap(), tap(), tap(), tap());
                outputs.changes.inspect(move |(one, time)| changes(time, Emitted::Change(*one)));
                outputs.top.inspect(move |(one, time)| tops(time, Emitted::Top(*one)));
                outputs.late.inspect(move |(late, time)| {
                    lates(time, Emitted::Dropped(late.dropped_volume.packets));
                });
                outputs.clock_states.inspect(move |(state, time)| {
                    clocks(time, Emitted::Clock(state.clone()));
                });
                outputs.responses.inspect(move |(response, time)| {
                    let Chunk::Rows { window, rows } = &response.chunk else { return };
                    if response.request.is_some() {
                        assert_eq!(response.worker, index, "parts stay on their worker");
                        return responses(time, Emitted::Part(*window, rows.clone()));
                    }
                    for (pair, volume) in rows {
                        responses(time, Emitted::Total(*window, *pair, *volume));
                    }
                });
                (inputs, probe)
            });
            if let Some(rollup) = self.history.top.and_then(|top| top.rollup())
                && index == 0
            {
                inputs.view(rollup, 1);
            }
            let rng = &mut Rng::new(seed);
            let mut combiner = Combiner::new(peers);
            if let Some(saved) = &self.saved {
                restore(saved, &mut inputs, &mut combiner, index, peers, rng);
            }
            for at in self.first..self.until {
                self.enter(at, &mut inputs, &mut combiner, index, peers);
                if rng.below(3) == 0 {
                    inputs.end_round();
                    worker.step();
                }
            }
            inputs.end_round();
            let next = Time::start(inputs.tick() + 1);
            worker.step_while(|| probe.less_than(&next));
        });
        for result in guards.expect("workers start").join() {
            result.expect("no worker panics");
        }
        receive.try_iter().collect()
    }

    /// Enters one tick of the history.
    fn enter(
        &self,
        at: usize,
        inputs: &mut Inputs,
        combiner: &mut Combiner,
        index: usize,
        peers: usize,
    ) {
        let tick = &self.history.ticks[at];
        if tick.tick > inputs.tick() {
            inputs.begin_tick(tick.tick);
        }
        if index == 0 {
            tick.edits.iter().for_each(|(version, diff)| inputs.edit(*version, *diff));
            inputs.mark(SourceProgress::Watermark(tick.watermark));
            tick.rules.into_iter().for_each(|rules| inputs.mark(SourceProgress::Rules(rules)));
            tick.begun.into_iter().for_each(|begun| inputs.mark(SourceProgress::Begun(begun)));
            for (partition, first) in &tick.truncated {
                let (partition, first) = (*partition, *first);
                inputs.mark(SourceProgress::Truncated { partition, first });
            }
            if let Some((clock, parts)) = &self.saves {
                if *clock == at {
                    inputs.mark(SourceProgress::Save);
                }
                let parts = parts.iter().filter(|(_, part)| **part == at);
                parts.for_each(|(window, _)| inputs.read(RequestId(1), Read::Part(*window)));
            }
        }
        let mine = |at: usize| at % peers == index;
        for (_, window) in tick.seen.iter().enumerate().filter(|(at, _)| mine(*at)) {
            inputs.mark(SourceProgress::Seen(*window));
        }
        for (_, (window, pair, volume)) in
            tick.records.iter().enumerate().filter(|(at, _)| mine(*at))
        {
            let counted = self.saved.as_ref().and_then(|saved| saved.counted.get(window));
            if counted.is_none_or(|counted| *counted < tick.tick) {
                combiner.add(*window, *pair, *volume);
            }
        }
        inputs.batches(combiner.take());
    }
}

/// Enters a saved state, its totals at some ticks before the one of its clock.
fn restore(
    saved: &Saved,
    inputs: &mut Inputs,
    combiner: &mut Combiner,
    index: usize,
    peers: usize,
    rng: &mut Rng,
) {
    if index == 0 {
        saved.rows.iter().for_each(|(version, diff)| inputs.edit(*version, *diff));
    }
    let mine: Vec<_> =
        saved.totals.iter().enumerate().filter(|(at, _)| at % peers == index).collect();
    // All workers have the same ticks.
    let early = rng.below(4).min(saved.tick) as usize;
    let of_tick = |number: usize| mine.iter().skip(number).step_by(early + 1);
    for number in 0..=early {
        let tick = saved.tick - (early - number) as u64;
        if tick > inputs.tick() {
            inputs.begin_tick(tick);
        }
        for (_, (window, pair, volume)) in of_tick(number) {
            combiner.add(*window, *pair, *volume);
        }
        inputs.batches(combiner.take());
        if index == 0 && number < early {
            inputs.mark(SourceProgress::Watermark(0));
        }
        if rng.below(2) == 0 {
            inputs.end_round();
        }
    }
    if index == 0 {
        saved.clock.iter().for_each(|mark| inputs.mark(*mark));
    }
}

/// Continues a history from a random tick.
fn check(seed: u64, history: History) {
    let rng = &mut Rng::new(seed);
    let clock = rng.below(history.ticks.len() as u64) as usize;
    let last = (clock + rng.below(6) as usize).min(history.ticks.len() - 1);
    check_history(history, clock, last, seed);
}

/// Saves the state of the clock at a tick of a history, and the totals at ticks until `last`, continues from it with
/// other workers, and compares with the reference.
fn check_history(history: History, clock: usize, last: usize, seed: u64) {
    let history = Arc::new(history);
    let rng = &mut Rng::new(seed);
    // Windows that begin to exist after the tick of the clock come back with their records.
    let before = &history.ticks[..=clock];
    let windows: BTreeSet<Window> = before.iter().flat_map(|tick| tick.seen.clone()).collect();
    let at = |rng: &mut Rng| rng.between(clock as u64, last as u64) as usize;
    let parts: BTreeMap<Window, usize> = windows.into_iter().map(|of| (of, at(rng))).collect();
    let counted = parts.iter().map(|(window, at)| (*window, history.ticks[*at].tick)).collect();
    let mut saved = Saved { tick: history.ticks[clock].tick, counted, ..Saved::default() };
    for (version, diff) in before.iter().flat_map(|tick| &tick.edits) {
        *saved.rows.entry(*version).or_default() += diff;
    }
    saved.rows.retain(|_, diff| *diff != 0);
    let saves = Some((clock, parts));
    let earlier = Run { history: history.clone(), saved: None, first: 0, until: last + 1, saves };
    let emitted = earlier.run(1 + seed as usize % 3, seed);
    for (_, emitted) in &emitted {
        match emitted {
            Emitted::Clock(state) => saved.clock.clone_from(state),
            Emitted::Part(window, rows) => {
                saved.totals.extend(rows.iter().map(|(pair, volume)| (*window, *pair, *volume)));
            }
            _ => {}
        }
    }
    let mut before = TickResults::collect(emitted);
    let later = Run {
        history: history.clone(),
        saved: Some(Arc::new(saved)),
        first: clock + 1,
        until: history.ticks.len(),
        saves: None,
    };
    let mut after = TickResults::collect(later.run(1 + seed as usize / 3 % 3, seed));
    let mut reference = Reference::new(history.windows, history.updates, history.top);
    for (at, input) in history.ticks.iter().enumerate() {
        let TickInput { tick, .. } = *input;
        let right = TickResults::of(reference.tick(input.clone()));
        let ours = if at > last { &mut after } else { &mut before };
        assert_eq!(
            ours.remove(&tick).unwrap_or_default(),
            right,
            "seed {seed}, tick {tick} (number {at}), saved at {clock} to {last}: {:?}",
            history.windows
        );
    }
}

#[test]
fn continued_computation_agrees_with_the_reference() {
    (0..100).for_each(|seed| check(seed, history(7_000_000 + seed, Size::SMALL)));
}

/// Windows keep their states from one rule to the next, and through a restart.
#[test]
fn computation_whose_rules_change_agrees_with_the_reference() {
    (0..300).for_each(|seed| check(seed, changing_history(6_000_000 + seed, Size::SMALL)));
    (0..30).for_each(|seed| check(seed, changing_history(6_500_000 + seed, Size::FAR)));
}

#[test]
fn continued_computation_of_growing_totals_agrees_with_the_reference() {
    (0..60).for_each(|seed| check(seed, history(8_000_000 + seed, Size::GROWING)));
}

#[test]
fn continued_computation_of_windows_far_apart_agrees_with_the_reference() {
    (0..30).for_each(|seed| check(seed, history(9_000_000 + seed, Size::FAR)));
}

/// Nothing else of the state tells that silence lies between the two records.
#[test]
fn gap_after_the_last_retired_window_is_silence_for_a_continued_computation() {
    let windows = Windows {
        lateness_ms: Some(0),
        retention_ms: Some(0),
        max_gap_secs: 900,
        ..Windows::default()
    };
    let scope = Scope { per: Per::Total, ..Scope::default() };
    let limit = Version { value: Some(1), bound: Bound::Min, scope, ..Version::default() };
    let record =
        |window| (Window(window), Pair::V4([0; 4].into(), [1; 4].into()), Volume::new(5, 1));
    let tick = |tick, window: Option<u64>, watermark| TickInput {
        tick,
        records: window.map(record).into_iter().collect(),
        seen: window.map(Window).into_iter().collect(),
        watermark,
        ..TickInput::default()
    };
    let mut ticks = vec![
        tick(1, Some(0), 1),
        tick(2, None, 300_000),
        tick(3, None, 300_000),
        tick(4, Some(900), 900_000),
        tick(5, None, 1_200_000),
    ];
    ticks[0].edits.push((limit, 1));
    let history = History { windows, updates: Updates::Tick, top: None, ticks };
    let mut reference = Reference::new(history.windows, history.updates, history.top);
    let changes = history.ticks.iter().map(|tick| reference.tick(tick.clone()).changes.len());
    assert_eq!(changes.collect::<Vec<_>>(), [0, 0, 0, 2, 0]);
    check_history(history, 2, 2, 0);
}
