//! A secret that processes share, and proofs that a process knows it, which do not reveal it.

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
const BYTES_MIN: usize = 16;
/// Maximum length of a secret: a longer file was given by mistake.
const BYTES_MAX: usize = 4096;

/// The bytes of a proof.
pub(super) const PROOF_BYTES: usize = 32;

/// A keyed hash that proves that its maker knows the secret.
pub(super) type Proof = [u8; PROOF_BYTES];

/// Draws random bytes that can't be guessed.
pub(super) fn draw<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("drawing random bytes from this system: {error}"))?;
    Ok(bytes)
}

impl Secret {
    /// Draws a new secret.
    pub(super) fn drawn() -> anyhow::Result<Self> {
        Ok(Secret(draw::<32>()?.to_vec()))
    }

    /// Reads the secret from a file, without the white space around it, which editors add.
    pub(super) fn read(file: &Path) -> Result<Self, Failure> {
        let name = file.display();
        let mut bytes = Vec::new();
        File::open(file)
            .and_then(|file| file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
            .with_context(|| format!("reading the cluster secret \"{name}\""))
            .map_err(|error| Failure::new(Exit::NoInput, error))?;
        let secret = bytes.trim_ascii();
        let problem = match secret.len() {
            ..BYTES_MIN => format!("has fewer than {BYTES_MIN} bytes"),
            _ if bytes.len() > BYTES_MAX => format!("has more than {BYTES_MAX} bytes"),
            _ => return Ok(Secret(secret.to_vec())),
        };
        Err(Failure::new(
            Exit::BadConfig,
            anyhow!("the cluster secret \"{name}\" {problem}: make one by openssl rand -hex 32"),
        ))
    }

    /// Returns the bytes, to be sent to the processes of one start.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The opposite of [`Secret::bytes`].
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        Secret(bytes)
    }
}

/// Hides the bytes, so that no message contains them by mistake.
impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

fn mac(secret: Option<&Secret>, parts: &[&[u8]]) -> Hmac<Sha256> {
    // Without a secret the code is a checksum.
    let key = secret.map_or(&[][..], |secret| &secret.0);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of HMAC has any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

/// Proves the knowledge of the secret for this conversation.
pub(super) fn prove(secret: Option<&Secret>, parts: &[&[u8]]) -> Proof {
    mac(secret, parts).finalize().into_bytes().into()
}

/// Whether a proof is valid, in a time that does not depend on the bytes.
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
    fn secret_file_of_invalid_length_is_rejected() {
        assert_eq!(read(b" 0123456789abcdef\n").unwrap(), Secret(b"0123456789abcdef".to_vec()));
        for bad in [&b""[..], b"  \n", b"0123456789abcde\n", &[b'x'; BYTES_MAX + 1]] {
            assert_eq!(read(bad).unwrap_err().exit, Exit::BadConfig);
        }
        let none = Secret::read(Path::new("/no/such/secret")).unwrap_err();
        assert_eq!(none.exit, Exit::NoInput);
    }

    #[test]
    fn proof_is_valid_for_one_secret_and_one_conversation() {
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
