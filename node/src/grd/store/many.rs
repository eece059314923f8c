//! An index of more than a few entries: open addressing, sorted by hash, a u32 for each place.
//!
//! ```text
//!   place   | 4 bits: how far behind its home | 2 bits of hash | 26 bits: slot + 1 |    0: empty
//!
//!   key     32 bits of the tag's hash that decide neither partition nor shard
//!   home    key x homes / 2^32 (Lemire's scaling: any number of homes, no division)
//! ```
//! Linear probing without a wrap: behind the last home there is room for the longest probe. An entry
//! stands behind all entries with an earlier home, so that (Robin Hood hashing, Celis 1986)
//! - a look-up ends at the first place whose entry has a later home, without reading entries;
//! - a removal moves the entries behind it back, and leaves no tombstone;
//! - the places are in the order of the keys, however many homes there are. A walk is a position in
//!   that order: whatever is inserted, removed or moved between its steps, it meets each entry that
//!   was there all the time exactly once.

use super::{
    Slot,
    key::{Cursor, Key, SLOT_BITS, SLOTS_MAX},
};
use pagewire_transport::prefetch;

/// Longest way from a home.
const REACH: u32 = 15;
const CHECK_SHIFT: u32 = SLOT_BITS;
const DISTANCE_SHIFT: u32 = 28;
const HOMES_MIN: u32 = 4;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Many {
    places: Box<[u32]>,
    homes: u32,
    len: u32,
}

fn distance(place: u32) -> u32 {
    place >> DISTANCE_SHIFT
}

fn slot(place: u32) -> Slot {
    Slot((place & SLOTS_MAX) - 1)
}

fn home(order: u32, homes: u32) -> u32 {
    u32::try_from((u64::from(order) * u64::from(homes)) >> 32).unwrap_or(0)
}

impl Many {
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.places)
    }

    fn with_homes(homes: u32) -> Self {
        let places = vec![0; (homes + REACH + 1) as usize].into_boxed_slice();
        Self { places, homes, len: 0 }
    }

    /// Where an entry with `key` that `is_it` may stand.
    fn place(&self, key: Key, is_it: impl Fn(Slot) -> bool) -> Option<usize> {
        let home = home(key.order, self.homes) as usize;
        // No places at all: the index is empty.
        let probe = self.places.get(home..=home + REACH as usize)?;
        for (&place, from_home) in probe.iter().zip(0..) {
            if place == 0 || distance(place) < from_home {
                return None;
            }
            let fits = distance(place) == from_home && place >> CHECK_SHIFT & 3 == key.check;
            if fits && is_it(slot(place)) {
                return Some(home + from_home as usize);
            }
        }
        None
    }

    /// Brings the place of `key` nearer to the processor.
    #[inline]
    pub(super) fn approach(&self, key: Key) {
        if let Some(place) = self.places.get(home(key.order, self.homes) as usize) {
            prefetch(place);
        }
    }

    /// The slot with `key` that `is_it`.
    #[inline]
    pub(super) fn find(&self, key: Key, is_it: impl Fn(Slot) -> bool) -> Option<Slot> {
        self.place(key, is_it).map(|at| slot(self.places[at]))
    }

    /// Adds a slot that is not there. `key_of` tells the key of those that are.
    pub(super) fn insert(&mut self, key: Key, new: Slot, key_of: impl Fn(Slot) -> Key) {
        // At most seven tenths full: few entries are then as far from home as they may be.
        if (u64::from(self.len) + 1) * 10 > u64::from(self.homes) * 7 {
            self.grow(&key_of);
        }
        while !self.add(key, new) {
            self.grow(&key_of);
        }
    }

    /// False when somebody would be too far from home; then nothing has changed.
    fn add(&mut self, key: Key, new: Slot) -> bool {
        let home = home(key.order, self.homes) as usize;
        let mut at = home;
        let mut from_home = 0;
        while self.places[at] != 0 && distance(self.places[at]) >= from_home {
            at += 1;
            from_home += 1;
            if from_home > REACH {
                return false;
            }
        }
        let mut end = at;
        loop {
            match self.places.get(end) {
                Some(0) => break,
                Some(&place) if distance(place) < REACH => end += 1,
                _ => return false,
            }
        }
        self.places.copy_within(at..end, at + 1);
        self.places[at + 1..=end].iter_mut().for_each(|place| *place += 1 << DISTANCE_SHIFT);
        self.places[at] = from_home << DISTANCE_SHIFT | key.check << CHECK_SHIFT | (new.0 + 1);
        self.len += 1;
        true
    }

    /// Half as many homes again, or more if some key's neighbours need it.
    fn grow(&mut self, key_of: &impl Fn(Slot) -> Key) {
        let mut homes = self.homes;
        *self = loop {
            homes = homes.saturating_add(homes / 2).max(HOMES_MIN);
            assert!(homes < 1 << 30, "tags that hash alike: no index of them can be built");
            let mut grown = Self::with_homes(homes);
            if self.slots().all(|slot| grown.add(key_of(slot), slot)) {
                break grown;
            }
        };
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.places.iter().filter(|place| **place != 0).map(|place| slot(*place))
    }

    /// Removes `old`, which has `key`. True when it was there.
    pub(super) fn remove(&mut self, key: Key, old: Slot) -> bool {
        let Some(mut at) = self.place(key, |slot| slot == old) else { return false };
        self.len -= 1;
        while let Some(&behind) = self.places.get(at + 1)
            && distance(behind) > 0
        {
            self.places[at] = behind - (1 << DISTANCE_SHIFT);
            at += 1;
        }
        self.places[at] = 0;
        true
    }

    /// Goes on with a walk: `visit` sees the slots that come next, about `max` of them (those that
    /// share a home come together).
    pub(super) fn walk(
        &self,
        cursor: &mut Cursor,
        max: usize,
        key_of: impl Fn(Slot) -> Key,
        mut visit: impl FnMut(Slot),
    ) {
        if cursor.is_done() || self.len == 0 {
            *cursor = Cursor::END;
            return;
        }
        let scaled = (cursor.next * u64::from(self.homes)) >> 32;
        let first = usize::try_from(scaled).unwrap_or(usize::MAX);
        let mut met = 0;
        let mut last_home = first;
        for (at, &place) in self.places.iter().enumerate().skip(first) {
            if place == 0 {
                continue;
            }
            let home = at - distance(place) as usize;
            if home > last_home && met >= max {
                // The least key whose home is beyond the last one's.
                cursor.next = ((last_home as u64 + 1) << 32).div_ceil(u64::from(self.homes));
                return;
            }
            let slot = slot(place);
            // Where the index has grown, entries met before may share the first home with others.
            let is_next = |slot| u64::from(key_of(slot).order) >= cursor.next;
            if home > first || (home == first && is_next(slot)) {
                visit(slot);
                met += 1;
            }
            last_home = last_home.max(home);
        }
        *cursor = Cursor::END;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(order: u32) -> Key {
        Key { order, check: order & 3 }
    }

    /// Keys by slot.
    fn filled(keys: &[u32]) -> Many {
        let mut index = Many::default();
        for (&order, at) in keys.iter().zip(0..) {
            index.insert(key(order), Slot(at), |slot| key(keys[slot.0 as usize]));
        }
        index
    }

    #[test]
    fn neighbours_that_crowd_make_it_grow_rather_than_go_far_from_home() {
        // 15 fit beside each other with one home; these need many homes to be told apart.
        let keys: Vec<_> = (0..40).map(|i| i << 20).collect();
        let index = filled(&keys);
        assert_eq!(index.len(), 40);
        assert_eq!(index.memory_bytes(), index.places.len() * 4);
        for (&order, at) in keys.iter().zip(0..) {
            assert_eq!(index.find(key(order), |slot| slot == Slot(at)), Some(Slot(at)));
        }
    }

    #[test]
    fn as_many_as_reach_share_a_home_and_who_would_push_one_further_is_refused() {
        let mut index = Many::with_homes(8);
        // Homes are scaled: an eighth of all keys each.
        let of_home = |home: u32, number| key((home << 29) + number);
        for at in 0..=REACH {
            assert!(index.add(of_home(1, at), Slot(at)), "{at} places from its home");
        }
        assert!(!index.add(of_home(1, 99), Slot(99)), "no further");
        // An earlier home's first one has a place of its own; its second would push all of them on.
        assert!(index.add(of_home(0, 0), Slot(50)));
        let before = index.places.clone();
        assert!(!index.add(of_home(0, 1), Slot(51)));
        assert_eq!((index.places, index.len), (before, REACH + 2), "nothing has changed");
    }

    #[test]
    fn who_comes_before_others_moves_each_by_one_place() {
        let mut index = Many::with_homes(8);
        let of_home = |home: u32, number| key((home << 29) + number);
        let keys = [of_home(1, 0), of_home(2, 1), of_home(3, 2), of_home(5, 3), of_home(1, 4)];
        for (&key, at) in keys.iter().zip(0..) {
            assert!(index.add(key, Slot(at)));
        }
        let distances: Vec<_> = index.places[1..6].iter().map(|place| distance(*place)).collect();
        assert_eq!(distances, [0, 1, 1, 1, 0]);
        let slots: Vec<_> = index.slots().map(|slot| slot.0).collect();
        assert_eq!(slots, [0, 4, 1, 2, 3]);
    }

    #[test]
    fn it_grows_by_half_and_no_more() {
        let keys: Vec<_> = (0..1000u32).map(|i| i * (u32::MAX / 1000)).collect();
        let index = filled(&keys);
        // At most seven tenths full before it grew, and half as much again.
        let homes = 1000 * 10 / 7..=1000 * 10 / 7 * 3 / 2;
        assert!(homes.contains(&index.homes), "{} homes", index.homes);
    }

    #[test]
    fn the_last_keys_of_all_have_room_behind_the_last_home() {
        let keys: Vec<_> = (0..10).map(|i| u32::MAX - i).collect();
        let mut index = filled(&keys);
        for (&order, at) in keys.iter().zip(0..) {
            assert!(index.remove(key(order), Slot(at)));
            assert!(!index.remove(key(order), Slot(at)));
        }
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn a_walk_in_steps_of_one_meets_everything_in_the_order_of_the_keys() {
        let keys: Vec<_> = (0..1000u32).map(|i| i.wrapping_mul(0x9E37_79B9)).collect();
        let index = filled(&keys);
        let (mut met, mut cursor, mut steps) = (Vec::new(), Cursor::default(), 0);
        while !cursor.is_done() {
            let key_of = |slot: Slot| key(keys[slot.0 as usize]);
            index.walk(&mut cursor, 1, key_of, |slot| met.push(slot.0));
            steps += 1;
        }
        assert!(steps > 500, "{steps} steps");
        met.sort_unstable();
        assert_eq!(met, (0..1000).collect::<Vec<_>>());
    }
}
