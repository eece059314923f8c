//! What the threads that publish share with the shard that does it for them.

use super::{
    core::may_let_go,
    error::{PublishError, TicketError},
    queue::Queue,
};
use pagewire_protocol::{SiMessage, si::wire::SiBytes};
use pagewire_transport::{Waker, arena::Lease};
use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// Messages that can wait to be published, of all threads together.
const QUEUED_MAX: usize = 1 << 14;
/// Looks at a ticket before its thread sleeps: a few microseconds.
const LOOKS: u32 = 2_000;
/// How often a thread that sleeps looks, in case nobody is there to wake it.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

const OPEN: u8 = 0;
const FENCED: u8 = 1;
const STOPPED: u8 = 2;

/// One of the instance's shards, as far as invalidations concern it.
#[derive(Debug, Default)]
struct OfShard {
    waker: OnceLock<Waker>,
    /// Pins that it keeps until something is delivered.
    keeps: AtomicU32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SiShared {
    pub(crate) queue: Queue,
    /// Everything up to this position is delivered.
    completed: AtomicU64,
    state: AtomicU8,
    lease: OnceLock<Lease>,
    shards: Box<[OfShard]>,
    /// Threads that sleep on a ticket, and how many.
    sleepers: Mutex<Vec<Thread>>,
    sleeping: AtomicU32,
}

impl SiShared {
    pub(crate) fn new(shards: u16) -> Self {
        Self {
            queue: Queue::new(QUEUED_MAX),
            completed: AtomicU64::new(0),
            state: AtomicU8::new(OPEN),
            lease: OnceLock::new(),
            shards: (0..shards.max(1)).map(|_| OfShard::default()).collect(),
            sleepers: Mutex::default(),
            sleeping: AtomicU32::new(0),
        }
    }

    /// A shard is there; the first one publishes, under its lease.
    pub(crate) fn meet(&self, shard: u16, waker: Waker, lease: Lease) {
        if let Some(of_shard) = self.shards.get(usize::from(shard)) {
            let _ = of_shard.waker.set(waker);
        }
        if shard == 0 {
            let _ = self.lease.set(lease);
        }
    }

    pub(crate) fn publish(&self, messages: &[SiMessage]) -> Result<u64, PublishError> {
        let most = self.queue.capacity();
        if messages.len() > most {
            return Err(PublishError::TooMany { found: messages.len(), most });
        }
        match self.state() {
            OPEN => {}
            FENCED => return Err(PublishError::LeaseExpired),
            _ => return Err(PublishError::Stopped),
        }
        if messages.is_empty() {
            return Ok(self.queue.tail());
        }
        let bytes = messages.iter().map(SiMessage::encode);
        let position = self.queue.push(bytes).map_err(|()| PublishError::Full { most })?;
        self.wake(0);
        Ok(position)
    }

    fn wake(&self, shard: usize) {
        self.shards.get(shard).and_then(|it| it.waker.get()).iter().for_each(|waker| waker.wake());
    }

    fn state(&self) -> u8 {
        let state = self.state.load(Ordering::SeqCst);
        let is_leased = self.lease.get().is_none_or(Lease::is_held);
        if state == OPEN && !is_leased { FENCED } else { state }
    }

    // ---- the shard that publishes ----------------------------------------------------------------

    /// Takes up to `most` messages; the position behind them.
    pub(crate) fn take(&self, most: usize, out: &mut Vec<SiBytes>) -> u64 {
        self.queue.take(most, out)
    }

    /// Everything up to `position` is delivered.
    pub(crate) fn complete(&self, position: u64) {
        self.completed.store(position, Ordering::SeqCst);
        self.tell();
    }

    /// Nothing is published any more: the lease is over.
    pub(crate) fn fence(&self) {
        self.close(FENCED);
    }

    /// Nothing is published any more: the shard is gone.
    pub(crate) fn stop(&self) {
        self.close(STOPPED);
    }

    fn close(&self, state: u8) {
        let _ = self.state.compare_exchange(OPEN, state, Ordering::SeqCst, Ordering::SeqCst);
        self.tell();
    }

    /// Wakes whoever waits for what may be so now. Whoever begins to wait says so first and looks
    /// then; here it is the other way round, and all four are in one order.
    fn tell(&self) {
        for (shard, it) in self.shards.iter().enumerate() {
            if it.keeps.load(Ordering::SeqCst) > 0 {
                self.wake(shard);
            }
        }
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            let sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
            sleepers.iter().for_each(Thread::unpark);
        }
    }

    /// Messages that were published and are not delivered.
    pub(crate) fn waiting(&self) -> u64 {
        self.queue.tail().saturating_sub(self.completed.load(Ordering::Relaxed))
    }

    // ---- pins -----------------------------------------------------------------------------------

    /// A shard keeps one pin more, or (`false`) one less.
    pub(crate) fn keeps(&self, shard: u16, one_more: bool) {
        let Some(it) = self.shards.get(usize::from(shard)) else { return };
        if one_more {
            it.keeps.fetch_add(1, Ordering::SeqCst);
        } else {
            it.keeps.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// True when a pin may go under which something was published up to `position`. Not because
    /// nothing is published any more: another shard may serve the page still, to one that has not got
    /// what was published and has not reset yet. Its own end is for each shard to know.
    pub(crate) fn may_let_go(&self, position: u64) -> bool {
        may_let_go(self.completed.load(Ordering::SeqCst), position)
    }

    // ---- tickets --------------------------------------------------------------------------------

    /// How it is with what was published up to `position`; `None`: it is under way.
    pub(crate) fn outcome(&self, position: u64) -> Option<Result<(), TicketError>> {
        if self.completed.load(Ordering::SeqCst) >= position {
            return Some(Ok(()));
        }
        match self.state() {
            OPEN => None,
            FENCED => Some(Err(TicketError::LeaseExpired)),
            _ => Some(Err(TicketError::Stopped)),
        }
    }

    pub(crate) fn wait(&self, position: u64, limit: Duration) -> Result<(), TicketError> {
        for _ in 0..LOOKS {
            if let Some(outcome) = self.outcome(position) {
                return outcome;
            }
            std::hint::spin_loop();
        }
        let start = Instant::now();
        let sleepers = || self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        sleepers().push(thread::current());
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        let outcome = loop {
            if let Some(outcome) = self.outcome(position) {
                break outcome;
            }
            let waited = start.elapsed();
            if waited >= limit {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                break Err(TicketError::Deadline { limit_ms });
            }
            thread::park_timeout(LOOK_AGAIN.min(limit.saturating_sub(waited)));
        };
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        let me = thread::current().id();
        let mut sleepers = sleepers();
        if let Some(at) = sleepers.iter().position(|thread| thread.id() == me) {
            sleepers.swap_remove(at);
        }
        outcome
    }
}
