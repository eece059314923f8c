//! The lease: whether what this instance caches still counts.
//!
//! An instance that may have been given up by the others has lost its lease. One number in the
//! arena's header says so, to the threads of this process and to every process that maps the arena:
//!
//! ```text
//!   header.lease   7  -->  8          Arena::end_lease(), any thread, no lock
//!   views, pins    7  !=   8          no pin, no access through a pin that is out, no I/O
//! ```
//! What was taken under a generation that is over never counts again; a page table's next
//! [`view`](super::PageTable::view) is of the new one. A slice that a thread has borrowed cannot be
//! taken back: what it writes there stays in a frame that is neither sent nor written to storage any
//! more.

use super::{Arena, Inner};
use std::sync::{Arc, atomic::Ordering};

/// The lease under which a page was pinned is over: the page may be out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the lease of this instance is over, expected one that lasts: others may have given it up and \
     changed the page; start the instance anew"
)]
pub struct LeaseExpired;

/// One generation of an arena's lease; any thread may hold and ask it.
#[derive(Debug, Clone)]
pub struct Lease {
    arena: Arc<Inner>,
    generation: u64,
}

impl Lease {
    pub(super) fn of(arena: Arc<Inner>) -> Self {
        let generation = arena.lease_generation();
        Self { arena, generation }
    }

    /// True until the generation is over.
    #[inline]
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.arena.lease_generation() == self.generation
    }
}

impl Inner {
    #[inline]
    pub(super) fn lease_generation(&self) -> u64 {
        self.header().lease.load(Ordering::Acquire)
    }
}

impl Arena {
    /// The lease as it is now.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::of(Arc::clone(&self.inner))
    }

    /// The lease is over: from now on every pin and every access to a page fails that began under
    /// it. Any thread may call it, a watchdog among them.
    pub fn end_lease(&self) {
        self.inner.header().lease.fetch_add(1, Ordering::SeqCst);
    }
}
