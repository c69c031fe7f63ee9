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
//!   A violation of a `max` whose version still judges is not cleared: by the same records it would be active, so this
//!   run has counted fewer.
//!
//! Windows that the run does not read from their start keep the alerts they have.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Change, Entity, Event, LimitId, Reason, Updates, VersionId};

use super::ClosedTick;
use super::published::{Comparison, Id, InForce, PublishedAlerts};
use super::topic::{Alerts, Content, SendMessage};
use crate::limits::catalog::Catalog;
use crate::limits::explain::judged_at;
use crate::output::difference::PublishedChanges;

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
    updates: Updates,
    published: PublishedAlerts,
    /// The windows with alerts of which it is not decided yet whether they are to be cleared.
    undecided: BTreeSet<Window>,
    /// `None` once what the input held at the start is judged.
    held: Option<BTreeMap<Window, HeldChanges>>,
    /// The start of the first window that was read from its start, in milliseconds, as of the end of that.
    read_from: u64,
    outcomes: Outcomes,
}

/// The violations of a window whose changes are held back.
type HeldChanges = HashMap<(LimitId, Entity), Held>;

/// Whether a window starts at or after a time in milliseconds.
fn starts_from(window: Window, from: u64) -> bool {
    window.0.saturating_mul(1000) >= from
}

impl Reconciled {
    /// Creates the alerts of a run whose earlier alerts are these.
    pub fn new(
        alerts: Alerts,
        windows: Windows,
        updates: Updates,
        published: PublishedAlerts,
    ) -> Self {
        Reconciled {
            alerts,
            windows,
            updates,
            undecided: published.by_window.keys().copied().collect(),
            published,
            held: Some(BTreeMap::new()),
            read_from: 0,
            outcomes: Outcomes::default(),
        }
    }

    /// Publishes changes, except those that repeat the last alert of their violation.
    fn publish(
        &mut self,
        changes: impl IntoIterator<Item = (u64, Change)>,
        catalog: &Catalog,
        send: SendMessage<'_>,
    ) {
        let Reconciled { alerts, published, outcomes, updates, .. } = self;
        let mut lines = alerts.lines(catalog);
        for (tick, change) in changes {
            let window = change.violation.window;
            let mut message = alerts.message(tick, &change, &mut lines);
            let id = message.key.as_deref().and_then(|key| Id::try_from(key).ok());
            if let Some(id) = id
                && let Some(alert) = published.get_mut(window, &id)
            {
                let comparison = match change.event {
                    Event::Cleared => None,
                    _ => Some(alert.compare(&message.payload, *updates)),
                };
                if comparison == Some(Comparison::Later) {
                    alert.is_active = true;
                    continue;
                }
                published.remove(window, &id);
                if comparison == Some(Comparison::Same) {
                    outcomes.unchanged += 1;
                    continue;
                }
                if comparison == Some(Comparison::Differs) {
                    let updated = Change { event: Event::Updated, ..change };
                    message = alerts.message(tick, &updated, &mut lines);
                }
            }
            outcomes.published += 1;
            send(message);
        }
    }

    /// Publishes the changes of a window that were held back, if the window was read from its start: records before
    /// that would make an amount greater, or a violation another one. `is_whole` is `None` for a window that retires.
    fn release(
        &mut self,
        held: HeldChanges,
        is_whole: Option<bool>,
        catalog: &Catalog,
        send: SendMessage<'_>,
    ) {
        let changes = held.into_values().map(Held::release);
        let mut changes: Vec<(u64, Change)> =
            changes.filter(|(_, change)| is_whole.unwrap_or(!change.partial)).collect();
        // At the tick of the change it may have been unknown yet that the window is whole.
        changes.iter_mut().for_each(|(_, change)| change.partial = false);
        changes
            .sort_unstable_by_key(|(_, change)| (change.violation.limit, change.violation.entity));
        self.publish(changes, catalog, send);
    }

    /// Clears the violations of a window that stand by their alerts, and are none any more.
    fn clear(&mut self, window: Window, in_force: &InForce<'_>, tick: u64, send: SendMessage<'_>) {
        let Some(alerts) = self.published.by_window.get_mut(&window) else { return };
        for (id, alert) in alerts.extract_if(|_, alert| !alert.is_active) {
            if !alert.outlasts(in_force)
                && let Some(cleared) = alert.cleared(tick)
            {
                self.outcomes.cleared += 1;
                send(self.alerts.owned(id.to_vec(), cleared, tick));
            }
        }
        if alerts.is_empty() {
            self.published.by_window.remove(&window);
        }
    }

    /// Decides about the alerts of windows that are closed.
    fn finish_closed(&mut self, closed: &ClosedTick<'_>, send: SendMessage<'_>) {
        let ClosedTick { tick, windows, catalog, .. } = *closed;
        let is_closed = |window: &Window| windows.bounds.closed(*window);
        let closed: Vec<Window> = self.undecided.iter().copied().take_while(is_closed).collect();
        let mut in_force = None::<InForce<'_>>;
        for window in closed {
            match windows.existing(window) {
                Some(existing) if existing.whole => {
                    let at = judged_at(&self.windows, window, tick);
                    let in_force = match in_force.take().filter(|rows| rows.holds_at(at)) {
                        Some(rows) => in_force.insert(rows),
                        None => in_force.insert(InForce::at(catalog, at)),
                    };
                    self.clear(window, in_force, tick, send);
                }
                // A late record may bring it about.
                None if !windows.bounds.settled(window) => continue,
                // The run does not judge it.
                Some(_) | None => drop(self.published.by_window.remove(&window)),
            }
            self.undecided.remove(&window);
        }
    }

    /// Decides about the alerts of windows that leave memory while changes are held back.
    fn finish_retired(
        &mut self,
        held: &mut BTreeMap<Window, HeldChanges>,
        closed: &ClosedTick<'_>,
        send: SendMessage<'_>,
    ) {
        let ClosedTick { tick, outputs, windows, catalog, .. } = *closed;
        for retired in &outputs.retired {
            let mut of_retired = held.split_off(&retired.from);
            held.append(&mut of_retired.split_off(&retired.until));
            for of_window in of_retired.into_values() {
                self.release(of_window, None, catalog, send);
            }
            let published = self.published.by_window.range(retired.from..retired.until);
            let published: Vec<Window> = published.map(|(window, _)| *window).collect();
            for window in published {
                if windows.whole_from.is_some_and(|from| starts_from(window, from)) {
                    let at = judged_at(&self.windows, window, tick);
                    self.clear(window, &InForce::at(catalog, at), tick, send);
                }
                self.published.by_window.remove(&window);
            }
        }
    }

    /// Publishes everything that was held back.
    fn release_all(
        &mut self,
        held: BTreeMap<Window, HeldChanges>,
        closed: &ClosedTick<'_>,
        send: SendMessage<'_>,
    ) {
        for (window, held) in held {
            let is_whole = closed.windows.existing(window).is_some_and(|existing| existing.whole);
            self.release(held, Some(is_whole), closed.catalog, send);
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
    fn has_changes(&self) -> bool {
        true
    }

    fn restore(&mut self, changes: &PublishedChanges<'_>, catalog: &Catalog) {
        let Some(held) = &mut self.held else { return };
        let changes = changes.iter().filter(|(_, change)| Alerts::has(change, catalog));
        changes.for_each(|(tick, change)| hold(held, tick, change));
    }

    fn close_restored(&mut self, closed: &ClosedTick<'_>) {
        let Some(held) = &mut self.held else { return };
        for retired in &closed.outputs.retired {
            held.retain(|window, _| !retired.contains(*window));
        }
    }

    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
        send: SendMessage<'_>,
    ) {
        let changes = changes.iter().filter(|(_, change)| Alerts::has(change, catalog));
        let Some(held) = &mut self.held else {
            // Windows that were not read from their start stay so.
            let read_from = self.read_from;
            let is_read = |change: &Change| {
                !change.partial || starts_from(change.violation.window, read_from)
            };
            let changes = changes.filter(|(_, change)| is_read(change));
            return self.publish(changes.map(|(tick, change)| (tick, *change)), catalog, send);
        };
        changes.for_each(|(tick, change)| hold(held, tick, change));
    }

    fn close(&mut self, closed: &ClosedTick<'_>, send: SendMessage<'_>) {
        let Some(mut held) = self.held.take() else {
            return self.finish_closed(closed, send);
        };
        self.finish_retired(&mut held, closed, send);
        match closed.windows.whole_from.filter(|_| closed.is_caught_up) {
            Some(read_from) => {
                self.read_from = read_from;
                self.release_all(held, closed, send);
            }
            None => self.held = Some(held),
        }
    }

    fn defers(&self) -> bool {
        self.held.is_some()
    }

    fn deferred_versions(&self) -> HashSet<VersionId> {
        let held = self.held.iter().flat_map(BTreeMap::values).flat_map(HashMap::values);
        held.filter_map(|held| held.change.version).collect()
    }
}
