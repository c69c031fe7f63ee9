//! Topics, and messages sent to them.

mod mock;
mod outbox;
mod real;
mod source;
