//! The pages that this instance caches: which frame holds which, who waits for its pins, and which
//! to give up when room is needed.
//!
//! Invariants: a page has a slot, is in the index and published exactly while it is held; at most
//! `limit` pages are held or expected. The index that threads read is the only one: the slot of the
//! frame that it names says whether it is the page.
//!
//! The core asks only for pages that it holds, as far as its peers keep to the protocol. One that
//! does not (a grant of a page that never came) must not bring this instance down: what is asked for
//! and is not there is counted, told and not done.

use super::{counters::NodeCounters, shared::Shared};
use crate::grd::{
    Event as Input,
    store::{Hashed, Step},
};
use pagewire_protocol::{BufferTag, Lsn, Mode, page};
use pagewire_transport::{
    Arena, Frame, FrameIndex, SharedFrame,
    arena::{Drain, PageTable, PinTicket},
    prefetch,
};
use std::{
    cell::Cell,
    sync::{Arc, atomic::Ordering},
};

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
    /// Up to where the redo log has to be durable before it leaves.
    pub(super) flush: Lsn,
}

impl From<Drained> for Input {
    fn from(Drained { tag, to, dirty, version, flush }: Drained) -> Self {
        Self::Drained { tag, to, dirty, version, flush }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    arena: Arena,
    table: PageTable,
    shared: Arc<Shared>,
    slots: Vec<Slot>,
    /// The frame that was looked up last: what is done to a page is several things in a row.
    last: Cell<FrameIndex>,
    held: usize,
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
        let slots = vec![Slot::default(); arena.frames() as usize];
        let last = Cell::new(FrameIndex(0));
        let (held, evicting, hand) = (0, 0, 0);
        Self { arena, table, shared, slots, last, held, limit, evicting, hand, counters }
    }

    #[inline]
    fn find(&self, tag: &BufferTag) -> Option<FrameIndex> {
        let last = self.last.get();
        if self.is_it(last, tag) { Some(last) } else { self.look_up(tag) }
    }

    fn is_it(&self, index: FrameIndex, tag: &BufferTag) -> bool {
        self.slots[index.0 as usize].tag.as_ref() == Some(tag)
    }

    #[inline(never)] // The other things that are done to the page find it as the last.
    fn look_up(&self, tag: &BufferTag) -> Option<FrameIndex> {
        let found = self.shared.index.find_that(tag.hash(), |index| self.is_it(index, tag))?;
        self.last.set(found);
        Some(found)
    }

    /// Brings what is known of a page nearer to the processor, and its first bytes, if it is here.
    #[inline(always)] // As `Shard::approach_by`.
    pub(super) fn approach(&self, page: &Hashed, step: Step) {
        match step {
            Step::Partition => self.shared.index.approach(page.hash()),
            Step::Place => {
                if let Some(index) = self.shared.index.find(page.hash()) {
                    self.approach_frame(index);
                    // Looked at first: whether it is the page the slot says.
                    self.last.set(index);
                }
            }
            Step::Entry => {}
        }
    }

    /// Brings what is known of a frame nearer to the processor.
    #[inline]
    pub(super) fn approach_frame(&self, index: FrameIndex) {
        prefetch(&self.slots[index.0 as usize]);
        self.shared.flush.approach(index);
        self.table.prefetch(index);
    }

    fn index(&self, tag: &BufferTag) -> Option<FrameIndex> {
        let index = self.find(tag);
        if index.is_none() {
            self.broken(tag, "is not in the pool, expected one that is held");
        }
        index
    }

    /// Counts and tells what no instance that keeps to the protocol causes.
    #[cold]
    pub(super) fn broken(&self, tag: &BufferTag, problem: &str) {
        self.counters.protocol_errors.add(1);
        tracing::error!("page {tag} {problem}: an instance broke the page protocol");
    }

    fn slot(&mut self, index: FrameIndex) -> &mut Slot {
        &mut self.slots[index.0 as usize]
    }

    /// Pages that are dirty or may be being written to.
    pub(super) fn unclean(&self) -> impl Iterator<Item = BufferTag> + '_ {
        let unclean = |index| self.table.is_dirty(index) || self.table.is_being_written(index);
        let held = (0..).map(FrameIndex).zip(&self.slots);
        held.filter_map(move |(index, slot)| slot.tag.filter(|_| unclean(index)))
    }

    /// Pages that must go before `expected` more can come.
    pub(super) fn excess(&self, expected: usize) -> usize {
        (self.held + expected).saturating_sub(self.limit + self.evicting)
    }

    /// True when there is room for one more beside `expected` others.
    pub(super) fn has_room(&self, expected: usize) -> bool {
        self.held + expected < self.limit
    }

    /// Publishes a page that came; nobody may pin it yet.
    pub(super) fn install(&mut self, tag: BufferTag, frame: Option<Frame>, dirty: bool) {
        let Some(frame) = frame else {
            return self.broken(&tag, "has not come, expected it with its grant");
        };
        if self.find(&tag).is_some() {
            self.broken(&tag, "has come twice, expected it once");
            return;
        }
        self.shared.clock.fetch_max(page::lsn(&frame).0, Ordering::Relaxed);
        let index = self.table.publish(frame, tag, Mode::N, dirty);
        self.shared.flush.set(index, Lsn::ZERO);
        self.enter(tag, index);
    }

    /// Publishes a copy again that was shipped away, or kept: as it is, or copied where a send still
    /// holds its frame.
    pub(super) fn reinstate(&mut self, tag: BufferTag, copy: Option<SharedFrame>, dirty: bool) {
        let frame = copy.and_then(|copy| match copy.try_thaw() {
            Ok(frame) => Some(frame),
            Err(copy) => {
                let mut frame = self.arena.take()?;
                frame.copy_from_slice(&copy);
                self.counters.pages_copied.add(1);
                Some(frame)
            }
        });
        self.install(tag, frame, dirty);
    }

    /// True when no page is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    fn enter(&mut self, tag: BufferTag, index: FrameIndex) {
        *self.slot(index) = Slot { tag: Some(tag), ..Slot::default() };
        self.held += 1;
        self.last.set(index);
        self.shared.index.insert(&tag, index);
    }

    /// Takes a drained page out.
    pub(super) fn remove(&mut self, tag: &BufferTag) -> Option<SharedFrame> {
        let index = self.index(tag)?;
        self.held -= 1;
        let slots = &self.slots;
        let hash_of = |f: FrameIndex| slots[f.0 as usize].tag.map_or(0, |tag| tag.hash());
        self.shared.index.remove(tag, index, hash_of);
        let slot = std::mem::take(self.slot(index));
        if slot.evicting {
            self.evicting -= 1;
            self.counters.pages_evicted.add(1);
        }
        Some(self.table.take(index))
    }

    /// Lowers what may be pinned; `Some` when no pin stands in the way. Nobody has a pin on a page
    /// that is not there, so the core goes on and those who wait for it are told.
    pub(super) fn lower(&mut self, tag: &BufferTag, to: Mode) -> Option<Drained> {
        let Some(index) = self.index(tag) else {
            let (version, flush) = (Lsn::ZERO, Lsn::ZERO);
            return Some(Drained { tag: *tag, to, dirty: false, version, flush });
        };
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
        let version = self.table.page(index).map_or(Lsn::ZERO, page::lsn);
        let dirty = self.table.is_dirty(index);
        let flush = if dirty { self.shared.flush.get(index) } else { Lsn::ZERO };
        Some(Drained { tag, to, dirty, version, flush })
    }

    /// Lets local threads pin the page up to `mode`; only up to S while a send still holds its
    /// frame: who wants X then asks the shard, which copies. It is not given up then. True when the
    /// page is dirty.
    pub(super) fn open(&mut self, tag: &BufferTag, mode: Mode) -> bool {
        let Some(index) = self.index(tag) else { return false };
        self.keep_frame(index);
        if self.table.raise(index, mode).is_err() {
            let _ = self.table.raise(index, Mode::S);
        }
        self.table.is_dirty(index)
    }

    pub(super) fn set_dirty(&mut self, tag: &BufferTag, dirty: bool) {
        if let Some(index) = self.index(tag) {
            self.table.set_dirty(index, dirty);
        }
    }

    /// Another handle on a page that nobody can be writing.
    pub(super) fn share(&self, tag: &BufferTag) -> Option<SharedFrame> {
        let frame = self.table.share(self.index(tag)?);
        if frame.is_none() {
            self.broken(tag, "is open for writing, expected one that nobody writes");
        }
        frame
    }

    /// Pins a drained page for a waiter. A page whose frame a send still holds is copied before it
    /// is written.
    pub(super) fn pin(&mut self, tag: &BufferTag, mode: Mode) -> Option<PinTicket> {
        let index = self.index(tag)?;
        let pinned = match mode {
            Mode::X => self.table.pin_exclusive(index).or_else(|| {
                let index = self.copy(tag, index)?;
                self.table.pin_exclusive(index)
            }),
            _ => self.table.pin_shared(index),
        };
        if pinned.is_none() {
            self.broken(tag, "is being written, expected one that is drained");
        }
        pinned
    }

    /// Takes a pin back that its waiter does not want any more; `Some` when somebody waits for that.
    pub(super) fn unpin(&mut self, ticket: PinTicket) -> Option<Drained> {
        let index = self.shared.unpin(ticket)?;
        self.drained(index)
    }

    fn copy(&mut self, tag: &BufferTag, index: FrameIndex) -> Option<FrameIndex> {
        if self.table.lower(index, Mode::N) == Drain::Waiting {
            return None;
        }
        let (dirty, flush) = (self.table.is_dirty(index), self.shared.flush.get(index));
        // It is wanted, so it is not given up.
        self.keep_frame(index);
        let old = self.remove(tag)?;
        self.counters.pages_copied.add(1);
        let mut frame =
            self.arena.take().expect("the arena has a frame for every one that is sent");
        frame.copy_from_slice(&old);
        let index = self.table.publish(frame, *tag, Mode::N, dirty);
        self.shared.flush.set(index, flush);
        self.enter(*tag, index);
        Some(index)
    }

    /// The next page to give up: one that `may_go`, not pinned, and not used since the sweep last
    /// passed it.
    pub(super) fn victim(&mut self, may_go: impl Fn(&BufferTag) -> bool) -> Option<BufferTag> {
        if self.evicting == self.held {
            return None;
        }
        // Two rounds: the first may only clear marks.
        for _ in 0..2 * self.slots.len() {
            let at = self.hand;
            self.hand = if at + 1 < self.slots.len() { at + 1 } else { 0 };
            let Slot { tag: Some(tag), evicting: false, draining: None } = self.slots[at] else {
                continue;
            };
            let index = FrameIndex(u32::try_from(at).ok()?);
            if !self.table.is_pinned(index) && !self.table.take_referenced(index) && may_go(&tag) {
                self.slots[at].evicting = true;
                self.evicting += 1;
                return Some(tag);
            }
        }
        None
    }

    /// The core did not evict the page after all, or it was wanted again.
    fn keep_frame(&mut self, index: FrameIndex) {
        if std::mem::take(&mut self.slot(index).evicting) {
            self.evicting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{
        index::PageIndex,
        shared::{FlushPositions, Panic},
    };
    use pagewire_protocol::{ClusterId, InstanceId};
    use pagewire_transport::{ArenaConfig, Endpoint, EndpointConfig};
    use std::time::Duration;

    fn pool() -> (Arena, Pool) {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(8) }).unwrap();
        let any_port = "127.0.0.1:0".parse().unwrap();
        let config = EndpointConfig::new(ClusterId(1), InstanceId(1), any_port);
        let endpoint = Endpoint::bind(config, arena.clone()).unwrap();
        let table = arena.page_table().unwrap();
        let shared = Arc::new(Shared {
            index: PageIndex::new(8),
            flush: FlushPositions::new(8),
            pages: table.view(),
            clock: Arc::default(),
            waker: endpoint.waker(),
            acquire_timeout: Duration::from_secs(1),
            longest_wait_ns: Arc::default(),
            panic: Panic::none_yet(0),
            si: Arc::new(crate::si::shared::SiShared::new(1)),
        });
        (arena.clone(), Pool::new(arena, table, shared, 8, Arc::default()))
    }

    fn tag(block: u32) -> BufferTag {
        BufferTag { block, ..BufferTag::default() }
    }

    fn is_dirty(pool: &Pool, block: u32) -> bool {
        pool.index(&tag(block)).is_some_and(|index| pool.table.is_dirty(index))
    }

    #[test]
    fn a_page_that_is_not_there_is_counted_whatever_is_asked_of_it() {
        let (_arena, mut pool) = pool();
        let away = tag(1);
        assert!(pool.share(&away).is_none());
        assert!(pool.remove(&away).is_none());
        assert!(pool.lower(&away, Mode::N).is_some(), "nobody has it pinned");
        assert!(pool.pin(&away, Mode::S).is_none() && pool.pin(&away, Mode::X).is_none());
        assert!(!pool.open(&away, Mode::X));
        pool.set_dirty(&away, true);
        pool.install(away, None, false);
        assert_eq!(pool.counters.protocol_errors.get(), 8);
    }

    #[test]
    fn a_page_has_the_flush_position_of_its_last_change_here() {
        let (arena, mut pool) = pool();
        pool.install(tag(1), arena.take(), true);
        let flush = |pool: &mut Pool| pool.lower(&tag(1), Mode::N).map(|drained| drained.flush);
        assert_eq!(flush(&mut pool), Some(Lsn::ZERO), "its redo was durable before it came");
        let index = pool.index(&tag(1)).expect("installed");
        pool.shared.flush.raise(index, Lsn(9));
        pool.shared.flush.raise(index, Lsn(7));
        assert_eq!(flush(&mut pool), Some(Lsn(9)));
        // A page that is copied to another frame takes its position along.
        let sent = pool.share(&tag(1));
        assert!(pool.pin(&tag(1), Mode::X).is_some_and(|ticket| ticket.is_exclusive()));
        assert_eq!(pool.counters.pages_copied.get(), 1);
        assert_eq!(pool.shared.flush.get(pool.index(&tag(1)).expect("copied")), Lsn(9));
        drop(sent);
        pool.set_dirty(&tag(1), false);
        let clean = pool.slots.iter().position(|slot| slot.tag.is_some());
        let clean = FrameIndex(u32::try_from(clean.expect("one")).expect("a frame"));
        assert!(!pool.table.is_dirty(clean));
    }

    #[test]
    fn a_copy_is_held_again_also_while_a_send_has_its_frame() {
        let (arena, mut pool) = pool();
        for is_being_sent in [false, true] {
            let mut frame = arena.take().expect("a frame");
            frame[100] = 7;
            let copy = frame.freeze();
            let sent = is_being_sent.then(|| copy.clone());
            pool.reinstate(tag(1), Some(copy), true);
            assert!(is_dirty(&pool, 1) && pool.share(&tag(1)).is_some_and(|page| page[100] == 7));
            assert_eq!(pool.counters.pages_copied.get(), u64::from(is_being_sent));
            drop((sent, pool.remove(&tag(1))));
            assert!(pool.is_empty() && arena.free_frames() == 8);
        }
        pool.reinstate(tag(1), None, true);
        assert_eq!(pool.counters.protocol_errors.get(), 1);
    }

    #[test]
    fn a_page_that_comes_twice_is_kept_once() {
        let (arena, mut pool) = pool();
        for _ in 0..2 {
            pool.install(tag(1), arena.take(), true);
        }
        assert_eq!(pool.counters.protocol_errors.get(), 1);
        assert_eq!(arena.free_frames(), 7);
        assert!(is_dirty(&pool, 1));
    }

    #[test]
    fn a_page_that_is_open_is_not_shared_and_one_that_is_pinned_not_pinned_for_writing() {
        let (arena, mut pool) = pool();
        pool.install(tag(1), arena.take(), false);
        assert!(!pool.open(&tag(1), Mode::X), "it is clean");
        assert!(pool.share(&tag(1)).is_none());
        assert!(pool.pin(&tag(1), Mode::S).is_some());
        assert!(pool.pin(&tag(1), Mode::X).is_none(), "a reader is in");
        assert_eq!(pool.counters.protocol_errors.get(), 2);
    }
}
