//! The options that `replay` and `run` share: limits, windows, and output.

use anyhow::anyhow;
use clap::ValueEnum;
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::reads::EmitTotals;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::top::TopQuery;
use floodmark_dataflows::types::{Prefix, Updates};

use super::values::{self, LimitRows};
use crate::base::duration;
use crate::base::error::{Exit, Failure};
use crate::base::network;
use crate::cluster::{Given, Settings};
use crate::limits::catalog::{Catalog, LimitSet};
use crate::limits::feed;
use crate::output::Format;
use crate::source::Filter;

/// The options about judging.
#[derive(Clone, Debug, clap::Args)]
pub struct Judging {
    /// Limits: a file of JSON, or a database as postgres://USER@HOST/DATABASE
    ///
    /// Without limits the output has totals and rankings only.
    #[arg(long, value_name = "FILE|URI", env = "FLOODMARK_LIMITS", hide_env_values = true)]
    limits: Option<String>,

    /// A second set of limits, evaluated beside --limits, to see which of them would be broken
    ///
    /// The field "limit_set" of each change names its set: "live" for --limits, or "what_if". Changes of the
    /// second set go to standard output and to files, never to a topic.
    #[arg(long, value_name = "FILE|URI", env = "FLOODMARK_WHAT_IF", hide_env_values = true)]
    what_if: Option<String>,

    /// Show only the differences between --limits and --what-if
    ///
    /// The sets differ in a limit name, window and entity if only one set has a violation there. A topic
    /// still gets all changes of --limits.
    #[arg(long, requires = "what_if")]
    pub only_difference: bool,

    /// Exit with code 78 if a row of --limits or --what-if is refused when the command starts
    ///
    /// Without this option the other rows apply, and a summary at the end counts the refused ones. A row
    /// that is refused later, after an edit, never ends a run.
    #[arg(long)]
    strict_limits: bool,

    #[command(flatten)]
    limit_rows: LimitRows,

    /// The width of windows, in whole seconds
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_WINDOW",
        default_value = "5m",
        value_parser = duration::secs
    )]
    window: u64,

    /// The interval of evaluation: in event time for a replay, by the clock for a run
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_TICK",
        default_value = "1s",
        value_parser = duration::positive_millis
    )]
    pub tick: u64,

    /// Time after its end during which a window still accepts records; then it settles
    ///
    /// Default: 10m for a run. For a replay no window settles before the end, so that all packets count,
    /// whatever their order.
    #[arg(long, value_name = "DURATION", env = "FLOODMARK_LATENESS", value_parser = duration::millis)]
    pub lateness: Option<u64>,

    /// Time during which a settled window stays in memory, so that changes of limits apply to it
    ///
    /// Default: 1h for a run. A replay keeps all windows to its end; there this option requires --lateness.
    #[arg(long, value_name = "DURATION", env = "FLOODMARK_RETENTION", value_parser = duration::millis)]
    pub retention: Option<u64>,

    /// Gaps without records up to this long count as silence; longer ones as no observation
    ///
    /// In silence a `min` limit per `total` is judged with an amount of 0. Without observation it is not judged.
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_MAX_GAP",
        default_value = "24h",
        value_parser = duration::secs
    )]
    max_gap: u64,

    /// Count only records from this network; repeated, from any of them
    #[arg(long, value_name = "CIDR", value_parser = network::parse)]
    source: Vec<Prefix>,

    /// Count only records to this network; repeated, to any of them
    #[arg(long, value_name = "CIDR", value_parser = network::parse)]
    destination: Vec<Prefix>,

    /// When to emit updates of violations that are already raised
    #[arg(long, value_enum, env = "FLOODMARK_UPDATES", default_value_t = UpdatesArg::Settled)]
    updates: UpdatesArg,

    /// Rank the N greatest pairs, sources or destinations of each window, by bytes or packets
    #[arg(
        long,
        value_name = "N[,pair|source|destination][,bytes|packets]",
        value_parser = values::top
    )]
    top: Option<TopQuery>,

    /// The format of changes and rankings on standard output
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,

    /// Exit with code 2 if a violation of --limits remains at the end
    #[arg(long)]
    pub fail_on_violation: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UpdatesArg {
    /// Only when the window settles
    Settled,
    /// Also when another version of the limit applies
    Limit,
    /// Also at each tick with a new amount
    Tick,
}

impl Judging {
    /// Returns the options of the computation, with the time at which it emits totals.
    pub fn options(&self, emit_totals: Option<EmitTotals>) -> Options {
        Options {
            windows: Windows {
                width_secs: self.window,
                lateness_ms: self.lateness,
                retention_ms: self.retention,
                max_gap_secs: self.max_gap,
            },
            updates: match self.updates {
                UpdatesArg::Settled => Updates::Settled,
                UpdatesArg::Limit => Updates::Limit,
                UpdatesArg::Tick => Updates::Tick,
            },
            top: self.top,
            emit_totals,
            ..Options::default()
        }
    }

    /// Adds the options that affect the output.
    pub fn add_settings(&self, settings: Settings) -> Result<Settings, Failure> {
        let Judging {
            limits: _,
            what_if: _,
            only_difference,
            strict_limits,
            limit_rows,
            window,
            tick,
            lateness,
            retention,
            max_gap,
            source,
            destination,
            updates,
            top,
            format,
            fail_on_violation,
        } = self;
        let limits = self.limits()?;
        let place = |set| limits.iter().find(|limits| limits.set == set).map(feed::Options::place);
        let secs = |secs: &u64| duration::text(secs.saturating_mul(1000));
        let settings = settings
            .with_leaders("--limits", place(LimitSet::Live))
            .with_leaders("--what-if", place(LimitSet::WhatIf))
            .with_leaders("--only-difference", Given::when(*only_difference))
            .with_leaders("--strict-limits", Given::when(*strict_limits))
            .with_leaders("--fail-on-violation", Given::when(*fail_on_violation))
            .with("--window", secs(window))
            .with("--tick", duration::text(*tick))
            .with_optional("--lateness", lateness.map(duration::text))
            .with_optional("--retention", retention.map(duration::text))
            .with("--max-gap", secs(max_gap))
            .with_optional("--source", values::shown_networks(source))
            .with_optional("--destination", values::shown_networks(destination))
            .with("--updates", values::shown_choice(*updates))
            .with_optional("--top", top.as_ref().map(values::shown_top))
            .with("--format", values::shown_choice(*format));
        Ok(limit_rows.add_settings(settings))
    }

    /// Returns the options of the feed of each set of limits that is given.
    pub fn limits(&self) -> Result<Vec<feed::Options>, Failure> {
        let sets = [(LimitSet::Live, &self.limits), (LimitSet::WhatIf, &self.what_if)];
        let given = sets.into_iter().filter_map(|(set, text)| Some((set, text.as_ref()?)));
        given.map(|(set, text)| Ok(feed::Options { set, ..self.limit_rows.of(text)? })).collect()
    }

    /// Accepts limits with refused rows unless --strict-limits forbids them. Each refusal is a sentence about
    /// one set.
    pub fn accept(&self, refusals: &[String]) -> Result<(), Failure> {
        if !self.strict_limits || refusals.is_empty() {
            return Ok(());
        }
        let error = anyhow!("--strict-limits: {}", refusals.join("; "));
        Err(Failure::new(Exit::BadConfig, error))
    }

    /// Returns an empty catalog for the sets of limits that are given.
    pub fn catalog(&self) -> Catalog {
        if self.what_if.is_some() { Catalog::of_two_sets() } else { Catalog::new() }
    }

    /// The longest gap that is silence, in milliseconds.
    pub fn max_gap_ms(&self) -> u64 {
        self.max_gap.saturating_mul(1000)
    }

    /// Returns the filter of records.
    pub fn filter(&self) -> Filter {
        Filter { sources: self.source.clone(), destinations: self.destination.clone() }
    }
}
