//! The handshake: the first 128 bytes on every connection, and the 128 bytes that answer them.
//!
//! The side that opened the connection sends a [`Hello`] with status [`Refusal::NONE`]; the other
//! answers with its own `Hello`, status 0 to accept or the reason of its refusal. Nothing else is
//! read before this exchange has succeeded. Each side states the next sequence it expects on each
//! lane, so that the other can drop what has arrived and send the rest again.
//!
//! ```text
//!   0 magic "PAGEWIRE"        8 version min, max      12 lane class   13 status    14 -
//!  16 cluster id             24 instance, to         28 page size    32 incarnation
//!  40 link nonce             48 view hash            56 expected[5]  96 credits[5]
//! 116 reserved              124 CRC-32C of bytes 0 to 123
//! ```

use crate::{
    ClusterId, DecodeError, Incarnation, InstanceId, Lane, LaneClass, LinkNonce, PageSize,
    Sequence, crc32c,
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Bytes of the handshake in each direction.
pub const HELLO_BYTES: usize = 128;
const MAGIC: [u8; 8] = *b"PAGEWIRE";

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Refusal {
    /// No protocol version in common.
    Version = 1,
    /// Another cluster.
    Cluster = 2,
    /// The connection was meant for another instance.
    WrongTarget = 3,
    /// An instance that the configuration does not name.
    UnknownInstance = 4,
    /// Another living process has this instance id.
    DuplicateInstance = 5,
    /// Another page size.
    PageSize = 6,
    /// Another member list.
    View = 7,
    /// Both sides opened a link at once and the other one's goes first: wait for it.
    Busy = 8,
    /// The incarnation has been declared ended here; start the instance anew.
    Ended = 9,
    /// A former life of the instance took part here, and what it knew cannot be recovered: the
    /// cluster has to be started anew as a whole.
    NoReturn = 10,
}

impl Refusal {
    /// Status byte of a hello that refuses nothing.
    pub const NONE: u8 = 0;

    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Version,
        Self::Cluster,
        Self::WrongTarget,
        Self::UnknownInstance,
        Self::DuplicateInstance,
        Self::PageSize,
        Self::View,
        Self::Busy,
        Self::Ended,
        Self::NoReturn,
    ];

    fn from_wire(status: u8) -> Result<Option<Self>, DecodeError> {
        if status == Self::NONE {
            return Ok(None);
        }
        Self::ALL.into_iter().find(|r| *r as u8 == status).map(Some).ok_or(DecodeError::Field {
            what: "hello status",
            found: status.into(),
            expected: "0 to 10",
        })
    }

    /// True when trying again cannot help until the operator has changed something.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Busy | Self::DuplicateInstance)
    }
}

/// One side's statement of who it is and what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol version it speaks.
    pub version_min: u16,
    /// Newest protocol version it speaks.
    pub version_max: u16,
    /// Which connection of the link this is.
    pub class: LaneClass,
    /// Answer only: why the connection is refused.
    pub refusal: Option<Refusal>,
    /// Cluster it belongs to.
    pub cluster: ClusterId,
    /// Who speaks.
    pub instance: InstanceId,
    /// Whom it means to speak to.
    pub to: InstanceId,
    /// Page size of its frames.
    pub page_size: PageSize,
    /// In which life it speaks.
    pub incarnation: Incarnation,
    /// Link that the connection belongs to.
    pub nonce: LinkNonce,
    /// Hash of the membership view; both sides must have the same.
    pub view_hash: u64,
    /// Next sequence expected on each lane.
    pub expected: [Sequence; Lane::COUNT],
    /// Receives posted on each lane: the first credits of the new link.
    pub credits: [u32; Lane::COUNT],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireHello {
    magic: [u8; 8],
    version_min: U16,
    version_max: U16,
    class: u8,
    status: u8,
    reserved_0: U16,
    cluster: U64,
    instance: U16,
    to: U16,
    page_size: U32,
    incarnation: U64,
    nonce: U64,
    view_hash: U64,
    expected: [U64; Lane::COUNT],
    credits: [U32; Lane::COUNT],
    reserved_1: U64,
    crc: U32,
}
const _: () = assert!(size_of::<WireHello>() == HELLO_BYTES);

impl Hello {
    /// The 128 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut wire = WireHello {
            magic: MAGIC,
            version_min: U16::new(self.version_min),
            version_max: U16::new(self.version_max),
            class: self.class as u8,
            status: self.refusal.map_or(Refusal::NONE, |r| r as u8),
            reserved_0: U16::ZERO,
            cluster: U64::new(self.cluster.0),
            instance: U16::new(self.instance.0),
            to: U16::new(self.to.0),
            page_size: U32::new(self.page_size.bytes_u32()),
            incarnation: U64::new(self.incarnation.0),
            nonce: U64::new(self.nonce.0),
            view_hash: U64::new(self.view_hash),
            expected: self.expected.map(|s| U64::new(s.0)),
            credits: self.credits.map(U32::new),
            reserved_1: U64::ZERO,
            crc: U32::ZERO,
        };
        wire.crc = U32::new(crc32c(&[&wire.as_bytes()[..HELLO_BYTES - 4]]));
        let mut bytes = [0; HELLO_BYTES];
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }

    /// Reads 128 bytes. The versions are read before the rest is judged, so that a peer of another
    /// version is told so.
    ///
    /// # Errors
    /// [`DecodeError`] when they are no hello of a version that overlaps this build's.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, DecodeError> {
        let wire = WireHello::ref_from_bytes(bytes).map_err(|_| DecodeError::Length {
            what: "hello",
            found: bytes.len(),
            expected: HELLO_BYTES,
        })?;
        let field = |what, found: u64, expected| DecodeError::Field { what, found, expected };
        if wire.magic != MAGIC {
            let found = u64::from_be_bytes(wire.magic);
            return Err(field("hello magic", found, "the bytes PAGEWIRE"));
        }
        let (found, computed) = (wire.crc.get(), crc32c(&[&bytes[..HELLO_BYTES - 4]]));
        if found != computed {
            return Err(DecodeError::Crc { what: "hello", found, computed });
        }
        let class = LaneClass::from_wire(wire.class)
            .ok_or_else(|| field("hello lane class", wire.class.into(), "0 to 2"))?;
        let page_size = PageSize::from_bytes(wire.page_size.get().into()).ok_or_else(|| {
            field("hello page size", wire.page_size.get().into(), "4096, 8192, 16384 or 32768")
        })?;
        if wire.reserved_0 != U16::ZERO || wire.reserved_1 != U64::ZERO {
            return Err(field("hello reserved", wire.reserved_1.get(), "0"));
        }
        Ok(Self {
            version_min: wire.version_min.get(),
            version_max: wire.version_max.get(),
            class,
            refusal: Refusal::from_wire(wire.status)?,
            cluster: ClusterId(wire.cluster.get()),
            instance: InstanceId(wire.instance.get()),
            to: InstanceId(wire.to.get()),
            page_size,
            incarnation: Incarnation(wire.incarnation.get()),
            nonce: LinkNonce(wire.nonce.get()),
            view_hash: wire.view_hash.get(),
            expected: wire.expected.map(|s| Sequence(s.get())),
            credits: wire.credits.map(U32::get),
        })
    }

    /// True when both sides speak at least one version.
    #[must_use]
    pub fn speaks(&self, min: u16, max: u16) -> bool {
        self.version_min <= max && min <= self.version_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Hello {
        Hello {
            version_min: 1,
            version_max: 2,
            class: LaneClass::Page,
            refusal: None,
            cluster: ClusterId(7),
            instance: InstanceId(1),
            to: InstanceId(2),
            page_size: PageSize::K8,
            incarnation: Incarnation(99),
            nonce: LinkNonce(5),
            view_hash: 42,
            expected: [1, 2, 3, 4, 5].map(Sequence),
            credits: [10, 20, 30, 40, 50],
        }
    }

    #[test]
    fn a_hello_survives_the_wire_with_every_answer() {
        for refusal in Refusal::ALL.into_iter().map(Some).chain([None]) {
            let hello = Hello { refusal, ..sample() };
            assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }
    }

    #[test]
    fn versions_that_overlap_understand_each_other() {
        assert!(sample().speaks(2, 3));
        assert!(sample().speaks(1, 1));
        assert!(!sample().speaks(3, 4));
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), HELLO_BYTES)) {
            let bytes: [u8; HELLO_BYTES] = bytes.try_into().unwrap();
            prop_assert!(Hello::decode(&bytes).is_err());
        }

        #[test]
        fn one_flipped_bit_is_refused(bit in 0usize..HELLO_BYTES * 8) {
            let mut bytes = sample().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Hello::decode(&bytes).is_err());
        }
    }
}
