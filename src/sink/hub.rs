//! The ordered stream of closed ticks, handed to all of its consumers.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use floodmark_dataflows::types::{Change, VersionId};

use super::counts::Counts;
use super::state::SinkState;
use super::{ClosedTick, Sink};
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::output::difference::PublishedChanges;

/// Interval at which a run that shuts down logs the sinks it still waits for.
const FINISH_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Time after which a run that shuts down first logs the sinks it still waits for.
const FINISH_PATIENCE: Duration = Duration::from_secs(1);

/// Interval between two checks, at shutdown, of whether everything is delivered.
const FINISH_INTERVAL: Duration = Duration::from_millis(5);

/// All consumers of closed ticks.
///
/// Every sink has its turn, also after one has failed; the first failure is returned.
pub struct Hub<'a> {
    counts: Counts,
    sinks: Vec<Box<dyn Sink + Send + 'a>>,
}

impl<'a> Hub<'a> {
    /// Creates the stream. Sinks have their turns in this order.
    pub fn new(counts: Counts, sinks: Vec<Box<dyn Sink + Send + 'a>>) -> Self {
        Hub { counts, sinks }
    }

    /// Adds a sink.
    pub fn add(&mut self, sink: Box<dyn Sink + Send + 'a>) {
        self.sinks.push(sink);
    }

    /// Returns the counts of what was published so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn each(
        &mut self,
        mut turn: impl FnMut(&mut dyn Sink) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let mut ended = Ok(());
        for sink in &mut self.sinks {
            ended = ended.and(turn(sink.as_mut()));
        }
        ended
    }

    /// Hands on some changes of the next tick.
    pub fn changes(
        &mut self,
        tick: u64,
        changes: &[Change],
        catalog: &Catalog,
    ) -> Result<(), WriteError> {
        self.counts.count(changes, catalog);
        let shown = PublishedChanges::OfTick(tick, changes);
        self.each(|sink| sink.changes(&shown, catalog))
    }

    /// Hands on a closed tick.
    pub fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        self.counts.count_late(&closed.outputs.late);
        self.each(|sink| sink.close(closed))
    }

    /// Hands on some changes of a tick of an earlier run to the sinks that lack it; the others only note them.
    pub fn restore(
        &mut self,
        tick: u64,
        changes: &[Change],
        catalog: &Catalog,
    ) -> Result<(), WriteError> {
        self.counts.restore(changes, catalog);
        let shown = PublishedChanges::OfTick(tick, changes);
        self.each(|sink| {
            if !has(sink, tick) {
                return sink.changes(&shown, catalog);
            }
            sink.restore(&shown, catalog);
            Ok(())
        })
    }

    /// Hands on a closed tick of an earlier run in the same way.
    pub fn close_restored(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        self.each(|sink| {
            if !has(sink, closed.tick) {
                return sink.close(closed);
            }
            sink.close_restored(closed);
            Ok(())
        })
    }

    /// Returns the newest tick that all sinks have delivered, of those that keep what they are given.
    pub fn durable(&self) -> u64 {
        self.sinks.iter().filter_map(|sink| sink.durable()).min().unwrap_or(u64::MAX)
    }

    /// Returns the time since which a sink can't keep the records of ticks, and why, if one can't.
    pub fn record_fault(&self) -> Option<(Instant, String)> {
        self.sinks.iter().filter_map(|sink| sink.record_fault()).min()
    }

    /// Notes that no run will need the records of ticks before this one.
    pub fn forget_records(&mut self, before: u64) {
        self.sinks.iter_mut().for_each(|sink| sink.forget_records(before));
    }

    /// Whether all sinks have capacity for another tick, or for more changes of one.
    pub fn has_capacity(&mut self) -> bool {
        self.sinks.iter_mut().all(|sink| sink.has_capacity())
    }

    /// Gives each sink its turn to send, without waiting.
    pub fn poll(&mut self) -> Result<(), WriteError> {
        let mut attached: usize = self.sinks.iter().map(|sink| sink.attached()).sum();
        self.each(|sink| {
            let before = sink.attached();
            let polled = sink.poll(attached > before.max(1));
            attached -= before - sink.attached();
            polled
        })
    }

    /// Returns the state of each queue.
    pub fn states(&mut self) -> Vec<SinkState> {
        let mut states = Vec::new();
        self.sinks.iter_mut().for_each(|sink| sink.states(&mut states));
        states
    }

    /// Returns a function for the versions that changes name which may be published later; `None` if no sink defers
    /// changes.
    pub fn deferred_versions(&self) -> Option<Box<dyn Fn() -> HashSet<VersionId> + '_>> {
        let defers = self.sinks.iter().any(|sink| sink.defers());
        let versions = || self.sinks.iter().flat_map(|sink| sink.deferred_versions()).collect();
        defers.then(|| Box::new(versions) as Box<_>)
    }

    /// Whether a sink needs the totals of windows that are retained when the input ends.
    pub fn wants_totals(&self) -> bool {
        self.sinks.iter().any(|sink| sink.wants_totals())
    }

    /// Waits until everything is delivered. A failing sink does not keep the others from delivering. Calls `report`
    /// with the states of the sinks from time to time.
    pub fn finish(&mut self, report: &dyn Fn(Vec<SinkState>)) -> Result<(), WriteError> {
        let (mut logged, mut ended) = (Instant::now(), Ok(()));
        let mut patience = FINISH_PATIENCE;
        while !self.sinks.iter_mut().all(|sink| sink.is_done()) {
            ended = ended.and(self.poll());
            if logged.elapsed() >= patience {
                (logged, patience) = (Instant::now(), FINISH_LOG_INTERVAL);
                self.log_waiting();
            }
            report(self.states());
            std::thread::sleep(FINISH_INTERVAL);
        }
        ended.and(self.poll()).and(self.each(|sink| sink.finish()))
    }

    /// Logs the sinks that the end of the run waits for.
    fn log_waiting(&mut self) {
        let waiting: Vec<String> = self
            .states()
            .iter()
            .filter(|state| state.waiting > 0)
            .map(|state| format!("sink \"{}\" ({} {})", state.name, state.waiting, state.unit()))
            .collect();
        if !waiting.is_empty() {
            tracing::warn!(
                "the run ends when all is delivered: it waits for {}; a second SIGTERM or SIGINT ends it at \
                 once, and what waits is lost",
                waiting.join(", ")
            );
        }
    }
}

/// Whether a sink has had a tick of an earlier run. One that keeps nothing lacks nothing.
fn has(sink: &dyn Sink, tick: u64) -> bool {
    sink.durable().is_none_or(|durable| tick <= durable)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use anyhow::anyhow;

    use super::*;
    use crate::base::error::Failure;
    use crate::computation::{TickOutputs, WindowStates};

    /// Records the ticks that reach it, and fails at every one if it is broken.
    struct Recording {
        ticks: Arc<Mutex<Vec<(&'static str, u64)>>>,
        name: &'static str,
        is_broken: bool,
    }

    impl Sink for Recording {
        fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
            Ok(())
        }

        fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
            self.ticks.lock().expect("one thread").push((self.name, closed.tick));
            match self.is_broken {
                true => Err(WriteError::Failed(Failure::from(anyhow!("{} broke", self.name)))),
                false => Ok(()),
            }
        }
    }

    #[test]
    fn failing_sink_keeps_no_tick_from_the_others_and_the_first_failure_is_returned() {
        let ticks = Arc::default();
        let sink = |name, is_broken| {
            Box::new(Recording { ticks: Arc::clone(&ticks), name, is_broken }) as Box<_>
        };
        let sinks = vec![sink("a", false), sink("b", true), sink("c", true)];
        let mut hub = Hub::new(Counts::new(&[]), sinks);
        for tick in 1..=2 {
            let outputs = TickOutputs::default();
            let (windows, catalog) = (WindowStates::default(), Catalog::new());
            let closed = ClosedTick {
                tick,
                outputs: &outputs,
                windows: &windows,
                catalog: &catalog,
                is_caught_up: false,
                record: None,
            };
            let error = hub.close(&closed).expect_err("two sinks are broken");
            assert!(
                matches!(error, WriteError::Failed(failure) if failure.error.to_string() == "b broke")
            );
        }
        let expected = [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("c", 2)];
        assert_eq!(*ticks.lock().expect("one thread"), expected);
    }
}
