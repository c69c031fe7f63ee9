//! The tests of the program, in one binary: what it links, it links once.

mod common;
mod generated;
mod goldens;
mod hostile;
