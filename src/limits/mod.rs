//! Limits: from the rows of `traffic_limits`, as text, to the versions that the dataflow judges by.
//!
//! ```text
//! file  ──json─────▶ raw rows ──rows::check──▶ checked rows ──table──▶ rows that hold ──catalog──▶ versions
//! table ──postgres─▶            value, date, prefix      one per name and date      numbers for names
//! ```
//! - [`address`] says where limits are. [`incoming`] reads a file piece by piece, [`json`] cuts it into
//!   rows, [`postgres`] reads those of a table.
//! - [`rows`] knows columns, defaults and refusals; [`value`] reads the value of a limit, and
//!   [`date`](crate::base::date) and [`network`](crate::base::network) the other columns.
//! - [`table`] decides among rows that share name and date, and keeps what became of each row.
//! - [`text`] keeps short texts without an allocation.
//! - [`catalog`] numbers names and rows, and says what is in force when.
//! - [`explain`] tells which limits apply to a pair in a window, and why others do not.
//! - [`feed`] follows either while it changes.
//! - [`draft`] is a row that is to be written, [`edit`] writes it into the text of a file.
//!
//! All but feeds and `postgres` read no file, socket or clock.

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
