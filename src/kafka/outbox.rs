//! A producer with room for what it can't take at once, for those who must not wait.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Address, ClientOptions, Counts, Outgoing, Producer, Sent, Tuning};
use crate::error::Failure;
use crate::record::Message;

/// What is kept at most of a message that can't be used: topics take 1 MB, headers and all, unless they
/// are told otherwise.
const DEAD_PAYLOAD_MAX: usize = 800_000;
const DEAD_KEY_MAX: usize = 100_000;

/// A message of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub payload: Vec<u8>,
    /// Its time, in milliseconds since 1970; `None`: when it is sent.
    pub timestamp_ms: Option<u64>,
    /// Its partition, if not by its key.
    pub partition: Option<i32>,
    /// What is said about it beside it, by name.
    pub headers: Vec<(&'static str, String)>,
}

impl Letter {
    /// A message with something in it that can't be used: as it came, with where it was and what is wrong
    /// as its headers. One that is larger than topics take by default is cut, and a header says how large
    /// it was: it must not end those who set it aside.
    pub fn dead(
        message: &Message<'_>,
        origin: impl IntoIterator<Item = (&'static str, String)>,
        error: &str,
    ) -> Self {
        let mut headers: Vec<_> = origin.into_iter().collect();
        headers.push(("floodmark.error", error.to_owned()));
        let key = message.key.map(|key| &key[..key.len().min(DEAD_KEY_MAX)]);
        let whole = message.payload.unwrap_or_default();
        let payload = &whole[..whole.len().min(DEAD_PAYLOAD_MAX)];
        let sizes = [message.key.map_or(0, <[u8]>::len), whole.len()];
        if sizes != [key.map_or(0, <[u8]>::len), payload.len()] {
            headers.push(("floodmark.cut", format!("{} {}", sizes[0], sizes[1])));
        }
        Letter {
            key: key.map(<[u8]>::to_vec),
            payload: payload.to_vec(),
            timestamp_ms: message.timestamp_ms,
            partition: None,
            headers,
        }
    }
}

/// Where a message was, as headers of a letter.
pub fn origin(topic: &str, partition: i32, offset: i64) -> [(&'static str, String); 3] {
    [
        ("floodmark.topic", topic.to_owned()),
        ("floodmark.partition", partition.to_string()),
        ("floodmark.offset", offset.to_string()),
    ]
}

/// Between two looks at whether all is sent.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Sends messages in their order. What the producer has no room for, it keeps; who asks
/// [`Outbox::has_room`] before it goes on keeps that bounded.
#[derive(Debug)]
pub struct Outbox {
    producer: Producer,
    waiting: VecDeque<Letter>,
}

impl Outbox {
    /// To a topic that exists, at a broker that can be reached.
    pub fn open(
        address: &Address,
        options: &ClientOptions,
        tuning: Tuning,
    ) -> Result<Self, Failure> {
        let producer = Producer::open(address, options, tuning)?;
        Ok(Outbox { producer, waiting: VecDeque::new() })
    }

    /// Where it sends to.
    pub fn address(&self) -> &Address {
        self.producer.address()
    }

    /// Whether all that was given could be handed to the producer.
    pub fn has_room(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a message.
    pub fn give(&mut self, letter: Letter) {
        self.waiting.push_back(letter);
    }

    /// Takes a message, and copies it only if the producer has no room.
    ///
    /// # Errors
    /// No message is taken any more.
    pub fn send(&mut self, message: &Outgoing<'_>) -> Result<(), Failure> {
        if self.waiting.is_empty() && self.producer.send(message)? == Sent::Queued {
            return Ok(());
        }
        self.waiting.push_back(Letter {
            key: message.key.map(<[u8]>::to_vec),
            payload: message.payload.unwrap_or_default().to_vec(),
            timestamp_ms: message.timestamp_ms.map(i64::unsigned_abs),
            partition: message.partition,
            headers: message.headers.to_vec(),
        });
        Ok(())
    }

    /// What has become of messages so far.
    pub fn counts(&self) -> Counts {
        self.producer.counts()
    }

    /// Sends what it can, without waiting.
    ///
    /// # Errors
    /// A message can never be delivered, or no message any more.
    pub fn poll(&mut self) -> Result<(), Failure> {
        self.producer.poll();
        while let Some(letter) = self.waiting.front() {
            let outgoing = Outgoing {
                key: letter.key.as_deref(),
                payload: Some(&letter.payload),
                timestamp_ms: letter.timestamp_ms.and_then(|ms| i64::try_from(ms).ok()),
                partition: letter.partition,
                headers: &letter.headers,
            };
            match self.producer.send(&outgoing)? {
                Sent::Queued => drop(self.waiting.pop_front()),
                Sent::Full => break,
            }
        }
        self.producer.failure().map_or(Ok(()), Err)
    }

    /// How many messages were given and are not delivered.
    pub fn waiting(&self) -> u64 {
        self.waiting.len() as u64 + self.producer.counts().waiting()
    }

    /// Whether everything given was delivered.
    pub fn is_done(&self) -> bool {
        self.waiting() == 0
    }

    /// Since when no broker can be reached, if none can.
    pub fn unreachable_since(&self) -> Option<Instant> {
        self.producer.unreachable_since()
    }

    /// Waits until everything is delivered, or `give_up` says so.
    pub fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        self.poll()?;
        while !self.waiting.is_empty() && !give_up() {
            std::thread::sleep(LOOK_INTERVAL);
            self.poll()?;
        }
        self.producer.finish(give_up)
    }
}
