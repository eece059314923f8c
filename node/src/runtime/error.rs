//! Why a node does not start, does not reach its peers, or does not answer.

use crate::{store::StoreError, view::ViewError};
use pagewire_protocol::InstanceId;
use pagewire_si::RingError;
use pagewire_transport::{ClusterKeyError, TransportError};
use std::{io, net::SocketAddr};

/// Why a node does not start, or does not reach its peers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The member list cannot be used.
    #[error("members: {0}")]
    View(#[from] ViewError),
    /// Shared storage cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cluster key cannot be used.
    #[error(transparent)]
    ClusterKey(#[from] ClusterKeyError),
    /// The fabric cannot be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The ring for invalidations cannot be used.
    #[error(transparent)]
    SiRing(#[from] RingError),
    /// The arena leaves no room for pages.
    #[error("the arena has {frames} frames, expected at least {needed}: raise `arena_mb`")]
    ArenaTooSmall {
        /// Frames it has.
        frames: u32,
        /// Frames it must have.
        needed: u32,
    },
    /// There is no memory for one more peer.
    #[error(
        "instance {peer} is one peer too many, expected at most {most}: raise `members_max` on all \
         instances"
    )]
    TooManyPeers {
        /// The peer.
        peer: InstanceId,
        /// Peers that there are frames for.
        most: usize,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A peer refuses this instance.
    #[error("{0}")]
    Refused(String),
    /// Not all peers were there in time.
    #[error(
        "no session with {missing} after {limit_s} s, expected one with every member: start the \
         others, and see that their addresses are right"
    )]
    PeersMissing {
        /// Members without a session.
        missing: String,
        /// How long was waited, in seconds.
        limit_s: u64,
    },
    /// The shards' ports do not fit.
    #[error("{address} leaves no port for shard {shard}; choose a lower port or fewer `shards`")]
    Ports {
        /// Address of the first shard.
        address: SocketAddr,
        /// The shard without one.
        shard: u16,
    },
    /// Whoever knows does not say.
    #[error(
        "instance {instance} has not answered in {limit_ms} ms; see whether it is up and linked"
    )]
    NoAnswer {
        /// Who was asked.
        instance: InstanceId,
        /// How long was waited.
        limit_ms: u64,
    },
    /// This instance could not leave in order.
    #[error(
        "this instance still has pages or directory entries after {limit_s} s, expected none: see \
         whether every other member is up, and that the view has it as leaving"
    )]
    NotLeft {
        /// How long was waited.
        limit_s: u64,
    },
    /// A shard's thread is gone.
    #[error("the node has stopped")]
    Stopped,
    /// A shard's thread has panicked.
    #[error(
        "shard {shard} of the node has panicked: {message}; this is a defect: restart the cluster \
         and report it with the log"
    )]
    Panicked {
        /// The shard.
        shard: u16,
        /// What the panic said.
        message: String,
    },
}
