//! floodmark holds network traffic to limits.
pub mod capture;
/// The commands of the program.
pub mod cli {
    pub mod generate;
}
pub mod error;
pub mod generate;
