//! Messages to people, a progress bar among them, and the interrupt key.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;

use anyhow::Context;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::base::date::format_ms;
use crate::base::error::Exit;
use crate::base::logging;
use crate::base::shown;

/// The size of some work, if it is known, and its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Bytes of files.
    Bytes(Option<u64>),
    /// Shares of the whole, whose number says nothing to people.
    Shares(Option<u64>),
}

/// Standard error: lines, and a progress bar below them if it is a terminal.
#[derive(Clone, Debug)]
pub struct Messages {
    bar: ProgressBar,
    is_silent: bool,
}

impl Messages {
    /// Returns messages without a bar.
    pub fn new() -> Self {
        Messages { bar: ProgressBar::hidden(), is_silent: false }
    }

    /// Returns messages that nobody gets.
    pub fn to_nobody() -> Self {
        Messages { bar: ProgressBar::hidden(), is_silent: true }
    }

    /// Returns messages above a progress bar, if standard error is a terminal. Without a size, as for a pipe, the bar
    /// shows how much was read.
    pub fn with_progress(work: Work) -> Self {
        if !io::stderr().is_terminal() {
            return Messages::new();
        }
        let (Work::Bytes(size) | Work::Shares(size)) = work;
        let bar = size.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let style = match work {
            Work::Bytes(Some(_)) => "{bar:40} {percent}% {bytes}/{total_bytes} {eta} {msg}",
            Work::Bytes(None) => "{spinner} {bytes} {bytes_per_sec} {msg}",
            Work::Shares(Some(_)) => "{bar:40} {percent}% {eta} {msg}",
            Work::Shares(None) => "{spinner} {msg}",
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well formed"));
        Messages { bar, is_silent: false }
    }

    /// Moves the bar.
    pub fn progress(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Moves the bar, and shows the number of records that were read and the event time that they have reached.
    pub fn progress_to(&self, done: u64, records: u64, event_time_ms: u64) {
        self.bar.set_position(done);
        if !self.bar.is_hidden() {
            let (records, time) = (HumanCount(records), format_ms(event_time_ms));
            self.bar.set_message(format!("{records} records, {time}"));
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Reports a line to people: in the log, if there is one.
    pub fn info(&self, line: impl Display) {
        if self.is_silent {
            return;
        }
        if logging::started().is_some() {
            tracing::info!("{line}");
            return;
        }
        self.print(line);
    }

    /// Reports a problem to people: as a warning in the log, if there is one.
    pub fn warn(&self, line: impl Display) {
        if self.is_silent {
            return;
        }
        if logging::started().is_some() {
            tracing::warn!("{line}");
            return;
        }
        self.print(line);
    }

    /// Reports the reason for the exit code of this process: as an error in the log, if there is one.
    pub fn fail(&self, exit: Exit, line: impl Display) {
        if logging::started().is_some() {
            tracing::error!(exit_code = exit as i32, "{line}");
            return;
        }
        self.print(line);
    }

    fn print(&self, line: impl Display) {
        // If standard error can't be written, there is nowhere to report that.
        self.bar.suspend(|| drop(writeln!(io::stderr(), "floodmark: {}", shown::line(line))));
    }
}

impl Default for Messages {
    fn default() -> Self {
        Messages::new()
    }
}

/// A flag that is set when the interrupt key is pressed, or the process gets SIGTERM.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    pressed: Arc<AtomicBool>,
    waiting: Arc<Mutex<Option<Thread>>>,
}

/// The interrupt that listens for the key.
static LISTENING: OnceLock<Interrupt> = OnceLock::new();

/// Treats the key as pressed, since another process has received the signal. If nothing listens yet, there is
/// no work to shut down in good order, and this process exits, as the signal would end it.
///
/// This call replaces a second signal: at a terminal both processes get one, and two would end this process at
/// once.
pub fn pass_on_interrupt() {
    match LISTENING.get() {
        Some(interrupt) => interrupt.press(),
        None => std::process::exit(Exit::Interrupted as i32),
    }
}

impl Interrupt {
    /// Listens for the key from now on. Before this call, and at the second press, the key ends the process at
    /// once. So listen once there is work to shut down in good order, and not before services are reached.
    pub fn listen() -> anyhow::Result<Self> {
        let interrupt = LISTENING.get_or_init(Interrupt::default).clone();
        let handler = interrupt.clone();
        let signalled = AtomicBool::new(false);
        ctrlc::set_handler(move || {
            if signalled.swap(true, Ordering::SeqCst) {
                std::process::exit(Exit::Interrupted as i32);
            }
            handler.press();
        })
        .context("listening for the interrupt key")?;
        Ok(interrupt)
    }

    /// Treats the key as pressed, for a caller that ends the work of another thread.
    pub fn press(&self) {
        self.pressed.store(true, Ordering::SeqCst);
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = &*waiting {
            thread.unpark();
        }
    }

    /// Ignores the key, and leaves it to another process, which will end this one in good order.
    pub fn ignore() -> anyhow::Result<()> {
        ctrlc::set_handler(|| {}).context("ignoring the interrupt key")
    }

    /// Wakes this thread when the key is pressed.
    pub fn wake_current_thread(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
    }

    /// Whether the key was pressed.
    pub fn pressed(&self) -> bool {
        self.pressed.load(Ordering::SeqCst)
    }
}
