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
    store::PageMap,
};
use crate::planted;
use pagewire_protocol::{BufferTag, Lsn, Mode, Pcm, RequestId};
use revocations::is_over;
use state::{Activity, Holding, Purpose, Waiter};
use telling::Telling;

/// All that one instance holds.
#[derive(Debug, Clone)]
pub(super) struct Holdings {
    last_request: RequestId,
    holdings: PageMap<Holding>,
    pool: FifoPool<Waiter>,
    /// This instance's log is durable up to here.
    durable: Lsn,
    /// Pages that wait for more of it.
    flushing: Vec<BufferTag>,
    telling: Telling,
}

#[cfg(feature = "planted")]
impl Holdings {
    /// See [`Grd::fingerprint`](super::Grd::fingerprint).
    pub(super) fn fingerprint(&self, tag: &BufferTag, hasher: &mut impl std::hash::Hasher) {
        use super::fingerprint::feed;
        feed(hasher, &(self.last_request, self.durable, &self.flushing, self.telling.left()));
        if let Some(h) = self.holdings.get(tag) {
            feed(hasher, &Holding { waiters: super::fifo::Fifo::default(), ..h.clone() });
            for waiter in self.pool.iter(h.waiters) {
                feed(hasher, waiter);
            }
        }
    }
}

impl Holdings {
    pub(super) fn new(last_request: RequestId) -> Self {
        Self {
            last_request,
            holdings: PageMap::new(),
            pool: FifoPool::new(),
            durable: Lsn::ZERO,
            flushing: Vec::new(),
            telling: Telling::default(),
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

    fn holding(&mut self, tag: BufferTag) -> &mut Holding {
        self.holdings.get_or_insert_with(tag, Holding::new)
    }

    // ---- local threads -------------------------------------------------------------------------

    pub(super) fn acquire(
        &mut self,
        tag: BufferTag,
        mode: Mode,
        id: WaiterId,
        recovery: bool,
        out: &mut Out<'_>,
    ) {
        let h = self.holdings.get_or_insert_with(tag, Holding::new);
        let waiter = Waiter { id, mode, recovery };
        // A copy that storage may lack, and that somebody else was to write, may be given up before
        // its master makes this instance write it: then only the master knows.
        if recovery && h.mode != Mode::N && !h.unsaved {
            let error = Some(AcquireError::NotLost { tag });
            out.effect(Effect::Fail { waiter: id, tag, error });
        } else if recovery {
            // Whoever applies redo comes before those who would see the page without it, and a
            // request that waits for redo has to make way.
            self.pool.push_front(&mut h.waiters, waiter);
            if h.pending.is_some_and(|p| !p.recovery) {
                self.send_cancel(tag, out);
            }
        } else {
            self.pool.push(&mut h.waiters, waiter);
        }
        self.step(tag, out);
    }

    pub(super) fn withdraw(&mut self, tag: BufferTag, id: WaiterId, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if self.pool.remove(&mut h.waiters, |w| w.id == id) > 0 {
            out.effect(Effect::Fail { waiter: id, tag, error: None });
            self.cancel(tag, out);
        }
    }

    fn fail_waiters(&mut self, tag: BufferTag, error: &AcquireError, out: &mut Out<'_>) {
        let h = self.holdings.get_or_insert_with(tag, Holding::new);
        while let Some(w) = self.pool.pop(&mut h.waiters) {
            out.effect(Effect::Fail { waiter: w.id, tag, error: Some(error.clone()) });
        }
    }

    // ---- what to do next -----------------------------------------------------------------------

    /// Begins the next thing there is to do for the page, if nothing is under way.
    fn step(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let durable = self.durable;
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        let front = self.pool.front(h.waiters).copied();
        let asks_for_redo = front.filter(|first| {
            let open = h.pending.is_none() && h.activity != Activity::Releasing;
            first.recovery && first.mode > h.mode && open
        });
        if let Some(first) = asks_for_redo {
            // At once: pins that are being drained may be of threads that wait for redo.
            self.request(tag, first.mode, true, out);
        }
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if h.activity != Activity::Idle {
            return;
        }
        h.revocation.take_if(|revocation| is_over(revocation, out));
        if let Some(to) = owed(h, &self.pool).filter(|_| h.revocation.is_some()) {
            lower(h, tag, to, Purpose::Waiters, out);
        } else if let Some(revocation) = h.revocation {
            if h.mode <= revocation.leaves() {
                self.serve(tag, out);
            } else {
                lower(h, tag, revocation.leaves(), Purpose::Revocation, out);
            }
        } else if h.wants_write {
            match h.mode {
                Mode::X => lower(h, tag, Mode::S, Purpose::WriteBack, out),
                Mode::S if h.dirty && h.flush > durable => {
                    self.flush(tag, Mode::S, Purpose::WriteBack, out);
                }
                Mode::S if h.dirty => write(h, tag, Purpose::WriteBack, out),
                // The page is wanted for it, and on its way.
                Mode::N if h.asked && h.pending.is_some() => {}
                Mode::S | Mode::N => {
                    h.wants_write = false;
                    if std::mem::take(&mut h.asked) && h.mode == Mode::S {
                        let (grant, version) = (h.grant, h.version);
                        let elsewhere = h.unsaved;
                        out.send_to_master(
                            tag,
                            if elsewhere {
                                // Whose duty it is the master knows by now.
                                Pcm::WriteRequest { version }
                            } else {
                                Pcm::Written { grant, version }
                            },
                        );
                    }
                    self.step(tag, out);
                }
            }
        } else if let Some(waiter) = front {
            if waiter.mode <= h.mode {
                lower(h, tag, room_for(waiter.mode), Purpose::Waiters, out);
            } else if h.pending.is_none() {
                self.request(tag, waiter.mode, waiter.recovery, out);
            }
        } else if h.wants_eviction {
            h.wants_eviction = false;
            if h.mode != Mode::N && h.pending.is_none() {
                lower(h, tag, Mode::N, Purpose::Eviction, out);
            }
        } else if h.is_nothing() {
            self.holdings.remove(&tag);
        }
    }

    pub(super) fn drained(
        &mut self,
        tag: BufferTag,
        to: Mode,
        dirty: bool,
        version: Lsn,
        flush: Lsn,
        out: &mut Out<'_>,
    ) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        let Activity::Draining(_, purpose) = h.activity else { return };
        h.activity = Activity::Idle;
        if version > h.version {
            h.writer = out.me;
        }
        (h.dirty, h.version) = (dirty, version);
        h.flush = if dirty { h.flush.max(flush) } else { Lsn::ZERO };
        self.go_on(tag, to, purpose, out);
    }

    /// Pins are lowered to `to`, as `purpose` wanted: what comes next has the first word.
    fn go_on(&mut self, tag: BufferTag, to: Mode, purpose: Purpose, out: &mut Out<'_>) {
        let durable = self.durable;
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        let version = h.version;
        let not_durable = h.dirty && h.flush > durable && !planted::is("write_before_flush");
        let must_write = h.dirty && !planted::is("evict_what_is_dirty");
        h.revocation.take_if(|revocation| is_over(revocation, out));
        if let Some(needed) = owed(h, &self.pool) {
            if to <= needed {
                self.complete_waiters(tag, to, out);
            } else {
                lower(h, tag, needed, Purpose::Waiters, out);
            }
            return;
        }
        if let Some(revocation) = h.revocation {
            if to <= revocation.leaves() || h.mode <= revocation.leaves() {
                self.serve(tag, out);
            } else {
                lower(h, tag, revocation.leaves(), Purpose::Revocation, out);
            }
            return;
        }
        match purpose {
            Purpose::Waiters | Purpose::Revocation => self.complete_waiters(tag, to, out),
            Purpose::WriteBack if not_durable => self.flush(tag, to, purpose, out),
            Purpose::WriteBack if h.dirty => write(h, tag, Purpose::WriteBack, out),
            Purpose::WriteBack => self.write_done(tag, version, true, out),
            // Somebody wants the page after all.
            Purpose::Eviction if !h.waiters.is_empty() => self.complete_waiters(tag, to, out),
            Purpose::Eviction if not_durable => self.flush(tag, to, purpose, out),
            Purpose::Eviction if must_write => write(h, tag, Purpose::Eviction, out),
            Purpose::Eviction => release(h, tag, out),
        }
    }

    /// Pins are drained to `drained`: completes as many waiters as go together, in their order.
    fn complete_waiters(&mut self, tag: BufferTag, drained: Mode, out: &mut Out<'_>) {
        let h = self.holdings.get_or_insert_with(tag, Holding::new);
        complete(h, &mut self.pool, tag, drained, out);
        // If the next waiter excludes those who were just completed, `step` waits for their pins.
        let next = self.pool.front(h.waiters);
        let more = h.revocation.is_some() || next.is_some_and(|w| w.mode <= h.mode);
        if !more && h.mode != Mode::N {
            out.effect(Effect::Open { tag, mode: h.mode });
        }
        self.step(tag, out);
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

fn lower(h: &mut Holding, tag: BufferTag, to: Mode, purpose: Purpose, out: &mut Out<'_>) {
    h.activity = Activity::Draining(to, purpose);
    out.effect(Effect::Lower { tag, to });
}

fn write(h: &mut Holding, tag: BufferTag, purpose: Purpose, out: &mut Out<'_>) {
    h.activity = Activity::Writing(purpose);
    out.effect(Effect::Write { tag, version: h.version });
}

fn release(h: &mut Holding, tag: BufferTag, out: &mut Out<'_>) {
    h.activity = Activity::Releasing;
    out.send_to_master(tag, Pcm::Release { grant: h.grant, version: h.version });
}

/// Completes waiters from the front: one writer alone, or readers together.
fn complete(
    h: &mut Holding,
    pool: &mut FifoPool<Waiter>,
    tag: BufferTag,
    drained: Mode,
    out: &mut Out<'_>,
) {
    let path = h.unused.take().unwrap_or(GrantPath::Local);
    let mut readers = false;
    while let Some(&w) = pool.front(h.waiters) {
        let alone = w.mode == Mode::X && (readers || drained != Mode::N);
        if w.mode > h.mode || alone {
            return;
        }
        let _ = pool.pop(&mut h.waiters);
        out.effect(Effect::Complete { waiter: w.id, tag, mode: w.mode, path });
        if w.mode == Mode::X {
            return;
        }
        readers = true;
    }
}

#[cfg(test)]
mod tests;
