//! Reads the records in a message of any format.

use std::borrow::Cow;

use jiff::tz::TimeZone;

use super::bounds::RECORDS_MAX;
use super::context::{Context, Wrapping};
use super::message::{Format, Message, Read};
use super::reason::{Reason, Skip};
use super::sink::{Sink, Take};
use super::{kv, packed, value};

/// The options of a [`Decoder`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The time zone of times that state none.
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

    /// Calls `each` with every observation in a message, and returns the format of the message: of several
    /// formats, the first; `None` if all of the message is skipped and of no format.
    ///
    /// # Errors
    /// If the message can't be told, or can't be read as a whole, or after [`RECORDS_MAX`] observations that
    /// were handed over. Of several values in it that can't be
    /// told, the last one is the error, if no other was told; all else was handed over.
    pub fn decode(
        &self,
        message: &Message<'_>,
        each: &mut impl FnMut(Read),
    ) -> Result<Option<Format>, Reason> {
        self.decode_to(message, each)
    }

    pub(super) fn decode_to<T: Take>(
        &self,
        message: &Message<'_>,
        to: &mut T,
    ) -> Result<Option<Format>, Reason> {
        let Some(payload) = message.payload else {
            to.take(Read::Skipped(Skip::Tombstone), None);
            return Ok(None);
        };
        if packed::begins(payload) {
            let mut records = packed::decode(payload)?;
            records.by_ref().take(RECORDS_MAX).for_each(|read| to.take(read, None));
            return match records.is_empty() {
                true => Ok(Some(Format::Packed)),
                false => Err(Reason::TooManyRecords),
            };
        }
        // A value of digits alone is of format `kv`, the most common one after the packed format.
        if let Some(length) = value::digits(payload) {
            to.take(kv::record(message, length).into(), None);
            return Ok(Some(Format::Kv));
        }
        // tshark writes names as they were on the wire. No record needs the characters that are replaced here.
        let text = String::from_utf8_lossy(payload);
        let context = Context { zone: &self.options.input_timezone, message };
        let mut sink = Sink { to, format: None, held: None, skipped: false, told: 0 };
        context.text(&text, Wrapping::Open, &mut sink);
        sink.finish().map_err(|reason| match text {
            Cow::Borrowed(_) => reason,
            Cow::Owned(_) => Reason::NotUtf8,
        })
    }
}

impl Context<'_> {
    /// Reads a text of any format.
    pub(super) fn text<T: Take>(&self, text: &str, wrapping: Wrapping, sink: &mut Sink<'_, T>) {
        // Windows editors put a byte order mark first.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim_matches(value::BLANKS);
        match text.as_bytes().first() {
            None => sink.untold(Reason::Empty),
            Some(b'{' | b'[') => self.json(text, wrapping, sink),
            // A tombstone as converters write it.
            Some(b'n') if text == "null" => sink.skip(Skip::Tombstone),
            // A converter writes text that is no JSON as a JSON text.
            Some(b'"') if wrapping == Wrapping::Open => match value::text(text) {
                Some(inner) => self.text(&inner, Wrapping::Opened, sink),
                None => sink.untold(Reason::Json),
            },
            Some(_) => self.lines(text, sink),
        }
    }
}

/// Returns the greatest distance, in milliseconds, that two event times in a message may have, as far as it is
/// known without decoding the message.
pub fn span_max(payload: &[u8]) -> u64 {
    match payload.len() {
        _ if packed::begins(payload) => packed::span_max(payload),
        // No text of two records is as short as this, and no number alone is longer.
        ..20 => 0,
        _ => u64::MAX,
    }
}
