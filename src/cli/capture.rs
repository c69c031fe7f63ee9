//! `floodmark capture`: the traffic of an interface, or of captures, sent to a topic.

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
use crate::base::terminal::{Interrupt, Messages};
use crate::capture::live::{self, Live};
use crate::capture::merge::{self, Merge};
use crate::kafka::topics::Plan;
use crate::kafka::{Address, OnRefusal, SCHEME};
use crate::output::reader_has_gone;
use crate::record::Record;
use crate::sniffer::fold::Folding;
use crate::sniffer::meter::Meter;
use crate::sniffer::outlet::{Format, Lines, Outlet, Sent};
use crate::sniffer::pace::{Monotonic, Pace, Speed};
use crate::sniffer::source::{self, End, Reading, Source, Watch, dropped};
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

    /// Print the interfaces there are
    #[arg(long, group = "from")]
    list: bool,

    /// Which packets of the interface, in the filter language of libpcap, such as "not port 22"
    #[arg(long, value_name = "BPF", env = "FLOODMARK_FILTER")]
    filter: Option<String>,

    /// How many bytes of each frame are looked at; headers are enough
    #[arg(
        long,
        value_name = "BYTES",
        env = "FLOODMARK_SNAPLEN",
        default_value = "256",
        value_parser = snaplen
    )]
    snaplen: u32,

    /// How much memory the kernel has for frames that were not read yet
    #[arg(
        long,
        value_name = "SIZE",
        env = "FLOODMARK_BUFFER",
        default_value = "32MiB",
        value_parser = buffer
    )]
    buffer: u32,

    /// Also take the frames that are for other stations
    #[arg(long, env = "FLOODMARK_PROMISCUOUS")]
    promiscuous: bool,

    /// End after so much time
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration::positive_millis
    )]
    duration: Option<u64>,

    /// How fast captures are read: max, 1x for as they once passed, 10x, 0.5x, …
    #[arg(
        long,
        value_name = "SPEED",
        env = "FLOODMARK_SPEED",
        default_value_t = Speed::Max
    )]
    speed: Speed,

    /// Drop a packet with a time more than this after that of the next packet of its capture
    ///
    /// Such a stray is counted and named. A jump in time that the next packet confirms is believed, and so is
    /// the last packet of a capture. Default: 24h with a --speed, which would wait for its time; else none is
    /// dropped.
    #[arg(long, value_name = "DURATION", value_parser = duration::millis)]
    max_ahead: Option<u64>,

    /// Where to: kafka://host:9092/floodmark-flows-v1, a file, or `-` for standard output
    #[arg(long, value_name = "WHERE", env = "FLOODMARK_TO", required_unless_present = "list")]
    to: Option<To>,

    /// How to write records
    ///
    /// Default: packed to a topic, else json.
    #[arg(long, value_enum, env = "FLOODMARK_FORMAT")]
    format: Option<Format>,

    /// Fold the packets of each pair into one record for so much time, or `off`
    ///
    /// What is sent is as little as it can be, and totals of windows are the same. Default: 1s; off
    /// with --format kv, whose records are of one packet.
    #[arg(long, value_name = "DURATION", env = "FLOODMARK_AGGREGATE")]
    aggregate: Option<Buckets>,

    /// The width of the windows that totals will be made for; records stay within one
    #[arg(
        long,
        value_name = "DURATION",
        env = "FLOODMARK_WINDOW",
        default_value = "5m",
        value_parser = duration::secs
    )]
    window: u64,

    /// How much memory records may take that can't be sent yet; beyond, a file waits, and an interface
    /// drops records and counts them
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
                "\"{scheme}://\" is not known here (give kafka://host:9092/topic, a file, or -)"
            )),
            None => Ok(To::File(text.into())),
        }
    }
}

impl To {
    /// As the label of a metric, without brokers, whose names may have passwords in them.
    fn label(&self) -> String {
        match self {
            To::Topic(address) => format!("kafka:{}", address.topic),
            To::File(path) if path == Path::new("-") => "-".to_owned(),
            To::File(path) => format!("file:{}", path.display()),
        }
    }

    /// The counts of records that arrived there.
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

/// Reads a size that libpcap takes for its buffer.
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

/// The distance by which a packet may be ahead of the next one of its capture where packets are waited
/// for, if no option says otherwise.
const MAX_AHEAD_MS: u64 = 24 * 60 * 60 * 1000;

/// The options, where they depend on each other.
struct Settings<'a> {
    to: &'a To,
    format: Format,
    bucket_ms: Option<u64>,
    linger: Duration,
    room: usize,
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
                "--format packed is for messages, which have a length: to a file, give json or kv"
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
                    "--format kv has no room for a number of packets, so records can't be folded: \
                     leave --aggregate out, or give --format json"
                )));
            }
            if !self.window.saturating_mul(1000).is_multiple_of(bucket_ms) {
                return Err(usage(anyhow!(
                    "a record must lie in one window: --aggregate of {bucket_ms} ms does not divide \
                     --window of {} s",
                    self.window
                )));
            }
        }
        let room = usize::try_from(self.queue).unwrap_or(usize::MAX) / size_of::<Record>();
        let partitions = self.sending.partitions.unwrap_or(-1);
        let create = self.sending.create_topic.then(|| match self.interface {
            Some(_) => Plan::flows(partitions),
            None => Plan::recording(partitions),
        });
        let linger = self.sending.linger();
        Ok(Settings { to, format, bucket_ms, linger, room, create })
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
            messages.say(format!("capturing on \"{interface}\", sending to {}", settings.to));
            let source = source::watch(
                live,
                Watch {
                    folding: Folding::new(settings.bucket_ms),
                    room: settings.room,
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
            let messages = Messages::with_progress(size);
            let reading = Reading {
                pace: Pace::new(args.speed),
                clock: Monotonic::new(),
                one_by_one: size.is_none(),
                // Enough to keep both threads busy; more would only hide that the output is slow.
                room: settings.room.min(16 * source::BATCH),
                interrupt: interrupt.clone(),
                messages: messages.clone(),
            };
            let source = source::read(Merge::new(readers, messages.clone()), reading)
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

/// Sends all, and says what was sent. A live capture has a meter.
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
        Ok(Ended::Closed) if live => return Err(reader_has_gone(settings.to)),
        Ok(Ended::Closed) => return Ok(Exit::Done),
        Ok(ended) => ended,
        Err(failure) => {
            // Records that were handed over may not have arrived.
            let Sent { messages: arrived, message_bytes, .. } = outlet.sent();
            let (unit, to) = (settings.to.unit(), settings.to);
            messages.say(format!("{arrived} {unit}, {message_bytes} bytes, have arrived at {to}"));
            return Err(failure);
        }
    };
    let exit = match ended {
        Ended::Sent(end) => {
            say_counts(&messages, &end, live);
            say_sent(&messages, &outlet.sent(), settings.to);
            if let Some(error) = end.error {
                return Err(error.into());
            }
            let interrupted = end.interrupted && !live;
            let damaged = if end.damaged { Exit::BadData } else { Exit::Done };
            // To be interrupted is how a live capture ends.
            if interrupted { Exit::Interrupted } else { damaged }
        }
        Ended::Deaf | Ended::Closed => {
            say_sent(&messages, &outlet.sent(), settings.to);
            Exit::Interrupted
        }
    };
    Ok(exit)
}

fn say_counts(messages: &Messages, end: &End, live: bool) {
    let tally = &end.tally;
    let (packets, frames, bytes) = (tally.packets, tally.frames, tally.bytes);
    let mut line = format!("counted {packets} of {frames} frames, {bytes} bytes");
    let not_counted: Vec<String> = tally.uncounted_texts().collect();
    if !not_counted.is_empty() {
        line += &format!("; not counted: {}", not_counted.join(", "));
    }
    messages.say(line);
    if live {
        messages.say(dropped(end.drops, &end.lost));
    }
}

fn say_sent(messages: &Messages, sent: &Sent, to: &To) {
    let Sent { records, packets, bytes, messages: arrived, message_bytes, .. } = sent;
    let Sent { unsendable, refused, .. } = sent;
    let unit = to.unit();
    messages.say(format!(
        "sent {records} records of {packets} packets and {bytes} bytes to {to}: {arrived} {unit}, \
         {message_bytes} bytes"
    ));
    if *refused > 0 {
        messages.say(format!("{refused} messages were lost: the broker refused them for good"));
    }
    if *unsendable > 0 {
        messages.say(format!("{unsendable} records were left out: no reader takes their amounts"));
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
