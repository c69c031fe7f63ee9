//! A range of a partition of a topic as a part of a recorded input.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::gather::Gather;
use super::intake::{Found, Intake, Notices, PartName, RecordRules};
use super::part::{Advance, Progress, RecordPart};
use crate::base::error::Failure;
use crate::kafka::{BoundedPartition, BoundedTopic, ReceivedMessage, no_records};

/// The work that one message is in a progress bar, where a byte of a file is 1.
pub(super) const MESSAGE_WORK: u64 = 64;

/// Dead letters, as contents of a topic.
const DEAD_LETTERS: &str = "dead letters (--dead-letter)";

/// The kinds of messages that the partitions of a topic hold in the range that is read.
#[derive(Default)]
struct Kinds {
    has_records: AtomicBool,
    /// Messages of output of this program.
    output: AtomicU64,
    /// The kind of the first message of output.
    kind: OnceLock<&'static str>,
    /// Partitions that are not read to their ends.
    unread: AtomicUsize,
}

impl Kinds {
    fn note(&self, found: Found, is_dead_letter: bool) {
        match found.own_output.or(is_dead_letter.then_some(DEAD_LETTERS)) {
            Some(kind) => {
                self.kind.get_or_init(|| kind);
                self.output.fetch_add(1, Ordering::Relaxed);
            }
            None if found.record => self.has_records.store(true, Ordering::Relaxed),
            None => {}
        }
    }

    /// Returns the kind and number of the messages that a topic consists of, if it holds nothing but output and all of
    /// its partitions are read.
    fn after_partition(&self) -> Option<(&'static str, u64)> {
        let is_last = self.unread.fetch_sub(1, Ordering::AcqRel) == 1;
        let kind = *self.kind.get()?;
        let has_records = self.has_records.load(Ordering::Relaxed);
        (is_last && !has_records).then(|| (kind, self.output.load(Ordering::Relaxed)))
    }
}

/// The messages of a partition.
pub(super) struct PartitionMessages {
    partition: BoundedPartition,
    kinds: Arc<Kinds>,
    first: i64,
    progress: Progress,
}

/// Opens the partitions of a topic.
pub(super) fn open_all(
    topic: &BoundedTopic,
    rules: &RecordRules,
    notices: &Notices,
    progress: &Progress,
) -> Result<Vec<RecordPart<PartitionMessages>>, Failure> {
    let partitions = topic.partitions()?;
    let kinds = Kinds { unread: AtomicUsize::new(partitions.len()), ..Kinds::default() };
    let kinds = Arc::new(kinds);
    let part = |partition: BoundedPartition| {
        let topic = partition.topic().address().topic.as_str().into();
        let intake = Intake::new(PartName::Partition(topic, partition.number()), rules, notices);
        let first = partition.next_offset();
        let (kinds, progress) = (kinds.clone(), progress.of_part());
        RecordPart::new(PartitionMessages { partition, kinds, first, progress }, intake)
    };
    Ok(partitions.into_iter().map(part).collect())
}

impl Advance for PartitionMessages {
    fn advance(&mut self, intake: &mut Intake, gather: &mut Gather) -> Result<bool, Failure> {
        let Self { partition, kinds, .. } = self;
        let has_more = partition.read(|received: &ReceivedMessage<'_>| {
            let position = u64::try_from(received.offset).unwrap_or(0);
            let found = intake.take(&received.message, position, gather);
            // Once it is known that the topic holds records, no message is inspected for this.
            if !kinds.has_records.load(Ordering::Relaxed) {
                kinds.note(found, received.is_dead_letter());
            }
            !intake.has_waiting()
        })?;
        let done = u64::try_from(partition.next_offset() - self.first).unwrap_or(0);
        let (records, reached) = (intake.tally().records, intake.reached());
        self.progress.report(done * MESSAGE_WORK, records, reached);
        if !has_more && let Some((kind, messages)) = kinds.after_partition() {
            return Err(no_records(partition.topic().address(), kind, messages));
        }
        Ok(has_more)
    }
}
