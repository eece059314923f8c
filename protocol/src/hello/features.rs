//! What an end can do beyond what every end of its version can, and wants to: bits of its hello.
//!
//! A feature is used on a link when both ends state it. Bits came with version 3: to an end of
//! version 2 none is stated.

use crate::DecodeError;
use std::ops::BitOr;

/// Features by bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u16);

impl Features {
    /// None.
    pub const NONE: Self = Self(0);
    /// One-sided reads ([`crate::read`]): the operator has turned them on at this end.
    pub const READS: Self = Self(1);
    /// First version whose hello has features.
    pub(super) const SINCE_VERSION: u16 = 3;

    const ALL: Self = Self::READS;

    /// True when all of `wanted` are among them.
    #[must_use]
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    pub(super) fn to_wire(self) -> u16 {
        self.0
    }

    pub(super) fn from_wire(bits: u16) -> Result<Self, DecodeError> {
        if bits & !Self::ALL.0 != 0 {
            let expected = "bit 0 (one-sided reads) only";
            return Err(DecodeError::Field {
                what: "hello features",
                found: bits.into(),
                expected,
            });
        }
        Ok(Self(bits))
    }
}

impl BitOr for Features {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
