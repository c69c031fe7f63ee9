//! Decides when to read a table: as soon as it may have changed, but only for a small share of the time.

use std::time::{Duration, Instant};

/// Interval between two readings of a table without notifications, and between two polls of one with them.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Polls take at most one in this many parts of the time, unless they are quick.
const POLL_SHARE: u32 = 20;

/// Duration of a quick poll: it burdens no server, and may have taken longer than usual by chance.
const QUICK_POLL: Duration = Duration::from_millis(100);

/// Maximum interval between two readings of a table that notifies of changes: a writer may have turned triggers off.
const FULL_READ_INTERVAL: Duration = Duration::from_secs(60);

/// Minimum pause before a reading that notifications request: a burst of them leads to one reading.
const NOTIFIED_PAUSE: Duration = Duration::from_millis(10);

/// Such readings take at most one in this many parts of the time.
const NOTIFIED_SHARE: u32 = 4;

/// Longest idle time of a connection: some firewalls and address translators forget one that is idle for longer.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(60);

/// Pauses after one failure and after many.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Decides when a table is read next.
#[derive(Debug)]
pub(super) struct Pace {
    refresh: Option<Duration>,
    /// The start of the last reading, and its duration.
    began: Instant,
    took: Duration,
    failures: u32,
}

impl Pace {
    /// Returns the pace after a first reading, which began at `began` and has just ended.
    pub(super) fn new(refresh: Option<Duration>, began: Instant) -> Self {
        Pace { refresh, began, took: began.elapsed(), failures: 0 }
    }

    /// Whether the feed listens to notifications.
    pub(super) fn listens(&self) -> bool {
        self.refresh.is_none()
    }

    /// Whether a connection would be idle for longer than firewalls remember it.
    pub(super) fn idles_long(&self) -> bool {
        self.refresh.is_some_and(|refresh| refresh > IDLE_CONNECTION_MAX)
    }

    /// Records a reading that succeeded.
    pub(super) fn succeeded(&mut self, began: Instant) {
        (self.began, self.took, self.failures) = (began, began.elapsed(), 0);
    }

    /// Records that a reading, or the poll before it, has failed.
    pub(super) fn failed(&mut self) {
        self.failures += 1;
    }

    /// Whether the last reading, or poll, failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Returns the time of the next poll, if no notification arrives before.
    pub(super) fn next_poll(&self, now: Instant) -> Instant {
        if self.failures > 0 {
            let wait = RETRY_FIRST * 2_u32.saturating_pow(self.failures.min(16) - 1);
            return now + wait.min(RETRY_MAX);
        }
        match self.refresh {
            Some(refresh) => self.began + refresh,
            None if self.took <= QUICK_POLL => now + POLL_INTERVAL,
            None => (now + POLL_INTERVAL).max(self.began + self.took * POLL_SHARE),
        }
    }

    /// Returns the earliest time of a reading that a notification requests.
    pub(super) fn earliest_notified_read(&self) -> Instant {
        self.began + self.took + NOTIFIED_PAUSE.max(self.took * (NOTIFIED_SHARE - 1))
    }

    /// Whether a poll reads the table even if it has found no change.
    pub(super) fn must_read(&self, notifies: bool, now: Instant) -> bool {
        !notifies || now >= self.began + FULL_READ_INTERVAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace(refresh: Option<Duration>, took: Duration, failures: u32) -> (Instant, Pace) {
        let began = Instant::now();
        (began + took, Pace { refresh, began, took, failures })
    }

    #[test]
    fn poll_that_is_not_quick_takes_a_twentieth_at_most() {
        for took in [2 * MS, QUICK_POLL] {
            let (now, quick) = pace(None, took, 0);
            assert_eq!(quick.next_poll(now), now + POLL_INTERVAL);
        }
        let (now, slow) = pace(None, 400 * MS, 0);
        assert_eq!(slow.next_poll(now), now + 7600 * MS);
        assert!(slow.must_read(false, now) && !slow.must_read(true, now));
        assert!(slow.must_read(true, now + FULL_READ_INTERVAL));
    }

    #[test]
    fn reading_for_notifications_waits_for_a_pause_or_a_quarter_share() {
        let (now, quick) = pace(None, MS, 0);
        assert_eq!(quick.earliest_notified_read(), now + NOTIFIED_PAUSE);
        let (now, slow) = pace(None, 100 * MS, 0);
        assert_eq!(slow.earliest_notified_read(), now + 300 * MS);
    }

    #[test]
    fn refresh_interval_sets_the_next_poll() {
        let refresh = Duration::from_secs(1200);
        let (now, pace) = pace(Some(refresh), 50 * MS, 0);
        assert!(!pace.listens());
        assert_eq!(pace.next_poll(now), now - 50 * MS + refresh);
    }

    #[test]
    fn pauses_after_failures_double_up_to_the_maximum() {
        let waits = [1, 2, 3, 10, u32::MAX].map(|failures| {
            let (now, pace) = pace(Some(Duration::from_secs(1200)), MS, failures);
            pace.next_poll(now) - now
        });
        assert_eq!(waits, [100 * MS, 200 * MS, 400 * MS, RETRY_MAX, RETRY_MAX]);
    }
}
