//! Telling a master what this instance has of one page, when it asks.
//!
//! That is a cut, and so is a view that gives the page's partition another master, which is told of the
//! partition as a whole ([`telling`](super::telling)). From then on nothing of the page that was on its way counts: revocations that were
//! not served are forgotten (the master makes new ones), and so is what is still to come for a
//! request, which is sent again under the same id. A page that came and only waits for
//! acknowledgements is current, and nobody can have more of it: it is held S from now on. A copy in
//! transit stays one until the master says what it is.

use super::{
    Holdings,
    requests::take,
    revocations::arrived,
    state::{Activity, Holding, Pending, Purpose},
};
use crate::{
    grd::{
        event::{AcquireError, Effect},
        out::Out,
    },
    planted,
    view::{Standing, View},
};
use pagewire_protocol::{
    BufferTag, GrantNumber, InstanceId, InstanceStat, Mode, Pcm, Report, Transit, guide::lower_half,
};

impl Holdings {
    // ---- one page ------------------------------------------------------------------------------

    /// PCM_QUERY: the master wants to know.
    pub(in crate::grd) fn query(
        &mut self,
        from: InstanceId,
        tag: BufferTag,
        fence: GrantNumber,
        out: &mut Out<'_>,
    ) {
        let report = if self.holdings.get(&tag).is_some() {
            self.cut(tag, fence, out);
            self.holdings.get(&tag).map(|h| report_of(h, out.view)).unwrap_or_default()
        } else {
            Report::default()
        };
        out.send(from, tag, Pcm::Report { fence, report });
        // The master keeps the request.
        self.after_cut(tag, false, out);
    }

    /// Forgets what was on its way.
    pub(super) fn cut(&mut self, tag: BufferTag, fence: GrantNumber, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        (h.revocation, h.parked, h.fence) = (None, None, fence);
        if h.activity == Activity::Releasing && !planted::is("keep_what_is_released") {
            // The master may have given it on already, and its answer be lost. Storage has it.
            out.effect(Effect::Drop { tag });
            h.give_up();
        }
        let Some(p) = h.pending.filter(|p| !p.ended) else { return };
        h.pending = Some(Pending::new(p.request, p.want, p.recovery));
        if let (true, false, Some(grant)) = (p.page, p.held, p.grant) {
            (h.mode, h.grant, h.version) = (Mode::S, grant, p.version);
            take(h, tag, &p, out);
            h.reopen = true;
        } else if p.dirty && h.mode != Mode::N {
            // Of an upgrade: acknowledgements brought the duty to write.
            take(h, tag, &Pending { held: true, ..p }, out);
        } else if p.taken {
            out.effect(Effect::Discard { tag });
        }
        h.stale_read = h.reading;
    }

    /// Lets local threads go on with what is held, and asks again where nobody has the request.
    pub(super) fn after_cut(&mut self, tag: BufferTag, asks_again: bool, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if let Some(Pending { request, want, recovery, .. }) =
            h.pending.filter(|p| asks_again && !p.ended)
        {
            let (to, epoch) = (out.view.master(&tag), out.view.epoch_of(&tag));
            let message = Pcm::Acquire { request, want, recovery };
            out.effect(Effect::RequestAgain { to, tag, epoch, message });
        }
        let reopens = std::mem::take(&mut h.reopen);
        match h.activity {
            // Pins are lowered, and what for is forgotten.
            Activity::Flushing(to, Purpose::Revocation) => {
                h.activity = Activity::Idle;
                self.complete_waiters(tag, to, out);
            }
            Activity::Idle if reopens => self.complete_waiters(tag, Mode::N, out),
            _ => self.step(tag, out),
        }
        self.cancel(tag, out);
    }

    /// PCM_ASSIGN: what this instance has of the page from now on.
    pub(in crate::grd) fn assign(
        &mut self,
        from: InstanceId,
        tag: BufferTag,
        mode: Mode,
        grant: GrantNumber,
        dirty: bool,
        out: &mut Out<'_>,
    ) {
        let h = self.holding(tag);
        let comes_back = mode == Mode::S && h.mode == Mode::N && h.transit.is_some();
        let released = h.activity == Activity::Releasing;
        if released {
            h.activity = Activity::Idle;
            h.wants_eviction = true;
        }
        match h.transit {
            Some(transit) if comes_back => {
                h.transit = None;
                (h.mode, h.grant, h.version) = (Mode::S, grant, transit.version);
                (h.dirty, h.unsaved) = (dirty, false);
                // It was durable before it was shipped.
                h.flush = pagewire_protocol::Lsn::ZERO;
                out.effect(Effect::Reinstate { tag, grant: transit.grant, dirty });
            }
            transit => {
                if let Some(transit) = transit {
                    arrived(h, tag, &transit, out);
                }
                // The duty is of the copy that is held, not of one that was in transit.
                if dirty && h.mode == Mode::S && !h.dirty {
                    (h.dirty, h.unsaved) = (true, false);
                    out.effect(Effect::MarkDirty { tag });
                }
            }
        }
        out.send(from, tag, Pcm::Assigned { grant });
        if comes_back || released {
            self.complete_waiters(tag, Mode::N, out);
        } else {
            self.step(tag, out);
        }
    }

    // ---- the whole instance --------------------------------------------------------------------

    /// The lease is lost: nobody gets anything any more.
    pub(in crate::grd) fn fail_all(&mut self, out: &mut Out<'_>) {
        let waited = |(tag, h): (&BufferTag, &Holding)| (!h.waiters.is_empty()).then_some(*tag);
        let tags: Vec<_> = self.holdings.iter().filter_map(waited).collect();
        for tag in tags {
            self.fail_waiters(tag, &AcquireError::LeaseExpired { tag }, out);
        }
    }

    /// Counts of what is held.
    pub(in crate::grd) fn stat(&self) -> InstanceStat {
        let [held_shared, held_exclusive, dirty, past_images, requests, ..] =
            self.holdings.counts();
        let of_holder =
            InstanceStat { held_shared, held_exclusive, dirty, ..InstanceStat::default() };
        InstanceStat { past_images, requests, ..of_holder }
    }
}

pub(super) fn is_worth_telling(report: &Report) -> bool {
    !report.is_nothing() || report.pending.is_some()
}

pub(super) fn report_of(h: &Holding, view: &View) -> Report {
    Report {
        mode: h.mode,
        grant: h.grant,
        version: h.version,
        dirty: h.dirty && h.mode != Mode::N,
        unsaved: h.unsaved && h.mode != Mode::N,
        writer: h.writer,
        transit: h.transit.map(|transit| {
            let to = transit.request.instance;
            let standing = view.standing(to, transit.request.incarnation);
            Transit {
                to,
                to_dead: standing != Standing::Member,
                request: lower_half(transit.request.sequence),
                grant: transit.grant,
                version: transit.version,
                dirty: transit.dirty,
            }
        }),
        past: h.past,
        pending: h.pending.filter(|p| !p.ended).map(|p| lower_half(p.request.sequence)),
    }
}
