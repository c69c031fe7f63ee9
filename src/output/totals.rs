//! Totals of pairs as CSV, window by window.

use std::io::{self, Write};

use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Pair, Volume};

use crate::limits::date::format_secs;

/// The header of the CSV.
pub const HEADER: &str = "window_start,source,destination,bytes,packets";

/// Writes the totals of one window, sorted by source, then destination, as text.
pub fn write_window(
    out: &mut dyn Write,
    window: Window,
    rows: Vec<(Pair, Volume)>,
) -> io::Result<()> {
    let start = format_secs(window.0);
    let text = |(pair, volume): (Pair, Volume)| {
        (pair.source().to_string(), pair.destination().to_string(), volume)
    };
    let mut rows: Vec<_> = rows.into_iter().map(text).collect();
    rows.sort_unstable();
    for (source, destination, Volume { bytes, packets }) in rows {
        writeln!(out, "{start},{source},{destination},{bytes},{packets}")?;
    }
    Ok(())
}
