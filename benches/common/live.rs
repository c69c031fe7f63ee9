//! What benches of a live run need: a load, the alerts, and something that ends all that was started.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use floodmark::kafka::Address;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

/// What has not come after this will not come.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(60);

/// Processes that end with this one.
pub(crate) struct Children(pub(crate) Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A made-up workload.
pub(crate) struct Load<'a> {
    pub(crate) packets: u64,
    pub(crate) pairs: &'a str,
    pub(crate) seconds: u64,
    /// When it begins, in seconds from now.
    pub(crate) from_now: i64,
    /// `1x`, or `max`.
    pub(crate) speed: &'a str,
    pub(crate) seed: u64,
}

impl Load<'_> {
    /// Sends it to a topic, a message each.
    pub(crate) fn send(&self, floodmark: &str, flows: &str) -> [Child; 2] {
        let start = Command::new("date")
            .args(["-u", "-d", &format!("{} seconds", self.from_now), "+%Y-%m-%dT%H:%M:%SZ"])
            .output()
            .expect("a date");
        let start = String::from_utf8(start.stdout).expect("a date is text");
        let mut generator = Command::new(floodmark)
            .args(["generate", "--packets", &self.packets.to_string(), "--pairs", self.pairs])
            .args(["--span", &format!("{}s", self.seconds), "--start", start.trim()])
            .args(["--seed", &self.seed.to_string(), "-"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting floodmark generate");
        let sender = Command::new(floodmark)
            .args(["capture", "-", "--speed", self.speed, "--aggregate", "off", "--format", "kv"])
            .args(["--to", flows])
            .stdin(generator.stdout.take().expect("it is piped"))
            .stderr(Stdio::null())
            .spawn()
            .expect("starting floodmark capture");
        [generator, sender]
    }
}

/// Waits until the alerts say that the limit `probe` is broken, or no longer, in milliseconds.
pub(crate) fn until_said(consumer: &BaseConsumer, broken: bool) -> f64 {
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

/// What takes in a topic of alerts, from its beginning.
pub(crate) fn tail(address: &Address) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &address.brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(&address.topic, 0, Offset::Beginning).expect("an offset");
    consumer.assign(&partitions).expect("assigned");
    consumer
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < LOST_AFTER, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Median, 99 % and worst of some values.
pub(crate) fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [0.5, 0.99, 1.0].map(|share| values[((values.len() - 1) as f64 * share) as usize])
}
