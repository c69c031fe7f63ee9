//! Violations of silence: a lower bound of a total is broken in a window without a record.
//!
//! There may be any number of silent windows, and they are alike. So nothing is kept of each: every limit that
//! silence breaks is violated in every silent window that the limit judges. The operator finds the changes of a
//! tick range by range, and makes them window by window as it publishes them. A window in which a record comes
//! late is silent no more. From then on its violations are followed as those of other windows are, starting with a
//! total of nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::active::{ActiveViolation, ActiveViolations, Id};
use super::judged::{Runs, Step};
use crate::key::Key;
use crate::limits::{Judge, Ruling};
use crate::monitored::{MonitoredScope, Total};
use crate::ranges::{Steps, WindowSet};
use crate::time::{Bounds, Phase, Window, WindowRange, Windows};
use crate::types::{Event, LimitId, Per, Reason, Updates};

/// The total of a silent window.
pub(super) const NOTHING: Total = Total { amount: 0, key: Key::TOTAL, other: 0 };

/// A violation by the total.
pub(super) fn id(limit: LimitId) -> Id {
    Id::new(limit, Per::Total, Key::TOTAL)
}

/// A moment of a tick at which a version may have come to judge, or ceased to.
#[derive(Clone, Copy)]
pub(super) enum TickStage {
    Begin,
    Rows,
    Dates,
}

/// The versions of a limit that silence breaks, at each [moment](TickStage), by window.
#[derive(Default)]
pub(super) struct Broken(Steps<[Option<Judge>; 3]>);

impl Broken {
    /// The versions of a limit that the tick does not change.
    pub(super) fn always(judges: impl Iterator<Item = (WindowRange, Judge)>) -> Self {
        let mut broken = Broken::default();
        for (windows, judge) in judges.filter(|(_, judge)| judge.silence_breaks) {
            broken.0.change(windows, |_| [Some(judge); 3]);
        }
        broken
    }

    /// Sets the versions at one moment.
    pub(super) fn set(
        &mut self,
        at: TickStage,
        judges: impl Iterator<Item = (WindowRange, Judge)>,
    ) {
        for (windows, judge) in judges.filter(|(_, judge)| judge.silence_breaks) {
            self.0.change(windows, |mut moments| {
                moments[at as usize] = Some(judge);
                moments
            });
        }
    }
}

/// A change that a tick makes for one limit in each of some silent windows.
#[derive(Clone, Copy)]
pub(super) struct SilentChange {
    windows: WindowRange,
    pub(super) limit: LimitId,
    /// The monitored scope in which the limit judges, or did.
    pub(super) monitored: MonitoredScope,
    pub(super) event: Event,
    pub(super) reason: Reason,
}

/// The rules by which a tick is published, as far as silence is concerned.
pub(super) struct Moment<'a> {
    pub(super) updates: Updates,
    /// The states of windows after the tick before.
    pub(super) bounds_before: Bounds,
    pub(super) settles: &'a WindowSet,
}

/// The silent windows that are judged, and the limits that silence breaks.
#[derive(Default)]
pub(super) struct Silence {
    windows: WindowSet,
    limits: BTreeSet<LimitId>,
}

impl Silence {
    pub(super) fn contains(&self, window: Window) -> bool {
        self.windows.contains(window)
    }

    /// Updates the set of limits that silence breaks: `breaks` returns whether it breaks a limit.
    pub(super) fn follow(&mut self, rulings: &[(Ruling, isize)], breaks: impl Fn(LimitId) -> bool) {
        for (ruling, _) in rulings.iter().filter(|(ruling, _)| ruling.judge.silence_breaks) {
            match breaks(ruling.limit) {
                true => self.limits.insert(ruling.limit),
                false => self.limits.remove(&ruling.limit),
            };
        }
    }

    /// Drops windows.
    pub(super) fn retire(&mut self, windows: WindowRange) {
        self.windows.remove(windows);
    }

    /// Ends the silence of a window to which a record comes: its violations stand with a total of nothing, and
    /// that total is removed with the records of the tick. `changed` has the limits that the tick changes, `judge`
    /// returns the version of others.
    pub(super) fn end(
        &mut self,
        window: WindowRange,
        changed: &BTreeMap<LimitId, Broken>,
        judge: impl Fn(LimitId) -> Option<Judge>,
        (standing, runs): (&mut ActiveViolations, &mut Runs),
    ) {
        self.windows.remove(window);
        let window = window.from;
        let limits: BTreeSet<LimitId> = self.limits.iter().chain(changed.keys()).copied().collect();
        for limit in limits {
            let moments = match changed.get(&limit) {
                Some(Broken(moments)) => moments.at(window),
                None => [judge(limit).filter(|judge| judge.silence_breaks); 3],
            };
            let [before, rows, dates] = moments;
            // Records end the violation in the last monitored scope in which the limit judges in this tick.
            let Some(monitored) = dates.or(rows).or(before).map(|judge| judge.monitored()) else {
                continue;
            };
            if let Some(judge) = before {
                standing.insert(
                    window,
                    id(limit),
                    ActiveViolation::new(monitored, NOTHING, judge.version),
                );
            }
            let stands = [before, rows, dates, None].map(|judge| isize::from(judge.is_some()));
            for (phase, stands) in
                [Phase::Rows, Phase::Dates, Phase::Data].into_iter().zip(stands.windows(2))
            {
                let diff = stands[1] - stands[0];
                if diff != 0 {
                    runs.push(Step::new(monitored, NOTHING, limit, phase, diff));
                }
            }
        }
    }

    /// The changes of a tick. `changed` has the limits that the tick changes, `broken` returns the versions of
    /// others; `fall` are the windows that are silent from now on.
    pub(super) fn tick(
        &mut self,
        moment: &Moment<'_>,
        changed: &BTreeMap<LimitId, Broken>,
        broken: impl Fn(LimitId) -> Broken,
        fall: &[WindowRange],
    ) -> SilentChanges {
        let mut pieces = Vec::new();
        let held = |windows| self.windows.within(windows);
        let settling: Vec<_> = moment.settles.within(WindowRange::ALL).flat_map(held).collect();
        let others = !(settling.is_empty() && fall.is_empty());
        let unchanged = self.limits.iter().filter(|limit| others && !changed.contains_key(limit));
        for &limit in unchanged {
            let broken = broken(limit);
            for windows in &settling {
                of_limit(moment, limit, &broken, *windows, &mut pieces);
            }
            raised(limit, &broken, fall, &mut pieces);
        }
        for (&limit, broken) in changed {
            for windows in held(WindowRange::ALL) {
                of_limit(moment, limit, broken, windows, &mut pieces);
            }
            raised(limit, broken, fall, &mut pieces);
        }
        for windows in fall {
            self.windows.insert(*windows);
        }
        pieces.sort_unstable_by_key(|piece| std::cmp::Reverse(piece.windows.from));
        SilentChanges { pieces, ..SilentChanges::default() }
    }
}

/// The changes for a limit in windows that were silent before.
fn of_limit(
    moment: &Moment<'_>,
    limit: LimitId,
    broken: &Broken,
    windows: WindowRange,
    pieces: &mut Vec<SilentChange>,
) {
    let settled = moment.bounds_before.unsettled;
    let by_settled = [
        (WindowRange { until: windows.until.min(settled), ..windows }, true),
        (WindowRange { from: windows.from.max(settled), ..windows }, false),
    ];
    for (windows, was_settled) in by_settled.into_iter().filter(|(part, _)| !part.is_empty()) {
        let publishes_versions = was_settled || moment.updates >= Updates::Limit;
        for (windows, settles) in moment.settles.pieces(windows) {
            for (windows, moments) in broken.0.pieces(windows) {
                let change = change_of(moments, publishes_versions, settles);
                pieces.extend(change.map(|(event, reason, judge)| {
                    let monitored = judge.monitored();
                    SilentChange { windows, limit, monitored, event, reason }
                }));
            }
        }
    }
}

/// The change of a violation, given the versions at three moments of a tick, and the version that judges it after
/// that, or did before.
fn change_of(
    [before, rows, dates]: [Option<Judge>; 3],
    publishes_versions: bool,
    settles: bool,
) -> Option<(Event, Reason, Judge)> {
    let by_limit = |by_rows| if by_rows { Reason::LimitChange } else { Reason::Schedule };
    let turned = by_limit(before.is_some() != rows.is_some());
    match (before, dates) {
        (None, None) => None,
        (None, Some(judge)) => Some((Event::Raised, turned, judge)),
        (Some(judge), None) => Some((Event::Cleared, turned, judge)),
        (Some(before), Some(judge)) if publishes_versions && before.version != judge.version => {
            let by_rows = rows.is_none_or(|rows| rows.version != before.version);
            Some((Event::Updated, by_limit(by_rows), judge))
        }
        (Some(_), Some(judge)) => settles.then_some((Event::Updated, Reason::Schedule, judge)),
    }
}

/// The changes for a limit in windows that are silent from now on.
fn raised(limit: LimitId, broken: &Broken, fall: &[WindowRange], pieces: &mut Vec<SilentChange>) {
    for windows in fall {
        for (windows, [_, _, judge]) in broken.0.pieces(*windows) {
            let (event, reason) = (Event::Raised, Reason::Schedule);
            let monitored = judge.map(|judge| judge.monitored());
            pieces.extend(monitored.map(|monitored| SilentChange {
                windows,
                limit,
                monitored,
                event,
                reason,
            }));
        }
    }
}

/// An iteration over the changes of a tick in silent windows, by window and limit.
#[derive(Default)]
pub(super) struct SilentChanges {
    /// The pieces ahead, the next one last.
    pieces: Vec<SilentChange>,
    /// The pieces that cover the window.
    active: BTreeMap<LimitId, SilentChange>,
    window: Window,
    /// The limit of the last change returned; `None` at the start of the window.
    limit: Option<LimitId>,
}

impl SilentChanges {
    /// Returns the next change in a window before `until`.
    pub(super) fn next(
        &mut self,
        until: Window,
        windows: Windows,
    ) -> Option<(Window, SilentChange)> {
        loop {
            let from = self.limit.map_or(Unbounded, Excluded);
            if let Some((limit, piece)) = self.active.range((from, Unbounded)).next()
                && self.window < until
            {
                self.limit = Some(*limit);
                return Some((self.window, *piece));
            }
            self.step(until, windows)?;
        }
    }

    /// Skips the remaining changes of the window.
    pub(super) fn skip(&mut self) {
        self.limit = self.active.last_key_value().map(|(limit, _)| *limit);
    }

    /// Moves to the next window that has a change.
    fn step(&mut self, until: Window, windows: Windows) -> Option<()> {
        let mut next = Window(windows.end_secs(self.window));
        self.active.retain(|_, piece| piece.windows.contains(next));
        if self.active.is_empty() {
            next = self.pieces.last()?.windows.from;
        }
        if next >= until {
            // The next call moves on from the same window.
            return None;
        }
        (self.window, self.limit) = (next, None);
        while let Some(piece) = self.pieces.pop_if(|piece| piece.windows.from <= next) {
            self.active.insert(piece.limit, piece);
        }
        Some(())
    }
}
