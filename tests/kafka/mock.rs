//! What the producer promises, against a mock cluster within the process.

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

/// A failure's code and text.
fn said(failure: Failure) -> (Exit, String) {
    (failure.exit, format!("{:#}", failure.error))
}

#[test]
fn all_is_delivered_as_it_was_sent() {
    let mock = Mock::new();
    let address = mock.topic("flows", 3);
    let messages = [
        Outgoing { timestamp_ms: Some(1_000_000_000_000), partition: Some(2), ..text("a") },
        Outgoing { key: Some(b"k"), partition: Some(2), ..text("") },
        // It removes its key.
        Outgoing { key: Some(b"k"), payload: None, partition: Some(2), ..Outgoing::default() },
        // 0 would be the time of sending.
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
fn reports_are_counted() {
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
fn keys_land_where_java_clients_put_them() {
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
fn a_full_queue_is_said_and_loses_nothing() {
    let mock = Mock::new();
    let address = mock.topic("flows", 1);
    let tuning = Tuning { queue_messages: 10, ..Tuning::for_throughput() };
    let producer = open(&address, tuning);
    mock.down();
    let mut taken = 0;
    while producer.send(&text(&taken.to_string())).expect("an outage is no failure") == Sent::Queued
    {
        taken += 1;
        assert!(taken <= 10);
    }
    assert_eq!((taken, producer.counts().queued), (10, 10));
    poll_until(&producer, "it is unreachable", || !producer.reachable());
    assert!(producer.failure().is_none());
    mock.up();
    // What had no room has it again.
    send(&producer, &text("10"));
    finish(&producer);
    assert!(producer.reachable());
    let sent: Vec<_> = read_all(&address).iter().map(|message| message.text().to_owned()).collect();
    assert_eq!(sent, (0..=10).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn an_outage_loses_nothing_and_doubles_nothing() {
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
fn the_end_of_an_outage_is_seen_without_sending() {
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
fn what_is_not_delivered_can_be_given_up() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_throughput());
    mock.down();
    send(&producer, &text("a"));
    poll_until(&producer, "it is unreachable", || !producer.reachable());
    let mut asked = 0;
    let mut give_up = || {
        asked += 1;
        asked == 3
    };
    let (exit, said) = said(producer.finish(&mut give_up).expect_err("nobody is there"));
    assert_eq!((exit, asked), (Exit::Unavailable, 3));
    assert!(said.starts_with("1 messages to topic \"flows\" were not delivered: "), "{said}");
}

#[test]
fn a_message_that_is_too_large_is_named() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_latency());
    let large = "x".repeat(2_000_000);
    let failure = producer.send(&text(&large)).expect_err("it is too large");
    let (exit, said) = said(failure);
    assert_eq!(exit, Exit::BadConfig);
    assert!(said.contains("2000000 bytes") && said.contains("max.message.bytes"), "{said}");
    // It is not taken, and those after it are.
    send(&producer, &text("small"));
    finish(&producer);
    assert_eq!((producer.counts().queued, producer.counts().delivered), (1, 1));
}

#[test]
fn a_message_that_a_broker_refuses_is_a_failure_and_no_other_is() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_latency());
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    mock.cluster().request_errors(RDKafkaApiKey::Produce, &[error]);
    send(&producer, &text("refused"));
    poll_until(&producer, "it is refused", || producer.counts().failed == 1);
    send(&producer, &text("taken"));
    let (exit, said) = said(producer.finish(&mut || false).expect_err("one was refused"));
    assert_eq!(exit, Exit::BadConfig);
    assert!(said.contains("a message of 7 bytes is too large for topic \"flows\""), "{said}");
    let counts = producer.counts();
    assert_eq!((counts.delivered, counts.failed, counts.waiting()), (1, 1, 0));
}

#[test]
fn a_user_who_may_not_send_is_told_so() {
    let mock = Mock::new();
    let producer = open(&mock.topic("flows", 1), Tuning::for_latency());
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    mock.cluster().request_errors(RDKafkaApiKey::Produce, &[error]);
    send(&producer, &text("refused"));
    let (exit, said) = said(producer.finish(&mut || false).expect_err("it is refused"));
    assert_eq!(exit, Exit::BadConfig);
    assert!(said.contains("sending to topic \"flows\" is not allowed to this user"), "{said}");
    // Nothing more is taken, for the same reason.
    let failure = producer.send(&text("more")).expect_err("it is refused");
    assert_eq!(format!("{:#}", failure.error), said);
}

#[test]
fn a_topic_that_is_not_there_is_named_and_not_made() {
    let mock = Mock::new();
    let address = mock.address("flwos");
    let opened = Producer::open(&address, &ClientOptions::default(), Tuning::for_latency());
    let failure = opened.expect_err("there is no topic");
    assert!(matches!(failure.error.downcast_ref(), Some(Error::UnknownTopic { .. })));
    let (exit, said) = said(failure);
    assert_eq!(exit, Exit::BadConfig);
    assert!(said.contains("no topic \"flwos\"") && said.contains("--create-topic"), "{said}");
    let again = topics::partitions(&address, &ClientOptions::default());
    assert!(again.is_err(), "asking has made it");
    mock.topic("flwos", 5);
    assert_eq!(topics::partitions(&address, &ClientOptions::default()).expect("a topic"), 5);
}

#[test]
fn a_file_that_is_not_there_is_the_clients_fault() {
    let options = ClientOptions::new(["security.protocol=ssl", "ssl.ca.location=/no/such/file"]);
    let address = Mock::new().topic("flows", 1);
    let opened = Producer::open(&address, &options.expect("options"), Tuning::for_latency());
    let (exit, said) = said(opened.expect_err("there is no such file"));
    assert_eq!(exit, Exit::BadConfig);
    assert!(said.contains("can't be set up") && said.contains("ssl.ca.location"), "{said}");
}

#[test]
fn nobody_there_is_said_in_time() {
    // Bound, so that nobody else is there either, and not listening.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    let brokers = format!("127.0.0.1:{port}");
    let address = Address { brokers: brokers.clone(), topic: "flows".into() };
    let started = Instant::now();
    let opened = Producer::open(&address, &ClientOptions::default(), Tuning::for_latency());
    let (exit, said) = said(opened.expect_err("nobody is there"));
    assert_eq!(exit, Exit::Unavailable);
    assert!(said.contains(&brokers) && said.contains("Connection refused"), "{said}");
    let waited = started.elapsed();
    assert!(waited >= REACH_TIMEOUT && waited < 2 * REACH_TIMEOUT, "{waited:?}");
}
