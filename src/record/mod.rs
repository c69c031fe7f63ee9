//! The formats of records on a topic: many records packed into one message, or texts of one record
//! each, as floodmark and other tools write them.
//!
//! - `packed`: the default: columns of many records, behind a header and a checksum.
//! - `kv`: the pair as the key, the length as the value, as older producers write it.
//! - `json`: objects of any dialect, which it recognizes, and floodmark's own.
//! - `dialect`: the field names of each tool that writes flow records.
//! - `tshark`: packets in the two JSON forms of tshark; `lines`: its text lines.
//! - `value`: numbers and addresses in texts; `time`: times.
//! - `fields`: chosen fields of a message by their own names.
//! - `columns`: the columns of a table that hold the fields of its records; `row`: its rows as records.
//!
//! [`Decoder`] recognizes the format of each message by its content; `docs/records.md` lists the messages that
//! it accepts and rejects. It does no I/O. Nothing in a message can make it panic, or take more memory or time
//! than in proportion to its length.

mod bounds;
mod columns;
mod context;
mod decoder;
mod dialect;
mod fields;
mod json;
mod kv;
mod lines;
mod members;
mod message;
mod packed;
mod reason;
mod row;
mod sink;
mod time;
mod tshark;
mod value;

pub use bounds::{AMOUNT_MAX, RECORDS_MAX};
pub use columns::{Column, ColumnError, Layout, LayoutError};
pub use decoder::{Decoder, Options, span_max};
pub use fields::{Fields, FieldsError};
pub use json::write_json;
pub use kv::write_kv;
pub use message::{Format, Message, Observation, Record};
pub use packed::{Packed, Packer};
pub use reason::{Excerpt, RecordError, Skip, TimeFault};
pub use row::{Cell, Cells};

#[cfg(test)]
mod tests;
