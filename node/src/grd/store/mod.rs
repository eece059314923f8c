//! Where a master keeps its directory entries: dense, and found by tag or by partition.
//!
//! ```text
//!   tag --hash--> partition --> its index (4 B a place) --> slab of 48 B entries
//!                     |                                                        |
//!                     +-- floor of grant numbers          side table <-- only while something
//!                                                         of R (rare)    is under way
//! ```
//! A page at rest costs 48 B and about 4 / 0.58 B of index. What only a few pages have at a time (a
//! conversion, a queue, a repair) is `R`, in a side table.
//!
//! An index for each partition, rather than one for all, is what a directory that moves by partitions
//! needs: a walk of one partition touches nothing else (no chain through the entries, 4 to 8 B each,
//! no scan of everything), growing takes microseconds, and a partition that has gone leaves nothing
//! behind. Its price is a line of memory for each partition (256 KiB), and, where a partition has more
//! entries than that line has room for, one more dependent read.
//!
//! Invariants: a page has at most one entry; its slot is valid until it is removed; an entry has the
//! flag for rare state exactly while there is some; every entry's grant is at least the floor that
//! its partition had when it was made. What is given up with its partition is in no index, and has no
//! rare state.

mod entry;
mod index;
mod key;
mod many;
mod pages;
mod relations;
mod set;
mod slab;
#[cfg(test)]
mod tests;

pub use entry::{Entry, GRANT_MAX};
pub use index::FEW;
pub use key::Cursor;
pub use pages::{Counted, Counts, PageMap};
pub use set::InstanceSet;

use crate::grd::TagHasher;
use index::Index;
use key::Key;
use pagewire_protocol::{BufferTag, GrantNumber, PartitionId, tag::PARTITIONS};
use pagewire_transport::prefetch;
use relations::Relations;
use slab::Slab;
use std::{collections::HashMap, hash::BuildHasherDefault};

/// A page's tag with its hash: an event computes it once.
#[derive(Debug, Clone, Copy)]
pub struct Hashed {
    /// The page.
    pub tag: BufferTag,
    hash: u64,
    /// Where a [`PageMap`] has it, if nothing has changed since: see [`PageMap::approach`].
    held: Option<Slot>,
    /// Where a [`Store`] has it, if nothing has changed since: see [`Store::approach`].
    entry: Option<Slot>,
}

impl Hashed {
    /// The page with this tag.
    #[inline]
    #[must_use]
    pub fn of(tag: BufferTag) -> Self {
        Self { tag, hash: tag.hash(), held: None, entry: None }
    }

    /// The tag's hash.
    #[inline]
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The part of the directory that it belongs to, as [`BufferTag::partition`] says.
    #[inline]
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        PartitionId(u16::try_from(partition_of(self.hash)).unwrap_or(0))
    }
}

/// A step of a look-up. What one step reads the step before has brought nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What is found by the hash alone.
    Partition,
    /// Where the index says that the page is.
    Place,
    /// What there is of the page.
    Entry,
}

/// The place of an entry, valid until the entry is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

/// One part of the directory: a cache line.
#[derive(Debug, Clone, Default)]
#[repr(align(64))]
struct Partition {
    index: Index,
    /// No new entry begins with a lesser grant number.
    floor: GrantNumber,
}

/// Entries of one master; `R` is what few pages have at a time. See the module.
#[derive(Debug, Clone)]
pub struct Store<R> {
    partitions: Box<[Partition]>,
    slab: Slab,
    relations: Relations,
    rare: HashMap<Slot, R, BuildHasherDefault<TagHasher>>,
    /// Entries that are in no index any more, by the partition that they were of; none is empty.
    given_up: Vec<(PartitionId, Vec<Slot>)>,
}

impl<R: Default> Default for Store<R> {
    fn default() -> Self {
        Self::new()
    }
}

fn partition_of(hash: u64) -> usize {
    usize::try_from(hash & u64::from(PARTITIONS - 1)).unwrap_or(0)
}

impl<R: Default> Store<R> {
    /// Without entries.
    #[must_use]
    pub fn new() -> Self {
        Self {
            partitions: vec![Partition::default(); usize::from(PARTITIONS)].into_boxed_slice(),
            slab: Slab::default(),
            relations: Relations::default(),
            rare: HashMap::default(),
            given_up: Vec::new(),
        }
    }

    fn partition(&self, id: PartitionId) -> &Partition {
        &self.partitions[usize::from(id.0 % PARTITIONS)]
    }

    fn partition_mut(&mut self, id: PartitionId) -> &mut Partition {
        &mut self.partitions[usize::from(id.0 % PARTITIONS)]
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len() - self.given_up.iter().map(|(_, slots)| slots.len()).sum::<usize>()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of entries of one partition.
    #[must_use]
    pub fn partition_len(&self, id: PartitionId) -> usize {
        self.partition(id).index.len()
    }

    /// Bytes of memory, those kept for later included; what is behind `R` is not.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let indexes: usize = self.partitions.iter().map(|p| p.index.memory_bytes()).sum();
        // As in `Relations::memory_bytes`.
        let rare = self.rare.capacity() * 8 / 7 * (size_of::<(Slot, R)>() + 1);
        let partitions = size_of_val(&*self.partitions);
        let given_up = self.given_up.iter().map(|(_, slots)| slots.capacity() * size_of::<Slot>());
        let at_rest = self.slab.memory_bytes() + indexes + partitions;
        at_rest + self.relations.memory_bytes() + rare + given_up.sum::<usize>()
    }

    /// The entry of a page.
    #[must_use]
    pub fn find(&self, tag: &BufferTag) -> Option<Slot> {
        self.find_hashed(&Hashed::of(*tag))
    }

    /// As [`Store::find`].
    #[must_use]
    pub fn find_hashed(&self, page: &Hashed) -> Option<Slot> {
        // A slot that is in use is in an index, but for those of a partition that was given up.
        let noted = page.entry.filter(|slot| self.is_it(*slot, &page.tag) && !self.is_untidy());
        noted.or_else(|| self.look_up(page))
    }

    /// Whether the slot is the page's; it may have been given up.
    fn is_it(&self, slot: Slot, tag: &BufferTag) -> bool {
        let in_use = self.slab.in_use(slot);
        in_use
            .is_some_and(|entry| entry.block == tag.block && self.relations.is(entry.relation, tag))
    }

    fn look_up(&self, &Hashed { ref tag, hash, .. }: &Hashed) -> Option<Slot> {
        let is_it = |slot| self.is_it(slot, tag);
        self.partitions[partition_of(hash)].index.find(Key::of_hash(hash), is_it)
    }

    /// Brings what a look-up of the page reads nearer to the processor. In the last step it notes where the
    /// page seems to be: whether it is there a look-up finds out.
    #[inline(always)] // As `Shard::approach_by`.
    pub fn approach(&self, page: &mut Hashed, step: Step) {
        let partition = &self.partitions[partition_of(page.hash)];
        let key = Key::of_hash(page.hash);
        match step {
            Step::Partition => prefetch(partition),
            Step::Place => self.note(page, partition.index.approach(key)),
            Step::Entry => self.note(page, partition.index.approach_place(key)),
        }
    }

    #[inline(always)] // As `Shard::approach_by`.
    fn note(&self, page: &mut Hashed, found: Option<Slot>) {
        if let Some(slot) = found {
            page.entry = found;
            prefetch(self.slab.get(slot));
        }
    }

    /// The entry of a page: the one that is there, or a new one, whose last grant is the floor of its
    /// partition.
    pub fn insert(&mut self, tag: &BufferTag) -> Slot {
        self.insert_hashed(&Hashed::of(*tag)).0
    }

    /// As [`Store::insert`], and whether the entry is new.
    pub fn insert_hashed(&mut self, page: &Hashed) -> (Slot, bool) {
        match self.find_hashed(page) {
            Some(slot) => (slot, false),
            None => (self.insert_new(page), true),
        }
    }

    fn insert_new(&mut self, &Hashed { ref tag, hash, .. }: &Hashed) -> Slot {
        let partition = &mut self.partitions[partition_of(hash)];
        let relation = self.relations.take(tag);
        let slot = self.slab.insert(Entry::new(relation, tag.block, partition.floor));
        let (slab, relations) = (&self.slab, &self.relations);
        let key_of = |slot| key_in(slab, relations, slot);
        partition.index.insert(Key::of_hash(hash), slot, key_of);
        slot
    }

    /// The page of an entry.
    #[must_use]
    pub fn tag(&self, slot: Slot) -> BufferTag {
        tag_in(&self.slab, &self.relations, slot)
    }

    /// An entry.
    #[must_use]
    pub fn get(&self, slot: Slot) -> &Entry {
        self.slab.get(slot)
    }

    /// An entry, to change.
    pub fn get_mut(&mut self, slot: Slot) -> &mut Entry {
        self.slab.get_mut(slot)
    }

    /// An entry's rare state; without a look-up when there is none.
    #[must_use]
    pub fn rare(&self, slot: Slot) -> Option<&R> {
        self.get(slot).has_rare().then(|| self.rare.get(&slot)).flatten()
    }

    /// An entry's rare state, to change.
    pub fn rare_mut(&mut self, slot: Slot) -> Option<&mut R> {
        self.parts_if(slot).1
    }

    /// An entry and its rare state, which is made if there is none.
    pub fn parts(&mut self, slot: Slot) -> (&mut Entry, &mut R) {
        let entry = self.slab.get_mut(slot);
        entry.set_rare(true);
        (entry, self.rare.entry(slot).or_default())
    }

    /// An entry and its rare state, if there is any.
    pub fn parts_if(&mut self, slot: Slot) -> (&mut Entry, Option<&mut R>) {
        let entry = self.slab.get_mut(slot);
        let rare = if entry.has_rare() { self.rare.get_mut(&slot) } else { None };
        (entry, rare)
    }

    /// Gives an entry that has none its rare state.
    pub fn put_rare(&mut self, slot: Slot, rare: R) {
        self.slab.get_mut(slot).set_rare(true);
        self.rare.insert(slot, rare);
    }

    /// Takes an entry's rare state away: it is at rest again.
    pub fn take_rare(&mut self, slot: Slot) -> Option<R> {
        let entry = self.slab.get_mut(slot);
        if !entry.has_rare() {
            return None;
        }
        entry.set_rare(false);
        self.rare.remove(&slot)
    }

    /// Entries that have rare state, in no order.
    pub fn rare_slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.rare.keys().copied()
    }

    /// Removes an entry, and returns its rare state. Its grant numbers will not be given again: the
    /// floor of its partition keeps them.
    pub fn remove(&mut self, slot: Slot) -> Option<R> {
        let rare = self.take_rare(slot);
        let hash = self.tag(slot).hash();
        let partition = &mut self.partitions[partition_of(hash)];
        let found = partition.index.remove(Key::of_hash(hash), slot);
        debug_assert!(found, "slot {} is in no index", slot.0);
        let entry = self.slab.remove(slot);
        self.relations.give_up(entry.relation);
        partition.floor = partition.floor.max(entry.grant());
        rare
    }

    /// Removes an entry if it says nothing that storage does not ([`Entry::is_forgettable`]) and
    /// nothing is under way. Lost with it is the least version that storage must return, so that a
    /// storage that forgets writes is not found out by the next reader of the page. The grant
    /// numbers are kept, as in [`Store::remove`].
    pub fn forget(&mut self, slot: Slot) -> bool {
        let forgettable = self.get(slot).is_forgettable();
        if forgettable {
            self.remove(slot);
        }
        forgettable
    }

    /// All entries, as they lie in memory: by far the cheapest way to look at every one.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &Entry)> {
        let is_there = move |slot| !self.is_untidy() || self.find(&self.tag(slot)) == Some(slot);
        self.slab.iter().filter(move |(slot, _)| is_there(*slot))
    }

    /// Goes on with a walk of one partition: `visit` sees the entries that come next, about `max` of
    /// them. An entry that is there from the first step to the last is seen exactly once, whatever
    /// else comes, goes or grows between the steps.
    pub fn walk(
        &self,
        id: PartitionId,
        cursor: &mut Cursor,
        max: usize,
        mut visit: impl FnMut(Slot, &Entry),
    ) {
        let key_of = |slot| key_in(&self.slab, &self.relations, slot);
        self.partition(id).index.walk(cursor, max, key_of, |slot| {
            visit(slot, self.slab.get(slot));
        });
    }

    /// The grant number that new entries of a partition begin with: no entry that was removed had a
    /// greater one. It goes with the partition to another master.
    #[must_use]
    pub fn floor(&self, id: PartitionId) -> GrantNumber {
        self.partition(id).floor
    }

    /// Raises the floor of a partition, if it is less. Entries that are there keep their grants.
    pub fn raise_floor(&mut self, id: PartitionId, floor: GrantNumber) {
        let partition = self.partition_mut(id);
        partition.floor = partition.floor.max(floor);
    }

    /// Gives up all entries of a partition at once: nobody finds, meets or counts them any more. Their
    /// rare state is returned. They are removed bit by bit ([`Store::tidy`]), as they may be very many
    /// and lie all over memory.
    pub fn give_up(&mut self, id: PartitionId) -> Vec<R> {
        let slots = self.partition_mut(id).index.take();
        if slots.is_empty() {
            return Vec::new();
        }
        self.given_up.push((id, slots));
        let is_of_it = |slot: &Slot| self.tag(*slot).partition() == id;
        let rare: Vec<_> = self.rare_slots().filter(is_of_it).collect();
        rare.into_iter().filter_map(|slot| self.take_rare(slot)).collect()
    }

    /// Whether there are entries that were given up and not removed.
    #[must_use]
    pub fn is_untidy(&self) -> bool {
        !self.given_up.is_empty()
    }

    /// Removes at most `most` of the entries that were given up. The floors of their partitions are
    /// raised to their grants: until they are all removed none of these may have entries again.
    pub fn tidy(&mut self, most: usize) {
        for _ in 0..most {
            let Some((id, slots)) = self.given_up.last_mut() else { return };
            let id = *id;
            if let Some(slot) = slots.pop() {
                let entry = self.slab.remove(slot);
                self.relations.give_up(entry.relation);
                self.raise_floor(id, entry.grant());
            }
            self.given_up.pop_if(|(_, slots)| slots.is_empty());
        }
    }
}

fn tag_in(slab: &Slab, relations: &Relations, slot: Slot) -> BufferTag {
    let entry = slab.get(slot);
    relations.tag(entry.relation, entry.block)
}

fn key_in(slab: &Slab, relations: &Relations, slot: Slot) -> Key {
    Key::of_hash(tag_in(slab, relations, slot).hash())
}
