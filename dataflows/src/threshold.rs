//! Thresholds: values with which amounts are compared, each for a range of places.

use serde::{Deserialize, Serialize};

use crate::types::Bound;

/// The value that a limit sets for the amounts of a range of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Threshold<L> {
    // The order of thresholds begins with the end of the range, so that those that end before a place are
    // together, and passed over at once.
    /// The first place beyond the range; `u64::MAX`: there is none.
    pub until: u64,
    /// The first place of the range.
    pub from: u64,
    /// The limit.
    pub limit: L,
    /// The side of the value on which amounts break the limit.
    pub bound: Bound,
    /// The value.
    pub value: i64,
}

impl<L> Threshold<L> {
    /// A threshold that holds for every place.
    pub fn everywhere(limit: L, bound: Bound, value: i64) -> Self {
        Threshold { until: u64::MAX, from: 0, limit, bound, value }
    }

    /// Whether an amount at a place breaks the limit.
    pub fn is_broken_by(&self, place: u64, amount: i64) -> bool {
        let beyond = match self.bound {
            Bound::Max => amount > self.value,
            Bound::Min => amount < self.value,
        };
        beyond && self.from <= place && place < self.until
    }
}
