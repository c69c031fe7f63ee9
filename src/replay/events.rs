//! The events from the thread that reads to the leader, and the bound on how far it reads ahead.
//!
//! A tick may be a few packets or a whole window of them. So the reader waits when much is queued: many ticks,
//! since each takes work of its own, or few large ones, since they take memory. It goes on when half of the
//! queue is taken: waking it for each tick would cost more than most ticks do.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvError, Sender, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use floodmark_dataflows::combine::UpdateBatch;
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::Volume;

use crate::capture::Tally;

/// The input of one tick.
#[derive(Debug)]
pub struct Tick {
    /// The tick, in milliseconds since 1970. It is the watermark, too.
    pub tick: u64,
    /// The updates of the pairs that are counted.
    pub update_batches: Vec<UpdateBatch>,
    /// The windows of all packets, counted or not.
    pub seen: BTreeSet<Window>,
}

impl Tick {
    /// Returns the number of updates in the tick, those of windows included.
    pub fn updates(&self) -> usize {
        self.update_batches.iter().map(UpdateBatch::len).sum::<usize>().max(self.seen.len())
    }
}

/// The summary of the captures, once all are read.
#[derive(Debug)]
pub struct End {
    /// The frames of the captures, and those of them that were not counted.
    pub tally: Tally,
    /// The packets and bytes in the tally whose times are too far in the future for a window to end.
    pub without_window: Volume,
    /// Whether any file was damaged.
    pub damaged: bool,
}

/// An event from the thread that reads.
#[derive(Debug)]
pub enum Event {
    /// A tick is complete.
    Tick(Tick),
    /// All captures are read; no tick follows.
    End(End),
}

impl Event {
    /// Returns the number of updates in the event. A window in which nothing is counted (`--source`,
    /// `--destination`) takes memory, too.
    fn updates(&self) -> usize {
        match self {
            Event::Tick(tick) => tick.updates(),
            Event::End(_) => 0,
        }
    }
}

/// Number of queued ticks at which the reader waits: enough for a round while the next ones are read.
const TICKS_AHEAD: usize = 512;

/// Number of queued updates at which the reader waits: some megabytes.
const UPDATES_AHEAD: usize = 200_000;

/// The receiving end: ticks, and then the end.
pub struct Events {
    receive: Receiver<Event>,
    gate: Arc<Gate>,
}

/// The sending end.
pub(super) struct Handing {
    send: Sender<Event>,
    gate: Arc<Gate>,
}

/// The receiver has gone.
#[derive(Debug)]
pub(super) struct Unwanted;

/// The number of ticks and updates that are queued.
#[derive(Default)]
struct Ahead {
    ticks: usize,
    updates: usize,
    /// Whether the reader waits for capacity.
    reader_waits: bool,
    /// Whether the receiver has gone.
    unwanted: bool,
}

impl Ahead {
    /// Whether the queue is filled to this share of its bounds: 1 is all, 2 is half.
    fn reaches(&self, share: usize) -> bool {
        self.ticks >= TICKS_AHEAD / share || self.updates >= UPDATES_AHEAD / share
    }
}

#[derive(Default)]
struct Gate {
    ahead: Mutex<Ahead>,
    room: Condvar,
}

/// The two ends.
pub(super) fn handing() -> (Handing, Events) {
    let (send, receive) = channel();
    let gate = Arc::<Gate>::default();
    (Handing { send, gate: gate.clone() }, Events { receive, gate })
}

impl Gate {
    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the queue has capacity, and counts the event.
    fn enter(&self, event: &Event) -> Result<(), Unwanted> {
        let mut ahead = self.ahead();
        ahead.reader_waits = ahead.reaches(1);
        let waits = |ahead: &mut Ahead| ahead.reader_waits && !ahead.unwanted;
        let waited = self.room.wait_while(ahead, waits);
        let mut ahead = waited.unwrap_or_else(PoisonError::into_inner);
        if ahead.unwanted {
            return Err(Unwanted);
        }
        ahead.ticks += 1;
        ahead.updates += event.updates();
        Ok(())
    }

    fn leave(&self, event: &Event) {
        let mut ahead = self.ahead();
        ahead.ticks -= 1;
        ahead.updates -= event.updates();
        if ahead.reader_waits && !ahead.reaches(2) {
            ahead.reader_waits = false;
            self.room.notify_one();
        }
    }
}

impl Handing {
    /// Sends an event, as soon as the queue has capacity.
    pub(super) fn give(&self, event: Event) -> Result<(), Unwanted> {
        self.gate.enter(&event)?;
        self.send.send(event).map_err(|_| Unwanted)
    }
}

impl Events {
    /// Returns the next event, if there is one by now.
    pub fn try_next(&self) -> Result<Event, TryRecvError> {
        self.receive.try_recv().inspect(|event| self.gate.leave(event))
    }

    /// Waits for the next event.
    pub fn next(&self) -> Result<Event, RecvError> {
        self.receive.recv().inspect(|event| self.gate.leave(event))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.gate.ahead().unwanted = true;
        self.gate.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use floodmark_dataflows::combine::UpdateBatch;
    use floodmark_dataflows::types::Volume;

    use super::*;
    use crate::replay::Tick;

    fn tick(tick: u64, updates: usize) -> Event {
        let update_batch =
            UpdateBatch { v4: vec![(0, Volume::default()); updates], ..UpdateBatch::default() };
        Event::Tick(Tick { tick, update_batches: vec![update_batch], seen: BTreeSet::new() })
    }

    fn ticks(events: &Events) -> Vec<u64> {
        let next = || events.try_next().ok();
        std::iter::from_fn(next)
            .map(|event| match event {
                Event::Tick(tick) => tick.tick,
                Event::End(_) => panic!("no end was given"),
            })
            .collect()
    }

    /// Fills the queue; the next sender has to wait.
    fn fill(handing: &Handing, updates: usize) -> u64 {
        let mut given = 0;
        while !handing.is_full() {
            handing.give(tick(given, updates)).expect("somebody takes them");
            given += 1;
        }
        given
    }

    impl Handing {
        fn is_full(&self) -> bool {
            self.gate.ahead().reaches(1)
        }
    }

    #[test]
    fn many_small_ticks_or_few_large_ones_wait() {
        for (updates, expected) in [(1, 512), (50_000, 4), (1_000_000, 1)] {
            let (handing, events) = handing();
            assert_eq!(fill(&handing, updates), expected);
            let waiting = std::thread::spawn(move || handing.give(tick(expected, updates)).is_ok());
            let mut taken = ticks(&events);
            // It comes as soon as there is room, which may be later than this.
            while taken.len() as u64 <= expected {
                let Ok(Event::Tick(tick)) = events.next() else { panic!("a tick is on its way") };
                taken.push(tick.tick);
            }
            assert_eq!(taken, (0..=expected).collect::<Vec<_>>());
            assert!(waiting.join().expect("the thread ends"));
        }
    }

    #[test]
    fn who_waits_hears_that_nobody_takes_events_any_more() {
        let (handing, events) = handing();
        fill(&handing, 50_000);
        let waiting = std::thread::spawn(move || handing.give(tick(9, 1)).is_err());
        drop(events);
        assert!(waiting.join().expect("the thread ends"));
    }
}
