//! The topic of the records of ticks: what a run needs to continue after its last committed tick.
//!
//! A message holds the records of some ticks, as lines, or a part of them. Its key is `RUN/FIRST-LAST/PART`. A run that
//! starts to publish claims the topics first, by a message without records, as if of tick 0; it stays.

use std::collections::{BTreeMap, BTreeSet};

use super::{Address, ClientOptions, ReadTo, StoredMessage, read_to_end};
use crate::base::error::Failure;

/// Greatest size of a part: by default a topic accepts 1 MB.
const PART_BYTES: usize = 900_000;

/// The end of the key of a claim.
const CLAIM: &str = "/0-0/0";

/// The records of one owner in the topic.
#[derive(Debug)]
pub struct TickLog {
    address: Address,
    run: String,
    /// The ranges of ticks that have messages, with the number of parts of each: last tick and first tick.
    ranges: BTreeSet<(u64, u64, usize)>,
    /// Whether records of the same group and another state come after the last one.
    is_followed: bool,
    /// Whether records or claims of the same group and another state come after the last one.
    is_replaced: bool,
}

/// Whether messages of the same group and another state come after the last one of this state.
#[derive(Default)]
struct Following {
    has_own: bool,
    is_followed: bool,
}

impl Following {
    fn note(&mut self, is_own: bool, is_tombstone: bool) {
        self.has_own |= is_own;
        if !is_tombstone {
            self.is_followed = self.has_own && !is_own;
        }
    }
}

/// The parts of the records of a range of ticks, by their numbers.
type Parts = BTreeMap<usize, Vec<u8>>;

/// A message for the topic; a tombstone has no payload.
pub(super) type LogMessage = (String, Option<Vec<u8>>);

impl TickLog {
    /// Reads the records of a run up to this end, in the order of ticks.
    pub fn read(
        address: &Address,
        client: &ClientOptions,
        run: &str,
        end: ReadTo,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<(Self, Vec<Vec<u8>>), Failure> {
        let mut read = BTreeMap::<(u64, u64), Parts>::new();
        let group = run.rsplit_once('/').map_or(run, |(group, _)| group);
        let (mut records, mut claims) = (Following::default(), Following::default());
        read_to_end(address, client, end, gives_up, |message| {
            let StoredMessage { key, payload, .. } = message;
            let key = key.and_then(|key| std::str::from_utf8(key).ok());
            let Some(key) = key.filter(|key| is_of_group(key, group)) else { return };
            let own = parse_key(key, run);
            claims.note(own.is_some(), payload.is_none());
            if key.ends_with(CLAIM) {
                return;
            }
            records.note(own.is_some(), payload.is_none());
            let Some((first, last, part)) = own else { return };
            let parts = read.entry((last, first)).or_default();
            match payload {
                Some(payload) => drop(parts.insert(part, payload.to_vec())),
                None => drop(parts.remove(&part)),
            }
        })?;
        read.retain(|_, parts| !parts.is_empty());
        let ranges = read.iter().map(|((last, first), parts)| (*last, *first, parts.len()));
        let log = TickLog {
            address: address.clone(),
            run: run.to_owned(),
            ranges: ranges.collect(),
            is_followed: records.is_followed,
            is_replaced: claims.is_followed,
        };
        let records = read.into_values().flat_map(|parts| {
            let whole: Vec<u8> = parts.into_values().flatten().collect();
            let lines = whole.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
            lines.filter(|line| !line.is_empty()).collect::<Vec<_>>()
        });
        let records = records.collect();
        Ok((log, records))
    }

    /// Returns the address of the topic.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether a run of the same group with another state has published since.
    pub fn is_followed(&self) -> bool {
        self.is_followed
    }

    /// Whether such a run has at least started to publish since.
    pub fn is_replaced(&self) -> bool {
        self.is_replaced
    }

    /// Returns the message by which a run claims the topics.
    pub(super) fn claim(&self) -> LogMessage {
        (format!("{}{CLAIM}", self.run), Some(Vec::new()))
    }

    /// Returns the messages with the records of ticks.
    pub(super) fn add(&mut self, ticks: &[(u64, Vec<u8>)]) -> Vec<LogMessage> {
        let (Some((first, _)), Some((last, _))) = (ticks.first(), ticks.last()) else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        for (_, record) in ticks {
            lines.extend_from_slice(record);
            lines.push(b'\n');
        }
        let parts: Vec<LogMessage> = lines
            .chunks(PART_BYTES)
            .enumerate()
            .map(|(part, payload)| (self.key(*first, *last, part), Some(payload.to_vec())))
            .collect();
        self.ranges.insert((*last, *first, parts.len()));
        parts
    }

    /// Returns the tombstones of the records of ticks before this one.
    pub(super) fn forget(&mut self, before: u64) -> Vec<LogMessage> {
        let kept = self.ranges.split_off(&(before, 0, 0));
        let forgotten = std::mem::replace(&mut self.ranges, kept);
        let keys = forgotten
            .into_iter()
            .flat_map(|(last, first, parts)| (0..parts).map(move |part| (first, last, part)));
        keys.map(|(first, last, part)| (self.key(first, last, part), None)).collect()
    }

    fn key(&self, first: u64, last: u64, part: usize) -> String {
        format!("{}/{first}-{last}/{part}", self.run)
    }
}

/// Whether a key is that of a run of a group.
fn is_of_group(key: &str, group: &str) -> bool {
    // RUN is GROUP/NONCE.
    key.rsplitn(4, '/').nth(3) == Some(group)
}

/// Returns the ticks and the number of the part that a key of this run names.
fn parse_key(key: &str, run: &str) -> Option<(u64, u64, usize)> {
    let rest = key.strip_prefix(run)?.strip_prefix('/')?;
    let (ticks, part) = rest.split_once('/')?;
    let (first, last) = ticks.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, part.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_ticks_before_the_oldest_checkpoint_are_forgotten() {
        let address = "kafka://localhost/progress".parse().expect("an address");
        let mut log = TickLog {
            address,
            run: "a/b".to_owned(),
            ranges: BTreeSet::new(),
            is_followed: false,
            is_replaced: false,
        };
        let large = vec![b'x'; PART_BYTES];
        let added = log.add(&[(1, b"one".to_vec()), (2, large)]);
        let sizes: Vec<_> =
            added.iter().map(|(key, payload)| (&key[..], payload.as_ref().map(Vec::len))).collect();
        assert_eq!(sizes, [("a/b/1-2/0", Some(PART_BYTES)), ("a/b/1-2/1", Some(5))]);
        assert_eq!(log.add(&[(3, Vec::new())]).len(), 1);
        assert_eq!(log.forget(2), []);
        let forgotten = log.forget(3);
        assert_eq!(forgotten, [("a/b/1-2/0".to_owned(), None), ("a/b/1-2/1".to_owned(), None)]);
        assert_eq!(parse_key("a/b/1-2/1", "a/b"), Some((1, 2, 1)));
        assert_eq!(parse_key("a/b/1-2/1", "a"), None);
        let (claim, _) = log.claim();
        assert!(claim == "a/b/0-0/0" && is_of_group(&claim, "a"));
        assert!(is_of_group("a/b/1-2/1", "a") && is_of_group("a/b/c/1-2/1", "a/b"));
        assert!(!is_of_group("a/b/1-2/1", "b") && !is_of_group("a/1-2/1", "a"));
    }
}
