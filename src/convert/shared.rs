//! One file, or standard output, to which several workers write whole lines. Lines of different workers have no order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::output::WriteError;
use crate::record::Record;
use crate::sniffer::outlet::{Lines, Outlet, Sent};

/// The outlet of one worker.
pub struct SharedLines {
    lines: Arc<Mutex<Lines>>,
    /// Whether this part reports counts and outages. One part does, for all workers.
    reports: bool,
}

impl SharedLines {
    /// Creates the parts of so many workers.
    pub fn parts(lines: Lines, workers: usize) -> Vec<Self> {
        let lines = Arc::new(Mutex::new(lines));
        (0..workers)
            .map(|index| SharedLines { lines: lines.clone(), reports: index == 0 })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet for SharedLines {
    fn accept(&mut self, records: &[Record]) -> Result<(), WriteError> {
        self.lock().accept(records)
    }

    fn accept_text(&mut self, record: &Record, text: &[u8]) -> Result<(), WriteError> {
        self.lock().accept_text(record, text)
    }

    fn flush(&mut self) -> Result<bool, WriteError> {
        self.lock().flush()
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
        self.lock().unreachable_since().filter(|_| self.reports)
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
        match self.reports {
            true => self.lock().sent(),
            false => Sent::default(),
        }
    }
}
