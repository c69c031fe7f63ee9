//! The topics of a run with a state: all messages of a tick, and the record of the tick, in one transaction.

use std::collections::HashSet;

use floodmark_dataflows::types::VersionId;
use metrics::counter;

use super::dead_letters::DeadLetters;
use super::state::{SinkState, StallTimer, count_sink_error};
use super::topic::Content;
use super::{ClosedTick, Sink};
use crate::base::error::Failure;
use crate::kafka::Transactions;
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::output::difference::PublishedChanges;
use crate::state::TickRecord;

/// Topics of one cluster, which get the messages of each tick together.
pub struct TransactionalTopics {
    contents: Vec<Box<dyn Content + Send>>,
    transactions: Transactions,
    /// The sink for messages that the brokers refuse.
    dead_letters: Option<DeadLetters>,
    stall: StallTimer,
    has_failed: bool,
}

impl TransactionalTopics {
    /// Creates the sink. Each content is that of the topic of the same number.
    pub fn new(
        contents: Vec<Box<dyn Content + Send>>,
        transactions: Transactions,
        dead_letters: Option<DeadLetters>,
    ) -> Self {
        for address in transactions.addresses() {
            let sink = format!("kafka:{}", address.topic);
            counter!("floodmark_sink_errors_total", "sink" => sink).increment(0);
        }
        let stall = StallTimer::default();
        TransactionalTopics { contents, transactions, dead_letters, stall, has_failed: false }
    }

    fn check(&mut self) -> Result<(), WriteError> {
        for (topic, refused) in self.transactions.take_refused() {
            let name = self.transactions.addresses()[topic].topic.clone();
            let error = refused.error(&name);
            tracing::error!(topic = name, %error, "the broker refuses a message for good: it is not delivered");
            counter!(
                "floodmark_sink_refused_messages_total",
                "sink" => format!("kafka:{name}"), "error" => refused.refusal.as_str()
            )
            .increment(1);
            if let Some(dead_letters) = &self.dead_letters {
                dead_letters.add(&name, refused)?;
            }
        }
        // The first failure ends the run; until then the others go on.
        let checked = match self.has_failed {
            true => Ok(()),
            false => self.transactions.check(),
        };
        if checked.is_err() {
            self.has_failed = true;
            for address in self.transactions.addresses() {
                count_sink_error(&format!("kafka:{}", address.topic));
            }
        }
        Ok(checked?)
    }
}

impl Sink for TransactionalTopics {
    fn changes(
        &mut self,
        changes: &PublishedChanges<'_>,
        catalog: &Catalog,
    ) -> Result<(), WriteError> {
        let TransactionalTopics { contents, transactions, .. } = self;
        for (topic, content) in contents.iter_mut().enumerate() {
            content.changes(changes, catalog, &mut |message| transactions.send(topic, message));
        }
        self.check()
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        let TransactionalTopics { contents, transactions, .. } = self;
        for (topic, content) in contents.iter_mut().enumerate() {
            content.close(closed, &mut |message| transactions.send(topic, message));
        }
        if let Some(record) = closed.record {
            let holds_back = contents.iter().any(|content| content.defers());
            let record = serde_json::to_vec(&TickRecord { holds_back, ..record.clone() })
                .map_err(|error| Failure::from(anyhow::anyhow!(error)))?;
            transactions.end_tick(closed.tick, record);
        }
        self.check()
    }

    fn restore(&mut self, changes: &PublishedChanges<'_>, catalog: &Catalog) {
        self.contents.iter_mut().for_each(|content| content.restore(changes, catalog));
    }

    fn close_restored(&mut self, closed: &ClosedTick<'_>) {
        self.contents.iter_mut().for_each(|content| content.close_restored(closed));
    }

    fn durable(&self) -> Option<u64> {
        Some(self.transactions.durable())
    }

    fn forget_records(&mut self, before: u64) {
        self.transactions.forget(before);
    }

    fn has_capacity(&mut self) -> bool {
        self.transactions.has_capacity()
    }

    fn poll(&mut self, _: bool) -> Result<(), WriteError> {
        self.check()
    }

    fn attached(&self) -> usize {
        self.contents.iter().filter(|content| content.has_changes()).count()
    }

    fn is_done(&mut self) -> bool {
        self.transactions.close();
        self.transactions.is_done() || self.transactions.check().is_err()
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        if self.transactions.check().is_ok() {
            self.transactions.finish()?;
        }
        self.check()
    }

    fn states(&mut self, states: &mut Vec<SinkState>) {
        let (delivered, waiting) = self.transactions.counts();
        let stands = self.stall.observe(delivered, waiting > 0);
        let holds_up = !self.transactions.has_capacity();
        for (topic, address) in self.transactions.addresses().iter().enumerate() {
            let fault = self.transactions.topic_fault(topic);
            let unreachable = self.transactions.unreachable_since();
            // They share one queue: the first topic stands for all.
            let waiting = if topic == 0 { waiting } else { 0 };
            let name = format!("kafka:{}", address.topic);
            states.push(SinkState::of_transactions(
                name,
                waiting,
                unreachable,
                fault,
                stands,
                holds_up,
            ));
        }
    }

    fn defers(&self) -> bool {
        self.contents.iter().any(|content| content.defers())
    }

    fn deferred_versions(&self) -> HashSet<VersionId> {
        self.contents.iter().flat_map(|content| content.deferred_versions()).collect()
    }
}
