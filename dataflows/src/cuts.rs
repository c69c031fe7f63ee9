//! The cuts of all gauges, at hand where totals change: which gauges look at an entry, and beyond what.
//!
//! All windows share one [`CutIndex`] for each kind of table: a cut is in it once, with the windows that it
//! is for. So a limit costs the same however many windows there are. A window whose totals were put out by
//! a cut that has moved inward since keeps that one ([`Kept`]): to move inward costs a walk of the table,
//! and outward again with the next limit another one. What moves within a cell stays as it was put out
//! ([`Stale`]).

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::rc::Rc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::gauge::{ABOVE_ROOF, Amounts, Cut, CutChange, Gauge, Rejudged, outermost};
use crate::key::Key;
use crate::moves::{CutChanges, Exceptions, Moves};
use crate::prefix_index::{PrefixIndex, Ranked};
use crate::put_out::{PutOut, filter};
use crate::ranges::Steps;
use crate::stale::{Move, Renewal, Stale};
use crate::table::{Found, Table, Updated};
use crate::time::{Window, WindowRange};
use crate::types::{Bound, Metric, Pair, Scope, Updates, Volume};

/// An amount or a cut, so that amounts greater than a cut are those beyond it.
fn toward(bound: Bound, amount: i64) -> i64 {
    match bound {
        Bound::Max => amount,
        Bound::Min => !amount,
    }
}

/// The windows of a cut. Nearly all gauges have the cut of one limit in one range, which takes no more than two
/// words.
#[derive(Clone)]
enum Where {
    /// The cut of the place, in these windows: not those before the first, nor from the second on.
    Once(u64, NonZeroU64),
    /// By window.
    Steps(Rc<Steps<Option<Cut>>>),
}

/// The cuts of a gauge.
#[derive(Clone)]
struct Cuts {
    gauge: Gauge,
    /// A [place](Cut::place) that needs the outermost of them, and the only one if they are [one](Where::Once).
    place: i64,
    at: Where,
}

impl Ranked for Cuts {
    /// The sooner an amount is beyond a cut, the lower its rank: that of a ceiling falls as it rises.
    fn rank(&self) -> i64 {
        toward(self.gauge.bound, Cut::of(self.gauge.bound, self.place).at)
    }
}

impl Cuts {
    /// The cuts as they are by window; `None` if there is none.
    fn new(gauge: Gauge, steps: Steps<Option<Cut>>) -> Option<Self> {
        let cuts = steps.ranges().filter_map(|(_, cut)| cut);
        let all = cuts.reduce(|one, other| one.and(gauge.bound, other))?;
        let mut ranges = steps.ranges();
        let (place, at) = match (ranges.next(), ranges.next(), all.only_place(gauge.bound)) {
            (Some((WindowRange { from, until }, _)), None, Some(place)) => {
                (place, Where::Once(from.0, NonZeroU64::new(until.0)?))
            }
            _ => (all.at, Where::Steps(Rc::new(steps.clone()))),
        };
        Some(Cuts { gauge, place, at })
    }

    #[inline]
    fn at(&self, window: Window) -> Option<Cut> {
        match &self.at {
            Where::Once(from, until) => {
                let holds = *from <= window.0 && window.0 < until.get();
                holds.then(|| Cut::of(self.gauge.bound, self.place))
            }
            Where::Steps(steps) => steps.at(window),
        }
    }

    fn into_steps(self) -> Steps<Option<Cut>> {
        match self.at {
            Where::Once(from, until) => {
                let mut steps = Steps::default();
                let windows = WindowRange { from: Window(from), until: Window(until.get()) };
                let cut = Cut::of(self.gauge.bound, self.place);
                steps.change(windows, |_| Some(cut));
                steps
            }
            Where::Steps(steps) => Rc::unwrap_or_clone(steps),
        }
    }
}

/// The cuts of one bound and metric.
struct Kind {
    bound: Bound,
    index: PrefixIndex<Cuts>,
    /// By rank, how many cuts have it, by window.
    ranks: BTreeMap<i64, Steps<u32>>,
}

impl Kind {
    /// The least rank of a window; the greatest there is if it has no cut.
    fn least_rank(&self, window: Window) -> i64 {
        let mut ranks = self.ranks.iter();
        ranks.find(|(_, cuts)| cuts.at(window) > 0).map_or(i64::MAX, |(rank, _)| *rank)
    }

    fn count(&mut self, cut: Cut, windows: WindowRange, diff: i32) {
        let rank = toward(self.bound, cut.at);
        let cuts = self.ranks.entry(rank).or_default();
        cuts.change(windows, |cuts| cuts.wrapping_add_signed(diff));
        if cuts.is_default() {
            self.ranks.remove(&rank);
        }
    }

    fn set(&mut self, change: &CutChange) {
        let CutChange { gauge, ref scope, windows, from, to } = *change;
        let (sources, destinations) = filter(scope);
        let held = self.index.remove(sources, destinations, |held| held.gauge.id == gauge.id);
        let mut steps = held.map(Cuts::into_steps).unwrap_or_default();
        steps.change(windows, |_| to);
        if let Some(cuts) = Cuts::new(gauge, steps) {
            self.index.insert(sources, destinations, cuts);
        }
        if let Some(cut) = from {
            self.count(cut, windows, -1);
        }
        if let Some(cut) = to {
            self.count(cut, windows, 1);
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

fn kind_of(gauge: Gauge) -> usize {
    let kind = (gauge.bound, gauge.metric);
    KINDS.iter().position(|other| *other == kind).expect("each kind is one of them")
}

/// The cuts of all gauges that look at tables of one kind: of pairs, or of one rollup.
pub(crate) struct CutIndex {
    /// Apart by bound and metric, so that each has its cuts in the order in which amounts pass them: an
    /// update looks at those that it passes, not at all that concern its entry.
    kinds: [Kind; 4],
    /// The number of times it has changed.
    generation: u64,
    /// Whether totals above a roof may be stale.
    has_roofs: bool,
    rejudged: RejudgedInTick,
}

/// Gauges that look at amounts otherwise since a tick, in some windows: their totals are exact in it, if they
/// have such amounts.
#[derive(Default)]
struct RejudgedInTick {
    tick: u64,
    gauges: HashMap<u32, (WindowRange, Amounts), RandomState>,
}

impl CutIndex {
    /// An index without cuts.
    pub(crate) fn new(updates: Updates) -> Self {
        let kind =
            |(bound, _)| Kind { bound, index: PrefixIndex::default(), ranks: BTreeMap::new() };
        CutIndex {
            kinds: KINDS.map(kind),
            // Tables begin at generation 0, and have not looked at their cuts then.
            generation: 1,
            has_roofs: updates < Updates::Tick,
            rejudged: RejudgedInTick::default(),
        }
    }

    /// Takes note that gauges look at amounts otherwise since a tick.
    pub(crate) fn rejudge(&mut self, tick: u64, cuts: &CutChanges, rejudged: &[Rejudged]) {
        if self.rejudged.tick != tick {
            self.rejudged = RejudgedInTick { tick, gauges: HashMap::default() };
        }
        let rejudged = rejudged.iter().map(|of| (of.gauge, of.windows, of.amounts));
        let new = cuts.changes.iter().filter(|cut| cut.from.is_none());
        let new = new.map(|cut| (cut.gauge, cut.windows, Amounts::ALL));
        for (gauge, windows, amounts) in new.chain(rejudged) {
            let at = self.rejudged.gauges.entry(gauge.id).or_insert((windows, amounts));
            *at = (WindowRange::hull([at.0, windows].into_iter()), at.1.hull(amounts));
        }
    }

    /// A cut as totals are held to it.
    #[inline]
    fn cut(&self, cut: Cut) -> Cut {
        match self.has_roofs {
            true => cut,
            false => Cut { roof: i64::MAX, ..cut },
        }
    }

    /// The amounts of a gauge that are exact in a tick.
    #[inline]
    fn exact(&self, tick: u64, gauge: Gauge, window: Window) -> Option<Amounts> {
        let RejudgedInTick { tick: at, gauges } = &self.rejudged;
        if *at != tick {
            return None;
        }
        let (windows, amounts) = gauges.get(&gauge.id)?;
        windows.contains(window).then_some(*amounts)
    }

    /// Sets the cuts that limits need.
    pub(crate) fn set(&mut self, changes: &[CutChange]) {
        for change in changes {
            self.kinds[kind_of(change.gauge)].set(change);
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

/// Cuts further outward than limits need, by gauge: those that a window has put out totals by.
#[derive(Default)]
struct Kept {
    cuts: HashMap<u32, Cut, RandomState>,
    kinds: [PrefixIndex<Cuts>; 4],
}

impl Kept {
    fn keep(&mut self, gauge: Gauge, scope: &Scope, cut: Option<Cut>) {
        let (sources, destinations) = filter(scope);
        let index = &mut self.kinds[kind_of(gauge)];
        if self.cuts.remove(&gauge.id).is_some() {
            index.remove(sources, destinations, |held| held.gauge.id == gauge.id);
        }
        if let Some(cut) = cut {
            self.cuts.insert(gauge.id, cut);
            let mut steps = Steps::default();
            steps.change(WindowRange::ALL, |_| Some(cut));
            if let Some(cuts) = Cuts::new(gauge, steps) {
                index.insert(sources, destinations, cuts);
            }
        }
    }
}

/// A table, with what it puts out.
pub(crate) struct Gauged {
    pub(crate) table: Table,
    window: Window,
    /// Whether lower bounds judge the window.
    observed: bool,
    /// Of the index, when the bounds below were taken from it.
    generation: u64,
    /// No cut is below (bytes, packets), so what stays at or under both needs no look at the cuts.
    floors: Volume,
    /// The same from above, for ceilings.
    ceilings: Volume,
    kept: Option<Box<Kept>>,
    stale: Option<Box<Stale>>,
}

impl Gauged {
    /// The table of a window.
    pub(crate) fn new(window: Window, observed: bool) -> Self {
        Gauged {
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

    /// Lower bounds judge the window from now on. What they look at must be put out by
    /// [`Gauged::show_ceilings`] of each entry before the next update.
    pub(crate) fn observe(&mut self) {
        self.observed = true;
        self.generation = 0;
    }

    /// Takes from the index what the next updates are compared with.
    #[inline]
    pub(crate) fn refresh(&mut self, index: &CutIndex) {
        if self.generation != index.generation {
            self.bound_cuts(index);
        }
    }

    fn bound_cuts(&mut self, index: &CutIndex) {
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
    fn within_cuts(&self, volume: Volume) -> bool {
        volume.bytes <= self.floors.bytes
            && volume.packets <= self.floors.packets
            && volume.bytes >= self.ceilings.bytes
            && volume.packets >= self.ceilings.packets
    }

    /// Adds to an entry that was looked for, and puts out what that changes.
    #[inline]
    pub(crate) fn add(
        &mut self,
        index: &CutIndex,
        found: Found,
        key: Key,
        place: impl FnOnce() -> Pair,
        delta: Volume,
        out: &mut impl PutOut,
    ) -> Updated {
        let updated = self.table.add_found(found, key, delta);
        if !(self.within_cuts(updated.old) && self.within_cuts(updated.new)) {
            self.show(index, key, place, updated, out);
        }
        updated
    }

    /// Visits each gauge that looks at a place, with its cut here, and maybe some that amounts up to a rank
    /// do not pass.
    #[inline]
    fn cuts(
        &self,
        index: &CutIndex,
        kind: usize,
        to: i64,
        place: Pair,
        mut found: impl FnMut(Gauge, Cut),
    ) {
        if kind >= 2 && !self.observed {
            return;
        }
        let kept = self.kept.as_deref();
        index.kinds[kind].index.containing_to(to, place, |cuts| {
            if let Some(cut) = cuts.at(self.window)
                && kept.is_none_or(|kept| !kept.cuts.contains_key(&cuts.gauge.id))
            {
                found(cuts.gauge, cut);
            }
        });
        if let Some(kept) = kept {
            kept.kinds[kind].containing_to(to, place, |cuts| {
                if let Some(cut) = cuts.at(self.window) {
                    found(cuts.gauge, cut);
                }
            });
        }
    }

    #[inline(never)]
    fn show(
        &mut self,
        index: &CutIndex,
        key: Key,
        place: impl FnOnce() -> Pair,
        updated: Updated,
        out: &mut impl PutOut,
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
            self.cuts(index, kind, was.max(is).saturating_sub(1), place, |gauge, cut| {
                let before = gauge.puts_out(cut.at, old);
                let after = gauge.puts_out(cut.at, new);
                let mut put_before = old;
                let cut = index.cut(cut);
                if before && cut.cell(was).is_some() || after && cut.cell(is) == Some(ABOVE_ROOF) {
                    let exact = index.exact(tick, gauge, window);
                    let exact = exact.is_some_and(|amounts| amounts.contain(was));
                    let stale = stale.get_or_insert_default();
                    match stale.follow(tick, Move { gauge, cut, key, old, new }, exact) {
                        Some(volume) => put_before = volume,
                        None => return,
                    }
                }
                if before {
                    out.put(gauge, gauge.total(key, put_before), -1);
                }
                if after {
                    out.put(gauge, gauge.total(key, new), 1);
                }
                if before && (!after || is < was) {
                    out.recedes(gauge, key);
                }
            });
        }
        self.stale = stale;
    }

    /// Takes what is stale where gauges look otherwise since a tick. It must be put out before the next
    /// update.
    pub(crate) fn renew_rejudged(&mut self, index: &CutIndex, tick: u64) -> Option<Renewal> {
        let window = self.window;
        self.stale.as_mut()?.renew(|gauge| index.exact(tick, gauge, window))
    }

    /// Takes what is stale above roofs, in the same way.
    pub(crate) fn renew_above_roofs(&mut self) -> Option<Renewal> {
        let above = Amounts { from: ABOVE_ROOF, to: ABOVE_ROOF };
        self.stale.as_mut()?.renew(|_| Some(above))
    }

    /// Puts out (+1) or takes back (-1) an entry for some kinds. Returns how many updates that are.
    fn show_kinds(
        &self,
        index: &CutIndex,
        kinds: std::ops::Range<usize>,
        (place, key, volume): (impl FnOnce() -> Pair, Key, Volume),
        diff: isize,
        out: &mut impl PutOut,
    ) -> usize {
        if self.within_cuts(volume) {
            return 0;
        }
        let place = place();
        let mut updates = 0;
        for kind in kinds {
            let (bound, metric) = KINDS[kind];
            let to = toward(bound, volume.amount(metric)).saturating_sub(1);
            self.cuts(index, kind, to, place, |gauge, cut| {
                if gauge.puts_out(cut.at, volume) {
                    let stale = self.stale.as_ref().filter(|_| diff < 0);
                    let stale =
                        stale.and_then(|held| held.put_before(gauge, index.cut(cut), key, volume));
                    out.put(gauge, gauge.total(key, stale.unwrap_or(volume)), diff);
                    updates += 1;
                }
            });
        }
        updates
    }

    /// Puts out an entry to the gauges of lower bounds, of a table that is [observed](Gauged::observe) anew.
    pub(crate) fn show_ceilings(
        &self,
        index: &CutIndex,
        place: impl FnOnce() -> Pair,
        key: Key,
        volume: Volume,
        out: &mut impl PutOut,
    ) -> usize {
        self.show_kinds(index, 2..4, (place, key, volume), 1, out)
    }

    /// Takes back what was put out of an entry.
    pub(crate) fn take_back(
        &self,
        index: &CutIndex,
        place: impl FnOnce() -> Pair,
        key: Key,
        volume: Volume,
        out: &mut impl PutOut,
    ) -> usize {
        self.show_kinds(index, 0..4, (place, key, volume), -1, out)
    }

    /// Whether nothing was put out of this table.
    pub(crate) fn shows_nothing(&self) -> bool {
        let (floors, ceilings) = (self.floors, self.ceilings);
        let none = Volume::new(i64::MAX, i64::MAX);
        floors == none && ceilings == Volume::new(i64::MIN, i64::MIN)
    }

    /// Takes the changes of cuts that concern this window, which are in the index already. What the returned
    /// moves show of each entry must be put out before the next update.
    ///
    /// A cut that would move inward stays where it is as long as `holds` says that the table has totals.
    pub(crate) fn move_cuts(
        &mut self,
        index: &CutIndex,
        changes: &Rc<CutChanges>,
        holds: bool,
    ) -> Option<Moves> {
        let mut exceptions = Exceptions::default();
        let mut moves = false;
        for (at, change) in (0..).zip(&changes.changes) {
            let CutChange { gauge, ref scope, windows, from, to } = *change;
            if !windows.contains(self.window) {
                continue;
            }
            let kept = self.kept.as_ref().and_then(|kept| kept.cuts.get(&gauge.id)).copied();
            let before = kept.or(from);
            let shows = holds && (gauge.bound == Bound::Max || self.observed);
            let after = match (before, to) {
                (Some(before), Some(to)) if shows => {
                    Some(Cut { at: outermost(gauge.bound, before.at, to.at), ..to })
                }
                _ => to,
            };
            if kept.is_some() || after != to {
                let kept = self.kept.get_or_insert_default();
                kept.keep(gauge, scope, after.filter(|_| after != to));
            }
            if (before, after) != (from, to) {
                exceptions.insert(at, (before, after));
            }
            moves |= shows && before.map(|cut| cut.at) != after.map(|cut| cut.at);
        }
        if self.kept.as_ref().is_some_and(|kept| kept.cuts.is_empty()) {
            self.kept = None;
        }
        self.bound_cuts(index);
        let (window, observed) = (self.window, self.observed);
        moves.then(|| Moves::new(changes.clone(), window, observed, exceptions))
    }
}
