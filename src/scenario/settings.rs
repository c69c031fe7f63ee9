//! Settings of a case: the counterparts of the options of `run` and `replay`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use floodmark_dataflows::graph::Options;
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::Updates;

use super::changes::one_of;
use super::words::{Located, Words};
use crate::base::date;
use crate::base::duration;
use crate::base::network;
use crate::base::quote::Quoted;
use crate::limits::rows::{Defaults, PERS};
use crate::runner;
use crate::source::Filter;

/// The clock that moves the watermark, and with it closes windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CaseClock {
    /// The wall clock, as in a run whose partitions have no backlog: windows close at their end.
    Live,
    /// The event times of records: windows close when a later record comes, or when the input ends.
    Replay,
}

const CLOCKS: [(&str, CaseClock); 2] = [("live", CaseClock::Live), ("replay", CaseClock::Replay)];

const UPDATES: [(&str, Updates); 3] =
    [("settled", Updates::Settled), ("limit", Updates::Limit), ("tick", Updates::Tick)];

const OFFSETS: [(&str, bool); 2] = [("earliest", false), ("latest", true)];

/// Default beginning of a case: the start of a window of any usual width.
pub(super) const BEGIN_MS: u64 = 1_767_225_600_000;

/// Maximum number of windows that may pass in a case with time alone: each takes time and memory.
pub(super) const WINDOWS_MAX: u64 = 100_000;

/// The settings of a case; `None` if a setting is not given.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Settings {
    clock: Option<CaseClock>,
    begin: Option<u64>,
    window: Option<u64>,
    tick: Option<u64>,
    lateness: Option<u64>,
    retention: Option<u64>,
    max_gap: Option<u64>,
    max_ahead: Option<u64>,
    updates: Option<Updates>,
    latest: Option<bool>,
    defaults: Option<Defaults>,
    filter: Filter,
    /// The names of the settings that this case gives.
    given: BTreeSet<String>,
    /// Captures whose packets are traffic, too; paths as they are written.
    pub(super) captures: Vec<Located<PathBuf>>,
}

const NAMES: [&str; 14] = [
    "clock",
    "begin",
    "window",
    "tick",
    "lateness",
    "retention",
    "max-gap",
    "max-ahead",
    "updates",
    "from-offset",
    "limits-per",
    "source",
    "destination",
    "capture",
];

/// Settings that a case may give more than once.
const SEVERAL: [&str; 3] = ["source", "destination", "capture"];

impl Settings {
    /// Returns the names of all settings.
    pub(super) fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// Whether a setting has this name.
    pub(super) fn has(name: &str) -> bool {
        NAMES.contains(&name)
    }

    /// Sets a setting from the rest of a line whose first word is its name.
    pub(super) fn set(
        &mut self,
        name: &str,
        line: usize,
        words: &mut Words<'_>,
    ) -> Result<(), String> {
        let word = words.require(&format!("the value of {name}"))?;
        let text = word.text.as_ref();
        if !SEVERAL.contains(&name) && !self.given.insert(name.to_owned()) {
            return Err(format!("{name} is set twice"));
        }
        match name {
            "clock" => self.clock = Some(one_of("a clock", &CLOCKS, text)?),
            "begin" => self.begin = Some(begin(text)?),
            "window" => self.window = Some(duration::secs(text)?),
            "tick" => self.tick = Some(duration::positive_millis(text)?),
            "lateness" => self.lateness = Some(duration::millis(text)?),
            "retention" => self.retention = Some(duration::millis(text)?),
            "max-gap" => self.max_gap = Some(duration::secs(text)?),
            "max-ahead" => self.max_ahead = Some(duration::millis(text)?),
            "updates" => self.updates = Some(one_of("a kind of updates", &UPDATES, text)?),
            "from-offset" => self.latest = Some(one_of("an offset", &OFFSETS, text)?),
            "limits-per" => {
                self.defaults = Some(Defaults { per: one_of("a scope of limits", &PERS, text)? });
            }
            "source" => {
                self.filter.sources.push(network::parse(text).map_err(|error| error.to_string())?)
            }
            "destination" => self
                .filter
                .destinations
                .push(network::parse(text).map_err(|error| error.to_string())?),
            "capture" if text == "-" => {
                return Err("a case is read more than once, so it takes no capture from standard \
                            input: give a file"
                    .into());
            }
            "capture" => self.captures.push(Located { line, what: text.into() }),
            _ => unreachable!("only a name of a setting is set"),
        }
        words.end()
    }

    /// Fills settings that are missing here from those for all cases of the file.
    pub(super) fn inherit(&mut self, common: &Settings) {
        let or = |own: &mut Vec<_>, common: &Vec<_>| {
            if own.is_empty() {
                own.clone_from(common);
            }
        };
        or(&mut self.filter.sources, &common.filter.sources);
        or(&mut self.filter.destinations, &common.filter.destinations);
        if self.captures.is_empty() {
            self.captures.clone_from(&common.captures);
        }
        self.clock = self.clock.or(common.clock);
        self.begin = self.begin.or(common.begin);
        self.window = self.window.or(common.window);
        self.tick = self.tick.or(common.tick);
        self.lateness = self.lateness.or(common.lateness);
        self.retention = self.retention.or(common.retention);
        self.max_gap = self.max_gap.or(common.max_gap);
        self.max_ahead = self.max_ahead.or(common.max_ahead);
        self.updates = self.updates.or(common.updates);
        self.latest = self.latest.or(common.latest);
        self.defaults = self.defaults.or(common.defaults);
    }

    /// Checks the settings against each other.
    pub(super) fn check(&self) -> Result<(), String> {
        let replay = self.clock() == CaseClock::Replay;
        if replay && self.latest.is_some() {
            return Err("from-offset needs \"clock live\"".into());
        }
        if replay && self.retention.is_some() && self.lateness.is_none() {
            return Err("retention counts from the moment a window settles, and without lateness \
                        none does before the end of a replay: give both, or neither"
                .into());
        }
        let windows = self.options().windows;
        if windows.max_gap_secs / windows.width_secs > WINDOWS_MAX {
            return Err(format!(
                "max-gap spans more than {WINDOWS_MAX} windows; shorten it, or use wider windows"
            ));
        }
        Ok(())
    }

    pub(super) fn clock(&self) -> CaseClock {
        self.clock.unwrap_or(CaseClock::Live)
    }

    /// Returns the beginning of the case, if the case states it.
    pub(super) fn begin(&self) -> Option<u64> {
        self.begin
    }

    pub(super) fn tick_ms(&self) -> u64 {
        self.tick.unwrap_or(1000)
    }

    /// Maximum time by which a packet of a capture may be ahead of the next one, in milliseconds.
    pub(super) fn max_ahead_ms(&self) -> u64 {
        let max_gap_secs = self.options().windows.max_gap_secs;
        self.max_ahead.unwrap_or(max_gap_secs.saturating_mul(1000))
    }

    /// Whether the run begins with the newest records, so that its first window is partial.
    pub(super) fn is_from_latest(&self) -> bool {
        self.latest.unwrap_or(false)
    }

    pub(super) fn defaults(&self) -> Defaults {
        self.defaults.unwrap_or_default()
    }

    pub(super) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Returns the options of the computation.
    pub(super) fn options(&self) -> Options {
        let usual = Windows::default();
        let if_live = |ms| (self.clock() == CaseClock::Live).then_some(ms);
        Options {
            windows: Windows {
                width_secs: self.window.unwrap_or(usual.width_secs),
                lateness_ms: self.lateness.or(if_live(runner::LATENESS_MS)),
                retention_ms: self.retention.or(if_live(runner::RETENTION_MS)),
                max_gap_secs: self.max_gap.unwrap_or(usual.max_gap_secs),
            },
            updates: self.updates.unwrap_or_default(),
            ..Options::default()
        }
    }
}

fn begin(text: &str) -> Result<u64, String> {
    let ns = date::parse(text).map_err(|error| error.to_string())?;
    let ms = u64::try_from(ns / 1_000_000).ok().filter(|_| ns >= 0 && ns % 1_000_000 == 0);
    ms.ok_or_else(|| format!("{} is not a whole millisecond since 1970", Quoted(text)))
}
