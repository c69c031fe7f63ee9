//! Explains which limits apply to a pair in a window, how far each is from being broken, and why others do
//! not apply.
//!
//! Everything here is a function of [`Facts`], which are all of one tick: the rows that hold, the state of
//! the window, and the amounts in the tables. [`reads`] returns the reads that the tables must answer, and
//! [`explain`] makes an [`Explanation`] of the facts.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::sync::Arc;

use floodmark_dataflows::monitored::Rollup;
use floodmark_dataflows::reads::{Amounts, Read};
use floodmark_dataflows::spans::Existing;
use floodmark_dataflows::time::{Bounds, Window, Windows};
use floodmark_dataflows::types::{Bound, Entity, LimitId, Pair, Per, Prefix, Scope, Volume};

use super::catalog::{Catalog, CurrentAndNext, LimitSet};
use super::rows::Row;
use super::text::Text;
use crate::base::date::format_ns;
use crate::base::network;
use crate::base::quote::Quoted;

/// Maximum limits of a set that [`Explanation::why_none`] names; it counts the rest.
const NAMED_MAX: usize = 20;

/// Everything that an explanation of a pair in a window depends on, as of one tick.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The tick, in milliseconds.
    pub tick: u64,
    /// The rules of time.
    pub rules: Windows,
    /// The bounds between windows in different states.
    pub bounds: Bounds,
    /// The pair that is explained.
    pub pair: Pair,
    /// Whether records of the pair are counted: a filter may leave them out.
    pub counted: bool,
    /// The window that is explained.
    pub window: Window,
    /// The state of the window in the computation; `None`: the window does not exist, or no longer.
    pub existing: Option<Existing>,
    /// The rows that hold.
    pub catalog: Arc<Catalog>,
    /// The amounts that the tables returned for [`reads`]; an entity that is missing has none.
    pub amounts: Arc<Amounts>,
}

/// The state of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowState {
    /// The window accepts records, and a `min` does not judge it yet.
    Open,
    /// The end of the window has passed; late records still count.
    Closed,
    /// No record can change the window any more.
    Settled,
    /// The window has left memory, or would have left it if it had existed.
    Retired,
    /// No record has fallen into the window, and it lies in no gap between two windows with records.
    Unseen,
    /// No record has fallen into the window, and it has not begun.
    Future,
}

/// The limits that apply to a pair in a window, and those that do not, as of one tick.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The tick, in milliseconds.
    pub tick: u64,
    /// The pair that is explained.
    pub pair: Pair,
    /// The window that is explained.
    pub window: Window,
    /// The end of the window, in seconds.
    pub window_end: u64,
    /// The state of the window.
    pub state: WindowState,
    /// The limits that apply, by name; a limit per host has an entry for each host that it judges.
    pub limits: Vec<Applying>,
    /// The limits that do not apply, by name.
    pub others: Vec<Other>,
    /// Whether records of the pair are counted at all.
    pub counted: bool,
}

/// A limit that does not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// The set that the limit is in, if there are several.
    pub set: Option<LimitSet>,
    /// The limit's name.
    pub name: Text,
    /// The reason why the limit does not apply.
    pub why: WhyNot,
}

/// A limit that applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applying {
    /// The set that the limit is in, if there are several.
    pub set: Option<LimitSet>,
    /// The version that judges the window: name, value and all.
    pub row: Row,
    /// The entity that the limit judges.
    pub entity: Entity,
    /// The amount of the entity in the limit's scope; `None`: the window has left memory.
    pub amount: Option<i64>,
    /// The distance to the limit: value minus amount for a `max`, amount minus value for a `min`; negative if
    /// the amount is over or under the value. `None` if the amount is unknown, or the value is 10^38 or more.
    pub headroom: Option<i128>,
    /// Whether the limit is broken; `None`: the window has left memory.
    pub violated: Option<bool>,
    /// The time from which the limit judges the window, in seconds: the window's start for a `max`, its end
    /// for a `min`.
    pub judged_from: u64,
    /// The reason why the limit does not judge the entity in this window, or not yet; `None`: it does.
    pub not_judged: Option<NotJudged>,
}

/// The reason why a limit that applies does not judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotJudged {
    /// The window is not closed.
    Open,
    /// The window has left memory.
    Retired,
    /// The window does not exist.
    NoWindow,
    /// The window was not observed from its start.
    NotWhole,
    /// The entity has no record in the limit's scope.
    NoRecord,
}

/// The reason why a limit does not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// The first version of the limit begins later.
    NotYet {
        /// The effective date of that version, in nanoseconds since 1970.
        begins: i128,
        /// Whether that version begins within the window, which it will judge then.
        within: bool,
    },
    /// A version without a value has ended the limit.
    Ended {
        /// The effective date of that version, in nanoseconds since 1970.
        since: i128,
    },
    /// The limit is for networks of the other family.
    Family {
        /// The column with such a network.
        column: &'static str,
        /// The network in that column.
        network: Prefix,
    },
    /// The limit would apply, but no record of the pair is counted.
    NotCounted,
    /// An address of the pair (for `host`: both addresses) is not in the network of a column.
    Outside {
        /// The column with the network.
        column: &'static str,
        /// The network in that column.
        network: Prefix,
    },
}

impl Display for NotJudged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotJudged::Open => "a min is judged when the window closes",
            NotJudged::Retired => "the window has left memory",
            NotJudged::NoWindow => "there is no record in the window",
            NotJudged::NotWhole => "the window was not observed from its start on",
            NotJudged::NoRecord => "there is no record in the limit's scope",
        })
    }
}

impl WhyNot {
    /// Returns the kind of reason, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            WhyNot::NotYet { .. } => "not_yet",
            WhyNot::Ended { .. } => "ended",
            WhyNot::NotCounted => "not_counted",
            WhyNot::Family { .. } => "family",
            WhyNot::Outside { column, .. } => column,
        }
    }

    /// Returns the reason as text for this pair.
    pub fn text(&self, pair: &Pair) -> String {
        let family = |v4: bool| if v4 { "IPv4" } else { "IPv6" };
        let of_pair = family(pair.source().is_ipv4());
        match self {
            WhyNot::NotYet { begins, within: true } => {
                format!("no version is in force yet: the first begins at {}", format_ns(*begins))
            }
            WhyNot::NotYet { begins, within: false } => {
                let begins = format_ns(*begins);
                format!("no version is in force: the first begins at {begins}, after the window")
            }
            WhyNot::NotCounted => {
                "the pair is not counted: --source or --destination of the run leaves it out".into()
            }
            WhyNot::Ended { since } => {
                format!("a version without a value has ended it at {}", format_ns(*since))
            }
            WhyNot::Family { column, network } => format!(
                "it is for {column} {}, which is {}, and the pair is {of_pair}",
                network::text(*network),
                family(!pair.source().is_ipv4()),
            ),
            WhyNot::Outside { column: "host", network } => format!(
                "neither {} nor {} is in host {}",
                pair.source(),
                pair.destination(),
                network::text(*network)
            ),
            WhyNot::Outside { column, network } => {
                let address = if *column == "source" { pair.source() } else { pair.destination() };
                format!("{address} is not in {column} {}", network::text(*network))
            }
        }
    }
}

/// Returns the moment, in nanoseconds, whose versions judge a window as of a tick: the tick, or the last
/// moment before the window's end.
pub fn judged_at(rules: &Windows, window: Window, tick: u64) -> i128 {
    let end = i128::from(rules.end_secs(window)) * 1_000_000_000;
    (i128::from(tick) * 1_000_000).min(end - 1)
}

/// Returns the reads that the tables must answer, at the end of the tick that is explained. `limits` are
/// those in force at [`judged_at`].
pub fn reads<'a>(
    limits: impl Iterator<Item = (LimitId, CurrentAndNext<'a>)>,
    pair: &Pair,
    window: Window,
) -> BTreeSet<Read> {
    let scopes = limits.filter_map(|(_, rows)| rows.now);
    let scopes = scopes.filter(|now| now.value.is_some()).map(|now| now.scope);
    let read = |scope: &Scope| {
        let rollup = Rollup::of(scope);
        let entities = entities(scope, pair).unwrap_or_default().into_iter();
        entities.map(move |entity| Read::Amount { window, rollup, entity }).collect::<Vec<_>>()
    };
    scopes.flat_map(|scope| read(&scope)).collect()
}

/// Returns the entities of a pair that a scope judges, or the reason why it judges none.
fn entities(scope: &Scope, pair: &Pair) -> Result<Vec<Entity>, WhyNot> {
    let (source, destination) = (pair.source(), pair.destination());
    let outside = |column, network: Prefix| match network.network() {
        Some(of) if of.addr().is_ipv4() != source.is_ipv4() => WhyNot::Family { column, network },
        _ => WhyNot::Outside { column, network },
    };
    if !scope.source.contains(source) {
        return Err(outside("source", scope.source));
    }
    if !scope.destination.contains(destination) {
        return Err(outside("destination", scope.destination));
    }
    let entities: Vec<Entity> = scope.entities(pair).into_iter().flatten().collect();
    if entities.is_empty() { Err(outside("host", scope.host)) } else { Ok(entities) }
}

/// Explains which limits apply to the pair in the window, and why the others do not.
pub fn explain(facts: &Facts) -> Explanation {
    let at = judged_at(&facts.rules, facts.window, facts.tick);
    let state = facts.state();
    let (mut limits, mut others) = (Vec::new(), Vec::new());
    for (limit, rows) in facts.catalog.in_force(at) {
        let (set, name) = (facts.catalog.named_set(limit), facts.catalog.name(limit));
        let mut other = |why| others.push(Other { set, name: name.into(), why });
        match facts.judge(&rows) {
            Ok(_) if !facts.counted => other(WhyNot::NotCounted),
            Ok((row, entities)) => {
                let entities = entities.into_iter();
                limits.extend(entities.map(|entity| facts.applying(set, row, entity, state)));
            }
            Err(why) => other(why),
        }
    }
    // Stable: of one limit, the source is before the destination.
    limits.sort_by(|a, b| (&a.row.name, a.set).cmp(&(&b.row.name, b.set)));
    others.sort_by(|a, b| (&a.name, a.set).cmp(&(&b.name, b.set)));
    Explanation {
        tick: facts.tick,
        pair: facts.pair,
        window: facts.window,
        window_end: facts.rules.end_secs(facts.window),
        state,
        limits,
        others,
        counted: facts.counted,
    }
}

impl Facts {
    fn state(&self) -> WindowState {
        let window = self.window;
        match self.existing {
            Some(_) if self.bounds.settled(window) => WindowState::Settled,
            Some(Existing { closed: true, .. }) => WindowState::Closed,
            Some(_) => WindowState::Open,
            None if window.0.saturating_mul(1000) > self.tick => WindowState::Future,
            None if self.bounds.retired(window) => WindowState::Retired,
            None => WindowState::Unseen,
        }
    }

    /// Returns the row that judges the window, and the entities of the pair that it judges.
    fn judge<'a>(&self, rows: &CurrentAndNext<'a>) -> Result<(&'a Row, Vec<Entity>), WhyNot> {
        let Some(now) = rows.now else {
            let begins = rows.next.map_or(i128::MAX, |next| next.effective);
            let end = i128::from(self.rules.end_secs(self.window)) * 1_000_000_000;
            return Err(WhyNot::NotYet { begins, within: begins < end });
        };
        if now.value.is_none() {
            return Err(WhyNot::Ended { since: now.effective });
        }
        Ok((now, entities(&now.scope, &self.pair)?))
    }

    fn applying(
        &self,
        set: Option<LimitSet>,
        row: &Row,
        entity: Entity,
        state: WindowState,
    ) -> Applying {
        let Row { scope, bound, .. } = *row;
        let key = (self.window, Rollup::of(&scope), entity);
        let volume = (state != WindowState::Retired)
            .then(|| self.amounts.get(&key).copied().unwrap_or_default());
        let amount = volume.map(|volume| volume.amount(scope.metric));
        let whole = row.value.as_ref().and_then(|value| value.whole(bound));
        let headroom = amount.zip(whole).map(|(amount, value)| match bound {
            Bound::Max => value - i128::from(amount),
            Bound::Min => i128::from(amount) - value,
        });
        let not_judged = self.not_judged(row, volume);
        // The computation judges by the same number.
        let threshold = row.value.as_ref().map(|value| value.threshold(bound));
        let broken = amount.zip(threshold).map(|(amount, value)| match bound {
            Bound::Max => amount > value,
            Bound::Min => amount < value,
        });
        Applying {
            set,
            row: row.clone(),
            entity,
            amount,
            headroom,
            violated: broken.map(|broken| broken && not_judged.is_none()),
            judged_from: match bound {
                Bound::Max => self.window.0,
                Bound::Min => self.rules.end_secs(self.window),
            },
            not_judged,
        }
    }

    fn not_judged(&self, row: &Row, volume: Option<Volume>) -> Option<NotJudged> {
        let Some(volume) = volume else {
            return Some(NotJudged::Retired);
        };
        if row.bound == Bound::Max {
            return None;
        }
        let total = row.scope.per == Per::Total;
        match self.existing {
            None if self.bounds.closed(self.window) => Some(NotJudged::NoWindow),
            None | Some(Existing { closed: false, .. }) => Some(NotJudged::Open),
            Some(Existing { whole: false, .. }) => Some(NotJudged::NotWhole),
            Some(Existing { seen: false, .. }) if !total => Some(NotJudged::NoWindow),
            Some(_) if volume.packets == 0 && !total => Some(NotJudged::NoRecord),
            Some(_) => None,
        }
    }
}

impl Explanation {
    /// Returns the reasons why no limit applies; `None` if one does. With two sets of limits, the text has a
    /// part for each set of which no limit applies.
    pub fn why_none(&self) -> Option<String> {
        if !self.counted {
            return Some(WhyNot::NotCounted.text(&self.pair));
        }
        let sets = [LimitSet::Live, LimitSet::WhatIf];
        let named = |set: &LimitSet| {
            let has = |other: Option<LimitSet>| other == Some(*set);
            self.limits.iter().any(|one| has(one.set)) || self.others.iter().any(|one| has(one.set))
        };
        if !sets.iter().any(named) {
            return self.why_none_of(None);
        }
        let of_set =
            |set: LimitSet| Some(format!("{}: {}", set.as_str(), self.why_none_of(Some(set))?));
        let whys: Vec<String> = sets.into_iter().filter_map(of_set).collect();
        (!whys.is_empty()).then(|| whys.join("; "))
    }

    fn why_none_of(&self, set: Option<LimitSet>) -> Option<String> {
        if self.limits.iter().any(|limit| limit.set == set) {
            return None;
        }
        let others: Vec<&Other> = self.others.iter().filter(|other| other.set == set).collect();
        let named: Vec<String> = others[..others.len().min(NAMED_MAX)]
            .iter()
            .map(|other| format!("{}: {}", Quoted(&other.name), other.why.text(&self.pair)))
            .collect();
        let rest = match others.len() - named.len() {
            0 => String::new(),
            rest => format!("; and {rest} more"),
        };
        Some(match others.len() {
            0 => "there are no limits".into(),
            1 => format!("the only limit does not apply: {}", named.concat()),
            all => format!("none of {all} limits applies: {}{rest}", named.join("; ")),
        })
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
