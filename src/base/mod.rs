//! Texts, times, errors and messages. Uses no other part of the program.
//!
//! - [`date`] reads and writes times, [`duration`] durations, [`size`] sizes, [`network`] networks and
//!   addresses.
//! - `quote` and [`shown`] make texts from outside safe to show.
//! - [`error`] has the exit codes, [`terminal`] messages to people and the interrupt key, [`logging`] the log.
//! - [`strays`] tells records with a time far ahead of the next one.
//! - [`threads`] checks that the process can have more threads, and sets their priority.

pub mod date;
pub mod duration;
pub mod error;
pub mod logging;
pub mod network;
pub(crate) mod quote;
pub mod shown;
pub mod size;
pub mod strays;
pub mod terminal;
pub mod threads;
