//! Waking an endpoint that sleeps, without a system call when it does not.
//!
//! ```text
//!   sleeper: sleeping = true; fence; look into the queues; sleep
//!   waker:   fill the queue;  fence; if sleeping { sleeping = false; write the eventfd }
//! ```
//! With the fences one of the two sees what the other did, so no wake-up is lost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering, fence},
};

#[derive(Debug)]
struct Inner {
    os: mio::Waker,
    sleeping: AtomicBool,
}

/// Wakes the endpoint that it came from; usable from any thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Inner>);

impl Waker {
    pub(super) fn new(os: mio::Waker) -> Self {
        Self(Arc::new(Inner { os, sleeping: AtomicBool::new(false) }))
    }

    /// Wakes the endpoint if it sleeps. Call it after filling the queue that it is to look into.
    #[inline]
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.0.sleeping.load(Ordering::Relaxed)
            && self.0.sleeping.swap(false, Ordering::Relaxed)
            && let Err(error) = self.0.os.wake()
        {
            tracing::error!("an eventfd cannot be written: {error}");
        }
    }

    pub(super) fn announce_sleep(&self) {
        self.0.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(super) fn awake(&self) {
        self.0.sleeping.store(false, Ordering::Relaxed);
    }
}
