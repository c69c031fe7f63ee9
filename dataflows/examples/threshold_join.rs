//! The threshold join by itself, in any dataflow: amounts against limits that move.
//!
//! A million amounts are held under one key, and a limit is moved among them. Each move prints
//! how many violations it raises and clears. It costs about their number, not a scan of the million.
//!
//! `cargo run --release -p floodmark-dataflows --example threshold_join`

#![allow(clippy::print_stdout)]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use differential_dataflow::input::Input;
use floodmark_dataflows::threshold::Threshold;
use floodmark_dataflows::threshold_join::threshold_join;
use floodmark_dataflows::types::Bound;
use timely::dataflow::operators::Probe;

fn main() {
    timely::execute_directly(|worker| {
        let changes = Rc::new(Cell::new((0, 0)));
        let count = changes.clone();
        let (mut amounts, mut limits, probe) = worker.dataflow::<u64, _, _>(|scope| {
            let (amounts_input, amounts) = scope.new_collection();
            let (limits_input, limits) = scope.new_collection();
            // Neither side is exchanged: amounts stay where they are, and limits go to every worker.
            let (probe, broken) = threshold_join(amounts, limits).inner.probe();
            differential_dataflow::AsCollection::as_collection(broken).inspect(move |update| {
                let (raised, cleared) = count.get();
                count.set(match update.2 {
                    diff if diff > 0 => (raised + 1, cleared),
                    _ => (raised, cleared + 1),
                });
            });
            (amounts_input, limits_input, probe)
        });

        for amount in 0..1_000_000i64 {
            amounts.insert((7u32, (0, amount)));
        }
        let max = |value| (7u32, Threshold::everywhere('L', Bound::Max, value));
        let mut value = 2_000_000;
        limits.insert(max(value));
        for (at, next) in (1..).zip([2_000_000, 1_000_000, 999_990, 999_000, 999_995, 500_000]) {
            limits.remove(max(value));
            limits.insert(max(next));
            value = next;
            limits.advance_to(at);
            amounts.advance_to(at);
            limits.flush();
            amounts.flush();
            let start = Instant::now();
            worker.step_while(|| probe.less_than(&at));
            let (raised, cleared) = changes.take();
            println!(
                "max {value}: {raised} violations raised, {cleared} cleared, in {:.1?}",
                start.elapsed()
            );
        }
    });
}
