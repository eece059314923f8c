//! What queue pairs are made with, what they are given and what they give back.

use crate::{
    Frame,
    link::verbs::{choice::Mtu, send_queue::SendQueue},
};
use pagewire_protocol::header::Slot;
use std::{fmt, net::Ipv6Addr};

/// How much work a queue pair has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Receives posted at once: the sum of the credits that are given.
    pub receives: u32,
    /// Sends and reads under way at once; rounded up to a power of two.
    pub sends: u32,
}

impl Capacity {
    /// Completions that the work can have at once: all of it, and the marker of a drain. The
    /// completion queue needs as many entries for each queue pair.
    #[must_use]
    pub fn completions(&self) -> u32 {
        let sends = SendQueue::depth_of(self.sends);
        self.receives.saturating_add(sends).saturating_add(1)
    }
}

/// What a queue pair is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePairOptions {
    /// Comes back with each completion, to find the queue pair again.
    pub tag: u16,
    /// How much work it has room for.
    pub capacity: Capacity,
    /// Every receive has a frame; sends may have one.
    pub carries_frames: bool,
    /// Peers may read from the memory region, which must be registered for that.
    pub remote_reads: bool,
    /// Ask for sends whose message travels in the work request, if the driver is known to do it
    /// well.
    pub inline: bool,
}

/// What a peer has to know to connect: exchanged over the handshake's TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuePairAddress {
    /// Number of the queue pair, 24 bits.
    pub queue_pair: u32,
    /// Number of the first packet it sends, 24 bits.
    pub first_packet: u32,
    /// LID of its port; 0 on Ethernet.
    pub lid: u16,
    /// GID of its port; unspecified where packets have no global header.
    pub gid: Ipv6Addr,
    /// Greatest packet of its port.
    pub mtu: Mtu,
}

/// Memory of a peer that it lets us read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteMemory {
    /// First address, as the peer knows it.
    pub address: u64,
    /// The peer's key ([`MemoryRegion::remote_key`](crate::link::verbs::MemoryRegion::remote_key)).
    pub key: u32,
}

/// Why work was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedReason {
    /// As much is under way as there is room for: take completions first.
    Full,
    /// The queue pair carries frames and there is none, or the other way round.
    WrongKind,
    /// The frame is not of the arena whose memory is registered.
    ForeignFrame,
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "as much work is under way as it has room for",
            Self::WrongKind => "it carries frames and there is none, or the other way round",
            Self::ForeignFrame => "the frame is not of the arena that is registered",
        })
    }
}

/// Work that was not queued, and the frame that came with it.
#[derive(Debug)]
pub struct Refused<F> {
    /// Why.
    pub reason: RefusedReason,
    /// The frame, as it was.
    pub frame: F,
}

/// What a completed receive has brought.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Header and body; zeros beyond what was sent.
    pub message: &'a mut Slot,
    /// Bytes of it that were sent; 0 when the receive failed.
    pub message_bytes: usize,
    /// The frame of the receive.
    pub frame: Option<Frame>,
    /// Bytes of the frame that were sent, from its start; the others are as they were.
    pub frame_bytes: usize,
}

/// What a completed send has ended.
#[derive(Debug)]
pub struct Sent {
    /// Requests that are done: this one and those before it that asked for no completion.
    pub requests: u32,
    /// The frame of a read, with what was read if the completion is a success.
    pub read: Option<Frame>,
}
