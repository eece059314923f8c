//! The first bytes of a connection in each direction: what has to be known before a proof can be
//! made, and nothing else.
//!
//! ```text
//!   0 magic "PAGEWIRE"        8 version min, max      12 kind (1 dialler, 2 acceptor, 3 refusal)
//!  13 flags (bit 0: has a cluster key)                14 status (kind 3: why)      15 reserved
//!  16 nonce[32]: fresh random bytes; zero in a refusal
//! ```
//! The magic, the versions and the length are the same in every version, so that any two builds can
//! tell each other which versions they speak.

use super::{Nonce, Refusal};
use crate::DecodeError;
use std::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U16};

/// Bytes of an introduction.
pub const INTRO_BYTES: usize = 48;
/// First bytes of every introduction.
pub const MAGIC: [u8; 8] = *b"PAGEWIRE";
const HAS_KEY: u8 = 1;

/// Which end of the connection introduces itself, or that it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntroKind {
    /// The side that opened the connection.
    Dialler,
    /// The side that listened.
    Acceptor,
    /// The side that listened, and why it goes no further. Nothing proves it.
    Refusal(Refusal),
}

/// An introduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intro {
    /// Oldest protocol version it speaks.
    pub version_min: u16,
    /// Newest protocol version it speaks.
    pub version_max: u16,
    /// Which end it is.
    pub kind: IntroKind,
    /// Whether it has a cluster key.
    pub has_key: bool,
    /// What the other side's proof has to cover, so that it is of today.
    pub nonce: Nonce,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireIntro {
    magic: [u8; 8],
    version_min: U16,
    version_max: U16,
    kind: u8,
    flags: u8,
    status: u8,
    reserved: u8,
    nonce: [u8; 32],
}
const _: () = assert!(size_of::<WireIntro>() == INTRO_BYTES);

/// Bytes that a connection began with and that no peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstBytes {
    bytes: [u8; MAGIC.len()],
    count: usize,
}

impl FirstBytes {
    /// True when `bytes` cannot become the magic.
    pub(super) fn that_are_no_magic(bytes: &[u8]) -> Option<Self> {
        let count = bytes.len().min(MAGIC.len());
        if bytes[..count] == MAGIC[..count] {
            return None;
        }
        let mut first = [0; MAGIC.len()];
        first[..count].copy_from_slice(&bytes[..count]);
        Some(Self { bytes: first, count })
    }
}

impl fmt::Display for FirstBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = &self.bytes[..self.count];
        for (at, byte) in bytes.iter().enumerate() {
            write!(f, "{}{byte:02x}", if at == 0 { "" } else { " " })?;
        }
        // Only what can be read; control characters have no place in a log.
        let text: String =
            bytes.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { '.' }).collect();
        write!(f, " ({text})")
    }
}

/// What is wrong with an introduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntroError {
    /// It does not begin with the magic.
    NotPagewire(FirstBytes),
    /// Its versions do not overlap this build's, so nothing else of it was read.
    Version {
        /// Oldest version it speaks.
        min: u16,
        /// Newest version it speaks.
        max: u16,
    },
    /// A field holds what no sender of a common version writes.
    Field(DecodeError),
}

impl Intro {
    /// The 48 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; INTRO_BYTES] {
        let (kind, status) = match self.kind {
            IntroKind::Dialler => (1, Refusal::NONE),
            IntroKind::Acceptor => (2, Refusal::NONE),
            IntroKind::Refusal(refusal) => (3, refusal as u8),
        };
        let wire = WireIntro {
            magic: MAGIC,
            version_min: U16::new(self.version_min),
            version_max: U16::new(self.version_max),
            kind,
            flags: if self.has_key { HAS_KEY } else { 0 },
            status,
            reserved: 0,
            nonce: self.nonce.0,
        };
        let mut bytes = [0; INTRO_BYTES];
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }

    /// Reads 48 bytes: total, and accepts exactly what [`Intro::encode`] can make. The versions are
    /// judged first, against `min` to `max`: what a version without a common one means by the rest
    /// is not known. A refusal is read whatever its versions are.
    ///
    /// # Errors
    /// [`IntroError`].
    pub fn decode(bytes: &[u8; INTRO_BYTES], min: u16, max: u16) -> Result<Self, IntroError> {
        if let Some(first) = FirstBytes::that_are_no_magic(bytes) {
            return Err(IntroError::NotPagewire(first));
        }
        let field = |what, found: u8, expected| {
            IntroError::Field(DecodeError::Field { what, found: found.into(), expected })
        };
        let wire = WireIntro::ref_from_bytes(bytes)
            .map_err(|_| field("introduction", 0, "48 bytes of it"))?;
        let (version_min, version_max) = (wire.version_min.get(), wire.version_max.get());
        if !(version_min <= max && min <= version_max) && wire.kind != 3 {
            return Err(IntroError::Version { min: version_min, max: version_max });
        }
        let refusal = Refusal::from_wire(wire.status).map_err(IntroError::Field)?;
        let kind = match (wire.kind, refusal) {
            (1, None) => IntroKind::Dialler,
            (2, None) => IntroKind::Acceptor,
            (3, Some(refusal)) if refusal.needs_no_proof() => IntroKind::Refusal(refusal),
            (1 | 2, _) => return Err(field("introduction status", wire.status, "0")),
            (3, _) => return Err(field("introduction status", wire.status, "1, 13 or 14")),
            (kind, _) => return Err(field("introduction kind", kind, "1, 2 or 3")),
        };
        if wire.flags & !HAS_KEY != 0 || wire.reserved != 0 {
            let found = wire.flags | wire.reserved;
            return Err(field("introduction flags", found, "0 or 1, and 0 reserved"));
        }
        let (has_key, nonce) = (wire.flags == HAS_KEY, Nonce(wire.nonce));
        Ok(Self { version_min, version_max, kind, has_key, nonce })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(kind: IntroKind) -> Intro {
        Intro { version_min: 2, version_max: 3, kind, has_key: true, nonce: Nonce([9; 32]) }
    }

    #[test]
    fn an_introduction_survives_the_wire() {
        let refusals = Refusal::ALL.into_iter().filter(|refusal| refusal.needs_no_proof());
        let kinds = refusals.map(IntroKind::Refusal);
        for kind in kinds.chain([IntroKind::Dialler, IntroKind::Acceptor]) {
            for has_key in [false, true] {
                let intro = Intro { has_key, ..sample(kind) };
                assert_eq!(Intro::decode(&intro.encode(), 3, 4), Ok(intro));
            }
        }
    }

    #[test]
    fn versions_that_do_not_overlap_are_told_before_anything_else_is_judged() {
        let mut bytes = sample(IntroKind::Dialler).encode();
        bytes[13] = 0xFF;
        assert_eq!(Intro::decode(&bytes, 4, 5), Err(IntroError::Version { min: 2, max: 3 }));
        assert_eq!(Intro::decode(&bytes, 1, 1), Err(IntroError::Version { min: 2, max: 3 }));
        assert!(matches!(Intro::decode(&bytes, 1, 2), Err(IntroError::Field(_))));
    }

    #[test]
    fn a_reason_that_needs_a_proof_is_not_believed_without_one() {
        for refusal in Refusal::ALL.into_iter().filter(|refusal| !refusal.needs_no_proof()) {
            let bytes = sample(IntroKind::Refusal(refusal)).encode();
            assert!(
                matches!(Intro::decode(&bytes, 2, 2), Err(IntroError::Field(_))),
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn what_is_no_peer_is_told_by_its_first_bytes() {
        let first = FirstBytes::that_are_no_magic(b"GET / HTTP/1.1\r\n").unwrap();
        assert_eq!(first.to_string(), "47 45 54 20 2f 20 48 54 (GET./.HT)");
        let first = FirstBytes::that_are_no_magic(b"P\r\n").unwrap();
        assert_eq!(first.to_string(), "50 0d 0a (P..)");
        assert_eq!(FirstBytes::that_are_no_magic(b"PAGE"), None);
        assert_eq!(FirstBytes::that_are_no_magic(b""), None);
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_what_encoding_makes(
            kind in 1u8..4,
            changes in proptest::collection::vec((8usize..INTRO_BYTES, any::<u8>()), 0..4),
        ) {
            let mut bytes = sample(IntroKind::Dialler).encode();
            bytes[12] = kind;
            for (at, with) in changes {
                bytes[at] = with;
            }
            if let Ok(intro) = Intro::decode(&bytes, 0, u16::MAX) {
                prop_assert_eq!(intro.encode(), bytes);
            }
        }

        #[test]
        fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), INTRO_BYTES)) {
            let bytes: [u8; INTRO_BYTES] = bytes.try_into().unwrap();
            prop_assert!(Intro::decode(&bytes, 0, u16::MAX).is_err());
        }
    }
}
