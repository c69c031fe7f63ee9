//! The events from the thread that reads to the leader, and the bound on how far it reads ahead.
//!
//! A tick may be a few packets or a whole window of them. So the reader waits when much is queued: many ticks,
//! since each takes work of its own, or few large ones, since they take memory. It goes on when half of the
//! queue is taken: waking it for each tick would cost more than most ticks do.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use floodmark_dataflows::combine::UpdateBatch;
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::Volume;

use super::tally::RecordTally;
use crate::base::error::Failure;
use crate::capture::Tally;

/// The input of one tick.
#[derive(Debug)]
pub(super) struct Tick {
    /// The tick, in milliseconds since 1970. It is the watermark, too.
    pub tick: u64,
    /// The updates of the pairs that are counted.
    pub update_batches: Vec<UpdateBatch>,
    /// The windows of all records, counted or not.
    pub seen: BTreeSet<Window>,
}

impl Tick {
    /// Returns the number of updates in the tick, those of windows included.
    fn updates(&self) -> usize {
        self.update_batches.iter().map(UpdateBatch::len).sum::<usize>().max(self.seen.len())
    }
}

/// The summary of an input, once all of it is read.
#[derive(Debug, Default)]
pub struct End {
    /// Whether there is a capture.
    pub has_frames: bool,
    /// The frames of captures, and those of them that were not counted.
    pub frames: Tally,
    /// The packets and bytes of these frames whose times are too far in the future for a window to end.
    pub frames_without_window: Volume,
    /// Whether there is an input of records.
    pub has_records: bool,
    /// The records of texts and topics.
    pub records: RecordTally,
    /// Whether any file was damaged.
    pub damaged: bool,
}

/// An event from the thread that reads.
#[derive(Debug)]
pub(super) enum Event {
    /// A tick is complete.
    Tick(Tick),
    /// Everything is read; no tick follows.
    End(Box<End>),
    /// The input can't be read further; no tick follows.
    Failed(Failure),
}

impl Event {
    /// Returns the number of updates in the event. A window in which nothing is counted (`--source`,
    /// `--destination`) takes memory, too.
    fn updates(&self) -> usize {
        match self {
            Event::Tick(tick) => tick.updates(),
            Event::End(_) | Event::Failed(_) => 0,
        }
    }
}

/// Number of queued ticks at which the reader waits: enough for a round while the next ones are read.
const TICKS_AHEAD: usize = 512;

/// Number of queued updates at which the reader waits: some megabytes.
const UPDATES_AHEAD: usize = 200_000;

/// Events that are taken out of the queue at once. They count as queued until the next ones are taken.
const TAKEN_AT_ONCE: usize = 64;

/// The receiving end: ticks, and then the end.
pub(super) struct EventReceiver {
    queue: Arc<Queue>,
    taken: VecDeque<Event>,
    /// The size of all that was taken last.
    taken_size: Size,
}

/// The sending end.
pub(super) struct EventSender {
    queue: Arc<Queue>,
}

/// The receiver has gone.
#[derive(Debug)]
pub(super) struct Disconnected;

/// A number of ticks, and of the updates in them.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    ticks: usize,
    updates: usize,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    /// Notified when the queue has capacity again.
    has_capacity: Condvar,
}

/// The events in the queue, and the state of both ends.
#[derive(Default)]
struct QueueState {
    events: VecDeque<Event>,
    /// The size of these, and of those that were taken last.
    size: Size,
    /// Whether the reader waits for capacity.
    reader_waits: bool,
    /// Whether the receiver has gone.
    is_disconnected: bool,
}

impl QueueState {
    /// Whether the queue is filled to this share of its bounds: 1 is all, 2 is half.
    fn reaches(&self, share: usize) -> bool {
        self.size.ticks >= TICKS_AHEAD / share || self.size.updates >= UPDATES_AHEAD / share
    }
}

/// The two ends.
pub(super) fn channel() -> (EventSender, EventReceiver) {
    let queue = Arc::<Queue>::default();
    let events =
        EventReceiver { queue: queue.clone(), taken: VecDeque::new(), taken_size: Size::default() };
    (EventSender { queue }, events)
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSender {
    /// Sends an event, as soon as the queue has capacity.
    pub(super) fn send(&self, event: Event) -> Result<(), Disconnected> {
        let mut state = self.queue.lock();
        state.reader_waits = state.reaches(1);
        let waits = |state: &mut QueueState| state.reader_waits && !state.is_disconnected;
        let waited = self.queue.has_capacity.wait_while(state, waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.is_disconnected {
            return Err(Disconnected);
        }
        state.size.ticks += 1;
        state.size.updates += event.updates();
        state.events.push_back(event);
        Ok(())
    }
}

impl EventReceiver {
    /// Returns the next event, if there is one by now.
    pub(super) fn try_next(&mut self) -> Option<Event> {
        if self.taken.is_empty() {
            self.refill();
        }
        self.taken.pop_front()
    }

    fn refill(&mut self) {
        let mut state = self.queue.lock();
        let Size { ticks, updates } = std::mem::take(&mut self.taken_size);
        state.size.ticks -= ticks;
        state.size.updates -= updates;
        if state.reader_waits && !state.reaches(2) {
            state.reader_waits = false;
            self.queue.has_capacity.notify_one();
        }
        let count = state.events.len().min(TAKEN_AT_ONCE);
        self.taken.extend(state.events.drain(..count));
        self.taken_size.ticks = count;
        self.taken_size.updates = self.taken.iter().map(Event::updates).sum();
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        self.queue.lock().is_disconnected = true;
        self.queue.has_capacity.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use floodmark_dataflows::combine::UpdateBatch;
    use floodmark_dataflows::types::Volume;

    use super::*;

    fn tick(tick: u64, updates: usize) -> Event {
        let update_batch =
            UpdateBatch { v4: vec![(0, Volume::default()); updates], ..UpdateBatch::default() };
        Event::Tick(Tick { tick, update_batches: vec![update_batch], seen: BTreeSet::new() })
    }

    fn ticks(events: &mut EventReceiver) -> Vec<u64> {
        let next = || events.try_next();
        std::iter::from_fn(next)
            .map(|event| match event {
                Event::Tick(tick) => tick.tick,
                Event::End(_) | Event::Failed(_) => panic!("no end was given"),
            })
            .collect()
    }

    /// Fills the queue; the next sender has to wait.
    fn fill(sender: &EventSender, updates: usize) -> u64 {
        let mut given = 0;
        while !sender.is_full() {
            sender.send(tick(given, updates)).expect("the receiver exists");
            given += 1;
        }
        given
    }

    impl EventSender {
        fn is_full(&self) -> bool {
            self.queue.lock().reaches(1)
        }
    }

    #[test]
    fn sender_waits_after_many_small_ticks_or_few_large_ones() {
        for (updates, expected) in [(1, 512), (50_000, 4), (1_000_000, 1)] {
            let (sender, mut events) = channel();
            assert_eq!(fill(&sender, updates), expected);
            let thread = std::thread::spawn(move || sender.send(tick(expected, updates)).is_ok());
            let mut taken = ticks(&mut events);
            // It comes as soon as there is capacity, which may be later than this.
            while taken.len() as u64 <= expected {
                taken.append(&mut ticks(&mut events));
                std::thread::yield_now();
            }
            assert_eq!(taken, (0..=expected).collect::<Vec<_>>());
            assert!(thread.join().expect("the thread ends"));
        }
    }

    #[test]
    fn waiting_sender_gets_an_error_when_the_receiver_is_dropped() {
        let (sender, events) = channel();
        fill(&sender, 50_000);
        let thread = std::thread::spawn(move || sender.send(tick(9, 1)).is_err());
        drop(events);
        assert!(thread.join().expect("the thread ends"));
    }
}
