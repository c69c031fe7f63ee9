//! The limits of a run: the rows of its catalog, and the edits that wait for the next tick.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use floodmark_dataflows::types::Version;
use metrics::gauge;

use super::recovery::Recovered;
use super::retracted::RetractedRows;
use crate::base::error::{Exit, Failure};
use crate::computation::INITIAL_ROWS_PER_TICK;
use crate::limits::catalog::{Catalog, LimitSet};
use crate::limits::feed::{self, EditReceiver, Edits, Feed, Health};
use crate::limits::rows::Row;
use crate::limits::stored::StoredRow;
use crate::sink::Hub;
use crate::state::StoredEdit;

/// Edits that one command enters.
const EDITS_PER_COMMAND: usize = INITIAL_ROWS_PER_TICK;

/// Minimum interval between two counts of the limits in force: there may be very many, and they may change very
/// often.
const IN_FORCE_INTERVAL: Duration = Duration::from_secs(1);

/// Numbers the row of an edit, and notes whether it holds.
fn enter(
    catalog: &mut Catalog,
    retracted: &mut RetractedRows,
    tick: u64,
    set: LimitSet,
    row: &Arc<Row>,
    diff: isize,
) -> (Version, isize) {
    let version = catalog.version(set, row);
    catalog.set_holds(version.id, diff > 0);
    if diff < 0 {
        retracted.add(tick, version.id);
    }
    (version, diff)
}

/// The limits of a run, of one set.
pub struct Limits {
    /// The set.
    pub set: LimitSet,
    /// The rows in force at the start.
    pub rows: Edits,
    /// The feed of later edits; `None` if the limits do not change.
    pub changes: Option<EditReceiver>,
    /// The health of the feed: whether it can read the limits.
    pub health: Health,
}

impl Limits {
    /// Opens a feed, and follows it from now on. It wakes the leader when the limits change.
    pub fn follow(
        options: &feed::Options,
        leader: &Arc<OnceLock<Thread>>,
    ) -> Result<Self, Failure> {
        let (feed, rows) = Feed::open(options)?;
        Limits::of(options.set, feed, rows, leader)
    }

    fn of(
        set: LimitSet,
        feed: Feed,
        rows: Edits,
        leader: &Arc<OnceLock<Thread>>,
    ) -> Result<Self, Failure> {
        let health = feed.health();
        let leader = leader.clone();
        let wake = move || {
            if let Some(leader) = leader.get() {
                leader.unpark();
            }
        };
        Ok(Limits { set, rows, changes: Some(feed.follow(wake)?), health })
    }
}

/// Limits of a run with a state that can't be read at its start.
pub struct UnreadLimits {
    set: LimitSet,
    place: String,
    feed: Feed,
    why: Failure,
}

impl UnreadLimits {
    /// Creates the limits of a feed that could not be opened for this reason.
    ///
    /// # Errors
    /// The reason, if it does not pass.
    pub fn new(options: &feed::Options, why: Failure) -> Result<Self, Failure> {
        let passes = matches!(why.exit, Exit::Unavailable | Exit::NoInput);
        match Feed::unread(options) {
            Ok(feed) if passes => {
                Ok(UnreadLimits { set: options.set, place: options.place(), feed, why })
            }
            _ => Err(why),
        }
    }

    /// Returns the health of the feed.
    pub fn health(&self) -> (LimitSet, Health) {
        (self.set, self.feed.health())
    }

    /// Follows the limits from those of the run that is continued.
    ///
    /// # Errors
    /// There is no such run.
    pub fn follow(
        self,
        recovered: &Recovered,
        leader: &Arc<OnceLock<Thread>>,
    ) -> Result<Limits, Failure> {
        let UnreadLimits { set, place, mut feed, why } = self;
        if recovered.is_first() {
            return Err(why);
        }
        let rows = recovered.rows(set);
        tracing::warn!(
            place,
            rows = rows.len(),
            "the limits can't be read: the run starts with those of its state, and applies what differs once they can"
        );
        let rows = feed.continue_with(rows, &format!("{:#}", why.error));
        Limits::of(set, feed, rows, leader)
    }
}

/// Edits of limits by the tick that they enter.
pub(super) struct LimitEdits {
    pub(super) catalog: Arc<Catalog>,
    /// The number of rows of the catalog that were entered before the first tick; `None` once all are.
    preloaded: Option<usize>,
    sets: Vec<Limits>,
    /// Whether an earlier run is continued: the first rows are the differences to its rows.
    is_continued: bool,
    /// The edits of the tick under way.
    entering: VecDeque<(LimitSet, std::vec::IntoIter<<Edits as IntoIterator>::Item>)>,
    /// Rows that are no longer in force.
    retracted: RetractedRows,
    /// Time at which the set of limits in force may change, in milliseconds; `None`: to be computed.
    next_date: Option<u64>,
    in_force_counted: Option<Instant>,
}

impl LimitEdits {
    /// Creates the edits of a run. All rows of the catalog hold before the first tick.
    pub(super) fn new(catalog: Catalog, sets: Vec<Limits>) -> Self {
        LimitEdits {
            catalog: Arc::new(catalog),
            preloaded: Some(0),
            sets,
            is_continued: false,
            entering: VecDeque::new(),
            retracted: RetractedRows::default(),
            next_date: None,
            in_force_counted: None,
        }
    }

    /// Whether rows that the feeds had at the start are still to be entered.
    pub(super) fn has_initial_rows(&self) -> bool {
        self.sets.iter().any(|limits| !limits.rows.is_empty())
    }

    /// Whether edits wait for the next tick.
    pub(super) fn are_waiting(&self) -> bool {
        let are_waiting = |changes: &EditReceiver| changes.has_edits();
        let waits = |limits: &Limits| limits.changes.as_ref().is_some_and(are_waiting);
        self.has_initial_rows() || self.sets.iter().any(waits)
    }

    /// Returns the next rows of the catalog that hold before the first tick.
    pub(super) fn next_preloaded(&mut self) -> Option<Vec<(Version, isize)>> {
        let entered = self.preloaded?;
        let rows = self.catalog.held().skip(entered).take(EDITS_PER_COMMAND);
        let edits: Vec<_> = rows.map(|version| (version, 1)).collect();
        self.preloaded = (!edits.is_empty()).then_some(entered + edits.len());
        self.preloaded.is_some().then_some(edits)
    }

    /// Takes the edits of the next tick: at first rows that hold from the start, some at a tick unless it is the `last`
    /// one, then the edits that wait at the feeds. Only a tick takes these: while none can begin, the feeds merge
    /// edits, and hold no more than the newest rows.
    pub(super) fn begin_tick(&mut self, last: bool) {
        // The last tick reads all remaining records, so it needs all limits.
        // Nor may a row that is replaced be missing for a tick.
        let at_once = last || self.is_continued;
        let mut initial_max = if at_once { usize::MAX } else { INITIAL_ROWS_PER_TICK };
        for limits in &mut self.sets {
            let first: Edits = limits.rows.drain(..initial_max.min(limits.rows.len())).collect();
            initial_max -= first.len();
            let changes = limits.changes.as_ref().filter(|_| limits.rows.is_empty());
            let later = changes.map(EditReceiver::take).unwrap_or_default();
            if limits.rows.is_empty() {
                limits.rows = Edits::new();
            }
            if first.is_empty() && later.is_empty() {
                continue;
            }
            let catalog = Arc::make_mut(&mut self.catalog);
            catalog.reserve(limits.set, first.len() + limits.rows.len());
            self.entering.push_back((limits.set, first.into_iter()));
            self.entering.push_back((limits.set, later.into_iter()));
            self.next_date = None;
        }
    }

    /// Returns more edits of the tick under way; `None` if there are no more.
    pub(super) fn next(&mut self, tick: u64) -> Option<Vec<(Version, isize)>> {
        let mut edits = Vec::new();
        while let Some((set, rows)) = self.entering.front_mut() {
            // Queries in flight keep the catalog of their tick.
            let catalog = Arc::make_mut(&mut self.catalog);
            for (row, diff) in rows.take(EDITS_PER_COMMAND - edits.len()) {
                edits.push(enter(catalog, &mut self.retracted, tick, *set, &row, diff));
            }
            if edits.len() == EDITS_PER_COMMAND {
                break;
            }
            self.entering.pop_front();
        }
        (!edits.is_empty()).then_some(edits)
    }

    /// Enters edits of an earlier run, which is being continued.
    pub(super) fn repeat(&mut self, tick: u64, edits: &[StoredEdit]) -> Vec<(Version, isize)> {
        let catalog = Arc::make_mut(&mut self.catalog);
        let enter = |edit: &StoredEdit| {
            // This run may have no such set: `--what-if` need not be given again.
            self.sets.iter().find(|limits| limits.set == edit.set)?;
            let row = edit.row.row()?;
            let diff = if edit.is_added { 1 } else { -1 };
            Some(enter(catalog, &mut self.retracted, tick, edit.set, &row, diff))
        };
        edits.iter().filter_map(enter).collect()
    }

    /// Returns edits in the form in which they are stored.
    pub(super) fn stored(&self, edits: &[(Version, isize)]) -> Vec<StoredEdit> {
        let stored = |(version, diff): &(Version, isize)| StoredEdit {
            set: self.catalog.set(version.limit),
            row: StoredRow::of(self.catalog.row(version.id)),
            is_added: *diff > 0,
        };
        edits.iter().map(stored).collect()
    }

    /// Ends the repetition of an earlier run: of the rows that the feeds had at the start, only the differences to those
    /// that hold are still to be entered.
    pub(super) fn end_repetition(&mut self) {
        self.preloaded = None;
        self.is_continued = true;
        for limits in &mut self.sets {
            let held = self.catalog.held_rows().filter(|(set, _)| *set == limits.set);
            let held: BTreeSet<Arc<Row>> = held.map(|(_, row)| row.clone()).collect();
            let read: BTreeSet<Arc<Row>> =
                limits.rows.drain(..).filter(|(_, diff)| *diff > 0).map(|(row, _)| row).collect();
            let removed = held.difference(&read).map(|row| (row.clone(), -1));
            let added = read.difference(&held).map(|row| (row.clone(), 1));
            limits.rows = removed.chain(added).collect();
        }
    }

    /// Forgets the rows that no window is judged by any more, now that the outputs of all ticks up to this one are
    /// published.
    pub(super) fn forget(&mut self, tick: u64, hub: &Hub<'_>) {
        if !self.retracted.is_empty() {
            let named = hub.deferred_versions();
            self.retracted.forget(tick, named.as_deref(), Arc::make_mut(&mut self.catalog));
        }
    }

    /// Counts the limits in force, which are the same until a row changes or its date comes.
    pub(super) fn count_in_force(&mut self, tick: u64) {
        let is_recent = |counted: Instant| counted.elapsed() < IN_FORCE_INTERVAL;
        if self.next_date.is_some_and(|date| date > tick)
            || self.in_force_counted.is_some_and(is_recent)
        {
            return;
        }
        self.in_force_counted = Some(Instant::now());
        let now = i128::from(tick) * 1_000_000;
        let (mut in_force, mut next) = (BTreeMap::new(), None::<i128>);
        for (limit, standing) in self.catalog.in_force(now) {
            let exists = standing.now.is_some_and(|now| now.value.is_some());
            *in_force.entry(self.catalog.set(limit)).or_insert(0) += u32::from(exists);
            next = standing.next.map(|row| row.effective).into_iter().chain(next).min();
        }
        for set in self.catalog.sets() {
            let count = in_force.get(set).copied().unwrap_or(0);
            gauge!("floodmark_limits", set.labels([("state", "in_force")])).set(f64::from(count));
        }
        let next_ms = |date: i128| u64::try_from(date.div_euclid(1_000_000) + 1).ok();
        self.next_date = Some(next.and_then(next_ms).unwrap_or(u64::MAX));
    }

    /// Returns a sentence about each feed that has refused rows.
    pub(super) fn refusals(&self) -> Vec<String> {
        self.sets.iter().filter_map(|limits| limits.health.refusal()).collect()
    }
}
