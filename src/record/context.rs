//! The surroundings that a value in a message is read with.

use jiff::tz::TimeZone;

use super::message::Message;

/// The time zone and the message that a value is read with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) zone: &'a TimeZone,
    pub(super) message: &'a Message<'a>,
}

/// Whether a value may be an envelope. Only one envelope is opened, so that nesting can't go on without end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapping {
    Open,
    Opened,
}
