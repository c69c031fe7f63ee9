//! What an entity comes to, asked at every tick of random histories, and which windows exist then.
//!
//! The reference's totals are added up here, entity by entity. What is asked for is summed by a rollup
//! that limits use, by one that nobody uses, or is the total of a pair; some of it is asked twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};

use floodmark_dataflows::clock::SourceProgress;
use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::{self, Options};
use floodmark_dataflows::monitored::Rollup;
use floodmark_dataflows::reads::{Chunk, Read, RequestId, Response};
use floodmark_dataflows::reference::{Existence, Reference};
use floodmark_dataflows::spans::Existing;
use floodmark_dataflows::time::{Phase, Window};
use floodmark_dataflows::types::{Entity, Pair, Per, Prefix, Scope, Volume};
use timely::dataflow::operators::Inspect;

use crate::histories::rng::Rng;
use crate::histories::{History, Size, history};
use crate::workers;

/// What is asked for: a window, a sum over pairs, and whose.
type Asked = (Window, Option<Rollup>, Entity);

/// What left at a tick.
#[derive(Debug, Default)]
struct Left {
    amounts: BTreeMap<Asked, Volume>,
    existing: BTreeMap<Existing, isize>,
}

/// What is asked at each tick: of windows and pairs that occur up to then, by sums that limits have or
/// could have.
fn questions(history: &History, seed: u64) -> Vec<Vec<Asked>> {
    let rng = &mut Rng::new(seed);
    let (mut windows, mut pairs, mut rollups) = (Vec::new(), Vec::new(), Vec::new());
    let any = |per| Scope { per, ..Scope::default() };
    rollups.extend([Per::Source, Per::Destination, Per::Host, Per::Total].map(any));
    let mut ask = |input: &floodmark_dataflows::reference::TickInput| {
        windows.extend(input.records.iter().map(|(window, ..)| *window));
        pairs.extend(input.records.iter().map(|(_, pair, _)| *pair));
        rollups.extend(input.edits.iter().map(|(version, _)| version.scope));
        let mut asked = Vec::new();
        for _ in 0..rng.below(8) {
            if windows.is_empty() {
                break;
            }
            let last = windows.len().saturating_sub(20);
            let window = windows[rng.between(last as u64, windows.len() as u64 - 1) as usize];
            let pair: Pair = rng.pick(&pairs);
            let scope = rng.pick(&rollups);
            let address = rng.pick(&[pair.source(), pair.destination()]);
            let entity = match scope.per {
                Per::Pair => Entity::Pair(pair),
                Per::Source => Entity::Source(address),
                Per::Destination => Entity::Destination(address),
                Per::Host => Entity::Host(address),
                Per::Total => Entity::Total,
            };
            asked.push((window, Rollup::of(&scope), entity));
            if rng.percent(10) {
                asked.push((window, Rollup::of(&scope), entity));
            }
        }
        asked
    };
    history.ticks.iter().map(&mut ask).collect()
}

/// Runs a history, asking, and returns what left by tick.
fn run(
    history: Arc<History>,
    asked: Arc<Vec<Vec<Asked>>>,
    workers: usize,
    seed: u64,
) -> BTreeMap<u64, Left> {
    let (send, receive) = mpsc::channel();
    let send = Mutex::new(send);
    let guards = workers::execute(workers, format!("seed {seed}"), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let send = send.lock().expect("no worker panics with the lock").clone();
        let options = Options { windows: history.windows, ..Options::default() };
        let mut inputs = worker.dataflow(|scope| {
            let (inputs, outputs, _) = graph::build(scope, options);
            let answers = send.clone();
            outputs.responses.inspect(move |(Response { chunk, .. }, time)| {
                assert_eq!(time.phase, Phase::Read);
                answers.send((time.tick, Ok(chunk.clone()))).expect("the test waits for all");
            });
            outputs.existing.inspect(move |(existing, time, diff)| {
                send.send((time.tick, Err((*existing, *diff)))).expect("the test waits for all");
            });
            inputs
        });
        let mut combiner = Combiner::new(peers);
        for (tick, asked) in history.ticks.iter().zip(&*asked) {
            if tick.tick > 0 {
                inputs.advance_to(tick.tick);
            }
            if index == 0 {
                tick.edits.iter().for_each(|(version, diff)| inputs.edit(*version, *diff));
                inputs.mark(SourceProgress::Watermark(tick.watermark));
                tick.seen.iter().for_each(|window| inputs.mark(SourceProgress::Seen(*window)));
                for &(window, rollup, entity) in asked {
                    let read = Read::Amount { window, rollup, entity };
                    inputs.read(RequestId(tick.tick), read);
                }
            }
            for (at, (window, pair, volume)) in tick.records.iter().enumerate() {
                if at % peers == index {
                    combiner.add(*window, *pair, *volume);
                }
            }
            inputs.batches(combiner.take());
            worker.step();
        }
    })
    .expect("workers start");
    for result in guards.join() {
        result.expect("no worker panics");
    }
    let mut left = BTreeMap::<u64, Left>::new();
    for (tick, said) in receive.try_iter() {
        let left = left.entry(tick).or_default();
        match said {
            Ok(Chunk::Amount { window, rollup, entity, volume }) => {
                assert_ne!(volume, Volume::default(), "what is not held has no part");
                let sum = left.amounts.entry((window, rollup, entity)).or_default();
                *sum = sum.saturating_add(volume);
            }
            Ok(other) => panic!("not asked for: {other:?}"),
            Err((existing, diff)) => *left.existing.entry(existing).or_default() += diff,
        }
    }
    left
}

/// What the entity comes to, by totals of pairs.
fn amount(held: &BTreeMap<(Window, Pair), Volume>, asked: &Asked) -> Volume {
    let (window, rollup, entity) = *asked;
    let any = |prefix: Prefix, address| prefix.contains(address);
    let counts = |pair: &Pair| match (rollup, entity) {
        (None, entity) => entity == Entity::Pair(*pair),
        (Some(Rollup { source, destination, .. }), entity) => {
            let of = match entity {
                Entity::Source(address) => pair.source() == address,
                Entity::Destination(address) => pair.destination() == address,
                Entity::Host(address) => [pair.source(), pair.destination()].contains(&address),
                Entity::Total => true,
                Entity::Pair(_) => false,
            };
            of && any(source, pair.source()) && any(destination, pair.destination())
        }
    };
    held.iter()
        .filter(|((of, pair), _)| *of == window && counts(pair))
        .fold(Volume::default(), |sum, (_, volume)| sum.saturating_add(*volume))
}

/// Holds a history to the reference. Returns how many amounts were not 0.
fn check(seed: u64, workers: usize) -> usize {
    let history = Arc::new(history(seed, Size::SMALL));
    let asked = Arc::new(questions(&history, seed));
    let mut left = run(history.clone(), asked.clone(), workers, seed);
    let mut reference = Reference::new(history.windows, history.updates, history.top);
    let (mut existing, mut found) = (BTreeMap::<Existing, isize>::new(), 0);
    for (input, asked) in history.ticks.iter().zip(&*asked) {
        let what = || format!("seed {seed}, {workers} workers, tick {}", input.tick);
        let right = reference.tick(input.clone());
        let Left { mut amounts, existing: changed } = left.remove(&input.tick).unwrap_or_default();
        for asked in asked.iter().collect::<BTreeSet<_>>() {
            let ours = amounts.remove(asked).unwrap_or_default();
            assert_eq!(ours, amount(&right.held, asked), "{}: {asked:?}", what());
            found += usize::from(ours != Volume::default());
        }
        assert_eq!(amounts, BTreeMap::new(), "{}: nobody asked", what());

        changed.into_iter().for_each(|(window, diff)| *existing.entry(window).or_default() += diff);
        existing.retain(|_, count| *count != 0);
        let ours = existing.iter().flat_map(|(one, count)| {
            assert_eq!(*count, 1, "{}: {one:?}", what());
            history.windows.each(one.windows).map(|window| {
                assert_eq!(one.closed, history.windows.closed(window, input.watermark));
                (window, if one.seen { Existence::Seen } else { Existence::Gap })
            })
        });
        assert_eq!(ours.collect::<BTreeMap<_, _>>(), right.windows, "{}", what());
    }
    found
}

#[test]
fn amounts_are_those_of_the_reference() {
    for (seeds, workers) in [(0..150, 1), (1_000_000..1_000_075, 2), (2_000_000..2_000_040, 4)] {
        let asked = seeds.clone().count();
        let found: usize = seeds.map(|seed| check(seed, workers)).sum();
        assert!(found > 5 * asked, "{found} amounts in {asked} histories");
    }
}
