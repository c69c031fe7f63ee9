//! Tells a topic of records from one that holds this program's own output.
//!
//! Each message of output is rejected by itself, wherever it is. A topic that contains nothing else is not meant to
//! be read as records. Its first messages decide about it, so that a stray message of output ends no run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::anyhow;

use super::Address;
use crate::base::error::{Exit, Failure};

/// Number of messages of output, before any record, that makes a topic one of output, although messages are still
/// unread.
const OUTPUT_MIN: u64 = 16;

/// The kinds of messages that the workers of a process have found in a topic, until the first record.
#[derive(Debug)]
pub struct Contents {
    decided: AtomicBool,
    /// Messages of output.
    output: AtomicU64,
    /// The kind of the first message of output.
    kind: OnceLock<&'static str>,
    /// The partitions that are not yet read to their ends at the time of opening, with these ends. Partitions without
    /// messages at that time are left out.
    unread_ends: Mutex<BTreeMap<i32, i64>>,
}

impl Contents {
    /// Creates the contents of a topic that is read from these offsets, and had these ends when it was opened.
    pub(super) fn new(
        starts: &BTreeMap<i32, i64>,
        ends: impl IntoIterator<Item = (i32, i64)>,
    ) -> Self {
        let begins_before =
            |(partition, end): &(i32, i64)| starts.get(partition).is_none_or(|start| start < end);
        Contents {
            decided: AtomicBool::new(false),
            output: AtomicU64::new(0),
            kind: OnceLock::new(),
            unread_ends: Mutex::new(ends.into_iter().filter(begins_before).collect()),
        }
    }

    /// Whether it is known to be a topic of records, or was found to be none.
    pub fn is_decided(&self) -> bool {
        self.decided.load(Ordering::Relaxed)
    }

    /// Notes that a message contained a record.
    pub fn saw_record(&self) {
        self.decided.store(true, Ordering::Relaxed);
    }

    /// Notes that a message was output of this kind.
    pub fn saw_output(&self, kind: &'static str) {
        self.kind.get_or_init(|| kind);
        self.output.fetch_add(1, Ordering::Relaxed);
    }

    /// Decides after more was read, up to these offsets by partition.
    ///
    /// # Errors
    /// The topic holds output.
    pub fn decide(&self, address: &Address, positions: &[(i32, i64)]) -> Result<(), Failure> {
        let mut unread_ends = self.unread_ends.lock().unwrap_or_else(PoisonError::into_inner);
        let had_unread = !unread_ends.is_empty();
        for (partition, next) in positions {
            if unread_ends.get(partition).is_some_and(|end| next >= end) {
                unread_ends.remove(partition);
            }
        }
        let output = self.output.load(Ordering::Relaxed);
        let Some(kind) = self.kind.get().filter(|_| !self.is_decided()) else { return Ok(()) };
        // All messages that existed when the topic was opened are read.
        let all_read = had_unread && unread_ends.is_empty();
        if output < OUTPUT_MIN && !all_read {
            return Ok(());
        }
        self.decided.store(true, Ordering::Relaxed);
        Err(no_records(address, kind, output))
    }
}

/// Returns the failure to read records from a topic whose first messages are so many of this kind.
pub fn no_records(address: &Address, kind: &str, messages: u64) -> Failure {
    let error = anyhow!(
        "\"{address}\" is no topic of records: its first {messages} messages are {kind}, which floodmark itself \
         writes (give a topic of records, such as the one that floodmark capture writes to)"
    );
    Failure::new(Exit::BadConfig, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTALS: &str = "totals of windows (--publish)";

    fn contents(ends: &[(i32, i64)]) -> Contents {
        let starts = ends.iter().map(|(partition, _)| (*partition, 0)).collect();
        Contents::new(&starts, ends.iter().copied())
    }

    fn decide(contents: &Contents, positions: &[(i32, i64)]) -> Result<(), String> {
        let address = "kafka://host/totals".parse().expect("an address");
        contents.decide(&address, positions).map_err(|failure| {
            assert_eq!(failure.exit, Exit::BadConfig);
            failure.error.to_string()
        })
    }

    #[test]
    fn topic_with_nothing_but_output_is_rejected_once_all_of_it_is_read() {
        // Offsets of a compacted topic have gaps.
        let contents = contents(&[(0, 7), (1, 0), (2, 3)]);
        contents.saw_output(TOTALS);
        contents.saw_output(TOTALS);
        assert_eq!(decide(&contents, &[(0, 7), (1, 0)]), Ok(()));
        let error = decide(&contents, &[(2, 3)]).expect_err("there is nothing else");
        assert!(error.contains(TOTALS) && error.contains("kafka://host:9092/totals"), "{error}");
        assert!(error.contains("first 2 messages"), "{error}");
        // The error is returned once.
        assert_eq!(decide(&contents, &[]), Ok(()));
    }

    #[test]
    fn stray_output_among_records_is_accepted() {
        let contents = contents(&[(0, 1000)]);
        for _ in 1..OUTPUT_MIN {
            contents.saw_output(TOTALS);
            assert_eq!(decide(&contents, &[(0, 20)]), Ok(()));
        }
        contents.saw_record();
        contents.saw_output(TOTALS);
        assert_eq!(decide(&contents, &[(0, 1000)]), Ok(()));
    }

    #[test]
    fn topic_that_begins_with_much_output_is_rejected_before_all_is_read() {
        let contents = contents(&[(0, 1000)]);
        (0..OUTPUT_MIN).for_each(|_| contents.saw_output(TOTALS));
        assert!(decide(&contents, &[(0, 20)]).is_err());
    }

    #[test]
    fn empty_topic_is_accepted() {
        let contents = contents(&[(0, 0)]);
        assert_eq!(decide(&contents, &[(0, 0)]), Ok(()));
        assert!(!contents.is_decided());
        // The first message that comes is a stray one.
        contents.saw_output(TOTALS);
        assert_eq!(decide(&contents, &[(0, 1)]), Ok(()));
    }
}
