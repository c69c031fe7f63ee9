//! The state of a run (`--state`): opens it, and what an earlier run has left in it and in its topics.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::time::END_OF_INPUT;
use floodmark_dataflows::types::Prefix;

use super::run_lines::{BoxedSink, LineOutputs};
use super::run_topics::{ClusterTopics, Messages, PublishedTopics};
use crate::base::date::format_ms;
use crate::base::duration;
use crate::base::error::{Exit, Failure};
use crate::base::network;
use crate::kafka::topics::{self, Plan};
use crate::kafka::{
    Address, ClientOptions, FencedProducer, ReadTo, TickLog, Topic, TransactionOptions,
};
use crate::runner::{CheckpointConfig, Recovered, StateConfig};
use crate::sink::{
    Alerts, Content, DeadLetters, PublishedAlerts, Reconciled, RunName, Totals,
    TransactionalTopics, UncountedMessages,
};
use crate::source::{Filter, ReadingRules};
use crate::state::manifest::{self, FORMAT};
use crate::state::{
    Binding, History, LineLog, Manifest, OwnedState, Place, Position, SavedLimits, TickRecord,
    check_owner,
};

/// The options about the state of a run.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "run_state")]
pub(super) struct RunState {
    /// Keep the state of the run in this directory or object store, and continue from it after any end
    ///
    /// An object store is s3://BUCKET/PREFIX, with AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on in the
    /// environment.
    ///
    /// Each record then counts once, and each change is published once, however the run ended. On each cluster of --to,
    /// --publish and --dead-letter a topic with the name of the first one and -progress at its end has the ticks.
    #[arg(long, value_name = "DIR|s3://…", env = "FLOODMARK_STATE")]
    pub(super) state: Option<String>,

    /// Time between two checkpoints of the state
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_CHECKPOINT_INTERVAL",
        default_value = "1m",
        value_parser = duration::positive_millis
    )]
    pub(super) checkpoint_interval: u64,

    /// Continue from the state although the topic has lost messages that were not counted
    ///
    /// The windows that lack messages are partial.
    #[arg(long, requires = "state")]
    pub(super) accept_gap: bool,
}

/// A cluster on which the transactions of earlier owners have ended, and what they have logged there.
struct OpenedCluster<'a> {
    topics: &'a ClusterTopics,
    options: TransactionOptions<'a>,
    producer: FencedProducer,
}

/// Everything that opening a state needs.
pub(super) struct Opening<'a> {
    pub(super) options: &'a RunState,
    pub(super) place: Place,
    /// Whether the supervisor has started this run again.
    pub(super) is_restarted: bool,
    /// The random number of the state.
    pub(super) nonce: String,
    pub(super) run: RunName,
    pub(super) computation: Options,
    pub(super) filter: &'a Filter,
    /// Further options that decide which records count.
    pub(super) bound: Vec<(&'static str, String)>,
    /// The rules by which records are read.
    pub(super) rules: ReadingRules,
    pub(super) topic: &'a Topic,
    pub(super) client: ClientOptions,
    pub(super) topics: PublishedTopics,
    /// The outputs that get lines.
    pub(super) lines: LineOutputs<'a>,
    pub(super) create_topic: bool,
    pub(super) dead_letters: Option<DeadLetters>,
}

/// The log of the topics of one cluster.
struct LogOfTopics {
    log: TickLog,
    /// The newest tick that the topics have; `None` if the log does not continue the checkpoint.
    logged: Option<u64>,
    /// Whether the alerts in the topics are to be compared.
    compares: bool,
}

/// Everything that earlier runs have logged since a checkpoint.
struct Logs {
    topics: Vec<LogOfTopics>,
    lines: LineLog,
    /// The newest tick that files and standard output have; `None` if their log does not continue the checkpoint.
    logged_lines: Option<u64>,
    /// The records of all ticks.
    records: Vec<TickRecord>,
    /// The newest tick that a sink has.
    durable: u64,
}

impl Logs {
    /// Whether a sink lacks ticks that another one has.
    fn lack_ticks(&self, has_lines: bool) -> bool {
        let lacks = |logged: Option<u64>| logged.is_some_and(|logged| logged < self.durable);
        has_lines && lacks(self.logged_lines) || self.topics.iter().any(|log| lacks(log.logged))
    }
}

fn unavailable(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Unavailable, error)
}

fn superseded(error: anyhow::Error) -> Failure {
    match error.is::<manifest::Superseded>() {
        true => Failure::new(Exit::Superseded, error),
        false => unavailable(error),
    }
}

impl Opening<'_> {
    /// Claims the state, and reads what an earlier run has left. Returns the sinks that publish.
    pub(super) fn open(
        self,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<(StateConfig, Vec<BoxedSink>), Failure> {
        let state = OwnedState::claim(&self.place, self.is_restarted)?;
        let binding = self.binding();
        let checkpoint = self.checkpoint(&state, &binding)?;
        let clusters = self.topics.clusters()?;
        if self.is_restarted {
            clusters.iter().try_for_each(|topics| self.check_publisher(topics, gives_up))?;
        }
        check_owner(&**state.store(), state.incarnation()).map_err(superseded)?;
        let clusters: Result<Vec<_>, Failure> =
            clusters.iter().map(|topics| self.fence(topics)).collect();
        let clusters = clusters?;
        // A process that has claimed the state since has ended these producers, too.
        check_owner(&**state.store(), state.incarnation()).map_err(superseded)?;
        let logs = self.read_logs(&state, &checkpoint, &clusters, gives_up)?;
        let Logs { records, durable, .. } = &logs;
        tracing::info!(
            state = state.name(),
            checkpoint = checkpoint.tick,
            totals = checkpoint.rows(),
            ticks = records.len(),
            "continuing from the state"
        );
        self.lines.complete(&logs.lines)?;
        let ends = has_end(&checkpoint, records);
        if ends && !logs.lack_ticks(!self.lines.names.is_empty()) {
            return Err(ended(state.name()));
        }
        let limits = checkpoint.read_limits(&**state.store()).map_err(unavailable)?;
        let (records, durable) = (records.clone(), *durable);
        let sinks = self.sinks(&state, &checkpoint, clusters, logs, gives_up)?;
        let checkpoints = CheckpointConfig {
            state,
            binding,
            interval: Duration::from_millis(self.options.checkpoint_interval),
            last: checkpoint.clone(),
        };
        let recovered = Recovered { checkpoint, limits, records, durable, ends };
        let rules = self.rules.clone();
        let outputs = self.output_names();
        Ok((StateConfig { recovered, checkpoints, rules, outputs }, sinks))
    }

    /// Reads everything that earlier runs have logged since the checkpoint.
    fn read_logs(
        &self,
        state: &OwnedState,
        checkpoint: &Manifest,
        clusters: &[OpenedCluster<'_>],
        gives_up: &dyn Fn() -> bool,
    ) -> Result<Logs, Failure> {
        let last = checkpoint.last_tick();
        let mut history = History::new(checkpoint.tick, last, &checkpoint.records);
        let mut topics = Vec::new();
        for OpenedCluster { topics: ClusterTopics { log: address, .. }, .. } in clusters {
            let (client, run, end) = (&self.client, self.run_id(), ReadTo::LastMessage);
            let (log, records) = TickLog::read(address, client, &run, end, gives_up)?;
            let records = parsed(address, &records)?;
            // Alerts of another run since then, and those that this one has held back, are compared.
            let compares =
                log.is_followed() || records.last().is_some_and(|record| record.holds_back);
            let logged = Self::add(&mut history, &address.to_string(), records);
            topics.push(LogOfTopics { log, logged, compares });
        }
        let mut lines = LineLog::read(&**state.store()).map_err(unavailable)?;
        let mut logged_lines =
            Self::add(&mut history, state.name(), std::mem::take(&mut lines.records));
        let records = history.records();
        if records.is_none() {
            tracing::warn!(
                "the records of ticks of several outputs contradict each other: none is used"
            );
            logged_lines = None;
            topics.iter_mut().for_each(|topics| topics.logged = None);
        }
        let had = |logged: &mut Option<u64>| *logged = logged.map(|logged| logged.max(last));
        had(&mut logged_lines);
        topics.iter_mut().for_each(|topics| had(&mut topics.logged));
        let records = records.unwrap_or_else(|| checkpoint.records.clone());
        let durable = records.last().map_or(last, |record| record.tick.max(last));
        Ok(Logs { topics, lines, logged_lines, records, durable })
    }

    /// Opens the sinks that publish, each with the newest tick that it has had.
    fn sinks(
        &self,
        state: &OwnedState,
        checkpoint: &Manifest,
        clusters: Vec<OpenedCluster<'_>>,
        logs: Logs,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<Vec<BoxedSink>, Failure> {
        let Logs { topics, lines, logged_lines, records, durable } = logs;
        let mut sinks = Vec::<BoxedSink>::new();
        let had = logged_lines.unwrap_or(durable);
        let known = checkpoint.outputs_at(had, &records);
        let is_new = |name: &str| !known.iter().any(|output| output == name);
        // Before the first tick of files nothing stands: they get all ticks.
        if had > 0 {
            self.lines.check_new(&is_new)?;
        }
        sinks.extend(self.lines.open(state, lines, had, &is_new)?);
        for (cluster, LogOfTopics { log, logged, compares }) in clusters.into_iter().zip(topics) {
            let is_logged = logged > Some(0) && !compares;
            let had = logged.unwrap_or(durable);
            let known = is_logged.then(|| checkpoint.outputs_at(had, &records));
            let contents = self.contents(cluster.topics, checkpoint, known, gives_up)?;
            let transactions = cluster.producer.start(&cluster.options, log, had)?;
            let dead_letters = self.dead_letters.clone();
            sinks.push(Box::new(TransactionalTopics::new(contents, transactions, dead_letters)));
        }
        Ok(sinks)
    }

    /// Returns the checkpoint to continue from; of a new state, the one from before the first tick.
    fn checkpoint(&self, state: &OwnedState, binding: &Binding) -> Result<Manifest, Failure> {
        match manifest::newest(&**state.store()) {
            Ok(Some(mut found)) => {
                check_binding(state.name(), &found.binding, binding)?;
                self.check_positions(state.name(), &mut found)?;
                Ok(found)
            }
            Ok(None) => self.first_checkpoint(state, binding),
            Err(error) => {
                let why =
                    error.context(format!("reading the state \"{}\" (--state)", state.name()));
                Err(unavailable(why))
            }
        }
    }

    /// Checks that no run with another state publishes in the place of this one, which was only started again.
    fn check_publisher(
        &self,
        topics: &ClusterTopics,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<(), Failure> {
        topics::find(&topics.log, &self.client, &Plan::records(), self.create_topic)?;
        // The transaction of the process before may be open until this one ends it.
        let end = ReadTo::Stable;
        let (log, _) = TickLog::read(&topics.log, &self.client, &self.run_id(), end, gives_up)?;
        if !log.is_replaced() {
            return Ok(());
        }
        let error = anyhow!(
            "a run with another state publishes as --group {} by \"{}\", so this one is not started again (--restart)",
            self.run.group,
            topics.log
        );
        Err(Failure::new(Exit::Superseded, error))
    }

    /// Ends the transactions of earlier owners on a cluster.
    fn fence<'a>(&'a self, topics: &'a ClusterTopics) -> Result<OpenedCluster<'a>, Failure> {
        topics::find(&topics.log, &self.client, &Plan::records(), self.create_topic)?;
        // No topic has a slash in its name.
        let first = topics.configs().next().map_or("", |topic| &topic.address.topic);
        let options = TransactionOptions {
            id: format!("floodmark/{}/{first}", self.run.group),
            topics: topics.with_refusals(),
            log: topics.log.clone(),
            client: &self.client,
        };
        let producer = FencedProducer::open(&options)?;
        Ok(OpenedCluster { topics, options, producer })
    }

    /// Adds the records of a log. Returns its last tick if it continues the checkpoint.
    fn add(history: &mut History, name: &str, records: Vec<TickRecord>) -> Option<u64> {
        let is_empty = records.is_empty();
        let last = history.add(records);
        if last.is_none() && !is_empty {
            tracing::warn!(
                log = name,
                "the records of ticks do not continue the checkpoint of the state: the alerts that its topics hold are \
                 compared instead; files and standard output go on"
            );
        }
        last
    }

    /// The names of all outputs.
    fn output_names(&self) -> Vec<String> {
        let topics = self.topics.all().map(|(topic, _)| topic.address.to_string());
        topics.chain(self.lines.logged_names()).collect()
    }

    /// The name of the records of this state: a run that starts over has others.
    fn run_id(&self) -> String {
        format!("{}/{}", self.run.group, self.nonce)
    }

    fn binding(&self) -> Binding {
        let texts = |prefixes: &[Prefix]| {
            let mut texts: Vec<String> =
                prefixes.iter().map(|prefix| network::text(*prefix)).collect();
            texts.sort();
            if texts.is_empty() { "any".to_owned() } else { texts.join(", ") }
        };
        let of_windows = [
            ("--window", duration::text(self.computation.windows.width_secs * 1000)),
            ("--source", texts(&self.filter.sources)),
            ("--destination", texts(&self.filter.destinations)),
        ];
        let options = of_windows.into_iter().chain(self.bound.clone());
        Binding {
            topic: self.topic.address().topic.clone(),
            topic_id: self.topic.id(),
            options: options.map(|(option, value)| (option.to_owned(), value)).collect(),
        }
    }

    /// Writes the checkpoint of a run that is the first one with its state.
    fn first_checkpoint(&self, state: &OwnedState, binding: &Binding) -> Result<Manifest, Failure> {
        let position = |(partition, start): (&i32, &i64)| {
            let (offset, is_truncated) = (start.unsigned_abs(), *start > 0);
            (partition.unsigned_abs(), Position { offset, reached: None, is_truncated })
        };
        let first = Manifest {
            format: FORMAT,
            binding: binding.clone(),
            incarnation: state.incarnation(),
            sequence: 0,
            tick: 0,
            time: None,
            rules: None,
            clock: Vec::new(),
            partitions: self.topic.starts().iter().map(position).collect(),
            windows: BTreeMap::new(),
            outputs: Vec::new(),
            limits: SavedLimits::default(),
            records: Vec::new(),
        };
        let writing = || format!("writing the state \"{}\" (--state)", state.name());
        let write = || -> anyhow::Result<()> {
            check_owner(&**state.store(), state.incarnation())?;
            Ok(state.store().put(&first.name(), &first.content())?)
        };
        write().map_err(|error| superseded(error.context(writing())))?;
        Ok(first)
    }

    /// Checks that the topic still has the messages from the positions of a checkpoint on. With `--accept-gap`, moves
    /// positions to the first message that is there; the windows that lack messages are partial then.
    fn check_positions(&self, name: &str, checkpoint: &mut Manifest) -> Result<(), Failure> {
        let address = self.topic.address();
        for (partition, position) in &mut checkpoint.partitions {
            let number = i32::try_from(*partition).unwrap_or(i32::MAX);
            let Some((first, end)) = self.topic.range(number) else { continue };
            let next = i64::try_from(position.offset).unwrap_or(i64::MAX);
            if next > end {
                return Err(unavailable(anyhow!(
                    "partition {partition} of \"{address}\" ends at offset {end}, and the state \"{name}\" continues at \
                     {next}: it is not the topic that the state was made with. To start over, give --state another \
                     directory, or remove this one"
                )));
            }
            if next >= first {
                continue;
            }
            let read_to = position.reached.map_or("nothing was read".to_owned(), |reached| {
                format!("the event time {} was read", format_ms(reached))
            });
            let gap = format!(
                "{} messages of partition {partition} of \"{address}\" are gone: the state \"{name}\" continues at \
                 offset {next}, where {read_to}, and the partition has {first} to {end}",
                first - next
            );
            if !self.options.accept_gap {
                return Err(unavailable(anyhow!(
                    "{gap}. To go on without them, give --accept-gap: the windows that lack messages are partial; to start \
                     over, give --state another directory, or remove this one"
                )));
            }
            tracing::warn!(
                "{gap} (--accept-gap): windows up to that of the first message there are partial"
            );
            (position.offset, position.is_truncated) = (first.unsigned_abs(), true);
        }
        Ok(())
    }

    /// Returns the messages of each topic of a cluster. `known`: the outputs that have had all ticks up to the last one
    /// that is logged there; `None` if nothing is.
    fn contents(
        &self,
        topics: &ClusterTopics,
        checkpoint: &Manifest,
        known: Option<Vec<String>>,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<Vec<Box<dyn Content + Send>>, Failure> {
        let windows = self.computation.windows;
        let mut contents: Vec<Box<dyn Content + Send>> = Vec::new();
        for (topic, messages) in &topics.topics {
            match messages {
                Messages::Alerts => {}
                Messages::Totals => {
                    contents.push(Box::new(Totals::new(windows)));
                    continue;
                }
                Messages::Uncounted => {
                    contents.push(Box::new(UncountedMessages));
                    continue;
                }
            }
            let alerts = Alerts::new(windows, Some(self.run.headers()));
            // Any tick of the log was committed to all topics of its time.
            let is_new = checkpoint.tick == 0;
            let name = topic.address.to_string();
            if known.as_ref().is_some_and(|known| known.contains(&name)) {
                contents.push(Box::new(alerts));
                continue;
            }
            let published =
                PublishedAlerts::read(&topic.address, &self.client, &self.run, gives_up)?;
            contents.push(match published.is_restart() || !is_new {
                true => {
                    let updates = self.computation.updates;
                    Box::new(Reconciled::new(alerts, windows, updates, published))
                }
                false => Box::new(alerts),
            });
        }
        Ok(contents)
    }
}

/// Reads the records of a topic.
fn parsed(log: &Address, records: &[Vec<u8>]) -> Result<Vec<TickRecord>, Failure> {
    let parse = |record: &Vec<u8>| serde_json::from_slice(record);
    let parsed: Result<Vec<_>, _> = records.iter().map(parse).collect();
    parsed
        .with_context(|| format!("reading the records of ticks in \"{log}\""))
        .map_err(unavailable)
}

/// Whether the earlier run has come to the end of its input: it has settled everything.
fn has_end(checkpoint: &Manifest, records: &[TickRecord]) -> bool {
    let mut marks = records.iter().flat_map(|record| &record.marks).chain(&checkpoint.clock);
    marks.any(|mark| *mark == SourceProgress::Watermark(END_OF_INPUT))
}

fn ended(name: &str) -> Failure {
    unavailable(anyhow!(
        "the run of the state \"{name}\" (--state) has come to its end by --until-end: all windows are settled, and no \
         record counts any more. To start over, give --state another directory, or remove this one"
    ))
}

/// Checks that a state was made with the same input, and the same options about it.
fn check_binding(name: &str, made: &Binding, given: &Binding) -> Result<(), Failure> {
    let mut pairs = vec![("--from (its topic)", made.topic.clone(), given.topic.clone())];
    if let (Some(made), Some(given)) = (&made.topic_id, &given.topic_id) {
        pairs.push(("--from (the id of its topic)", made.clone(), given.clone()));
    }
    for (option, given) in &given.options {
        let made = made.options.get(option).unwrap_or(given);
        pairs.push((option, made.clone(), given.clone()));
    }
    let Some((option, made, given)) = pairs.into_iter().find(|(_, made, given)| made != given)
    else {
        return Ok(());
    };
    Err(unavailable(anyhow!(
        "the state \"{name}\" (--state) was made with {option} {made}, and this run has {given}: its totals would mean \
         something else. Start with {option} {made}, or give --state another directory"
    )))
}
