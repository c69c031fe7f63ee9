//! Partitions whose event time stays behind the others, as with an exporter whose clock is wrong.
//!
//! Such a partition would pause all others for as long as its writer goes on. It straggles when it is read to its
//! end, has been behind the others by more than `--max-skew` for `--idle-timeout`, and has not come nearer to them
//! during that time. The watermark does not wait for a straggler until it is within `--max-skew` again.
//!
//! The distance is measured to the clock, not to other partitions: a paused partition stands still in event time,
//! though its writer goes on. A partition that is behind and catches up, as after
//! an outage of its writer, comes nearer to the clock; a wrong clock does not.

use std::time::{Duration, Instant};

/// A partition must come nearer by at least the idle timeout divided by this number, within the idle timeout: clocks
/// drift, and the delay of messages varies.
const NEARER: u32 = 100;

/// The event time of the run, with which partitions are compared. Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// The clock of the leader.
    pub now: u64,
    /// The greatest event time of any partition, at most the clock; the clock itself if a paused partition has unread
    /// messages.
    pub front: u64,
}

/// One observation of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    pub(super) at: Instant,
    pub(super) event_time: EventTime,
    /// The greatest event time read from the partition; 0 if there is none.
    pub(super) reached: u64,
    /// Whether the partition was recently read to its end.
    pub(super) ended: bool,
    /// Whether the partition has been silent for the idle timeout.
    pub(super) idle: bool,
}

/// Detects that a partition straggles.
#[derive(Clone, Debug, Default)]
pub(super) struct Straggler {
    /// While the partition is behind the others: its least distance to the clock, and the time since which it has not
    /// come nearer.
    nearest: Option<(u64, Instant)>,
    straggles: bool,
}

impl Straggler {
    pub(super) fn straggles(&self) -> bool {
        self.straggles
    }

    /// Adds an observation. Returns whether the partition straggles, if that has changed.
    pub(super) fn observe(
        &mut self,
        observation: Observation,
        max_skew_ms: u64,
        idle_timeout: Duration,
    ) -> Option<bool> {
        let EventTime { now, front } = observation.event_time;
        if observation.reached.saturating_add(max_skew_ms) >= front {
            self.nearest = None;
            return std::mem::take(&mut self.straggles).then_some(false);
        }
        // The watermark does not wait for an idle partition. Its writer may have a lot to catch up on later.
        if self.straggles || observation.idle {
            return None;
        }
        if !observation.ended {
            // Unread messages may have any event time.
            self.nearest = None;
            return None;
        }
        let distance = now.saturating_sub(observation.reached);
        let step = (idle_timeout / NEARER).as_millis().max(1) as u64;
        let since = match self.nearest {
            Some((nearest, since)) if distance.saturating_add(step) > nearest => since,
            _ => {
                self.nearest = Some((distance, observation.at));
                observation.at
            }
        };
        self.straggles = observation.at.saturating_duration_since(since) >= idle_timeout;
        self.straggles.then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const IDLE: Duration = Duration::from_secs(30);

    /// Observes a partition once a second, from a clock of 1000 minutes on. `prepare` returns its event time at each
    /// second; the other partitions are `behind_clock` milliseconds behind the clock. Returns the changes with their
    /// seconds.
    fn changes(
        seconds: u64,
        behind_clock: u64,
        mut prepare: impl FnMut(u64, u64, &mut Observation) -> u64,
    ) -> Vec<(u64, bool)> {
        let start = Instant::now();
        let mut straggler = Straggler::default();
        let mut changes = Vec::new();
        for second in 0..seconds {
            let now = 1000 * MINUTE + second * 1000;
            let mut one = Observation {
                at: start + Duration::from_secs(second),
                event_time: EventTime { now, front: now - behind_clock },
                reached: 0,
                ended: true,
                idle: false,
            };
            one.reached = prepare(second, now, &mut one);
            if let Some(straggles) = straggler.observe(one, 15 * MINUTE, IDLE) {
                changes.push((second, straggles));
                assert_eq!(straggler.straggles(), straggles);
            }
        }
        changes
    }

    #[test]
    fn partition_within_the_skew_never_straggles() {
        assert_eq!(changes(300, 0, |_, now, _| now - 15 * MINUTE), []);
        // The others are late as well.
        assert_eq!(changes(300, 10 * MINUTE, |_, now, _| now - 25 * MINUTE), []);
    }

    #[test]
    fn partition_with_a_wrong_clock_straggles_after_the_idle_timeout() {
        assert_eq!(changes(300, 0, |_, now, _| now - 60 * MINUTE), [(30, true)]);
        // The clock of the exporter stands still, or none of its records could be counted.
        assert_eq!(changes(300, 0, |_, _, _| 7 * MINUTE), [(30, true)]);
        assert_eq!(changes(300, 0, |_, _, _| 0), [(30, true)]);
        // The delay of messages varies.
        let jitter = |second: u64, now: u64| now - 60 * MINUTE - (second * 7919 % 20) * 997;
        let found = changes(600, 0, |second, now, _| jitter(second, now));
        assert!(matches!(found[..], [(30..200, true)]), "{found:?}");
    }

    #[test]
    fn partition_that_comes_nearer_is_waited_for() {
        // A tenth faster than the clock.
        let nearer = |second: u64, now: u64| now - 60 * MINUTE + second * 100;
        assert_eq!(changes(3000, 0, |second, now, _| nearer(second, now)), []);
        // A drifting clock does not count as coming nearer.
        let drift = |second: u64, now: u64| now - 60 * MINUTE + second;
        assert_eq!(changes(300, 0, |second, now, _| drift(second, now)), [(30, true)]);
        // It came nearer for a while.
        let stops = |second: u64, now: u64| nearer(second.min(100), now);
        let found = changes(300, 0, |second, now, _| stops(second, now));
        // It is nearer by a step every third second.
        assert!(matches!(found[..], [(128..=130, true)]), "{found:?}");
    }

    #[test]
    fn partition_that_returns_from_an_outage_of_its_writer_is_waited_for() {
        // The records of 40 minutes of silence arrive at ten times their speed.
        let found = changes(3000, 0, |second, _, observation| {
            observation.idle = (30..2400).contains(&second);
            let caught_up = second.saturating_sub(2400) * 10;
            1000 * MINUTE + if second < 2400 { 0 } else { caught_up.min(second) * 1000 }
        });
        assert_eq!(found, []);
    }

    #[test]
    fn partition_that_is_not_read_to_its_end_is_waited_for() {
        let found = changes(300, 0, |second, now, observation| {
            observation.ended = second >= 100;
            now - 60 * MINUTE
        });
        assert_eq!(found, [(130, true)]);
    }

    #[test]
    fn straggler_is_waited_for_again_when_it_is_within_the_skew() {
        let caught_up_at =
            |second: u64, now: u64| if second < 100 { now - 60 * MINUTE } else { now };
        let found = changes(300, 0, |second, now, observation| {
            // A straggler stays one while it is not read to its end.
            observation.ended = second < 50;
            caught_up_at(second, now)
        });
        assert_eq!(found, [(30, true), (100, false)]);
    }

    #[test]
    fn straggler_with_occasional_records_does_not_delay_the_others_each_time() {
        // A record each minute: it is idle for half of the time.
        let found = changes(600, 0, |second, now, observation| {
            observation.idle = second % 60 >= 30;
            now - 60 * MINUTE - second % 60 * 1000
        });
        assert_eq!(found, [(60, true)]);
        // A partition whose writer has ended is only idle.
        let found = changes(600, 0, |second, _, observation| {
            observation.idle = second >= 30;
            940 * MINUTE
        });
        assert_eq!(found, []);
    }
}
