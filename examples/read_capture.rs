//! Uses the capture reader alone: prints the ten pairs of a capture with the most bytes.
//!
//! It reads pcap and pcapng, plain or compressed, from a file or a pipe (`-`), and counts as floodmark
//! does: from the outermost IP header on, on the wire.
//!
//! `cargo run --release --example read_capture -- src/demo/office-lan.pcapng.zst`

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

use floodmark::capture::{ReadError, Reader};

const SHOWN: usize = 10;

fn read(path: &Path) -> Result<(), ReadError> {
    let mut reader = Reader::open(path)?;
    let mut bytes = HashMap::new();
    // The reader returns an error after all packets that precede the damage.
    let damage = loop {
        match reader.next() {
            Ok(Some(packet)) => *bytes.entry(packet.pair).or_insert(0) += packet.bytes,
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    let mut pairs: Vec<_> = bytes.into_iter().collect();
    pairs.sort_unstable_by_key(|(pair, bytes)| (std::cmp::Reverse(*bytes), *pair));
    for (pair, bytes) in pairs.iter().take(SHOWN) {
        println!("{bytes:>12}  {} > {}", pair.source(), pair.destination());
    }
    let tally = reader.tally();
    println!("{} of {} frames count, of {} pairs", tally.packets, tally.frames, pairs.len());
    tally.uncounted_texts().for_each(|text| println!("not counted: {text}"));
    damage.map_or(Ok(()), Err)
}

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: read_capture FILE, or - for standard input");
        return ExitCode::from(64);
    };
    match read(Path::new(&path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
