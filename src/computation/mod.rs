//! The computation on one worker, as the runner uses it.
//!
//! The runner ends ticks, a bounded number ahead, steps, and takes the outputs of each tick when it is done. All
//! workers agree on many ticks at once (`rounds.rs`).

mod collect;
mod outputs;
mod rounds;

use std::collections::VecDeque;
use std::time::Duration;

use differential_dataflow::Config as DifferentialConfig;
use floodmark_dataflows::delivery::CHANGES_AHEAD;
use floodmark_dataflows::graph::{self, Inputs, Options};
use floodmark_dataflows::time::Time;
use timely::WorkerConfig;
use timely::dataflow::operators::probe;
use timely::worker::Worker;

use self::collect::{Taken, collect};
pub use self::outputs::{EntryCounts, EventTimeReached, Output, TickOutputs, WindowStates};
use self::rounds::Rounds;
use crate::cluster::watchdog::Watch;

/// Rows of limits that take effect at one tick before the first window. All at once, a million rows would be in
/// the memory of each operator at once.
pub const FIRST_ROWS: usize = 1 << 16;

/// Returns the settings of workers that this computation needs.
pub fn worker_config() -> WorkerConfig {
    let mut config = WorkerConfig::default();
    // Merging while idle keeps the next change of a limit from paying for it.
    let merging = DifferentialConfig::default().idle_merge_effort(Some(1000));
    differential_dataflow::configure(&mut config, &merging);
    config
}

/// The computation on this worker.
pub struct Computation<'w> {
    worker: &'w mut Worker,
    /// The inputs, of the leader or of each worker of a run.
    pub inputs: Inputs,
    /// Has passed a tick when all outputs of the tick wait to be taken.
    probe: probe::Handle<Time>,
    taken: Taken,
    windows: WindowStates,
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
        let taken = Taken::default();
        let (inputs, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build_unprobed(scope, options);
            collect(scope, outputs, &probe, &taken);
            (inputs, probe)
        });
        Computation {
            worker,
            inputs,
            probe,
            taken,
            windows: WindowStates::default(),
            rounds: Rounds::default(),
            watch: None,
        }
    }

    /// Has a watchdog, if there is one, check that ticks get done.
    pub fn watched(self, watch: Option<Watch>) -> Self {
        Computation { watch, ..self }
    }

    /// Takes no more input, and works until all workers let go of the computation: what comes after it in
    /// this process can be another one.
    pub fn close(self) {
        let Computation { worker, inputs, probe, watch, .. } = self;
        if let Some(watch) = watch {
            watch.input_waits(false);
        }
        drop(inputs);
        while !probe.done() {
            worker.step_or_park(Some(NAP));
        }
    }

    /// Ends the current tick; [`take`](Computation::take) returns its outputs when it is done.
    pub fn end_tick(&mut self, updates: usize) {
        self.inputs.end_tick();
        self.rounds.add(self.inputs.tick(), updates);
    }

    /// Gives rows of limits that are in effect by the tick of the first record ticks of their own before it,
    /// until few enough are left. To be called before the first window, where no other worker has inputs.
    pub fn take_first_rows(&mut self, tick: u64) {
        let ticks = self.inputs.count_due(tick) / FIRST_ROWS;
        let after = self.inputs.tick() + 1;
        for early in tick.saturating_sub(ticks as u64).max(after)..tick {
            self.inputs.begin_tick(early);
            self.inputs.end_tick_with(FIRST_ROWS);
            self.rounds.add(early, FIRST_ROWS);
            while self.ticks_in_flight() > 0 {
                if self.round_is_ready() {
                    self.end_round();
                }
                self.step();
                // These ticks have no outputs that matter.
                while self.take().is_some() {}
            }
        }
    }

    /// Whether another tick may be begun before the next step.
    pub fn has_capacity(&self) -> bool {
        self.rounds.has_capacity()
    }

    /// Whether the next output is changes.
    pub fn has_changes(&self) -> bool {
        let of_next = |(tick, _): &(u64, _)| self.rounds.first() == Some(*tick);
        self.taken.changes.borrow().front().is_some_and(of_next)
    }

    /// Returns the next output, of the first tick that is not done. Until changes are taken, few more are made.
    pub fn take(&mut self) -> Option<(u64, Output)> {
        let tick = self.rounds.first()?;
        if self.has_changes() {
            let (_, changes) = self.taken.changes.borrow_mut().pop_front()?;
            self.inputs.taken(changes.len());
            if let Some(watch) = &self.watch {
                watch.input_waits(false);
            }
            return Some((tick, Output::Changes(changes)));
        }
        let chunk = self.taken.responses.borrow_mut().get_mut(&tick).and_then(VecDeque::pop_front);
        if let Some((request, chunk)) = chunk {
            return Some((tick, Output::Response(request, chunk)));
        }
        if self.probe.less_than(&Time::start(tick + 1)) {
            return None;
        }
        self.rounds.done();
        if let Some(watch) = &self.watch {
            watch.moved(tick);
            // The caller may take its time to write the output.
            watch.input_waits(false);
        }
        let passed = self.taken.passed.borrow_mut().remove(&tick).unwrap_or_default();
        self.windows.take(passed);
        self.taken.responses.borrow_mut().remove(&tick);
        let mut outputs = self.taken.outputs.borrow_mut().remove(&tick).unwrap_or_default();
        // The order in which workers report rankings is random.
        outputs.top.sort_unstable();
        Some((tick, Output::Closed(outputs)))
    }

    /// The watermark and the windows at the end of the last tick that was taken.
    pub fn windows(&self) -> &WindowStates {
        &self.windows
    }

    /// The number of ticks that are ended and not done.
    pub fn ticks_in_flight(&self) -> usize {
        self.rounds.len()
    }

    /// The progress of event time.
    pub fn event_time(&self) -> EventTimeReached {
        self.taken.event_time.get()
    }

    /// Sets the time that ticks wait, from now on, for others with which all workers can agree on them.
    pub fn set_patience(&mut self, patience: Duration) {
        self.rounds.set_patience(patience);
    }

    /// Whether the ticks that ended since the last round are to be computed now. The leader asks for all workers.
    pub fn round_is_ready(&self) -> bool {
        self.rounds.are_ready()
    }

    /// Has the ticks that ended since the last round computed. All workers with inputs end their rounds after the same
    /// ticks.
    pub fn end_round(&mut self) {
        self.rounds.end();
        self.inputs.end_round();
    }

    /// Works a little, or sleeps until there is something to do.
    fn step(&mut self) {
        self.step_or_sleep(NAP);
    }

    /// Works a little, or sleeps so long at most until there is something to do.
    pub fn step_or_sleep(&mut self, at_most: Duration) {
        if let Some(watch) = &self.watch {
            // The computation does not stand still either while changes wait for the runner.
            let waits = !self.inputs.consumer_waits() && self.taken.changes.borrow().is_empty();
            watch.input_waits(waits && self.rounds.len() > 0);
        }
        let waits = self.rounds.waits();
        let at_most = if waits.is_zero() { at_most } else { at_most.min(waits) };
        self.worker.step_or_park(Some(at_most));
    }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::clock::SourceProgress;
    use floodmark_dataflows::combine::Combiner;
    use floodmark_dataflows::reads::{Read, RequestId};
    use floodmark_dataflows::time::{END_OF_INPUT, Window, Windows};
    use floodmark_dataflows::types::{Pair, Version, Volume};

    use super::*;

    /// The tables of pairs and those of rollups respond to the reads of several ticks at once.
    #[test]
    fn responses_of_several_ticks_are_each_taken_before_their_tick_is_closed() {
        for workers in [1, 3] {
            let (to, taken) = std::sync::mpsc::channel();
            let to = std::sync::Mutex::new(to);
            let guards = timely::execute(timely::Config::process(workers), move |worker| {
                let mut computation = Computation::build(worker, Options::default());
                if computation.worker.index() > 0 {
                    return computation.close();
                }
                for tick in 1..=6 {
                    computation.inputs.begin_tick(tick);
                    computation.inputs.read(RequestId(tick), Read::Held);
                    computation.end_tick(0);
                }
                computation.end_round();
                let to = to.lock().expect("one worker leads");
                while computation.ticks_in_flight() > 0 {
                    computation.step();
                    while let Some((tick, output)) = computation.take() {
                        let request = match output {
                            Output::Response(request, _) => Some(request.0),
                            Output::Changes(_) | Output::Closed(_) => None,
                        };
                        to.send((tick, request)).expect("the test waits");
                    }
                }
                assert!(computation.taken.responses.borrow().is_empty());
                computation.close();
            })
            .expect("workers start");
            drop(guards);
            // Each worker responds for its pairs and for its rollups.
            let of_tick = |tick: u64| {
                std::iter::repeat_n((tick, Some(tick)), 2 * workers).chain([(tick, None)])
            };
            let expected: Vec<_> = (1..=6).flat_map(of_tick).collect();
            assert_eq!(taken.try_iter().collect::<Vec<_>>(), expected, "{workers} workers");
        }
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
                    return Computation::build(worker, options).close();
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
                    computation.inputs.batches(combiner.take());
                    computation.inputs.mark(SourceProgress::Seen(Window(0)));
                    computation.inputs.mark(SourceProgress::Watermark(tick));
                    computation.end_tick(0);
                }
                computation.inputs.begin_tick(4);
                computation.inputs.mark(SourceProgress::Watermark(END_OF_INPUT));
                computation.end_tick(0);
                let to = to.lock().expect("one worker leads");
                while computation.ticks_in_flight() > 0 {
                    if computation.round_is_ready() {
                        computation.end_round();
                    }
                    computation.step();
                    while let Some((tick, output)) = computation.take() {
                        let changes = match output {
                            Output::Changes(changes) => Some(changes.len()),
                            Output::Response(..) | Output::Closed(_) => None,
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
