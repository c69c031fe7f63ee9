//! Ticks with very many changes: they are made in steps, wait for their consumer in bounded number, and
//! come in one order, whatever the number of workers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Mutex, mpsc};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::time::{END_OF_INPUT, Time, Window, Windows};
use floodmark_dataflows::types::{Change, Event, LimitId, Pair, Version, VersionId, Volume};
use timely::dataflow::operators::Inspect;

use crate::workers;

/// Pairs, each with one record.
const PAIRS: u64 = 20_000;

const WINDOW: Window = Window(0);

/// The consumer's view of three ticks: a limit that all pairs break, one that none does, and the end.
#[derive(Default)]
struct Seen {
    changes: Vec<(u64, Change)>,
    /// The most changes that came while a worker stepped once.
    most_at_once: usize,
    /// The most changes that waited to be taken.
    most_waiting: usize,
}

fn pair(number: u64) -> Pair {
    // IPv6 addresses, whose keys are in another order.
    let address = |bits: u64| std::net::Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(bits));
    match number.is_multiple_of(4) {
        true => Pair::V6(address(number.reverse_bits()), address(number)),
        false => Pair::V4((number as u32).reverse_bits().into(), [10, 0, 0, 1].into()),
    }
}

fn run(workers: usize, changes_ahead: Option<usize>) -> Seen {
    let (to, from) = mpsc::channel();
    let to = Mutex::new(to);
    let guards =
        workers::execute(workers, format!("changes ahead {changes_ahead:?}"), move |worker| {
            let to = to.lock().expect("no worker panics with it").clone();
            let windows = Windows { lateness_ms: Some(0), ..Windows::default() };
            let options = Options { windows, changes_ahead, ..Options::default() };
            let seen = Rc::new(RefCell::new(Vec::new()));
            let (mut inputs, probe) = worker.dataflow(|scope| {
                let (inputs, outputs, probe) = graph::build(scope, options);
                let seen = seen.clone();
                outputs.changes.inspect(move |(change, time)| {
                    seen.borrow_mut().push((time.tick, *change));
                });
                (inputs, probe)
            });
            let (index, peers) = (worker.index() as u64, worker.peers() as u64);
            let mut combiner = Combiner::new(worker.peers());
            for number in (0..PAIRS).filter(|number| number % peers == index) {
                combiner.add(WINDOW, pair(number), Volume::new(100 + number as i64, 1));
            }
            inputs.advance_to(1);
            inputs.batches(combiner.take());
            let version = |id, value| Version { id: VersionId(id), value, ..Version::default() };
            if index == 0 {
                inputs.mark(SourceProgress::Seen(WINDOW));
                inputs.mark(SourceProgress::Watermark(1));
            }
            inputs.advance_to(2);
            if index == 0 {
                inputs.edit(version(1, Some(0)), 1);
            }
            inputs.advance_to(3);
            if index == 0 {
                inputs.mark(SourceProgress::Watermark(END_OF_INPUT));
            }
            inputs.advance_to(4);
            if index == 0 {
                inputs.edit(version(1, Some(0)), -1);
                inputs.edit(version(2, Some(1 << 40)), 1);
            }
            inputs.advance_to(5);
            let mut result = Seen::default();
            while probe.less_than(&Time::start(5)) {
                worker.step();
                let mut seen = seen.borrow_mut();
                result.most_at_once = result.most_at_once.max(seen.len());
                result.most_waiting = result.most_waiting.max(seen.len());
                // The consumer takes a part, if it has anything to take.
                let some = changes_ahead.map_or(seen.len(), |ahead| seen.len().min(ahead / 3 + 1));
                result.changes.extend(seen.drain(..some));
                inputs.consumed(some);
            }
            result.changes.append(&mut seen.borrow_mut());
            if index == 0 {
                to.send(result).expect("the test waits");
            }
        })
        .expect("workers start");
    drop(guards.join());
    from.recv().expect("the first worker ran")
}

/// Holds what was seen to all changes of all ticks, in their order.
fn check(seen: &Seen, what: &str) {
    let place = |(tick, change): &(u64, Change)| {
        let violation = change.violation;
        (*tick, violation.window, violation.limit, violation.entity)
    };
    assert!(seen.changes.is_sorted_by(|a, b| place(a) < place(b)), "out of order: {what}");
    for (tick, event) in [(2, Event::Raised), (3, Event::Updated), (4, Event::Cleared)] {
        let of_tick = seen.changes.iter().filter(|(at, _)| *at == tick);
        let expected = |(_, change): &&(u64, Change)| {
            change.event == event && change.violation.limit == LimitId(0)
        };
        assert_eq!(of_tick.clone().count() as u64, PAIRS, "tick {tick}: {what}");
        assert!(of_tick.clone().all(|change| expected(&change)), "tick {tick}: {what}");
    }
}

#[test]
fn changes_of_one_tick_are_emitted_in_steps() {
    let seen = run(1, None);
    check(&seen, "one worker");
    // Less than all of a tick, by what a step may cost.
    assert!(seen.most_at_once <= PAIRS as usize * 3 / 4, "{} at once", seen.most_at_once);
}

#[test]
fn changes_that_wait_for_their_consumer_are_bounded() {
    for (workers, ahead) in [(1, 1000), (2, 1000), (3, 300)] {
        let seen = run(workers, Some(ahead));
        check(&seen, &format!("{workers} workers, {ahead} ahead"));
        assert!(seen.most_waiting <= ahead, "{} wait, {workers} workers", seen.most_waiting);
    }
}
