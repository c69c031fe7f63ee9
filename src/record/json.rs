//! JSON: reads a text as objects, and recognizes the tool that wrote each object. Each object is parsed once,
//! and of its values only those are kept that some tool's format needs, as their JSON texts.

use std::fmt;

use floodmark_dataflows::types::Pair;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::context::{Context, Wrapping};
use super::kv;
use super::message::{Format, Read, Record};
use super::reason::{Reason, Skip};
use super::sink::{Sink, Take};
use super::value::{self, BLANKS};
use crate::base::date::format_ms;

macro_rules! keys {
    ($($key:ident = $name:literal,)*) => {
        /// The keys that some tool has a use for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Key { $($key,)* }

        impl Key {
            const ALL: [(&'static str, Key); Key::COUNT] = [$(($name, Key::$key),)*];
            const COUNT: usize = [$($name,)*].len();

            /// The key as it is written.
            pub(super) fn name(self) -> &'static str {
                match self { $(Key::$key => $name,)* }
            }
        }
    };
}

keys! {
    // Our own; pmacct and goflow2 have the same amounts.
    Time = "time",
    Source = "source",
    Destination = "destination",
    Bytes = "bytes",
    Packets = "packets",
    // pmacct.
    EventType = "event_type",
    IpSrc = "ip_src",
    IpDst = "ip_dst",
    SamplingRate = "sampling_rate",
    TimestampEnd = "timestamp_end",
    TimestampMax = "timestamp_max",
    TimestampArrival = "timestamp_arrival",
    TimestampStart = "timestamp_start",
    TimestampMin = "timestamp_min",
    StampInserted = "stamp_inserted",
    // goflow2.
    SrcAddr = "src_addr",
    DstAddr = "dst_addr",
    TimeFlowEndNs = "time_flow_end_ns",
    TimeFlowEndMs = "time_flow_end_ms",
    TimeFlowEnd = "time_flow_end",
    TimeReceivedNs = "time_received_ns",
    TimeReceived = "time_received",
    TimeFlowStartNs = "time_flow_start_ns",
    TimeFlowStartMs = "time_flow_start_ms",
    TimeFlowStart = "time_flow_start",
    // goflow2 before version 2, and akvorado.
    CamelSrcAddr = "SrcAddr",
    CamelDstAddr = "DstAddr",
    CamelBytes = "Bytes",
    CamelPackets = "Packets",
    CamelSamplingRate = "SamplingRate",
    CamelTimeReceived = "TimeReceived",
    CamelTimeFlowEnd = "TimeFlowEnd",
    CamelTimeFlowEndMs = "TimeFlowEndMs",
    CamelTimeFlowStart = "TimeFlowStart",
    CamelTimeFlowStartMs = "TimeFlowStartMs",
    CamelSamplerAddress = "SamplerAddress",
    // nfdump.
    Src4Addr = "src4_addr",
    Dst4Addr = "dst4_addr",
    Src6Addr = "src6_addr",
    Dst6Addr = "dst6_addr",
    InBytes = "in_bytes",
    InPackets = "in_packets",
    Last = "last",
    Received = "received",
    First = "first",
    TLast = "t_last",
    TReceived = "t_received",
    TFirst = "t_first",
    // tshark.
    SourceDocument = "_source",
    Layers = "layers",
    Timestamp = "timestamp",
    Index = "index",
    // Kafka Connect.
    Payload = "payload",
    // Fields of this program's outputs that are no records.
    WindowStart = "window_start",
    WindowEnd = "window_end",
    AsOf = "as_of",
    LimitName = "limit_name",
    Top = "top",
}

/// Longer than every key.
const LENGTHS: usize = 24;

/// The keys in the order of their lengths, and the position at which those of each length begin: most keys of a
/// flow record are of no use, and must be recognized as such at once.
const BY_LENGTH: ([(&str, Key); Key::COUNT], [usize; LENGTHS + 1]) = {
    let mut keys = Key::ALL;
    let mut starts = [0; LENGTHS + 1];
    let (mut next, mut length) = (0, 0);
    while length < LENGTHS {
        starts[length] = next;
        let mut at = 0;
        while at < Key::COUNT {
            if Key::ALL[at].0.len() == length {
                keys[next] = Key::ALL[at];
                next += 1;
            }
            at += 1;
        }
        length += 1;
    }
    assert!(next == Key::COUNT);
    starts[LENGTHS] = next;
    (keys, starts)
};

impl Key {
    /// Whether tools have a single value under this key, not an object.
    fn is_scalar(self) -> bool {
        !matches!(self, Key::SourceDocument | Key::Layers | Key::Index | Key::Payload)
    }

    fn of(name: &str) -> Option<Key> {
        static KEYS: [(&str, Key); Key::COUNT] = BY_LENGTH.0;
        static STARTS: [usize; LENGTHS + 1] = BY_LENGTH.1;
        let (start, end) = (STARTS.get(name.len())?, STARTS.get(name.len() + 1)?);
        KEYS[*start..*end].iter().find(|(key, _)| *key == name).map(|(_, key)| *key)
    }
}

/// The values of an object that some tool has a use for.
pub(super) struct Object<'a> {
    values: [Option<&'a str>; Key::COUNT],
    repeated: Option<Key>,
}

impl<'a> Object<'a> {
    /// Returns the value of a key, as its JSON text.
    pub(super) fn raw(&self, key: Key) -> Option<&'a str> {
        self.values[key as usize]
    }

    fn any(&self, keys: &[Key]) -> bool {
        keys.iter().any(|key| self.raw(*key).is_some())
    }

    /// Returns the format of the object, by the keys that only one tool has.
    fn told(&self) -> Result<Told, Reason> {
        const SIGNS: [(Told, &[Key]); 7] = [
            (Told::Format(Format::TsharkJson), &[Key::SourceDocument]),
            (Told::Format(Format::TsharkEk), &[Key::Layers]),
            (
                Told::Format(Format::Nfdump),
                &[Key::Src4Addr, Key::Dst4Addr, Key::Src6Addr, Key::Dst6Addr],
            ),
            (Told::Format(Format::Akvorado), &[Key::CamelSrcAddr, Key::CamelDstAddr]),
            (Told::Format(Format::Goflow2), &[Key::SrcAddr, Key::DstAddr]),
            (Told::Format(Format::Pmacct), &[Key::IpSrc, Key::IpDst]),
            (Told::Envelope, &[Key::Payload]),
        ];
        let mut told = None;
        for (mark, keys) in SIGNS {
            if self.any(keys) && told.replace(mark).is_some() {
                return Err(Reason::Ambiguous);
            }
        }
        if told.is_none()
            && let Some(kind) = self.own_output()
        {
            return Err(Reason::OwnOutput { kind });
        }
        // Both words are common: they count only together, and next to no other mark.
        if self.raw(Key::Source).is_some()
            && self.raw(Key::Destination).is_some()
            && told.replace(Told::Format(Format::Json)).is_some()
        {
            return Err(Reason::Ambiguous);
        }
        const CAMEL_GOFLOW: [Key; 5] = [
            Key::CamelTimeFlowEnd,
            Key::CamelTimeFlowEndMs,
            Key::CamelTimeFlowStart,
            Key::CamelTimeFlowStartMs,
            Key::CamelSamplerAddress,
        ];
        match told {
            Some(Told::Format(Format::Akvorado)) if self.any(&CAMEL_GOFLOW) => {
                Ok(Told::Format(Format::Goflow2))
            }
            Some(told) => Ok(told),
            None if self.purge_event().is_some() => Ok(Told::Format(Format::Pmacct)),
            None if self.raw(Key::Index).is_some() => Ok(Told::Format(Format::TsharkEk)),
            None if self.any(&[Key::Source, Key::Destination])
                && self.any(&[Key::Bytes, Key::Packets]) =>
            {
                Ok(Told::Format(Format::Json))
            }
            None => Err(Reason::UnknownFormat),
        }
    }

    /// Returns the kind of output of this program that the object is, if it is any. Totals look like records
    /// without a time.
    fn own_output(&self) -> Option<&'static str> {
        self.raw(Key::WindowStart)?;
        match () {
            () if self.raw(Key::Time).is_some() => None,
            () if self.any(&[Key::Top]) && !self.any(&[Key::Source]) => Some(RANKINGS),
            () if self.raw(Key::AsOf).is_none() => None,
            () if self.raw(Key::LimitName).is_some() => Some(CHANGES),
            () if self.raw(Key::WindowEnd).is_some() => Some(TOTALS),
            () => None,
        }
    }

    /// Returns pmacct's kind of record, if it is a known one.
    fn purge_event(&self) -> Option<Purge> {
        match self.raw(Key::EventType)? {
            "\"purge\"" => Some(Purge::Record),
            "\"purge_init\"" | "\"purge_close\"" => Some(Purge::Mark),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purge {
    Record,
    Mark,
}

/// The kinds of output of this program, with the options that write them.
const TOTALS: &str = "totals of windows (--publish)";
const CHANGES: &str = "changes of violations (--to)";
const RANKINGS: &str = "rankings (--top)";

/// The format of an object, or that it is an envelope of Kafka Connect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Format(Format),
    Envelope,
}

impl Context<'_> {
    /// Reads one JSON value after another, each on its own: a broken one does not take the next line
    /// with it.
    pub(super) fn json<T: Take>(&self, text: &str, wrapping: Wrapping, sink: &mut Sink<'_, T>) {
        let mut rest = text;
        while !rest.is_empty() {
            let mut reader = serde_json::Deserializer::from_str(rest);
            let value = Value { context: self, wrapping, elements: rest.starts_with('['), sink };
            let next = match value.deserialize(&mut reader) {
                Ok(()) => match reader.end() {
                    Ok(()) => return,
                    Err(error) => Some(place(rest, &error)),
                },
                Err(error) => {
                    sink.untold(Reason::Json);
                    line_after(rest, place(rest, &error))
                }
            };
            // Each round drops at least one byte, or all that is left, so the loop ends.
            let next = next.filter(|next| *next > 0).and_then(|next| rest.get(next..));
            rest = next.unwrap_or_default().trim_start_matches(BLANKS);
        }
    }

    /// Reads an object; `source` is its JSON text, if the receiver needs it.
    fn object<T: Take>(
        &self,
        object: &Object<'_>,
        source: Option<&str>,
        wrapping: Wrapping,
        sink: &mut Sink<'_, T>,
    ) {
        match object.told() {
            Err(reason) => sink.untold(reason),
            Ok(Told::Format(format)) => sink.told(format, self.read(object, format), source),
            Ok(Told::Envelope) if wrapping == Wrapping::Opened => {
                sink.untold(Reason::UnknownFormat)
            }
            Ok(Told::Envelope) => self.envelope(object.raw(Key::Payload).unwrap_or_default(), sink),
        }
    }

    /// Reads the payload of an envelope of Kafka Connect.
    fn envelope<T: Take>(&self, payload: &str, sink: &mut Sink<'_, T>) {
        match payload.as_bytes().first() {
            Some(b'"') => match value::text(payload) {
                Some(inner) => self.text(&inner, Wrapping::Opened, sink),
                None => sink.untold(Reason::Json),
            },
            Some(b'n') | None => sink.skip(Skip::Tombstone),
            _ => self.text(payload, Wrapping::Opened, sink),
        }
    }

    fn read(&self, object: &Object<'_>, format: Format) -> Read {
        if let Some(key) = object.repeated {
            return Read::Bad(Reason::RepeatedField { field: key.name() });
        }
        match format {
            Format::Pmacct if object.purge_event() == Some(Purge::Mark) => {
                Read::Skipped(Skip::Purge)
            }
            Format::TsharkJson => self.tshark_json(object),
            Format::TsharkEk => self.tshark_ek(object),
            _ => self.flow(object, format),
        }
    }
}

/// Returns the place at which reading stopped, in bytes from the start.
fn place(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1)
}

/// Returns the start of the line that may be read after an error at this place; `None` if there is none.
fn line_after(text: &str, place: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let place = place.min(bytes.len());
    let start = bytes[..place].iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
    let blank = |start: &usize| bytes[*start..place].iter().all(u8::is_ascii_whitespace);
    start.filter(blank).or_else(|| {
        let end = bytes[place..].iter().position(|byte| *byte == b'\n')?;
        Some(place + end + 1)
    })
}

/// Reads a value: an object, or an array of them.
struct Value<'c, 's, 't, T> {
    context: &'c Context<'c>,
    wrapping: Wrapping,
    /// Whether this is an array, to be taken element by element.
    elements: bool,
    sink: &'s mut Sink<'t, T>,
}

impl<'de, T: Take> DeserializeSeed<'de> for Value<'_, '_, '_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        if self.elements || !T::SOURCES {
            return reader.deserialize_any(self);
        }
        // The value is read to its end for its text, and then parsed.
        let raw = <&RawValue>::deserialize(reader)?.get();
        if !raw.starts_with('{') {
            self.sink.untold(Reason::UnknownFormat);
            return Ok(());
        }
        let object = cut_object(raw).ok_or_else(|| Error::custom("a key with half a character"))?;
        self.context.object(&object, Some(raw), self.wrapping, self.sink);
        Ok(())
    }
}

impl<'de, T: Take> Visitor<'de> for Value<'_, '_, '_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let object = gather(map)?;
        self.context.object(&object, None, self.wrapping, self.sink);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let Value { context, wrapping, elements, sink } = self;
        if !elements {
            while array.next_element::<IgnoredAny>()?.is_some() {}
            sink.untold(Reason::UnknownFormat);
            return Ok(());
        }
        loop {
            let element = Value { context, wrapping, elements: false, sink: &mut *sink };
            if array.next_element_seed(element)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.neither()
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.neither()
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.neither()
    }

    // serde_json visits numbers as these or, with all their digits, as an object with one key.
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.neither()
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.neither()
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.neither()
    }
}

impl<T: Take> Value<'_, '_, '_, T> {
    /// Rejects a value that is neither an object nor an array of objects.
    fn neither<E>(self) -> Result<(), E> {
        self.sink.untold(Reason::UnknownFormat);
        Ok(())
    }
}

fn gather<'de, A: MapAccess<'de>>(mut map: A) -> Result<Object<'de>, A::Error> {
    let mut object = Object { values: [None; Key::COUNT], repeated: None };
    while let Some(Name(key)) = map.next_key()? {
        let Some(key) = key else {
            map.next_value::<IgnoredAny>()?;
            continue;
        };
        let raw = map.next_value::<&'de RawValue>()?.get();
        let raw = if raw.starts_with('{') && key.is_scalar() { value::of_union(raw) } else { raw };
        if object.values[key as usize].replace(raw).is_some() {
            object.repeated = Some(key);
        }
    }
    Ok(object)
}

/// The object of a text that was cut out of JSON.
fn cut_object(raw: &str) -> Option<Object<'_>> {
    struct Whole;
    impl<'de> Visitor<'de> for Whole {
        type Value = Object<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<'de>, A::Error> {
            gather(map)
        }
    }
    serde_json::Deserializer::from_str(raw).deserialize_map(Whole).ok()
}

/// A key, if some tool's format needs it. It is compared without a copy.
struct Name(Option<Key>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Look;
        impl Visitor<'_> for Look {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(Key::of(name)))
            }
        }
        reader.deserialize_str(Look)
    }
}

/// Appends a record as a message of floodmark's own format of objects.
pub fn write_json(record: &Record, key: &mut Vec<u8>, value: &mut Vec<u8>) {
    kv::write_key(&record.pair, key);
    write_object(record, value);
}

/// The last millisecond of the year 9999.
const RFC_3339_MAX_MS: u64 = 253_402_300_799_999;

/// Appends the object of a record, without a key.
pub(super) fn write_object(record: &Record, out: &mut Vec<u8>) {
    let Record { time_ms, pair, volume } = record;
    if *time_ms <= RFC_3339_MAX_MS {
        kv::append(out, format_args!("{{\"time\":\"{}\"", format_ms(*time_ms)));
    } else {
        kv::append(out, format_args!("{{\"time\":{time_ms}"));
    }
    match pair {
        Pair::V4(source, destination) => kv::append(
            out,
            format_args!(",\"source\":\"{source}\",\"destination\":\"{destination}\""),
        ),
        Pair::V6(source, destination) => kv::append(
            out,
            format_args!(",\"source\":\"{source}\",\"destination\":\"{destination}\""),
        ),
    }
    kv::append(out, format_args!(",\"bytes\":{},\"packets\":{}}}", volume.bytes, volume.packets));
}
