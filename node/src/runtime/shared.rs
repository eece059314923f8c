//! What the handles of a node share with one of its shards.
//!
//! The shard's thread alone changes it, but for the version clock and a page's flush position, which
//! whoever changes the page raises.

use super::index::PageIndex;
use crate::si::shared::SiShared;
use pagewire_protocol::Lsn;
use pagewire_transport::{
    FrameIndex, Waker,
    arena::{PageView, PinTicket},
    prefetch,
};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// One shard's; see the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) index: PageIndex,
    pub(super) pages: PageView,
    pub(super) flush: FlushPositions,
    /// Greatest page version this instance has seen or given; of all its shards.
    pub(super) clock: Arc<AtomicU64>,
    pub(super) waker: Waker,
    pub(super) acquire_timeout: Duration,
    /// Longest wait for a page since somebody asked, in nanoseconds; of all shards.
    pub(super) longest_wait_ns: Arc<AtomicU64>,
    pub(super) panic: Arc<Panic>,
    /// Where invalidations are published; of all shards.
    pub(super) si: Arc<SiShared>,
}

impl Shared {
    /// Takes a pin back that nobody wants; the frame, when its owner waits for that.
    pub(super) fn unpin(&self, ticket: PinTicket) -> Option<FrameIndex> {
        let (index, owner_waits) = if ticket.is_exclusive() {
            let pin = self.pages.adopt_exclusive(ticket);
            (pin.index(), pin.release())
        } else {
            let pin = self.pages.adopt_shared(ticket);
            (pin.index(), pin.release())
        };
        owner_waits.then_some(index)
    }
}

/// Up to where this instance's redo log has to be durable before the page of a frame may leave; 0 for
/// one that was not changed here. Changed under an exclusive pin, or by the shard while there is none.
#[derive(Debug)]
pub(super) struct FlushPositions(Box<[AtomicU64]>);

impl FlushPositions {
    pub(super) fn new(frames: u32) -> Self {
        Self((0..frames).map(|_| AtomicU64::new(0)).collect())
    }

    /// Brings that of a frame nearer to the processor.
    pub(super) fn approach(&self, index: FrameIndex) {
        prefetch(&self.0[index.0 as usize]);
    }

    /// The page of the frame was changed, as the log says up to `to`.
    pub(super) fn raise(&self, index: FrameIndex, to: Lsn) {
        self.0[index.0 as usize].fetch_max(to.0, Ordering::Relaxed);
    }

    /// Another page is in the frame, or the same in another frame.
    pub(super) fn set(&self, index: FrameIndex, to: Lsn) {
        self.0[index.0 as usize].store(to.0, Ordering::Relaxed);
    }

    pub(super) fn get(&self, index: FrameIndex) -> Lsn {
        Lsn(self.0[index.0 as usize].load(Ordering::Relaxed))
    }
}

/// What a shard's panic said, for those who ask the shard after it.
#[derive(Debug)]
pub(super) struct Panic {
    pub(super) shard: u16,
    pub(super) message: OnceLock<String>,
}

impl Panic {
    pub(super) fn none_yet(shard: u16) -> Arc<Self> {
        Arc::new(Self { shard, message: OnceLock::new() })
    }
}
