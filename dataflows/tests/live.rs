//! A live input: the watermark that follows from the progress of its partitions and the clock, on any number of
//! workers.

use std::sync::mpsc;

use floodmark_dataflows::clock::{SourceProgress, WindowEvent};
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Inputs, Options};
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::{
    Bound, Event, LimitId, Metric, Pair, Per, Scope, Version, VersionId, Volume,
};
use floodmark_dataflows::watermark::PartitionProgress;
use timely::dataflow::operators::Inspect;

use crate::workers;

/// The input of a tick.
#[derive(Clone, Default)]
struct Tick {
    now: u64,
    silence: u64,
    begun: Option<u64>,
    /// Truncated partitions, each with its first event time.
    truncated: Vec<(u32, Option<u64>)>,
    /// The progress of partitions; partition `p` is read by worker `p % workers`.
    progress: Vec<(u32, PartitionProgress)>,
    records: Vec<u64>,
}

/// The outputs of a run: the watermark of each tick, and events of violations as (tick, event, window).
#[derive(Debug, Default, PartialEq, Eq)]
struct Outputs {
    watermarks: Vec<(u64, u64, u64)>,
    events: Vec<(u64, Event, u64)>,
}

fn pair() -> Pair {
    Pair::V4([192, 0, 2, 1].into(), [192, 0, 2, 2].into())
}

/// A `min` of 1 packet in total: silence breaks it.
fn least() -> Version {
    Version {
        limit: LimitId(1),
        id: VersionId(1),
        bound: Bound::Min,
        scope: Scope { per: Per::Total, metric: Metric::Packets, ..Scope::default() },
        value: Some(1),
        ..Version::default()
    }
}

const RULES: Windows = Windows {
    width_secs: 300,
    lateness_ms: Some(60_000),
    retention_ms: Some(0),
    max_gap_secs: 900,
};

fn feed(inputs: &mut Inputs, index: usize, peers: usize, at: u64, tick: &Tick) {
    inputs.advance_to(at);
    if index == 0 {
        inputs.mark(SourceProgress::Now { now: tick.now, silence: tick.silence });
        if let Some(begun) = tick.begun {
            inputs.mark(SourceProgress::Begun(begun));
        }
    }
    for (partition, progress) in &tick.progress {
        if *partition as usize % peers == index {
            inputs.mark(SourceProgress::Partition { partition: *partition, progress: *progress });
        }
    }
    for (partition, first) in &tick.truncated {
        if *partition as usize % peers == index {
            inputs.mark(SourceProgress::Truncated { partition: *partition, first: *first });
        }
    }
    let mut combiner = Combiner::new(peers);
    for (n, record) in tick.records.iter().enumerate() {
        if n % peers == index {
            let window = RULES.of(*record).expect("a window");
            inputs.mark(SourceProgress::Seen(window));
            combiner.add(window, pair(), Volume::new(100, 1));
        }
    }
    inputs.batches(combiner.take());
}

fn run(workers: usize, ticks: Vec<Tick>) -> Outputs {
    let (send, receive) = mpsc::channel();
    workers::execute(workers, "live".to_owned(), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let options = Options { windows: RULES, ..Options::default() };
        let (clocks, changes) = (send.clone(), send.clone());
        let mut inputs = worker.dataflow(|scope| {
            let (inputs, outputs, _) = graph::build(scope, options);
            outputs.clock.inspect(move |(clock, time)| {
                if let (0, WindowEvent::EventTime { at, slowest, .. }) = (index, clock) {
                    clocks.send(Ok((time.tick, *at, *slowest))).expect("the test waits");
                }
            });
            outputs.changes.inspect(move |(change, time)| {
                let event = (time.tick, change.event, change.violation.window.0);
                changes.send(Err(event)).expect("the test waits");
            });
            inputs
        });
        if index == 0 {
            inputs.edit(least(), 1);
        }
        for (at, tick) in (1..).zip(&ticks) {
            feed(&mut inputs, index, peers, at, tick);
        }
    })
    .expect("workers start");
    let mut outputs = Outputs::default();
    for output in receive.try_iter() {
        match output {
            Ok(watermark) => outputs.watermarks.push(watermark),
            Err(event) => outputs.events.push(event),
        }
    }
    // In order of tick, and only those from the first on; without a tick 0 there is no mark of it.
    outputs.watermarks.retain(|(tick, ..)| *tick > 0);
    outputs.watermarks.sort_unstable();
    outputs.events.sort_unstable_by_key(|(tick, _, window)| (*tick, *window));
    outputs
}

fn on_all(ticks: &[Tick]) -> Outputs {
    let outputs = run(1, ticks.to_vec());
    for workers in [2, 4] {
        assert_eq!(run(workers, ticks.to_vec()), outputs, "{workers} workers");
    }
    outputs
}

const MINUTE: u64 = 60_000;

/// A tick at a minute, with the progress of partitions; silence is half a minute behind.
fn at(minute: u64, progress: &[(u32, PartitionProgress)], records: &[u64]) -> Tick {
    Tick {
        now: minute * MINUTE,
        silence: minute * MINUTE - MINUTE / 2,
        begun: None,
        truncated: Vec::new(),
        progress: progress.to_vec(),
        records: records.to_vec(),
    }
}

#[test]
fn watermark_waits_for_the_slowest_partition() {
    let ticks = [
        at(
            60,
            &[
                (0, PartitionProgress::Unknown),
                (1, PartitionProgress::Unknown),
                (2, PartitionProgress::Empty),
            ],
            &[],
        ),
        at(61, &[(0, PartitionProgress::At(59 * MINUTE))], &[59 * MINUTE]),
        at(62, &[(1, PartitionProgress::At(50 * MINUTE))], &[50 * MINUTE]),
        at(63, &[(2, PartitionProgress::Idle)], &[]),
        at(64, &[(1, PartitionProgress::At(90 * MINUTE))], &[]),
        at(65, &[(0, PartitionProgress::Idle), (1, PartitionProgress::Idle)], &[]),
        at(66, &[(1, PartitionProgress::At(3 * MINUTE))], &[]),
        at(
            67,
            &[(0, PartitionProgress::At(80 * MINUTE)), (1, PartitionProgress::At(80 * MINUTE))],
            &[],
        ),
    ];
    let outputs = on_all(&ticks);
    let minutes: Vec<_> = outputs
        .watermarks
        .iter()
        .map(|(tick, at, slowest)| (*tick, *at as f64 / 6e4, *slowest as f64 / 6e4))
        .collect();
    assert_eq!(
        minutes,
        [
            (1, 0.0, 0.0),
            // Partition 1 may be behind by any time.
            (2, 0.0, 0.0),
            // Partition 2 is empty: no partition waits for it, but it may still deliver old records.
            (3, 0.0, 50.0),
            (4, 50.0, 50.0),
            (5, 59.0, 59.0),
            (6, 64.5, 64.5),
            // Partition 1 returns with late records; the watermark does not move back.
            (7, 64.5, 64.5),
            // Never after the clock.
            (8, 67.0, 67.0),
        ]
    );
}

#[test]
fn silence_passed_by_a_live_watermark_is_judged() {
    let idle = [(0, PartitionProgress::Idle)];
    let ticks = [
        at(60, &[(0, PartitionProgress::At(59 * MINUTE))], &[59 * MINUTE]),
        at(65, &idle, &[]),
        at(71, &[], &[]),
        at(77, &[], &[]),
    ];
    let outputs = on_all(&ticks);
    let raised: Vec<_> = outputs
        .events
        .iter()
        .filter(|(_, event, _)| *event == Event::Raised)
        .map(|(tick, _, window)| (*tick, window / 60))
        .collect();
    // The window of the record ends at minute 60, and has one. Then each is judged as it passes.
    assert_eq!(raised, [(3, 60), (3, 65), (4, 70)]);
}

#[test]
fn silence_in_a_step_beyond_the_greatest_gap_is_not_judged() {
    // A recorded topic that ends, long ago.
    let ticks = [
        at(1000, &[(0, PartitionProgress::At(59 * MINUTE))], &[59 * MINUTE]),
        at(1001, &[(0, PartitionProgress::Idle)], &[]),
        at(1002, &[], &[]),
    ];
    assert_eq!(on_all(&ticks).events, []);
}

#[test]
fn partial_window_breaks_no_lower_bound() {
    let begun = |begun| {
        let first = Tick {
            begun,
            ..at(62, &[(0, PartitionProgress::At(62 * MINUTE))], &[62 * MINUTE, 48 * MINUTE])
        };
        let last = at(72, &[(0, PartitionProgress::Idle)], &[]);
        let events = on_all(&[first, last]).events;
        events
            .iter()
            .filter(|(_, event, _)| *event == Event::Raised)
            .map(|(_, _, window)| window / 60)
            .collect::<Vec<_>>()
    };
    // Between the windows with records, and after them.
    assert_eq!(begun(None), [50, 55, 65]);
    // Observation began within the window before the last.
    assert_eq!(begun(Some(61 * MINUTE)), [65]);
}

#[test]
fn windows_up_to_the_latest_first_record_of_truncated_partitions_are_partial() {
    let raised = |truncated: [&[(u32, Option<u64>)]; 3]| {
        let mut ticks = [
            at(
                60,
                &[(0, PartitionProgress::At(41 * MINUTE)), (1, PartitionProgress::Unknown)],
                &[41 * MINUTE],
            ),
            at(61, &[0, 1].map(|one| (one, PartitionProgress::At(56 * MINUTE))), &[56 * MINUTE]),
            at(71, &[(0, PartitionProgress::Idle), (1, PartitionProgress::Idle)], &[]),
        ];
        for (tick, truncated) in ticks.iter_mut().zip(truncated) {
            tick.truncated = truncated.to_vec();
        }
        let events = on_all(&ticks).events.into_iter();
        events
            .filter(|(_, event, _)| *event == Event::Raised)
            .map(|(_, _, window)| window / 60)
            .collect::<Vec<_>>()
    };
    let (first, second) = ((0, Some(41 * MINUTE)), (1, Some(56 * MINUTE)));
    // Between the windows with records, and after them.
    assert_eq!(raised([&[], &[], &[]]), [45, 50, 60, 65]);
    assert_eq!(raised([&[first], &[], &[]]), [45, 50, 60, 65]);
    assert_eq!(raised([&[first, (1, None)], &[second], &[]]), [60, 65]);
    // Reading starts exactly at the start of a window, which may still lack records.
    assert_eq!(raised([&[(1, Some(60 * MINUTE))], &[], &[]]), [65]);
    // The partition was empty: reading starts now.
    assert_eq!(raised([&[(0, None)], &[], &[(0, Some(71 * MINUTE))]]), []);
    // While the first event time is unknown, no window is whole.
    assert_eq!(raised([&[(0, None)], &[], &[]]), []);
}
