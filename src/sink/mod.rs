//! Sinks: the consumers of closed ticks.
//!
//! A run closes its ticks one after the other. The outputs of each tick reach every [`Sink`] in the same order: first
//! its changes, in batches of bounded size, then the [`ClosedTick`] with everything else. [`Hub`] hands them on; a
//! sink knows nothing of the others.
//!
//! - `stream`: lines that a thread of its own writes, for a run; `recorded`: the same after the records of ticks, for a
//!   run with a state, with what stands (`standing`) first where an output is new; `file`: files that are written at once, for a replay.
//! - `topic`: messages to topics; `transactional`: the same in transactions, with the records of ticks; `reconcile`: the
//!   changes that differ from the alerts of an earlier run (`published`); `dead_letters`: the messages that their brokers
//!   refuse.
//! - `difference`: a filter before other sinks, for the difference of two sets of limits.
//! - `counts`: metrics of what was published.
//! - `state`: the state of each sink, for probes.

mod counts;
mod dead_letters;
mod difference;
mod file;
mod hub;
mod published;
mod reconcile;
mod recorded;
mod standing;
mod state;
mod stream;
mod topic;
mod transactional;

use std::collections::HashSet;
use std::time::Instant;

use floodmark_dataflows::types::VersionId;

use crate::computation::{TickOutputs, WindowStates};
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::output::difference::PublishedChanges;
use crate::state::TickRecord;

pub use counts::Counts;
pub use dead_letters::DeadLetters;
pub use difference::OnlyDifference;
pub use file::{ChangesFile, OverflowWarnings, TotalsFile};
pub use hub::Hub;
pub use published::{PublishedAlerts, RunName};
pub use reconcile::Reconciled;
pub use recorded::RecordedLines;
pub use state::{Fault, SinkState, count_sink_error, sink_name};
pub use stream::Stream;
pub use topic::{Alerts, Content, StateTopic, Totals, UncountedMessages};
pub use transactional::TransactionalTopics;

/// A tick whose outputs are complete: everything beside its changes.
#[derive(Clone, Copy)]
pub struct ClosedTick<'a> {
    /// The tick, in milliseconds.
    pub tick: u64,
    /// The outputs of the computation.
    pub outputs: &'a TickOutputs,
    /// The watermark and the windows at the end of the tick.
    pub windows: &'a WindowStates,
    /// The names and rows of limits.
    pub catalog: &'a Catalog,
    /// Whether everything that the input held at the start is judged, of an input that has such an end.
    pub is_caught_up: bool,
    /// The record of the tick, of a run with a state.
    pub record: Option<&'a TickRecord>,
}

/// A consumer of closed ticks.
///
/// A sink of a live run never waits: it queues what it accepts, and reports that its queue is full.
pub trait Sink {
    /// Accepts some changes of the next tick, in the order in which the computation emits them.
    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
    ) -> Result<(), WriteError>;

    /// Accepts a closed tick, after all of its changes.
    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError>;

    /// Notes changes of a tick that the sink has had from an earlier run, which is being continued.
    fn restore(&mut self, changes: &PublishedChanges<'_>, catalog: &Catalog) {
        let _ = (changes, catalog);
    }

    /// Notes a closed tick that the sink has had from an earlier run.
    fn close_restored(&mut self, closed: &ClosedTick<'_>) {
        let _ = closed;
    }

    /// Returns the newest tick that is delivered and survives this process, if the sink can tell.
    fn durable(&self) -> Option<u64> {
        None
    }

    /// Returns the time since which records of ticks can't be kept, and why, if they can't.
    fn record_fault(&self) -> Option<(Instant, String)> {
        None
    }

    /// Notes that no run will need the records of ticks before this one.
    fn forget_records(&mut self, before: u64) {
        let _ = before;
    }

    /// Whether another tick, or more changes of one, may come.
    fn has_capacity(&mut self) -> bool {
        true
    }

    /// Sends on what can be sent without waiting, and checks whether the sink is well. `has_others`: whether changes
    /// also go elsewhere, so that the run can do without this sink.
    fn poll(&mut self, has_others: bool) -> Result<(), WriteError> {
        let _ = has_others;
        Ok(())
    }

    /// The number of places that this sink publishes changes to.
    fn attached(&self) -> usize {
        0
    }

    /// Whether everything accepted is delivered, or never will be.
    fn is_done(&mut self) -> bool {
        true
    }

    /// Delivers what is left when no tick follows.
    fn finish(&mut self) -> Result<(), WriteError> {
        Ok(())
    }

    /// Adds the states of the queues of this sink.
    fn states(&mut self, states: &mut Vec<SinkState>) {
        let _ = states;
    }

    /// Whether the sink publishes changes of a tick later than at its close. The catalog keeps the rows that they
    /// name ([`Sink::deferred_versions`]).
    fn defers(&self) -> bool {
        false
    }

    /// Returns the versions that changes name which may be published later.
    fn deferred_versions(&self) -> HashSet<VersionId> {
        HashSet::new()
    }

    /// Whether the sink needs the totals of windows that are retained when the input ends.
    fn wants_totals(&self) -> bool {
        false
    }
}
