use std::sync::Arc;

use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Pair, Volume};

use super::*;
use crate::base::terminal::{Interrupt, Messages};
use crate::cluster::{Cluster, Settings, watchdog};
use crate::computation::EventTimeReached;
use crate::kafka::Start;
use crate::limits::catalog::Catalog;
use crate::output::WriteError;
use crate::output::difference::PublishedChanges;
use crate::runner::{self, Job, SteadyClock, WallTime};
use crate::sink::{ClosedTick, Counts, Hub, Sink};
use crate::source::Filter;

const WORKERS: usize = 3;

/// The time that a tick may take. None comes near it, however busy the machine.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// A record for each tick; its worker sleeps now and then, so that several ticks reach it at once.
struct Sleepy {
    worker: usize,
    turns: u64,
}

impl Source for Sleepy {
    fn read(&mut self) -> Result<bool, Failure> {
        self.turns += 1;
        if self.worker > 0 && self.turns % 7 == self.worker as u64 {
            std::thread::sleep(Duration::from_millis(8));
        }
        Ok(false)
    }

    fn demand(&mut self, _: EventTimeReached) -> Result<Demand, Failure> {
        Ok(Demand::Tick)
    }

    fn take_records(&mut self, tick: u64) -> TickRecords {
        let mut combiner = Combiner::new(WORKERS);
        let pair = Pair::V4((tick as u32).into(), [192, 0, 2, 1].into());
        combiner.add(Window(0), pair, Volume::new(1, 1));
        TickRecords {
            update_batches: combiner.take(),
            seen: [Window(0)].into(),
            ..TickRecords::default()
        }
    }
}

/// Ends the run after so many ticks.
struct Countdown(usize, Interrupt);

impl Sink for Countdown {
    fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
        Ok(())
    }

    fn close(&mut self, _: &ClosedTick<'_>) -> Result<(), WriteError> {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 {
            self.1.press();
        }
        Ok(())
    }
}

/// If each worker chose its own rounds, a worker that gets three ticks at once would wait for the end of the third
/// on others, which wait for the end of the first on this one.
#[test]
fn worker_that_gets_several_ticks_at_once_has_the_rounds_of_the_others() {
    let interrupt = Interrupt::default();
    let shared = Shared {
        has_dead_letters: false,
        options: Default::default(),
        filter: Filter::default(),
        status: None,
        interrupt: interrupt.clone(),
        watch: Some(watchdog::start(STUCK_AFTER).expect("a thread")),
        state: None,
    };
    let interval = Duration::from_millis(1);
    let clock = Box::new(SteadyClock::new(interval.as_millis() as u64));
    let lead = LeaderConfig {
        time: Box::new(WallTime::new(clock, interval, Start::Earliest, 0)),
        catalog: Catalog::new(),
        limits: Vec::new(),
        hub: Hub::new(Counts::new(&[]), vec![Box::new(Countdown(400, interrupt))]),
        queries: None,
        final_query: None,
        leader: Arc::default(),
        state: None,
    };
    let sources = runner::Sources::each(|worker, _, _| Ok(Sleepy { worker, turns: 0 }));
    let job = Job { shared, sources, lead: Some(Box::new(|| Ok(lead))) };
    let (cluster, settings) = (Cluster::alone(WORKERS), Settings::default());
    let ended = runner::execute(cluster, &settings, &Messages::new(), &mut || Ok(()), job);
    let ended = ended.unwrap_or_else(|failure| panic!("{:#}", failure.error));
    assert!(ended.is_some_and(|ended| ended.failure.is_none() && ended.is_complete));
}
