//! The wake-up protocol in a model checker: every interleaving of two producers and a sleeper, and
//! every value that their loads may return.
//!
//! What is checked is the source file that the endpoint uses, with loom's atomics for the standard
//! library's. A lost wake-up shows as a deadlock: the sleeper waits and nobody is left to wake it.
//! The `should_panic` tests take one step of the protocol away, and the model finds the loss.
#![allow(clippy::duplicate_mod)] // Once as it is, once without its fences.

use loom::{
    model::Builder,
    sync::{
        Condvar, Mutex,
        atomic::{self, AtomicUsize, Ordering},
    },
    thread,
};
// The model's own one would look for other schedules while a lost wake-up unwinds.
use std::sync::Arc;

/// loom's, but a store is a swap. loom orders plain stores by happens-before alone and then lets a
/// load return what a swap wrote although the swap took a value that a later store had replaced;
/// the memory model has all changes of one place in one order, and swaps make loom keep it. Relaxed,
/// a swap orders nothing else.
#[derive(Debug, Default)]
pub(crate) struct AtomicBool(atomic::AtomicBool);

impl AtomicBool {
    fn store(&self, value: bool, order: Ordering) {
        assert_eq!(order, Ordering::Relaxed);
        self.0.swap(value, order);
    }

    fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}

/// The protocol as it is.
#[path = "../src/endpoint/waker"]
mod whole {
    mod sync {
        pub(super) use crate::AtomicBool;
        pub(super) use loom::sync::atomic::{Ordering, fence};
    }
    #[path = "protocol.rs"]
    mod protocol;
    pub(crate) fn announce(sleeping: &crate::AtomicBool) {
        protocol::announce(sleeping);
    }
    pub(crate) fn awake(sleeping: &crate::AtomicBool) {
        protocol::awake(sleeping);
    }
    pub(crate) fn must_wake(sleeping: &crate::AtomicBool) -> bool {
        protocol::must_wake(sleeping)
    }
}

/// The same text with fences that do nothing.
#[path = "../src/endpoint/waker"]
mod fenceless {
    mod sync {
        pub(super) use crate::AtomicBool;
        pub(super) use loom::sync::atomic::Ordering;
        pub(super) fn fence(_: Ordering) {}
    }
    #[path = "protocol.rs"]
    #[allow(dead_code)]
    mod protocol;
    pub(crate) fn announce(sleeping: &crate::AtomicBool) {
        protocol::announce(sleeping);
    }
    pub(crate) fn must_wake(sleeping: &crate::AtomicBool) -> bool {
        protocol::must_wake(sleeping)
    }
}

#[derive(Clone, Copy)]
struct Protocol {
    announce: fn(&AtomicBool),
    must_wake: fn(&AtomicBool) -> bool,
    /// The second look into the queues.
    looks_again: bool,
}

const WHOLE: Protocol =
    Protocol { announce: whole::announce, must_wake: whole::must_wake, looks_again: true };

/// As an eventfd under epoll: a wake-up is kept until somebody sleeps.
#[derive(Default)]
struct EventFd {
    written: Mutex<bool>,
    changed: Condvar,
}

impl EventFd {
    fn write(&self) {
        *self.written.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut written = self.written.lock().unwrap();
        while !*written {
            written = self.changed.wait(written).unwrap();
        }
        *written = false;
    }
}

#[derive(Default)]
struct World {
    /// By producer: how many it has put in. Relaxed: that it is seen is the protocol's business.
    queues: [AtomicUsize; 2],
    sleeping: AtomicBool,
    eventfd: EventFd,
}

/// Runs producers that put in `each[i]` pieces of work, until the sleeper has taken all of it.
fn model(protocol: Protocol, each: [usize; 2]) {
    // A schedule with more forced switches than this finds nothing that a shorter one does not.
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let world = Arc::new(World::default());
        let producers: Vec<_> = (0..each.len())
            .filter(|&at| each[at] > 0)
            .map(|at| {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    for number in 1..=each[at] {
                        world.queues[at].store(number, Ordering::Relaxed);
                        if (protocol.must_wake)(&world.sleeping) {
                            world.eventfd.write();
                        }
                    }
                })
            })
            .collect();
        let mut taken = [0; 2];
        loop {
            for (taken, queue) in taken.iter_mut().zip(&world.queues) {
                *taken = queue.load(Ordering::Relaxed);
            }
            if taken == each {
                break;
            }
            (protocol.announce)(&world.sleeping);
            let waits = |at: usize| world.queues[at].load(Ordering::Relaxed) > taken[at];
            if !protocol.looks_again || !(waits(0) || waits(1)) {
                world.eventfd.sleep();
            }
            whole::awake(&world.sleeping);
        }
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn two_producers_never_lose_a_wake_up() {
    model(WHOLE, [1, 1]);
}

#[test]
fn a_producer_that_comes_again_never_loses_a_wake_up() {
    model(WHOLE, [2, 0]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_sleepers_fence_a_wake_up_is_lost() {
    model(Protocol { announce: fenceless::announce, ..WHOLE }, [1, 0]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_wakers_fence_a_wake_up_is_lost() {
    model(Protocol { must_wake: fenceless::must_wake, ..WHOLE }, [1, 0]);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_second_look_a_wake_up_is_lost() {
    model(Protocol { looks_again: false, ..WHOLE }, [1, 0]);
}
