//! Decompression: members of gzip and frames of zstd, any number of them, with padding after them.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// A zstd frame may ask for this much of its past (128 MiB, what the zstd tool grants unasked).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// One member after another, as one stream. Zero bytes after a member are padding: tapes and block
/// devices have them.
pub(super) struct Members<R> {
    state: State<R>,
}

enum State<R> {
    /// Within a member of gzip.
    Gzip(Box<GzDecoder<R>>),
    /// Within a frame of zstd, or before one.
    Zstd { source: R, decoder: Box<Decoder<'static>>, within: bool },
    /// After an error, or the last member.
    Over,
}

impl<R: BufRead> Members<R> {
    /// From the start of a member of gzip on.
    pub(super) fn gzip(source: R) -> Self {
        Members { state: State::Gzip(Box::new(GzDecoder::new(source))) }
    }

    /// From the start of a frame of zstd on.
    pub(super) fn zstd(source: R) -> io::Result<Self> {
        let mut decoder = Box::new(Decoder::new()?);
        decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
        Ok(Members { state: State::Zstd { source, decoder, within: false } })
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if room.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.state {
                State::Over => return Ok(0),
                State::Gzip(decoder) => {
                    let count = decoder.read(room)?;
                    if count > 0 {
                        return Ok(count);
                    }
                    let more = skip_padding(decoder.get_mut())?;
                    let State::Gzip(decoder) = std::mem::replace(&mut self.state, State::Over)
                    else {
                        continue;
                    };
                    if more {
                        let next = GzDecoder::new(decoder.into_inner());
                        self.state = State::Gzip(Box::new(next));
                    }
                }
                State::Zstd { source, decoder, within } => {
                    if !*within {
                        if !skip_padding(source)? {
                            self.state = State::Over;
                            continue;
                        }
                        decoder.reinit()?;
                        *within = true;
                    }
                    let count = zstd_step(source, decoder, within, room)?;
                    if count > 0 {
                        return Ok(count);
                    }
                }
            }
        }
    }
}

/// Decompresses a little of a frame, and notices its end.
fn zstd_step(
    source: &mut impl BufRead,
    decoder: &mut Decoder<'static>,
    within: &mut bool,
    room: &mut [u8],
) -> io::Result<usize> {
    let bytes = source.fill_buf()?;
    let ended = bytes.is_empty();
    let (mut from, mut to) = (InBuffer::around(bytes), OutBuffer::around(room));
    let left = decoder.run(&mut from, &mut to)?;
    let (used, made) = (from.pos(), to.pos());
    source.consume(used);
    *within = left > 0;
    if ended && made == 0 && *within {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete frame"));
    }
    Ok(made)
}

/// Steps over zero bytes. False at the end of the input.
fn skip_padding(source: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let bytes = match source.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if bytes.is_empty() {
            return Ok(false);
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let more = zeros < bytes.len();
        source.consume(zeros);
        if more {
            return Ok(true);
        }
    }
}
