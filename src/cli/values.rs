//! Values of options: limits, networks, time zones, and what to rank.

use std::collections::BTreeSet;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use floodmark_dataflows::top::TopQuery;
use floodmark_dataflows::types::{Metric, Per, Prefix};
use jiff::tz::TimeZone;

use crate::base::date;
use crate::base::error::{Exit, Failure};
use crate::base::network;
use crate::cluster::Settings;
use crate::limits::catalog::LimitSet;
use crate::limits::postgres::TableName;
use crate::limits::rows::{Defaults, METRICS, PERS, word};
use crate::limits::{Address, feed};

/// Defaults of rows of limits.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LimitDefaults {
    /// The value of `per` for rows of limits that have none
    #[arg(
        long,
        value_name = "PER",
        env = "FLOODMARK_LIMITS_PER",
        default_value = "pair",
        value_parser = per_parser()
    )]
    limits_per: Per,
}

impl LimitDefaults {
    /// Returns the defaults for the reader of rows.
    pub fn defaults(&self) -> Defaults {
        Defaults { per: self.limits_per }
    }
}

/// The table of limits in a database, and the defaults of rows.
#[derive(Clone, Debug, clap::Args)]
pub struct LimitRows {
    #[command(flatten)]
    defaults: LimitDefaults,

    /// The table of limits in a database, as TABLE or SCHEMA.TABLE, unless the URI ends with #TABLE
    #[arg(
        long,
        value_name = "TABLE",
        env = "FLOODMARK_LIMITS_TABLE",
        default_value = "traffic_limits"
    )]
    pub limits_table: TableName,
}

impl LimitRows {
    /// Adds the options that decide how limits are read.
    pub fn add_settings(&self, settings: Settings) -> Settings {
        let LimitRows { defaults: LimitDefaults { limits_per }, limits_table } = self;
        settings.with("--limits-per", word(&PERS, limits_per)).with("--limits-table", limits_table)
    }

    /// Returns the options of a feed of live limits from a place: a file, or a database, which may name its
    /// table as `…/DATABASE#TABLE`. The feed reads the limits whenever they change.
    ///
    /// # Errors
    /// The text names no such place. (A parser of clap would print it with its password.)
    pub fn of(&self, text: &str) -> Result<feed::Options, Failure> {
        let usage = |error| Failure::new(Exit::Usage, error);
        let (place, table) = match text.split_once('#') {
            Some((uri, table)) if uri.starts_with("postgres") && uri.contains("://") => {
                let table = table.parse::<TableName>();
                (uri, table.map_err(|error| usage(anyhow::Error::new(error)))?)
            }
            _ => (text, self.limits_table.clone()),
        };
        let address = place.parse::<Address>();
        Ok(feed::Options {
            address: address.map_err(|error| usage(anyhow::Error::new(error)))?,
            table,
            defaults: self.defaults.defaults(),
            set: LimitSet::Live,
            refresh: None,
        })
    }
}

/// Reads the value of `--limits-per`.
fn per_parser() -> impl TypedValueParser<Value = Per> {
    PossibleValuesParser::new(PERS.map(|(word, _)| word)).map(|given| {
        let found = PERS.iter().find(|(word, _)| *word == given);
        found.expect("only words of the list are possible").1
    })
}

/// Formats networks of which one must match, sorted; `None` if any address matches.
pub fn shown_networks(networks: &[Prefix]) -> Option<String> {
    let texts: BTreeSet<String> = networks.iter().map(|network| network::text(*network)).collect();
    let any = texts.is_empty() || texts.contains(network::ANY);
    (!any).then(|| texts.into_iter().collect::<Vec<_>>().join(","))
}

/// Formats a ranking as an option value.
pub fn shown_top(top: &TopQuery) -> String {
    format!("{},{},{}", top.n, word(&PERS, &top.per), word(&METRICS, &top.metric))
}

/// Formats a choice as an option value.
pub fn shown_choice(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Reads the name of a time zone, such as `Europe/Berlin`.
pub fn zone(text: &str) -> Result<TimeZone, String> {
    date::zone(text).map_err(|_| {
        format!("\"{text}\" is no time zone of this machine (write it like UTC or Europe/Berlin)")
    })
}

/// Formats a time zone by its name.
pub fn shown_zone(zone: &TimeZone) -> String {
    match zone.iana_name() {
        Some(name) => name.to_owned(),
        None => format!("{zone:?}"),
    }
}

/// Reads `N[,pair|source|destination][,bytes|packets]`.
pub fn top(text: &str) -> Result<TopQuery, String> {
    let mut words = text.split(',');
    let count = words.next().unwrap_or_default();
    let n = count.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
        format!("\"{count}\" is not a number of entities (write it like 10,source)")
    })?;
    let (mut per, mut metric) = (None, None);
    for word in words {
        let fresh = match word {
            "pair" => per.replace(Per::Pair).is_none(),
            "source" => per.replace(Per::Source).is_none(),
            "destination" => per.replace(Per::Destination).is_none(),
            "bytes" => metric.replace(Metric::Bytes).is_none(),
            "packets" => metric.replace(Metric::Packets).is_none(),
            _ => {
                return Err(format!(
                    "\"{word}\" is none of pair, source, destination, bytes, packets"
                ));
            }
        };
        if !fresh {
            return Err(format!(
                "\"{word}\" contradicts or repeats an earlier word of the ranking"
            ));
        }
    }
    let (per, metric) = (per.unwrap_or(Per::Pair), metric.unwrap_or(Metric::Bytes));
    Ok(TopQuery { n, per, metric })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_values_are_formatted_canonically() {
        let networks = |texts: &[&str]| {
            let networks: Vec<Prefix> =
                texts.iter().map(|text| network::parse(text).expect("a network")).collect();
            shown_networks(&networks)
        };
        let one = networks(&["192.0.2.0/24", "10.1.2.3/8", "10.0.0.0/8"]);
        assert_eq!(one.as_deref(), Some("10.0.0.0/8,192.0.2.0/24"));
        assert_eq!(networks(&[]), None);
        assert_eq!(networks(&["10.0.0.0/8", "any"]), None);
        assert_eq!(shown_top(&top("3,packets,source").expect("a ranking")), "3,source,packets");
    }

    #[test]
    fn ranking_without_words_is_by_pairs_and_bytes() {
        let query = |n, per, metric| Ok(TopQuery { n, per, metric });
        assert_eq!(top("10"), query(10, Per::Pair, Metric::Bytes));
        assert_eq!(top("3,packets,source"), query(3, Per::Source, Metric::Packets));
        for bad in ["", "0", "x", "3,", "3,host", "3,pair,source", "3,bytes,bytes"] {
            assert!(top(bad).is_err(), "{bad}");
        }
    }
}
