//! Queue of records between the thread that captures and the one that sends: bounded, so that an outage costs a
//! known amount of memory. The reader of a file waits for capacity; a live capture can't wait, and gets an error.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::record::Record;

struct State {
    batches: VecDeque<Vec<Record>>,
    records: usize,
    /// The sender is gone: no more records will come.
    ended: bool,
    /// The receiver is gone: nobody takes records any more.
    unwanted: bool,
}

struct Shared {
    room: usize,
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending half of the queue. Dropping it ends the queue.
pub struct Entrance(Arc<Shared>);

/// The receiving half of the queue. After it is dropped, batches are rejected.
pub struct Exit(Arc<Shared>);

/// Reason why the queue rejected a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue has no capacity for it now.
    Full,
    /// The receiver is gone.
    Unwanted,
}

/// Outcome of an attempt to receive.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// A batch of records, in the order of sending.
    Batch(Vec<Record>),
    /// Nothing came within the time limit.
    Nothing,
    /// All batches were received, and the sender is gone.
    Ended,
}

/// Creates a queue with capacity for `room` records. A larger batch fits only into an empty queue.
pub fn queue(room: usize) -> (Entrance, Exit) {
    let state = State { batches: VecDeque::new(), records: 0, ended: false, unwanted: false };
    let (filled, emptied) = (Condvar::new(), Condvar::new());
    let shared = Arc::new(Shared { room, state: Mutex::new(state), filled, emptied });
    (Entrance(shared.clone()), Exit(shared))
}

impl Entrance {
    /// Puts a batch in if there is capacity; never waits.
    ///
    /// # Errors
    /// It did not go in.
    pub fn offer(&self, batch: Vec<Record>) -> Result<(), Refused> {
        self.put(batch, self.0.lock())
    }

    /// Puts a batch in, and waits for capacity if there is none.
    ///
    /// # Errors
    /// It did not go in, since nobody takes it.
    pub fn push(&self, batch: Vec<Record>) -> Result<(), Refused> {
        let state = self.0.lock();
        let full = |state: &mut State| !state.unwanted && !fits(&self.0, state, batch.len());
        let state = self.0.emptied.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        self.put(batch, state)
    }

    fn put(&self, batch: Vec<Record>, mut state: MutexGuard<'_, State>) -> Result<(), Refused> {
        if state.unwanted {
            return Err(Refused::Unwanted);
        }
        if !fits(&self.0, &state, batch.len()) {
            return Err(Refused::Full);
        }
        state.records += batch.len();
        state.batches.push_back(batch);
        drop(state);
        self.0.filled.notify_one();
        Ok(())
    }
}

fn fits(shared: &Shared, state: &State, records: usize) -> bool {
    state.records == 0 || state.records + records <= shared.room
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.filled.notify_one();
    }
}

impl Exit {
    /// Takes the next batch; waits for it, at most so long.
    pub fn take(&self, at_most: Duration) -> Taken {
        let state = self.0.lock();
        let empty = |state: &mut State| state.batches.is_empty() && !state.ended;
        let waited = self.0.filled.wait_timeout_while(state, at_most, empty);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.batches.pop_front() {
            Some(batch) => {
                state.records -= batch.len();
                drop(state);
                self.0.emptied.notify_one();
                Taken::Batch(batch)
            }
            None if state.ended => Taken::Ended,
            None => Taken::Nothing,
        }
    }

    /// Records that wait to be taken.
    pub fn waiting(&self) -> usize {
        self.0.lock().records
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        self.0.lock().unwanted = true;
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
    fn what_does_not_fit_is_refused_until_there_is_room() {
        let (entrance, exit) = queue(4);
        assert_eq!(exit.take(Duration::ZERO), Taken::Nothing);
        assert_eq!(entrance.offer(batch(0..3)), Ok(()));
        assert_eq!(entrance.offer(batch(3..5)), Err(Refused::Full));
        assert_eq!(entrance.offer(batch(5..6)), Ok(()));
        assert_eq!(exit.waiting(), 4);
        assert_eq!(exit.take(Duration::ZERO), Taken::Batch(batch(0..3)));
        assert_eq!(entrance.offer(batch(6..8)), Ok(()));
        drop(entrance);
        assert_eq!(exit.take(Duration::MAX), Taken::Batch(batch(5..6)));
        assert_eq!(exit.take(Duration::MAX), Taken::Batch(batch(6..8)));
        assert_eq!(exit.take(Duration::MAX), Taken::Ended);
        assert_eq!(exit.waiting(), 0);
    }

    #[test]
    fn a_batch_greater_than_the_queue_goes_in_alone() {
        let (entrance, exit) = queue(2);
        assert_eq!(entrance.offer(batch(0..5)), Ok(()));
        assert_eq!(entrance.offer(batch(5..6)), Err(Refused::Full));
        assert_eq!(exit.take(Duration::ZERO), Taken::Batch(batch(0..5)));
        assert_eq!(entrance.offer(batch(5..6)), Ok(()));
    }

    #[test]
    fn who_pushes_waits_for_room_and_for_nobody_in_vain() {
        let (entrance, exit) = queue(1);
        let writer = std::thread::spawn(move || {
            let pushed = (0..1000).map(|at| entrance.push(batch(at..at + 1)));
            pushed.take_while(Result::is_ok).count()
        });
        for at in 0..500 {
            assert_eq!(exit.take(Duration::MAX), Taken::Batch(batch(at..at + 1)));
        }
        drop(exit);
        let pushed = writer.join().expect("it ends");
        assert!((500..=501).contains(&pushed), "{pushed}");
    }

    #[test]
    fn nobody_takes_what_nobody_wants() {
        let (entrance, exit) = queue(8);
        drop(exit);
        assert_eq!(entrance.offer(batch(0..1)), Err(Refused::Unwanted));
        assert_eq!(entrance.push(batch(0..1)), Err(Refused::Unwanted));
    }
}
