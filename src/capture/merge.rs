//! Merges several captures into one, by the time of their packets.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::{EventTime, Packet, ReadError, Reader, Tally};
use crate::base::error::{Exit, Failure};
use crate::base::terminal::Messages;

/// Opens all captures, so that a missing one is reported before anything starts. Each reader drops strays: packets
/// more than `max_ahead_ms` ahead of the next one.
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

/// Packets between two updates of the progress bar.
const PROGRESS_PACKETS: u64 = 8192;

/// The packets of several captures, by time; among equal times, in the order of the captures. A damaged capture ends at
/// the damage, and the error is reported.
pub struct Merge {
    readers: Vec<Reader>,
    messages: Messages,
    /// The next packet of each capture, if it is read.
    next: Vec<Option<Packet>>,
    queue: BinaryHeap<Reverse<(EventTime, usize)>>,
    unread: Unread,
    packets: u64,
    damaged: bool,
}

/// The captures whose next packet has not been read yet. It is read only when needed, since reading from a pipe may
/// block.
#[derive(Clone, Copy)]
enum Unread {
    All,
    One(usize),
    None,
}

impl Merge {
    /// Creates a merge that has read nothing yet.
    pub fn new(mut readers: Vec<Reader>, messages: Messages) -> Self {
        for reader in &mut readers {
            let messages = messages.clone();
            reader.set_warn(Box::new(move |text| messages.warn(text)));
        }
        let next = readers.iter().map(|_| None).collect();
        let queue = BinaryHeap::with_capacity(readers.len());
        Merge { readers, messages, next, queue, unread: Unread::All, packets: 0, damaged: false }
    }

    /// Returns the next packet; `None` when all captures have ended.
    #[expect(
        clippy::should_implement_trait,
        reason = "callers read the tally and damage between packets"
    )]
    pub fn next(&mut self) -> Option<Packet> {
        self.try_for_each(|packet| ControlFlow::Break(*packet)).break_value()
    }

    /// Calls `visit` with each packet until it breaks.
    #[inline]
    pub fn try_for_each<B>(
        &mut self,
        mut visit: impl FnMut(&Packet) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        loop {
            match (self.unread, self.queue.peek()) {
                (Unread::All, _) => (0..self.readers.len()).for_each(|file| self.enqueue(file)),
                // The only capture that is left: no times to compare.
                (Unread::One(file), None) => self.read_capture(file, |_| false, &mut visit)?,
                (Unread::One(file), Some(Reverse(other))) => {
                    let other = *other;
                    self.read_capture(file, |packet| (packet.time, file) > other, &mut visit)?;
                }
                (Unread::None, _) => {}
            }
            let Some(Reverse((_, file))) = self.queue.pop() else {
                self.unread = Unread::None;
                return ControlFlow::Continue(());
            };
            self.unread = Unread::One(file);
            if let Some(packet) = self.next[file].take() {
                self.count_packet();
                visit(&packet)?;
            }
        }
    }

    /// Reads the packets of one capture until it ends, or until its next packet is later than that of another capture,
    /// and queues that packet.
    #[inline]
    fn read_capture<B>(
        &mut self,
        file: usize,
        is_later: impl Fn(&Packet) -> bool,
        visit: &mut impl FnMut(&Packet) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        loop {
            let (packets, next) = (&mut self.packets, &mut self.next[file]);
            let read = self.readers[file].try_for_each(|packet| {
                if is_later(&packet) {
                    *next = Some(packet);
                    return ControlFlow::Break(None);
                }
                *packets += 1;
                match visit(&packet) {
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
                    self.report_damage(error);
                    return ControlFlow::Continue(());
                }
            }
        }
    }

    fn count_packet(&mut self) {
        self.packets += 1;
        if self.packets.is_multiple_of(PROGRESS_PACKETS) {
            self.show_progress();
        }
    }

    #[cold]
    fn show_progress(&self) {
        self.messages.progress(self.readers.iter().map(Reader::offset).sum());
    }

    fn report_damage(&mut self, error: ReadError) {
        self.damaged = true;
        self.messages.info(error);
    }

    fn enqueue(&mut self, file: usize) {
        let packet = self.readers[file].next().unwrap_or_else(|error| {
            self.report_damage(error);
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

    /// Whether damage was found in any capture so far.
    pub fn damaged(&self) -> bool {
        self.damaged
    }
}
