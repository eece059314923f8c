//! The sends and reads of a queue pair: a ring, since they complete in the order in which they were
//! posted.
//!
//! ```text
//!     tail              chain            head
//!   ---+-----------------+----------------+---
//!      | posted, not yet | queued         | free, up to `depth` beyond the tail
//!      | known as done   |                |
//!   ---+-----------------+----------------+---
//! ```
//! Invariants: what a request sends or reads into is kept here from `queue` until a completion of it
//! or of a later one. At least every half ring one request asks for a completion, so that the ring
//! never stands full without one to come.
//!
//! Knows nothing of the library: posting is the queue pair's.

use super::{
    abi,
    completion::{Owner, Work, work_id},
    pinned::Pinned,
};
use crate::{Frame, SharedFrame};
use std::{mem::offset_of, ptr};

/// What a request keeps from being freed or changed.
#[derive(Debug)]
pub(super) enum Held {
    Nothing,
    /// A page that is being sent.
    Sent(#[allow(dead_code, reason = "kept only to be dropped")] SharedFrame),
    /// A frame that is being read into.
    Read(Frame),
}

/// What a request does.
pub(super) enum Request {
    /// Sends the first `message_bytes` of its slot, and a page.
    Send { message_bytes: u32, page: Option<abi::ibv_sge>, inline: bool, signalled: bool },
    /// Reads into a frame; always asks for a completion.
    Read { into: abi::ibv_sge, remote_address: u64, remote_key: u32 },
}

/// A request and what it points at, beside each other.
#[repr(C)] // The address of the request is that of its place.
#[derive(Clone, Copy)]
struct Place {
    request: abi::ibv_send_wr,
    /// Its slot, and its page.
    segments: [abi::ibv_sge; 2],
}

/// See the module.
pub(super) struct SendQueue {
    /// The ring, and behind it the marker that ends a drain.
    places: Pinned<Place>,
    held: Box<[Held]>,
    depth: u32,
    /// Counts of requests since the start; they wrap.
    head: u32,
    chain: u32,
    tail: u32,
    /// Bits of a count that are all set for the requests that ask for a completion: the last of each
    /// half of the ring.
    signal_mask: u32,
}

impl SendQueue {
    /// `slot_of` gives address, length and key of a slot; `depth` is at least 1.
    pub(super) fn new(owner: Owner, depth: u32, slot_of: impl Fn(u32) -> abi::ibv_sge) -> Self {
        // A power of two, so that a count that wraps stays in step with the ring.
        let depth = depth.next_power_of_two();
        let len = depth as usize;
        let nothing = abi::ibv_sge { addr: 0, length: 0, lkey: 0 };
        let request = abi::ibv_send_wr {
            wr_id: work_id(owner, Work::Drain),
            next: ptr::null_mut(),
            sg_list: ptr::null_mut(),
            num_sge: 0,
            opcode: abi::IBV_WR_SEND,
            send_flags: abi::IBV_SEND_SIGNALED,
            imm_data: 0,
            rdma: abi::ibv_send_wr_rdma { remote_addr: 0, rkey: 0 },
            _wr_rest: [0; 2],
            remote_srqn: 0,
            _bind_mw: [0; 6],
        };
        let mut places = Pinned::new(len + 1, Place { request, segments: [nothing; 2] });
        for slot in 0..depth {
            let index = slot as usize;
            places.update(index, |place| {
                place.request.wr_id = work_id(owner, Work::Send { slot });
                place.segments[0] = slot_of(slot);
            });
        }
        Self {
            places,
            held: (0..len).map(|_| Held::Nothing).collect(),
            depth,
            head: 0,
            chain: 0,
            tail: 0,
            signal_mask: (depth / 2).max(1) - 1,
        }
    }

    /// Requests that the ring has room for.
    pub(super) fn depth_of(asked: u32) -> u32 {
        asked.next_power_of_two()
    }

    /// Requests that the device has, as far as is known.
    pub(super) fn outstanding(&self) -> u32 {
        self.chain.wrapping_sub(self.tail)
    }

    /// The slot of the next request; `None`: the ring is full.
    #[inline]
    pub(super) fn next_slot(&self) -> Option<u32> {
        (self.head.wrapping_sub(self.tail) < self.depth).then(|| self.slot(self.head))
    }

    #[inline]
    fn slot(&self, count: u32) -> u32 {
        count & (self.depth - 1)
    }

    /// Whether the next request is one of those that ask for a completion.
    #[inline]
    fn is_signal_due(&self) -> bool {
        self.head & self.signal_mask == self.signal_mask
    }

    /// Appends a send of a message alone, in the slot that [`SendQueue::next_slot`] gave: what
    /// [`SendQueue::queue`] does, without what only pages and reads need.
    #[inline(always)] // Of each message.
    pub(super) fn queue_message(&mut self, slot: u32, message_bytes: u32, inline: bool) {
        let index = slot as usize;
        debug_assert_eq!(slot, self.slot(self.head), "not the next slot");
        debug_assert!(matches!(self.held[index], Held::Nothing), "its last request is not taken");
        let signalled = self.is_signal_due();
        let sg_list = self.segment(index, 0);
        let Place { request, segments: [message, _] } = self.places.get_mut(index);
        message.length = message_bytes;
        request.next = ptr::null_mut();
        request.sg_list = sg_list;
        request.num_sge = i32::from(message_bytes > 0);
        request.send_flags = u32::from(inline) * abi::IBV_SEND_INLINE
            + u32::from(signalled) * abi::IBV_SEND_SIGNALED;
        request.opcode = abi::IBV_WR_SEND;
        self.append(index);
    }

    /// Appends a request in the slot that [`SendQueue::next_slot`] gave.
    pub(super) fn queue(&mut self, request: &Request, held: Held) {
        let index = self.slot(self.head) as usize;
        let mut flags = 0;
        let due = self.is_signal_due();
        let (count, signalled) = match *request {
            Request::Send { message_bytes, page, inline, signalled } => {
                if inline {
                    flags |= abi::IBV_SEND_INLINE;
                }
                self.places.update(index, |place| {
                    place.segments[0].length = message_bytes;
                    if let Some(page) = page {
                        place.segments[1] = page;
                    }
                });
                (i32::from(message_bytes > 0) + i32::from(page.is_some()), signalled || due)
            }
            Request::Read { into, .. } => {
                self.places.update(index, |place| place.segments[1] = into);
                (1, true)
            }
        };
        if signalled {
            flags |= abi::IBV_SEND_SIGNALED;
        }
        let is_read = matches!(request, Request::Read { .. });
        let sg_list = self.segment(index, usize::from(is_read));
        self.places.update(index, |Place { request: to, .. }| {
            to.next = ptr::null_mut();
            to.sg_list = sg_list;
            to.num_sge = count;
            to.send_flags = flags;
            to.opcode = abi::IBV_WR_SEND;
            if let Request::Read { remote_address, remote_key, .. } = *request {
                to.opcode = abi::IBV_WR_RDMA_READ;
                to.rdma = abi::ibv_send_wr_rdma { remote_addr: remote_address, rkey: remote_key };
            }
        });
        self.held[index] = held;
        self.append(index);
    }

    /// The address of a request.
    #[inline(always)] // Of each message.
    fn request(&self, index: usize) -> *mut abi::ibv_send_wr {
        self.places.at(index).cast()
    }

    /// The address of a segment of a request.
    #[inline(always)] // As above.
    fn segment(&self, index: usize, which: usize) -> *mut abi::ibv_sge {
        let segments = self.places.at(index).wrapping_byte_add(offset_of!(Place, segments));
        segments.cast::<abi::ibv_sge>().wrapping_add(which)
    }

    /// Puts the request at the end of the chain.
    #[inline(always)] // As above.
    fn append(&mut self, index: usize) {
        if self.head != self.chain {
            let next = self.request(index);
            let last = self.slot(self.head.wrapping_sub(1)) as usize;
            self.places.update(last, |place| place.request.next = next);
        }
        self.head = self.head.wrapping_add(1);
    }

    /// The chain to post, if there is one.
    #[inline]
    pub(super) fn chain(&self) -> Option<*mut abi::ibv_send_wr> {
        (self.head != self.chain).then(|| self.request(self.slot(self.chain) as usize))
    }

    /// The chain was given to the device; `refused`: from this request on it was not taken, and what
    /// those held is let go.
    #[inline]
    pub(super) fn chain_posted(&mut self, refused: Option<*const abi::ibv_send_wr>) {
        if let Some(refused) = refused {
            self.let_go_from(refused);
        }
        self.chain = self.head;
    }

    #[cold]
    fn let_go_from(&mut self, refused: *const abi::ibv_send_wr) {
        let Some(refused) = self.places.index_of(refused.cast()) else { return };
        while self.head != self.chain {
            let last = self.head.wrapping_sub(1);
            let index = self.slot(last) as usize;
            self.head = last;
            self.held[index] = Held::Nothing;
            if index == refused {
                break;
            }
        }
    }

    /// The marker that ends a drain: an empty send, whose completion is the last.
    pub(super) fn marker(&self) -> *mut abi::ibv_send_wr {
        self.request(self.depth as usize)
    }

    /// Requests up to the one in `slot` are done: lets go what they held, and says how many they
    /// were and into which frame was read. `None`: the device does not have that one.
    pub(super) fn take(&mut self, slot: u32) -> Option<(u32, Option<Frame>)> {
        if slot >= self.depth {
            return None;
        }
        let ahead = self.slot(slot.wrapping_sub(self.tail));
        if ahead >= self.outstanding() {
            return None;
        }
        Some(self.take_first(ahead + 1))
    }

    /// All requests are done.
    pub(super) fn take_all(&mut self) -> u32 {
        self.take_first(self.outstanding()).0
    }

    fn take_first(&mut self, count: u32) -> (u32, Option<Frame>) {
        let mut read = None;
        for _ in 0..count {
            let index = self.slot(self.tail) as usize;
            // Reads are signalled, so that only the last of these can be one.
            if let Held::Read(frame) = std::mem::replace(&mut self.held[index], Held::Nothing) {
                read = Some(frame);
            }
            self.tail = self.tail.wrapping_add(1);
        }
        (count, read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, ArenaConfig};

    const OWNER: Owner = Owner { tag: 1, serial: 2 };

    fn queue(depth: u32) -> SendQueue {
        SendQueue::new(OWNER, depth, |slot| abi::ibv_sge {
            addr: slot.into(),
            length: 128,
            lkey: 7,
        })
    }

    fn send(message_bytes: u32, signalled: bool) -> Request {
        Request::Send { message_bytes, page: None, inline: false, signalled }
    }

    fn chain(queue: &SendQueue) -> Vec<u64> {
        let mut slots = Vec::new();
        let mut next = queue.chain().and_then(|first| queue.places.index_of(first.cast()));
        while let Some(index) = next {
            let request = queue.places.get(index).request;
            slots.push(request.wr_id & 0xFFFF);
            next = queue.places.index_of(request.next.cast());
        }
        slots
    }

    /// Which segment a request points at, and what that says.
    fn segment_of(queue: &SendQueue, index: usize) -> (usize, (u64, u32, u32)) {
        let place = queue.places.get(index);
        let points_at = |which: &usize| place.request.sg_list == queue.segment(index, *which);
        let which = (0..2).find(points_at).unwrap();
        let segment = place.segments[which];
        (which, (segment.addr, segment.length, segment.lkey))
    }

    #[test]
    fn a_completion_lets_go_everything_up_to_its_request() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) }).unwrap();
        let mut queue = queue(4);
        let page = abi::ibv_sge { addr: 5, length: 8192, lkey: 9 };
        for _ in 0..3 {
            let held = Held::Sent(arena.take().unwrap().freeze());
            let request = Request::Send {
                message_bytes: 128,
                page: Some(page),
                inline: false,
                signalled: false,
            };
            queue.queue(&request, held);
        }
        assert_eq!(chain(&queue), [0, 1, 2]);
        assert_eq!(queue.places.get(0).request.num_sge, 2);
        assert_eq!(queue.places.get(0).segments[1].addr, 5);
        assert!(queue.take(0).is_none(), "it is not yet posted");
        queue.chain_posted(None);
        assert_eq!((queue.outstanding(), arena.free_frames()), (3, 1));
        assert_eq!(queue.take(1).unwrap().0, 2);
        assert_eq!((queue.outstanding(), arena.free_frames()), (1, 3));
        assert!(queue.take(1).is_none() && queue.take(3).is_none() && queue.take(4).is_none());
        assert_eq!(queue.take_all(), 1);
        assert_eq!(arena.free_frames(), 4);
    }

    #[test]
    fn the_ring_goes_around_and_is_never_full_without_a_completion_to_come() {
        let mut queue = queue(3);
        assert_eq!(queue.depth, 4);
        // Near the end of the counters, which wrap.
        (queue.head, queue.chain, queue.tail) = (u32::MAX - 3, u32::MAX - 3, u32::MAX - 3);
        for round in 0..5 {
            let mut signalled = 0;
            let mut last = 0;
            while let Some(slot) = queue.next_slot() {
                queue.queue(&send(64, false), Held::Nothing);
                let flags = queue.places.get(slot as usize).request.send_flags;
                signalled += flags / abi::IBV_SEND_SIGNALED;
                last = slot;
            }
            assert_eq!(chain(&queue).len(), 4, "round {round}");
            queue.chain_posted(None);
            assert_eq!(signalled, 2);
            assert_eq!(queue.take(last).unwrap().0, 4);
        }
    }

    #[test]
    fn what_the_driver_refuses_is_let_go_and_what_it_took_is_kept() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) }).unwrap();
        let mut queue = queue(4);
        for _ in 0..3 {
            queue.queue(&send(64, true), Held::Sent(arena.take().unwrap().freeze()));
        }
        queue.chain_posted(Some(queue.request(1).cast_const()));
        assert_eq!((queue.outstanding(), arena.free_frames()), (1, 3));
        assert_eq!(queue.chain(), None);
        assert_eq!(queue.take(0).unwrap().0, 1);
    }

    #[test]
    fn a_read_gives_its_frame_back_and_a_send_after_it_is_whole() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(1) }).unwrap();
        let mut queue = queue(1);
        let into = abi::ibv_sge { addr: 1, length: 8192, lkey: 9 };
        let read = Request::Read { into, remote_address: 77, remote_key: 8 };
        queue.queue(&read, Held::Read(arena.take().unwrap()));
        let request = queue.places.get(0).request;
        assert_eq!((request.opcode, request.num_sge), (abi::IBV_WR_RDMA_READ, 1));
        assert_eq!((request.rdma.remote_addr, request.rdma.rkey), (77, 8));
        assert_eq!(segment_of(&queue, 0), (1, (1, 8192, 9)));
        queue.chain_posted(None);
        assert!(queue.take(0).unwrap().1.is_some());
        queue.queue(&send(48, true), Held::Nothing);
        let request = queue.places.get(0).request;
        assert_eq!((request.opcode, request.num_sge), (abi::IBV_WR_SEND, 1));
        assert_eq!(segment_of(&queue, 0), (0, (0, 48, 7)));
    }

    #[test]
    fn no_round_of_queue_post_and_take_allocates() {
        let arena = Arena::new(&ArenaConfig { huge_pages: false, ..ArenaConfig::new(4) }).unwrap();
        let mut queue = queue(4);
        let counted = allocation_counter::measure(|| {
            for _ in 0..100 {
                while queue.next_slot().is_some() {
                    let held = arena.take().map_or(Held::Nothing, |f| Held::Sent(f.freeze()));
                    queue.queue(&send(64, false), held);
                }
                queue.chain_posted(None);
                assert!(queue.take(3).is_some());
            }
        });
        assert_eq!(counted.count_total, 0);
    }

    #[test]
    fn a_message_alone_is_queued_as_any_other_send() {
        let (mut short, mut long) = (queue(8), queue(8));
        // A read leaves its traces in the slot that both use next but one.
        for queue in [&mut short, &mut long] {
            let into = abi::ibv_sge { addr: 5, length: 8192, lkey: 3 };
            let read = Request::Read { into, remote_address: 9, remote_key: 4 };
            for _ in 0..8 {
                queue.queue(&read, Held::Nothing);
            }
            queue.chain_posted(None);
            assert!(queue.take(7).is_some());
        }
        for message_bytes in [48, 0, 112, 128, 60, 61, 62, 63] {
            let inline = message_bytes <= 112;
            let slot = short.next_slot().unwrap();
            short.queue_message(slot, message_bytes, inline);
            long.queue(
                &Request::Send { message_bytes, page: None, inline, signalled: false },
                Held::Nothing,
            );
        }
        assert_eq!(chain(&short), chain(&long));
        assert_eq!(chain(&short).len(), 8);
        for index in 0..8 {
            let (a, b) = (short.places.get(index).request, long.places.get(index).request);
            assert_eq!((a.wr_id, a.num_sge, a.opcode), (b.wr_id, b.num_sge, b.opcode));
            assert_eq!(a.send_flags, b.send_flags, "request {index}");
            assert_eq!(segment_of(&short, index), segment_of(&long, index), "request {index}");
        }
    }
}
