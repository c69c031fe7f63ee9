//! Captures as one input on their own clock: merged by time, cut into ticks, combined.
//!
//! A thread of its own reads, so that a pipe that says nothing for a while holds up nobody. A tick is
//! the greatest event time taken so far, rounded down; it is handed over when the next one begins.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use floodmark_dataflows::combine::{Combiner, Parcel};
use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Pair, Prefix, Volume};

use crate::capture::{EventTime, Packet, ReadError, Reader, Tally};
use crate::error::{Exit, Failure};
use crate::terminal::Messages;

/// Which pairs to count, beside all windows to see. Of several prefixes one must match.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of the source; empty: any.
    pub sources: Vec<Prefix>,
    /// Of the destination; empty: any.
    pub destinations: Vec<Prefix>,
}

impl Filter {
    fn admits(&self, pair: &Pair) -> bool {
        let matches = |prefixes: &[Prefix], address| {
            prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(address))
        };
        matches(&self.sources, pair.source()) && matches(&self.destinations, pair.destination())
    }
}

/// How captures become ticks.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The distance of ticks, in milliseconds.
    pub tick_ms: u64,
    /// The windows.
    pub windows: Windows,
    /// What is counted.
    pub filter: Filter,
    /// The number of workers of the computation.
    pub peers: usize,
}

/// What a tick brings.
#[derive(Debug)]
pub struct Tick {
    /// When. It is the watermark, too.
    pub tick: u64,
    /// What is counted.
    pub parcels: Vec<Parcel>,
    /// The windows of all packets, counted or not.
    pub seen: BTreeSet<Window>,
}

/// What was read, when all is.
#[derive(Debug)]
pub struct End {
    /// What counted and what did not.
    pub tally: Tally,
    /// What of it was, after all, at times too far in the future for a window to end.
    pub without_window: Volume,
    /// Whether any file was damaged.
    pub damaged: bool,
}

/// What the reading thread hands over.
#[derive(Debug)]
pub enum Event {
    /// A tick is complete.
    Tick(Tick),
    /// The last tick was.
    End(End),
}

/// Opens all captures, so that a missing one is known before anything starts.
pub fn open(files: &[PathBuf]) -> Result<Vec<Reader>, Failure> {
    let open =
        |file: &PathBuf| Reader::open(file).map_err(|error| Failure::new(error.exit(), error));
    if files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        let error = anyhow::anyhow!("standard input \"-\" is named twice, and can be read once");
        return Err(Failure::new(Exit::Usage, error));
    }
    files.iter().map(open).collect()
}

/// How many bytes the captures have, if all are files.
pub fn size(readers: &[Reader]) -> Option<u64> {
    readers.iter().map(Reader::size_hint).sum()
}

/// How many ticks may wait to be taken.
const TICKS_AHEAD: usize = 16;

/// Reads captures on a thread of its own. `wake` is called after each event. The thread ends when the
/// receiver is dropped, at the latest when its next packet has come.
pub fn start(
    readers: Vec<Reader>,
    cut: Cut,
    messages: Messages,
    wake: impl Fn() + Send + 'static,
) -> std::io::Result<Receiver<Event>> {
    let (send, receive) = sync_channel(TICKS_AHEAD);
    let replay = Replay {
        send,
        wake,
        combiner: Combiner::new(cut.peers),
        cut,
        messages,
        tick: None,
        seen: BTreeSet::new(),
        last_seen: None,
        without_window: Volume::default(),
        damaged: false,
    };
    std::thread::Builder::new().name("reader".into()).spawn(move || replay.run(readers))?;
    Ok(receive)
}

struct Replay<W> {
    send: SyncSender<Event>,
    wake: W,
    cut: Cut,
    messages: Messages,
    combiner: Combiner,
    tick: Option<u64>,
    seen: BTreeSet<Window>,
    /// The last one put into `seen`: most packets are of the same window.
    last_seen: Option<Window>,
    without_window: Volume,
    damaged: bool,
}

/// Nobody takes ticks any more.
struct Unwanted;

/// Packets between two moves of the progress bar.
const PROGRESS_PACKETS: u64 = 8192;

impl<W: Fn()> Replay<W> {
    fn run(mut self, mut readers: Vec<Reader>) {
        if self.merge(&mut readers).is_ok() && self.hand_over().is_ok() {
            let mut tally = Tally::default();
            readers.iter().for_each(|reader| tally.merge(reader.tally()));
            let (without_window, damaged) = (self.without_window, self.damaged);
            let _ = self.give(Event::End(End { tally, without_window, damaged }));
        }
    }

    /// Takes of the next packets of all files always the one with the least time; of equal ones the
    /// first file's.
    fn merge(&mut self, readers: &mut [Reader]) -> Result<(), Unwanted> {
        let mut next: Vec<Option<Packet>> = Vec::new();
        let mut queue: BinaryHeap<Reverse<(EventTime, usize)>> = BinaryHeap::new();
        for (file, reader) in readers.iter_mut().enumerate() {
            let packet = self.read(reader);
            queue.extend(packet.as_ref().map(|packet| Reverse((packet.time, file))));
            next.push(packet);
        }
        let mut packets = 0u64;
        while let Some(Reverse((_, file))) = queue.pop() {
            let alone = queue.is_empty();
            while let Some(packet) = next[file].take() {
                self.take(&packet)?;
                packets += 1;
                if packets.is_multiple_of(PROGRESS_PACKETS) {
                    self.messages.progress(readers.iter().map(Reader::offset).sum());
                }
                let following = self.read(&mut readers[file]);
                let at = following.as_ref().map(|packet| Reverse((packet.time, file)));
                next[file] = following;
                if !alone {
                    queue.extend(at);
                    break;
                }
            }
        }
        Ok(())
    }

    /// The next packet of a file. Damage ends the file as its end would, and is said.
    fn read(&mut self, reader: &mut Reader) -> Option<Packet> {
        reader.next().unwrap_or_else(|error: ReadError| {
            self.damaged = true;
            self.messages.say(error);
            None
        })
    }

    #[inline]
    fn take(&mut self, packet: &Packet) -> Result<(), Unwanted> {
        let bytes = i64::try_from(packet.bytes).expect("a packet has fewer than 2^63 bytes");
        let Some(window) = self.cut.windows.of(packet.time.ms) else {
            // Decoded, so in the tally, but in no window.
            self.without_window.packets += 1;
            self.without_window.bytes = self.without_window.bytes.saturating_add(bytes);
            return Ok(());
        };
        let rounded = packet.time.ms - packet.time.ms % self.cut.tick_ms;
        if self.tick.is_none_or(|tick| rounded > tick) {
            self.hand_over()?;
            self.tick = Some(rounded);
        }
        if self.last_seen != Some(window) {
            self.last_seen = Some(window);
            self.seen.insert(window);
        }
        if self.cut.filter.admits(&packet.pair) {
            self.combiner.add(window, packet.pair, Volume::new(bytes, 1));
        }
        Ok(())
    }

    /// Ends the current tick.
    fn hand_over(&mut self) -> Result<(), Unwanted> {
        let Some(tick) = self.tick.take() else {
            return Ok(());
        };
        let (parcels, seen) = (self.combiner.take(), std::mem::take(&mut self.seen));
        self.last_seen = None;
        self.give(Event::Tick(Tick { tick, parcels, seen }))
    }

    fn give(&self, event: Event) -> Result<(), Unwanted> {
        self.send.send(event).map_err(|_| Unwanted)?;
        (self.wake)();
        Ok(())
    }
}
