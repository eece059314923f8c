//! Errors of the transport crate.

use pagewire_protocol::{DecodeError, InstanceId, hello::Refusal};
use std::{io, net::SocketAddr};

/// What can go wrong before or beside the messages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The arena's memory cannot be had.
    #[error(
        "no memory for an arena of {frames} frames of {page_bytes} bytes: {source}; ask for fewer \
         frames or raise the limit on shared memory"
    )]
    Arena {
        /// Frames asked for.
        frames: u32,
        /// Bytes of a frame.
        page_bytes: usize,
        /// What the system said.
        source: io::Error,
    },
    /// The arena's page table has an owner already.
    #[error("the arena's page table is taken: one thread owns it")]
    PageTableTaken,
    /// The listening address cannot be used.
    #[error("cannot listen on {address}: {source}; choose another address or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The event queue of the operating system cannot be set up.
    #[error("cannot set up the poller: {0}")]
    Poller(#[from] io::Error),
    /// A poller's thread cannot be started.
    #[error("cannot start the thread of poller {name}: {source}; raise the limit on threads")]
    PollerThread {
        /// The poller's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A shard has panicked, which is a defect; its poller has ended.
    #[error("the shard of poller {name} has panicked: {message}")]
    PollerPanicked {
        /// The poller's name.
        name: String,
        /// What the panic said.
        message: String,
    },
    /// The peer is the instance itself, or known already under another address.
    #[error("peer {peer} at {address}: {problem}")]
    Peer {
        /// The peer's id.
        peer: InstanceId,
        /// The address given for it.
        address: SocketAddr,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Why a link went down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer closed its side.
    #[error("the peer closed the connection")]
    Closed,
    /// The operating system reports an error on the connection.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The bytes are not what a peer sends.
    #[error("the peer sent bytes that are no message: {0}")]
    Decode(#[from] DecodeError),
    /// A frame does not have the CRC that its header states.
    #[error("a page arrived with CRC-32C {computed:#010x}, its header says {found:#010x}")]
    PageCrc {
        /// The CRC in the header.
        found: u32,
        /// The CRC of the frame.
        computed: u32,
    },
    /// The message breaks the rules of the session.
    #[error("the peer broke the session: {0}")]
    Session(#[from] crate::session::Violation),
    /// The link was replaced by a newer one of the same peer.
    #[error("the peer opened a new link")]
    Replaced,
    /// The handshake was not finished in time.
    #[error("the handshake took longer than {limit_ms} ms")]
    HandshakeTimeout {
        /// The limit.
        limit_ms: u128,
    },
    /// The peer refused the handshake.
    #[error("refused: {0:?}")]
    Refused(Refusal),
}
