//! `floodmark capture`: sends the traffic of an interface, or of captures, to a topic or file.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::grid::Grid;
use super::sending::Sending;
use crate::base::duration;
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::size;
use crate::base::terminal::{Interrupt, Messages, Work};
use crate::capture::live::{self, Live};
use crate::capture::merge::{self, Merge};
use crate::kafka::topics::Plan;
use crate::kafka::{Address, OnRefusal, SCHEME};
use crate::output::reader_gone_failure;
use crate::record::Record;
use crate::sniffer::fold::Folding;
use crate::sniffer::meter::Meter;
use crate::sniffer::outlet::{Format, Lines, Outlet, Sent};
use crate::sniffer::pace::{Monotonic, Pace, Speed};
use crate::sniffer::source::{self, End, FileReaderSettings, InterfaceSettings, Source, dropped};
use crate::sniffer::topic::{self, Topic};
use crate::sniffer::{Ended, Sender};

/// The options of `floodmark capture`.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("from").required(true).multiple(false))]
pub struct Args {
    /// Captures: pcap or pcapng, also in gzip or zstd; `-` is standard input
    #[arg(value_name = "FILE", group = "from")]
    files: Vec<PathBuf>,

    /// Capture on this network interface; `any` is all of them
    #[arg(short, long, value_name = "NAME", env = "FLOODMARK_INTERFACE", group = "from")]
    interface: Option<String>,

    /// List the network interfaces
    #[arg(long, group = "from")]
    list: bool,

    /// Capture only packets that match this filter in the language of libpcap, such as "not port 22"
    #[arg(long, value_name = "BPF", env = "FLOODMARK_FILTER")]
    filter: Option<String>,

    /// Bytes to capture of each frame; headers are enough
    #[arg(
        long,
        value_name = "BYTES",
        env = "FLOODMARK_SNAPLEN",
        default_value = "256",
        value_parser = snaplen
    )]
    snaplen: u32,

    /// Size of the kernel's buffer for frames that are not read yet
    #[arg(
        long,
        value_name = "SIZE",
        env = "FLOODMARK_BUFFER",
        default_value = "32MiB",
        value_parser = buffer
    )]
    buffer: u32,

    /// Also capture frames that are addressed to other stations
    #[arg(long, env = "FLOODMARK_PROMISCUOUS")]
    promiscuous: bool,

    /// Stop after this time
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration::positive_millis
    )]
    duration: Option<u64>,

    /// Speed of reading captures: max, 1x for the original speed, 10x, 0.5x, …
    #[arg(
        long,
        value_name = "SPEED",
        env = "FLOODMARK_SPEED",
        default_value_t = Speed::Max
    )]
    speed: Speed,

    /// Drop a packet that is more than this ahead of the next packet of its capture
    ///
    /// Dropped packets are counted and reported. A jump in time that the next packet confirms is accepted, and
    /// so is the last packet of a capture. Default: 24h with a --speed, which would wait for the time of such a
    /// packet; otherwise no packet is dropped.
    #[arg(long, value_name = "DURATION", value_parser = duration::millis)]
    max_ahead: Option<u64>,

    /// The output: kafka://host:9092/floodmark-flows-v1, a file, or `-` for standard output
    #[arg(long, value_name = "URI", env = "FLOODMARK_TO", required_unless_present = "list")]
    to: Option<To>,

    /// The format of records
    ///
    /// Default: packed to a topic, else json.
    #[arg(long, value_enum, env = "FLOODMARK_FORMAT")]
    format: Option<Format>,

    /// Fold the packets of each pair within this time into one record, or `off`
    ///
    /// Folding sends fewer records and leaves the totals of windows unchanged. Default: 1s; off with
    /// --format kv, in which a record is one packet.
    #[arg(long, value_name = "DURATION", env = "FLOODMARK_AGGREGATE")]
    aggregate: Option<Buckets>,

    /// The window width of the run that will read the records; no record spans two windows
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_WINDOW",
        default_value = "5m",
        value_parser = duration::secs
    )]
    window: u64,

    /// Memory for records that can't be sent yet
    ///
    /// While it is full, reading of captures waits; from an interface, records are dropped and counted.
    #[arg(
        long,
        value_name = "SIZE",
        env = "FLOODMARK_QUEUE",
        default_value = "64MiB",
        value_parser = size::parse
    )]
    queue: u64,

    #[command(flatten)]
    sending: Sending,

    #[command(flatten)]
    client: super::kafka::Args,

    #[command(flatten)]
    http: super::http::Args,

    /// Log options of an --interface; about captures the command prints lines for people.
    #[command(flatten)]
    log: super::logging::Args,
}

/// The destination of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    Topic(Address),
    File(PathBuf),
}

impl std::str::FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some(_) if text.starts_with(SCHEME) => {
                text.parse().map(To::Topic).map_err(|error| format!("{error}"))
            }
            Some((scheme, _)) => Err(format!(
                "unknown scheme \"{scheme}://\" (give kafka://host:9092/topic, a file, or -)"
            )),
            None => Ok(To::File(text.into())),
        }
    }
}

impl To {
    /// Returns the label of a metric, without brokers, whose addresses may contain passwords.
    fn label(&self) -> String {
        match self {
            To::Topic(address) => format!("kafka:{}", address.topic),
            To::File(path) if path == Path::new("-") => "-".to_owned(),
            To::File(path) => format!("file:{}", path.display()),
        }
    }

    /// Returns the unit of the counts of records that have arrived.
    fn unit(&self) -> &'static str {
        match self {
            To::Topic(_) => "messages",
            To::File(_) => "lines",
        }
    }
}

impl std::fmt::Display for To {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            To::Topic(address) => write!(f, "\"{address}\""),
            To::File(path) if path == Path::new("-") => f.write_str("standard output"),
            To::File(path) => write!(f, "\"{}\"", path.display()),
        }
    }
}

/// The value of `--aggregate`: milliseconds, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buckets(Option<u64>);

impl std::str::FromStr for Buckets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Buckets(None)),
            text => duration::positive_millis(text).map(|millis| Buckets(Some(millis))),
        }
    }
}

/// Reads the length of frames: at least an IP header, at most the maximum of libpcap.
fn snaplen(text: &str) -> Result<u32, String> {
    const RANGE: std::ops::RangeInclusive<u64> = 64..=262_144;
    let bytes = size::parse(text)?;
    u32::try_from(bytes).ok().filter(|_| RANGE.contains(&bytes)).ok_or_else(|| {
        format!("\"{text}\" is not between {} and {} bytes", RANGE.start(), RANGE.end())
    })
}

/// Reads a size of a buffer that libpcap accepts.
fn buffer(text: &str) -> Result<u32, String> {
    const RANGE: std::ops::RangeInclusive<u64> = 1 << 16..=(1 << 31) - 1;
    let bytes = size::parse(text)?;
    u32::try_from(bytes)
        .ok()
        .filter(|_| RANGE.contains(&bytes))
        .ok_or_else(|| format!("\"{text}\" is not between 64KiB and 2047MiB"))
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}

/// The default of `--max-ahead` with a `--speed`, where the reader waits for the time of a packet.
const MAX_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;

/// The options that depend on each other, resolved.
struct Settings<'a> {
    to: &'a To,
    format: Format,
    bucket_ms: Option<u64>,
    linger: Duration,
    queue_records: usize,
    create: Option<Plan>,
}

impl Args {
    /// Rejects options of an interface with captures, and options of captures with an interface.
    fn check_source(&self) -> Result<(), Failure> {
        let for_interface = [
            ("--filter", self.filter.is_some()),
            ("--promiscuous", self.promiscuous),
            ("--duration", self.duration.is_some()),
            ("--http", self.http.is_given()),
        ];
        let given = for_interface.iter().find(|(_, given)| *given);
        match given {
            Some((option, _)) if self.interface.is_none() => {
                Err(usage(anyhow!("{option} is for an --interface, and captures are given")))
            }
            _ if self.interface.is_some() && self.speed != Speed::Max => {
                Err(usage(anyhow!("--speed is for captures, and an --interface is given")))
            }
            _ if self.interface.is_some() && self.max_ahead.is_some() => {
                Err(usage(anyhow!("--max-ahead is for captures, and an --interface is given")))
            }
            _ => Ok(()),
        }
    }

    fn settings(&self) -> Result<Settings<'_>, Failure> {
        self.check_source()?;
        let to = self.to.as_ref().expect("it is required unless interfaces are listed");
        let topic = matches!(to, To::Topic(_));
        let format = self.format.unwrap_or(if topic { Format::Packed } else { Format::Json });
        if format == Format::Packed && !topic {
            return Err(usage(anyhow!(
                "--format packed is only for topics: to a file, give json or kv"
            )));
        }
        if self.sending.create_topic && !topic {
            return Err(usage(anyhow!("--create-topic needs --to kafka://…")));
        }
        let bucket_ms = match (self.aggregate, format) {
            (None, Format::Kv) => None,
            (None, _) => Some(1000),
            (Some(Buckets(bucket_ms)), _) => bucket_ms,
        };
        if let Some(bucket_ms) = bucket_ms {
            if format == Format::Kv {
                return Err(usage(anyhow!(
                    "--format kv has no field for a number of packets, so records can't be folded: \
                     leave --aggregate out, or give --format json"
                )));
            }
            if !self.window.saturating_mul(1000).is_multiple_of(bucket_ms) {
                return Err(usage(anyhow!(
                    "a record must lie in one window: --aggregate of {bucket_ms} ms does not \
                     divide --window of {} s",
                    self.window
                )));
            }
        }
        let queue_records = usize::try_from(self.queue).unwrap_or(usize::MAX) / size_of::<Record>();
        let partitions = self.sending.partitions.unwrap_or(-1);
        let create = self.sending.create_topic.then(|| match self.interface {
            Some(_) => Plan::flows(partitions),
            None => Plan::recording(partitions),
        });
        let linger = self.sending.linger();
        Ok(Settings { to, format, bucket_ms, linger, queue_records, create })
    }

    fn max_ahead_ms(&self) -> u64 {
        let usual = if self.speed == Speed::Max { u64::MAX } else { MAX_AHEAD_MS };
        self.max_ahead.unwrap_or(usual)
    }

    fn live(&self, interface: &str) -> live::Options {
        live::Options {
            interface: interface.to_owned(),
            filter: self.filter.clone(),
            snaplen: self.snaplen,
            buffer: self.buffer,
            promiscuous: self.promiscuous,
        }
    }
}

/// Runs `floodmark capture`.
pub fn run(args: &Args) -> Outcome {
    if args.list {
        return list();
    }
    let settings = args.settings()?;
    match &args.interface {
        Some(interface) => {
            args.log.start();
            let meter = Arc::new(Meter::new(settings.to.label()));
            let _server = args.http.serve(0, meter.clone())?;
            let live = Live::open(&args.live(interface))?;
            let mut outlet = outlet(&settings, args)?;
            let interrupt = Interrupt::listen()?;
            let messages = Messages::new();
            messages.info(format!("capturing on \"{interface}\", sending to {}", settings.to));
            let source = source::capture_interface(
                live,
                InterfaceSettings {
                    folding: Folding::new(settings.bucket_ms),
                    capacity: settings.queue_records,
                    clock: Monotonic::new(),
                    duration: args.duration.map(Duration::from_millis),
                    interrupt: interrupt.clone(),
                    messages: messages.clone(),
                    meter: meter.clone(),
                },
            )
            .context("starting the thread that captures")?;
            send(
                source,
                Folding::new(None),
                &mut *outlet,
                &settings,
                interrupt,
                messages,
                Some(meter),
            )
        }
        None => {
            let readers = merge::open(&args.files, args.max_ahead_ms())?;
            let size = merge::size(&readers);
            let mut outlet = outlet(&settings, args)?;
            let interrupt = Interrupt::listen()?;
            let messages = Messages::with_progress(Work::Bytes(size));
            let reader_settings = FileReaderSettings {
                pace: Pace::new(args.speed),
                clock: Monotonic::new(),
                one_by_one: size.is_none(),
                // Enough to keep both threads busy; more would only hide that the output is slow.
                capacity: settings.queue_records.min(16 * source::BATCH),
                interrupt: interrupt.clone(),
                messages: messages.clone(),
            };
            let source =
                source::read_captures(Merge::new(readers, messages.clone()), reader_settings)
                    .context("starting the thread that reads")?;
            let folding = Folding::new(settings.bucket_ms);
            send(source, folding, &mut *outlet, &settings, interrupt, messages, None)
        }
    }
}

fn outlet(settings: &Settings<'_>, args: &Args) -> Result<Box<dyn Outlet>, Failure> {
    Ok(match settings.to {
        To::File(path) => Box::new(Lines::open(path, settings.format, settings.linger)?),
        To::Topic(address) => {
            let (format, linger) = (settings.format, settings.linger);
            let create = settings.create.clone();
            // An interface is captured only once; a file can be read again.
            let on_refusal = match args.interface {
                Some(_) => OnRefusal::Keep,
                None => OnRefusal::Fail,
            };
            let options = topic::Options { format, linger, create, on_refusal };
            Box::new(Topic::open(address, &args.client.client(), &options)?)
        }
    })
}

/// Sends all records, and reports their number. A live capture has a meter.
fn send(
    source: Source,
    folding: Folding,
    outlet: &mut dyn Outlet,
    settings: &Settings<'_>,
    interrupt: Interrupt,
    messages: Messages,
    meter: Option<Arc<Meter>>,
) -> Outcome {
    let live = meter.is_some();
    let sender = Sender { source, folding, outlet, interrupt, messages: messages.clone(), meter };
    let ended = sender.run();
    messages.finish();
    let ended = match ended {
        Ok(Ended::Closed) if live => return Err(reader_gone_failure(settings.to)),
        Ok(Ended::Closed) => return Ok(Exit::Done),
        Ok(ended) => ended,
        Err(failure) => {
            // Records handed to the client may not have arrived.
            let Sent { messages: arrived, message_bytes, .. } = outlet.sent();
            let (unit, to) = (settings.to.unit(), settings.to);
            messages.info(format!("{arrived} {unit}, {message_bytes} bytes, have arrived at {to}"));
            return Err(failure);
        }
    };
    let exit = match ended {
        Ended::Sent(end) => {
            report_counts(&messages, &end, live);
            report_sent(&messages, &outlet.sent(), settings.to);
            if let Some(error) = end.error {
                return Err(error.into());
            }
            let interrupted = end.interrupted && !live;
            let damaged = if end.damaged { Exit::BadData } else { Exit::Done };
            // An interrupt is the normal end of a live capture.
            if interrupted { Exit::Interrupted } else { damaged }
        }
        Ended::SourceStuck | Ended::Closed => {
            report_sent(&messages, &outlet.sent(), settings.to);
            Exit::Interrupted
        }
    };
    Ok(exit)
}

fn report_counts(messages: &Messages, end: &End, live: bool) {
    let tally = &end.tally;
    let (packets, frames, bytes) = (tally.packets, tally.frames, tally.bytes);
    let mut line = format!("counted {packets} of {frames} frames, {bytes} bytes");
    let not_counted: Vec<String> = tally.uncounted_texts().collect();
    if !not_counted.is_empty() {
        line += &format!("; not counted: {}", not_counted.join(", "));
    }
    messages.info(line);
    if live {
        messages.info(dropped(end.drops, &end.lost));
    }
}

fn report_sent(messages: &Messages, sent: &Sent, to: &To) {
    let Sent { records, packets, bytes, messages: arrived, message_bytes, .. } = sent;
    let Sent { unsendable, refused, .. } = sent;
    let unit = to.unit();
    messages.info(format!(
        "sent {records} records of {packets} packets and {bytes} bytes to {to}: {arrived} {unit}, \
         {message_bytes} bytes"
    ));
    if *refused > 0 {
        messages
            .info(format!("{refused} messages were lost: the broker rejected them permanently"));
    }
    if *unsendable > 0 {
        messages
            .info(format!("{unsendable} records were not sent: no reader accepts their amounts"));
    }
}

/// Prints the interfaces.
fn list() -> Outcome {
    let mut grid = Grid::new(["NAME", "STATE", "ADDRESSES", "DESCRIPTION"]);
    for interface in live::interfaces()? {
        let addresses = interface.addresses.iter().map(ToString::to_string);
        let state = if interface.up { "up" } else { "down" };
        grid.push([
            interface.name,
            state.to_owned(),
            addresses.collect::<Vec<_>>().join(","),
            interface.description,
        ]);
    }
    match write!(io::stdout(), "{grid}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("writing to standard output").into())
        }
        _ => Ok(Exit::Done),
    }
}
