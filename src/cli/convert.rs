//! `floodmark convert`: writes the records of any source to any output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;

use super::capture::To;
use super::cluster::Restart;
use super::sending::Sending;
use super::source::{self, Reading};
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::Interrupt;
use crate::cluster::{self, Cluster};
use crate::convert::converter::{Converter, Counts, Rules};
use crate::convert::files::{self as conversion, FilesSummary};
use crate::convert::following::{Follower, SharedState};
use crate::convert::shared::SharedLines;
use crate::convert::skew::Skew;
use crate::files;
use crate::kafka::topics::{self, Plan};
use crate::kafka::{Address, OnRefusal, SCHEME, Start, Topic, TopicReader};
use crate::output::{WriteError, reader_gone_failure};
use crate::record::Fields;
use crate::sniffer::outlet::{Format, Lines, Outlet, Sent};
use crate::sniffer::topic;

/// The options of `floodmark convert`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The source of records: kafka://HOST:PORT,…/TOPIC, or files: captures, or texts with a message a line;
    /// `-` is standard input
    #[arg(long, value_name = "URI", env = "FLOODMARK_FROM", required = true, num_args = 1..)]
    from: Vec<String>,

    /// The output: kafka://HOST:PORT,…/TOPIC, a file, or `-` for standard output
    #[arg(long, value_name = "URI", env = "FLOODMARK_TO", default_value = "-")]
    to: To,

    /// The format of records
    ///
    /// Default: packed to a topic, else json.
    #[arg(long, value_enum, env = "FLOODMARK_FORMAT")]
    format: Option<Format>,

    /// With --format json: write these fields of the input messages, under their names there
    #[arg(long, value_name = "NAME,…", env = "FLOODMARK_FIELDS")]
    fields: Option<Fields>,

    /// With --format kv: also write records of several packets, each of which readers count as one packet
    #[arg(long)]
    bytes_only: bool,

    /// The position to start reading a topic at: earliest, latest, a time, or committed: where --group stopped
    ///
    /// Default: earliest. With committed, records delivered in the last seconds before a crash are written a
    /// second time; none is lost.
    #[arg(
        long,
        value_name = "earliest|latest|committed|TIME",
        env = "FLOODMARK_FROM_OFFSET",
        value_parser = source::start_or_committed
    )]
    from_offset: Option<Start>,

    /// Stop at the current end of the topic
    #[arg(long)]
    until_end: bool,

    /// The consumer group whose offsets are committed, once records have arrived at the output
    ///
    /// Default: floodmark-convert. --from-offset committed requires a group that no other conversion has.
    #[arg(long, value_name = "NAME", env = "FLOODMARK_GROUP")]
    group: Option<String>,

    #[command(flatten)]
    sending: Sending,

    #[command(flatten)]
    reading: Reading,

    #[command(flatten)]
    cluster: super::cluster::Args,

    #[command(flatten)]
    restart: Restart,

    #[command(flatten)]
    log: super::logging::Args,
}

/// The default of `--group`: not that of a run, whose lag must not change.
const GROUP: &str = "floodmark-convert";

/// The source of records.
#[derive(Clone, Debug)]
enum From {
    Topic(Address),
    Files(Vec<PathBuf>),
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

impl Args {
    fn from(&self) -> Result<From, Failure> {
        let topics = self.from.iter().filter(|from| from.starts_with(SCHEME)).count();
        if topics > 0 {
            let [from] = &*self.from else {
                return Err(usage(anyhow!(
                    "--from is one topic, or files: give one --from kafka://…"
                )));
            };
            return from.parse().map(From::Topic).map_err(|error| usage(anyhow::Error::new(error)));
        }
        if let Some((scheme, _)) = self.from.iter().find_map(|from| from.split_once("://")) {
            return Err(usage(anyhow!(
                "unknown scheme \"{scheme}://\" (give kafka://host:9092/topic, files, or -)"
            )));
        }
        Ok(From::Files(self.from.iter().map(PathBuf::from).collect()))
    }

    fn format(&self) -> Result<Format, Failure> {
        let topic = matches!(self.to, To::Topic(_));
        let default = match (topic, &self.fields) {
            (true, None) => Format::Packed,
            _ => Format::Json,
        };
        let format = self.format.unwrap_or(default);
        let problem = match format {
            Format::Packed if !topic => {
                "--format packed is only for topics: to a file, give json or kv"
            }
            Format::Packed | Format::Kv if self.fields.is_some() => {
                "--fields is for JSON objects: give --format json"
            }
            Format::Packed | Format::Json if self.bytes_only => {
                "--bytes-only is for --format kv: other formats have a field for the number of \
                 packets"
            }
            _ if self.sending.create_topic && !topic && self.reading.dead_letter.is_none() => {
                "--create-topic needs --to or --dead-letter kafka://…"
            }
            _ => return Ok(format),
        };
        Err(usage(anyhow!(problem)))
    }

    /// Rejects combinations of options that do not fit the source.
    fn check(&self, from: &From) -> Result<(), Failure> {
        let (workers, processes) = self.cluster.size();
        let to_file = matches!(self.to, To::File(_));
        let problem = match from {
            From::Topic(address) if matches!(&self.to, To::Topic(to) if to == address) => {
                "the conversion would read its own output, for ever: give --to another topic than \
                 --from"
            }
            From::Topic(address) if self.reading.dead_letter.as_ref() == Some(address) => {
                "the conversion would read its own dead letters, for ever: give --dead-letter \
                 another topic than --from"
            }
            From::Topic(_) if processes > 1 && to_file => {
                "several processes can't write one file: give -w instead of -n, or --to kafka://…"
            }
            From::Topic(_)
                if self.from_offset == Some(Start::Committed) && self.group.is_none() =>
            {
                "--from-offset committed continues where its group stopped: give --group a name \
                 that no other conversion has"
            }
            From::Topic(_)
                if self.restart.restart && self.from_offset != Some(Start::Committed) =>
            {
                "--restart must continue where the conversion stopped, or it would write records \
                 twice, or skip some: give --from-offset committed and --group"
            }
            From::Files(_) if workers > 1 => {
                "files are read by one worker: -w and -n are for the partitions of a topic"
            }
            From::Files(_) if self.restart.restart => {
                "--restart is for topics: it would write the records of files again"
            }
            From::Files(_)
                if self.from_offset.is_some() || self.until_end || self.group.is_some() =>
            {
                "--from-offset, --until-end and --group are for topics, and files are given"
            }
            From::Files(files) => {
                if let To::File(to) = &self.to
                    && files.iter().any(|file| same_file(file, to))
                {
                    return Err(usage(anyhow!(
                        "\"{}\" is read and would be overwritten: give --to another file",
                        to.display()
                    )));
                }
                return Ok(());
            }
            From::Topic(_) => return Ok(()),
        };
        Err(usage(anyhow!(problem)))
    }

    /// Returns the plan of the topic, if the command creates it.
    fn plan(&self, from: &From) -> Result<Option<Plan>, Failure> {
        if !self.sending.create_topic {
            return Ok(None);
        }
        let partitions = match (self.sending.partitions, from) {
            (Some(partitions), _) => partitions,
            (None, From::Topic(address)) => {
                let partitions = topics::partitions(address, &self.reading.kafka.client())?;
                i32::try_from(partitions).unwrap_or(i32::MAX)
            }
            (None, From::Files(_)) => -1,
        };
        Ok(Some(match from {
            From::Topic(_) if !self.until_end => Plan::flows(partitions),
            _ => Plan::recording(partitions),
        }))
    }
}

/// Whether two names are those of one file. Standard input and output are different files.
fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok().filter(|path| path.is_file());
    one != Path::new("-") && real(one).is_some_and(|one| real(other) == Some(one))
}

/// Runs `floodmark convert`.
pub fn run(args: &Args) -> Outcome {
    let from = args.from()?;
    let format = args.format()?;
    args.check(&from)?;
    args.log.start();
    let job = Job { args, from, format };
    cluster::launch_apart(&args.cluster.plan_with(args.restart), |cluster| {
        match job.process(&cluster) {
            Ok(exit) => Ok(exit),
            Err(WriteError::Closed) if job.is_endless() => Err(reader_gone_failure(&args.to)),
            // The reader closed the pipe: it has read enough.
            Err(WriteError::Closed) => Ok(Exit::Done),
            Err(WriteError::Failed(failure)) => Err(failure),
        }
    })
}

fn listen() -> Result<Interrupt, WriteError> {
    Interrupt::listen().map_err(|error| WriteError::Failed(error.into()))
}

/// The work of one process.
struct Job<'a> {
    args: &'a Args,
    from: From,
    format: Format,
}

impl Job<'_> {
    /// Whether the conversion runs until it is interrupted.
    fn is_endless(&self) -> bool {
        matches!(self.from, From::Topic(_)) && !self.args.until_end
    }

    fn process(&self, cluster: &Cluster) -> Result<Exit, WriteError> {
        let failed = WriteError::Failed;
        match &self.from {
            From::Topic(address) => self.follow(address, cluster),
            From::Files(names) => {
                let places = names.iter().cloned().map(files::Place::Path).collect();
                let files = files::open(places).map_err(failed)?;
                let mut converters = self.converters(1).map_err(failed)?;
                let converter = &mut converters[0];
                let ended = conversion::convert(files, converter, &listen()?);
                log_counts(&converters, &self.args.to);
                let exit = |end: FilesSummary| self.exit_of_files(&end, converters[0].counts());
                ended.map(exit)
            }
        }
    }

    fn exit_of_files(&self, end: &FilesSummary, counts: &Counts) -> Exit {
        let uncounted: Vec<String> = end.tally.uncounted_texts().collect();
        if !uncounted.is_empty() {
            tracing::info!("not counted in captures: {}", uncounted.join(", "));
        }
        // Without a single record the input is most likely no file of records.
        let nothing = counts.records == 0 && !counts.bad.is_empty();
        match (end.interrupted, end.damaged || nothing) {
            (true, _) => Exit::Interrupted,
            (false, true) => Exit::BadData,
            (false, false) => Exit::Done,
        }
    }

    fn follow(&self, address: &Address, cluster: &Cluster) -> Result<Exit, WriteError> {
        let args = self.args;
        let start = args.from_offset.unwrap_or(Start::Earliest);
        let options = args.reading.source(start, args.group.as_deref().unwrap_or(GROUP));
        let opened = Topic::open(address, &args.reading.kafka.client(), options);
        let topic = Arc::new(opened.map_err(WriteError::Failed)?);
        let until: Option<BTreeMap<i32, i64>> = args.until_end.then(|| topic.ends());
        let converters = self.converters(cluster.workers).map_err(WriteError::Failed)?;
        let converters: Vec<Mutex<Converter>> = converters.into_iter().map(Mutex::new).collect();
        let (failed, left) = (AtomicBool::new(false), AtomicU64::new(0));
        let skew = Skew::new(cluster.workers);
        let interrupt = &listen()?;
        let until = until.as_ref();
        let shared = SharedState { interrupt, failed: &failed, skew: &skew, until, unread: &left };
        let ended = cluster.threads(|worker| {
            let index = worker - cluster.process * cluster.workers;
            // Each worker locks a converter of its own.
            let mut converter = converters[index].lock().unwrap_or_else(PoisonError::into_inner);
            let thread = std::thread::current();
            let wake = Arc::new(move || thread.unpark());
            match TopicReader::open(topic.clone(), worker, cluster.peers(), wake, None) {
                Ok(source) => {
                    let converter = &mut *converter;
                    Follower { source, converter, index, shared: &shared }.run()
                }
                Err(failure) => {
                    failed.store(true, Ordering::SeqCst);
                    Err(WriteError::Failed(failure))
                }
            }
        });
        let ended = ended.map_err(|error| WriteError::Failed(error.into()))?;
        let converters: Vec<Converter> = converters
            .into_iter()
            .map(|converter| converter.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect();
        log_counts(&converters, &args.to);
        let first = ended.into_iter().find_map(Result::err);
        if let Some(error) = first {
            return Err(error);
        }
        self.exit_of_withheld(left.into_inner()).map_err(WriteError::Failed)
    }

    /// Returns the exit of a conversion that leaves this many messages behind an open transaction.
    fn exit_of_withheld(&self, left: u64) -> Outcome {
        if left == 0 {
            return Ok(Exit::Done);
        }
        let text = format!(
            "{left} messages are not written: they are behind a transaction that has been open for \
             longer than --max-transaction"
        );
        if self.args.reading.skip_open_transactions {
            tracing::warn!(left, "{text}");
            return Ok(Exit::Done);
        }
        Err(Failure::new(Exit::Failed, anyhow!("{text}; the error above names it")))
    }

    /// Returns a converter for each worker of this process.
    fn converters(&self, workers: usize) -> Result<Vec<Converter>, Failure> {
        let Job { args, from, format } = self;
        let rules = Rules {
            decoder: args.reading.decoder(),
            format: *format,
            fields: args.fields.clone(),
            bytes_only: args.bytes_only,
        };
        let linger = args.sending.linger();
        let mut outlets: Vec<Box<dyn Outlet + Send>> = Vec::new();
        match &args.to {
            To::File(path) => {
                let lines = Lines::open(path, *format, linger)?;
                for part in SharedLines::parts(lines, workers) {
                    outlets.push(Box::new(part));
                }
            }
            To::Topic(address) => {
                let mut create = args.plan(from)?;
                for _ in 0..workers {
                    let (create, on_refusal) = (create.take(), OnRefusal::Fail);
                    let options = topic::Options { format: *format, linger, create, on_refusal };
                    let topic =
                        topic::Topic::open(address, &args.reading.kafka.client(), &options)?;
                    outlets.push(Box::new(topic));
                }
            }
        }
        let dead_letters = args.reading.dead_letters(args.sending.create_topic);
        outlets
            .into_iter()
            .map(|outlet| {
                let letters = dead_letters.as_ref().map(|open| open()).transpose()?;
                Ok(Converter::new(rules.clone(), outlet, letters))
            })
            .collect()
    }
}

/// Logs the counts of records read and sent.
fn log_counts(converters: &[Converter], to: &To) {
    let (mut counts, mut sent) = (Counts::default(), Sent::default());
    for converter in converters {
        counts.add(converter.counts());
        let part = converter.sent();
        sent.messages += part.messages;
        sent.message_bytes += part.message_bytes;
        sent.unsendable += part.unsendable;
    }
    let unit = match to {
        To::Topic(_) => "messages",
        To::File(_) => "lines",
    };
    let Sent { messages, message_bytes, .. } = sent;
    tracing::info!("{counts}; sent to {to}: {messages} {unit}, {message_bytes} bytes");
}
