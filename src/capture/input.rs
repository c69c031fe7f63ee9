//! The bytes of a capture: opened, decompressed, and held in one buffer of bounded size.
//!
//! Each refill is one `read`, and its bytes are parsed before the next one: a pipe that stays open must not delay the
//! packets that it has already carried.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Fault;
use super::packed::Members;
use super::wait::ReadTimeout;

/// Maximum number of bytes of a capture in memory.
pub const BUFFER_MAX: usize = 512 * 1024;

/// Initial size of a reader's buffer: large enough that system calls don't show, small enough for a cache.
const BUFFER_START: usize = 256 * 1024;

const COMPRESSED_BUFFER: usize = 64 * 1024;

type Source = Box<dyn Read + Send>;

/// The buffer of a capture's bytes, and their source.
pub(crate) struct Input {
    source: Option<Source>,
    /// Whether the input has been checked for compression.
    compression_checked: bool,
    raw: Arc<RawState>,
    size_hint: Option<u64>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes before `start`.
    consumed: u64,
    /// Whether the last call of [`Input::fill`] timed out.
    timed_out: bool,
}

/// State of the raw source, below the decompression.
#[derive(Default)]
struct RawState {
    bytes: AtomicU64,
    /// Whether reading the raw source failed, so that an error of the decompressor does not mean broken data.
    failed: AtomicBool,
    timeout: ReadTimeout,
}

struct RawSource {
    source: Source,
    raw: Arc<RawState>,
    /// A second descriptor of a source whose reads may block: a pipe, a terminal, a socket.
    pipe: Option<OwnedFd>,
}

impl Read for RawSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(pipe) = &self.pipe {
            self.raw.timeout.wait_until_readable(pipe.as_fd())?;
        }
        let result = self.source.read(buffer);
        match &result {
            Ok(count) => {
                self.raw.bytes.fetch_add(*count as u64, Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.raw.failed.store(true, Relaxed),
        }
        result
    }
}

impl Input {
    /// Opens a file, a FIFO, or standard input by the name `-`.
    pub(crate) fn open(path: &Path) -> Result<Self, Fault> {
        let fault = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Fault::Missing,
            _ => Fault::Io(error),
        };
        let is_stdin = path.as_os_str() == "-";
        let file = match is_stdin {
            // Without the buffer of `Stdin`, which would hide from `poll` that there is more to read.
            true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
            false => {
                if path.metadata().map_err(fault)?.is_dir() {
                    return Err(Fault::Directory);
                }
                File::open(path)
            }
        };
        let file = file.map_err(fault)?;
        let kind = file.metadata().map_err(fault)?;
        let pipe = match kind.is_file() {
            true => None,
            false => Some(OwnedFd::from(file.try_clone().map_err(fault)?)),
        };
        let mut input = Input::from(Box::new(file), pipe);
        input.size_hint = (kind.is_file() && !is_stdin).then_some(kind.len());
        Ok(input)
    }

    pub(crate) fn from_read(source: Source) -> Self {
        Input::from(source, None)
    }

    fn from(source: Source, pipe: Option<OwnedFd>) -> Self {
        let raw = Arc::new(RawState::default());
        Input {
            source: Some(Box::new(RawSource { source, raw: raw.clone(), pipe })),
            compression_checked: false,
            raw,
            size_hint: None,
            buffer: vec![0; BUFFER_START],
            start: 0,
            end: 0,
            consumed: 0,
            timed_out: false,
        }
    }

    /// Bounds the total waiting time of all further reads from a pipe, a terminal or a socket; `None` for no bound.
    pub(super) fn set_read_timeout(&mut self, time: Option<Duration>) {
        self.raw.timeout.set(time);
    }

    /// Whether the last call of [`Input::fill`] ended by [`Input::set_read_timeout`].
    pub(super) fn is_timed_out(&self) -> bool {
        self.timed_out
    }

    /// Returns the bytes in the buffer that are not consumed yet.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Consumes bytes of the buffer, at most all of them.
    #[inline]
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.end - self.start);
        self.start += count;
        self.consumed += count as u64;
    }

    /// Returns the number of bytes consumed, after decompression.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Returns the number of bytes read from the source, before decompression.
    pub(crate) fn raw_bytes(&self) -> u64 {
        self.raw.bytes.load(Relaxed)
    }

    /// Returns the size of a regular file.
    pub(crate) fn size_hint(&self) -> Option<u64> {
        self.size_hint
    }

    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Drops the source and the buffer.
    pub(super) fn close(&mut self) {
        self.source = None;
        self.buffer = Vec::new();
        (self.start, self.end) = (0, 0);
    }

    /// Reads once, into a buffer of at least `need` bytes, at most [`BUFFER_MAX`]. Returns false at the end of the
    /// source. A read that [timed out](Input::is_timed_out) adds no bytes.
    pub(crate) fn fill(&mut self, need: usize) -> Result<bool, Fault> {
        if !self.compression_checked {
            self.detect_compression()?;
        }
        self.reserve(need);
        let Some(source) = &mut self.source else {
            return Ok(false);
        };
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        let read = read_once(source, free);
        self.timed_out = read.is_err() && self.raw.timeout.take_expired();
        if self.timed_out {
            return Ok(true);
        }
        let count = read.map_err(|error| match self.raw.failed.load(Relaxed) {
            true => Fault::Io(error),
            false => Fault::Compression(error),
        })?;
        self.end += count;
        Ok(count > 0)
    }

    fn reserve(&mut self, need: usize) {
        let need = need.min(BUFFER_MAX);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + need.max(1) <= self.buffer.len() && self.end < self.buffer.len() {
            return;
        }
        // The bytes move only when the tail is too small: this stays linear with reads of any size.
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if need > self.buffer.len() {
            self.buffer.reserve_exact(BUFFER_MAX - self.buffer.len());
            self.buffer.resize(BUFFER_MAX, 0);
        }
    }

    /// Reads the first bytes, and inserts the decompressor that they call for.
    fn detect_compression(&mut self) -> Result<(), Fault> {
        self.compression_checked = true;
        let Some(mut source) = self.source.take() else {
            return Ok(());
        };
        let mut magic = [0; 4];
        let mut length = 0;
        while let Some(free) = magic.get_mut(length..).filter(|free| !free.is_empty()) {
            match read_once(&mut source, free).map_err(Fault::Io)? {
                0 => break,
                count => length += count,
            }
        }
        let seen = Cursor::new(magic).take(length as u64);
        let whole = BufReader::with_capacity(COMPRESSED_BUFFER, seen.chain(source));
        self.source = Some(match magic {
            _ if length < magic.len() => Box::new(whole),
            [0x1f, 0x8b, ..] => Box::new(SmallReads(Members::gzip(whole))),
            // A frame, or a skippable frame before one.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                Box::new(SmallReads(Members::zstd(whole).map_err(Fault::Compression)?))
            }
            // Reads larger than its own buffer pass through a `BufReader`.
            _ => Box::new(whole),
        });
        Ok(())
    }
}

/// Bounds the size of each read. A decompressor that meets broken data drops the output of the same call, so calls
/// must not request much.
struct SmallReads<R>(R);

/// Maximum number of bytes of one read, and so of the sound data that is lost before broken data.
const SMALL_READ_BYTES: usize = 1024;

impl<R: Read> Read for SmallReads<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(SMALL_READ_BYTES);
        self.0.read(buffer.get_mut(..count).unwrap_or_default())
    }
}

/// Reads once, and again after an interrupting signal.
fn read_once(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let mut input = Input::from_read(Box::new(Cursor::new(bytes)));
        let mut all = Vec::new();
        while input.fill(1)? {
            all.extend_from_slice(input.bytes());
            input.consume(usize::MAX);
        }
        Ok(all)
    }

    #[test]
    fn compression_is_recognised_by_content() {
        let plain: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        let (one, two) = plain.split_at(70_001);
        assert_eq!(read_all(plain.clone()).ok(), Some(plain.clone()));
        assert_eq!(read_all([gzip(one), gzip(two)].concat()).ok(), Some(plain.clone()));
        assert_eq!(read_all([zstd(one), zstd(two)].concat()).ok(), Some(plain.clone()));
        assert_eq!(read_all([&SKIPPABLE[..], &zstd(one)].concat()).ok(), Some(one.to_vec()));
        assert!(matches!(read_all(gzip(one)[..500].to_vec()), Err(Fault::Compression(_))));
        assert!(matches!(read_all(zstd(one)[..500].to_vec()), Err(Fault::Compression(_))));
        assert_eq!(read_all(vec![0x1f]).ok(), Some(vec![0x1f]));
    }

    fn gzip(part: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(part).expect("writing to a vector succeeds");
        encoder.finish().expect("writing to a vector succeeds")
    }

    fn zstd(part: &[u8]) -> Vec<u8> {
        zstd::encode_all(part, 1).expect("writing to a vector succeeds")
    }

    const SKIPPABLE: [u8; 10] = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];

    #[test]
    fn zeros_after_a_compressed_member_are_padding() {
        let plain: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
        let (one, two) = plain.split_at(70_001);
        for zeros in [1, 511, 200_000] {
            let padding = vec![0; zeros];
            for pack in [gzip, zstd] {
                let padded = [pack(&plain), padding.clone()].concat();
                assert_eq!(read_all(padded).ok(), Some(plain.clone()));
                let between = [pack(one), padding.clone(), pack(two), padding.clone()].concat();
                assert_eq!(read_all(between).ok(), Some(plain.clone()));
            }
        }
        let frames = [&zstd(one)[..], &SKIPPABLE, &[0; 9], &SKIPPABLE, &zstd(two), &SKIPPABLE];
        assert_eq!(read_all(frames.concat()).ok(), Some(plain));
    }

    #[test]
    fn other_bytes_after_a_compressed_member_are_damage() {
        for pack in [gzip, zstd] {
            for garbage in [&b"x"[..], b"\0\0x", b"\0\x1f\x8b", b"\0\x28\xb5\x2f\xfd", b"\x28\xb5"]
            {
                let bytes = [&pack(b"sound")[..], garbage].concat();
                assert!(matches!(read_all(bytes), Err(Fault::Compression(_))), "{garbage:?}");
            }
        }
        // A member without its last byte has not ended.
        for pack in [gzip, zstd] {
            let mut cut = pack(&[7; 100_000]);
            cut.pop();
            assert!(matches!(read_all(cut), Err(Fault::Compression(_))));
        }
    }

    #[test]
    fn empty_members_add_no_bytes() {
        assert_eq!(read_all([gzip(b""), gzip(b"x"), gzip(b"")].concat()).ok(), Some(b"x".to_vec()));
        assert_eq!(read_all([zstd(b""), zstd(b"x"), zstd(b"")].concat()).ok(), Some(b"x".to_vec()));
        assert_eq!(read_all(SKIPPABLE.to_vec()).ok(), Some(Vec::new()));
    }

    #[test]
    fn broken_compressed_data_loses_at_most_one_read_before_it() {
        // Noise does not compress, so that the broken bytes are in the middle of the data.
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 60) as u8
        };
        let plain: Vec<u8> = (0..400_000).map(|_| noise()).collect();
        let gzip = gzip(&plain);
        let at = gzip.len() / 2;
        let read = |bytes: Vec<u8>| {
            let mut input = Input::from_read(Box::new(Cursor::new(bytes)));
            let mut all = Vec::new();
            let end = loop {
                match input.fill(1) {
                    Ok(true) => all.extend_from_slice(input.bytes()),
                    end => break end,
                }
                input.consume(usize::MAX);
            };
            assert!(matches!(end, Err(Fault::Compression(_))), "{end:?}");
            all
        };
        // The first half alone shows how much of the data is sound.
        let sound = read(gzip[..at].to_vec());
        let mut broken = gzip;
        broken[at..at + 64].fill(0xff);
        let found = read(broken);
        assert!(
            found.len() + SMALL_READ_BYTES >= sound.len(),
            "{} of {}",
            found.len(),
            sound.len()
        );
        let common = found.len().min(sound.len());
        assert!(found[..common] == plain[..common]);
    }

    #[test]
    fn failing_read_is_an_io_fault_and_not_broken_data() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let gzip = Cursor::new(vec![0x1f, 0x8b, 8, 0]).chain(Failing);
        let mut input = Input::from_read(Box::new(gzip));
        assert!(matches!(input.fill(1), Err(Fault::Io(_))));
    }
}
