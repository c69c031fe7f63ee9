//! The leader, which is the first worker of the first process: it gives commands, and publishes closed ticks.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::reads::{Chunk, Read, RequestId};
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::Change;

use super::commands::{Command, Commands, TickStart, WorkerSignal};
use super::limits::{LimitEdits, Limits};
use super::queries::{PendingQuery, Queries};
use super::reports::Reports;
use super::shared::Shared;
use super::status::Status;
use super::time::{Decision, TickConditions, TimeSource};
use crate::base::error::{Exit, Failure, Outcome};
use crate::computation::{Computation, TickOutputs, WindowStates};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::output::{WriteError, reader_gone_failure};
use crate::sink::{ClosedTick, Hub, Sink};
use crate::source::{Demand, TickRecords};

/// Interval between two counts of the totals in memory.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Rows of totals that are read at once when the input has ended, unless a window has more.
const ROWS_AT_ONCE: usize = 200_000;

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
}

/// The end of a computation.
#[derive(Debug, Default)]
pub struct Ended {
    /// The first failure.
    pub failure: Option<WriteError>,
    /// Whether time came to its end; if not, the run was asked to shut down before.
    pub is_complete: bool,
    /// The newest tick that took records.
    pub last_tick: Option<u64>,
    /// Active violations of live limits.
    pub active: u64,
    /// Records that came after their window had settled.
    pub dropped: u64,
    /// Messages before the end of the input that are left out ([`Source::left_out_at_end`](crate::source::Source::left_out_at_end)).
    pub left_out: u64,
}

impl Ended {
    /// Returns the outcome of a live run.
    pub fn outcome(self, fail_on_violation: bool) -> Outcome {
        match self.failure {
            Some(WriteError::Failed(failure)) => Err(failure),
            Some(WriteError::Closed) => Err(reader_gone_failure("a sink")),
            None if fail_on_violation && self.active > 0 => Ok(Exit::Violations),
            None => Ok(Exit::Done),
        }
    }
}

/// Logs what the end of a live run leaves behind: records that were dropped, and sentences about refused rows.
fn log_end(dropped: u64, refusals: &[String]) {
    if dropped > 0 {
        tracing::warn!(
            "{dropped} records came after their window had settled, and are not counted"
        );
    }
    for refusal in refusals {
        tracing::error!("at the end: {refusal}");
    }
}

/// The reason why the run shuts down.
#[derive(Debug)]
enum Ending {
    /// A worker or the user requested it.
    Requested,
    Failed(WriteError),
}

/// The totals of windows that are to be read when the input ends.
#[derive(Default)]
struct Retained(BTreeMap<Window, usize>);

impl Retained {
    /// Notes the windows of records. The number of updates of a window is an upper bound of its totals.
    fn note(&mut self, records: &TickRecords) {
        for window in &records.seen {
            *self.0.entry(*window).or_default() += 1;
        }
        for batch in &records.update_batches {
            *self.0.entry(batch.window).or_default() += batch.len();
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next read: some windows at a time, so that few rows are in flight at once.
    fn next(&mut self) -> Option<Read> {
        let (from, mut rows) = self.0.pop_first()?;
        while let Some(next) = self.0.first_entry()
            && rows + next.get() <= ROWS_AT_ONCE
        {
            rows += next.remove();
        }
        let until = self.0.first_key_value().map_or(Window(u64::MAX), |(window, _)| *window);
        Some(Read::Rows { from, until })
    }
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
    /// The tick whose commands are being given.
    opening: Option<OpeningTick>,
    /// Workers whose sources ticks have taken up to the end that these had at the start.
    at_end: usize,
    /// Messages before these ends that are left out.
    left_out: u64,
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
    pub(super) fn new(config: LeaderConfig<'a>, shared: &Shared) -> Self {
        let LeaderConfig { time, catalog, limits, mut hub, queries, final_query, leader } = config;
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
            opening: None,
            at_end: 0,
            left_out: 0,
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
        while let Some(signal) = commands.next_signal() {
            match signal {
                WorkerSignal::NeedsTick => self.time.request_tick(),
                WorkerSignal::ReachedEnd { left_out } => {
                    self.at_end += 1;
                    self.left_out += left_out;
                }
                WorkerSignal::Interrupted => self.shut_down(),
                WorkerSignal::Failed { exit, why } => self.fail(Failure::new(exit, anyhow!(why))),
            }
        }
        let polled = self.hub.poll();
        self.check(polled);
    }

    /// Returns the next command, if it is time for one. `demand` is what the source of this worker needs; `workers` is
    /// the number of those with a source.
    pub(super) fn next_command(
        &mut self,
        computation: &mut Computation<'_>,
        demand: Demand,
        workers: usize,
    ) -> Option<Command> {
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
                return Some(Command::Limits { tick, edits });
            }
            // Queries see the limits of the tick.
            self.add_requests();
        }
        if let Some(OpeningTick { start, reads, .. }) = &mut self.opening {
            let tick = start.tick;
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
        let conditions = TickConditions {
            demand,
            has_edits: self.limits.are_waiting(),
            has_initial_rows: self.limits.has_initial_rows(),
            until_queries: self.queries.until_tick(),
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
        let published = self.hub.changes(tick, changes, &self.limits.catalog);
        self.check(published);
    }

    /// Publishes a closed tick, and responds to its queries; `windows` are those at its end.
    pub(super) fn close(&mut self, tick: u64, mut outputs: TickOutputs, windows: &WindowStates) {
        let TickOutputs { rows, held, .. } = std::mem::take(&mut self.responses);
        for (window, rows) in rows {
            outputs.rows.entry(window).or_default().extend(rows);
        }
        outputs.held = held;
        let closed = ClosedTick {
            tick,
            outputs: &outputs,
            windows,
            catalog: &self.limits.catalog,
            is_caught_up: self.caught_up_at.is_some_and(|at| tick >= at),
        };
        let published = self.queries.close(&closed).and(self.hub.close(&closed));
        self.check(published);
        if self.shared.status.is_some() {
            self.limits.count_in_force(tick);
        }
        self.limits.forget(tick, &self.hub);
    }

    /// Reports the states of the sinks and of the clock.
    pub(super) fn report(&mut self, status: &Status) {
        status.sinks(self.hub.states());
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
mod tests {
    use std::net::Ipv4Addr;

    use floodmark_dataflows::combine::Combiner;
    use floodmark_dataflows::graph::Options;
    use floodmark_dataflows::types::{Pair, Volume};

    use super::*;
    use crate::base::terminal::Interrupt;
    use crate::computation::EventTimeReached;
    use crate::output::difference::PublishedChanges;
    use crate::runner::time::EventTime;
    use crate::sink::Counts;
    use crate::source::{Filter, Source};

    /// Counts the rows that come at once.
    struct Rows<'a>(&'a mut Vec<usize>);

    impl Sink for Rows<'_> {
        fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
            Ok(())
        }

        fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
            self.0.push(closed.outputs.rows.values().map(Vec::len).sum());
            Ok(())
        }

        fn wants_totals(&self) -> bool {
            true
        }
    }

    /// A tick for each window, with records of so many hosts.
    struct Hosts(
        std::iter::Peekable<std::iter::Zip<std::ops::RangeFrom<u64>, std::vec::IntoIter<u32>>>,
    );

    impl Source for Hosts {
        fn demand(&mut self, _: EventTimeReached) -> Result<Demand, Failure> {
            let next = self.0.peek();
            Ok(next.map_or(Demand::Ended, |(number, _)| Demand::TickAt(number * 300_000)))
        }

        fn take_records(&mut self, _: u64) -> TickRecords {
            let Some((number, hosts)) = self.0.next() else { return TickRecords::default() };
            let (window, mut combiner) = (Window(number * 300), Combiner::new(1));
            for host in 0..hosts {
                combiner.add(window, Pair::V4(host.into(), Ipv4Addr::LOCALHOST), Volume::new(1, 1));
            }
            TickRecords {
                update_batches: combiner.take(),
                seen: [window].into(),
                greatest: Some(number * 300_000),
                ..TickRecords::default()
            }
        }
    }

    /// A great many windows with little in them are read at once, and large ones that follow are not.
    #[test]
    fn rows_of_totals_that_are_read_at_once_are_bounded() {
        const LARGE: u32 = 120_000;
        let sizes: Vec<u32> = std::iter::repeat_n(1, 300).chain([LARGE; 5]).collect();
        let mut read = Vec::new();
        let rows = timely::execute_directly(move |worker| {
            let options = Options::default();
            let lead = LeaderConfig {
                time: Box::new(EventTime::new(options.windows)),
                catalog: Catalog::new(),
                limits: Vec::new(),
                hub: Hub::new(Counts::new(&[]), vec![Box::new(Rows(&mut read))]),
                queries: None,
                final_query: None,
                leader: Arc::default(),
            };
            let shared = Shared {
                options,
                filter: Filter::default(),
                status: None,
                interrupt: Interrupt::default(),
                watch: None,
            };
            let hosts = Hosts((1..).zip(sizes).peekable());
            let ended = crate::runner::lead(worker, &shared, Box::new(hosts), lead);
            assert!(ended.is_complete && ended.failure.is_none(), "{ended:?}");
            assert_eq!(ended.last_tick, Some(305 * 300_000));
            read
        });
        assert_eq!(rows.iter().sum::<usize>(), 300 + 5 * LARGE as usize);
        assert!(rows.iter().all(|rows| *rows <= ROWS_AT_ONCE), "{rows:?}");
        assert!(rows.iter().filter(|rows| **rows > 0).count() <= 6, "{rows:?}");
    }
}
