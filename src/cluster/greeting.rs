//! A connection that has not shown yet who is at its other end.
//!
//! Nobody waits for it: it is asked now and then whether more has come, and has little time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::hello::{HELLO_BYTES, Hello, Hellos, Role, Verdict, check_magic};
use super::secret::{PROOF_BYTES, Secret};

/// How long a connection may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(2);

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
}

/// What is known now.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing yet.
    Waits,
    /// Both hellos, and whether the other side has proved to know the secret.
    Knows { hellos: Hellos, proved: bool },
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
        Ok(Greeting { stream, from, until: now + PATIENCE, own, bytes: Vec::new(), hellos: None })
    }

    /// Takes what has come.
    pub(super) fn advance(&mut self, secret: Option<&Secret>, now: Instant) -> Progress {
        match self.try_advance(secret) {
            Ok(Some(progress)) => progress,
            Ok(None) if now < self.until => Progress::Waits,
            Ok(None) => {
                let why = format!("it did not say who it is within {PATIENCE:?}");
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
        let proved = hellos.is_proof(secret, Role::Dials, &self.bytes[HELLO_BYTES..]);
        Ok(Some(Progress::Knows { hellos, proved }))
    }

    /// Reads up to so many bytes in all, and tells if they are there.
    fn read(&mut self, all: usize) -> io::Result<bool> {
        while self.bytes.len() < all {
            let mut bytes = [0; HELLO_BYTES];
            let missing = (all - self.bytes.len()).min(HELLO_BYTES);
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

    /// Says what comes of it.
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
}
