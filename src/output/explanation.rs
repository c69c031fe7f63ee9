//! The limits that apply to a pair, as a JSON object. A run serves it over HTTP, and `limits explain` prints it.

use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::Not;

use floodmark_dataflows::types::{Bound, Metric, Per};
use serde::{Serialize, Serializer};

use super::change::EntityObject;
use crate::base::date::{Stamp, format_ms, format_ns, format_secs};
use crate::base::network;
use crate::base::shown;
use crate::limits::catalog::LimitSet;
use crate::limits::explain::{Applying, Explanation, Other, WindowState};
use crate::limits::value::Value;

/// An explanation. The order of fields is that of the JSON object.
#[derive(Serialize)]
struct ExplanationObject<L, O> {
    as_of: Stamp,
    window_start: Stamp,
    window_end: Stamp,
    window_state: WindowState,
    source: IpAddr,
    destination: IpAddr,
    limits: L,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_none: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_applying: Option<O>,
}

/// A list whose items are converted one by one while they are written, since there may be very many.
struct LazyList<'a, T, F>(&'a [T], F);

impl<'a, T, O: Serialize, F: Fn(&'a T) -> O> Serialize for LazyList<'a, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
}

/// A limit that applies.
#[derive(Serialize)]
struct ApplyingObject<'a> {
    limit_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_set: Option<LimitSet>,
    limit_value: Option<&'a Value>,
    effective_date: Stamp,
    bound: Bound,
    metric: Metric,
    per: Per,
    source: String,
    destination: String,
    host: String,
    entity: EntityObject,
    amount: Option<i64>,
    #[serde(skip_serializing_if = "Not::not")]
    overflow: bool,
    headroom: Option<i128>,
    violated: Option<bool>,
    judged_from: Stamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_judged: Option<String>,
}

/// A limit that does not apply.
#[derive(Serialize)]
struct OtherObject<'a> {
    limit_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_set: Option<LimitSet>,
    reason: &'static str,
    text: String,
}

/// Returns an explanation as a line of JSON; with `all`, also the limits that do not apply.
pub fn json(explanation: &Explanation, all: bool) -> String {
    let mut bytes = Vec::new();
    write(explanation, all, &mut bytes).expect("writing to memory succeeds");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// Writes the text that [`json`] returns, part by part.
///
/// # Errors
/// Only those of `out`.
pub fn write<'a>(explanation: &'a Explanation, all: bool, out: &mut dyn Write) -> io::Result<()> {
    let other = |Other { set, name, why }: &'a Other| OtherObject {
        limit_name: name,
        limit_set: *set,
        reason: why.kind(),
        text: why.text(&explanation.pair),
    };
    let object = ExplanationObject {
        as_of: format_ms(explanation.tick),
        window_start: format_secs(explanation.window.0),
        window_end: format_secs(explanation.window_end),
        window_state: explanation.state,
        source: explanation.pair.source(),
        destination: explanation.pair.destination(),
        limits: LazyList(&explanation.limits, applying),
        why_none: explanation.why_none(),
        not_applying: all.then(|| LazyList(&explanation.others, other)),
    };
    // Serialization itself does not fail: texts, numbers and lists are JSON, and a value was parsed from JSON.
    shown::write_json(&mut *out, &object).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

fn applying(limit: &Applying) -> ApplyingObject<'_> {
    let Applying { set, row, entity, amount, headroom, violated, judged_from, not_judged } = limit;
    ApplyingObject {
        limit_name: &row.name,
        limit_set: *set,
        limit_value: row.value.as_ref(),
        effective_date: format_ns(row.effective),
        bound: row.bound,
        metric: row.scope.metric,
        per: row.scope.per,
        source: network::text(row.scope.source),
        destination: network::text(row.scope.destination),
        host: network::text(row.scope.host),
        entity: EntityObject(*entity),
        amount: *amount,
        overflow: *amount == Some(i64::MAX),
        headroom: *headroom,
        violated: *violated,
        judged_from: format_secs(*judged_from),
        not_judged: not_judged.map(|why| why.to_string()),
    }
}
