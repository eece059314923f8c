//! Giving up what others want: PCM_SHIP and PCM_INVALIDATE.

use super::{
    Holdings,
    state::{Activity, Holding, Revocation, Ship},
};
use crate::grd::{event::Effect, out::Out};
use pagewire_protocol::{BufferTag, GrantNumber, Mode, Pcm, RequestId, pcm::Verdict};

impl Holdings {
    pub(in crate::grd) fn revoke(&mut self, tag: BufferTag, message: Pcm, out: &mut Out<'_>) {
        let revocation = match message {
            Pcm::Ship { request, want, grant, revokes, acks, .. } => {
                Revocation { request, grant, revokes, ship: Some(Ship { want, grant, acks }) }
            }
            Pcm::Invalidate { request, grant, revokes } => {
                Revocation { request, grant, revokes, ship: None }
            }
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
    pub(super) fn accept(&mut self, tag: BufferTag, revocation: Revocation, out: &mut Out<'_>) {
        let h = self.holdings.entry(tag).or_insert_with(Holding::new);
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
                out.refuse(request.instance, tag, request, ship.want, Verdict::NotHolder);
            }
        }
    }

    /// Does what a revocation asks; pins are drained as far as it needs.
    pub(super) fn serve(&mut self, tag: BufferTag, out: &mut Out<'_>) {
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
                    unsaved: h.dirty && keep,
                    past: false,
                    writer: out.me,
                };
                let epoch = out.view.epoch_of(&tag);
                out.effect(Effect::Ship { to: requester, tag, epoch, message: response, keep });
                if keep {
                    h.mode = Mode::S;
                    if h.activity != Activity::Releasing {
                        out.effect(Effect::Open { tag, mode: Mode::S });
                    }
                } else {
                    h.transit = Some(grant);
                    h.give_up();
                }
            }
            None => {
                let gone = Pcm::Invalidated { request, grant: revocation.grant, dirty: h.dirty };
                out.send(requester, tag, gone);
                out.effect(Effect::Drop { tag });
                h.give_up();
            }
        }
        self.step(tag, out);
    }

    pub(in crate::grd) fn claimed(
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
}
