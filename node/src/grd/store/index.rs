//! The index of one partition: where in the slab its entries are.
//!
//! ```text
//!   few    a cache line, 12 places in it:     | 6 bits of hash | 26 bits: slot |
//!   many   [`Many`], beside it
//! ```
//! A page that nobody has asked for lately is known in lines of memory that are far away and name each
//! other; each that is saved is a tenth of a microsecond. So the places of few entries are in the line
//! that names the partition: of a shard that knows up to some 20,000 pages, all but a few of them.
//!
//! There is one index for each partition, so that a walk of one touches no other, and growing takes
//! as long as one partition is large, not as long as all of them are.

use super::{
    Slot,
    key::{Cursor, Key, SLOT_BITS, SLOTS_MAX},
    many::Many,
};

/// Entries that are few.
pub const FEW: usize = 12;

/// See the module.
#[derive(Debug, Clone)]
pub(super) enum Index {
    Few(Few),
    Many(Many),
}

// Beside a grant number in one line.
const _: () = assert!(size_of::<Index>() <= 56);

impl Default for Index {
    fn default() -> Self {
        Self::Few(Few::default())
    }
}

/// Up to [`FEW`] entries, in no order.
#[derive(Debug, Clone, Default)]
pub(super) struct Few {
    places: [u32; FEW],
    len: u32,
}

impl Few {
    fn places(&self) -> &[u32] {
        &self.places[..(self.len as usize).min(FEW)]
    }

    fn slots(&self) -> impl Iterator<Item = Slot> {
        self.places().iter().map(|place| slot(*place))
    }

    #[inline]
    fn find(&self, key: Key, is_it: impl Fn(Slot) -> bool) -> Option<usize> {
        let fits = |place: &u32| place >> SLOT_BITS == few_check(key) && is_it(slot(*place));
        self.places().iter().position(fits)
    }

    /// False when there is no room.
    fn add(&mut self, key: Key, new: Slot) -> bool {
        let Some(place) = self.places.get_mut(self.len as usize) else { return false };
        *place = few_check(key) << SLOT_BITS | new.0;
        self.len += 1;
        true
    }

    fn remove(&mut self, at: usize) {
        self.len -= 1;
        self.places[at] = self.places[self.len as usize];
    }
}

fn slot(place: u32) -> Slot {
    Slot(place & SLOTS_MAX)
}

/// What a place of few says of the hash.
fn few_check(key: Key) -> u32 {
    key.order & ((1 << (u32::BITS - SLOT_BITS)) - 1)
}

impl Index {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(few) => few.places().len(),
            Self::Many(many) => many.len(),
        }
    }

    /// Beside the index itself.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Few(_) => 0,
            Self::Many(many) => many.memory_bytes(),
        }
    }

    /// Brings the place of `key` nearer to the processor, where it is not in the index itself. It is found
    /// at once then.
    #[inline]
    pub(super) fn approach(&self, key: Key) -> Option<Slot> {
        match self {
            Self::Few(few) => few.find(key, |_| true).map(|at| slot(few.places[at])),
            Self::Many(many) => {
                many.approach(key);
                None
            }
        }
    }

    /// As [`Index::approach`] when the place has come.
    #[inline]
    pub(super) fn approach_place(&self, key: Key) -> Option<Slot> {
        match self {
            Self::Few(_) => None,
            Self::Many(many) => many.find(key, |_| true),
        }
    }

    /// The slot with `key` that `is_it`.
    #[inline]
    pub(super) fn find(&self, key: Key, is_it: impl Fn(Slot) -> bool) -> Option<Slot> {
        match self {
            Self::Few(few) => few.find(key, is_it).map(|at| slot(few.places[at])),
            Self::Many(many) => many.find(key, is_it),
        }
    }

    /// Adds a slot that is not there. `key_of` tells the key of those that are.
    ///
    /// # Panics
    /// If the slot's number is [`SLOTS_MAX`] or more.
    pub(super) fn insert(&mut self, key: Key, new: Slot, key_of: impl Fn(Slot) -> Key) {
        assert!(new.0 < SLOTS_MAX, "a directory keeps at most {SLOTS_MAX} pages of one shard");
        match self {
            Self::Few(few) => {
                if few.add(key, new) {
                    return;
                }
                let mut many = Many::default();
                for slot in few.slots() {
                    many.insert(key_of(slot), slot, &key_of);
                }
                many.insert(key, new, &key_of);
                *self = Self::Many(many);
            }
            Self::Many(many) => many.insert(key, new, key_of),
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        let (few, many) = match self {
            Self::Few(few) => (Some(few.slots()), None),
            Self::Many(many) => (None, Some(many.slots())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    /// Removes `old`, which has `key`. True when it was there. When the last one goes of many, the next
    /// ones are few.
    pub(super) fn remove(&mut self, key: Key, old: Slot) -> bool {
        match self {
            Self::Few(few) => match few.find(key, |slot| slot == old) {
                Some(at) => {
                    few.remove(at);
                    true
                }
                None => false,
            },
            Self::Many(many) => {
                let was_there = many.remove(key, old);
                if many.len() == 0 {
                    *self = Self::default();
                }
                was_there
            }
        }
    }

    /// Goes on with a walk: `visit` sees the slots that come next, about `max` of them: few come together,
    /// and those of many that share a home.
    pub(super) fn walk(
        &self,
        cursor: &mut Cursor,
        max: usize,
        key_of: impl Fn(Slot) -> Key,
        visit: impl FnMut(Slot),
    ) {
        match self {
            Self::Few(few) => {
                // What is left of a walk that began while they were many.
                let next = cursor.next;
                *cursor = Cursor::END;
                few.slots().filter(|slot| u64::from(key_of(*slot).order) >= next).for_each(visit);
            }
            Self::Many(many) => many.walk(cursor, max, key_of, visit),
        }
    }

    /// Empties the index; the slots that were in it.
    pub(super) fn take(&mut self) -> Vec<Slot> {
        let slots = self.slots().collect();
        *self = Self::default();
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::BTreeMap;

    fn key(order: u32) -> Key {
        Key { order, check: order & 3 }
    }

    /// Keys by slot.
    type Model = BTreeMap<u32, Key>;

    fn slots_of(index: &Index) -> Vec<u32> {
        let mut slots: Vec<_> = index.slots().map(|slot| slot.0).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn few_become_many_and_few_again_and_each_is_found_once() {
        let mut index = Index::default();
        let mut model = Model::new();
        let mut random = Random::new(7);
        // Up and down around the limit; many keys alike.
        for step in 0..20_000u32 {
            let target = if step / 500 % 2 == 0 { 2 * FEW } else { 0 };
            let slot = random.below(40);
            let Some(old) = model.get(&slot).copied() else {
                if model.len() < target {
                    let new = key(random.below(1 << 9) << 23);
                    index.insert(new, Slot(slot), |slot| model[&slot.0]);
                    model.insert(slot, new);
                }
                continue;
            };
            assert_eq!(index.find(old, |found| found.0 == slot), Some(Slot(slot)));
            if model.len() > target {
                assert!(index.remove(old, Slot(slot)));
                assert!(!index.remove(old, Slot(slot)), "it was there once");
                model.remove(&slot);
            }
            assert_eq!(slots_of(&index), model.keys().copied().collect::<Vec<_>>());
            assert_eq!(index.len(), model.len());
        }
        assert_eq!(index.memory_bytes() > 0, matches!(index, Index::Many(_)));
    }

    #[test]
    fn a_walk_meets_each_once_also_when_few_become_many_between_its_steps() {
        for first in [1, FEW - 1, FEW, FEW + 1, 3 * FEW] {
            let keys: Vec<_> = (0..100u32).map(|at| key(at.wrapping_mul(0x9E37_79B9))).collect();
            let key_of = |slot: Slot| keys[slot.0 as usize];
            let mut index = Index::default();
            let mut next = 0;
            let mut add = |index: &mut Index, count| {
                for _ in 0..count {
                    index.insert(keys[next as usize], Slot(next), key_of);
                    next += 1;
                }
            };
            add(&mut index, first);
            let (mut met, mut cursor) = (Vec::new(), Cursor::default());
            while !cursor.is_done() {
                index.walk(&mut cursor, 1, key_of, |slot| met.push(slot.0));
                add(&mut index, 1);
            }
            let before: Vec<_> = met.iter().filter(|slot| (**slot as usize) < first).collect();
            assert_eq!(before.len(), first, "{met:?}");
            met.sort_unstable();
            met.dedup();
            assert_eq!(met.iter().filter(|slot| (**slot as usize) < first).count(), first);
        }
    }

    #[test]
    fn a_walk_of_many_ends_well_when_what_is_left_are_few() {
        let keys: Vec<_> = (0..40u32).map(|at| key(at.wrapping_mul(0x9E37_79B9))).collect();
        let key_of = |slot: Slot| keys[slot.0 as usize];
        let mut index = Index::default();
        for at in 0..40 {
            index.insert(keys[at as usize], Slot(at), key_of);
        }
        let (mut met, mut cursor) = (Vec::new(), Cursor::default());
        index.walk(&mut cursor, 10, key_of, |slot| met.push(slot.0));
        let left: Vec<_> = (0..40).filter(|slot| !met.contains(slot)).take(3).collect();
        // All go, and three that were not met come back: now they are few.
        index.take();
        let early = met[0];
        for &slot in left.iter().chain([&early]) {
            index.insert(keys[slot as usize], Slot(slot), key_of);
        }
        let mut rest = Vec::new();
        while !cursor.is_done() {
            index.walk(&mut cursor, 1, key_of, |slot| rest.push(slot.0));
        }
        rest.sort_unstable();
        assert_eq!(rest, left, "who was met is not met again");
    }

    #[test]
    fn places_of_few_are_told_apart_by_more_of_the_hash_than_those_of_many() {
        let mut few = Few::default();
        for at in 0..u32::try_from(FEW).unwrap() {
            assert!(few.add(Key { order: at, check: 0 }, Slot(at)));
        }
        assert!(!few.add(Key { order: 63, check: 0 }, Slot(99)), "it is full");
        let asked = std::cell::Cell::new(0);
        let found = few.find(Key { order: 5, check: 0 }, |slot| {
            asked.set(asked.get() + 1);
            slot.0 == 5
        });
        assert_eq!((found, asked.get()), (Some(5), 1));
    }
}
