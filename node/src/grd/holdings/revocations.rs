//! Giving up what others want: PCM_SHIP and PCM_INVALIDATE.

use super::{
    Held,
    state::{Activity, InTransit, Purpose, Revocation, Ship},
};
use crate::{
    grd::{event::Effect, out::Out},
    planted,
    view::Standing,
};
use pagewire_protocol::{GrantNumber, Mode, Pcm, RequestId, pcm::Verdict};

impl Held<'_, '_> {
    pub(in crate::grd) fn revoke(&mut self, message: &Pcm) {
        let revocation = match *message {
            Pcm::Ship { request, want, grant, revokes, acks, past } => {
                Revocation { request, grant, revokes, ship: Some(Ship { want, grant, acks, past }) }
            }
            Pcm::Invalidate { request, grant, revokes } => {
                Revocation { request, grant, revokes, ship: None }
            }
            _ => return,
        };
        if revocation.grant < self.h.fence || is_over(&revocation, self.out) {
            // It was held up, and the page is being repaired, or has been since.
            self.out.fenced.late += 1;
            return;
        }
        if let Some(Ship { past: true, .. }) = revocation.ship {
            self.ship_past_image(&revocation);
            return;
        }
        let h = &mut *self.h;
        if h.mode == Mode::N && h.pending.is_some() {
            // The grant it names is still on its way.
            h.parked = Some(revocation);
            return;
        }
        self.accept(&revocation);
        self.step();
    }

    /// Notes a revocation of what is held; answers one of what is held no longer.
    pub(super) fn accept(&mut self, revocation: &Revocation) {
        let h = &mut *self.h;
        if h.mode != Mode::N && h.grant <= revocation.revokes {
            h.revocation = Some(*revocation);
            if h.activity == Activity::Releasing {
                self.serve();
            }
            return;
        }
        self.out.anomalies.not_holder += 1;
        let Revocation { request, grant, .. } = *revocation;
        match revocation.ship {
            None => {
                self.send(request.instance, Pcm::Invalidated { request, grant, dirty: false });
            }
            Some(ship) => self.not_holder(request, ship.want, grant),
        }
    }

    /// What is to be shipped is not here.
    fn not_holder(&mut self, request: RequestId, want: Mode, grant: GrantNumber) {
        let (to, verdict) = (request.instance, Verdict::NotHolder);
        self.out.refuse_grant(to, self.tag, request, want, verdict, grant);
    }

    /// Nobody holds the page; this instance's past image is the newest there is.
    fn ship_past_image(&mut self, revocation: &Revocation) {
        let Revocation { request, ship, .. } = *revocation;
        let Some(Ship { want, grant, acks, .. }) = ship else { return };
        let (to, tag) = (request.instance, self.tag);
        let Some(version) = self.h.past else {
            self.out.anomalies.not_holder += 1;
            self.not_holder(request, want, grant);
            self.step();
            return;
        };
        let message = Pcm::Response {
            request,
            verdict: Verdict::Page,
            mode: want,
            grant,
            version,
            acks,
            dirty: false,
            unsaved: false,
            past: true,
            writer: self.out.me,
        };
        self.effect(Effect::ShipPastImage { to, tag, epoch: self.epoch(), message });
    }

    /// Does what a revocation asks; pins are drained as far as it needs. A dirty page leaves only when
    /// its redo is durable.
    pub(super) fn serve(&mut self) {
        let (tag, epoch) = (self.tag, self.epoch());
        let h = &mut *self.h;
        let Some(revocation) = &h.revocation else { return };
        if h.dirty && h.flush > self.desk.durable && !planted::is("ship_before_flush") {
            let leaves = revocation.leaves();
            self.flush(leaves, Purpose::Revocation);
            return;
        }
        let Revocation { request, grant, ship, .. } = *revocation;
        h.revocation = None;
        h.unused = None;
        let to = request.instance;
        match ship {
            Some(Ship { want, grant, acks, .. }) => {
                let keep = want == Mode::S;
                let message = Pcm::Response {
                    request,
                    verdict: Verdict::Page,
                    mode: want,
                    grant,
                    version: h.version,
                    acks,
                    dirty: h.dirty && !keep && !planted::is("lose_the_duty"),
                    unsaved: (h.dirty || h.unsaved) && keep && !planted::is("never_unsaved"),
                    past: false,
                    writer: h.writer,
                };
                self.out.effect(Effect::Ship { to, tag, epoch, message, keep });
                if keep {
                    h.mode = Mode::S;
                    if h.activity != Activity::Releasing {
                        self.effect(Effect::Open { tag, mode: Mode::S });
                    }
                } else {
                    let (version, dirty) = (h.version, h.dirty);
                    h.transit = Some(InTransit { request, grant, version, dirty });
                    h.give_up();
                }
            }
            None => {
                let (version, dirty) = (h.version, h.dirty);
                if !(planted::is("lose_an_acknowledgement") && grant.0 % 8 == 7) {
                    self.send(to, Pcm::Invalidated { request, grant, dirty });
                }
                if dirty && !planted::is("no_past_image_of_an_invalidated_page") {
                    self.h.past = Some(version);
                    self.effect(Effect::KeepPastImage { tag, version });
                } else {
                    self.effect(Effect::Drop { tag });
                }
                self.h.give_up();
            }
        }
        self.step();
    }

    /// The copy that was shipped has arrived: it is a past image if the duty to write left with it.
    pub(in crate::grd) fn claimed(&mut self, request: RequestId, grant: GrantNumber) {
        let is_it = |transit: &InTransit| transit.grant == grant && transit.request == request;
        if let Some(transit) = self.h.transit.filter(is_it) {
            self.arrived(&transit);
            self.step();
        }
    }

    /// The copy in transit is one no more.
    pub(super) fn arrived(&mut self, transit: &InTransit) {
        let (tag, grant) = (self.tag, transit.grant);
        self.h.transit = None;
        if transit.dirty && !planted::is("no_past_image_of_a_shipped_page") {
            self.h.past = self.h.past.max(Some(transit.version));
            self.effect(Effect::ToPastImage { tag, grant });
        } else {
            self.effect(Effect::Forget { tag, grant });
        }
    }
}

/// Whoever the revocation is for has died: the master repairs the page when it hears of that. A page
/// that is shipped to it would be nobody's to write, once its redo has been applied.
pub(super) fn is_over(revocation: &Revocation, out: &Out<'_>) -> bool {
    let RequestId { instance, incarnation, .. } = revocation.request;
    out.view.standing(instance, incarnation) == Standing::Past
}
