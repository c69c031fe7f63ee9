//! Topics: changes, by the id of their violation, and totals of windows that have settled.

use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Change, Pair, Volume};
use metrics::counter;

use super::dead_letters::DeadLetters;
use super::state::{SinkState, Stood, count_sink_error, sink_name};
use super::stream::into_memory;
use super::{ClosedTick, Sink};
use crate::base::error::Failure;
use crate::kafka::{BufferedProducer, OwnedMessage};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::output::WriteError;
use crate::output::difference::Shown;
use crate::output::lines::Lines;
use crate::output::totals;

/// A topic that holds the last message of each key.
struct StateTopic {
    producer: BufferedProducer,
    /// The sink for messages that the brokers refuse.
    dead_letters: Option<DeadLetters>,
    /// Time for which the brokers have accepted nothing.
    stood: Stood,
}

impl StateTopic {
    fn new(producer: BufferedProducer, dead_letters: Option<DeadLetters>) -> Self {
        counter!("floodmark_sink_errors_total", "sink" => sink_name(&producer)).increment(0);
        StateTopic { producer, dead_letters, stood: Stood::default() }
    }

    fn poll(&mut self) -> Result<(), WriteError> {
        let polled = self.producer.poll();
        if polled.is_err() {
            count_sink_error(&sink_name(&self.producer));
        }
        Ok(polled.and(self.take_refused())?)
    }

    fn take_refused(&mut self) -> Result<(), Failure> {
        match &self.dead_letters {
            Some(dead_letters) => dead_letters.take_from(&mut self.producer),
            None => {
                // They are logged and counted.
                self.producer.take_refused();
                Ok(())
            }
        }
    }

    fn is_done(&mut self) -> bool {
        self.producer.is_done() || self.producer.poll().is_err()
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        Ok(self.producer.finish(&mut || false).and(self.take_refused())?)
    }

    fn state(&mut self) -> SinkState {
        let waits = self.producer.waiting() > 0;
        let stands = self.stood.look(self.producer.counts().delivered, waits);
        SinkState::of_topic(&self.producer, stands)
    }
}

/// A topic of the changes of live limits: a hypothetical violation is no state.
pub struct AlertTopic {
    topic: StateTopic,
    windows: Windows,
}

impl AlertTopic {
    /// Creates the sink. Messages that the brokers refuse go to `dead_letters`.
    pub fn new(
        producer: BufferedProducer,
        dead_letters: Option<DeadLetters>,
        windows: Windows,
    ) -> Self {
        AlertTopic { topic: StateTopic::new(producer, dead_letters), windows }
    }
}

impl Sink for AlertTopic {
    fn changes(&mut self, changes: &Shown<'_>, catalog: &Catalog) -> Result<(), WriteError> {
        let mut lines = Lines::new(catalog, &self.windows);
        for (tick, change) in changes.iter() {
            if catalog.set(change.violation.limit) == LimitSet::Live {
                self.topic.producer.give(alert(tick, change, &mut lines));
            }
        }
        self.topic.poll()
    }

    fn close(&mut self, _: &ClosedTick<'_>) -> Result<(), WriteError> {
        // A ranking is no state either.
        self.topic.poll()
    }

    fn has_capacity(&mut self) -> bool {
        self.topic.producer.has_room()
    }

    fn poll(&mut self, _: bool) -> Result<(), WriteError> {
        self.topic.poll()
    }

    fn attached(&self) -> usize {
        1
    }

    fn is_done(&mut self) -> bool {
        self.topic.is_done()
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.topic.finish()
    }

    fn states(&mut self, states: &mut Vec<SinkState>) {
        states.push(self.topic.state());
    }
}

/// A topic of the totals of windows that have settled.
pub struct TotalsTopic {
    topic: StateTopic,
    windows: Windows,
}

impl TotalsTopic {
    /// Creates the sink. Messages that the brokers refuse go to `dead_letters`.
    pub fn new(
        producer: BufferedProducer,
        dead_letters: Option<DeadLetters>,
        windows: Windows,
    ) -> Self {
        TotalsTopic { topic: StateTopic::new(producer, dead_letters), windows }
    }
}

impl Sink for TotalsTopic {
    fn changes(&mut self, _: &Shown<'_>, _: &Catalog) -> Result<(), WriteError> {
        Ok(())
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        for (window, rows) in &closed.outputs.rows {
            for (pair, volume) in rows {
                let message = total(&self.windows, *window, *pair, *volume, closed.tick);
                self.topic.producer.give(message);
            }
        }
        self.topic.poll()
    }

    fn has_capacity(&mut self) -> bool {
        self.topic.producer.has_room()
    }

    fn poll(&mut self, _: bool) -> Result<(), WriteError> {
        self.topic.poll()
    }

    fn is_done(&mut self) -> bool {
        self.topic.is_done()
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.topic.finish()
    }

    fn states(&mut self, states: &mut Vec<SinkState>) {
        states.push(self.topic.state());
    }
}

/// Returns a change as a message. The id of its violation is the key, so that a compacted topic holds the last
/// change of each violation.
fn alert(tick: u64, change: &Change, lines: &mut Lines<'_>) -> OwnedMessage {
    let mut payload = Vec::with_capacity(512);
    let id = lines.write(&mut payload, tick, change).expect("memory takes everything");
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
