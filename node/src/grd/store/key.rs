//! What an index knows of a page, and how far a walk of one has come.

/// Bits of a place that are its slot.
pub(super) const SLOT_BITS: u32 = 26;

/// Most entries of one store: 512 GiB of cached pages of 8 KiB.
pub(super) const SLOTS_MAX: u32 = (1 << SLOT_BITS) - 1;

/// What the index needs of a tag's hash. The lowest 12 bits are the partition, the upper 32 scale to
/// the shard: of them only the lowest take part here, which say nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) order: u32,
    pub(super) check: u32,
}

impl Key {
    pub(super) fn of_hash(hash: u64) -> Self {
        let bits = |from: u32, mask: u64| u32::try_from(hash >> from & mask).unwrap_or(0);
        Self { order: bits(12, u64::from(u32::MAX)), check: bits(44, 3) }
    }
}

/// A walk of one partition; the default is its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Least key that has not been met; 2^32 at the end.
    pub(super) next: u64,
}

impl Cursor {
    pub(super) const END: Self = Self { next: 1 << 32 };

    /// Whether the walk is over.
    #[must_use]
    pub fn is_done(self) -> bool {
        self == Self::END
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_and_the_shard_take_no_part_in_the_key() {
        assert_eq!(Key::of_hash(0xFFF), Key::of_hash(0));
        // Up to 2^18 shards.
        assert_eq!(Key::of_hash(!0 << 46), Key::of_hash(0));
        assert_ne!(Key::of_hash(1 << 12), Key::of_hash(0));
        assert_ne!(Key::of_hash(1 << 45), Key::of_hash(0));
    }
}
