//! The target of a writer: standard output, or a named file that is appended to, FIFO or device.
//!
//! A write waits for a reader for a bounded time, and returns the obstacle if there is one. A file is opened again
//! by its name after a program that rotates logs has moved it away. It has whole lines: a line that a full disk has
//! cut is removed again, and a line that an earlier run has left unfinished is ended before the next one.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

/// Greatest size of an atomic write to a pipe, in bytes (`PIPE_BUF` of Linux). So the bytes in a pipe whose reader
/// stops are whole lines, unless a line is longer.
const PIECE: usize = 4096;

/// Time limit for a write to a reader that does not read, in milliseconds.
const READER_TIMEOUT_MS: u16 = 100;

/// The reason why bytes can't be written now.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// Nobody has opened the FIFO to read from it. What was written of the current line is lost.
    NoReader,
    /// The pipe is full, and its reader does not read.
    NotRead,
    /// The reader has gone, and no other one can take its place.
    Closed(io::Error),
    /// Another error, such as a full disk. It may pass.
    Failed(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    File,
    Fifo,
    /// A terminal, a socket, a device.
    Other,
}

impl FileKind {
    fn of(metadata: &Metadata) -> Self {
        match metadata.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_fifo() => FileKind::Fifo,
            _ => FileKind::Other,
        }
    }
}

/// The end of a regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEnd {
    /// The number of the file in its file system.
    pub inode: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl FileEnd {
    /// Returns the end of the file with this metadata; `None` if it is no regular file.
    pub fn of(metadata: &Metadata) -> Option<Self> {
        let end = || FileEnd { inode: metadata.ino(), length: metadata.len() };
        metadata.is_file().then(end)
    }
}

/// Standard output or a named target.
#[derive(Debug)]
pub(super) struct Target {
    /// `None` is standard output.
    path: Option<PathBuf>,
    /// `None` while a FIFO waits for a reader, or a file can't be opened.
    opened: Option<Opened>,
    /// The kind of the file that was open last.
    kind: FileKind,
    /// Whether the last write has failed: the next one checks for free space first.
    failed: bool,
    /// Whether bytes that were written may not survive a loss of power.
    lost_a_sync: bool,
}

#[derive(Debug)]
struct Opened {
    file: File,
    kind: FileKind,
    /// Device and number of the file.
    identity: (u64, u64),
    /// Whether the file ends with a part of a line.
    cut: bool,
}

impl Target {
    /// Creates a target that is standard output.
    pub(super) fn stdout() -> io::Result<Self> {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let flags = nix::fcntl::fcntl(&file, nix::fcntl::F_GETFL)?;
        let mut opened = Opened::new(file)?;
        if OFlag::from_bits_retain(flags).contains(OFlag::O_APPEND) {
            opened.cut = opened.ends_with_part_of_a_line();
        }
        let kind = opened.kind;
        Ok(Target { path: None, opened: Some(opened), kind, failed: false, lost_a_sync: false })
    }

    /// Creates or empties a file; `-` is standard output. The target stays this file after the file was moved.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Target::stdout();
        }
        let opened = Opened::new(File::create(path)?)?;
        let kind = opened.kind;
        Ok(Target { path: None, opened: Some(opened), kind, failed: false, lost_a_sync: false })
    }

    /// Opens the target with this name. Creates a missing file; a FIFO may wait for a reader.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (path, kind) = (Some(path.to_owned()), FileKind::Fifo);
        let mut target = Target { path, opened: None, kind, failed: false, lost_a_sync: false };
        match target.follow_name() {
            Ok(()) | Err(Obstacle::NoReader | Obstacle::NotRead) => Ok(target),
            Err(Obstacle::Closed(error) | Obstacle::Failed(error)) => Err(error),
        }
    }

    /// Whether the target is a regular file, which has no reader to wait for.
    pub(super) fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// Writes some of these whole lines. Returns the number of bytes that are written and stay, and the obstacle to
    /// the others.
    pub(super) fn write(&mut self, lines: &[u8]) -> (usize, Option<Obstacle>) {
        if let Err(obstacle) = self.follow_name() {
            return (0, Some(obstacle));
        }
        let Some(opened) = &mut self.opened else { return (0, Some(Obstacle::NoReader)) };
        let named = self.path.is_some();
        let (written, error) = match opened.kind {
            FileKind::File => opened.append(lines, named, self.failed),
            FileKind::Fifo | FileKind::Other => opened.send(piece(lines, PIECE)),
        };
        let obstacle = error.map(|error| self.obstacle(error));
        self.failed = match &obstacle {
            None => self.failed && written < lines.len(),
            Some(obstacle) => matches!(obstacle, Obstacle::Failed(_)),
        };
        (written, obstacle)
    }

    /// Makes everything written survive a loss of power, if the target is a file.
    pub(super) fn sync(&mut self) -> Option<Obstacle> {
        if !self.lost_a_sync {
            let opened = self.opened.as_ref().filter(|opened| opened.kind == FileKind::File)?;
            let error = opened.file.sync_data().err()?;
            self.lost_a_sync = true;
            tracing::error!(%error, "a file can't be synced: lines that are in it may be lost with the power");
        }
        // The system says so once, and takes the bytes for written then.
        Some(Obstacle::Failed(io::Error::other("a file could not be synced; start the run again")))
    }

    /// Returns the end of the file that is written, if it is one.
    pub(super) fn end(&self) -> Option<FileEnd> {
        let opened = self.opened.as_ref().filter(|opened| opened.kind == FileKind::File)?;
        FileEnd::of(&opened.file.metadata().ok()?)
    }

    /// Checks the other end of a pipe while there is nothing to write.
    pub(super) fn check_reader(&mut self) -> Option<Obstacle> {
        match &self.opened {
            None => self.follow_name().err(),
            Some(opened) if opened.kind == FileKind::Fifo && opened.reader_has_gone() => {
                Some(self.obstacle(Errno::EPIPE.into()))
            }
            Some(_) => None,
        }
    }

    /// Opens the file with the name of this target, unless that very file is open.
    fn follow_name(&mut self) -> Result<(), Obstacle> {
        let Some(path) = &self.path else { return Ok(()) };
        let identity = std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        if self.opened.as_ref().is_some_and(|opened| Some(opened.identity) == identity) {
            return Ok(());
        }
        if let Some(moved) = self.opened.take().filter(|_| self.is_file()) {
            self.lost_a_sync |= moved.file.sync_data().is_err();
        }
        // Without the first flag, opening a FIFO waits for a reader.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).custom_flags(flags.bits()).open(path);
        let file = file.map_err(|error| {
            let is_fifo = |found: Metadata| found.file_type().is_fifo();
            match error.raw_os_error() == Some(Errno::ENXIO as i32)
                && std::fs::metadata(path).is_ok_and(is_fifo)
            {
                true => Obstacle::NoReader,
                false => Obstacle::Failed(error),
            }
        })?;
        let mut opened = Opened::new(file).map_err(Obstacle::Failed)?;
        opened.cut = opened.ends_with_part_of_a_line();
        self.kind = opened.kind;
        self.opened = Some(opened);
        Ok(())
    }

    fn obstacle(&mut self, error: io::Error) -> Obstacle {
        let gone = match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::EAGAIN => return Obstacle::NotRead,
            Errno::EPIPE if self.kind == FileKind::Fifo && self.path.is_some() => {
                self.opened = None;
                return Obstacle::NoReader;
            }
            Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN | Errno::EBADF => true,
            // A terminal that was hung up.
            Errno::EIO | Errno::ENXIO | Errno::ENODEV => self.kind != FileKind::File,
            _ => false,
        };
        if gone {
            return Obstacle::Closed(error);
        }
        let is_full = |code| [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG].contains(&code);
        if self.path.is_some() && !is_full(Errno::from_raw(error.raw_os_error().unwrap_or(0))) {
            // The open file may be unusable for good, while another one with its name is usable.
            self.opened = None;
        }
        Obstacle::Failed(error)
    }
}

/// Returns the first of some lines, at most `bytes_max` bytes; of a longer line, a part.
fn piece(lines: &[u8], bytes_max: usize) -> &[u8] {
    let Some(first) = lines.get(..bytes_max) else { return lines };
    match whole_lines_len(first) {
        0 => first,
        whole => &first[..whole],
    }
}

/// Returns the length of the whole lines at the beginning of some bytes.
fn whole_lines_len(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

impl Opened {
    fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Opened { file, kind: FileKind::of(&metadata), identity, cut: false })
    }

    /// Whether the file ends with a part of a line. False if the end can't be read.
    fn ends_with_part_of_a_line(&self) -> bool {
        let ends_with_part = || {
            let length = self.file.metadata()?.len();
            if self.kind != FileKind::File || length == 0 {
                return Ok(false);
            }
            // The file is open for writing only.
            let readable = File::open(format!("/dev/fd/{}", self.file.as_raw_fd()))?;
            let mut last = [0];
            readable.read_exact_at(&mut last, length - 1)?;
            Ok::<_, io::Error>(last != *b"\n")
        };
        ends_with_part().unwrap_or(false)
    }

    /// Appends lines to a file; after a failure only some of them, and only if there is space.
    fn append(&mut self, lines: &[u8], named: bool, failed: bool) -> (usize, Option<io::Error>) {
        let lines = if failed { piece(lines, PIECE) } else { lines };
        if failed
            && named
            && let Err(error) = has_space(&self.file, lines.len() + 1)
        {
            return (0, Some(error));
        }
        if self.cut {
            if let Err(error) = self.file.write_all(b"\n") {
                return (0, Some(error));
            }
            self.cut = false;
        }
        let (written, error) = write_most(&mut self.file, lines);
        let Some(error) = error else { return (written, None) };
        if !named {
            // Other programs may write to the file, too; the rest of the line is appended to the bytes that are
            // there.
            return (written, Some(error));
        }
        let whole = whole_lines_len(&lines[..written]);
        if written > whole && !self.undo_append((written - whole) as u64) {
            self.cut = self.ends_with_part_of_a_line();
        }
        (whole, Some(error))
    }

    /// Removes the last bytes written, unless another program has written after them. Returns whether it did.
    fn undo_append(&mut self, bytes: u64) -> bool {
        let mut undo = || {
            let end = self.file.stream_position()?;
            if self.file.metadata()?.len() != end {
                return Ok(false);
            }
            self.file.set_len(end.saturating_sub(bytes))?;
            Ok::<_, io::Error>(true)
        };
        undo().unwrap_or(false)
    }

    /// Sends a piece to the reader; fails with `EAGAIN` if the reader does not read within [`READER_TIMEOUT_MS`].
    fn send(&mut self, piece: &[u8]) -> (usize, Option<io::Error>) {
        let mut writable = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut writable, READER_TIMEOUT_MS) {
            Ok(0) => return (0, Some(Errno::EAGAIN.into())),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return (0, Some(error.into())),
        }
        loop {
            match self.file.write(piece) {
                Ok(0) => return (0, Some(ErrorKind::WriteZero.into())),
                Ok(written) => return (written, None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (0, Some(error)),
            }
        }
    }

    fn reader_has_gone(&self) -> bool {
        let mut state = [PollFd::new(self.file.as_fd(), PollFlags::empty())];
        let polled = poll(&mut state, 0u16);
        polled.is_ok() && state[0].revents().is_some_and(|is| is.contains(PollFlags::POLLERR))
    }
}

/// Writes as many bytes as possible. Returns their number, and the error at which it stopped.
fn write_most(file: &mut File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Some(ErrorKind::WriteZero.into())),
            Ok(some) => written += some,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

/// Checks that a file can grow by so many bytes, without writing any. Otherwise each attempt would write a part of
/// a line and remove it again, which programs that follow the file would see.
fn has_space(file: &File, bytes: usize) -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit};
    let end = file.metadata()?.len();
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if end.saturating_add(bytes as u64) > limit {
        return Err(Errno::EFBIG.into());
    }
    #[cfg(target_os = "linux")]
    {
        use nix::fcntl::{FallocateFlags, fallocate};
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let (end, bytes) = (i64::try_from(end), i64::try_from(bytes));
        if let (Ok(end), Ok(bytes)) = (end, bytes)
            && let Err(full @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) =
                fallocate(file, keep, end, bytes)
        {
            return Err(full.into());
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
