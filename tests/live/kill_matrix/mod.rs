//! Runs with a state that end in every way at random moments: the next one continues, nothing is lost, and nothing is
//! published twice.
//!
//! - `plan`: the steps of a seed. `scenario`: carries them out, and compares the outcome with a replay.
//! - `disk`: faults of the directory of the state. `limits`: limits that are edited meanwhile.
//!
//! `FLOODMARK_KILLS=1000` runs seeds until that many runs have ended; `FLOODMARK_KILLS_SEED` is the first of these
//! seeds. So `FLOODMARK_KILLS=1 FLOODMARK_KILLS_SEED=N` repeats seed N.

mod disk;
mod limits;
mod plan;
mod scenario;

use std::time::Instant;

use plan::{Action, Plan};
use scenario::{Scenario, Servers};

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

fn quick_actions() -> Vec<Action> {
    Action::ALL.into_iter().filter(|action| !action.is_slow()).collect()
}

/// Two seeds with half of the actions each, side by side: mostly they wait for the broker.
fn run_few(servers: &Servers) {
    let actions = quick_actions();
    std::thread::scope(|scope| {
        for (seed, actions) in (900..).zip(actions.chunks(actions.len().div_ceil(2))) {
            let plan = Plan::draw(seed, actions, actions.len(), 3000, false);
            scope.spawn(move || Scenario::new(servers, plan).run());
        }
    });
}

/// Seeds with all actions, from `first` on, until so many runs have ended.
fn run_many(servers: &Servers, first: u64, kills: u64) {
    let actions = [&quick_actions()[..], &Action::ALL].concat();
    let (began, mut ends) = (Instant::now(), 0);
    for seed in first.. {
        let plan = Plan::draw(seed, &actions, actions.len(), 20_000, seed % 3 == 0);
        ends += Scenario::new(servers, plan).run();
        println!("seed {seed}: {ends} ends of runs after {:.0?}", began.elapsed());
        if ends >= kills {
            return;
        }
    }
}

#[test]
fn run_ended_in_any_way_at_any_moment_publishes_everything_once() {
    let servers = Servers::start();
    match number("FLOODMARK_KILLS") {
        None => run_few(&servers),
        Some(kills) => {
            run_many(&servers, number("FLOODMARK_KILLS_SEED").unwrap_or(10_000), kills);
        }
    }
}
