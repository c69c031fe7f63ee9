//! Errors of records and messages, and reasons to skip an observation.

use std::fmt;

use super::bounds::RECORDS_MAX;
use crate::base::quote::Shown;

/// The error of an observation, or of a whole message, that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum RecordError {
    /// The message is empty.
    #[error("the message is empty")]
    Empty,
    /// The message is in no supported format.
    #[error("the message is in no known format; docs/records.md lists the supported ones")]
    UnknownFormat,
    /// The message has marks of several formats.
    #[error(
        "the message has fields of several formats, or addresses of IPv4 and IPv6 without \"frame.protocols\" for \
         their order"
    )]
    Ambiguous,
    /// The message is neither text nor packed.
    #[error("the message is neither packed records nor UTF-8 text")]
    NotUtf8,
    /// The message begins as JSON, and is not valid.
    #[error("the JSON is broken")]
    Json,
    /// A field that every record needs is absent.
    #[error("the field \"{field}\" is missing")]
    MissingField {
        /// The name of the field.
        field: &'static str,
    },
    /// A field occurs more than once, so that its value is ambiguous.
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
    /// A record to be written has no packets.
    #[error("the record has no packets")]
    NoPackets,
    /// The bytes or packets are more than one record can have.
    #[error("the record has more than 2^40 bytes or packets, sampling included")]
    TooLarge,
    /// The first time field that is present can't be used.
    #[error("the time {value} of the field \"{field}\" {fault}")]
    BadTime {
        /// The name of the field.
        field: &'static str,
        /// The beginning of its value.
        value: Excerpt,
        /// The reason why it can't be used.
        fault: TimeFault,
    },
    /// Neither the record nor its message has a time.
    #[error("the record has no time, and neither has its message")]
    NoTime,
    /// The message is output of floodmark, and no record.
    #[error("the message is output of floodmark, and no record: {kind}")]
    OwnOutput {
        /// The kind of output, in the plural.
        kind: &'static str,
    },
    /// The packed records have a version that is not supported.
    #[error("packed records of version {version} are not supported; update floodmark")]
    PackedVersion {
        /// The version found.
        version: u8,
    },
    /// The length of packed records does not fit their header.
    #[error("the length of the packed records does not match their header")]
    PackedLength,
    /// Packed records were damaged in transit.
    #[error("the checksum of the packed records does not match")]
    PackedChecksum,
    /// The message has more than [`RECORDS_MAX`] records.
    #[error(
        "the message has more than {RECORDS_MAX} records: the first {RECORDS_MAX} count; write more and smaller \
         messages"
    )]
    TooManyRecords,
}

impl RecordError {
    /// Every label, to declare metrics.
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

    /// Returns the name for metrics. It does not change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            RecordError::Empty => "empty",
            RecordError::UnknownFormat => "unknown_format",
            RecordError::Ambiguous => "ambiguous",
            RecordError::NotUtf8 => "not_utf8",
            RecordError::Json => "json",
            RecordError::MissingField { .. } => "missing_field",
            RecordError::RepeatedField { .. } => "repeated_field",
            RecordError::BadAddress { .. } => "bad_address",
            RecordError::MixedFamily => "mixed_family",
            RecordError::BadNumber { .. } => "bad_number",
            RecordError::NoPackets => "no_packets",
            RecordError::TooLarge => "too_large",
            RecordError::BadTime { .. } | RecordError::NoTime => "bad_time",
            RecordError::OwnOutput { .. } => "own_output",
            RecordError::PackedVersion { .. } => "packed_version",
            RecordError::PackedLength => "packed_length",
            RecordError::PackedChecksum => "packed_checksum",
            RecordError::TooManyRecords => "too_many_records",
        }
    }
}

/// The reason why an observation is skipped without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skip {
    /// A mark of pmacct at the start or end of its records.
    Purge,
    /// A line of tshark that gives Elasticsearch the index of the next line.
    Index,
    /// A frame or flow without IP addresses.
    NotIp,
    /// A flow of 0 bytes and 0 packets.
    NoTraffic,
    /// A message without a value, which deletes its key from a compacted topic; or null as JSON.
    Tombstone,
}

impl Skip {
    /// Every reason to skip, to declare metrics.
    pub const ALL: [Skip; 5] =
        [Skip::Purge, Skip::Index, Skip::NotIp, Skip::NoTraffic, Skip::Tombstone];

    /// Returns the name for metrics. It does not change between versions.
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
    /// It has no supported form, or is not in the calendar.
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

/// The beginning of a value of a message, for an error text. It is displayed in quotes and escaped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Excerpt {
    bytes: [u8; Excerpt::BYTES_MAX],
    length: u8,
    cut: bool,
}

impl Excerpt {
    /// Maximum number of bytes of an excerpt: a date and time with nanoseconds and an offset fits.
    const BYTES_MAX: usize = 38;

    /// Creates the excerpt of a text, cut between two characters.
    pub(super) fn new(text: &str) -> Self {
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
        let shown = |text: &str| Excerpt::new(text).to_string();
        assert_eq!(shown("2018-03-26 05:40"), "\"2018-03-26 05:40\"");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a\u{1b}[31m\n\u{9b}\u{202e}\""), r#""a\u{1b}[31m\n\u{9b}\u{202e}\"""#);
        assert_eq!(shown(&"9".repeat(1 << 20)), format!("\"{}…\"", "9".repeat(38)));
        // The cut is between two characters.
        for shift in 0..4 {
            let text = "x".repeat(shift) + &"→".repeat(30);
            assert!(shown(&text).ends_with("→…\""), "{shift}");
        }
    }
}
