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
use crate::kafka::TopicFault;

/// Records dropped at a full queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedRecords {
    /// Number of records.
    pub records: u64,
    /// The sum of their volumes.
    pub volume: Volume,
}

/// Longest time without a check for frames before the capture counts as dead. Checks run several times a second.
const CHECK_AGE_MAX: Duration = Duration::from_secs(10);

/// The latest counts of a capture.
#[derive(Debug)]
pub struct Meter {
    sink: String,
    status: Mutex<CaptureStatus>,
}

#[derive(Clone, Debug, Default)]
struct CaptureStatus {
    /// Time of the last check for frames: on a clock that never goes back, and in milliseconds since 1970.
    checked: Option<(Instant, u64)>,
    frames: u64,
    packets: u64,
    drops: Drops,
    lost: DroppedRecords,
    sent: Sent,
    unreachable: Option<Instant>,
    /// Time since which the interface is down, if it is.
    down: Option<Instant>,
    topic_fault: Option<TopicFault>,
}

impl Meter {
    /// Creates the meter of a capture that sends to `sink`.
    pub fn new(sink: String) -> Self {
        Meter { sink, status: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, CaptureStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the counts of captured and dropped packets.
    pub(super) fn set_captured(&self, tally: &Tally, drops: Drops, lost: DroppedRecords) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut status = self.lock();
        status.checked = Some((Instant::now(), wall.as_millis() as u64));
        (status.frames, status.packets) = (tally.frames, tally.packets);
        (status.drops, status.lost) = (drops, lost);
    }

    /// Notes that the interface has come up or gone down.
    pub(super) fn set_link(&self, up: bool) {
        self.lock().down = (!up).then(Instant::now);
    }

    /// Sets the counts of sent records, and the state of the outlet.
    pub(super) fn set_sent(
        &self,
        sent: Sent,
        unreachable: Option<Instant>,
        topic_fault: Option<TopicFault>,
    ) {
        let mut status = self.lock();
        (status.sent, status.unreachable, status.topic_fault) = (sent, unreachable, topic_fault);
    }
}

impl Subject for Meter {
    fn as_of(&self) -> Option<u64> {
        self.lock().checked.map(|(_, wall)| wall)
    }

    fn dead(&self) -> Option<String> {
        let ago = self.lock().checked?.0.elapsed();
        (ago > CHECK_AGE_MAX).then(|| format!("no check for frames in {} s", ago.as_secs()))
    }

    fn readiness(&self) -> Readiness {
        let status = self.lock().clone();
        let mut reasons = Vec::new();
        if status.checked.is_none() {
            reasons.push(json!({
                "reason": "not_begun",
                "text": "the capture has not started yet",
            }));
        }
        if let Some(since) = status.down {
            let seconds = since.elapsed().as_secs();
            reasons.push(json!({
                "reason": "interface_down",
                "seconds": seconds,
                "text": format!("the interface is down for {seconds} s: nothing can be captured"),
            }));
        }
        if let Some(since) = status.unreachable {
            let seconds = since.elapsed().as_secs();
            reasons.push(json!({
                "reason": "sink_unreachable",
                "name": self.sink,
                "seconds": seconds,
                "text": format!("sink \"{}\" has been unreachable for {seconds} s", self.sink),
            }));
        }
        if let Some(TopicFault { since, missing, why }) = &status.topic_fault {
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
        let status = self.lock().clone();
        counter!("floodmark_capture_frames_total").absolute(status.frames);
        counter!("floodmark_capture_packets_total").absolute(status.packets);
        let Drops { kernel, interface } = status.drops;
        for (by, frames) in [("kernel", kernel), ("interface", interface)] {
            counter!("floodmark_capture_dropped_frames_total", "by" => by).absolute(frames);
        }
        let up = f64::from(u8::from(status.down.is_none()));
        gauge!("floodmark_capture_interface_up").set(up);
        counter!("floodmark_capture_dropped_records_total").absolute(status.lost.records);
        let sink = self.sink.clone();
        counter!("floodmark_sent_records_total", "sink" => sink.clone())
            .absolute(status.sent.records);
        counter!("floodmark_delivered_messages_total", "sink" => sink.clone())
            .absolute(status.sent.messages);
        let reachable = f64::from(u8::from(status.unreachable.is_none()));
        gauge!("floodmark_sink_reachable", "sink" => sink.clone()).set(reachable);
        let fit = f64::from(u8::from(status.topic_fault.is_none()));
        gauge!("floodmark_sink_topic_fit", "sink" => sink).set(fit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meter_is_ready_while_frames_are_checked_and_the_sink_accepts() {
        let meter = Meter::new("kafka:flows".into());
        assert!(!meter.readiness().ready && meter.as_of().is_none() && meter.dead().is_none());
        meter.set_captured(&Tally::default(), Drops::default(), DroppedRecords::default());
        assert!(meter.readiness().ready && meter.as_of().is_some() && meter.dead().is_none());
        meter.set_sent(Sent::default(), Some(Instant::now()), None);
        let Readiness { ready, details } = meter.readiness();
        assert!(!ready && details["reasons"][0]["name"] == "kafka:flows", "{details:?}");
        let why = "it does not exist".to_owned();
        let topic_fault = TopicFault { since: Instant::now(), missing: true, why };
        meter.set_sent(Sent::default(), None, Some(topic_fault));
        let Readiness { ready, details } = meter.readiness();
        let reason = &details["reasons"][0]["reason"];
        assert!(!ready && reason == "sink_topic_missing", "{details:?}");
        meter.set_sent(Sent::default(), None, None);
        assert!(meter.readiness().ready);
        meter.set_link(false);
        let Readiness { ready, details } = meter.readiness();
        assert!(!ready && details["reasons"][0]["reason"] == "interface_down", "{details:?}");
        meter.set_link(true);
        assert!(meter.readiness().ready);
        let long_ago = Instant::now().checked_sub(2 * CHECK_AGE_MAX).expect("a clock that runs");
        meter.lock().checked = Some((long_ago, 0));
        assert_eq!(meter.dead().as_deref(), Some("no check for frames in 20 s"));
    }
}
