//! What this program writes to topics is not read back as records.

use floodmark::kafka::Outgoing;

use super::kit::{Feed, LIMITS};
use crate::common::broker::{Broker, produce, random_name, read_all};
use crate::replay::pcap::packet;
use crate::replay::run::Place;
use crate::replay::traffic::BEGIN_MS;

#[test]
fn topic_of_totals_alerts_or_dead_letters_is_refused_as_records() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let broker = Broker::shared();
    let topic = broker.topic("flows", 2);
    let [alerts, totals, dead] =
        ["alerts", "totals", "dead"].map(|name| broker.address(&random_name(name)));
    let mut feed = Feed::to(&topic);
    feed.give(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 30_000));
    feed.give(1, packet(BEGIN_MS, "10.0.0.3", "10.0.0.2", 30_000));
    feed.raw(0, None, b"not a record", BEGIN_MS);
    feed.close(2);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1h --lateness 0s --tick 50ms --to - \
         --to {alerts} --publish {totals} --dead-letter {dead} --create-topic"
    );
    let run = place.floodmark(&line).start();
    feed.answer(&place, "").hold(run);
    assert_eq!(read_all(&totals).len(), 2);
    for (from, kind) in [
        (&totals, "totals of windows (--publish)"),
        (&alerts, "changes of violations (--to)"),
        (&dead, "dead letters (--dead-letter)"),
    ] {
        for workers in ["-w1", "-w2"] {
            let line = format!("run --from {from} --limits limits.jsonl {workers}");
            let done = place.floodmark(&line).run().expect(78);
            done.says(&[kind, &from.topic, "is no topic of records"]);
        }
    }
    let line = format!("convert --from {totals} --to flows.jsonl");
    place.floodmark(&line).run().expect(78).says(&["totals of windows (--publish)"]);
    // Dead letters may be mended by a conversion.
    let line = format!("convert --from {dead} --until-end --to flows.jsonl");
    place.floodmark(&line).run().expect(0).says(&["unknown_format 1"]);
}

/// One message of output among records, be it the first one, is refused by itself.
#[test]
fn stray_total_among_records_is_refused_alone() {
    let place = Place::new();
    place.write("limits.jsonl", LIMITS);
    let topic = Broker::shared().topic("flows", 1);
    let total = br#"{"window_start":"2026-01-01T00:00:00Z","window_end":"2026-01-01T00:05:00Z","source":"10.0.0.1","destination":"10.0.0.2","bytes":1,"packets":1,"as_of":"2026-01-01T00:15:00Z"}"#;
    produce(&topic, &[Outgoing { payload: Some(total), ..Outgoing::default() }]);
    let mut feed = Feed::to(&topic);
    feed.give(0, packet(BEGIN_MS, "10.0.0.1", "10.0.0.2", 30_000));
    feed.raw(0, None, total, BEGIN_MS);
    feed.close(1);
    let line = format!(
        "run --from {topic} --limits limits.jsonl --idle-timeout 1h --lateness 0s --tick 50ms"
    );
    let run = place.floodmark(&line).start();
    let done = feed.answer(&place, "").hold(run);
    done.says(&["own_output", "one of the totals of windows"]);
}
