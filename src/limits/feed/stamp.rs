//! What a file is, as far as the file system tells without reading it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A file at a moment. Another stamp: it may say something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that a path leads to.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Stamp::of_file(&std::fs::metadata(path)?)
    }

    /// The same of one that is open.
    pub(super) fn of_file(meta: &Metadata) -> io::Result<Self> {
        match meta.is_file() {
            true => Ok(Stamp::from(meta)),
            // To open a pipe waits for its other end, and to read it takes what is in it.
            false => Err(io::Error::other("it is no regular file")),
        }
    }

    /// Whether nobody has written to it for so long, by the clock of this machine.
    pub(super) fn rests_for(&self, long: Duration) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let secs = u64::try_from(self.modified.0).unwrap_or_default();
        let modified = Duration::new(secs, self.modified.1.try_into().unwrap_or_default());
        now.checked_sub(modified).is_some_and(|age| age >= long)
    }

    /// Whether it is one and the same file, whatever is in it.
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
