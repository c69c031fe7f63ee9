//! Logs records that are dropped since they are late, while that happens.

use std::time::{Duration, Instant};

/// The least time between two lines of the log.
const INTERVAL: Duration = Duration::from_secs(10);

/// Dropped records that are not logged yet.
#[derive(Debug, Default)]
pub(super) struct LateLog {
    dropped: u64,
    logged: Option<Instant>,
}

impl LateLog {
    /// Takes the number of records that a tick has dropped. The first ones are logged at once.
    pub(super) fn add(&mut self, dropped: u64, watermark: &dyn Fn() -> String) {
        if let Some(records) = self.due(dropped, Instant::now()) {
            tracing::warn!(
                records,
                watermark = watermark(),
                "records came after their window had settled, and are not counted"
            );
        }
    }

    /// The number of records to log now, if it is time.
    fn due(&mut self, dropped: u64, now: Instant) -> Option<u64> {
        self.dropped += dropped;
        let recent = |logged: Instant| now.saturating_duration_since(logged) < INTERVAL;
        if self.dropped == 0 || self.logged.is_some_and(recent) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_records_are_logged_at_once_and_then_by_their_number() {
        let (mut log, start) = (LateLog::default(), Instant::now());
        let mut due = |dropped, seconds| log.due(dropped, start + Duration::from_secs(seconds));
        assert_eq!(due(0, 0), None);
        assert_eq!(due(3, 1), Some(3));
        assert_eq!(due(10, 2), None);
        assert_eq!(due(20, 10), None);
        // Also if nothing more is dropped.
        assert_eq!(due(0, 11), Some(30));
        assert_eq!(due(0, 30), None);
        assert_eq!(due(1, 31), Some(1));
    }
}
