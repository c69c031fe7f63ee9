//! A filter before other sinks: it lets through only the changes in which two sets of limits differ.

use std::collections::HashSet;
use std::time::Instant;

use floodmark_dataflows::types::VersionId;

use super::state::SinkState;
use super::{ClosedTick, Sink};
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::output::difference::{Difference, PublishedChanges};

/// Passes on the changes in which two sets of limits differ. Whether they do is known only at the close of a tick,
/// so that the sinks behind get all changes then.
pub struct OnlyDifference<S> {
    difference: Difference,
    sinks: Vec<S>,
}

impl<S: Sink> OnlyDifference<S> {
    /// Creates the filter before these sinks.
    pub fn new(sinks: Vec<S>) -> Self {
        OnlyDifference { difference: Difference::default(), sinks }
    }

    fn each(
        &mut self,
        turn: impl FnMut(&mut S) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        self.sinks.iter_mut().map(turn).fold(Ok(()), Result::and)
    }
}

impl<S: Sink> Sink for OnlyDifference<S> {
    fn changes(&mut self, changes: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
        self.difference.accept(changes.iter().map(|(_, change)| *change));
        Ok(())
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        let ClosedTick { tick, outputs, catalog, .. } = *closed;
        let shown = self.difference.end_tick(tick, &outputs.retired, catalog);
        let shown = PublishedChanges::Difference(shown);
        self.each(|sink| sink.changes(&shown, catalog).and(sink.close(closed)))
    }

    fn restore(&mut self, changes: &PublishedChanges<'_>, _: &Catalog) {
        self.difference.accept(changes.iter().map(|(_, change)| *change));
    }

    fn close_restored(&mut self, closed: &ClosedTick<'_>) {
        let ClosedTick { tick, outputs, catalog, .. } = *closed;
        let shown = self.difference.end_tick(tick, &outputs.retired, catalog);
        let shown = PublishedChanges::Difference(shown);
        for sink in &mut self.sinks {
            sink.restore(&shown, catalog);
            sink.close_restored(closed);
        }
    }

    fn durable(&self) -> Option<u64> {
        self.sinks.iter().filter_map(Sink::durable).min()
    }

    fn record_fault(&self) -> Option<(Instant, String)> {
        self.sinks.iter().filter_map(Sink::record_fault).min()
    }

    fn forget_records(&mut self, before: u64) {
        self.sinks.iter_mut().for_each(|sink| sink.forget_records(before));
    }

    fn has_capacity(&mut self) -> bool {
        self.sinks.iter_mut().all(Sink::has_capacity)
    }

    fn poll(&mut self, has_others: bool) -> Result<(), WriteError> {
        let mut attached = self.attached();
        self.each(|sink| {
            let before = sink.attached();
            let polled = sink.poll(has_others || attached > before.max(1));
            attached -= before - sink.attached();
            polled
        })
    }

    fn attached(&self) -> usize {
        self.sinks.iter().map(Sink::attached).sum()
    }

    fn is_done(&mut self) -> bool {
        self.sinks.iter_mut().all(Sink::is_done)
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.each(Sink::finish)
    }

    fn states(&mut self, states: &mut Vec<SinkState>) {
        self.sinks.iter_mut().for_each(|sink| sink.states(states));
    }

    fn defers(&self) -> bool {
        true
    }

    fn deferred_versions(&self) -> HashSet<VersionId> {
        let of_sinks = self.sinks.iter().flat_map(Sink::deferred_versions);
        self.difference.versions().into_iter().chain(of_sinks).collect()
    }
}
