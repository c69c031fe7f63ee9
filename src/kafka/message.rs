//! Messages that own what is in them.

use std::borrow::Cow;

use crate::record::Message;

/// Greatest sizes of the payload and key of a dead letter: by default a topic accepts 1 MB, headers
/// included.
const DEAD_PAYLOAD_MAX: usize = 800_000;
const DEAD_KEY_MAX: usize = 100_000;

/// The header that tells how large key and value were before they were cut.
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
    /// Its timestamp; without it, the time of sending. 0 is what librdkafka takes for "without", so
    /// 1 is sent instead.
    pub timestamp_ms: Option<i64>,
    /// Its partition, if not by its key.
    pub partition: Option<i32>,
    /// The headers.
    pub headers: &'a [Header],
}

/// A message of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
}

impl OwnedMessage {
    /// A message with something in it that can't be used: as it came, with where it was and what is wrong
    /// as its headers. One that is larger than topics take by default is cut, and a header says how large
    /// it was: it must not end those who set it aside.
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
        };
        letter.headers.push(("floodmark.error".into(), error.to_owned()));
        letter.fill(message.key, message.payload.unwrap_or_default());
        letter
    }

    /// A message that the broker of a sink refuses, for those who look for what is missing there.
    pub fn refused(self, sink: &str, error: &str) -> Self {
        let OwnedMessage { key, payload, timestamp_ms, mut headers, .. } = self;
        headers.push(("floodmark.sink".into(), sink.to_owned()));
        headers.push(("floodmark.error".into(), error.to_owned()));
        let mut letter = OwnedMessage { timestamp_ms, headers, ..OwnedMessage::default() };
        letter.fill(key.as_deref(), &payload);
        letter
    }

    fn fill(&mut self, key: Option<&[u8]>, payload: &[u8]) {
        self.cut(key, payload, DEAD_KEY_MAX, DEAD_PAYLOAD_MAX);
    }

    /// Takes over key and value up to these sizes.
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

    /// Cuts key and value to half of what they are. `None` if nothing is left to cut.
    pub(super) fn halved(mut self) -> Option<Self> {
        let key = self.key.take();
        let payload = std::mem::take(&mut self.payload);
        let key_size = key.as_ref().map_or(0, Vec::len);
        if key_size + payload.len() == 0 {
            return None;
        }
        // A short key is worth more than a bit of the value.
        let key_max = if key_size > payload.len() { key_size / 2 } else { key_size };
        let payload_max = if key_size > payload.len() { payload.len() } else { payload.len() / 2 };
        self.cut(key.as_deref(), &payload, key_max, payload_max);
        Some(self)
    }

    /// Bytes in memory, about.
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
        }
    }
}

/// Returns the place of a message as headers of a letter.
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
