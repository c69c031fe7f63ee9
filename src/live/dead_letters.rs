//! Messages with something in them that can't be counted, kept in a topic of their own.

use super::ingest::Refused;
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

    /// Takes a message, with where it was and why it was refused as its headers.
    pub(super) fn keep(&mut self, topic: &str, taken: &Taken<'_>, why: Refused) {
        let Taken { partition, offset, message } = taken;
        self.outbox.give(Letter {
            key: message.key.map(<[u8]>::to_vec),
            payload: message.payload.to_vec(),
            timestamp_ms: message.timestamp_ms,
            headers: vec![
                ("floodmark.topic", topic.to_owned()),
                ("floodmark.partition", partition.to_string()),
                ("floodmark.offset", offset.to_string()),
                ("floodmark.error", why.as_str().to_owned()),
            ],
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
