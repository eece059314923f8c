//! A request for a page: what is asked of the master, and what comes for it.

use super::{
    Held, Holdings,
    state::{Activity, Pending, Reads},
};
use crate::{
    grd::{
        event::{AcquireError, Effect, GrantPath},
        store::InstanceSet,
    },
    planted,
};
use pagewire_protocol::{
    BufferTag, GrantNumber, InstanceId, Lsn, Mode, Pcm, RequestId, pcm::Verdict,
};

impl Holdings {
    /// Whether this request is under way and PCM_CANCEL_BUSY_REQUEST has been sent after it.
    pub(in crate::grd) fn has_cancelled(&self, tag: &BufferTag, request: RequestId) -> bool {
        let pending = self.holdings.get(tag).and_then(|h| h.pending);
        pending.is_some_and(|p| p.request == request && p.cancels > 0 && p.grant.is_none())
    }
}

impl Held<'_, '_> {
    pub(super) fn request(&mut self, want: Mode, recovery: bool) {
        let last = &mut self.desk.last_request;
        let reuse = planted::is("reuse_a_request_id") && last.sequence % 4 == 3;
        last.sequence += u64::from(!reuse);
        let request = *last;
        self.h.pending = Some(Pending::new(request, want, recovery));
        let (to, tag, epoch) = (self.master(), self.tag, self.epoch());
        let message = Pcm::Acquire { request, want, recovery };
        self.effect(Effect::Request { to, tag, epoch, message });
    }

    /// Nobody waits for it any more, or somebody needs more than it asks for: it ends without a grant
    /// if it can.
    pub(super) fn cancel(&mut self) {
        let open = |p: &&Pending| p.grant.is_none() && p.cancels == 0;
        let Some(p) = self.h.pending.as_ref().filter(open) else { return };
        let front = self.desk.pool.front(self.h.waiters);
        let wanted = front.map_or(self.h.asked, |first| p.recovery || !first.recovery);
        if !wanted {
            self.send_cancel();
        }
    }

    /// Each is answered, in their order: the request is over, or the page is not lost, or the grant
    /// comes. For redo only the answer to the last one counts: an earlier question was asked before
    /// whoever wants to know had heard of a death.
    pub(super) fn send_cancel(&mut self) {
        if let Some(p) = self.h.pending.as_mut().filter(|p| !p.ended) {
            p.cancels += 1;
            let message = Pcm::Cancel { request: p.request };
            let (to, tag, epoch) = (self.master(), self.tag, self.epoch());
            // Not by the loop within the core, where this instance is the master: the request may still wait
            // for its frame, and only the runtime knows. It then answers for the master.
            self.effect(Effect::Send { to, tag, epoch, message });
        }
    }

    pub(in crate::grd) fn response(&mut self, from: InstanceId, message: &Pcm) {
        let Pcm::Response { request, verdict, mode, grant, .. } = *message else { return };
        let (tag, fence) = (self.tag, self.h.fence);
        let is_answer = |p: &&mut Pending| {
            let open = p.grant.is_none() || verdict == Verdict::NotLost;
            p.request == request && open && !p.ended
        };
        let Some(p) = self.h.pending.as_mut().filter(is_answer) else {
            return self.no_request(message);
        };
        match verdict {
            Verdict::Cancelled => return self.over(),
            Verdict::NotLost => {
                let ends = p.recovery;
                p.cancels = p.cancels.saturating_sub(1);
                if ends || p.cancels == 0 {
                    self.not_lost();
                }
                if ends {
                    self.over();
                }
                return;
            }
            _ if verdict.is_refusal() => {
                self.send_to_master(Pcm::Refuse { request, grant });
                return self.refused(&AcquireError::Refused { tag, verdict });
            }
            _ if grant < fence && !planted::is("ignore_the_fence") => {
                self.out.fenced.late += 1;
                return;
            }
            _ if mode != p.want => return self.wrong_mode(request, grant),
            _ => {}
        }
        self.granted(from, message);
        let Some(p) = &mut self.h.pending else { return };
        match verdict {
            Verdict::Page => {
                p.taken = true;
                self.out.effect(Effect::Take { tag });
            }
            Verdict::OwnPastImage => p.reads = Reads::Newest(self.h.past.unwrap_or_default()),
            _ => {}
        }
        match p.reads {
            Reads::Nothing => {
                p.page = true;
                p.held = verdict == Verdict::Held;
            }
            // The one that is under way was for an earlier grant.
            _ if self.h.reading => self.h.stale_read = true,
            _ => self.start_read(),
        }
        self.finish_if_whole();
    }

    /// Notes what a response grants.
    fn granted(&mut self, from: InstanceId, message: &Pcm) {
        let Pcm::Response { verdict, grant, version, acks, dirty, unsaved, past, writer, .. } =
            *message
        else {
            return;
        };
        let (master, me) = (self.master(), self.out.me);
        let Some(p) = &mut self.h.pending else { return };
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
            Verdict::Page if from == master || master == me => GrantPath::TwoWay,
            Verdict::Page => GrantPath::ThreeWay,
            _ if master == me => GrantPath::Local,
            _ => GrantPath::TwoWay,
        };
        p.path = p.path.max(hops);
    }

    /// A grant for no request that is under way: the master finds out who has the page.
    #[cold]
    fn no_request(&mut self, message: &Pcm) {
        let Pcm::Response { request, verdict, grant, .. } = *message else { return };
        if grant < self.h.grant || verdict.is_refusal() {
            self.out.fenced.late += 1;
            return;
        }
        self.out.anomalies.no_request += 1;
        self.send_to_master(Pcm::Refuse { request, grant });
    }

    /// A grant of another mode than was asked for is of no use: it is given back, so that the master
    /// can go on, and whoever waits for it is told.
    #[cold]
    fn wrong_mode(&mut self, request: RequestId, grant: GrantNumber) {
        let tag = self.tag;
        self.out.anomalies.wrong_mode += 1;
        let problem = "was granted in another mode than was asked for";
        self.effect(Effect::Broken { tag, problem });
        // What was held before stays held: only the new grant goes back.
        self.send_to_master(Pcm::Refuse { request, grant });
        self.refused(&AcquireError::Protocol { tag });
    }

    pub(in crate::grd) fn invalidated(
        &mut self,
        from: InstanceId,
        request: RequestId,
        grant: GrantNumber,
        dirty: bool,
    ) {
        let (master, fence) = (self.master(), self.h.fence);
        let wanted = |p: &&mut Pending| p.request == request && grant >= fence;
        let Some(p) = self.h.pending.as_mut().filter(wanted) else {
            // The duty to write that it may carry is not lost: its sender keeps a past image.
            self.out.fenced.late += 1;
            return;
        };
        p.acks = p.acks.with(from);
        p.dirty |= dirty && !planted::is("drop_the_duty_of_an_acknowledgement");
        if dirty {
            p.handed = p.handed.with(from);
        }
        let third = from != master && master != self.out.me;
        p.path = p.path.max(if third { GrantPath::ThreeWay } else { GrantPath::TwoWay });
        self.finish_if_whole();
    }

    pub(in crate::grd) fn read_done(&mut self, result: Result<Lsn, String>) {
        let (h, tag) = (&mut *self.h, self.tag);
        let stale = std::mem::take(&mut h.stale_read) || !h.reading;
        h.reading = false;
        let Some(p) = h.pending.as_mut().filter(|p| p.reads != Reads::Nothing) else {
            // It came too late for what it was to be used for, and others waited for its end.
            if h.pending.is_some_and(|p| p.ended) {
                self.over();
            } else {
                self.finish_if_whole();
                self.step();
            }
            return;
        };
        if stale {
            self.start_read();
            return;
        }
        match result {
            Ok(version) => {
                if let Reads::Newest(past) = p.reads {
                    // What is newer than storage has to be written.
                    p.dirty = version <= past && !planted::is("a_recovered_page_is_clean");
                }
                (p.page, p.version, p.reads) = (true, version, Reads::Nothing);
                self.effect(Effect::Take { tag });
                self.finish_if_whole();
            }
            Err(reason) => {
                // The conversion has to end. A claim would make this instance a holder, and the
                // next in the master's queue would be sent here for a page that is not here.
                let version = Lsn::ZERO;
                if let Some(grant) = p.grant {
                    self.send_to_master(Pcm::Release { grant, version });
                }
                self.refused(&AcquireError::Storage { tag, reason });
            }
        }
    }

    fn refused(&mut self, error: &AcquireError) {
        self.fail_waiters(error);
        self.over();
    }

    /// Nothing of the page is missing: whoever came for redo goes.
    fn not_lost(&mut self) {
        let (h, tag) = (&mut *self.h, self.tag);
        while let Some(waiter) = self.desk.pool.pop_first(&mut h.waiters, |w| w.recovery) {
            let error = Some(AcquireError::NotLost { tag });
            self.out.effect(Effect::Fail { waiter: waiter.id, tag, error });
        }
    }

    /// The request has ended without a grant. Whoever still waits asks anew.
    fn over(&mut self) {
        let (h, tag) = (&mut *self.h, self.tag);
        if let Some(p) = h.pending.as_mut().filter(|_| h.reading) {
            (p.ended, p.reads) = (true, Reads::Nothing);
            return;
        }
        h.pending = None;
        let parked = h.parked.take();
        self.effect(Effect::RequestOver { tag });
        if let Some(parked) = parked {
            self.accept(&parked);
        }
        self.step();
    }

    /// Takes the grant when the page and every acknowledgement are there.
    fn finish_if_whole(&mut self) {
        let (h, tag) = (&mut *self.h, self.tag);
        // A read for an earlier grant uses the request's frame.
        let Some(p) = h.pending.as_ref().filter(|_| !h.reading) else { return };
        let all_in = p.acks == p.acks_due || planted::is("do_not_wait_for_acknowledgements");
        let Some(grant) = p.grant.filter(|_| p.page && all_in) else { return };
        let Some(p) = h.pending.take() else { return };
        h.mode = p.want;
        h.grant = grant;
        let version = if p.held { h.version } else { p.version };
        h.version = version;
        let (request, mode, past) = (p.request, p.want, p.handed.0);
        self.effect(Effect::RequestOver { tag });
        self.take(&p);
        if !(planted::is("lose_a_claim") && request.sequence % 8 == 7) {
            self.send_to_master(Pcm::Claim { request, mode, grant, version, past });
        }
        if let Some(parked) = self.h.parked.take() {
            self.accept(&parked);
        }
        let h = &mut *self.h;
        h.unused = Some(p.path);
        if !p.held {
            // Nobody can have pinned what was not there.
            self.complete_waiters(Mode::N);
        } else if h.activity == Activity::Idle {
            if h.waiters.is_empty() {
                h.unused = None;
                let mode = h.mode;
                self.effect(Effect::Open { tag, mode });
            }
            self.step();
        }
    }

    /// The page that is there is held from now on, with the duty to write it if that came.
    pub(super) fn take(&mut self, p: &Pending) {
        let (h, tag) = (&mut *self.h, self.tag);
        if p.held {
            h.unsaved &= h.mode != Mode::X && !p.dirty;
            if p.dirty {
                h.dirty = true;
                self.effect(Effect::MarkDirty { tag });
            }
        } else {
            (h.dirty, h.unsaved) = (p.dirty, p.unsaved && !p.dirty);
            (h.flush, h.writer) = (Lsn::ZERO, p.writer);
            self.effect(Effect::Install { tag, dirty: p.dirty });
        }
    }

    /// Reads what the request wants from storage; the page that was taken goes into the comparison.
    fn start_read(&mut self) {
        let (h, tag) = (&mut *self.h, self.tag);
        let Some(p) = &mut h.pending else { return };
        h.reading = true;
        match p.reads {
            Reads::Nothing => h.reading = false,
            Reads::Page(at_least) => self.effect(Effect::Read { tag, at_least }),
            Reads::Newest(_) => {
                p.taken = false;
                self.effect(Effect::ReadNewer { tag, at_least: Lsn::ZERO });
            }
        }
    }
}
