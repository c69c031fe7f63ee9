//! Where a live run says what it has to say.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Change, Event, Pair, Reason, Volume};
use metrics::{Counter, counter, gauge};

use super::metrics::{event, reason};
use super::status::{SinkState, count_sink_error, sink_name};
use crate::computation::Outcome;
use crate::driver::standing;
use crate::error::Failure;
use crate::kafka::{Letter, Outbox};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::output::difference::{Difference, Shown};
use crate::output::rotated::RotatedFile;
use crate::output::{Format, Sink, WriteError, change, table, totals};

/// One place for changes.
pub enum Alerts {
    /// Standard output.
    Stream(Sink, Format),
    /// Lines of JSON, by the name of a file.
    File(RotatedFile),
    /// A topic, by the id of the violation.
    Topic(Outbox),
}

/// All places, and what is to be known to write there.
pub struct Sinks {
    alerts: Vec<Alerts>,
    /// The topic for totals of windows that have settled.
    totals: Option<Outbox>,
    windows: Windows,
    pub(super) catalog: Arc<Catalog>,
    /// Where only the difference of two sets of limits is shown, what is known of it.
    difference: Option<Difference>,
    /// Violations that stand, by the set of their limit.
    standing: BTreeMap<LimitSet, u64>,
    /// Records that came too late.
    pub(super) dropped: u64,
}

impl Sinks {
    /// Changes go to `alerts`, totals of windows that have settled to `totals`.
    pub fn new(
        alerts: Vec<Alerts>,
        totals: Option<Outbox>,
        windows: Windows,
        catalog: Catalog,
    ) -> Result<Self, WriteError> {
        let mut sinks = Sinks {
            alerts,
            totals,
            windows,
            catalog: Arc::new(catalog),
            difference: None,
            standing: BTreeMap::new(),
            dropped: 0,
        };
        sinks.begin_counts();
        for alerts in &mut sinks.alerts {
            if let Alerts::Stream(sink, Format::Table) = alerts {
                sink.write(|out| table::write_header(out, &sinks.catalog))?;
                sink.flush()?;
            }
        }
        Ok(sinks)
    }

    /// Shows only in what the two sets of limits of the catalog differ. A topic gets what it always does:
    /// the state of the live one.
    pub fn only_difference(self) -> Self {
        Sinks { difference: Some(Difference::default()), ..self }
    }

    /// Whether what was said may be shown at a later tick, when what it differs from changes.
    pub(super) fn shows_later(&self) -> bool {
        self.difference.is_some()
    }

    /// Violations that stand, of limits that hold.
    pub(super) fn standing(&self) -> u64 {
        self.standing.get(&LimitSet::Live).copied().unwrap_or(0)
    }

    fn outboxes(&mut self) -> impl Iterator<Item = &mut Outbox> {
        let alerts = self.alerts.iter_mut().filter_map(|alerts| match alerts {
            Alerts::Topic(outbox) => Some(outbox),
            Alerts::Stream(..) | Alerts::File(_) => None,
        });
        alerts.chain(&mut self.totals)
    }

    /// Whether there is room for what another tick may lead to.
    pub(super) fn has_room(&mut self) -> bool {
        self.outboxes().all(|outbox| outbox.has_room())
    }

    /// Sends on what can be sent, without waiting.
    pub(super) fn poll(&mut self) -> Result<(), Failure> {
        self.outboxes().try_for_each(|outbox| {
            outbox.poll().inspect_err(|_| count_sink_error(&sink_name(outbox)))
        })
    }

    /// How each topic is.
    pub(super) fn states(&mut self) -> Vec<SinkState> {
        self.outboxes().map(|outbox| SinkState::of(outbox)).collect()
    }

    /// Takes what a tick has led to.
    pub(super) fn tick(&mut self, tick: u64, outcome: Outcome) -> Result<(), WriteError> {
        self.count(&outcome);
        let Sinks { alerts, windows, catalog, difference, .. } = self;
        let shown = Shown::of(&outcome, tick, difference.as_mut(), catalog);
        if !(outcome.changes.is_empty() && outcome.top.is_empty()) {
            for alerts in alerts {
                alerts
                    .tick(tick, &outcome, &shown, windows, catalog)
                    .inspect_err(|_| count_sink_error(&alerts.name()))?;
            }
        }
        if let Some(outbox) = &mut self.totals {
            for (window, rows) in outcome.rows {
                for (pair, volume) in rows {
                    outbox.give(total(windows, window, pair, volume, tick));
                }
            }
        }
        self.poll().map_err(WriteError::Failed)
    }

    /// What may be counted is there from the beginning: a rate needs a value before the first event.
    fn begin_counts(&mut self) {
        let alerts = self.alerts.iter().map(Alerts::name);
        for sink in alerts.chain(self.totals.as_ref().map(sink_name)) {
            counter!("floodmark_sink_errors_total", "sink" => sink).increment(0);
        }
        for event in [Event::Raised, Event::Updated, Event::Cleared].map(event) {
            for reason in
                [Reason::LimitChange, Reason::Schedule, Reason::LateData, Reason::Data].map(reason)
            {
                for set in self.catalog.sets() {
                    changes_total(event, reason, *set).increment(0);
                }
            }
        }
        self.count(&Outcome::default());
    }

    fn count(&mut self, outcome: &Outcome) {
        self.dropped += outcome.late.dropped;
        let set_of = |said: &Change| self.catalog.set(said.violation.limit);
        for set in self.catalog.sets() {
            let of_set = outcome.changes.iter().filter(|said| set_of(said) == *set);
            let before = self.standing.entry(*set).or_default();
            *before = standing(*before, of_set);
            gauge!("floodmark_violations", set.labels([("status", "standing")]))
                .set(*before as f64);
        }
        for (disposition, records) in
            [("counted", outcome.late.counted), ("dropped", outcome.late.dropped)]
        {
            counter!("floodmark_late_records_total", "disposition" => disposition)
                .increment(records);
        }
        for said in &outcome.changes {
            changes_total(event(said.event), reason(said.reason), set_of(said)).increment(1);
        }
    }

    /// Waits until all is delivered, or `give_up` says so.
    pub(super) fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), WriteError> {
        for alerts in &mut self.alerts {
            if let Alerts::Stream(sink, _) = alerts {
                sink.flush()?;
            }
        }
        self.outboxes().try_for_each(|outbox| outbox.finish(give_up)).map_err(WriteError::Failed)
    }
}

impl Alerts {
    /// As the label of a metric.
    fn name(&self) -> String {
        match self {
            Alerts::Stream(..) => "-".into(),
            Alerts::File(file) => format!("file:{}", file.path().display()),
            Alerts::Topic(outbox) => sink_name(outbox),
        }
    }

    fn tick(
        &mut self,
        tick: u64,
        outcome: &Outcome,
        shown: &Shown<'_>,
        windows: &Windows,
        catalog: &Catalog,
    ) -> Result<(), WriteError> {
        match self {
            Alerts::Stream(sink, format) => {
                sink.write(|out| {
                    for (tick, said) in shown.iter() {
                        format.write_change(out, tick, said, catalog, windows)?;
                    }
                    outcome.top.iter().try_for_each(|ranked| format.write_ranked(out, ranked))
                })?;
                sink.flush()
            }
            Alerts::File(file) => {
                let mut lines = Vec::new();
                for (tick, said) in shown.iter() {
                    into_memory(&mut lines, |out| {
                        change::write_json(out, tick, said, catalog, windows)
                    });
                }
                for ranked in &outcome.top {
                    into_memory(&mut lines, |out| change::write_ranked_json(out, ranked));
                }
                file.write(&lines).map_err(WriteError::Failed)
            }
            // The state of violations: a ranking is none, and what would be, if, does not stand.
            Alerts::Topic(outbox) => {
                let is_live = |said: &&Change| catalog.set(said.violation.limit) == LimitSet::Live;
                for said in outcome.changes.iter().filter(is_live) {
                    outbox.give(alert(tick, said, catalog, windows));
                }
                Ok(())
            }
        }
    }
}

fn changes_total(event: &'static str, reason: &'static str, set: LimitSet) -> Counter {
    counter!("floodmark_changes_total", set.labels([("event", event), ("reason", reason)]))
}

fn into_memory(bytes: &mut Vec<u8>, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) {
    write(bytes).expect("memory takes everything");
}

/// A change as a message: the id is the key, so that a compacted topic holds the last word on each
/// violation.
fn alert(tick: u64, said: &Change, catalog: &Catalog, windows: &Windows) -> Letter {
    let id = change::id_of(said, catalog, windows);
    let mut payload = Vec::with_capacity(512);
    into_memory(&mut payload, |out| change::write_json(out, tick, said, catalog, windows));
    payload.truncate(payload.trim_ascii_end().len());
    Letter { key: Some(id.into_bytes()), payload, timestamp_ms: Some(tick), ..Letter::default() }
}

fn total(windows: &Windows, window: Window, pair: Pair, volume: Volume, tick: u64) -> Letter {
    let key = totals::key(window, &pair).into_bytes();
    let mut payload = Vec::with_capacity(192);
    into_memory(&mut payload, |out| totals::write_json(out, windows, window, &pair, volume, tick));
    Letter {
        key: Some(key),
        payload,
        timestamp_ms: Some(windows.end_ms(window)),
        ..Letter::default()
    }
}
