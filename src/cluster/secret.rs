//! A secret that processes share, and how each proves that it knows it without saying it.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::base::error::{Exit, Failure};

/// Bytes that no other program knows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Vec<u8>);

/// Minimum length of a secret: a shorter one can be guessed.
const LEAST_BYTES: usize = 16;
/// Maximum length of a secret: a longer file is another one, given by mistake.
const MOST_BYTES: usize = 4096;

/// The bytes of a proof.
pub(super) const PROOF_BYTES: usize = 32;

/// A keyed hash that proves that its maker knows the secret.
pub(super) type Proof = [u8; PROOF_BYTES];

/// Draws random bytes that nobody can guess.
pub(super) fn draw<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("drawing random bytes from this system: {error}"))?;
    Ok(bytes)
}

impl Secret {
    /// A new one.
    pub(super) fn drawn() -> anyhow::Result<Self> {
        Ok(Secret(draw::<32>()?.to_vec()))
    }

    /// The secret in a file. White space around it does not count, since editors add it.
    pub(super) fn read(file: &Path) -> Result<Self, Failure> {
        let name = file.display();
        let mut bytes = Vec::new();
        File::open(file)
            .and_then(|file| file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes))
            .with_context(|| format!("reading the cluster secret \"{name}\""))
            .map_err(|error| Failure::new(Exit::NoInput, error))?;
        let secret = bytes.trim_ascii();
        let fault = match secret.len() {
            ..LEAST_BYTES => format!("has fewer than {LEAST_BYTES} bytes"),
            _ if bytes.len() > MOST_BYTES => format!("has more than {MOST_BYTES} bytes"),
            _ => return Ok(Secret(secret.to_vec())),
        };
        Err(Failure::new(
            Exit::BadConfig,
            anyhow!("the cluster secret \"{name}\" {fault}: make one by openssl rand -hex 32"),
        ))
    }

    /// As the processes of one start are given it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The opposite of [`Secret::bytes`].
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        Secret(bytes)
    }
}

/// No secret gets into a message by mistake.
impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

fn mac(secret: Option<&Secret>, parts: &[&[u8]]) -> Hmac<Sha256> {
    // Without a secret it is a checksum.
    let key = secret.map_or(&[][..], |secret| &secret.0);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of HMAC has any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

/// Proves the knowledge of the secret for this conversation.
pub(super) fn prove(secret: Option<&Secret>, parts: &[&[u8]]) -> Proof {
    mac(secret, parts).finalize().into_bytes().into()
}

/// Whether a proof is one, in a time that tells nothing about it.
pub(super) fn is_proof(secret: Option<&Secret>, parts: &[&[u8]], proof: &[u8]) -> bool {
    mac(secret, parts).verify_slice(proof).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Secret, Failure> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
        Secret::read(file.path())
    }

    #[test]
    fn files() {
        assert_eq!(read(b" 0123456789abcdef\n").unwrap(), Secret(b"0123456789abcdef".to_vec()));
        for bad in [&b""[..], b"  \n", b"0123456789abcde\n", &[b'x'; MOST_BYTES + 1]] {
            assert_eq!(read(bad).unwrap_err().exit, Exit::BadConfig);
        }
        let none = Secret::read(Path::new("/no/such/secret")).unwrap_err();
        assert_eq!(none.exit, Exit::NoInput);
    }

    #[test]
    fn a_proof_holds_for_one_secret_and_one_conversation() {
        let (one, other) = (Secret::drawn().unwrap(), Secret::drawn().unwrap());
        assert_ne!(one, other);
        let proof = prove(Some(&one), &[b"a", b"b"]);
        assert!(is_proof(Some(&one), &[b"a", b"b"], &proof));
        assert!(!is_proof(Some(&other), &[b"a", b"b"], &proof));
        assert!(!is_proof(None, &[b"a", b"b"], &proof));
        assert!(!is_proof(Some(&one), &[b"b", b"a"], &proof));
        assert!(!is_proof(Some(&one), &[b"a", b"b"], &proof[..31]));
        assert_eq!(format!("{one:?}"), "Secret");
    }
}
