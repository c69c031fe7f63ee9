//! `floodmark generate`: a workload as a pcap file, to try limits and measure speed with.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::base::error::{Exit, Failure, Outcome};
use crate::generate::{Workload, write_pcap};

/// Write a capture with a made-up workload: few busy pairs, many quiet ones.
///
/// Equal arguments give equal bytes, on every machine. Only headers are written, 58 bytes for an
/// IPv4 packet and 78 for an IPv6 packet; lengths on the wire are those of whole packets.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Number of packets; k, M and G are thousands, millions and billions.
    #[arg(long, value_name = "NUMBER", default_value = "1M", value_parser = number)]
    pub packets: u64,
    /// Number of pairs of addresses; k, M and G as in --packets.
    #[arg(long, value_name = "NUMBER", default_value = "10k", value_parser = pairs)]
    pub pairs: u32,
    /// Time over which the packets are spread.
    #[arg(long, value_name = "DURATION", default_value = "60m", value_parser = span)]
    pub span: u64,
    /// Random seed.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Share of IPv6 packets and pairs, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.25)]
    pub ipv6: f64,
    /// Time of the first packet, in the format of RFC 3339.
    #[arg(long, value_name = "TIME", default_value = "2026-01-01T00:00:00Z", value_parser = start)]
    pub start: u64,
    /// The file to write; - is standard output.
    #[arg(value_name = "FILE")]
    pub output: PathBuf,
}

/// Writes the file.
///
/// # Errors
/// Arguments that allow no workload, or a file that can't be written.
pub fn run(args: &Args) -> Outcome {
    let workload = Workload {
        packets: args.packets,
        pairs: args.pairs,
        start_micros: args.start,
        span_micros: args.span,
        seed: args.seed,
        ipv6: args.ipv6,
    };
    // Check before opening the file: a wrong argument must not empty it.
    let packets = workload.packets().map_err(|error| Failure::new(Exit::Usage, error))?;
    let name = args.output.display();
    let written = match args.output == Path::new("-") {
        true => write(packets, io::stdout().lock()),
        false => {
            let file =
                File::create(&args.output).with_context(|| format!("can't create \"{name}\""))?;
            write(packets, file)
        }
    };
    match written {
        // The reader closed the pipe: it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        written => {
            written.with_context(|| format!("can't write \"{name}\""))?;
            Ok(Exit::Done)
        }
    }
}

fn write(packets: crate::generate::Packets, out: impl Write) -> io::Result<()> {
    write_pcap(packets, BufWriter::with_capacity(256 * 1024, out))
}

/// Reads a whole number with an optional suffix k, M or G.
fn number(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (text.get(..at), 1000),
        Some((at, 'M')) => (text.get(..at), 1_000_000),
        Some((at, 'G')) => (text.get(..at), 1_000_000_000),
        _ => (Some(text), 1),
    };
    digits
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "not a number; write it like 5000, 10k or 10M".to_owned())
}

fn pairs(text: &str) -> Result<u32, String> {
    number(text)?.try_into().map_err(|_| format!("too many; give at most {}", u32::MAX))
}

/// Reads a duration, in microseconds.
fn span(text: &str) -> Result<u64, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|span| u64::try_from(span.as_micros()).ok())
        .ok_or_else(|| "not a duration; write it like 90s, 60m or 24h".to_owned())
}

/// Reads a time, in microseconds since 1970.
fn start(text: &str) -> Result<u64, String> {
    text.parse::<jiff::Timestamp>()
        .ok()
        .and_then(|start| u64::try_from(start.as_microsecond()).ok())
        .ok_or_else(|| "not a time since 1970; write it like 2026-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_durations_and_times_are_read_or_rejected() {
        assert_eq!(number("5000"), Ok(5000));
        assert_eq!(number("10k"), Ok(10_000));
        assert_eq!(number("10M"), Ok(10_000_000));
        assert!(
            ["", "M", "1.5k", "-1", "99999999999G", "10é"].map(number).iter().all(Result::is_err)
        );
        assert!(pairs("5G").is_err());
        assert_eq!(span("60m"), Ok(3_600_000_000));
        assert!(span("-1s").is_err() && span("60").is_err());
        assert_eq!(start("1970-01-01T00:05:00Z"), Ok(300_000_000));
        assert!(start("1969-12-31T23:59:59Z").is_err());
    }
}
