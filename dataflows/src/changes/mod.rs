//! Changes of violations at each tick: raised, updated, cleared, and why.
//!
//! A tick is a sequence of phases, and the operator knows the violations after each of them. A violation that is
//! active before and after the tick may be `updated`; one that is active only after it is `raised`, and one that
//! is active only before it is `cleared`, whatever happened in between. The first phase that raised or cleared the
//! violation is the reason: rows of limits were read, a date came, records were counted, or the window closed.
//!
//! There may be as many changes as there are totals. So a tick is worked on in steps of a few
//! milliseconds, window by window and in the order in which changes are published, and what is ready goes
//! to the first worker in [parts](crate::delivery) before the rest is made.

mod active;
mod endings;
mod judged;
mod published;
mod silence;
mod transition;
mod versions;

use std::collections::{BTreeMap, VecDeque};

use differential_dataflow::{AsCollection, VecCollection};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};

use self::active::{ActiveViolation, ActiveViolations, Id};
use self::endings::Endings;
use self::judged::{Merge, Runs, Step};
use self::published::{Published, ViolationUpdate};
use self::silence::{Moment, NOTHING, Silence, SilentChanges};
use self::transition::Transition;
use self::versions::{ChangedLimits, RulingsOfTick, Versions};
use crate::clock::WindowEvent;
use crate::delivery::{Allowance, Notice, Notices, Part};
use crate::emitted::Ending;
use crate::folds::owner;
use crate::limits::{Judge, Ruling};
use crate::monitored::{MonitoredScope, Total};
use crate::pending::{COPY_COST, Fuel, SteppedState};
use crate::ranges::WindowSet;
use crate::shared::Shared;
use crate::time::{Bounds, Phase, Time, Timed, Window, WindowRange, Windows};
use crate::types::{Change, Event, LimitId, Reason, Updates, Violation};
use crate::wiring::{Place, Wiring};

/// A violation as the worker that holds its total knows it.
pub(crate) type Judged = (MonitoredScope, (Window, Total), LimitId);

/// Cost of following a violation through a tick.
const FOLLOW_COST: usize = 48;

#[derive(Default)]
struct Work {
    judged: BTreeMap<Window, Runs>,
    endings: Endings,
    rulings: Vec<(Ruling, Time, isize)>,
    clock: Vec<WindowEvent>,
}

/// The tick that is worked on.
#[derive(Default)]
struct Tick {
    tick: u64,
    /// The states of windows after the tick before.
    bounds_before: Bounds,
    settles: WindowSet,
    changed: ChangedLimits,
    endings: Endings,
    /// Rulings that leave with the last window that they judged.
    retired: Vec<(Ruling, isize)>,
    /// The changes of silent windows.
    silence: SilentChanges,
    /// Whether a part of the tick was sent, so that the first worker waits for the last part.
    is_begun: bool,
}

/// The windows in which the clock changes something at a tick.
#[derive(Default)]
struct ClockChanges {
    retired: Vec<WindowRange>,
    /// Windows that were silent and have records now.
    observed: Vec<WindowRange>,
    /// Windows that are silent from now on.
    silent: Vec<WindowRange>,
}

enum Job {
    /// Finds the violations of a window that stand and may have to be published anew, and follows them and
    /// all that were judged anew through the tick.
    Window { window: Window, rescan: Option<Id>, merge: Merge, steps: Vec<Step> },
    /// Publishes the changes of silent windows before `until`.
    Silence { until: Window },
    /// Drops the violations of windows.
    Retire { windows: WindowRange },
    /// The end of the tick.
    End,
}

/// The rules of publishing.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) windows: Windows,
    pub(crate) updates: Updates,
    /// Changes of one worker that may be on their way to the first one.
    pub(crate) parts_ahead: usize,
    /// Whether nobody reads the violations that stand.
    pub(crate) without_violations: bool,
}

struct Changes {
    shared: Shared,
    windows: Windows,
    updates: Updates,
    bounds: Bounds,
    /// Windows that were not observed from their start on.
    partial: WindowSet,
    versions: Versions,
    standing: ActiveViolations,
    /// The violations of silent windows.
    silence: Silence,
    /// The violations as they were published last; `None` if nobody reads them.
    published: Option<Published>,
    /// The updates of these that are not sent yet.
    published_updates: Vec<ViolationUpdate>,
    tick: Tick,
    /// Changes of the tick that are ready.
    ready: Vec<Change>,
    parts: Vec<Timed<Part>>,
    allowance: Allowance,
    /// A buffer for [`Transition::through`].
    now: Vec<((MonitoredScope, Total), isize)>,
}

impl Changes {
    fn new(shared: Shared, rules: Rules) -> Self {
        let Rules { windows, updates, parts_ahead, without_violations } = rules;
        Changes {
            shared,
            windows,
            updates,
            bounds: Bounds::default(),
            partial: WindowSet::default(),
            versions: Versions::default(),
            standing: ActiveViolations::default(),
            silence: Silence::default(),
            published: (!without_violations).then(Published::default),
            published_updates: Vec::new(),
            tick: Tick::default(),
            ready: Vec::new(),
            parts: Vec::new(),
            allowance: Allowance::new(parts_ahead),
            now: Vec::new(),
        }
    }

    /// The reason of a change that a phase makes in a window.
    fn reason(&self, phase: Phase, window: Window) -> Reason {
        match phase {
            Phase::Rows => Reason::LimitChange,
            Phase::Data if self.tick.bounds_before.closed(window) => Reason::LateData,
            Phase::Data => Reason::Data,
            _ => Reason::Schedule,
        }
    }

    /// The update, if any, of what stood before the tick and stands after it.
    fn updated(
        &mut self,
        (window, id): (Window, Id),
        before: &ActiveViolation,
        after: &ActiveViolation,
    ) -> Option<Reason> {
        let was_settled = self.tick.bounds_before.settled(window);
        let version_counts = was_settled || self.updates >= Updates::Limit;
        if version_counts && before.version != after.version {
            let after_rows = self.versions.after_rows(&self.tick.changed, id.limit, window);
            let by_rows = after_rows != Some(before.version);
            return Some(if by_rows { Reason::LimitChange } else { Reason::Schedule });
        }
        if self.tick.settles.contains(window) {
            return Some(Reason::Schedule);
        }
        let moved = before.total(id).amount != after.total(id).amount;
        (self.updates == Updates::Tick && moved).then(|| self.reason(Phase::Data, window))
    }

    /// Finds violations of a window that stand and may have to be published anew, from an id on: all if the
    /// window settles, else those of limits whose versions changed. `true` when all are found.
    fn rescan(
        &self,
        window: Window,
        from: &mut Option<Id>,
        merge: &mut Merge,
        fuel: &mut Fuel,
    ) -> bool {
        let settles = self.tick.settles.contains(window);
        let limits = &self.tick.changed.limits;
        while let Some(at) = *from {
            let mut next = None;
            for (id, standing) in self.standing.range_from(window, at) {
                fuel.spend(COPY_COST);
                if fuel.is_spent() {
                    *from = Some(id);
                    return false;
                }
                if settles || limits.contains(&id.limit) {
                    let total = standing.total(id);
                    merge.push(Step::new(standing.monitored, total, id.limit, Phase::Rows, 0));
                } else {
                    next = limits.range(id.limit..).next().map(|limit| Id::first(*limit));
                    break;
                }
            }
            *from = next;
        }
        true
    }

    /// Publishes the change of one violation, and updates the violations that stand. `false` if the totals with
    /// which violations may end have to be indexed first.
    fn follow(&mut self, window: Window, steps: &[Step], fuel: &mut Fuel) -> bool {
        let id = steps[0].id();
        let before = self.standing.get(window, id);
        let stood = before.map(|before| (before.monitored, before.total(id)));
        let transition = Transition::through(stood, steps, &mut self.now);
        match (before, transition.after) {
            (None, None) => {}
            (None, Some((monitored, total))) => {
                let phase = transition.turned.expect("it did not stand before");
                let judge = self.versions.version(id.limit, window);
                let judge = judge.expect("what stands is judged by a version");
                let kind = (Event::Raised, self.reason(phase, window));
                self.publish(kind, (window, id), monitored, total, Some(judge));
                let standing = ActiveViolation::new(monitored, total, judge.version);
                self.standing.insert(window, id, standing);
            }
            (Some(_), None) => {
                let phase = transition.turned.expect("it stood before");
                let (monitored, total) = transition.before_turn.expect("it stood before");
                let endings = &mut self.tick.endings;
                if !endings.index(phase, fuel) {
                    return false;
                }
                let total = endings.find(phase, monitored, window, total.key).unwrap_or(total);
                let kind = (Event::Cleared, self.reason(phase, window));
                let judge = self.versions.version(id.limit, window);
                self.publish(kind, (window, id), monitored, total, judge);
                self.standing.remove(window, id);
            }
            (Some(before), Some((monitored, total))) => {
                let judge = self.versions.version(id.limit, window);
                let judge = judge.expect("what stands is judged by a version");
                let after = ActiveViolation::new(monitored, total, judge.version);
                if let Some(reason) = self.updated((window, id), &before, &after) {
                    let kind = (Event::Updated, reason);
                    self.publish(kind, (window, id), monitored, total, Some(judge));
                }
                if before != after {
                    self.standing.insert(window, id, after);
                }
            }
        }
        true
    }

    /// Publishes a change. A violation whose limit was removed keeps the bound and the metric it had.
    fn publish(
        &mut self,
        (event, reason): (Event, Reason),
        (window, id): (Window, Id),
        monitored: MonitoredScope,
        total: Total,
        judge: Option<Judge>,
    ) {
        let entity = self.shared.addresses.borrow().entity(id.per, id.key());
        let volume = total.volume(monitored.metric);
        let change = Change {
            event,
            reason,
            violation: Violation { limit: id.limit, window, entity, volume },
            bound: judge.map_or(monitored.bound, |judge| judge.bound),
            metric: judge.map_or(monitored.metric, |judge| judge.metric),
            version: judge.map(|judge| judge.version),
            settled: self.bounds.settled(window),
            partial: self.partial.contains(window),
        };
        if let Some(published) = &mut self.published {
            published.apply(self.tick.tick, id, &change, &mut self.published_updates);
        }
        self.ready.push(change);
    }

    /// Goes on with a window. `true` when all of it is published.
    fn window(
        &mut self,
        window: Window,
        (rescan, merge, steps): (&mut Option<Id>, &mut Merge, &mut Vec<Step>),
        fuel: &mut Fuel,
    ) -> bool {
        if !self.rescan(window, rescan, merge, fuel) {
            return false;
        }
        let addresses = self.shared.addresses.clone();
        if !merge.sort(&addresses.borrow(), fuel) {
            return false;
        }
        while self.has_capacity(fuel) {
            if steps.is_empty() {
                merge.next(&addresses.borrow(), steps);
            }
            if steps.is_empty() {
                return true;
            }
            fuel.spend(FOLLOW_COST * steps.len());
            if self.follow(window, steps, fuel) {
                steps.clear();
            }
        }
        false
    }

    /// Whether another change may be made in this step.
    fn has_capacity(&self, fuel: &mut Fuel) -> bool {
        if !self.allowance.allows(self.ready.len()) {
            // The first worker has to take some before.
            fuel.exhaust();
        }
        !fuel.is_spent()
    }

    /// Ends the silence of windows to which records come.
    fn end_silence(
        &mut self,
        observed: &[WindowRange],
        changed: &ChangedLimits,
        judged: &mut BTreeMap<Window, Runs>,
    ) {
        for windows in observed {
            let window = windows.from;
            if self.owns_total(window) {
                let judge = |limit| self.versions.judge(limit, window);
                let to = (&mut self.standing, judged.entry(window).or_default());
                self.silence.end(*windows, &changed.broken, judge, to);
            } else {
                self.silence.retire(*windows);
            }
        }
    }

    /// Whether this worker holds the totals of a window.
    fn owns_total(&self, window: Window) -> bool {
        owner(window, self.shared.peers) == self.shared.index as u64
    }

    /// Continues to publish the changes of silent windows before `until`. `true` when all are published.
    fn silence(&mut self, until: Window, fuel: &mut Fuel) -> bool {
        while self.has_capacity(fuel) {
            let Some((window, piece)) = self.tick.silence.next(until, self.windows) else {
                return true;
            };
            if !self.owns_total(window) {
                fuel.spend(1);
                self.tick.silence.skip();
                continue;
            }
            let judge = self.versions.version(piece.limit, window);
            let kind = (piece.event, piece.reason);
            self.publish(kind, (window, silence::id(piece.limit)), piece.monitored, NOTHING, judge);
            fuel.spend(FOLLOW_COST);
        }
        false
    }

    /// Sends the changes that are ready to the first worker.
    fn send(&mut self, time: Time, is_last: bool) {
        let changes = std::mem::take(&mut self.ready);
        self.allowance.spend(changes.len());
        if !changes.is_empty() || self.tick.is_begun == is_last {
            self.parts.push((Part { worker: self.shared.index, is_last, changes }, time));
            self.tick.is_begun = true;
        }
    }

    /// Applies the events of the clock, and returns the windows in which they change something.
    fn advance_clock(&mut self, events: Vec<WindowEvent>, tick: &mut Tick) -> ClockChanges {
        let mut changes = ClockChanges::default();
        for event in events {
            match event {
                WindowEvent::Bounds(bounds) => self.bounds = bounds,
                WindowEvent::EventTime { .. } => {}
                WindowEvent::Settled(windows) => tick.settles.insert(windows),
                WindowEvent::Retired(windows) => changes.retired.push(windows),
                WindowEvent::Observed(windows) => changes.observed.push(windows),
                WindowEvent::Silent(windows) => changes.silent.push(windows),
                WindowEvent::Partial { windows, partial: true } => self.partial.insert(windows),
                WindowEvent::Partial { windows, partial: false } => self.partial.remove(windows),
            }
        }
        changes.observed.retain(|windows| self.silence.contains(windows.from));
        changes
    }

    /// Judges silent windows anew by the rulings of a tick, and those that are silent from now on.
    fn judge_silence(
        &mut self,
        tick: &mut Tick,
        rulings: [&[(Ruling, isize)]; 2],
        silent: &[WindowRange],
    ) {
        let moment = Moment {
            updates: self.updates,
            bounds_before: tick.bounds_before,
            settles: &tick.settles,
        };
        let broken = |limit| self.versions.broken(limit);
        tick.silence = self.silence.tick(&moment, &tick.changed.broken, broken, silent);
        for rulings in rulings {
            self.silence.follow(rulings, |limit| self.versions.is_broken(limit));
        }
    }

    /// Adds the jobs of all windows in which violations were judged anew, or are active and may have to be published
    /// anew.
    fn plan_windows(
        &self,
        tick: &Tick,
        mut windows: BTreeMap<Window, Runs>,
        jobs: &mut VecDeque<Job>,
    ) {
        let first_changed = tick.changed.limits.first().copied();
        let ranges = match first_changed {
            Some(_) => vec![WindowRange::ALL],
            None => tick.settles.within(WindowRange::ALL).collect(),
        };
        for window in ranges.into_iter().flat_map(|windows| self.standing.windows(windows)) {
            windows.entry(window).or_default();
        }
        for (window, runs) in windows {
            let rescan = match tick.settles.contains(window) {
                true => Some(Id::first(LimitId(0))),
                false => first_changed.map(Id::first),
            };
            jobs.push_back(Job::Silence { until: window });
            let merge = Merge::new(runs);
            jobs.push_back(Job::Window { window, rescan, merge, steps: Vec::new() });
        }
        jobs.push_back(Job::Silence { until: WindowRange::ALL.until });
    }
}

impl SteppedState for Changes {
    type Work = Work;
    type Job = Job;

    fn plan(&mut self, time: Time, work: Work, jobs: &mut VecDeque<Job>) {
        let mut tick = Tick {
            tick: time.tick,
            bounds_before: self.bounds,
            endings: work.endings,
            ..Tick::default()
        };
        let ClockChanges { retired, observed, silent } = self.advance_clock(work.clock, &mut tick);
        let RulingsOfTick { rows, dates, retired: retired_rulings } =
            RulingsOfTick::new(work.rulings);
        tick.retired = retired_rulings;
        let standing = &self.standing;
        tick.changed = self.versions.update(&rows, &dates, |limit| {
            let mut windows = standing.violated(limit);
            windows.extend(observed.iter().map(|windows| windows.from));
            windows
        });
        let mut windows = work.judged;
        self.end_silence(&observed, &tick.changed, &mut windows);
        self.judge_silence(&mut tick, [&rows, &dates], &silent);
        self.plan_windows(&tick, windows, jobs);
        jobs.extend(retired.into_iter().map(|windows| Job::Retire { windows }));
        jobs.push_back(Job::End);
        self.tick = tick;
    }

    fn step(&mut self, time: Time, job: &mut Job, fuel: &mut Fuel) -> bool {
        match job {
            Job::Window { window, rescan, merge, steps } => {
                self.window(*window, (rescan, merge, steps), fuel)
            }
            Job::Silence { until } => self.silence(*until, fuel),
            Job::Retire { windows } => {
                self.partial.remove(*windows);
                self.silence.retire(*windows);
                let (published, updates) = (self.published.as_mut(), &mut self.published_updates);
                published.is_none_or(|held| held.retire(time.tick, *windows, updates, fuel))
                    && self.standing.retire(*windows, fuel)
            }
            Job::End => {
                self.versions.retire(&self.tick.retired);
                self.silence.follow(&self.tick.retired, |limit| self.versions.is_broken(limit));
                self.send(time, true);
                self.tick = Tick::default();
                true
            }
        }
    }

    /// Sends a part of the tick, by which the first worker knows that more parts are to come.
    fn pause(&mut self, under_way: Option<Time>) -> Option<Time> {
        let time = under_way?;
        self.send(time, false);
        Some(Time::new(time.tick, Phase::Read))
    }
}

/// Changes of violations, and the violations themselves.
pub(crate) struct ChangeStreams<'scope> {
    pub(crate) parts: StreamVec<'scope, Time, Timed<Part>>,
    /// The violations that stand, as they were published last.
    pub(crate) violations: VecCollection<'scope, Time, Violation, isize>,
}

/// The changes of violations, tick by tick.
///
/// # In
/// `violations`, on the worker that holds their totals, and on the same worker `endings`, the volumes that cleared
/// violations. `rulings` and `clock`: the same on every worker. `notices` of the first worker about changes that
/// it has forwarded.
///
/// # Time
/// The operator publishes a tick when all input of the tick is complete: the changes that are ready at once at its
/// [`Phase::Retire`], the rest at its [`Phase::Read`].
///
/// # Out
/// At most one change for each (limit, window, entity) and tick: never both raised and cleared.
/// Folding them gives the violations that stand. The retirement of a window is no change: the violations that were
/// published last stand. The changes of a worker are in the order of windows, limits and entities. No more than
/// `parts_ahead` of a worker are on their way.
///
/// # Keeps
/// The violations that stand in windows held.
///
/// # Costs
/// The violations that change; for a changed version those of its limit, for a window that settles
/// those in it.
pub(crate) fn changes<'scope>(
    violations: VecCollection<'scope, Time, Judged, isize>,
    endings: StreamVec<'scope, Time, Timed<Ending>>,
    rulings: VecCollection<'scope, Time, Ruling, isize>,
    clock: StreamVec<'scope, Time, Timed<WindowEvent>>,
    Notices { notices, consumer_waits }: Notices<'scope>,
    shared: Shared,
    rules: Rules,
) -> ChangeStreams<'scope> {
    let mut wiring = Wiring::new("Changes", endings.scope());
    wiring.input(violations.inner, Pipeline, |place: &mut Place<'_, Work>, update| {
        let ((monitored, (window, total), limit), time, diff) = update;
        if time.phase != Phase::Retire {
            let step = Step::new(monitored, total, limit, time.phase, diff);
            place.at_tick(time).judged.entry(window).or_default().push(step);
        }
    });
    wiring.input(endings, Pipeline, |place, ending| {
        place.at_tick(ending.1).endings.keep(ending);
    });
    wiring.input(rulings.inner, Pipeline, |place, update| {
        place.at_tick(update.1).rulings.push(update);
    });
    wiring.input(clock, Pipeline, |place, (event, time)| {
        if event.concerns_windows() {
            place.at_tick(time).clock.push(event);
        }
    });
    let parts = wiring.output(|changes: &mut Changes| &mut changes.parts);
    let published = wiring.output(|changes| &mut changes.published_updates);
    // No change has the time of a notice.
    let to_worker = Exchange::new(|(worker, _): &(usize, Notice)| *worker as u64);
    wiring.untimed_input(notices, to_worker, move |changes, (_, notice)| match notice {
        Notice::Forwarded(forwarded) => changes.allowance.refill(forwarded),
        Notice::ConsumerWaits(waits) => consumer_waits.set(waits),
    });
    wiring.build_in_steps(Changes::new(shared, rules));
    ChangeStreams { parts, violations: published.as_collection() }
}
