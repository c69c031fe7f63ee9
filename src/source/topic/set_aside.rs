//! The messages that can't be counted, as dead letters.

use crate::base::error::Failure;
use crate::kafka::{BufferedProducer, OwnedMessage};

/// Bytes of dead letters after which others wait: for the topic, or for the next tick.
pub(super) const SET_ASIDE_BYTES: usize = 1 << 20;

/// The dead letters of one worker.
pub(super) enum SetAside {
    /// None are kept.
    None,
    /// They are sent at once, and again when a tick is repeated.
    Sent(Box<BufferedProducer>),
    /// They are outputs of the tick that takes their position, so that each is sent once.
    OfTick {
        /// Those of the next tick.
        letters: Vec<OwnedMessage>,
        /// Their size.
        bytes: usize,
    },
}

impl SetAside {
    /// Creates the place for letters that are outputs of ticks.
    pub(super) fn of_tick() -> Self {
        SetAside::OfTick { letters: Vec::new(), bytes: 0 }
    }

    /// Whether dead letters are kept.
    pub(super) fn is_kept(&self) -> bool {
        !matches!(self, SetAside::None)
    }

    /// Adds a letter. Returns its size.
    pub(super) fn add(&mut self, letter: OwnedMessage) -> usize {
        let size = letter.size();
        match self {
            SetAside::None => {}
            SetAside::Sent(topic) => topic.enqueue(letter),
            SetAside::OfTick { letters, bytes } => {
                letters.push(letter);
                *bytes += size;
            }
        }
        size
    }

    /// Whether so many bytes are enough until capacity is checked again.
    pub(super) fn is_enough(bytes: usize) -> bool {
        bytes >= SET_ASIDE_BYTES
    }

    /// Whether there is capacity for more before the next tick.
    pub(super) fn has_capacity(&mut self) -> Result<bool, Failure> {
        match self {
            SetAside::None => Ok(true),
            SetAside::Sent(topic) => {
                topic.poll()?;
                Ok(topic.has_capacity())
            }
            SetAside::OfTick { .. } => Ok(!self.needs_tick()),
        }
    }

    /// Whether the next tick should take the letters soon.
    pub(super) fn needs_tick(&self) -> bool {
        matches!(self, SetAside::OfTick { bytes, .. } if SetAside::is_enough(*bytes))
    }

    /// Takes out the letters of a tick.
    pub(super) fn take(&mut self) -> Vec<OwnedMessage> {
        match self {
            SetAside::OfTick { letters, bytes } => {
                *bytes = 0;
                std::mem::take(letters)
            }
            SetAside::None | SetAside::Sent(_) => Vec::new(),
        }
    }

    /// Returns the topic that they are sent to at once.
    pub(super) fn topic(&self) -> Option<&BufferedProducer> {
        match self {
            SetAside::Sent(topic) => Some(topic),
            SetAside::None | SetAside::OfTick { .. } => None,
        }
    }

    /// Waits until what was sent is delivered.
    pub(super) fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), Failure> {
        match self {
            SetAside::Sent(topic) => topic.finish(give_up),
            SetAside::None | SetAside::OfTick { .. } => Ok(()),
        }
    }
}
