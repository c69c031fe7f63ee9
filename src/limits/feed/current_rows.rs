//! The rows in force of a feed, their difference from the rows read next, and logs and metrics about both.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use metrics::{Counter, counter, gauge};

use super::options::{self, Options};

use crate::base::quote::Quoted;
use crate::limits::catalog::LimitSet;
use crate::limits::rows::Row;
use crate::limits::table::{Refusals, Table};
use crate::limits::text::Text;

/// Rows to add (+1) or to remove (-1).
pub type Edits = Vec<(Arc<Row>, isize)>;

/// Minimum interval between two log lines about changes.
const BETWEEN_LOGS: Duration = Duration::from_secs(1);

/// Maximum names in such a line.
const NAMES_LOGGED: usize = 3;

/// Maximum refused rows that a reading logs; `floodmark limits check` shows all.
const REFUSALS_LOGGED: usize = 20;

/// Time after which a poll of a file is reported as stuck: a network mount may never respond.
const POLL_STUCK: Duration = Duration::from_secs(30);

/// The health of a feed: why and since when its limits can't be read, if they can't, and how many rows are refused.
/// The reading thread updates it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    state: Arc<Mutex<HealthState>>,
}

/// The state that the reading thread shares.
#[derive(Debug, Default)]
struct HealthState {
    place: String,
    /// The fault of the last reading, and the time since which no reading has succeeded.
    fault: Option<(Instant, String)>,
    /// The start of the poll under way.
    poll_start: Option<Instant>,
    refusals: Refusals,
}

impl Health {
    /// Returns for how long the limits could not be read, and why; `None` if they can be read.
    pub fn fault(&self) -> Option<(Duration, String)> {
        let state = self.state();
        let stuck = state.poll_start.filter(|start| start.elapsed() > POLL_STUCK).map(|start| {
            let place = &state.place;
            (start.elapsed(), format!("reading \"{place}\": the file system does not answer"))
        });
        let reported = state.fault.as_ref().map(|(since, why)| (since.elapsed(), why.clone()));
        reported.or(stuck)
    }

    /// Returns the number of rows that the last reading refused.
    pub fn refusals(&self) -> Refusals {
        self.state().refusals
    }

    /// Returns a sentence about the rows that the last reading refused; `None` if it refused none.
    pub fn refusal(&self) -> Option<String> {
        let state = self.state();
        options::refusal(&state.place, state.refusals)
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the limits could not be read. Returns whether the reason is new.
    fn set_fault(&self, reason: &str) -> bool {
        let mut state = self.state();
        let before = state.fault.take();
        let is_new = before.as_ref().is_none_or(|(_, why)| why != reason);
        let since = before.map_or_else(Instant::now, |(since, _)| since);
        state.fault = Some((since, reason.to_owned()));
        is_new
    }

    /// Records that the limits could be read. Returns for how long they could not.
    fn clear_fault(&self) -> Option<Duration> {
        self.state().fault.take().map(|(since, _)| since.elapsed())
    }
}

/// The rows in force of a feed.
#[derive(Default)]
pub(super) struct CurrentRows {
    /// Sorted; no two rows share name and date. Shared with the catalog of a run.
    rows: Vec<Arc<Row>>,
    /// Edits since the last log line about changes, some of the edited names, and the time of that line.
    changed: usize,
    changed_names: BTreeSet<Text>,
    logged_at: Option<Instant>,
    /// The rows that the last reading refused, as hashes of name and reason: each is logged once.
    refused: HashSet<u64>,
    hasher: RandomState,
    health: Health,
    /// The file or table that is read, for messages.
    place: String,
    /// The set of limits, for metrics.
    set: LimitSet,
}

impl CurrentRows {
    /// Returns the rows of a feed before its first reading: none. `kinds` are the labels of all errors that the feed
    /// may have.
    pub(super) fn new(options: &Options, kinds: &[&'static str]) -> Self {
        let current =
            CurrentRows { place: options.place(), set: options.set, ..CurrentRows::default() };
        current.health.state().place = options.place();
        for kind in kinds {
            // A rate needs a value before the first error.
            current.errors(kind).increment(0);
        }
        current
    }

    fn errors(&self, kind: &'static str) -> Counter {
        counter!("floodmark_limits_errors_total", self.set.labels([("error", kind)]))
    }

    fn set_rows_gauge(&self, state: &'static str, rows: usize) {
        gauge!("floodmark_limits", self.set.labels([("state", state)])).set(rows as f64);
    }

    pub(super) fn health(&self) -> Health {
        self.health.clone()
    }

    /// The rows in force.
    pub(super) fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    /// Accepts a table that was read: logs the newly refused rows, and returns the edits since the last table.
    pub(super) fn accept(&mut self, table: Table) -> Edits {
        self.log_refused(&table);
        let rows = table.into_held();
        self.set_rows_gauge("held", rows.len());
        let edits = difference(&self.rows, &rows);
        self.rows = rows;
        self.changed += edits.len();
        for (row, _) in &edits {
            // One name more than are logged shows that there are more.
            if self.changed_names.len() <= NAMES_LOGGED {
                self.changed_names.insert(row.name.clone());
            }
        }
        edits
    }

    /// Logs the refused rows, except those that the reading before refused for the same reason.
    fn log_refused(&mut self, table: &Table) {
        let mut refused = HashSet::new();
        let (mut count, mut newly_refused) = (0, 0);
        for (verdict, reason) in table.refusals() {
            count += 1;
            // Without the position, since a row may move; as a hash, since there may be very many rows.
            let name = verdict.name().unwrap_or_default();
            let hash = self.hasher.hash_one((name, reason.to_string()));
            refused.insert(hash);
            if self.refused.contains(&hash) {
                continue;
            }
            newly_refused += 1;
            if newly_refused <= REFUSALS_LOGGED {
                let (place, position, name) = (&self.place, verdict.position, Quoted(name));
                tracing::warn!("limits \"{place}\", {position}, {name}: refused: {reason}");
            }
        }
        if newly_refused > REFUSALS_LOGGED {
            let more = newly_refused - REFUSALS_LOGGED;
            tracing::warn!(
                "limits \"{}\": {more} other rows are refused: `floodmark limits check` shows them",
                self.place
            );
        }
        self.refused = refused;
        self.health.state().refusals = Refusals { refused: count, rows: table.verdicts.len() };
        self.set_rows_gauge("refused", count);
    }

    /// Records the start of a poll.
    pub(super) fn poll_started(&self) {
        self.health.state().poll_start = Some(Instant::now());
    }

    /// Records the end of a poll.
    pub(super) fn poll_ended(&self) {
        self.health.state().poll_start = None;
    }

    /// Takes the rows of an earlier run for those that were read last, as long as none can be read.
    pub(super) fn continue_with(
        &mut self,
        mut rows: Vec<Arc<Row>>,
        kind: &'static str,
        why: &str,
    ) -> Edits {
        rows.sort_unstable();
        self.rows = rows;
        self.set_rows_gauge("held", self.rows.len());
        self.failed(kind, why);
        self.rows.iter().map(|row| (row.clone(), 1)).collect()
    }

    /// Records that the first reading succeeded. Its rows are not logged as changes.
    pub(super) fn first_succeeded(&mut self) {
        self.changed = 0;
        self.changed_names.clear();
        self.succeeded();
    }

    /// Records that the limits were read, changed or not.
    pub(super) fn succeeded(&mut self) {
        self.log_changes();
        if let Some(lasted) = self.health.clear_fault() {
            let (place, seconds) = (&self.place, lasted.as_secs());
            tracing::info!("limits \"{place}\" can be read again, after {seconds} s");
        }
        gauge!("floodmark_limits_readable", self.set.labels([])).set(1.0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        gauge!("floodmark_limits_last_reload_success_timestamp_seconds", self.set.labels([]))
            .set(now.as_secs_f64());
    }

    /// Records that the limits could not be read; `kind` is the label of the error. Logs a reason once, until another
    /// one follows.
    pub(super) fn failed(&self, kind: &'static str, why: &str) {
        self.errors(kind).increment(1);
        gauge!("floodmark_limits_readable", self.set.labels([])).set(0.0);
        if self.health.set_fault(why) {
            tracing::error!(place = self.place, "the limits stay as they are: {why}");
        }
    }

    /// Logs the changes, at most once in [`BETWEEN_LOGS`]: there may be hundreds of edits a second.
    fn log_changes(&mut self) {
        let recent = self.logged_at.is_some_and(|at| at.elapsed() < BETWEEN_LOGS);
        if self.changed == 0 || recent {
            return;
        }
        let (place, rows, changed) = (&self.place, self.rows.len(), self.changed);
        let mut names: Vec<String> =
            self.changed_names.iter().map(|name| Quoted(name).to_string()).collect();
        if names.len() > NAMES_LOGGED {
            names.truncate(NAMES_LOGGED);
            names.push("…".into());
        }
        let names = names.join(", ");
        tracing::info!(place, rows, changed, "limits have changed: {names}");
        self.logged_at = Some(Instant::now());
        self.changed = 0;
        self.changed_names.clear();
    }
}

/// Returns the edits that turn sorted rows into others. A value that is only written differently is an edit,
/// too, since floodmark shows values as they are written.
pub(super) fn difference(before: &[Arc<Row>], after: &[Arc<Row>]) -> Edits {
    let mut edits = Edits::new();
    if before.is_empty() {
        edits.reserve_exact(after.len());
    }
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return edits,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            // A row that was there before is shared with those read now.
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => Ordering::Equal,
            (Some(old), Some(new)) => old.cmp(new),
        };
        match order {
            Ordering::Less => edits.extend(before.next().map(|row| (row.clone(), -1))),
            Ordering::Greater => edits.extend(after.next().map(|row| (row.clone(), 1))),
            Ordering::Equal => {
                let pair = before.next().zip(after.next());
                if let Some((old, new)) = pair.filter(|(old, new)| !old.is_written_as(new)) {
                    edits.extend([(old.clone(), -1), (new.clone(), 1)]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::json;
    use crate::limits::rows::Defaults;

    fn table(text: &str) -> Table {
        json::read(text.as_bytes(), Defaults::default()).expect("JSON")
    }

    fn row(name: &str, value: &str) -> String {
        format!(r#"{{"limit_name":"{name}","limit_value":{value},"effective_date":"2026-01-01"}}"#)
            + "\n"
    }

    /// Name, value and difference of edits.
    fn shown(edits: &Edits) -> Vec<(String, String, isize)> {
        let value = |row: &Row| row.value.as_ref().map_or("null".into(), |v| v.text().to_owned());
        edits.iter().map(|(row, diff)| (row.name.to_string(), value(row), *diff)).collect()
    }

    #[test]
    fn table_read_again_returns_only_the_rows_that_differ() {
        let mut current = CurrentRows::default();
        let edits = current.accept(table(&(row("a", "1") + &row("b", "2") + &row("c", "3"))));
        assert_eq!(edits.len(), 3);
        assert!(edits.iter().all(|(_, diff)| *diff == 1));
        assert!(
            current.accept(table(&(row("c", "3") + &row("b", "2") + &row("a", "1")))).is_empty()
        );
        let edits = current.accept(table(&(row("a", "1") + &row("b", "5") + &row("d", "4"))));
        let expected = [("b", "2", -1), ("b", "5", 1), ("c", "3", -1), ("d", "4", 1)];
        assert_eq!(shown(&edits), expected.map(|(n, v, d)| (n.into(), v.into(), d)));
        let edits = current.accept(table(&(row("a", "1.0") + &row("b", "5") + &row("d", "4"))));
        assert_eq!(shown(&edits), [("a".into(), "1".into(), -1), ("a".into(), "1.0".into(), 1)]);
        assert_eq!(current.accept(table("")).len(), 3);
    }

    #[test]
    fn poll_that_never_returns_is_a_fault() {
        let current = CurrentRows::default();
        current.poll_started();
        assert_eq!(current.health().fault(), None);
        current.health.state().poll_start = Instant::now().checked_sub(2 * POLL_STUCK);
        let (lasts, why) = current.health().fault().expect("the poll is stuck");
        assert!(lasts > POLL_STUCK && why.contains("does not answer"), "{why}");
        current.poll_ended();
        assert_eq!(current.health().fault(), None);
    }

    #[test]
    fn fault_is_new_once_and_cleared_by_a_reading() {
        let mut current = CurrentRows::default();
        assert_eq!(current.health().fault(), None);
        assert!(current.health.set_fault("gone"));
        assert!(!current.health.set_fault("gone"));
        assert!(current.health.set_fault("broken"));
        assert_eq!(current.health().fault().map(|(_, why)| why).as_deref(), Some("broken"));
        current.succeeded();
        assert_eq!(current.health().fault(), None);
    }
}
