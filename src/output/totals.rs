//! Totals of pairs as CSV, window by window, or each as a JSON object.

use std::io::{self, Write};
use std::net::IpAddr;
use std::ops::Not;

use floodmark_dataflows::time::{Window, Windows};
use floodmark_dataflows::types::{Pair, Volume};
use serde::Serialize;

use crate::base::date::{Stamp, format_ms, format_secs};

/// The header of the CSV.
pub const HEADER: &str = "window_start,source,destination,bytes,packets";

/// Writes the totals of one window as CSV, sorted by the text of the source, then by that of the destination.
pub fn write_window(
    out: &mut dyn Write,
    window: Window,
    rows: &[(Pair, Volume)],
) -> io::Result<()> {
    let start = format_secs(window.0);
    let text = |(pair, volume): &(Pair, Volume)| {
        (pair.source().to_string(), pair.destination().to_string(), *volume)
    };
    let mut rows: Vec<_> = rows.iter().map(text).collect();
    rows.sort_unstable();
    for (source, destination, Volume { bytes, packets }) in rows {
        writeln!(out, "{start},{source},{destination},{bytes},{packets}")?;
    }
    Ok(())
}

/// Returns the key of a total on a topic: its window and pair.
pub fn key(window: Window, pair: &Pair) -> String {
    format!("{} {} {}", format_secs(window.0), pair.source(), pair.destination())
}

#[derive(Serialize)]
struct TotalObject {
    window_start: Stamp,
    window_end: Stamp,
    source: IpAddr,
    destination: IpAddr,
    bytes: i64,
    packets: i64,
    #[serde(skip_serializing_if = "Not::not")]
    overflow: bool,
    as_of: Stamp,
}

/// Writes a total as a JSON object, as it was at a tick.
pub fn write_json(
    out: &mut dyn Write,
    windows: &Windows,
    window: Window,
    pair: &Pair,
    volume: Volume,
    tick: u64,
) -> io::Result<()> {
    let object = TotalObject {
        window_start: format_secs(window.0),
        window_end: format_secs(windows.end_secs(window)),
        source: pair.source(),
        destination: pair.destination(),
        bytes: volume.bytes,
        packets: volume.packets,
        overflow: volume.is_saturated(),
        as_of: format_ms(tick),
    };
    Ok(serde_json::to_writer(out, &object)?)
}
