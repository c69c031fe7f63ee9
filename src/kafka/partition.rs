//! The state of a partition at its worker: its hold on the watermark, and the first event time read.

use std::time::{Duration, Instant};

use floodmark_dataflows::watermark::PartitionProgress;

use super::ends::{Ends, TRANSACTION_PATIENCE, Withheld};
use super::straggler::{EventTime, Observation, Straggler};
use super::watch::SourceOptions;
use crate::base::date::format_ms;

/// Time for which a consumer may return nothing from a partition whose broker has messages: several requests with
/// their pauses. It doubles for each new consumer that returns nothing either: consumers fetch the messages of
/// aborted transactions without returning them.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Time between two responses of a broker that counts as an interruption.
const INTERRUPTION_MIN: Duration = Duration::from_secs(15);

/// The event times of the records of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The event time of the first record.
    pub first: u64,
    /// The greatest event time.
    pub greatest: u64,
}

impl Times {
    /// Adds the event time of the next record.
    pub fn add(times: Option<Times>, time: u64) -> Times {
        times.map_or(Times { first: time, greatest: time }, |times| Times {
            greatest: times.greatest.max(time),
            ..times
        })
    }
}

/// The position in a partition from which an earlier run is continued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResumePosition {
    /// The offset to be read next.
    pub next: i64,
    /// The greatest event time read before.
    pub reached: Option<u64>,
    /// Whether the earlier run began after the first message, and has read no event time yet.
    pub is_truncated: bool,
    /// Whether no tick has begun since reading began here.
    pub is_first: bool,
}

/// The state of a partition that this worker reads.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    /// The offset to be read next.
    pub(super) next: i64,
    /// The greatest event time read.
    pub(super) reached: Option<u64>,
    /// The time at which the worker last read a message, or started to read the partition.
    pub(super) since: Instant,
    /// The time of the request for the last end that was reached.
    pub(super) ended: Option<Instant>,
    pub(super) paused: bool,
    /// Whether it was paused since it was last read to its end.
    pub(super) waited: bool,
    pub(super) straggler: Straggler,
    /// `None` if the partition is read from its first message on.
    pub(super) truncated: Option<Truncated>,
    /// The hold on the watermark reported last.
    pub(super) holds: Option<PartitionProgress>,
    /// The time for which the broker has had messages that the consumer does not return.
    behind: Option<Behind>,
    /// The time at which the consumer was last replaced, and the patience that had run out.
    reopened: Option<(Instant, Duration)>,
}

/// A time in which all responses of a broker, without interruption, showed messages that the consumer did not return.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// The time of the first request.
    since: Instant,
    /// The time of the last request.
    until: Instant,
}

/// A partition that is not read from its first message on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Truncated {
    /// Whether nothing was left to read when the topic was opened: then observation starts at the first tick.
    pub(super) exhausted: bool,
    /// The first event time read.
    pub(super) first: Option<u64>,
    /// The first event time reported last, if a report was made.
    pub(super) reported: Option<Option<u64>>,
}

impl Truncated {
    /// Returns the first event time, once it is known. `released`: the watermark does not wait for the partition any
    /// more.
    pub(super) fn first(&self, now: u64, released: bool) -> Option<u64> {
        match self {
            Truncated { exhausted: true, .. } => Some(now),
            Truncated { first: Some(first), .. } => Some(*first),
            // No remaining message could be counted.
            Truncated { first: None, .. } => released.then_some(now),
        }
    }
}

impl Partition {
    /// Creates the state of a partition that is read from this offset on, from now on.
    pub(super) fn new(next: i64, truncated: Option<Truncated>) -> Self {
        Partition {
            next,
            reached: None,
            since: Instant::now(),
            ended: None,
            paused: false,
            waited: false,
            straggler: Straggler::default(),
            truncated,
            holds: None,
            behind: None,
            reopened: None,
        }
    }

    /// Creates the state of a partition that an earlier run has read.
    pub(super) fn resumed(position: ResumePosition) -> Self {
        let ResumePosition { next, reached, is_truncated, .. } = position;
        let truncated = Truncated { exhausted: false, first: None, reported: Some(None) };
        Partition { reached, ..Partition::new(next, is_truncated.then_some(truncated)) }
    }

    /// Returns the partition's hold on the watermark, and whether it has started or stopped straggling by
    /// `event_time`.
    pub(super) fn update_progress(
        &mut self,
        ends: Option<&Ends>,
        options: &SourceOptions,
        event_time: Option<EventTime>,
        now: Instant,
    ) -> (PartitionProgress, Option<bool>) {
        let SourceOptions { idle_timeout, max_skew_ms, .. } = *options;
        let recent =
            ends.filter(|ends| now.saturating_duration_since(ends.requested_at) <= idle_timeout);
        // `next` may lie beyond the end in the response: the worker has then read messages that arrived after
        // it.
        let nothing_more = recent.is_some_and(|ends| self.next >= ends.due());
        let quiet = recent.map_or(self.since, |ends| self.since.max(ends.unbroken));
        let idle = nothing_more && now.saturating_duration_since(quiet) >= idle_timeout;
        self.waited = !nothing_more && (self.waited || self.paused);
        if nothing_more {
            self.ended = recent.map(|ends| ends.requested_at);
        }
        let observation = |event_time| Observation {
            at: now,
            event_time,
            reached: self.reached.unwrap_or(0),
            ended: self.ended.is_some_and(|at| now.saturating_duration_since(at) <= idle_timeout),
            idle,
        };
        let observation = event_time.map(observation);
        let changed = observation
            .and_then(|observation| self.straggler.observe(observation, max_skew_ms, idle_timeout));
        let holds = match self.reached {
            _ if idle || self.straggler.straggles() => PartitionProgress::Idle,
            Some(reached) if self.waited => PartitionProgress::Waiting(reached),
            Some(reached) => PartitionProgress::At(reached),
            None if nothing_more || recent.is_some_and(|ends| self.is_withheld(ends)) => {
                PartitionProgress::Empty
            }
            None => PartitionProgress::Unknown,
        };
        (holds, changed)
    }

    /// Whether the consumer is stuck: it returns nothing although the broker has messages. At `drained`, the worker had
    /// consumed all messages of the consumer.
    pub(super) fn stalls(&mut self, ends: Option<&Ends>, drained: Instant) -> bool {
        let Some(ends) = ends.filter(|ends| !self.paused && self.next < ends.stable) else {
            self.behind = None;
            return false;
        };
        let connected = |behind: &Behind| {
            ends.requested_at.saturating_duration_since(behind.until) <= INTERRUPTION_MIN
        };
        let since = self.behind.filter(connected).map_or(ends.requested_at, |behind| behind.since);
        self.behind = Some(Behind { since, until: ends.requested_at });
        let since = since.max(self.since);
        let patience = match self.reopened {
            Some((at, patience)) if at >= self.since => patience.saturating_mul(2),
            _ => STALLED_AFTER,
        };
        let stalls = ends.requested_at.min(drained).saturating_duration_since(since) >= patience;
        if stalls {
            self.reopened = Some((drained, patience));
        }
        stalls
    }

    /// Notes that another consumer reads the partition.
    pub(super) fn reopened(&mut self) {
        self.behind = None;
    }

    /// Notes the event times of a message.
    pub(super) fn read(&mut self, times: Times) {
        self.reached = self.reached.max(Some(times.greatest));
        if let Some(truncated) = &mut self.truncated {
            truncated.first.get_or_insert(times.first);
        }
    }

    /// Whether all unread messages are behind a transaction that may end soon: the partition counts as empty until
    /// then.
    pub(super) fn is_withheld(&self, ends: &Ends) -> bool {
        let age = |withheld: Withheld| ends.requested_at.saturating_duration_since(withheld.since);
        self.next >= ends.stable
            && ends.withheld.is_some_and(|withheld| age(withheld) <= TRANSACTION_PATIENCE)
    }
}

/// Logs the first record of a partition; where there are very many, at level debug.
pub(super) fn log_first_record(partition: i32, offset: i64, time_ms: u64, is_listed: bool) {
    let time = format_ms(time_ms).to_string();
    if is_listed {
        tracing::info!(partition, offset, time, "first record of a partition");
    } else {
        tracing::debug!(partition, offset, time, "first record of a partition");
    }
}

/// Logs that a partition straggles, or no longer does.
pub(super) fn log_straggler(partition: i32, straggles: bool, reached: Option<u64>) {
    let event_time = reached.map(|reached| format_ms(reached).to_string());
    match straggles {
        true => tracing::warn!(
            partition,
            event_time,
            "the event time of a partition stays behind the others by more than --max-skew: the watermark no \
             longer waits for it, and its records are late (is a clock wrong?)"
        ),
        false => tracing::info!(
            partition,
            event_time,
            "a partition is within --max-skew of the others again: the watermark waits for it again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition whose broker has unread messages in all responses.
    struct Case {
        start: Instant,
        partition: Partition,
    }

    impl Case {
        fn new() -> Self {
            let partition = Partition::new(5, None);
            Case { start: partition.since, partition }
        }

        /// Whether the consumer is stuck after a response and a poll at this second.
        fn stalls(&mut self, second: u64) -> bool {
            let at = self.start + Duration::from_secs(second);
            self.partition.stalls(Some(&Ends::new(0, 9, 9, at)), at)
        }

        /// Returns the seconds of this range at which the consumer is stuck, with a response every 5 s.
        fn stalled(&mut self, seconds: std::ops::Range<u64>) -> Vec<u64> {
            seconds.step_by(5).filter(|second| self.reopens(*second)).collect()
        }

        fn reopens(&mut self, second: u64) -> bool {
            let stalls = self.stalls(second);
            if stalls {
                self.partition.reopened();
            }
            stalls
        }

        fn read(&mut self, second: u64) {
            self.partition.next += 1;
            self.partition.since = self.start + Duration::from_secs(second);
        }
    }

    #[test]
    fn patience_doubles_until_a_message_arrives() {
        let mut case = Case::new();
        assert_eq!(case.stalled(0..700), [30, 95, 220, 465]);
        case.read(702);
        assert_eq!(case.stalled(705..800), [735]);
    }

    #[test]
    fn partition_with_occasional_messages_is_not_stuck() {
        let mut case = Case::new();
        assert_eq!(case.stalled(0..30), [0; 0]);
        case.read(29);
        case.partition.next = 5;
        assert_eq!(case.stalled(30..55), [0; 0]);
        assert!(case.stalls(60));
    }

    #[test]
    fn outage_does_not_count_as_being_stuck() {
        let mut case = Case::new();
        assert_eq!(case.stalled(0..20), [0; 0]);
        assert_eq!(case.stalled(300..330), [0; 0]);
        assert!(case.stalls(330));
    }

    #[test]
    fn paused_or_fully_read_partition_is_not_stuck() {
        let mut case = Case::new();
        case.partition.paused = true;
        assert_eq!(case.stalled(0..100), [0; 0]);
        case.partition.paused = false;
        case.partition.next = 9;
        assert_eq!(case.stalled(100..200), [0; 0]);
        case.partition.next = 8;
        assert_eq!(case.stalled(200..235), [230]);
    }

    /// The consumer has returned messages, but the worker has no capacity for them.
    #[test]
    fn consumer_that_nobody_polls_is_not_stuck() {
        let mut case = Case::new();
        for second in (0..100).step_by(5) {
            let at = case.start + Duration::from_secs(second);
            assert!(!case.partition.stalls(Some(&Ends::new(0, 9, 9, at)), case.start));
        }
    }
}
