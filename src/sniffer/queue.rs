//! Queue of records between the thread that captures and the one that sends: bounded, so that an outage costs a
//! known amount of memory. The reader of a file waits for capacity; a live capture can't wait, and gets an error.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::record::Record;

struct QueueState {
    batches: VecDeque<Vec<Record>>,
    records: usize,
    /// The sender is gone: no more records will come.
    sender_gone: bool,
    /// The receiver is gone: nobody receives records any more.
    receiver_gone: bool,
}

struct QueueShared {
    capacity: usize,
    state: Mutex<QueueState>,
    filled: Condvar,
    emptied: Condvar,
}

impl QueueShared {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending half of the queue. Dropping it ends the queue.
pub struct QueueSender(Arc<QueueShared>);

/// The receiving half of the queue. After it is dropped, batches are rejected.
pub struct QueueReceiver(Arc<QueueShared>);

/// The reason why the queue rejects a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum PushError {
    /// The queue has no capacity for it now.
    Full,
    /// The receiver is gone.
    ReceiverGone,
}

/// Outcome of an attempt to receive.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A batch of records, in the order of sending.
    Batch(Vec<Record>),
    /// Nothing came within the time limit.
    Nothing,
    /// All batches were received, and the sender is gone.
    Ended,
}

/// Creates a queue for at most `capacity` records. A larger batch fits only into an empty queue.
pub fn queue(capacity: usize) -> (QueueSender, QueueReceiver) {
    let state = QueueState {
        batches: VecDeque::new(),
        records: 0,
        sender_gone: false,
        receiver_gone: false,
    };
    let (filled, emptied) = (Condvar::new(), Condvar::new());
    let shared = Arc::new(QueueShared { capacity, state: Mutex::new(state), filled, emptied });
    (QueueSender(shared.clone()), QueueReceiver(shared))
}

impl QueueSender {
    /// Adds a batch if there is capacity; never waits.
    ///
    /// # Errors
    /// The queue has rejected the batch.
    pub fn offer(&self, batch: Vec<Record>) -> Result<(), PushError> {
        self.insert(batch, self.0.lock())
    }

    /// Adds a batch, and waits for capacity if there is none.
    ///
    /// # Errors
    /// The receiver is gone.
    pub fn push(&self, batch: Vec<Record>) -> Result<(), PushError> {
        let state = self.0.lock();
        let full =
            |state: &mut QueueState| !state.receiver_gone && !fits(&self.0, state, batch.len());
        let state = self.0.emptied.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        self.insert(batch, state)
    }

    fn insert(
        &self,
        batch: Vec<Record>,
        mut state: MutexGuard<'_, QueueState>,
    ) -> Result<(), PushError> {
        if state.receiver_gone {
            return Err(PushError::ReceiverGone);
        }
        if !fits(&self.0, &state, batch.len()) {
            return Err(PushError::Full);
        }
        state.records += batch.len();
        state.batches.push_back(batch);
        drop(state);
        self.0.filled.notify_one();
        Ok(())
    }
}

fn fits(shared: &QueueShared, state: &QueueState, records: usize) -> bool {
    state.records == 0 || state.records + records <= shared.capacity
}

impl Drop for QueueSender {
    fn drop(&mut self) {
        self.0.lock().sender_gone = true;
        self.0.filled.notify_one();
    }
}

impl QueueReceiver {
    /// Receives the next batch; waits for it for at most this long.
    pub fn receive(&self, at_most: Duration) -> Received {
        let state = self.0.lock();
        let empty = |state: &mut QueueState| state.batches.is_empty() && !state.sender_gone;
        let waited = self.0.filled.wait_timeout_while(state, at_most, empty);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.batches.pop_front() {
            Some(batch) => {
                state.records -= batch.len();
                drop(state);
                self.0.emptied.notify_one();
                Received::Batch(batch)
            }
            None if state.sender_gone => Received::Ended,
            None => Received::Nothing,
        }
    }

    /// Returns the number of records in the queue.
    pub fn waiting(&self) -> usize {
        self.0.lock().records
    }
}

impl Drop for QueueReceiver {
    fn drop(&mut self) {
        self.0.lock().receiver_gone = true;
        self.0.emptied.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use floodmark_dataflows::types::{Pair, Volume};

    use super::*;

    fn batch(times: std::ops::Range<u64>) -> Vec<Record> {
        let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        times.map(|time_ms| Record { time_ms, pair, volume: Volume::new(40, 1) }).collect()
    }

    #[test]
    fn batch_beyond_the_capacity_is_rejected_until_others_are_received() {
        let (sender, receiver) = queue(4);
        assert_eq!(receiver.receive(Duration::ZERO), Received::Nothing);
        assert_eq!(sender.offer(batch(0..3)), Ok(()));
        assert_eq!(sender.offer(batch(3..5)), Err(PushError::Full));
        assert_eq!(sender.offer(batch(5..6)), Ok(()));
        assert_eq!(receiver.waiting(), 4);
        assert_eq!(receiver.receive(Duration::ZERO), Received::Batch(batch(0..3)));
        assert_eq!(sender.offer(batch(6..8)), Ok(()));
        drop(sender);
        assert_eq!(receiver.receive(Duration::MAX), Received::Batch(batch(5..6)));
        assert_eq!(receiver.receive(Duration::MAX), Received::Batch(batch(6..8)));
        assert_eq!(receiver.receive(Duration::MAX), Received::Ended);
        assert_eq!(receiver.waiting(), 0);
    }

    #[test]
    fn batch_greater_than_the_queue_is_accepted_alone() {
        let (sender, receiver) = queue(2);
        assert_eq!(sender.offer(batch(0..5)), Ok(()));
        assert_eq!(sender.offer(batch(5..6)), Err(PushError::Full));
        assert_eq!(receiver.receive(Duration::ZERO), Received::Batch(batch(0..5)));
        assert_eq!(sender.offer(batch(5..6)), Ok(()));
    }

    #[test]
    fn push_waits_for_capacity_and_fails_without_a_receiver() {
        let (sender, receiver) = queue(1);
        let writer = std::thread::spawn(move || {
            let pushed = (0..1000).map(|at| sender.push(batch(at..at + 1)));
            pushed.take_while(Result::is_ok).count()
        });
        for at in 0..500 {
            assert_eq!(receiver.receive(Duration::MAX), Received::Batch(batch(at..at + 1)));
        }
        drop(receiver);
        let pushed = writer.join().expect("it ends");
        assert!((500..=501).contains(&pushed), "{pushed}");
    }

    #[test]
    fn batch_without_a_receiver_is_rejected() {
        let (sender, receiver) = queue(8);
        drop(receiver);
        assert_eq!(sender.offer(batch(0..1)), Err(PushError::ReceiverGone));
        assert_eq!(sender.push(batch(0..1)), Err(PushError::ReceiverGone));
    }
}
