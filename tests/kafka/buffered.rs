//! A buffered producer whose topic is deleted, recreated with another configuration, or rejects a message.

use std::time::{Duration, Instant};

use floodmark::kafka::topics::{self, Plan};
use floodmark::kafka::{
    Address, BufferedProducer, ClientOptions, OnRefusal, Outgoing, OwnedMessage, Refusal, Tuning,
};

use crate::common::broker::{Broker, STUCK_AFTER, read_all};
use crate::common::now_ms;

/// Opens a producer that fills its batches, without compression, so that sizes are predictable.
fn open(address: &Address) -> BufferedProducer {
    let options = ["compression.type=none", "linger.ms=50"];
    let options = ClientOptions::new(options).expect("options");
    let topic = topics::describe(address, &options).expect("described");
    BufferedProducer::open_known(&topic, &options, Tuning::for_throughput())
        .unwrap_or_else(|failure| panic!("{:#}", failure.error))
}

/// Returns the time to the minute: a broker's own timestamps are not whole minutes.
fn time_ms() -> i64 {
    now_ms() as i64 / 60_000 * 60_000
}

fn send(buffered: &mut BufferedProducer, payload: &str) {
    let payload = Some(payload.as_bytes());
    let timestamp_ms = Some(time_ms());
    let message = Outgoing { key: Some(b"key"), payload, timestamp_ms, ..Outgoing::default() };
    buffered.send(&message).unwrap_or_else(|failure| panic!("{:#}", failure.error));
}

fn poll_until(
    buffered: &mut BufferedProducer,
    what: &str,
    mut holds: impl FnMut(&mut BufferedProducer) -> bool,
) {
    let began = Instant::now();
    while !holds(buffered) {
        assert!(began.elapsed() < STUCK_AFTER, "stuck, waiting until {what}: {buffered:?}");
        buffered.poll().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn finish(buffered: &mut BufferedProducer) {
    let began = Instant::now();
    let ended = buffered.finish(&mut || began.elapsed() > STUCK_AFTER);
    ended.unwrap_or_else(|failure| panic!("{:#}", failure.error));
}

fn texts(address: &Address) -> Vec<String> {
    let received = read_all(address);
    let kept = |ms: Option<i64>| ms.is_some_and(|ms| ms % 60_000 == 0);
    assert!(received.iter().all(|message| kept(message.timestamp_ms)), "times have changed");
    received.iter().map(|message| message.text().to_owned()).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// The broker creates topics automatically for producers that allow it.
#[test]
fn deleted_topic_is_not_created_by_its_producer_and_messages_wait() {
    let broker = Broker::shared();
    let address = broker.topic_with("alerts", &Plan::state(1));
    let mut buffered = open(&address);
    numbers(0..10).iter().for_each(|number| send(&mut buffered, number));
    poll_until(&mut buffered, "all has arrived", |buffered| buffered.is_done());
    broker.delete(&address);
    // Some messages are in flight when the producer notices the deletion, others follow.
    let mut sent = 10;
    poll_until(&mut buffered, "the end of the topic is noticed", |buffered| {
        if sent < 200 {
            send(buffered, &sent.to_string());
            sent += 1;
        }
        buffered.topic_fault().is_some_and(|fault| fault.missing)
    });
    numbers(sent..sent + 50).iter().for_each(|number| send(&mut buffered, number));
    assert!(buffered.has_capacity());
    let waiting_since = Instant::now();
    poll_until(&mut buffered, "some time has passed", |_| {
        waiting_since.elapsed() > Duration::from_secs(2)
    });
    topics::describe(&address, &ClientOptions::default()).expect_err("nobody has created it");
    assert_eq!((buffered.waiting(), buffered.counts().delivered), (u64::from(sent) + 40, 10));
    topics::create(&address, &ClientOptions::default(), &Plan::state(1)).expect("it is created");
    finish(&mut buffered);
    assert_eq!(buffered.topic_fault(), None);
    assert_eq!(texts(&address), numbers(10..sent + 50));
    assert_eq!(buffered.counts().delivered, u64::from(sent) + 50);
}

/// Another client lets the broker recreate the topic with the broker's defaults.
#[test]
fn recreated_topic_gets_no_messages_until_its_configuration_fits() {
    let broker = Broker::shared();
    let address = broker.topic_with("alerts", &Plan::state(2));
    let mut buffered = open(&address);
    send(&mut buffered, "before");
    poll_until(&mut buffered, "it has arrived", |buffered| buffered.is_done());
    broker.delete(&address);
    topics::create(&address, &ClientOptions::default(), &Plan::flows(1)).expect("it is created");
    poll_until(&mut buffered, "the other topic is noticed", |buffered| {
        buffered
            .topic_fault()
            .is_some_and(|fault| fault.why.contains("it has 1 partitions and had 2"))
    });
    send(&mut buffered, "after");
    broker.delete(&address);
    let plain = Plan { config: vec![("cleanup.policy", "delete".into())], ..Plan::flows(2) };
    topics::create(&address, &ClientOptions::default(), &plain).expect("it is created");
    poll_until(&mut buffered, "its configuration is read", |buffered| {
        buffered
            .topic_fault()
            .is_some_and(|fault| !fault.missing && fault.why.contains("cleanup.policy is delete"))
    });
    assert_eq!((texts(&address), buffered.waiting()), (vec![], 1));
    broker.alter(&address, "cleanup.policy", "compact,delete");
    finish(&mut buffered);
    assert_eq!(texts(&address), ["after"]);
}

/// A broker rejects a whole batch because of one message.
#[test]
fn message_rejected_by_the_broker_is_kept_apart_and_others_arrive_in_order() {
    let long = "x".repeat(5000);
    let old = now_ms() - 24 * 3_600_000;
    for (name, value, refusal) in [
        ("max.message.bytes", "2000", Refusal::TooLarge),
        ("message.timestamp.before.max.ms", "3600000", Refusal::Timestamp),
        ("cleanup.policy", "compact", Refusal::Record),
    ] {
        let mut plan = Plan::flows(1);
        plan.config.push((name, value.to_owned()));
        let address = Broker::shared().topic_with("refusing", &plan);
        let mut buffered = open(&address).on_refusal(OnRefusal::Keep);
        numbers(0..20).iter().for_each(|number| send(&mut buffered, number));
        let refused = match refusal {
            Refusal::TooLarge => OwnedMessage {
                key: Some(b"k".into()),
                payload: long.clone().into(),
                ..OwnedMessage::default()
            },
            Refusal::Timestamp => OwnedMessage {
                key: Some(b"k".into()),
                payload: b"old".into(),
                timestamp_ms: Some(old),
                ..OwnedMessage::default()
            },
            _ => OwnedMessage { payload: b"no key".into(), ..OwnedMessage::default() },
        };
        buffered.enqueue(refused.clone());
        numbers(20..40).iter().for_each(|number| send(&mut buffered, number));
        finish(&mut buffered);
        let kept = buffered.take_refused();
        assert_eq!(kept.iter().map(|kept| kept.refusal).collect::<Vec<_>>(), [refusal], "{name}");
        assert_eq!(kept[0].message.payload, refused.payload);
        assert_eq!(texts(&address), numbers(0..40), "{name}");
        let counts = buffered.counts();
        assert_eq!((counts.delivered, counts.failed, counts.waiting()), (40, 1, 0), "{name}");
    }
}

#[test]
fn rejected_message_fails_the_producer_after_all_others_have_arrived() {
    let mut plan = Plan::flows(1);
    plan.config.push(("max.message.bytes", "2000".to_owned()));
    let address = Broker::shared().topic_with("refusing", &plan);
    let mut buffered = open(&address);
    send(&mut buffered, "0");
    send(&mut buffered, &"x".repeat(5000));
    send(&mut buffered, "1");
    let failure = buffered.finish(&mut || false).expect_err("it is refused");
    let message = format!("{:#}", failure.error);
    assert!(message.contains("5003 bytes") && message.contains("max.message.bytes"), "{message}");
    assert_eq!(texts(&address), ["0", "1"]);
}

#[test]
fn oversized_dead_letter_is_cut_to_fit_its_topic() {
    let mut plan = Plan::dead_letters();
    plan.config.push(("max.message.bytes", "2000".to_owned()));
    let address = Broker::shared().topic_with("dead", &plan);
    let mut buffered = open(&address).on_refusal(OnRefusal::Cut);
    let key = Some(b"10.0.0.1 10.0.0.2".to_vec());
    // The client rejects the first, the broker the second; the third fits.
    for size in [1_500_000, 5000, 100] {
        let payload = vec![b'x'; size];
        buffered.enqueue(OwnedMessage { key: key.clone(), payload, ..OwnedMessage::default() });
    }
    finish(&mut buffered);
    let received = read_all(&address);
    let mut sizes: Vec<usize> = received.iter().map(|message| message.text().len()).collect();
    sizes.sort_unstable();
    assert!(sizes.len() == 3 && sizes[0] == 100, "{sizes:?}");
    assert!(sizes[1..].iter().all(|size| (500..2000).contains(size)), "{sizes:?}");
    assert!(received.iter().all(|message| message.key == key));
    assert_eq!((buffered.counts().delivered, buffered.counts().failed), (3, 0));
}
