//! A file of limits that is followed.
//!
//! The feed reads the file as soon as it is moved into its place or written to its end. A change that only a
//! look has found, or whose writer has not closed the file, may go on. The feed reads such a file when it has
//! rested for a second, if its text tells that it is whole (an array, or one object). JSON lines cut short look
//! like fewer limits: [`Patience`] decides how long they wait.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::OFlag;

use super::handover::Outlet;
use super::held::{Edits, Health, Held};
use super::options::Options;
use super::stamp::Stamp;
use super::watch::{News, Watch};
use crate::base::error::{Exit, Failure};
use crate::limits::file_error::FileError;
use crate::limits::file_error::{BYTES_MAX, ReadError};
use crate::limits::json::{self, Ending};
use crate::limits::rows::Defaults;
use crate::limits::table::Table;

/// Interval between two looks at the file if no notification comes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time after its first change at which a file is read although its writer has not closed it, or although it
/// is empty: a writer may pause between opening and writing a file.
const WRITTEN_ENOUGH: Duration = Duration::from_secs(60);

/// Time without a change after which JSON lines that were changed in place are read, where no notification
/// tells whether the writer has closed the file. File systems of other machines show a change some seconds late.
const UNHEARD_REST: Duration = Duration::from_secs(10);

/// Greatest interval between two looks at a file that can't be read, whatever `refresh` is.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Time after which a file is read once more. A file may be changed so soon after it was read that its time of
/// change stays the same: some file systems count whole seconds.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The most readings of a file that changes while it is read for the first time.
const ATTEMPTS: usize = 3;

/// A reason not to read limits from a file.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "it has been changing for {} s without a second of rest, and is not read; write the new file \
         beside it and rename it",
        WRITTEN_ENOUGH.as_secs()
    )]
    BeingWritten,
}

/// The labels of [`Trouble`].
const LABELS: [&str; 5] = ["missing", "unreadable", "too_large", "not_json", "being_written"];

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        ReadError::from(error).into()
    }
}

impl Trouble {
    /// The kind of trouble, as the label of a metric.
    fn label(&self) -> &'static str {
        match self {
            Trouble::Read(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                "missing"
            }
            Trouble::Read(ReadError::Io(_)) => "unreadable",
            Trouble::Read(ReadError::TooLarge) => "too_large",
            Trouble::Read(ReadError::NotLimits(_)) => "not_json",
            Trouble::BeingWritten => "being_written",
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
    /// The stamp of the file at the last reading, and the time of that reading.
    read: Option<(Stamp, Instant)>,
    /// The stamp of the file at the last look, and the time since which the file has it.
    seen: Option<(Stamp, Instant)>,
    /// The time since which the file has content that was not read.
    unread: Option<Instant>,
    /// The stamp of the file when its text seemed unfinished.
    unfinished: Option<Stamp>,
    /// The stamp of the file when it was empty at the end of a write. That may have been the end of the write
    /// before: a writer in place empties the file first.
    emptied: Option<Stamp>,
    /// The time since which there is no file.
    missing: Option<Instant>,
    /// Whether the content that was read last can be used.
    sound: bool,
    /// Whether the file was read for a second time since it changed.
    confirmed: bool,
}

impl FileFeed {
    pub(super) fn open(path: &Path, options: &Options) -> Result<(Self, Edits), Failure> {
        let mut feed = FileFeed {
            path: path.to_owned(),
            defaults: options.defaults,
            refresh: options.refresh,
            held: Held::new(options, &LABELS),
            is_followed: path != Path::new("-")
                && std::fs::metadata(path).is_ok_and(|meta| meta.is_file()),
            read: None,
            seen: None,
            unread: None,
            unfinished: None,
            emptied: None,
            missing: None,
            sound: true,
            confirmed: true,
        };
        let (table, stamp) = read_once(path, options.defaults).map_err(|error| {
            let exit = match error {
                ReadError::Io(_) => Exit::NoInput,
                ReadError::TooLarge | ReadError::NotLimits(_) => Exit::BadConfig,
            };
            Failure::new(exit, anyhow::Error::new(error).context(reading(path)))
        })?;
        let edits = feed.held.take(table);
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
            // The first wait returns changes since the file was opened, too.
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
            self.held.looks(true);
            let edits = self.look(news, is_written).filter(|edits| !edits.is_empty());
            self.held.looks(false);
            if edits.is_some_and(|edits| !outlet.give(edits)) {
                return;
            }
        }
    }

    /// Returns the time until the next look of a feed that looks at an interval: shorter, if the last look saw
    /// a change that was not read yet, or the file can't be read.
    fn until_look(&self, refresh: Duration) -> Duration {
        match &self.read {
            Some((read, _)) if self.seen.is_some_and(|(seen, _)| seen != *read) => {
                LOOK_INTERVAL.min(refresh)
            }
            Some(_) if self.sound => refresh,
            _ => RETRY_INTERVAL.min(refresh),
        }
    }

    /// Reads the file, if it has changed and is whole; `is_written`: somebody is writing to it. Logs a fault of
    /// the file once.
    fn look(&mut self, news: News, is_written: bool) -> Option<Edits> {
        let stamp = match Stamp::of(&self.path) {
            Ok(stamp) => stamp,
            Err(error) => return self.fail_to_find(&error.into()),
        };
        self.missing = None;
        let before = self.seen.filter(|(seen, _)| *seen == stamp);
        let (_, since) = *self.seen.insert(before.unwrap_or((stamp, Instant::now())));
        let is_same = self.read.as_ref().is_some_and(|(read, _)| *read == stamp);
        if is_same {
            self.unread = None;
            let again = |(_, when): &(Stamp, Instant)| when.elapsed() >= READ_AGAIN_AFTER;
            if self.confirmed || !self.read.as_ref().is_some_and(again) {
                if self.sound {
                    self.held.succeeded();
                }
                return None;
            }
        }
        let unread = if is_same { since } else { *self.unread.get_or_insert_with(Instant::now) };
        let has_moved = self.read.as_ref().is_none_or(|(read, _)| !read.is_same_file(&stamp));
        let is_put_there = news == News::Around && has_moved && !is_written && stamp.len > 0;
        if news == News::Whole && stamp.len == 0 && before.is_none() {
            self.emptied = Some(stamp);
            return self.wait_for_rest(unread);
        }
        let is_whole = news == News::Whole || self.emptied == Some(stamp);
        let patience = match is_whole || is_put_there || is_same {
            true => Patience::None,
            false => {
                // A look without news follows the look before after an interval.
                let rests = news == News::None && before.is_some()
                    || self.refresh.is_some() && stamp.rests_for(LOOK_INTERVAL);
                if !rests {
                    return self.wait_for_rest(unread);
                }
                Patience::of(stamp.len == 0 || is_written, has_moved)
            }
        };
        let is_over = patience.is_over(since, unread)
            || self.refresh.is_some() && patience.rest().is_some_and(|rest| stamp.rests_for(rest));
        if self.unfinished == Some(stamp) && !is_over {
            return None;
        }
        let read = match self.read() {
            // The file was written meanwhile: the text may be of both versions.
            Ok(reading) if reading.stamp != stamp => return None,
            Ok(reading) => reading.limits.map_err(ReadError::from).map_err(Trouble::from),
            Err(error) => Err(error.into()),
        };
        let is_unfinished = match &read {
            Ok((_, ending)) => *ending == Ending::Open,
            // The file may have been cut within a row, or within a character.
            Err(Trouble::Read(ReadError::NotLimits(error))) => {
                !matches!(error, FileError::TooMany { .. })
            }
            Err(_) => false,
        };
        if is_unfinished && !is_over {
            self.unfinished = Some(stamp);
            return None;
        }
        if is_unfinished && patience == Patience::Writer && read.is_ok() {
            self.warn_unclosed();
        }
        match &read {
            // This is no fault of the file, and the next look may succeed.
            Err(Trouble::Read(ReadError::Io(_))) => self.read = None,
            _ => self.has_read(stamp),
        }
        (self.sound, self.confirmed) = (read.is_ok(), is_same);
        match read {
            Ok((table, _)) => {
                let edits = self.held.take(table);
                self.held.succeeded();
                Some(edits)
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Handles a look that has found no file, or could not look at it. Editors remove a file for a moment before
    /// they put another one there, so a missing file is an error only when it lasts.
    fn fail_to_find(&mut self, error: &Trouble) -> Option<Edits> {
        // A file that comes back is a new one.
        (self.read, self.seen, self.unfinished, self.emptied) = (None, None, None, None);
        let missing = *self.missing.get_or_insert_with(Instant::now);
        let lasts = missing.elapsed() >= LOOK_INTERVAL / 2 || self.refresh.is_some();
        if error.label() == "missing" && !lasts {
            return None;
        }
        self.fail(error)
    }

    /// Leaves a file alone that is being changed, and reports it if that goes on for [`WRITTEN_ENOUGH`].
    fn wait_for_rest(&self, unread: Instant) -> Option<Edits> {
        match unread.elapsed() >= WRITTEN_ENOUGH {
            true => self.fail(&Trouble::BeingWritten),
            false => None,
        }
    }

    fn warn_unclosed(&self) {
        tracing::warn!(
            place = %self.path.display(),
            "the limits are read from a file that its writer has not closed for {} s: JSON lines cut short \
             can't be told from whole ones; write the new file beside it and rename it",
            WRITTEN_ENOUGH.as_secs()
        );
    }

    fn has_read(&mut self, stamp: Stamp) {
        self.read = Some((stamp, Instant::now()));
        self.seen = Some((stamp, Instant::now()));
        (self.unread, self.unfinished, self.emptied) = (None, None, None);
        self.confirmed = false;
    }

    fn fail(&self, error: &Trouble) -> Option<Edits> {
        self.held.failed(error.label(), &format!("reading \"{}\": {error}", self.path.display()));
        None
    }

    fn read(&self) -> Result<Reading, ReadError> {
        // A pipe may have taken the place of the file, and to open it must not wait for its other end.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(flags).open(&self.path)?;
        Stamp::of_file(&file.metadata()?)?;
        let limits = match json::read_from(&file, self.defaults, self.held.rows()) {
            Err(ReadError::NotLimits(error)) => Err(error),
            limits => Ok(limits?),
        };
        Ok(Reading { limits, stamp: Stamp::of_file(&file.metadata()?)? })
    }
}

/// A file that was read as far as its system allows.
struct Reading {
    limits: Result<(Table, Ending), FileError>,
    /// The stamp of the file after it was read.
    stamp: Stamp,
}

/// The waiting time for a file whose text does not show that it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// The file is known to be whole.
    None,
    /// Another file has taken its place without a notification: most likely a writer renamed it.
    Moved,
    /// The file was changed in place, and no notification tells whether the writer has closed it.
    InPlace,
    /// The writer has not closed the file, or has just emptied it.
    Writer,
}

impl Patience {
    fn of(is_written: bool, has_moved: bool) -> Self {
        match (is_written, has_moved) {
            (true, _) => Patience::Writer,
            (false, true) => Patience::Moved,
            (false, false) => Patience::InPlace,
        }
    }

    /// Returns the time without a change after which the waiting is over.
    fn rest(self) -> Option<Duration> {
        match self {
            Patience::None | Patience::Moved => None,
            Patience::InPlace => Some(UNHEARD_REST),
            Patience::Writer => Some(WRITTEN_ENOUGH),
        }
    }

    /// Whether the waiting is over for a file that is the same since `since`, and was first changed at `unread`.
    /// A file whose writer adds a line now and then is read all the same.
    fn is_over(self, since: Instant, unread: Instant) -> bool {
        self.rest().is_none_or(|rest| since.elapsed() >= rest) || unread.elapsed() >= WRITTEN_ENOUGH
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

/// Reads all bytes of a file, or of standard input (`-`).
pub fn contents(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = open(path).map_err(ReadError::from).and_then(read_all);
    read.with_context(|| reading(path)).map_err(|error| Failure::new(Exit::NoInput, error))
}

/// Reads the limits in a file, or on standard input (`-`), once.
pub fn limits(path: &Path, defaults: Defaults) -> Result<Table, ReadError> {
    Ok(read_once(path, defaults)?.0)
}

/// Reads the limits in a file, or on standard input (`-`), once. Returns also the stamp of the file after the
/// reading.
fn read_once(path: &Path, defaults: Defaults) -> Result<(Table, Stamp), ReadError> {
    if path == Path::new("-") {
        let (table, _) = json::read_from(std::io::stdin().lock(), defaults, &[])?;
        return Ok((table, Stamp::from(&std::fs::metadata("/dev/null")?)));
    }
    at_rest(path, |file| Ok(json::read_from(file, defaults, &[])?.0))
}

/// Reads a file, and reads it again if it has changed meanwhile, up to [`ATTEMPTS`] times in all. Returns also
/// the stamp of the file after the last reading.
fn at_rest<T>(
    path: &Path,
    mut read: impl FnMut(&File) -> Result<T, ReadError>,
) -> Result<(T, Stamp), ReadError> {
    let mut attempt = 1;
    loop {
        let file = File::open(path)?;
        let before = file.metadata()?;
        let read = read(&file);
        let after = Stamp::from(&file.metadata()?);
        // A pipe can be read only once.
        if !before.is_file() || after == Stamp::from(&before) || attempt == ATTEMPTS {
            return Ok((read?, after));
        }
        attempt += 1;
    }
}

/// Returns the failure of a command that needs these limits.
pub fn unreadable(path: &Path, error: ReadError) -> Failure {
    let exit = match error {
        ReadError::NotLimits(_) => Exit::BadConfig,
        ReadError::Io(_) | ReadError::TooLarge => Exit::NoInput,
    };
    Failure::new(exit, anyhow::Error::new(error).context(reading(path)))
}

fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    Ok(match path == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path)?),
    })
}

fn reading(path: &Path) -> String {
    format!("reading limits from \"{}\"", path.display())
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
