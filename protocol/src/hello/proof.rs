//! The proof that a side has the cluster key, over everything both have said so far.
//!
//! ```text
//!   dialler's proof   = HMAC-SHA256(key, "pagewire dialler v1"  | intros | dialler's hello)
//!   acceptor's proof  = HMAC-SHA256(key, "pagewire acceptor v1" | intros | both hellos)
//!   traffic secret    = HMAC-SHA256(key, "pagewire traffic v1"  | intros | both hellos)
//! ```
//! Why this proves something: each side's 32 random bytes are in the intros, so a proof made for
//! another connection verifies on no other (replay); the labels differ, so one side's proof is never
//! the other's (reflection); the versions and flags that were sent in the clear are covered, so
//! changing them on the way is found out (downgrade). All parts have fixed sizes and no label begins
//! another, so no two different conversations make the same input.
//!
//! Without a cluster key the HMAC is made with an empty key: it then proves nothing, but finds
//! accidents and keeps to one code path.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroize;

use super::{HELLO_BYTES, INTRO_BYTES};

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;
const TRANSCRIPT_BYTES: usize = 2 * INTRO_BYTES + 2 * HELLO_BYTES;
const _: () = assert!(TRANSCRIPT_BYTES == 352);

/// Fresh random bytes of one side for one connection; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; NONCE_BYTES]);

/// The cluster key as the handshake uses it, or that there is none.
#[derive(Clone, Copy)]
pub struct ProofKey<'k>(Option<&'k [u8]>);

impl<'k> ProofKey<'k> {
    /// No cluster key.
    pub const NONE: ProofKey<'static> = ProofKey(None);

    /// The content of a cluster key.
    #[must_use]
    pub const fn new(key: &'k [u8]) -> Self {
        Self(Some(key))
    }

    /// Whether there is a key.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for ProofKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_some() { "ProofKey(secret)" } else { "ProofKey(none)" })
    }
}

/// What a proof is a proof of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Label {
    Dialler,
    Acceptor,
    Traffic,
}

impl Label {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Dialler => b"pagewire dialler v1",
            Self::Acceptor => b"pagewire acceptor v1",
            Self::Traffic => b"pagewire traffic v1",
        }
    }
}

/// Everything that was said, in order, without the proofs.
#[derive(Clone)]
pub(super) struct Transcript {
    bytes: [u8; TRANSCRIPT_BYTES],
    len: usize,
}

impl Transcript {
    pub(super) fn new() -> Self {
        Self { bytes: [0; TRANSCRIPT_BYTES], len: 0 }
    }

    /// Appends what was said. The exchange has no more steps than there is room for.
    pub(super) fn push(&mut self, said: &[u8]) {
        let end = (self.len + said.len()).min(TRANSCRIPT_BYTES);
        debug_assert_eq!(end, self.len + said.len());
        self.bytes[self.len..end].copy_from_slice(&said[..end - self.len]);
        self.len = end;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn mac(&self, key: ProofKey<'_>, label: Label) -> Option<Hmac<Sha256>> {
        // HMAC takes keys of any length; the error is of other MACs.
        let mut mac = Hmac::<Sha256>::new_from_slice(key.0.unwrap_or_default()).ok()?;
        mac.update(label.bytes());
        mac.update(&self.bytes[..self.len]);
        Some(mac)
    }

    pub(super) fn prove(&self, key: ProofKey<'_>, label: Label) -> [u8; PROOF_BYTES] {
        self.mac(key, label).map_or([0; PROOF_BYTES], |mac| mac.finalize().into_bytes().into())
    }

    /// Compares in constant time.
    pub(super) fn verifies(&self, key: ProofKey<'_>, label: Label, proof: &[u8]) -> bool {
        self.mac(key, label).is_some_and(|mac| mac.verify_slice(proof).is_ok())
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transcript({} bytes)", self.len)
    }
}

/// The secret that both ends of one connection share, and nobody without the cluster key: other for
/// each connection, because both nonces are in it. **Not used yet**: it is the seam for encryption,
/// whose keys for each direction will be derived from it. Without a cluster key it is no secret.
pub struct TrafficSecret([u8; PROOF_BYTES]);

impl TrafficSecret {
    pub(super) fn of(transcript: &Transcript, key: ProofKey<'_>) -> Self {
        Self(transcript.prove(key, Label::Traffic))
    }

    /// The bytes, for the derivation of keys.
    #[must_use]
    pub fn expose(&self) -> &[u8; PROOF_BYTES] {
        &self.0
    }
}

impl Drop for TrafficSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for TrafficSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecret(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn the_mac_is_hmac_sha256() {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        mac.update(b"what do ya want ");
        mac.update(b"for nothing?");
        let expected = [
            0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95,
            0x75, 0xc7, 0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27, 0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9,
            0x64, 0xec, 0x38, 0x43,
        ];
        let found: [u8; 32] = mac.finalize().into_bytes().into();
        assert_eq!(found, expected);
    }

    #[test]
    fn key_label_and_every_bit_of_the_transcript_count() {
        let mut said = Transcript::new();
        said.push(&[7; 100]);
        let key = ProofKey::new(b"key");
        let proof = said.prove(key, Label::Dialler);
        assert!(said.verifies(key, Label::Dialler, &proof));
        for label in [Label::Acceptor, Label::Traffic] {
            assert!(!said.verifies(key, label, &proof));
        }
        for other in [ProofKey::new(b"Key"), ProofKey::new(b""), ProofKey::NONE] {
            assert!(!said.verifies(other, Label::Dialler, &proof));
        }
        assert!(!said.verifies(key, Label::Dialler, &proof[..31]));
        for bit in 0..8 * PROOF_BYTES {
            let mut other = proof;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!said.verifies(key, Label::Dialler, &other));
        }
        for byte in 0..100 {
            let mut other = said.clone();
            other.bytes[byte] ^= 1;
            assert!(!other.verifies(key, Label::Dialler, &proof));
        }
        let mut longer = said.clone();
        longer.push(&[0]);
        assert!(!longer.verifies(key, Label::Dialler, &proof));
    }

    #[test]
    fn nothing_of_a_secret_is_printed() {
        let (key, said) = (ProofKey::new(b"hush-hush"), Transcript::new());
        let secret = TrafficSecret::of(&said, key);
        let text = format!("{key:?} {secret:?} {said:?}");
        assert_eq!(text, "ProofKey(secret) TrafficSecret(secret) Transcript(0 bytes)");
    }
}
