//! The whole computation: inputs in, named outputs out.

use differential_dataflow::input::{Input, InputSession};
use differential_dataflow::{AsCollection, VecCollection};
use std::cell::RefCell;
use std::rc::Rc;
use timely::dataflow::operators::vec::input::Handle as InputHandle;
use timely::dataflow::operators::vec::{Input as _, Map};
use timely::dataflow::operators::{Concatenate, Exchange, Probe, probe};
use timely::dataflow::{Scope, StreamVec};

use crate::addresses::Addresses;
use crate::broadcast::broadcast;
use crate::changes::{ChangeStreams, Rules, changes};
use crate::clock::{ClockStreams, SourceProgress, WindowEvent, clock};
use crate::combine::UpdateBatch;
use crate::control::ControlEvent;
use crate::delivery::{CHANGES_AHEAD, Consumer, Notice, Notices, deliver};
use crate::emitted::{Ending, TotalUpdate};
use crate::floors::{Floors, floors};
use crate::limits::{Schedule, rules};
use crate::monitored::{Rollup, ScopeChange};
use crate::reads::{Cancelled, EmitTotals, Read, RequestId, Response};
use crate::reports::{Late, Saturated};
use crate::rollups::rollups;
use crate::shared::{Shared, TrafficOptions};
use crate::spans::Existing;
use crate::threshold_join::threshold_join;
use crate::time::{Phase, Time, Timed, Windows};
use crate::top::{Candidate, Ranked, TopQuery, top};
use crate::traffic::traffic;
use crate::types::{Change, Updates, Version, Violation};

/// The options of the computation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The rules of time.
    pub windows: Windows,
    /// The updates of standing violations that are published.
    pub updates: Updates,
    /// The ranking of each window's entities that is emitted when the window settles, if any.
    pub top: Option<TopQuery>,
    /// The moment at which the totals of a window are emitted as a [`Response`] without a request; `None`: never.
    pub emit_totals: Option<EmitTotals>,
    /// Changes that may wait for a consumer that [consumes](Inputs::consumed) them; `None`: any number.
    pub changes_ahead: Option<usize>,
    /// Whether nobody reads [`Outputs::violations`]: there are none then.
    pub without_violations: bool,
}

/// The inputs of one worker.
///
/// Every worker ends its rounds or drops its inputs. Records, and the windows they fall into, may enter at
/// any of them; everything else at one. It begins with tick 0.
///
/// All workers agree on the progress of each round, and a round has any number of ticks: the outputs of a tick do
/// not depend on its round.
pub struct Inputs {
    batches: RoundInput<UpdateBatch>,
    marks: RoundInput<SourceProgress>,
    versions: InputSession<Time, Version, isize>,
    control_events: RoundInput<ControlEvent>,
    consumer: Consumer,
    cancelled: Cancelled,
    schedule: Schedule,
    tick: u64,
    tick_ended: bool,
    round_ended: bool,
}

/// An input that sends all of a round at its end.
///
/// When an input is flushed, an exchange behind it forwards its last records only if the input has sent some since
/// it was scheduled last. Records sent before the worker stepped could stay in the exchange for ever.
pub struct RoundInput<D: Clone + 'static> {
    handle: InputHandle<Time, Timed<D>>,
    round: Vec<Timed<D>>,
}

impl<D: Clone + 'static> RoundInput<D> {
    /// Sends by this handle.
    pub fn new(handle: InputHandle<Time, Timed<D>>) -> Self {
        RoundInput { handle, round: Vec::new() }
    }

    /// Adds records of the round, each with its time.
    pub fn extend(&mut self, records: impl IntoIterator<Item = Timed<D>>) {
        self.round.extend(records);
    }

    /// Ends the round: what follows is of this time, or later.
    pub fn advance_to(&mut self, time: Time) {
        self.handle.send_batch(&mut self.round);
        self.round.clear();
        self.handle.advance_to(time);
    }
}

/// The last round ends with its input.
impl<D: Clone + 'static> Drop for RoundInput<D> {
    fn drop(&mut self) {
        self.handle.send_batch(&mut self.round);
    }
}

/// The outputs of one worker. Streams are on the first worker alone if not said otherwise, collections on the
/// workers on which their records arise. A message may have an earlier time than its contents, which have times of
/// their own.
pub struct Outputs<'scope> {
    /// Changes of violations, in the tick at which they happen, in the order of windows, limits and
    /// entities.
    pub changes: StreamVec<'scope, Time, Timed<Change>>,
    /// The violations that stand, as they were published last, each on the worker that holds its total.
    pub violations: VecCollection<'scope, Time, Violation, isize>,
    /// The rows of limits that have taken effect, on the worker at which they entered.
    pub versions: VecCollection<'scope, Time, Version, isize>,
    /// The windows that exist.
    pub existing: VecCollection<'scope, Time, Existing, isize>,
    /// The greatest entities of windows, in the tick in which they settle.
    pub top: StreamVec<'scope, Time, Timed<Ranked>>,
    /// Chunks of the responses to requests, and the rows of windows that settle or retire. Those of a
    /// [`Read::Part`] are on the workers that hold the totals.
    pub responses: StreamVec<'scope, Time, Timed<Response>>,
    /// Counts of the records that came after their window had closed.
    pub late: StreamVec<'scope, Time, Timed<Late>>,
    /// Totals that have reached the end of 64 bits, and stay there.
    pub saturated: StreamVec<'scope, Time, Timed<Saturated>>,
    /// Events of time and windows, on every worker and not on the first one alone.
    pub clock: StreamVec<'scope, Time, Timed<WindowEvent>>,
    /// The marks of each tick: together with records and rows of limits, all that a tick depends on.
    pub marks: StreamVec<'scope, Time, Timed<SourceProgress>>,
    /// The state of the clock at the ticks that [ask for it](SourceProgress::Save), as marks that bring it about.
    pub clock_states: StreamVec<'scope, Time, Timed<Vec<SourceProgress>>>,
}

impl Outputs<'_> {
    /// Attaches a probe to the outputs that the computation derives: all but `versions`.
    fn probe_with(self, probe: &probe::Handle<Time>) -> Self {
        Outputs {
            changes: self.changes.probe_with(probe),
            violations: self.violations.inner.probe_with(probe).as_collection(),
            versions: self.versions,
            existing: self.existing.inner.probe_with(probe).as_collection(),
            top: self.top.probe_with(probe),
            responses: self.responses.probe_with(probe),
            late: self.late.probe_with(probe),
            saturated: self.saturated.probe_with(probe),
            clock: self.clock.probe_with(probe),
            marks: self.marks.probe_with(probe),
            clock_states: self.clock_states.probe_with(probe),
        }
    }
}

impl Inputs {
    /// The current tick.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// Accepts records that the current tick counts.
    pub fn batches(&mut self, batches: impl IntoIterator<Item = UpdateBatch>) {
        let time = Time::new(self.tick, Phase::Data);
        self.batches.round.extend(batches.into_iter().map(|batch| (batch, time)));
    }

    /// Reports the progress of a source to the clock, in the current tick.
    pub fn mark(&mut self, mark: SourceProgress) {
        self.marks.round.push((mark, Time::new(self.tick, Phase::Data)));
    }

    /// Accepts an edit of the rows of limits, read in the current tick. A row whose date is to come waits for it.
    pub fn edit(&mut self, version: Version, diff: isize) {
        if let Some((version, diff)) = self.schedule.edit(self.tick, version, diff) {
            self.versions.update_at(version, Time::new(self.tick, Phase::Rows), diff);
        }
    }

    /// Begins (+1) or ends (-1) the need for a rollup of each window.
    pub fn view(&mut self, rollup: Rollup, diff: isize) {
        let at = Time::new(self.tick, Phase::Rows);
        self.control_events.round.push((ControlEvent::View(rollup, diff), at));
    }

    /// Requests a read of the state at the end of the current tick; [`Outputs::responses`] has the response. A request
    /// may have several reads in one tick.
    pub fn read(&mut self, request: RequestId, read: Read) {
        self.control_events
            .round
            .push((ControlEvent::Read(request, read), Time::new(self.tick, Phase::Read)));
    }

    /// Drops the rest of this worker's response to a request, which nobody wants any more. To be called on every
    /// worker, at any moment.
    pub fn cancel(&mut self, request: RequestId) {
        self.cancelled.add(request);
    }

    /// Forgets that a request was cancelled, when its tick is complete.
    pub fn forget_cancelled(&mut self, request: RequestId) {
        self.cancelled.forget(request);
    }

    /// Reports that the consumer of [`Outputs::changes`] has consumed so many.
    pub fn consumed(&mut self, changes: usize) {
        self.consumer.consumed(changes);
    }

    /// Whether the computation waits for the consumer of changes. Every worker learns this, with a short delay.
    pub fn consumer_waits(&self) -> bool {
        self.consumer.holds_up.get()
    }

    /// The next date that a row of limits waits for, in milliseconds.
    pub fn next_date(&self) -> Option<u64> {
        self.schedule.next_date()
    }

    /// The number of rows of limits that wait for a date which has come by `tick`.
    pub fn count_due(&self, tick: u64) -> usize {
        self.schedule.count_due(tick)
    }

    /// Ends the current tick. The caller enters nothing more until it begins a later tick. The outputs of the tick
    /// follow when its round ends.
    pub fn end_tick(&mut self) {
        self.end_tick_with(usize::MAX);
    }

    /// Ends the current tick, in which at most `rows` whose date has come take effect; the others do at a later
    /// tick. For ticks before the first window, where the tick of effect makes no difference.
    pub fn end_tick_with(&mut self, rows: usize) {
        if std::mem::replace(&mut self.tick_ended, true) {
            return;
        }
        let by_date = Time::new(self.tick, Phase::Dates);
        for (version, diff) in self.schedule.due(self.tick).take(rows) {
            self.versions.update_at(version, by_date, diff);
        }
    }

    /// Begins a later tick of the round, or of the next round if the round has ended; ends the current tick, if it
    /// has not ended yet.
    ///
    /// # Panics
    /// If it is not later.
    pub fn begin_tick(&mut self, tick: u64) {
        assert!(tick > self.tick, "tick {tick} is not after tick {}", self.tick);
        self.end_tick();
        (self.tick, self.tick_ended) = (tick, false);
        if std::mem::replace(&mut self.round_ended, false) {
            self.advance_handles(tick);
        }
    }

    /// Ends the current tick and its round: the workers compute the outputs of its ticks.
    pub fn end_round(&mut self) {
        self.end_tick();
        if std::mem::replace(&mut self.round_ended, true) {
            return;
        }
        self.advance_handles(self.tick + 1);
    }

    fn advance_handles(&mut self, tick: u64) {
        let time = Time::start(tick);
        self.batches.advance_to(time);
        self.marks.advance_to(time);
        self.versions.advance_to(time);
        self.versions.flush();
        self.control_events.advance_to(time);
    }

    /// Ends the current tick and its round, and begins a later tick.
    ///
    /// # Panics
    /// If it is not later.
    pub fn advance_to(&mut self, tick: u64) {
        self.end_round();
        self.begin_tick(tick);
    }
}

/// Builds the computation on one worker.
///
/// # Examples
/// ```
/// use floodmark_dataflows::clock::SourceProgress;
/// use floodmark_dataflows::combine::Combiner;
/// use floodmark_dataflows::graph::{self, Options};
/// use floodmark_dataflows::time::{END_OF_INPUT, Window};
/// use floodmark_dataflows::types::{Event, LimitId, Pair, Version, Volume};
/// use timely::dataflow::operators::Inspect;
/// use timely::dataflow::operators::capture::{Capture, Extract};
///
/// let changes = timely::execute_directly(|worker| {
///     let (mut inputs, changes, _probe) = worker.dataflow(|scope| {
///         let (inputs, outputs, probe) = graph::build(scope, Options::default());
///         (inputs, outputs.changes.capture(), probe)
///     });
///     // No pair may have more than 100 bytes in 5 minutes.
///     inputs.edit(Version { limit: LimitId(1), value: Some(100), ..Version::default() }, 1);
///     for (tick, bytes) in [(1000, 60), (2000, 60)] {
///         inputs.advance_to(tick);
///         let mut combiner = Combiner::new(1);
///         let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
///         combiner.add(Window(0), pair, Volume::new(bytes, 1));
///         inputs.batches(combiner.take());
///         inputs.mark(SourceProgress::Seen(Window(0)));
///         inputs.mark(SourceProgress::Watermark(tick));
///     }
///     inputs.advance_to(300_000);
///     inputs.mark(SourceProgress::Watermark(END_OF_INPUT));
///     changes
/// });
/// let said: Vec<_> = changes
///     .extract()
///     .into_iter()
///     .flat_map(|(_, changes)| changes)
///     .map(|(change, time)| (time.tick, change.event, change.violation.volume.bytes, change.settled))
///     .collect();
/// assert_eq!(said, [(2000, Event::Raised, 120, false), (300_000, Event::Updated, 120, true)]);
/// ```
pub fn build<'scope>(
    scope: Scope<'scope, Time>,
    options: Options,
) -> (Inputs, Outputs<'scope>, probe::Handle<Time>) {
    let (inputs, outputs, probe) = build_unprobed(scope, options);
    (inputs, outputs.probe_with(&probe), probe)
}

/// Builds the computation as [`build`] does, but leaves it to the caller to attach the probe to all outputs,
/// behind the operators that consume them: the number of an address is reused once no output may resolve it any
/// more.
pub fn build_unprobed<'scope>(
    scope: Scope<'scope, Time>,
    options: Options,
) -> (Inputs, Outputs<'scope>, probe::Handle<Time>) {
    let (batches_input, batches) = scope.new_input();
    let (marks_input, marks) = scope.new_input();
    let (versions_input, versions) = scope.new_collection();
    let (control_events_input, control_events) = scope.new_input();
    let consumer = Consumer::default();
    let downstream = probe::Handle::new();
    let incoming = Incoming { batches, marks, versions, control_events };
    let cancelled = Cancelled::default();
    let shared = Shared {
        addresses: Rc::new(RefCell::new(Addresses::default())),
        downstream: downstream.clone(),
        cancelled: cancelled.clone(),
        index: scope.index(),
        peers: scope.peers(),
    };
    let outputs = compute(scope, incoming, options, shared, &consumer);
    let inputs = Inputs {
        batches: RoundInput::new(batches_input),
        marks: RoundInput::new(marks_input),
        versions: versions_input,
        control_events: RoundInput::new(control_events_input),
        consumer,
        cancelled,
        schedule: Schedule::default(),
        tick: 0,
        tick_ended: false,
        round_ended: false,
    };
    (inputs, outputs, downstream)
}

/// The inputs as streams.
struct Incoming<'scope> {
    batches: StreamVec<'scope, Time, Timed<UpdateBatch>>,
    marks: StreamVec<'scope, Time, Timed<SourceProgress>>,
    versions: VecCollection<'scope, Time, Version, isize>,
    /// Views and reads of the tables.
    control_events: StreamVec<'scope, Time, Timed<ControlEvent>>,
}

fn compute<'scope>(
    scope: Scope<'scope, Time>,
    incoming: Incoming<'scope>,
    options: Options,
    shared: Shared,
    consumer: &Consumer,
) -> Outputs<'scope> {
    let Incoming { batches, marks, versions, control_events } = incoming;

    // On one worker: windows, and the rules of limits. Derived before they are broadcast: an exchange by key
    // of something that every worker has would multiply it.
    let ClockStreams { windows: existing, events: clock, marks, states: clock_states } =
        clock(marks, options.windows);
    // Rows are sent as they are entered: an operator stands between their input and an exchange (`RoundInput`).
    let rows = versions.clone().map(|version| version);
    let rules = rules(rows, clock.clone(), options.windows);

    // On every worker.
    let rules = broadcast(rules.inner).as_collection();
    let Floors { thresholds, rulings, of_pairs, of_rollups } = floors(rules, options.updates);
    let clock = clock.map(|(event, time)| (ControlEvent::WindowEvent(event), time));
    let control_events = broadcast(scope.concatenate([control_events, clock]));
    let clock = control_events.clone().flat_map(|(control_event, time)| match control_event {
        ControlEvent::WindowEvent(event) => Some((event, time)),
        _ => None,
    });

    // On the worker that holds the pair or the entity.
    let tables = tables(scope, batches, [of_pairs, of_rollups], control_events, &shared, options);
    let judged = threshold_join(tables.totals.as_collection(), thresholds);
    let settings = Rules {
        windows: options.windows,
        updates: options.updates,
        parts_ahead: options.changes_ahead.unwrap_or(CHANGES_AHEAD),
        without_violations: options.without_violations,
    };
    let (notices_input, notices) = scope.new_input::<(usize, Notice)>();
    let notices = Notices { notices, consumer_waits: consumer.holds_up.clone() };
    let ChangeStreams { parts, violations } =
        changes(judged, tables.endings, rulings, clock.clone(), notices, shared, settings);
    let changes = deliver(parts, notices_input, options.changes_ahead, consumer);
    let top = match options.top {
        Some(query) => top(tables.top, clock.clone(), query),
        None => scope.concatenate([]),
    };
    Outputs {
        changes,
        violations,
        versions,
        existing,
        top,
        responses: tables.responses.exchange(|(response, _)| response.worker as u64),
        late: tables.late.exchange(|_| 0),
        saturated: tables.saturated.exchange(|_| 0),
        clock,
        marks,
        clock_states,
    }
}

/// The outputs of the table of pairs and of those of rollups.
struct Tables<'scope> {
    totals: StreamVec<'scope, Time, TotalUpdate>,
    endings: StreamVec<'scope, Time, Timed<Ending>>,
    top: StreamVec<'scope, Time, Timed<Candidate>>,
    responses: StreamVec<'scope, Time, Timed<Response>>,
    late: StreamVec<'scope, Time, Timed<Late>>,
    saturated: StreamVec<'scope, Time, Timed<Saturated>>,
}

/// Keeps the totals of pairs and of rollups. The changes of monitored scopes are those of pairs, and of rollups.
fn tables<'scope>(
    scope: Scope<'scope, Time>,
    batches: StreamVec<'scope, Time, Timed<UpdateBatch>>,
    [of_pairs, of_rollups]: [StreamVec<'scope, Time, Timed<ScopeChange>>; 2],
    control_events: StreamVec<'scope, Time, Timed<ControlEvent>>,
    shared: &Shared,
    Options { windows, top, emit_totals, updates, .. }: Options,
) -> Tables<'scope> {
    let options = TrafficOptions { windows, top, emit_totals, updates };
    let of_all = scope.concatenate([of_pairs, of_rollups.clone()]);
    let traffic = traffic(batches, of_all, control_events.clone(), shared.clone(), options);
    let rollups = rollups(traffic.rollups, of_rollups, control_events, shared.clone(), options);
    Tables {
        totals: scope.concatenate([traffic.totals, rollups.totals]),
        endings: scope.concatenate([traffic.endings, rollups.endings]),
        top: scope.concatenate([traffic.top, rollups.top]),
        responses: scope.concatenate([traffic.responses, rollups.responses]),
        late: traffic.late,
        saturated: scope.concatenate([traffic.saturated, rollups.saturated]),
    }
}
