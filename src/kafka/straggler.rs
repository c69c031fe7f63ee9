//! Partitions whose event time stays behind the others, as with an exporter whose clock is wrong.
//!
//! Such a partition would pause all others for as long as something is written to it. It straggles when it
//! is read to its end, has been behind the others by more than `--max-skew` for `--idle-timeout`, and has not
//! come nearer to them during that time. Nobody waits for it then, until it is within `--max-skew` again.
//!
//! The distance is measured to the clock, not to other partitions: one that waits for a slower partition
//! stands still in event time, though its writer goes on. A partition that is behind and catches up, as after
//! an outage of its writer, comes nearer to the clock; a wrong clock does not.

use std::time::{Duration, Instant};

/// To come nearer by less than the idle timeout divided by this, within it, is to stay where it is: clocks
/// drift, and messages take more or less time on their way.
const NEARER: u32 = 100;

/// The event time of the run, by which partitions are told to straggle. Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// The clock of the leader.
    pub now: u64,
    /// The greatest event time of any partition, at most the clock; the clock where a partition waits with
    /// more to read.
    pub front: u64,
}

/// One look at a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) event_time: EventTime,
    /// The greatest event time read from the partition; 0 if there is none.
    pub(super) reached: u64,
    /// Whether the partition was read to its end of late.
    pub(super) ended: bool,
    /// Whether nothing has come from it for the idle timeout.
    pub(super) idle: bool,
}

/// Tells whether a partition straggles.
#[derive(Clone, Debug, Default)]
pub(super) struct Straggler {
    /// While the partition is behind the others: its least distance to the clock, and since when it has not
    /// come nearer.
    nearest: Option<(u64, Instant)>,
    straggles: bool,
}

impl Straggler {
    pub(super) fn straggles(&self) -> bool {
        self.straggles
    }

    /// Takes a look. Returns whether the partition straggles from now on, if that has changed.
    pub(super) fn look(
        &mut self,
        look: Look,
        max_skew_ms: u64,
        idle_timeout: Duration,
    ) -> Option<bool> {
        let EventTime { now, front } = look.event_time;
        if look.reached.saturating_add(max_skew_ms) >= front {
            self.nearest = None;
            return std::mem::take(&mut self.straggles).then_some(false);
        }
        // Nobody waits for an idle one. When it returns, its writer may have a lot to catch up on.
        if self.straggles || look.idle {
            return None;
        }
        if !look.ended {
            // It may have anything yet.
            self.nearest = None;
            return None;
        }
        let distance = now.saturating_sub(look.reached);
        let step = (idle_timeout / NEARER).as_millis().max(1) as u64;
        let since = match self.nearest {
            Some((nearest, since)) if distance.saturating_add(step) > nearest => since,
            _ => {
                self.nearest = Some((distance, look.at));
                look.at
            }
        };
        self.straggles = look.at.saturating_duration_since(since) >= idle_timeout;
        self.straggles.then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const IDLE: Duration = Duration::from_secs(30);

    /// Looks once a second, from a clock of 1000 minutes on, at a partition whose event time `reached`
    /// says for each second; the others are `behind_clock` milliseconds behind the clock. Returns the
    /// seconds in which something has changed.
    fn changes(
        seconds: u64,
        behind_clock: u64,
        mut look: impl FnMut(u64, u64, &mut Look) -> u64,
    ) -> Vec<(u64, bool)> {
        let start = Instant::now();
        let mut straggler = Straggler::default();
        let mut changes = Vec::new();
        for second in 0..seconds {
            let now = 1000 * MINUTE + second * 1000;
            let mut one = Look {
                at: start + Duration::from_secs(second),
                event_time: EventTime { now, front: now - behind_clock },
                reached: 0,
                ended: true,
                idle: false,
            };
            one.reached = look(second, now, &mut one);
            if let Some(straggles) = straggler.look(one, 15 * MINUTE, IDLE) {
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
        // Its clock stands, or nothing of it could be counted.
        assert_eq!(changes(300, 0, |_, _, _| 7 * MINUTE), [(30, true)]);
        assert_eq!(changes(300, 0, |_, _, _| 0), [(30, true)]);
        // Messages come now and then, and take their time.
        let jitter = |second: u64, now: u64| now - 60 * MINUTE - (second * 7919 % 20) * 997;
        let found = changes(600, 0, |second, now, _| jitter(second, now));
        assert!(matches!(found[..], [(30..200, true)]), "{found:?}");
    }

    #[test]
    fn partition_that_comes_nearer_is_waited_for() {
        // A tenth faster than the clock.
        let nearer = |second: u64, now: u64| now - 60 * MINUTE + second * 100;
        assert_eq!(changes(3000, 0, |second, now, _| nearer(second, now)), []);
        // It drifts: that is not to come nearer.
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
        let found = changes(3000, 0, |second, _, look| {
            look.idle = (30..2400).contains(&second);
            let caught_up = second.saturating_sub(2400) * 10;
            1000 * MINUTE + if second < 2400 { 0 } else { caught_up.min(second) * 1000 }
        });
        assert_eq!(found, []);
    }

    #[test]
    fn partition_that_is_not_read_to_its_end_is_waited_for() {
        let found = changes(300, 0, |second, now, look| {
            look.ended = second >= 100;
            now - 60 * MINUTE
        });
        assert_eq!(found, [(130, true)]);
    }

    #[test]
    fn straggler_is_waited_for_again_when_it_is_within_the_skew() {
        let mended = |second: u64, now: u64| if second < 100 { now - 60 * MINUTE } else { now };
        let found = changes(300, 0, |second, now, look| {
            // A straggler stays one while it is not read to its end.
            look.ended = second < 50;
            mended(second, now)
        });
        assert_eq!(found, [(30, true), (100, false)]);
    }

    #[test]
    fn straggler_that_sends_now_and_then_does_not_stop_the_others_each_time() {
        // A record each minute: it is idle for half of the time.
        let found = changes(600, 0, |second, now, look| {
            look.idle = second % 60 >= 30;
            now - 60 * MINUTE - second % 60 * 1000
        });
        assert_eq!(found, [(60, true)]);
        // One that has ended is idle, and no more.
        let found = changes(600, 0, |second, _, look| {
            look.idle = second >= 30;
            940 * MINUTE
        });
        assert_eq!(found, []);
    }
}
