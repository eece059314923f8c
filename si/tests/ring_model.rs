//! The ring's protocol in a model checker: every interleaving of a writer and a reader, and every value
//! that their loads may return.
//!
//! What is checked is the source file that the crate uses, with loom's atomics for the standard
//! library's, on a ring of two entries of two words. The `should_panic` tests take one order away, and
//! the model finds what is lost by it.
#![allow(clippy::duplicate_mod)] // Once as it is, and with something taken away.

use loom::{
    model::Builder,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};
use std::sync::Arc;

const CAPACITY: usize = 2;
const FIRST: u64 = 1;

/// The protocol as it is.
#[path = "../src"]
mod whole {
    mod sync {
        pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
    }
    #[path = "protocol.rs"]
    pub(crate) mod protocol;
}

/// The same text with a writer whose fence does nothing.
#[path = "../src"]
mod without_release {
    mod sync {
        pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
        pub(super) fn fence(order: Ordering) {
            if order != Ordering::Release {
                loom::sync::atomic::fence(order);
            }
        }
    }
    #[path = "protocol.rs"]
    pub(crate) mod protocol;
}

/// The same text with readers whose fences do nothing.
#[path = "../src"]
mod without_acquire {
    mod sync {
        pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
        pub(super) fn fence(order: Ordering) {
            if order != Ordering::Acquire {
                loom::sync::atomic::fence(order);
            }
        }
    }
    #[path = "protocol.rs"]
    pub(crate) mod protocol;
}

/// The same text with a head that is stored without an order.
#[path = "../src"]
mod relaxed_head {
    mod sync {
        pub(super) use loom::sync::atomic::fence;
        pub(super) use std::sync::atomic::Ordering;
        /// loom's, with every store relaxed.
        #[derive(Debug)]
        #[repr(transparent)]
        pub(crate) struct AtomicU64(pub(crate) loom::sync::atomic::AtomicU64);
        impl AtomicU64 {
            pub(crate) fn load(&self, order: Ordering) -> u64 {
                self.0.load(order)
            }
            pub(crate) fn store(&self, value: u64, _: Ordering) {
                self.0.store(value, Ordering::Relaxed);
            }
        }
    }
    #[path = "protocol.rs"]
    pub(crate) mod protocol;
    pub(crate) use sync::AtomicU64;
}

/// What a reader takes out: an entry's sequence and its message.
#[derive(Clone, Copy, Default)]
struct Entry([u64; 2]);

impl From<[u64; 2]> for Entry {
    fn from(words: [u64; 2]) -> Self {
        Self(words)
    }
}

/// The message at `sequence`.
fn message(sequence: u64) -> u64 {
    sequence * 100
}

/// What the writer does.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Writes so many messages in one batch.
    Write(usize),
    /// Tells every reader to reset.
    Reset,
    /// Stores no more than the reservation of so many messages and the first of them,
    /// and is no more. The next writer goes on behind all of it.
    Crash(usize),
}

/// Runs a writer that takes `steps`, and a reader that reads `reads` times meanwhile and once at the
/// end. It gets what was written, in order, or is told; and it is told only with a reason.
macro_rules! model {
    ($protocol:ident, $atomic:path, $new:expr, $steps:expr, $reads:expr) => {{
        use $protocol::protocol::{Cells, Copied};
        struct World {
            head: $atomic,
            reserved: $atomic,
            entries: [[$atomic; 2]; CAPACITY],
        }
        impl World {
            fn cells(&self) -> Cells<'_, 2> {
                let Self { head, reserved, entries } = self;
                Cells { head, reserved, entries }
            }
        }
        let steps: &'static [Step] = $steps;
        let mut builder = Builder::new();
        // A schedule with more forced switches than this finds nothing that a shorter one does not.
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let new = $new;
            let entries = [(); CAPACITY].map(|()| [new(0), new(0)]);
            let world = Arc::new(World { head: new(FIRST), reserved: new(FIRST), entries });
            let theirs = Arc::clone(&world);
            let writer = thread::spawn(move || {
                let cells = theirs.cells();
                let words = |sequence, _: &()| [sequence, message(sequence)];
                let mut head = FIRST;
                for step in steps {
                    match *step {
                        Step::Write(count) => head = cells.write(head, &[(); 2][..count], words),
                        Step::Reset => {
                            head += CAPACITY as u64 + 1;
                            cells.jump(head);
                        }
                        Step::Crash(count) => {
                            let to = head + count as u64;
                            cells.reserved.store(to, Ordering::Relaxed);
                            loom::sync::atomic::fence(Ordering::Release);
                            let at = usize::try_from(head).unwrap() % CAPACITY;
                            cells.entries[at][0].store(head, Ordering::Relaxed);
                            cells.entries[at][1].store(message(head), Ordering::Relaxed);
                            head = to + CAPACITY as u64 + 1;
                            cells.jump(head);
                        }
                    }
                }
            });
            let cells = world.cells();
            let (mut cursor, mut resets) = (FIRST, 0);
            let mut read = || {
                let mut out = [Entry::default(); CAPACITY];
                match cells.read(cursor, &mut out) {
                    Copied::Entries(count) => {
                        for Entry([sequence, found]) in &out[..count] {
                            assert_eq!(*sequence, cursor, "a message out of order");
                            assert_eq!(*found, message(cursor), "a torn message");
                            cursor += 1;
                        }
                    }
                    Copied::Lost => {
                        // As the reader has it.
                        cursor = cells.head();
                        resets += 1;
                    }
                }
            };
            for _ in 0..$reads {
                read();
            }
            writer.join().unwrap();
            read();
            assert_eq!(cursor, cells.head(), "a message is missing");
            let written: usize = steps.iter().map(Step::messages).sum();
            let told = steps.iter().any(|step| !matches!(step, Step::Write(_)));
            assert!(resets > 0 || !told, "a reset that was not told");
            assert!(resets == 0 || told || written > CAPACITY, "told to reset without a reason");
        });
    }};
}

impl Step {
    fn messages(&self) -> usize {
        match *self {
            Self::Write(count) => count,
            Self::Reset | Self::Crash(_) => 0,
        }
    }
}

#[test]
fn a_reader_that_is_overtaken_sees_no_torn_message_and_is_told() {
    model!(whole, AtomicU64, AtomicU64::new, &[Step::Write(2), Step::Write(1)], 2);
    model!(whole, AtomicU64, AtomicU64::new, &[Step::Write(1), Step::Write(2)], 2);
}

#[test]
fn a_reader_that_keeps_up_gets_everything_and_no_reset() {
    model!(whole, AtomicU64, AtomicU64::new, &[Step::Write(1), Step::Write(1)], 2);
}

#[test]
fn a_reset_is_told_whatever_is_written_before_and_behind_it() {
    let steps = &[Step::Write(1), Step::Reset, Step::Write(1)];
    model!(whole, AtomicU64, AtomicU64::new, steps, 2);
}

#[test]
fn a_writer_that_ends_in_the_middle_of_a_batch_leaves_nothing_torn() {
    let steps = &[Step::Write(2), Step::Crash(1), Step::Write(1)];
    model!(whole, AtomicU64, AtomicU64::new, steps, 2);
}

#[test]
#[should_panic(expected = "a torn message")]
fn without_the_writers_fence_a_reader_that_is_overtaken_gets_a_torn_message() {
    let steps = &[Step::Write(2), Step::Write(1)];
    model!(without_release, AtomicU64, AtomicU64::new, steps, 1);
}

#[test]
#[should_panic(expected = "a torn message")]
fn without_the_readers_fence_a_reader_that_is_overtaken_gets_a_torn_message() {
    let steps = &[Step::Write(2), Step::Write(1)];
    model!(without_acquire, AtomicU64, AtomicU64::new, steps, 1);
}

#[test]
#[should_panic(expected = "told to reset without a reason")]
fn with_a_relaxed_head_a_reader_that_keeps_up_does_not_find_the_message() {
    use relaxed_head::AtomicU64 as Relaxed;
    let new = |value| Relaxed(AtomicU64::new(value));
    model!(relaxed_head, Relaxed, new, &[Step::Write(1)], 1);
}
