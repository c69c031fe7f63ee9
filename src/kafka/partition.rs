//! One partition as its worker reads it: how it holds the watermark, and from where on it was read.

use std::time::Instant;

use floodmark_dataflows::clock::Holds;

use super::ends::{Ends, TRANSACTION_PATIENCE, Withheld};
use super::straggler::{EventTime, Look, Straggler};
use super::watch::SourceOptions;
use crate::limits::date::format_ms;

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
    pub(super) holds: Option<Holds>,
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
    ) -> (Holds, Option<bool>) {
        let SourceOptions { idle_timeout, max_skew_ms, .. } = *options;
        let recent = ends.filter(|ends| now.saturating_duration_since(ends.asked) <= idle_timeout);
        // Whatever was read since the answer came was more than there was then.
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
            _ if idle || self.straggler.straggles() => Holds::Nothing,
            Some(reached) if self.waited => Holds::Waiting(reached),
            Some(reached) => Holds::At(reached),
            None if nothing_more || recent.is_some_and(|ends| self.is_withheld(ends)) => {
                Holds::Empty
            }
            None => Holds::Unread,
        };
        (holds, changed)
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
