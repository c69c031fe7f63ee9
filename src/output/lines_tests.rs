use std::net::{Ipv4Addr, Ipv6Addr};

use floodmark_dataflows::types::{Pair, Volume};
use proptest::prelude::*;

use super::super::change::{self, EntityObject};
use super::*;
use crate::limits::json;
use crate::limits::rows::Defaults;

/// A change as one object.
#[derive(Serialize)]
struct ChangeObject<'a> {
    event: Event,
    reason: Reason,
    id: String,
    limit_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_set: Option<LimitSet>,
    limit_value: Option<&'a Value>,
    effective_date: Option<Stamp>,
    bound: Bound,
    metric: Metric,
    per: Per,
    entity: EntityObject,
    window_start: Stamp,
    window_end: Stamp,
    bytes: i64,
    packets: i64,
    amount: i64,
    #[serde(skip_serializing_if = "Not::not")]
    overflow: bool,
    settled: bool,
    #[serde(skip_serializing_if = "Not::not")]
    partial: bool,
    as_of: Stamp,
}

/// Returns the line of a change, written field by field.
fn reference_line(tick: u64, change: &Change, catalog: &Catalog, windows: &Windows) -> String {
    let violation = &change.violation;
    let Violation { limit, window, entity, .. } = violation;
    let row = change.version.map(|version| catalog.row(version));
    let set = catalog.set(*limit);
    let object = ChangeObject {
        event: change.event,
        reason: change.reason,
        id: change::id(set, catalog.name(*limit), *window, windows, entity),
        limit_name: catalog.name(*limit),
        limit_set: catalog.named_set(*limit),
        limit_value: row.and_then(|row| row.value.as_ref()),
        effective_date: row.map(|row| format_ns(row.effective)),
        bound: change.bound,
        metric: change.metric,
        per: per(entity),
        entity: EntityObject(*entity),
        window_start: format_secs(window.0),
        window_end: format_secs(windows.end_secs(*window)),
        bytes: violation.volume.bytes,
        packets: violation.volume.packets,
        amount: violation.volume.amount(change.metric),
        overflow: violation.volume.is_saturated(),
        settled: change.settled,
        partial: change.partial,
        as_of: format_ms(tick),
    };
    shown::json(&object).expect("JSON") + "\n"
}

/// Names with characters that JSON or a terminal treats specially, as JSON.
const NAMES: [&str; 4] = ["max", "na\\\"me\\n", "\\u001b[2J", "größe\\u202e"];

fn catalog(two_sets: bool) -> (Catalog, Vec<(LimitId, VersionId)>) {
    let mut catalog = if two_sets { Catalog::of_two_sets() } else { Catalog::new() };
    let mut limits = Vec::new();
    for set in catalog.sets() {
        for (name, value) in NAMES.iter().zip(["1", "5.0", "1e6", "null"]) {
            let row = format!(
                "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\
                 \"effective_date\":\"2026-01-01T00:00:00.5\"}}"
            );
            let table = json::read(row.as_bytes(), Defaults::default()).expect("a row");
            let versions = catalog.versions(*set, table.held());
            limits.extend(versions.into_iter().map(|version| (version.limit, version.id)));
        }
    }
    (catalog, limits)
}

fn entity() -> impl Strategy<Value = Entity> {
    (0..5, any::<bool>(), any::<[u128; 2]>()).prop_map(|(kind, v4, bits)| {
        let address = |bits: u128| match v4 {
            true => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
            // Few ones, so that the text of an address often has a run of zeroes to leave out.
            false => IpAddr::V6(Ipv6Addr::from_bits(bits & bits.rotate_left(17))),
        };
        match kind {
            0 => Entity::Pair(Pair::new(address(bits[0]), address(bits[1])).expect("one family")),
            1 => Entity::Source(address(bits[0])),
            2 => Entity::Destination(address(bits[0])),
            3 => Entity::Host(address(bits[0])),
            _ => Entity::Total,
        }
    })
}

/// Generates changes of few kinds, so that several in a row are of the same kind.
fn change() -> impl Strategy<Value = (u64, usize, Change)> {
    let amount = prop_oneof![0..2000i64, any::<i64>(), Just(i64::MAX)];
    let flags = any::<[bool; 4]>();
    (0..2u64, 0..4usize, 0..2u64, entity(), [amount.clone(), amount], flags).prop_map(
        |(tick, limit, window, entity, [bytes, packets], [max, in_bytes, versioned, settled])| {
            let change = Change {
                event: if settled { Event::Updated } else { Event::Raised },
                reason: if max { Reason::Data } else { Reason::LimitChange },
                violation: Violation {
                    limit: LimitId(0),
                    window: Window(window * 300),
                    entity,
                    volume: Volume::new(bytes, packets),
                },
                bound: if max { Bound::Max } else { Bound::Min },
                metric: if in_bytes { Metric::Bytes } else { Metric::Packets },
                version: versioned.then_some(VersionId(0)),
                settled,
                partial: max && !settled,
            };
            (1_767_225_600_000 + tick * 77, limit, change)
        },
    )
}

proptest! {
    #[test]
    fn lines_from_a_template_equal_those_written_field_by_field(
        two_sets: bool,
        changes in prop::collection::vec(change(), 1..12),
    ) {
        let ((catalog, limits), windows) = (catalog(two_sets), Windows::default());
        let (mut lines, mut text, mut expected) =
            (ChangeLines::new(&catalog, &windows), Vec::new(), String::new());
        for (tick, limit, mut change) in changes {
            // Limits of the what-if set come last.
            let at = if two_sets && change.settled { limits.len() - 1 - limit } else { limit };
            let (limit, version) = limits[at];
            change.violation.limit = limit;
            change.version = change.version.map(|_| version);
            let id = lines.write(&mut text, tick, &change).expect("writing to memory succeeds");
            let line = reference_line(tick, &change, &catalog, &windows);
            prop_assert!(line.contains(std::str::from_utf8(&id).expect("digits")));
            expected += &line;
        }
        prop_assert_eq!(String::from_utf8(text).expect("text"), expected);
    }
}
