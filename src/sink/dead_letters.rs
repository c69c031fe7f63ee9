//! The messages that the brokers of other sinks refuse for good.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::state::SinkState;
use super::{ClosedTick, Sink};
use crate::base::error::Failure;
use crate::kafka::{BufferedProducer, Refused};
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::output::difference::PublishedChanges;

/// A topic for messages that the brokers of other sinks refuse. Clones publish to the same topic.
#[derive(Clone)]
pub struct DeadLetters(Arc<Mutex<BufferedProducer>>);

impl DeadLetters {
    /// Creates the sink.
    pub fn new(topic: BufferedProducer) -> Self {
        DeadLetters(Arc::new(Mutex::new(topic)))
    }

    fn topic(&self) -> MutexGuard<'_, BufferedProducer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message that the brokers of a topic have refused.
    pub(super) fn add(&self, sink: &str, refused: Refused) -> Result<(), Failure> {
        let mut topic = self.topic();
        topic.enqueue(refused.message.refused(sink, refused.refusal.as_str()));
        topic.poll()
    }

    /// Takes the messages that the brokers of a topic have refused.
    pub(super) fn take_from(&self, refusing: &mut BufferedProducer) -> Result<(), Failure> {
        let name = refusing.address().topic.clone();
        let mut topic = self.topic();
        for refused in refusing.take_refused() {
            topic.enqueue(refused.message.refused(&name, refused.refusal.as_str()));
        }
        topic.poll()
    }
}

impl Sink for DeadLetters {
    fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
        Ok(())
    }

    fn close(&mut self, _: &ClosedTick<'_>) -> Result<(), WriteError> {
        Ok(())
    }

    fn has_capacity(&mut self) -> bool {
        self.topic().has_capacity()
    }

    fn poll(&mut self, _: bool) -> Result<(), WriteError> {
        Ok(self.topic().poll()?)
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        Ok(self.topic().finish(&mut || false)?)
    }

    fn states(&mut self, states: &mut Vec<SinkState>) {
        states.push(SinkState::of(&self.topic()));
    }
}
