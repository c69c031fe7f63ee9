//! Delay before a restart.

use std::time::Duration;

/// Delays that double from failure to failure, and begin anew after a time without any.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    greatest: Duration,
    /// Lifetime after which a failure has nothing to do with the one before, so that delays begin anew.
    stable: Duration,
    next: Duration,
    /// Number of restarts.
    pub(super) restarts: u64,
}

impl Backoff {
    /// 1 s to 30 s, and anew after a minute.
    pub(super) fn new() -> Self {
        let secs = Duration::from_secs;
        Backoff::between(secs(1), secs(30), secs(60))
    }

    pub(super) fn between(first: Duration, greatest: Duration, stable: Duration) -> Self {
        Backoff { first, greatest, stable, next: first, restarts: 0 }
    }

    /// Returns the delay after a failure, given the time that passed since the start before it.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= self.stable {
            self.next = self.first;
        }
        let wait = self.next;
        self.next = (wait * 2).min(self.greatest);
        self.restarts += 1;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_a_bound_and_begins_anew() {
        let mut backoff = Backoff::new();
        let short = Duration::from_secs(59);
        let waits: Vec<u64> = (0..7).map(|_| backoff.after(short).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.after(Duration::from_secs(60)).as_secs(), 1);
        assert_eq!(backoff.after(short).as_secs(), 2);
        assert_eq!(backoff.restarts, 9);
    }
}
