use std::time::Instant;

use super::*;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// All is well.
fn well() -> Facts {
    let partition = |number| Partition {
        number,
        answered: true,
        lag: Some(5),
        begun: true,
        ..Partition::default()
    };
    Facts {
        tick_age: Some(secs(1)),
        tick_age_max: secs(10),
        behind_max: secs(30),
        watermark_stands: secs(1),
        held_by: Some(0),
        slowest_in: Some(0),
        topic: "flows".into(),
        partitions: vec![partition(0), partition(1), partition(2)],
        ..Facts::default()
    }
}

/// The reasons, as kind and text.
fn said(facts: &Facts) -> Vec<(&'static str, String)> {
    reasons(facts).into_iter().map(|reason| (reason.reason, reason.text)).collect()
}

#[track_caller]
fn check(change: impl FnOnce(&mut Facts), expected: &[(&'static str, &str)]) {
    let mut facts = well();
    change(&mut facts);
    let expected: Vec<_> =
        expected.iter().map(|(kind, text)| (*kind, (*text).to_owned())).collect();
    assert_eq!(said(&facts), expected);
}

#[test]
fn nothing_is_wrong() {
    check(|_| (), &[]);
    // A quiet partition holds the watermark until it is idle.
    check(|facts| facts.watermark_stands = secs(29), &[]);
    check(|facts| facts.held_by = None, &[]);
}

#[test]
fn ticks() {
    check(|facts| facts.tick_age = None, &[("no_tick", "no tick has completed yet")]);
    let old = ("tick_stands", "the last completed tick is 11 s old");
    check(|facts| facts.tick_age = Some(secs(11)), &[old]);
}

fn sink(name: &str) -> SinkState {
    SinkState { name: name.into(), ..SinkState::default() }
}

#[test]
fn sink_that_takes_nothing_is_named_and_partitions_are_not() {
    let blocked = |fault: Fault, holds_up: bool| {
        move |facts: &mut Facts| {
            facts.sinks = vec![SinkState {
                waiting: 70,
                is_stream: true,
                stands: secs(12),
                fault: Some(fault),
                holds_up,
                ..sink("-")
            }];
            for partition in &mut facts.partitions {
                partition.behind = secs(1000);
            }
        }
    };
    let stands =
        "sink \"-\" is blocked: its reader has accepted nothing for 12 s, and 70 bytes wait";
    check(blocked(Fault::Stands, true), &[("sink_blocked", stands)]);
    let no_reader = "sink \"-\" has waited for a reader of its FIFO for 12 s";
    check(blocked(Fault::NoReader, true), &[("sink_blocked", no_reader)]);
    let slow = "sink \"-\" is read too slowly: 70 bytes wait, the oldest for 40 s";
    check(blocked(Fault::Slow(secs(40)), true), &[("sink_blocked", slow)]);
    let full = "sink \"-\" can't be written for 12 s, and 70 bytes wait: no space";
    check(blocked(Fault::Failed("no space".into()), true), &[("sink_failed", full)]);
    // Ticks go on: what is wrong with a partition is not the fault of the sink.
    let mut facts = well();
    blocked(Fault::Stands, false)(&mut facts);
    let kinds: Vec<&str> = said(&facts).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["sink_blocked", "watermark_held", "behind"]);
}

#[test]
fn what_can_not_be_reached_or_read() {
    check(
        |facts| {
            facts.source = Some((secs(7), "refused".into()));
            facts.sinks = vec![SinkState {
                unreachable: Instant::now().checked_sub(secs(8)),
                ..sink("kafka:alerts")
            }];
            facts.state = Some((secs(6), "no space".into()));
            facts.limits = vec![
                (LimitSet::Live, (secs(9), "no file".into())),
                (LimitSet::WhatIf, (secs(8), "half a file".into())),
            ];
        },
        &[
            (
                "source_unreachable",
                "the brokers of topic \"flows\" have not responded for 7 s: refused",
            ),
            ("sink_unreachable", "sink \"kafka:alerts\" has been unreachable for 8 s"),
            ("state_not_durable", "no checkpoint of the state could be written for 6 s: no space"),
            ("limits_unreadable", "the limits have been unreadable for 9 s: no file"),
            (
                "limits_unreadable",
                "the limits of --what-if have been unreadable for 8 s: half a file",
            ),
        ],
    );
}

#[test]
fn the_partition_that_holds_the_watermark_is_named() {
    let held =
        |state: &str, lag| format!("partition 1 is {state} for 40 s and holds the watermark{lag}");
    let hold = |facts: &mut Facts, with: fn(&mut Partition)| {
        facts.held_by = Some(1);
        facts.partitions[1].behind = secs(40);
        with(&mut facts.partitions[1]);
    };
    let behind = held("behind", ": 5 messages are to be read");
    check(|facts| hold(facts, |_| ()), &[("watermark_held", &behind)]);
    let unread = held("unread", ": 1 message is to be read");
    check(
        |facts| hold(facts, |partition| (partition.unread, partition.lag) = (true, Some(1))),
        &[("watermark_held", &unread)],
    );
    let unreachable = held("unreachable", "");
    check(
        |facts| hold(facts, |partition| (partition.answered, partition.lag) = (false, None)),
        &[("watermark_held", &unreachable)],
    );
    let elsewhere = "partition 7, which another process reads, holds the watermark for 61 s";
    check(
        |facts| (facts.held_by, facts.watermark_stands) = (Some(7), secs(61)),
        &[("watermark_held", elsewhere)],
    );
    check(|facts| (facts.held_by, facts.watermark_stands) = (Some(7), secs(60)), &[]);
}

#[test]
fn who_begins_is_behind_at_once() {
    check(
        |facts| facts.partitions[0].begun = false,
        &[(
            "watermark_held",
            "partition 0 is behind for 1 s and holds the watermark: 5 messages are to be read",
        )],
    );
}

#[test]
fn of_many_the_worst_is_named() {
    check(
        |facts| {
            facts.held_by = None;
            facts.partitions[0].behind = secs(50);
            facts.partitions[1].behind = secs(31);
            facts.partitions[2].behind = secs(60);
        },
        &[("behind", "partition 2 (and 2 more) is behind for 60 s: 5 messages are to be read")],
    );
}

#[test]
fn who_waits_and_for_whom() {
    let reason = |facts: &mut Facts| {
        facts.slowest_in = Some(0);
        facts.partitions[2].paused = true;
        // It is behind since it waits.
        facts.partitions[2].behind = secs(100);
    };
    let text = "partition 2 waits: partition 0 is behind, by more than --max-skew in event time";
    check(reason, &[("partition_waits", text)]);
    let mut facts = well();
    reason(&mut facts);
    let reasons = reasons(&facts);
    assert_eq!((reasons[0].partition, reasons[0].waits_for), (Some(2), Some(0)));
    let json = serde_json::to_value(&reasons[0]).unwrap();
    assert_eq!((&json["partition"], &json["waits_for"]), (&2.into(), &0.into()));
    assert!(json.get("seconds").is_none());
}

#[test]
fn clock_that_was_set_is_a_reason_if_by_more_than_ten_seconds() {
    let unset = "the clock of this machine shows 1970-01-01T00:00:05Z: set it (NTP), nothing is read until then";
    check(|facts| facts.clock = Some(Unsteady::Unset { wall_ms: 5000 }), &[("clock_unset", unset)]);
    let back = "the clock of this machine was set back 7 s ago: the run is 1200 s ahead of it, and goes on by elapsed time until it has caught up; start the run again if the clock is right";
    let lasting = secs(7);
    let set_back = |behind_ms| Some(Unsteady::Back { behind_ms, lasting });
    check(|facts| facts.clock = set_back(1_200_000), &[("clock_step", back)]);
    check(|facts| facts.clock = set_back(10_000), &[]);
    let forward = "the clock of this machine was set forward 7 s ago: it is 3600 s ahead of the run, which goes on by elapsed time and believes the clock in 53 s";
    let believed_in = secs(53);
    let ahead_ms = 3_600_000;
    check(
        |facts| facts.clock = Some(Unsteady::Forward { ahead_ms, lasting, believed_in }),
        &[("clock_step", forward)],
    );
}

/// Messages behind a transaction that has been open for some seconds.
fn withheld(lasting: u64) -> Withheld {
    Withheld { messages: 5, lasting: secs(lasting), skipped: false }
}

#[test]
fn open_transaction_is_a_reason_only_after_thirty_seconds() {
    let text = "partition 1 has 5 messages behind a transaction that has been open for 31 s, and holds \
                the watermark";
    let hold = |facts: &mut Facts, lasting| {
        facts.held_by = Some(1);
        facts.watermark_stands = secs(lasting);
        facts.partitions[1].withheld = withheld(lasting);
        // Behind the end, and not behind what consumers get.
        facts.partitions[1].lag_time = secs(lasting);
    };
    check(|facts| hold(facts, 30), &[]);
    check(|facts| hold(facts, 31), &[("open_transaction", text)]);
    let more = text.replace("partition 1", "partition 2 (and 1 more)").replace("31 s", "40 s");
    check(
        |facts| {
            hold(facts, 31);
            facts.partitions[2].withheld = withheld(40);
        },
        &[("open_transaction", &more)],
    );
}

#[test]
fn skipped_transaction_is_no_reason() {
    let skipped = Withheld { skipped: true, ..withheld(9000) };
    check(|facts| facts.partitions[1].withheld = skipped, &[]);
}

#[test]
fn partition_of_another_process_may_wait_for_a_transaction() {
    let stands = |facts: &mut Facts, seconds| {
        (facts.behind_max, facts.held_by) = (secs(10), Some(7));
        facts.watermark_stands = secs(seconds);
    };
    check(|facts| stands(facts, 30), &[]);
    let elsewhere = "partition 7, which another process reads, holds the watermark for 31 s";
    check(|facts| stands(facts, 31), &[("watermark_held", elsewhere)]);
}

#[test]
fn topic_that_is_missing_is_named() {
    check(
        |facts| facts.missing = Some(secs(3)),
        &[("topic_missing", "topic \"flows\" has been missing for 3 s")],
    );
}
