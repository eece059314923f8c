//! Where everything is in a ring, and the fixed part of its header. Pure.
//!
//! ```text
//!    0 +----------------+---------+--------+-------+---------+---------+----------+----+-------+
//!      | "PGWSIRNG"     | version | header | entry | entries | cluster | instance | 0  | CRC   |
//!      | 8              | 4       | 4      | 4     | 4       | 8       | 2        | 2  | 4     | 40
//!   64 +----------------+---------+--------+-------+---------+---------+----------+----+-------+
//!      | generation     | incarnation   | pid   | state |                 of the writer's life
//!      | 8              | 8             | 4     | 4     |
//!  128 +----------------+----------------------------------------------------------------------+
//!      | head           |                                    the next sequence to be written
//!  256 +----------------+----------------------------------------------------------------------+
//!      | reserved       |       what is below this less the capacity may be overwritten by now
//! 4096 +----------------+-----------------+-----------+-------+-------+------------------------+
//!      | sequence       | message         | publisher | flags | spare |  entry 0
//!      | 8              | 16              | 2         | 2     | 4     |  32 bytes; flags, spare 0
//!      +----------------+-----------------+-----------+-------+-------+------------------------+
//! ```
//! Little-endian. The CRC-32C is of the 36 bytes before it; what follows changes with each writer or
//! each batch and is not under it. **The first 40 bytes, state, head and reserved are at these places
//! in every version**, so that a writer can tell the readers of another version that their ring is no
//! more.

use crate::{RingConfig, RingFault, entry::WORDS};
use pagewire_protocol::{ClusterId, InstanceId, crc32c};

/// Version of the layout.
pub const RING_VERSION: u32 = 1;
/// Fewest entries of a ring.
pub const ENTRIES_MIN: u32 = 16;
/// Most entries of a ring: 512 MiB.
pub const ENTRIES_MAX: u32 = 1 << 24;
/// Permission bits of a ring's file unless others are asked for: the group may read it.
pub const RING_MODE: u32 = 0o640;

/// The first 8 bytes.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"PGWSIRNG");
/// Bytes before the first entry: a page, so that entries begin at one.
pub(crate) const HEADER_BYTES: usize = 4096;
/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 32;
/// Bytes of the header's fixed part.
pub(crate) const FIXED_BYTES: usize = 40;
/// Offset of the CRC, which is of everything before it.
const CRC_AT: usize = 36;

/// Offset of the generation, u64: how many writers the ring has had.
pub(crate) const GENERATION_AT: usize = 64;
/// Offset of the writer's incarnation, u64.
pub(crate) const INCARNATION_AT: usize = 72;
/// Offset of the writer's process id, u32.
pub(crate) const PID_AT: usize = 80;
/// Offset of the state, u32.
pub(crate) const STATE_AT: usize = 84;
/// Offset of `head`, u64, on cache lines of its own: what readers poll.
pub(crate) const HEAD_AT: usize = 128;
/// Offset of `reserved`, u64, on cache lines of its own.
pub(crate) const RESERVED_AT: usize = 256;

/// [`STATE_AT`]: in use.
pub(crate) const STATE_IN_USE: u32 = 0;
/// [`STATE_AT`]: replaced by another ring; nothing is written here any more.
pub(crate) const STATE_GONE: u32 = 1;

/// Sequence of a new ring's first message. Not 0, which is what an entry never written holds.
pub(crate) const FIRST_SEQUENCE: u64 = 1;
/// Positions from here on are damage: at 10^9 messages a second a writer is there after 292 years.
pub(crate) const POSITION_END: u64 = 1 << 63;

const _: () = assert!(ENTRY_BYTES == WORDS * size_of::<u64>());
const _: () = assert!(HEADER_BYTES.is_multiple_of(ENTRY_BYTES) && RESERVED_AT + 8 <= HEADER_BYTES);
const _: () = assert!(ENTRIES_MIN.is_power_of_two() && ENTRIES_MAX.is_power_of_two());

/// Bytes of a ring of so many entries.
pub(crate) fn ring_bytes(entries: u32) -> usize {
    // 4096 + 32 x 2^24 at most: fits a usize of 32 bits.
    HEADER_BYTES + ENTRY_BYTES * entries as usize
}

/// What does not change in the life of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub(crate) entries: u32,
    pub(crate) cluster: ClusterId,
    pub(crate) instance: InstanceId,
}

impl Fixed {
    pub(crate) fn of(config: &RingConfig) -> Self {
        Self { entries: config.entries, cluster: config.cluster, instance: config.instance }
    }

    /// The bytes of it, CRC included.
    pub(crate) fn encode(&self) -> [u8; FIXED_BYTES] {
        let mut bytes = [0; FIXED_BYTES];
        let (header, entry) = (4096_u32, 32_u32);
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC.to_le_bytes());
        put(8, &RING_VERSION.to_le_bytes());
        put(12, &header.to_le_bytes());
        put(16, &entry.to_le_bytes());
        put(20, &self.entries.to_le_bytes());
        put(24, &self.cluster.0.to_le_bytes());
        put(32, &self.instance.0.to_le_bytes());
        let crc = crc32c(&[&bytes[..CRC_AT]]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the fixed part of a ring of `len_bytes` bytes in all; `bytes` are its first, as many as
    /// there are.
    pub(crate) fn decode(bytes: &[u8], len_bytes: u64) -> Result<Self, RingFault> {
        let short = RingFault::Length { found: len_bytes, expected: HEADER_BYTES as u64 };
        let Some(bytes) = bytes.first_chunk::<FIXED_BYTES>() else {
            return Err(if is_part_of_a_ring(bytes) { short } else { no_ring(bytes) });
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at + 4)) << 32 | u64::from(u32_at(at));
        if u64_at(0) != MAGIC {
            return Err(no_ring(bytes));
        }
        // Before the version: a damaged one is damage.
        let (found, computed) = (u32_at(CRC_AT), crc32c(&[&bytes[..CRC_AT]]));
        if found != computed {
            return Err(RingFault::Crc { found, computed });
        }
        if u32_at(8) != RING_VERSION {
            return Err(RingFault::Version { found: u32_at(8) });
        }
        let (header, entry, entries) = (u32_at(12), u32_at(16), u32_at(20));
        if header as usize != HEADER_BYTES || entry as usize != ENTRY_BYTES {
            return Err(RingFault::Sizes { header, entry });
        }
        check_entries(entries)?;
        let expected = ring_bytes(entries) as u64;
        if len_bytes != expected {
            return Err(RingFault::Length { found: len_bytes, expected });
        }
        let instance = InstanceId(u16::from_le_bytes([bytes[32], bytes[33]]));
        Ok(Self { entries, cluster: ClusterId(u64_at(24)), instance })
    }
}

/// True for what begins as a ring does, as far as it goes.
fn is_part_of_a_ring(bytes: &[u8]) -> bool {
    MAGIC.to_le_bytes().iter().zip(bytes).all(|(expected, found)| expected == found)
}

/// Of a file that begins otherwise than a ring; bytes that it does not have count as 0.
fn no_ring(bytes: &[u8]) -> RingFault {
    let mut found = [0; 8];
    found.iter_mut().zip(bytes).for_each(|(found, byte)| *found = *byte);
    RingFault::Magic { found: u64::from_le_bytes(found), expected: MAGIC }
}

/// The cluster of a ring of whatever version, if its header is whole.
pub(crate) fn cluster_of_any_version(bytes: &[u8]) -> Option<ClusterId> {
    let bytes = bytes.first_chunk::<FIXED_BYTES>()?;
    let whole = crc32c(&[&bytes[..CRC_AT]]).to_le_bytes() == bytes[CRC_AT..];
    let ours = bytes.starts_with(&MAGIC.to_le_bytes());
    let cluster = bytes[24..].first_chunk()?;
    (whole && ours).then_some(ClusterId(u64::from_le_bytes(*cluster)))
}

/// Refuses a number of entries that no ring has.
pub(crate) fn check_entries(found: u32) -> Result<(), RingFault> {
    match found.is_power_of_two() && (ENTRIES_MIN..=ENTRIES_MAX).contains(&found) {
        true => Ok(()),
        false => Err(RingFault::Entries { found }),
    }
}
