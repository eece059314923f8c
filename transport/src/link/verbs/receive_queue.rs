//! The receives of a queue pair: a ring of slots, each with a frame where messages carry one, since a
//! reliable connection uses its receives up in the order in which they were posted.
//!
//! ```text
//!     tail              chain            head
//!   ---+-----------------+----------------+---
//!      | posted: the     | queued         | free, up to the tail
//!      | device's        |                |
//!   ---+-----------------+----------------+---
//! ```
//! Invariants: the device may write to a slot and its frame exactly while it is posted; the frame is
//! kept here from `queue` to `take`. Each request points at the one behind it, the last at the first:
//! a chain is cut out of this circle while it is lent, and joined to it again. So a message's receive
//! is queued by counting.
//!
//! Knows nothing of the library: posting is the queue pair's.

use super::{
    abi,
    completion::{Owner, Work, work_id},
    pinned::Pinned,
};
use crate::Frame;
use std::ptr;

/// See the module.
pub(super) struct ReceiveQueue {
    requests: Pinned<abi::ibv_recv_wr>,
    /// Two for each request: its slot, and its frame.
    segments: Pinned<abi::ibv_sge>,
    frames: Box<[Option<Frame>]>,
    /// Requests in all.
    len: u32,
    /// The one that is queued next.
    head: u32,
    /// The oldest that is queued.
    chain: u32,
    /// The oldest that is posted.
    tail: u32,
    queued: u32,
    posted: u32,
    /// Id of the first request; the others' follow.
    first_id: u64,
}

impl ReceiveQueue {
    /// `slot_of` gives address, length and key of a slot; `count` is at least 1.
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
            let next = requests.at((index + 1) % len);
            requests.update(index, |request| {
                request.wr_id = work_id(owner, Work::Receive { slot });
                request.next = next;
                request.sg_list = sg_list;
            });
        }
        Self {
            requests,
            segments,
            frames: (0..len).map(|_| None).collect(),
            len: count,
            head: 0,
            chain: 0,
            tail: 0,
            queued: 0,
            posted: 0,
            first_id: work_id(owner, Work::Receive { slot: 0 }),
        }
    }

    /// Receives that may be queued now.
    #[inline]
    pub(super) fn room(&self) -> u32 {
        self.len - self.queued - self.posted
    }

    /// Receives that the device has.
    pub(super) fn posted(&self) -> u32 {
        self.posted
    }

    /// The place that is `count` behind `from`, at most once around.
    #[inline]
    fn behind(&self, from: u32, count: u32) -> u32 {
        let at = from + count;
        if at >= self.len { at - self.len } else { at }
    }

    /// Appends `count` receives without frames to the chain, of a queue pair none of whose receives has
    /// one. Returns how many there was room for.
    #[inline]
    pub(super) fn queue_messages(&mut self, count: u32) -> u32 {
        let queued = count.min(self.room());
        self.head = self.behind(self.head, queued);
        self.queued += queued;
        queued
    }

    /// Appends a receive to the chain. The caller has seen that there is room, and `segment` is of
    /// `frame`.
    pub(super) fn queue(&mut self, frame: Option<(Frame, abi::ibv_sge)>) {
        if self.room() == 0 {
            debug_assert!(false, "there is no free receive");
            return;
        }
        let index = self.head as usize;
        let segments = 1 + i32::from(frame.is_some());
        self.requests.update(index, |request| request.num_sge = segments);
        if let Some((frame, segment)) = frame {
            self.segments.update(2 * index + 1, |place| *place = segment);
            self.frames[index] = Some(frame);
        }
        self.queue_messages(1);
    }

    /// The last of the chain.
    fn last(&self) -> usize {
        self.behind(self.head, self.len - 1) as usize
    }

    /// The chain to post, if there is one: cut out until [`ReceiveQueue::chain_posted`].
    pub(super) fn chain(&mut self) -> Option<*mut abi::ibv_recv_wr> {
        if self.queued == 0 {
            return None;
        }
        self.requests.update(self.last(), |request| request.next = ptr::null_mut());
        Some(self.requests.at(self.chain as usize))
    }

    /// The chain was given to the device; `refused`: from this request on it was not taken, and the
    /// frames of those go back to the arena.
    pub(super) fn chain_posted(&mut self, refused: Option<*const abi::ibv_recv_wr>) {
        let joined = self.requests.at(self.head as usize);
        self.requests.update(self.last(), |request| request.next = joined);
        if let Some(refused) = refused {
            self.let_go_from(refused);
        }
        self.posted += self.queued;
        self.queued = 0;
        self.chain = self.head;
    }

    #[cold]
    fn let_go_from(&mut self, refused: *const abi::ibv_recv_wr) {
        let Some(refused) = self.requests.index_of(refused) else { return };
        while self.queued > 0 {
            let last = self.last();
            self.frames[last] = None;
            self.head = self.behind(self.head, self.len - 1);
            self.queued -= 1;
            if last == refused {
                break;
            }
        }
    }

    #[inline]
    fn take_oldest(&mut self) -> u32 {
        let slot = self.tail;
        self.tail = self.behind(slot, 1);
        self.posted -= 1;
        slot
    }

    /// Takes back the receive with this id that the device is done with, of a queue pair none of whose
    /// receives has a frame. `None`: it is not the oldest that the device has.
    #[inline]
    pub(super) fn take_message(&mut self, id: u64) -> Option<u32> {
        let is_oldest = self.posted > 0 && id == self.first_id + u64::from(self.tail);
        is_oldest.then(|| self.take_oldest())
    }

    /// Takes back a receive that the device is done with; `None`: it is not the oldest that it has.
    pub(super) fn take(&mut self, slot: u32) -> Option<Option<Frame>> {
        if self.posted == 0 || slot != self.tail {
            return None;
        }
        let slot = self.take_oldest();
        Some(self.frames.get_mut(slot as usize).and_then(Option::take))
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

    /// Slots of the chain that is to be posted, in order, as C follows it.
    fn chain(queue: &mut ReceiveQueue) -> Vec<u64> {
        let mut slots = Vec::new();
        let mut next = queue.chain().and_then(|first| queue.requests.index_of(first));
        while let Some(index) = next {
            let request = queue.requests.get(index);
            slots.push(request.wr_id & 0xFFFF);
            assert!(slots.len() <= queue.len as usize, "a chain without an end");
            next = queue.requests.index_of(request.next);
        }
        slots
    }

    fn id(slot: u32) -> u64 {
        work_id(OWNER, Work::Receive { slot })
    }

    #[test]
    fn a_batch_is_one_chain_that_ends_and_a_slot_is_used_again() {
        let mut queue = queue(3);
        queue.queue(None);
        queue.queue(None);
        assert_eq!(chain(&mut queue), [0, 1]);
        queue.chain_posted(None);
        assert_eq!((queue.posted(), queue.chain()), (2, None));
        assert!(queue.take(0).is_some());
        assert!(queue.take(0).is_none(), "it is not posted twice");
        assert!(queue.take(2).is_none() && queue.take(9).is_none());
        queue.queue(None);
        queue.queue(None);
        assert_eq!(queue.room(), 0);
        assert_eq!(chain(&mut queue), [2, 0], "around the end of the ring");
        queue.chain_posted(None);
        assert!((1..=3).all(|slot| queue.take(slot % 3).is_some()));
        assert_eq!((queue.posted(), queue.room()), (0, 3));
    }

    #[test]
    fn a_chain_goes_on_where_an_earlier_one_has_ended() {
        let mut queue = queue(3);
        for (count, slots) in [(2, &[0, 1][..]), (1, &[2]), (3, &[0, 1, 2])] {
            assert_eq!(queue.queue_messages(count), count);
            assert_eq!(chain(&mut queue), slots);
            queue.chain_posted(None);
            assert!(slots.iter().all(|slot| queue.take_message(queue.first_id + slot).is_some()));
        }
    }

    #[test]
    fn a_frame_is_kept_while_it_is_posted_and_returned_once() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(3) }).unwrap();
        let mut queue = queue(3);
        let segment = abi::ibv_sge { addr: 1, length: 8192, lkey: 7 };
        for _ in 0..3 {
            queue.queue(Some((arena.take().unwrap(), segment)));
        }
        let second = queue.requests.at(1).cast_const();
        assert_eq!(chain(&mut queue), [0, 1, 2]);
        queue.chain_posted(Some(second));
        assert_eq!((queue.posted(), queue.room()), (1, 2));
        assert_eq!(arena.free_frames(), 2, "what was refused goes back");
        let request = queue.requests.get(0);
        assert_eq!(request.num_sge, 2);
        assert_eq!(queue.segments.index_of(request.sg_list), Some(0));
        queue.queue(None);
        assert_eq!(chain(&mut queue), [1], "a slot that was refused is used again");
        queue.chain_posted(None);
        let frame = queue.take(0).unwrap();
        assert!(frame.is_some());
        drop(frame);
        assert_eq!(arena.free_frames(), 3);
        assert!(queue.take(1).unwrap().is_none());
        assert!(queue.take(2).is_none());
    }

    #[test]
    fn no_round_of_queue_post_and_take_allocates() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) }).unwrap();
        let mut queue = queue(4);
        let segment = abi::ibv_sge { addr: 1, length: 8192, lkey: 7 };
        let counted = allocation_counter::measure(|| {
            for _ in 0..100 {
                while queue.room() > 0 {
                    queue.queue(arena.take().map(|frame| (frame, segment)));
                }
                assert!(queue.chain().is_some());
                queue.chain_posted(None);
                for slot in 0..4 {
                    assert!(queue.take(slot).is_some());
                }
            }
        });
        assert_eq!(counted.count_total, 0);
    }

    #[test]
    fn receives_without_frames_come_and_go_as_the_others_do() {
        let mut queue = queue(3);
        assert_eq!(queue.queue_messages(2), 2);
        assert_eq!(chain(&mut queue), [0, 1]);
        assert_eq!(queue.take_message(id(0)), None, "it is not yet posted");
        queue.chain_posted(None);
        let foreign = work_id(Owner { serial: 3, ..OWNER }, Work::Receive { slot: 0 });
        assert_eq!(queue.take_message(foreign), None, "of another queue pair");
        assert_eq!(queue.take_message(work_id(OWNER, Work::Send { slot: 0 })), None);
        assert_eq!(queue.take_message(id(1)), None, "an older one is posted");
        assert_eq!(queue.take_message(id(0)), Some(0));
        assert_eq!(queue.take_message(id(0)), None, "it is not posted twice");
        assert_eq!(queue.queue_messages(5), 2, "there is room for two");
        assert_eq!(chain(&mut queue), [2, 0], "around the end of the ring");
        queue.chain_posted(None);
        assert_eq!((queue.posted(), queue.room()), (3, 0));
        assert!([1, 2, 0].into_iter().all(|slot| queue.take_message(id(slot)) == Some(slot)));
        assert_eq!(queue.take_message(id(1)), None, "nothing is posted");
    }
}
