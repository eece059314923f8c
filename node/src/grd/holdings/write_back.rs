//! Writing pages back, and giving up those that nobody asked for: eviction.

use super::{
    Holdings, release,
    state::{Activity, Purpose},
};
use crate::grd::{event::Effect, out::Out};
use pagewire_protocol::{BufferTag, GrantNumber, Lsn, Mode, Pcm};

impl Holdings {
    pub(in crate::grd) fn evict(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if h.mode == Mode::N || h.pending.is_some() || h.activity != Activity::Idle {
            return;
        }
        h.wants_eviction = true;
        self.step(tag, out);
    }

    pub(in crate::grd) fn write_back(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if h.mode != Mode::N {
            h.wants_write = true;
            self.step(tag, out);
        }
    }

    pub(in crate::grd) fn write_done(
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

    pub(in crate::grd) fn released(
        &mut self,
        tag: BufferTag,
        grant: GrantNumber,
        out: &mut Out<'_>,
    ) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        if h.activity == Activity::Releasing && h.grant <= grant {
            out.effect(Effect::Drop { tag });
            h.give_up();
            self.step(tag, out);
        }
    }
}
