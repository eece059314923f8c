//! What the messages of a round trip hold, the same on every way.
//!
//! The first 8 bytes of a body are the number of the round trip. A page is one of the resident
//! ones, chosen by that number, and each resident page is filled with a byte of its own: a stale,
//! torn or foreign page shows where it is touched.

use crate::error::BenchError;
use pagewire_protocol::{PageSize, header::BODY_BYTES_MAX};
use pagewire_transport::{Arena, SharedFrame};
use std::str::FromStr;

/// Bytes of the number in a body.
pub(crate) const NUMBER_BYTES: usize = 8;
/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = PageSize::K8.bytes();

/// How long a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub(crate) enum Size {
    /// A body of so many bytes, 8 to 80.
    Small(usize),
    /// A page in a frame; its body is the number alone.
    Page,
}

impl Size {
    /// Bytes of payload.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Small(bytes) => bytes,
            Self::Page => PAGE_BYTES,
        }
    }
}

impl TryFrom<usize> for Size {
    type Error = String;

    fn try_from(bytes: usize) -> Result<Self, String> {
        match bytes {
            PAGE_BYTES => Ok(Self::Page),
            NUMBER_BYTES..=BODY_BYTES_MAX => Ok(Self::Small(bytes)),
            _ => Err(format!(
                "expected {NUMBER_BYTES} to {BODY_BYTES_MAX} (a body), or {PAGE_BYTES} (a page in \
                 a frame)"
            )),
        }
    }
}

impl From<Size> for usize {
    fn from(size: Size) -> Self {
        size.bytes()
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Anything that is no number is as little a size as 0.
        Self::try_from(text.parse().unwrap_or(0))
    }
}

/// The resident pages that messages are sent from.
#[derive(Debug, Clone)]
pub(crate) struct Pages(Vec<SharedFrame>);

impl Pages {
    /// `count` pages in frames of `arena`.
    pub(crate) fn new(arena: &Arena, count: u32) -> Result<Self, BenchError> {
        let mut pages = Vec::new();
        for index in 0..u64::from(count) {
            let mut frame = arena.take().ok_or(BenchError::NoFrame)?;
            frame.fill(content(index));
            pages.push(frame.freeze());
        }
        Ok(Self(pages))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// The page of round trip `number`.
    #[inline]
    pub(crate) fn of(&self, number: u64) -> &SharedFrame {
        &self.0[usize::try_from(self.index(number)).unwrap_or(0)]
    }

    fn index(&self, number: u64) -> u64 {
        number % self.0.len() as u64
    }

    /// Touches one byte of `page`, each time another one, and checks it.
    #[inline]
    pub(crate) fn check(&self, page: &[u8], number: u64) -> Result<(), BenchError> {
        let offset = usize::try_from(number.wrapping_mul(67)).unwrap_or(0) % PAGE_BYTES;
        let expected = content(self.index(number));
        same("a page", number, page[offset].into(), expected.into())
    }
}

fn content(index: u64) -> u8 {
    u8::try_from(index % 251).unwrap_or(0) + 1
}

/// The number at the start of `body`.
#[inline]
pub(crate) fn number_in(body: &[u8]) -> u64 {
    body.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Puts `number` at the start of `body`.
#[inline]
pub(crate) fn put_number(body: &mut [u8], number: u64) {
    body[..NUMBER_BYTES].copy_from_slice(&number.to_le_bytes());
}

/// An error if `found` is not what was sent.
#[inline]
pub(crate) fn same(
    what: &'static str,
    number: u64,
    found: u64,
    expected: u64,
) -> Result<(), BenchError> {
    if found == expected {
        Ok(())
    } else {
        Err(BenchError::Content { what, number, found, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagewire_transport::ArenaConfig;

    #[test]
    fn a_size_that_no_message_has_is_refused() {
        assert_eq!("64".parse(), Ok(Size::Small(64)));
        assert_eq!("80".parse(), Ok(Size::Small(80)));
        assert_eq!("8192".parse(), Ok(Size::Page));
        for text in ["7", "81", "4096", "-1", "page", ""] {
            assert!(text.parse::<Size>().unwrap_err().contains("8192"), "{text}");
        }
    }

    #[test]
    fn a_page_of_another_round_trip_is_noticed() {
        let config = ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) };
        let pages = Pages::new(&Arena::new(&config).unwrap(), 4).unwrap();
        for number in 0..20 {
            pages.check(pages.of(number), number).unwrap();
            let error = pages.check(pages.of(number + 1), number).unwrap_err();
            assert!(matches!(error, BenchError::Content { what: "a page", .. }));
        }
    }
}
