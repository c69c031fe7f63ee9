//! The versions that judge windows, as those know them who write about violations.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::{Judge, Judging, Ruling};
use crate::time::{Phase, Time, Window};
use crate::types::{LimitId, VersionId};

/// The changes of rulings at a tick, by phase.
#[derive(Default)]
pub(super) struct RulingsOfTick {
    pub(super) rows: Vec<(Ruling, isize)>,
    pub(super) dates: Vec<(Ruling, isize)>,
    /// Of those that left with the last window that they judged.
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
pub(super) struct Changed {
    pub(super) limits: BTreeSet<LimitId>,
    /// For versions that changed after the rows were read (a date came): the version that judged a window
    /// before that.
    after_rows: BTreeMap<(LimitId, Window), Option<VersionId>>,
}

/// The versions in force.
#[derive(Default)]
pub(super) struct Versions {
    judging: Judging,
    /// The answer given last: changes come by limit and window.
    last: Option<((LimitId, Window), Option<Judge>)>,
}

impl Versions {
    /// The version that judges a window; `None` if none does.
    pub(super) fn version(&mut self, limit: LimitId, window: Window) -> Option<Judge> {
        match self.last {
            Some((at, judge)) if at == (limit, window) => judge,
            _ => {
                let judge = self.judging.judge(limit, window).copied();
                self.last = Some(((limit, window), judge));
                judge
            }
        }
    }

    /// The version that judged a window once the rows of a tick were read.
    pub(super) fn after_rows(
        &mut self,
        changed: &Changed,
        limit: LimitId,
        window: Window,
    ) -> Option<VersionId> {
        match changed.after_rows.get(&(limit, window)) {
            Some(version) => *version,
            None => self.version(limit, window).map(|judge| judge.version),
        }
    }

    /// Accepts the changes of a tick, but for those of rulings that retire. `violated` lists the windows in
    /// which a limit is violated.
    pub(super) fn update(
        &mut self,
        rows: &[(Ruling, isize)],
        dates: &[(Ruling, isize)],
        violated: impl Fn(LimitId) -> Vec<Window>,
    ) -> Changed {
        let limits = |rulings: &[(Ruling, isize)]| -> BTreeSet<LimitId> {
            rulings.iter().map(|(ruling, _)| ruling.limit).collect()
        };
        let mut changed = Changed { limits: limits(rows), ..Changed::default() };
        self.apply(rows);
        for limit in limits(dates) {
            for window in violated(limit) {
                let version = self.version(limit, window).map(|judge| judge.version);
                changed.after_rows.insert((limit, window), version);
            }
            changed.limits.insert(limit);
        }
        self.apply(dates);
        changed
    }

    /// Drops rulings, once nothing more is published of their windows.
    pub(super) fn retire(&mut self, rulings: &[(Ruling, isize)]) {
        self.apply(rulings);
    }

    fn apply(&mut self, rulings: &[(Ruling, isize)]) {
        if !rulings.is_empty() {
            self.last = None;
            self.judging.update(rulings);
        }
    }
}
