//! Records of ticks: everything that a tick depends on, beside the messages that it takes.

use std::collections::BTreeMap;

use floodmark_dataflows::clock::SourceProgress;
use serde::{Deserialize, Serialize};

use crate::limits::catalog::LimitSet;
use crate::limits::stored::StoredRow;
use crate::source::{LeaderTime, ReadingRules};

/// The record of one tick. A tick that is run again by its record has the same outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TickRecord {
    /// The tick, in milliseconds.
    pub tick: u64,
    /// The tick before; 0 for the first one.
    pub previous: u64,
    /// The leader's time.
    pub time: LeaderTime,
    /// Whether the tick takes records.
    pub takes_records: bool,
    /// The rules by which this tick and those after it read their records, if they have changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<ReadingRules>,
    /// The names of the outputs that get this tick and those after it, if they have changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<String>>,
    /// The marks that the clock got, but for those that follow from the records.
    pub marks: Vec<SourceProgress>,
    /// Edits of limits.
    pub edits: Vec<StoredEdit>,
    /// In the log of some topics: whether changes up to this tick were held back, to be compared with what a topic has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds_back: bool,
}

/// An edit of limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEdit {
    /// The set of limits.
    pub set: LimitSet,
    /// The row.
    pub row: StoredRow,
    /// Whether the row is added; otherwise it is removed.
    pub is_added: bool,
}

/// Whether a mark is part of a record. Windows of records follow from the records.
pub fn is_recorded(mark: &SourceProgress) -> bool {
    !matches!(mark, SourceProgress::Seen(_) | SourceProgress::Save)
}

/// The records of the ticks after a checkpoint, from several logs.
#[derive(Debug)]
pub struct History {
    checkpoint: u64,
    /// The last tick that the totals of the checkpoint contain records of.
    last: u64,
    records: BTreeMap<u64, TickRecord>,
}

impl History {
    /// Creates the history of a checkpoint, which has these records.
    pub fn new(checkpoint: u64, last: u64, records: &[TickRecord]) -> Self {
        let records = records.iter().map(|record| (record.tick, record.clone())).collect();
        History { checkpoint, last, records }
    }

    /// Adds the records of a log, in the order in which they were logged. Returns its last tick if the log continues
    /// the checkpoint without a gap. Records that another owner of the state has logged too late are left out: none
    /// comes after them.
    pub fn add(&mut self, logged: Vec<TickRecord>) -> Option<u64> {
        // An output has nothing of a run that has neither written a checkpoint nor logged anything there.
        let last = logged.last().map_or(0, |record| record.tick);
        if last < self.last {
            return None;
        }
        let mut by_tick: BTreeMap<u64, TickRecord> =
            logged.into_iter().map(|record| (record.tick, record)).collect();
        let (mut chain, mut tick) = (Vec::new(), last);
        while tick > self.checkpoint {
            let record = by_tick.remove(&tick).or_else(|| self.records.get(&tick).cloned())?;
            tick = record.previous;
            chain.push(record);
        }
        if tick != self.checkpoint {
            return None;
        }
        self.records.extend(chain.into_iter().map(|record| (record.tick, record)));
        Some(last)
    }

    /// Returns all records, in the order of their ticks; `None` if two logs contradict each other.
    pub fn records(&self) -> Option<Vec<TickRecord>> {
        let mut before = self.checkpoint;
        let after = self.records.range(self.checkpoint + 1..).map(|(_, record)| record);
        let is_linked = after
            .clone()
            .all(|record| std::mem::replace(&mut before, record.tick) == record.previous);
        is_linked.then(|| after.cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(previous: u64, tick: u64) -> TickRecord {
        let time = LeaderTime { now: tick, horizon: tick, undecided: false };
        let (marks, edits) = (Vec::new(), Vec::new());
        TickRecord {
            tick,
            previous,
            time,
            takes_records: true,
            rules: None,
            outputs: None,
            marks,
            edits,
            holds_back: false,
        }
    }

    fn ticks(history: &History) -> Option<Vec<u64>> {
        Some(history.records()?.iter().map(|record| record.tick).collect())
    }

    #[test]
    fn logs_of_one_run_complete_each_other() {
        let mut history = History::new(5, 7, &[record(5, 6), record(6, 7)]);
        assert_eq!(
            history.add(vec![record(4, 5), record(5, 6), record(6, 7), record(7, 9)]),
            Some(9)
        );
        assert_eq!(history.add(vec![record(5, 6), record(6, 7)]), Some(7));
        assert_eq!(ticks(&history), Some(vec![6, 7, 9]));
    }

    #[test]
    fn log_with_a_gap_continues_no_checkpoint() {
        let mut history = History::new(5, 5, &[]);
        assert_eq!(history.add(vec![record(5, 6), record(7, 8)]), None);
        assert_eq!(history.add(vec![record(4, 6)]), None);
        assert_eq!(history.add(Vec::new()), None);
        assert_eq!(History::new(0, 0, &[]).add(Vec::new()), Some(0));
        assert_eq!(ticks(&history), Some(Vec::new()));
        let mut later = History::new(5, 7, &[record(5, 7)]);
        assert_eq!(later.add(vec![record(4, 5)]), None);
        assert_eq!(ticks(&later), Some(vec![7]));
    }

    #[test]
    fn tick_that_no_other_follows_is_left_out() {
        let mut history = History::new(0, 0, &[]);
        assert_eq!(
            history.add(vec![record(0, 1), record(1, 3), record(1, 2), record(2, 4)]),
            Some(4)
        );
        assert_eq!(ticks(&history), Some(vec![1, 2, 4]));
    }

    #[test]
    fn logs_that_contradict_each_other_have_no_history() {
        let mut history = History::new(0, 0, &[]);
        assert_eq!(history.add(vec![record(0, 1), record(1, 3)]), Some(3));
        assert_eq!(history.add(vec![record(0, 2)]), Some(2));
        assert_eq!(history.records(), None);
    }
}
