//! The text lines of tshark: `  12   0.001565   172.16.1.2 → 10.88.0.2    TCP 66 36330 → 80 [ACK]`. The columns
//! that tshark shows differ; the addresses are always around the first arrow, and the time, if tshark
//! shows it, is before them.

use std::net::IpAddr;

use super::context::Context;
use super::message;
use super::message::{Format, Observation, Record};
use super::reason::{Excerpt, TimeFault};
use super::reason::{RecordError, Skip};
use super::sink::{MessageSink, Receiver};
use super::time;
use super::value::{self, Decimal, Unit};

const ARROWS: [&str; 2] = ["→", "->"];

impl Context<'_> {
    /// Reads a text that is no JSON: lines of tshark, or the length of a `kv` message.
    pub(super) fn lines<T: Receiver>(&self, text: &str, sink: &mut MessageSink<'_, T>) {
        if !text.contains('\n') && Decimal::parse(text).is_some() {
            sink.recognized(Format::Kv, self.kv(text), None);
            return;
        }
        for line in text.lines().filter(|line| !line.trim_ascii().is_empty()) {
            match Line::parse(line) {
                Some(line) => sink.recognized(Format::TsharkText, self.line(&line), None),
                None => sink.unrecognized(RecordError::UnknownFormat),
            }
        }
    }

    fn line(&self, line: &Line<'_>) -> Observation {
        if is_hardware_address(line.source) {
            return Observation::Skipped(Skip::NotIp);
        }
        self.packet_line(line).into()
    }

    fn packet_line(&self, line: &Line<'_>) -> Result<Record, RecordError> {
        let address = |text: &str, field| {
            text.parse::<IpAddr>().map_err(|_| RecordError::BadAddress { field })
        };
        let source = address(line.source, "source")?;
        let destination = address(line.destination, "destination")?;
        let pair = value::pair(source, destination, false)?;
        let length = line.length.ok_or(RecordError::MissingField { field: "length" })?;
        let volume = message::volume(length?, 1)?;
        Ok(Record { time_ms: self.line_time(line)?, pair, volume })
    }

    /// Returns the time in the line if it is absolute, else that of the message.
    fn line_time(&self, line: &Line<'_>) -> Result<u64, RecordError> {
        // A number below this counts from the start of the capture or from the frame before. As seconds
        // since 1970 it would be in 1973, before any capture.
        const EPOCH_MIN: i128 = 100_000_000 * 1_000_000_000;
        let absolute = match (line.date, line.time) {
            (Some(date), Some(time)) => {
                let text = format!("{date} {time}");
                let nanos = time::moment(&text, Unit::Seconds, self.zone);
                Some(nanos.ok_or_else(|| bad_time(&text, TimeFault::Unreadable))?)
            }
            (None, Some(time)) => Decimal::parse(time)
                .and_then(|_| time::moment(time, Unit::Seconds, self.zone))
                .filter(|nanos| *nanos >= EPOCH_MIN),
            (_, None) => None,
        };
        match absolute {
            Some(nanos) => {
                let text = [line.date, line.time].map(Option::unwrap_or_default).join(" ");
                let bad = || bad_time(text.trim_start(), TimeFault::OutOfRange);
                time::event_time(nanos).ok_or_else(bad)
            }
            None => self.message.timestamp_ms.ok_or(RecordError::NoTime),
        }
    }
}

fn bad_time(text: &str, fault: TimeFault) -> RecordError {
    RecordError::BadTime { field: "time", value: Excerpt::new(text), fault }
}

/// The words of a line that a record needs.
struct Line<'a> {
    date: Option<&'a str>,
    time: Option<&'a str>,
    source: &'a str,
    destination: &'a str,
    length: Option<Result<u64, RecordError>>,
}

impl<'a> Line<'a> {
    /// Returns `None` if no arrow is between two words.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        // The last three words before the arrow, the nearest last.
        let mut before = [None; 3];
        let source = loop {
            let word = words.next()?;
            if ARROWS.contains(&word) {
                break before[2]?;
            }
            before = [before[1], before[2], Some(word)];
        };
        let destination = words.next()?;
        // After the name of the protocol, which may be of several words.
        let length = words.skip(1).find(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
        let length = length.map(|word| word.parse().map_err(|_| RecordError::TooLarge));
        let [date, time, _] = before;
        let date = date.filter(|word| is_date(word));
        // Without a time, this word may be the number of the frame, which has no decimal point.
        Some(Line { date, time, source, destination, length })
    }
}

/// Whether a word has the shape of a date such as `2025-08-06`.
fn is_date(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-'
}

/// Whether a word is a hardware address as tshark writes it, for the source of a frame without an IP address:
/// `00:53:00:12:34:56` or, with the name of the vendor, `Vendor_12:34:56`.
fn is_hardware_address(word: &str) -> bool {
    let octets = |text: &str, count| {
        let octet = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        text.split(':').count() == count && text.split(':').all(octet)
    };
    octets(word, 6) || word.rsplit_once('_').is_some_and(|(_, end)| octets(end, 3))
}
