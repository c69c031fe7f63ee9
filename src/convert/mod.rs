//! From any source of records to any sink, in another format: what `floodmark convert` does.
//!
//! ```text
//!  topic ─▶ Following, one a worker ─▶ ┌───────────┐     ┌────────┐
//!                                      │ Converter │ ──▶ │ Outlet │
//!  files ─▶ reader thread ───────────▶ └───────────┘     └────────┘
//! ```
//!
//! - [`converter`]: from a message to what is written of it.
//! - [`following`]: the partitions of a topic that one worker reads; [`skew`] holds the workers together.
//! - [`files`]: captures and texts, read by a thread of their own; `texts` cuts them into messages, with
//!   `json_cut` where a JSON value goes over several lines.
//! - [`shared`]: one file that several workers write to.
//!
//! Nothing is read while there is no room in the sink, so an outage of the sink costs time alone. Offsets
//! are committed when everything before them has arrived.

use std::time::Duration;

pub mod converter;
pub mod files;
pub mod following;
mod json_cut;
pub mod shared;
pub mod skew;
mod texts;

/// How long to wait for room in the sink before looking again.
const FULL: Duration = Duration::from_millis(5);
