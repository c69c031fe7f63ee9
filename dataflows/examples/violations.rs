//! The whole computation: records and rows of limits in, changes out.
//!
//! Two hosts send in one window of five minutes. A limit is set, lowered while the window is open, and
//! judged by again when a late record comes; each tick prints the changes and their reasons.
//!
//! `cargo run -p floodmark-dataflows --example violations`

#![allow(clippy::print_stdout)]

use std::net::Ipv4Addr;

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::time::{END_OF_INPUT, Time, Window};
use floodmark_dataflows::types::{LimitId, Pair, Version, VersionId, Volume};
use timely::dataflow::operators::Inspect;

/// No pair may have more than so many bytes in a window.
fn max(row: u32, bytes: i64) -> Version {
    Version { limit: LimitId(1), id: VersionId(row), value: Some(bytes), ..Version::default() }
}

fn main() {
    let server = Ipv4Addr::new(192, 0, 2, 1);
    let pair = move |host: u8| Pair::V4(Ipv4Addr::new(10, 0, 0, host), server);
    let window = Window(0);

    timely::execute_directly(move |worker| {
        let (mut inputs, probe) = worker.dataflow(|scope| {
            let (inputs, outputs, probe) = graph::build(scope, Options::default());
            outputs.changes.inspect(|(change, time)| {
                println!(
                    "  at {} s: {:?} because of {:?}: {:?} with {} bytes{}",
                    time.tick / 1000,
                    change.event,
                    change.reason,
                    change.violation.entity,
                    change.violation.volume.bytes,
                    if change.settled { ", settled" } else { "" },
                );
            });
            (inputs, probe)
        });

        let mut combiner = Combiner::new(1);
        // Tick, description, edits of rows, records, watermark.
        let (m, s) = (60_000, 1000);
        let script = [
            (s, "a limit of 1000 bytes", vec![(max(1, 1000), 1)], vec![], 0),
            (m, "both send 600", vec![], vec![(1, 600), (2, 600)], m),
            (2 * m, "one of them 600 more", vec![], vec![(1, 600)], 2 * m),
            (3 * m, "it is to be 500", vec![(max(1, 1000), -1), (max(2, 500), 1)], vec![], 3 * m),
            (4 * m, "100 were counted twice", vec![], vec![(2, -100)], 4 * m),
            (6 * m, "the window has closed", vec![], vec![], 6 * m),
            (7 * m, "a late record of 900", vec![], vec![(2, 900)], 7 * m),
            (8 * m, "nothing more comes", vec![], vec![], END_OF_INPUT),
        ];
        for (tick, description, rows, records, watermark) in script {
            println!("{description}");
            inputs.advance_to(tick);
            for (row, diff) in rows {
                inputs.edit(row, diff);
            }
            for (host, bytes) in records {
                // Records are folded by pair; each makes its window one that is seen.
                combiner.add(window, pair(host), Volume::new(bytes, 1));
                inputs.mark(SourceProgress::Seen(window));
            }
            inputs.batches(combiner.take());
            inputs.mark(SourceProgress::Watermark(watermark));
            // The outputs of a tick are complete when no later input can belong to it.
            inputs.advance_to(tick + 1);
            worker.step_while(|| probe.less_than(&Time::start(tick + 1)));
        }
    });
}
