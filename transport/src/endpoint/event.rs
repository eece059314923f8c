//! What an endpoint tells its owner.

use super::reads::ReadDone;
use crate::{Message, Received, error::LinkError};
use pagewire_protocol::{Incarnation, InstanceId, Lane, hello::Refusal};
use std::net::SocketAddr;

/// What has happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A session with a new incarnation of `peer` has begun and has a link.
    Up {
        /// The peer.
        peer: InstanceId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// The link of `peer` is gone; the session waits for the next one.
    Down {
        /// The peer.
        peer: InstanceId,
        /// Why.
        reason: LinkError,
    },
    /// The session has a link again; nothing was lost or doubled.
    Linked {
        /// The peer.
        peer: InstanceId,
    },
    /// The incarnation is over, and the session with it.
    Ended {
        /// The peer.
        peer: InstanceId,
        /// The incarnation that is over.
        incarnation: Incarnation,
        /// What it may or may not have received.
        undelivered: Vec<(Lane, Message)>,
    },
    /// `peer` refuses this endpoint, or whoever answers at its address does. It is tried again, in case
    /// the reason goes away.
    Refused {
        /// The peer.
        peer: InstanceId,
        /// Whoever refuses has proven the handshake, which without a cluster key anybody can; otherwise
        /// anybody may be speaking, and nothing more must come of it than a word to the operator.
        is_proven: bool,
        /// Its address.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
        /// What it said and what we are, for the operator.
        detail: String,
    },
    /// A read that [`Endpoint::read_page`](super::Endpoint::read_page) began has ended.
    Read(ReadDone),
    /// A message has arrived.
    Message(Received),
}

impl Event {
    /// Whom it is about.
    pub(super) fn peer(&self) -> InstanceId {
        match self {
            Self::Up { peer, .. }
            | Self::Down { peer, .. }
            | Self::Linked { peer }
            | Self::Ended { peer, .. }
            | Self::Refused { peer, .. }
            | Self::Read(ReadDone { peer, .. })
            | Self::Message(Received { from: peer, .. }) => *peer,
        }
    }
}
