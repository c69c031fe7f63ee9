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
    heard: AtomicU64,
    /// Whether a response of a broker would change `health`: read for every message, without the lock.
    troubled: AtomicBool,
}

#[derive(Debug, Default)]
struct Health {
    unreachable_since: Option<Instant>,
    last_error: Option<String>,
    refused: Option<String>,
}

/// A kind of lines of the log.
#[derive(Debug)]
struct Line {
    said: Instant,
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

    /// The last error of a connection.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.health).last_error.clone()
    }

    /// Why credentials were refused, ours by a broker or a broker's by us, if they have been and no
    /// broker was reached since.
    pub fn refused(&self) -> Option<String> {
        lock(&self.health).refused.clone()
    }

    /// Notes that a broker has responded.
    pub fn reached(&self) {
        if !self.troubled.load(Ordering::Relaxed) {
            return;
        }
        let mut health = lock(&self.health);
        self.troubled.store(false, Ordering::Relaxed);
        health.unreachable_since = None;
        health.refused = None;
    }

    /// Returns the number of events so far. Its owner polls until this no longer grows.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    pub(super) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the line to log now, if any: with the number of lines of its kind that were left out before.
    fn worth_a_line(&self, level: RDKafkaLogLevel, kind: &str, text: &str) -> Option<String> {
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
            lines.insert(kind.to_owned(), Line { said: now, left_out: 0 });
            return Some(shown);
        };
        if now.duration_since(line.said) < LOG_INTERVAL {
            line.left_out += 1;
            return None;
        }
        line.said = now;
        match std::mem::take(&mut line.left_out) {
            0 => {}
            more => write!(shown, " (and {more} more of this kind)").expect("a string takes all"),
        }
        Some(shown)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, kind: &str, text: &str) {
        self.hear();
        let Some(line) = self.worth_a_line(level, kind, text) else { return };
        match level {
            // An option for a consumer does nothing in a producer: a command has both.
            _ if kind == "CONFWARN" => tracing::info!(target: "librdkafka", "{line}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            // An error of a connection is one that is retried.
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", "{line}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", "{line}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", "{line}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.hear();
        // An outage can end without any message being sent; then only the statistics show it.
        if statistics.brokers.values().any(|broker| broker.state == "UP") {
            self.reached();
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hear();
        // librdkafka has logged the same error already.
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
        let mut health = lock(&self.health);
        self.troubled.store(true, Ordering::Relaxed);
        let refused = match error.rdkafka_error_code() {
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
        if refused {
            health.refused = Some(reason.to_owned());
        }
        health.last_error = Some(reason.to_owned());
    }
}

impl ConsumerContext for Context {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_kind_are_few() {
        let context = Context::new();
        let say = |kind: &str, text: &str| context.worth_a_line(RDKafkaLogLevel::Error, kind, text);
        assert_eq!(say("FAIL", "refused").as_deref(), Some("FAIL: refused"));
        assert_eq!(say("FAIL", "refused again"), None);
        assert_eq!(say("GETPID", "other").as_deref(), Some("GETPID: other"));
        let earlier = Instant::now().checked_sub(LOG_INTERVAL).expect("a clock that runs");
        lock(&context.lines).get_mut("FAIL").expect("a kind").said = earlier;
        assert_eq!(say("FAIL", "x").as_deref(), Some("FAIL: x (and 1 more of this kind)"));
        for number in 0..10 * LOG_KINDS_MAX {
            assert!(say(&format!("kind {number}"), "").is_some());
        }
        assert!(lock(&context.lines).len() <= LOG_KINDS_MAX);
        let debug = |text: &str| context.worth_a_line(RDKafkaLogLevel::Debug, "FETCH", text);
        assert!(debug("1").is_some() && debug("2").is_some());
    }

    #[test]
    fn an_outage_begins_once_and_ends() {
        let context = Context::new();
        let say = |code| context.error(KafkaError::Global(code), "why");
        say(RDKafkaErrorCode::BrokerTransportFailure);
        assert_eq!(context.unreachable_since(), None);
        assert_eq!(context.last_error().as_deref(), Some("why"));
        say(RDKafkaErrorCode::AllBrokersDown);
        let since = context.unreachable_since();
        say(RDKafkaErrorCode::AllBrokersDown);
        assert!(since.is_some() && since == context.unreachable_since());
        say(RDKafkaErrorCode::Authentication);
        assert_eq!(context.refused().as_deref(), Some("why"));
        context.reached();
        assert_eq!((context.unreachable_since(), context.refused()), (None, None));
    }
}
