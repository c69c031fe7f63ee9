//! How a live run is, for those who look at it: probes, metrics, people.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;

use crate::kafka::{PartitionState, Source};

/// Between two looks at the partitions of a worker.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What a process knows of itself.
#[derive(Debug, Default)]
pub struct Status {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last tick that is done, and the watermark then.
    tick: Option<(u64, u64)>,
    /// By worker: when it was looked at.
    looked: BTreeMap<usize, Instant>,
    partitions: BTreeMap<i32, PartitionState>,
    /// What can't be delivered, and since when.
    sinks: Vec<String>,
}

/// What is said of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The last tick that is done on the leader, and the watermark then.
    pub tick: Option<(u64, u64)>,
    /// The partitions that this process reads.
    pub partitions: Vec<PartitionState>,
    /// Why the run is not as it should be.
    pub trouble: Vec<String>,
}

impl Status {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader is done with a tick.
    pub(super) fn done(&self, tick: u64, watermark: u64) {
        self.lock().tick = Some((tick, watermark));
    }

    /// A worker is done with a tick.
    pub(super) fn worker(&self, index: usize, tick: u64, source: Option<&Source>) {
        let mut state = self.lock();
        let recent = |looked: &Instant| looked.elapsed() < LOOK_INTERVAL;
        if state.looked.get(&index).is_some_and(recent) {
            return;
        }
        state.looked.insert(index, Instant::now());
        gauge!("floodmark_frontier_seconds", "worker" => index.to_string()).set(tick as f64 / 1e3);
        let Some(source) = source else { return };
        let topic = &source.topic().address().topic;
        for partition in source.states() {
            let labels = [("topic", topic.clone()), ("partition", partition.partition.to_string())];
            if let Some(lag) = partition.lag {
                gauge!("floodmark_kafka_lag_messages", &labels).set(lag as f64);
            }
            let flag = |on: bool| f64::from(u8::from(on));
            gauge!("floodmark_kafka_partition_idle", &labels).set(flag(partition.idle));
            gauge!("floodmark_kafka_partition_paused", &labels).set(flag(partition.paused));
            if let Some(reached) = partition.reached {
                gauge!("floodmark_kafka_partition_event_time_seconds", &labels)
                    .set(reached as f64 / 1e3);
            }
            state.partitions.insert(partition.partition, partition);
        }
    }

    /// What the sinks can't deliver.
    pub(super) fn sinks(&self, trouble: Vec<String>) {
        self.lock().sinks = trouble;
    }

    /// All that is known.
    pub fn report(&self) -> Report {
        let state = self.lock();
        Report {
            tick: state.tick,
            partitions: state.partitions.values().cloned().collect(),
            trouble: state.sinks.clone(),
        }
    }
}
