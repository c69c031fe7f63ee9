//! A reader of the topic of alerts: the violations that stand, and the effect of a change of limits.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodmark_dataflows::types::{Bound, Event, Metric, Reason};
use serde::Deserialize;

use crate::base::error::Failure;
use crate::kafka::{Address, ClientOptions, SourceOptions, Start, Topic, TopicReader};

/// An alert, as it is on the topic.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Alert {
    pub(super) event: Event,
    pub(super) reason: Reason,
    id: String,
    limit_name: String,
    limit_value: Option<serde_json::Number>,
    bound: Bound,
    metric: Metric,
    entity: Entity,
    pub(super) window_start: String,
    amount: i64,
}

/// The addresses of an entity.
#[derive(Clone, Debug, Deserialize)]
struct Entity {
    source: Option<String>,
    destination: Option<String>,
    host: Option<String>,
}

impl std::fmt::Display for Entity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.source, &self.destination, &self.host) {
            (Some(source), Some(destination), _) => write!(f, "{source} > {destination}"),
            (Some(source), None, _) => write!(f, "source {source}"),
            (None, Some(destination), _) => write!(f, "destination {destination}"),
            (None, None, Some(host)) => write!(f, "host {host}"),
            (None, None, None) => f.write_str("total"),
        }
    }
}

impl Alert {
    /// Formats window, limit, value, entity and amount, for people.
    pub(super) fn cells(&self) -> [String; 5] {
        let bound = match self.bound {
            Bound::Max => "max",
            Bound::Min => "min",
        };
        let value = match &self.limit_value {
            Some(value) => format!("{bound} {value}"),
            None => "gone".to_owned(),
        };
        let unit = match self.metric {
            Metric::Bytes => "bytes",
            Metric::Packets => "packets",
        };
        // Hours and minutes of a time such as 2017-10-01T18:45:00Z: the capture is of one day.
        let window = self.window_start.get(11..16).unwrap_or(&self.window_start).to_owned();
        let (limit, who) = (self.limit_name.clone(), self.entity.to_string());
        [window, limit, value, who, format!("{} {unit}", self.amount)]
    }
}

/// The effect of a change of limits, as far as its alerts have arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Changes in all.
    pub(super) changes: u64,
    /// Raised violations among them.
    pub(super) raised: u64,
    /// The arrival time of the last one.
    pub(super) last: Option<Instant>,
}

/// Reads the alerts.
pub(super) struct Alerts {
    address: Address,
    client: ClientOptions,
    source: TopicReader,
    active: BTreeMap<String, Alert>,
    effect: Effect,
}

fn open(address: &Address, client: &ClientOptions, start: Start) -> Result<TopicReader, Failure> {
    let options = SourceOptions {
        start,
        idle_timeout: Duration::from_secs(1),
        max_skew_ms: u64::MAX,
        group: "floodmark-demo".into(),
        max_transaction: Duration::MAX,
        skip_open_transactions: false,
    };
    let topic = Topic::open(address, client, options)?;
    let thread = std::thread::current();
    TopicReader::open(Arc::new(topic), 0, 1, Arc::new(move || thread.unpark()), None)
}

impl Alerts {
    /// Opens the topic at the first alert. New alerts wake this thread.
    pub(super) fn open(address: &Address) -> Result<Self, Failure> {
        // Apache Kafka responds as soon as there is a message; the mock broker only after the wait.
        let client = ClientOptions::new(["fetch.wait.max.ms=2"])?.ignore_environment();
        Ok(Alerts {
            address: address.clone(),
            source: open(address, &client, Start::Earliest)?,
            client,
            active: BTreeMap::new(),
            effect: Effect::default(),
        })
    }

    /// Reads the alerts that have arrived since, in order.
    pub(super) fn read_new(&mut self) -> Result<Vec<Alert>, Failure> {
        let mut alerts = Vec::new();
        let mut bad = None;
        self.source.poll(|received| {
            match serde_json::from_slice::<Alert>(received.message.payload.unwrap_or_default()) {
                Ok(alert) => alerts.push(alert),
                Err(error) => bad = Some(error),
            }
            ControlFlow::Continue(None)
        })?;
        if let Some(error) = bad {
            let error = anyhow::Error::new(error).context("reading an alert from the topic");
            return Err(error.into());
        }
        for alert in &alerts {
            self.fold(alert);
        }
        Ok(alerts)
    }

    fn fold(&mut self, alert: &Alert) {
        match alert.event {
            Event::Raised | Event::Updated => {
                self.active.insert(alert.id.clone(), alert.clone());
            }
            Event::Cleared => drop(self.active.remove(&alert.id)),
        }
        if alert.reason == Reason::LimitChange {
            self.effect.changes += 1;
            self.effect.raised += u64::from(alert.event == Event::Raised);
            self.effect.last = Some(Instant::now());
        }
    }

    /// Returns the number of alerts on the topic. Nobody must be adding more.
    pub(super) fn end(&self) -> Result<Vec<(i32, i64)>, Failure> {
        Ok(open(&self.address, &self.client, Start::Latest)?.positions())
    }

    /// Whether all alerts before `end` were read.
    pub(super) fn has_reached(&self, end: &[(i32, i64)]) -> bool {
        self.source.positions() == end
    }

    /// The violations that stand, by window.
    pub(super) fn active(&self) -> Vec<&Alert> {
        let mut active: Vec<&Alert> = self.active.values().collect();
        active.sort_by_cached_key(|alert| {
            (alert.window_start.clone(), alert.limit_name.clone(), alert.entity.to_string())
        });
        active
    }

    /// Returns the effect of the change of the limit.
    pub(super) fn effect(&self) -> Effect {
        self.effect
    }
}
