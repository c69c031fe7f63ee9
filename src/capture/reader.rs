//! The reader: from a name to the packets that count.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;

use super::decode::decode;
use super::input::Input;
use super::link::unread_number;
use super::packet::Packet;
use super::pcap::{self, Pcap};
use super::pcapng::{self, Pcapng, Repeated};
use super::strays::{Stray, Strays};
use super::{Fault, Found, LinkType, ReadError, Tally, Timing, Uncounted};
use crate::base::date::format_ms;
use crate::base::quote::Quoted;

/// Reads one capture, whatever its format and compression.
///
/// A packet is handed over as soon as its bytes are there. Reading ends with the capture, or with one
/// error after everything that precedes it; from then on there is nothing. (Of broken compressed data
/// the decompressors don't hand over what they made in the call that failed.)
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
    strays: Strays,
    /// Why reading ended, until it is returned.
    error: Option<ReadError>,
    /// Reports oddities that do no harm; without it they go to the log.
    warn: Option<Warn>,
    /// The options of which it was warned.
    warned: Vec<&'static str>,
}

/// Reports an oddity of a capture.
pub type Warn = Box<dyn Fn(&str) + Send>;

/// Strays of a capture that are named.
const STRAYS_NAMED: u64 = 20;

/// The time for which a packet of a pipe that may be a stray waits for the next one.
const STRAY_WAIT: Duration = Duration::from_secs(1);

enum Format {
    /// Not told yet.
    Unknown,
    Pcap(Pcap),
    Pcapng(Pcapng),
    /// Nothing more will come.
    Over,
}

impl Reader {
    /// Opens a file or a FIFO, or standard input by the name `-`. Nothing is read yet: what the file
    /// is shows with the first packet.
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

    /// Reads what begins as a capture does.
    pub(crate) fn from_input(name: &str, input: Input) -> Reader {
        Reader::new(name.to_owned(), input)
    }

    /// Whether bytes begin as those of a capture do. Four are enough to tell.
    pub(crate) fn begins(bytes: &[u8]) -> bool {
        bytes.first_chunk().is_some_and(|magic| *magic == pcapng::SECTION || Pcap::begins(*magic))
    }

    /// Reads from anything, under a name for messages.
    pub fn from_read(name: &str, source: Box<dyn Read + Send>) -> Reader {
        Reader::new(name.to_owned(), Input::from_read(source))
    }

    fn new(name: String, input: Input) -> Self {
        let (format, tally, strays) = (Format::Unknown, Tally::default(), Strays::believed());
        Reader { name, input, format, tally, strays, error: None, warn: None, warned: Vec::new() }
    }

    /// Drops strays: packets with a time more than this after that of the next packet. Without a call all
    /// packets are believed.
    ///
    /// A packet that moves the clock of the capture by more than that is handed over when the next one has
    /// come, or after a second in which none came through a pipe. The last packet is no stray.
    pub fn drop_strays(&mut self, max_ahead_ms: u64) {
        self.strays = Strays::beyond(max_ahead_ms);
    }

    /// Reports oddities that do no harm, such as an option that is there twice, by `warn`.
    pub fn warn_by(&mut self, warn: Warn) {
        self.warn = Some(warn);
    }

    /// The next packet that counts, the frames before it that do not being tallied. `None` at the end
    /// and ever after.
    ///
    /// # Errors
    /// The capture is damaged or can't be read, after the last packet that precedes that.
    #[expect(clippy::should_implement_trait, reason = "an error ends it, which no iterator says")]
    pub fn next(&mut self) -> Result<Option<Packet>, ReadError> {
        Ok(self.each(ControlFlow::Break)?.break_value())
    }

    /// Calls `take` with each packet that counts, as long as it wants to go on. It is what
    /// [`Reader::next`] gives, without a copy of each packet on its way out.
    ///
    /// # Errors
    /// The capture is damaged or can't be read, after the last packet that precedes that.
    #[inline]
    pub fn each<B>(
        &mut self,
        mut take: impl FnMut(Packet) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, ReadError> {
        if self.strays.has_some()
            && let ControlFlow::Break(end) = self.resume(&mut take)
        {
            return Ok(ControlFlow::Break(end));
        }
        loop {
            let found = match &mut self.format {
                Format::Pcap(pcap) => pcap.next(self.input.bytes()),
                Format::Pcapng(pcapng) => pcapng.next(self.input.bytes()),
                Format::Unknown => match begin(self.input.bytes()) {
                    Begin::Format(format, used) => {
                        self.format = format;
                        Found::Pass(used)
                    }
                    Begin::Need(need) => Found::Need(need),
                    Begin::Bad(fault) => Found::Bad(fault),
                },
                Format::Over => return self.over(&mut take),
            };
            match found {
                Found::Frame(frame, used) => {
                    match judge(frame.timing, frame.link, frame.bytes, frame.wire) {
                        Ok(packet) => {
                            self.input.pass(used);
                            self.tally.count(packet.bytes);
                            let taken = match self.strays.pass(packet.time.ms) {
                                true => take(packet),
                                false => self.look(packet, &mut take),
                            };
                            if let ControlFlow::Break(end) = taken {
                                return Ok(ControlFlow::Break(end));
                            }
                        }
                        Err(kind) => {
                            count_unread(&mut self.tally, kind, frame.link, frame.bytes);
                            self.input.pass(used);
                        }
                    }
                }
                Found::Pass(used) => {
                    self.input.pass(used);
                    self.warn_of_repeated();
                }
                Found::Need(need) => match self.input.fill(need) {
                    Ok(true) if self.input.is_late() => {
                        if let ControlFlow::Break(end) = self.release(&mut take) {
                            return Ok(ControlFlow::Break(end));
                        }
                    }
                    Ok(true) => {}
                    Ok(false) => self.end(need),
                    Err(fault) => self.fail(fault),
                },
                Found::Bad(fault) => self.fail(fault),
            }
        }
    }

    /// Hands over packets that are ready since the last call.
    #[cold]
    fn resume<B>(&mut self, take: &mut impl FnMut(Packet) -> ControlFlow<B>) -> ControlFlow<B> {
        // The time between two calls is no waiting for the next packet.
        self.bound_waiting();
        self.hand_over(take)
    }

    fn hand_over<B>(&mut self, take: &mut impl FnMut(Packet) -> ControlFlow<B>) -> ControlFlow<B> {
        while let Some(packet) = self.strays.ready() {
            take(packet)?;
        }
        ControlFlow::Continue(())
    }

    /// Looks at a packet beside the one that is held.
    #[cold]
    fn look<B>(
        &mut self,
        packet: Packet,
        take: &mut impl FnMut(Packet) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if let Some(stray) = self.strays.look(packet, self.tally.frames) {
            self.tally.withdraw_stray(stray.packet.bytes);
            self.name_stray(&stray, &packet);
        }
        self.bound_waiting();
        self.hand_over(take)
    }

    /// Hands over the packet that is held, since no next one comes.
    #[cold]
    fn release<B>(&mut self, take: &mut impl FnMut(Packet) -> ControlFlow<B>) -> ControlFlow<B> {
        self.strays.release();
        self.bound_waiting();
        self.hand_over(take)
    }

    /// Ends reading, after the packet that is held. An error is returned once.
    #[cold]
    fn over<B>(
        &mut self,
        take: &mut impl FnMut(Packet) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, ReadError> {
        if let ControlFlow::Break(end) = self.release(take) {
            return Ok(ControlFlow::Break(end));
        }
        self.error.take().map_or(Ok(ControlFlow::Continue(())), Err)
    }

    /// Bounds the waiting for the next packet, if one is held until it comes.
    #[inline]
    fn bound_waiting(&mut self) {
        self.input.wait_at_most(self.strays.holds().then_some(STRAY_WAIT));
    }

    fn name_stray(&self, stray: &Stray, next: &Packet) {
        let name = Quoted(&self.name);
        match self.tally.uncounted(Uncounted::Stray) {
            ..=STRAYS_NAMED => self.warn(&format!(
                "{name}: frame {} is dropped as a stray: its time {} is more than {} ahead of that of the \
                 next packet, {}; a greater --max-ahead keeps it",
                stray.frame,
                format_ms(stray.packet.time.ms),
                format_span(self.strays.max_ahead_ms()),
                format_ms(next.time.ms),
            )),
            count if count == STRAYS_NAMED + 1 => {
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
        let Some(Repeated { interface, option }) = pcapng.repeated() else { return };
        if self.warned.contains(&option) {
            return;
        }
        self.warned.push(option);
        let name = Quoted(&self.name);
        let text = format!("{name}: interface {interface} has {option} twice; the first one holds");
        self.warn(&text);
    }

    /// The input has ended while so many bytes were needed.
    #[cold]
    fn end(&mut self, need: usize) {
        let found = self.input.bytes().len();
        let fault = match &self.format {
            Format::Unknown if found == 0 => Fault::Empty,
            Format::Pcapng(pcapng) if found == 0 && pcapng.between_blocks() => return self.close(),
            Format::Pcap(_) if found == 0 => return self.close(),
            _ => Fault::Cut { found, expected: need },
        };
        self.fail(fault);
    }

    /// Ends reading. The error is returned after the packet that is held.
    #[cold]
    fn fail(&mut self, fault: Fault) {
        let error = ReadError::new(&self.name, self.tally.frames + 1, self.input.passed(), fault);
        self.error = Some(error);
        self.close();
    }

    fn close(&mut self) {
        self.format = Format::Over;
        self.input.close();
    }

    /// Returns the counts of the frames read so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The name the capture was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes taken so far from the file as it is, compressed if it is: how far a progress bar is.
    pub fn offset(&self) -> u64 {
        self.input.raw_bytes()
    }

    /// Returns the value at which [`Reader::offset`] will end, for a regular file.
    pub fn size_hint(&self) -> Option<u64> {
        self.input.size_hint()
    }

    /// Bytes of memory held for the capture's bytes: at most [`super::BUFFER_MAX`].
    pub fn buffer_capacity(&self) -> usize {
        self.input.capacity()
    }
}

fn format_span(ms: u64) -> impl std::fmt::Display {
    format!("{:#}", SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)))
}

enum Begin {
    Format(Format, usize),
    Need(usize),
    Bad(Fault),
}

fn begin(bytes: &[u8]) -> Begin {
    let Some(magic) = bytes.first_chunk() else {
        return Begin::Need(4);
    };
    if *magic == pcapng::SECTION {
        return Begin::Format(Format::Pcapng(Pcapng::new()), 0);
    }
    if !Pcap::begins(*magic) {
        return Begin::Bad(Fault::Magic(*magic));
    }
    match bytes.first_chunk().map(Pcap::new) {
        None => Begin::Need(pcap::HEADER),
        Some(Ok((_, size))) if bytes.len() < size => Begin::Need(size),
        Some(Ok((pcap, size))) => Begin::Format(Format::Pcap(pcap), size),
        Some(Err(fault)) => Begin::Bad(fault),
    }
}

/// Counts a frame that is no packet that counts.
#[cold]
pub(super) fn count_unread(tally: &mut Tally, kind: Uncounted, link: LinkType, bytes: &[u8]) {
    match kind {
        Uncounted::LinkType => tally.pass_link_type(unread_number(link, bytes)),
        _ => tally.pass(kind),
    }
}

/// The rules of what counts, in their order.
#[inline(always)]
pub(super) fn judge(
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
    fn what_is_no_capture_is_refused() {
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
