//! One partition as its worker reads it: how it holds the watermark, and from where on it was read.

use std::time::{Duration, Instant};

use floodmark_dataflows::watermark::PartitionProgress;

use super::ends::{Ends, TRANSACTION_PATIENCE, Withheld};
use super::straggler::{EventTime, Look, Straggler};
use super::watch::SourceOptions;
use crate::base::date::format_ms;

/// Time for which a consumer may bring nothing of a partition whose broker has messages: several requests
/// with their pauses. It doubles as long as consumers that were opened anew bring nothing either: messages
/// of aborted transactions are fetched, and not handed over.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Time between two answers of brokers from which on they count as interrupted.
const ANSWERS_BREAK: Duration = Duration::from_secs(15);

/// The event times of the records of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// That of the first record.
    pub first: u64,
    /// The greatest one.
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

/// The state of a partition that this worker reads.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    /// The offset to be read next.
    pub(super) next: i64,
    /// The greatest event time read.
    pub(super) reached: Option<u64>,
    /// When something was read last, or this worker began to.
    pub(super) since: Instant,
    /// When the broker was asked for the last end that was reached.
    pub(super) ended: Option<Instant>,
    pub(super) paused: bool,
    /// Whether it was paused since it was last read to its end.
    pub(super) waited: bool,
    pub(super) straggler: Straggler,
    /// `None` if it is read from its first message on.
    pub(super) truncated: Option<Truncated>,
    /// The hold on the watermark reported last.
    pub(super) holds: Option<PartitionProgress>,
    /// The time in which the broker has had messages that were not brought, if it has.
    behind: Option<Behind>,
    /// The last time its consumer was opened anew, and the patience that had come to its end.
    reopened: Option<(Instant, Duration)>,
}

/// A time in which all answers of a broker, without a break, had messages that were not brought.
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
    /// Whether there was nothing left to read when the topic was opened: observation begins at the first
    /// tick.
    pub(super) spent: bool,
    /// The first event time read.
    pub(super) first: Option<u64>,
    /// The first event time reported last, if a report was made.
    pub(super) reported: Option<Option<u64>>,
}

impl Truncated {
    /// The first event time, once it is known; `released` if nobody waits for the partition any more.
    pub(super) fn first(&self, now: u64, released: bool) -> Option<u64> {
        match self {
            Truncated { spent: true, .. } => Some(now),
            Truncated { first: Some(first), .. } => Some(*first),
            // Nothing that was left could be counted.
            Truncated { first: None, .. } => released.then_some(now),
        }
    }
}

impl Partition {
    /// A partition that is read from this offset on, from now on.
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

    /// Returns the partition's hold on the watermark, and whether it has begun or ceased to straggle, judged
    /// by `event_time`.
    pub(super) fn holds(
        &mut self,
        ends: Option<&Ends>,
        options: &SourceOptions,
        event_time: Option<EventTime>,
        now: Instant,
    ) -> (PartitionProgress, Option<bool>) {
        let SourceOptions { idle_timeout, max_skew_ms, .. } = *options;
        let recent = ends.filter(|ends| now.saturating_duration_since(ends.asked) <= idle_timeout);
        // `next` may lie beyond the end in the response: the worker has then read messages that arrived after
        // it.
        let nothing_more = recent.is_some_and(|ends| self.next >= ends.due());
        let quiet = recent.map_or(self.since, |ends| self.since.max(ends.unbroken));
        let idle = nothing_more && now.saturating_duration_since(quiet) >= idle_timeout;
        self.waited = !nothing_more && (self.waited || self.paused);
        if nothing_more {
            self.ended = recent.map(|ends| ends.asked);
        }
        let look = |event_time| Look {
            at: now,
            event_time,
            reached: self.reached.unwrap_or(0),
            ended: self.ended.is_some_and(|at| now.saturating_duration_since(at) <= idle_timeout),
            idle,
        };
        let look = event_time.map(look);
        let changed = look.and_then(|look| self.straggler.look(look, max_skew_ms, idle_timeout));
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

    /// Whether its consumer is stuck: it brings nothing though it is asked to, and the broker has messages.
    /// At `drained`, all that the consumer had brought had been taken.
    pub(super) fn stalls(&mut self, ends: Option<&Ends>, drained: Instant) -> bool {
        let Some(ends) = ends.filter(|ends| !self.paused && self.next < ends.stable) else {
            self.behind = None;
            return false;
        };
        let connected =
            |behind: &Behind| ends.asked.saturating_duration_since(behind.until) <= ANSWERS_BREAK;
        let since = self.behind.filter(connected).map_or(ends.asked, |behind| behind.since);
        self.behind = Some(Behind { since, until: ends.asked });
        let since = since.max(self.since);
        let patience = match self.reopened {
            Some((at, patience)) if at >= self.since => patience.saturating_mul(2),
            _ => STALLED_AFTER,
        };
        let stalls = ends.asked.min(drained).saturating_duration_since(since) >= patience;
        if stalls {
            self.reopened = Some((drained, patience));
        }
        stalls
    }

    /// Begins anew to wait for messages, from another consumer.
    pub(super) fn reopened(&mut self) {
        self.behind = None;
    }

    /// Takes the event times of a message.
    pub(super) fn read(&mut self, times: Times) {
        self.reached = self.reached.max(Some(times.greatest));
        if let Some(truncated) = &mut self.truncated {
            truncated.first.get_or_insert(times.first);
        }
    }

    /// Whether all that is to be read is behind a transaction that may well end soon: others need not
    /// wait for it yet.
    pub(super) fn is_withheld(&self, ends: &Ends) -> bool {
        let age = |withheld: Withheld| ends.asked.saturating_duration_since(withheld.since);
        self.next >= ends.stable
            && ends.withheld.is_some_and(|withheld| age(withheld) <= TRANSACTION_PATIENCE)
    }
}

/// Logs that a partition straggles, or no longer does.
pub(super) fn log_straggler(partition: i32, straggles: bool, reached: Option<u64>) {
    let event_time = reached.map(|reached| format_ms(reached).to_string());
    match straggles {
        true => tracing::warn!(
            partition,
            event_time,
            "the event time of a partition stays behind the others by more than --max-skew: nobody waits for \
             it, and its records are late (is a clock wrong?)"
        ),
        false => tracing::info!(
            partition,
            event_time,
            "a partition is within --max-skew of the others again, and is waited for"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A partition, and answers that it has messages to be read.
    struct Case {
        start: Instant,
        partition: Partition,
    }

    impl Case {
        fn new() -> Self {
            let partition = Partition::new(5, None);
            Case { start: partition.since, partition }
        }

        /// Whether its consumer is stuck by what was answered and taken at this second.
        fn stalls(&mut self, second: u64) -> bool {
            let at = self.start + Duration::from_secs(second);
            self.partition.stalls(Some(&Ends::new(0, 9, 9, at)), at)
        }

        /// The seconds of this range at which it is stuck; there is an answer each 5 s.
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
    fn patience_doubles_until_something_is_brought() {
        let mut case = Case::new();
        assert_eq!(case.stalled(0..700), [30, 95, 220, 465]);
        case.read(702);
        assert_eq!(case.stalled(705..800), [735]);
    }

    #[test]
    fn partition_that_brings_something_now_and_then_is_not_stuck() {
        let mut case = Case::new();
        assert_eq!(case.stalled(0..30), [0; 0]);
        case.read(29);
        case.partition.next = 5;
        assert_eq!(case.stalled(30..55), [0; 0]);
        assert!(case.stalls(60));
    }

    #[test]
    fn outage_is_no_time_of_being_stuck() {
        let mut case = Case::new();
        assert_eq!(case.stalled(0..20), [0; 0]);
        assert_eq!(case.stalled(300..330), [0; 0]);
        assert!(case.stalls(330));
    }

    #[test]
    fn nothing_is_missed_by_who_waits_or_has_read_all() {
        let mut case = Case::new();
        case.partition.paused = true;
        assert_eq!(case.stalled(0..100), [0; 0]);
        case.partition.paused = false;
        case.partition.next = 9;
        assert_eq!(case.stalled(100..200), [0; 0]);
        case.partition.next = 8;
        assert_eq!(case.stalled(200..235), [230]);
    }

    /// Messages that its worker has no capacity for have been brought.
    #[test]
    fn consumer_that_nobody_takes_from_is_not_stuck() {
        let mut case = Case::new();
        for second in (0..100).step_by(5) {
            let at = case.start + Duration::from_secs(second);
            assert!(!case.partition.stalls(Some(&Ends::new(0, 9, 9, at)), case.start));
        }
    }
}
