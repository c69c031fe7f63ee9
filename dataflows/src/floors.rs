//! Derives the emit bounds of monitored scopes from rules: they decide which totals are emitted.

use std::hash::BuildHasher;

use differential_dataflow::{AsCollection, VecCollection};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;

use crate::limits::{Judge, Rule, Ruling};
use crate::monitored::{
    AmountRange, EmitBound, EmitBoundChange, MonitoredScope, Rejudged, ScopeChange,
};
use crate::ranges::Steps;
use crate::threshold::Threshold;
use crate::time::{Time, Timed, WindowRange};
use crate::types::{Bound, LimitId, Per, Scope, Updates};
use crate::wiring::{Place, Wiring};

/// The [places](EmitBound::place) at which the limits of one monitored scope need emit bounds, and in which windows.
#[derive(Default)]
enum Needs {
    #[default]
    Nothing,
    /// Most monitored scopes have one limit, and that one version.
    One(i64, WindowRange),
    /// By place, the number of rules that need it.
    Many(Vec<(i64, Steps<u32>)>),
}

impl Needs {
    fn update(&mut self, place: i64, windows: WindowRange, diff: isize) {
        match self {
            Needs::Nothing if diff == 1 => *self = Needs::One(place, windows),
            Needs::One(one, range) if diff == -1 && (*one, *range) == (place, windows) => {
                *self = Needs::Nothing;
            }
            _ => {
                let needs = self.many();
                let at = needs.iter().position(|(other, _)| *other == place).unwrap_or_else(|| {
                    needs.push((place, Steps::default()));
                    needs.len() - 1
                });
                let add = |rules: u32| rules.wrapping_add_signed(diff as i32);
                needs[at].1.change(windows, add);
                if needs[at].1.is_default() {
                    needs.swap_remove(at);
                }
                if needs.is_empty() {
                    *self = Needs::Nothing;
                }
            }
        }
    }

    fn many(&mut self) -> &mut Vec<(i64, Steps<u32>)> {
        if !matches!(self, Needs::Many(_)) {
            let mut needs = Vec::new();
            if let Needs::One(place, windows) = *self {
                let mut rules = Steps::default();
                rules.change(windows, |_| 1);
                needs.push((place, rules));
            }
            *self = Needs::Many(needs);
        }
        match self {
            Needs::Many(needs) => needs,
            _ => unreachable!("it was just made so"),
        }
    }

    /// The emit bound of each window of a range: that of all rules that judge it.
    fn emit_bounds(&self, bound: Bound, range: WindowRange) -> Steps<Option<EmitBound>> {
        let mut emit_bounds = Steps::default();
        let mut need = |place: i64, windows: WindowRange| {
            let emit_bound = EmitBound::of(bound, place);
            let both = |other: Option<EmitBound>| {
                Some(other.map_or(emit_bound, |other| other.and(bound, emit_bound)))
            };
            emit_bounds.change(windows.and(range), both);
        };
        match self {
            Needs::Nothing => {}
            Needs::One(place, windows) => need(*place, *windows),
            Needs::Many(needs) => {
                for (place, rules) in needs {
                    let pieces = rules.pieces(range).filter(|(_, rules)| *rules > 0);
                    pieces.for_each(|(windows, _)| need(*place, windows));
                }
            }
        }
        emit_bounds
    }
}

/// A monitored scope, and the emit bounds that its limits need.
struct ScopeInUse {
    monitored: MonitoredScope,
    scope: Scope,
    needs: Needs,
}

/// Monitored scopes by their number.
#[derive(Default)]
struct MonitoredScopes {
    numbers: HashTable<u32>,
    hasher: RandomState,
    /// Free numbers have `None`.
    in_use: Vec<Option<ScopeInUse>>,
    free: Vec<u32>,
    /// Numbers that the tick has freed: nothing else has one of them before it ends.
    leaving: Vec<u32>,
    tick: u64,
}

impl MonitoredScopes {
    fn hash(&self, number: u32) -> u64 {
        let in_use = self.in_use[number as usize].as_ref();
        in_use.map_or(0, |in_use| self.hasher.hash_one((in_use.scope, in_use.monitored.bound)))
    }

    /// The number of a monitored scope: a new number if none of its limits was in use.
    fn number(&mut self, scope: Scope, bound: Bound) -> u32 {
        let hash = self.hasher.hash_one((scope, bound));
        let is_match = |number: &u32| {
            let in_use = self.in_use[*number as usize].as_ref();
            in_use.is_some_and(|held| held.scope == scope && held.monitored.bound == bound)
        };
        if let Some(number) = self.numbers.find(hash, is_match) {
            return *number;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.in_use.push(None);
            u32::try_from(self.in_use.len() - 1).expect("fewer than 2^32 monitored_scopes in use")
        });
        let monitored = MonitoredScope { id, per: scope.per, metric: scope.metric, bound };
        self.in_use[id as usize] = Some(ScopeInUse { monitored, scope, needs: Needs::Nothing });
        let MonitoredScopes { numbers, hasher, in_use, .. } = self;
        numbers.insert_unique(hash, id, |number| {
            let in_use = in_use[*number as usize].as_ref();
            in_use.map_or(0, |held| hasher.hash_one((held.scope, held.monitored.bound)))
        });
        id
    }

    /// Begins with the work of a time: the numbers that an earlier tick has freed may be used again.
    fn begin(&mut self, time: Time) {
        if time.tick > self.tick {
            self.tick = time.tick;
            self.free.append(&mut self.leaving);
        }
    }

    /// Applies the changes of the rules of one monitored scope at one time, and appends their effects to
    /// `changes`.
    fn update(
        &mut self,
        scope: Scope,
        bound: Bound,
        rules: &[(Rule, isize)],
        updates: Updates,
        changes: &mut Vec<ScopeChange>,
    ) -> MonitoredScope {
        let number = self.number(scope, bound);
        let held = self.in_use[number as usize].as_mut().expect("a number in use");
        let monitored = held.monitored;
        let hull = WindowRange::hull(rules.iter().map(|(rule, _)| rule.windows));
        let mut rejudge = |windows: WindowRange, amounts: AmountRange| {
            changes.push(ScopeChange::Rejudged(Rejudged { monitored, scope, windows, amounts }));
        };
        if bound == Bound::Max && !matches!(held.needs, Needs::Nothing) {
            rejudged_by(rules, updates, &mut rejudge);
        }
        let mut moved = Vec::new();
        let mut emit_bounds = held.needs.emit_bounds(bound, hull);
        for (rule, diff) in rules {
            held.needs.update(EmitBound::place(bound, rule.value), rule.windows, *diff);
        }
        let after = held.needs.emit_bounds(bound, hull);
        for (piece, to) in after.pieces(hull) {
            emit_bounds.update(
                piece,
                |_| to,
                |windows, from, to| {
                    match (from, to) {
                        // Limits tell amounts above the old roof apart now.
                        (Some(from), Some(to)) if from.roof < to.roof => {
                            rejudge(windows, AmountRange { from: from.roof, to: to.roof });
                        }
                        (Some(_), None) => rejudge(windows, AmountRange::ALL),
                        _ => {}
                    }
                    moved.push(EmitBoundChange { monitored, scope, windows, from, to });
                },
            );
        }
        changes.extend(moved.into_iter().map(ScopeChange::EmitBound));
        if matches!(held.needs, Needs::Nothing) {
            let hash = self.hash(number);
            if let Ok(entry) = self.numbers.find_entry(hash, |other| *other == number) {
                entry.remove();
            }
            self.in_use[number as usize] = None;
            self.leaving.push(number);
        }
        monitored
    }
}

/// Calls `rejudge` with the windows and amounts that limits judge otherwise from now on. Another version of a
/// limit with the same value counts, too, if it is published before a window settles.
fn rejudged_by(
    rules: &[(Rule, isize)],
    updates: Updates,
    rejudge: &mut impl FnMut(WindowRange, AmountRange),
) {
    let mut of_limits: Vec<_> = rules.iter().collect();
    of_limits.sort_unstable_by_key(|(rule, _)| rule.limit);
    for rules in of_limits.chunk_by(|(one, _), (other, _)| one.limit == other.limit) {
        let (mut before, mut after) = (Steps::default(), Steps::default());
        for (rule, diff) in rules {
            let values = if *diff < 0 { &mut before } else { &mut after };
            values.change(rule.windows, |_| Some(rule.value));
        }
        let hull = WindowRange::hull(rules.iter().map(|(rule, _)| rule.windows));
        for (windows, after) in after.pieces(hull) {
            for (windows, before) in before.pieces(windows) {
                if let Some(amounts) = amounts_rejudged(before, after, updates) {
                    rejudge(windows, amounts);
                }
            }
        }
    }
}

/// The amounts that a limit judges otherwise when its value changes.
fn amounts_rejudged(
    before: Option<i64>,
    after: Option<i64>,
    updates: Updates,
) -> Option<AmountRange> {
    let emit_bound = |value| EmitBound::of(Bound::Max, EmitBound::place(Bound::Max, value));
    match (before, after) {
        (None, None) => None,
        (Some(before), Some(after)) if updates == Updates::Settled => {
            let both = emit_bound(before).and(Bound::Max, emit_bound(after));
            (before != after).then_some(AmountRange { from: both.floor, to: both.roof })
        }
        (one, other) => {
            let least = one.into_iter().chain(other).min()?;
            Some(AmountRange { from: emit_bound(least).floor, to: i64::MAX })
        }
    }
}

/// The streams of [`floors`].
pub struct Floors<'scope> {
    /// Thresholds by the monitored scope that they read.
    pub thresholds: VecCollection<'scope, Time, (MonitoredScope, Threshold<LimitId>), isize>,
    /// The rules in the form that the changes operator needs.
    pub rulings: VecCollection<'scope, Time, Ruling, isize>,
    /// Changes of monitored scopes that look at pairs.
    pub of_pairs: StreamVec<'scope, Time, Timed<ScopeChange>>,
    /// Changes of monitored scopes that look at rollups.
    pub of_rollups: StreamVec<'scope, Time, Timed<ScopeChange>>,
}

/// The thresholds under the monitored scope that they read, and each move of a monitored scope's emit bound.
///
/// # In
/// `rules`: the same on every worker.
///
/// # Out
/// Thresholds keyed by monitored scope, for the [`threshold_join`](mod@crate::threshold_join), and emit bounds for
/// the traffic tables, at the same times; an emit bound that does not move is not repeated. The tables also
/// receive the amounts that limits judge otherwise ([`Rejudged`]). Each worker numbers monitored scopes for
/// itself: no output may be exchanged.
///
/// # Keeps
/// For each monitored scope the emit bounds that its rules need, by ranges of windows.
///
/// # Costs
/// Per changed rule a look-up, and the ranges that its monitored scope has within its own.
pub fn floors<'scope>(
    rules: VecCollection<'scope, Time, Rule, isize>,
    updates: Updates,
) -> Floors<'scope> {
    let mut wiring = Wiring::new("Floors", rules.inner.scope());
    wiring.input(rules.inner, Pipeline, |place: &mut Place<'_, Vec<_>>, (rule, time, diff)| {
        place.at(time).push((rule, diff));
    });
    let thresholds = wiring.output(|state: &mut FloorState| &mut state.thresholds);
    let rulings = wiring.output(|state| &mut state.rulings);
    let of_pairs = wiring.output(|state| &mut state.of_pairs);
    let of_rollups = wiring.output(|state| &mut state.of_rollups);
    wiring
        .build(FloorState::default(), move |state, time, rules| state.update(time, rules, updates));
    let (thresholds, rulings) = (thresholds.as_collection(), rulings.as_collection());
    Floors { thresholds, rulings, of_pairs, of_rollups }
}

/// The monitored scopes, and the outputs about them that are not sent.
#[derive(Default)]
struct FloorState {
    monitored_scopes: MonitoredScopes,
    thresholds: Vec<((MonitoredScope, Threshold<LimitId>), Time, isize)>,
    rulings: Vec<(Ruling, Time, isize)>,
    of_pairs: Vec<Timed<ScopeChange>>,
    of_rollups: Vec<Timed<ScopeChange>>,
}

impl FloorState {
    /// Applies the changes of rules of a time.
    fn update(&mut self, time: Time, mut rules: Vec<(Rule, isize)>, updates: Updates) {
        self.monitored_scopes.begin(time);
        let monitored = |(rule, _): &(Rule, isize)| (rule.scope, rule.bound);
        // Removals first: one rule for another leaves a monitored scope with one.
        rules.sort_unstable_by_key(|change| (monitored(change), change.1));
        let mut changes = Vec::new();
        for rules in rules.chunk_by(|one, other| monitored(one) == monitored(other)) {
            let (scope, bound) = monitored(&rules[0]);
            let monitored =
                self.monitored_scopes.update(scope, bound, rules, updates, &mut changes);
            for (rule, diff) in rules {
                let Rule { limit, bound, value, windows, .. } = rule;
                let judge = Judge::new(rule, monitored);
                let ruling = Ruling { limit: *limit, windows: *windows, judge };
                self.rulings.push((ruling, time, *diff));
                let threshold = Threshold {
                    limit: *limit,
                    bound: *bound,
                    value: *value,
                    from: windows.from.0,
                    until: windows.until.0,
                };
                self.thresholds.push(((monitored, threshold), time, *diff));
            }
            let of_scopes = match scope.per {
                Per::Pair => &mut self.of_pairs,
                _ => &mut self.of_rollups,
            };
            of_scopes.extend(changes.drain(..).map(|change| (change, time)));
        }
    }
}
