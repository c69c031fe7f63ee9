//! Messages with something in them that can't be counted, kept in a topic of their own.

use crate::error::Failure;
use crate::kafka::{Letter, Outbox, Taken};

/// Sends them on, as they came.
pub(super) struct DeadLetters {
    outbox: Outbox,
}

impl DeadLetters {
    pub(super) fn new(outbox: Outbox) -> Self {
        DeadLetters { outbox }
    }

    /// Whether more may come.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.has_room()
    }

    /// Where they go.
    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Takes a message.
    pub(super) fn keep(&mut self, taken: &Taken<'_>) {
        let message = &taken.message;
        self.outbox.give(Letter {
            key: message.key.map(<[u8]>::to_vec),
            payload: message.payload.to_vec(),
            timestamp_ms: message.timestamp_ms,
        });
    }

    /// Sends what it can, without waiting.
    pub(super) fn poll(&mut self) -> Result<(), Failure> {
        self.outbox.poll()
    }

    /// Waits until all is kept.
    pub(super) fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        self.outbox.finish(give_up)
    }
}
