//! A local thread's access to pages.
//!
//! A hit takes no lock, sends nothing and allocates nothing: hash look-up, one compare-exchange on
//! the frame's descriptor, tag check. A miss is a command to the shard; the grant comes back with
//! the page already pinned for this thread.
//!
//! A page's tag says which of the instance's shards keeps it; a handle has a line to each.
//!
//! Guards on several pages must be taken in the order of their tags, by every thread, or they wait
//! for each other; a thread that holds a guard on a page must not ask for that page again.

use super::{
    command::{Command, Completion, Grant},
    shared::{Panic, Shared},
};
use crate::{
    grd::{AcquireError, GrantPath},
    latency::GrantLatencies,
};
use pagewire_protocol::{BufferTag, Lsn, Mode, page, tag::shard_of_hash};
use pagewire_transport::{
    FrameIndex, Waker,
    arena::{ExclusivePin, LeaseExpired, PinMiss, SharedPin},
};
use rtrb::{Consumer, Producer};
use std::{
    cell::{Cell, RefCell},
    ops::Deref,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

/// One in this many local hits is timed: two readings of the clock cost more than a hit.
const TIMED_HITS: u64 = 64;
/// How often a thread that waits looks whether the shard, which would wake it, is still there.
const SHARD_CHECK: Duration = Duration::from_millis(250);
/// How often a thread that has withdrawn looks for the answer.
const WITHDRAWN_CHECK: Duration = Duration::from_millis(10);

/// One thread's line to one shard.
#[derive(Debug)]
pub(super) struct Line {
    shared: Arc<Shared>,
    commands: RefCell<Producer<Command>>,
    completions: RefCell<Consumer<Completion>>,
    sequence: Cell<u64>,
    /// The thread that the shard unparks.
    waiter: Cell<Option<thread::ThreadId>>,
}

/// One thread's access; it may move to another thread, but serves one at a time.
#[derive(Debug)]
pub struct Handle {
    /// By shard.
    lines: Box<[Line]>,
    shards: u16,
    /// The shard that was asked last.
    asked: Cell<u16>,
    hits: Cell<u64>,
    latencies: RefCell<GrantLatencies>,
}

impl Handle {
    /// A handle on the shards at the other ends of `lines`: all of an instance's, in their order.
    pub(super) fn new(lines: Vec<Line>) -> Self {
        Self {
            shards: u16::try_from(lines.len()).unwrap_or(u16::MAX),
            lines: lines.into(),
            asked: Cell::new(0),
            hits: Cell::new(0),
            latencies: RefCell::default(),
        }
    }

    /// The line to the shard that keeps the page of this hash.
    #[inline]
    fn line(&self, hash: u64) -> &Line {
        &self.lines[usize::from(shard_of_hash(hash, self.shards))]
    }

    /// Pins a page for reading if this instance holds it in S or X and nobody here writes it.
    #[inline]
    #[must_use]
    pub fn try_read(&self, tag: &BufferTag) -> Option<ReadGuard<'_>> {
        let hash = tag.hash();
        let line = self.line(hash);
        let index = line.shared.index.find(hash)?;
        match line.shared.pages.pin_shared(index, tag) {
            Ok(pin) => Some(ReadGuard { line, pin: Some(pin) }),
            Err(miss) => line.missed(index, miss),
        }
    }

    /// Pins a page for writing if this instance holds it in X and nobody here has it pinned.
    #[inline]
    #[must_use]
    pub fn try_write(&self, tag: &BufferTag) -> Option<WriteGuard<'_>> {
        let hash = tag.hash();
        let line = self.line(hash);
        let index = line.shared.index.find(hash)?;
        match line.shared.pages.pin_exclusive(index, tag) {
            Ok(pin) => Some(WriteGuard { line, pin: Some(pin) }),
            Err(miss) => line.missed(index, miss),
        }
    }

    /// Pins a page for reading, wherever it is.
    ///
    /// # Errors
    /// [`AcquireError`]; among them [`AcquireError::Deadline`] after the configured time.
    pub fn read(&self, tag: BufferTag) -> Result<ReadGuard<'_>, AcquireError> {
        if let Some(guard) = self.timed_hit(|| self.try_read(&tag)) {
            return Ok(guard);
        }
        self.begin(tag, Mode::S);
        let grant = self.wait(tag)?;
        Ok(self.asked().reading(grant))
    }

    /// Pins a page for writing, wherever it is.
    ///
    /// # Errors
    /// [`AcquireError`]; among them [`AcquireError::Deadline`] after the configured time.
    pub fn write(&self, tag: BufferTag) -> Result<WriteGuard<'_>, AcquireError> {
        if let Some(guard) = self.timed_hit(|| self.try_write(&tag)) {
            return Ok(guard);
        }
        self.begin(tag, Mode::X);
        let grant = self.wait(tag)?;
        Ok(self.asked().writing(grant))
    }

    #[inline]
    fn timed_hit<T>(&self, hit: impl FnOnce() -> Option<T>) -> Option<T> {
        let count = self.hits.get() + 1;
        if count.is_multiple_of(TIMED_HITS) {
            return self.time_hit(count, hit);
        }
        let guard = hit()?;
        self.hits.set(count);
        Some(guard)
    }

    #[cold]
    fn time_hit<T>(&self, count: u64, hit: impl FnOnce() -> Option<T>) -> Option<T> {
        let start = Instant::now();
        let guard = hit()?;
        self.hits.set(count);
        self.record(GrantPath::Local, start);
        Some(guard)
    }

    fn record(&self, path: GrantPath, start: Instant) {
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latencies.borrow_mut().record(path, nanoseconds);
    }

    /// Asks the shard for a page without waiting; [`Handle::finish_read`] or
    /// [`Handle::finish_write`] take the answer. For a thread that drives the shard itself; one
    /// request at a time.
    pub fn begin(&self, tag: BufferTag, mode: Mode) {
        self.asked.set(tag.shard(self.shards));
        let line = self.asked();
        let sequence = line.sequence.get() + 1;
        line.sequence.set(sequence);
        line.command(Command::Acquire { sequence, tag, mode });
    }

    fn asked(&self) -> &Line {
        &self.lines[usize::from(self.asked.get())]
    }

    /// The answer to [`Handle::begin`] for S, if it has come.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn finish_read(&self) -> Option<Result<ReadGuard<'_>, AcquireError>> {
        match self.asked().finish()? {
            Ok(grant) => Some(Ok(self.asked().reading(grant))),
            Err(error) => error.map(Err),
        }
    }

    /// The answer to [`Handle::begin`] for X, if it has come.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn finish_write(&self) -> Option<Result<WriteGuard<'_>, AcquireError>> {
        match self.asked().finish()? {
            Ok(grant) => Some(Ok(self.asked().writing(grant))),
            Err(error) => error.map(Err),
        }
    }

    fn wait(&self, tag: BufferTag) -> Result<Grant, AcquireError> {
        let line = self.asked();
        let start = Instant::now();
        let limit = line.shared.acquire_timeout;
        let mut withdrawn = false;
        loop {
            if let Some(result) = line.finish() {
                let waited_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                line.shared.longest_wait_ns.fetch_max(waited_ns, Ordering::Relaxed);
                return match result {
                    Ok(grant) => {
                        self.record(grant.path, start);
                        Ok(grant)
                    }
                    Err(Some(error)) => Err(error),
                    Err(None) => {
                        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                        Err(AcquireError::Deadline { tag, limit_ms })
                    }
                };
            }
            if line.commands.borrow().is_abandoned() {
                return Err(line.stopped(tag));
            }
            let waited = start.elapsed();
            if waited >= limit && !withdrawn {
                withdrawn = true;
                line.command(Command::Withdraw { sequence: line.sequence.get(), tag });
            }
            // After withdrawing the shard answers at once, granted or not.
            let left = limit.saturating_sub(waited);
            thread::park_timeout(left.clamp(WITHDRAWN_CHECK, SHARD_CHECK));
        }
    }

    /// How long grants took so far.
    #[must_use]
    pub fn latencies(&self) -> GrantLatencies {
        let hits = self.hits.get();
        GrantLatencies {
            local_untimed: hits - hits / TIMED_HITS,
            ..self.latencies.borrow().clone()
        }
    }
}

impl Line {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: Producer<Command>,
        completions: Consumer<Completion>,
    ) -> Self {
        Self {
            shared,
            commands: RefCell::new(commands),
            completions: RefCell::new(completions),
            sequence: Cell::new(0),
            waiter: Cell::new(None),
        }
    }

    fn missed<T>(&self, index: FrameIndex, miss: PinMiss) -> Option<T> {
        if miss == PinMiss::TellOwner {
            self.command(Command::Unpinned(index));
        }
        None
    }

    /// Why nobody is at the other end.
    #[cold]
    fn stopped(&self, tag: BufferTag) -> AcquireError {
        let Panic { shard, message } = &*self.shared.panic;
        match message.get() {
            Some(message) => {
                AcquireError::Panicked { tag, shard: *shard, message: message.clone() }
            }
            None => AcquireError::Stopped { tag },
        }
    }

    fn finish(&self) -> Option<Result<Grant, Option<AcquireError>>> {
        let completion = self.completions.borrow_mut().pop().ok()?;
        debug_assert_eq!(completion.sequence, self.sequence.get());
        Some(completion.result)
    }

    fn reading(&self, grant: Grant) -> ReadGuard<'_> {
        let pin = self.shared.pages.adopt_shared(grant.ticket);
        ReadGuard { line: self, pin: Some(pin) }
    }

    fn writing(&self, grant: Grant) -> WriteGuard<'_> {
        let pin = self.shared.pages.adopt_exclusive(grant.ticket);
        WriteGuard { line: self, pin: Some(pin) }
    }

    /// Gives the shard a command and wakes it if it sleeps.
    fn command(&self, command: Command) {
        let me = thread::current().id();
        let mut commands = self.commands.borrow_mut();
        if self.waiter.get() != Some(me) {
            self.waiter.set(Some(me));
            push(&mut commands, Command::Waiter(thread::current()), &self.shared.waker);
        }
        push(&mut commands, command, &self.shared.waker);
        self.shared.waker.wake();
    }

    /// Raises this instance's version clock and returns the new version: greater than that of
    /// every page seen here.
    fn next_version(&self) -> Lsn {
        Lsn(self.shared.clock.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn push(commands: &mut Producer<Command>, command: Command, waker: &Waker) {
    let mut command = command;
    // The ring holds more than a thread has guards; it is full only while the shard is busy.
    while let Err(rtrb::PushError::Full(back)) = commands.push(command) {
        if commands.is_abandoned() {
            return;
        }
        command = back;
        waker.wake();
        thread::yield_now();
    }
}

/// A page pinned for reading. Dereferenced it is the page, and nothing at all once the lease of this
/// instance is over, as [`ReadGuard::page`] says with an error.
#[derive(Debug)]
pub struct ReadGuard<'a> {
    line: &'a Line,
    pin: Option<SharedPin<'a>>,
}

impl ReadGuard<'_> {
    /// The page, as long as the lease of this instance lasts.
    ///
    /// # Errors
    /// [`LeaseExpired`]: others may have changed it meanwhile.
    #[inline]
    pub fn page(&self) -> Result<&[u8], LeaseExpired> {
        self.pin.as_ref().map_or(Err(LeaseExpired), SharedPin::page)
    }
}

impl Deref for ReadGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pin.as_deref().unwrap_or(&[])
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        let Some(pin) = self.pin.take() else { return };
        let index = pin.index();
        if pin.release() {
            self.line.command(Command::Unpinned(index));
        }
    }
}

/// A page pinned for writing. Dereferenced it is the page, and nothing at all once the lease of this
/// instance is over, as [`WriteGuard::page`] says with an error.
#[derive(Debug)]
pub struct WriteGuard<'a> {
    line: &'a Line,
    pin: Option<ExclusivePin<'a>>,
}

impl WriteGuard<'_> {
    /// The page, as long as the lease of this instance lasts.
    ///
    /// # Errors
    /// [`LeaseExpired`]: others may have changed it meanwhile.
    #[inline]
    pub fn page(&self) -> Result<&[u8], LeaseExpired> {
        self.pin.as_ref().map_or(Err(LeaseExpired), ExclusivePin::page)
    }

    /// Changes the page: runs `change` on it and gives it its next version, which is returned.
    /// The page counts as dirty from then on.
    ///
    /// # Errors
    /// [`LeaseExpired`] when the lease of this instance is over, or ended meanwhile: the change
    /// counts for nothing, and what follows from it must not be done.
    pub fn update(&mut self, change: impl FnOnce(&mut [u8])) -> Result<Lsn, LeaseExpired> {
        self.update_logged(Lsn::ZERO, change)
    }

    /// As [`WriteGuard::update`], of a change that this instance's redo log describes up to
    /// `redo_end`: the page does not leave the instance, and is not written to storage, before the
    /// [`RedoLog`](super::RedoLog) is durable up to there.
    ///
    /// # Errors
    /// As [`WriteGuard::update`].
    pub fn update_logged(
        &mut self,
        redo_end: Lsn,
        change: impl FnOnce(&mut [u8]),
    ) -> Result<Lsn, LeaseExpired> {
        let pin = self.pin.as_mut().ok_or(LeaseExpired)?;
        let page = pin.page_mut()?;
        let version = self.line.next_version();
        change(page);
        page::set_lsn(page, version);
        self.line.shared.flush.raise(pin.index(), redo_end);
        pin.page().map(|_| version)
    }
}

impl Deref for WriteGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.pin.as_deref().unwrap_or(&[])
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        let Some(pin) = self.pin.take() else { return };
        let index = pin.index();
        if pin.release() {
            self.line.command(Command::Unpinned(index));
        }
    }
}
