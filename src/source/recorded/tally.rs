//! Counts of records.

use std::collections::BTreeMap;
use std::fmt;

use floodmark_dataflows::types::Volume;

/// Counts of messages and their records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordTally {
    /// Messages, or lines of files.
    pub messages: u64,
    /// The records in them that count.
    pub records: u64,
    /// Their bytes and packets.
    pub volume: Volume,
    /// Those that state bytes and no packets, and count as one packet.
    pub without_packets: u64,
    /// Those whose times are too far in the future for a window to end.
    pub without_window: u64,
    /// Records that are more than the bound ahead of the next one.
    pub strays: u64,
    /// Items that are no records on purpose, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Messages and records that can't be read, by reason.
    pub bad: BTreeMap<&'static str, u64>,
}

/// Records whose times are too far in the future for a window to end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WithoutWindow {
    pub(super) records: u64,
    pub(super) volume: Volume,
}

impl RecordTally {
    /// Counts a record.
    #[inline]
    pub(super) fn count(&mut self, volume: Volume) {
        self.records += 1;
        add(&mut self.volume, volume);
    }

    /// Leaves out records that were counted, since they are in no window.
    pub(super) fn leave_out(&mut self, left_out: WithoutWindow) {
        let WithoutWindow { records, volume } = left_out;
        self.without_window += records;
        self.records -= records;
        self.volume.bytes -= volume.bytes;
        self.volume.packets -= volume.packets;
    }

    pub(super) fn merge(&mut self, other: &RecordTally) {
        self.messages += other.messages;
        self.records += other.records;
        add(&mut self.volume, other.volume);
        self.without_packets += other.without_packets;
        self.without_window += other.without_window;
        self.strays += other.strays;
        for (sum, other) in [(&mut self.skipped, &other.skipped), (&mut self.bad, &other.bad)] {
            for (reason, count) in other {
                *sum.entry(reason).or_default() += count;
            }
        }
    }
}

impl fmt::Display for RecordTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecordTally { messages, records, volume, skipped, bad, .. } = self;
        write!(
            f,
            "counted {records} records of {messages} messages, {} bytes, {} packets",
            volume.bytes, volume.packets
        )?;
        if self.without_packets > 0 {
            let count = self.without_packets;
            write!(f, "; {count} records state no packets and count as 1 packet each")?;
        }
        let list = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect()
        };
        let skipped: Vec<String> = list(skipped);
        let mut not_counted: Vec<String> = list(bad);
        for (count, what) in [(self.strays, "stray"), (self.without_window, "in no window")] {
            not_counted.extend((count > 0).then(|| format!("{count} {what}")));
        }
        for (what, counts) in [("skipped", skipped), ("not counted", not_counted)] {
            if !counts.is_empty() {
                write!(f, "; {what}: {}", counts.join(", "))?;
            }
        }
        Ok(())
    }
}

/// Adds to a volume of which no more than the greatest number can be reported.
#[inline]
pub(super) fn add(sum: &mut Volume, volume: Volume) {
    sum.bytes = sum.bytes.saturating_add(volume.bytes);
    sum.packets = sum.packets.saturating_add(volume.packets);
}
