//! The field names of each tool that writes flow records, and the units of their times.

use super::context::Context;
use super::json::{Key, Object};
use super::message;
use super::message::{Format, Read, Record};
use super::reason::{Reason, Skip};
use super::time::{self, Time};
use super::value;
use super::value::Unit;

/// The fields of a tool. Where the names of a field have changed over time, they are listed in the order in
/// which they are read.
struct Dialect {
    /// Source and destination.
    pairs: &'static [(Key, Key)],
    /// Whether an address `::ffff:a.b.c.d` is how the tool writes the IPv4 address in it.
    mapped: bool,
    bytes: Key,
    packets: Key,
    /// The factor of sampling, by which bytes and packets are multiplied.
    sampling: Option<Key>,
    /// Ends, then arrivals, then starts.
    times: &'static [(Key, Unit)],
    /// Whether a time that was never set, such as one within a day of 1970, counts as absent.
    zero_is_none: bool,
}

const JSON: Dialect = Dialect {
    pairs: &[(Key::Source, Key::Destination)],
    mapped: false,
    bytes: Key::Bytes,
    packets: Key::Packets,
    sampling: None,
    times: &[(Key::Time, Unit::Milliseconds)],
    // It is our own format: a time of zero is meant.
    zero_is_none: false,
};

const PMACCT: Dialect = Dialect {
    pairs: &[(Key::IpSrc, Key::IpDst)],
    mapped: false,
    bytes: Key::Bytes,
    packets: Key::Packets,
    sampling: Some(Key::SamplingRate),
    times: &[
        (Key::TimestampEnd, Unit::Seconds),
        (Key::TimestampMax, Unit::Seconds),
        (Key::TimestampArrival, Unit::Seconds),
        (Key::TimestampStart, Unit::Seconds),
        (Key::TimestampMin, Unit::Seconds),
        // The start of the interval over which pmacct added up.
        (Key::StampInserted, Unit::Seconds),
    ],
    zero_is_none: true,
};

const GOFLOW2: Dialect = Dialect {
    pairs: &[(Key::SrcAddr, Key::DstAddr)],
    mapped: false,
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
    zero_is_none: true,
};

/// The names of goflow2 before its version 2.
const GOFLOW2_CAMEL: Dialect = Dialect {
    pairs: &[(Key::CamelSrcAddr, Key::CamelDstAddr)],
    mapped: false,
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
    zero_is_none: true,
};

const AKVORADO: Dialect = Dialect {
    pairs: &[(Key::CamelSrcAddr, Key::CamelDstAddr)],
    // akvorado keeps every address in 16 bytes.
    mapped: true,
    bytes: Key::CamelBytes,
    packets: Key::CamelPackets,
    sampling: Some(Key::CamelSamplingRate),
    times: &[(Key::CamelTimeReceived, Unit::Seconds)],
    zero_is_none: true,
};

const NFDUMP: Dialect = Dialect {
    pairs: &[(Key::Src4Addr, Key::Dst4Addr), (Key::Src6Addr, Key::Dst6Addr)],
    mapped: false,
    bytes: Key::InBytes,
    packets: Key::InPackets,
    // `sampled` says that the collector has already multiplied.
    sampling: None,
    times: &[
        (Key::Last, Unit::Seconds),
        (Key::TLast, Unit::Seconds),
        (Key::Received, Unit::Seconds),
        (Key::TReceived, Unit::Seconds),
        (Key::First, Unit::Seconds),
        (Key::TFirst, Unit::Seconds),
    ],
    zero_is_none: true,
};

impl Context<'_> {
    /// Reads a flow record.
    pub(super) fn flow(&self, object: &Object<'_>, format: Format) -> Read {
        let dialect = match format {
            Format::Pmacct => &PMACCT,
            Format::Goflow2 if object.raw(Key::CamelSrcAddr).is_some() => &GOFLOW2_CAMEL,
            Format::Goflow2 => &GOFLOW2,
            Format::Akvorado => &AKVORADO,
            Format::Nfdump => &NFDUMP,
            _ => &JSON,
        };
        self.record(object, dialect).unwrap_or_else(Read::Bad)
    }

    fn record(&self, object: &Object<'_>, dialect: &Dialect) -> Result<Read, Reason> {
        let given = dialect.pairs.iter().find(|pair| object.raw(pair.0).is_some());
        let (source, destination) = *given.unwrap_or(&dialect.pairs[0]);
        let raw = |key: Key| object.raw(key).ok_or(Reason::MissingField { field: key.name() });
        let (source_raw, destination_raw) = (raw(source)?, raw(destination)?);
        if no_address(source_raw) && no_address(destination_raw) {
            return Ok(Read::Skipped(Skip::NotIp));
        }
        let pair = value::pair(
            value::address(source_raw, source.name())?,
            value::address(destination_raw, destination.name())?,
            dialect.mapped,
        )?;
        // Tools write 0 where they have no number of packets, and firewalls leave it out.
        let packets = amount(object, dialect.packets)?.filter(|packets| *packets > 0);
        let missing = Reason::MissingField { field: dialect.bytes.name() };
        let bytes = match (amount(object, dialect.bytes)?, packets) {
            (Some(0), None) => return Ok(Read::Skipped(Skip::NoTraffic)),
            (bytes, _) => bytes.ok_or(missing)?,
        };
        let rate = match dialect.sampling {
            Some(key) => amount(object, key)?.unwrap_or(1),
            None => 1,
        };
        // Tools write 0 where nothing was sampled, or the rate is unknown.
        let rate = rate.max(1);
        let times = |amount: u64| amount.checked_mul(rate).ok_or(Reason::TooLarge);
        let volume = message::volume(times(bytes)?, packets.map_or(Ok(1), times)?)?;
        let record = Record { time_ms: self.event_time(object, dialect)?, pair, volume };
        Ok(match packets {
            Some(_) => Read::Record(record),
            None => Read::WithoutPackets(record),
        })
    }

    fn event_time(&self, object: &Object<'_>, dialect: &Dialect) -> Result<u64, Reason> {
        for (key, unit) in dialect.times {
            let Some(raw) = object.raw(*key) else {
                continue;
            };
            match time::read(raw, *unit, self.zone, dialect.zero_is_none) {
                Time::At(ms) => return Ok(ms),
                Time::Absent => {}
                Time::Bad(fault) => return Err(Reason::bad_time(key.name(), raw, fault)),
            }
        }
        self.message.timestamp_ms.ok_or(Reason::NoTime)
    }
}

/// Returns the number in a field; `None` if it is absent, or empty.
fn amount(object: &Object<'_>, key: Key) -> Result<Option<u64>, Reason> {
    object.raw(key).map_or(Ok(None), |raw| value::amount(raw, key.name()))
}

/// Whether a value stands for "no address" in some tool.
fn no_address(raw: &str) -> bool {
    matches!(raw, "null" | "\"\"" | "\"<nil>\"" | "\"invalid IP\"")
}
