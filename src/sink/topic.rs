//! Topics: changes, by the id of their violation, and totals of windows that have settled.

use std::collections::HashSet;
use std::sync::Arc;

use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Change, Pair, VersionId, Volume};
use metrics::counter;

use super::dead_letters::DeadLetters;
use super::state::{SinkState, StallTimer, count_sink_error, sink_name};
use super::stream::into_memory;
use super::{ClosedTick, Sink};
use crate::base::error::Failure;
use crate::kafka::{BufferedProducer, Header, OwnedMessage};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::output::WriteError;
use crate::output::difference::PublishedChanges;
use crate::output::lines::ChangeLines;
use crate::output::totals;

/// Sends a message to the topic.
pub(super) type SendMessage<'a> = &'a mut dyn FnMut(OwnedMessage);

/// The messages of a topic.
pub trait Content {
    /// Whether the topic gets changes.
    fn has_changes(&self) -> bool;

    /// Sends the messages of changes.
    fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog, _: SendMessage<'_>) {}

    /// Sends the messages of a closed tick.
    fn close(&mut self, _: &ClosedTick<'_>, _: SendMessage<'_>) {}

    /// Notes changes of a tick that the topic has had from an earlier run, which is being continued.
    fn restore(&mut self, _: &PublishedChanges<'_>, _: &Catalog) {}

    /// Notes a closed tick that the topic has had from an earlier run.
    fn close_restored(&mut self, _: &ClosedTick<'_>) {}

    /// Whether changes are held back, to be sent later.
    fn defers(&self) -> bool {
        false
    }

    /// Returns the versions that these name.
    fn deferred_versions(&self) -> HashSet<VersionId> {
        HashSet::new()
    }
}

/// A topic that holds the last message of each key.
pub struct StateTopic<C> {
    content: C,
    producer: BufferedProducer,
    /// The sink for messages that the brokers refuse.
    dead_letters: Option<DeadLetters>,
    /// Time for which the brokers have accepted nothing.
    stall: StallTimer,
}

impl<C: Content> StateTopic<C> {
    /// Creates the sink. Messages that the brokers refuse go to `dead_letters`.
    pub fn new(content: C, producer: BufferedProducer, dead_letters: Option<DeadLetters>) -> Self {
        counter!("floodmark_sink_errors_total", "sink" => sink_name(&producer)).increment(0);
        StateTopic { content, producer, dead_letters, stall: StallTimer::default() }
    }
}

impl<C> StateTopic<C> {
    fn send_waiting(&mut self) -> Result<(), WriteError> {
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
}

impl<C: Content> Sink for StateTopic<C> {
    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
    ) -> Result<(), WriteError> {
        self.content.changes(changes, catalog, &mut |message| self.producer.enqueue(message));
        self.send_waiting()
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        self.content.close(closed, &mut |message| self.producer.enqueue(message));
        self.send_waiting()
    }

    fn has_capacity(&mut self) -> bool {
        self.producer.has_capacity()
    }

    fn poll(&mut self, _: bool) -> Result<(), WriteError> {
        self.send_waiting()
    }

    fn attached(&self) -> usize {
        usize::from(self.content.has_changes())
    }

    fn is_done(&mut self) -> bool {
        self.producer.is_done() || self.producer.poll().is_err()
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        Ok(self.producer.finish(&mut || false).and(self.take_refused())?)
    }

    fn states(&mut self, states: &mut Vec<SinkState>) {
        let waits = self.producer.waiting() > 0;
        let stands = self.stall.observe(self.producer.counts().delivered, waits);
        states.push(SinkState::of_topic(&self.producer, stands));
    }

    fn defers(&self) -> bool {
        self.content.defers()
    }

    fn deferred_versions(&self) -> HashSet<VersionId> {
        self.content.deferred_versions()
    }
}

/// The changes of live limits. Hypothetical violations and rankings are no state.
pub struct Alerts {
    windows: Windows,
    headers: Option<Arc<[Header]>>,
}

impl Alerts {
    /// Creates the messages, which all have these headers.
    pub fn new(windows: Windows, headers: Option<Arc<[Header]>>) -> Self {
        Alerts { windows, headers }
    }

    /// Whether a change is among them.
    pub(super) fn has(change: &Change, catalog: &Catalog) -> bool {
        catalog.set(change.violation.limit) == LimitSet::Live
    }

    pub(super) fn lines<'a>(&'a self, catalog: &'a Catalog) -> ChangeLines<'a> {
        ChangeLines::new(catalog, &self.windows)
    }

    /// Returns a change as a message. The id of its violation is the key, so that a compacted topic holds the last
    /// change of each violation.
    pub(super) fn message(
        &self,
        tick: u64,
        change: &Change,
        lines: &mut ChangeLines<'_>,
    ) -> OwnedMessage {
        let mut payload = Vec::with_capacity(512);
        let id = lines.write(&mut payload, tick, change).expect("memory takes everything");
        payload.truncate(payload.trim_ascii_end().len());
        self.owned(id.to_vec(), payload, tick)
    }

    /// Returns a message with this key and value.
    pub(super) fn owned(&self, key: Vec<u8>, payload: Vec<u8>, tick: u64) -> OwnedMessage {
        OwnedMessage {
            key: Some(key),
            payload,
            timestamp_ms: Some(tick),
            common_headers: self.headers.clone(),
            ..OwnedMessage::default()
        }
    }
}

impl Content for Alerts {
    fn has_changes(&self) -> bool {
        true
    }

    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
        send: SendMessage<'_>,
    ) {
        let mut lines = self.lines(catalog);
        for (tick, change) in changes.iter().filter(|(_, change)| Alerts::has(change, catalog)) {
            send(self.message(tick, change, &mut lines));
        }
    }
}

/// The totals of windows that have settled.
pub struct Totals {
    windows: Windows,
}

impl Totals {
    /// Creates the messages.
    pub fn new(windows: Windows) -> Self {
        Totals { windows }
    }
}

impl Content for Totals {
    fn has_changes(&self) -> bool {
        false
    }

    fn close(&mut self, closed: &ClosedTick<'_>, send: SendMessage<'_>) {
        for (window, rows) in &closed.outputs.rows {
            for (pair, volume) in rows {
                send(total(&self.windows, *window, *pair, *volume, closed.tick));
            }
        }
    }
}

/// Messages of the input that can't be counted.
pub struct UncountedMessages;

impl Content for UncountedMessages {
    fn has_changes(&self) -> bool {
        false
    }

    fn close(&mut self, closed: &ClosedTick<'_>, send: SendMessage<'_>) {
        closed.outputs.dead_letters.iter().cloned().for_each(send);
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
