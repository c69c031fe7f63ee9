//! One loop per worker: input to the computation, answers from it.
//!
//! The first worker leads: it takes ticks from a source, and writes what each has led to as soon as
//! the computation is done with it. The others compute.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use differential_dataflow::Config as DifferentialConfig;
use floodmark_dataflows::clock::Mark;
use floodmark_dataflows::graph::{self, Inputs, Options, Outputs};
use floodmark_dataflows::orders::{Answer, Late, Read};
use floodmark_dataflows::time::{END_OF_INPUT, Time, Window};
use floodmark_dataflows::top::Ranked;
use floodmark_dataflows::types::{Change, Event, Pair, Version, Volume};
use timely::WorkerConfig;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Operator, probe};
use timely::worker::Worker;

use crate::cluster::watchdog::Watch;
use crate::output::WriteError;
use crate::replay::{End, Event as SourceEvent, Tick};
use crate::terminal::Interrupt;

/// The settings of workers that this computation wants.
pub fn worker_config() -> WorkerConfig {
    let mut config = WorkerConfig::default();
    // Merging while idle keeps the next change of a limit from paying for it.
    let merging = DifferentialConfig::default().idle_merge_effort(Some(1000));
    differential_dataflow::configure(&mut config, &merging);
    config
}

/// What a tick led to.
#[derive(Default)]
pub struct Outcome {
    /// What is said, sorted.
    pub changes: Vec<Change>,
    /// The rankings of the windows that settled.
    pub top: Vec<Ranked>,
    /// Totals of windows that retired, or that were asked for.
    pub rows: BTreeMap<Window, Vec<(Pair, Volume)>>,
    /// Parts of the number of totals held, where asked for: of pairs, of rollups.
    pub held: (u64, u64),
    /// Records that came after their window had closed.
    pub late: Late,
}

/// Takes what ticks lead to, in their order.
pub trait Sinks {
    /// Writes the outcome of a tick.
    fn tick(&mut self, tick: u64, outcome: Outcome) -> Result<(), WriteError>;
    /// Whether the totals of windows are wanted.
    fn wants_totals(&self) -> bool;
}

type Outbox = Rc<RefCell<BTreeMap<u64, Outcome>>>;

fn collect<T: 'static>(
    stream: StreamVec<'_, Time, T>,
    name: &str,
    outbox: &Outbox,
    take: impl Fn(&mut Outcome, T) + 'static,
) {
    let outbox = outbox.clone();
    stream.sink(Pipeline, name, move |(input, _)| {
        input.for_each(|time, data| {
            let mut outbox = outbox.borrow_mut();
            let outcome = outbox.entry(time.time().tick).or_default();
            data.drain(..).for_each(|item| take(outcome, item));
        });
    });
}

/// The computation on this worker.
pub struct Computation<'w> {
    worker: &'w mut Worker,
    /// Where the leader puts what it has.
    pub inputs: Inputs,
    probe: probe::Handle<Time>,
    outbox: Outbox,
    /// Ticks that are ended and not done.
    in_flight: VecDeque<u64>,
    /// Updates in them.
    updates_in_flight: VecDeque<usize>,
    watch: Option<Watch>,
}

/// Ticks, and updates, that may be on their way at once. A few are needed to move frontiers in
/// groups, which halves what progress costs.
const TICKS_IN_FLIGHT: usize = 32;
const UPDATES_IN_FLIGHT: usize = 200_000;

/// How long the leader sleeps at most when there is nothing to do. It is woken for input.
const NAP: Duration = Duration::from_millis(100);

impl<'w> Computation<'w> {
    /// Builds the computation. Each worker must do so.
    pub fn build(worker: &'w mut Worker, options: Options) -> Self {
        let outbox = Outbox::default();
        let (inputs, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, options);
            let Outputs { changes, top, answers, late, .. } = outputs;
            collect(changes, "Collect: changes", &outbox, |to, change| to.changes.push(change));
            collect(top, "Collect: top", &outbox, |to, ranked| to.top.push(ranked));
            collect(late, "Collect: late", &outbox, |to, late| {
                to.late.counted += late.counted;
                to.late.dropped += late.dropped;
            });
            collect(answers, "Collect: answers", &outbox, |to, answer| match answer {
                Answer::Rows { window, rows } => to.rows.entry(window).or_default().extend(rows),
                Answer::Held { pairs, rollups, .. } => {
                    to.held = (to.held.0 + pairs, to.held.1 + rollups);
                }
            });
            (inputs, probe)
        });
        Computation {
            worker,
            inputs,
            probe,
            outbox,
            in_flight: VecDeque::new(),
            updates_in_flight: VecDeque::new(),
            watch: None,
        }
    }

    /// Lets a watchdog see whether what is ended gets done.
    pub fn watched(self, watch: Watch) -> Self {
        Computation { watch: Some(watch), ..self }
    }

    /// Ends the current tick; what it leads to will be [taken](Computation::take_done) when done.
    pub fn end_tick(&mut self, updates: usize) {
        self.inputs.end_tick();
        self.in_flight.push_back(self.inputs.tick());
        self.updates_in_flight.push_back(updates);
    }

    /// Whether another tick may be begun.
    pub fn has_room(&self) -> bool {
        self.in_flight.len() < TICKS_IN_FLIGHT
            && self.updates_in_flight.iter().sum::<usize>() < UPDATES_IN_FLIGHT
    }

    /// The next tick that is done, with what it led to.
    pub fn take_done(&mut self) -> Option<(u64, Outcome)> {
        let tick = *self.in_flight.front()?;
        if self.probe.less_than(&Time::start(tick + 1)) {
            return None;
        }
        self.in_flight.pop_front();
        self.updates_in_flight.pop_front();
        if let Some(watch) = &self.watch {
            watch.moved(tick);
            // Whoever reads the output may take his time.
            watch.input_waits(false);
        }
        let mut outcome = self.outbox.borrow_mut().remove(&tick).unwrap_or_default();
        // Which worker says what first is chance.
        outcome.changes.sort_unstable_by_key(|change| {
            let violation = &change.violation;
            (violation.window, violation.limit, violation.entity, change.event)
        });
        outcome.top.sort_unstable();
        Some((tick, outcome))
    }

    /// Works a little, or sleeps until there is something to do.
    pub fn step(&mut self) {
        if let Some(watch) = &self.watch {
            watch.input_waits(!self.in_flight.is_empty());
        }
        self.worker.step_or_park(Some(NAP));
    }

    /// Works until all ticks that are ended are done, and writes what they led to. Returns how many
    /// rows of totals that were.
    pub fn finish(&mut self, sinks: &mut impl Sinks) -> Result<usize, WriteError> {
        let mut rows = 0;
        while !self.in_flight.is_empty() {
            self.step();
            while let Some((tick, outcome)) = self.take_done() {
                rows += outcome.rows.values().map(Vec::len).sum::<usize>();
                sinks.tick(tick, outcome)?;
            }
        }
        Ok(rows)
    }
}

/// How a replay ended.
#[derive(Debug)]
pub struct Replayed {
    /// What was read; `None` if it was interrupted.
    pub end: Option<End>,
    /// The last tick that is done.
    pub last_tick: Option<u64>,
}

/// The leader's part of a replay: source to computation to sinks.
pub struct Replay<'a, S> {
    computation: Computation<'a>,
    sinks: &'a mut S,
    options: Options,
    /// Windows with records, whose totals are not written yet.
    seen: BTreeSet<Window>,
    last_window: Option<Window>,
    last_tick: Option<u64>,
    watermark: u64,
}

impl<'a, S: Sinks> Replay<'a, S> {
    /// A replay that begins with these limits.
    pub fn new(
        mut computation: Computation<'a>,
        options: Options,
        versions: &BTreeSet<Version>,
        sinks: &'a mut S,
    ) -> Self {
        for version in versions {
            computation.inputs.edit(*version, 1);
        }
        if let Some(rollup) = options.top.and_then(|query| query.rollup()) {
            computation.inputs.view(rollup, 1);
        }
        Replay {
            computation,
            sinks,
            options,
            seen: BTreeSet::new(),
            last_window: None,
            last_tick: None,
            watermark: 0,
        }
    }

    /// Takes all of the source.
    pub fn run(
        &mut self,
        source: &Receiver<SourceEvent>,
        interrupt: &Interrupt,
    ) -> Result<Replayed, WriteError> {
        let end = self.take_source(source, interrupt)?;
        self.computation.finish(self.sinks)?;
        if end.is_some() {
            self.end_input()?;
        }
        if self.sinks.wants_totals() {
            self.write_held_totals()?;
        }
        Ok(Replayed { end, last_tick: self.last_tick })
    }

    /// Where everything goes.
    pub fn sinks(&self) -> &S {
        self.sinks
    }

    /// Edits the limits, in a tick of its own.
    pub fn edit(&mut self, edits: &[(Version, isize)]) -> Result<(), WriteError> {
        self.begin(self.computation.inputs.tick() + 1);
        for (version, diff) in edits {
            self.computation.inputs.edit(*version, *diff);
        }
        self.end(0);
        self.computation.finish(self.sinks)?;
        Ok(())
    }

    /// Asks for what is held. The sinks get the answer; returned is how many rows it has.
    pub fn read(&mut self, read: Read) -> Result<usize, WriteError> {
        self.computation.inputs.advance_to(self.computation.inputs.tick() + 1);
        self.computation.inputs.read(read);
        self.computation.end_tick(0);
        self.computation.finish(self.sinks)
    }

    /// Takes ticks until the source ends, or `None` if it is interrupted.
    fn take_source(
        &mut self,
        source: &Receiver<SourceEvent>,
        interrupt: &Interrupt,
    ) -> Result<Option<End>, WriteError> {
        loop {
            if interrupt.pressed() {
                return Ok(None);
            }
            while self.computation.has_room() {
                match source.try_recv() {
                    Ok(SourceEvent::Tick(tick)) => self.take_tick(tick),
                    Ok(SourceEvent::End(end)) => return Ok(Some(end)),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        unreachable!("the reader says that it has ended, or ends the process")
                    }
                }
            }
            self.computation.step();
            while let Some((tick, outcome)) = self.computation.take_done() {
                self.sinks.tick(tick, outcome)?;
            }
        }
    }

    fn take_tick(&mut self, tick: Tick) {
        self.begin(tick.tick);
        let inputs = &mut self.computation.inputs;
        for window in &tick.seen {
            inputs.mark(Mark::Seen(*window));
            self.last_window = self.last_window.max(Some(*window));
        }
        if self.sinks.wants_totals() {
            self.seen.extend(&tick.seen);
        }
        let updates = tick.parcels.iter().map(|parcel| parcel.len()).sum();
        inputs.parcels(tick.parcels);
        self.watermark = tick.tick;
        self.end(updates);
        self.last_tick = Some(tick.tick);
    }

    fn begin(&mut self, tick: u64) {
        // It begins with tick 0.
        if tick > self.computation.inputs.tick() {
            self.computation.inputs.advance_to(tick);
        }
    }

    fn end(&mut self, updates: usize) {
        self.computation.inputs.mark(Mark::Watermark(self.watermark));
        self.computation.end_tick(updates);
    }

    /// One tick that only time passes in.
    fn pass_time(&mut self, tick: u64) -> Result<(), WriteError> {
        self.begin(tick);
        self.end(0);
        self.computation.finish(self.sinks)?;
        Ok(())
    }

    /// The clock moves past the last window: first what becomes effective before its end does, then
    /// every window closes, then every window settles.
    fn end_input(&mut self) -> Result<(), WriteError> {
        let Some(last) = self.last_window else {
            return Ok(());
        };
        let end = self.options.windows.end_ms(last);
        while let Some(date) = self.computation.inputs.next_date().filter(|date| *date <= end) {
            let tick = date.max(self.computation.inputs.tick() + 1);
            self.pass_time(tick)?;
        }
        let close = end.max(self.computation.inputs.tick() + 1);
        self.watermark = end;
        self.pass_time(close)?;
        self.watermark = END_OF_INPUT;
        self.pass_time(close + END_STEP_MS)?;
        if self.options.windows.retention_ms.is_some() {
            // Windows retire at a later tick than they settle.
            self.pass_time(close + 2 * END_STEP_MS)?;
        }
        Ok(())
    }

    /// Writes the totals of windows that are held, in their order: some windows at a time, so that
    /// few rows are in flight at once.
    fn write_held_totals(&mut self) -> Result<(), WriteError> {
        let mut windows: VecDeque<Window> = self.seen.iter().copied().collect();
        let mut at_once = 1;
        while let Some(&from) = windows.front() {
            let count = windows.len().min(at_once);
            let until = windows.get(count).copied().unwrap_or(Window(u64::MAX));
            windows.drain(..count);
            at_once = match self.read(Read::Rows { from, until })? {
                0..ROWS_AT_ONCE => at_once * 2,
                _ => (at_once / 2).max(1),
            };
        }
        Ok(())
    }
}

/// Between the ticks after the end of the input, in milliseconds.
const END_STEP_MS: u64 = 1000;

/// About how many rows of totals are read at once.
const ROWS_AT_ONCE: usize = 200_000;

/// How many violations stand after some changes, given how many stood before.
pub fn standing(before: u64, changes: &[Change]) -> u64 {
    changes.iter().fold(before, |standing, change| match change.event {
        Event::Raised => standing + 1,
        Event::Cleared => standing - 1,
        Event::Updated => standing,
    })
}
