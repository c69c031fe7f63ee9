//! The totals of windows that are retained when the input ends.

use std::collections::BTreeMap;

use floodmark_dataflows::reads::Read;
use floodmark_dataflows::time::Window;

use crate::source::TickRecords;

/// Rows of totals that are read at once when the input has ended, unless a window has more.
pub(super) const ROWS_AT_ONCE: usize = 200_000;

/// The totals of windows that are to be read when the input ends.
#[derive(Default)]
pub(super) struct Retained(BTreeMap<Window, usize>);

impl Retained {
    /// Notes the windows of records. The number of updates of a window is an upper bound of its totals.
    pub(super) fn note(&mut self, records: &TickRecords) {
        for window in &records.seen {
            *self.0.entry(*window).or_default() += 1;
        }
        for batch in &records.update_batches {
            *self.0.entry(batch.window).or_default() += batch.len();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next read: some windows at a time, so that few rows are in flight at once.
    pub(super) fn next(&mut self) -> Option<Read> {
        let (from, mut rows) = self.0.pop_first()?;
        while let Some(next) = self.0.first_entry()
            && rows + next.get() <= ROWS_AT_ONCE
        {
            rows += next.remove();
        }
        let until = self.0.first_key_value().map_or(Window(u64::MAX), |(window, _)| *window);
        Some(Read::Rows { from, until })
    }
}
