//! The computation on one worker, as the runner uses it.
//!
//! The runner ends ticks, a bounded number ahead, steps the worker, and consumes the outputs of each tick. All workers
//! agree on many ticks at once (`rounds.rs`).

mod collect;
mod outputs;
mod rounds;

use std::collections::VecDeque;
use std::time::Duration;

use differential_dataflow::Config as DifferentialConfig;
use floodmark_dataflows::delivery::CHANGES_AHEAD;
use floodmark_dataflows::graph::{self, Inputs, Options, RoundInput};
use floodmark_dataflows::time::{Phase, Time};
use timely::WorkerConfig;
use timely::dataflow::operators::probe;
use timely::dataflow::operators::vec::Input;
use timely::worker::Worker;

use self::collect::{Collected, collect};
pub use self::outputs::{EntryCounts, EventTimeReached, Output, TickOutputs, WindowStates};
use self::rounds::Rounds;
use crate::cluster::watchdog::Watch;
use crate::kafka::OwnedMessage;

/// Rows of limits that take effect at one tick before the first window. All at once, a million rows would be in
/// the memory of each operator at once.
pub const INITIAL_ROWS_PER_TICK: usize = 1 << 16;

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
    /// `None` if dead letters are no outputs of ticks.
    dead_letters: Option<RoundInput<OwnedMessage>>,
    /// Has passed a tick when all its outputs are in `collected`.
    probe: probe::Handle<Time>,
    collected: Collected,
    windows: WindowStates,
    rounds: Rounds,
    watch: Option<Watch>,
}

/// Maximum sleep while there is nothing to do. Input wakes the worker.
const SLEEP_MAX: Duration = Duration::from_millis(100);

impl<'w> Computation<'w> {
    /// Builds the computation. Each worker must do so. `has_dead_letters`: they are outputs of ticks.
    pub fn build(worker: &'w mut Worker, options: Options, has_dead_letters: bool) -> Self {
        let options =
            Options { changes_ahead: Some(CHANGES_AHEAD), without_violations: true, ..options };
        let collected = Collected::default();
        let (inputs, dead_letters, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build_unprobed(scope, options);
            let (handle, stream) = has_dead_letters.then(|| scope.new_input()).unzip();
            collect(scope, outputs, stream, &probe, &collected);
            (inputs, handle.map(RoundInput::new), probe)
        });
        Computation {
            worker,
            inputs,
            dead_letters,
            probe,
            collected,
            windows: WindowStates::default(),
            rounds: Rounds::default(),
            watch: None,
        }
    }

    /// Reports the progress of ticks to a watchdog, if there is one.
    pub fn with_watchdog(self, watch: Option<Watch>) -> Self {
        Computation { watch, ..self }
    }

    /// Ends the input, and works until all workers have finished the computation. Then this process can build another
    /// one.
    pub fn close(self) {
        let Computation { worker, inputs, dead_letters, probe, watch, .. } = self;
        if let Some(watch) = watch {
            watch.input_waits(false);
        }
        drop((inputs, dead_letters));
        while !probe.done() {
            worker.step_or_park(Some(SLEEP_MAX));
        }
    }

    /// Adds dead letters to the outputs of the current tick.
    pub fn add_dead_letters(&mut self, letters: impl IntoIterator<Item = OwnedMessage>) {
        if let Some(input) = &mut self.dead_letters {
            let time = Time::new(self.inputs.tick(), Phase::Data);
            input.extend(letters.into_iter().map(|letter| (letter, time)));
        }
    }

    /// Ends the current tick. [`next_output`](Computation::next_output) returns its outputs.
    pub fn end_tick(&mut self, updates: usize) {
        self.inputs.end_tick();
        self.rounds.add(self.inputs.tick(), updates);
    }

    /// Distributes rows of limits that are in effect by the tick of the first record over additional ticks before it,
    /// until few enough remain. Must be called before the first window, while no other worker has inputs.
    pub fn split_initial_rows(&mut self, tick: u64) {
        let ticks = self.inputs.count_due(tick) / INITIAL_ROWS_PER_TICK;
        let after = self.inputs.tick() + 1;
        for early in tick.saturating_sub(ticks as u64).max(after)..tick {
            self.inputs.begin_tick(early);
            self.inputs.end_tick_with(INITIAL_ROWS_PER_TICK);
            self.rounds.add(early, INITIAL_ROWS_PER_TICK);
            while self.ticks_in_flight() > 0 {
                if self.round_is_ready() {
                    self.end_round();
                }
                self.step();
                // These ticks have no outputs that matter.
                while self.next_output().is_some() {}
            }
        }
    }

    /// Whether another tick may be begun before the next step.
    pub fn has_capacity(&self) -> bool {
        self.rounds.has_capacity()
    }

    /// Whether the next output consists of changes.
    pub fn has_changes(&self) -> bool {
        let of_next = |(tick, _): &(u64, _)| self.rounds.first() == Some(*tick);
        self.collected.changes.borrow().front().is_some_and(of_next)
    }

    /// Returns the next output of the first tick that is not complete. While changes wait to be consumed, the
    /// computation makes few more.
    pub fn next_output(&mut self) -> Option<(u64, Output)> {
        let tick = self.rounds.first()?;
        if self.has_changes() {
            let (_, changes) = self.collected.changes.borrow_mut().pop_front()?;
            self.inputs.consumed(changes.len());
            if let Some(watch) = &self.watch {
                watch.input_waits(false);
            }
            return Some((tick, Output::Changes(changes)));
        }
        let chunk =
            self.collected.responses.borrow_mut().get_mut(&tick).and_then(VecDeque::pop_front);
        if let Some((request, chunk)) = chunk {
            return Some((tick, Output::Response(request, chunk)));
        }
        if self.probe.less_than(&Time::start(tick + 1)) {
            return None;
        }
        self.rounds.complete_first();
        if let Some(watch) = &self.watch {
            watch.tick_completed(tick);
            // The caller may take its time to write the output.
            watch.input_waits(false);
        }
        let passed = self.collected.passed.borrow_mut().remove(&tick).unwrap_or_default();
        self.windows.apply(passed);
        self.collected.responses.borrow_mut().remove(&tick);
        let mut outputs = self.collected.outputs.borrow_mut().remove(&tick).unwrap_or_default();
        // The order in which workers report rankings is random.
        outputs.top.sort_unstable();
        Some((tick, Output::Closed(outputs)))
    }

    /// Returns the watermark and the windows at the end of the last tick whose outputs were consumed.
    pub fn windows(&self) -> &WindowStates {
        &self.windows
    }

    /// Returns the number of ticks that have ended and are not complete.
    pub fn ticks_in_flight(&self) -> usize {
        self.rounds.len()
    }

    /// Returns the progress of event time.
    pub fn event_time(&self) -> EventTimeReached {
        self.collected.event_time.get()
    }

    /// Sets the time for which a round waits for more ticks, from now on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.rounds.set_patience(patience);
    }

    /// Whether to compute the ticks that ended since the last round now. The leader decides for all workers.
    pub fn round_is_ready(&self) -> bool {
        self.rounds.is_ready()
    }

    /// Starts to compute the ticks that ended since the last round. All workers with inputs must end their rounds after
    /// the same ticks.
    pub fn end_round(&mut self) {
        self.rounds.end();
        self.inputs.end_round();
        if let Some(input) = &mut self.dead_letters {
            input.advance_to(Time::start(self.inputs.tick() + 1));
        }
    }

    /// Steps the worker, or sleeps until it has something to do.
    fn step(&mut self) {
        self.step_or_sleep(SLEEP_MAX);
    }

    /// Steps the worker, or sleeps for at most this time until it has something to do.
    pub fn step_or_sleep(&mut self, at_most: Duration) {
        if let Some(watch) = &self.watch {
            // Changes that wait for the runner are no stall of the computation.
            let waits = !self.inputs.consumer_waits() && self.collected.changes.borrow().is_empty();
            watch.input_waits(waits && self.rounds.len() > 0);
        }
        let wait = self.rounds.remaining_wait();
        let at_most = if wait.is_zero() { at_most } else { at_most.min(wait) };
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
    fn responses_of_several_ticks_are_each_returned_before_their_tick_is_closed() {
        for workers in [1, 3] {
            let (to, outputs) = std::sync::mpsc::channel();
            let to = std::sync::Mutex::new(to);
            let guards = timely::execute(timely::Config::process(workers), move |worker| {
                let mut computation = Computation::build(worker, Options::default(), false);
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
                    while let Some((tick, output)) = computation.next_output() {
                        let request = match output {
                            Output::Response(request, _) => Some(request.0),
                            Output::Changes(_) | Output::Closed(_) => None,
                        };
                        to.send((tick, request)).expect("the test waits");
                    }
                }
                assert!(computation.collected.responses.borrow().is_empty());
                computation.close();
            })
            .expect("workers start");
            drop(guards);
            // Each worker responds for its pairs and for its rollups.
            let of_tick = |tick: u64| {
                std::iter::repeat_n((tick, Some(tick)), 2 * workers).chain([(tick, None)])
            };
            let expected: Vec<_> = (1..=6).flat_map(of_tick).collect();
            assert_eq!(outputs.try_iter().collect::<Vec<_>>(), expected, "{workers} workers");
        }
    }

    /// Changes of a tick are returned only when the ticks before it are complete, and all ticks of a round complete at
    /// once unless changes wait.
    #[test]
    fn changes_of_a_round_beyond_the_capacity_are_returned_tick_by_tick() {
        const PAIRS: u32 = 3 * CHANGES_AHEAD as u32 / 2;
        for workers in [1, 3] {
            let (to, outputs) = std::sync::mpsc::channel();
            let to = std::sync::Mutex::new(to);
            let guards = timely::execute(timely::Config::process(workers), move |worker| {
                let windows = Windows { lateness_ms: Some(0), ..Windows::default() };
                let options = Options { windows, ..Options::default() };
                if worker.index() > 0 {
                    return Computation::build(worker, options, false).close();
                }
                let mut combiner = Combiner::new(worker.peers());
                let mut computation = Computation::build(worker, options, false);
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
                    while let Some((tick, output)) = computation.next_output() {
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
            let outputs: Vec<_> = outputs.try_iter().collect();
            assert!(outputs.is_sorted_by_key(|(tick, changes)| (*tick, changes.is_none())));
            let count = |at: u64| -> usize {
                outputs
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
