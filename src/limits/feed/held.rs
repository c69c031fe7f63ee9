//! The rows that a feed holds, their difference from the rows read next, and logs and metrics about both.

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

/// Rows that hold from now on (+1), or no longer (-1).
pub type Edits = Vec<(Arc<Row>, isize)>;

/// Minimum interval between two log lines about changes.
const BETWEEN_LOGS: Duration = Duration::from_secs(1);

/// The most names in such a line.
const NAMES_LOGGED: usize = 3;

/// The most refused rows that are logged of one reading; `floodmark limits check` shows all.
const REFUSALS_LOGGED: usize = 20;

/// Time after which a look at a file is reported as stuck: a network mount may never respond.
const LOOK_STUCK: Duration = Duration::from_secs(30);

/// The state of a feed: since when and why its limits can't be read, if they can't, and how many rows are
/// refused. The thread that reads keeps it current.
#[derive(Clone, Debug, Default)]
pub struct Health {
    shared: Arc<Mutex<Shared>>,
}

/// The state that the reading thread shares.
#[derive(Debug, Default)]
struct Shared {
    place: String,
    trouble: Option<(Instant, String)>,
    /// The start of a look at a file that is under way.
    look: Option<Instant>,
    refusals: Refusals,
}

impl Health {
    /// Returns for how long the limits could not be read, and why; `None` if they can be read.
    pub fn trouble(&self) -> Option<(Duration, String)> {
        let shared = self.shared();
        let stuck = shared.look.filter(|look| look.elapsed() > LOOK_STUCK).map(|look| {
            let place = &shared.place;
            (look.elapsed(), format!("reading \"{place}\": the file system does not answer"))
        });
        let known = shared.trouble.as_ref().map(|(since, why)| (since.elapsed(), why.clone()));
        known.or(stuck)
    }

    /// Returns the number of rows that the last reading refused.
    pub fn refusals(&self) -> Refusals {
        self.shared().refusals
    }

    /// Returns a sentence about the rows that the last reading refused; `None` if it refused none.
    pub fn refusal(&self) -> Option<String> {
        let shared = self.shared();
        options::refusal(&shared.place, shared.refusals)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the limits could not be read. Returns whether the reason is new.
    fn failed(&self, complaint: &str) -> bool {
        let mut shared = self.shared();
        let before = shared.trouble.take();
        let news = before.as_ref().is_none_or(|(_, why)| why != complaint);
        let since = before.map_or_else(Instant::now, |(since, _)| since);
        shared.trouble = Some((since, complaint.to_owned()));
        news
    }

    /// Notes that the limits could be read. Returns for how long they could not.
    fn recovered(&self) -> Option<Duration> {
        self.shared().trouble.take().map(|(since, _)| since.elapsed())
    }
}

/// The rows that hold.
#[derive(Default)]
pub(super) struct Held {
    /// Sorted; no two have one name and date. Shared with the catalog of a run.
    rows: Vec<Arc<Row>>,
    /// Edits since the last log line about changes, some of the edited names, and the time of that line.
    changed: usize,
    changed_names: BTreeSet<Text>,
    told: Option<Instant>,
    /// The rows that the last reading refused, as hashes of name and reason: each is reported once.
    said: HashSet<u64>,
    hasher: RandomState,
    health: Health,
    /// The file or table that is read, for messages.
    place: String,
    /// The set of limits, for metrics.
    set: LimitSet,
}

impl Held {
    /// Returns the state of a feed with these options before its first reading; `kinds` are the labels of all errors
    /// that the feed may have.
    pub(super) fn new(options: &Options, kinds: &[&'static str]) -> Self {
        let held = Held { place: options.place(), set: options.set, ..Held::default() };
        held.health.shared().place = options.place();
        for kind in kinds {
            // A rate needs a value before the first error.
            held.errors(kind).increment(0);
        }
        held
    }

    fn errors(&self, kind: &'static str) -> Counter {
        counter!("floodmark_limits_errors_total", self.set.labels([("error", kind)]))
    }

    fn tell_rows(&self, state: &'static str, rows: usize) {
        gauge!("floodmark_limits", self.set.labels([("state", state)])).set(rows as f64);
    }

    pub(super) fn health(&self) -> Health {
        self.health.clone()
    }

    /// The rows that hold.
    pub(super) fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    /// Accepts a table that was read: logs the newly refused rows, and returns the edits since the last table.
    pub(super) fn take(&mut self, table: Table) -> Edits {
        self.tell_refused(&table);
        let rows = table.into_held();
        self.tell_rows("held", rows.len());
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

    /// Logs the rows that are refused, unless the reading before refused them for the same reason.
    fn tell_refused(&mut self, table: &Table) {
        let mut said = HashSet::new();
        let (mut refused, mut news) = (0, 0);
        for (verdict, reason) in table.refusals() {
            refused += 1;
            // Without the position, since a row may move; as a hash, since there may be a great many rows.
            let name = verdict.name().unwrap_or_default();
            let what = self.hasher.hash_one((name, reason.to_string()));
            said.insert(what);
            if self.said.contains(&what) {
                continue;
            }
            news += 1;
            if news <= REFUSALS_LOGGED {
                let (place, position, name) = (&self.place, verdict.position, Quoted(name));
                tracing::warn!("limits \"{place}\", {position}, {name}: refused: {reason}");
            }
        }
        if news > REFUSALS_LOGGED {
            let more = news - REFUSALS_LOGGED;
            tracing::warn!(
                "limits \"{}\": {more} other rows are refused: `floodmark limits check` shows them",
                self.place
            );
        }
        self.said = said;
        self.health.shared().refusals = Refusals { refused, rows: table.verdicts.len() };
        self.tell_rows("refused", refused);
    }

    /// Notes that a look at a file begins, or has ended.
    pub(super) fn looks(&self, begins: bool) {
        self.health.shared().look = begins.then(Instant::now);
    }

    /// Notes that the limits were read for the first time, which is no change.
    pub(super) fn begin(&mut self) {
        self.changed = 0;
        self.changed_names.clear();
        self.succeeded();
    }

    /// Notes that the limits were read, changed or not.
    pub(super) fn succeeded(&mut self) {
        self.tell_changed();
        if let Some(lasted) = self.health.recovered() {
            let (place, seconds) = (&self.place, lasted.as_secs());
            tracing::info!("limits \"{place}\" can be read again, after {seconds} s");
        }
        gauge!("floodmark_limits_readable", self.set.labels([])).set(1.0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        gauge!("floodmark_limits_last_reload_success_timestamp_seconds", self.set.labels([]))
            .set(now.as_secs_f64());
    }

    /// Notes that the limits could not be read; `kind` is the label of the error. Logs a reason once, until
    /// another one follows.
    pub(super) fn failed(&self, kind: &'static str, why: &str) {
        self.errors(kind).increment(1);
        gauge!("floodmark_limits_readable", self.set.labels([])).set(0.0);
        if self.health.failed(why) {
            tracing::error!(place = self.place, "the limits stay as they are: {why}");
        }
    }

    /// Logs the changes, at most once in [`BETWEEN_LOGS`]: there may be hundreds of edits a second.
    fn tell_changed(&mut self) {
        let recent = self.told.is_some_and(|told| told.elapsed() < BETWEEN_LOGS);
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
        self.told = Some(Instant::now());
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
    fn only_what_differs_is_handed_on() {
        let mut held = Held::default();
        let edits = held.take(table(&(row("a", "1") + &row("b", "2") + &row("c", "3"))));
        assert_eq!(edits.len(), 3);
        assert!(edits.iter().all(|(_, diff)| *diff == 1));
        assert!(held.take(table(&(row("c", "3") + &row("b", "2") + &row("a", "1")))).is_empty());
        let edits = held.take(table(&(row("a", "1") + &row("b", "5") + &row("d", "4"))));
        let expected = [("b", "2", -1), ("b", "5", 1), ("c", "3", -1), ("d", "4", 1)];
        assert_eq!(shown(&edits), expected.map(|(n, v, d)| (n.into(), v.into(), d)));
        let edits = held.take(table(&(row("a", "1.0") + &row("b", "5") + &row("d", "4"))));
        assert_eq!(shown(&edits), [("a".into(), "1".into(), -1), ("a".into(), "1.0".into(), 1)]);
        assert_eq!(held.take(table("")).len(), 3);
    }

    #[test]
    fn look_that_never_returns_is_trouble() {
        let held = Held::default();
        held.looks(true);
        assert_eq!(held.health().trouble(), None);
        held.health.shared().look = Instant::now().checked_sub(2 * LOOK_STUCK);
        let (lasts, why) = held.health().trouble().expect("the look is stuck");
        assert!(lasts > LOOK_STUCK && why.contains("does not answer"), "{why}");
        held.looks(false);
        assert_eq!(held.health().trouble(), None);
    }

    #[test]
    fn trouble_is_told_once_and_since_its_beginning() {
        let mut held = Held::default();
        assert_eq!(held.health().trouble(), None);
        assert!(held.health.failed("gone"));
        assert!(!held.health.failed("gone"));
        assert!(held.health.failed("broken"));
        assert_eq!(held.health().trouble().map(|(_, why)| why).as_deref(), Some("broken"));
        held.succeeded();
        assert_eq!(held.health().trouble(), None);
    }
}
