//! Tests of the threads that produce records, with a scripted interface, a manual clock and generated captures.

use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use floodmark_dataflows::types::Pair;

use super::super::pace::Speed;
use super::super::queue::Received;
use super::*;
use crate::capture::{EventTime, Reader};
use crate::generate::{Workload, write_pcap};

/// A clock that advances only when somebody waits.
#[derive(Clone, Default)]
pub(crate) struct ManualClock(Arc<AtomicU64>);

impl PaceClock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::SeqCst))
    }

    fn wait(&self, at_most: Duration) {
        self.0.fetch_add(at_most.as_nanos() as u64, Ordering::SeqCst);
    }
}

/// The result of one read.
type Step = Result<Vec<Packet>, LiveError>;

/// Returns the scripted results of reads, and then no frames.
struct Script {
    steps: VecDeque<Step>,
    clock: ManualClock,
    tally: Tally,
    drops: Drops,
}

impl Wire for Script {
    fn wait(&mut self, at_most: Duration) -> Result<(), LiveError> {
        self.clock.wait(at_most);
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

/// Captures from a script for this many seconds, and receives the records only at the end.
fn captured(
    steps: Vec<Step>,
    bucket_ms: Option<u64>,
    capacity: usize,
    secs: u64,
) -> (Vec<Record>, End) {
    let clock = ManualClock::default();
    let drops = Drops { kernel: 3, interface: 1 };
    let script =
        Script { steps: steps.into(), clock: clock.clone(), tally: Tally::default(), drops };
    let source = capture_interface(
        script,
        InterfaceSettings {
            folding: Folding::new(bucket_ms),
            capacity,
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

fn all(records: &QueueReceiver) -> Vec<Record> {
    let mut received = Vec::new();
    loop {
        match records.receive(Duration::MAX) {
            Received::Batch(batch) => received.extend(batch),
            Received::Nothing => {}
            Received::Ended => return received,
        }
    }
}

fn packets(records: &[Record]) -> i64 {
    records.iter().map(|record| record.volume.packets).sum()
}

#[test]
fn records_beyond_the_queue_capacity_are_dropped_and_counted() {
    let steps = (0..20).map(|at| Ok(vec![packet(at, 100); 5])).collect();
    let (records, end) = captured(steps, None, 12, 3);
    // Two batches of five fit.
    assert_eq!(records.len(), 10);
    assert_eq!(end.lost, DroppedRecords { records: 90, volume: Volume::new(9000, 90) });
    assert_eq!(end.tally.packets, 100);
    let text = dropped(end.drops, &end.lost);
    let parts = ["3 frames by the kernel", "1 frames by the interface", "90 records of 90 packets"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    assert_eq!(dropped(Drops::default(), &DroppedRecords::default()), "dropped nothing");
}

#[test]
fn outage_with_folding_before_the_queue_loses_nothing() {
    let steps = (0..50).map(|at| Ok(vec![packet(at * 100, 100); 1000])).collect();
    let (records, end) = captured(steps, Some(1000), 10, 10);
    assert_eq!(end.lost, DroppedRecords::default());
    assert_eq!(packets(&records), 50_000);
    assert_eq!(records.len(), 5);
}

#[test]
fn bucket_of_a_quiet_link_ends_by_the_clock() {
    let mut steps = vec![Ok(vec![packet(5_000, 60)])];
    // Two seconds without packets.
    steps.extend((0..20).map(|_| Ok(Vec::new())));
    steps.push(Ok(vec![packet(5_500, 60)]));
    let (records, _) = captured(steps, Some(1000), 100, 10);
    assert_eq!(records.iter().map(|record| record.time_ms).collect::<Vec<_>>(), [5_000, 5_500]);
}

#[test]
fn packets_before_the_end_are_read() {
    // The capture is far behind: the kernel still has many packets when the time is over.
    let steps = (0..60).map(|at| Ok(vec![packet(at, 100); 5])).collect();
    let (records, end) = captured(steps, None, 1000, 1);
    assert_eq!((packets(&records), end.tally.packets), (300, 300));
    // Packets after the end do not delay it, however many arrive.
    let steps = (0..10_000).map(|_| Ok(vec![packet(u64::MAX / 2, 100); 5])).collect();
    let (records, _) = captured(steps, None, 1_000_000, 1);
    assert!(packets(&records) < 100, "{}", packets(&records));
}

#[test]
fn packets_of_a_removed_interface_are_kept() {
    let gone = LiveError::Gone { interface: "eth0".to_owned(), reason: "it went".to_owned() };
    let steps = vec![Ok(vec![packet(5_000, 60); 7]), Err(gone)];
    let (records, end) = captured(steps, Some(1000), 100, 10);
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

fn paced(speed: Speed, clock: ManualClock) -> (Vec<Record>, End) {
    let settings = FileReaderSettings {
        pace: Pace::new(speed),
        clock,
        one_by_one: false,
        capacity: 64,
        interrupt: Interrupt::default(),
        messages: Messages::new(),
    };
    let source = read_captures(capture(), settings).expect("a thread");
    let records = all(&source.records);
    (records, source.end.recv().expect("it ends"))
}

#[test]
fn capture_is_read_at_its_speed_and_keeps_its_times() {
    let clock = ManualClock::default();
    let (records, end) = paced(Speed::Max, clock.clone());
    assert_eq!((clock.now(), end.tally.packets), (Duration::ZERO, 1000));
    let (first, last) = (records[0].time_ms, records[999].time_ms);
    assert!(last - first > 90_000, "{first} {last}");
    for (times, factor) in [(1.0, 1.0), (10.0, 0.1), (0.5, 2.0)] {
        let clock = ManualClock::default();
        let (again, _) = paced(Speed::Times(times), clock.clone());
        assert_eq!(again, records);
        let expected = (last - first) as f64 / 1000.0 * factor;
        let took = clock.now().as_secs_f64();
        assert!((took - expected).abs() < 0.01, "at {times}x it took {took}, not {expected}");
    }
}

#[test]
fn reader_without_a_receiver_ends() {
    let settings = FileReaderSettings {
        pace: None,
        clock: ManualClock::default(),
        one_by_one: true,
        capacity: 1,
        interrupt: Interrupt::default(),
        messages: Messages::new(),
    };
    let Source { records, end } = read_captures(capture(), settings).expect("a thread");
    drop(records);
    let end = end.recv().expect("it ends");
    assert!(end.tally.packets < 1000);
}
