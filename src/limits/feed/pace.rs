//! Decides when to read a table: as soon as it may have changed, but never for much of the time.

use std::time::{Duration, Instant};

/// Interval between two readings of a table without notifications, and between two looks at one with them.
const POLL: Duration = Duration::from_secs(1);

/// A poll takes at most this part of the time, unless it is quick.
const POLL_PART: u32 = 20;

/// A poll that takes no longer burdens no server, and may have taken longer than usual by chance.
const QUICK_POLL: Duration = Duration::from_millis(100);

/// Greatest interval between two readings of a table that notifies of changes: a writer may have turned
/// triggers off.
const READ_ANYWAY: Duration = Duration::from_secs(60);

/// Minimum pause before a reading that notifications request, however many there are; it gathers them.
const NOTIFIED_APART: Duration = Duration::from_millis(10);

/// Such readings take at most this part of the time.
const NOTIFIED_PART: u32 = 4;

/// Some firewalls and address translators forget a connection that is idle for longer.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Waits after one failure and after many.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);

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

    /// Whether an idle connection would rest for longer than firewalls remember one.
    pub(super) fn rests_long(&self) -> bool {
        self.refresh.is_some_and(|refresh| refresh > FORGOTTEN_AFTER)
    }

    /// Notes a reading that succeeded.
    pub(super) fn read(&mut self, began: Instant) {
        (self.began, self.took, self.failures) = (began, began.elapsed(), 0);
    }

    /// Notes that a reading, or the look before it, has failed.
    pub(super) fn failed(&mut self) {
        self.failures += 1;
    }

    /// Whether the last reading, or look, failed.
    pub(super) fn fails(&self) -> bool {
        self.failures > 0
    }

    /// Returns the time of the next look, if no notification comes before.
    pub(super) fn next_look(&self, now: Instant) -> Instant {
        if self.failures > 0 {
            let wait = RETRY_FIRST * 2_u32.saturating_pow(self.failures.min(16) - 1);
            return now + wait.min(RETRY_MOST);
        }
        match self.refresh {
            Some(refresh) => self.began + refresh,
            None if self.took <= QUICK_POLL => now + POLL,
            None => (now + POLL).max(self.began + self.took * POLL_PART),
        }
    }

    /// Returns the earliest time of a reading that a notification requests.
    pub(super) fn earliest(&self) -> Instant {
        self.began + self.took + NOTIFIED_APART.max(self.took * (NOTIFIED_PART - 1))
    }

    /// Whether a look reads the table even if it has found no change.
    pub(super) fn reads_anyway(&self, notifies: bool, now: Instant) -> bool {
        !notifies || now >= self.began + READ_ANYWAY
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
            assert_eq!(quick.next_look(now), now + POLL);
        }
        let (now, slow) = pace(None, 400 * MS, 0);
        assert_eq!(slow.next_look(now), now + 7600 * MS);
        assert!(slow.reads_anyway(false, now) && !slow.reads_anyway(true, now));
        assert!(slow.reads_anyway(true, now + READ_ANYWAY));
    }

    #[test]
    fn notifications_are_gathered() {
        let (now, quick) = pace(None, MS, 0);
        assert_eq!(quick.earliest(), now + NOTIFIED_APART);
        let (now, slow) = pace(None, 100 * MS, 0);
        assert_eq!(slow.earliest(), now + 300 * MS);
    }

    #[test]
    fn an_interval_is_kept() {
        let refresh = Duration::from_secs(1200);
        let (now, pace) = pace(Some(refresh), 50 * MS, 0);
        assert!(!pace.listens());
        assert_eq!(pace.next_look(now), now - 50 * MS + refresh);
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let waits = [1, 2, 3, 10, u32::MAX].map(|failures| {
            let (now, pace) = pace(Some(Duration::from_secs(1200)), MS, failures);
            pace.next_look(now) - now
        });
        assert_eq!(waits, [100 * MS, 200 * MS, 400 * MS, RETRY_MOST, RETRY_MOST]);
    }
}
