//! Log sequence numbers, written and read as PostgreSQL does.

use std::{fmt, str::FromStr};

/// A position in a log, in bytes; or, in the `pd_lsn` of a page that Pagewire governs, the page's
/// cluster-wide Lamport version (DESIGN: LSNs of different instances' logs do not compare).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// No position.
    pub const ZERO: Self = Self(0);

    /// The 8 bytes as a page stores them: the high half first, each half little-endian
    /// (PostgreSQL `PageXLogRecPtr`, bufpage.h, on a little-endian host).
    #[must_use]
    pub fn to_page_bytes(self) -> [u8; 8] {
        self.0.rotate_left(32).to_le_bytes()
    }

    /// Reads what [`Lsn::to_page_bytes`] writes.
    #[must_use]
    pub fn from_page_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes).rotate_right(32))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{found}' is no LSN, expected two hexadecimal numbers of up to 8 digits as in 16/B374D848"
)]
pub struct ParseLsnError {
    found: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let well_formed =
                (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            well_formed.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError { found: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_page_bytes_follow_postgresql() {
        let lsn = Lsn(0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse(), Ok(lsn));
        assert_eq!(lsn.to_page_bytes(), [0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3]);
        assert_eq!(Lsn::from_page_bytes(lsn.to_page_bytes()), lsn);
    }

    #[test]
    fn text_that_is_no_lsn_is_refused() {
        for text in ["", "1", "/", "1/", "1/123456789", "+1/2", "x/1"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
