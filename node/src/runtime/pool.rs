//! The pages that this instance caches: which frame holds which, who waits for its pins, and which
//! to give up when room is needed.
//!
//! Invariants: a page is in the pool, in the index and published exactly while it is held; at most
//! `limit` pages are held or expected.

use super::{NodeCounters, handle::Shared};
use crate::grd::TagMap;
use pagewire_protocol::{BufferTag, Lsn, Mode, page};
use pagewire_transport::{
    Arena, Frame, FrameIndex, SharedFrame,
    arena::{Drain, PageTable, PinTicket},
};
use std::sync::{Arc, atomic::Ordering};

/// What the owner knows of one frame.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    tag: Option<BufferTag>,
    /// Pins are being drained to this mode.
    draining: Option<Mode>,
    /// Its eviction has been asked for.
    evicting: bool,
}

/// What a drained page looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drained {
    pub(super) tag: BufferTag,
    pub(super) to: Mode,
    pub(super) dirty: bool,
    pub(super) version: Lsn,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    arena: Arena,
    table: PageTable,
    shared: Arc<Shared>,
    pages: TagMap<FrameIndex>,
    slots: Vec<Slot>,
    limit: usize,
    evicting: usize,
    /// Where the clock sweep goes on.
    hand: usize,
    counters: Arc<NodeCounters>,
}

impl Pool {
    pub(super) fn new(
        arena: Arena,
        table: PageTable,
        shared: Arc<Shared>,
        limit: usize,
        counters: Arc<NodeCounters>,
    ) -> Self {
        let frames = arena.frames() as usize;
        let mut pages = TagMap::default();
        pages.reserve(limit);
        let slots = vec![Slot::default(); frames];
        Self { arena, table, shared, pages, slots, limit, evicting: 0, hand: 0, counters }
    }

    fn index(&self, tag: &BufferTag) -> FrameIndex {
        *self.pages.get(tag).unwrap_or_else(|| panic!("page {tag} is not in the pool"))
    }

    fn slot(&mut self, index: FrameIndex) -> &mut Slot {
        &mut self.slots[index.0 as usize]
    }

    /// Pages that are dirty or may be being written to.
    pub(super) fn unclean(&self) -> impl Iterator<Item = BufferTag> + '_ {
        let unclean = |index| self.table.is_dirty(index) || self.table.is_being_written(index);
        self.pages.iter().filter(move |(_, index)| unclean(**index)).map(|(tag, _)| *tag)
    }

    pub(super) fn is_dirty(&self, tag: &BufferTag) -> bool {
        self.table.is_dirty(self.index(tag))
    }

    /// Pages that must go before `expected` more can come.
    pub(super) fn excess(&self, expected: usize) -> usize {
        (self.pages.len() + expected).saturating_sub(self.limit + self.evicting)
    }

    /// True when there is room for one more beside `expected` others.
    pub(super) fn has_room(&self, expected: usize) -> bool {
        self.pages.len() + expected < self.limit
    }

    /// Publishes a page that came; nobody may pin it yet.
    pub(super) fn install(&mut self, tag: BufferTag, frame: Frame, dirty: bool) {
        self.shared.clock.fetch_max(page::lsn(&frame).0, Ordering::Relaxed);
        let index = self.table.publish(frame, tag, Mode::N, dirty);
        self.enter(tag, index);
    }

    fn enter(&mut self, tag: BufferTag, index: FrameIndex) {
        *self.slot(index) = Slot { tag: Some(tag), ..Slot::default() };
        let before = self.pages.insert(tag, index);
        assert!(before.is_none(), "page {tag} came twice");
        self.shared.index.insert(&tag, index);
    }

    /// Takes a drained page out.
    pub(super) fn remove(&mut self, tag: &BufferTag) -> SharedFrame {
        let index = self.index(tag);
        self.pages.remove(tag);
        let slots = &self.slots;
        let hash_of = |f: FrameIndex| slots[f.0 as usize].tag.map_or(0, |tag| tag.hash());
        self.shared.index.remove(tag, index, hash_of);
        let slot = std::mem::take(self.slot(index));
        if slot.evicting {
            self.evicting -= 1;
            self.counters.pages_evicted.add(1);
        }
        self.table.take(index)
    }

    /// Lowers what may be pinned; `Some` when no pin stands in the way.
    pub(super) fn lower(&mut self, tag: &BufferTag, to: Mode) -> Option<Drained> {
        let index = self.index(tag);
        self.slot(index).draining = Some(to);
        self.drained(index)
    }

    /// Looks again at a page whose last pin may be gone.
    pub(super) fn drained(&mut self, index: FrameIndex) -> Option<Drained> {
        let Slot { tag: Some(tag), draining: Some(to), .. } = *self.slot(index) else {
            return None;
        };
        if self.table.lower(index, to) == Drain::Waiting {
            return None;
        }
        self.slot(index).draining = None;
        let version = self.table.share(index).map_or(Lsn::ZERO, |frame| page::lsn(&frame));
        Some(Drained { tag, to, dirty: self.table.is_dirty(index), version })
    }

    /// Lets local threads pin the page up to `mode`; only up to S while a send still holds its
    /// frame: who wants X then asks the shard, which copies.
    pub(super) fn open(&mut self, tag: &BufferTag, mode: Mode) {
        let index = self.index(tag);
        if self.table.raise(index, mode).is_err() {
            let _ = self.table.raise(index, Mode::S);
        }
    }

    pub(super) fn set_dirty(&mut self, tag: &BufferTag, dirty: bool) {
        let index = self.index(tag);
        self.table.set_dirty(index, dirty);
    }

    /// Another handle on a page that nobody can be writing.
    pub(super) fn share(&self, tag: &BufferTag) -> SharedFrame {
        let index = self.index(tag);
        self.table.share(index).unwrap_or_else(|| panic!("page {tag} is shared while it is open"))
    }

    /// Pins a drained page for a waiter. A page whose frame a send still holds is copied before it
    /// is written.
    pub(super) fn pin(&mut self, tag: &BufferTag, mode: Mode) -> PinTicket {
        let index = self.index(tag);
        if mode == Mode::S {
            return self.table.pin_shared(index).expect("no writer is in a drained page");
        }
        if let Some(ticket) = self.table.pin_exclusive(index) {
            return ticket;
        }
        let index = self.copy(tag, index);
        self.table.pin_exclusive(index).expect("a copied page has one owner")
    }

    fn copy(&mut self, tag: &BufferTag, index: FrameIndex) -> FrameIndex {
        let _ = self.table.lower(index, Mode::N);
        let dirty = self.table.is_dirty(index);
        // It is wanted, so it is not given up.
        self.keep(tag);
        let old = self.remove(tag);
        self.counters.pages_copied.add(1);
        let mut frame =
            self.arena.take().expect("the arena has a frame for every one that is sent");
        frame.copy_from_slice(&old);
        let index = self.table.publish(frame, *tag, Mode::N, dirty);
        self.enter(*tag, index);
        index
    }

    /// The next page to give up: one that `may_go`, not pinned, and not used since the sweep last
    /// passed it.
    pub(super) fn victim(&mut self, may_go: impl Fn(&BufferTag) -> bool) -> Option<BufferTag> {
        // Two rounds: the first may only clear marks.
        for _ in 0..2 * self.slots.len() {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let Slot { tag: Some(tag), evicting: false, draining: None } = self.slots[at] else {
                continue;
            };
            let index = self.index(&tag);
            if !self.table.is_pinned(index) && !self.table.take_referenced(index) && may_go(&tag) {
                self.slots[at].evicting = true;
                self.evicting += 1;
                return Some(tag);
            }
        }
        None
    }

    /// The core did not evict the page after all, or it was wanted again.
    pub(super) fn keep(&mut self, tag: &BufferTag) {
        if let Some(&index) = self.pages.get(tag)
            && std::mem::take(&mut self.slot(index).evicting)
        {
            self.evicting -= 1;
        }
    }
}
