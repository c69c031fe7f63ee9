//! The pipeline of the demo, all of it in this process: a broker, a sender and a run.
//!
//! The parts are connected only by the broker: the sender is the code of `floodmark capture`, the run that of
//! `floodmark run`.

use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::Updates;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::timeline::{Span, Timeline};
use crate::base::error::{Exit, Failure, Outcome};
use crate::base::terminal::{Interrupt, Messages};
use crate::capture::Reader;
use crate::capture::merge::Merge;
use crate::cluster::{Cluster, Settings, watchdog};
use crate::kafka::topics::TopicConfig;
use crate::kafka::{Address, BufferedProducer, ClientOptions, SourceOptions, Start, Topic, Tuning};
use crate::limits::catalog::Catalog;
use crate::limits::feed;
use crate::runner::{self, Job, LeaderConfig, Limits, Shared, Sources, Status, WallTime};
use crate::sink::{Alerts, Counts, Hub, StateTopic};
use crate::sniffer::fold::Folding;
use crate::sniffer::outlet::{Format, Outlet, Sent};
use crate::sniffer::pace::{Pace, Speed};
use crate::sniffer::source::{BATCH, FileReaderSettings, read_captures};
use crate::sniffer::{Ended, Sender, topic};
use crate::source::topic::DeadLetterOutput;
use crate::source::{Filter, Partitions, ReadingRules, topic as topic_source};

const CAPTURE: &[u8] = include_bytes!("../../demo/office-lan.pcapng.zst");

/// The topic of records, and the topic of alerts.
const FLOWS: &str = "floodmark-flows-v1";
const ALERTS: &str = "floodmark-alerts-v1";

/// The partitions of the topic of records: one for each of two workers.
const PARTITIONS: i32 = 2;

/// The time after which a silent partition no longer holds the watermark.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// The interval of ticks. A second would be a minute of the capture.
const TICK: Duration = Duration::from_millis(100);

/// The time after its end in which a window accepts records. It is less than a window, so that the last window
/// settles before a window without packets would end.
const LATENESS_MS: u64 = 4 * 60 * 1000;

/// The longest time that a tick may stand still: long enough for a machine that is busy with something else.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The windows of the demo. All are retained to its end, so that the changed limit applies to them.
pub(super) fn windows() -> Windows {
    Windows {
        lateness_ms: Some(LATENESS_MS),
        retention_ms: Some(24 * 3600 * 1000),
        ..Windows::default()
    }
}

fn reader() -> Reader {
    Reader::from_read("office-lan.pcapng.zst", Box::new(Cursor::new(CAPTURE)))
}

/// Facts about the capture, before it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recording {
    pub(super) span: Span,
    pub(super) packets: u64,
    /// The time of the last packet of the first half.
    pub(super) before_half_ms: u64,
}

impl Recording {
    /// Reads the whole capture.
    pub(super) fn read() -> Self {
        let mut merge = Merge::new(vec![reader()], Messages::new());
        let mut times = Vec::new();
        while let Some(packet) = merge.next() {
            times.push(packet.time.ms);
        }
        let (first, last) = (times.iter().min(), times.iter().max());
        let (first_ms, last_ms) = first.zip(last).expect("the capture has packets");
        let span = Span { first_ms: *first_ms, last_ms: *last_ms };
        let before_half = times.iter().filter(|time| **time < span.half_ms()).max();
        Recording {
            span,
            packets: times.len() as u64,
            before_half_ms: before_half.copied().expect("the first packet is in the first half"),
        }
    }

    /// Returns the time at which the last window settles.
    pub(super) fn settled_ms(&self) -> u64 {
        let last = windows().of(self.span.last_ms).expect("the capture is of our times");
        windows().end_ms(last) + LATENESS_MS
    }
}

/// A broker within this process, on the loopback interface.
pub(super) struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// Starts a broker with two topics, for records and for alerts.
    pub(super) fn start() -> anyhow::Result<Self> {
        let starting = "starting the broker of the demo";
        let cluster = MockCluster::new(1).context(starting)?;
        cluster.create_topic(FLOWS, PARTITIONS, 1).context(starting)?;
        cluster.create_topic(ALERTS, 1, 1).context(starting)?;
        Ok(Broker { cluster })
    }

    fn address(&self, topic: &str) -> Address {
        Address { brokers: self.cluster.bootstrap_servers(), topic: topic.into() }
    }

    pub(super) fn flows(&self) -> Address {
        self.address(FLOWS)
    }

    pub(super) fn alerts(&self) -> Address {
        self.address(ALERTS)
    }
}

/// A thread that can be stopped.
pub(super) struct Part<T> {
    thread: JoinHandle<Result<T, Failure>>,
    stop: Interrupt,
}

impl<T: Send + 'static> Part<T> {
    fn start(
        name: &str,
        stop: Interrupt,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> anyhow::Result<Self> {
        // At its end the part wakes this thread.
        let waiting = std::thread::current();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let result = work();
            waiting.unpark();
            result
        });
        Ok(Part { thread: thread.with_context(|| format!("starting the {name} thread"))?, stop })
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Requests the part to stop.
    pub(super) fn stop(&self) {
        self.stop.press();
    }

    /// Waits for the end of the part, and returns its result.
    pub(super) fn join(self) -> Result<T, Failure> {
        self.thread.join().unwrap_or_else(|_| Err(anyhow!("a part of the demo panicked").into()))
    }
}

/// A run that reads records and publishes alerts.
pub(super) struct Run {
    pub(super) part: Part<Exit>,
    pub(super) status: Arc<Status>,
}

/// Starts a run over the topic of records. With `amounts`, every tick publishes updates of amounts.
pub(super) fn run(
    broker: &Broker,
    limits: &Path,
    workers: usize,
    timeline: &Arc<Timeline>,
    amounts: bool,
) -> Result<Run, Failure> {
    let client = ClientOptions::default().ignore_environment();
    let source = SourceOptions {
        start: Start::Earliest,
        idle_timeout: IDLE_TIMEOUT,
        max_skew_ms: u64::MAX,
        group: "floodmark".into(),
        max_transaction: Duration::MAX,
        skip_open_transactions: false,
    };
    let topic = Topic::open(&broker.flows(), &client, source)?;
    let updates = if amounts { Updates::Tick } else { Updates::Limit };
    let options = Options { windows: windows(), updates, ..Options::default() };
    let leader = Arc::new(OnceLock::new());
    let alerts = BufferedProducer::open(&broker.alerts(), &client, Tuning::for_latency())?;
    let (catalog, alerts) =
        (Catalog::new(), StateTopic::new(Alerts::new(options.windows, None), alerts, None));
    let lead = LeaderConfig {
        state: None,
        limits: vec![Limits::follow(&feed::Options::file(limits), &leader)?],
        leader,
        queries: None,
        final_query: None,
        hub: Hub::new(Counts::new(catalog.sets()), vec![Box::new(alerts)]),
        catalog,
        time: Box::new(WallTime::new(Box::new(timeline.clone()), TICK, Start::Earliest, u64::MAX)),
    };
    let (stop, status) = (Interrupt::default(), Arc::new(Status::new(workers, TICK)));
    let source = topic_source::Options {
        topic: Arc::new(topic),
        windows: options.windows,
        filter: Filter::default(),
        rules: ReadingRules {
            max_ahead_ms: u64::MAX,
            max_behind_ms: u64::MAX,
            input_timezone: "UTC".to_owned(),
        },
        tick: TICK,
        dead_letters: DeadLetterOutput::None,
    };
    let shared = Shared {
        has_dead_letters: false,
        state: None,
        options,
        filter: Filter::default(),
        status: Some(status.clone()),
        interrupt: stop.clone(),
        watch: Some(watchdog::start(STALL_TIMEOUT)?),
    };
    let sources =
        Sources::each(move |worker, workers, _| Partitions::open(&source, worker, workers, None));
    let work = move || -> Outcome {
        let ended = runner::execute(
            Cluster::alone(workers),
            &Settings::default(),
            &Messages::new(),
            &mut || Ok(()),
            Job { shared, sources, lead: Some(Box::new(|| Ok(lead))) },
        )?;
        ended.map_or(Ok(Exit::Done), |ended| ended.outcome(false))
    };
    Ok(Run { part: Part::start("run", stop, work)?, status })
}

/// Starts sending the capture; the part returns the counts of what was sent.
pub(super) fn send(broker: &Broker, timeline: &Arc<Timeline>) -> Result<Part<Sent>, Failure> {
    let options = topic::Options {
        format: Format::Packed,
        linger: Duration::from_millis(50),
        create: None,
        on_refusal: crate::kafka::OnRefusal::Fail,
    };
    // The mock broker keeps all messages, and does not support describing topics.
    let config = TopicConfig::unknown(broker.flows(), PARTITIONS as usize);
    let mut outlet =
        topic::Topic::open_known(&ClientOptions::default().ignore_environment(), &options, config)?;
    let (stop, messages) = (Interrupt::default(), Messages::new());
    let reader_settings = FileReaderSettings {
        pace: Pace::new(Speed::Times(timeline.speed_factor())),
        clock: timeline.clone(),
        one_by_one: false,
        capacity: BATCH,
        interrupt: stop.clone(),
        messages: messages.clone(),
    };
    timeline.start();
    let source = read_captures(Merge::new(vec![reader()], messages.clone()), reader_settings)
        .context("starting the thread that reads")?;
    let interrupt = stop.clone();
    let work = move || {
        // The default of `floodmark capture`.
        let folding = Folding::new(Some(1000));
        let sender =
            Sender { source, folding, outlet: &mut outlet, interrupt, messages, meter: None };
        match sender.run()? {
            Ended::Sent(_) | Ended::SourceStuck | Ended::Closed => Ok(outlet.sent()),
        }
    };
    Ok(Part::start("send", stop, work)?)
}
