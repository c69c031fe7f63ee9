//! Converts records from any source to any sink, in another format: the work of `floodmark convert`.
//!
//! ```text
//!  topic ─▶ Follower, one a worker ──▶ ┌───────────┐     ┌────────┐
//!                                      │ Converter │ ──▶ │ Outlet │
//!  files ─▶ reader thread ───────────▶ └───────────┘     └────────┘
//! ```
//!
//! - [`converter`]: converts each message and writes it to an outlet.
//! - [`following`]: one worker that reads partitions of a topic; [`skew`] bounds the distance in event time
//!   between workers.
//! - [`files`]: captures and texts, read by a thread of their own.
//! - [`shared`]: one file that several workers write to.
//!
//! The workers read nothing while the sink has no capacity, so an outage of the sink loses no records. A worker
//! commits offsets when everything before them has been delivered.

use std::time::Duration;

pub mod converter;
pub mod files;
pub mod following;
pub mod shared;
pub mod skew;

/// Pause before the capacity of the sink is checked again.
const CAPACITY_PAUSE: Duration = Duration::from_millis(5);
