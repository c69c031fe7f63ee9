//! The guarantees of the producer, against a mock cluster within the process.

use std::collections::HashSet;
use std::net::TcpListener;
use std::time::Instant;

use floodmark::base::error::{Exit, Failure};
use floodmark::kafka::topics::{self, REACH_TIMEOUT};
use floodmark::kafka::{Address, ClientOptions, Error, Outgoing, Producer, Sent, Tuning};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::common::broker::{Mock, finish, poll_until, produce, read_all, send};

fn open(address: &Address, tuning: Tuning) -> Producer {
    Producer::open(address, &ClientOptions::default(), tuning)
        .unwrap_or_else(|failure| panic!("{:#}", failure.error))
}

fn text(payload: &str) -> Outgoing<'_> {
    Outgoing { payload: Some(payload.as_bytes()), ..Outgoing::default() }
}

/// Returns the exit code and the message of a failure.
fn exit_and_message(failure: Failure) -> (Exit, String) {
    (failure.exit, format!("{:#}", failure.error))
}

#[test]
fn messages_are_delivered_as_they_were_sent() {
    let mock = Mock::new();
    let address = mock.topic("flows", 3);
    let messages = [
        Outgoing { timestamp_ms: Some(1_000_000_000_000), partition: Some(2), ..text("a") },
        Outgoing { key: Some(b"k"), partition: Some(2), ..text("") },
        // A tombstone.
        Outgoing { key: Some(b"k"), payload: None, partition: Some(2), ..Outgoing::default() },
        // librdkafka would replace the timestamp 0 by the time of sending.
        Outgoing { timestamp_ms: Some(0), partition: Some(2), ..text("old") },
        text("anywhere"),
    ];
    produce(&address, &messages);
    let received = read_all(&address);
    assert_eq!(received.len(), messages.len());
    let there: Vec<_> = received.iter().filter(|message| message.partition == 2).collect();
    assert_eq!(there[0].timestamp_ms, Some(1_000_000_000_000));
    assert_eq!((there[0].key.as_deref(), there[0].text()), (None, "a"));
    assert_eq!(there[1].key.as_deref(), Some(&b"k"[..]));
    assert_eq!((there[2].key.as_deref(), &there[2].payload), (Some(&b"k"[..]), &None));
    assert_eq!((there[3].timestamp_ms, there[3].text()), (Some(1), "old"));
}

#[test]
fn delivery_reports_are_counted() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_latency());
    for _ in 0..1000 {
        send(&producer, &Outgoing { key: Some(b"k"), ..text("12345") });
    }
    finish(&producer);
    let counts = producer.counts();
    assert_eq!((counts.queued, counts.delivered, counts.failed), (1000, 1000, 0));
    assert_eq!((counts.delivered_bytes, counts.waiting()), (6000, 0));
    assert!(producer.failure().is_none() && producer.reachable());
}

#[test]
fn keys_are_assigned_to_the_partitions_that_java_clients_choose() {
    let mock = Mock::new();
    let address = mock.topic("alerts", 7);
    // Of murmur2("21") and others, by org.apache.kafka.common.utils.Utils: (hash & 0x7fffffff) % 7.
    for (key, hash) in [("21", -973_932_308_i32), ("foobar", -790_332_482)] {
        produce(&address, &[Outgoing { key: Some(key.as_bytes()), ..text(key) }]);
        let received = read_all(&address);
        let found = received.iter().find(|message| message.text() == key).expect("delivered");
        assert_eq!(found.partition, (hash & 0x7fff_ffff) % 7, "{key}");
    }
}

#[test]
fn full_queue_is_returned_and_loses_no_message() {
    let mock = Mock::new();
    let address = mock.topic("flows", 1);
    let tuning = Tuning { queue_messages: 10, ..Tuning::for_throughput() };
    let producer = open(&address, tuning);
    mock.down();
    let mut accepted = 0;
    while producer.send(&text(&accepted.to_string())).expect("an outage is no failure")
        == Sent::Queued
    {
        accepted += 1;
        assert!(accepted <= 10);
    }
    assert_eq!((accepted, producer.counts().queued), (10, 10));
    poll_until(&producer, "it is unreachable", || !producer.reachable());
    assert!(producer.failure().is_none());
    mock.up();
    // The queue has capacity again.
    send(&producer, &text("10"));
    finish(&producer);
    assert!(producer.reachable());
    let sent: Vec<_> = read_all(&address).iter().map(|message| message.text().to_owned()).collect();
    assert_eq!(sent, (0..=10).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn outage_loses_and_duplicates_no_message() {
    let mock = Mock::new();
    let address = mock.topic("flows", 4);
    let producer = open(&address, Tuning::for_latency());
    for number in 0..5000 {
        match number {
            1000 | 3000 => mock.down(),
            2000 | 4000 => mock.up(),
            _ => {}
        }
        send(&producer, &text(&number.to_string()));
        producer.poll();
    }
    finish(&producer);
    let received = read_all(&address);
    let different: HashSet<_> = received.iter().map(|message| message.text()).collect();
    assert_eq!((received.len(), different.len()), (5000, 5000));
    assert_eq!(producer.counts().delivered, 5000);
}

#[test]
fn end_of_an_outage_is_detected_without_sending() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_latency());
    send(&producer, &text("a"));
    finish(&producer);
    mock.down();
    poll_until(&producer, "it is unreachable", || !producer.reachable());
    mock.up();
    poll_until(&producer, "it is reachable", || producer.reachable());
}

#[test]
fn undelivered_messages_are_abandoned_on_request() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_throughput());
    mock.down();
    send(&producer, &text("a"));
    poll_until(&producer, "it is unreachable", || !producer.reachable());
    let mut polls = 0;
    let mut give_up = || {
        polls += 1;
        polls == 3
    };
    let (exit, message) =
        exit_and_message(producer.finish(&mut give_up).expect_err("nobody is there"));
    assert_eq!((exit, polls), (Exit::Unavailable, 3));
    assert!(message.starts_with("1 messages to topic \"flows\" were not delivered: "), "{message}");
}

#[test]
fn oversized_message_is_rejected_with_its_size() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_latency());
    let large = "x".repeat(2_000_000);
    let failure = producer.send(&text(&large)).expect_err("it is too large");
    let (exit, message) = exit_and_message(failure);
    assert_eq!(exit, Exit::BadConfig);
    assert!(
        message.contains("2000000 bytes") && message.contains("max.message.bytes"),
        "{message}"
    );
    // The message is not queued, and later ones are.
    send(&producer, &text("small"));
    finish(&producer);
    assert_eq!((producer.counts().queued, producer.counts().delivered), (1, 1));
}

#[test]
fn message_rejected_by_the_broker_fails_and_the_next_is_delivered() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_latency());
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    mock.cluster().request_errors(RDKafkaApiKey::Produce, &[error]);
    send(&producer, &text("refused"));
    poll_until(&producer, "it is refused", || producer.counts().failed == 1);
    send(&producer, &text("taken"));
    let (exit, message) =
        exit_and_message(producer.finish(&mut || false).expect_err("one was refused"));
    assert_eq!(exit, Exit::BadConfig);
    assert!(message.contains("a message of 7 bytes is too large for topic \"flows\""), "{message}");
    let counts = producer.counts();
    assert_eq!((counts.delivered, counts.failed, counts.waiting()), (1, 1, 0));
}

#[test]
fn producer_without_authorization_fails_with_the_reason() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_latency());
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.cluster().request_errors(RDKafkaApiKey::Produce, &[error]);
    send(&producer, &text("refused"));
    let (exit, message) =
        exit_and_message(producer.finish(&mut || false).expect_err("it is refused"));
    assert_eq!(exit, Exit::BadConfig);
    assert!(
        message.contains("sending to topic \"flows\" is not allowed to this user"),
        "{message}"
    );
    // Further messages are rejected for the same reason.
    let failure = producer.send(&text("more")).expect_err("it is refused");
    assert_eq!(format!("{:#}", failure.error), message);
}

#[test]
fn missing_topic_is_named_and_not_created() {
    let mock = Mock::new();
    let address = mock.address("flwos");
    let opened = Producer::open(&address, &ClientOptions::default(), Tuning::for_latency());
    let failure = opened.expect_err("there is no topic");
    assert!(matches!(failure.error.downcast_ref(), Some(Error::UnknownTopic { .. })));
    let (exit, message) = exit_and_message(failure);
    assert_eq!(exit, Exit::BadConfig);
    assert!(
        message.contains("no topic \"flwos\"") && message.contains("--create-topic"),
        "{message}"
    );
    let again = topics::partitions(&address, &ClientOptions::default());
    assert!(again.is_err(), "asking has made it");
    mock.topic("flwos", 5);
    assert_eq!(topics::partitions(&address, &ClientOptions::default()).expect("a topic"), 5);
}

#[test]
fn missing_ca_file_is_a_configuration_error() {
    let options = ClientOptions::new(["security.protocol=ssl", "ssl.ca.location=/no/such/file"]);
    let address = Mock::new().topic("flows", 1);
    let opened = Producer::open(&address, &options.expect("options"), Tuning::for_latency());
    let (exit, message) = exit_and_message(opened.expect_err("there is no such file"));
    assert_eq!(exit, Exit::BadConfig);
    assert!(
        message.contains("can't be set up") && message.contains("ssl.ca.location"),
        "{message}"
    );
}

#[test]
fn unreachable_broker_fails_after_the_timeout() {
    // The port is free: its listener is dropped at once.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    let brokers = format!("127.0.0.1:{port}");
    let address = Address { brokers: brokers.clone(), topic: "flows".into() };
    let started = Instant::now();
    let opened = Producer::open(&address, &ClientOptions::default(), Tuning::for_latency());
    let (exit, message) = exit_and_message(opened.expect_err("nobody is there"));
    assert_eq!(exit, Exit::Unavailable);
    assert!(message.contains(&brokers) && message.contains("Connection refused"), "{message}");
    let waited = started.elapsed();
    assert!(waited >= REACH_TIMEOUT && waited < 2 * REACH_TIMEOUT, "{waited:?}");
}
