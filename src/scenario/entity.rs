//! Entities as scenarios write them: `10.0.0.1 > 10.0.0.2`, `source 10.0.0.1`, `total`.

use std::fmt::{self, Display};
use std::net::IpAddr;

use floodmark_dataflows::types::{Entity, Pair};

use super::words::{Word, Words};
use crate::base::network;
use crate::base::quote::Quoted;

/// Reads a pair whose source was read.
pub(super) fn pair(source: &Word<'_>, words: &mut Words<'_>) -> Result<Pair, String> {
    let source = address(source)?;
    words.expect(">")?;
    let destination = address(&words.require("the destination's address")?)?;
    network::pair(source, destination)
}

/// Reads an entity.
pub(super) fn entity(words: &mut Words<'_>) -> Result<Entity, String> {
    let first = words.require("the entity")?;
    let of: fn(IpAddr) -> Entity = match first.text.as_ref() {
        _ if first.quoted => return Err(unknown(&first)),
        "total" => return Ok(Entity::Total),
        "source" => Entity::Source,
        "destination" => Entity::Destination,
        "host" => Entity::Host,
        _ if first.text.parse::<IpAddr>().is_ok() => return Ok(Entity::Pair(pair(&first, words)?)),
        _ => return Err(unknown(&first)),
    };
    Ok(of(address(&words.require("an address")?)?))
}

fn unknown(word: &Word<'_>) -> String {
    format!(
        "{} is not an entity; write 10.0.0.1 > 10.0.0.2, source 10.0.0.1, destination \
         10.0.0.1, host 10.0.0.1 or total",
        Quoted(&word.text)
    )
}

fn address(word: &Word<'_>) -> Result<IpAddr, String> {
    network::address(&word.text)
}

/// An entity in the format of a scenario.
pub(super) struct EntityName(pub(super) Entity);

impl Display for EntityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Entity::Pair(pair) => write!(f, "{} > {}", pair.source(), pair.destination()),
            Entity::Source(address) => write!(f, "source {address}"),
            Entity::Destination(address) => write!(f, "destination {address}"),
            Entity::Host(address) => write!(f, "host {address}"),
            Entity::Total => f.write_str("total"),
        }
    }
}
