//! The session header that precedes every message, 48 bytes, and the body behind it.
//!
//! ```text
//!  0    1    2      4       6      8       16         24     32        36       38    40      44   48
//!  +----+----+------+-------+------+-------+----------+------+---------+--------+-----+-------+----+
//!  |ver |lane| kind | flags | body | epoch | sequence | ack  | credits | source | -   | page  |crc |
//!  |    |    |      |       | len  |       |          |      |         |        |     | crc   |    |
//!  +----+----+------+-------+------+-------+----------+------+---------+--------+-----+-------+----+
//! ```
//! The body (at most 80 bytes) follows, padded with zeros to 80 on TCP and before a frame, so that
//! a frame begins at a fixed offset of 128 and can be received in place.
//!
//! `ack` is the sequence up to which the sender has everything of the same lane in the other
//! direction. `credits` is how many receives it has posted for that lane since the link came up
//! (modulo 2^32): the other side may have sent that many. Both therefore may be repeated, and the
//! greatest wins. `crc` is CRC-32C of the header with this field zero, and of the body.

use crate::{DecodeError, Epoch, InstanceId, PROTOCOL_VERSION, Sequence, crc32c};
use std::fmt;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Bytes of the session header.
pub const HEADER_BYTES: usize = 48;
/// Most bytes a body has.
pub const BODY_BYTES_MAX: usize = 80;
/// Header and padded body before a frame: two cache lines.
pub const FRAME_OFFSET_BYTES: usize = HEADER_BYTES + BODY_BYTES_MAX;

/// Message type. Numbers are given out in [`crate::catalog`]; transport gives meaning to none but
/// [`MessageKind::ACK_ONLY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageKind(pub u16);

impl MessageKind {
    /// Carries nothing but `ack` and `credits`: without sequence, never acknowledged itself.
    pub const ACK_ONLY: Self = Self(0);
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lane of a session: FIFO and exactly-once in itself, unordered towards the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// What moves the protocol forward; never waits for what is below.
    Control = 0,
    /// New requests.
    Requests = 1,
    /// Shared invalidations.
    Si = 2,
    /// Messages that carry one frame.
    Pages = 3,
    /// Large transfers, frame by frame.
    Bulk = 4,
}

impl Lane {
    /// Number of lanes.
    pub const COUNT: usize = 5;
    /// All lanes, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Control, Self::Requests, Self::Si, Self::Pages, Self::Bulk];

    /// The lane's number, for use as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The lane that `byte` stands for on the wire.
    #[must_use]
    pub fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// Which connection (or queue pair) the lane travels on.
    #[must_use]
    pub const fn class(self) -> LaneClass {
        match self {
            Self::Control | Self::Requests | Self::Si => LaneClass::Small,
            Self::Pages => LaneClass::Page,
            Self::Bulk => LaneClass::Bulk,
        }
    }
}

/// Lanes that share one connection (or queue pair).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum LaneClass {
    /// Messages without a frame, and every acknowledgement.
    Small = 0,
    /// One frame a message.
    Page = 1,
    /// One frame a message, kept from delaying the others.
    Bulk = 2,
}

impl LaneClass {
    /// Number of classes.
    pub const COUNT: usize = 3;
    /// All classes, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [Self::Small, Self::Page, Self::Bulk];

    /// The class's number, for use as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The class that `byte` stands for on the wire.
    #[must_use]
    pub fn from_wire(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// True when every message of the class (acknowledgements apart) carries one frame.
    #[must_use]
    pub const fn has_frame(self) -> bool {
        !matches!(self, Self::Small)
    }
}

/// At most 80 bytes, held in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Body {
    len: u8,
    bytes: [u8; BODY_BYTES_MAX],
}

impl Body {
    /// No bytes.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; BODY_BYTES_MAX] };

    /// A copy of `bytes`, or `None` when there are more than 80.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut body = Self { len: u8::try_from(bytes.len()).ok()?, ..Self::EMPTY };
        body.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(body)
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes, zeros behind them up to 80.
    #[must_use]
    pub fn padded(&self) -> &[u8; BODY_BYTES_MAX] {
        &self.bytes
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireHeader {
    version: u8,
    lane: u8,
    kind: U16,
    flags: U16,
    body_len: U16,
    epoch: U64,
    sequence: U64,
    ack: U64,
    credits: U32,
    source: U16,
    reserved: U16,
    page_crc: U32,
    crc: U32,
}
const _: () = assert!(size_of::<WireHeader>() == HEADER_BYTES);

/// [`PROTOCOL_VERSION`] as the header has it.
const WIRE_VERSION: u8 = 2;
const _: () = assert!(WIRE_VERSION as u16 == PROTOCOL_VERSION);
const FLAG_FRAME: u16 = 1;
const FLAG_PAGE_CRC: u16 = 2;
/// Bytes of the header that the CRC covers: all before the field itself.
const CRC_COVERED_BYTES: usize = HEADER_BYTES - 4;

/// A decoded session header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionHeader {
    /// Lane the message belongs to, or (acknowledgement only) the lane it speaks of.
    pub lane: Lane,
    /// Message type.
    pub kind: MessageKind,
    /// Bytes of the body, at most 80.
    pub body_len: u8,
    /// One frame follows.
    pub frame: bool,
    /// CRC-32C of the frame, if the sender computed one.
    pub page_crc: Option<u32>,
    /// Epoch the sender acted in.
    pub epoch: Epoch,
    /// Position in the lane; 0 in an acknowledgement.
    pub sequence: Sequence,
    /// Everything up to here has arrived, of this lane in the other direction.
    pub ack: Sequence,
    /// Receives posted for this lane since the link came up, modulo 2^32.
    pub credits: u32,
    /// The sender.
    pub source: InstanceId,
}

impl SessionHeader {
    /// The 48 bytes of this header in front of `body`.
    #[must_use]
    pub fn encode(&self, body: &Body, with_crc: bool) -> [u8; HEADER_BYTES] {
        debug_assert_eq!(usize::from(self.body_len), body.as_slice().len());
        let mut flags = 0;
        if self.frame {
            flags |= FLAG_FRAME;
        }
        if self.page_crc.is_some() {
            flags |= FLAG_PAGE_CRC;
        }
        let wire = WireHeader {
            version: WIRE_VERSION,
            lane: self.lane as u8,
            kind: U16::new(self.kind.0),
            flags: U16::new(flags),
            body_len: U16::new(u16::from(self.body_len)),
            epoch: U64::new(self.epoch.0),
            sequence: U64::new(self.sequence.0),
            ack: U64::new(self.ack.0),
            credits: U32::new(self.credits),
            source: U16::new(self.source.0),
            reserved: U16::ZERO,
            page_crc: U32::new(self.page_crc.unwrap_or(0)),
            crc: U32::ZERO,
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(wire.as_bytes());
        if with_crc {
            let crc = crc32c(&[&bytes[..CRC_COVERED_BYTES], body.as_slice()]);
            bytes[CRC_COVERED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    /// Reads the header at the start of `bytes`, which may be followed by anything. Checks every
    /// field but not the CRC, which needs the body: see [`verify_crc`].
    ///
    /// # Errors
    /// [`DecodeError`] when bytes are missing or a field holds what no sender writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let too_short = DecodeError::Length {
            what: "session header",
            found: bytes.len(),
            expected: HEADER_BYTES,
        };
        let (wire, _) = WireHeader::ref_from_prefix(bytes).map_err(|_| too_short)?;
        let field = |what, found: u64, expected| DecodeError::Field { what, found, expected };
        if wire.version != WIRE_VERSION {
            return Err(field("session header version", wire.version.into(), "2"));
        }
        let lane = Lane::from_wire(wire.lane)
            .ok_or_else(|| field("session header lane", wire.lane.into(), "0 to 4"))?;
        let kind = MessageKind(wire.kind.get());
        let flags = wire.flags.get();
        if flags & !(FLAG_FRAME | FLAG_PAGE_CRC) != 0 {
            return Err(field("session header flags", flags.into(), "bits 0 and 1 only"));
        }
        let frame = flags & FLAG_FRAME != 0;
        if frame != (lane.class().has_frame() && kind != MessageKind::ACK_ONLY) {
            return Err(field(
                "session header frame flag",
                frame.into(),
                "1 on the pages and bulk lanes, 0 elsewhere and on acknowledgements",
            ));
        }
        if flags & FLAG_PAGE_CRC != 0 && !frame {
            return Err(field(
                "session header flags",
                flags.into(),
                "a page CRC only with a frame",
            ));
        }
        let body_len = u8::try_from(wire.body_len.get())
            .ok()
            .filter(|&len| usize::from(len) <= BODY_BYTES_MAX)
            .ok_or_else(|| {
                field("session header body length", wire.body_len.get().into(), "0 to 80")
            })?;
        let sequence = Sequence(wire.sequence.get());
        if (kind == MessageKind::ACK_ONLY) != (sequence.0 == 0) {
            return Err(field(
                "session header sequence",
                sequence.0,
                "0 in an acknowledgement, 1 or more in a message",
            ));
        }
        if kind == MessageKind::ACK_ONLY && body_len != 0 {
            return Err(field("acknowledgement body length", body_len.into(), "0"));
        }
        if wire.reserved != U16::ZERO {
            return Err(field("session header reserved", wire.reserved.get().into(), "0"));
        }
        Ok(Self {
            lane,
            kind,
            body_len,
            frame,
            page_crc: (flags & FLAG_PAGE_CRC != 0).then(|| wire.page_crc.get()),
            epoch: Epoch(wire.epoch.get()),
            sequence,
            ack: Sequence(wire.ack.get()),
            credits: wire.credits.get(),
            source: InstanceId(wire.source.get()),
        })
    }
}

/// Checks the CRC of an encoded header against header and body.
///
/// # Errors
/// [`DecodeError::Crc`] when they do not match, [`DecodeError::Length`] when `header` is not 48
/// bytes.
pub fn verify_crc(header: &[u8], body: &[u8]) -> Result<(), DecodeError> {
    let Some((covered, crc)) = header.split_at_checked(CRC_COVERED_BYTES) else {
        return Err(header_length(header.len()));
    };
    let crc: [u8; 4] = crc.try_into().map_err(|_| header_length(header.len()))?;
    let (found, computed) = (u32::from_le_bytes(crc), crc32c(&[covered, body]));
    if found == computed {
        Ok(())
    } else {
        Err(DecodeError::Crc { what: "session header", found, computed })
    }
}

fn header_length(found: usize) -> DecodeError {
    DecodeError::Length { what: "session header", found, expected: HEADER_BYTES }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(lane: Lane, body: &Body) -> SessionHeader {
        SessionHeader {
            lane,
            kind: MessageKind(102),
            body_len: u8::try_from(body.as_slice().len()).unwrap(),
            frame: lane.class().has_frame(),
            page_crc: lane.class().has_frame().then_some(0xDEAD_BEEF),
            epoch: Epoch(3),
            sequence: Sequence(9),
            ack: Sequence(8),
            credits: 77,
            source: InstanceId(2),
        }
    }

    #[test]
    fn a_header_survives_the_wire_on_every_lane() {
        let body = Body::new(b"hello").unwrap();
        for lane in Lane::ALL {
            let header = sample(lane, &body);
            let bytes = header.encode(&body, true);
            assert_eq!(SessionHeader::decode(&bytes), Ok(header));
            assert_eq!(verify_crc(&bytes, body.as_slice()), Ok(()));
            assert!(verify_crc(&bytes, b"hellp").is_err());
        }
    }

    #[test]
    fn a_body_of_81_bytes_is_no_body() {
        assert!(Body::new(&[0; 80]).is_some());
        assert!(Body::new(&[0; 81]).is_none());
        assert!(Body::new(&[0; 400]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic_and_only_to_what_encodes_back(bytes in any::<[u8; 48]>()) {
            if let Ok(header) = SessionHeader::decode(&bytes) {
                let body = Body::new(&vec![0; usize::from(header.body_len)]).unwrap();
                let again = header.encode(&body, false);
                // The CRC field, and a page CRC that the flags disown, are not part of the value.
                prop_assert_eq!(&again[..40], &bytes[..40]);
            }
        }

        #[test]
        fn one_flipped_bit_never_passes_the_crc(bit in 0usize..(48 + 5) * 8) {
            let body = Body::new(b"hello").unwrap();
            let mut bytes = sample(Lane::Control, &body).encode(&body, true).to_vec();
            bytes.extend_from_slice(body.as_slice());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_crc(&bytes[..48], &bytes[48..]).is_err());
        }
    }
}
