//! JSON: reads a text as objects, and recognizes the tool that wrote each object. Each object is parsed once, and only
//! the values that some format needs are kept, as their JSON texts.

use std::fmt;

use floodmark_dataflows::types::Pair;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::context::{Context, Envelope};
use super::kv;
use super::message::{Format, Observation, Record};
use super::reason::{RecordError, Skip};
use super::sink::{MessageSink, Receiver};
use super::value::{self, BLANKS};
use crate::base::date::format_ms;

macro_rules! keys {
    ($($key:ident = $name:literal,)*) => {
        /// The keys that some format needs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Key { $($key,)* }

        impl Key {
            const ALL: [(&'static str, Key); Key::COUNT] = [$(($name, Key::$key),)*];
            const COUNT: usize = [$($name,)*].len();

            /// Returns the key as it is written.
            pub(super) fn name(self) -> &'static str {
                match self { $(Key::$key => $name,)* }
            }
        }
    };
}

keys! {
    // Floodmark's own format; pmacct and goflow2 use the same names for bytes and packets.
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

/// An upper bound on the length of a key, itself excluded.
const LENGTHS: usize = 24;

/// The keys in the order of their lengths, and the index of the first key of each length. Most keys of a flow record
/// are not needed, and must be rejected fast.
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
    /// Whether the value of this key is a single value and not an object.
    fn is_scalar(self) -> bool {
        !matches!(self, Key::SourceDocument | Key::Layers | Key::Index | Key::Payload)
    }

    fn from_name(name: &str) -> Option<Key> {
        static KEYS: [(&str, Key); Key::COUNT] = BY_LENGTH.0;
        static STARTS: [usize; LENGTHS + 1] = BY_LENGTH.1;
        let (start, end) = (STARTS.get(name.len())?, STARTS.get(name.len() + 1)?);
        KEYS[*start..*end].iter().find(|(key, _)| *key == name).map(|(_, key)| *key)
    }
}

/// The values of an object that some format needs.
pub(super) struct Object<'a> {
    values: [Option<&'a str>; Key::COUNT],
    repeated: Option<Key>,
}

impl<'a> Object<'a> {
    /// Returns the value of a key, as its JSON text.
    pub(super) fn raw(&self, key: Key) -> Option<&'a str> {
        self.values[key as usize]
    }

    fn has_any(&self, keys: &[Key]) -> bool {
        keys.iter().any(|key| self.raw(*key).is_some())
    }

    /// Returns the kind of the object, by the keys that only one tool has.
    fn kind(&self) -> Result<ObjectKind, RecordError> {
        const MARKS: [(ObjectKind, &[Key]); 7] = [
            (ObjectKind::Format(Format::TsharkJson), &[Key::SourceDocument]),
            (ObjectKind::Format(Format::TsharkEk), &[Key::Layers]),
            (
                ObjectKind::Format(Format::Nfdump),
                &[Key::Src4Addr, Key::Dst4Addr, Key::Src6Addr, Key::Dst6Addr],
            ),
            (ObjectKind::Format(Format::Akvorado), &[Key::CamelSrcAddr, Key::CamelDstAddr]),
            (ObjectKind::Format(Format::Goflow2), &[Key::SrcAddr, Key::DstAddr]),
            (ObjectKind::Format(Format::Pmacct), &[Key::IpSrc, Key::IpDst]),
            (ObjectKind::Envelope, &[Key::Payload]),
        ];
        let mut kind = None;
        for (mark, keys) in MARKS {
            if self.has_any(keys) && kind.replace(mark).is_some() {
                return Err(RecordError::Ambiguous);
            }
        }
        if kind.is_none()
            && let Some(kind) = self.own_output()
        {
            return Err(RecordError::OwnOutput { kind });
        }
        // Both names are common: they count only together, and without a mark of another format.
        if self.raw(Key::Source).is_some()
            && self.raw(Key::Destination).is_some()
            && kind.replace(ObjectKind::Format(Format::Json)).is_some()
        {
            return Err(RecordError::Ambiguous);
        }
        const CAMEL_GOFLOW: [Key; 5] = [
            Key::CamelTimeFlowEnd,
            Key::CamelTimeFlowEndMs,
            Key::CamelTimeFlowStart,
            Key::CamelTimeFlowStartMs,
            Key::CamelSamplerAddress,
        ];
        match kind {
            Some(ObjectKind::Format(Format::Akvorado)) if self.has_any(&CAMEL_GOFLOW) => {
                Ok(ObjectKind::Format(Format::Goflow2))
            }
            Some(kind) => Ok(kind),
            None if self.purge_event().is_some() => Ok(ObjectKind::Format(Format::Pmacct)),
            None if self.raw(Key::Index).is_some() => Ok(ObjectKind::Format(Format::TsharkEk)),
            None if self.has_any(&[Key::Source, Key::Destination])
                && self.has_any(&[Key::Bytes, Key::Packets]) =>
            {
                Ok(ObjectKind::Format(Format::Json))
            }
            None => Err(RecordError::UnknownFormat),
        }
    }

    /// Returns the name of the output of this program that the object is part of, if any. Totals look like records
    /// without a time.
    fn own_output(&self) -> Option<&'static str> {
        self.raw(Key::WindowStart)?;
        match () {
            () if self.raw(Key::Time).is_some() => None,
            () if self.has_any(&[Key::Top]) && !self.has_any(&[Key::Source]) => Some(RANKINGS),
            () if self.raw(Key::AsOf).is_none() => None,
            () if self.raw(Key::LimitName).is_some() => Some(CHANGES),
            () if self.raw(Key::WindowEnd).is_some() => Some(TOTALS),
            () => None,
        }
    }

    /// Returns the event type of pmacct, if it is a known one.
    fn purge_event(&self) -> Option<PurgeEvent> {
        match self.raw(Key::EventType)? {
            "\"purge\"" => Some(PurgeEvent::Record),
            "\"purge_init\"" | "\"purge_close\"" => Some(PurgeEvent::Mark),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PurgeEvent {
    Record,
    Mark,
}

/// The outputs of this program, with the options that write them.
const TOTALS: &str = "totals of windows (--publish)";
const CHANGES: &str = "changes of violations (--to)";
const RANKINGS: &str = "rankings (--top)";

/// The kind of an object: a record of a format, or an envelope of Kafka Connect.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ObjectKind {
    Format(Format),
    Envelope,
}

impl Context<'_> {
    /// Reads one JSON value after another. After a broken value, reading continues with the next line.
    pub(super) fn json<T: Receiver>(
        &self,
        text: &str,
        envelope: Envelope,
        sink: &mut MessageSink<'_, T>,
    ) {
        let mut rest = text;
        while !rest.is_empty() {
            let mut reader = serde_json::Deserializer::from_str(rest);
            let value = Value { context: self, envelope, is_array: rest.starts_with('['), sink };
            let next = match value.deserialize(&mut reader) {
                Ok(()) => match reader.end() {
                    Ok(()) => return,
                    Err(error) => Some(error_position(rest, &error)),
                },
                Err(error) => {
                    sink.unrecognized(RecordError::Json);
                    next_line_start(rest, error_position(rest, &error))
                }
            };
            // Each iteration drops at least one byte, or the rest, so the loop ends.
            let next = next.filter(|next| *next > 0).and_then(|next| rest.get(next..));
            rest = next.unwrap_or_default().trim_start_matches(BLANKS);
        }
    }

    /// Reads an object; `source` is its JSON text, if the receiver needs it.
    fn object<T: Receiver>(
        &self,
        object: &Object<'_>,
        source: Option<&str>,
        envelope: Envelope,
        sink: &mut MessageSink<'_, T>,
    ) {
        match object.kind() {
            Err(reason) => sink.unrecognized(reason),
            Ok(ObjectKind::Format(format)) => {
                sink.recognized(format, self.read(object, format), source)
            }
            Ok(ObjectKind::Envelope) if envelope == Envelope::Opened => {
                sink.unrecognized(RecordError::UnknownFormat)
            }
            Ok(ObjectKind::Envelope) => {
                self.envelope(object.raw(Key::Payload).unwrap_or_default(), sink)
            }
        }
    }

    /// Reads the payload of an envelope of Kafka Connect.
    fn envelope<T: Receiver>(&self, payload: &str, sink: &mut MessageSink<'_, T>) {
        match payload.as_bytes().first() {
            Some(b'"') => match value::unquote(payload) {
                Some(inner) => self.text(&inner, Envelope::Opened, sink),
                None => sink.unrecognized(RecordError::Json),
            },
            Some(b'n') | None => sink.skip(Skip::Tombstone),
            _ => self.text(payload, Envelope::Opened, sink),
        }
    }

    fn read(&self, object: &Object<'_>, format: Format) -> Observation {
        if let Some(key) = object.repeated {
            return Observation::Bad(RecordError::RepeatedField { field: key.name() });
        }
        match format {
            Format::Pmacct if object.purge_event() == Some(PurgeEvent::Mark) => {
                Observation::Skipped(Skip::Purge)
            }
            Format::TsharkJson => self.tshark_json(object),
            Format::TsharkEk => self.tshark_ek(object),
            _ => self.flow(object, format),
        }
    }
}

/// Returns the position of an error, in bytes from the start.
fn error_position(text: &str, error: &serde_json::Error) -> usize {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1)
}

/// Returns the start of the line at which reading continues after an error at this position; `None` if no line is left.
fn next_line_start(text: &str, position: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let position = position.min(bytes.len());
    let start = bytes[..position].iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
    let blank = |start: &usize| bytes[*start..position].iter().all(u8::is_ascii_whitespace);
    start.filter(blank).or_else(|| {
        let end = bytes[position..].iter().position(|byte| *byte == b'\n')?;
        Some(position + end + 1)
    })
}

/// Reads a value: an object, or an array of them.
struct Value<'c, 's, 't, T> {
    context: &'c Context<'c>,
    envelope: Envelope,
    /// Whether the value is an array, to read element by element.
    is_array: bool,
    sink: &'s mut MessageSink<'t, T>,
}

impl<'de, T: Receiver> DeserializeSeed<'de> for Value<'_, '_, '_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        if self.is_array || !T::SOURCES {
            return reader.deserialize_any(self);
        }
        // The value is read to its end first, to get its text.
        let raw = <&RawValue>::deserialize(reader)?.get();
        if !raw.starts_with('{') {
            self.sink.unrecognized(RecordError::UnknownFormat);
            return Ok(());
        }
        let object =
            parse_object(raw).ok_or_else(|| Error::custom("a key with an unpaired surrogate"))?;
        self.context.object(&object, Some(raw), self.envelope, self.sink);
        Ok(())
    }
}

impl<'de, T: Receiver> Visitor<'de> for Value<'_, '_, '_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let object = collect_values(map)?;
        self.context.object(&object, None, self.envelope, self.sink);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let Value { context, envelope, is_array, sink } = self;
        if !is_array {
            while array.next_element::<IgnoredAny>()?.is_some() {}
            sink.unrecognized(RecordError::UnknownFormat);
            return Ok(());
        }
        loop {
            let element = Value { context, envelope, is_array: false, sink: &mut *sink };
            if array.next_element_seed(element)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.reject()
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.reject()
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.reject()
    }

    // serde_json visits numbers as these or, with all their digits, as an object with one key.
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.reject()
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.reject()
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.reject()
    }
}

impl<T: Receiver> Value<'_, '_, '_, T> {
    /// Rejects a value that is neither an object nor an array of objects.
    fn reject<E>(self) -> Result<(), E> {
        self.sink.unrecognized(RecordError::UnknownFormat);
        Ok(())
    }
}

fn collect_values<'de, A: MapAccess<'de>>(mut map: A) -> Result<Object<'de>, A::Error> {
    let mut object = Object { values: [None; Key::COUNT], repeated: None };
    while let Some(Name(key)) = map.next_key()? {
        let Some(key) = key else {
            map.next_value::<IgnoredAny>()?;
            continue;
        };
        let raw = map.next_value::<&'de RawValue>()?.get();
        let raw =
            if raw.starts_with('{') && key.is_scalar() { value::unwrap_union(raw) } else { raw };
        if object.values[key as usize].replace(raw).is_some() {
            object.repeated = Some(key);
        }
    }
    Ok(object)
}

/// Parses the text of an object.
fn parse_object(raw: &str) -> Option<Object<'_>> {
    struct ObjectVisitor;
    impl<'de> Visitor<'de> for ObjectVisitor {
        type Value = Object<'de>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<'de>, A::Error> {
            collect_values(map)
        }
    }
    serde_json::Deserializer::from_str(raw).deserialize_map(ObjectVisitor).ok()
}

/// A key, if some format needs it. It is compared without a copy.
struct Name(Option<Key>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(Key::from_name(name)))
            }
        }
        reader.deserialize_str(NameVisitor)
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
