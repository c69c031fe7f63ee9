//! The integration tests of the dataflows, as one binary.

mod amounts;
mod delivery;
mod growth;
mod histories;
mod laws;
mod live;
mod oracle;
mod products;
mod reference;
mod responses;
mod restore;
mod retirement;
mod rounds;
mod saturation;
mod threshold_join;
mod workers;
