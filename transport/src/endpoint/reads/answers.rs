//! What the owner sends to those who ask: the refusals first, then pages as frames and credit allow.

use super::{message, owner};
use crate::{
    Frame,
    endpoint::{Endpoint, peer::Peer},
    link::Urgency,
};
use pagewire_protocol::{Lane, ReadMessage, ReadRefusal};

impl Endpoint {
    /// Refuses what the peer has asked for in vain. Needs no frame, and so waits for no question that
    /// does.
    fn refuse_reads(&mut self, slot: usize) {
        loop {
            let peer = &mut self.peers[slot];
            let Some(reads) = &mut peer.reads else { return };
            let refused = reads.owed.first_refused(|region| self.regions.get(region));
            let Some((token, why)) = refused else { return };
            if !peer.answer_read(token, &ReadMessage::Refused { token, why }, None) {
                return;
            }
        }
    }

    /// Answers what the peer has asked for, as far as there are frames and credit.
    pub(super) fn answer_reads(&mut self, slot: usize) {
        self.refuse_reads(slot);
        loop {
            let peer = &mut self.peers[slot];
            let (Some(reads), Some(session)) = (&mut peer.reads, &peer.session) else { return };
            let Some(question) = reads.owed.first() else { return };
            let token = question.token;
            let Ok(number) = owner::judge(self.regions.get(question.region), question) else {
                return; // The control lane has no credit.
            };
            if session.room(Lane::Bulk) == 0 {
                return;
            }
            let Some(mut frame) = self.arena.take() else {
                reads.short_of_frames = true;
                if reads.owed.waits_for_frame(token) {
                    peer.counters.reads.waited_for_frames.add(1);
                }
                return;
            };
            let is_taken = match self.arena.copy_torn(number, &mut frame) {
                Ok(()) => peer.answer_read(token, &ReadMessage::Page { token }, Some(frame)),
                Err(error) => {
                    tracing::error!("frame {number} cannot be copied: {error}");
                    let why = ReadRefusal::UnknownRegion;
                    peer.answer_read(token, &ReadMessage::Refused { token, why }, None)
                }
            };
            if !is_taken {
                return;
            }
        }
    }
}

impl Peer {
    /// Sends an answer; false: its lane takes none now.
    fn answer_read(&mut self, token: u64, answer: &ReadMessage, frame: Option<Frame>) -> bool {
        let (Some(reads), Some(session)) = (&mut self.reads, &mut self.session) else {
            return false;
        };
        let lane = if frame.is_some() { Lane::Bulk } else { Lane::Control };
        if session.submit(lane, message(answer, frame)).is_err() {
            return false;
        }
        reads.owed.answered(token);
        self.counters.reads.answered.add(1);
        self.pump(lane, Urgency::Now);
        true
    }
}
