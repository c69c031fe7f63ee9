//! Reports about closed ticks, to the log and as metrics.

use floodmark_dataflows::reports::Saturated;
use metrics::{Counter, counter, gauge};

use super::late::LateLog;
use crate::base::date::format_ms;
use crate::computation::EntryCounts;
use crate::limits::catalog::Catalog;
use crate::output::difference::PublishedChanges;
use crate::output::{WriteError, overflow};
use crate::sink::{ClosedTick, Sink};

/// A consumer of closed ticks that logs and counts everything unusual about them.
pub(super) struct Reports {
    late: LateLog,
    saturated: Counter,
    /// Whether the time from which on windows are whole is logged.
    whole_logged: bool,
}

impl Reports {
    pub(super) fn new() -> Self {
        let saturated = counter!("floodmark_saturated_totals_total");
        // A rate needs a value before the first event.
        saturated.increment(0);
        Reports { late: LateLog::default(), saturated, whole_logged: false }
    }

    fn saturated(&self, saturated: &[Saturated]) {
        overflow::lines(saturated).for_each(|line| tracing::error!("{line}"));
        self.saturated.increment(saturated.len() as u64);
    }
}

impl Sink for Reports {
    fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
        Ok(())
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        let ClosedTick { outputs, windows, .. } = *closed;
        self.late.add(outputs.late.dropped, &|| format_ms(windows.watermark).to_string());
        if !self.whole_logged
            && let Some(from) = windows.whole_from
        {
            self.whole_logged = true;
            log_whole(from);
        }
        self.saturated(&outputs.saturated);
        if let Some(counts) = outputs.held {
            export(counts);
        }
        Ok(())
    }
}

fn export(EntryCounts { pairs, rollups, addresses }: EntryCounts) {
    gauge!("floodmark_pairs").set(pairs as f64);
    for (name, entries) in [("pairs", pairs), ("rollups", rollups), ("addresses", addresses)] {
        gauge!("floodmark_arrangement_records", "name" => name).set(entries as f64);
    }
}

/// Logs the time from which on windows are whole.
fn log_whole(from: u64) {
    if from > 0 {
        let from = format_ms(from).to_string();
        tracing::info!(
            from,
            "windows are whole from this time on; reading began within the topic, so that earlier ones are \
             partial: no min is judged in them, and their totals are not published"
        );
    }
}
