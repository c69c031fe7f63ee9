//! Topics, and messages sent to them.

mod buffered;
mod mock;
mod real;
mod source;
