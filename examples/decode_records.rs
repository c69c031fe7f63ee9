//! Uses the record decoder alone: converts lines of any format that floodmark reads to floodmark's own JSON.
//!
//! The decoder detects the format of each line from its content: pmacct, goflow2, akvorado, nfdump, tshark,
//! and floodmark's own. It reports an unreadable line, and continues with the next one.
//!
//! `tshark -r FILE -T ek | cargo run --release --example decode_records`

#![allow(clippy::print_stderr)]

use std::io::{self, BufRead, Write};

use floodmark::record::{Decoder, Message, Observation, write_json};

fn main() -> io::Result<()> {
    let (decoder, mut out) = (Decoder::default(), io::BufWriter::new(io::stdout().lock()));
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(io::stdin().lock().split(b'\n')) {
        let line = line?;
        let message = Message { key: None, payload: Some(&line), timestamp_ms: None };
        let mut written = Ok(());
        let format = decoder.decode(&message, &mut |read| match read {
            Observation::Record(record) | Observation::WithoutPackets(record) => {
                key.clear();
                value.clear();
                write_json(&record, &mut key, &mut value);
                value.push(b'\n');
                written = out.write_all(&value);
            }
            Observation::Skipped(_) => {}
            Observation::Bad(reason) => eprintln!("line {number}: {reason}"),
        });
        written?;
        if let Err(reason) = format {
            eprintln!("line {number}: {reason}");
        }
    }
    out.flush()
}
