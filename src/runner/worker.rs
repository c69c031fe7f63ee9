//! One worker of a computation: it reads its source, applies commands, and takes the outputs of ticks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::UpdateBatch;
use floodmark_dataflows::reads::RequestId;

use super::commands::{Command, Commands, RepeatedTick, ResumePlan, TickStart, WorkerSignal};
use super::ended::Ended;
use super::leader::{Leader, LeaderConfig};
use super::shared::Shared;
use super::status::WorkerStatus;
use super::worker_state::WorkerState;
use crate::base::error::Failure;
use crate::computation::{Computation, Output};
use crate::source::{Demand, Source, TickRecords};

/// Longest sleep of a worker that has nothing to do. Input wakes it.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// Shortest sleep of a worker that waits for the next tick: bounds the wake-ups while no tick can begin.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// Interval at which a worker reports its state to [`Status`](super::status::Status).
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which the run checks whether it is ready, and logs changes.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// One worker.
pub(super) struct Worker<'w, 'a> {
    index: usize,
    shared: Shared,
    commands: Commands,
    computation: Computation<'w>,
    /// `None` if it could not be opened.
    source: Option<Box<dyn Source + 'a>>,
    leader: Option<Leader<'a>>,
    /// `None` for a run without a state.
    state: Option<WorkerState>,
    /// Whether it has not put in all totals that it reads.
    is_loading: bool,
    /// The tick of an earlier run whose records are being read. No other command is applied before.
    repeating: Option<Box<RepeatedTick>>,
    /// Whether it goes on reading.
    is_reading: bool,
    /// Whether it has signalled, since the last tick, that it needs one.
    has_signalled: bool,
    /// Whether it has signalled that its source has reached its end.
    has_reached_end: bool,
    /// Cancelled requests of ticks that are not closed.
    cancelled: Vec<(u64, RequestId)>,
    /// The ticks in flight, each with the moment at which it began.
    in_flight: VecDeque<(u64, Instant)>,
    /// When the newest closed tick began.
    tick_began: Option<Instant>,
    /// The slowest partition and its event time, as of the last check of whether other workers wait for this one.
    slowest: (Option<u32>, u64),
    /// The newest closed tick.
    tick: Option<u64>,
    /// When it reported its state.
    reported: Option<Instant>,
    logged: Instant,
    /// Whether no tick follows.
    is_over: bool,
}

impl<'w, 'a> Worker<'w, 'a> {
    pub(super) fn new(
        index: usize,
        shared: &Shared,
        commands: Commands,
        computation: Computation<'w>,
        lead: Option<LeaderConfig<'a>>,
    ) -> Self {
        let workers = commands.workers();
        Worker {
            index,
            shared: shared.clone(),
            commands,
            computation,
            source: None,
            leader: lead.map(|lead| Leader::new(lead, shared, workers)),
            state: shared.state.clone().map(|store| WorkerState::new(store, index, workers)),
            is_loading: false,
            repeating: None,
            is_reading: true,
            has_signalled: false,
            has_reached_end: false,
            cancelled: Vec::new(),
            in_flight: VecDeque::new(),
            tick_began: None,
            slowest: (None, 0),
            tick: None,
            reported: None,
            logged: Instant::now(),
            is_over: false,
        }
    }

    /// Works until the run ends. The leader returns how it ended.
    pub(super) fn run(
        mut self,
        open: impl FnOnce(Option<&ResumePlan>) -> Result<Box<dyn Source + 'a>, Failure>,
    ) -> Option<Ended> {
        let Some(plan) = self.plan() else { return self.end() };
        match open(plan.as_deref()) {
            Ok(mut source) => {
                // Messages are read by the time of the tick before.
                let time = plan.as_ref().and_then(|plan| plan.time);
                time.into_iter().for_each(|time| source.set_time(time));
                let rules = plan.as_ref().and_then(|plan| plan.rules.as_ref());
                let set = rules.map_or(Ok(()), |rules| source.set_rules(rules));
                let repeats = plan.as_ref().is_some_and(|plan| plan.repeats);
                let ended = if repeats { Ok(()) } else { source.end_repetition() };
                self.source = Some(source);
                self.or_fail(set.and(ended));
            }
            Err(failure) => self.fail(failure),
        }
        self.shared.interrupt.wake_current_thread();
        if let (Some(rollup), Some(_)) =
            (self.shared.options.top.and_then(|query| query.rollup()), &self.leader)
        {
            self.computation.inputs.view(rollup, 1);
        }
        loop {
            let has_read = self.turn();
            let aborts = self.leader.as_ref().is_some_and(Leader::aborts);
            if aborts || self.is_over && self.computation.ticks_in_flight() == 0 {
                return self.end();
            }
            let sleep = match &self.leader {
                _ if has_read => Duration::ZERO,
                // Not less while a sink or the ticks in flight hold it up.
                Some(leader) => leader.wait().clamp(SLEEP_MIN, SLEEP_MAX),
                None => SLEEP_MAX,
            };
            self.computation.step_or_sleep(sleep);
        }
    }

    /// Returns the state that the run continues from, if it has one: the first command. `None`: the run ends before.
    fn plan(&mut self) -> Option<Option<Box<ResumePlan>>> {
        if self.state.is_none() {
            return Some(None);
        }
        let plan = loop {
            let command = match &mut self.leader {
                Some(leader) => leader.next_command(&mut self.computation, Demand::None, 0),
                None => self.commands.next(),
            };
            match command {
                Some(command) => {
                    if self.leader.is_some() {
                        self.commands.send(&command);
                    }
                    match command {
                        Command::Resume(plan) => break plan,
                        _ => return None,
                    }
                }
                None => self.computation.step_or_sleep(SLEEP_MAX),
            }
        };
        if let Some(state) = &mut self.state {
            state.resume(&plan);
            self.is_loading = true;
        }
        Some(Some(plan))
    }

    /// This worker can't go on, so none can: what was read is judged yet, then all end.
    fn fail(&mut self, failure: Failure) {
        self.is_reading = false;
        match &mut self.leader {
            Some(leader) => leader.fail(failure),
            None => {
                let why = format!("worker {}: {:#}", self.index, failure.error);
                self.commands.signal(WorkerSignal::Failed { exit: failure.exit, why });
            }
        }
    }

    /// Does what there is to do, and returns whether there may be more to read.
    ///
    /// Outputs come first: when they are published, there may be capacity for another tick, and then the worker may
    /// sleep.
    fn turn(&mut self) -> bool {
        if let Some(leader) = &mut self.leader {
            // A worker that fails amid a repeated tick signals so before it ends the tick, which is not published then.
            leader.receive(&mut self.commands);
        }
        self.publish();
        while let Some(written) = self.state.as_mut().and_then(WorkerState::written) {
            self.commands.signal(WorkerSignal::Written(written));
        }
        let has_read = self.read();
        if self.leader.is_some() {
            self.lead();
        } else {
            self.follow();
        }
        self.bound_skew();
        if self.reported.is_none_or(|reported| reported.elapsed() >= REPORT_INTERVAL) {
            self.report();
        }
        has_read
    }

    /// Reads what is there.
    fn read(&mut self) -> bool {
        if self.repeating.is_some() {
            self.repeat();
            return self.repeating.is_some();
        }
        let Some(source) = self.source.as_mut().filter(|_| self.is_reading && !self.is_over) else {
            return false;
        };
        let read = source.read();
        self.or_fail(read)
    }

    /// Fails on a failure, and returns the default value in its place.
    fn or_fail<T: Default>(&mut self, result: Result<T, Failure>) -> T {
        result.unwrap_or_else(|failure| {
            self.fail(failure);
            T::default()
        })
    }

    /// Returns what the source needs.
    fn demand(&mut self) -> Demand {
        let reached = self.computation.event_time();
        match self.source.as_mut().filter(|_| self.is_reading && !self.is_over) {
            Some(source) => {
                let demand = source.demand(reached);
                self.or_fail(demand.map(Some)).unwrap_or(Demand::None)
            }
            None => Demand::None,
        }
    }

    /// Gives commands, and applies them.
    fn lead(&mut self) {
        let Some(leader) = &mut self.leader else { return };
        if self.shared.interrupt.pressed() {
            leader.shut_down();
        }
        leader.poll(&mut self.commands);
        self.computation.set_patience(leader.patience());
        let workers = self.commands.workers();
        while self.repeating.is_none() {
            let demand = self.demand();
            let leader = self.leader.as_mut();
            let Some(command) = leader
                .and_then(|leader| leader.next_command(&mut self.computation, demand, workers))
            else {
                break;
            };
            self.issue(command);
        }
        if self.repeating.is_none() && self.computation.round_is_ready() {
            self.issue(Command::EndRound);
        }
    }

    /// Sends a command to all workers, this one included.
    fn issue(&mut self, command: Command) {
        self.commands.send(&command);
        self.apply(command);
    }

    /// Signals to the leader what this worker needs, and applies the leader's commands.
    fn follow(&mut self) {
        // Any process of a run may receive the interrupt.
        if self.is_reading && self.shared.interrupt.pressed() {
            self.is_reading = false;
            self.commands.signal(WorkerSignal::Interrupted);
        }
        if self.demand() == Demand::Tick && !self.has_signalled {
            self.has_signalled = true;
            self.commands.signal(WorkerSignal::NeedsTick);
        }
        while self.repeating.is_none()
            && let Some(command) = self.commands.next()
        {
            self.apply(command);
        }
    }

    fn apply(&mut self, command: Command) {
        let inputs = &mut self.computation.inputs;
        let mut open = |tick| {
            // Inputs begin in tick 0.
            if tick > inputs.tick() {
                inputs.begin_tick(tick);
            }
        };
        match command {
            Command::Limits { tick, edits } => {
                open(tick);
                edits.into_iter().for_each(|(version, diff)| inputs.edit(version, diff));
            }
            Command::Read { tick, request, reads } => {
                open(tick);
                reads.into_iter().for_each(|read| inputs.read(request, read));
            }
            Command::Cancel { tick, request } => {
                inputs.cancel(request);
                self.cancelled.push((tick, request));
            }
            // It was applied before the source was opened.
            Command::Resume(_) => {}
            Command::Load { tick } => {
                open(tick);
                self.load();
            }
            Command::Repeat(repeated) => {
                open(repeated.start.tick);
                if let (Some(source), Some(rules)) = (&mut self.source, &repeated.rules) {
                    let set = source.set_rules(rules);
                    self.or_fail(set);
                }
                self.repeating = Some(repeated);
                self.repeat();
            }
            Command::Save { request, parts } => {
                let saved = self.state.as_mut().map_or(Ok(()), |state| state.save(request, parts));
                self.or_fail(saved);
            }
            Command::Tick(start) => {
                open(start.tick);
                self.complete(&start);
            }
            Command::EndRound => self.computation.end_round(),
            Command::End => self.is_over = true,
        }
    }

    /// Puts some of the saved totals into a tick, and completes the tick.
    fn load(&mut self) {
        let loaded = self.state.as_mut().map_or(Ok(None), WorkerState::load);
        let batches = self.or_fail(loaded);
        let inputs = &mut self.computation.inputs;
        if self.leader.is_some() {
            inputs.mark(SourceProgress::Watermark(0));
        }
        let is_done = batches.is_none();
        let batches = batches.unwrap_or_default();
        let updates = batches.iter().map(UpdateBatch::len).sum();
        inputs.batches(batches);
        self.computation.end_tick(updates);
        if is_done && std::mem::take(&mut self.is_loading) {
            self.commands.signal(WorkerSignal::Loaded);
        }
    }

    /// Reads the records of a tick of an earlier run, and completes the tick when all are read.
    fn repeat(&mut self) {
        let ends = match &self.leader {
            Some(leader) => leader.is_ending(),
            None => self.commands.has_end(),
        };
        if ends || !self.is_reading || self.source.is_none() {
            // The run ends: nothing of this tick is published any more, and its end is all that others wait for.
            if self.repeating.take().is_some() {
                self.computation.end_tick(0);
            }
            return;
        }
        let (Some(source), Some(repeated)) = (&mut self.source, &self.repeating) else {
            return;
        };
        let RepeatedTick { start, marks, is_last, .. } = &**repeated;
        let (start, is_last) = (*start, *is_last);
        let is_read = source.repeat(start.tick, marks);
        if !self.or_fail(is_read) {
            return;
        }
        let Some(repeated) = self.repeating.take() else { return };
        let Some(source) = &mut self.source else { return };
        let mut records = source.take_records(start.tick);
        if start.takes_records {
            source.set_time(start.time);
        }
        let ended = if is_last { source.end_repetition() } else { Ok(()) };
        self.or_fail(ended);
        if let Some(state) = &self.state {
            state.leave_out_counted(start.tick, &mut records);
        }
        let updates = records.updates();
        let inputs = &mut self.computation.inputs;
        if self.leader.is_some() {
            repeated.marks.iter().for_each(|mark| inputs.mark(*mark));
        }
        records.seen.into_iter().for_each(|window| inputs.mark(SourceProgress::Seen(window)));
        inputs.batches(records.update_batches);
        self.computation.add_dead_letters(records.dead_letters);
        self.computation.end_tick(updates);
    }

    /// Puts into a tick what this worker has for it, and completes the tick.
    fn complete(&mut self, start: &TickStart) {
        if self.shared.status.is_some() {
            self.in_flight.push_back((start.tick, Instant::now()));
        }
        let reached = self.computation.event_time();
        let mut records = TickRecords::default();
        let (mut progress, mut progressed) = (Vec::new(), Ok(()));
        if let Some(source) = self.source.as_mut().filter(|_| start.takes_records) {
            source.set_time(start.time);
            records = source.take_records(start.tick);
            (progress, progressed) = source.progress(start.tick, start.time.now, reached);
            self.has_signalled = false;
        }
        let inputs = &mut self.computation.inputs;
        if let Some(leader) = &mut self.leader {
            leader.mark_time(start, &records, &mut |passed| inputs.mark(passed));
        }
        let updates = records.updates();
        let TickRecords { update_batches, seen, edits, dead_letters, .. } = records;
        edits.into_iter().for_each(|(version, diff)| inputs.edit(version, diff));
        seen.into_iter().for_each(|window| inputs.mark(SourceProgress::Seen(window)));
        inputs.batches(update_batches);
        self.computation.add_dead_letters(dead_letters);
        self.or_fail(progressed);
        progress.into_iter().for_each(|progress| self.computation.inputs.mark(progress));
        self.computation.end_tick(updates);
        self.signal_end();
    }

    /// Signals once that ticks have taken what the source held at its start.
    fn signal_end(&mut self) {
        let source = self.source.as_ref().filter(|_| !self.has_reached_end);
        if let Some(left_out) = source.and_then(|source| source.left_out_at_end()) {
            self.has_reached_end = true;
            self.commands.signal(WorkerSignal::ReachedEnd { left_out });
        }
    }

    /// Takes the outputs of ticks, and publishes them if this worker leads.
    fn publish(&mut self) {
        while let Some((tick, output)) = self.next_output() {
            match (output, &mut self.leader) {
                (Output::Changes(changes), Some(leader)) => leader.changes(tick, &changes),
                (Output::Response(request, chunk), leader) => {
                    let chunk = match &mut self.state {
                        Some(state) => state.respond(request, chunk),
                        None => Some(chunk),
                    };
                    if let (Some(leader), Some(chunk)) = (leader, chunk) {
                        leader.respond(request, chunk);
                    }
                }
                // The first worker has them.
                (Output::Changes(_), None) => {}
                (Output::Closed(outputs), leader) => {
                    if let Some(leader) = leader {
                        leader.close(tick, outputs, self.computation.windows());
                    }
                    self.note_closed(tick);
                }
            }
            if self.leader.as_ref().is_some_and(Leader::aborts) {
                break;
            }
        }
    }

    /// Returns the next output of the computation. Changes wait there until sinks have capacity for them.
    fn next_output(&mut self) -> Option<(u64, Output)> {
        let changes = self.computation.has_changes();
        let waits = changes && self.leader.as_mut().is_some_and(|leader| !leader.has_capacity());
        if waits { None } else { self.computation.next_output() }
    }

    fn note_closed(&mut self, tick: u64) {
        if let Some(source) = &mut self.source {
            source.close_tick(tick);
        }
        if let Some(state) = &mut self.state {
            state.close(tick);
        }
        for (_, request) in self.cancelled.extract_if(.., |(of, _)| *of <= tick) {
            self.computation.inputs.forget_cancelled(request);
        }
        while let Some((_, began)) = self.in_flight.pop_front_if(|(began, _)| *began <= tick) {
            self.tick_began = Some(began);
        }
        // Nobody is judged before all limits are known.
        if !self.leader.as_ref().is_some_and(Leader::has_initial_rows) {
            self.tick = Some(tick);
        }
    }

    /// Has partitions wait, or go on, as soon as event time has moved: with nothing to read, the next tick may be long
    /// in coming.
    fn bound_skew(&mut self) {
        let reached = self.computation.event_time();
        let slowest = (reached.slowest_in, reached.slowest);
        if self.slowest == slowest {
            return;
        }
        self.slowest = slowest;
        if let Some(source) = &mut self.source {
            let bounded = source.bound_skew(reached);
            self.or_fail(bounded);
        }
    }

    /// Reports the state of this worker, whether or not a tick was closed: that none was is worth a report.
    fn report(&mut self) {
        self.reported = Some(Instant::now());
        let Some(status) = &self.shared.status else { return };
        status.worker(
            self.index,
            WorkerStatus {
                tick: self.tick,
                tick_began: self.tick_began,
                event_time: self.computation.event_time(),
                source: self.source.as_ref().map(|source| source.state()).unwrap_or_default(),
            },
        );
        if let Some(leader) = &mut self.leader {
            leader.report(status);
        }
        if status.is_logged_by(self.index) && self.logged.elapsed() >= LOG_INTERVAL {
            self.logged = Instant::now();
            status.log();
        }
    }

    /// Delivers what is left, and leaves the computation when all workers do.
    fn end(mut self) -> Option<Ended> {
        let kept = self.source.as_mut().map_or(Ok(()), |source| source.finish());
        let mut ended = self.leader.take().map(Leader::finish);
        if let Err(failure) = kept {
            match &mut ended {
                Some(ended) if ended.failure.is_none() => ended.failure = Some(failure.into()),
                _ => tracing::error!("{:#}", failure.error),
            }
        }
        if let Some(source) = self.source.take() {
            source.leave();
        }
        self.computation.close();
        ended
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
