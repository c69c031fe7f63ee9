//! Records of ticks: everything that a tick depends on, beside the messages that it takes.

use floodmark_dataflows::clock::SourceProgress;
use serde::{Deserialize, Serialize};

use crate::limits::catalog::LimitSet;
use crate::limits::stored::StoredRow;
use crate::source::LeaderTime;

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
    /// The marks that the clock got, but for those that follow from the records.
    pub marks: Vec<SourceProgress>,
    /// Edits of limits.
    pub edits: Vec<StoredEdit>,
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
