//! Brokers for tests: mock clusters within the process where they suffice, and Apache Kafka itself.
//!
//! The script `scripts/kafka hold` owns a real broker, and stops it with the tests.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use floodmark::kafka::topics::{self, Plan};
use floodmark::kafka::{Address, ClientOptions, Outgoing, Producer, Sent, Tuning};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::test_server::{TestServer, free_ports, script};

/// Time-out of all waiting for a broker; far above anything that a busy machine needs.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(120);

/// A mock cluster of one broker. It answers no admin requests, and keeps 5 MiB of each partition.
pub(crate) struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Mock {
    pub(crate) fn new() -> Self {
        Mock { cluster: MockCluster::new(1).expect("a mock cluster") }
    }

    /// Creates a topic.
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

    /// Closes all connections, and accepts no new ones.
    pub(crate) fn down(&self) {
        self.cluster.broker_down(-1).expect("the mock goes down");
    }

    /// Accepts connections again.
    pub(crate) fn up(&self) {
        self.cluster.broker_up(-1).expect("the mock comes up");
    }
}

/// An Apache Kafka broker on the loopback interface.
pub(crate) struct Broker {
    brokers: String,
    test_server: Option<TestServer>,
}

impl Broker {
    /// Returns the broker that tests share; the first caller starts it. If `FLOODMARK_TEST_BROKER` is set to
    /// `host:port`, that broker.
    pub(crate) fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var("FLOODMARK_TEST_BROKER") {
            Ok(brokers) => Broker { brokers, test_server: None },
            Err(_) => Broker::own(),
        })
    }

    /// Starts another broker, for a test that stops it.
    pub(crate) fn own() -> Broker {
        let port = free_ports(20_000, 3);
        // These options save memory, and halve the time to start.
        let java = "-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1";
        let test_server = TestServer::start("kafka", port, &[("KAFKA_JAVA", java)]);
        let brokers = format!("127.0.0.1:{port}");
        Broker { brokers, test_server: Some(test_server) }
    }

    /// `host:port`.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// `host:port` of the listener for SASL PLAIN without TLS, with user and password `floodmark`.
    pub(crate) fn brokers_with_password(&self) -> String {
        format!("127.0.0.1:{}", self.test_server().port + 2)
    }

    /// Returns the address of a topic, which may not exist.
    pub(crate) fn address(&self, topic: &str) -> Address {
        Address { brokers: self.brokers.clone(), topic: topic.into() }
    }

    /// Creates a topic with this prefix. It keeps old records, whatever the broker's default.
    pub(crate) fn topic(&self, prefix: &str, partitions: i32) -> Address {
        self.topic_with(prefix, &Plan::recording(partitions))
    }

    /// Creates a topic with this prefix and configuration.
    pub(crate) fn topic_with(&self, prefix: &str, plan: &Plan) -> Address {
        let address = self.address(&random_name(prefix));
        let created = topics::create(&address, &ClientOptions::default(), plan);
        assert_eq!(created.expect("a topic"), topics::Created::New);
        address
    }

    fn admin(&self) -> (AdminClient<DefaultClientContext>, tokio::runtime::Runtime) {
        let admin = ClientConfig::new().set("bootstrap.servers", &self.brokers).create();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        (admin.expect("an admin client"), runtime.expect("a runtime"))
    }

    /// Deletes a topic, and waits until it is gone.
    pub(crate) fn delete(&self, address: &Address) {
        let (admin, runtime) = self.admin();
        let deleted = admin.delete_topics(&[&address.topic], &AdminOptions::new());
        let deleted = runtime.block_on(deleted).expect("a response");
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .create()
            .expect("a consumer");
        let began = Instant::now();
        let is_there = || {
            let metadata = client.fetch_metadata(Some(&address.topic), STUCK_AFTER);
            metadata.expect("metadata").topics().iter().any(|topic| topic.error().is_none())
        };
        while is_there() {
            assert!(began.elapsed() < STUCK_AFTER, "stuck, deleting {address}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Changes a setting of a topic.
    pub(crate) fn alter(&self, address: &Address, name: &str, value: &str) {
        let (admin, runtime) = self.admin();
        let change = AlterConfig::new(ResourceSpecifier::Topic(&address.topic)).set(name, value);
        let altered = runtime.block_on(admin.alter_configs([&change], &AdminOptions::new()));
        let altered = altered.expect("a response");
        assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    }

    fn test_server(&self) -> &TestServer {
        self.test_server.as_ref().expect("a broker that these tests have started")
    }

    fn run(&self, words: &[&str]) {
        let TestServer { directory, .. } = self.test_server();
        let ended = Command::new(script("kafka"))
            .arg(words[0])
            .arg(directory.path())
            .args(&words[1..])
            .env("KAFKA_JAVA", "-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1")
            .stdout(Stdio::null())
            .status();
        assert!(ended.expect("running scripts/kafka").success(), "scripts/kafka {words:?}");
    }

    /// Shuts the broker down in good order.
    pub(crate) fn stop(&self) {
        self.run(&["stop"]);
    }

    /// Starts the broker again, on the same port with the same data.
    pub(crate) fn start(&self) {
        self.run(&["start", &self.test_server().port.to_string()]);
    }

    fn signal(&self, name: &str) {
        let pid =
            fs::read_to_string(self.test_server().directory.path().join("pid")).expect("its id");
        let sent = Command::new("kill").args([&format!("-{name}"), pid.trim()]).status();
        assert!(sent.expect("running kill").success(), "kill -{name} {pid}");
    }

    /// Kills the broker. The messages that it has acknowledged stay.
    pub(crate) fn kill(&self) {
        self.signal("KILL");
        let TestServer { port, .. } = *self.test_server();
        let started = Instant::now();
        // Threads that have not ended yet have the ports open, also when the process is a zombie.
        while !(port..port + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            assert!(
                started.elapsed() < STUCK_AFTER,
                "stuck: the broker at port {port} does not end"
            );
            std::thread::yield_now();
        }
    }

    /// Suspends the broker's process: connections stay open, without responses.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Resumes the broker after a pause.
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }
}

/// Deletes a topic.
pub(crate) fn delete(address: &Address) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &address.brokers)
        .create()
        .expect("an admin client");
    let deleted = admin.delete_topics(&[&address.topic], &AdminOptions::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let deleted = runtime.block_on(deleted).expect("a response");
    assert!(deleted[0].is_ok(), "{deleted:?}");
}

/// Creates a deleted topic again, once the brokers have finished deleting it.
pub(crate) fn create_again(address: &Address, plan: &Plan) {
    let started = Instant::now();
    let create = || topics::create(address, &ClientOptions::default(), plan).expect("a topic");
    while create() != topics::Created::New {
        assert!(started.elapsed() < STUCK_AFTER, "stuck, creating {address}");
    }
}

/// A producer with an open transaction.
pub(crate) struct Transaction {
    topic: String,
    producer: BaseProducer,
}

impl Transaction {
    /// Begins a transaction in a topic. The transactional id is the name of the topic.
    pub(crate) fn begin(address: &Address) -> Self {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &address.brokers)
            .set("transactional.id", &address.topic)
            // The broker aborts it later than any test ends.
            .set("transaction.timeout.ms", "900000")
            .create()
            .expect("a producer");
        producer.init_transactions(STUCK_AFTER).expect("transactions");
        producer.begin_transaction().expect("a transaction");
        Transaction { topic: address.topic.clone(), producer }
    }

    /// Sends a message, and waits until the broker has it.
    pub(crate) fn send(&self, partition: i32, key: &str, payload: &[u8], ms: u64) {
        let record = BaseRecord::to(&self.topic).partition(partition).key(key).payload(payload);
        self.producer
            .send(record.timestamp(ms as i64))
            .map_err(|(error, _)| error)
            .expect("capacity");
        self.producer.flush(STUCK_AFTER).expect("delivered");
    }

    /// Commits the transaction.
    pub(crate) fn commit(&self) {
        self.producer.commit_transaction(STUCK_AFTER).expect("committed");
    }

    /// Aborts the transaction.
    pub(crate) fn abort(&self) {
        self.producer.abort_transaction(STUCK_AFTER).expect("aborted");
    }
}

/// Returns an unused name.
pub(crate) fn random_name(prefix: &str) -> String {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let number = NAMES.fetch_add(1, Ordering::Relaxed);
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock that is set");
    format!("{prefix}-{}-{}-{number}", since.as_millis(), std::process::id())
}

/// A message read from a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Received {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
}

impl Received {
    /// Returns the payload as text.
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

/// Sends a message, as soon as the producer's queue has capacity.
pub(crate) fn send(producer: &Producer, message: &Outgoing<'_>) {
    let started = Instant::now();
    while producer.send(message).unwrap_or_else(|failure| panic!("{:#}", failure.error))
        == Sent::Full
    {
        assert!(started.elapsed() < STUCK_AFTER, "stuck: {producer:?}");
        producer.poll_for(Duration::from_millis(5));
    }
}

/// Waits until all messages are delivered.
pub(crate) fn finish(producer: &Producer) {
    let started = Instant::now();
    producer
        .finish(&mut || started.elapsed() > STUCK_AFTER)
        .unwrap_or_else(|failure| panic!("{:#}", failure.error));
}

/// Polls a producer until a condition holds.
pub(crate) fn poll_until(producer: &Producer, what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < STUCK_AFTER, "stuck, waiting until {what}: {producer:?}");
        producer.poll_for(Duration::from_millis(5));
    }
}

/// Reads all messages of a topic, sorted by partition and offset.
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
