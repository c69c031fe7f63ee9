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
    /// Without limits only totals and rankings are made.
    #[arg(long, value_name = "FILE|URI", env = "FLOODMARK_LIMITS", hide_env_values = true)]
    limits: Option<String>,

    /// Other limits, judged beside the first: what would be broken if they held
    ///
    /// Each change says of which set it is: "limit_set" is "live" or "what_if". Changes of the second set
    /// go to standard output and to files, never to a topic.
    #[arg(long, value_name = "FILE|URI", env = "FLOODMARK_WHAT_IF", hide_env_values = true)]
    what_if: Option<String>,

    /// Show only in what --limits and --what-if differ
    ///
    /// Shown is what is said of a limit name, window and entity of which only one set has a violation. A
    /// topic still gets all changes of --limits.
    #[arg(long, requires = "what_if")]
    pub only_difference: bool,

    /// End with code 78 if a row of --limits or --what-if is refused when the command starts
    ///
    /// Without it the rows that hold are judged by, and a summary at the end names how many are refused. A
    /// row that is refused later, by an edit, never ends a run.
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

    /// How often what has come in is judged: in event time by a replay, by the clock live
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_TICK",
        default_value = "1s",
        value_parser = duration::positive_millis
    )]
    pub tick: u64,

    /// How long after its end a window still takes records
    ///
    /// Default: live 10m; a replay always, so that a file is counted whole whatever the order of its
    /// packets.
    #[arg(long, value_name = "DURATION", env = "FLOODMARK_LATENESS", value_parser = duration::millis)]
    pub lateness: Option<u64>,

    /// How long a window is held in memory after that
    ///
    /// Default: live 1h; a replay until its end, and it needs --lateness, too.
    #[arg(long, value_name = "DURATION", env = "FLOODMARK_RETENTION", value_parser = duration::millis)]
    pub retention: Option<u64>,

    /// Windows without records, between two with records that are no further apart, are silence; with
    /// more between them nobody was watching
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

    /// Which updates of standing violations to say before their window settles
    #[arg(long, value_enum, env = "FLOODMARK_UPDATES", default_value_t = UpdatesArg::Settled)]
    updates: UpdatesArg,

    /// Rank the N greatest pairs, sources or destinations of each window, by bytes or packets
    #[arg(
        long,
        value_name = "N[,pair|source|destination][,bytes|packets]",
        value_parser = values::top
    )]
    top: Option<TopQuery>,

    /// How to write changes and rankings to standard output
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,

    /// End with code 2 if a violation stands at the end; one of --what-if does not count
    #[arg(long)]
    pub fail_on_violation: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UpdatesArg {
    /// None but the last one, when it settles
    Settled,
    /// Also when another version of the limit judges
    Limit,
    /// That, and each tick with a new amount
    Tick,
}

impl Judging {
    /// Returns the options of the computation, which emits totals when `emit_totals` says.
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

    /// Adds the options that decide about the answer.
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

    /// Accepts limits, of some of which rows are refused, unless --strict-limits forbids that. Each refusal
    /// is a sentence about one set.
    pub fn accept(&self, refusals: &[String]) -> Result<(), Failure> {
        if !self.strict_limits || refusals.is_empty() {
            return Ok(());
        }
        let error = anyhow!("--strict-limits: {}", refusals.join("; "));
        Err(Failure::new(Exit::BadConfig, error))
    }

    /// A catalog for them.
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
