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
//! What each field is for, when it is set and when it is cleared, stands beside it ([`Holding`]).

use super::{
    AcquireError, Effect, GrantPath, Out, WaiterId,
    fifo::{Fifo, FifoPool},
    table::TagMap,
};
use pagewire_protocol::{
    BufferTag, GrantNumber, InstanceId, Lsn, Mode, Pcm, RequestId, pcm::Verdict,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Idle,
    /// [`Effect::Lower`] is out; the mode is what it lowers to.
    Draining(Mode, Purpose),
    /// [`Effect::Write`] is out.
    Writing(Purpose),
    /// PCM_RELEASE is out.
    Releasing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Waiters,
    Revocation,
    WriteBack,
    Eviction,
}

/// PCM_SHIP or PCM_INVALIDATE, as it waits to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Revocation {
    request: RequestId,
    revokes: GrantNumber,
    ship: Option<Ship>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ship {
    want: Mode,
    grant: GrantNumber,
    acks: u16,
}

impl Revocation {
    /// What the holder may keep.
    fn leaves(&self) -> Mode {
        match self.ship {
            Some(Ship { want: Mode::S, .. }) => Mode::S,
            _ => Mode::N,
        }
    }
}

/// A request that is under way.
#[derive(Debug, Clone, Copy)]
struct Pending {
    request: RequestId,
    want: Mode,
    /// The grant, once PCM_RESPONSE has come.
    grant: Option<GrantNumber>,
    /// Invalidations to wait for, known with the response, and those that have come.
    acks_due: u16,
    acks: u16,
    /// The page is there: it came with the response, was read, or was held all along.
    page: bool,
    /// The page was held all along.
    held: bool,
    /// The duty to write the page came with the response or an acknowledgement.
    dirty: bool,
    version: Lsn,
    path: GrantPath,
}

#[derive(Debug, Clone, Copy)]
struct Waiter {
    id: WaiterId,
    mode: Mode,
}

/// Shadow information of one page.
#[derive(Debug)]
struct Holding {
    /// What the master has granted. Set by a grant, lowered when a revocation is served or a
    /// release confirmed.
    mode: Mode,
    /// Number of that grant; kept after it is given up, to tell late messages.
    grant: GrantNumber,
    /// The page has been written here, or the duty to write it came with it. Set by a grant and by
    /// `Drained`; cleared when it is written, or the duty leaves with a ship or acknowledgement.
    dirty: bool,
    /// Version at the last grant or drain.
    version: Lsn,
    activity: Activity,
    /// Set by PCM_SHIP and PCM_INVALIDATE, cleared when served.
    revocation: Option<Revocation>,
    /// A revocation of the grant that `pending` has not received yet.
    parked: Option<Revocation>,
    pending: Option<Pending>,
    waiters: Fifo,
    wants_write: bool,
    wants_eviction: bool,
    /// How the last grant came about, until its first waiter is completed with it.
    unused: Option<GrantPath>,
    /// Grant under which the page was shipped away and is still in transit; cleared by PCM_CLAIMED.
    transit: Option<GrantNumber>,
}

impl Holding {
    fn new() -> Self {
        Self {
            mode: Mode::N,
            grant: GrantNumber(0),
            dirty: false,
            version: Lsn::ZERO,
            activity: Activity::Idle,
            revocation: None,
            parked: None,
            pending: None,
            waiters: Fifo::default(),
            wants_write: false,
            wants_eviction: false,
            unused: None,
            transit: None,
        }
    }

    fn is_nothing(&self) -> bool {
        self.mode == Mode::N
            && self.activity == Activity::Idle
            && self.pending.is_none()
            && self.waiters.is_empty()
            && self.transit.is_none()
            && self.parked.is_none()
    }
}

/// What an instance holds of one page, for tools and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldingView {
    /// Mode granted.
    pub mode: Mode,
    /// Number of the grant.
    pub grant: GrantNumber,
    /// Dirty, and this instance's to write, as far as the core has been told.
    pub dirty: bool,
    /// Something is under way: a request, a revocation, a write, a release.
    pub busy: bool,
    /// PCM_RELEASE is out: the mode is of no use any more, and the master may have given it on.
    pub releasing: bool,
    /// Shipped away and not yet claimed.
    pub in_transit: bool,
}

/// All that one instance holds.
#[derive(Debug)]
pub(super) struct Holdings {
    last_request: RequestId,
    holdings: TagMap<Holding>,
    pool: FifoPool<Waiter>,
}

impl Holdings {
    pub(super) fn new(last_request: RequestId) -> Self {
        Self { last_request, holdings: TagMap::default(), pool: FifoPool::new() }
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = BufferTag> + '_ {
        self.holdings.keys().copied()
    }

    pub(super) fn view(&self, tag: &BufferTag) -> Option<HoldingView> {
        self.holdings.get(tag).map(|h| HoldingView {
            mode: h.mode,
            grant: h.grant,
            dirty: h.dirty,
            busy: h.activity != Activity::Idle || h.pending.is_some() || h.revocation.is_some(),
            releasing: h.activity == Activity::Releasing,
            in_transit: h.transit.is_some(),
        })
    }

    fn holding(&mut self, tag: BufferTag) -> &mut Holding {
        self.holdings.entry(tag).or_insert_with(Holding::new)
    }

    // ---- local threads -------------------------------------------------------------------------

    pub(super) fn acquire(&mut self, tag: BufferTag, mode: Mode, id: WaiterId, out: &mut Out<'_>) {
        let mut queue = self.holding(tag).waiters;
        self.pool.push(&mut queue, Waiter { id, mode });
        self.holding(tag).waiters = queue;
        self.step(tag, out);
    }

    pub(super) fn withdraw(&mut self, tag: BufferTag, id: WaiterId, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if self.pool.remove(&mut h.waiters, |w| w.id == id) > 0 {
            out.effect(Effect::Fail { waiter: id, tag, error: None });
        }
    }

    fn fail_waiters(&mut self, tag: BufferTag, error: &AcquireError, out: &mut Out<'_>) {
        let h = self.holdings.entry(tag).or_insert_with(Holding::new);
        while let Some(w) = self.pool.pop(&mut h.waiters) {
            out.effect(Effect::Fail { waiter: w.id, tag, error: Some(error.clone()) });
        }
    }

    // ---- what to do next -----------------------------------------------------------------------

    /// Begins the next thing there is to do for the page, if nothing is under way.
    fn step(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let h = self.holdings.entry(tag).or_insert_with(Holding::new);
        if h.activity != Activity::Idle {
            return;
        }
        let front = self.pool.front(h.waiters).copied();
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
                Mode::S if h.dirty => write(h, tag, Purpose::WriteBack, out),
                Mode::S | Mode::N => {
                    h.wants_write = false;
                    self.step(tag, out);
                }
            }
        } else if let Some(waiter) = front {
            if waiter.mode <= h.mode {
                lower(h, tag, room_for(waiter.mode), Purpose::Waiters, out);
            } else if h.pending.is_none() {
                self.request(tag, waiter.mode, out);
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
        out: &mut Out<'_>,
    ) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        let Activity::Draining(_, purpose) = h.activity else { return };
        h.activity = Activity::Idle;
        (h.dirty, h.version) = (dirty, version);
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
            Purpose::WriteBack if h.dirty => write(h, tag, Purpose::WriteBack, out),
            Purpose::WriteBack => self.write_done(tag, version, true, out),
            // Somebody wants the page after all.
            Purpose::Eviction if !h.waiters.is_empty() => self.complete_waiters(tag, to, out),
            Purpose::Eviction if h.dirty => write(h, tag, Purpose::Eviction, out),
            Purpose::Eviction => release(h, tag, out),
        }
    }

    /// Pins are drained to `drained`: completes as many waiters as go together, in their order.
    fn complete_waiters(&mut self, tag: BufferTag, drained: Mode, out: &mut Out<'_>) {
        let h = self.holdings.entry(tag).or_insert_with(Holding::new);
        complete(h, &mut self.pool, tag, drained, out);
        // If the next waiter excludes those who were just completed, `step` waits for their pins.
        let next = self.pool.front(h.waiters);
        let more = h.revocation.is_some() || next.is_some_and(|w| w.mode <= h.mode);
        if !more && h.mode != Mode::N {
            out.effect(Effect::Open { tag, mode: h.mode });
        }
        self.step(tag, out);
    }

    // ---- requests ------------------------------------------------------------------------------

    fn request(&mut self, tag: BufferTag, want: Mode, out: &mut Out<'_>) {
        self.last_request.sequence += 1;
        let request = self.last_request;
        self.holding(tag).pending = Some(Pending {
            request,
            want,
            grant: None,
            acks_due: 0,
            acks: 0,
            page: false,
            held: false,
            dirty: false,
            version: Lsn::ZERO,
            path: GrantPath::Local,
        });
        let to = out.view.master(&tag);
        out.effect(Effect::Request { to, tag, message: Pcm::Acquire { request, want } });
    }

    pub(super) fn response(
        &mut self,
        from: InstanceId,
        tag: BufferTag,
        message: Pcm,
        out: &mut Out<'_>,
    ) {
        let Pcm::Response { request, verdict, mode, grant, version, acks, dirty } = message else {
            return;
        };
        let pending = self.holdings.get_mut(&tag).and_then(|h| h.pending.as_mut());
        let Some(p) = pending.filter(|p| p.request == request && p.grant.is_none()) else {
            out.anomalies.no_request += 1;
            if verdict == Verdict::Page {
                out.effect(Effect::Discard { tag });
            }
            return;
        };
        let master = out.view.master(&tag);
        if verdict.is_refusal() {
            self.refused(tag, &AcquireError::Refused { tag, verdict }, out);
            return;
        }
        if mode != p.want {
            self.wrong_mode(tag, message, out);
            return;
        }
        p.grant = Some(grant);
        p.acks_due = acks;
        p.dirty |= dirty;
        p.version = version;
        let hops = match verdict {
            Verdict::Storage => GrantPath::Storage,
            Verdict::Page if from == master || master == out.me => GrantPath::TwoWay,
            Verdict::Page => GrantPath::ThreeWay,
            _ if master == out.me => GrantPath::Local,
            _ => GrantPath::TwoWay,
        };
        p.path = p.path.max(hops);
        match verdict {
            Verdict::Storage => out.effect(Effect::Read { tag, at_least: version }),
            Verdict::Page => p.page = true,
            _ => (p.page, p.held) = (true, true),
        }
        self.finish_if_whole(tag, out);
    }

    /// A grant of another mode than was asked for is of no use: it is given back, so that the master
    /// can go on, and whoever waits for it is told.
    fn wrong_mode(&mut self, tag: BufferTag, message: Pcm, out: &mut Out<'_>) {
        let Pcm::Response { verdict, grant, version, .. } = message else { return };
        out.anomalies.wrong_mode += 1;
        let problem = "was granted in another mode than was asked for";
        out.effect(Effect::Broken { tag, problem });
        if verdict == Verdict::Page {
            out.effect(Effect::Discard { tag });
        }
        // What was held before stays held: only the new grant goes back.
        out.send_to_master(tag, Pcm::Release { grant, version });
        self.refused(tag, &AcquireError::Protocol { tag }, out);
    }

    pub(super) fn invalidated(
        &mut self,
        from: InstanceId,
        tag: BufferTag,
        request: RequestId,
        dirty: bool,
        out: &mut Out<'_>,
    ) {
        let master = out.view.master(&tag);
        let pending = self.holdings.get_mut(&tag).and_then(|h| h.pending.as_mut());
        let Some(p) = pending.filter(|p| p.request == request) else {
            out.anomalies.no_request += 1;
            return;
        };
        p.acks += 1;
        p.dirty |= dirty;
        let third = from != master && master != out.me;
        p.path = p.path.max(if third { GrantPath::ThreeWay } else { GrantPath::TwoWay });
        self.finish_if_whole(tag, out);
    }

    pub(super) fn read_done(
        &mut self,
        tag: BufferTag,
        result: Result<Lsn, String>,
        out: &mut Out<'_>,
    ) {
        let pending = self.holdings.get_mut(&tag).and_then(|h| h.pending.as_mut());
        let Some(p) = pending else { return };
        match result {
            Ok(version) => {
                (p.page, p.version) = (true, version);
                self.finish_if_whole(tag, out);
            }
            Err(reason) => {
                // The conversion has to end. A claim would make this instance a holder, and the
                // next in the master's queue would be sent here for a page that is not here.
                let version = p.version;
                if let Some(grant) = p.grant {
                    out.send_to_master(tag, Pcm::Release { grant, version });
                }
                self.refused(tag, &AcquireError::Storage { tag, reason }, out);
            }
        }
    }

    fn refused(&mut self, tag: BufferTag, error: &AcquireError, out: &mut Out<'_>) {
        let h = self.holding(tag);
        h.pending = None;
        let parked = h.parked.take();
        out.effect(Effect::RequestOver { tag });
        self.fail_waiters(tag, error, out);
        if let Some(parked) = parked {
            self.accept(tag, parked, out);
        }
        self.step(tag, out);
    }

    /// Takes the grant when the page and every acknowledgement are there.
    fn finish_if_whole(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let h = self.holdings.entry(tag).or_insert_with(Holding::new);
        let Some(p) = h.pending else { return };
        let Some(grant) = p.grant.filter(|_| p.page && p.acks == p.acks_due) else { return };
        h.pending = None;
        h.mode = p.want;
        h.grant = grant;
        let version = if p.held { h.version } else { p.version };
        h.version = version;
        let (request, mode) = (p.request, p.want);
        out.effect(Effect::RequestOver { tag });
        if p.held {
            if p.dirty {
                h.dirty = true;
                out.effect(Effect::MarkDirty { tag });
            }
        } else {
            h.dirty = p.dirty;
            out.effect(Effect::Install { tag, dirty: p.dirty });
        }
        out.send_to_master(tag, Pcm::Claim { request, mode, grant, version });
        if let Some(parked) = h.parked.take() {
            self.accept(tag, parked, out);
        }
        let h = self.holdings.entry(tag).or_insert_with(Holding::new);
        h.unused = Some(p.path);
        if !p.held {
            // Nobody can have pinned what was not there.
            self.complete_waiters(tag, Mode::N, out);
        } else if h.activity == Activity::Idle {
            if h.waiters.is_empty() {
                h.unused = None;
                out.effect(Effect::Open { tag, mode: h.mode });
            }
            self.step(tag, out);
        }
    }

    // ---- revocations ---------------------------------------------------------------------------

    pub(super) fn revoke(&mut self, tag: BufferTag, message: Pcm, out: &mut Out<'_>) {
        let revocation = match message {
            Pcm::Ship { request, want, grant, revokes, acks } => {
                Revocation { request, revokes, ship: Some(Ship { want, grant, acks }) }
            }
            Pcm::Invalidate { request, revokes } => Revocation { request, revokes, ship: None },
            _ => return,
        };
        let h = self.holding(tag);
        if h.mode == Mode::N && h.pending.is_some() {
            // The grant it names is still on its way.
            h.parked = Some(revocation);
            return;
        }
        self.accept(tag, revocation, out);
        self.step(tag, out);
    }

    /// Notes a revocation of what is held; answers one of what is held no longer.
    fn accept(&mut self, tag: BufferTag, revocation: Revocation, out: &mut Out<'_>) {
        let h = self.holdings.entry(tag).or_insert_with(Holding::new);
        if h.mode != Mode::N && h.grant <= revocation.revokes {
            h.revocation = Some(revocation);
            if h.activity == Activity::Releasing {
                self.serve(tag, out);
            }
            return;
        }
        out.anomalies.not_holder += 1;
        let request = revocation.request;
        match revocation.ship {
            None => {
                let gone = Pcm::Invalidated { request, dirty: false };
                out.send(request.instance, tag, gone);
            }
            Some(ship) => {
                out.refuse(request.instance, tag, request, ship.want, Verdict::NotHolder);
            }
        }
    }

    /// Does what a revocation asks; pins are drained as far as it needs.
    fn serve(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let h = self.holdings.entry(tag).or_insert_with(Holding::new);
        let Some(revocation) = h.revocation.take() else { return };
        h.unused = None;
        let request = revocation.request;
        let requester = request.instance;
        match revocation.ship {
            Some(Ship { want, grant, acks }) => {
                let keep = want == Mode::S;
                let response = Pcm::Response {
                    request,
                    verdict: Verdict::Page,
                    mode: want,
                    grant,
                    version: h.version,
                    acks,
                    dirty: h.dirty && !keep,
                };
                out.effect(Effect::Ship { to: requester, tag, message: response, keep });
                if keep {
                    h.mode = Mode::S;
                    if h.activity != Activity::Releasing {
                        out.effect(Effect::Open { tag, mode: Mode::S });
                    }
                } else {
                    h.transit = Some(grant);
                    give_up(h);
                }
            }
            None => {
                let gone = Pcm::Invalidated { request, dirty: h.dirty };
                out.send(requester, tag, gone);
                out.effect(Effect::Drop { tag });
                give_up(h);
            }
        }
        self.step(tag, out);
    }

    pub(super) fn claimed(
        &mut self,
        tag: BufferTag,
        request: RequestId,
        grant: GrantNumber,
        out: &mut Out<'_>,
    ) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if request.instance != out.me && h.transit == Some(grant) {
            h.transit = None;
            out.effect(Effect::Forget { tag, grant });
            self.step(tag, out);
        }
    }

    // ---- eviction and write-back ---------------------------------------------------------------

    pub(super) fn evict(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if h.mode == Mode::N || h.pending.is_some() || h.activity != Activity::Idle {
            return;
        }
        h.wants_eviction = true;
        self.step(tag, out);
    }

    pub(super) fn write_back(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if h.mode != Mode::N {
            h.wants_write = true;
            self.step(tag, out);
        }
    }

    pub(super) fn write_done(
        &mut self,
        tag: BufferTag,
        version: Lsn,
        written: bool,
        out: &mut Out<'_>,
    ) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        let evicting = h.activity == Activity::Writing(Purpose::Eviction);
        h.activity = Activity::Idle;
        h.wants_write = false;
        if written && h.dirty {
            h.dirty = false;
            out.send_to_master(tag, Pcm::Written { grant: h.grant, version });
        }
        if evicting && written && h.revocation.is_none() && h.waiters.is_empty() {
            release(h, tag, out);
        } else if h.revocation.is_some() {
            // Drained deep enough for what was written; `step` drains deeper where it must.
            self.step(tag, out);
        } else {
            out.effect(Effect::Open { tag, mode: h.mode });
            self.step(tag, out);
        }
    }

    pub(super) fn released(&mut self, tag: BufferTag, grant: GrantNumber, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if h.activity == Activity::Releasing && h.grant <= grant {
            out.effect(Effect::Drop { tag });
            give_up(h);
            self.step(tag, out);
        }
    }
}

/// Nothing of the page is held any more.
fn give_up(h: &mut Holding) {
    h.mode = Mode::N;
    h.dirty = false;
    h.wants_write = false;
    h.wants_eviction = false;
    h.activity = Activity::Idle;
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
