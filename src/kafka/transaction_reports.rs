//! Delivery reports of a producer with transactions.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, NoCustomPartitioner, ProducerContext};
use rdkafka::statistics::Statistics;

use super::Context;

/// Counts the reports about messages, and keeps those of messages that were not delivered.
#[derive(Default)]
pub(super) struct TransactionReports {
    pub(super) context: Context,
    /// Messages with a report.
    reported: AtomicU64,
    /// Messages without success, by their number in the transaction.
    failed: Mutex<Vec<(usize, Option<RDKafkaErrorCode>)>>,
}

impl TransactionReports {
    /// Returns the number of messages with a report.
    pub(super) fn reported(&self) -> u64 {
        self.reported.load(Ordering::Acquire)
    }

    /// Whether a message was not delivered.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_empty()
    }

    /// Takes the messages that were not delivered.
    pub(super) fn take_failed(&self) -> Vec<(usize, Option<RDKafkaErrorCode>)> {
        std::mem::take(&mut *self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl ClientContext for TransactionReports {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) {
        self.context.log(level, kind, text);
    }

    fn stats(&self, statistics: Statistics) {
        self.context.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for TransactionReports {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, report: &DeliveryResult<'_>, number: Box<usize>) {
        self.context.count_event();
        match report {
            Ok(_) => self.context.reached(),
            Err((error, _)) => {
                let mut failed =
                    self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                failed.push((*number, error.rdkafka_error_code()));
            }
        }
        // Counted last, so that a reader who sees all reports finds all failures.
        self.reported.fetch_add(1, Ordering::Release);
    }
}
