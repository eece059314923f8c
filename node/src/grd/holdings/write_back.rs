//! Writing pages back, and giving up those that nobody asked for: eviction.

use super::{
    Held, Holdings,
    state::{Activity, Purpose},
};
use crate::{
    grd::{event::Effect, out::Out, store::Hashed},
    planted,
};
use pagewire_protocol::{GrantNumber, Lsn, Mode, Pcm};

impl Held<'_, '_> {
    pub(in crate::grd) fn evict(&mut self) {
        let h = &mut *self.h;
        if h.mode == Mode::N || h.pending.is_some() || h.activity != Activity::Idle {
            return;
        }
        h.wants_eviction = true;
        self.step();
    }

    pub(in crate::grd) fn write_back(&mut self) {
        if self.h.mode != Mode::N {
            self.h.wants_write = true;
            self.step();
        }
    }

    pub(in crate::grd) fn write_done(&mut self, version: Lsn, written: bool) {
        let h = &mut *self.h;
        let evicting = h.activity == Activity::Writing(Purpose::Eviction);
        h.activity = Activity::Idle;
        h.wants_write = false;
        if written && (h.dirty || h.asked) {
            (h.dirty, h.asked) = (false, false);
            let grant = h.grant;
            self.send_to_master(Pcm::Written { grant, version });
        }
        let h = &*self.h;
        if evicting && written && h.revocation.is_none() && h.waiters.is_empty() {
            self.release();
        } else if h.revocation.is_some() {
            // Drained deep enough for what was written; `step` drains deeper where it must.
            self.step();
        } else {
            self.effect(Effect::Open { tag: self.tag, mode: self.h.mode });
            self.step();
        }
    }

    /// PCM_WRITE: the master wants the newest version on storage, and to hear of it.
    pub(in crate::grd) fn write_asked(&mut self) {
        let h = &mut *self.h;
        let nothing_but_past = h.mode == Mode::N && h.past.is_some();
        if h.mode == Mode::N && !nothing_but_past {
            return;
        }
        (h.wants_write, h.asked) = (true, true);
        if nothing_but_past && h.pending.is_none() {
            // This past image may be the newest version there is: it is held first, as any page is,
            // but no longer than that takes.
            h.wants_eviction = true;
            self.request(Mode::S, false);
        } else {
            self.step();
        }
    }

    pub(in crate::grd) fn past_image_wanted(&mut self) {
        if let Some(version) = self.h.past {
            self.send_to_master(Pcm::WriteRequest { version });
        }
    }

    /// PCM_DISCARD: `version` is on storage.
    pub(in crate::grd) fn discard(&mut self, version: Lsn) {
        let past = self.h.past;
        if past.is_some_and(|past| past > version) && !planted::is("discard_any_past_image") {
            return;
        }
        if let Some(past) = self.h.past.take() {
            self.effect(Effect::DropPastImage { tag: self.tag, version: past });
        }
        self.send_to_master(Pcm::Discarded { version });
        if past.is_some() {
            self.step();
        }
    }

    pub(in crate::grd) fn released(&mut self, grant: GrantNumber) {
        if self.h.activity == Activity::Releasing && self.h.grant <= grant {
            self.effect(Effect::Drop { tag: self.tag });
            self.h.give_up();
            self.step();
        }
    }

    // ---- log before ship, log before write -----------------------------------------------------

    /// Pins are lowered to `to`; what `purpose` is waits until the page's redo is durable.
    pub(super) fn flush(&mut self, to: Mode, purpose: Purpose) {
        let h = &mut *self.h;
        if h.activity == Activity::Releasing {
            debug_assert!(false, "what is released is clean");
        }
        h.activity = Activity::Flushing(to, purpose);
        self.desk.flushing.push(self.tag);
        self.effect(Effect::Flush { tag: self.tag, to: self.h.flush });
    }

    /// Goes on with what waits for redo, if that is durable now.
    fn go_on_if_durable(&mut self) {
        let Activity::Flushing(to, purpose) = self.h.activity else { return };
        if self.h.flush > self.desk.durable {
            self.desk.flushing.push(self.tag);
            return;
        }
        self.h.activity = Activity::Idle;
        self.go_on(to, purpose);
    }
}

impl Holdings {
    pub(in crate::grd) fn flushed(&mut self, up_to: Lsn, out: &mut Out<'_>) {
        self.desk.durable = self.desk.durable.max(up_to);
        let mut waiting = std::mem::take(&mut self.desk.flushing);
        for tag in waiting.drain(..) {
            self.of(&Hashed::of(tag), out, |page| page.go_on_if_durable());
        }
        if self.desk.flushing.is_empty() {
            // The one that has room already.
            self.desk.flushing = waiting;
        }
    }
}
