//! A request for a page: what is asked of the master, and what comes for it.

use super::{
    Holdings,
    state::{Activity, Holding, Pending},
};
use crate::grd::{
    event::{AcquireError, Effect, GrantPath},
    out::Out,
};
use pagewire_protocol::{BufferTag, InstanceId, Lsn, Mode, Pcm, RequestId, pcm::Verdict};

/// The set of one instance.
fn mask(id: InstanceId) -> u64 {
    1 << (id.0 % 64)
}

impl Holdings {
    pub(super) fn request(&mut self, tag: BufferTag, want: Mode, out: &mut Out<'_>) {
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
        out.effect(Effect::Request {
            to,
            tag,
            epoch: out.view.epoch_of(&tag),
            message: Pcm::Acquire { request, want, recovery: false },
        });
    }

    pub(in crate::grd) fn response(
        &mut self,
        from: InstanceId,
        tag: BufferTag,
        message: Pcm,
        out: &mut Out<'_>,
    ) {
        let Pcm::Response { request, verdict, mode, grant, version, acks, dirty, .. } = message
        else {
            return;
        };
        let pending = self.holdings.get_mut(&tag).and_then(|h| h.pending.as_mut());
        let Some(p) = pending.filter(|p| p.request == request && p.grant.is_none()) else {
            out.anomalies.no_request += 1;
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
            Verdict::Page => {
                p.page = true;
                out.effect(Effect::Take { tag });
            }
            _ => (p.page, p.held) = (true, true),
        }
        self.finish_if_whole(tag, out);
    }

    /// A grant of another mode than was asked for is of no use: it is given back, so that the master
    /// can go on, and whoever waits for it is told.
    fn wrong_mode(&mut self, tag: BufferTag, message: Pcm, out: &mut Out<'_>) {
        let Pcm::Response { grant, version, .. } = message else { return };
        out.anomalies.wrong_mode += 1;
        let problem = "was granted in another mode than was asked for";
        out.effect(Effect::Broken { tag, problem });
        // What was held before stays held: only the new grant goes back.
        out.send_to_master(tag, Pcm::Release { grant, version });
        self.refused(tag, &AcquireError::Protocol { tag }, out);
    }

    pub(in crate::grd) fn invalidated(
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
        p.acks |= mask(from);
        p.dirty |= dirty;
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
        let pending = self.holdings.get_mut(&tag).and_then(|h| h.pending.as_mut());
        let Some(p) = pending else { return };
        match result {
            Ok(version) => {
                (p.page, p.version) = (true, version);
                out.effect(Effect::Take { tag });
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
        out.send_to_master(tag, Pcm::Claim { request, mode, grant, version, past: 0 });
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
}
