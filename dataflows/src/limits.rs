//! Limits as ranges of windows: from dated rows to the version that judges each window.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use differential_dataflow::{AsCollection, VecCollection};
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use indexmap::map::Entry;
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;

use crate::clock::WindowEvent;
use crate::monitored::MonitoredScope;
use crate::time::{Bounds, Phase, Time, Timed, Window, WindowRange, Windows};
use crate::types::{Bound, LimitId, Metric, Per, Scope, Version, VersionId};
use crate::wiring::{Place, Wiring};

/// A version with the windows that it judges: those that end after its date, up to the date of the next
/// version of its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The limit.
    pub limit: LimitId,
    /// The version.
    pub version: VersionId,
    /// The side of the value on which amounts break the limit.
    pub bound: Bound,
    /// The scope of the limit.
    pub scope: Scope,
    /// The value.
    pub value: i64,
    /// The windows.
    pub windows: WindowRange,
}

/// Rows that wait for their date.
///
/// A row takes effect at the later of the tick at which it is read and its date. Until then the row stays in here:
/// a collection that was given the row ahead of time would consider it at each tick, and would bring it into force
/// when the input ends, whatever its date.
#[derive(Default)]
pub struct Schedule {
    /// Rows that are not due, by the millisecond at which they will be.
    waiting: BTreeMap<(u64, Version), isize>,
}

/// The first millisecond at or after a date.
fn due_ms(version: &Version) -> u64 {
    let ms = version.effective.div_euclid(1_000_000)
        + i128::from(version.effective.rem_euclid(1_000_000) > 0);
    u64::try_from(ms.max(0)).unwrap_or(u64::MAX)
}

impl Schedule {
    /// Accepts an edit of the rows, read at `tick`, before [`Schedule::due`] is called for that tick. Returns the
    /// edit if it takes effect at once.
    pub fn edit(&mut self, tick: u64, version: Version, diff: isize) -> Option<(Version, isize)> {
        let due = due_ms(&version);
        if due <= tick && !self.waiting.contains_key(&(due, version)) {
            return Some((version, diff));
        }
        let count = self.waiting.entry((due, version)).or_default();
        *count += diff;
        if *count == 0 {
            self.waiting.remove(&(due, version));
        }
        None
    }

    /// The number of rows whose date has come by `tick`.
    pub fn count_due(&self, tick: u64) -> usize {
        self.waiting.keys().take_while(|(due, _)| *due <= tick).count()
    }

    /// Removes and returns rows whose date has come by `tick`, one at each step of the iterator.
    pub fn due(&mut self, tick: u64) -> impl Iterator<Item = (Version, isize)> {
        std::iter::from_fn(move || {
            let entry = self.waiting.first_entry().filter(|entry| entry.key().0 <= tick)?;
            let ((_, version), count) = entry.remove_entry();
            Some((version, count))
        })
    }

    /// The next date that a row waits for, in milliseconds.
    pub fn next_date(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }
}

/// A row in effect.
#[derive(Clone, Copy)]
struct Row {
    id: VersionId,
    bound: Bound,
    scope: Scope,
    /// `None`: from its date on the limit does not exist.
    value: Option<i64>,
}

/// The rows of a limit by date, at least one.
enum Dated {
    // Most limits have one row, and there may be a million limits.
    One(i128, Row),
    Many(BTreeMap<i128, Row>),
}

impl Dated {
    fn get(&self, date: i128) -> Option<&Row> {
        match self {
            Dated::One(only, row) => (*only == date).then_some(row),
            Dated::Many(rows) => rows.get(&date),
        }
    }

    fn insert(&mut self, date: i128, row: Row) {
        match self {
            Dated::One(only, held) => {
                let rows = BTreeMap::from([(*only, *held), (date, row)]);
                *self = Dated::Many(rows);
            }
            Dated::Many(rows) => drop(rows.insert(date, row)),
        }
    }

    /// Removes the row of a date. Returns whether no row is left.
    fn remove(&mut self, date: i128) -> bool {
        match self {
            Dated::One(only, _) => *only == date,
            Dated::Many(rows) => {
                rows.remove(&date);
                rows.is_empty()
            }
        }
    }

    /// The dates on either side of a date.
    fn neighbours(&self, date: i128) -> (Option<i128>, Option<i128>) {
        match self {
            Dated::One(only, _) => {
                ((*only < date).then_some(*only), (*only > date).then_some(*only))
            }
            Dated::Many(rows) => {
                let before = rows.range(..date).next_back();
                let after = rows.range((Excluded(date), Unbounded)).next();
                (before.map(|(date, _)| *date), after.map(|(date, _)| *date))
            }
        }
    }
}

/// The rows in effect, and the rules that follow from them.
struct Rows {
    windows: Windows,
    limits: IndexMap<LimitId, Dated, RandomState>,
    /// The ends of the rules that hold and that another version of their limit follows.
    ends: BTreeSet<(Window, LimitId, i128)>,
    /// The states of windows after the tick before.
    bounds: Bounds,
    /// The first window that has not retired: a rule that judges only earlier windows does not hold.
    horizon: Window,
}

impl Rows {
    fn new(windows: Windows) -> Self {
        Rows {
            windows,
            limits: IndexMap::default(),
            ends: BTreeSet::new(),
            bounds: Bounds::default(),
            horizon: Window(0),
        }
    }

    fn row(&self, (limit, date): (LimitId, i128)) -> Option<&Row> {
        self.limits.get(&limit)?.get(date)
    }

    fn insert(&mut self, (limit, date): (LimitId, i128), row: Row) {
        match self.limits.entry(limit) {
            Entry::Occupied(mut rows) => rows.get_mut().insert(date, row),
            Entry::Vacant(place) => {
                place.insert(Dated::One(date, row));
            }
        }
    }

    fn remove(&mut self, (limit, date): (LimitId, i128)) {
        if self.limits.get_mut(&limit).is_some_and(|rows| rows.remove(date)) {
            self.limits.swap_remove(&limit);
        }
    }

    /// The rule of a row, given the date of the next row of its limit. `None` if it judges no window.
    fn rule(&self, (limit, date): (LimitId, i128), row: &Row, next: Option<i128>) -> Option<Rule> {
        let until = next.map_or(WindowRange::ALL.until, |next| self.windows.judged_from(next));
        let windows = WindowRange { from: self.windows.judged_from(date), until };
        let Row { id, bound, scope, value } = *row;
        let rule = Rule { limit, version: id, bound, scope, value: value?, windows };
        (!windows.is_empty()).then_some(rule)
    }

    /// Appends to `changes` that the rule of a row holds from now on (+1), or no longer (-1).
    fn push_change(
        &mut self,
        at: (LimitId, i128),
        next: Option<i128>,
        diff: isize,
        changes: &mut Vec<(Rule, isize)>,
    ) {
        let Some(rule) = self.row(at).and_then(|row| self.rule(at, row, next)) else {
            return;
        };
        let until = rule.windows.until;
        if until <= self.horizon {
            return;
        }
        if until != WindowRange::ALL.until {
            match diff > 0 {
                true => self.ends.insert((until, at.0, at.1)),
                false => self.ends.remove(&(until, at.0, at.1)),
            };
        }
        changes.push((rule, diff));
    }

    /// The dates of the rows of a limit on either side of a date.
    fn neighbours(&self, (limit, date): (LimitId, i128)) -> (Option<i128>, Option<i128>) {
        self.limits.get(&limit).map(|rows| rows.neighbours(date)).unwrap_or_default()
    }

    /// Adds (+1) or removes (-1) a row.
    fn edit(&mut self, version: Version, diff: isize, changes: &mut Vec<(Rule, isize)>) {
        let at = (version.limit, version.effective);
        let (before, after) = self.neighbours(at);
        let Version { id, bound, scope, value, .. } = version;
        if diff > 0 {
            if let Some(before) = before {
                self.push_change((at.0, before), after, -1, changes);
                self.push_change((at.0, before), Some(at.1), 1, changes);
            }
            self.insert(at, Row { id, bound, scope, value });
            self.push_change(at, after, 1, changes);
        } else {
            self.push_change(at, after, -1, changes);
            self.remove(at);
            if let Some(before) = before {
                self.push_change((at.0, before), Some(at.1), -1, changes);
                self.push_change((at.0, before), after, 1, changes);
            }
        }
    }

    /// Applies the edits of one time.
    fn edits(&mut self, mut edits: Vec<(Version, isize)>) -> Vec<(Rule, isize)> {
        differential_dataflow::consolidation::consolidate(&mut edits);
        // Removals first: an added row may have the date of a removed one.
        edits.sort_by_key(|(_, diff)| *diff);
        let mut changes = Vec::with_capacity(edits.len());
        for (version, diff) in edits {
            self.edit(version, diff, &mut changes);
        }
        differential_dataflow::consolidation::consolidate(&mut changes);
        changes
    }

    /// Sets the states of windows, by which they retire at the end of the next tick. Returns the removals of the
    /// rules that judge no window any more once the windows of this tick have retired.
    fn advance(&mut self, bounds: Bounds) -> Vec<(Rule, isize)> {
        let horizon = std::mem::replace(&mut self.bounds, bounds).held;
        let mut changes = Vec::new();
        while let Some(&(until, limit, date)) = self.ends.first()
            && until <= horizon
        {
            let (_, next) = self.neighbours((limit, date));
            self.push_change((limit, date), next, -1, &mut changes);
        }
        self.horizon = horizon;
        changes
    }
}

#[derive(Default)]
struct Work {
    edits: Vec<(Version, isize)>,
    bounds: Option<Bounds>,
}

/// The versions of limits, each with the windows that it judges.
///
/// # In
/// `versions`: rows that have taken effect: entered at the later of the tick of reading and their
/// date ([`Schedule`]). No two rows of a limit share a date. `clock`: the states of windows.
///
/// # Out
/// One rule for each version that has a value and judges a window, on one worker. An edit, and a date that comes,
/// change the rule of their row and the end of the rule of the row before; a window that opens, closes or retires
/// changes no rule. A rule is removed, at [`Phase::Retire`], with the last window that it judges.
///
/// # Keeps
/// The rows.
///
/// # Costs
/// Per row that is added or removed a look-up, whatever the number of windows, and of other rows.
pub fn rules<'scope>(
    versions: VecCollection<'scope, Time, Version, isize>,
    clock: StreamVec<'scope, Time, Timed<WindowEvent>>,
    windows: Windows,
) -> VecCollection<'scope, Time, Rule, isize> {
    let mut wiring = Wiring::new("Rules", clock.scope());
    let to_first = Exchange::new(|_| 0);
    wiring.input(versions.inner, to_first, |place: &mut Place<'_, Work>, (version, time, diff)| {
        place.at(time).edits.push((version, diff));
    });
    wiring.input(clock, Exchange::new(|_| 0), |place, (event, time)| {
        if let WindowEvent::Bounds(bounds) = event {
            place.at(time).bounds = Some(bounds);
        }
    });
    let rules = wiring.output(|(_, changes): &mut (Rows, Vec<_>)| changes);
    wiring.build((Rows::new(windows), Vec::new()), |(rows, changes), time, work| {
        let edits = rows.edits(work.edits).into_iter();
        changes.extend(edits.map(|(rule, diff)| (rule, time, diff)));
        let retire = Time::new(time.tick, Phase::Retire);
        let left = work.bounds.map(|bounds| rows.advance(bounds)).unwrap_or_default();
        changes.extend(left.into_iter().map(|(rule, diff)| (rule, retire, diff)));
    });
    rules.as_collection()
}

/// A version, reduced to the fields by which changes of its violations are published. As small as can be: every
/// worker has one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Judge {
    pub(crate) version: VersionId,
    /// The number of the monitored scope whose totals the version judges.
    monitored: u32,
    per: Per,
    pub(crate) bound: Bound,
    pub(crate) metric: Metric,
    /// Whether a window without a record breaks it: a lower bound of a total.
    pub(crate) silence_breaks: bool,
}

impl Judge {
    pub(crate) fn new(rule: &Rule, monitored: MonitoredScope) -> Self {
        let MonitoredScope { id: monitored, per, metric, bound } = monitored;
        let silence_breaks = bound == Bound::Min && per == Per::Total && rule.value > 0;
        Judge { version: rule.version, monitored, per, bound, metric, silence_breaks }
    }

    pub(crate) fn monitored(&self) -> MonitoredScope {
        let Judge { monitored: id, per, metric, bound, .. } = *self;
        MonitoredScope { id, per, metric, bound }
    }
}

/// A [`Judge`] with its limit and windows: a rule without the scope and value that amounts are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ruling {
    pub(crate) limit: LimitId,
    pub(crate) windows: WindowRange,
    pub(crate) judge: Judge,
}

/// The versions of limits with the windows that they judge, for the changes operator.
#[derive(Default)]
pub(crate) struct EffectiveVersions {
    /// By limit and first window, with the first window that it does not judge.
    rulings: BTreeMap<(LimitId, Window), (Window, Judge)>,
}

impl EffectiveVersions {
    /// Applies the changes of one time.
    pub(crate) fn update(&mut self, changes: &[(Ruling, isize)]) {
        let at = |ruling: &Ruling| (ruling.limit, ruling.windows.from);
        for (ruling, _) in changes.iter().filter(|(_, diff)| *diff < 0) {
            self.rulings.remove(&at(ruling));
        }
        for (ruling, _) in changes.iter().filter(|(_, diff)| *diff > 0) {
            self.rulings.insert(at(ruling), (ruling.windows.until, ruling.judge));
        }
    }

    /// The versions of a limit, with the windows that they judge.
    pub(crate) fn judges(&self, limit: LimitId) -> impl Iterator<Item = (WindowRange, Judge)> {
        let of_limit = self.rulings.range((limit, Window(0))..=(limit, Window(u64::MAX)));
        of_limit
            .map(|((_, from), (until, judge))| (WindowRange { from: *from, until: *until }, *judge))
    }

    /// The version of a limit that judges a window; `None` if none does.
    pub(crate) fn judge(&self, limit: LimitId, window: Window) -> Option<&Judge> {
        let (_, (until, judge)) =
            self.rulings.range((limit, Window(0))..=(limit, window)).next_back()?;
        (window < *until).then_some(judge)
    }
}
