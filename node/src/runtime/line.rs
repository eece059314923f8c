//! One thread's line to one shard: requests and commands one way, answers the other.

use super::{
    command::{Command, Completion, Grant},
    shared::{Panic, Shared},
};
use crate::grd::AcquireError;
use pagewire_protocol::{BufferTag, Lsn, Mode};
use pagewire_transport::{FrameIndex, Waker, arena::PinMiss};
use rtrb::{Consumer, Producer};
use std::{
    cell::{Cell, RefCell},
    sync::{Arc, atomic::Ordering},
    thread,
};

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
    waiter: Cell<Option<Me>>,
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

    /// What the shard shares with its handles.
    #[inline]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The page of the frame was changed, as the redo log says up to `redo_end`.
    pub(super) fn changed(&self, index: FrameIndex, redo_end: Lsn) {
        self.shared.flush.raise(index, redo_end);
    }

    /// Memory for what a page was before a change: as it was left by the last one.
    pub(super) fn undo(&self) -> &RefCell<Vec<u8>> {
        &self.undo
    }

    pub(super) fn missed<T>(&self, index: FrameIndex, miss: PinMiss) -> Option<T> {
        if miss == PinMiss::TellOwner {
            self.command(Command::Unpinned(index));
        }
        None
    }

    /// Why nobody is at the other end.
    #[cold]
    pub(super) fn stopped(&self, tag: BufferTag) -> AcquireError {
        let Panic { shard, message } = &*self.shared.panic;
        match message.get() {
            Some(message) => {
                AcquireError::Panicked { tag, shard: *shard, message: message.clone() }
            }
            None => AcquireError::Stopped { tag },
        }
    }

    /// Asks for a page, as soon as what was asked before is answered.
    pub(super) fn begin(&self, tag: BufferTag, mode: Mode) {
        self.next.set(Some((tag, mode)));
        self.go_on();
    }

    /// Nobody wants the answer to what was asked last.
    pub(super) fn give_up(&self) {
        self.next.set(None);
        if let Some(asked) = self.asked.get() {
            self.asked.set(Some(Asked { is_unwanted: true, ..asked }));
            self.withdraw();
        }
    }

    /// Nobody waits any longer for what was asked last.
    pub(super) fn withdraw(&self) {
        if let Some(asked) = self.asked.get().filter(|asked| !asked.is_withdrawn) {
            self.asked.set(Some(Asked { is_withdrawn: true, ..asked }));
            let (sequence, tag) = (self.sequence.get(), asked.tag);
            self.command(Command::Withdraw { sequence, tag });
        }
    }

    /// True while there is no answer to a request that another one has taken the place of.
    pub(super) fn owes_unwanted(&self) -> bool {
        self.asked.get().is_some_and(|asked| asked.is_unwanted)
    }

    /// Takes an answer that nobody wants, and asks for what is wanted instead.
    pub(super) fn go_on(&self) {
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
    pub(super) fn finish(&self) -> Option<Result<Grant, Option<AcquireError>>> {
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
        if let Ok(grant) = result
            && let Some(index) = self.shared.unpin(grant.ticket)
        {
            self.command(Command::Unpinned(index));
        }
    }

    /// True when nobody is at the other end.
    pub(super) fn is_abandoned(&self) -> bool {
        self.commands.borrow().is_abandoned()
    }

    /// Takes back what is asked for next. True: it had not left, because what was asked before is not
    /// answered.
    pub(super) fn has_not_asked(&self) -> bool {
        self.next.take().is_some()
    }

    /// Gives the shard a command and wakes it if it sleeps.
    pub(super) fn command(&self, command: Command) {
        let me = Me::here();
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

/// Which thread this is: the thread's own number, noted where reading it costs nothing, as asking the
/// standard library counts a reference up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Me(thread::ThreadId);

impl Me {
    fn here() -> Self {
        thread_local!(static ME: Me = Me(thread::current().id()));
        // While a thread ends its own variables may be gone.
        ME.try_with(|me| *me).unwrap_or_else(|_| Self(thread::current().id()))
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
