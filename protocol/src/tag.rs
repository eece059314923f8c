//! PostgreSQL's buffer tag: which page of which relation.

use crate::ids::PartitionId;
use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

/// Number of parts the page directory is cut into; a part has one master.
pub const PARTITIONS: u16 = 4096;

/// Blocks in one segment file of a relation, as PostgreSQL is built by default (1 GiB of 8 KiB
/// pages; `RELSEG_SIZE`). With other page sizes a segment still holds 1 GiB.
#[must_use]
pub fn blocks_per_segment(page_size: crate::PageSize) -> u32 {
    (1 << 30) / page_size.bytes_u32()
}

/// Fork of a relation (PostgreSQL `ForkNumber`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u32)]
pub enum Fork {
    /// The relation's pages.
    #[default]
    Main = 0,
    /// Free space map.
    FreeSpace = 1,
    /// Visibility map.
    Visibility = 2,
    /// What an unlogged relation is reset to.
    Init = 3,
}

impl Fork {
    /// The fork that `number` stands for.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Main),
            1 => Some(Self::FreeSpace),
            2 => Some(Self::Visibility),
            3 => Some(Self::Init),
            _ => None,
        }
    }

    /// What a segment file of this fork carries behind the relation's number.
    #[must_use]
    pub fn file_suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::FreeSpace => "_fsm",
            Self::Visibility => "_vm",
            Self::Init => "_init",
        }
    }
}

/// Which page (PostgreSQL 15 `BufferTag`, buf_internals.h). Ordered as guards must be taken.
#[derive(Debug, Clone, Copy, Eq, PartialOrd, Ord, Default)]
pub struct BufferTag {
    /// Object id of the tablespace.
    pub tablespace: u32,
    /// Object id of the database, 0 for shared relations.
    pub database: u32,
    /// File number of the relation.
    pub relation: u32,
    /// Fork of the relation.
    pub fork: Fork,
    /// Block number, counted from the relation's start.
    pub block: u32,
}

impl PartialEq for BufferTag {
    /// All fields at once: in most comparisons they are equal.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b, c], [x, y, z]) = (self.to_words(), other.to_words());
        (a ^ x) | (b ^ y) | (c ^ z) == 0
    }
}

impl Hash for BufferTag {
    /// Three words rather than five fields: maps of pages are looked into many times for one grant.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_words().into_iter().for_each(|word| state.write_u64(word));
    }
}

impl BufferTag {
    /// Bytes on the wire: five little-endian u32 in the order of the fields.
    pub const WIRE_BYTES: usize = 20;

    /// A hash of all fields, equal on every instance: it decides the partition.
    #[inline]
    #[must_use]
    pub fn hash(&self) -> u64 {
        // The words are multiplied side by side, so that they do not wait for each other, and the
        // sum goes through the finaliser of splitmix64.
        let [a, b, c] = self.to_words();
        mix(a
            .wrapping_mul(0xD6E8_FEB8_6659_FD93)
            .wrapping_add(b.wrapping_mul(0xA076_1D64_78BD_642F))
            .wrapping_add(c.wrapping_mul(0xE703_7ED1_A0B4_28DB)))
    }

    /// The part of the directory that this page belongs to.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        let bits = self.hash() & u64::from(PARTITIONS - 1);
        PartitionId(u16::try_from(bits).unwrap_or(0))
    }

    /// Which of an instance's `shards` shards keeps this page, the same on every instance: 0 to
    /// `shards - 1`.
    #[must_use]
    pub fn shard(&self, shards: u16) -> u16 {
        shard_of_hash(self.hash(), shards)
    }

    /// The tag as three words, for storage in atomics.
    #[inline]
    #[must_use]
    pub fn to_words(self) -> [u64; 3] {
        [
            u64::from(self.tablespace) << 32 | u64::from(self.database),
            u64::from(self.relation) << 32 | u64::from(self.fork as u32),
            u64::from(self.block),
        ]
    }

    /// The tag that `words` stand for; `None` if they are no tag's.
    #[must_use]
    pub fn from_words(words: [u64; 3]) -> Option<Self> {
        let high = |word: u64| u32::try_from(word >> 32).ok();
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).ok();
        Some(Self {
            tablespace: high(words[0])?,
            database: low(words[0])?,
            relation: high(words[1])?,
            fork: Fork::from_number(low(words[1])?)?,
            block: u32::try_from(words[2]).ok()?,
        })
    }
}

/// The shard of a page whose [`BufferTag::hash`] is `hash`.
///
/// The upper half of the hash is scaled to the number of shards (Lemire, "Fast Random Integer
/// Generation in an Interval", 2019): no division, and even to one part in 2^32. The partition is in
/// the lowest bits, so that it says nothing about the shard: the pages that one instance masters, and
/// those of any one partition, spread over all shards.
#[inline]
#[must_use]
pub fn shard_of_hash(hash: u64, shards: u16) -> u16 {
    let scaled = ((hash >> 32) * u64::from(shards)) >> 32;
    u16::try_from(scaled).unwrap_or(0)
}

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl fmt::Display for BufferTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = self.fork.file_suffix();
        let Self { tablespace, database, relation, block, .. } = self;
        write!(f, "{tablespace}/{database}/{relation}{suffix}:{block}")
    }
}

/// Text that names no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{found}' is no page, expected TABLESPACE/DATABASE/RELATION:BLOCK such as 1663/5/16384:3, with \
     _fsm, _vm or _init behind the relation for its other forks"
)]
pub struct TagError {
    found: String,
}

impl FromStr for BufferTag {
    type Err = TagError;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, TagError> {
        let read = || {
            let (relation, block) = text.split_once(':')?;
            let mut parts = relation.splitn(3, '/');
            let number = |part: &str| {
                let is_plain = part.bytes().all(|byte| byte.is_ascii_digit());
                if is_plain { part.parse().ok() } else { None }
            };
            let (tablespace, database) = (number(parts.next()?)?, number(parts.next()?)?);
            let relation = parts.next()?;
            let digits = relation.find('_').unwrap_or(relation.len());
            let (relation, suffix) = relation.split_at(digits);
            let forks = (0..).map_while(Fork::from_number);
            let fork = forks.into_iter().find(|fork| fork.file_suffix() == suffix)?;
            let (relation, block) = (number(relation)?, number(block)?);
            Some(Self { tablespace, database, relation, fork, block })
        };
        read().ok_or_else(|| TagError { found: text.chars().take(60).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_reads_as_written_and_nothing_else_does() {
        for fork in (0..4).filter_map(Fork::from_number) {
            let tag = BufferTag {
                tablespace: 1663,
                database: 5,
                relation: 16384,
                fork,
                block: 4_294_967_295,
            };
            assert_eq!(tag.to_string().parse(), Ok(tag));
        }
        for text in [
            "",
            "5",
            "1663/5/16384",
            "1663/5:3",
            "1663/5/16384:",
            "1663/5/16384:x",
            "1663/5/16384:-1",
            "1663/5/+16384:1",
            "1663/5/16384_:3",
            "1663/5/16384_vm2:3",
            "1663/5/16384/0:3",
            "1663/5/16384:4294967296",
            " 1663/5/16384:3",
        ] {
            let error = text.parse::<BufferTag>().expect_err(text).to_string();
            assert!(error.contains("is no page, expected") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn consecutive_blocks_spread_over_the_partitions() {
        let mut seen = std::collections::HashSet::new();
        for block in 0..4096 {
            seen.insert(BufferTag { relation: 16384, block, ..BufferTag::default() }.partition());
        }
        // 4096 balls in 4096 bins leave about 63 % of them used.
        assert!((2400..2800).contains(&seen.len()), "{}", seen.len());
    }

    /// Pages by shard, of a relation's blocks that `is_one_of` picks.
    fn by_shard(shards: u16, is_one_of: impl Fn(&BufferTag) -> bool) -> Vec<u32> {
        let mut pages = vec![0; usize::from(shards)];
        for block in 0..1 << 20 {
            let tag = BufferTag { relation: 16384, block, ..BufferTag::default() };
            if is_one_of(&tag) {
                pages[usize::from(tag.shard(shards))] += 1;
            }
        }
        pages
    }

    /// Asserts that no shard's share is off by more than 5 standard deviations.
    fn assert_even(pages: &[u32]) {
        let sum = f64::from(pages.iter().sum::<u32>());
        let share = sum / pages.len() as f64;
        let limit = 5.0 * share.sqrt();
        assert!(share > 100.0, "too few to tell");
        for &count in pages {
            assert!((f64::from(count) - share).abs() < limit, "{pages:?}");
        }
    }

    #[test]
    fn pages_spread_evenly_over_any_number_of_shards() {
        for shards in [1, 2, 3, 4, 7, 16, 100] {
            assert_even(&by_shard(shards, |_| true));
        }
    }

    #[test]
    fn one_masters_pages_spread_over_all_its_shards() {
        // Whatever bits of the partition decide the master, and if it has few partitions.
        for shards in [2, 3, 4, 16] {
            for bit in 0..12 {
                assert_even(&by_shard(shards, |tag| tag.partition().0 >> bit & 1 == 1));
            }
            assert_even(&by_shard(shards, |tag| tag.partition().0 < 16));
        }
    }

    #[test]
    fn a_shard_is_the_same_wherever_it_is_computed() {
        // Known answers: instances of other builds route by them.
        let tag = |block| BufferTag { relation: 16384, block, ..BufferTag::default() };
        let shards: Vec<_> = (0..8).map(|block| tag(block).shard(4)).collect();
        assert_eq!(shards, [0, 1, 3, 2, 3, 3, 1, 0]);
        assert_eq!(tag(5).shard(1), 0);
        assert_eq!(shard_of_hash(u64::MAX, u16::MAX), u16::MAX - 1);
    }

    #[test]
    fn a_tag_comes_back_from_its_words_and_other_words_are_none() {
        let (tablespace, database, relation) = (1663, u32::MAX, 16384);
        let tag = BufferTag { tablespace, database, relation, fork: Fork::Init, block: u32::MAX };
        assert_eq!(BufferTag::from_words(tag.to_words()), Some(tag));
        assert_eq!(BufferTag::from_words([0, 4, 0]), None, "no such fork");
        assert_eq!(BufferTag::from_words([0, 0, 1 << 32]), None, "no such block");
    }

    #[test]
    fn tags_order_by_block_last() {
        let low = BufferTag { relation: 1, block: 9, ..BufferTag::default() };
        let high = BufferTag { relation: 2, block: 0, ..BufferTag::default() };
        assert!(low < high);
    }
}
