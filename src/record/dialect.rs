//! The field names of each tool that writes flow records, and the units of their times.

use super::context::Context;
use super::json::{Key, Object};
use super::message::{FlowAmounts, Format, Observation, Record};
use super::reason::{RecordError, Skip};
use super::time::{self, FieldTime};
use super::value;
use super::value::Unit;

/// The fields of a tool. Fields with several names are listed in the order of reading.
struct Dialect {
    /// Source and destination.
    pairs: &'static [(Key, Key)],
    /// Whether the tool writes the IPv4 address `a.b.c.d` as `::ffff:a.b.c.d`.
    mapped_ipv4: bool,
    bytes: Key,
    packets: Key,
    /// The sampling factor, by which bytes and packets are multiplied.
    sampling: Option<Key>,
    /// The times in the order of reading: ends, then arrivals, then starts.
    times: &'static [(Key, Unit)],
    /// Whether a time that was never set, such as one within a day of 1970, counts as absent.
    zero_is_absent: bool,
}

const JSON: Dialect = Dialect {
    pairs: &[(Key::Source, Key::Destination)],
    mapped_ipv4: false,
    bytes: Key::Bytes,
    packets: Key::Packets,
    sampling: None,
    times: &[(Key::Time, Unit::Milliseconds)],
    // Floodmark's own format has no unset times: 0 is a time.
    zero_is_absent: false,
};

const PMACCT: Dialect = Dialect {
    pairs: &[(Key::IpSrc, Key::IpDst)],
    mapped_ipv4: false,
    bytes: Key::Bytes,
    packets: Key::Packets,
    sampling: Some(Key::SamplingRate),
    times: &[
        (Key::TimestampEnd, Unit::Seconds),
        (Key::TimestampMax, Unit::Seconds),
        (Key::TimestampArrival, Unit::Seconds),
        (Key::TimestampStart, Unit::Seconds),
        (Key::TimestampMin, Unit::Seconds),
        // The start of the interval that pmacct summed up.
        (Key::StampInserted, Unit::Seconds),
    ],
    zero_is_absent: true,
};

const GOFLOW2: Dialect = Dialect {
    pairs: &[(Key::SrcAddr, Key::DstAddr)],
    mapped_ipv4: false,
    bytes: Key::Bytes,
    packets: Key::Packets,
    sampling: Some(Key::SamplingRate),
    times: &[
        (Key::TimeFlowEndNs, Unit::Nanoseconds),
        (Key::TimeFlowEndMs, Unit::Milliseconds),
        (Key::TimeFlowEnd, Unit::Seconds),
        (Key::TimeReceivedNs, Unit::Nanoseconds),
        (Key::TimeReceived, Unit::Seconds),
        (Key::TimeFlowStartNs, Unit::Nanoseconds),
        (Key::TimeFlowStartMs, Unit::Milliseconds),
        (Key::TimeFlowStart, Unit::Seconds),
    ],
    zero_is_absent: true,
};

/// The names of goflow2 before its version 2.
const GOFLOW2_CAMEL: Dialect = Dialect {
    pairs: &[(Key::CamelSrcAddr, Key::CamelDstAddr)],
    mapped_ipv4: false,
    bytes: Key::CamelBytes,
    packets: Key::CamelPackets,
    sampling: Some(Key::CamelSamplingRate),
    times: &[
        (Key::CamelTimeFlowEndMs, Unit::Milliseconds),
        (Key::CamelTimeFlowEnd, Unit::Seconds),
        (Key::CamelTimeReceived, Unit::Seconds),
        (Key::CamelTimeFlowStartMs, Unit::Milliseconds),
        (Key::CamelTimeFlowStart, Unit::Seconds),
    ],
    zero_is_absent: true,
};

const AKVORADO: Dialect = Dialect {
    pairs: &[(Key::CamelSrcAddr, Key::CamelDstAddr)],
    // akvorado stores every address in 16 bytes.
    mapped_ipv4: true,
    bytes: Key::CamelBytes,
    packets: Key::CamelPackets,
    sampling: Some(Key::CamelSamplingRate),
    times: &[(Key::CamelTimeReceived, Unit::Seconds)],
    zero_is_absent: true,
};

const NFDUMP: Dialect = Dialect {
    pairs: &[(Key::Src4Addr, Key::Dst4Addr), (Key::Src6Addr, Key::Dst6Addr)],
    mapped_ipv4: false,
    bytes: Key::InBytes,
    packets: Key::InPackets,
    // `sampled` means that the collector has already multiplied.
    sampling: None,
    times: &[
        (Key::Last, Unit::Seconds),
        (Key::TLast, Unit::Seconds),
        (Key::Received, Unit::Seconds),
        (Key::TReceived, Unit::Seconds),
        (Key::First, Unit::Seconds),
        (Key::TFirst, Unit::Seconds),
    ],
    zero_is_absent: true,
};

impl Context<'_> {
    /// Reads a flow record.
    pub(super) fn flow(&self, object: &Object<'_>, format: Format) -> Observation {
        let dialect = match format {
            Format::Pmacct => &PMACCT,
            Format::Goflow2 if object.raw(Key::CamelSrcAddr).is_some() => &GOFLOW2_CAMEL,
            Format::Goflow2 => &GOFLOW2,
            Format::Akvorado => &AKVORADO,
            Format::Nfdump => &NFDUMP,
            _ => &JSON,
        };
        self.record(object, dialect).unwrap_or_else(Observation::Bad)
    }

    fn record(&self, object: &Object<'_>, dialect: &Dialect) -> Result<Observation, RecordError> {
        let present = dialect.pairs.iter().find(|pair| object.raw(pair.0).is_some());
        let (source, destination) = *present.unwrap_or(&dialect.pairs[0]);
        let raw = |key: Key| object.raw(key).ok_or(RecordError::MissingField { field: key.name() });
        let (source_raw, destination_raw) = (raw(source)?, raw(destination)?);
        if is_no_address(source_raw) && is_no_address(destination_raw) {
            return Ok(Observation::Skipped(Skip::NotIp));
        }
        let pair = value::pair(
            value::address(source_raw, source.name())?,
            value::address(destination_raw, destination.name())?,
            dialect.mapped_ipv4,
        )?;
        let amounts = FlowAmounts {
            packets: amount(object, dialect.packets)?,
            bytes: amount(object, dialect.bytes)?,
        };
        let sampling = || dialect.sampling.map_or(Ok(None), |key| amount(object, key));
        let Some(volume) = amounts.volume(dialect.bytes.name(), sampling)? else {
            return Ok(Observation::Skipped(Skip::NoTraffic));
        };
        let record = Record { time_ms: self.event_time(object, dialect)?, pair, volume };
        Ok(amounts.observation(record))
    }

    fn event_time(&self, object: &Object<'_>, dialect: &Dialect) -> Result<u64, RecordError> {
        for (key, unit) in dialect.times {
            let Some(raw) = object.raw(*key) else {
                continue;
            };
            match time::read(raw, *unit, self.zone, dialect.zero_is_absent) {
                FieldTime::At(ms) => return Ok(ms),
                FieldTime::Absent => {}
                FieldTime::Bad(fault) => return Err(RecordError::bad_time(key.name(), raw, fault)),
            }
        }
        self.message.timestamp_ms.ok_or(RecordError::NoTime)
    }
}

/// Returns the number in a field; `None` if it is absent, or empty.
fn amount(object: &Object<'_>, key: Key) -> Result<Option<u64>, RecordError> {
    object.raw(key).map_or(Ok(None), |raw| value::amount(raw, key.name()))
}

/// Whether some tool writes this value for an absent address.
fn is_no_address(raw: &str) -> bool {
    matches!(raw, "null" | "\"\"" | "\"<nil>\"" | "\"invalid IP\"")
}
