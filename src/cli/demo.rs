//! `floodmark demo`: a real capture judged, and a limit that changes in the running computation.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use floodmark_dataflows::graph::Options;
use floodmark_dataflows::orders::Read;
use floodmark_dataflows::time::Window;
use floodmark_dataflows::types::{Change, Entity, Event, LimitId, Per};

use crate::capture::Reader;
use crate::cli::grid::Grid;
use crate::cluster::Cluster;
use crate::computation::{self, Computation, Held, Outcome as TickOutcome};
use crate::driver::{self, Sinks};
use crate::error::{Exit, Failure, Outcome};
use crate::limits::catalog::{Catalog, edits};
use crate::limits::date::format_secs;
use crate::limits::rows::{BOUNDS, Defaults, METRICS, PERS, Row, word};
use crate::limits::{json, prefix};
use crate::output::{WriteError, table};
use crate::replay::{self, Cut, Event as SourceEvent, Filter};
use crate::terminal::{Interrupt, Messages};

const CAPTURE: &[u8] = include_bytes!("../demo/office-lan.pcapng.zst");
const LIMITS: &str = include_str!("../demo/limits.jsonl");
/// The limit that changes, and to what.
const CHANGED: (&str, &str, &str) = ("pair-max", "30000", "17000");

/// The options of `floodmark demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Worker threads
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    workers: usize,
}

/// Keeps what was said last of each violation.
#[derive(Default)]
struct Said {
    standing: BTreeMap<(Window, LimitId, Entity), Change>,
    last: Vec<Change>,
    held: Option<Held>,
}

impl Sinks for Said {
    fn tick(&mut self, _: u64, outcome: TickOutcome) -> Result<(), WriteError> {
        for change in &outcome.changes {
            let violation = &change.violation;
            let id = (violation.window, violation.limit, violation.entity);
            match change.event {
                Event::Raised | Event::Updated => drop(self.standing.insert(id, *change)),
                Event::Cleared => drop(self.standing.remove(&id)),
            }
        }
        self.last = outcome.changes;
        self.held = outcome.held;
        Ok(())
    }

    fn wants_totals(&self) -> bool {
        false
    }
}

/// Runs `floodmark demo`.
pub fn run(args: &Args) -> Outcome {
    if args.workers == 0 {
        return Err(Failure::new(Exit::Usage, anyhow::anyhow!("at least one worker is needed")));
    }
    let reader = Reader::from_read("office-lan.pcapng.zst", Box::new(Cursor::new(CAPTURE)));
    let reader = Arc::new(Mutex::new(Some(reader)));
    let cluster = Cluster::alone(args.workers);
    let peers = cluster.peers();
    let outcomes = cluster.execute(
        "",
        &Messages::new(),
        &mut || Ok(()),
        computation::worker_config(),
        move |worker| {
            let first = worker.index() == 0;
            let computation = Computation::build(worker, Options::default());
            let reader =
                first.then(|| reader.lock().unwrap_or_else(PoisonError::into_inner).take());
            reader.flatten().map(|reader| show(computation, reader, peers))
        },
    )?;
    outcomes.into_iter().flatten().next().expect("there is a first worker")
}

fn rows(text: &str) -> anyhow::Result<Vec<Row>> {
    let limits = json::read(text.as_bytes(), Defaults { per: Per::Pair })?;
    Ok(limits.rows().cloned().collect())
}

fn show(computation: Computation<'_>, reader: Reader, peers: usize) -> Outcome {
    match tell(computation, reader, peers) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => match error.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
            _ => Err(error.into()),
        },
    }
}

fn tell(computation: Computation<'_>, reader: Reader, peers: usize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let options = Options::default();
    let mut catalog = Catalog::new();
    let before = rows(LIMITS)?;
    let versions = catalog.versions(&before);

    writeln!(
        out,
        "An office network, captured for 28 minutes, is held to these limits per 5 minutes:\n"
    )?;
    write_limits(&mut out, &before)?;

    let me = std::thread::current();
    let cut = Cut { tick_ms: 1000, windows: options.windows, filter: Filter::default(), peers };
    let source = replay::start(vec![reader], cut, Messages::new(), move || me.unpark())
        .context("starting the thread that reads")?;
    let mut said = Said::default();
    let mut replay = driver::Replay::new(computation, options, &versions, &mut said);
    let replayed = replay_all(&mut replay, &source)?;
    let counted = replayed.end.map_or(0, |end| end.tally.packets);
    let standing: Vec<Change> = replay.sinks().standing.values().copied().collect();

    writeln!(out, "\n{counted} packets are judged, and these violations stand:\n")?;
    write_violations(&mut out, &standing, &catalog)?;

    let (name, from, to) = CHANGED;
    let after = rows(&LIMITS.replace(from, to))?;
    let edited = edits(&versions, &catalog.versions(&after));
    let took = time(|| written(replay.edit(&edited)))?;
    let changed = replay.sinks().last.clone();
    written(replay.read(Read::Held))?;
    let Held { pairs, rollups, .. } = replay.sinks().held.unwrap_or_default();

    writeln!(
        out,
        "\nNow {name} changes from {from} to {to}, in the same computation, which says:\n"
    )?;
    write_changes(&mut out, &changed, &catalog)?;
    writeln!(
        out,
        "\n{} changes among {} totals held, in {:.0?}; no packet was read again.",
        changed.len(),
        pairs + rollups,
        took
    )?;
    Ok(())
}

fn time(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn written<T>(result: Result<T, WriteError>) -> anyhow::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(WriteError::Closed) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        Err(WriteError::Failed(failure)) => Err(failure.error),
    }
}

fn replay_all(
    replay: &mut driver::Replay<'_, Said>,
    source: &std::sync::mpsc::Receiver<SourceEvent>,
) -> anyhow::Result<driver::Replayed> {
    // The demo is over before anybody could want to stop it in good order.
    match replay.run(source, &Interrupt::default()) {
        Ok(replayed) => Ok(replayed),
        Err(WriteError::Closed) => Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
        Err(WriteError::Failed(failure)) => Err(failure.error),
    }
}

fn write_limits(out: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
    let mut grid = Grid::new(["LIMIT", "VALUE", "METRIC", "PER", "TO"]);
    for row in rows {
        let value = row.value.as_ref().map_or("none", |value| value.text());
        grid.push([
            row.name.clone(),
            format!("{} {value}", word(&BOUNDS, &row.bound)),
            word(&METRICS, &row.scope.metric).into(),
            word(&PERS, &row.scope.per).into(),
            prefix::text(row.scope.destination),
        ]);
    }
    write!(out, "{grid}")
}

fn write_violations(out: &mut dyn Write, standing: &[Change], catalog: &Catalog) -> io::Result<()> {
    let mut grid = Grid::new(["WINDOW", "LIMIT", "VALUE", "WHO", "AMOUNT"]);
    for change in standing {
        grid.push(cells(change, catalog));
    }
    write!(out, "{grid}")
}

fn write_changes(out: &mut dyn Write, changes: &[Change], catalog: &Catalog) -> io::Result<()> {
    let mut grid = Grid::new(["EVENT", "WINDOW", "LIMIT", "VALUE", "WHO", "AMOUNT"]);
    for change in changes {
        let [window, limit, value, who, amount] = cells(change, catalog);
        grid.push([table::event(change.event).into(), window, limit, value, who, amount]);
    }
    write!(out, "{grid}")
}

fn cells(change: &Change, catalog: &Catalog) -> [String; 5] {
    let violation = &change.violation;
    let row = change.version.map(|version| catalog.row(version));
    let value = row.and_then(|row| row.value.as_ref()).map_or("gone", |value| value.text());
    [
        format_secs(violation.window.0).to_string(),
        catalog.name(violation.limit).to_owned(),
        format!("{} {value}", word(&BOUNDS, &change.bound)),
        table::entity(&violation.entity),
        format!("{} {}", violation.volume.amount(change.metric), word(&METRICS, &change.metric)),
    ]
}
