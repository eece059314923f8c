//! What an owner can see of its peers beside the counters: the state of each lane, in numbers.

use super::Endpoint;
use crate::session::{LaneNumbers, Session};
use pagewire_protocol::{Incarnation, InstanceId, Lane};

/// One lane of one peer at this moment.
///
/// While there is a link, every receive that the configuration asks for is in one of three places:
///
/// ```text
///   session.posted - session.received   posted, and nothing has come for it
///   untaken                             its message waits for Endpoint::next_event
///   owed                                no frame was free for it
/// ```
/// Their sum is the configured number, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneState {
    /// The session's numbers.
    pub session: LaneNumbers,
    /// Messages of the present link that have arrived and wait for [`Endpoint::next_event`].
    pub untaken: u32,
    /// The same of earlier links; their receives went with those.
    pub stale: u32,
    /// Receives that wait for a free frame.
    pub owed: u32,
}

impl Endpoint {
    /// `lane` of `peer` in numbers; `None` without a session. It walks the queue of events: for
    /// looking on, not for the data path.
    #[must_use]
    pub fn lane_state(&self, peer: InstanceId, lane: Lane) -> Option<LaneState> {
        let peer = &self.peers[self.slot(peer)?];
        let session = peer.session.as_ref()?.numbers(lane);
        let arrived = self.events.lanes_from(peer.id).filter(|l| *l == lane).count();
        let stale = peer.stale[lane.index()];
        let untaken = u32::try_from(arrived).unwrap_or(u32::MAX).saturating_sub(stale);
        let class = lane.class();
        let owed = if class.has_frame() { peer.owed_frames[class.index()] } else { 0 };
        Some(LaneState { session, untaken, stale, owed })
    }

    /// How many messages [`Endpoint::send`] would take on `lane` of `peer` now.
    #[must_use]
    pub fn room(&self, peer: InstanceId, lane: Lane) -> u64 {
        self.session(peer).map_or(0, |session| session.room(lane))
    }

    /// Messages that `peer` has not acknowledged yet, on all lanes. When it is 0, everything that was
    /// sent has arrived: whoever wants to stop polling waits for that.
    #[must_use]
    pub fn unacknowledged(&self, peer: InstanceId) -> usize {
        self.session(peer).map_or(0, Session::unacknowledged)
    }

    /// Which incarnation of `peer` the session is with; `None` without a session.
    #[must_use]
    pub fn incarnation_of(&self, peer: InstanceId) -> Option<Incarnation> {
        self.session(peer)?;
        self.peers[self.slot(peer)?].incarnation
    }

    fn session(&self, peer: InstanceId) -> Option<&Session> {
        self.peers[self.slot(peer)?].session.as_ref()
    }
}
