//! What a value in a message is read with.

use jiff::tz::TimeZone;

use super::message::Message;

/// What a value in a message is read with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) zone: &'a TimeZone,
    pub(super) message: &'a Message<'a>,
}

/// Whether a value may be an envelope. Only one is opened, so that none can be nested without end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapping {
    Open,
    Opened,
}
