//! Brokers for tests: mock clusters within the process, for what they can do, and Apache Kafka itself.
//!
//! A real broker is held by a process of its own (`scripts/kafka hold`), which stops it and removes its
//! files when the other end of a pipe is closed: however the tests end, no broker is left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use floodmark::kafka::topics::{self, Plan};
use floodmark::kafka::{Address, ClientOptions, Outgoing, Producer, Sent, Tuning};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tempfile::TempDir;

/// How long a broker may take for anything. It never comes near, however busy the machine.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(120);

/// A mock cluster of one broker. It has no admin requests, and keeps 5 MiB of a partition.
pub(crate) struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Mock {
    pub(crate) fn new() -> Self {
        Mock { cluster: MockCluster::new(1).expect("a mock cluster") }
    }

    /// Makes a topic.
    pub(crate) fn topic(&self, name: &str, partitions: i32) -> Address {
        self.cluster.create_topic(name, partitions, 1).expect("a topic");
        self.address(name)
    }

    pub(crate) fn address(&self, topic: &str) -> Address {
        Address { brokers: self.cluster.bootstrap_servers(), topic: topic.into() }
    }

    pub(crate) fn cluster(&self) -> &MockCluster<'static, DefaultProducerContext> {
        &self.cluster
    }

    /// Closes all connections, and takes no new ones.
    pub(crate) fn down(&self) {
        self.cluster.broker_down(-1).expect("the mock goes down");
    }

    /// Takes connections again.
    pub(crate) fn up(&self) {
        self.cluster.broker_up(-1).expect("the mock comes up");
    }
}

/// An Apache Kafka broker on the loopback interface.
pub(crate) struct Broker {
    brokers: String,
    held: Option<Held>,
}

/// A broker that these tests have started.
struct Held {
    port: u16,
    directory: TempDir,
    /// It stops the broker when its standard input ends.
    holder: Child,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka")
}

/// A port that is free, and so are the two after it, outside of the range from which the system gives
/// ports to connections: a broker that is stopped must find it free again.
fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..4000)
        .map(|_| {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            // Test processes that run side by side begin at different ports.
            20_000 + 3 * ((std::process::id() as usize * 37 + step) % 4000) as u16
        })
        .find(|port| (*port..port + 3).all(free))
        .expect("three free ports")
}

impl Broker {
    /// The broker that tests share, which is started by the first that asks. Where
    /// `FLOODMARK_TEST_BROKER` is set to `host:port`, that one.
    pub(crate) fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var("FLOODMARK_TEST_BROKER") {
            Ok(brokers) => Broker { brokers, held: None },
            Err(_) => Broker::own(),
        })
    }

    /// A broker of its own, for a test that stops it.
    pub(crate) fn own() -> Broker {
        let directory = tempfile::tempdir().expect("a directory for a broker");
        let port = free_port();
        let mut holder = Command::new(script())
            .arg("hold")
            .arg(directory.path())
            .arg(port.to_string())
            // A key pressed at the terminal ends the tests; the holder ends after them.
            .process_group(0)
            // Little memory, and up in half the time.
            .env("KAFKA_JAVA", "-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("running scripts/kafka");
        let stdout = holder.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        // It ends by itself if the broker does not come up in time.
        BufReader::new(stdout).read_line(&mut line).expect("reading what scripts/kafka says");
        assert!(line.starts_with("running"), "scripts/kafka hold: no broker (its messages: above)");
        let brokers = format!("127.0.0.1:{port}");
        Broker { brokers, held: Some(Held { port, directory, holder }) }
    }

    /// `host:port`.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// `host:port` for those with user and password `floodmark`, by SASL PLAIN without TLS.
    pub(crate) fn brokers_with_password(&self) -> String {
        format!("127.0.0.1:{}", self.held().port + 2)
    }

    /// The address of a topic, which may not exist.
    pub(crate) fn address(&self, topic: &str) -> Address {
        Address { brokers: self.brokers.clone(), topic: topic.into() }
    }

    /// A new topic whose name begins like this. Old records are kept, whatever the broker's default.
    pub(crate) fn topic(&self, prefix: &str, partitions: i32) -> Address {
        self.topic_with(prefix, &Plan::recording(partitions))
    }

    /// The same with a configuration.
    pub(crate) fn topic_with(&self, prefix: &str, plan: &Plan) -> Address {
        let address = self.address(&random_name(prefix));
        let created = topics::create(&address, &ClientOptions::default(), plan);
        assert_eq!(created.expect("a topic"), topics::Created::New);
        address
    }

    fn held(&self) -> &Held {
        self.held.as_ref().expect("a broker that these tests have started")
    }

    fn run(&self, words: &[&str]) {
        let Held { directory, .. } = self.held();
        let ended = Command::new(script())
            .arg(words[0])
            .arg(directory.path())
            .args(&words[1..])
            .env("KAFKA_JAVA", "-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1")
            .stdout(Stdio::null())
            .status();
        assert!(ended.expect("running scripts/kafka").success(), "scripts/kafka {words:?}");
    }

    /// Stops it in an orderly way.
    pub(crate) fn stop(&self) {
        self.run(&["stop"]);
    }

    /// Starts it again, on the same port with the same data.
    pub(crate) fn start(&self) {
        self.run(&["start", &self.held().port.to_string()]);
    }

    fn signal(&self, name: &str) {
        let pid = fs::read_to_string(self.held().directory.path().join("pid")).expect("its id");
        let sent = Command::new("kill").args([&format!("-{name}"), pid.trim()]).status();
        assert!(sent.expect("running kill").success(), "kill -{name} {pid}");
    }

    /// Stops it at once: connections stay open, and nobody answers.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Goes on after a pause.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(Held { mut holder, .. }) = self.held.take() {
            drop(holder.stdin.take());
            let _ = holder.wait();
        }
    }
}

/// A name that nobody has.
pub(crate) fn random_name(prefix: &str) -> String {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let number = NAMES.fetch_add(1, Ordering::Relaxed);
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock that is set");
    format!("{prefix}-{}-{}-{number}", since.as_millis(), std::process::id())
}

/// A message as it is in a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Received {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
}

impl Received {
    /// The payload, which is text.
    pub(crate) fn text(&self) -> &str {
        let payload = self.payload.as_deref().unwrap_or_default();
        std::str::from_utf8(payload).expect("a payload of text")
    }
}

/// Sends messages and waits until all are delivered.
pub(crate) fn produce(address: &Address, messages: &[Outgoing<'_>]) {
    let producer = Producer::open(address, &ClientOptions::default(), Tuning::for_latency())
        .unwrap_or_else(|failure| panic!("{:#}", failure.error));
    for message in messages {
        send(&producer, message);
    }
    finish(&producer);
}

/// Sends a message, as soon as there is room for it.
pub(crate) fn send(producer: &Producer, message: &Outgoing<'_>) {
    let started = Instant::now();
    while producer.send(message).unwrap_or_else(|failure| panic!("{:#}", failure.error))
        == Sent::Full
    {
        assert!(started.elapsed() < STUCK_AFTER, "stuck: {producer:?}");
        producer.poll();
        std::thread::yield_now();
    }
}

/// Waits until all is delivered.
pub(crate) fn finish(producer: &Producer) {
    let started = Instant::now();
    producer
        .finish(&mut || started.elapsed() > STUCK_AFTER)
        .unwrap_or_else(|failure| panic!("{:#}", failure.error));
}

/// Polls until something holds.
pub(crate) fn poll_until(producer: &Producer, what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < STUCK_AFTER, "stuck, waiting until {what}: {producer:?}");
        producer.poll();
        std::thread::yield_now();
    }
}

/// All messages of a topic, by partition and offset.
pub(crate) fn read_all(address: &Address) -> Vec<Received> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &address.brokers)
        .set("group.id", random_name("tests"))
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(&address.topic), STUCK_AFTER).expect("a topic");
    let partitions = metadata.topics()[0].partitions().len() as i32;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment
            .add_partition_offset(&address.topic, partition, Offset::Beginning)
            .expect("an offset");
    }
    consumer.assign(&assignment).expect("an assignment");
    let (mut ended, mut received, started) = (0, Vec::new(), Instant::now());
    while ended < partitions {
        assert!(started.elapsed() < STUCK_AFTER, "stuck, reading {address}");
        match consumer.poll(Duration::from_secs(1)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => println!("reading {address}: {error}"),
            Some(Ok(message)) => received.push(Received {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis(),
                key: message.key().map(<[u8]>::to_vec),
                payload: message.payload().map(<[u8]>::to_vec),
            }),
        }
    }
    received.sort();
    received
}
