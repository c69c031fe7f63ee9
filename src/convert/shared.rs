//! One file, or standard output, that several workers write to: whole lines, in any order of workers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::output::WriteError;
use crate::record::Record;
use crate::sniffer::outlet::{Lines, Outlet, Sent};

/// The part of one worker.
pub struct Shared {
    lines: Arc<Mutex<Lines>>,
    /// Whether this part reports what was sent: one of them does, for all.
    tells: bool,
}

impl Shared {
    /// A part for each of so many workers.
    pub fn parts(lines: Lines, workers: usize) -> Vec<Self> {
        let lines = Arc::new(Mutex::new(lines));
        (0..workers).map(|index| Shared { lines: lines.clone(), tells: index == 0 }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet for Shared {
    fn take(&mut self, records: &[Record]) -> Result<(), WriteError> {
        self.lock().take(records)
    }

    fn take_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError> {
        self.lock().take_text(record, text)
    }

    fn settle(&mut self) -> Result<bool, WriteError> {
        self.lock().settle()
    }

    fn poll(&mut self) -> Result<(), WriteError> {
        self.lock().poll()
    }

    fn due(&self) -> Option<Instant> {
        self.lock().due()
    }

    fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    fn unreachable_since(&self) -> Option<Instant> {
        // One part reports an outage, for all.
        self.lock().unreachable_since().filter(|_| self.tells)
    }

    fn unreachable(&self) -> &'static str {
        self.lock().unreachable()
    }

    fn reachable(&self) -> &'static str {
        self.lock().reachable()
    }

    fn finish(&mut self, give_up: &mut dyn FnMut() -> bool) -> Result<(), WriteError> {
        self.lock().finish(give_up)
    }

    fn sent(&self) -> Sent {
        match self.tells {
            true => self.lock().sent(),
            false => Sent::default(),
        }
    }
}
