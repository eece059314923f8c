//! One message as it lies in the ring.

use pagewire_protocol::{DecodeError, InstanceId, SiMessage, si::SI_MESSAGE_BYTES};
use std::fmt;

/// 8-byte words of an entry.
pub(crate) const WORDS: usize = 4;

/// One entry of the ring: its sequence, 16 bytes of message, who published it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct SiEntry {
    words: [u64; WORDS],
}

impl SiEntry {
    /// The words of an entry.
    #[inline]
    pub(crate) fn words_of(
        sequence: u64,
        publisher: InstanceId,
        message: &[u8; SI_MESSAGE_BYTES],
    ) -> [u64; WORDS] {
        let message = u128::from_le_bytes(*message);
        // Truncation is what splits it: the lower and the upper 8 bytes.
        #[allow(clippy::cast_possible_truncation)]
        let (low, high) = (message as u64, (message >> 64) as u64);
        [sequence, low, high, publisher.0.into()]
    }

    /// Its number in the ring. They rise by one, and skip where readers were told to reset.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.words[0]
    }

    /// The message as it was published.
    #[must_use]
    pub fn bytes(&self) -> [u8; SI_MESSAGE_BYTES] {
        (u128::from(self.words[2]) << 64 | u128::from(self.words[1])).to_le_bytes()
    }

    /// The message, typed.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none of PostgreSQL 15's kinds: the ring takes any 16 bytes.
    pub fn message(&self) -> Result<SiMessage, DecodeError> {
        SiMessage::decode(&self.bytes())
    }

    /// The instance that published it.
    #[must_use]
    pub fn publisher(&self) -> InstanceId {
        let [low, high, ..] = self.words[3].to_le_bytes();
        InstanceId(u16::from_le_bytes([low, high]))
    }
}

impl From<[u64; WORDS]> for SiEntry {
    #[inline]
    fn from(words: [u64; WORDS]) -> Self {
        Self { words }
    }
}

impl fmt::Debug for SiEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiEntry")
            .field("sequence", &self.sequence())
            .field("publisher", &self.publisher())
            .field("message", &self.message())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gives_back_what_was_put_in_byte_for_byte() {
        let bytes: [u8; SI_MESSAGE_BYTES] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let entry = SiEntry::from(SiEntry::words_of(77, InstanceId(0xABCD), &bytes));
        assert_eq!(entry.bytes(), bytes);
        assert_eq!((entry.sequence(), entry.publisher()), (77, InstanceId(0xABCD)));
        assert_eq!(entry.message(), SiMessage::decode(&bytes));
    }
}
