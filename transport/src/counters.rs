//! Counters: always on, one writer each, readable from any thread while the endpoint runs.

pub use crate::counter::{Counter, Gauge};

use crate::histogram::Histogram;
use pagewire_protocol::{InstanceId, Lane, LinkKind, TcpReason};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Counts of one lane of one peer.
#[derive(Debug, Default)]
pub struct LaneCounters {
    /// Messages put on a link for the first time.
    pub sent: Counter,
    /// Messages put on a later link again.
    pub sent_again: Counter,
    /// Messages handed up.
    pub received: Counter,
    /// Messages that had arrived before, on an earlier link.
    pub duplicates: Counter,
    /// Times a message was handed back for want of credit.
    pub no_credit: Counter,
    /// Acknowledgements sent alone.
    pub acks_alone: Counter,
    /// Frames sent or received, in bytes.
    pub frame_bytes: Counter,
    /// From sending a message to its acknowledgement; of a sample of them.
    pub round_trip: Histogram,
}

/// What queue pairs have had to do.
#[derive(Debug, Default)]
pub struct VerbsCounters {
    /// Send requests: one a message.
    pub sends: Counter,
    /// Calls that handed send requests to a device: one for all of a class that leave in one turn.
    pub send_doorbells: Counter,
    /// Receive requests: one a message that may come.
    pub receives: Counter,
    /// Calls that handed receive requests to a device.
    pub receive_doorbells: Counter,
    /// Completions taken: one a message received, one a page sent, one for many small messages sent.
    pub completions: Counter,
}

/// Counts of one-sided reads.
#[derive(Debug, Default)]
pub struct ReadCounters {
    /// RDMA READs that were given to a device.
    pub posted: Counter,
    /// Reads that the peer was asked for, because there was no key; also those that a device lost.
    pub asked: Counter,
    /// Reads that ended without a page because there is no such region, or no such frame in it.
    pub refused: Counter,
    /// Questions of the peer's that were answered, with a page or a refusal.
    pub answered: Counter,
    /// Of those, pages that had to wait because no frame of the arena was free.
    pub waited_for_frames: Counter,
    /// Reads that ended at their deadline.
    pub timed_out: Counter,
    /// Pages and refusals that came after the deadline, and were discarded.
    pub late: Counter,
}

/// Why there is no link with a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFailure {
    /// What the last try found, in words, or what the last link ended with.
    pub reason: String,
    /// Tries that have failed since there was a link.
    pub tries: u64,
    /// When it was found.
    pub at: Instant,
}

/// What keeps a link from being made, or nothing. Written at each try, never on the data path.
#[derive(Debug, Default)]
pub struct NoLink(Mutex<Option<LinkFailure>>);

impl NoLink {
    pub(crate) fn set(&self, failure: Option<LinkFailure>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// The failure that stands; `None` while there is a link, and before the first try has ended.
    #[must_use]
    pub fn get(&self) -> Option<LinkFailure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts of one peer.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// By lane.
    pub lanes: [LaneCounters; Lane::COUNT],
    /// Bytes of pages that moved inside user space because something else was expected where they
    /// were read.
    pub moved_bytes: Counter,
    /// Links that came up.
    pub links_up: Counter,
    /// Links that went down.
    pub links_down: Counter,
    /// Why there is no link.
    pub no_link: NoLink,
    /// What messages are on: 0 without a link, else [`LinkKind`] plus 1; see [`PeerCounters::on`].
    pub(crate) link: Gauge,
    /// The incarnation that a link was made with last; 0 before there was one.
    pub incarnation: Gauge,
    /// 1 while the peer is known; see [`PeerCounters::is_known`].
    pub(crate) known: Gauge,
    /// What its queue pairs have had to do.
    pub verbs: Arc<VerbsCounters>,
    /// One-sided reads.
    pub reads: ReadCounters,
    /// Times that messages moved from TCP to verbs.
    pub moves_to_verbs: Counter,
    /// Times that they fell back.
    pub falls_to_tcp: Counter,
    /// How often verbs was not used or was given up for a reason of this end's
    /// ([`TcpReason::index`]).
    pub tcp_reasons: [Counter; TcpReason::ALL.len()],
    /// The same for reasons of the peer's.
    pub tcp_reasons_theirs: [Counter; TcpReason::ALL.len()],
}

impl PeerCounters {
    /// What messages are on now; `None` without a link.
    #[must_use]
    pub fn on(&self) -> Option<LinkKind> {
        match self.link.get() {
            1 => Some(LinkKind::Tcp),
            2 => Some(LinkKind::Verbs),
            _ => None,
        }
    }

    /// False once the peer was removed: the counts stay.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known.get() != 0
    }

    /// Counts of `lane`.
    #[must_use]
    pub fn lane(&self, lane: Lane) -> &LaneCounters {
        &self.lanes[lane.index()]
    }
}

/// Counts of an endpoint.
#[derive(Debug, Default)]
pub struct EndpointCounters {
    /// Connections that came in.
    pub accepted: Counter,
    /// Links that this endpoint began to dial.
    pub dials: Counter,
    /// Connections whose bytes were no handshake, or that ended in the middle of it.
    pub not_a_hello: Counter,
    /// Connections that were refused for what the other side stated.
    pub refused: Counter,
    /// Handshakes whose proof of the cluster key did not verify, from either side: another key, or
    /// bytes that were changed on the way.
    pub proofs_refused: Counter,
    /// Handshakes that were a recording of an earlier one.
    pub replays_refused: Counter,
    /// Refusals by whoever answered at a peer's address, without a proof of the handshake.
    pub refused_unproven: Counter,
    /// Connections dropped because their handshake took too long, or newer ones needed the place.
    pub handshakes_dropped: Counter,
    /// Links that went down because of what the peer sent.
    pub bad_input: Counter,
    /// Receives that could not be posted at once for want of a free frame.
    pub out_of_frames: Counter,
    /// Times the endpoint went to sleep.
    pub sleeps: Counter,
    peers: Mutex<BTreeMap<InstanceId, Arc<PeerCounters>>>,
}

impl EndpointCounters {
    pub(crate) fn add_peer(&self, peer: InstanceId) -> Arc<PeerCounters> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = Arc::clone(peers.entry(peer).or_default());
        counters.known.set(1);
        counters
    }

    /// Counts of every peer that was ever configured. Takes a lock that the data path never takes.
    #[must_use]
    pub fn peers(&self) -> Vec<(InstanceId, Arc<PeerCounters>)> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(id, counters)| (*id, Arc::clone(counters))).collect()
    }
}
