//! `floodmark run`, run as a user runs it: topics of a real broker in, alerts out.
//!
//! What holds of all of them: once its windows have settled, a live run has said what a replay of the
//! same records says.
//!
//! - `equality`: each format, any number of workers, processes and partitions.
//! - `kit`: topics with traffic in them, and the answers that runs are held to.

mod equality;
mod kit;
