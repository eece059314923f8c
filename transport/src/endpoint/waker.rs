//! Waking an endpoint that sleeps, without a system call when it does not.
//!
//! [`protocol`] has the order of the steps and why no wake-up is lost. Local producers use it with
//! any queue: fill it, then [`Waker::wake`]. The command rings of a node's threads and the
//! completions of its I/O threads do just that.

mod protocol;
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

use std::sync::Arc;
use sync::AtomicBool;

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
        if protocol::must_wake(&self.0.sleeping)
            && let Err(error) = self.0.os.wake()
        {
            tracing::error!("an eventfd cannot be written: {error}");
        }
    }

    pub(super) fn announce_sleep(&self) {
        protocol::announce(&self.0.sleeping);
    }

    pub(super) fn awake(&self) {
        protocol::awake(&self.0.sleeping);
    }
}
