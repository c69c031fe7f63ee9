//! Several captures as one: of their next packets always the one with the least time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;

use crate::capture::{EventTime, Packet, Reader, Tally};
use crate::error::{Exit, Failure};
use crate::terminal::Messages;

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

/// Packets between two moves of the progress bar.
const PROGRESS_PACKETS: u64 = 8192;

/// The packets of several captures, by time; of equal times the first capture's. A capture that is
/// damaged drops out there, as one that ends does, and that is said.
pub struct Merge {
    readers: Vec<Reader>,
    messages: Messages,
    /// The next packet of each capture but the one whose turn it is.
    next: Vec<Option<Packet>>,
    queue: BinaryHeap<Reverse<(EventTime, usize)>>,
    turn: Turn,
    packets: u64,
    damaged: bool,
}

/// Whose next packet has not been read yet. It is read only when it is wanted: a pipe may make wait for
/// it.
#[derive(Clone, Copy)]
enum Turn {
    All,
    One(usize),
    Nobody,
}

impl Merge {
    /// Nothing is read yet.
    pub fn new(readers: Vec<Reader>, messages: Messages) -> Self {
        let next = readers.iter().map(|_| None).collect();
        let queue = BinaryHeap::with_capacity(readers.len());
        Merge { readers, messages, next, queue, turn: Turn::All, packets: 0, damaged: false }
    }

    /// The next packet; `None` when all captures have ended.
    #[expect(clippy::should_implement_trait, reason = "the tally and damage are asked for between")]
    #[inline]
    pub fn next(&mut self) -> Option<Packet> {
        self.packets += 1;
        if self.packets.is_multiple_of(PROGRESS_PACKETS) {
            self.messages.progress(self.readers.iter().map(Reader::offset).sum());
        }
        match self.turn {
            Turn::All => (0..self.readers.len()).for_each(|file| self.enqueue(file)),
            // Only this one is left, and nothing needs to be compared.
            Turn::One(file) if self.queue.is_empty() => {
                let packet = self.read(file);
                if packet.is_none() {
                    self.turn = Turn::Nobody;
                }
                return packet;
            }
            Turn::One(file) => self.enqueue(file),
            Turn::Nobody => {}
        }
        let Some(Reverse((_, file))) = self.queue.pop() else {
            self.turn = Turn::Nobody;
            return None;
        };
        self.turn = Turn::One(file);
        self.next[file].take()
    }

    fn enqueue(&mut self, file: usize) {
        let packet = self.read(file);
        self.queue.extend(packet.as_ref().map(|packet| Reverse((packet.time, file))));
        self.next[file] = packet;
    }

    #[inline]
    fn read(&mut self, file: usize) -> Option<Packet> {
        self.readers[file].next().unwrap_or_else(|error| {
            self.damaged = true;
            self.messages.say(error);
            None
        })
    }

    /// What was read, and what of it was not counted.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.readers.iter().for_each(|reader| tally.merge(reader.tally()));
        tally
    }

    /// Whether any capture was damaged so far.
    pub fn damaged(&self) -> bool {
        self.damaged
    }
}
