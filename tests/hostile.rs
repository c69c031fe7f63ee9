//! Hostile bytes: mutated captures never make the reader panic, hang, or hold more than its bound
//! (which [`crate::common::read_all`] watches).

use std::fs;
use std::io::Cursor;

use floodmark::capture::{Fault, ReadError, Reader};

use crate::common::{Random, Trickle, captures, data, read_all, read_bytes};

const SEED: u64 = 0x5eed_0001;
const ROUNDS: usize = 6000;

/// Edge cases of lengths and counts.
const EDGES: [u32; 12] =
    [0, 1, 3, 7, 8, 12, 16, 0xffff, 262_144, 262_145, 0x7fff_ffff, 0xffff_fffc];

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => {
                let edge = EDGES[random.below(EDGES.len())];
                let edge =
                    if random.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
                let at = at & !3;
                if let Some(field) = bytes.get_mut(at..at + 4) {
                    field.copy_from_slice(&edge);
                }
            }
            3 => {
                let other = &seeds[random.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
            4 => {
                let end = (at + random.below(64)).min(bytes.len());
                bytes.drain(at..end);
            }
            // Mutate a byte of the headers.
            _ if bytes.len() > 64 => bytes[random.below(64)] = random.below(256) as u8,
            _ => {}
        }
    }
    bytes
}

#[test]
fn mutated_captures_are_read_to_an_end_within_the_buffer_bound() {
    println!("seed {SEED:#x}");
    let mut seeds: Vec<Vec<u8>> = ["captures", "malformed"]
        .iter()
        .flat_map(|folder| captures(&data(), folder))
        .map(|(path, _)| fs::read(path).expect("a capture"))
        .filter(|bytes| !bytes.is_empty())
        .collect();
    for bytes in &mut seeds {
        // Damage deep in a file finds no further faults.
        bytes.truncate(20_000);
    }
    let packed: Vec<Vec<u8>> =
        seeds.iter().map(|bytes| zstd::encode_all(&bytes[..], 1).expect("memory")).collect();
    seeds.extend(packed);
    let mut random = Random(SEED);
    let mut errors = 0;
    for round in 0..ROUNDS {
        let bytes = mutate(&mut random, &seeds);
        let result = read_bytes(&bytes);
        errors += usize::from(result.error.is_some());
        if round % 20 == 0 {
            let source = Trickle { bytes: Cursor::new(bytes), sizes: vec![1, 7, 64], turn: round };
            let again = read_all(Reader::from_read("trickle", Box::new(source)));
            // In damaged compressed data, the sizes of reads decide how much is decoded before the error.
            let common = match result.error.as_ref().map(ReadError::fault) {
                Some(Fault::Compression(_)) => result.packets.len().min(again.packets.len()),
                _ => result.packets.len().max(again.packets.len()),
            };
            assert_eq!(again.packets.get(..common), result.packets.get(..common), "round {round}");
            assert!(again.packets.len() >= common, "round {round}");
            assert_eq!(again.error.is_some(), result.error.is_some(), "round {round}");
        }
    }
    println!("{errors} of {ROUNDS} were damaged");
    assert!(errors > ROUNDS / 10 && errors < ROUNDS);
}

#[test]
fn decompression_bomb_is_read_within_the_buffer_bound() {
    // A block of 300 MB that is no packet, in a few kilobytes.
    let length: u32 = 300_000_000;
    let section = [
        &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0][..],
        &[0xff; 8],
        &[28, 0, 0, 0],
    ]
    .concat();
    let head = [0x4444u32.to_le_bytes(), length.to_le_bytes()].concat();
    let source = std::io::Read::chain(Cursor::new([section, head].concat()), std::io::repeat(0));
    let source = std::io::Read::take(source, 28 + u64::from(length) - 4);
    let packed = zstd::encode_all(source, 1).expect("memory");
    assert!(packed.len() < 100_000);
    let tail = zstd::encode_all(&length.to_le_bytes()[..], 1).expect("memory");
    let result = read_bytes(&[packed, tail].concat());
    assert!(result.error.is_none(), "{:?}", result.error);
    assert_eq!(result.tally.frames, 0);
}
