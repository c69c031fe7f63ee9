//! Reads of the amounts of entities, and the windows that exist, at every tick of random histories.
//!
//! The reference's totals are added up here, entity by entity. An amount is the sum of a rollup that limits
//! use, of one that nobody uses, or the total of a pair; some amounts are read twice.

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

/// A read of an amount: a window, a sum over pairs, and the entity.
type AmountQuery = (Window, Option<Rollup>, Entity);

/// The outputs of a tick.
#[derive(Debug, Default)]
struct TickOutputs {
    amounts: BTreeMap<AmountQuery, Volume>,
    existing: BTreeMap<Existing, isize>,
}

/// Random reads for each tick: of windows and pairs that occur up to then, by sums that limits have or
/// could have.
fn random_queries(history: &History, seed: u64) -> Vec<Vec<AmountQuery>> {
    let rng = &mut Rng::new(seed);
    let (mut windows, mut pairs, mut rollups) = (Vec::new(), Vec::new(), Vec::new());
    let any = |per| Scope { per, ..Scope::default() };
    rollups.extend([Per::Source, Per::Destination, Per::Host, Per::Total].map(any));
    let mut query_tick = |input: &floodmark_dataflows::reference::TickInput| {
        windows.extend(input.records.iter().map(|(window, ..)| *window));
        pairs.extend(input.records.iter().map(|(_, pair, _)| *pair));
        rollups.extend(input.edits.iter().map(|(version, _)| version.scope));
        let mut queries = Vec::new();
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
            queries.push((window, Rollup::of(&scope), entity));
            if rng.percent(10) {
                queries.push((window, Rollup::of(&scope), entity));
            }
        }
        queries
    };
    history.ticks.iter().map(&mut query_tick).collect()
}

/// Runs a history with reads, and returns the outputs by tick.
fn run(
    history: Arc<History>,
    queries: Arc<Vec<Vec<AmountQuery>>>,
    workers: usize,
    seed: u64,
) -> BTreeMap<u64, TickOutputs> {
    let (send, receive) = mpsc::channel();
    let send = Mutex::new(send);
    let guards = workers::execute(workers, format!("seed {seed}"), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let send = send.lock().expect("no worker panics with the lock").clone();
        let options = Options { windows: history.windows, ..Options::default() };
        let mut inputs = worker.dataflow(|scope| {
            let (inputs, outputs, _) = graph::build(scope, options);
            let responses = send.clone();
            outputs.responses.inspect(move |(Response { chunk, .. }, time)| {
                assert_eq!(time.phase, Phase::Read);
                responses.send((time.tick, Ok(chunk.clone()))).expect("the test waits for all");
            });
            outputs.existing.inspect(move |(existing, time, diff)| {
                send.send((time.tick, Err((*existing, *diff)))).expect("the test waits for all");
            });
            inputs
        });
        let mut combiner = Combiner::new(peers);
        for (tick, queries) in history.ticks.iter().zip(&*queries) {
            if tick.tick > 0 {
                inputs.advance_to(tick.tick);
            }
            if index == 0 {
                tick.edits.iter().for_each(|(version, diff)| inputs.edit(*version, *diff));
                inputs.mark(SourceProgress::Watermark(tick.watermark));
                tick.seen.iter().for_each(|window| inputs.mark(SourceProgress::Seen(*window)));
                for &(window, rollup, entity) in queries {
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
    let mut by_tick = BTreeMap::<u64, TickOutputs>::new();
    for (tick, output) in receive.try_iter() {
        let of_tick = by_tick.entry(tick).or_default();
        match output {
            Ok(Chunk::Amount { window, rollup, entity, volume }) => {
                assert_ne!(volume, Volume::default(), "an amount of nothing has no chunk");
                let sum = of_tick.amounts.entry((window, rollup, entity)).or_default();
                *sum = sum.saturating_add(volume);
            }
            Ok(other) => panic!("nobody requested {other:?}"),
            Err((existing, diff)) => *of_tick.existing.entry(existing).or_default() += diff,
        }
    }
    by_tick
}

/// The amount of a read, summed from totals of pairs.
fn amount(held: &BTreeMap<(Window, Pair), Volume>, query: &AmountQuery) -> Volume {
    let (window, rollup, entity) = *query;
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
    let queries = Arc::new(random_queries(&history, seed));
    let mut by_tick = run(history.clone(), queries.clone(), workers, seed);
    let mut reference = Reference::new(history.windows, history.updates, history.top);
    let (mut existing, mut found) = (BTreeMap::<Existing, isize>::new(), 0);
    for (input, queries) in history.ticks.iter().zip(&*queries) {
        let case = || format!("seed {seed}, {workers} workers, tick {}", input.tick);
        let right = reference.tick(input.clone());
        let TickOutputs { mut amounts, existing: changed } =
            by_tick.remove(&input.tick).unwrap_or_default();
        for query in queries.iter().collect::<BTreeSet<_>>() {
            let ours = amounts.remove(query).unwrap_or_default();
            assert_eq!(ours, amount(&right.held, query), "{}: {query:?}", case());
            found += usize::from(ours != Volume::default());
        }
        assert_eq!(amounts, BTreeMap::new(), "{}: nobody requested this", case());

        changed.into_iter().for_each(|(window, diff)| *existing.entry(window).or_default() += diff);
        existing.retain(|_, count| *count != 0);
        let ours = existing.iter().flat_map(|(one, count)| {
            assert_eq!(*count, 1, "{}: {one:?}", case());
            history.windows.each(one.windows).map(|window| {
                assert_eq!(one.closed, history.windows.bounds(input.watermark).closed(window));
                (window, if one.seen { Existence::Seen } else { Existence::Gap })
            })
        });
        assert_eq!(ours.collect::<BTreeMap<_, _>>(), right.windows, "{}", case());
    }
    found
}

#[test]
fn amounts_agree_with_the_reference() {
    for (seeds, workers) in [(0..150, 1), (1_000_000..1_000_075, 2), (2_000_000..2_000_040, 4)] {
        let histories = seeds.clone().count();
        let found: usize = seeds.map(|seed| check(seed, workers)).sum();
        assert!(found > 5 * histories, "{found} amounts in {histories} histories");
    }
}
