//! Topics with traffic in them, and the answers that runs over them are held to.

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
use crate::replay::fold::{self, Object, changes, fold, text};
use crate::replay::pcap::{Packet, pcap};
use crate::replay::run::{Done, Live, Place, STUCK_AFTER, Whom};
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

/// The settled answer: what stands at the end, by id.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    violations: BTreeMap<String, Object>,
    /// What begins later than this is not compared, where it is given.
    until: Option<String>,
}

impl Answer {
    /// What a replay says; `what` is its command line without the limits.
    pub(super) fn of_replay(place: &Place, what: &str) -> Self {
        let line = format!("replay {what} --limits limits.jsonl");
        let answer = Answer { violations: fold(&place.floodmark(&line).stdout(0)), until: None };
        assert!(!answer.violations.is_empty(), "nothing is violated: {line}");
        answer
    }

    /// The same, where windows that start at or before this time are partial: nothing in them is judged by a
    /// `min`.
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

    /// As lines to compare with `other` ones: those of windows that both know of.
    fn lines(&self, until: Option<&String>) -> String {
        // All times are written alike, to the second.
        let known = |object: &&Object| {
            until.is_none_or(|until| text(object, "window_start") <= until.as_str())
        };
        let line = |object: &Object| Value::from(object.clone()).to_string() + "\n";
        self.violations.values().filter(known).map(line).collect()
    }

    /// Holds what stands at the end to this answer.
    pub(super) fn assert_stands(
        &self,
        violations: BTreeMap<String, Object>,
        what: impl FnOnce() -> String,
    ) {
        let other = Answer { violations, until: None };
        let until = self.until.as_ref();
        fold::assert_same(&self.lines(until), &other.lines(until), || {
            format!("only in the replay (here), or in the run (there)\n{}", what())
        });
    }

    /// The ids of all that stands.
    fn ids(&self) -> BTreeSet<String> {
        self.violations.keys().cloned().collect()
    }

    /// Reads standard output until every violation of this answer has been said to be settled.
    pub(super) fn wait_for(&self, run: &mut Live) {
        let mut waits = self.ids();
        changes(run.lines()).iter().for_each(|change| settle(&mut waits, change));
        while !waits.is_empty() {
            changes(&run.line()).iter().for_each(|change| settle(&mut waits, change));
        }
    }

    /// Waits until a run has said all of this, asks it to end, and holds all that it has said to it.
    pub(super) fn hold(&self, mut run: Live) -> Done {
        self.wait_for(&mut run);
        run.signal("TERM", Whom::Parent);
        let done = run.finish().expect(0);
        self.assert_stands(fold(&done.stdout), || format!("{}$ {}", done.stderr, done.shown()));
        nothing_lost(&done);
        done
    }
}

fn settle(waits: &mut BTreeSet<String>, change: &Object) {
    if change["settled"] == true && text(change, "event") != "cleared" {
        waits.remove(text(change, "id"));
    }
}

/// Fails if a run has dropped records since they were late.
pub(super) fn nothing_lost(done: &Done) {
    if done.stderr.contains("came after their window had settled") {
        done.fail("records were dropped");
    }
}

/// Sends captures to a topic by `floodmark capture`; `what` are its files and options.
pub(super) fn capture(place: &Place, what: &str, to: &Address) {
    place.floodmark(&format!("capture {what} --to {to}")).run().expect(0);
}

/// A new topic with captures in it.
pub(super) fn topic_of(place: &Place, what: &str, partitions: i32) -> Address {
    let address = Broker::shared().topic("flows", partitions);
    capture(place, what, &address);
    address
}

/// Sends packets, each as a message with the pair as its key, and keeps them to be replayed.
pub(super) struct Feed {
    producer: Producer,
    sent: Vec<Packet>,
}

/// How much later than all else what [`Feed::close`] sends is: longer than a break in observation.
const LATER_MS: u64 = 25 * 3600 * 1000;

impl Feed {
    pub(super) fn to(address: &Address) -> Self {
        // It hears of a broker that is back before those do who wait as long as usual.
        let options = ClientOptions::new(["reconnect.backoff.max.ms=200"]).expect("an option");
        let producer = Producer::open(address, &options, Tuning::for_throughput());
        let producer = producer.unwrap_or_else(|failure| panic!("{:#}", failure.error));
        Feed { producer, sent: Vec::new() }
    }

    /// Sends a packet to a partition. It is delivered some time after.
    pub(super) fn give(&mut self, partition: i32, packet: Packet) {
        self.message(partition, &packet);
        self.sent.push(packet);
    }

    /// Sends a packet in a transaction, and waits until the broker has it.
    pub(super) fn give_in(&mut self, transaction: &Transaction, partition: i32, packet: Packet) {
        let Packet { ms, source, destination, bytes } = packet;
        let (key, payload) = (format!("{source} {destination}"), bytes.to_string());
        transaction.give(partition, &key, payload.as_bytes(), ms);
        self.sent.push(packet);
    }

    fn message(&self, partition: i32, packet: &Packet) {
        let Packet { ms, source, destination, bytes } = packet;
        self.raw(
            partition,
            Some(&format!("{source} {destination}")),
            bytes.to_string().as_bytes(),
            *ms,
        );
    }

    /// Sends any message.
    pub(super) fn raw(&self, partition: i32, key: Option<&str>, payload: &[u8], ms: u64) {
        let message = Outgoing {
            key: key.map(str::as_bytes),
            payload: Some(payload),
            timestamp_ms: Some(ms as i64),
            partition: Some(partition),
            ..Outgoing::default()
        };
        broker::send(&self.producer, &message);
    }

    /// Waits until all is delivered.
    pub(super) fn flush(&self) {
        broker::finish(&self.producer);
    }

    /// The packets that were sent, but for those of [`Feed::close`].
    pub(super) fn sent(&self) -> &[Packet] {
        &self.sent
    }

    fn last_ms(&self) -> u64 {
        self.sent.iter().map(|packet| packet.ms).max().expect("packets were sent")
    }

    /// Sends packets from much later to all partitions: no time-out is needed for all before to settle.
    pub(super) fn close(&self, partitions: i32) {
        let ms = self.last_ms() + LATER_MS;
        let later = crate::replay::pcap::packet(ms, "192.0.2.1", "192.0.2.2", 20);
        (0..partitions).for_each(|partition| self.message(partition, &later));
        self.flush();
    }

    /// What a replay of the packets says of the windows up to the last one with a packet.
    pub(super) fn answer(&self, place: &Place, options: &str) -> Answer {
        place.write("fed.pcap", pcap(&self.sent));
        let answer = Answer::of_replay(place, &format!("fed.pcap {options}"));
        let last_ms = self.last_ms();
        Answer { until: Some(date(last_ms - last_ms % 1000)), ..answer }
    }
}

/// A topic of alerts, as one sees it who folds it: the last word on each id.
pub(super) struct AlertTopic {
    consumer: BaseConsumer,
    standing: BTreeMap<String, Object>,
    pub(super) address: Address,
}

impl AlertTopic {
    /// Of one partition, so that the order is one.
    pub(super) fn new(broker: &Broker) -> Self {
        let address = broker.topic_with("alerts", &floodmark::kafka::topics::Plan::state(1));
        let consumer = consumer(&address, &random_name("tests"));
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&address.topic, 0, Offset::Beginning).expect("an offset");
        consumer.assign(&assignment).expect("an assignment");
        AlertTopic { consumer, standing: BTreeMap::new(), address }
    }

    /// The next change.
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
            for said in ["event", "reason", "as_of"] {
                stands.remove(said).expect("every change has it");
            }
            match text(&change, "event") {
                "cleared" => drop(self.standing.remove(&id)),
                _ => drop(self.standing.insert(id, stands)),
            }
            return change;
        }
    }

    /// Reads until a change is as it should be.
    pub(super) fn wait_until(&mut self, holds: impl Fn(&Object) -> bool) {
        while !holds(&self.next()) {}
    }

    /// Reads until all of an answer has been said to be settled.
    pub(super) fn wait_for(&mut self, answer: &Answer) {
        let mut waits = answer.ids();
        // What was read before counts, too.
        self.standing.values().for_each(|stands| {
            if stands["settled"] == true {
                waits.remove(text(stands, "id"));
            }
        });
        while !waits.is_empty() {
            settle(&mut waits, &self.next());
        }
    }

    /// What stands.
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

/// The offsets that a group has committed, and where the partitions end.
pub(super) fn committed(address: &Address, group: &str, partitions: i32) -> Vec<(i64, i64)> {
    let consumer = consumer(address, group);
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&address.topic, 0, partitions - 1);
    let list = consumer.committed_offsets(list, STUCK_AFTER).expect("the offsets of a group");
    (0..partitions)
        .map(|partition| {
            let committed = list.find_partition(&address.topic, partition).expect("asked for");
            let ends = consumer.fetch_watermarks(&address.topic, partition, STUCK_AFTER);
            let end = ends.expect("ends").1;
            (committed.offset().to_raw().expect("an offset"), end)
        })
        .collect()
}

/// Someone who changes topics.
pub(super) fn admin(address: &Address) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", &address.brokers)
        .create()
        .expect("an admin client")
}

/// Waits for an answer to someone who changes topics.
pub(super) fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(answer)
}

/// Deletes the records of a partition before an offset.
///
/// The request is repeated, since librdkafka now and then never answers it: without a bound the test would
/// wait for ever.
pub(super) fn delete_records(topic: &Address, partition: i32, before: i64) {
    let mut until = TopicPartitionList::new();
    until.add_partition_offset(&topic.topic, partition, Offset::Offset(before)).expect("an offset");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    for _ in 0..5 {
        // Kept until the answer has come: a client that is dropped does not pass it on.
        let admin = admin(topic);
        let options = AdminOptions::new();
        let answer = admin.delete_records(&until, &options);
        let answered =
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), answer).await });
        if let Ok(deleted) = answered {
            deleted.expect("the records are deleted");
            return;
        }
    }
    panic!("no broker has answered to delete records of partition {partition} of {topic}");
}
