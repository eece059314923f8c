//! The shard's ends of the handles: one place each, which is given back when the handle has gone and
//! is owed no answer.
//!
//! ```text
//!   line() --> place, free or new --Gone, nothing asked----------------------> free
//!                                 \-Gone, something asked--> withdrawn --answer--> free
//! ```
//! A waiter id is a place and the request's number on it. Numbers go on when a place gets its next
//! handle, so that what comes late for one request is not taken for another.

use super::Shard;
use crate::{
    grd::{AcquireError, Event as Input, WaiterId, store::Hashed},
    runtime::{
        command::{Command, Completion, Grant},
        line::Line,
    },
};
use pagewire_protocol::BufferTag;
use rtrb::{Consumer, Producer, RingBuffer};
use std::{sync::Arc, thread::Thread};

/// Commands that a thread can have on their way: more than it has guards.
const COMMANDS: usize = 1024;
/// Answers that can be on their way: a handle has one request at a time.
const COMPLETIONS: usize = 1;
/// The bits of a waiter id below those of the place.
const PLACE_SHIFT: u32 = 32;

/// One handle's end.
#[derive(Debug)]
struct HandleEnd {
    commands: Consumer<Command>,
    completions: Producer<Completion>,
    waiter: Option<Thread>,
    /// The request that is not answered, with its page.
    asked: Option<(u32, BufferTag)>,
    /// Nobody takes the answer any more.
    is_gone: bool,
}

/// A place for a handle's end.
#[derive(Debug, Default)]
struct Place {
    end: Option<HandleEnd>,
    /// Number of the last request that was made here.
    last: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HandleEnds {
    places: Vec<Place>,
    free: Vec<usize>,
}

fn waiter_id(at: usize, sequence: u32) -> WaiterId {
    WaiterId((at as u64) << PLACE_SHIFT | u64::from(sequence))
}

/// The place and the number on it.
fn parts(waiter: WaiterId) -> (usize, u32) {
    let place = usize::try_from(waiter.0 >> PLACE_SHIFT).unwrap_or(usize::MAX);
    (place, u32::try_from(waiter.0 & u64::from(u32::MAX)).unwrap_or(u32::MAX))
}

impl HandleEnds {
    /// True when a thread has said something.
    pub(super) fn have_commands(&self) -> bool {
        self.places.iter().flat_map(|place| &place.end).any(|end| !end.commands.is_empty())
    }

    /// A place with a handle's end, and the number of the last request that was made there.
    fn take_place(
        &mut self,
        commands: Consumer<Command>,
        completions: Producer<Completion>,
    ) -> u32 {
        let end = HandleEnd { commands, completions, waiter: None, asked: None, is_gone: false };
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        self.places[at].end = Some(end);
        self.places[at].last
    }

    fn end(&mut self, at: usize) -> Option<&mut HandleEnd> {
        self.places.get_mut(at)?.end.as_mut()
    }

    fn next_command(&mut self, at: usize) -> Option<Command> {
        self.end(at)?.commands.pop().ok()
    }

    fn asks(&mut self, at: usize, sequence: u32, tag: BufferTag) {
        let Some(place) = self.places.get_mut(at) else { return };
        place.last = sequence;
        if let Some(end) = &mut place.end {
            debug_assert!(end.asked.is_none(), "a handle has one request at a time");
            end.asked = Some((sequence, tag));
        }
    }

    /// The handle has gone: the request that it is still owed an answer to, if there is one.
    fn goes(&mut self, at: usize) -> Option<(u32, BufferTag)> {
        let end = self.end(at)?;
        end.is_gone = true;
        let asked = end.asked;
        if asked.is_none() {
            self.give_back(at);
        }
        asked
    }

    fn give_back(&mut self, at: usize) {
        self.places[at].end = None;
        self.free.push(at);
    }

    /// Hands an answer to whoever waits for it; back comes one that nobody does.
    fn answer(&mut self, at: usize, completion: Completion) -> Option<Completion> {
        let Some(end) = self.end(at) else { return Some(completion) };
        if end.asked.is_none_or(|(sequence, _)| sequence != completion.sequence) {
            return Some(completion);
        }
        end.asked = None;
        if end.is_gone {
            self.give_back(at);
            return Some(completion);
        }
        // A handle has one request at a time and takes its answer before the next.
        let told = end.completions.push(completion);
        assert!(told.is_ok(), "a handle has more answers than requests");
        if let Some(thread) = &end.waiter {
            thread.unpark();
        }
        None
    }
}

impl Shard {
    /// This shard's line to a handle.
    pub(in crate::runtime) fn line(&mut self) -> Line {
        let (to_shard, commands) = RingBuffer::new(COMMANDS);
        let (completions, to_thread) = RingBuffer::new(COMPLETIONS);
        let last = self.handles.take_place(commands, completions);
        Line::new(Arc::clone(&self.shared), to_shard, to_thread, last)
    }

    /// Takes what local threads want. True when they wanted anything.
    pub(super) fn take_commands(&mut self) -> bool {
        let mut any = false;
        for at in 0..self.handles.places.len() {
            while let Some(command) = self.handles.next_command(at) {
                any = true;
                self.on_command(at, command);
            }
        }
        any
    }

    fn on_command(&mut self, at: usize, command: Command) {
        match command {
            Command::Waiter(thread) => {
                if let Some(end) = self.handles.end(at) {
                    end.waiter = Some(thread);
                }
            }
            Command::Acquire { sequence, tag, mode } => {
                let mut page = Hashed::of(tag);
                self.approach(&mut page);
                self.handles.asks(at, sequence, tag);
                let waiter = waiter_id(at, sequence);
                if let Some(error) = self.cannot_serve(tag) {
                    return self.complete(waiter, Err(Some(error)));
                }
                // What is queued comes first: nothing is, as a rule.
                self.run();
                self.tell_core(|grd, effects| grd.acquire(&page, mode, waiter, effects));
            }
            Command::Withdraw { sequence, tag } => {
                self.input(Input::Withdraw { tag, waiter: waiter_id(at, sequence) });
            }
            Command::Unpinned(index) => {
                let drained = self.pool.drained(index);
                self.drained(drained);
            }
            Command::Keep(pin, position) => self.keep(pin, position),
            Command::Gone(mut completions) => {
                while let Ok(completion) = completions.pop() {
                    self.take_back(completion);
                }
                if let Some((sequence, tag)) = self.handles.goes(at) {
                    self.input(Input::Withdraw { tag, waiter: waiter_id(at, sequence) });
                }
            }
        }
        self.run();
    }

    /// Why nothing can be asked for page `tag`.
    fn cannot_serve(&self, tag: BufferTag) -> Option<AcquireError> {
        if let Some(fenced) = self.fenced(tag) {
            return Some(fenced);
        }
        if self.lost.is_empty() {
            return None;
        }
        let peer = self.grd.view().master(&tag);
        self.lost.contains(&peer).then_some(AcquireError::PeerLost { tag, peer })
    }

    pub(super) fn complete(
        &mut self,
        waiter: WaiterId,
        result: Result<Grant, Option<AcquireError>>,
    ) {
        let (at, sequence) = parts(waiter);
        match self.handles.answer(at, Completion { sequence, result }) {
            None => self.has_answered = true,
            Some(unwanted) => self.take_back(unwanted),
        }
    }

    /// Unpins what was granted to somebody who does not want it any more.
    fn take_back(&mut self, completion: Completion) {
        if let Ok(grant) = completion.result {
            let drained = self.pool.unpin(grant.ticket);
            self.drained(drained);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::shard::tests::shard;
    use pagewire_protocol::Mode;

    #[test]
    fn a_place_is_given_back_when_its_handle_has_gone_and_is_owed_no_answer() {
        let (_folder, mut shard) = shard();
        // Its master is a peer that is not there: nobody answers.
        let mut tags = (0..).map(|block| BufferTag { block, ..BufferTag::default() });
        let me = shard.me;
        let theirs = tags.find(|tag| shard.grd.view().master(tag) != me).unwrap();
        for _ in 0..3 {
            let (idle, asks) = (shard.handle(), shard.handle());
            asks.begin(theirs, Mode::S);
            shard.poll();
            assert_eq!((shard.handles.places.len(), shard.handles.free.len()), (2, 0));
            drop((idle, asks));
            shard.poll();
            assert_eq!((shard.handles.places.len(), shard.handles.free.len()), (2, 2));
        }
        // The numbers go on.
        let mut last: Vec<_> = shard.handles.places.iter().map(|place| place.last).collect();
        last.sort_unstable();
        assert_eq!(last.iter().sum::<u32>(), 3, "{last:?}");
    }

    #[test]
    fn what_comes_late_for_a_request_is_no_answer_to_the_next_one() {
        let (_folder, mut shard) = shard();
        let handle = shard.handle();
        shard.handles.asks(0, 7, BufferTag::default());
        shard.complete(waiter_id(0, 6), Err(None));
        assert!(handle.finish_read().is_none());
        shard.complete(waiter_id(5, 7), Err(None));
        assert_eq!(shard.handles.end(0).unwrap().asked.map(|(sequence, _)| sequence), Some(7));
    }

    #[test]
    fn a_waiter_id_has_room_for_every_place_and_number() {
        for (at, sequence) in [(0, 0), (70_000, 1), (u32::MAX as usize, u32::MAX)] {
            assert_eq!(parts(waiter_id(at, sequence)), (at, sequence));
        }
    }
}
