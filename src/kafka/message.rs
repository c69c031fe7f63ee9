//! Messages to be sent, borrowed or owned.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::record::Message;

/// Greatest sizes of the payload and key of a dead letter: by default a topic accepts 1 MB, headers
/// included.
const DEAD_PAYLOAD_MAX: usize = 800_000;
const DEAD_KEY_MAX: usize = 100_000;

/// The header with the sizes of key and value before they were cut.
const CUT: &str = "floodmark.cut";

/// A header of a message: its name and its value.
pub type Header = (Cow<'static, str>, String);

/// A message to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The key. Messages with the same key go to one partition.
    pub key: Option<&'a [u8]>,
    /// The value. `None` is a tombstone: it removes the key from a compacted topic.
    pub payload: Option<&'a [u8]>,
    /// Its timestamp; `None`: the time of sending. librdkafka reads 0 as "no timestamp", so 1 is sent instead of 0.
    pub timestamp_ms: Option<i64>,
    /// Its partition, if not by its key.
    pub partition: Option<i32>,
    /// The headers.
    pub headers: &'a [Header],
    /// Further headers.
    pub common_headers: &'a [Header],
}

/// An owned message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedMessage {
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub payload: Vec<u8>,
    /// Its time, in milliseconds since 1970; `None`: when it is sent.
    pub timestamp_ms: Option<u64>,
    /// Its partition, if not by its key.
    pub partition: Option<i32>,
    /// Its headers, by name.
    pub headers: Vec<Header>,
    /// Headers that it has in common with other messages. They stay in the process.
    #[serde(skip)]
    pub common_headers: Option<Arc<[Header]>>,
}

impl OwnedMessage {
    /// Returns the dead letter of an unusable message: the message with its origin and the error as headers. A message
    /// larger than topics accept by default is cut, and a header holds its size: a dead letter must not end the
    /// command.
    pub fn dead(
        message: &Message<'_>,
        origin: impl IntoIterator<Item = (&'static str, String)>,
        error: &str,
    ) -> Self {
        let mut letter = OwnedMessage {
            key: None,
            payload: Vec::new(),
            timestamp_ms: message.timestamp_ms,
            partition: None,
            headers: origin.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            common_headers: None,
        };
        letter.headers.push(("floodmark.error".into(), error.to_owned()));
        letter.set_content(message.key, message.payload.unwrap_or_default());
        letter
    }

    /// Returns the dead letter of a message that the broker of a sink refuses, with the sink and the error as headers.
    pub fn refused(self, sink: &str, error: &str) -> Self {
        let OwnedMessage { key, payload, timestamp_ms, mut headers, common_headers, .. } = self;
        headers.extend(common_headers.iter().flat_map(|headers| headers.iter().cloned()));
        headers.push(("floodmark.sink".into(), sink.to_owned()));
        headers.push(("floodmark.error".into(), error.to_owned()));
        let mut letter = OwnedMessage { timestamp_ms, headers, ..OwnedMessage::default() };
        letter.set_content(key.as_deref(), &payload);
        letter
    }

    fn set_content(&mut self, key: Option<&[u8]>, payload: &[u8]) {
        self.cut(key, payload, DEAD_KEY_MAX, DEAD_PAYLOAD_MAX);
    }

    /// Sets key and value, cut to these sizes.
    fn cut(&mut self, key: Option<&[u8]>, payload: &[u8], key_max: usize, payload_max: usize) {
        let kept_key = key.map(|key| &key[..key.len().min(key_max)]);
        let kept = &payload[..payload.len().min(payload_max)];
        let sizes = [key.map_or(0, <[u8]>::len), payload.len()];
        let cut = sizes != [kept_key.map_or(0, <[u8]>::len), kept.len()];
        if cut && !self.headers.iter().any(|(name, _)| name == CUT) {
            self.headers.push((CUT.into(), format!("{} {}", sizes[0], sizes[1])));
        }
        self.key = kept_key.map(<[u8]>::to_vec);
        self.payload = kept.to_vec();
    }

    /// Cuts the longer of key and value to half its size. `None` if both are empty.
    pub(super) fn halved(mut self) -> Option<Self> {
        let key = self.key.take();
        let payload = std::mem::take(&mut self.payload);
        let key_size = key.as_ref().map_or(0, Vec::len);
        if key_size + payload.len() == 0 {
            return None;
        }
        // A short key is more useful than a part of the value.
        let key_max = if key_size > payload.len() { key_size / 2 } else { key_size };
        let payload_max = if key_size > payload.len() { payload.len() } else { payload.len() / 2 };
        self.cut(key.as_deref(), &payload, key_max, payload_max);
        Some(self)
    }

    /// Returns the approximate size in memory, in bytes.
    pub(crate) fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        size_of::<OwnedMessage>()
            + self.key.as_ref().map_or(0, Vec::len)
            + self.payload.len()
            + headers.sum::<usize>()
    }

    pub(super) fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            key: self.key.as_deref(),
            payload: Some(&self.payload),
            timestamp_ms: self.timestamp_ms.and_then(|ms| i64::try_from(ms).ok()),
            partition: self.partition,
            headers: &self.headers,
            common_headers: self.common_headers.as_deref().unwrap_or_default(),
        }
    }
}

/// Returns the origin of a message as headers of a dead letter.
pub fn origin(topic: &str, partition: i32, offset: i64) -> [(&'static str, String); 3] {
    [
        ("floodmark.topic", topic.to_owned()),
        ("floodmark.partition", partition.to_string()),
        ("floodmark.offset", offset.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letter_too_large_for_its_topic_is_halved_until_nothing_is_left() {
        let message = Message {
            key: Some(b"10.0.0.1 10.0.0.2"),
            payload: Some(&[b'x'; 5000]),
            timestamp_ms: None,
        };
        let mut letter = OwnedMessage::dead(&message, [], "json");
        let mut sizes = Vec::new();
        while let Some(less) = letter.clone().halved() {
            letter = less;
            let key = letter.key.as_ref().map_or(0, Vec::len);
            sizes.push((key, letter.payload.len()));
            let cut: Vec<_> = letter.headers.iter().filter(|(name, _)| name == CUT).collect();
            assert_eq!(cut, [&(CUT.into(), "17 5000".to_owned())]);
        }
        assert_eq!(sizes.first(), Some(&(17, 2500)));
        assert_eq!(sizes.last(), Some(&(0, 0)));
        assert!(sizes.len() < 25, "{sizes:?}");
    }
}
