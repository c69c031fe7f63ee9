//! Tests that all records of a source reach a slow or failing outlet.

use std::io::Cursor;

use super::outlet::Sent;
use super::pace::{Pace, Speed};
use super::source::{FileReaderSettings, read_captures};
use super::*;
use crate::base::error::Exit;
use crate::capture::Reader;
use crate::capture::merge::Merge;
use crate::generate::{Workload, write_pcap};
use crate::record::Record;

/// Accepts one batch, then is full for `full_for` polls; a batch in between fails the test.
struct Slow {
    full_for: usize,
    polls: usize,
    fails_after: usize,
    sent: Sent,
    finished: bool,
}

impl Outlet for Slow {
    fn accept(&mut self, records: &[Record]) -> Result<(), WriteError> {
        if records.is_empty() {
            return Ok(());
        }
        assert!(!self.is_full() && !self.finished);
        if self.sent.records as usize >= self.fails_after {
            let error = anyhow::anyhow!("it can't go on");
            return Err(WriteError::Failed(Failure::new(Exit::Unavailable, error)));
        }
        self.polls = self.full_for;
        records.iter().for_each(|record| self.sent.count(record));
        Ok(())
    }

    fn accept_text(&mut self, record: &Record, _: &[u8]) -> Result<(), WriteError> {
        self.accept(std::slice::from_ref(record))
    }

    fn flush(&mut self) -> Result<bool, WriteError> {
        Ok(!self.is_full())
    }

    fn poll(&mut self) -> Result<(), WriteError> {
        self.polls = self.polls.saturating_sub(1);
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn is_full(&self) -> bool {
        self.polls > 0
    }

    fn unreachable_since(&self) -> Option<Instant> {
        self.is_full().then(Instant::now)
    }

    fn finish(&mut self, _: &mut dyn FnMut() -> bool) -> Result<(), WriteError> {
        self.finished = true;
        Ok(())
    }

    fn sent(&self) -> Sent {
        self.sent
    }
}

/// Sends a generated capture of 20,000 packets through a queue of 8,192.
fn send(bucket_ms: Option<u64>, outlet: &mut Slow) -> Result<Ended, Failure> {
    let workload = Workload {
        packets: 20_000,
        pairs: 100,
        start_micros: 1_700_000_000_000_000,
        span_micros: 60_000_000,
        seed: 1,
        ipv6: 0.25,
    };
    let mut bytes = Vec::new();
    write_pcap(workload.packets().expect("a workload"), &mut bytes).expect("memory");
    let reader = Reader::from_read("made", Box::new(Cursor::new(bytes)));
    let (interrupt, messages) = (Interrupt::default(), Messages::new());
    let settings = FileReaderSettings {
        pace: Pace::new(Speed::Max),
        clock: Monotonic::new(),
        one_by_one: false,
        capacity: 8192,
        interrupt: interrupt.clone(),
        messages: messages.clone(),
    };
    let merge = Merge::new(vec![reader], messages.clone());
    let source = read_captures(merge, settings).expect("a thread");
    let folding = Folding::new(bucket_ms);
    Sender { source, folding, outlet, interrupt, messages, meter: None }.run()
}

fn slow(full_for: usize, fails_after: usize) -> Slow {
    Slow { full_for, polls: 0, fails_after, sent: Sent::default(), finished: false }
}

#[test]
fn file_waits_for_a_full_outlet_and_loses_nothing() {
    for bucket_ms in [None, Some(1000)] {
        let mut outlet = slow(20, usize::MAX);
        let Ok(Ended::Sent(end)) = send(bucket_ms, &mut outlet) else { panic!("it ends well") };
        assert!(outlet.finished);
        assert_eq!(end.tally.packets, 20_000);
        assert_eq!((outlet.sent.packets, outlet.sent.bytes), (20_000, end.tally.bytes));
        assert_eq!(bucket_ms.is_none(), outlet.sent.records == 20_000);
    }
}

#[test]
fn failed_outlet_ends_the_sender() {
    let failure = send(None, &mut slow(0, 5000)).expect_err("it fails");
    assert_eq!(failure.exit, Exit::Unavailable);
}
