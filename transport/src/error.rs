//! Errors of the transport crate.

use pagewire_protocol::{DecodeError, InstanceId, LinkControl, LinkKind, hello::Refusal};
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
    /// No arena can have that size.
    #[error("an arena of {frames} frames of {page_bytes} bytes cannot be: {problem}")]
    ArenaSize {
        /// Frames asked for.
        frames: u32,
        /// Bytes of a frame.
        page_bytes: usize,
        /// What is wrong with it, and what is expected.
        problem: &'static str,
    },
    /// The host has less memory than the arena needs.
    #[error(
        "the arena needs {needed_bytes} bytes, {available_bytes} are available (memory and swap): \
         ask for a smaller arena or free some memory"
    )]
    ArenaTooLarge {
        /// Bytes of the arena.
        needed_bytes: u64,
        /// Bytes that the host can give.
        available_bytes: u64,
    },
    /// The arena cannot be locked in memory.
    #[error(
        "cannot lock the arena's {needed_bytes} bytes in memory: {source}; this process may lock \
         {} (hard limit: {}), expected at least {needed_bytes} bytes beside what it locked before: \
         raise it with `ulimit -l {}` before the start or LimitMEMLOCK={needed_bytes} in the systemd \
         unit, or do not ask for the lock",
        limit(*soft_bytes), limit(*hard_bytes), needed_bytes.div_ceil(1024)
    )]
    ArenaLock {
        /// Bytes to lock.
        needed_bytes: usize,
        /// The limit now (RLIMIT_MEMLOCK); `None`: none.
        soft_bytes: Option<u64>,
        /// What it may be raised to without privileges; `None`: anything.
        hard_bytes: Option<u64>,
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
    /// The endpoint's shard does not exist.
    #[error(
        "shard {shard} of {shards}: shards count from 0, expected a lesser one; set `shards` to the \
         number of endpoints that the instance runs"
    )]
    Shard {
        /// Its shard.
        shard: u16,
        /// Number of shards.
        shards: u16,
    },
    /// A value of the configuration cannot work.
    #[error("{what} is {found}, expected {expected}")]
    Config {
        /// The value's name.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The configuration demands verbs, and this host cannot.
    #[error("the configuration demands verbs: {0}; or allow TCP (`auto`)")]
    Verbs(#[from] crate::link::verbs::VerbsError),
    /// A region cannot be opened for reads.
    #[error("region {region} of frames {first} to {end} cannot be opened: {problem}")]
    Region {
        /// Its number.
        region: pagewire_protocol::RegionId,
        /// First of the frames.
        first: u32,
        /// The frame after the last.
        end: u32,
        /// What was found, and what was expected.
        problem: &'static str,
    },
    /// There is no such region to close.
    #[error(
        "region {region} is not open, expected the number of one that was opened and is not closed yet"
    )]
    RegionNotOpen {
        /// Its number.
        region: pagewire_protocol::RegionId,
    },
    /// The arena has not even a frame to receive into for each peer and lane.
    #[error(
        "the arena has {frames} frames for {peers} peers, expected at least {least} to receive at \
         all and {wanted} to receive and send without waiting: ask for a larger arena or lower the \
         credits"
    )]
    FramesForPeers {
        /// Frames of the arena.
        frames: u32,
        /// Peers, the new one included.
        peers: u32,
        /// Fewest frames that work.
        least: u32,
        /// Frames that the credits call for.
        wanted: u32,
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

fn limit(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "no limit".to_owned(), |bytes| format!("{bytes} bytes"))
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
    /// The queue pairs failed, or cannot be used.
    #[error("verbs failed: {0}")]
    Verbs(#[from] crate::link::verbs::VerbsError),
    /// The two ends do not agree on what the link is on.
    #[error("the ends of the link disagree: {0}")]
    Switch(#[from] SwitchError),
    /// The configuration demands verbs, and that is not to be had.
    #[error(
        "the configuration demands verbs, and with this peer it cannot be used ({reason}, {whose} \
         end): mend that, or allow TCP (`auto`)"
    )]
    VerbsDemanded {
        /// Why not.
        reason: pagewire_protocol::TcpReason,
        /// Which end it is about: "this" or "the other".
        whose: &'static str,
    },
    /// The link was replaced by a newer one of the same peer.
    #[error("the peer opened a new link")]
    Replaced,
    /// Nothing was heard of the peer.
    #[error(
        "nothing was heard for {silent_ms} ms, expected a keepalive within {limit_ms} ms: its host \
         is down, cut off or stopped; or its build is older and its `keepalive_ms` longer than that: \
         make it at most half of the `peer_timeout_ms` here"
    )]
    Silent {
        /// How long it has been silent.
        silent_ms: u128,
        /// The limit.
        limit_ms: u128,
    },
    /// The session is over.
    #[error("the session was ended: its incarnation is over")]
    Ended,
    /// Nothing answered at the peer's address in time.
    #[error("nothing answered within {limit_ms} ms")]
    ConnectTimeout {
        /// The limit.
        limit_ms: u128,
    },
    /// The handshake was not finished in time.
    #[error("the handshake took longer than {limit_ms} ms")]
    HandshakeTimeout {
        /// The limit.
        limit_ms: u128,
    },
    /// The handshake went no further before anything was proven.
    #[error(transparent)]
    Handshake(#[from] pagewire_protocol::hello::HandshakeError),
    /// The peer refused the handshake.
    #[error("refused: {0:?}")]
    Refused(Refusal),
}

impl From<rustix::io::Errno> for LinkError {
    #[cold]
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// The other end did what no correct one does, or does not go on: close the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// A message that does not fit here.
    #[error("the peer said {said:?} about the link while this end was {phase}")]
    Unexpected {
        /// The message.
        said: LinkControl,
        /// How far this end was.
        phase: &'static str,
    },
    /// It did not switch.
    #[error("the peer did not move to {to} within {limit_ms} ms")]
    Stuck {
        /// The next link.
        to: LinkKind,
        /// The limit.
        limit_ms: u128,
    },
}
