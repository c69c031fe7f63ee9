//! Changes and rankings as lines of aligned columns, for people.

use std::io::{self, Write};

use floodmark_dataflows::top::Ranked;
use floodmark_dataflows::types::{Bound, Change, Entity, Event, Metric, Reason};

use crate::base::date::{format_ms, format_secs};
use crate::base::quote::Shown;
use crate::limits::catalog::{Catalog, LimitSet};

/// Returns an entity in words.
pub fn entity(entity: &Entity) -> String {
    match entity {
        Entity::Pair(pair) => format!("{} > {}", pair.source(), pair.destination()),
        Entity::Source(address) => format!("source {address}"),
        Entity::Destination(address) => format!("destination {address}"),
        Entity::Host(address) => format!("host {address}"),
        Entity::Total => "total".into(),
    }
}

/// Returns the column with the set of a limit; empty if there is only one set.
fn set_column(set: Option<&str>) -> String {
    set.map(|set| format!("{set:<7}  ")).unwrap_or_default()
}

/// Writes the header of a table of changes.
pub fn write_header(out: &mut dyn Write, catalog: &Catalog) -> io::Result<()> {
    let set = set_column((catalog.sets().len() > 1).then_some("SET"));
    writeln!(
        out,
        "{:<20}  {:<7}  {:<20}  {:<20}  {set}{:<33}  {:>14}  {:<7}  {:>16}  WHY",
        "AS OF", "EVENT", "WINDOW", "LIMIT", "WHO", "AMOUNT", "METRIC", "LIMIT VALUE"
    )
}

/// Writes a change of a tick.
pub fn write_change(
    out: &mut dyn Write,
    tick: u64,
    change: &Change,
    catalog: &Catalog,
) -> io::Result<()> {
    let violation = &change.violation;
    let row = change.version.map(|version| catalog.row(version));
    let value = match row.and_then(|row| row.value.as_ref()) {
        Some(value) => format!("{} {}", bound(change.bound), value.text()),
        None => "gone".into(),
    };
    let set = set_column(catalog.named_set(violation.limit).map(LimitSet::as_str));
    writeln!(
        out,
        "{:<20}  {:<7}  {:<20}  {:<20}  {set}{:<33}  {:>14}  {:<7}  {:>16}  {}{}{}{}",
        format_ms(tick).to_string(),
        event(change.event),
        format_secs(violation.window.0).to_string(),
        Shown(catalog.name(violation.limit)).to_string(),
        entity(&violation.entity),
        violation.volume.amount(change.metric),
        metric(change.metric),
        value,
        reason(change.reason),
        if violation.volume.is_saturated() { ", overflow" } else { "" },
        if change.settled { ", settled" } else { "" },
        if change.partial { ", partial" } else { "" },
    )
}

/// Writes a place in the ranking of a window.
pub fn write_ranked(out: &mut dyn Write, ranked: &Ranked) -> io::Result<()> {
    writeln!(
        out,
        "top {:>4}  {:<20}  {:<33}  {:>14} bytes  {:>10} packets{}",
        ranked.rank,
        format_secs(ranked.window.0).to_string(),
        entity(&ranked.entity),
        ranked.volume.bytes,
        ranked.volume.packets,
        if ranked.partial { "  partial" } else { "" },
    )
}

/// Returns the word for an event.
pub fn event(event: Event) -> &'static str {
    match event {
        Event::Raised => "raised",
        Event::Updated => "updated",
        Event::Cleared => "cleared",
    }
}

fn bound(bound: Bound) -> &'static str {
    match bound {
        Bound::Max => "max",
        Bound::Min => "min",
    }
}

fn metric(metric: Metric) -> &'static str {
    match metric {
        Metric::Bytes => "bytes",
        Metric::Packets => "packets",
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::LimitChange => "limit change",
        Reason::Schedule => "schedule",
        Reason::LateData => "late data",
        Reason::Data => "data",
    }
}
