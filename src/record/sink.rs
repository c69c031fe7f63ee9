//! Receivers of the observations of a message.

use super::bounds::RECORDS_MAX;
use super::message::{Format, Observation};
use super::reason::{RecordError, Skip};

/// A receiver of observations.
pub(super) trait Receiver {
    /// Whether the receiver also needs the JSON objects of the observations.
    const SOURCES: bool;

    fn receive(&mut self, read: Observation, source: Option<&str>);
}

impl<F: FnMut(Observation)> Receiver for F {
    const SOURCES: bool = false;

    fn receive(&mut self, read: Observation, _: Option<&str>) {
        self(read);
    }
}

/// Forwards the observations of a message. Holds back the error of the last value of unknown format: if no value of the
/// message has a format, it is the error of the whole message.
pub(super) struct MessageSink<'t, T> {
    pub(super) receiver: &'t mut T,
    pub(super) format: Option<Format>,
    pub(super) held_back: Option<RecordError>,
    /// Whether a value without a format was skipped.
    pub(super) skipped: bool,
    /// The number of values of a recognized format.
    pub(super) recognized: usize,
}

impl<T: Receiver> MessageSink<'_, T> {
    pub(super) fn recognized(&mut self, format: Format, read: Observation, source: Option<&str>) {
        self.recognized += 1;
        if self.recognized > RECORDS_MAX {
            return;
        }
        self.release();
        self.format.get_or_insert(format);
        self.receiver.receive(read, source);
    }

    pub(super) fn unrecognized(&mut self, reason: RecordError) {
        self.release();
        self.held_back = Some(reason);
    }

    /// Skips a value without a format.
    pub(super) fn skip(&mut self, skip: Skip) {
        self.release();
        self.skipped = true;
        self.receiver.receive(Observation::Skipped(skip), None);
    }

    fn release(&mut self) {
        if let Some(reason) = self.held_back.take() {
            self.receiver.receive(Observation::Bad(reason), None);
        }
    }

    pub(super) fn finish(mut self) -> Result<Option<Format>, RecordError> {
        if self.recognized > RECORDS_MAX {
            return Err(RecordError::TooManyRecords);
        }
        if self.format.is_some() {
            self.release();
            return Ok(self.format);
        }
        match self.held_back {
            Some(reason) => Err(reason),
            None if self.skipped => Ok(None),
            None => Err(RecordError::Empty),
        }
    }
}
