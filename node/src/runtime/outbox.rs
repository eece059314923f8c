//! Messages that the transport had no credit for, in order per peer and lane.
//!
//! Bounded by what the protocol can have under way: every instance has at most a fixed number of
//! requests outstanding, and each causes a fixed number of messages.

use pagewire_protocol::{InstanceId, Lane};
use pagewire_transport::{Endpoint, Message, SendError};
use std::collections::VecDeque;

#[derive(Debug)]
struct Peer {
    id: InstanceId,
    lanes: [VecDeque<Message>; Lane::COUNT],
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    peers: Vec<Peer>,
    waiting: usize,
}

impl Outbox {
    pub(super) fn add_peer(&mut self, id: InstanceId) {
        self.peers.push(Peer { id, lanes: Default::default() });
    }

    /// Sends `message` with the next poll (`may_wait`: or later), or as soon as the lane has credit, behind what waits there already.
    pub(super) fn send(
        &mut self,
        endpoint: &mut Endpoint,
        to: InstanceId,
        lane: Lane,
        message: Message,
        may_wait: bool,
    ) {
        let peer = self.peers.iter_mut().find(|p| p.id == to);
        let Some(peer) = peer else {
            tracing::error!("message {} for instance {to}, which is no peer", message.kind);
            return;
        };
        let queue = &mut peer.lanes[lane.index()];
        if queue.is_empty() {
            let sent = if may_wait {
                endpoint.send_when_quiet(to, lane, message)
            } else {
                endpoint.send(to, lane, message)
            };
            match sent {
                Ok(()) => return,
                Err(SendError::WrongLane(message)) => {
                    tracing::error!("message {} does not belong on lane {lane:?}", message.kind);
                    return;
                }
                Err(refused) => queue.push_back(refused.into_message()),
            }
        } else {
            queue.push_back(message);
        }
        self.waiting += 1;
    }

    /// Tries again what waits.
    pub(super) fn pump(&mut self, endpoint: &mut Endpoint) {
        if self.waiting == 0 {
            return;
        }
        for peer in &mut self.peers {
            for lane in Lane::ALL {
                let queue = &mut peer.lanes[lane.index()];
                while let Some(message) = queue.pop_front() {
                    match endpoint.send(peer.id, lane, message) {
                        Ok(()) => self.waiting -= 1,
                        Err(refused) => {
                            queue.push_front(refused.into_message());
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Forgets a peer, and what waits for it.
    pub(super) fn remove_peer(&mut self, id: InstanceId) {
        self.forget(id);
        self.peers.retain(|peer| peer.id != id);
    }

    /// Drops what waits for an instance whose life is over: the next one must not get it.
    pub(super) fn forget(&mut self, id: InstanceId) {
        for queue in self.peers.iter_mut().filter(|p| p.id == id).flat_map(|p| &mut p.lanes) {
            self.waiting -= queue.len();
            queue.clear();
        }
    }

    /// True when the peer is one.
    pub(super) fn knows(&self, id: InstanceId) -> bool {
        self.peers.iter().any(|peer| peer.id == id)
    }

    /// True when nothing waits for the lane.
    pub(super) fn is_clear(&self, id: InstanceId, lane: Lane) -> bool {
        let of_peer = self.peers.iter().find(|peer| peer.id == id);
        of_peer.is_some_and(|peer| peer.lanes[lane.index()].is_empty())
    }

    /// Number of peers.
    pub(super) fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Number of messages that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }
}
