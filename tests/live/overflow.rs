//! Sums beyond 64 bits.

use floodmark::kafka::Outgoing;
use floodmark::record::{Packer, Record};
use floodmark_dataflows::types::{Pair, Volume};

use super::kit::TopicFeed;
use crate::common::broker::{Broker, produce};
use crate::replay::fold::changes;
use crate::replay::pcap::packet;
use crate::replay::run::{Live, Place, SignalTarget};
use crate::replay::traffic::BEGIN_MS;
use crate::serving::{scrape_until, server};

/// The greatest volume of a record.
const GREATEST: i64 = 1 << 40;

/// Records of that volume whose sum is beyond 64 bits.
const RECORDS: usize = 1 << 23;

/// Returns the bytes in the settled change of a source address, and whether the change is marked `overflow`.
fn settled(run: &mut Live, source: &str) -> (i64, bool) {
    loop {
        let change = changes(&run.line()).pop().expect("a change a line");
        if change["settled"] == true && change["entity"]["source"] == source {
            let overflow = change.get("overflow").is_some_and(|overflow| overflow == true);
            return (change["bytes"].as_i64().expect("a number"), overflow);
        }
    }
}

/// 8 million records of one pair, in 530 packed messages that compress to a few hundred bytes each.
#[test]
fn sum_beyond_64_bits_saturates_and_the_run_continues() {
    let topic = Broker::shared().topic("flows", 1);
    let mut packer = Packer::new();
    let pair = Pair::V4([10, 0, 0, 1].into(), [10, 0, 0, 9].into());
    let record = Record { time_ms: BEGIN_MS, pair, volume: Volume::new(GREATEST, 1) };
    while !packer.is_full() {
        packer.push(&record).expect("a record");
    }
    let of_message = packer.len();
    let packed = packer.take().expect("a message");
    let message = Outgoing {
        payload: Some(&packed.payload),
        timestamp_ms: Some(BEGIN_MS as i64),
        partition: Some(0),
        ..Outgoing::default()
    };
    produce(&topic, &vec![message; RECORDS.div_ceil(of_message)]);
    let mut feed = TopicFeed::to(&topic);
    feed.send(0, packet(BEGIN_MS, "10.0.0.2", "10.0.0.9", 150));
    feed.close(1);
    let place = Place::new();
    place.write(
        "limits.jsonl",
        "{\"limit_name\":\"max\",\"limit_value\":100,\"effective_date\":\"1970-01-01\"}\n",
    );
    // Each run reads the topic from the beginning.
    for workers in ["-w1", "-w2"] {
        let line = format!(
            "run --from {topic} --limits limits.jsonl --lateness 0s --tick 50ms --http 127.0.0.1:0 {workers}"
        );
        let mut run = place.floodmark(&line).start();
        let address = server(&mut run);
        let metric = "floodmark_saturated_totals_total";
        scrape_until(address, "counted", |series| series.contains_key(metric));
        run.wait_for(
            "10.0.0.1 > 10.0.0.9 in the window that starts at 2024-05-01T12:00:00Z has reached",
        );
        assert_eq!(settled(&mut run, "10.0.0.1"), (i64::MAX, true));
        assert_eq!(settled(&mut run, "10.0.0.2"), (150, false));
        // The tick is counted when its changes are written.
        scrape_until(address, "one total", |series| series[metric] == 1.0);
        run.signal("TERM", SignalTarget::Parent);
        run.finish().expect(0);
    }
}
