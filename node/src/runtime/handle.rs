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
    guard::{ReadGuard, WriteGuard},
    shared::{Panic, Shared},
};
use crate::{
    grd::{AcquireError, GrantPath},
    latency::GrantLatencies,
};
use pagewire_protocol::{BufferTag, Lsn, Mode, tag::shard_of_hash};
use pagewire_transport::{FrameIndex, Waker, arena::PinMiss};
use rtrb::{Consumer, Producer};
use std::{
    cell::{Cell, RefCell},
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

/// One thread's line to one shard. The shard has one request of it at a time: the next one leaves when
/// that is answered.
#[derive(Debug)]
pub(super) struct Line {
    shared: Arc<Shared>,
    commands: RefCell<Producer<Command>>,
    /// There until the line goes.
    completions: RefCell<Option<Consumer<Completion>>>,
    /// Number of the last request.
    sequence: Cell<u32>,
    /// The request that the shard has not answered.
    asked: Cell<Option<Asked>>,
    /// What is asked for when that is answered.
    next: Cell<Option<(BufferTag, Mode)>>,
    /// What pages were before the changes that are under way.
    undo: RefCell<Vec<u8>>,
    /// The thread that the shard unparks.
    waiter: Cell<Option<thread::ThreadId>>,
}

/// A request on its way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    tag: BufferTag,
    /// The shard has been told that nobody waits any longer.
    is_withdrawn: bool,
    /// Another request has come in its place: what it is granted goes back.
    is_unwanted: bool,
}

/// One thread's access; it may move to another thread, but serves one at a time.
#[derive(Debug)]
pub struct Handle {
    /// By shard.
    lines: Box<[Line]>,
    shards: u16,
    /// The shard that was asked last.
    asked: Cell<u16>,
    /// Others may still owe answers that nobody wants.
    has_unwanted: Cell<bool>,
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
            has_unwanted: Cell::new(false),
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
            Ok(pin) => Some(ReadGuard::new(line, pin)),
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
            Ok(pin) => Some(WriteGuard::new(line, pin)),
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

    /// Asks the shard for a page without waiting; [`Handle::finish_read`] for S, or
    /// [`Handle::finish_write`] for X, take the answer. For a thread that drives the shard itself. A
    /// request takes the place of one that is not finished: that is withdrawn, and what it is granted
    /// all the same is given back, at the latest with the next call of these or with the handle.
    pub fn begin(&self, tag: BufferTag, mode: Mode) {
        let before = self.asked();
        before.give_up();
        if before.owes_unwanted() {
            self.has_unwanted.set(true);
        }
        self.asked.set(tag.shard(self.shards));
        self.give_back();
        self.asked().begin(tag, mode);
    }

    /// Gives back what was granted elsewhere to requests that others have taken the place of.
    fn give_back(&self) {
        if self.has_unwanted.get() {
            self.lines.iter().for_each(Line::go_on);
            self.has_unwanted.set(self.lines.iter().any(Line::owes_unwanted));
        }
    }

    fn asked(&self) -> &Line {
        &self.lines[usize::from(self.asked.get())]
    }

    /// The answer to [`Handle::begin`] for S, if it has come.
    ///
    /// # Errors
    /// [`AcquireError`].
    pub fn finish_read(&self) -> Option<Result<ReadGuard<'_>, AcquireError>> {
        self.give_back();
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
        self.give_back();
        match self.asked().finish()? {
            Ok(grant) => Some(Ok(self.asked().writing(grant))),
            Err(error) => error.map(Err),
        }
    }

    fn wait(&self, tag: BufferTag) -> Result<Grant, AcquireError> {
        let line = self.asked();
        let start = Instant::now();
        let limit = line.shared.acquire_timeout;
        let late = || {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            Err(AcquireError::Deadline { tag, limit_ms })
        };
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
                    Err(None) => late(),
                };
            }
            if line.commands.borrow().is_abandoned() {
                return Err(line.stopped(tag));
            }
            let waited = start.elapsed();
            if waited >= limit {
                // It has not left: one before it is not answered.
                if line.next.take().is_some() {
                    return late();
                }
                line.withdraw();
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
        last: u32,
    ) -> Self {
        Self {
            shared,
            commands: RefCell::new(commands),
            completions: RefCell::new(Some(completions)),
            sequence: Cell::new(last),
            asked: Cell::new(None),
            next: Cell::new(None),
            undo: RefCell::default(),
            waiter: Cell::new(None),
        }
    }

    /// The page of the frame was changed, as the redo log says up to `redo_end`.
    pub(super) fn changed(&self, index: FrameIndex, redo_end: Lsn) {
        self.shared.flush.raise(index, redo_end);
    }

    /// Memory for what a page was before a change: as it was left by the last one.
    pub(super) fn undo(&self) -> &RefCell<Vec<u8>> {
        &self.undo
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

    /// Asks for a page, as soon as what was asked before is answered.
    fn begin(&self, tag: BufferTag, mode: Mode) {
        self.next.set(Some((tag, mode)));
        self.go_on();
    }

    /// Nobody wants the answer to what was asked last.
    fn give_up(&self) {
        self.next.set(None);
        if let Some(asked) = self.asked.get() {
            self.asked.set(Some(Asked { is_unwanted: true, ..asked }));
            self.withdraw();
        }
    }

    /// Nobody waits any longer for what was asked last.
    fn withdraw(&self) {
        if let Some(asked) = self.asked.get().filter(|asked| !asked.is_withdrawn) {
            self.asked.set(Some(Asked { is_withdrawn: true, ..asked }));
            let (sequence, tag) = (self.sequence.get(), asked.tag);
            self.command(Command::Withdraw { sequence, tag });
        }
    }

    /// True while there is no answer to a request that another one has taken the place of.
    fn owes_unwanted(&self) -> bool {
        self.asked.get().is_some_and(|asked| asked.is_unwanted)
    }

    /// Takes an answer that nobody wants, and asks for what is wanted instead.
    fn go_on(&self) {
        if self.owes_unwanted()
            && let Some(result) = self.answer()
        {
            self.take_back(result);
        }
        if self.asked.get().is_none()
            && let Some((tag, mode)) = self.next.take()
        {
            let sequence = self.sequence.get().wrapping_add(1);
            self.sequence.set(sequence);
            self.asked.set(Some(Asked { tag, is_withdrawn: false, is_unwanted: false }));
            self.command(Command::Acquire { sequence, tag, mode });
        }
    }

    /// The answer to what was asked last, if it has come and somebody wants it.
    fn finish(&self) -> Option<Result<Grant, Option<AcquireError>>> {
        self.go_on();
        if self.owes_unwanted() { None } else { self.answer() }
    }

    fn answer(&self) -> Option<Result<Grant, Option<AcquireError>>> {
        let Completion { sequence, result } = self.completions.borrow_mut().as_mut()?.pop().ok()?;
        debug_assert_eq!(sequence, self.sequence.get());
        self.asked.set(None);
        Some(result)
    }

    /// Unpins what was granted to nobody.
    fn take_back(&self, result: Result<Grant, Option<AcquireError>>) {
        match result {
            Ok(grant) if grant.ticket.is_exclusive() => drop(self.writing(grant)),
            Ok(grant) => drop(self.reading(grant)),
            Err(_) => {}
        }
    }

    fn reading(&self, grant: Grant) -> ReadGuard<'_> {
        let pin = self.shared.pages.adopt_shared(grant.ticket);
        ReadGuard::new(self, pin)
    }

    fn writing(&self, grant: Grant) -> WriteGuard<'_> {
        let pin = self.shared.pages.adopt_exclusive(grant.ticket);
        WriteGuard::new(self, pin)
    }

    /// Gives the shard a command and wakes it if it sleeps.
    pub(super) fn command(&self, command: Command) {
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
    pub(super) fn next_version(&self) -> Lsn {
        Lsn(self.shared.clock.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Drop for Line {
    /// The shard takes back what comes after.
    fn drop(&mut self) {
        if let Some(completions) = self.completions.take() {
            let commands = self.commands.get_mut();
            push(commands, Command::Gone(completions), &self.shared.waker);
            self.shared.waker.wake();
        }
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
