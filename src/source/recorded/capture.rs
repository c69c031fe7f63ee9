//! A capture as a part of a recorded input.

use std::ops::ControlFlow;

use floodmark_dataflows::types::Volume;

use super::events::End;
use super::gather::Gather;
use super::part::{Part, Progress};
use super::tally;
use crate::base::error::Failure;
use crate::capture::{Packet, Reader};

/// Packets between two reports of progress.
const PROGRESS_PACKETS: u64 = 8192;

/// A capture. A damaged one ends at the damage, and the error is reported.
pub(super) struct CapturePart {
    reader: Reader,
    /// The packet of a later tick.
    next: Option<Packet>,
    packets: u64,
    /// The event time that was reached when progress was reported last.
    reached: u64,
    without_window: Volume,
    progress: Progress,
    is_damaged: bool,
}

/// The reason why the reading of packets is interrupted.
enum Pause {
    LaterTick,
    Progress,
}

impl CapturePart {
    pub(super) fn new(mut reader: Reader, progress: Progress) -> Self {
        let messages = progress.messages().clone();
        reader.set_warn(Box::new(move |text| messages.warn(text)));
        let without_window = Volume::default();
        let (packets, reached) = (0, 0);
        CapturePart {
            reader,
            next: None,
            packets,
            reached,
            without_window,
            progress,
            is_damaged: false,
        }
    }

    fn report(&mut self) {
        self.progress.report(self.reader.offset(), self.packets, self.reached);
    }

    fn read_packets(&mut self, gather: &mut Gather) -> bool {
        if let Some(packet) = self.next {
            if add(gather, &packet).is_break() {
                return true;
            }
            (self.next, self.reached) = (None, packet.time.ms);
            self.packets += 1;
        }
        loop {
            let CapturePart { packets, next, reached, .. } = self;
            let read = self.reader.try_for_each(|packet| {
                if add(gather, &packet).is_break() {
                    *next = Some(packet);
                    return ControlFlow::Break(Pause::LaterTick);
                }
                *packets += 1;
                if packets.is_multiple_of(PROGRESS_PACKETS) {
                    *reached = packet.time.ms;
                    return ControlFlow::Break(Pause::Progress);
                }
                ControlFlow::Continue(())
            });
            match read {
                Ok(ControlFlow::Break(Pause::LaterTick)) => return true,
                Ok(ControlFlow::Break(Pause::Progress)) => self.report(),
                Ok(ControlFlow::Continue(())) => return false,
                Err(error) => {
                    self.is_damaged = true;
                    self.progress.messages().info(error);
                    return false;
                }
            }
        }
    }
}

#[inline]
fn add(gather: &mut Gather, packet: &Packet) -> ControlFlow<()> {
    let bytes = i64::try_from(packet.bytes).expect("a packet has fewer than 2^63 bytes");
    gather.add(packet.time.ms, packet.pair, Volume::new(bytes, 1))
}

impl Part for CapturePart {
    fn read(&mut self, gather: &mut Gather) -> Result<bool, Failure> {
        let has_more = self.read_packets(gather);
        if !has_more {
            self.report();
        }
        tally::add(&mut self.without_window, gather.take_without_window().volume);
        Ok(has_more)
    }

    fn summarize(&self, end: &mut End) {
        end.frames.merge(self.reader.tally());
        tally::add(&mut end.frames_without_window, self.without_window);
        end.has_frames = true;
        end.damaged |= self.is_damaged;
    }
}
