//! A node as the ledger's agent sees it.

use crate::{
    agent::{GrantTimes, Instance, lines::LinkCounts},
    config::NodeConfig,
    grd::AcquireError,
    latency::GrantLatencies,
    ledger::workload::{PageWrite, Pages},
    runtime::{End, Handle, Node, NodeError, PeerLinks, ReadGuard, WhyTcp, WriteGuard},
    si::{PublishError, Publisher},
    view::View,
};
use pagewire_protocol::{
    BufferTag, Incarnation, InstanceId, LinkKind, Lsn, SiMessage, TcpReason, si::CatcacheId,
};
use pagewire_si::{SiEntry, SiRead, SiReader};
use pagewire_transport::arena::LeaseExpired;
use std::{
    cell::RefCell,
    net::SocketAddr,
    ops::Deref,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// How long there may be no room for one more invalidation.
const PUBLISH_LIMIT: Duration = Duration::from_secs(30);

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
    type Worker = Worker;

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

    fn worker(&self) -> Result<Worker, String> {
        let handle = self.node.handle().map_err(|e| e.to_string())?;
        let reader = self.node.si_reader().map_err(|e| e.to_string())?;
        Ok(Worker { handle, publisher: self.node.si_publisher(), reader: RefCell::new(reader) })
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

/// One worker's access to pages, and to invalidations.
#[derive(Debug)]
pub struct Worker {
    handle: Handle,
    publisher: Publisher,
    reader: RefCell<SiReader>,
}

/// A page that a worker holds exclusively.
#[derive(Debug)]
pub struct WorkerWrite<'a> {
    guard: WriteGuard<'a>,
    publisher: &'a Publisher,
    database: u32,
}

impl GrantTimes for Worker {
    fn latencies(&self) -> GrantLatencies {
        self.handle.latencies()
    }
}

impl Pages for Worker {
    type Read<'a> = ReadGuard<'a>;
    type Write<'a> = WorkerWrite<'a>;
    type Error = AcquireError;

    fn read(&self, tag: BufferTag) -> Result<ReadGuard<'_>, AcquireError> {
        self.handle.read(tag)
    }

    fn write(&self, tag: BufferTag) -> Result<WorkerWrite<'_>, AcquireError> {
        let (publisher, database) = (&self.publisher, tag.database);
        Ok(WorkerWrite { guard: self.handle.write(tag)?, publisher, database })
    }

    fn can_publish(&self) -> bool {
        true
    }

    fn moved(&self, forget: &mut dyn FnMut(Option<u32>)) {
        let mut reader = self.reader.borrow_mut();
        let mut entries = [SiEntry::default(); 64];
        while reader.has_new() {
            match reader.read(&mut entries) {
                SiRead::Messages(count) => {
                    for entry in &entries[..count] {
                        if let Ok(SiMessage::Catcache { hash, .. }) = entry.message() {
                            forget(Some(hash));
                        }
                    }
                }
                SiRead::Reset => forget(None),
                // The ring is this process's own: it lasts as long as its node.
                SiRead::Gone => return forget(None),
            }
        }
    }
}

impl Deref for WorkerWrite<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.guard
    }
}

impl PageWrite for WorkerWrite<'_> {
    fn update(&mut self, change: &mut dyn FnMut(&mut [u8])) -> Result<Lsn, LeaseExpired> {
        self.guard.update(change)
    }

    fn publish_moved(&mut self, numbers: &[u32]) -> Result<(), String> {
        let (cache, database) = (CatcacheId::default(), self.database);
        let message = |number: &u32| SiMessage::Catcache { cache, database, hash: *number };
        let messages: Vec<_> = numbers.iter().map(message).collect();
        let deadline = Instant::now() + PUBLISH_LIMIT;
        loop {
            match self.guard.publish(self.publisher, &messages) {
                Ok(_ticket) => return Ok(()),
                Err(PublishError::Full { .. }) if Instant::now() < deadline => thread::yield_now(),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
