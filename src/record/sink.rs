//! Receivers of the observations in a message.

use super::bounds::RECORDS_MAX;
use super::message::{Format, Read};
use super::reason::{Reason, Skip};

/// A receiver of observations.
pub(super) trait Take {
    /// Whether it also needs the JSON objects that the observations were read from.
    const SOURCES: bool;

    fn take(&mut self, read: Read, source: Option<&str>);
}

impl<F: FnMut(Read)> Take for F {
    const SOURCES: bool = false;

    fn take(&mut self, read: Read, _: Option<&str>) {
        self(read);
    }
}

/// Passes the observations of a message on. A value whose format is unknown is held back until it is clear
/// whether it stands for the whole message.
pub(super) struct Sink<'t, T> {
    pub(super) to: &'t mut T,
    pub(super) format: Option<Format>,
    pub(super) held: Option<Reason>,
    /// Whether a value of no format was rightly skipped.
    pub(super) skipped: bool,
    /// The number of values whose format was recognized.
    pub(super) told: usize,
}

impl<T: Take> Sink<'_, T> {
    pub(super) fn told(&mut self, format: Format, read: Read, source: Option<&str>) {
        self.told += 1;
        if self.told > RECORDS_MAX {
            return;
        }
        self.release();
        self.format.get_or_insert(format);
        self.to.take(read, source);
    }

    pub(super) fn untold(&mut self, reason: Reason) {
        self.release();
        self.held = Some(reason);
    }

    /// Skips a value of no format.
    pub(super) fn skip(&mut self, skip: Skip) {
        self.release();
        self.skipped = true;
        self.to.take(Read::Skipped(skip), None);
    }

    fn release(&mut self) {
        if let Some(reason) = self.held.take() {
            self.to.take(Read::Bad(reason), None);
        }
    }

    pub(super) fn finish(mut self) -> Result<Option<Format>, Reason> {
        if self.told > RECORDS_MAX {
            return Err(Reason::TooManyRecords);
        }
        if self.format.is_some() {
            self.release();
            return Ok(self.format);
        }
        match self.held {
            Some(reason) => Err(reason),
            None if self.skipped => Ok(None),
            None => Err(Reason::Empty),
        }
    }
}
