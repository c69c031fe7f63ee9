//! Events of a librdkafka client: lines for the log, and whether brokers can be reached.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

/// Least time between two logged lines of one kind: a client whose broker is away logs several a second.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Kinds of lines that are remembered; librdkafka has a few dozen.
const LOG_KINDS_MAX: usize = 64;

/// Receives the events of a client of librdkafka. They arrive when the client's owner polls it.
#[derive(Debug, Default)]
pub struct Context {
    health: Mutex<Health>,
    lines: Mutex<HashMap<String, Line>>,
    events: AtomicU64,
    /// Whether a response of a broker would change `health`: read for every message, without the lock.
    has_errors: AtomicBool,
}

#[derive(Debug, Default)]
struct Health {
    unreachable_since: Option<Instant>,
    last_error: Option<String>,
    credentials_error: Option<String>,
}

/// A kind of lines of the log.
#[derive(Debug)]
struct Line {
    logged_at: Instant,
    left_out: u64,
}

/// Locks, also after a panic of another thread: every update leaves the data whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    /// Creates a context without events.
    pub fn new() -> Self {
        Context::default()
    }

    /// Returns the time since which no broker can be reached, if none can.
    pub fn unreachable_since(&self) -> Option<Instant> {
        lock(&self.health).unreachable_since
    }

    /// Returns the last connection error.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.health).last_error.clone()
    }

    /// Returns the reason why credentials were rejected, ours by a broker or a broker's by us, unless a broker was
    /// reached since.
    pub fn credentials_error(&self) -> Option<String> {
        lock(&self.health).credentials_error.clone()
    }

    /// Notes that a broker has responded.
    pub fn reached(&self) {
        if !self.has_errors.load(Ordering::Relaxed) {
            return;
        }
        let mut health = lock(&self.health);
        self.has_errors.store(false, Ordering::Relaxed);
        health.unreachable_since = None;
        health.credentials_error = None;
    }

    /// Returns the number of events so far. The owner of the client polls until this number no longer grows.
    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    pub(super) fn count_event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the line to log now, if any: with the number of lines of its kind that were left out before.
    fn line_to_log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) -> Option<String> {
        let mut shown = format!("{kind}: {text}");
        if matches!(level, RDKafkaLogLevel::Debug) {
            // The user has requested debug lines, so none is left out.
            return Some(shown);
        }
        let now = Instant::now();
        let mut lines = lock(&self.lines);
        let Some(line) = lines.get_mut(kind) else {
            if lines.len() >= LOG_KINDS_MAX {
                lines.clear();
            }
            lines.insert(kind.to_owned(), Line { logged_at: now, left_out: 0 });
            return Some(shown);
        };
        if now.duration_since(line.logged_at) < LOG_INTERVAL {
            line.left_out += 1;
            return None;
        }
        line.logged_at = now;
        match std::mem::take(&mut line.left_out) {
            0 => {}
            more => write!(shown, " (and {more} more of this kind)").expect("a string takes all"),
        }
        Some(shown)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) {
        self.count_event();
        let Some(line) = self.line_to_log(level, kind, text) else { return };
        match level {
            // A warning about an option of consumers in a producer, or the reverse: a command has both clients.
            _ if kind == "CONFWARN" => tracing::info!(target: "librdkafka", "{line}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            // The client retries after an error of a connection.
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", "{line}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", "{line}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", "{line}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.count_event();
        // An outage can end without any message being sent; then only the statistics show it.
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.reached();
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.count_event();
        // librdkafka has logged the same error already.
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
        let mut health = lock(&self.health);
        self.has_errors.store(true, Ordering::Relaxed);
        let credentials_error = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                health.unreachable_since.get_or_insert_with(Instant::now);
                return;
            }
            Some(
                RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::SSL,
            ) => true,
            // A broker that rejects our certificate, or requires one, reports that as a TLS alert.
            _ => reason.contains("SSL alert number"),
        };
        if credentials_error {
            health.credentials_error = Some(reason.to_owned());
        }
        health.last_error = Some(reason.to_owned());
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_of_one_kind_are_limited() {
        let context = Context::new();
        let line = |kind: &str, text: &str| context.line_to_log(RDKafkaLogLevel::Error, kind, text);
        assert_eq!(line("FAIL", "refused").as_deref(), Some("FAIL: refused"));
        assert_eq!(line("FAIL", "refused again"), None);
        assert_eq!(line("GETPID", "other").as_deref(), Some("GETPID: other"));
        let earlier = Instant::now().checked_sub(LOG_INTERVAL).expect("a clock that runs");
        lock(&context.lines).get_mut("FAIL").expect("a kind").logged_at = earlier;
        assert_eq!(line("FAIL", "x").as_deref(), Some("FAIL: x (and 1 more of this kind)"));
        for number in 0..10 * LOG_KINDS_MAX {
            assert!(line(&format!("kind {number}"), "").is_some());
        }
        assert!(lock(&context.lines).len() <= LOG_KINDS_MAX);
        let debug = |text: &str| context.line_to_log(RDKafkaLogLevel::Debug, "FETCH", text);
        assert!(debug("1").is_some() && debug("2").is_some());
    }

    #[test]
    fn outage_starts_once_and_ends_with_a_response() {
        let context = Context::new();
        let fail = |code| context.error(KafkaError::Global(code), "why");
        fail(RDKafkaErrorCode::BrokerTransportFailure);
        assert_eq!(context.unreachable_since(), None);
        assert_eq!(context.last_error().as_deref(), Some("why"));
        fail(RDKafkaErrorCode::AllBrokersDown);
        let since = context.unreachable_since();
        fail(RDKafkaErrorCode::AllBrokersDown);
        assert!(since.is_some() && since == context.unreachable_since());
        fail(RDKafkaErrorCode::Authentication);
        assert_eq!(context.credentials_error().as_deref(), Some("why"));
        context.reached();
        assert_eq!((context.unreachable_since(), context.credentials_error()), (None, None));
    }
}
