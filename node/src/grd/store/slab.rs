//! Entries, dense, in chunks that never move: growing copies nothing.

use super::{Slot, entry::Entry};

/// Entries of one chunk, a power of two. Large enough that the allocator's own bytes and the unused
/// part of the last chunk are lost in the sum; only what is used is touched.
const CHUNK: usize = 1 << 14;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Slab {
    chunks: Vec<Vec<Entry>>,
    /// Number + 1 of the first free slot; 0 for none. It goes on in the entries themselves.
    free: u32,
    live: usize,
}

impl Slab {
    pub(super) fn len(&self) -> usize {
        self.live
    }

    fn entry(&self, slot: u32) -> &Entry {
        let at = slot as usize;
        &self.chunks[at / CHUNK][at % CHUNK]
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        let at = slot as usize;
        &mut self.chunks[at / CHUNK][at % CHUNK]
    }

    /// The entry of a slot.
    ///
    /// # Panics
    /// In debug builds, if it was removed.
    pub(super) fn get(&self, slot: Slot) -> &Entry {
        let entry = self.entry(slot.0);
        debug_assert!(!entry.is_free(), "slot {} is used after its removal", slot.0);
        entry
    }

    /// The entry of a slot, unless it was removed.
    pub(super) fn in_use(&self, slot: Slot) -> Option<&Entry> {
        Some(self.entry(slot.0)).filter(|entry| !entry.is_free())
    }

    /// As [`Slab::get`].
    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Entry {
        let entry = self.entry_mut(slot.0);
        debug_assert!(!entry.is_free(), "slot {} is used after its removal", slot.0);
        entry
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Entry)> {
        let slots = (0..).map(Slot);
        slots.zip(self.chunks.iter().flatten()).filter(|(_, entry)| !entry.is_free())
    }

    pub(super) fn insert(&mut self, entry: Entry) -> Slot {
        self.live += 1;
        if let Some(slot) = self.free.checked_sub(1) {
            self.free = self.entry(slot).block;
            *self.entry_mut(slot) = entry;
            return Slot(slot);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let Some(chunk) = self.chunks.last_mut() else { unreachable!("one was just pushed") };
        let slot =
            u32::try_from(before + chunk.len()).expect("the index has fewer than 2^26 slots");
        chunk.push(entry);
        Slot(slot)
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Entry {
        let next = self.free;
        self.free = slot.0 + 1;
        self.live -= 1;
        std::mem::replace(self.get_mut(slot), Entry::free(next))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|c| c.capacity() * size_of::<Entry>()).sum();
        chunks + self.chunks.capacity() * size_of::<Vec<Entry>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagewire_protocol::GrantNumber;

    #[test]
    fn a_freed_slot_is_used_again_before_the_slab_grows() {
        let mut slab = Slab::default();
        let entry = |block| Entry::new(0, block, GrantNumber(0));
        let slots: Vec<_> = (0..40_000).map(|block| slab.insert(entry(block))).collect();
        let bytes = slab.memory_bytes();
        let chunks = 40_000_usize.div_ceil(CHUNK);
        let entries = chunks * CHUNK * 48;
        let list = size_of::<Vec<Entry>>();
        assert!((entries + chunks * list..=entries + 8 * list).contains(&bytes), "{bytes} bytes");
        for slot in slots.iter().step_by(3) {
            slab.remove(*slot);
        }
        let freed = 40_000_usize.div_ceil(3);
        assert_eq!((slab.len(), slab.iter().count()), (40_000 - freed, 40_000 - freed));
        assert!(slab.iter().all(|(slot, entry)| slot.0 == entry.block && slot.0 % 3 != 0));
        for block in 0..u32::try_from(freed).unwrap() {
            assert_eq!(slots[slab.insert(entry(block)).0 as usize].0 % 3, 0);
        }
        assert_eq!((slab.len(), slab.memory_bytes()), (40_000, bytes));
        assert_eq!(slab.get(slots[1]).block, 1);
    }
}
