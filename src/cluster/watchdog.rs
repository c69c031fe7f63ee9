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
type MonotonicClock = Box<dyn Fn() -> Duration + Send + Sync>;

/// The handle by which the loop of the computation reports to its watchdog, which watches until the last copy is
/// dropped.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<WatchShared>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watch").field("state", &self.shared.state).finish_non_exhaustive()
    }
}

struct WatchShared {
    limit: Duration,
    clock: MonotonicClock,
    state: Mutex<WatchState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct WatchState {
    /// The last completed tick.
    tick: Option<u64>,
    /// Whether input waits.
    waits: bool,
    /// The start of the time in which input waits and no tick completes.
    since: Duration,
}

/// Starts a watchdog: it ends this process with exit code 1 if no tick completes for this time although input
/// waits.
pub fn start(limit: Duration) -> anyhow::Result<Watch> {
    let began = Instant::now();
    let watch = Watch::new(limit, Box::new(move || began.elapsed()));
    let watched = Arc::downgrade(&watch.shared);
    // Short enough to end the process soon after the limit, and to notice that the process was stopped.
    let interval = (limit / 8).min(Duration::from_secs(1));
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || check_until_dropped(&watched, interval))
        .context("starting the watchdog")?;
    Ok(watch)
}

fn check_until_dropped(watched: &Weak<WatchShared>, interval: Duration) {
    loop {
        let asleep = Instant::now();
        std::thread::sleep(interval);
        let Some(shared) = watched.upgrade() else {
            return;
        };
        if asleep.elapsed() > interval * 3 {
            // The whole process, or the machine, was stopped, so the computation is not stuck.
            shared.restart_timer();
        } else if let Some(why) = shared.stalled() {
            Messages::new().fail(Exit::Failed, why);
            logging::flush();
            std::process::exit(Exit::Failed as i32);
        }
    }
}

impl Watch {
    fn new(limit: Duration, clock: MonotonicClock) -> Self {
        Watch { shared: Arc::new(WatchShared { limit, clock, state: Mutex::default() }) }
    }

    /// Reports that the computation has completed this tick.
    pub fn tick_completed(&self, tick: u64) {
        self.shared.change(|state, now| {
            state.tick = Some(tick);
            state.since = now;
        });
    }

    /// Returns the reason if the watchdog is about to end this process.
    pub fn stalled(&self) -> Option<String> {
        self.shared.stalled()
    }

    /// Reports whether the computation has unprocessed input. Time without any does not count.
    pub fn input_waits(&self, waits: bool) {
        self.shared.change(|state, now| {
            if waits && !state.waits {
                state.since = now;
            }
            state.waits = waits;
        });
    }
}

impl WatchShared {
    fn change(&self, change: impl FnOnce(&mut WatchState, Duration)) {
        let now = (self.clock)();
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), now);
    }

    fn restart_timer(&self) {
        self.change(|state, now| state.since = now);
    }

    /// Returns the reason if the process must end.
    fn stalled(&self) -> Option<String> {
        let now = (self.clock)();
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stalled_for = now.saturating_sub(state.since);
        if !state.waits || stalled_for < self.limit {
            return None;
        }
        let tick = match state.tick {
            Some(tick) => format!("no tick after {tick} completed"),
            None => "no tick completed".into(),
        };
        Some(format!(
            "{tick} for {:.1} s while input waits: a worker, or another process, is stuck; this \
             process ends (--stall-timeout {:?})",
            stalled_for.as_secs_f64(),
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
    fn wait_for_input_is_no_stall() {
        let (watch, secs) = watch(60);
        secs.fetch_add(10_000, Ordering::SeqCst);
        assert_eq!(watch.shared.stalled(), None);
        // Only now does input wait.
        watch.input_waits(true);
        secs.fetch_add(59, Ordering::SeqCst);
        watch.input_waits(true);
        assert_eq!(watch.shared.stalled(), None);
        secs.fetch_add(1, Ordering::SeqCst);
        let why = watch.shared.stalled().unwrap();
        assert!(why.starts_with("no tick completed for 60.0 s while input waits"), "{why}");
        watch.input_waits(false);
        assert_eq!(watch.shared.stalled(), None);
    }

    #[test]
    fn completed_tick_restarts_the_timer() {
        let (watch, secs) = watch(60);
        watch.input_waits(true);
        for tick in 0..10 {
            secs.fetch_add(59, Ordering::SeqCst);
            assert_eq!(watch.shared.stalled(), None);
            watch.tick_completed(tick);
        }
        secs.fetch_add(61, Ordering::SeqCst);
        let why = watch.shared.stalled().unwrap();
        assert!(why.starts_with("no tick after 9 completed for 61.0 s"), "{why}");
        watch.shared.restart_timer();
        assert_eq!(watch.shared.stalled(), None);
    }

    #[test]
    fn watchdog_thread_ends_with_the_last_watch() {
        let watch = start(Duration::from_secs(3600)).unwrap();
        let watched = Arc::downgrade(&watch.shared);
        drop(watch.clone());
        assert!(watched.upgrade().is_some());
        drop(watch);
        // A thread that held the watch would hold it for an hour.
        while watched.upgrade().is_some() {
            std::thread::yield_now();
        }
    }
}
