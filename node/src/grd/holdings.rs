//! The holder's side: shadow information, what this instance holds itself.
//!
//! Invariants: one activity per page at a time (draining pins, writing, releasing) and one request;
//! a revocation that has come is served before any local waiter that has not been completed; a
//! grant is given to its first waiter before a revocation can take it away; a page that is being
//! written is neither shipped for X nor given up before the write is done.
//!
//! ```text
//!  event \ state   | idle              | draining        | writing        | releasing
//!  ----------------+-------------------+-----------------+----------------+------------------
//!  Acquire         | step              | queue           | queue          | queue
//!  SHIP/INVALIDATE | step              | note it         | note it        | serve at once
//!  Drained         | -                 | revocation:     | -              | -
//!                  |                   |  serve, or drain|                |
//!                  |                   |  deeper; else   |                |
//!                  |                   |  go on with what|                |
//!                  |                   |  it was for     |                |
//!  WriteDone       | -                 | -               | step / RELEASE | -
//!  RELEASED        | ignore            | ignore          | ignore         | drop, step
//!
//!  step, when idle: the first waiter of a new grant when it is already being revoked, else
//!                   revocation, else write-back, else first waiter, else eviction
//! ```
//!
//! Here is what is done next; what comes in stands in [`requests`], [`revocations`] and
//! [`write_back`], and what is known of a page in [`state`].

mod report;
mod requests;
mod revocations;
mod state;
mod telling;
mod write_back;

pub use state::HoldingView;

use super::{
    event::{AcquireError, Effect, GrantPath, WaiterId},
    fifo::FifoPool,
    out::Out,
    store::{Hashed, PageMap, Step},
};
use crate::planted;
use pagewire_protocol::{BufferTag, Epoch, InstanceId, Lsn, Mode, Pcm, RequestId};
use revocations::is_over;
use state::{Activity, Holding, Purpose, Revocation, Waiter};
use telling::Telling;

/// All that one instance holds.
#[derive(Debug, Clone)]
pub(super) struct Holdings {
    holdings: PageMap<Holding>,
    desk: Desk,
    telling: Telling,
}

/// What all pages share.
#[derive(Debug, Clone)]
struct Desk {
    last_request: RequestId,
    pool: FifoPool<Waiter>,
    /// This instance's log is durable up to here.
    durable: Lsn,
    /// Pages that wait for more of it.
    flushing: Vec<BufferTag>,
}

/// One page while an event is handled: it is looked up once.
#[derive(Debug)]
pub(super) struct Held<'a, 'o> {
    tag: BufferTag,
    page: &'a Hashed,
    h: &'a mut Holding,
    desk: &'a mut Desk,
    out: &'a mut Out<'o>,
    /// Nothing is left to be known of it: it is forgotten when the event has been handled, unless it is
    /// wanted again by then.
    is_over: bool,
}

#[cfg(feature = "planted")]
impl Holdings {
    /// See [`Grd::fingerprint`](super::Grd::fingerprint).
    pub(super) fn fingerprint(&self, tag: &BufferTag, hasher: &mut impl std::hash::Hasher) {
        use super::fingerprint::feed;
        let Desk { last_request, durable, flushing, .. } = &self.desk;
        feed(hasher, &(last_request, durable, flushing, self.telling.left()));
        if let Some(h) = self.holdings.get(tag) {
            feed(hasher, &Holding { waiters: super::fifo::Fifo::default(), ..h.clone() });
            for waiter in self.desk.pool.iter(h.waiters) {
                feed(hasher, waiter);
            }
        }
    }
}

impl Holdings {
    pub(super) fn new(last_request: RequestId) -> Self {
        let (pool, durable, flushing) = (FifoPool::new(), Lsn::ZERO, Vec::new());
        let desk = Desk { last_request, pool, durable, flushing };
        Self { holdings: PageMap::new(), desk, telling: Telling::default() }
    }

    /// Whether the page is the one that the last event was about.
    #[inline]
    pub(super) fn was_last(&self, tag: &BufferTag) -> bool {
        self.holdings.was_last(tag)
    }

    /// Brings what is known of a page nearer to the processor.
    #[inline(always)] // As `Shard::approach_by`.
    pub(super) fn approach(&self, page: &mut Hashed, step: Step) {
        self.holdings.approach(page, step);
    }

    /// Handles something of a page, if there is anything to be known of it.
    #[inline]
    pub(super) fn of(
        &mut self,
        page: &Hashed,
        out: &mut Out<'_>,
        handle: impl FnOnce(&mut Held<'_, '_>),
    ) {
        let Some(h) = self.holdings.get_mut(page) else { return };
        let (tag, desk) = (page.tag, &mut self.desk);
        let mut held = Held { tag, page, h, desk, out, is_over: false };
        handle(&mut held);
        if held.is_over && held.h.is_nothing() {
            self.holdings.remove(page);
        }
    }

    /// Handles something of a page, whatever there is to be known of it.
    #[inline]
    pub(super) fn of_any(
        &mut self,
        page: &Hashed,
        out: &mut Out<'_>,
        handle: impl FnOnce(&mut Held<'_, '_>),
    ) {
        let (h, is_new) = self.holdings.get_or_insert_with(page, Holding::new);
        let (tag, desk) = (page.tag, &mut self.desk);
        let mut held = Held { tag, page, h, desk, out, is_over: is_new };
        handle(&mut held);
        if held.is_over && held.h.is_nothing() {
            self.holdings.remove(page);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holdings.is_empty()
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = BufferTag> + '_ {
        self.holdings.iter().map(|(tag, _)| *tag)
    }

    pub(super) fn view(&self, tag: &BufferTag) -> Option<HoldingView> {
        self.holdings.get(tag).map(|h| HoldingView {
            mode: h.mode,
            grant: h.grant,
            dirty: h.dirty,
            busy: h.activity != Activity::Idle || h.pending.is_some() || h.revocation.is_some(),
            releasing: h.activity == Activity::Releasing,
            in_transit: h.transit.is_some(),
            past_image: h.past,
            pending: h.pending.is_some(),
            activity: match h.activity {
                Activity::Idle => "idle",
                Activity::Draining(..) => "draining",
                Activity::Flushing(..) => "flushing",
                Activity::Writing(_) => "writing",
                Activity::Releasing => "releasing",
            },
            unsaved: h.unsaved,
            version: h.version,
            writer: h.writer,
        })
    }
}

impl Held<'_, '_> {
    /// Who masters the page.
    fn master(&self) -> InstanceId {
        self.out.view.master_of(self.page.partition())
    }

    /// What messages about the page carry.
    fn epoch(&self) -> Epoch {
        self.out.view.partition_epoch(self.page.partition())
    }

    fn send(&mut self, to: InstanceId, message: Pcm) {
        self.out.send_of(to, self.page, message);
    }

    fn send_to_master(&mut self, message: Pcm) {
        self.send(self.master(), message);
    }

    fn effect(&mut self, effect: Effect) {
        self.out.effect(effect);
    }

    // ---- local threads -------------------------------------------------------------------------

    pub(super) fn acquire(&mut self, mode: Mode, id: WaiterId, recovery: bool) {
        let (h, tag) = (&mut *self.h, self.tag);
        let waiter = Waiter { id, mode, recovery };
        // A copy that storage may lack, and that somebody else was to write, may be given up before
        // its master makes this instance write it: then only the master knows.
        if recovery && h.mode != Mode::N && !h.unsaved {
            let error = Some(AcquireError::NotLost { tag });
            self.effect(Effect::Fail { waiter: id, tag, error });
        } else if recovery {
            // Whoever applies redo comes before those who would see the page without it, and a
            // request that waits for redo has to make way.
            self.desk.pool.push_front(&mut h.waiters, waiter);
            if h.pending.is_some_and(|p| !p.recovery) {
                self.send_cancel();
            }
        } else {
            self.desk.pool.push(&mut h.waiters, waiter);
        }
        self.step();
    }

    pub(super) fn withdraw(&mut self, id: WaiterId) {
        if self.desk.pool.remove(&mut self.h.waiters, |w| w.id == id) > 0 {
            self.effect(Effect::Fail { waiter: id, tag: self.tag, error: None });
            self.cancel();
        }
    }

    fn fail_waiters(&mut self, error: &AcquireError) {
        while let Some(w) = self.desk.pool.pop(&mut self.h.waiters) {
            let error = Some(error.clone());
            self.effect(Effect::Fail { waiter: w.id, tag: self.tag, error });
        }
    }

    // ---- what to do next -----------------------------------------------------------------------

    /// Begins the next thing there is to do for the page, if nothing is under way.
    fn step(&mut self) {
        let front = self.desk.pool.front(self.h.waiters).copied();
        let asks_for_redo = front.filter(|first| {
            let h = &*self.h;
            let open = h.pending.is_none() && h.activity != Activity::Releasing;
            first.recovery && first.mode > h.mode && open
        });
        if let Some(first) = asks_for_redo {
            // At once: pins that are being drained may be of threads that wait for redo.
            self.request(first.mode, true);
        }
        let (h, durable) = (&mut *self.h, self.desk.durable);
        if h.activity != Activity::Idle {
            return;
        }
        h.revocation.take_if(|revocation| is_over(revocation, self.out));
        if let Some(to) = owed(h, &self.desk.pool).filter(|_| h.revocation.is_some()) {
            self.lower(to, Purpose::Waiters);
        } else if let Some(leaves) = h.revocation.as_ref().map(Revocation::leaves) {
            if h.mode <= leaves {
                self.serve();
            } else {
                self.lower(leaves, Purpose::Revocation);
            }
        } else if h.wants_write {
            match h.mode {
                Mode::X => self.lower(Mode::S, Purpose::WriteBack),
                Mode::S if h.dirty && h.flush > durable => self.flush(Mode::S, Purpose::WriteBack),
                Mode::S if h.dirty => self.write(Purpose::WriteBack),
                // The page is wanted for it, and on its way.
                Mode::N if h.asked && h.pending.is_some() => {}
                Mode::S | Mode::N => {
                    h.wants_write = false;
                    if std::mem::take(&mut h.asked) && h.mode == Mode::S {
                        let (grant, version) = (h.grant, h.version);
                        let elsewhere = h.unsaved;
                        self.send_to_master(if elsewhere {
                            // Whose duty it is the master knows by now.
                            Pcm::WriteRequest { version }
                        } else {
                            Pcm::Written { grant, version }
                        });
                    }
                    self.step();
                }
            }
        } else if let Some(waiter) = front {
            if waiter.mode <= h.mode {
                self.lower(room_for(waiter.mode), Purpose::Waiters);
            } else if h.pending.is_none() {
                self.request(waiter.mode, waiter.recovery);
            }
        } else if h.wants_eviction {
            h.wants_eviction = false;
            if h.mode != Mode::N && h.pending.is_none() {
                self.lower(Mode::N, Purpose::Eviction);
            }
        } else {
            self.is_over = h.is_nothing();
        }
    }

    pub(super) fn drained(&mut self, to: Mode, dirty: bool, version: Lsn, flush: Lsn) {
        let h = &mut *self.h;
        let Activity::Draining(_, purpose) = h.activity else { return };
        h.activity = Activity::Idle;
        if version > h.version {
            h.writer = self.out.me;
        }
        (h.dirty, h.version) = (dirty, version);
        h.flush = if dirty { h.flush.max(flush) } else { Lsn::ZERO };
        self.go_on(to, purpose);
    }

    /// Pins are lowered to `to`, as `purpose` wanted: what comes next has the first word.
    fn go_on(&mut self, to: Mode, purpose: Purpose) {
        let h = &mut *self.h;
        h.revocation.take_if(|revocation| is_over(revocation, self.out));
        if let Some(needed) = owed(h, &self.desk.pool) {
            if to <= needed {
                self.complete_waiters(to);
            } else {
                self.lower(needed, Purpose::Waiters);
            }
            return;
        }
        if let Some(leaves) = h.revocation.as_ref().map(Revocation::leaves) {
            if to <= leaves || h.mode <= leaves {
                self.serve();
            } else {
                self.lower(leaves, Purpose::Revocation);
            }
            return;
        }
        let not_durable =
            h.dirty && h.flush > self.desk.durable && !planted::is("write_before_flush");
        let must_write = h.dirty && !planted::is("evict_what_is_dirty");
        match purpose {
            Purpose::Waiters | Purpose::Revocation => self.complete_waiters(to),
            Purpose::WriteBack if not_durable => self.flush(to, purpose),
            Purpose::WriteBack if h.dirty => self.write(Purpose::WriteBack),
            Purpose::WriteBack => self.write_done(self.h.version, true),
            // Somebody wants the page after all.
            Purpose::Eviction if !h.waiters.is_empty() => self.complete_waiters(to),
            Purpose::Eviction if not_durable => self.flush(to, purpose),
            Purpose::Eviction if must_write => self.write(Purpose::Eviction),
            Purpose::Eviction => self.release(),
        }
    }

    /// Pins are drained to `drained`: completes as many waiters as go together, in their order.
    fn complete_waiters(&mut self, drained: Mode) {
        self.complete(drained);
        let h = &*self.h;
        // If the next waiter excludes those who were just completed, `step` waits for their pins.
        let next = self.desk.pool.front(h.waiters);
        let more = h.revocation.is_some() || next.is_some_and(|w| w.mode <= h.mode);
        if !more && h.mode != Mode::N {
            self.effect(Effect::Open { tag: self.tag, mode: self.h.mode });
        }
        self.step();
    }

    /// Completes waiters from the front: one writer alone, or readers together.
    fn complete(&mut self, drained: Mode) {
        let path = self.h.unused.take().unwrap_or(GrantPath::Local);
        let mut readers = false;
        while let Some(&w) = self.desk.pool.front(self.h.waiters) {
            let alone = w.mode == Mode::X && (readers || drained != Mode::N);
            if w.mode > self.h.mode || alone {
                return;
            }
            let _ = self.desk.pool.pop(&mut self.h.waiters);
            self.effect(Effect::Complete { waiter: w.id, tag: self.tag, mode: w.mode, path });
            if w.mode == Mode::X {
                return;
            }
            readers = true;
        }
    }

    fn lower(&mut self, to: Mode, purpose: Purpose) {
        self.h.activity = Activity::Draining(to, purpose);
        self.effect(Effect::Lower { tag: self.tag, to });
    }

    fn write(&mut self, purpose: Purpose) {
        self.h.activity = Activity::Writing(purpose);
        self.effect(Effect::Write { tag: self.tag, version: self.h.version });
    }

    fn release(&mut self) {
        self.h.activity = Activity::Releasing;
        self.send_to_master(Pcm::Release { grant: self.h.grant, version: self.h.version });
    }
}

/// How far pins have to be drained before a waiter for `mode` can be completed.
fn room_for(mode: Mode) -> Mode {
    if mode == Mode::X { Mode::N } else { Mode::S }
}

/// A grant is of use to its first waiter before it can be revoked, or weakened to less than that
/// waiter needs: how far pins have to be drained for it, if it is still to be completed.
fn owed(h: &Holding, pool: &FifoPool<Waiter>) -> Option<Mode> {
    let first = pool.front(h.waiters).filter(|first| h.unused.is_some() && first.mode <= h.mode);
    first.map(|first| room_for(first.mode))
}

#[cfg(test)]
mod tests;
