//! The leader, which is the first worker of the first process: it gives commands, and publishes closed ticks.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::reads::{Chunk, Read, RequestId};
use floodmark_dataflows::types::Change;

use super::commands::{Command, Commands, RepeatedTick, TickStart, WorkerSignal};
use super::durability::{Durability, StateConfig};
use super::ended::{Ended, log_end};
use super::limits::{LimitEdits, Limits};
use super::queries::{PendingQuery, Queries};
use super::recovery::Action;
use super::reports::Reports;
use super::retained::Retained;
use super::shared::Shared;
use super::status::Status;
use super::time::{Decision, TickConditions, TimeSource};
use crate::base::error::Failure;
use crate::computation::{Computation, TickOutputs, WindowStates};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::output::WriteError;
use crate::sink::{ClosedTick, Hub, Sink};
use crate::source::{Demand, TickRecords};
use crate::state::PartsRequest;

/// Interval between two counts of the totals in memory.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Ticks of a recovery that are in flight at once.
const RECOVERY_TICKS_AHEAD: usize = 4;

/// Everything the leader needs at startup.
pub struct LeaderConfig<'a> {
    /// The clock.
    pub time: Box<dyn TimeSource + Send + 'a>,
    /// The names and rows of limits. All that hold do so before the first tick.
    pub catalog: Catalog,
    /// Further limits of each set, which may change.
    pub limits: Vec<Limits>,
    /// The consumers of closed ticks.
    pub hub: Hub<'a>,
    /// Queries of the computation's state; `None` if nobody can send any.
    pub queries: Option<Receiver<PendingQuery>>,
    /// A query of the state at the end of time.
    pub final_query: Option<PendingQuery>,
    /// The leader's thread, set once it runs, so that feeds and queries can unpark it.
    pub leader: Arc<OnceLock<Thread>>,
    /// The durable state, of a run that has one.
    pub state: Option<StateConfig>,
}

/// The reason why the run shuts down.
#[derive(Debug)]
enum Ending {
    /// A worker or the user requested it.
    Requested,
    Failed(WriteError),
}

/// The numbers of requests.
#[derive(Default)]
struct RequestIds(u64);

impl RequestIds {
    fn next(&mut self) -> RequestId {
        self.0 += 1;
        RequestId(self.0)
    }
}

/// The state of the leader.
pub(super) struct Leader<'a> {
    shared: Shared,
    time: Box<dyn TimeSource + Send + 'a>,
    hub: Hub<'a>,
    limits: LimitEdits,
    queries: Queries,
    request_ids: RequestIds,
    /// The responses to requests of the leader itself, of the tick that closes next.
    responses: TickOutputs,
    final_query: Option<PendingQuery>,
    /// `None` if no sink needs them.
    retained: Option<Retained>,
    /// `None` for a run without a state.
    durability: Option<Durability>,
    /// The tick whose commands are being given.
    opening: Option<OpeningTick>,
    /// Workers whose sources ticks have taken up to the end that these had at the start.
    at_end: usize,
    /// Messages before these ends that are left out.
    left_out: u64,
    /// The totals that it has written, and the request that reads these.
    saves: Option<(RequestId, PartsRequest)>,
    /// The newest tick that had begun when all of them had.
    caught_up_at: Option<u64>,
    /// The time until something is to be done.
    wait: Duration,
    last_tick: Option<u64>,
    counted: Instant,
    ending: Option<Ending>,
    /// Whether no time passes any more, and if so, whether it has come to its end.
    time_is_over: Option<bool>,
    /// Whether the last command was given.
    has_ended: bool,
}

/// A tick that begins, and the commands that are still to be given before it.
struct OpeningTick {
    start: TickStart,
    /// The requests of the tick, with their reads.
    reads: Vec<(RequestId, Vec<Read>)>,
    /// Whether queries have added their request.
    has_queries: bool,
}

impl<'a> Leader<'a> {
    /// `workers`: the number of those with a source.
    pub(super) fn new(config: LeaderConfig<'a>, shared: &Shared, workers: usize) -> Self {
        let LeaderConfig { time, catalog, limits, mut hub, queries, final_query, leader, state } =
            config;
        if shared.status.is_some() {
            hub.add(Box::new(Reports::new()));
        }
        let retained = hub.wants_totals().then(Retained::default);
        // Only one worker leads, and only once.
        let _ = leader.set(std::thread::current());
        Leader {
            shared: shared.clone(),
            time,
            hub,
            limits: LimitEdits::new(catalog, limits),
            queries: Queries::new(queries, shared.options.windows, shared.filter.clone()),
            request_ids: RequestIds::default(),
            responses: TickOutputs::default(),
            final_query,
            retained,
            durability: state.map(|state| Durability::new(state, shared.options.windows, workers)),
            opening: None,
            at_end: 0,
            left_out: 0,
            saves: None,
            caught_up_at: None,
            wait: Duration::ZERO,
            last_tick: None,
            counted: Instant::now(),
            ending: None,
            time_is_over: None,
            has_ended: false,
        }
    }

    /// Whether rows that hold from the start are still to be entered.
    pub(super) fn has_initial_rows(&self) -> bool {
        self.limits.has_initial_rows()
    }

    /// Returns the time until something is to be done, if nothing happens before.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// Returns the time for which ticks wait for others.
    pub(super) fn patience(&self) -> Duration {
        self.time.patience()
    }

    /// Starts the shutdown.
    pub(super) fn shut_down(&mut self) {
        self.ending.get_or_insert(Ending::Requested);
    }

    /// Whether the shutdown has started.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Starts the shutdown because of a failure. The first failure is the one reported at the end; later ones are
    /// logged.
    pub(super) fn fail(&mut self, failure: impl Into<WriteError>) {
        match (&self.ending, failure.into()) {
            (Some(Ending::Failed(WriteError::Failed(first))), WriteError::Failed(failure)) => {
                tracing::warn!("after \"{:#}\": {:#}", first.error, failure.error);
            }
            (Some(Ending::Failed(_)), _) => {}
            (_, failure) => self.ending = Some(Ending::Failed(failure)),
        }
    }

    /// Shuts down if a sink has failed.
    fn check(&mut self, published: Result<(), WriteError>) {
        if let Err(error) = published {
            self.fail(error);
        }
    }

    /// Whether the run ends at once, whatever is under way.
    pub(super) fn aborts(&self) -> bool {
        matches!(self.ending, Some(Ending::Failed(_))) && !self.time.drains_after_failure()
    }

    /// Reads the clock, queries and signals of workers, and polls the sinks.
    pub(super) fn poll(&mut self, commands: &mut Commands) {
        self.time.read();
        self.queries.receive();
        self.receive(commands);
        let polled = self.hub.poll();
        self.check(polled);
        self.poll_durability();
    }

    /// Reads the signals of workers.
    pub(super) fn receive(&mut self, commands: &mut Commands) {
        while let Some(signal) = commands.next_signal() {
            match signal {
                WorkerSignal::NeedsTick => self.time.request_tick(),
                WorkerSignal::ReachedEnd { left_out } => {
                    self.at_end += 1;
                    self.left_out += left_out;
                }
                WorkerSignal::Loaded => self.with_durability(Durability::note_loaded),
                WorkerSignal::Written(written) => {
                    self.with_durability(|durability| durability.written(written));
                }
                WorkerSignal::Interrupted => self.shut_down(),
                WorkerSignal::Failed { exit, why } => self.fail(Failure::new(exit, anyhow!(why))),
            }
        }
    }

    fn with_durability(&mut self, act: impl FnOnce(&mut Durability)) {
        if let Some(durability) = &mut self.durability {
            act(durability);
        }
    }

    /// Writes checkpoints when they are complete.
    fn poll_durability(&mut self) {
        let Some(durability) = &mut self.durability else { return };
        match durability.poll(self.hub.durable()) {
            Ok(Some(before)) => self.hub.forget_records(before),
            Ok(None) => {}
            Err(failure) => self.fail(failure),
        }
    }

    /// Returns the next command of the recovery of an earlier run.
    fn next_of_recovery(&mut self, in_flight: usize) -> Option<Command> {
        let durability = self.durability.as_mut()?;
        if self.ending.is_some() {
            self.time_is_over.get_or_insert(false);
            return (!std::mem::replace(&mut self.has_ended, true)).then_some(Command::End);
        }
        self.wait = Duration::ZERO;
        match durability.next(in_flight, RECOVERY_TICKS_AHEAD) {
            Action::Give(command) => {
                if let Command::Repeat(repeated) = &command {
                    let RepeatedTick { start, rules, outputs, .. } = &**repeated;
                    durability.begin_repeated(*start, rules.clone(), outputs.clone());
                }
                Some(command)
            }
            Action::Edit(tick, edits) => {
                let versions = self.limits.repeat(tick, &edits);
                if durability.is_repeating(tick) {
                    durability.edit(edits);
                }
                Some(Command::Limits { tick, edits: versions })
            }
            Action::Restore(start, _) => {
                durability.begin_repeated(start, None, None);
                Some(Command::Tick(start))
            }
            Action::Wait => None,
            Action::Finish { ticks, is_first } => {
                if !is_first {
                    tracing::info!(ticks, "the state is restored: the run continues");
                    self.time.resume();
                }
                self.limits.end_repetition();
                if self.durability.as_ref().is_some_and(|durability| durability.ends) {
                    self.end_time(true);
                }
                None
            }
        }
    }

    /// Returns the next command, if it is time for one. `demand` is what the source of this worker needs; `workers` is
    /// the number of those with a source.
    pub(super) fn next_command(
        &mut self,
        computation: &mut Computation<'_>,
        demand: Demand,
        workers: usize,
    ) -> Option<Command> {
        if self.durability.as_ref().is_some_and(Durability::is_recovering) {
            return self.next_of_recovery(computation.ticks_in_flight());
        }
        if let Some(edits) = self.limits.next_preloaded() {
            return Some(Command::Limits { tick: 0, edits });
        }
        if let Some((tick, request)) = self.queries.cancelled() {
            return Some(Command::Cancel { tick, request });
        }
        if self.opening.is_none() {
            self.begin_tick(computation, demand, workers);
        }
        if let Some(tick) = self.opening.as_ref().map(|opening| opening.start.tick) {
            if let Some(edits) = self.limits.next(tick) {
                if let Some(durability) = &mut self.durability {
                    durability.edit(self.limits.stored(&edits));
                }
                return Some(Command::Limits { tick, edits });
            }
            // Queries see the limits of the tick.
            self.add_requests();
        }
        if let Some(OpeningTick { start, reads, .. }) = &mut self.opening {
            let tick = start.tick;
            if let Some((request, parts)) = self.saves.take() {
                return Some(Command::Save { request, parts });
            }
            return Some(match reads.pop() {
                Some((request, reads)) => Command::Read { tick, request, reads },
                None => Command::Tick(self.opening.take()?.start),
            });
        }
        let ends = self.time_is_over.is_some() && !self.has_ended && !self.reads_at_end();
        self.has_ended |= ends;
        ends.then_some(Command::End)
    }

    /// Adds the requests of queries and of metrics to the tick that begins.
    fn add_requests(&mut self) {
        let Some(OpeningTick { start, reads, has_queries }) = &mut self.opening else { return };
        if std::mem::replace(has_queries, true) {
            return;
        }
        let tick = start.tick;
        let durability = self.durability.as_mut();
        if let Some(parts) = durability.and_then(|state| state.begin(*start, &self.limits.catalog))
        {
            let request = self.request_ids.next();
            let windows = parts.windows.iter().map(|window| Read::Part(*window));
            reads.push((request, windows.collect()));
            self.saves = Some((request, parts));
        }
        if self.queries.are_waiting() {
            let current = self.time.current_window(tick, &self.shared.options.windows);
            let request = self.request_ids.next();
            let catalog = &self.limits.catalog;
            reads.push((request, self.queries.begin_tick(tick, request, current, catalog)));
        }
        if self.shared.status.is_some() && self.counted.elapsed() >= COUNT_INTERVAL {
            self.counted = Instant::now();
            reads.push((self.request_ids.next(), vec![Read::Held]));
        }
    }

    /// Accepts a chunk of a response.
    pub(super) fn respond(&mut self, request: RequestId, chunk: Chunk) {
        // Of the leader's own requests the responses are outputs of their tick.
        if let Err(chunk) = self.queries.respond(request, chunk) {
            self.responses.add(chunk);
        }
    }

    /// Whether retained state is still to be read although no time passes any more.
    fn reads_at_end(&self) -> bool {
        self.final_query.is_some() || self.retained.as_ref().is_some_and(|left| !left.is_empty())
    }

    /// Begins a tick if it is time.
    fn begin_tick(&mut self, computation: &mut Computation<'_>, demand: Demand, workers: usize) {
        let in_flight = computation.ticks_in_flight();
        if self.time_is_over.is_some() {
            // Ticks in flight may wait for sinks, which may have capacity soon.
            self.wait = Duration::ZERO;
            if in_flight == 0 {
                self.begin_final_tick(computation.inputs.tick() + 1);
            }
            return;
        }
        let has_read_input = self.at_end == workers;
        if has_read_input {
            self.caught_up_at.get_or_insert(computation.inputs.tick());
        }
        let wants_tick = self.durability.as_ref().is_some_and(Durability::wants_tick);
        let conditions = TickConditions {
            demand,
            has_edits: self.limits.are_waiting(),
            has_initial_rows: self.limits.has_initial_rows(),
            until_queries: self.queries.until_tick().or(wants_tick.then_some(Duration::ZERO)),
            sinks_have_capacity: self.hub.has_capacity(),
            computation_has_capacity: computation.has_capacity(),
            in_flight,
            last_tick: computation.inputs.tick(),
            next_date: computation.inputs.next_date(),
            shuts_down: self.ending.is_some(),
            has_read_input,
        };
        self.wait = Duration::MAX;
        match self.time.decide(&conditions) {
            Ok(Decision::Begin(start)) => {
                if self.time.splits_initial_rows() {
                    computation.split_initial_rows(start.tick);
                }
                self.open(start, Vec::new());
            }
            Ok(Decision::Wait(wait)) => self.wait = wait,
            Ok(Decision::End) => self.end_time(true),
            Ok(Decision::Stop) => self.end_time(false),
            Err(failure) => self.fail(failure),
        }
    }

    fn end_time(&mut self, is_complete: bool) {
        self.time_is_over = Some(is_complete);
        if !is_complete {
            self.final_query = None;
        }
    }

    /// Begins a tick that reads retained state, if more is to be read: first the totals, then the state for the final
    /// query.
    fn begin_final_tick(&mut self, tick: u64) {
        let start = TickStart { takes_records: false, ..TickStart::of_records(tick) };
        if let Some(read) = self.retained.as_mut().and_then(Retained::next) {
            let request = self.request_ids.next();
            self.open(start, vec![(request, vec![read])]);
        } else if let Some(query) = self.final_query.take() {
            self.queries.add(query);
            self.open(start, Vec::new());
        }
    }

    fn open(&mut self, start: TickStart, reads: Vec<(RequestId, Vec<Read>)>) {
        self.limits.begin_tick(self.ending.is_some());
        self.opening = Some(OpeningTick { start, reads, has_queries: false });
    }

    /// Notes the records that the leader's worker puts into a tick, and marks how time passes in the tick.
    pub(super) fn mark_time(
        &mut self,
        start: &TickStart,
        records: &TickRecords,
        mark: &mut dyn FnMut(SourceProgress),
    ) {
        if self.time_is_over.is_some() {
            return;
        }
        if let Some(durability) = &mut self.durability {
            durability.take_marks().into_iter().for_each(&mut *mark);
            if let Some(marks) = durability.take_restored() {
                return marks.into_iter().for_each(mark);
            }
        }
        if let Some(retained) = &mut self.retained {
            retained.note(records);
        }
        if start.takes_records {
            self.last_tick = Some(start.tick);
        }
        self.time.mark_time(start, records, mark);
    }

    /// Whether the sinks have capacity for more changes.
    pub(super) fn has_capacity(&mut self) -> bool {
        self.hub.has_capacity()
    }

    /// Publishes changes of a tick.
    pub(super) fn changes(&mut self, tick: u64, changes: &[Change]) {
        if self.is_given_up(tick) {
            return;
        }
        if self.is_durable(tick) {
            let restored = self.hub.restore(tick, changes, &self.limits.catalog);
            return self.check(restored);
        }
        let published = self.hub.changes(tick, changes, &self.limits.catalog);
        self.check(published);
    }

    /// Whether nothing of a tick is published: it is repeated while the run ends, so that it may lack records. The next
    /// run repeats it.
    fn is_given_up(&self, tick: u64) -> bool {
        self.ending.is_some() && self.is_durable(tick)
    }

    /// Whether a sink has had the outputs of a tick before the start.
    fn is_durable(&self, tick: u64) -> bool {
        self.durability.as_ref().is_some_and(|durability| durability.is_durable(tick))
    }

    /// Publishes a closed tick, and responds to its queries; `windows` are those at its end.
    pub(super) fn close(&mut self, tick: u64, mut outputs: TickOutputs, windows: &WindowStates) {
        let TickOutputs { rows, held, .. } = std::mem::take(&mut self.responses);
        for (window, rows) in rows {
            outputs.rows.entry(window).or_default().extend(rows);
        }
        outputs.held = held;
        let durability = self.durability.as_mut();
        let record = durability.and_then(|durability| durability.close(tick, &mut outputs));
        let closed = ClosedTick {
            tick,
            outputs: &outputs,
            windows,
            catalog: &self.limits.catalog,
            is_caught_up: self.caught_up_at.is_some_and(|at| tick >= at),
            record: record.as_ref(),
        };
        if self.is_given_up(tick) {
            return;
        }
        if self.is_durable(tick) {
            let restored = self.hub.close_restored(&closed);
            self.check(restored);
        } else {
            let published = self.queries.close(&closed).and(self.hub.close(&closed));
            self.check(published);
        }
        if self.shared.status.is_some() {
            self.limits.count_in_force(tick);
        }
        self.limits.forget(tick, &self.hub);
    }

    /// Reports the states of the sinks and of the clock.
    pub(super) fn report(&mut self, status: &Status) {
        status.sinks(self.hub.states());
        let fault = self.durability.as_ref().and_then(Durability::fault);
        status.durability(fault.or_else(|| self.hub.record_fault()));
        self.time.report(status);
    }

    /// Waits until everything published is delivered, and returns how the run ended.
    pub(super) fn finish(mut self) -> Ended {
        if !self.aborts() {
            let status = self.shared.status.clone();
            let finished = self.hub.finish(&|sinks| {
                if let Some(status) = &status {
                    status.sinks(sinks);
                }
            });
            self.check(finished);
        }
        let (dropped, refusals) = (self.hub.counts().dropped(), self.limits.refusals());
        if self.shared.status.is_some() {
            log_end(dropped, &refusals);
        }
        let failure = match self.ending {
            Some(Ending::Failed(error)) => Some(error),
            Some(Ending::Requested) | None => None,
        };
        Ended {
            failure,
            is_complete: self.time_is_over == Some(true),
            last_tick: self.last_tick,
            active: self.hub.counts().active(LimitSet::Live),
            dropped,
            left_out: if self.caught_up_at.is_some() { self.left_out } else { 0 },
        }
    }
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
