//! The sums over pairs that limits and views ask for: per source, destination, host, or in total.
//!
//! Only where all parts of a sum meet is the whole known, and only whole sums are compared with a cut.
//! So each worker folds its updates of pairs by (rollup, window, entity) and sends these to the
//! worker that owns the entity, at the same time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::addresses::Key;
use crate::clock::Clock;
use crate::folds::{RollupParcel, TOTAL, owner};
use crate::gauge::{CutChange, Gauge, Gauged, Moves, Rollup, Total};
use crate::orders::{Answer, InUse, Order, Puts, Read, Saturated, TotalUpdate, Use};
use crate::stash::{Budget, COPY_COST, PUT_COST, Stepper, Steps};
use crate::time::{Time, Window};
use crate::top::{Greatest, TopQuery};
use crate::traffic::Shared;
use crate::types::{Entity, Pair, Per, Volume};

#[derive(Default)]
struct Work {
    parcels: Vec<RollupParcel>,
    orders: Vec<Order>,
}

enum Job {
    /// Puts out what moved cuts change.
    Walk { window: Window, rollup: Rollup, moves: Moves, position: usize },
    /// Drops a table.
    Drop { window: Window, rollup: Rollup, position: usize },
    /// Counts a parcel of updates.
    Count { parcel: RollupParcel },
    /// All is counted: looks up what has fallen.
    LookUpFallen,
    /// Finds the greatest entities of a window.
    Rank { window: Window, rollup: Rollup, greatest: Greatest, position: usize },
    /// Tells how many totals are held.
    CountHeld,
    /// Tells what an entity comes to.
    Amount { window: Window, rollup: Rollup, entity: Entity },
}

struct Rollups {
    shared: Shared,
    top: Option<TopQuery>,
    tables: BTreeMap<(Window, Rollup), Gauged>,
    in_use: InUse,
    puts: Puts,
    best: Vec<(Window, Entity, Volume)>,
    answers: Vec<Answer>,
    saturated: Vec<Saturated>,
}

impl Rollups {
    /// Whether this worker may hold entities of a rollup. A total has one owner; elsewhere a table
    /// without it would look like a total of nothing.
    fn may_hold(&self, window: Window, rollup: &Rollup) -> bool {
        rollup.per != Per::Total || owner(window, self.shared.peers) == self.shared.index as u64
    }

    /// The cuts that move, by table.
    fn cuts(&self, orders: &[Order]) -> BTreeMap<(Window, Rollup), Vec<CutChange>> {
        let mut cuts = BTreeMap::<_, Vec<_>>::new();
        for order in orders {
            if let Order::Cut(change) = order
                && let Some(rollup) = Rollup::of(&change.scope)
                && self.may_hold(change.window, &rollup)
            {
                cuts.entry((change.window, rollup)).or_default().push(*change);
            }
        }
        cuts
    }
}

impl Steps for Rollups {
    type Work = Work;
    type Job = Job;

    fn plan(&mut self, _: Time, work: Work) -> VecDeque<Job> {
        self.shared.reclaim_addresses();
        let mut jobs = VecDeque::new();
        let mut ended = Vec::new();
        for change in self.in_use.update(&work.orders) {
            match change {
                Use::Begins(window, rollup) if self.may_hold(window, &rollup) => {
                    self.tables.insert((window, rollup), Gauged::new());
                }
                Use::Ends(window, rollup) if self.may_hold(window, &rollup) => {
                    ended.push(Job::Drop { window, rollup, position: 0 });
                }
                _ => {}
            }
        }
        for ((window, rollup), changes) in self.cuts(&work.orders) {
            if let Some(table) = self.tables.get_mut(&(window, rollup)) {
                let moves = table.set(&changes);
                jobs.push_back(Job::Walk { window, rollup, moves, position: 0 });
            }
        }
        jobs.extend(ended);
        jobs.extend(work.parcels.into_iter().map(|parcel| Job::Count { parcel }));
        jobs.push_back(Job::LookUpFallen);
        let mut reads = BTreeSet::new();
        for order in work.orders {
            match order {
                Order::Clock(Clock::Settled(window)) => {
                    if let Some((query, rollup)) =
                        self.top.and_then(|query| Some((query, query.rollup()?)))
                    {
                        let greatest = Greatest::new(query);
                        jobs.push_back(Job::Rank { window, rollup, greatest, position: 0 });
                    }
                }
                Order::Read(read) => drop(reads.insert(read)),
                _ => {}
            }
        }
        // Each is answered once, however often it is asked.
        jobs.extend(reads.into_iter().filter_map(|read| match read {
            Read::Held => Some(Job::CountHeld),
            Read::Amount { window, rollup, entity } => {
                Some(Job::Amount { window, rollup: rollup?, entity })
            }
            Read::Rows { .. } => None,
        }));
        jobs
    }

    fn step(&mut self, time: Time, job: &mut Job, budget: &mut Budget) -> bool {
        match job {
            Job::Walk { window, rollup, moves, position } => {
                let Some(gauged) = self.tables.get(&(*window, *rollup)) else {
                    return true;
                };
                let addresses = self.shared.addresses.borrow();
                let mut puts = self.puts.of(time, *window, Some(*rollup));
                if rollup.per == Per::Total {
                    // A total is there even if nothing is in it.
                    let volume = gauged.table.get(Key::TOTAL).unwrap_or_default();
                    moves.show(|| Pair::V4(TOTAL, TOTAL), Key::TOTAL, volume, &mut puts);
                    return true;
                }
                gauged.table.walk(position, budget, |key, volume| {
                    PUT_COST * moves.show(|| itself(addresses.ip(key)), key, volume, &mut puts)
                })
            }
            Job::Drop { window, rollup, position } => {
                if let Some(gauged) = self.tables.get(&(*window, *rollup)) {
                    let mut addresses = self.shared.addresses.borrow_mut();
                    let done = gauged.table.walk_v6(position, budget, |key, _| {
                        addresses.release(rollup.per, key, time);
                        COPY_COST
                    });
                    if !done {
                        return false;
                    }
                    self.tables.remove(&(*window, *rollup));
                }
                true
            }
            Job::Count { parcel } => {
                self.count(time, parcel, budget);
                true
            }
            Job::LookUpFallen => {
                let tables = &self.tables;
                self.puts
                    .look_up_fallen(|window, rollup| Some(&tables.get(&(window, rollup?))?.table));
                true
            }
            Job::Rank { window, rollup, greatest, position } => {
                let Some(gauged) = self.tables.get(&(*window, *rollup)) else {
                    return true;
                };
                let addresses = self.shared.addresses.borrow();
                let done = gauged.table.walk(position, budget, |key, volume| {
                    greatest.offer(volume, || addresses.entity(rollup.per, key));
                    0
                });
                if done {
                    let ranking = greatest.take_ranking();
                    self.best
                        .extend(ranking.into_iter().map(|(who, volume)| (*window, who, volume)));
                }
                done
            }
            Job::CountHeld => {
                let rollups = self.tables.values().map(|gauged| gauged.table.len() as u64).sum();
                self.answers.push(Answer::Held { pairs: 0, rollups, addresses: 0 });
                true
            }
            Job::Amount { window, rollup, entity } => {
                if let Some(volume) = self.amount(*window, *rollup, entity) {
                    let (window, rollup, entity) = (*window, Some(*rollup), *entity);
                    self.answers.push(Answer::Amount { window, rollup, entity, volume });
                }
                true
            }
        }
    }
}

/// The place of an address, for filters that look at one.
fn itself(address: IpAddr) -> Pair {
    Pair::new(address, address).expect("an address is of its own family")
}

impl Rollups {
    /// What an entity comes to, if the rollup is in use and this worker holds the entity.
    fn amount(&self, window: Window, rollup: Rollup, entity: &Entity) -> Option<Volume> {
        let table = &self.tables.get(&(window, rollup))?.table;
        let address = match (rollup.per, *entity) {
            (Per::Source, Entity::Source(address))
            | (Per::Destination, Entity::Destination(address))
            | (Per::Host, Entity::Host(address)) => address,
            (Per::Total, Entity::Total) => return table.get(Key::TOTAL),
            _ => return None,
        };
        table.get(self.shared.addresses.borrow().known_address_key(address)?)
    }

    fn count(&mut self, time: Time, parcel: &RollupParcel, budget: &mut Budget) {
        let RollupParcel { window, rollup, ref sums, .. } = *parcel;
        let Some(gauged) = self.tables.get_mut(&(window, rollup)) else {
            debug_assert!(false, "an update for a rollup that is not in use");
            return;
        };
        let mut addresses = self.shared.addresses.borrow_mut();
        let before = self.puts.len();
        let mut puts = self.puts.of(time, window, Some(rollup));
        for &(address, volume) in sums {
            let key = match rollup.per {
                Per::Total => Key::TOTAL,
                _ => addresses.address_key(address),
            };
            let found = gauged.table.find(key);
            let updated = gauged.add(found, key, || itself(address), volume, &mut puts);
            if updated.saturates() {
                let entity = addresses.entity(rollup.per, key);
                self.saturated.push(Saturated { window, rollup: Some(rollup), entity });
            }
            addresses.follow(rollup.per, key, updated.entry, time);
        }
        budget.spend(PUT_COST * (sums.len() + self.puts.len() - before));
    }
}

/// The streams that leave the rollups. None of them is exchanged yet.
pub(crate) struct RollupStreams<'scope> {
    pub(crate) totals: StreamVec<'scope, Time, TotalUpdate>,
    pub(crate) fallen: StreamVec<'scope, Time, ((Gauge, Window), Total)>,
    pub(crate) top: StreamVec<'scope, Time, (Window, Entity, Volume)>,
    pub(crate) answers: StreamVec<'scope, Time, Answer>,
    pub(crate) saturated: StreamVec<'scope, Time, Saturated>,
}

/// The whole sums of the rollups in use, as far as they are beyond a cut.
///
/// # In
/// `parcels`: the updates of all workers' pairs, folded. `orders`: the same on every worker.
///
/// # Keeps
/// A table for each (rollup, window) in use, which goes when the last limit or view that used it does.
///
/// # Costs
/// As those of pairs: a look-up per update, a walk of the table when a cut moves.
pub(crate) fn rollups<'scope>(
    parcels: StreamVec<'scope, Time, RollupParcel>,
    orders: StreamVec<'scope, Time, Order>,
    shared: Shared,
    top: Option<TopQuery>,
) -> RollupStreams<'scope> {
    let scope = parcels.scope();
    let mut builder = OperatorBuilder::new("Rollups".into(), scope);
    let mut parcels = builder.new_input(parcels, Exchange::new(|parcel: &RollupParcel| parcel.to));
    let mut orders = builder.new_input(orders, Pipeline);
    let (totals_output, totals) = builder.new_output::<Vec<_>>();
    let (fallen_output, fallen) = builder.new_output::<Vec<_>>();
    let (top_output, top_stream) = builder.new_output::<Vec<_>>();
    let (answers_output, answers) = builder.new_output::<Vec<_>>();
    let (saturated_output, saturated) = builder.new_output::<Vec<_>>();
    let mut totals_output = OutputBuilder::from(totals_output);
    let mut fallen_output = OutputBuilder::from(fallen_output);
    let mut top_output = OutputBuilder::from(top_output);
    let mut answers_output = OutputBuilder::from(answers_output);
    let mut saturated_output = OutputBuilder::from(saturated_output);
    let activator = scope.activator_for(builder.operator_info().address);
    builder.build(move |_| {
        let mut stepper = Stepper::<Rollups, 5>::new(Rollups {
            shared,
            top,
            tables: BTreeMap::new(),
            in_use: InUse::default(),
            puts: Puts::default(),
            best: Vec::new(),
            answers: Vec::new(),
            saturated: Vec::new(),
        });
        move |frontiers| {
            parcels.for_each(|time, data| stepper.stash.at(&time).parcels.append(data));
            orders.for_each(|time, data| stepper.stash.at(&time).orders.append(data));
            let mut totals = totals_output.activate();
            let mut fallen = fallen_output.activate();
            let mut top = top_output.activate();
            let mut answers = answers_output.activate();
            let mut saturated = saturated_output.activate();
            let more = stepper.run(frontiers, |capabilities, state| {
                let [at_totals, at_fallen, at_top, at_answers, at_saturated] = capabilities;
                totals.session(at_totals).give_container(&mut state.puts.totals);
                fallen.session(at_fallen).give_container(&mut state.puts.fallen);
                top.session(at_top).give_container(&mut state.best);
                answers.session(at_answers).give_container(&mut state.answers);
                saturated.session(at_saturated).give_container(&mut state.saturated);
            });
            if more {
                activator.activate();
            }
        }
    });
    RollupStreams { totals, fallen, top: top_stream, answers, saturated }
}
