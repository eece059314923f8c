//! The shards of one instance: where they listen, and the pollers that drive them.
//!
//! Shard n of an instance listens on the port of its first one + n and dials the same of its peers,
//! so one address stands for all of an instance's shards. With port 0 the system chooses the first
//! one's, and the others follow if they are free; if not, another row is tried.

use super::{
    counters::NodeCounters,
    error::NodeError,
    line::Line,
    redo::RedoLog,
    shard::{Place, Shard},
    shared::Panic,
};
use crate::{config::NodeConfig, si::shared::SiShared, view::View};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use pagewire_protocol::{BufferTag, Incarnation, InstanceId, Stat};
use pagewire_si::SiReader;
use pagewire_transport::{
    Arena, TransportError, Waker,
    counters::EndpointCounters,
    poller::{self, Poller, PollerConfig, PollerCounters, Progress},
};
use std::{
    any::Any,
    net::SocketAddr,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::{Duration, Instant},
};

/// Rows of ports that are tried where the system may choose.
const ROWS: u32 = 32;

/// How long a thread that answers no more may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(1);
/// How often its end is looked for.
const END_POLL: Duration = Duration::from_millis(1);

/// What the node asks a shard's thread.
#[derive(Debug)]
pub(super) enum Control {
    Peer(InstanceId, SocketAddr, Sender<Result<(), NodeError>>),
    Line(Sender<Line>),
    Flush(Sender<Result<(), String>>),
    Status(Sender<Status>),
    View(Arc<View>, Vec<(InstanceId, SocketAddr)>, Sender<Result<(), NodeError>>),
    LeaseLost(Sender<()>),
    RedoDone(InstanceId, Incarnation, Sender<()>),
    Leave(Sender<()>),
    SiReader(Sender<Result<SiReader, NodeError>>),
    StatPage(BufferTag, Sender<(InstanceId, Stat)>),
    StatInstance(InstanceId, Sender<(InstanceId, Stat)>),
    Loading(Sender<usize>),
    #[cfg(test)]
    Panic(&'static str, Sender<()>),
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
    panic: Arc<Panic>,
    /// To end its lease from any thread.
    pub(super) arena: Arena,
    pub(super) counters: Arc<NodeCounters>,
    pub(super) endpoint_counters: Arc<EndpointCounters>,
}

/// What a shard was asked, and will answer.
#[derive(Debug)]
pub(super) struct Answer<'a, T> {
    answer: Receiver<T>,
    shard: &'a Running,
}

impl<T> Answer<'_, T> {
    /// Waits for it; a shard that ends instead says why.
    pub(super) fn wait(self) -> Result<T, NodeError> {
        self.answer.recv().map_err(|_| self.shard.ended())
    }

    /// Waits for it until `deadline`; `None` when it has not come, or will not.
    pub(super) fn wait_until(self, deadline: Instant) -> Result<Option<T>, NodeError> {
        match self.answer.recv_deadline(deadline) {
            Ok(answer) => Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) if self.shard.poller.is_finished() => {
                Err(self.shard.ended())
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        }
    }
}

/// The shards of an instance before they run.
#[derive(Debug)]
pub(super) struct Shards {
    all: Vec<Shard>,
    longest_wait_ns: Arc<AtomicU64>,
    si: Arc<SiShared>,
}

/// Address of shard `number` of the instance whose first shard listens on `first`.
pub(super) fn address(first: SocketAddr, number: u16) -> Result<SocketAddr, NodeError> {
    let port = first.port().checked_add(number);
    let port = port.ok_or(NodeError::Ports { address: first, shard: number })?;
    Ok(SocketAddr::new(first.ip(), port))
}

impl Shards {
    /// All shards, listening. `storage_mark`: which storage the instance has, as peers are told.
    pub(super) fn open(
        config: &NodeConfig,
        redo: &Arc<dyn RedoLog>,
        storage_mark: u16,
    ) -> Result<Self, NodeError> {
        let mut rows = if config.listen.port() == 0 && config.shards > 1 { ROWS } else { 1 };
        loop {
            rows -= 1;
            match Self::open_row(config, redo, storage_mark) {
                Err(
                    NodeError::Transport(TransportError::Listen { .. }) | NodeError::Ports { .. },
                ) if rows > 0 => {}
                opened => return opened,
            }
        }
    }

    fn open_row(
        config: &NodeConfig,
        redo: &Arc<dyn RedoLog>,
        storage_mark: u16,
    ) -> Result<Self, NodeError> {
        let mut place = Place {
            number: 0,
            listen: config.listen,
            incarnation: config.next_incarnation(),
            clock: Arc::<AtomicU64>::default(),
            longest_wait_ns: Arc::default(),
            redo: Arc::clone(redo),
            si: Arc::new(SiShared::new(config.shards)),
            storage_mark,
        };
        let mut shards = vec![Shard::start(config, &place)?];
        let first = shards[0].listen_address();
        for number in 1..config.shards {
            (place.number, place.listen) = (number, address(first, number)?);
            shards.push(Shard::start(config, &place)?);
        }
        Ok(Self { all: shards, longest_wait_ns: place.longest_wait_ns, si: place.si })
    }

    /// Where the longest wait for a page is noted, in nanoseconds.
    pub(super) fn longest_wait_ns(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.longest_wait_ns)
    }

    /// Where invalidations are published.
    pub(super) fn si(&self) -> Arc<SiShared> {
        Arc::clone(&self.si)
    }

    /// Where the first listens.
    pub(super) fn listen_address(&self) -> SocketAddr {
        self.all[0].listen_address()
    }

    pub(super) fn identity(&self) -> (InstanceId, Incarnation) {
        self.all[0].identity()
    }

    /// Makes a peer known whose first shard listens on `first`.
    pub(super) fn add_peer(&mut self, id: InstanceId, first: SocketAddr) -> Result<(), NodeError> {
        let count = self.all.len();
        let addresses: Vec<_> =
            (0..).take(count).map(|number| address(first, number)).collect::<Result<_, _>>()?;
        for (shard, address) in self.all.iter_mut().zip(addresses) {
            shard.add_peer(id, address)?;
        }
        Ok(())
    }

    /// Gives each shard a poller.
    pub(super) fn run(self, config: &NodeConfig) -> Result<Vec<Running>, NodeError> {
        let start = |(number, shard): (usize, Shard)| {
            let (control, inbox) = unbounded();
            let (waker, counters) = (shard.waker(), shard.counters());
            let (endpoint_counters, panic) = (shard.endpoint_counters(), shard.panic());
            let arena = shard.arena();
            let poller = PollerConfig {
                name: format!("shard-{number}"),
                core: config.poller_cores.get(number).copied(),
                spin_budget: Duration::from_micros(config.spin_us),
            };
            let driver = Driver { shard, inbox, panic: Arc::clone(&panic) };
            let poller = Poller::start(poller, driver)?;
            Ok(Running { control, waker, poller, panic, arena, counters, endpoint_counters })
        };
        self.all.into_iter().enumerate().map(start).collect()
    }
}

impl Running {
    /// Asks the shard's thread.
    pub(super) fn ask<T>(
        &self,
        control: impl FnOnce(Sender<T>) -> Control,
    ) -> Result<Answer<'_, T>, NodeError> {
        let (reply, answer) = bounded(1);
        self.control.send(control(reply)).map_err(|_| self.ended())?;
        self.waker.wake();
        Ok(Answer { answer, shard: self })
    }

    /// Why the shard's thread does not answer.
    fn ended(&self) -> NodeError {
        let Panic { shard, message } = &*self.panic;
        // A panic drops what it passes, an answer among it, before it comes to where it is noted.
        let deadline = Instant::now() + ENDS_WITHIN;
        while message.get().is_none() && !self.poller.is_finished() && Instant::now() < deadline {
            thread::park_timeout(END_POLL);
        }
        match message.get() {
            Some(message) => NodeError::Panicked { shard: *shard, message: message.clone() },
            None => NodeError::Stopped,
        }
    }

    pub(super) fn stop(&self) {
        self.poller.stop();
    }

    pub(super) fn poller_counters(&self) -> Arc<PollerCounters> {
        self.poller.counters()
    }
}

/// Turns that a poller does not come between, and those of them in a row that find nothing to do.
const TURNS_MAX: u32 = 256;
const IDLE_TURNS_MAX: u32 = 4;

/// What a poller drives.
#[derive(Debug)]
struct Driver {
    shard: Shard,
    inbox: Receiver<Control>,
    panic: Arc<Panic>,
}

impl Driver {
    /// Runs `turn`. What a panic says is noted before the panic goes on and closes what the shard is
    /// asked through, so that whoever finds that closed finds the reason, too.
    fn noting<T>(&mut self, turn: impl FnOnce(&mut Self) -> T) -> T {
        let turned = panic::catch_unwind(AssertUnwindSafe(|| turn(self)));
        turned.unwrap_or_else(|payload| {
            let _ = self.panic.message.set(words(&*payload));
            panic::resume_unwind(payload)
        })
    }

    fn obey(&mut self) {
        while let Ok(control) = self.inbox.try_recv() {
            let shard = &mut self.shard;
            // Whoever asked and no longer waits does not need the answer.
            match control {
                Control::Peer(id, address, reply) => drop(reply.send(shard.add_peer(id, address))),
                Control::Line(reply) => drop(reply.send(shard.line())),
                Control::Flush(reply) => shard.flush(reply),
                Control::View(view, addresses, reply) => {
                    drop(reply.send(shard.install_view(&view, &addresses)));
                }
                Control::LeaseLost(reply) => {
                    shard.lose_lease();
                    let _ = reply.send(());
                }
                Control::RedoDone(instance, incarnation, reply) => {
                    shard.redo_done(instance, incarnation);
                    let _ = reply.send(());
                }
                Control::Leave(reply) => shard.leave(reply),
                Control::SiReader(reply) => drop(reply.send(shard.si_reader())),
                Control::StatPage(tag, reply) => shard.ask_about_page(tag, reply),
                Control::StatInstance(of, reply) => shard.ask_about_instance(of, reply),
                Control::Loading(reply) => drop(reply.send(shard.grd().loading().count())),
                #[cfg(test)]
                Control::Panic(words, _asker) => panic!("{words}"),
                Control::Status(reply) => {
                    shard.tell_refusals();
                    drop(reply.send(Status {
                        missing: shard.peers_missing(),
                        refusal: shard.refusal().map(str::to_owned),
                        any_refusal: shard.any_refusal().map(str::to_owned),
                    }));
                }
            }
        }
    }
}

impl Driver {
    fn one_turn(&mut self) -> Progress {
        self.obey();
        if self.shard.poll() { Progress::Worked } else { Progress::Idle }
    }

    /// Turns in one loop, which the shard's system calls are part of ([`Shard::poll`]): for as long as
    /// there is work, up to a bound, and until some in a row have found none.
    fn some_turns(&mut self) -> Progress {
        let (mut progress, mut idle_turns) = (Progress::Idle, 0);
        for _ in 0..TURNS_MAX {
            self.obey();
            if self.shard.poll() {
                (progress, idle_turns) = (Progress::Worked, 0);
            } else {
                idle_turns += 1;
                if idle_turns == IDLE_TURNS_MAX {
                    break;
                }
            }
        }
        progress
    }
}

impl poller::Shard for Driver {
    fn turn(&mut self) -> Progress {
        self.noting(Self::one_turn)
    }

    fn spin(&mut self) -> Progress {
        self.noting(Self::some_turns)
    }

    fn sleep(&mut self, longest: Duration, work_waits: &dyn Fn() -> bool) -> Progress {
        self.noting(|driver| {
            let inbox = &driver.inbox;
            let worked = driver.shard.wait(longest, || !inbox.is_empty() || work_waits());
            // It may have been woken for a command, which only a whole turn looks for.
            if worked { Progress::Worked } else { driver.one_turn() }
        })
    }

    fn waker(&self) -> Waker {
        self.shard.waker()
    }
}

/// What a panic said, if it said it in words.
fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no words".to_owned())
}
