//! `floodmark run`: judges the records of a topic as they arrive.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

use anyhow::anyhow;
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::reads::EmitTotals;
use floodmark_dataflows::time::Windows;

use super::cluster::{Restart, Stall};
use super::judging::Judging;
use super::run_lines::LineOutputs;
use super::run_outputs::{OutputArgs, topic};
use super::run_state::{Opening, RunState};
use super::run_topics::{PublishedTopics, check_input};
use super::source::{Reading, shown_start, start};
use super::values;
use crate::base::date::format_ms;
use crate::base::duration;
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::{Interrupt, Messages};
use crate::cluster::{self, Cluster, Given, Settings, watchdog};
use crate::kafka::topics::{self, Plan};
use crate::kafka::{Address, BufferedProducer, ResumePosition, Start, Topic};
use crate::limits::catalog::Catalog;
use crate::limits::feed;
use crate::runner::{
    self, Job, LeaderConfig, Limits, OpenLead, ResumePlan, Shared, Sources, Status, SteadyClock,
    UnreadLimits, WallTime,
};
use crate::sink::{
    Alerts, Counts, DeadLetters, Hub, OnlyDifference, PublishedAlerts, Reconciled, RunName, Sink,
    StateTopic, Totals,
};
use crate::source::topic::DeadLetterOutput;
use crate::source::{self, Filter, Partitions, ReadingRules};
use crate::state::{Identity, Place, Position};

/// The options of `floodmark run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The topic to read records from: kafka://HOST:PORT,…/TOPIC
    #[arg(long, value_name = "URI", env = "FLOODMARK_FROM")]
    from: Address,

    #[command(flatten)]
    outputs: OutputArgs,

    #[command(flatten)]
    judging: Judging,

    /// Read the limits only at this interval
    ///
    /// Default: read the limits as soon as they change.
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_LIMITS_REFRESH",
        value_parser = duration::positive_millis
    )]
    limits_refresh: Option<u64>,

    /// The position to start reading at: earliest, latest, or the first message at or after a time
    #[arg(
        long,
        value_name = "earliest|latest|TIME",
        env = "FLOODMARK_FROM_OFFSET",
        default_value = "earliest",
        value_parser = start
    )]
    from_offset: Start,

    /// Stop when all that the topic holds at the start is judged, and all its windows are settled
    ///
    /// Messages that arrive while the run reads may be judged, too. Without this option the run goes on until it is
    /// stopped.
    #[arg(long)]
    until_end: bool,

    /// The consumer group whose offsets are committed, so that monitoring can show its lag
    #[arg(long, value_name = "NAME", env = "FLOODMARK_GROUP", default_value = "floodmark")]
    group: String,

    /// Reject records with a time more than this ahead of the clock
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_MAX_AHEAD",
        default_value = "5m",
        value_parser = duration::millis
    )]
    max_ahead: u64,

    /// Reject records with a time more than this behind the latest time of their partition
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_MAX_BEHIND",
        default_value = "7d",
        value_parser = duration::positive_millis
    )]
    max_behind: u64,

    #[command(flatten)]
    reading: Reading,

    #[command(flatten)]
    run_state: RunState,

    #[command(flatten)]
    cluster: super::cluster::Args,

    #[command(flatten)]
    stall: Stall,

    #[command(flatten)]
    restart: Restart,

    #[command(flatten)]
    http: super::http::Args,

    #[command(flatten)]
    log: super::logging::Args,
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

impl Args {
    fn run_name(&self, windows: Windows) -> RunName {
        RunName { group: self.group.clone(), windows, input: self.from.topic.clone() }
    }

    fn refresh(&self) -> Option<Duration> {
        self.limits_refresh.map(Duration::from_millis)
    }

    /// The rules by which records are read.
    fn rules(&self) -> ReadingRules {
        ReadingRules {
            max_ahead_ms: self.max_ahead,
            max_behind_ms: self.max_behind,
            input_timezone: values::shown_zone(&self.reading.input_timezone),
        }
    }

    /// The settings that all processes must have in common, with the id and isolation level of the topic.
    pub(super) fn settings(
        &self,
        topic_id: Option<String>,
        isolation: &str,
        state_nonce: Option<String>,
    ) -> Result<Settings, Failure> {
        let Args {
            from,
            outputs: OutputArgs { to: _, detach_after: _, publish, create_topic: _ },
            judging,
            limits_refresh,
            from_offset,
            until_end,
            group,
            max_ahead,
            max_behind,
            reading,
            run_state,
            cluster: _,
            stall: _,
            restart: _,
            http: _,
            log: _,
        } = self;
        let settings = Settings::of("run")
            .with("--from", from.sorted())
            .with_known("id of the topic of --from", topic_id)
            .with("--from-offset", shown_start(*from_offset))
            .with("--group", group)
            .with("-X isolation.level", isolation)
            .with("--max-ahead", duration::text(*max_ahead))
            .with("--max-behind", duration::text(*max_behind))
            .with_optional("--publish", Given::when(publish.is_some()))
            .with_optional("--state", Given::when(run_state.state.is_some()))
            .with_known("the nonce of --state", state_nonce)
            .with_leaders("--accept-gap", Given::when(run_state.accept_gap))
            .with_leaders(
                "--checkpoint-interval",
                run_state.state.as_ref().map(|_| duration::text(run_state.checkpoint_interval)),
            )
            .with_leaders("--until-end", Given::when(*until_end))
            .with_leaders("--limits-refresh", limits_refresh.map(duration::text));
        judging.add_settings(reading.add_settings(settings))
    }

    /// Rejects outputs that would be read again as input, or lost.
    fn check(&self) -> Result<(), Failure> {
        let named = |address: &Option<Address>| address.as_ref().map(ToString::to_string);
        let mut places: Vec<(&str, String)> = vec![("--from", self.from.to_string())];
        for to in &self.outputs.to {
            // One topic may be written in several places.
            let topic = topic(to).transpose()?;
            places.push(("--to", topic.map_or_else(|| to.clone(), |topic| topic.to_string())));
        }
        places.extend(named(&self.outputs.publish).map(|to| ("--publish", to)));
        places.extend(named(&self.reading.dead_letter).map(|to| ("--dead-letter", to)));
        for (at, (option, place)) in places.iter().enumerate() {
            if let Some((first, _)) = places[..at].iter().find(|(_, other)| other == place) {
                let why = match *first {
                    "--from" => "the run would read its own output, for ever",
                    _ => "each output needs a place of its own",
                };
                return Err(usage(anyhow!("{first} and {option} are both \"{place}\": {why}")));
            }
        }
        if self.run_state.state.is_some() {
            let alerts = self.outputs.topics()?;
            let others = self.outputs.publish.iter().chain(&self.reading.dead_letter);
            check_input(&self.from, alerts.iter().chain(others))?;
        }
        let writes_topics = self.outputs.write_topics() || self.reading.dead_letter.is_some();
        if self.outputs.create_topic && !writes_topics {
            return Err(usage(anyhow!(
                "--create-topic needs --to, --publish or --dead-letter kafka://…"
            )));
        }
        if self.restart.restart
            && self.from_offset == Start::Latest
            && self.run_state.state.is_none()
        {
            return Err(usage(anyhow!(
                "--restart with --from-offset latest would skip messages that arrive before the \
                 restart: give --state a directory, or --from-offset a time, such as {}",
                format_ms(runner::wall_ms())
            )));
        }
        Ok(())
    }
}

/// Runs `floodmark run`.
pub fn run(args: &Args) -> Outcome {
    let mut args = args.clone();
    args.judging.lateness.get_or_insert(runner::LATENESS_MS);
    args.judging.retention.get_or_insert(runner::RETENTION_MS);
    args.outputs.complete();
    args.check()?;
    args.log.start();
    cluster::launch(&args.cluster.plan_with(args.restart), |cluster| process(&args, cluster))
}

/// One process of a run.
fn process(args: &Args, cluster: Cluster) -> Outcome {
    let leads = cluster.process == 0;
    // The first process handles the interrupt, and ends the others.
    let follows = cluster.supervised && !leads;
    if follows {
        Interrupt::ignore()?;
    }
    let tick = Duration::from_millis(args.judging.tick);
    let status = Arc::new(Status::new(cluster.workers, tick).of_process(cluster.process));
    // Serve before anything is counted, and before waiting for a broker.
    let above = if cluster.supervised { cluster.process } else { 0 };
    let _server = args.http.serve(above, status.clone())?;
    let reading = args.reading.source(args.from_offset, &args.group);
    let topic = Arc::new(Topic::open(&args.from, &args.reading.kafka.client(), reading)?);
    let state = args.run_state.state.as_deref().map(opened_state).transpose()?;
    let nonce = state.as_ref().map(|(_, identity)| identity.nonce.clone());
    let settings = args.settings(topic.id(), topic.isolation(), nonce)?;
    let watch = watchdog::start(args.stall.timeout())?;
    status.set_topic(topic.clone(), watch.clone());
    let options = args.judging.options(args.outputs.publish.as_ref().map(|_| EmitTotals::OnSettle));
    let restarted = cluster.restarted;
    let lead = leads.then(|| lead(args, options.windows, &status, restarted)).transpose()?;
    let interrupt = if follows { Interrupt::default() } else { Interrupt::listen()? };
    let has_state = state.is_some();
    let source = source::topic::Options {
        topic: topic.clone(),
        windows: options.windows,
        filter: args.judging.filter(),
        rules: args.rules(),
        tick,
        dead_letters: match args.reading.dead_letters(args.outputs.create_topic) {
            None => DeadLetterOutput::None,
            Some(_) if has_state => DeadLetterOutput::OfTick,
            Some(open) => DeadLetterOutput::Sent(open),
        },
    };
    let shared = Shared {
        options,
        has_dead_letters: has_state && args.reading.dead_letter.is_some(),
        filter: args.judging.filter(),
        status: Some(status),
        interrupt: interrupt.clone(),
        watch: Some(watch),
        state: state.as_ref().map(|(place, _)| place.store().clone()),
    };
    let mut waiting = cluster::unless_interrupted(&interrupt);
    let sources = Sources::each(move |worker, workers, plan: Option<&ResumePlan>| {
        Partitions::open(&source, worker, workers, plan.map(resumed))
    });
    let later = Later {
        args: args.clone(),
        options,
        interrupt: interrupt.clone(),
        topic,
        state,
        is_restarted: restarted,
    };
    let lead = lead.map(|lead| lead.open_later(later));
    let job = Job { shared, sources, lead };
    let ended = runner::execute(cluster, &settings, &Messages::new(), &mut waiting, job)?;
    let Some(ended) = ended else { return Ok(Exit::Done) };
    let left_out = if args.until_end && ended.is_complete { ended.left_out } else { 0 };
    let exit = ended.outcome(args.judging.fail_on_violation)?;
    if left_out > 0 {
        let text = format!(
            "{left_out} messages are not judged: they are behind a transaction that has been open for longer \
             than --max-transaction"
        );
        if !args.reading.skip_open_transactions {
            return Err(Failure::new(Exit::Failed, anyhow!("{text}; the error above names it")));
        }
        tracing::warn!(left_out, "{text}");
    }
    Ok(exit)
}

/// Everything the leader needs, but for the sinks of alerts, whose topics are read first, and of dead letters.
struct Lead {
    config: LeaderConfig<'static>,
    unread: Vec<UnreadLimits>,
    alert_topics: Vec<BufferedProducer>,
    dead_letters: Option<DeadLetters>,
    /// The topics of a run with a state.
    published: PublishedTopics,
}

/// Everything that opening the topics of alerts, or the state, needs.
struct Later {
    args: Args,
    options: Options,
    interrupt: Interrupt,
    topic: Arc<Topic>,
    state: Option<(Place, Identity)>,
    is_restarted: bool,
}

impl Later {
    fn opening<'a>(
        &'a self,
        filter: &'a Filter,
        topics: PublishedTopics,
        lines: LineOutputs<'a>,
        dead_letters: Option<DeadLetters>,
    ) -> Option<Opening<'a>> {
        let Later { args, options, topic, state, .. } = self;
        let (place, identity) = state.clone()?;
        Some(Opening {
            options: &args.run_state,
            place,
            is_restarted: self.is_restarted,
            nonce: identity.nonce,
            run: args.run_name(options.windows),
            computation: *options,
            filter,
            bound: vec![
                ("-X isolation.level", topic.isolation().to_owned()),
                ("--skip-open-transactions", args.reading.skip_open_transactions.to_string()),
            ],
            rules: args.rules(),
            topic,
            client: args.reading.kafka.client(),
            topics,
            lines,
            create_topic: args.outputs.create_topic,
            dead_letters,
        })
    }
}

impl Lead {
    /// Opens the state, or the topics of alerts, when the processes have met: nobody waits for this one for so long.
    fn open_later(self, later: Later) -> OpenLead {
        Box::new(move || {
            let Lead { mut config, unread, alert_topics, dead_letters, published } = self;
            let Later { args, options, interrupt, .. } = &later;
            let filter = args.judging.filter();
            let windows = options.windows;
            let open_lines =
                || args.outputs.open_lines(args.judging.format, windows, &config.catalog);
            let line_outputs = LineOutputs {
                names: args.outputs.lines().map(ToOwned::to_owned).collect(),
                open: &open_lines,
                only_difference: args.judging.only_difference,
            };
            if let Some(opening) =
                later.opening(&filter, published, line_outputs, dead_letters.clone())
            {
                let (state, sinks) = opening.open(&|| interrupt.pressed())?;
                for unread in unread {
                    config.limits.push(unread.follow(&state.recovered, &config.leader)?);
                }
                config.state = Some(state);
                sinks.into_iter().for_each(|sink| config.hub.add(sink));
            }
            for producer in alert_topics {
                let alerts = alerts(args, *options, producer, dead_letters.clone(), interrupt)?;
                config.hub.add(alerts);
            }
            // The last sink: the others send it what their brokers refuse.
            if let Some(dead_letters) = dead_letters {
                config.hub.add(Box::new(dead_letters));
            }
            Ok(config)
        })
    }
}

/// Opens everything the leader needs. `restarted`: the supervisor has restarted the processes of this run.
fn lead(args: &Args, windows: Windows, status: &Status, restarted: bool) -> Result<Lead, Failure> {
    let leader = Arc::new(OnceLock::<Thread>::new());
    let (mut limits, mut unread) = (Vec::new(), Vec::new());
    for options in args.judging.limits()? {
        let options = feed::Options { refresh: args.refresh(), ..options };
        match Limits::follow(&options, &leader) {
            Ok(followed) => limits.push(followed),
            // The state may have them.
            Err(why) if args.run_state.state.is_some() => {
                unread.push(UnreadLimits::new(&options, why)?);
            }
            Err(why) => return Err(why),
        }
    }
    // Only at the first start: since then an edit may have added a refused row, which never ends a run.
    if !restarted {
        let refusals = limits.iter().filter_map(|limits| limits.health.refusal());
        args.judging.accept(&refusals.collect::<Vec<_>>())?;
    }
    let read = limits.iter().map(|limits| (limits.set, limits.health.clone()));
    status.set_leading(read.chain(unread.iter().map(UnreadLimits::health)).collect());
    let catalog = args.judging.catalog();
    let Outputs { hub, alert_topics, dead_letters, published } = outputs(args, windows, &catalog)?;
    let config = LeaderConfig {
        limits,
        queries: Some(status.accept_queries(&leader)),
        final_query: None,
        leader,
        hub,
        catalog,
        state: None,
        time: Box::new(
            WallTime::new(
                Box::new(SteadyClock::new(args.reading.idle_timeout)),
                Duration::from_millis(args.judging.tick),
                args.from_offset,
                args.max_ahead,
            )
            .ending_with_input(args.until_end),
        ),
    };
    Ok(Lead { config, unread, alert_topics, dead_letters, published })
}

/// Opens a topic of alerts. One that holds alerts of this run from before a restart gets only what differs from these.
fn alerts(
    args: &Args,
    Options { windows, updates, .. }: Options,
    producer: BufferedProducer,
    dead_letters: Option<DeadLetters>,
    interrupt: &Interrupt,
) -> Result<Box<dyn Sink + Send>, Failure> {
    let run = args.run_name(windows);
    let (address, client) = (producer.address(), args.reading.kafka.client());
    let published = PublishedAlerts::read(address, &client, &run, &|| interrupt.pressed())?;
    let alerts = Alerts::new(windows, Some(run.headers()));
    if !published.is_restart() {
        return Ok(Box::new(StateTopic::new(alerts, producer, dead_letters)));
    }
    tracing::info!(
        topic = producer.address().topic,
        violations = published.len(),
        "the topic holds alerts of this run from before a restart: changes are held back until the input \
         that is there now is judged, and only differences are published"
    );
    let reconciled = Reconciled::new(alerts, windows, updates, published);
    Ok(Box::new(StateTopic::new(reconciled, producer, dead_letters)))
}

/// Everything that a run writes to. The topics of alerts and of dead letters are no sinks yet.
struct Outputs {
    hub: Hub<'static>,
    alert_topics: Vec<BufferedProducer>,
    dead_letters: Option<DeadLetters>,
    /// The topics of a run with a state, which are opened with it.
    published: PublishedTopics,
}

/// Opens everything that a run writes to.
fn outputs(args: &Args, windows: Windows, catalog: &Catalog) -> Result<Outputs, Failure> {
    let outputs = &args.outputs;
    let kafka = &args.reading.kafka.client();
    let mut alert_topics = Vec::new();
    let mut published = PublishedTopics::default();
    let has_state = args.run_state.state.is_some();
    for address in outputs.topics()? {
        match has_state {
            true => published.alerts.push(outputs.describe_topic(&address, kafka)?),
            false => alert_topics.push(outputs.open_topic(&address, kafka)?),
        }
    }
    let to_publish = outputs.publish.as_ref();
    let with_state = to_publish.filter(|_| has_state);
    published.totals = with_state.map(|to| outputs.describe_topic(to, kafka)).transpose()?;
    let with_state = args.reading.dead_letter.as_ref().filter(|_| has_state);
    let describe = |address: &Address| {
        topics::find(address, kafka, &Plan::dead_letters(), outputs.create_topic)?;
        topics::try_describe(address, kafka)
    };
    published.dead_letters = with_state.map(describe).transpose()?;
    published.clusters()?;
    let without = to_publish.filter(|_| !has_state);
    let totals = without.map(|to| outputs.open_topic(to, kafka)).transpose()?;
    if catalog.sets().len() > 1 && outputs.lines().next().is_none() {
        tracing::warn!("output of --what-if goes to no topic: give --to a file, or -, to see it");
    }
    let dead_letters = args.reading.dead_letters(outputs.create_topic);
    let dead_letters = dead_letters.filter(|_| outputs.write_topics());
    let dead_letters = dead_letters.map(|open| open()).transpose()?.map(DeadLetters::new);
    let mut sinks: Vec<Box<dyn Sink + Send>> = Vec::new();
    if let Some(producer) = totals {
        let totals = Totals::new(windows);
        sinks.push(Box::new(StateTopic::new(totals, producer, dead_letters.clone())));
    }
    // Those of a run with a state are opened with it.
    let streams = if has_state {
        Vec::new()
    } else {
        outputs.open_lines(args.judging.format, windows, catalog)?
    };
    if args.judging.only_difference && !has_state {
        sinks.push(Box::new(OnlyDifference::new(streams)));
    } else {
        sinks.extend(streams.into_iter().map(|stream| Box::new(stream) as Box<_>));
    }
    let hub = Hub::new(Counts::new(catalog.sets()), sinks);
    Ok(Outputs { hub, alert_topics, dead_letters, published })
}

/// Opens the place of a state, and reads or makes its identity.
fn opened_state(name: &str) -> Result<(Place, Identity), Failure> {
    let place = Place::open(name)?;
    let identity = place.make_identity()?;
    Ok((place, identity))
}

/// Returns the positions at which an earlier run has left the partitions.
fn resumed(plan: &ResumePlan) -> BTreeMap<i32, ResumePosition> {
    let position = |(partition, position): (&u32, &Position)| {
        let Position { offset, reached, is_truncated } = *position;
        let next = i64::try_from(offset).unwrap_or(i64::MAX);
        let partition = i32::try_from(*partition).unwrap_or(i32::MAX);
        (partition, ResumePosition { next, reached, is_truncated, is_first: plan.is_first })
    };
    plan.positions.iter().map(position).collect()
}
