//! The counts of a live capture so far, for metrics and probes while it runs.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use floodmark_dataflows::types::Volume;
use metrics::{counter, gauge};
use serde_json::{Map, json};

use super::outlet::Sent;
use crate::capture::Tally;
use crate::capture::live::Drops;
use crate::http::{Readiness, Subject};
use crate::kafka::TopicTrouble;

/// Records for which there was no room in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Number of records.
    pub records: u64,
    /// Their sum.
    pub volume: Volume,
}

/// Longest time without a check for frames; after it, the capture counts as dead. It checks several times a second.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Counts of a capture, as of a moment ago.
#[derive(Debug)]
pub struct Meter {
    sink: String,
    known: Mutex<Known>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    /// Time of the last check for frames: on a clock that never goes back, and in milliseconds since 1970.
    looked: Option<(Instant, u64)>,
    frames: u64,
    packets: u64,
    drops: Drops,
    lost: Lost,
    sent: Sent,
    unreachable: Option<Instant>,
    /// Time since which the interface is down, if it is.
    down: Option<Instant>,
    trouble: Option<TopicTrouble>,
}

impl Meter {
    /// Creates the meter of a capture that sends to `sink`.
    pub fn new(sink: String) -> Self {
        Meter { sink, known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the packets captured so far, and those dropped.
    pub(super) fn taken(&self, tally: &Tally, drops: Drops, lost: Lost) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut known = self.lock();
        known.looked = Some((Instant::now(), wall.as_millis() as u64));
        (known.frames, known.packets) = (tally.frames, tally.packets);
        (known.drops, known.lost) = (drops, lost);
    }

    /// Notes that the interface has come up or gone down.
    pub(super) fn link(&self, up: bool) {
        self.lock().down = (!up).then(Instant::now);
    }

    /// Notes the records sent so far, and the state of the outlet.
    pub(super) fn sent(
        &self,
        sent: Sent,
        unreachable: Option<Instant>,
        trouble: Option<TopicTrouble>,
    ) {
        let mut known = self.lock();
        (known.sent, known.unreachable, known.trouble) = (sent, unreachable, trouble);
    }
}

impl Subject for Meter {
    fn as_of(&self) -> Option<u64> {
        self.lock().looked.map(|(_, wall)| wall)
    }

    fn dead(&self) -> Option<String> {
        let ago = self.lock().looked?.0.elapsed();
        (ago > LOOK_MAX).then(|| format!("no frames were looked for in {} s", ago.as_secs()))
    }

    fn readiness(&self) -> Readiness {
        let known = self.lock().clone();
        let mut reasons = Vec::new();
        if known.looked.is_none() {
            reasons.push(json!({
                "reason": "not_begun",
                "text": "the capture has not begun yet",
            }));
        }
        if let Some(since) = known.down {
            let seconds = since.elapsed().as_secs();
            reasons.push(json!({
                "reason": "interface_down",
                "seconds": seconds,
                "text": format!("the interface is down for {seconds} s: nothing can be captured"),
            }));
        }
        if let Some(since) = known.unreachable {
            let seconds = since.elapsed().as_secs();
            reasons.push(json!({
                "reason": "sink_unreachable",
                "name": self.sink,
                "seconds": seconds,
                "text": format!("sink \"{}\" can't be reached for {seconds} s", self.sink),
            }));
        }
        if let Some(TopicTrouble { since, missing, why }) = &known.trouble {
            reasons.push(json!({
                "reason": if *missing { "sink_topic_missing" } else { "sink_topic_unfit" },
                "name": self.sink,
                "seconds": since.elapsed().as_secs(),
                "text": format!("messages for sink \"{}\" wait for its topic: {why}", self.sink),
            }));
        }
        let ready = reasons.is_empty();
        Readiness { ready, details: Map::from_iter([("reasons".to_owned(), json!(reasons))]) }
    }

    fn refresh_metrics(&self) {
        let known = self.lock().clone();
        counter!("floodmark_capture_frames_total").absolute(known.frames);
        counter!("floodmark_capture_packets_total").absolute(known.packets);
        let Drops { kernel, interface } = known.drops;
        for (by, frames) in [("kernel", kernel), ("interface", interface)] {
            counter!("floodmark_capture_dropped_frames_total", "by" => by).absolute(frames);
        }
        let up = f64::from(u8::from(known.down.is_none()));
        gauge!("floodmark_capture_interface_up").set(up);
        counter!("floodmark_capture_dropped_records_total").absolute(known.lost.records);
        let sink = self.sink.clone();
        counter!("floodmark_sent_records_total", "sink" => sink.clone())
            .absolute(known.sent.records);
        counter!("floodmark_delivered_messages_total", "sink" => sink.clone())
            .absolute(known.sent.messages);
        let reachable = f64::from(u8::from(known.unreachable.is_none()));
        gauge!("floodmark_sink_reachable", "sink" => sink.clone()).set(reachable);
        let fit = f64::from(u8::from(known.trouble.is_none()));
        gauge!("floodmark_sink_topic_fit", "sink" => sink).set(fit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_it_looks_and_can_send() {
        let meter = Meter::new("kafka:flows".into());
        assert!(!meter.readiness().ready && meter.as_of().is_none() && meter.dead().is_none());
        meter.taken(&Tally::default(), Drops::default(), Lost::default());
        assert!(meter.readiness().ready && meter.as_of().is_some() && meter.dead().is_none());
        meter.sent(Sent::default(), Some(Instant::now()), None);
        let Readiness { ready, details } = meter.readiness();
        assert!(!ready && details["reasons"][0]["name"] == "kafka:flows", "{details:?}");
        let why = "it does not exist".to_owned();
        let trouble = TopicTrouble { since: Instant::now(), missing: true, why };
        meter.sent(Sent::default(), None, Some(trouble));
        let Readiness { ready, details } = meter.readiness();
        let reason = &details["reasons"][0]["reason"];
        assert!(!ready && reason == "sink_topic_missing", "{details:?}");
        meter.sent(Sent::default(), None, None);
        assert!(meter.readiness().ready);
        meter.link(false);
        let Readiness { ready, details } = meter.readiness();
        assert!(!ready && details["reasons"][0]["reason"] == "interface_down", "{details:?}");
        meter.link(true);
        assert!(meter.readiness().ready);
        let long_ago = Instant::now().checked_sub(2 * LOOK_MAX).expect("a clock that runs");
        meter.lock().looked = Some((long_ago, 0));
        assert_eq!(meter.dead().as_deref(), Some("no frames were looked for in 20 s"));
    }
}
