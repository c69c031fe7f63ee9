//! What time it is for a run.

use std::time::SystemTime;

/// What time it is for a run, in milliseconds since 1970. It may go back: ticks don't.
pub trait Clock: Send {
    /// Now: the watermark is never after it.
    fn now(&self) -> u64;
    /// Where the watermark is when it is `now` and all partitions are idle.
    fn silence(&self, now: u64) -> u64;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    /// How far the watermark is behind it if all partitions are idle, in milliseconds.
    pub idle_timeout_ms: u64,
}

impl Clock for WallClock {
    fn now(&self) -> u64 {
        // A clock before 1970 is set wrong; 1970 is as good an answer as any then.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_millis() as u64
    }

    fn silence(&self, now: u64) -> u64 {
        now.saturating_sub(self.idle_timeout_ms)
    }
}
