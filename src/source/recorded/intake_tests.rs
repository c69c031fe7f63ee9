use floodmark_dataflows::combine::UpdateBatch;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::{Pair, Volume};

use super::*;
use crate::record::Packer;
use crate::source::Filter;
use crate::source::recorded::TickRules;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

fn intake() -> Intake {
    let (decoder, tables) = (Decoder::default(), TableRules::default());
    let rules = RecordRules { decoder, tables, max_ahead_ms: DAY };
    Intake::new(PartName::Text("made".into()), &rules, &Notices::new(&Messages::new()))
}

fn gather() -> Gather {
    let (windows, filter) = (Windows::default(), Filter::default());
    Gather::new(TickRules { tick_ms: MINUTE, windows, filter, peers: 1 })
}

/// A packed message with a record of one byte at each of these times: those of IPv6 come after those of IPv4.
fn message(v4: &[u64], v6: &[u64]) -> Vec<u8> {
    let mut packer = Packer::new();
    let pairs: [Pair; 2] = [
        Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into()),
        Pair::V6("2001:db8::1".parse().expect("it"), "2001:db8::2".parse().expect("it")),
    ];
    for (times, pair) in [v4, v6].into_iter().zip(pairs) {
        for time_ms in times {
            let record = Record { time_ms: *time_ms, pair, volume: Volume::new(1, 1) };
            packer.push(&record).expect("a record that fits");
        }
    }
    packer.take().expect("it has records").payload
}

/// Takes a message while no tick is gathered: all of its records wait.
fn take(intake: &mut Intake, payload: &[u8], position: u64) -> Found {
    take_in(intake, payload, position, &mut gather())
}

fn take_in(intake: &mut Intake, payload: &[u8], position: u64, gather: &mut Gather) -> Found {
    let message = Message { key: None, payload: Some(payload), timestamp_ms: None };
    intake.take(&message, position, gather)
}

/// Returns the bytes in each tick, by ticks of a minute, as minutes.
fn ticks(intake: &mut Intake) -> Vec<(u64, i64)> {
    let (mut gather, mut ticks) = (gather(), Vec::new());
    while intake.gather(&mut gather).is_break() {
        let tick = gather.later_tick();
        gather.begin(tick);
        let _ = intake.gather(&mut gather);
        ticks.push(end(&mut gather, tick));
    }
    ticks
}

/// Ends a tick, and returns it, as a minute, with its bytes.
fn end(gather: &mut Gather, tick: u64) -> (u64, i64) {
    let batches = gather.end(tick).update_batches;
    let volumes = batches.iter().flat_map(UpdateBatch::updates).map(|(_, volume)| volume.bytes);
    (tick / MINUTE, volumes.sum())
}

fn minutes(minutes: &[u64]) -> Vec<u64> {
    minutes.iter().map(|minute| minute * MINUTE).collect()
}

#[test]
fn records_of_one_message_are_taken_in_the_order_of_their_times() {
    let mut intake = intake();
    take(&mut intake, &message(&minutes(&[10, 12, 11]), &minutes(&[10, 13])), 1);
    assert_eq!(ticks(&mut intake), [(10, 2), (11, 1), (12, 1), (13, 1)]);
}

#[test]
fn records_of_several_messages_stay_in_the_order_of_these() {
    let mut intake = intake();
    // The first record of a part is held until the next one.
    for (position, minute) in [15, 10, 14, 16, 11].into_iter().enumerate() {
        take(&mut intake, &message(&[minute * MINUTE], &[]), position as u64);
    }
    assert_eq!(ticks(&mut intake), [(15, 3), (16, 2)]);
    // So is one after a jump, here of two days.
    take(&mut intake, &message(&minutes(&[17, 3000]), &[]), 5);
    take(&mut intake, &message(&minutes(&[2999, 2990]), &[]), 6);
    assert_eq!(ticks(&mut intake), [(17, 1), (3000, 3)]);
}

/// Records that belong to the tick that is gathered need not wait.
#[test]
fn records_of_a_message_amid_a_tick_are_in_the_same_ticks_as_if_they_had_waited() {
    let messages = [
        message(&minutes(&[10, 10]), &minutes(&[10])),
        message(&minutes(&[11, 10, 12]), &minutes(&[10, 11])),
        message(&minutes(&[10, 12]), &minutes(&[11])),
        message(&minutes(&[13]), &[]),
    ];
    let mut waiting = intake();
    for (position, message) in messages.iter().enumerate() {
        take(&mut waiting, message, position as u64);
    }
    let (mut direct, mut gather, mut ticks_of_direct) = (intake(), gather(), Vec::new());
    let mut messages = messages.iter();
    let mut tick = None;
    loop {
        if direct.gather(&mut gather).is_continue() {
            let Some(message) = messages.next() else { break };
            take_in(&mut direct, message, 0, &mut gather);
            continue;
        }
        let later = gather.later_tick();
        ticks_of_direct.extend(tick.replace(later).map(|tick| end(&mut gather, tick)));
        gather.begin(later);
    }
    ticks_of_direct.extend(tick.map(|tick| end(&mut gather, tick)));
    assert_eq!(ticks_of_direct, [(10, 5), (11, 2), (12, 4), (13, 1)]);
    assert_eq!(ticks_of_direct, ticks(&mut waiting));
    assert_eq!(direct.tally(), waiting.tally());
}

#[test]
fn stray_is_dropped_and_counted_once() {
    let mut intake = intake();
    take(&mut intake, &message(&minutes(&[10, 11]), &[]), 1);
    take(&mut intake, &message(&minutes(&[100_000]), &[]), 2);
    take(&mut intake, &message(&minutes(&[12]), &[]), 3);
    intake.end();
    assert_eq!(ticks(&mut intake), [(10, 1), (11, 1), (12, 1)]);
    let RecordTally { messages, records, strays, .. } = *intake.tally();
    assert_eq!((messages, records, strays), (3, 3, 1));
}

#[test]
fn record_in_no_window_is_counted_as_such_alone() {
    let mut intake = intake();
    take(&mut intake, &message(&[10 * MINUTE, 11 * MINUTE], &[u64::MAX]), 1);
    intake.end();
    assert_eq!(ticks(&mut intake), [(10, 1), (11, 1)]);
    let tally = intake.tally();
    assert_eq!((tally.records, tally.volume, tally.without_window), (2, Volume::new(2, 2), 1));
    let expected =
        "counted 2 records of 1 messages, 2 bytes, 2 packets; not counted: 1 in no window";
    assert_eq!(tally.to_string(), expected);
}

#[test]
fn message_of_records_and_others_is_counted_by_parts() {
    let mut intake = intake();
    let record = |destination: &str| {
        format!(
            "{{\"time\":60000,\"source\":\"10.0.0.1\",\"destination\":\"{destination}\",\"bytes\":5}}"
        )
    };
    let text = format!("[{},{},{}]", record("10.0.0.2"), record("x"), record("y"));
    let found = take(&mut intake, text.as_bytes(), 1);
    assert_eq!(found, Found { record: true, own_output: None });
    intake.end();
    assert_eq!(ticks(&mut intake), [(1, 5)]);
    let expected = "counted 1 records of 1 messages, 5 bytes, 1 packets; 1 records state no packets and count as 1 \
                    packet each; not counted: 2 bad_address";
    assert_eq!(intake.tally().to_string(), expected);
}

#[test]
fn messages_that_are_named_are_bounded_for_each_kind() {
    let notices = Notices::new(&Messages::new());
    let unread: Vec<Notice> = (0..NAMED_MAX + 3).map(|_| notices.next(Kind::Unread)).collect();
    let (named, others) = unread.split_at(NAMED_MAX as usize);
    assert!(named.iter().all(|notice| *notice == Notice::Named));
    assert_eq!(others, [Notice::Last, Notice::None, Notice::None]);
    assert_eq!(notices.next(Kind::Stray), Notice::Named);
}
