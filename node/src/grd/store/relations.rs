//! Numbers that stand for (tablespace, database, relation, fork), so that an entry keeps 4 bytes of
//! these 16. A number is given up with the last page that uses it.

use crate::grd::TagHasher;
use pagewire_protocol::{BufferTag, tag::Fork};
use std::{collections::HashMap, hash::BuildHasherDefault};

/// What a number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Relation {
    tablespace: u32,
    database: u32,
    relation: u32,
    fork: Fork,
}

impl Relation {
    fn of(tag: &BufferTag) -> Self {
        let BufferTag { tablespace, database, relation, fork, .. } = *tag;
        Self { tablespace, database, relation, fork }
    }
}

#[derive(Debug, Clone)]
struct Known {
    relation: Relation,
    pages: u32,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Relations {
    numbers: HashMap<Relation, u32, BuildHasherDefault<TagHasher>>,
    known: Vec<Known>,
    free: Vec<u32>,
}

impl Relations {
    /// The number of the relation of `tag`, for one more page.
    pub(super) fn take(&mut self, tag: &BufferTag) -> u32 {
        let relation = Relation::of(tag);
        if let Some(&number) = self.numbers.get(&relation) {
            self.known[number as usize].pages += 1;
            return number;
        }
        let known = Known { relation, pages: 1 };
        let number = if let Some(number) = self.free.pop() {
            self.known[number as usize] = known;
            number
        } else {
            self.known.push(known);
            u32::try_from(self.known.len() - 1).expect("there are fewer relations than pages")
        };
        self.numbers.insert(relation, number);
        number
    }

    /// One page fewer uses `number`.
    pub(super) fn give_up(&mut self, number: u32) {
        let known = &mut self.known[number as usize];
        known.pages -= 1;
        if known.pages == 0 {
            self.numbers.remove(&known.relation);
            self.free.push(number);
        }
    }

    /// Whether `number` stands for the relation of `tag`.
    pub(super) fn is(&self, number: u32, tag: &BufferTag) -> bool {
        self.known[number as usize].relation == Relation::of(tag)
    }

    /// The tag of a block of what `number` stands for.
    pub(super) fn tag(&self, number: u32, block: u32) -> BufferTag {
        let Relation { tablespace, database, relation, fork } =
            self.known[number as usize].relation;
        BufferTag { tablespace, database, relation, fork, block }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // A hash map of the standard library has a byte of its own for each place, and is at most
        // seven eighths full.
        let places = self.numbers.capacity() * 8 / 7;
        places * (size_of::<(Relation, u32)>() + 1)
            + self.known.capacity() * size_of::<Known>()
            + self.free.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_for_one_relation_until_its_last_page_is_gone() {
        let mut relations = Relations::default();
        let tag =
            |relation, fork, block| BufferTag { relation, fork, block, ..BufferTag::default() };
        let main = relations.take(&tag(7, Fork::Main, 1));
        assert_eq!(relations.take(&tag(7, Fork::Main, 2)), main);
        let map = relations.take(&tag(7, Fork::Visibility, 1));
        assert_ne!(map, main);
        assert!(relations.is(main, &tag(7, Fork::Main, 9)));
        assert!(!relations.is(map, &tag(7, Fork::Main, 9)));
        relations.give_up(main);
        assert_eq!(relations.tag(main, 2), tag(7, Fork::Main, 2));
        relations.give_up(main);
        assert_eq!(relations.take(&tag(8, Fork::Main, 0)), main, "its number is given again");
        assert_ne!(relations.take(&tag(7, Fork::Main, 1)), main);
    }
}
