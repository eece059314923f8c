//! Room in a shard's cache: requests wait for it, and pages are given up for them.

use super::Shard;
use crate::grd::Event as Input;
use pagewire_protocol::{BufferTag, Epoch, InstanceId, Pcm};
use std::time::Instant;

impl Shard {
    /// Sends a request when there is room for what it brings and credit for it to come: at once, as a
    /// rule.
    pub(super) fn request(&mut self, to: InstanceId, tag: BufferTag, epoch: Epoch, message: Pcm) {
        if self.waiting.is_empty() && self.may_request() {
            return self.send_request(to, tag, epoch, message);
        }
        self.waiting.push_back((to, tag, epoch, message));
        self.admit();
    }

    fn may_request(&self) -> bool {
        self.outstanding < self.outstanding_max
            && self.pool.has_room(self.outstanding + self.copies.frames())
    }

    fn send_request(&mut self, to: InstanceId, tag: BufferTag, epoch: Epoch, message: Pcm) {
        self.outstanding += 1;
        if to == self.me {
            self.loop_back(tag, epoch, message);
        } else {
            self.send(to, tag, epoch, &message, None);
        }
    }

    /// Sends requests while there is room for what they bring and credit for it to come.
    pub(super) fn admit(&mut self) {
        while !self.waiting.is_empty() && self.may_request() {
            let Some((to, tag, epoch, message)) = self.waiting.pop_front() else { return };
            self.send_request(to, tag, epoch, message);
        }
    }

    /// Evicts pages while requests wait for room.
    pub(super) fn make_room(&mut self) {
        let too_soon = |at: Instant| Instant::now() < at;
        if self.waiting.is_empty() || self.evict_again_at.is_some_and(too_soon) {
            return;
        }
        let wanted = self.waiting.len().min(self.outstanding_max);
        let expected = self.outstanding + self.copies.frames() + wanted;
        // The core would not give up a busy page, the one that waits for its upgrade among them.
        let may_go = |tag: &BufferTag| self.grd.holding(tag).is_some_and(|h| !h.busy);
        for _ in 0..self.pool.excess(expected) {
            let Some(tag) = self.pool.victim(may_go) else { break };
            self.inputs.push_back(Input::Evict { tag }.into());
        }
        // What is kept for others gives way as well, once a newer version is on storage.
        if self.copies.past_images() > 0 {
            self.want_past_images(wanted);
        }
        self.run();
    }

    /// The request for a page is over, in whatever way, and the frame that was set aside for it free.
    pub(super) fn request_over(&mut self, tag: &BufferTag) {
        // One that has not left has taken no frame.
        if !self.waiting.is_empty()
            && let Some(at) = self.waiting.iter().position(|(_, of, ..)| of == tag)
        {
            self.waiting.remove(at);
        } else {
            debug_assert!(self.outstanding > 0, "a request ends that has not left");
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        self.admit();
    }
}
