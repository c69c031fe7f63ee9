//! The clock of a run: the wall clock without its steps.
//!
//! The wall clock may be set at any moment, by NTP, by a hypervisor or by hand, and be right before or
//! after. The elapsed time (`CLOCK_BOOTTIME`, which counts suspension too) can't be set. [`SteadyClock`]
//! follows the wall clock while the two agree, and goes on by elapsed time when they part:
//!
//! - **Slewing** is followed: up to [`SLACK_MS`] at once, and a tenth of the elapsed time.
//! - **A step back**: ticks go on from the last one. They run slower by a tenth until the wall clock has
//!   caught up, unless it is a day or more behind. Silence is judged by the wall clock, which is the
//!   earlier one. A record may be as late as if there had been no step, also after the wall clock has
//!   caught up: only a step forward takes that back.
//! - **A step forward** is believed when it has lasted for the idle timeout, and a minute at least. Until
//!   then nobody knows whether a record that is far ahead of the elapsed time is in the future, so that
//!   nothing is read ([`Moment::undecided_until`]).
//! - **A clock before 2020** is not set yet: no tick begins.
//!
//! Only process 0 has a clock; the other processes hear of its time with each tick.

use std::time::{Duration, SystemTime};

use metrics::counter;

use crate::base::date::format_ms;

/// The wall clock may part from the elapsed time by so much without a step: a leap second, a correction
/// by slewing.
const SLACK_MS: u64 = 2_000;

/// Two differences of times in whole milliseconds may differ by so much although the times do not.
const ROUNDING_MS: u64 = 1;

/// The slack comes back at the elapsed time divided by this; chrony slews by a twelfth at most.
const SLEW: u64 = 10;

/// A step back by more than this is not made up for by slower ticks: that would take 10 days.
const SLEW_MAX_MS: u64 = 24 * 3600 * 1000;

/// A step forward is not believed sooner, however short the idle timeout is.
const BELIEVED_AFTER_MS: u64 = 60_000;

/// The beginning of 2020. A wall clock that shows an earlier time was never set.
const SET_SINCE_MS: u64 = 1_577_836_800_000;

/// The clock of a run.
pub trait Clock: Send {
    /// Reads the time. The times of successive moments never go back.
    fn read(&mut self) -> Moment;
}

/// One reading of the clock of a run. Times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of a tick that begins now, and the latest watermark.
    pub now: u64,
    /// The watermark if all partitions are idle.
    pub silence: u64,
    /// The time that `--max-ahead` is added to.
    pub horizon: u64,
    /// The horizon if a step forward turns out to be right; the same as `horizon` without such a step.
    pub undecided_until: u64,
    /// The reason why the clock is not the wall clock, if it is not.
    pub unsteady: Option<Unsteady>,
}

impl Moment {
    /// A reading of a clock that is never set.
    pub fn steady(now: u64, silence: u64) -> Self {
        Moment { now, silence, horizon: now, undecided_until: now, unsteady: None }
    }
}

/// The state of a wall clock that can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsteady {
    /// The wall clock shows a time before 2020.
    Unset {
        /// That earlier time.
        wall_ms: u64,
    },
    /// The wall clock was set back.
    Back {
        /// By how much it is behind the clock of the run now.
        behind_ms: u64,
        /// Time since the clock was set.
        lasting: Duration,
    },
    /// The wall clock was set forward.
    Forward {
        /// By how much it is ahead of the clock of the run now.
        ahead_ms: u64,
        /// Time since the clock was set.
        lasting: Duration,
        /// Time until the step is believed.
        believed_in: Duration,
    },
}

/// One reading of the two clocks of a machine, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The time since 1970.
    pub wall_ms: u64,
    /// The time since some moment, time in suspension included. It never goes back.
    pub elapsed_ms: u64,
}

/// The two clocks of a machine.
pub trait Clocks: Send {
    /// Reads both.
    fn read(&mut self) -> Reading;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineClocks;

impl Clocks for MachineClocks {
    fn read(&mut self) -> Reading {
        Reading { wall_ms: wall_ms(), elapsed_ms: elapsed_ms() }
    }
}

/// The wall clock of this machine, in milliseconds since 1970.
pub fn wall_ms() -> u64 {
    // A clock before 1970 is not set.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}

fn elapsed_ms() -> u64 {
    #[cfg(target_os = "linux")]
    const ELAPSED: nix::time::ClockId = nix::time::ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    const ELAPSED: nix::time::ClockId = nix::time::ClockId::CLOCK_MONOTONIC;
    let elapsed = nix::time::clock_gettime(ELAPSED).expect("every kernel since 2.6.39 has it");
    Duration::from(elapsed).as_millis() as u64
}

/// The wall clock without its steps.
#[derive(Debug)]
pub struct SteadyClock<C = MachineClocks> {
    clocks: C,
    idle_timeout_ms: u64,
    /// `None` until the wall clock is set.
    course: Option<Course>,
    unset_logged: bool,
}

impl SteadyClock {
    /// The clock of this machine. The watermark is `idle_timeout_ms` behind it if all partitions are idle.
    pub fn new(idle_timeout_ms: u64) -> Self {
        SteadyClock::over(MachineClocks, idle_timeout_ms)
    }
}

impl<C: Clocks> SteadyClock<C> {
    /// Creates the steady clock over other clocks than the machine's.
    pub fn over(clocks: C, idle_timeout_ms: u64) -> Self {
        for direction in ["back", "forward"] {
            count_steps(direction, 0);
        }
        SteadyClock { clocks, idle_timeout_ms, course: None, unset_logged: false }
    }

    fn unset(&mut self, wall_ms: u64) -> Moment {
        if !std::mem::replace(&mut self.unset_logged, true) {
            let time = format_ms(wall_ms).to_string();
            tracing::warn!(
                time,
                "the wall clock is not set: the run waits for it, and reads nothing"
            );
        }
        let unsteady = Some(Unsteady::Unset { wall_ms });
        Moment { unsteady, ..Moment::steady(wall_ms, 0) }
    }
}

impl<C: Clocks> Clock for SteadyClock<C> {
    fn read(&mut self) -> Moment {
        let reading = self.clocks.read();
        let believed_after_ms = self.idle_timeout_ms.max(BELIEVED_AFTER_MS);
        match &mut self.course {
            Some(course) => course.advance(reading),
            None if reading.wall_ms < SET_SINCE_MS => return self.unset(reading.wall_ms),
            None => self.course = Some(Course::starting(reading, believed_after_ms)),
        }
        let course = self.course.as_ref().expect("it has started");
        course.moment(self.idle_timeout_ms)
    }
}

/// The time of a run, from reading to reading.
#[derive(Debug)]
struct Course {
    believed_after_ms: u64,
    last: Reading,
    /// The reading at which the wall clock last parted from the elapsed time.
    reference: Reading,
    /// Elapsed time of which a tenth was not taken yet.
    rest_ms: u64,
    /// By how much the wall clock may part from the elapsed time without a step.
    slack_ms: u64,
    /// The time of the run at the last reading.
    now: u64,
    horizon: u64,
    /// By how much the horizon is ahead of the wall clock since that was set back.
    horizon_ahead_ms: u64,
    /// The step in effect.
    step: Option<Step>,
}

/// A step in effect.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Whether the wall clock is ahead of the run.
    forward: bool,
    /// The elapsed time when the wall clock was set.
    since_ms: u64,
}

impl Course {
    fn starting(reading: Reading, believed_after_ms: u64) -> Self {
        Course {
            believed_after_ms,
            last: reading,
            reference: reading,
            rest_ms: 0,
            slack_ms: SLACK_MS,
            now: reading.wall_ms,
            horizon: reading.wall_ms,
            horizon_ahead_ms: 0,
            step: None,
        }
    }

    /// Goes on to the next reading.
    fn advance(&mut self, reading: Reading) {
        let before = std::mem::replace(&mut self.last, reading);
        let elapsed = reading.elapsed_ms.saturating_sub(before.elapsed_ms);
        let tenth = self.tenth_of(elapsed);
        self.slack_ms = self.slack_ms.saturating_add(tenth).min(SLACK_MS);
        let parted = self.parted(reading);
        let is_step = parted.unsigned_abs() > self.slack_ms;
        if self.step.is_none() && !is_step {
            self.slack_ms -= parted.unsigned_abs();
            self.now = self.now.max(reading.wall_ms);
        } else {
            let slower = if self.catches_up(before.wall_ms) { tenth } else { 0 };
            self.now = self.now.saturating_add(elapsed - slower);
        }
        let horizon = self.horizon.saturating_add(elapsed);
        if is_step {
            self.horizon_ahead_ms = horizon.saturating_sub(reading.wall_ms);
            self.set_by(parted);
        }
        self.settle();
        let horizon = match self.step {
            Some(Step { forward: true, .. }) => horizon,
            _ => reading.wall_ms.saturating_add(self.horizon_ahead_ms),
        };
        self.horizon = horizon.max(self.now);
    }

    /// Returns for how many milliseconds the wall clock has gone on more than time has passed, since it last did.
    fn parted(&mut self, reading: Reading) -> i64 {
        let Reading { wall_ms, elapsed_ms } = self.reference;
        let passed = reading.elapsed_ms.saturating_sub(elapsed_ms);
        let parted = signed(wall_ms.saturating_add(passed), reading.wall_ms);
        // Both are whole milliseconds. Compared with the last reading, what these leave out would add up.
        if parted.unsigned_abs() <= ROUNDING_MS {
            return 0;
        }
        self.reference = reading;
        parted
    }

    /// A tenth of the elapsed time; what a division leaves counts the next time.
    fn tenth_of(&mut self, elapsed: u64) -> u64 {
        let all = self.rest_ms.saturating_add(elapsed);
        self.rest_ms = all % SLEW;
        all / SLEW
    }

    /// Whether ticks run slower, so that the wall clock catches up.
    fn catches_up(&self, wall_ms: u64) -> bool {
        let is_back = self.step.is_some_and(|step| !step.forward);
        is_back && self.now.saturating_sub(wall_ms) <= SLEW_MAX_MS
    }

    /// The wall clock was set by so many milliseconds.
    fn set_by(&mut self, by_ms: i64) {
        let seconds = by_ms as f64 / 1e3;
        if by_ms > 0 {
            count_steps("forward", 1);
            tracing::warn!(
                seconds,
                "the wall clock was set forward: time goes on by elapsed time until that has lasted"
            );
        } else {
            count_steps("back", 1);
            tracing::warn!(
                seconds,
                "the wall clock was set back: time goes on by elapsed time until it has caught up"
            );
        }
        // One that steps on is not waited for anew: it might never stand.
        if self.step.is_none() {
            self.begin();
        }
    }

    fn begin(&mut self) {
        let Reading { wall_ms, elapsed_ms } = self.last;
        self.step = Some(Step { forward: wall_ms > self.now, since_ms: elapsed_ms });
    }

    /// Ends a step that is over, or begins the opposite one.
    fn settle(&mut self) {
        let Some(step) = self.step else { return };
        let ahead = signed(self.now, self.last.wall_ms);
        let near = ahead.unsigned_abs() <= self.slack_ms;
        let lasting = self.lasting(step);
        let over = match (step.forward, ahead >= 0) {
            (true, _) if near => "the wall clock is back at the elapsed time",
            (false, true) if near => "the wall clock has caught up",
            (true, false) | (false, true) => return self.begin(),
            (true, true) if lasting.as_millis() >= u128::from(self.believed_after_ms) => {
                "the wall clock is believed, and time goes on by it"
            }
            (true, true) | (false, false) => return,
        };
        let (seconds, lasted_seconds) = (ahead as f64 / 1e3, lasting.as_secs_f64());
        tracing::info!(seconds, lasted_seconds, "{over}");
        if near {
            self.slack_ms -= ahead.unsigned_abs();
        }
        self.step = None;
        self.now = self.now.max(self.last.wall_ms);
    }

    fn lasting(&self, step: Step) -> Duration {
        Duration::from_millis(self.last.elapsed_ms.saturating_sub(step.since_ms))
    }

    fn moment(&self, idle_timeout_ms: u64) -> Moment {
        let wall = self.last.wall_ms;
        let unsteady = self.step.map(|step| {
            let (apart_ms, lasting) = (wall.abs_diff(self.now), self.lasting(step));
            let believed_after = Duration::from_millis(self.believed_after_ms);
            match step.forward {
                true => Unsteady::Forward {
                    ahead_ms: apart_ms,
                    lasting,
                    believed_in: believed_after.saturating_sub(lasting),
                },
                false => Unsteady::Back { behind_ms: apart_ms, lasting },
            }
        });
        let undecided_until = match unsteady {
            Some(Unsteady::Forward { .. }) => self.horizon.max(wall),
            _ => self.horizon,
        };
        // The earlier one: a clock that is too late would take the time until records come for silence.
        let silence = self.now.min(wall).saturating_sub(idle_timeout_ms);
        Moment { now: self.now, silence, horizon: self.horizon, undecided_until, unsteady }
    }
}

/// Returns `time - than`, clamped to 64 bits.
fn signed(than: u64, time: u64) -> i64 {
    let apart = i64::try_from(time.abs_diff(than)).unwrap_or(i64::MAX);
    if time < than { -apart } else { apart }
}

fn count_steps(direction: &'static str, steps: u64) {
    counter!("floodmark_clock_steps_total", "direction" => direction).increment(steps);
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
