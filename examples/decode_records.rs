//! The record decoder alone: lines of any format that floodmark reads, as floodmark's own JSON.
//!
//! The decoder tells the format of each line from its content: pmacct, goflow2, akvorado, nfdump, tshark,
//! and floodmark's own. A line that can't be read is reported, and the next one is read.
//!
//! `tshark -r FILE -T ek | cargo run --release --example decode_records`

#![allow(clippy::print_stderr)]

use std::io::{self, BufRead, Write};

use floodmark::record::{Decoder, Message, Read, write_json};

fn main() -> io::Result<()> {
    let (decoder, mut out) = (Decoder::default(), io::BufWriter::new(io::stdout().lock()));
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(io::stdin().lock().split(b'\n')) {
        let line = line?;
        let message = Message { key: None, payload: Some(&line), timestamp_ms: None };
        let mut written = Ok(());
        let format = decoder.decode(&message, &mut |read| match read {
            Read::Record(record) | Read::WithoutPackets(record) => {
                key.clear();
                value.clear();
                write_json(&record, &mut key, &mut value);
                value.push(b'\n');
                written = out.write_all(&value);
            }
            Read::Skipped(_) => {}
            Read::Bad(reason) => eprintln!("line {number}: {reason}"),
        });
        written?;
        if let Err(reason) = format {
            eprintln!("line {number}: {reason}");
        }
    }
    out.flush()
}
