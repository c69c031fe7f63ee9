//! Reads a topic once, from its beginning to the end that it has meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};

use super::consumer::{Consumer, Headers, Polled, Step};
use super::topic::consumer_config;
use super::{Address, ClientOptions, topics};
use crate::base::error::{Exit, Failure};

/// Time without a message, and without the end of a partition, after which reading fails.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Longest sleep while there is nothing to read. A message ends it.
const NAP: Duration = Duration::from_millis(50);

/// The end of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadTo {
    /// The last message before open transactions.
    Stable,
    /// The last message that the topic had at the start: open transactions before it must end first.
    LastMessage,
}

/// A message that was read.
#[derive(Clone, Copy, Debug)]
pub struct StoredMessage<'a> {
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None`: a tombstone.
    pub payload: Option<&'a [u8]>,
    headers: Headers<'a>,
}

impl<'a> StoredMessage<'a> {
    /// Returns the value of the last header of this name.
    pub fn header(&self, name: &CStr) -> Option<&'a [u8]> {
        self.headers.get(name)
    }
}

/// Calls `each` for all messages of a topic, those of one partition in their order. Returns when each partition was
/// read to its end once.
///
/// # Errors
/// The topic can't be read, no message comes for a minute, or `gives_up` has returned true.
pub fn read_to_end(
    address: &Address,
    options: &ClientOptions,
    end: ReadTo,
    gives_up: &dyn Fn() -> bool,
    mut each: impl FnMut(StoredMessage<'_>),
) -> Result<(), Failure> {
    let reading = || format!("reading \"{address}\" to its end");
    let partitions = i32::try_from(topics::partitions(address, options)?).unwrap_or(i32::MAX);
    let mut config = consumer_config(address, options, "floodmark")?;
    // A message that is not committed was never published.
    config.set("isolation.level", "read_committed");
    let thread = std::thread::current();
    let mut consumer = Consumer::open(&address.topic, &config, move || thread.unpark())?;
    consumer.add_from_beginning(0..partitions).with_context(reading)?;
    let mut goals = BTreeMap::new();
    if end == ReadTo::LastMessage {
        // For a reader of committed messages the end is before the first open transaction.
        config.set("isolation.level", "read_uncommitted");
        let ends = Consumer::open(&address.topic, &config, || {})?;
        for partition in 0..partitions {
            goals.insert(partition, ends.end(partition).with_context(reading)?);
        }
    }
    let goal = |partition: i32| goals.get(&partition).copied().unwrap_or(0);
    let mut unread: BTreeSet<i32> = (0..partitions).collect();
    let mut last = Instant::now();
    while !unread.is_empty() {
        if gives_up() {
            return Err(Failure::new(Exit::Interrupted, anyhow!("interrupted").context(reading())));
        }
        let (mut any, mut failure) = (false, None);
        let drained = consumer.poll(|polled| {
            any = true;
            match polled {
                Polled::Message { key, payload, headers, .. } => {
                    each(StoredMessage { key, payload, headers });
                }
                Polled::End { partition, offset } if offset >= goal(partition) => {
                    unread.remove(&partition);
                }
                // Another producer has a transaction open, which ends.
                Polled::End { .. } => {}
                Polled::Unknown => {
                    failure = Some((Exit::NoInput, "the topic does not exist any more".to_owned()));
                }
                Polled::OutOfRange { why, .. } => failure = Some((Exit::Unavailable, why)),
                // Nothing that another start would repair, such as a right that is missing.
                Polled::Failed { why } => failure = Some((Exit::BadConfig, why)),
            }
            Step::Next
        });
        if let Some((exit, why)) = failure {
            return Err(Failure::new(exit, anyhow!(why).context(reading())));
        }
        if any {
            last = Instant::now();
        } else if last.elapsed() >= SILENCE_MAX {
            let why = anyhow!(
                "no broker has sent a message of {} partitions for {} s",
                unread.len(),
                SILENCE_MAX.as_secs()
            );
            return Err(Failure::new(Exit::Unavailable, why.context(reading())));
        }
        if drained && !unread.is_empty() {
            std::thread::park_timeout(NAP);
        }
    }
    Ok(())
}
