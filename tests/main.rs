//! The tests of the program, in one binary, so that the program is linked once.
#![expect(clippy::print_stdout, reason = "tests print their seeds, and the number of comparisons")]

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
mod terminal_output;
