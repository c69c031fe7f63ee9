//! Decompression: members of gzip and frames of zstd, any number of them, with padding after them.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// Maximum window of a zstd frame, as a power of two: 128 MiB, the default limit of the zstd tool.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// The members of a source as one stream. Zero bytes after a member are padding, as of tapes and block devices.
pub(super) struct Members<R> {
    state: MemberState<R>,
}

enum MemberState<R> {
    /// Within a member of gzip.
    Gzip(Box<GzDecoder<R>>),
    /// Within a frame of zstd, or before one.
    Zstd { source: R, decoder: Box<Decoder<'static>>, in_frame: bool },
    /// After an error, or the last member.
    Ended,
}

impl<R: BufRead> Members<R> {
    /// Reads from the start of a gzip member.
    pub(super) fn gzip(source: R) -> Self {
        Members { state: MemberState::Gzip(Box::new(GzDecoder::new(source))) }
    }

    /// Reads from the start of a zstd frame.
    pub(super) fn zstd(source: R) -> io::Result<Self> {
        let mut decoder = Box::new(Decoder::new()?);
        decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
        Ok(Members { state: MemberState::Zstd { source, decoder, in_frame: false } })
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.state {
                MemberState::Ended => return Ok(0),
                MemberState::Gzip(decoder) => {
                    let count = decoder.read(buffer)?;
                    if count > 0 {
                        return Ok(count);
                    }
                    let more = skip_padding(decoder.get_mut())?;
                    let MemberState::Gzip(decoder) =
                        std::mem::replace(&mut self.state, MemberState::Ended)
                    else {
                        continue;
                    };
                    if more {
                        let next = GzDecoder::new(decoder.into_inner());
                        self.state = MemberState::Gzip(Box::new(next));
                    }
                }
                MemberState::Zstd { source, decoder, in_frame } => {
                    if !*in_frame {
                        if !skip_padding(source)? {
                            self.state = MemberState::Ended;
                            continue;
                        }
                        decoder.reinit()?;
                        *in_frame = true;
                    }
                    let count = zstd_step(source, decoder, in_frame, buffer)?;
                    if count > 0 {
                        return Ok(count);
                    }
                }
            }
        }
    }
}

/// Decompresses a part of a frame, and clears `in_frame` at its end.
fn zstd_step(
    source: &mut impl BufRead,
    decoder: &mut Decoder<'static>,
    in_frame: &mut bool,
    buffer: &mut [u8],
) -> io::Result<usize> {
    let bytes = source.fill_buf()?;
    let ended = bytes.is_empty();
    let (mut from, mut to) = (InBuffer::around(bytes), OutBuffer::around(buffer));
    let left = decoder.run(&mut from, &mut to)?;
    let (used, made) = (from.pos(), to.pos());
    source.consume(used);
    *in_frame = left > 0;
    if ended && made == 0 && *in_frame {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete frame"));
    }
    Ok(made)
}

/// Skips zero bytes. Returns false at the end of the input.
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
