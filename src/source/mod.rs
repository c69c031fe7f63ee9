//! Sources: where a worker reads its records.
//!
//! A source reads without waiting, and gathers the records that it has read by the ticks that count them. It reports
//! what they need ([`Demand`]); the leader begins ticks, and each worker puts the [`TickRecords`] of its source into
//! them. A source knows neither the computation nor the other workers.
//!
//! - `recorded`: captures, files of records and ranges of topics, cut into ticks by their event time.
//! - `topic`: the partitions of a topic that belong to a worker.

pub mod recorded;
pub mod topic;

use std::collections::BTreeSet;

use anyhow::Context as _;
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::UpdateBatch;
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Pair, Prefix, Version};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::base::date;
use crate::base::error::{Exit, Failure};
use crate::computation::EventTimeReached;
use crate::kafka::{OwnedMessage, PartitionState};
use crate::sink::SinkState;

pub use recorded::Recorded;
pub use topic::Partitions;

/// The tick that the records read so far need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Demand {
    /// No tick of their own: the next one takes them, if there are any.
    None,
    /// A tick soon: the source has no capacity for more, or others wait for what it has read.
    Tick,
    /// The tick of this event time, in milliseconds.
    TickAt(u64),
    /// No tick: all of the input is read, and was put into ticks.
    Ended,
}

/// Everything that a source puts into one tick.
#[derive(Debug, Default)]
pub struct TickRecords {
    /// The updates of the pairs that are counted.
    pub update_batches: Vec<UpdateBatch>,
    /// The windows of all records, counted or not.
    pub seen: BTreeSet<Window>,
    /// The greatest event time of the records, in milliseconds, for a source whose watermark follows from it.
    pub greatest: Option<u64>,
    /// Edits of the limits, for a source that has them.
    pub edits: Vec<(Version, isize)>,
    /// Messages that can't be counted, if they are outputs of their tick.
    pub dead_letters: Vec<OwnedMessage>,
}

/// Bytes of a dead letter that take as much memory as an update.
const BYTES_OF_UPDATE: usize = 16;

impl TickRecords {
    /// Returns the number of updates, by which ticks in flight are bounded. It includes others that take memory, too:
    /// windows in which nothing is counted (`--source`, `--destination`), and dead letters.
    pub fn updates(&self) -> usize {
        let updates = self.update_batches.iter().map(UpdateBatch::len).sum::<usize>();
        let bytes = self.dead_letters.iter().map(OwnedMessage::size).sum::<usize>();
        updates.max(self.seen.len()) + bytes / BYTES_OF_UPDATE
    }
}

/// The leader's time, as of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderTime {
    /// The time of the tick's clock, in milliseconds.
    pub now: u64,
    /// The time from which on `--max-ahead` tells records of the future.
    pub horizon: u64,
    /// Whether nobody knows which records are of the future, so that none is read.
    pub undecided: bool,
}

/// The rules by which records are read, which may be others in a run that continues an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadingRules {
    /// Greatest distance of a record ahead of the leader's clock, in milliseconds.
    pub max_ahead_ms: u64,
    /// Greatest distance of a record behind the latest event time of its partition, in milliseconds.
    pub max_behind_ms: u64,
    /// The name of the zone of times in records that state none.
    pub input_timezone: String,
}

impl ReadingRules {
    /// Returns the zone of times in records that state none.
    ///
    /// # Errors
    /// This machine does not know it.
    fn zone(&self) -> Result<TimeZone, Failure> {
        let name = &self.input_timezone;
        let zone = date::zone(name).with_context(|| {
            format!("reading records by the time zone \"{name}\" (--input-timezone of this run or the one before)")
        });
        zone.map_err(|error| Failure::new(Exit::Unavailable, error))
    }
}

/// The state of a source, for probes.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// The partitions that the source reads.
    pub partitions: Vec<PartitionState>,
    /// For each partition, the offset before which all messages are in closed ticks.
    pub done: Vec<(i32, i64)>,
    /// The state of the sink of unreadable messages; `None` unless they are kept.
    pub dead_letters: Option<SinkState>,
}

/// The records of one worker.
pub trait Source {
    /// Reads what is there, without waiting, as long as there is capacity for it. Returns whether anything was read.
    fn read(&mut self) -> Result<bool, Failure> {
        Ok(false)
    }

    /// Returns what the records read so far need. `reached`: the event time that all sources have reached.
    fn demand(&mut self, reached: EventTimeReached) -> Result<Demand, Failure>;

    /// Takes out the records of a tick.
    fn take_records(&mut self, tick: u64) -> TickRecords;

    /// Returns the progress of the parts of the source up to a tick whose records were taken, as far as it has changed.
    /// `now` is the leader's time. The positions are there also after a failure.
    fn progress(
        &mut self,
        tick: u64,
        now: u64,
        reached: EventTimeReached,
    ) -> (Vec<SourceProgress>, Result<(), Failure>) {
        let _ = (tick, now, reached);
        (Vec::new(), Ok(()))
    }

    /// Notes the leader's time at a tick that takes records.
    fn set_time(&mut self, time: LeaderTime) {
        let _ = time;
    }

    /// Sets the rules of ticks of an earlier run that are repeated from now on.
    ///
    /// # Errors
    /// This machine does not know a time zone.
    fn set_rules(&mut self, rules: &ReadingRules) -> Result<(), Failure> {
        let _ = rules;
        Ok(())
    }

    /// Reads everything that a tick of an earlier run took, as its marks tell, and nothing else. Returns whether all of
    /// it is read.
    fn repeat(&mut self, tick: u64, marks: &[SourceProgress]) -> Result<bool, Failure> {
        let _ = (tick, marks);
        Ok(true)
    }

    /// Ends the repetition of ticks of an earlier run: from now on the rules of this run hold.
    fn end_repetition(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Notes that event time has moved: parts that are far ahead wait, or go on.
    fn bound_skew(&mut self, reached: EventTimeReached) -> Result<(), Failure> {
        let _ = reached;
        Ok(())
    }

    /// Notes that a tick is closed: the positions that it includes are done with.
    fn close_tick(&mut self, tick: u64) {
        let _ = tick;
    }

    /// Returns, once ticks have taken everything that the input held when it was opened, the number of messages among
    /// it that are left out, since they are behind a transaction that has been open for too long. `None` for an input
    /// that has no such end.
    fn left_out_at_end(&self) -> Option<u64> {
        None
    }

    /// Returns the state of the source.
    fn state(&self) -> SourceState {
        SourceState::default()
    }

    /// Waits until messages that were set aside are kept, at the end.
    fn finish(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Leaves the input. The positions of closed ticks are made known.
    fn leave(self: Box<Self>) {}
}

/// The pairs to count; the others count as nothing, but still open windows. Of several prefixes one must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of the source; empty: any.
    pub sources: Vec<Prefix>,
    /// Of the destination; empty: any.
    pub destinations: Vec<Prefix>,
}

impl Filter {
    /// Whether a pair counts.
    pub fn admits(&self, pair: &Pair) -> bool {
        let matches = |prefixes: &[Prefix], address| {
            prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(address))
        };
        matches(&self.sources, pair.source()) && matches(&self.destinations, pair.destination())
    }
}
