//! Workers that read partitions of one topic at their own speeds, and must not get far from each other:
//! what is written by pair mixes partitions, and a record that is written long after later ones is late
//! for whoever reads them.

use std::sync::{Mutex, PoisonError};

use crate::kafka::PartitionState;

/// How far the workers of a process have come.
#[derive(Debug)]
pub struct Skew {
    /// By worker, the least event time that one of its partitions has come to; `None` if all of them are
    /// read to their ends.
    slowest: Mutex<Vec<Option<u64>>>,
}

impl Skew {
    /// Of so many workers, which hold each other up from the beginning.
    pub fn new(workers: usize) -> Self {
        Skew { slowest: Mutex::new(vec![Some(0); workers]) }
    }

    /// Says how far a worker has come, and returns the event time that nobody may be too far ahead of.
    pub fn reached(&self, worker: usize, slowest: Option<u64>) -> u64 {
        let mut all = self.slowest.lock().unwrap_or_else(PoisonError::into_inner);
        all[worker] = slowest;
        all.iter().flatten().copied().min().unwrap_or(u64::MAX)
    }
}

/// The least event time that one of these partitions has come to, of those that have more to read.
pub fn slowest(
    states: &[PartitionState],
    mut counts: impl FnMut(&PartitionState) -> bool,
) -> Option<u64> {
    let behind = states.iter().filter(|state| !state.idle && state.lag != Some(0));
    behind.filter(|state| counts(state)).map(|state| state.reached.unwrap_or(0)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(partition: i32, lag: u64, reached: Option<u64>) -> PartitionState {
        PartitionState { partition, lag: Some(lag), reached, idle: false, paused: false }
    }

    #[test]
    fn only_partitions_with_more_to_read_hold_others_up() {
        let states = [state(0, 0, Some(5)), state(1, 7, Some(20)), state(2, 3, Some(10))];
        assert_eq!(slowest(&states, |_| true), Some(10));
        assert_eq!(slowest(&states, |state| state.partition != 2), Some(20));
        assert_eq!(slowest(&[state(0, 0, None)], |_| true), None);
        assert_eq!(slowest(&[state(0, 1, None)], |_| true), Some(0));
    }

    #[test]
    fn the_slowest_worker_counts() {
        let skew = Skew::new(2);
        assert_eq!(skew.reached(0, Some(50)), 0);
        assert_eq!(skew.reached(1, Some(40)), 40);
        assert_eq!(skew.reached(1, None), 50);
        assert_eq!(skew.reached(0, None), u64::MAX);
    }
}
