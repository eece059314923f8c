//! A node: its shards, each on a thread of its own, and handles for any number of threads.

use super::{
    counters::NodeCounters,
    error::NodeError,
    handle::Handle,
    links::{self, PeerLinks, WhyTcp},
    redo::{NothingToFlush, RedoLog},
    shards::{self, Answer, Control, Running, Shards, Status},
};
use crate::{
    config::NodeConfig,
    si::shared::SiShared,
    store::{Store, marks::Marks},
    view::View,
};
use crossbeam_channel::Sender;
use pagewire_protocol::{Incarnation, InstanceId, hello::storage_mark};
use pagewire_transport::{
    LinkPolicy,
    counters::{EndpointCounters, PeerCounters},
    poller::PollerCounters,
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A running instance; dropping it stops its threads.
#[derive(Debug)]
pub struct Node {
    pub(super) shards: Vec<Running>,
    /// The view that was put in force last.
    pub(super) view: Mutex<Arc<View>>,
    listen_address: SocketAddr,
    identity: (InstanceId, Incarnation),
    transport: LinkPolicy,
    longest_wait_ns: Arc<AtomicU64>,
    endpoint_counters: Vec<Arc<EndpointCounters>>,
    marks: Marks,
    pub(super) si: Arc<SiShared>,
    pub(super) si_ring: Option<PathBuf>,
}

impl Node {
    /// Starts an instance; the peers that the configuration names are dialled at once.
    ///
    /// # Errors
    /// [`NodeError`] with what was found, what was expected and what to do.
    pub fn start(config: &NodeConfig) -> Result<Self, NodeError> {
        Self::start_with(config, &(Arc::new(NothingToFlush) as _))
    }

    /// As [`Node::start`], for an instance that has a redo log: no page that it describes leaves
    /// before its redo is durable.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_with(config: &NodeConfig, redo: &Arc<dyn RedoLog>) -> Result<Self, NodeError> {
        // Before anything is written there.
        Store::open(&config.storage, config.page_size)?;
        let marks = Marks::claim(&config.storage, config.cluster, config.page_size)?;
        let mut shards = Shards::open(config, redo, storage_mark(marks.storage_id()))?;
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        config.notes().iter().for_each(|note| tracing::info!("{note}"));
        for peer in &config.peers {
            shards.add_peer(peer.instance, peer.address)?;
        }
        let (listen_address, identity) = (shards.listen_address(), shards.identity());
        // Before a peer can have a session with this instance, and look for it.
        marks.leave(identity.0, identity.1)?;
        let (longest_wait_ns, si) = (shards.longest_wait_ns(), shards.si());
        let shards = shards.run(config)?;
        let endpoint_counters = shards.iter().map(|s| Arc::clone(&s.endpoint_counters)).collect();
        let transport = config.transport;
        let view = Mutex::new(config.view()?);
        Ok(Self {
            shards,
            view,
            listen_address,
            identity,
            transport,
            longest_wait_ns,
            endpoint_counters,
            marks,
            si,
            si_ring: config.si_ring.clone(),
        })
    }

    /// Asks all shards at once; the answers in their order.
    pub(super) fn ask<T>(
        &self,
        control: impl Fn(Sender<T>) -> Control,
    ) -> Result<Vec<T>, NodeError> {
        let asked: Vec<_> =
            self.shards.iter().map(|shard| shard.ask(&control)).collect::<Result<_, _>>()?;
        asked.into_iter().map(Answer::wait).collect()
    }

    /// What the shards say together: an instance has a peer when all its shards do, and messages can
    /// go where the configuration wants them.
    fn status(&self) -> Result<Status, NodeError> {
        let mut missing = BTreeSet::new();
        let (mut refusal, mut any_refusal) = (None, None);
        for status in self.ask(Control::Status)? {
            missing.extend(status.missing);
            refusal = refusal.or(status.refusal);
            any_refusal = any_refusal.or(status.any_refusal);
        }
        if self.transport == LinkPolicy::Verbs {
            let not_yet = self.links().into_iter().filter(|links| !links.is_on_verbs());
            missing.extend(not_yet.map(|links| links.peer));
        }
        Ok(Status { missing: missing.into_iter().collect(), refusal, any_refusal })
    }

    /// Address that peers dial: the first shard's; the others listen on the ports that follow.
    #[must_use]
    pub fn listen_address(&self) -> SocketAddr {
        self.listen_address
    }

    /// Where the shards listen, in their order.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<SocketAddr> {
        let address = |(at, _)| shards::address(self.listen_address, at).ok();
        (0..).zip(&self.shards).filter_map(address).collect()
    }

    /// Id and incarnation.
    #[must_use]
    pub fn identity(&self) -> (InstanceId, Incarnation) {
        self.identity
    }

    /// The longest that a thread has waited for a page, of the waits that have ended since this was
    /// asked last.
    #[must_use]
    pub fn take_longest_wait(&self) -> Duration {
        Duration::from_nanos(self.longest_wait_ns.swap(0, Ordering::Relaxed))
    }

    /// Counters, summed over the shards, as they are now.
    #[must_use]
    pub fn counters(&self) -> NodeCounters {
        NodeCounters::sum(self.shards.iter().map(|shard| &*shard.counters))
    }

    /// What the links to each peer are on, and why not on verbs.
    #[must_use]
    pub fn links(&self) -> Vec<PeerLinks> {
        links::of(&self.endpoint_counters)
    }

    /// The lives of the peers that there is a link with.
    #[must_use]
    pub fn linked_lives(&self) -> Vec<(InstanceId, Incarnation)> {
        let peers = self.endpoint_counters.first().map(|shard| shard.peers()).unwrap_or_default();
        let is_linked = |counters: &PeerCounters| counters.is_known() && counters.on().is_some();
        let linked = peers.into_iter().filter(|(_, counters)| is_linked(counters));
        linked.map(|(id, counters)| (id, Incarnation(counters.incarnation.get()))).collect()
    }

    /// The marks in its storage.
    #[must_use]
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Counters of the transport, by shard.
    #[must_use]
    pub fn endpoint_counters(&self) -> &[Arc<EndpointCounters>] {
        &self.endpoint_counters
    }

    /// Counters of the threads that drive the shards, by shard.
    #[must_use]
    pub fn poller_counters(&self) -> Vec<Arc<PollerCounters>> {
        self.shards.iter().map(Running::poller_counters).collect()
    }

    /// Makes a peer known that the configuration did not name; `address` is its first shard's.
    ///
    /// # Errors
    /// [`NodeError::Transport`] when it is this instance or known already; [`NodeError::Ports`].
    pub fn add_peer(&self, id: InstanceId, address: SocketAddr) -> Result<(), NodeError> {
        for (shard, number) in self.shards.iter().zip(0..) {
            let address = shards::address(address, number)?;
            shard.ask(|reply| Control::Peer(id, address, reply))?.wait()??;
        }
        Ok(())
    }

    /// Waits until every other member has a session with this one.
    ///
    /// # Errors
    /// [`NodeError::PeersMissing`] after `limit`; [`NodeError::Refused`] when a peer refuses this
    /// instance for good, or still does after `limit`.
    pub fn wait_for_peers(&self, limit: Duration) -> Result<(), NodeError> {
        let deadline = Instant::now() + limit;
        loop {
            let Status { missing, refusal, any_refusal } = self.status()?;
            if missing.is_empty() {
                return Ok(());
            }
            let is_late = Instant::now() >= deadline;
            if let Some(refusal) = refusal.or(any_refusal.filter(|_| is_late)) {
                return Err(NodeError::Refused(refusal));
            }
            if is_late {
                let missing = self.list(&missing);
                return Err(NodeError::PeersMissing { missing, limit_s: limit.as_secs() });
            }
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// A handle for one thread.
    ///
    /// # Errors
    /// [`NodeError::Stopped`], [`NodeError::Panicked`].
    pub fn handle(&self) -> Result<Handle, NodeError> {
        self.ask(Control::Line).map(Handle::new)
    }

    /// Writes every dirty page back and makes it durable.
    ///
    /// # Errors
    /// The reason in words, when a page could not be written.
    pub fn flush(&self) -> Result<(), String> {
        let flushed = self.ask(Control::Flush).map_err(|e| e.to_string())?;
        flushed.into_iter().collect()
    }

    /// Members that there is no link with: not yet, or not now.
    ///
    /// # Errors
    /// [`NodeError::Stopped`], [`NodeError::Panicked`]; [`NodeError::Refused`] when a peer refuses
    /// this instance for good.
    pub fn peers_missing(&self) -> Result<Vec<InstanceId>, NodeError> {
        let Status { missing, refusal, .. } = self.status()?;
        refusal.map_or(Ok(missing), |refusal| Err(NodeError::Refused(refusal)))
    }

    /// Peers by name; where verbs is demanded, with what speaks against it.
    fn list(&self, ids: &[InstanceId]) -> String {
        let links = if self.transport == LinkPolicy::Verbs { self.links() } else { Vec::new() };
        let name = |id: &InstanceId| {
            let of_peer = links.iter().find(|links| links.peer == *id);
            let why: Vec<WhyTcp> =
                of_peer.into_iter().flat_map(PeerLinks::all_reasons).map(|(why, _)| why).collect();
            match why.as_slice() {
                [] => format!("instance {id}"),
                [why, ..] => format!("instance {id} (over verbs, as configured: {why})"),
            }
        };
        ids.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // All are told before the first one is waited for.
        self.shards.iter().for_each(Running::stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grd::AcquireError;
    use pagewire_protocol::{BufferTag, ClusterId};

    #[test]
    fn who_asks_a_shard_that_has_panicked_is_told_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let (me, listen) = (InstanceId(0), "127.0.0.1:0".parse().unwrap());
        let config = NodeConfig::new(ClusterId(1), me, vec![me], listen, folder.path().to_owned());
        let config = NodeConfig { arena_mb: 4, huge_pages: false, shards: 2, ..config };
        let node = Node::start(&config).unwrap();
        let handle = node.handle().unwrap();
        let asked = node.shards[1].ask(|reply| Control::Panic("out of luck", reply)).unwrap();
        let told = asked.wait().unwrap_err().to_string();
        assert!(told.contains("shard 1 of the node has panicked: out of luck"), "{told}");
        let told = node.peers_missing().unwrap_err().to_string();
        assert!(told.contains("out of luck"), "{told}");
        let of_shard = |shard| {
            let mut tags = (0..).map(|block| BufferTag { block, ..BufferTag::default() });
            tags.find(|tag| tag.shard(2) == shard).unwrap()
        };
        let error = handle.read(of_shard(1)).map(drop).unwrap_err();
        assert!(matches!(error, AcquireError::Panicked { shard: 1, .. }), "{error}");
        assert!(error.to_string().contains("out of luck"), "{error}");
        // The other shard goes on: there is no such file, which it finds out.
        let error = handle.read(of_shard(0)).map(drop).unwrap_err();
        assert!(matches!(error, AcquireError::Storage { .. }), "{error}");
    }
}
