//! Messages behind an open transaction of another producer, which the broker withholds.

use std::collections::BTreeMap;

use floodmark::kafka::Address;

use super::kit::TopicFeed;
use crate::common::broker::{Broker, Transaction};
use crate::common::now_ms;
use crate::replay::fold::changes;
use crate::replay::pcap::{Packet, packet};
use crate::replay::run::{Live, Place, SignalTarget};
use crate::serving::{get, scrape, scrape_until, server};

/// Every packet breaks one limit, and silence the other one.
const LIMITS: &str = "\
{\"limit_name\":\"min\",\"limit_value\":1,\"effective_date\":\"1970-01-01\",\"per\":\"total\",\"metric\":\"packets\"}
{\"limit_name\":\"any\",\"limit_value\":0,\"effective_date\":\"1970-01-01\"}
";

/// Options with which windows settle at once.
const OPTIONS: &str = "--limits limits.jsonl --http 127.0.0.1:0 --window 1s --lateness 0s --tick 50ms \
                       --idle-timeout 1s";

type Series = BTreeMap<String, f64>;

/// Returns the value of a series of a partition; NaN if there is none.
fn of(series: &Series, name: &str, topic: &Address, partition: i32) -> f64 {
    let key =
        format!("floodmark_kafka_{name}{{topic=\"{}\",partition=\"{partition}\"}}", topic.topic);
    series.get(&key).copied().unwrap_or(f64::NAN)
}

fn from(source: u8) -> Packet {
    packet(now_ms(), &format!("10.0.0.{source}"), "10.0.1.1", 100)
}

fn start(place: &Place, topic: &Address, options: &str) -> Live {
    place.write("limits.jsonl", LIMITS);
    place.floodmark(&format!("run --from {topic} {OPTIONS} {options}")).start()
}

fn end(run: Live) {
    run.signal("TERM", SignalTarget::Parent);
    run.finish().expect(0);
}

/// Sends a packet, begins a transaction with a second one, and sends a third one after it.
fn half_open(topic: &Address, feed: &mut TopicFeed) -> Transaction {
    feed.send(0, from(1));
    feed.flush();
    let transaction = Transaction::begin(topic);
    feed.send_in(&transaction, 0, from(2));
    feed.send(0, from(3));
    feed.flush();
    transaction
}

#[test]
fn messages_behind_an_open_transaction_hold_the_watermark() {
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 2);
    let mut feed = TopicFeed::to(&topic);
    let transaction = half_open(&topic, &mut feed);
    let mut run = start(&place, &topic, "-w2");
    let server = server(&mut run);
    // Three times the idle time-out.
    let series = scrape_until(server, "the transaction lasts", |series| {
        of(series, "open_transaction_seconds", &topic, 0) > 3.0
    });
    assert_eq!(of(&series, "withheld_messages", &topic, 0), 2.0);
    assert_eq!(of(&series, "lag_messages", &topic, 0), 2.0);
    assert_eq!(of(&series, "partition_idle", &topic, 0), 0.0);
    assert_eq!(of(&series, "partition_idle", &topic, 1), 1.0);
    assert_eq!(of(&series, "withheld_messages", &topic, 1), 0.0);
    let reached = of(&series, "partition_event_time_seconds", &topic, 0);
    assert!(series["floodmark_watermark_seconds"] <= reached, "{series:#?}");
    // A transaction that is open for some seconds leaves the run ready.
    let ready = get(server, "/readyz");
    assert_eq!(ready.status, 200, "{}", ready.body);
    transaction.commit();
    feed.close(2);
    feed.replay(&place, "--window 1s").check_run(run);
}

#[test]
fn overdue_transaction_is_logged_with_its_remedy_and_waited_for() {
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&topic);
    let transaction = half_open(&topic, &mut feed);
    let mut run = start(&place, &topic, "--max-transaction 1s");
    let server = server(&mut run);
    let line = run.wait_for("--max-transaction");
    for part in [
        "\"level\":\"ERROR\"",
        &topic.topic,
        "\"partition\":0",
        "\"offset\":1",
        "\"messages\":2",
        "\"producer_id\":",
        &format!("\"transactional_id\":\"{}\"", topic.topic),
        "kafka-transactions.sh",
        "abort",
    ] {
        assert!(line.contains(part), "no {part}: {line}");
    }
    let series = scrape(server);
    assert_eq!(of(&series, "open_transaction_skipped", &topic, 0), 0.0);
    assert_eq!(of(&series, "partition_idle", &topic, 0), 0.0);
    transaction.commit();
    run.wait_for("the overdue transaction has ended");
    feed.close(1);
    feed.replay(&place, "--window 1s").check_run(run);
}

#[test]
fn skipped_overdue_transaction_does_not_hold_the_watermark() {
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&topic);
    let transaction = half_open(&topic, &mut feed);
    let mut run = start(&place, &topic, "--max-transaction 1s --skip-open-transactions");
    let server = server(&mut run);
    run.wait_for("--skip-open-transactions");
    let series = scrape_until(server, "the partition is idle", |series| {
        of(series, "partition_idle", &topic, 0) == 1.0
    });
    assert_eq!(of(&series, "open_transaction_skipped", &topic, 0), 1.0);
    assert_eq!(of(&series, "withheld_messages", &topic, 0), 2.0);
    assert_eq!(of(&series, "lag_messages", &topic, 0), 0.0);
    // The window of the first packet settles.
    loop {
        let change = changes(&run.line()).remove(0);
        if change["entity"]["source"] == "10.0.0.1" && change["settled"] == true {
            break;
        }
    }
    transaction.commit();
    let dropped = "floodmark_late_records_total{disposition=\"dropped\"}";
    scrape_until(server, "the messages came", |series| series[dropped] >= 1.0);
    end(run);
}

/// The offsets after the last message hold only markers of the transaction, which consumers do not receive.
#[test]
fn aborted_transaction_at_the_end_of_a_partition_leaves_no_lag() {
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, from(1));
    feed.flush();
    let transaction = Transaction::begin(&topic);
    transaction.send(0, "10.0.0.9 10.0.1.1", b"100", now_ms());
    let mut run = start(&place, &topic, "");
    let server = server(&mut run);
    scrape_until(server, "it is withheld", |series| {
        of(series, "withheld_messages", &topic, 0) == 1.0
    });
    transaction.abort();
    let series = scrape_until(server, "the partition is idle", |series| {
        of(series, "partition_idle", &topic, 0) == 1.0
    });
    assert_eq!(of(&series, "withheld_messages", &topic, 0), 0.0);
    assert_eq!(of(&series, "lag_messages", &topic, 0), 0.0);
    end(run);
}

#[test]
fn read_uncommitted_reads_past_an_open_transaction() {
    let place = Place::new();
    let topic = Broker::shared().topic("flows", 1);
    let mut feed = TopicFeed::to(&topic);
    let _transaction = half_open(&topic, &mut feed);
    let mut run = start(&place, &topic, "-X isolation.level=read_uncommitted");
    let server = server(&mut run);
    let series = scrape_until(server, "the partition is idle", |series| {
        of(series, "partition_idle", &topic, 0) == 1.0
    });
    assert_eq!(of(&series, "withheld_messages", &topic, 0), 0.0);
    assert_eq!(of(&series, "lag_messages", &topic, 0), 0.0);
    let messages = format!("floodmark_input_messages_total{{source=\"kafka:{}\"}}", topic.topic);
    assert_eq!(series[&messages], 3.0);
    end(run);
}
