//! What each side states of itself, under its proof: the 128 bytes of a [`Hello`].
//!
//! ```text
//!   0 tag "PWHELLO2"          8 shard, shards         12 lane class   13 status    14 view mark
//!  16 cluster id             24 instance, to         28 page size    30 storage mark   32 incarnation
//!  40 link nonce             48 view hash            56 expected[5]  96 credits[5]
//! 116 process id            124 features        126 pause_max_ms
//! ```
//! No checksum: the proof that follows covers every bit.

use super::{Features, Refusal};
use crate::{
    ClusterId, DecodeError, Epoch, Incarnation, InstanceId, Lane, LaneClass, LinkNonce, PageSize,
    ProcessId, Sequence,
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Bytes of a hello, without its proof.
pub const HELLO_BYTES: usize = 128;
const TAG: [u8; 8] = *b"PWHELLO2";

/// One side's statement of who it is and what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Which of the instance's shards speaks.
    pub shard: u16,
    /// Number of shards that the instance runs.
    pub shards: u16,
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
    /// Which storage it has, as [`storage_mark`] folds its number; 0: not said. See
    /// [`Hello::fits_storage_of`].
    pub storage_mark: u16,
    /// In which life it speaks.
    pub incarnation: Incarnation,
    /// Which process speaks.
    pub process: ProcessId,
    /// Link that the connection belongs to.
    pub nonce: LinkNonce,
    /// Hash of the membership view; see [`Hello::fits_view_of`].
    pub view_hash: u64,
    /// Number of the membership view, as [`view_mark`] folds it; 0: not said.
    pub view_mark: u16,
    /// Next sequence expected on each lane. Only the one of the link's last connection counts: it is
    /// stated when nothing can arrive on an earlier link any more.
    pub expected: [Sequence; Lane::COUNT],
    /// Receives posted on each lane: the first credits of the new link. Counts as `expected` does.
    pub credits: [u32; Lane::COUNT],
    /// What it can do beyond its version, and wants to. Counts as `expected` does.
    pub features: Features,
    /// Longest pause, in milliseconds, that the other end should leave between two things it says: this
    /// end's patience with a silent link allows no longer one. 65,535 stands for more, too; 0: not said.
    /// Counts as `expected` does.
    pub pause_max_ms: u16,
}

/// The number of a view in the 16 bits that a hello has for it: never 0, the same for the same
/// number, and another for any that is less than 65,535 away.
#[must_use]
pub fn view_mark(epoch: Epoch) -> u16 {
    1 + u16::try_from(epoch.0 % u64::from(u16::MAX)).unwrap_or(0)
}

/// The number of a storage in the 16 bits that a hello has for it: never 0, the same for the same number,
/// and for two that were drawn at random another but once in 65,535 times.
#[must_use]
pub fn storage_mark(storage: u64) -> u16 {
    1 + u16::try_from(storage % u64::from(u16::MAX)).unwrap_or(0)
}

impl Hello {
    /// Whether two ends may have a link as far as their storage goes: what one wrote to another one the
    /// other would never read. An end that does not say which it has is taken to have the same.
    #[must_use]
    pub fn fits_storage_of(&self, other: &Self) -> bool {
        let are_said = self.storage_mark != 0 && other.storage_mark != 0;
        !are_said || self.storage_mark == other.storage_mark
    }

    /// Whether two ends may have a link as far as their views of the cluster go: they have the same,
    /// or views of different numbers, of which one end has the later already. Two views of one
    /// number that differ are those of two clusters, or of a wrong configuration.
    #[must_use]
    pub fn fits_view_of(&self, other: &Self) -> bool {
        let is_same = self.view_hash == other.view_hash;
        let are_said = self.view_mark != 0 && other.view_mark != 0;
        is_same || (are_said && self.view_mark != other.view_mark)
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct WireHello {
    tag: [u8; 8],
    shard: U16,
    shards: U16,
    class: u8,
    status: u8,
    view_mark: U16,
    cluster: U64,
    instance: U16,
    to: U16,
    page_size: U16,
    storage_mark: U16,
    incarnation: U64,
    nonce: U64,
    view_hash: U64,
    expected: [U64; Lane::COUNT],
    credits: [U32; Lane::COUNT],
    process: U64,
    features: U16,
    pause_max_ms: U16,
}
const _: () = assert!(size_of::<WireHello>() == HELLO_BYTES);

impl Hello {
    /// The 128 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        // At most 32,768; and no hello that is read has 0.
        let page_size_bytes = u16::try_from(self.page_size.bytes()).unwrap_or(0);
        let wire = WireHello {
            tag: TAG,
            shard: U16::new(self.shard),
            shards: U16::new(self.shards),
            class: self.class as u8,
            status: self.refusal.map_or(Refusal::NONE, |r| r as u8),
            view_mark: U16::new(self.view_mark),
            cluster: U64::new(self.cluster.0),
            instance: U16::new(self.instance.0),
            to: U16::new(self.to.0),
            page_size: U16::new(page_size_bytes),
            storage_mark: U16::new(self.storage_mark),
            incarnation: U64::new(self.incarnation.0),
            nonce: U64::new(self.nonce.0),
            view_hash: U64::new(self.view_hash),
            expected: self.expected.map(|s| U64::new(s.0)),
            credits: self.credits.map(U32::new),
            process: U64::new(self.process.0),
            features: U16::new(self.features.to_wire()),
            pause_max_ms: U16::new(self.pause_max_ms),
        };
        let mut bytes = [0; HELLO_BYTES];
        bytes.copy_from_slice(wire.as_bytes());
        bytes
    }

    /// Reads 128 bytes: total, and accepts exactly what [`Hello::encode`] can make. Whoever calls it
    /// on bytes from outside has verified their proof.
    ///
    /// # Errors
    /// [`DecodeError`] with the first field that no sender of this version writes.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, DecodeError> {
        let wire = WireHello::ref_from_bytes(bytes).map_err(|_| DecodeError::Length {
            what: "hello",
            found: bytes.len(),
            expected: HELLO_BYTES,
        })?;
        let field = |what, found: u64, expected| DecodeError::Field { what, found, expected };
        if wire.tag != TAG {
            let found = u64::from_le_bytes(wire.tag);
            return Err(field("hello tag", found, "the bytes PWHELLO2"));
        }
        let class = LaneClass::from_wire(wire.class)
            .ok_or_else(|| field("hello lane class", wire.class.into(), "0 to 2"))?;
        let page_size = PageSize::from_bytes(wire.page_size.get().into()).ok_or_else(|| {
            field("hello page size", wire.page_size.get().into(), "4096, 8192, 16384 or 32768")
        })?;
        Ok(Self {
            shard: wire.shard.get(),
            shards: wire.shards.get(),
            class,
            refusal: Refusal::from_wire(wire.status)?,
            cluster: ClusterId(wire.cluster.get()),
            instance: InstanceId(wire.instance.get()),
            to: InstanceId(wire.to.get()),
            page_size,
            storage_mark: wire.storage_mark.get(),
            incarnation: Incarnation(wire.incarnation.get()),
            process: ProcessId(wire.process.get()),
            nonce: LinkNonce(wire.nonce.get()),
            view_hash: wire.view_hash.get(),
            view_mark: wire.view_mark.get(),
            expected: wire.expected.map(|s| Sequence(s.get())),
            credits: wire.credits.map(U32::get),
            features: Features::from_wire(wire.features.get())?,
            pause_max_ms: wire.pause_max_ms.get(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn sample() -> Hello {
        Hello {
            shard: 2,
            shards: 4,
            class: LaneClass::Page,
            refusal: None,
            cluster: ClusterId(7),
            instance: InstanceId(1),
            to: InstanceId(2),
            page_size: PageSize::K8,
            storage_mark: 17,
            incarnation: Incarnation(99),
            process: ProcessId(1234),
            nonce: LinkNonce(5),
            view_hash: 42,
            view_mark: view_mark(Epoch(3)),
            expected: [1, 2, 3, 4, 5].map(Sequence),
            credits: [10, 20, 30, 40, 50],
            features: Features::READS | Features::CLOSING,
            pause_max_ms: 333,
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
    fn views_of_different_numbers_fit_and_two_of_one_number_do_not() {
        let of = |epoch: u64, view_hash| Hello {
            view_hash,
            view_mark: view_mark(Epoch(epoch)),
            ..sample()
        };
        assert!(of(3, 1).fits_view_of(&of(3, 1)));
        assert!(!of(3, 1).fits_view_of(&of(3, 2)));
        for later in [4, 5, 65_537, 70_000] {
            assert!(of(3, 1).fits_view_of(&of(later, 2)) && of(later, 2).fits_view_of(&of(3, 1)));
        }
        // An end that does not say the number has to have the same.
        let silent = Hello { view_mark: 0, ..of(3, 1) };
        assert!(silent.fits_view_of(&of(4, 1)));
        assert!(!silent.fits_view_of(&of(4, 2)) && !of(4, 2).fits_view_of(&silent));
        assert!((0..200_000).all(|epoch| view_mark(Epoch(epoch)) != 0));
    }

    #[test]
    fn storages_that_are_said_to_be_different_do_not_fit_and_the_same_or_unsaid_ones_do() {
        let of = |storage_mark| Hello { storage_mark, ..sample() };
        for (mine, theirs, fit) in
            [(1, 1, true), (1, 2, false), (0, 2, true), (1, 0, true), (0, 0, true)]
        {
            assert_eq!(of(mine).fits_storage_of(&of(theirs)), fit, "{mine} {theirs}");
        }
        assert!((0..200_000).all(|storage| storage_mark(storage) != 0));
        assert_ne!(storage_mark(0xAB), storage_mark(0xAC));
        assert_eq!(storage_mark(u64::MAX), storage_mark(u64::MAX));
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), HELLO_BYTES)) {
            let bytes: [u8; HELLO_BYTES] = bytes.try_into().unwrap();
            prop_assert!(Hello::decode(&bytes).is_err());
        }

        #[test]
        fn what_is_accepted_is_what_encoding_makes(
            changes in proptest::collection::vec((0usize..HELLO_BYTES, any::<u8>()), 1..4),
        ) {
            let mut bytes = sample().encode();
            for (at, with) in changes {
                bytes[at] = with;
            }
            if let Ok(hello) = Hello::decode(&bytes) {
                prop_assert_eq!(hello.encode(), bytes);
            }
        }
    }
}
