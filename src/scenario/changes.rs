//! Published changes, and expected changes.

use std::fmt::{self, Display, Write};

use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Bound, Change, Entity, Event, Metric, Reason, Volume};

use super::entity::{self, EntityName};
use super::moment::{self, Moment};
use super::words::Words;
use crate::base::date::format_ns;
use crate::base::quote::Quoted;
use crate::limits::catalog::Catalog;
use crate::limits::rows::{BOUNDS, METRICS, word};
use crate::limits::value::Value;
use crate::output::change::{EVENTS, REASONS};

/// The part of a change that each expectation states: event, limit and entity, without the window.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    pub(super) event: Event,
    pub(super) limit: String,
    pub(super) entity: Entity,
}

/// A published change.
#[derive(Clone, Debug)]
pub(super) struct Actual {
    pub(super) tick: u64,
    pub(super) subject: Subject,
    reason: Reason,
    window: Window,
    volume: Volume,
    bound: Bound,
    metric: Metric,
    /// Value and effective date of the version that judges, if one does.
    version: Option<(Option<Value>, i128)>,
    settled: bool,
}

impl Actual {
    /// Converts a change published at a tick.
    pub(super) fn of(tick: u64, change: &Change, catalog: &Catalog) -> Self {
        let violation = &change.violation;
        let limit = catalog.name(violation.limit).to_owned();
        let row = change.version.map(|version| catalog.row(version));
        Actual {
            tick,
            subject: Subject { event: change.event, limit, entity: violation.entity },
            reason: change.reason,
            window: violation.window,
            volume: violation.volume,
            bound: change.bound,
            metric: change.metric,
            version: row.map(|row| (row.value.clone(), row.effective)),
            settled: change.settled,
        }
    }

    fn value(&self) -> Option<&Value> {
        self.version.as_ref().and_then(|(value, _)| value.as_ref())
    }

    fn window_ms(&self) -> u64 {
        self.window.0.saturating_mul(1000)
    }

    /// Formats the line that expects exactly this change, in a case that begins at `begin`.
    pub(super) fn line(&self, begin: u64) -> String {
        let Volume { bytes, packets } = self.volume;
        let named = |ms| moment::format(ms, begin);
        let mut line = format!(
            "expect {} {bytes} bytes {packets} packets reason={} window={}",
            self.subject,
            word(&REASONS, &self.reason),
            named(self.window_ms()),
        );
        // To write to a string does not fail.
        let _ = match &self.version {
            None => write!(line, " value=null"),
            Some((value, effective)) => {
                let value = value.as_ref().map_or("null", Value::text);
                write!(line, " value={value} effective_date={}", format_ns(*effective))
            }
        };
        let _ = write!(line, " settled={} as_of={}", self.settled, named(self.tick));
        line
    }
}

impl Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { event, limit, entity } = self;
        let event = word(&EVENTS, event);
        write!(f, "{event} {} {}", name(limit), EntityName(*entity))
    }
}

/// Formats the name of a limit, in quotes if it is not one word.
fn name(limit: &str) -> String {
    let plain = |c: char| !(c.is_whitespace() || c.is_control() || c == '"');
    match !limit.is_empty() && limit.chars().all(plain) && !limit.starts_with(['#', '{']) {
        true => limit.to_owned(),
        false => serde_json::Value::from(limit).to_string(),
    }
}

/// An expected change: its subject, and the other fields that the line states.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expected {
    /// The line in the file, from 1.
    pub(super) line: usize,
    /// The text of the line.
    pub(super) text: String,
    pub(super) subject: Subject,
    fields: Vec<Field>,
}

/// A field and its expected content.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    Bytes(i64),
    Packets(i64),
    Amount(i64),
    Reason(Reason),
    Bound(Bound),
    Metric(Metric),
    Value(Option<Value>),
    EffectiveDate(Option<Moment>),
    Window(Moment),
    Settled(bool),
    AsOf(Moment),
}

impl Expected {
    /// Reads the rest of a line after `expect`.
    pub(super) fn parse(line: usize, text: &str, words: &mut Words<'_>) -> Result<Self, String> {
        let event = words.require("raised, updated or cleared")?;
        let event = one_of("an event", &EVENTS, &event.text)?;
        let limit = words.require("the limit's name")?.text.into_owned();
        let subject = Subject { event, limit, entity: entity::entity(words)? };
        let mut fields = Vec::<Field>::new();
        while let Some(word) = words.next_word()? {
            let field = match word.text.split_once('=') {
                Some((name, content)) => Field::parse(name, content)?,
                None => Field::counted(&word.text, words)?,
            };
            let name = field.name();
            if fields.iter().any(|other| other.name() == name) {
                return Err(format!("{name} is given twice"));
            }
            fields.push(field);
        }
        Ok(Expected { line, text: text.trim().to_owned(), subject, fields })
    }

    /// Returns the names of the fields in which a change of the same subject differs.
    pub(super) fn differing_fields(&self, actual: &Actual, begin: u64) -> Vec<&'static str> {
        let differing = self.fields.iter().filter(|field| !field.matches(actual, begin));
        differing.map(Field::name).collect()
    }
}

impl Field {
    fn parse(name: &str, content: &str) -> Result<Self, String> {
        let number = || {
            content
                .parse::<i64>()
                .map_err(|_| format!("{name} {} is not a number", Quoted(content)))
        };
        let unless_null = || (content != "null").then_some(content);
        Ok(match name {
            "bytes" => Field::Bytes(number()?),
            "packets" => Field::Packets(number()?),
            "amount" => Field::Amount(number()?),
            "reason" => Field::Reason(one_of("a reason", &REASONS, content)?),
            "bound" => Field::Bound(one_of("a bound", &BOUNDS, content)?),
            "metric" => Field::Metric(one_of("a metric", &METRICS, content)?),
            "value" => {
                let value = unless_null().map(Value::parse).transpose();
                Field::Value(value.map_err(|error| error.to_string())?)
            }
            "effective_date" => Field::EffectiveDate(unless_null().map(Moment::parse).transpose()?),
            "window" => Field::Window(Moment::parse(content)?),
            "settled" => Field::Settled(one_of("true or false", &SETTLED, content)?),
            "as_of" => Field::AsOf(Moment::parse(content)?),
            _ => {
                return Err(format!(
                    "{} is not a field of a change; there are {}",
                    Quoted(name),
                    FIELDS.join(", ")
                ));
            }
        })
    }

    /// Reads the unit of an amount like `600 bytes`, whose number was read.
    fn counted(number: &str, words: &mut Words<'_>) -> Result<Self, String> {
        if number.parse::<i64>().is_err() {
            return Err(format!(
                "{} is not a field; write fields like 600 bytes, 3 packets, reason=data",
                Quoted(number)
            ));
        }
        let unit = words.require("bytes or packets")?;
        match unit.text.as_ref() {
            "bytes" | "packets" => Field::parse(&unit.text, number),
            _ => Err(format!("expected bytes or packets, not {}", Quoted(&unit.text))),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Field::Bytes(_) => "bytes",
            Field::Packets(_) => "packets",
            Field::Amount(_) => "amount",
            Field::Reason(_) => "reason",
            Field::Bound(_) => "bound",
            Field::Metric(_) => "metric",
            Field::Value(_) => "value",
            Field::EffectiveDate(_) => "effective_date",
            Field::Window(_) => "window",
            Field::Settled(_) => "settled",
            Field::AsOf(_) => "as_of",
        }
    }

    fn matches(&self, actual: &Actual, begin: u64) -> bool {
        let is_at = |moment: &Moment, ms: u64| moment.ns(begin) == i128::from(ms) * 1_000_000;
        match self {
            Field::Bytes(bytes) => *bytes == actual.volume.bytes,
            Field::Packets(packets) => *packets == actual.volume.packets,
            Field::Amount(amount) => *amount == actual.volume.amount(actual.metric),
            Field::Reason(reason) => *reason == actual.reason,
            Field::Bound(bound) => *bound == actual.bound,
            Field::Metric(metric) => *metric == actual.metric,
            Field::Value(value) => value.as_ref() == actual.value(),
            Field::EffectiveDate(date) => {
                date.map(|date| date.ns(begin))
                    == actual.version.as_ref().map(|(_, effective)| *effective)
            }
            Field::Window(start) => is_at(start, actual.window_ms()),
            Field::Settled(settled) => *settled == actual.settled,
            Field::AsOf(tick) => is_at(tick, actual.tick),
        }
    }
}

const SETTLED: [(&str, bool); 2] = [("true", true), ("false", false)];

const FIELDS: [&str; 11] = [
    "bytes",
    "packets",
    "amount",
    "reason",
    "bound",
    "metric",
    "value",
    "effective_date",
    "window",
    "settled",
    "as_of",
];

/// Returns the value of a word, which must be one of `words`.
pub(super) fn one_of<T: Copy>(what: &str, words: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("{} is not {what}; there are {}", Quoted(text), words.join(", "))
    })
}
