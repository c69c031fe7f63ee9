//! Reasons why something in a message is no record.

use std::fmt;

use super::bounds::RECORDS_MAX;
use crate::base::quote::Shown;

/// The reason why an observation, or a whole message, can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Reason {
    /// There is nothing in it.
    #[error("the message is empty")]
    Empty,
    /// It is of no format that is read.
    #[error("the message is of no known format; docs/records.md lists those that are read")]
    UnknownFormat,
    /// It has the marks of several formats.
    #[error(
        "the fields are those of several formats, or of packets within packets without their order"
    )]
    Ambiguous,
    /// It is neither text nor packed.
    #[error("the message is neither packed records nor UTF-8 text")]
    NotUtf8,
    /// It begins as JSON and is none.
    #[error("the JSON is broken")]
    Json,
    /// A field that every record needs is absent.
    #[error("the field \"{field}\" is missing")]
    MissingField {
        /// The name of the field.
        field: &'static str,
    },
    /// A field occurs twice, so that it can't be told which one counts.
    #[error("the field \"{field}\" occurs more than once")]
    RepeatedField {
        /// The name of the field.
        field: &'static str,
    },
    /// A source or destination is no address.
    #[error("the field \"{field}\" is not an IP address")]
    BadAddress {
        /// The name of the field.
        field: &'static str,
    },
    /// Source and destination are of different families.
    #[error("source and destination are of different address families")]
    MixedFamily,
    /// An amount is no whole number, or negative.
    #[error("the field \"{field}\" is not a whole number of zero or more")]
    BadNumber {
        /// The name of the field.
        field: &'static str,
    },
    /// A record that is to be written has no packet in it; every record that is read has one.
    #[error("the record has no packets")]
    NoPackets,
    /// Its bytes or packets are beyond what one record can have.
    #[error("the record has more than 2^40 bytes or packets, sampling included")]
    TooLarge,
    /// The first of its times that is present can't be used.
    #[error("the time {value} of the field \"{field}\" {fault}")]
    BadTime {
        /// The name of the field.
        field: &'static str,
        /// The beginning of its value.
        value: Excerpt,
        /// The reason why it can't be used.
        fault: TimeFault,
    },
    /// It has no time, and neither has its message.
    #[error("the record has no time, and neither has its message")]
    NoTime,
    /// It is output of this program itself, and no record.
    #[error("it is one of the {kind} that floodmark itself writes, and no record")]
    OwnOutput {
        /// The kind of output, in the plural.
        kind: &'static str,
    },
    /// Packed by a version that this program does not know.
    #[error("packed records of version {version} are not known; update floodmark")]
    PackedVersion {
        /// The version found.
        version: u8,
    },
    /// The length of packed records does not fit their header.
    #[error("packed records whose length does not fit their header")]
    PackedLength,
    /// Packed records were changed on their way.
    #[error("packed records whose checksum does not fit")]
    PackedChecksum,
    /// It holds more records than one message may.
    #[error(
        "the message has more than {RECORDS_MAX} records: the first {RECORDS_MAX} count; write more and smaller \
         messages"
    )]
    TooManyRecords,
}

impl Reason {
    /// Every label of a reason, to declare metrics.
    pub const LABELS: [&'static str; 17] = [
        "empty",
        "unknown_format",
        "ambiguous",
        "not_utf8",
        "json",
        "missing_field",
        "repeated_field",
        "bad_address",
        "mixed_family",
        "bad_number",
        "too_large",
        "bad_time",
        "own_output",
        "packed_version",
        "packed_length",
        "packed_checksum",
        "too_many_records",
    ];

    /// A name for metrics. It does not change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Empty => "empty",
            Reason::UnknownFormat => "unknown_format",
            Reason::Ambiguous => "ambiguous",
            Reason::NotUtf8 => "not_utf8",
            Reason::Json => "json",
            Reason::MissingField { .. } => "missing_field",
            Reason::RepeatedField { .. } => "repeated_field",
            Reason::BadAddress { .. } => "bad_address",
            Reason::MixedFamily => "mixed_family",
            Reason::BadNumber { .. } => "bad_number",
            Reason::NoPackets => "no_packets",
            Reason::TooLarge => "too_large",
            Reason::BadTime { .. } | Reason::NoTime => "bad_time",
            Reason::OwnOutput { .. } => "own_output",
            Reason::PackedVersion { .. } => "packed_version",
            Reason::PackedLength => "packed_length",
            Reason::PackedChecksum => "packed_checksum",
            Reason::TooManyRecords => "too_many_records",
        }
    }
}

/// The reason why an observation is rightly no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skip {
    /// A mark of pmacct that it begins or ends to write out its records.
    Purge,
    /// A line that tells Elasticsearch where to put the next one (tshark).
    Index,
    /// It is about a frame or flow without IP addresses.
    NotIp,
    /// A flow of 0 bytes and 0 packets.
    NoTraffic,
    /// A message without a value: a compacted topic forgets its key (Kafka), or null written as JSON.
    Tombstone,
}

impl Skip {
    /// Every reason to skip, to declare metrics.
    pub const ALL: [Skip; 5] =
        [Skip::Purge, Skip::Index, Skip::NotIp, Skip::NoTraffic, Skip::Tombstone];

    /// A name for metrics. It does not change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            Skip::Purge => "purge",
            Skip::Index => "index",
            Skip::NotIp => "not_ip",
            Skip::NoTraffic => "no_traffic",
            Skip::Tombstone => "tombstone",
        }
    }
}

/// The reason why a time can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeFault {
    /// It is of no form that is read, or in no calendar.
    Unreadable,
    /// It is before 1970, or beyond 64 bits of milliseconds.
    OutOfRange,
}

impl fmt::Display for TimeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimeFault::Unreadable => "is neither a number nor a date and time",
            TimeFault::OutOfRange => "is before 1970 or beyond 64 bits of milliseconds",
        })
    }
}

/// The beginning of a value that came in a message, for an error that names it. It is displayed in
/// quotes and escaped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Excerpt {
    bytes: [u8; Excerpt::BYTES_MAX],
    length: u8,
    cut: bool,
}

impl Excerpt {
    /// The most bytes of a value that are kept: a date and time with nanoseconds and an offset fits.
    const BYTES_MAX: usize = 38;

    /// The beginning of a text, cut between two characters.
    pub(super) fn of(text: &str) -> Self {
        let length = text.floor_char_boundary(Excerpt::BYTES_MAX);
        let mut bytes = [0; Excerpt::BYTES_MAX];
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Excerpt { bytes, length: length as u8, cut: length < text.len() }
    }

    fn text(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.length)];
        str::from_utf8(bytes).expect("it was cut between two characters")
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}{}\"", Shown(self.text()), if self.cut { "…" } else { "" })
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_of_a_long_or_hostile_value_is_bounded_and_escaped() {
        let shown = |text: &str| Excerpt::of(text).to_string();
        assert_eq!(shown("2018-03-26 05:40"), "\"2018-03-26 05:40\"");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a\u{1b}[31m\n\u{9b}\u{202e}\""), r#""a\u{1b}[31m\n\u{9b}\u{202e}\"""#);
        assert_eq!(shown(&"9".repeat(1 << 20)), format!("\"{}…\"", "9".repeat(38)));
        // Never half a character.
        for shift in 0..4 {
            let text = "x".repeat(shift) + &"→".repeat(30);
            assert!(shown(&text).ends_with("→…\""), "{shift}");
        }
    }
}
