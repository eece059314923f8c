//! Writing pages back, and giving up those that nobody asked for: eviction.

use super::{
    Holdings, release,
    state::{Activity, Purpose},
};
use crate::{
    grd::{event::Effect, out::Out},
    planted,
};
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
        if written && (h.dirty || h.asked) {
            (h.dirty, h.asked) = (false, false);
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

    /// PCM_WRITE: the master wants the newest version on storage, and to hear of it.
    pub(in crate::grd) fn write_asked(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        let Some(h) = self.holdings.get_mut(&tag) else { return };
        let nothing_but_past = h.mode == Mode::N && h.past.is_some();
        if h.mode == Mode::N && !nothing_but_past {
            return;
        }
        (h.wants_write, h.asked) = (true, true);
        if nothing_but_past && h.pending.is_none() {
            // This past image may be the newest version there is: it is held first, as any page is,
            // but no longer than that takes.
            h.wants_eviction = true;
            self.request(tag, Mode::S, false, out);
        } else {
            self.step(tag, out);
        }
    }

    pub(in crate::grd) fn past_image_wanted(&mut self, tag: BufferTag, out: &mut Out<'_>) {
        if let Some(version) = self.holdings.get(&tag).and_then(|h| h.past) {
            out.send_to_master(tag, Pcm::WriteRequest { version });
        }
    }

    /// PCM_DISCARD: `version` is on storage.
    pub(in crate::grd) fn discard(&mut self, tag: BufferTag, version: Lsn, out: &mut Out<'_>) {
        let past = self.holdings.get(&tag).and_then(|h| h.past);
        if past.is_some_and(|past| past > version) && !planted::is("discard_any_past_image") {
            return;
        }
        if let Some(past) = past {
            self.holding(tag).past = None;
            out.effect(Effect::DropPastImage { tag, version: past });
        }
        out.send_to_master(tag, Pcm::Discarded { version });
        if past.is_some() {
            self.step(tag, out);
        }
    }

    // ---- log before ship, log before write -----------------------------------------------------

    /// Pins are lowered to `to`; what `purpose` is waits until the page's redo is durable.
    pub(super) fn flush(&mut self, tag: BufferTag, to: Mode, purpose: Purpose, out: &mut Out<'_>) {
        let h = self.holding(tag);
        if h.activity == Activity::Releasing {
            debug_assert!(false, "what is released is clean");
        }
        h.activity = Activity::Flushing(to, purpose);
        out.effect(Effect::Flush { tag, to: h.flush });
        self.flushing.push(tag);
    }

    pub(in crate::grd) fn flushed(&mut self, up_to: Lsn, out: &mut Out<'_>) {
        self.durable = self.durable.max(up_to);
        let mut waiting = std::mem::take(&mut self.flushing);
        for tag in waiting.drain(..) {
            let durable = self.durable;
            let Some(h) = self.holdings.get_mut(&tag) else { continue };
            let Activity::Flushing(to, purpose) = h.activity else { continue };
            if h.flush > durable {
                self.flushing.push(tag);
                continue;
            }
            h.activity = Activity::Idle;
            self.go_on(tag, to, purpose, out);
        }
        if self.flushing.is_empty() {
            // The one that has room already.
            self.flushing = waiting;
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
