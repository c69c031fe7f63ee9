//! The threads that produce records: one captures from an interface and waits for nothing but packets, one reads
//! captures as fast as the queue accepts records.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use floodmark_dataflows::types::Volume;

use super::fold::Folding;
use super::meter::{DroppedRecords, Meter};
use super::pace::{Pace, PaceClock};
use super::queue::{PushError, QueueReceiver, QueueSender, queue};
use crate::base::date::format_ms;
use crate::base::terminal::{Interrupt, Messages};
use crate::capture::live::{BLOCK_MS, Drops, Live, LiveError};
use crate::capture::merge::Merge;
use crate::capture::{Packet, Tally};
use crate::record::Record;

/// Greatest number of records in a batch for the queue.
pub const BATCH: usize = 4096;

/// Longest wait before a thread checks whether to stop.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which new drops are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Time without frames after which the capture checks whether the interface is up.
const QUIET_TIME: Duration = Duration::from_secs(1);

/// Interval at which the counts are handed to the meter.
const MEASURE_INTERVAL: Duration = Duration::from_millis(500);

/// Summary that a source sends when it ends.
#[derive(Debug, Default)]
pub struct End {
    /// Frames read, and the reasons why some were not counted.
    pub tally: Tally,
    /// For an interface, the frames that the kernel or the interface dropped.
    pub drops: Drops,
    /// For an interface, the records dropped at the full queue.
    pub lost: DroppedRecords,
    /// Whether a capture was damaged.
    pub damaged: bool,
    /// Whether the user ended the source.
    pub interrupted: bool,
    /// Reason why the interface can't be read any more, if it can't.
    pub error: Option<LiveError>,
}

/// The receiving half of a source of records, which runs on another thread.
pub struct Source {
    /// The records.
    pub records: QueueReceiver,
    /// The summary of the source, sent before the queue of records ends.
    pub end: Receiver<End>,
}

/// An interface that frames are captured from; tests have a scripted one.
pub trait Wire: Send + 'static {
    /// Waits for frames for at most this long.
    fn wait(&mut self, at_most: Duration) -> Result<(), LiveError>;
    /// Calls `each` for each counted packet, and returns the number of frames.
    fn read(&mut self, each: &mut impl FnMut(&Packet)) -> Result<usize, LiveError>;
    /// Returns the counts of the frames read so far.
    fn tally(&self) -> &Tally;
    /// Returns the counts of the frames dropped so far.
    fn drops(&mut self) -> Result<Drops, LiveError>;
    /// Whether the interface is up.
    fn is_up(&self) -> bool;
}

impl Wire for Live {
    fn wait(&mut self, at_most: Duration) -> Result<(), LiveError> {
        Live::wait(self, at_most)
    }

    fn read(&mut self, each: &mut impl FnMut(&Packet)) -> Result<usize, LiveError> {
        Live::read(self, each)
    }

    fn tally(&self) -> &Tally {
        Live::tally(self)
    }

    fn drops(&mut self) -> Result<Drops, LiveError> {
        Live::drops(self)
    }

    fn is_up(&self) -> bool {
        Live::is_up(self)
    }
}

/// Settings of a live capture.
pub struct InterfaceSettings<C> {
    /// Folds records before the queue, so that an outage fills the queue slowly.
    pub folding: Folding,
    /// Capacity of the queue, in records.
    pub capacity: usize,
    /// The clock by which buckets end, and by which the duration counts.
    pub clock: C,
    /// Time after which the capture ends by itself; `None`: never.
    pub duration: Option<Duration>,
    /// Ends the capture.
    pub interrupt: Interrupt,
    /// The messages about drops.
    pub messages: Messages,
    /// The meter that gets the counts.
    pub meter: Arc<Meter>,
}

/// Captures from an interface on its own thread.
pub fn capture_interface<C: PaceClock + Send + 'static>(
    wire: impl Wire,
    settings: InterfaceSettings<C>,
) -> std::io::Result<Source> {
    let InterfaceSettings { folding, capacity, clock, duration, interrupt, messages, meter } =
        settings;
    let (queue_sender, records) = queue(capacity);
    let (send, end) = channel();
    let until = duration.map(|duration| clock.now().saturating_add(duration));
    let (out, lost, reported) =
        (Vec::new(), DroppedRecords::default(), (Drops::default(), DroppedRecords::default()));
    let capture = InterfaceCapture {
        wire,
        folding,
        queue_sender,
        clock,
        until,
        interrupt,
        messages,
        meter,
        out,
        lost,
        reported,
    };
    std::thread::Builder::new().name("capture".into()).spawn(move || capture.run(&send))?;
    Ok(Source { records, end })
}

struct InterfaceCapture<W, C> {
    wire: W,
    folding: Folding,
    queue_sender: QueueSender,
    clock: C,
    until: Option<Duration>,
    interrupt: Interrupt,
    messages: Messages,
    meter: Arc<Meter>,
    /// Records ready for the queue.
    out: Vec<Record>,
    lost: DroppedRecords,
    /// The drops reported last.
    reported: (Drops, DroppedRecords),
}

/// Error: the receiver of the records is gone.
struct ReceiverGone;

/// Time limit for reading earlier frames after a stop request. A capture needs much less, unless it is far behind.
const DRAIN_MAX: Duration = Duration::from_secs(10);

impl<W: Wire, C: PaceClock> InterfaceCapture<W, C> {
    fn run(mut self, end: &Sender<End>) {
        let error = self.capture().err();
        if error.is_some() {
            self.read_rest();
        }
        self.folding.end(&mut self.out);
        let _ = self.hand_over();
        let drops = self.wire.drops().unwrap_or(self.reported.0);
        let _ = end.send(End {
            tally: self.wire.tally().clone(),
            drops,
            lost: self.lost,
            damaged: false,
            interrupted: self.interrupt.pressed(),
            error,
        });
    }

    fn capture(&mut self) -> Result<(), LiveError> {
        let mut report_at = self.clock.now() + REPORT_INTERVAL;
        let mut link = Link { up: true, check_at: self.clock.now() };
        let mut measure_at = Duration::ZERO;
        // The time of the stop request: on the clock, and in milliseconds since 1970, as for packets.
        let mut stop: Option<(Duration, u64)> = None;
        loop {
            self.wire.wait(CHECK_INTERVAL)?;
            let (folding, out, mut latest_ms) = (&mut self.folding, &mut self.out, 0);
            let frames = self.wire.read(&mut |packet| {
                latest_ms = packet.time.ms;
                folding.add(record(packet), out);
            })?;
            let now = self.clock.now();
            self.folding.end_due_buckets(now, &mut self.out);
            if self.hand_over().is_err() {
                return Ok(());
            }
            // The check precedes the metering: a capture whose interface is down is never ready, not even at first.
            if let Some(up) = link.update(frames, now, || self.wire.is_up()) {
                self.meter.set_link(up);
                match up {
                    true => self.messages.info("the interface is up again"),
                    false => {
                        self.messages.warn("the interface is down; capture resumes when it is up")
                    }
                }
            }
            if now >= measure_at {
                measure_at = now + MEASURE_INTERVAL;
                let drops = self.wire.drops()?;
                self.meter.set_captured(self.wire.tally(), drops, self.lost);
            }
            if now >= report_at {
                report_at = now + REPORT_INTERVAL;
                let drops = self.wire.drops()?;
                self.report(drops);
            }
            match stop {
                None => {
                    let over = self.until.is_some_and(|until| now >= until);
                    if over || self.interrupt.pressed() {
                        stop = Some((now, wall_ms()));
                    }
                }
                // The kernel may retain earlier frames until their block is over.
                Some((since, wall_ms)) => {
                    let block = Duration::from_millis(2 * u64::from(BLOCK_MS));
                    let idle = frames == 0 && now >= since + block;
                    if idle || latest_ms > wall_ms || now >= since + DRAIN_MAX {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reads the frames that an interface left when it went away: the kernel returns the block under way when its
    /// time is over, and each pending error only once.
    fn read_rest(&mut self) {
        self.clock.wait(Duration::from_millis(2 * u64::from(BLOCK_MS)));
        let mut nothing = 0;
        while nothing < 3 {
            let (folding, out) = (&mut self.folding, &mut self.out);
            match self.wire.read(&mut |packet| folding.add(record(packet), out)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => nothing += 1,
            }
            if self.hand_over().is_err() {
                return;
            }
        }
    }

    /// Adds ready records to the queue. A batch that does not fit is counted and dropped: packets can't wait.
    fn hand_over(&mut self) -> Result<(), ReceiverGone> {
        for batch in self.out.chunks(BATCH) {
            match self.queue_sender.offer(batch.to_vec()) {
                Ok(()) => {}
                Err(PushError::ReceiverGone) => return Err(ReceiverGone),
                Err(PushError::Full) => {
                    self.lost.records += batch.len() as u64;
                    for record in batch {
                        let (sum, more) = (&mut self.lost.volume, record.volume);
                        sum.bytes = sum.bytes.saturating_add(more.bytes);
                        sum.packets = sum.packets.saturating_add(more.packets);
                    }
                }
            }
        }
        self.out.clear();
        Ok(())
    }

    fn report(&mut self, drops: Drops) {
        if self.reported != (drops, self.lost) {
            self.reported = (drops, self.lost);
            self.messages.info(dropped(drops, &self.lost));
        }
    }
}

/// The last known state of an interface, which is checked when no frames come.
struct Link {
    up: bool,
    check_at: Duration,
}

impl Link {
    /// Returns the new state if it has changed.
    fn update(
        &mut self,
        frames: usize,
        now: Duration,
        is_up: impl FnOnce() -> bool,
    ) -> Option<bool> {
        let quiet = frames == 0 && now >= self.check_at;
        if frames > 0 || quiet {
            self.check_at = now + QUIET_TIME;
        }
        let up = frames > 0 || if quiet { is_up() } else { self.up };
        let changed = up != self.up;
        self.up = up;
        changed.then_some(up)
    }
}

/// Describes the drops so far, and the options that help.
pub fn dropped(drops: Drops, lost: &DroppedRecords) -> String {
    let mut parts = Vec::new();
    if drops.kernel > 0 {
        parts.push(format!(
            "{} frames by the kernel, whose buffer was full (a greater --buffer or a --filter helps)",
            drops.kernel
        ));
    }
    if drops.interface > 0 {
        parts.push(format!("{} frames by the interface", drops.interface));
    }
    if lost.records > 0 {
        let Volume { bytes, packets } = lost.volume;
        parts.push(format!(
            "{} records of {packets} packets and {bytes} bytes, as the queue to the output was full \
             (a greater --queue or --aggregate helps)",
            lost.records
        ));
    }
    match parts.is_empty() {
        true => "dropped nothing".to_owned(),
        false => format!("dropped so far: {}", parts.join("; ")),
    }
}

fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// Converts a packet to a record.
pub fn record(packet: &Packet) -> Record {
    let bytes = i64::try_from(packet.bytes).expect("a packet has fewer than 2^63 bytes");
    Record { time_ms: packet.time.ms, pair: packet.pair, volume: Volume::new(bytes, 1) }
}

/// Settings for reading captures.
pub struct FileReaderSettings<C> {
    /// The pace of packets; `None` reads as fast as possible.
    pub pace: Option<Pace>,
    /// The clock that the pace follows.
    pub clock: C,
    /// Whether each packet is forwarded at once, since the next one may arrive much later.
    pub one_by_one: bool,
    /// Capacity of the queue, in records.
    pub capacity: usize,
    /// Ends the reading.
    pub interrupt: Interrupt,
    /// The messages about long gaps.
    pub messages: Messages,
}

/// Reads captures on its own thread.
pub fn read_captures<C: PaceClock + Send + 'static>(
    mut merge: Merge,
    settings: FileReaderSettings<C>,
) -> std::io::Result<Source> {
    let (queue_sender, records) = queue(settings.capacity);
    let (send, end) = channel();
    let mut reader = FileReader { settings, queue_sender, batch: Vec::new() };
    std::thread::Builder::new().name("reader".into()).spawn(move || {
        let _ = reader.read_all(&mut merge);
        let interrupted = reader.settings.interrupt.pressed();
        let (tally, damaged) = (merge.tally(), merge.damaged());
        let _ = send.send(End { tally, damaged, interrupted, ..End::default() });
    })?;
    Ok(Source { records, end })
}

struct FileReader<C> {
    settings: FileReaderSettings<C>,
    queue_sender: QueueSender,
    batch: Vec<Record>,
}

/// Shortest wait that is reported.
const LONG_WAIT: Duration = Duration::from_secs(60);

impl<C: PaceClock> FileReader<C> {
    /// Reads until the captures end, the receiver is gone, or the user interrupts. Each packet that was read is
    /// forwarded.
    fn read_all(&mut self, merge: &mut Merge) -> Result<(), ReceiverGone> {
        let most = if self.settings.one_by_one { 1 } else { BATCH };
        while let Some(packet) = merge.next() {
            let due = self.wait_for(&packet)?;
            // The packet was read, and counted, so it is forwarded even if an interrupt ended the wait.
            self.batch.push(record(&packet));
            if !due {
                break;
            }
            if self.batch.len() >= most {
                self.flush()?;
                if self.settings.interrupt.pressed() {
                    break;
                }
            }
        }
        self.flush()
    }

    /// Waits until a packet is due. Returns false if an interrupt came before.
    fn wait_for(&mut self, packet: &Packet) -> Result<bool, ReceiverGone> {
        let Some(pace) = &mut self.settings.pace else { return Ok(true) };
        let mut now = self.settings.clock.now();
        let due = pace.due(packet.time, now);
        if due <= now {
            return Ok(true);
        }
        self.flush()?;
        let wait = due - now;
        if wait > LONG_WAIT {
            let (time, secs) = (format_ms(packet.time.ms), wait.as_secs());
            self.settings
                .messages
                .info(format!("the next packet is of {time}, which takes {secs} s at this speed"));
        }
        while now < due {
            if self.settings.interrupt.pressed() {
                return Ok(false);
            }
            self.settings.clock.wait(CHECK_INTERVAL.min(due - now));
            now = self.settings.clock.now();
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), ReceiverGone> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch.reserve(batch.len());
        self.queue_sender.push(batch).map_err(|_| ReceiverGone)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
