//! The state of each sink, for metrics and `/readyz`.

use std::time::{Duration, Instant};

use metrics::{counter, gauge};

use crate::kafka::{BufferedProducer, TopicTrouble};
use crate::output::writer::{QUEUE_BYTES, Trouble, WriterState};

/// Time after which a sink that takes nothing is reported.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);

/// The same of a topic, whose brokers take longer; and how old a line may be that waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest time between two looks that counts as observed: a process that was stopped has seen nothing.
const OBSERVED_MAX: Duration = Duration::from_secs(1);

/// The state of a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SinkState {
    pub(super) name: String,
    /// Messages of a topic, or bytes of a stream, that are not delivered.
    pub(super) waiting: u64,
    pub(super) is_stream: bool,
    pub(super) unreachable: Option<Instant>,
    /// Why messages wait although brokers can be reached.
    pub(super) topic: Option<TopicTrouble>,
    /// Time since the sink last took something of its queue.
    pub(super) stands: Duration,
    pub(super) fault: Option<Fault>,
    /// Whether it keeps the ticks of the run waiting, or soon will.
    pub(super) holds_up: bool,
    /// Whether nothing more is written to it.
    pub(super) detached: bool,
}

/// Why what is said does not get out at a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody has opened the FIFO.
    NoReader,
    /// The reader, or the brokers, take nothing.
    Stands,
    /// The reader takes less than comes; the oldest line waits for so long.
    Slow(Duration),
    /// It fails.
    Failed(String),
}

/// For how long a sink has taken nothing of what waits for it, in time that was observed.
#[derive(Clone, Debug, Default)]
pub(super) struct Stood {
    taken: u64,
    looked: Option<Instant>,
    lasting: Duration,
}

impl Stood {
    /// Looks at what was taken so far, and whether something waits to be.
    pub(super) fn look(&mut self, taken: u64, waits: bool) -> Duration {
        let now = Instant::now();
        let passed = self.looked.replace(now).map_or(Duration::ZERO, |looked| now - looked);
        self.lasting = match waits && taken == self.taken {
            true => self.lasting + passed.min(OBSERVED_MAX),
            false => Duration::ZERO,
        };
        self.taken = taken;
        self.lasting
    }

    pub(super) fn lasting(&self) -> Duration {
        self.lasting
    }
}

impl SinkState {
    /// Of a topic.
    pub(super) fn of(buffered: &BufferedProducer) -> Self {
        SinkState {
            name: sink_name(buffered),
            waiting: buffered.waiting(),
            is_stream: false,
            unreachable: buffered.unreachable_since(),
            topic: buffered.trouble(),
            stands: Duration::ZERO,
            fault: None,
            holds_up: !buffered.has_room(),
            detached: false,
        }
    }

    /// Of a topic that has taken nothing for so long.
    pub(super) fn of_topic(buffered: &BufferedProducer, stands: Duration) -> Self {
        let fault = (stands >= PATIENCE).then_some(Fault::Stands);
        SinkState { stands, fault, ..SinkState::of(buffered) }
    }

    /// Of a stream that has taken nothing for so long.
    pub(super) fn of_stream(
        name: &str,
        state: &WriterState,
        stands: Duration,
        detached: bool,
    ) -> Self {
        let waits = state.waiting_since.map(|since| since.elapsed()).unwrap_or_default();
        let fault = match &state.trouble {
            _ if detached => None,
            Some(Trouble::NoReader) => Some(Fault::NoReader),
            Some(Trouble::Failed(error)) => Some(Fault::Failed(error.clone())),
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
            // It has just room again after each line that a slow reader takes.
            holds_up: !detached && state.waiting_bytes >= QUEUE_BYTES / 2,
            detached,
        }
    }

    /// The unit of the queue.
    pub(super) fn unit(&self) -> &'static str {
        if self.is_stream { "bytes" } else { "messages" }
    }

    /// Adds another sink of the same name.
    pub(super) fn add(&mut self, other: &SinkState) {
        self.waiting += other.waiting;
        self.unreachable = self.unreachable.or(other.unreachable);
        self.topic = self.topic.take().or_else(|| other.topic.clone());
        self.holds_up |= other.holds_up;
    }

    /// Sets the gauges.
    pub(super) fn export(self) {
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
pub(super) fn sink_name(buffered: &BufferedProducer) -> String {
    format!("kafka:{}", buffered.address().topic)
}

/// Counts that a sink has failed, or can't be reached any more.
pub(super) fn count_sink_error(name: &str) {
    counter!("floodmark_sink_errors_total", "sink" => name.to_owned()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sink_that_takes_nothing_stands_until_it_takes_something() {
        let mut stood = Stood::default();
        let long_ago = |stood: &mut Stood, millis: u64| {
            stood.looked = Instant::now().checked_sub(Duration::from_millis(millis));
        };
        assert_eq!(stood.look(10, true), Duration::ZERO);
        long_ago(&mut stood, 500);
        assert!(stood.look(10, true) >= Duration::from_millis(500));
        // A process that was stopped for an hour has not seen its reader take nothing.
        long_ago(&mut stood, 3_600_000);
        let lasting = stood.look(10, true);
        assert!(lasting < Duration::from_secs(3), "{lasting:?}");
        assert_eq!(stood.look(11, true), Duration::ZERO);
        long_ago(&mut stood, 500);
        assert_eq!(stood.look(11, false), Duration::ZERO);
    }
}
