//! A node: a shard on a thread of its own, and handles for any number of threads.

use super::{Handle, NodeCounters, Shard};
use crate::{config::NodeConfig, store::StoreError, view::ViewError};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use pagewire_protocol::{Incarnation, InstanceId};
use pagewire_transport::{TransportError, Waker, counters::EndpointCounters};
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
        "{up} of {expected} peers are up after {limit_s} s: start the others, and see that their \
         addresses are right"
    )]
    PeersMissing {
        /// Peers with a session.
        up: usize,
        /// Peers configured.
        expected: usize,
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
    peers_up: usize,
    refusal: Option<String>,
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
    peers: usize,
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
            peers: config.members.len() - 1,
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
    /// [`NodeError::PeersMissing`] after `limit`, [`NodeError::Refused`] as soon as a peer refuses.
    pub fn wait_for_peers(&self, limit: Duration) -> Result<(), NodeError> {
        let deadline = Instant::now() + limit;
        loop {
            let Status { peers_up, refusal } = self.ask(Control::Status)?;
            if peers_up == self.peers {
                return Ok(());
            }
            if let Some(refusal) = refusal {
                return Err(NodeError::Refused(refusal));
            }
            if Instant::now() >= deadline {
                let limit_s = limit.as_secs();
                return Err(NodeError::PeersMissing {
                    up: peers_up,
                    expected: self.peers,
                    limit_s,
                });
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

    /// Why a peer refuses this instance, if one does.
    ///
    /// # Errors
    /// [`NodeError::Stopped`].
    pub fn refusal(&self) -> Result<Option<String>, NodeError> {
        Ok(self.ask(Control::Status)?.refusal)
    }
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
                    let refusal = shard.refusal().map(str::to_owned);
                    let _ = reply.send(Status { peers_up: shard.peers_up(), refusal });
                }
                Control::Stop => return,
            }
        }
        if !shard.poll() {
            shard.wait(SLEEP, || !inbox.is_empty());
        }
    }
}
