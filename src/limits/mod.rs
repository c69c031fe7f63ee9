//! Limits: from the rows of `traffic_limits`, as text, to the versions that the dataflow judges by.
//!
//! ```text
//! file ──json──▶ raw rows ──rows::check──▶ checked rows ──table──▶ rows that hold ──catalog──▶ versions
//!                 (any feed)  value, date, prefix      one per name and date        numbers for names
//! ```
//! - [`json`] cuts a file into rows; other feeds hand in [`rows::RawRow`]s of their own.
//! - [`rows`] knows columns, defaults and refusals; [`value`], [`date`] and [`prefix`] read what stands
//!   in a column.
//! - [`table`] decides among rows that share name and date, and keeps what became of each row.
//! - [`catalog`] numbers names and rows, compares whole states, and says what is in force when.
//!
//! Nothing here reads a file, a socket or the clock.

pub mod catalog;
pub mod date;
pub mod feed;
pub mod json;
pub mod prefix;
pub(crate) mod quote;
pub mod reason;
pub mod rows;
pub mod table;
pub mod value;

#[cfg(test)]
mod tests;
