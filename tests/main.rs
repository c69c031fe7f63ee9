//! The tests of the program, in one binary: what it links, it links once.
#![expect(clippy::print_stdout, reason = "tests say how much they compared, and their seeds")]

mod bounds;
mod capture;
mod common;
mod convert;
mod demo;
mod feeds;
mod generated;
mod goldens;
mod hostile;
mod inputs;
mod kafka;
mod layers;
mod limits_cli;
mod live;
mod replay;
mod scenarios;
mod serving;
mod shown;
