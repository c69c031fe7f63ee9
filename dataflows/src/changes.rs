//! What is said about violations at each tick: raised, updated, cleared, and why.
//!
//! A tick is a sequence of phases, and the violations are known after each. An entity that stood
//! before the tick and stands after it may get an update, one of which only one is true was raised or
//! cleared, whatever happened in between. The first phase after which that was so tells the reason:
//! the rows were read, or a date came, or records were counted, or the window closed.

use std::collections::{BTreeMap, BTreeSet};

use differential_dataflow::VecCollection;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::addresses::{Addresses, Key};
use crate::clock::Clock;
use crate::gauge::{Gauge, Total};
use crate::limits::{Judge, Judging, Ruling};
use crate::orders::TotalUpdate;
use crate::ranges::{WindowRange, WindowSet};
use crate::stash::Stash;
use crate::time::{Phase, Time, Window, Windows};
use crate::traffic::Shared;
use crate::types::{
    Bound, Change, Event, LimitId, Metric, Per, Reason, Updates, VersionId, Violation, Volume,
};

/// A violation as the worker that holds its total knows it.
pub(crate) type Judged = ((Gauge, Window), Total, LimitId);

/// Who violates what, in one window.
type Id = (LimitId, Per, Key);

/// A violation that was said to stand.
#[derive(Clone, Copy)]
struct Standing {
    gauge: Gauge,
    total: Total,
    version: VersionId,
}

#[derive(Default)]
struct Work {
    judged: Vec<(Judged, Time, isize)>,
    totals: Vec<TotalUpdate>,
    fallen: Vec<((Gauge, Window), Total)>,
    rulings: Vec<(Ruling, Time, isize)>,
    clock: Vec<Clock>,
}

/// How one id went through a tick.
#[derive(Default)]
struct Course {
    /// What it is judged to be after the phases so far.
    now: Vec<((Gauge, Total), isize)>,
    /// The first phase after which it stood, or did not, other than before the tick.
    turned: Option<Phase>,
    /// What it was judged to be before that phase.
    before_turn: Option<(Gauge, Total)>,
}

impl Course {
    fn new(before: Option<&Standing>) -> Self {
        let now = before.map(|standing| ((standing.gauge, standing.total), 1));
        Course { now: now.into_iter().collect(), turned: None, before_turn: None }
    }

    fn stands(&self) -> Option<(Gauge, Total)> {
        self.now.first().map(|(judged, _)| *judged)
    }

    /// Takes the changes of one phase.
    fn go_through(&mut self, phase: Phase, changes: impl Iterator<Item = ((Gauge, Total), isize)>) {
        let before = self.stands();
        self.now.extend(changes);
        differential_dataflow::consolidation::consolidate(&mut self.now);
        if self.turned.is_none() && before.is_some() != self.stands().is_some() {
            (self.turned, self.before_turn) = (Some(phase), before);
        }
    }
}

/// The courses of one tick, in the order of their ids. There may be as many as there are totals.
struct Courses(Vec<((Window, Id), Course)>);

impl Courses {
    fn iter(&self) -> impl Iterator<Item = &((Window, Id), Course)> {
        self.0.iter()
    }

    fn get(&self, at: &(Window, Id)) -> Option<&Course> {
        let found = self.0.binary_search_by(|(other, _)| other.cmp(at)).ok()?;
        Some(&self.0[found].1)
    }
}

struct Changes {
    shared: Shared,
    windows: Windows,
    updates: Updates,
    watermark: u64,
    /// Windows that were not observed from their start on.
    partial: WindowSet,
    judging: Judging,
    standing: BTreeMap<Window, BTreeMap<Id, Standing>>,
}

/// What a tick leaves to be said, while it is worked on.
struct Tick {
    /// The watermark of the tick before.
    watermark_before: u64,
    settles: WindowSet,
    /// For limits whose versions change, and windows in which they are violated: the version that
    /// judged once the rows were read.
    after_rows: BTreeMap<(LimitId, Window), Option<VersionId>>,
}

impl Changes {
    fn version(&self, limit: LimitId, window: Window) -> Option<&Judge> {
        self.judging.judge(limit, window)
    }

    /// Takes the changes of versions, and notes what they may change of what stands.
    fn judge_by(&mut self, rulings: &RulingsOfTick, tick: &mut Tick) {
        self.judging.update(&rulings.rows);
        let changes = rulings.rows.iter().chain(&rulings.dates);
        let limits: BTreeSet<LimitId> = changes.map(|(ruling, _)| ruling.limit).collect();
        for (window, ids) in &self.standing {
            for limit in &limits {
                let first = (*limit, Per::Pair, Key::MIN);
                if ids.range(first..).next().is_some_and(|((held, ..), _)| held == limit) {
                    let version = self.version(*limit, *window).map(|judge| judge.version);
                    tick.after_rows.insert((*limit, *window), version);
                }
            }
        }
        self.judging.update(&rulings.dates);
    }

    /// How each id that was judged anew went through the tick.
    fn courses(&self, judged: Vec<(Judged, Time, isize)>) -> Courses {
        let mut steps: Vec<_> = judged
            .into_iter()
            .filter(|(_, time, _)| time.phase != Phase::Retire)
            .map(|(((gauge, window), total, limit), time, diff)| {
                let at = (window, (limit, gauge.per, total.key));
                ((at, time.phase, (gauge, total)), diff)
            })
            .collect();
        differential_dataflow::consolidation::consolidate(&mut steps);
        let course = |steps: &[((_, _, _), isize)]| {
            let ((at, ..), _) = steps[0];
            let (window, id) = at;
            let mut course = Course::new(self.standing(window, &id));
            for steps in steps.chunk_by(|a, b| a.0.1 == b.0.1) {
                let changes = steps.iter().map(|((.., judged), diff)| (*judged, *diff));
                course.go_through(steps[0].0.1, changes);
            }
            (at, course)
        };
        let courses = steps.chunk_by(|a, b| a.0.0 == b.0.0).map(course);
        Courses(courses.collect())
    }

    /// The reason that a phase is, for a window.
    fn reason(&self, phase: Phase, window: Window, tick: &Tick) -> Reason {
        match phase {
            Phase::Rows => Reason::LimitChange,
            Phase::Data if self.windows.closed(window, tick.watermark_before) => Reason::LateData,
            Phase::Data => Reason::Data,
            _ => Reason::Schedule,
        }
    }

    /// The update, if any, of what stood before the tick and stands after it.
    fn updated(
        &self,
        (window, id): (Window, Id),
        before: &Standing,
        after: &Standing,
        tick: &Tick,
    ) -> Option<Reason> {
        let settles = tick.settles.contains(window);
        let was_settled = self.windows.settled(window, tick.watermark_before);
        let version_counts = was_settled || self.updates >= Updates::Limit;
        if version_counts && before.version != after.version {
            let after_rows = tick.after_rows.get(&(id.0, window)).copied().flatten();
            let by_rows = after_rows != Some(before.version);
            return Some(if by_rows { Reason::LimitChange } else { Reason::Schedule });
        }
        if settles {
            return Some(Reason::Schedule);
        }
        (self.updates == Updates::Tick && before.total.amount != after.total.amount)
            .then(|| self.reason(Phase::Data, window, tick))
    }

    /// How a violation is judged now. If its limit is gone, as it was before.
    fn judged_by(&self, limit: LimitId, window: Window, before: Gauge) -> JudgedBy {
        let version = self.version(limit, window);
        JudgedBy {
            bound: version.map_or(before.bound, |version| version.bound),
            metric: version.map_or(before.metric, |version| version.metric),
            version: version.map(|version| version.version),
            settled: self.windows.settled(window, self.watermark),
            partial: self.partial.contains(window),
        }
    }

    fn standing(&self, window: Window, id: &Id) -> Option<&Standing> {
        self.standing.get(&window)?.get(id)
    }

    fn tick(&mut self, work: Work) -> Vec<Change> {
        let mut tick = Tick {
            watermark_before: self.watermark,
            settles: WindowSet::default(),
            after_rows: BTreeMap::new(),
        };
        let mut retired = Vec::new();
        for event in work.clock {
            match event {
                Clock::Watermark { at, .. } => self.watermark = self.watermark.max(at),
                Clock::Settled(windows) => tick.settles.insert(windows),
                Clock::Retired(windows) => retired.push(windows),
                Clock::Observed(_) => {}
                Clock::Partial { windows, partial: true } => self.partial.insert(windows),
                Clock::Partial { windows, partial: false } => self.partial.remove(windows),
            }
        }
        let rulings = RulingsOfTick::new(work.rulings);
        self.judge_by(&rulings, &mut tick);
        let courses = self.courses(work.judged);
        let records = Records { totals: work.totals, fallen: work.fallen };

        let mut changes = Vec::new();
        let addresses = self.shared.addresses.clone();
        let addresses = addresses.borrow();
        let mut say = Say { addresses: &addresses, changes: &mut changes };
        let candidates = self.stood_and_stand(&courses, &tick);
        self.say_cleared(&courses, &records, &tick, &mut say);
        self.say_raised(&courses, &tick, &mut say);
        self.say_updated(candidates, &courses, &tick, &mut say);
        self.judging.update(&rulings.retired);
        for windows in retired {
            let held = self.standing.range(windows.from..windows.until);
            for window in held.map(|(window, _)| *window).collect::<Vec<_>>() {
                self.standing.remove(&window);
            }
            self.partial.remove(windows);
        }
        changes
    }

    /// Says what stood and does not stand.
    fn say_cleared(
        &mut self,
        courses: &Courses,
        records: &Records,
        tick: &Tick,
        say: &mut Say<'_>,
    ) {
        let cleared: Vec<_> = courses
            .iter()
            .filter(|(at, course)| {
                course.stands().is_none() && self.standing(at.0, &at.1).is_some()
            })
            .filter_map(|(at, course)| Some((*at, course.turned?, course.before_turn?)))
            .collect();
        let asked = cleared
            .iter()
            .filter(|(_, phase, _)| *phase == Phase::Data)
            .map(|((window, (.., key)), _, (gauge, _))| (((*gauge, *window), *key), None))
            .collect();
        let counted = records.find(asked);
        for ((window, id), phase, (gauge, before)) in cleared {
            let total = match phase {
                Phase::Data => counted.get(&((gauge, window), id.2)).copied().flatten(),
                _ => None,
            };
            let volume = total.unwrap_or(before).volume(gauge.metric);
            let what = (Event::Cleared, self.reason(phase, window, tick));
            say.say(what, (window, id), volume, self.judged_by(id.0, window, gauge));
            if let Some(ids) = self.standing.get_mut(&window) {
                ids.remove(&id);
            }
        }
    }

    /// Says, and keeps, what did not stand and stands.
    fn say_raised(&mut self, courses: &Courses, tick: &Tick, say: &mut Say<'_>) {
        for &((window, id), ref course) in courses.iter() {
            let (Some((gauge, total)), Some(phase)) = (course.stands(), course.turned) else {
                continue;
            };
            if self.standing(window, &id).is_some() {
                continue;
            }
            let by = self.judged_by(id.0, window, gauge);
            let version = by.version.expect("what stands is judged by a version");
            let what = (Event::Raised, self.reason(phase, window, tick));
            say.say(what, (window, id), total.volume(gauge.metric), by);
            let standing = Standing { gauge, total, version };
            self.standing.entry(window).or_default().insert(id, standing);
        }
    }

    /// What stood before the tick and stands after it, and may have to be told anew.
    fn stood_and_stand(&self, courses: &Courses, tick: &Tick) -> Vec<(Window, Id)> {
        let stood = |(window, id): &(Window, Id)| self.standing(*window, id).is_some();
        let judged = courses.iter().map(|(at, _)| *at);
        let mut candidates: Vec<_> = judged.filter(stood).collect();
        for windows in tick.settles.within(WindowRange::ALL) {
            for (window, ids) in self.standing.range(windows.from..windows.until) {
                candidates.extend(ids.keys().map(|id| (*window, *id)));
            }
        }
        for (limit, window) in tick.after_rows.keys() {
            let ids = self.standing.get(window).into_iter();
            let ids = ids.flat_map(|ids| ids.range((*limit, Per::Pair, Key::MIN)..));
            let ids = ids.take_while(|((held, ..), _)| held == limit);
            candidates.extend(ids.map(|(id, _)| (*window, *id)));
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|at| courses.get(at).is_none_or(|course| course.stands().is_some()));
        candidates
    }

    /// Says what is new of what stood and stands, and keeps it.
    fn say_updated(
        &mut self,
        candidates: Vec<(Window, Id)>,
        courses: &Courses,
        tick: &Tick,
        say: &mut Say<'_>,
    ) {
        for (window, id) in candidates {
            let Some(before) = self.standing(window, &id).copied() else {
                continue;
            };
            let judged = courses.get(&(window, id)).and_then(Course::stands);
            let (gauge, total) = judged.unwrap_or((before.gauge, before.total));
            let by = self.judged_by(id.0, window, gauge);
            let version = by.version.expect("what stands is judged by a version");
            let after = Standing { gauge, total, version };
            if let Some(reason) = self.updated((window, id), &before, &after, tick) {
                let volume = total.volume(gauge.metric);
                say.say((Event::Updated, reason), (window, id), volume, by);
            }
            self.standing.entry(window).or_default().insert(id, after);
        }
    }
}

/// The changes of rulings at a tick, by phase.
#[derive(Default)]
struct RulingsOfTick {
    rows: Vec<(Ruling, isize)>,
    dates: Vec<(Ruling, isize)>,
    /// Of those that left with the last window that they judged.
    retired: Vec<(Ruling, isize)>,
}

impl RulingsOfTick {
    fn new(rulings: Vec<(Ruling, Time, isize)>) -> Self {
        let mut of_tick = RulingsOfTick::default();
        for (ruling, time, diff) in rulings {
            let of_phase = match time.phase {
                Phase::Rows => &mut of_tick.rows,
                Phase::Retire => &mut of_tick.retired,
                _ => &mut of_tick.dates,
            };
            of_phase.push((ruling, diff));
        }
        of_tick
    }
}

/// What the records of a tick made of totals that were beyond a cut.
struct Records {
    totals: Vec<TotalUpdate>,
    fallen: Vec<((Gauge, Window), Total)>,
}

impl Records {
    /// What they made of some totals. Few are asked for, so nothing is indexed for them in ticks in
    /// which none is.
    fn find(&self, mut asked: BTreeMap<Of, Option<Total>>) -> BTreeMap<Of, Option<Total>> {
        if asked.is_empty() {
            return asked;
        }
        let mut counted: Vec<((Of, Total), isize)> = Vec::new();
        for ((at, total), time, diff) in &self.totals {
            if time.phase == Phase::Data && asked.contains_key(&(*at, total.key)) {
                counted.push((((*at, total.key), *total), *diff));
            }
        }
        differential_dataflow::consolidation::consolidate(&mut counted);
        let beyond = counted.into_iter().filter(|(_, diff)| *diff > 0).map(|(found, _)| found);
        let within = self.fallen.iter().map(|(at, total)| ((*at, total.key), *total));
        for (of, total) in beyond.chain(within) {
            if let Some(found) = asked.get_mut(&of) {
                *found = Some(total);
            }
        }
        asked
    }
}

/// A total of one gauge.
type Of = ((Gauge, Window), Key);

/// Takes what is said at a tick.
struct Say<'a> {
    addresses: &'a Addresses,
    changes: &'a mut Vec<Change>,
}

impl Say<'_> {
    fn say(&mut self, what: (Event, Reason), at: (Window, Id), volume: Volume, by: JudgedBy) {
        let ((event, reason), (window, (limit, per, key))) = (what, at);
        let entity = self.addresses.entity(per, key);
        let JudgedBy { bound, metric, version, settled, partial } = by;
        let violation = Violation { limit, window, entity, volume };
        let change = Change { event, reason, violation, bound, metric, version, settled, partial };
        self.changes.push(change);
    }
}

/// How a violation is judged now.
struct JudgedBy {
    bound: Bound,
    metric: Metric,
    version: Option<VersionId>,
    settled: bool,
    partial: bool,
}

/// What becomes of violations, tick by tick.
///
/// # In
/// `violations` as the worker knows them that holds their totals, and on the same worker `totals` and
/// `fallen` that they were found in, which tell the volume that cleared one. `rulings` and `clock`:
/// the same on every worker.
///
/// # Time
/// Said when all of a tick is known, at its [`Phase::Retire`].
///
/// # Out
/// At most one change for each (limit, window, entity) and tick: never both raised and cleared.
/// Folding them gives the violations that stand. That a window retires is no change: what was said
/// last stands.
///
/// # Keeps
/// The violations that stand in windows held.
///
/// # Costs
/// The violations that change; for a changed version those of its limit, for a window that settles
/// those in it.
pub(crate) fn changes<'scope>(
    violations: VecCollection<'scope, Time, Judged, isize>,
    totals: StreamVec<'scope, Time, TotalUpdate>,
    fallen: StreamVec<'scope, Time, ((Gauge, Window), Total)>,
    rulings: VecCollection<'scope, Time, Ruling, isize>,
    clock: StreamVec<'scope, Time, Clock>,
    shared: Shared,
    (windows, updates): (Windows, Updates),
) -> StreamVec<'scope, Time, Change> {
    let mut builder = OperatorBuilder::new("Changes".into(), totals.scope());
    let mut violations = builder.new_input(violations.inner, Pipeline);
    let mut totals = builder.new_input(totals, Pipeline);
    let mut fallen = builder.new_input(fallen, Pipeline);
    let mut rulings = builder.new_input(rulings.inner, Pipeline);
    let mut clock = builder.new_input(clock, Pipeline);
    let (output, stream) = builder.new_output::<Vec<_>>();
    let mut output = OutputBuilder::from(output);
    builder.build(move |_| {
        let mut stash = Stash::<Work, 1>::default();
        let mut changes = Changes {
            shared,
            windows,
            updates,
            watermark: 0,
            partial: WindowSet::default(),
            judging: Judging::default(),
            standing: BTreeMap::new(),
        };
        move |frontiers| {
            violations.for_each(|capability, updates| {
                for update in updates.drain(..) {
                    stash.at_tick(&capability, &update.1).judged.push(update);
                }
            });
            rulings.for_each(|capability, updates| {
                for update in updates.drain(..) {
                    stash.at_tick(&capability, &update.1).rulings.push(update);
                }
            });
            // Messages of these are of one time each.
            totals.for_each(|at, data| stash.at_tick(&at, at.time()).totals.append(data));
            fallen.for_each(|at, data| stash.at_tick(&at, at.time()).fallen.append(data));
            clock.for_each(|at, data| stash.at_tick(&at, at.time()).clock.append(data));
            let mut output = output.activate();
            while let Some(([capability], work)) = stash.next(frontiers) {
                output.session(&capability).give_container(&mut changes.tick(work));
            }
        }
    });
    stream
}
