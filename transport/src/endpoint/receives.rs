//! Receives and acknowledgements: what the owner's taking of messages sets off.
//!
//! ```text
//!   message taken -> receive owed -> posted (frame from the arena) -> credit, told with the next
//!                                                                     message of the lane or alone
//! ```

use super::{
    Endpoint, FRAMES_PER_PEER_MIN,
    peer::{Peer, Post},
};
use crate::{link::Link, session::AckDue};
use pagewire_protocol::Lane;
use std::time::{Duration, Instant};

/// How long an endpoint that sleeps lets an acknowledgement wait for a message to travel with.
const QUIET: Duration = Duration::from_millis(2);

impl Endpoint {
    /// The upper layer has taken a message: its receive is posted again. A frame for it is taken
    /// from the arena with the next poll: first comes what the upper layer answers; unless the
    /// peer is to be told, which is to travel with that answer.
    #[inline]
    pub(super) fn consumed(&mut self, slot: usize, lane: Lane) {
        let peer = &mut self.peers[slot];
        if peer.stale[lane.index()] > 0 {
            peer.stale[lane.index()] -= 1;
            return;
        }
        if lane.class().has_frame() {
            return self.consumed_page(slot, lane);
        }
        if let Some(session) = &mut peer.session {
            session.posted(lane);
            if session.is_ack_due_now(lane) {
                peer.acknowledge_alone(lane);
            }
        }
    }

    #[inline(never)] // Not to lie in the way of small messages.
    fn consumed_page(&mut self, slot: usize, lane: Lane) {
        let peer = &mut self.peers[slot];
        peer.owed_frames[lane.class().index()] += 1;
        // Others that wait are not overtaken: a busy peer would take every frame.
        if !self.short_of_frames && peer.ack_due(lane) == AckDue::Now {
            peer.post_owed(lane, &self.arena, self.shares[lane.index()]);
            peer.acknowledge_if(lane, AckDue::Now);
        }
        self.owing = true;
    }

    /// Before a sleep: an acknowledgement that is owed goes out alone once it was owed for
    /// [`QUIET`], so that a peer is not woken for what the next message brings anyway. Returns how
    /// long the sleep may be.
    pub(super) fn acknowledge_when_quiet(&mut self) -> Duration {
        let owed = |p: &Peer| {
            p.link.as_ref().is_some_and(Link::is_waiting_for_quiet)
                || Lane::ALL.iter().any(|&lane| p.owes_ack(lane))
        };
        if !self.peers.iter().any(owed) {
            self.owed_since = None;
            return Duration::MAX;
        }
        let now = Instant::now();
        let quiet_at = *self.owed_since.get_or_insert(now) + QUIET;
        if now >= quiet_at {
            self.owed_since = None;
            self.quiet();
            return Duration::MAX;
        }
        quiet_at - now
    }

    /// Sends what waits for a quiet moment: acknowledgements, and messages that nobody waits for.
    pub(super) fn quiet(&mut self) {
        self.acknowledge(AckDue::Lazy);
        for link in self.peers.iter_mut().filter_map(|peer| peer.link.as_mut()) {
            link.hurry();
        }
    }

    /// How many receives each lane may have posted at once, for every peer: all that are configured
    /// if the arena has frames for them; else one, and its part of what is left. The sum is never
    /// more than there are.
    pub(super) fn divide_frames(&mut self) {
        let credits = self.config.credits;
        let (frames, peers) = (u64::from(self.arena.frames()), self.known_peers() as u64);
        let wanted = u64::from(credits.frames_per_peer() / 2) * peers;
        let left = frames.saturating_sub(u64::from(FRAMES_PER_PEER_MIN) * peers);
        self.shares = Lane::ALL.map(|lane| {
            let all = credits.of(lane);
            // Something has to be left to send from.
            if frames > wanted || !lane.class().has_frame() {
                return all;
            }
            let spare = left.saturating_sub(1);
            u32::try_from(1 + u64::from(all) * spare / wanted).unwrap_or(all).min(all)
        });
    }

    fn acknowledge(&mut self, at_least: AckDue) {
        for peer in &mut self.peers {
            for lane in Lane::ALL {
                peer.acknowledge_if(lane, at_least);
            }
        }
    }

    /// Posts receives that are owed while there are free frames, one for each peer and lane in turn,
    /// and tells the other sides if they wait for them.
    #[inline(never)]
    pub(super) fn post_in_turn(&mut self) {
        const LANES: [Lane; 2] = [Lane::Pages, Lane::Bulk];
        let places = LANES.len() * self.peers.len();
        let mut idle = 0;
        while idle < places {
            let (slot, lane) = (self.owed_turn / LANES.len(), LANES[self.owed_turn % LANES.len()]);
            let share = self.shares[lane.index()];
            match self.peers[slot].post_one_owed(lane, &self.arena, share) {
                Post::Nothing => idle += 1,
                Post::Done => idle = 0,
                Post::NoFrame => break,
            }
            self.owed_turn = (self.owed_turn + 1) % places;
        }
        self.owing = idle < places;
        if self.owing && !self.short_of_frames {
            self.counters.out_of_frames.add(1);
        }
        self.short_of_frames = self.owing;
        for peer in &mut self.peers {
            LANES.into_iter().for_each(|lane| peer.acknowledge_if(lane, AckDue::Now));
        }
    }
}
