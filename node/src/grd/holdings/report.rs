//! Telling a master what this instance has of one page, when it asks.
//!
//! That is a cut, and so is a view that gives the page's partition another master, which is told of
//! the partition as a whole ([`telling`](super::telling)). From then on nothing of the page that was on
//! its way counts: revocations that were not served are forgotten (the master makes new ones), and so is
//! what is still to come for a request, which is sent again under the same id. A page that came and only waits for
//! acknowledgements is current, and nobody can have more of it: it is held S from now on. A copy in
//! transit stays one until the master says what it is.

use super::{
    Held, Holdings,
    state::{Activity, Holding, Pending, Purpose},
};
use crate::{
    grd::{
        event::{AcquireError, Effect},
        out::Out,
        store::Hashed,
    },
    planted,
    view::{Standing, View},
};
use pagewire_protocol::{
    BufferTag, GrantNumber, InstanceId, InstanceStat, Mode, Pcm, Report, Transit, guide::lower_half,
};

impl Held<'_, '_> {
    // ---- one page ------------------------------------------------------------------------------

    /// PCM_QUERY: the master wants to know.
    pub(in crate::grd) fn query(&mut self, from: InstanceId, fence: GrantNumber) {
        self.cut(fence);
        let report = report_of(self.h, self.out.view);
        self.send(from, Pcm::Report { fence, report });
        // The master keeps the request.
        self.after_cut(false);
    }

    /// Forgets what was on its way.
    pub(super) fn cut(&mut self, fence: GrantNumber) {
        let (h, tag) = (&mut *self.h, self.tag);
        (h.revocation, h.parked, h.fence) = (None, None, fence);
        if h.activity == Activity::Releasing && !planted::is("keep_what_is_released") {
            // The master may have given it on already, and its answer be lost. Storage has it.
            self.out.effect(Effect::Drop { tag });
            h.give_up();
        }
        let Some(p) = h.pending.filter(|p| !p.ended) else { return };
        h.pending = Some(Pending::new(p.request, p.want, p.recovery));
        if let (true, false, Some(grant)) = (p.page, p.held, p.grant) {
            (h.mode, h.grant, h.version) = (Mode::S, grant, p.version);
            h.reopen = true;
            self.take(&p);
        } else if p.dirty && h.mode != Mode::N {
            // Of an upgrade: acknowledgements brought the duty to write.
            self.take(&Pending { held: true, ..p });
        } else if p.taken {
            self.effect(Effect::Discard { tag });
        }
        self.h.stale_read = self.h.reading;
    }

    /// Lets local threads go on with what is held, and asks again where nobody has the request.
    pub(super) fn after_cut(&mut self, asks_again: bool) {
        if let Some(Pending { request, want, recovery, .. }) =
            self.h.pending.filter(|p| asks_again && !p.ended)
        {
            let (to, tag, epoch) = (self.master(), self.tag, self.epoch());
            let message = Pcm::Acquire { request, want, recovery };
            self.effect(Effect::RequestAgain { to, tag, epoch, message });
        }
        let reopens = std::mem::take(&mut self.h.reopen);
        match self.h.activity {
            // Pins are lowered, and what for is forgotten.
            Activity::Flushing(to, Purpose::Revocation) => {
                self.h.activity = Activity::Idle;
                self.complete_waiters(to);
            }
            Activity::Idle if reopens => self.complete_waiters(Mode::N),
            _ => self.step(),
        }
        self.cancel();
    }

    /// PCM_ASSIGN: what this instance has of the page from now on.
    pub(in crate::grd) fn assign(
        &mut self,
        from: InstanceId,
        mode: Mode,
        grant: GrantNumber,
        dirty: bool,
    ) {
        let (h, tag) = (&mut *self.h, self.tag);
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
                self.effect(Effect::Reinstate { tag, grant: transit.grant, dirty });
            }
            transit => {
                if let Some(transit) = transit {
                    self.arrived(&transit);
                }
                let h = &mut *self.h;
                // The duty is of the copy that is held, not of one that was in transit.
                if dirty && h.mode == Mode::S && !h.dirty {
                    (h.dirty, h.unsaved) = (true, false);
                    self.effect(Effect::MarkDirty { tag });
                }
            }
        }
        self.send(from, Pcm::Assigned { grant });
        if comes_back || released {
            self.complete_waiters(Mode::N);
        } else {
            self.step();
        }
    }
}

impl Holdings {
    // ---- the whole instance --------------------------------------------------------------------

    /// The lease is lost: nobody gets anything any more.
    pub(in crate::grd) fn fail_all(&mut self, out: &mut Out<'_>) {
        let waited = |(tag, h): (&BufferTag, &Holding)| (!h.waiters.is_empty()).then_some(*tag);
        let tags: Vec<_> = self.holdings.iter().filter_map(waited).collect();
        for tag in tags {
            let error = AcquireError::LeaseExpired { tag };
            self.of(&Hashed::of(tag), out, |page| page.fail_waiters(&error));
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
