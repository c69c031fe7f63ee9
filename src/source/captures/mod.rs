//! Captures as a source: merged by time, and cut into ticks by it.
//!
//! A thread of its own reads and combines the packets of each tick, so that a silent pipe delays nobody else. A tick
//! is the greatest event time read so far, rounded down; the thread sends it when the next one begins.

mod events;

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::Volume;

use super::{Demand, Filter, Source, TickRecords};
use crate::base::error::Failure;
use crate::base::terminal::Messages;
use crate::capture::merge::Merge;
use crate::capture::{Packet, Reader};
use crate::computation::EventTimeReached;
use events::{Disconnected, Event, EventReceiver, EventSender, Tick};

pub use events::End;

/// The rules by which captures are cut into ticks.
#[derive(Clone, Debug)]
pub struct TickRules {
    /// The distance of ticks, in milliseconds.
    pub tick_ms: u64,
    /// The windows.
    pub windows: Windows,
    /// The pairs to count.
    pub filter: Filter,
    /// The number of workers of the computation.
    pub peers: usize,
}

/// The summary of captures, which is there once all are read.
pub type Summary = Arc<OnceLock<End>>;

/// Captures that are read.
pub struct Captures {
    events: EventReceiver,
    /// The first tick that was not taken.
    next: Option<Tick>,
    summary: Summary,
}

impl Captures {
    /// Begins to read captures, and wakes this thread when a tick is complete. `summary` is set when all are read. The
    /// thread that reads ends when `Captures` is dropped, at the latest when its next packet has come.
    ///
    /// # Errors
    /// The thread can't be started.
    pub fn read(
        readers: Vec<Reader>,
        rules: TickRules,
        messages: Messages,
        summary: &Summary,
    ) -> Result<Self, Failure> {
        let reading = std::thread::current();
        let events = start(readers, rules, messages, move || reading.unpark());
        let events = events.context("starting the thread that reads")?;
        Ok(Captures { events, next: None, summary: summary.clone() })
    }

    /// Whether all captures are read. Their ticks may not all be taken.
    fn has_ended(&self) -> bool {
        self.summary.get().is_some()
    }
}

impl Source for Captures {
    fn demand(&mut self, _: EventTimeReached) -> Result<Demand, Failure> {
        if self.next.is_none() && !self.has_ended() {
            match self.events.try_next() {
                Some(Event::Tick(tick)) => self.next = Some(tick),
                Some(Event::End(end)) => drop(self.summary.set(end)),
                // The reader reports its end, or ends the process.
                None => return Ok(Demand::None),
            }
        }
        Ok(self.next.as_ref().map_or(Demand::Ended, |next| Demand::TickAt(next.tick)))
    }

    fn take_records(&mut self, tick: u64) -> TickRecords {
        let Some(Tick { tick, update_batches, seen }) = self.next.take_if(|next| next.tick <= tick)
        else {
            return TickRecords::default();
        };
        TickRecords { update_batches, seen, greatest: Some(tick), ..TickRecords::default() }
    }
}

fn start(
    readers: Vec<Reader>,
    rules: TickRules,
    messages: Messages,
    wake: impl Fn() + Send + 'static,
) -> std::io::Result<EventReceiver> {
    let (sender, events) = events::channel();
    let builder = TickBuilder {
        sender,
        wake,
        combiner: Combiner::new(rules.peers),
        rules,
        tick: None,
        next_tick: 0,
        seen: BTreeSet::new(),
        last_seen: None,
        without_window: Volume::default(),
    };
    let merge = Merge::new(readers, messages);
    std::thread::Builder::new().name("reader".into()).spawn(move || builder.run(merge))?;
    Ok(events)
}

struct TickBuilder<W> {
    sender: EventSender,
    wake: W,
    rules: TickRules,
    combiner: Combiner,
    tick: Option<u64>,
    /// The time from which on a packet begins the next tick; 0 before the first one.
    next_tick: u64,
    seen: BTreeSet<Window>,
    /// The last window put into `seen`, and its times.
    last_seen: Option<(Window, Range<u64>)>,
    without_window: Volume,
}

impl<W: Fn()> TickBuilder<W> {
    fn run(mut self, mut merge: Merge) {
        if self.read_all(&mut merge).is_ok() && self.end_tick().is_ok() {
            let (tally, damaged) = (merge.tally(), merge.damaged());
            let without_window = self.without_window;
            let _ = self.send(Event::End(End { tally, without_window, damaged }));
        }
    }

    fn read_all(&mut self, merge: &mut Merge) -> Result<(), Disconnected> {
        let end = merge.try_for_each(|packet| match self.add(packet) {
            Ok(()) => ControlFlow::Continue(()),
            Err(disconnected) => ControlFlow::Break(disconnected),
        });
        end.break_value().map_or(Ok(()), Err)
    }

    #[inline]
    fn add(&mut self, packet: &Packet) -> Result<(), Disconnected> {
        let bytes = i64::try_from(packet.bytes).expect("a packet has fewer than 2^63 bytes");
        // Nearly all packets are of the window and the tick of the one before: comparing saves two divisions.
        let window = match self.last_seen {
            Some((window, ref times)) if times.contains(&packet.time.ms) => window,
            _ => match self.rules.windows.of(packet.time.ms) {
                Some(window) => window,
                None => {
                    self.count_without_window(bytes);
                    return Ok(());
                }
            },
        };
        if packet.time.ms >= self.next_tick {
            self.end_tick()?;
            let tick = packet.time.ms - packet.time.ms % self.rules.tick_ms;
            self.tick = Some(tick);
            self.next_tick = tick.saturating_add(self.rules.tick_ms);
        }
        if self.last_seen.as_ref().is_none_or(|last| last.0 != window) {
            let start = window.0 * 1000;
            self.last_seen = Some((window, start..self.rules.windows.end_ms(window)));
            self.seen.insert(window);
        }
        if self.rules.filter.admits(&packet.pair) {
            self.combiner.add(window, packet.pair, Volume::new(bytes, 1));
        }
        Ok(())
    }

    /// Counts a packet that is in the tally, but in no window.
    #[cold]
    fn count_without_window(&mut self, bytes: i64) {
        self.without_window.packets += 1;
        self.without_window.bytes = self.without_window.bytes.saturating_add(bytes);
    }

    /// Ends the current tick.
    fn end_tick(&mut self) -> Result<(), Disconnected> {
        let Some(tick) = self.tick.take() else {
            return Ok(());
        };
        let (update_batches, seen) = (self.combiner.take(), std::mem::take(&mut self.seen));
        self.last_seen = None;
        self.send(Event::Tick(Tick { tick, update_batches, seen }))
    }

    fn send(&self, event: Event) -> Result<(), Disconnected> {
        self.sender.send(event)?;
        (self.wake)();
        Ok(())
    }
}
