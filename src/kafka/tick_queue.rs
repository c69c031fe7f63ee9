//! The queue between the sender of ticks and the thread that commits them.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Refused;
use super::message::OwnedMessage;
use crate::base::error::Exit;

/// Bytes of messages that wait to be sent, and those of one transaction that are kept to be sent again.
pub(super) const QUEUE_BYTES: usize = 64 << 20;

/// A step of a tick.
pub(super) enum Item {
    /// A message to a topic, by its number.
    Message(usize, OwnedMessage),
    /// All messages of the tick came before.
    TickEnd { tick: u64, record: Vec<u8> },
    /// Records of ticks before this one are of no use any more.
    Forget { before: u64 },
}

/// The state that the owner and the thread share.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) items: VecDeque<Item>,
    /// The ends of ticks among these.
    pub(super) ends: usize,
    pub(super) bytes: usize,
    /// Messages that are not committed.
    pub(super) messages: u64,
    /// Whether nothing more comes.
    pub(super) is_closed: bool,
    pub(super) refused: Vec<(usize, Refused)>,
    pub(super) failure: Option<(Exit, String)>,
    pub(super) unreachable_since: Option<Instant>,
}

/// The queue, and the results of the thread.
pub(super) struct Shared {
    pub(super) queue: Mutex<Queue>,
    pub(super) changed: Condvar,
    /// The newest tick that was committed.
    pub(super) durable: AtomicU64,
    /// Messages that were committed.
    pub(super) delivered: AtomicU64,
}

impl Shared {
    /// Creates an empty queue; the ticks up to this one were committed before.
    pub(super) fn new(durable: u64) -> Self {
        Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            durable: AtomicU64::new(durable),
            delivered: AtomicU64::new(0),
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
