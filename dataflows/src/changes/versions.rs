//! The versions that judge windows, as the changes operator needs them.

use std::collections::{BTreeMap, BTreeSet};

use super::silence::{Broken, TickStage};
use crate::limits::{EffectiveVersions, Judge, Ruling};
use crate::time::{Phase, Time, Window};
use crate::types::{LimitId, VersionId};

/// The changes of rulings at a tick, by phase.
#[derive(Default)]
pub(super) struct RulingsOfTick {
    pub(super) rows: Vec<(Ruling, isize)>,
    pub(super) dates: Vec<(Ruling, isize)>,
    /// Removals of rulings that left with the last window that they judged.
    pub(super) retired: Vec<(Ruling, isize)>,
}

impl RulingsOfTick {
    pub(super) fn new(rulings: Vec<(Ruling, Time, isize)>) -> Self {
        let mut of_tick = RulingsOfTick::default();
        for (ruling, time, diff) in rulings {
            let of_phase = match time.phase {
                Phase::Rows => &mut of_tick.rows,
                Phase::Retire => &mut of_tick.retired,
                _ => &mut of_tick.dates,
            };
            of_phase.push((ruling, diff));
        }
        of_tick
    }
}

/// Limits whose versions changed at a tick.
#[derive(Default)]
pub(super) struct ChangedLimits {
    pub(super) limits: BTreeSet<LimitId>,
    /// For versions that changed after the rows were read (a date came): the version that judged a window
    /// before that.
    after_rows: BTreeMap<(LimitId, Window), Option<VersionId>>,
    /// The versions of limits that silence breaks, or broke.
    pub(super) broken: BTreeMap<LimitId, Broken>,
}

/// The versions in force.
#[derive(Default)]
pub(super) struct Versions {
    effective: EffectiveVersions,
    /// The last result of [`Versions::version`]: changes come by limit and window.
    last: Option<((LimitId, Window), Option<Judge>)>,
}

impl Versions {
    /// The version that judges a window; `None` if none does.
    pub(super) fn version(&mut self, limit: LimitId, window: Window) -> Option<Judge> {
        match self.last {
            Some((at, judge)) if at == (limit, window) => judge,
            _ => {
                let judge = self.effective.judge(limit, window).copied();
                self.last = Some(((limit, window), judge));
                judge
            }
        }
    }

    /// The version that judged a window once the rows of a tick were read.
    pub(super) fn after_rows(
        &mut self,
        changed: &ChangedLimits,
        limit: LimitId,
        window: Window,
    ) -> Option<VersionId> {
        match changed.after_rows.get(&(limit, window)) {
            Some(version) => *version,
            None => self.version(limit, window).map(|judge| judge.version),
        }
    }

    /// As [`Versions::version`], without remembering the result.
    pub(super) fn judge(&self, limit: LimitId, window: Window) -> Option<Judge> {
        self.effective.judge(limit, window).copied()
    }

    /// The versions of a limit that silence breaks, if no change of the tick concerns it.
    pub(super) fn broken(&self, limit: LimitId) -> Broken {
        Broken::always(self.effective.judges(limit))
    }

    /// Whether silence breaks a limit in any window.
    pub(super) fn is_broken(&self, limit: LimitId) -> bool {
        self.effective.judges(limit).any(|(_, judge)| judge.silence_breaks)
    }

    /// Sets the versions, at a moment of a tick, of limits that silence breaks.
    fn set_broken(&self, at: TickStage, broken: &mut BTreeMap<LimitId, Broken>) {
        for (limit, broken) in broken {
            broken.set(at, self.effective.judges(*limit));
        }
    }

    /// Accepts the changes of a tick, but for those of rulings that retire. `violated` lists the windows in
    /// which a limit is violated.
    pub(super) fn update(
        &mut self,
        rows: &[(Ruling, isize)],
        dates: &[(Ruling, isize)],
        violated: impl Fn(LimitId) -> Vec<Window>,
    ) -> ChangedLimits {
        let limits = |rulings: &[(Ruling, isize)]| -> BTreeSet<LimitId> {
            rulings.iter().map(|(ruling, _)| ruling.limit).collect()
        };
        let mut changed = ChangedLimits { limits: limits(rows), ..ChangedLimits::default() };
        let rulings = rows.iter().chain(dates);
        for (ruling, _) in rulings.filter(|(ruling, _)| ruling.judge.silence_breaks) {
            changed.broken.entry(ruling.limit).or_default();
        }
        self.set_broken(TickStage::Begin, &mut changed.broken);
        self.apply(rows);
        self.set_broken(TickStage::Rows, &mut changed.broken);
        for limit in limits(dates) {
            for window in violated(limit) {
                let version = self.version(limit, window).map(|judge| judge.version);
                changed.after_rows.insert((limit, window), version);
            }
            changed.limits.insert(limit);
        }
        self.apply(dates);
        self.set_broken(TickStage::Dates, &mut changed.broken);
        changed
    }

    /// Drops rulings, once nothing more is published of their windows.
    pub(super) fn retire(&mut self, rulings: &[(Ruling, isize)]) {
        self.apply(rulings);
    }

    fn apply(&mut self, rulings: &[(Ruling, isize)]) {
        if !rulings.is_empty() {
            self.last = None;
            self.effective.update(rulings);
        }
    }
}
