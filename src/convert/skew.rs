//! Bounds the distance in event time between workers that read partitions of one topic at different speeds. Messages
//! keyed by pair mix the partitions, and a record that is written long after later ones is late for the readers of
//! the output.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use floodmark_dataflows::watermark::PartitionProgress;

use crate::kafka::PartitionState;

/// The event times that the workers of a process have reached.
#[derive(Debug)]
pub struct Skew {
    /// By worker, the least event time that one of its partitions has reached; `None` if all of them are read to
    /// their ends.
    slowest: Mutex<Vec<Option<u64>>>,
}

impl Skew {
    /// Creates the state for so many workers. At first each of them holds up the others, until it reports a time.
    pub fn new(workers: usize) -> Self {
        Skew { slowest: Mutex::new(vec![Some(0); workers]) }
    }

    /// Records the event time that a worker has reached. Returns the least one of all workers, from which the
    /// distance is bounded.
    pub fn report(&self, worker: usize, slowest: Option<u64>) -> u64 {
        let mut all = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
        all[worker] = slowest;
        all.iter().flatten().copied().min().unwrap_or(u64::MAX)
    }
}

/// Returns the least event time that one of these partitions has reached, among those that have more to read
/// before their `ends`, and for which `counts` returns true.
pub fn slowest(
    states: &[PartitionState],
    ends: &BTreeMap<i32, i64>,
    mut counts: impl FnMut(&PartitionState) -> bool,
) -> Option<u64> {
    let more = |state: &&PartitionState| {
        let end = ends.get(&state.partition);
        state.holds != Some(PartitionProgress::Idle) && end.is_none_or(|end| state.next < *end)
    };
    let behind = states.iter().filter(more);
    behind.filter(|state| counts(state)).map(|state| state.reached.unwrap_or(0)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(partition: i32, next: i64, reached: Option<u64>) -> PartitionState {
        let (holds, paused, straggles) = (None, false, false);
        PartitionState { partition, first: 0, next, reached, holds, paused, straggles }
    }

    #[test]
    fn partition_without_more_to_read_holds_no_other_up() {
        let ends = BTreeMap::from([(0, 9), (1, 9), (2, 9)]);
        let states = [state(0, 9, Some(5)), state(1, 2, Some(20)), state(2, 6, Some(10))];
        assert_eq!(slowest(&states, &ends, |_| true), Some(10));
        assert_eq!(slowest(&states, &ends, |state| state.partition != 2), Some(20));
        assert_eq!(slowest(&[state(0, 9, None)], &ends, |_| true), None);
        assert_eq!(slowest(&[state(0, 8, None)], &ends, |_| true), Some(0));
        // The end of a new partition is not known.
        assert_eq!(slowest(&[state(7, 8, None)], &ends, |_| true), Some(0));
        let idle = PartitionState { holds: Some(PartitionProgress::Idle), ..state(7, 8, None) };
        assert_eq!(slowest(&[idle], &ends, |_| true), None);
    }

    #[test]
    fn slowest_worker_bounds_the_others() {
        let skew = Skew::new(2);
        assert_eq!(skew.report(0, Some(50)), 0);
        assert_eq!(skew.report(1, Some(40)), 40);
        assert_eq!(skew.report(1, None), 50);
        assert_eq!(skew.report(0, None), u64::MAX);
    }
}
