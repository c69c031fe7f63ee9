//! Packets as `tshark -T json` and `tshark -T ek` write them: layers with fields, or with `-e` only the chosen fields.
//! A protocol or field that occurs several times in a packet is written as several members of one name, or as an
//! array; the first is the outermost.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::context::Context;
use super::json::{Key, Object};
use super::members::for_each_member;
use super::message;
use super::message::{Observation, Record};
use super::reason::{RecordError, Skip};
use super::time::{self, FieldTime};
use super::value;
use super::value::Unit;

/// A field of a packet that a record needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Time,
    Length,
    Protocols,
    V4Source,
    V4Destination,
    V4Length,
    V6Source,
    V6Destination,
    V6Length,
}

impl Field {
    const COUNT: usize = 9;

    /// Returns the field with this name in either form: `-T ek` puts the protocol first, and with `-e` only
    /// replaces dots.
    fn from_name(name: &str) -> Option<Field> {
        Some(match name {
            "frame.time_epoch" | "frame_frame_time_epoch" | "frame_time_epoch" => Field::Time,
            "frame.len" | "frame_frame_len" | "frame_len" => Field::Length,
            "frame.protocols" | "frame_frame_protocols" | "frame_protocols" => Field::Protocols,
            "ip.src" | "ip_ip_src" | "ip_src" => Field::V4Source,
            "ip.dst" | "ip_ip_dst" | "ip_dst" => Field::V4Destination,
            "ip.len" | "ip_ip_len" | "ip_len" => Field::V4Length,
            "ipv6.src" | "ipv6_ipv6_src" | "ipv6_src" => Field::V6Source,
            "ipv6.dst" | "ipv6_ipv6_dst" | "ipv6_dst" => Field::V6Destination,
            "ipv6.plen" | "ipv6_ipv6_plen" | "ipv6_plen" => Field::V6Length,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// The fields of a packet that a record needs.
#[derive(Default)]
struct PacketFields<'a> {
    fields: [Option<&'a str>; Field::COUNT],
    /// The family of the first layer of IP.
    outermost: Option<Family>,
}

impl<'a> PacketFields<'a> {
    fn parse(layers: &'a str) -> Result<Self, RecordError> {
        let mut packet = PacketFields::default();
        for_each_member(layers, |name, raw| match (name, packet.outermost) {
            ("frame", _) => packet.layer(raw),
            ("ip", None) => {
                packet.outermost = Some(Family::V4);
                packet.layer(raw)
            }
            ("ipv6", None) => {
                packet.outermost = Some(Family::V6);
                packet.layer(raw)
            }
            ("ip" | "ipv6", Some(_)) => Ok(()),
            _ => {
                packet.store(name, raw);
                Ok(())
            }
        })?;
        Ok(packet)
    }

    fn layer(&mut self, raw: &'a str) -> Result<(), RecordError> {
        let Some(raw) = first_element(raw) else {
            return Ok(());
        };
        for_each_member(raw, |name, raw| {
            self.store(name, raw);
            Ok(())
        })
    }

    fn store(&mut self, name: &str, raw: &'a str) {
        if let Some(field) = Field::from_name(name) {
            let slot = &mut self.fields[field as usize];
            *slot = slot.or_else(|| first_element(raw));
        }
    }

    fn raw(&self, field: Field) -> Option<&'a str> {
        self.fields[field as usize]
    }

    /// Returns the family of the outermost IP header; `None` if the packet has no IP header.
    fn family(&self) -> Result<Option<Family>, RecordError> {
        if self.outermost.is_some() {
            return Ok(self.outermost);
        }
        let any = |fields: [Field; 2]| fields.into_iter().any(|field| self.raw(field).is_some());
        let v4 = any([Field::V4Source, Field::V4Destination]);
        let v6 = any([Field::V6Source, Field::V6Destination]);
        Ok(match (v4, v6) {
            (false, false) => None,
            (true, false) => Some(Family::V4),
            (false, true) => Some(Family::V6),
            // The fields are in the order of the options of tshark, not of the headers.
            (true, true) => {
                let protocols = self.raw(Field::Protocols).and_then(value::unquote);
                let family =
                    protocols.iter().flat_map(|names| names.split(':')).find_map(
                        |name| match name {
                            "ip" => Some(Family::V4),
                            "ipv6" => Some(Family::V6),
                            _ => None,
                        },
                    );
                Some(family.ok_or(RecordError::Ambiguous)?)
            }
        })
    }

    /// Returns the length by the IP header; that of the frame, if the IP header does not state one.
    fn bytes(&self, family: Family) -> Result<u64, RecordError> {
        const V4_HEADER: u64 = 20;
        const V6_HEADER: u64 = 40;
        let number = |field, name| {
            let raw = self.raw(field);
            raw.filter(|raw| value::scalar(raw).is_some())
                .map(|raw| value::number(raw, name))
                .transpose()
        };
        let stated = match family {
            Family::V4 => match number(Field::V4Length, "ip.len")? {
                Some(1..V4_HEADER) => return Err(RecordError::BadNumber { field: "ip.len" }),
                stated => stated,
            },
            Family::V6 => match number(Field::V6Length, "ipv6.plen")? {
                Some(0) | None => None,
                Some(length) => Some(length.saturating_add(V6_HEADER)),
            },
        };
        match stated {
            // The length did not fit, or segmentation was left to the network card.
            Some(0) | None => number(Field::Length, "frame.len")?
                .ok_or(RecordError::MissingField { field: "frame.len" }),
            Some(length) => Ok(length),
        }
    }
}

impl Context<'_> {
    /// Reads a packet of `-T json`.
    pub(super) fn tshark_json(&self, object: &Object<'_>) -> Observation {
        let mut layers = None;
        let found =
            for_each_member(object.raw(Key::SourceDocument).unwrap_or_default(), |name, raw| {
                if name == "layers" {
                    layers = Some(raw);
                }
                Ok(())
            });
        match (found, layers) {
            (Err(reason), _) => Observation::Bad(reason),
            (Ok(()), Some(layers)) => self.packet(layers, None),
            (Ok(()), None) => Observation::Bad(RecordError::MissingField { field: "layers" }),
        }
    }

    /// Reads a line of `-T ek`.
    pub(super) fn tshark_ek(&self, object: &Object<'_>) -> Observation {
        match object.raw(Key::Layers) {
            Some(layers) => self.packet(layers, object.raw(Key::Timestamp)),
            None => Observation::Skipped(Skip::Index),
        }
    }

    fn packet(&self, layers: &str, timestamp: Option<&str>) -> Observation {
        match self.try_packet(layers, timestamp) {
            Ok(Some(record)) => Observation::Record(record),
            Ok(None) => Observation::Skipped(Skip::NotIp),
            Err(reason) => Observation::Bad(reason),
        }
    }

    fn try_packet(
        &self,
        layers: &str,
        timestamp: Option<&str>,
    ) -> Result<Option<Record>, RecordError> {
        let packet = PacketFields::parse(layers)?;
        let Some(family) = packet.family()? else {
            return Ok(None);
        };
        let (source, destination) = match family {
            Family::V4 => ((Field::V4Source, "ip.src"), (Field::V4Destination, "ip.dst")),
            Family::V6 => ((Field::V6Source, "ipv6.src"), (Field::V6Destination, "ipv6.dst")),
        };
        let address = |(field, name)| {
            let raw = packet.raw(field).ok_or(RecordError::MissingField { field: name })?;
            value::address(raw, name)
        };
        let pair = value::pair(address(source)?, address(destination)?, false)?;
        let volume = message::volume(packet.bytes(family)?, 1)?;
        let time_ms = self.packet_time(packet.raw(Field::Time), timestamp)?;
        Ok(Some(Record { time_ms, pair, volume }))
    }

    /// Returns the time of a packet, else that of its line, else that of the message.
    fn packet_time(&self, packet: Option<&str>, line: Option<&str>) -> Result<u64, RecordError> {
        let times =
            [("frame.time_epoch", packet, Unit::Seconds), ("timestamp", line, Unit::Milliseconds)];
        for (field, raw, unit) in times {
            let Some(raw) = raw else {
                continue;
            };
            match time::read(raw, unit, self.zone, false) {
                FieldTime::At(ms) => return Ok(ms),
                FieldTime::Absent => {}
                FieldTime::Bad(fault) => return Err(RecordError::bad_time(field, raw, fault)),
            }
        }
        self.message.timestamp_ms.ok_or(RecordError::NoTime)
    }
}

/// Returns the first element of an array, or the value itself; `None` for an empty array.
fn first_element(raw: &str) -> Option<&str> {
    struct First;
    impl<'de> Visitor<'de> for First {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
            let first = array.next_element()?;
            while array.next_element::<IgnoredAny>()?.is_some() {}
            Ok(first)
        }
    }
    if !raw.starts_with('[') {
        return Some(raw);
    }
    let first = serde_json::Deserializer::from_str(raw).deserialize_seq(First).ok()??;
    Some(first.get())
}
