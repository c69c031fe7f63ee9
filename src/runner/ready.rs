//! Readiness of a live run: derives the reasons why it is not ready from its state, each naming the part to look
//! at.
//!
//! "Ready" means that published output is up to date: ticks are done, they hold all that the broker has but for the
//! last moments, and the sinks deliver.

use std::time::Duration;

use serde::Serialize;

use super::clock::Unsteady;
use crate::base::date::format_ms;
use crate::kafka::{TRANSACTION_PATIENCE, TopicFault};
use crate::limits::catalog::LimitSet;
use crate::sink::{Fault, SinkState};

/// Largest clock step that does not make the run unready.
const STEP_MAX_MS: u64 = 10_000;

/// State of a run at one moment, from which its readiness is derived.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Age of the last tick; `None` before the first.
    pub(super) tick_age: Option<Duration>,
    /// Age from which the last tick counts as old.
    pub(super) tick_age_max: Duration,
    /// Time from which a partition counts as behind, or the watermark as standing still.
    pub(super) behind_max: Duration,
    /// Time since the watermark last moved.
    pub(super) watermark_stands: Duration,
    /// The partition that holds the watermark, and (`slowest_in`) the slowest partition that is not empty.
    pub(super) held_by: Option<u32>,
    pub(super) slowest_in: Option<u32>,
    pub(super) topic: String,
    /// For how long, and why, the brokers of the topic have not responded.
    pub(super) source: Option<(Duration, String)>,
    /// The state of the leader's wall clock, if it can't be followed.
    pub(super) clock: Option<Unsteady>,
    /// For how long every response has said that the topic does not exist, if they do.
    pub(super) missing: Option<Duration>,
    /// The partitions that this process reads.
    pub(super) partitions: Vec<Partition>,
    /// Every sink that this process writes to.
    pub(super) sinks: Vec<SinkState>,
    /// For how long no checkpoint of the state could be written, and why.
    pub(super) state: Option<(Duration, String)>,
    /// Sets of limits that can't be read, for how long, and why.
    pub(super) limits: Vec<(LimitSet, (Duration, String))>,
}

/// State of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) number: u32,
    /// Whether the broker has responded recently.
    pub(super) answered: bool,
    /// Messages that are not yet in a completed tick, if the broker responds.
    pub(super) lag: Option<u64>,
    /// Time since the partition was last fully processed, not counting messages behind an open transaction.
    pub(super) behind: Duration,
    /// Time since the partition was last fully processed.
    pub(super) lag_time: Duration,
    /// Messages behind an open transaction.
    pub(super) withheld: Withheld,
    /// Whether the partition was ever fully processed.
    pub(super) begun: bool,
    /// Whether the partition holds messages and none was read yet.
    pub(super) unread: bool,
    pub(super) paused: bool,
    /// Whether the watermark does not wait for the partition, since its event time stays behind.
    pub(super) straggles: bool,
    /// The greatest event time read.
    pub(super) reached: Option<u64>,
}

/// Messages of a partition that brokers withhold from consumers, since a transaction is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Withheld {
    /// Offsets from that of the transaction's first message to the end of the partition.
    pub(super) messages: u64,
    /// For how long the first of these offsets has been the same.
    pub(super) lasting: Duration,
    /// Whether the run treats these messages as absent.
    pub(super) skipped: bool,
}

/// A reason why a run is not ready.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Reason {
    /// The kind of reason, for programs.
    pub reason: &'static str,
    /// The reason, for people.
    pub text: String,
    /// The state of the partition or sink that the reason is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// The partition that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// The partition that this one waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<u32>,
    /// The topic or sink that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The set of limits that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_set: Option<LimitSet>,
    /// For how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

impl Reason {
    fn new(reason: &'static str, text: String) -> Self {
        Reason { reason, text, ..Reason::default() }
    }

    fn lasting(self, lasting: Duration) -> Self {
        Reason { seconds: Some(lasting.as_secs()), ..self }
    }

    /// Whether this reason makes the run unready. All but a straggling partition is judged in time.
    pub fn is_unready(&self) -> bool {
        self.reason != STRAGGLING
    }
}

/// The reason name of partitions that straggle.
const STRAGGLING: &str = "partition_straggling";

/// Returns the reasons why a run is not ready, and problems that do not make it unready.
pub(super) fn reasons(facts: &Facts) -> Vec<Reason> {
    let mut reasons = Vec::from_iter(facts.clock.and_then(clock));
    match facts.tick_age {
        None => reasons.push(Reason::new("no_tick", "no tick has completed yet".into())),
        Some(age) if age > facts.tick_age_max => {
            let text = format!("the last completed tick is {} s old", age.as_secs());
            reasons.push(Reason::new("tick_stands", text).lasting(age));
        }
        Some(_) => {}
    }
    if let Some(lasting) = facts.missing {
        let Facts { topic, .. } = facts;
        let text = format!("topic \"{topic}\" has been missing for {} s", lasting.as_secs());
        let reason = Reason::new("topic_missing", text).lasting(lasting);
        reasons.push(Reason { name: Some(topic.clone()), ..reason });
    }
    if let Some((lasting, why)) = &facts.source {
        let Facts { topic, .. } = facts;
        let text = format!(
            "the brokers of topic \"{topic}\" have not responded for {} s: {why}",
            lasting.as_secs()
        );
        let reason = Reason::new("source_unreachable", text).lasting(*lasting);
        reasons.push(Reason { name: Some(topic.clone()), ..reason });
    }
    reasons.extend(facts.sinks.iter().filter_map(sink));
    if let Some((lasting, why)) = &facts.state {
        let text = format!(
            "no checkpoint of the state could be written for {} s: {why}",
            lasting.as_secs()
        );
        reasons.push(Reason::new("state_not_durable", text).lasting(*lasting));
    }
    for (set, (lasting, why)) in &facts.limits {
        let limits = match set {
            LimitSet::Live => "limits",
            LimitSet::WhatIf => "limits of --what-if",
        };
        let text = format!("the {limits} have been unreadable for {} s: {why}", lasting.as_secs());
        let reason = Reason::new("limits_unreadable", text).lasting(*lasting);
        reasons.push(Reason { limit_set: Some(*set), ..reason });
    }
    // A sink that keeps ticks waiting keeps the partitions waiting, too; they are not at fault.
    let sink_holds_up = facts.sinks.iter().any(|sink| sink.holds_up);
    if facts.tick_age.is_some() && !sink_holds_up {
        let held = facts.held_by.and_then(|partition| held(facts, partition));
        let named = held.as_ref().and_then(|reason| reason.partition);
        reasons.extend(held);
        reasons.extend(transaction(facts));
        reasons.extend(behind(facts, named));
        reasons.extend(waits(facts));
        reasons.extend(straggles(facts));
    }
    reasons
}

/// The wall clock that can't be followed.
fn clock(unsteady: Unsteady) -> Option<Reason> {
    let secs = |ms: u64| ms / 1000;
    Some(match unsteady {
        Unsteady::Unset { wall_ms } => {
            let time = format_ms(wall_ms);
            let text = format!(
                "the clock of this machine shows {time}: set it (NTP), nothing is read until then"
            );
            Reason::new("clock_unset", text)
        }
        Unsteady::Back { behind_ms, lasting } if behind_ms > STEP_MAX_MS => {
            let text = format!(
                "the clock of this machine was set back {} s ago: the run is {} s ahead of it, and goes \
                 on by elapsed time until it has caught up; start the run again if the clock is right",
                lasting.as_secs(),
                secs(behind_ms)
            );
            Reason::new("clock_step", text).lasting(lasting)
        }
        Unsteady::Forward { ahead_ms, lasting, believed_in } if ahead_ms > STEP_MAX_MS => {
            let text = format!(
                "the clock of this machine was set forward {} s ago: it is {} s ahead of the run, which \
                 goes on by elapsed time and believes the clock in {} s",
                lasting.as_secs(),
                secs(ahead_ms),
                believed_in.as_secs()
            );
            Reason::new("clock_step", text).lasting(lasting)
        }
        Unsteady::Back { .. } | Unsteady::Forward { .. } => return None,
    })
}

/// Returns the reason why a sink does not deliver, if there is one.
fn sink(sink: &SinkState) -> Option<Reason> {
    let SinkState { name, waiting, .. } = sink;
    if let Some(fault) = &sink.topic {
        return Some(sink_topic(name, fault));
    }
    let unit = sink.unit();
    let (reason, state, lasting, text) = match (&sink.unreachable, sink.fault.as_ref()) {
        (Some(since), _) => {
            let lasting = since.elapsed();
            (
                "sink_unreachable",
                None,
                lasting,
                format!("has been unreachable for {} s", secs(lasting)),
            )
        }
        (None, Some(Fault::NoReader)) => {
            let text = format!("has waited for a reader of its FIFO for {} s", secs(sink.stands));
            ("sink_blocked", Some("no_reader"), sink.stands, text)
        }
        (None, Some(Fault::Stands)) => {
            let who = if sink.is_stream { "its reader has" } else { "its brokers have" };
            let text = format!(
                "is blocked: {who} accepted nothing for {} s, and {waiting} {unit} wait",
                secs(sink.stands)
            );
            ("sink_blocked", Some("not_taken"), sink.stands, text)
        }
        (None, Some(Fault::Slow(oldest))) => {
            let text = format!(
                "is read too slowly: {waiting} {unit} wait, the oldest for {} s",
                secs(*oldest)
            );
            ("sink_blocked", Some("slow"), *oldest, text)
        }
        (None, Some(Fault::Failed(error))) => {
            let text = format!(
                "can't be written for {} s, and {waiting} {unit} wait: {error}",
                secs(sink.stands)
            );
            ("sink_failed", None, sink.stands, text)
        }
        (None, None) => return None,
    };
    let reason = Reason::new(reason, format!("sink \"{name}\" {text}")).lasting(lasting);
    Some(Reason { name: Some(name.clone()), state, ..reason })
}

/// A sink whose messages wait for a topic.
fn sink_topic(sink: &str, fault: &TopicFault) -> Reason {
    let lasting = fault.since.elapsed();
    let (seconds, why) = (secs(lasting), &fault.why);
    let (reason, text) = match fault.missing {
        true => (
            "sink_topic_missing",
            format!(
                "the topic of sink \"{sink}\" has been missing for {seconds} s; messages for it wait"
            ),
        ),
        false => (
            "sink_topic_unfit",
            format!(
                "another topic has had the name of sink \"{sink}\" for {seconds} s, and does not fit; \
                 messages for it wait: {why}"
            ),
        ),
    };
    Reason { name: Some(sink.to_owned()), ..Reason::new(reason, text).lasting(lasting) }
}

fn secs(duration: Duration) -> u64 {
    duration.as_secs()
}

/// Returns the name of a partition's fault, or `None` if it has none or is only paused.
fn state(partition: &Partition, behind_max: Duration) -> Option<&'static str> {
    match partition {
        Partition { answered: false, .. } => Some("unreachable"),
        Partition { unread: true, .. } => Some("unread"),
        Partition { paused: true, .. } => None,
        Partition { begun: false, .. } => Some("behind"),
        Partition { behind, .. } => (*behind > behind_max).then_some("behind"),
    }
}

fn lag(partition: &Partition) -> String {
    match partition.lag {
        Some(1) => ": 1 message is to be read".into(),
        Some(lag) => format!(": {lag} messages are to be read"),
        None => String::new(),
    }
}

/// Reports the partition that holds the watermark, unless it is fully read: then it is quiet, or merely the
/// slowest, as one always is.
fn held(facts: &Facts, number: u32) -> Option<Reason> {
    let stands = facts.watermark_stands;
    let Some(partition) = facts.partitions.iter().find(|partition| partition.number == number)
    else {
        // Another process reads the partition, and reports why.
        let text = format!(
            "partition {number}, which another process reads, holds the watermark for {} s",
            stands.as_secs()
        );
        let reason = Reason::new("watermark_held", text).lasting(stands);
        let reason = Reason { partition: Some(number), state: Some("elsewhere"), ..reason };
        // Behind an open transaction it is not a fault before it has lasted.
        let stands_max = (facts.behind_max * 2).max(TRANSACTION_PATIENCE);
        return (stands > stands_max).then_some(reason);
    };
    let state = state(partition, facts.behind_max)?;
    let lasting = partition.behind.max(stands);
    let text = format!(
        "partition {number} is {state} for {} s and holds the watermark{}",
        lasting.as_secs(),
        lag(partition)
    );
    let reason = Reason::new("watermark_held", text).lasting(lasting);
    Some(Reason { partition: Some(number), state: Some(state), ..reason })
}

/// The partition whose messages have been behind one open transaction for the longest time.
fn transaction(facts: &Facts) -> Option<Reason> {
    let stuck: Vec<&Partition> = facts
        .partitions
        .iter()
        .filter(|partition| !partition.withheld.skipped)
        .filter(|partition| partition.withheld.lasting > TRANSACTION_PATIENCE)
        .collect();
    let worst = stuck.iter().max_by_key(|partition| partition.withheld.lasting)?;
    let more = match stuck.len() {
        1 => String::new(),
        all => format!(" (and {} more)", all - 1),
    };
    let Withheld { messages, lasting, .. } = worst.withheld;
    let text = format!(
        "partition {}{more} has {messages} messages behind a transaction that has been open for {} s, \
         and holds the watermark",
        worst.number,
        lasting.as_secs()
    );
    let reason = Reason::new("open_transaction", text).lasting(lasting);
    Some(Reason { partition: Some(worst.number), ..reason })
}

/// The partition that is furthest behind, beside the one that was `named` already.
fn behind(facts: &Facts, named: Option<u32>) -> Option<Reason> {
    let others: Vec<(&Partition, &'static str)> = facts
        .partitions
        .iter()
        .filter(|partition| Some(partition.number) != named && partition.answered)
        .filter_map(|partition| Some((partition, state(partition, facts.behind_max)?)))
        .collect();
    let (worst, state) = others.iter().max_by_key(|(partition, _)| partition.behind)?;
    let more = match others.len() {
        1 => String::new(),
        all => format!(" (and {} more)", all - 1),
    };
    let lasting = worst.behind;
    let text = format!(
        "partition {}{more} is {state} for {} s{}",
        worst.number,
        lasting.as_secs(),
        lag(worst)
    );
    let reason = Reason::new("behind", text).lasting(lasting);
    Some(Reason { partition: Some(worst.number), state: Some(state), ..reason })
}

/// Partitions that wait for another one.
fn waits(facts: &Facts) -> Option<Reason> {
    let paused: Vec<u32> =
        facts.partitions.iter().filter(|one| one.paused).map(|one| one.number).collect();
    let first = *paused.first()?;
    let more = match paused.len() {
        1 => String::new(),
        all => format!(" (and {} more)", all - 1),
    };
    let other = match facts.slowest_in {
        Some(slowest) => format!("partition {slowest} is behind"),
        None => "others are behind".into(),
    };
    let text =
        format!("partition {first}{more} waits: {other}, by more than --max-skew in event time");
    let reason = Reason::new("partition_waits", text);
    Some(Reason { partition: Some(first), waits_for: facts.slowest_in, ..reason })
}

/// Partitions for which nobody waits, since their event time stays behind.
fn straggles(facts: &Facts) -> impl Iterator<Item = Reason> {
    let straggling = facts.partitions.iter().filter(|partition| partition.straggles);
    straggling.map(|Partition { number, reached, .. }| {
        let at = match reached {
            Some(reached) => format!("stands at {}", format_ms(*reached)),
            None => "is unknown: none of its records could be counted".into(),
        };
        let text = format!(
            "partition {number} stays behind the others by more than --max-skew: its event time {at}; the \
             others do not wait for it, and its records are late"
        );
        Reason { partition: Some(*number), ..Reason::new(STRAGGLING, text) }
    })
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
