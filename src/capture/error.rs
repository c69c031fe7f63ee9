//! Errors that end the reading of a capture: the fault, its place, and its class.

use std::fmt;
use std::io;

use super::CAPTURED_MAX;
use crate::base::error::{Exit, Failure};

/// The error that ended the reading of a capture, with its file and place. All packets before that place were
/// returned.
#[derive(Debug)]
pub struct ReadError(Box<Details>);

#[derive(Debug)]
struct Details {
    file: String,
    packet: u64,
    offset: u64,
    fault: Fault,
}

impl ReadError {
    pub(crate) fn new(file: &str, packet: u64, offset: u64, fault: Fault) -> Self {
        ReadError(Box::new(Details { file: file.to_owned(), packet, offset, fault }))
    }

    /// The name the capture was opened by.
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// The number of the frame that would have been next, counted from 1 as other tools do.
    pub fn packet(&self) -> u64 {
        self.0.packet
    }

    /// Bytes of the capture, after decompression, that precede the damage.
    pub fn offset(&self) -> u64 {
        self.0.offset
    }

    /// Returns the fault in the capture.
    pub fn fault(&self) -> &Fault {
        &self.0.fault
    }

    /// Returns the class of the fault, by which the caller decides how to go on.
    pub fn class(&self) -> Class {
        self.0.fault.class()
    }

    /// The exit code of a run that must stop for this.
    pub fn exit(&self) -> Exit {
        match self.class() {
            Class::Missing | Class::Unreadable => Exit::NoInput,
            Class::NotCapture | Class::Damaged => Exit::BadData,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { file, packet, offset, fault } = &*self.0;
        match fault.class() {
            Class::Missing | Class::Unreadable => write!(f, "can't read \"{file}\": {fault}"),
            Class::NotCapture => write!(f, "\"{file}\" is not a capture that can be read: {fault}"),
            Class::Damaged => {
                write!(f, "\"{file}\" is damaged at byte {offset}, packet {packet}: {fault}")
            }
        }
    }
}

impl std::error::Error for ReadError {}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Failure::new(error.exit(), error)
    }
}

/// Class of an error, by the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The file does not exist: name another one.
    Missing,
    /// The bytes could not be read: check permissions, disk or network.
    Unreadable,
    /// The file is no capture, or has a format that is not supported: no packet was counted.
    NotCapture,
    /// The capture is damaged: packets before the damage were counted; the rest is lost.
    Damaged,
}

/// The fault in a capture: the content found, and the content expected.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No file has this name.
    #[error("no such file")]
    Missing,
    /// The name is that of a directory.
    #[error("is a directory; name the files in it")]
    Directory,
    /// Opening or reading failed.
    #[error("{0}")]
    Io(io::Error),
    /// The file is empty.
    #[error("empty; a capture has at least a header of 24 bytes")]
    Empty,
    /// The first four bytes are of no known format.
    #[error("starts with {0:02x?}; expected pcap or pcapng, plain, gzip or zstd")]
    Magic([u8; 4]),
    /// A pcap file of a version other than 2.
    #[error("pcap version {major}.{minor}; expected 2.4")]
    PcapVersion {
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// A pcapng section of an unknown version.
    #[error("pcapng section of version {major}.{minor}; expected 1.0")]
    SectionVersion {
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// A pcapng section whose byte-order mark is not valid.
    #[error("byte-order mark {0:02x?}; expected 1a 2b 3c 4d or 4d 3c 2b 1a")]
    ByteOrder([u8; 4]),
    /// The compressed data is not valid, or ends early.
    #[error("compressed data is broken after this: {0}")]
    Compression(io::Error),
    /// The capture ends within a header, record or block.
    #[error("ends after {found} of {expected} bytes; expected the whole record")]
    Cut {
        /// Bytes there.
        found: usize,
        /// Bytes needed, as far as is known.
        expected: usize,
    },
    /// A frame states a captured length above [`CAPTURED_MAX`].
    #[error("captured length {found}; expected at most {CAPTURED_MAX}")]
    CapturedLength {
        /// The length that the frame states.
        found: u32,
    },
    /// A frame does not fit into its block.
    #[error("captured length {found} exceeds the {available} bytes left in its block")]
    FrameLength {
        /// The length that the frame states.
        found: u32,
        /// Bytes between the block's header and its end.
        available: u32,
    },
    /// The length of a block is impossible.
    #[error(
        "length {found} of a block of type {kind}; expected a multiple of 4, {least} to {most}"
    )]
    BlockLength {
        /// The block's type.
        kind: u32,
        /// The length that the block states.
        found: u32,
        /// The minimum length.
        least: u32,
        /// The greatest length supported.
        most: u32,
    },
    /// A block's two lengths differ.
    #[error("length {found} at the end of a block that began with length {expected}")]
    Trailer {
        /// The length at the end of the block.
        found: u32,
        /// The length at the start of the block.
        expected: u32,
    },
    /// A frame names an interface that is not described before it.
    #[error(
        "a packet names interface {found}, but the section describes only {described} before it"
    )]
    Interface {
        /// The number it names, from 0.
        found: u32,
        /// The number of interfaces described so far.
        described: usize,
    },
    /// A section describes more interfaces than the reader keeps.
    #[error("more than {most} interfaces in a section")]
    Interfaces {
        /// The maximum number of interfaces.
        most: usize,
    },
    /// The length of an option of an interface does not fit its block, or its code.
    #[error("option {code} of an interface has length {found}; expected {expected}")]
    Option {
        /// Its number.
        code: u16,
        /// Its length.
        found: usize,
        /// The length that its code requires, or the number of bytes left in the block.
        expected: usize,
    },
}

impl Fault {
    fn class(&self) -> Class {
        match self {
            Fault::Missing => Class::Missing,
            Fault::Directory | Fault::Io(_) => Class::Unreadable,
            Fault::Magic(_) | Fault::PcapVersion { .. } => Class::NotCapture,
            _ => Class::Damaged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_error_message_names_file_place_and_fault() {
        let error = ReadError::new("a.pcap", 7, 524, Fault::CapturedLength { found: 300_000 });
        assert_eq!(
            error.to_string(),
            "\"a.pcap\" is damaged at byte 524, packet 7: captured length 300000; expected at most 262144"
        );
        assert_eq!(error.exit(), Exit::BadData);
        let error = ReadError::new("b", 1, 0, Fault::Missing);
        assert_eq!(error.to_string(), "can't read \"b\": no such file");
        assert_eq!(error.exit(), Exit::NoInput);
    }
}
