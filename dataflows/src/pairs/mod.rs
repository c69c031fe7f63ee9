//! The tables of pairs of one worker: their state, and the work of one time as jobs in steps.

mod responses;
mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::clock::WindowEvent;
use crate::combine::UpdateBatch;
use crate::control::ControlEvent;
use crate::emit_bounds::{EmitBoundIndex, MonitoredTable};
use crate::emitted::Emitted;
use crate::folds::{FoldIndex, Folds, RollupBatch};
use crate::in_use::{InUse, Use};
use crate::monitored::{Rollup, ScopeChange};
use crate::moves::{EmitBoundChanges, Moves};
use crate::pending::{Fuel, SteppedState};
use crate::ranges::WindowSet;
use crate::reads::{EmitTotals, RequestId, Response};
use crate::reports::{Late, Saturated};
use crate::shared::{Shared, TrafficOptions};
use crate::stale::Renewal;
use crate::time::{Bounds, Time, Timed, Window, WindowRange};
use crate::top::{Candidate, Greatest};
use crate::types::{Entity, Pair, Per, Volume};

/// The input of one time.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) batches: Vec<UpdateBatch>,
    pub(crate) monitored_scopes: Vec<ScopeChange>,
    pub(crate) control_events: Vec<ControlEvent>,
}

/// The pairs of one window.
struct PairWindow {
    pairs: MonitoredTable,
    folds: Folds,
}

pub(crate) enum Job {
    /// Emits stale totals anew.
    Renew { window: Window, renewal: Renewal },
    /// Emits the updates that moved emit bounds make.
    Walk { window: Window, moves: Moves, position: usize },
    /// Emits the totals that lower bounds look at in a window that they judge from now on.
    Observe { window: Window, position: usize },
    /// Sums the retained pairs of a window for rollups that come into use.
    BackFill { window: Window, begun: Rc<FoldIndex>, position: usize, walked: bool },
    /// Counts a batch of updates.
    Count { batch: UpdateBatch },
    /// Sends the sums of the rollups of a window early, if there are many.
    SendFull { window: Window },
    /// Sends the sums of the rollups, and looks up the totals that have receded, when all batches are counted.
    Send { windows: BTreeSet<Window> },
    /// Finds the greatest pairs of a window.
    Rank { window: Window, greatest: Greatest, position: usize },
    /// Works on the response to a request, or emits the totals of a window that settles or retires.
    Respond { request: Option<RequestId>, job: ReadJob },
    /// Retracts the totals that the table of a window has emitted.
    Retract { window: Window, position: usize },
    /// Drops the table of a window.
    Retire { window: Window, position: usize },
}

/// A part of the work on a response.
pub(crate) enum ReadJob {
    /// Emits the rows of windows to a worker, one window after another.
    Rows { windows: VecDeque<Window>, position: usize, worker: usize },
    /// Emits the numbers of live entries.
    CountHeld,
    /// Emits the total of a pair.
    Amount { window: Window, pair: Pair },
    /// Sums the pairs of a window for rollups that are not in use.
    Sum { window: Window, sums: Vec<(Rollup, Entity, Volume)>, position: usize },
}

impl ReadJob {
    /// Emits the rows of windows to the first worker.
    fn rows(windows: impl IntoIterator<Item = Window>) -> Self {
        ReadJob::Rows { windows: windows.into_iter().collect(), position: 0, worker: 0 }
    }
}

/// The tables of pairs of one worker, and what they emitted at the time under way.
pub(crate) struct Pairs {
    shared: Shared,
    options: TrafficOptions,
    windows: BTreeMap<Window, PairWindow>,
    emit_bounds: EmitBoundIndex,
    in_use: InUse,
    fold_index: FoldIndex,
    bounds: Bounds,
    /// Windows that were not observed from their start on.
    partial: WindowSet,
    /// Windows that lower bounds judge, except silent ones.
    observed: WindowSet,
    pub(crate) emitted: Emitted,
    pub(crate) batches: Vec<Timed<RollupBatch>>,
    pub(crate) best: Vec<Timed<Candidate>>,
    pub(crate) responses: Vec<Timed<Response>>,
    pub(crate) late: Vec<Timed<Late>>,
    pub(crate) saturated: Vec<Timed<Saturated>>,
}

impl Pairs {
    pub(crate) fn new(shared: Shared, options: TrafficOptions) -> Self {
        Pairs {
            shared,
            options,
            windows: BTreeMap::new(),
            emit_bounds: EmitBoundIndex::new(options.updates),
            in_use: InUse::default(),
            fold_index: FoldIndex::default(),
            bounds: Bounds::default(),
            partial: WindowSet::default(),
            observed: WindowSet::default(),
            emitted: Emitted::default(),
            batches: Vec::new(),
            best: Vec::new(),
            responses: Vec::new(),
            late: Vec::new(),
            saturated: Vec::new(),
        }
    }

    /// Whether records of a batch still count, by the state of their window after the tick before. Adds the late ones
    /// to `late`.
    fn accepts(&self, batch: &UpdateBatch, late: &mut Late) -> bool {
        let window = batch.window;
        if !self.bounds.settled(window) {
            if self.bounds.closed(window) {
                late.counted += batch.records;
            }
            return true;
        }
        late.dropped += batch.records;
        let sum = &mut late.dropped_volume;
        for (_, volume) in batch.updates() {
            *sum = sum.saturating_add(volume);
        }
        false
    }

    /// Brings rollups into use and out of it; a rollup that comes into use is filled from the retained totals.
    fn use_rollups(
        &mut self,
        monitored_scopes: &[ScopeChange],
        control_events: &[ControlEvent],
        jobs: &mut VecDeque<Job>,
    ) {
        let uses = self.in_use.update(monitored_scopes, control_events);
        if uses.is_empty() {
            return;
        }
        let mut begun = BTreeMap::<Rollup, Vec<WindowRange>>::new();
        let mut changed = BTreeSet::new();
        for change in uses {
            let (Use::Begins(_, rollup) | Use::Ends(_, rollup)) = change;
            changed.insert(rollup);
            if let Use::Begins(windows, rollup) = change {
                begun.entry(rollup).or_default().push(windows);
            }
        }
        for rollup in changed {
            self.fold_index.set(rollup, &self.in_use.windows(&rollup));
        }
        let mut back_fill = BTreeSet::new();
        let mut index = FoldIndex::default();
        for (rollup, windows) in begun {
            for range in &windows {
                let held = self.windows.range(range.from..range.until);
                let held = held.filter(|(_, held)| !held.pairs.table.is_empty());
                back_fill.extend(held.map(|(window, _)| *window));
            }
            index.set(rollup, &windows);
        }
        let index = Rc::new(index);
        for window in back_fill {
            let begun = index.clone();
            jobs.push_back(Job::BackFill { window, begun, position: 0, walked: false });
        }
    }

    /// Sets the emit bounds of pairs. Renewals emit stale totals that limits judge otherwise from now on, walks
    /// emit the totals that a moved emit bound passes.
    fn set_bounds(&mut self, tick: u64, changes: Vec<ScopeChange>, jobs: &mut VecDeque<Job>) {
        if changes.is_empty() {
            return;
        }
        let (emit_bounds, rejudged) = ScopeChange::split(changes);
        self.emit_bounds.set(&emit_bounds);
        let changes = EmitBoundChanges::new(emit_bounds);
        let hull = changes.hull_with(&rejudged);
        if self.windows.range(hull.from..hull.until).next().is_none() {
            return;
        }
        self.emit_bounds.rejudge(tick, &changes, &rejudged);
        for (&window, held) in self.windows.range_mut(hull.from..hull.until) {
            if let Some(renewal) = held.pairs.renew_rejudged(&self.emit_bounds, tick) {
                jobs.push_back(Job::Renew { window, renewal });
            }
            let holds = !held.pairs.table.is_empty();
            if let Some(moves) = held.pairs.move_bounds(&self.emit_bounds, &changes, holds) {
                jobs.push_back(Job::Walk { window, moves, position: 0 });
            }
        }
    }

    /// Plans the updates of windows that lower bounds judge from now on.
    fn observe(&mut self, windows: WindowRange, jobs: &mut VecDeque<Job>) {
        self.observed.insert(windows);
        for (&window, held) in self.windows.range_mut(windows.from..windows.until) {
            held.pairs.observe();
            held.pairs.refresh(&self.emit_bounds);
            if self.emit_bounds.has_ceilings(window) {
                jobs.push_back(Job::Observe { window, position: 0 });
            }
        }
    }

    /// The windows of a range that have a table.
    fn held(&self, windows: WindowRange) -> Vec<Window> {
        let held = self.windows.range(windows.from..windows.until);
        held.map(|(window, _)| *window).collect()
    }

    fn plan_clock(&mut self, event: WindowEvent, jobs: &mut VecDeque<Job>) {
        let rows = |window| Job::Respond { request: None, job: ReadJob::rows([window]) };
        match event {
            WindowEvent::Bounds(bounds) => self.bounds = bounds,
            WindowEvent::Settled(windows) => {
                for window in self.held(windows) {
                    let held = self.windows.get_mut(&window);
                    if let Some(renewal) = held.and_then(|held| held.pairs.renew_above_roofs()) {
                        jobs.push_back(Job::Renew { window, renewal });
                    }
                    self.plan_settled(window, jobs);
                }
            }
            WindowEvent::Partial { windows, partial: true } => self.partial.insert(windows),
            WindowEvent::Partial { windows, partial: false } => self.partial.remove(windows),
            // Jobs for observed windows are planned before records are counted.
            WindowEvent::Observed(_) | WindowEvent::Silent(_) | WindowEvent::EventTime { .. } => {}
            WindowEvent::Retired(windows) => {
                self.partial.remove(windows);
                self.observed.remove(windows);
                for window in self.held(windows) {
                    if self.options.emit_totals == Some(EmitTotals::OnRetire) {
                        jobs.push_back(rows(window));
                    }
                    jobs.push_back(Job::Retract { window, position: 0 });
                    jobs.push_back(Job::Retire { window, position: 0 });
                }
            }
        }
    }

    /// Plans to emit the totals of a window that has settled, and to rank them.
    fn plan_settled(&self, window: Window, jobs: &mut VecDeque<Job>) {
        // The total of a part of a window is no total of the window.
        let whole = !self.partial.contains(window);
        if self.options.emit_totals == Some(EmitTotals::OnSettle) && whole {
            jobs.push_back(Job::Respond { request: None, job: ReadJob::rows([window]) });
        }
        if let Some(query) = self.options.top.filter(|query| query.per == Per::Pair) {
            let greatest = Greatest::new(query);
            jobs.push_back(Job::Rank { window, greatest, position: 0 });
        }
    }
}

impl SteppedState for Pairs {
    type Work = Work;
    type Job = Job;

    /// The order within a time: rollups and emit bounds see the state before it, then updates count, then
    /// windows settle and retire, then reads are answered.
    fn plan(&mut self, time: Time, work: Work, jobs: &mut VecDeque<Job>) {
        self.shared.reclaim_addresses();
        self.use_rollups(&work.monitored_scopes, &work.control_events, jobs);
        let of_pairs =
            work.monitored_scopes.into_iter().filter(|change| change.scope().per == Per::Pair);
        self.set_bounds(time.tick, of_pairs.collect(), jobs);
        for control_event in &work.control_events {
            if let ControlEvent::WindowEvent(WindowEvent::Observed(windows)) = control_event {
                self.observe(*windows, jobs);
            }
        }
        let (mut counted, mut late) = (BTreeSet::new(), Late::default());
        for batch in work.batches {
            if self.accepts(&batch, &mut late) {
                let window = batch.window;
                counted.insert(window);
                jobs.push_back(Job::Count { batch });
                jobs.push_back(Job::SendFull { window });
            }
        }
        if late != Late::default() {
            self.late.push((late, time));
        }
        if !counted.is_empty() {
            jobs.push_back(Job::Send { windows: counted });
        }
        let mut reads = BTreeSet::new();
        for control_event in work.control_events {
            match control_event {
                ControlEvent::WindowEvent(event) => self.plan_clock(event, jobs),
                ControlEvent::Read(request, read) => drop(reads.insert((request, read))),
                ControlEvent::View(..) => {}
            }
        }
        self.plan_reads(reads, jobs);
    }

    fn step(&mut self, time: Time, job: &mut Job, fuel: &mut Fuel) -> bool {
        match job {
            Job::Renew { window, renewal } => self.renew(time, *window, renewal, fuel),
            Job::Walk { window, moves, position } => {
                self.walk(time, *window, moves, position, fuel)
            }
            Job::Observe { window, position } => {
                self.emit_to_lower_bounds(time, *window, position, fuel)
            }
            Job::BackFill { window, begun, position, walked } => {
                self.back_fill(time, *window, begun, position, walked, fuel)
            }
            Job::Count { batch } => {
                self.count(time, batch, fuel);
                true
            }
            Job::SendFull { window } => self.send_full(time, *window, fuel),
            Job::Send { windows } => self.send_all(time, windows, fuel),
            Job::Rank { window, greatest, position } => {
                self.rank(time, *window, greatest, position, fuel)
            }
            Job::Respond { request, job } => self.respond(time, *request, job, fuel),
            Job::Retract { window, position } => self.retract(time, *window, position, fuel),
            Job::Retire { window, position } => self.retire(time, *window, position, fuel),
        }
    }
}
