//! Rounds: many ticks on which workers agree at once.

use std::cell::Cell;
use std::rc::Rc;

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::UpdateBatch;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::reads::{Chunk, Read, RequestId, Response};
use floodmark_dataflows::time::{Time, Window};
use floodmark_dataflows::types::{LimitId, Version, VersionId, Volume};
use timely::dataflow::operators::Inspect;

use crate::workers;

const WORKERS: u64 = 2;

/// Steps in which a round is done with many times over.
const STEPS_MAX: usize = 10_000_000;

/// Buffers on the way are full after some number of records, and the worker steps before the round ends: it
/// must not matter that nothing is left to be sent then.
#[test]
fn round_that_fills_a_buffer_exactly_is_sent_completely() {
    let batches = 1..=200;
    let rows = [1, 1023, 1024, 1025, 2048];
    let guards = workers::execute(WORKERS as usize, "rounds".to_owned(), move |worker| {
        let held = Rc::new(Cell::new(0));
        let (mut inputs, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, Options::default());
            let held = held.clone();
            outputs.responses.inspect(move |(Response { chunk, .. }, _)| {
                if let Chunk::Held { pairs, .. } = chunk {
                    held.set(held.get() + pairs);
                }
            });
            (inputs, probe)
        });
        let leads = worker.index() == 0;
        let (mut pairs, mut limits) = (0, 0);
        let rounds = batches.clone().map(|batches| (batches, 0));
        for (batches, rows) in rounds.chain(rows.map(|rows| (0, rows))) {
            inputs.begin_tick(inputs.tick() + 1);
            if leads {
                inputs.batches((0..batches).map(|number| {
                    pairs += 1;
                    let v4 = vec![(pairs, Volume::new(1, 1))];
                    UpdateBatch { to: number % WORKERS, records: 1, v4, ..UpdateBatch::default() }
                }));
                for _ in 0..batches {
                    inputs.mark(SourceProgress::Seen(Window(0)));
                }
                for _ in 0..rows {
                    limits += 1;
                    let (limit, id) = (LimitId(limits), VersionId(limits));
                    inputs.edit(Version { limit, id, value: Some(5), ..Version::default() }, 1);
                }
            }
            worker.step();
            inputs.end_round();
            let next = Time::start(inputs.tick() + 1);
            let mut steps = 0;
            while probe.less_than(&next) {
                worker.step();
                steps += 1;
                assert!(steps < STEPS_MAX, "a round of {batches} batches and {rows} rows is stuck");
            }
        }
        inputs.begin_tick(inputs.tick() + 1);
        if leads {
            inputs.read(RequestId(1), Read::Held);
        }
        inputs.end_round();
        worker.step_while(|| probe.less_than(&Time::start(inputs.tick() + 1)));
        if leads {
            assert_eq!(held.get(), pairs);
        }
    })
    .expect("workers start");
    for worker in guards.join() {
        worker.expect("no worker panics");
    }
}
