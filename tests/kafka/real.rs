//! What only Apache Kafka itself shows: topics and their configuration, and a broker that goes away.

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

/// 2001-09-09: as old as captures get.
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

/// A topic whose configuration has this beside that of flows.
fn topic_with(name: &'static str, value: &str) -> Address {
    let mut plan = Plan::flows(1);
    plan.config.retain(|(already, _)| *already != name);
    plan.config.push((name, value.to_owned()));
    Broker::shared().topic_with("unfit", &plan)
}

#[test]
fn topics_are_made_as_planned_and_once() {
    let broker = Broker::shared();
    let address = broker.address(&random_name("flows"));
    let plan = Plan::recording(3);
    assert_eq!(topics::create(&address, &options(), &plan).expect("made"), Created::New);
    assert_eq!(topics::create(&address, &options(), &plan).expect("there"), Created::Existed);
    let config = topics::describe(&address, &options()).expect("described");
    assert!(config.told && config.deletes && !config.compacts && !config.log_append_time);
    assert_eq!((config.partitions, config.retention_ms), (3, None));
    assert_eq!((config.timestamp_before_max_ms, config.timestamp_after_max_ms), (None, None));
    assert!(config.max_message_bytes.expect("a bound") > 1_000_000);
    check_times(&config, OLD_MS as u64, now_ms(), now_ms()).expect("it fits");

    let state = broker.topic_with("alerts", &Plan::state(2));
    let config = topics::describe(&state, &options()).expect("described");
    assert!(config.compacts && config.deletes && config.partitions == 2);
}

#[test]
fn a_plan_that_a_broker_refuses_is_said() {
    let address = Broker::shared().address(&random_name("flows"));
    let plan = Plan { replication: 3, ..Plan::flows(1) };
    let failure = topics::create(&address, &options(), &plan).expect_err("there is one broker");
    assert_eq!(failure.exit, Exit::Failed);
    let said = failure.error.to_string();
    assert!(said.contains(&address.topic) && said.contains("replication factor"), "{said}");
}

#[test]
fn a_topic_that_is_not_there_is_not_made_by_asking() {
    // This broker would make it for a producer that asks.
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
fn a_broker_without_tls_is_said_to_whoever_wants_it() {
    let options = ClientOptions::new(["security.protocol=ssl"]).expect("an option");
    let opened =
        Producer::open(&Broker::shared().address("flows"), &options, Tuning::for_latency());
    let failure = opened.expect_err("there is no handshake");
    // It might be about to start: a connection that is closed is tried again.
    assert_eq!(failure.exit, Exit::Unavailable);
    // How librdkafka says it depends on how far the handshake came before the broker closed it.
    let said = failure.error.to_string();
    assert!(said.contains("ssl://") && said.contains("SSL"), "{said}");
}

#[test]
fn passwords_from_a_file_are_taken_or_refused() {
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
        let said = format!("{:#}", failure.error);
        assert!(said.contains("Authentication failed") && said.contains("sasl.*"), "{said}");
        assert!(!said.contains("wrong"), "{said}");
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
fn old_records_are_kept_by_a_topic_for_recordings() {
    let address = Broker::shared().topic("flows", 1);
    produce(&address, &[Outgoing { timestamp_ms: Some(OLD_MS), ..text("old") }]);
    let received = read_all(&address);
    assert_eq!((received[0].timestamp_ms, received[0].text()), (Some(OLD_MS), "old"));
}

#[test]
fn a_topic_that_would_lose_or_refuse_records_is_named() {
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
        let said = failure.error.to_string();
        assert!(said.contains(&format!("({name}={value})")), "{said}");
        assert!(said.contains("--create-topic") && said.contains("kafka-configs.sh"), "{said}");
    }
}

#[test]
fn a_topic_that_stamps_messages_itself_is_named() {
    let address = topic_with("message.timestamp.type", "LogAppendTime");
    let config = topics::describe(&address, &options()).expect("described");
    let failure = config.check_timestamps_kept().expect_err("times are lost");
    assert_eq!(failure.exit, Exit::BadConfig);
    produce(&address, &[Outgoing { timestamp_ms: Some(OLD_MS), ..text("old") }]);
    assert_ne!(read_all(&address)[0].timestamp_ms, Some(OLD_MS));
}

#[test]
fn what_a_broker_refuses_is_a_failure_and_names_the_setting() {
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
        let said = failure.error.to_string();
        assert!(said.contains(part) && said.contains(&address.topic), "{said}");
        assert_eq!((producer.counts().failed, producer.counts().waiting()), (1, 0));
    }
}

#[test]
fn an_outage_of_a_broker_loses_nothing_and_leaves_nothing() {
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
    // Requests are under way, and nobody answers them.
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
