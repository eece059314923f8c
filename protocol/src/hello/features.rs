//! What an end can do beyond what every end of its version can, and wants to: bits of its hello.
//!
//! A feature is used on a link when both ends state it. Bits came with version 3: to an end of
//! version 2 none is stated, and to one of an earlier version than 5 not [`Features::CLOSING`].

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
    /// Regions of one-sided reads can be closed ([`crate::LinkControl::Close`]).
    pub const CLOSING: Self = Self(2);
    /// First version whose hello has features.
    const SINCE_VERSION: u16 = 3;
    /// First version in which [`Features::CLOSING`] is stated.
    const CLOSING_SINCE_VERSION: u16 = 5;

    const ALL: Self = Self(Self::READS.0 | Self::CLOSING.0);

    /// True when all of `wanted` are among them.
    #[must_use]
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Those that an end of this version knows.
    pub(super) const fn known_to(self, version: u16) -> Self {
        match version {
            0..Self::SINCE_VERSION => Self::NONE,
            Self::SINCE_VERSION..Self::CLOSING_SINCE_VERSION => Self(self.0 & !Self::CLOSING.0),
            Self::CLOSING_SINCE_VERSION.. => self,
        }
    }

    pub(super) fn to_wire(self) -> u16 {
        self.0
    }

    pub(super) fn from_wire(bits: u16) -> Result<Self, DecodeError> {
        if bits & !Self::ALL.0 != 0 {
            let expected = "bits 0 (one-sided reads) and 1 (regions can be closed) only";
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
