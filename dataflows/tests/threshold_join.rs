//! The threshold join against the join that it stands for, on what tables and limits never do.
//!
//! Several thresholds under one key, of both bounds, for ranges of places that overlap, touch, or are empty;
//! multiplicities above one, and negative; amounts and values at the ends of 64 bits; several times in one batch; one
//! input ahead of the other, so that the two traces compact differently; either input closed early.

use std::collections::BTreeMap;

use differential_dataflow::input::{Input, InputSession};
use floodmark_dataflows::threshold::Threshold;
use floodmark_dataflows::threshold_join::threshold_join;
use floodmark_dataflows::types::Bound;
use timely::dataflow::operators::probe::Handle;

use crate::histories::rng::Rng;

type Amounts = BTreeMap<(u8, (u64, i64)), isize>;
type Thresholds = BTreeMap<(u8, Threshold<u8>), isize>;
type Joined = BTreeMap<(u8, (u64, i64), u8), isize>;

const PLACES: [u64; 6] = [0, 1, 2, 7, u64::MAX - 2, u64::MAX - 1];

const ENDS: [i64; 9] = [i64::MIN, i64::MIN + 1, -1, 0, 1, 2, 3, i64::MAX - 1, i64::MAX];

fn by_definition(amounts: &Amounts, thresholds: &Thresholds) -> Joined {
    let mut joined = Joined::new();
    for ((key, (place, amount)), times) in amounts {
        for ((other, threshold), others) in thresholds {
            if key == other && threshold.is_broken_by(*place, *amount) {
                *joined.entry((*key, (*place, *amount), threshold.limit)).or_default() +=
                    times * others;
            }
        }
    }
    joined.retain(|_, times| *times != 0);
    joined
}

/// Some edits of a collection, entered at a time.
fn edit<D: Ord + Clone + std::fmt::Debug + 'static>(
    rng: &mut Rng,
    held: &mut BTreeMap<D, isize>,
    input: &mut InputSession<u64, D, isize>,
    time: u64,
    some: impl Fn(&mut Rng) -> D,
) {
    for _ in 0..rng.below(6) {
        let data = match held.keys().nth(rng.below(8) as usize) {
            Some(data) if rng.percent(40) => data.clone(),
            _ => some(rng),
        };
        let diff = rng.pick(&[1, 1, 1, -1, 2]);
        input.update_at(data.clone(), time, diff);
        *held.entry(data).or_default() += diff;
    }
    held.retain(|_, times| *times != 0);
}

fn check(seed: u64) {
    timely::execute_directly(move |worker| {
        let rng = &mut Rng::new(seed);
        let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let probe = Handle::new();
        let (mut amounts, mut thresholds) = worker.dataflow::<u64, _, _>(|scope| {
            let (amounts_input, amounts) = scope.new_collection();
            let (thresholds_input, thresholds) = scope.new_collection();
            let seen = seen.clone();
            threshold_join(amounts, thresholds)
                .inspect(move |update| seen.borrow_mut().push(*update))
                .probe_with(&probe);
            (amounts_input, thresholds_input)
        });
        let (mut held_amounts, mut held_thresholds) = (Amounts::new(), Thresholds::new());
        let mut right = Vec::new();
        let last = rng.between(3, 20);
        for time in 0..last {
            edit(rng, &mut held_amounts, &mut amounts, time, |rng| {
                (rng.below(3) as u8, (rng.pick(&PLACES), rng.pick(&ENDS)))
            });
            edit(rng, &mut held_thresholds, &mut thresholds, time, |rng| {
                let bound = rng.pick(&[Bound::Max, Bound::Min]);
                let (limit, value) = (rng.below(3) as u8, rng.pick(&ENDS));
                let (from, until) = match rng.percent(40) {
                    true => (0, u64::MAX),
                    false => {
                        (rng.pick(&PLACES), rng.pick(&[1, 2, 3, 7, 8, u64::MAX - 1, u64::MAX]))
                    }
                };
                (rng.below(3) as u8, Threshold { until, from, limit, bound, value })
            });
            right.push(by_definition(&held_amounts, &held_thresholds));
            // One side may be ahead of the other, and several times may be in one batch.
            if rng.percent(60) {
                amounts.advance_to(time + 1);
                amounts.flush();
            }
            if rng.percent(60) {
                thresholds.advance_to(time + 1);
                thresholds.flush();
            }
            for _ in 0..rng.below(4) {
                worker.step();
            }
        }
        if rng.percent(50) {
            drop(amounts);
            worker.step();
            drop(thresholds);
        } else {
            drop(thresholds);
            worker.step();
            drop(amounts);
        }
        worker.step_while(|| !probe.done());

        let mut joined = Joined::new();
        let mut updates = seen.take();
        updates.sort_by_key(|(_, time, _)| *time);
        for (time, right) in right.iter().enumerate() {
            for (data, _, diff) in updates.iter().filter(|(_, at, _)| *at == time as u64) {
                *joined.entry(*data).or_default() += diff;
            }
            joined.retain(|_, times| *times != 0);
            assert_eq!(&joined, right, "seed {seed}, time {time}");
        }
    });
}

#[test]
fn threshold_join_equals_the_join_filtered_by_its_thresholds() {
    (0..600).for_each(check);
}
