//! One-sided reads: a page out of a region that its owner has opened, without the owner's say.
//!
//! Over verbs a read is one RDMA READ with the region's key ([`LinkControl::Region`]) and no message
//! at all. Where there is no key it is asked for and answered by the owner's endpoint:
//!
//! ```text
//!   READ           requests lane   token, region, offset
//!   READ_PAGE      bulk lane       token + frame
//!   READ_REFUSED   control lane    token, why, frames of the region
//!
//!   0       8        10         12       16
//!   +-------+--------+----------+--------+
//!   | token | region | why or 0 | number |    number: offset in READ, frames of the region in
//!   +-------+--------+----------+--------+            READ_REFUSED, 0 in READ_PAGE
//! ```
//! All integers little-endian. The request is the credit: an end has at most [`READS_MAX`] reads of
//! one peer under way, and each is answered once, in any order.
//!
//! What was read may be torn, as by an RDMA READ: the owner may write meanwhile. It gives no right to
//! the page, and says nothing about what is newer: whoever reads checks version and checksum.
//!
//! [`LinkControl::Region`]: crate::LinkControl::Region

use crate::{Body, DecodeError, MessageKind};
use std::fmt;

/// Reads of one peer that an end has under way at most.
pub const READS_MAX: usize = 32;

/// Frames that an instance lets its peers read: a number of the owner's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RegionId(pub u16);

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl MessageKind {
    /// Asks for a page of a region.
    pub const READ: Self = Self(65_534);
    /// Answers with the page.
    pub const READ_PAGE: Self = Self(65_533);
    /// Answers why there is none.
    pub const READ_REFUSED: Self = Self(65_532);

    /// True for the reserved kinds of one-sided reads, 65532 to 65534, whose messages have a sequence.
    #[inline]
    #[must_use]
    pub const fn is_of_reads(self) -> bool {
        matches!(self, Self::READ | Self::READ_PAGE | Self::READ_REFUSED)
    }
}

/// Why the owner gives no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRefusal {
    /// It has opened no such region.
    UnknownRegion,
    /// The region ends before.
    OutOfBounds {
        /// Frames that it has.
        frames: u32,
    },
}

/// What the ends say to each other about reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMessage {
    /// [`MessageKind::READ`].
    Ask {
        /// The asker's number for it.
        token: u64,
        /// Which region.
        region: RegionId,
        /// Which frame of it, from 0.
        offset_frames: u32,
    },
    /// [`MessageKind::READ_PAGE`]: the frame comes with it.
    Page {
        /// The asker's number.
        token: u64,
    },
    /// [`MessageKind::READ_REFUSED`].
    Refused {
        /// The asker's number.
        token: u64,
        /// Why.
        why: ReadRefusal,
    },
}

const BYTES: usize = 16;
const UNKNOWN_REGION: u16 = 1;
const OUT_OF_BOUNDS: u16 = 2;

impl ReadMessage {
    /// Kind and body of the message.
    #[must_use]
    pub fn encode(&self) -> (MessageKind, Body) {
        let (kind, token, region, why, number) = match *self {
            Self::Ask { token, region, offset_frames } => {
                (MessageKind::READ, token, region.0, 0, offset_frames)
            }
            Self::Page { token } => (MessageKind::READ_PAGE, token, 0, 0, 0),
            Self::Refused { token, why: ReadRefusal::UnknownRegion } => {
                (MessageKind::READ_REFUSED, token, 0, UNKNOWN_REGION, 0)
            }
            Self::Refused { token, why: ReadRefusal::OutOfBounds { frames } } => {
                (MessageKind::READ_REFUSED, token, 0, OUT_OF_BOUNDS, frames)
            }
        };
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&token.to_le_bytes());
        bytes[8..10].copy_from_slice(&region.to_le_bytes());
        bytes[10..12].copy_from_slice(&why.to_le_bytes());
        bytes[12..].copy_from_slice(&number.to_le_bytes());
        (kind, Body::new(&bytes).unwrap_or(Body::EMPTY))
    }

    /// Reads what [`ReadMessage::encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] when the length is wrong or a field holds what no sender writes.
    pub fn decode(kind: MessageKind, body: &[u8]) -> Result<Self, DecodeError> {
        let field = |what, found: u64, expected| Err(DecodeError::Field { what, found, expected });
        let Ok(&[t0, t1, t2, t3, t4, t5, t6, t7, r0, r1, w0, w1, n0, n1, n2, n3]) =
            <&[u8; BYTES]>::try_from(body)
        else {
            let (what, found) = ("message about a read", body.len());
            return Err(DecodeError::Length { what, found, expected: BYTES });
        };
        let token = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
        let (region, why) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([w0, w1]));
        let number = u32::from_le_bytes([n0, n1, n2, n3]);
        if kind != MessageKind::READ && region != 0 {
            return field("region in an answer to a read", region.into(), "0");
        }
        if kind != MessageKind::READ_REFUSED && why != 0 {
            return field("reason in a message about a read", why.into(), "0");
        }
        match (kind, why, number) {
            (MessageKind::READ, ..) => {
                Ok(Self::Ask { token, region: RegionId(region), offset_frames: number })
            }
            (MessageKind::READ_PAGE, _, 0) => Ok(Self::Page { token }),
            (MessageKind::READ_REFUSED, UNKNOWN_REGION, 0) => {
                Ok(Self::Refused { token, why: ReadRefusal::UnknownRegion })
            }
            (MessageKind::READ_REFUSED, OUT_OF_BOUNDS, frames) => {
                Ok(Self::Refused { token, why: ReadRefusal::OutOfBounds { frames } })
            }
            (MessageKind::READ_PAGE | MessageKind::READ_REFUSED, 0 | UNKNOWN_REGION, number)
                if number != 0 =>
            {
                field("number in an answer to a read", number.into(), "0")
            }
            (MessageKind::READ_REFUSED, ..) => {
                let expected = "1 (unknown region) or 2 (out of bounds)";
                field("reason of a refused read", why.into(), expected)
            }
            _ => field("kind of a message about a read", kind.0.into(), "65532 to 65534"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_survives_the_wire_and_no_other_length_does() {
        let (token, region) = (u64::MAX - 1, RegionId(7));
        for message in [
            ReadMessage::Ask { token, region, offset_frames: 0 },
            ReadMessage::Ask { token: 0, region: RegionId(u16::MAX), offset_frames: u32::MAX },
            ReadMessage::Page { token },
            ReadMessage::Refused { token, why: ReadRefusal::UnknownRegion },
            ReadMessage::Refused { token, why: ReadRefusal::OutOfBounds { frames: 64 } },
        ] {
            let (kind, body) = message.encode();
            assert!(kind.is_of_reads() && kind.is_reserved() && !kind.has_no_sequence());
            assert_eq!(ReadMessage::decode(kind, body.as_slice()), Ok(message));
            let longer = [body.as_slice(), &[0]].concat();
            for bytes in [&longer[..], &longer[..15], &[]] {
                assert!(ReadMessage::decode(kind, bytes).is_err(), "{} bytes", bytes.len());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_only_to_what_encodes_back(
            kind in 65_531u16..=65_535,
            mut bytes in proptest::collection::vec(any::<u8>(), BYTES),
            zeros in any::<[bool; 8]>(),
        ) {
            for (place, zero) in bytes[8..].iter_mut().zip(zeros) {
                *place = if zero { 0 } else { *place % 4 };
            }
            if let Ok(message) = ReadMessage::decode(MessageKind(kind), &bytes) {
                let (again, body) = message.encode();
                prop_assert_eq!(again.0, kind);
                prop_assert_eq!(body.as_slice(), &bytes[..]);
            }
        }
    }
}
