use std::net::Ipv4Addr;

use floodmark_dataflows::combine::Combiner;
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Pair, Volume};

use super::*;
use crate::base::terminal::Interrupt;
use crate::computation::EventTimeReached;
use crate::output::difference::PublishedChanges;
use crate::runner::time::EventTime;
use crate::sink::Counts;
use crate::source::{Filter, Source};

/// Counts the rows that come at once.
struct Rows<'a>(&'a mut Vec<usize>);

impl Sink for Rows<'_> {
    fn changes(&mut self, _: &PublishedChanges<'_>, _: &Catalog) -> Result<(), WriteError> {
        Ok(())
    }

    fn close(&mut self, closed: &ClosedTick<'_>) -> Result<(), WriteError> {
        self.0.push(closed.outputs.rows.values().map(Vec::len).sum());
        Ok(())
    }

    fn wants_totals(&self) -> bool {
        true
    }
}

/// A tick for each window, with records of so many hosts.
struct Hosts(
    std::iter::Peekable<std::iter::Zip<std::ops::RangeFrom<u64>, std::vec::IntoIter<u32>>>,
);

impl Source for Hosts {
    fn demand(&mut self, _: EventTimeReached) -> Result<Demand, Failure> {
        let next = self.0.peek();
        Ok(next.map_or(Demand::Ended, |(number, _)| Demand::TickAt(number * 300_000)))
    }

    fn take_records(&mut self, _: u64) -> TickRecords {
        let Some((number, hosts)) = self.0.next() else { return TickRecords::default() };
        let (window, mut combiner) = (Window(number * 300), Combiner::new(1));
        for host in 0..hosts {
            combiner.add(window, Pair::V4(host.into(), Ipv4Addr::LOCALHOST), Volume::new(1, 1));
        }
        TickRecords {
            update_batches: combiner.take(),
            seen: [window].into(),
            greatest: Some(number * 300_000),
            ..TickRecords::default()
        }
    }
}

/// A great many windows with little in them are read at once, and large ones that follow are not.
#[test]
fn rows_of_totals_that_are_read_at_once_are_bounded() {
    const LARGE: u32 = 120_000;
    let sizes: Vec<u32> = std::iter::repeat_n(1, 300).chain([LARGE; 5]).collect();
    let mut read = Vec::new();
    let rows = timely::execute_directly(move |worker| {
        let options = Options::default();
        let lead = LeaderConfig {
            time: Box::new(EventTime::new(options.windows)),
            catalog: Catalog::new(),
            limits: Vec::new(),
            hub: Hub::new(Counts::new(&[]), vec![Box::new(Rows(&mut read))]),
            queries: None,
            final_query: None,
            leader: Arc::default(),
            state: None,
        };
        let shared = Shared {
            has_dead_letters: false,
            options,
            filter: Filter::default(),
            status: None,
            interrupt: Interrupt::default(),
            watch: None,
            state: None,
        };
        let hosts = Hosts((1..).zip(sizes).peekable());
        let ended = crate::runner::lead(worker, &shared, Box::new(hosts), lead);
        assert!(ended.is_complete && ended.failure.is_none(), "{ended:?}");
        assert_eq!(ended.last_tick, Some(305 * 300_000));
        read
    });
    assert_eq!(rows.iter().sum::<usize>(), 300 + 5 * LARGE as usize);
    assert!(rows.iter().all(|rows| *rows <= crate::runner::retained::ROWS_AT_ONCE), "{rows:?}");
    assert!(rows.iter().filter(|rows| **rows > 0).count() <= 6, "{rows:?}");
}
