//! Counts of published changes and of late records, as metrics and for the end of a run.

use floodmark_dataflows::reports::Late;
use floodmark_dataflows::types::{Change, Event};
use metrics::{Counter, Gauge, counter, gauge};

use crate::limits::catalog::{Catalog, LimitSet};
use crate::output::change::{EVENTS, REASONS};

/// The counts of one set of limits.
struct SetCounts {
    set: LimitSet,
    /// Active violations.
    active: u64,
    active_gauge: Gauge,
    /// By event and reason. Handles are kept, since looking them up costs more than a change does.
    changes: [[Counter; REASONS.len()]; EVENTS.len()],
}

/// Counts of everything that the sinks of a run were given.
pub struct Counts {
    sets: Vec<SetCounts>,
    late: Counter,
    too_late: Counter,
    dropped: u64,
}

impl Counts {
    /// Creates the counts of these sets of limits, and registers every metric at zero: a rate needs a value before
    /// the first event.
    pub fn new(sets: &[LimitSet]) -> Self {
        let late = |disposition: &'static str| {
            let late = counter!("floodmark_late_records_total", "disposition" => disposition);
            late.increment(0);
            late
        };
        Counts {
            sets: sets.iter().map(|set| SetCounts::new(*set)).collect(),
            late: late("counted"),
            too_late: late("dropped"),
            dropped: 0,
        }
    }

    /// Returns the number of active violations of limits of a set.
    pub fn active(&self, set: LimitSet) -> u64 {
        self.sets.iter().find(|counts| counts.set == set).map_or(0, |counts| counts.active)
    }

    /// Returns the number of records that arrived after their window had settled.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Notes changes that an earlier run has published.
    pub(super) fn restore(&mut self, changes: &[Change], catalog: &Catalog) {
        for counts in &mut self.sets {
            for change in changes {
                if catalog.set(change.violation.limit) == counts.set {
                    counts.note(change.event);
                }
            }
            counts.active_gauge.set(counts.active as f64);
        }
    }

    pub(super) fn count(&mut self, changes: &[Change], catalog: &Catalog) {
        for counts in &mut self.sets {
            let set = counts.set;
            let of_set = |change: &&Change| catalog.set(change.violation.limit) == set;
            let mut published = [[0; REASONS.len()]; EVENTS.len()];
            for change in changes.iter().filter(of_set) {
                counts.note(change.event);
                let event = EVENTS.iter().position(|(_, event)| *event == change.event);
                let reason = REASONS.iter().position(|(_, reason)| *reason == change.reason);
                if let Some((event, reason)) = event.zip(reason) {
                    published[event][reason] += 1;
                }
            }
            counts.active_gauge.set(counts.active as f64);
            for (counter, published) in
                counts.changes.iter().flatten().zip(published.as_flattened())
            {
                if *published > 0 {
                    counter.increment(*published);
                }
            }
        }
    }

    pub(super) fn count_late(&mut self, late: &Late) {
        self.dropped += late.dropped;
        self.late.increment(late.counted);
        self.too_late.increment(late.dropped);
    }
}

impl SetCounts {
    fn new(set: LimitSet) -> Self {
        let changes = |(event, _): (&'static str, Event)| {
            REASONS.map(|(reason, _)| {
                let labels = set.labels([("event", event), ("reason", reason)]);
                let counter = counter!("floodmark_changes_total", labels);
                counter.increment(0);
                counter
            })
        };
        let active_gauge = gauge!("floodmark_violations", set.labels([("status", "standing")]));
        active_gauge.set(0.0);
        SetCounts { set, active: 0, active_gauge, changes: EVENTS.map(changes) }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Raised => self.active += 1,
            Event::Cleared => self.active -= 1,
            Event::Updated => {}
        }
    }
}
