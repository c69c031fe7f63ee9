//! floodmark holds network traffic to limits.
pub mod error;
pub mod limits;
