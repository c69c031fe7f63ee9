//! A file of limits that is followed.
//!
//! The feed reads the file as soon as a writer moves it into its place or closes it. A change that only a poll has
//! found, or whose writer still has the file open, may be unfinished. The feed reads such a file once it has been
//! unchanged for a second, if its text shows that it is complete (an array, or one object). JSON lines cut short look
//! like fewer limits: [`WriteState`] decides how long they wait.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::fcntl::OFlag;

use super::current_rows::{CurrentRows, Edits, Health};
use super::handover::EditSender;
use super::options::Options;
use super::stamp::Stamp;
use super::watch::{FileEvents, FileWatch};
use crate::base::error::{Exit, Failure};
use crate::limits::file_error::FileError;
use crate::limits::file_error::{BYTES_MAX, ReadError};
use crate::limits::json::{self, Ending};
use crate::limits::rows::{Defaults, Row};
use crate::limits::table::Table;

/// Interval between two polls of the file if no event arrives.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Time after its first change at which a file is read although its writer has not closed it, or although it
/// is empty: a writer may pause between opening and writing a file.
const OPEN_WRITER_TIMEOUT: Duration = Duration::from_secs(60);

/// Time without a change after which JSON lines that were changed in place are read, where no event shows whether the
/// writer has closed the file. Network file systems show a change some seconds late.
const IN_PLACE_REST: Duration = Duration::from_secs(10);

/// Maximum interval between two polls of a file that can't be read, whatever `refresh` is.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Time after a reading at which the file is read once more. A writer may change a file so soon after a reading that
/// its time of change stays the same: some file systems count whole seconds.
const REREAD_AFTER: Duration = Duration::from_secs(2);

/// Maximum readings of a file that changes while the feed reads it for the first time.
const ATTEMPTS: usize = 3;

/// The reason why limits were not read from a file.
#[derive(Debug, thiserror::Error)]
enum FileFault {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "the file has been changing for {} s without a second of rest, and is not read; write the new \
         file beside it and rename it",
        OPEN_WRITER_TIMEOUT.as_secs()
    )]
    BeingWritten,
}

/// The labels of [`FileFault`].
const LABELS: [&str; 5] = ["missing", "unreadable", "too_large", "not_json", "being_written"];

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> Self {
        ReadError::from(error).into()
    }
}

impl FileFault {
    /// Returns the kind of fault, as the label of a metric.
    fn label(&self) -> &'static str {
        match self {
            FileFault::Read(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                "missing"
            }
            FileFault::Read(ReadError::Io(_)) => "unreadable",
            FileFault::Read(ReadError::TooLarge) => "too_large",
            FileFault::Read(ReadError::NotLimits(_)) => "not_json",
            FileFault::BeingWritten => "being_written",
        }
    }
}

/// A file of limits.
pub(super) struct FileFeed {
    path: PathBuf,
    defaults: Defaults,
    refresh: Option<Duration>,
    current: CurrentRows,
    /// Whether the file can be read more than once: a pipe and standard input can't.
    is_followed: bool,
    /// The stamp of the file at the last reading, and the time of that reading.
    last_read: Option<(Stamp, Instant)>,
    /// The stamp of the file at the last poll, and the time since which the file has it.
    last_seen: Option<(Stamp, Instant)>,
    /// The time since which the file has content that was not read.
    unread_since: Option<Instant>,
    /// The stamp of the file when its text seemed unfinished.
    unfinished: Option<Stamp>,
    /// The stamp of the file when a writer closed it and it was empty. The writer may have closed the content
    /// before: a writer in place empties the file first.
    emptied: Option<Stamp>,
    /// The time since which the file is missing.
    missing_since: Option<Instant>,
    /// Whether the content that was read last is limits.
    is_valid: bool,
    /// Whether the file was read for a second time since it changed.
    is_confirmed: bool,
}

impl FileFeed {
    pub(super) fn new(path: &Path, options: &Options) -> Self {
        FileFeed {
            path: path.to_owned(),
            defaults: options.defaults,
            refresh: options.refresh,
            current: CurrentRows::new(options, &LABELS),
            is_followed: path != Path::new("-")
                && std::fs::metadata(path).is_ok_and(|meta| meta.is_file()),
            last_read: None,
            last_seen: None,
            unread_since: None,
            unfinished: None,
            emptied: None,
            missing_since: None,
            is_valid: true,
            is_confirmed: true,
        }
    }

    pub(super) fn open(path: &Path, options: &Options) -> Result<(Self, Edits), Failure> {
        let mut feed = FileFeed::new(path, options);
        let (table, stamp) = read_once(path, options.defaults).map_err(|error| {
            let exit = match error {
                ReadError::Io(_) => Exit::NoInput,
                ReadError::TooLarge | ReadError::NotLimits(_) => Exit::BadConfig,
            };
            Failure::new(exit, anyhow::Error::new(error).context(reading(path)))
        })?;
        let edits = feed.current.accept(table);
        feed.current.first_succeeded();
        feed.record_reading(stamp);
        Ok((feed, edits))
    }

    pub(super) fn health(&self) -> Health {
        self.current.health()
    }

    /// Whether the file is a regular one, which can be read more than once.
    pub(super) fn is_followed(&self) -> bool {
        self.is_followed
    }

    /// Takes the rows of an earlier run for those that were read last.
    pub(super) fn continue_with(&mut self, rows: Vec<Arc<Row>>, why: &str) -> Edits {
        let is_missing = !self.path.exists();
        // A file that appears at this path is followed.
        self.is_followed = true;
        let label = if is_missing { "missing" } else { "unreadable" };
        self.current.continue_with(rows, label, why)
    }

    pub(super) fn run(&mut self, sender: &EditSender) {
        if !self.is_followed {
            tracing::info!(
                place = %self.path.display(),
                "the limits are not in a regular file and are not read again"
            );
            return;
        }
        let mut watch = self.refresh.is_none().then(|| FileWatch::of(&self.path));
        loop {
            // The first wait also returns events since the feed read the file first.
            let events = match (&mut watch, self.refresh) {
                (Some(watch), _) => {
                    watch.follow_links();
                    watch.wait(POLL_INTERVAL)
                }
                (None, refresh) => {
                    std::thread::sleep(self.time_until_poll(refresh.unwrap_or(POLL_INTERVAL)));
                    FileEvents::None
                }
            };
            let is_written = watch.as_ref().is_some_and(FileWatch::is_written);
            self.current.poll_started();
            let edits = self.poll(events, is_written).filter(|edits| !edits.is_empty());
            self.current.poll_ended();
            if edits.is_some_and(|edits| !sender.send(edits)) {
                return;
            }
        }
    }

    /// Returns the time until the next poll of a feed without events: shorter if the last poll found a change that is
    /// still unread, or the file can't be read.
    fn time_until_poll(&self, refresh: Duration) -> Duration {
        match &self.last_read {
            Some((read, _)) if self.last_seen.is_some_and(|(seen, _)| seen != *read) => {
                POLL_INTERVAL.min(refresh)
            }
            Some(_) if self.is_valid => refresh,
            _ => RETRY_INTERVAL.min(refresh),
        }
    }

    /// Reads the file if it has changed and its text is complete, and returns the edits. `events` are those since
    /// the last poll; `is_written`: a writer has the file open. Logs a fault of the file once.
    fn poll(&mut self, events: FileEvents, is_written: bool) -> Option<Edits> {
        let stamp = match Stamp::of(&self.path) {
            Ok(stamp) => stamp,
            Err(error) => return self.fail_to_find(&error.into()),
        };
        self.missing_since = None;
        let polled = self.observe(stamp, events, is_written);
        if polled.was_read && !self.needs_second_reading() {
            if self.is_valid {
                self.current.succeeded();
            }
            return None;
        }
        match self.write_state(&polled) {
            Some(state) => self.read_if_complete(&polled, state),
            None => self.wait_for_rest(polled.unread_since),
        }
    }

    /// Compares the stamp of the file with those of the last poll and of the last reading.
    fn observe(&mut self, stamp: Stamp, events: FileEvents, is_written: bool) -> Polled {
        let before = self.last_seen.filter(|(seen, _)| *seen == stamp);
        let (_, since) = *self.last_seen.insert(before.unwrap_or((stamp, Instant::now())));
        let was_read = self.last_read.as_ref().is_some_and(|(read, _)| *read == stamp);
        let unread_since = match was_read {
            true => {
                self.unread_since = None;
                since
            }
            false => *self.unread_since.get_or_insert_with(Instant::now),
        };
        let is_replaced =
            self.last_read.as_ref().is_none_or(|(read, _)| !read.is_same_file(&stamp));
        Polled {
            stamp,
            events,
            is_written,
            was_seen: before.is_some(),
            was_read,
            is_replaced,
            since,
            unread_since,
        }
    }

    /// Whether an unchanged file is due for its second reading.
    fn needs_second_reading(&self) -> bool {
        let is_due = |(_, when): &(Stamp, Instant)| when.elapsed() >= REREAD_AFTER;
        !self.is_confirmed && self.last_read.as_ref().is_some_and(is_due)
    }

    /// Returns the state of the write that the poll has found; `None` while the file does not rest.
    fn write_state(&mut self, polled: &Polled) -> Option<WriteState> {
        let Polled { stamp, events, is_written, is_replaced, .. } = *polled;
        let is_empty = stamp.len == 0;
        if events == FileEvents::Complete && is_empty && !polled.was_seen {
            self.emptied = Some(stamp);
            return None;
        }
        let is_closed = events == FileEvents::Complete || self.emptied == Some(stamp);
        let is_renamed = events == FileEvents::Nearby && is_replaced && !is_written && !is_empty;
        if is_closed || is_renamed || polled.was_read {
            return Some(WriteState::Complete);
        }
        // A poll without events follows the poll before after an interval.
        let rests = events == FileEvents::None && polled.was_seen
            || self.refresh.is_some() && stamp.rests_for(POLL_INTERVAL);
        rests.then(|| WriteState::of(is_empty || is_written, is_replaced))
    }

    /// Reads the file, unless its text is unfinished and the file has not rested as long as `state` requires.
    fn read_if_complete(&mut self, polled: &Polled, state: WriteState) -> Option<Edits> {
        let stamp = polled.stamp;
        let has_rested = self.has_rested(polled, state);
        if self.unfinished == Some(stamp) && !has_rested {
            return None;
        }
        let read = match self.read() {
            // The file was written meanwhile: the text may be of both versions.
            Ok(reading) if reading.stamp != stamp => return None,
            Ok(reading) => reading.limits.map_err(ReadError::from).map_err(FileFault::from),
            Err(error) => Err(error.into()),
        };
        let is_unfinished = may_be_unfinished(&read);
        if is_unfinished && !has_rested {
            self.unfinished = Some(stamp);
            return None;
        }
        if is_unfinished && state == WriteState::WriterActive && read.is_ok() {
            self.warn_unclosed();
        }
        self.finish_reading(polled, read)
    }

    /// Whether the file has been unchanged for as long as `state` requires, by the polls or by its modification time.
    fn has_rested(&self, polled: &Polled, state: WriteState) -> bool {
        state.is_over(polled.since, polled.unread_since)
            || self.refresh.is_some()
                && state.rest().is_some_and(|rest| polled.stamp.rests_for(rest))
    }

    /// Returns the edits of a reading, or reports its fault.
    fn finish_reading(
        &mut self,
        polled: &Polled,
        read: Result<(Table, Ending), FileFault>,
    ) -> Option<Edits> {
        match &read {
            // This is no fault of the file, and the next poll may succeed.
            Err(FileFault::Read(ReadError::Io(_))) => self.last_read = None,
            _ => self.record_reading(polled.stamp),
        }
        (self.is_valid, self.is_confirmed) = (read.is_ok(), polled.was_read);
        match read {
            Ok((table, _)) => {
                let edits = self.current.accept(table);
                self.current.succeeded();
                Some(edits)
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Handles a poll that found no file, or could not read its metadata. Editors remove a file for a moment before
    /// they create another one there, so a missing file is an error only when it stays missing.
    fn fail_to_find(&mut self, error: &FileFault) -> Option<Edits> {
        // A file that comes back is a new one.
        (self.last_read, self.last_seen, self.unfinished, self.emptied) = (None, None, None, None);
        let missing_since = *self.missing_since.get_or_insert_with(Instant::now);
        let lasts = missing_since.elapsed() >= POLL_INTERVAL / 2 || self.refresh.is_some();
        if error.label() == "missing" && !lasts {
            return None;
        }
        self.fail(error)
    }

    /// Leaves a file that is being changed unread, and reports a fault once that has lasted for
    /// [`OPEN_WRITER_TIMEOUT`].
    fn wait_for_rest(&self, unread_since: Instant) -> Option<Edits> {
        match unread_since.elapsed() >= OPEN_WRITER_TIMEOUT {
            true => self.fail(&FileFault::BeingWritten),
            false => None,
        }
    }

    fn warn_unclosed(&self) {
        tracing::warn!(
            place = %self.path.display(),
            "the limits are read from a file that its writer has not closed for {} s: JSON lines cut short \
             can't be told from whole ones; write the new file beside it and rename it",
            OPEN_WRITER_TIMEOUT.as_secs()
        );
    }

    fn record_reading(&mut self, stamp: Stamp) {
        self.last_read = Some((stamp, Instant::now()));
        self.last_seen = Some((stamp, Instant::now()));
        (self.unread_since, self.unfinished, self.emptied) = (None, None, None);
        self.is_confirmed = false;
    }

    fn fail(&self, error: &FileFault) -> Option<Edits> {
        self.current
            .failed(error.label(), &format!("reading \"{}\": {error}", self.path.display()));
        None
    }

    fn read(&self) -> Result<Reading, ReadError> {
        // A pipe may have replaced the file, and opening it must not wait for its other end.
        let flags = OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(flags).open(&self.path)?;
        Stamp::of_file(&file.metadata()?)?;
        let limits = match json::read_from(&file, self.defaults, self.current.rows()) {
            Err(ReadError::NotLimits(error)) => Err(error),
            limits => Ok(limits?),
        };
        Ok(Reading { limits, stamp: Stamp::of_file(&file.metadata()?)? })
    }
}

/// The findings of one poll.
struct Polled {
    stamp: Stamp,
    events: FileEvents,
    /// Whether a writer has the file open.
    is_written: bool,
    /// Whether the poll before found the same stamp.
    was_seen: bool,
    /// Whether the last reading had the same stamp.
    was_read: bool,
    /// Whether this is another file than the one that was read last.
    is_replaced: bool,
    /// The time since which the file has this stamp.
    since: Instant,
    /// The time since which the file has unread content; `since` if all content was read.
    unread_since: Instant,
}

/// Whether a file may have been read before its writer has finished.
fn may_be_unfinished(read: &Result<(Table, Ending), FileFault>) -> bool {
    match read {
        Ok((_, ending)) => *ending == Ending::Open,
        // The file may have been cut within a row, or within a character.
        Err(FileFault::Read(ReadError::NotLimits(error))) => {
            !matches!(error, FileError::TooMany { .. })
        }
        Err(_) => false,
    }
}

/// The result of reading the whole file.
struct Reading {
    limits: Result<(Table, Ending), FileError>,
    /// The stamp of the file after it was read.
    stamp: Stamp,
}

/// The state of the last write, which decides how long a file waits whose text does not show that it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteState {
    /// The file is known to be complete.
    Complete,
    /// Another file has taken its place without an event: most likely a writer renamed it.
    Replaced,
    /// The file was changed in place, and no event shows whether the writer has closed it.
    InPlace,
    /// The writer has not closed the file, or has just emptied it.
    WriterActive,
}

impl WriteState {
    fn of(is_writer_active: bool, is_replaced: bool) -> Self {
        match (is_writer_active, is_replaced) {
            (true, _) => WriteState::WriterActive,
            (false, true) => WriteState::Replaced,
            (false, false) => WriteState::InPlace,
        }
    }

    /// Returns the time without a change that the file must rest; `None`: it need not.
    fn rest(self) -> Option<Duration> {
        match self {
            WriteState::Complete | WriteState::Replaced => None,
            WriteState::InPlace => Some(IN_PLACE_REST),
            WriteState::WriterActive => Some(OPEN_WRITER_TIMEOUT),
        }
    }

    /// Whether the wait is over for a file that is unchanged since `since` and unread since `unread_since`. A file
    /// whose writer adds a line now and then is read all the same.
    fn is_over(self, since: Instant, unread_since: Instant) -> bool {
        self.rest().is_none_or(|rest| since.elapsed() >= rest)
            || unread_since.elapsed() >= OPEN_WRITER_TIMEOUT
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

/// Reads the limits in a file, or on standard input (`-`), once. Also returns the stamp of the file after the
/// reading.
fn read_once(path: &Path, defaults: Defaults) -> Result<(Table, Stamp), ReadError> {
    if path == Path::new("-") {
        let (table, _) = json::read_from(std::io::stdin().lock(), defaults, &[])?;
        return Ok((table, Stamp::from(&std::fs::metadata("/dev/null")?)));
    }
    read_stable(path, |file| Ok(json::read_from(file, defaults, &[])?.0))
}

/// Reads a file, and reads it again if it has changed meanwhile, up to [`ATTEMPTS`] times in all. Also returns
/// the stamp of the file after the last reading.
fn read_stable<T>(
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
