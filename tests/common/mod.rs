//! Helpers shared by the tests: captures to read, and sums to compare.

pub(crate) mod broker;
pub(crate) mod object_store;
pub(crate) mod postgres;
pub(crate) mod relay;
mod test_server;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use floodmark::capture::{BUFFER_MAX, Packet, ReadError, Reader, Tally};
use floodmark_dataflows::time::Windows;

/// Returns a free port.
pub(crate) fn free_port() -> u16 {
    test_server::free_ports(11_000, 1)
}

/// Returns the time, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("a clock that is set").as_millis() as u64
}

/// The outcome of reading a capture to its end.
pub(crate) struct ReadResult {
    pub(crate) packets: Vec<Packet>,
    pub(crate) tally: Tally,
    pub(crate) error: Option<ReadError>,
}

/// Reads a capture to its end, and asserts the invariants of every capture.
pub(crate) fn read_all(mut reader: Reader) -> ReadResult {
    let mut packets = Vec::new();
    let error = loop {
        match reader.next() {
            Ok(Some(packet)) => packets.push(packet),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
        assert!(reader.buffer_capacity() <= BUFFER_MAX);
    };
    assert!(reader.next().expect("no second error").is_none());
    let tally = reader.tally().clone();
    assert_eq!(tally.packets, packets.len() as u64);
    let uncounted: u64 =
        floodmark::capture::Uncounted::ALL.iter().map(|kind| tally.uncounted(*kind)).sum();
    assert_eq!(tally.frames, tally.packets + uncounted);
    assert!(packets.iter().all(|packet| packet.bytes <= 1 << 40));
    ReadResult { packets, tally, error }
}

pub(crate) fn read_bytes(bytes: &[u8]) -> ReadResult {
    let source = std::io::Cursor::new(bytes.to_vec());
    read_all(Reader::from_read("test", Box::new(source)))
}

/// A source whose reads return at most `sizes` bytes, in turn.
pub(crate) struct Trickle {
    pub(crate) bytes: std::io::Cursor<Vec<u8>>,
    pub(crate) sizes: Vec<usize>,
    pub(crate) turn: usize,
}

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let size = self.sizes[self.turn % self.sizes.len()].min(buffer.len());
        self.turn += 1;
        self.bytes.read(&mut buffer[..size])
    }
}

/// Returns the sums by window and pair, in the format of the files of expected sums.
pub(crate) fn sums_csv(packets: &[Packet]) -> String {
    let mut sums: BTreeMap<(u64, String, String), (u64, u64)> = BTreeMap::new();
    for packet in packets {
        let window = Windows::default().of(packet.time.ms).expect("a window");
        let (source, destination) = (packet.pair.source(), packet.pair.destination());
        let sum = sums.entry((window.0, source.to_string(), destination.to_string())).or_default();
        sum.0 += packet.bytes;
        sum.1 += 1;
    }
    let mut csv = String::from("window_start,src,dst,bytes,packets\n");
    for ((window, source, destination), (bytes, packets)) in sums {
        writeln!(csv, "{window},{source},{destination},{bytes},{packets}").expect("memory");
    }
    csv
}

/// Returns the folder of captures in this repository.
pub(crate) fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

/// Returns the folder of captures whose licences keep them out of this repository, if it is available.
pub(crate) fn more_data() -> Option<PathBuf> {
    let root = std::env::var_os("FLOODMARK_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let data = root.join("data");
    data.join("captures").is_dir().then_some(data)
}

/// Returns the captures of a folder, each with its expected sums as CSV.
pub(crate) fn captures(data: &Path, folder: &str) -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(data.join(folder))
        .expect("a folder of captures")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind != "md"))
        .collect();
    paths.sort();
    let expected = |path: &Path| {
        let name = path.file_name().expect("a name").to_str().expect("text");
        let csv = data.join("expected").join(format!("{name}.csv"));
        fs::read_to_string(&csv).unwrap_or_else(|error| panic!("{}: {error}", csv.display()))
    };
    paths.into_iter().map(|path| (path.clone(), expected(&path))).collect()
}

/// Pseudo-random numbers from a seed, the same on every platform.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Compresses bytes with gzip.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

/// Compresses bytes with zstd.
pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("writing to memory")
}
