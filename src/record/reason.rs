//! Why something in a message is no record.

/// Why an observation, or a whole message, can't be read.
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
    /// There is no packet in it.
    #[error("the record has no packets")]
    NoPackets,
    /// Its bytes or packets are beyond what one record can have.
    #[error("the record has more than 2^40 bytes or packets, sampling included")]
    TooLarge,
    /// Its time can't be read, is absent, or before 1970, or beyond 64 bits of milliseconds.
    #[error("the time is missing, unreadable, before 1970 or beyond 64 bits of milliseconds")]
    BadTime,
    /// Packed by a version that this program does not know.
    #[error("packed records of version {version} are not known; update floodmark")]
    PackedVersion {
        /// The version found.
        version: u8,
    },
    /// The length of packed records is not what their header says.
    #[error("packed records whose length does not fit their header")]
    PackedLength,
    /// Packed records were changed on their way.
    #[error("packed records whose checksum does not fit")]
    PackedChecksum,
}

impl Reason {
    /// Every label, to declare metrics.
    pub const LABELS: [&'static str; 16] = [
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
        "no_packets",
        "too_large",
        "bad_time",
        "packed_version",
        "packed_length",
        "packed_checksum",
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
            Reason::BadTime => "bad_time",
            Reason::PackedVersion { .. } => "packed_version",
            Reason::PackedLength => "packed_length",
            Reason::PackedChecksum => "packed_checksum",
        }
    }
}

/// Why an observation is rightly no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skip {
    /// It tells that a tool begins or ends to write out its records (pmacct).
    Purge,
    /// It tells a database where to put the next one (tshark for Elasticsearch).
    Index,
    /// It is about a frame or flow without IP addresses.
    NotIp,
}

impl Skip {
    /// A name for metrics. It does not change between versions.
    pub fn as_str(self) -> &'static str {
        match self {
            Skip::Purge => "purge",
            Skip::Index => "index",
            Skip::NotIp => "not_ip",
        }
    }
}
