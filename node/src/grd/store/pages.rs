//! A map from pages to `T`, made like the store: a slab and an index for each partition, so that it
//! grows without a pause and one partition can be walked without the others.
//!
//! For what an instance holds: it has to tell a new master of a partition what it has there, bit by
//! bit, while requests go on. A map of the standard library would have to be read as a whole. For
//! tools it counts, as values change, how many are of which [kind](Counted): to read them all for a
//! question of how many are dirty would keep everybody waiting.

use super::{Cursor, Hashed, Slot, Step, index::Index, key::Key, partition_of};
use pagewire_protocol::{BufferTag, PartitionId, tag::PARTITIONS};
use pagewire_transport::prefetch;

/// Values of one chunk, a power of two.
const CHUNK: usize = 1 << 10;

/// One partition: a cache line.
#[derive(Debug, Clone, Default)]
#[repr(align(64))]
struct Partition {
    index: Index,
}

type Place<T> = Option<(BufferTag, T)>;

/// What is counted of the values of a [`PageMap`].
pub trait Counted {
    /// Bit by bit the kinds that this value is of.
    fn kinds(&self) -> u8;
}

/// How many values are of each kind, by its bit.
pub type Counts = [u64; 8];

/// The value that was given out to be changed last: an event asks for the same page again and again.
#[derive(Debug, Clone, Copy)]
struct Last {
    tag: BufferTag,
    slot: Slot,
    /// What it is counted as, whatever it has become.
    kinds: u8,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct PageMap<T> {
    partitions: Box<[Partition]>,
    chunks: Vec<Vec<Place<T>>>,
    free: Vec<u32>,
    len: usize,
    counts: Counts,
    last: Option<Last>,
}

impl<T: Counted> Default for PageMap<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Counted> PageMap<T> {
    /// Without pages.
    #[must_use]
    pub fn new() -> Self {
        Self {
            partitions: vec![Partition::default(); usize::from(PARTITIONS)].into_boxed_slice(),
            chunks: Vec::new(),
            free: Vec::new(),
            len: 0,
            counts: Counts::default(),
            last: None,
        }
    }

    /// Number of pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no page.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of pages of one partition.
    #[must_use]
    pub fn partition_len(&self, id: PartitionId) -> usize {
        self.partitions[usize::from(id.0 % PARTITIONS)].index.len()
    }

    #[inline]
    fn find(&self, tag: &BufferTag) -> Option<Slot> {
        match &self.last {
            Some(last) if last.tag == *tag => Some(last.slot),
            _ => self.look_up(&Hashed::of(*tag)),
        }
    }

    #[inline]
    fn find_hashed(&self, page: &Hashed) -> Option<Slot> {
        match &self.last {
            Some(last) if last.tag == page.tag => Some(last.slot),
            _ => {
                let held = page.held.filter(|slot| self.is_it(*slot, &page.tag));
                held.or_else(|| self.look_up(page))
            }
        }
    }

    fn is_it(&self, slot: Slot, tag: &BufferTag) -> bool {
        at(&self.chunks, slot).as_ref().is_some_and(|(found, _)| found == tag)
    }

    fn look_up(&self, &Hashed { ref tag, hash, .. }: &Hashed) -> Option<Slot> {
        let is_it = |slot| self.is_it(slot, tag);
        self.partitions[partition_of(hash)].index.find(Key::of_hash(hash), is_it)
    }

    /// Whether the page was changed last: then what there is of it is near.
    #[inline]
    #[must_use]
    pub fn was_last(&self, tag: &BufferTag) -> bool {
        self.last.is_some_and(|last| last.tag == *tag)
    }

    /// Brings what a look-up of the page reads nearer to the processor, or what a new one is put into. In
    /// the last step it notes where the page seems to be: whether it is there a look-up finds out.
    #[inline(always)] // As `Shard::approach_by`.
    pub fn approach(&self, page: &mut Hashed, step: Step) {
        let index = &self.partitions[partition_of(page.hash)].index;
        let key = Key::of_hash(page.hash);
        match step {
            Step::Partition => {
                prefetch(&self.partitions[partition_of(page.hash)]);
                if let Some(&vacant) = self.free.last() {
                    prefetch(at(&self.chunks, Slot(vacant)));
                }
            }
            Step::Place => self.note(page, index.approach(key)),
            Step::Entry => self.note(page, index.approach_place(key)),
        }
    }

    #[inline(always)] // As `Shard::approach_by`.
    fn note(&self, page: &mut Hashed, found: Option<Slot>) {
        if let Some(slot) = found {
            page.held = found;
            prefetch(at(&self.chunks, slot));
        }
    }

    /// What there is of a page.
    #[inline]
    #[must_use]
    pub fn get(&self, tag: &BufferTag) -> Option<&T> {
        let slot = self.find(tag)?;
        at(&self.chunks, slot).as_ref().map(|(_, value)| value)
    }

    /// What there is of a page, to change.
    #[inline]
    pub fn get_mut(&mut self, page: &Hashed) -> Option<&mut T> {
        let slot = self.find_hashed(page)?;
        self.touch(&page.tag, slot);
        at_mut(&mut self.chunks, slot).as_mut().map(|(_, value)| value)
    }

    /// What there is of a page, made by `make` if there is nothing; and whether it was.
    #[inline]
    pub fn get_or_insert_with(
        &mut self,
        page: &Hashed,
        make: impl FnOnce() -> T,
    ) -> (&mut T, bool) {
        let found = self.find_hashed(page);
        let slot = found.unwrap_or_else(|| self.vacant(page));
        self.touch(&page.tag, slot);
        let place = at_mut(&mut self.chunks, slot);
        (&mut place.get_or_insert_with(|| (page.tag, make())).1, found.is_none())
    }

    /// The value of a page is about to change; one that is not there yet counts as nothing.
    #[inline]
    fn touch(&mut self, tag: &BufferTag, slot: Slot) {
        if self.last.is_none_or(|last| last.slot != slot) {
            self.settle();
            self.last = Some(Last { tag: *tag, slot, kinds: kinds_of(at(&self.chunks, slot)) });
        }
    }

    /// Counts what was changed last as what it has become.
    fn settle(&mut self) {
        if let Some(last) = self.last.take() {
            let now = kinds_of(at(&self.chunks, last.slot));
            recount(&mut self.counts, last.kinds, now);
        }
    }

    /// How many values are of each kind.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts;
        if let Some(last) = &self.last {
            recount(&mut counts, last.kinds, kinds_of(at(&self.chunks, last.slot)));
        }
        counts
    }

    /// A slot for a page that has none, in the index already.
    fn vacant(&mut self, &Hashed { hash, .. }: &Hashed) -> Slot {
        let slot = self.free.pop().map_or_else(|| self.push(), Slot);
        let chunks = &self.chunks;
        // The new slot is not asked for its key.
        let key_of =
            |slot| Key::of_hash(at(chunks, slot).as_ref().map_or(0, |(found, _)| found.hash()));
        self.partitions[partition_of(hash)].index.insert(Key::of_hash(hash), slot, key_of);
        self.len += 1;
        slot
    }

    fn push(&mut self) -> Slot {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let Some(chunk) = self.chunks.last_mut() else { unreachable!("one was just pushed") };
        chunk.push(None);
        Slot(u32::try_from(before + chunk.len() - 1).expect("the index has fewer than 2^26 slots"))
    }

    /// Takes a page out.
    pub fn remove(&mut self, page: &Hashed) -> Option<T> {
        let (slot, hash) = (self.find_hashed(page)?, page.hash);
        self.settle();
        recount(&mut self.counts, kinds_of(at(&self.chunks, slot)), 0);
        self.partitions[partition_of(hash)].index.remove(Key::of_hash(hash), slot);
        self.free.push(slot.0);
        self.len -= 1;
        at_mut(&mut self.chunks, slot).take().map(|(_, value)| value)
    }

    /// All pages, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&BufferTag, &T)> {
        self.chunks.iter().flatten().flatten().map(|(tag, value)| (tag, value))
    }

    /// All pages of one partition, to change.
    pub fn each_of(&mut self, id: PartitionId, mut visit: impl FnMut(&BufferTag, &mut T)) {
        self.settle();
        for slot in self.partitions[usize::from(id.0 % PARTITIONS)].index.slots() {
            if let Some((tag, value)) = at_mut(&mut self.chunks, slot) {
                let before = value.kinds();
                visit(tag, value);
                recount(&mut self.counts, before, value.kinds());
            }
        }
    }

    /// Goes on with a walk of one partition: `visit` sees the pages that come next, about `max` of
    /// them, as [`Store::walk`](super::Store::walk) does.
    pub fn walk(
        &self,
        id: PartitionId,
        cursor: &mut Cursor,
        max: usize,
        mut visit: impl FnMut(&BufferTag, &T),
    ) {
        let of = |slot| at(&self.chunks, slot).as_ref();
        let key_of = |slot| Key::of_hash(of(slot).map_or(0, |(tag, _)| tag.hash()));
        self.partitions[usize::from(id.0 % PARTITIONS)].index.walk(cursor, max, key_of, |slot| {
            if let Some((tag, value)) = of(slot) {
                visit(tag, value);
            }
        });
    }
}

fn kinds_of<T: Counted>(place: &Place<T>) -> u8 {
    place.as_ref().map_or(0, |(_, value)| value.kinds())
}

/// A value of the kinds `before` is of the kinds `now`.
#[inline]
fn recount(counts: &mut Counts, before: u8, now: u8) {
    let mut changed = before ^ now;
    // Few change at a time.
    while changed != 0 {
        let (bit, count) = (changed & changed.wrapping_neg(), changed.trailing_zeros() as usize);
        let count = &mut counts[count];
        *count = if now & bit != 0 { *count + 1 } else { *count - 1 };
        changed ^= bit;
    }
}

fn at<T>(chunks: &[Vec<Place<T>>], slot: Slot) -> &Place<T> {
    let at = slot.0 as usize;
    &chunks[at / CHUNK][at % CHUNK]
}

fn at_mut<T>(chunks: &mut [Vec<Place<T>>], slot: Slot) -> &mut Place<T> {
    let at = slot.0 as usize;
    &mut chunks[at / CHUNK][at % CHUNK]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeMap;

    impl Counted for u32 {
        fn kinds(&self) -> u8 {
            self.to_le_bytes()[0]
        }
    }

    /// What the map is to count.
    fn counted(model: &BTreeMap<BufferTag, u32>) -> Counts {
        std::array::from_fn(|bit| {
            model.values().filter(|value| value.kinds() >> bit & 1 != 0).count() as u64
        })
    }

    #[test]
    fn many_changes_leave_it_as_a_map_would_be() {
        let tag = |block| BufferTag { relation: 7, block, ..BufferTag::default() };
        let mut random = Random::new(5);
        let (mut map, mut model) = (PageMap::new(), BTreeMap::new());
        // Approached some time ago: what they note may have become wrong since.
        let mut noted: Vec<Hashed> = Vec::new();
        for step in 0..60_000u32 {
            let tag = tag(random.below(9_000));
            assert_eq!(map.get(&tag), model.get(&tag));
            let mut page = Hashed::of(tag);
            for step in [Step::Partition, Step::Place, Step::Entry] {
                map.approach(&mut page, step);
            }
            noted.push(page);
            let before = &noted[noted.len() - 1 - noted.len().min(600) / 2];
            assert_eq!(map.get_mut(before), model.get_mut(&before.tag), "step {step}");
            assert_eq!(map.get_mut(&page), model.get_mut(&tag), "step {step}");
            if step % 1000 < 3 {
                assert_eq!(map.counts(), counted(&model), "step {step}");
            }
            if random.below(3) == 0 {
                assert_eq!(map.remove(&Hashed::of(tag)), model.remove(&tag));
            } else {
                let (value, is_new) = map.get_or_insert_with(&Hashed::of(tag), || 0);
                *value += step;
                assert_eq!(is_new, !model.contains_key(&tag));
                *model.entry(tag).or_insert(0) += step;
                assert_eq!(map.get_mut(&Hashed::of(tag)), model.get_mut(&tag));
            }
        }
        assert_eq!(map.len(), model.len());
        assert!(map.chunks.iter().rev().skip(1).all(|chunk| chunk.len() == CHUNK), "none has gaps");
        let mut walked = BTreeMap::new();
        for id in (0..PARTITIONS).map(PartitionId) {
            let (mut cursor, before) = (Cursor::default(), walked.len());
            while !cursor.is_done() {
                map.walk(id, &mut cursor, 2, |tag, value| {
                    assert_eq!((tag.partition(), walked.insert(*tag, *value)), (id, None));
                });
            }
            assert_eq!(walked.len() - before, map.partition_len(id));
        }
        assert_eq!(walked, model);
        for id in (0..PARTITIONS).map(PartitionId) {
            map.each_of(id, |tag, value| {
                assert_eq!(tag.partition(), id);
                *value += 1;
                *model.get_mut(tag).unwrap() += 1;
            });
        }
        assert_eq!(map.counts(), counted(&model));
        assert_eq!(
            map.iter().map(|(tag, value)| (*tag, *value)).collect::<BTreeMap<_, _>>(),
            model
        );
    }
}
