//! The rules of a run that hold until another run of its state has others.

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::time::Windows;

use crate::base::duration;
use crate::source::ReadingRules;

/// The rules of time, but for the width of windows, and those of reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRules {
    /// The rules of time.
    pub windows: Windows,
    /// The rules of reading.
    pub reading: ReadingRules,
}

impl RunRules {
    /// Returns the rules after these marks of the clock, and with the last ones of these rules of reading. `None` if
    /// there was no tick.
    pub fn last<'a>(
        marks: impl Iterator<Item = &'a SourceProgress>,
        reading: impl Iterator<Item = &'a ReadingRules>,
    ) -> Option<Self> {
        let of_mark = |mark: &SourceProgress| match mark {
            SourceProgress::Rules(windows) => Some(*windows),
            _ => None,
        };
        let windows = marks.fold(None, |last, mark| of_mark(mark).or(last))?;
        Some(RunRules { windows, reading: reading.last()?.clone() })
    }

    /// Returns the options of the command line.
    pub fn options(&self) -> [(&'static str, String); 6] {
        let Windows { lateness_ms, retention_ms, max_gap_secs, .. } = self.windows;
        let ReadingRules { max_ahead_ms, max_behind_ms, input_timezone } = &self.reading;
        let length = |ms: Option<u64>| ms.map_or("unbounded".to_owned(), duration::text);
        [
            ("--lateness", length(lateness_ms)),
            ("--retention", length(retention_ms)),
            ("--max-gap", duration::text(max_gap_secs.saturating_mul(1000))),
            ("--max-ahead", duration::text(*max_ahead_ms)),
            ("--max-behind", duration::text(*max_behind_ms)),
            ("--input-timezone", input_timezone.clone()),
        ]
    }
}
