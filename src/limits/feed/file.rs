//! A file of limits that is followed.
//!
//! It is read as soon as it is put in its place or written to its end. What is found by a look alone
//! may still be being written, so it is read once it has been the same for a while.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::OFlag;

use super::held::{Edits, Health, Held};
use super::stamp::Stamp;
use super::watch::{News, Watch};
use super::{Options, Outlet};
use crate::error::{Exit, Failure};
use crate::limits::json::{self, FileError};
use crate::limits::rows::Defaults;

/// Without a notification the file is looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// After so long without a change a file is read although somebody has not closed it, or although nothing
/// is in it: whoever makes it may take his time between opening and writing it.
const WRITTEN_ENOUGH: Duration = Duration::from_secs(60);

/// A file that can't be read is looked at this often, whatever the interval.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A file may be changed so soon after it was read that its time of change stays the same: some file
/// systems count whole seconds. So it is read again after so long.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// No file of limits is larger.
const BYTES_MAX: u64 = 256 << 20;

/// Why a file can't be read as limits.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("it has more than {BYTES_MAX} bytes: so many can't be limits")]
    TooLarge,
    #[error(transparent)]
    NotLimits(#[from] FileError),
}

/// All that [`ReadError::label`] may be.
const LABELS: [&str; 4] = ["missing", "unreadable", "too_large", "not_json"];

impl ReadError {
    /// The kind of error, as the label of a metric.
    fn label(&self) -> &'static str {
        match self {
            ReadError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => "missing",
            ReadError::Io(_) => "unreadable",
            ReadError::TooLarge => "too_large",
            ReadError::NotLimits(_) => "not_json",
        }
    }
}

/// A file of limits.
pub(super) struct FileFeed {
    path: PathBuf,
    defaults: Defaults,
    refresh: Option<Duration>,
    held: Held,
    /// A pipe, or standard input, can be read once.
    is_followed: bool,
    /// What the file was when it was read last, and when that was.
    read: Option<(Stamp, Instant)>,
    /// What it was at the last look, and since when it is.
    seen: Option<(Stamp, Instant)>,
    /// Whether what is in it can be used.
    sound: bool,
    /// Whether it was read for a second time since it changed.
    confirmed: bool,
}

impl FileFeed {
    pub(super) fn open(path: &Path, options: &Options) -> Result<(Self, Edits), Failure> {
        let reading = || format!("reading limits from \"{}\"", path.display());
        let mut feed = FileFeed {
            path: path.to_owned(),
            defaults: options.defaults,
            refresh: options.refresh,
            held: Held::new(options, &LABELS),
            is_followed: path != Path::new("-")
                && std::fs::metadata(path).is_ok_and(|meta| meta.is_file()),
            read: None,
            seen: None,
            sound: true,
            confirmed: true,
        };
        let parse = |(bytes, stamp): (Vec<u8>, Stamp)| {
            Ok::<_, ReadError>((json::read(&bytes, options.defaults)?, stamp))
        };
        let (table, stamp) = feed.read_first().and_then(parse).map_err(|error| {
            let exit = match error {
                ReadError::Io(_) => Exit::NoInput,
                ReadError::TooLarge | ReadError::NotLimits(_) => Exit::BadConfig,
            };
            Failure::new(exit, anyhow::Error::new(error).context(reading()))
        })?;
        let edits = feed.held.take(&table);
        feed.held.begin();
        feed.has_read(stamp);
        Ok((feed, edits))
    }

    pub(super) fn health(&self) -> Health {
        self.held.health()
    }

    pub(super) fn run(&mut self, outlet: &Outlet) {
        if !self.is_followed {
            tracing::info!(
                "limits \"{}\" are no file, and are not read again",
                self.path.display()
            );
            return;
        }
        let mut watch = self.refresh.is_none().then(|| Watch::of(&self.path));
        loop {
            // The first wait is for what has changed since the file was opened, too.
            let news = match (&mut watch, self.refresh) {
                (Some(watch), _) => {
                    watch.follow_links();
                    watch.wait(LOOK_INTERVAL)
                }
                (None, refresh) => {
                    std::thread::sleep(self.until_look(refresh.unwrap_or(LOOK_INTERVAL)));
                    News::None
                }
            };
            let is_written = watch.as_ref().is_some_and(Watch::is_written);
            let edits = self.look(news, is_written).filter(|edits| !edits.is_empty());
            if edits.is_some_and(|edits| !outlet.give(edits)) {
                return;
            }
        }
    }

    /// How long until the next look of one who looks at an interval: shorter, if what was seen last was
    /// not read yet.
    fn until_look(&self, refresh: Duration) -> Duration {
        match &self.read {
            Some((read, _)) if self.seen.is_some_and(|(seen, _)| seen != *read) => {
                LOOK_INTERVAL.min(refresh)
            }
            Some(_) if self.sound => refresh,
            _ => RETRY_INTERVAL.min(refresh),
        }
    }

    /// Reads the file, if it has changed and is whole; `is_written` says that somebody writes to it. What
    /// is wrong with it is said once.
    fn look(&mut self, news: News, is_written: bool) -> Option<Edits> {
        let stamp = match Stamp::of(&self.path) {
            Ok(stamp) => stamp,
            Err(error) => {
                // One that comes back is a new one.
                (self.read, self.seen) = (None, None);
                return self.fail(&error.into());
            }
        };
        let unsure = is_written || stamp.len == 0;
        let wait = if unsure { WRITTEN_ENOUGH } else { LOOK_INTERVAL };
        let rests = self.refresh.is_some() && stamp.rests_for(wait);
        let before = self.seen.filter(|(seen, _)| *seen == stamp);
        let (_, since) = *self.seen.insert(before.unwrap_or((stamp, Instant::now())));
        // A look without news comes a while after the one before.
        let same = before.is_some() && (!unsure || since.elapsed() >= wait);
        let settled = news == News::None && same || rests;
        if let Some((read, when)) = &self.read {
            let moved = news == News::Around && !read.is_same_file(&stamp) && !unsure;
            let again = !self.confirmed && when.elapsed() >= READ_AGAIN_AFTER;
            if *read == stamp && !again {
                if self.sound {
                    self.held.succeeded();
                }
                return None;
            }
            if !(news == News::Whole || moved || settled) {
                return None;
            }
        } else if !(news == News::Whole || news == News::Around && !unsure || settled) {
            return None;
        }
        let again = self.read.as_ref().is_some_and(|(read, _)| *read == stamp);
        let read = match self.read() {
            // It was written meanwhile: what was read may be of both.
            Ok((_, after)) if after != stamp => return None,
            Ok((bytes, _)) => json::read(&bytes, self.defaults).map_err(ReadError::from),
            Err(error) => Err(error),
        };
        match &read {
            // It is not the file's fault, and may work at the next look.
            Err(ReadError::Io(_)) => self.read = None,
            _ => self.has_read(stamp),
        }
        (self.sound, self.confirmed) = (read.is_ok(), again);
        match read {
            Ok(table) => {
                let edits = self.held.take(&table);
                self.held.succeeded();
                Some(edits)
            }
            Err(error) => self.fail(&error),
        }
    }

    fn has_read(&mut self, stamp: Stamp) {
        self.read = Some((stamp, Instant::now()));
        self.seen = Some((stamp, Instant::now()));
        self.confirmed = false;
    }

    fn fail(&self, error: &ReadError) -> Option<Edits> {
        self.held.failed(error.label(), &format!("reading \"{}\": {error}", self.path.display()));
        None
    }

    /// What is in the file at first, which may also be a pipe.
    fn read_first(&self) -> Result<(Vec<u8>, Stamp), ReadError> {
        let bytes = match self.path == Path::new("-") {
            true => read_all(std::io::stdin().lock())?,
            false => {
                let file = File::open(&self.path)?;
                let bytes = read_all(&file)?;
                return Ok((bytes, Stamp::from(&file.metadata()?)));
            }
        };
        Ok((bytes, Stamp::from(&std::fs::metadata("/dev/null")?)))
    }

    /// What is in the file, and what the file was after that.
    fn read(&self) -> Result<(Vec<u8>, Stamp), ReadError> {
        // Whatever has taken its place since it was looked at, nobody waits for it.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(flags).open(&self.path)?;
        Stamp::of_file(&file.metadata()?)?;
        let bytes = read_all(&file)?;
        Ok((bytes, Stamp::of_file(&file.metadata()?)?))
    }
}

fn read_all(from: impl Read) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    from.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > BYTES_MAX {
        true => Err(ReadError::TooLarge),
        false => Ok(bytes),
    }
}

/// What is in a file, or comes in on standard input (`-`).
pub fn contents(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = if path == Path::new("-") {
        read_all(std::io::stdin().lock())
    } else {
        File::open(path).map_err(ReadError::from).and_then(read_all)
    };
    read.with_context(|| format!("reading limits from \"{}\"", path.display()))
        .map_err(|error| Failure::new(Exit::NoInput, error))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
