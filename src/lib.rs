//! floodmark holds network traffic to limits.
pub mod capture;
pub mod error;
