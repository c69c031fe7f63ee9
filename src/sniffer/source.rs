//! The threads that bring records in: one captures from an interface and never waits for anything but packets, one
//! reads captures as fast as the queue accepts records.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use floodmark_dataflows::types::Volume;

use super::fold::Folding;
use super::meter::{Lost, Meter};
use super::pace::{Clock, Pace};
use super::queue::{Entrance, Exit, Refused, queue};
use crate::base::date::format_ms;
use crate::base::terminal::{Interrupt, Messages};
use crate::capture::live::{BLOCK_MS, Drops, Live, LiveError};
use crate::capture::merge::Merge;
use crate::capture::{Packet, Tally};
use crate::record::Record;

/// Records that go into the queue together.
pub const BATCH: usize = 4096;

/// Longest wait before a thread checks whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Interval at which new drops are reported.
const REPORT: Duration = Duration::from_secs(10);

/// Time without frames after which the capture checks whether the interface is up.
const QUIET: Duration = Duration::from_secs(1);

/// Interval at which the counts are handed to the meter.
const MEASURE: Duration = Duration::from_millis(500);

/// Summary that a source sends when it ends.
#[derive(Debug, Default)]
pub struct End {
    /// Frames read, and the reasons why some were not counted.
    pub tally: Tally,
    /// For an interface, the frames that the kernel or the interface dropped.
    pub drops: Drops,
    /// For an interface, the records dropped at the full queue.
    pub lost: Lost,
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
    pub records: Exit,
    /// The summary of the source, sent before the queue of records ends.
    pub end: Receiver<End>,
}

/// An interface that frames are captured from; tests have a scripted one.
pub trait Wire: Send + 'static {
    /// Waits for frames for at most this long.
    fn wait(&mut self, at_most: Duration) -> Result<(), LiveError>;
    /// Calls `each` for each packet that counts, and returns the number of frames.
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
pub struct Watch<C> {
    /// Folds records before the queue, so that an outage fills the queue slowly.
    pub folding: Folding,
    /// Capacity of the queue, in records.
    pub room: usize,
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

/// Watches an interface on a thread of its own.
pub fn watch<C: Clock + Send + 'static>(
    wire: impl Wire,
    watch: Watch<C>,
) -> std::io::Result<Source> {
    let Watch { folding, room, clock, duration, interrupt, messages, meter } = watch;
    let (entrance, records) = queue(room);
    let (send, end) = channel();
    let until = duration.map(|duration| clock.now().saturating_add(duration));
    let (out, lost, said) = (Vec::new(), Lost::default(), (Drops::default(), Lost::default()));
    let watcher = Watcher {
        wire,
        folding,
        entrance,
        clock,
        until,
        interrupt,
        messages,
        meter,
        out,
        lost,
        said,
    };
    std::thread::Builder::new().name("capture".into()).spawn(move || watcher.run(&send))?;
    Ok(Source { records, end })
}

struct Watcher<W, C> {
    wire: W,
    folding: Folding,
    entrance: Entrance,
    clock: C,
    until: Option<Duration>,
    interrupt: Interrupt,
    messages: Messages,
    meter: Arc<Meter>,
    /// Records ready for the queue.
    out: Vec<Record>,
    lost: Lost,
    /// The drops reported last.
    said: (Drops, Lost),
}

/// Error: the receiver of the records is gone.
struct Unwanted;

/// Time limit for a capture that was asked to stop to read the frames that came before. It reads them well before,
/// unless it is far behind.
const DRAIN_MAX: Duration = Duration::from_secs(10);

impl<W: Wire, C: Clock> Watcher<W, C> {
    fn run(mut self, end: &Sender<End>) {
        let error = self.watch().err();
        if error.is_some() {
            self.take_rest();
        }
        self.folding.end(&mut self.out);
        let _ = self.hand_over();
        let drops = self.wire.drops().unwrap_or(self.said.0);
        let _ = end.send(End {
            tally: self.wire.tally().clone(),
            drops,
            lost: self.lost,
            damaged: false,
            interrupted: self.interrupt.pressed(),
            error,
        });
    }

    fn watch(&mut self) -> Result<(), LiveError> {
        let mut report_at = self.clock.now() + REPORT;
        let mut link = Link { up: true, look_at: self.clock.now() };
        let mut measure_at = Duration::ZERO;
        // The time at which it was asked to stop: by the clock, and in milliseconds since 1970 as packets have it.
        let mut stop: Option<(Duration, u64)> = None;
        loop {
            self.wire.wait(LOOK)?;
            let (folding, out, mut latest_ms) = (&mut self.folding, &mut self.out, 0);
            let frames = self.wire.read(&mut |packet| {
                latest_ms = packet.time.ms;
                folding.add(record(packet), out);
            })?;
            let now = self.clock.now();
            self.folding.settle(now, &mut self.out);
            if self.hand_over().is_err() {
                return Ok(());
            }
            // The check precedes the metering: a capture whose interface is down is never ready, not even at first.
            if let Some(up) = link.look(frames, now, || self.wire.is_up()) {
                self.meter.link(up);
                match up {
                    true => self.messages.say("the interface is up again"),
                    false => self
                        .messages
                        .warn("the interface is down; it is captured again when it is up"),
                }
            }
            if now >= measure_at {
                measure_at = now + MEASURE;
                let drops = self.wire.drops()?;
                self.meter.taken(self.wire.tally(), drops, self.lost);
            }
            if now >= report_at {
                report_at = now + REPORT;
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
    fn take_rest(&mut self) {
        self.clock.pass(Duration::from_millis(2 * u64::from(BLOCK_MS)));
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

    /// Puts ready records into the queue. A batch that does not fit is counted and dropped: packets can't wait.
    fn hand_over(&mut self) -> Result<(), Unwanted> {
        for batch in self.out.chunks(BATCH) {
            match self.entrance.offer(batch.to_vec()) {
                Ok(()) => {}
                Err(Refused::Unwanted) => return Err(Unwanted),
                Err(Refused::Full) => {
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
        if self.said != (drops, self.lost) {
            self.said = (drops, self.lost);
            self.messages.say(dropped(drops, &self.lost));
        }
    }
}

/// The last known state of an interface, which is checked when no frames come.
struct Link {
    up: bool,
    look_at: Duration,
}

impl Link {
    /// Returns the new state if it has changed.
    fn look(&mut self, frames: usize, now: Duration, is_up: impl FnOnce() -> bool) -> Option<bool> {
        let quiet = frames == 0 && now >= self.look_at;
        if frames > 0 || quiet {
            self.look_at = now + QUIET;
        }
        let up = frames > 0 || if quiet { is_up() } else { self.up };
        let changed = up != self.up;
        self.up = up;
        changed.then_some(up)
    }
}

/// Describes the drops so far, and the options that help.
pub fn dropped(drops: Drops, lost: &Lost) -> String {
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
pub struct Reading<C> {
    /// The pace of packets; `None` reads as fast as possible.
    pub pace: Option<Pace>,
    /// The clock that the pace follows.
    pub clock: C,
    /// Whether each packet is forwarded at once, since the next one may be long in coming.
    pub one_by_one: bool,
    /// Capacity of the queue, in records.
    pub room: usize,
    /// Ends the reading.
    pub interrupt: Interrupt,
    /// The messages about long gaps.
    pub messages: Messages,
}

/// Reads captures on a thread of its own.
pub fn read<C: Clock + Send + 'static>(
    mut merge: Merge,
    reading: Reading<C>,
) -> std::io::Result<Source> {
    let (entrance, records) = queue(reading.room);
    let (send, end) = channel();
    let mut reader = FileReader { reading, entrance, batch: Vec::new() };
    std::thread::Builder::new().name("reader".into()).spawn(move || {
        let _ = reader.take_all(&mut merge);
        let interrupted = reader.reading.interrupt.pressed();
        let (tally, damaged) = (merge.tally(), merge.damaged());
        let _ = send.send(End { tally, damaged, interrupted, ..End::default() });
    })?;
    Ok(Source { records, end })
}

struct FileReader<C> {
    reading: Reading<C>,
    entrance: Entrance,
    batch: Vec<Record>,
}

/// Shortest wait that is reported.
const LONG_WAIT: Duration = Duration::from_secs(60);

impl<C: Clock> FileReader<C> {
    /// Reads until the captures end, the receiver is gone, or the user interrupts. Each packet that was read is
    /// forwarded.
    fn take_all(&mut self, merge: &mut Merge) -> Result<(), Unwanted> {
        let most = if self.reading.one_by_one { 1 } else { BATCH };
        while let Some(packet) = merge.next() {
            let due = self.wait_for(&packet)?;
            // The packet was read, and counted, so it is forwarded even if an interrupt ended the wait.
            self.batch.push(record(&packet));
            if !due {
                break;
            }
            if self.batch.len() >= most {
                self.flush()?;
                if self.reading.interrupt.pressed() {
                    break;
                }
            }
        }
        self.flush()
    }

    /// Waits until a packet is due. Returns false if an interrupt came before.
    fn wait_for(&mut self, packet: &Packet) -> Result<bool, Unwanted> {
        let Some(pace) = &mut self.reading.pace else { return Ok(true) };
        let mut now = self.reading.clock.now();
        let due = pace.due(packet.time, now);
        if due <= now {
            return Ok(true);
        }
        self.flush()?;
        let wait = due - now;
        if wait > LONG_WAIT {
            let (time, secs) = (format_ms(packet.time.ms), wait.as_secs());
            self.reading
                .messages
                .say(format!("the next packet is of {time}, which takes {secs} s at this speed"));
        }
        while now < due {
            if self.reading.interrupt.pressed() {
                return Ok(false);
            }
            self.reading.clock.pass(LOOK.min(due - now));
            now = self.reading.clock.now();
        }
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), Unwanted> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch.reserve(batch.len());
        self.entrance.push(batch).map_err(|_| Unwanted)
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
