//! Topics with open transactions, and topics that are deleted and created again.

use floodmark::kafka::Address;
use floodmark::kafka::topics::Plan;

use super::{START_MS, lines, send};
use crate::common::broker::{Broker, Transaction, create_again, delete, random_name};
use crate::replay::run::{Place, SignalTarget};

/// Sends six messages, the second of them in a transaction that stays open.
fn half_open(topic: &Address) -> Transaction {
    send(topic, &lines(0..1), 1);
    let transaction = Transaction::begin(topic);
    transaction.send(0, "", lines(1..2)[0].as_bytes(), START_MS);
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
        done.assert_stderr(&["read 6 messages, wrote 6 records"]);
    }
}

#[test]
fn conversion_until_the_end_fails_if_an_overdue_transaction_withholds_messages() {
    let (broker, place) = (Broker::shared(), Place::new());
    let topic = broker.topic("pmacct", 1);
    let _transaction = half_open(&topic);
    let group = random_name("group");
    let options = format!("--max-transaction 1s --group {group}");
    place.floodmark(&until_end(&topic, &options)).run().expect(1).assert_stderr(&[
        "read 1 messages, wrote 1 records",
        "5 messages are not written",
        "--max-transaction",
        "kafka-transactions.sh",
        &topic.topic,
    ]);
    let skip = until_end(&topic, "--max-transaction 1s --skip-open-transactions");
    place.floodmark(&skip).run().expect(0).assert_stderr(&["5 messages are not written"]);
}

#[test]
fn partitions_do_not_wait_for_one_with_an_overdue_transaction() {
    let (broker, place) = (Broker::shared(), Place::new());
    let topic = broker.topic("pmacct", 2);
    // No message of partition 1 can be read, and those of partition 0 span more than --max-skew.
    let transaction = Transaction::begin(&topic);
    transaction.send(1, "", lines(0..1)[0].as_bytes(), START_MS);
    send(&topic, &lines(0..20), 1);
    let line = until_end(&topic, "--max-transaction 2s --max-skew 1s");
    place
        .floodmark(&line)
        .run()
        .expect(1)
        .assert_stderr(&["read 20 messages, wrote 20 records", "1 messages are not written"]);
}

#[test]
fn recreated_topic_ends_the_conversion_and_its_old_offsets_are_rejected() {
    let (broker, place) = (Broker::shared(), Place::new());
    let topic = broker.topic("pmacct", 1);
    let group = random_name("group");
    send(&topic, &lines(0..10), 1);
    let line = format!(
        "convert --from {topic} --to - --linger 0s --group {group} --from-offset committed"
    );
    let until_end = format!("{line} --until-end");
    place.floodmark(&until_end).run().expect(0).assert_stderr(&["read 10 messages"]);
    let mut convert = place.floodmark(&line).start();
    convert.wait_for("reading a partition");
    send(&topic, &lines(10..11), 1);
    convert.line();
    delete(&topic);
    create_again(&topic, &Plan::recording(1));
    send(&topic, &lines(0..30), 1);
    convert.finish().expect(1).assert_stderr(&[&topic.topic, "deleted and created again"]);
    // Kafka drops the committed offsets of a deleted topic, but not those that a client commits later.
    super::commit(&topic, &group, 5, "topic-id=of-another-topic");
    place.floodmark(&until_end).run().expect(78).assert_stderr(&[
        &topic.topic,
        &group,
        "has committed offset 5",
        "--from-offset earliest",
    ]);
    // Offsets committed by another program are accepted,
    super::commit(&topic, &group, 25, "");
    place.floodmark(&until_end).run().expect(0).assert_stderr(&["read 5 messages"]);
    // and so are those committed by this program.
    send(&topic, &lines(30..32), 1);
    place.floodmark(&until_end).run().expect(0).assert_stderr(&["read 2 messages"]);
}

#[test]
fn deleted_topic_is_logged_and_one_sigterm_ends_the_conversion() {
    let (broker, place) = (Broker::shared(), Place::new());
    let topic = broker.topic("pmacct", 1);
    send(&topic, &lines(0..10), 1);
    let line = format!("convert --from {topic} --to - --linger 0s --idle-timeout 1s");
    let mut convert = place.floodmark(&line).start();
    convert.line();
    delete(&topic);
    convert.wait_for("the topic does not exist any more");
    // One SIGTERM suffices, though the conversion waits for the topic.
    convert.signal("TERM", SignalTarget::Parent);
    convert.finish().expect(0);
}
