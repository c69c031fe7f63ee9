//! The leader, which is the first worker of the first process: it begins ticks, edits limits, publishes all output,
//! and responds to questions.

use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::graph::Inputs;
use floodmark_dataflows::reads::Read;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::Change;
use metrics::gauge;

use super::clock::{Clock, Moment, Unsteady};
use super::gone::Gone;
use super::questions::{Asked, Pending};
use super::reports::Reports;
use super::shared::Shared;
use super::status::Status;
use super::ticks::{Announcement, TickRequest, Ticks};
use crate::base::date::format_ms;
use crate::base::error::{Exit, Failure, Outcome};
use crate::computation::{Computation, FIRST_ROWS, TickOutputs, WindowStates};
use crate::kafka::Start;
use crate::limits::catalog::{Catalog, LimitSet};
use crate::limits::feed::{self, Changes, Edits, Feed, Health};
use crate::output::{WriteError, reader_has_gone};
use crate::replay::Filter;
use crate::sink::{ClosedTick, Counts, Hub, Sink};

/// Maximum number of ticks in flight when another one begins. More would only make them older.
const TICKS_AHEAD: usize = 4;

/// Maximum number of ticks in flight when a tick for limit edits or questions begins, which does not wait for
/// records.
const EDITS_AHEAD: usize = 2 * TICKS_AHEAD;

/// Minimum spacing of ticks: the id of a tick is its millisecond, so that closer ones would outrun the clock.
const APART: Duration = Duration::from_millis(1);

/// Pause between two checks of a wall clock that is not set yet.
const UNSET_INTERVAL: Duration = Duration::from_millis(50);

/// Interval between two counts of the totals in memory.
const HELD_INTERVAL: Duration = Duration::from_secs(10);

/// Minimum interval between two counts of the limits in force.
const IN_FORCE_INTERVAL: Duration = Duration::from_secs(1);

/// The limits of a run, of one set.
pub struct Limits {
    /// The set.
    pub set: LimitSet,
    /// The rows in force at the start.
    pub rows: Edits,
    /// The feed of later edits; `None` if the limits do not change.
    pub changes: Option<Changes>,
    /// The health of the feed: whether it can read the limits.
    pub health: Health,
}

impl Limits {
    /// Opens a feed, and follows it from now on. It wakes the leader when the limits change.
    pub fn follow(
        options: &feed::Options,
        leader: &Arc<OnceLock<Thread>>,
    ) -> Result<Self, Failure> {
        let (feed, rows) = Feed::open(options)?;
        let health = feed.health();
        let leader = leader.clone();
        let wake = move || {
            if let Some(leader) = leader.get() {
                leader.unpark();
            }
        };
        Ok(Limits { set: options.set, rows, changes: Some(feed.follow(wake)?), health })
    }
}

/// Everything the leader needs at startup.
pub struct LeaderConfig {
    /// The limits of each set.
    pub limits: Vec<Limits>,
    /// The leader's thread, set once it runs, so that feeds and questions can unpark it.
    pub leader: Arc<OnceLock<Thread>>,
    /// Questions to the run; `None` if nobody can ask any.
    pub questions: Option<Receiver<Asked>>,
    /// The names and rows of limits, without rows at the start.
    pub catalog: Catalog,
    /// The consumers of closed ticks, beside those of the leader itself.
    pub sinks: Vec<Box<dyn Sink + Send>>,
    /// The interval of ticks.
    pub tick: Duration,
    /// The clock of the run.
    pub clock: Box<dyn Clock>,
    /// The position in the topic at which reading starts.
    pub start: Start,
    /// Whether to exit with [`Exit::Violations`] if a violation of a live limit is active at the end.
    pub fail_on_violation: bool,
}

/// The reason why the run shuts down.
#[derive(Debug)]
enum Ending {
    /// A worker or the user requested it.
    Asked,
    Failed(Failure),
}

pub(super) struct Leader {
    lead: LeaderConfig,
    catalog: Arc<Catalog>,
    hub: Hub<'static>,
    /// The windows, and the filter of the pairs that count.
    windows: Windows,
    filter: Filter,
    max_ahead_ms: u64,
    /// The last reading of the clock, and the reading that the newest announced tick had.
    moment: Moment,
    announced_moment: Moment,
    /// Time at which observation begins anew, for the next tick to mark.
    begun: Option<u64>,
    questions: Pending,
    /// Time at which the set of limits in force may change, in milliseconds; `None`: to be computed.
    next_date: Option<u64>,
    /// Rows that are no longer in force.
    gone: Gone,
    /// The newest tick announced, and the newest one that the leader's own worker has put its input into.
    announced: u64,
    heard: u64,
    next: Instant,
    /// When the newest tick was announced.
    began: Option<Instant>,
    /// Whether to begin the next tick early, since a worker requests it or the clock has stepped.
    wanted: bool,
    counted: Instant,
    in_force_counted: Option<Instant>,
    ending: Option<Ending>,
    /// Whether the first tick is still to come, and whether the last one was announced.
    first: bool,
    last: bool,
}

impl Leader {
    pub(super) fn new(mut lead: LeaderConfig, shared: &Shared) -> Self {
        let questions = Pending::new(lead.questions.take());
        let moment = lead.clock.read();
        let catalog = Arc::new(std::mem::take(&mut lead.catalog));
        let mut sinks = std::mem::take(&mut lead.sinks);
        sinks.push(Box::new(Reports::new()));
        let hub = Hub::new(Counts::new(catalog.sets()), sinks);
        let leader = Leader {
            lead,
            catalog,
            hub,
            windows: shared.options.windows,
            filter: shared.filter.clone(),
            max_ahead_ms: shared.max_ahead_ms,
            moment,
            announced_moment: moment,
            begun: None,
            questions,
            next_date: None,
            gone: Gone::default(),
            announced: 0,
            heard: 0,
            next: Instant::now(),
            began: None,
            wanted: false,
            counted: Instant::now(),
            in_force_counted: None,
            ending: None,
            first: true,
            last: false,
        };
        // Only one worker leads, and only once.
        let _ = leader.lead.leader.set(std::thread::current());
        leader
    }

    /// Whether rows of the start are still to be put in.
    pub(super) fn has_first_rows(&self) -> bool {
        self.lead.limits.iter().any(|limits| !limits.rows.is_empty())
    }

    /// Whether limit edits wait for the next tick.
    fn has_edits(&self) -> bool {
        let are_waiting = |changes: &Changes| changes.are_waiting();
        let waits = |limits: &Limits| limits.changes.as_ref().is_some_and(are_waiting);
        self.has_first_rows() || self.lead.limits.iter().any(waits)
    }

    /// Puts edits of limits into the current tick: at first all rows, some at a tick, then the edits that wait at
    /// the feeds. Only a tick takes these: while none can begin, the feeds merge edits, and hold no more than the
    /// newest rows.
    fn put_edits(&mut self, inputs: &mut Inputs) {
        // The last tick reads all remaining records, so it needs all limits.
        let mut first_max = if self.last { usize::MAX } else { FIRST_ROWS };
        for limits in &mut self.lead.limits {
            let first: Edits = limits.rows.drain(..first_max.min(limits.rows.len())).collect();
            first_max -= first.len();
            let changes = limits.changes.as_ref().filter(|_| limits.rows.is_empty());
            let later = changes.map(Changes::take).unwrap_or_default();
            if limits.rows.is_empty() {
                limits.rows = Edits::new();
            }
            if first.is_empty() && later.is_empty() {
                continue;
            }
            // Requests that are being answered keep the catalog of their tick.
            let catalog = Arc::make_mut(&mut self.catalog);
            catalog.reserve(limits.set, first.len() + limits.rows.len());
            for (row, diff) in first.into_iter().chain(later) {
                let version = catalog.version(limits.set, &row);
                catalog.hold(version.id, diff > 0);
                inputs.edit(version, diff);
                if diff < 0 {
                    self.gone.add(inputs.tick(), version.id);
                }
            }
            self.next_date = None;
        }
    }

    /// Returns the time until a tick may begin.
    pub(super) fn until_tick(&self) -> Duration {
        if self.waits_for_clock() {
            return UNSET_INTERVAL;
        }
        let apart =
            self.began.map_or(Duration::ZERO, |began| APART.saturating_sub(began.elapsed()));
        match self.wanted || self.has_edits() || self.ending.is_some() {
            true => apart,
            false => {
                let next = self.next.saturating_duration_since(Instant::now());
                apart.max(self.questions.until_tick().map_or(next, |asked| next.min(asked)))
            }
        }
    }

    /// Starts the shutdown: one more tick takes the records read so far.
    pub(super) fn end(&mut self) {
        self.ending.get_or_insert(Ending::Asked);
    }

    /// Starts the shutdown because of a failure. The first failure is the one reported at the end; later ones are
    /// logged.
    pub(super) fn fail(&mut self, failure: Failure) {
        match &self.ending {
            Some(Ending::Failed(first)) => {
                tracing::warn!("after \"{:#}\": {:#}", first.error, failure.error);
            }
            _ => self.ending = Some(Ending::Failed(failure)),
        }
    }

    /// Shuts down if a sink has failed.
    fn check(&mut self, published: Result<(), WriteError>) {
        match published {
            Ok(()) => {}
            Err(WriteError::Failed(failure)) => self.fail(failure),
            Err(WriteError::Closed) => self.fail(reader_has_gone("a sink")),
        }
    }

    /// Whether no tick begins since the wall clock is not set. A run that ends needs one more.
    fn waits_for_clock(&self) -> bool {
        self.ending.is_none() && matches!(self.moment.unsteady, Some(Unsteady::Unset { .. }))
    }

    /// Reads the clock. Workers hear at once of a step, since they know the time from ticks.
    fn read_clock(&mut self) {
        let before = std::mem::replace(&mut self.moment, self.lead.clock.read());
        let kind =
            |moment: &Moment| moment.unsteady.map(|unsteady| std::mem::discriminant(&unsteady));
        self.wanted |= kind(&before) != kind(&self.moment);
        let was_forward = matches!(before.unsteady, Some(Unsteady::Forward { .. }));
        let now = self.moment.now;
        // Records of the time that was leapt over may have been refused, as of the future.
        if was_forward && now > before.now.saturating_add(self.max_ahead_ms) {
            self.begun = Some(now);
        }
    }

    /// Reads the clock, questions and requests of workers, and begins a tick if it is time.
    pub(super) fn turn(&mut self, ticks: &mut Ticks, computation: &Computation<'_>) {
        self.read_clock();
        self.questions.hear();
        while let Some(request) = ticks.next_request() {
            match request {
                TickRequest::Tick => self.wanted = true,
                TickRequest::End => self.end(),
                TickRequest::Failure { exit, why } => self.fail(Failure::new(exit, anyhow!(why))),
            }
        }
        let polled = self.hub.poll();
        self.check(polled);
        if self.announced > self.heard || self.last || !self.until_tick().is_zero() {
            return;
        }
        if self.ending.is_some() {
            self.announce(ticks, true, true);
            return;
        }
        let ahead = computation.ticks_in_flight();
        if !self.hub.has_capacity() {
            return;
        }
        if self.began.is_some() && self.has_first_rows() {
            // No record is judged before all are known. Partitions are: they hold the watermark since the
            // first tick.
            if ahead == 0 {
                self.announce(ticks, false, false);
            }
            return;
        }
        let due = self.wanted || self.next <= Instant::now();
        let asked = self.has_edits() || self.questions.until_tick().is_some();
        if let Some(records) = next_tick(ahead, due, asked) {
            self.announce(ticks, records, false);
        }
    }

    fn announce(&mut self, ticks: &mut Ticks, records: bool, last: bool) {
        let Moment { now, horizon, undecided_until, .. } = self.moment;
        self.announced_moment = self.moment;
        self.announced = now.max(self.announced + 1);
        self.began = Some(Instant::now());
        let undecided = undecided_until > horizon.saturating_add(self.max_ahead_ms);
        let tick = self.announced;
        ticks.announce(Announcement { tick, now, horizon, undecided, records, last });
        if records {
            self.wanted = false;
            self.next = Instant::now() + self.lead.tick;
        }
        self.last = last;
    }

    /// Puts the leader's input into the current tick: the clock, edits of limits, and questions.
    pub(super) fn put(&mut self, now: u64, inputs: &mut Inputs) {
        self.heard = inputs.tick();
        inputs.mark(SourceProgress::Now { now, silence: self.announced_moment.silence });
        if let Some(begun) = self.begun.take() {
            let time = format_ms(begun).to_string();
            tracing::warn!(time, "min limits judge no window that starts before this time");
            inputs.mark(SourceProgress::Begun(begun));
        }
        if self.first {
            self.first = false;
            match self.lead.start {
                // Offsets that were committed are no option of a run: it has no state to go with them.
                Start::Earliest | Start::Committed => {}
                // All processes have started, and have determined their latest offsets.
                Start::Latest => inputs.mark(SourceProgress::Begun(now)),
                Start::At(time) => inputs.mark(SourceProgress::Begun(time)),
            }
        }
        self.put_edits(inputs);
        self.questions.put(inputs, &self.windows, &self.catalog);
        if self.counted.elapsed() >= HELD_INTERVAL {
            self.counted = Instant::now();
            inputs.read(Read::Held);
        }
    }

    /// Whether the sinks have capacity for more changes.
    pub(super) fn has_capacity(&mut self) -> bool {
        self.hub.has_capacity()
    }

    /// Publishes changes of a tick.
    pub(super) fn changes(&mut self, tick: u64, changes: &[Change]) {
        let published = self.hub.changes(tick, changes, &self.catalog);
        self.check(published);
    }

    /// Publishes a closed tick, and answers its questions; `windows` are those at its end.
    pub(super) fn close(&mut self, tick: u64, mut outputs: TickOutputs, windows: &WindowStates) {
        let amounts = std::mem::take(&mut outputs.amounts);
        self.questions.done(tick, amounts, windows, self.windows, &self.filter);
        // There may be very many, and they may change very often.
        let counted = self.in_force_counted.is_some_and(|at| at.elapsed() < IN_FORCE_INTERVAL);
        if self.next_date.is_none_or(|date| date <= tick) && !counted {
            self.count_in_force(tick);
        }
        let catalog = &self.catalog;
        let closed = self.hub.close(&ClosedTick { tick, outputs: &outputs, windows, catalog });
        self.check(closed);
        self.forget(tick);
    }

    /// Forgets the rows that no window is judged by any more, now that the outputs of all ticks up to this one are
    /// written.
    fn forget(&mut self, tick: u64) {
        if self.gone.is_empty() {
            return;
        }
        let named = self.hub.deferred_versions();
        self.gone.forget(tick, named.as_deref(), Arc::make_mut(&mut self.catalog));
    }

    /// Counts the limits in force, which are the same until a row changes or its date comes.
    fn count_in_force(&mut self, tick: u64) {
        self.in_force_counted = Some(Instant::now());
        let now = i128::from(tick) * 1_000_000;
        let catalog = &self.catalog;
        let (mut held, mut next) = (BTreeMap::new(), None::<i128>);
        for (limit, standing) in catalog.in_force(now) {
            let exists = standing.now.is_some_and(|now| now.value.is_some());
            *held.entry(catalog.set(limit)).or_insert(0) += u32::from(exists);
            next = standing.next.map(|row| row.effective).into_iter().chain(next).min();
        }
        for set in catalog.sets() {
            let held = held.get(set).copied().unwrap_or(0);
            gauge!("floodmark_limits", set.labels([("state", "in_force")])).set(f64::from(held));
        }
        let next_ms = |date: i128| u64::try_from(date.div_euclid(1_000_000) + 1).ok();
        self.next_date = Some(next.and_then(next_ms).unwrap_or(u64::MAX));
    }

    /// Tells how its sinks are.
    pub(super) fn tell(&mut self, status: &Status) {
        status.sinks(self.hub.states());
        status.clock(self.moment.unsteady);
    }

    /// Waits until everything published is delivered, and returns the outcome of the run.
    pub(super) fn finish(mut self, status: &Status) -> Outcome {
        let finished = self.hub.finish(&|sinks| status.sinks(sinks));
        self.check(finished);
        let (active, dropped) =
            (self.hub.counts().active(LimitSet::Live), self.hub.counts().dropped());
        if dropped > 0 {
            tracing::warn!(
                "{dropped} records came after their window had settled, and are not counted"
            );
        }
        for refusal in self.lead.limits.iter().filter_map(|limits| limits.health.refusal()) {
            tracing::error!("at the end {refusal}");
        }
        match self.ending {
            Some(Ending::Failed(failure)) => Err(failure),
            _ if self.lead.fail_on_violation && active > 0 => Ok(Exit::Violations),
            _ => Ok(Exit::Done),
        }
    }
}

/// The tick to be begun when so many are on their way, if one is: whether it takes records. `due`: there is one
/// to be begun for records; `asked`: there are edits of limits, or questions.
fn next_tick(ahead: usize, due: bool, asked: bool) -> Option<bool> {
    let with_records = due && ahead < TICKS_AHEAD;
    (with_records || asked && ahead < EDITS_AHEAD).then_some(with_records)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is done, and each tick that may be begun is.
    #[test]
    fn ticks_on_their_way_are_bounded_and_those_for_edits_by_more() {
        let begin = |due, asked| {
            let ticks = (0..).map_while(|ahead| next_tick(ahead, due, asked));
            let (records, edits): (Vec<_>, Vec<_>) = ticks.partition(|records| *records);
            (records.len(), edits.len())
        };
        assert_eq!(begin(false, false), (0, 0));
        assert_eq!(begin(true, false), (TICKS_AHEAD, 0));
        assert_eq!(begin(false, true), (0, EDITS_AHEAD));
        assert_eq!(begin(true, true), (TICKS_AHEAD, EDITS_AHEAD - TICKS_AHEAD));
    }
}
