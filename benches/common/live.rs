//! Helpers for benches of a live run: a load, a consumer of alerts, and the cleanup of processes.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use floodmark::kafka::topics::{self, Plan};
use floodmark::kafka::{Address, ClientOptions};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

/// Time-out for anything that a bench waits for.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(60);

/// Child processes; killed on drop.
pub(crate) struct Children(pub(crate) Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A generated workload.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) packets: u64,
    pub(crate) pairs: &'a str,
    pub(crate) seconds: u64,
    /// The start of event time, in seconds from now.
    pub(crate) from_now: i64,
    /// `1x`, or `max`.
    pub(crate) speed: &'a str,
    pub(crate) seed: u64,
    /// `kv`, a message for each packet, or `packed`.
    pub(crate) format: &'a str,
    /// The share of packets that are IPv6.
    pub(crate) ipv6: f64,
}

impl Default for Load<'_> {
    fn default() -> Self {
        Load {
            packets: 0,
            pairs: "10k",
            seconds: 60,
            from_now: 0,
            speed: "1x",
            seed: 1,
            format: "kv",
            ipv6: 0.25,
        }
    }
}

impl Load<'_> {
    /// Starts to send the workload to a topic, a record for each packet.
    pub(crate) fn send(&self, floodmark: &str, flows: &str) -> [Child; 2] {
        let start = Command::new("date")
            .args(["-u", "-d", &format!("{} seconds", self.from_now), "+%Y-%m-%dT%H:%M:%SZ"])
            .output()
            .expect("a date");
        let start = String::from_utf8(start.stdout).expect("a date is text");
        let mut generator = Command::new(floodmark)
            .args(["generate", "--packets", &self.packets.to_string(), "--pairs", self.pairs])
            .args(["--span", &format!("{}s", self.seconds), "--start", start.trim()])
            .args(["--seed", &self.seed.to_string(), "--ipv6", &self.ipv6.to_string(), "-"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting floodmark generate");
        let sender = Command::new(floodmark)
            .args(["capture", "-", "--speed", self.speed, "--aggregate", "off"])
            .args(["--format", self.format, "--to", flows])
            .stdin(generator.stdout.take().expect("it is piped"))
            .stderr(Stdio::null())
            .spawn()
            .expect("starting floodmark capture");
        [generator, sender]
    }

    /// Sends the whole workload.
    pub(crate) fn send_all(&self, floodmark: &str, flows: &str) {
        let mut children = Children(self.send(floodmark, flows).into());
        for child in &mut children.0 {
            assert!(child.wait().expect("its end").success(), "the load was not sent");
        }
    }
}

/// Creates a topic, and returns its address.
pub(crate) fn create_topic(uri: &str, plan: &Plan) -> Address {
    let address: Address = uri.parse().expect("a topic");
    topics::create(&address, &ClientOptions::default(), plan).expect("a new topic");
    address
}

/// Waits for the change that raises or clears the limit `probe`, and returns the time that took, in milliseconds.
pub(crate) fn wait_for_change(consumer: &BaseConsumer, broken: bool) -> f64 {
    let begun = Instant::now();
    let event = if broken { "\"event\":\"raised\"" } else { "\"event\":\"cleared\"" };
    while begun.elapsed() < LOST_AFTER {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("a message");
        let text = str::from_utf8(message.payload().unwrap_or_default()).expect("text");
        if text.contains("\"probe\"") && text.contains(event) {
            return begun.elapsed().as_secs_f64() * 1e3;
        }
    }
    panic!("no {event} in {LOST_AFTER:?}");
}

/// Opens a consumer of a topic of alerts, at its beginning.
pub(crate) fn tail(address: &Address) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &address.brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        // A run with a state publishes in transactions.
        .set("isolation.level", "read_committed")
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(&address.topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&partitions).expect("assigned");
    consumer
}

/// Waits until a condition holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LOST_AFTER, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns the median, the 99th percentile and the maximum of values.
pub(crate) fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [0.5, 0.99, 1.0].map(|share| values[((values.len() - 1) as f64 * share) as usize])
}
