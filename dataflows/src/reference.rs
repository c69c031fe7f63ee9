//! The outputs of the computation, derived from scratch at every tick: for tests only.
//!
//! [`Reference`] keeps every input it was given and, at each tick, derives the outputs from all of them with maps
//! and loops. Nothing is carried from tick to tick but the inputs, so there is no state that could go wrong; the
//! price is work that grows with the square of the history. The incremental computation must have equal outputs.
//!
//! Read [`Reference::tick`] first: it forms the states that the phases of a tick leave ([`Phase`]), judges each of
//! them alike, and compares. Ticks are counted from 1 in here, so that "after `n` ticks" and "after the `n`th
//! tick" are the same, and 0 is before the first.

mod sums;

use std::collections::{BTreeMap, BTreeSet};

use self::sums::{add, due_ms, in_force, saturate, volumes};
use crate::time::{END_OF_INPUT, Phase, Window, Windows};
use crate::top::TopQuery;
use crate::types::{
    Bound, Change, Entity, Event, LimitId, Pair, Per, Reason, Scope, Updates, Version, Violation,
    Volume, WideVolume,
};

/// The input of one tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TickInput {
    /// Milliseconds; strictly increasing.
    pub tick: u64,
    /// Rows of limits that differ from those held: +1 for an added row, -1 for a removed one.
    pub edits: Vec<(Version, isize)>,
    /// Records that were counted and passed the filters. Corrections are negative; none follows a sum beyond 64
    /// bits.
    pub records: Vec<(Window, Pair, Volume)>,
    /// The windows of the counted records, before the filters.
    pub seen: Vec<Window>,
    /// Truncated partitions, each with the first event time read from it, if one was.
    pub truncated: Vec<(u32, Option<u64>)>,
    /// The moment at which observation begins, if that is at this tick, in milliseconds.
    pub begun: Option<u64>,
    /// The watermark of this tick; it never moves back.
    pub watermark: u64,
    /// The rules of time from this tick on, if they change; their width does not.
    pub rules: Option<Windows>,
}

/// The reason why a window exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// A counted record falls into it.
    Seen,
    /// It lies between two seen windows that are near enough to each other.
    Gap,
}

/// The outputs of one tick, and the state after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TickOutput {
    /// The violations that stand, in the windows that are held after the tick.
    pub violations: BTreeSet<Violation>,
    /// The changes published at this tick; at most one of each (limit, window, entity).
    pub changes: BTreeSet<Change>,
    /// The totals that are held after the tick; none is zero.
    pub held: BTreeMap<(Window, Pair), Volume>,
    /// The totals of the windows that left at this tick.
    pub retired: BTreeMap<(Window, Pair), Volume>,
    /// The totals of the whole windows that settled at this tick.
    pub settled: BTreeMap<(Window, Pair), Volume>,
    /// Of the windows that settled at this tick, in order: the entities with the greatest amounts,
    /// with their rank from 1.
    pub top: Vec<(Window, usize, Entity, Volume)>,
    /// The windows that are held after the tick and were not observed from their start on.
    pub partial: BTreeSet<Window>,
    /// The windows that are held after the tick.
    pub windows: BTreeMap<Window, Existence>,
    /// The packets of the records that came after their window had settled. Signed as corrections are, so that the
    /// sum does not depend on which records were added up before they were dropped.
    pub late_dropped: i64,
}

/// The identity of a violation: its `id` is a function of these.
type Id = (LimitId, Window, Entity);

/// The traffic of each window, without zeroes.
type Tables = BTreeMap<Window, BTreeMap<Pair, Volume>>;

/// The active violations of the `n`th tick: those before it, and those after each of its phases.
struct Phases<'a> {
    n: usize,
    before: ViolationsById,
    after: [ViolationsById; 4],
    states: &'a [State; 4],
}

impl Phases<'_> {
    /// Returns the first phase after which a violation is active, or is not.
    fn first(&self, id: &Id, is_active: bool) -> usize {
        let phase = self.after.iter().position(|after| after.contains_key(id) == is_active);
        phase.expect("the last state differs from the one before the tick")
    }
}

/// The inputs to the judgement of violations, at one moment.
struct State {
    /// The rows that have taken effect.
    rows: BTreeSet<Version>,
    /// The windows that exist and have not retired.
    windows: BTreeSet<Window>,
    /// The windows among these that have closed.
    closed: BTreeSet<Window>,
    /// The windows among these that were observed from their start on.
    whole: BTreeSet<Window>,
    /// The traffic, also of windows that have retired.
    tables: Tables,
}

/// The violations of a state: the volume of each entity over or under, and the version that judges it.
type ViolationsById = BTreeMap<Id, (Volume, Version)>;

/// The computation, from the whole history at every tick.
#[derive(Clone, Debug)]
pub struct Reference {
    windows: Windows,
    updates: Updates,
    top: Option<TopQuery>,
    history: Vec<TickInput>,
    /// For each number of ticks, functions of the history that are needed often.
    derived: Vec<Derived>,
}

/// The facts about windows that follow from a number of ticks.
#[derive(Clone, Debug)]
struct Derived {
    /// The rules of time.
    rules: Windows,
    /// Windows that end until then, in milliseconds, have settled.
    settled_until: u64,
    /// Windows that end until then retire at the next tick, or have retired.
    retired_until: u64,
    /// The [known windows](Reference::known_windows).
    known: BTreeSet<Window>,
}

impl Reference {
    /// A computation without any input yet.
    ///
    /// # Panics
    /// If `top` ranks hosts or totals.
    pub fn new(windows: Windows, updates: Updates, top: Option<TopQuery>) -> Self {
        assert!(
            top.is_none_or(|top| matches!(top.per, Per::Pair | Per::Source | Per::Destination)),
            "the top is of pairs, sources or destinations"
        );
        let none =
            Derived { rules: windows, settled_until: 0, retired_until: 0, known: BTreeSet::new() };
        Reference { windows, updates, top, history: Vec::new(), derived: vec![none] }
    }

    /// Accepts the input of the next tick, and returns its outputs and the state after it.
    ///
    /// # Panics
    /// If the tick or the watermark moves back, a row is added that is held or removed that is not, or two
    /// rows share limit and effective date.
    pub fn tick(&mut self, input: TickInput) -> TickOutput {
        self.history.push(input);
        let n = self.history.len();
        self.check_input(n);
        self.derived.push(self.derive(n));

        let before = self.state(n - 1, Phase::Retire);
        let states =
            [Phase::Rows, Phase::Dates, Phase::Data, Phase::Close].map(|p| self.state(n, p));
        let [_, _, _, closed] = &states;
        let left = self.state(n, Phase::Retire);

        let retired = closed.windows.difference(&left.windows);
        let totals = |window: &Window| {
            let window = *window;
            let table = closed.tables.get(&window).into_iter().flatten();
            table.map(move |(pair, volume)| ((window, *pair), *volume))
        };
        let seen = self.seen(n);
        let existence = |window: &Window| match seen.contains(window) {
            true => Existence::Seen,
            false => Existence::Gap,
        };
        let settles = |w: &Window| !self.too_late(n, *w) && self.settled(n, *w);
        let settled = closed.windows.iter().filter(|w| settles(w) && closed.whole.contains(w));
        let standing = self.standing(&left).into_iter();
        TickOutput {
            violations: standing.map(|(id, (volume, _))| violation(id, volume)).collect(),
            changes: self.changes(n, &before, &states),
            held: left.windows.iter().flat_map(totals).collect(),
            retired: retired.flat_map(totals).collect(),
            settled: settled.flat_map(totals).collect(),
            top: self.top(n, closed),
            partial: left.windows.difference(&left.whole).copied().collect(),
            windows: left.windows.iter().map(|w| (*w, existence(w))).collect(),
            late_dropped: self.late_dropped(n),
        }
    }

    /// Checks the obligations of the caller, for the `n`th tick.
    fn check_input(&self, n: usize) {
        let input = &self.history[n - 1];
        if n > 1 {
            assert!(self.tick_ms(n - 1) < input.tick, "ticks increase");
        }
        assert!(self.watermark(n - 1) <= input.watermark, "the watermark does not move back");
        let seen = input.seen.iter().chain(input.records.iter().map(|r| &r.0));
        for window in seen {
            assert_eq!(window.0 % self.windows.width_secs, 0, "windows are aligned");
        }
        let rows = self.rows(n);
        let dated: BTreeSet<_> = rows.iter().map(|row| (row.limit, row.effective)).collect();
        assert_eq!(rows.len(), dated.len(), "rows of one limit differ in date");
    }

    /// The `n`th tick in milliseconds.
    fn tick_ms(&self, n: usize) -> u64 {
        self.history[n - 1].tick
    }

    /// The watermark after `n` ticks; before the first, nothing has passed.
    fn watermark(&self, n: usize) -> u64 {
        match n {
            0 => 0,
            n => self.history[n - 1].watermark,
        }
    }

    /// Derives what follows from `n` ticks, of which all but the last one were derived.
    fn derive(&self, n: usize) -> Derived {
        let before = &self.derived[n - 1];
        let rules = self.history[n - 1].rules.unwrap_or(before.rules);
        let until = |after: Option<u64>| match (self.watermark(n), after) {
            (_, None) => 0,
            (END_OF_INPUT, Some(_)) => END_OF_INPUT,
            (watermark, Some(after)) => watermark.saturating_sub(after),
        };
        // The end of the input is past any lateness.
        let lateness = match self.watermark(n) {
            END_OF_INPUT => Some(0),
            _ => rules.lateness_ms,
        };
        let held = lateness.zip(rules.retention_ms);
        // No window returns to a state before when the rules change.
        Derived {
            rules,
            settled_until: before.settled_until.max(until(lateness)),
            retired_until: before.retired_until.max(until(held.map(|(late, kept)| late + kept))),
            known: self.known_windows(n, rules),
        }
    }

    /// Whether a window has closed in one of `n` ticks.
    fn closed(&self, n: usize, window: Window) -> bool {
        self.windows.end_ms(window) <= self.watermark(n)
    }

    /// Whether a window has settled in one of `n` ticks, by the rules of that tick.
    fn settled(&self, n: usize, window: Window) -> bool {
        self.windows.end_ms(window) <= self.derived[n].settled_until
    }

    /// Whether a record that enters at the `n`th tick comes too late for its window.
    fn too_late(&self, n: usize, window: Window) -> bool {
        self.settled(n - 1, window)
    }

    /// The rows of limits that are held after `n` ticks, in effect or not yet.
    fn rows(&self, n: usize) -> BTreeSet<Version> {
        let mut counts: BTreeMap<Version, isize> = BTreeMap::new();
        for input in &self.history[..n] {
            for (row, difference) in &input.edits {
                *counts.entry(*row).or_default() += difference;
            }
            counts.retain(|_, count| *count != 0);
            let whole = counts.values().all(|count| *count == 1);
            assert!(whole, "a row is held once or not at all");
        }
        counts.into_keys().collect()
    }

    /// The rows that have taken effect after a phase of the `n`th tick.
    fn rows_in_effect(&self, n: usize, phase: Phase) -> BTreeSet<Version> {
        if n == 0 {
            return BTreeSet::new();
        }
        let earlier = self.rows(n - 1);
        let mut rows = self.rows(n);
        rows.retain(|row| {
            // Rows are read with the clock of their tick; for those that wait the clock moves
            // only afterwards.
            let clock = match phase == Phase::Rows && earlier.contains(row) {
                true => self.tick_ms(n - 1),
                false => self.tick_ms(n),
            };
            due_ms(row.effective) <= i128::from(clock)
        });
        rows
    }

    /// The windows in which a record was counted, in `n` ticks, retired or not.
    fn seen(&self, n: usize) -> BTreeSet<Window> {
        let mut seen = BTreeSet::new();
        for (tick, input) in (1..).zip(&self.history[..n]) {
            let windows = input.seen.iter().chain(input.records.iter().map(|r| &r.0));
            seen.extend(windows.filter(|&&window| !self.too_late(tick, window)));
        }
        seen
    }

    /// The seen windows, and those between two successive ones that were near enough by the rules of the tick in which
    /// the later one of the two was seen first, in `n` ticks, retired or not.
    fn known_windows(&self, n: usize, rules: Windows) -> BTreeSet<Window> {
        let (before, seen) = (self.seen(n - 1), self.seen(n));
        let mut known = self.derived[n - 1].known.clone();
        known.extend(&seen);
        for (one, next) in seen.iter().zip(seen.iter().skip(1)) {
            let is_new = !(before.contains(one) && before.contains(next));
            if is_new && next.0 - one.0 <= rules.max_gap_secs {
                let between = (one.0..next.0).step_by(self.windows.width_secs as usize);
                known.extend(between.map(Window));
            }
        }
        known
    }

    /// The start of the first whole window after `n` ticks, in milliseconds; `None` while it is unknown.
    fn whole_from(&self, n: usize) -> Option<u64> {
        let mut firsts = BTreeMap::new();
        let mut from = 0;
        for input in &self.history[..n] {
            from = from.max(input.begun.unwrap_or(0));
            for (partition, first) in &input.truncated {
                firsts.insert(*partition, *first);
                // Not even a window that starts at that moment has all of its records.
                from = from.max(first.map_or(0, |first| first + 1));
            }
        }
        firsts.values().all(Option::is_some).then_some(from)
    }

    /// Whether a known window was observed from its start on, by the state after `n` ticks. A window stays what it
    /// was when it closed; a window that a late record brings about has closed already.
    fn whole(&self, n: usize, window: Window) -> bool {
        let existed = self.derived.partition_point(|derived| !derived.known.contains(&window));
        let closes = (0..=n).find(|n| self.closed(*n, window));
        let decided = closes.map_or(n, |closes| closes.max(existed)).min(n);
        self.whole_from(decided).is_some_and(|from| window.0 * 1000 >= from)
    }

    /// The windows that are held after `n` ticks.
    fn held_windows(&self, n: usize) -> BTreeSet<Window> {
        let mut windows = self.derived[n].known.clone();
        let retired_until = self.derived[n.saturating_sub(1)].retired_until;
        windows.retain(|&window| self.windows.end_ms(window) > retired_until);
        windows
    }

    /// The totals of all that was counted in `n` ticks.
    fn tables(&self, n: usize) -> Tables {
        let mut sums = BTreeMap::<Window, BTreeMap<Pair, WideVolume>>::new();
        for (tick, input) in (1..).zip(&self.history[..n]) {
            for (window, pair, volume) in &input.records {
                if !self.too_late(tick, *window) {
                    add(sums.entry(*window).or_default(), *pair, *volume);
                }
            }
        }
        sums.into_iter().map(|(window, sums)| (window, saturate(sums))).collect()
    }

    /// The state after a phase of the `n`th tick.
    fn state(&self, n: usize, phase: Phase) -> State {
        let before = n.saturating_sub(1);
        let existed = self.held_windows(before);
        let left = self.held_windows(n);
        let windows = match phase {
            Phase::Rows | Phase::Dates => existed.clone(),
            // A window that newly exists is held after the tick as well: it would not come to exist if it were to
            // retire at once.
            Phase::Data | Phase::Close => existed.union(&left).copied().collect(),
            Phase::Retire | Phase::Read => left,
        };
        let mut closed = windows.clone();
        match phase {
            // A window closes in the phase of closing and not earlier, unless a late record brings it
            // about: its end had passed in the tick before.
            Phase::Rows | Phase::Dates | Phase::Data => {
                let seen = self.seen(n);
                closed.retain(|window| {
                    (existed.contains(window) || seen.contains(window))
                        && self.closed(before, *window)
                });
            }
            Phase::Close | Phase::Retire | Phase::Read => {
                closed.retain(|window| self.closed(n, *window));
            }
        }
        let known = match phase {
            Phase::Rows | Phase::Dates => before,
            _ => n,
        };
        let whole = windows.iter().copied().filter(|window| self.whole(known, *window)).collect();
        State {
            rows: self.rows_in_effect(n, phase),
            windows,
            closed,
            whole,
            tables: match phase {
                Phase::Rows | Phase::Dates => self.tables(before),
                _ => self.tables(n),
            },
        }
    }

    /// Every violation of a state.
    fn standing(&self, state: &State) -> ViolationsById {
        let limits: BTreeSet<LimitId> = state.rows.iter().map(|row| row.limit).collect();
        let mut standing = ViolationsById::new();
        for &window in &state.windows {
            for &limit in &limits {
                let Some(version) = in_force(&state.rows, limit, window, &self.windows) else {
                    continue;
                };
                let value = version.value.expect("a version in force has a value");
                let scope = &version.scope;
                let mut counted = volumes(scope, state.tables.get(&window));
                if scope.per == Per::Total {
                    // Silence counts as well.
                    counted.entry(Entity::Total).or_default();
                }
                for (entity, volume) in counted {
                    let amount = volume.amount(scope.metric);
                    let broken = match version.bound {
                        Bound::Max => volume != Volume::default() && amount > value,
                        Bound::Min => {
                            let judged = volume.packets != 0 || entity == Entity::Total;
                            let observed =
                                state.closed.contains(&window) && state.whole.contains(&window);
                            observed && judged && amount < value
                        }
                    };
                    if broken {
                        standing.insert((limit, window, entity), (volume, version));
                    }
                }
            }
        }
        standing
    }

    /// Returns the changes at the `n`th tick, given the state before it and the states after its phases.
    fn changes(&self, n: usize, before: &State, states: &[State; 4]) -> BTreeSet<Change> {
        let phases = Phases {
            n,
            before: self.standing(before),
            after: states.each_ref().map(|state| self.standing(state)),
            states,
        };
        let ids: BTreeSet<Id> =
            phases.before.keys().chain(phases.after[3].keys()).copied().collect();
        ids.into_iter().filter_map(|id| self.change(id, &phases)).collect()
    }

    /// Returns the change of a violation that is active before or after the tick.
    fn change(&self, id: Id, phases: &Phases<'_>) -> Option<Change> {
        let (limit, window, entity) = id;
        let of_data = match self.closed(phases.n - 1, window) {
            true => Reason::LateData,
            false => Reason::Data,
        };
        // The phases are in the order of the reasons that they stand for.
        let by_phase = [Reason::LimitChange, Reason::Schedule, of_data, Reason::Schedule];
        let now = &phases.states[3];
        let in_force = in_force(&now.rows, limit, window, &self.windows);
        let (event, reason, volume, shown) =
            match (phases.before.get(&id), phases.after[3].get(&id)) {
                (None, None) => unreachable!("one of them has it"),
                (None, Some((volume, judge))) => {
                    (Event::Raised, by_phase[phases.first(&id, true)], *volume, *judge)
                }
                (Some(_), None) => {
                    // The clearing volume is the one that the clearing phase left, in the scope in which the violation
                    // stood until then.
                    let phase = phases.first(&id, false);
                    let until_then =
                        phase.checked_sub(1).map_or(&phases.before, |last| &phases.after[last]);
                    let (_, judge) = &until_then[&id];
                    let counted = volumes(&judge.scope, phases.states[phase].tables.get(&window));
                    let volume = counted.get(&entity).copied().unwrap_or_default();
                    let shown = in_force.unwrap_or(*judge);
                    (Event::Cleared, by_phase[phase], volume, shown)
                }
                (Some(old), Some(new)) => {
                    let reason = self.reason_of_update(id, old, new, of_data, phases)?;
                    (Event::Updated, reason, new.0, new.1)
                }
            };
        Some(Change {
            event,
            reason,
            violation: violation(id, volume),
            bound: shown.bound,
            metric: shown.scope.metric,
            version: match event {
                Event::Cleared => in_force.map(|version| version.id),
                Event::Raised | Event::Updated => Some(shown.id),
            },
            settled: self.settled(phases.n, window),
            partial: !now.whole.contains(&window),
        })
    }

    /// Returns the reason to publish a violation anew that is active before and after the tick, if there is one.
    fn reason_of_update(
        &self,
        (limit, window, _): Id,
        (old_volume, old): &(Volume, Version),
        (volume, judge): &(Volume, Version),
        of_data: Reason,
        phases: &Phases<'_>,
    ) -> Option<Reason> {
        let was_settled = self.settled(phases.n - 1, window);
        let settles = !was_settled && self.settled(phases.n, window);
        let rejudged = old.id != judge.id && (was_settled || self.updates != Updates::Settled);
        let moved = self.updates == Updates::Tick
            && old_volume.amount(old.scope.metric) != volume.amount(judge.scope.metric);
        let rows_after_edits = &phases.states[0].rows;
        let is_edited = || {
            in_force(rows_after_edits, limit, window, &self.windows).map(|version| version.id)
                != Some(old.id)
        };
        match () {
            () if rejudged && is_edited() => Some(Reason::LimitChange),
            () if rejudged || settles => Some(Reason::Schedule),
            () if moved => Some(of_data),
            () => None,
        }
    }

    /// The greatest entities of the windows that settle at the `n`th tick.
    fn top(&self, n: usize, now: &State) -> Vec<(Window, usize, Entity, Volume)> {
        let Some(query) = self.top else {
            return Vec::new();
        };
        let scope = Scope { per: query.per, metric: query.metric, ..Scope::default() };
        let settles = |w: Window| !self.too_late(n, w) && self.settled(n, w);
        let mut top = Vec::new();
        for &window in now.windows.iter().filter(|&&w| settles(w)) {
            let counted = volumes(&scope, now.tables.get(&window));
            let mut entities: Vec<(Entity, Volume)> = counted.into_iter().collect();
            entities.retain(|(_, volume)| volume.amount(query.metric) > 0);
            entities.sort_by_key(|(entity, volume)| {
                (std::cmp::Reverse(volume.amount(query.metric)), *entity)
            });
            let ranked = (1..).zip(entities).take(query.n);
            top.extend(ranked.map(|(rank, (entity, volume))| (window, rank, entity, volume)));
        }
        top
    }

    /// The packets that the `n`th tick brought for windows that had settled.
    fn late_dropped(&self, n: usize) -> i64 {
        let records = self.history[n - 1].records.iter();
        records
            .filter(|(window, _, _)| self.too_late(n, *window))
            .map(|(_, _, volume)| volume.packets)
            .fold(0, i64::saturating_add)
    }
}

fn violation((limit, window, entity): Id, volume: Volume) -> Violation {
    Violation { limit, window, entity, volume }
}
