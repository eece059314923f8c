//! Who sees what when a thread goes to sleep while others fill its queues: the pure part of
//! [`super::Waker`], without the operating system.
//!
//! ```text
//!   sleeper: sleeping = true; FENCE; look into the queues again; sleep, or not
//!   waker:   fill the queue;  FENCE; if sleeping { sleeping = false; wake }
//! ```
//! Both write one place and read the other's. The fences are in one order: whichever comes second
//! sees what was written before the first, so either the sleeper finds the work or the waker finds
//! the sleeper. Without one of the fences, or without the second look, a wake-up can be lost.
//!
//! Leaf module: it takes its atomics from `super::sync`, so that `transport/tests/wakeup_model.rs`
//! can check this very text with a model checker's.

use super::sync::{AtomicBool, Ordering, fence};

/// The sleeper, before it looks into its queues for the last time.
#[inline]
pub(super) fn announce(sleeping: &AtomicBool) {
    sleeping.store(true, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// The sleeper, when it is awake again or has found something.
#[inline]
pub(super) fn awake(sleeping: &AtomicBool) {
    sleeping.store(false, Ordering::Relaxed);
}

/// A producer, after it has filled a queue: true when it has to wake the sleeper, which is then
/// nobody else's business.
#[inline]
pub(super) fn must_wake(sleeping: &AtomicBool) -> bool {
    fence(Ordering::SeqCst);
    sleeping.load(Ordering::Relaxed) && sleeping.swap(false, Ordering::Relaxed)
}
