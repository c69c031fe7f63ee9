//! The computation on one worker, as those drive it who have input for it: a replay, a live run.
//!
//! A driver ends ticks, a bounded number ahead, steps, and takes the output of each tick when it is done. All workers agree on many ticks at once (`rounds.rs`).

mod rounds;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use differential_dataflow::Config as DifferentialConfig;
use floodmark_dataflows::clock::{Clock, Existing};
use floodmark_dataflows::delivery::CHANGES_AHEAD;
use floodmark_dataflows::graph::{self, Inputs, Options, Outputs};
use floodmark_dataflows::orders::{Amounts, Answer, Late, Saturated};
use floodmark_dataflows::ranges::WindowRange;
use floodmark_dataflows::time::{Time, Timed, Window};
use floodmark_dataflows::top::Ranked;
use floodmark_dataflows::types::{Change, Pair, Volume};
use timely::WorkerConfig;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Concatenate, Operator, Probe, probe};
use timely::dataflow::{Scope, StreamVec};
use timely::worker::Worker;

use self::rounds::Rounds;
use crate::cluster::watchdog::Watch;

/// Rows of limits that take effect at one tick before the first window. All at once, a million rows would be in
/// the memory of each operator at once.
pub const FIRST_ROWS: usize = 1 << 16;

/// The settings of workers that this computation wants.
pub fn worker_config() -> WorkerConfig {
    let mut config = WorkerConfig::default();
    // Merging while idle keeps the next change of a limit from paying for it.
    let merging = DifferentialConfig::default().idle_merge_effort(Some(1000));
    differential_dataflow::configure(&mut config, &merging);
    config
}

/// Output of a tick.
pub enum Output {
    /// Some of the changes. Those of a tick come in their order, and none comes after its outcome.
    Changes(Vec<Change>),
    /// All else: the tick is done.
    Done(Outcome),
}

/// The outcome of a tick, beside changes.
#[derive(Default)]
pub struct Outcome {
    /// The rankings of the windows that settled.
    pub top: Vec<Ranked>,
    /// Totals of windows that retired, or that were asked for.
    pub rows: BTreeMap<Window, Vec<(Pair, Volume)>>,
    /// The totals and addresses that are held, where asked for.
    pub held: Option<Held>,
    /// The amounts of entities that were asked for.
    pub amounts: Amounts,
    /// Records that came after their window had closed.
    pub late: Late,
    /// Totals that have reached the end of 64 bits.
    pub saturated: Vec<Saturated>,
    /// Windows that have left memory: nothing more will be said of them.
    pub retired: Vec<WindowRange>,
}

/// The watermark and the windows at the end of a tick, as the first worker knows them.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// The watermark.
    pub watermark: u64,
    /// The start of the first window that is whole, in milliseconds; `None` while it is unknown.
    pub whole_from: Option<u64>,
    /// The windows that exist, by the first of those that are alike.
    windows: BTreeMap<Window, Existing>,
}

impl Course {
    /// The state of a window; `None`: it does not exist, or no longer.
    pub fn existing(&self, window: Window) -> Option<Existing> {
        let (_, existing) = self.windows.range(..=window).next_back()?;
        existing.windows.contains(window).then_some(*existing)
    }

    fn take(&mut self, passed: Passed) {
        if let Some((watermark, whole_from)) = passed.moved {
            (self.watermark, self.whole_from) = (watermark, whole_from);
        }
        // A window that changes goes as it was and comes as it is.
        for (existing, _) in passed.windows.iter().filter(|(_, diff)| **diff < 0) {
            self.windows.remove(&existing.windows.from);
        }
        for (existing, _) in passed.windows.iter().filter(|(_, diff)| **diff > 0) {
            self.windows.insert(existing.windows.from, *existing);
        }
    }
}

/// The changes of the watermark and of windows at one tick.
#[derive(Default)]
struct Passed {
    /// The watermark, and the start of the first whole window.
    moved: Option<(u64, Option<u64>)>,
    windows: BTreeMap<Existing, isize>,
}

/// The totals and addresses that all workers hold in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Totals of pairs.
    pub pairs: u64,
    /// Totals of rollups.
    pub rollups: u64,
    /// IPv6 addresses that they use.
    pub addresses: u64,
}

/// The progress of event time, as every worker knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventTimeReached {
    /// The watermark.
    pub watermark: u64,
    /// The event time of the slowest partition that has something to read.
    pub slowest: u64,
    /// The partition that holds the watermark, if one does.
    pub held_by: Option<u32>,
    /// The slowest partition, if one is.
    pub slowest_in: Option<u32>,
    /// The greatest event time that a partition has come to, or the clock where one waits with more to
    /// read.
    pub front: u64,
    /// Windows that exist and are not closed.
    pub open_windows: u64,
}

/// Changes that wait to be taken, with their ticks.
type Changes = Rc<RefCell<VecDeque<(u64, Vec<Change>)>>>;

/// By tick.
type Outbox<O> = Rc<RefCell<BTreeMap<u64, O>>>;

/// The last operators of the computation: they take the outputs of each tick out of the dataflow.
#[derive(Default)]
struct Collecting<'scope> {
    /// The outputs of these operators, on which nothing is ever sent. The frontier of such an output passes a
    /// tick when its operator has taken the last batch of it, in whatever order operators are scheduled.
    taken: Vec<StreamVec<'scope, Time, ()>>,
}

impl<'scope> Collecting<'scope> {
    /// Takes each batch of a stream.
    fn each<T: 'static>(
        &mut self,
        stream: StreamVec<'scope, Time, T>,
        name: &str,
        mut take: impl FnMut(&mut Vec<T>) + 'static,
    ) {
        type Nothing = CapacityContainerBuilder<Vec<()>>;
        let taken = stream.unary::<Nothing, _, _, _>(Pipeline, name, |_, _| {
            move |input, _| input.for_each(|_, data| take(data))
        });
        self.taken.push(taken);
    }

    /// Takes what a stream says of each tick into the tick's entry of an outbox.
    fn collect<T: 'static, O: Default + 'static>(
        &mut self,
        stream: StreamVec<'scope, Time, Timed<T>>,
        name: &str,
        outbox: &Outbox<O>,
        take: impl Fn(&mut O, T) + 'static,
    ) {
        let outbox = outbox.clone();
        self.each(stream, name, move |data| {
            let mut outbox = outbox.borrow_mut();
            for (item, time) in data.drain(..) {
                take(outbox.entry(time.tick).or_default(), item);
            }
        });
    }

    /// Lets a probe pass a tick only when all operators have taken their outputs of it.
    fn probe_with(self, scope: Scope<'scope, Time>, probe: &probe::Handle<Time>) {
        scope.concatenate(self.taken).probe_with(probe);
    }
}

/// Takes what becomes of time and windows. All workers know; what is by ticks is for the first one alone,
/// since others may never take out what a tick led to.
fn collect_clock<'scope>(
    collecting: &mut Collecting<'scope>,
    clock: StreamVec<'scope, Time, Timed<Clock>>,
    event_time: Rc<Cell<EventTimeReached>>,
    by_tick: Option<(Outbox<Passed>, Outbox<Outcome>)>,
) {
    collecting.each(clock, "Collect: clock", move |events| {
        for (event, Time { tick, .. }) in events.drain(..) {
            match (event, &by_tick) {
                (
                    Clock::EventTime { at, slowest, held_by, slowest_in, front, whole_from, open },
                    by_tick,
                ) => {
                    event_time.set(EventTimeReached {
                        watermark: at,
                        slowest,
                        held_by,
                        slowest_in,
                        front,
                        open_windows: open,
                    });
                    if let Some((passed, _)) = by_tick {
                        let mut passed = passed.borrow_mut();
                        passed.entry(tick).or_default().moved = Some((at, whole_from));
                    }
                }
                (Clock::Retired(windows), Some((_, outcomes))) => {
                    outcomes.borrow_mut().entry(tick).or_default().retired.push(windows);
                }
                (
                    Clock::Watermark(_)
                    | Clock::Partial { .. }
                    | Clock::Observed(_)
                    | Clock::Silent(_)
                    | Clock::Retired(_)
                    | Clock::Settled(_),
                    _,
                ) => {}
            }
        }
    });
}

/// Takes all other outputs.
fn collect<'scope>(
    collecting: &mut Collecting<'scope>,
    outputs: Outputs<'scope>,
    passed: &Outbox<Passed>,
    outbox: &Outbox<Outcome>,
    ready: &Changes,
) {
    let Outputs { changes, top, answers, late, saturated, existing, .. } = outputs;
    let passed = passed.clone();
    collecting.each(existing.inner, "Collect: windows", move |changes| {
        let mut passed = passed.borrow_mut();
        for (windows, time, diff) in changes.drain(..) {
            *passed.entry(time.tick).or_default().windows.entry(windows).or_default() += diff;
        }
    });
    let ready = ready.clone();
    collecting.each(changes, "Collect: changes", move |changes| {
        let of_ticks = changes.chunk_by(|(_, one), (_, other)| one.tick == other.tick);
        ready.borrow_mut().extend(of_ticks.map(|changes| {
            let tick = changes[0].1.tick;
            (tick, changes.iter().map(|(change, _)| *change).collect())
        }));
    });
    let rank = |to: &mut Outcome, ranked| to.top.push(ranked);
    collecting.collect(top, "Collect: top", outbox, rank);
    let late_ones = |to: &mut Outcome, late: Late| {
        to.late.counted += late.counted;
        to.late.dropped += late.dropped;
    };
    collecting.collect(late, "Collect: late", outbox, late_ones);
    let saturate = |to: &mut Outcome, total| to.saturated.push(total);
    collecting.collect(saturated, "Collect: saturated", outbox, saturate);
    collecting.collect(answers, "Collect: answers", outbox, Outcome::answer);
}

impl Outcome {
    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Rows { window, rows } => self.rows.entry(window).or_default().extend(rows),
            Answer::Held { pairs, rollups, addresses } => {
                let held = self.held.get_or_insert_default();
                held.pairs += pairs;
                held.rollups += rollups;
                held.addresses += addresses;
            }
            Answer::Amount { window, rollup, entity, volume } => {
                let sum = self.amounts.entry((window, rollup, entity)).or_default();
                *sum = sum.saturating_add(volume);
            }
        }
    }
}

/// The computation on this worker.
pub struct Computation<'w> {
    worker: &'w mut Worker,
    /// The inputs, of the leader or of each worker of a run.
    pub inputs: Inputs,
    /// Has passed a tick when all outputs of the tick are in the outboxes.
    probe: probe::Handle<Time>,
    outbox: Outbox<Outcome>,
    changes: Changes,
    passed: Outbox<Passed>,
    course: Course,
    event_time: Rc<Cell<EventTimeReached>>,
    rounds: Rounds,
    watch: Option<Watch>,
}

/// The longest sleep of the leader when there is nothing to do. It is woken for input.
const NAP: Duration = Duration::from_millis(100);

impl<'w> Computation<'w> {
    /// Builds the computation. Each worker must do so.
    pub fn build(worker: &'w mut Worker, options: Options) -> Self {
        let options =
            Options { changes_ahead: Some(CHANGES_AHEAD), without_violations: true, ..options };
        let outbox = Outbox::<Outcome>::default();
        let ready = Changes::default();
        let passed = Outbox::<Passed>::default();
        let first = worker.index() == 0;
        let event_time = Rc::new(Cell::new(EventTimeReached::default()));
        let (inputs, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, options);
            let to = first.then(|| (passed.clone(), outbox.clone()));
            let mut collecting = Collecting::default();
            collect_clock(&mut collecting, outputs.clock.clone(), event_time.clone(), to);
            collect(&mut collecting, outputs, &passed, &outbox, &ready);
            collecting.probe_with(scope, &probe);
            (inputs, probe)
        });
        Computation {
            worker,
            inputs,
            probe,
            outbox,
            changes: ready,
            passed,
            course: Course::default(),
            event_time,
            rounds: Rounds::default(),
            watch: None,
        }
    }

    /// Lets a watchdog see whether what is ended gets done.
    pub fn watched(self, watch: Watch) -> Self {
        Computation { watch: Some(watch), ..self }
    }

    /// The same on a worker that has no input of its own, until all workers let go of it.
    pub fn follow(worker: &'w mut Worker, options: Options) {
        Self::build(worker, options).close();
    }

    /// Takes no more input, and works until all workers let go of the computation: what comes after it in
    /// this process can be another one.
    pub fn close(self) {
        let Computation { worker, inputs, probe, .. } = self;
        drop(inputs);
        while !probe.done() {
            worker.step_or_park(Some(NAP));
        }
    }

    /// Ends the current tick; what it leads to will be [taken](Computation::take) when done.
    pub fn end_tick(&mut self, updates: usize) {
        self.inputs.end_tick();
        self.rounds.add(self.inputs.tick(), updates);
    }

    /// Before the first window, and the tick of its first record: lets rows of limits that are in effect by then
    /// take effect at ticks of their own, until few enough are left.
    pub fn take_first_rows(&mut self, tick: u64) {
        let ticks = self.inputs.count_due(tick) / FIRST_ROWS;
        let after = self.inputs.tick() + 1;
        for early in tick.saturating_sub(ticks as u64).max(after)..tick {
            self.inputs.begin_tick(early);
            self.inputs.end_tick_with(FIRST_ROWS);
            self.rounds.add(early, FIRST_ROWS);
            while self.ticks_in_flight() > 0 {
                self.step();
                // Nothing comes of them.
                while self.take().is_some() {}
            }
        }
    }

    /// Whether another tick may be begun before the next [step](Computation::step).
    pub fn has_room(&self) -> bool {
        self.rounds.has_room()
    }

    /// Whether the next output is changes.
    pub fn has_changes(&self) -> bool {
        let of_next = |(tick, _): &(u64, _)| self.rounds.first() == Some(*tick);
        self.changes.borrow().front().is_some_and(of_next)
    }

    /// The next output, of the first tick that is not done. Until changes are taken, few more are made.
    pub fn take(&mut self) -> Option<(u64, Output)> {
        let tick = self.rounds.first()?;
        if self.has_changes() {
            let (_, changes) = self.changes.borrow_mut().pop_front()?;
            self.inputs.taken(changes.len());
            if let Some(watch) = &self.watch {
                watch.input_waits(false);
            }
            return Some((tick, Output::Changes(changes)));
        }
        if self.probe.less_than(&Time::start(tick + 1)) {
            return None;
        }
        self.rounds.done();
        if let Some(watch) = &self.watch {
            watch.moved(tick);
            // Whoever reads the output may take his time.
            watch.input_waits(false);
        }
        let passed = self.passed.borrow_mut().remove(&tick).unwrap_or_default();
        self.course.take(passed);
        let mut outcome = self.outbox.borrow_mut().remove(&tick).unwrap_or_default();
        // Which worker says what first is chance.
        outcome.top.sort_unstable();
        Some((tick, Output::Done(outcome)))
    }

    /// The watermark and the windows at the end of the last tick that was taken.
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// The number of ticks that are ended and not done.
    pub fn ticks_in_flight(&self) -> usize {
        self.rounds.len()
    }

    /// The progress of event time.
    pub fn event_time(&self) -> EventTimeReached {
        self.event_time.get()
    }

    /// Works a little, or sleeps until there is something to do.
    pub fn step(&mut self) {
        self.step_or_sleep(NAP);
    }

    /// Works a little, or sleeps so long at most until there is something to do.
    pub fn step_or_sleep(&mut self, at_most: Duration) {
        if self.rounds.end() {
            self.inputs.end_round();
        }
        if let Some(watch) = &self.watch {
            // Nor does it stand still where changes wait for their reader.
            let waits = !self.inputs.consumer_waits() && self.changes.borrow().is_empty();
            watch.input_waits(waits && self.rounds.len() > 0);
        }
        self.worker.step_or_park(Some(at_most));
    }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::clock::Mark;
    use floodmark_dataflows::combine::Combiner;
    use floodmark_dataflows::time::{END_OF_INPUT, Phase, Windows};
    use floodmark_dataflows::types::Version;
    use timely::dataflow::operators::vec::Map;
    use timely::dataflow::operators::{Input, Operator, Probe};

    use super::*;

    /// Puts an operator before the collecting one that keeps each batch for many schedulings, as an
    /// operator does that is scheduled late: a probe beside it has passed the tick long before.
    #[test]
    fn tick_is_done_only_when_its_outputs_are_collected() {
        timely::execute_directly(|worker| {
            let outbox = Outbox::<Vec<u64>>::default();
            let (mut input, beside, done) = worker.dataflow::<Time, _, _>(|scope| {
                let (input, stream) = scope.new_input::<Vec<u64>>();
                let (beside, stream) = stream.probe();
                let slow = stream.unary::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(
                    Pipeline,
                    "Slow",
                    |_, info| {
                        let again = scope.activator_for(info.address);
                        let mut kept = VecDeque::new();
                        let mut schedulings = 0;
                        move |input, output| {
                            input.for_each_time(|time, data| {
                                let data: Vec<u64> = data.flat_map(std::mem::take).collect();
                                kept.push_back((time.retain(0), data));
                            });
                            schedulings += 1;
                            if schedulings % 20 == 0
                                && let Some((time, mut data)) = kept.pop_front()
                            {
                                output.session(&time).give_container(&mut data);
                            }
                            if !kept.is_empty() {
                                again.activate();
                            }
                        }
                    },
                );
                let done = probe::Handle::new();
                let mut collecting = Collecting::default();
                let slow = slow.map(|item| (item, Time::start(item / 10)));
                collecting.collect(slow, "Collect", &outbox, |to, item| to.push(item));
                collecting.probe_with(scope, &done);
                (input, beside, done)
            });
            let mut waited = 0;
            for tick in 0..5 {
                input.advance_to(Time { phase: Phase::Data, ..Time::start(tick) });
                input.send(tick * 10);
                let next = Time::start(tick + 1);
                input.advance_to(next);
                while done.less_than(&next) {
                    worker.step();
                    waited += usize::from(!beside.less_than(&next));
                }
                assert_eq!(outbox.borrow_mut().remove(&tick), Some(vec![tick * 10]));
            }
            assert!(waited > 5, "the operator has kept nothing");
        });
    }

    /// Changes of a tick are taken only when the ticks before it are done, and all ticks of a round are done
    /// at once unless something waits.
    #[test]
    fn round_with_more_changes_than_may_wait_is_taken_tick_by_tick() {
        const PAIRS: u32 = 3 * CHANGES_AHEAD as u32 / 2;
        for workers in [1, 3] {
            let (to, taken) = std::sync::mpsc::channel();
            let to = std::sync::Mutex::new(to);
            let guards = timely::execute(timely::Config::process(workers), move |worker| {
                let windows = Windows { lateness_ms: Some(0), ..Windows::default() };
                let options = Options { windows, ..Options::default() };
                if worker.index() > 0 {
                    return Computation::follow(worker, options);
                }
                let mut combiner = Combiner::new(worker.peers());
                let mut computation = Computation::build(worker, options);
                computation.inputs.edit(Version { value: Some(0), ..Version::default() }, 1);
                for tick in 1..=3 {
                    computation.inputs.begin_tick(tick);
                    for number in 0..PAIRS {
                        let pair =
                            Pair::V4((number | ((tick as u32 % 3) << 30)).into(), [0; 4].into());
                        combiner.add(Window(0), pair, Volume::new(1, 1));
                    }
                    computation.inputs.parcels(combiner.take());
                    computation.inputs.mark(Mark::Seen(Window(0)));
                    computation.inputs.mark(Mark::Watermark(tick));
                    computation.end_tick(0);
                }
                computation.inputs.begin_tick(4);
                computation.inputs.mark(Mark::Watermark(END_OF_INPUT));
                computation.end_tick(0);
                let to = to.lock().expect("one worker leads");
                while computation.ticks_in_flight() > 0 {
                    computation.step();
                    while let Some((tick, output)) = computation.take() {
                        let changes = match output {
                            Output::Changes(changes) => Some(changes.len()),
                            Output::Done(_) => None,
                        };
                        to.send((tick, changes)).expect("the test waits");
                    }
                }
                computation.close();
            })
            .expect("workers start");
            drop(guards);
            let taken: Vec<_> = taken.try_iter().collect();
            assert!(taken.is_sorted_by_key(|(tick, changes)| (*tick, changes.is_none())));
            let count = |at: u64| -> usize {
                taken
                    .iter()
                    .filter(|(tick, _)| *tick == at)
                    .filter_map(|(_, changes)| *changes)
                    .sum()
            };
            let pairs = PAIRS as usize;
            assert_eq!(
                [1, 2, 3, 4].map(count),
                [pairs, pairs, pairs, 3 * pairs],
                "{workers} workers"
            );
        }
    }
}
