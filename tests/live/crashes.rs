//! Processes that die, hang or panic: all processes restart, and the final alerts are right.

use super::kit::{AlertTopic, TopicFeed};
use crate::common::broker::Broker;
use crate::replay::pcap::Packet;
use crate::replay::run::{Live, Place, SignalTarget};
use crate::replay::traffic::{self, Random, json_lines};

/// Harms a run while it works, and asserts that it logs `named`, restarts, and ends with the right alerts.
fn check(options: &str, fifo: Option<&'static str>, harm: impl Fn(&Place, &Live), named: &str) {
    let random = &mut Random::new(761);
    let place = Place::new();
    let span_ms = 40 * 60_000;
    place.write("limits.jsonl", json_lines(&traffic::limits(random, 12, span_ms)));
    let mut packets: Vec<Packet> = traffic::packets(random, 600, span_ms);
    packets.sort_by_key(|packet| packet.ms);
    let topic = Broker::shared().topic("flows", 4);
    let mut alerts = AlertTopic::new(Broker::shared());
    let mut feed = TopicFeed::to(&topic);
    let (first, rest) = packets.split_at(300);
    for (number, packet) in first.iter().enumerate() {
        feed.send((number % 4) as i32, *packet);
    }
    feed.flush();
    let line = format!(
        "run --from {topic} --limits limits.jsonl --to {} --idle-timeout 1h --lateness 2h --tick 50ms \
         --restart {options}",
        alerts.address
    );
    let mut run = place.floodmark(&line);
    if let Some(worker) = fifo {
        place.fifo("panic");
        run = run.env("FLOODMARK_PANIC_WORKER", worker).env("FLOODMARK_PANIC_WHEN", "panic");
    }
    let mut run = run.start();
    alerts.wait_until(|change| change["event"] == "raised");
    harm(&place, &run);
    run.wait_for(named);
    for (number, packet) in rest.iter().enumerate() {
        feed.send((number % 4) as i32, *packet);
    }
    feed.close(4);
    let replayed = feed.replay(&place, "");
    alerts.wait_for(&replayed);
    run.signal("TERM", SignalTarget::Parent);
    let done = run.finish().expect(0);
    replayed.assert_stands(alerts.standing(), || done.stderr.clone());
    assert_eq!(done.stdout, "");
}

#[test]
fn killed_process_is_restarted_and_alerts_are_right() {
    let named = "was killed by signal 9 (SIGKILL): starting all processes again";
    for victim in 0..2 {
        let kill = |_: &Place, run: &Live| run.signal("KILL", SignalTarget::Child(victim));
        check("-n2 -w2", None, kill, &format!("process {victim} {named}"));
    }
}

#[test]
fn hanging_process_is_restarted_and_alerts_are_right() {
    let stop = |_: &Place, run: &Live| run.signal("STOP", SignalTarget::Child(1));
    let named = "process 1 gave no sign of life for 3s: starting all";
    check("-n2 --hang-timeout 3s", None, stop, named);
}

#[test]
fn panicking_process_is_restarted_and_alerts_are_right() {
    for (options, worker, process) in [("-n2 -w2", "3", 1), ("-w2", "1", 0)] {
        let panic = |place: &Place, _: &Live| {
            let pipe = std::fs::File::options().write(true).open(place.path("panic"));
            drop(pipe.expect("a process reads the pipe"));
        };
        check(options, Some(worker), panic, &format!("process {process} panicked: starting all"));
    }
}
