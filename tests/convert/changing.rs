//! Topics with open transactions, and topics that are deleted and created again.

use floodmark::kafka::Address;
use floodmark::kafka::topics::Plan;

use super::{START_MS, lines, send};
use crate::common::broker::{Broker, Transaction, create_again, delete, random_name};
use crate::replay::run::{Place, Whom};

/// Six messages, of which the second is in a transaction that is open.
fn half_open(topic: &Address) -> Transaction {
    send(topic, &lines(0..1), 1);
    let transaction = Transaction::begin(topic);
    transaction.give(0, "", lines(1..2)[0].as_bytes(), START_MS);
    send(topic, &lines(2..6), 1);
    transaction
}

fn until_end(topic: &Address, options: &str) -> String {
    format!("convert --from {topic} --to - --until-end --linger 0s {options}")
}

#[test]
fn conversion_until_the_end_waits_for_open_transactions() {
    let (broker, place) = (Broker::shared(), Place::new());
    for workers in ["-w1", "-w2"] {
        let topic = broker.topic("pmacct", 1);
        let transaction = half_open(&topic);
        let mut convert = place.floodmark(&until_end(&topic, workers)).start();
        convert.line();
        transaction.commit();
        let done = convert.finish().expect(0);
        done.says(&["read 6 messages, 6 records of them are written"]);
    }
}

#[test]
fn conversion_until_the_end_fails_with_what_an_overdue_transaction_has_left() {
    let (broker, place) = (Broker::shared(), Place::new());
    let topic = broker.topic("pmacct", 1);
    let _transaction = half_open(&topic);
    let group = random_name("group");
    let options = format!("--max-transaction 1s --group {group}");
    place.floodmark(&until_end(&topic, &options)).run().expect(1).says(&[
        "read 1 messages, 1 records of them are written",
        "5 messages are not written",
        "--max-transaction",
        "kafka-transactions.sh",
        &topic.topic,
    ]);
    let skip = until_end(&topic, "--max-transaction 1s --skip-open-transactions");
    place.floodmark(&skip).run().expect(0).says(&["5 messages are not written"]);
}

#[test]
fn partitions_do_not_wait_for_one_with_an_overdue_transaction() {
    let (broker, place) = (Broker::shared(), Place::new());
    let topic = broker.topic("pmacct", 2);
    // Nothing of partition 1 can be read, and partition 0 has more than --max-skew.
    let transaction = Transaction::begin(&topic);
    transaction.give(1, "", lines(0..1)[0].as_bytes(), START_MS);
    send(&topic, &lines(0..20), 1);
    let line = until_end(&topic, "--max-transaction 2s --max-skew 1s");
    place
        .floodmark(&line)
        .run()
        .expect(1)
        .says(&["read 20 messages, 20 records of them are written", "1 messages are not written"]);
}

#[test]
fn topic_that_is_created_again_ends_the_conversion_and_its_offsets_are_not_gone_on_from() {
    let (broker, place) = (Broker::shared(), Place::new());
    let topic = broker.topic("pmacct", 1);
    let group = random_name("group");
    send(&topic, &lines(0..10), 1);
    let line = format!(
        "convert --from {topic} --to - --linger 0s --group {group} --from-offset committed"
    );
    let until_end = format!("{line} --until-end");
    place.floodmark(&until_end).run().expect(0).says(&["read 10 messages"]);
    let mut convert = place.floodmark(&line).start();
    convert.wait_for("reads a partition");
    send(&topic, &lines(10..11), 1);
    convert.line();
    delete(&topic);
    create_again(&topic, &Plan::recording(1));
    send(&topic, &lines(0..30), 1);
    convert.finish().expect(1).says(&[&topic.topic, "deleted and created again"]);
    // Kafka forgets what was committed with the topic that was deleted. What a client commits late stays.
    super::commit(&topic, &group, 5, "topic-id=of-another-topic");
    place.floodmark(&until_end).run().expect(78).says(&[
        &topic.topic,
        &group,
        "has committed offset 5",
        "--from-offset earliest",
    ]);
    // Offsets that another program has committed are believed.
    super::commit(&topic, &group, 25, "");
    place.floodmark(&until_end).run().expect(0).says(&["read 5 messages"]);
    // And what this program has committed itself.
    send(&topic, &lines(30..32), 1);
    place.floodmark(&until_end).run().expect(0).says(&["read 2 messages"]);
}

#[test]
fn topic_that_is_deleted_ends_the_conversion() {
    let (broker, place) = (Broker::shared(), Place::new());
    let topic = broker.topic("pmacct", 1);
    send(&topic, &lines(0..10), 1);
    let line = format!("convert --from {topic} --to - --linger 0s --idle-timeout 1s");
    let mut convert = place.floodmark(&line).start();
    convert.line();
    delete(&topic);
    convert.wait_for("the topic is not there any more");
    // A second interrupt is not needed while it waits for the topic.
    convert.signal("TERM", Whom::Parent);
    convert.finish().expect(0);
}
