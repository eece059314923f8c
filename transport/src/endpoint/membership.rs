//! Peers that come and go while the endpoint runs, on the word of the membership view.
//!
//! ```text
//!   add_peer(P) -----> dials, lets it in -----> remove_peer(P)           slot and frames are free
//!                        |         ^
//!      end_incarnation(P, 7)    admit(P, 8)     a life is over; the next one may come
//! ```
//! What a life sent that is over is not delivered any more: it is dropped from the queue of events,
//! so that it cannot be taken for what the next life says.

use super::{Endpoint, peer::Peer};
use crate::Message;
use pagewire_protocol::{Epoch, Incarnation, InstanceId, Lane};
use std::sync::Arc;

/// What a session that was ended had not got acknowledged, with its outcome unknown.
type Undelivered = Vec<(Lane, Message)>;

impl Endpoint {
    /// From now on handshakes state this view. Links that are there stay: what must not pass between
    /// ends of different views is for the layer above to tell by its epochs.
    pub fn set_view(&mut self, epoch: Epoch, hash: u64) {
        (self.config.view_epoch, self.config.view_hash) = (epoch, hash);
    }

    /// Forgets `peer`: its session ends, its link goes, its frames are divided among the others, and
    /// nothing more comes of it. Hands back what was not acknowledged; `None` when it is not known.
    pub fn remove_peer(&mut self, peer: InstanceId) -> Option<Undelivered> {
        let slot = self.slot(peer)?;
        self.peers[slot].forming = None;
        let ended = self.end(slot);
        self.events.drop_all_of(peer);
        self.slots[usize::from(peer.0)] = u16::MAX;
        let gone = &mut self.peers[slot];
        gone.counters.known.set(0);
        let address = gone.address;
        *gone = Peer::new(peer, address, Arc::default(), self.config.instance, 0);
        gone.is_vacant = true;
        self.divide_frames();
        // The others have a larger share now.
        self.owing = true;
        Some(ended.map(|(_, undelivered)| undelivered).unwrap_or_default())
    }

    /// The view says that this life of `peer`, and every one before it, is over: it is refused from
    /// now on, also when it has never had a session here. A later life is not touched. Hands back
    /// what was not acknowledged; `None` when there was no session with it.
    pub fn end_incarnation(
        &mut self,
        peer: InstanceId,
        incarnation: Incarnation,
    ) -> Option<Undelivered> {
        let slot = self.slot(peer)?;
        if self.peers[slot].incarnation.is_some_and(|known| known > incarnation) {
            return None;
        }
        self.events.drop_messages_of(peer);
        self.peers[slot].stale = [0; Lane::COUNT];
        // Who is dialling or being dialled may be that life; it begins anew.
        self.peers[slot].forming = None;
        let ended = self.end(slot);
        self.peers[slot].ended = self.peers[slot].ended.max(Some(incarnation));
        ended.map(|(_, undelivered)| undelivered)
    }

    /// The view says that `incarnation` is the life of `peer`: those before it are over, and it may
    /// have a session, also where [`EndpointConfig::peers_may_return`] says no. Hands back what an
    /// earlier life had not acknowledged; `None` when there was no session with one.
    ///
    /// [`EndpointConfig::peers_may_return`]: super::EndpointConfig::peers_may_return
    pub fn admit(&mut self, peer: InstanceId, incarnation: Incarnation) -> Option<Undelivered> {
        let slot = self.slot(peer)?;
        let is_earlier = |known: Incarnation| known < incarnation;
        let ended = match self.peers[slot].incarnation {
            Some(known) if is_earlier(known) => self.end_incarnation(peer, known),
            _ => None,
        };
        self.peers[slot].admitted = Some(incarnation);
        ended
    }

    /// Peers that are known now.
    pub(super) fn known_peers(&self) -> usize {
        self.peers.iter().filter(|peer| !peer.is_vacant).count()
    }
}
