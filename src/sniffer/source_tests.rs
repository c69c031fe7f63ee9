//! The threads that bring records in, with a wire, a clock and captures made here.

use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use floodmark_dataflows::types::Pair;

use super::super::pace::Speed;
use super::super::queue::Taken;
use super::*;
use crate::capture::{EventTime, Reader};
use crate::generate::{Workload, write_pcap};

/// A clock that moves when somebody waits.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<AtomicU64>);

impl Clock for Hand {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn pass(&self, at_most: Duration) {
        self.0.fetch_add(at_most.as_nanos() as u64, Ordering::SeqCst);
    }
}

/// The result of one read.
type Step = Result<Vec<Packet>, LiveError>;

/// Returns the scripted results of reads, and then no frames.
struct Script {
    steps: VecDeque<Step>,
    clock: Hand,
    tally: Tally,
    drops: Drops,
}

impl Wire for Script {
    fn wait(&mut self, at_most: Duration) -> Result<(), LiveError> {
        self.clock.pass(at_most);
        Ok(())
    }

    fn read(&mut self, each: &mut impl FnMut(&Packet)) -> Result<usize, LiveError> {
        let packets = self.steps.pop_front().unwrap_or(Ok(Vec::new()))?;
        packets.iter().for_each(each);
        self.tally.frames += packets.len() as u64;
        self.tally.packets += packets.len() as u64;
        Ok(packets.len())
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }

    fn drops(&mut self) -> Result<Drops, LiveError> {
        Ok(self.drops)
    }

    fn is_up(&self) -> bool {
        true
    }
}

fn packet(ms: u64, bytes: u64) -> Packet {
    let pair = Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    Packet { time: EventTime { ms, nanos: 0 }, pair, bytes }
}

/// Watches a script for so many seconds, and takes what comes only at the end.
fn watched(steps: Vec<Step>, bucket_ms: Option<u64>, room: usize, secs: u64) -> (Vec<Record>, End) {
    let clock = Hand::default();
    let drops = Drops { kernel: 3, interface: 1 };
    let script =
        Script { steps: steps.into(), clock: clock.clone(), tally: Tally::default(), drops };
    let source = watch(
        script,
        Watch {
            folding: Folding::new(bucket_ms),
            room,
            clock,
            duration: Some(Duration::from_secs(secs)),
            interrupt: Interrupt::default(),
            messages: Messages::new(),
            meter: Arc::new(Meter::new("-".into())),
        },
    )
    .expect("a thread");
    let end = source.end.recv().expect("it ends");
    (all(&source.records), end)
}

fn all(records: &Exit) -> Vec<Record> {
    let mut taken = Vec::new();
    loop {
        match records.take(Duration::MAX) {
            Taken::Batch(batch) => taken.extend(batch),
            Taken::Nothing => {}
            Taken::Ended => return taken,
        }
    }
}

fn packets(records: &[Record]) -> i64 {
    records.iter().map(|record| record.volume.packets).sum()
}

#[test]
fn what_the_queue_has_no_room_for_is_dropped_and_counted() {
    let steps = (0..20).map(|at| Ok(vec![packet(at, 100); 5])).collect();
    let (records, end) = watched(steps, None, 12, 3);
    // Two batches of five fit.
    assert_eq!(records.len(), 10);
    assert_eq!(end.lost, Lost { records: 90, volume: Volume::new(9000, 90) });
    assert_eq!(end.tally.packets, 100);
    let said = dropped(end.drops, &end.lost);
    let parts = ["3 frames by the kernel", "1 frames by the interface", "90 records of 90 packets"];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    assert_eq!(dropped(Drops::default(), &Lost::default()), "dropped nothing");
}

#[test]
fn folded_before_the_queue_an_outage_costs_little() {
    let steps = (0..50).map(|at| Ok(vec![packet(at * 100, 100); 1000])).collect();
    let (records, end) = watched(steps, Some(1000), 10, 10);
    assert_eq!(end.lost, Lost::default());
    assert_eq!(packets(&records), 50_000);
    assert_eq!(records.len(), 5);
}

#[test]
fn a_bucket_of_a_quiet_link_ends_by_the_clock() {
    let mut steps = vec![Ok(vec![packet(5_000, 60)])];
    // Two seconds in which nothing comes.
    steps.extend((0..20).map(|_| Ok(Vec::new())));
    steps.push(Ok(vec![packet(5_500, 60)]));
    let (records, _) = watched(steps, Some(1000), 100, 10);
    assert_eq!(records.iter().map(|record| record.time_ms).collect::<Vec<_>>(), [5_000, 5_500]);
}

#[test]
fn what_came_before_the_end_is_taken() {
    // Far behind: the kernel still has a lot when the time is over.
    let steps = (0..60).map(|at| Ok(vec![packet(at, 100); 5])).collect();
    let (records, end) = watched(steps, None, 1000, 1);
    assert_eq!((packets(&records), end.tally.packets), (300, 300));
    // Packets of after the end don't hold it up, however many come.
    let steps = (0..10_000).map(|_| Ok(vec![packet(u64::MAX / 2, 100); 5])).collect();
    let (records, _) = watched(steps, None, 1_000_000, 1);
    assert!(packets(&records) < 100, "{}", packets(&records));
}

#[test]
fn what_an_interface_brought_before_it_went_is_kept() {
    let gone = LiveError::Gone { interface: "eth0".to_owned(), reason: "it went".to_owned() };
    let steps = vec![Ok(vec![packet(5_000, 60); 7]), Err(gone)];
    let (records, end) = watched(steps, Some(1000), 100, 10);
    assert_eq!(packets(&records), 7);
    let text = end.error.expect("it says so").to_string();
    assert!(text.contains("\"eth0\"") && text.contains("it went"), "{text}");
}

const SPAN_SECS: u64 = 100;

/// A capture of a thousand packets in a hundred seconds.
fn capture() -> Merge {
    let workload = Workload {
        packets: 1000,
        pairs: 10,
        start_micros: 1_700_000_000_000_000,
        span_micros: SPAN_SECS * 1_000_000,
        seed: 1,
        ipv6: 0.25,
    };
    let mut bytes = Vec::new();
    write_pcap(workload.packets().expect("a workload"), &mut bytes).expect("memory");
    Merge::new(vec![Reader::from_read("made", Box::new(Cursor::new(bytes)))], Messages::new())
}

fn paced(speed: Speed, clock: Hand) -> (Vec<Record>, End) {
    let reading = Reading {
        pace: Pace::new(speed),
        clock,
        one_by_one: false,
        room: 64,
        interrupt: Interrupt::default(),
        messages: Messages::new(),
    };
    let source = read(capture(), reading).expect("a thread");
    let records = all(&source.records);
    (records, source.end.recv().expect("it ends"))
}

#[test]
fn a_capture_takes_its_span_by_its_speed_and_keeps_its_times() {
    let clock = Hand::default();
    let (records, end) = paced(Speed::Max, clock.clone());
    assert_eq!((clock.now(), end.tally.packets), (Duration::ZERO, 1000));
    let (first, last) = (records[0].time_ms, records[999].time_ms);
    assert!(last - first > 90_000, "{first} {last}");
    for (times, factor) in [(1.0, 1.0), (10.0, 0.1), (0.5, 2.0)] {
        let clock = Hand::default();
        let (again, _) = paced(Speed::Times(times), clock.clone());
        assert_eq!(again, records);
        let expected = (last - first) as f64 / 1000.0 * factor;
        let took = clock.now().as_secs_f64();
        assert!((took - expected).abs() < 0.01, "at {times}x it took {took}, not {expected}");
    }
}

#[test]
fn a_reader_whose_records_nobody_wants_ends() {
    let reading = Reading {
        pace: None,
        clock: Hand::default(),
        one_by_one: true,
        room: 1,
        interrupt: Interrupt::default(),
        messages: Messages::new(),
    };
    let Source { records, end } = read(capture(), reading).expect("a thread");
    drop(records);
    let end = end.recv().expect("it ends");
    assert!(end.tally.packets < 1000);
}
