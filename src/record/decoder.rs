//! Reads the records in a message of any format.

use std::borrow::Cow;

use jiff::tz::TimeZone;

use super::bounds::RECORDS_MAX;
use super::context::{Context, Envelope};
use super::message::{Format, Message, Observation};
use super::reason::{RecordError, Skip};
use super::sink::{MessageSink, Receiver};
use super::{kv, packed, value};

/// The options of a [`Decoder`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The time zone of times without a zone.
    pub input_timezone: TimeZone,
}

impl Default for Options {
    fn default() -> Self {
        Options { input_timezone: TimeZone::UTC }
    }
}

/// Reads messages of any format, which it recognizes by their content.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    options: Options,
}

impl Decoder {
    /// Creates a decoder with these options.
    pub fn new(options: Options) -> Self {
        Decoder { options }
    }

    /// Calls `each` with every observation in a message, and returns the format of the message: the first of several
    /// formats; `None` if the whole message has no format and is skipped.
    ///
    /// # Errors
    /// If the message can't be read as a whole, or has more than [`RECORDS_MAX`] observations (`each` was called with
    /// the first ones), or has no value of a known format and ends with a value of none. The error is then that of the
    /// last value, and `each` was called with those before.
    pub fn decode(
        &self,
        message: &Message<'_>,
        each: &mut impl FnMut(Observation),
    ) -> Result<Option<Format>, RecordError> {
        self.decode_to(message, each)
    }

    pub(super) fn decode_to<T: Receiver>(
        &self,
        message: &Message<'_>,
        receiver: &mut T,
    ) -> Result<Option<Format>, RecordError> {
        let Some(payload) = message.payload else {
            receiver.receive(Observation::Skipped(Skip::Tombstone), None);
            return Ok(None);
        };
        if packed::has_magic(payload) {
            let mut records = packed::decode(payload)?;
            records.by_ref().take(RECORDS_MAX).for_each(|read| receiver.receive(read, None));
            return match records.is_empty() {
                true => Ok(Some(Format::Packed)),
                false => Err(RecordError::TooManyRecords),
            };
        }
        // A value of digits alone is of format `kv`, the most common one after the packed format.
        if let Some(length) = value::parse_digits(payload) {
            receiver.receive(kv::record(message, length).into(), None);
            return Ok(Some(Format::Kv));
        }
        // tshark writes names byte for byte from the wire. No record needs the characters that are replaced here.
        let text = String::from_utf8_lossy(payload);
        let context = Context { zone: &self.options.input_timezone, message };
        let mut sink =
            MessageSink { receiver, format: None, held_back: None, skipped: false, recognized: 0 };
        context.text(&text, Envelope::Allowed, &mut sink);
        sink.finish().map_err(|reason| match text {
            Cow::Borrowed(_) => reason,
            Cow::Owned(_) => RecordError::NotUtf8,
        })
    }
}

impl Context<'_> {
    /// Reads a text of any format.
    pub(super) fn text<T: Receiver>(
        &self,
        text: &str,
        envelope: Envelope,
        sink: &mut MessageSink<'_, T>,
    ) {
        // Windows editors put a byte order mark first.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_matches(value::BLANKS);
        match text.as_bytes().first() {
            None => sink.unrecognized(RecordError::Empty),
            Some(b'{' | b'[') => self.json(text, envelope, sink),
            // Converters write a tombstone like this.
            Some(b'n') if text == "null" => sink.skip(Skip::Tombstone),
            // A converter writes text that is no JSON as a JSON text.
            Some(b'"') if envelope == Envelope::Allowed => match value::unquote(text) {
                Some(inner) => self.text(&inner, Envelope::Opened, sink),
                None => sink.unrecognized(RecordError::Json),
            },
            Some(_) => self.lines(text, sink),
        }
    }
}

/// Returns an upper bound, in milliseconds, on the distance of two event times in a message, without decoding the
/// message.
pub fn span_max(payload: &[u8]) -> u64 {
    match payload.len() {
        _ if packed::has_magic(payload) => packed::span_max(payload),
        // Two records in a text are longer than this; a single number is not.
        ..20 => 0,
        _ => u64::MAX,
    }
}
