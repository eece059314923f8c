//! The receives of a queue pair: slots, each with a frame where messages carry one, and the chain of
//! those that are queued.
//!
//! ```text
//!   free --queue--> queued (in the chain) --post--> posted (the device's) --take--> free
//! ```
//! Invariants: the device may write to a slot and its frame exactly while it is posted; the frame is
//! kept here from `queue` to `take`. The chain links the queued slots in the order in which they were
//! queued; its last element points nowhere.
//!
//! Knows nothing of the library: posting is the queue pair's.

use super::{
    abi,
    completion::{Owner, Work, work_id},
    pinned::Pinned,
};
use crate::Frame;
use std::ptr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Queued,
    Posted,
}

#[derive(Debug)]
struct Place {
    state: State,
    frame: Option<Frame>,
}

/// See the module.
pub(super) struct ReceiveQueue {
    requests: Pinned<abi::ibv_recv_wr>,
    /// Two for each request: its slot, and its frame.
    segments: Pinned<abi::ibv_sge>,
    places: Box<[Place]>,
    free: Vec<u32>,
    /// First and last of the chain.
    chain: Option<(u32, u32)>,
    posted: u32,
}

impl ReceiveQueue {
    /// `slot_of` gives address, length and key of a slot.
    pub(super) fn new(owner: Owner, count: u32, slot_of: impl Fn(u32) -> abi::ibv_sge) -> Self {
        let len = count as usize;
        let nothing = abi::ibv_sge { addr: 0, length: 0, lkey: 0 };
        let request = abi::ibv_recv_wr {
            wr_id: 0,
            next: ptr::null_mut(),
            sg_list: ptr::null_mut(),
            num_sge: 1,
        };
        let mut requests = Pinned::new(len, request);
        let mut segments = Pinned::new(2 * len, nothing);
        for slot in 0..count {
            let index = slot as usize;
            segments.update(2 * index, |segment| *segment = slot_of(slot));
            let sg_list = segments.at(2 * index);
            requests.update(index, |request| {
                request.wr_id = work_id(owner, Work::Receive { slot });
                request.sg_list = sg_list;
            });
        }
        Self {
            requests,
            segments,
            places: (0..len).map(|_| Place { state: State::Free, frame: None }).collect(),
            free: (0..count).rev().collect(),
            chain: None,
            posted: 0,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Receives that the device has.
    pub(super) fn posted(&self) -> u32 {
        self.posted
    }

    /// Appends a receive without a frame to the chain, if there is room; false: there is none. Of a
    /// queue pair none of whose receives has one.
    #[inline]
    pub(super) fn queue_message(&mut self) -> bool {
        let Some(slot) = self.free.pop() else { return false };
        let index = slot as usize;
        self.requests.update(index, |request| request.next = ptr::null_mut());
        debug_assert!(self.places[index].frame.is_none());
        self.places[index].state = State::Queued;
        self.append(slot);
        true
    }

    /// Appends a receive to the chain. The caller has seen that there is room, and `segment` is of
    /// `frame`.
    pub(super) fn queue(&mut self, frame: Option<(Frame, abi::ibv_sge)>) {
        let Some(slot) = self.free.pop() else {
            debug_assert!(false, "there is no free receive");
            return;
        };
        let index = slot as usize;
        let (frame, segments) = match frame {
            Some((frame, segment)) => {
                self.segments.update(2 * index + 1, |place| *place = segment);
                (Some(frame), 2)
            }
            None => (None, 1),
        };
        self.requests.update(index, |request| {
            request.num_sge = segments;
            request.next = ptr::null_mut();
        });
        self.places[index] = Place { state: State::Queued, frame };
        self.append(slot);
    }

    #[inline]
    fn append(&mut self, slot: u32) {
        let first = match self.chain {
            None => slot,
            Some((first, last)) => {
                let next = self.requests.at(slot as usize);
                self.requests.update(last as usize, |request| request.next = next);
                first
            }
        };
        self.chain = Some((first, slot));
    }

    /// The chain to post, if there is one.
    pub(super) fn chain(&self) -> Option<*mut abi::ibv_recv_wr> {
        self.chain.map(|(first, _)| self.requests.at(first as usize))
    }

    /// The chain was given to the device; `refused`: from this request on it was not taken, and the
    /// frames of those go back to the arena.
    pub(super) fn chain_posted(&mut self, refused: Option<*const abi::ibv_recv_wr>) {
        let refused = refused.and_then(|request| self.requests.index_of(request));
        let mut is_refused = false;
        let mut next = self.chain.take().map(|(first, _)| first as usize);
        while let Some(index) = next {
            is_refused |= refused == Some(index);
            if is_refused {
                self.release(index);
            } else {
                self.places[index].state = State::Posted;
                self.posted += 1;
            }
            next = self.requests.index_of(self.requests.get(index).next);
        }
    }

    #[inline]
    fn release(&mut self, index: usize) -> Option<Frame> {
        self.places[index].state = State::Free;
        // No slot is released twice, so that there is room in the list.
        self.free.extend(u32::try_from(index));
        self.places[index].frame.take()
    }

    /// Takes back a receive that the device is done with; `None`: it does not have that one.
    #[inline]
    pub(super) fn take(&mut self, slot: u32) -> Option<Option<Frame>> {
        let index = slot as usize;
        if self.places.get(index)?.state != State::Posted {
            return None;
        }
        self.posted -= 1;
        Some(self.release(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, ArenaConfig};

    const OWNER: Owner = Owner { tag: 1, serial: 2 };

    fn queue(count: u32) -> ReceiveQueue {
        ReceiveQueue::new(OWNER, count, |slot| abi::ibv_sge {
            addr: slot.into(),
            length: 128,
            lkey: 7,
        })
    }

    /// Slots of the chain, in order, as C follows it.
    fn chain(queue: &ReceiveQueue) -> Vec<u64> {
        let mut slots = Vec::new();
        let mut next = queue.chain().and_then(|first| queue.requests.index_of(first));
        while let Some(index) = next {
            let request = queue.requests.get(index);
            slots.push(request.wr_id & 0xFFFF);
            next = queue.requests.index_of(request.next);
        }
        slots
    }

    #[test]
    fn a_batch_is_one_chain_that_ends_and_a_slot_is_used_again() {
        let mut queue = queue(3);
        queue.queue(None);
        queue.queue(None);
        assert_eq!(chain(&queue), [0, 1]);
        queue.chain_posted(None);
        assert_eq!((queue.posted(), queue.chain()), (2, None));
        assert!(queue.take(0).is_some());
        assert!(queue.take(0).is_none(), "it is not posted twice");
        assert!(queue.take(2).is_none() && queue.take(9).is_none());
        queue.queue(None);
        queue.queue(None);
        assert!(!queue.has_room());
        assert_eq!(chain(&queue), [0, 2], "the old link of slot 0 is gone");
    }

    #[test]
    fn a_frame_is_kept_while_it_is_posted_and_returned_once() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(2) }).unwrap();
        let mut queue = queue(2);
        let segment = abi::ibv_sge { addr: 1, length: 8192, lkey: 7 };
        for _ in 0..2 {
            queue.queue(Some((arena.take().unwrap(), segment)));
        }
        let second = queue.requests.at(1).cast_const();
        queue.chain_posted(Some(second));
        assert_eq!(queue.posted(), 1);
        assert_eq!(arena.free_frames(), 1, "what was refused goes back");
        let request = queue.requests.get(0);
        assert_eq!(request.num_sge, 2);
        assert_eq!(queue.segments.index_of(request.sg_list), Some(0));
        let frame = queue.take(0).unwrap();
        assert!(frame.is_some());
        drop(frame);
        assert_eq!(arena.free_frames(), 2);
        assert!(queue.take(1).is_none());
    }

    #[test]
    fn no_round_of_queue_post_and_take_allocates() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) }).unwrap();
        let mut queue = queue(4);
        let segment = abi::ibv_sge { addr: 1, length: 8192, lkey: 7 };
        let counted = allocation_counter::measure(|| {
            for _ in 0..100 {
                while queue.has_room() {
                    queue.queue(arena.take().map(|frame| (frame, segment)));
                }
                queue.chain_posted(None);
                for slot in [3, 0, 2, 1] {
                    assert!(queue.take(slot).is_some());
                }
            }
        });
        assert_eq!(counted.count_total, 0);
    }

    #[test]
    fn receives_without_frames_come_and_go_as_the_others_do() {
        let mut queue = queue(3);
        assert!(queue.queue_message() && queue.queue_message());
        assert_eq!(chain(&queue), [0, 1]);
        queue.chain_posted(None);
        assert!(queue.take(0).is_some_and(|frame| frame.is_none()));
        assert!(queue.take(0).is_none(), "it is not posted twice");
        assert!(queue.queue_message() && queue.queue_message());
        assert!(!queue.queue_message(), "there is no room");
        assert_eq!(chain(&queue), [0, 2], "the old link of slot 0 is gone");
        queue.chain_posted(None);
        assert_eq!(queue.posted(), 3);
    }
}
