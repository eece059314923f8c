//! A node: a shard on a thread of its own, and handles for any number of threads.

use super::{Handle, NodeCounters, Shard};
use crate::{config::NodeConfig, store::StoreError, view::ViewError};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use pagewire_protocol::{Incarnation, InstanceId};
use pagewire_transport::{ClusterKeyError, TransportError, Waker, counters::EndpointCounters};
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Longest sleep of an idle shard; whatever happens wakes it.
const SLEEP: Duration = Duration::from_secs(1);

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
    /// The arena leaves no room for pages.
    #[error("the arena has {frames} frames, expected at least {needed}: raise `arena_mb`")]
    ArenaTooSmall {
        /// Frames it has.
        frames: u32,
        /// Frames it must have.
        needed: u32,
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
    /// The shard's thread is gone.
    #[error("the node has stopped")]
    Stopped,
}

#[derive(Debug)]
enum Control {
    Peer(InstanceId, SocketAddr, Sender<Result<(), NodeError>>),
    Handle(Sender<Handle>),
    Flush(Sender<Result<(), String>>),
    Status(Sender<Status>),
    Stop,
}

#[derive(Debug)]
struct Status {
    missing: Vec<InstanceId>,
    refusal: Option<String>,
    any_refusal: Option<String>,
}

/// A running instance; dropping it stops its thread.
#[derive(Debug)]
pub struct Node {
    control: Sender<Control>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
    listen_address: SocketAddr,
    identity: (InstanceId, Incarnation),
    counters: Arc<NodeCounters>,
    endpoint_counters: Arc<EndpointCounters>,
}

impl Node {
    /// Starts an instance; the peers that the configuration names are dialled at once.
    ///
    /// # Errors
    /// [`NodeError`] with what was found, what was expected and what to do.
    pub fn start(config: &NodeConfig) -> Result<Self, NodeError> {
        let mut shard = Shard::new(config)?;
        for peer in &config.peers {
            shard.add_peer(peer.instance, peer.address)?;
        }
        let (control, inbox) = unbounded();
        let mut node = Self {
            control,
            waker: shard.waker(),
            listen_address: shard.listen_address(),
            identity: shard.identity(),
            counters: shard.counters(),
            endpoint_counters: shard.endpoint_counters(),
            thread: None,
        };
        let cores = config.poller_cores.clone();
        let thread = thread::Builder::new()
            .name("pagewire-shard".to_owned())
            .spawn(move || {
                pin(&cores);
                drive(&mut shard, &inbox);
            })
            .map_err(NodeError::Thread)?;
        node.thread = Some(thread);
        Ok(node)
    }

    fn tell(&self, control: Control) -> Result<(), NodeError> {
        self.control.send(control).map_err(|_| NodeError::Stopped)?;
        self.waker.wake();
        Ok(())
    }

    fn ask<T>(&self, control: impl FnOnce(Sender<T>) -> Control) -> Result<T, NodeError> {
        let (reply, answer) = bounded(1);
        self.tell(control(reply))?;
        answer.recv().map_err(|_| NodeError::Stopped)
    }

    /// Address that peers dial.
    #[must_use]
    pub fn listen_address(&self) -> SocketAddr {
        self.listen_address
    }

    /// Id and incarnation.
    #[must_use]
    pub fn identity(&self) -> (InstanceId, Incarnation) {
        self.identity
    }

    /// Counters.
    #[must_use]
    pub fn counters(&self) -> &NodeCounters {
        &self.counters
    }

    /// Counters of the transport.
    #[must_use]
    pub fn endpoint_counters(&self) -> &EndpointCounters {
        &self.endpoint_counters
    }

    /// Makes a peer known that the configuration did not name.
    ///
    /// # Errors
    /// [`NodeError::Transport`] when it is this instance or known already.
    pub fn add_peer(&self, id: InstanceId, address: SocketAddr) -> Result<(), NodeError> {
        self.ask(|reply| Control::Peer(id, address, reply))?
    }

    /// Waits until every other member has a session with this one.
    ///
    /// # Errors
    /// [`NodeError::PeersMissing`] after `limit`; [`NodeError::Refused`] when a peer refuses this
    /// instance for good, or still does after `limit`.
    pub fn wait_for_peers(&self, limit: Duration) -> Result<(), NodeError> {
        let deadline = Instant::now() + limit;
        loop {
            let Status { missing, refusal, any_refusal } = self.ask(Control::Status)?;
            if missing.is_empty() {
                return Ok(());
            }
            let is_late = Instant::now() >= deadline;
            if let Some(refusal) = refusal.or(any_refusal.filter(|_| is_late)) {
                return Err(NodeError::Refused(refusal));
            }
            if is_late {
                let missing = list(&missing);
                return Err(NodeError::PeersMissing { missing, limit_s: limit.as_secs() });
            }
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// A handle for one thread.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub fn handle(&self) -> Result<Handle, NodeError> {
        self.ask(Control::Handle)
    }

    /// Writes every dirty page back and makes it durable.
    ///
    /// # Errors
    /// The reason in words, when a page could not be written.
    pub fn flush(&self) -> Result<(), String> {
        self.ask(Control::Flush).map_err(|e| e.to_string())?
    }

    /// Members that there is no session with yet.
    ///
    /// # Errors
    /// [`NodeError::Stopped`]; [`NodeError::Refused`] when a peer refuses this instance for good.
    pub fn peers_missing(&self) -> Result<Vec<InstanceId>, NodeError> {
        let Status { missing, refusal, .. } = self.ask(Control::Status)?;
        refusal.map_or(Ok(missing), |refusal| Err(NodeError::Refused(refusal)))
    }
}

fn list(ids: &[InstanceId]) -> String {
    let name = |id: &InstanceId| format!("instance {id}");
    ids.iter().map(name).collect::<Vec<_>>().join(", ")
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.tell(Control::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// Pins this thread to the first of `cores`, if there is one.
fn pin(cores: &[usize]) {
    let Some(&wanted) = cores.first() else { return };
    let known = core_affinity::get_core_ids().unwrap_or_default();
    let pinned = known
        .into_iter()
        .find(|core| core.id == wanted)
        .is_some_and(core_affinity::set_for_current);
    if !pinned {
        tracing::warn!("cannot pin the shard to core {wanted}: this process may not use it");
    }
}

fn drive(shard: &mut Shard, inbox: &Receiver<Control>) {
    loop {
        while let Ok(control) = inbox.try_recv() {
            match control {
                Control::Peer(id, address, reply) => {
                    let _ = reply.send(shard.add_peer(id, address));
                }
                Control::Handle(reply) => {
                    let _ = reply.send(shard.handle());
                }
                Control::Flush(reply) => shard.flush(reply),
                Control::Status(reply) => {
                    let _ = reply.send(Status {
                        missing: shard.peers_missing(),
                        refusal: shard.refusal().map(str::to_owned),
                        any_refusal: shard.any_refusal().map(str::to_owned),
                    });
                }
                Control::Stop => return,
            }
        }
        if !shard.poll() {
            shard.wait(SLEEP, || !inbox.is_empty());
        }
    }
}
