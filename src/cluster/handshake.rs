//! The messages that two processes exchange before they compute together.
//!
//! ```text
//! dialing process                listening process
//!   handshake            ────────▶
//!                    ◀────────   handshake
//!   proof            ────────▶
//!                    ◀────────   verdict, proof
//!   settings         ────────▶
//!                    ◀────────   verdict, and if it is a mismatch settings
//! ```
//!
//! A handshake identifies its process and announces its settings, with a number that was never used before. A proof
//! is a keyed hash of both handshakes: it shows that its maker knows the secret and means this conversation, since
//! both have put a new number into it. The two proofs differ, so that neither can be sent back as a response.
//! Without a secret, proofs only show that the handshakes have arrived whole. A process sends its settings only to
//! a peer that has proved to know the secret.

use std::io;

use super::secret::{self, Proof, Secret};
use super::settings::Fingerprint;
use crate::BUILD;

const MAGIC: [u8; 8] = *b"floodmrk";
const VERSION_BYTES: usize = 16;
const _: () = assert!(BUILD.len() <= VERSION_BYTES, "the build fits into a handshake");
const NONCE_BYTES: usize = 32;
/// The bytes of a handshake: as many in all versions, so that processes of different versions can report it.
pub(super) const HANDSHAKE_BYTES: usize = MAGIC.len() + VERSION_BYTES + 6 * 8 + NONCE_BYTES;

/// The first message of a process: its identity, and the facts that must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handshake {
    version: [u8; VERSION_BYTES],
    pub(super) process: u64,
    processes: u64,
    workers: u64,
    /// Fingerprint of the settings that follow.
    pub(super) settings: Fingerprint,
    /// Number of the rendezvous, as process 0 has drawn it, that this process joins; 0 if it does not know the
    /// number yet.
    pub(super) generation: u64,
    has_secret: bool,
    nonce: [u8; NONCE_BYTES],
}

/// The side of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Dials,
    Listens,
}

/// Response of the listening process to the dialing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Verdict {
    Welcome = 1,
    /// The dialing process does not know the secret.
    WrongSecret = 2,
    /// The dialing process joins another rendezvous; one of the two soon learns the right number.
    OtherGeneration = 3,
    /// A process with this number has joined already.
    Taken = 4,
    /// The dialing process was started for another computation.
    Mismatch = 5,
    /// The dialing process knows the secret, and must send its settings.
    SendSettings = 6,
}

impl Verdict {
    pub(super) fn from_byte(byte: u8) -> Option<Verdict> {
        use Verdict::{Mismatch, OtherGeneration, SendSettings, Taken, Welcome, WrongSecret};
        let all = [Welcome, WrongSecret, OtherGeneration, Taken, Mismatch, SendSettings];
        all.into_iter().find(|verdict| *verdict as u8 == byte)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// Checks that the bytes received so far may be the beginning of a handshake.
pub(super) fn check_magic(bytes: &[u8]) -> io::Result<()> {
    let length = bytes.len().min(MAGIC.len());
    if bytes[..length] == MAGIC[..length] {
        Ok(())
    } else {
        Err(invalid("the peer is not floodmark"))
    }
}

impl Handshake {
    /// Creates the handshake of a process of this build, without the number of a conversation.
    pub(super) fn new(
        process: usize,
        processes: usize,
        workers: usize,
        settings: Fingerprint,
        has_secret: bool,
    ) -> Self {
        let mut version = [0; VERSION_BYTES];
        version.iter_mut().zip(BUILD.bytes()).for_each(|(to, byte)| *to = byte);
        Handshake {
            version,
            process: process as u64,
            processes: processes as u64,
            workers: workers as u64,
            settings,
            generation: 0,
            has_secret,
            nonce: [0; NONCE_BYTES],
        }
    }

    /// Returns the handshake for one conversation, with a nonce drawn for it.
    pub(super) fn of_conversation(self, generation: u64) -> anyhow::Result<Self> {
        Ok(Handshake { generation, nonce: secret::draw()?, ..self })
    }

    pub(super) fn to_bytes(self) -> [u8; HANDSHAKE_BYTES] {
        let numbers = [
            self.process,
            self.processes,
            self.workers,
            self.settings,
            self.generation,
            u64::from(self.has_secret),
        ];
        let numbers = numbers.into_iter().flat_map(u64::to_be_bytes);
        let all = MAGIC.into_iter().chain(self.version).chain(numbers).chain(self.nonce);
        let mut bytes = [0; HANDSHAKE_BYTES];
        bytes.iter_mut().zip(all).for_each(|(to, byte)| *to = byte);
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; HANDSHAKE_BYTES]) -> io::Result<Self> {
        check_magic(bytes)?;
        let whole = "the parts of a handshake add up to its length";
        let (version, rest) = bytes[MAGIC.len()..].split_first_chunk().expect(whole);
        let (numbers, nonce) = rest.split_last_chunk().expect(whole);
        let mut numbers = numbers.chunks_exact(8).map(|chunk| {
            u64::from_be_bytes(chunk.try_into().expect("a chunk of 8 bytes has 8 bytes"))
        });
        let mut next = || numbers.next().expect(whole);
        Ok(Handshake {
            version: *version,
            process: next(),
            processes: next(),
            workers: next(),
            settings: next(),
            generation: next(),
            has_secret: next() != 0,
            nonce: *nonce,
        })
    }

    fn version(&self) -> String {
        let text = self.version.split(|byte| *byte == 0).next().unwrap_or_default();
        text.escape_ascii().to_string()
    }

    /// Returns the reason if, by its handshake, the other process can't be one of this computation.
    pub(super) fn mismatch(&self, other: &Handshake) -> Option<String> {
        let peer = format!("process {}", other.process);
        let differs = |what: &str, theirs: u64, ours: u64| {
            format!("{peer} was started with {what} {theirs}, this one with {what} {ours}")
        };
        if other.version != self.version {
            Some(format!("{peer} has version {}, this one has {}", other.version(), self.version()))
        } else if other.processes != self.processes {
            Some(differs("-n", other.processes, self.processes))
        } else if other.workers != self.workers {
            Some(differs("-w", other.workers, self.workers))
        } else if other.process == self.process || other.process >= self.processes {
            Some(format!("{peer} was started twice: each process needs a -p of its own"))
        } else {
            None
        }
    }

    /// Describes how the secrets of the two processes differ.
    pub(super) fn secret_mismatch(&self, other: &Handshake) -> String {
        let peer = format!("process {}", other.process);
        match (self.has_secret, other.has_secret) {
            (true, false) => {
                format!("{peer} was started without --cluster-secret, this one with it")
            }
            (false, true) => {
                format!("{peer} was started with --cluster-secret, this one without it")
            }
            _ => format!("{peer} has another secret: give all processes the same --cluster-secret"),
        }
    }
}

/// Both handshakes, as both sides have them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handshakes {
    pub(super) dials: Handshake,
    pub(super) listens: Handshake,
}

impl Handshakes {
    /// Returns the proof of one side.
    pub(super) fn prove(&self, secret: Option<&Secret>, side: Side) -> Proof {
        let (label, dials, listens) = self.parts(side);
        secret::prove(secret, &[label, &dials, &listens])
    }

    /// Whether the proof of one side is valid.
    pub(super) fn is_proof(&self, secret: Option<&Secret>, side: Side, proof: &[u8]) -> bool {
        let (label, dials, listens) = self.parts(side);
        secret::is_proof(secret, &[label, &dials, &listens], proof)
    }

    fn parts(&self, side: Side) -> (&'static [u8], [u8; HANDSHAKE_BYTES], [u8; HANDSHAKE_BYTES]) {
        let label: &[u8] = match side {
            Side::Dials => b"dials",
            Side::Listens => b"listens",
        };
        (label, self.dials.to_bytes(), self.listens.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(process: usize) -> Handshake {
        Handshake::new(process, 3, 2, 77, true).of_conversation(7).unwrap()
    }

    #[test]
    fn encoded_handshake_is_decoded_to_itself() {
        let handshake = handshake(1);
        assert_eq!(Handshake::from_bytes(&handshake.to_bytes()).unwrap(), handshake);
        assert_eq!(handshake.version(), BUILD);
        let mut bytes = handshake.to_bytes();
        bytes[0] ^= 1;
        assert!(Handshake::from_bytes(&bytes).is_err());
        assert!(check_magic(b"floo").is_ok() && check_magic(b"GET ").is_err());
        for byte in 0..=u8::MAX {
            let verdict = Verdict::from_byte(byte);
            assert!(verdict.is_none_or(|verdict| verdict as u8 == byte));
            assert_eq!(verdict.is_some(), (1..=6).contains(&byte));
        }
    }

    #[test]
    fn handshake_of_another_computation_is_a_mismatch() {
        let one = handshake(0);
        assert_eq!(one.mismatch(&handshake(2)), None);
        // Another rendezvous is no mistake of the user.
        assert_eq!(one.mismatch(&handshake(2).of_conversation(8).unwrap()), None);
        let other = |other: Handshake| one.mismatch(&other).unwrap();
        assert!(
            other(Handshake { processes: 4, ..handshake(1) }).contains("-n 4, this one with -n 3")
        );
        assert!(
            other(Handshake { workers: 1, ..handshake(1) }).contains("-w 1, this one with -w 2")
        );
        assert!(other(handshake(0)).contains("started twice"));
        assert!(other(handshake(3)).contains("started twice"));
        let version = *b"9.9\n\0\0\0\0\0\0\0\0\0\0\0\0";
        let message = format!("process 1 has version 9.9\\n, this one has {BUILD}");
        assert_eq!(other(Handshake { version, ..handshake(1) }), message);
        // A build of the same version from other sources.
        let mut build = handshake(1);
        build.version[BUILD.len() - 1] ^= 1;
        let why = other(build);
        assert!(why.starts_with("process 1 has version ") && why.contains('+'), "{why}");
    }

    #[test]
    fn proof_is_valid_for_one_side_of_one_conversation() {
        let secret = &Secret::drawn().unwrap();
        let handshakes = Handshakes { dials: handshake(1), listens: handshake(0) };
        let proof = handshakes.prove(Some(secret), Side::Dials);
        assert!(handshakes.is_proof(Some(secret), Side::Dials, &proof));
        assert!(!handshakes.is_proof(Some(secret), Side::Listens, &proof));
        assert!(!handshakes.is_proof(None, Side::Dials, &proof));
        // The proof repeated in another conversation, or with another handshake.
        let again = Handshakes { listens: handshake(0), ..handshakes };
        assert!(!again.is_proof(Some(secret), Side::Dials, &proof));
        let changed =
            Handshakes { dials: Handshake { workers: 9, ..handshakes.dials }, ..handshakes };
        assert!(!changed.is_proof(Some(secret), Side::Dials, &proof));
    }
}
