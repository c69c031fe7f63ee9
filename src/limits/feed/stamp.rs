//! The state of a file, as its metadata shows it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The state of a file at a moment. When the stamp changes, the content may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Returns the stamp of the file that a path leads to.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Stamp::of_file(&std::fs::metadata(path)?)
    }

    /// Returns the stamp of an open file, from its metadata.
    pub(super) fn of_file(meta: &Metadata) -> io::Result<Self> {
        match meta.is_file() {
            true => Ok(Stamp::from(meta)),
            // Opening a pipe waits for its other end, and reading it removes its content.
            false => Err(io::Error::other("it is no regular file")),
        }
    }

    /// Whether the file has been unchanged for at least `long`, by the clock of this machine.
    pub(super) fn rests_for(&self, long: Duration) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let secs = u64::try_from(self.modified.0).unwrap_or_default();
        let modified = Duration::new(secs, self.modified.1.try_into().unwrap_or_default());
        now.checked_sub(modified).is_some_and(|age| age >= long)
    }

    /// Whether both stamps are of the same file, even if its content has changed.
    pub(super) fn is_same_file(&self, other: &Stamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

impl From<&Metadata> for Stamp {
    fn from(meta: &Metadata) -> Self {
        Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}
