//! Turns the rows of `traffic_limits`, as text, into the versions by which the dataflow judges.
//!
//! ```text
//! file  ──json─────▶ raw rows ──rows::check──▶ checked rows ──table──▶ rows that hold ──catalog──▶ versions
//! table ──postgres─▶            value, date, prefix      one per name and date      numbers for names
//! ```
//! - [`address`] parses the address of limits. [`incoming`] reads a file piece by piece, [`json`] cuts it into
//!   rows, [`postgres`] reads those of a table.
//! - [`rows`] checks columns and fills in defaults; [`reason`] has the errors of rows; [`value`] reads the value of
//!   a limit, and [`date`](crate::base::date) and [`network`](crate::base::network) the other columns.
//! - [`table`] decides among rows that share name and date, and stores the verdict on each row.
//! - [`text`] stores short texts without an allocation.
//! - [`catalog`] numbers names and rows, and returns the rows in force at a moment.
//! - [`explain`] explains which limits apply to a pair in a window, and why others do not.
//! - [`feed`] follows a file or a table while it changes.
//! - [`draft`] is a row to write, [`edit`] writes it into the text of a file.
//!
//! Only feeds and `postgres` read files, sockets or clocks.

pub mod address;
pub mod catalog;
pub mod draft;
pub mod edit;
pub mod explain;
pub mod feed;
pub mod file_error;
pub mod incoming;
pub mod json;
pub mod postgres;
pub mod reason;
pub mod rows;
mod slots;
pub mod stored;
pub mod table;
pub mod text;
pub mod value;

pub use address::Address;

#[cfg(test)]
mod catalog_tests;
#[cfg(test)]
mod growth_tests;
#[cfg(test)]
mod pieces_tests;
#[cfg(test)]
mod tests;
