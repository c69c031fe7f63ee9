//! The reader of a topic, against a mock cluster within the process.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use floodmark::base::error::Failure;
use floodmark::kafka::{
    Address, ClientOptions, Outgoing, SourceOptions, Start, Times, Topic, TopicReader,
};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::common::broker::{Mock, STUCK_AFTER, produce};

fn text(payload: &str) -> Outgoing<'_> {
    Outgoing { payload: Some(payload.as_bytes()), ..Outgoing::default() }
}

fn done<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("{:#}", failure.error))
}

/// Opens all partitions of a topic at their first messages.
fn open(address: &Address, client: &ClientOptions) -> TopicReader {
    let options = SourceOptions {
        start: Start::Earliest,
        idle_timeout: Duration::from_secs(1),
        max_skew_ms: 0,
        group: "tests".into(),
        max_transaction: Duration::MAX,
        skip_open_transactions: false,
    };
    let topic = done(Topic::open(address, client, options));
    done(TopicReader::open(topic.into(), 0, 1, Arc::new(|| ()), None))
}

/// A reader without capacity stops within a batch. If the partition is paused meanwhile, the messages from there on
/// are delivered again.
#[test]
fn interrupted_batch_continues_with_the_next_message() {
    const COUNT: i64 = 500;
    let mock = Mock::new();
    let address = mock.topic("flows", 2);
    let numbers: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    let of = |partition| {
        let message = move |number| Outgoing { partition: Some(partition), ..text(number) };
        numbers.iter().map(String::as_str).map(message)
    };
    produce(&address, &of(0).chain(of(1)).collect::<Vec<_>>());
    let mut source = open(&address, &ClientOptions::default());
    let (mut read, began) = ([Vec::new(), Vec::new()], Instant::now());
    let mut calls = 0;
    while read.iter().any(|read| read.len() < numbers.len()) {
        assert!(began.elapsed() < STUCK_AFTER, "stuck: {} and {}", read[0].len(), read[1].len());
        let mut received = 0;
        let count = source.poll(|one| {
            read[one.partition as usize].push(one.offset);
            received += 1;
            // The event time is the number of the call, so that a partition runs ahead when it is read.
            let times = Some(Times { first: calls, greatest: calls });
            match received % 7 {
                0 => ControlFlow::Break(times),
                _ => ControlFlow::Continue(times),
            }
        });
        assert_eq!(done(count), received);
        assert!(received <= 7, "{received} messages of one call");
        if received == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        calls += 1;
        // Every fifth call pauses all partitions that were read; the next call resumes them.
        let slowest = if calls % 5 == 0 { 0 } else { u64::MAX };
        done(source.bound_skew(slowest));
    }
    assert!(read.iter().all(|read| read.iter().copied().eq(0..COUNT)), "{read:?}");
}

/// A stuck consumer is replaced while the broker responds to others; no message is lost or read twice.
#[test]
fn stuck_consumer_is_reopened() {
    let mock = Mock::new();
    let address = mock.topic("flows", 2);
    let to = |partition, payload| Outgoing { partition: Some(partition), ..text(payload) };
    // After an error the consumer sends no fetch request for five minutes.
    let client = ClientOptions::new(["fetch.error.backoff.ms=300000"]).expect("an option");
    let mut source = open(&address, &client);
    let (mut read, began) = (Vec::new(), Instant::now());
    let mut read_until = |source: &mut TopicReader, count: usize| {
        while read.len() < count {
            assert!(began.elapsed() < STUCK_AFTER, "stuck after {read:?}");
            let received = source.poll(|one| {
                read.push((one.partition, one.offset));
                ControlFlow::Continue(Some(Times { first: 1, greatest: 1 }))
            });
            done(received);
            done(source.update_progress(None));
            std::thread::sleep(Duration::from_millis(5));
        }
        read.clone()
    };
    produce(&address, &[to(0, "a"), to(1, "b")]);
    read_until(&mut source, 2);
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR;
    mock.cluster().request_errors(RDKafkaApiKey::Fetch, &[error]);
    // The consumer has the error: these messages are not fetched until it is replaced.
    produce(&address, &[to(0, "c"), to(1, "d"), to(0, "e")]);
    let mut read = read_until(&mut source, 5);
    read.sort_unstable();
    assert_eq!(read, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
    assert!(began.elapsed() >= Duration::from_secs(30), "it was not stuck: {:?}", began.elapsed());
}
