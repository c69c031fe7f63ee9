//! Speed of reading and decoding captures, without further work on the packets.
//!
//! `cargo bench --bench decode -- --quiet FILE...` reads FILEs; time it from outside. Without `--quiet`
//! it prints a line of CSV per window of 300 seconds and pair, to compare with other readers, and on
//! standard error the numbers of counted and uncounted frames. `-` is standard input.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use floodmark::capture::{ReadError, Reader, Tally, Uncounted};
use floodmark_dataflows::time::Windows;

type Sums = BTreeMap<(u64, String, String), (u64, u64)>;

fn main() -> io::Result<()> {
    let mut quiet = false;
    let mut out = BufWriter::new(io::stdout().lock());
    for file in std::env::args().skip(1) {
        if file == "--bench" {
            // Cargo passes this argument.
            continue;
        }
        if file == "--quiet" {
            quiet = true;
            continue;
        }
        let mut sums = Sums::new();
        let mut tally = Tally::default();
        let end = read(Path::new(&file), quiet, &mut sums, &mut tally);
        for ((window, source, destination), (bytes, packets)) in sums {
            writeln!(out, "{window},{source},{destination},{bytes},{packets}")?;
        }
        report(&file, &tally)?;
        if let Err(error) = end {
            writeln!(io::stderr(), "{error}")?;
        }
    }
    out.flush()
}

fn read(file: &Path, quiet: bool, sums: &mut Sums, tally: &mut Tally) -> Result<(), ReadError> {
    let mut reader = Reader::open(file)?;
    loop {
        let packet = match reader.next() {
            Ok(Some(packet)) => packet,
            end => {
                *tally = reader.tally().clone();
                return end.map(|_| ());
            }
        };
        if quiet {
            // Keeps the compiler from optimizing the unused packet away.
            std::hint::black_box(packet);
            continue;
        }
        let Some(window) = Windows::default().of(packet.time.ms) else {
            continue;
        };
        let (source, destination) = (packet.pair.source(), packet.pair.destination());
        let sum = sums.entry((window.0, source.to_string(), destination.to_string())).or_default();
        sum.0 += packet.bytes;
        sum.1 += 1;
    }
}

fn report(file: &str, tally: &Tally) -> io::Result<()> {
    let mut out = io::stderr().lock();
    writeln!(
        out,
        "{file}: {} frames, {} packets, {} bytes",
        tally.frames, tally.packets, tally.bytes
    )?;
    for kind in Uncounted::ALL.into_iter().filter(|kind| tally.uncounted(*kind) > 0) {
        writeln!(out, "  {} {}", tally.uncounted(kind), kind.text())?;
    }
    for (number, frames) in tally.link_types() {
        writeln!(out, "  link type {number}: {frames} frames")?;
    }
    Ok(())
}
