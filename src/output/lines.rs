//! Changes as lines of JSON. One tick may have millions of them, most of which differ in their entities and
//! amounts alone, so that the common part of a line is built once.

use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::Not;

use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{
    Bound, Change, Entity, Event, LimitId, Metric, Per, Reason, VersionId, Violation,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::base::date::{Stamp, format_ms, format_ns, format_secs};
use crate::base::shown;
use crate::limits::catalog::{Catalog, LimitSet};
use crate::limits::rows::{PERS, word};
use crate::limits::value::Value;

/// Returns the `per` of limits that have such an entity.
pub fn per(entity: &Entity) -> Per {
    match entity {
        Entity::Pair(_) => Per::Pair,
        Entity::Source(_) => Per::Source,
        Entity::Destination(_) => Per::Destination,
        Entity::Host(_) => Per::Host,
        Entity::Total => Per::Total,
    }
}

/// Returns the first part of the text hashed for an [`id`](super::change::id), up to `per`.
pub(super) fn id_prefix(limit: &str, window: Window, windows: &Windows, per: Per) -> String {
    let (name, end) = (serde_json::Value::from(limit), windows.end_secs(window));
    format!("floodmark violation 1\n{name}\n{}\n{end}\n{}\n", window.0, word(&PERS, &per))
}

/// Hashes the rest of the text of an id: the addresses of the entity, and the set if it is not the live one.
pub(super) fn finish_id(mut prefix: Sha256, set: LimitSet, addresses: &Addresses) -> [u8; 32] {
    for text in addresses.texts() {
        prefix.update(text);
        prefix.update(b"\n");
    }
    // The id of a live violation must not depend on the presence of another set: topics are keyed by it.
    if set == LimitSet::WhatIf {
        prefix.update(set.as_str());
        prefix.update(b"\n");
    }
    let digest = prefix.finalize();
    let mut id = [0; 32];
    for (digits, byte) in id.chunks_exact_mut(2).zip(digest) {
        digits[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        digits[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    id
}

/// The addresses of an entity as canonical text.
#[derive(Default)]
pub(super) struct Addresses {
    text: Vec<u8>,
    /// The end of each address in `text`.
    ends: Vec<usize>,
}

impl Addresses {
    pub(super) fn set(&mut self, entity: &Entity) {
        self.text.clear();
        self.ends.clear();
        match entity {
            Entity::Pair(pair) => {
                self.push(pair.source());
                self.push(pair.destination());
            }
            Entity::Source(address) | Entity::Destination(address) | Entity::Host(address) => {
                self.push(*address);
            }
            Entity::Total => {}
        }
    }

    fn push(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                let mut digits = itoa::Buffer::new();
                for (number, octet) in address.octets().into_iter().enumerate() {
                    if number > 0 {
                        self.text.push(b'.');
                    }
                    self.text.extend(digits.format(octet).as_bytes());
                }
            }
            IpAddr::V6(address) => {
                write!(self.text, "{address}").expect("writing to memory succeeds");
            }
        }
        self.ends.push(self.text.len());
    }

    fn texts(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end])
    }

    /// Writes the entity as an object.
    fn write_json(&self, out: &mut Vec<u8>, per: Per) {
        let fields: &[&str] = match per {
            Per::Pair => &["{\"source\":\"", "\",\"destination\":\""],
            Per::Source => &["{\"source\":\""],
            Per::Destination => &["{\"destination\":\""],
            Per::Host => &["{\"host\":\""],
            Per::Total => {
                out.extend(b"{}");
                return;
            }
        };
        for (field, text) in fields.iter().zip(self.texts()) {
            out.extend(field.as_bytes());
            out.extend(text);
        }
        out.extend(b"\"}");
    }
}

/// The fields of a change that are the same in most changes of a tick.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LineKind {
    tick: u64,
    event: Event,
    reason: Reason,
    limit: LimitId,
    window: Window,
    per: Per,
    bound: Bound,
    metric: Metric,
    version: Option<VersionId>,
    settled: bool,
    partial: bool,
}

impl LineKind {
    fn of(tick: u64, change: &Change) -> Self {
        let Change { event, reason, violation, bound, metric, version, settled, partial } = *change;
        let Violation { limit, window, entity, .. } = violation;
        let per = per(&entity);
        LineKind {
            tick,
            event,
            reason,
            limit,
            window,
            per,
            bound,
            metric,
            version,
            settled,
            partial,
        }
    }
}

#[derive(Serialize)]
struct EventFields {
    event: Event,
    reason: Reason,
}

#[derive(Serialize)]
struct LimitFields<'a> {
    limit_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_set: Option<LimitSet>,
    limit_value: Option<&'a Value>,
    effective_date: Option<Stamp>,
    bound: Bound,
    metric: Metric,
    per: Per,
}

#[derive(Serialize)]
struct WindowFields {
    window_start: Stamp,
    window_end: Stamp,
}

#[derive(Serialize)]
struct StateFields {
    settled: bool,
    #[serde(skip_serializing_if = "Not::not")]
    partial: bool,
    as_of: Stamp,
}

/// Returns the fields of an object as JSON, without the braces.
fn fields(object: &impl Serialize) -> io::Result<String> {
    let json = shown::json(object)?;
    Ok(json[1..json.len() - 1].to_owned())
}

/// The parts of lines of one kind.
struct Template {
    kind: LineKind,
    set: LimitSet,
    id: Sha256,
    before_id: String,
    before_entity: String,
    before_bytes: String,
    end: String,
}

impl Template {
    fn new(kind: LineKind, catalog: &Catalog, windows: &Windows) -> io::Result<Self> {
        let LineKind { limit, window, per, bound, metric, settled, partial, .. } = kind;
        let limit_name = catalog.name(limit);
        let row = kind.version.map(|version| catalog.row(version));
        let event_fields = EventFields { event: kind.event, reason: kind.reason };
        let limit_fields = LimitFields {
            limit_name,
            limit_set: catalog.named_set(limit),
            limit_value: row.and_then(|row| row.value.as_ref()),
            effective_date: row.map(|row| format_ns(row.effective)),
            bound,
            metric,
            per,
        };
        let window_fields = WindowFields {
            window_start: format_secs(window.0),
            window_end: format_secs(windows.end_secs(window)),
        };
        let state_fields = StateFields { settled, partial, as_of: format_ms(kind.tick) };
        let prefix = id_prefix(limit_name, window, windows, per);
        Ok(Template {
            kind,
            set: catalog.set(limit),
            id: Sha256::new_with_prefix(prefix),
            before_id: format!("{{{},\"id\":\"", fields(&event_fields)?),
            before_entity: format!("\",{},\"entity\":", fields(&limit_fields)?),
            before_bytes: format!(",{},\"bytes\":", fields(&window_fields)?),
            end: format!(",{}}}\n", fields(&state_fields)?),
        })
    }
}

/// Writes changes as lines. The borrowed catalog can't change meanwhile.
pub struct ChangeLines<'a> {
    catalog: &'a Catalog,
    windows: &'a Windows,
    template: Option<Template>,
    addresses: Addresses,
}

impl<'a> ChangeLines<'a> {
    /// Creates a writer of changes of limits of this catalog.
    pub fn new(catalog: &'a Catalog, windows: &'a Windows) -> Self {
        ChangeLines { catalog, windows, template: None, addresses: Addresses::default() }
    }

    /// Writes a change of a tick. Returns the [`id`](super::change::id) of its violation.
    pub fn write(&mut self, out: &mut Vec<u8>, tick: u64, change: &Change) -> io::Result<[u8; 32]> {
        let kind = LineKind::of(tick, change);
        let template = match self.template.take().filter(|template| template.kind == kind) {
            Some(template) => template,
            None => Template::new(kind, self.catalog, self.windows)?,
        };
        let template = &*self.template.insert(template);
        let volume = change.violation.volume;
        self.addresses.set(&change.violation.entity);
        let id = finish_id(template.id.clone(), template.set, &self.addresses);
        out.extend(template.before_id.as_bytes());
        out.extend(id);
        out.extend(template.before_entity.as_bytes());
        self.addresses.write_json(out, kind.per);
        out.extend(template.before_bytes.as_bytes());
        let mut digits = itoa::Buffer::new();
        out.extend(digits.format(volume.bytes).as_bytes());
        out.extend(b",\"packets\":");
        out.extend(digits.format(volume.packets).as_bytes());
        out.extend(b",\"amount\":");
        out.extend(digits.format(volume.amount(change.metric)).as_bytes());
        if volume.is_saturated() {
            out.extend(b",\"overflow\":true");
        }
        out.extend(template.end.as_bytes());
        Ok(id)
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
