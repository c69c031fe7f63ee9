//! `floodmark replay`: judges recorded traffic in event time.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::reads::EmitTotals;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::Volume;

use super::cluster::Stall;
use super::judging::Judging;
use super::records::Records;
use super::source;
use crate::base::bucket;
use crate::base::date::format_ms;
use crate::base::descriptors;
use crate::base::duration;
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::{Interrupt, Messages};
use crate::capture::Tally;
use crate::cluster::{self, Cluster, Given, Settings, watchdog};
use crate::files;
use crate::kafka::{Address, BoundedTopic, SCHEME, Start, Until};
use crate::limits::catalog::Catalog;
use crate::limits::{Address as LimitsAddress, feed};
use crate::output::WriteError;
use crate::runner::{self, Ended, EventTime, Job, LeaderConfig, OpenLead, Shared, Sources};
use crate::sink::{ChangesFile, Counts, Hub, OnlyDifference, OverflowWarnings, Sink, TotalsFile};
use crate::source::Recorded;
use crate::source::recorded::{End, Inputs, Summary, TickRules};

/// The options of `floodmark replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The records: captures (pcap, pcapng), CSV, texts with a message a line, these also in gzip or zstd, Parquet
    /// files, or topics as kafka://HOST:PORT,…/TOPIC; `-` is standard input
    ///
    /// A directory stands for all files in it, and a pattern in quotes for those that match. s3://BUCKET/KEY is an
    /// object, a folder of objects, or a pattern.
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<OsString>,

    /// The first message to read of each partition of a topic: earliest, a time, or an offset
    ///
    /// Default: earliest. A time is that of messages, which may differ from the event time of their records.
    #[arg(long, value_name = "earliest|TIME|N", value_parser = source::start_or_offset)]
    from_offset: Option<Start>,

    /// The message of each partition of a topic to stop before: latest, a time, or an offset
    ///
    /// Default: latest, the end that the partition has at the start. Messages behind a transaction that is open
    /// then are left out, and their number is reported.
    #[arg(long, value_name = "latest|TIME|N", value_parser = source::until)]
    to_offset: Option<Until>,

    #[command(flatten)]
    records: Records,

    #[command(flatten)]
    kafka: super::kafka::Args,

    #[command(flatten)]
    judging: Judging,

    /// Drop a record that is more than this ahead of the next record of its file or partition
    ///
    /// Dropped records are counted and reported. A jump in time that the next record confirms is accepted, and
    /// so is the last record of a file or partition. Default: the value of --max-gap.
    #[arg(long, value_name = "DURATION", value_parser = duration::millis)]
    max_ahead: Option<u64>,

    /// Write the totals of all pairs and windows, as CSV; `-` is standard output
    #[arg(long, value_name = "FILE.csv")]
    totals: Option<PathBuf>,

    /// Write the changes to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    changes: Option<PathBuf>,

    #[command(flatten)]
    cluster: super::cluster::Args,

    #[command(flatten)]
    stall: Stall,
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

impl Args {
    fn check(&self) -> Result<(), Failure> {
        if self.judging.retention.is_some() && self.judging.lateness.is_none() {
            return Err(usage(anyhow!(
                "--retention starts when a window settles, and without --lateness no window \
                 settles before the end: give both, or neither"
            )));
        }
        self.inputs()?;
        self.records.check()?;
        if self.totals.as_deref() == Some(Path::new("-"))
            && self.changes.as_deref().is_none_or(|changes| changes == Path::new("-"))
        {
            return Err(usage(anyhow!(
                "--totals - writes the totals to standard output: give --changes FILE for the \
                 changes"
            )));
        }
        let stdin = |limits: &&feed::Options| limits.address == LimitsAddress::file("-");
        if self.judging.limits()?.iter().filter(stdin).count() > 1 {
            return Err(usage(anyhow!(
                "--limits and --what-if are both standard input: give one of them as a file"
            )));
        }
        Ok(())
    }

    /// The settings that all processes must have in common.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        let Args {
            inputs,
            from_offset,
            to_offset,
            records,
            kafka: _,
            judging,
            max_ahead,
            totals,
            changes: _,
            cluster: _,
            stall: _,
        } = self;
        // Their order does not affect the output.
        let inputs: BTreeSet<_> = inputs.iter().map(|input| input.to_string_lossy()).collect();
        let inputs: Vec<_> = inputs.into_iter().collect();
        let settings = Settings::of("replay")
            .with("INPUT", inputs.join(" "))
            .with_optional("--from-offset", from_offset.map(source::shown_start))
            .with_optional("--to-offset", to_offset.map(source::shown_until))
            .with_optional("--max-ahead", max_ahead.map(duration::text))
            .with_optional("--totals", Given::when(totals.is_some()));
        judging.add_settings(records.add_settings(settings))
    }

    fn max_ahead_ms(&self) -> u64 {
        self.max_ahead.unwrap_or(self.judging.max_gap_ms())
    }

    /// Returns the files and the addresses of the topics to read.
    fn inputs(&self) -> Result<(Vec<PathBuf>, Vec<Address>), Failure> {
        let (mut files, mut topics) = (Vec::new(), Vec::new());
        for input in &self.inputs {
            let text = input.to_str().unwrap_or_default();
            match text.split_once("://") {
                Some(_) if text.starts_with(SCHEME) => {
                    topics.push(text.parse().map_err(|error| usage(anyhow::Error::new(error)))?);
                }
                Some(_) if text.starts_with(bucket::SCHEME) => files.push(PathBuf::from(input)),
                Some((scheme, _)) => {
                    return Err(usage(anyhow!(
                        "unknown scheme \"{scheme}://\" (give files, directories, s3://bucket/key, kafka://host:9092/topic, or -)"
                    )));
                }
                None => files.push(PathBuf::from(input)),
            }
        }
        let bounds = self.from_offset.is_some() || self.to_offset.is_some();
        if topics.is_empty() && bounds {
            return Err(usage(anyhow!(
                "--from-offset and --to-offset are for topics, and files are given"
            )));
        }
        Ok((files, topics))
    }

    /// Opens everything that is to be read.
    fn open(&self, messages: &Messages) -> Result<Inputs, Failure> {
        let (files, topics) = self.inputs()?;
        let files = files::open(files::expand(&files)?)?;
        let from = self.from_offset.unwrap_or(Start::Earliest);
        let until = self.to_offset.unwrap_or(Until::Latest);
        let mut opened: Vec<BoundedTopic> = Vec::new();
        for address in topics {
            let topic = BoundedTopic::open(&address, &self.kafka.client(), from, until)?;
            if let Some(same) = opened.iter().find(|other| other.is_same(&topic)) {
                let same = same.address();
                return Err(usage(anyhow!(
                    "\"{address}\" is named twice (\"{same}\"): its records would count twice"
                )));
            }
            if topic.withheld() > 0 {
                messages.warn(format!(
                    "\"{address}\": up to {} messages are behind a transaction that is open, and are not read",
                    topic.withheld()
                ));
            }
            opened.push(topic);
        }
        let rules = self.records.rules(self.max_ahead_ms());
        Ok(Inputs::Any { files, topics: opened, rules })
    }

    fn options(&self) -> Options {
        self.judging.options(self.totals.as_ref().map(|_| EmitTotals::OnRetire))
    }
}

/// Runs `floodmark replay`.
pub fn run(args: &Args) -> Outcome {
    args.check()?;
    // No restart: it would repeat the output.
    cluster::launch(&args.cluster.plan(), |cluster| match cluster.process {
        0 => lead(args, cluster),
        _ => follow(args, cluster),
    })
}

/// Runs the process that reads and writes.
fn lead(args: &Args, cluster: Cluster) -> Outcome {
    let options = args.options();
    let settings = args.settings()?;
    let messages = Messages::new();
    let judging = &args.judging;
    let mut catalog = judging.catalog();
    let mut refusals = Vec::new();
    for limits in judging.limits()? {
        refusals.extend(read_limits(&limits, &mut catalog, &messages)?);
    }
    judging.accept(&refusals)?;
    // Files of one time are all open.
    descriptors::raise();
    let inputs = args.open(&messages)?;
    let messages = Messages::with_progress(inputs.work());
    let interrupt = Interrupt::listen()?;
    let mut waiting = cluster::unless_interrupted(&interrupt);
    let rules = TickRules {
        tick_ms: judging.tick,
        windows: options.windows,
        filter: judging.filter(),
        peers: cluster.peers(),
    };
    let shared = Shared {
        has_dead_letters: false,
        state: None,
        options,
        filter: judging.filter(),
        status: None,
        interrupt,
        watch: Some(watchdog::start(args.stall.timeout())?),
    };
    let (opened, by) = (args.clone(), messages.clone());
    let lead: OpenLead = Box::new(move || {
        Ok(LeaderConfig {
            state: None,
            time: Box::new(EventTime::new(options.windows)),
            hub: hub(&opened, options.windows, &catalog, &by)?,
            catalog,
            limits: Vec::new(),
            queries: None,
            final_query: None,
            leader: Arc::default(),
        })
    });
    let summary = Summary::default();
    let (to, by) = (summary.clone(), messages.clone());
    let sources = Sources::first(move || Recorded::read(inputs, rules, &by, &to));
    let job = Job { shared, sources, lead: Some(lead) };
    let ended = runner::execute(cluster, &settings, &messages, &mut waiting, job)?;
    let ended = ended.expect("the first process has the leader");
    finish(args, ended, summary.get(), &refusals, &messages)
}

/// Opens everything that a replay writes to.
fn hub(
    args: &Args,
    windows: Windows,
    catalog: &Catalog,
    messages: &Messages,
) -> Result<Hub<'static>, Failure> {
    let to = args.changes.as_deref().unwrap_or(Path::new("-"));
    let changes = ChangesFile::open(to, args.judging.format, windows, catalog)?;
    let mut sinks: Vec<Box<dyn Sink + Send>> = vec![match args.judging.only_difference {
        true => Box::new(OnlyDifference::new(vec![changes])),
        false => Box::new(changes),
    }];
    if let Some(totals) = &args.totals {
        sinks.push(Box::new(TotalsFile::open(totals)?));
    }
    sinks.push(Box::new(OverflowWarnings(messages.clone())));
    Ok(Hub::new(Counts::new(catalog.sets()), sinks))
}

/// Reports the end of a replay. `end` is the summary of the captures if all were read.
fn finish(
    args: &Args,
    ended: Ended,
    end: Option<&End>,
    refusals: &[String],
    messages: &Messages,
) -> Outcome {
    match ended.failure {
        // The reader closed the pipe: it has read enough.
        Some(WriteError::Closed) => return Ok(Exit::Done),
        Some(WriteError::Failed(failure)) => return Err(failure),
        None => messages.finish(),
    }
    if ended.dropped != 0 {
        messages.info(format!(
            "{} records came after their window had settled, and are not counted",
            ended.dropped
        ));
    }
    let Some(end) = end else {
        messages.info(complete_up_to(ended.last_tick, args.judging.tick));
        warn_about_refusals(messages, refusals);
        return Ok(Exit::Interrupted);
    };
    report_counts(messages, end);
    warn_about_refusals(messages, refusals);
    let is_damaged = end.damaged || !end.records.bad.is_empty();
    let damaged = if is_damaged { Exit::BadData } else { Exit::Done };
    let violates = args.judging.fail_on_violation && ended.active > 0;
    Ok(damaged.or(if violates { Exit::Violations } else { Exit::Done }))
}

/// Runs a process that only computes.
fn follow(args: &Args, cluster: Cluster) -> Outcome {
    if cluster.supervised {
        Interrupt::ignore()?;
    }
    let shared = Shared {
        has_dead_letters: false,
        state: None,
        options: args.options(),
        filter: args.judging.filter(),
        status: None,
        interrupt: Interrupt::default(),
        watch: None,
    };
    let job = Job { shared, sources: Sources::elsewhere(), lead: None };
    runner::execute(cluster, &args.settings()?, &Messages::new(), &mut || Ok(()), job)?;
    Ok(Exit::Done)
}

/// The most refused rows of a set of limits that are named; the others are counted.
const REFUSALS_NAMED: usize = 20;

/// Reads limits into a catalog, and reports refused rows. Returns a sentence about refused rows, if there are
/// any.
pub(super) fn read_limits(
    options: &feed::Options,
    catalog: &mut Catalog,
    messages: &Messages,
) -> Result<Option<String>, Failure> {
    let limits = feed::read(options)?;
    for (verdict, reason) in limits.refusals().take(REFUSALS_NAMED) {
        let (place, position) = (&options.address, verdict.position);
        messages.info(format!("limits \"{place}\", {position}: refused: {reason}"));
    }
    let counts = limits.refusal_counts();
    if let Some(more) = counts.refused.checked_sub(REFUSALS_NAMED).filter(|more| *more > 0) {
        let place = &options.address;
        messages.info(format!("limits \"{place}\": {more} other rows are refused"));
    }
    catalog.add(options.set, &limits.into_held());
    Ok(options.refusal(counts))
}

/// Returns a sentence about interrupted output: the event time up to which it is complete.
fn complete_up_to(last_tick: Option<u64>, tick_ms: u64) -> String {
    match last_tick {
        // A packet of a later tick has completed this one.
        Some(tick) => {
            let end = format_ms(tick.saturating_add(tick_ms));
            format!("interrupted: the output is complete up to event time {end}")
        }
        None => "interrupted before any tick of event time was complete".into(),
    }
}

/// Repeats at the end that rows are refused: people overlook the first lines of a long output.
fn warn_about_refusals(messages: &Messages, refusals: &[String]) {
    for refusal in refusals {
        messages.warn(format!("WARNING: {refusal}; --strict-limits makes this an error"));
    }
}

/// Reports what is counted of an input, and what is not.
pub(super) fn report_counts(messages: &Messages, end: &End) {
    if end.has_records {
        messages.info(&end.records);
    }
    if end.has_frames {
        report_frames(messages, &end.frames, end.frames_without_window);
    }
}

/// Reports the counted and uncounted frames of captures.
fn report_frames(messages: &Messages, tally: &Tally, without_window: Volume) {
    let packets = tally.packets.saturating_sub(without_window.packets.unsigned_abs());
    let bytes = tally.bytes.saturating_sub(without_window.bytes.unsigned_abs());
    let mut line = format!("counted {packets} of {} frames, {bytes} bytes", tally.frames);
    let mut not_counted: Vec<String> = tally.uncounted_texts().collect();
    if without_window.packets > 0 {
        not_counted.push(format!("{} in no window", without_window.packets));
    }
    if !not_counted.is_empty() {
        line += &format!("; not counted: {}", not_counted.join(", "));
    }
    messages.info(line);
}
