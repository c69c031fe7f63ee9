//! Tests that need Apache Kafka itself: topics and their configuration, and outages of a broker.

use std::collections::HashSet;
use std::net::TcpStream;
use std::time::Duration;

use floodmark::base::error::Exit;
use floodmark::kafka::topics::{self, Created, Plan, check_times};
use floodmark::kafka::{
    Address, ClientOptions, Error, Outgoing, Producer, SourceOptions, Start, Topic, Tuning,
};

use crate::common::broker::{Broker, finish, poll_until, produce, random_name, read_all, send};
use crate::common::now_ms;

/// 2001-09-09, the time of an old capture.
const OLD_MS: i64 = 1_000_000_000_000;

fn options() -> ClientOptions {
    ClientOptions::default()
}

fn text(payload: &str) -> Outgoing<'_> {
    Outgoing { payload: Some(payload.as_bytes()), ..Outgoing::default() }
}

fn open(address: &Address) -> Producer {
    Producer::open(address, &options(), Tuning::for_latency())
        .unwrap_or_else(|failure| panic!("{:#}", failure.error))
}

/// Creates a topic of flows with one other setting.
fn topic_with(name: &'static str, value: &str) -> Address {
    let mut plan = Plan::flows(1);
    plan.config.retain(|(already, _)| *already != name);
    plan.config.push((name, value.to_owned()));
    Broker::shared().topic_with("unfit", &plan)
}

#[test]
fn topics_are_created_as_planned_and_once() {
    let broker = Broker::shared();
    let address = broker.address(&random_name("flows"));
    let plan = Plan::recording(3);
    assert_eq!(topics::create(&address, &options(), &plan).expect("made"), Created::New);
    assert_eq!(topics::create(&address, &options(), &plan).expect("there"), Created::Existed);
    let config = topics::describe(&address, &options()).expect("described");
    assert!(config.is_known && config.deletes && !config.compacts && !config.log_append_time);
    assert_eq!((config.partitions, config.retention_ms), (3, None));
    assert_eq!((config.timestamp_before_max_ms, config.timestamp_after_max_ms), (None, None));
    assert!(config.max_message_bytes.expect("a bound") > 1_000_000);
    check_times(&config, OLD_MS as u64, now_ms(), now_ms()).expect("it fits");

    let state = broker.topic_with("alerts", &Plan::state(2));
    let config = topics::describe(&state, &options()).expect("described");
    assert!(config.compacts && config.deletes && config.partitions == 2);
}

#[test]
fn plan_rejected_by_the_broker_fails_with_the_reason() {
    let address = Broker::shared().address(&random_name("flows"));
    let plan = Plan { replication: 3, ..Plan::flows(1) };
    let failure = topics::create(&address, &options(), &plan).expect_err("there is one broker");
    assert_eq!(failure.exit, Exit::Failed);
    let message = failure.error.to_string();
    assert!(
        message.contains(&address.topic) && message.contains("replication factor"),
        "{message}"
    );
}

#[test]
fn missing_topic_is_not_created_by_a_query() {
    // This broker creates topics automatically for producers that allow it.
    let address = Broker::shared().address(&random_name("missing"));
    for _ in 0..2 {
        let failure = Producer::open(&address, &options(), Tuning::for_latency());
        let failure = failure.expect_err("there is no topic");
        assert!(matches!(failure.error.downcast_ref(), Some(Error::UnknownTopic { .. })));
        let failure = topics::describe(&address, &options()).expect_err("there is no topic");
        assert_eq!(failure.exit, Exit::BadConfig);
    }
}

#[test]
fn tls_client_of_a_broker_without_tls_fails_with_an_ssl_error() {
    let options = ClientOptions::new(["security.protocol=ssl"]).expect("an option");
    let opened =
        Producer::open(&Broker::shared().address("flows"), &options, Tuning::for_latency());
    let failure = opened.expect_err("there is no handshake");
    // The broker might be starting: a closed connection is retried.
    assert_eq!(failure.exit, Exit::Unavailable);
    // librdkafka's message depends on how far the handshake got before the broker closed the connection.
    let message = failure.error.to_string();
    assert!(message.contains("ssl://") && message.contains("SSL"), "{message}");
}

#[test]
fn password_from_a_file_is_accepted_or_rejected() {
    let broker = Broker::own();
    let plain = broker.topic("flows", 1);
    let address = Address { brokers: broker.brokers_with_password(), ..plain.clone() };
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("password");
    let password = format!("sasl.password=@{}", file.display());
    let settings = [
        "security.protocol=sasl_plaintext",
        "sasl.mechanism=PLAIN",
        "sasl.username=floodmark",
        &password,
    ];
    let options = ClientOptions::new(settings).expect("options");
    let open = || Producer::open(&address, &options, Tuning::for_latency());
    let read = || {
        let group = "tests".to_owned();
        let idle_timeout = Duration::from_secs(1);
        let start = Start::Earliest;
        let source = SourceOptions {
            start,
            idle_timeout,
            max_skew_ms: 0,
            group,
            max_transaction: Duration::MAX,
            skip_open_transactions: false,
        };
        Topic::open(&address, &options, source)
    };
    std::fs::write(&file, "wrong\n").expect("a file");
    let failures = [
        open().expect_err("it is the wrong password"),
        read().err().expect("it is for reading, too"),
    ];
    for failure in failures {
        assert_eq!(failure.exit, Exit::BadConfig);
        let message = format!("{:#}", failure.error);
        assert!(
            message.contains("Authentication failed") && message.contains("sasl.*"),
            "{message}"
        );
        assert!(!message.contains("wrong"), "{message}");
    }
    std::fs::write(&file, "floodmark\n").expect("a file");
    let producer = open().unwrap_or_else(|failure| panic!("{:#}", failure.error));
    send(&producer, &text("let in"));
    finish(&producer);
    assert_eq!(read_all(&plain)[0].text(), "let in");
    let topic = read().unwrap_or_else(|failure| panic!("{:#}", failure.error));
    assert_eq!(topic.ends().into_iter().collect::<Vec<_>>(), [(0, 1)]);
}

#[test]
fn topic_for_recordings_keeps_old_records() {
    let address = Broker::shared().topic("flows", 1);
    produce(&address, &[Outgoing { timestamp_ms: Some(OLD_MS), ..text("old") }]);
    let received = read_all(&address);
    assert_eq!((received[0].timestamp_ms, received[0].text()), (Some(OLD_MS), "old"));
}

#[test]
fn topic_that_would_lose_records_is_rejected_with_its_setting() {
    let now = now_ms();
    let (hour, day) = (3_600_000, 86_400_000);
    for (name, value, oldest, newest) in [
        ("retention.ms", "3600000", now - day, now),
        ("message.timestamp.before.max.ms", "3600000", now - day, now),
        ("message.timestamp.after.max.ms", "3600000", now, now + day),
    ] {
        let config = topics::describe(&topic_with(name, value), &options()).expect("described");
        check_times(&config, now - hour / 2, now + hour / 2, now).expect("within the bounds");
        let failure = check_times(&config, oldest, newest, now).expect_err(name);
        assert_eq!(failure.exit, Exit::BadConfig);
        let message = failure.error.to_string();
        assert!(message.contains(&format!("({name}={value})")), "{message}");
        assert!(
            message.contains("--create-topic") && message.contains("kafka-configs.sh"),
            "{message}"
        );
    }
}

#[test]
fn topic_with_log_append_time_is_rejected() {
    let address = topic_with("message.timestamp.type", "LogAppendTime");
    let config = topics::describe(&address, &options()).expect("described");
    let failure = config.check_timestamps_kept().expect_err("times are lost");
    assert_eq!(failure.exit, Exit::BadConfig);
    produce(&address, &[Outgoing { timestamp_ms: Some(OLD_MS), ..text("old") }]);
    assert_ne!(read_all(&address)[0].timestamp_ms, Some(OLD_MS));
}

#[test]
fn message_rejected_by_the_broker_fails_and_names_the_setting() {
    let long = "x".repeat(5000);
    let old = Outgoing { timestamp_ms: Some(OLD_MS), ..text("old") };
    for (name, value, message, part) in [
        ("message.timestamp.before.max.ms", "3600000", old, "message.timestamp.before.max.ms"),
        ("max.message.bytes", "1000", Outgoing { key: Some(b"k"), ..text(&long) }, "5001 bytes"),
    ] {
        let options = ClientOptions::new(["compression.type=none"]).expect("an option");
        let address = topic_with(name, value);
        let producer = Producer::open(&address, &options, Tuning::for_latency()).expect("open");
        send(&producer, &message);
        let failure = producer.finish(&mut || false).expect_err(name);
        assert_eq!(failure.exit, Exit::BadConfig);
        let message = failure.error.to_string();
        assert!(message.contains(part) && message.contains(&address.topic), "{message}");
        assert_eq!((producer.counts().failed, producer.counts().waiting()), (1, 0));
    }
}

#[test]
fn broker_outage_loses_no_message_and_leaves_no_process() {
    let broker = Broker::own();
    let address = broker.topic("flows", 3);
    let producer = open(&address);
    let mut number = 0;
    let mut send_some = || {
        for _ in 0..1000 {
            send(&producer, &text(&number.to_string()));
            number += 1;
        }
        producer.poll();
    };
    send_some();
    broker.stop();
    poll_until(&producer, "it is unreachable", || !producer.reachable());
    send_some();
    broker.start();
    poll_until(&producer, "it is reachable", || producer.reachable());
    send_some();
    // Requests are in flight while the broker does not respond.
    broker.pause();
    send_some();
    broker.resume();
    finish(&producer);
    assert!(producer.failure().is_none());
    let received = read_all(&address);
    let different: HashSet<_> = received.iter().map(|message| message.text()).collect();
    assert_eq!((received.len(), different.len()), (4000, 4000));

    let brokers = broker.brokers().to_owned();
    TcpStream::connect(&brokers).expect("it is there");
    drop(broker);
    TcpStream::connect(&brokers).expect_err("it is gone");
}
