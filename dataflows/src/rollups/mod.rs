//! The sums over pairs that limits and views ask for: per source, destination, host, or in total.
//!
//! Only where all parts of a sum meet is the whole known, and only whole sums are compared with an emit bound.
//! So each worker folds its updates of pairs by (rollup, window, entity) and sends these to the
//! worker that owns the entity, at the same time.

mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};

use crate::addresses::Addresses;
use crate::clock::WindowEvent;
use crate::control::ControlEvent;
use crate::emit_bounds::{EmitBoundIndex, MonitoredTable};
use crate::emitted::{Emitted, Ending, TotalUpdate};
use crate::folds::{RollupBatch, TOTAL, owner};
use crate::in_use::{InUse, Use};
use crate::key::Key;
use crate::monitored::{Rejudged, Rollup, ScopeChange};
use crate::moves::{EmitBoundChanges, Moves};
use crate::pending::{EMIT_COST, Fuel, SteppedState};
use crate::ranges::WindowSet;
use crate::reads::{Read, RequestId, Response};
use crate::reports::Saturated;
use crate::shared::{Shared, TrafficOptions};
use crate::stale::Renewal;
use crate::time::{Time, Timed, Window, WindowRange, Windows};
use crate::top::{Candidate, Greatest, TopQuery};
use crate::types::{Bound, Entity, Pair, Per, Updates, Volume};
use crate::wiring::{Place, Wiring};

#[derive(Default)]
struct Work {
    batches: Vec<RollupBatch>,
    monitored_scopes: Vec<ScopeChange>,
    control_events: Vec<ControlEvent>,
}

enum Job {
    /// Emits stale totals anew.
    Renew { window: Window, rollup: Rollup, renewal: Renewal },
    /// Emits the updates that moved emit bounds make.
    Walk { window: Window, rollup: Rollup, moves: Moves, position: usize },
    /// Emits the totals that lower bounds look at in a window that they judge from now on.
    Observe { window: Window, rollup: Rollup, position: usize },
    /// Retracts the totals that a table has emitted.
    Retract { window: Window, rollup: Rollup, position: usize },
    /// Drops a table.
    Drop { window: Window, rollup: Rollup, position: usize },
    /// Counts a batch of updates.
    Count { batch: RollupBatch },
    /// Looks up the totals that have receded, when all batches are counted.
    LookUpReceded,
    /// Finds the greatest entities of a window.
    Rank { window: Window, rollup: Rollup, greatest: Greatest, position: usize },
    /// Emits the number of live totals.
    CountHeld { request: RequestId },
    /// Emits the volume of an entity.
    Amount { request: RequestId, window: Window, rollup: Rollup, entity: Entity },
}

struct Rollups {
    shared: Shared,
    rules: Windows,
    top: Option<TopQuery>,
    updates: Updates,
    tables: BTreeMap<(Window, Rollup), MonitoredTable>,
    /// The emit bounds of the rollups that some monitored scope looks at.
    emit_bounds: BTreeMap<Rollup, EmitBoundIndex>,
    /// An index without emit bounds, for the rollups that only views use.
    no_bounds: EmitBoundIndex,
    in_use: InUse,
    /// Rollups of totals that some lower bound looks at.
    judged_totals: BTreeSet<Rollup>,
    /// Windows that lower bounds judge, except silent ones.
    observed: WindowSet,
    emitted: Emitted,
    best: Vec<Timed<Candidate>>,
    responses: Vec<Timed<Response>>,
    saturated: Vec<Timed<Saturated>>,
}

impl Rollups {
    fn new(shared: Shared, options: TrafficOptions) -> Self {
        Rollups {
            shared,
            rules: options.windows,
            top: options.top,
            updates: options.updates,
            tables: BTreeMap::new(),
            emit_bounds: BTreeMap::new(),
            no_bounds: EmitBoundIndex::new(options.updates),
            in_use: InUse::default(),
            judged_totals: BTreeSet::new(),
            observed: WindowSet::default(),
            emitted: Emitted::default(),
            best: Vec::new(),
            responses: Vec::new(),
            saturated: Vec::new(),
        }
    }
}

impl Rollups {
    /// Whether this worker may hold entities of a rollup. A total has one owner; elsewhere a table
    /// without it would look like a total of nothing.
    fn may_hold(&self, window: Window, rollup: &Rollup) -> bool {
        rollup.per != Per::Total || owner(window, self.shared.peers) == self.shared.index as u64
    }

    /// The table of a rollup in a window.
    fn table(&mut self, window: Window, rollup: Rollup) -> &mut MonitoredTable {
        let observed = &self.observed;
        self.tables
            .entry((window, rollup))
            .or_insert_with(|| MonitoredTable::new(window, observed.contains(window)))
    }

    /// The windows within a range that have a table of a rollup.
    fn windows(&self, rollup: Rollup, range: WindowRange) -> BTreeSet<Window> {
        // Tables are sorted by window first: this looks up the rollup's table in each window that has any table.
        let mut windows = BTreeSet::new();
        let mut next = range.from;
        while let Some((&(window, _), _)) = self.tables.range((next, Rollup::FIRST)..).next()
            && window < range.until
        {
            if self.tables.contains_key(&(window, rollup)) {
                windows.insert(window);
            }
            next = Window(window.0 + 1);
        }
        windows
    }

    /// Sets the emit bounds. Renewals emit stale totals that limits judge otherwise from now on, walks emit the
    /// totals that a moved emit bound passes.
    fn set_bounds(&mut self, tick: u64, changes: Vec<ScopeChange>, jobs: &mut VecDeque<Job>) {
        let mut of_rollups = BTreeMap::<Rollup, Vec<ScopeChange>>::new();
        for change in changes {
            if let Some(rollup) = Rollup::of(change.scope()) {
                of_rollups.entry(rollup).or_default().push(change);
            }
        }
        for (rollup, changes) in of_rollups {
            let (changes, rejudged) = ScopeChange::split(changes);
            let updates = self.updates;
            let emit_bounds =
                self.emit_bounds.entry(rollup).or_insert_with(|| EmitBoundIndex::new(updates));
            emit_bounds.set(&changes);
            if rollup.per == Per::Total {
                match emit_bounds.has_lower_bounds() {
                    true => self.judged_totals.insert(rollup),
                    false => self.judged_totals.remove(&rollup),
                };
            }
            let changes = EmitBoundChanges::new(changes);
            let windows = self.windows_moved(rollup, &changes, &rejudged);
            if !windows.is_empty()
                && let Some(emit_bounds) = self.emit_bounds.get_mut(&rollup)
            {
                emit_bounds.rejudge(tick, &changes, &rejudged);
            }
            for window in windows {
                self.move_bounds(tick, (window, rollup), &changes, jobs);
            }
            if self.in_use.windows(&rollup).is_empty() {
                self.emit_bounds.remove(&rollup);
            }
        }
    }

    /// The windows in which a rollup has a table, or is to have one, that changes of its emit bounds concern.
    fn windows_moved(
        &self,
        rollup: Rollup,
        changes: &EmitBoundChanges,
        rejudged: &[Rejudged],
    ) -> BTreeSet<Window> {
        let mut windows = self.windows(rollup, changes.hull_with(rejudged));
        if self.judged_totals.contains(&rollup) {
            // Lower bounds judge a total even in a window without traffic in the rollup.
            let observed = self.observed.within(changes.hull_of(Bound::Min));
            let observed = observed.flat_map(|range| self.rules.each(range));
            windows.extend(observed.filter(|window| self.may_hold(*window, &rollup)));
        }
        windows
    }

    /// Plans the updates that changes of emit bounds make for one table.
    fn move_bounds(
        &mut self,
        tick: u64,
        (window, rollup): (Window, Rollup),
        changes: &Rc<EmitBoundChanges>,
        jobs: &mut VecDeque<Job>,
    ) {
        self.table(window, rollup);
        let (Some(monitored_table), Some(emit_bounds)) =
            (self.tables.get_mut(&(window, rollup)), self.emit_bounds.get(&rollup))
        else {
            return;
        };
        if let Some(renewal) = monitored_table.renew_rejudged(emit_bounds, tick) {
            jobs.push_back(Job::Renew { window, rollup, renewal });
        }
        let holds = rollup.per == Per::Total || !monitored_table.table.is_empty();
        if let Some(moves) = monitored_table.move_bounds(emit_bounds, changes, holds) {
            jobs.push_back(Job::Walk { window, rollup, moves, position: 0 });
        }
    }

    /// Plans the updates of windows that lower bounds judge from now on.
    fn observe(&mut self, windows: WindowRange, jobs: &mut VecDeque<Job>) {
        self.observed.insert(windows);
        let (from, until) = ((windows.from, Rollup::FIRST), (windows.until, Rollup::FIRST));
        let mut judged = BTreeSet::new();
        for (&(window, rollup), monitored_table) in self.tables.range_mut(from..until) {
            monitored_table.observe();
            if self
                .emit_bounds
                .get(&rollup)
                .is_some_and(|emit_bounds| emit_bounds.has_ceilings(window))
            {
                judged.insert((window, rollup));
            }
        }
        for rollup in &self.judged_totals {
            let windows = self.rules.each(windows);
            let windows = windows.filter(|window| {
                self.may_hold(*window, rollup) && self.emit_bounds[rollup].has_ceilings(*window)
            });
            judged.extend(windows.map(|window| (window, *rollup)));
        }
        for (window, rollup) in judged {
            self.table(window, rollup);
            jobs.push_back(Job::Observe { window, rollup, position: 0 });
        }
    }
}

impl SteppedState for Rollups {
    type Work = Work;
    type Job = Job;

    fn plan(&mut self, time: Time, work: Work, jobs: &mut VecDeque<Job>) {
        self.shared.reclaim_addresses();
        let uses = self.in_use.update(&work.monitored_scopes, &work.control_events);
        self.set_bounds(time.tick, work.monitored_scopes, jobs);
        for change in uses {
            if let Use::Ends(windows, rollup) = change {
                let windows = self.windows(rollup, windows);
                let drop = |window| Job::Drop { window, rollup, position: 0 };
                jobs.extend(windows.into_iter().map(drop));
            }
        }
        for control_event in &work.control_events {
            if let ControlEvent::WindowEvent(WindowEvent::Observed(windows)) = control_event {
                self.observe(*windows, jobs);
            }
        }
        jobs.extend(work.batches.into_iter().map(|batch| Job::Count { batch }));
        jobs.push_back(Job::LookUpReceded);
        let mut reads = BTreeSet::new();
        for control_event in work.control_events {
            match control_event {
                ControlEvent::WindowEvent(WindowEvent::Settled(windows)) => {
                    self.renew(windows, jobs);
                    if let Some((query, rollup)) =
                        self.top.and_then(|query| Some((query, query.rollup()?)))
                    {
                        for window in self.windows(rollup, windows) {
                            let greatest = Greatest::new(query);
                            jobs.push_back(Job::Rank { window, rollup, greatest, position: 0 });
                        }
                    }
                }
                ControlEvent::WindowEvent(WindowEvent::Retired(windows)) => {
                    self.retire(windows, jobs)
                }
                ControlEvent::Read(request, read) => drop(reads.insert((request, read))),
                _ => {}
            }
        }
        // `reads` is a set, so that each read of a request is done once, however often it was entered.
        jobs.extend(reads.into_iter().filter_map(|(request, read)| match read {
            Read::Held => Some(Job::CountHeld { request }),
            Read::Amount { window, rollup, entity } => {
                Some(Job::Amount { request, window, rollup: rollup?, entity })
            }
            Read::Rows { .. } | Read::Part(_) => None,
        }));
    }

    fn step(&mut self, time: Time, job: &mut Job, fuel: &mut Fuel) -> bool {
        match job {
            Job::Renew { window, rollup, renewal } => {
                self.renew_table(time, *window, *rollup, renewal, fuel)
            }
            Job::Walk { window, rollup, moves, position } => {
                self.walk(time, *window, *rollup, moves, position, fuel)
            }
            Job::Observe { window, rollup, position } => {
                self.emit_to_lower_bounds(time, *window, *rollup, position, fuel)
            }
            Job::Retract { window, rollup, position } => {
                self.retract(time, *window, *rollup, position, fuel)
            }
            Job::Drop { window, rollup, position } => {
                self.drop_table(time, *window, *rollup, position, fuel)
            }
            Job::Count { batch } => {
                self.count(time, batch, fuel);
                true
            }
            Job::LookUpReceded => self.look_up_receded(time, fuel),
            Job::Rank { window, rollup, greatest, position } => {
                self.rank(time, *window, *rollup, greatest, position, fuel)
            }
            Job::CountHeld { request } => self.count_held(time, *request),
            Job::Amount { request, window, rollup, entity } => {
                self.respond_amount(time, *request, *window, *rollup, entity)
            }
        }
    }
}

/// Passes the entries of a table to `visit`, one after another; `visit` returns the number of updates that it emits.
/// `true` when all entries are visited, `false` when the fuel is spent.
fn visit_all(
    monitored_table: &MonitoredTable,
    rollup: Rollup,
    position: &mut usize,
    fuel: &mut Fuel,
    addresses: &Addresses,
    mut visit: impl FnMut(Pair, Key, Volume) -> usize,
) -> bool {
    if rollup.per == Per::Total {
        // A total is there even if nothing is in it.
        let volume = monitored_table.table.get(Key::TOTAL).unwrap_or_default();
        visit(Pair::V4(TOTAL, TOTAL), Key::TOTAL, volume);
        return true;
    }
    monitored_table.table.walk(position, fuel, |key, volume| {
        EMIT_COST * visit(itself(addresses.ip(key)), key, volume)
    })
}

/// Whether a control event concerns rollups.
fn concerns_rollups(control_event: &ControlEvent) -> bool {
    match control_event {
        ControlEvent::WindowEvent(event) => {
            matches!(
                event,
                WindowEvent::Observed(_) | WindowEvent::Settled(_) | WindowEvent::Retired(_)
            )
        }
        ControlEvent::View(..) | ControlEvent::Read(..) => true,
    }
}

/// An address as the pair of itself with itself, so that filters of pairs apply to it.
fn itself(address: IpAddr) -> Pair {
    Pair::new(address, address).expect("an address is of its own family")
}

impl Rollups {
    /// The volume of an entity, if the rollup is in use and this worker holds the entity.
    fn amount(&self, window: Window, rollup: Rollup, entity: &Entity) -> Option<Volume> {
        let table = &self.tables.get(&(window, rollup))?.table;
        let address = match (rollup.per, *entity) {
            (Per::Source, Entity::Source(address))
            | (Per::Destination, Entity::Destination(address))
            | (Per::Host, Entity::Host(address)) => address,
            (Per::Total, Entity::Total) => return table.get(Key::TOTAL),
            _ => return None,
        };
        table.get(self.shared.addresses.borrow().known_address_key(address)?)
    }

    /// Plans to emit the stale totals above roofs of windows that settle.
    fn renew(&mut self, windows: WindowRange, jobs: &mut VecDeque<Job>) {
        let (from, until) = ((windows.from, Rollup::FIRST), (windows.until, Rollup::FIRST));
        for (&(window, rollup), monitored_table) in self.tables.range_mut(from..until) {
            if let Some(renewal) = monitored_table.renew_above_roofs() {
                jobs.push_back(Job::Renew { window, rollup, renewal });
            }
        }
    }

    /// Plans to drop the tables of windows that retire.
    fn retire(&mut self, windows: WindowRange, jobs: &mut VecDeque<Job>) {
        self.observed.remove(windows);
        let (from, until) = ((windows.from, Rollup::FIRST), (windows.until, Rollup::FIRST));
        for &(window, rollup) in self.tables.range(from..until).map(|(at, _)| at) {
            jobs.push_back(Job::Retract { window, rollup, position: 0 });
            jobs.push_back(Job::Drop { window, rollup, position: 0 });
        }
    }

    fn count(&mut self, time: Time, batch: &RollupBatch, fuel: &mut Fuel) {
        let RollupBatch { window, rollup, ref sums, .. } = *batch;
        debug_assert!(self.in_use.uses(window, rollup), "an update for a rollup not in use");
        self.table(window, rollup);
        let Some(monitored_table) = self.tables.get_mut(&(window, rollup)) else {
            return;
        };
        let emit_bounds = self.emit_bounds.get(&rollup).unwrap_or(&self.no_bounds);
        monitored_table.refresh(emit_bounds);
        let mut addresses = self.shared.addresses.borrow_mut();
        let before = self.emitted.len();
        let mut emitted = self.emitted.of(time, window, Some(rollup));
        for &(address, volume) in sums {
            let key = match rollup.per {
                Per::Total => Key::TOTAL,
                _ => addresses.address_key(address),
            };
            let found = monitored_table.table.find(key);
            let updated = monitored_table.add(
                emit_bounds,
                found,
                key,
                || itself(address),
                volume,
                &mut emitted,
            );
            if updated.saturates() {
                let entity = addresses.entity(rollup.per, key);
                self.saturated.push((Saturated { window, rollup: Some(rollup), entity }, time));
            }
            addresses.follow(rollup.per, key, updated.entry, time);
        }
        fuel.spend(EMIT_COST * (sums.len() + self.emitted.len() - before));
    }
}

/// The streams that leave the rollups. None of them is exchanged yet.
pub(crate) struct RollupStreams<'scope> {
    pub(crate) totals: StreamVec<'scope, Time, TotalUpdate>,
    pub(crate) endings: StreamVec<'scope, Time, Timed<Ending>>,
    pub(crate) top: StreamVec<'scope, Time, Timed<Candidate>>,
    pub(crate) responses: StreamVec<'scope, Time, Timed<Response>>,
    pub(crate) saturated: StreamVec<'scope, Time, Timed<Saturated>>,
}

/// The whole sums of the rollups in use, as far as they are beyond an emit bound.
///
/// # In
/// `batches`: the updates of all workers' pairs, folded. `monitored_scopes`, of rollups alone, and `control_events`:
/// the same on every worker.
///
/// # Keeps
/// A table for each window and rollup in use in it that has traffic, or is a total that a lower bound looks
/// at. It goes with its window, or when the last limit or view that used it does.
///
/// # Costs
/// As those of pairs: a look-up per update, a walk of the table when an emit bound moves.
pub(crate) fn rollups<'scope>(
    batches: StreamVec<'scope, Time, Timed<RollupBatch>>,
    monitored_scopes: StreamVec<'scope, Time, Timed<ScopeChange>>,
    control_events: StreamVec<'scope, Time, Timed<ControlEvent>>,
    shared: Shared,
    options: TrafficOptions,
) -> RollupStreams<'scope> {
    let mut wiring = Wiring::new("Rollups", batches.scope());
    let to_owner = Exchange::new(|(batch, _): &Timed<RollupBatch>| batch.to);
    wiring.input(batches, to_owner, |place: &mut Place<'_, Work>, (batch, time)| {
        place.at(time).batches.push(batch);
    });
    wiring.input(monitored_scopes, Pipeline, |place, (change, time)| {
        place.at(time).monitored_scopes.push(change);
    });
    wiring.input(control_events, Pipeline, |place, (control_event, time)| {
        if concerns_rollups(&control_event) {
            place.at(time).control_events.push(control_event);
        }
    });
    let streams = RollupStreams {
        totals: wiring.output(|rollups: &mut Rollups| &mut rollups.emitted.totals),
        endings: wiring.output(|rollups| &mut rollups.emitted.endings),
        top: wiring.output(|rollups| &mut rollups.best),
        responses: wiring.output(|rollups| &mut rollups.responses),
        saturated: wiring.output(|rollups| &mut rollups.saturated),
    };
    wiring.build_in_steps(Rollups::new(shared, options));
    streams
}
