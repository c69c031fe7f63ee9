//! Several captures as one: of their next packets always the one with the least time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::{EventTime, Packet, ReadError, Reader, Tally};
use crate::base::error::{Exit, Failure};
use crate::base::terminal::Messages;

/// Opens all captures, so that a missing one is known before anything starts. Of each of them strays are
/// dropped: packets more than `max_ahead_ms` ahead of the next one.
pub fn open(files: &[PathBuf], max_ahead_ms: u64) -> Result<Vec<Reader>, Failure> {
    let open = |file: &PathBuf| {
        let mut reader = Reader::open(file).map_err(|error| Failure::new(error.exit(), error))?;
        reader.drop_strays(max_ahead_ms);
        Ok(reader)
    };
    if files.iter().filter(|file| file.as_os_str() == "-").count() > 1 {
        let error = anyhow::anyhow!("standard input \"-\" is named twice, and can be read once");
        return Err(Failure::new(Exit::Usage, error));
    }
    files.iter().map(open).collect()
}

/// Returns the number of bytes of the captures; `None` if one of them is a pipe or standard input.
pub fn size(readers: &[Reader]) -> Option<u64> {
    readers.iter().map(Reader::size_hint).sum()
}

/// Packets between two moves of the progress bar.
const PROGRESS_PACKETS: u64 = 8192;

/// The packets of several captures, by time; of equal times the first capture's. A damaged capture drops out at
/// the damage, as one that ends does, and the error is reported.
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

/// The captures whose next packet has not been read yet. It is read only when it is wanted, since reading from
/// a pipe may wait for it.
#[derive(Clone, Copy)]
enum Turn {
    All,
    One(usize),
    Nobody,
}

impl Merge {
    /// Creates a merge that has read nothing yet.
    pub fn new(mut readers: Vec<Reader>, messages: Messages) -> Self {
        for reader in &mut readers {
            let messages = messages.clone();
            reader.warn_by(Box::new(move |text| messages.warn(text)));
        }
        let next = readers.iter().map(|_| None).collect();
        let queue = BinaryHeap::with_capacity(readers.len());
        Merge { readers, messages, next, queue, turn: Turn::All, packets: 0, damaged: false }
    }

    /// The next packet; `None` when all captures have ended.
    #[expect(clippy::should_implement_trait, reason = "the tally and damage are asked for between")]
    pub fn next(&mut self) -> Option<Packet> {
        self.each(|packet| ControlFlow::Break(*packet)).break_value()
    }

    /// Calls `take` with each packet, as long as it wants to go on.
    #[inline]
    pub fn each<B>(&mut self, mut take: impl FnMut(&Packet) -> ControlFlow<B>) -> ControlFlow<B> {
        loop {
            match (self.turn, self.queue.peek()) {
                (Turn::All, _) => (0..self.readers.len()).for_each(|file| self.enqueue(file)),
                // Only this one is left, and nothing needs to be compared.
                (Turn::One(file), None) => self.read_on(file, |_| false, &mut take)?,
                (Turn::One(file), Some(Reverse(other))) => {
                    let other = *other;
                    self.read_on(file, |packet| (packet.time, file) > other, &mut take)?;
                }
                (Turn::Nobody, _) => {}
            }
            let Some(Reverse((_, file))) = self.queue.pop() else {
                self.turn = Turn::Nobody;
                return ControlFlow::Continue(());
            };
            self.turn = Turn::One(file);
            if let Some(packet) = self.next[file].take() {
                self.progress();
                take(&packet)?;
            }
        }
    }

    /// Takes the packets of one capture until it ends, or until its next packet is later than that of another
    /// capture. That packet is queued.
    #[inline]
    fn read_on<B>(
        &mut self,
        file: usize,
        is_later: impl Fn(&Packet) -> bool,
        take: &mut impl FnMut(&Packet) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        loop {
            let (packets, next) = (&mut self.packets, &mut self.next[file]);
            let read = self.readers[file].each(|packet| {
                if is_later(&packet) {
                    *next = Some(packet);
                    return ControlFlow::Break(None);
                }
                *packets += 1;
                match take(&packet) {
                    ControlFlow::Break(end) => ControlFlow::Break(Some(end)),
                    ControlFlow::Continue(()) if packets.is_multiple_of(PROGRESS_PACKETS) => {
                        ControlFlow::Break(None)
                    }
                    ControlFlow::Continue(()) => ControlFlow::Continue(()),
                }
            });
            match read {
                Ok(ControlFlow::Break(Some(end))) => return ControlFlow::Break(end),
                Ok(ControlFlow::Break(None)) => match &self.next[file] {
                    Some(packet) => {
                        self.queue.push(Reverse((packet.time, file)));
                        return ControlFlow::Continue(());
                    }
                    None => self.show_progress(),
                },
                Ok(ControlFlow::Continue(())) => return ControlFlow::Continue(()),
                Err(error) => {
                    self.drop_out(error);
                    return ControlFlow::Continue(());
                }
            }
        }
    }

    fn progress(&mut self) {
        self.packets += 1;
        if self.packets.is_multiple_of(PROGRESS_PACKETS) {
            self.show_progress();
        }
    }

    #[cold]
    fn show_progress(&self) {
        self.messages.progress(self.readers.iter().map(Reader::offset).sum());
    }

    fn drop_out(&mut self, error: ReadError) {
        self.damaged = true;
        self.messages.say(error);
    }

    fn enqueue(&mut self, file: usize) {
        let packet = self.readers[file].next().unwrap_or_else(|error| {
            self.drop_out(error);
            None
        });
        self.queue.extend(packet.as_ref().map(|packet| Reverse((packet.time, file))));
        self.next[file] = packet;
    }

    /// Returns the counts of packets read, and of frames that were not counted.
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
