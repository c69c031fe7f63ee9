//! The counters of a live run, by name and unit.
//!
//! Nothing is registered here with an exporter: without one, counting costs next to nothing.

use std::collections::BTreeMap;

use metrics::{Counter, counter};

use super::refused::Refused;
use crate::kafka::Address;
use crate::record::{self, Format, Skip};

/// Counters of one worker's input. Handles are kept: looking them up costs more than a record does.
pub(super) struct InputCounts {
    source: String,
    messages: Counter,
    records: BTreeMap<Format, Counter>,
    without_packets: Counter,
}

impl InputCounts {
    pub(super) fn new(address: &Address) -> Self {
        // Brokers are left out: there may be passwords and many hosts in their names.
        let source = format!("kafka:{}", address.topic);
        let messages = counter!("floodmark_input_messages_total", "source" => source.clone());
        let without_packets = counter!(
            "floodmark_input_records_without_packets_total", "source" => source.clone()
        );
        let mut counts =
            InputCounts { source, messages, records: BTreeMap::new(), without_packets };
        // A rate needs a series that was there before the first record, or fault.
        for format in Format::ALL {
            counts.count(format, 0);
        }
        for error in record::RecordError::LABELS
            .into_iter()
            .chain([Refused::Future, Refused::Past].map(Refused::as_str))
        {
            counts.errors(error).increment(0);
        }
        for skip in Skip::ALL {
            counts.skips(skip).increment(0);
        }
        counts
    }

    pub(super) fn messages(&self, messages: usize) {
        self.messages.increment(messages as u64);
    }

    pub(super) fn count(&mut self, format: Format, records: u64) {
        let source = &self.source;
        let counter = self.records.entry(format).or_insert_with(|| {
            let (source, format) = (source.clone(), format.as_str());
            counter!("floodmark_input_records_total", "source" => source, "format" => format)
        });
        counter.increment(records);
    }

    /// Counts a record that states bytes and no packets.
    pub(super) fn without_packets(&self) {
        self.without_packets.increment(1);
    }

    fn errors(&self, error: &'static str) -> Counter {
        let source = self.source.clone();
        counter!("floodmark_input_errors_total", "source" => source, "error" => error)
    }

    fn skips(&self, skip: Skip) -> Counter {
        let (source, reason) = (self.source.clone(), skip.as_str());
        counter!("floodmark_input_skipped_total", "source" => source, "reason" => reason)
    }

    pub(super) fn refuse(&self, why: Refused) {
        self.errors(why.as_str()).increment(1);
    }

    pub(super) fn skip(&self, skip: Skip) {
        self.skips(skip).increment(1);
    }
}
