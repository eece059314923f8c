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
    command::Grant,
    guard::{ReadGuard, WriteGuard},
    line::Line,
};
use crate::{
    grd::{AcquireError, GrantPath},
    latency::GrantLatencies,
};
use pagewire_protocol::{BufferTag, Mode, tag::shard_of_hash};
use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

/// One in this many local hits is timed: two readings of the clock cost more than a hit.
const TIMED_HITS: u64 = 64;
/// How often a thread that waits looks whether the shard, which would wake it, is still there.
const SHARD_CHECK: Duration = Duration::from_millis(250);
/// How often a thread that has withdrawn looks for the answer.
const WITHDRAWN_CHECK: Duration = Duration::from_millis(10);

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
        let index = line.shared().index.find(hash)?;
        match line.shared().pages.pin_shared(index, tag) {
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
        let index = line.shared().index.find(hash)?;
        match line.shared().pages.pin_exclusive(index, tag) {
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
        Ok(ReadGuard::granted(self.asked(), grant))
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
        Ok(WriteGuard::granted(self.asked(), grant))
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
            Ok(grant) => Some(Ok(ReadGuard::granted(self.asked(), grant))),
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
            Ok(grant) => Some(Ok(WriteGuard::granted(self.asked(), grant))),
            Err(error) => error.map(Err),
        }
    }

    fn wait(&self, tag: BufferTag) -> Result<Grant, AcquireError> {
        let line = self.asked();
        let start = Instant::now();
        let limit = line.shared().acquire_timeout;
        let late = || {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            Err(AcquireError::Deadline { tag, limit_ms })
        };
        loop {
            if let Some(result) = line.finish() {
                let waited_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                line.shared().longest_wait_ns.fetch_max(waited_ns, Ordering::Relaxed);
                return match result {
                    Ok(grant) => {
                        self.record(grant.path, start);
                        Ok(grant)
                    }
                    Err(Some(error)) => Err(error),
                    Err(None) => late(),
                };
            }
            if line.is_abandoned() {
                return Err(line.stopped(tag));
            }
            let waited = start.elapsed();
            if waited >= limit {
                // It has not left: one before it is not answered.
                if line.has_not_asked() {
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
