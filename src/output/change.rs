//! Changes and rankings as JSON objects, one a line.

use std::io::{self, Write};
use std::ops::Not;

use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::top::Ranked;
use floodmark_dataflows::types::{Entity, Event, Reason};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::lines::{self, Addresses, per};
use crate::base::date::{Stamp, format_secs};
use crate::base::shown;
use crate::limits::catalog::LimitSet;

/// Names of events in JSON, scenarios and metrics.
pub const EVENTS: [(&str, Event); 3] =
    [("raised", Event::Raised), ("updated", Event::Updated), ("cleared", Event::Cleared)];

/// Names of reasons in JSON, scenarios and metrics.
pub const REASONS: [(&str, Reason); 4] = [
    ("limit_change", Reason::LimitChange),
    ("schedule", Reason::Schedule),
    ("late_data", Reason::LateData),
    ("data", Reason::Data),
];

/// An entity as a JSON object of its addresses.
pub(super) struct EntityObject(pub(super) Entity);

impl Serialize for EntityObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.0 {
            Entity::Pair(pair) => {
                map.serialize_entry("source", &pair.source())?;
                map.serialize_entry("destination", &pair.destination())?;
            }
            Entity::Source(address) => map.serialize_entry("source", &address)?,
            Entity::Destination(address) => map.serialize_entry("destination", &address)?,
            Entity::Host(address) => map.serialize_entry("host", &address)?,
            Entity::Total => {}
        }
        map.end()
    }
}

/// Returns the id of a violation: the first 16 bytes, in hexadecimal, of the SHA-256 of these lines, each
/// ended by a line feed: `floodmark violation 1`, the limit's name as a JSON string, the start and the
/// end of the window in seconds since 1970, `per`, and the addresses of the entity in canonical text;
/// for a limit of the what-if set, and only then, `what_if` is the last one.
///
/// The id of a violation never changes: consumers fold changes by id, across versions of this program.
pub fn id(
    set: LimitSet,
    limit: &str,
    window: Window,
    windows: &Windows,
    entity: &Entity,
) -> String {
    let prefix = lines::id_prefix(limit, window, windows, per(entity));
    let mut addresses = Addresses::default();
    addresses.set(entity);
    let id = lines::finish_id(Sha256::new_with_prefix(prefix), set, &addresses);
    String::from_utf8(id.to_vec()).expect("hexadecimal digits are UTF-8")
}

#[derive(Serialize)]
struct RankedObject {
    top: u64,
    window_start: Stamp,
    entity: EntityObject,
    bytes: i64,
    packets: i64,
    #[serde(skip_serializing_if = "Not::not")]
    partial: bool,
    #[serde(skip_serializing_if = "Not::not")]
    overflow: bool,
}

/// Writes a place in the ranking of a window.
pub fn write_ranked_json(out: &mut dyn Write, ranked: &Ranked) -> io::Result<()> {
    let object = RankedObject {
        top: ranked.rank,
        window_start: format_secs(ranked.window.0),
        entity: EntityObject(ranked.entity),
        bytes: ranked.volume.bytes,
        packets: ranked.volume.packets,
        partial: ranked.partial,
        overflow: ranked.volume.is_saturated(),
    };
    shown::write_json(out, &object)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use floodmark_dataflows::types::Pair;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn id_equals_that_of_the_documented_algorithm() {
        let windows = Windows::default();
        let of_set =
            |set, limit: &str, start, entity| id(set, limit, Window(start), &windows, &entity);
        let of = |limit: &str, start, entity| of_set(LimitSet::Live, limit, start, entity);
        let what_if = |limit: &str, start, entity| of_set(LimitSet::WhatIf, limit, start, entity);
        let pair = |source, destination| {
            Entity::Pair(Pair::new(address(source), address(destination)).expect("one family"))
        };
        let golden = [
            of("max", 0, pair("10.0.0.1", "10.0.0.2")),
            of("max", 300, pair("2001:db8::1", "2001:db8::2")),
            of("na\"me\n", 300, Entity::Source(address("10.0.0.1"))),
            of("max", 300, Entity::Destination(address("10.0.0.1"))),
            of("max", 300, Entity::Host(address("::ffff:10.0.0.1"))),
            of("max", 300, Entity::Total),
            what_if("max", 0, pair("10.0.0.1", "10.0.0.2")),
            what_if("max", 300, Entity::Source(address("10.0.0.1"))),
            what_if("max", 300, Entity::Total),
        ];
        // Computed by another program, from the description of the id in docs/changes.md.
        let frozen = [
            "64f71f6585b50c9a3060f0b05241d03f",
            "8373fa795d2443567d4fa85395efda36",
            "6d5f6d5a37eaabcf444d70581ac034ff",
            "e6eb84359c5da9cdc70025003698bc4d",
            "4b7d5e78cbaa080b7e9107077ef94429",
            "8854206235bf6936009bc25cfd49e251",
            "9a316270fab4c5291702ad5657a0c35d",
            "3e1ca63316b19ce2dee50f31363971c6",
            "65bff0c3e0a876c42d5310da04d97d62",
        ];
        assert_eq!(golden, frozen);
    }
}
