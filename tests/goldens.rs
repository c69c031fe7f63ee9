//! Captures of many kinds, sound and damaged, against sums computed by other tools.
//!
//! Compression and the sizes of reads change no sum, and a truncated capture counts all packets before the cut.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use floodmark::capture::{Class, Reader};

use crate::common::{
    ReadResult, Trickle, captures, data, gzip, more_data, read_all, read_bytes, sums_csv, zstd,
};

/// Asserts that two texts are equal; fails with the lines that only one of them has.
fn check(name: &Path, found: &str, expected: &str) {
    if found == expected {
        return;
    }
    let only = |one: &str, other: &str| -> Vec<String> {
        let other: Vec<&str> = other.lines().collect();
        one.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect()
    };
    panic!(
        "{}: only found {:#?}, only expected {:#?}",
        name.display(),
        only(found, expected),
        only(expected, found)
    );
}

fn folders() -> Vec<std::path::PathBuf> {
    [Some(data()), more_data()].into_iter().flatten().collect()
}

/// Returns the sound captures of at most `most` bytes, with their expected sums.
fn small(most: usize) -> Vec<(std::path::PathBuf, Vec<u8>, String)> {
    let read = |(path, expected): (std::path::PathBuf, String)| {
        let bytes = fs::read(&path).expect("a readable capture");
        (path, bytes, expected)
    };
    let all = folders().into_iter().flat_map(|folder| captures(&folder, "captures"));
    all.map(read).filter(|(_, bytes, _)| bytes.len() <= most).collect()
}

#[test]
fn sound_captures_match_the_expected_sums() {
    for folder in folders() {
        let files = captures(&folder, "captures");
        assert!(files.len() >= 20, "captures are missing from {}", folder.display());
        for (path, expected) in &files {
            let ReadResult { packets, error, .. } = read_all(Reader::open(path).expect("opens"));
            assert!(error.is_none(), "{}: {}", path.display(), error.expect("some"));
            check(path, &sums_csv(&packets), expected);
        }
        println!("compared {} sound captures in {}", files.len(), folder.display());
    }
}

/// Prefixes of captures with damaged frames in sound containers; the containers of all others are damaged.
const SOUND_CONTAINERS: [&str; 7] = [
    "fuzzed-",
    "ip4-",
    "ip6-",
    "fraction-above-a-second",
    // Despite its name, its last block, the interface statistics, is complete.
    "ng-cut-block",
    "reserved-linktype-bits",
    "time-after-2106",
];

#[test]
fn damaged_captures_match_the_expected_sums_and_report_damage() {
    for folder in folders() {
        let files = captures(&folder, "malformed");
        assert!(files.len() >= 10, "captures are missing from {}", folder.display());
        for (path, expected) in &files {
            let ReadResult { packets, error, .. } = read_all(Reader::open(path).expect("opens"));
            check(path, &sums_csv(&packets), expected);
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            let sound = SOUND_CONTAINERS.iter().any(|start| name.starts_with(start));
            assert_eq!(error.is_none(), sound, "{name}: {error:?}");
            if let Some(error) = error {
                println!("{error}");
                assert!(matches!(error.class(), Class::Damaged | Class::NotCapture));
            }
        }
        println!("compared {} damaged captures in {}", files.len(), folder.display());
    }
}

#[test]
fn compressed_captures_match_the_expected_sums() {
    let files = small(1_200_000);
    for (path, bytes, expected) in &files {
        let (one, two) = bytes.split_at(bytes.len() / 3);
        let members = [gzip(one), gzip(two)].concat();
        let frames = [zstd(one), zstd(two)].concat();
        for packed in [gzip(bytes), zstd(bytes), members, frames] {
            let result = read_bytes(&packed);
            assert!(result.error.is_none(), "{}", path.display());
            check(path, &sums_csv(&result.packets), expected);
        }
    }
    println!("compared {} captures, each packed in four ways", files.len());
}

#[test]
fn captures_read_in_small_pieces_match_the_expected_sums() {
    let files = small(120_000);
    for (path, bytes, expected) in &files {
        for sizes in [vec![1], vec![1, 2, 3, 5, 8, 13], vec![4096, 1]] {
            let bytes = Cursor::new(bytes.clone());
            let source = Trickle { bytes, sizes, turn: 0 };
            let result = read_all(Reader::from_read("trickle", Box::new(source)));
            assert!(result.error.is_none(), "{}", path.display());
            check(path, &sums_csv(&result.packets), expected);
        }
    }
    println!("compared {} captures, each in three rhythms", files.len());
}

#[test]
fn truncated_captures_count_all_packets_before_the_cut() {
    let mut cuts = 0;
    for (path, bytes, _) in small(120_000) {
        let whole = read_bytes(&bytes);
        let step = (bytes.len() / 150).max(1);
        let mut before = 0;
        for end in (0..bytes.len()).step_by(step) {
            let result = read_bytes(&bytes[..end]);
            let count = result.packets.len();
            assert_eq!(result.packets, whole.packets[..count], "{} at {end}", path.display());
            assert!(count >= before, "{} at {end}", path.display());
            before = count;
            if let Some(error) = result.error {
                assert!(error.offset() as usize <= end);
                // All records before the offset of the error were returned.
                let whole_records = read_bytes(&bytes[..error.offset() as usize]);
                assert_eq!(whole_records.packets.len(), count, "{} at {end}", path.display());
            }
            cuts += 1;
        }
    }
    println!("compared {cuts} cuts");
}

#[test]
fn truncated_compressed_captures_count_a_prefix_and_fail() {
    let mut cuts = 0;
    for (path, bytes, _) in small(120_000) {
        let whole = read_bytes(&bytes).packets;
        for packed in [gzip(&bytes), zstd(&bytes)] {
            for part in 1..8 {
                let cut = &packed[..packed.len() * part / 8];
                let at_once = read_bytes(cut);
                let source = Trickle { bytes: Cursor::new(cut.to_vec()), sizes: vec![1], turn: 0 };
                let in_bytes = read_all(Reader::from_read("trickle", Box::new(source)));
                assert_eq!(at_once.packets, in_bytes.packets, "{} {part}", path.display());
                assert!(whole.starts_with(&at_once.packets), "{} {part}", path.display());
                assert!(at_once.error.is_some(), "{} {part}", path.display());
                cuts += 1;
            }
        }
    }
    println!("compared {cuts} cuts of packed captures");
}

#[test]
fn packet_in_an_open_pipe_does_not_wait_for_later_bytes() {
    for name in ["raw-ip-101.pcap", "many-interfaces.pcapng"] {
        let bytes = fs::read(data().join("captures").join(name)).expect("a capture");
        for packed in [bytes.clone(), gzip(&bytes), zstd(&bytes)] {
            let expected = read_bytes(&bytes).packets;
            let (source, mut pipe) = std::io::pipe().expect("a pipe");
            let writer = std::thread::spawn(move || {
                pipe.write_all(&packed).expect("the reader is there");
                pipe
            });
            let mut reader = Reader::from_read("pipe", Box::new(source));
            for packet in expected {
                assert_eq!(reader.next().expect("sound"), Some(packet));
            }
            // The pipe stays open until here.
            drop(writer.join().expect("the writer ends"));
            assert_eq!(reader.next().expect("sound"), None);
        }
    }
}
