//! Ends a process whose computation stands still.
//!
//! A worker that spins, or another machine that was stopped, leaves everyone waiting without a lost connection or a
//! message. The visible sign is the tick: it does not move although input waits.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::base::error::Exit;
use crate::base::logging;
use crate::base::terminal::Messages;

/// A monotonic clock: returns the time since some fixed moment.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// The handle by which the loop of the computation reports to its watchdog, which watches until the last copy is
/// dropped.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watch").field("state", &self.shared.state).finish_non_exhaustive()
    }
}

struct Shared {
    limit: Duration,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The last one that is done.
    tick: Option<u64>,
    waits: bool,
    /// Since when the tick could have moved and did not.
    since: Duration,
}

/// Watches from now on: a process whose tick stands still for this long, while input waits, ends with
/// exit code 1.
pub fn start(limit: Duration) -> anyhow::Result<Watch> {
    let began = Instant::now();
    let watch = Watch::new(limit, Box::new(move || began.elapsed()));
    let watched = Arc::downgrade(&watch.shared);
    // Often enough to end it soon after the limit, and to know a late awakening.
    let interval = (limit / 8).min(Duration::from_secs(1));
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || look_on(&watched, interval))
        .context("starting the watchdog")?;
    Ok(watch)
}

fn look_on(watched: &Weak<Shared>, interval: Duration) {
    loop {
        let asleep = Instant::now();
        std::thread::sleep(interval);
        let Some(shared) = watched.upgrade() else {
            return;
        };
        if asleep.elapsed() > interval * 3 {
            // This whole process was stopped, or the machine: that is not the computation's fault.
            shared.begin_again();
        } else if let Some(why) = shared.stalled() {
            Messages::new().fail(Exit::Failed, why);
            logging::flush();
            std::process::exit(Exit::Failed as i32);
        }
    }
}

impl Watch {
    fn new(limit: Duration, clock: Clock) -> Self {
        Watch { shared: Arc::new(Shared { limit, clock, state: Mutex::default() }) }
    }

    /// The computation is done with this tick.
    pub fn moved(&self, tick: u64) {
        self.shared.change(|state, now| {
            state.tick = Some(tick);
            state.since = now;
        });
    }

    /// Why this process is about to be ended, if it is.
    pub fn stalled(&self) -> Option<String> {
        self.shared.stalled()
    }

    /// Whether there is input that the computation has not done. The time in which there is none does
    /// not count.
    pub fn input_waits(&self, waits: bool) {
        self.shared.change(|state, now| {
            if waits && !state.waits {
                state.since = now;
            }
            state.waits = waits;
        });
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State, Duration)) {
        let now = (self.clock)();
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), now);
    }

    fn begin_again(&self) {
        self.change(|state, now| state.since = now);
    }

    /// Why the process must end.
    fn stalled(&self) -> Option<String> {
        let now = (self.clock)();
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stood = now.saturating_sub(state.since);
        if !state.waits || stood < self.limit {
            return None;
        }
        let tick = match state.tick {
            Some(tick) => format!("nothing after tick {tick} was done"),
            None => "no tick was done".into(),
        };
        Some(format!(
            "{tick} for {:.1} s while input waits: a worker, or another process, has got stuck; this \
             process ends (--stall-timeout {:?})",
            stood.as_secs_f64(),
            self.limit
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A watch whose clock shows these seconds.
    fn watch(limit_secs: u64) -> (Watch, Arc<AtomicU64>) {
        let secs = Arc::new(AtomicU64::new(1000));
        let shown = secs.clone();
        let clock = Box::new(move || Duration::from_secs(shown.load(Ordering::SeqCst)));
        (Watch::new(Duration::from_secs(limit_secs), clock), secs)
    }

    #[test]
    fn waiting_for_input_is_no_stall() {
        let (watch, secs) = watch(60);
        secs.fetch_add(10_000, Ordering::SeqCst);
        assert_eq!(watch.shared.stalled(), None);
        // Only now does it wait.
        watch.input_waits(true);
        secs.fetch_add(59, Ordering::SeqCst);
        watch.input_waits(true);
        assert_eq!(watch.shared.stalled(), None);
        secs.fetch_add(1, Ordering::SeqCst);
        let why = watch.shared.stalled().unwrap();
        assert!(why.starts_with("no tick was done for 60.0 s while input waits"), "{why}");
        watch.input_waits(false);
        assert_eq!(watch.shared.stalled(), None);
    }

    #[test]
    fn each_tick_begins_the_time_anew() {
        let (watch, secs) = watch(60);
        watch.input_waits(true);
        for tick in 0..10 {
            secs.fetch_add(59, Ordering::SeqCst);
            assert_eq!(watch.shared.stalled(), None);
            watch.moved(tick);
        }
        secs.fetch_add(61, Ordering::SeqCst);
        let why = watch.shared.stalled().unwrap();
        assert!(why.starts_with("nothing after tick 9 was done for 61.0 s"), "{why}");
        watch.shared.begin_again();
        assert_eq!(watch.shared.stalled(), None);
    }

    #[test]
    fn its_thread_ends_with_the_last_copy() {
        let watch = start(Duration::from_secs(3600)).unwrap();
        let watched = Arc::downgrade(&watch.shared);
        drop(watch.clone());
        assert!(watched.upgrade().is_some());
        drop(watch);
        // A thread that kept it would keep it for an hour.
        while watched.upgrade().is_some() {
            std::thread::yield_now();
        }
    }
}
