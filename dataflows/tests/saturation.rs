//! Sums beyond 64 bits: they saturate, are reported once, and everything else goes on.

use std::sync::mpsc;

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::monitored::Rollup;
use floodmark_dataflows::reports::Saturated;
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{
    Change, Entity, LimitId, Pair, Per, Prefix, Scope, Version, Volume,
};
use timely::dataflow::operators::Inspect;

use crate::workers;

const WINDOW: Window = Window(0);

fn pair(last: u8) -> Pair {
    Pair::V4([10, 0, 0, 1].into(), [10, 0, 0, last].into())
}

/// The outputs of one run: each total that saturated and each change, with its tick.
#[derive(Default)]
struct Output {
    saturated: Vec<(u64, Saturated)>,
    changes: Vec<(u64, Change)>,
}

/// Runs ticks 1, 2, … of records, each dealt to all workers, under a `max` of 100 bytes per source.
fn run(workers: usize, ticks: &'static [&'static [(u8, i64)]]) -> Output {
    let (saturated_to, saturated) = mpsc::channel();
    let (changes_to, changes) = mpsc::channel();
    let guards = workers::execute(workers, "saturation".to_owned(), move |worker| {
        let (saturated_to, changes_to) = (saturated_to.clone(), changes_to.clone());
        let (mut inputs, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, Options::default());
            outputs.saturated.inspect(move |(total, time)| {
                saturated_to.send((time.tick, *total)).expect("the test listens");
            });
            outputs.changes.inspect(move |(change, time)| {
                changes_to.send((time.tick, *change)).expect("the test listens");
            });
            (inputs, probe)
        });
        let first = worker.index() == 0;
        if first {
            let scope = Scope { per: Per::Source, ..Scope::default() };
            inputs.edit(
                Version { limit: LimitId(1), scope, value: Some(100), ..Version::default() },
                1,
            );
        }
        let mut combiner = Combiner::new(worker.peers());
        for (tick, records) in (1..).zip(ticks) {
            inputs.advance_to(tick);
            for (at, (last, bytes)) in records.iter().enumerate() {
                if at % worker.peers() == worker.index() {
                    combiner.add(WINDOW, pair(*last), Volume::new(*bytes, 1));
                }
            }
            inputs.batches(combiner.take());
            if first {
                inputs.mark(SourceProgress::Seen(WINDOW));
                inputs.mark(SourceProgress::Watermark(tick));
            }
        }
        inputs.advance_to(1000);
        worker.step_while(|| probe.less_than(&floodmark_dataflows::time::Time::start(1000)));
    })
    .expect("workers start");
    drop(guards.join());
    let mut output =
        Output { saturated: saturated.try_iter().collect(), changes: changes.try_iter().collect() };
    output.saturated.sort();
    output
}

#[test]
fn sums_beyond_64_bits_saturate_and_are_reported_once() {
    // Pair 2 passes 64 bits in tick 2; the source, of which pair 3 is a part, in tick 1.
    const TICKS: &[&[(u8, i64)]] =
        &[&[(2, i64::MAX - 10), (3, 60), (3, 1)], &[(2, 8), (2, 8), (3, 1)], &[(2, 1), (3, 5)]];
    for workers in [1, 2, 3] {
        let Output { saturated, changes } = run(workers, TICKS);
        let source = Entity::Source([10, 0, 0, 1].into());
        let rollup = Rollup { per: Per::Source, source: Prefix::ANY, destination: Prefix::ANY };
        let of_pair = Saturated { window: WINDOW, rollup: None, entity: Entity::Pair(pair(2)) };
        let of_source = Saturated { window: WINDOW, rollup: Some(rollup), entity: source };
        assert_eq!(saturated, [(1, of_source), (2, of_pair)], "{workers} workers");
        let [(tick, raised)] = changes[..] else { panic!("one change: {changes:?}") };
        let violation = raised.violation;
        assert_eq!((tick, violation.entity), (1, source), "{workers} workers");
        assert_eq!(violation.volume, Volume::new(i64::MAX, 3), "{workers} workers");
        assert!(violation.volume.is_saturated());
    }
}
