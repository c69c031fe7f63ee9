//! Tells a topic of records from one that holds this program's own output.
//!
//! Each message of output is refused by itself, wherever it is. A topic that holds nothing else is not
//! meant to be read as records: judged by its first messages, so that a stray one ends no run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::anyhow;

use super::Address;
use crate::base::error::{Exit, Failure};

/// Messages of output, before any record, from which on a topic is one of output, however much of it is
/// still to be read.
const OUTPUT_MIN: u64 = 16;

/// The kinds of messages that the workers of a process have found in a topic, until the first record.
#[derive(Debug)]
pub struct Contents {
    decided: AtomicBool,
    /// Messages of output.
    output: AtomicU64,
    /// The kind of the first of them.
    kind: OnceLock<&'static str>,
    /// The partitions in which there were messages when the topic was opened, and their ends at that time,
    /// as far as they were not read to there.
    left: Mutex<BTreeMap<i32, i64>>,
}

impl Contents {
    /// Of a topic that is read from these offsets, and had these ends.
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
            left: Mutex::new(ends.into_iter().filter(begins_before).collect()),
        }
    }

    /// Whether it is known to be a topic of records, or was found to be none.
    pub fn is_decided(&self) -> bool {
        self.decided.load(Ordering::Relaxed)
    }

    /// A message held a record.
    pub fn saw_record(&self) {
        self.decided.store(true, Ordering::Relaxed);
    }

    /// A message was output of this kind.
    pub fn saw_output(&self, kind: &'static str) {
        self.kind.get_or_init(|| kind);
        self.output.fetch_add(1, Ordering::Relaxed);
    }

    /// Decides after more was read, up to these offsets by partition.
    ///
    /// # Errors
    /// The topic holds output.
    pub fn decide(&self, address: &Address, positions: &[(i32, i64)]) -> Result<(), Failure> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = !left.is_empty();
        for (partition, next) in positions {
            if left.get(partition).is_some_and(|end| next >= end) {
                left.remove(partition);
            }
        }
        let output = self.output.load(Ordering::Relaxed);
        let Some(kind) = self.kind.get().filter(|_| !self.is_decided()) else { return Ok(()) };
        // With it, all that there was when the topic was opened is read.
        let through = begun && left.is_empty();
        if output < OUTPUT_MIN && !through {
            return Ok(());
        }
        self.decided.store(true, Ordering::Relaxed);
        let error = anyhow!(
            "\"{address}\" is no topic of records: its first {output} messages are {kind}, as floodmark \
             itself writes them (give --from the topic that records are sent to, such as that of \
             floodmark capture)"
        );
        Err(Failure::new(Exit::BadConfig, error))
    }
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
    fn topic_with_nothing_but_output_is_refused_once_all_of_it_is_read() {
        // Offsets of a compacted topic have gaps.
        let contents = contents(&[(0, 7), (1, 0), (2, 3)]);
        contents.saw_output(TOTALS);
        contents.saw_output(TOTALS);
        assert_eq!(decide(&contents, &[(0, 7), (1, 0)]), Ok(()));
        let said = decide(&contents, &[(2, 3)]).expect_err("there is nothing else");
        assert!(said.contains(TOTALS) && said.contains("kafka://host:9092/totals"), "{said}");
        assert!(said.contains("first 2 messages"), "{said}");
        // The error is returned once.
        assert_eq!(decide(&contents, &[]), Ok(()));
    }

    #[test]
    fn stray_output_among_records_ends_nothing() {
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
    fn topic_that_begins_with_much_output_is_refused_before_all_is_read() {
        let contents = contents(&[(0, 1000)]);
        (0..OUTPUT_MIN).for_each(|_| contents.saw_output(TOTALS));
        assert!(decide(&contents, &[(0, 20)]).is_err());
    }

    #[test]
    fn topic_that_is_empty_is_no_topic_of_output() {
        let contents = contents(&[(0, 0)]);
        assert_eq!(decide(&contents, &[(0, 0)]), Ok(()));
        assert!(!contents.is_decided());
        // The first message that comes is a stray one.
        contents.saw_output(TOTALS);
        assert_eq!(decide(&contents, &[(0, 1)]), Ok(()));
    }
}
