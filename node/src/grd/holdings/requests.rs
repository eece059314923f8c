//! A request for a page: what is asked of the master, and what comes for it.

use super::{
    Holdings,
    state::{Activity, Holding, Pending, Reads},
};
use crate::{
    grd::{
        event::{AcquireError, Effect, GrantPath},
        out::Out,
        store::InstanceSet,
    },
    planted,
};
use pagewire_protocol::{
    BufferTag, GrantNumber, InstanceId, Lsn, Mode, Pcm, RequestId, pcm::Verdict,
};

impl Holdings {
    pub(super) fn request(
        &mut self,
        tag: BufferTag,
        want: Mode,
        recovery: bool,
        out: &mut Out<'_>,
    ) {
        let reuse = planted::is("reuse_a_request_id") && self.last_request.sequence % 4 == 3;
        self.last_request.sequence += u64::from(!reuse);
        let request = self.last_request;
        self.holding(tag).pending = Some(Pending::new(request, want, recovery));
        let (to, epoch) = (out.view.master(&tag), out.view.epoch_of(&tag));
        let message = Pcm::Acquire { request, want, recovery };
        out.effect(Effect::Request { to, tag, epoch, message });
    }

    /// Nobody waits for it any more, or somebody needs more than it asks for: it ends without a grant
    /// if it can.
    pub(super) fn cancel(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        let open = |p: &Pending| p.grant.is_none() && p.cancels == 0;
        let Some(p) = h.pending.filter(open) else { return };
        let front = self.pool.front(h.waiters);
        let wanted = front.map_or(h.asked, |first| p.recovery || !first.recovery);
        if !wanted {
            self.send_cancel(tag, out);
        }
    }

    /// Each is answered, in their order: the request is over, or the page is not lost, or the grant
    /// comes. For redo only the answer to the last one counts: an earlier question was asked before
    /// whoever wants to know had heard of a death.
    pub(super) fn send_cancel(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let pending = self.holdings.get_mut(&tag).and_then(|h| h.pending.as_mut());
        if let Some(p) = pending.filter(|p| !p.ended) {
            p.cancels += 1;
            out.send_to_master(tag, Pcm::Cancel { request: p.request });
        }
    }

    /// Whether this request is under way and PCM_CANCEL_BUSY_REQUEST has been sent after it.
    pub(in crate::grd) fn has_cancelled(&self, tag: &BufferTag, request: RequestId) -> bool {
        let pending = self.holdings.get(tag).and_then(|h| h.pending);
        pending.is_some_and(|p| p.request == request && p.cancels > 0 && p.grant.is_none())
    }

    pub(in crate::grd) fn response(
        &mut self,
        from: InstanceId,
        tag: BufferTag,
        message: Pcm,
        out: &mut Out<'_>,
    ) {
        let Pcm::Response { request, verdict, mode, grant, .. } = message else { return };
        let fence = self.holdings.get(&tag).map_or(GrantNumber(0), |h| h.fence);
        let pending = self.holdings.get_mut(&tag).and_then(|h| h.pending.as_mut());
        let is_answer = |p: &&mut Pending| {
            let open = p.grant.is_none() || verdict == Verdict::NotLost;
            p.request == request && open && !p.ended
        };
        let Some(p) = pending.filter(is_answer) else {
            self.no_request(tag, message, out);
            return;
        };
        match verdict {
            Verdict::Cancelled => {
                self.over(tag, out);
                return;
            }
            Verdict::NotLost => {
                let ends = p.recovery;
                p.cancels = p.cancels.saturating_sub(1);
                if ends || p.cancels == 0 {
                    self.not_lost(tag, out);
                }
                if ends {
                    self.over(tag, out);
                }
                return;
            }
            _ if verdict.is_refusal() => {
                out.send_to_master(tag, Pcm::Refuse { request, grant });
                self.refused(tag, &AcquireError::Refused { tag, verdict }, out);
                return;
            }
            _ if grant < fence && !planted::is("ignore_the_fence") => {
                out.fenced.late += 1;
                return;
            }
            _ if mode != p.want => {
                self.wrong_mode(tag, message, out);
                return;
            }
            _ => {}
        }
        self.granted(from, tag, message, out);
        let h = self.holding(tag);
        let Some(p) = &mut h.pending else { return };
        match verdict {
            Verdict::Page => {
                p.taken = true;
                out.effect(Effect::Take { tag });
            }
            Verdict::OwnPastImage => p.reads = Reads::Newest(h.past.unwrap_or_default()),
            _ => {}
        }
        match p.reads {
            Reads::Nothing => {
                p.page = true;
                p.held = verdict == Verdict::Held;
            }
            // The one that is under way was for an earlier grant.
            _ if h.reading => h.stale_read = true,
            _ => start_read(h, tag, out),
        }
        self.finish_if_whole(tag, out);
    }

    /// Notes what a response grants.
    fn granted(&mut self, from: InstanceId, tag: BufferTag, message: Pcm, out: &mut Out<'_>) {
        let Pcm::Response { verdict, grant, version, acks, dirty, unsaved, past, writer, .. } =
            message
        else {
            return;
        };
        let master = out.view.master(&tag);
        let Some(p) = &mut self.holding(tag).pending else { return };
        p.grant = Some(grant);
        p.acks_due = InstanceSet(acks);
        p.dirty |= dirty;
        p.unsaved = unsaved;
        p.version = version;
        p.writer = writer;
        if dirty {
            p.handed = p.handed.with(from);
        }
        p.reads = match verdict {
            Verdict::Storage => Reads::Page(version),
            Verdict::Page if past => Reads::Newest(version),
            _ => Reads::Nothing,
        };
        let hops = match verdict {
            Verdict::Storage | Verdict::OwnPastImage => GrantPath::Storage,
            Verdict::Page if past => GrantPath::Storage,
            Verdict::Page if from == master || master == out.me => GrantPath::TwoWay,
            Verdict::Page => GrantPath::ThreeWay,
            _ if master == out.me => GrantPath::Local,
            _ => GrantPath::TwoWay,
        };
        p.path = p.path.max(hops);
    }

    /// A grant for no request that is under way: the master finds out who has the page.
    fn no_request(&mut self, tag: BufferTag, message: Pcm, out: &mut Out<'_>) {
        let Pcm::Response { request, verdict, grant, .. } = message else { return };
        let newer = self.holdings.get(&tag).is_some_and(|h| grant < h.grant);
        if newer || verdict.is_refusal() {
            out.fenced.late += 1;
            return;
        }
        out.anomalies.no_request += 1;
        out.send_to_master(tag, Pcm::Refuse { request, grant });
    }

    /// A grant of another mode than was asked for is of no use: it is given back, so that the master
    /// can go on, and whoever waits for it is told.
    fn wrong_mode(&mut self, tag: BufferTag, message: Pcm, out: &mut Out<'_>) {
        let Pcm::Response { request, grant, .. } = message else { return };
        out.anomalies.wrong_mode += 1;
        let problem = "was granted in another mode than was asked for";
        out.effect(Effect::Broken { tag, problem });
        // What was held before stays held: only the new grant goes back.
        out.send_to_master(tag, Pcm::Refuse { request, grant });
        self.refused(tag, &AcquireError::Protocol { tag }, out);
    }

    pub(in crate::grd) fn invalidated(
        &mut self,
        from: InstanceId,
        tag: BufferTag,
        request: RequestId,
        grant: GrantNumber,
        dirty: bool,
        out: &mut Out<'_>,
    ) {
        let master = out.view.master(&tag);
        let fence = self.holdings.get(&tag).map_or(GrantNumber(0), |h| h.fence);
        let pending = self.holdings.get_mut(&tag).and_then(|h| h.pending.as_mut());
        let wanted = |p: &&mut Pending| p.request == request && grant >= fence;
        let Some(p) = pending.filter(wanted) else {
            // The duty to write that it may carry is not lost: its sender keeps a past image.
            out.fenced.late += 1;
            return;
        };
        p.acks = p.acks.with(from);
        p.dirty |= dirty && !planted::is("drop_the_duty_of_an_acknowledgement");
        if dirty {
            p.handed = p.handed.with(from);
        }
        let third = from != master && master != out.me;
        p.path = p.path.max(if third { GrantPath::ThreeWay } else { GrantPath::TwoWay });
        self.finish_if_whole(tag, out);
    }

    pub(in crate::grd) fn read_done(
        &mut self,
        tag: BufferTag,
        result: Result<Lsn, String>,
        out: &mut Out<'_>,
    ) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        let stale = std::mem::take(&mut h.stale_read) || !h.reading;
        h.reading = false;
        let Some(p) = h.pending.as_mut().filter(|p| p.reads != Reads::Nothing) else {
            // It came too late for what it was to be used for, and others waited for its end.
            if h.pending.is_some_and(|p| p.ended) {
                self.over(tag, out);
            } else {
                self.finish_if_whole(tag, out);
                self.step(tag, out);
            }
            return;
        };
        if stale {
            start_read(h, tag, out);
            return;
        }
        match result {
            Ok(version) => {
                if let Reads::Newest(past) = p.reads {
                    // What is newer than storage has to be written.
                    p.dirty = version <= past && !planted::is("a_recovered_page_is_clean");
                }
                (p.page, p.version, p.reads) = (true, version, Reads::Nothing);
                out.effect(Effect::Take { tag });
                self.finish_if_whole(tag, out);
            }
            Err(reason) => {
                // The conversion has to end. A claim would make this instance a holder, and the
                // next in the master's queue would be sent here for a page that is not here.
                let version = Lsn::ZERO;
                if let Some(grant) = p.grant {
                    out.send_to_master(tag, Pcm::Release { grant, version });
                }
                self.refused(tag, &AcquireError::Storage { tag, reason }, out);
            }
        }
    }

    fn refused(&mut self, tag: BufferTag, error: &AcquireError, out: &mut Out<'_>) {
        self.fail_waiters(tag, error, out);
        self.over(tag, out);
    }

    /// Nothing of the page is missing: whoever came for redo goes.
    fn not_lost(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let h = self.holdings.get_or_insert_with(tag, Holding::new);
        while let Some(waiter) = self.pool.pop_first(&mut h.waiters, |waiter| waiter.recovery) {
            let error = Some(AcquireError::NotLost { tag });
            out.effect(Effect::Fail { waiter: waiter.id, tag, error });
        }
    }

    /// The request has ended without a grant. Whoever still waits asks anew.
    fn over(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let h = self.holding(tag);
        if let Some(p) = h.pending.as_mut().filter(|_| h.reading) {
            (p.ended, p.reads) = (true, Reads::Nothing);
            return;
        }
        h.pending = None;
        let parked = h.parked.take();
        out.effect(Effect::RequestOver { tag });
        if let Some(parked) = parked {
            self.accept(tag, parked, out);
        }
        self.step(tag, out);
    }

    /// Takes the grant when the page and every acknowledgement are there.
    fn finish_if_whole(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let h = self.holding(tag);
        // A read for an earlier grant uses the request's frame.
        let Some(p) = h.pending.filter(|_| !h.reading) else { return };
        let all_in = p.acks == p.acks_due || planted::is("do_not_wait_for_acknowledgements");
        let Some(grant) = p.grant.filter(|_| p.page && all_in) else { return };
        h.pending = None;
        h.mode = p.want;
        h.grant = grant;
        let version = if p.held { h.version } else { p.version };
        h.version = version;
        let (request, mode, past) = (p.request, p.want, p.handed.0);
        out.effect(Effect::RequestOver { tag });
        take(h, tag, &p, out);
        if !(planted::is("lose_a_claim") && request.sequence % 8 == 7) {
            out.send_to_master(tag, Pcm::Claim { request, mode, grant, version, past });
        }
        if let Some(parked) = h.parked.take() {
            self.accept(tag, parked, out);
        }
        let h = self.holding(tag);
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
}

/// The page that is there is held from now on, with the duty to write it if that came.
pub(super) fn take(h: &mut Holding, tag: BufferTag, p: &Pending, out: &mut Out<'_>) {
    if p.held {
        if p.dirty {
            (h.dirty, h.flush) = (true, h.flush);
            out.effect(Effect::MarkDirty { tag });
        }
        h.unsaved &= h.mode != Mode::X && !p.dirty;
    } else {
        (h.dirty, h.unsaved) = (p.dirty, p.unsaved && !p.dirty);
        (h.flush, h.writer) = (Lsn::ZERO, p.writer);
        out.effect(Effect::Install { tag, dirty: p.dirty });
    }
}

/// Reads what the request wants from storage; the page that was taken goes into the comparison.
fn start_read(h: &mut Holding, tag: BufferTag, out: &mut Out<'_>) {
    let Some(p) = &mut h.pending else { return };
    h.reading = true;
    match p.reads {
        Reads::Nothing => h.reading = false,
        Reads::Page(at_least) => out.effect(Effect::Read { tag, at_least }),
        Reads::Newest(_) => {
            p.taken = false;
            out.effect(Effect::ReadNewer { tag, at_least: Lsn::ZERO });
        }
    }
}
