//! `floodmark capture`, run as a user runs it.
//!
//! - `files`: capture files to standard output; the sums equal those of a replay.
//! - `exits`: exit codes and messages.
//! - `pipes`: input that stays open.
//! - `topics`: records to a topic, also through outages.
//! - `wire`: a live interface, between network namespaces.

mod exits;
mod files;
mod pipes;
mod topics;
mod wire;

use std::collections::BTreeMap;

use floodmark::record::{Decoder, Message, Observation, Options, Record};
use floodmark_dataflows::time::Windows;
use floodmark_dataflows::types::{Pair, Volume};

/// Returns the records in lines of JSON.
pub(crate) fn records(lines: &str) -> Vec<Record> {
    let mut decoder = Decoder::new(Options::default());
    let mut records = Vec::new();
    for line in lines.lines() {
        let message = Message { key: None, payload: Some(line.as_bytes()), timestamp_ms: None };
        decode(&mut decoder, &message, &mut records);
    }
    records
}

/// Appends the records of a message, which must be valid.
pub(crate) fn decode(decoder: &mut Decoder, message: &Message<'_>, records: &mut Vec<Record>) {
    let decoded = decoder.decode(message, &mut |read| match read {
        Observation::Record(record) => records.push(record),
        other => panic!("{other:?} in {message:?}"),
    });
    decoded.unwrap_or_else(|reason| panic!("{reason} in {message:?}"));
}

/// Returns the sums by window of five minutes and pair.
pub(crate) fn sums(records: &[Record]) -> BTreeMap<(u64, Pair), Volume> {
    let mut sums: BTreeMap<(u64, Pair), Volume> = BTreeMap::new();
    for record in records {
        let window = Windows::default().of(record.time_ms).expect("a window");
        let sum = sums.entry((window.0, record.pair)).or_default();
        *sum = sum.checked_add(record.volume).expect("sums stay small");
    }
    sums
}

/// Returns the sums in a file of expected sums.
pub(crate) fn expected(csv: &str) -> BTreeMap<(u64, Pair), Volume> {
    let line = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let address = |at: usize| cells[at].parse().expect("an address");
        let number = |at: usize| cells[at].parse().expect("a number");
        let pair = Pair::new(address(1), address(2)).expect("one family");
        ((cells[0].parse().expect("a number"), pair), Volume::new(number(3), number(4)))
    };
    csv.lines().skip(1).map(line).collect()
}
