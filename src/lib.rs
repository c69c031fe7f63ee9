//! floodmark holds network traffic to limits.

pub mod cli {
    //! The commands, one module each.
    pub mod grid;
    pub mod limits;
}
pub mod error;
pub mod limits;
