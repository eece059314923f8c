//! The store against maps of the standard library.

use super::*;
use crate::random::Random;
use pagewire_protocol::{InstanceId, Lsn, tag::Fork};
use std::collections::{BTreeMap, BTreeSet};

/// What the store should say of a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Model {
    version: u64,
    grant: u64,
    rare: Option<u32>,
}

fn tag(number: u32) -> BufferTag {
    let fork = if number.is_multiple_of(5) { Fork::Visibility } else { Fork::Main };
    let (relation, block) = (16384 + number % 7, number / 7);
    BufferTag { tablespace: 1663, database: 5, relation, fork, block }
}

fn seen(store: &Store<u32>, slot: Slot) -> Model {
    let entry = store.get(slot);
    Model { version: entry.version.0, grant: entry.grant().0, rare: store.rare(slot).copied() }
}

fn set(store: &mut Store<u32>, slot: Slot, model: Model) {
    let entry = store.get_mut(slot);
    entry.version = Lsn(model.version);
    entry.set_grant(GrantNumber(model.grant));
    store.take_rare(slot);
    if let Some(rare) = model.rare {
        *store.parts(slot).1 = rare;
    }
}

fn assert_same(store: &Store<u32>, model: &BTreeMap<u32, Model>) {
    assert_eq!(store.len(), model.len());
    for (&number, expected) in model {
        let slot = store.find(&tag(number)).unwrap();
        assert_eq!((store.tag(slot), seen(store, slot)), (tag(number), *expected));
    }
    let rare = model.values().filter(|m| m.rare.is_some()).count();
    assert_eq!(store.rare_slots().count(), rare);
    let mut walked = BTreeSet::new();
    for id in (0..PARTITIONS).map(PartitionId) {
        let mut of_partition = 0;
        store.walk(id, &mut Cursor::default(), usize::MAX, |slot, _| {
            assert_eq!(store.tag(slot).partition(), id);
            assert!(walked.insert(store.tag(slot)), "met twice");
            of_partition += 1;
        });
        assert_eq!(of_partition, store.partition_len(id));
    }
    assert_eq!(walked.len(), model.len());
}

#[test]
fn many_changes_leave_it_as_a_map_would_be() {
    // Few partitions and many pages in each, and the other way round.
    for (seed, pages) in [(1, 300), (2, 3_000), (3, 40_000)] {
        let mut random = Random::new(seed);
        let (mut store, mut model) = (Store::<u32>::new(), BTreeMap::new());
        let mut floors = BTreeMap::new();
        for step in 0..60_000u32 {
            let number = random.below(pages);
            let found = store.find(&tag(number));
            assert_eq!(found.map(|slot| seen(&store, slot)), model.get(&number).copied());
            let floor = floors.entry(tag(number).partition()).or_insert(0u64);
            match (random.below(4), found) {
                (0, Some(slot)) => {
                    let gone: Model = model.remove(&number).unwrap();
                    assert_eq!(store.remove(slot), gone.rare);
                    *floor = gone.grant.max(*floor);
                }
                (_, found) => {
                    let slot = store.insert(&tag(number));
                    if found.is_none() {
                        assert_eq!(store.get(slot).grant().0, *floor, "begins at the floor");
                    }
                    let rare = (random.below(20) == 0).then_some(step);
                    let grant = store.get(slot).grant().0 + u64::from(random.below(3));
                    let now = Model { version: step.into(), grant, rare };
                    set(&mut store, slot, now);
                    model.insert(number, now);
                }
            }
        }
        assert_same(&store, &model);
        for number in model.keys().copied().collect::<Vec<_>>() {
            let slot = store.find(&tag(number)).unwrap();
            store.remove(slot);
        }
        assert_same(&store, &BTreeMap::new());
    }
}

/// Numbers whose pages are all in one partition.
fn of_one_partition(count: usize) -> Vec<u32> {
    (0..).filter(|number| tag(*number).partition() == PartitionId(7)).take(count).collect()
}

#[test]
fn a_walk_meets_what_stays_exactly_once_while_others_come_and_go() {
    let numbers = of_one_partition(800);
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut store = Store::<u32>::new();
        // The first half stays; the second comes and goes.
        let (stay, others) = numbers.split_at(400);
        for number in stay.iter().chain(others.iter().take(random.index(400))) {
            store.insert(&tag(*number));
        }
        let mut met: BTreeMap<BufferTag, u32> = BTreeMap::new();
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            let max = 1 + random.index(12);
            let mut step = Vec::new();
            store.walk(PartitionId(7), &mut cursor, max, |slot, _| step.push(slot));
            assert!(step.len() <= max + 15, "a step of {} for {max}", step.len());
            for slot in step {
                *met.entry(store.tag(slot)).or_default() += 1;
            }
            for _ in 0..random.index(30) {
                let number = random.pick(others);
                match store.find(&tag(number)) {
                    Some(slot) => drop(store.remove(slot)),
                    None => drop(store.insert(&tag(number))),
                }
            }
        }
        for number in stay {
            assert_eq!(met.get(&tag(*number)), Some(&1), "seed {seed}");
        }
    }
}

#[test]
fn a_walk_that_removes_what_it_meets_leaves_nothing() {
    let mut store = Store::<u32>::new();
    let numbers = of_one_partition(500);
    for number in &numbers {
        store.insert(&tag(*number));
    }
    let (mut cursor, mut removed) = (Cursor::default(), 0);
    while !cursor.is_done() {
        let mut step = Vec::new();
        store.walk(PartitionId(7), &mut cursor, 16, |slot, _| step.push(slot));
        removed += step.len();
        for slot in step {
            store.remove(slot);
        }
    }
    assert_eq!((removed, store.len()), (numbers.len(), 0));
}

#[test]
fn rare_state_is_there_to_change_exactly_while_there_is_some() {
    let mut store = Store::<u32>::new();
    assert!(store.is_empty());
    let slot = store.insert(&tag(1));
    assert!(!store.is_empty());
    assert_eq!(store.rare_mut(slot), None);
    *store.parts(slot).1 = 5;
    *store.rare_mut(slot).unwrap() += 2;
    assert_eq!((store.rare(slot), store.rare_slots().count()), (Some(&7), 1));
    assert_eq!(store.take_rare(slot), Some(7));
    assert_eq!(store.rare_mut(slot), None);
}

#[test]
fn grants_of_a_page_that_was_forgotten_go_on_where_they_were() {
    let mut store = Store::<u32>::new();
    let slot = store.insert(&tag(1));
    store.get_mut(slot).set_grant(GrantNumber(41));
    store.get_mut(slot).version = Lsn(9);
    assert!(!store.forget(slot), "a version that storage may not have");
    store.get_mut(slot).stored = Lsn(9);
    store.get_mut(slot).holders = InstanceSet::of(InstanceId(3));
    assert!(!store.forget(slot), "somebody holds it");
    store.get_mut(slot).holders = InstanceSet::default();
    *store.parts(slot).1 = 5;
    assert!(!store.forget(slot), "something is under way");
    assert_eq!(store.take_rare(slot), Some(5));
    assert!(store.forget(slot));
    assert_eq!((store.len(), store.find(&tag(1))), (0, None));
    let slot = store.insert(&tag(1));
    assert_eq!(store.get_mut(slot).next_grant(), GrantNumber(42));
}

#[test]
fn a_partition_that_is_given_up_keeps_its_floor_and_no_others_pages() {
    let mut store = Store::<u32>::new();
    for number in 0..20_000 {
        let slot = store.insert(&tag(number));
        store.get_mut(slot).set_grant(GrantNumber(number.into()));
        store.parts(slot);
    }
    let all = store.len();
    let cleared: Vec<_> = (0..20_000).filter(|n| tag(*n).partition() == PartitionId(7)).collect();
    assert!(cleared.len() > 1);
    let memory = store.memory_bytes();
    assert_eq!(store.give_up(PartitionId(7)), vec![0u32; cleared.len()]);
    // One goes at a time; for everybody all have gone.
    for left in (0..=cleared.len()).rev() {
        assert_eq!(store.is_untidy(), left > 0);
        assert_eq!((store.len(), store.iter().count()), (all - cleared.len(), store.len()));
        assert_eq!(
            (store.rare_slots().count(), store.slab.len()),
            (store.len(), store.len() + left)
        );
        assert_eq!(store.partition_len(PartitionId(7)), 0);
        store.tidy(1);
    }
    assert!(store.give_up(PartitionId(7)).is_empty());
    assert!(!store.is_untidy(), "there was nothing");
    assert!(store.memory_bytes() <= memory);
    for number in 0..20_000 {
        assert_eq!(store.find(&tag(number)).is_none(), cleared.contains(&number));
    }
    assert_eq!(store.floor(PartitionId(7)), GrantNumber((*cleared.last().unwrap()).into()));
    store.raise_floor(PartitionId(7), GrantNumber(3));
    assert_eq!(store.floor(PartitionId(7)), GrantNumber((*cleared.last().unwrap()).into()));
}

// ---- memory --------------------------------------------------------------------------------------

#[test]
fn a_page_costs_its_entry_and_a_few_bytes_of_index() {
    let mut store = Store::<u32>::new();
    let empty = store.memory_bytes();
    let partitions = usize::from(PARTITIONS) * size_of::<Partition>();
    assert!((partitions..partitions + 1024).contains(&empty), "{empty} bytes without an entry");
    // As many as fill the slab's chunks.
    let pages = 4 << 14;
    for block in 0..pages {
        store.insert(&BufferTag { relation: 7, block, ..BufferTag::default() });
    }
    let bytes = store.memory_bytes() - empty;
    let pages = usize::try_from(pages).unwrap();
    assert!((52 * pages..=64 * pages).contains(&bytes), "{bytes} bytes of {pages} pages");
}

#[test]
fn rare_state_and_relations_are_in_the_account_of_memory() {
    let mut store = Store::<u32>::new();
    for number in 0..4000 {
        store.insert(&tag(number));
    }
    let slots: Vec<_> = store.iter().map(|(slot, _)| slot).collect();
    let at_rest = store.memory_bytes();
    for slot in &slots {
        store.parts(*slot);
    }
    // A place of the table is a slot, the state and a byte; at most seven eighths are full, and at
    // least half of that.
    let each = size_of::<(Slot, u32)>() + 1;
    let rare = store.memory_bytes() - at_rest;
    let places = slots.len() * 8 / 7..=slots.len() * 16 / 7 + 8;
    assert!(places.contains(&(rare / each)), "{rare} bytes for {} pages", slots.len());
    assert!(rare.is_multiple_of(each) && (rare / each).is_power_of_two(), "{rare} bytes");
    // A relation for each page.
    let of = |relation| BufferTag { relation, ..BufferTag::default() };
    let mut relations = Relations::default();
    let numbers: Vec<_> = (0..4000).map(|relation| relations.take(&of(relation))).collect();
    let bytes = relations.memory_bytes();
    // In the table 16 bytes of names, a number and a byte; in the list names and a count.
    let (table, list) = (21, 20);
    let least = 4000 * (table * 8 / 7 + list);
    assert!((least..=least * 5 / 2).contains(&bytes), "{bytes} bytes of 4000 relations");
    // Both grow by doubling: powers of two, also of places.
    assert_eq!(bytes, 8192 * table + 4096 * list);
    let with = |relations: u32| {
        let mut store = Store::<u32>::new();
        for block in 0..4000 {
            store.insert(&BufferTag { block, ..of(block % relations) });
        }
        store.memory_bytes()
    };
    assert!(with(4000) - with(1) >= least - 1000, "a store counts its relations");
    numbers.into_iter().for_each(|number| relations.give_up(number));
    let freed = relations.memory_bytes() - bytes;
    assert!((1..=8192 * 4).contains(&freed), "numbers that are free: {freed} bytes");
}

#[test]
fn a_place_that_was_noted_is_not_taken_for_what_is_there_no_more() {
    let mut store = Store::<u32>::new();
    let noted = |store: &Store<u32>| {
        let mut page = Hashed::of(tag(1));
        for step in [Step::Partition, Step::Place, Step::Entry] {
            store.approach(&mut page, step);
        }
        assert_eq!(page.entry, store.find(&tag(1)));
        page
    };
    let slot = store.insert(&tag(1));
    let page = noted(&store);
    assert_eq!(store.find_hashed(&page), Some(slot));
    store.remove(slot);
    assert_eq!(store.find_hashed(&page), None);
    assert_eq!(store.insert(&tag(2)), slot, "another page has the place");
    assert_eq!(store.find_hashed(&page), None);
    let slot = store.insert(&tag(1));
    let page = noted(&store);
    // Its entry is still there, and nobody's.
    store.give_up(tag(1).partition());
    assert_eq!(store.slab.in_use(slot).map(|entry| entry.block), Some(tag(1).block));
    assert_eq!(store.find_hashed(&page), None);
}
