//! The reader: from the name of a capture to the packets that count.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;

use super::decode::decode;
use super::input::Input;
use super::link::unsupported_number;
use super::packet::Packet;
use super::pcap::{self, Pcap};
use super::pcapng::{self, Pcapng, Repeated};
use super::{Fault, LinkType, Parsed, ReadError, Tally, Timing, Uncounted};
use crate::base::date::format_ms;
use crate::base::quote::Quoted;
use crate::base::strays::{Stray, StrayFilter};

/// Reads one capture of any supported format and compression.
///
/// The reader returns a packet as soon as its bytes are read. Reading ends with the capture, or with one error after
/// all packets before the fault; later calls return nothing. (Of broken compressed data, the decompressors drop the
/// output of the call that failed.)
///
/// # Examples
/// ```
/// # fn main() -> Result<(), floodmark::capture::ReadError> {
/// let header = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x04\0\x65\0\0\0";
/// let cut_record = [0; 7];
/// let capture = std::io::Cursor::new([&header[..], &cut_record].concat());
/// let mut reader = floodmark::capture::Reader::from_read("example", Box::new(capture));
/// assert!(reader.next().is_err());
/// assert!(reader.next()?.is_none());
/// # Ok(()) }
/// ```
pub struct Reader {
    name: String,
    input: Input,
    format: Format,
    tally: Tally,
    strays: StrayFilter<Packet>,
    /// The error that ended reading, until it is returned.
    error: Option<ReadError>,
    /// Reports harmless oddities; without it they are logged.
    warn: Option<Warn>,
    /// The repeated options that were reported.
    warned_options: Vec<&'static str>,
}

/// A callback that reports a harmless oddity of a capture.
pub type Warn = Box<dyn Fn(&str) + Send>;

/// Maximum number of strays of a capture that are reported one by one.
const STRAYS_REPORTED_MAX: u64 = 20;

/// Maximum time for which a possible stray of a pipe is held for the next packet.
const STRAY_WAIT: Duration = Duration::from_secs(1);

enum Format {
    /// Not detected yet.
    Unknown,
    Pcap(Pcap),
    Pcapng(Pcapng),
    /// The capture has ended.
    Ended,
}

impl Reader {
    /// Opens a file or a FIFO, or standard input by the name `-`. Nothing is read yet: the format is detected with the
    /// first packet.
    ///
    /// # Errors
    /// The file is missing or can't be opened.
    pub fn open(path: &Path) -> Result<Reader, ReadError> {
        let name = match path.as_os_str() == "-" {
            true => "standard input".to_owned(),
            false => path.display().to_string(),
        };
        match Input::open(path) {
            Ok(input) => Ok(Reader::new(name, input)),
            Err(fault) => Err(ReadError::new(&name, 1, 0, fault)),
        }
    }

    /// Creates a reader of an input that [has the magic number](Reader::has_magic) of a capture.
    pub(crate) fn from_input(name: &str, input: Input) -> Reader {
        Reader::new(name.to_owned(), input)
    }

    /// Whether bytes, at least four, begin with the magic number of a capture.
    pub(crate) fn has_magic(bytes: &[u8]) -> bool {
        bytes
            .first_chunk()
            .is_some_and(|magic| *magic == pcapng::SECTION || Pcap::has_magic(*magic))
    }

    /// Creates a reader of any source, with a name for messages.
    pub fn from_read(name: &str, source: Box<dyn Read + Send>) -> Reader {
        Reader::new(name.to_owned(), Input::from_read(source))
    }

    fn new(name: String, input: Input) -> Self {
        let (format, tally, strays) = (Format::Unknown, Tally::default(), StrayFilter::disabled());
        Reader {
            name,
            input,
            format,
            tally,
            strays,
            error: None,
            warn: None,
            warned_options: Vec::new(),
        }
    }

    /// Drops strays: packets more than this ahead of the next packet. Without a call all packets are accepted.
    ///
    /// A packet that moves the clock of the capture by more than that is returned after the next one was read, or
    /// after a second in which a pipe brought none. The last packet is no stray.
    pub fn drop_strays(&mut self, max_ahead_ms: u64) {
        self.strays = StrayFilter::new(max_ahead_ms);
    }

    /// Reports harmless oddities, such as a repeated option, by `warn`.
    pub fn set_warn(&mut self, warn: Warn) {
        self.warn = Some(warn);
    }

    /// Returns the next packet that counts, and tallies the uncounted frames before it. `None` at the end and from
    /// then on.
    ///
    /// # Errors
    /// The capture is damaged or can't be read, after the last packet before the fault.
    #[expect(clippy::should_implement_trait, reason = "an error ends it, unlike an iterator")]
    pub fn next(&mut self) -> Result<Option<Packet>, ReadError> {
        Ok(self.try_for_each(ControlFlow::Break)?.break_value())
    }

    /// Calls `visit` with each packet that counts until it breaks: the packets of [`Reader::next`], without a copy of
    /// each.
    ///
    /// # Errors
    /// The capture is damaged or can't be read, after the last packet before the fault.
    #[inline]
    pub fn try_for_each<B>(
        &mut self,
        mut visit: impl FnMut(Packet) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, ReadError> {
        if self.strays.has_records()
            && let ControlFlow::Break(end) = self.resume(&mut visit)
        {
            return Ok(ControlFlow::Break(end));
        }
        loop {
            let found = match &mut self.format {
                Format::Pcap(pcap) => pcap.next(self.input.bytes()),
                Format::Pcapng(pcapng) => pcapng.next(self.input.bytes()),
                Format::Unknown => match detect_format(self.input.bytes()) {
                    Detected::Format(format, used) => {
                        self.format = format;
                        Parsed::Skip(used)
                    }
                    Detected::Need(need) => Parsed::Need(need),
                    Detected::Invalid(fault) => Parsed::Invalid(fault),
                },
                Format::Ended => return self.finish(&mut visit),
            };
            match found {
                Parsed::Frame(frame, used) => {
                    match decode_packet(frame.timing, frame.link, frame.bytes, frame.wire) {
                        Ok(packet) => {
                            self.input.consume(used);
                            self.tally.count(packet.bytes);
                            let visited = match self.strays.try_accept(packet.time.ms) {
                                true => visit(packet),
                                false => self.examine(packet, &mut visit),
                            };
                            if let ControlFlow::Break(end) = visited {
                                return Ok(ControlFlow::Break(end));
                            }
                        }
                        Err(kind) => {
                            count_uncounted(&mut self.tally, kind, frame.link, frame.bytes);
                            self.input.consume(used);
                        }
                    }
                }
                Parsed::Skip(used) => {
                    self.input.consume(used);
                    self.warn_of_repeated();
                }
                Parsed::Need(need) => match self.input.fill(need) {
                    Ok(true) if self.input.is_timed_out() => {
                        if let ControlFlow::Break(end) = self.release(&mut visit) {
                            return Ok(ControlFlow::Break(end));
                        }
                    }
                    Ok(true) => {}
                    Ok(false) => self.end_of_input(need),
                    Err(fault) => self.fail(fault),
                },
                Parsed::Invalid(fault) => self.fail(fault),
            }
        }
    }

    /// Emits packets that are ready since the last call.
    #[cold]
    fn resume<B>(&mut self, visit: &mut impl FnMut(Packet) -> ControlFlow<B>) -> ControlFlow<B> {
        // Time between two calls does not count as waiting for the next packet.
        self.update_read_timeout();
        self.emit_ready(visit)
    }

    fn emit_ready<B>(
        &mut self,
        visit: &mut impl FnMut(Packet) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        while let Some(packet) = self.strays.next_ready() {
            visit(packet)?;
        }
        ControlFlow::Continue(())
    }

    /// Decides on the held packet by the next one.
    #[cold]
    fn examine<B>(
        &mut self,
        packet: Packet,
        visit: &mut impl FnMut(Packet) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if let Some(stray) = self.strays.examine(packet, self.tally.frames) {
            self.tally.recount_as_stray(stray.record.bytes);
            self.report_stray(&stray, &packet);
        }
        self.update_read_timeout();
        self.emit_ready(visit)
    }

    /// Emits the held packet when no next one arrives.
    #[cold]
    fn release<B>(&mut self, visit: &mut impl FnMut(Packet) -> ControlFlow<B>) -> ControlFlow<B> {
        self.strays.release();
        self.update_read_timeout();
        self.emit_ready(visit)
    }

    /// Emits the held packet, then returns the error that ended reading, once.
    #[cold]
    fn finish<B>(
        &mut self,
        visit: &mut impl FnMut(Packet) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, ReadError> {
        if let ControlFlow::Break(end) = self.release(visit) {
            return Ok(ControlFlow::Break(end));
        }
        self.error.take().map_or(Ok(ControlFlow::Continue(())), Err)
    }

    /// Bounds the waiting for the next packet while one is held.
    #[inline]
    fn update_read_timeout(&mut self) {
        self.input.set_read_timeout(self.strays.is_holding().then_some(STRAY_WAIT));
    }

    fn report_stray(&self, stray: &Stray<Packet>, next: &Packet) {
        let name = Quoted(&self.name);
        match self.tally.uncounted(Uncounted::Stray) {
            ..=STRAYS_REPORTED_MAX => self.warn(&format!(
                "{name}: frame {} is dropped as a stray: its time {} is more than {} ahead of that of the \
                 next packet, {}; a greater --max-ahead keeps it",
                stray.position,
                format_ms(stray.record.time.ms),
                format_span(self.strays.max_ahead_ms()),
                format_ms(next.time.ms),
            )),
            count if count == STRAYS_REPORTED_MAX + 1 => {
                self.warn(&format!("{name}: further strays are counted, and not named"));
            }
            _ => {}
        }
    }

    fn warn(&self, text: &str) {
        match &self.warn {
            Some(warn) => warn(text),
            None => tracing::warn!("{text}"),
        }
    }

    /// Warns of an option that an interface has twice, at most once of each option.
    fn warn_of_repeated(&mut self) {
        let Format::Pcapng(pcapng) = &mut self.format else { return };
        let Some(Repeated { interface, option }) = pcapng.take_repeated() else { return };
        if self.warned_options.contains(&option) {
            return;
        }
        self.warned_options.push(option);
        let name = Quoted(&self.name);
        let text =
            format!("{name}: interface {interface} has {option} twice; the first one is used");
        self.warn(&text);
    }

    /// Handles the end of the input while so many bytes were needed.
    #[cold]
    fn end_of_input(&mut self, need: usize) {
        let found = self.input.bytes().len();
        let fault = match &self.format {
            Format::Unknown if found == 0 => Fault::Empty,
            Format::Pcapng(pcapng) if found == 0 && pcapng.between_blocks() => return self.close(),
            Format::Pcap(_) if found == 0 => return self.close(),
            _ => Fault::Cut { found, expected: need },
        };
        self.fail(fault);
    }

    /// Ends reading with an error, which is returned after the held packet.
    #[cold]
    fn fail(&mut self, fault: Fault) {
        let error = ReadError::new(&self.name, self.tally.frames + 1, self.input.consumed(), fault);
        self.error = Some(error);
        self.close();
    }

    fn close(&mut self) {
        self.format = Format::Ended;
        self.input.close();
    }

    /// Returns the counts of the frames read so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Returns the name by which the capture was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of bytes read so far from the file, before decompression, for a progress bar.
    pub fn offset(&self) -> u64 {
        self.input.raw_bytes()
    }

    /// Returns the value at which [`Reader::offset`] will end, for a regular file.
    pub fn size_hint(&self) -> Option<u64> {
        self.input.size_hint()
    }

    /// Returns the size of the buffer: at most [`super::BUFFER_MAX`] bytes.
    pub fn buffer_capacity(&self) -> usize {
        self.input.capacity()
    }
}

fn format_span(ms: u64) -> impl std::fmt::Display {
    format!("{:#}", SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)))
}

enum Detected {
    Format(Format, usize),
    Need(usize),
    Invalid(Fault),
}

fn detect_format(bytes: &[u8]) -> Detected {
    let Some(magic) = bytes.first_chunk() else {
        return Detected::Need(4);
    };
    if *magic == pcapng::SECTION {
        return Detected::Format(Format::Pcapng(Pcapng::new()), 0);
    }
    if !Pcap::has_magic(*magic) {
        return Detected::Invalid(Fault::Magic(*magic));
    }
    match bytes.first_chunk().map(Pcap::new) {
        None => Detected::Need(pcap::HEADER),
        Some(Ok((_, size))) if bytes.len() < size => Detected::Need(size),
        Some(Ok((pcap, size))) => Detected::Format(Format::Pcap(pcap), size),
        Some(Err(fault)) => Detected::Invalid(fault),
    }
}

/// Counts a frame without a packet that counts, by the reason.
#[cold]
pub(super) fn count_uncounted(tally: &mut Tally, kind: Uncounted, link: LinkType, bytes: &[u8]) {
    match kind {
        Uncounted::LinkType => tally.count_unsupported_link(unsupported_number(link, bytes)),
        _ => tally.count_uncounted(kind),
    }
}

/// Applies the counting rules to a frame, in their order.
#[inline(always)]
pub(super) fn decode_packet(
    timing: Timing,
    link: LinkType,
    bytes: &[u8],
    wire: u32,
) -> Result<Packet, Uncounted> {
    let time = match timing {
        Timing::At(time) => time,
        Timing::None => return Err(Uncounted::NoTimestamp),
        Timing::Bad => return Err(Uncounted::BadTime),
    };
    let (pair, bytes) = decode(link, bytes, wire)?;
    Ok(Packet { time, pair, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Class;

    #[test]
    fn file_that_is_no_capture_is_rejected() {
        let class = |bytes: &[u8]| {
            let mut reader = Reader::from_read("x", Box::new(std::io::Cursor::new(bytes.to_vec())));
            let class = reader.next().expect_err("no capture").class();
            assert_eq!(reader.next().expect("nothing more"), None);
            class
        };
        assert_eq!(class(b""), Class::Damaged);
        assert_eq!(class(b"GET / HTTP/1.1"), Class::NotCapture);
        assert_eq!(class(b"\xd4\xc3"), Class::Damaged);
        let missing = Reader::open(Path::new("/nonexistent/a.pcap")).err().expect("no such file");
        assert_eq!(missing.class(), Class::Missing);
        let directory = Reader::open(Path::new("/")).err().expect("a directory");
        assert_eq!(directory.class(), Class::Unreadable);
    }
}
