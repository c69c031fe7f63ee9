//! Replays captures on their own clock: merges them, cuts them into ticks, and combines the packets of each
//! tick.
//!
//! A thread of its own reads, so that a silent pipe delays nobody else. A tick is the greatest event time read
//! so far, rounded down; it is sent when the next one begins.

mod events;

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Pair, Prefix, Volume};

use crate::base::terminal::Messages;
use crate::capture::{Packet, Reader};
use crate::merge::Merge;
use events::{Handing, Unwanted};

pub use events::{End, Event, Events, Tick};

/// The pairs to count; the others count as nothing, but still open windows. Of several prefixes one must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of the source; empty: any.
    pub sources: Vec<Prefix>,
    /// Of the destination; empty: any.
    pub destinations: Vec<Prefix>,
}

impl Filter {
    /// Whether a pair counts.
    pub fn admits(&self, pair: &Pair) -> bool {
        let matches = |prefixes: &[Prefix], address| {
            prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(address))
        };
        matches(&self.sources, pair.source()) && matches(&self.destinations, pair.destination())
    }
}

/// The rules by which captures are cut into ticks.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The distance of ticks, in milliseconds.
    pub tick_ms: u64,
    /// The windows.
    pub windows: Windows,
    /// The pairs to count.
    pub filter: Filter,
    /// The number of workers of the computation.
    pub peers: usize,
}

/// Reads captures on a thread of its own. `wake` is called after each event. The thread ends when the
/// events are dropped, at the latest when its next packet has come.
pub fn start(
    readers: Vec<Reader>,
    cut: Cut,
    messages: Messages,
    wake: impl Fn() + Send + 'static,
) -> std::io::Result<Events> {
    let (handing, events) = events::handing();
    let replay = Replay {
        handing,
        wake,
        combiner: Combiner::new(cut.peers),
        cut,
        tick: None,
        next_tick: 0,
        seen: BTreeSet::new(),
        last_seen: None,
        without_window: Volume::default(),
    };
    let merge = Merge::new(readers, messages);
    std::thread::Builder::new().name("reader".into()).spawn(move || replay.run(merge))?;
    Ok(events)
}

struct Replay<W> {
    handing: Handing,
    wake: W,
    cut: Cut,
    combiner: Combiner,
    tick: Option<u64>,
    /// The time from which on a packet begins the next tick; 0 before the first one.
    next_tick: u64,
    seen: BTreeSet<Window>,
    /// The last window put into `seen`, and its times.
    last_seen: Option<(Window, Range<u64>)>,
    without_window: Volume,
}

impl<W: Fn()> Replay<W> {
    fn run(mut self, mut merge: Merge) {
        if self.take_all(&mut merge).is_ok() && self.hand_over().is_ok() {
            let (tally, damaged) = (merge.tally(), merge.damaged());
            let without_window = self.without_window;
            let _ = self.give(Event::End(End { tally, without_window, damaged }));
        }
    }

    fn take_all(&mut self, merge: &mut Merge) -> Result<(), Unwanted> {
        let end = merge.each(|packet| match self.take(packet) {
            Ok(()) => ControlFlow::Continue(()),
            Err(unwanted) => ControlFlow::Break(unwanted),
        });
        end.break_value().map_or(Ok(()), Err)
    }

    #[inline]
    fn take(&mut self, packet: &Packet) -> Result<(), Unwanted> {
        let bytes = i64::try_from(packet.bytes).expect("a packet has fewer than 2^63 bytes");
        // Nearly all packets are of the window and the tick of the one before: comparing saves two divisions.
        let window = match self.last_seen {
            Some((window, ref times)) if times.contains(&packet.time.ms) => window,
            _ => match self.cut.windows.of(packet.time.ms) {
                Some(window) => window,
                None => {
                    self.take_without_window(bytes);
                    return Ok(());
                }
            },
        };
        if packet.time.ms >= self.next_tick {
            self.hand_over()?;
            let tick = packet.time.ms - packet.time.ms % self.cut.tick_ms;
            self.tick = Some(tick);
            self.next_tick = tick.saturating_add(self.cut.tick_ms);
        }
        if self.last_seen.as_ref().is_none_or(|last| last.0 != window) {
            let start = window.0 * 1000;
            self.last_seen = Some((window, start..self.cut.windows.end_ms(window)));
            self.seen.insert(window);
        }
        if self.cut.filter.admits(&packet.pair) {
            self.combiner.add(window, packet.pair, Volume::new(bytes, 1));
        }
        Ok(())
    }

    /// Counts a packet that is in the tally, but in no window.
    #[cold]
    fn take_without_window(&mut self, bytes: i64) {
        self.without_window.packets += 1;
        self.without_window.bytes = self.without_window.bytes.saturating_add(bytes);
    }

    /// Ends the current tick.
    fn hand_over(&mut self) -> Result<(), Unwanted> {
        let Some(tick) = self.tick.take() else {
            return Ok(());
        };
        let (update_batches, seen) = (self.combiner.take(), std::mem::take(&mut self.seen));
        self.last_seen = None;
        self.give(Event::Tick(Tick { tick, update_batches, seen }))
    }

    fn give(&self, event: Event) -> Result<(), Unwanted> {
        self.handing.give(event)?;
        (self.wake)();
        Ok(())
    }
}
