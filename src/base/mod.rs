//! Texts, times, errors and messages. Uses no other part of the program.
//!
//! - [`date`] reads and writes times, [`duration`] durations, [`size`] sizes, [`network`] networks and
//!   addresses.
//! - `quote` and [`shown`] make texts from outside safe to show.
//! - [`bucket`] opens buckets of object stores.
//! - [`error`] has the exit codes, [`terminal`] messages to people and the interrupt key, [`logging`] the log.
//! - [`panics`] catches those of code that should return errors.
//! - [`strays`] tells records with a time far ahead of the next one.
//! - [`descriptors`] raises the number of files that may be open.
//! - [`threads`] checks that the process can have more threads, and sets their priority.

pub mod bucket;
pub mod date;
pub mod descriptors;
pub mod duration;
pub mod error;
pub mod logging;
pub mod network;
pub mod panics;
pub(crate) mod quote;
pub mod shown;
pub mod size;
pub mod strays;
pub mod terminal;
pub mod threads;
