//! Restarts without a state: a topic of alerts gets only the changes that differ from what it holds.
//!
//! A run that starts reads its topic of alerts ([`PublishedAlerts::read`]). If the topic holds alerts of an earlier run
//! of the same name, window width and input, the new run judges the same records again, and would publish the same
//! alerts again. So its changes are held back, folded by violation, until the run has judged what the input held at the
//! start, or until their window retires. Then each violation is compared with its last alert:
//!
//! - active, without an alert: `raised`; with another alert: `updated`; with the same one: nothing;
//! - not active, with an alert: `cleared`, once its window is closed. An open window may still come to what the earlier
//!   run judged. So may one that is not settled yet: an alert that says settled is compared when its violation settles.
//!
//! Windows that the run does not read from their start keep the alerts they have.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Change, Entity, Event, LimitId, Reason, VersionId};
use serde::Deserialize;

use super::ClosedTick;
use super::topic::{Alerts, Content, SendMessage};
use crate::base::date::{self, format_ms};
use crate::base::error::Failure;
use crate::kafka::{Address, ClientOptions, Header, StoredMessage, read_to_end};
use crate::limits::catalog::Catalog;
use crate::output::difference::PublishedChanges;

/// The headers of an alert that name its run.
const RUN: &str = "floodmark.run";
const WINDOW: &str = "floodmark.window";
const INPUT: &str = "floodmark.input";

/// The name of a run, by which it finds the alerts that it published before it was restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunName {
    /// The group of `--group`.
    pub group: String,
    /// The width of windows, in seconds.
    pub width_secs: u64,
    /// The topic of records.
    pub input: String,
}

impl RunName {
    /// Returns the headers of the run's alerts.
    pub fn headers(&self) -> Arc<[Header]> {
        let RunName { group, width_secs, input } = self;
        let width = format!("{width_secs}s");
        [(RUN, group.clone()), (WINDOW, width), (INPUT, input.clone())]
            .map(|(name, value)| (name.into(), value))
            .into()
    }

    fn owns(&self, message: &StoredMessage<'_>) -> bool {
        let width = format!("{}s", self.width_secs);
        [
            (c"floodmark.run", &self.group),
            (c"floodmark.window", &width),
            (c"floodmark.input", &self.input),
        ]
        .into_iter()
        .all(|(name, value)| message.header(name) == Some(value.as_bytes()))
    }
}

/// The id of a violation, in hexadecimal: the key of its alerts.
type Id = [u8; 32];

/// The last alert of a violation that stands.
#[derive(Debug)]
struct Alert {
    payload: Box<[u8]>,
    /// Whether this run has judged the violation to be active, and compares it later.
    is_active: bool,
}

/// The violations that stand by the alerts of a topic, each with its last alert.
#[derive(Debug, Default)]
pub struct PublishedAlerts {
    by_window: BTreeMap<Window, HashMap<Id, Alert>>,
    /// Whether the run has published anything before.
    is_restart: bool,
}

/// The fields of an alert that say whether and where its violation stands.
#[derive(Deserialize)]
struct AlertFields<'a> {
    event: &'a str,
    window_start: WindowStart<'a>,
}

/// The start of a window: a date, or seconds since 1970 past the year 9999.
#[derive(Deserialize)]
#[serde(untagged)]
enum WindowStart<'a> {
    Date(&'a str),
    Seconds(u64),
}

impl WindowStart<'_> {
    fn window(&self) -> Option<Window> {
        match self {
            WindowStart::Date(text) => {
                let nanos = date::parse(text).ok()?;
                u64::try_from(nanos / 1_000_000_000).ok().map(Window)
            }
            WindowStart::Seconds(seconds) => Some(Window(*seconds)),
        }
    }
}

impl PublishedAlerts {
    /// Reads the alerts of a run from a topic.
    ///
    /// # Errors
    /// The topic can't be read.
    pub fn read(
        address: &Address,
        options: &ClientOptions,
        run: &RunName,
    ) -> Result<Self, Failure> {
        let mut published = PublishedAlerts::default();
        // A tombstone has no window.
        let mut windows = HashMap::<Id, Window>::new();
        read_to_end(address, options, |message| {
            let id = message.key.and_then(|key| Id::try_from(key).ok());
            if let Some(id) = id {
                published.apply(id, &message, run, &mut windows);
            }
        })?;
        Ok(published)
    }

    fn apply(
        &mut self,
        id: Id,
        message: &StoredMessage<'_>,
        run: &RunName,
        windows: &mut HashMap<Id, Window>,
    ) {
        let Some(payload) = message.payload else {
            if let Some(window) = windows.remove(&id) {
                self.remove(window, &id);
            }
            return;
        };
        if !run.owns(message) {
            return;
        }
        self.is_restart = true;
        let Ok(AlertFields { event, window_start }) = serde_json::from_slice(payload) else {
            return;
        };
        let Some(window) = window_start.window() else { return };
        if event == "cleared" {
            windows.remove(&id);
            self.remove(window, &id);
        } else if state_of(payload).is_some() {
            windows.insert(id, window);
            self.by_window
                .entry(window)
                .or_default()
                .insert(id, Alert { payload: payload.into(), is_active: false });
        }
    }

    fn get_mut(&mut self, window: Window, id: &Id) -> Option<&mut Alert> {
        self.by_window.get_mut(&window)?.get_mut(id)
    }

    fn remove(&mut self, window: Window, id: &Id) -> Option<Alert> {
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
        self.by_window.is_empty()
    }
}

/// Returns the part of an alert that tells the state of its violation: everything but the event, its reason and its
/// time.
fn state_of(payload: &[u8]) -> Option<&[u8]> {
    let text = std::str::from_utf8(payload).ok()?;
    let from = text.find("\"id\":\"")?;
    let until = text.rfind(",\"as_of\":")?;
    text.as_bytes().get(from..until)
}

/// Whether the violation of an alert has settled.
fn is_settled(alert: &[u8]) -> bool {
    const FIELD: &str = "\"settled\":";
    let text = std::str::from_utf8(alert).unwrap_or_default();
    text.rfind(FIELD).is_some_and(|at| text[at + FIELD.len()..].starts_with("true"))
}

/// Returns the alert by which a violation is no more, from the last one of it.
fn cleared(alert: &[u8], tick: u64) -> Vec<u8> {
    let state = state_of(alert).map(String::from_utf8_lossy).unwrap_or_default();
    format!(
        "{{\"event\":\"cleared\",\"reason\":\"limit_change\",{state},\"as_of\":\"{}\"}}",
        format_ms(tick)
    )
    .into_bytes()
}

/// Whether a window is read from its start; `whole_from` is the start of the first one that is. Records before the start
/// of reading would make an amount greater, or a violation another one.
fn is_whole(window: Window, whole_from: Option<u64>) -> bool {
    whole_from.is_some_and(|from| window.0.saturating_mul(1000) >= from)
}

/// A violation whose changes are held back.
#[derive(Debug)]
struct Held {
    tick: u64,
    /// Its last change.
    change: Change,
    /// The reason for which it was raised.
    raised: Reason,
}

/// The numbers of violations by the outcome of their comparison.
#[derive(Debug, Default)]
struct Outcomes {
    published: u64,
    unchanged: u64,
    cleared: u64,
}

/// The alerts of a run that was restarted, for a topic that holds those of the run before.
pub struct Reconciled {
    alerts: Alerts,
    windows: Windows,
    published: PublishedAlerts,
    /// `None` once what the input held at the start is judged.
    held: Option<BTreeMap<Window, HeldChanges>>,
    /// The start of the first window that the run reads from its start; `None` while it is unknown.
    whole_from: Option<u64>,
    outcomes: Outcomes,
}

/// The violations of a window whose changes are held back.
type HeldChanges = HashMap<(LimitId, Entity), Held>;

impl Reconciled {
    /// Creates the alerts of a run whose earlier alerts are these.
    pub fn new(alerts: Alerts, windows: Windows, published: PublishedAlerts) -> Self {
        let (held, outcomes) = (Some(BTreeMap::new()), Outcomes::default());
        Reconciled { alerts, windows, published, held, whole_from: None, outcomes }
    }

    /// Publishes changes, except those that repeat the last alert of their violation.
    fn publish(
        &mut self,
        changes: impl IntoIterator<Item = (u64, Change)>,
        catalog: &Catalog,
        send: SendMessage<'_>,
    ) {
        let whole_from = self.whole_from;
        let Reconciled { alerts, published, outcomes, .. } = self;
        let mut lines = alerts.lines(catalog);
        for (tick, change) in changes {
            let window = change.violation.window;
            if !is_whole(window, whole_from) {
                continue;
            }
            // The change may be of a tick at which it was not known yet that the window is whole.
            let change = Change { partial: false, ..change };
            let mut message = alerts.message(tick, &change, &mut lines);
            let id = message.key.as_deref().and_then(|key| Id::try_from(key).ok());
            if change.event != Event::Cleared
                && !change.settled
                && let Some(alert) = id.and_then(|id| published.get_mut(window, &id))
                && is_settled(&alert.payload)
            {
                // The run before has judged more time than this one: a settled violation is compared when it settles.
                alert.is_active = true;
                continue;
            }
            let before = id.and_then(|id| published.remove(window, &id));
            if let Some(before) = before
                && change.event != Event::Cleared
            {
                if state_of(&before.payload) == state_of(&message.payload) {
                    outcomes.unchanged += 1;
                    continue;
                }
                let updated = Change { event: Event::Updated, ..change };
                message = alerts.message(tick, &updated, &mut lines);
            }
            outcomes.published += 1;
            send(message);
        }
    }

    /// Publishes the changes of a window that were held back.
    fn release(&mut self, held: HeldChanges, catalog: &Catalog, send: SendMessage<'_>) {
        let mut changes: Vec<(u64, Change)> = held.into_values().map(Held::release).collect();
        changes
            .sort_unstable_by_key(|(_, change)| (change.violation.limit, change.violation.entity));
        self.publish(changes, catalog, send);
    }

    /// Clears the violations of a window that stand by their alerts and were not judged to be active.
    fn clear(&mut self, window: Window, tick: u64, send: SendMessage<'_>) {
        let Some(alerts) = self.published.by_window.get_mut(&window) else { return };
        for (id, alert) in alerts.extract_if(|_, alert| !alert.is_active) {
            self.outcomes.cleared += 1;
            send(self.alerts.owned(id.to_vec(), cleared(&alert.payload, tick), tick));
        }
        if alerts.is_empty() {
            self.published.by_window.remove(&window);
        }
    }

    /// Decides about the alerts of windows that are closed.
    fn finish_closed(&mut self, closed: &ClosedTick<'_>, send: SendMessage<'_>) {
        let ClosedTick { tick, windows, .. } = *closed;
        let windows_with_alerts: Vec<Window> = self.published.by_window.keys().copied().collect();
        for window in windows_with_alerts {
            if !self.windows.closed(window, windows.watermark) {
                break;
            }
            let exists = windows.existing(window).is_some();
            if exists && is_whole(window, self.whole_from) {
                self.clear(window, tick, send);
            } else if exists || self.windows.settled(window, windows.watermark) {
                // The run does not judge it.
                self.published.by_window.remove(&window);
            }
        }
    }

    /// Decides about the alerts of windows that leave memory while changes are held back.
    fn finish_retired(
        &mut self,
        held: &mut BTreeMap<Window, HeldChanges>,
        closed: &ClosedTick<'_>,
        send: SendMessage<'_>,
    ) {
        let ClosedTick { tick, outputs, catalog, .. } = *closed;
        for retired in &outputs.retired {
            let mut of_retired = held.split_off(&retired.from);
            held.append(&mut of_retired.split_off(&retired.until));
            for of_window in of_retired.into_values() {
                self.release(of_window, catalog, send);
            }
            let published = self.published.by_window.range(retired.from..retired.until);
            let published: Vec<Window> = published.map(|(window, _)| *window).collect();
            for window in published {
                if is_whole(window, self.whole_from) {
                    self.clear(window, tick, send);
                }
                self.published.by_window.remove(&window);
            }
        }
    }
}

impl Held {
    /// Returns the change to publish: the first one of the violation, if there is no alert of it.
    fn release(self) -> (u64, Change) {
        let Held { tick, change, raised } = self;
        match change.event {
            Event::Raised => (tick, change),
            Event::Updated | Event::Cleared => {
                (tick, Change { event: Event::Raised, reason: raised, ..change })
            }
        }
    }
}

/// Folds a change into those that are held back.
fn hold(held: &mut BTreeMap<Window, HeldChanges>, tick: u64, change: &Change) {
    let violation = change.violation;
    let held = held.entry(violation.window).or_default();
    let key = (violation.limit, violation.entity);
    match change.event {
        Event::Cleared => drop(held.remove(&key)),
        Event::Raised | Event::Updated => {
            let raised = held.get(&key).map_or(change.reason, |held| held.raised);
            held.insert(key, Held { tick, change: *change, raised });
        }
    }
}

impl Content for Reconciled {
    const HAS_CHANGES: bool = true;

    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
        send: SendMessage<'_>,
    ) {
        let changes = changes.iter().filter(|(_, change)| Alerts::has(change, catalog));
        match &mut self.held {
            Some(held) => changes.for_each(|(tick, change)| hold(held, tick, change)),
            None => self.publish(changes.map(|(tick, change)| (tick, *change)), catalog, send),
        }
    }

    fn close(&mut self, closed: &ClosedTick<'_>, send: SendMessage<'_>) {
        self.whole_from = closed.windows.whole_from;
        let Some(mut held) = self.held.take() else {
            return self.finish_closed(closed, send);
        };
        self.finish_retired(&mut held, closed, send);
        if !closed.is_caught_up || self.whole_from.is_none() {
            self.held = Some(held);
            return;
        }
        for of_window in held.into_values() {
            self.release(of_window, closed.catalog, send);
        }
        self.finish_closed(closed, send);
        let Outcomes { published, unchanged, cleared } = self.outcomes;
        tracing::info!(
            published,
            unchanged,
            cleared,
            "caught up: the topic of alerts has the differences to the run before"
        );
    }

    fn defers(&self) -> bool {
        self.held.is_some()
    }

    fn deferred_versions(&self) -> HashSet<VersionId> {
        let held = self.held.iter().flat_map(BTreeMap::values).flat_map(HashMap::values);
        held.filter_map(|held| held.change.version).collect()
    }
}
