//! What messages with a peer are on, and why not on verbs: read from the transport's counters.

use pagewire_protocol::{InstanceId, LinkKind, TcpReason};
use pagewire_transport::counters::{Counter, EndpointCounters, PeerCounters};
use std::{collections::BTreeMap, fmt, sync::Arc};

const REASONS: usize = TcpReason::ALL.len();

/// Which end of a link a reason is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// This instance's.
    This,
    /// The peer's.
    Other,
}

/// Why messages are not on verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WhyTcp {
    /// The reason.
    pub reason: TcpReason,
    /// Whose it is.
    pub end: End,
}

impl fmt::Display for WhyTcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.end {
            End::This => "this end",
            End::Other => "the other end",
        };
        write!(f, "{} at {end} ({})", self.reason, words(self.reason))
    }
}

/// What a reason means, in words for operators.
#[must_use]
pub fn words(reason: TcpReason) -> &'static str {
    match reason {
        TcpReason::Configured => "the configuration says tcp",
        TcpReason::NoLibrary => "libibverbs or the device's provider is missing",
        TcpReason::NoKernelSupport => "the kernel has no RDMA support, or it is not loaded",
        TcpReason::NoDevice => "no RDMA device can be used",
        TcpReason::NoPort => "no active RDMA port has the address, or what is configured",
        TcpReason::NotRegistered => "the arena cannot be registered: see the memlock limit",
        TcpReason::Setup => "queue pairs cannot be made or connected",
        TcpReason::Timeout => "the other side does not answer in time",
        TcpReason::Failed => "the queue pairs failed; the log says how",
        _ => "a reason that this version does not know",
    }
}

/// What the links to one peer are on, one link for each shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLinks {
    /// The peer.
    pub peer: InstanceId,
    /// By shard; `None`: no link now.
    pub on: Vec<Option<LinkKind>>,
    /// How often messages fell from verbs to TCP, of all shards together.
    pub falls_to_tcp: u64,
    /// How often verbs was not used for a reason of this end's ([`TcpReason::index`]).
    pub reasons: [u64; REASONS],
    /// The same for reasons of the peer's.
    pub reasons_theirs: [u64; REASONS],
}

impl PeerLinks {
    /// `shards` links to `peer` about which nothing is known.
    #[must_use]
    pub fn new(peer: InstanceId, shards: usize) -> Self {
        Self {
            peer,
            on: vec![None; shards],
            falls_to_tcp: 0,
            reasons: [0; REASONS],
            reasons_theirs: [0; REASONS],
        }
    }

    /// True when every shard's messages are on verbs.
    #[must_use]
    pub fn is_on_verbs(&self) -> bool {
        self.on.iter().all(|on| *on == Some(LinkKind::Verbs))
    }

    /// Links on `kind`.
    #[must_use]
    pub fn count(&self, kind: Option<LinkKind>) -> usize {
        self.on.iter().filter(|on| **on == kind).count()
    }

    /// Every reason that was ever given, with how often.
    pub fn all_reasons(&self) -> impl Iterator<Item = (WhyTcp, u64)> {
        let of = |end: End, counts: &[u64; REASONS]| {
            let counts = *counts;
            TcpReason::ALL
                .into_iter()
                .zip(counts)
                .map(move |(reason, n)| (WhyTcp { reason, end }, n))
        };
        let both = of(End::This, &self.reasons).chain(of(End::Other, &self.reasons_theirs));
        both.filter(|(_, count)| *count > 0)
    }

    fn add(&mut self, shard: usize, counters: &PeerCounters) {
        let add = |sums: &mut [u64; REASONS], counts: &[Counter; REASONS]| {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count.get());
        };
        self.on[shard] = counters.on();
        self.falls_to_tcp += counters.falls_to_tcp.get();
        add(&mut self.reasons, &counters.tcp_reasons);
        add(&mut self.reasons_theirs, &counters.tcp_reasons_theirs);
    }
}

/// The links of an instance with these counters, by peer.
pub(super) fn of(shards: &[Arc<EndpointCounters>]) -> Vec<PeerLinks> {
    let mut links = BTreeMap::new();
    for (shard, counters) in shards.iter().enumerate() {
        for (peer, counters) in counters.peers().into_iter().filter(|(_, c)| c.is_known()) {
            let of_peer = links.entry(peer).or_insert_with(|| PeerLinks::new(peer, shards.len()));
            of_peer.add(shard, &counters);
        }
    }
    links.into_values().collect()
}
