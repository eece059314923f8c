//! The shards of one instance: where they listen, and the pollers that drive them.
//!
//! Shard n of an instance listens on the port of its first one + n and dials the same of its peers,
//! so one address stands for all of an instance's shards. With port 0 the system chooses the first
//! one's, and the others follow if they are free; if not, another row is tried.

use super::{NodeCounters, Shard, handle::Line, node::NodeError, shard::Place};
use crate::config::NodeConfig;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use pagewire_protocol::{Incarnation, InstanceId};
use pagewire_transport::{
    TransportError, Waker,
    counters::EndpointCounters,
    poller::{self, Poller, PollerConfig, PollerCounters, Progress},
};
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

/// Rows of ports that are tried where the system may choose.
const ROWS: u32 = 32;

/// What the node asks a shard's thread.
#[derive(Debug)]
pub(super) enum Control {
    Peer(InstanceId, SocketAddr, Sender<Result<(), NodeError>>),
    Line(Sender<Line>),
    Flush(Sender<Result<(), String>>),
    Status(Sender<Status>),
}

#[derive(Debug)]
pub(super) struct Status {
    pub(super) missing: Vec<InstanceId>,
    pub(super) refusal: Option<String>,
    pub(super) any_refusal: Option<String>,
}

/// A shard and the poller that drives it.
#[derive(Debug)]
pub(super) struct Running {
    control: Sender<Control>,
    waker: Waker,
    poller: Poller<Driver>,
    pub(super) counters: Arc<NodeCounters>,
    pub(super) endpoint_counters: Arc<EndpointCounters>,
}

/// The shards of an instance before they run.
#[derive(Debug)]
pub(super) struct Shards(Vec<Shard>);

/// Address of shard `number` of the instance whose first shard listens on `first`.
pub(super) fn address(first: SocketAddr, number: u16) -> Result<SocketAddr, NodeError> {
    let port = first.port().checked_add(number);
    let port = port.ok_or(NodeError::Ports { address: first, shard: number })?;
    Ok(SocketAddr::new(first.ip(), port))
}

impl Shards {
    /// All shards, listening.
    pub(super) fn open(config: &NodeConfig) -> Result<Self, NodeError> {
        let mut rows = if config.listen.port() == 0 && config.shards > 1 { ROWS } else { 1 };
        loop {
            rows -= 1;
            match Self::open_row(config) {
                Err(
                    NodeError::Transport(TransportError::Listen { .. }) | NodeError::Ports { .. },
                ) if rows > 0 => {}
                opened => return opened,
            }
        }
    }

    fn open_row(config: &NodeConfig) -> Result<Self, NodeError> {
        let mut place = Place {
            number: 0,
            listen: config.listen,
            incarnation: config.next_incarnation(),
            clock: Arc::<AtomicU64>::default(),
        };
        let mut shards = vec![Shard::start(config, &place)?];
        let first = shards[0].listen_address();
        for number in 1..config.shards {
            (place.number, place.listen) = (number, address(first, number)?);
            shards.push(Shard::start(config, &place)?);
        }
        Ok(Self(shards))
    }

    /// Where the first listens.
    pub(super) fn listen_address(&self) -> SocketAddr {
        self.0[0].listen_address()
    }

    pub(super) fn identity(&self) -> (InstanceId, Incarnation) {
        self.0[0].identity()
    }

    /// Makes a peer known whose first shard listens on `first`.
    pub(super) fn add_peer(&mut self, id: InstanceId, first: SocketAddr) -> Result<(), NodeError> {
        for (shard, number) in self.0.iter_mut().zip(0..) {
            shard.add_peer(id, address(first, number)?)?;
        }
        Ok(())
    }

    /// Gives each shard a poller.
    pub(super) fn run(self, config: &NodeConfig) -> Result<Vec<Running>, NodeError> {
        let start = |(number, shard): (usize, Shard)| {
            let (control, inbox) = unbounded();
            let (waker, counters) = (shard.waker(), shard.counters());
            let endpoint_counters = shard.endpoint_counters();
            let poller = PollerConfig {
                name: format!("shard-{number}"),
                core: config.poller_cores.get(number).copied(),
                spin_budget: Duration::from_micros(config.spin_us),
            };
            let poller = Poller::start(poller, Driver { shard, inbox })?;
            Ok(Running { control, waker, poller, counters, endpoint_counters })
        };
        self.0.into_iter().enumerate().map(start).collect()
    }
}

impl Running {
    /// Asks the shard's thread; the answer is waited for at the receiver.
    pub(super) fn ask<T>(
        &self,
        control: impl FnOnce(Sender<T>) -> Control,
    ) -> Result<Receiver<T>, NodeError> {
        let (reply, answer) = bounded(1);
        self.control.send(control(reply)).map_err(|_| NodeError::Stopped)?;
        self.waker.wake();
        Ok(answer)
    }

    pub(super) fn stop(&self) {
        self.poller.stop();
    }

    pub(super) fn poller_counters(&self) -> Arc<PollerCounters> {
        self.poller.counters()
    }
}

/// What a poller drives.
#[derive(Debug)]
struct Driver {
    shard: Shard,
    inbox: Receiver<Control>,
}

impl Driver {
    fn obey(&mut self) {
        while let Ok(control) = self.inbox.try_recv() {
            let shard = &mut self.shard;
            // Whoever asked and no longer waits does not need the answer.
            match control {
                Control::Peer(id, address, reply) => drop(reply.send(shard.add_peer(id, address))),
                Control::Line(reply) => drop(reply.send(shard.line())),
                Control::Flush(reply) => shard.flush(reply),
                Control::Status(reply) => drop(reply.send(Status {
                    missing: shard.peers_missing(),
                    refusal: shard.refusal().map(str::to_owned),
                    any_refusal: shard.any_refusal().map(str::to_owned),
                })),
            }
        }
    }
}

impl poller::Shard for Driver {
    fn turn(&mut self) -> Progress {
        self.obey();
        if self.shard.poll() { Progress::Worked } else { Progress::Idle }
    }

    fn sleep(&mut self, longest: Duration, work_waits: &dyn Fn() -> bool) -> Progress {
        let inbox = &self.inbox;
        let worked = self.shard.wait(longest, || !inbox.is_empty() || work_waits());
        // It may have been woken for a command, which only a whole turn looks for.
        if worked { Progress::Worked } else { self.turn() }
    }

    fn waker(&self) -> Waker {
        self.shard.waker()
    }
}
