//! A table of limits in PostgreSQL.
//!
//! - [`address`] reads the URI of a database, `passfile` looks up the password, `tls` verifies the server.
//! - [`session`] connects, and receives notifications.
//! - [`snapshot`] reads the whole table as of one moment; `texts` reads texts that are not UTF-8.
//! - [`schema`] creates a table, and a trigger that notifies of its changes; [`write`](mod@write) changes its
//!   rows.
//! - [`error`] defines the errors, one variant for each remedy.
//!
//! A user that only reads needs no right other than SELECT on the table.

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
