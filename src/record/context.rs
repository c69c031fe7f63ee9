//! The context in which a value of a message is read.

use jiff::tz::TimeZone;

use super::message::Message;

/// The time zone and the message that a value is read with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) zone: &'a TimeZone,
    pub(super) message: &'a Message<'a>,
}

/// Whether a value may be an envelope. Only one envelope is opened, so that nesting is bounded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Envelope {
    Allowed,
    /// The value was in an envelope, and may not be another one.
    Opened,
}
