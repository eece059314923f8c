//! A node as the ledger's agent sees it.

use crate::{
    agent::{GrantTimes, Instance, lines::LinkCounts},
    config::NodeConfig,
    grd::AcquireError,
    latency::GrantLatencies,
    ledger::workload::{PageWrite, Pages},
    runtime::{End, Handle, Node, NodeError, PeerLinks, ReadGuard, WhyTcp, WriteGuard},
    view::View,
};
use pagewire_protocol::{BufferTag, Incarnation, InstanceId, LinkKind, Lsn, TcpReason};
use pagewire_transport::arena::LeaseExpired;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// A running node that an agent drives.
#[derive(Debug)]
pub struct NodeInstance {
    node: Node,
    config: NodeConfig,
}

impl NodeInstance {
    /// Starts the node.
    ///
    /// # Errors
    /// [`NodeError`] with what was found, what was expected and what to do.
    pub fn start(config: NodeConfig) -> Result<Self, NodeError> {
        Ok(Self { node: Node::start(&config)?, config })
    }
}

impl Instance for NodeInstance {
    type Worker = Handle;

    fn identity(&self) -> (InstanceId, Incarnation) {
        self.node.identity()
    }

    fn listen_address(&self) -> SocketAddr {
        self.node.listen_address()
    }

    fn set_peers(&mut self, peers: &[(InstanceId, SocketAddr)]) -> Result<(), String> {
        for &(id, address) in peers.iter().filter(|(id, _)| *id != self.config.instance) {
            if !self.config.members.contains(&id) {
                let members = &self.config.members;
                return Err(format!("peer {id} is no member, expected one of {members:?}"));
            }
            self.node.add_peer(id, address).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn meet(&self, peers: &[(InstanceId, SocketAddr)]) -> Result<(), String> {
        let meet = |&(id, address)| self.node.add_peer(id, address).map_err(|e| e.to_string());
        peers.iter().filter(|(id, _)| *id != self.config.instance).try_for_each(meet)
    }

    fn wait_ready(&mut self, timeout: Duration) -> Result<(), String> {
        self.node.wait_for_peers(timeout).map_err(|e| e.to_string())
    }

    fn install_view(&self, view: &[u8]) -> Result<u64, String> {
        let view = Arc::new(View::decode(view).map_err(|e| e.to_string())?);
        self.node.install_view(&view, &[]).map_err(|e| e.to_string())?;
        Ok(view.epoch().0)
    }

    fn is_settled(&self) -> Result<bool, String> {
        let loading = self.node.partitions_loading();
        loading.map(|loading| loading == 0).map_err(|e| e.to_string())
    }

    fn leave(&self, timeout: Duration) -> Result<(), String> {
        self.node.leave(timeout).map_err(|e| e.to_string())
    }

    fn take_longest_wait(&self) -> Duration {
        self.node.take_longest_wait()
    }

    fn worker(&self) -> Result<Handle, String> {
        self.node.handle().map_err(|e| e.to_string())
    }

    fn flush(&self) -> Result<(), String> {
        self.node.flush()
    }

    fn counters(&self) -> (u64, u64) {
        let counters = self.node.counters();
        (counters.pages_shipped.get(), counters.bytes_shipped.get())
    }

    fn links(&self) -> LinkCounts {
        let mut counts = LinkCounts::default();
        let me = self.config.instance;
        let links = self.node.links();
        for links in links.iter().filter(|links| links.peer > me) {
            counts.verbs += links.count(Some(LinkKind::Verbs)) as u64;
            counts.tcp += links.count(Some(LinkKind::Tcp)) as u64;
            counts.down += links.count(None) as u64;
            counts.falls_to_tcp += links.falls_to_tcp;
        }
        // Each reason where it comes from, since the other end need not hear of it; only that TCP is
        // configured is counted by the one that hears it.
        let is_counted =
            |why: &WhyTcp| (why.end == End::Other) == (why.reason == TcpReason::Configured);
        let reasons = links.iter().flat_map(PeerLinks::all_reasons);
        for (why, count) in reasons.filter(|(why, _)| is_counted(why)) {
            *counts.tcp_reasons.entry(why.reason.name().to_owned()).or_default() += count;
        }
        counts
    }

    fn stop(self) -> Result<(), String> {
        drop(self.node);
        Ok(())
    }
}

impl GrantTimes for Handle {
    fn latencies(&self) -> GrantLatencies {
        Self::latencies(self)
    }
}

impl Pages for Handle {
    type Read<'a> = ReadGuard<'a>;
    type Write<'a> = WriteGuard<'a>;
    type Error = AcquireError;

    fn read(&self, tag: BufferTag) -> Result<ReadGuard<'_>, AcquireError> {
        Self::read(self, tag)
    }

    fn write(&self, tag: BufferTag) -> Result<WriteGuard<'_>, AcquireError> {
        Self::write(self, tag)
    }
}

impl PageWrite for WriteGuard<'_> {
    fn update(&mut self, change: &mut dyn FnMut(&mut [u8])) -> Result<Lsn, LeaseExpired> {
        WriteGuard::update(self, change)
    }
}
