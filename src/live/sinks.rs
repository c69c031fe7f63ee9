//! The sinks of a live run: publishes changes, totals and dead letters.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodmark_dataflows::reports::Late;
use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Change, Event, Pair, Reason, Volume};
use metrics::{Counter, counter, gauge};

use super::metrics::{event, reason};
use super::sink_state::{SinkState, Stood, count_sink_error, sink_name};
use super::streams::{Stream, into_memory};
use crate::base::error::Failure;
use crate::computation::Outcome;
use crate::driver::standing;
use crate::kafka::{BufferedProducer, OwnedMessage};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::output::difference::{Difference, Shown};
use crate::output::lines::Lines;
use crate::output::totals;

/// Interval at which a run that shuts down logs the sinks it still waits for.
const FINISH_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Time after which a run that shuts down first logs the sinks it still waits for.
const FINISH_PATIENCE: Duration = Duration::from_secs(1);

/// Interval between two checks, at shutdown, of whether everything is delivered.
const FINISH_INTERVAL: Duration = Duration::from_millis(5);

/// One sink for changes.
pub enum Alerts {
    /// Lines on standard output or in a file.
    Stream(Stream),
    /// A topic, by the id of the violation.
    Topic(Box<BufferedProducer>),
}

/// All sinks of a run, and the state needed to publish to them.
pub struct Sinks {
    alerts: Vec<Alerts>,
    /// The topic for totals of windows that have settled.
    totals: Option<BufferedProducer>,
    /// The topic for messages that the brokers of the others refuse.
    dead_letters: Option<BufferedProducer>,
    windows: Windows,
    pub(super) catalog: Arc<Catalog>,
    /// For each topic by name, how long it has accepted nothing.
    stood: BTreeMap<String, Stood>,
    /// With `--only-difference`, the state of the comparison of the two sets of limits; `None` publishes all
    /// changes.
    pub(super) difference: Option<Difference>,
    /// Active violations, by the set of their limit.
    standing: BTreeMap<LimitSet, u64>,
    /// Records that arrived after their window had settled.
    pub(super) dropped: u64,
}

impl Sinks {
    /// Creates the sinks: changes go to `alerts`, totals of settled windows to `totals`.
    pub fn new(
        alerts: Vec<Alerts>,
        totals: Option<BufferedProducer>,
        windows: Windows,
        catalog: Catalog,
    ) -> Self {
        let mut sinks = Sinks {
            alerts,
            totals,
            dead_letters: None,
            windows,
            catalog: Arc::new(catalog),
            stood: BTreeMap::new(),
            difference: None,
            standing: BTreeMap::new(),
            dropped: 0,
        };
        sinks.begin_counts();
        for alerts in &mut sinks.alerts {
            if let Alerts::Stream(stream) = alerts {
                stream.begin(&sinks.catalog);
            }
        }
        sinks
    }

    /// Messages that brokers refuse for good go to `dead_letters`.
    pub fn with_dead_letters(self, dead_letters: Option<BufferedProducer>) -> Self {
        Sinks { dead_letters, ..self }
    }

    /// Shows only in what the two sets of limits of the catalog differ. A topic gets what it always does:
    /// the state of the live one.
    pub fn only_difference(self) -> Self {
        Sinks { difference: Some(Difference::default()), ..self }
    }

    /// Violations that stand, of limits that hold.
    pub(super) fn standing(&self) -> u64 {
        self.standing.get(&LimitSet::Live).copied().unwrap_or(0)
    }

    fn buffered_producers(&mut self) -> impl Iterator<Item = &mut BufferedProducer> {
        let alerts = self.alerts.iter_mut().filter_map(|alerts| match alerts {
            Alerts::Topic(buffered) => Some(&mut **buffered),
            Alerts::Stream(_) => None,
        });
        alerts.chain(&mut self.totals)
    }

    fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.alerts.iter().filter_map(|alerts| match alerts {
            Alerts::Stream(stream) => Some(stream),
            Alerts::Topic(_) => None,
        })
    }

    /// Whether there is room for another tick, or for more changes of one.
    pub(super) fn has_room(&mut self) -> bool {
        self.streams().all(Stream::has_capacity)
            && self.buffered_producers().all(|buffered| buffered.has_room())
            && self.dead_letters.as_ref().is_none_or(BufferedProducer::has_room)
    }

    /// Sends on what can be sent, without waiting, and looks after streams. Every sink has its turn, also
    /// after one has failed; the first failure is returned.
    pub(super) fn poll(&mut self) -> Result<(), Failure> {
        let mut ended = Ok(());
        let mut attached = self.alerts.iter().filter(|alerts| alerts.is_attached()).count();
        for alerts in &mut self.alerts {
            if let Alerts::Stream(stream) = alerts {
                let was_attached = stream.is_attached();
                ended = ended.and(stream.look(attached > 1));
                attached -= usize::from(was_attached && !stream.is_attached());
            }
        }
        for buffered in self.buffered_producers() {
            let polled = buffered.poll().inspect_err(|_| count_sink_error(&sink_name(buffered)));
            ended = ended.and(polled);
        }
        ended.and(self.set_aside())
    }

    /// Sets aside what brokers refuse.
    fn set_aside(&mut self) -> Result<(), Failure> {
        let mut refused = Vec::new();
        for buffered in self.buffered_producers() {
            let topic = buffered.address().topic.clone();
            let taken = buffered.take_refused().into_iter();
            refused.extend(taken.map(|one| one.letter.refused(&topic, one.refusal.as_str())));
        }
        let Some(dead_letters) = &mut self.dead_letters else { return Ok(()) };
        refused.into_iter().for_each(|letter| dead_letters.give(letter));
        dead_letters.poll()
    }

    /// Returns the state of each sink.
    pub(super) fn states(&mut self) -> Vec<SinkState> {
        let mut stood = std::mem::take(&mut self.stood);
        let of_topic = |buffered: &mut BufferedProducer| {
            let stood = stood.entry(sink_name(buffered)).or_default();
            let lasting = stood.look(buffered.counts().delivered, buffered.waiting() > 0);
            SinkState::of_topic(buffered, lasting)
        };
        let mut states: Vec<SinkState> = self.buffered_producers().map(of_topic).collect();
        self.stood = stood;
        states.extend(self.streams().map(Stream::state));
        states.extend(self.dead_letters.as_ref().map(SinkState::of));
        states
    }

    /// Accepts changes of a tick, without waiting.
    pub(super) fn changes(&mut self, tick: u64, changes: Vec<Change>) -> Result<(), Failure> {
        self.count_changes(&changes);
        let Sinks { alerts, windows, catalog, difference, .. } = self;
        for alerts in alerts {
            match alerts {
                Alerts::Stream(stream) if difference.is_none() => {
                    stream.accept(&Shown::All(tick, &changes), windows, catalog);
                }
                Alerts::Stream(_) => {}
                // The state of violations: what would be, if, does not stand.
                Alerts::Topic(buffered) => {
                    let is_live =
                        |said: &&Change| catalog.set(said.violation.limit) == LimitSet::Live;
                    let mut lines = Lines::new(catalog, windows);
                    for said in changes.iter().filter(is_live) {
                        buffered.give(alert(tick, said, &mut lines));
                    }
                }
            }
        }
        if let Some(difference) = difference {
            difference.accept(changes);
        }
        self.poll()
    }

    /// Accepts the outcome of a tick, without waiting; all its changes come before.
    pub(super) fn tick(&mut self, tick: u64, outcome: Outcome) -> Result<(), Failure> {
        self.count_late(&outcome.late);
        let Sinks { alerts, windows, catalog, difference, .. } = self;
        let chosen = difference.as_mut().map(|difference| {
            let chosen = difference.end_tick(tick, &outcome.retired, catalog);
            Shown::Chosen(chosen)
        });
        for alerts in alerts {
            // A ranking is no state, so that no topic has it.
            if let Alerts::Stream(stream) = alerts {
                if let Some(chosen) = &chosen {
                    stream.accept(chosen, windows, catalog);
                }
                stream.end_tick(tick, &outcome.top);
            }
        }
        if let Some(buffered) = &mut self.totals {
            for (window, rows) in outcome.rows {
                for (pair, volume) in rows {
                    buffered.give(total(windows, window, pair, volume, tick));
                }
            }
        }
        self.poll()
    }

    /// Registers every counter at zero: a rate needs a value before the first event.
    fn begin_counts(&mut self) {
        let alerts = self.alerts.iter().map(Alerts::name);
        for sink in alerts.chain(self.totals.as_ref().map(sink_name)) {
            counter!("floodmark_sink_errors_total", "sink" => sink).increment(0);
        }
        for event in [Event::Raised, Event::Updated, Event::Cleared].map(event) {
            for reason in
                [Reason::LimitChange, Reason::Schedule, Reason::LateData, Reason::Data].map(reason)
            {
                for set in self.catalog.sets() {
                    changes_total(event, reason, *set).increment(0);
                }
            }
        }
        self.count_changes(&[]);
        self.count_late(&Late::default());
    }

    fn count_changes(&mut self, changes: &[Change]) {
        let set_of = |said: &Change| self.catalog.set(said.violation.limit);
        for set in self.catalog.sets() {
            let of_set = changes.iter().filter(|said| set_of(said) == *set);
            let before = self.standing.entry(*set).or_default();
            *before = standing(*before, of_set);
            gauge!("floodmark_violations", set.labels([("status", "standing")]))
                .set(*before as f64);
        }
        let mut counts = HashMap::new();
        for said in changes {
            *counts.entry((said.event, said.reason, set_of(said))).or_insert(0) += 1;
        }
        for ((event_is, reason_is, set), count) in counts {
            changes_total(event(event_is), reason(reason_is), set).increment(count);
        }
    }

    fn count_late(&mut self, late: &Late) {
        self.dropped += late.dropped;
        for (disposition, records) in [("counted", late.counted), ("dropped", late.dropped)] {
            counter!("floodmark_late_records_total", "disposition" => disposition)
                .increment(records);
        }
    }

    /// Waits until everything is delivered, or until `give_up` returns true. A failing sink does not keep the
    /// others from delivering. Calls `tell` with the state of the sinks from time to time.
    pub(super) fn finish(
        &mut self,
        give_up: &mut dyn FnMut() -> bool,
        tell: &dyn Fn(Vec<SinkState>),
    ) -> Result<(), Failure> {
        let (mut said, mut ended) = (Instant::now(), Ok(()));
        let mut patience = FINISH_PATIENCE;
        while !self.is_done() && !give_up() {
            ended = ended.and(self.poll());
            if said.elapsed() >= patience {
                (said, patience) = (Instant::now(), FINISH_LOG_INTERVAL);
                self.log_waiting();
            }
            tell(self.states());
            std::thread::sleep(FINISH_INTERVAL);
        }
        ended = ended.and(self.poll());
        for buffered in self.buffered_producers() {
            ended = ended.and(buffered.finish(give_up));
        }
        ended = ended.and(self.set_aside());
        match &mut self.dead_letters {
            Some(dead_letters) => ended.and(dead_letters.finish(give_up)),
            None => ended,
        }
    }

    /// Whether all is delivered, or never will be.
    fn is_done(&mut self) -> bool {
        self.streams().all(Stream::is_done)
            && self
                .buffered_producers()
                .all(|buffered| buffered.is_done() || buffered.poll().is_err())
    }

    /// Logs what the end of the run waits for.
    fn log_waiting(&mut self) {
        let waiting: Vec<String> = self
            .states()
            .iter()
            .filter(|state| state.waiting > 0)
            .map(|state| format!("sink \"{}\" ({} {})", state.name, state.waiting, state.unit()))
            .collect();
        if !waiting.is_empty() {
            tracing::warn!(
                "the run ends when all is delivered: it waits for {}; a second SIGTERM or SIGINT ends it at \
                 once, and what waits is lost",
                waiting.join(", ")
            );
        }
    }
}

impl Alerts {
    /// As the label of a metric.
    fn name(&self) -> String {
        match self {
            Alerts::Stream(stream) => stream.name().to_owned(),
            Alerts::Topic(buffered) => sink_name(buffered),
        }
    }

    /// Whether changes still go there.
    fn is_attached(&self) -> bool {
        match self {
            Alerts::Stream(stream) => stream.is_attached(),
            Alerts::Topic(_) => true,
        }
    }
}

fn changes_total(event: &'static str, reason: &'static str, set: LimitSet) -> Counter {
    counter!("floodmark_changes_total", set.labels([("event", event), ("reason", reason)]))
}

/// A change as a message: the id is the key, so that a compacted topic holds the last word on each
/// violation.
fn alert(tick: u64, said: &Change, lines: &mut Lines<'_>) -> OwnedMessage {
    let mut payload = Vec::with_capacity(512);
    let id = lines.write(&mut payload, tick, said).expect("memory takes everything");
    payload.truncate(payload.trim_ascii_end().len());
    OwnedMessage {
        key: Some(id.to_vec()),
        payload,
        timestamp_ms: Some(tick),
        ..OwnedMessage::default()
    }
}

fn total(windows: &Windows, window: Window, pair: Pair, volume: Volume, tick: u64) -> OwnedMessage {
    let key = totals::key(window, &pair).into_bytes();
    let mut payload = Vec::with_capacity(192);
    into_memory(&mut payload, |out| totals::write_json(out, windows, window, &pair, volume, tick));
    OwnedMessage {
        key: Some(key),
        payload,
        timestamp_ms: Some(windows.end_ms(window)),
        ..OwnedMessage::default()
    }
}
