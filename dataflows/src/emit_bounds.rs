//! The emit bounds of all monitored scopes, at hand where totals change.
//!
//! All windows share one [`EmitBoundIndex`] for each kind of table: an emit bound is in it once, with the windows
//! that it is for. So a limit costs the same however many windows there are. A window whose totals were emitted by an
//! emit bound that has moved inward since keeps that one ([`Kept`]): to move inward costs a walk of the table, and
//! outward again with the next limit another one. A total that moves within a cell stays as it was emitted ([`Stale`]).

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::rc::Rc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::emit::{Emit, filter};
use crate::key::Key;
use crate::monitored::{
    ABOVE_ROOF, AmountRange, EmitBound, EmitBoundChange, MonitoredScope, Rejudged, outermost,
};
use crate::moves::{EmitBoundChanges, Exceptions, Moves};
use crate::prefix_index::{PrefixIndex, RankedValue};
use crate::ranges::Steps;
use crate::stale::{Move, Renewal, Stale};
use crate::table::{Found, Table, Updated};
use crate::time::{Window, WindowRange};
use crate::types::{Bound, Metric, Pair, Scope, Updates, Volume};

/// Maps amounts and emit bounds so that the amounts beyond an emit bound are greater than it.
fn toward(bound: Bound, amount: i64) -> i64 {
    match bound {
        Bound::Max => amount,
        Bound::Min => !amount,
    }
}

/// The windows of an emit bound. Nearly all monitored scopes have the emit bound of one limit in one range, which
/// takes no more than two words.
#[derive(Clone)]
enum BoundWindows {
    /// The emit bound of the place, in these windows: not those before the first, nor from the second on.
    Once(u64, NonZeroU64),
    /// By window.
    Steps(Rc<Steps<Option<EmitBound>>>),
}

/// The emit bounds of a monitored scope.
#[derive(Clone)]
struct EmitBounds {
    monitored: MonitoredScope,
    /// A [place](EmitBound::place) that needs the outermost of them; the only place of [one](BoundWindows::Once).
    place: i64,
    at: BoundWindows,
}

impl RankedValue for EmitBounds {
    /// The sooner an amount is beyond an emit bound, the lower its rank: that of a ceiling falls as it rises.
    fn rank(&self) -> i64 {
        toward(self.monitored.bound, EmitBound::of(self.monitored.bound, self.place).at)
    }
}

impl EmitBounds {
    /// The emit bounds as they are by window; `None` if there is none.
    fn new(monitored: MonitoredScope, steps: Steps<Option<EmitBound>>) -> Option<Self> {
        let emit_bounds = steps.ranges().filter_map(|(_, emit_bound)| emit_bound);
        let all = emit_bounds.reduce(|one, other| one.and(monitored.bound, other))?;
        let mut ranges = steps.ranges();
        let (place, at) = match (ranges.next(), ranges.next(), all.only_place(monitored.bound)) {
            (Some((WindowRange { from, until }, _)), None, Some(place)) => {
                (place, BoundWindows::Once(from.0, NonZeroU64::new(until.0)?))
            }
            _ => (all.at, BoundWindows::Steps(Rc::new(steps.clone()))),
        };
        Some(EmitBounds { monitored, place, at })
    }

    #[inline]
    fn at(&self, window: Window) -> Option<EmitBound> {
        match &self.at {
            BoundWindows::Once(from, until) => {
                let holds = *from <= window.0 && window.0 < until.get();
                holds.then(|| EmitBound::of(self.monitored.bound, self.place))
            }
            BoundWindows::Steps(steps) => steps.at(window),
        }
    }

    fn into_steps(self) -> Steps<Option<EmitBound>> {
        match self.at {
            BoundWindows::Once(from, until) => {
                let mut steps = Steps::default();
                let windows = WindowRange { from: Window(from), until: Window(until.get()) };
                let emit_bound = EmitBound::of(self.monitored.bound, self.place);
                steps.change(windows, |_| Some(emit_bound));
                steps
            }
            BoundWindows::Steps(steps) => Rc::unwrap_or_clone(steps),
        }
    }
}

/// The emit bounds of one bound and metric.
struct Kind {
    bound: Bound,
    index: PrefixIndex<EmitBounds>,
    /// By rank and window, the number of emit bounds that have the rank.
    ranks: BTreeMap<i64, Steps<u32>>,
}

impl Kind {
    /// The least rank of a window; the greatest there is if it has no emit bound.
    fn least_rank(&self, window: Window) -> i64 {
        let mut ranks = self.ranks.iter();
        ranks
            .find(|(_, emit_bounds)| emit_bounds.at(window) > 0)
            .map_or(i64::MAX, |(rank, _)| *rank)
    }

    fn count(&mut self, emit_bound: EmitBound, windows: WindowRange, diff: i32) {
        let rank = toward(self.bound, emit_bound.at);
        let emit_bounds = self.ranks.entry(rank).or_default();
        emit_bounds.change(windows, |emit_bounds| emit_bounds.wrapping_add_signed(diff));
        if emit_bounds.is_default() {
            self.ranks.remove(&rank);
        }
    }

    fn set(&mut self, change: &EmitBoundChange) {
        let EmitBoundChange { monitored, ref scope, windows, from, to } = *change;
        let (sources, destinations) = filter(scope);
        let held =
            self.index.remove(sources, destinations, |held| held.monitored.id == monitored.id);
        let mut steps = held.map(EmitBounds::into_steps).unwrap_or_default();
        steps.change(windows, |_| to);
        if let Some(emit_bounds) = EmitBounds::new(monitored, steps) {
            self.index.insert(sources, destinations, emit_bounds);
        }
        if let Some(emit_bound) = from {
            self.count(emit_bound, windows, -1);
        }
        if let Some(emit_bound) = to {
            self.count(emit_bound, windows, 1);
        }
    }
}

/// The order of the kinds, everywhere.
const KINDS: [(Bound, Metric); 4] = [
    (Bound::Max, Metric::Bytes),
    (Bound::Max, Metric::Packets),
    (Bound::Min, Metric::Bytes),
    (Bound::Min, Metric::Packets),
];

fn kind_of(monitored: MonitoredScope) -> usize {
    let kind = (monitored.bound, monitored.metric);
    KINDS.iter().position(|other| *other == kind).expect("each kind is one of them")
}

/// The emit bounds of all monitored scopes that look at tables of one kind: of pairs, or of one rollup.
pub(crate) struct EmitBoundIndex {
    /// Apart by bound and metric, so that each has its emit bounds in the order in which amounts pass them: an
    /// update looks at those that it passes, not at all that concern its entry.
    kinds: [Kind; 4],
    /// The number of times it has changed.
    generation: u64,
    /// Whether totals above a roof may be stale.
    has_roofs: bool,
    rejudged: RejudgedInTick,
}

/// Monitored scopes that look at amounts otherwise since a tick, in some windows: their totals are exact in it, if they
/// have such amounts.
#[derive(Default)]
struct RejudgedInTick {
    tick: u64,
    monitored_scopes: HashMap<u32, (WindowRange, AmountRange), RandomState>,
}

impl EmitBoundIndex {
    /// An index without emit bounds.
    pub(crate) fn new(updates: Updates) -> Self {
        let kind =
            |(bound, _)| Kind { bound, index: PrefixIndex::default(), ranks: BTreeMap::new() };
        EmitBoundIndex {
            kinds: KINDS.map(kind),
            // Tables start at generation 0: they have not read their emit bounds yet.
            generation: 1,
            has_roofs: updates < Updates::Tick,
            rejudged: RejudgedInTick::default(),
        }
    }

    /// Adds the amounts that limits of monitored scopes judge otherwise in a tick.
    pub(crate) fn rejudge(
        &mut self,
        tick: u64,
        emit_bounds: &EmitBoundChanges,
        rejudged: &[Rejudged],
    ) {
        if self.rejudged.tick != tick {
            self.rejudged = RejudgedInTick { tick, monitored_scopes: HashMap::default() };
        }
        let rejudged = rejudged.iter().map(|of| (of.monitored, of.windows, of.amounts));
        let new = emit_bounds.changes.iter().filter(|emit_bound| emit_bound.from.is_none());
        let new =
            new.map(|emit_bound| (emit_bound.monitored, emit_bound.windows, AmountRange::ALL));
        for (monitored, windows, amounts) in new.chain(rejudged) {
            let at =
                self.rejudged.monitored_scopes.entry(monitored.id).or_insert((windows, amounts));
            *at = (WindowRange::hull([at.0, windows].into_iter()), at.1.hull(amounts));
        }
    }

    /// The emit bound that applies to totals: without a roof if none may be stale above it.
    #[inline]
    fn emit_bound(&self, emit_bound: EmitBound) -> EmitBound {
        match self.has_roofs {
            true => emit_bound,
            false => EmitBound { roof: i64::MAX, ..emit_bound },
        }
    }

    /// The amounts of a monitored scope that are exact in a tick.
    #[inline]
    fn exact(&self, tick: u64, monitored: MonitoredScope, window: Window) -> Option<AmountRange> {
        let RejudgedInTick { tick: at, monitored_scopes } = &self.rejudged;
        if *at != tick {
            return None;
        }
        let (windows, amounts) = monitored_scopes.get(&monitored.id)?;
        windows.contains(window).then_some(*amounts)
    }

    /// Sets the emit bounds that limits need.
    pub(crate) fn set(&mut self, changes: &[EmitBoundChange]) {
        for change in changes {
            self.kinds[kind_of(change.monitored)].set(change);
        }
        self.generation += 1;
    }

    /// Whether a lower bound looks at any window.
    pub(crate) fn has_lower_bounds(&self) -> bool {
        self.kinds[2..].iter().any(|kind| !kind.ranks.is_empty())
    }

    /// Whether lower bounds look at a window.
    pub(crate) fn has_ceilings(&self, window: Window) -> bool {
        self.kinds[2..].iter().any(|kind| kind.least_rank(window) < i64::MAX)
    }
}

/// Emit bounds further outward than limits need, by monitored scope: those that a window has emitted totals by.
#[derive(Default)]
struct Kept {
    emit_bounds: HashMap<u32, EmitBound, RandomState>,
    kinds: [PrefixIndex<EmitBounds>; 4],
}

impl Kept {
    fn keep(&mut self, monitored: MonitoredScope, scope: &Scope, emit_bound: Option<EmitBound>) {
        let (sources, destinations) = filter(scope);
        let index = &mut self.kinds[kind_of(monitored)];
        if self.emit_bounds.remove(&monitored.id).is_some() {
            index.remove(sources, destinations, |held| held.monitored.id == monitored.id);
        }
        if let Some(emit_bound) = emit_bound {
            self.emit_bounds.insert(monitored.id, emit_bound);
            let mut steps = Steps::default();
            steps.change(WindowRange::ALL, |_| Some(emit_bound));
            if let Some(emit_bounds) = EmitBounds::new(monitored, steps) {
                index.insert(sources, destinations, emit_bounds);
            }
        }
    }
}

/// A table, with what it emits.
pub(crate) struct MonitoredTable {
    pub(crate) table: Table,
    window: Window,
    /// Whether lower bounds judge the window.
    observed: bool,
    /// The generation of the index from which `floors` and `ceilings` were taken.
    generation: u64,
    /// No emit bound is below (bytes, packets), so an update at or under both needs no look-up.
    floors: Volume,
    /// As `floors`, from above.
    ceilings: Volume,
    kept: Option<Box<Kept>>,
    stale: Option<Box<Stale>>,
}

impl MonitoredTable {
    /// The table of a window.
    pub(crate) fn new(window: Window, observed: bool) -> Self {
        MonitoredTable {
            table: Table::default(),
            window,
            observed,
            generation: 0,
            floors: Volume::default(),
            ceilings: Volume::default(),
            kept: None,
            stale: None,
        }
    }

    /// Lets lower bounds judge the window from now on. Before the next update, the caller emits each entry by
    /// [`MonitoredTable::emit_to_lower_bounds`].
    pub(crate) fn observe(&mut self) {
        self.observed = true;
        self.generation = 0;
    }

    /// Updates the floors and ceilings with which updates are compared, if the index has changed.
    #[inline]
    pub(crate) fn refresh(&mut self, index: &EmitBoundIndex) {
        if self.generation != index.generation {
            self.refresh_bounds(index);
        }
    }

    fn refresh_bounds(&mut self, index: &EmitBoundIndex) {
        let mut ranks = index.kinds.each_ref().map(|kind| kind.least_rank(self.window));
        if let Some(kept) = &self.kept {
            for (rank, kept) in ranks.iter_mut().zip(&kept.kinds) {
                *rank = (*rank).min(kept.least_rank());
            }
        }
        if !self.observed {
            ranks[2..].fill(i64::MAX);
        }
        let [floor_bytes, floor_packets, ceiling_bytes, ceiling_packets] = ranks;
        let ceiling = |rank| toward(Bound::Min, rank);
        self.floors = Volume::new(floor_bytes, floor_packets);
        self.ceilings = Volume::new(ceiling(ceiling_bytes), ceiling(ceiling_packets));
        self.generation = index.generation;
    }

    #[inline]
    fn within_bounds(&self, volume: Volume) -> bool {
        volume.bytes <= self.floors.bytes
            && volume.packets <= self.floors.packets
            && volume.bytes >= self.ceilings.bytes
            && volume.packets >= self.ceilings.packets
    }

    /// Adds to an entry that was looked up, and emits the updates that this makes.
    #[inline]
    pub(crate) fn add(
        &mut self,
        index: &EmitBoundIndex,
        found: Found,
        key: Key,
        place: impl FnOnce() -> Pair,
        delta: Volume,
        out: &mut impl Emit,
    ) -> Updated {
        let updated = self.table.add_found(found, key, delta);
        if !(self.within_bounds(updated.old) && self.within_bounds(updated.new)) {
            self.emit_changes(index, key, place, updated, out);
        }
        updated
    }

    /// Visits each monitored scope that looks at a place, with its emit bound here, and maybe some that amounts up to
    /// a rank do not pass.
    #[inline]
    fn emit_bounds(
        &self,
        index: &EmitBoundIndex,
        kind: usize,
        to: i64,
        place: Pair,
        mut found: impl FnMut(MonitoredScope, EmitBound),
    ) {
        if kind >= 2 && !self.observed {
            return;
        }
        let kept = self.kept.as_deref();
        index.kinds[kind].index.containing_to(to, place, |emit_bounds| {
            if let Some(emit_bound) = emit_bounds.at(self.window)
                && kept.is_none_or(|kept| !kept.emit_bounds.contains_key(&emit_bounds.monitored.id))
            {
                found(emit_bounds.monitored, emit_bound);
            }
        });
        if let Some(kept) = kept {
            kept.kinds[kind].containing_to(to, place, |emit_bounds| {
                if let Some(emit_bound) = emit_bounds.at(self.window) {
                    found(emit_bounds.monitored, emit_bound);
                }
            });
        }
    }

    #[inline(never)]
    fn emit_changes(
        &mut self,
        index: &EmitBoundIndex,
        key: Key,
        place: impl FnOnce() -> Pair,
        updated: Updated,
        out: &mut impl Emit,
    ) {
        let Updated { old, new, .. } = updated;
        if old == new {
            return;
        }
        let place = place();
        let mut stale = self.stale.take();
        let (tick, window) = (out.tick(), self.window);
        for (kind, (bound, metric)) in KINDS.into_iter().enumerate() {
            let [was, is] = [old, new].map(|volume| toward(bound, volume.amount(metric)));
            let outermost = match bound {
                Bound::Max => self.floors,
                Bound::Min => self.ceilings,
            };
            if was.max(is) <= toward(bound, outermost.amount(metric)) {
                continue;
            }
            self.emit_bounds(
                index,
                kind,
                was.max(is).saturating_sub(1),
                place,
                |monitored, emit_bound| {
                    let before = monitored.emits(emit_bound.at, old);
                    let after = monitored.emits(emit_bound.at, new);
                    let mut emitted_before = old;
                    let emit_bound = index.emit_bound(emit_bound);
                    if before && emit_bound.cell(was).is_some()
                        || after && emit_bound.cell(is) == Some(ABOVE_ROOF)
                    {
                        let exact = index.exact(tick, monitored, window);
                        let exact = exact.is_some_and(|amounts| amounts.contain(was));
                        let stale = stale.get_or_insert_default();
                        match stale.follow(
                            tick,
                            Move { monitored, emit_bound, key, old, new },
                            exact,
                        ) {
                            Some(volume) => emitted_before = volume,
                            None => return,
                        }
                    }
                    if before {
                        out.emit(monitored, monitored.total(key, emitted_before), -1);
                    }
                    if after {
                        out.emit(monitored, monitored.total(key, new), 1);
                    }
                    if before && (!after || is < was) {
                        out.receded(monitored, key);
                    }
                },
            );
        }
        self.stale = stale;
    }

    /// Removes and returns the stale totals of amounts that limits judge otherwise in a tick. The caller emits them
    /// before the next update.
    pub(crate) fn renew_rejudged(&mut self, index: &EmitBoundIndex, tick: u64) -> Option<Renewal> {
        let window = self.window;
        self.stale.as_mut()?.renew(|monitored| index.exact(tick, monitored, window))
    }

    /// Removes and returns the stale totals above roofs, in the same way.
    pub(crate) fn renew_above_roofs(&mut self) -> Option<Renewal> {
        let above = AmountRange { from: ABOVE_ROOF, to: ABOVE_ROOF };
        self.stale.as_mut()?.renew(|_| Some(above))
    }

    /// Emits (+1) or retracts (-1) an entry for some kinds. Returns the number of updates.
    fn emit_kinds(
        &self,
        index: &EmitBoundIndex,
        kinds: std::ops::Range<usize>,
        (place, key, volume): (impl FnOnce() -> Pair, Key, Volume),
        diff: isize,
        out: &mut impl Emit,
    ) -> usize {
        if self.within_bounds(volume) {
            return 0;
        }
        let place = place();
        let mut updates = 0;
        for kind in kinds {
            let (bound, metric) = KINDS[kind];
            let to = toward(bound, volume.amount(metric)).saturating_sub(1);
            self.emit_bounds(index, kind, to, place, |monitored, emit_bound| {
                if monitored.emits(emit_bound.at, volume) {
                    let stale = self.stale.as_ref().filter(|_| diff < 0);
                    let stale = stale.and_then(|held| {
                        held.emitted_before(monitored, index.emit_bound(emit_bound), key, volume)
                    });
                    out.emit(monitored, monitored.total(key, stale.unwrap_or(volume)), diff);
                    updates += 1;
                }
            });
        }
        updates
    }

    /// Emits an entry to the monitored scopes of lower bounds, of a table that is [observed](MonitoredTable::observe)
    /// anew.
    pub(crate) fn emit_to_lower_bounds(
        &self,
        index: &EmitBoundIndex,
        place: impl FnOnce() -> Pair,
        key: Key,
        volume: Volume,
        out: &mut impl Emit,
    ) -> usize {
        self.emit_kinds(index, 2..4, (place, key, volume), 1, out)
    }

    /// Retracts the emitted totals of an entry.
    pub(crate) fn retract(
        &self,
        index: &EmitBoundIndex,
        place: impl FnOnce() -> Pair,
        key: Key,
        volume: Volume,
        out: &mut impl Emit,
    ) -> usize {
        self.emit_kinds(index, 0..4, (place, key, volume), -1, out)
    }

    /// Whether nothing was emitted of this table.
    pub(crate) fn has_emitted_nothing(&self) -> bool {
        let (floors, ceilings) = (self.floors, self.ceilings);
        let none = Volume::new(i64::MAX, i64::MAX);
        floors == none && ceilings == Volume::new(i64::MIN, i64::MIN)
    }

    /// Applies the changes of emit bounds that concern this window; the index has them already. Before the next
    /// update, the caller emits the updates that the returned moves make for each entry.
    ///
    /// An emit bound that would move inward stays where it is as long as `holds` says that the table has totals.
    pub(crate) fn move_bounds(
        &mut self,
        index: &EmitBoundIndex,
        changes: &Rc<EmitBoundChanges>,
        holds: bool,
    ) -> Option<Moves> {
        let mut exceptions = Exceptions::default();
        let mut moves = false;
        for (at, change) in (0..).zip(&changes.changes) {
            let EmitBoundChange { monitored, ref scope, windows, from, to } = *change;
            if !windows.contains(self.window) {
                continue;
            }
            let kept =
                self.kept.as_ref().and_then(|kept| kept.emit_bounds.get(&monitored.id)).copied();
            let before = kept.or(from);
            let shows = holds && (monitored.bound == Bound::Max || self.observed);
            let after = match (before, to) {
                (Some(before), Some(to)) if shows => {
                    Some(EmitBound { at: outermost(monitored.bound, before.at, to.at), ..to })
                }
                _ => to,
            };
            if kept.is_some() || after != to {
                let kept = self.kept.get_or_insert_default();
                kept.keep(monitored, scope, after.filter(|_| after != to));
            }
            if (before, after) != (from, to) {
                exceptions.insert(at, (before, after));
            }
            moves |= shows
                && before.map(|emit_bound| emit_bound.at) != after.map(|emit_bound| emit_bound.at);
        }
        if self.kept.as_ref().is_some_and(|kept| kept.emit_bounds.is_empty()) {
            self.kept = None;
        }
        self.refresh_bounds(index);
        let (window, observed) = (self.window, self.observed);
        moves.then(|| Moves::new(changes.clone(), window, observed, exceptions))
    }
}
