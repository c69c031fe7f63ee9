//! The alerts of a run that its topic holds.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::ops::Not;
use std::sync::Arc;

use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::Updates;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::date::{self, format_ms, format_ns};
use crate::base::error::Failure;
use crate::base::shown;
use crate::kafka::{Address, ClientOptions, Header, ReadTo, StoredMessage, read_to_end};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::limits::rows::Row;

/// The headers of an alert that name its run.
const RUN: &CStr = c"floodmark.run";
const WINDOW: &CStr = c"floodmark.window";
const INPUT: &CStr = c"floodmark.input";

/// The name of a run, by which it finds the alerts that it published before it was restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunName {
    /// The group of `--group`.
    pub group: String,
    /// The rules of windows.
    pub windows: Windows,
    /// The topic of records.
    pub input: String,
}

impl RunName {
    fn values(&self) -> [(&'static CStr, String); 3] {
        let width = format!("{}s", self.windows.width_secs);
        [(RUN, self.group.clone()), (WINDOW, width), (INPUT, self.input.clone())]
    }

    /// Returns the headers of the run's alerts.
    pub fn headers(&self) -> Arc<[Header]> {
        let header = |(name, value): (&'static CStr, String)| (name.to_string_lossy(), value);
        self.values().map(header).into()
    }

    fn owns(&self, message: &StoredMessage<'_>) -> bool {
        let is_there =
            |(name, value): (&CStr, String)| message.header(name) == Some(value.as_bytes());
        self.values().into_iter().all(is_there)
    }
}

/// The id of a violation, in hexadecimal: the key of its alerts.
pub(super) type Id = [u8; 32];

/// The last alert of a violation that stands.
#[derive(Debug)]
pub(super) struct Alert {
    payload: Box<[u8]>,
    /// Whether this run has judged the violation to be active, and compares it later.
    pub(super) is_active: bool,
}

/// The fields of an alert, in their order.
#[derive(Serialize, Deserialize)]
struct AlertFields<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    limit_name: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    limit_set: Option<Cow<'a, str>>,
    #[serde(borrow)]
    limit_value: &'a RawValue,
    #[serde(borrow)]
    effective_date: &'a RawValue,
    #[serde(borrow)]
    bound: Cow<'a, str>,
    #[serde(borrow)]
    metric: Cow<'a, str>,
    #[serde(borrow)]
    per: Cow<'a, str>,
    #[serde(borrow)]
    entity: &'a RawValue,
    #[serde(borrow)]
    window_start: &'a RawValue,
    #[serde(borrow)]
    window_end: &'a RawValue,
    bytes: i64,
    packets: i64,
    amount: i64,
    #[serde(default, skip_serializing_if = "Not::not")]
    overflow: bool,
    settled: bool,
    #[serde(default, skip_serializing_if = "Not::not")]
    partial: bool,
    #[serde(borrow)]
    as_of: &'a RawValue,
}

impl AlertFields<'_> {
    /// Returns the start of the window: a date, or seconds since 1970 past the year 9999.
    fn window(&self) -> Option<Window> {
        let text = self.window_start.get();
        let seconds = match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(text) => u64::try_from(date::parse(text).ok()? / 1_000_000_000).ok()?,
            None => text.parse().ok()?,
        };
        Some(Window(seconds))
    }

    /// Returns the fields that name the version which judges.
    fn version(&self) -> [&str; 5] {
        let (value, date) = (self.limit_value.get(), self.effective_date.get());
        [value, date, &self.bound, &self.metric, &self.per]
    }
}

fn parse(payload: &[u8]) -> Option<AlertFields<'_>> {
    serde_json::from_slice(payload).ok()
}

/// The result of comparing a violation with its last alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// The alert holds.
    Same,
    /// There is something new to publish.
    Differs,
    /// The alert says settled, and the violation is not settled yet.
    Later,
}

impl Alert {
    fn of(payload: &[u8]) -> Self {
        Alert { payload: payload.into(), is_active: false }
    }

    /// Compares the alert with a message about the same violation.
    pub(super) fn compare(&self, message: &[u8], updates: Updates) -> Comparison {
        let (Some(before), Some(after)) = (parse(&self.payload), parse(message)) else {
            return Comparison::Differs;
        };
        match () {
            () if before.settled && !after.settled => Comparison::Later,
            () if before.version() != after.version() => Comparison::Differs,
            () if before.settled != after.settled => Comparison::Differs,
            () if before.amount == after.amount => Comparison::Same,
            // By the same records a sum only grows: the run before has counted some that this one has not.
            () if after.bound == "max" && after.amount < before.amount => Comparison::Same,
            // A run that goes on publishes amounts when windows settle, unless it is told otherwise.
            () if !after.settled && updates != Updates::Tick => Comparison::Same,
            () => Comparison::Differs,
        }
    }

    /// Whether the violation stands although this run does not judge it to be active: the version of an upper bound that
    /// the alert names still judges the window, so this run has counted fewer records.
    pub(super) fn outlasts(&self, in_force: &InForce<'_>) -> bool {
        let Some(alert) = parse(&self.payload).filter(|alert| alert.bound == "max") else {
            return false;
        };
        let row = in_force.rows.get(&*alert.limit_name);
        row.is_some_and(|row| {
            let date = serde_json::to_string(&format_ns(row.effective)).ok();
            let value = row.value.as_ref().and_then(|value| serde_json::to_string(value).ok());
            value.as_deref() == Some(alert.limit_value.get())
                && date.as_deref() == Some(alert.effective_date.get())
        })
    }

    /// Returns the message that clears the violation, with the amounts of the alert; `None` if it can't be read.
    pub(super) fn cleared(&self, tick: u64) -> Option<Vec<u8>> {
        let as_of = serde_json::value::to_raw_value(&format_ms(tick)).ok()?;
        let (event, reason) = ("cleared".into(), "limit_change".into());
        let cleared = AlertFields { event, reason, as_of: &as_of, ..parse(&self.payload)? };
        let mut message = Vec::with_capacity(self.payload.len());
        shown::write_json(&mut message, &cleared).ok()?;
        Some(message)
    }
}

/// The rows of live limits in force over a span of time.
pub(super) struct InForce<'a> {
    rows: HashMap<&'a str, &'a Row>,
    /// Nanoseconds since 1970 from which on other rows are in force.
    until: i128,
}

impl<'a> InForce<'a> {
    /// Finds the rows in force at a moment, in nanoseconds since 1970.
    pub(super) fn at(catalog: &'a Catalog, at: i128) -> Self {
        let mut in_force = InForce { rows: HashMap::new(), until: i128::MAX };
        for (limit, rows) in catalog.in_force(at) {
            if catalog.set(limit) == LimitSet::Live {
                in_force.rows.extend(rows.now.map(|row| (catalog.name(limit), row)));
                let next = rows.next.map_or(i128::MAX, |row| row.effective);
                in_force.until = in_force.until.min(next);
            }
        }
        in_force
    }

    /// Whether they are in force at a later moment, too.
    pub(super) fn holds_at(&self, at: i128) -> bool {
        at < self.until
    }
}

/// The violations that stand by the alerts of a topic, each with its last alert.
#[derive(Debug, Default)]
pub struct PublishedAlerts {
    pub(super) by_window: BTreeMap<Window, HashMap<Id, Alert>>,
    /// Whether the run has published anything before.
    is_restart: bool,
}

impl PublishedAlerts {
    /// Reads the alerts of a run from a topic, unless `gives_up` says not to go on.
    ///
    /// # Errors
    /// The topic can't be read, or `gives_up` has returned true.
    pub fn read(
        address: &Address,
        options: &ClientOptions,
        run: &RunName,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<Self, Failure> {
        let mut published = PublishedAlerts::default();
        read_to_end(address, options, ReadTo::Stable, gives_up, |message| {
            published.apply(&message, run)
        })?;
        Ok(published)
    }

    fn apply(&mut self, message: &StoredMessage<'_>, run: &RunName) {
        let Some(id) = message.key.and_then(|key| Id::try_from(key).ok()) else { return };
        let Some(payload) = message.payload else {
            // A tombstone names no window; this program writes none.
            self.by_window.values_mut().for_each(|alerts| drop(alerts.remove(&id)));
            return;
        };
        let is_own = run.owns(message);
        self.is_restart |= is_own;
        let Some(alert) = parse(payload).filter(|alert| alert.id.as_bytes() == id) else { return };
        let window = alert.window().filter(|window| window.0 % run.windows.width_secs == 0);
        let Some(window) = window else { return };
        match &*alert.event {
            "raised" | "updated" if is_own => {
                self.by_window.entry(window).or_default().insert(id, Alert::of(payload));
            }
            // A message of another run takes the place of the alert, too.
            _ => drop(self.remove(window, &id)),
        }
    }

    pub(super) fn get_mut(&mut self, window: Window, id: &Id) -> Option<&mut Alert> {
        self.by_window.get_mut(&window)?.get_mut(id)
    }

    pub(super) fn remove(&mut self, window: Window, id: &Id) -> Option<Alert> {
        let alerts = self.by_window.get_mut(&window)?;
        let removed = alerts.remove(id);
        if alerts.is_empty() {
            self.by_window.remove(&window);
        }
        removed
    }

    /// Whether the run has published alerts before.
    pub fn is_restart(&self) -> bool {
        self.is_restart
    }

    /// Returns the number of violations that stand.
    pub fn len(&self) -> usize {
        self.by_window.values().map(HashMap::len).sum()
    }

    /// Whether no violation stands.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(event: &str, limit: &str, bound: &str, amount: i64, settled: bool) -> String {
        format!(
            "{{\"event\":\"{event}\",\"reason\":\"data\",\"id\":\"{}\",\"limit_name\":\"a \\\"b\\\"\",\
             \"limit_value\":{limit},\"effective_date\":\"1970-01-01T00:00:00Z\",\"bound\":\"{bound}\",\
             \"metric\":\"bytes\",\"per\":\"total\",\"entity\":{{}},\
             \"window_start\":\"1970-01-01T00:05:00Z\",\"window_end\":\"1970-01-01T00:10:00Z\",\
             \"bytes\":{amount},\"packets\":1,\"amount\":{amount},\"settled\":{settled},\
             \"as_of\":\"1970-01-01T00:06:00Z\"}}",
            "0".repeat(32)
        )
    }

    #[test]
    fn violation_differs_from_its_alert_by_version_settling_and_amount() {
        let compare = |before: String, after: String, updates| {
            Alert::of(before.as_bytes()).compare(after.as_bytes(), updates)
        };
        let max = |amount, settled| alert("raised", "5", "max", amount, settled);
        let min = |amount, settled| alert("updated", "5", "min", amount, settled);
        use Comparison::{Differs, Later, Same};
        for (before, after, updates, expected) in [
            (max(9, false), max(9, false), Updates::Tick, Same),
            (max(9, false), max(9, true), Updates::Settled, Differs),
            (max(9, true), max(9, false), Updates::Settled, Later),
            (max(9, true), alert("raised", "6", "max", 9, true), Updates::Settled, Differs),
            (max(9, true), max(10, true), Updates::Settled, Differs),
            (max(9, true), max(8, true), Updates::Settled, Same),
            (min(3, true), min(2, true), Updates::Settled, Differs),
            // Amounts are published between raising and settling only by --updates tick.
            (max(9, false), max(10, false), Updates::Limit, Same),
            (max(9, false), max(10, false), Updates::Tick, Differs),
            (max(9, false), max(8, false), Updates::Tick, Same),
        ] {
            assert_eq!(
                compare(before.clone(), after.clone(), updates),
                expected,
                "{before} {after}"
            );
        }
    }

    #[test]
    fn cleared_message_has_the_state_of_the_alert() {
        let before = alert("raised", "5", "max", 9, true);
        let cleared = Alert::of(before.as_bytes()).cleared(3_600_000).expect("it can be read");
        let expected = before
            .replace("raised", "cleared")
            .replace("\"reason\":\"data\"", "\"reason\":\"limit_change\"")
            .replace("1970-01-01T00:06:00Z", "1970-01-01T01:00:00Z");
        assert_eq!(String::from_utf8(cleared), Ok(expected));
    }

    #[test]
    fn any_bytes_are_an_alert_or_rejected() {
        let text = alert("raised", "5", "max", 9, true);
        for end in 0..text.len() {
            assert!(parse(&text.as_bytes()[..end]).is_none(), "{end}");
        }
        assert_eq!(parse(text.as_bytes()).and_then(|alert| alert.window()), Some(Window(300)));
        let far = text.replace("\"1970-01-01T00:05:00Z\"", "253402300800");
        let window = parse(far.as_bytes()).and_then(|alert| alert.window());
        assert_eq!(window, Some(Window(253_402_300_800)));
        let wrong = text.replace("1970-01-01T00:05:00Z", "yesterday");
        assert_eq!(parse(wrong.as_bytes()).and_then(|alert| alert.window()), None);
    }
}
