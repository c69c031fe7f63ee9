//! Delay before a restart.

use std::time::Duration;

/// Delays that double from failure to failure, and restart from the first one after a stable run.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    /// Lifetime after which a failure counts as unrelated to the one before, so that the delay is reset.
    stable: Duration,
    next: Duration,
    /// Number of restarts.
    pub(super) restarts: u64,
}

impl Backoff {
    /// Creates delays from 1 s to 30 s, reset after a minute without failure.
    pub(super) fn new() -> Self {
        let secs = Duration::from_secs;
        Backoff::between(secs(1), secs(30), secs(60))
    }

    pub(super) fn between(first: Duration, longest: Duration, stable: Duration) -> Self {
        Backoff { first, longest, stable, next: first, restarts: 0 }
    }

    /// Returns the delay after a failure, given the time for which the processes ran before it.
    pub(super) fn after(&mut self, ran_for: Duration) -> Duration {
        if ran_for >= self.stable {
            self.next = self.first;
        }
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        self.restarts += 1;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_its_maximum_and_is_reset_after_a_stable_run() {
        let mut backoff = Backoff::new();
        let short = Duration::from_secs(59);
        let waits: Vec<u64> = (0..7).map(|_| backoff.after(short).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.after(Duration::from_secs(60)).as_secs(), 1);
        assert_eq!(backoff.after(short).as_secs(), 2);
        assert_eq!(backoff.restarts, 9);
    }
}
