//! A connection whose peer has not identified itself yet.
//!
//! The process polls the connection instead of waiting for it, and drops it after [`HANDSHAKE_TIMEOUT`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::handshake::{HANDSHAKE_BYTES, Handshake, Handshakes, Side, Verdict, check_magic};
use super::secret::{PROOF_BYTES, Secret};
use super::settings::{SETTINGS_MAX, Settings};

/// Time limit for a peer to identify itself, and again to send its settings.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of one read.
const READ_BYTES: usize = 4096;

/// An accepted connection, as the listening process has it.
pub(super) struct PendingPeer {
    pub(super) stream: TcpStream,
    pub(super) from: SocketAddr,
    deadline: Instant,
    /// The handshake of this process.
    own: Handshake,
    /// The bytes received so far.
    bytes: Vec<u8>,
    /// `None` until both sides have sent their handshakes.
    handshakes: Option<Handshakes>,
    /// Whether the peer has proved to know the secret, so that its settings are awaited.
    proved: bool,
}

/// State of the conversation after a poll.
#[derive(Debug)]
pub(super) enum Progress {
    /// The peer has not sent enough yet.
    Pending,
    /// Both handshakes, and whether the peer has proved to know the secret.
    Identified { handshakes: Handshakes, proved: bool },
    /// Both handshakes, and the settings of the peer, which has proved to know the secret.
    SettingsReceived { handshakes: Handshakes, settings: Settings },
    /// The peer is no process of this computation: it failed to identify itself.
    Rejected(io::Error),
}

impl PendingPeer {
    pub(super) fn new(
        stream: TcpStream,
        from: SocketAddr,
        own: Handshake,
        now: Instant,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (deadline, bytes) = (now + HANDSHAKE_TIMEOUT, Vec::new());
        Ok(PendingPeer { stream, from, deadline, own, bytes, handshakes: None, proved: false })
    }

    /// Reads the bytes that have arrived, and returns the state.
    pub(super) fn advance(&mut self, secret: Option<&Secret>, now: Instant) -> Progress {
        match self.try_advance(secret) {
            Ok(Some(progress)) => progress,
            Ok(None) if now < self.deadline => Progress::Pending,
            Ok(None) => {
                let what = if self.proved { "send its settings" } else { "identify itself" };
                let why = format!("it did not {what} within {HANDSHAKE_TIMEOUT:?}");
                Progress::Rejected(io::Error::new(ErrorKind::TimedOut, why))
            }
            Err(error) => Progress::Rejected(error),
        }
    }

    fn try_advance(&mut self, secret: Option<&Secret>) -> io::Result<Option<Progress>> {
        if !self.read(HANDSHAKE_BYTES)? {
            return Ok(None);
        }
        let handshakes = match self.handshakes {
            Some(handshakes) => handshakes,
            None => {
                let handshake = self.bytes[..].try_into().expect("a whole handshake was read");
                let handshakes =
                    Handshakes { dials: Handshake::from_bytes(handshake)?, listens: self.own };
                // Nothing was sent before, so all of this fits into the socket's buffer.
                self.stream.write_all(&self.own.to_bytes())?;
                *self.handshakes.insert(handshakes)
            }
        };
        if !self.read(HANDSHAKE_BYTES + PROOF_BYTES)? {
            return Ok(None);
        }
        if self.proved {
            let settings = self.read_settings(&handshakes)?;
            return Ok(settings.map(|settings| Progress::SettingsReceived { handshakes, settings }));
        }
        let proved = handshakes.is_proof(secret, Side::Dials, &self.bytes[HANDSHAKE_BYTES..]);
        Ok(Some(Progress::Identified { handshakes, proved }))
    }

    /// Reads the settings that follow the proof, once they are whole.
    fn read_settings(&mut self, handshakes: &Handshakes) -> io::Result<Option<Settings>> {
        const LENGTH_AT: usize = HANDSHAKE_BYTES + PROOF_BYTES;
        const JSON_AT: usize = LENGTH_AT + size_of::<u32>();
        if !self.read(JSON_AT)? {
            return Ok(None);
        }
        let length = self.bytes[LENGTH_AT..JSON_AT].try_into().expect("a length has four bytes");
        let length = settings_length(length)?;
        if !self.read(JSON_AT + length)? {
            return Ok(None);
        }
        let json = &self.bytes[JSON_AT..JSON_AT + length];
        Settings::from_json(json, handshakes.dials.settings).map(Some)
    }

    /// Requests the settings of the peer, which has proved to know the secret.
    pub(super) fn request_settings(
        &mut self,
        handshakes: &Handshakes,
        secret: Option<&Secret>,
        now: Instant,
    ) -> io::Result<()> {
        self.proved = true;
        self.deadline = now + HANDSHAKE_TIMEOUT;
        self.respond(handshakes, secret, Verdict::SendSettings)
    }

    /// Reads until `self.bytes` has `all` bytes; returns whether they have arrived.
    fn read(&mut self, all: usize) -> io::Result<bool> {
        while self.bytes.len() < all {
            let mut bytes = [0; READ_BYTES];
            let missing = (all - self.bytes.len()).min(READ_BYTES);
            match self.stream.read(&mut bytes[..missing]) {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer closed it"));
                }
                Ok(count) => {
                    self.bytes.extend_from_slice(&bytes[..count]);
                    check_magic(&self.bytes)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Sends the verdict about the peer's proof, and a proof of this process.
    pub(super) fn respond(
        &mut self,
        handshakes: &Handshakes,
        secret: Option<&Secret>,
        verdict: Verdict,
    ) -> io::Result<()> {
        let mut response = vec![verdict as u8];
        // A peer that does not know the secret gets no proof.
        match verdict {
            Verdict::WrongSecret => response.extend([0; PROOF_BYTES]),
            _ => response.extend(handshakes.prove(secret, Side::Listens)),
        }
        self.stream.write_all(&response)
    }

    /// Sends the verdict about the peer's settings.
    pub(super) fn send_verdict(&mut self, verdict: Verdict) -> io::Result<()> {
        self.stream.write_all(&[verdict as u8])
    }

    /// Rejects the peer's settings, and sends those of this process.
    pub(super) fn reject(&mut self, own: &Settings) -> io::Result<()> {
        // The settings may exceed the buffer of a socket. This process ends after this, so it may block.
        self.stream.set_nonblocking(false)?;
        self.stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
        self.send_verdict(Verdict::Mismatch)?;
        self.stream.write_all(&own.to_bytes())
    }
}

/// Decodes the length of settings, which precedes them.
pub(super) fn settings_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(bytes) as usize;
    if length > SETTINGS_MAX {
        let why = "its settings are too long";
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    Ok(length)
}
