//! Pinned pollers: one thread for each shard, which spins, then sleeps, and is woken.
//!
//! Purpose: whoever does not want to call [`Endpoint::poll`](crate::Endpoint::poll) itself gives its
//! [`Shard`] (endpoint, frames, state machines) to [`Poller::start`]. The thread takes turns; when a
//! turn finds nothing it spins on for a budget, then arms and sleeps in the endpoint until a message
//! comes or a local producer calls the [`Waker`].
//!
//! ```text
//!            work                       the budget is over, or zero
//!   +------+ <---- +----------+ ---------------------------------> +--------+
//!   | turn |       | spinning |                                    | asleep |
//!   +------+ ----> +----------+ <--------------------------------- +--------+
//!            idle                a message, a Waker, a deadline
//! ```
//! Invariants: never more spinning pollers in this process than cores it may use, and never two on
//! one core: those concerned sleep as soon as they are idle, and a warning says what to change. A
//! panic in a shard ends its poller alone, and [`Poller::join`] tells it.
//!
//! Threading: the shard belongs to the poller's thread until it is joined; nothing on its path is
//! locked. What kind of link the endpoint has makes no difference here: it arms what it has.

mod cores;
mod idle;
mod registry;

use crate::{TransportError, Waker, counters::Counter};
use idle::Idle;
use registry::{Registry, Seat};
use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Longest sleep; whatever happens ends it.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// What a turn came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It found something to do.
    Worked,
    /// There was nothing to do.
    Idle,
    /// The shard wants no more turns.
    Done,
}

/// What a poller drives: an endpoint, and what its messages are for.
pub trait Shard: Send {
    /// One turn: polls the endpoint, takes its events, looks into the shard's own queues. Does not
    /// block.
    fn turn(&mut self) -> Progress;

    /// What a poller that spins calls: a few turns, for as long as there is something to do and a little
    /// longer. Worth writing where [`Endpoint::poll_spinning`](crate::Endpoint::poll_spinning) can then
    /// be part of a loop; else it is one turn.
    fn spin(&mut self) -> Progress {
        self.turn()
    }

    /// Sleeps until there is something to do or `longest` is over, then one turn: as a rule a call
    /// of [`Endpoint::wait`](crate::Endpoint::wait). What that asks about waiting work is true when
    /// `work_waits` is, or when one of the shard's own queues holds something.
    fn sleep(&mut self, longest: Duration, work_waits: &dyn Fn() -> bool) -> Progress;

    /// The endpoint's waker.
    fn waker(&self) -> Waker;
}

/// How a poller runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollerConfig {
    /// Name of the thread; the system shows 15 bytes of it.
    pub name: String,
    /// Core to pin it to; `None`: wherever the system puts it.
    pub core: Option<usize>,
    /// How long to spin after the last work before sleeping. Zero: never spin, which is right when
    /// other processes want the cores: they cannot be seen from here.
    pub spin_budget: Duration,
}

/// Counts of one poller.
#[derive(Debug, Default)]
pub struct PollerCounters {
    /// Calls of [`Shard::turn`], or of [`Shard::spin`], which may be several turns; idle ones included.
    pub turns: Counter,
    /// Those that found nothing to do.
    pub idle_turns: Counter,
    /// Times it armed and went to sleep.
    pub sleeps: Counter,
    /// Sleeps that ended with something to do.
    pub wake_ups: Counter,
}

impl PollerCounters {
    /// Share of the calls that found nothing to do, 0 to 1: what spinning costs.
    #[must_use]
    pub fn spin_share(&self) -> f64 {
        self.idle_turns.get() as f64 / (self.turns.get() as f64).max(1.0)
    }
}

/// A running poller; dropping it stops its thread.
#[derive(Debug)]
pub struct Poller<S> {
    name: String,
    stop: Arc<AtomicBool>,
    waker: Waker,
    counters: Arc<PollerCounters>,
    thread: Option<JoinHandle<S>>,
}

impl<S: Shard + 'static> Poller<S> {
    /// Starts a thread that drives `shard` until it is [`Progress::Done`] or [`Poller::stop`] is
    /// called.
    ///
    /// # Errors
    /// [`TransportError::PollerThread`] when the system gives no thread. A core that cannot be had
    /// is warned of, not refused.
    pub fn start(config: PollerConfig, shard: S) -> Result<Self, TransportError> {
        Self::start_in(registry::of_this_process(), config, shard)
    }

    fn start_in(
        registry: &Arc<Registry>,
        config: PollerConfig,
        shard: S,
    ) -> Result<Self, TransportError> {
        let PollerConfig { name, core, spin_budget } = config;
        let stop = Arc::<AtomicBool>::default();
        let counters = Arc::<PollerCounters>::default();
        let waker = shard.waker();
        let seat = (spin_budget > Duration::ZERO).then(|| registry.sit(core));
        let turns = Turns {
            shard,
            stop: Arc::clone(&stop),
            counters: Arc::clone(&counters),
            seat,
            spin_budget,
        };
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                pin(core);
                turns.run()
            })
            .map_err(|source| TransportError::PollerThread { name: name.clone(), source })?;
        Ok(Self { name, stop, waker, counters, thread: Some(thread) })
    }
}

impl<S> Poller<S> {
    /// Counters, readable from any thread.
    #[must_use]
    pub fn counters(&self) -> Arc<PollerCounters> {
        Arc::clone(&self.counters)
    }

    /// True when the thread has ended: the shard is done, or has panicked.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks the thread to end after its present turn.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Waits for the end of the thread and returns the shard.
    ///
    /// # Errors
    /// [`TransportError::PollerPanicked`] when the shard has panicked.
    pub fn join(mut self) -> Result<S, TransportError> {
        let panicked =
            |message| TransportError::PollerPanicked { name: self.name.clone(), message };
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(shard)) => Ok(shard),
            Some(Err(panic)) => Err(panicked(text(&*panic))),
            None => Err(panicked(String::new())),
        }
    }
}

impl<S> Drop for Poller<S> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop();
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// What a panic said, if it said it in words.
fn text(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn pin(core: Option<usize>) {
    let Some(core) = core else { return };
    if let Err(error) = cores::pin(core) {
        tracing::warn!(
            "cannot pin a poller to core {core}: {error}; it runs on any of the {} cores that this \
             process may use: name one of those",
            cores::usable()
        );
    }
}

/// The poller's thread.
struct Turns<S> {
    shard: S,
    stop: Arc<AtomicBool>,
    counters: Arc<PollerCounters>,
    /// `None`: never spins.
    seat: Option<Seat>,
    spin_budget: Duration,
}

impl<S: Shard> Turns<S> {
    fn run(mut self) -> S {
        let mut idle = Idle::default();
        while !self.stop.load(Ordering::Relaxed) {
            let budget = self.budget();
            let turned = if budget.is_zero() { self.shard.turn() } else { self.shard.spin() };
            let progress = match turned {
                Progress::Idle => {
                    self.count(true);
                    if !idle.is_over(budget, Instant::now) {
                        continue;
                    }
                    self.sleep()
                }
                progress => progress,
            };
            match progress {
                Progress::Worked => {
                    self.count(false);
                    idle = Idle::default();
                }
                Progress::Idle => self.count(true),
                Progress::Done => break,
            }
        }
        self.shard
    }

    #[inline]
    fn count(&self, is_idle: bool) {
        self.counters.turns.add(1);
        self.counters.idle_turns.add(u64::from(is_idle));
    }

    /// How long this poller may spin, as things are.
    fn budget(&self) -> Duration {
        let may_spin = self.seat.as_ref().is_some_and(Seat::may_spin);
        if may_spin { self.spin_budget } else { Duration::ZERO }
    }

    fn sleep(&mut self) -> Progress {
        self.counters.sleeps.add(1);
        let stop = &self.stop;
        let progress = self.shard.sleep(SLEEP_MAX, &|| stop.load(Ordering::Relaxed));
        if progress == Progress::Worked {
            self.counters.wake_ups.add(1);
        }
        progress
    }
}

#[cfg(test)]
mod tests;
