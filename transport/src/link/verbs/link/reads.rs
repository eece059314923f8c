//! One-sided reads: RDMA READs on the queue pair of the bulk lane, where their data delays nobody's
//! grant.
//!
//! Their completions come in the order in which they were queued, so that a list of tokens tells
//! whose each is. What is still under way when the link ends goes with it: whoever asked asks again.

use super::{Todo, VerbsLink};
use crate::{
    Frame,
    link::verbs::{Refused, RemoteMemory},
};
use pagewire_protocol::LaneClass;
use std::collections::VecDeque;

/// A read that is done.
#[derive(Debug)]
pub struct DoneRead {
    /// The asker's number for it.
    pub token: u64,
    /// The frame with what was read; `None`: it failed, with its queue pair.
    pub frame: Option<Frame>,
}

/// Reads under way, and those that are done and not yet taken.
#[derive(Debug, Default)]
pub(super) struct Reads {
    tokens: VecDeque<u64>,
    done: VecDeque<DoneRead>,
}

impl Reads {
    /// The oldest of them has ended.
    pub(super) fn ended(&mut self, frame: Frame, is_good: bool) {
        let Some(token) = self.tokens.pop_front() else { return };
        self.done.push_back(DoneRead { token, frame: is_good.then_some(frame) });
    }
}

impl VerbsLink {
    /// Begins a read of as many bytes as a frame has. It leaves with the next flush.
    ///
    /// # Errors
    /// Hands the frame back when the queue is full: try again after a poll.
    pub fn read(&mut self, token: u64, frame: Frame, from: RemoteMemory) -> Result<(), Frame> {
        let class = LaneClass::Bulk.index();
        let queued = self.queue_pairs[class].queue_read(frame, from);
        queued.map_err(|Refused { frame, .. }| frame)?;
        self.todo.add(Todo::sends(class));
        self.counters.sends.add(1);
        self.reads.tokens.push_back(token);
        Ok(())
    }

    /// The next read that is done.
    pub fn take_read(&mut self) -> Option<DoneRead> {
        self.reads.done.pop_front()
    }
}
