//! Limits in force: from dated rows to the values that hold each window.

use std::collections::BTreeMap;

use differential_dataflow::VecCollection;
use serde::{Deserialize, Serialize};

use crate::clock::Existing;
use crate::floors::InForce;
use crate::time::{Time, Window, Windows};
use crate::types::{Bound, LimitId, Per, Version};

/// A version with the date on which another one of its name follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interval {
    /// The version.
    pub version: Version,
    /// The effective date of the next one, if there is one.
    pub until: Option<i128>,
}

impl Interval {
    /// Whether it is this version that judges a window: it is the last one dated before its end.
    pub fn judges(&self, window: Window, windows: &Windows) -> bool {
        let end = i128::from(windows.end_secs(window)) * 1_000_000_000;
        self.version.effective < end && self.until.is_none_or(|until| end <= until)
    }
}

/// Rows that wait for their date.
///
/// A row takes effect at the later of the tick at which it is read and its date. It stays in here
/// until then: given to a collection ahead of time it would be looked at at each tick, and would
/// come into force when the input ends, whatever its date.
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
    /// Takes an edit of the rows, read at `tick`, before [`Schedule::due`] is asked for that tick.
    /// Returned if it takes effect at once.
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

    /// The rows whose date has come by `tick`.
    pub fn due(&mut self, tick: u64) -> Vec<(Version, isize)> {
        let mut due = Vec::new();
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= tick) {
            let ((_, version), count) = entry.remove_entry();
            due.push((version, count));
        }
        due
    }

    /// The next date that a row waits for, in milliseconds.
    pub fn next_date(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }
}

/// Each version, with the date of the next.
///
/// # In
/// `versions`: rows that have taken effect: entered at the later of the tick of reading and their
/// date ([`Schedule`]). No two rows of a limit share a date.
///
/// # Out
/// One interval for each version, those without a value included.
pub fn intervals<'scope>(
    versions: VecCollection<'scope, Time, Version, isize>,
) -> VecCollection<'scope, Time, Interval, isize> {
    versions
        .map(|version| (version.limit, version))
        .reduce_named("Intervals", |_, versions, intervals: &mut Vec<(Interval, isize)>| {
            // In the order of their dates.
            for (at, (version, _)) in versions.iter().enumerate() {
                let until = versions.get(at + 1).map(|(next, _)| next.effective);
                intervals.push((Interval { version: **version, until }, 1));
            }
        })
        .map(|(_, interval)| interval)
}

/// The values to which limits hold windows.
///
/// # In
/// `intervals` of versions, and the windows that exist.
///
/// # Out
/// A `max` holds a window from the moment it exists, a `min` from the moment it has closed. A window
/// without a record of its own is held only by a `min` of a total, and one that was not observed from
/// its start on by no `min`.
///
/// # Keeps
/// Both inputs.
///
/// # Costs
/// Per changed version the number of windows held, per new or closing window the number of versions.
pub fn in_force<'scope>(
    intervals: VecCollection<'scope, Time, Interval, isize>,
    existing: VecCollection<'scope, Time, Existing, isize>,
    windows: Windows,
) -> VecCollection<'scope, Time, InForce, isize> {
    let existing = existing.map(|existing| ((), existing)).arrange_by_key_named("Windows");
    intervals
        .map(|interval| ((), interval))
        .arrange_by_key_named("Versions")
        .join_core(existing, move |(), interval, existing| {
            in_force_at(interval, existing, &windows)
        })
}

fn in_force_at(interval: &Interval, existing: &Existing, windows: &Windows) -> Option<InForce> {
    let Version { limit, bound, scope, value, .. } = interval.version;
    let judged = match bound {
        Bound::Max => existing.seen,
        Bound::Min => {
            existing.closed && existing.whole && (existing.seen || scope.per == Per::Total)
        }
    };
    let value = value.filter(|_| judged && interval.judges(existing.window, windows))?;
    Some(InForce { window: existing.window, limit, bound, scope, value })
}

/// Which version judges which window, for those who write about it.
#[derive(Default)]
pub struct Judging {
    /// By limit and date. Of one version there may be two intervals, or for a moment none or one too
    /// many, while the changes of a tick come in.
    intervals: BTreeMap<(LimitId, i128), Vec<Interval>>,
}

impl Judging {
    /// Takes a change of the intervals.
    pub fn update(&mut self, interval: Interval, diff: isize) {
        let at = (interval.version.limit, interval.version.effective);
        let held = self.intervals.entry(at).or_default();
        if diff > 0 {
            held.push(interval);
        } else {
            held.retain(|other| *other != interval);
        }
        if held.is_empty() {
            self.intervals.remove(&at);
        }
    }

    /// The version of a limit that judges a window; `None` if none does.
    pub fn version(&self, limit: LimitId, window: Window, windows: &Windows) -> Option<&Version> {
        // The one dated last before the window ends.
        let end = i128::from(windows.end_secs(window)) * 1_000_000_000;
        let (_, held) = self.intervals.range((limit, i128::MIN)..(limit, end)).next_back()?;
        let interval = held.iter().find(|interval| interval.judges(window, windows))?;
        Some(&interval.version).filter(|version| version.value.is_some())
    }
}
