//! A connection that has not shown yet who is at its other end.
//!
//! Nobody waits for it: it is asked now and then whether more has come, and has little time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::hello::{HELLO_BYTES, Hello, Hellos, Role, Verdict, check_magic};
use super::secret::{PROOF_BYTES, Secret};
use super::settings::{SETTINGS_MAX, Settings};

/// The time that a connection has to say who it is, and then to tell its settings.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The bytes read at once.
const READ_BYTES: usize = 4096;

/// A connection, as the process that listens has it.
pub(super) struct Greeting {
    pub(super) stream: TcpStream,
    pub(super) from: SocketAddr,
    until: Instant,
    /// What this process says of itself.
    own: Hello,
    /// What has come so far.
    bytes: Vec<u8>,
    /// Once both have said hello.
    hellos: Option<Hellos>,
    /// Whether it has proved to know the secret, so that its settings are awaited.
    proved: bool,
}

/// What is known now.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing yet.
    Waits,
    /// Both hellos, and whether the other side has proved to know the secret.
    Knows { hellos: Hellos, proved: bool },
    /// Both hellos, and the settings of the other side, which has proved to know the secret.
    Tells { hellos: Hellos, settings: Settings },
    /// It is nobody.
    Stranger(io::Error),
}

impl Greeting {
    pub(super) fn new(
        stream: TcpStream,
        from: SocketAddr,
        own: Hello,
        now: Instant,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (until, bytes) = (now + PATIENCE, Vec::new());
        Ok(Greeting { stream, from, until, own, bytes, hellos: None, proved: false })
    }

    /// Takes what has come.
    pub(super) fn advance(&mut self, secret: Option<&Secret>, now: Instant) -> Progress {
        match self.try_advance(secret) {
            Ok(Some(progress)) => progress,
            Ok(None) if now < self.until => Progress::Waits,
            Ok(None) => {
                let what = if self.proved { "tell its settings" } else { "say who it is" };
                let why = format!("it did not {what} within {PATIENCE:?}");
                Progress::Stranger(io::Error::new(ErrorKind::TimedOut, why))
            }
            Err(error) => Progress::Stranger(error),
        }
    }

    fn try_advance(&mut self, secret: Option<&Secret>) -> io::Result<Option<Progress>> {
        if !self.read(HELLO_BYTES)? {
            return Ok(None);
        }
        let hellos = match self.hellos {
            Some(hellos) => hellos,
            None => {
                let hello = self.bytes[..].try_into().expect("a whole hello was read");
                let hellos = Hellos { dials: Hello::from_bytes(hello)?, listens: self.own };
                // Its buffer is empty, so all of this fits.
                self.stream.write_all(&self.own.to_bytes())?;
                *self.hellos.insert(hellos)
            }
        };
        if !self.read(HELLO_BYTES + PROOF_BYTES)? {
            return Ok(None);
        }
        if self.proved {
            let settings = self.read_settings(&hellos)?;
            return Ok(settings.map(|settings| Progress::Tells { hellos, settings }));
        }
        let proved = hellos.is_proof(secret, Role::Dials, &self.bytes[HELLO_BYTES..]);
        Ok(Some(Progress::Knows { hellos, proved }))
    }

    /// Reads the settings that follow the proof, once they are whole.
    fn read_settings(&mut self, hellos: &Hellos) -> io::Result<Option<Settings>> {
        const LENGTH_AT: usize = HELLO_BYTES + PROOF_BYTES;
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
        Settings::from_json(json, hellos.dials.settings).map(Some)
    }

    /// Asks the other side, which has proved to know the secret, for its settings.
    pub(super) fn ask_settings(
        &mut self,
        hellos: &Hellos,
        secret: Option<&Secret>,
        now: Instant,
    ) -> io::Result<()> {
        self.proved = true;
        self.until = now + PATIENCE;
        self.answer(hellos, secret, Verdict::Known)
    }

    /// Reads up to so many bytes in all, and tells if they are there.
    fn read(&mut self, all: usize) -> io::Result<bool> {
        while self.bytes.len() < all {
            let mut bytes = [0; READ_BYTES];
            let missing = (all - self.bytes.len()).min(READ_BYTES);
            match self.stream.read(&mut bytes[..missing]) {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "it was closed"));
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

    /// Says what comes of the proof.
    pub(super) fn answer(
        &mut self,
        hellos: &Hellos,
        secret: Option<&Secret>,
        verdict: Verdict,
    ) -> io::Result<()> {
        let mut answer = vec![verdict as u8];
        // Who knows no secret is given no proof.
        match verdict {
            Verdict::WrongSecret => answer.extend([0; PROOF_BYTES]),
            _ => answer.extend(hellos.prove(secret, Role::Listens)),
        }
        self.stream.write_all(&answer)
    }

    /// Says what comes of the settings.
    pub(super) fn conclude(&mut self, verdict: Verdict) -> io::Result<()> {
        self.stream.write_all(&[verdict as u8])
    }

    /// Answers that the settings do not fit, with those of this process.
    pub(super) fn refuse(&mut self, own: &Settings) -> io::Result<()> {
        // More than the buffer of a socket may take at once. This process ends, and has time.
        self.stream.set_nonblocking(false)?;
        self.stream.set_write_timeout(Some(PATIENCE))?;
        self.conclude(Verdict::Mismatch)?;
        self.stream.write_all(&own.to_bytes())
    }
}

/// The length of settings, from the bytes before them.
pub(super) fn settings_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(bytes) as usize;
    if length > SETTINGS_MAX {
        let why = "its settings are longer than any program has";
        return Err(io::Error::new(ErrorKind::InvalidData, why));
    }
    Ok(length)
}
