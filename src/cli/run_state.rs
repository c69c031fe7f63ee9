//! The state of a run (`--state`): opens it, and what an earlier run has left in it and in its topics.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::time::{END_OF_INPUT, Windows};
use floodmark_dataflows::types::Prefix;

use crate::base::date::format_ms;
use crate::base::duration;
use crate::base::error::{Exit, Failure};
use crate::base::network;
use crate::kafka::topics::{self, Plan, TopicConfig};
use crate::kafka::{Address, ClientOptions, FencedProducer, TickLog, Topic, TransactionOptions};
use crate::runner::{CheckpointConfig, Recovered, StateConfig};
use crate::sink::{
    Alerts, Content, DeadLetters, PublishedAlerts, Reconciled, RunName, Sink, Totals,
    TransactionalTopics,
};
use crate::source::Filter;
use crate::state::manifest::{self, FORMAT};
use crate::state::{
    Binding, Directory, Manifest, OwnedState, Position, SavedLimits, TickRecord, check_owner,
};

/// The options about the state of a run.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "run_state")]
pub(super) struct RunState {
    /// Keep the state of the run in this directory, and continue from it after any end
    ///
    /// Each record then counts once, and each change is published once to topics, however the run ended. All topics of
    /// --to and --publish must be on one cluster; a topic of that name with -progress at its end has the ticks.
    #[arg(long, value_name = "DIR", env = "FLOODMARK_STATE")]
    pub(super) state: Option<PathBuf>,

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

/// The topics that a run with a state publishes to.
#[derive(Default)]
pub(super) struct PublishedTopics {
    /// The topics of alerts.
    pub(super) alerts: Vec<TopicConfig>,
    /// The topic of totals.
    pub(super) totals: Option<TopicConfig>,
}

impl PublishedTopics {
    fn all(&self) -> impl Iterator<Item = &TopicConfig> {
        self.alerts.iter().chain(&self.totals)
    }

    /// Returns the topic of the records of ticks; `None` if nothing is published to topics.
    ///
    /// # Errors
    /// The topics are on several clusters.
    pub(super) fn log(&self) -> Result<Option<Address>, Failure> {
        let Some(first) = self.all().next().map(|topic| &topic.address) else { return Ok(None) };
        if let Some(other) = self.all().find(|topic| topic.address.brokers != first.brokers) {
            let error = anyhow!(
                "with --state all topics of --to and --publish must be on one cluster, and \"{first}\" and \"{}\" \
                 are not",
                other.address
            );
            return Err(Failure::new(Exit::Usage, error));
        }
        let log = Address { topic: format!("{}-progress", first.topic), ..first.clone() };
        if self.all().any(|topic| topic.address.topic == log.topic) {
            let error = anyhow!(
                "\"{log}\" gets the records of ticks (--state): it can't get changes or totals"
            );
            return Err(Failure::new(Exit::Usage, error));
        }
        Ok(Some(log))
    }
}

/// Everything that opening a state needs.
pub(super) struct Opening<'a> {
    pub(super) options: &'a RunState,
    pub(super) directory: Directory,
    /// The random number of the state.
    pub(super) nonce: String,
    pub(super) path: PathBuf,
    pub(super) run: RunName,
    pub(super) computation: Options,
    pub(super) filter: &'a Filter,
    /// Further options that decide which records count.
    pub(super) bound: Vec<(&'static str, String)>,
    pub(super) topic: &'a Topic,
    pub(super) client: ClientOptions,
    pub(super) topics: PublishedTopics,
    pub(super) create_topic: bool,
    pub(super) dead_letters: Option<DeadLetters>,
}

fn unavailable(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Unavailable, error)
}

impl Opening<'_> {
    /// Claims the state, and reads what an earlier run has left. Returns the sink of the topics, if there are any.
    pub(super) fn open(
        self,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<(StateConfig, Option<Box<dyn Sink + Send>>), Failure> {
        let state = OwnedState::claim(&self.path, self.directory.clone())?;
        let binding = self.binding();
        let checkpoint = match manifest::newest(&**state.store()) {
            Ok(Some(mut found)) => {
                check_binding(state.name(), &found.binding, &binding)?;
                self.check_positions(state.name(), &mut found)?;
                found
            }
            Ok(None) => self.first_checkpoint(&state, &binding)?,
            Err(error) => {
                let why =
                    error.context(format!("reading the state \"{}\" (--state)", state.name()));
                return Err(unavailable(why));
            }
        };
        let log = self.topics.log()?;
        let transactions = log.as_ref().map(|log| self.transactions(log)).transpose()?;
        let mut records: BTreeMap<u64, TickRecord> = BTreeMap::new();
        let mut logged = 0;
        let opened = match (&transactions, &log) {
            (Some(transactions), Some(log)) => {
                let producer = FencedProducer::open(transactions)?;
                // A process that has claimed the state since has ended this producer, too.
                check_owner(&**state.store(), state.incarnation()).map_err(unavailable)?;
                let (log, stored) = TickLog::read(log, &self.client, &self.run_id(), gives_up)?;
                for record in stored {
                    let record: TickRecord = serde_json::from_slice(&record).map_err(|error| {
                        unavailable(anyhow!(error).context(self.unreadable(&log)))
                    })?;
                    logged = logged.max(record.tick);
                    records.insert(record.tick, record);
                }
                Some((producer, log))
            }
            _ => None,
        };
        let last = checkpoint.last_tick();
        let checkpointed = checkpoint.records.iter().map(|record| (record.tick, record.clone()));
        records.extend(checkpointed.clone());
        let mut records = records.split_off(&(checkpoint.tick + 1));
        // If the log is another one, or has lost records, what the checkpoint has is all there is.
        let is_logged = logged >= last && logged > 0 && is_linked(checkpoint.tick, &records);
        if !is_logged {
            if logged > 0 {
                tracing::warn!(
                    "the records of ticks do not continue the checkpoint of the state: the alerts that the topics hold \
                     are compared instead"
                );
            }
            records = checkpointed.collect();
        }
        let durable = if is_logged { logged.max(last) } else { last };
        let records: Vec<TickRecord> = records.into_values().collect();
        tracing::info!(
            state = state.name(),
            checkpoint = checkpoint.tick,
            totals = checkpoint.rows(),
            ticks = records.len(),
            "continuing from the state"
        );
        check_end(state.name(), &checkpoint, &records)?;
        let limits = checkpoint.read_limits(&**state.store()).map_err(unavailable)?;
        let sink = match (opened, &transactions) {
            (Some((producer, log)), Some(transactions)) => {
                let contents = self.contents(&checkpoint, is_logged, gives_up)?;
                let transactions = producer.start(transactions, log, durable)?;
                let dead_letters = self.dead_letters.clone();
                let sink = TransactionalTopics::new(contents, transactions, dead_letters);
                Some(Box::new(sink) as Box<dyn Sink + Send>)
            }
            _ => None,
        };
        let checkpoints = CheckpointConfig {
            state,
            binding,
            interval: Duration::from_millis(self.options.checkpoint_interval),
            last: checkpoint.clone(),
            topics: self.topics.all().map(|topic| topic.address.topic.clone()).collect(),
        };
        let recovered = Recovered { checkpoint, limits, records, durable };
        Ok((StateConfig { recovered, checkpoints }, sink))
    }

    fn unreadable(&self, log: &TickLog) -> String {
        format!("reading the records of ticks in \"{}\"", log.address())
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
        let Windows { width_secs, lateness_ms, retention_ms, max_gap_secs } =
            self.computation.windows;
        let length = |ms: Option<u64>| ms.map_or("unbounded".to_owned(), duration::text);
        let of_windows = [
            ("--window", duration::text(width_secs * 1000)),
            ("--lateness", length(lateness_ms)),
            ("--retention", length(retention_ms)),
            ("--max-gap", duration::text(max_gap_secs.saturating_mul(1000))),
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
            clock: Vec::new(),
            partitions: self.topic.starts().iter().map(position).collect(),
            windows: BTreeMap::new(),
            topics: Vec::new(),
            limits: SavedLimits::default(),
            records: Vec::new(),
        };
        let writing = || format!("writing the state \"{}\" (--state)", state.name());
        let write = || -> anyhow::Result<()> {
            check_owner(&**state.store(), state.incarnation())?;
            Ok(state.store().put(&first.name(), &first.content())?)
        };
        write().with_context(writing).map_err(unavailable)?;
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

    fn transactions<'a>(&'a self, log: &Address) -> Result<TransactionOptions<'a>, Failure> {
        topics::find(log, &self.client, &Plan::records(), self.create_topic)?;
        // No topic has a slash in its name.
        let first = self.topics.all().next().map(|topic| topic.address.topic.clone());
        Ok(TransactionOptions {
            id: format!("floodmark/{}/{}", self.run.group, first.unwrap_or_default()),
            topics: self.topics.all().cloned().collect(),
            log: log.clone(),
            client: &self.client,
        })
    }

    /// Returns the messages of each topic. `is_logged`: the topics have everything up to the last recorded tick.
    fn contents(
        &self,
        checkpoint: &Manifest,
        is_logged: bool,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<Vec<Box<dyn Content + Send>>, Failure> {
        let windows = self.computation.windows;
        let mut contents: Vec<Box<dyn Content + Send>> = Vec::new();
        for topic in &self.topics.alerts {
            let alerts = Alerts::new(windows, Some(self.run.headers()));
            // Any tick of the log was committed to all topics of its time.
            let is_new = checkpoint.tick == 0;
            if is_logged && (is_new || checkpoint.topics.contains(&topic.address.topic)) {
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
        if self.topics.totals.is_some() {
            contents.push(Box::new(Totals::new(windows)));
        }
        Ok(contents)
    }
}

/// Whether records are those of all ticks after a checkpoint.
fn is_linked(checkpoint: u64, records: &BTreeMap<u64, TickRecord>) -> bool {
    let mut before = checkpoint;
    records.values().all(|record| std::mem::replace(&mut before, record.tick) == record.previous)
}

/// Checks that more records can be counted: a run with `--until-end` settles everything.
fn check_end(name: &str, checkpoint: &Manifest, records: &[TickRecord]) -> Result<(), Failure> {
    let marks = records.iter().flat_map(|record| &record.marks).chain(&checkpoint.clock);
    let mut ends = marks.filter(|mark| **mark == SourceProgress::Watermark(END_OF_INPUT));
    match ends.next() {
        None => Ok(()),
        Some(_) => Err(unavailable(anyhow!(
            "the run of the state \"{name}\" (--state) has come to its end by --until-end: all windows are settled, and \
             no record counts any more. To start over, give --state another directory, or remove this one"
        ))),
    }
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
