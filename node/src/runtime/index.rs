//! Where a page is in the arena: a hash table that one thread writes and any thread reads without
//! locks.
//!
//! ```text
//!   slot = hash of the tag, upper 32 bits | frame index + 1        0: empty
//! ```
//! Open addressing with linear probing; removal moves later entries back, so there are no
//! tombstones. A reader that races with a removal may miss an entry or see a stale one; both are
//! harmless: a miss goes to the owner, who knows better, and a pin checks the tag in the frame's
//! descriptor.

use pagewire_protocol::BufferTag;
use pagewire_transport::{FrameIndex, prefetch};
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub(crate) struct PageIndex {
    slots: Box<[AtomicU64]>,
    mask: usize,
}

fn check(hash: u64) -> u64 {
    hash & !0xFFFF_FFFF
}

fn home(hash: u64, mask: usize) -> usize {
    // Only the low 32 bits: the upper ones are the check. Fewer than 2^32 slots, so none is lost.
    usize::try_from(hash & 0xFFFF_FFFF).unwrap_or(0) & mask
}

/// The frame of an entry that is not empty: the lower half holds its number + 1.
fn frame_of(slot: u64) -> u32 {
    u32::try_from((slot & 0xFFFF_FFFF).wrapping_sub(1)).unwrap_or(u32::MAX)
}

impl PageIndex {
    /// A table for up to `frames` pages, at most half full.
    pub(crate) fn new(frames: u32) -> Self {
        let slots = (frames as usize * 2).next_power_of_two().max(16);
        Self { slots: (0..slots).map(|_| AtomicU64::new(0)).collect(), mask: slots - 1 }
    }

    /// Brings the place of the page nearer to the processor.
    #[inline]
    pub(crate) fn approach(&self, hash: u64) {
        prefetch(&self.slots[home(hash, self.mask)]);
    }

    /// The frame that may hold the page whose tag's hash is `hash`: whoever pins it checks the tag.
    #[inline]
    pub(crate) fn find(&self, hash: u64) -> Option<FrameIndex> {
        let mut at = home(hash, self.mask);
        // At most half full, so a probe ends; the bound is for a reader that races with a removal.
        for _ in 0..=self.mask {
            let slot = self.slots[at].load(Ordering::Acquire);
            if slot == 0 {
                return None;
            }
            if check(slot) == check(hash) {
                return Some(FrameIndex(frame_of(slot)));
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    /// As [`PageIndex::find`], for the owner, who knows of a frame whether it has the page.
    pub(crate) fn find_that(
        &self,
        hash: u64,
        is_it: impl Fn(FrameIndex) -> bool,
    ) -> Option<FrameIndex> {
        let mut at = home(hash, self.mask);
        loop {
            let slot = self.slots[at].load(Ordering::Relaxed);
            if slot == 0 {
                return None;
            }
            let index = FrameIndex(frame_of(slot));
            if check(slot) == check(hash) && is_it(index) {
                return Some(index);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Adds a page that is not there. Only the owner calls it.
    pub(crate) fn insert(&self, tag: &BufferTag, index: FrameIndex) {
        let hash = tag.hash();
        let mut at = home(hash, self.mask);
        while self.slots[at].load(Ordering::Relaxed) != 0 {
            at = (at + 1) & self.mask;
        }
        self.slots[at].store(check(hash) | (u64::from(index.0) + 1), Ordering::Release);
    }

    /// Removes the entry of frame `index` for `tag`. Only the owner calls it; `hash_of` tells the
    /// hash of the tag that another frame holds, for entries that move back.
    pub(crate) fn remove(
        &self,
        tag: &BufferTag,
        index: FrameIndex,
        hash_of: impl Fn(FrameIndex) -> u64,
    ) {
        let hash = tag.hash();
        let wanted = check(hash) | (u64::from(index.0) + 1);
        let mut hole = home(hash, self.mask);
        while self.slots[hole].load(Ordering::Relaxed) != wanted {
            if self.slots[hole].load(Ordering::Relaxed) == 0 {
                return;
            }
            hole = (hole + 1) & self.mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let slot = self.slots[at].load(Ordering::Relaxed);
            if slot == 0 {
                break;
            }
            let origin = home(hash_of(FrameIndex(frame_of(slot))), self.mask);
            // It may move into the hole unless its own home lies between the hole and itself.
            let distance_to_home = at.wrapping_sub(origin) & self.mask;
            let distance_to_hole = at.wrapping_sub(hole) & self.mask;
            if distance_to_home >= distance_to_hole {
                self.slots[hole].store(slot, Ordering::Release);
                hole = at;
            }
        }
        self.slots[hole].store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::HashMap;

    #[test]
    fn a_table_at_its_limit_agrees_with_a_map_after_many_changes() {
        let index = PageIndex::new(64);
        let mut model: HashMap<u32, u32> = HashMap::new();
        let mut tags = vec![BufferTag::default(); 64];
        let tag = |block| BufferTag { relation: 7, block, ..BufferTag::default() };
        let mut free: Vec<u32> = (0..64).collect();
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let block = random.below(200);
            if let Some(frame) = model.remove(&block) {
                index.remove(&tag(block), FrameIndex(frame), |f| tags[f.0 as usize].hash());
                free.push(frame);
            } else if let Some(frame) = free.pop() {
                tags[frame as usize] = tag(block);
                index.insert(&tag(block), FrameIndex(frame));
                model.insert(block, frame);
            }
            let found = index.find(tag(block).hash()).map(|f| f.0);
            assert_eq!(found, model.get(&block).copied());
            let is_it = |f: FrameIndex| model.get(&block) == Some(&f.0);
            assert_eq!(index.find_that(tag(block).hash(), is_it).map(|f| f.0), found);
            assert_eq!(index.find_that(tag(block).hash(), |_| false), None);
        }
        for block in 0..200 {
            assert_eq!(index.find(tag(block).hash()).map(|f| f.0), model.get(&block).copied());
        }
    }
}
