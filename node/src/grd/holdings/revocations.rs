//! Giving up what others want: PCM_SHIP and PCM_INVALIDATE.

use super::{
    Holdings,
    state::{Activity, Holding, InTransit, Purpose, Revocation, Ship},
};
use crate::{
    grd::{event::Effect, out::Out},
    planted,
    view::Standing,
};
use pagewire_protocol::{BufferTag, GrantNumber, Mode, Pcm, RequestId, pcm::Verdict};

impl Holdings {
    pub(in crate::grd) fn revoke(&mut self, tag: BufferTag, message: Pcm, out: &mut Out<'_>) {
        let revocation = match message {
            Pcm::Ship { request, want, grant, revokes, acks, past } => {
                Revocation { request, grant, revokes, ship: Some(Ship { want, grant, acks, past }) }
            }
            Pcm::Invalidate { request, grant, revokes } => {
                Revocation { request, grant, revokes, ship: None }
            }
            _ => return,
        };
        if is_over(&revocation, out)
            || self.holdings.get(&tag).is_some_and(|h| revocation.grant < h.fence)
        {
            // It was held up, and the page is being repaired, or has been since.
            out.fenced.late += 1;
            return;
        }
        if let Some(Ship { past: true, .. }) = revocation.ship {
            self.ship_past_image(tag, &revocation, out);
            return;
        }
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
    pub(super) fn accept(&mut self, tag: BufferTag, revocation: Revocation, out: &mut Out<'_>) {
        let h = self.holding(tag);
        if h.mode != Mode::N && h.grant <= revocation.revokes {
            h.revocation = Some(revocation);
            if h.activity == Activity::Releasing {
                self.serve(tag, out);
            }
            return;
        }
        out.anomalies.not_holder += 1;
        let Revocation { request, grant, .. } = revocation;
        match revocation.ship {
            None => {
                let gone = Pcm::Invalidated { request, grant, dirty: false };
                out.send(request.instance, tag, gone);
            }
            Some(ship) => {
                let (to, want, grant) = (request.instance, ship.want, revocation.grant);
                out.refuse_grant(to, tag, request, want, Verdict::NotHolder, grant);
            }
        }
    }

    /// Nobody holds the page; this instance's past image is the newest there is.
    fn ship_past_image(&mut self, tag: BufferTag, revocation: &Revocation, out: &mut Out<'_>) {
        let Revocation { request, ship, .. } = *revocation;
        let Some(Ship { want, grant, acks, .. }) = ship else { return };
        let to = request.instance;
        let h = self.holding(tag);
        let Some(version) = h.past else {
            out.anomalies.not_holder += 1;
            out.refuse_grant(to, tag, request, want, Verdict::NotHolder, grant);
            self.step(tag, out);
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
            writer: out.me,
        };
        let epoch = out.view.epoch_of(&tag);
        out.effect(Effect::ShipPastImage { to, tag, epoch, message });
    }

    /// Does what a revocation asks; pins are drained as far as it needs. A dirty page leaves only when
    /// its redo is durable.
    pub(super) fn serve(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let durable = self.durable;
        let h = self.holding(tag);
        let Some(revocation) = h.revocation else { return };
        if h.dirty && h.flush > durable && !planted::is("ship_before_flush") {
            self.flush(tag, revocation.leaves(), Purpose::Revocation, out);
            return;
        }
        h.revocation = None;
        h.unused = None;
        let Revocation { request, grant, .. } = revocation;
        let to = request.instance;
        match revocation.ship {
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
                let epoch = out.view.epoch_of(&tag);
                out.effect(Effect::Ship { to, tag, epoch, message, keep });
                if keep {
                    h.mode = Mode::S;
                    if h.activity != Activity::Releasing {
                        out.effect(Effect::Open { tag, mode: Mode::S });
                    }
                } else {
                    let (version, dirty) = (h.version, h.dirty);
                    h.transit = Some(InTransit { request, grant, version, dirty });
                    h.give_up();
                }
            }
            None => {
                if !(planted::is("lose_an_acknowledgement") && grant.0 % 8 == 7) {
                    out.send(to, tag, Pcm::Invalidated { request, grant, dirty: h.dirty });
                }
                if h.dirty && !planted::is("no_past_image_of_an_invalidated_page") {
                    h.past = Some(h.version);
                    out.effect(Effect::KeepPastImage { tag, version: h.version });
                } else {
                    out.effect(Effect::Drop { tag });
                }
                h.give_up();
            }
        }
        self.step(tag, out);
    }

    /// The copy that was shipped has arrived: it is a past image if the duty to write left with it.
    pub(in crate::grd) fn claimed(
        &mut self,
        tag: BufferTag,
        request: RequestId,
        grant: GrantNumber,
        out: &mut Out<'_>,
    ) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        let in_transit = h.transit.filter(|transit| transit.grant == grant);
        let Some(transit) = in_transit.filter(|transit| transit.request == request) else { return };
        arrived(h, tag, &transit, out);
        self.step(tag, out);
    }
}

/// Whoever the revocation is for has died: the master repairs the page when it hears of that. A page
/// that is shipped to it would be nobody's to write, once its redo has been applied.
pub(super) fn is_over(revocation: &Revocation, out: &Out<'_>) -> bool {
    let RequestId { instance, incarnation, .. } = revocation.request;
    out.view.standing(instance, incarnation) == Standing::Past
}

/// The copy in transit is one no more.
pub(super) fn arrived(h: &mut Holding, tag: BufferTag, transit: &InTransit, out: &mut Out<'_>) {
    h.transit = None;
    if transit.dirty && !planted::is("no_past_image_of_a_shipped_page") {
        h.past = h.past.max(Some(transit.version));
        out.effect(Effect::ToPastImage { tag, grant: transit.grant });
    } else {
        out.effect(Effect::Forget { tag, grant: transit.grant });
    }
}
