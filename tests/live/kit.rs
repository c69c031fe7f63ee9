//! Topics with traffic, and the results of replays that runs are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use floodmark::kafka::{Address, ClientOptions, Outgoing, Producer, Tuning};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

use crate::common::broker::{self, Broker, Transaction, random_name};
use crate::common::now_ms;
use crate::replay::fold::{self, Object, changes, fold, text};
use crate::replay::pcap::{Packet, pcap};
use crate::replay::run::{Done, Live, Place, STUCK_AFTER, SignalTarget};
use crate::replay::traffic::date;

/// Limits that traffic of any kind breaks somewhere.
pub(super) const LIMITS: &str = r#"
{"limit_name":"max-pair","limit_value":20000,"effective_date":"1970-01-01"}
{"limit_name":"max-source","limit_value":100,"effective_date":"1970-01-01","per":"source","metric":"packets"}
{"limit_name":"max-host","limit_value":50000,"effective_date":"1970-01-01","per":"host"}
{"limit_name":"min-destination","limit_value":500,"effective_date":"1970-01-01","per":"destination"}
{"limit_name":"min-total","limit_value":1e6,"effective_date":"1970-01-01","per":"total"}
{"limit_name":"max","limit_value":1,"effective_date":"1970-01-01","per":"total"}
"#;

/// The final violations of a replay, by id.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ReplayResult {
    violations: BTreeMap<String, Object>,
    /// The latest window start that is compared. A run whose input is idle goes on by the wall clock, and judges the
    /// silence in its windows of the present.
    until: String,
}

/// The distance from the present of the windows that are compared: the captures are older.
const PRESENT_MS: u64 = 24 * 3600 * 1000;

impl ReplayResult {
    /// Runs a replay of captures that are older than a day; `what` is its command line without the limits.
    pub(super) fn of(place: &Place, what: &str) -> Self {
        let replayed = Self::until(place, what, date(now_ms() - PRESENT_MS));
        let is_compared = |violation| text(violation, "window_start") <= replayed.until.as_str();
        assert!(replayed.violations.values().all(is_compared), "a capture of the present: {what}");
        replayed
    }

    /// Runs a replay of which all windows are compared, for a run that ends with its input.
    pub(super) fn whole(place: &Place, what: &str) -> Self {
        Self::until(place, what, date(u64::from(u32::MAX) * 1000))
    }

    /// Runs a replay, of which windows that start later than `until` are not compared.
    fn until(place: &Place, what: &str, until: String) -> Self {
        let line = format!("replay {what} --limits limits.jsonl");
        let violations = fold(&place.floodmark(&line).stdout(0));
        assert!(!violations.is_empty(), "nothing is violated: {line}");
        ReplayResult { violations, until }
    }

    /// Marks windows that start at or before this time as partial, and removes their violations of a `min`.
    pub(super) fn partial_until(mut self, last: &str) -> Self {
        let partial = |violation: &Object| text(violation, "window_start") <= last;
        self.violations.retain(|_, one| !(partial(one) && one["bound"] == "min"));
        let partial_ones = self.violations.values_mut().filter(|one| partial(one));
        let mut count = 0;
        for violation in partial_ones {
            violation.insert("partial".into(), true.into());
            count += 1;
        }
        assert!(count > 0 && count < self.violations.len(), "{count} are partial");
        self
    }

    /// Returns those of the violations that are compared, as lines.
    fn lines(&self, violations: &BTreeMap<String, Object>) -> String {
        // All times have the same notation, so that texts compare like times.
        let is_compared = |object: &&Object| text(object, "window_start") <= self.until.as_str();
        let line = |object: &Object| Value::from(object.clone()).to_string() + "\n";
        violations.values().filter(is_compared).map(line).collect()
    }

    /// Asserts that the final violations of a run equal those of the replay.
    pub(super) fn assert_stands(
        &self,
        violations: BTreeMap<String, Object>,
        what: impl FnOnce() -> String,
    ) {
        fold::assert_same(&self.lines(&self.violations), &self.lines(&violations), || {
            format!("only in the replay (here), or only in the run (there)\n{}", what())
        });
    }

    /// Returns the ids of the violations.
    fn ids(&self) -> BTreeSet<String> {
        self.violations.keys().cloned().collect()
    }

    /// Reads standard output until every violation of the replay has settled.
    pub(super) fn wait_for(&self, run: &mut Live) {
        let mut waits = self.ids();
        changes(run.lines()).iter().for_each(|change| settle(&mut waits, change));
        while !waits.is_empty() {
            changes(&run.line()).iter().for_each(|change| settle(&mut waits, change));
        }
    }

    /// Waits until every violation has settled in a run, ends the run, and compares its final violations.
    pub(super) fn check_run(&self, mut run: Live) -> Done {
        self.wait_for(&mut run);
        run.signal("TERM", SignalTarget::Parent);
        let done = run.finish().expect(0);
        self.assert_stands(fold(&done.stdout), || {
            format!("{}$ {}", done.stderr, done.command_line())
        });
        assert_no_late_drops(&done);
        done
    }
}

fn settle(waits: &mut BTreeSet<String>, change: &Object) {
    if change["settled"] == true && text(change, "event") != "cleared" {
        waits.remove(text(change, "id"));
    }
}

/// Fails if a run has dropped late records.
pub(super) fn assert_no_late_drops(done: &Done) {
    if done.stderr.contains("came after their window had settled") {
        done.fail("records were dropped");
    }
}

/// Sends captures to a topic by `floodmark capture`; `what` is its files and options.
pub(super) fn capture(place: &Place, what: &str, to: &Address) {
    place.floodmark(&format!("capture {what} --to {to}")).run().expect(0);
}

/// Creates a topic with the records of captures.
pub(super) fn topic_of(place: &Place, what: &str, partitions: i32) -> Address {
    let address = Broker::shared().topic("flows", partitions);
    capture(place, what, &address);
    address
}

/// Sends packets, each as a message with the pair as its key, and keeps them for a replay.
pub(super) struct TopicFeed {
    address: Address,
    producer: Producer,
    sent: Vec<Packet>,
}

/// The distance of the packets of [`TopicFeed::close`] from the last packet; longer than `--max-gap`.
const LATER_MS: u64 = 25 * 3600 * 1000;

impl TopicFeed {
    pub(super) fn to(address: &Address) -> Self {
        // With this option the feed reconnects to a restarted broker before clients with the default do.
        let options = ClientOptions::new(["reconnect.backoff.max.ms=200"]).expect("an option");
        let producer = Producer::open(address, &options, Tuning::for_throughput());
        let producer = producer.unwrap_or_else(|failure| panic!("{:#}", failure.error));
        TopicFeed { address: address.clone(), producer, sent: Vec::new() }
    }

    /// Returns the address of the topic.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a packet to a partition, without waiting for its delivery.
    pub(super) fn send(&mut self, partition: i32, packet: Packet) {
        self.send_packet(partition, &packet);
        self.sent.push(packet);
    }

    /// Sends a packet in a transaction, and waits until the broker has it.
    pub(super) fn send_in(&mut self, transaction: &Transaction, partition: i32, packet: Packet) {
        let Packet { ms, source, destination, bytes } = packet;
        let (key, payload) = (format!("{source} {destination}"), bytes.to_string());
        transaction.send(partition, &key, payload.as_bytes(), ms);
        self.sent.push(packet);
    }

    fn send_packet(&self, partition: i32, packet: &Packet) {
        let Packet { ms, source, destination, bytes } = packet;
        self.send_raw(
            partition,
            Some(&format!("{source} {destination}")),
            bytes.to_string().as_bytes(),
            *ms,
        );
    }

    /// Sends any message.
    pub(super) fn send_raw(&self, partition: i32, key: Option<&str>, payload: &[u8], ms: u64) {
        let message = Outgoing {
            key: key.map(str::as_bytes),
            payload: Some(payload),
            timestamp_ms: Some(ms as i64),
            partition: Some(partition),
            ..Outgoing::default()
        };
        broker::send(&self.producer, &message);
    }

    /// Waits until all messages are delivered.
    pub(super) fn flush(&self) {
        broker::finish(&self.producer);
    }

    /// Returns the packets sent, but for those of [`TopicFeed::close`].
    pub(super) fn sent(&self) -> &[Packet] {
        &self.sent
    }

    fn last_ms(&self) -> u64 {
        self.sent.iter().map(|packet| packet.ms).max().expect("packets were sent")
    }

    /// Sends a much later packet to each partition, so that all earlier windows settle without a time-out.
    pub(super) fn close(&self, partitions: i32) {
        let ms = self.last_ms() + LATER_MS;
        let later = crate::replay::pcap::packet(ms, "192.0.2.1", "192.0.2.2", 20);
        (0..partitions).for_each(|partition| self.send_packet(partition, &later));
        self.flush();
    }

    /// Replays the packets; windows after the last packet are not compared.
    pub(super) fn replay(&self, place: &Place, options: &str) -> ReplayResult {
        place.write("fed.pcap", pcap(&self.sent));
        let last_ms = self.last_ms();
        ReplayResult::until(place, &format!("fed.pcap {options}"), date(last_ms - last_ms % 1000))
    }
}

/// A topic of alerts, folded by a consumer: the last change of each id.
pub(super) struct AlertTopic {
    consumer: BaseConsumer,
    standing: BTreeMap<String, Object>,
    pub(super) address: Address,
}

impl AlertTopic {
    /// Creates the topic with one partition, so that its order is total.
    pub(super) fn new(broker: &Broker) -> Self {
        let address = broker.topic_with("alerts", &floodmark::kafka::topics::Plan::state(1));
        let consumer = consumer(&address, &random_name("tests"));
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&address.topic, 0, Offset::Beginning).expect("an offset");
        consumer.assign(&assignment).expect("an assignment");
        AlertTopic { consumer, standing: BTreeMap::new(), address }
    }

    /// Returns the next change.
    fn next(&mut self) -> Object {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < STUCK_AFTER, "stuck, waiting for alerts: {:?}", self.address);
            let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(200)) else {
                continue;
            };
            let payload = message.payload().expect("a change");
            let change: Object = serde_json::from_slice(payload).expect("a change is JSON");
            let id = text(&change, "id").to_owned();
            assert_eq!(message.key(), Some(id.as_bytes()), "the key is the id");
            let mut stands = change.clone();
            for field in ["event", "reason", "as_of"] {
                stands.remove(field).expect("every change has it");
            }
            match text(&change, "event") {
                "cleared" => drop(self.standing.remove(&id)),
                _ => drop(self.standing.insert(id, stands)),
            }
            return change;
        }
    }

    /// Reads until a change satisfies a condition.
    pub(super) fn wait_until(&mut self, holds: impl Fn(&Object) -> bool) {
        while !holds(&self.next()) {}
    }

    /// Reads until every violation of a replay has settled.
    pub(super) fn wait_for(&mut self, replayed: &ReplayResult) {
        let mut waits = replayed.ids();
        // Changes read before count, too.
        self.standing.values().for_each(|stands| {
            if stands["settled"] == true {
                waits.remove(text(stands, "id"));
            }
        });
        while !waits.is_empty() {
            settle(&mut waits, &self.next());
        }
    }

    /// Returns the violations that stand.
    pub(super) fn standing(&self) -> BTreeMap<String, Object> {
        self.standing.clone()
    }
}

fn consumer(address: &Address, group: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", &address.brokers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer")
}

/// Returns the committed offset and the end offset of each partition.
pub(super) fn committed(address: &Address, group: &str, partitions: i32) -> Vec<(i64, i64)> {
    let consumer = consumer(address, group);
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&address.topic, 0, partitions - 1);
    let list = consumer.committed_offsets(list, STUCK_AFTER).expect("the offsets of a group");
    (0..partitions)
        .map(|partition| {
            let committed = list
                .find_partition(&address.topic, partition)
                .expect("the partition was requested");
            let ends = consumer.fetch_watermarks(&address.topic, partition, STUCK_AFTER);
            let end = ends.expect("ends").1;
            (committed.offset().to_raw().expect("an offset"), end)
        })
        .collect()
}

/// Opens an admin client.
pub(super) fn admin(address: &Address) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", &address.brokers)
        .create()
        .expect("an admin client")
}

/// Waits for the response to an admin request.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

/// Deletes the records of a partition before an offset.
///
/// The request is repeated after a time-out, since librdkafka sometimes never completes it.
pub(super) fn delete_records(topic: &Address, partition: i32, before: i64) {
    let mut until = TopicPartitionList::new();
    until.add_partition_offset(&topic.topic, partition, Offset::Offset(before)).expect("an offset");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    for _ in 0..5 {
        // A dropped client would lose the response.
        let admin = admin(topic);
        let options = AdminOptions::new();
        let deletion = admin.delete_records(&until, &options);
        let answered = runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), deletion).await });
        if let Ok(deleted) = answered {
            deleted.expect("the records are deleted");
            return;
        }
    }
    panic!("no response to the deletion of records of partition {partition} of {topic}");
}
