//! A table of limits in PostgreSQL.
//!
//! - [`address`] reads what an option says, `passfile` finds the password, `tls` how to trust a server.
//! - [`session`] connects, and hears notifications.
//! - [`snapshot`] reads the whole table as rows, at one moment; `texts` those that are not UTF-8.
//! - [`schema`] makes a table, and a trigger that tells of its changes; [`write`](mod@write) changes its
//!   rows.
//! - [`error`]: what can go wrong, told apart by what one would do about it.
//!
//! Who only reads needs no right but to select from the table.

pub mod address;
pub mod error;
mod passfile;
pub mod schema;
pub mod session;
pub mod snapshot;
pub mod table_name;
mod texts;
mod tls;
pub mod write;

pub use address::{Address, AddressError};
pub use error::Error;
pub use session::Session;
pub use table_name::TableName;
