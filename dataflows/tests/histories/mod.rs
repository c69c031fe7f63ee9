//! Random histories: the input of each tick, and the settings, from a seed.
//!
//! They are small and crowded: few addresses, few windows, values at the amounts that occur, dates
//! at the edges of windows, so that rare coincidences are frequent here. A history is a
//! function of its seed and size alone, so that a failure is repeated by its seed.
//!
//! Invariants of every history: ticks increase, the watermark does not move back and is never
//! ahead of the tick except at the end of the input; no two held rows have one limit and one date;
//! a row that returns has its old number; `seen` covers the windows of the records.

mod limits;
pub(crate) mod rng;
mod traffic;

use floodmark_dataflows::reference::TickInput;
use floodmark_dataflows::time::{END_OF_INPUT, Window, Windows};
use floodmark_dataflows::top::TopQuery;
use floodmark_dataflows::types::{Metric, Per, Updates};

use limits::{Around, Limits};
use rng::Rng;
use traffic::Traffic;

/// Upper bounds on the size of a history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Ticks, without the few at the end of the input.
    pub(crate) ticks: u64,
    /// Records of a tick.
    pub(crate) records: u64,
    /// Names of limits.
    pub(crate) limits: u32,
    /// Windows that the clock may leap over at once.
    pub(crate) leap: u64,
    /// Whether totals grow by little in a few windows, and few scopes have limits.
    pub(crate) grows: bool,
}

impl Size {
    /// Hundreds of these run in a second.
    pub(crate) const SMALL: Size =
        Size { ticks: 40, records: 20, limits: 8, leap: 8, grows: false };
    /// A few of these do.
    pub(crate) const LARGE: Size =
        Size { ticks: 120, records: 80, limits: 20, leap: 8, grows: false };
    /// Windows with a thousand others between them, and versions dated in between.
    pub(crate) const FAR: Size =
        Size { ticks: 16, records: 12, limits: 8, leap: 1200, grows: false };
    /// Hundreds of limits, most of which share their scopes with others.
    pub(crate) const CROWDED: Size =
        Size { ticks: 8, records: 60, limits: 150, leap: 8, grows: false };
    /// Totals grow slowly past cells, emit bounds and roofs, while limits come, move and go.
    pub(crate) const GROWING: Size =
        Size { ticks: 60, records: 4, limits: 5, leap: 1, grows: true };
}

/// The input and the settings of a run.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// The rules of time.
    pub(crate) windows: Windows,
    /// The updates that are published before a window settles.
    pub(crate) updates: Updates,
    /// The ranking that is emitted when a window settles.
    pub(crate) top: Option<TopQuery>,
    /// The input, tick by tick.
    pub(crate) ticks: Vec<TickInput>,
}

/// The watermark, relative to the greatest event time.
#[derive(Clone, Copy)]
enum Pace {
    /// Equal to it.
    Follows,
    /// So many milliseconds behind it.
    Lags(u64),
    /// Mostly still; at times it jumps to it, or to the clock.
    Jumps,
}

/// The history of a seed.
pub(crate) fn history(seed: u64, size: Size) -> History {
    let rng = &mut Rng::new(seed);
    let windows = random_windows(rng);
    let updates = rng.pick(&[Updates::Settled, Updates::Limit, Updates::Tick]);
    let top = rng.percent(50).then(|| TopQuery {
        n: rng.between(1, 4) as usize,
        per: rng.pick(&[Per::Pair, Per::Source, Per::Destination]),
        metric: rng.pick(&[Metric::Bytes, Metric::Packets]),
    });
    let mut builder = HistoryBuilder::new(rng, windows, size);
    let ticks = rng.between(5, size.ticks);
    for _ in 0..ticks {
        builder.step(rng);
    }
    if rng.percent(80) {
        builder.end(rng);
    }
    if rng.percent(40) {
        random_beginning(rng, &mut builder.ticks, windows);
    }
    History { windows, updates, top, ticks: builder.ticks }
}

/// The history of a seed, with rules of time that change at some of its ticks.
pub(crate) fn changing_history(seed: u64, size: Size) -> History {
    let mut history = history(seed, size);
    let rng = &mut Rng::new(seed);
    for _ in 0..rng.between(1, 3) {
        let at = rng.below(history.ticks.len() as u64) as usize;
        let width_secs = history.windows.width_secs;
        history.ticks[at].rules = Some(random_rules(rng, width_secs));
    }
    history
}

/// Partitions that are truncated, whose first event times come to be known tick by tick, and moments at which
/// observation begins.
fn random_beginning(rng: &mut Rng, ticks: &mut [TickInput], windows: Windows) {
    let last = ticks.len() as u64 - 1;
    let near = |rng: &mut Rng, ticks: &[TickInput]| {
        let seen = ticks.iter().flat_map(|tick| &tick.seen).map(|window| window.0 * 1000);
        let seen: Vec<u64> = seen.collect();
        let start = if seen.is_empty() { 0 } else { rng.pick(&seen) };
        start + rng.pick(&[0, 0, 1, windows.width_secs * 1000 - 1])
    };
    for partition in 0..rng.below(4) as u32 {
        let known = rng.below(last.min(8) + 1);
        let first = near(rng, ticks);
        ticks[known as usize].truncated.push((partition, Some(first)));
        // A source reports it a tick earlier at the latest, or together with the first event time.
        if known > 0 {
            ticks[rng.below(known) as usize].truncated.push((partition, None));
        }
    }
    if rng.percent(50) {
        let (at, begun) = (rng.below(last + 1), near(rng, ticks));
        ticks[at as usize].begun = Some(begun);
    }
}

fn random_windows(rng: &mut Rng) -> Windows {
    let width_secs = rng.pick(&[1, 10, 60, 300]);
    random_rules(rng, width_secs)
}

/// Rules of time for windows of a width.
fn random_rules(rng: &mut Rng, width_secs: u64) -> Windows {
    let width_ms = width_secs * 1000;
    let lateness = [0, width_ms / 2, width_ms, 3 * width_ms, 1];
    let retention = [0, width_ms, 2 * width_ms, 1];
    let gap = [0, 1, 2, 2, 3, 5, 8, 1000];
    let lateness_ms = rng.percent(70).then(|| rng.pick(&lateness));
    Windows {
        width_secs,
        lateness_ms,
        // Windows that never settle never retire, so that one without the other is rare.
        retention_ms: rng
            .percent(if lateness_ms.is_some() { 60 } else { 10 })
            .then(|| rng.pick(&retention)),
        max_gap_secs: rng.pick(&gap) * width_secs + rng.pick(&[0, 0, width_secs / 2]),
    }
}

/// A history in the making.
struct HistoryBuilder {
    windows: Windows,
    size: Size,
    pace: Pace,
    /// The longest step of the clock, in milliseconds.
    stride: u64,
    /// The percentage of ticks that change the rows.
    edits: u64,
    /// The percentage of records that are behind, and by up to how many windows.
    behind: (u64, u64),
    /// The percentage of steps that leave windows out.
    leaps: u64,
    /// The greatest event time.
    front: u64,
    limits: Limits,
    traffic: Traffic,
    ticks: Vec<TickInput>,
}

impl HistoryBuilder {
    fn new(rng: &mut Rng, windows: Windows, size: Size) -> Self {
        let width_ms = windows.width_secs * 1000;
        HistoryBuilder {
            windows,
            size,
            pace: match rng.below(4) {
                0..2 => Pace::Follows,
                2 => Pace::Lags(rng.below(3 * width_ms)),
                _ => Pace::Jumps,
            },
            stride: match size.grows {
                true => (width_ms / 40).max(1),
                false => rng.pick(&[width_ms / 8, width_ms / 2, width_ms, 2 * width_ms]),
            },
            edits: if size.grows { 50 } else { rng.pick(&[5, 20, 20, 50]) },
            behind: (rng.pick(&[0, 10, 40]), rng.pick(&[1, 3, 8])),
            leaps: if size.grows { 0 } else { rng.pick(&[0, 10, 25]) },
            // The first window of all, one of today, and one past 32 bits of seconds.
            front: rng.pick(&[0, 1_789_000_000, 5_000_000_100]) * 1000,
            limits: Limits::new(rng.between(1, u64::from(size.limits)) as u32, size.grows),
            traffic: Traffic::new(rng, size.grows),
            ticks: Vec::new(),
        }
    }

    fn width_ms(&self) -> u64 {
        self.windows.width_secs * 1000
    }

    fn last_tick(&self) -> u64 {
        self.ticks.last().map_or(self.front, |last| last.tick)
    }

    fn last_watermark(&self) -> u64 {
        self.ticks.last().map_or(0, |last| last.watermark)
    }

    /// One tick like the others: the clock and the event times advance, and the watermark may.
    fn step(&mut self, rng: &mut Rng) {
        let mut step = match rng.below(4) {
            0 => 1,
            _ => rng.between(1, self.stride),
        };
        if rng.percent(self.leaps) {
            step += rng.between(1, self.size.leap) * self.width_ms();
        }
        let tick = self.last_tick() + step;
        if rng.percent(80) {
            self.front = match rng.percent(60) {
                true => tick,
                false => rng.between(self.front, tick),
            };
        }
        let watermark = match self.pace {
            Pace::Follows => self.front,
            Pace::Lags(behind) => self.front.saturating_sub(behind),
            Pace::Jumps if rng.percent(70) => 0,
            Pace::Jumps => rng.pick(&[self.front, tick]),
        };
        let watermark = watermark.max(self.last_watermark());
        let records = match rng.percent(75) {
            true => rng.below(self.size.records + 1),
            false => 0,
        };
        let edits = match self.ticks.is_empty() {
            true => rng.below(2 * u64::from(self.size.limits) + 1),
            false => self.random_edits(rng),
        };
        self.push(rng, tick, watermark, records, edits);
    }

    /// The end of the input: rows due before the end of the last window take effect, then every
    /// window closes, then every window settles. All later input but rows comes too late.
    fn end(&mut self, rng: &mut Rng) {
        let windows = self.ticks.iter().flat_map(|tick| tick.seen.iter());
        let last = windows.max().copied().unwrap_or_default();
        let end = self.windows.end_ms(last);
        let first = self.last_tick().max(end) + 1;
        if rng.percent(70) {
            let watermark = self.last_watermark();
            self.push(rng, first, watermark, 0, 0);
            let watermark = watermark.max(end);
            self.push(rng, first + 1, watermark, 0, 0);
        }
        let (records, edits) = match rng.percent(30) {
            true => (rng.below(6), rng.below(4)),
            false => (0, 0),
        };
        self.push(rng, first + 2, END_OF_INPUT, records, edits);
        for i in 0..rng.below(4) {
            let tick = first + 3 + i * rng.below(self.width_ms());
            let tick = tick.max(self.last_tick() + 1);
            let (records, edits) = (rng.below(3), rng.below(4));
            self.push(rng, tick, END_OF_INPUT, records, edits);
        }
    }

    fn random_edits(&self, rng: &mut Rng) -> u64 {
        match rng.percent(self.edits) {
            true => rng.pick(&[1, 1, 1, 2, 3, 8]),
            false => 0,
        }
    }

    fn push(&mut self, rng: &mut Rng, tick: u64, watermark: u64, records: u64, edits: u64) {
        let amounts = self.traffic.amounts();
        let around = Around {
            tick,
            width_secs: self.windows.width_secs,
            front: self.front,
            amounts: &amounts,
        };
        let edits = self.limits.edits(rng, &around, edits);

        let mut input = TickInput { tick, edits, watermark, ..TickInput::default() };
        for _ in 0..records {
            let window = self.random_window(rng);
            let record = self.traffic.record(rng, window);
            if !self.windows.bounds(self.last_watermark()).settled(record.0) {
                self.traffic.count(record);
            }
            input.seen.push(record.0);
            input.records.push(record);
        }
        // Records that the filters kept out make a window seen all the same.
        if rng.percent(10) {
            input.seen.push(self.random_window(rng));
        }
        self.ticks.push(input);
    }

    /// The window of a record of this tick.
    fn random_window(&self, rng: &mut Rng) -> Window {
        let (chance, windows) = self.behind;
        let behind = match rng.percent(chance) {
            true => rng.below(windows * self.width_ms() + 1),
            false => rng.below(self.stride.min(self.width_ms() / 2) + 1),
        };
        let event = self.front.saturating_sub(behind);
        self.windows.of(event).expect("event times are small")
    }
}
