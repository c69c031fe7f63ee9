//! The state of each sink, for metrics and `/readyz`.

use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use crate::kafka::{BufferedProducer, TopicFault};
use crate::output::writer::{QUEUE_BYTES, WriterFault, WriterState};

/// Time after which a sink that takes nothing is reported.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);

/// Time after which a topic that accepts nothing is reported (brokers take longer than a stream), and age of the
/// oldest waiting line at which a stream is reported as slow.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest time between two checks that counts as observed: a process that was stopped has observed nothing.
const OBSERVED_MAX: Duration = Duration::from_secs(1);

/// The state of a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkState {
    /// The name as the label of a metric.
    pub name: String,
    /// Messages of a topic, or bytes of a stream, that are not delivered.
    pub waiting: u64,
    /// Whether it is a stream of lines.
    pub is_stream: bool,
    /// When its brokers could no longer be reached; `None` if they can.
    pub unreachable: Option<Instant>,
    /// Reason why messages wait although brokers can be reached.
    pub topic: Option<TopicFault>,
    /// Time since the sink last took something of its queue.
    pub stands: Duration,
    /// The reason why it delivers nothing, if it does not.
    pub fault: Option<Fault>,
    /// Whether the sink makes the ticks of the run wait, or soon will.
    pub holds_up: bool,
    /// Whether the run writes nothing more to it.
    pub detached: bool,
}

/// Reason why a sink does not deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody has opened the FIFO.
    NoReader,
    /// The reader, or the brokers, accept nothing.
    Stands,
    /// The reader accepts less than arrives; the oldest line has waited for this long.
    Slow(Duration),
    /// Writing fails, with this error.
    Failed(String),
}

/// Observed time for which a sink has accepted nothing of its queue.
#[derive(Clone, Debug, Default)]
pub(super) struct StallTimer {
    accepted: u64,
    observed: Option<Instant>,
    lasting: Duration,
}

impl StallTimer {
    /// Updates the time by the amount accepted so far and whether anything waits, and returns it.
    pub(super) fn observe(&mut self, accepted: u64, waits: bool) -> Duration {
        let now = Instant::now();
        let passed = self.observed.replace(now).map_or(Duration::ZERO, |before| now - before);
        self.lasting = match waits && accepted == self.accepted {
            true => self.lasting + passed.min(OBSERVED_MAX),
            false => Duration::ZERO,
        };
        self.accepted = accepted;
        self.lasting
    }

    pub(super) fn lasting(&self) -> Duration {
        self.lasting
    }
}

impl SinkState {
    /// Returns the state of a topic.
    pub fn of(buffered: &BufferedProducer) -> Self {
        SinkState {
            name: sink_name(buffered),
            waiting: buffered.waiting(),
            is_stream: false,
            unreachable: buffered.unreachable_since(),
            topic: buffered.topic_fault(),
            stands: Duration::ZERO,
            fault: None,
            holds_up: !buffered.has_capacity(),
            detached: false,
        }
    }

    /// Returns the state of a topic that has accepted nothing for `stands`.
    pub(super) fn of_topic(buffered: &BufferedProducer, stands: Duration) -> Self {
        let fault = (stands >= PATIENCE).then_some(Fault::Stands);
        SinkState { stands, fault, ..SinkState::of(buffered) }
    }

    /// Returns the state of a topic that gets its messages in transactions.
    pub(super) fn of_transactions(
        name: String,
        waiting: u64,
        unreachable: Option<Instant>,
        topic: Option<TopicFault>,
        stands: Duration,
        holds_up: bool,
    ) -> Self {
        let fault = (stands >= PATIENCE).then_some(Fault::Stands);
        let state = SinkState { name, waiting, unreachable, topic, ..SinkState::default() };
        SinkState { stands, fault, holds_up, ..state }
    }

    /// Returns the state of a stream that has accepted nothing for `stands`.
    pub(super) fn of_stream(
        name: &str,
        state: &WriterState,
        stands: Duration,
        detached: bool,
    ) -> Self {
        let waits = state.waiting_since.map(|since| since.elapsed()).unwrap_or_default();
        let fault = match &state.fault {
            _ if detached => None,
            Some(WriterFault::NoReader) => Some(Fault::NoReader),
            Some(WriterFault::Failed(error)) => Some(Fault::Failed(error.clone())),
            _ if stands >= STREAM_PATIENCE => Some(Fault::Stands),
            _ if waits >= PATIENCE => Some(Fault::Slow(waits)),
            _ => None,
        };
        SinkState {
            name: name.to_owned(),
            waiting: state.waiting_bytes as u64,
            is_stream: true,
            unreachable: None,
            topic: None,
            stands: if detached { Duration::ZERO } else { stands },
            fault,
            // A slow reader frees capacity for one more line each time, so a flag for a full queue would flicker.
            holds_up: !detached && state.waiting_bytes >= QUEUE_BYTES / 2,
            detached,
        }
    }

    /// The unit of the queue.
    pub fn unit(&self) -> &'static str {
        if self.is_stream { "bytes" } else { "messages" }
    }

    /// Adds another sink of the same name.
    pub fn add(&mut self, other: &SinkState) {
        self.waiting += other.waiting;
        self.unreachable = self.unreachable.or(other.unreachable);
        self.topic = self.topic.take().or_else(|| other.topic.clone());
        self.holds_up |= other.holds_up;
    }

    /// Sets the gauges.
    pub fn export(self) {
        let flag = |on: bool| f64::from(u8::from(on));
        let SinkState { name, waiting, unreachable, stands, .. } = self;
        gauge!("floodmark_sink_blocked_seconds", "sink" => name.clone()).set(stands.as_secs_f64());
        if self.is_stream {
            gauge!("floodmark_sink_detached", "sink" => name.clone()).set(flag(self.detached));
            gauge!("floodmark_sink_waiting_bytes", "sink" => name).set(waiting as f64);
        } else {
            let reachable = flag(unreachable.is_none());
            gauge!("floodmark_sink_reachable", "sink" => name.clone()).set(reachable);
            let fit = flag(self.topic.is_none());
            gauge!("floodmark_sink_topic_fit", "sink" => name.clone()).set(fit);
            gauge!("floodmark_sink_waiting_messages", "sink" => name).set(waiting as f64);
        }
    }
}

/// A topic as the label of a sink. Brokers are left out: there may be passwords in their names.
pub fn sink_name(buffered: &BufferedProducer) -> String {
    format!("kafka:{}", buffered.address().topic)
}

/// Counts that a sink has failed, or can't be reached any more.
pub fn count_sink_error(name: &str) {
    counter!("floodmark_sink_errors_total", "sink" => name.to_owned()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sink_that_accepts_nothing_is_stalled_until_it_accepts_something() {
        let mut stall = StallTimer::default();
        let long_ago = |stall: &mut StallTimer, millis: u64| {
            stall.observed = Instant::now().checked_sub(Duration::from_millis(millis));
        };
        assert_eq!(stall.observe(10, true), Duration::ZERO);
        long_ago(&mut stall, 500);
        assert!(stall.observe(10, true) >= Duration::from_millis(500));
        // A process that was stopped for an hour has not seen its reader take nothing.
        long_ago(&mut stall, 3_600_000);
        let lasting = stall.observe(10, true);
        assert!(lasting < Duration::from_secs(3), "{lasting:?}");
        assert_eq!(stall.observe(11, true), Duration::ZERO);
        long_ago(&mut stall, 500);
        assert_eq!(stall.observe(11, false), Duration::ZERO);
    }
}
