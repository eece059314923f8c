//! The window that moves: writes, resets, writers that end anywhere in a batch, and readers anywhere,
//! against what a list of all messages says.

use crate::protocol::{Cells, Copied};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

const CAPACITY: u64 = 8;
const READERS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Write(u64),
    Jump(u64),
    /// The writer ends when it has stored so many words of the entries of a batch of so many messages,
    /// and another one goes on.
    Crash(u64, usize),
    /// The same, and nobody goes on before the next step.
    CrashedStill(u64, usize),
    Read(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let words = 0..2 * usize::try_from(CAPACITY).unwrap();
    prop_oneof![
        4 => (0..=CAPACITY).prop_map(Step::Write),
        1 => (0..3 * CAPACITY).prop_map(|more| Step::Jump(CAPACITY + 1 + more)),
        1 => (1..=CAPACITY, words.clone()).prop_map(|(count, words)| Step::Crash(count, words)),
        1 => (1..=CAPACITY, words).prop_map(|(count, words)| Step::CrashedStill(count, words)),
        6 => (0..READERS, 0..12usize).prop_map(|(reader, room)| Step::Read(reader, room)),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Entry([u64; 2]);

impl From<[u64; 2]> for Entry {
    fn from(words: [u64; 2]) -> Self {
        Self(words)
    }
}

struct World {
    head: AtomicU64,
    reserved: AtomicU64,
    entries: Vec<[AtomicU64; 2]>,
    /// All that was ever published, by sequence.
    all: BTreeMap<u64, u64>,
    next_message: u64,
    cursors: [u64; READERS],
}

impl World {
    fn new() -> Self {
        let entries = (0..CAPACITY).map(|_| [const { AtomicU64::new(0) }; 2]).collect();
        let (head, reserved) = (AtomicU64::new(1), AtomicU64::new(1));
        let cursors = [1; READERS];
        Self { head, reserved, entries, all: BTreeMap::new(), next_message: 1000, cursors }
    }

    fn cells(&self) -> Cells<'_, 2> {
        Cells { head: &self.head, reserved: &self.reserved, entries: &self.entries }
    }

    /// As a writer begins: beyond all that was reserved.
    fn take_over(&self) -> u64 {
        let (head, reserved) =
            (self.head.load(Ordering::Relaxed), self.reserved.load(Ordering::Relaxed));
        if head != reserved {
            self.cells().jump(reserved + CAPACITY + 1);
        }
        self.head.load(Ordering::Relaxed)
    }

    fn write(&mut self, count: u64) {
        let from = self.take_over();
        let messages: Vec<_> =
            (self.next_message..).take(usize::try_from(count).unwrap()).collect();
        self.next_message += count;
        self.cells().write(from, &messages, |sequence, message| [sequence, *message]);
        self.all.extend((from..).zip(messages));
    }

    fn crash(&mut self, count: u64, words: usize) {
        let from = self.take_over();
        self.reserved.store(from + count, Ordering::Relaxed);
        for word in 0..words.min(usize::try_from(count).unwrap() * 2) {
            let sequence = from + word as u64 / 2;
            let at = usize::try_from(sequence % CAPACITY).unwrap();
            let value = if word % 2 == 0 { sequence } else { 7 };
            self.entries[at][word % 2].store(value, Ordering::Relaxed);
        }
    }

    fn read(&mut self, reader: usize, room: usize) -> Result<(), TestCaseError> {
        let cursor = self.cursors[reader];
        let (head, reserved) =
            (self.head.load(Ordering::Relaxed), self.reserved.load(Ordering::Relaxed));
        let mut out = vec![Entry::default(); room];
        let copied = self.cells().read(cursor, &mut out);
        let behind = head - cursor > CAPACITY || reserved - cursor > CAPACITY;
        match copied {
            Copied::Entries(0) if head == cursor || room == 0 => {}
            Copied::Lost => {
                prop_assert!(behind, "reset without a reason");
                self.cursors[reader] = head;
            }
            Copied::Entries(count) => {
                prop_assert!(!behind, "a loss that was not told");
                prop_assert_eq!(count as u64, (head - cursor).min(room as u64));
                for (sequence, entry) in (cursor..).zip(&out[..count]) {
                    prop_assert_eq!(*entry, Entry([sequence, self.all[&sequence]]));
                }
                self.cursors[reader] += count as u64;
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_reader_gets_every_message_or_is_told(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Write(count) => world.write(count),
                Step::Jump(by) => {
                    let from = world.take_over();
                    world.cells().jump(from + by);
                }
                Step::Crash(count, words) => {
                    world.crash(count, words);
                    world.take_over();
                }
                Step::CrashedStill(count, words) => world.crash(count, words),
                Step::Read(reader, room) => world.read(reader, room)?,
            }
        }
        for reader in 0..READERS {
            world.take_over();
            world.read(reader, 100)?;
            world.read(reader, 100)?;
            prop_assert_eq!(world.cursors[reader], world.head.load(Ordering::Relaxed));
        }
    }

    /// Positions that no writer makes: nothing is believed, nothing panics.
    #[test]
    fn any_head_and_reserved_are_borne(
        head in any::<u64>(), reserved in any::<u64>(), cursor in any::<u64>(), room in 0..12usize,
    ) {
        let world = World::new();
        world.head.store(head, Ordering::Relaxed);
        world.reserved.store(reserved, Ordering::Relaxed);
        let mut out = vec![Entry::default(); room];
        if let Copied::Entries(count) = world.cells().read(cursor, &mut out) {
            prop_assert_eq!(count, 0, "nothing was written");
        }
    }
}
