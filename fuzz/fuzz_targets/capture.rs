//! Any bytes at all, read as a capture: at once and in small pieces, with the same result.
#![no_main]

use std::io::{Cursor, Read};

use floodmark::capture::{BUFFER_MAX, Fault, Packet, Reader};
use libfuzzer_sys::fuzz_target;

/// A compressed input may stand for more packets than are worth waiting for.
const PACKETS_MAX: usize = 100_000;

struct Pieces(Cursor<Vec<u8>>, usize);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1 % 61 + 1;
        let size = self.1.min(buffer.len());
        self.0.read(&mut buffer[..size])
    }
}

#[derive(Debug, PartialEq)]
enum End {
    Whole,
    Damaged,
    /// Within compressed data: how much is decompressed before it depends on the pieces.
    BrokenCompression,
}

fn read(mut reader: Reader) -> (Vec<Packet>, End) {
    let mut packets = Vec::new();
    let end = loop {
        assert!(reader.buffer_capacity() <= BUFFER_MAX);
        match reader.next() {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => break End::Whole,
            Err(error) => {
                let _ = error.to_string();
                break match error.fault() {
                    Fault::Compression(_) => End::BrokenCompression,
                    _ => End::Damaged,
                };
            }
        }
        if packets.len() == PACKETS_MAX {
            return (packets, End::Whole);
        }
    };
    assert!(reader.next().expect("no second error").is_none());
    assert_eq!(reader.tally().packets, packets.len() as u64);
    (packets, end)
}

fuzz_target!(|data: &[u8]| {
    let whole = Cursor::new(data.to_vec());
    let pieces = Pieces(Cursor::new(data.to_vec()), data.len());
    let once = read(Reader::from_read("whole", Box::new(whole)));
    let (in_pieces, end) = read(Reader::from_read("pieces", Box::new(pieces)));
    if once.1 == End::BrokenCompression || end == End::BrokenCompression {
        let common = once.0.len().min(in_pieces.len());
        assert_eq!(once.0[..common], in_pieces[..common]);
        assert!(once.1 != End::Whole && end != End::Whole);
        return;
    }
    assert_eq!(once, (in_pieces, end));
});
